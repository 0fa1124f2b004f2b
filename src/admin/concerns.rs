//! What needs somebody now: the conditions of the alerts in `deploy/prometheus`, looked at in the metrics as they are, each
//! with the name of its alert, which is that of its entry in the runbook.

use std::time::Duration;

use serde::Serialize;

use super::pulse::Lately;
use crate::clock::Timestamp;
use crate::config::certificates;
use crate::metrics::{Metrics, SESSION_STATES};
use crate::session::roster::Standing;

/// How bad it is, as the alert's label has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Critical,
    Warning,
    Info,
}

/// Something that needs somebody.
#[derive(Debug, Serialize)]
pub(super) struct Concern {
    severity: Severity,
    /// The alert, and the entry of the runbook.
    alert: &'static str,
    /// The gateway or sink that it is about; empty when it is about the daemon.
    subject: String,
    what: String,
}

/// Certificates that end sooner are a concern, as for the alert.
const CERTIFICATE_DAYS: f64 = 14.0;
const DAY_SECS: f64 = 86_400.0;
/// The bounds of the alerts.
const HEARTBEAT_LATE_SECS: f64 = 5.0;
const ANSWER_SLOW_SECS: f64 = 1.0;
const COMMIT_SLOW_SECS: f64 = 0.25;
const FAR_BEHIND: i64 = 10_000;
const FILES_IN_USE: f64 = 0.8;
const MANY_GUESSES: u64 = 100;
/// Refused pushes and failed handshakes of one reason: up to this many are somebody's slip.
const MANY: u64 = 5;
/// Pushes that the gateway gave up in two minutes: up to this many are those of one line that broke.
const GIVEN_UP: u64 = 3;
/// Sessions lost in five minutes for each agent of a gateway: one is what a restart of the gateway costs, and two are what agents
/// lose who are thrown out after every two minutes.
const LOST_AGAIN: f64 = 1.5;
/// What part of a gateway's active agents may be without pushes before it is the gateway that does not reach us. Who is thrown out for
/// it every two minutes, and has a minute until it is known, is without for a part of the time only.
const WITHOUT_PUSHES: i64 = 3;

/// The worst first.
pub(super) fn concerns(
    metrics: &Metrics,
    ready: bool,
    gateways: &[Limit],
    sinks: &[String],
    stale_rosters: &[Standing],
    lately: &Lately,
    now: Timestamp,
) -> Vec<Concern> {
    let mut found = Found(Vec::new());
    if !ready {
        found.critical("CcrelayNotReady", "", "pushes are not taken: ccrelay is starting or stopping");
    }
    let backups = metrics.backup_addresses();
    gateways.iter().for_each(|gateway| of_gateway(metrics, gateway, &backups, lately, &mut found));
    of_spool(metrics, lately, &mut found);
    of_answers(metrics, gateways, lately, &mut found);
    sinks.iter().for_each(|sink| of_sink(metrics, sink, lately, &mut found));
    of_files(metrics, lately, now, &mut found);
    of_rosters(stale_rosters, &mut found);
    found.0.sort_by_key(|concern| concern.severity);
    found.0
}

struct Found(Vec<Concern>);

impl Found {
    fn add(&mut self, severity: Severity, alert: &'static str, subject: &str, what: impl Into<String>) {
        self.0.push(Concern { severity, alert, subject: subject.to_owned(), what: what.into() });
    }

    fn critical(&mut self, alert: &'static str, subject: &str, what: impl Into<String>) {
        self.add(Severity::Critical, alert, subject, what);
    }

    fn warning(&mut self, alert: &'static str, subject: &str, what: impl Into<String>) {
        self.add(Severity::Warning, alert, subject, what);
    }
}

/// A gateway, and how long it waits before it signs an agent out.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) gateway: String,
    pub(super) sign_out: Duration,
    /// Agents with less than that left are about to be signed out.
    pub(super) near: Duration,
}

