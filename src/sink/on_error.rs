//! What the operator wants done about errors that are of one message: the tables `on_error` of sinks.
//!
//! A sink sorts its errors as it thinks best and then asks here. The reasons that can be chosen about are those of the
//! sink's table; all others stay as they are.

use crate::sink::{DeliveryError, Disposition};

/// The choices of one sink.
#[derive(Debug, Clone, Default)]
pub(super) struct OnError {
    /// What each reason leads to.
    choices: Vec<(&'static str, Disposition)>,
}

impl OnError {
    pub(super) fn new(choices: impl Into<Vec<(&'static str, Disposition)>>) -> OnError {
        OnError { choices: choices.into() }
    }

    /// An error that is of one message, as the operator wants it.
    pub(super) fn of_message(&self, error: DeliveryError) -> DeliveryError {
        let disposition = self.choice(error.reason).unwrap_or(error.disposition);
        DeliveryError { disposition, ..error }
    }

    /// An error that is of the connection. No message is to blame, so none is ever set aside for it.
    pub(super) fn of_connection(&self, error: DeliveryError) -> DeliveryError {
        match self.choice(error.reason) {
            Some(Disposition::Stop) => DeliveryError { disposition: Disposition::Stop, ..error },
            _ => error,
        }
    }

    fn choice(&self, reason: &str) -> Option<Disposition> {
        self.choices.iter().find(|(known, _)| *known == reason).map(|(_, disposition)| *disposition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Disposition::{DeadLetter, Retry, Stop};

    #[test]
    fn messages_are_set_aside_as_chosen_and_connections_never() {
        let on_error = OnError::new([("too_large", Retry), ("not_authorised", DeadLetter), ("quota", Stop)]);
        for (reason, of_message, of_connection) in [
            ("too_large", Retry, Retry),
            ("not_authorised", DeadLetter, Retry),
            ("quota", Stop, Stop),
            ("stalled", Retry, Retry),
        ] {
            let error = DeliveryError::retry(reason, "");
            assert_eq!(on_error.of_message(error.clone()).disposition, of_message, "{reason}");
            assert_eq!(on_error.of_connection(error).disposition, of_connection, "{reason}");
        }
        let kept = on_error.of_message(DeliveryError::dead_letter("other", ""));
        assert_eq!(kept.disposition, DeadLetter);
    }
}
