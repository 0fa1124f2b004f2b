//! What it costs to make a CloudEvent of what the gateway pushed: the body read, the agent and the call followed, the
//! event made, and written down for Kafka (headers and data) or as one JSON object.
//!
//! ```text
//! cargo bench --bench normalise                       a usual event, one that ends a call, the mean of all types
//! cargo bench --bench normalise -- --show             shows the usual push and the event that becomes of it
//! ```
//!
//! Each figure is the median of several rounds on one thread, in processor time where the system tells it. The token, the spool and the network have no part in it.
//! The command fails when a usual event takes longer than `--limit-micros`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::ensure;
use ccrelay::clock::Timestamp;
use ccrelay::event::normalise::{RecordKind, RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, Event, GatewayName, cloudevent, envelope};
use clap::Parser;
use serde_json::value::RawValue;

/// A call is answered: the event that wallboards and CRM screens wait for.
const TALKING: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentEvent_Talking","workNo":"291","eventGenTime":1784529722590,"content":{"caller":"13800000000","callid":"1456401416-3","called":"6048","feature":"0","type":"main","mediaAbility":"1"}}]}"#;
/// What came before it, and what comes after it.
const RINGING: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentState_Busy","workNo":"291","eventGenTime":1784529716000,"content":null},{"eventType":"AgentEvent_Ringing","workNo":"291","eventGenTime":1784529716100,"content":{"caller":"13800000000","transfer":"no","callid":"1456401416-3","transfrom":"","called":"6048","type":"main","mediaAbility":"1","feature":"0"}}]}"#;
const RELEASED: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentEvent_Call_Release","workNo":"291","eventGenTime":1784529800000,"content":"1456401416-3"}]}"#;
/// An example of each type's content.
const EXAMPLES: &str = include_str!("../src/event/testdata/examples.json");
const ROUNDS: usize = 21;
const RECEIVED_AT: Timestamp = Timestamp(1_784_529_723_000);

#[derive(Debug, Parser)]
struct Options {
    /// How often in each round.
    #[arg(long, default_value_t = 20_000)]
    times: u32,
    /// What the usual event may take, normalised and written down for Kafka.
    #[arg(long, default_value_t = 5.0)]
    limit_micros: f64,
    /// Show the usual push and its event.
    #[arg(long)]
    show: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One push, and where its agent stands before it.
struct Push {
    gateway: GatewayName,
    agent_id: AgentId,
    before: AgentSnapshot,
    body: String,
}

impl Push {
    fn new(before: AgentSnapshot, body: &str) -> anyhow::Result<Push> {
        Ok(Push {
            gateway: GatewayName::parse("main")?,
            agent_id: AgentId::parse("291")?,
            before,
            body: body.to_owned(),
        })
    }

    fn events(&self) -> Vec<Event> {
        let record = RecordView {
            spool_id: "k3v9",
            offset: 70,
            kind: RecordKind::Push,
            received_at: RECEIVED_AT,
            gateway: &self.gateway,
            agent_id: &self.agent_id,
            sequence: 42,
            repeats: &[],
            before: &self.before,
            body: self.body.as_bytes(),
        };
        normalise(&record).expect("these are pushes of the gateway")
    }

    /// Where the agent stands after it.
    fn after(&self) -> anyhow::Result<AgentSnapshot> {
        let mut after = self.before.clone();
        for event in envelope::parse(self.body.as_bytes())?.events {
            after.apply(&event, RECEIVED_AT);
        }
        Ok(after)
    }
}

/// For Kafka: headers and data.
fn binary(events: &[Event]) {
    for event in events {
        black_box((cloudevent::attributes(event), cloudevent::data(event)));
    }
}

/// One JSON object.
fn structured(events: &[Event]) {
    for event in events {
        black_box(cloudevent::structured(event));
    }
}

/// Processor time of this thread where the system tells it, so that a busy machine does not count; wall time elsewhere.
fn time(began: Instant) -> Duration {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = spent.as_deref().and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| began.elapsed(), Duration::from_nanos)
}

/// The median time of `work` in microseconds.
fn median(times: u32, mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let before = time(began);
            (0..times).for_each(|_| work());
            time(began).saturating_sub(before)
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2].as_secs_f64() * 1e6 / f64::from(times)
}

fn row(what: &str, micros: f64) {
    println!("{what:<58} {micros:>6.2} µs");
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let times = options.times;
    let ringing = Push::new(AgentSnapshot::default(), RINGING)?;
    let talking = Push::new(ringing.after()?, TALKING)?;
    let released = Push::new(talking.after()?, RELEASED)?;
    if options.show {
        let event = String::from_utf8(cloudevent::structured(&talking.events()[0]))?;
        println!("{}\n\n{event}\n", talking.body);
    }
    println!("AgentEvent_Talking, {} bytes, of an agent whose call rings:", talking.body.len());
    row("  receipt: read and followed", median(times, || drop(black_box(talking.after()))));
    row("  normalised", median(times, || drop(black_box(talking.events()))));
    let usual = median(times, || binary(&talking.events()));
    row("  normalised and written for Kafka (headers and data)", usual);
    row("  normalised and written as one JSON object", median(times, || structured(&talking.events())));
    println!("AgentEvent_Call_Release, which is two events with the summary:");
    row("  normalised and written for Kafka", median(times, || binary(&released.events())));
    let examples: BTreeMap<String, &RawValue> = serde_json::from_str(EXAMPLES)?;
    let all = examples.iter().map(|(name, content)| {
        let event = format!(r#"{{"eventType":"{name}","workNo":"291","content":{content}}}"#);
        Push::new(talking.after()?, &format!(r#"{{"workNo":"291","eventList":[{event}]}}"#))
    });
    let all: Vec<Push> = all.collect::<anyhow::Result<_>>()?;
    let rounds = (times / 100).max(1);
    let mean = median(rounds, || all.iter().for_each(|push| binary(&push.events()))) / all.len() as f64;
    println!("Each of the {} known types, in the mean:", all.len());
    row("  normalised and written for Kafka", mean);
    ensure!(usual <= options.limit_micros, "{usual:.2} µs are more than {} µs", options.limit_micros);
    Ok(())
}