fn of_gateway(
    metrics: &Metrics,
    limit: &Limit,
    backups: &[(String, String)],
    lately: &Lately,
    found: &mut Found,
) {
    let gateway = limit.gateway.as_str();
    let near = metrics.about_to_be_signed_out.with_label_values(&[gateway]).get();
    if near > 0 {
        let first = metrics.sign_out_budget.with_label_values(&[gateway]).get();
        let what = format!(
            "{gateway}: {} signed out within {} s unless the gateway hears of them, the first in {first:.0} s",
            agents(near, "is", "are"),
            limit.near.as_secs()
        );
        found.critical("CcrelayAgentsAboutToBeSignedOut", gateway, what);
    }
    let degraded = |reason| metrics.sessions_degraded.with_label_values(&[gateway, reason]).get();
    let failing = degraded("heartbeats_failing");
    if failing > 0 {
        let what = format!("{gateway}: heartbeats of {} fail", agents(failing, "", ""));
        found.critical("CcrelayHeartbeatsFailing", gateway, what);
    }
    let silent = degraded("no_pushes");
    if silent > 0 {
        let what = format!("{gateway}: no pushes come for {}", agents(silent, "", ""));
        found.warning("CcrelayAgentsWithoutPushes", gateway, what);
    }
    of_thrown_out(metrics, gateway, lately, found);
    let suspended = metrics.sessions.with_label_values(&[gateway, "suspended"]).get();
    if suspended > 0 {
        let what =
            format!("{gateway}: {} not signed in again without a person", agents(suspended, "is", "are"));
        found.warning("CcrelayAgentsSuspended", gateway, what);
    }
    let signing_in = metrics.sessions.with_label_values(&[gateway, "signing_in"]).get();
    if signing_in > 0 && lately.sign_in_failures.contains_key(gateway) {
        let what = format!(
            "{gateway}: {} waiting for a sign-in, and sign-ins fail",
            agents(signing_in, "is", "are")
        );
        found.warning("CcrelaySignInsFailing", gateway, what);
    }
    if let Some(late) = lately.lateness.get(gateway).filter(|late| late.is_over(HEARTBEAT_LATE_SECS)) {
        let what = format!("{gateway}: one heartbeat in a hundred is {late} late");
        found.warning("CcrelayHeartbeatsLate", gateway, what);
    }
    if let Some(polls) = lately.polls_unanswered.get(gateway) {
        let what = format!(
            "{gateway}: {polls} polls were not answered whole in the last minutes; events may be lost"
        );
        found.warning("CcrelayPollsUnanswered", gateway, what);
    }
    if let Some(events) = lately.session_events_lost.get(gateway) {
        let what =
            format!("{gateway}: {events} begins and ends of sessions were not stored in the last minutes");
        found.critical("CcrelaySessionEventsLost", gateway, what);
    }
    for (_, which) in backups.iter().filter(|(of, _)| of == gateway) {
        let what = format!("{gateway}: calls go to {which}, as the main address answers nothing");
        found.warning("CcrelayOnBackupAddress", gateway, what);
    }
}

/// Agents who are thrown out, or are about to be although their heartbeats are answered.
fn of_thrown_out(metrics: &Metrics, gateway: &str, lately: &Lately, found: &mut Found) {
    let in_state = |state: &str| metrics.sessions.with_label_values(&[gateway, state]).get();
    let silent = lately.without_pushes.get(gateway).copied().unwrap_or_default();
    // Of the same minutes: who has gone home since is no sign.
    let active = lately.active.get(gateway).copied().unwrap_or_default().max(in_state("active"));
    if silent > 0 && silent * WITHOUT_PUSHES > active {
        let what = format!(
            "{gateway}: the gateway does not reach us: in the last minutes {} signed in without a push, and it signs them out for that",
            agents(silent, "was", "were")
        );
        found.critical("CcrelayMostAgentsWithoutPushes", gateway, what);
    }
    let Some(&lost) = lately.session_losses.get(gateway) else { return };
    found.warning(
        "CcrelaySessionsLost",
        gateway,
        format!("{gateway}: {lost} sessions were lost in the last minutes"),
    );
    let all: i64 = SESSION_STATES.iter().map(|state| in_state(state)).sum();
    if all > 0 && lost as f64 > LOST_AGAIN * all as f64 {
        let what = format!(
            "{gateway}: agents lose their sessions again and again: {lost} in the last minutes, of {}",
            agents(all, "", "")
        );
        found.critical("CcrelaySessionsLostAgain", gateway, what);
    }
}

