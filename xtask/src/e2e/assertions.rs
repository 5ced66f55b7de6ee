//! What must hold after the faults, as a pure function of what clients were told and what the chain has.
//!
//! Every acknowledged transaction is in the chain exactly once, at the place that was acknowledged; no
//! transaction is there twice, acknowledged or not; nothing is there that nobody submitted; the transactions
//! of each client that asked for it stand in its order; all nodes have the same chain, linked from the first block on.

use std::collections::BTreeMap;

use super::cli::{Block, Receipt, shown_bytes};
use super::clients::Finished;

/// How many findings of one kind are listed; the rest is counted.
pub(crate) const LISTED_MAX: usize = 5;

/// Counts for the table, and what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) sent: usize,
    pub(crate) acknowledged: usize,
    /// Transactions in the chain.
    pub(crate) in_chain: usize,
    /// Acknowledged and not in the chain.
    pub(crate) lost: usize,
    /// In the chain more than once.
    pub(crate) doubled: usize,
    pub(crate) findings: Vec<String>,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    height: u64,
    index: u64,
}

/// Judges what `clients` were told against `chains`, one per node, with the node's id.
pub(crate) fn judge(clients: &[Finished], chains: &[(u64, Vec<Block>)]) -> Verdict {
    let mut findings = Findings::default();
    equal_chains(chains, &mut findings);
    let Some((_, chain)) = chains.first() else {
        findings.add("chains", "no node has shown its chain".to_owned());
        return Verdict { findings: findings.into_lines(), ..Verdict::default() };
    };
    linked(chain, &mut findings);
    let places = places(chain);
    let doubled = once(&places, &mut findings);
    only_what_was_sent(clients, chain, &mut findings);
    let lost = acknowledged_is_there(clients, chain, &places, &mut findings);
    let ordered = clients.iter().filter(|client| client.is_ordered);
    ordered.for_each(|client| in_order(client, &places, &mut findings));
    for complaint in clients.iter().filter_map(|client| client.complaint.as_ref()) {
        findings.add("clients", complaint.clone());
    }
    Verdict {
        sent: clients.iter().map(|client| client.sent).sum(),
        acknowledged: clients.iter().flat_map(|client| &client.receipts).filter(|r| r.is_committed()).count(),
        in_chain: chain.iter().map(|block| block.transactions.as_ref().map_or(0, Vec::len)).sum(),
        lost,
        doubled,
        findings: findings.into_lines(),
    }
}

/// Findings by kind, the first few of each in full.
#[derive(Debug, Default)]
struct Findings {
    by_kind: BTreeMap<&'static str, (Vec<String>, usize)>,
}

impl Findings {
    fn add(&mut self, kind: &'static str, what: String) {
        let (listed, more) = self.by_kind.entry(kind).or_default();
        if listed.len() < LISTED_MAX {
            listed.push(what);
        } else {
            *more += 1;
        }
    }

    fn into_lines(self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, (listed, more)) in self.by_kind {
            lines.extend(listed.into_iter().map(|what| format!("{kind}: {what}")));
            if more > 0 {
                lines.push(format!("{kind}: and {more} more"));
            }
        }
        lines
    }
}

fn equal_chains(chains: &[(u64, Vec<Block>)], findings: &mut Findings) {
    let Some(((first_id, first), others)) = chains.split_first() else { return };
    for (id, chain) in others {
        if chain.len() != first.len() {
            let what = format!("node {first_id} has {} blocks, node {id} has {}", first.len(), chain.len());
            findings.add("chains", what);
        }
        let differing = first.iter().zip(chain).find(|(one, other)| one.hash != other.hash);
        if let Some((one, other)) = differing {
            let what = format!(
                "at height {} node {first_id} has block {}, node {id} has {}",
                one.height, one.hash, other.hash
            );
            findings.add("chains", what);
        }
    }
}

fn linked(chain: &[Block], findings: &mut Findings) {
    for (expected, block) in (1..).zip(chain) {
        if block.height != expected {
            findings.add("links", format!("height {} stands where {expected} is due", block.height));
        }
    }
    for pair in chain.windows(2) {
        if pair[1].previous_hash != pair[0].hash {
            let what = format!(
                "block {} names {} as its predecessor, which has the hash {}",
                pair[1].height, pair[1].previous_hash, pair[0].hash
            );
            findings.add("links", what);
        }
    }
}

/// All places of each transaction id.
fn places(chain: &[Block]) -> BTreeMap<&str, Vec<Place>> {
    let mut places: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
    for block in chain {
        for (index, transaction) in (0..).zip(block.transactions.iter().flatten()) {
            places.entry(&transaction.id).or_default().push(Place { height: block.height, index });
        }
    }
    places
}

