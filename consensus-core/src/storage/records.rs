//! What each value is: framing, encoding and decoding of every record on disk.
//!
//! A value is `version u8 | CRC-32C u32 | content`; the checksum covers the key and the content, so that a
//! value under a wrong key is found as well. A log entry's content is
//! `kind u8 | term u64 | context length u32 | context | data` (numbers big-endian) and its payload is decoded
//! without a copy; all other contents are protobuf messages of `records.proto`.
//!
//! The conversions from and to the `raft` crate's types move `Bytes` and copy no payload.

use bytes::{BufMut, Bytes};
use consensus_proto::records as proto;
use prost::Message;
use raft::eraftpb;

use super::keys::{self, Family};
use super::{
    Applied, ConfState, EntryKind, Error, HardState, Identity, LogEntry, PeerRecord, Position, Result,
    Snapshot,
};
use crate::ids::{Hash, NodeId, StoreIncarnation};
use crate::mutant::{self, Mutant};

/// Version of the framing and of the contents in it.
pub const RECORD_VERSION: u8 = 1;

/// Bytes in front of a record's content.
pub const FRAME_BYTES: usize = 5;

/// Bytes in front of a log entry's context, after the frame.
const ENTRY_HEADER_BYTES: usize = 13;

/// What is wrong with a value; the caller knows its key.
pub type Cause = String;

/// Frames an opaque content for `key`.
pub fn frame(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(FRAME_BYTES + content.len());
    value.extend_from_slice(&[RECORD_VERSION, 0, 0, 0, 0]);
    value.extend_from_slice(content);
    seal(key, &mut value);
    value
}

/// Checks a value that was read under `key` and takes the frame off; shares the buffer.
///
/// # Errors
/// What is wrong with it, in words.
pub fn unframe(key: &[u8], value: &Bytes) -> std::result::Result<Bytes, Cause> {
    let Some(header) = value.first_chunk::<FRAME_BYTES>() else {
        return Err(format!("{} bytes, a record has at least {FRAME_BYTES}", value.len()));
    };
    let [version, stored @ ..] = *header;
    if version != RECORD_VERSION {
        return Err(format!("record version {version}, this program reads {RECORD_VERSION}"));
    }
    let stored = u32::from_be_bytes(stored);
    let computed = checksum(key, &value[FRAME_BYTES..]);
    if stored != computed && !mutant::is(Mutant::ChecksumNotChecked) {
        return Err(format!("checksum is {computed:08x}, the record says {stored:08x}"));
    }
    Ok(value.slice(FRAME_BYTES..))
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), content)
}

/// Writes the checksum over what follows the frame.
fn seal(key: &[u8], value: &mut [u8]) {
    let sum = checksum(key, &value[FRAME_BYTES..]);
    value[1..FRAME_BYTES].copy_from_slice(&sum.to_be_bytes());
}

/// A record that is stored as a protobuf message.
pub trait Record: Sized {
    /// The message.
    type Proto: Message + Default;

    /// The message that says the same.
    fn to_proto(&self) -> Self::Proto;

    /// # Errors
    /// What is missing or out of its bounds, in words.
    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause>;

    /// The framed value for `key`.
    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let proto = self.to_proto();
        let mut value = Vec::with_capacity(FRAME_BYTES + proto.encoded_len());
        value.extend_from_slice(&[RECORD_VERSION, 0, 0, 0, 0]);
        proto.encode(&mut value).expect("a vector grows as needed");
        seal(key, &mut value);
        value
    }

    /// Reads a framed value.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn decode(key: &[u8], value: &Bytes) -> std::result::Result<Self, Cause> {
        let content = unframe(key, value)?;
        let proto =
            Self::Proto::decode(content).map_err(|error| format!("not a protobuf record: {error}"))?;
        Self::from_proto(proto)
    }
}

/// Appends the framed value of an entry under `key` to an empty buffer, whose room is reused.
pub fn encode_entry(key: &[u8], entry: &LogEntry, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.reserve(FRAME_BYTES + ENTRY_HEADER_BYTES + entry.context.len() + entry.data.len());
    buffer.put_slice(&[RECORD_VERSION, 0, 0, 0, 0]);
    buffer.put_u8(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    });
    buffer.put_u64(entry.term);
    buffer.put_u32(entry.context.len() as u32);
    buffer.put_slice(&entry.context);
    buffer.put_slice(&entry.data);
    seal(key, buffer);
}

