//! The pace of the way through: rates over the last seconds and latencies over the last minute, from the same metrics that
//! Prometheus reads. Samples are taken all the time, one series for all who look: whoever is woken sees also what was before
//! they looked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use prometheus::Histogram;
use prometheus::core::Metric;
use serde::Serialize;
use tokio::time::Instant;

use super::forecast::Trend;
use crate::metrics::{
    CONNECTION_FAILURE_REASONS, EVENT_CATEGORIES, GUESS_ANSWERS, LISTENERS, Metrics, PUSH_FAILURE_REASONS,
    SESSION_EVENT_LOSS_REASONS, SESSION_LOSS_REASONS,
};

/// How often a sample is to be taken.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// Samples kept: five minutes of history.
const SAMPLES: usize = 151;
/// Rates are of this time.
const RATE: Duration = Duration::from_secs(10);
/// How far ahead it is looked whether the spool is full by then, as the alert does.
const FORECAST: Duration = Duration::from_secs(4 * 3600);
/// Pushes that the gateway gave up are counted over this time, as the alert does: an agent has no more than that.
const GIVEN_UP: Duration = Duration::from_secs(120);
/// Agents without pushes are counted over this time, as the alert does: who is thrown out for it is away in between.
const SILENCE: Duration = Duration::from_secs(180);
/// Latencies are of this time.
const LATENCY: Duration = Duration::from_secs(60);

/// A peer that is no friend of our certificate, most likely the gateway.
const OWN_REFUSED: &str = "tls_own_certificate_refused";

/// Counters at one moment.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    received: u64,
    push_failures: BTreeMap<&'static str, u64>,
    /// By gateway.
    session_losses: BTreeMap<String, u64>,
    /// Agents who are signed in and of whom no push has come, by gateway.
    without_pushes: BTreeMap<String, u64>,
    active: BTreeMap<String, u64>,
    session_events_lost: BTreeMap<String, u64>,
    polls_unanswered: BTreeMap<String, u64>,
    log_lines_dropped: u64,
    /// By gateway.
    sign_in_failures: BTreeMap<String, u64>,
    shed: BTreeMap<String, u64>,
    delivered: BTreeMap<String, u64>,
    behind: BTreeMap<String, u64>,
    handshake_failures: BTreeMap<&'static str, u64>,
    guesses: BTreeMap<&'static str, u64>,
    unknown_events: u64,
    /// How late heartbeats were, by gateway.
    lateness: BTreeMap<String, Buckets>,
    answers: Buckets,
    commits: Buckets,
    deliveries: BTreeMap<String, Buckets>,
}

/// Bounds of a histogram with how many observations were below each.
type Buckets = Vec<(f64, u64)>;

/// A latency: at most so long, or longer than the longest that is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) secs: f64,
    pub(super) over: bool,
}

/// The pace, for people.
#[derive(Debug, Serialize)]
pub(super) struct Pace {
    received_per_sec: f64,
    refused_per_sec: f64,
    answer_p50: Option<Latency>,
    answer_p99: Option<Latency>,
    commit_p99: Option<Latency>,
    sinks: BTreeMap<String, SinkPace>,
}

#[derive(Debug, Serialize)]
struct SinkPace {
    delivered_per_sec: f64,
    p50: Option<Latency>,
    p99: Option<Latency>,
}

/// What has happened in the last five minutes, or since the start.
#[derive(Debug, Default)]
pub(super) struct Lately {
    /// By reason.
    pub(super) push_failures: BTreeMap<&'static str, u64>,
    /// Pushes that the gateway gave up before they were answered, in the last two minutes.
    pub(super) pushes_given_up: u64,
    /// By gateway.
    pub(super) session_losses: BTreeMap<String, u64>,
    /// Agents who were signed in and of whom no push came, at the most in the last three minutes, by gateway.
    pub(super) without_pushes: BTreeMap<String, i64>,
    /// The most agents who were signed in at a time in the same minutes, by gateway.
    pub(super) active: BTreeMap<String, i64>,
    /// Connections of the last two minutes whose peer refused our certificate.
    pub(super) certificate_refused: u64,
    /// Pushes that were stored in the last minute.
    pub(super) stored_last_minute: u64,
    /// Events of sessions' lives that were not stored, by gateway, but for those of a stop.
    pub(super) session_events_lost: BTreeMap<String, u64>,
    /// By gateway.
    pub(super) polls_unanswered: BTreeMap<String, u64>,
    pub(super) log_lines_dropped: u64,
    /// By gateway.
    pub(super) sign_in_failures: BTreeMap<String, u64>,
    /// By sink.
    pub(super) shed: BTreeMap<String, u64>,
    /// Connections to the callback listener that came to nothing, by reason.
    pub(super) handshake_failures: BTreeMap<&'static str, u64>,
    /// Wrong tokens, by listener.
    pub(super) guesses: BTreeMap<&'static str, u64>,
    pub(super) unknown_events: u64,
    /// Sinks that are further behind than they were.
    pub(super) falling_behind: Vec<String>,
    /// The latest heartbeat in a hundred, by gateway, and the slowest answer and commit, all of the last minute.
    pub(super) lateness: BTreeMap<String, Latency>,
    pub(super) answer_p99: Option<Latency>,
    pub(super) commit_p99: Option<Latency>,
    /// How full the spool is in four hours, if it goes on to fill as in the last quarter of an hour.
    pub(super) spool_forecast: Option<f64>,
}

