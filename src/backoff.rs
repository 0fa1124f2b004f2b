//! Back-off with full jitter: how long to wait before the next try. No I/O and no clock.

use std::time::Duration;

/// Waits that double from `first` to `most`, each drawn evenly from its upper half, so that many that failed
/// together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    /// In milliseconds, as in every session there are several.
    first_millis: u32,
    most_millis: u32,
    tries: u32,
}

impl Backoff {
    /// A back-off whose first wait is at most `first` and whose longest is at most `most`, both to the millisecond.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Backoff {
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Backoff { first_millis: millis(first), most_millis: millis(most), tries: 0 }
    }

    /// The next wait, between half and all of the current step.
    pub fn next_wait(&mut self) -> Duration {
        let millis = self.first_millis.saturating_mul(1 << self.tries.min(20)).min(self.most_millis);
        let step = Duration::from_millis(millis.into());
        self.tries = self.tries.saturating_add(1);
        step / 2 + jitter(step / 2)
    }

    /// How many waits were handed out since the last success.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Begins again at the first step, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// An evenly drawn part of `span`.
#[must_use]
pub fn jitter(span: Duration) -> Duration {
    let mut bytes = [0u8; 8];
    // Without entropy the wait is merely not spread: no reason to fail.
    if getrandom::fill(&mut bytes).is_err() {
        return span;
    }
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(u64::from_le_bytes(bytes)) * u128::from(nanos)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds_and_begin_again_after_a_success() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most);
        for step in [100, 200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis) {
            let wait = backoff.next_wait();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} is outside {:?}..{step:?}", step / 2);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
        for _ in 0..100 {
            assert!(backoff.next_wait() <= most);
        }
    }
}
