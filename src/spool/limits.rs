//! How full the spool is, and what follows for pushes.
//!
//! Two high-water marks close the spool to pushes: bytes in use, and free space of the disk. It opens again below the low
//! mark of what closed it, so that it does not flap. Only pushes meet the mark, because the gateway repeats what is
//! refused. Answers to polls and events of a session's life come once: they have another tenth of the bytes. Sessions,
//! cursors and dead letters are stored whatever the marks say.
//!
//! Long before, at half and at four fifths, a warning says how much time is left as the spool grows now.
//! Pure: what is measured, and when, comes from the caller.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::event::normalise::RecordKind;

/// How much the spool may hold.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Live bytes, without those of dead letters, beyond which pushes are refused.
    pub max_bytes: u64,
    /// Pushes are taken again when no more than this many hundredths of `max_bytes` are in use.
    pub low_water_percent: u8,
    /// Free bytes of the disk below which pushes are refused.
    pub min_free_disk_bytes: u64,
    /// Bytes of dead letters beyond which no more are taken: the sinks that have one wait.
    pub max_dead_letter_bytes: u64,
}

/// A hundred million bytes hold about a hundred thousand events: this is a day's outage of a large centre.
const MAX_BYTES: u64 = 10_000_000_000;
/// Enough below the mark that pushes are taken for a while.
const LOW_WATER_PERCENT: u8 = 90;
/// The journal, a checkpoint and what sessions store fit in, so that the daemon does its other work on a full disk.
const MIN_FREE_DISK_BYTES: u64 = 100_000_000;
/// A million events that cannot go are a mistake that a person has to see before it grows.
const MAX_DEAD_LETTER_BYTES: u64 = 1_000_000_000;

impl Default for SpoolLimits {
    fn default() -> SpoolLimits {
        SpoolLimits {
            max_bytes: MAX_BYTES,
            low_water_percent: LOW_WATER_PERCENT,
            min_free_disk_bytes: MIN_FREE_DISK_BYTES,
            max_dead_letter_bytes: MAX_DEAD_LETTER_BYTES,
        }
    }
}

/// What a sink does at the high-water mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// Keep every record for it: pushes are refused until it has caught up.
    #[default]
    Block,
    /// Give up the oldest records that only sinks of this kind still need, counted.
    Shed,
}

/// Fractions of the capacity at which a warning is due.
const WARNINGS: [f64; 2] = [0.5, 0.8];
/// How far below a fraction it must fall before its warning can be due again.
const CALM: f64 = 0.05;
/// Growth is measured over about this time.
const GROWTH_SAMPLES: usize = 13;
const GROWTH_STEP: Duration = Duration::from_secs(5);

/// What the marks say after a measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Notice {
    /// A fraction was passed: in hundredths, and the time left as it grows now.
    Filling { percent: u64, left: Option<Duration> },
    /// From now on pushes are refused.
    Closed(Mark),
    /// From now on pushes are taken again.
    Opened,
}

/// Which mark was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// `max_bytes`.
    Bytes,
    /// `min_free_disk_bytes`.
    Disk,
}

/// The marks and what was measured last.
#[derive(Debug)]
pub(super) struct Gauge {
    limits: SpoolLimits,
    used: u64,
    /// Free bytes of the disk; `None` where the system does not say.
    free_disk: Option<u64>,
    closed: Option<Mark>,
    /// How many of the warnings were given.
    warned: usize,
    samples: VecDeque<(Instant, u64)>,
}

impl Gauge {
    pub(super) fn new(limits: SpoolLimits) -> Gauge {
        Gauge { limits, used: 0, free_disk: None, closed: None, warned: 0, samples: VecDeque::new() }
    }

