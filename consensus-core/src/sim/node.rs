//! A simulated node: the production replica, an application, a writer with a disk, and a driver.
//!
//! The driver is the production driver's twin: what has arrived is handled in one round, durable notices
//! first, then the rest in order, then one flush. The application works its tasks off one after the other.
//! The node decides nothing about time; the cluster does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::application::{Application, Submission};
use super::disk::Disk;
use super::image::{EntryDigest, LogImage};
use super::invariants::Promises;
use super::swarm::Swarm;
use crate::ids::{ChainId, Ticket};
use crate::replica::{Effects, Event, Proposal, Replica, ReplicaConfig, SnapshotPolicy, Status};
use crate::storage::{ConfState, HardState, Identity, LogEntry, LogReader, LogWriter, Snapshot};

use crate::ids::{Hash, NodeId, StoreIncarnation};
use crate::storage::memory::MemoryStore;

/// Events that wait for a round at most; peers' messages beyond are dropped, as a full queue does.
const INBOX_MAX: usize = 2_000;

/// Transactions that wait for a block at most.
const POOL_MAX: usize = 64;

/// Transactions that wait until a careless application proposes them without room.
const CARELESS_MIN: usize = 3;

/// What the application shall do, in this order.
#[derive(Debug)]
pub enum Task {
    /// Take entries.
    Apply(Vec<LogEntry>),
    /// Build a snapshot.
    Build,
    /// Become a snapshot.
    Install(Box<Snapshot>),
}

/// What a ticket stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// A block, and the hash over its payload.
    Proposal(Vec<Submission>, u64),
    /// A read that has to see at least this index.
    Read(u64),
    /// A command of the operator.
    Control,
}

/// Transactions on their way into blocks, on the node that a client chose.
#[derive(Debug, Default)]
pub struct Pool {
    /// Open in this term, with room for so many blocks.
    open: Option<(u64, usize)>,
    waiting: VecDeque<Submission>,
    /// Clients to be told, with the number of their transaction.
    listeners: BTreeMap<u64, u64>,
    /// In blocks that were proposed and not answered.
    proposed: BTreeMap<u64, u64>,
    /// Proposes what is in flight again, and more than there is room for: the replica and the application's
    /// memory of ids have to stand that.
    careless: bool,
}

impl Pool {
    /// The replica asks for proposals.
    pub fn open(&mut self, term: u64, room: usize) {
        self.open = Some((term, room));
    }

    /// Proposals are not welcome any more.
    pub fn close(&mut self) {
        self.open = None;
        self.waiting.clear();
    }

    /// Takes a transaction, unless this node does not lead or is full.
    pub fn take(&mut self, submission: Submission) -> bool {
        if self.open.is_none() || self.waiting.len() >= POOL_MAX {
            return false;
        }
        let Submission { client, number, .. } = submission;
        self.listeners.insert(client, number);
        let proposed = self.proposed.get(&client) == Some(&number);
        let waits = self.waiting.iter().any(|other| other.client == client && other.number == number);
        if (!proposed || self.careless) && !waits {
            self.waiting.push_back(submission);
        }
        true
    }

    /// The next block's transactions, if there are any and the replica has room.
    fn cut(&mut self, count_max: usize, bytes_max: u64) -> Option<Vec<Submission>> {
        let careless = self.careless && self.waiting.len() >= CARELESS_MIN;
        let (_, room) = self.open.as_mut().filter(|(_, room)| *room > 0 || careless)?;
        let mut bytes = 16;
        let mut block = Vec::new();
        while let Some(submission) = self.waiting.front().copied() {
            bytes += Application::framed_bytes(&submission);
            if block.len() >= count_max || bytes > bytes_max {
                break;
            }
            self.waiting.pop_front();
            self.proposed.insert(submission.client, submission.number);
            block.push(submission);
        }
        if block.is_empty() {
            return None;
        }
        *room = room.saturating_sub(1);
        Some(block)
    }

