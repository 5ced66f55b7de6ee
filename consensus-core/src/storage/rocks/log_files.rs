//! A look at the engine's write-ahead logs and its manifest before the engine reads them.
//!
//! RocksDB 11.8 reads on for ever at a record whose type was changed into one of those for recycled files, and
//! ends silently at such a record if it is the first of a file. We never recycle files, so such a type is
//! damage, and this look says so in time. It follows the published layout: blocks of 32 KiB, records of
//! `masked CRC-32C u32 | length u16 | type u8 | content` (little-endian), no record across two blocks.
//!
//! A record that the end of its file cuts off is what a power cut leaves, and passes; what it means is judged
//! by the engine and by the mark of the newest sync.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::{Error, Result};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// What the names of manifests begin with.
const MANIFEST: &str = "MANIFEST-";

/// Full, first, middle and last pieces of a record, and what may stand at the beginning of a file.
const KNOWN_TYPES: [u8; 7] = [1, 2, 3, 4, 9, 10, 130];

/// Looks through the manifest and all write-ahead logs of an engine's directory; one that vanishes meanwhile, as
/// beside a running process, is passed over.
pub(super) fn check(engine: &Path) -> Result<()> {
    for path in files(engine)? {
        match check_file(&path) {
            Ok(None) => {}
            Ok(Some(damage)) => {
                return Err(Error::Damaged { key: path.display().to_string(), cause: damage });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Ok(())
}

fn files(engine: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let current = engine.join("CURRENT");
    match fs::read_to_string(&current) {
        Ok(manifest) if manifest.starts_with(MANIFEST) => found.push(engine.join(manifest.trim_end())),
        Ok(manifest) => {
            let cause = format!("it says {manifest:?}, must name a manifest");
            return Err(Error::Damaged { key: current.display().to_string(), cause });
        }
        // A new directory, or damage that the engine names.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(found);
        }
        Err(error) => return Err(failed(&current, &error)),
    }
    let unread = |error: io::Error| failed(engine, &error);
    for file in fs::read_dir(engine).map_err(unread)? {
        let path = file.map_err(unread)?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What is wrong with a file, if anything.
fn check_file(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut begin = 0_u64;
    loop {
        let length = fill(&mut file, &mut block)?;
        let last = length < BLOCK_BYTES;
        match check_block(&block[..length], last) {
            Verdict::Sound => {}
            Verdict::Torn => return Ok(None),
            Verdict::Empty(offset) => {
                // Room that was reserved and never written, if nothing follows.
                let rest = io::copy(&mut file, &mut OnlyZeros);
                return match rest {
                    Ok(_) => Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        Ok(Some(format!("nothing is written at {}, but behind it", begin + offset as u64)))
                    }
                    Err(error) => Err(error),
                };
            }
            Verdict::Damaged(offset, cause) => {
                return Ok(Some(format!("the record at {} {cause}", begin + offset as u64)));
            }
        }
        if last {
            return Ok(None);
        }
        begin += BLOCK_BYTES as u64;
    }
}

enum Verdict {
    Sound,
    /// The end of the file cuts a record off.
    Torn,
    /// Zeros from here to the end of the block.
    Empty(usize),
    Damaged(usize, String),
}

fn check_block(block: &[u8], last: bool) -> Verdict {
    let mut offset = 0;
    // What is left of a block behind its last record is shorter than a header.
    while let Some(header) = block[offset..].first_chunk::<HEADER_BYTES>() {
        let [c0, c1, c2, c3, low, high, kind] = *header;
        let length = usize::from(u16::from_le_bytes([low, high]));
        if kind == 0 && length == 0 {
            return if block[offset..].iter().all(|byte| *byte == 0) {
                Verdict::Empty(offset)
            } else {
                Verdict::Damaged(offset, "is empty".to_owned())
            };
        }
        if !KNOWN_TYPES.contains(&kind) {
            return Verdict::Damaged(offset, format!("has the unknown type {kind}"));
        }
        let end = offset + HEADER_BYTES + length;
        if end > block.len() {
            return if last {
                Verdict::Torn
            } else {
                Verdict::Damaged(offset, format!("has {length} bytes, more than its block"))
            };
        }
        // The checksum covers the type and the content.
        let computed = mask(crc32c::crc32c(&block[offset + HEADER_BYTES - 1..end]));
        let stored = u32::from_le_bytes([c0, c1, c2, c3]);
        if stored != computed {
            return Verdict::Damaged(offset, format!("has checksum {computed:08x}, but says {stored:08x}"));
        }
        offset = end;
    }
    Verdict::Sound
}

/// RocksDB's disguise of a checksum that is stored beside the data it covers.
fn mask(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match file.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Takes zeros and refuses anything else.
struct OnlyZeros;

impl io::Write for OnlyZeros {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.iter().all(|byte| *byte == 0) {
            Ok(bytes.len())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Engine { operation: "open", cause: format!("cannot read {}: {error}", path.display()) }
}
