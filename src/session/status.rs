//! What the rest of the daemon sees of a session, and how it wakes the session's task. Cheap enough for each push.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use prometheus::IntGauge;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::{AgentId, GatewayName};
use crate::metrics::{Metrics, SESSION_LOSS_REASONS};
use crate::session::call::{CallError, Ticket};
use crate::session::failed::LastFailed;
use crate::session::mail::Mailbox;
use crate::session::retcode::{Retcode, Suspension};
use crate::session::state::{Degradation, Effect, State};

/// The reason of a session that was ended as asked.
pub(super) const SIGNED_OUT: &str = "signed_out";

/// The reason of a session that was left open at the gateway for another program.
pub(super) const RELEASED: &str = "released";

/// A session as the admin API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionView {
    /// Whose gateway.
    pub gateway: GatewayName,
    /// Whose session.
    pub agent_id: AgentId,
    /// One of [`crate::metrics::SESSION_STATES`].
    pub state: &'static str,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// Why it is suspended, was lost, or is degraded, or what its sign-ins meet.
    pub reason: Option<&'static str>,
    /// The last retcode that was not success.
    pub retcode: Option<Retcode>,
    /// Seconds before the gateway would sign the agent out; `None` without a session.
    pub sign_out_budget_secs: Option<f64>,
    /// When the last heartbeat succeeded.
    pub last_heartbeat: Option<Timestamp>,
    /// The newest event that was stored of it since the start, and when.
    pub last_event: Option<(&'static str, Timestamp)>,
    /// Three letters T or F: voice, text chat, mail.
    pub media_type: Option<String>,
    /// What those letters say.
    pub media: Option<Media>,
    /// Days until the password expires, as of the sign-in.
    pub password_days_left: Option<u32>,
    /// Another program signed it in.
    pub adopted: bool,
    /// It is being signed out since it was taken out of the roster, or is to come back otherwise.
    pub leaving: bool,
    /// Seconds since its GUID came; `None` without a session, or where that is not known.
    pub guid_age_secs: Option<f64>,
    /// Everything that is wrong with a session that lives.
    pub degraded: Vec<&'static str>,
}

/// Everything that [`SessionView::reason`] can say.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    let suspensions = Suspension::ALL.into_iter().map(Suspension::as_str);
    let degradations = Degradation::ALL.into_iter().map(Degradation::as_str);
    let others = SESSION_LOSS_REASONS.iter().copied().chain([SIGNED_OUT, RELEASED]);
    suspensions.chain(degradations).chain(others).chain(CallError::REASONS)
}

/// What an agent is signed in to: the three letters of the sign-in's `mediatype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Media {
    /// The CTI server: voice calls.
    pub voice: bool,
    /// The multimedia server: text chat.
    pub text_chat: bool,
    /// Mail, which gateways do not support.
    pub mail: bool,
}

impl Media {
    /// Reads `TTF` and alike; `None` when it is something else.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Media> {
        let flag = |byte: u8| match byte {
            b'T' | b't' => Some(true),
            b'F' | b'f' => Some(false),
            _ => None,
        };
        match letters.trim().as_bytes() {
            [voice, text_chat, mail] => {
                Some(Media { voice: flag(*voice)?, text_chat: flag(*text_chat)?, mail: flag(*mail)? })
            }
            _ => None,
        }
    }
}

/// Times of a session that its task publishes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// When the gateway last heard of it.
    pub(super) last_ok: Option<Instant>,
    /// When its GUID came.
    pub(super) guid_since: Option<Instant>,
    /// It looks past: what time it has left, if any, nobody knows.
    pub(super) looks_past: bool,
}

/// What is wrong with a session that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Degradations(u8);

impl Degradations {
    fn bit(degradation: Degradation) -> u8 {
        match degradation {
            Degradation::HeartbeatsFailing => 1,
            Degradation::SkillsRefused => 2,
            Degradation::SignOutRefused => 4,
            Degradation::NoPushes => 8,
            Degradation::SettingsRefused => 16,
            Degradation::SignOutUnconfirmed => 32,
        }
    }

    pub(super) fn contains(self, degradation: Degradation) -> bool {
        self.0 & Degradations::bit(degradation) != 0
    }