    /// A block was answered, whatever the answer.
    pub fn answered(&mut self, block: &[Submission]) {
        for submission in block {
            if self.proposed.get(&submission.client) == Some(&submission.number) {
                self.proposed.remove(&submission.client);
            }
        }
    }

    /// The client to be told that its transaction is in the chain, if it asked here.
    pub fn told(&mut self, client: u64, number: u64) -> bool {
        let listens = self.listeners.get(&client) == Some(&number);
        if listens {
            self.listeners.remove(&client);
        }
        listens
    }
}

/// What lives only while the process does.
#[derive(Debug)]
pub struct Running {
    /// Production's.
    pub replica: Replica,
    /// The application.
    pub application: Application,
    /// What the application has to do.
    pub tasks: VecDeque<Task>,
    /// The application's clients.
    pub pool: Pool,
    /// The replica as of the last round.
    pub status: Status,
    /// A round is scheduled.
    pub round_due: bool,
    /// No round before this time: the driver is busy or the process is stopped.
    pub busy_until_us: u64,
    /// Reused between rounds.
    pub effects: Effects,
    persisted: Vec<u64>,
    inbox: VecDeque<Event>,
    tick_due: bool,
    questions: BTreeMap<u64, Question>,
    tickets: u64,
}

impl Running {
    /// Puts an event into the inbox; `false` if it was dropped.
    pub fn receive(&mut self, event: Event) -> bool {
        match event {
            Event::Persisted { number } => self.persisted.push(number),
            Event::Tick if self.tick_due => return false,
            Event::Tick => {
                self.tick_due = true;
                self.inbox.push_back(event);
            }
            Event::PeerMessage { .. } if self.inbox.len() >= INBOX_MAX => return false,
            other => self.inbox.push_back(other),
        }
        true
    }

    /// One round of the driver: everything that has arrived, then one flush. Effects are in `effects`.
    pub fn round(&mut self) {
        for number in self.persisted.drain(..) {
            self.replica.handle(Event::Persisted { number }, &mut self.effects);
        }
        for event in self.inbox.drain(..) {
            self.replica.handle(event, &mut self.effects);
        }
        self.tick_due = false;
        self.replica.flush(&mut self.effects);
        self.status = self.replica.status();
    }

    /// A ticket for a question.
    pub fn ask(&mut self, question: Question) -> Ticket {
        self.tickets += 1;
        self.questions.insert(self.tickets, question);
        Ticket(self.tickets)
    }

    /// The question of a ticket, which is answered now; `None` if it was answered before.
    pub fn answered(&mut self, ticket: Ticket) -> Option<Question> {
        self.questions.remove(&ticket.0)
    }

    /// Questions without an answer.
    pub fn open_questions(&self) -> usize {
        self.questions.len()
    }

    /// Cuts blocks while there is room and puts them into the inbox; how many and of how many bytes.
    pub fn propose(&mut self, now_us: u64, swarm: &Swarm) -> (usize, usize) {
        let mut proposals = Vec::new();
        let bytes_max = swarm.limits.entry_bytes_max;
        while let Some(block) = self.pool.cut(swarm.workload.block_transactions_max, bytes_max) {
            let data = self.application.encode(now_us, &block);
            let ticket = self.ask(Question::Proposal(block, EntryDigest::content_of(&data)));
            proposals.push(Proposal { ticket, data });
        }
        let (count, bytes) = (proposals.len(), proposals.iter().map(|proposal| proposal.data.len()).sum());
        if count > 0 {
            self.inbox.push_back(Event::Propose { proposals });
        }
        (count, bytes)
    }

    /// What this replica must not fall back behind.
    pub fn promises(&self) -> Promises {
        let hard_state =
            HardState { term: self.status.term, vote: self.status.vote, commit: self.status.commit };
        Promises { hard_state, applied: self.status.applied, height: self.application.tip().0 }
    }
}

