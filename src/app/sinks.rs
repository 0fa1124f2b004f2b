//! Sinks on threads of their own. Answering has precedence over delivering: a push that fails costs an agent the session in
//! the end, an event that comes late costs little, and the spool has it. So each worker has a thread and a runtime of its
//! own, its client's threads are begun by that thread, and all of them stand back when the processor is wanted for pushes.
//! What is then left for delivery goes out in larger steps, which are cheaper.

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{SinkConfig, SinkKind};
use crate::deliver::{DeliverConfig, Troubles, Way, Worker};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::sink::jsonl::JsonlSink;
use crate::sink::kafka::KafkaSink;
use crate::sink::mqtt::MqttSink;
use crate::spool::Spool;
use crate::trace::Traces;

/// How far the threads of sinks stand back, on the scale of `nice`: enough that a thread that answers is never kept waiting by
/// one that delivers, and a tenth of the share of the former, so that delivery goes on under any load.
const NICENESS: i32 = 10;

/// What every sink's worker needs.
pub(super) struct Surroundings {
    pub(super) lifecycle: Lifecycle,
    pub(super) troubles: Troubles,
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) traces: Traces,
    pub(super) stop: CancellationToken,
    /// Cancelled when a stop has no more time for sinks.
    pub(super) hurry: CancellationToken,
}

impl Surroundings {
    /// Starts one sink's worker.
    ///
    /// # Errors
    /// When its thread or its reader of the spool cannot be made.
    pub(super) async fn start(&self, sink: &SinkConfig, way: Way) -> anyhow::Result<()> {
        let (config, client) = (self.config(sink, way), sink.kind.clone());
        let (spool, metrics, clock) = (self.spool.clone(), self.metrics.clone(), self.clock.clone());
        let traces = self.traces.of_sink(&sink.name, sink.kind.messaging_system());
        let (stop, hurry, cut_off) = (self.stop.clone(), self.hurry.clone(), CancellationToken::new());
        let (tell, told) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        let cut = cut_off.clone();
        let run = move || {
            stand_back(&config.sink);
            let worker = || -> anyhow::Result<_> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let client = open(&config.sink, &client, &clock);
                let reader = spool.reader(&config.sink)?;
                let worker = Worker::new(config, client, spool, reader, metrics, clock, stop);
                Ok((runtime, worker.traced(traces).hurried(hurry)))
            };
            let (runtime, worker) = match worker() {
                Ok(made) => made,
                Err(error) => return drop(tell.send(Err(error))),
            };
            // Whoever started it is there until it is told.
            drop(tell.send(Ok(())));
            runtime.block_on(cut.run_until_cancelled_owned(worker.run()));
            runtime.shutdown_background();
            // At a hard stop nobody waits any more.
            tell_end.send(()).ok();
        };
        let thread = std::thread::Builder::new().name(format!("sink-{}", sink.name));
        thread.spawn(run).with_context(|| format!("no thread for the sink {}", sink.name))?;
        told.await.map_err(|_| anyhow!("the thread of the sink {} ended", sink.name))??;
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.spawn("sink", async move {
            let _cut = cut_off.drop_guard();
            if ended.await.is_err() {
                lifecycle.fail("a sink panicked");
            }
        });
        Ok(())
    }

    fn config(&self, sink: &SinkConfig, way: Way) -> DeliverConfig {
        DeliverConfig {
            sink: sink.name.clone(),
            window: sink.window,
            stall_timeout: sink.stall_timeout,
            way,
            dead_letter_topic: sink.dead_letter_topic.clone(),
            repeats: sink.repeats,
            troubles: self.troubles.clone(),
        }
    }
}

fn open(name: &str, kind: &SinkKind, clock: &Clock) -> Box<dyn Sink> {
    match kind {
        SinkKind::Kafka(config) => Box::new(KafkaSink::new(name, (**config).clone(), clock.clone())),
        SinkKind::Mqtt(config) => Box::new(MqttSink::new(name, (**config).clone())),
        SinkKind::Jsonl(config) => Box::new(JsonlSink::new(config.clone())),
    }
}

/// Lowers the priority of this thread, and so of those that it starts. Where that is not allowed delivery has the priority of
/// everything else.
fn stand_back(sink: &str) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(sink, %error, "the threads of this sink cannot stand back for pushes");
    }
}
