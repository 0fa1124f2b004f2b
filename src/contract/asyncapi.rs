//! The AsyncAPI 3 document: where events are found with the default topics, and what they look like there.

use serde_json::{Map, Value, json};

use super::schemas::{self, CLOUDEVENT, STATE};
use crate::event::cloudevent::{DATA_CONTENT_TYPE, SCHEMA_VERSION, STRUCTURED_CONTENT_TYPE};
use crate::event::vocabulary;
use crate::metrics::EVENT_CATEGORIES;
use crate::trace::TRACEPARENT;

const DESCRIPTION: &str = "Events of the agents of Huawei CEC/AICC CC-Gateways, as ccrelay publishes them. Topics are \
    those of a configuration that names none; routes can lead events elsewhere. Delivery is at least once: an event that \
    comes again has the id that it had. Each agent's events come in the order of sequence, and an agent is on one Kafka \
    partition. Two things break that order: an event that was set aside and is delivered again comes late, after newer \
    ones of its agent; and in a new spool, as after the loss of a disk, numbers start again, which the first part of id shows. \
    Members, types and words may be added at any time: pass over what you do not know. Nothing else changes within a version.";
const MODES: &str = "In binary mode, which is the default, the attributes of the CloudEvent are beside the payload, which is \
    its data; in structured mode the payload is the whole CloudEvent. The content type tells which.";
const STRUCTURED: &str = "structured";

/// The brokers, with what is different about them.
struct Binding {
    /// Server, and beginning of names.
    name: &'static str,
    host: &'static str,
    protocol: &'static str,
    /// What stands before the names of attributes.
    prefix: &'static str,
    /// What attributes are there.
    place: &'static str,
}

const BINDINGS: [Binding; 2] = [
    Binding {
        name: "kafka",
        host: "kafka.example:9092",
        protocol: "kafka",
        prefix: "ce_",
        place: "record headers",
    },
    Binding {
        name: "mqtt",
        host: "broker.example:8883",
        protocol: "secure-mqtt",
        prefix: "",
        place: "user properties of MQTT 5",
    },
];

/// The document.
#[must_use]
pub fn asyncapi() -> Value {
    let mut servers = Map::new();
    let (mut messages, mut schemas) = (Map::new(), Map::new());
    for binding in &BINDINGS {
        servers.insert(binding.name.into(), json!({ "host": binding.host, "protocol": binding.protocol }));
        schemas.insert(format!("{}Attributes", binding.name), headers(binding));
        for event_type in vocabulary::event_types() {
            messages.insert(message_name(binding, event_type), binary(binding, event_type));
        }
        messages.insert(
            message_name(binding, STRUCTURED),
            json!({
                "name": STRUCTURED,
                "title": "Any event in structured mode",
                "contentType": STRUCTURED_CONTENT_TYPE,
                "payload": reference("schemas", CLOUDEVENT),
            }),
        );
    }
    for event_type in vocabulary::event_types() {
        insert_with(&mut schemas, event_type, schemas::data(event_type));
    }
    insert_with(&mut schemas, STATE, schemas::state());
    insert_with(&mut schemas, CLOUDEVENT, (schemas::cloud_event(), Map::new()));
    messages.insert(
        STATE.into(),
        json!({
            "name": STATE,
            "title": "The state of one agent after its last event",
            "contentType": DATA_CONTENT_TYPE,
            "payload": reference("schemas", STATE),
        }),
    );
    messages.insert(
        "status".into(),
        json!({
            "name": "status",
            "title": "Whether a sink of ccrelay is connected",
            "contentType": "text/plain",
            "payload": { "type": "string", "enum": ["online", "offline"] },
        }),
    );
    let channels = channels();
    let operations: Map<_, _> =
        channels.keys().map(|name| (format!("send-{name}"), operation(name))).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "ccrelay",
            "version": format!("{SCHEMA_VERSION}.0.0"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "defaultContentType": DATA_CONTENT_TYPE,
        "servers": servers,
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// A schema and its definitions, which have no name in common with another's that are not the same.
fn insert_with(
    schemas: &mut Map<String, Value>,
    name: &str,
    (schema, definitions): (Value, Map<String, Value>),
) {
    schemas.insert(name.to_owned(), schema);
    schemas.extend(definitions);
    // References of schemas are to their own definitions; here all stand in one place.
    for schema in schemas.values_mut() {
        move_references(schema);
    }
}

fn move_references(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(move_references),
        Value::Object(object) => {
            if let Some(Value::String(path)) = object.get_mut("$ref") {
                *path = path.replace("#/$defs/", "#/components/schemas/");
            }
            object.values_mut().for_each(move_references);
        }
        _ => {}
    }
}

fn reference(of: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{of}/{name}") })
}

fn message_name(binding: &Binding, event_type: &str) -> String {
    format!("{}.{event_type}", binding.name)
}

fn binary(binding: &Binding, event_type: &str) -> Value {
    json!({
        "name": event_type,
        "title": event_type,
        "summary": schemas::description(event_type),
        "contentType": DATA_CONTENT_TYPE,
        "headers": reference("schemas", &format!("{}Attributes", binding.name)),
        "payload": reference("schemas", event_type),
    })
}

/// The attributes in binary mode: texts, all of them.
fn headers(binding: &Binding) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for mut attribute in schemas::attributes() {
        let name = format!("{}{}", binding.prefix, attribute.name);
        if attribute.schema.get("const") == Some(&Value::Bool(true)) {
            attribute.schema["const"] = "true".into();
        }
        required.extend(attribute.always.then(|| name.clone()));
        // Where instrumentation of clients looks for it, which knows nothing of CloudEvents.
        if attribute.name == TRACEPARENT {
            properties.insert(TRACEPARENT.to_owned(), attribute.schema.clone());
        }
        properties.insert(name, attribute.schema);
    }
    let description = format!("The attributes of a CloudEvent in binary mode: {}.", binding.place);
    json!({ "type": "object", "description": description, "properties": properties, "required": required })
}

