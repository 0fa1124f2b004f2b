//! Sends spans to the collector, on a thread of its own, so that neither their encoding nor TLS takes a turn from pushes.
//!
//! Spans are gathered for a moment and sent in batches, one after another. What the collector cannot take now is tried
//! again for a while, as OTLP asks; then it is given up, so that newer spans get their turn. Meanwhile the queue fills, and
//! what does not fit is dropped by those who bring it. A stop sends what waits, up to a deadline, and tries nothing twice.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::collector::{Collector, Fault, FileFault};
use super::config::TracesConfig;
use super::otlp::{self, Resource};
use super::span::Span;
use crate::backoff::Backoff;
use crate::calm::Calm;
use crate::metrics::Metrics;

/// Spans in one request, at most: about half a megabyte.
const BATCH_SPANS: usize = 512;
/// How long a batch that is not full waits for more. The queue holds what comes meanwhile, and the thread sleeps.
const LINGER: Duration = Duration::from_millis(200);
/// The first wait after a failure, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long the thread may take to end after the deadline of a stop.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long one batch is tried.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// Traces that cannot be sent.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file of `[traces]` cannot be used.
    #[error("traces.{}", .0.key())]
    File(#[source] FileFault),
    /// No thread can be made.
    #[error("cannot start the thread of traces")]
    Thread(#[source] std::io::Error),
}

/// The thread that sends spans; it ends after [`Exporter::stop`], or when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    /// When to end, once that is known.
    deadline: watch::Sender<Option<Instant>>,
    thread: std::thread::JoinHandle<()>,
}

impl Exporter {
    pub(super) fn start(
        config: &TracesConfig,
        spool_id: &str,
        queue: mpsc::Receiver<Span>,
        metrics: &Metrics,
    ) -> Result<Exporter, StartError> {
        let collector = Collector::new(config).map_err(StartError::File)?;
        let (sender, deadline) = watch::channel(None);
        let mut attributes = config.resource.clone();
        for (name, value) in
            [("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", spool_id)]
        {
            attributes.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        let work = Work {
            collector,
            resource: Resource::new(attributes),
            queue,
            batch: Vec::with_capacity(BATCH_SPANS),
            deadline,
            metrics: metrics.clone(),
            calm: Calm::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let run = move || {
            runtime.block_on(work.run());
            // Dropped, it would wait for a lookup of the collector's name, for as long as that takes.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("traces".into()).spawn(run);
        Ok(Exporter { deadline: sender, thread: thread.map_err(StartError::Thread)? })
    }

    /// Sends what waits, for at most so long; what is left then is given up, and counted.
    pub async fn stop(self, within: Duration) {
        self.deadline.send_replace(Some(Instant::now() + within));
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(within + LAST_WORDS, joined).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the thread of traces panicked"),
            Err(_elapsed) => tracing::warn!("the thread of traces does not end, and is left behind"),
        }
    }
}

struct Work {
    collector: Collector,
    resource: Resource,
    queue: mpsc::Receiver<Span>,
    /// What is being sent; it stays here, so that it can be counted when the work is cut off.
    batch: Vec<Span>,
    deadline: watch::Receiver<Option<Instant>>,
    metrics: Metrics,
    calm: Calm,
}

impl Work {
    async fn run(mut self) {
        let deadline = self.deadline.clone();
        let finished = tokio::select! {
            () = self.send_all() => true,
            () = passed(deadline) => false,
        };
        self.queue.close();
        while let Ok(span) = self.queue.try_recv() {
            self.batch.push(span);
        }
        if !finished || !self.batch.is_empty() {
            tracing::warn!(spans = self.batch.len(), "spans are given up at the stop");
        }
        self.count("failed", self.batch.len() as u64);
    }

    /// Ends when a stop was asked for and nothing waits any more.
    async fn send_all(&mut self) {
        loop {
            let came = tokio::select! {
                came = self.queue.recv_many(&mut self.batch, BATCH_SPANS) => came,
                () = asked_to_stop(&mut self.deadline), if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            };
            if came == 0 {
                return;
            }
            self.gather().await;
            self.send().await;
            self.batch.clear();
        }
    }

    /// Lets more come for a moment. Whoever brings it does not wake this thread meanwhile.
    async fn gather(&mut self) {
        if self.batch.len() < BATCH_SPANS && !self.queue.is_closed() {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = asked_to_stop(&mut self.deadline) => {}
            }
        }
        while self.batch.len() < BATCH_SPANS
            && let Ok(span) = self.queue.try_recv()
        {
            self.batch.push(span);
        }
    }

    /// Sends the batch, or gives it up.
    async fn send(&mut self) {
        let (spans, body) = (self.batch.len() as u64, otlp::encode(&self.resource, &self.batch));
        let (begin, mut backoff) = (Instant::now(), Backoff::new(FIRST_WAIT, LONGEST_WAIT));
        loop {
            let (reason, wait) = match self.collector.take(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    self.count("exported", spans - rejected);
                    self.count("failed", rejected);
                    if rejected > 0 {
                        self.complain("rejected", rejected, "the collector has not kept them");
                    }
                    return;
                }
                Err(Fault::Passing { reason, after }) => {
                    let wait = wait_for(after, backoff.next_wait(), begin.elapsed());
                    (reason, wait.filter(|_| !self.is_stopping()))
                }
                Err(Fault::Final { reason }) => (reason, None),
            };
            let Some(wait) = wait else {
                self.count("failed", spans);
                return self.complain("failed", spans, &reason);
            };
            tracing::debug!(reason, wait_secs = wait.as_secs_f64(), "the collector cannot take spans now");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = asked_to_stop(&mut self.deadline) => {}
            }
        }
    }

    /// Then each batch is tried once more: a collector that is away must not hold up a restart.
    fn is_stopping(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    fn count(&self, outcome: &str, spans: u64) {
        self.metrics.trace_spans.with_label_values(&[outcome]).inc_by(spans);
    }

    fn complain(&self, kind: &'static str, spans: u64, reason: &str) {
        if let Some(left_out) = self.calm.due(kind) {
            tracing::warn!(spans, reason, left_out, "spans were not taken by the collector");
        }
    }
}

