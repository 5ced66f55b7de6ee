//! Log files of bounded size and number.
//!
//! Lines are appended to `NAME`. Before it would grow beyond its bound it becomes `NAME.1`, the one before
//! `NAME.2`, and so on; the oldest is deleted. Compression (`NAME.1.gz`) happens on a thread of its own, and
//! the next rotation waits for it, so that a slow disk delays a rotation and never a line. An error leaves
//! the lines at hand unwritten and the file to be opened anew; nothing here ends anything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Where log lines are kept, and how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFiles {
    /// The directory; created if it is not there.
    pub dir: PathBuf,
    /// Name of the file that is written.
    pub name: String,
    /// The file is closed before the write that would bring it above this many bytes.
    pub rotate_bytes: u64,
    /// Closed files that are kept.
    pub keep: usize,
    /// Whether closed files are compressed (gzip).
    pub compress: bool,
}

/// The file that is written, with its predecessors.
#[derive(Debug)]
pub struct RotatingFile {
    files: LogFiles,
    open: Option<Open>,
    compressing: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens nothing yet: [`Self::open`] says early whether that would work.
    pub fn new(files: LogFiles) -> Self {
        Self { files, open: None, compressing: None }
    }

    /// Opens the file, if it is not open.
    ///
    /// # Errors
    /// The file system's, with the path.
    pub fn open(&mut self) -> io::Result<()> {
        self.opened().map(|_| ())
    }

    /// The path of the file that is written.
    pub fn path(&self) -> PathBuf {
        self.files.dir.join(&self.files.name)
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        if self.open.is_none() {
            let path = self.path();
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            fs::create_dir_all(&self.files.dir).map_err(named)?;
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(named)?;
            let bytes = file.metadata().map_err(named)?.len();
            self.open = Some(Open { file, bytes });
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("the log file is not open"))
    }

    /// Appends whole lines, after a rotation where it is due.
    ///
    /// # Errors
    /// The file system's; part of the lines may be there.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let bound = self.files.rotate_bytes;
        let open = self.opened()?;
        if open.bytes > 0 && open.bytes + lines.len() as u64 > bound && self.compression_is_over() {
            self.open = None;
            self.rotate()?;
        }
        let open = self.opened()?;
        let written = open.file.write_all(lines);
        open.bytes += lines.len() as u64;
        if written.is_err() {
            // What is there is looked at anew: part of the lines, or a disk that has room again.
            self.open = None;
        }
        written
    }

    /// Whether no closed file is being compressed any more.
    fn compression_is_over(&mut self) -> bool {
        if self.compressing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return false;
        }
        self.wait();
        true
    }

    /// Waits for the end of a compression. A file that could not be compressed stays as it is.
    fn wait(&mut self) {
        if let Some(thread) = self.compressing.take()
            && !matches!(thread.join(), Ok(Ok(())))
        {
            tracing::warn!(file = %self.path().display(), "a closed log file could not be compressed");
        }
    }

    fn closed(&self, number: usize, compressed: bool) -> PathBuf {
        let end = if compressed { ".gz" } else { "" };
        self.files.dir.join(format!("{}.{number}{end}", self.files.name))
    }

    /// `NAME` becomes `NAME.1`, `NAME.1` becomes `NAME.2`, compressed or not.
    fn rotate(&mut self) -> io::Result<()> {
        let keep = self.files.keep;
        if keep == 0 {
            return remove(&self.path());
        }
        for compressed in [false, true] {
            remove(&self.closed(keep, compressed))?;
            for number in (1..keep).rev() {
                rename(&self.closed(number, compressed), &self.closed(number + 1, compressed))?;
            }
        }
        rename(&self.path(), &self.closed(1, false))?;
        if self.files.compress {
            let (from, to) = (self.closed(1, false), self.closed(1, true));
            let thread = std::thread::Builder::new().name("log-gzip".to_owned());
            self.compressing = Some(thread.spawn(move || compress(&from, &to))?);
        }
        Ok(())
    }
}

