//! What came of it, read from both ends: the books of the simulator, the metrics of the relay, and what the consumer
//! has seen. Anything lost is named.

use std::time::Duration;

use prometheus::core::Metric;
use prometheus::{Histogram, IntCounterVec};

use super::kafka::Seen;
use super::place::GATEWAY;
use crate::metrics::Metrics;
use crate::simulate::Statistics;

/// The name of the sink of each broker.
pub(super) const KAFKA: &str = "kafka";
pub(super) const MQTT: &str = "mqtt";

/// All figures of a demo.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    pub(super) took: Duration,
    pub(super) gateway: Statistics,
    pub(super) metrics: &'a Metrics,
    pub(super) seen: &'a Seen,
    pub(super) mqtt: bool,
}

impl Figures<'_> {
    /// Events that a sink's broker has confirmed.
    pub(super) fn delivered(&self, sink: &str) -> u64 {
        self.metrics.sink_delivered.with_label_values(&[sink]).get()
    }

    /// Whether everything that was made has come to its end everywhere.
    pub(super) fn settled(&self) -> bool {
        let seen = self.seen.total();
        self.gateway.waiting == 0
            && self.seen.events >= self.gateway.total.delivered
            && self.delivered(KAFKA) >= seen
            && (!self.mqtt || self.delivered(MQTT) >= seen)
    }

    /// One line of where things stand.
    pub(super) fn interim(&self) -> String {
        let total = &self.gateway.total;
        format!(
            "{} agents signed in, {} events, {} heartbeats, {} GUID changes, pushes answered in {} (p99)",
            self.gateway.signed_in,
            self.seen.total(),
            total.heartbeats,
            self.guid_changes(),
            millis(self.push_quantile(0.99)),
        )
    }

    /// The summary, as label and text.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let total = &self.gateway.total;
        let signed_out: u64 = total.sign_outs.values().sum();
        let mut lines = vec![
            (
                "pushes",
                format!(
                    "{} acknowledged, {} failed, {} repeated; answered in {} (p50), {} (p99)",
                    total.pushes_acknowledged,
                    total.pushes_failed,
                    total.pushes_repeated,
                    millis(self.push_quantile(0.5)),
                    millis(self.push_quantile(0.99)),
                ),
            ),
            (
                "events",
                format!(
                    "{} made by the gateway, {} acknowledged; with {} of ccrelay's own (sessions, ended calls) {} in all",
                    total.events,
                    total.delivered,
                    self.seen.own,
                    self.seen.total()
                ),
            ),
            (
                "Kafka",
                format!(
                    "{} confirmed, {} seen by the consumer, {} seen twice",
                    self.delivered(KAFKA),
                    self.seen.total(),
                    self.seen.again
                ),
            ),
        ];
        if self.mqtt {
            lines.push(("MQTT", format!("{} confirmed", self.delivered(MQTT))));
        }
        lines.push((
            "sessions",
            format!(
                "{} sign-ins, {} heartbeats, {} GUID changes; {signed_out} agents signed out",
                total.sign_ins,
                total.heartbeats,
                self.guid_changes()
            ),
        ));
        // Each sign-in and each heartbeat hands over a token.
        let tokens = total.sign_ins + total.heartbeats;
        lines.push(("tokens", format!("{tokens} handed over, {} pushes refused", self.refused())));
        lines
    }

    /// What was lost, if anything was, and what there is too much of: one event that came as two would make up for a lost one.
    pub(super) fn losses(&self) -> Vec<String> {
        let (total, seen) = (&self.gateway.total, self.seen);
        let mut losses = Vec::new();
        let mut note = |count: u64, what: &str| {
            if count > 0 {
                losses.push(format!("{count} {what}"));
            }
        };
        note(self.gateway.waiting as u64, "events were never taken from the gateway");
        note(total.discarded, "events were discarded by the gateway, whose agents were signed out");
        for (agent, counts) in &self.gateway.agents {
            let reached = seen.events_of(agent.as_str());
            let missing = counts.delivered.saturating_sub(reached);
            note(missing, &format!("acknowledged events of agent {agent} did not reach the consumer"));
            let doubled = reached.saturating_sub(counts.events);
            note(doubled, &format!("events of agent {agent} reached it beyond those that the gateway made"));
        }
        note(seen.missing, "numbers are missing in the sequences of events");
        note(seen.unreadable, "records are not events");
        if self.mqtt {
            note(seen.total().saturating_sub(self.delivered(MQTT)), "events were not confirmed by MQTT");
        }
        note(sum(&self.metrics.sink_dead_letters), "events were set aside");
        losses
    }

    fn guid_changes(&self) -> u64 {
        self.metrics.guid_changes.with_label_values(&[GATEWAY]).get()
    }

    fn refused(&self) -> u64 {
        sum(&self.metrics.push_failures)
    }

    fn push_quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.metrics.push_duration.with_label_values(&["stored"]), q)
    }
}

