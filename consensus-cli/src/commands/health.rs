//! `health`: one question, answered by the exit code, for container engines and supervisors.
//!
//! Asks the health service of a node over gRPC, or, with `--ops`, the pages for operations over HTTP, either in
//! plaintext or over TLS. Started under the name `grpc-health-probe` the
//! program takes that tool's flags and gives its exit codes, because the manifests of CITA-Cloud chains ask
//! that way. It does not look at more than one node: `status` does.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::DEFAULT_NODE;
use crate::args::certs::TlsArgs;
use crate::output::Verdict;
use crate::remote::{Access, Address, Kind, Patience, request};

/// Arguments of `health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consensus-cli health --node 127.0.0.1:7400            is the process alive?
  consensus-cli health --ops 127.0.0.1:7402 --ready     can clients be sent here? Over HTTP
  consensus-cli health --ops n1.example:7402 --ca ca.crt --cert me.crt --key me.key
  consensus-cli health --node 127.0.0.1:50001           a consensus service of CITA-Cloud

Exit codes: 0 yes, 1 no, 2 no answer. As `grpc-health-probe -addr=HOST:PORT` it takes that tool's flags.")]
pub(crate) struct HealthArgs {
    /// The gRPC listener of a node
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_NODE)]
    node: Address,
    /// Ask the pages for operations of a node instead, over HTTP
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "node")]
    ops: Option<Address>,
    /// Ask whether clients can be sent there, not only whether it is alive
    #[arg(long)]
    ready: bool,
    /// Alive is also who answers that a certificate has expired, its own or this user's: no restart helps it
    #[arg(long, conflicts_with = "ready")]
    accept_expired: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::args::duration)]
    timeout: Duration,
    #[command(flatten)]
    tls: TlsArgs,
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Serving,
    NotServing(String),
}

/// Why there is no answer.
#[derive(Debug)]
enum NoAnswer {
    /// Nobody was reached in time.
    Unreachable(anyhow::Error),
    /// Somebody was, and did not answer the question.
    Failed(anyhow::Error),
}

impl NoAnswer {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(error) | Self::Failed(error) => error,
        }
    }
}

/// Runs the command; a node that is not healthy is a finding.
///
/// # Errors
/// If the node gives no answer.
pub(crate) async fn run(args: HealthArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let access = Access::new(&args.tls)?;
    let answer = match &args.ops {
        Some(ops) => {
            let page = if args.ready { "/readyz" } else { "/livez" };
            over_http(&access, ops, page, args.timeout).await
        }
        None => {
            let service = if args.ready { "ready" } else { "" };
            let asked = over_grpc(&access, &args.node, service, args.timeout).await;
            asked.map_err(NoAnswer::into_error)
        }
    };
    let answer = match answer {
        Err(error) if args.accept_expired && Kind::of(&error) == Some(Kind::Expired) => {
            writeln!(out, "alive: {error:#}")?;
            return Ok(Verdict::Fine);
        }
        answer => answer?,
    };
    match answer {
        Answer::Serving => writeln!(out, "healthy")?,
        Answer::NotServing(why) => {
            writeln!(out, "not healthy: {why}")?;
            return Ok(Verdict::Finding);
        }
    }
    Ok(Verdict::Fine)
}

async fn over_grpc(
    access: &Access,
    node: &Address,
    service: &str,
    limit: Duration,
) -> Result<Answer, NoAnswer> {
    let connected = tokio::time::timeout(limit, access.connect(node, limit, Patience::Alone)).await;
    let connected = connected.with_context(|| format!("{node}: no connection in {limit:?}"));
    let connected = connected.and_then(|connected| connected).map_err(NoAnswer::Unreachable)?;
    let question = HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(connected.channel());
    match tokio::time::timeout(limit, client.check(request(question, limit))).await {
        Ok(Ok(answer)) => Ok(match answer.into_inner().status() {
            ServingStatus::Serving => Answer::Serving,
            other => Answer::NotServing(format!("{node} says {}", other.as_str_name())),
        }),
        Ok(Err(status)) if status.code() == Code::NotFound => {
            Err(NoAnswer::Failed(anyhow::anyhow!("{node}: knows no service {service:?}")))
        }
        Ok(Err(status)) => Err(NoAnswer::Failed(connected.explain(&status))),
        Err(_) => Err(NoAnswer::Failed(anyhow::anyhow!("{node}: no answer in {limit:?}"))),
    }
}

