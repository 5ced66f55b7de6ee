//! A node's seat in a Raft group, as it is on disk.
//!
//! Under the data directory there is at most one store, in `store/`, and it belongs to one group: the
//! chain's log, votes and membership as this node has promised them. A store that must not be used any more is
//! set aside as `retired-<time>`, so that nothing is lost, and only the newest of those is kept. A new
//! store has a new incarnation: what the former one promised is forgotten, so its successor has no say in
//! the group before the group has admitted it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use consensus_core::ids::{Hash, NodeId, StoreIncarnation};
use consensus_core::storage::rocks::{RocksOptions, RocksStore};
use consensus_core::storage::{self, ConfState, Identity, LogWriter, Position, Snapshot};

use crate::application::controller::agreement::{Agreement, Roster};
use crate::config::cita::address::Short;
use crate::telemetry::unix_time_ms;
use crate::transport::cita::GroupId;

/// Name of the cluster in every store of a CITA-Cloud chain.
pub(super) const CLUSTER: &str = "cita-cloud";
/// Name of the chain there; the group's id tells chains apart.
pub(super) const CHAIN: &str = "cita";
/// Directory of the store.
const STORE: &str = "store";
/// A file that is made to see whether files can be made.
const PROBE: &str = ".probe";
/// What set-aside stores are named.
const RETIRED: &str = "retired-";
/// Where a group's log begins: everybody who joins gets the membership by snapshot.
const FOUNDED_AT: Position = Position { index: 1, term: 1 };

/// The data directory.
#[derive(Clone, Debug)]
pub(super) struct Home {
    dir: PathBuf,
}

/// A store that was opened, and what it says.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) identity: Identity,
    pub(super) store: Arc<RocksStore>,
}

