//! What an outage of the brokers leaves behind: how soon the relay is ready with it, what memory it takes, and how fast it
//! goes out to each broker while pushes keep coming.
//!
//! ```text
//! cargo bench --bench backlog                                        2 million records, some minutes
//! cargo bench --bench backlog -- --records 200000 --json backlog.json
//! ```
//!
//! The spool is filled first. Then the real binary is started with it, Kafka there and Mosquitto away: that is *ready* and
//! *Kafka*. When Kafka has all, Mosquitto comes: that is *MQTT*, quality of service 1. Rates are those of confirmed events,
//! from the first second in which any was confirmed to the second in which the backlog was gone. Beside them stands what each
//! broker takes from its own tool on the same machine: `kafka-producer-perf-test`, with events as the sink writes them and after a
//! run that warms the broker up, and `mosquitto_pub`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ccrelay::event::normalise::{RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::sink::{Message, Purpose};
use ccrelay::spool::NewRecord;
use clap::Parser;
use serde_json::json;

#[path = "../common/load.rs"]
mod load;
#[path = "../common/output.rs"]
mod output;
#[path = "../common/relay.rs"]
mod relay;
#[path = "../common/spool.rs"]
mod spool;
#[path = "../../tests/it/support/mod.rs"]
mod support;
#[path = "../common/talking.rs"]
mod talking;

use load::{Connection, Pace, Times};
use output::Output;
use relay::{KAFKA, MQTT, PARTITIONS, TOPIC};
use support::kafka::Kafka;
use support::mosquitto::Mosquitto;
use support::relay::Relay;
use support::usage::Usage;

/// Bytes of the messages of Mosquitto's own tool, about as many as an event has.
const TOOL_BYTES: usize = 900;
/// Events among which Kafka's own tool chooses, so many that none is twice in a batch.
const TOOL_EVENTS: u64 = 10_000;
const AGENTS: std::ops::RangeInclusive<u32> = 5001..=5064;
const CONNECTIONS: usize = 16;
/// How often counters and memory are looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Parser)]
struct Options {
    /// Records in the spool.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Pushes a second that keep coming meanwhile.
    #[arg(long, default_value_t = 500.0)]
    pushes: f64,
    /// Give a drain up after so many seconds; its rate is then that of what went out.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Messages of Kafka's own tool; Mosquitto's, which is fast from its begin, has a fifth of them.
    #[arg(long, default_value_t = 1_000_000)]
    tool_messages: usize,
    #[command(flatten)]
    output: Output,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (kafka, mut mosquitto) = (Kafka::start().await, Mosquitto::start().await);
    kafka.create_topic(TOPIC, PARTITIONS, &[]).await;
    kafka.create_topic("tool", PARTITIONS, &[]).await;
    let limits =
        [kafka_limit(&kafka, options.tool_messages)?, mqtt_limit(&mosquitto, options.tool_messages / 5)?];
    mosquitto.stop().await;

    let sinks = relay::sinks(&kafka.address(), &mosquitto.url());
    let (mut relay, pushes) = relay::prepare(&sinks, AGENTS)?;

    let empty_ready = ready(&mut relay).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let empty_mib = Usage::of(relay.running().pid()).resident_mib;
    relay.kill9().await;
    std::fs::remove_dir_all(relay.folder().join("spool"))?;

    let began = Instant::now();
    fill(&relay.folder().join("spool"), options.records).await?;
    println!("{} records spooled in {:.1} s", options.records, began.elapsed().as_secs_f64());
    let full_ready = ready(&mut relay).await;
    println!("ready after {empty_ready:.2} s when empty, {full_ready:.2} s with the backlog");

    let stop = Arc::new(AtomicBool::new(false));
    let address = ([127, 0, 0, 1], relay.callback_port()).into();
    let connections = load::connect(address, &relay.folder().join("ca.pem"), CONNECTIONS, &pushes)?;
    let (rate, until) = (options.pushes, stop.clone());
    let pushes = tokio::task::spawn_blocking(move || keep_pushing(connections, rate, &until));
    let to_kafka = drain(&relay, KAFKA, &options).await?;
    mosquitto.start_again().await;
    let to_mqtt = drain(&relay, MQTT, &options).await?;
    stop.store(true, Ordering::Relaxed);
    let pushed = pushes.await??;
    let p99 = pushed.quantile(0.99).as_secs_f64() * 1e3;

    let mut rows = Vec::new();
    for (name, drained, limit) in [("Kafka", &to_kafka, limits[0]), ("MQTT", &to_mqtt, limits[1])] {
        let (rate, mib) = (drained.per_second, drained.most_mib);
        println!(
            "{name:<6}{rate:>9.0} events/s; its own tool {limit:>9.0}/s, ratio {:.2}; at most {mib:.1} MiB resident, {:+.1} to an empty spool",
            rate / limit,
            mib - empty_mib
        );
        rows.push(json!({
            "broker": name, "events": drained.events, "events_per_second": rate, "tool_per_second": limit,
            "processor_us_per_event": drained.processor_us, "most_resident_mib": mib,
        }));
    }
    let pushes = pushed.took.len();
    println!("{pushes} pushes meanwhile, p99 {p99:.2} ms");
    relay.kill9().await;
    options.output.write(&json!({
        "records": options.records, "ready_empty_secs": empty_ready, "ready_full_secs": full_ready,
        "empty_resident_mib": empty_mib, "pushes": pushes, "push_p99_ms": p99, "drains": rows,
    }))
}

