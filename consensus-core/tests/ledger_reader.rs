//! Reading the chain, proofs from the store, and that the check of a stored chain finds what is wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ledger_support;

use bytes::Bytes;
use consensus_core::ids::Hash;
use consensus_core::ledger::{
    Finding, HashRule, LedgerConfig, LedgerReader, Verified, encode_proposal, records, verify_chain,
};
use consensus_core::storage::LogReader;
use consensus_proto::records::{BlockRecord, LedgerTip, TransactionRecord};
use ledger_support::{Chain, entry, transaction, transactions, window};
use prost::Message;

/// Five blocks with empty entries, duplicates and an entry without a block among them.
fn chain() -> Chain {
    let mut chain = Chain::new(window(6));
    chain.block(10, &["a", "b", "c"]);
    chain.entry(&entry(2, Bytes::new()));
    chain.block(20, &["d", "a", "e"]);
    chain.block(20, &["a", "e"]);
    chain.block(30, &["f"]);
    chain.block(40, &["g", "h"]);
    chain.block(50, &["a", "b"]);
    assert_eq!(chain.ledger.tip().height, 5);
    chain
}

#[test]
fn blocks_are_read_as_they_were_applied() {
    let mut chain = Chain::new(LedgerConfig::default());
    let mut applied = Vec::new();
    for n in 0..20u64 {
        chain.entry(&entry(chain.last + 1, Bytes::new()));
        let ids = [format!("{n}"), format!("{}", n / 2), format!("{n} more")];
        let block = chain.block(n, &[&ids[0], &ids[1], &ids[2]]).block.unwrap();
        applied.push((*block).clone());
    }
    let reader = chain.reader();
    assert_eq!(reader.tip().unwrap(), chain.ledger.tip());
    for block in &applied {
        let height = block.header.number;
        assert_eq!(reader.block(height).unwrap().as_ref(), Some(block));
        let header = reader.header(height).unwrap().unwrap();
        assert_eq!((header.header, header.hash), (block.header, block.hash));
        assert_eq!(header.transactions as usize, block.transactions.len());
    }
    assert_eq!(reader.blocks(1..100, u64::MAX).unwrap(), applied);
    assert_eq!(reader.blocks(5..9, u64::MAX).unwrap(), applied[4..8]);
    assert_eq!(reader.headers(5..100, 4).unwrap().len(), 4);
}

#[test]
fn a_range_ends_before_the_bytes_run_out_but_gives_at_least_one_block() {
    let chain = chain();
    let reader = chain.reader();
    assert_eq!(reader.blocks(1..6, 1).unwrap().len(), 1);
    let mut from = 1;
    let mut all = Vec::new();
    while from < 6 {
        let blocks = reader.blocks(from..6, 60).unwrap();
        assert!(!blocks.is_empty());
        from += blocks.len() as u64;
        all.extend(blocks);
    }
    assert_eq!(all, reader.blocks(0..u64::MAX, u64::MAX).unwrap());
}

#[test]
fn what_is_not_in_the_chain_is_not_found() {
    let chain = chain();
    let reader = chain.reader();
    for height in [0, 6, u64::MAX] {
        assert_eq!(reader.block(height).unwrap(), None);
        assert_eq!(reader.header(height).unwrap(), None);
    }
    assert_eq!(reader.blocks(6..10, u64::MAX).unwrap(), []);
    assert_eq!(reader.blocks(3..3, u64::MAX).unwrap(), []);
    assert_eq!(reader.transaction(b"zz").unwrap(), None);
    assert_eq!(reader.prove(b"zz").unwrap(), None);
    let empty = Chain::new(LedgerConfig::default());
    assert_eq!(empty.reader().tip().unwrap(), empty.ledger.tip());
    assert_eq!(empty.reader().blocks(1..10, u64::MAX).unwrap(), []);
}

#[test]
fn a_transaction_is_found_at_its_last_position_and_proved_there() {
    let chain = chain();
    let reader = chain.reader();
    for (id, height, index) in [("c", 1, 2), ("e", 2, 1), ("h", 4, 1), ("a", 5, 0)] {
        let (record, hash) = reader.transaction(id.as_bytes()).unwrap().unwrap();
        assert_eq!((record.height, record.index), (height, index), "{id}");
        assert_eq!(hash, reader.block(height).unwrap().unwrap().hash);
        let proof = reader.prove(id.as_bytes()).unwrap().unwrap();
        assert_eq!(proof.verify(), Ok(()));
        assert_eq!(
            (proof.transaction.clone(), proof.index, proof.block_hash),
            (transaction(id), index, hash)
        );
    }
}

