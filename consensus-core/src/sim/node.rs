//! A simulated node: the production replica, an application, a writer with a disk, and a driver.
//!
//! The driver is the production driver's twin: what has arrived is handled in one round, durable notices
//! first, then the rest in order, then one flush. The application works its tasks off one after the other.
//! The node decides nothing about time; the cluster does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::application::{Application, FIRST_STORE, Submission, Taken};
use super::damage::FLIPPED_IN_USE;
use super::disk::Disk;
use super::image::{EntryDigest, LogImage};
use super::invariants::{Promises, Verdict, Violation};
use super::mutant::{self, Mutant};
use super::swarm::{ApplicationKind, Swarm};
use crate::ids::{ChainId, Hash, NodeId, StoreIncarnation, Ticket};
use crate::replica::{Effects, Event, Proposal, Replica, ReplicaConfig, SnapshotPolicy, Status};
use crate::storage::memory::{ChainImage, DiskImage, MemoryStore};
use crate::storage::{
    self, ConfState, EntryKind, HardState, Identity, LogEntry, LogReader, LogWriter, Position, Snapshot,
    WriteBatch,
};

/// Events that wait for a round at most; peers' messages beyond are dropped, as a full queue does.
const INBOX_MAX: usize = 2_000;

/// Where the simulator's own chain is founded: it begins with a snapshot, so that newcomers get one.
const FOUNDED_AT: Position = Position { index: 1, term: 1 };

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
    /// A command that must be refused.
    Mistake,
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

    /// Takes a transaction that nobody waits for, unless this node does not lead.
    pub fn slip_in(&mut self, submission: Submission) {
        let waits = self.waiting.contains(&submission);
        let proposed = self.proposed.get(&submission.client) == Some(&submission.number);
        if self.open.is_some() && !waits && !proposed {
            self.waiting.push_back(submission);
        }
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
    /// The application does nothing before this time.
    pub hangs_until_us: u64,
    /// The membership as of the last round.
    pub membership: ConfState,
    /// By position, the store of each peer that was heard as a leader last.
    pub led_by: BTreeMap<usize, u64>,
    /// The store from which each peer, by position, last asked for a vote.
    pub asked_by: BTreeMap<usize, u64>,
    /// Reused between rounds.
    pub effects: Effects,
    persisted: Vec<u64>,
    inbox: VecDeque<Event>,
    /// A tick is among what waits for the next round.
    pub tick_due: bool,
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
            Event::PeerMessage { .. } if !self.has_room() => return false,
            other => self.inbox.push_back(other),
        }
        true
    }

    /// Whether messages of peers are taken.
    pub fn has_room(&self) -> bool {
        self.inbox.len() < INBOX_MAX
    }

    /// One round of the driver: everything that has arrived, then one flush. Effects are in `effects`.
    ///
    /// # Errors
    /// When the replica could be left alone, as it said, and was not.
    pub fn round(&mut self) -> Verdict {
        let idle_ticks = self.replica.idle_ticks();
        let only_tick = self.persisted.is_empty() && matches!(self.inbox.make_contiguous(), [Event::Tick]);
        for number in self.persisted.drain(..) {
            self.replica.handle(Event::Persisted { number }, &mut self.effects);
        }
        for event in self.inbox.drain(..) {
            self.replica.handle(event, &mut self.effects);
        }
        self.tick_due = false;
        self.replica.flush(&mut self.effects);
        self.status = self.replica.status();
        if only_tick && idle_ticks > 1 && !self.effects.is_empty() {
            let detail = format!("tick 1 of {idle_ticks} led to {:?}", self.effects);
            return Err(Violation::new("I1 idle ticks have no effects", detail));
        }
        Ok(())
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

    /// Whether a command of the operator is not answered.
    pub fn awaits_change(&self) -> bool {
        self.questions.values().any(|question| *question == Question::Control)
    }

    /// Cuts blocks while there is room and puts them into the inbox; how many and of how many bytes.
    pub fn propose(&mut self, now_us: u64, swarm: &Swarm) -> (usize, usize) {
        let mut proposals = Vec::new();
        let bytes_max = swarm.limits.entry_bytes_max;
        while let Some(block) = self.pool.cut(swarm.workload.block_transactions_max, bytes_max) {
            let data = self.application.encode(now_us, &block);
            let ticket = self.ask(Question::Proposal(block, EntryDigest::content_of(&data)));
            proposals.push(Proposal::new(ticket, data));
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
    /// Counts its stores: another one is begun when one is lost.
    pub store_number: u64,
    /// Why it does not run on the store that it has, and never will.
    pub refused: Option<String>,
    /// What was done to its store.
    pub damage: Option<&'static str>,
    /// The application's state, if it keeps it durable by itself.
    pub kept: Option<Bytes>,
    /// What was durable in its last store that was a member's, whose acknowledgements may still be under way.
    lost: LogImage,
    /// How the disk once was.
    pub former: Option<DiskImage>,
    identity: Identity,
    chain: ChainId,
}

/// The members that a chain begins with.
pub fn founders(swarm: &Swarm) -> ConfState {
    ConfState {
        voters: (1..=swarm.voters).collect(),
        learners: (swarm.voters + 1..=swarm.voters + swarm.learners).collect(),
        ..ConfState::default()
    }
}

/// The position of the snapshot that a chain begins with, if it does.
pub fn founded_at(swarm: &Swarm) -> Position {
    match swarm.application {
        ApplicationKind::HashChain => FOUNDED_AT,
        ApplicationKind::Ledger => Position::default(),
    }
}

/// What a starting node found.
#[derive(Debug)]
pub struct Found {
    /// What its application had lost and took from the log.
    pub caught_up: Taken,
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
    pub fn create(swarm: &Swarm, id: u64, mutant: Option<Mutant>) -> Result<Self, String> {
        let identity = Identity {
            cluster: "simulated".to_owned(),
            chain: "main".to_owned(),
            chain_incarnation: swarm.seed,
            node_id: NodeId::new(id).ok_or("node ids begin with 1")?,
            store_incarnation: StoreIncarnation([id as u8; 16]),
            genesis_hash: Hash::default(),
            created_at_ms: 0,
        };
        let store = Arc::new(MemoryStore::new());
        let members = founders(swarm);
        let founder = members.voters.contains(&id) || members.learners.contains(&id);
        let made = match swarm.application {
            ApplicationKind::Ledger => store.create_chain(&identity, &members),
            ApplicationKind::HashChain if founder => found(&store, &identity, members),
            ApplicationKind::HashChain => store.create_chain(&identity, &ConfState::default()),
        };
        made.map_err(|error| error.to_string())?;
        let chain = identity.chain_id();
        let durable = log_image(&store, chain)?;
        let disk = Disk::new(swarm.seed, id, chain, store, durable, &swarm.latencies, mutant);
        Ok(Self {
            id,
            incarnation: 0,
            disk,
            issued: LogImage::default(),
            running: None,
            store_number: FIRST_STORE,
            refused: None,
            damage: None,
            kept: None,
            lost: LogImage::default(),
            former: None,
            identity,
            chain,
        })
    }

    /// Sets its store aside and begins a new one, as a newcomer. The node must be down. The store of a newcomer
    /// that was never given the chain leaves nothing behind: the word of the one before it may still be on its way.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_anew(&mut self, was_member: bool) -> Result<(), String> {
        assert!(self.running.is_none(), "a store in use is not replaced");
        self.store_number += u64::from(!mutant::is(Mutant::NewStoreUnderOldName));
        self.identity.store_incarnation =
            StoreIncarnation([(self.store_number << 3) as u8 | self.id as u8; 16]);
        let store = self.disk.store();
        store.restore(DiskImage::new());
        let made = store.create_chain(&self.identity, &ConfState::default());
        made.map_err(|error| error.to_string())?;
        let lost = self.disk.begin_anew();
        if was_member {
            self.lost = lost;
        }
        (self.refused, self.damage, self.kept, self.former) = (None, None, None, None);
        Ok(())
    }

    /// Whether something was done to its store that it must notice when it reads it. Flipped bits of a store in use
    /// may have been overwritten or compacted since.
    pub fn is_damaged(&self) -> bool {
        let store = self.disk.store();
        let flips = || {
            // What was overwritten is back if a crash takes that away before it is durable.
            store.visible_view(self.chain, ChainImage::is_damaged) == Some(true)
                || store.durable_view(self.chain, ChainImage::is_damaged) == Some(true)
        };
        let at_rest = self.running.is_none();
        self.damage.is_some_and(|kind| (at_rest && kind != FLIPPED_IN_USE) || flips())
    }

    /// Whether an entry is durable here, or was before the store was lost.
    pub fn held(&self, index: u64, digest: EntryDigest) -> bool {
        self.disk.durable().holds(index, digest) || self.lost.holds(index, digest)
    }

    /// Its present store is a member's: what the one before has acknowledged counts no more.
    pub fn joined(&mut self) {
        self.lost = LogImage::default();
    }

    /// Durable changes of the membership behind an index.
    pub fn changes_above(&self, index: u64) -> Vec<u64> {
        let changes = |image: &ChainImage| {
            let entries = image.entries().range(index + 1..);
            entries.filter(|(_, entry)| entry.kind != EntryKind::Normal).map(|(index, _)| *index).collect()
        };
        self.disk.store().durable_view(self.chain, changes).unwrap_or_default()
    }

    /// The membership that it goes by; that on its disk while it is down.
    pub fn membership(&self) -> ConfState {
        match &self.running {
            Some(running) => running.replica.conf_state().clone(),
            None => self.durable_membership(),
        }
    }

    /// The membership that it would go by after a crash that keeps nothing.
    pub fn durable_membership(&self) -> ConfState {
        let applied = self.disk.store().durable_view(self.chain, |image| image.applied().clone());
        applied.unwrap_or_default().conf_state
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
        let mut application = match self.kept.clone() {
            Some(kept) => Application::reopen(kept)?,
            None => Application::open(swarm.application, self.chain, &reader)?,
        };
        let caught_up = application.catch_up(self.chain, reader.as_ref(), state.applied.index)?;
        let hard_state = state.hard_state;
        let (last, applied, installing) = (state.last.index, state.applied.index, state.installing);
        let replica = Replica::open(replica_config(swarm, replica_seed), state, reader);
        let replica = replica.map_err(|error| error.to_string())?;
        let status = replica.status();
        let membership = replica.conf_state().clone();
        self.issued = self.disk.durable().clone();
        let promises = Promises { hard_state, applied, height: application.tip().0 };
        let found = Found { caught_up, last, promises, application: application.index(), installing };
        self.running = Some(Running {
            replica,
            application,
            tasks: VecDeque::new(),
            pool: Pool { careless: swarm.workload.careless, ..Pool::default() },
            status,
            round_due: false,
            busy_until_us: 0,
            hangs_until_us: 0,
            membership,
            led_by: BTreeMap::new(),
            asked_by: BTreeMap::new(),
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

/// A founder's store.
fn found(store: &MemoryStore, identity: &Identity, members: ConfState) -> storage::Result<()> {
    let (data, record) = Application::founding(FOUNDED_AT.index);
    storage::found(store, identity, Snapshot { position: FOUNDED_AT, conf_state: members, data })?;
    let mut batch = WriteBatch::new(identity.chain_id());
    batch.application.push(record);
    batch.sync = true;
    store.write(&[batch])
}

fn log_image(store: &MemoryStore, chain: ChainId) -> Result<LogImage, String> {
    let state = store.open_chain(chain).map_err(|error| error.to_string())?;
    let snapshot = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.position.index);
    Ok(LogImage::new(state.truncated, state.hard_state, state.applied.index, snapshot))
}

fn replica_config(swarm: &Swarm, seed: u64) -> ReplicaConfig {
    let policy = SnapshotPolicy { every_entries: swarm.snapshot_every, keep_entries: swarm.retain };
    ReplicaConfig {
        heartbeat_ticks: swarm.heartbeat_ticks,
        election_ticks: swarm.election_ticks,
        election_ticks_min: swarm.election_ticks + 1,
        election_ticks_max: 2 * swarm.election_ticks,
        seed,
        snapshots: (swarm.application == ApplicationKind::HashChain).then_some(policy),
        snapshot_timeout_ticks: swarm.snapshot_timeout_ticks,
        limits: swarm.limits.clone(),
    }
}
