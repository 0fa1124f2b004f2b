//! What refusals of the broker and errors of the client library mean to the worker.

use std::error::Error;

use rumqttc::v5::mqttbytes::Error as WireError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAck, PubAckReason};
use rumqttc::v5::{ConnectionError, StateError};

use crate::sink::DeliveryError;

/// PUBACK reason "packet too large": not in the standard's list for PUBACK, but Mosquitto sends it.
const PACKET_TOO_LARGE: u8 = 0x95;

/// Sorts a PUBACK: reasons below 0x80 are confirmations.
pub(super) fn classify_ack(ack: &PubAck) -> Result<(), DeliveryError> {
    use PubAckReason as Reason;
    let detail = || {
        let text = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        format!("the broker answered {:?} {}", ack.reason, text.unwrap_or_default())
    };
    match ack.reason {
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
pub(super) fn classify(error: &ConnectionError) -> DeliveryError {
    let reason = match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            disconnected(*reason_code)
        }
        ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout) => "stalled",
        ConnectionError::MqttState(
            StateError::ConnectionAborted | StateError::Io(_) | StateError::Deserialization(WireError::Io(_)),
        )
        | ConnectionError::Io(_)
        | ConnectionError::Timeout(_) => "connection",
        ConnectionError::Tls(_) => "tls",
        _ => "protocol",
    };
    DeliveryError::retry(reason, chain(error))
}

/// Whether the broker refused the oldest message it owes an answer for as too large, in a way the library cannot
/// read. Answers come in the order of the messages (MQTT-4.6.0-2).
pub(super) fn oldest_too_large(error: &ConnectionError) -> bool {
    use StateError::Deserialization;
    matches!(
        error,
        ConnectionError::MqttState(Deserialization(WireError::InvalidConnectReturnCode(PACKET_TOO_LARGE)))
    )
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
fn chain(error: &ConnectionError) -> String {
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
    fn connections_end_in_a_retry_that_says_why() {
        let refused = ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword);
        assert_eq!(classify(&refused).reason, "not_authorised");
        let taken_over = ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            reason_string: None,
        });
        assert_eq!(classify(&taken_over).reason, "session_taken_over");
        assert_eq!(classify(&ConnectionError::MqttState(StateError::AwaitPingResp)).reason, "stalled");
        assert_eq!(classify(&ConnectionError::Io(std::io::Error::other("x"))).reason, "connection");
    }
}
