//! What a node last knew of its peers, written beside the log for whoever looks at it offline.
//!
//! Looked at every few seconds and written, unsynced, when something has changed. That a peer was heard
//! again is worth a write only seldom: a node at rest stays at rest.

use std::sync::Arc;
use std::time::Duration;

use consensus_core::replica::Status;
use consensus_core::storage::PeerRecord;
use tokio::time::{Instant, MissedTickBehavior};

use crate::chain::{ChainHandle, ChainWriter};
use crate::telemetry::unix_time_ms;
use crate::transport::PeerBook;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often it is written while nothing happens but that peers are heard.
const AT_REST_EVERY: Duration = Duration::from_secs(30);

/// Writes down one chain's knowledge of its peers.
pub(crate) struct PeerRecorder {
    chain: ChainHandle,
    peers: Arc<dyn PeerBook>,
    writer: ChainWriter,
    written: Option<(Vec<PeerRecord>, Instant)>,
}

impl PeerRecorder {
    /// `peers` is what the transport knows, `writer` the chain's own.
    pub(crate) fn new(chain: ChainHandle, peers: Arc<dyn PeerBook>, writer: ChainWriter) -> Self {
        Self { chain, peers, writer, written: None }
    }

    /// Writes it down, unsynced. A chain that has stopped keeps what it has.
    pub(crate) async fn write(&mut self) {
        let records = records(&self.chain.status(), &*self.peers);
        self.put(records).await;
    }

    async fn write_if_due(&mut self) {
        let records = records(&self.chain.status(), &*self.peers);
        if is_due(self.written.as_ref(), &records, Instant::now()) {
            self.put(records).await;
        }
    }

    async fn put(&mut self, records: Vec<PeerRecord>) {
        if !records.is_empty() && self.writer.write_peers(records.clone()).await.is_ok() {
            self.written = Some((records, Instant::now()));
        }
    }
}

/// Keeps what is written fresh, for ever.
pub(crate) async fn run(mut recorders: Vec<PeerRecorder>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        for recorder in &mut recorders {
            recorder.write_if_due().await;
        }
    }
}

fn is_due(written: Option<&(Vec<PeerRecord>, Instant)>, records: &[PeerRecord], now: Instant) -> bool {
    let Some((former, at)) = written else { return true };
    let same = former.len() == records.len() && former.iter().zip(records).all(|(a, b)| is_same(a, b));
    !same || now.duration_since(*at) >= AT_REST_EVERY
}

/// Whether there is no news but the time.
fn is_same(former: &PeerRecord, record: &PeerRecord) -> bool {
    let PeerRecord {
        node_id,
        address,
        store_incarnation,
        last_heard_ms: _,
        matched,
        next,
        progress,
        connected,
        recorded_at_ms: _,
    } = record;
    former.node_id == *node_id
        && former.address == *address
        && former.store_incarnation == *store_incarnation
        && former.matched == *matched
        && former.next == *next
        && former.progress == *progress
        && former.connected == *connected
}

/// What transport and replica know of each peer, put together.
fn records(status: &Status, peers: &dyn PeerBook) -> Vec<PeerRecord> {
    let recorded_at_ms = unix_time_ms();
    peers
        .peers()
        .into_iter()
        .map(|link| {
            let progress = status.peers.iter().find(|peer| peer.node_id == link.node_id);
            PeerRecord {
                node_id: link.node_id,
                address: link.address,
                store_incarnation: link.store_incarnation,
                last_heard_ms: link.last_heard_ms,
                matched: progress.map_or(0, |peer| peer.matched),
                next: progress.map_or(0, |peer| peer.next),
                progress: progress.map_or("unknown", |peer| peer.state).to_owned(),
                connected: link.connected,
                recorded_at_ms,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use consensus_core::ids::NodeId;

    use super::*;

    fn record() -> PeerRecord {
        PeerRecord {
            node_id: NodeId::new(2).expect("not 0"),
            address: "a:1".to_owned(),
            store_incarnation: None,
            last_heard_ms: 10,
            matched: 5,
            next: 6,
            progress: "replicate".to_owned(),
            connected: true,
            recorded_at_ms: 11,
        }
    }

    #[test]
    fn news_are_written_at_once_and_signs_of_life_seldom() {
        let now = Instant::now();
        let written = (vec![record()], now);
        let due = |records: &[PeerRecord], after| is_due(Some(&written), records, now + after);
        assert!(is_due(None, &[record()], now), "the first time");
        let heard = [PeerRecord { last_heard_ms: 20, recorded_at_ms: 21, ..record() }];
        assert!(!due(&heard, Duration::ZERO));
        assert!(due(&heard, AT_REST_EVERY));
        for news in [
            PeerRecord { matched: 6, ..record() },
            PeerRecord { connected: false, ..record() },
            PeerRecord { address: "b:1".to_owned(), ..record() },
        ] {
            assert!(due(&[news], Duration::ZERO));
        }
        assert!(due(&[record(), record()], Duration::ZERO), "a further peer");
    }
}
