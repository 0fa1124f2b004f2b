//! Notices that the machine stood still: a virtual machine that was suspended or copied goes on with the clock of its timers where
//! that stood, and the gateways' clocks have gone on.
//!
//! Wall time shows it, once it is set right. It is also set for other reasons, so what is concluded from it does no harm where that
//! is wrong: heartbeats come sooner, and a refusal is less of a sign that somebody else is signed in.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};

/// Wall time that runs ahead by less is being corrected, and no session is in danger for it.
const LEAST: Duration = Duration::from_secs(5);

/// How long the machine has stood still in all, as far as we know.
#[derive(Debug)]
pub(super) struct Standstill {
    clock: Clock,
    /// Both clocks at the last look.
    looked: Mutex<(Timestamp, Instant)>,
    total_secs: AtomicU32,
    told_secs: AtomicU32,
}

impl Standstill {
    pub(super) fn new(clock: Clock, now: Instant) -> Standstill {
        let looked = Mutex::new((clock.now(), now));
        Standstill { clock, looked, total_secs: AtomicU32::new(0), told_secs: AtomicU32::new(0) }
    }

    /// Looks at both clocks. Returns what [`Standstill::total_secs`] does from then on.
    pub(super) fn look(&self) -> u32 {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, now) = (self.clock.now(), Instant::now());
        let ahead = wall.since(looked.0).saturating_sub(now.saturating_duration_since(looked.1));
        *looked = (wall, now);
        if ahead >= LEAST {
            let secs = u32::try_from(ahead.as_secs()).unwrap_or(u32::MAX);
            let total = self.total_secs().saturating_add(secs);
            self.total_secs.store(total, Ordering::Release);
        }
        self.total_secs()
    }

    /// How long it has stood still since this was last asked for, if at all.
    pub(super) fn take_news(&self) -> Option<Duration> {
        let total = self.look();
        let news = total.saturating_sub(self.told_secs.swap(total, Ordering::AcqRel));
        (news > 0).then(|| Duration::from_secs(news.into()))
    }

    /// What was found so far.
    pub(super) fn total_secs(&self) -> u32 {
        self.total_secs.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_that_jumps_ahead_counts_and_no_other_difference_of_the_clocks() {
        let clock = Clock::manual(Timestamp(1_784_529_722_590));
        let standstill = Standstill::new(clock.clone(), Instant::now());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(standstill.look(), 0, "wall time was set back");
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(2)).await;
            clock.advance(Duration::from_secs(3));
            assert_eq!(standstill.look(), 0, "it is slewed");
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        clock.advance(Duration::from_secs(87));
        assert_eq!(standstill.look(), 85);
        assert_eq!(standstill.take_news(), Some(Duration::from_secs(85)), "whoever has looked before");
        assert_eq!((standstill.take_news(), standstill.total_secs()), (None, 85));
    }
}
