//! Every metric of the daemon, in one list: name, help, labels, unit, buckets.
//!
//! Labels come from bounded sets: gateways and sinks of the configuration, reasons and states of the code; never
//! an agent, a topic or anything a peer sends. Series of known label values exist from the start, at zero.

use std::sync::Arc;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::event::state::{AgentState, CallOutcome};

/// Push answers: from a quarter of a millisecond (one fsync) to the gateway's retry interval of 10 s.
const PUSH_SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Receipt to confirmation: from milliseconds to the hours of an outage.
const DELIVERY_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0,
    7200.0,
];
/// Calls to the gateway: up to its documented two minutes.
const CALL_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0];
/// Records in one group commit.
const BATCH_RECORDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Our two listeners, as labels have them.
pub const LISTENERS: &[&str] = &["callback", "operations"];

/// How a wrong token is refused.
pub const GUESS_ANSWERS: &[&str] = &["at_once", "late"];

/// Why a push was refused: label `reason` of `ccrelay_push_failures_total`.
pub const PUSH_FAILURE_REASONS: &[&str] = &[
    "not_found",
    "method_not_allowed",
    "too_large",
    "token_missing",
    "token_malformed",
    "token_forged",
    "token_expired",
    "token_superseded",
    "token_from_future",
    "other_agent",
    "body_timeout",
    "body_broken",
    "encoding_unsupported",
    "not_json",
    "no_work_no",
    "spool_full",
    "spool_failed",
    "peer_gone",
    "stopping",
];
/// Why a connection came to nothing: label `reason` of `ccrelay_connection_failures_total`.
pub const CONNECTION_FAILURE_REASONS: &[&str] = &[
    "limit",
    "made_room",
    "closed_unused",
    "tls_handshake",
    "tls_handshake_timeout",
    "tls_version",
    "tls_cipher_suite",
    "tls_own_certificate_refused",
    "tls_client_certificate_missing",
    "tls_client_certificate_expired",
    "tls_client_certificate_revoked",
    "tls_client_certificate_untrusted",
    "tls_client_certificate_unlisted",
    "tls_client_certificate_invalid",
    "header_timeout",
    "header_too_large",
    "http",
    "accept",
];
/// Session states: label `state` of `ccrelay_sessions`.
pub const SESSION_STATES: &[&str] =
    &["signed_out", "signing_in", "active", "recovering", "suspended", "signing_out"];
/// Heartbeat outcomes: label `outcome` of `ccrelay_heartbeats_total`.
pub const HEARTBEAT_OUTCOMES: &[&str] =
    &["ok", "refused", "session_lost", "switching_over", "timeout", "transport", "queue"];
/// Sign-in outcomes: label `outcome` of `ccrelay_sign_ins_total`.
pub const SIGN_IN_OUTCOMES: &[&str] = &[
    "ok",
    "taken_over",
    "resumed",
    "adopted",
    "signed_in_elsewhere",
    "refused",
    "suspended",
    "timeout",
    "transport",
];
/// Why a session was lost: label `reason` of `ccrelay_session_losses_total`.
pub const SESSION_LOSS_REASONS: &[&str] =
    &["guid_refused", "not_signed_in", "switched_over", "shut_down", "timed_out", "other_address"];
/// Why an event of a session's life was not stored: label `reason` of `ccrelay_session_events_lost_total`.
pub const SESSION_EVENT_LOSS_REASONS: &[&str] = &["queue_full", "spool_full", "spool_failed", "stopping"];
/// What can be wrong with a session that lives: label `reason` of `ccrelay_sessions_degraded`.
pub const SESSION_DEGRADATIONS: &[&str] = &[
    "heartbeats_failing",
    "skills_refused",
    "settings_refused",
    "sign_out_refused",
    "sign_out_unconfirmed",
    "no_pushes",
];
/// Bounds of the sign-out budget: label `within_secs` of `ccrelay_sign_out_budget_agents`. All sessions are within the last.
pub const BUDGET_BOUNDS: &[(&str, u64)] = &[
    ("0", 0),
    ("10", 10),
    ("20", 20),
    ("30", 30),
    ("45", 45),
    ("60", 60),
    ("90", 90),
    ("120", 120),
    ("+Inf", u64::MAX),
];
/// Event categories: label `category` of `ccrelay_events_total`; `Category::as_str` gives one of these.
pub const EVENT_CATEGORIES: &[&str] = &[
    "agent-state",
    "call",
    "conference",
    "media-playback",
    "message",
    "other",
    "outbound-call",
    "phone",
    "phone-linkage",
    "quality-check",
    "recording",
    "session",
    "unknown",
];

