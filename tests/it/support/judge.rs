//! The judge: what the gateway made and was answered for, against what a broker has. It hears one arrival after another
//! and keeps little of each, so that it can follow a run of any length.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use ccrelay::clock::Timestamp;
use ccrelay::event::normalise::{RecordKind, RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, Event, GatewayName, cloudevent};
use ccrelay::simulate::{Fate, LedgerEntry};
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::Value;
use serde_json::value::RawValue;

use super::kafka::Record;

/// One CloudEvent as a consumer got it, in the order of its arrival.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Arrival {
    attributes: BTreeMap<String, String>,
    data: Vec<u8>,
}

impl Arrival {
    pub(crate) fn from_kafka(record: &Record) -> Arrival {
        let attributes = record
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("ce_")?.to_owned(), value.clone())));
        let arrival = Arrival { attributes: attributes.collect(), data: record.payload.clone() };
        assert_eq!(record.key, arrival.attribute("partitionkey"), "the key is the agent");
        arrival
    }

    pub(crate) fn from_mqtt(publish: &Publish) -> Arrival {
        let properties = publish.properties.clone().unwrap_or_default();
        let attributes = properties.user_properties.into_iter().collect();
        Arrival { attributes, data: publish.payload.to_vec() }
    }

    /// From a line of a jsonl sink.
    pub(crate) fn from_json_line(line: &str) -> Arrival {
        let members: HashMap<String, Box<RawValue>> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |value: &RawValue| serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned());
        let attributes = members.iter().filter(|(name, _)| *name != "data" && *name != "datacontenttype");
        Arrival {
            attributes: attributes.map(|(name, value)| (name.clone(), text(value))).collect(),
            data: members["data"].get().as_bytes().to_vec(),
        }
    }

    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The gateway sent it a second time.
    pub(crate) fn is_repeat(&self) -> bool {
        self.attribute("ccrelayrepeat") == "true"
    }

    fn is_ours(&self) -> bool {
        self.attribute("type").starts_with("ccrelay.session.")
    }

    /// The summary of a call, which follows the event that ended it.
    fn is_summary(&self) -> bool {
        self.attribute("type") == "ccrelay.call.ended"
    }

    /// The event as the gateway made it, and its number there. The simulator marks its events, so the whole is kept.
    fn original(&self) -> (u64, String) {
        let event = self.raw()["event"].get().to_owned();
        let members: HashMap<String, Value> =
            serde_json::from_str(&event).expect("an event is a JSON object");
        let serial = members.get("simulatorSerial").and_then(Value::as_u64);
        (serial.unwrap_or_else(|| panic!("an event that the gateway never made: {self:?}")), event)
    }

    /// The members of `data.raw`, byte for byte.
    fn raw(&self) -> HashMap<String, Box<RawValue>> {
        let data: HashMap<String, Box<RawValue>> =
            serde_json::from_slice(&self.data).expect("data are a JSON object");
        serde_json::from_str(data["raw"].get()).expect("raw is a JSON object")
    }
}

/// What the judge found; all but the numbers must be nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    /// Given to a poll, which asks for no receipt.
    pub(crate) polled: usize,
    pub(crate) duplicates_same_id: usize,
    pub(crate) lost: Vec<String>,
    /// Those of a poll. One whose answer is on its way when the relay is killed is nobody's.
    pub(crate) lost_polled: Vec<String>,
    pub(crate) unknown: Vec<String>,
    pub(crate) out_of_order: Vec<String>,
    pub(crate) duplicates_other_id: Vec<String>,
    pub(crate) not_as_normalised: Vec<String>,
    pub(crate) gaps: Vec<String>,
}

impl Verdict {
    pub(crate) fn assert_flawless(&self, broker: &str) {
        let Verdict { acknowledged, duplicates_same_id, .. } = self;
        println!(
            "{broker}: {acknowledged} events acknowledged, {duplicates_same_id} delivered again with the same id"
        );
        let expected = Verdict {
            acknowledged: self.acknowledged,
            polled: self.polled,
            duplicates_same_id: self.duplicates_same_id,
            ..Verdict::default()
        };
        assert_eq!(*self, expected, "{broker}");
    }
}

