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
use crate::clock::Rfc3339Text;

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

/// An extension attribute beside those of every event.
pub type Extension<'a> = (&'static str, Cow<'a, str>);

/// The whole event in the JSON format.
#[must_use]
pub fn structured(event: &Event) -> Vec<u8> {
    structured_with(event, Vec::new())
}

/// The same with further extension attributes.
#[must_use]
pub fn structured_with<'a>(event: &'a Event, extensions: Vec<Extension<'a>>) -> Vec<u8> {
    to_json(&Structured(attributes_with(event, extensions)))
}

/// The context attributes by their names without a prefix, always in this order. `datacontenttype` is not among them:
/// the bindings carry it as the message's content type, which is [`DATA_CONTENT_TYPE`].
#[must_use]
pub fn attributes(event: &Event) -> Attributes<'_> {
    attributes_with(event, Vec::new())
}

/// The same with further extension attributes, which come last.
#[must_use]
pub fn attributes_with<'a>(event: &'a Event, extensions: Vec<Extension<'a>>) -> Attributes<'a> {
    Attributes {
        event,
        data_schema: data_schema(event.event_type),
        time: event.time.rfc3339(),
        sequence: Sequence::of(event.sequence),
        recorded_time: event.recorded_time.rfc3339(),
        extensions,
    }
}

/// Attributes of an event as text. Every message has them, so hardly one of them is a piece of memory of its own.
#[derive(Debug)]
pub struct Attributes<'a> {
    event: &'a Event,
    data_schema: String,
    time: Rfc3339Text,
    sequence: Sequence,
    recorded_time: Rfc3339Text,
    extensions: Vec<Extension<'a>>,
}

impl Attributes<'_> {
    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let event = self.event;
        let always = [
            ("specversion", SPEC_VERSION),
            ("id", &*event.id),
            ("source", &*event.source),
            ("type", event.event_type),
            ("dataschema", &*self.data_schema),
            ("subject", event.agent_id.as_str()),
            ("time", self.time.as_str()),
            ("sequence", self.sequence.as_str()),
            ("partitionkey", event.agent_id.as_str()),
            ("recordedtime", self.recorded_time.as_str()),
        ];
        let repeat = event.repeat.then_some(("ccrelayrepeat", "true"));
        let extensions = self.extensions.iter().map(|(name, value)| (*name, &**value));
        always.into_iter().chain(repeat).chain(extensions)
    }
}

/// A sequence number with leading zeros: twenty digits hold every `u64`.
#[derive(Debug)]
struct Sequence([u8; 20]);

impl Sequence {
    fn of(number: u64) -> Sequence {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number).as_bytes();
        let mut text = [b'0'; 20];
        text[20 - digits.len()..].copy_from_slice(digits);
        Sequence(text)
    }

    fn as_str(&self) -> &str {
        // Digits are UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The name of the schema that the data of this type keep. It is a name, not an address: `ccrelay schema` prints what it
/// names, and the number at its end rises when something that consumers may rely on changes.
#[must_use]
pub fn data_schema(event_type: &str) -> String {
    ["urn:ccrelay:schema:", event_type, ":", itoa::Buffer::new().format(SCHEMA_VERSION)].concat()
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

struct Structured<'a>(Attributes<'a>);

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Structured(attributes) = self;
        let event = attributes.event;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in attributes.iter() {
            match name {
                // The only attribute that is not a string in the JSON format.
                "ccrelayrepeat" => map.serialize_entry(name, &event.repeat)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.serialize_entry("datacontenttype", DATA_CONTENT_TYPE)?;
        map.serialize_entry("data", &event.data)?;
        map.end()
    }
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