/// Reads the entry at `index`; context and data share the value's buffer.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode_entry(key: &[u8], index: u64, value: &Bytes) -> std::result::Result<LogEntry, Cause> {
    let content = unframe(key, value)?;
    let Some(header) = content.first_chunk::<ENTRY_HEADER_BYTES>() else {
        return Err(format!("an entry of {} bytes, at least {ENTRY_HEADER_BYTES} are needed", content.len()));
    };
    let [kind, t0, t1, t2, t3, t4, t5, t6, t7, length @ ..] = *header;
    let kind = match kind {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::ConfChangeV2,
        other => return Err(format!("entry kind {other} is unknown")),
    };
    let context_end = ENTRY_HEADER_BYTES + u32::from_be_bytes(length) as usize;
    if context_end > content.len() {
        return Err(format!("the context ends at {context_end}, the entry at {}", content.len()));
    }
    Ok(LogEntry {
        index,
        term: u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
        kind,
        context: content.slice(ENTRY_HEADER_BYTES..context_end),
        data: content.slice(context_end..),
    })
}

/// The value of the store-wide format record.
pub fn encode_format(version: u32) -> Vec<u8> {
    frame(keys::FORMAT_KEY, &version.to_be_bytes())
}

/// Reads the store-wide format record.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode_format(value: &Bytes) -> std::result::Result<u32, Cause> {
    let content = unframe(keys::FORMAT_KEY, value)?;
    fixed(&content, "a format version").map(u32::from_be_bytes)
}

/// The value of the store-wide record that numbers the rounds of writes.
pub fn encode_round(round: u64) -> Vec<u8> {
    frame(keys::ROUND_KEY, &round.to_be_bytes())
}

/// Reads the store-wide record that numbers the rounds of writes.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode_round(value: &Bytes) -> std::result::Result<u64, Cause> {
    let content = unframe(keys::ROUND_KEY, value)?;
    fixed(&content, "the number of a round").map(u64::from_be_bytes)
}

/// Names the record in an [`Error::Damaged`].
pub fn damaged(family: Family, key: &[u8], chain_name: Option<&str>, cause: Cause) -> Error {
    Error::Damaged { key: keys::describe(family, key, chain_name), cause }
}

/// Reads a framed value and names its key if it is damaged.
///
/// # Errors
/// [`Error::Damaged`].
pub fn read<R: Record>(family: Family, key: &[u8], chain_name: Option<&str>, value: &Bytes) -> Result<R> {
    R::decode(key, value).map_err(|cause| damaged(family, key, chain_name, cause))
}

fn node(id: u64, what: &str) -> std::result::Result<NodeId, Cause> {
    NodeId::new(id).ok_or_else(|| format!("{what} is 0, which is no node"))
}

fn fixed<const N: usize>(bytes: &[u8], what: &str) -> std::result::Result<[u8; N], Cause> {
    bytes.try_into().map_err(|_| format!("{what} has {} bytes, must have {N}", bytes.len()))
}

impl Record for Identity {
    type Proto = proto::Identity;

    fn to_proto(&self) -> Self::Proto {
        proto::Identity {
            cluster: self.cluster.clone(),
            chain: self.chain.clone(),
            chain_incarnation: self.chain_incarnation,
            node_id: self.node_id.get(),
            store_incarnation: Bytes::copy_from_slice(&self.store_incarnation.0),
            genesis_hash: Bytes::copy_from_slice(self.genesis_hash.as_bytes()),
            created_at_ms: self.created_at_ms,
        }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self {
            node_id: node(proto.node_id, "node_id")?,
            store_incarnation: StoreIncarnation(fixed(&proto.store_incarnation, "store_incarnation")?),
            genesis_hash: Hash(fixed(&proto.genesis_hash, "genesis_hash")?),
            cluster: proto.cluster,
            chain: proto.chain,
            chain_incarnation: proto.chain_incarnation,
            created_at_ms: proto.created_at_ms,
        })
    }
}

impl Record for HardState {
    type Proto = proto::HardState;

