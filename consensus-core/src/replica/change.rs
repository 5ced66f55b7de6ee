//! Reads a membership change out of an entry.
//!
//! Its bytes come from a peer, and the decoder of the raft crate's own types follows nested groups without
//! an end: a few hundred kilobytes of them would use up the stack and end the process. This one has a bound.
//! Fields are those of `eraftpb.proto`.

use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::storage::EntryKind;

/// `ConfChange`.
#[derive(Clone, PartialEq, prost::Message)]
struct One {
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    node: u64,
}

/// `ConfChangeV2`.
#[derive(Clone, PartialEq, prost::Message)]
struct Several {
    #[prost(int32, tag = "1")]
    transition: i32,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<Single>,
}

/// `ConfChangeSingle`.
#[derive(Clone, PartialEq, prost::Message)]
struct Single {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    node: u64,
}

/// The change in an entry of this kind.
///
/// # Errors
/// That it is none, in words.
pub(super) fn read(kind: EntryKind, data: &[u8]) -> Result<ConfChangeV2, String> {
    let undecodable = |error: prost::DecodeError| format!("not a membership change: {error}");
    let several = match kind {
        EntryKind::Normal => return Err("not a membership change: a normal entry".to_owned()),
        EntryKind::ConfChange => {
            let One { kind, node } = One::decode(data).map_err(undecodable)?;
            Several { transition: 0, changes: vec![Single { kind, node }] }
        }
        EntryKind::ConfChangeV2 => Several::decode(data).map_err(undecodable)?,
    };
    let mut change = ConfChangeV2::default();
    change.set_transition(match several.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        other => return Err(format!("transition {other} is unknown, must be at most 2")),
    });
    let changes: Result<Vec<_>, String> = several.changes.iter().map(single).collect();
    change.set_changes(changes?.into());
    Ok(change)
}

fn single(change: &Single) -> Result<ConfChangeSingle, String> {
    let mut single = ConfChangeSingle { node_id: change.node, ..ConfChangeSingle::default() };
    single.set_change_type(match change.kind {
        0 => ConfChangeType::AddNode,
        1 => ConfChangeType::RemoveNode,
        2 => ConfChangeType::AddLearnerNode,
        other => return Err(format!("type of change {other} is unknown, must be at most 2")),
    });
    Ok(single)
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use raft::eraftpb::ConfChange;

    use super::*;

    #[test]
    fn what_the_raft_crate_writes_is_read_back() {
        let mut one =
            ConfChange { id: 9, node_id: u64::MAX, context: "ticket".into(), ..ConfChange::default() };
        one.set_change_type(ConfChangeType::RemoveNode);
        let read_one = read(EntryKind::ConfChange, &one.write_to_bytes().expect("encodes")).expect("reads");
        let mut several = ConfChangeV2 { context: "ticket".into(), ..ConfChangeV2::default() };
        several.set_transition(ConfChangeTransition::Explicit);
        let changes = [(1, ConfChangeType::AddNode), (2, ConfChangeType::AddLearnerNode)];
        let changes = changes.map(|(node_id, kind)| {
            let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        });
        several.set_changes(changes.to_vec().into());
        let data = several.write_to_bytes().expect("encodes");
        let read_several = read(EntryKind::ConfChangeV2, &data).expect("reads");
        assert_eq!(read_several.changes, several.changes);
        assert_eq!(read_several.get_transition(), several.get_transition());
        assert_eq!(read_one.changes.len(), 1);
        let single = &read_one.changes[0];
        assert_eq!((single.node_id, single.get_change_type()), (u64::MAX, ConfChangeType::RemoveNode));
        assert_eq!(
            read(EntryKind::ConfChangeV2, b"").expect("leaves a joint phase"),
            ConfChangeV2::default()
        );
    }

    #[test]
    fn nesting_and_unknown_kinds_are_refused() {
        let nested = vec![0x7b; 16 << 20];
        for kind in [EntryKind::ConfChange, EntryKind::ConfChangeV2] {
            assert!(read(kind, &nested).is_err());
        }
        assert!(read(EntryKind::ConfChange, &[0x10, 3]).is_err(), "type of change");
        assert!(read(EntryKind::ConfChangeV2, &[0x08, 3]).is_err(), "transition");
    }
}
