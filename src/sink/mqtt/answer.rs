//! The broker's answers to a PUBLISH (MQTT 5, 3.4, 3.5 and 3.7). The library fails on a reason that the standard does not list for
//! the packet, as Mosquitto's "packet too large" in a PUBACK, and with it would go a connection whose other messages are well.

use bytes::{Buf, BytesMut};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
/// Names of properties on the wire (MQTT 5, 2.2.2.2).
const REASON_STRING: u8 = 0x1f;
const USER_PROPERTY: u8 = 0x26;

/// Which step of the exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// PUBACK, the only one of quality of service 1.
    Ack,
    /// PUBREC, the first of quality of service 2.
    Received,
    /// PUBCOMP, the last.
    Complete,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) step: Step,
    pub(super) id: u16,
    /// Below 0x80 all is well.
    pub(super) reason: u8,
    /// What the broker says about it.
    pub(super) text: Option<String>,
}

/// Takes the answer that the bytes begin with. None where they begin with something else, are not all there or are no answer: what
/// they are then is for the library to say.
pub(super) fn take(incoming: &mut BytesMut) -> Option<Answer> {
    let step = match *incoming.first()? {
        PUBACK => Step::Ack,
        PUBREC => Step::Received,
        PUBCOMP => Step::Complete,
        _ => return None,
    };
    let (length, rest) = variable(incoming.get(1..)?)?;
    let (body, behind) = rest.split_at_checked(length)?;
    let (id, rest) = body.split_first_chunk()?;
    let (reason, properties) = rest.split_first().unwrap_or((&0, &[]));
    let answer =
        Answer { step, id: u16::from_be_bytes(*id), reason: *reason, text: reason_string(properties) };
    let packet = incoming.len() - behind.len();
    incoming.advance(packet);
    Some(answer)
}

/// A length in seven bits a byte, and what is behind it.
fn variable(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((length, &bytes[place + 1..]));
        }
    }
    None
}

/// What the broker says, unless the properties are not what they should be: the reason counts.
fn reason_string(properties: &[u8]) -> Option<String> {
    let (length, rest) = variable(properties)?;
    let mut rest = rest.get(..length)?;
    while let Some((name, behind)) = rest.split_first() {
        let (value, behind) = text(behind)?;
        match *name {
            REASON_STRING => return Some(String::from_utf8_lossy(value).into_owned()),
            USER_PROPERTY => rest = text(behind)?.1,
            _ => return None,
        }
    }
    None
}

/// A text with its length before it, and what is behind it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{
        PubAck, PubAckProperties, PubAckReason, PubComp, PubCompReason, PubRec, PubRecProperties,
        PubRecReason,
    };

    use super::*;

    fn taken(bytes: &[u8]) -> (Option<Answer>, usize) {
        let mut incoming = BytesMut::from(bytes);
        (take(&mut incoming), incoming.len())
    }

    #[test]
    fn an_answer_is_read_as_the_library_writes_it() {
        let user_properties = vec![("from".to_owned(), "us".to_owned())];
        let reason_string = Some("no".to_owned());
        let properties = PubAckProperties {
            reason_string: reason_string.clone(),
            user_properties: user_properties.clone(),
        };
        let mut wire = BytesMut::new();
        PubAck::new(7, None).write(&mut wire).unwrap();
        PubAck { pkid: 8, reason: PubAckReason::NotAuthorized, properties: Some(properties) }
            .write(&mut wire)
            .unwrap();
        let properties = PubRecProperties { reason_string: None, user_properties };
        PubRec { pkid: 9, reason: PubRecReason::QuotaExceeded, properties: Some(properties) }
            .write(&mut wire)
            .unwrap();
        let gone = PubCompReason::PacketIdentifierNotFound;
        PubComp { pkid: 0x1234, reason: gone, properties: None }.write(&mut wire).unwrap();
        for (step, id, reason, text) in [
            (Step::Ack, 7, 0, None),
            (Step::Ack, 8, 0x87, reason_string),
            (Step::Received, 9, 0x97, None),
            (Step::Complete, 0x1234, 0x92, None),
        ] {
            assert_eq!(take(&mut wire), Some(Answer { step, id, reason, text }));
        }
        assert!(wire.is_empty());
    }

    #[test]
    fn a_reason_that_no_standard_lists_is_one_like_others() {
        let too_large = |step| Some(Answer { step, id: 1, reason: 0x95, text: None });
        assert_eq!(taken(&[0x40, 3, 0, 1, 0x95]), (too_large(Step::Ack), 0));
        assert_eq!(taken(&[0x50, 4, 0, 1, 0x95, 0, 0xd0]), (too_large(Step::Received), 1));
        // What is behind the reason may be anything.
        assert_eq!(taken(&[0x40, 5, 0, 1, 0x95, 9, 9]), (too_large(Step::Ack), 0));
        assert_eq!(taken(&[0x40, 8, 0, 1, 0x95, 4, 0x1f, 0, 9, b'x']), (too_large(Step::Ack), 0));
    }

    #[test]
    fn what_is_not_whole_or_no_answer_is_left_where_it_is() {
        let whole = [0x40, 4, 0, 1, 0x87, 0];
        for length in 0..whole.len() {
            assert_eq!(taken(&whole[..length]), (None, length));
        }
        for other in
            [&[0xd0, 0][..], &[0x41, 2, 0, 1], &[0x40, 1, 0], &[0x40, 0xff, 0xff, 0xff, 0xff, 1, 0, 1]]
        {
            assert_eq!(taken(other), (None, other.len()));
        }
    }
}
