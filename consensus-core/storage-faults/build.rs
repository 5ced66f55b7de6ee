//! Compiles the file system against the headers of the RocksDB that is linked.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/fault_fs.cc");
    let sources = env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys says where it is");
    cc::Build::new()
        .cpp(true)
        .file("src/fault_fs.cc")
        .include(PathBuf::from(sources).join("rocksdb/include"))
        .std("c++20")
        // As librocksdb-sys compiles the library: what is declared must be laid out alike.
        .define("NDEBUG", "1")
        .flag_if_supported("-Wno-unused-parameter")
        .compile("fault_fs");
}
