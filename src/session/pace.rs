//! Spreads sign-ins: after a start or a gateway's return, thousands of agents must not sign in at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Hands out times, evenly spaced, first come first served.
#[derive(Debug)]
pub(super) struct Pace {
    spacing: Duration,
    /// The first time not yet handed out.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Pace {
        Pace { spacing: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(None) }
    }

    /// The time of the caller's turn, not before `now`.
    pub(super) fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.spacing);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spaced_and_an_idle_time_is_not_saved_up() {
        let pace = Pace::new(10);
        let now = Instant::now();
        let turns: Vec<_> = (0..3).map(|_| pace.reserve(now).duration_since(now).as_millis()).collect();
        assert_eq!(turns, [0, 100, 200]);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.reserve(later), later);
        assert_eq!(pace.reserve(later), later + Duration::from_millis(100));
    }
}