/// What is seen of pushes before and beside the spool.
fn of_answers(metrics: &Metrics, gateways: &[Limit], lately: &Lately, found: &mut Found) {
    let active = |limit: &Limit| metrics.sessions.with_label_values(&[&*limit.gateway, "active"]).get() > 0;
    if lately.certificate_refused > MANY && lately.stored_last_minute == 0 && gateways.iter().any(active) {
        let what = format!(
            "{} pushes of the last two minutes were not made, as the gateway refuses our certificate, and none has come in the last",
            lately.certificate_refused
        );
        found.critical("CcrelayCertificateRefused", "", what);
    }
    let handshakes = lately.handshake_failures.iter().filter(|(_, count)| **count > MANY);
    if handshakes.clone().next().is_some() {
        let what = counted("connections to the callback listener came to nothing", handshakes);
        found.warning("CcrelayHandshakesFailing", "", what);
    }
    if let Some(answer) = lately.answer_p99.filter(|answer| answer.is_over(ANSWER_SLOW_SECS)) {
        found.warning(
            "CcrelayAnswersSlow",
            "",
            format!("one push in a hundred waits {answer} for its answer"),
        );
    }
    if let Some(commit) = lately.commit_p99.filter(|commit| commit.is_over(COMMIT_SLOW_SECS)) {
        let what = format!("one commit of the spool in a hundred takes {commit}: the disk is slow");
        found.warning("CcrelaySpoolSlow", "", what);
    }
    for (listener, count) in lately.guesses.iter().filter(|(_, count)| **count > MANY_GUESSES) {
        let what = format!("{count} wrong tokens at the listener {listener} in the last minutes");
        found.warning("CcrelayTokenGuessing", listener, what);
    }
    if lately.unknown_events > 0 {
        let what = format!("{} events of types that this release does not know", lately.unknown_events);
        found.add(Severity::Info, "CcrelayUnknownEvents", "", what);
    }
}

/// So many for each reason, in the last minutes.
fn counted<'a>(what: &str, reasons: impl IntoIterator<Item = (&'a &'static str, &'a u64)>) -> String {
    let words: Vec<_> = reasons.into_iter().map(|(reason, count)| format!("{count} for {reason}")).collect();
    format!("{what} in the last minutes: {}", words.join(", "))
}

/// `1 agent is`, `3 agents are`.
fn agents(count: i64, one: &str, many: &str) -> String {
    let text = if count == 1 { format!("1 agent {one}") } else { format!("{count} agents {many}") };
    text.trim_end().to_owned()
}

fn of_spool(metrics: &Metrics, lately: &Lately, found: &mut Found) {
    let (stored, mut others): (Vec<_>, Vec<_>) = lately
        .push_failures
        .iter()
        .partition(|(reason, _)| matches!(**reason, "spool_full" | "spool_failed"));
    // A stop refuses what comes meanwhile, and the gateway repeats it. What the gateway gave up is told for itself.
    others.retain(|(reason, count)| !matches!(**reason, "stopping" | "peer_gone") && **count > MANY);
    if !stored.is_empty() {
        found.critical(
            "CcrelaySpoolRefusesPushes",
            "",
            counted("pushes were refused", stored.iter().copied()),
        );
    }
    if !others.is_empty() {
        found.warning("CcrelayPushesRefused", "", counted("pushes were refused", others));
    }
    if lately.pushes_given_up > GIVEN_UP {
        let given_up = lately.pushes_given_up;
        let what = format!(
            "{given_up} pushes of the last two minutes were not answered before the gateway gave them up"
        );
        found.critical("CcrelayPushesUnanswered", "", what);
    }
    match metrics.spool_fill_ratio.get() {
        full if full >= 1.0 && stored.is_empty() => {
            found.critical("CcrelaySpoolRefusesPushes", "", "the spool is full: pushes are refused");
        }
        full if full > 0.8 => {
            found.critical("CcrelaySpoolAlmostFull", "", format!("the spool is {:.0} % full", full * 100.0));
        }
        full if full > 0.5 => {
            found.warning("CcrelaySpoolFilling", "", format!("the spool is {:.0} % full", full * 100.0));
        }
        full if lately.spool_forecast.is_some_and(|later| later > 1.0) => {
            let what = format!(
                "the spool is {:.0} % full, and all of it within four hours as it fills now",
                full * 100.0
            );
            found.warning("CcrelaySpoolFilling", "", what);
        }
        _ => {}
    }
}

