//! How many sessions one process carries: memory for each, processor time, and how late heartbeats are.
//!
//! ```text
//! cargo bench --bench sessions                                   1,000, 10,000 and 100,000 agents, 15 minutes in all
//! cargo bench --bench sessions -- --agents 10000 --window 60     one size, measured for 60 s
//! cargo bench --bench sessions -- --agents 100000 --window 1 --page 20
//!                                                                the status page with all of them
//! ```
//!
//! For each size it starts the real binary in release mode with a spool of its own, and the simulated gateway in this
//! process, over TLS on the loopback. The agents stand in a CSV file, as they do where they are many. All sign in, enter their skill queues and get their first pushes; when
//! all are in and quiet, the window begins. Timers are those of service (heartbeat 30 s, GUIDs renewed at 60 s), unless
//! `--interval` says otherwise.
//!
//! - **memory**: `VmRSS` at the end of the window, less that of the same binary without agents, by the number of agents;
//! - **processor**: time of the relay's process in the window, in seconds for each second (2.00 is two cores);
//! - **lateness**: `ccrelay_heartbeat_lateness_seconds`, only what was added in the window.
//!
//! With `--page` the status page is asked for its parts, one after the other; then four people have it open for so long, while
//! pushes come, which are timed beside as long a time without them.
//!
//! Relay and simulator share the machine's cores, so lateness is what both together leave over.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, SignOut, Simulator};
use clap::Parser;
use serde_json::{Value, json};

#[path = "../tests/it/support/certificates.rs"]
mod certificates;

#[path = "common/output.rs"]
mod output;
#[path = "common/page.rs"]
mod page;
#[path = "../tests/it/support/usage.rs"]
mod usage;

use certificates::Certificates;
use output::Output;
use usage::Usage;

const PASSWORD: &str = "benchmark-password";
const FIRST_AGENT: u32 = 100_001;

/// Memory, processor time and lateness of heartbeats for many sessions.
#[derive(Debug, Parser)]
struct Options {
    /// How many agents; several sizes after each other.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    agents: Vec<u32>,
    /// Seconds of the measurement: several heartbeats of each agent.
    #[arg(long, default_value_t = 120)]
    window: u64,
    /// Seconds between heartbeats; GUIDs and limits keep their proportion to it.
    #[arg(long, default_value_t = 30)]
    interval: u64,
    /// Seconds for which people look at the status page.
    #[arg(long)]
    page: Option<u64>,
    /// Sign-ins a second: as it is, what two busy cores take on both ends.
    #[arg(long, default_value_t = 600)]
    sign_in_rate: u32,
    #[command(flatten)]
    output: Output,
}

/// What was measured at one size.
struct Row {
    agents: u32,
    sign_in: Duration,
    memory_kib: u64,
    processor: f64,
    heartbeats: u64,
    lateness: Vec<(f64, u64)>,
    signed_out: u64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let empty = runtime.block_on(measure(&options, 0))?.memory_kib;
    println!(
        "without agents: {empty} KiB resident; window {} s, heartbeats every {} s",
        options.window, options.interval
    );
    println!(
        "  agents  signed in after  resident  per agent  processor  heartbeats  late: p50     p99    p99.9  within 2 s"
    );
    let mut rows = Vec::new();
    for agents in &options.agents {
        let row = runtime.block_on(measure(&options, *agents))?;
        println!("{}", row.line(empty));
        ensure!(row.signed_out == 0, "{} sessions were lost", row.signed_out);
        rows.push(json!({
            "agents": row.agents, "sign_in_secs": row.sign_in.as_secs_f64(), "resident_kib": row.memory_kib,
            "empty_resident_kib": empty, "processors": row.processor, "heartbeats": row.heartbeats,
            "late_p999_secs": row.bound(0.999),
        }));
    }
    options.output.write(&Value::Array(rows))
}

impl Row {
    fn line(&self, empty: u64) -> String {
        let per_agent = self.memory_kib.saturating_sub(empty) as f64 / f64::from(self.agents.max(1));
        let mut line = format!(
            "{:>8}  {:>13.1} s  {:>4} MiB  {:>5.2} KiB  {:>9.2}  {:>10}",
            self.agents,
            self.sign_in.as_secs_f64(),
            self.memory_kib / 1024,
            per_agent,
            self.processor,
            self.heartbeats
        );
        for quantile in [0.5, 0.99, 0.999] {
            let text = match self.bound(quantile) {
                Some(bound) => format!("\u{2264}{bound} s"),
                None => "more".to_owned(),
            };
            write!(line, "  {text:>7}").expect("text grows");
        }
        let in_time = self.lateness.iter().find(|(le, _)| *le >= 2.0).map_or(0, |(_, count)| *count);
        write!(line, "  {:>8.3} %", 100.0 * in_time as f64 / self.heartbeats.max(1) as f64)
            .expect("text grows");
        line
    }

    /// The least bound of the histogram that holds this part of the heartbeats.
    fn bound(&self, quantile: f64) -> Option<f64> {
        let wanted = (self.heartbeats as f64 * quantile).ceil();
        self.lateness.iter().find(|(_, count)| *count as f64 >= wanted).map(|(le, _)| *le)
    }
}

