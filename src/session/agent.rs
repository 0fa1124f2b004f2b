//! The task of one agent: asks the state machine what to do, makes the call, and tells everybody what came of it.

use std::sync::Arc;

use secrecy::SecretString;
use tokio::time::Instant;

use crate::event::{AgentId, GatewayName};
use crate::metrics::Metrics;
use crate::session::call::{Answer, Call, CallError, GatewayCalls, Reply, SignInResult, Ticket};
use crate::session::config::{AgentConfig, GatewayConfig, Skills};
use crate::session::pace::Pace;
use crate::session::retcode::{Meaning, Operation, Retcode, meaning};
use crate::session::state::{Effect, Entry, Input, Machine, Next, Outcome, Resume, Rules};
use crate::session::status::{Ring, Shared};
use crate::session::{Deps, LifecycleEvent, LifecycleKind, StoredSession};

/// A password that expires within this many days is worth a warning at each sign-in.
const PASSWORD_WARNING_DAYS: u32 = 7;
/// A store that hangs must not cost heartbeats.
const SAVE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// What the sessions of one gateway have in common.
pub(super) struct Gateway {
    pub(super) config: GatewayConfig,
    pub(super) calls: Arc<dyn GatewayCalls>,
    pub(super) pace: Pace,
}

/// The task's own state.
pub(super) struct Agent {
    config: Arc<AgentConfig>,
    gateway: Arc<Gateway>,
    deps: Arc<Deps>,
    shared: Arc<Shared>,
    machine: Machine,
    /// What proves the session: there while the machine holds one.
    ticket: Option<Ticket>,
    media_type: Option<String>,
    /// The turn for the next sign-in, once drawn.
    turn: Option<Instant>,
    /// Calls in a row that failed, for the log.
    failures: u32,
    last_retcode: Option<Retcode>,
}

impl Agent {
    pub(super) fn new(
        config: Arc<AgentConfig>,
        gateway: Arc<Gateway>,
        deps: Arc<Deps>,
        shared: Arc<Shared>,
    ) -> Agent {
        let rules = Rules {
            heartbeat_interval: gateway.config.heartbeat_interval,
            sign_out_limit: gateway.config.sign_out_limit,
            takeover: config.takeover,
            skills: config.skills != Skills::Ids(Vec::new()),
        };
        Agent {
            config,
            gateway,
            deps,
            shared,
            machine: Machine::new(rules),
            ticket: None,
            media_type: None,
            turn: None,
            failures: 0,
            last_retcode: None,
        }
    }

    /// Keeps the session until the daemon stops.
    pub(super) async fn run(mut self) {
        let resume = self.load();
        self.step(Input::Start(resume)).await;
        loop {
            let rings: Vec<Ring> = self.shared.bell.take().collect();
            for ring in rings {
                self.step(input(ring)).await;
            }
            match self.machine.next() {
                Next::Done => break,
                Next::Rest => self.shared.bell.wait().await,
                Next::Call(operation, due) => {
                    let due = self.turn(operation, due);
                    tokio::select! {
                        biased;
                        () = self.shared.bell.wait() => {}
                        () = tokio::time::sleep_until(due) => self.call_when_due(operation, due).await,
                    }
                }
            }
        }
    }

    fn gateway(&self) -> &GatewayName {
        &self.gateway.config.name
    }

    fn agent_id(&self) -> &AgentId {
        &self.config.id
    }

    fn metrics(&self) -> &Metrics {
        &self.deps.metrics
    }

    /// The session of an earlier run, if the gateway may still know it.
    fn load(&mut self) -> Option<Resume> {
        let stored = self.deps.store.load(self.gateway(), self.agent_id())?;
        let silence = self.deps.clock.now().since(stored.last_success);
        let resume = Resume { silence, skills_set: stored.skills_set };
        (silence < self.gateway.config.sign_out_limit).then(|| {
            self.ticket = Some(stored.ticket);
            self.media_type = stored.media_type;
            resume
        })
    }

    /// When the call may be made: sign-ins wait for their turn, drawn when they are due and kept until used.
    fn turn(&self, operation: Operation, due: Instant) -> Instant {
        match (operation, self.turn) {
            (Operation::Login, Some(turn)) => due.max(turn),
            _ => due,
        }
    }

    async fn call_when_due(&mut self, operation: Operation, due: Instant) {
        if operation == Operation::Login && self.turn.is_none() {
            let turn = self.gateway.pace.reserve(Instant::now());
            self.turn = Some(turn);
            return;
        }
        self.turn = None;
        if operation == Operation::Handshake {
            let late = Instant::now().saturating_duration_since(due).as_secs_f64();
            self.metrics().heartbeat_lateness.with_label_values(&[self.gateway().as_str()]).observe(late);
        }
        self.call(operation).await;
    }