fn of_sink(metrics: &Metrics, sink: &str, lately: &Lately, found: &mut Found) {
    let behind = metrics.sink_lag_records.with_label_values(&[sink]).get();
    match metrics.sink_state.with_label_values(&[sink]).get() {
        -1 => {
            let what = format!("{sink} has stopped and waits for a person; {behind} records wait for it");
            found.critical("CcrelaySinkStopped", sink, what);
        }
        0 => {
            let what = format!("{sink} does not deliver; {behind} records wait for it");
            found.warning("CcrelaySinkStuck", sink, what);
        }
        _ if behind > FAR_BEHIND && lately.falling_behind.iter().any(|name| name == sink) => {
            let what = format!("{sink} is {behind} records behind, and falls further behind");
            found.warning("CcrelaySinkFallingBehind", sink, what);
        }
        _ => {}
    }
    if let Some(shed) = lately.shed.get(sink) {
        let what = format!("{sink}: {shed} events were given up in the last minutes, for want of room");
        found.critical("CcrelayShedding", sink, what);
    }
    let letters = metrics.dead_letters.with_label_values(&[sink]).get();
    if letters > 0 {
        found.warning("CcrelayDeadLetters", sink, format!("{sink}: {letters} events are set aside"));
    }
}

fn of_certificates(metrics: &Metrics, now: Timestamp, found: &mut Found) {
    for ([purpose, gateway, sink], ends) in metrics.certificate_ends() {
        let left = (ends - now.millis() as f64 / 1000.0) / DAY_SECS;
        let subject = certificates::subject(&purpose, &gateway, &sink);
        // One authority of several may be over, and the others go on.
        if left < 0.0 && !purpose.ends_with(certificates::OF_AUTHORITY) {
            let what = format!("the certificate for {subject} has ended {:.1} days ago", -left);
            found.critical("CcrelayCertificateExpired", &subject, what);
        } else if left < CERTIFICATE_DAYS {
            let what = if left < 0.0 {
                format!("a certificate for {subject} has ended {:.1} days ago", -left)
            } else {
                format!("the certificate for {subject} ends in {left:.1} days")
            };
            found.warning("CcrelayCertificateExpiring", &subject, what);
        }
    }
}

fn of_files(metrics: &Metrics, lately: &Lately, now: Timestamp, found: &mut Found) {
    if let Some(part) = metrics.files_in_use().filter(|part| *part > FILES_IN_USE) {
        let what = format!("{:.0} % of the file descriptors are in use", part * 100.0);
        found.warning("CcrelayFilesRunningOut", "", what);
    }
    of_certificates(metrics, now, found);
    if lately.log_lines_dropped > 0 {
        let what = format!("{} lines of the log were lost in the last minutes", lately.log_lines_dropped);
        found.warning("CcrelayLogLinesDropped", "", what);
    }
    if metrics.admin_tokens_stale.get() > 0 {
        let what =
            "the file of the admin API's tokens is not in force: tokens that were taken away are still good";
        found.warning("CcrelayAdminTokensStale", "", what);
    }
    if metrics.reload_last_ok.get() == 0 {
        found.warning("CcrelayReloadRefused", "", "what changed in the files was refused; all is as it was");
    }
    if metrics.restart_needed.get() == 1 {
        let what = "the configuration has changed in keys that need a restart";
        found.add(Severity::Info, "CcrelayRestartNeeded", "", what);
    }
}

