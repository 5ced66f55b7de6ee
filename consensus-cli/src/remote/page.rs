//! One page of a node's listener for operations, over HTTP/1.1, in plaintext or over TLS.

use std::io::ErrorKind;

use anyhow::anyhow;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::tls::{Connector, Note, Protocol, Wire};
use super::{Access, Address, innermost};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

impl Access {
    /// The answer to `GET page` as it came, head and body, cut off after 64 KiB. The caller bounds the time.
    ///
    /// # Errors
    /// Why there is none, in words, with the address.
    pub(crate) async fn page(&self, address: &Address, page: &str) -> anyhow::Result<String> {
        let note = Note::default();
        let connector = Connector { address: address.clone(), tls: self.tls.clone(), note: note.clone() };
        let said = async { ask(connector.open(Protocol::Http1).await?, address, page).await };
        match (said.await, note.heard()) {
            // What a port of TLS says to plaintext reads like an answer.
            (_, Some(heard)) => Err(heard.at(address)),
            (Ok(answer), None) if !answer.is_empty() => Ok(String::from_utf8_lossy(&answer).into_owned()),
            (Ok(_), None) => Err(anyhow!("{address}: ended the connection without an answer")),
            (Err(error), None) => Err(anyhow!("{address}: {}", innermost(&error))),
        }
    }
}

async fn ask(mut wire: Wire, address: &Address, page: &str) -> std::io::Result<Vec<u8>> {
    let question = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    wire.write_all(question.as_bytes()).await?;
    wire.flush().await?;
    let mut answer = Vec::new();
    match wire.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await {
        // Who has answered may hang up without the farewell of TLS.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && !answer.is_empty() => Ok(answer),
        read => read.map(|_| answer),
    }
}
