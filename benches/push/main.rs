//! How fast pushes are answered, every one of them fsynced, beside what TLS and HTTP alone cost on the same machine, and how
//! long an event takes to consumers of both brokers.
//!
//! ```text
//! cargo bench --bench push                                 all of it, some minutes
//! cargo bench --bench push -- --secs 10 --json push.json   longer rows, and the table as JSON
//! cargo bench --bench push -- --only floor,none            only these servers
//! ```
//!
//! Servers, each a process of its own, one after the other, under the same load from this process:
//!
//! - *floor*: reads the body and answers a constant; no token, no disk.
//! - *none*: the real binary without a sink.
//! - *stopped*: with a Kafka and an MQTT sink whose brokers are not there.
//! - *both*: with a real Kafka (KRaft, one node) and a real Mosquitto, which take their share of the same processors.
//!
//! First as many pushes as can be answered over 1, 16, 64 and 256 connections; then, over 64, a tenth, a half and nine
//! tenths of the greatest rate of that server, each push timed from when it was due. With *both* the events are read back
//! from both brokers and timed from the sending of their push. Timers of the load have a grain of a millisecond.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ccrelay::authenticate::{Authenticator, TokenKey, TokenRules};
use ccrelay::clock::Clock;
use ccrelay::event::{AgentId, GatewayName};
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod arrivals;
mod floor;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/usage.rs"]
mod usage;

use load::{Pace, Push, Times};
use support::certificates::Certificates;
use support::kafka::Kafka;
use support::mosquitto::Mosquitto;
use support::relay::{Relay, Wiring};
use usage::Usage;

const AGENTS: std::ops::RangeInclusive<u32> = 1001..=2000;
const TOPIC: &str = "ccrelay.events";
const PARTITIONS: i32 = 4;
/// Connections of the runs at a given rate.
const STEADY: usize = 64;
/// Not counted: connections, caches and the first growth of files.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each row.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Servers to measure.
    #[arg(long, value_delimiter = ',', default_values_t = ["floor", "none", "stopped", "both"].map(str::to_owned))]
    only: Vec<String>,
    /// Connections of the runs as fast as can be.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// Write the table to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the floor.
    #[command(hide = true)]
    Floor { port: u16, certificate: PathBuf, key: PathBuf },
}

/// A server under load.
struct Server {
    address: SocketAddr,
    ca: PathBuf,
    pid: u32,
    pushes: Vec<Push>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Floor { port, certificate, key }) = &options.role {
        return floor::serve(*port, certificate, key).await;
    }
    let mut rows = Vec::new();
    println!(
        "{:<9}{:>6}{:>11}{:>11}{:>9}{:>9}{:>9}{:>12}{:>11}{:>9}{:>8}",
        "server",
        "conns",
        "asked/s",
        "pushes/s",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "cpu us/push",
        "bytes/push",
        "MiB",
        "load %"
    );
    for name in &options.only {
        match name.as_str() {
            "floor" => floor_rows(&options, &mut rows).await?,
            "none" | "stopped" | "both" => relay_rows(name, &options, &mut rows).await?,
            other => anyhow::bail!("{other} is none of floor, none, stopped, both"),
        }
    }
    ratios(&rows);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

async fn floor_rows(options: &Options, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    let folder = tempfile::TempDir::new()?;
    let certificates = Certificates::create(folder.path());
    let port = support::free_port();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["floor", &port.to_string()])
        .args([&certificates.cert, &certificates.key])
        .stdin(Stdio::null())
        .spawn()?;
    let server = Server {
        address: ([127, 0, 0, 1], port).into(),
        ca: certificates.ca.clone(),
        pid: child.id(),
        pushes: pushes(|agent| format!("K{agent}")),
    };
    let measured = async {
        listening(&server, &mut child).await?;
        measure("floor", &server, options, rows, None).await
    };
    let measured = measured.await;
    child.kill()?;
    child.wait()?;
    measured
}

