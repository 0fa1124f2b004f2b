//! Requests and answers of one connection, as far as they tell whether an answer of ours arrived. The gateway sends an
//! agent's next push only when it has the answer to the one before, or has given it up; so
//! - a later request on the same connection shows that the answer arrived;
//! - so does a peer that ends the connection in order after its only request, with the answer written whole, sooner than anybody
//!   gives an answer up: it has opened the connection for the one request. A reset, an end by whoever stands between (under TLS no
//!   `close_notify`), and an end after a while, which may be that of a wait, show nothing;
//! - a push that was begun before the answer to the one before it had left cannot be its successor: the gateway had
//!   given that one up, as happens when this machine stood still and finds both pushes waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// No gateway gives an answer up so soon after it has asked: no manual has the time, and shorter ones would fail under load.
const NOBODY_GIVES_UP: Duration = Duration::from_secs(1);
/// A first request that comes later than this after the handshake is not what the connection was opened for: a pool had it
/// ready.
const AT_ONCE: Duration = Duration::from_millis(250);

/// What is known of a connection and its requests, which come one after another.
#[derive(Debug)]
pub struct Connection {
    accepted: Instant,
    /// When its handshake was over.
    ready: Instant,
    /// Requests begun so far.
    requests: AtomicU64,
    /// When the newest of them was begun, in microseconds after `accepted`.
    begun: AtomicU64,
    /// When it was answered, in microseconds after `accepted` and one more; 0 while it is not.
    answered: AtomicU64,
    /// Its answer was written whole.
    written: AtomicBool,
    /// The peer ended the connection as one does who has the answer to its only request.
    ended: AtomicBool,
}

/// One request on its connection.
#[derive(Debug, Clone)]
pub struct Exchange {
    connection: Arc<Connection>,
    /// The request's number, from 1.
    number: u64,
    /// When the gateway had certainly begun it. A connection may have been opened for its first request.
    begun: Instant,
    /// When it was read.
    read: Instant,
}

impl Connection {
    /// A connection that was accepted just now, and on which requests may come.
    #[must_use]
    pub fn new() -> Arc<Connection> {
        Connection::accepted_at(Instant::now())
    }

    /// A connection that was accepted then, and on which requests may come from now on.
    #[must_use]
    pub fn accepted_at(accepted: Instant) -> Arc<Connection> {
        Arc::new(Connection {
            accepted,
            ready: Instant::now(),
            requests: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            written: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    /// The next request begins.
    #[must_use]
    pub fn begin(self: &Arc<Connection>) -> Exchange {
        self.begin_when(false)
    }

    /// The same, where it is known whether this machine stood still of late: what came at once may look late then.
    #[must_use]
    pub fn begin_when(self: &Arc<Connection>, stood_still: bool) -> Exchange {
        // First the number: a request that is over must never look as if it were still unanswered.
        let number = self.requests.fetch_add(1, Ordering::AcqRel) + 1;
        self.answered.store(0, Ordering::Release);
        self.written.store(false, Ordering::Release);
        let now = Instant::now();
        self.begun.store(self.micros(now), Ordering::Release);
        let at_once = stood_still || now.saturating_duration_since(self.ready) <= AT_ONCE;
        let opened_for_it = number == 1 && at_once;
        let begun = if opened_for_it { self.accepted } else { now };
        Exchange { connection: self.clone(), number, begun, read: now }
    }

    /// All that was to be written is.
    pub fn flushed(&self) {
        if self.answered.load(Ordering::Acquire) > 0 {
            self.written.store(true, Ordering::Release);
        }
    }

    /// Whether the newest request's answer was written whole.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    /// The peer has ended the connection in order, and this machine has not stood still of late: a request may have waited for
    /// us then, and been given up while we answered it.
    pub fn ended(&self) {
        let since = self.micros(Instant::now()).saturating_sub(self.begun.load(Ordering::Acquire));
        let only = self.requests.load(Ordering::Acquire) == 1;
        if only && self.is_answered() && u128::from(since) <= NOBODY_GIVES_UP.as_micros() {
            self.ended.store(true, Ordering::Release);
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.accepted).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX - 1)
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
        let micros = self.connection.micros(Instant::now()) + 1;
        self.connection.answered.store(micros, Ordering::Release);
    }

    /// Whether the answer is known to have arrived.
    #[must_use]
    pub fn arrived(&self) -> bool {
        self.connection.requests.load(Ordering::Acquire) > self.number
            || self.connection.ended.load(Ordering::Acquire)
    }

    /// How long after this one `later` came, whatever was done to the clock in between.
    #[must_use]
    pub fn until(&self, later: &Exchange) -> Duration {
        later.read.saturating_duration_since(self.read)
    }

    /// The same, as if it had come so much later.
    #[cfg(test)]
    pub(crate) fn delayed(self, by: Duration) -> Exchange {
        Exchange { begun: self.begun + by, read: self.read + by, ..self }
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

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_a_pool_had_ready_says_nothing_of_an_answer_that_left_meanwhile() {
        let first = Connection::new().begin();
        let ready = Connection::new();
        let late = Connection::new();
        tokio::time::advance(Duration::from_millis(5)).await;
        first.answered();
        tokio::time::advance(AT_ONCE).await;
        assert!(!first.overlaps(&ready.begin()));
        assert!(first.overlaps(&late.begin_when(true)), "it stood still meanwhile");
    }

    /// What a connection tells on which one request was begun, answered and written after 5 ms, and which then ended so.
    async fn told_by_an_end(end: impl AsyncFnOnce(&Connection, &Exchange)) -> bool {
        let connection = Connection::new();
        tokio::time::advance(Duration::from_secs(60)).await;
        let only = connection.begin();
        tokio::time::advance(Duration::from_millis(5)).await;
        end(&connection, &only).await;
        only.arrived()
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_in_order_shows_that_the_answer_arrived_when_it_was_written_and_nobody_had_given_it_up() {
        let at_once = async |connection: &Connection, only: &Exchange| {
            only.answered();
            connection.flushed();
            tokio::time::advance(Duration::from_millis(900)).await;
            connection.ended();
        };
        assert!(told_by_an_end(at_once).await);
        let unanswered = async |connection: &Connection, _: &Exchange| {
            connection.flushed();
            connection.ended();
        };
        assert!(!told_by_an_end(unanswered).await);
        let unwritten = async |connection: &Connection, only: &Exchange| {
            only.answered();
            connection.ended();
        };
        assert!(!told_by_an_end(unwritten).await);
        let after_a_wait = async |connection: &Connection, only: &Exchange| {
            only.answered();
            connection.flushed();
            tokio::time::advance(Duration::from_secs(3)).await;
            connection.ended();
        };
        assert!(!told_by_an_end(after_a_wait).await, "the gateway may have waited so long");
        let late_answer = async |connection: &Connection, only: &Exchange| {
            tokio::time::advance(Duration::from_secs(3)).await;
            only.answered();
            connection.flushed();
            connection.ended();
        };
        assert!(!told_by_an_end(late_answer).await, "this machine stood still, and the end may be older");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_kept_connection_says_nothing_of_its_last_request() {
        let connection = Connection::new();
        let exchanges = [connection.begin(), connection.begin()];
        exchanges[1].answered();
        connection.flushed();
        connection.ended();
        assert!(exchanges[0].arrived() && !exchanges[1].arrived());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_after_the_next_request_has_begun_says_nothing_of_that_one() {
        let connection = Connection::new();
        let first = connection.begin();
        first.answered();
        connection.flushed();
        let second = connection.begin();
        connection.ended();
        assert!(first.arrived() && !second.arrived());
    }
}
