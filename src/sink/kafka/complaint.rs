//! What librdkafka said last of why it does not reach its brokers: it mends that by itself, without a limit of time, and a person
//! who sees that nothing is confirmed must see why.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

/// What is older may be over. librdkafka says the same again every half minute.
const FRESH: Duration = Duration::from_secs(60);

/// The last word.
#[derive(Debug, Default)]
pub(super) struct Complaint(Mutex<Option<(Instant, String)>>);

impl Complaint {
    /// Takes down what was said. That all brokers are down says less than why one of them is.
    pub(super) fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str, now: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < FRESH);
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || !known {
            *last = Some((now, reason.to_owned()));
        }
    }

    /// What was said lately, if anything.
    pub(super) fn lately(&self, now: Instant) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| now.duration_since(*at) < FRESH).map(|(_, said)| said.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_for_a_while_and_that_all_are_down_hides_no_cause() {
        let (complaint, now) = (Complaint::default(), Instant::now());
        assert_eq!(complaint.lately(now), None);
        complaint.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down", now);
        assert_eq!(complaint.lately(now).as_deref(), Some("1/1 brokers are down"));
        complaint.note(Some(RDKafkaErrorCode::BrokerTransportFailure), "connection refused", now);
        complaint.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down", now);
        assert_eq!(complaint.lately(now).as_deref(), Some("connection refused"));
        assert_eq!(complaint.lately(now + FRESH), None);
        complaint.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down", now + FRESH);
        assert_eq!(complaint.lately(now + FRESH).as_deref(), Some("1/1 brokers are down"));
    }
}
