//! Whose data a store holds: chains are opened only for their owner, and created only where they belong.

use super::{
    Applied, ChainState, ConfState, Error, HardState, Identity, LogWriter, Position, Result, Snapshot,
    WriteBatch,
};

/// A chain that is ready for its replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// As found, or as created.
    pub state: ChainState,
    /// Whether it did not exist before.
    pub created: bool,
}

impl Identity {
    /// Compares what was found in a store with what is expected of it: cluster, node, chain, its incarnation and
    /// its genesis. The store's incarnation and the time of its creation are the store's own.
    ///
    /// # Errors
    /// [`Error::Foreign`] with the first field that differs.
    pub fn check_owner(&self, expected: &Self) -> Result<()> {
        differ("cluster", &self.cluster, &expected.cluster)?;
        differ("node id", self.node_id, expected.node_id)?;
        differ("chain", &self.chain, &expected.chain)?;
        differ("chain incarnation", self.chain_incarnation, expected.chain_incarnation)?;
        differ("genesis hash", self.genesis_hash, expected.genesis_hash)
    }
}

/// Opens the chain of `expected`, or creates it with `members` if the store has none of its name. All chains of
/// a store share one incarnation: that of `expected` counts only for the first.
///
/// # Errors
/// [`Error::Foreign`] if anything in the store belongs to another cluster or node, or the chain of this name is
/// another one; otherwise those of [`LogWriter::create_chain`] and [`LogWriter::open_chain`].
pub fn open_or_create(store: &dyn LogWriter, expected: &Identity, members: &ConfState) -> Result<Opened> {
    let mut wanted = expected.clone();
    let mut exists = false;
    for found in store.chains()? {
        if found.chain == expected.chain {
            found.check_owner(expected)?;
            exists = true;
        }
        differ("cluster", &found.cluster, &expected.cluster)?;
        differ("node id", found.node_id, expected.node_id)?;
        wanted.store_incarnation = found.store_incarnation;
    }
    if !exists {
        store.create_chain(&wanted, members)?;
    }
    Ok(Opened { state: store.open_chain(wanted.chain_id())?, created: !exists })
}

fn differ<T: PartialEq + ToString>(what: &'static str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Foreign { what, found: found.to_string(), expected: expected.to_string() })
}

/// Creates a chain that begins with a snapshot instead of an empty log, so that whoever joins later gets one,
/// too: all its founders must be given the same. Durable on return; a crash in between leaves the store of
/// a newcomer, which takes part in nothing until it is sent a snapshot.
///
/// # Errors
/// Those of [`LogWriter::create_chain`] and [`LogWriter::write`].
pub fn found(store: &dyn LogWriter, identity: &Identity, snapshot: Snapshot) -> Result<()> {
    store.create_chain(identity, &ConfState::default())?;
    let Position { index, term } = snapshot.position;
    let mut batch = WriteBatch::new(identity.chain_id());
    batch.sync = true;
    batch.number = 1;
    batch.applied = Some(Applied { index, conf_state: snapshot.conf_state.clone() });
    batch.install = Some(snapshot);
    batch.installed = true;
    batch.hard_state = Some(HardState { term, vote: None, commit: index });
    store.write(&[batch])
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;
    use crate::ids::{Hash, NodeId, StoreIncarnation};

    fn identity() -> Identity {
        Identity {
            cluster: "harbour".to_owned(),
            chain: "main".to_owned(),
            chain_incarnation: 1,
            node_id: NodeId::new(1).expect("not 0"),
            store_incarnation: StoreIncarnation([1; 16]),
            genesis_hash: Hash([2; 32]),
            created_at_ms: 5,
        }
    }

    fn open(store: &MemoryStore, identity: &Identity) -> Result<Opened> {
        open_or_create(store, identity, &ConfState { voters: vec![1], ..ConfState::default() })
    }

    #[test]
    fn the_first_open_creates_and_the_second_finds() {
        let store = MemoryStore::new();
        assert!(open(&store, &identity()).expect("created").created);
        let later = Identity { store_incarnation: StoreIncarnation([9; 16]), created_at_ms: 6, ..identity() };
        let opened = open(&store, &later).expect("found");
        assert!(!opened.created);
        assert_eq!(opened.state.identity, identity(), "the store keeps its own incarnation");
    }

    #[test]
    fn a_second_chain_shares_the_stores_incarnation() {
        let store = MemoryStore::new();
        open(&store, &identity()).expect("created");
        let other =
            Identity { chain: "side".to_owned(), store_incarnation: StoreIncarnation([9; 16]), ..identity() };
        let opened = open(&store, &other).expect("created");
        assert!(opened.created);
        assert_eq!(opened.state.identity.store_incarnation, identity().store_incarnation);
    }

    #[test]
    fn a_store_of_somebody_else_is_refused_by_the_field_that_differs() {
        let cases = [
            ("cluster", Identity { cluster: "other".to_owned(), ..identity() }),
            ("node id", Identity { node_id: NodeId::new(2).expect("not 0"), ..identity() }),
            ("chain incarnation", Identity { chain_incarnation: 2, ..identity() }),
            ("genesis hash", Identity { genesis_hash: Hash([3; 32]), ..identity() }),
            ("cluster", Identity { cluster: "other".to_owned(), chain: "side".to_owned(), ..identity() }),
        ];
        for (field, other) in cases {
            let store = MemoryStore::new();
            open(&store, &identity()).expect("created");
            match open(&store, &other) {
                Err(Error::Foreign { what, .. }) => assert_eq!(what, field),
                outcome => panic!("{field}: {outcome:?}"),
            }
            assert_eq!(store.chains().expect("readable").len(), 1, "nothing was created");
        }
    }
}
