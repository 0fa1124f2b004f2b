//! Whether this machine stood still of late: a request may have waited in the kernel then, for as long as that was, and whatever its
//! connection tells by its end may be older than our answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// A look that is later than this was held up.
const LATE: Duration = Duration::from_millis(750);
/// So long after a standstill there may be requests that waited.
const AFTERMATH: Duration = Duration::from_secs(5);

/// When somebody looked, in milliseconds after `began`.
#[derive(Debug)]
pub(super) struct Standstill {
    began: Instant,
    looked: AtomicU64,
    /// When the last look came that was late, and one more; 0 while none was.
    late: AtomicU64,
}

impl Standstill {
    pub(super) fn new() -> Standstill {
        Standstill { began: Instant::now(), looked: AtomicU64::new(0), late: AtomicU64::new(0) }
    }

    /// Looks, without end.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn watch(&self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.looked.store(self.millis(), Ordering::Release);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        if self.is_late() {
            self.late.store(self.millis() + 1, Ordering::Release);
        }
        self.looked.store(self.millis(), Ordering::Release);
    }

    /// Whether it stood still a short while ago, or has only just gone on.
    pub(super) fn is_recent(&self) -> bool {
        let late = self.late.load(Ordering::Acquire);
        let aftermath = AFTERMATH.as_millis();
        self.is_late() || (late > 0 && u128::from(self.millis().saturating_sub(late - 1)) < aftermath)
    }

    fn is_late(&self) -> bool {
        let since = self.millis().saturating_sub(self.looked.load(Ordering::Acquire));
        u128::from(since) > LATE.as_millis()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_known_before_the_next_look_and_for_a_while_after_it() {
        let standstill = Standstill::new();
        for _ in 0..8 {
            tokio::time::advance(LOOK).await;
            standstill.look();
            assert!(!standstill.is_recent());
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(standstill.is_recent(), "nobody has looked yet");
        for _ in 0..20 {
            standstill.look();
            assert!(standstill.is_recent());
            tokio::time::advance(LOOK).await;
        }
        standstill.look();
        assert!(!standstill.is_recent());
    }
}
