//! Applications on running chains: embedded state machines, and what becomes of a chain whose application fails.

use std::sync::Arc;

use crate::harness::*;
use bytes::Bytes;
use consensus_core::replica::{Refusal, ReplicaConfig, Role, SnapshotPolicy};
use consensus_core::storage::group_commit::GroupCommitLimits;
use consensus_core::storage::memory::MemoryStore;
use consensus_core::storage::{ConfState, LogReader, LogWriter};
use consensus_server::application::embed::{self, EmbedHandle, StateMachine};
use consensus_server::application::{Application, ApplicationEvent, ApplicationInbox};
use consensus_server::chain::{self, ChainHandle, ChainStart, NodeWriter, RunningChain, Unobserved};

/// Remembers every command.
#[derive(Default)]
struct Journal {
    lines: Vec<String>,
}

impl StateMachine for Journal {
    fn apply(&mut self, _index: u64, command: &Bytes) -> Bytes {
        self.lines.push(String::from_utf8_lossy(command).into_owned());
        self.lines.len().to_string().into()
    }

    fn snapshot(&self) -> Bytes {
        self.lines.join("\n").into()
    }

    fn restore(&mut self, snapshot: &Bytes) -> Result<(), String> {
        let text = std::str::from_utf8(snapshot).map_err(|error| error.to_string())?;
        self.lines = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

fn store(voters: u64) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let voters: Vec<u64> = (1..=voters).collect();
    let members = ConfState { voters: voters.clone(), ..ConfState::default() };
    store.create_chain(&identity(1, &voters), &members).expect("it is new");
    store
}

fn writer(store: &Arc<MemoryStore>) -> Arc<NodeWriter> {
    NodeWriter::start(store.clone(), GroupCommitLimits::default(), |_| {}).expect("a thread")
}

fn chain_start(store: &Arc<MemoryStore>, snapshots: Option<SnapshotPolicy>) -> ChainStart {
    chain_start_with(store, &writer(store), snapshots)
}

fn chain_start_with(
    store: &Arc<MemoryStore>,
    writer: &Arc<NodeWriter>,
    snapshots: Option<SnapshotPolicy>,
) -> ChainStart {
    ChainStart {
        state: store.open_chain(chain_id()).expect("it is there"),
        replica: ReplicaConfig { snapshots, ..ReplicaConfig::default() },
        tick: TICK,
        reader: store.clone(),
        writer: writer.chain(chain_id()),
        transport: Arc::new(consensus_server::transport::Alone),
        observer: Arc::new(Unobserved),
    }
}

async fn journal(store: &Arc<MemoryStore>) -> (RunningChain, EmbedHandle<Journal>) {
    journal_with(store, &writer(store)).await
}

async fn journal_with(
    store: &Arc<MemoryStore>,
    writer: &Arc<NodeWriter>,
) -> (RunningChain, EmbedHandle<Journal>) {
    let policy = SnapshotPolicy { every_entries: 10, keep_entries: 2 };
    let start = chain_start_with(store, writer, Some(policy));
    let (running, journal) = embed::start(start, Journal::default()).expect("it starts");
    let chain = journal.chain().clone();
    until("it leads", || chain.status().role == Role::Leader).await;
    (running, journal)
}

/// Proposes until the chain welcomes proposals.
async fn propose(journal: &EmbedHandle<Journal>, command: String) -> embed::Applied {
    loop {
        match journal.propose(command.clone().into()).await {
            Err(Refusal::NotLeader { .. }) => tokio::task::yield_now().await,
            outcome => return outcome.expect("applied"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_in_memory_is_whole_again_after_a_restart_from_snapshot_and_log() {
    let store = store(1);
    let first_writer = writer(&store);
    let (running, first) = journal_with(&store, &first_writer).await;
    for n in 1..=25 {
        let applied = propose(&first, format!("line {n}")).await;
        assert_eq!(applied.answer, Bytes::from(n.to_string()));
    }
    until("the log is compacted", || first.chain().status().first > 10).await;
    running.stop(PATIENCE).await;
    // What is on its way to the disk belongs to the first life.
    tokio::task::spawn_blocking(move || first_writer.shutdown()).await.expect("the writer ends");
    assert!(store.entries(chain_id(), 1, 2, u64::MAX).is_err(), "the first entries are gone");

    let (running, second) = journal(&store).await;
    let lines = second.read_linearizable(|journal: &Journal| journal.lines.clone()).await.expect("it leads");
    assert_eq!(lines, (1..=25).map(|n| format!("line {n}")).collect::<Vec<_>>());
    let applied = propose(&second, "one more".to_owned()).await;
    assert_eq!(applied.answer, Bytes::from("26"));
    running.stop(PATIENCE).await;
    assert_eq!(second.propose("after the end".into()).await, Err(Refusal::Halted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_refused_without_leadership_and_beyond_its_bounds() {
    let lonely = store(3);
    let (running, journal_of_follower) =
        embed::start(chain_start(&lonely, None), Journal::default()).expect("it starts");
    let refused = journal_of_follower.propose("a".into()).await;
    assert_eq!(refused, Err(Refusal::NotLeader { leader: None }));
    running.stop(PATIENCE).await;

    let alone = store(1);
    let (running, leader) = journal(&alone).await;
    propose(&leader, "a".to_owned()).await;
    let bound = leader.chain().limits().entry_bytes_max;
    let empty = leader.propose(Bytes::new()).await;
    assert_eq!(empty, Err(Refusal::EntrySize { bytes: 0, bound }));
    let large = leader.propose(vec![0; bound as usize + 1].into()).await;
    assert_eq!(large, Err(Refusal::EntrySize { bytes: bound + 1, bound }));
    running.stop(PATIENCE).await;
}

/// Panics at the first entry.
struct Panicking;

impl Application for Panicking {
    async fn run(self, mut inbox: ApplicationInbox, _chain: ChainHandle) {
        while let Some(event) = inbox.recv().await {
            assert!(!matches!(event, ApplicationEvent::Apply(_)), "entries frighten me");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_panics_halts_its_chain_with_what_it_said() {
    let store = store(1);
    let (running, ()) =
        chain::start(chain_start(&store, None), |_| Ok::<_, String>((Panicking, ()))).expect("it starts");
    let chain = running.handle().clone();
    until("it has halted", || chain.status().halted.is_some()).await;
    assert_eq!(chain.status().halted.as_deref(), Some("the application panicked: entries frighten me"));
    assert_eq!(chain.read_index().await, Err(Refusal::Halted));
    running.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_claims_more_than_it_was_given_halts_its_chain() {
    struct Boasting;
    impl Application for Boasting {
        async fn run(self, mut inbox: ApplicationInbox, chain: ChainHandle) {
            while let Some(event) = inbox.recv().await {
                if let ApplicationEvent::Apply(entries) = event {
                    chain.applied(entries.last().map_or(0, |e| e.entry.index) + 5);
                }
            }
        }
    }
    let store = store(1);
    let (running, ()) =
        chain::start(chain_start(&store, None), |_| Ok::<_, String>((Boasting, ()))).expect("it starts");
    let chain = running.handle().clone();
    until("it has halted", || chain.status().halted.is_some()).await;
    let reason = chain.status().halted.clone().expect("halted");
    assert!(reason.contains("was given up to"), "{reason}");
    running.stop(PATIENCE).await;
}
