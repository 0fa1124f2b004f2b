//! What refusals of the broker and errors of the client library mean to the worker.

use std::error::Error;

use rumqttc::v5::mqttbytes::Error as WireError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Disconnect, DisconnectReasonCode};

use super::answer::{Answer, Step};
use crate::sink::DeliveryError;

/// Sorts an answer to a message: reasons below 0x80 are confirmations. Those of the standard's list (2.4) can come in any answer: not in
/// its list for PUBACK, but sent by Mosquitto, is "packet too large".
pub(super) fn classify_answer(answer: &Answer) -> Result<(), DeliveryError> {
    let Answer { step, reason, text, .. } = answer;
    let says = |name: &str| format!("the broker answered {name} {}", text.as_deref().unwrap_or_default());
    // A broker that refuses at the last step has forgotten the message in the middle of the exchange.
    let begins = *step != Step::Complete;
    Err(match reason {
        0..0x80 => return Ok(()),
        0x87 if begins => DeliveryError::dead_letter("not_authorised", says("NotAuthorized")),
        0x90 if begins => DeliveryError::dead_letter("topic_invalid", says("TopicNameInvalid")),
        0x95 if begins => DeliveryError::dead_letter("too_large", says("PacketTooLarge")),
        0x99 if begins => DeliveryError::dead_letter("payload_refused", says("PayloadFormatInvalid")),
        0x97 => DeliveryError::retry("quota", says("QuotaExceeded")),
        0x80 => DeliveryError::retry("refused", says("UnspecifiedError")),
        0x83 => DeliveryError::retry("refused", says("ImplementationSpecificError")),
        0x91 => DeliveryError::retry("refused", says("PacketIdentifierInUse")),
        0x92 => DeliveryError::retry("refused", says("PacketIdentifierNotFound")),
        other => DeliveryError::retry("refused", says(&format!("reason 0x{other:02x}"))),
    })
}

/// Sorts what ended a connection; always a retry.
pub(super) fn classify_io(error: &std::io::Error) -> DeliveryError {
    DeliveryError::retry("connection", chain(error))
}

/// Sorts what could not be read or written as a packet.
pub(super) fn classify_wire(error: &WireError) -> DeliveryError {
    DeliveryError::retry("protocol", chain(error))
}

/// Sorts a CONNACK that is a refusal.
pub(super) fn classify_refusal(code: ConnectReturnCode) -> DeliveryError {
    DeliveryError::retry(refused(code), format!("the broker refused the connection: {code:?}"))
}

/// Sorts a DISCONNECT.
pub(super) fn classify_disconnect(disconnect: &Disconnect) -> DeliveryError {
    let code = disconnect.reason_code;
    let text = disconnect.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    let detail = format!("the broker ended the connection: {code:?} {}", text.unwrap_or_default());
    DeliveryError::retry(disconnected(code), detail)
}

/// Sorts what ended a connection by MQTT 3.1.1.
pub(super) fn classify_v4(error: &rumqttc::ConnectionError) -> DeliveryError {
    use rumqttc::ConnectReturnCode as Code;
    use rumqttc::mqttbytes::Error as WireError;
    use rumqttc::{ConnectionError, StateError};
    let reason = match error {
        ConnectionError::ConnectionRefused(Code::BadUserNamePassword | Code::NotAuthorized) => {
            "not_authorised"
        }
        ConnectionError::ConnectionRefused(Code::ServiceUnavailable) => "connection",
        ConnectionError::ConnectionRefused(_) => "refused",
        ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout)
        | ConnectionError::FlushTimeout => "stalled",
        ConnectionError::MqttState(
            StateError::ConnectionAborted | StateError::Io(_) | StateError::Deserialization(WireError::Io(_)),
        )
        | ConnectionError::Io(_)
        | ConnectionError::NetworkTimeout => "connection",
        ConnectionError::Tls(_) => "tls",
        _ => "protocol",
    };
    DeliveryError::retry(reason, chain(error))
}

fn refused(code: ConnectReturnCode) -> &'static str {
    use ConnectReturnCode as Code;
    match code {
        Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned | Code::BadAuthenticationMethod => {
            "not_authorised"
        }
        Code::QuotaExceeded | Code::ConnectionRateExceeded => "quota",
        Code::ServiceUnavailable | Code::ServerUnavailable | Code::ServerBusy => "connection",
        _ => "refused",
    }
}

fn disconnected(code: DisconnectReasonCode) -> &'static str {
    use DisconnectReasonCode as Code;
    match code {
        Code::NotAuthorized => "not_authorised",
        Code::SessionTakenOver => "session_taken_over",
        Code::QuotaExceeded | Code::MessageRateTooHigh | Code::ConnectionRateExceeded => "quota",
        Code::PacketTooLarge | Code::ProtocolError | Code::MalformedPacket => "protocol",
        _ => "connection",
    }
}

/// The error with its causes, which some of its variants leave out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Disposition::{DeadLetter, Retry};

    fn sorted(step: Step, reason: u8) -> Option<(crate::sink::Disposition, &'static str)> {
        let error = classify_answer(&Answer { step, id: 1, reason, text: None }).err();
        error.map(|error| (error.disposition, error.reason))
    }

    #[test]
    fn answers_are_sorted_by_their_reason() {
        for step in [Step::Ack, Step::Received] {
            for (reason, expected) in [
                (0x00, None),
                (0x10, None),
                (0x87, Some((DeadLetter, "not_authorised"))),
                (0x90, Some((DeadLetter, "topic_invalid"))),
                (0x95, Some((DeadLetter, "too_large"))),
                (0x99, Some((DeadLetter, "payload_refused"))),
                (0x97, Some((Retry, "quota"))),
                (0x80, Some((Retry, "refused"))),
                (0x83, Some((Retry, "refused"))),
                (0xff, Some((Retry, "refused"))),
            ] {
                assert_eq!(sorted(step, reason), expected, "{step:?} 0x{reason:02x}");
            }
        }
    }

    #[test]
    fn what_the_broker_has_is_not_set_aside_whatever_it_says_at_the_end() {
        assert_eq!(sorted(Step::Complete, 0), None);
        for reason in [0x87, 0x90, 0x92, 0x95, 0x99] {
            assert_eq!(sorted(Step::Complete, reason), Some((Retry, "refused")), "0x{reason:02x}");
        }
    }

    #[test]
    fn connections_of_mqtt_3_1_1_end_in_a_retry_that_says_why() {
        use rumqttc::{ConnectReturnCode, ConnectionError, StateError};
        let refused = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        assert_eq!(classify_v4(&refused).reason, "not_authorised");
        assert_eq!(classify_v4(&ConnectionError::FlushTimeout).reason, "stalled");
        assert_eq!(classify_v4(&ConnectionError::MqttState(StateError::AwaitPingResp)).reason, "stalled");
        assert_eq!(classify_v4(&ConnectionError::NetworkTimeout).reason, "connection");
    }

    #[test]
    fn connections_end_in_a_retry_that_says_why() {
        assert_eq!(classify_refusal(ConnectReturnCode::BadUserNamePassword).reason, "not_authorised");
        let taken_over = classify_disconnect(&Disconnect::new(DisconnectReasonCode::SessionTakenOver));
        assert_eq!((taken_over.reason, taken_over.disposition), ("session_taken_over", Retry));
        assert_eq!(classify_io(&std::io::Error::other("x")).reason, "connection");
        assert_eq!(classify_wire(&WireError::MalformedPacket).reason, "protocol");
    }
}