/// Hears arrivals in the order in which the broker has them, at least per agent.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    agents: BTreeMap<String, Heard>,
    /// What was found without the ledger.
    verdict: Verdict,
}

/// What was heard of one agent.
#[derive(Debug, Default)]
struct Heard {
    /// By id: a digest of the first delivery, and whether that was a repeat of the gateway's.
    first_of: HashMap<Box<str>, (u64, bool)>,
    /// By number at the gateway: a digest of the event, and the id it had.
    events: HashMap<u64, (u64, Box<str>)>,
    last: Option<u64>,
    /// How many different ids.
    count: usize,
    has_gap: bool,
    /// The agent's state after the last event, as the relay must have had it.
    state: AgentSnapshot,
    /// The summaries that must follow the last event, with their ids.
    summaries: VecDeque<(String, Event)>,
}

/// Compares what is complete.
pub(crate) fn judge(ledger: &[LedgerEntry], arrivals: &[Arrival]) -> Verdict {
    let mut judge = Judge::default();
    for arrival in arrivals {
        judge.hear(arrival);
    }
    judge.verdict(ledger)
}

impl Judge {
    pub(crate) fn hear(&mut self, arrival: &Arrival) {
        let agent = arrival.attribute("subject");
        if !self.agents.contains_key(agent) {
            self.agents.insert(agent.to_owned(), Heard::default());
        }
        let heard = self.agents.get_mut(agent).expect("it was just put there");
        heard.hear(agent, arrival, &mut self.verdict);
    }

    /// What there is to say so far. Events that the gateway makes meanwhile are not missed.
    pub(crate) fn verdict(&self, ledger: &[LedgerEntry]) -> Verdict {
        let mut verdict = self.verdict.clone();
        let mut made: HashMap<(&str, u64), &LedgerEntry> = HashMap::with_capacity(ledger.len());
        for entry in ledger {
            let agent = entry.agent.as_str();
            made.insert((agent, entry.serial), entry);
            let (number, lost) = match entry.fate {
                Fate::Acknowledged => (&mut verdict.acknowledged, &mut verdict.lost),
                Fate::Polled => (&mut verdict.polled, &mut verdict.lost_polled),
                Fate::Waiting | Fate::Discarded => continue,
            };
            *number += 1;
            if !self.agents.get(agent).is_some_and(|heard| heard.events.contains_key(&entry.serial)) {
                lost.push(format!("agent {agent}: event {} {}", entry.serial, entry.json));
            }
        }
        for (agent, heard) in &self.agents {
            for (id, _) in &heard.summaries {
                verdict.lost.push(format!("agent {agent}: summary {id}"));
            }
            for (serial, (digest, id)) in &heard.events {
                match made.get(&(agent.as_str(), *serial)) {
                    Some(entry) if entry.attempts > 0 && digest_of(&*entry.json) == *digest => {}
                    Some(entry) => verdict.unknown.push(format!(
                        "agent {agent}: event {serial} ({id}) is not as it was made: {}",
                        entry.json
                    )),
                    None => verdict.unknown.push(format!("agent {agent}: event {serial} ({id})")),
                }
            }
        }
        verdict
    }
}

impl Heard {
    fn hear(&mut self, agent: &str, arrival: &Arrival, verdict: &mut Verdict) {
        let (id, digest) = (arrival.attribute("id"), digest_of(arrival));
        if let Some((first, was_repeat)) = self.first_of.get(id) {
            verdict.duplicates_same_id += 1;
            // A delivery of ours again is the same to the byte; one of the gateway's own is marked as such.
            if !arrival.is_repeat() && !was_repeat && *first != digest {
                verdict
                    .not_as_normalised
                    .push(format!("agent {agent}: {id} differs from its first delivery"));
            }
            return;
        }
        self.first_of.insert(id.into(), (digest, arrival.is_repeat()));
        self.check_sequence(agent, arrival, verdict);
        if arrival.is_summary() {
            self.check_summary(agent, arrival, verdict);
            return;
        }
        self.check_normalised(agent, arrival, verdict);
        if !arrival.is_ours() {
            self.check_original(agent, arrival, verdict);
        }
    }

