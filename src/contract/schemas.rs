//! JSON Schemas of data, of the whole event, and of what is retained.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::event::EventData;
use crate::event::cloudevent::{self, data_schema};
use crate::event::content::sections;
use crate::event::vocabulary::{self, Entry};
use crate::sink::mqtt::state_schema;
use crate::trace::{PATTERN, TRACEPARENT};

/// The name of the schema of the whole CloudEvent.
pub const CLOUDEVENT: &str = "cloudevent";
/// The name of the schema of an agent's retained state.
pub const STATE: &str = "agent-state";
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Sections of events of ccrelay's own about sessions, and of those that follow from others.
const SESSION_SECTIONS: &[&str] = &["session"];
const DERIVED_SECTIONS: &[&str] = &["call", "queue", "summary"];

/// The names of all schemas: each type's, and the two others.
#[must_use]
pub fn names() -> Vec<&'static str> {
    [STATE, CLOUDEVENT].into_iter().chain(vocabulary::event_types()).collect()
}

/// The schema of this name: that of the data of a type, or one of the two others.
#[must_use]
pub fn schema(name: &str) -> Option<Value> {
    let known = names().into_iter().find(|known| *known == name)?;
    let (title, schema, definitions) = match known {
        CLOUDEVENT => {
            ("Any event of ccrelay as a CloudEvent in structured mode".into(), cloud_event(), Map::new())
        }
        STATE => {
            let (schema, definitions) = state();
            ("The state of an agent as an MQTT broker retains it".into(), schema, definitions)
        }
        event_type => {
            let (schema, definitions) = data(event_type);
            (format!("Data of {event_type}"), schema, definitions)
        }
    };
    let mut whole = Map::new();
    whole.insert("$schema".into(), DIALECT.into());
    whole.insert("$id".into(), data_schema(known).into());
    whole.insert("title".into(), title.into());
    if let Value::Object(mut schema) = schema {
        whole.append(&mut schema);
    }
    if !definitions.is_empty() {
        whole.insert("$defs".into(), definitions.into());
    }
    Some(Value::Object(whole))
}

/// The schema of the data of one type, and the definitions that it refers to.
pub(super) fn data(event_type: &str) -> (Value, Map<String, Value>) {
    let (mut schema, mut definitions) = generate(EventData::json_schema);
    let members = members(event_type);
    schema.insert("description".into(), description(event_type).into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| members.contains(name.as_str()));
    }
    keep_used(&schema, &mut definitions);
    (schema.into(), definitions)
}

/// The schema of the retained state, and the definitions that it refers to.
pub(super) fn state() -> (Value, Map<String, Value>) {
    let (schema, mut definitions) = generate(state_schema);
    keep_used(&schema, &mut definitions);
    (schema.into(), definitions)
}

/// Where an event of this type comes from.
pub(super) fn description(event_type: &str) -> String {
    let of_type = |entry: &&Entry| entry.event_type == event_type;
    let names: Vec<_> =
        vocabulary::entries().iter().filter(of_type).map(|entry| entry.gateway_type).collect();
    if !names.is_empty() {
        return format!("The gateway's {}.", names.join(", "));
    }
    let text = match event_type {
        vocabulary::UNKNOWN_TYPE => {
            "An event of the gateway that ccrelay does not know: raw says what it is."
        }
        _ if vocabulary::session_entries().iter().any(|entry| of_type(&entry)) => {
            "ccrelay's own, about the agent's session at the gateway."
        }
        _ => "Made by ccrelay beside the event that brings it about.",
    };
    text.to_owned()
}

/// The members that the data of this type can have.
fn members(event_type: &str) -> BTreeSet<&'static str> {
    let of_type = |entry: &&Entry| entry.event_type == event_type;
    let mut members = BTreeSet::from(["agent", "raw"]);
    for entry in vocabulary::entries().iter().filter(of_type) {
        members.extend(sections(entry.content));
    }
    if vocabulary::session_entries().iter().any(|entry| of_type(&entry)) {
        members.extend(SESSION_SECTIONS);
    }
    if vocabulary::derived_entries().iter().any(|entry| of_type(&entry)) {
        members.extend(DERIVED_SECTIONS);
    }
    members
}

/// A schema without its definitions, and these.
fn generate(make: fn(&mut SchemaGenerator) -> Schema) -> (Map<String, Value>, Map<String, Value>) {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = make(&mut generator).to_value();
    let mut definitions = generator.take_definitions(true);
    never_null(&mut schema);
    definitions.values_mut().for_each(never_null);
    let Value::Object(mut schema) = schema else { return (Map::new(), definitions) };
    schema.remove("title");
    (schema, definitions)
}