/// Handles to all metrics; cloning is cheap.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

impl std::ops::Deref for Metrics {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $field:ident : $kind:ident = $name:literal $( [ $($label:literal),* ] )? $( buckets $buckets:expr )? ; )+) => {
        /// All metrics by name.
        pub struct Inner {
            registry: Registry,
            $( $(#[doc = $help])+ pub $field: $kind, )+
        }
        impl Inner {
            fn build() -> Result<Inner, prometheus::Error> {
                let registry = Registry::new();
                $( let $field = metrics!(@make $kind $name concat!($($help),+).trim() ; $( [ $($label),* ] )? ; $( $buckets )? );
                   register(&registry, &$field)?; )+
                Ok(Inner { registry, $( $field, )+ })
            }
        }
        /// Names of all metrics of this list, for checks of dashboards and alerts.
        pub const NAMES: &[&str] = &[ $( $name ),+ ];
    };
    (@make IntCounter $name:literal $help:expr ; ; ) => { IntCounter::new($name, $help)? };
    (@make IntGauge $name:literal $help:expr ; ; ) => { IntGauge::new($name, $help)? };
    (@make Gauge $name:literal $help:expr ; ; ) => { Gauge::new($name, $help)? };
    (@make IntCounterVec $name:literal $help:expr ; [ $($label:literal),* ] ; ) => { IntCounterVec::new(Opts::new($name, $help), &[$($label),*])? };
    (@make IntGaugeVec $name:literal $help:expr ; [ $($label:literal),* ] ; ) => { IntGaugeVec::new(Opts::new($name, $help), &[$($label),*])? };
    (@make GaugeVec $name:literal $help:expr ; [ $($label:literal),* ] ; ) => { GaugeVec::new(Opts::new($name, $help), &[$($label),*])? };
    (@make Histogram $name:literal $help:expr ; ; $buckets:expr) => { Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))? };
    (@make HistogramVec $name:literal $help:expr ; [ $($label:literal),* ] ; $buckets:expr) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &[$($label),*])?
    };
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: &C,
) -> Result<(), prometheus::Error> {
    registry.register(Box::new(collector.clone()))
}

