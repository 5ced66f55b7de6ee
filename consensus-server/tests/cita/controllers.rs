//! The controllers of one chain, as far as consensus sees them, in memory.
//!
//! Each has blocks, a pool with the transactions it knows, and faults that a story sets. They bring each other
//! up to date by a sync of their own, as CITA-Cloud's do. Together they are the oracle: what was executed
//! anywhere is kept, and whatever contradicts it, or comes before a quorum has the block before, is a
//! violation that [`Controllers::assert_sound`] tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use consensus_server::application::controller::code::Code;
use consensus_server::application::controller::{CallFailed, Configuration, Controller};
use consensus_server::telemetry::trace::TraceContext;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// How long a transaction takes from one pool to another.
const FETCH: Duration = Duration::from_millis(3);

type Configured = Result<(Code, Option<Configuration>), CallFailed>;

/// What a story has made of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fault {
    /// It is well.
    #[default]
    None,
    /// Calls wait until it is over.
    Hangs,
    /// Calls fail at once.
    Dead,
    /// It knows no transactions but its own.
    Forgetful,
    /// Its transactions reach no other.
    Mute,
    /// It executes the next block, and dies before it says so.
    DiesInCommit,
}

#[derive(Default)]
struct One {
    /// From height 1.
    blocks: Vec<Bytes>,
    pool: BTreeSet<u64>,
    /// Its proposal for the next height, made once.
    own: Option<Bytes>,
    fault: Fault,
    /// How long a commit takes.
    execution: Duration,
    /// At the last look it was one block behind.
    lags: bool,
}

impl One {
    fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn at(&self, height: u64) -> Option<&Bytes> {
        self.blocks.get(usize::try_from(height).ok()?.checked_sub(1)?)
    }
}

#[derive(Default)]
struct State {
    /// Trace and span of traced calls.
    traced_calls: BTreeSet<(String, String)>,
    all: BTreeMap<u64, One>,
    /// From which height on which validators and interval are in force.
    configurations: BTreeMap<u64, (Vec<u64>, Duration)>,
    /// Everything that was ever executed.
    executed: BTreeMap<u64, Bytes>,
    transactions: u64,
    violations: Vec<String>,
    /// Blocks were taken away: a quorum need not have what comes before.
    set_back: bool,
    /// Blocks that came by sync.
    synced: u64,
}

/// All of them.
pub(crate) struct Controllers {
    state: Mutex<State>,
    /// Changes with every fault that ends or begins.
    changes: watch::Sender<u64>,
}

/// An address whose node has this id.
pub(crate) fn address(id: u64) -> Bytes {
    let mut address = vec![0; 20];
    address[..8].copy_from_slice(&id.to_be_bytes());
    address.into()
}

/// A block says who made it, which transaction is in it, and what comes before it.
fn block(height: u64, maker: u64, transaction: u64, previous: Option<&Bytes>) -> Bytes {
    let mut hash: u64 = 0;
    for byte in previous.into_iter().flatten() {
        hash = hash.wrapping_mul(31).wrapping_add(u64::from(*byte));
    }
    Bytes::from(format!("{height} {maker} {transaction} {hash}"))
}

fn fields(data: &Bytes) -> [u64; 4] {
    let text = std::str::from_utf8(data).expect("a block is text");
    let fields: Vec<u64> = text.split(' ').map(|field| field.parse().expect("a number")).collect();
    fields.try_into().expect("four numbers")
}

impl Controllers {
    /// As many as there are ids, at height 0, of which the validators are named.
    pub(crate) fn new(ids: &[u64], validators: &[u64], interval: Duration) -> Arc<Self> {
        let state = State {
            all: ids.iter().map(|id| (*id, One::default())).collect(),
            configurations: [(0, (validators.to_vec(), interval))].into(),
            ..State::default()
        };
        Arc::new(Self { state: Mutex::new(state), changes: watch::Sender::new(0) })
    }

    /// The spans of the calls that were traced, as the calls said.
    pub(crate) fn traced_calls(&self) -> BTreeSet<(String, String)> {
        self.lock().traced_calls.clone()
    }

