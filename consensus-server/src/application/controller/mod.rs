//! CITA-Cloud's controller as a chain's application.
//!
//! The controller makes, checks, executes and stores the blocks; the chain agrees on which one is next at
//! each height. What is in the log is taken as it comes ([`agreement`]); this node's controller is brought
//! there by `desk`, for however long that takes, without the chain waiting for it. On the leader `proposer`
//! has each block checked by a quorum of controllers before it is proposed, and `membership` makes the
//! validators of the newest block the members of the group. `voiding` is the way out when a block was agreed
//! on and no controller can ever commit it.
//!
//! What it does not do: find or found the group (`crate::cita`), or carry messages (`transport::cita`).
//! Facts about the controller are from CITA-Cloud's controller_hsm 6.7.

pub mod agreement;
mod client;
pub mod code;
mod desk;
mod membership;
mod proposer;
mod task;
mod voiding;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus_core::ids::NodeId;
use futures_util::future::BoxFuture;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::agreement::Roster;
use self::code::Code;
use super::{Application, ApplicationInbox};
use crate::chain::ChainHandle;
use crate::config::cita::Reconfigured;
use crate::config::cita::address::Short;
use crate::telemetry::trace::TraceContext;
use crate::transport::cita::{GroupId, Letter, Mail};

pub use client::GrpcController;
pub use voiding::VOUCHED_FOR;

/// What a controller tells about its chain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Its newest block.
    pub height: u64,
    /// Time between blocks; 0: as fast as possible.
    pub block_interval: Duration,
    /// Addresses of those that may propose the next block.
    pub validators: Vec<Bytes>,
}

/// A call without an answer: it may still take effect.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct CallFailed(pub String);

/// A proposal with its height, or the code that came instead.
pub type Fetched = Result<(u64, Bytes), Code>;

/// The controller beside this node. Calls are never repeated by the implementation, and say in their headers which
/// span they belong to if their height is sampled.
pub trait Controller: Send + Sync + 'static {
    /// Where it is.
    fn ping(&self) -> BoxFuture<'static, Result<(Code, Option<Configuration>), CallFailed>>;

    /// Its proposal for the next height, or its code.
    fn proposal(&self, trace: Option<TraceContext>) -> BoxFuture<'static, Result<Fetched, CallFailed>>;

    /// Whether it could commit this.
    fn check(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<Code, CallFailed>>;

    /// Executes and stores this block.
    fn commit(
        &self,
        height: u64,
        data: Bytes,
        trace: Option<TraceContext>,
    ) -> BoxFuture<'static, Result<(Code, Option<Configuration>), CallFailed>>;
}

/// How the application reaches those of the other validators. Never waits.
pub trait Post: Send + Sync + 'static {
    /// Sends; may lose it.
    fn mail(&self, to: NodeId, mail: Mail);

    /// Which stores speak for the members from now on.
    fn set_roster(&self, roster: &Roster);
}

/// What an operator decides.
#[derive(Debug)]
pub enum Command {
    /// Give up an agreed block that no controller can commit although some validators cannot be asked. If one of
    /// them has the block, the chain forks: only who knows that it has not may say this.
    VoidWithout {
        /// The block.
        height: u64,
        /// Those that cannot be asked.
        validators: Vec<NodeId>,
        /// Told at once whether the decision is taken up; it then counts for [`VOUCHED_FOR`].
        answer: oneshot::Sender<Result<(), VoidRefused>>,
    },
}

/// Why a decision to give up a block is not taken up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum VoidRefused {
    /// The leader decides.
    #[error("this node does not lead")]
    NotLeader,
    /// The controller takes what is agreed on.
    #[error("no block is stuck: this node's controller has every block that was agreed on, or is about to")]
    NothingStuck,
    /// Another block is meant.
    #[error("block {height} is not the one that is stuck, that is block {stuck}")]
    OtherHeight {
        /// What was asked for.
        height: u64,
        /// What is stuck.
        stuck: u64,
    },
    /// Nobody is named.
    #[error("no validator is named: if all of them can be asked, the block is given up without a decision")]
    Nobody,
    /// This node can be asked.
    #[error("{0} is this node, whose controller can be asked: leave it out")]
    Own(Short),
    /// Not on the list.
    #[error("{id} is no validator; validators are {validators:?}")]
    NoValidator {
        /// Who was named.
        id: Short,
        /// The list.
        validators: Vec<Short>,
    },
    /// It would fork the chain.
    #[error(
        "the controller of validator {0} has the block: it must not be given up, the others get it from there"
    )]
    HasBlock(Short),
}

/// Where a chain and its controller stand, for status pages and health.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ControllerStatus {
    /// The controller's height, once known.
    pub height: Option<u64>,
    /// The newest height agreed on.
    pub agreed_height: u64,
    /// Whether the controller answers in time.
    pub healthy: bool,
    /// Milliseconds between blocks.
    pub block_interval_ms: u64,
    /// Validators' addresses, in hex.
    pub validators: Vec<String>,
    /// Why there is no progress here, if there is none.
    pub trouble: Option<String>,
}

/// What the application is made from.
pub struct ControllerApplication {
    /// This node.
    pub own: NodeId,
    /// The group that the chain is in: letters from another are about another chain's blocks.
    pub group: GroupId,
    /// Its controller.
    pub controller: Arc<dyn Controller>,
    /// The way to the others.
    pub post: Arc<dyn Post>,
    /// What the others say.
    pub letters: mpsc::Receiver<Letter>,
    /// What the controller says of its own accord; the newest counts.
    pub hints: watch::Receiver<Option<Reconfigured>>,
    /// What an operator decides.
    pub commands: mpsc::Receiver<Command>,
    /// Told where things stand.
    pub status: watch::Sender<ControllerStatus>,
    /// Counts.
    pub metrics: crate::telemetry::metrics::ControllerMetrics,
}

impl std::fmt::Debug for ControllerApplication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerApplication").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Application for ControllerApplication {
    async fn run(self, inbox: ApplicationInbox, chain: ChainHandle) {
        task::run(self, inbox, chain).await;
    }
}
