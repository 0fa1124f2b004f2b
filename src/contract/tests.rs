use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::compatibility::breaking_changes;
use super::*;
use crate::clock::Timestamp;
use crate::event::normalise::{RecordKind, RecordView, normalise};
use crate::event::state::AgentSnapshot;
use crate::event::{AgentId, Event, GatewayName, cloudevent, vocabulary};

/// An example of the content of each type of the gateway.
const EXAMPLES: &str = include_str!("../event/testdata/examples.json");
/// The documented flows of events.
const FLOWS: &str = include_str!("../event/testdata/flows.json");
/// The contract that consumers have: replaced when a release is made, and at no other time.
const RELEASED: &str = include_str!("testdata/released.json");

/// Validators of all schemas, in which every object is closed: what the schema does not name must not be there.
struct Validators {
    schemas: boon::Schemas,
    places: HashMap<&'static str, boon::SchemaIndex>,
}

impl Validators {
    fn new() -> Validators {
        let (mut compiler, mut schemas) = (boon::Compiler::new(), boon::Schemas::new());
        compiler.enable_format_assertions();
        let mut places = HashMap::new();
        for name in names() {
            let mut schema = schema(name).unwrap();
            close(&mut schema);
            // Its own name is none that a validator could look up.
            let place = format!("https://schemas.test/{name}.json");
            schema["$id"] = place.as_str().into();
            compiler.add_resource(&place, schema).unwrap();
            // This checks the schema against that of schemas, too.
            let index = compiler.compile(&place, &mut schemas);
            places.insert(name, index.unwrap_or_else(|error| panic!("{name}: {error:#}")));
        }
        Validators { schemas, places }
    }

    /// What is wrong with `value` by the schema of this name.
    fn fault(&self, name: &str, value: &Value) -> Option<String> {
        self.schemas.validate(value, self.places[name]).err().map(|error| format!("{error:#}"))
    }

    /// Checks data and the whole of an event.
    fn assert_valid(&self, event: &Event) {
        let written = cloudevent::structured(event);
        let mut whole: Value = serde_json::from_slice(&written).unwrap();
        let data = whole["data"].clone();
        assert_eq!(self.fault(event.event_type, &data), None, "{}", String::from_utf8_lossy(&written));
        // What data are is for the other schema to say.
        whole["data"] = json!({ "agent": {}, "raw": {} });
        assert_eq!(self.fault(CLOUDEVENT, &whole), None, "{whole:#}");
        assert_eq!(whole["dataschema"], schema(event.event_type).unwrap()["$id"]);
    }
}

fn close(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(close),
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(close);
        }
        _ => {}
    }
}

/// Fails when `value` does not keep the schema of this name, or has a member that it does not name.
pub(crate) fn assert_keeps(name: &str, value: &Value) {
    assert_eq!(Validators::new().fault(name, value), None, "{value:#}");
}

fn events(kind: RecordKind, body: &str) -> Vec<Event> {
    let record = RecordView {
        spool_id: "k3v9",
        offset: 70,
        kind,
        received_at: Timestamp(1_784_529_723_000),
        gateway: &GatewayName::parse("main").unwrap(),
        agent_id: &AgentId::parse("291").unwrap(),
        sequence: 1000,
        repeats: &[],
        before: &AgentSnapshot::default(),
        body: body.as_bytes(),
    };
    normalise(&record).unwrap_or_else(|error| panic!("{error:?}: {body}"))
}

fn push(event_type: &str, content: &Value) -> String {
    push_of(&[(event_type, content.clone())])
}

/// A push of several events, a second apart.
fn push_of(events: &[(&str, Value)]) -> String {
    let time = |index: usize| 1_784_529_722_590 + 1000 * index;
    let event = |(index, (event_type, content)): (usize, &(&str, Value))| {
        json!({
            "eventType": event_type, "eventGenTime": time(index), "workNo": "291", "content": content
        })
    };
    let list: Vec<_> = events.iter().enumerate().map(event).collect();
    json!({ "workNo": "291", "eventList": list }).to_string()
}

