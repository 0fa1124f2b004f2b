//! Two binaries in turns of about a second. What a machine gives varies by a factor from minute to minute, and more than two versions
//! differ; within two seconds it varies little, and of many pairs the median says which is faster.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::load::{self, Connection, Pace};
use crate::relay;
use crate::support::relay::Relay;
use crate::support::usage::Usage;
use crate::{AGENTS, Run, STEADY, run_on, stopped_sinks};

/// Each half of a turn: as fast as can be, and at a given rate.
const HALF: Duration = Duration::from_millis(500);
/// Not counted, before each turn: what the other has left in the caches of the processor.
const WARM_UP: Duration = Duration::from_millis(200);

struct Contender {
    name: &'static str,
    relay: Relay,
    connections: Vec<Connection>,
    turns: Vec<Turn>,
}

/// What came of one turn.
struct Turn {
    /// As fast as can be.
    per_second: f64,
    processor_us: f64,
    /// At half of what the other binary was capable of in its first turn.
    p99_ms: f64,
}

/// Gives the table as JSON.
pub(crate) async fn compare(other: &Path, turns: usize, threads: usize) -> anyhow::Result<Value> {
    ensure!(turns > 0, "--turns 0: at least one is needed");
    ensure!(other.is_file(), "--against {}: is no file", other.display());
    let mut contenders = [start("other", Some(other)).await?, start("this", None).await?];
    let mut rate = None;
    for turn in 0..turns {
        for place in 0..contenders.len() {
            // Nobody always comes first.
            let contender = &mut contenders[(turn + place) % 2];
            let done = tokio::task::block_in_place(|| contender.take_turn(&mut rate, threads))?;
            contender.turns.push(done);
        }
    }
    println!(
        "{:<7}{:>11}{:>13}{:>11}{:>7}   medians of {turns} turns, rates beside the other's of the same turn",
        "binary", "pushes/s", "cpu us/push", "p99 ms", "MiB"
    );
    let mut rows = Vec::new();
    for contender in &contenders {
        let of = |figure: fn(&Turn) -> f64| median(contender.turns.iter().map(figure));
        let pairs = || contender.turns.iter().zip(&contenders[0].turns);
        let beside =
            |figure: fn(&Turn) -> f64| median(pairs().map(|(this, other)| figure(this) / figure(other)));
        let mib = Usage::of(contender.relay.running().pid()).resident_mib;
        let (rate, processor, p99) = (of(|t| t.per_second), of(|t| t.processor_us), of(|t| t.p99_ms));
        let (ratio, share) = (beside(|t| t.per_second), beside(|t| t.processor_us));
        println!(
            "{:<7}{rate:>11.0}{processor:>13.1}{p99:>11.2}{mib:>7.0}   {ratio:.3} times the pushes, {share:.3} of the processor each",
            contender.name
        );
        rows.push(json!({
            "binary": contender.name, "turns": turns, "pushes_per_second": rate, "processor_us_per_push": processor,
            "p99_ms": p99, "resident_mib": mib, "pushes_ratio": ratio, "processor_ratio": share,
        }));
    }
    for contender in &mut contenders {
        contender.relay.kill9().await;
    }
    Ok(Value::Array(rows))
}

async fn start(name: &'static str, binary: Option<&Path>) -> anyhow::Result<Contender> {
    let (mut relay, pushes) = relay::prepare(&stopped_sinks(), AGENTS)?;
    if let Some(binary) = binary {
        relay.binary = binary.display().to_string();
    }
    relay.start().await;
    let address = ([127, 0, 0, 1], relay.callback_port()).into();
    let connections = load::connect(address, &relay.folder().join("ca.pem"), STEADY, &pushes)?;
    Ok(Contender { name, relay, connections, turns: Vec::new() })
}

impl Contender {
    /// The first turn of all decides the rate of its second half, and of that of all others.
    fn take_turn(&mut self, rate: &mut Option<f64>, threads: usize) -> anyhow::Result<Turn> {
        let pid = self.relay.running().pid();
        let run = |pace| Run { connections: STEADY, pace, threads };
        run_on(pid, &mut self.connections, run(Pace::Flat), WARM_UP)?;
        let (fast, used) = run_on(pid, &mut self.connections, run(Pace::Flat), HALF)?;
        let rate = *rate.get_or_insert(fast.per_second() / 2.0);
        let (steady, _) = run_on(pid, &mut self.connections, run(Pace::PerSecond(rate)), HALF)?;
        Ok(Turn {
            per_second: fast.per_second(),
            processor_us: used.processor.as_secs_f64() * 1e6 / fast.took.len() as f64,
            p99_ms: steady.quantile(0.99).as_secs_f64() * 1e3,
        })
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}
