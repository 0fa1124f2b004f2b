//! What librdkafka's errors mean to the worker.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::sink::DeliveryError;

/// Sorts a failed send or a failed delivery. `alone` says that the record was certainly not one of several in a
/// batch: a broker refuses a batch as a whole, and no record must be set aside for its neighbours. Which one is to blame
/// brokers say since 2.4 only; and where they do, its neighbours have to go again, and it goes with them.
pub(super) fn classify(error: &KafkaError, alone: bool) -> DeliveryError {
    use RDKafkaErrorCode as Code;
    let detail = error.to_string();
    if matches!(error, KafkaError::Nul(_)) {
        return DeliveryError::dead_letter("topic_invalid", detail);
    }
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize) => {
            if alone {
                DeliveryError::dead_letter("too_large", detail)
            } else {
                DeliveryError::retry("batch_too_large", detail)
            }
        }
        Some(Code::InvalidTopic) => DeliveryError::dead_letter("topic_invalid", detail),
        Some(Code::InvalidTimestamp) if alone => DeliveryError::retry("timestamp_refused", detail),
        Some(Code::InvalidRecord) if alone => DeliveryError::dead_letter("record_refused", detail),
        Some(Code::InvalidTimestamp | Code::InvalidRecord | Code::InvalidDifferentRecord) => {
            DeliveryError::retry("batch_refused", detail)
        }
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
            DeliveryError::retry("unknown_topic", detail)
        }
        Some(code) if is_authorisation(code) => DeliveryError::retry("not_authorised", detail),
        Some(Code::Fatal) => DeliveryError::retry("fatal", detail),
        // The topic is there and has fewer partitions than it had, which a new client knows.
        Some(Code::UnknownPartition) => DeliveryError::retry("broker", detail),
        Some(Code::PurgeQueue | Code::PurgeInflight) => DeliveryError::retry("reset", detail),
        _ => DeliveryError::retry("broker", detail),
    }
}

/// Sorts the error that ended an idempotent producer. A new producer may do better, so it is never the end.
pub(super) fn classify_fatal(code: Option<RDKafkaErrorCode>, detail: &str) -> DeliveryError {
    let reason = if code.is_some_and(is_authorisation) { "not_authorised" } else { "fatal" };
    DeliveryError::retry(reason, detail)
}

fn is_authorisation(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Disposition::{DeadLetter, Retry};

    #[test]
    fn errors_are_sorted_into_wait_and_set_aside() {
        use RDKafkaErrorCode as Code;
        for (code, alone, disposition, reason) in [
            (Code::MessageSizeTooLarge, true, DeadLetter, "too_large"),
            (Code::MessageSizeTooLarge, false, Retry, "batch_too_large"),
            (Code::UnknownTopicOrPartition, false, Retry, "unknown_topic"),
            (Code::UnknownTopic, true, Retry, "unknown_topic"),
            (Code::UnknownPartition, false, Retry, "broker"),
            (Code::TopicAuthorizationFailed, false, Retry, "not_authorised"),
            (Code::ClusterAuthorizationFailed, false, Retry, "not_authorised"),
            (Code::Fatal, false, Retry, "fatal"),
            (Code::PurgeInflight, false, Retry, "reset"),
            (Code::InvalidTopic, false, DeadLetter, "topic_invalid"),
            (Code::InvalidTimestamp, true, Retry, "timestamp_refused"),
            (Code::InvalidRecord, true, DeadLetter, "record_refused"),
            (Code::InvalidTimestamp, false, Retry, "batch_refused"),
            (Code::InvalidRecord, false, Retry, "batch_refused"),
            (Code::InvalidDifferentRecord, false, Retry, "batch_refused"),
            (Code::NotEnoughReplicas, false, Retry, "broker"),
        ] {
            let error = classify(&KafkaError::MessageProduction(code), alone);
            assert_eq!((error.disposition, error.reason), (disposition, reason), "{code:?} alone={alone}");
        }
    }
}
