//! What was done to the disk, and what a power cut can leave of it.
//!
//! A file keeps what was synced and any number of the bytes behind it; a directory keeps its names as of its
//! last sync and any number of the changes behind it, in their order. That is less than POSIX lets a file
//! system forget (changes of names may survive out of order) and more than the usual ones do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Operation;

/// What of the unsynced survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Nothing.
    All,
    /// Everything, as when only the process dies.
    Nothing,
    /// Any part, chosen by this seed.
    Some(u64),
    /// As `Some`, but files keep their length, with zeros in place of what is lost: pages that reached the disk
    /// out of order.
    Zeros(u64),
}

impl Loss {
    /// How many of the `number`th `n` survive.
    fn kept(self, number: u64, n: usize) -> usize {
        match self {
            Self::All => 0,
            Self::Nothing => n,
            // The mixing of SplitMix64.
            Self::Some(seed) | Self::Zeros(seed) => {
                let mut mixed = (seed ^ number.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed ^ (mixed >> 31)) % (n as u64 + 1)) as usize
            }
        }
    }
}

/// Operations in the order in which they were begun.
#[derive(Clone, Default, Debug)]
pub struct Recording {
    operations: Vec<Operation>,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

/// A change of a name: the file that it stands for, if any.
type Naming = (PathBuf, Option<usize>);

#[derive(Default)]
struct Disk {
    files: Vec<File>,
    visible: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    unsynced: Vec<Naming>,
}

impl Recording {
    /// Begins with what is in `directory`, all of it durable.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut recording = Self::default();
        recording.take_in(directory)?;
        Ok(recording)
    }

    fn take_in(&mut self, directory: &Path) -> io::Result<()> {
        for found in fs::read_dir(directory)? {
            let path = found?.path();
            if path.is_dir() {
                self.take_in(&path)?;
                continue;
            }
            let bytes = fs::read(&path)?;
            self.push(Operation::Create(path.clone()));
            self.push(Operation::Append(path.clone(), bytes));
            self.push(Operation::Sync(path));
        }
        self.push(Operation::SyncDirectory(directory.to_owned()));
        Ok(())
    }

    /// Adds what is being done.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Writes into `target` what is left of `source` if the power goes after the first `done` operations.
    ///
    /// # Errors
    /// The operating system's.
    pub fn after_power_loss(&self, done: usize, loss: Loss, source: &Path, target: &Path) -> io::Result<()> {
        let mut disk = Disk::default();
        self.operations[..done].iter().for_each(|operation| disk.apply(operation));
        let kept = loss.kept(u64::MAX, disk.unsynced.len());
        for naming in disk.unsynced.drain(..kept).collect::<Vec<_>>() {
            name(&mut disk.durable, naming);
        }
        fs::create_dir_all(target)?;
        for (path, &number) in &disk.durable {
            let Ok(path) = path.strip_prefix(source) else { continue };
            let file = &disk.files[number];
            let kept = file.synced + loss.kept(number as u64, file.bytes.len() - file.synced);
            let mut bytes = file.bytes[..kept].to_vec();
            if matches!(loss, Loss::Zeros(_)) {
                bytes.resize(file.bytes.len(), 0);
            }
            let path = target.join(path);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }
}

fn name(names: &mut BTreeMap<PathBuf, usize>, (path, file): Naming) {
    match file {
        Some(file) => names.insert(path, file),
        None => names.remove(&path),
    };
}

impl Disk {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(path) => {
                self.files.push(File::default());
                self.rename((path.clone(), Some(self.files.len() - 1)));
            }
            Operation::Reopen(_) => {}
            Operation::Append(path, bytes) => {
                if let Some(file) = self.file(path) {
                    file.bytes.extend_from_slice(bytes);
                }
            }
            Operation::Truncate(path, length) => {
                if let Some(file) = self.file(path) {
                    file.bytes.resize(*length as usize, 0);
                    file.synced = file.synced.min(file.bytes.len());
                }
            }
            Operation::Sync(path) => {
                if let Some(file) = self.file(path) {
                    file.synced = file.bytes.len();
                }
            }
            Operation::Rename(from, to) => {
                if let Some(file) = self.visible.get(from).copied() {
                    self.rename((to.clone(), Some(file)));
                    self.rename((from.clone(), None));
                }
            }
            Operation::Link(from, to) => {
                if let Some(file) = self.visible.get(from).copied() {
                    self.rename((to.clone(), Some(file)));
                }
            }
            Operation::Delete(path) => self.rename((path.clone(), None)),
            Operation::SyncDirectory(path) => {
                let (synced, others): (Vec<_>, Vec<_>) =
                    self.unsynced.drain(..).partition(|(name, _)| name.parent() == Some(path));
                self.unsynced = others;
                synced.into_iter().for_each(|naming| name(&mut self.durable, naming));
            }
        }
    }

    fn file(&mut self, path: &Path) -> Option<&mut File> {
        let file = self.visible.get(path)?;
        self.files.get_mut(*file)
    }

    fn rename(&mut self, naming: Naming) {
        name(&mut self.visible, naming.clone());
        self.unsynced.push(naming);
    }
}
