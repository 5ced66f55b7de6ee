//! What may have happened to a directory while nobody looked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::draws::Draws;

/// A file that grew by more than anybody wrote.
const GROWN_BYTES: u64 = 16 << 20;

/// Damages some of the files below a directory; says what was done.
pub(crate) fn damage(draws: &mut Draws<'_>, directory: &Path) -> Vec<String> {
    (0..=draws.below(3)).map(|_| damage_one(draws, directory)).collect()
}

fn damage_one(draws: &mut Draws<'_>, directory: &Path) -> String {
    let mut files = Vec::new();
    list(directory, &mut files);
    files.sort();
    let Some(file) = files.get(draws.below(files.len())).cloned() else { return "nothing left".to_owned() };
    let name = file.strip_prefix(directory).unwrap_or(&file).display().to_string();
    let content = fs::read(&file).unwrap_or_default();
    let at = draws.number() as usize % content.len().max(1);
    let done = match draws.below(16) {
        0..=3 if !content.is_empty() => {
            let mut content = content;
            let bit = draws.below(8);
            content[at] ^= 1 << bit;
            write(&file, &content);
            format!("bit {bit} of byte {at} flipped")
        }
        4 | 5 => {
            write(&file, &content[..at.min(content.len())]);
            format!("cut to {at} bytes")
        }
        6 => {
            write(&file, b"");
            "emptied".to_owned()
        }
        7 => {
            drop(fs::remove_file(&file));
            "removed".to_owned()
        }
        8 => {
            drop(fs::remove_file(&file));
            drop(fs::create_dir(&file));
            "now a directory".to_owned()
        }
        9 => {
            let other = &files[draws.below(files.len())];
            let of_other = fs::read(other).unwrap_or_default();
            write(other, &content);
            write(&file, &of_other);
            format!("exchanged with {}", other.display())
        }
        10 => {
            let length = (draws.below(256) * 16).min(content.len().saturating_sub(at));
            let mut content = content;
            let garbage = draws.byte();
            content[at..].iter_mut().take(length).enumerate().for_each(|(i, byte)| {
                *byte = garbage.wrapping_mul(i as u8).wrapping_add(garbage);
            });
            write(&file, &content);
            format!("{length} bytes of garbage at {at}")
        }
        11 => {
            write(&file, &[content, draws.bytes().to_vec()].concat());
            "garbage at the end".to_owned()
        }
        12 => {
            drop(fs::remove_file(&file));
            let target = draws.pick(&["nowhere", ".", "..", "CURRENT", "/dev/null"]);
            drop(symlink(target, &file));
            format!("now a link to {target}")
        }
        13 => {
            let renamed =
                file.with_file_name(draws.pick(&["000999.sst", "000999.log", "MANIFEST-000999", "x"]));
            drop(fs::rename(&file, &renamed));
            format!("now called {}", renamed.display())
        }
        14 => {
            drop(fs::set_permissions(&file, fs::Permissions::from_mode(0o000)));
            "not to be read (but by root)".to_owned()
        }
        _ => {
            if let Ok(opened) = fs::OpenOptions::new().write(true).open(&file) {
                drop(opened.set_len(content.len() as u64 + GROWN_BYTES));
            }
            "grown by zeros".to_owned()
        }
    };
    format!("{name}: {done}")
}

/// What cannot be written, a directory by now, stays as it is.
fn write(file: &Path, content: &[u8]) {
    drop(fs::write(file, content));
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(&entry.path(), files),
            _ => files.push(entry.path()),
        }
    }
}
