//! Clients: the series of the subsystem `ordering`.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Metrics, ReasonLabel, Subsystem};

/// How transactions ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// In the chain.
    Committed,
    /// In the chain already before.
    Duplicate,
    /// In the leader's queue.
    Accepted,
    /// Refused, with the reason's word.
    Refused(&'static str),
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Duplicate => "duplicate",
            Self::Accepted => "accepted",
            Self::Refused(reason) => reason,
        }
    }
}

/// A frame that was taken and not yet answered. Its call may end before that, when its caller goes away.
#[derive(Debug)]
#[must_use]
pub struct FrameInFlight {
    gauge: Gauge,
}

impl Drop for FrameInFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// One chain's clients.
#[derive(Clone, Debug)]
pub struct OrderingMetrics {
    chain: String,
    ended: Family<ReasonLabel, Counter>,
    committed: Counter,
    submit_seconds: Histogram,
    frames_inflight: Gauge,
    queued: Gauge,
    in_pipeline: Gauge,
    forwarded: Gauge,
    deliver_streams: Gauge,
    deliver_opened: Counter,
    blocks_delivered: Counter,
    height: Gauge,
    transactions: Gauge,
}

impl OrderingMetrics {
    /// Registers the series. Once for each chain of a process.
    pub fn new(metrics: &Metrics, chain: &str) -> Self {
        metrics.registry(|registry| {
            let mut ledger = Subsystem::new(registry, "ledger", chain);
            let height = ledger.gauge("height", "Height of the chain on this node");
            let transactions = ledger.gauge("transactions", "Transactions in the chain on this node");
            let mut ordering = Subsystem::new(registry, "ordering", chain);
            let ended: Family<ReasonLabel, Counter> =
                ordering.family("submissions", "Transactions submitted to this node, by what became of them");
            let committed =
                ended.get_or_create_owned(&ReasonLabel { chain: chain.to_owned(), reason: "committed" });
            Self {
                chain: chain.to_owned(),
                ended,
                committed,
                submit_seconds: ordering
                    .seconds("submit_duration_seconds", "From a frame's arrival to its answer"),
                frames_inflight: ordering.gauge("frames_inflight", "Frames taken and not yet answered"),
                queued: ordering.gauge(
                    "queued_transactions",
                    "Transactions in front of the leader's pipeline; leader only",
                ),
                in_pipeline: ordering.gauge(
                    "pipeline_transactions",
                    "Transactions in the leader's pipeline, in a block under way or before it; leader only",
                ),
                forwarded: ordering.gauge(
                    "forwarded_transactions",
                    "Transactions of this node that are with the leader now",
                ),
                deliver_streams: ordering.gauge("deliver_streams", "Open streams of blocks"),
                deliver_opened: ordering
                    .counter("deliver_streams_opened", "Streams of blocks that were opened"),
                blocks_delivered: ordering.counter("blocks_delivered", "Blocks written to streams"),
                height,
                transactions,
            }
        })
    }

    /// A frame was taken. It is in flight until what this returns is dropped.
    pub fn frame_began(&self) -> FrameInFlight {
        self.frames_inflight.inc();
        FrameInFlight { gauge: self.frames_inflight.clone() }
    }

    /// A frame was answered after `elapsed`.
    pub fn frame_ended(&self, elapsed: Duration) {
        self.submit_seconds.observe(elapsed.as_secs_f64());
    }

    /// What became of a run of transactions.
    pub fn submitted(&self, ended: Ended, transactions: u64) {
        if ended == Ended::Committed {
            self.committed.inc_by(transactions);
            return;
        }
        let label = ReasonLabel { chain: self.chain.clone(), reason: ended.as_str() };
        self.ended.get_or_create(&label).inc_by(transactions);
    }

    /// A stream of blocks was opened.
    pub fn deliver_began(&self) {
        self.deliver_streams.inc();
        self.deliver_opened.inc();
    }

    /// A stream of blocks ended.
    pub fn deliver_ended(&self) {
        self.deliver_streams.dec();
    }

    /// A block was written to a stream.
    pub fn delivered(&self) {
        self.blocks_delivered.inc();
    }

    /// Transactions that wait on this node: in front of the pipeline, in it, and with the leader.
    pub fn waiting(&self, queued: usize, in_pipeline: u64, forwarded: usize) {
        self.queued.set(queued as i64);
        self.in_pipeline.set(in_pipeline as i64);
        self.forwarded.set(forwarded as i64);
    }

    /// The chain as it is now on this node.
    pub fn tip(&self, height: u64, transactions: u64) {
        self.height.set(height as i64);
        self.transactions.set(transactions as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_in_flight_until_it_is_dropped_whether_it_was_answered_or_not() {
        let metrics = Metrics::new(1);
        let ordering = OrderingMetrics::new(&metrics, "main");
        let inflight = || {
            let text = metrics.encode();
            let line = text.lines().find(|line| line.starts_with("consensus_ordering_frames_inflight{"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<i64>().ok())
        };
        let (answered, given_up) = (ordering.frame_began(), ordering.frame_began());
        assert_eq!(inflight(), Some(2));
        ordering.frame_ended(Duration::from_millis(1));
        drop(answered);
        assert_eq!(inflight(), Some(1));
        drop(given_up);
        assert_eq!(inflight(), Some(0));
    }
}