impl Latency {
    pub(super) fn is_over(self, secs: f64) -> bool {
        self.over || self.secs > secs
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let than = if self.over { "more than" } else { "up to" };
        write!(f, "{than} {} s", self.secs)
    }
}

/// The samples.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    gateways: Vec<String>,
    sinks: Vec<String>,
    samples: VecDeque<Sample>,
    spool_fill: Trend,
}

fn by_name(names: &[String], count: &dyn Fn(&str) -> u64) -> BTreeMap<String, u64> {
    names.iter().map(|name| (name.clone(), count(name))).collect()
}

impl Pulse {
    pub(super) fn new(gateways: Vec<String>, sinks: Vec<String>) -> Pulse {
        Pulse { gateways, sinks, ..Pulse::default() }
    }

    /// Takes a sample.
    pub(super) fn beat(&mut self, metrics: &Metrics) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let by_gateway = |count: &dyn Fn(&str) -> u64| by_name(&self.gateways, count);
        let by_sink = |count: &dyn Fn(&str) -> u64| by_name(&self.sinks, count);
        let sample = Sample {
            at: Instant::now(),
            received: EVENT_CATEGORIES.iter().map(|c| metrics.events.with_label_values(&[*c]).get()).sum(),
            push_failures: PUSH_FAILURE_REASONS
                .iter()
                .map(|reason| (*reason, metrics.push_failures.with_label_values(&[*reason]).get()))
                .collect(),
            session_losses: by_gateway(&|name| {
                let of = |reason: &&str| metrics.session_losses.with_label_values(&[name, *reason]).get();
                SESSION_LOSS_REASONS.iter().map(of).sum()
            }),
            without_pushes: by_gateway(&|name| {
                let silent = metrics.sessions_degraded.with_label_values(&[name, "no_pushes"]).get();
                u64::try_from(silent).unwrap_or_default()
            }),
            active: by_gateway(&|name| {
                u64::try_from(metrics.sessions.with_label_values(&[name, "active"]).get()).unwrap_or_default()
            }),
            session_events_lost: by_gateway(&|name| {
                let of =
                    |reason: &&str| metrics.session_events_lost.with_label_values(&[name, *reason]).get();
                SESSION_EVENT_LOSS_REASONS.iter().filter(|reason| **reason != "stopping").map(of).sum()
            }),
            polls_unanswered: by_gateway(&|name| metrics.polls_unanswered.with_label_values(&[name]).get()),
            log_lines_dropped: metrics.log_lines_dropped.get(),
            sign_in_failures: by_gateway(&|name| {
                let of = |outcome: &str| metrics.sign_ins.with_label_values(&[name, outcome]).get();
                ["refused", "timeout", "transport"].into_iter().map(of).sum()
            }),
            shed: by_sink(&|sink| metrics.sink_shed_events.with_label_values(&[sink]).get()),
            delivered: by_sink(&|sink| metrics.sink_delivered.with_label_values(&[sink]).get()),
            behind: by_sink(&|sink| {
                u64::try_from(metrics.sink_lag_records.with_label_values(&[sink]).get()).unwrap_or_default()
            }),
            handshake_failures: CONNECTION_FAILURE_REASONS
                .iter()
                .filter(|reason| reason.starts_with("tls_") || **reason == "limit")
                .map(|reason| (*reason, metrics.connection_failures.with_label_values(&[*reason]).get()))
                .collect(),
            guesses: LISTENERS
                .iter()
                .map(|listener| {
                    let of =
                        |answer: &&str| metrics.token_guesses.with_label_values(&[*listener, *answer]).get();
                    (*listener, GUESS_ANSWERS.iter().map(of).sum())
                })
                .collect(),
            unknown_events: metrics.events.with_label_values(&["unknown"]).get(),
            lateness: self
                .gateways
                .iter()
                .map(|g| (g.clone(), buckets(&metrics.heartbeat_lateness.with_label_values(&[g]))))
                .collect(),
            answers: buckets(&metrics.push_duration.with_label_values(&["stored"])),
            commits: buckets(&metrics.spool_commit_duration),
            deliveries: self
                .sinks
                .iter()
                .map(|s| (s.clone(), buckets(&metrics.sink_delivery_duration.with_label_values(&[s]))))
                .collect(),
        };
        self.spool_fill.note(sample.at, metrics.spool_fill_ratio.get());
        self.samples.push_back(sample);
    }

    /// The pace; `None` before the second sample.
    pub(super) fn pace(&self) -> Option<Pace> {
        let now = self.samples.back()?;
        let then = self.before(now, RATE)?;
        let secs = now.at.duration_since(then.at).as_secs_f64().max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / secs;
        let sink = |sink: &String| {
            let pace = SinkPace {
                delivered_per_sec: rate(now.delivered[sink], then.delivered[sink]),
                p50: self.latency(0.5, |sample| &sample.deliveries[sink]),
                p99: self.latency(0.99, |sample| &sample.deliveries[sink]),
            };
            (sink.clone(), pace)
        };
        Some(Pace {
            received_per_sec: rate(now.received, then.received),
            refused_per_sec: rate(now.push_failures.values().sum(), then.push_failures.values().sum()),
            answer_p50: self.latency(0.5, |sample| &sample.answers),
            answer_p99: self.latency(0.99, |sample| &sample.answers),
            commit_p99: self.latency(0.99, |sample| &sample.commits),
            sinks: self.sinks.iter().map(sink).collect(),
        })
    }

    /// What has happened between the first sample and the last.
    pub(super) fn lately(&self) -> Lately {
        let (Some(then), Some(now)) = (self.samples.front(), self.samples.back()) else {
            return Lately::default();
        };
        let since = |now: u64, then: u64| now.saturating_sub(then);
        let minute_ago = self.before(now, LATENCY).unwrap_or(now);
        let given_up = |sample: &Sample| sample.push_failures.get("peer_gone").copied().unwrap_or_default();
        let refused =
            |sample: &Sample| sample.handshake_failures.get(OWN_REFUSED).copied().unwrap_or_default();
        let stored = |sample: &Sample| sample.answers.last().map_or(0, |(_, count)| *count);
        let in_two_minutes =
            |of: &dyn Fn(&Sample) -> u64| since(of(now), self.before(now, GIVEN_UP).map_or(of(now), of));
        let handshakes =
            now.handshake_failures.iter().map(|(r, n)| (*r, since(*n, then.handshake_failures[r])));
        let late = self.gateways.iter().filter_map(|gateway| {
            Some((gateway.clone(), self.latency(0.99, |sample| &sample.lateness[gateway])?))
        });
        let further = |(sink, behind): &(&String, &u64)| **behind > minute_ago.behind[*sink];
        let failures = now.push_failures.iter().map(|(r, n)| (*r, since(*n, then.push_failures[r])));
        let grown = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            let grown = now.iter().map(|(name, count)| (name.clone(), since(*count, then[name])));
            grown.filter(|(_, count)| *count > 0).collect()
        };
        Lately {
            push_failures: failures.filter(|(_, count)| *count > 0).collect(),
            pushes_given_up: in_two_minutes(&given_up),
            certificate_refused: in_two_minutes(&refused),
            stored_last_minute: since(stored(now), stored(minute_ago)),
            session_losses: grown(&now.session_losses, &then.session_losses),
            without_pushes: self.most(now, |sample| &sample.without_pushes),
            active: self.most(now, |sample| &sample.active),
            session_events_lost: grown(&now.session_events_lost, &then.session_events_lost),
            polls_unanswered: grown(&now.polls_unanswered, &then.polls_unanswered),
            log_lines_dropped: since(now.log_lines_dropped, then.log_lines_dropped),
            sign_in_failures: grown(&now.sign_in_failures, &then.sign_in_failures),
            shed: grown(&now.shed, &then.shed),
            handshake_failures: handshakes.filter(|(_, count)| *count > 0).collect(),
            guesses: now.guesses.iter().map(|(l, n)| (*l, since(*n, then.guesses[l]))).collect(),
            unknown_events: since(now.unknown_events, then.unknown_events),
            falling_behind: now.behind.iter().filter(further).map(|(sink, _)| sink.clone()).collect(),
            lateness: late.collect(),
            answer_p99: self.latency(0.99, |sample| &sample.answers),
            commit_p99: self.latency(0.99, |sample| &sample.commits),
            spool_forecast: self.spool_fill.in_so_long(FORECAST),
        }
    }

    /// How many agents of each gateway there were of these at the most.
    fn most(&self, now: &Sample, of: impl Fn(&Sample) -> &BTreeMap<String, u64>) -> BTreeMap<String, i64> {
        let lately =
            || self.samples.iter().rev().take_while(|sample| now.at.duration_since(sample.at) <= SILENCE);
        let most = |gateway: &String| {
            let most = lately().map(|sample| of(sample)[gateway]).max().unwrap_or_default();
            (gateway.clone(), i64::try_from(most).unwrap_or(i64::MAX))
        };
        self.gateways.iter().map(most).collect()
    }

    /// Below what this share of what came in the last minute lies; `None` when nothing came.
    fn latency(&self, share: f64, of: impl Fn(&Sample) -> &Buckets) -> Option<Latency> {
        let now = self.samples.back()?;
        quantile(of(now), of(self.before(now, LATENCY)?), share)
    }

    /// The youngest sample that is so old, or the oldest there is beside `now`.
    fn before(&self, now: &Sample, age: Duration) -> Option<&Sample> {
        let mut earlier = self.samples.iter().rev().skip(1);
        let old = earlier.find(|sample| now.at.duration_since(sample.at) >= age);
        old.or_else(|| self.samples.front().filter(|_| self.samples.len() > 1))
    }
}

