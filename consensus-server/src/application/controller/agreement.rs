//! What a chain has agreed on: the newest block, and which stores speak for its members.
//!
//! A pure function of the log, the same on every node. Whether a controller has a block already plays no
//! part here: an entry is taken when it is read, and `desk` brings the node's own controller there.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus_core::ids::{NodeId, StoreIncarnation};
use consensus_proto::cita::exchange as wire;
use prost::Message as _;

/// Members and the stores that speak for them.
pub type Roster = BTreeMap<NodeId, StoreIncarnation>;

/// A block that was agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgreedBlock {
    /// Its entry.
    pub index: u64,
    /// Its height.
    pub height: u64,
    /// Whose controller made it.
    pub proposer: u64,
    /// The controller's proposal.
    pub data: Bytes,
}

/// What an entry led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A block was agreed on.
    Agreed(AgreedBlock),
    /// The blocks from this height on, up to the entry, are given up.
    Void {
        /// First height.
        from_height: u64,
        /// Entry of the last block given up.
        upto_index: u64,
    },
    /// The roster changed.
    Roster,
    /// It had no effect.
    Ignored(String),
}

/// The state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    height: u64,
    index: u64,
    newest: Option<AgreedBlock>,
    roster: Roster,
}

impl Agreement {
    /// What founders begin with.
    pub fn founded(roster: Roster) -> Self {
        Self { roster, ..Self::default() }
    }

    /// The newest height that was agreed on and not given up; 0 before the first.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Entry of the newest block, given up or not.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The newest block, unless it was given up.
    pub fn newest(&self) -> Option<&AgreedBlock> {
        self.newest.as_ref()
    }

    /// Members and their stores.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Takes an entry.
    ///
    /// # Errors
    /// In words, if it cannot be read: this node must not go on.
    pub fn take(&mut self, index: u64, data: &Bytes) -> Result<Change, String> {
        let entry = wire::Entry::decode(data.clone())
            .map_err(|error| format!("entry {index} is no entry of a CITA-Cloud chain: {error}"))?;
        match entry.entry {
            Some(wire::entry::Entry::Block(block)) => Ok(self.take_block(index, block)),
            Some(wire::entry::Entry::Void(void)) => Ok(self.take_void(&void)),
            Some(wire::entry::Entry::Admission(admission)) => {
                self.roster =
                    roster_from_wire(&admission.roster).map_err(|error| format!("entry {index}: {error}"))?;
                Ok(Change::Roster)
            }
            None => Err(format!("entry {index} is of a kind that this program does not know: upgrade it")),
        }
    }

    fn take_block(&mut self, index: u64, block: wire::Block) -> Change {
        if block.height <= self.height {
            return Change::Ignored(format!(
                "block {} in entry {index} is not above the agreed height {}",
                block.height, self.height
            ));
        }
        let agreed = AgreedBlock { index, height: block.height, proposer: block.proposer, data: block.data };
        self.height = agreed.height;
        self.index = index;
        self.newest = Some(agreed.clone());
        Change::Agreed(agreed)
    }

    fn take_void(&mut self, void: &wire::Void) -> Change {
        let wire::Void { from_height, upto_index } = *void;
        if upto_index != self.index || from_height == 0 || from_height > self.height {
            return Change::Ignored(format!(
                "giving up from height {from_height} to entry {upto_index}: the newest block is {} in entry {}",
                self.height, self.index
            ));
        }
        self.height = from_height - 1;
        self.newest = None;
        Change::Void { from_height, upto_index }
    }

    /// As a snapshot's bytes.
    pub fn encode(&self) -> Bytes {
        let block = self.newest.as_ref().map_or_else(
            || wire::Block { height: self.height, ..wire::Block::default() },
            |block| wire::Block { height: block.height, data: block.data.clone(), proposer: block.proposer },
        );
        let agreed = wire::Agreed { index: self.index, block: Some(block), void: self.newest.is_none() };
        let roster = roster_to_wire(&self.roster);
        wire::State { agreed: Some(agreed), roster }.encode_to_vec().into()
    }

    /// From a snapshot's bytes.
    ///
    /// # Errors
    /// In words.
    pub fn decode(data: &Bytes) -> Result<Self, String> {
        let state = wire::State::decode(data.clone()).map_err(|error| error.to_string())?;
        let roster = roster_from_wire(&state.roster)?;
        let wire::Agreed { index, block, void } = state.agreed.unwrap_or_default();
        let wire::Block { height, data, proposer } = block.unwrap_or_default();
        let newest = (!void).then_some(AgreedBlock { index, height, proposer, data });
        Ok(Self { height, index, newest, roster })
    }
}

/// A block as the payload of an entry.
pub fn block_entry(height: u64, data: Bytes, proposer: NodeId) -> Bytes {
    entry(wire::entry::Entry::Block(wire::Block { height, data, proposer: proposer.get() }))
}

