//! Talking to nodes: addresses, connections, what an error status means, and asking one node after the
//! other. [`Access`] says with which certificates, if any.
//!
//! Every call has a deadline; nothing here waits for ever but a stream that the user asked to follow.

mod page;
mod tls;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use consensus_proto::admin::admin_client::AdminClient;
use consensus_proto::ordering::ordering_client::OrderingClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

pub(crate) use self::tls::Kind;
use self::tls::{Connector, Note, Tls};
use crate::args::certs::TlsArgs;

/// Largest message accepted from a node: the largest block with its framing, and room.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest time that opening a connection may take, whatever the deadline of the call.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3);

/// How long a node may give no sign of life before its connection is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// 10 s: there is nobody else to ask.
    Alone,
    /// 3 s: there are other nodes.
    Others,
}

impl Patience {
    /// What fits this many nodes.
    pub(crate) fn among(nodes: &[Address]) -> Self {
        if nodes.len() > 1 { Self::Others } else { Self::Alone }
    }

    /// After how long a silence a sign of life is asked for, and how long it is waited for.
    fn keep_alive(self) -> (Duration, Duration) {
        match self {
            Self::Alone => (Duration::from_secs(5), Duration::from_secs(5)),
            Self::Others => (Duration::from_secs(1), Duration::from_secs(2)),
        }
    }
}

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
    /// The host without the brackets of IPv6, and the port.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = self.0.rsplit_once(':').unwrap_or((&self.0, ""));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or_default())
    }

    fn endpoint(&self, timeout: Duration, patience: Patience) -> anyhow::Result<Endpoint> {
        let (interval, answer) = patience.keep_alive();
        Ok(Endpoint::from_shared(format!("http://{}", self.0))
            .with_context(|| format!("address {self}"))?
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(answer)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20))
    }
}

/// With which certificates nodes are talked to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    tls: Option<Arc<Tls>>,
}

impl Access {
    /// Reads the files that the arguments name; plaintext without any.
    ///
    /// # Errors
    /// A file that is missing or cannot be used.
    pub(crate) fn new(args: &TlsArgs) -> anyhow::Result<Self> {
        Ok(Self { tls: Tls::read(args)?.map(Arc::new) })
    }

    /// Opens a connection of its own.
    ///
    /// # Errors
    /// In words, with the address.
    pub(crate) async fn connect(
        &self,
        address: &Address,
        timeout: Duration,
        patience: Patience,
    ) -> anyhow::Result<Node> {
        let note = Note::default();
        let connector = Connector { address: address.clone(), tls: self.tls.clone(), note: note.clone() };
        match address.endpoint(timeout, patience)?.connect_with_connector(connector).await {
            Ok(channel) => Ok(Node { address: address.clone(), channel, note }),
            Err(error) => Err(match note.heard() {
                Some(heard) => heard.at(address),
                None => anyhow!("{address}: {}", innermost(&error)),
            }),
        }
    }
}

/// The last cause of an error, which names what really happened (`connection refused`).
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let words = cause.to_string();
    // The number says nothing that the words do not.
    let words = words.split(" (os error").next().unwrap_or(&words);
    match words {
        "deadline has elapsed" => "no answer in time".to_owned(),
        // A connection whose keep-alive was not answered ends so.
        "keep-alive timed out" | "operation timed out" => "no sign of life".to_owned(),
        _ => words.chars().take(1).flat_map(char::to_lowercase).chain(words.chars().skip(1)).collect(),
    }
}

/// A connected node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    channel: Channel,
    note: Note,
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
        let address = &self.address;
        // With a source it is no answer of the node, but what became of the connection.
        match (std::error::Error::source(status), self.note.heard()) {
            (Some(_), Some(heard)) => heard.at(address),
            (Some(cause), None) if !is_timeout(status) => anyhow!("{address}: {}", innermost(cause)),
            _ => explain(address, status),
        }
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
        _ if is_timeout(status) => "no answer in time".to_owned(),
        _ if status.message().is_empty() => format!("{:?}", status.code()).to_lowercase(),
        _ => status.message().to_owned(),
    };
    anyhow!("{address}: {what}{leader}")
}

/// Whether this side has given up waiting.
fn is_timeout(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) && status.message().contains("Timeout")
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
    access: &Access,
    nodes: &[Address],
    timeout: Duration,
    ask: F,
) -> Result<(Node, T), NoAnswer>
where
    F: AsyncFn(&Node) -> Result<T, Status>,
{
    let mut failures = Vec::new();
    for address in nodes {
        let node = match access.connect(address, timeout, Patience::among(nodes)).await {
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
mod tests;
