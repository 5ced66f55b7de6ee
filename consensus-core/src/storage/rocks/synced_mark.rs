//! How far the store was ever synced, noted outside of the engine: `DIR/synced`.
//!
//! The engine's recovery accepts that the last record of its write-ahead log is torn, as a power cut leaves it.
//! It cannot tell that from a damaged header further in front, and then silently drops everything behind it,
//! synced rounds too. So every round of writes carries its number into the store, and after each sync that
//! number goes into this file. The file is never synced itself: it may be behind, but what it says was durable,
//! so a store that opens with an older round has lost something, and is refused.
//!
//! It shows that the newest rounds are there, not that all are: whether one is missing in front of those in the
//! write-ahead logs is seen in [`log_files`](super::log_files).
//!
//! Two slots are written in turn, each `round u64 | CRC-32C u32` (big-endian); the higher sound one counts.
//! A missing file is begun anew: a directory that was restored from a backup has none.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::super::{Error, Result};

const FILE: &str = "synced";
const SLOT_BYTES: usize = 12;

/// Slots are a page apart, so that no single torn write reaches both.
const SLOT_DISTANCE: u64 = 4096;

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct SyncedMark {
    file: File,
    round: u64,
    slot: u64,
}

impl SyncedMark {
    /// Opens the file of a locked directory, or begins it.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let failed = |error: std::io::Error| failed("open", &path, &error);
        if !path.exists() {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = file.map_err(failed)?;
            let mut mark = Self { file, round: 0, slot: 0 };
            mark.put(0)?;
            mark.put(0)?;
            // Once, so that later writes change bytes that exist and a power cut leaves no empty file.
            mark.file.sync_all().map_err(failed)?;
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
            return Ok(mark);
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let (round, slot) = read(&file, &path)?;
        Ok(Self { file, round, slot: 1 - slot })
    }

    /// What a directory says that nobody writes; `None` if it says nothing.
    pub(super) fn look(directory: &Path) -> Result<Option<u64>> {
        let path = directory.join(FILE);
        match File::open(&path) {
            Ok(file) => read(&file, &path).map(|(round, _)| Some(round)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &path, &error)),
        }
    }

    /// The newest round that is known to be durable.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Notes that everything up to `round` is durable.
    pub(super) fn note(&mut self, round: u64) -> Result<()> {
        if round == self.round { Ok(()) } else { self.put(round) }
    }

    fn put(&mut self, round: u64) -> Result<()> {
        let written = self.file.write_all_at(&encode(round), self.slot * SLOT_DISTANCE);
        written.map_err(|error| Error::Engine {
            operation: "write",
            cause: format!("cannot write the mark of the newest sync: {error}"),
        })?;
        self.round = round;
        self.slot = 1 - self.slot;
        Ok(())
    }
}

/// What is wrong with a store whose newest round is `found` where `synced` was durable.
pub(super) fn lost(found: u64, synced: u64) -> Option<String> {
    (found < synced).then(|| {
        format!(
            "the store ends with round {found} of its writes, but round {synced} was synced: synced writes were lost"
        )
    })
}

fn encode(round: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let (number, sum) = slot.split_at_mut(8);
    number.copy_from_slice(&round.to_be_bytes());
    sum.copy_from_slice(&crc32c::crc32c(number).to_be_bytes());
    slot
}

/// The higher of the sound slots, and which one it is.
fn read(file: &File, path: &Path) -> Result<(u64, u64)> {
    let slot = |number: u64| {
        let mut bytes = [0; SLOT_BYTES];
        file.read_exact_at(&mut bytes, number * SLOT_DISTANCE).ok()?;
        let round = u64::from_be_bytes(*bytes.first_chunk()?);
        (encode(round) == bytes).then_some((round, number))
    };
    [slot(0), slot(1)].into_iter().flatten().max().ok_or_else(|| Error::Damaged {
        key: path.display().to_string(),
        cause: "neither of its slots has a sound checksum".to_owned(),
    })
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Engine { operation: "open", cause: format!("cannot {what} {}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_note_survives_a_reopen_and_the_one_before_it_a_damaged_slot() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(SyncedMark::look(directory.path()), Ok(None));
        let mut mark = SyncedMark::open(directory.path()).expect("begun");
        (1..=5).for_each(|round| mark.note(round).expect("noted"));
        drop(mark);
        let mark = SyncedMark::open(directory.path()).expect("opened");
        assert_eq!(mark.round(), 5);
        mark.file.write_all_at(b"x", (1 - mark.slot) * SLOT_DISTANCE + 3).expect("damaged");
        assert_eq!(SyncedMark::look(directory.path()), Ok(Some(4)));
        mark.file.write_all_at(b"x", mark.slot * SLOT_DISTANCE + 3).expect("damaged");
        let error = SyncedMark::open(directory.path()).expect_err("both slots are damaged");
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}
