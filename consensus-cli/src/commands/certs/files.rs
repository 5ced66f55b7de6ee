//! Files of certificates and keys: who may read them, and never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::args::certs::Owner;

/// Permissions of a key and of a certificate.
pub(super) const KEY_MODE: u32 = 0o600;
pub(super) const CERTIFICATE_MODE: u32 = 0o644;
/// Of a directory with keys.
const DIRECTORY_MODE: u32 = 0o700;
const ROOT: u32 = 0;

/// Creates a directory that only its owner may enter; one that exists is left as it is.
pub(super) fn create_directory(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
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
        write_new(path, content.as_bytes(), *mode)?;
    }
    Ok(())
}

/// Replaces a file in one step, so that whoever reads it meanwhile sees the old one or the new one.
pub(super) fn replace(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    replace_for(None, path, content.as_bytes(), mode)
}

/// The same for a file that becomes somebody else's, if a user and a group are given.
pub(super) fn replace_for(
    owner: Option<Owner>,
    path: &Path,
    content: &[u8],
    mode: u32,
) -> anyhow::Result<()> {
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
    hand_over(owner, &beside)?;
    fs::rename(&beside, path).with_context(|| format!("replacing {}", path.display()))?;
    sync_directory(path)
}

/// A directory that only its owner may enter, which `owner` is afterwards.
pub(super) fn create_directory_for(owner: Option<Owner>, directory: &Path) -> anyhow::Result<()> {
    create_directory(directory)?;
    let shown = || format!("rights of {}", directory.display());
    let metadata = fs::metadata(directory).with_context(shown)?;
    if metadata.mode() & 0o777 != DIRECTORY_MODE {
        fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE)).with_context(shown)?;
    }
    match owner {
        Some(owner) if (metadata.uid(), metadata.gid()) == (owner.user, owner.group) => Ok(()),
        owner => hand_over(owner, directory),
    }
}

fn hand_over(owner: Option<Owner>, path: &Path) -> anyhow::Result<()> {
    let Some(Owner { user, group }) = owner else { return Ok(()) };
    chown(path, Some(user), Some(group))
        .with_context(|| format!("giving {} to user {user}, group {group}", path.display()))
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The mode as wished, whatever the umask takes away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
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

/// Refuses a private key that others than its owner may read. One of root's may be read by its group too: so
/// Kubernetes hands a secret to a container.
///
/// # Errors
/// The file's mode, or that there is no such file.
pub(crate) fn refuse_readable_key(path: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    let mode = metadata.mode() & 0o7777;
    let of_root = metadata.uid() == ROOT && !rustix::process::geteuid().is_root();
    if mode & if of_root { 0o037 } else { 0o077 } != 0 {
        let path = path.display();
        bail!("{path} is a private key and may be used by others (mode {mode:04o}): chmod 600 {path}");
    }
    Ok(())
}
