//! A controller's blocks on disk: one JSON line a block, appended and synced before anybody is told.
//!
//! The file is the oracle of end-to-end runs, and readable without this program: height, hash, how the block
//! came, and its bytes. A last line that was torn by a crash is cut off when the file is opened; any other
//! damage is an error.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::chain::block::{Block, shown};
use crate::chain::{Arrival, Chain};
use crate::now_us;

/// Name of the file in a node's directory.
pub const FILE_NAME: &str = "controller-ledger.jsonl";

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    height: u64,
    hash: String,
    arrival: Arrival,
    arrived_us: u64,
    data: String,
}

/// The open file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Where the line of each height from 1 on ends.
    ends: Vec<u64>,
    is_synced: bool,
}

impl Ledger {
    /// Opens or makes the file and appends its blocks to `chain`, which has its first block only. Without
    /// `is_synced` a crash of the machine may lose blocks.
    ///
    /// # Errors
    /// The file's; a line that is not the chain's next block, unless it is a torn last one.
    pub fn open(path: &Path, is_synced: bool, chain: &mut Chain) -> Result<Self> {
        let name = || path.display().to_string();
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path).with_context(name)?;
        let mut ends = Vec::new();
        let mut end = 0;
        let mut reader = BufReader::new(&file);
        loop {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line).with_context(name)?;
            if length == 0 {
                break;
            }
            if !line.ends_with(b"\n") {
                tracing::warn!(bytes = length, "the last line of {} was torn and is dropped", path.display());
                break;
            }
            append_line(&line, chain).with_context(|| format!("{}:{}", path.display(), ends.len() + 1))?;
            end += length as u64;
            ends.push(end);
        }
        file.set_len(end).with_context(name)?;
        Ok(Self { path: path.to_path_buf(), file, ends, is_synced })
    }

    /// Writes the next block. It is on disk when this returns, with the time of the call in microseconds
    /// since 1970.
    ///
    /// # Errors
    /// The file's.
    pub fn append(&mut self, block: &Block, data: &Bytes, hash: &[u8], arrival: Arrival) -> Result<u64> {
        ensure!(
            block.height == self.ends.len() as u64 + 1,
            "block {} does not follow {} blocks in {}",
            block.height,
            self.ends.len(),
            self.path.display()
        );
        let arrived_us = now_us();
        let record =
            Record { height: block.height, hash: shown(hash), arrival, arrived_us, data: shown(data) };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        let end = self.ends.last().copied().unwrap_or(0);
        if let Err(error) = self.file.write_all(&line).context("write").and_then(|()| self.sync()) {
            // Half a line must not stand before the next one.
            self.file.set_len(end).with_context(|| self.path.display().to_string())?;
            return Err(error.context(self.path.display().to_string()));
        }
        self.ends.push(end + line.len() as u64);
        Ok(arrived_us)
    }

    /// Takes away everything above `height`.
    ///
    /// # Errors
    /// The file's.
    pub fn truncate(&mut self, height: u64) -> Result<()> {
        self.ends.truncate(height as usize);
        let end = self.ends.last().copied().unwrap_or(0);
        self.file.set_len(end).with_context(|| self.path.display().to_string())?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        if self.is_synced {
            self.file.sync_data().with_context(|| self.path.display().to_string())?;
        }
        Ok(())
    }
}

fn append_line(line: &[u8], chain: &mut Chain) -> Result<()> {
    let record: Record = serde_json::from_slice(line)?;
    let data = Bytes::from(hex::decode(&record.data).context("data")?);
    let block = Block::decode(data.clone()).context("data")?;
    if block.height != chain.height() + 1 || block.prevhash != chain.tip().hash {
        bail!("block {} does not extend a chain of height {}", block.height, chain.height());
    }
    chain.append(block, data, record.arrival, record.arrived_us);
    ensure!(shown(&chain.tip().hash) == record.hash, "block {}: another hash", record.height);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ControllerConfig;

    fn chain() -> Chain {
        Chain::new(&ControllerConfig {
            controller_port: 0,
            consensus_port: 0,
            network_port: 0,
            address: Bytes::from(vec![1; 20]),
            block_interval: 3,
            validators: vec![Bytes::from(vec![1; 20])],
            chain_id: Bytes::from_static(b"test"),
            genesis_ms: 1,
        })
    }

    fn grow(ledger: &mut Ledger, chain: &mut Chain, count: usize) {
        for _ in 0..count {
            let (_, data) = chain.propose(5);
            let block = Block::decode(data.clone()).unwrap();
            let hash = crate::chain::block::hash(&data);
            let arrived_us = ledger.append(&block, &data, &hash, Arrival::Commit).unwrap();
            chain.append(block, data, Arrival::Commit, arrived_us);
        }
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_a_torn_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let mut before = chain();
        let mut ledger = Ledger::open(&path, true, &mut before).unwrap();
        grow(&mut ledger, &mut before, 3);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        let mut after = chain();
        let mut ledger = Ledger::open(&path, true, &mut after).unwrap();
        assert_eq!(after.height(), 2);
        assert_eq!(after.tip().hash, before.blocks()[2].hash);
        grow(&mut ledger, &mut after, 1);
        let mut again = chain();
        Ledger::open(&path, true, &mut again).unwrap();
        assert_eq!(again.tip().hash, after.tip().hash);
    }

    #[test]
    fn a_rollback_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let mut before = chain();
        let mut ledger = Ledger::open(&path, false, &mut before).unwrap();
        grow(&mut ledger, &mut before, 4);
        let height = before.roll_back(3);
        ledger.truncate(height).unwrap();
        grow(&mut ledger, &mut before, 1);
        let mut after = chain();
        Ledger::open(&path, false, &mut after).unwrap();
        assert_eq!((after.height(), &after.tip().hash), (2, &before.tip().hash));
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_that_names_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let mut chain_before = chain();
        let mut ledger = Ledger::open(&path, false, &mut chain_before).unwrap();
        grow(&mut ledger, &mut chain_before, 2);
        let text = std::fs::read_to_string(&path).unwrap().replacen("{\"height\":1", "{\"height\":x", 1);
        std::fs::write(&path, text).unwrap();
        let error = Ledger::open(&path, false, &mut chain()).unwrap_err();
        assert!(error.to_string().ends_with(&format!("{FILE_NAME}:1")), "{error}");
    }
}
