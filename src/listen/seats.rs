//! Who has to go when every connection that is permitted is in use and another one waits.
//!
//! A connection costs nobody anything to open and to leave open, so without this anybody who reaches the port could keep a
//! gateway out for as long as a connection may be idle, which is longer than a gateway waits before it signs agents out.
//! - **Who has shown something good stays** as long as there are others: a connection is proven by its first answer with success,
//!   which on the callback listener needs a right token.
//! - Of the others those go that have done nothing for longest, a few at a time; then those that are proven and have begun a request
//!   that does not come; then, if there are no such, the one that has been idle for longest. So who has a token, be it a stolen one,
//!   cannot have others closed by requests that it never ends. None goes within [`GRACE`], which is enough for a handshake, a head
//!   and a body; none goes while its request is being answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::phase::Phase;

/// What a newcomer has for a handshake and a head, also when many others come.
const GRACE: Duration = Duration::from_secs(1);
/// One in so many of the unproven goes at a time: each time all are looked at.
const SHARE: usize = 64;

/// All connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    next: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) phase: Arc<Phase>,
    /// Something of it was answered with success.
    proven: AtomicBool,
    /// It has to go.
    pub(super) leave: CancellationToken,
}

impl Seat {
    /// Something of it was answered with success.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Nothing more comes of it, whatever it was.
    pub(super) fn ends(&self) {
        self.proven.store(false, Ordering::Relaxed);
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

/// A seat that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    seats: &'a Seats,
    number: u64,
    pub(super) seat: Arc<Seat>,
}

impl Seats {
    pub(super) fn take(&self) -> Taken<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Seat {
            phase: Arc::new(Phase::new()),
            proven: AtomicBool::new(false),
            leave: CancellationToken::new(),
        };
        let seat = Arc::new(seat);
        self.lock().insert(number, seat.clone());
        Taken { seats: self, number, seat }
    }

    /// Sends some away, if there are any that may go.
    pub(super) fn make_room(&self) {
        let now = Instant::now();
        let taken = self.lock();
        let may_go = |seat: &&Arc<Seat>| now.saturating_duration_since(seat.phase.since()) >= GRACE;
        let (mut idle, mut others) = (Vec::new(), Vec::new());
        for seat in taken.values().filter(|seat| !seat.leave.is_cancelled() && !seat.phase.is_busy()) {
            match seat.is_proven() {
                false => others.push(seat),
                true if seat.phase.is_idle() => idle.push(seat),
                // Until then it is what a gateway's connections do all the time.
                true if may_go(&seat) => others.push(seat),
                true => {}
            }
        }
        if others.is_empty() {
            let idle = idle.into_iter().filter(may_go);
            if let Some(longest) = idle.min_by_key(|seat| seat.phase.since()) {
                longest.leave.cancel();
            }
            return;
        }
        // Where all of them have just come, one of them may go soon, and until then nobody has to.
        others.retain(may_go);
        // Each key is read once: connections go on meanwhile, and what is sorted by keys that change has no order.
        others.sort_by_cached_key(|seat| (seat.is_proven(), seat.phase.since()));
        for seat in &others[..others.len().div_ceil(SHARE)] {
            seat.leave.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::phase::{PHASE_HEAD, PHASE_REQUEST, PHASE_WAITING, Waiting};
    use super::*;

    fn gone(seats: &[Taken<'_>]) -> Vec<usize> {
        let gone = seats.iter().enumerate().filter(|(_, taken)| taken.seat.leave.is_cancelled());
        gone.map(|(at, _)| at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_unproven_go_first_the_longest_idle_before_the_others_and_nobody_inside_a_request() {
        let all = Seats::default();
        let mut seats = Vec::new();
        for _ in 0..5 {
            seats.push(all.take());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        all.make_room();
        assert!(gone(&seats).is_empty(), "all have just come");
        tokio::time::advance(GRACE).await;
        seats[0].seat.prove();
        seats[1].seat.phase.enter(PHASE_REQUEST);
        seats[2].seat.phase.enter(PHASE_HEAD);
        tokio::time::advance(GRACE).await;
        for expected in [&[3][..], &[3, 4], &[2, 3, 4], &[0, 2, 3, 4], &[0, 2, 3, 4]] {
            all.make_room();
            assert_eq!(gone(&seats), expected);
        }
        drop(seats);
        assert!(all.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_proven_do_not_go_for_one_who_has_just_come_and_may_go_soon() {
        let all = Seats::default();
        let mut seats = vec![all.take()];
        seats[0].seat.prove();
        tokio::time::advance(10 * GRACE).await;
        seats.push(all.take());
        all.make_room();
        assert!(gone(&seats).is_empty());
        tokio::time::advance(GRACE).await;
        all.make_room();
        assert_eq!(gone(&seats), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_request_to_come_goes_before_who_is_proven_and_idle() {
        let all = Seats::default();
        let seats: Vec<_> = (0..5).map(|_| all.take()).collect();
        for proven in [0, 1, 2, 4] {
            seats[proven].seat.prove();
        }
        tokio::time::advance(10 * GRACE).await;
        // A head and bodies that do not come, of connections with and without a success before; and one of a request that is answered.
        seats[1].seat.phase.enter(PHASE_HEAD);
        tokio::time::advance(Duration::from_millis(10)).await;
        let waiting: Vec<_> = seats.iter().map(|taken| Waiting::of(&taken.seat.phase)).collect();
        let waits = [waiting[2].begin(), waiting[3].begin()];
        drop(waiting[4].begin());
        all.make_room();
        assert!(gone(&seats).is_empty(), "they may come in time");
        tokio::time::advance(GRACE).await;
        for expected in [&[3][..], &[1, 3], &[1, 2, 3], &[0, 1, 2, 3], &[0, 1, 2, 3]] {
            all.make_room();
            assert_eq!(gone(&seats), expected);
        }
        drop(waits);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_have_just_begun_on_proven_connections_do_not_keep_idle_ones() {
        let all = Seats::default();
        let seats = [all.take(), all.take()];
        seats.iter().for_each(|taken| taken.seat.prove());
        tokio::time::advance(GRACE).await;
        seats[1].seat.phase.enter(PHASE_WAITING);
        all.make_room();
        assert_eq!(gone(&seats), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_goes_before_who_is_proven_and_idle() {
        let all = Seats::default();
        let seats = [all.take(), all.take()];
        seats.iter().for_each(|taken| taken.seat.prove());
        tokio::time::advance(GRACE).await;
        seats[1].seat.phase.enter(PHASE_HEAD);
        seats[1].seat.ends();
        all.make_room();
        assert!(gone(&seats).is_empty(), "it will have gone in a moment");
        tokio::time::advance(GRACE).await;
        all.make_room();
        assert_eq!(gone(&seats), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_unproven_go_a_few_at_a_time() {
        let all = Seats::default();
        let seats: Vec<_> = (0..1000).map(|_| all.take()).collect();
        tokio::time::advance(GRACE).await;
        all.make_room();
        assert_eq!(gone(&seats).len(), 1000_usize.div_ceil(SHARE));
    }
}