metrics! {
    /// What runs here; always 1.
    build_info: IntGaugeVec = "ccrelay_build_info" ["version"];
    /// 1 when /ready answers 200.
    ready: IntGauge = "ccrelay_ready";
    /// Reloads of what may change while the daemon runs, by outcome (ok, refused).
    reloads: IntCounterVec = "ccrelay_reloads_total" ["outcome"];
    /// 1 when the last reload was ok; 0 when it was refused and all stayed as it was.
    reload_last_ok: IntGauge = "ccrelay_reload_last_ok";
    /// 1 when the configuration has changed in keys that need a restart.
    restart_needed: IntGauge = "ccrelay_restart_needed";
    /// When certificates end, in seconds since 1970, by what they are for (callback, callback_client_ca, operations, gateway_client, gateway_ca, kafka_client, kafka_ca, mqtt_client, mqtt_ca, traces_ca); of a file with several the first that ends.
    certificate_expiry: GaugeVec = "ccrelay_certificate_expiry_timestamp_seconds" ["purpose", "gateway", "sink"];
    /// Spans of traces by outcome: exported, dropped (too many waited), failed (the collector has not taken them).
    trace_spans: IntCounterVec = "ccrelay_trace_spans_total" ["outcome"];
    /// Log lines that were lost, since standard error took none or too few.
    log_lines_dropped: IntCounter = "ccrelay_log_lines_dropped_total";
    /// Requests to the admin API by outcome (ok, refused, denied, failed).
    admin_requests: IntCounterVec = "ccrelay_admin_requests_total" ["outcome"];

    /// Open connections on the callback listener.
    connections: IntGauge = "ccrelay_connections";
    /// Connections that came to nothing, by reason.
    connection_failures: IntCounterVec = "ccrelay_connection_failures_total" ["reason"];
    /// TLS handshakes on the callback listener that were finished, by what the client showed of itself (none, or a verified certificate).
    tls_handshakes: IntCounterVec = "ccrelay_tls_handshakes_total" ["client_certificate"];
    /// Connections of addresses that are not in allow_from, by listener (callback, operations).
    addresses_refused: IntCounterVec = "ccrelay_addresses_refused_total" ["listener"];
    /// Wrong tokens (malformed, or not made here) and how they were refused (at_once, late), by listener.
    token_guesses: IntCounterVec = "ccrelay_token_guesses_total" ["listener", "answer"];
    /// Time from the receipt of a push's head to its answer, by outcome (stored, refused).
    push_duration: HistogramVec = "ccrelay_push_duration_seconds" ["outcome"] buckets PUSH_SECONDS;
    /// Pushes that were not answered with success, by reason. Each whose agent its token shows counts against that agent's sign-out budget.
    push_failures: IntCounterVec = "ccrelay_push_failures_total" ["reason"];
    /// Events received and stored, by category.
    events: IntCounterVec = "ccrelay_events_total" ["category"];
    /// Events that came again because an answer of ours had not arrived.
    events_repeated: IntCounter = "ccrelay_events_repeated_total";
    /// Events that do not fit the state their agent was in, by that state. They are followed all the same, but for the late end of an earlier session.
    events_unexpected: IntCounterVec = "ccrelay_events_unexpected_total" ["state"];
    /// Calls and text sessions that ended at an agent, by outcome; each is an event ccrelay.call.ended.
    calls_ended: IntCounterVec = "ccrelay_calls_ended_total" ["outcome"];

    /// Records in the spool that some sink has not confirmed.
    spool_records: IntGauge = "ccrelay_spool_records";
    /// Bytes of the spool's files on disk.
    spool_bytes: IntGauge = "ccrelay_spool_bytes";
    /// Bytes in use as a fraction of what max_bytes and the disk allow; pushes are refused at 1.
    spool_fill_ratio: Gauge = "ccrelay_spool_fill_ratio";
    /// Age of the oldest record that some sink has not confirmed; 0 when there is none.
    spool_oldest_age: Gauge = "ccrelay_spool_oldest_record_age_seconds";
    /// Time of one group commit including its fsync.
    spool_commit_duration: Histogram = "ccrelay_spool_commit_duration_seconds" buckets PUSH_SECONDS;
    /// Records stored by one group commit.
    spool_commit_records: Histogram = "ccrelay_spool_commit_records" buckets BATCH_RECORDS;
    /// Appends that failed, by reason (full, failed).
    spool_failures: IntCounterVec = "ccrelay_spool_failures_total" ["reason"];

    /// Time from the receipt of an event to the sink's confirmation.
    sink_delivery_duration: HistogramVec = "ccrelay_sink_delivery_duration_seconds" ["sink"] buckets DELIVERY_SECONDS;
    /// Events confirmed by the sink.
    sink_delivered: IntCounterVec = "ccrelay_sink_delivered_total" ["sink"];
    /// Events handed to the sink and not yet confirmed.
    sink_in_flight: IntGaugeVec = "ccrelay_sink_in_flight" ["sink"];
    /// Returns to the cursor after a failed delivery or a rebuilt client, by reason.
    sink_retries: IntCounterVec = "ccrelay_sink_retries_total" ["sink", "reason"];
    /// Events of records that were begun before a failure and are handed over after it; consumers may see some of them twice.
    sink_published_again: IntCounterVec = "ccrelay_sink_published_again_total" ["sink"];
    /// Deliveries that failed, by reason; each is then retried, set aside or stops the sink.
    sink_failures: IntCounterVec = "ccrelay_sink_failures_total" ["sink", "reason"];
    /// Events set aside because they can never be delivered, by reason.
    sink_dead_letters: IntCounterVec = "ccrelay_sink_dead_letters_total" ["sink", "reason"];
    /// Events of the sink that are set aside now; also of one that is not configured any more and had some at the start.
    dead_letters: IntGaugeVec = "ccrelay_dead_letters" ["sink"];
    /// Bytes of them, with the copies of their records.
    dead_letter_bytes: IntGaugeVec = "ccrelay_dead_letter_bytes" ["sink"];
    /// Dead letters that were delivered again, by outcome (delivered, failed).
    replays: IntCounterVec = "ccrelay_replays_total" ["sink", "outcome"];
    /// Events left out because they had come before and the sink's repeats is drop; counted again after a retry.
    sink_repeats_dropped: IntCounterVec = "ccrelay_sink_repeats_dropped_total" ["sink"];
    /// Events left out because no route sends them to the sink; counted again after a retry.
    sink_unrouted: IntCounterVec = "ccrelay_sink_unrouted_total" ["sink"];
    /// Records given up for the sink at the high-water mark, because its when_full is shed.
    sink_shed_records: IntCounterVec = "ccrelay_sink_shed_records_total" ["sink"];
    /// Events in those records; one that was on its way at that moment may have arrived all the same.
    sink_shed_events: IntCounterVec = "ccrelay_sink_shed_events_total" ["sink"];
    /// Copies of events that were set aside, published to the sink's dead letter topic, by outcome (confirmed, given_up).
    sink_dead_letter_copies: IntCounterVec = "ccrelay_sink_dead_letter_copies_total" ["sink", "outcome"];
    /// Records between the sink's cursor and the end of the spool.
    sink_lag_records: IntGaugeVec = "ccrelay_sink_lag_records" ["sink"];
    /// State of the sink: 1 delivering, 0 retrying, -1 stopped and waiting for a person.
    sink_state: IntGaugeVec = "ccrelay_sink_state" ["sink"];

    /// Sessions by state.
    sessions: IntGaugeVec = "ccrelay_sessions" ["gateway", "state"];
    /// Heartbeats by outcome; queue: not sent, since too many calls waited for the gateway.
    heartbeats: IntCounterVec = "ccrelay_heartbeats_total" ["gateway", "outcome"];
    /// Time of one heartbeat call.
    heartbeat_duration: HistogramVec = "ccrelay_heartbeat_duration_seconds" ["gateway"] buckets CALL_SECONDS;
    /// How late heartbeats were sent after the time they were due, with their wait for a gateway that is slow.
    heartbeat_lateness: HistogramVec = "ccrelay_heartbeat_lateness_seconds" ["gateway"] buckets CALL_SECONDS;
    /// Sign-ins by outcome.
    sign_ins: IntCounterVec = "ccrelay_sign_ins_total" ["gateway", "outcome"];
    /// Sessions lost without our doing, by reason.
    session_losses: IntCounterVec = "ccrelay_session_losses_total" ["gateway", "reason"];
    /// Events of sessions' lives (session.started, .degraded, .lost, .ended) that could not be stored, by reason.
    session_events_lost: IntCounterVec = "ccrelay_session_events_lost_total" ["gateway", "reason"];
    /// Calls of others passed on with an agent's GUID, by outcome (answered, failed, refused).
    forwards: IntCounterVec = "ccrelay_forwarded_calls_total" ["gateway", "outcome"];
    /// Polls that were sent and whose answer did not come whole: none within poll_deadline_secs, a connection that broke, an answer cut
    /// off or too long. With each an event may be lost, as the gateway hands it out once.
    polls_unanswered: IntCounterVec = "ccrelay_polls_unanswered_total" ["gateway"];
    /// Events of agents that are polled, fetched and lost, because they could not be stored until the daemon had to stop. It ends
    /// then, so this is hardly ever scraped: the log names the agent.
    polled_events_lost: IntCounterVec = "ccrelay_polled_events_lost_total" ["gateway"];
    /// GUIDs renewed by the gateway.
    guid_changes: IntCounterVec = "ccrelay_guid_changes_total" ["gateway"];
    /// Which address of the gateway calls go to (main, backup-1, ...): 1 at the one in use.
    gateway_active_url: IntGaugeVec = "ccrelay_gateway_active_url" ["gateway", "which"];
    /// Age of the oldest GUID of a session; the gateway lets one die at GUIDTIMEOUT, 120 s by default.
    guid_oldest_age: GaugeVec = "ccrelay_guid_oldest_age_seconds" ["gateway"];
    /// Sessions that live and have something wrong with them, by reason.
    sessions_degraded: IntGaugeVec = "ccrelay_sessions_degraded" ["gateway", "reason"];
    /// Agents that the gateway would sign out within so many seconds (within_secs) unless it hears of them.
    sign_out_budget_agents: IntGaugeVec = "ccrelay_sign_out_budget_agents" ["gateway", "within_secs"];
    /// Agents with less than half of sign_out_limit_secs left, or less than two thirds of what heartbeats leave of it if that is less.
    about_to_be_signed_out: IntGaugeVec = "ccrelay_agents_about_to_be_signed_out" ["gateway"];
    /// Agents of the configuration and of the rosters that are in force.
    roster_agents: IntGaugeVec = "ccrelay_roster_agents" ["gateway"];
    /// Rosters that have changed and were not put in force, for mistakes or because too many agents were gone.
    roster_reload_failures: IntCounter = "ccrelay_roster_reload_failures_total";
    /// Rosters whose files as they are now are not in force.
    rosters_stale: IntGauge = "ccrelay_rosters_stale";
    /// Whether the tokens of the admin API are other than their file has now, because it has a mistake or cannot be read: then tokens that
    /// were taken away are still good.
    admin_tokens_stale: IntGauge = "ccrelay_admin_tokens_stale";
    /// The least number of seconds before the gateway would sign out any agent; when all is well sign_out_limit_secs less the time since
    /// the oldest heartbeat, and the limit itself while nobody is signed in.
    sign_out_budget: GaugeVec = "ccrelay_sign_out_budget_seconds" ["gateway"];
}

