//! Wall time. The only module that may read the system clock, so that tests can set it.
//!
//! Timers (heartbeats, back-off, time-outs) use tokio's clock instead, which tests can pause.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment of wall time in milliseconds since the Unix epoch, the unit the gateway uses in `eventGenTime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// The last millisecond of the year 9999, beyond which RFC 3339 has no notation.
const LATEST_MILLIS: u64 = 253_402_300_799_999;

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved back by `duration`.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This moment moved forward by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A moment as text: `2026-11-24T03:32:59.120Z`. Every event has several, so they are written without `format!`.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339Text([u8; 24]);

impl Rfc3339Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Timestamp {
    /// RFC 3339 in UTC with milliseconds, as CloudEvents asks.
    #[must_use]
    pub fn rfc3339(self) -> Rfc3339Text {
        let millis = self.0.min(LATEST_MILLIS);
        let (year, month, day) = civil(millis / MILLIS_OF_A_DAY);
        let of_day = millis % MILLIS_OF_A_DAY;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (range, value) in [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, of_day / 3_600_000),
            (14..16, of_day / 60_000 % 60),
            (17..19, of_day / 1000 % 60),
            (20..23, of_day % 1000),
        ] {
            let mut rest = value;
            for digit in text[range].iter_mut().rev() {
                *digit = DIGITS[(rest % 10) as usize];
                rest /= 10;
            }
        }
        Rfc3339Text(text)
    }
}

const DIGITS: &[u8; 10] = b"0123456789";
const MILLIS_OF_A_DAY: u64 = 86_400_000;

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01. Years begin in March here, so that the
/// day that some have more is their last (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as CloudEvents asks: `2026-11-24T03:32:59.120Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rfc3339().as_str())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = OffsetDateTime::parse(text, &Rfc3339)?;
        Ok(Timestamp(u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)))
    }
}

/// Where wall time comes from: the system, or a value that a test moves.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Clock {
        Clock { manual: None }
    }

    /// A clock that stands at `start` until it is moved by [`Clock::advance`]. Clones share the time.
    #[must_use]
    pub fn manual(start: Timestamp) -> Clock {
        Clock { manual: Some(Arc::new(AtomicU64::new(start.0))) }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.since_epoch().as_millis()).unwrap_or(u64::MAX))
    }

    /// The time now in nanoseconds since the Unix epoch, as spans have it.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.since_epoch().as_nanos()).unwrap_or(u64::MAX)
    }

    fn since_epoch(&self) -> Duration {
        match &self.manual {
            Some(time) => Duration::from_millis(time.load(Ordering::Acquire)),
            None => {
                #[expect(clippy::disallowed_methods, reason = "this module is the one place that reads it")]
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                since.unwrap_or_default()
            }
        }
    }

    /// Moves a manual clock forward; a system clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.manual {
            time.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::AcqRel);
        }
    }

    /// Moves a manual clock back, as a system's clock is put right.
    #[cfg(test)]
    pub(crate) fn put_back(&self, by: Duration) {
        if let Some(time) = &self.manual {
            time.fetch_sub(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc3339_with_milliseconds_and_read_back() {
        let t = Timestamp(1_784_529_722_590);
        assert_eq!(t.to_string(), "2026-07-20T06:42:02.590Z");
        assert_eq!("2026-07-20T06:42:02.590Z".parse::<Timestamp>().unwrap(), t);
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_until_the_year_9999_is_printed_as_another_calendar_has_it() {
        for day in 0..=LATEST_MILLIS / MILLIS_OF_A_DAY {
            let millis = day * MILLIS_OF_A_DAY + day % MILLIS_OF_A_DAY;
            let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap();
            let date = (moment.year(), u8::from(moment.month()), moment.day());
            let (year, month, day) = civil(millis / MILLIS_OF_A_DAY);
            assert_eq!(
                (i32::try_from(year).unwrap(), u8::try_from(month).unwrap(), u8::try_from(day).unwrap()),
                date
            );
        }
        for millis in (0..LATEST_MILLIS).step_by(86_399_999_777) {
            assert_eq!(Timestamp(millis).to_string().parse::<Timestamp>().unwrap(), Timestamp(millis));
        }
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp(5));
        let other = clock.clone();
        clock.advance(Duration::from_secs(1));
        assert_eq!((other.now(), other.nanos()), (Timestamp(1005), 1_005_000_000));
    }
}
