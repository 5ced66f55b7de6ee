//! Blocks that a controller gets from other controllers, beside consensus.
//!
//! A controller that hears of a higher chain asks its owner for the blocks in order and imports one after
//! the other: CheckBlock to consensus, execute, store, Reconfigure to consensus, all under the chain's lock.
//! If consensus cannot be reached, nothing is imported, or the block is stored and the height that others
//! are told stays behind; both end the attempt, as they do in the real controller.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex as Latch, MutexGuard as LatchGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::Controller;
use super::message::{self, BlockRequest, Blocks, ChainStatus};
use crate::chain::block::hash;
use crate::chain::{Arrival, Judgement};

/// Blocks asked for at once.
const BLOCKS_MAX: u64 = 50;
/// Bytes answered at once, except that one block always is.
const BLOCKS_BYTES_MAX: usize = 4 << 20;
/// Answers that wait.
const ANSWERS_MAX: usize = 16;
/// Requests in a row without an answer that end an attempt.
const UNANSWERED_MAX: u32 = 5;
/// How long nothing is taken from a node whose block consensus refused.
const BAN: Duration = Duration::from_secs(30);

/// Blocks from other controllers, by sender.
pub(super) type Answers = mpsc::Receiver<(u64, Blocks)>;

/// What is to be fetched.
#[derive(Debug)]
pub(super) struct Fetching {
    wanted: Latch<Wanted>,
    wake: Notify,
    answers: mpsc::Sender<(u64, Blocks)>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// The highest chain heard of: whose it is, and its height.
    highest: Option<(u64, u64)>,
    /// Whether its blocks are to be fetched.
    is_wanted: bool,
    is_stopped: bool,
    banned: HashMap<u64, Instant>,
}

impl Fetching {
    pub(super) fn new() -> (Self, Answers) {
        let (answers, received) = mpsc::channel(ANSWERS_MAX);
        (Self { wanted: Latch::default(), wake: Notify::new(), answers }, received)
    }

    fn wanted(&self) -> LatchGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks have arrived. Drops them if too many wait.
    pub(super) fn on_blocks(&self, origin: u64, blocks: Blocks) {
        if self.answers.try_send((origin, blocks)).is_err() {
            tracing::info!(origin, "blocks were dropped: too many wait");
        }
    }

    /// Stops imports, or lets them go on.
    pub(super) fn set_stopped(&self, is_stopped: bool) {
        self.wanted().is_stopped = is_stopped;
        self.wake.notify_one();
    }

    /// The highest height heard of.
    pub(super) fn highest(&self) -> u64 {
        self.wanted().highest.map_or(0, |(_, height)| height)
    }

    fn on_height(&self, origin: u64, height: u64) {
        let mut wanted = self.wanted();
        let is_banned = wanted.banned.get(&origin).is_some_and(|end| *end > Instant::now());
        if !is_banned && wanted.highest.is_none_or(|(_, known)| height > known) {
            wanted.highest = Some((origin, height));
        }
    }

    fn want(&self) {
        self.wanted().is_wanted = true;
        self.wake.notify_one();
    }

    /// Whose blocks are to be fetched up to which height, while that is above `height` and imports are not
    /// stopped.
    fn target(&self, height: u64) -> Option<(u64, u64)> {
        let mut wanted = self.wanted();
        wanted.is_wanted &= wanted.highest.is_some_and(|(_, highest)| highest > height);
        let goes_on = wanted.is_wanted && !wanted.is_stopped;
        wanted.highest.filter(|_| goes_on)
    }

    /// Whoever was asked does not help: the next one that tells of a higher chain is asked.
    fn give_up(&self) {
        let mut wanted = self.wanted();
        wanted.highest = None;
        wanted.is_wanted = false;
    }

    fn ban(&self, origin: u64) {
        self.wanted().banned.insert(origin, Instant::now() + BAN);
    }
}

impl Controller {
    /// Another controller tells where its chain ends.
    pub(super) fn on_chain_status(self: &Arc<Self>, origin: u64, status: &ChainStatus, is_init: bool) {
        let height = self.told_height.load(Ordering::Acquire);
        self.fetching.on_height(origin, status.height);
        if status.height > height {
            self.try_sync();
        } else if is_init && status.height < height {
            self.send(message::CHAIN_STATUS, origin, &self.chain_status());
        }
    }