/// A node over all of its incarnations.
#[derive(Debug)]
pub struct Node {
    /// Its id, 1 for the first.
    pub id: u64,
    /// How often it was started.
    pub incarnation: u64,
    /// What survives.
    pub disk: Disk,
    /// What its replica handed out.
    pub issued: LogImage,
    /// `None` while it is down.
    pub running: Option<Running>,
    chain: ChainId,
}

/// What a starting node found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its log's last index.
    pub last: u64,
    /// What it promised.
    pub promises: Promises,
    /// The last entry that its application has.
    pub application: u64,
    /// A snapshot waits for the application.
    pub installing: bool,
}

impl Node {
    /// A node with a new store; it is not started.
    ///
    /// # Errors
    /// The store's.
    pub fn create(swarm: &Swarm, id: u64, mutant: Option<super::mutant::Mutant>) -> Result<Self, String> {
        let identity = Identity {
            cluster: "simulated".to_owned(),
            chain: "main".to_owned(),
            chain_incarnation: swarm.seed,
            node_id: NodeId::new(id).ok_or("node ids begin with 1")?,
            store_incarnation: StoreIncarnation([id as u8; 16]),
            genesis_hash: Hash::default(),
            created_at_ms: 0,
        };
        let members = ConfState {
            voters: (1..=swarm.voters).collect(),
            learners: (swarm.voters + 1..=swarm.nodes).collect(),
            ..ConfState::default()
        };
        let store = Arc::new(MemoryStore::new());
        store.create_chain(&identity, &members).map_err(|error| error.to_string())?;
        let chain = identity.chain_id();
        let disk = Disk::new(swarm.seed, id, chain, store, &swarm.latencies, mutant);
        Ok(Self { id, incarnation: 0, disk, issued: LogImage::default(), running: None, chain })
    }

    /// Starts the node on what its disk has.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(&mut self, swarm: &Swarm, replica_seed: u64) -> Result<Found, String> {
        self.incarnation += 1;
        let store = self.disk.store();
        let reader: Arc<dyn LogReader> = store.clone();
        let state = store.open_chain(self.chain).map_err(|error| error.to_string())?;
        let application = Application::open(swarm.application, self.chain, &reader)?;
        let hard_state = state.hard_state;
        let (last, applied, installing) = (state.last.index, state.applied.index, state.installing);
        let replica = Replica::open(replica_config(swarm, replica_seed), state, reader);
        let replica = replica.map_err(|error| error.to_string())?;
        let status = replica.status();
        self.issued = self.disk.durable().clone();
        let promises = Promises { hard_state, applied, height: application.tip().0 };
        let found = Found { last, promises, application: application.index(), installing };
        self.running = Some(Running {
            replica,
            application,
            tasks: VecDeque::new(),
            pool: Pool { careless: swarm.workload.careless, ..Pool::default() },
            status,
            round_due: false,
            busy_until_us: 0,
            effects: Effects::new(),
            persisted: Vec::new(),
            inbox: VecDeque::new(),
            tick_due: false,
            questions: BTreeMap::new(),
            tickets: 0,
        });
        Ok(found)
    }

    /// The chain in its store.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// The running part, if this incarnation still runs.
    pub fn running_as(&mut self, incarnation: u64) -> Option<&mut Running> {
        self.running.as_mut().filter(|_| self.incarnation == incarnation)
    }
}

fn replica_config(swarm: &Swarm, seed: u64) -> ReplicaConfig {
    let policy = SnapshotPolicy { every_entries: swarm.snapshot_every, keep_entries: swarm.retain };
    ReplicaConfig {
        heartbeat_ticks: swarm.heartbeat_ticks,
        election_ticks: swarm.election_ticks,
        election_ticks_min: swarm.election_ticks + 1,
        election_ticks_max: 2 * swarm.election_ticks,
        seed,
        snapshots: (swarm.application == super::swarm::ApplicationKind::HashChain).then_some(policy),
        snapshot_timeout_ticks: swarm.snapshot_timeout_ticks,
        limits: swarm.limits.clone(),
    }
}
