//! Files of certificates and keys: who may read them, and never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Permissions of a key and of a certificate.
pub(super) const KEY_MODE: u32 = 0o600;
pub(super) const CERTIFICATE_MODE: u32 = 0o644;

/// Creates a directory that only its owner may enter; one that exists is left as it is.
pub(super) fn create_directory(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("creating {}", directory.display()))
}

/// Writes files that are not there yet, all of them or none.
pub(super) fn create(files: &[(&Path, &str, u32)]) -> anyhow::Result<()> {
    for (path, ..) in files {
        if path.exists() {
            bail!("{} exists already; it is not overwritten", path.display());
        }
    }
    for (path, content, mode) in files {
        write_new(path, content, *mode)?;
    }
    Ok(())
}

/// Replaces a file in one step, so that whoever reads it meanwhile sees the old one or the new one.
pub(super) fn replace(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".new");
    let beside = path.with_file_name(name);
    // What an interrupted renewal left behind.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", beside.display()));
        }
        _ => {}
    }
    write_new(&beside, content, mode)?;
    fs::rename(&beside, path).with_context(|| format!("replacing {}", path.display()))?;
    sync_directory(path)
}

fn write_new(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The mode as wished, whatever the umask takes away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("writing {}", directory.display()))
}

/// Refuses a private key that others than its owner may read.
///
/// # Errors
/// The file's mode, or that there is no such file.
pub(crate) fn refuse_readable_key(path: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.display();
        bail!("{path} is a private key and may be used by others (mode {mode:04o}): chmod 600 {path}");
    }
    Ok(())
}
