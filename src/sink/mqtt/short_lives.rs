//! Connections that end as soon as they are there, one after another: so it is where two clients have one id, as each drives the
//! other out. Brokers seldom say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::sink::DeliveryError;

/// A life shorter than this is short.
const SHORT: Duration = Duration::from_secs(5);
/// So many in a row are no chance.
const MANY: u32 = 3;

/// How many short lives there were in a row; of all connections of one sink.
#[derive(Debug, Clone, Default)]
pub(super) struct ShortLives(Arc<AtomicU32>);

impl ShortLives {
    /// What ended a connection that lasted so long from CONNACK, with what it may mean.
    pub(super) fn ended(&self, lasted: Duration, client_id: &str, error: DeliveryError) -> DeliveryError {
        // Where the broker says why it is something else.
        let may_be = matches!(error.reason, "connection" | "session_taken_over");
        if lasted >= SHORT || !may_be {
            self.0.store(0, Ordering::Relaxed);
            return error;
        }
        let lives = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if lives < MANY {
            return error;
        }
        let secs = SHORT.as_secs();
        let said = &error.detail;
        let detail = format!(
            "another client may use the id {client_id}: {lives} connections in a row lasted less than {secs} s; {said}"
        );
        DeliveryError { disposition: error.disposition, ..DeliveryError::retry(error.reason, detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Disposition;

    #[test]
    fn several_short_lives_in_a_row_are_called_what_they_may_be() {
        let lives = ShortLives::default();
        let end = |millis| {
            let error = DeliveryError::stop("session_taken_over", "the broker closed the connection");
            let error = lives.ended(Duration::from_millis(millis), "wall", error);
            assert_eq!((error.reason, error.disposition), ("session_taken_over", Disposition::Stop));
            error.detail
        };
        let plain = "the broker closed the connection";
        let hint = "another client may use the id wall: 3 connections in a row lasted less than 5 s; the broker closed \
                    the connection";
        assert_eq!([900, 4999, 0, 5000, 900].map(end), [plain, plain, hint, plain, plain]);
    }
}
