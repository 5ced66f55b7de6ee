//! The way of finished spans to the collector: a bounded queue, one task, batches over OTLP/gRPC.
//!
//! Nobody waits for the collector. A batch leaves when it is full or a moment after its first span; one that the
//! collector does not take in time is dropped and counted, and the next one waits longer. Meanwhile the queue fills,
//! and what does not fit is dropped and counted where it ends. A collector that is away costs a log line a minute.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::{Tracer, tls};
use crate::config::Tracing;
use crate::telemetry::Throttle;
use crate::telemetry::metrics::{Metrics, TraceMetrics};

/// Spans that wait for the collector.
const QUEUE_SPANS_MAX: usize = 8192;
/// Spans in one request.
const BATCH_SPANS_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// A request without an answer is given up.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after a request that failed; doubles up to the second with each further one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What a stopping process spends on the spans that are left.
const FLUSH_MAX: Duration = Duration::from_millis(150);
/// After so long the task is ended; within what a stopping process gives its connections.
const STOP_MAX: Duration = Duration::from_millis(190);
/// How often it is told that the collector is away.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Carries the spans of a process to its collector until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// Starts tracing on the current runtime, for the node of this name, if the configuration wants it. The collector
/// need not be there.
///
/// # Errors
/// An endpoint that is none, or authorities that cannot be used.
pub fn start_if_wanted(
    config: Option<&Tracing>,
    node: &str,
    metrics: &Metrics,
) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let Some(config) = config else { return Ok((Tracer::off(), None)) };
    let (tracer, exporter) = start(config, node, metrics)?;
    Ok((tracer, Some(exporter)))
}

/// Sends what is left, for a moment.
pub async fn stop(exporter: Option<Exporter>) {
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
}

/// What sends spans, in plaintext or over TLS. Nothing is connected before there are any.
fn collector(config: &Tracing) -> anyhow::Result<SpanExporter> {
    let builder =
        SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).with_timeout(EXPORT_TIMEOUT);
    let builder = match &config.ca {
        None => builder,
        Some(authorities) => {
            let endpoint = Endpoint::from_shared(config.endpoint.clone())?.connect_timeout(EXPORT_TIMEOUT);
            builder.with_channel(endpoint.connect_with_connector_lazy(tls::Connector::new(authorities)?))
        }
    };
    Ok(builder.build()?)
}

fn start(config: &Tracing, node: &str, metrics: &Metrics) -> anyhow::Result<(Tracer, Exporter)> {
    let mut collector =
        collector(config).with_context(|| format!("spans cannot be sent to {}", config.endpoint))?;
    let resource = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", config.service_name.clone()),
        KeyValue::new("service.instance.id", node.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ]);
    collector.set_resource(&resource.build());
    let metrics = TraceMetrics::new(metrics);
    let (sender, queue) = mpsc::channel(QUEUE_SPANS_MAX);
    let stop = CancellationToken::new();
    let carrier = Carrier {
        endpoint: config.endpoint.clone(),
        collector,
        queue,
        metrics: metrics.clone(),
        pause: PAUSE.0,
        away_log: Throttle::new(LOG_EVERY),
        stop: stop.clone(),
    };
    let task = tokio::spawn(carrier.run());
    Ok((Tracer::new(config.ratio_ppm, sender, metrics), Exporter { task, stop }))
}

impl Exporter {
    async fn stop(mut self) {
        self.stop.cancel();
        if timeout(STOP_MAX, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

struct Carrier {
    endpoint: String,
    collector: SpanExporter,
    queue: mpsc::Receiver<SpanData>,
    metrics: TraceMetrics,
    /// Wait after the next request that fails.
    pause: Duration,
    away_log: Throttle,
    stop: CancellationToken,
}

impl Carrier {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // A batch that is being gathered is not lost when the process stops.
        let mut batch = Vec::new();
        while stop.run_until_cancelled(self.gather(&mut batch)).await.is_some() {
            if batch.is_empty() {
                return;
            }
            if !self.send(std::mem::take(&mut batch)).await {
                let pause = self.pause;
                self.pause = (2 * pause).min(PAUSE.1);
                stop.run_until_cancelled(sleep(pause)).await;
            }
        }
        self.flush(batch).await;
    }

    /// Spans for one request; none if no more will come.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        if self.queue.recv_many(batch, BATCH_SPANS_MAX).await == 0 {
            return;
        }
        let full = async {
            while batch.len() < BATCH_SPANS_MAX {
                if self.queue.recv_many(batch, BATCH_SPANS_MAX - batch.len()).await == 0 {
                    return;
                }
            }
        };
        // What has come by then is a batch.
        let _ = timeout(BATCH_DELAY, full).await;
    }

    /// Whether the collector has taken them.
    async fn send(&mut self, batch: Vec<SpanData>) -> bool {
        let spans = batch.len();
        let stop = self.stop.clone();
        let too_long = async {
            tokio::select! {
                () = sleep(EXPORT_TIMEOUT) => {}
                () = async { stop.cancelled().await; sleep(FLUSH_MAX).await } => {}
            }
        };
        let outcome = tokio::select! {
            outcome = self.collector.export(batch) => outcome.map_err(|error| error.to_string()),
            () = too_long => Err("no answer in time".to_owned()),
        };
        match outcome {
            Ok(()) => {
                self.metrics.exported(spans);
                self.pause = PAUSE.0;
                true
            }
            Err(why) => {
                self.metrics.dropped_export_failed(spans);
                if let Some(held_back) = self.away_log.pass() {
                    let endpoint = &self.endpoint;
                    tracing::warn!(
                        endpoint,
                        why,
                        held_back,
                        "the collector of traces takes no spans, they are dropped"
                    );
                }
                false
            }
        }
    }

    /// What is left when the process stops, as far as a moment reaches.
    async fn flush(&mut self, mut batch: Vec<SpanData>) {
        let deadline = Instant::now() + FLUSH_MAX;
        loop {
            while batch.len() < BATCH_SPANS_MAX
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            let spans = batch.len();
            if spans == 0 {
                return;
            }
            match timeout_at(deadline, self.send(std::mem::take(&mut batch))).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.metrics.dropped_export_failed(spans);
                    break;
                }
            }
        }
        self.queue.close();
        let mut left = 0;
        while self.queue.try_recv().is_ok() {
            left += 1;
        }
        self.metrics.dropped_export_failed(left);
    }
}
