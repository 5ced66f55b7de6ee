//! A small file system below one node's data directory, which can be filled and freed.
//!
//! It is an image in the run's directory on a loop device, made without extents: such files cannot be
//! allocated in advance, so the engine's newest log meets the end of the space as soon as it grows.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;

use super::guardian::Guardian;
use crate::workspace::output;

/// Written at once when the disk is filled, in bytes.
const PIECE: usize = 64 << 10;

/// A mounted image.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    directory: PathBuf,
    node: u64,
}

impl SmallDisk {
    /// Mounts a new file system of `bytes` at `directory`, the data directory of `node`.
    ///
    /// # Errors
    /// Without the right to mount.
    pub(crate) fn mount(directory: &Path, node: u64, bytes: u64, guardian: &mut Guardian) -> Result<Self> {
        ensure!(is_root(), "mounting takes root");
        let image = directory.with_extension("image");
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let file = File::create(&image).with_context(|| image.display().to_string())?;
        file.set_len(bytes).with_context(|| image.display().to_string())?;
        let mut make = Command::new("mkfs.ext4");
        output(make.args(["-q", "-F", "-m", "0", "-O", "^extents,^64bit"]).arg(&image))?;
        guardian.at_end(&format!("umount -l '{}'", directory.display()))?;
        // A frozen file system lets nobody end.
        guardian.at_end(&format!("fsfreeze -u '{}'", directory.display()))?;
        output(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(directory))?;
        let found = directory.join("lost+found");
        std::fs::remove_dir(&found).with_context(|| found.display().to_string())?;
        Ok(Self { directory: directory.to_path_buf(), node })
    }

    /// Whose data is on it.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// Lets nobody write until what it returns is thawed or dropped.
    pub(crate) fn freeze(&self) -> Result<Frozen> {
        Frozen::new(&self.directory)
    }

    /// Leaves no space.
    pub(crate) fn fill(&self) -> Result<()> {
        let path = self.ballast();
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut piece = vec![0; PIECE];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        // Space that is reserved for later writing is given out now or refused now.
        let _ = file.sync_all();
        Ok(())
    }

    /// Leaves so much less space.
    pub(crate) fn grow(&self, bytes: usize) -> Result<()> {
        let path = self.ballast();
        let file = File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(&vec![0; bytes]));
        written.with_context(|| path.display().to_string())
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> Result<()> {
        let path = self.ballast();
        std::fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

/// A file system that lets whoever writes or syncs wait, in the kernel.
#[derive(Debug)]
pub(crate) struct Frozen {
    directory: Option<PathBuf>,
}

impl Frozen {
    /// Freezes what is mounted at `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        output(Command::new("fsfreeze").arg("-f").arg(directory))?;
        Ok(Self { directory: Some(directory.to_path_buf()) })
    }

    /// Lets everybody go on.
    pub(crate) fn thaw(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(directory) = self.directory.take() else { return Ok(()) };
        output(Command::new("fsfreeze").arg("-u").arg(directory)).map(drop)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The guardian does it again.
        let _ = self.end();
    }
}

/// Whether this command may mount and make namespaces.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}