async fn over_http(access: &Access, ops: &Address, page: &str, limit: Duration) -> anyhow::Result<Answer> {
    let text = tokio::time::timeout(limit, access.page(ops, page))
        .await
        .with_context(|| format!("{ops}: no answer in {limit:?}"))??;
    judged(&text).with_context(|| format!("{ops}{page}"))
}

/// What an answer over HTTP says: 200 yes, 503 no with the reason in its body, anything else nothing.
fn judged(text: &str) -> anyhow::Result<Answer> {
    let mut words = text.split_ascii_whitespace();
    let (protocol, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    match code {
        _ if !protocol.starts_with("HTTP/1.") => bail!("the answer is not HTTP"),
        "200" => Ok(Answer::Serving),
        "503" => Ok(Answer::NotServing(body.to_owned())),
        "403" => bail!("answers 403: {body}"),
        other => bail!("answers {other}: is this the listener for operations?"),
    }
}

/// The name under which the program is that probe.
pub(crate) const PROBE_NAME: &str = "grpc-health-probe";

/// The exit codes of the probe: wrong usage, no connection, no answer, not serving.
const PROBE_USAGE: u8 = 1;
pub(crate) const PROBE_UNREACHABLE: u8 = 2;
const PROBE_FAILED: u8 = 3;
const PROBE_NOT_SERVING: u8 = 4;

/// What the probe is asked.
#[derive(Debug, PartialEq)]
struct Probe {
    node: Address,
    service: String,
    timeout: Duration,
}

impl Probe {
    /// Reads the flags: `-name=value` or `-name value`, with one dash or two.
    fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut node, mut service, mut timeout) = (None, String::new(), Duration::from_secs(1));
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let flag = flag.ok_or_else(|| format!("{argument:?} is no flag"))?;
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if name == "v" {
                continue;
            }
            if !["addr", "service", "connect-timeout", "rpc-timeout", "user-agent"].contains(&name) {
                return Err(format!(
                    "flag -{name} is not known; there are -addr -service -connect-timeout -rpc-timeout"
                ));
            }
            let value =
                given.or_else(|| arguments.next()).ok_or_else(|| format!("-{name} lacks its value"))?;
            match name {
                "addr" => node = Some(value.parse()?),
                "service" => service = value,
                // The longer of the two holds for both.
                "connect-timeout" | "rpc-timeout" => timeout = timeout.max(crate::args::duration(&value)?),
                _ => {}
            }
        }
        let node = node.ok_or("-addr=HOST:PORT is missing")?;
        Ok(Self { node, service, timeout })
    }
}

