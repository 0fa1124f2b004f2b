//! Tests of the whole way from a body to an event: every known type against its golden file, the documented flows,
//! and arbitrary input. The examples hold the documented contents, made up ones where none is documented.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::data::Verbatim;
use super::json::{Json, Members};
use super::normalise::{RecordKind, RecordView, normalise};
use super::state::{AgentSnapshot, AgentState, CallSnapshot, CallState};
use super::{AgentId, Event, GatewayName, cloudevent, envelope, vocabulary};
use crate::clock::Timestamp;
use crate::metrics::EVENT_CATEGORIES;

const RECEIVED_AT: Timestamp = Timestamp(1_784_529_723_000);
/// All types of the gateway with their category and how they are known.
const TYPES: &str = include_str!("testdata/types.csv");
/// An example of each type's content.
const EXAMPLES: &str = include_str!("testdata/examples.json");
/// The documented flows of events, with the agent's state before and after.
const FLOWS: &str = include_str!("testdata/flows.json");

fn events(before: &AgentSnapshot, kind: RecordKind, body: &[u8]) -> Vec<Event> {
    let gateway = GatewayName::parse("main").unwrap();
    let agent_id = AgentId::parse("291").unwrap();
    let record = RecordView {
        spool_id: "k3v9",
        offset: 70,
        kind,
        received_at: RECEIVED_AT,
        gateway: &gateway,
        agent_id: &agent_id,
        sequence: 1000,
        repeats: &[],
        before,
        body,
    };
    normalise(&record).unwrap_or_else(|error| panic!("{error:?}: {}", String::from_utf8_lossy(body)))
}

fn examples() -> BTreeMap<String, &'static RawValue> {
    serde_json::from_str(EXAMPLES).unwrap()
}

/// The state in which an event of this type comes as a rule.
fn usual_state(event_type: &str) -> AgentSnapshot {
    let state = match event_type {
        "AgentOther_InService" => AgentState::SignedOut,
        "AgentState_CancelNotReady_Success" | "AgentState_Force_Ready" => AgentState::NotReady,
        "AgentState_CancelRest_Success" | "AgentState_Rest_Timeout" => AgentState::Rest,
        "AgentState_CancelWork_Success" => AgentState::WorkingAfterCall,
        "AgentState_Ready" => AgentState::WorkingAfterCall,
        _ if event_type.starts_with("AgentEvent_") => AgentState::Busy,
        _ => AgentState::Ready,
    };
    AgentSnapshot { state, since: Timestamp(1_784_529_600_590), ..AgentSnapshot::default() }
}

#[test]
fn every_known_type_has_its_golden_event() {
    let mut by_category: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (event_type, content) in examples() {
        let body = format!(
            r#"{{"workNo":"291","eventList":[{{"eventType":"{event_type}","eventGenTime":1784529722590,
               "workNo":"291","content":{content}}}]}}"#
        );
        let events = events(&usual_state(&event_type), RecordKind::Push, body.as_bytes());
        assert!(events[1..].iter().all(|event| event.event_type == "ccrelay.call.ended"));
        let golden: Value = serde_json::from_slice(&cloudevent::structured(&events[0])).unwrap();
        assert_eq!(golden["data"]["raw"]["content"].to_string(), to_value(content).to_string());
        by_category.entry(events[0].category).or_default().push(golden);
    }
    for (category, events) in by_category {
        insta::with_settings!({ snapshot_path => "testdata/golden", prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!(category, shorten(events));
        });
    }
}

/// Leaves out what is the same in all golden events.
fn shorten(mut events: Vec<Value>) -> Vec<Value> {
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        let schema = format!("urn:ccrelay:schema:{}:1", event["type"].as_str().unwrap());
        assert_eq!(event.remove("dataschema"), Some(schema.into()));
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", "k3v9-70-0"),
            ("source", "/ccrelay/main/agents/291"),
            ("subject", "291"),
            ("partitionkey", "291"),
            ("sequence", "00000000000000001000"),
            ("time", "2026-07-20T06:42:02.590Z"),
            ("recordedtime", "2026-07-20T06:42:03.000Z"),
            ("datacontenttype", "application/json"),
        ] {
            assert_eq!(event.remove(name), Some(json!(value)), "{name}");
        }
        let data = event["data"].as_object_mut().unwrap();
        assert_eq!(
            data["raw"].as_object_mut().unwrap().remove("eventGenTime"),
            Some(json!(1_784_529_722_590_u64))
        );
        assert_eq!(data["agent"].as_object_mut().unwrap().remove("id"), Some(json!("291")));
        assert_eq!(data["agent"].as_object_mut().unwrap().remove("gateway"), Some(json!("main")));
    }
    events
}

fn to_value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

#[test]
fn the_vocabulary_has_exactly_the_known_types_and_their_categories() {
    let listed: HashMap<&str, (&str, &str)> = TYPES
        .lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split(',');
            let mut next = || fields.next().unwrap();
            (next(), (next(), next()))
        })
        .collect();
    assert_eq!(listed.len(), 100);
    assert_eq!(vocabulary::entries().len(), 100);
    assert_eq!(examples().len(), 100);
    for entry in vocabulary::entries() {
        let (category, confidence) = listed[entry.gateway_type];
        assert_eq!(entry.category, category, "{}", entry.gateway_type);
        assert_eq!(entry.page != "-", confidence == "documented", "{}", entry.gateway_type);
        assert_eq!(vocabulary::lookup(entry.gateway_type), Some(entry));
    }
}