/// The flows as pushes: each with one call, so that it has a summary.
fn flows() -> Vec<String> {
    let contents: HashMap<_, _> = examples().into_iter().collect();
    let flows: Value = serde_json::from_str(FLOWS).unwrap();
    let content = |event_type: &str| {
        let mut content = contents[event_type].clone();
        if let Some(id) = content.get_mut("callid") {
            *id = "7-7".into();
        }
        content
    };
    let flow = |flow: &Value| {
        let names = flow["events"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        push_of(&names.map(|name| (name, content(name))).collect::<Vec<_>>())
    };
    flows.as_object().unwrap().values().map(flow).collect()
}

fn examples() -> Vec<(String, Value)> {
    serde_json::from_str::<serde_json::Map<_, _>>(EXAMPLES).unwrap().into_iter().collect()
}

#[test]
fn every_event_keeps_the_schema_of_its_type() {
    let validators = Validators::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut check = |event: Event| {
        validators.assert_valid(&event);
        seen.insert(event.event_type);
    };
    for (event_type, content) in examples() {
        events(RecordKind::Push, &push(&event_type, &content)).into_iter().for_each(&mut check);
    }
    for flow in flows() {
        events(RecordKind::Push, &flow).into_iter().for_each(&mut check);
    }
    events(RecordKind::Push, &push("AgentEvent_Invented", &json!([1]))).into_iter().for_each(&mut check);
    for entry in vocabulary::session_entries() {
        let body = json!({ "type": entry.gateway_type, "reason": "heartbeats_failing" }).to_string();
        events(RecordKind::Lifecycle, &body).into_iter().for_each(&mut check);
    }
    for event_type in vocabulary::event_types() {
        assert!(seen.contains(event_type), "no event of {event_type} was checked");
    }
}

#[test]
fn events_with_hidden_texts_and_copies_of_dead_letters_keep_the_schema_too() {
    let validators = Validators::new();
    let mut mask = crate::route::Mask::default();
    for path in crate::event::texts::all_paths() {
        mask.add(&format!("{path}:hide")).unwrap();
    }
    for (event_type, content) in examples() {
        for mut event in events(RecordKind::Push, &push(&event_type, &content)) {
            mask.apply(&mut event);
            validators.assert_valid(&event);
        }
    }
    let event = events(RecordKind::Push, &push("AgentState_Ready", &Value::Null)).remove(0);
    let note = crate::sink::CopyNote {
        reason: "too_large",
        topic: "events".into(),
        sink: "bus".into(),
        at: Timestamp(1_784_529_723_000),
    };
    let purpose = crate::sink::Purpose::Copy(note.into());
    let message = crate::sink::Message {
        event: event.into(),
        topic: "dead".into(),
        purpose,
        trace: Some(crate::trace::tests::context()),
    };
    let mut copy: Value = serde_json::from_slice(&message.structured()).unwrap();
    assert_eq!(copy["ccrelaydeadletterreason"], "too_large");
    assert_eq!(validators.fault("ccrelay.agent.ready", &copy["data"]), None);
    copy["data"] = json!({ "agent": {}, "raw": {} });
    assert_eq!(validators.fault(CLOUDEVENT, &copy), None);
}

/// What the gateway's releases do to members: other types, nothing, too much.
#[test]
fn events_with_distorted_contents_keep_the_schema_too() {
    let validators = Validators::new();
    let values = [
        json!(7),
        json!("7"),
        json!(""),
        json!(null),
        json!(true),
        json!(-1.5),
        json!([7]),
        json!({"address": "8"}),
    ];
    let mut checked = 0;
    for (event_type, content) in examples() {
        let mut contents: Vec<Value> = values.to_vec();
        for name in content.as_object().into_iter().flat_map(|members| members.keys()) {
            for value in &values {
                let mut distorted = content.clone();
                distorted[name] = value.clone();
                contents.push(distorted);
            }
        }
        for content in contents {
            for event in events(RecordKind::Push, &push(&event_type, &content)) {
                validators.assert_valid(&event);
                checked += 1;
            }
        }
    }
    assert!(checked > 2000, "{checked}");
}

#[test]
fn a_closed_schema_finds_what_is_wrong() {
    let validators = Validators::new();
    let event = events(RecordKind::Push, &push("AgentEvent_Ringing", &json!({ "callid": "1-2" })));
    let good = serde_json::to_value(&event[0].data).unwrap();
    let name = "ccrelay.call.ringing";
    assert_eq!(validators.fault(name, &good), None);
    for (pointer, value) in [
        ("/agent/state", json!("dancing")),
        ("/agent/changed", json!("yes")),
        ("/agent/id", json!("0291")),
        ("/call/id", json!(12)),
        ("/raw/eventType", json!(null)),
        ("/raw", json!({ "eventType": "x", "new": 1 })),
        ("/call", json!({ "new": 1 })),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert!(validators.fault(name, &bad).is_some(), "{pointer}: {bad}");
    }
    let mut bad = good.clone();
    bad["queue"] = json!({});
    assert!(validators.fault(name, &bad).is_some(), "a section that this type has not");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/contract")
}

/// The golden files: what reviewers see of a change, and what consumers can fetch. With `CCRELAY_UPDATE_CONTRACT` set they
/// are written anew, after a look for what would break consumers of the released contract.
#[test]
fn the_contract_in_the_repository_is_that_of_the_program() {
    if std::env::var_os("CCRELAY_UPDATE_CONTRACT").is_some() {
        assert_compatible();
        drop(std::fs::remove_dir_all(folder().join("schemas")));
        std::fs::create_dir_all(folder().join("schemas")).unwrap();
        for (path, document) in files() {
            std::fs::write(folder().join(path), to_text(&document)).unwrap();
        }
    }
    for (path, document) in files() {
        let golden = std::fs::read_to_string(folder().join(&path)).unwrap_or_default();
        assert!(
            golden == to_text(&document),
            "deploy/contract/{path} is out of date: CCRELAY_UPDATE_CONTRACT=1 cargo test --lib contract"
        );
    }
    let stored = std::fs::read_dir(folder().join("schemas")).unwrap().count();
    assert_eq!(stored, names().len(), "there is a schema of a type that is gone");
}

#[track_caller]
fn assert_compatible() {
    let released: Value = serde_json::from_str(RELEASED).unwrap();
    let broken = breaking_changes(&released, &asyncapi());
    assert!(broken.is_empty(), "consumers would break:\n{}", broken.join("\n"));
}

#[test]
fn the_contract_breaks_no_consumer_of_the_released_one() {
    assert_compatible();
}

#[test]
fn each_kind_of_breaking_change_is_found() {
    let old = asyncapi();
    let schema = |name: &str, rest: &str| format!("/components/schemas/{name}{rest}");
    let state = schema("AgentState", "/oneOf");
    type Change = Box<dyn Fn(&mut Value)>;
    let set = |pointer: String, value: Value| -> Change {
        Box::new(move |new| *new.pointer_mut(&pointer).unwrap() = value.clone())
    };
    let remove = |pointer: String, name: &'static str| -> Change {
        Box::new(move |new| {
            new.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        })
    };
    let changes: Vec<(&str, Change)> = vec![
        ("schema CallData.caller: is gone", remove(schema("CallData", "/properties"), "caller")),
        (
            "schema ccrelay.call.offered.queue: is gone",
            remove(schema("ccrelay.call.offered", "/properties"), "queue"),
        ),
        (
            "schema Code.code: type was \"integer\" and is \"string\"",
            set(schema("Code", "/properties/code/type"), json!("string")),
        ),
        (
            "schema CallData.partners[]: type was \"string\" and is \"object\"",
            set(schema("CallData", "/properties/partners/items/type"), json!("object")),
        ),
        (
            "schema CallData.media: $ref was \"#/components/schemas/Code\" and is \"#/components/schemas/Raw\"",
            set(schema("CallData", "/properties/media/$ref"), json!("#/components/schemas/Raw")),
        ),
        (
            "schema SummaryData.startedAt: format was",
            remove(schema("SummaryData", "/properties/startedAt"), "format"),
        ),
        (
            "schema AgentState: the alternative {\"const\":\"signedOut\",\"type\":\"string\"} is gone",
            Box::new(move |new| drop(new.pointer_mut(&state).unwrap().as_array_mut().unwrap().remove(0))),
        ),
        (
            "schema cloudevent.type: the word \"ccrelay.agent.busy\" is gone",
            Box::new(|new| {
                let words = new.pointer_mut("/components/schemas/cloudevent/properties/type/enum").unwrap();
                words.as_array_mut().unwrap().retain(|word| word != "ccrelay.agent.busy");
            }),
        ),
        (
            "schema Raw: content is newly required",
            set(schema("Raw", "/required"), json!(["eventType", "content"])),
        ),
        ("schema Raw: eventType is not required any more", set(schema("Raw", "/required"), json!([]))),
        ("schema ccrelay.agent.ready: is gone", remove("/components/schemas".into(), "ccrelay.agent.ready")),
        (
            "message kafka.ccrelay.agent.ready: is gone",
            remove("/components/messages".into(), "kafka.ccrelay.agent.ready"),
        ),
        (
            "message mqtt.structured: contentType was",
            set("/components/messages/mqtt.structured/contentType".into(), json!("application/json")),
        ),
        (
            "message status: payload: the word \"offline\" is gone",
            set("/components/messages/status/payload/enum".into(), json!(["online", "away"])),
        ),
        ("channel mqtt-agent-state: is gone", remove("/channels".into(), "mqtt-agent-state")),
        ("channel kafka-events: address was", set("/channels/kafka-events/address".into(), json!("events"))),
        (
            "channel kafka-events: message ccrelay.agent.ready is gone",
            remove("/channels/kafka-events/messages".into(), "ccrelay.agent.ready"),
        ),
        ("message status: payload: is gone", remove("/components/messages/status".into(), "payload")),
        (
            "message agent-state: payload: $ref was \"#/components/schemas/agent-state\" and is nothing",
            set("/components/messages/agent-state/payload".into(), json!({ "type": "object" })),
        ),
        (
            "message kafka.ccrelay.agent.ready: payload: is gone",
            remove("/components/messages/kafka.ccrelay.agent.ready".into(), "payload"),
        ),
        (
            "channel mqtt-events: parameter category: the word \"call\" is gone",
            Box::new(|new| {
                let words = new.pointer_mut("/channels/mqtt-events/parameters/category/enum").unwrap();
                words.as_array_mut().unwrap().retain(|word| word != "call");
            }),
        ),
        (
            "channel mqtt-events: parameter agent: is gone",
            remove("/channels/mqtt-events/parameters".into(), "agent"),
        ),
    ];
    for (expected, change) in changes {
        let mut new = old.clone();
        change(&mut new);
        let found = breaking_changes(&old, &new);
        assert!(found.len() == 1 && found[0].starts_with(expected), "expected {expected}\nfound {found:#?}");
    }
}

