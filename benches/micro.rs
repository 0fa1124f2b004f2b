//! What the parts of the way of one push cost: the token checked, the body read and followed, the record on disk; the event
//! made of it and written down for the brokers.
//!
//! ```text
//! cargo bench --bench micro                           all of it, a minute
//! cargo bench --bench micro -- normalise              only what has this in its name
//! cargo test --bench micro                            each part once
//! ```
//!
//! One thread, but for the spool's, where 64 records that wait at a time count as one piece of work. The usual event is a call that is answered, what wallboards and CRM
//! screens wait for; *deliver* is the two parts after the spool together, which `scripts/bench` holds to its limit.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ccrelay::authenticate::{Authenticator, TokenKey, TokenRules};
use ccrelay::clock::{Clock, Timestamp};
use ccrelay::config::Problems;
use ccrelay::event::normalise::{RecordKind, RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, Event, GatewayName, envelope};
use ccrelay::sink::encoding::Encoding;
use ccrelay::sink::mqtt::{MqttConfig, MqttOptions};
use ccrelay::sink::{Message, Purpose, kafka, mqtt};
use criterion::{Criterion, Throughput};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::value::RawValue;

#[path = "common/spool.rs"]
mod spool;
#[path = "common/talking.rs"]
mod talking;

/// When records for Kafka are made.
const NOW: Timestamp = Timestamp(1_784_529_900_000);
const TALKING: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentEvent_Talking","workNo":"291","eventGenTime":1784529722590,"content":{"caller":"13800000000","callid":"1456401416-3","called":"6048","feature":"0","type":"main","mediaAbility":"1"}}]}"#;
/// What came before it, and what comes after it: two events, the second of which is the call's summary.
const RINGING: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentState_Busy","workNo":"291","eventGenTime":1784529716000,"content":null},{"eventType":"AgentEvent_Ringing","workNo":"291","eventGenTime":1784529716100,"content":{"caller":"13800000000","transfer":"no","callid":"1456401416-3","transfrom":"","called":"6048","type":"main","mediaAbility":"1","feature":"0"}}]}"#;
const RELEASED: &str = r#"{"workNo":"291","eventList":[{"eventType":"AgentEvent_Call_Release","workNo":"291","eventGenTime":1784529800000,"content":"1456401416-3"}]}"#;
/// An example of each type's content.
const EXAMPLES: &str = include_str!("../src/event/testdata/examples.json");
const RECEIVED_AT: Timestamp = Timestamp(1_784_529_723_000);

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

    fn messages(&self) -> impl Iterator<Item = Message> {
        self.events().into_iter().map(|event| Message {
            event: Arc::new(event),
            topic: "ccrelay.events".into(),
            purpose: Purpose::default(),
            trace: None,
        })
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

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let ringing = Push::new(AgentSnapshot::default(), RINGING)?;
    let talking = Push::new(ringing.after()?, TALKING)?;
    let released = Push::new(talking.after()?, RELEASED)?;
    receive(&mut criterion, &talking)?;
    normalising(&mut criterion, &talking, &released)?;
    encoding(&mut criterion, &talking)?;
    deliver(&mut criterion, &talking, &released);
    appends(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// What is done before the spool has the record.
fn receive(criterion: &mut Criterion, talking: &Push) -> anyhow::Result<()> {
    let key = TokenKey::new(&SecretSlice::from(vec![7; 32]))?;
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let rules = TokenRules { period: hours(1), overlap: hours(1), max_age: hours(24) };
    let authenticator = Authenticator::new(key, None, rules, Clock::system());
    let token = authenticator.mint(&talking.gateway, &talking.agent_id);
    authenticator.check(&talking.gateway, token.expose_secret())?;

    let mut group = criterion.benchmark_group("receive");
    group.bench_function("token", |bencher| {
        bencher.iter(|| authenticator.check(&talking.gateway, black_box(token.expose_secret())));
    });
    group.bench_function("envelope", |bencher| {
        bencher.iter(|| drop(black_box(envelope::parse(black_box(talking.body.as_bytes())))));
    });
    group.bench_function("envelope and agent followed", |bencher| {
        bencher.iter(|| black_box(talking).after());
    });
    group.finish();
    Ok(())
}

fn normalising(criterion: &mut Criterion, talking: &Push, released: &Push) -> anyhow::Result<()> {
    let examples: BTreeMap<String, &RawValue> = serde_json::from_str(EXAMPLES)?;
    let all = examples.iter().map(|(name, content)| {
        let event = format!(r#"{{"eventType":"{name}","workNo":"291","content":{content}}}"#);
        Push::new(talking.after()?, &format!(r#"{{"workNo":"291","eventList":[{event}]}}"#))
    });
    let all: Vec<Push> = all.collect::<anyhow::Result<_>>()?;
    let mut next = all.iter().cycle();

    let mut group = criterion.benchmark_group("normalise");
    group.bench_function("talking", |bencher| bencher.iter(|| black_box(talking).events()));
    group.bench_function("call released", |bencher| bencher.iter(|| black_box(released).events()));
    group.bench_function("every type in turn", |bencher| {
        bencher.iter(|| next.next().map(Push::events));
    });
    group.finish();
    Ok(())
}

fn encoding(criterion: &mut Criterion, talking: &Push) -> anyhow::Result<()> {
    let message = talking.messages().next().context("an event")?;
    let mut group = criterion.benchmark_group("encode");
    for (name, encoding) in [("binary", Encoding::Binary), ("structured", Encoding::Structured)] {
        group.bench_function(format!("kafka {name}"), |bencher| {
            bencher.iter(|| kafka::encode(black_box(&message), encoding, NOW));
        });
        let config = mqtt_config(name)?;
        mqtt::encode(&message, &config).map_err(|error| anyhow::anyhow!("{error}"))?;
        group.bench_function(format!("mqtt {name}"), |bencher| {
            bencher.iter(|| mqtt::encode(black_box(&message), &config));
        });
    }
    group.finish();
    Ok(())
}

fn mqtt_config(encoding: &str) -> anyhow::Result<MqttConfig> {
    let options: MqttOptions = toml::from_str(&format!("url = 'mqtt://localhost'\nencoding = '{encoding}'"))?;
    let mut problems = Problems::default();
    options.validate("mqtt", &mut problems).with_context(|| format!("{problems:?}"))
}

fn deliver(criterion: &mut Criterion, talking: &Push, released: &Push) {
    let mut group = criterion.benchmark_group("deliver");
    for (name, push) in [("talking", talking), ("call released", released)] {
        group.bench_function(format!("{name} to kafka"), |bencher| {
            bencher.iter(|| {
                for message in black_box(push).messages() {
                    black_box(kafka::encode(&message, Encoding::Binary, NOW));
                }
            });
        });
    }
    group.finish();
}

/// Durable: until the record's commit is synced.
fn appends(criterion: &mut Criterion) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    // Its appends are answered on this runtime.
    let (spool, threads, _) = runtime.block_on(async { spool::open(folder.path(), ["nowhere"]) })?;
    let mut number = 0;
    let mut group = criterion.benchmark_group("spool");
    for waiting in [1, 64] {
        group.throughput(Throughput::Elements(waiting));
        group.bench_function(format!("append {waiting}"), |bencher| {
            bencher.iter_custom(|times| {
                runtime.block_on(async {
                    let began = Instant::now();
                    for _ in 0..times {
                        spool::append(&spool, number..number + waiting).await.expect("the spool takes it");
                        number += waiting;
                    }
                    began.elapsed()
                })
            });
        });
    }
    group.finish();
    runtime.block_on(spool::close(spool, threads))
}
