//! Logs at a calm rate: a client library in trouble says the same thing many times a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line in so much time; the others are counted.
const INTERVAL: Duration = Duration::from_secs(5);

/// Lets one line through per interval.
#[derive(Debug, Default)]
pub(super) struct Calm {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Calm {
    /// Whether a line may be written now: then how many were held back since the last one.
    pub(super) fn admit(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|time| time.elapsed() < INTERVAL) {
            last.1 += 1;
            return None;
        }
        let suppressed = std::mem::take(&mut last.1);
        last.0 = Some(Instant::now());
        Some(suppressed)
    }
}