#[test]
fn what_is_added_or_said_in_other_words_breaks_nobody() {
    let old = asyncapi();
    let mut new = old.clone();
    let schemas = new.pointer_mut("/components/schemas").unwrap();
    schemas["CallData"]["properties"]["new"] = json!({ "type": "string" });
    schemas["CallData"]["properties"]["caller"]["description"] = "Who calls.".into();
    schemas["AgentState"]["oneOf"][0]["description"] = "Away.".into();
    schemas["AgentState"]["oneOf"].as_array_mut().unwrap().push(json!({ "const": "training" }));
    schemas["cloudevent"]["properties"]["type"]["enum"].as_array_mut().unwrap().push("ccrelay.new".into());
    schemas["ccrelay.new"] = json!({ "type": "object" });
    let categories = &mut new["channels"]["mqtt-events"]["parameters"]["category"]["enum"];
    categories.as_array_mut().unwrap().push("new".into());
    new["channels"]["more"] = json!({ "address": "x" });
    assert_eq!(breaking_changes(&old, &new), Vec::<String>::new());
}

#[test]
fn the_contract_says_what_breaks_the_order_of_an_agents_events() {
    let document = asyncapi();
    let said = |pointer: &str| document.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let sequences = [
        "/components/schemas/cloudevent/properties/sequence/description",
        "/components/schemas/kafkaAttributes/properties/ce_sequence/description",
        "/components/schemas/mqttAttributes/properties/sequence/description",
    ];
    for text in ["/info/description"].iter().chain(&sequences).map(|pointer| said(pointer)) {
        for words in ["again", "spool", "late"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

#[test]
fn every_reference_of_the_asyncapi_document_leads_somewhere() {
    fn check(root: &Value, value: &Value, count: &mut usize) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| check(root, value, count)),
            Value::Object(object) => {
                if let Some(Value::String(path)) = object.get("$ref") {
                    assert!(root.pointer(path.strip_prefix('#').unwrap()).is_some(), "{path}");
                    *count += 1;
                }
                object.values().for_each(|value| check(root, value, count));
            }
            _ => {}
        }
    }
    let (document, mut count) = (asyncapi(), 0);
    check(&document, &document, &mut count);
    assert!(count > 4 * vocabulary::event_types().len(), "{count}");
}
