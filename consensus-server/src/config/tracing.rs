//! Where traces go: the same four keys for both kinds of configuration.
//!
//! Without an endpoint there are none. What is wrong is said by key and in words; where it stands in a file is the
//! caller's to add. The file of authorities is read where spans are sent, not here.

use std::path::{Path, PathBuf};

use tonic::transport::Uri;

/// Name of the service in traces unless the configuration says otherwise.
const SERVICE_NAME: &str = "consensus";
/// Share of submissions that are traced unless the configuration says otherwise.
const RATIO: f64 = 0.01;
const MUST_BE_URL: &str = "must be a URL like \"http://collector:4317\" or \"https://collector:4317\"";
/// Longest name of the service.
const SERVICE_NAME_CHARACTERS_MAX: usize = 64;

/// Traces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracing {
    /// The collector, `http://host:port` or `https://host:port`, for OTLP over gRPC.
    pub endpoint: String,
    /// The authorities one of which must vouch for it, PEM; there if and only if it is reached over TLS.
    pub ca: Option<PathBuf>,
    /// Share of what begins here that is traced, in millionths; what a caller has decided goes before.
    pub ratio_ppm: u32,
    /// What the service is called in traces.
    pub service_name: String,
}

/// One of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Endpoint,
    Ca,
    Ratio,
    ServiceName,
}

impl Key {
    /// Its name in the section.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Ca => "ca",
            Self::Ratio => "ratio",
            Self::ServiceName => "service_name",
        }
    }
}

/// What is wrong with a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) key: Key,
    pub(super) what: String,
}

/// The keys as typed.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Typed {
    pub(super) endpoint: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) ratio: Option<f64>,
    pub(super) service_name: Option<String>,
}

/// Gives the keys their meaning; `Ok(None)` if there are none. Files are found from `base`.
pub(super) fn read(typed: Typed, base: &Path) -> Result<Option<Tracing>, Vec<Wrong>> {
    if typed == Typed::default() {
        return Ok(None);
    }
    let Typed { endpoint, ca, ratio, service_name } = typed;
    let mut wrong = Vec::new();
    let mut note = |key, what| wrong.push(Wrong { key, what });
    match endpoint.as_deref().map(check_endpoint) {
        None => note(Key::Endpoint, format!("is missing, {MUST_BE_URL}")),
        Some(Err(what)) => note(Key::Endpoint, what),
        Some(Ok(scheme)) => {
            if let Err(what) = check_ca(scheme, ca.as_deref()) {
                note(Key::Ca, what);
            }
        }
    }
    let ratio_ppm = ratio_ppm(ratio.unwrap_or(RATIO)).map_err(|what| note(Key::Ratio, what));
    let service_name = service_name.unwrap_or_else(|| SERVICE_NAME.to_owned());
    if let Err(what) = check_service_name(&service_name) {
        note(Key::ServiceName, what);
    }
    match (endpoint, ratio_ppm) {
        (Some(endpoint), Ok(ratio_ppm)) if wrong.is_empty() => {
            Ok(Some(Tracing { endpoint, ca: ca.map(|ca| base.join(ca)), ratio_ppm, service_name }))
        }
        _ => Err(wrong),
    }
}

/// How spans are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Plaintext,
    Tls,
}

/// How spans can be sent there.
fn check_endpoint(endpoint: &str) -> Result<Scheme, String> {
    let wrong = |what: &str| Err(format!("is {endpoint:?}, {what}"));
    let Ok(uri) = endpoint.parse::<Uri>() else { return wrong(MUST_BE_URL) };
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Plaintext,
        Some("https") => Scheme::Tls,
        _ => return wrong(MUST_BE_URL),
    };
    if uri.host().is_none_or(str::is_empty) {
        return wrong(MUST_BE_URL);
    }
    match (uri.path(), uri.query()) {
        ("" | "/", None) => Ok(scheme),
        _ => wrong("must end after the port: OTLP over gRPC has no path"),
    }
}

/// Whether it is said whom to trust, where that is needed.
fn check_ca(scheme: Scheme, ca: Option<&str>) -> Result<(), String> {
    match (scheme, ca) {
        (Scheme::Tls, Some("")) => Err("is empty, must be a file".to_owned()),
        (Scheme::Plaintext, None) | (Scheme::Tls, Some(_)) => Ok(()),
        (Scheme::Tls, None) => {
            Err("is missing, must be the file of the authorities that vouch for an https:// endpoint"
                .to_owned())
        }
        (Scheme::Plaintext, Some(_)) => Err("is given, must not be with an http:// endpoint".to_owned()),
    }
}

/// A share in millionths.
fn ratio_ppm(ratio: f64) -> Result<u32, String> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(format!("is {ratio}, must be between 0 and 1"));
    }
    Ok((ratio * 1_000_000.0).round() as u32)
}

/// Whether a service may be called so.
fn check_service_name(name: &str) -> Result<(), String> {
    let characters = name.chars().count();
    if (1..=SERVICE_NAME_CHARACTERS_MAX).contains(&characters) {
        return Ok(());
    }
    Err(format!("has {characters} characters, must have between 1 and {SERVICE_NAME_CHARACTERS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_a_path() {
        for fine in ["http://collector:4317", "http://127.0.0.1:4317/", "http://[::1]:4317"] {
            assert_eq!(check_endpoint(fine), Ok(Scheme::Plaintext), "{fine}");
        }
        assert_eq!(check_endpoint("https://collector:4317"), Ok(Scheme::Tls));
        for (endpoint, words) in [
            ("", "must be a URL"),
            ("collector:4317", "must be a URL"),
            ("/v1/traces", "must be a URL"),
            ("http://", "must be a URL"),
            ("grpc://collector:4317", "must be a URL"),
            ("http://collector:4318/v1/traces", "no path"),
        ] {
            let error = check_endpoint(endpoint).expect_err(endpoint);
            assert!(error.contains(words) && error.contains(&format!("{endpoint:?}")), "{error}");
        }
    }

    #[test]
    fn authorities_go_with_tls_and_with_nothing_else() {
        let read = |endpoint: &str, ca: Option<&str>| {
            let typed =
                Typed { endpoint: Some(endpoint.to_owned()), ca: ca.map(str::to_owned), ..Typed::default() };
            read(typed, Path::new("/etc")).map(|tracing| tracing.and_then(|tracing| tracing.ca))
        };
        assert_eq!(read("https://c:1", Some("ca.pem")), Ok(Some(PathBuf::from("/etc/ca.pem"))));
        assert_eq!(read("http://c:1", None), Ok(None));
        for (endpoint, ca, words) in [
            ("https://c:1", None, "is missing, must be the file"),
            ("https://c:1", Some(""), "is empty"),
            ("http://c:1", Some("ca.pem"), "must not be with an http:// endpoint"),
        ] {
            let wrong = read(endpoint, ca).expect_err(endpoint);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].key == Key::Ca && wrong[0].what.contains(words), "{wrong:?}");
        }
    }

    #[test]
    fn a_ratio_is_a_share_of_one() {
        assert_eq!((ratio_ppm(0.0), ratio_ppm(0.01), ratio_ppm(1.0)), (Ok(0), Ok(10_000), Ok(1_000_000)));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(ratio_ppm(wrong).expect_err("no share").contains("between 0 and 1"), "{wrong}");
        }
    }
}