/// All series of a counter together.
fn sum(counter: &IntCounterVec) -> u64 {
    use prometheus::core::Collector;
    let values = counter.collect();
    let series = values.iter().flat_map(|family| family.get_metric());
    // Counters of whole numbers, in a format that has only fractions.
    series.map(|metric| metric.get_counter().get_value() as u64).sum()
}

/// The quantile of a histogram in seconds, as Prometheus estimates it: evenly spread within a bucket.
fn quantile(histogram: &Histogram, q: f64) -> Option<f64> {
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    if count == 0 {
        return None;
    }
    let rank = q * count as f64;
    let (mut lower, mut below) = (0.0, 0.0);
    for bucket in histogram.get_bucket() {
        let (upper, up_to) = (bucket.upper_bound(), bucket.cumulative_count() as f64);
        if up_to >= rank && up_to > below {
            return Some(lower + (upper - lower) * (rank - below) / (up_to - below));
        }
        (lower, below) = (upper, up_to);
    }
    Some(lower)
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::kafka::tests::seen;
    use prometheus::HistogramOpts;

    #[test]
    fn a_quantile_lies_within_the_bucket_it_falls_in() {
        let options = HistogramOpts::new("name", "help").buckets(vec![0.001, 0.002, 0.004]);
        let histogram = Histogram::with_opts(options).unwrap();
        assert_eq!(quantile(&histogram, 0.5), None);
        for seconds in [0.0005, 0.0005, 0.0015, 0.003] {
            histogram.observe(seconds);
        }
        assert_eq!(quantile(&histogram, 0.5), Some(0.001));
        assert_eq!(quantile(&histogram, 0.75), Some(0.002));
        assert_eq!(quantile(&histogram, 1.0), Some(0.004));
        histogram.observe(9.0);
        assert_eq!(quantile(&histogram, 1.0), Some(0.004));
    }

    #[test]
    fn what_the_consumer_lacks_is_a_loss() {
        let metrics = Metrics::new([GATEWAY], [(KAFKA, &[][..])]).unwrap();
        let seen = Seen::default();
        let mut gateway = Statistics::default();
        gateway.total.delivered = 2;
        let agent = crate::event::AgentId::parse("1001").unwrap();
        gateway.agents.insert(agent, gateway.total.clone());
        let figures = Figures { took: Duration::ZERO, gateway, metrics: &metrics, seen: &seen, mqtt: false };
        assert!(!figures.settled());
        let losses = figures.losses();
        assert_eq!(losses, ["2 acknowledged events of agent 1001 did not reach the consumer"]);
    }

    #[test]
    fn what_came_twice_under_two_numbers_and_what_lacks_at_the_begin_is_not_passed_over() {
        let metrics = Metrics::new([GATEWAY], [(KAFKA, &[][..])]).unwrap();
        let mut gateway = Statistics::default();
        (gateway.total.events, gateway.total.delivered) = (2, 2);
        gateway.agents.insert(crate::event::AgentId::parse("1001").unwrap(), gateway.total.clone());
        let losses = |sequences: &[u64]| {
            let (seen, gateway) = (seen("1001", sequences), gateway.clone());
            Figures { took: Duration::ZERO, gateway, metrics: &metrics, seen: &seen, mqtt: false }.losses()
        };
        assert_eq!(losses(&[0, 1]), [""; 0]);
        let doubled = "1 events of agent 1001 reached it beyond those that the gateway made";
        assert_eq!(losses(&[0, 1, 2]), [doubled]);
        assert_eq!(losses(&[1, 2]), ["1 numbers are missing in the sequences of events"]);
    }
}