    fn to_proto(&self) -> Self::Proto {
        proto::HardState { term: self.term, vote: self.vote.map_or(0, NodeId::get), commit: self.commit }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self { term: proto.term, vote: NodeId::new(proto.vote), commit: proto.commit })
    }
}

impl Record for ConfState {
    type Proto = proto::ConfState;

    fn to_proto(&self) -> Self::Proto {
        proto::ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
        }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self {
            voters: proto.voters,
            learners: proto.learners,
            voters_outgoing: proto.voters_outgoing,
            learners_next: proto.learners_next,
            auto_leave: proto.auto_leave,
        })
    }
}

impl Record for Position {
    type Proto = proto::Position;

    fn to_proto(&self) -> Self::Proto {
        proto::Position { index: self.index, term: self.term }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self { index: proto.index, term: proto.term })
    }
}

impl Record for Snapshot {
    type Proto = proto::Snapshot;

    fn to_proto(&self) -> Self::Proto {
        proto::Snapshot {
            position: Some(self.position.to_proto()),
            conf_state: Some(self.conf_state.to_proto()),
            data: self.data.clone(),
        }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self {
            position: Position::from_proto(proto.position.ok_or("position is missing")?)?,
            conf_state: ConfState::from_proto(proto.conf_state.ok_or("conf_state is missing")?)?,
            data: proto.data,
        })
    }
}

impl Record for Applied {
    type Proto = proto::Applied;

    fn to_proto(&self) -> Self::Proto {
        proto::Applied { index: self.index, conf_state: Some(self.conf_state.to_proto()) }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        Ok(Self {
            index: proto.index,
            conf_state: ConfState::from_proto(proto.conf_state.ok_or("conf_state is missing")?)?,
        })
    }
}

impl Record for PeerRecord {
    type Proto = proto::PeerRecord;

    fn to_proto(&self) -> Self::Proto {
        proto::PeerRecord {
            node_id: self.node_id.get(),
            address: self.address.clone(),
            store_incarnation: self
                .store_incarnation
                .map_or_else(Bytes::new, |s| Bytes::copy_from_slice(&s.0)),
            last_heard_ms: self.last_heard_ms,
            matched: self.matched,
            next: self.next,
            progress: self.progress.clone(),
            connected: self.connected,
            recorded_at_ms: self.recorded_at_ms,
        }
    }

    fn from_proto(proto: Self::Proto) -> std::result::Result<Self, Cause> {
        let store_incarnation = if proto.store_incarnation.is_empty() {
            None
        } else {
            Some(StoreIncarnation(fixed(&proto.store_incarnation, "store_incarnation")?))
        };
        Ok(Self {
            node_id: node(proto.node_id, "node_id")?,
            address: proto.address,
            store_incarnation,
            last_heard_ms: proto.last_heard_ms,
            matched: proto.matched,
            next: proto.next,
            progress: proto.progress,
            connected: proto.connected,
            recorded_at_ms: proto.recorded_at_ms,
        })
    }
}

impl From<eraftpb::Entry> for LogEntry {
    fn from(mut entry: eraftpb::Entry) -> Self {
        Self {
            index: entry.index,
            term: entry.term,
            kind: match entry.entry_type {
                eraftpb::EntryType::EntryNormal => EntryKind::Normal,
                eraftpb::EntryType::EntryConfChange => EntryKind::ConfChange,
                eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
            },
            context: std::mem::take(&mut entry.context),
            data: std::mem::take(&mut entry.data),
        }
    }
}

impl From<LogEntry> for eraftpb::Entry {
    fn from(entry: LogEntry) -> Self {
        Self {
            index: entry.index,
            term: entry.term,
            entry_type: match entry.kind {
                EntryKind::Normal => eraftpb::EntryType::EntryNormal,
                EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
                EntryKind::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
            },
            context: entry.context,
            data: entry.data,
            ..Self::default()
        }
    }
}

impl From<&eraftpb::HardState> for HardState {
    fn from(state: &eraftpb::HardState) -> Self {
        Self { term: state.term, vote: NodeId::new(state.vote), commit: state.commit }
    }
}

impl From<HardState> for eraftpb::HardState {
    fn from(state: HardState) -> Self {
        Self {
            term: state.term,
            vote: state.vote.map_or(0, NodeId::get),
            commit: state.commit,
            ..Self::default()
        }
    }
}

