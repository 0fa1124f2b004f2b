//! An event as an MQTT publish, after the MQTT protocol binding of CloudEvents 1.0, and an agent's state as a retained one.

use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use super::config::{MqttConfig, Quality, Version};
use super::packet::{Properties, Publish};
use crate::event::Event;
use crate::event::cloudevent;
use crate::event::data::{AgentData, Moment};
use crate::event::state::AgentState;
use crate::sink::encoding::{CLOUDEVENTS_JSON, Encoding, JSON};
use crate::sink::{DeliveryError, Message};

/// A string of MQTT has a length of two bytes.
const LONGEST_TOPIC: usize = u16::MAX as usize;
/// A remaining length of MQTT has 28 bits; with some room for the header before it.
pub(super) const LARGEST_PACKET: usize = (1 << 28) - 16;

/// The relay's status while it is connected, and when it is not.
pub(super) const ONLINE: &str = "online";
pub(super) const OFFLINE: &str = "offline";

/// The event.
pub(super) fn encode(message: &Message, config: &MqttConfig) -> Result<Publish, DeliveryError> {
    check_topic(&message.topic)?;
    let (properties, payload) = match config.encoding {
        Encoding::Binary => (binary_properties(message), cloudevent::shared_data(&message.event)),
        Encoding::Structured => (Properties::of(CLOUDEVENTS_JSON), message.structured().into()),
    };
    finish(&message.topic, payload, properties, config)
}

/// The agent's state after the event, to be retained at `topic`. Of an agent that is signed out nothing is retained: an
/// empty payload clears the topic.
pub(super) fn state(event: &Event, topic: Arc<str>, config: &MqttConfig) -> Result<Publish, DeliveryError> {
    check_topic(&topic)?;
    let payload = match event.data.agent.state {
        AgentState::SignedOut => Bytes::new(),
        _ => serde_json::to_vec(&StateDocument::of(event))
            .map(Bytes::from)
            .map_err(|error| DeliveryError::dead_letter("client", error.to_string()))?,
    };
    let publish = finish(&topic, payload, Properties::of(JSON), config)?;
    Ok(Publish { retain: true, ..publish })
}

/// What the relay says of itself.
pub(super) fn status(topic: &str, status: &'static str) -> Publish {
    Publish {
        topic: topic.into(),
        quality: Quality::AtLeastOnce,
        retain: true,
        properties: Properties::default(),
        payload: Bytes::from_static(status.as_bytes()),
    }
}

fn finish(
    topic: &Arc<str>,
    payload: Bytes,
    properties: Properties,
    config: &MqttConfig,
) -> Result<Publish, DeliveryError> {
    // Properties came with MQTT 5.
    let properties = if config.version == Version::V5 { properties } else { Properties::default() };
    let publish = Publish { topic: topic.clone(), quality: config.qos, retain: false, properties, payload };
    check_size(&publish, LARGEST_PACKET)?;
    Ok(publish)
}

/// An agent's state as it is retained: a published contract, members are only ever added.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StateDocument<'a> {
    #[serde(flatten)]
    agent: &'a AgentData,
    /// The event that led to it.
    event_id: &'a str,
    /// The type of that event.
    event_type: &'a str,
    /// The number of that event.
    sequence: u64,
    /// When that event happened.
    time: Moment,
}

/// What is retained of agents, for the contract.
pub(crate) fn state_schema(generator: &mut SchemaGenerator) -> Schema {
    StateDocument::json_schema(generator)
}

impl StateDocument<'_> {
    fn of(event: &Event) -> StateDocument<'_> {
        StateDocument {
            agent: &event.data.agent,
            event_id: &event.id,
            event_type: event.event_type,
            sequence: event.sequence,
            time: Moment(event.time),
        }
    }
}

/// Whether `publish` will be at most `limit` bytes on the wire: the client library would drop the connection.
pub(super) fn check_size(publish: &Publish, limit: usize) -> Result<(), DeliveryError> {
    let bytes = publish.size();
    if bytes <= limit {
        return Ok(());
    }
    Err(DeliveryError::dead_letter("too_large", format!("{bytes} bytes are more than {limit}")))
}