    fn told(&self, trace: Option<TraceContext>) {
        if let Some(ids) = trace.map(TraceContext::to_bytes) {
            self.lock().traced_calls.insert((hex::encode(&ids[1..17]), hex::encode(&ids[17..])));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with the lock")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
    }

    /// The one beside a node.
    pub(crate) fn of(self: &Arc<Self>, id: u64) -> Arc<dyn Controller> {
        Arc::new(Beside { all: self.clone(), id })
    }

    pub(crate) fn height(&self, id: u64) -> u64 {
        self.lock().all[&id].height()
    }

    /// The highest there is.
    pub(crate) fn top(&self) -> u64 {
        self.lock().all.values().map(One::height).max().unwrap_or(0)
    }

    /// The block that was executed at a height.
    pub(crate) fn executed(&self, height: u64) -> Option<Bytes> {
        self.lock().executed.get(&height).cloned()
    }

    /// How many blocks the controllers had to fetch from each other.
    pub(crate) fn synced(&self) -> u64 {
        self.lock().synced
    }

    pub(crate) fn set(&self, id: u64, fault: Fault) {
        self.change(|state| state.all.get_mut(&id).expect("is one").fault = fault);
    }

    pub(crate) fn set_all(&self, fault: Fault) {
        self.change(|state| state.all.values_mut().for_each(|one| one.fault = fault));
    }

    /// How long these need to execute a block.
    pub(crate) fn set_execution(&self, ids: &[u64], execution: Duration) {
        self.change(|state| {
            for id in ids {
                state.all.get_mut(id).expect("is one").execution = execution;
            }
        });
    }

    /// What is in memory only is gone on all of them.
    pub(crate) fn lose_pools(&self) {
        self.change(|state| {
            for one in state.all.values_mut() {
                one.pool.clear();
                one.own = None;
            }
        });
    }

    /// Takes the newest blocks of some away, of all at once.
    pub(crate) fn set_back(&self, ids: &[u64], blocks: u64) {
        self.change(|state| {
            state.set_back = true;
            for id in ids {
                let one = state.all.get_mut(id).expect("is one");
                let keep = one.height().saturating_sub(blocks);
                one.blocks.truncate(keep as usize);
                one.own = None;
            }
        });
    }

    /// In force from the block after the next one on.
    pub(crate) fn configure(&self, validators: &[u64], interval: Duration) -> u64 {
        let from = self.top() + 1;
        self.change(|state| {
            state.configurations.insert(from, (validators.to_vec(), interval));
        });
        from
    }

    /// Nothing that must not be has been.
    pub(crate) fn assert_sound(&self) {
        let state = self.lock();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
        for (id, one) in &state.all {
            for (index, data) in one.blocks.iter().enumerate() {
                assert_eq!(Some(data), state.executed.get(&(index as u64 + 1)), "controller {id}");
            }
        }
    }

    /// Those that lag fetch what they miss from those that do not; those that got something.
    pub(crate) fn sync(&self) -> Vec<u64> {
        let mut state = self.lock();
        let alive = |one: &&One| !matches!(one.fault, Fault::Dead | Fault::Hangs);
        let Some(best) = state.all.values().filter(alive).max_by_key(|one| one.height()) else {
            return Vec::new();
        };
        let best = best.blocks.clone();
        let mut got = Vec::new();
        let mut count = 0;
        for (id, one) in &mut state.all {
            let dead = matches!(one.fault, Fault::Dead | Fault::Hangs);
            let behind = best.len() - one.blocks.len().min(best.len());
            let lagged = std::mem::replace(&mut one.lags, behind == 1);
            // The newest block is left to consensus for a moment.
            if dead || behind == 0 || (behind == 1 && !lagged) {
                continue;
            }
            count += behind as u64;
            one.blocks = best.clone();
            one.own = None;
            got.push(*id);
        }
        state.synced += count;
        got
    }

    /// Waits while a controller hangs.
    async fn answers(&self, id: u64) -> Result<(), CallFailed> {
        let mut changes = self.changes.subscribe();
        loop {
            match self.lock().all[&id].fault {
                Fault::Dead => return Err(CallFailed("connection refused".to_owned())),
                Fault::Hangs => {}
                Fault::None | Fault::Forgetful | Fault::Mute | Fault::DiesInCommit => return Ok(()),
            }
            if changes.changed().await.is_err() {
                return Err(CallFailed("the story is over".to_owned()));
            }
        }
    }
}

impl State {
    fn configuration(&self, height: u64) -> Configuration {
        let (_, (validators, interval)) =
            self.configurations.range(..=height).next_back().expect("from 0 on");
        let validators = validators.iter().map(|id| address(*id)).collect();
        Configuration { height, block_interval: *interval, validators }
    }

    fn validators(&self, height: u64) -> &[u64] {
        &self.configurations.range(..=height).next_back().expect("from 0 on").1.0
    }

    fn by_height(&self, id: u64, height: u64) -> Option<Code> {
        match self.all[&id].height() {
            own if height <= own => Some(Code::PROPOSAL_TOO_LOW),
            own if height > own + 1 => Some(Code::PROPOSAL_TOO_HIGH),
            _ => None,
        }
    }

    fn propose(&mut self, id: u64) -> (u64, Bytes) {
        self.transactions += 1;
        let transaction = self.transactions;
        let one = self.all.get_mut(&id).expect("is one");
        let height = one.height() + 1;
        let (blocks, pool) = (&one.blocks, &mut one.pool);
        let own = one.own.get_or_insert_with(|| {
            pool.insert(transaction);
            block(height, id, transaction, blocks.last())
        });
        (height, own.clone())
    }

