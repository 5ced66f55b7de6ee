//! Paths that are no data directories are refused and left as they are: nothing is begun anew in their place. The R
//! numbers are those of the catalogue (`docs/catalogue.md`).

#![cfg(feature = "rocksdb")]

mod storage_support;

use std::fs;

use storage_support::try_open;
use tempfile::tempdir;

#[test]
fn r12_a_path_that_is_a_file_is_refused_by_name_and_the_file_is_left_alone() {
    let directory = tempdir().expect("a temporary directory");
    let path = directory.path().join("data");
    fs::write(&path, "notes").expect("written");
    let error = try_open(&path).expect_err("it is a file").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("readable"), "notes");
}

#[test]
fn r13_an_engine_that_is_a_file_is_refused_and_no_new_one_is_begun() {
    let directory = tempdir().expect("a temporary directory");
    storage_support::fill(directory.path(), 4);
    let engine = directory.path().join("db");
    fs::remove_dir_all(&engine).expect("removed");
    fs::write(&engine, "notes").expect("written");
    let error = try_open(directory.path()).expect_err("the engine is no directory").to_string();
    assert!(error.contains(&directory.path().display().to_string()), "{error}");
    assert_eq!(fs::read_to_string(&engine).expect("readable"), "notes");
}

#[test]
fn r14_a_directory_that_cannot_be_made_is_named() {
    let directory = tempdir().expect("a temporary directory");
    let parent = directory.path().join("parent");
    fs::write(&parent, "notes").expect("written");
    let path = parent.join("data");
    let error = try_open(&path).expect_err("its parent is a file").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}