impl Drop for RotatingFile {
    fn drop(&mut self) {
        self.wait();
    }
}

/// A file that is not there is as good as removed.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(ignore_absence)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).or_else(ignore_absence)
}

fn ignore_absence(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The compressed file appears whole, under its name; then the other one goes.
fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let unfinished = to.with_extension("gz.unfinished");
    let written = write_compressed(from, &unfinished);
    if written.is_err() {
        // The disk may be full: the remains go, the uncompressed file stays.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::rename(&unfinished, to)?;
    fs::remove_file(from)
}

fn write_compressed(from: &Path, to: &Path) -> io::Result<()> {
    let mut encoder = GzEncoder::new(File::create(to)?, Compression::fast());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use tempfile::TempDir;

    use super::*;

    fn files(directory: &TempDir, keep: usize, compress: bool) -> LogFiles {
        let dir = directory.path().join("logs");
        LogFiles { dir, name: "c.log".to_owned(), rotate_bytes: 10, keep, compress }
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path().join("logs")).expect("there");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn read(directory: &TempDir, name: &str) -> String {
        fs::read_to_string(directory.path().join("logs").join(name)).expect(name)
    }

    #[test]
    fn files_are_closed_at_their_size_and_the_oldest_go() {
        let directory = TempDir::new().expect("a directory");
        let mut file = RotatingFile::new(files(&directory, 2, false));
        for line in 0..8 {
            file.append(format!("line{line}\n").as_bytes()).expect("room");
        }
        assert_eq!(names(&directory), ["c.log", "c.log.1", "c.log.2"]);
        assert_eq!(read(&directory, "c.log"), "line7\n");
        assert_eq!(read(&directory, "c.log.1"), "line6\n");
        assert_eq!(read(&directory, "c.log.2"), "line5\n");
    }

    #[test]
    fn a_restart_goes_on_with_the_file_that_is_there() {
        let directory = TempDir::new().expect("a directory");
        for line in ["a\n", "b\n", "too long\n"] {
            RotatingFile::new(files(&directory, 1, false)).append(line.as_bytes()).expect("room");
        }
        assert_eq!(read(&directory, "c.log.1"), "a\nb\n");
        assert_eq!(read(&directory, "c.log"), "too long\n");
    }

    #[test]
    fn closed_files_are_compressed_whole() {
        let directory = TempDir::new().expect("a directory");
        let mut file = RotatingFile::new(files(&directory, 2, true));
        for line in ["first line\n", "second line\n", "third line\n"] {
            file.append(line.as_bytes()).expect("room");
            file.wait();
        }
        drop(file);
        assert_eq!(names(&directory), ["c.log", "c.log.1.gz", "c.log.2.gz"]);
        let mut text = String::new();
        let compressed = File::open(directory.path().join("logs/c.log.2.gz")).expect("there");
        GzDecoder::new(compressed).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "first line\n");
    }

    #[test]
    fn without_kept_files_the_one_file_starts_anew() {
        let directory = TempDir::new().expect("a directory");
        let mut file = RotatingFile::new(files(&directory, 0, true));
        file.append(b"12345678\n").expect("room");
        file.append(b"next\n").expect("room");
        assert_eq!(
            (names(&directory), read(&directory, "c.log")),
            (vec!["c.log".to_owned()], "next\n".to_owned())
        );
    }

    #[test]
    fn a_directory_that_comes_back_is_written_again() {
        let directory = TempDir::new().expect("a directory");
        let blocker = directory.path().join("logs");
        fs::write(&blocker, "a file where the directory should be").expect("writes");
        let mut file = RotatingFile::new(files(&directory, 1, false));
        let said = file.open().expect_err("no directory").to_string();
        assert!(said.contains("c.log"), "{said}");
        file.append(b"lost\n").expect_err("no directory");
        fs::remove_file(&blocker).expect("removes");
        file.append(b"kept\n").expect("room");
        assert_eq!(read(&directory, "c.log"), "kept\n");
    }
}