    /// A fresh measurement: gives what a person must be told.
    pub(super) fn measured(&mut self, used: u64, free_disk: Option<u64>, now: Instant) -> Vec<Notice> {
        (self.used, self.free_disk) = (used, free_disk);
        if self.samples.back().is_none_or(|(last, _)| now.duration_since(*last) >= GROWTH_STEP) {
            self.samples.push_back((now, used));
            if self.samples.len() > GROWTH_SAMPLES {
                self.samples.pop_front();
            }
        }
        let mut notices = self.warn(now);
        let before = self.closed;
        self.move_gate();
        match (before, self.closed) {
            (None, Some(mark)) => notices.push(Notice::Closed(mark)),
            (Some(_), None) => notices.push(Notice::Opened),
            _ => {}
        }
        notices
    }

    /// So many bytes were stored since. Meeting a mark closes at once; the notice comes with the next measurement.
    pub(super) fn added(&mut self, bytes: u64) {
        self.used += bytes;
        self.free_disk = self.free_disk.map(|free| free.saturating_sub(bytes));
    }

    /// So many bytes were freed since.
    pub(super) fn freed(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Whether a record of this kind is taken.
    pub(super) fn admits(&self, kind: RecordKind) -> bool {
        match kind {
            RecordKind::Push => self.mark().is_none(),
            RecordKind::Poll | RecordKind::Lifecycle => self.used < self.limits.max_bytes / 10 * 11,
        }
    }

    /// The mark that refuses pushes now.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.closed.or_else(|| self.met())
    }

    /// Bytes in use, as far as that is known.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Bytes to free until the low mark.
    pub(super) fn excess(&self) -> u64 {
        self.used.saturating_sub(self.low_water())
    }

    /// Bytes in use as a fraction of what the limit and the disk allow.
    pub(super) fn ratio(&self) -> f64 {
        self.used as f64 / self.capacity().max(1) as f64
    }

    fn capacity(&self) -> u64 {
        let disk =
            self.free_disk.map(|free| self.used + free.saturating_sub(self.limits.min_free_disk_bytes));
        disk.map_or(self.limits.max_bytes, |disk| disk.min(self.limits.max_bytes))
    }

    fn low_water(&self) -> u64 {
        self.limits.max_bytes / 100 * u64::from(self.limits.low_water_percent)
    }

    fn met(&self) -> Option<Mark> {
        if self.used >= self.limits.max_bytes {
            Some(Mark::Bytes)
        } else if self.free_disk.is_some_and(|free| free < self.limits.min_free_disk_bytes) {
            Some(Mark::Disk)
        } else {
            None
        }
    }

    fn move_gate(&mut self) {
        let least_free = self.limits.min_free_disk_bytes / 10 * 11;
        let stays = match self.closed {
            None => false,
            Some(Mark::Bytes) => self.used > self.low_water(),
            Some(Mark::Disk) => self.free_disk.is_some_and(|free| free < least_free),
        };
        if !stays {
            self.closed = self.met();
        }
    }

    fn warn(&mut self, now: Instant) -> Vec<Notice> {
        let ratio = self.ratio();
        while self.warned > 0 && ratio < WARNINGS[self.warned - 1] - CALM {
            self.warned -= 1;
        }
        let passed = WARNINGS.iter().filter(|level| ratio >= **level).count();
        if passed <= self.warned {
            return Vec::new();
        }
        self.warned = passed;
        let percent = (ratio * 100.0) as u64;
        vec![Notice::Filling { percent, left: self.time_left(now) }]
    }

    /// Until the capacity is reached as it grows now; `None` when it does not grow.
    fn time_left(&self, now: Instant) -> Option<Duration> {
        let (since, then) = self.samples.front()?;
        let seconds = now.duration_since(*since).as_secs_f64();
        let grown = self.used.saturating_sub(*then) as f64;
        let left = self.capacity().saturating_sub(self.used) as f64 * seconds / grown;
        (grown > 0.0 && seconds > 0.0).then(|| Duration::try_from_secs_f64(left).ok()).flatten()
    }
}