/// Sorted, so that equal memberships are equal values: the crate lists them in the order of its tables.
impl From<&eraftpb::ConfState> for ConfState {
    fn from(state: &eraftpb::ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            voters_outgoing: sorted(&state.voters_outgoing),
            learners_next: sorted(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }
}

impl From<&ConfState> for eraftpb::ConfState {
    fn from(state: &ConfState) -> Self {
        Self {
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            voters_outgoing: state.voters_outgoing.clone(),
            learners_next: state.learners_next.clone(),
            auto_leave: state.auto_leave,
            ..Self::default()
        }
    }
}

impl From<eraftpb::Snapshot> for Snapshot {
    fn from(mut snapshot: eraftpb::Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self {
            position: Position { index: metadata.index, term: metadata.term },
            conf_state: metadata.get_conf_state().into(),
            data: std::mem::take(&mut snapshot.data),
        }
    }
}

impl From<Snapshot> for eraftpb::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        let mut raft = Self { data: snapshot.data, ..Self::default() };
        let metadata = raft.mut_metadata();
        metadata.index = snapshot.position.index;
        metadata.term = snapshot.position.term;
        metadata.set_conf_state((&snapshot.conf_state).into());
        raft
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ids::ChainId;

    fn entry() -> LogEntry {
        LogEntry {
            index: 17,
            term: 3,
            kind: EntryKind::Normal,
            context: Bytes::from_static(b"ctx"),
            data: Bytes::from_static(b"a payload"),
        }
    }

    fn encoded() -> ([u8; 16], Bytes) {
        let key = keys::log(ChainId::derive("main", 1), 17);
        let mut value = Vec::new();
        encode_entry(&key, &entry(), &mut value);
        (key, Bytes::from(value))
    }

    #[test]
    fn an_entry_decodes_to_itself_and_shares_the_buffer() {
        let (key, value) = encoded();
        let decoded = decode_entry(&key, 17, &value).expect("undamaged");
        assert_eq!(decoded, entry());
        assert!(value.as_ptr_range().contains(&decoded.data.as_ptr()), "no copy of the payload");
    }

    #[test]
    pub(crate) fn every_flipped_bit_of_an_entry_is_found() {
        let (key, value) = encoded();
        for bit in 0..value.len() * 8 {
            let mut damaged = value.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            decode_entry(&key, 17, &Bytes::from(damaged)).expect_err("a flipped bit");
        }
    }

    #[test]
    fn every_cut_of_an_entry_is_found() {
        let (key, value) = encoded();
        for length in 0..value.len() {
            decode_entry(&key, 17, &value.slice(..length)).expect_err("a cut value");
        }
    }

    #[test]
    fn a_value_under_a_wrong_key_is_found() {
        let (_, value) = encoded();
        let key = keys::log(ChainId::derive("main", 1), 18);
        let cause = decode_entry(&key, 18, &value).expect_err("misplaced");
        assert!(cause.contains("checksum"), "{cause}");
    }

    #[test]
    fn a_newer_record_version_is_named() {
        let (key, value) = encoded();
        let mut newer = value.to_vec();
        newer[0] = 9;
        assert_eq!(
            decode_entry(&key, 17, &Bytes::from(newer)),
            Err("record version 9, this program reads 1".to_owned())
        );
    }

    #[test]
    fn raft_types_and_ours_convert_both_ways() {
        let raft: eraftpb::Entry = entry().into();
        assert_eq!(LogEntry::from(raft), entry());
        let state = HardState { term: 3, vote: NodeId::new(2), commit: 9 };
        assert_eq!(HardState::from(&eraftpb::HardState::from(state)), state);
        let snapshot = Snapshot {
            position: Position { index: 9, term: 2 },
            conf_state: ConfState {
                voters: vec![1, 2, 3],
                learners: vec![4],
                voters_outgoing: vec![1, 2],
                learners_next: vec![2],
                auto_leave: true,
            },
            data: Bytes::from_static(b"state"),
        };
        assert_eq!(Snapshot::from(eraftpb::Snapshot::from(snapshot.clone())), snapshot);
        let key = keys::meta(ChainId::derive("main", 1), keys::Meta::Snapshot);
        let value = Bytes::from(snapshot.encode(&key));
        assert_eq!(Snapshot::decode(&key, &value), Ok(snapshot));
    }
}