/// How long to wait before the next try; none where that would be too late. The collector may ask for any time, and for none at
/// all, which would be tries without end.
fn wait_for(asked: Option<Duration>, own: Duration, spent: Duration) -> Option<Duration> {
    let wait = asked.map_or(own, |asked| asked.max(FIRST_WAIT));
    (wait < RETRY_FOR.saturating_sub(spent)).then_some(wait)
}

/// Returns when a stop was asked for, or nobody is left who could ask.
async fn asked_to_stop(deadline: &mut watch::Receiver<Option<Instant>>) {
    // An error says that the sender is gone, which is a stop too.
    drop(deadline.wait_for(Option::is_some).await.map(drop));
}

/// Returns when the time of a stop is over.
async fn passed(mut deadline: watch::Receiver<Option<Instant>>) {
    let by = deadline.wait_for(Option::is_some).await.map_or(None, |by| *by);
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_may_ask_for_any_wait() {
        let secs = Duration::from_secs;
        assert_eq!(wait_for(None, secs(4), secs(1)), Some(secs(4)));
        assert_eq!(wait_for(Some(secs(20)), secs(4), secs(1)), Some(secs(20)));
        assert_eq!(wait_for(Some(secs(0)), secs(4), secs(1)), Some(FIRST_WAIT));
        assert_eq!(wait_for(Some(secs(29)), secs(4), secs(1)), None);
        assert_eq!(wait_for(Some(secs(u64::MAX)), secs(4), secs(1)), None);
        assert_eq!(wait_for(None, secs(4), secs(u64::MAX)), None);
    }
}
