//! A replica's state as plain data, for status pages, metrics and tests.

use raft::{ProgressState, StateRole};

use super::{Phase, Replica};
use crate::ids::NodeId;
use crate::storage::ConfState;

/// What a replica is in its chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Follows a leader or waits for one.
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// The word for people and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// A leader's knowledge of a peer.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct PeerProgress {
    /// The peer.
    pub node_id: NodeId,
    /// Highest index known to be on its disk.
    pub matched: u64,
    /// Next index to send.
    pub next: u64,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// It answered this leader within the last election timeout.
    pub active: bool,
    /// Whether it counts in elections and commits.
    pub voter: bool,
}

/// A replica at one moment.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Whom it voted for in this term.
    pub vote: Option<NodeId>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// That leader was heard within two election timeouts; true on a leader.
    pub leader_heard: bool,
    /// What the leader counts committed, as far as it has told in its term.
    pub told_commit: Option<u64>,
    /// Highest committed index it knows of.
    pub commit: u64,
    /// Highest index its application has taken.
    pub applied: u64,
    /// Highest index on its own disk.
    pub persisted: u64,
    /// First index kept.
    pub first: u64,
    /// Last index, durable or not.
    pub last: u64,
    /// Voters; while joint those of both halves.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Whether a membership change is in its joint phase.
    pub joint: bool,
    /// Proposals in flight, on a leader.
    pub proposals: usize,
    /// Committed payload bytes that the application has not taken.
    pub apply_backlog_bytes: u64,
    /// Rounds not yet durable.
    pub unpersisted_rounds: usize,
    /// Whether a received snapshot is being installed.
    pub installing: bool,
    /// Set when halted.
    pub halted: Option<String>,
    /// A leader's view of the others, ascending by node; empty otherwise.
    pub peers: Vec<PeerProgress>,
}

impl Status {
    /// Whether a node is a voter or a learner.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.voters.contains(&id.get()) || self.learners.contains(&id.get())
    }
}

impl Replica {
    /// The state as plain data.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let conf = self.raw.store().conf_state();
        let mut voters = conf.voters.clone();
        voters.extend(conf.voters_outgoing.iter().filter(|id| !conf.voters.contains(id)));
        voters.sort_unstable();
        Status {
            node_id: NodeId::new(self.node).expect("checked when the identity was made"),
            role: self.role(),
            term: raft.term,
            vote: NodeId::new(raft.vote),
            leader: self.leader(),
            leader_heard: self.hears_leader(),
            told_commit: self.told_commit(),
            commit: raft.raft_log.committed,
            applied: self.applied,
            persisted: raft.raft_log.persisted,
            first: self.raw.store().first(),
            last: raft.raft_log.last_index(),
            joint: !conf.voters_outgoing.is_empty(),
            voters,
            learners: conf.learners.clone(),
            proposals: self.proposals.outstanding(),
            apply_backlog_bytes: self.backlog.bytes(),
            unpersisted_rounds: self.rounds.len(),
            installing: matches!(self.phase, Phase::Installing(_) | Phase::CatchingUp { .. }),
            halted: self.halted.clone(),
            peers: self.peer_progress(),
        }
    }

    /// The membership that it goes by, as of its applied index, with the halves of a joint phase apart.
    pub fn conf_state(&self) -> &ConfState {
        self.raw.store().conf_state()
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        NodeId::new(self.raw.raft.leader_id)
    }

    pub(super) fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    fn peer_progress(&self) -> Vec<PeerProgress> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut peers: Vec<PeerProgress> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != self.node)
            .filter_map(|(id, progress)| {
                Some(PeerProgress {
                    node_id: NodeId::new(*id)?,
                    matched: progress.matched,
                    next: progress.next_idx,
                    state: match progress.state {
                        ProgressState::Probe => "probe",
                        ProgressState::Replicate => "replicate",
                        ProgressState::Snapshot => "snapshot",
                    },
                    active: self.last_answer(*id).is_some(),
                    voter: raft.prs().conf().voters().contains(*id),
                })
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node_id);
        peers
    }
}
