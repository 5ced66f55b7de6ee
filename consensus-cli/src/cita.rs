//! What a CITA-Cloud chain's log, snapshots and promise hold, decoded for people and programs.
//!
//! The chain agrees on blocks and its controllers keep them: the store has the newest proposals as they were
//! agreed on, who of the members speaks with which store, and what this node has promised never to commit.
//! Nodes are named by the first 8 bytes of their validators' addresses, as 16 hexadecimal digits.

use bytes::Bytes;
use consensus_core::storage::LogReader;
use consensus_core::storage::inspect::ChainInspection;
use consensus_core::storage::rocks::RocksReader;
use consensus_proto::cita::exchange as wire;
use prost::Message as _;
use serde::Serialize;

use crate::offline::Problems;
use crate::output::text::NodeName;
use crate::output::{json, text};

/// The cluster's name in every such store.
const CLUSTER: &str = "cita-cloud";
/// The chain's name there.
const CHAIN: &str = "cita";
/// Where the promise is kept.
const PROMISE_KEY: &[u8] = b"promise";
/// Hexadecimal digits of a group's id.
const GROUP_DIGITS: usize = 32;
/// What is said where blocks are asked for.
pub(crate) const BLOCKS_ELSEWHERE: &str =
    "the blocks of a CITA-Cloud chain are in its controller's storage, not here";

/// Whether a chain is one of CITA-Cloud's.
pub(crate) fn is_cita(chain: &ChainInspection) -> bool {
    chain.identity.present().is_some_and(|identity| identity.cluster == CLUSTER && identity.chain == CHAIN)
}

/// The chain's group, whose id fills the first half of the hash of the beginning.
pub(crate) fn group(identity: &json::Identity) -> &str {
    identity.genesis_hash.get(..GROUP_DIGITS).unwrap_or_default()
}

/// A node's name.
fn name(id: u64) -> String {
    NodeName::new(id, true).to_string()
}

/// What an entry says; one of the three is there.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Agreed {
    pub(crate) block: Option<Block>,
    pub(crate) void: Option<Void>,
    /// The new roster.
    pub(crate) admission: Option<Vec<Seat>>,
}

/// A proposal that was agreed on, if its height is above the agreed one.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Block {
    pub(crate) height: u64,
    /// Of the controller's proposal.
    pub(crate) bytes: u64,
    pub(crate) proposer: String,
}

/// The blocks from a height on are given up, if `upto_index` is the newest block's entry.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Void {
    pub(crate) from_height: u64,
    pub(crate) upto_index: u64,
}

/// A member, and the store that speaks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seat {
    pub(crate) node: String,
    pub(crate) store_incarnation: String,
}

impl From<&wire::Seat> for Seat {
    fn from(seat: &wire::Seat) -> Self {
        Self { node: name(seat.node_id), store_incarnation: json::hexadecimal(&seat.incarnation) }
    }
}

impl From<&wire::Block> for Block {
    fn from(block: &wire::Block) -> Self {
        Self { height: block.height, bytes: block.data.len() as u64, proposer: name(block.proposer) }
    }
}

impl Agreed {
    /// The kind's name, and what is said.
    ///
    /// # Errors
    /// In words, why it cannot be read.
    pub(crate) fn decode(data: &Bytes) -> Result<(&'static str, Self), String> {
        let entry = wire::Entry::decode(data.clone())
            .map_err(|error| format!("this is no entry of a CITA-Cloud chain: {error}"))?;
        let agreed = Self::default();
        match entry.entry {
            Some(wire::entry::Entry::Block(block)) => {
                Ok(("cita-block", Self { block: Some(Block::from(&block)), ..agreed }))
            }
            Some(wire::entry::Entry::Void(wire::Void { from_height, upto_index })) => {
                Ok(("void", Self { void: Some(Void { from_height, upto_index }), ..agreed }))
            }
            Some(wire::entry::Entry::Admission(admission)) => {
                Ok(("admission", Self { admission: Some(seats(&admission.roster)), ..agreed }))
            }
            None => Err("the entry is of a kind that this program does not know".to_owned()),
        }
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        match (&self.block, &self.void, &self.admission) {
            (Some(Block { height, bytes, proposer }), ..) => {
                format!("block {height}, {} by {proposer}", text::size(*bytes))
            }
            (_, Some(Void { from_height, upto_index }), _) => {
                format!("blocks from {from_height} on are given up, up to entry {upto_index}")
            }
            (.., Some(roster)) => format!("members {}", members(roster)),
            _ => String::new(),
        }
    }
}