/// Runs as the probe.
pub(crate) async fn run_probe(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let probe = match Probe::parse(arguments) {
        Ok(probe) => probe,
        Err(mistake) => {
            eprintln!("{PROBE_NAME}: {mistake}");
            return ExitCode::from(PROBE_USAGE);
        }
    };
    let (code, text) = match over_grpc(&Access::default(), &probe.node, &probe.service, probe.timeout).await {
        Ok(Answer::Serving) => (0, "status: SERVING".to_owned()),
        Ok(Answer::NotServing(why)) => (PROBE_NOT_SERVING, format!("service unhealthy: {why}")),
        Err(NoAnswer::Unreachable(error)) => (PROBE_UNREACHABLE, format!("{error:#}")),
        Err(NoAnswer::Failed(error)) => (PROBE_FAILED, format!("{error:#}")),
    };
    eprintln!("{text}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(arguments: &[&str]) -> Result<Probe, String> {
        Probe::parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn the_probes_flags_are_read_with_one_dash_or_two_and_with_or_without_an_equals_sign() {
        let node: Address = "localhost:50001".parse().expect("an address");
        let plain = Probe { node, service: String::new(), timeout: Duration::from_secs(1) };
        assert_eq!(probe(&["-addr=localhost:50001"]).as_ref(), Ok(&plain));
        assert_eq!(probe(&["--addr", "localhost:50001", "-v"]).as_ref(), Ok(&plain));
        let full = probe(&["-addr=localhost:50001", "-service", "ready", "-rpc-timeout=5s"]);
        assert_eq!(full, Ok(Probe { service: "ready".to_owned(), timeout: Duration::from_secs(5), ..plain }));
    }

    #[test]
    fn a_probe_without_an_address_or_with_a_flag_that_is_not_known_is_told_so() {
        for (arguments, expected) in [
            (&["-service=ready"][..], "-addr=HOST:PORT is missing"),
            (&["-addr"], "-addr lacks its value"),
            (&["-addr=nowhere"], "nowhere"),
            (&["-addr=a:1", "-tls"], "flag -tls is not known"),
            (&["a:1"], "\"a:1\" is no flag"),
        ] {
            let mistake = probe(arguments).expect_err("a mistake");
            assert!(mistake.contains(expected), "{mistake}");
        }
    }

    #[test]
    fn an_answer_over_http_counts_by_its_code_only_if_it_is_one() {
        assert_eq!(judged("HTTP/1.1 200 OK\r\n\r\nok\n").expect("an answer"), Answer::Serving);
        let refused = judged("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nleader: none known\n");
        assert_eq!(refused.expect("an answer"), Answer::NotServing("leader: none known".to_owned()));
        let denied =
            judged("HTTP/1.1 403 Forbidden\r\n\r\nneeds the role \"read\"\n").expect_err("no answer");
        assert_eq!(denied.to_string(), "answers 403: needs the role \"read\"");
        for strange in ["", "HTTP/1.1 404 Not Found\r\n\r\n", "SSH-2.0 200 x\r\n"] {
            assert!(judged(strange).is_err(), "{strange}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_no_answer_and_a_silent_one_neither() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address: Address = listener.local_addr().expect("has one").to_string().parse().expect("parses");
        let limit = Duration::from_millis(200);
        let silent = over_grpc(&Access::default(), &address, "", limit).await;
        assert!(matches!(silent, Err(NoAnswer::Failed(_) | NoAnswer::Unreachable(_))), "{silent:?}");
        assert!(over_http(&Access::default(), &address, "/livez", limit).await.is_err());
        drop(listener);
        let closed = over_grpc(&Access::default(), &address, "", limit).await;
        assert!(matches!(closed, Err(NoAnswer::Unreachable(_))), "{closed:?}");
    }

    #[tokio::test]
    async fn a_node_that_serves_is_told_from_one_that_does_not_and_from_a_service_that_it_does_not_know() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("ready", tonic_health::ServingStatus::NotServing).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address: Address = listener.local_addr().expect("has one").to_string().parse().expect("parses");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let limit = Duration::from_secs(10);
        assert_eq!(
            over_grpc(&Access::default(), &address, "", limit).await.expect("an answer"),
            Answer::Serving
        );
        let ready = over_grpc(&Access::default(), &address, "ready", limit).await.expect("an answer");
        assert!(matches!(&ready, Answer::NotServing(why) if why.contains("NOT_SERVING")), "{ready:?}");
        let strange = over_grpc(&Access::default(), &address, "strange", limit).await;
        assert!(matches!(&strange, Err(NoAnswer::Failed(why)) if why.to_string().contains("strange")));
    }
}
