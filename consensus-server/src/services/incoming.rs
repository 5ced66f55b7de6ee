//! New connections, one after the other.
//!
//! An error of accepting (no file descriptor left, most of all) is waited out: it is logged at a bounded
//! rate, the connections there are go on, and new ones wait in the system's queue until there is room.

use std::io;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::net::{TcpListener, TcpStream};

use crate::telemetry::Throttle;

/// Wait after an error.
const PAUSE: Duration = Duration::from_millis(100);
/// How often an error is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The connections of a listener; `name` is its key in the configuration.
pub fn incoming(
    listener: TcpListener,
    name: &'static str,
) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    let log = Throttle::new(LOG_EVERY);
    stream::unfold((listener, log), move |(listener, log)| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Without it small frames wait for acknowledgements; a connection that refuses is broken.
                    if connection.set_nodelay(true).is_ok() {
                        return Some((Ok(connection), (listener, log)));
                    }
                }
                Err(error) => {
                    if let Some(held_back) = log.pass() {
                        tracing::warn!(listener = name, %error, held_back, "connections cannot be accepted");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}
