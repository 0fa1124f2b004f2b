//! How fast pushes are answered, every one of them fsynced, beside what TLS and HTTP alone cost on the same machine, and how
//! long an event takes to consumers of both brokers.
//!
//! ```text
//! cargo bench --bench push                                 all of it, some minutes
//! cargo bench --bench push -- --secs 10 --json push.json   longer rows, and the table as JSON
//! cargo bench --bench push -- --only floor,none            only these servers
//! cargo bench --bench push -- --only none --load-threads 1
//! cargo bench --bench push -- --against /tmp/ccrelay       nothing but this binary and that one in turns
//! ```
//!
//! Servers, each a process of its own, one after the other, under the same load from this process:
//!
//! - *floor*: reads the body and answers a constant; no token, no disk.
//! - *none*: the real binary without a sink.
//! - *both*: with a real Kafka (KRaft, one node) and a real Mosquitto, which take their share of the same processors.
//! - *stopped*: with a Kafka and an MQTT sink whose brokers are not there.
//!
//! First as many pushes as can be answered over 1, 16, 64 and 256 connections; then, over 64, a tenth, a half and nine
//! tenths of the greatest rate of that server, each push timed from when it was due; *stopped* also at half the greatest rate
//! of *both*. With *both* the events are read back from both brokers and timed from the sending of their push.
//!
//! *load us* is the load's own processor time for each push, *load %* the share of the time in which its busiest thread was
//! busy: below 100 it waited for the server. The last row of those as fast as can be has twice as many threads of the load:
//! where that gives no more, the load is not what limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod against;
mod arrivals;
mod end_to_end;
mod floor;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/output.rs"]
mod output;
#[path = "../common/relay.rs"]
mod relay;
#[path = "../common/talking.rs"]
mod talking;

use end_to_end::end_to_end;
use load::{Connection, Pace, Push, Times};
use output::Output;
use relay::{PARTITIONS, TOPIC};
use support::certificates::Certificates;
use support::kafka::Kafka;
use support::mosquitto::Mosquitto;
use support::usage::Usage;

const AGENTS: std::ops::RangeInclusive<u32> = 1001..=2000;
/// As long as a token of the relay's.
const FLOOR_TOKEN: &str = "K0000000000000000000000000000000000000";
/// Connections of the runs at a given rate.
const STEADY: usize = 64;
/// Not counted: connections, caches and the first growth of files.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the events of a run may take, far longer than any that a target lets pass.
const ARRIVAL: Duration = Duration::from_secs(30);
/// When nothing has come for so long, nothing more does.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each row.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Servers to measure.
    #[arg(long, value_delimiter = ',', default_values_t = ["floor", "none", "both", "stopped"].map(str::to_owned))]
    only: Vec<String>,
    /// Connections of the runs as fast as can be.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// Threads of the load.
    #[arg(long, default_value_t = 2)]
    load_threads: usize,
    /// Measure nothing but this binary of ccrelay and the one built now, in short turns, brokers stopped.
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// Turns of each with `--against`.
    #[arg(long, default_value_t = 30, requires = "against")]
    turns: usize,
    #[command(flatten)]
    output: Output,
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
    name: &'static str,
    address: SocketAddr,
    ca: PathBuf,
    pid: i32,
    pushes: Vec<Push>,
}

