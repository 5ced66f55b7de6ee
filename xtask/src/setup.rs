//! `cargo xtask setup`: what a build needs beyond Rust.
//!
//! RocksDB is compiled from source by a C++ compiler, and its bindings are made with libclang at build
//! time, so both must be there. Nothing else is needed: no protoc, no cmake, no pkg-config. On Debian and
//! Ubuntu, as root, what is missing is installed; everywhere else the exact command is printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::{self, Workspace};

/// Names that bindgen's loader accepts as the library.
const LIBCLANG_NAMES: [&str; 2] = ["libclang.so", "libclang.dylib"];

/// Directories that bindgen's loader searches by itself; elsewhere `LIBCLANG_PATH` must say so.
const SEARCHED_BY_LOADER: [&str; 6] = [
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/Library/Developer/CommandLineTools/usr/lib",
    "/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib",
];

/// Directories outside those where packages and package managers put it.
const FURTHER_DIRECTORIES: [&str; 3] =
    ["/opt/homebrew/opt/llvm/lib", "/usr/local/opt/llvm/lib", "/opt/rocm/llvm/lib"];

/// Makes sure that the workspace can be built, and says what was found.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let found = ensure(workspace)?;
    println!("libclang      {}", found.libclang.display());
    println!("C++ compiler  {}", found.compiler);
    println!("everything that a build needs is here");
    Ok(())
}

/// What a build stands on.
#[derive(Debug)]
pub(crate) struct Toolchain {
    libclang: PathBuf,
    compiler: String,
}

/// Finds libclang and a C++ compiler and installs what is missing where that is possible; prints nothing
/// when all is there.
///
/// # Errors
/// When something is missing that cannot be installed here; the message is the command to type.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Toolchain> {
    if let Ok(found) = find() {
        return Ok(found);
    }
    if let Some(named) = std::env::var_os("LIBCLANG_PATH")
        && find_libclang().is_none()
    {
        bail!(
            "LIBCLANG_PATH is {}, where there is no libclang: correct or unset it",
            Path::new(&named).display()
        );
    }
    let missing = missing();
    let packages = missing.iter().map(|part| part.debian_package).collect::<Vec<_>>();
    let names = missing.iter().map(|part| part.name).collect::<Vec<_>>().join(" and ");
    if !can_install() {
        bail!("{}", instructions(&names, &packages));
    }
    println!("{names} missing: installing {} with apt-get", packages.join(" "));
    let mut update = apt_get(workspace);
    workspace::run(update.arg("update"))?;
    let mut install = apt_get(workspace);
    workspace::run(install.args(["install", "-y", "--no-install-recommends"]).args(&packages))?;
    find().map_err(|part| {
        anyhow::anyhow!("apt-get installed {}, but {} is still not found", packages.join(" "), part.name)
    })
}

/// The directory that `LIBCLANG_PATH` must name, if the library is where bindgen does not look by itself.
pub(crate) fn libclang_override() -> Option<PathBuf> {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return None;
    }
    let library = find_libclang()?;
    let directory = library.parent()?;
    let searched = SEARCHED_BY_LOADER.iter().any(|top| directory.starts_with(top));
    (!searched).then(|| directory.to_path_buf())
}

/// One thing that a build needs.
#[derive(Clone, Copy, Debug)]
struct Part {
    name: &'static str,
    debian_package: &'static str,
}

const LIBCLANG: Part = Part { name: "libclang", debian_package: "libclang-dev" };
const COMPILER: Part = Part { name: "a C++ compiler", debian_package: "g++" };

fn find() -> Result<Toolchain, Part> {
    let libclang = find_libclang().ok_or(LIBCLANG)?;
    let compiler = find_compiler().ok_or(COMPILER)?;
    Ok(Toolchain { libclang, compiler })
}

fn missing() -> Vec<Part> {
    let mut missing = Vec::new();
    if find_libclang().is_none() {
        missing.push(LIBCLANG);
    }
    if find_compiler().is_none() {
        missing.push(COMPILER);
    }
    missing
}

fn find_libclang() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        let direct = named.is_file().then(|| named.clone());
        return direct.or_else(|| library_in(&named));
    }
    let library = libclang_directories().iter().find_map(|directory| library_in(directory))?;
    has_headers(&library).then_some(library)
}

/// True if clang's own headers (`stddef.h` and the like) are installed too: the library alone, as other
/// packages pull it in, cannot read RocksDB's header.
fn has_headers(library: &Path) -> bool {
    if cfg!(target_os = "macos") {
        return true;
    }
    let real = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let near = [library, &real].into_iter().filter_map(|path| path.parent()).map(Path::to_path_buf);
    let llvm = subdirectories("/usr/lib", "llvm-").into_iter().map(|path| path.join("lib"));
    let usual = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    near.chain(llvm).chain(usual).any(|directory| {
        let Ok(versions) = std::fs::read_dir(directory.join("clang")) else { return false };
        versions.filter_map(Result::ok).any(|version| version.path().join("include/stddef.h").is_file())
    })
}

