//! A data directory that an earlier build has written is opened, read to its last byte and gone on with.
//!
//! `golden/format-N` holds what a node of one member left on disk when it was killed after a restart: 41
//! transactions in 11 blocks, in tables and in the log that RocksDB replays. Who changes what is on disk raises
//! the format number, adds a directory beside it, and says in `deploy/docs/upgrade.md` what becomes of the old.

mod edge_harness;

use std::fs;
use std::path::{Path, PathBuf};

use consensus_core::storage::FORMAT_VERSION;
use consensus_proto::ordering::{DeliverRequest, SubmitRequest};
use consensus_server::config::Config;
use edge_harness::{ordering, start_alone};
use tempfile::TempDir;

/// The newest block of `format-1`.
const TIP: (u64, &str) = (11, "e755de24176fd87d1436c86e9a5011a6a6edfafabbc42ed2b6ee540edd010b3c");

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{format}"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("readable") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("readable");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

#[test]
fn every_format_has_its_golden_directory() {
    for format in 1..=FORMAT_VERSION {
        assert!(golden(format).join("db/CURRENT").is_file(), "format {format} has none");
    }
}

#[tokio::test]
async fn a_directory_of_an_earlier_build_is_read_to_its_end_and_gone_on_with() {
    let directory = TempDir::new().expect("a directory");
    copy(&golden(1), &directory.path().join("data"));
    let text = "[node]\nid = 1\ncluster = 'golden'\ndata_dir = 'data'\n[chain]\nname = 'golden'\n[listen]\n\
                client = '127.0.0.1:0'\npeer = '127.0.0.1:0'\nops = '127.0.0.1:0'\n[security]\ninsecure = true\n";
    let config = Config::parse(text, "golden", directory.path()).expect("valid");
    let server = start_alone(config).await;
    let mut client = ordering(&server).await;
    let request = SubmitRequest { payload: "goes on".into(), ..SubmitRequest::default() };
    client.submit(request).await.expect("is taken");
    let request = DeliverRequest { to: TIP.0 + 1, ..Default::default() };
    let mut blocks = client.deliver(request).await.expect("opens").into_inner();
    let (mut heights, mut transactions, mut previous) = (0, 0, None);
    while let Some(block) = blocks.message().await.expect("every block can be read") {
        let header = block.header.expect("a header");
        heights += 1;
        assert_eq!(header.number, heights);
        assert!(previous.is_none_or(|previous| previous == header.previous_hash));
        if heights == TIP.0 {
            assert_eq!(hex::encode(&block.hash), TIP.1);
        }
        transactions += block.transactions.len();
        previous = Some(block.hash);
    }
    assert_eq!((heights, transactions), (TIP.0 + 1, 42));
    server.stop().await;
}