/// One run of a server: over so many connections, at that pace, from so many threads.
#[derive(Clone, Copy)]
struct Run {
    connections: usize,
    pace: Pace,
    threads: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Floor { port, certificate, key }) = &options.role {
        return floor::serve(*port, certificate, key).await;
    }
    if let Some(other) = &options.against {
        return options.output.write(&against::compare(other, options.turns, options.load_threads).await?);
    }
    let mut rows = Vec::new();
    println!(
        "{:<9}{:>6}{:>9}{:>11}{:>11}{:>9}{:>9}{:>9}{:>12}{:>12}{:>8}{:>9}{:>8}",
        "server",
        "conns",
        "threads",
        "asked/s",
        "pushes/s",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "cpu us/push",
        "bytes/push",
        "MiB",
        "load us",
        "load %"
    );
    for name in &options.only {
        match name.as_str() {
            "floor" => floor_rows(&options, &mut rows).await?,
            "none" => relay_rows("none", &options, &mut rows).await?,
            "both" => relay_rows("both", &options, &mut rows).await?,
            "stopped" => relay_rows("stopped", &options, &mut rows).await?,
            other => anyhow::bail!("{other} is none of floor, none, both, stopped"),
        }
    }
    ratios(&rows);
    options.output.write(&Value::Array(rows))
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
        name: "floor",
        address: ([127, 0, 0, 1], port).into(),
        ca: certificates.ca.clone(),
        pid: i32::try_from(child.id())?,
        pushes: AGENTS.map(|agent| Push::talking("/push/main", agent, FLOOR_TOKEN)).collect(),
    };
    let measured = async {
        listening(&server, &mut child).await?;
        measure(&server, options, rows, None).await
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

async fn relay_rows(name: &'static str, options: &Options, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    let (mut kafka, mut mosquitto) = (None, None);
    if name == "both" {
        let (one, other) = (Kafka::start().await, Mosquitto::start().await);
        one.create_topic(TOPIC, PARTITIONS, &[]).await;
        (kafka, mosquitto) = (Some(one), Some(other));
    }
    let sinks = match (name, &kafka, &mosquitto) {
        ("none", ..) => String::new(),
        (_, Some(kafka), Some(mosquitto)) => relay::sinks(&kafka.address(), &mosquitto.url()),
        _ => stopped_sinks(),
    };
    let (mut relay, pushes) = relay::prepare(&sinks, AGENTS)?;
    relay.start().await;
    let server = Server {
        name,
        address: ([127, 0, 0, 1], relay.callback_port()).into(),
        ca: relay.folder().join("ca.pem"),
        pid: relay.running().pid(),
        pushes,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let consumers = match (&kafka, &mosquitto) {
        (Some(kafka), Some(mosquitto)) => {
            let (of_kafka, thread) = arrivals::of_kafka(&kafka.client_config(), TOPIC, PARTITIONS, &stop)?;
            let of_mqtt = arrivals::of_mqtt(mosquitto.port(), "ccrelay/#")?;
            Some(([("kafka", of_kafka), ("mqtt", of_mqtt)], thread))
        }
        _ => None,
    };
    let consumed = consumers.as_ref().map(|(consumers, _)| &consumers[..]);
    let measured = measure(&server, options, rows, consumed).await;
    stop.store(true, Ordering::Relaxed);
    if let Some((_, thread)) = consumers {
        tokio::task::spawn_blocking(move || thread.join()).await?.ok().context("the consumer panicked")?;
    }
    let log = relay.log();
    relay.kill9().await;
    measured.with_context(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
}

/// Both sinks, with brokers that are not there.
fn stopped_sinks() -> String {
    let nobody = support::free_port();
    relay::sinks(&format!("127.0.0.1:{nobody}"), &format!("mqtt://127.0.0.1:{nobody}"))
}

type Consumers<'a> = &'a [(&'static str, arrivals::Arrivals)];

async fn measure(
    server: &Server,
    options: &Options,
    rows: &mut Vec<Value>,
    consumers: Option<Consumers<'_>>,
) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(options.secs);
    let threads = options.load_threads;
    let mut greatest: f64 = 0.0;
    for connections in &options.connections {
        let run = Run { connections: *connections, pace: Pace::Flat, threads };
        let (row, _) = one(server, run, length)?;
        greatest = greatest.max(per_second(&row));
        rows.push(row);
    }
    rows.push(one(server, Run { connections: STEADY, pace: Pace::Flat, threads: 2 * threads }, length)?.0);

    let mut rates = [0.1, 0.5, 0.9].map(|share| (greatest * share, share.to_string())).to_vec();
    if server.name == "stopped" {
        // How much worse it is than with brokers shows at a rate that both take.
        rates.extend(asked(rows, "both", "0.5").map(|rate| (rate, "0.5 of both".to_owned())));
    }
    for (rate, share) in rates {
        if let Some(consumers) = consumers {
            drained(consumers).await;
        }
        let run = Run { connections: STEADY, pace: Pace::PerSecond(rate), threads };
        let (mut row, pushes) = one(server, run, length)?;
        row["share"] = json!(share);
        for (broker, arrivals) in consumers.into_iter().flatten() {
            arrived(arrivals, pushes).await;
            row[*broker] = end_to_end(pushes, &arrivals.take());
            println!("{broker:>15} end to end: {}", row[*broker]);
        }
        rows.push(row);
    }
    Ok(())
}

fn per_second(row: &Value) -> f64 {
    row["pushes_per_second"].as_f64().unwrap_or_default()
}

/// What was asked of that server in the row of that share.
fn asked(rows: &[Value], server: &str, share: &str) -> Option<f64> {
    rows.iter().find(|row| row["server"] == server && row["share"] == share)?["asked_per_second"].as_f64()
}

/// Waits until nothing more arrives: what came of a run as fast as can be must not stand before the next run's events.
async fn drained(consumers: Consumers<'_>) {
    for (_, arrivals) in consumers {
        loop {
            tokio::time::sleep(QUIET).await;
            if arrivals.take().is_empty() {
                break;
            }
        }
    }
}

/// Waits until the events of so many pushes are there, for as long as they may take.
async fn arrived(arrivals: &arrivals::Arrivals, pushes: usize) {
    let begin = Instant::now();
    while arrivals.count() < pushes && begin.elapsed() < ARRIVAL {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One run as a row, and how many pushes it was with those that are not counted.
fn one(server: &Server, run: Run, length: Duration) -> anyhow::Result<(Value, usize)> {
    // The load has threads of its own and this one waits for them; consumers go on beside it.
    tokio::task::block_in_place(|| {
        let mut connections = load::connect(server.address, &server.ca, run.connections, &server.pushes)?;
        let warm_up = load::run(&mut connections, run.pace, WARM_UP.min(length), run.threads)?;
        let (times, used) = run_on(server.pid, &mut connections, run, length)?;
        Ok((print(server, run, &times, used), warm_up.took.len() + times.took.len()))
    })
}

/// One run, and what it took of the server. Every push must have been taken.
fn run_on(
    pid: i32,
    connections: &mut [Connection],
    run: Run,
    length: Duration,
) -> anyhow::Result<(Times, Usage)> {
    let before = Usage::of(pid);
    let times = load::run(connections, run.pace, length, run.threads)?;
    let used = Usage::of(pid).since(before);
    ensure!(times.refused == 0, "{} of {} pushes were refused", times.refused, times.took.len());
    Ok((times, used))
}

fn print(server: &Server, run: Run, times: &Times, used: Usage) -> Value {
    let pushes = times.took.len() as f64;
    let asked = match run.pace {
        Pace::Flat => None,
        Pace::PerSecond(rate) => Some(rate),
    };
    let millis = |q| times.quantile(q).as_secs_f64() * 1e3;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / pushes;
    let busiest = times.busiest.as_secs_f64() / times.length.as_secs_f64();
    println!(
        "{:<9}{:>6}{:>9}{:>11}{:>11.0}{:>9.2}{:>9.2}{:>9.2}{:>12.1}{:>12.0}{:>8.1}{:>9.1}{:>8.0}",
        server.name,
        run.connections,
        run.threads,
        asked.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
        times.per_second(),
        millis(0.5),
        millis(0.99),
        millis(0.999),
        each(used.processor),
        used.written as f64 / pushes,
        used.resident_mib,
        each(times.processor),
        busiest * 100.0
    );
    json!({
        "server": server.name, "connections": run.connections, "load_threads": run.threads,
        "asked_per_second": asked, "pushes_per_second": times.per_second(),
        "p50_ms": millis(0.5), "p99_ms": millis(0.99), "p999_ms": millis(0.999),
        "processor_us_per_push": each(used.processor), "bytes_written_per_push": used.written as f64 / pushes,
        "resident_mib": used.resident_mib, "load_us_per_push": each(times.processor), "load_busiest": busiest,
        "body_bytes": server.pushes[0].body_len(),
    })
}

/// Of each server against the floor, over as many connections from as many threads.
fn ratios(rows: &[Value]) {
    let run = |row: &Value| (row["connections"].as_u64(), row["load_threads"].as_u64());
    let flat = rows.iter().filter(|row| row["asked_per_second"].is_null());
    let floors: Vec<_> = flat.clone().filter(|row| row["server"] == "floor").collect();
    for row in flat.filter(|row| row["server"] != "floor") {
        if let Some(floor) = floors.iter().find(|floor| run(floor) == run(row)) {
            let (name, ratio) =
                (row["server"].as_str().unwrap_or_default(), per_second(row) / per_second(floor));
            println!("{name:<9}{:>6} connections: {ratio:.2} of the floor", row["connections"]);
        }
    }
}
