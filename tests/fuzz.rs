//! Records that nobody would send, by the million: what the parser takes the normaliser can make events of, without a panic,
//! with numbers as the receiver allots them, with output and memory within bounds.
//!
//! ```text
//! cargo test --test fuzz                                            a short run
//! make fuzz                                                         ten million, optimised
//! ```
//!
//! Bodies are made from the documented examples: events are drawn, doubled and dropped, members renamed, repeated and
//! given other values, call ids drawn from a few so that calls go on; then, for a third of them, bytes are changed. The state
//! of the agent goes on from record to record. A run is given by its seed (`CCRELAY_FUZZ_SEED`); what fails is printed with
//! its number, and with `CCRELAY_FUZZ_EXECUTIONS` of that number more the same seed ends there again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ccrelay::clock::Timestamp;
use ccrelay::event::normalise::{EventRef, RecordKind, RecordView, Repeated, normalise};
use ccrelay::event::report::Report;
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, GatewayName, cloudevent, envelope, vocabulary};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

#[path = "it/support/usage.rs"]
mod usage;

const EXAMPLES: &str = include_str!("../src/event/testdata/examples.json");
/// Without optimisation that is some seconds.
const SHORT_RUN: u64 = 100_000;
const SEED: u64 = 20_261_124;
/// What an event may add to what was said: attributes, state, names of codes, a summary.
const BYTES_OF_AN_EVENT: usize = 3072;
/// What is verbatim in `raw.content` and in `raw.event`, and once more in the typed members.
const TIMES_AS_LONG: usize = 4;
/// The snapshot in a record: 64 calls whose words are as long as may be.
const BYTES_OF_A_SNAPSHOT: usize = 48_000;
/// Peak memory of the process, with room for a test that runs beside it.
const PEAK_KIB: u64 = 256 << 10;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("it is below a usize")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Makes bodies.
struct Source {
    random: Random,
    examples: Vec<(String, Value)>,
    names: Vec<String>,
}

impl Source {
    fn new(seed: u64) -> Source {
        let examples: BTreeMap<String, Value> = serde_json::from_str(EXAMPLES).expect("the examples");
        let mut names: Vec<String> = Vec::new();
        for content in examples.values().filter_map(Value::as_object) {
            names.extend(content.keys().cloned());
        }
        names.extend(["eventType", "content", "eventGenTime", "workNo", "address"].map(str::to_owned));
        Source { random: Random(seed), examples: examples.into_iter().collect(), names }
    }

    fn body(&mut self) -> (RecordKind, Vec<u8>) {
        let (kind, value) = match self.random.below(10) {
            0 => (RecordKind::Lifecycle, self.lifecycle()),
            1 => (RecordKind::Poll, json!({"message": "", "retcode": "0", "event": self.event()})),
            2 => (RecordKind::Push, self.event()),
            _ => {
                let count = self.random.below(5);
                let events: Vec<Value> = (0..count).map(|_| self.event()).collect();
                (RecordKind::Push, json!({"workNo": "291", "eventList": events}))
            }
        };
        let mut body = value.to_string().into_bytes();
        if self.random.one_in(3) {
            self.change_bytes(&mut body);
        }
        (kind, body)
    }

    fn lifecycle(&mut self) -> Value {
        let names: Vec<_> = vocabulary::session_entries().iter().map(|entry| entry.gateway_type).collect();
        let name = *self.random.pick(&names);
        let mut own = json!({"type": name, "reason": "timed_out", "seconds": 120});
        if self.random.one_in(4) {
            own["reason"] = self.value(0);
        }
        own
    }

    fn event(&mut self) -> Value {
        if self.random.one_in(40) {
            return self.value(0);
        }
        let at = self.random.below(self.examples.len());
        let (name, mut content) = self.examples[at].clone();
        self.name_call(&mut content);
        if self.random.one_in(3) {
            self.change(&mut content);
        }
        let mut event = json!({"eventType": name, "workNo": "291", "content": content});
        if self.random.one_in(3) {
            event["eventGenTime"] = json!(1_784_529_000_000_u64 + self.random.next() % 100_000_000);
        }
        if self.random.one_in(12) {
            event["eventType"] = match self.random.below(3) {
                0 => self.value(0),
                1 => json!(format!(" {name}")),
                _ => json!(format!("{name}_Ex")),
            };
        }
        if self.random.one_in(12) {
            self.change(&mut event);
        }
        event
    }

    /// Few calls, so that they are followed for a while.
    fn name_call(&mut self, content: &mut Value) {
        let id = json!(format!("1456401416-{}", self.random.below(12)));
        match content {
            Value::String(_) => *content = id,
            Value::Object(members) => {
                for name in ["callid", "callId"] {
                    if let Some(member) = members.get_mut(name) {
                        *member = id.clone();
                    }
                }
            }
            _ => {}
        }
    }

