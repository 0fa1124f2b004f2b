//! How an event is laid out in a message: the two content modes of CloudEvents 1.0, the same for every sink.

use serde::Deserialize;

/// `datacontenttype` of every event: what binary mode names as the content type.
pub const JSON: &str = "application/json";
/// Content type of an event in structured mode.
pub const CLOUDEVENTS_JSON: &str = "application/cloudevents+json; charset=UTF-8";

/// CloudEvents content mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Attributes beside the payload (Kafka headers, MQTT user properties), so that a consumer can choose and
    /// deduplicate without parsing; the payload is the `data` alone.
    #[default]
    Binary,
    /// One JSON object with attributes and data, for consumers that see payloads only.
    Structured,
}
