//! Puts a chain together: replica, driver, application.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use consensus_core::replica::{OpenError, Replica, ReplicaConfig};
use consensus_core::storage::{ChainState, LogReader};
use futures_util::FutureExt;
use thiserror::Error;
use tokio::task::JoinHandle;

use super::driver::{self, Driver, DriverParts};
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

/// Why a chain cannot start.
#[derive(Debug, Error)]
pub enum StartError<E> {
    /// The replica: a bad configuration, or a store that contradicts itself.
    #[error(transparent)]
    Replica(#[from] OpenError),
    /// The application.
    #[error("{0}")]
    Application(E),
}

/// Starts a chain on the current runtime with the application that `make` returns for its handle, beside
/// whatever else the caller wants of it. The application's first event is `ApplicationEvent::Opened`; if
/// it ends or panics while the chain runs, the chain halts.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn start<A: Application, T, E>(
    start: ChainStart,
    make: impl FnOnce(&ChainHandle) -> Result<(A, T), E>,
) -> Result<(RunningChain, T), StartError<E>> {
    let ChainStart { state, replica, tick, reader, writer, transport, observer } = start;
    let limits = replica.limits.clone();
    let (application, inbox) = application::channel(&limits);
    let opened = ApplicationEvent::Opened { applied: state.applied.index, snapshot: state.snapshot.clone() };
    application.push(opened).expect("an empty inbox holds one event");
    let identity = state.identity.clone();
    let replica = Replica::open(replica, state, reader.clone())?;
    let driver = Driver::new(DriverParts {
        identity,
        replica,
        limits,
        reader,
        writer,
        transport,
        observer,
        application,
    });
    let handle = driver.handle().clone();
    let (app, extra) = make(&handle).map_err(StartError::Application)?;
    let (driver, chain) = (tokio::spawn(driver.run(tick)), handle.clone());
    let application = tokio::spawn(async move {
        // The application is gone after a panic and nothing of it is looked at again.
        let ended = AssertUnwindSafe(app.run(inbox, chain.clone())).catch_unwind().await;
        chain.halt(match ended {
            Ok(()) => "the application has ended".to_owned(),
            Err(panic) => format!("the application panicked: {}", driver::panic_text(&*panic)),
        });
    });
    Ok((RunningChain { handle, driver, application }, extra))
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