fn once(places: &BTreeMap<&str, Vec<Place>>, findings: &mut Findings) -> usize {
    let doubled = places.iter().filter(|(_, places)| places.len() > 1);
    doubled
        .map(|(id, places)| {
            findings.add("doubled", format!("{id} is in the chain {} times: {places:?}", places.len()))
        })
        .count()
}

fn only_what_was_sent(clients: &[Finished], chain: &[Block], findings: &mut Findings) {
    let by_name =
        clients.iter().map(|client| (client.share.client.as_str(), client)).collect::<BTreeMap<_, _>>();
    for transaction in chain.iter().flat_map(|block| block.transactions.iter().flatten()) {
        let sent = transaction.id.rsplit_once('-').and_then(|(name, line)| {
            let position = line.parse::<usize>().ok()?.checked_sub(1)?;
            by_name.get(name)?.share.lines.get(position)
        });
        match (sent, &transaction.payload) {
            (Some(line), Some(payload)) if shown_bytes(line) == *payload => {}
            (Some(line), payload) => {
                let what = format!("{} was sent as {:?}, is {payload:?}", transaction.id, shown_bytes(line));
                findings.add("payloads", what);
            }
            (None, _) => findings.add("payloads", format!("{} was sent by no client", transaction.id)),
        }
    }
}

/// Every acknowledged transaction stands at the acknowledged place; returns how many are nowhere.
fn acknowledged_is_there(
    clients: &[Finished],
    chain: &[Block],
    places: &BTreeMap<&str, Vec<Place>>,
    findings: &mut Findings,
) -> usize {
    let mut lost = 0;
    for receipt in clients.iter().flat_map(|client| &client.receipts).filter(|receipt| receipt.is_committed())
    {
        let Some(found) = places.get(receipt.id.as_str()) else {
            lost += 1;
            findings.add(
                "lost",
                format!("{} was acknowledged at {}, is not there", receipt.id, place_text(receipt)),
            );
            continue;
        };
        let acknowledged = receipt.height.zip(receipt.index).map(|(height, index)| Place { height, index });
        if acknowledged.is_none_or(|place| !found.contains(&place)) {
            let what = format!("{} was acknowledged at {}, is at {found:?}", receipt.id, place_text(receipt));
            findings.add("misplaced", what);
            continue;
        }
        let position = receipt.height.and_then(|height| usize::try_from(height - 1).ok());
        let block = position.and_then(|position| chain.get(position));
        if block.map(|block| &block.hash) != receipt.block_hash.as_ref() {
            let what = format!("{} was acknowledged in block {:?}", receipt.id, receipt.block_hash);
            findings.add("misplaced", what);
        }
    }
    lost
}

fn place_text(receipt: &Receipt) -> String {
    match (receipt.height, receipt.index) {
        (Some(height), Some(index)) => format!("height {height} index {index}"),
        _ => "no place".to_owned(),
    }
}

