//! The metrics of one sink, looked up once.

use prometheus::{Histogram, IntCounter, IntGauge};

use crate::metrics::Metrics;
use crate::sink::DeliveryError;

pub(super) struct Meter {
    sink: String,
    metrics: Metrics,
    delivered: IntCounter,
    published_again: IntCounter,
    duration: Histogram,
    in_flight: IntGauge,
    state: IntGauge,
}

/// What became of a copy of a dead letter, as label `outcome`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copied {
    Confirmed,
    GivenUp,
}

/// States of a sink, as its gauge shows them.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Stopped = -1,
    Retrying = 0,
    Delivering = 1,
}

impl Meter {
    pub(super) fn new(sink: &str, metrics: Metrics) -> Meter {
        Meter {
            delivered: metrics.sink_delivered.with_label_values(&[sink]),
            published_again: metrics.sink_published_again.with_label_values(&[sink]),
            duration: metrics.sink_delivery_duration.with_label_values(&[sink]),
            in_flight: metrics.sink_in_flight.with_label_values(&[sink]),
            state: metrics.sink_state.with_label_values(&[sink]),
            sink: sink.to_owned(),
            metrics,
        }
    }

    /// An event was confirmed, so long after its receipt; a dead letter's age says nothing of the sink.
    pub(super) fn delivered(&self, took_secs: Option<f64>) {
        self.delivered.inc();
        if let Some(took) = took_secs {
            self.duration.observe(took);
        }
    }

    /// An event was handed over that had been before, in a life that failed.
    pub(super) fn published_again(&self) {
        self.published_again.inc();
    }

    /// Repeated events were left out.
    pub(super) fn repeats_dropped(&self, count: usize) {
        self.metrics.sink_repeats_dropped.with_label_values(&[&self.sink]).inc_by(count as u64);
    }

    /// Events were left to other sinks.
    pub(super) fn unrouted(&self, count: usize) {
        if count > 0 {
            self.metrics.sink_unrouted.with_label_values(&[&self.sink]).inc_by(count as u64);
        }
    }

    pub(super) fn in_flight(&self, count: usize) {
        self.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn state(&self, state: State) {
        self.state.set(state as i64);
    }

    pub(super) fn failed(&self, error: &DeliveryError) {
        self.metrics.sink_failures.with_label_values(&[self.sink.as_str(), error.reason]).inc();
    }

    pub(super) fn retried(&self, error: &DeliveryError) {
        self.metrics.sink_retries.with_label_values(&[self.sink.as_str(), error.reason]).inc();
    }

    pub(super) fn set_aside(&self, reason: &str) {
        self.metrics.sink_dead_letters.with_label_values(&[self.sink.as_str(), reason]).inc();
    }

    pub(super) fn copied(&self, outcome: Copied) {
        let outcome = match outcome {
            Copied::Confirmed => "confirmed",
            Copied::GivenUp => "given_up",
        };
        self.metrics.sink_dead_letter_copies.with_label_values(&[self.sink.as_str(), outcome]).inc();
    }

    pub(super) fn replayed(&self, outcome: &str) {
        self.metrics.replays.with_label_values(&[self.sink.as_str(), outcome]).inc();
    }
}