    fn iter(self) -> impl Iterator<Item = Degradation> {
        Degradation::ALL.into_iter().filter(move |one| self.contains(*one))
    }
}

/// What the sessions of one gateway have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) gateway: GatewayName,
    pub(super) sign_out_limit: Duration,
    /// Times that sessions publish are milliseconds since this, plus one; zero is "none".
    pub(super) epoch: Instant,
    pub(super) metrics: Metrics,
    /// The last of its calls that got no answer of the gateway.
    pub(super) last_failed: LastFailed,
}

/// Shared between a session's task and everybody else.
#[derive(Debug)]
pub(super) struct Shared {
    common: Arc<Common>,
    pub(super) agent_id: AgentId,
    pub(super) bell: Bell,
    pub(super) mail: Mailbox,
    /// The agent was taken out of the roster: its task ends, and that is no failure.
    pub(super) leaving: AtomicBool,
    /// A person wants the agent signed out, which it may not be yet.
    pub(super) wanted_out: AtomicBool,
    /// How long the machine has stood still, as far as the session's task knows of it. Here it takes no room of its own.
    pub(super) stood_still_secs: AtomicU32,
    /// When the gateway last heard of the session.
    last_ok: AtomicU64,
    /// When its GUID came.
    guid_since: AtomicU64,
    /// When an agent was signed in of whom no push has come yet; zero when one has come, or none need come.
    push_awaited_since: AtomicU64,
    /// A push came while there was no session: it may belong to a sign-in that is not answered yet.
    pushed: AtomicBool,
    /// Bits of [`Degradations`].
    degraded: AtomicU8,
    /// When the first of an unbroken row of failed pushes came.
    push_failing_since: AtomicU64,
    status: Mutex<Status>,
}

/// The slow part of the status, changed by the session's task alone.
#[derive(Debug)]
pub(super) struct Status {
    state: State,
    since: Timestamp,
    pub(super) reason: Option<&'static str>,
    pub(super) retcode: Option<Retcode>,
    pub(super) last_heartbeat: Option<Timestamp>,
    /// When the session began, where there is one and that is known.
    pub(super) began: Option<Timestamp>,
    /// When the session began by the gateway's clock, from the answer to its sign-in until that is journalled.
    pub(super) login_time: Option<Timestamp>,
    /// Set by whoever stores its events, not by its task.
    last_event: Option<(&'static str, Timestamp)>,
    pub(super) media_type: Option<Box<str>>,
    pub(super) password_days_left: Option<u32>,
    pub(super) adopted: bool,
    /// What proves the session, for those who may know it.
    ticket: Option<Arc<Ticket>>,
}

impl Common {
    /// How many sessions are in this state.
    fn gauge(&self, state: State) -> IntGauge {
        self.metrics.sessions.with_label_values(&[self.gateway.as_str(), state.as_str()])
    }
}

impl Shared {
    /// A session that is signed out, counted as such from now on.
    pub(super) fn new(common: Arc<Common>, agent_id: AgentId, since: Timestamp) -> Shared {
        let state = State::SignedOut;
        common.gauge(state).inc();
        let status = Status {
            state,
            since,
            reason: None,
            retcode: None,
            last_heartbeat: None,
            began: None,
            login_time: None,
            last_event: None,
            media_type: None,
            password_days_left: None,
            adopted: false,
            ticket: None,
        };
        Shared {
            common,
            agent_id,
            bell: Bell::default(),
            mail: Mailbox::default(),
            leaving: AtomicBool::new(false),
            wanted_out: AtomicBool::new(false),
            stood_still_secs: AtomicU32::new(0),
            last_ok: AtomicU64::new(0),
            guid_since: AtomicU64::new(0),
            push_awaited_since: AtomicU64::new(0),
            pushed: AtomicBool::new(false),
            degraded: AtomicU8::new(0),
            push_failing_since: AtomicU64::new(0),
            status: Mutex::new(status),
        }
    }

