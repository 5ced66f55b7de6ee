//! A look at the engine's write-ahead logs and its manifest before the engine reads them.
//!
//! RocksDB 11.8 reads on for ever at a record whose type was changed into one of those for recycled files, and
//! ends silently at such a record if it is the first of a file. We never recycle files, so such a type is
//! damage, and this look says so in time. It follows the published layout: blocks of 32 KiB, records of
//! `masked CRC-32C u32 | length u16 | type u8 | content` (little-endian), no record across two blocks.
//!
//! A record that the end of its file cuts off is what a power cut leaves, and passes; what it means is judged
//! by the engine and by the mark of the newest sync.
//!
//! The same look finds what neither of them sees: a manifest that lost synced changes at its end has forgotten the data
//! files that they named, and the write-ahead logs in front of those were removed when the changes were synced. Every
//! write has a number, so the writes in between are missed: the logs that are needed begin behind the last write of the
//! data files that are known ([`manifest`](super::manifest)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::{Error, Result};
use super::manifest::{Manifest, Reach};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// What the names of manifests begin with.
const MANIFEST: &str = "MANIFEST-";
/// More is read of no file that should name a manifest.
const CURRENT_BYTES_MAX: u64 = 256;

/// A record in one piece, and its pieces.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Pieces of records, and what may stand at the beginning of a file.
const KNOWN_TYPES: [u8; 7] = [FULL, FIRST, MIDDLE, LAST, 9, 10, 130];

/// A record of a write-ahead log begins with the number of its first write, a u64, and how many there are, a u32
/// (little-endian).
const NUMBER_BYTES: usize = 8;
const WRITE_HEADER_BYTES: usize = NUMBER_BYTES + 4;

/// Looks through the manifest and all write-ahead logs of an engine's directory that nobody writes: in what words they
/// say that writes were lost.
pub(super) fn check(engine: &Path) -> Result<Option<String>> {
    let mut manifest = Manifest::new();
    let mut logs = BTreeMap::new();
    look(engine, &mut manifest, &mut logs)?;
    Ok(manifest.reach().and_then(|reach| gap(reach, &logs)))
}

/// As [`check`], beside a process that writes: from one file to the next, writes may have moved.
pub(super) fn check_beside(engine: &Path) -> Result<()> {
    look(engine, &mut Manifest::new(), &mut BTreeMap::new())
}

/// Reads all files; one that vanishes meanwhile, as beside a running process, is passed over.
fn look(engine: &Path, manifest: &mut Manifest, logs: &mut BTreeMap<u64, Writes>) -> Result<()> {
    for path in files(engine)? {
        let log = path.extension().is_some_and(|extension| extension == "log");
        let mut writes = Writes::default();
        let mut records = Records::default();
        let checked = check_file(&path, &mut |kind, piece| {
            if log {
                records.piece(kind, piece, WRITE_HEADER_BYTES, |record| writes.take(record));
            } else {
                records.piece(kind, piece, usize::MAX, |record| manifest.take(record));
            }
        });
        match checked {
            Ok(None) => {}
            Ok(Some(damage)) => {
                return Err(Error::Damaged { key: path.display().to_string(), cause: damage });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path, &error)),
        }
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (log, number) {
            logs.insert(number, writes);
        }
    }
    Ok(())
}

/// What lies between the data files and the logs that are needed beside them.
fn gap(reach: Reach, logs: &BTreeMap<u64, Writes>) -> Option<String> {
    let mut last = reach.last_write;
    for (number, writes) in logs.range(reach.first_log..) {
        let Some((first, end)) = writes.bounds else { continue };
        if first > last.saturating_add(1) {
            return Some(format!(
                "write-ahead log {number:06}.log begins with write {first}, what is known before it ends with write \
                 {last}: writes were lost"
            ));
        }
        last = last.max(end);
    }
    None
}

/// The numbers of the writes in a log.
#[derive(Clone, Copy, Default, Debug)]
struct Writes {
    /// The first and the last; `None` without any.
    bounds: Option<(u64, u64)>,
}

impl Writes {
    /// Takes the beginning of the next record.
    fn take(&mut self, record: &[u8]) {
        let Some((number, rest)) = record.split_first_chunk::<NUMBER_BYTES>() else { return };
        let Some(count) = rest.first_chunk() else { return };
        let (first, count) = (u64::from_le_bytes(*number), u64::from(u32::from_le_bytes(*count)));
        // A record without a write has the number of the next one.
        let Some(last) = first.checked_add(count).and_then(|next| next.checked_sub(1)) else { return };
        let (begin, _) = self.bounds.unwrap_or((first, last));
        self.bounds = Some((begin, last));
    }
}

/// Puts records together out of their pieces.
#[derive(Default, Debug)]
struct Records {
    record: Vec<u8>,
}

impl Records {
    /// Takes the next piece, keeps no more of a record than `bytes_max`, and hands it over when it is complete.
    fn piece(&mut self, kind: u8, piece: &[u8], bytes_max: usize, mut complete: impl FnMut(&[u8])) {
        if !matches!(kind, FULL | FIRST | MIDDLE | LAST) {
            return;
        }
        if matches!(kind, FULL | FIRST) {
            self.record.clear();
        }
        let room = bytes_max.saturating_sub(self.record.len());
        self.record.extend_from_slice(&piece[..piece.len().min(room)]);
        if matches!(kind, FULL | LAST) {
            complete(&self.record);
            self.record.clear();
        }
    }
}

/// Whether the engine gives this name to a manifest.
fn is_manifest(name: &str) -> bool {
    name.strip_prefix(MANIFEST)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn files(engine: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let current = engine.join("CURRENT");
    let read = |mut file: File| {
        let mut name = String::new();
        file.by_ref().take(CURRENT_BYTES_MAX).read_to_string(&mut name).map(|_| name)
    };
    match File::open(&current).and_then(read) {
        Ok(manifest) if is_manifest(manifest.trim_end()) => found.push(engine.join(manifest.trim_end())),
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

/// What is wrong with a file, if anything; `visit` gets the type and the content of each sound piece.
fn check_file(path: &Path, visit: Visit<'_>) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut begin = 0_u64;
    loop {
        let length = fill(&mut file, &mut block)?;
        let last = length < BLOCK_BYTES;
        match check_block(&block[..length], last, visit) {
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

type Visit<'a> = &'a mut dyn FnMut(u8, &[u8]);

enum Verdict {
    Sound,
    /// The end of the file cuts a record off.
    Torn,
    /// Zeros from here to the end of the block.
    Empty(usize),
    Damaged(usize, String),
}

fn check_block(block: &[u8], last: bool, visit: Visit<'_>) -> Verdict {
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
        visit(kind, &block[offset + HEADER_BYTES..end]);
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
