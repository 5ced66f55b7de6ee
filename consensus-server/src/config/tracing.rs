//! Where traces go: the same three keys for both kinds of configuration.
//!
//! Without an endpoint there are none. What is wrong is said by key and in words; where it stands in a file is the
//! caller's to add.

use tonic::transport::Uri;

/// Name of the service in traces unless the configuration says otherwise.
const SERVICE_NAME: &str = "consensus";
/// Share of submissions that are traced unless the configuration says otherwise.
const RATIO: f64 = 0.01;
const MUST_BE_URL: &str = "must be a URL like \"http://collector:4317\"";
/// Longest name of the service.
const SERVICE_NAME_CHARACTERS_MAX: usize = 64;

/// Traces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracing {
    /// The collector, `http://host:port`, for OTLP over gRPC.
    pub endpoint: String,
    /// Share of what begins here that is traced, in millionths; what a caller has decided goes before.
    pub ratio_ppm: u32,
    /// What the service is called in traces.
    pub service_name: String,
}

/// One of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Endpoint,
    Ratio,
    ServiceName,
}

impl Key {
    /// Its name in the section.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
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

/// Gives the keys their meaning; `Ok(None)` if there are none.
pub(super) fn read(
    endpoint: Option<String>,
    ratio: Option<f64>,
    service_name: Option<String>,
) -> Result<Option<Tracing>, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut note = |key, what| wrong.push(Wrong { key, what });
    match &endpoint {
        None if ratio.is_none() && service_name.is_none() => return Ok(None),
        None => note(Key::Endpoint, format!("is missing, {MUST_BE_URL}")),
        Some(endpoint) => {
            if let Err(what) = check_endpoint(endpoint) {
                note(Key::Endpoint, what);
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
            Ok(Some(Tracing { endpoint, ratio_ppm, service_name }))
        }
        _ => Err(wrong),
    }
}

/// Whether spans can be sent there.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("is {endpoint:?}, {what}"));
    let Ok(uri) = endpoint.parse::<Uri>() else { return wrong(MUST_BE_URL) };
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => {}
        Some("https") => return wrong("must begin with http://: spans are not encrypted"),
        _ => return wrong(MUST_BE_URL),
    }
    match (uri.path(), uri.query()) {
        ("" | "/", None) => Ok(()),
        _ => wrong("must end after the port: OTLP over gRPC has no path"),
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
    fn an_endpoint_is_an_unencrypted_url_without_a_path() {
        for fine in ["http://collector:4317", "http://127.0.0.1:4317/", "http://[::1]:4317"] {
            assert_eq!(check_endpoint(fine), Ok(()), "{fine}");
        }
        for (endpoint, words) in [
            ("", "must be a URL"),
            ("collector:4317", "must be a URL"),
            ("/v1/traces", "must be a URL"),
            ("http://", "must be a URL"),
            ("https://collector:4317", "not encrypted"),
            ("http://collector:4318/v1/traces", "no path"),
        ] {
            let error = check_endpoint(endpoint).expect_err(endpoint);
            assert!(error.contains(words) && error.contains(&format!("{endpoint:?}")), "{error}");
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
