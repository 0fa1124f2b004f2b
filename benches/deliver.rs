//! How many events a second one worker delivers from a spool that is full.
//!
//! ```text
//! cargo bench --bench deliver                         200,000 events to nowhere and to librdkafka's mock cluster
//! cargo bench --bench deliver -- --events 1000000
//! ```
//!
//! Records of the size of usual pushes, one event each, wait in the spool; then one worker drains it, and the time is
//! taken until its cursor is at the end. *nowhere* is a sink that confirms at once, so it measures the worker: reading,
//! normalising, routing, settling. *Kafka* is the whole way with the sink's defaults; the mock cluster runs in this process
//! and takes its share of the processor.

use std::future::ready;
use std::time::{Duration, Instant};

use anyhow::Context;
use ccrelay::clock::Clock;
use ccrelay::config::Problems;
use ccrelay::deliver::{DeliverConfig, Repeats, Worker, way};
use ccrelay::metrics::Metrics;
use ccrelay::route::{Router, TopicRules, TopicTemplate};
use ccrelay::sink::kafka::{KafkaOptions, KafkaSink};
use ccrelay::sink::{Ack, BoxFuture, DeliveryError, Message, Sink};
use ccrelay::spool::Spool;
use clap::Parser;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[path = "common/output.rs"]
mod output;
#[path = "common/spool.rs"]
mod spool;
#[path = "common/talking.rs"]
mod talking;

use output::Output;

const SINKS: [&str; 2] = ["nowhere", "kafka"];
const TOPIC: &str = "ccrelay.events";
/// How long a sink waits for a confirmation, as by default.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Options {
    /// Events to deliver.
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// Events in flight.
    #[arg(long, default_value_t = 1000)]
    window: usize,
    #[command(flatten)]
    output: Output,
}

/// Confirms at once.
struct Nowhere;

impl Sink for Nowhere {
    fn publish<'a>(&'a mut self, _: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        let ack: Ack = Box::pin(ready(Ok(())));
        Box::pin(ready(Ok(ack)))
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        Box::pin(ready(Ok(())))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    let (spool, threads, metrics) = spool::open(folder.path(), SINKS)?;
    spool::fill(&spool, options.events as u64).await?;

    let cluster = MockCluster::new(1).context("no mock cluster")?;
    cluster.create_topic(TOPIC, 4, 1).context("no topic")?;
    let kafka: KafkaOptions =
        toml::from_str(&format!("bootstrap_servers = '{}'", cluster.bootstrap_servers()))?;
    let mut problems = Problems::default();
    let kafka =
        kafka.validate(STALL_TIMEOUT, "kafka", &mut problems).with_context(|| format!("{problems:?}"))?;
    let sinks: [Box<dyn Sink>; 2] =
        [Box::new(Nowhere), Box::new(KafkaSink::new("kafka", kafka, Clock::system()))];
    let mut rows = Vec::new();
    for (name, sink) in SINKS.into_iter().zip(sinks) {
        let took = drain(name, sink, &spool, &metrics, &options).await?;
        let rate = options.events as f64 / took.as_secs_f64();
        println!(
            "{name:8} {:>9} events in {:6.2} s: {rate:8.0} events/s",
            options.events,
            took.as_secs_f64()
        );
        rows.push(json!({ "sink": name, "events": options.events, "events_per_second": rate }));
    }
    options.output.write(&Value::Array(rows))?;
    spool::close(spool, threads).await
}

/// Delivers everything, and says how long it took.
async fn drain(
    name: &str,
    sink: Box<dyn Sink>,
    spool: &Spool,
    metrics: &Metrics,
    options: &Options,
) -> anyhow::Result<Duration> {
    let stop = CancellationToken::new();
    let config = DeliverConfig {
        sink: name.to_owned(),
        window: options.window,
        stall_timeout: STALL_TIMEOUT,
        way: way(Router::to(TopicTemplate::parse(TOPIC, TopicRules::Kafka)?)),
        dead_letter_topic: None,
        repeats: Repeats::Publish,
        troubles: Default::default(),
    };
    let (reader, clock) = (spool.reader(name)?, Clock::system());
    let end = *spool.end().borrow();
    let worker = Worker::new(config, sink, spool.clone(), reader, metrics.clone(), clock, stop.clone());
    let begin = Instant::now();
    let task = tokio::task::spawn(worker.run());
    while spool.cursors().iter().any(|(sink, at)| sink == name && *at < end) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begin.elapsed();
    stop.cancel();
    task.await?;
    let delivered = metrics.sink_delivered.with_label_values(&[name]).get();
    anyhow::ensure!(delivered == options.events as u64, "{delivered} events were delivered");
    Ok(took)
}