#[test]
fn each_documented_type_has_a_name_of_its_own() {
    let all: Vec<_> = vocabulary::entries()
        .iter()
        .chain(vocabulary::session_entries())
        .chain(vocabulary::derived_entries())
        .collect();
    let mut names = HashSet::new();
    for entry in &all {
        let is_alias = ["AgentMediaEvent_Play_Succd", "AgentState_NotReady"].contains(&entry.gateway_type);
        assert_eq!(names.insert(entry.event_type), !is_alias, "{}", entry.event_type);
        assert!(EVENT_CATEGORIES.contains(&entry.category));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'.' || byte == b'-';
        assert!(entry.event_type.starts_with("ccrelay.") && entry.event_type.bytes().all(plain));
    }
    assert!(EVENT_CATEGORIES.contains(&vocabulary::UNKNOWN_CATEGORY));
}

#[test]
fn misspellings_and_their_corrections_are_one_type() {
    for (one, other) in [
        ("AgentMediaEvent_Play_Succd", "AgentMediaEvent_Play_Succ"),
        ("AgentEvent_MediaSwitch", "AgentEvent_MediaSwith"),
        ("AgentEvent_Agent_Occupied", "AgentEvent_Agent_Occupyed"),
        (" AgentEvent_RequestConnect", "AgentEvent_RequestConnect"),
    ] {
        let name = |event_type| vocabulary::lookup(event_type).unwrap().event_type;
        assert_eq!(name(one), name(other));
    }
    assert_eq!(vocabulary::lookup(""), None);
    assert_eq!(vocabulary::lookup("agentstate_ready"), None);
}