fn binary_properties(message: &Message) -> Properties {
    let mut properties = Properties::of(JSON);
    for (name, value) in message.attributes().iter() {
        properties.add(name, value);
    }
    properties
}

/// A broker answers a bad topic by closing the connection, which would stop all that comes after it.
fn check_topic(topic: &str) -> Result<(), DeliveryError> {
    let detail = if topic.is_empty() {
        "it is empty"
    } else if topic.len() > LONGEST_TOPIC {
        "it is longer than 65535 bytes"
    } else if topic.contains(['+', '#', '\0']) {
        "it contains +, # or NUL"
    } else {
        return Ok(());
    };
    Err(DeliveryError::dead_letter("topic_invalid", detail))
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::Packet;

    use super::super::config::tests::parse;
    use super::*;
    use crate::sink::testing::message;

    #[test]
    fn a_packet_over_the_limit_is_set_aside_and_one_within_is_not() {
        for encoding in ["binary", "structured"] {
            let config = parse(&format!("url = 'mqtt://b'\nencoding = '{encoding}'")).unwrap();
            let publish = encode(&message("101", 1), &config).unwrap();
            let mut wire = bytes::BytesMut::new();
            publish.write(7, &mut wire);
            assert_eq!(check_size(&publish, wire.len() - 1).unwrap_err().reason, "too_large");
            assert!(check_size(&publish, wire.len()).is_ok());
        }
    }

    #[test]
    fn topics_that_no_broker_takes_are_set_aside() {
        for topic in ["", "a/+", "#", "a\0b", &"x".repeat(65_536)] {
            let config = parse("url = 'mqtt://b'").unwrap();
            let message = Message { topic: topic.into(), ..message("101", 1) };
            assert_eq!(encode(&message, &config).unwrap_err().reason, "topic_invalid");
            assert_eq!(state(&message.event, topic.into(), &config).unwrap_err().reason, "topic_invalid");
        }
    }

    #[test]
    fn a_trace_is_a_user_property_in_binary_mode_and_an_attribute_in_structured() {
        let context = crate::trace::tests::context();
        for (trace, expected) in [(None, None), (Some(context), Some(context.traceparent()))] {
            let message = Message { trace, ..message("101", 1) };
            let config = parse("url = 'mqtt://b'").unwrap();
            let mut wire = bytes::BytesMut::new();
            encode(&message, &config).unwrap().write(7, &mut wire);
            let Ok(Packet::Publish(read)) = Packet::read(&mut wire, None) else { panic!("not read") };
            let properties = read.properties.unwrap().user_properties;
            let property = properties.into_iter().find(|(name, _)| name == "traceparent");
            assert_eq!(property.map(|(_, value)| value), expected);
            for version in ["'3.1.1'", "5"] {
                let text = format!("url = 'mqtt://b'\nencoding = 'structured'\nversion = {version}");
                let publish = encode(&message, &parse(&text).unwrap()).unwrap();
                let document: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
                assert_eq!(document["traceparent"].as_str(), expected.as_deref());
            }
        }
    }

    #[test]
    fn what_is_retained_of_an_agent_is_its_state_and_where_that_comes_from_or_nothing() {
        let config = parse("url = 'mqtt://b'\nqos = 2").unwrap();
        let mut event = (*message("1001", 7).event).clone();
        event.data.agent.state = AgentState::Ready;
        event.data.agent.since = Some(Moment(event.time));
        let publish = state(&event, "state".into(), &config).unwrap();
        assert!(publish.retain && publish.quality == Quality::ExactlyOnce);
        let document: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        let expected = serde_json::json!({
            "id": "1001", "gateway": "main", "state": "ready", "since": "2026-07-20T06:42:02.590Z",
            "previousState": "unknown", "changed": false,
            "eventId": "1001-7", "eventType": "ccrelay.call.ringing", "sequence": 7, "time": "2026-07-20T06:42:02.590Z",
        });
        assert_eq!(document, expected);
        crate::contract::tests::assert_keeps(crate::contract::STATE, &document);
        event.data.agent.state = AgentState::SignedOut;
        let publish = state(&event, "state".into(), &config).unwrap();
        assert!(publish.retain && publish.payload.is_empty());
    }
}
