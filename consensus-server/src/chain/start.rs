//! Puts a chain together: replica, driver, application.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use consensus_core::replica::{OpenError, Replica, ReplicaConfig};
use consensus_core::storage::{ChainState, LogReader};
use futures_util::FutureExt;
use tokio::task::JoinHandle;

use super::driver::{self, ChainParts};
use super::{ChainHandle, ChainObserver, ChainWriter};
use crate::application::{self, Application, ApplicationEvent};
use crate::transport::Transport;

/// What a chain is started from.
pub struct ChainStart {
    /// What is durable, as `LogWriter::open_chain` found it.
    pub state: ChainState,
    /// How the replica behaves.
    pub replica: ReplicaConfig,
    /// Length of a tick.
    pub tick: Duration,
    /// The store.
    pub reader: Arc<dyn LogReader>,
    /// The way to the writer; made for this chain.
    pub writer: ChainWriter,
    /// Carries its messages.
    pub transport: Arc<dyn Transport>,
    /// Listens.
    pub observer: Arc<dyn ChainObserver>,
}

impl std::fmt::Debug for ChainStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainStart").field("identity", &self.state.identity).finish_non_exhaustive()
    }
}

/// A chain that runs: its handle and its two tasks.
#[derive(Debug)]
pub struct RunningChain {
    handle: ChainHandle,
    driver: JoinHandle<()>,
    application: JoinHandle<()>,
}

/// Starts a chain on the current runtime with the application that `make` returns. The application's first
/// event is `ApplicationEvent::Opened`; if it ends or panics while the chain runs, the chain halts.
///
/// # Errors
/// The replica's: a bad configuration, or a store that contradicts itself.
pub fn start<A: Application>(
    start: ChainStart,
    make: impl FnOnce(&ChainHandle) -> A,
) -> Result<RunningChain, OpenError> {
    let ChainStart { state, replica, tick, reader, writer, transport, observer } = start;
    let limits = replica.limits.clone();
    let (sender, inbox) = application::channel(&limits);
    let opened = ApplicationEvent::Opened { applied: state.applied.index, snapshot: state.snapshot.clone() };
    sender.push(opened).expect("an empty inbox holds one event");
    let identity = state.identity.clone();
    let replica = Replica::open(replica, state, reader.clone())?;
    let parts = ChainParts {
        identity,
        replica,
        limits,
        tick,
        reader,
        writer,
        transport,
        observer,
        application: sender,
    };
    let (handle, driver) = driver::start(parts);
    let (app, chain) = (make(&handle), handle.clone());
    let application = tokio::spawn(async move {
        // The application is gone after a panic and nothing of it is looked at again.
        let ended = AssertUnwindSafe(app.run(inbox, chain.clone())).catch_unwind().await;
        chain.halt(match ended {
            Ok(()) => "the application has ended".to_owned(),
            Err(panic) => format!("the application panicked: {}", driver::panic_text(&*panic)),
        });
    });
    Ok(RunningChain { handle, driver, application })
}

impl RunningChain {
    /// The chain's handle.
    pub fn handle(&self) -> &ChainHandle {
        &self.handle
    }

    /// Ends the driver, then the application when it has taken what waits for it. The application gets
    /// `patience`, then it is abandoned: it will find its entries again after a restart.
    pub async fn stop(self, patience: Duration) {
        self.handle.stop().await;
        // A driver that panicked has halted its chain already.
        let _ = self.driver.await;
        let abort = self.application.abort_handle();
        if tokio::time::timeout(patience, self.application).await.is_err() {
            abort.abort();
        }
    }
}
