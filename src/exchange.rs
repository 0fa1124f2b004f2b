//! Requests and answers of one connection, as far as they tell whether an answer of ours arrived. The gateway sends an
//! agent's next push only when it has the answer to the one before, or has given it up; so
//! - a later request on the same connection shows that the answer arrived;
//! - a push that was begun before the answer to the one before it had left cannot be its successor: the gateway had
//!   given that one up, as happens when this machine stood still and finds both pushes waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// What is known of a connection and its requests, which come one after another.
#[derive(Debug)]
pub struct Connection {
    accepted: Instant,
    /// Requests begun so far.
    requests: AtomicU64,
    /// When the newest of them was answered, in microseconds after `accepted` and one more; 0 while it is not.
    answered: AtomicU64,
}

/// One request on its connection.
#[derive(Debug, Clone)]
pub struct Exchange {
    connection: Arc<Connection>,
    /// The request's number, from 1.
    number: u64,
    /// When the gateway had certainly begun it: the first request of a connection is what it was opened for.
    begun: Instant,
}

impl Connection {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new() -> Arc<Connection> {
        Arc::new(Connection {
            accepted: Instant::now(),
            requests: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    /// The next request begins.
    #[must_use]
    pub fn begin(self: &Arc<Connection>) -> Exchange {
        // First the number: a request that is over must never look as if it were still unanswered.
        let number = self.requests.fetch_add(1, Ordering::AcqRel) + 1;
        self.answered.store(0, Ordering::Release);
        let begun = if number == 1 { self.accepted } else { Instant::now() };
        Exchange { connection: self.clone(), number, begun }
    }
}

impl Exchange {
    /// Whether it is the first of its connection.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.number == 1
    }

    /// The answer leaves now.
    pub fn answered(&self) {
        let micros = self.connection.accepted.elapsed().as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX - 1) + 1;
        self.connection.answered.store(micros, Ordering::Release);
    }

    /// Whether the answer is known to have arrived.
    #[must_use]
    pub fn arrived(&self) -> bool {
        self.connection.requests.load(Ordering::Acquire) > self.number
    }

    /// Whether `later` was begun before the answer to this one left.
    #[must_use]
    pub fn overlaps(&self, later: &Exchange) -> bool {
        if self.arrived() {
            return false;
        }
        let answered = self.connection.answered.load(Ordering::Acquire);
        let begun = later.begun.saturating_duration_since(self.connection.accepted).as_micros();
        answered == 0 || begun < u128::from(answered - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_later_request_shows_that_the_answer_arrived() {
        let connection = Connection::new();
        let first = connection.begin();
        first.answered();
        assert!(!first.arrived());
        let second = connection.begin();
        assert!(first.arrived() && !second.arrived());
        assert!(!first.overlaps(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_overlap_when_the_second_was_begun_before_the_first_was_answered() {
        let first = Connection::new().begin();
        let (opened, reused) = (Connection::new(), Connection::new());
        reused.begin().answered();
        assert!(first.overlaps(&opened.begin()), "nothing is answered yet");
        tokio::time::advance(Duration::from_millis(5)).await;
        let before = reused.begin();
        tokio::time::advance(Duration::from_millis(5)).await;
        first.answered();
        tokio::time::advance(Duration::from_millis(5)).await;
        assert!(first.overlaps(&before));
        assert!(!first.overlaps(&reused.begin()), "begun after the answer");
        assert!(!first.overlaps(&Connection::new().begin()), "opened after the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_opened_before_the_answer_left_was_opened_for_a_repeat() {
        let first = Connection::new().begin();
        let second = Connection::new();
        tokio::time::advance(Duration::from_millis(5)).await;
        first.answered();
        tokio::time::advance(Duration::from_millis(5)).await;
        assert!(first.overlaps(&second.begin()), "its handshake took until now");
    }
}
