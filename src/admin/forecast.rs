//! Where a value will be if it goes on as it went: the line of least squares through the last minutes, as the alerts have
//! Prometheus draw it (`predict_linear`).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The line is of this time.
const HISTORY: Duration = Duration::from_secs(15 * 60);
/// Between two samples; more of them would not move the line.
const STEP: Duration = Duration::from_secs(30);
/// For as long as the alert waits before it fires nothing is foretold: a line through two points says nothing.
const LEAST: Duration = Duration::from_secs(5 * 60);

/// The samples, no more than [`HISTORY`] has steps.
#[derive(Debug, Default)]
pub(super) struct Trend(VecDeque<(Instant, f64)>);

impl Trend {
    pub(super) fn note(&mut self, now: Instant, value: f64) {
        if self.0.back().is_some_and(|(last, _)| now.duration_since(*last) < STEP) {
            return;
        }
        self.0.push_back((now, value));
        while self.0.front().is_some_and(|(first, _)| now.duration_since(*first) > HISTORY) {
            self.0.pop_front();
        }
    }

    /// The value so long after the last sample; `None` before there is enough to go by.
    pub(super) fn in_so_long(&self, ahead: Duration) -> Option<f64> {
        let ((first, _), (last, _)) = (self.0.front()?, self.0.back()?);
        if last.duration_since(*first) < LEAST {
            return None;
        }
        let points = || self.0.iter().map(|(at, value)| (at.duration_since(*first).as_secs_f64(), *value));
        let count = self.0.len() as f64;
        let (mean_time, mean) =
            points().fold((0.0, 0.0), |(t, v), (time, value)| (t + time / count, v + value / count));
        let (rise, run) = points().fold((0.0, 0.0), |(rise, run), (time, value)| {
            (rise + (time - mean_time) * (value - mean), run + (time - mean_time).powi(2))
        });
        let end = last.duration_since(*first) + ahead;
        Some(mean + rise / run * (end.as_secs_f64() - mean_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_steady_rise_is_foretold_and_forgotten_when_it_is_over() {
        let (mut trend, hour) = (Trend::default(), Duration::from_secs(3600));
        for minute in 0..20u32 {
            assert_eq!(trend.in_so_long(hour).is_some(), minute > 5, "minute {minute}");
            trend.note(Instant::now(), f64::from(minute) * 0.01);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let foretold = trend.in_so_long(hour).unwrap();
        assert!((foretold - 0.79).abs() < 1e-9, "{foretold}");
        for _ in 0..16 {
            trend.note(Instant::now(), 0.2);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let foretold = trend.in_so_long(hour).unwrap();
        assert!((foretold - 0.2).abs() < 1e-9, "{foretold}");
    }
}