impl Metrics {
    /// Makes and registers all metrics, with the series of every known label value at zero. Sinks come with every
    /// reason that their failures can have.
    ///
    /// # Errors
    /// When two metrics have one name: a mistake in the list above.
    pub fn new<'a>(
        gateways: impl IntoIterator<Item = &'a str>,
        sinks: impl IntoIterator<Item = (&'a str, &'a [&'a str])>,
    ) -> Result<Metrics, prometheus::Error> {
        let inner = Inner::build()?;
        inner.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        inner.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for reason in CONNECTION_FAILURE_REASONS {
            inner.connection_failures.with_label_values(&[*reason]);
        }
        for reason in PUSH_FAILURE_REASONS {
            inner.push_failures.with_label_values(&[*reason]);
        }
        for shown in ["none", "verified"] {
            inner.tls_handshakes.with_label_values(&[shown]);
        }
        for listener in LISTENERS {
            inner.addresses_refused.with_label_values(&[*listener]);
            for answer in GUESS_ANSWERS {
                inner.token_guesses.with_label_values(&[*listener, *answer]);
            }
        }
        for outcome in ["ok", "refused", "denied", "failed"] {
            inner.admin_requests.with_label_values(&[outcome]);
        }
        for outcome in ["exported", "dropped", "failed"] {
            inner.trace_spans.with_label_values(&[outcome]);
        }
        for outcome in ["ok", "refused"] {
            inner.reloads.with_label_values(&[outcome]);
        }
        inner.reload_last_ok.set(1);
        inner.certificate_expiry.with_label_values(&["callback", "", ""]);
        for outcome in ["stored", "refused"] {
            inner.push_duration.with_label_values(&[outcome]);
        }
        for category in EVENT_CATEGORIES {
            inner.events.with_label_values(&[*category]);
        }
        for state in AgentState::ALL {
            inner.events_unexpected.with_label_values(&[state.as_label()]);
        }
        for outcome in CallOutcome::ALL {
            inner.calls_ended.with_label_values(&[outcome.as_label()]);
        }
        for reason in ["full", "failed"] {
            inner.spool_failures.with_label_values(&[reason]);
        }
        for (sink, reasons) in sinks {
            inner.create_sink_series(sink, reasons);
        }
        for gateway in gateways {
            inner.create_gateway_series(gateway);
        }
        Ok(Metrics { inner: Arc::new(inner) })
    }

    /// Purpose, gateway, sink and end, in seconds since 1970, of each certificate whose end is known.
    #[must_use]
    pub fn certificate_ends(&self) -> Vec<([String; 3], f64)> {
        let families = self.inner.certificate_expiry.collect();
        let known = families.iter().flat_map(|family| family.get_metric()).map(|metric| {
            let of = ["purpose", "gateway", "sink"].map(|name| label(metric, name));
            (of, metric.get_gauge().get_value())
        });
        known.filter(|(_, end)| *end > 0.0).collect()
    }

    /// Gateways whose calls go to another address than the main one, each with the name of that.
    #[must_use]
    pub fn backup_addresses(&self) -> Vec<(String, String)> {
        let families = self.inner.gateway_active_url.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let active = metrics.filter(|metric| metric.get_gauge().get_value() == 1.0);
        let places = active.map(|metric| (label(metric, "gateway"), label(metric, "which")));
        places.filter(|(_, which)| which != "main").collect()
    }

    /// The part of the file descriptors that are in use; `None` where the system does not say.
    #[must_use]
    pub fn files_in_use(&self) -> Option<f64> {
        let families = prometheus::process_collector::ProcessCollector::for_self().collect();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name)?;
            Some(family.get_metric().first()?.get_gauge().get_value())
        };
        let most = value("process_max_fds").filter(|most| *most > 0.0)?;
        Some(value("process_open_fds")? / most)
    }

    /// The page that Prometheus reads, in its text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.inner.registry.gather(), &mut page) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        page
    }
}

