//! The addresses of one gateway: the main one, and those that take over while it cannot be reached.
//!
//! All agents of a gateway move together, since a session lives where it was signed in. A gateway is where a retcode comes from,
//! whichever it is: a balancer, or a server on which the gateway's application did not start, answers everything and
//! keeps no session. Invariants: a call that was sent to one address says nothing about another; one answer of the gateway
//! ends a row of failures; what one agent meets moves nobody while others are answered ([`Witnesses`]); there is always exactly one
//! active address.
//!
//! **Some gateways share their sessions, others do not**, and no manual says which do. Where they do not, each change of address
//! costs every agent the session. So calls return to a main address that is back only if the sessions that moved last were
//! known where they came; else they stay where they are until that address fails, or the daemon starts anew. Where none has moved,
//! as after a start while the main address was away, nothing is known, and all that is in use was signed in at the backup.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::Instant;

use super::witnesses::Witnesses;
use crate::event::{AgentId, GatewayName};
use crate::metrics::Metrics;

/// Nothing but failures for so long, and so many of them: a lost packet or a slow call moves nobody, and of the 120 s
/// of the gateway most are left. (The guide's own client counts eight failures, which one agent takes a minute for and
/// thousands a moment.)
const SWITCH_AFTER: Duration = Duration::from_secs(5);
const SWITCH_FAILURES: u32 = 3;
/// How often the main address is asked while a backup is in use, and how many answers in a row lead back: a gateway
/// that is being started answers and fails by turns.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// How long a failing address is borne, and how often one that failed is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) switch_after: Duration,
    pub(super) probe_interval: Duration,
    /// How long an answer to an agent is remembered: each that is served is answered more than once in that time.
    pub(super) memory: Duration,
}

impl Patience {
    pub(super) fn new(heartbeat_interval: Duration) -> Patience {
        Patience {
            switch_after: SWITCH_AFTER,
            probe_interval: PROBE_INTERVAL,
            memory: heartbeat_interval * 2,
        }
    }
}

/// What the end of a call says of the address that it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// The gateway is there: it answered with a retcode.
    There,
    /// No answer came, or one that is not the gateway's.
    Absent,
    /// Nothing: a gateway that does not know the call answers without a retcode too.
    Unknown,
}

/// The addresses of one gateway and which of them is in use.
#[derive(Debug)]
pub(super) struct Addresses {
    gateway: GatewayName,
    /// Base URLs without their last slash; the first is the main one.
    bases: Vec<String>,
    patience: Patience,
    /// 1 at the active one; none in a client that only tries out a configuration.
    gauges: Vec<IntGauge>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    active: usize,
    /// When the row of failures began and how long it is.
    failing: Option<(Instant, u32)>,
    witnesses: Witnesses,
    next_probe: Option<Instant>,
    /// Answers of the main address in a row.
    good_probes: u32,
    /// Of the sessions that came with the last change of address, how many more were known here than not.
    known: i64,
}

/// The address that one call is sent to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) base: &'a str,
    index: usize,
}

/// How an address is called in logs and metrics.
pub(in crate::session) fn which(index: usize) -> String {
    if index == 0 { "main".to_owned() } else { format!("backup-{index}") }
}

impl State {
    /// Of an address that is in use from now on.
    fn at(active: usize, next_probe: Option<Instant>) -> State {
        let witnesses = Witnesses::default();
        State { active, failing: None, witnesses, next_probe, good_probes: 0, known: 0 }
    }
}

impl Addresses {
    pub(super) fn new(gateway: GatewayName, bases: Vec<String>, patience: Patience) -> Addresses {
        let state = State::at(0, None);
        Addresses { gateway, bases, patience, gauges: Vec::new(), state: Mutex::new(state) }
    }

    /// Whose they are.
    pub(super) fn gateway(&self) -> &GatewayName {
        &self.gateway
    }

    /// From now on the metric says which address is in use.
    pub(super) fn show(&mut self, metrics: &Metrics) {
        let gauge =
            |index| metrics.gateway_active_url.with_label_values(&[self.gateway.as_str(), &which(index)]);
        self.gauges = (0..self.bases.len()).map(gauge).collect();
        self.publish(self.lock().active);
    }

