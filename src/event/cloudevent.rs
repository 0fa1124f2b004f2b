//! TEMP: stands in for the module of the same name that is written elsewhere; dropped at merge.

use std::borrow::Cow;

use super::Event;

/// The whole event as one JSON object: CloudEvents structured mode.
#[must_use]
pub fn structured(event: &Event) -> Vec<u8> {
    let mut object = serde_json::Map::new();
    for (name, value) in attributes(event) {
        object.insert(name.to_owned(), value.into_owned().into());
    }
    object.insert("datacontenttype".to_owned(), "application/json".into());
    object.insert("data".to_owned(), serde_json::json!({}));
    serde_json::to_vec(&object).unwrap_or_default()
}

/// The context attributes of binary mode, without a prefix.
#[must_use]
pub fn attributes(event: &Event) -> Vec<(&'static str, Cow<'_, str>)> {
    vec![
        ("specversion", "1.0".into()),
        ("id", event.id.as_str().into()),
        ("source", event.source.as_str().into()),
        ("type", event.event_type.into()),
        ("subject", event.agent_id.as_str().into()),
        ("time", event.time.to_string().into()),
        ("partitionkey", event.agent_id.as_str().into()),
        ("recordedtime", event.recorded_time.to_string().into()),
        ("sequence", event.sequence.to_string().into()),
    ]
}

/// The `data` member alone: the payload of binary mode.
#[must_use]
pub fn data(event: &Event) -> Vec<u8> {
    serde_json::to_vec(&event.data).unwrap_or_default()
}