fn buckets(histogram: &Histogram) -> Buckets {
    let metric = histogram.metric();
    let found = metric.get_histogram();
    let mut buckets: Buckets =
        found.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count())).collect();
    buckets.push((f64::INFINITY, found.get_sample_count()));
    buckets
}

/// The bound below which this share of what came in between lies; `None` when nothing came.
fn quantile(now: &Buckets, then: &Buckets, share: f64) -> Option<Latency> {
    let came: Vec<(f64, u64)> =
        now.iter().zip(then).map(|((bound, now), (_, then))| (*bound, now.saturating_sub(*then))).collect();
    let all = came.last()?.1;
    let wanted = ((all as f64 * share).ceil() as u64).max(1);
    let found = came.iter().position(|(_, count)| *count >= wanted)?;
    match came[found].0 {
        bound if bound.is_finite() => Some(Latency { secs: bound, over: false }),
        _ => Some(Latency { secs: came[..found].last()?.0, over: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_below_which_its_share_lies() {
        let then = vec![(0.1, 5), (1.0, 5), (f64::INFINITY, 5)];
        let now = vec![(0.1, 95), (1.0, 104), (f64::INFINITY, 105)];
        assert_eq!(quantile(&now, &then, 0.5), Some(Latency { secs: 0.1, over: false }));
        assert_eq!(quantile(&now, &then, 0.99), Some(Latency { secs: 1.0, over: false }));
        assert_eq!(quantile(&now, &then, 1.0), Some(Latency { secs: 1.0, over: true }));
        assert_eq!(quantile(&then, &then, 0.5), None);
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_of_the_last_seconds_and_need_two_samples() {
        let metrics = Metrics::new(["main"], [("kafka", &[][..])]).unwrap();
        let mut pulse = Pulse::new(vec!["main".to_owned()], vec!["kafka".to_owned()]);
        pulse.beat(&metrics);
        assert!(pulse.pace().is_none());
        for _ in 0..400 {
            tokio::time::advance(Duration::from_secs(2)).await;
            metrics.sink_delivered.with_label_values(&["kafka"]).inc_by(6);
            metrics.push_failures.with_label_values(&["spool_full"]).inc();
            pulse.beat(&metrics);
        }
        let pace = pulse.pace().unwrap();
        assert!((pace.sinks["kafka"].delivered_per_sec - 3.0).abs() < 1e-6, "{pace:?}");
        assert!((pace.refused_per_sec - 0.5).abs() < 1e-6, "{pace:?}");
        assert_eq!(pulse.lately().push_failures["spool_full"], SAMPLES as u64 - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pushes_that_the_gateway_gave_up_count_for_two_minutes() {
        let metrics = Metrics::new([], []).unwrap();
        let mut pulse = Pulse::new(Vec::new(), Vec::new());
        let mut given_up_after = async |beats: u32, count: u64| {
            metrics.push_failures.with_label_values(&["peer_gone"]).inc_by(count);
            for _ in 0..beats {
                tokio::time::advance(BEAT).await;
                pulse.beat(&metrics);
            }
            pulse.lately().pushes_given_up
        };
        assert_eq!(given_up_after(1, 0).await, 0);
        assert_eq!(given_up_after(1, 4).await, 4);
        assert_eq!(given_up_after(59, 1).await, 5);
        assert_eq!(given_up_after(1, 0).await, 1);
        assert_eq!(given_up_after(60, 0).await, 0);
    }
}