    fn check_original(&mut self, agent: &str, arrival: &Arrival, verdict: &mut Verdict) {
        let id = arrival.attribute("id");
        let (serial, json) = arrival.original();
        let name = format!("agent {agent}: event {serial} ({id})");
        if let Some((_, before)) = self.events.insert(serial, (digest_of(json.as_str()), id.into())) {
            verdict.duplicates_other_id.push(format!("{name} was {before} before"));
        }
        if self.last.is_some_and(|last| last >= serial) {
            verdict.out_of_order.push(format!("{name} comes after {:?}", self.last));
        }
        self.last = Some(serial);
    }

    /// A summary comes right after the event that ended its call, and says what that event's normalising says.
    fn check_summary(&mut self, agent: &str, arrival: &Arrival, verdict: &mut Verdict) {
        let name = format!("agent {agent}: summary {}", arrival.attribute("id"));
        match self.summaries.pop_front() {
            None => verdict.unknown.push(name),
            Some((id, expected)) => {
                let same = id == arrival.attribute("id")
                    && cloudevent::data(&expected) == arrival.data
                    && expected.time.to_string() == arrival.attribute("time");
                if !same {
                    let found = String::from_utf8_lossy(&arrival.data).into_owned();
                    verdict
                        .not_as_normalised
                        .push(format!("{name}: expected {id} {expected:?}, found {found}"));
                }
            }
        }
    }

    /// Numbers of an agent's events rise by one, our own events and summaries included.
    fn check_sequence(&mut self, agent: &str, arrival: &Arrival, verdict: &mut Verdict) {
        let expected = self.count;
        self.count += 1;
        let sequence: usize = arrival.attribute("sequence").parse().expect("a sequence is a number");
        if sequence != expected && !self.has_gap {
            self.has_gap = true;
            let id = arrival.attribute("id");
            verdict.gaps.push(format!("agent {agent}: {id} has number {sequence}, expected {expected}"));
        }
    }

    /// Does again what the relay did: the event through the normaliser, from the agent's state after the one before.
    fn check_normalised(&mut self, agent: &str, arrival: &Arrival, verdict: &mut Verdict) {
        let gateway = GatewayName::parse("main").expect("a name");
        let agent_id = AgentId::parse(agent).expect("an id");
        let received_at: Timestamp = arrival.attribute("recordedtime").parse().expect("a time");
        let (kind, body) = if arrival.is_ours() {
            (RecordKind::Lifecycle, arrival.raw()["content"].get().to_owned())
        } else {
            (RecordKind::Push, format!("{{\"workNo\":\"{agent}\",\"eventList\":[{}]}}", arrival.original().1))
        };
        let view = RecordView {
            spool_id: "x",
            offset: 1,
            kind,
            received_at,
            gateway: &gateway,
            agent_id: &agent_id,
            sequence: 0,
            repeats: &[],
            before: &self.state,
            body: body.as_bytes(),
        };
        let mut made = normalise(&view).expect("what was delivered can be normalised").into_iter();
        let event = &made.next().expect("one event at least");
        for (id, _) in self.summaries.drain(..) {
            verdict.lost.push(format!("agent {agent}: summary {id}"));
        }
        let id = arrival.attribute("id");
        self.summaries.extend(made.enumerate().map(|(n, summary)| (format!("{id}-{}", n + 1), summary)));
        let same = cloudevent::data(event) == arrival.data
            && event.event_type == arrival.attribute("type")
            && event.time.to_string() == arrival.attribute("time");
        // A gateway's own repeat that came first is the one case in which the state before is not known here.
        if !same && !arrival.is_repeat() {
            let expected = String::from_utf8_lossy(&cloudevent::data(event)).into_owned();
            let found = String::from_utf8_lossy(&arrival.data).into_owned();
            verdict.not_as_normalised.push(format!("agent {agent}: expected {expected}, found {found}"));
        }
        if kind == RecordKind::Lifecycle {
            self.state.apply_own(body.as_bytes(), received_at);
        } else {
            let envelope = ccrelay::event::envelope::parse(body.as_bytes()).expect("a push");
            self.state.apply(&envelope.events[0], received_at);
        }
    }
}

fn digest_of<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