fn label(metric: &prometheus::proto::Metric, name: &str) -> String {
    let found = metric.get_label().iter().find(|label| label.name() == name);
    found.map(|label| label.value().to_owned()).unwrap_or_default()
}

impl Inner {
    /// Any reason may be a failure; whether it is then retried or sets an event aside depends on the event.
    fn create_sink_series(&self, sink: &str, reasons: &[&str]) {
        self.sink_delivery_duration.with_label_values(&[sink]);
        for counter in [
            &self.sink_delivered,
            &self.sink_repeats_dropped,
            &self.sink_unrouted,
            &self.sink_published_again,
            &self.sink_shed_records,
            &self.sink_shed_events,
        ] {
            counter.with_label_values(&[sink]);
        }
        let held = [&self.dead_letters, &self.dead_letter_bytes];
        for gauge in [&self.sink_in_flight, &self.sink_lag_records, &self.sink_state].into_iter().chain(held)
        {
            gauge.with_label_values(&[sink]);
        }
        for outcome in ["delivered", "failed"] {
            self.replays.with_label_values(&[sink, outcome]);
        }
        for outcome in ["confirmed", "given_up"] {
            self.sink_dead_letter_copies.with_label_values(&[sink, outcome]);
        }
        for reason in reasons.iter().chain(crate::deliver::REASONS) {
            for counter in [&self.sink_retries, &self.sink_failures, &self.sink_dead_letters] {
                counter.with_label_values(&[sink, *reason]);
            }
        }
    }