impl Home {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.join(STORE)
    }

    /// The group that this node is in; `None` if it is in none. Blocks.
    ///
    /// # Errors
    /// A store that cannot be used: in use, damaged, or of another node.
    pub(super) fn open(&self, own: NodeId) -> anyhow::Result<Option<Group>> {
        self.prepare()?;
        self.note_predecessor();
        if !self.store_dir().exists() {
            return Ok(None);
        }
        let store = self.open_store()?;
        let mut chains = store.chains()?;
        if chains.len() > 1 {
            bail!("{} holds {} chains, must hold one", self.store_dir().display(), chains.len());
        }
        let Some(identity) = chains.pop() else {
            // A crash came between the making of the store and that of its chain.
            return Ok(None);
        };
        if identity.cluster != CLUSTER || identity.node_id != own {
            bail!(
                "{} belongs to node {} of {}, this node is {}: is it a copy, or was node_addr changed?",
                self.store_dir().display(),
                Short(identity.node_id),
                identity.cluster,
                Short(own)
            );
        }
        let id = group_of(&identity);
        Ok(Some(Group { id, identity, store }))
    }

    /// Makes the directory, and writes into it: better told now than when the first vote is due.
    fn prepare(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        if self.dir.exists() && !self.dir.is_dir() {
            bail!("raft_data_path {dir} is no directory");
        }
        std::fs::create_dir_all(&self.dir).with_context(|| format!("raft_data_path {dir} cannot be made"))?;
        let probe = self.dir.join(PROBE);
        std::fs::write(&probe, b"")
            .and_then(|()| std::fs::remove_file(&probe))
            .with_context(|| format!("raft_data_path {dir} cannot be written to"))
    }

    fn open_store(&self) -> anyhow::Result<Arc<RocksStore>> {
        let dir = self.store_dir();
        match RocksStore::open(&dir, &RocksOptions::default()) {
            Ok(store) => Ok(Arc::new(store)),
            // Whoever has it open can use it.
            Err(error @ storage::Error::InUse { .. }) => Err(error.into()),
            Err(error) => bail!(
                "the consensus state in {} cannot be used: {error}; if it is lost, move {} away: the node then joins \
                 its group anew",
                dir.display(),
                self.dir.display()
            ),
        }
    }

    /// Files of consensus_raft in the same place are left alone.
    fn note_predecessor(&self) {
        let old = ["raft-snapshot", "raft-entry", "abort_height"];
        if old.iter().any(|name| self.dir.join(name).exists()) {
            tracing::info!(
                dir = %self.dir.display(),
                "found state of consensus_raft: it is not read, the controller's chain is what counts"
            );
        }
    }

    /// Makes this node a founder. Blocks; durable on return.
    pub(super) fn found(
        &self,
        own: NodeId,
        store_incarnation: StoreIncarnation,
        id: GroupId,
        voters: &[NodeId],
        roster: Roster,
    ) -> anyhow::Result<Group> {
        let snapshot = Snapshot {
            position: FOUNDED_AT,
            conf_state: ConfState {
                voters: voters.iter().map(|id| id.get()).collect(),
                ..ConfState::default()
            },
            data: Agreement::founded(roster).encode(),
        };
        let (store, identity) = (self.open_store()?, identity(own, store_incarnation, id));
        storage::found(&*store, &identity, snapshot)?;
        Ok(Group { id, identity, store })
    }

    /// Makes this node a newcomer. Blocks; durable on return.
    pub(super) fn join(
        &self,
        own: NodeId,
        store_incarnation: StoreIncarnation,
        id: GroupId,
    ) -> anyhow::Result<Group> {
        let (store, identity) = (self.open_store()?, identity(own, store_incarnation, id));
        store.create_chain(&identity, &ConfState::default())?;
        Ok(Group { id, identity, store })
    }

    /// Sets the store aside, which nobody may have open, and lets go of those set aside before. Blocks.
    pub(super) fn retire(&self) -> anyhow::Result<()> {
        let former = self.retired()?;
        let to = self.dir.join(format!("{RETIRED}{}", unix_time_ms()));
        std::fs::rename(self.store_dir(), &to)
            .with_context(|| format!("the store cannot be set aside as {}", to.display()))?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        for dir in former {
            if let Err(error) = std::fs::remove_dir_all(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "a store that was set aside cannot be removed");
            }
        }
        Ok(())
    }

    fn retired(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(RETIRED) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

fn identity(own: NodeId, store_incarnation: StoreIncarnation, GroupId(group): GroupId) -> Identity {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(&group);
    let mut first = [0; 8];
    first.copy_from_slice(&group[..8]);
    Identity {
        cluster: CLUSTER.to_owned(),
        chain: CHAIN.to_owned(),
        chain_incarnation: u64::from_be_bytes(first),
        node_id: own,
        store_incarnation,
        genesis_hash: Hash(hash),
        created_at_ms: unix_time_ms(),
    }
}

fn group_of(identity: &Identity) -> GroupId {
    let mut group = [0; 16];
    group.copy_from_slice(&identity.genesis_hash.as_bytes()[..16]);
    GroupId(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId([7; 16]);
    const STORE_A: StoreIncarnation = StoreIncarnation([1; 16]);

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    #[test]
    fn a_founder_finds_its_group_again_and_nobody_else_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path());
        assert!(home.open(node(1)).expect("empty").is_none());
        let roster: Roster = [(node(1), STORE_A)].into();
        drop(home.found(node(1), STORE_A, GROUP, &[node(1)], roster).expect("founded"));
        let group = home.open(node(1)).expect("opens").expect("is there");
        assert_eq!((group.id, group.identity.store_incarnation), (GROUP, STORE_A));
        let state = group.store.open_chain(group.identity.chain_id()).expect("is whole");
        assert_eq!(state.applied.conf_state.voters, [1]);
        drop(group);
        let error = home.open(node(2)).expect_err("foreign").to_string();
        assert!(
            error.contains("belongs to node 0000000000000001 of cita-cloud, this node is 0000000000000002"),
            "{error}"
        );
    }

    #[test]
    fn a_store_that_was_set_aside_is_not_found_and_only_the_newest_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path());
        for _ in 0..3 {
            drop(home.join(node(1), STORE_A, GROUP).expect("joined"));
            home.retire().expect("set aside");
            assert!(home.open(node(1)).expect("empty").is_none());
        }
        assert_eq!(home.retired().expect("listed").len(), 1);
    }

    #[test]
    fn a_damaged_store_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path());
        drop(home.join(node(1), STORE_A, GROUP).expect("joined"));
        std::fs::write(dir.path().join(STORE).join("db").join("CURRENT"), b"").expect("emptied");
        let error = format!("{:#}", home.open(node(1)).expect_err("damaged"));
        assert!(error.contains("cannot be used") && error.contains("move"), "{error}");
    }
}