    /// Fetches blocks if a higher chain was heard of, unless consensus is about to bring the only one that
    /// is missing. Does nothing while the chain is locked: whoever holds it asks again.
    pub(super) fn try_sync(&self) {
        let Ok(_ledger) = self.gate.try_lock() else { return };
        let highest = self.fetching.highest();
        let is_behind = {
            let chain = self.chain();
            highest > chain.height() + 1 || highest > chain.height() && !chain.has_candidate()
        };
        if is_behind {
            self.fetching.want();
        }
    }

    /// Another controller asks for blocks.
    pub(super) fn on_block_request(self: &Arc<Self>, origin: u64, request: &BlockRequest) {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        {
            let chain = self.chain();
            let last = request.last.min(chain.height()).min(request.first.saturating_add(BLOCKS_MAX));
            for height in request.first..=last {
                let data = &chain.blocks()[height as usize].data;
                bytes += data.len();
                if bytes > BLOCKS_BYTES_MAX && !blocks.is_empty() {
                    break;
                }
                blocks.push(data.clone());
            }
        }
        if !blocks.is_empty() {
            self.send(message::SYNC_BLOCK_RESPOND, origin, &Blocks { first: request.first, blocks });
        }
    }

    /// Fetches and imports whenever a higher chain was heard of.
    pub(super) async fn run_sync(self: Arc<Self>, mut answers: Answers) {
        loop {
            self.fetching.wake.notified().await;
            if let Err(error) = self.catch_up(&mut answers).await {
                tracing::info!("sync ended: {error:#}");
                self.fetching.give_up();
            }
            self.is_syncing.store(false, Ordering::Release);
        }
    }

    async fn catch_up(self: &Arc<Self>, answers: &mut Answers) -> Result<()> {
        let mut unanswered = 0;
        loop {
            let height = self.chain().height();
            let Some((origin, target)) = self.fetching.target(height) else { return Ok(()) };
            let request = BlockRequest { first: height + 1, last: target.min(height + BLOCKS_MAX) };
            self.counts().fetches += 1;
            self.send(message::SYNC_BLOCK, origin, &request);
            match timeout(self.timing.fetch, answers.recv()).await {
                Err(_) => {
                    unanswered += 1;
                    if unanswered == UNANSWERED_MAX {
                        bail!("{unanswered} requests for block {} without an answer", height + 1);
                    }
                }
                Ok(None) => bail!("nobody can answer any more"),
                Ok(Some((sender, blocks))) => {
                    unanswered = 0;
                    self.is_syncing.store(true, Ordering::Release);
                    for (height, data) in (blocks.first..).zip(blocks.blocks) {
                        self.import(sender, height, data).await?;
                    }
                }
            }
        }
    }

    /// Takes one block, with the chain locked from the first look to the last answer.
    async fn import(&self, sender: u64, height: u64, data: Bytes) -> Result<()> {
        let mut ledger = self.gate.lock().await;
        if self.fetching.wanted().is_stopped {
            return Ok(());
        }
        let judgement = self.chain().judge_import(height, &data);
        let block = match judgement {
            Judgement::Next(block) => block,
            Judgement::Here => return Ok(()),
            Judgement::Refused(refusal) => {
                self.counts().misfits += 1;
                bail!("block {height} of {sender} does not fit: code {}", refusal.code);
            }
        };
        self.chain().forget_proposals();
        let checked = self.consensus.check_block(height, data.clone()).await;
        {
            let check = &mut self.counts().check_block;
            let count = if matches!(checked, Ok(0)) { &mut check.answered } else { &mut check.failed };
            *count += 1;
        }
        match checked {
            Ok(0) => {}
            Ok(code) if code % 100 == 0 => bail!("consensus is not ready to check block {height}: {code}"),
            Ok(code) => {
                self.fetching.ban(sender);
                bail!("consensus refuses block {height} of {sender}: {code}");
            }
            Err(status) => bail!("consensus cannot check block {height}: {status}"),
        }
        let hash = hash(&data);
        self.execute(&hash).await;
        let arrived_us = ledger.append(&block, &data, &hash, Arrival::Sync)?;
        self.chain().append(block, data, Arrival::Sync, arrived_us);
        self.counts().imported += 1;
        if !self.reconfigure().await {
            bail!("consensus cannot be told of block {height}");
        }
        self.told_height.store(height, Ordering::Release);
        drop(ledger);
        self.announcement.notify_one();
        Ok(())
    }
}