async fn listening(server: &Server, child: &mut Child) -> anyhow::Result<()> {
    let begin = Instant::now();
    while tokio::net::TcpStream::connect(server.address).await.is_err() {
        ensure!(child.try_wait()?.is_none() && begin.elapsed().as_secs() < 10, "the floor does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn relay_rows(name: &str, options: &Options, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    let (mut kafka, mut mosquitto) = (None, None);
    if name == "both" {
        let (one, other) = (Kafka::start().await, Mosquitto::start().await);
        one.create_topic(TOPIC, PARTITIONS, &[]).await;
        (kafka, mosquitto) = (Some(one), Some(other));
    }
    let nobody = support::free_port();
    let tables = match (name, &kafka, &mosquitto) {
        ("none", ..) => String::new(),
        (_, Some(kafka), Some(mosquitto)) => sinks(&kafka.address(), mosquitto.port()),
        _ => sinks(&format!("127.0.0.1:{nobody}"), nobody),
    };
    let mut relay = Relay::prepare();
    relay.configure(&Wiring {
        gateway_url: "https://127.0.0.1:9/agentgateway/resource",
        gateway_ca: &relay.ca_pem(),
        #[expect(clippy::reversed_empty_ranges, reason = "nobody is to be signed in")]
        agents: 1..=0,
        password: "unused",
        tables: &tables,
    });
    let secret = relay.folder().join("secret");
    std::fs::write(&secret, "a secret for a benchmark, long enough to be one")?;
    relay.edit("[token]\n", &format!("[token]\nsecret_file = \"{}\"\n", secret.display()));
    relay.start().await;

    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let rules = TokenRules { period: hours(1), overlap: hours(1), max_age: hours(24) };
    let authenticator = Authenticator::new(TokenKey::read(&secret)?, None, rules, Clock::system());
    let gateway = GatewayName::parse("main")?;
    let server = Server {
        address: ([127, 0, 0, 1], relay.callback_port()).into(),
        ca: relay.folder().join("ca.pem"),
        pid: u32::try_from(relay.running().pid())?,
        pushes: pushes(|agent| {
            let agent = AgentId::parse(&agent.to_string()).expect("an id");
            authenticator.mint(&gateway, &agent).expose_secret().to_owned()
        }),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let consumers = match (&kafka, &mosquitto) {
        (Some(kafka), Some(mosquitto)) => {
            let (of_kafka, thread) = arrivals::of_kafka(&kafka.client_config(), TOPIC, &stop)?;
            let of_mqtt = arrivals::of_mqtt(mosquitto.port(), "ccrelay/#").await?;
            Some(([("kafka", of_kafka), ("mqtt", of_mqtt)], thread))
        }
        _ => None,
    };
    let consumed = consumers.as_ref().map(|(consumers, _)| &consumers[..]);
    let measured = measure(name, &server, options, rows, consumed).await;
    stop.store(true, Ordering::Relaxed);
    if let Some((_, thread)) = consumers {
        tokio::task::spawn_blocking(move || thread.join()).await?.ok().context("the consumer panicked")?;
    }
    let log = relay.log();
    relay.kill9().await;
    measured.with_context(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
}

fn sinks(kafka: &str, mqtt: u16) -> String {
    format!(
        "[sinks.bus]\ntopic = \"{TOPIC}\"\n[sinks.bus.kafka]\nbootstrap_servers = \"{kafka}\"\n\
         [sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:{mqtt}\"\n"
    )
}

fn pushes(token: impl Fn(u32) -> String) -> Vec<Push> {
    AGENTS.map(|agent| Push::talking("/push/main", agent, &token(agent))).collect()
}

type Consumers<'a> = &'a [(&'static str, arrivals::Arrivals)];

async fn measure(
    name: &str,
    server: &Server,
    options: &Options,
    rows: &mut Vec<Value>,
    consumers: Option<Consumers<'_>>,
) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(options.secs);
    let mut greatest: f64 = 0.0;
    for count in &options.connections {
        let row = one(name, server, *count, Pace::Flat, length).await?;
        greatest = greatest.max(row["pushes_per_second"].as_f64().unwrap_or_default());
        rows.push(row);
    }
    for share in [0.1, 0.5, 0.9] {
        if let Some(consumers) = consumers {
            drained(consumers).await;
        }
        let mut row = one(name, server, STEADY, Pace::PerSecond(greatest * share), length).await?;
        row["share"] = json!(share);
        for (broker, arrivals) in consumers.into_iter().flatten() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            row[*broker] = end_to_end(broker, &arrivals.take());
        }
        rows.push(row);
    }
    Ok(())
}

/// Waits until nothing more arrives: what came of a run as fast as can be must not stand before the next run's events.
async fn drained(consumers: Consumers<'_>) {
    for (_, arrivals) in consumers {
        while !arrivals.take().is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn end_to_end(broker: &str, took: &[u64]) -> Value {
    let at =
        |q: f64| took.get(((took.len().max(1) - 1) as f64 * q).round() as usize).copied().unwrap_or_default();
    println!(
        "{:>15} end to end: {:>9} events, p50 {} ms, p99 {} ms, p99.9 {} ms",
        broker,
        took.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
    json!({ "events": took.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999) })
}

async fn one(
    name: &str,
    server: &Server,
    count: usize,
    pace: Pace,
    length: Duration,
) -> anyhow::Result<Value> {
    let mut streams = load::connect(server.address, &server.ca, count).await?;
    load::run(&mut streams, &server.pushes, pace, WARM_UP).await?;
    let (before, own, begin) = (Usage::of(server.pid), Usage::of(std::process::id()), Instant::now());
    let times = load::run(&mut streams, &server.pushes, pace, length).await?;
    let (used, own) = (Usage::of(server.pid).since(before), Usage::of(std::process::id()).since(own));
    ensure!(times.refused == 0, "{} of {} pushes were refused", times.refused, times.took.len());
    let load_share = own.processor.as_secs_f64() / begin.elapsed().as_secs_f64();
    Ok(print(name, count, pace, &times, used, load_share, server.pushes[0].body_len()))
}

fn print(name: &str, count: usize, pace: Pace, times: &Times, used: Usage, load: f64, body: usize) -> Value {
    let pushes = times.took.len() as f64;
    let asked = match pace {
        Pace::Flat => None,
        Pace::PerSecond(rate) => Some(rate),
    };
    let millis = |q| times.quantile(q).as_secs_f64() * 1e3;
    let (processor, written) = (used.processor.as_secs_f64() * 1e6 / pushes, used.written as f64 / pushes);
    println!(
        "{name:<9}{count:>6}{:>11}{:>11.0}{:>9.2}{:>9.2}{:>9.2}{processor:>12.1}{written:>11.0}{:>9.1}{:>8.0}",
        asked.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        times.per_second(),
        millis(0.5),
        millis(0.99),
        millis(0.999),
        used.resident_mib,
        load * 100.0
    );
    json!({
        "server": name, "connections": count, "asked_per_second": asked, "pushes_per_second": times.per_second(),
        "p50_ms": millis(0.5), "p99_ms": millis(0.99), "p999_ms": millis(0.999), "processor_us_per_push": processor,
        "bytes_written_per_push": written, "resident_mib": used.resident_mib, "load_processors": load, "body_bytes": body,
    })
}

/// Of each server against the floor, over as many connections.
fn ratios(rows: &[Value]) {
    let rate = |row: &Value| row["pushes_per_second"].as_f64().unwrap_or_default();
    let flat = rows.iter().filter(|row| row["asked_per_second"].is_null());
    let mut floor = BTreeMap::new();
    for row in flat.clone().filter(|row| row["server"] == "floor") {
        floor.insert(row["connections"].as_u64().unwrap_or_default(), rate(row));
    }
    for row in flat.filter(|row| row["server"] != "floor") {
        let connections = row["connections"].as_u64().unwrap_or_default();
        if let Some(floor) = floor.get(&connections) {
            let name = row["server"].as_str().unwrap_or_default();
            println!("{name:<9}{connections:>6} connections: {:.2} of the floor", rate(row) / floor);
        }
    }
}