fn seats(seats: &[wire::Seat]) -> Vec<Seat> {
    seats.iter().map(Seat::from).collect()
}

/// Members with the beginnings of their stores.
pub(crate) fn members(roster: &[Seat]) -> String {
    let seat = |seat: &Seat| format!("{} (store {})", seat.node, text::shorten(&seat.store_incarnation, 8));
    roster.iter().map(seat).collect::<Vec<_>>().join(", ")
}

/// What is known beside the log.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct State {
    /// As of the snapshot; null without one.
    pub(crate) snapshot: Option<SnapshotState>,
    /// Blocks that this node never gives to its controller any more; null if it has promised nothing.
    pub(crate) promise: Option<Promise>,
}

/// What a snapshot says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SnapshotState {
    pub(crate) agreed_height: u64,
    /// The newest block's entry.
    pub(crate) agreed_index: u64,
    /// That block was given up.
    pub(crate) void: bool,
    /// The newest block's; null if it was given up, or there is none.
    pub(crate) proposer: Option<String>,
    /// The newest block's proposal.
    pub(crate) bytes: u64,
    pub(crate) roster: Vec<Seat>,
}

/// The blocks from a height on that are in the log up to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Promise {
    pub(crate) from_height: u64,
    pub(crate) upto_index: u64,
}

impl State {
    /// Of a chain, if it is one of CITA-Cloud's; what cannot be read becomes a problem.
    pub(crate) fn read(
        reader: &RocksReader,
        chain: &ChainInspection,
        problems: &mut Problems,
    ) -> Option<Self> {
        if !is_cita(chain) {
            return None;
        }
        let snapshot = chain.snapshot.present().and_then(|snapshot| {
            SnapshotState::decode(&snapshot.data).map_err(|cause| problems.add("snapshot state", cause)).ok()
        });
        let promise = match reader.application_record(chain.chain, PROMISE_KEY) {
            Ok(record) => record.and_then(|record| {
                let decoded = wire::Promise::decode(record).map_err(|error| error.to_string());
                decoded.map_err(|cause| problems.add("promise", cause)).ok()
            }),
            Err(error) => {
                problems.add("promise", error.to_string());
                None
            }
        };
        let promise =
            promise.map(|wire::Promise { from_height, upto_index }| Promise { from_height, upto_index });
        Some(Self { snapshot, promise })
    }

    /// For people.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if let Some(snapshot) = &self.snapshot {
            let SnapshotState { agreed_height, agreed_index, void, proposer, bytes, roster } = snapshot;
            let newest = match (proposer, void) {
                (_, true) => ", what followed was given up".to_owned(),
                (Some(proposer), _) => format!(", {} by {proposer}", text::size(*bytes)),
                (None, _) => String::new(),
            };
            let agreed = match agreed_index {
                0 => "none yet".to_owned(),
                index => format!("{agreed_height} (entry {index}{newest})"),
            };
            rows.push(("snapshot height", agreed));
            rows.push(("snapshot roster", members(roster)));
        }
        let promise = self.promise.map_or_else(
            || "none".to_owned(),
            |Promise { from_height, upto_index }| {
                format!("never to commit blocks from {from_height} on that were agreed on up to entry {upto_index}")
            },
        );
        rows.push(("promise", promise));
        rows
    }
}

impl SnapshotState {
    fn decode(data: &Bytes) -> Result<Self, String> {
        let state = wire::State::decode(data.clone()).map_err(|error| error.to_string())?;
        let wire::Agreed { index, block, void } = state.agreed.unwrap_or_default();
        let block = block.unwrap_or_default();
        let there = !void && block.proposer != 0;
        Ok(Self {
            agreed_height: block.height,
            agreed_index: index,
            void: void && index > 0,
            proposer: there.then(|| name(block.proposer)),
            bytes: block.data.len() as u64,
            roster: seats(&state.roster),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_later_program_is_an_error_and_no_guess() {
        let error = Agreed::decode(&Bytes::from_static(&[0x7a, 0x00])).expect_err("unknown");
        assert!(error.contains("does not know"), "{error}");
        assert!(Agreed::decode(&Bytes::from_static(b"\xff")).is_err());
    }
}