#[test]
fn flows_end_in_the_states_they_mean() {
    let flows: BTreeMap<String, Value> = serde_json::from_str(FLOWS).unwrap();
    assert_eq!(flows.len(), 33);
    for (name, flow) in flows {
        let state = |member: &str| serde_json::from_value::<AgentState>(flow[member].clone()).unwrap();
        let list: Vec<Value> = flow["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event_type| json!({"eventType": event_type, "content": flow_content(event_type.as_str().unwrap())}))
            .collect();
        let before = flow_start(state("before"));
        let body = json!({"workNo": "291", "eventList": list}).to_string();
        let events = events(&before, RecordKind::Push, body.as_bytes());
        let last = &events.last().unwrap().data.agent;
        assert_eq!(last.state, state("after"), "{name}");
        let unexpected = events.iter().filter(|event| event.data.agent.unexpected).count();
        assert_eq!(unexpected as u64, flow["unexpected"].as_u64().unwrap_or(0), "{name}");
        assert_eq!(replayed(&before, &body).state, last.state, "{name}");
    }
}

/// As these two are printed, the conference comes after the end of the call.
#[test]
fn a_call_that_has_been_summed_up_does_not_go_on() {
    let flows: BTreeMap<String, Value> = serde_json::from_str(FLOWS).unwrap();
    for name in ["transfer-talk", "transfer-three-party"] {
        let event = |event_type: &Value| json!({"eventType": event_type, "content": flow_content(event_type.as_str().unwrap())});
        let list: Vec<Value> = flows[name]["events"].as_array().unwrap().iter().map(event).collect();
        let body = json!({"workNo": "291", "eventList": list}).to_string();
        let made = events(&flow_start(AgentState::Busy), RecordKind::Push, body.as_bytes());
        assert_eq!(made.iter().filter(|event| event.event_type == "ccrelay.call.ended").count(), 1, "{name}");
        let last = made.last().unwrap();
        let call = last.data.details.call.as_ref().unwrap();
        assert_eq!((last.event_type, call.state), ("ccrelay.call.conferenced", None), "{name}");
        assert!(last.data.agent.unexpected, "{name}");
    }
}

/// Before the flow the agent is in a call when it is busy.
fn flow_start(state: AgentState) -> AgentSnapshot {
    let call = CallSnapshot::new("1456401416-3", CallState::Connected, Timestamp(1_784_529_600_000));
    let calls = if state == AgentState::Busy { vec![call] } else { vec![] };
    AgentSnapshot { state, since: Timestamp(1), calls, ..AgentSnapshot::default() }
}

fn flow_content(event_type: &str) -> Value {
    let mut content = to_value(examples()[event_type]);
    if content.is_string() {
        content = json!("1456401416-3");
    } else if content.get("callid").is_some() {
        content["callid"] = json!("1456401416-3");
    }
    content
}

/// What the receiver makes of the same push.
fn replayed(before: &AgentSnapshot, body: &str) -> AgentSnapshot {
    let mut snapshot = before.clone();
    for event in envelope::parse(body.as_bytes()).unwrap().events {
        snapshot.apply(&event, RECEIVED_AT);
    }
    snapshot
}

/// The sequence numbers of events, and the number after the last.
fn numbers(made: &[Event]) -> (Vec<u64>, u64) {
    (made.iter().map(|event| event.sequence).collect(), 1000 + made.len() as u64)
}

/// How many numbers the receiver allots to the same push.
fn counted(before: &AgentSnapshot, body: &str) -> u64 {
    let mut snapshot = before.clone();
    let envelope = envelope::parse(body.as_bytes()).unwrap();
    envelope.events.iter().map(|event| 1 + snapshot.apply(event, RECEIVED_AT).ended.len() as u64).sum()
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        "[0-9]{1,14}(-[0-9]{1,3})?".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let names = prop_oneof![
            "[a-z]{0,8}",
            prop::sample::select(vec![
                "callid",
                "callId",
                "feature",
                "mediaAbility",
                "reason",
                "result",
                "caller",
                "partner",
                "cause",
                "addrCalled",
                "address",
                "beginTime",
                "endTime",
                "transfer",
                "changeType",
                "content",
                "eventType",
            ])
            .prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_event() -> impl Strategy<Value = Value> {
    let names: Vec<_> = vocabulary::entries().iter().map(|entry| entry.gateway_type).collect();
    let name = prop_oneof![prop::sample::select(names).prop_map(Value::from), any_json()];
    let event = (name, any_json(), any_json()).prop_map(|(event_type, content, gen_time)| {
        json!({"eventType": event_type, "content": content, "eventGenTime": gen_time})
    });
    prop_oneof![9 => event, 1 => any_json()]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(envelope::parse(&body));
    }

    #[test]
    fn arbitrary_json_is_json_and_never_panics(body in any_json()) {
        let text = body.to_string();
        let result = envelope::parse(text.as_bytes());
        let refused = matches!(result, Err(envelope::EnvelopeError::NotJson { .. }));
        prop_assert!(!refused);
    }

    #[test]
    fn what_is_accepted_is_what_serde_accepts(body in r#"[\[\]{}":,0-9a\\u\-. ]{0,40}"#) {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        let refused = matches!(envelope::parse(body.as_bytes()), Err(envelope::EnvelopeError::NotJson { .. }));
        prop_assert_eq!(is_json, !refused);
    }

    #[test]
    fn members_are_those_that_serde_json_finds(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let mut values: Vec<&RawValue> = vec![serde_json::from_str(&text).unwrap()];
        while let Some(value) = values.pop() {
            let members = Members::of(value.into());
            let Ok(expected) = serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get()) else {
                prop_assert!(members.is_none());
                values.extend(serde_json::from_str::<Vec<&RawValue>>(value.get()).unwrap_or_default());
                continue;
            };
            let members = members.unwrap();
            let names: Vec<_> = expected.keys().map(String::as_str).collect();
            prop_assert!(!members.has_others_than(&names));
            for (name, value) in &expected {
                if names.iter().filter(|other| other.eq_ignore_ascii_case(name)).count() == 1 {
                    prop_assert_eq!(members.value(name).map(Json::get), Some(value.get()));
                }
            }
            values.extend(expected.values());
        }
    }

    #[test]
    fn any_list_of_events_becomes_as_many_valid_cloudevents(list in prop::collection::vec(any_event(), 0..6)) {
        let body = json!({"workNo": "291", "eventList": list}).to_string();
        let made = events(&AgentSnapshot::default(), RecordKind::Push, body.as_bytes());
        prop_assert_eq!(&made, &events(&AgentSnapshot::default(), RecordKind::Push, body.as_bytes()));
        let (numbers, next) = numbers(&made);
        prop_assert_eq!(numbers, (1000..next).collect::<Vec<_>>());
        prop_assert_eq!(next, 1000 + counted(&AgentSnapshot::default(), &body));
        let summaries = made.iter().filter(|event| event.event_type == "ccrelay.call.ended").count();
        prop_assert_eq!(made.len(), list.len() + summaries);
        let made: Vec<_> = made.into_iter().filter(|event| event.event_type != "ccrelay.call.ended").collect();
        for (index, (event, given)) in made.iter().zip(&list).enumerate() {
            let read: Value = serde_json::from_slice(&cloudevent::structured(event)).unwrap();
            prop_assert_eq!(&read["id"], &json!(format!("k3v9-70-{index}")));
            let data: Value = serde_json::from_slice(&cloudevent::data(event)).unwrap();
            prop_assert_eq!(&read["data"], &data);
            if given["eventType"].is_string() {
                let content = event.data.raw.content.as_ref().map(Verbatim::as_str);
                let written = given.get("content").map(Value::to_string);
                prop_assert_eq!(content, written.as_deref());
            } else {
                let whole = event.data.raw.event.as_ref().map(Verbatim::as_str);
                prop_assert_eq!(whole.unwrap_or_default(), given.to_string());
            }
        }
        let after = replayed(&AgentSnapshot::default(), &body);
        let stored = serde_json::to_string(&after).unwrap();
        prop_assert!(stored.len() < 6000);
        prop_assert_eq!(serde_json::from_str::<AgentSnapshot>(&stored).unwrap(), after);
    }
}