/// Starts the binary; gives the seconds until it says that it is ready.
async fn ready(relay: &mut Relay) -> f64 {
    let began = Instant::now();
    relay.launch();
    while !relay.probe().is_ready().await {
        relay.running().assert_alive();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed().as_secs_f64()
}

async fn fill(directory: &Path, records: u64) -> anyhow::Result<()> {
    let (spool, threads, _) = spool::open(directory, [KAFKA, MQTT])?;
    spool::fill(&spool, records).await?;
    spool::close(spool, threads).await
}

/// Pushes until it is told to stop.
fn keep_pushing(mut connections: Vec<Connection>, rate: f64, stop: &AtomicBool) -> anyhow::Result<Times> {
    let mut times = Times::default();
    while !stop.load(Ordering::Relaxed) {
        times.add(load::run(&mut connections, Pace::PerSecond(rate), Duration::from_secs(1), 1)?);
        ensure!(times.refused == 0, "{} pushes were refused", times.refused);
    }
    times.took.sort_unstable();
    Ok(times)
}

struct Drained {
    events: f64,
    per_second: f64,
    processor_us: f64,
    most_mib: f64,
}

async fn drain(relay: &Relay, sink: &str, options: &Options) -> anyhow::Result<Drained> {
    let delivered = || async {
        let series = format!("ccrelay_sink_delivered_total{{sink=\"{sink}\"");
        relay.probe().metric(&series).await.unwrap_or_default()
    };
    let patience = Duration::from_secs(options.patience);
    let begin = Instant::now();
    let mut first = delivered().await;
    while first == 0.0 {
        ensure!(begin.elapsed() < patience, "nothing is confirmed to {sink}: {}", relay.log());
        tokio::time::sleep(LOOK / 10).await;
        first = delivered().await;
    }
    let (begin, used) = (Instant::now(), Usage::of(relay.running().pid()));
    let (mut now, mut most_mib) = (first, 0.0_f64);
    while now < options.records as f64 && begin.elapsed() < patience {
        tokio::time::sleep(LOOK).await;
        now = delivered().await;
        most_mib = most_mib.max(Usage::of(relay.running().pid()).resident_mib);
    }
    let (secs, used) = (begin.elapsed().as_secs_f64(), Usage::of(relay.running().pid()).since(used));
    let events = now - first;
    ensure!(events > 0.0, "nothing goes out to {sink}");
    let processor_us = used.processor.as_secs_f64() * 1e6 / events;
    println!("{sink}: {events:.0} events in {secs:.1} s, {processor_us:.1} us of processor each");
    Ok(Drained { events, per_second: events / secs, processor_us, most_mib })
}

/// Records a second that Kafka takes from its own tool, with the properties of the sink and events as it writes them. The broker
/// is warm, as the drain finds it.
fn kafka_limit(kafka: &Kafka, messages: usize) -> anyhow::Result<f64> {
    let mut events = tempfile::NamedTempFile::new()?;
    for number in 0..TOOL_EVENTS {
        events.write_all(&event(number)?)?;
        events.write_all(b"\n")?;
    }
    kafka_tool(kafka, messages.div_ceil(4), events.path())?;
    kafka_tool(kafka, messages, events.path())
}

/// A whole event in one line: what the sink says in headers stands in it, since the tool has none.
fn event(number: u64) -> anyhow::Result<Vec<u8>> {
    let NewRecord { kind, received_at, agent, body, .. } = spool::record(number);
    let record = RecordView {
        spool_id: "k3v9",
        offset: number,
        kind,
        received_at,
        gateway: &agent.gateway,
        agent_id: &agent.agent_id,
        sequence: number,
        repeats: &[],
        before: &AgentSnapshot::default(),
        body: &body,
    };
    let event = normalise(&record)?.into_iter().next().context("no event")?;
    let (topic, purpose) = (TOPIC.into(), Purpose::default());
    Ok(Message { event: Arc::new(event), topic, purpose, trace: None }.structured())
}

fn kafka_tool(kafka: &Kafka, messages: usize, events: &Path) -> anyhow::Result<f64> {
    let servers = format!("bootstrap.servers={}", kafka.address());
    let (messages, events) = (messages.to_string(), events.to_str().context("a plain path")?);
    let said = kafka.tool(
        "org.apache.kafka.tools.ProducerPerformance",
        &[
            &["--topic", "tool", "--num-records", &messages, "--payload-file", events, "--throughput", "-1"]
                [..],
            &["--producer-props", &servers, "acks=all", "enable.idempotence=true", "linger.ms=5"],
            &["batch.size=131072", "compression.type=zstd"],
        ]
        .concat(),
    );
    let line = said.lines().rev().find(|line| line.contains("records/sec")).context("no rate")?;
    let rate = line.split(" records/sec").next().and_then(|before| before.rsplit([' ', ',']).next());
    Ok(rate.context("no rate")?.parse()?)
}

/// Messages a second that Mosquitto takes from its own tool, with quality of service 1.
fn mqtt_limit(mosquitto: &Mosquitto, messages: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut child = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &mosquitto.port().to_string(),
            "-V",
            "5",
            "-q",
            "1",
            "-t",
            "tool",
            "-l",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .context("no mosquitto_pub: it is in mosquitto-clients")?;
    let mut line = vec![b'x'; TOOL_BYTES];
    line.push(b'\n');
    let mut input = std::io::BufWriter::new(child.stdin.take().context("no pipe")?);
    for _ in 0..messages {
        input.write_all(&line)?;
    }
    drop(input.into_inner().map_err(|error| error.into_error())?);
    ensure!(child.wait()?.success(), "mosquitto_pub failed");
    Ok(messages as f64 / begin.elapsed().as_secs_f64())
}
