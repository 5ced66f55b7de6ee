//! What a log entry means, decoded for people and programs.
//!
//! | kind | what it is |
//! |---|---|
//! | `block` | the body of a block of the built-in ledger |
//! | `cita-block`, `void`, `admission` | what a CITA-Cloud chain agrees on ([`crate::cita`]) |
//! | `empty` | a new leader's first entry, or a read's; nothing for the application |
//! | `conf-change`, `conf-change-v2` | a change of the membership |
//! | `opaque` | payload of an application whose format is not known here |
//! | `damaged` | not readable; `error` says why |

use bytes::Bytes;
use consensus_core::ledger::decode_proposal;
use consensus_core::storage::inspect::ScannedEntry;
use consensus_core::storage::{EntryKind, LogEntry};
use prost::Message;
use serde::Serialize;

use crate::cita;
use crate::output::text::NodeName;
use crate::output::{json, text};

/// A log entry as `dump` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) term: Option<u64>,
    pub(crate) kind: &'static str,
    /// Length of the payload.
    pub(crate) bytes: u64,
    /// Length of the stored record.
    pub(crate) stored_bytes: u64,
    /// The replica's companion of the payload, hexadecimal.
    pub(crate) context: String,
    pub(crate) block: Option<BlockBody>,
    /// What a CITA-Cloud chain agreed on.
    pub(crate) cita: Option<cita::Agreed>,
    pub(crate) conf_change: Option<Change>,
    /// The payload in hexadecimal, if it is opaque or a CITA-Cloud chain's, and payloads are asked for.
    pub(crate) data: Option<String>,
    pub(crate) error: Option<String>,
    /// Nodes are named by their addresses.
    #[serde(skip)]
    of_cita: bool,
}

/// The body of a block that has no number yet.
#[derive(Debug, Serialize)]
pub(crate) struct BlockBody {
    pub(crate) timestamp_ms: u64,
    pub(crate) transaction_count: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) transactions: Vec<json::Transaction>,
}

/// A change of the membership.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// `auto`, `implicit` or `explicit`; what ends the joint phase, if there is one.
    pub(crate) transition: String,
    pub(crate) changes: Vec<SingleChange>,
    /// Hexadecimal.
    pub(crate) context: String,
}

/// One node of a change.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SingleChange {
    /// `add-voter`, `remove` or `add-learner`.
    pub(crate) action: String,
    pub(crate) node_id: u64,
}

impl Entry {
    /// Decodes an entry of a CITA-Cloud chain or of the built-in ledger; `payloads` shows those of transactions
    /// and of entries that have none.
    pub(crate) fn new(scanned: ScannedEntry, of_cita: bool, payloads: bool) -> Self {
        let mut entry = Self {
            index: scanned.index,
            term: None,
            kind: "damaged",
            bytes: 0,
            stored_bytes: scanned.stored_bytes,
            context: String::new(),
            block: None,
            cita: None,
            conf_change: None,
            data: None,
            error: None,
            of_cita,
        };
        match scanned.entry {
            Ok(log_entry) => entry.decode(log_entry, payloads),
            Err(cause) => entry.error = Some(cause),
        }
        entry
    }

    fn decode(&mut self, entry: LogEntry, payloads: bool) {
        self.term = Some(entry.term);
        self.bytes = entry.data.len() as u64;
        self.context = json::hexadecimal(&entry.context);
        match entry.kind {
            EntryKind::Normal if entry.data.is_empty() => self.kind = "empty",
            EntryKind::Normal if self.of_cita => {
                match cita::Agreed::decode(&entry.data) {
                    Ok((kind, agreed)) => (self.kind, self.cita) = (kind, Some(agreed)),
                    Err(cause) => (self.kind, self.error) = ("opaque", Some(cause)),
                }
                self.data = payloads.then(|| json::hexadecimal(&entry.data));
            }
            EntryKind::Normal => match BlockBody::decode(&entry.data, payloads) {
                Some(block) => {
                    self.kind = "block";
                    self.block = Some(block);
                }
                None => {
                    self.kind = "opaque";
                    self.data = payloads.then(|| json::hexadecimal(&entry.data));
                }
            },
            EntryKind::ConfChange => {
                self.kind = "conf-change";
                self.change(Change::decode_v1(&entry.data));
            }
            EntryKind::ConfChangeV2 => {
                self.kind = "conf-change-v2";
                self.change(Change::decode_v2(&entry.data));
            }
        }
    }

    fn change(&mut self, decoded: Result<Change, prost::DecodeError>) {
        match decoded {
            Ok(change) => self.conf_change = Some(change),
            Err(error) => self.error = Some(format!("the membership change does not decode: {error}")),
        }
    }

    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let mut line = match (&self.block, &self.conf_change, &self.cita) {
            (Some(block), ..) => block.summary(),
            (_, Some(change), _) => change.summary(self.of_cita),
            (.., Some(agreed)) => agreed.summary(),
            _ => self.data.clone().unwrap_or_default(),
        };
        if let Some(error) = &self.error {
            line.push_str(error);
        }
        line
    }
}

/// Ids that one line shows.
const IDS_SHOWN: usize = 3;

impl BlockBody {
    fn decode(data: &Bytes, payloads: bool) -> Option<Self> {
        let proposal =
            decode_proposal(data.clone()).ok().filter(|proposal| !proposal.transactions.is_empty())?;
        let transactions: Vec<_> = proposal
            .transactions
            .iter()
            .map(|transaction| json::Transaction::new(transaction, payloads))
            .collect();
        Some(Self {
            timestamp_ms: proposal.timestamp_ms,
            transaction_count: transactions.len() as u64,
            payload_bytes: transactions.iter().map(|transaction| transaction.bytes).sum(),
            transactions,
        })
    }

