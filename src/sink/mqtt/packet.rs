//! A message as a PUBLISH packet of MQTT 5, written from its parts. The library's own packet holds each property as two
//! texts, which would be two dozen allocations for each event.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::config::Quality;

/// First byte of a PUBLISH, without its flags.
const PUBLISH: u8 = 0x30;
/// Names of properties on the wire (MQTT 5, 2.2.2.2).
const CONTENT_TYPE: u8 = 0x03;
const USER_PROPERTY: u8 = 0x26;
/// Room for the properties of binary mode; it grows by itself.
const USUAL_PROPERTIES: usize = 640;

/// A message.
#[derive(Debug, Clone)]
pub(super) struct Publish {
    pub(super) topic: Arc<str>,
    pub(super) quality: Quality,
    pub(super) retain: bool,
    pub(super) properties: Properties,
    pub(super) payload: Bytes,
}

/// Properties as they stand in the packet, without their length. MQTT 3.1.1 has none.
#[derive(Debug, Clone, Default)]
pub(super) struct Properties(Vec<u8>);

impl Properties {
    /// What kind of payload it is.
    pub(super) fn of(content_type: &str) -> Properties {
        let mut properties = Properties(Vec::with_capacity(USUAL_PROPERTIES));
        properties.0.push(CONTENT_TYPE);
        properties.text(content_type);
        properties
    }

    /// Adds a property of our own.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.0.push(USER_PROPERTY);
        self.text(name);
        self.text(value);
    }

    fn text(&mut self, text: &str) {
        let (length, bytes) = text_of(text);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}

impl Publish {
    /// Bytes of the whole packet.
    pub(super) fn size(&self) -> usize {
        let rest = self.rest();
        1 + length_of_length(rest) + rest
    }

    /// Bytes behind the remaining length.
    fn rest(&self) -> usize {
        let id = if self.quality == Quality::AtMostOnce { 0 } else { 2 };
        let properties = self.properties.0.len();
        2 + self.topic.len() + id + length_of_length(properties) + properties + self.payload.len()
    }

    /// Writes it with this packet id, which it has none with quality of service 0.
    pub(super) fn write(&self, id: u16, out: &mut BytesMut) {
        out.reserve(self.size());
        out.put_u8(PUBLISH | (self.quality.level() << 1) | u8::from(self.retain));
        put_length(self.rest(), out);
        let (length, topic) = text_of(&self.topic);
        out.put_u16(length);
        out.put_slice(topic);
        if self.quality != Quality::AtMostOnce {
            out.put_u16(id);
        }
        put_length(self.properties.0.len(), out);
        out.put_slice(&self.properties.0);
        out.put_slice(&self.payload);
    }
}

/// A text on the wire, with its length before it in two bytes. Topics are checked before, and no attribute is so long.
fn text_of(text: &str) -> (u16, &[u8]) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    (length, &text.as_bytes()[..usize::from(length)])
}

/// Bytes that a length takes up: seven bits in each.
fn length_of_length(length: usize) -> usize {
    match length {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

fn put_length(mut length: usize, out: &mut BytesMut) {
    loop {
        let (rest, byte) = (length >> 7, (length & 0x7f) as u8);
        out.put_u8(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            return;
        }
        length = rest;
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};

    use super::*;

    #[test]
    fn the_library_reads_what_is_written() {
        let qualities = [
            (Quality::AtMostOnce, QoS::AtMostOnce, 0),
            (Quality::AtLeastOnce, QoS::AtLeastOnce, 7),
            (Quality::ExactlyOnce, QoS::ExactlyOnce, 65_535),
        ];
        for (quality, qos, pkid) in qualities {
            for bytes in [0, 1, 40, 127, 128, 16_384, 3_000_000] {
                let mut properties = Properties::of("application/json");
                properties.add("id", "k3v9-70-0");
                properties.add("ä", "");
                let payload = Bytes::from(vec![b'x'; bytes]);
                let (topic, retain) = ("ccrelay/main/1001".into(), bytes == 1);
                let publish = Publish { topic, quality, retain, properties, payload: payload.clone() };
                let mut wire = BytesMut::new();
                publish.write(7.max(pkid), &mut wire);
                assert_eq!(wire.len(), publish.size());
                let Ok(Packet::Publish(read)) = Packet::read(&mut wire, None) else { panic!("{bytes}") };
                assert!(wire.is_empty());
                assert_eq!((read.qos, read.pkid, read.retain, read.dup), (qos, pkid, retain, false));
                assert_eq!((&read.topic[..], read.payload), (&b"ccrelay/main/1001"[..], payload));
                let expected = PublishProperties {
                    content_type: Some("application/json".to_owned()),
                    user_properties: vec![("id".into(), "k3v9-70-0".into()), ("ä".into(), String::new())],
                    ..PublishProperties::default()
                };
                assert_eq!(read.properties, Some(expected));
            }
        }
    }

    #[test]
    fn a_message_may_have_no_properties() {
        let properties = Properties::default();
        let (topic, payload) = ("t".into(), Bytes::from_static(b"online"));
        let publish = Publish { topic, quality: Quality::AtLeastOnce, retain: true, properties, payload };
        let mut wire = BytesMut::new();
        publish.write(1, &mut wire);
        let Ok(Packet::Publish(read)) = Packet::read(&mut wire, None) else { panic!("not read") };
        assert_eq!((read.properties, &read.payload[..]), (None, &b"online"[..]));
    }
}
