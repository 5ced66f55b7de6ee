//! What the chains must show, beyond what every end-to-end run checks.
//!
//! [`judge`](crate::e2e::assertions::judge) compares acknowledgements with places. Here: what was refused is
//! not in the chain, and acknowledged transactions stand in real-time order, across all clients: if one was
//! acknowledged before another was first sent, it stands before it.

use std::collections::BTreeSet;

use crate::e2e::assertions::LISTED_MAX;
use crate::e2e::cli::{Block, Receipt};
use crate::e2e::clients::Finished;

/// A client reads its clock a little after the answer has come, later on a busy machine. Two transactions
/// less than this apart, in microseconds, are taken for simultaneous.
const SLACK_US: u64 = 100_000;

/// What is wrong.
pub(crate) fn findings(clients: &[Finished], chain: &[Block]) -> Vec<String> {
    let mut findings = refused_is_not_there(clients, chain);
    findings.extend(real_time_order(clients));
    findings
}

fn refused_is_not_there(clients: &[Finished], chain: &[Block]) -> Vec<String> {
    let refused = clients.iter().flat_map(|client| &client.receipts).filter(|r| r.outcome == "refused");
    let refused = refused.map(|receipt| receipt.id.as_str()).collect::<BTreeSet<_>>();
    let there = chain.iter().flat_map(|block| block.transactions.iter().flatten());
    let there = there.filter(|transaction| refused.contains(transaction.id.as_str()));
    there.map(|transaction| format!("refused: {} is in the chain", transaction.id)).collect()
}

/// An acknowledged transaction: when it was surely not yet sent, when it was surely answered, its place.
#[derive(Clone, Copy, Debug)]
struct Operation<'a> {
    start_us: u64,
    end_us: u64,
    place: (u64, u64),
    id: &'a str,
}

impl<'a> Operation<'a> {
    fn of(receipt: &'a Receipt) -> Option<Self> {
        let end_us = receipt.at_ms * 1000;
        let place = (receipt.height?, receipt.index?);
        let start_us = end_us.saturating_sub(receipt.latency_us? + SLACK_US);
        Some(Self { start_us, end_us: end_us + 1000, place, id: &receipt.id })
    }
}

/// Goes through the operations by their start, and keeps the furthest place among those that had ended.
fn real_time_order(clients: &[Finished]) -> Vec<String> {
    let receipts = clients.iter().flat_map(|client| &client.receipts).filter(|r| r.is_committed());
    let mut by_start = receipts.filter_map(Operation::of).collect::<Vec<_>>();
    let mut by_end = by_start.clone();
    by_start.sort_by_key(|operation| operation.start_us);
    by_end.sort_by_key(|operation| operation.end_us);
    let mut ended = by_end.into_iter().peekable();
    let mut furthest: Option<Operation<'_>> = None;
    let mut findings = Vec::new();
    for operation in by_start {
        while let Some(before) = ended.next_if(|before| before.end_us < operation.start_us) {
            furthest = furthest.filter(|furthest| furthest.place > before.place).or(Some(before));
        }
        if let Some(before) = furthest.filter(|before| before.place > operation.place) {
            findings.push(format!(
                "real time: {} at {:?} was acknowledged {} ms before {} at {:?} was sent",
                before.id,
                before.place,
                (operation.start_us - before.end_us) / 1000,
                operation.id,
                operation.place
            ));
        }
    }
    let more = findings.len().saturating_sub(LISTED_MAX);
    findings.truncate(LISTED_MAX);
    if more > 0 {
        findings.push(format!("real time: and {more} more"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::e2e::cli::Transaction;
    use crate::e2e::clients::Share;

    /// Sent and answered at these milliseconds, at this height.
    fn receipt(id: &str, sent_ms: u64, at_ms: u64, height: u64) -> Receipt {
        Receipt {
            id: id.to_owned(),
            outcome: "committed".to_owned(),
            height: Some(height),
            index: Some(0),
            block_hash: None,
            duplicate: false,
            latency_us: Some((at_ms - sent_ms) * 1000),
            at_ms,
        }
    }

    fn client(receipts: Vec<Receipt>) -> Finished {
        let share = Share { client: "a".into(), lines: Arc::new(Vec::new()) };
        Finished { share, sent: 0, is_ordered: false, receipts, summary: None, complaint: None }
    }

    #[test]
    fn an_acknowledged_transaction_before_one_that_ended_earlier_is_found_across_clients() {
        let one = client(vec![receipt("a-1", 0, 1000, 5), receipt("a-2", 3000, 3500, 7)]);
        let other = client(vec![receipt("b-1", 2000, 2500, 4)]);
        let found = real_time_order(&[one, other]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("a-1 at (5, 0)") && found[0].contains("b-1"), "{found:?}");
    }

    #[test]
    fn transactions_that_overlap_may_stand_either_way() {
        let one = client(vec![receipt("a-1", 0, 1000, 5)]);
        assert_eq!(real_time_order(&[one.clone(), client(vec![receipt("b-1", 900, 2000, 4)])]).len(), 0);
        let close = client(vec![receipt("b-1", 1050, 2000, 4)]);
        assert_eq!(real_time_order(&[one, close]).len(), 0);
    }

    #[test]
    fn a_late_operation_does_not_hide_the_furthest_place() {
        let receipts = vec![
            receipt("a-1", 0, 100, 9),
            receipt("a-2", 0, 200, 1),
            receipt("a-3", 1000, 1100, 8),
            receipt("a-4", 2000, 2100, 10),
        ];
        assert_eq!(real_time_order(&[client(receipts)]).len(), 1);
    }

    #[test]
    fn a_refused_transaction_in_the_chain_is_found() {
        let refused = Receipt { outcome: "refused".into(), ..receipt("a-1", 0, 1, 1) };
        let transactions = Some(vec![Transaction { id: "a-1".into(), payload: None }]);
        let block = Block { height: 1, hash: "a".into(), previous_hash: String::new(), transactions };
        assert_eq!(findings(&[client(vec![refused])], &[block]), ["refused: a-1 is in the chain"]);
    }
}