    /// Whose gateway.
    pub(super) fn gateway(&self) -> &GatewayName {
        &self.common.gateway
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes where the session is, with what that came of, so that nobody sees a state with the reason of the one before; the
    /// gauge moves with it.
    pub(super) fn publish(&self, state: State, effects: &[Effect], times: Times, now: Timestamp) {
        let stamp = |time: Option<Instant>| time.map_or(0, |time| self.stamp(time));
        let heard = times.last_ok.filter(|_| !times.looks_past);
        self.last_ok.store(stamp(heard), Ordering::Relaxed);
        self.guid_since.store(stamp(times.guid_since), Ordering::Relaxed);
        if times.last_ok.is_none() {
            self.push_awaited_since.store(0, Ordering::Relaxed);
            self.degraded.store(0, Ordering::Relaxed);
        }
        let mut status = self.status();
        if status.state != state {
            self.common.gauge(status.state).dec();
            self.common.gauge(state).inc();
            status.state = state;
            status.since = now;
            // What calls have met is of the state that they were made in.
            if status.reason.is_some_and(|reason| CallError::REASONS.contains(&reason)) {
                status.reason = None;
            }
        }
        if let Some(reason) = new_reason(state, effects) {
            status.reason = reason;
        }
    }

    /// Publishes what proves the session, or that there is none.
    pub(super) fn publish_ticket(&self, ticket: Option<&Arc<Ticket>>) {
        self.status().ticket = ticket.cloned();
    }

    /// Whether a person wants the agent signed out, be it that its task has not heard so yet.
    pub(super) fn is_wanted_out(&self) -> bool {
        self.bell.last_word().unwrap_or_else(|| self.wanted_out.load(Ordering::Acquire))
    }

    /// What proves the session, where there is one.
    pub(super) fn ticket(&self) -> Option<Arc<Ticket>> {
        self.status().ticket.clone()
    }

    /// A session of an earlier run of which no push had come is there: one is awaited from then on.
    pub(super) fn await_push(&self, since: Instant) {
        self.push_awaited_since.store(self.stamp(since), Ordering::Relaxed);
    }

    /// Whether no push has come since a sign-in.
    pub(super) fn awaits_push(&self) -> bool {
        self.push_awaited_since.load(Ordering::Relaxed) != 0
    }

    /// A new session: what was wrong with the one before is past. One that was signed in causes events, so that pushes
    /// are awaited from then on.
    pub(super) fn session_began(&self, awaited: Option<Instant>) {
        self.push_failing_since.store(0, Ordering::Relaxed);
        // Its first push may have come before the answer to the sign-in.
        let pushed = self.pushed.swap(false, Ordering::AcqRel);
        let awaited = awaited.filter(|_| !pushed).map_or(0, |time| self.stamp(time));
        self.push_awaited_since.store(awaited, Ordering::Relaxed);
        self.degraded.store(0, Ordering::Relaxed);
        self.status().retcode = None;
    }

    /// Takes the session out of the gauge, when its task has ended.
    pub(super) fn retire(&self) {
        let state = {
            let mut status = self.status();
            status.ticket = None;
            status.state
        };
        self.common.gauge(state).dec();
        self.last_ok.store(0, Ordering::Relaxed);
    }

    /// Notes whether a push of this agent was answered with success. A row of failures costs the session after the
    /// same limit as silence; one success ends the row.
    pub(super) fn note_push(&self, ok: bool, now: Instant) {
        if self.last_ok.load(Ordering::Relaxed) == 0 {
            self.pushed.store(true, Ordering::Release);
        }
        if self.awaits_push() {
            self.push_awaited_since.store(0, Ordering::Relaxed);
            self.clear_degraded(Degradation::NoPushes);
        }
        let failing = self.push_failing_since.load(Ordering::Relaxed) != 0;
        match (ok, failing) {
            (true, true) => self.push_failing_since.store(0, Ordering::Relaxed),
            (false, false) => self.push_failing_since.store(self.stamp(now), Ordering::Relaxed),
            _ => {}
        }
    }

    /// Notes the newest event that was stored of this agent.
    pub(super) fn note_event(&self, event_type: &'static str, at: Timestamp) {
        self.status().last_event = Some((event_type, at));
    }

    /// A sign-in is sent: pushes from now on may be its.
    pub(super) fn sign_in_began(&self) {
        self.pushed.store(false, Ordering::Release);
    }

    /// Something is wrong with the session. Says whether that is new.
    pub(super) fn set_degraded(&self, degradation: Degradation) -> bool {
        let before = self.degraded.fetch_or(Degradations::bit(degradation), Ordering::Relaxed);
        !Degradations(before).contains(degradation)
    }

    /// It is not wrong any more.
    pub(super) fn clear_degraded(&self, degradation: Degradation) {
        let before = self.degraded.fetch_and(!Degradations::bit(degradation), Ordering::Relaxed);
        if Degradations(before).contains(degradation) {
            let mut status = self.status();
            if status.reason == Some(degradation.as_str()) {
                status.reason = self.degradations().iter().next().map(Degradation::as_str);
            }
        }
    }

    pub(super) fn degradations(&self) -> Degradations {
        Degradations(self.degraded.load(Ordering::Relaxed))
    }

    /// Whether pushes have been awaited for longer than `limit` and nobody was told yet.
    pub(super) fn falls_silent(&self, limit: Duration, now: Instant) -> bool {
        let since = self.push_awaited_since.load(Ordering::Relaxed);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let silent = since != 0 && self.stamp(now).saturating_sub(since) >= limit;
        // Of one that is not yet confirmed after a restart it is not known whether it is there.
        silent && self.state() == State::Active && self.set_degraded(Degradation::NoPushes)
    }

    /// How old the session's GUID is.
    pub(super) fn guid_age(&self, now: Instant) -> Option<Duration> {
        let since = self.guid_since.load(Ordering::Relaxed);
        (since != 0).then(|| Duration::from_millis(self.stamp(now).saturating_sub(since)))
    }

    /// Time before the gateway would sign the agent out, for silence or for failed pushes; `None` without a session.
    pub(super) fn budget(&self, now: Instant) -> Option<Duration> {
        let now = self.stamp(now);
        let left = |since: u64| {
            self.common.sign_out_limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)))
        };
        let last_ok = self.last_ok.load(Ordering::Relaxed);
        let failing_since = self.push_failing_since.load(Ordering::Relaxed);
        match (last_ok, failing_since) {
            (0, _) => None,
            (since, 0) => Some(left(since)),
            (since, failing) => Some(left(since).min(left(failing))),
        }
    }

    pub(super) fn state(&self) -> State {
        self.status().state
    }

    pub(super) fn view(&self, now: Instant) -> SessionView {
        let status = self.status();
        SessionView {
            gateway: self.common.gateway.clone(),
            agent_id: self.agent_id.clone(),
            state: status.state.as_str(),
            since: status.since,
            reason: status.reason,
            retcode: status.retcode.clone(),
            sign_out_budget_secs: self.budget(now).map(|left| left.as_secs_f64()),
            last_heartbeat: status.last_heartbeat,
            last_event: status.last_event,
            media_type: status.media_type.as_deref().map(str::to_owned),
            media: status.media_type.as_deref().and_then(Media::parse),
            password_days_left: status.password_days_left,
            adopted: status.adopted,
            leaving: self.leaving.load(Ordering::Acquire),
            guid_age_secs: self.guid_age(now).map(|age| age.as_secs_f64()),
            degraded: self.degradations().iter().map(Degradation::as_str).collect(),
        }
    }

    /// Whether that is why it is suspended, was lost, or is degraded; a session can be degraded for several reasons.
    pub(super) fn has_reason(&self, reason: &str) -> bool {
        self.status().reason == Some(reason) || self.degradations().iter().any(|one| one.as_str() == reason)
    }

    /// Milliseconds since the epoch plus one; the epoch lies before any time a session can know of.
    fn stamp(&self, time: Instant) -> u64 {
        let millis = time.saturating_duration_since(self.common.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Wishes of others to a session's task: a few bits, so that none is lost and none queues up. Only that task waits.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicU8,
    waiting: AtomicWaker,
}

/// What a bell can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    ForcedOut = 1,
    SignIn = 2,
    SignOut = 4,
    Stop = 8,
    StopAndSignOut = 16,
    TakeOver = 32,
    Mail = 64,
    Leave = 128,
}

