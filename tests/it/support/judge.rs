//! The judge: what the gateway made and was answered for, against what a broker has.

use std::collections::{BTreeMap, HashMap, HashSet};

use ccrelay::clock::Timestamp;
use ccrelay::event::normalise::{RecordKind, RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, GatewayName, cloudevent};
use ccrelay::simulate::{Fate, LedgerEntry};
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::Value;
use serde_json::value::RawValue;

use super::kafka::Record;

/// One CloudEvent as a consumer got it, in the order of its arrival.
#[derive(Debug, Clone, PartialEq)]
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

    pub(crate) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    fn is_repeat(&self) -> bool {
        self.attribute("ccrelayrepeat") == "true"
    }

    fn is_ours(&self) -> bool {
        self.attribute("type").starts_with("ccrelay.session.")
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

/// What the judge found; all but the first two must be nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    pub(crate) duplicates_same_id: usize,
    pub(crate) lost: Vec<String>,
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
            duplicates_same_id: self.duplicates_same_id,
            ..Verdict::default()
        };
        assert_eq!(*self, expected, "{broker}");
    }
}

/// Compares. Arrivals are in the order in which the broker has them, at least per agent.
pub(crate) fn judge(ledger: &[LedgerEntry], arrivals: &[Arrival]) -> Verdict {
    let mut by_agent: BTreeMap<&str, (Vec<&LedgerEntry>, Vec<&Arrival>)> = BTreeMap::new();
    for entry in ledger {
        by_agent.entry(entry.agent.as_str()).or_default().0.push(entry);
    }
    for arrival in arrivals {
        by_agent.entry(arrival.attribute("subject")).or_default().1.push(arrival);
    }
    let mut verdict = Verdict::default();
    for (agent, (ledger, arrivals)) in by_agent {
        judge_agent(agent, &ledger, &arrivals, &mut verdict);
    }
    verdict
}

fn judge_agent(agent: &str, ledger: &[&LedgerEntry], arrivals: &[&Arrival], verdict: &mut Verdict) {
    let mut first_of: HashMap<&str, &Arrival> = HashMap::new();
    let mut order = Vec::new();
    for arrival in arrivals {
        let id = arrival.attribute("id");
        match first_of.get(id) {
            None => {
                first_of.insert(id, arrival);
                order.push(*arrival);
            }
            Some(first) => {
                verdict.duplicates_same_id += 1;
                // A delivery of ours again is the same to the byte; one of the gateway's own is marked as such.
                if !arrival.is_repeat() && !first.is_repeat() && first != arrival {
                    verdict
                        .not_as_normalised
                        .push(format!("agent {agent}: {id} differs from its first delivery"));
                }
            }
        }
    }
    let made: HashMap<u64, &LedgerEntry> = ledger.iter().map(|entry| (entry.serial, *entry)).collect();
    let mut found = HashSet::new();
    let mut last = None;
    for arrival in order.iter().filter(|arrival| !arrival.is_ours()) {
        let (serial, json) = arrival.original();
        let name = format!("agent {agent}: event {serial} ({})", arrival.attribute("id"));
        match made.get(&serial) {
            Some(entry) if entry.attempts > 0 && *entry.json == *json => {}
            Some(entry) => verdict.unknown.push(format!("{name} is {json}, was made as {}", entry.json)),
            None => verdict.unknown.push(name.clone()),
        }
        if !found.insert(serial) {
            verdict.duplicates_other_id.push(name.clone());
        }
        if last.is_some_and(|last| last >= serial) {
            verdict.out_of_order.push(format!("{name} comes after {last:?}"));
        }
        last = Some(serial);
    }
    for entry in ledger.iter().filter(|entry| entry.fate == Fate::Acknowledged) {
        verdict.acknowledged += 1;
        if !found.contains(&entry.serial) {
            verdict.lost.push(format!("agent {agent}: event {} {}", entry.serial, entry.json));
        }
    }
    check_sequence(agent, &order, verdict);
    check_normalised(agent, &order, verdict);
}

/// Numbers of an agent's events rise by one, our own events included.
fn check_sequence(agent: &str, order: &[&Arrival], verdict: &mut Verdict) {
    for (expected, arrival) in order.iter().enumerate() {
        let sequence: usize = arrival.attribute("sequence").parse().expect("a sequence is a number");
        if sequence != expected {
            let id = arrival.attribute("id");
            verdict.gaps.push(format!("agent {agent}: {id} has number {sequence}, expected {expected}"));
            return;
        }
    }
}

/// Does again what the relay did: each event through the normaliser, from the agent's state after the one before.
fn check_normalised(agent: &str, order: &[&Arrival], verdict: &mut Verdict) {
    let gateway = GatewayName::parse("main").expect("a name");
    let agent_id = AgentId::parse(agent).expect("an id");
    let mut state = AgentSnapshot::default();
    for arrival in order {
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
            before: &state,
            body: body.as_bytes(),
        };
        let event = &normalise(&view).expect("what was delivered can be normalised")[0];
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
            let own: HashMap<String, Value> = serde_json::from_str(&body).expect("our own event");
            state.apply_session(own["type"].as_str().unwrap_or_default(), received_at);
        } else {
            let envelope = ccrelay::event::envelope::parse(body.as_bytes()).expect("a push");
            state.apply(&envelope.events[0], received_at);
        }
    }
}
