//! Events as CloudEvents 1.0: the JSON format ([`structured`]), and attributes and data apart for the binary mode of
//! the Kafka and MQTT bindings ([`attributes`], [`data`]).
//!
//! The names of our extensions: `sequence` (numbers of one agent's events, with leading zeros so that they sort as
//! text, as that extension asks), `partitionkey` (the agent), `recordedtime` (when ccrelay received the event), and
//! `ccrelayrepeat` (only when true: a further delivery of an event that may have been received before).

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::Event;

/// The `Content-Type` of [`structured`].
pub const STRUCTURED_CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";
/// The `datacontenttype` of all events, and so the `Content-Type` of [`data`].
pub const DATA_CONTENT_TYPE: &str = "application/json";
/// The version of CloudEvents.
const SPEC_VERSION: &str = "1.0";
/// The version of all schemas. Members are only ever added, so it has never been another.
pub const SCHEMA_VERSION: u32 = 1;
/// Room for one event without letting the buffer grow: most have about 900 bytes.
const USUAL_LENGTH: usize = 1536;

/// The whole event in the JSON format.
#[must_use]
pub fn structured(event: &Event) -> Vec<u8> {
    structured_with(event, &[])
}

/// The same with further extension attributes.
#[must_use]
pub fn structured_with(event: &Event, extensions: &[(&'static str, Cow<'_, str>)]) -> Vec<u8> {
    to_json(&Structured { event, extensions })
}

/// The context attributes by their names without a prefix, always in this order. `datacontenttype` is not among them:
/// the bindings carry it as the message's content type, which is [`DATA_CONTENT_TYPE`].
#[must_use]
pub fn attributes(event: &Event) -> Vec<(&'static str, Cow<'_, str>)> {
    let mut attributes = vec![
        ("specversion", Cow::Borrowed(SPEC_VERSION)),
        ("id", Cow::Borrowed(event.id.as_str())),
        ("source", Cow::Borrowed(event.source.as_str())),
        ("type", Cow::Borrowed(event.event_type)),
        ("dataschema", Cow::Owned(data_schema(event.event_type))),
        ("subject", Cow::Borrowed(event.agent_id.as_str())),
        ("time", Cow::Owned(event.time.rfc3339().as_str().to_owned())),
        ("sequence", Cow::Owned(sequence(event))),
        ("partitionkey", Cow::Borrowed(event.agent_id.as_str())),
        ("recordedtime", Cow::Owned(event.recorded_time.rfc3339().as_str().to_owned())),
    ];
    if event.repeat {
        attributes.push(("ccrelayrepeat", Cow::Borrowed("true")));
    }
    attributes
}

/// The name of the schema that the data of this type keep. It is a name, not an address: `ccrelay schema` prints what it
/// names, and the number at its end rises when something that consumers may rely on changes.
#[must_use]
pub fn data_schema(event_type: &str) -> String {
    format!("urn:ccrelay:schema:{event_type}:{SCHEMA_VERSION}")
}

/// The data: a JSON object in UTF-8.
#[must_use]
pub fn data(event: &Event) -> Vec<u8> {
    to_json(&event.data)
}

/// The same, written once for all who have this event.
#[must_use]
pub fn shared_data(event: &Event) -> Bytes {
    event.written.0.get_or_init(|| data(event).into()).clone()
}

/// The data of one event as JSON, once they were written. A copy of the event begins without: it may be changed.
#[derive(Default)]
pub struct Written(OnceLock<Bytes>);

impl Clone for Written {
    fn clone(&self) -> Written {
        Written::default()
    }
}

impl PartialEq for Written {
    /// It follows from the data.
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Written").field(&self.0.get().map(Bytes::len)).finish()
    }
}

struct Structured<'a> {
    event: &'a Event,
    extensions: &'a [(&'static str, Cow<'a, str>)],
}

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Structured { event, extensions } = self;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in attributes(event) {
            match name {
                // The only attribute that is not a string in the JSON format.
                "ccrelayrepeat" => map.serialize_entry(name, &event.repeat)?,
                _ => map.serialize_entry(name, &value)?,
            }
        }
        for (name, value) in *extensions {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("datacontenttype", DATA_CONTENT_TYPE)?;
        map.serialize_entry("data", &event.data)?;
        map.end()
    }
}

/// Twenty digits hold every `u64`.
fn sequence(event: &Event) -> String {
    format!("{:020}", event.sequence)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(USUAL_LENGTH);
    serde_json::to_writer(&mut json, value)
        .expect("writing to memory cannot fail, and the types have no maps with other keys than strings");
    json
}

#[cfg(test)]
#[path = "cloudevent_tests.rs"]
mod tests;