impl Ring {
    pub(super) const ALL: [Ring; 8] = [
        Ring::ForcedOut,
        Ring::Mail,
        Ring::SignIn,
        Ring::TakeOver,
        Ring::SignOut,
        Ring::Leave,
        Ring::Stop,
        Ring::StopAndSignOut,
    ];
}

impl Bell {
    pub(super) fn ring(&self, ring: Ring) {
        // Of sign-in and sign-out the later wish counts.
        let revoked = match ring {
            Ring::SignIn | Ring::TakeOver => Ring::SignOut as u8,
            Ring::SignOut => Ring::SignIn as u8 | Ring::TakeOver as u8,
            _ => 0,
        };
        let update = |rung: u8| Some((rung & !revoked) | ring as u8);
        // The closure always gives a value, so this cannot fail.
        let _previous = self.rung.fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
        self.waiting.wake();
    }

    /// What was rung since the last time; empty most of the time.
    pub(super) fn take(&self) -> impl Iterator<Item = Ring> + use<> {
        let rung = self.rung.swap(0, Ordering::AcqRel);
        Ring::ALL.into_iter().filter(move |ring| rung & *ring as u8 != 0)
    }

    /// Whether a sign-out was rung last and not a sign-in, where either is still to be taken.
    fn last_word(&self) -> Option<bool> {
        let rung = self.rung.load(Ordering::Acquire);
        let (out, back) = (Ring::SignOut as u8, Ring::SignIn as u8 | Ring::TakeOver as u8);
        (rung & (out | back) != 0).then_some(rung & out != 0)
    }

