//! HTTP/1.1 with JSON: the control listeners of the stand-ins and the status pages of the nodes.
//!
//! One connection a request. A process that is being killed may refuse, hang or break off; that is an error
//! like any other here, and the callers know which processes live.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Longest wait for a connection, and for each piece of an answer to a question.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// The same for an order, which may have to wait until it can be carried out.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// The JSON that a page at a loopback port holds.
pub(crate) fn get(port: u16, path: &str) -> Result<Value> {
    get_at(loopback(port), path)
}

/// The JSON that a page holds.
pub(crate) fn get_at(at: SocketAddr, path: &str) -> Result<Value> {
    request(at, "GET", path, None)
}

/// The text that a page holds.
pub(crate) fn text_at(at: SocketAddr, path: &str) -> Result<String> {
    let name = || format!("GET {path} at {at}");
    let text = exchange(at, "GET", path, "").with_context(name)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(name)?;
    ensure!(head.split_whitespace().nth(1) == Some("200"), "{}: {}", name(), body.trim());
    Ok(body.to_owned())
}

/// The status code of a page at a loopback port.
pub(crate) fn code(port: u16, path: &str) -> Result<u16> {
    let name = || format!("GET {path} at port {port}");
    let text = exchange(loopback(port), "GET", path, "").with_context(name)?;
    let code = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    code.with_context(name)
}

/// Gives an order at a loopback port.
pub(crate) fn post(port: u16, path: &str, body: &Value) -> Result<Value> {
    request(loopback(port), "POST", path, Some(body))
}

/// Puts a text at a loopback port.
pub(crate) fn put_text(port: u16, path: &str, body: &str) -> Result<()> {
    let name = || format!("PUT {path} at port {port}");
    let text = exchange(loopback(port), "PUT", path, body).with_context(name)?;
    ensure!(text.split_whitespace().nth(1) == Some("200"), "{}: {text}", name());
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn request(at: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let name = || format!("{method} {path} at {at}");
    let body = body.map(Value::to_string).unwrap_or_default();
    let text = exchange(at, method, path, &body).with_context(name)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(name)?;
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    if code != "200" {
        bail!("{}: {code} {}", name(), body.trim());
    }
    serde_json::from_str(body).with_context(name)
}

fn exchange(at: SocketAddr, method: &str, path: &str, body: &str) -> Result<String> {
    let limit = if method == "GET" { ASK_LIMIT } else { ORDER_LIMIT };
    let mut stream = TcpStream::connect_timeout(&at, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    ensure!(!bytes.is_empty(), "the connection ended without an answer");
    plain(&bytes)
}

/// The answer as head and body, pieces put together.
fn plain(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).context("an answer that is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("not HTTP")?;
    let is_chunked =
        head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    if !is_chunked {
        return Ok(text.to_owned());
    }
    let mut whole = format!("{head}\r\n\r\n");
    let mut rest = body;
    loop {
        let (size, after) = rest.split_once("\r\n").context("a piece without its size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a piece without its size")?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(after.get(..size).context("a piece that is cut off")?);
        rest = after.get(size + 2..).context("a piece that is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    fn served(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        });
        port
    }

    #[test]
    fn an_answer_is_read_whole_or_in_pieces() {
        let port = served("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}");
        assert_eq!(get(port, "/").expect("is answered"), json!({"a": 1}));
        let port = served(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
        );
        assert_eq!(get(port, "/").expect("is answered"), json!({"a": 1}));
    }

    #[test]
    fn a_refusal_is_an_error_with_what_was_said() {
        let port = served("HTTP/1.1 400 Bad Request\r\ncontent-length: 8\r\n\r\ntoo much");
        let text = format!("{:#}", post(port, "/txs", &json!({})).expect_err("is refused"));
        assert!(text.contains("POST /txs") && text.contains("400 too much"), "{text}");
    }
}