    /// Where calls go now.
    pub(super) fn active(&self) -> Address<'_> {
        let index = self.lock().active;
        Address { base: &self.bases[index], index }
    }

    /// The number of an address, for whoever compares where a session is with where an answer came from.
    pub(super) fn number(&self, address: Address<'_>) -> Option<u8> {
        u8::try_from(address.index).ok()
    }

    /// The main address, when it is time to ask it whether it is back; each time is given to one caller only.
    pub(super) fn probe(&self, now: Instant) -> Option<&str> {
        let mut state = self.lock();
        let due = state.next_probe.is_some_and(|due| due <= now);
        if due {
            state.next_probe = Some(now + self.patience.probe_interval);
        }
        due.then(|| self.bases[0].as_str())
    }

    /// Notes whether the main address answered when asked.
    pub(super) fn probed(&self, answered: bool, now: Instant) {
        let mut state = self.lock();
        state.good_probes = if answered { state.good_probes.saturating_add(1) } else { 0 };
        if state.active == 0 || state.good_probes < PROBES {
            return;
        }
        if state.known > 0 {
            self.switch(&mut state, 0, "the main address answers again", now);
        } else if state.good_probes == PROBES {
            let in_use = which(state.active);
            let shares = if state.known < 0 { "does not share" } else { "is not known to share" };
            tracing::warn!(gateway = %self.gateway, in_use, "the main address answers again, but {shares} its sessions with the one \
                in use: calls stay there, so that agents keep theirs, until it fails or ccrelay is started anew");
        }
    }

    /// Notes whether a session that was last heard of at another address is known at this one.
    pub(super) fn note_moved(&self, address: Address<'_>, known: Option<bool>) {
        let mut state = self.lock();
        match known.filter(|_| address.index == state.active) {
            Some(true) => state.known = state.known.saturating_add(1),
            Some(false) => state.known = state.known.saturating_sub(1),
            None => {}
        }
    }

    /// Notes how a call to this address ended, and whose it was where that is known.
    pub(super) fn note(
        &self,
        address: Address<'_>,
        agent_id: Option<&AgentId>,
        presence: Presence,
        now: Instant,
    ) {
        if self.bases.len() == 1 || presence == Presence::Unknown {
            return;
        }
        let mut state = self.lock();
        if address.index != state.active {
            return;
        }
        if presence == Presence::There {
            state.failing = None;
            state.witnesses.answered(agent_id, now);
            return;
        }
        state.witnesses.failed(agent_id);
        let (since, failures) = state.failing.unwrap_or((now, 0));
        state.failing = Some((since, failures + 1));
        if failures + 1 >= SWITCH_FAILURES
            && now.saturating_duration_since(since) >= self.patience.switch_after
            && state.witnesses.agree(self.patience.memory, now)
        {
            let next = (state.active + 1) % self.bases.len();
            self.switch(&mut state, next, "calls fail", now);
        }
    }

    fn switch(&self, state: &mut State, to: usize, reason: &'static str, now: Instant) {
        let (from, to_name) = (which(state.active), which(to));
        tracing::warn!(gateway = %self.gateway, from, to = to_name, reason,
            "calls go to another address of the gateway");
        let next_probe = (to != 0).then(|| now + self.patience.probe_interval);
        *state = State::at(to, next_probe);
        self.publish(to);
    }

    fn publish(&self, active: usize) {
        for (index, gauge) in self.gauges.iter().enumerate() {
            gauge.set(i64::from(index == active));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let bases = vec!["https://a".to_owned(), "https://b".to_owned()];
        let patience = Patience::new(Duration::from_secs(30));
        Addresses::new(GatewayName::parse("main").unwrap(), bases, patience)
    }

    fn agent(id: &str) -> AgentId {
        AgentId::parse(id).unwrap()
    }

    /// How a call of the one agent that most of these tests are about has ended.
    fn note(addresses: &Addresses, address: Address<'_>, presence: Presence, now: Instant) {
        addresses.note(address, Some(&agent("1001")), presence, now);
    }

    fn fail_until_switched(addresses: &Addresses, from: Instant) -> Instant {
        let address = addresses.active();
        for second in 0..=5 {
            note(addresses, address, Presence::Absent, from + Duration::from_secs(second));
        }
        from + SWITCH_AFTER
    }

    #[test]
    fn seconds_of_nothing_but_failures_move_the_calls_to_the_backup() {
        let (addresses, start) = (addresses(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        for second in 0..5 {
            note(&addresses, addresses.active(), Presence::Absent, at(second));
        }
        assert_eq!(addresses.active().base, "https://a");
        note(&addresses, addresses.active(), Presence::Absent, at(5));
        assert_eq!(addresses.active().base, "https://b");
    }

    #[test]
    fn many_failures_within_a_moment_and_few_over_minutes_move_nobody() {
        let (addresses, start) = (addresses(), Instant::now());
        for _ in 0..10_000 {
            note(&addresses, addresses.active(), Presence::Absent, start);
        }
        note(&addresses, addresses.active(), Presence::There, start);
        note(&addresses, addresses.active(), Presence::Absent, start);
        note(&addresses, addresses.active(), Presence::Absent, start + Duration::from_secs(60));
        assert_eq!(addresses.active().base, "https://a");
    }

    #[test]
    fn one_answer_of_the_gateway_ends_a_row_of_failures_and_what_says_nothing_does_not() {
        for (between, active) in [(Presence::There, "https://a"), (Presence::Unknown, "https://b")] {
            let (addresses, start) = (addresses(), Instant::now());
            for second in 0..=5 {
                let now = start + Duration::from_secs(second);
                note(&addresses, addresses.active(), Presence::Absent, now);
                note(&addresses, addresses.active(), between, now);
            }
            assert_eq!(addresses.active().base, active);
        }
        let (addresses, start) = (addresses(), Instant::now());
        for second in 0..60 {
            note(&addresses, addresses.active(), Presence::Unknown, start + Duration::from_secs(second));
        }
        assert_eq!(addresses.active().base, "https://a");
    }

    #[test]
    fn agents_that_the_gateway_does_not_serve_move_nobody_while_others_are_answered() {
        let (addresses, start) = (addresses(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let note = |id, presence, now| addresses.note(addresses.active(), Some(&agent(id)), presence, now);
        // Two good ones whose heartbeats come one after the other, and three that are refused and try on in between.
        for round in 0..20 {
            note("1001", Presence::There, at(round * 30_000));
            note("1002", Presence::There, at(round * 30_000 + 10));
            for second in 1..30 {
                for id in ["60001", "60002", "60003"] {
                    note(id, Presence::Absent, at(round * 30_000 + second * 1000));
                }
            }
        }
        assert_eq!(addresses.active().base, "https://a");
        // One of those who were answered fails from now on, and in the end the other too.
        for second in 0..10 {
            note("1001", Presence::Absent, at(600_000 + second * 1000));
        }
        assert_eq!(addresses.active().base, "https://a");
        note("1002", Presence::Absent, at(610_000));
        assert_eq!(addresses.active().base, "https://b");
    }

    #[test]
    fn at_a_start_failures_of_whomever_lead_to_the_backup() {
        let (addresses, start) = (addresses(), Instant::now());
        for second in 0..=5 {
            let now = start + Duration::from_secs(second);
            addresses.note(addresses.active(), Some(&agent("60001")), Presence::Absent, now);
        }
        assert_eq!(addresses.active().base, "https://b");
    }

    #[test]
    fn late_failures_of_the_address_before_do_not_count_against_the_one_in_use() {
        let (addresses, start) = (addresses(), Instant::now());
        let old = addresses.active();
        let switched = fail_until_switched(&addresses, start);
        for second in 0..30 {
            note(&addresses, old, Presence::Absent, switched + Duration::from_secs(second));
        }
        assert_eq!(addresses.active().base, "https://b");
    }

    #[test]
    fn a_backup_that_fails_leads_back_to_the_main_address() {
        let (addresses, start) = (addresses(), Instant::now());
        let switched = fail_until_switched(&addresses, start);
        assert_eq!(addresses.active().base, "https://b");
        fail_until_switched(&addresses, switched);
        assert_eq!(addresses.active().base, "https://a");
    }

    #[test]
    fn three_answers_in_a_row_lead_back_and_one_caller_asks_at_a_time() {
        let (addresses, start) = (addresses(), Instant::now());
        assert_eq!(addresses.probe(start), None);
        let mut now = fail_until_switched(&addresses, start);
        addresses.note_moved(addresses.active(), Some(true));
        for answered in [true, true, false, true, true, true] {
            assert_eq!(addresses.active().base, "https://b");
            assert_eq!(addresses.probe(now), None);
            now += PROBE_INTERVAL;
            assert_eq!(addresses.probe(now), Some("https://a"));
            addresses.probed(answered, now);
        }
        assert_eq!(addresses.active().base, "https://a");
        assert_eq!(addresses.probe(now + PROBE_INTERVAL), None);
    }

    #[test]
    fn nobody_returns_to_a_main_address_that_shares_no_sessions_until_the_backup_fails() {
        for (answers, returns) in [([false, false, true], false), ([true, false, true], true)] {
            let (addresses, start) = (addresses(), Instant::now());
            let old = addresses.active();
            let mut now = fail_until_switched(&addresses, start);
            // What is late from the other address, and what says nothing of a session, count for nothing.
            addresses.note_moved(old, Some(!returns));
            addresses.note_moved(addresses.active(), None);
            for known in answers {
                addresses.note_moved(addresses.active(), Some(known));
            }
            for _ in 0..10 {
                now += PROBE_INTERVAL;
                addresses.probed(true, now);
            }
            assert_eq!(addresses.active().base == "https://a", returns, "{answers:?}");
            if !returns {
                fail_until_switched(&addresses, now);
                assert_eq!(addresses.active().base, "https://a");
            }
        }
    }

    #[test]
    fn where_no_session_has_moved_nobody_returns_until_one_shows_that_sessions_are_shared() {
        let (addresses, start) = (addresses(), Instant::now());
        let mut now = fail_until_switched(&addresses, start);
        for _ in 0..10 {
            now += PROBE_INTERVAL;
            addresses.probed(true, now);
        }
        assert_eq!(addresses.active().base, "https://b");
        addresses.note_moved(addresses.active(), Some(true));
        addresses.probed(true, now + PROBE_INTERVAL);
        assert_eq!(addresses.active().base, "https://a");
    }

    #[test]
    fn the_metric_names_exactly_one_address() {
        let metrics = Metrics::new(["main"], []).unwrap();
        let mut addresses = addresses();
        addresses.show(&metrics);
        let value = |which| metrics.gateway_active_url.with_label_values(&["main", which]).get();
        assert_eq!((value("main"), value("backup-1")), (1, 0));
        fail_until_switched(&addresses, Instant::now());
        assert_eq!((value("main"), value("backup-1")), (0, 1));
    }
}