    /// Waits until something was rung, and leaves it there.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| {
            self.waiting.register(context.waker());
            if self.is_rung() { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire) != 0
    }
}

/// The reason that is shown from now on: `None` where the one that is shown stays, `Some(None)` where there is none any more.
fn new_reason(state: State, effects: &[Effect]) -> Option<Option<&'static str>> {
    if let State::Suspended(suspension) = state {
        return Some(Some(suspension.as_str()));
    }
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Started(_) => Some(None),
        Effect::Degraded(degradation) => Some(Some(degradation.as_str())),
        Effect::Lost(loss) => Some(Some(loss.as_str())),
        Effect::Suspended(suspension) => Some(Some(suspension.as_str())),
        Effect::SignedOut => Some(Some(SIGNED_OUT)),
        Effect::Kept | Effect::SkillsSet | Effect::SettingsDone | Effect::Mended(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::retcode::Loss;
    use crate::session::state::Entry;

    fn shared(metrics: &Metrics, now: Instant) -> Shared {
        let common = Common {
            gateway: GatewayName::parse("main").unwrap(),
            sign_out_limit: Duration::from_secs(120),
            epoch: now,
            metrics: metrics.clone(),
            last_failed: LastFailed::default(),
        };
        Shared::new(Arc::new(common), AgentId::parse("291").unwrap(), Timestamp(0))
    }

    fn heard(at: Instant) -> Times {
        Times { last_ok: Some(at), guid_since: None, looks_past: false }
    }

    #[test]
    fn the_budget_is_the_lesser_of_silence_and_push_failure() {
        let metrics = Metrics::new(["main"], []).unwrap();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let shared = shared(&metrics, start);
        assert_eq!(shared.budget(at(0)), None);
        shared.publish(State::Active, &[], heard(at(10)), Timestamp(0));
        assert_eq!(shared.budget(at(10)), Some(Duration::from_secs(120)));
        assert_eq!(shared.budget(at(40)), Some(Duration::from_secs(90)));
        shared.note_push(false, at(20));
        shared.note_push(false, at(30));
        shared.publish(State::Active, &[], heard(at(40)), Timestamp(0));
        assert_eq!(shared.budget(at(50)), Some(Duration::from_secs(90)));
        shared.note_push(true, at(50));
        assert_eq!(shared.budget(at(50)), Some(Duration::from_secs(110)));
        assert_eq!(shared.budget(at(1000)), Some(Duration::ZERO));
        shared.publish(State::Recovering, &[], Times::default(), Timestamp(0));
        assert_eq!(shared.budget(at(1000)), None);
    }

    #[test]
    fn the_reason_is_one_of_what_is_still_wrong_and_all_of_it_can_be_asked_for() {
        let shared = shared(&Metrics::new(["main"], []).unwrap(), Instant::now());
        for one in [Degradation::HeartbeatsFailing, Degradation::NoPushes] {
            shared.set_degraded(one);
            shared.status().reason = Some(one.as_str());
        }
        let asked_for = |reason| reasons().any(|known| known == reason) && shared.has_reason(reason);
        assert!(asked_for("heartbeats_failing") && asked_for("no_pushes") && !asked_for("skills_refused"));
        shared.clear_degraded(Degradation::NoPushes);
        assert_eq!(shared.status().reason, Some("heartbeats_failing"));
        shared.clear_degraded(Degradation::HeartbeatsFailing);
        assert_eq!(shared.status().reason, None);
    }

    #[test]
    fn a_state_is_seen_with_its_own_reason_and_never_with_that_of_the_one_before() {
        let shared = shared(&Metrics::new(["main"], []).unwrap(), Instant::now());
        let seen = |state, effects: &[Effect]| {
            shared.publish(state, effects, Times::default(), Timestamp(0));
            let view = shared.view(Instant::now());
            (view.state, view.reason)
        };
        let lost = Effect::Lost(Loss::NotSignedIn);
        assert_eq!(seen(State::Recovering, &[lost]), ("recovering", Some("not_signed_in")));
        assert_eq!(seen(State::SigningIn, &[]), ("signing_in", Some("not_signed_in")));
        assert_eq!(seen(State::Active, &[Effect::Started(Entry::SignedIn)]), ("active", None));
        let degraded = [Effect::Started(Entry::SignedIn), Effect::Degraded(Degradation::SkillsRefused)];
        assert_eq!(seen(State::Active, &degraded), ("active", Some("skills_refused")));
        let gone = Suspension::AdoptedSessionLost;
        let effects = [lost, Effect::Suspended(gone)];
        assert_eq!(seen(State::Suspended(gone), &effects), ("suspended", Some("adopted_session_lost")));
        assert_eq!(seen(State::SignedOut, &[lost, Effect::SignedOut]), ("signed_out", Some("signed_out")));
        // After a start of the daemon there is no effect that says so.
        let locked = Suspension::AccountLocked;
        assert_eq!(seen(State::Suspended(locked), &[]), ("suspended", Some("account_locked")));
    }

    #[test]
    fn media_are_read_from_three_letters_and_from_nothing_else() {
        let media = |voice, text_chat, mail| Some(Media { voice, text_chat, mail });
        assert_eq!(Media::parse("TTF"), media(true, true, false));
        assert_eq!(Media::parse(" ftf "), media(false, true, false));
        for other in ["", "TT", "TTFF", "TXF", "1"] {
            assert_eq!(Media::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_gauge_holds_each_session_in_one_state() {
        let metrics = Metrics::new(["main"], []).unwrap();
        let shared = shared(&metrics, Instant::now());
        let count = |state: &str| metrics.sessions.with_label_values(&["main", state]).get();
        assert_eq!((count("signed_out"), count("active")), (1, 0));
        shared.publish(State::Active, &[], Times::default(), Timestamp(0));
        shared.publish(State::Active, &[], Times::default(), Timestamp(0));
        assert_eq!((count("signed_out"), count("active")), (0, 1));
        shared.retire();
        assert_eq!((count("signed_out"), count("active")), (0, 0));
    }

    #[test]
    fn of_sign_in_and_sign_out_the_later_wish_counts() {
        let bell = Bell::default();
        bell.ring(Ring::SignOut);
        bell.ring(Ring::ForcedOut);
        assert_eq!(bell.last_word(), Some(true));
        bell.ring(Ring::SignIn);
        assert_eq!(bell.last_word(), Some(false));
        assert_eq!(bell.take().collect::<Vec<_>>(), [Ring::ForcedOut, Ring::SignIn]);
        assert_eq!((bell.take().count(), bell.last_word()), (0, None));
    }
}