    async fn call(&mut self, operation: Operation) {
        let Some(password) = self.password(operation).await else {
            self.step(Input::Began(operation)).await;
            self.step(Input::Ended(Outcome::NoPassword)).await;
            return;
        };
        let with_token = operation.signs_in() || self.machine.wants_token();
        let token = with_token.then(|| self.deps.tokens.mint(self.gateway(), self.agent_id()));
        let sent = Instant::now();
        self.step(Input::Began(operation)).await;
        let call = Call {
            operation,
            agent: &self.config,
            password: password.as_ref(),
            token: token.as_ref(),
            ticket: self.ticket.as_ref().filter(|_| !operation.signs_in()),
        };
        let answer = self.gateway.calls.call(call).await;
        self.answered(operation, answer, sent).await;
    }

    /// The password where the call needs one; `None` when it needs one that cannot be had.
    async fn password(&self, operation: Operation) -> Option<Option<SecretString>> {
        if !operation.signs_in() {
            return Some(None);
        }
        let source = self.config.password.clone();
        let read = tokio::task::spawn_blocking(move || source.read()).await;
        match read {
            Ok(Ok(password)) => Some(Some(password)),
            Ok(Err(error)) => {
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), %error, "no password");
                None
            }
            Err(_panicked_or_stopping) => None,
        }
    }

    async fn answered(&mut self, operation: Operation, answer: Answer, sent: Instant) {
        let outcome = self.outcome(operation, &answer.verdict, answer.guid.is_some());
        self.count(operation, &answer.verdict, outcome, sent);
        self.note(operation, &answer.verdict);
        let result = answer.verdict.as_ref().map(|reply| reply.result.clone()).unwrap_or_default();
        let renewed = self.take_ticket(operation, answer, outcome);
        self.take_result(operation, outcome, result);
        if renewed {
            self.metrics().guid_changes.with_label_values(&[self.gateway().as_str()]).inc();
        }
        let saved = self.step(Input::Ended(outcome)).await;
        if renewed && !saved {
            self.save().await;
        }
    }

    fn outcome(&self, operation: Operation, verdict: &Result<Reply, CallError>, has_guid: bool) -> Outcome {
        let reply = match verdict {
            Ok(reply) => reply,
            Err(error) => return Outcome::Unanswered { may_have_arrived: error.may_have_arrived() },
        };
        match meaning(operation, &reply.retcode) {
            // Without a GUID there is nothing to keep the session with.
            Meaning::Ok if operation.signs_in() && !has_guid => {
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), "sign-in without Set-GUID");
                Outcome::Answered(Meaning::Doubtful)
            }
            Meaning::Ok if operation.signs_in() && reply.result.password_change_required => {
                Outcome::PasswordChangeRequired
            }
            meaning => Outcome::Answered(meaning),
        }
    }

    /// Takes over GUID and cookies; says whether a GUID was renewed.
    fn take_ticket(&mut self, operation: Operation, answer: Answer, outcome: Outcome) -> bool {
        let signed_in = matches!(outcome, Outcome::Answered(Meaning::Ok) | Outcome::PasswordChangeRequired);
        match (&mut self.ticket, answer.guid) {
            (ticket, Some(guid)) if operation.signs_in() && signed_in => {
                *ticket = Some(Ticket::new(guid, answer.cookies));
                false
            }
            _ if operation.signs_in() => false,
            (Some(ticket), guid) => {
                ticket.set_cookies(answer.cookies);
                guid.is_some_and(|guid| ticket.set_guid(guid))
            }
            (None, _) => false,
        }
    }

    fn take_result(&mut self, operation: Operation, outcome: Outcome, result: SignInResult) {
        if !operation.signs_in() || outcome != Outcome::Answered(Meaning::Ok) {
            return;
        }
        if let Some(days) = result.password_days_left.filter(|days| *days <= PASSWORD_WARNING_DAYS) {
            tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), days, "password expires soon");
        }
        self.media_type = result.media_type;
        self.shared.status().password_days_left = result.password_days_left;
    }

    fn count(
        &self,
        operation: Operation,
        verdict: &Result<Reply, CallError>,
        outcome: Outcome,
        sent: Instant,
    ) {
        let gateway = self.gateway().as_str();
        let label = match (verdict, outcome) {
            (Err(error), _) => error.outcome(),
            (_, Outcome::Answered(Meaning::Ok)) => "ok",
            (_, Outcome::Answered(Meaning::Lost(_))) => "session_lost",
            (_, Outcome::Answered(Meaning::SwitchingOver)) => "switching_over",
            _ => "refused",
        };
        match operation {
            Operation::Handshake => {
                self.metrics().heartbeats.with_label_values(&[gateway, label]).inc();
                let took = sent.elapsed().as_secs_f64();
                self.metrics().heartbeat_duration.with_label_values(&[gateway]).observe(took);
            }
            // Success and suspension are counted as effects; 100-002 that leads to a forced sign-in is neither.
            Operation::Login | Operation::ForceLogin => match outcome {
                Outcome::Unanswered { .. } => self.count_sign_in(label),
                Outcome::Answered(Meaning::Transient | Meaning::SwitchingOver | Meaning::Doubtful) => {
                    self.count_sign_in("refused");
                }
                _ => {}
            },
            Operation::ResetSkill | Operation::Logout => {}
        }
    }

    fn count_sign_in(&self, outcome: &str) {
        self.metrics().sign_ins.with_label_values(&[self.gateway().as_str(), outcome]).inc();
    }

    /// Logs failures: the first and then ever fewer of a row, since a gateway's outage fails for all agents at once.
    fn note(&mut self, operation: Operation, verdict: &Result<Reply, CallError>) {
        let operation = operation.as_str();
        let (retcode, error) = match verdict {
            Ok(reply) if reply.retcode.class() == Some(super::retcode::Class::Ok) => {
                if self.failures > 0 {
                    tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation,
                        attempt = self.failures + 1, "succeeded again");
                }
                self.failures = 0;
                return;
            }
            Ok(reply) => (Some(reply.retcode.clone()), reply.message.clone()),
            Err(error) => (None, error.to_string()),
        };
        self.failures = self.failures.saturating_add(1);
        let attempt = self.failures;
        let code = retcode.as_ref().map_or("", Retcode::as_str);
        if attempt.is_power_of_two() {
            tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation, retcode = code,
                attempt, error, "call failed");
        } else {
            tracing::debug!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation, retcode = code,
                attempt, error, "call failed");
        }
        self.last_retcode.clone_from(&retcode);
        if retcode.is_some() {
            self.shared.status().retcode = retcode;
        }
    }

    /// One step of the machine and what follows from it. Says whether that included saving the session.
    async fn step(&mut self, input: Input) -> bool {
        let effects = self.machine.step(input, Instant::now());
        let (state, last_ok) = (self.machine.state(), self.machine.last_ok());
        self.shared.publish(state, last_ok, self.deps.clock.now(), self.metrics());
        let save = !effects.is_empty();
        for effect in effects {
            self.take_effect(effect);
        }
        if save {
            self.save().await;
        }
        save
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Started(entry) => self.started(entry),
            Effect::Kept => {
                let now = self.deps.clock.now();
                let mut status = self.shared.status();
                status.last_heartbeat = Some(now);
                if status.reason == Some("heartbeats_failing") {
                    status.reason = None;
                }
            }
            Effect::SkillsSet => {}
            Effect::Degraded(degradation) => {
                let reason = degradation.as_str();
                tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, "session degraded");
                self.journal(LifecycleKind::Degraded, reason);
            }
            Effect::Lost(loss) => {
                let reason = loss.as_str();
                self.metrics().session_losses.with_label_values(&[self.gateway().as_str(), reason]).inc();
                tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, "session lost");
                self.journal(LifecycleKind::Lost, reason);
            }
            Effect::Suspended(suspension) => {
                let reason = suspension.as_str();
                self.count_sign_in("suspended");
                let retcode = self.last_retcode.as_ref().map_or("", Retcode::as_str);
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, retcode,
                    "session suspended: a person is needed");
                self.journal(LifecycleKind::Ended, reason);
            }
            Effect::SignedOut => {
                tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(), "signed out");
                self.journal(LifecycleKind::Ended, "signed_out");
            }
        }
    }

    fn started(&mut self, entry: Entry) {
        let how = match entry {
            Entry::SignedIn => "signed_in",
            Entry::TakenOver => "taken_over",
            Entry::Resumed => "resumed",
        };
        self.count_sign_in(if entry == Entry::SignedIn { "ok" } else { how });
        self.last_retcode = None;
        self.shared.session_began(self.media_type.clone());
        tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(), how, "session started");
        self.journal(LifecycleKind::Started, how);
    }

    fn journal(&self, kind: LifecycleKind, reason: &'static str) {
        self.shared.status().reason = (kind != LifecycleKind::Started).then_some(reason);
        let event =
            LifecycleEvent { kind, reason, retcode: self.last_retcode.clone(), time: self.deps.clock.now() };
        self.deps.journal.record(self.gateway(), self.agent_id(), event);
    }

    /// Saves the session as it is, or forgets it where there is none.
    async fn save(&mut self) {
        let session = self.stored();
        if session.is_none() {
            self.ticket = None;
        }
        let save = self.deps.store.save(self.gateway(), self.agent_id(), session);
        let failure = match tokio::time::timeout(SAVE_DEADLINE, save).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "the store does not answer".to_owned(),
        };
        tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), error = failure,
            "session not saved: a restart now would sign in anew");
    }

    fn stored(&self) -> Option<StoredSession> {
        let silence = Instant::now().saturating_duration_since(self.machine.last_ok()?);
        let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        Some(StoredSession {
            ticket: self.ticket.clone()?,
            last_success: crate::clock::Timestamp(self.deps.clock.now().millis().saturating_sub(millis)),
            skills_set: self.machine.skills_set(),
            media_type: self.media_type.clone(),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shared.retire(&self.deps.metrics);
    }
}

fn input(ring: Ring) -> Input {
    match ring {
        Ring::ForcedOut => Input::ForcedOut,
        Ring::SignIn => Input::SignIn,
        Ring::SignOut => Input::SignOut,
        Ring::Stop => Input::Stop { sign_out: false },
        Ring::StopAndSignOut => Input::Stop { sign_out: true },
    }
}
