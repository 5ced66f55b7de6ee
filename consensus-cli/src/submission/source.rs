//! Where transactions come from: one value, or the lines of a reader.
//!
//! Lines are read on a thread of their own, because standard input blocks, and handed over in chunks
//! through a bounded channel, so that a large file is never in memory as a whole. A chunk ends early when
//! the reader has nothing more at hand, so that what is typed is sent at once.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Item;

/// Largest transaction, and thereby longest line, that is read; no chain takes larger ones.
pub(crate) const TRANSACTION_BYTES_MAX: usize = 16 << 20;

/// Lines and bytes of one chunk.
const CHUNK_LINES_MAX: usize = 512;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Chunks read ahead.
const CHUNKS_AHEAD: usize = 2;

/// Consecutive transactions of a source.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) items: Vec<Item>,
    /// Bytes of the source that were read for it.
    pub(crate) bytes: u64,
    /// Empty lines that were skipped.
    pub(crate) blank_lines: u64,
}

/// A source of one transaction.
pub(crate) fn single(id: Bytes, payload: Bytes) -> mpsc::Receiver<anyhow::Result<Chunk>> {
    let (chunks, source) = mpsc::channel(1);
    let bytes = payload.len() as u64;
    let chunk = Chunk { items: vec![Item::new(1, id, payload)], bytes, blank_lines: 0 };
    chunks.try_send(Ok(chunk)).expect("a new channel has room for one");
    source
}

/// A source of one transaction per line that is not empty, under the ids `client-line`.
///
/// # Errors
/// If no thread can be started; what goes wrong later comes through the channel.
pub(crate) fn lines(
    reader: impl Read + Send + 'static,
    client: String,
) -> anyhow::Result<mpsc::Receiver<anyhow::Result<Chunk>>> {
    let (chunks, source) = mpsc::channel(CHUNKS_AHEAD);
    let read = move || {
        let mut lines = Lines { reader: BufReader::with_capacity(256 << 10, reader), client, line: 0 };
        loop {
            let chunk = lines.next_chunk().transpose();
            let last = !matches!(chunk, Some(Ok(_)));
            if let Some(chunk) = chunk
                && chunks.blocking_send(chunk).is_err()
            {
                return;
            }
            if last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(read).context("starting a thread")?;
    Ok(source)
}

struct Lines<R> {
    reader: BufReader<R>,
    client: String,
    /// Lines read so far.
    line: u64,
}

impl<R: Read> Lines<R> {
    fn next_chunk(&mut self) -> anyhow::Result<Option<Chunk>> {
        let mut chunk = Chunk { items: Vec::new(), bytes: 0, blank_lines: 0 };
        let mut text = Vec::new();
        let mut ends = Vec::new();
        while ends.len() < CHUNK_LINES_MAX && text.len() < CHUNK_BYTES_MAX {
            let start = text.len();
            let limit = TRANSACTION_BYTES_MAX as u64 + 2;
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut text);
            let read = read.with_context(|| format!("reading line {}", self.line + 1))?;
            if read == 0 {
                break;
            }
            self.line += 1;
            chunk.bytes += read as u64;
            if text.last() == Some(&b'\n') {
                text.pop();
                if text.len() > start && text.last() == Some(&b'\r') {
                    text.pop();
                }
            }
            if text.len() - start > TRANSACTION_BYTES_MAX {
                return Err(anyhow!("line {} is longer than {TRANSACTION_BYTES_MAX} bytes", self.line));
            }
            if text.len() == start {
                chunk.blank_lines += 1;
            } else {
                ends.push((self.line, start, text.len()));
            }
            if self.reader.buffer().is_empty() {
                break;
            }
        }
        if chunk.bytes == 0 {
            return Ok(None);
        }
        let text = Bytes::from(text);
        let item = |(line, start, end)| {
            let id = Bytes::from(format!("{}-{line}", self.client));
            Item::new(line, id, text.slice(start..end))
        };
        chunk.items = ends.into_iter().map(item).collect();
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &'static [u8]) -> (Vec<(String, Vec<u8>)>, u64, u64) {
        let mut lines = Lines { reader: BufReader::with_capacity(7, text), client: "c".to_owned(), line: 0 };
        let (mut items, mut bytes, mut blank) = (Vec::new(), 0, 0);
        while let Some(chunk) = lines.next_chunk().expect("reads") {
            bytes += chunk.bytes;
            blank += chunk.blank_lines;
            items.extend(chunk.items.into_iter().map(|item| {
                let id = String::from_utf8(item.transaction.id.to_vec()).expect("text");
                (id, item.transaction.payload.to_vec())
            }));
        }
        (items, bytes, blank)
    }

    #[test]
    fn lines_keep_their_number_and_empty_ones_are_counted() {
        let (items, bytes, blank) = read_all(b"one\n\ntwo\r\n \nlast\r");
        let expected = [("c-1", &b"one"[..]), ("c-3", b"two"), ("c-4", b" "), ("c-5", b"last\r")];
        let expected: Vec<_> = expected.iter().map(|(id, text)| ((*id).to_owned(), text.to_vec())).collect();
        assert_eq!(items, expected);
        assert_eq!((bytes, blank), (17, 1));
    }

    #[test]
    fn bytes_that_are_no_text_are_transactions_too() {
        let (items, ..) = read_all(b"\xff\xfe\n");
        assert_eq!(items, [("c-1".to_owned(), vec![0xff, 0xfe])]);
    }

    #[test]
    fn an_empty_source_has_no_chunk() {
        assert_eq!(read_all(b""), (Vec::new(), 0, 0));
    }

    #[test]
    fn an_endless_line_is_refused_with_its_number() {
        let endless = (&b"x\n"[..]).chain(std::io::repeat(b'y'));
        let mut lines = Lines { reader: BufReader::new(endless), client: "c".to_owned(), line: 0 };
        let first = lines.next_chunk().expect("reads").expect("has a line");
        assert_eq!(first.items.len(), 1);
        let error = lines.next_chunk().expect_err("too long");
        assert_eq!(error.to_string(), "line 2 is longer than 16777216 bytes");
    }

    #[test]
    fn reading_on_costs_a_chunk_at_a_time() {
        let text: Vec<u8> = (0..10_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        let mut lines =
            Lines { reader: BufReader::with_capacity(1 << 20, &text[..]), client: "c".to_owned(), line: 0 };
        let chunk = lines.next_chunk().expect("reads").expect("has lines");
        assert_eq!(chunk.items.len(), CHUNK_LINES_MAX);
    }
}