/// The giving up of blocks as the payload of an entry.
pub fn void_entry(from_height: u64, upto_index: u64) -> Bytes {
    entry(wire::entry::Entry::Void(wire::Void { from_height, upto_index }))
}

/// A new roster as the payload of an entry.
pub fn admission_entry(roster: &Roster) -> Bytes {
    entry(wire::entry::Entry::Admission(wire::Admission { roster: roster_to_wire(roster) }))
}

fn entry(entry: wire::entry::Entry) -> Bytes {
    wire::Entry { entry: Some(entry) }.encode_to_vec().into()
}

/// For the wire, ascending.
pub fn roster_to_wire(roster: &Roster) -> Vec<wire::Seat> {
    let seat = |(id, store): (&NodeId, &StoreIncarnation)| wire::Seat {
        node_id: id.get(),
        incarnation: Bytes::copy_from_slice(&store.0),
    };
    roster.iter().map(seat).collect()
}

/// From the wire.
///
/// # Errors
/// In words.
pub fn roster_from_wire(seats: &[wire::Seat]) -> Result<Roster, String> {
    let seat = |seat: &wire::Seat| {
        let id = NodeId::new(seat.node_id).ok_or_else(|| "a member has the id 0".to_owned())?;
        let store = seat.incarnation.as_ref().try_into().map(StoreIncarnation).map_err(|_| {
            format!("the store of member {id} is named by {} bytes, must be 16", seat.incarnation.len())
        })?;
        Ok((id, store))
    };
    seats.iter().map(seat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    fn block(height: u64, data: &'static [u8]) -> Bytes {
        block_entry(height, Bytes::from_static(data), node(1))
    }

    fn take(state: &mut Agreement, index: u64, data: &Bytes) -> Change {
        state.take(index, data).expect("is known")
    }

    #[test]
    fn a_height_is_agreed_on_once_and_a_second_block_for_it_is_ignored() {
        let mut state = Agreement::default();
        assert!(matches!(take(&mut state, 2, &block(7, b"a")), Change::Agreed(_)));
        assert!(matches!(take(&mut state, 3, &block(7, b"b")), Change::Ignored(_)));
        assert!(matches!(take(&mut state, 4, &block(6, b"c")), Change::Ignored(_)));
        assert_eq!(
            state.newest().map(|block| (block.index, block.data.as_ref())),
            Some((2, b"a".as_slice()))
        );
    }

    #[test]
    fn what_is_given_up_can_be_agreed_on_anew_and_only_the_newest_can_be_given_up() {
        let mut state = Agreement::default();
        take(&mut state, 2, &block(7, b"a"));
        take(&mut state, 3, &block(8, b"b"));
        for (from, upto) in [(8, 2), (9, 3), (0, 3)] {
            assert!(
                matches!(take(&mut state, 4, &void_entry(from, upto)), Change::Ignored(_)),
                "{from} {upto}"
            );
        }
        let change = take(&mut state, 5, &void_entry(8, 3));
        assert_eq!(change, Change::Void { from_height: 8, upto_index: 3 });
        assert_eq!((state.height(), state.index(), state.newest()), (7, 3, None));
        assert!(matches!(take(&mut state, 6, &void_entry(8, 3)), Change::Ignored(_)), "once");
        assert!(matches!(take(&mut state, 7, &block(8, b"c")), Change::Agreed(_)));
    }

    #[test]
    fn a_snapshot_brings_back_the_state() {
        let mut state = Agreement::founded([(node(3), StoreIncarnation([3; 16]))].into());
        for (index, data) in [(2, block(7, b"a")), (3, block(8, b"b")), (4, void_entry(8, 3))] {
            assert_eq!(Agreement::decode(&state.encode()).expect("is whole"), state, "before {index}");
            take(&mut state, index, &data);
        }
        assert_eq!(Agreement::decode(&state.encode()).expect("is whole"), state);
    }

    #[test]
    fn an_entry_of_a_later_program_is_not_skipped() {
        let error = Agreement::default().take(9, &Bytes::from_static(&[0x7a, 0x00])).expect_err("unknown");
        assert!(error.contains("entry 9") && error.contains("upgrade"), "{error}");
        assert!(Agreement::default().take(9, &Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn an_admission_replaces_the_roster_and_one_that_cannot_be_read_stops_this_node() {
        let mut state = Agreement::founded([(node(3), StoreIncarnation([3; 16]))].into());
        let roster: Roster = [(node(4), StoreIncarnation([4; 16]))].into();
        assert_eq!(take(&mut state, 5, &admission_entry(&roster)), Change::Roster);
        assert_eq!(state.roster(), &roster);
        for (node_id, bytes) in [(0, 16), (4, 15)] {
            let seat = wire::Seat { node_id, incarnation: vec![1; bytes].into() };
            let admission = wire::Admission { roster: vec![seat] };
            let error = state.take(6, &entry(wire::entry::Entry::Admission(admission))).expect_err("no seat");
            assert!(error.contains("entry 6"), "{error}");
        }
        assert_eq!(state.roster(), &roster);
    }
}
