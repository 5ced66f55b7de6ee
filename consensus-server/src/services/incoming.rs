//! Listening on all interfaces, and new connections, one after the other.
//!
//! An error of accepting (no file descriptor left, most of all) is waited out: it is logged at a bounded
//! rate, the connections there are go on, and new ones wait in the system's queue until there is room. What is
//! written to a connection is gathered.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{Stream, stream};
use tokio::net::{TcpListener, TcpStream};

use crate::security::acceptor::{Acceptor, accept};
use crate::security::stream::Stream as Accepted;
use crate::telemetry::Throttle;
use crate::transport::gathering::Gathering;

/// How often an error is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Listens on all interfaces, IPv6 and IPv4; on IPv4 alone where the system has no IPv6. `key` is the port's
/// in the configuration; port 0 takes a free one.
///
/// # Errors
/// The port is in use or may not be used.
pub async fn bind_everywhere(key: &str, port: u16) -> anyhow::Result<TcpListener> {
    let error = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => bail!("{key} {port} is in use"),
        io::ErrorKind::PermissionDenied => Err(error).context(format!("{key} {port} cannot be listened on")),
        _ => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            TcpListener::bind(address).await.with_context(|| format!("{key} {port} cannot be listened on"))
        }
    }
}

/// The connections of a listener; `name` is its key in the configuration.
pub fn incoming(
    listener: TcpListener,
    name: &'static str,
) -> impl Stream<Item = io::Result<Gathering<TcpStream>>> + Send {
    let log = Throttle::new(LOG_EVERY);
    stream::unfold((listener, log), move |(listener, log)| async move {
        let (connection, _) = accept(&listener, &log, name).await;
        Some((Ok(Gathering::new(connection)), (listener, log)))
    })
}

/// The connections of a listener that says who calls.
pub fn accepted(acceptor: Acceptor) -> impl Stream<Item = io::Result<Gathering<Accepted>>> + Send {
    stream::unfold(acceptor, |mut acceptor| async move {
        let connection = acceptor.next().await;
        Some((Ok(Gathering::new(connection)), acceptor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_key() {
        let taken = bind_everywhere("metrics_port", 0).await.expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let said = bind_everywhere("metrics_port", port).await.expect_err("in use").to_string();
        assert_eq!(said, format!("metrics_port {port} is in use"));
    }

    #[tokio::test]
    async fn callers_of_both_families_are_served() {
        let listener = bind_everywhere("metrics_port", 0).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("IPv4");
        if listener.local_addr().expect("bound").is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.expect("IPv6");
        }
    }
}
