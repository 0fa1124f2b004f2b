//! An event as an MQTT 5 publish, after the MQTT protocol binding of CloudEvents 1.0.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};

use crate::event::cloudevent;
use crate::sink::encoding::{CLOUDEVENTS_JSON, Encoding, JSON};
use crate::sink::{DeliveryError, Message};

/// A string of MQTT has a length of two bytes.
const LONGEST_TOPIC: usize = u16::MAX as usize;
/// A remaining length of MQTT has 28 bits; with some room for the header before it.
const LARGEST_PACKET: usize = (1 << 28) - 16;

pub(super) fn encode(message: &Message, encoding: Encoding) -> Result<Publish, DeliveryError> {
    check_topic(&message.topic)?;
    let (properties, payload) = match encoding {
        Encoding::Binary => (binary_properties(message), cloudevent::data(&message.event)),
        Encoding::Structured => (content_type(CLOUDEVENTS_JSON), cloudevent::structured(&message.event)),
    };
    let publish = Publish::new(&*message.topic, QoS::AtLeastOnce, Bytes::from(payload), Some(properties));
    check_size(&publish, LARGEST_PACKET)?;
    Ok(publish)
}

/// Whether `publish` will be at most `limit` bytes on the wire: the client library would drop the connection.
pub(super) fn check_size(publish: &Publish, limit: usize) -> Result<(), DeliveryError> {
    // It gets a packet id of two bytes, which may lengthen its length by one.
    let bytes = publish.size() + 3;
    if bytes <= limit {
        return Ok(());
    }
    Err(DeliveryError::dead_letter("too_large", format!("about {bytes} bytes are more than {limit}")))
}

fn binary_properties(message: &Message) -> PublishProperties {
    let user_properties = cloudevent::attributes(&message.event)
        .into_iter()
        .filter(|(name, _)| *name != "datacontenttype")
        .map(|(name, value)| (name.to_owned(), value.into_owned()))
        .collect();
    PublishProperties { user_properties, ..content_type(JSON) }
}

fn content_type(value: &str) -> PublishProperties {
    PublishProperties { content_type: Some(value.to_owned()), ..PublishProperties::default() }
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
    use super::*;
    use crate::sink::testing::message;

    #[test]
    fn a_packet_over_the_limit_is_set_aside_and_one_within_is_not() {
        for encoding in [Encoding::Binary, Encoding::Structured] {
            let publish = encode(&message("101", 1), encoding).unwrap();
            let mut wire = bytes::BytesMut::new();
            Publish { pkid: 7, ..publish.clone() }.write(&mut wire).unwrap();
            assert_eq!(check_size(&publish, wire.len() - 1).unwrap_err().reason, "too_large");
            assert!(check_size(&publish, wire.len() + 1).is_ok());
        }
    }

    #[test]
    fn topics_that_no_broker_takes_are_set_aside() {
        for topic in ["", "a/+", "#", "a\0b", &"x".repeat(65_536)] {
            let message = Message { topic: topic.into(), ..message("101", 1) };
            assert_eq!(encode(&message, Encoding::Binary).unwrap_err().reason, "topic_invalid");
        }
    }
}