fn channels() -> Map<String, Value> {
    let agent = json!({ "description": "The agent's id: 1 to 10 digits." });
    let gateway = json!({ "description": "The gateway's name: a-z, 0-9 and -." });
    let category = json!({ "description": "The group of the type.", "enum": EVENT_CATEGORIES });
    let [kafka, mqtt] = &BINDINGS;
    let channel =
        |binding: &Binding, address: &str, description: &str, messages: Value, parameters: Value| {
            let mut channel = json!({
                "address": address,
                "description": description,
                "servers": [{ "$ref": format!("#/servers/{}", binding.name) }],
                "messages": messages,
            });
            if parameters != json!({}) {
                channel["parameters"] = parameters;
            }
            channel
        };
    let retained = "Retained: one message for each agent, empty when the agent is signed out.";
    let entries = [
        (
            "kafka-events",
            channel(
                kafka,
                "ccrelay.events",
                &format!("Every event; the key is the agent's id. {MODES}"),
                events(kafka),
                json!({}),
            ),
        ),
        (
            "mqtt-events",
            channel(
                mqtt,
                "ccrelay/{gateway}/agents/{agent}/events/{category}",
                &format!("Every event. {MODES}"),
                events(mqtt),
                json!({ "gateway": gateway, "agent": agent, "category": category }),
            ),
        ),
        (
            "mqtt-agent-state",
            channel(
                mqtt,
                "ccrelay/{gateway}/agents/{agent}/state",
                &format!("Where state_topic is configured so. {retained}"),
                json!({ STATE: reference("messages", STATE) }),
                json!({ "gateway": gateway, "agent": agent }),
            ),
        ),
        (
            "mqtt-status",
            channel(
                mqtt,
                "ccrelay/{clientId}/status",
                "Where status_topic is configured so. Retained, with a last will.",
                json!({ "status": reference("messages", "status") }),
                json!({ "clientId": { "description": "client_id of the sink; ccrelay-<sink> when it has none." } }),
            ),
        ),
    ];
    entries.into_iter().map(|(name, channel)| (name.to_owned(), channel)).collect()
}

/// References to all messages of events on this broker.
fn events(binding: &Binding) -> Value {
    let names = vocabulary::event_types().into_iter().chain([STRUCTURED]);
    names
        .map(|name| (name.to_owned(), reference("messages", &message_name(binding, name))))
        .collect::<Map<_, _>>()
        .into()
}

fn operation(channel: &str) -> Value {
    json!({ "action": "send", "channel": { "$ref": format!("#/channels/{channel}") } })
}