#[test]
fn a_body_that_was_exchanged_is_not_proved() {
    let mut chain = chain();
    let forged = encode_proposal(10, &transactions(&["a", "B", "c"]));
    chain.forge(1, forged);
    let error = chain.reader().prove(b"c").unwrap_err();
    assert!(error.to_string().starts_with("ledger record block 1: the path does not lead"), "{error}");
}

#[test]
fn damage_on_the_way_to_a_block_is_an_error_that_names_the_block() {
    let mut chain = chain();
    let (block, _) = stored(&chain, 2);
    let cases: [(BlockRecord, &str); 4] = [
        (BlockRecord { log_term: 7, ..block.clone() }, "found entry 3 of term 1, expected entry 3 of term 7"),
        (BlockRecord { transactions: 3, ..block.clone() }, "entry 3 holds 2 of its 3 transactions"),
        (BlockRecord { skipped: Vec::new(), ..block.clone() }, "entry 3 holds 3 of its 2 transactions"),
        (BlockRecord { header: None, ..block.clone() }, "header missing or hash not of 32 bytes"),
    ];
    for (record, expected) in cases {
        chain.tamper(&records::block_key(2), Some(record.encode_to_vec()));
        let error = chain.reader().block(2).unwrap_err().to_string();
        assert_eq!(error, format!("ledger record block 2: {expected}"));
        assert!(chain.reader().blocks(1..6, u64::MAX).is_err());
    }
    chain.tamper(&records::block_key(2), Some(block.encode_to_vec()));
    chain.forge(3, Bytes::from_static(b"\xff"));
    let error = chain.reader().block(2).unwrap_err().to_string();
    assert!(error.starts_with("entry 3: 1 bytes do not decode"), "{error}");
}

#[test]
fn a_range_with_a_block_that_does_not_follow_the_one_before_is_an_error() {
    let chain = chain();
    let (mut block, _) = stored(&chain, 3);
    block.header.as_mut().unwrap().previous_hash = Bytes::from_static(&[9; 32]);
    chain.tamper(&records::block_key(3), Some(block.encode_to_vec()));
    let error = chain.reader().blocks(2..5, u64::MAX).unwrap_err().to_string();
    assert!(error.starts_with("ledger record block 3: previous hash is 0909"), "{error}");
    chain.tamper(&records::block_key(3), None);
    assert_eq!(
        chain.reader().blocks(2..5, u64::MAX).unwrap_err().to_string(),
        "ledger record block 3: missing"
    );
}

fn stored(chain: &Chain, height: u64) -> (BlockRecord, Vec<u8>) {
    let value = chain.store.application_record(chain.id, &records::block_key(height)).unwrap().unwrap();
    (BlockRecord::decode(value.clone()).unwrap(), value.to_vec())
}

fn verify(chain: &Chain, heights: std::ops::Range<u64>) -> (Verified, Vec<Finding>) {
    let mut findings = Vec::new();
    let verified =
        verify_chain(&*chain.store, chain.id, chain.genesis, HashRule::Native, heights, &mut |finding| {
            findings.push(finding);
        })
        .unwrap();
    assert_eq!(verified.findings, findings.len() as u64);
    (verified, findings)
}

#[test]
fn a_sound_chain_has_no_findings_in_any_range() {
    let chain = chain();
    let (verified, findings) = verify(&chain, 0..u64::MAX);
    assert_eq!((verified.blocks, verified.transactions, findings), (5, 10, Vec::new()));
    for from in 0..8 {
        for to in 0..8 {
            let (verified, findings) = verify(&chain, from..to);
            assert_eq!(findings, []);
            assert_eq!(verified.blocks, (from.max(1)..to.min(6)).count() as u64);
        }
    }
    let empty = Chain::new(LedgerConfig::default());
    assert_eq!(verify(&empty, 0..u64::MAX), (Verified::default(), Vec::new()));
}

