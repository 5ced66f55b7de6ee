//! grpc.health.v1, told what is true.
//!
//! The empty service name is liveness: the process does its work, whatever the state of the cluster, so
//! nobody restarts a node because another one is gone. `ready`, and `chain/<name>` where chains have names, are
//! readiness: this node can serve clients now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::ops::OpsView;

/// Readiness depends on time as well as on events, so it is looked at again this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the reporter truthful, until the node stops: then everything is reported as not serving. `chain` is
/// a further name of readiness.
pub async fn report(
    reporter: HealthReporter,
    view: Arc<dyn OpsView>,
    chain: Option<String>,
    mut stopping: watch::Receiver<bool>,
) {
    let chain = chain.map(|name| format!("chain/{name}"));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let stop = *stopping.borrow();
        let ready = serving(!stop && view.readiness().is_ok());
        reporter.set_service_status("ready", ready).await;
        if let Some(chain) = &chain {
            reporter.set_service_status(chain, ready).await;
        }
        reporter.set_service_status("", serving(view.liveness().is_ok())).await;
        if stop {
            return;
        }
        tokio::select! {
            _ = looks.tick() => {}
            changed = stopping.changed() => if changed.is_err() { return },
        }
    }
}

fn serving(yes: bool) -> ServingStatus {
    if yes { ServingStatus::Serving } else { ServingStatus::NotServing }
}
