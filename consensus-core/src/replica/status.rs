//! A replica's state as plain data, for status pages, metrics and tests.

use crate::ids::NodeId;

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
    /// Heard within the last election timeout.
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