/// Members without a value are left out and never null, which the generator cannot know.
fn never_null(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(never_null),
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(any)) = object.get_mut("anyOf") {
                any.retain(|one| *one != json!({ "type": "null" }));
                if let [Value::Object(only)] = &any[..] {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(never_null);
        }
        _ => {}
    }
}

/// Takes out the definitions that nothing refers to, directly or through others.
fn keep_used(root: &Map<String, Value>, definitions: &mut Map<String, Value>) {
    let (mut used, mut open) = (BTreeSet::new(), Vec::new());
    root.values().for_each(|value| references(value, &mut open));
    while let Some(name) = open.pop() {
        if used.insert(name.clone())
            && let Some(definition) = definitions.get(&name)
        {
            references(definition, &mut open);
        }
    }
    definitions.retain(|name, _| used.contains(name));
}

/// The names of the definitions that a schema refers to.
fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        Value::Object(object) => {
            let name = object.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            found.extend(name.map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

/// The whole event in structured mode.
pub(super) fn cloud_event() -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for Attribute { name, schema, always } in attributes() {
        properties.insert(name.to_owned(), schema);
        required.extend(always.then_some(name));
    }
    let content_type = "The content type of the message in binary mode.";
    properties.insert(
        "datacontenttype".into(),
        json!({ "const": cloudevent::DATA_CONTENT_TYPE, "description": content_type }),
    );
    let data = "As the schema says that dataschema names.";
    properties.insert(
        "data".into(),
        json!({ "type": "object", "required": ["agent", "raw"], "description": data }),
    );
    required.extend(["datacontenttype", "data"]);
    json!({ "type": "object", "properties": properties, "required": required })
}

/// One context attribute.
pub(super) struct Attribute {
    /// Its name in structured mode.
    pub(super) name: &'static str,
    /// Its value in structured mode. In binary mode values are texts.
    pub(super) schema: Value,
    /// Whether every event has it.
    pub(super) always: bool,
}

/// The attributes beside `datacontenttype`.
pub(super) fn attributes() -> Vec<Attribute> {
    let always = |name, schema| Attribute { name, schema, always: true };
    let sometimes = |name, schema| Attribute { name, schema, always: false };
    let text = |description| json!({ "type": "string", "description": description });
    let time = |description| json!({ "type": "string", "format": "date-time", "description": description });
    let fits =
        |pattern, description| json!({ "type": "string", "pattern": pattern, "description": description });
    let types = json!({
        "type": "string", "enum": vocabulary::event_types(),
        "description": "What happened. More types may come.",
    });
    let number = "The number of the event among those of its agent in one spool: the first part of id, before the first hyphen, \
        names the spool, and in a new one numbers start again. An event that comes late has a lower number than the one before it.";
    let repeat = json!({
        "const": true,
        "description": "Only when true: the gateway sent the event again, and the id is that of the first time.",
    });
    vec![
        always("specversion", json!({ "const": "1.0", "description": "The version of CloudEvents." })),
        always("id", text("The same at every delivery of the same event, and of no other.")),
        always("source", fits("^/ccrelay/[a-z0-9-]+/agents/[0-9]+$", "Gateway and agent.")),
        always("type", types),
        always(
            "dataschema",
            fits(r"^urn:ccrelay:schema:[a-z.-]+:[0-9]+$", "The name of the schema of data."),
        ),
        always("subject", text("The agent's id.")),
        always("time", time("When it happened: the gateway's time where it says one, or else recordedtime.")),
        always("sequence", fits("^[0-9]{20}$", number)),
        always("partitionkey", text("The agent's id.")),
        always("recordedtime", time("When ccrelay received it.")),
        sometimes("ccrelayrepeat", repeat),
        sometimes(
            TRACEPARENT,
            fits(
                PATTERN,
                "Only while traces are on: the span that brought the event, after W3C Trace Context.",
            ),
        ),
        sometimes("ccrelaydeadletterreason", text("Only of copies of dead letters: why it was set aside.")),
        sometimes("ccrelaydeadlettertopic", text("Only of copies of dead letters: the topic it was for.")),
        sometimes("ccrelaydeadlettersink", text("Only of copies of dead letters: the sink that refused it.")),
        sometimes("ccrelaydeadlettertime", time("Only of copies of dead letters: when it was set aside.")),
    ]
}