fn of_rosters(stale: &[Standing], found: &mut Found) {
    for standing in stale {
        if let Some(what) = standing.why_stale() {
            found.warning("CcrelayRosterStale", &standing.file.display().to_string(), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::pulse::{Latency, Pulse};

    const RUNBOOK: &str = include_str!("../../docs/runbook.md");
    const RULES: &str = include_str!("../../deploy/prometheus/ccrelay.rules.yml");

    fn gateways() -> [Limit; 1] {
        let (sign_out, near) = (Duration::from_secs(120), Duration::from_secs(60));
        [Limit { gateway: "main".to_owned(), sign_out, near }]
    }

    fn all_wrong(metrics: &Metrics) -> Lately {
        metrics.about_to_be_signed_out.with_label_values(&["main"]).set(3);
        for reason in ["heartbeats_failing", "no_pushes"] {
            metrics.sessions_degraded.with_label_values(&["main", reason]).set(2);
        }
        for state in ["suspended", "signing_in", "active"] {
            metrics.sessions.with_label_values(&["main", state]).set(1);
        }
        metrics.spool_fill_ratio.set(0.9);
        metrics.sink_state.with_label_values(&["mqtt"]).set(-1);
        metrics.dead_letters.with_label_values(&["kafka"]).set(4);
        metrics.certificate_expiry.with_label_values(&["callback", "", ""]).set(5.0 * DAY_SECS);
        metrics.certificate_expiry.with_label_values(&["kafka_client", "", "kafka"]).set(1.0);
        metrics.rosters_stale.set(1);
        metrics.admin_tokens_stale.set(1);
        metrics.reload_last_ok.set(0);
        metrics.restart_needed.set(1);
        metrics.gateway_active_url.with_label_values(&["main", "backup1"]).set(1);
        metrics.sink_state.with_label_values(&["kafka"]).set(1);
        metrics.sink_lag_records.with_label_values(&["kafka"]).set(20_000);
        let late = Latency { secs: 8.0, over: false };
        Lately {
            active: [].into(),
            push_failures: [("spool_full", 7), ("token_forged", MANY + 1)].into(),
            pushes_given_up: GIVEN_UP + 1,
            session_losses: [("main".to_owned(), 5)].into(),
            without_pushes: [("main".to_owned(), 2)].into(),
            certificate_refused: MANY + 1,
            stored_last_minute: 0,
            session_events_lost: [("main".to_owned(), 2)].into(),
            polls_unanswered: [("main".to_owned(), 1)].into(),
            log_lines_dropped: 70,
            sign_in_failures: [("main".to_owned(), 1)].into(),
            shed: [("mqtt".to_owned(), 9)].into(),
            handshake_failures: [("tls_handshake", MANY + 1)].into(),
            guesses: [("callback", MANY_GUESSES), ("operations", MANY_GUESSES + 1)].into(),
            unknown_events: 1,
            falling_behind: vec!["kafka".to_owned()],
            lateness: [("main".to_owned(), late)].into(),
            answer_p99: Some(late),
            commit_p99: Some(late),
            spool_forecast: Some(3.0),
        }
    }

    #[test]
    fn a_spool_that_is_full_within_hours_is_a_concern_while_it_is_nearly_empty() {
        let metrics = Metrics::new(["main"], []).unwrap();
        metrics.spool_fill_ratio.set(0.1);
        let alerts = |forecast| {
            let lately = Lately { spool_forecast: forecast, ..Lately::default() };
            let found = concerns(&metrics, true, &gateways(), &[], &[], &lately, Timestamp(0));
            found.iter().map(|concern| concern.alert).collect::<Vec<_>>()
        };
        assert_eq!(alerts(Some(1.01)), ["CcrelaySpoolFilling"]);
        assert!(alerts(Some(0.99)).is_empty() && alerts(None).is_empty());
    }

    #[test]
    fn every_concern_has_an_alert_of_its_severity_and_an_entry_in_the_runbook() {
        let metrics = Metrics::new(["main"], [("kafka", &[][..]), ("mqtt", &[][..])]).unwrap();
        let lately = all_wrong(&metrics);
        let sinks = ["kafka".to_owned(), "mqtt".to_owned()];
        let stale = Standing { file: "/etc/roster.csv".into(), held: 8, ..Standing::default() };
        let now = Timestamp(86_400_000);
        let found = concerns(&metrics, false, &gateways(), &sinks, &[stale], &lately, now);
        assert_eq!(found.len(), 34, "{found:#?}");
        assert!(found.is_sorted_by_key(|concern| concern.severity), "{found:#?}");
        for concern in &found {
            let alert = concern.alert;
            assert!(RUNBOOK.contains(&format!("\n## {alert}\n")), "{alert} is not in the runbook");
            let rule = RULES.split("- alert: ").find(|rule| rule.starts_with(&format!("{alert}\n"))).unwrap();
            let severity = serde_json::to_value(concern.severity).unwrap();
            let label = format!("severity: {}", severity.as_str().unwrap());
            assert!(rule.contains(&label), "{alert}: {label}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failing_sign_ins_are_a_concern_of_their_gateway_alone() {
        let metrics = Metrics::new(["north", "south"], []).unwrap();
        let names = ["north", "south"].map(str::to_owned);
        let mut pulse = Pulse::new(names.to_vec(), Vec::new());
        pulse.beat(&metrics);
        for gateway in ["north", "south"] {
            metrics.sessions.with_label_values(&[gateway, "signing_in"]).set(1);
        }
        metrics.sign_ins.with_label_values(&["north", "transport"]).inc_by(10);
        pulse.beat(&metrics);
        let limits = names.map(|gateway| Limit { gateway, ..gateways()[0].clone() });
        let found = concerns(&metrics, true, &limits, &[], &[], &pulse.lately(), Timestamp(0));
        let found: Vec<_> = found.iter().map(|concern| (concern.alert, concern.subject.as_str())).collect();
        assert_eq!(found, [("CcrelaySignInsFailing", "north")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_without_a_trace_elsewhere_is_a_concern_of_its_gateway_but_for_what_a_stop_leaves() {
        let metrics = Metrics::new(["north", "south"], []).unwrap();
        let names = ["north", "south"].map(str::to_owned);
        let mut pulse = Pulse::new(names.to_vec(), Vec::new());
        pulse.beat(&metrics);
        for (gateway, reason) in [("north", "spool_full"), ("north", "queue_full"), ("south", "stopping")] {
            metrics.session_events_lost.with_label_values(&[gateway, reason]).inc();
        }
        metrics.polls_unanswered.with_label_values(&["south"]).inc();
        metrics.log_lines_dropped.inc_by(70);
        pulse.beat(&metrics);
        let limits = names.map(|gateway| Limit { gateway, ..gateways()[0].clone() });
        let found = concerns(&metrics, true, &limits, &[], &[], &pulse.lately(), Timestamp(0));
        let found: Vec<_> = found.iter().map(|concern| (concern.alert, concern.subject.as_str())).collect();
        let expected = [
            ("CcrelaySessionEventsLost", "north"),
            ("CcrelayPollsUnanswered", "south"),
            ("CcrelayLogLinesDropped", ""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_certificate_that_has_ended_is_critical_unless_others_of_its_bundle_may_go_on() {
        let metrics = Metrics::new(["main"], []).unwrap();
        let day = |day: f64| day * DAY_SECS;
        for (of, end) in [
            (["callback", "", ""], day(1.0)),
            (["kafka_client", "", "bus"], day(9.5)),
            (["gateway_ca", "main", ""], day(9.5)),
            (["operations", "", ""], day(12.0)),
            (["mqtt_ca", "", "broker"], day(200.0)),
        ] {
            metrics.certificate_expiry.with_label_values(&of).set(end);
        }
        let now = Timestamp(10 * 86_400_000);
        let found = concerns(&metrics, true, &gateways(), &[], &[], &Lately::default(), now);
        let mut found: Vec<_> = found.iter().map(|concern| (concern.alert, concern.what.as_str())).collect();
        found.sort_unstable();
        let expected = [
            ("CcrelayCertificateExpired", "the certificate for callback has ended 9.0 days ago"),
            ("CcrelayCertificateExpired", "the certificate for kafka_client of bus has ended 0.5 days ago"),
            ("CcrelayCertificateExpiring", "a certificate for gateway_ca of main has ended 0.5 days ago"),
            ("CcrelayCertificateExpiring", "the certificate for operations ends in 2.0 days"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_roster_that_is_held_back_is_named_with_what_would_be_lost() {
        let metrics = Metrics::new(["main"], []).unwrap();
        metrics.rosters_stale.set(1);
        let stale = Standing { file: "/etc/roster.csv".into(), held: 8, ..Standing::default() };
        let found = concerns(&metrics, true, &gateways(), &[], &[stale], &Lately::default(), Timestamp(0));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((found[0].alert, found[0].subject.as_str()), ("CcrelayRosterStale", "/etc/roster.csv"));
        assert!(
            found[0].what.contains("8 agents") && found[0].what.contains("--confirm-removals"),
            "{found:#?}"
        );
    }

    /// What is critical while sessions are in these states.
    fn critical(sessions: &[(&str, i64)], lately: &Lately) -> Vec<&'static str> {
        let metrics = Metrics::new(["main"], []).unwrap();
        for (state, count) in sessions {
            metrics.sessions.with_label_values(&["main", *state]).set(*count);
        }
        let found = concerns(&metrics, true, &gateways(), &[], &[], lately, Timestamp(0));
        found.iter().filter(|one| one.severity == Severity::Critical).map(|one| one.alert).collect()
    }

    #[test]
    fn a_gateway_that_reaches_us_no_more_is_critical_and_a_few_agents_are_not() {
        let of =
            |count: i64| Lately { without_pushes: [("main".to_owned(), count)].into(), ..Lately::default() };
        assert!(critical(&[("active", 30)], &of(10)).is_empty());
        assert_eq!(critical(&[("active", 30)], &of(11)), ["CcrelayMostAgentsWithoutPushes"]);
        // They have just been thrown out.
        assert_eq!(critical(&[("signing_in", 30)], &of(30)), ["CcrelayMostAgentsWithoutPushes"]);
        assert!(critical(&[("signed_out", 30)], &of(0)).is_empty());
        let shift_has_ended = Lately { active: [("main".to_owned(), 30)].into(), ..of(1) };
        assert!(critical(&[("signed_out", 30)], &shift_has_ended).is_empty());
    }

    #[test]
    fn sessions_lost_again_and_again_are_critical_and_a_restart_of_the_gateway_is_not() {
        let lost =
            |count: u64| Lately { session_losses: [("main".to_owned(), count)].into(), ..Lately::default() };
        assert!(critical(&[("active", 10), ("signing_in", 20)], &lost(30)).is_empty());
        assert_eq!(critical(&[("active", 10), ("signing_in", 20)], &lost(46)), ["CcrelaySessionsLostAgain"]);
        assert!(critical(&[], &lost(3)).is_empty());
    }

    #[test]
    fn a_refused_certificate_is_critical_while_no_push_comes_for_agents_who_are_signed_in() {
        let refused = |refused, stored| Lately {
            certificate_refused: refused,
            stored_last_minute: stored,
            ..Lately::default()
        };
        assert_eq!(critical(&[("active", 1)], &refused(MANY + 1, 0)), ["CcrelayCertificateRefused"]);
        assert!(critical(&[("active", 1)], &refused(MANY + 1, 1)).is_empty(), "it is not the gateway");
        assert!(critical(&[("active", 1)], &refused(MANY, 0)).is_empty());
        assert!(critical(&[("signed_out", 1)], &refused(MANY + 1, 0)).is_empty());
    }

    #[test]
    fn when_all_is_well_nothing_needs_anybody() {
        let metrics = Metrics::new(["main"], [("kafka", &[][..])]).unwrap();
        metrics.sink_state.with_label_values(&["kafka"]).set(1);
        let found = concerns(
            &metrics,
            true,
            &gateways(),
            &["kafka".to_owned()],
            &[],
            &Lately::default(),
            Timestamp(0),
        );
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn what_the_alerts_let_pass_is_no_concern_either() {
        let metrics = Metrics::new(["main"], []).unwrap();
        let few = Lately {
            push_failures: [("token_forged", MANY), ("not_json", 1), ("stopping", 50), ("peer_gone", 50)]
                .into(),
            pushes_given_up: GIVEN_UP,
            handshake_failures: [("tls_handshake", MANY)].into(),
            guesses: [("callback", MANY_GUESSES), ("operations", MANY_GUESSES)].into(),
            ..Lately::default()
        };
        let found = concerns(&metrics, true, &gateways(), &[], &[], &few, Timestamp(0));
        assert!(found.is_empty(), "{found:#?}");
    }
}