/// Where libclang may be, most telling first.
fn libclang_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if let Some(text) = spoken_by("llvm-config", &["--libdir"]) {
        directories.push(PathBuf::from(text.trim()));
    }
    let mut versions = subdirectories("/usr/lib", "llvm-");
    versions.sort_by_key(|path| std::cmp::Reverse(trailing_number(path)));
    directories.extend(versions.into_iter().map(|path| path.join("lib")));
    for ldconfig in ["ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"] {
        if let Some(text) = spoken_by(ldconfig, &["-p"]) {
            directories.extend(directories_in_ldconfig(&text));
            break;
        }
    }
    for machine in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        directories.push(Path::new("/usr/lib").join(machine));
    }
    directories.extend(SEARCHED_BY_LOADER.iter().chain(&FURTHER_DIRECTORIES).map(PathBuf::from));
    directories
}

/// The directories that hold libclang according to `ldconfig -p`.
fn directories_in_ldconfig(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter(|line| line.trim_start().starts_with("libclang"))
        .filter_map(|line| line.rsplit(" => ").next())
        .filter_map(|path| Path::new(path.trim()).parent().map(Path::to_path_buf))
        .collect()
}

/// The library in `directory`, if it is one that bindgen can use.
fn library_in(directory: &Path) -> Option<PathBuf> {
    let mut found = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| is_libclang(&name.to_string_lossy())))
        .filter(|path| path.exists())
        .collect::<Vec<_>>();
    found.sort();
    found.into_iter().next()
}

/// `libclang.so`, `libclang-14.so`, `libclang.so.1`, `libclang-14.so.14.0.6`, but not `libclang-cpp.so`.
fn is_libclang(name: &str) -> bool {
    if LIBCLANG_NAMES.contains(&name) {
        return true;
    }
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let version = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
    match rest.split_once(".so") {
        Some((before, after)) => version(before.strip_prefix('-').unwrap_or(before)) && version(after),
        None => false,
    }
}

fn find_compiler() -> Option<String> {
    let named = std::env::var("CXX").ok().into_iter();
    let usual = ["c++", "g++", "clang++"].map(str::to_owned);
    named.chain(usual).find(|name| spoken_by(name, &["--version"]).is_some())
}

/// What `program` prints, or nothing if it is not there or fails.
fn spoken_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn subdirectories(top: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(top) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect()
}

fn trailing_number(path: &Path) -> u32 {
    path.to_string_lossy().rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// True as root on a system with apt-get.
fn can_install() -> bool {
    rustix::process::geteuid().is_root() && spoken_by("apt-get", &["--version"]).is_some()
}

fn apt_get(workspace: &Workspace) -> Command {
    let mut command = workspace.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// What to type, for each family of systems.
fn instructions(names: &str, packages: &[&str]) -> String {
    let debian = packages.join(" ");
    format!(
        "{names} missing: RocksDB is compiled from source and its bindings are made with libclang\n\
         \n\
         \x20 Debian, Ubuntu   sudo apt-get install -y {debian}\n\
         \x20 Fedora           sudo dnf install clang-devel gcc-c++\n\
         \x20 Arch             sudo pacman -S clang gcc\n\
         \x20 macOS            xcode-select --install\n\
         \n\
         If libclang is somewhere else, set LIBCLANG_PATH to its directory."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_bindgen_can_load_are_told_from_those_it_cannot() {
        for name in
            ["libclang.so", "libclang.so.1", "libclang-14.so", "libclang-14.so.14.0.6", "libclang.dylib"]
        {
            assert!(is_libclang(name), "{name}");
        }
        for name in
            ["libclang-cpp.so", "libclang-cpp.so.14", "libclang_rt.so", "libclangBasic.a", "libfoo.so"]
        {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn the_loader_cache_names_the_directory() {
        let text = "12 libs found in cache\n\tlibclang-14.so.1 (libc6,x86-64) => /opt/llvm/lib/libclang-14.so.1\n\
                    \tlibz.so.1 (libc6,x86-64) => /lib/libz.so.1\n";
        assert_eq!(directories_in_ldconfig(text), [PathBuf::from("/opt/llvm/lib")]);
    }

    #[test]
    fn the_instructions_name_the_packages_that_are_missing_and_the_way_out() {
        let text = instructions("libclang", &["libclang-dev"]);
        assert!(text.starts_with("libclang missing"), "{text}");
        assert!(text.contains("apt-get install -y libclang-dev"), "{text}");
        assert!(text.contains("LIBCLANG_PATH"), "{text}");
    }
}
