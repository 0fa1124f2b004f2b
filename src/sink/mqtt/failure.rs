//! What refusals of the broker and errors of the client library mean to the worker.

use std::error::Error;

use rumqttc::v5::mqttbytes::Error as WireError;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Disconnect, DisconnectReasonCode, PubAck, PubAckReason, PubComp, PubCompReason,
    PubRec, PubRecReason,
};

use crate::sink::DeliveryError;

/// PUBACK reason "packet too large": not in the standard's list for PUBACK, but Mosquitto sends it.
const PACKET_TOO_LARGE: u8 = 0x95;

/// Sorts a PUBACK: reasons below 0x80 are confirmations.
pub(super) fn classify_ack(ack: &PubAck) -> Result<(), DeliveryError> {
    let text = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    sort(ack.reason, text)
}

/// Sorts a PUBREC in the same way; a reason of 0x80 or more ends the exchange.
pub(super) fn classify_pubrec(answer: &PubRec) -> Result<(), DeliveryError> {
    use PubRecReason as From;
    let reason = match answer.reason {
        From::Success => PubAckReason::Success,
        From::NoMatchingSubscribers => PubAckReason::NoMatchingSubscribers,
        From::UnspecifiedError => PubAckReason::UnspecifiedError,
        From::ImplementationSpecificError => PubAckReason::ImplementationSpecificError,
        From::NotAuthorized => PubAckReason::NotAuthorized,
        From::TopicNameInvalid => PubAckReason::TopicNameInvalid,
        From::PacketIdentifierInUse => PubAckReason::PacketIdentifierInUse,
        From::QuotaExceeded => PubAckReason::QuotaExceeded,
        From::PayloadFormatInvalid => PubAckReason::PayloadFormatInvalid,
    };
    let text = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    sort(reason, text)
}

/// Sorts a PUBCOMP. A broker that does not know the id has forgotten the message in the middle of the exchange.
pub(super) fn classify_pubcomp(answer: &PubComp) -> Result<(), DeliveryError> {
    match answer.reason {
        PubCompReason::Success => Ok(()),
        PubCompReason::PacketIdentifierNotFound => {
            Err(DeliveryError::retry("refused", "the broker answered PacketIdentifierNotFound"))
        }
    }
}

fn sort(reason: PubAckReason, text: Option<&str>) -> Result<(), DeliveryError> {
    use PubAckReason as Reason;
    let detail = || format!("the broker answered {reason:?} {}", text.unwrap_or_default());
    match reason {
        Reason::Success | Reason::NoMatchingSubscribers => Ok(()),
        Reason::NotAuthorized => Err(DeliveryError::dead_letter("not_authorised", detail())),
        Reason::TopicNameInvalid => Err(DeliveryError::dead_letter("topic_invalid", detail())),
        Reason::PayloadFormatInvalid => Err(DeliveryError::dead_letter("payload_refused", detail())),
        Reason::QuotaExceeded => Err(DeliveryError::retry("quota", detail())),
        Reason::UnspecifiedError | Reason::ImplementationSpecificError | Reason::PacketIdentifierInUse => {
            Err(DeliveryError::retry("refused", detail()))
        }
    }
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

/// Whether the broker refused the oldest message it owes an answer for as too large, in a way the library cannot
/// read. Answers come in the order of the messages (MQTT-4.6.0-2).
pub(super) fn oldest_too_large(error: &WireError) -> bool {
    matches!(error, WireError::InvalidConnectReturnCode(PACKET_TOO_LARGE))
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

    #[test]
    fn acks_are_sorted_by_their_reason() {
        use PubAckReason as Reason;
        for reason in [Reason::Success, Reason::NoMatchingSubscribers] {
            assert!(classify_ack(&PubAck { pkid: 1, reason, properties: None }).is_ok());
        }
        for (reason, disposition, label) in [
            (Reason::NotAuthorized, DeadLetter, "not_authorised"),
            (Reason::TopicNameInvalid, DeadLetter, "topic_invalid"),
            (Reason::PayloadFormatInvalid, DeadLetter, "payload_refused"),
            (Reason::QuotaExceeded, Retry, "quota"),
            (Reason::UnspecifiedError, Retry, "refused"),
            (Reason::ImplementationSpecificError, Retry, "refused"),
        ] {
            let error = classify_ack(&PubAck { pkid: 1, reason, properties: None }).unwrap_err();
            assert_eq!((error.disposition, error.reason), (disposition, label));
        }
    }

    #[test]
    fn the_exchange_of_quality_of_service_2_is_sorted_at_both_steps() {
        let pubrec = |reason| classify_pubrec(&PubRec { pkid: 1, reason, properties: None });
        assert!(pubrec(PubRecReason::Success).is_ok() && pubrec(PubRecReason::NoMatchingSubscribers).is_ok());
        let refused = pubrec(PubRecReason::NotAuthorized).unwrap_err();
        assert_eq!((refused.disposition, refused.reason), (DeadLetter, "not_authorised"));
        let later = pubrec(PubRecReason::QuotaExceeded).unwrap_err();
        assert_eq!((later.disposition, later.reason), (Retry, "quota"));
        let pubcomp = |reason| classify_pubcomp(&PubComp { pkid: 1, reason, properties: None });
        assert!(pubcomp(PubCompReason::Success).is_ok());
        assert_eq!(pubcomp(PubCompReason::PacketIdentifierNotFound).unwrap_err().disposition, Retry);
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
        assert!(oldest_too_large(&WireError::InvalidConnectReturnCode(PACKET_TOO_LARGE)));
    }
}
