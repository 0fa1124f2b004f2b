//! Recent problems, for people: what was logged as a warning or an error, from the same event as its log line. Alike ones
//! are one with a count, and only so many are kept, so that a storm costs no more than a calm day.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::{Clock, Timestamp};

/// Problems that are told apart; the one that was longest ago gives way.
const KEPT: usize = 40;
/// Bytes of a problem's details, about.
const DETAIL_BYTES: usize = 400;
/// The field by which a line says for how many others it stands.
const LEFT_OUT: &str = "left_out";
/// The field of a line that stands for others only ([`crate::log`]).
const MORE: &str = "more";
/// Fields by which problems of one message are told apart. Others show how it was the last time.
const TELLING: &[&str] = &["sink", "gateway", "reason", "like"];

/// Recent problems; cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    kept: Arc<Mutex<Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    key: String,
    problem: Problem,
    first: Timestamp,
    last: Timestamp,
}

/// One problem, as people see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Problem {
    /// `warning` or `error`.
    pub(crate) level: &'static str,
    pub(crate) message: String,
    /// The fields of the last line.
    pub(crate) detail: String,
    /// How often it was.
    pub(crate) count: u64,
    pub(crate) first: String,
    pub(crate) last: String,
}

impl Problems {
    /// All that are kept, the latest first.
    pub(crate) fn list(&self) -> Vec<Problem> {
        let mut kept: Vec<_> = self
            .lock()
            .iter()
            .map(|one| {
                let (first, last) = (one.first.to_string(), one.last.to_string());
                (one.last, Problem { first, last, ..one.problem.clone() })
            })
            .collect();
        kept.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
        kept.into_iter().map(|(_, problem)| problem).collect()
    }

    fn note(&self, level: &'static str, line: Line, now: Timestamp) {
        let Line { message, detail, telling, count, .. } = line;
        let key = format!("{level} {message} {telling}");
        let mut kept = self.lock();
        if let Some(one) = kept.iter_mut().find(|one| one.key == key) {
            one.problem.count += count;
            (one.problem.detail, one.last) = (detail, now);
            return;
        }
        if kept.len() >= KEPT {
            let oldest = kept.iter().enumerate().min_by_key(|(_, one)| one.last).map(|(at, _)| at);
            oldest.map(|at| kept.swap_remove(at));
        }
        let (first, last) = (String::new(), String::new());
        let problem = Problem { level, message, detail, count, first, last };
        kept.push(Kept { key, problem, first: now, last: now });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Problems {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => return,
        };
        let mut line = Line { count: 1, ..Line::default() };
        event.record(&mut line);
        self.note(level, line, Clock::system().now());
    }
}

/// What one log line says.
#[derive(Default)]
struct Line {
    message: String,
    detail: String,
    telling: String,
    count: u64,
}

impl Line {
    fn add(&mut self, name: &str, value: &dyn Debug) {
        if name == "message" {
            self.message = format!("{value:?}");
        } else if self.detail.len() < DETAIL_BYTES && name != LEFT_OUT && !name.starts_with("log.") {
            let from = self.detail.len();
            let gap = if from == 0 { "" } else { ", " };
            self.detail.push_str(&format!("{gap}{name} {value:?}"));
            if TELLING.contains(&name) {
                self.telling.push_str(&self.detail[from..]);
            }
            let end = (0..=DETAIL_BYTES).rev().find(|end| self.detail.is_char_boundary(*end));
            if self.detail.len() > DETAIL_BYTES {
                self.detail.truncate(end.unwrap_or_default());
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            LEFT_OUT => self.count = self.count.saturating_add(value),
            MORE => self.count = value,
            _ => {}
        }
        self.add(field.name(), &value);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn alike_problems_are_one_with_a_count_and_the_details_of_the_last() {
        let problems = Problems::default();
        let subscriber = tracing_subscriber::registry().with(problems.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("this is none");
            for attempt in 1..=3 {
                tracing::warn!(sink = "kafka", reason = "transport", attempt, "delivery failed");
            }
            tracing::warn!(sink = "mqtt", reason = "transport", attempt = 1, "delivery failed");
            tracing::warn!(reason = "token_forged", left_out = 41u64, error = %"no such token", "push refused");
            tracing::error!(path = "/var", "the disk is full");
        });
        let found = problems.list();
        let seen = |at: fn(&Problem) -> bool| found.iter().find(|one| at(one)).unwrap();
        assert_eq!(found.len(), 4, "{found:#?}");
        let kafka = seen(|one| one.detail.contains("kafka"));
        assert_eq!((kafka.count, kafka.level), (3, "warning"));
        assert_eq!(kafka.detail, "sink kafka, reason transport, attempt 3");
        let refused = seen(|one| one.message == "push refused");
        assert_eq!(
            (refused.count, refused.detail.as_str()),
            (42, "reason token_forged, error no such token")
        );
        assert_eq!(seen(|one| one.level == "error").message, "the disk is full");
    }

    #[test]
    fn only_so_many_are_kept_and_none_is_long() {
        let problems = Problems::default();
        let subscriber = tracing_subscriber::registry().with(problems.clone());
        tracing::subscriber::with_default(subscriber, || {
            for sink in 0..3 * KEPT {
                tracing::warn!(sink = sink.to_string(), error = "ü".repeat(5000), "delivery failed");
            }
        });
        let found = problems.list();
        assert_eq!(found.len(), KEPT);
        assert!(found.iter().all(|one| one.detail.len() <= DETAIL_BYTES));
    }
}