#[test]
fn each_kind_of_damage_is_found_at_its_height() {
    type Damage = fn(&mut Chain);
    fn block(chain: &Chain, height: u64, change: fn(&mut BlockRecord)) {
        let (mut block, _) = stored(chain, height);
        change(&mut block);
        chain.tamper(&records::block_key(height), Some(block.encode_to_vec()));
    }
    fn tip(chain: &Chain, change: fn(&mut LedgerTip)) {
        let value = chain.store.application_record(chain.id, records::TIP_KEY).unwrap().unwrap();
        let mut tip = LedgerTip::decode(value).unwrap();
        change(&mut tip);
        chain.tamper(records::TIP_KEY, Some(tip.encode_to_vec()));
    }
    fn header(block: &mut BlockRecord) -> &mut consensus_proto::records::BlockHeader {
        block.header.as_mut().unwrap()
    }
    const ZEROS: Bytes = Bytes::from_static(&[0; 32]);
    let cases: [(Damage, &[(u64, &str)]); 19] = [
        (|c| c.tamper(&records::block_key(3), None), &[(3, "record"), (5, "transactions in the chain")]),
        (
            |c| c.tamper(&records::block_key(3), Some(vec![255])),
            &[(3, "record"), (5, "transactions in the chain")],
        ),
        (|c| block(c, 2, |b| header(b).number = 7), &[(2, "record"), (5, "transactions in the chain")]),
        (|c| block(c, 1, |b| header(b).previous_hash = ZEROS), &[(1, "previous hash"), (2, "previous hash")]),
        (|c| block(c, 3, |b| header(b).data_hash = ZEROS), &[(3, "data hash"), (4, "previous hash")]),
        (|c| block(c, 2, |b| header(b).timestamp_ms = 1), &[(2, "timestamp"), (3, "previous hash")]),
        (|c| block(c, 5, |b| header(b).timestamp_ms = 51), &[(5, "tip hash"), (5, "tip timestamp")]),
        (|c| block(c, 4, |b| b.log_index = 1), &[(4, "entry"), (4, "body")]),
        (|c| block(c, 4, |b| b.log_term = 2), &[(4, "body")]),
        (|c| block(c, 4, |b| b.transactions = 3), &[(4, "body"), (5, "transactions in the chain")]),
        (|c| block(c, 4, |b| b.bytes += 1), &[(4, "payload bytes")]),
        (|c| block(c, 2, |b| b.skipped = vec![1, 1]), &[(2, "skipped positions")]),
        (
            |c| c.forge(1, encode_proposal(1, &transactions(&["a", "c", "b"]))),
            &[(1, "data hash"), (1, "transaction record")],
        ),
        (|c| c.tamper(&records::transaction_key(b"d"), None), &[(2, "transaction record")]),
        (
            |c| {
                let wrong = TransactionRecord { height: 4, index: 0 };
                c.tamper(&records::transaction_key(b"d"), Some(wrong.encode_to_vec()));
            },
            &[(2, "transaction record")],
        ),
        (|c| c.tamper(&records::transaction_key(b"d"), Some(vec![255])), &[(2, "transaction record")]),
        (|c| tip(c, |t| t.transactions += 1), &[(5, "transactions in the chain")]),
        (|c| tip(c, |t| t.hash = ZEROS), &[(5, "tip hash")]),
        (
            |c| tip(c, |t| (t.height, t.transactions) = (4, 8)),
            &[(4, "tip hash"), (4, "tip timestamp"), (5, "record")],
        ),
    ];
    for (number, (damage, expected)) in cases.into_iter().enumerate() {
        let mut chain = chain();
        damage(&mut chain);
        let (_, findings) = verify(&chain, 0..u64::MAX);
        let found: Vec<_> = findings.iter().map(|finding| (finding.height, finding.what)).collect();
        assert_eq!(found, expected, "case {number}: {findings:?}");
    }
}

#[test]
fn a_finding_says_what_is_expected_and_what_is_there() {
    let chain = chain();
    let (mut block, _) = stored(&chain, 4);
    block.bytes = 3;
    chain.tamper(&records::block_key(4), Some(block.encode_to_vec()));
    let (_, findings) = verify(&chain, 4..5);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].to_string(), "block 4: payload bytes is 3, expected 24");
}

#[test]
fn another_chains_genesis_is_found() {
    let chain = chain();
    let mut findings = Vec::new();
    let other = Hash([1; 32]);
    verify_chain(&*chain.store, chain.id, other, HashRule::Native, 0..2, &mut |f| findings.push(f)).unwrap();
    assert_eq!((findings.len(), findings[0].height, findings[0].what), (1, 1, "previous hash"));
    let reader = LedgerReader::new(chain.store.clone(), chain.id, other, HashRule::Native);
    assert_eq!(reader.tip().unwrap().height, 5, "a reader trusts the ledger's own check at open");
}
