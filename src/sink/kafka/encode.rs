//! An event as a Kafka record, after the Kafka protocol binding of CloudEvents 1.0.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::clock::Timestamp;
use crate::event::{Event, cloudevent};
use crate::sink::Message;
use crate::sink::encoding::{CLOUDEVENTS_JSON, Encoding, JSON};
use crate::trace::TRACEPARENT;

/// Room for the attributes of binary mode; it grows by itself.
const HEADERS: usize = 16;
/// A gateway may be so far behind our clock. Events wait for less in a gateway that goes on, so one that is further behind has a wrong
/// clock.
const BEHIND: Duration = Duration::from_secs(3600);

/// What a record is made of, beside its topic and key.
#[derive(Debug)]
pub struct Encoded {
    /// Absent once librdkafka has them.
    pub(super) headers: Option<OwnedHeaders>,
    pub(super) payload: Bytes,
    /// Milliseconds since the epoch.
    pub(super) timestamp: i64,
}

/// The event in this content mode, for a record that is made now.
#[must_use]
pub fn encode(message: &Message, encoding: Encoding, now: Timestamp) -> Encoded {
    let (headers, payload) = match encoding {
        Encoding::Binary => (binary_headers(message), cloudevent::shared_data(&message.event)),
        Encoding::Structured => {
            let headers = OwnedHeaders::new_with_capacity(1);
            (with(headers, "content-type", CLOUDEVENTS_JSON), message.structured().into())
        }
    };
    Encoded { headers: Some(headers), payload, timestamp: timestamp(&message.event, now) }
}

fn binary_headers(message: &Message) -> OwnedHeaders {
    let mut headers = with(OwnedHeaders::new_with_capacity(HEADERS), "content-type", JSON);
    let mut key = String::with_capacity(32);
    for (name, value) in message.attributes().iter() {
        key.clear();
        key.push_str("ce_");
        key.push_str(name);
        headers = with(headers, &key, value);
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

/// When the event happened, but never after we received it, nor after now: brokers refuse records from the future (more than an
/// hour ahead by default), and a clock that is or was wrong, the gateway's or ours, must not cost events. Nor long before we received it:
/// a topic deletes by these times, and would delete at once what nobody has read yet.
fn timestamp(event: &Event, now: Timestamp) -> i64 {
    let received = event.recorded_time.min(now);
    let time = if received.since(event.time) > BEHIND { received } else { event.time.min(received) };
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;
    use crate::sink::testing::message;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-24T03:45:00Z.
    const NOW: Timestamp = Timestamp(1_795_491_900_000);

    #[test]
    fn a_record_has_the_time_of_its_event_unless_a_clock_is_wrong() {
        let now = NOW.millis();
        for (happened, recorded, expected, why) in [
            (now - 9, now - 5, now - 9, "all is well"),
            (now - 100 * HOUR - 9, now - 100 * HOUR, now - 100 * HOUR - 9, "it has waited in the spool"),
            (now - HOUR - 5, now - 5, now - HOUR - 5, "it has waited in the gateway"),
            (now + 48 * HOUR, now - 5, now - 5, "the gateway's clock is ahead"),
            (now - HOUR - 6, now - 5, now - 5, "the gateway's clock is behind"),
            (0, now - 5, now - 5, "the gateway has no clock"),
            (now - 9, now + 48 * HOUR, now - 9, "our clock was ahead"),
            (now + 47 * HOUR, now + 48 * HOUR, now, "both were ahead"),
        ] {
            let mut message = message("101", 1);
            let event = std::sync::Arc::make_mut(&mut message.event);
            (event.time, event.recorded_time) = (Timestamp(happened), Timestamp(recorded));
            let encoded = encode(&message, Encoding::Binary, NOW);
            assert_eq!(u64::try_from(encoded.timestamp).unwrap(), expected, "{why}");
        }
    }

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
        let binary = encode(&traced, Encoding::Binary, NOW);
        let expected = ["ce_traceparent", "traceparent"].map(|name| (name.to_owned(), value.clone()));
        assert_eq!(headers(&binary, "traceparent"), expected);
        let structured = encode(&traced, Encoding::Structured, NOW);
        assert_eq!(headers(&structured, "traceparent"), []);
        let document: serde_json::Value = serde_json::from_slice(&structured.payload).unwrap();
        assert_eq!(document["traceparent"], value);
        let untraced = message("101", 1);
        assert_eq!(headers(&encode(&untraced, Encoding::Binary, NOW), "traceparent"), []);
        let structured = encode(&untraced, Encoding::Structured, NOW);
        assert!(!String::from_utf8(structured.payload.to_vec()).unwrap().contains("traceparent"));
    }
}