async fn measure(options: &Options, agents: u32) -> anyhow::Result<Row> {
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::create(folder.path());
    let mut settings = Settings::local();
    settings.agents = vec![Agents::range(FIRST_AGENT, FIRST_AGENT + agents.max(1) - 1, PASSWORD)];
    settings.agent_id_limit = 999_999;
    settings.keep_ledger = false;
    settings.report_interval_ms = 0;
    settings.guid_interval_ms = options.interval * 2_000;
    settings.guid_timeout_ms = options.interval * 4_000;
    settings.handshake_max_time_ms = options.interval * 4_000;
    settings.eventpush.ssl.cert.pem = Some(std::fs::read_to_string(&certificates.ca)?);
    let simulator = Arc::new(Simulator::start(settings).await.context("the simulator")?);
    let relay = Relay::start(folder.path(), &simulator, agents, options)?;
    let begun = Instant::now();
    let patience = Duration::from_secs(120 + u64::from(agents / options.sign_in_rate) * 3);
    let all_in = simulator.wait_for(patience, |statistics| statistics.signed_in == agents as usize).await;
    ensure!(all_in, "{} of {agents} signed in: {}", simulator.statistics().signed_in, relay.log());
    let sign_in = begun.elapsed();
    // The first heartbeats follow a sign-in by seconds and belong to it.
    tokio::time::sleep(Duration::from_secs(if agents == 0 { 3 } else { options.interval })).await;

    let (before, began) = (relay.lateness()?, relay.usage());
    tokio::time::sleep(Duration::from_secs(if agents == 0 { 1 } else { options.window })).await;
    let (after, used) = (relay.lateness()?, relay.usage().since(began));
    let lateness: Vec<(f64, u64)> =
        after.iter().zip(&before).map(|((le, after), (_, before))| (*le, after - before)).collect();
    let total = simulator.statistics().total;
    let lost = [SignOut::HeartbeatSilence, SignOut::PushFailure, SignOut::TakenOver];
    let row = Row {
        agents,
        sign_in,
        memory_kib: (used.resident_mib * 1024.0) as u64,
        processor: used.processor.as_secs_f64() / options.window as f64,
        heartbeats: lateness.last().map_or(0, |(_, count)| *count),
        lateness,
        signed_out: lost.iter().map(|reason| total.signed_out(*reason)).sum(),
    };
    if let Some(secs) = options.page.filter(|_| agents > 0) {
        let (first_agent, operations) = (FIRST_AGENT, relay.operations);
        page::measure(&page::Place { simulator: &simulator, operations, first_agent, agents, secs }).await?;
    }
    drop(relay);
    Arc::into_inner(simulator).context("nobody else has the simulator")?.stop().await;
    Ok(row)
}

/// The real binary; killed when dropped.
struct Relay {
    child: Child,
    operations: u16,
    log: std::path::PathBuf,
}

impl Relay {
    fn start(folder: &Path, simulator: &Simulator, agents: u32, options: &Options) -> anyhow::Result<Relay> {
        let (callback, operations) = (free_port()?, free_port()?);
        let at = folder.display();
        std::fs::write(folder.join("gateway-ca.pem"), simulator.ca_pem().unwrap_or_default())?;
        std::fs::write(folder.join("password"), PASSWORD)?;
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, format!("read bench {}\n", page::TOKEN))?;
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600))?;
        let interval = options.interval;
        let config = format!(
            "[callback]\nlisten = '127.0.0.1:{callback}'\ncertificate_file = '{at}/cert.pem'\nkey_file = '{at}/key.pem'\n\
             [operations]\nlisten = '127.0.0.1:{operations}'\nadmin_tokens_file = '{at}/tokens'\n[spool]\ndirectory = '{at}/spool'\n[log]\nlevel = 'warn'\n\
             [[gateways]]\nname = 'main'\nbase_url = '{}'\nca_file = '{at}/gateway-ca.pem'\n\
             callback_uri = 'https://127.0.0.1:{callback}/push/main'\nheartbeat_interval_secs = {interval}\n\
             sign_out_limit_secs = {}\nsign_in_rate_per_sec = {}\n\
             [[rosters]]\nfile = '{at}/agents.csv'\ngateway = 'main'\nallow_empty = true\n\
             [rosters.defaults]\npassword_file = '{at}/password'\n\
             [sinks.file.jsonl]\npath = '{at}/events.jsonl'\n",
            simulator.base_url(),
            4 * interval,
            options.sign_in_rate,
        );
        let mut roster = "id,phone_number\n".to_owned();
        for id in FIRST_AGENT..FIRST_AGENT + agents {
            writeln!(roster, "{id},7{id}")?;
        }
        std::fs::write(folder.join("agents.csv"), roster)?;
        let file = folder.join("config.toml");
        std::fs::write(&file, config)?;
        let log = folder.join("log");
        let output = std::fs::File::create(&log)?;
        let child = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let relay = Relay { child, operations, log };
        let begun = Instant::now();
        while relay.page("/ready").is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(300), "the relay does not start: {}", relay.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(relay)
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.chars().rev().take(3000).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn page(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.operations))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(answer)
    }

    /// Heartbeats so far, by the upper bound of their lateness.
    fn lateness(&self) -> anyhow::Result<Vec<(f64, u64)>> {
        let page = self.page("/metrics")?;
        let buckets =
            page.lines().filter(|line| line.starts_with("ccrelay_heartbeat_lateness_seconds_bucket"));
        let pairs = buckets.map(|line| {
            let le =
                line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).context("no bound")?;
            let count = line.rsplit(' ').next().context("no count")?;
            Ok((le.replace("+Inf", "inf").parse()?, count.parse()?))
        });
        pairs.collect()
    }

    fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
