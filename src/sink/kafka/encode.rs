//! An event as a Kafka record, after the Kafka protocol binding of CloudEvents 1.0.

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::event::{Event, cloudevent};
use crate::sink::Message;
use crate::sink::encoding::{CLOUDEVENTS_JSON, Encoding, JSON};
use crate::trace::TRACEPARENT;

/// Room for the attributes of binary mode; it grows by itself.
const HEADERS: usize = 16;

/// What a record is made of, beside its topic and key.
#[derive(Debug)]
pub struct Encoded {
    /// Absent once librdkafka has them.
    pub(super) headers: Option<OwnedHeaders>,
    pub(super) payload: Bytes,
    /// Milliseconds since the epoch.
    pub(super) timestamp: i64,
}

/// The event in this content mode.
#[must_use]
pub fn encode(message: &Message, encoding: Encoding) -> Encoded {
    let (headers, payload) = match encoding {
        Encoding::Binary => (binary_headers(message), cloudevent::shared_data(&message.event)),
        Encoding::Structured => {
            let headers = OwnedHeaders::new_with_capacity(1);
            (with(headers, "content-type", CLOUDEVENTS_JSON), message.structured().into())
        }
    };
    Encoded { headers: Some(headers), payload, timestamp: timestamp(&message.event) }
}

fn binary_headers(message: &Message) -> OwnedHeaders {
    let mut headers = with(OwnedHeaders::new_with_capacity(HEADERS), "content-type", JSON);
    let mut key = String::with_capacity(32);
    for (name, value) in message.attributes() {
        key.clear();
        key.push_str("ce_");
        key.push_str(name);
        headers = with(headers, &key, &value);
    }
    // Where OpenTelemetry's instrumentation of Kafka clients looks for it.
    if let Some(trace) = &message.trace {
        headers = with(headers, TRACEPARENT, &trace.traceparent());
    }
    headers
}

fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// When the event happened, but never after we received it: brokers refuse records from the future (more than an
/// hour ahead by default), and a gateway with a wrong clock must not cost its events.
fn timestamp(event: &Event) -> i64 {
    i64::try_from(event.time.min(event.recorded_time).millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;
    use crate::sink::testing::message;

    /// Names and values of headers whose name ends so.
    fn headers(encoded: &Encoded, end: &str) -> Vec<(String, String)> {
        let headers = encoded.headers.as_ref().unwrap().iter().filter(|header| header.key.ends_with(end));
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        headers.map(|header| (header.key.to_owned(), text(header.value))).collect()
    }

    #[test]
    fn a_trace_is_an_attribute_and_in_binary_mode_also_where_instrumentation_looks() {
        let context = crate::trace::tests::context();
        let (traced, value) = (Message { trace: Some(context), ..message("101", 1) }, context.traceparent());
        let binary = encode(&traced, Encoding::Binary);
        let expected = ["ce_traceparent", "traceparent"].map(|name| (name.to_owned(), value.clone()));
        assert_eq!(headers(&binary, "traceparent"), expected);
        let structured = encode(&traced, Encoding::Structured);
        assert_eq!(headers(&structured, "traceparent"), []);
        let document: serde_json::Value = serde_json::from_slice(&structured.payload).unwrap();
        assert_eq!(document["traceparent"], value);
        let untraced = message("101", 1);
        assert_eq!(headers(&encode(&untraced, Encoding::Binary), "traceparent"), []);
        let structured = encode(&untraced, Encoding::Structured);
        assert!(!String::from_utf8(structured.payload.to_vec()).unwrap().contains("traceparent"));
    }
}