    /// The code, and whose pool the transaction is to be fetched from.
    fn check(&self, id: u64, height: u64, data: &Bytes) -> (Code, Option<u64>) {
        if let Some(code) = self.by_height(id, height) {
            return (code, None);
        }
        let one = &self.all[&id];
        if one.own.as_ref() == Some(data) {
            return (Code::SUCCESS, None);
        }
        let [_, maker, transaction, _] = fields(data);
        if block(height, maker, transaction, one.blocks.last()) != *data
            || !self.validators(height - 1).contains(&maker)
        {
            return (Code(130), None);
        }
        let known = one.pool.contains(&transaction) && one.fault != Fault::Forgetful;
        if known { (Code::SUCCESS, None) } else { (Code::NONE_RAW_TX, Some(maker)) }
    }

    fn fetch(&mut self, id: u64, maker: u64, transaction: u64) {
        let has = |one: &One| {
            one.pool.contains(&transaction) && !matches!(one.fault, Fault::Dead | Fault::Hangs | Fault::Mute)
        };
        if self.all.get(&maker).is_some_and(has) {
            self.all.get_mut(&id).expect("is one").pool.insert(transaction);
        }
    }

    fn commit(&mut self, id: u64, height: u64, data: &Bytes) -> Configured {
        match self.by_height(id, height) {
            Some(Code::PROPOSAL_TOO_LOW) => {
                if self.all[&id].at(height) != Some(data) {
                    self.violations
                        .push(format!("controller {id} was offered other bytes for height {height}"));
                }
                // The height that was asked for, whatever its own is.
                let own = self.configuration(self.all[&id].height());
                return Ok((Code::SUCCESS, Some(Configuration { height, ..own })));
            }
            Some(code) => return Ok((code, None)),
            None => {}
        }
        let (code, _) = self.check(id, height, data);
        if code != Code::SUCCESS {
            return Ok((code, None));
        }
        self.execute(id, height, data);
        Ok((Code::SUCCESS, Some(self.configuration(height))))
    }

    fn execute(&mut self, id: u64, height: u64, data: &Bytes) {
        let former = self.executed.entry(height).or_insert_with(|| data.clone());
        if *former != *data {
            self.violations.push(format!("height {height} has two contents: {former:?} and {data:?}"));
        }
        let validators = self.validators(height - 1);
        let there = validators.iter().filter(|id| self.all[id].height() + 1 >= height).count();
        if there <= validators.len() / 2 && !self.set_back {
            self.violations.push(format!(
                "block {height} came with only {there} of {validators:?} at the height before"
            ));
        }
        let one = self.all.get_mut(&id).expect("is one");
        one.blocks.push(data.clone());
        one.own = None;
    }
}

struct Beside {
    all: Arc<Controllers>,
    id: u64,
}

impl Controller for Beside {
    fn ping(&self) -> BoxFuture<'static, Configured> {
        let (all, id) = (self.all.clone(), self.id);
        async move {
            all.answers(id).await?;
            let state = all.lock();
            Ok((Code::SUCCESS, Some(state.configuration(state.all[&id].height()))))
        }
        .boxed()
    }

    fn proposal(
        &self,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<Result<(u64, Bytes), Code>, CallFailed>> {
        let (all, id) = (self.all.clone(), self.id);
        all.told(trace);
        async move {
            all.answers(id).await?;
            Ok(Ok(all.lock().propose(id)))
        }
        .boxed()
    }

    fn check(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<Code, CallFailed>> {
        let (all, id) = (self.all.clone(), self.id);
        all.told(trace);
        async move {
            all.answers(id).await?;
            let (code, missing) = all.lock().check(id, height, &data);
            if let Some(maker) = missing {
                let [_, _, transaction, _] = fields(&data);
                tokio::spawn(async move {
                    tokio::time::sleep(FETCH).await;
                    all.lock().fetch(id, maker, transaction);
                });
            }
            Ok(code)
        }
        .boxed()
    }

    fn commit(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Configured> {
        let (all, id) = (self.all.clone(), self.id);
        all.told(trace);
        // An execution goes on without its caller.
        let work = tokio::spawn(async move {
            all.answers(id).await?;
            let execution = all.lock().all[&id].execution;
            tokio::time::sleep(execution).await;
            all.answers(id).await?;
            let mut state = all.lock();
            let outcome = state.commit(id, height, &data);
            let one = state.all.get_mut(&id).expect("is one");
            if one.fault == Fault::DiesInCommit {
                one.fault = Fault::Dead;
                return Err(CallFailed("connection reset".to_owned()));
            }
            outcome
        });
        async move { work.await.unwrap_or_else(|error| Err(CallFailed(error.to_string()))) }.boxed()
    }
}

/// Lets what the controllers were told to do last.
pub(crate) async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}