fn in_order(client: &Finished, places: &BTreeMap<&str, Vec<Place>>, findings: &mut Findings) {
    let mut last: Option<(usize, Place)> = None;
    for line in 1..=client.share.lines.len() {
        let id = format!("{}-{line}", client.share.client);
        let Some(place) = places.get(id.as_str()).and_then(|places| places.first()) else { continue };
        if let Some((last_line, last_place)) = last.filter(|(_, last_place)| last_place > place) {
            let what = format!(
                "{} line {line} is at {place:?}, before line {last_line} at {last_place:?}",
                client.share.client
            );
            findings.add("order", what);
        }
        last = Some((line, *place));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::cli::Transaction;
    use super::super::clients::Share;
    use super::*;

    fn block(height: u64, ids: &[&str]) -> Block {
        let transactions = ids
            .iter()
            .map(|id| Transaction { id: (*id).to_owned(), payload: Some(format!("payload {id}")) })
            .collect();
        Block {
            height,
            hash: format!("hash {height} {ids:?}"),
            previous_hash: String::new(),
            transactions: Some(transactions),
        }
    }

    fn chain(blocks: &[&[&str]]) -> Vec<Block> {
        let mut chain: Vec<Block> = Vec::new();
        for (height, ids) in (1..).zip(blocks) {
            let mut next = block(height, ids);
            next.previous_hash = chain.last().map_or_else(String::new, |block| block.hash.clone());
            chain.push(next);
        }
        chain
    }

    /// A client `a` of four lines that was told these places of its lines.
    fn client(chain: &[Block], acknowledged: &[(u64, u64, u64)]) -> Finished {
        let lines = (1..=4).map(|line| format!("payload a-{line}").into_bytes()).collect();
        let receipt = |&(line, height, index): &(u64, u64, u64)| Receipt {
            id: format!("a-{line}"),
            outcome: "committed".into(),
            height: Some(height),
            index: Some(index),
            block_hash: chain.get(height as usize - 1).map(|block| block.hash.clone()),
            duplicate: false,
            latency_us: Some(1),
            at_ms: 0,
        };
        Finished {
            share: Share { client: "a".into(), lines: Arc::new(lines) },
            sent: 4,
            is_ordered: true,
            receipts: acknowledged.iter().map(receipt).collect(),
            summary: None,
            complaint: None,
        }
    }

    fn kinds(client: Finished, chains: &[Vec<Block>]) -> Vec<String> {
        let chains = (1..).zip(chains.iter().cloned()).collect::<Vec<_>>();
        let verdict = judge(&[client], &chains);
        verdict.findings.iter().filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
    }

    #[test]
    fn a_chain_with_everything_at_its_place_is_fine() {
        let good = chain(&[&["a-1", "a-2"], &["a-3"], &["a-4"]]);
        let told = client(&good, &[(1, 1, 0), (2, 1, 1), (3, 2, 0)]);
        let verdict = judge(&[told], &[(1, good.clone()), (2, good)]);
        assert_eq!(verdict.findings, Vec::<String>::new());
        assert_eq!((verdict.sent, verdict.acknowledged, verdict.in_chain), (4, 3, 4));
        assert_eq!((verdict.lost, verdict.doubled), (0, 0));
    }

    #[test]
    fn a_lost_transaction_is_found() {
        let bad = chain(&[&["a-1"], &["a-3"]]);
        assert_eq!(kinds(client(&bad, &[(1, 1, 0), (2, 1, 1)]), &[bad]), ["lost"]);
    }

    #[test]
    fn a_doubled_transaction_is_found_whether_acknowledged_or_not() {
        let bad = chain(&[&["a-1"], &["a-1"]]);
        assert_eq!(kinds(client(&bad, &[]), std::slice::from_ref(&bad)), ["doubled"]);
        assert_eq!(kinds(client(&bad, &[(1, 1, 0)]), &[bad]), ["doubled"]);
    }

    #[test]
    fn a_transaction_at_another_place_or_in_another_block_is_found() {
        let bad = chain(&[&["a-1"], &["a-2"]]);
        assert_eq!(kinds(client(&bad, &[(2, 1, 1)]), std::slice::from_ref(&bad)), ["misplaced"]);
        let mut told = client(&bad, &[(1, 1, 0)]);
        told.receipts[0].block_hash = Some("other".into());
        assert_eq!(kinds(told, &[bad]), ["misplaced"]);
    }

    #[test]
    fn a_clients_lines_in_another_order_are_found() {
        let bad = chain(&[&["a-2"], &["a-1"]]);
        assert_eq!(kinds(client(&bad, &[]), &[bad]), ["order"]);
    }

    #[test]
    fn a_client_that_did_not_ask_for_its_order_need_not_have_it() {
        let good = chain(&[&["a-2"], &["a-1"]]);
        assert_eq!(kinds(Finished { is_ordered: false, ..client(&good, &[]) }, &[good]), [""; 0]);
    }

    #[test]
    fn what_nobody_sent_and_what_was_changed_is_found() {
        let bad = chain(&[&["b-1"]]);
        assert_eq!(kinds(client(&bad, &[]), &[bad]), ["payloads"]);
        let mut bad = chain(&[&["a-1"]]);
        bad[0].transactions.as_mut().expect("has some")[0].payload = Some("other".into());
        assert_eq!(kinds(client(&bad, &[]), &[bad]), ["payloads"]);
    }

    #[test]
    fn chains_that_differ_in_length_or_content_are_found() {
        let one = chain(&[&["a-1"], &["a-2"]]);
        let other = chain(&[&["a-1"], &["a-3"]]);
        assert_eq!(kinds(client(&one, &[]), &[one.clone(), other]), ["chains"]);
        assert_eq!(kinds(client(&one, &[]), &[one.clone(), chain(&[&["a-1"]])]), ["chains"]);
        assert_eq!(kinds(client(&one, &[]), &[]), ["chains"]);
    }

    #[test]
    fn a_broken_link_and_a_gap_are_found() {
        let mut bad = chain(&[&["a-1"], &["a-2"]]);
        bad[1].previous_hash = "other".into();
        assert_eq!(kinds(client(&bad, &[]), &[bad]), ["links"]);
        let mut bad = chain(&[&["a-1"], &["a-2"]]);
        bad[1].height = 3;
        assert_eq!(kinds(client(&bad, &[]), &[bad]), ["links"]);
    }

    #[test]
    fn many_findings_of_one_kind_are_counted() {
        let ids = (0..20).map(|number| format!("x-{number}")).collect::<Vec<_>>();
        let ids = ids.iter().map(String::as_str).collect::<Vec<_>>();
        let bad = chain(&[&ids]);
        let findings = judge(&[client(&bad, &[])], &[(1, bad)]).findings;
        assert_eq!(findings.len(), LISTED_MAX + 1);
        assert_eq!(findings.last().map(String::as_str), Some("payloads: and 15 more"));
    }
}
