//! How long pushes took, from the first byte sent to the answer read: a histogram fine enough to compare two phases of
//! one run by their percentiles.

use std::time::Duration;

/// Each bucket ends 5 % above the one before.
const GROWTH: f64 = 1.05;
/// Where the first bucket ends, in seconds.
const FIRST: f64 = 50e-6;
/// The last bucket ends above a minute.
const BUCKETS: usize = 290;

/// Times of pushes that were answered with success.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    most: Duration,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { counts: vec![0; BUCKETS], most: Duration::ZERO }
    }
}

impl Latencies {
    /// Notes one.
    pub(super) fn add(&mut self, took: Duration) {
        let bucket = (0..BUCKETS - 1).find(|bucket| took <= end(*bucket)).unwrap_or(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.most = self.most.max(took);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The longest.
    #[must_use]
    pub fn most(&self) -> Duration {
        self.most
    }

    /// The time within which the share `quantile` of them (0 to 1) was answered, at most 5 % too high. Zero when there
    /// are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 pushes")]
        let wanted = quantile * self.count() as f64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 pushes")]
            if *count > 0 && seen as f64 >= wanted {
                return end(bucket).min(self.most);
            }
        }
        self.most
    }
}

fn end(bucket: usize) -> Duration {
    Duration::from_secs_f64(FIRST * GROWTH.powi(i32::try_from(bucket).unwrap_or(i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_five_percent_too_high_and_never_above_the_longest() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.99), Duration::ZERO);
        for millis in 1..=1000 {
            latencies.add(Duration::from_millis(millis));
        }
        assert_eq!((latencies.count(), latencies.most()), (1000, Duration::from_secs(1)));
        for (quantile, millis) in [(0.5, 500), (0.99, 990), (0.999, 999)] {
            let found = latencies.quantile(quantile);
            let exact = Duration::from_millis(millis);
            assert!(found >= exact && found <= exact.mul_f64(1.051), "{quantile}: {found:?}");
        }
        assert_eq!(latencies.quantile(1.0), Duration::from_secs(1));
        latencies.add(Duration::from_secs(600));
        assert_eq!(latencies.most(), Duration::from_secs(600));
    }
}
