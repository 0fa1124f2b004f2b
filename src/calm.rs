//! Repeated log lines at a calm rate: the first at once, then one an interval that says how many were left out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line of a kind in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides whether a line of a kind is due. Kinds are static names, so their number is bounded.
#[derive(Debug, Default)]
pub struct Calm {
    kinds: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl Calm {
    /// `Some(left_out)` when a line of this kind is due; the number is how many were left out since the last one.
    pub fn due(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(kind) {
            Some((last, left_out)) if now.duration_since(*last) < INTERVAL => {
                *left_out += 1;
                None
            }
            Some((last, left_out)) => {
                *last = now;
                Some(std::mem::take(left_out))
            }
            None => {
                kinds.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_each_kind_is_due_and_an_immediate_second_is_not() {
        let calm = Calm::default();
        assert_eq!(calm.due("a"), Some(0));
        assert_eq!(calm.due("a"), None);
        assert_eq!(calm.due("b"), Some(0));
    }
}