    fn change(&mut self, value: &mut Value) {
        let Value::Object(members) = value else {
            *value = self.value(0);
            return;
        };
        let names: Vec<String> = members.keys().cloned().collect();
        for _ in 0..=self.random.below(2) {
            let other = self.random.pick(&self.names).clone();
            let name = if names.is_empty() { other.clone() } else { self.random.pick(&names).clone() };
            match self.random.below(5) {
                0 => drop(members.remove(&name)),
                1 => drop(members.insert(other, self.value(0))),
                2 => {
                    if let Some(moved) = members.remove(&name) {
                        members.insert(name.to_ascii_uppercase(), moved);
                    }
                }
                _ => drop(members.insert(name, self.value(0))),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.random.below(if depth < 3 { 14 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.random.one_in(2)),
            2 => json!(self.random.below(60)),
            3 => json!(self.random.next().cast_signed()),
            4 => json!(f64::from_bits(self.random.next())),
            5 => json!(self.random.below(60).to_string()),
            6 => json!(format!("1456401416-{}", self.random.below(12))),
            7 => json!(""),
            8 => json!("9".repeat(self.random.below(70))),
            9 => {
                let words = [
                    "a\u{0}\u{1f}\"\\",
                    "号码，一",
                    "yes",
                    "No",
                    " 7 ",
                    "A291",
                    "1, 2，3;",
                    "\u{fffd}\u{10ffff}",
                ];
                json!(*self.random.pick(&words))
            }
            10 => json!(u64::MAX),
            11 => Value::Array((0..self.random.below(4)).map(|_| self.value(depth + 1)).collect()),
            _ => {
                let count = self.random.below(5);
                let member = |source: &mut Source| {
                    let name = source.random.pick(&source.names).clone();
                    (name, source.value(depth + 1))
                };
                Value::Object((0..count).map(|_| member(self)).collect::<Map<_, _>>())
            }
        }
    }

    fn change_bytes(&mut self, body: &mut Vec<u8>) {
        const TOKENS: &[&[u8]] = &[
            b"{",
            b"}",
            b"[",
            b"]",
            b"\"",
            b",",
            b":",
            b"\\",
            b"\\ud800",
            b"\\u0000",
            b"null",
            b"1e999",
            b"-0",
            b"\xff",
            b"\xef\xbb\xbf",
            b"\"callid\":",
            b"[[[[[[[[[[[[[[[[",
            b"\"eventList\":[",
            b" ",
            b"\n",
            b"0",
            b"\"workNo\":\"291\",",
        ];
        for _ in 0..=self.random.below(3) {
            let at = self.random.below(body.len() + 1);
            let end = (at + self.random.below(24)).min(body.len());
            match self.random.below(6) {
                0 => body.truncate(at),
                1 => drop(body.drain(at..end)),
                2 => {
                    let piece = body[at..end].to_vec();
                    let to = self.random.below(body.len() + 1);
                    body.splice(to..to, piece);
                }
                3 if at < body.len() => body[at] ^= 1 << self.random.below(8),
                4 if at < body.len() => body[at] = u8::try_from(self.random.below(256)).expect("a byte"),
                _ => {
                    let token = *self.random.pick(TOKENS);
                    body.splice(at..at, token.iter().copied());
                }
            }
        }
    }
}

/// One agent over all records.
struct Bench {
    source: Source,
    gateway: GatewayName,
    agent_id: AgentId,
    snapshot: AgentSnapshot,
    now: u64,
    sequence: u64,
    /// The last body, for whoever has to find out.
    body: Vec<u8>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    events: u64,
    summaries: u64,
    longest: usize,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        Bench {
            source: Source::new(seed),
            gateway: GatewayName::parse("main").expect("a name"),
            agent_id: AgentId::parse("291").expect("an id"),
            snapshot: AgentSnapshot::default(),
            now: 1_784_529_000_000,
            sequence: 0,
            body: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// One record: received, followed, normalised, written down, each checked against the others.
    fn execute(&mut self, number: u64) {
        let (kind, body) = self.source.body();
        self.body.clone_from(&body);
        self.now +=
            self.source.random.next() % if self.source.random.one_in(2000) { 100_000_000 } else { 20_000 };
        if self.source.random.one_in(5000) {
            (self.snapshot, self.sequence) = (AgentSnapshot::default(), 0);
        }
        let received_at = Timestamp(self.now);
        let parsed = envelope::parse(&body);
        if kind != RecordKind::Lifecycle {
            let text = std::str::from_utf8(&body).ok();
            let text = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text));
            let is_json = text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
            assert!(is_json || parsed.is_err(), "what is not JSON is refused");
        }
        let count = parsed.as_ref().map_or(0, |envelope| envelope.events.len());
        let repeats = self.repeats(kind, count);
        let mut before = self.snapshot.clone();
        if repeats.is_empty() && (count > 0 || kind == RecordKind::Lifecycle) {
            before.mark_due(received_at, Duration::from_secs(86_400));
        }
        let (gateway, agent_id) = (self.gateway.clone(), self.agent_id.clone());
        let record = RecordView {
            spool_id: "k3v9",
            offset: number,
            kind,
            received_at,
            gateway: &gateway,
            agent_id: &agent_id,
            sequence: self.sequence,
            repeats: &repeats,
            before: &before,
            body: &body,
        };
        let made = match normalise(&record) {
            Ok(made) => made,
            Err(_) => {
                assert!(
                    kind == RecordKind::Lifecycle || parsed.is_err(),
                    "what is accepted can be normalised"
                );
                self.tally.refused += 1;
                return;
            }
        };
        self.snapshot.clone_from(&before);
        let fresh = self.receive(kind, received_at, &body, repeats.len());
        assert_eq!(made.len(), repeats.len() + fresh, "a number is allotted to each event");
        let numbers = made.iter().filter(|event| !event.repeat).map(|event| event.sequence);
        assert!((self.sequence..).zip(numbers).all(|(expected, number)| expected == number));
        self.sequence += fresh as u64;
        let mut written = 0;
        for event in &made {
            let json = cloudevent::structured(event);
            assert!(serde_json::from_slice::<IgnoredAny>(&json).is_ok(), "a CloudEvent is JSON");
            written += json.len();
            self.tally.summaries += u64::from(event.data.details.summary.is_some());
        }
        let limit = TIMES_AS_LONG * body.len() + BYTES_OF_AN_EVENT * made.len();
        assert!(written <= limit, "{written} bytes of {} bytes and {} events", body.len(), made.len());
        self.tally.events += made.len() as u64;
        self.tally.longest = self.tally.longest.max(written);
        if number.is_multiple_of(16) {
            let stored = serde_json::to_string(&self.snapshot).expect("a snapshot is JSON");
            assert!(stored.len() <= BYTES_OF_A_SNAPSHOT, "{} bytes of snapshot", stored.len());
            let read: AgentSnapshot = serde_json::from_str(&stored).expect("a snapshot can be read");
            assert_eq!(read, self.snapshot);
            assert_eq!(
                normalise(&record).expect("it was before"),
                made,
                "the same record gives the same events"
            );
        }
    }

    /// Now and then the first events came before.
    fn repeats(&mut self, kind: RecordKind, count: usize) -> Vec<Repeated> {
        if kind == RecordKind::Lifecycle || count == 0 || !self.source.random.one_in(20) {
            return Vec::new();
        }
        let repeated = 1 + self.source.random.below(count);
        let first = |index: usize| EventRef { offset: 1, index: u32::try_from(index).expect("it is small") };
        (0..repeated).map(|index| Repeated { first: first(index), sequence: index as u64 }).collect()
    }

    /// What the receiver does: how many numbers it allots.
    fn receive(&mut self, kind: RecordKind, at: Timestamp, body: &[u8], repeats: usize) -> usize {
        if kind == RecordKind::Lifecycle {
            return 1 + self.snapshot.apply_own(body, at).ended.len();
        }
        let Ok(envelope) = envelope::parse(body) else { return 0 };
        let fresh = envelope.events.iter().skip(repeats);
        fresh
            .map(|event| {
                let report = Report::of(event).filter(|_| !event.is_of_other_than(&self.agent_id));
                1 + self.snapshot.apply_report(report.as_ref(), event.time(at)).ended.len()
            })
            .sum()
    }
}

fn number_from(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn whatever_comes_is_parsed_and_normalised_without_a_panic_and_within_bounds() {
    let executions = number_from("CCRELAY_FUZZ_EXECUTIONS").unwrap_or(SHORT_RUN);
    let seed = number_from("CCRELAY_FUZZ_SEED").unwrap_or(SEED);
    let began = Instant::now();
    let mut bench = Bench::new(seed);
    for number in 1..=executions {
        let result = catch_unwind(AssertUnwindSafe(|| bench.execute(number)));
        let body = bench.body.escape_ascii();
        assert!(result.is_ok(), "execution {number} of seed {seed} failed: {body}");
    }
    let mut told = String::new();
    let Tally { refused, events, summaries, longest } = &bench.tally;
    write!(told, "{executions} executions of seed {seed} in {:.0} s: ", began.elapsed().as_secs_f64())
        .expect("a string");
    write!(told, "{refused} bodies refused, {events} events, {summaries} of them summaries, ")
        .expect("a string");
    write!(told, "at most {longest} bytes from one body").expect("a string");
    if let Some(peak) = usage::own_peak_kib() {
        write!(told, ", {} MiB of memory at most", peak >> 10).expect("a string");
        assert!(peak <= PEAK_KIB, "{told}");
    }
    println!("{told}");
    assert!(*events > executions / 2 && *summaries > executions / 100 && *refused > 0, "{told}");
}