/// Free bytes of the disk that holds this folder, for those who are not root.
pub(super) fn free_disk(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    // One without a limit says of all its numbers that they are 0.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits {
        max_bytes: 1000,
        low_water_percent: 90,
        min_free_disk_bytes: 100,
        max_dead_letter_bytes: 1,
    };

    struct Bench {
        gauge: Gauge,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { gauge: Gauge::new(LIMITS), now: Instant::now() }
        }

        /// Six seconds later.
        fn measured(&mut self, used: u64, free: u64) -> Vec<Notice> {
            self.now += Duration::from_secs(6);
            self.gauge.measured(used, Some(free), self.now)
        }

        fn takes_pushes(&self) -> bool {
            self.gauge.admits(RecordKind::Push)
        }
    }

    #[test]
    fn pushes_are_refused_from_the_high_mark_down_to_the_low_one() {
        let mut bench = Bench::new();
        bench.measured(999, 9_999);
        assert!(bench.takes_pushes());
        assert_eq!(bench.measured(1000, 9_999), [Notice::Closed(Mark::Bytes)]);
        assert!(bench.measured(901, 9_999).is_empty());
        assert!(!bench.takes_pushes());
        assert_eq!(bench.gauge.excess(), 1);
        assert_eq!(bench.measured(900, 9_999), [Notice::Opened]);
        assert!(bench.takes_pushes());
    }

    #[test]
    fn what_is_stored_between_measurements_meets_the_mark_at_once() {
        let mut bench = Bench::new();
        bench.measured(900, 9_999);
        bench.gauge.added(99);
        assert!(bench.takes_pushes());
        bench.gauge.added(1);
        assert!(!bench.takes_pushes());
        bench.gauge.freed(1);
        assert!(bench.takes_pushes());
    }

    #[test]
    fn pushes_are_refused_before_the_disk_is_full_and_taken_when_there_is_a_tenth_more() {
        let mut bench = Bench::new();
        bench.measured(10, 100);
        assert!(bench.takes_pushes());
        bench.gauge.added(1);
        assert!(!bench.takes_pushes());
        assert_eq!(bench.measured(11, 99).last(), Some(&Notice::Closed(Mark::Disk)));
        assert!(bench.measured(11, 109).is_empty());
        assert_eq!(bench.measured(11, 110), [Notice::Opened]);
        assert!(bench.measured(11, 5_000).is_empty());
        assert!(bench.takes_pushes());
    }

    #[test]
    fn polls_and_events_of_sessions_have_a_tenth_more() {
        let mut bench = Bench::new();
        bench.measured(1099, 0);
        for kind in [RecordKind::Poll, RecordKind::Lifecycle] {
            assert!(bench.gauge.admits(kind));
        }
        bench.measured(1100, 0);
        for kind in [RecordKind::Push, RecordKind::Poll, RecordKind::Lifecycle] {
            assert!(!bench.gauge.admits(kind));
        }
    }

    #[test]
    fn half_and_four_fifths_are_told_once_with_the_time_left() {
        let mut bench = Bench::new();
        assert!(bench.measured(440, 9_999).is_empty());
        // Sixty bytes in six seconds: five hundred take fifty.
        let half = Notice::Filling { percent: 50, left: Some(Duration::from_secs(50)) };
        assert_eq!(bench.measured(500, 9_999), [half]);
        assert!(bench.measured(460, 9_999).is_empty());
        assert!(bench.measured(510, 9_999).is_empty(), "it was not far enough below");
        assert!(matches!(bench.measured(800, 9_999)[..], [Notice::Filling { percent: 80, .. }]));
        assert!(bench.measured(440, 9_999).is_empty());
        assert!(matches!(bench.measured(900, 9_999)[..], [Notice::Filling { percent: 90, .. }]));
    }

    #[test]
    fn a_disk_that_fills_up_counts_in_the_ratio() {
        let mut bench = Bench::new();
        bench.measured(300, 200);
        assert!((bench.gauge.ratio() - 0.75).abs() < 1e-9, "{}", bench.gauge.ratio());
        bench.measured(300, 9_999);
        assert!((bench.gauge.ratio() - 0.3).abs() < 1e-9);
    }
}