    fn summary(&self) -> String {
        let ids: Vec<String> = self
            .transactions
            .iter()
            .take(IDS_SHOWN)
            .map(|transaction| text::shorten(&transaction.id, 24))
            .collect();
        let more = match self.transactions.len().saturating_sub(IDS_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{}, {}, {}: {}{more}",
            text::count(self.transaction_count, "transaction"),
            text::size(self.payload_bytes),
            text::time(self.timestamp_ms),
            ids.join(" ")
        )
    }
}

impl Change {
    fn decode_v1(data: &[u8]) -> Result<Self, prost::DecodeError> {
        let change = wire::ConfChange::decode(data)?;
        Ok(Self {
            transition: transition(0),
            changes: vec![SingleChange { action: action(change.change_type), node_id: change.node_id }],
            context: json::hexadecimal(&change.context),
        })
    }

    fn decode_v2(data: &[u8]) -> Result<Self, prost::DecodeError> {
        let change = wire::ConfChangeV2::decode(data)?;
        let single = |change: &wire::ConfChangeSingle| SingleChange {
            action: action(change.change_type),
            node_id: change.node_id,
        };
        Ok(Self {
            transition: transition(change.transition),
            changes: change.changes.iter().map(single).collect(),
            context: json::hexadecimal(&change.context),
        })
    }

    fn summary(&self, by_address: bool) -> String {
        if self.changes.is_empty() {
            return "leave the joint configuration".to_owned();
        }
        let single = |SingleChange { action, node_id }: &SingleChange| {
            format!("{action} {}", NodeName::new(*node_id, by_address))
        };
        let changes: Vec<String> = self.changes.iter().map(single).collect();
        format!("{} ({})", changes.join(", "), self.transition)
    }
}

fn action(number: i32) -> String {
    match number {
        0 => "add-voter".to_owned(),
        1 => "remove".to_owned(),
        2 => "add-learner".to_owned(),
        other => format!("unknown {other}"),
    }
}

fn transition(number: i32) -> String {
    match number {
        0 => "auto".to_owned(),
        1 => "implicit".to_owned(),
        2 => "explicit".to_owned(),
        other => format!("unknown {other}"),
    }
}

/// Membership changes with the field numbers of the message schema of the `raft` crate 0.7.0. Enumerations are
/// read as numbers, so that an unknown one can be shown.
mod wire {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ConfChange {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int32, tag = "2")]
        pub(super) change_type: i32,
        #[prost(uint64, tag = "3")]
        pub(super) node_id: u64,
        #[prost(bytes = "bytes", tag = "4")]
        pub(super) context: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ConfChangeSingle {
        #[prost(int32, tag = "1")]
        pub(super) change_type: i32,
        #[prost(uint64, tag = "2")]
        pub(super) node_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ConfChangeV2 {
        #[prost(int32, tag = "1")]
        pub(super) transition: i32,
        #[prost(message, repeated, tag = "2")]
        pub(super) changes: Vec<ConfChangeSingle>,
        #[prost(bytes = "bytes", tag = "3")]
        pub(super) context: Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(kind: EntryKind, data: Vec<u8>) -> ScannedEntry {
        let entry =
            LogEntry { index: 5, term: 2, kind, context: Bytes::from_static(&[1, 2]), data: data.into() };
        ScannedEntry { index: 5, stored_bytes: 99, entry: Ok(entry) }
    }

    #[test]
    fn a_membership_change_is_decoded_by_name() {
        let change = wire::ConfChangeV2 {
            transition: 1,
            changes: vec![
                wire::ConfChangeSingle { change_type: 0, node_id: 4 },
                wire::ConfChangeSingle { change_type: 1, node_id: 2 },
                wire::ConfChangeSingle { change_type: 7, node_id: 9 },
            ],
            context: Bytes::new(),
        };
        let entry = Entry::new(scanned(EntryKind::ConfChangeV2, change.encode_to_vec()), false, false);
        assert_eq!(entry.kind, "conf-change-v2");
        assert_eq!(entry.summary(), "add-voter 4, remove 2, unknown 7 9 (implicit)");
        let left = Entry::new(scanned(EntryKind::ConfChangeV2, Vec::new()), false, false);
        assert_eq!(left.summary(), "leave the joint configuration");
    }

    #[test]
    fn a_change_in_the_old_form_is_decoded_too() {
        let change = wire::ConfChange { id: 1, change_type: 2, node_id: 3, context: Bytes::new() };
        let entry = Entry::new(scanned(EntryKind::ConfChange, change.encode_to_vec()), false, false);
        assert_eq!(entry.summary(), "add-learner 3 (auto)");
    }

    #[test]
    fn garbage_is_shown_as_what_it_is() {
        let entry = Entry::new(scanned(EntryKind::ConfChangeV2, vec![0xff; 3]), false, false);
        assert!(entry.summary().starts_with("the membership change does not decode"), "{}", entry.summary());
        let entry = Entry::new(scanned(EntryKind::Normal, vec![0xff; 3]), false, true);
        assert_eq!((entry.kind, entry.summary().as_str()), ("opaque", "ffffff"));
        let entry = Entry::new(scanned(EntryKind::Normal, Vec::new()), false, true);
        assert_eq!((entry.kind, entry.context.as_str()), ("empty", "0102"));
        let damaged = ScannedEntry { index: 5, stored_bytes: 9, entry: Err("checksum".to_owned()) };
        let entry = Entry::new(damaged, false, true);
        assert_eq!((entry.kind, entry.term, entry.summary().as_str()), ("damaged", None, "checksum"));
    }
}
