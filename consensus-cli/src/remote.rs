//! Talking to nodes: addresses, connections, what an error status means, and asking one node after the
//! other.
//!
//! Every call has a deadline; nothing here waits for ever but a stream that the user asked to follow.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use consensus_proto::admin::admin_client::AdminClient;
use consensus_proto::ordering::ordering_client::OrderingClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Largest message accepted from a node: the largest block with its framing, and room.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest time that opening a connection may take, whatever the deadline of the call.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3);

/// Where a node serves clients, as typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("address {text:?} must be host:port");
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = plain.rsplit_once(':').ok_or_else(refused)?;
        let port: u16 = port.parse().map_err(|_| refused())?;
        if host.is_empty() || port == 0 {
            return Err(refused());
        }
        let uri: tonic::codegen::http::Uri = format!("http://{plain}").parse().map_err(|_| refused())?;
        if uri.host().is_none() || uri.path() != "/" || uri.query().is_some() {
            return Err(refused());
        }
        Ok(Self(plain.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Address {
    fn endpoint(&self, timeout: Duration) -> anyhow::Result<Endpoint> {
        Ok(Endpoint::from_shared(format!("http://{}", self.0))
            .with_context(|| format!("address {self}"))?
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20))
    }

    /// Opens a connection of its own.
    pub(crate) async fn connect(&self, timeout: Duration) -> anyhow::Result<Node> {
        let channel = self
            .endpoint(timeout)?
            .connect()
            .await
            .map_err(|error| anyhow!("{self}: {}", innermost(&error)))?;
        Ok(Node { address: self.clone(), channel })
    }
}

/// The last cause of an error, which names what really happened (`connection refused`).
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let words = cause.to_string().to_lowercase();
    // The number says nothing that the words do not.
    words.split(" (os error").next().unwrap_or(&words).to_owned()
}

/// A connected node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    channel: Channel,
}

impl Node {
    pub(crate) fn ordering(&self) -> OrderingClient<Channel> {
        OrderingClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// The bare connection, for services that are not ours.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// An error status of this node in words.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        explain(&self.address, status)
    }
}

/// A request with a deadline that both sides know.
pub(crate) fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// An error status in words: what the node said, and whom it believes to lead.
pub(crate) fn explain(address: &Address, status: &Status) -> anyhow::Error {
    let leader = status
        .metadata()
        .get("leader-address")
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty())
        .map(|leader| format!(" (leader: {leader})"))
        .unwrap_or_default();
    let what = match status.code() {
        Code::Unimplemented => "does not serve this; is it a consensus node?".to_owned(),
        Code::Cancelled | Code::DeadlineExceeded if status.message().contains("Timeout") => {
            "no answer in time".to_owned()
        }
        _ if status.message().is_empty() => format!("{:?}", status.code()).to_lowercase(),
        _ => status.message().to_owned(),
    };
    anyhow!("{address}: {what}{leader}")
}

/// Whether another node may answer where this one did not.
fn worth_asking_another(code: Code) -> bool {
    match code {
        Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::PermissionDenied => false,
        Code::Unauthenticated | Code::AlreadyExists | Code::OutOfRange => false,
        // Busy, stopping, halted, without a leader, or without what is asked for: nodes differ in these.
        _ => true,
    }
}

/// Why nobody answered a question.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// A node answered, and the answer is no.
    Refused(Address, Status),
    /// No node gave an answer; every node's failure.
    Unreachable(Vec<anyhow::Error>),
}

impl NoAnswer {
    /// As an error of the command.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Refused(address, status) => explain(&address, &status),
            Self::Unreachable(failures) => {
                let lines: Vec<String> = failures.iter().map(|failure| format!("{failure:#}")).collect();
                anyhow!("no node answered: {}", lines.join("; "))
            }
        }
    }
}

/// Asks one node after the other until one answers; a clear refusal is an answer.
///
/// # Errors
/// [`NoAnswer`].
pub(crate) async fn first_answer<T, F>(
    nodes: &[Address],
    timeout: Duration,
    ask: F,
) -> Result<(Node, T), NoAnswer>
where
    F: AsyncFn(&Node) -> Result<T, Status>,
{
    let mut failures = Vec::new();
    for address in nodes {
        let node = match address.connect(timeout).await {
            Ok(node) => node,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        match ask(&node).await {
            Ok(answer) => return Ok((node, answer)),
            Err(status) if worth_asking_another(status.code()) => failures.push(node.explain(&status)),
            Err(status) => return Err(NoAnswer::Refused(address.clone(), status)),
        }
    }
    Err(NoAnswer::Unreachable(failures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:7001", "node-1.example:65535", "[::1]:9", "http://a:1", "http://a:1/"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:1/path", "https://a:1", "a b:1", "a:1?x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_as_refused_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address: Address = listener.local_addr().expect("has one").to_string().parse().expect("parses");
        drop(listener);
        let error = address.connect(Duration::from_secs(2)).await.expect_err("nobody listens");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }
}