    fn create_gateway_series(&self, gateway: &str) {
        for state in SESSION_STATES {
            self.sessions.with_label_values(&[gateway, *state]);
        }
        for outcome in HEARTBEAT_OUTCOMES {
            self.heartbeats.with_label_values(&[gateway, *outcome]);
        }
        for outcome in SIGN_IN_OUTCOMES {
            self.sign_ins.with_label_values(&[gateway, *outcome]);
        }
        for reason in SESSION_LOSS_REASONS {
            self.session_losses.with_label_values(&[gateway, *reason]);
        }
        for reason in SESSION_EVENT_LOSS_REASONS {
            self.session_events_lost.with_label_values(&[gateway, *reason]);
        }
        for outcome in ["answered", "failed", "refused"] {
            self.forwards.with_label_values(&[gateway, outcome]);
        }
        self.heartbeat_duration.with_label_values(&[gateway]);
        self.heartbeat_lateness.with_label_values(&[gateway]);
        self.polls_unanswered.with_label_values(&[gateway]);
        self.polled_events_lost.with_label_values(&[gateway]);
        self.guid_changes.with_label_values(&[gateway]);
        self.gateway_active_url.with_label_values(&[gateway, "main"]);
        for reason in SESSION_DEGRADATIONS {
            self.sessions_degraded.with_label_values(&[gateway, *reason]);
        }
        for (bound, _) in BUDGET_BOUNDS {
            self.sign_out_budget_agents.with_label_values(&[gateway, *bound]);
        }
        self.about_to_be_signed_out.with_label_values(&[gateway]);
        self.guid_oldest_age.with_label_values(&[gateway]);
        self.roster_agents.with_label_values(&[gateway]);
        self.sign_out_budget.with_label_values(&[gateway]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_on_the_page_from_the_start() {
        let metrics = Metrics::new(["main"], [("kafka", &["too_large"][..])]).unwrap();
        let page = String::from_utf8(metrics.render()).unwrap();
        for name in NAMES {
            assert!(page.contains(&format!("# HELP {name} ")), "{name} is missing from:\n{page}");
        }
        assert!(page.contains("ccrelay_push_failures_total{reason=\"token_expired\"} 0"));
        assert!(page.contains("process_resident_memory_bytes"));
    }
}
