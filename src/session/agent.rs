//! The task of one agent: asks the state machine what to do, makes the call, and tells everybody what came of it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::{AgentId, GatewayName};
use crate::hex::hex;
use crate::metrics::Metrics;
use crate::session::call::{
    Answer, Call, CallError, Cookie, GatewayCalls, Permit, Reply, SignInResult, Ticket,
};
use crate::session::config::{AgentConfig, GatewayConfig, Mode, PasswordError, PasswordSource, Skills};
use crate::session::failed::{FailedCall, LastFailed};
use crate::session::forward::ForwardError;
use crate::session::gateway::addresses::which;
use crate::session::mail::{Adoption, Waiting};
use crate::session::pace::Pace;
use crate::session::password::PasswordReader;
use crate::session::refused::{LOOK_PAUSE, Mark, Marks, Refused};
use crate::session::retcode::{Loss, Meaning, Operation, Retcode, Suspension, doubts_session, meaning};
use crate::session::standstill::Standstill;
use crate::session::state::{
    Degradation, Effect, Entry, Forwarded, Input, Machine, Next, Outcome, Resume, Rules, State,
};
use crate::session::status::{Common, Media, RELEASED, Ring, SIGNED_OUT, Shared, Times};
use crate::session::{Deps, LifecycleEvent, LifecycleKind, Stored, StoredAdoption, StoredSession};

/// A password that expires within this many days is worth a warning at each sign-in.
const PASSWORD_WARNING_DAYS: u32 = 7;
/// Between tries to store an event that was fetched.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// A start so soon after an account was refused, or after another such start, is taken for one of many: a daemon that crashes
/// and is started again and again must not lock accounts.
const SUSPENSION_KEPT: Duration = Duration::from_secs(600);
/// Where so many sessions that looked past are gone, and none stood, the others are: those of all agents were left behind together, and
/// those with the youngest GUIDs are asked for first.
const PAST_ASKED_FOR: u32 = 16;
/// A store that hangs must not cost heartbeats.
const SAVE_DEADLINE: Duration = Duration::from_secs(5);

/// What the sessions of one gateway have in common.
pub(super) struct Gateway {
    pub(super) config: GatewayConfig,
    pub(super) calls: Arc<dyn GatewayCalls>,
    pub(super) pace: Pace,
    passwords: PasswordReader,
    marks: Marks,
    pub(super) deps: Arc<Deps>,
    pub(super) common: Arc<Common>,
    pub(super) standstill: Standstill,
    /// Sessions that looked past, and were gone.
    past_gone: AtomicU32,
    /// One that looked past stood: the clock is or was wrong, and each is asked for. Of the others some have GUIDs that died of their age.
    past_stands: AtomicBool,
    /// What stands for the address that sign-ins tell the gateway to push to.
    pub(super) callback: u64,
    /// The rules of its agents, each once: few combinations of their settings exist.
    rules: Mutex<Vec<Arc<Rules>>>,
    /// It was said that the gateway gives no GUIDs that it is asked for.
    renewals_missed: AtomicBool,
    /// The daemon stops: what cannot be done now is not done any more.
    pub(super) stopping: AtomicBool,
}

impl Gateway {
    pub(super) fn new(
        config: GatewayConfig,
        calls: Arc<dyn GatewayCalls>,
        deps: Arc<Deps>,
        epoch: Instant,
    ) -> Gateway {
        let common = Common {
            gateway: config.name.clone(),
            sign_out_limit: config.sign_out_limit,
            epoch,
            metrics: deps.metrics.clone(),
            last_failed: LastFailed::default(),
        };
        let (pace, rules) = (Pace::new(config.sign_in_rate_per_sec), Mutex::default());
        let (passwords, marks) = (PasswordReader::default(), Marks::default());
        let common = Arc::new(common);
        let callback = digest(&config.callback_uri);
        let standstill = Standstill::new(deps.clock.clone(), Instant::now());
        let (renewals_missed, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        Gateway {
            config,
            calls,
            pace,
            passwords,
            marks,
            deps,
            common,
            standstill,
            past_gone: AtomicU32::new(0),
            past_stands: AtomicBool::new(false),
            callback,
            rules,
            renewals_missed,
            stopping,
        }
    }

    /// Whether sessions that look past are gone as others were, and are not asked for any more.
    fn past_is_gone(&self) -> bool {
        !self.past_stands.load(Ordering::Relaxed) && self.past_gone.load(Ordering::Relaxed) >= PAST_ASKED_FOR
    }

    /// An address of the gateway by its name and its base URL, which holds no secret.
    fn address(&self, number: Option<u8>) -> String {
        let number = number.map(usize::from);
        let base = number.and_then(|number| self.config.bases().into_iter().nth(number));
        number.zip(base).map_or_else(String::new, |(number, base)| format!("{} {base}", which(number)))
    }

    /// Says once what it means that a gateway refuses to renew GUIDs.
    fn note_no_renewals(&self) {
        if !self.renewals_missed.swap(true, Ordering::Relaxed) {
            tracing::warn!(gateway = %self.config.name, "the gateway does not give new GUIDs when it is asked \
                (updateGuid); it gives them with heartbeats, but a restart after nearly a minute may then have to sign \
                agents in anew; guid_renewal_secs = 0 asks no more");
        }
    }

    /// The rules of an agent with this configuration.
    fn rules(&self, agent: &AgentConfig) -> Arc<Rules> {
        let rules = rules(&self.config, agent);
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| ***known == rules) {
            return same.clone();
        }
        let rules = Arc::new(rules);
        known.push(rules.clone());
        rules
    }
}

/// What a task begins with.
#[derive(Default)]
pub(super) struct Start {
    /// What an earlier run left.
    pub(super) stored: Option<Box<Stored>>,
    /// How long it may wait to be looked after, among all that were left.
    pub(super) delay: Duration,
    /// The agent has just come into the roster: where nothing is stored of it, nothing of ours can be at the gateway.
    pub(super) new: bool,
}

/// The task's own state.
pub(super) struct Agent {
    config: Arc<AgentConfig>,
    gateway: Arc<Gateway>,
    shared: Arc<Shared>,
    machine: Machine,
    /// What proves the session: there while the machine holds one.
    ticket: Option<Arc<Ticket>>,
    /// The token of the program that signed the session in, where that was not us.
    adopted: Option<SecretString>,
    /// The token of a session in the older push mode, which stays the same.
    fixed: Option<SecretString>,
    /// That token went with a sign-in, and none has succeeded since.
    offered: bool,
    /// The session was signed in with the callback address that is configured.
    addressed: bool,
    /// It was saved that no push has come yet.
    saved_awaiting: bool,
    /// The turn for the next sign-in, once drawn.
    turn: Option<Instant>,
    /// There after a call that failed.
    trouble: Option<Box<Trouble>>,
}

/// Calls that fail, for the log and the journal.
#[derive(Default)]
struct Trouble {
    /// How many in a row, of each kind: one may fail on and on while others succeed.
    failures: Vec<(Operation, u32)>,
    last_retcode: Option<Retcode>,
    /// There after a sign-in that gave no session.
    refused: Option<Refused>,
}

impl Trouble {
    /// One more has failed. Says how many have.
    fn failed(&mut self, operation: Operation) -> u32 {
        match self.failures.iter_mut().find(|(failed, _)| *failed == operation) {
            Some((_, failures)) => {
                *failures = failures.saturating_add(1);
                *failures
            }
            None => {
                self.failures.push((operation, 1));
                1
            }
        }
    }

    /// One has succeeded. Says how many had failed.
    fn succeeded(&mut self, operation: Operation) -> u32 {
        let found = self.failures.iter().position(|(failed, _)| *failed == operation);
        found.map_or(0, |at| self.failures.swap_remove(at).1)
    }
}

impl Agent {
    pub(super) fn new(config: Arc<AgentConfig>, gateway: Arc<Gateway>, shared: Arc<Shared>) -> Agent {
        let machine = Machine::new(gateway.rules(&config));
        // With what nobody has looked at yet: that was before.
        shared.stood_still_secs.store(gateway.standstill.look(), Ordering::Relaxed);
        Agent {
            config,
            gateway,
            shared,
            machine,
            ticket: None,
            adopted: None,
            fixed: None,
            offered: false,
            addressed: false,
            saved_awaiting: false,
            turn: None,
            trouble: None,
        }
    }

    /// Keeps the session until the daemon stops or the agent leaves the roster. [`Agent::begin`] comes before.
    ///
    /// A session is idle nearly all of its time, and there are many: what is not needed for waiting is on the heap for
    /// as long as it lasts.
    pub(super) async fn run(&mut self) {
        loop {
            if self.shared.bell.is_rung() {
                Box::pin(self.answer_bell()).await;
            }
            if let Some(waiting) = self.next_forward() {
                Box::pin(self.forward(waiting)).await;
                continue;
            }
            match self.machine.next() {
                Next::Done if self.shared.leaving.load(Ordering::Acquire) => {
                    return Box::pin(self.forget()).await;
                }
                Next::Done => return,
                Next::Rest if self.waits_for_a_password() => Box::pin(self.look_at_password()).await,
                Next::Rest => self.shared.bell.wait().await,
                Next::Call(operation, due) => tokio::select! {
                    biased;
                    () = self.shared.bell.wait() => {}
                    () = tokio::time::sleep_until(self.turn(operation, due)) => {
                        Box::pin(self.call_when_due()).await;
                    }
                },
            }
        }
    }

    /// Whether the agent is suspended for its password, which is in a file and may be another one some day.
    fn waits_for_a_password(&self) -> bool {
        let suspended = matches!(self.machine.state(), State::Suspended(why) if why.is_of_the_password());
        let tried = self.trouble.as_ref().is_some_and(|trouble| trouble.refused.is_some());
        suspended && tried && matches!(self.config.password, PasswordSource::File(_))
    }

    async fn look_at_password(&mut self) {
        tokio::select! {
            biased;
            () = self.shared.bell.wait() => return,
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
        let Ok(password) = self.gateway.passwords.read(&self.config.password).await else { return };
        let found = self.gateway.marks.of(&password);
        let refused = self.trouble.as_mut().and_then(|trouble| trouble.refused.as_mut());
        if refused.is_some_and(|refused| refused.finds_another(found)) {
            tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(),
                "the password's file holds another one than was refused: the agent is signed in again");
            self.step(Input::SignIn).await;
        }
    }

    /// A sign-in with this password has ended. Where it gave a session, all trouble is past.
    fn note_tried(&mut self, tried: Mark) {
        if self.machine.state() != State::Active {
            self.trouble.get_or_insert_default().refused = Some(Refused::new(tried));
        }
    }

    async fn answer_bell(&mut self) {
        for ring in self.shared.bell.take() {
            match input(ring) {
                Some(input) => drop(self.step(input).await),
                None => self.take_mail().await,
            }
        }
    }

    /// The first step, with what an earlier run left or another program gave.
    pub(super) async fn begin(&mut self, start: Start) {
        match self.shared.mail.take_adoption() {
            Some(adoption) => {
                self.hold_adopted(adoption);
                let resume = Resume {
                    silence: Some(Duration::ZERO),
                    skills_set: true,
                    settings_due: false,
                    adopted: true,
                    foreign: true,
                    guid_age: None,
                    delay: Duration::ZERO,
                };
                self.step(Input::Start(Some(resume))).await;
                self.save().await;
            }
            None => {
                let mut wanted_out = false;
                let input = match start.stored.map(|stored| *stored) {
                    Some(Stored::Session(session)) => {
                        wanted_out = session.wanted_out;
                        Input::Start(Some(self.resume(session, start.delay)))
                    }
                    Some(Stored::SignedOut { .. }) => {
                        tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(),
                            "stays signed out, as a person wanted it before this start");
                        Input::StartSignedOut
                    }
                    Some(Stored::Suspended { suspended, at }) => {
                        self.still_suspended(&suspended, at).map_or(Input::Start(None), Input::StartSuspended)
                    }
                    None if start.new => Input::StartNew,
                    None => Input::Start(None),
                };
                self.step(input).await;
                if wanted_out {
                    self.step(Input::SignOut).await;
                }
                if let Input::StartSuspended(suspension) = input {
                    self.trouble.get_or_insert_default().refused = Some(Refused::default());
                    self.tell_still_suspended(suspension);
                    self.save().await;
                }
            }
        }
    }

    fn still_suspended(&self, suspended: &str, at: Timestamp) -> Option<Suspension> {
        let recent = self.gateway.deps.clock.now().since(at) < SUSPENSION_KEPT;
        Suspension::of_the_account(suspended).filter(|_| recent)
    }

    /// Looks whether the machine has stood still, which it may be too early to have been told.
    async fn look_for_standstill(&mut self) {
        let total_secs = self.gateway.standstill.look();
        self.count_standstill(total_secs).await;
    }

    /// The machine has stood still for so long in all.
    async fn count_standstill(&mut self, total_secs: u32) {
        let known = self.shared.stood_still_secs.swap(total_secs, Ordering::Relaxed);
        if total_secs > known {
            self.step(Input::StoodStill(Duration::from_secs((total_secs - known).into()))).await;
        }
    }

    fn tell_still_suspended(&self, suspension: Suspension) {
        let reason = suspension.as_str();
        tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, kept_secs = SUSPENSION_KEPT.as_secs(),
            "still suspended: so soon after the refusal a start is no reason to try again, which might lock the account; \
             `ccrelay agents sign-in` does");
    }

    async fn take_mail(&mut self) {
        let total_secs = self.gateway.standstill.total_secs();
        self.count_standstill(total_secs).await;
        if let Some(config) = self.shared.mail.take_config() {
            self.configure(config).await;
        }
        if let Some(adoption) = self.shared.mail.take_adoption() {
            self.hold_adopted(adoption);
            self.step(Input::Adopted).await;
            self.save().await;
        }
    }

    /// Takes another configuration: the session that there is stays.
    async fn configure(&mut self, config: Arc<AgentConfig>) {
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        let linkage = old.options.phonelinkage != new.options.phonelinkage;
        let input = Input::Configured {
            rules: rules(&self.gateway.config, new),
            skills: old.skills != new.skills || linkage,
            sign_in: old.password != new.password
                || old.options != new.options
                || old.takeover != new.takeover,
        };
        self.step(input).await;
    }

    fn hold_adopted(&mut self, adoption: Adoption) {
        self.session_began(Some(self.gateway.deps.clock.now()));
        // Again: with a session that has ended since the adoption was asked for, its token was to end too.
        self.gateway.deps.tokens.accept(self.gateway(), self.agent_id(), &adoption.token);
        self.ticket = Some(Arc::new(adoption.ticket));
        self.adopted = Some(adoption.token);
        self.addressed = false;
        let mut status = self.shared.status();
        status.media_type = None;
        status.adopted = true;
    }

    /// Tokens that go out from then on are good for as long as the session.
    fn session_began(&mut self, at: Option<Timestamp>) {
        self.shared.status().began = at;
        self.gateway.deps.tokens.session_began(self.gateway(), self.agent_id(), at);
    }

    /// The next call to be passed on, if it can be now. Those that cannot be made at all are told.
    fn next_forward(&self) -> Option<Box<Waiting>> {
        let now = Instant::now();
        if !self.machine.holds_session() {
            self.shared.mail.refuse_forwards(&ForwardError::NoSession);
        } else if self.machine.may_forward(now) {
            return self.shared.mail.take_forward(now);
        }
        None
    }

    /// Passes a call on. The session's own next call waits for its end.
    async fn forward(&mut self, waiting: Box<Waiting>) {
        let Some(ticket) = self.ticket.clone() else { return };
        self.step(Input::ForwardBegan).await;
        let forwarded = self.gateway.calls.forward(&waiting.request, &ticket).await;
        let ended = match (&forwarded.verdict, &forwarded.retcode) {
            (Ok(_), Some(retcode)) if doubts_session(retcode) => Forwarded::SessionDoubted,
            (Ok(_), _) => Forwarded::Fine,
            (Err(error), _) => Forwarded::Unanswered { may_have_arrived: error.may_have_arrived() },
        };
        let outcome = if forwarded.verdict.is_ok() { "answered" } else { "failed" };
        self.metrics().forwards.with_label_values(&[self.gateway().as_str(), outcome]).inc();
        let renewed = self.renew_ticket(forwarded.guid, forwarded.cookies);
        drop(waiting.answer.send(forwarded.verdict.map_err(ForwardError::Call)));
        let saved = self.step(Input::ForwardEnded(ended)).await;
        if renewed && !saved {
            self.save().await;
        }
    }

    fn gateway(&self) -> &GatewayName {
        &self.gateway.config.name
    }

    fn agent_id(&self) -> &AgentId {
        &self.config.id
    }

    fn metrics(&self) -> &Metrics {
        &self.gateway.deps.metrics
    }

    /// The session of an earlier run.
    fn resume(&mut self, stored: StoredSession, delay: Duration) -> Resume {
        let now = self.gateway.deps.clock.now();
        let silence = stored.silence(now, self.gateway.config.sign_out_limit);
        let guid_age = stored.guid_taken.filter(|_| silence.is_some()).map(|taken| now.since(taken));
        let resume = Resume {
            silence,
            skills_set: stored.skills_set,
            settings_due: stored.settings_due,
            adopted: false,
            foreign: stored.adopted.is_some(),
            guid_age,
            delay,
        };
        self.ticket = Some(Arc::new(stored.ticket));
        self.session_began(stored.began);
        self.addressed = stored.callback == Some(self.gateway.callback);
        self.saved_awaiting = stored.push_awaited;
        if stored.push_awaited {
            self.shared.await_push(Instant::now());
        }
        self.shared.status().media_type = stored.media_type.map(String::into_boxed_str);
        if let Some(StoredAdoption { token }) = stored.fixed {
            self.gateway.deps.tokens.accept(self.gateway(), self.agent_id(), &token);
            self.fixed = Some(token);
        }
        if let Some(StoredAdoption { token }) = stored.adopted {
            self.gateway.deps.tokens.accept(self.gateway(), self.agent_id(), &token);
            self.adopted = Some(token);
            self.shared.status().adopted = true;
        }
        resume
    }

    /// When the call may be made: sign-ins wait for their turn, drawn when they are due and kept until used.
    fn turn(&self, operation: Operation, due: Instant) -> Instant {
        match (operation, self.turn) {
            (Operation::Login, Some(turn)) => due.max(turn),
            _ => due,
        }
    }

    /// Makes the call whose time has come.
    async fn call_when_due(&mut self) {
        // Nothing has happened to the machine since it was asked for the time.
        let Next::Call(operation, due) = self.machine.next() else { return };
        let due = self.turn(operation, due);
        if operation == Operation::Login && self.turn.is_none() {
            let turn = self.gateway.pace.reserve(Instant::now());
            self.turn = Some(turn);
            return;
        }
        self.turn = None;
        if self.machine.asks_for_past() && self.gateway.past_is_gone() {
            self.step(Input::PastIsGone).await;
            return;
        }
        let Some(admission) = self.admission(operation).await else { return };
        if operation == Operation::Handshake {
            let late = Instant::now().saturating_duration_since(due).as_secs_f64();
            self.metrics().heartbeat_lateness.with_label_values(&[self.gateway().as_str()]).observe(late);
        }
        match admission {
            Ok(permit) => self.call(operation, permit).await,
            Err(error) => {
                let now = Instant::now();
                self.step(Input::Began(operation)).await;
                self.answered(operation, Answer::failed(error), now).await;
            }
        }
    }

    /// Waits for leave to make this call, which may take long where the gateway is slow. The machine, the password and the
    /// token come after it, so that all of them are of the moment the call is sent. `None` when the bell was rung meanwhile and
    /// something else is to be done now.
    async fn admission(&mut self, operation: Operation) -> Option<Result<Permit, CallError>> {
        let gateway = self.gateway.clone();
        let mut admission = gateway.calls.admit(operation, self.machine.last_ok(), self.machine.guid_since());
        loop {
            let admitted = tokio::select! {
                biased;
                () = self.shared.bell.wait() => None,
                admission = &mut admission => Some(admission),
            };
            match &admitted {
                None => Box::pin(self.answer_bell()).await,
                // What was before a sign-in does not count for its session; and whoever came meanwhile is not forced out.
                Some(_) if operation.signs_in() => self.look_for_standstill().await,
                Some(_) => {}
            }
            match self.machine.next() {
                Next::Call(next, due) if next == operation && due <= Instant::now() => {}
                _ => return None,
            }
            if admitted.is_some() {
                return admitted;
            }
        }
    }

    async fn call(&mut self, operation: Operation, permit: Permit) {
        let password = match self.password(operation).await {
            Ok(password) => password,
            Err(outcome) => {
                self.step(Input::Began(operation)).await;
                self.step(Input::Ended(outcome)).await;
                self.note_tried(self.gateway.marks.of_none());
                return;
            }
        };
        let tried = password.as_ref().map(|password| self.gateway.marks.of(password));
        let token = self.token(operation);
        let sent = Instant::now();
        if operation.signs_in() {
            self.shared.sign_in_began();
        }
        self.step(Input::Began(operation)).await;
        let call = Call {
            operation,
            agent: &self.config,
            password: password.as_ref(),
            token: token.as_ref(),
            ticket: self.ticket.as_deref().filter(|_| !operation.signs_in()),
        };
        let answer = self.gateway.calls.call(call).await;
        // The gateway is done with it: what follows waits for a disk, and holds nobody else's call up.
        drop(permit);
        self.answered(operation, answer, sent).await;
        if let Some(tried) = tried {
            self.note_tried(tried);
        }
    }

    /// The callback token that goes with the call. In the older push mode it goes with the sign-in and never again, so it
    /// is good for as long as the session. A sign-in without an answer may have arrived, so each further try has its token.
    fn token(&mut self, operation: Operation) -> Option<SecretString> {
        let wanted = operation.signs_in() || self.machine.wants_token();
        match self.config.mode {
            Mode::Push if wanted => Some(self.gateway.deps.tokens.mint(self.gateway(), self.agent_id())),
            Mode::LegacyPush if operation.signs_in() => {
                let offered = self.fixed.take().filter(|_| self.offered);
                let token = offered
                    .or_else(fixed_token)
                    .unwrap_or_else(|| self.gateway.deps.tokens.mint(self.gateway(), self.agent_id()));
                // Events may come before the answer to the sign-in, and those of the session before until then.
                self.gateway.deps.tokens.offer(self.gateway(), self.agent_id(), &token);
                self.fixed = Some(token.clone());
                self.offered = true;
                Some(token)
            }
            Mode::Push | Mode::LegacyPush | Mode::Poll => None,
        }
    }

    /// The password where the call needs one, or how the call ends without it.
    async fn password(&self, operation: Operation) -> Result<Option<SecretString>, Outcome> {
        if !operation.signs_in() {
            return Ok(None);
        }
        let error = match self.gateway.passwords.read(&self.config.password).await {
            Ok(password) => return Ok(Some(password)),
            Err(error) => error,
        };
        tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), %error, "no password");
        if matches!(error, PasswordError::TimedOut | PasswordError::Empty) {
            // A disk that hangs comes back by itself, and whoever writes the file comes to an end.
            self.count_sign_in("timeout");
            return Err(Outcome::Unanswered { may_have_arrived: false });
        }
        Err(Outcome::NoPassword)
    }

    async fn answered(&mut self, operation: Operation, mut answer: Answer, sent: Instant) {
        if let Some(event) = answer.event.take() {
            // Boxed, so that it takes no room in the tasks of agents that are not polled.
            Box::pin(self.store_polled(event)).await;
        }
        let outcome = self.outcome(operation, &answer);
        self.count(operation, &answer.verdict, outcome, sent);
        if is_no_renewal(operation, outcome) {
            self.gateway.note_no_renewals();
        } else {
            self.note(operation, &answer);
        }
        let result = answer.verdict.as_ref().map(|reply| reply.result.clone()).unwrap_or_default();
        let looked_past = self.machine.asks_for_past();
        let renewed = self.take_ticket(operation, answer, outcome, sent);
        self.take_result(operation, outcome, result);
        if let Outcome::Answered(Meaning::Lost(_) | Meaning::SignedIn) = outcome {
            // That may be why. And it is no time to force anybody out who came meanwhile.
            self.look_for_standstill().await;
        }
        let saved = self.step(Input::Ended(outcome)).await;
        if looked_past {
            self.note_past(outcome);
        }
        if renewed && !saved {
            self.save().await;
        }
    }

    /// A session that looked past was asked for. One that was signed out has stood, and one that is in a call stands.
    fn note_past(&self, outcome: Outcome) {
        use Meaning::{Doubtful, Lost, NotNow, Ok, Refused, Suspend};
        match outcome {
            Outcome::Answered(Ok | NotNow) => self.gateway.past_stands.store(true, Ordering::Relaxed),
            Outcome::Answered(Lost(_) | Suspend(_) | Refused | Doubtful) if !self.machine.holds_session() => {
                self.gateway.past_gone.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Stores an event that was fetched, however long it takes: the gateway does not have it any more. Until then
    /// nothing is asked for, so the rest stays there, for as long as the gateway lets the session live. A stop of the daemon
    /// waits for one more try and no longer.
    async fn store_polled(&self, event: Bytes) {
        let mut attempt = 0u32;
        loop {
            let last = self.gateway.stopping.load(Ordering::Acquire);
            let stored = self.gateway.deps.events.store(self.gateway(), self.agent_id(), event.clone()).await;
            let Err(error) = stored else { return };
            attempt += 1;
            if last {
                self.metrics().polled_events_lost.with_label_values(&[self.gateway().as_str()]).inc();
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), attempt, %error,
                    "an event that was fetched is lost: the daemon stops, and it cannot be stored");
                return;
            }
            if attempt.is_power_of_two() {
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), attempt, %error,
                    "an event that was fetched waits in memory");
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    fn outcome(&self, operation: Operation, answer: &Answer) -> Outcome {
        let reply = match &answer.verdict {
            Ok(reply) => reply,
            // Gateways that do not know the call say so in one of these ways.
            Err(CallError::Status(404 | 405 | 501)) if operation == Operation::UpdateGuid => {
                return Outcome::Answered(Meaning::Refused);
            }
            // So does one that is being deployed, and nobody is to be without calls until the next sign-in for that.
            Err(CallError::Status(404 | 405 | 501)) if operation.sets_up() => {
                return Outcome::Answered(Meaning::Doubtful);
            }
            Err(error) => return Outcome::Unanswered { may_have_arrived: error.may_have_arrived() },
        };
        match meaning(operation, &reply.retcode) {
            // Without a GUID there is nothing to keep the session with.
            Meaning::Ok if operation.signs_in() && answer.guid.is_none() => {
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), "sign-in without Set-GUID");
                Outcome::Answered(Meaning::Doubtful)
            }
            Meaning::Ok if operation.signs_in() && reply.result.password_change_required => {
                Outcome::PasswordChangeRequired
            }
            // It never had the session: of what became of that where it was signed in, this says nothing.
            Meaning::Lost(Loss::NotSignedIn | Loss::GuidRefused) if self.is_elsewhere(answer.address) => {
                Outcome::Answered(Meaning::Lost(Loss::OtherAddress))
            }
            meaning => Outcome::Answered(meaning),
        }
    }

    /// Whether the session was signed in, or heard of last, at another address of the gateway.
    fn is_elsewhere(&self, address: Option<u8>) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.is_from_elsewhere(address))
    }

    /// Takes over GUID and cookies; says whether a GUID was renewed.
    fn take_ticket(&mut self, operation: Operation, answer: Answer, outcome: Outcome, sent: Instant) -> bool {
        let ok = matches!(outcome, Outcome::Answered(Meaning::Ok) | Outcome::PasswordChangeRequired);
        match answer.guid {
            Some(guid) if operation.signs_in() && ok => {
                let ticket = Ticket::new(guid, answer.cookies);
                self.ticket = Some(Arc::new(Ticket { address: answer.address, ..ticket }));
                self.session_began(Some(self.time_of(sent)));
                self.adopted = None;
                self.addressed = true;
                if let Some(token) = self.fixed.as_ref().filter(|_| self.offered) {
                    self.gateway.deps.tokens.accept(self.gateway(), self.agent_id(), token);
                    self.offered = false;
                }
                false
            }
            _ if operation.signs_in() => false,
            guid => {
                if let Some(ticket) =
                    self.ticket.as_mut().filter(|ticket| ok && ticket.address != answer.address)
                {
                    Arc::make_mut(ticket).address = answer.address;
                }
                self.renew_ticket(guid, answer.cookies)
            }
        }
    }

    fn renew_ticket(&mut self, guid: Option<SecretString>, cookies: Vec<Cookie>) -> bool {
        let Some(ticket) = self.ticket.as_mut().filter(|_| guid.is_some() || !cookies.is_empty()) else {
            return false;
        };
        let ticket = Arc::make_mut(ticket);
        ticket.set_cookies(cookies);
        let renewed = guid.is_some_and(|guid| ticket.set_guid(guid));
        if renewed {
            // What is to be done about it comes with the answer's own step.
            drop(self.machine.step(Input::GuidRenewed, Instant::now()));
            self.metrics().guid_changes.with_label_values(&[self.gateway().as_str()]).inc();
        }
        renewed
    }

    fn take_result(&mut self, operation: Operation, outcome: Outcome, result: SignInResult) {
        if !operation.signs_in() || outcome != Outcome::Answered(Meaning::Ok) {
            return;
        }
        if let Some(days) = result.password_days_left.filter(|days| *days <= PASSWORD_WARNING_DAYS) {
            tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), days, "password expires soon");
        }
        if lacks_voice(result.media_type.as_deref(), &self.config.skills) {
            tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(),
                "not signed in at the CTI server (mediatype begins with F): no voice calls come");
        }
        let mut status = self.shared.status();
        status.media_type = result.media_type.map(String::into_boxed_str);
        status.password_days_left = result.password_days_left;
        status.login_time = result.login_time;
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
            Operation::Poll => {
                self.metrics().heartbeats.with_label_values(&[gateway, label]).inc();
                if matches!(verdict, Err(CallError::TimedOut | CallError::Broken(_))) {
                    self.metrics().polls_unanswered.with_label_values(&[gateway]).inc();
                }
            }
            Operation::Handshake => {
                self.metrics().heartbeats.with_label_values(&[gateway, label]).inc();
                if *verdict != Err(CallError::NotSent) {
                    let took = sent.elapsed().as_secs_f64();
                    self.metrics().heartbeat_duration.with_label_values(&[gateway]).observe(took);
                }
            }
            // Success and suspension are counted as effects. 100-002 may lead to a forced sign-in, another try, or suspension.
            Operation::Login | Operation::ForceLogin => match outcome {
                Outcome::Answered(Meaning::SignedIn) => self.count_sign_in("signed_in_elsewhere"),
                Outcome::Unanswered { .. } => self.count_sign_in(label),
                Outcome::Answered(
                    Meaning::Transient | Meaning::SwitchingOver | Meaning::UnderWay | Meaning::Doubtful,
                ) => {
                    self.count_sign_in("refused");
                }
                _ => {}
            },
            Operation::ResetSkill
            | Operation::AutoAnswer
            | Operation::SayFree
            | Operation::SayBusy
            | Operation::Work
            | Operation::UpdateGuid
            | Operation::Logout => {}
        }
    }

    fn count_sign_in(&self, outcome: &str) {
        self.metrics().sign_ins.with_label_values(&[self.gateway().as_str(), outcome]).inc();
    }

    /// Logs failures: the first and then ever fewer of a row, since a gateway's outage fails for all agents at once.
    fn note(&mut self, operation: Operation, answer: &Answer) {
        let (kind, operation) = (operation, operation.as_str());
        let (retcode, error) = match &answer.verdict {
            Ok(reply) if reply.retcode.class() == Some(super::retcode::Class::Ok) => {
                let failures = self.trouble.as_mut().map_or(0, |trouble| trouble.succeeded(kind));
                if failures > 0 {
                    tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation,
                        attempt = failures + 1, "succeeded again");
                }
                return;
            }
            Ok(reply) => (Some(reply.retcode.clone()), reply.message.clone()),
            Err(error) => (None, error.to_string()),
        };
        let address = self.gateway.address(answer.address);
        self.note_unanswered(kind, &answer.verdict, &address);
        let trouble = self.trouble.get_or_insert_default();
        trouble.last_retcode.clone_from(&retcode);
        let attempt = trouble.failed(kind);
        let code = retcode.as_ref().map_or("", Retcode::as_str);
        if attempt.is_power_of_two() {
            tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation, retcode = code,
                attempt, address, error, "call failed");
        } else {
            tracing::debug!(gateway = %self.gateway(), agent_id = %self.agent_id(), operation, retcode = code,
                attempt, address, error, "call failed");
        }
        if retcode.is_some() {
            self.shared.status().retcode = retcode;
        }
    }

    /// What nobody answered is shown: of the agent where it is to be signed in, and of the gateway with where and why.
    fn note_unanswered(&self, operation: Operation, verdict: &Result<Reply, CallError>, address: &str) {
        let error = verdict.as_ref().err();
        if operation.signs_in() && self.machine.state() == State::SigningIn {
            self.shared.status().reason = error.and_then(CallError::reason);
        }
        if let Some(error) = error.filter(|error| error.reason().is_some()) {
            self.gateway.common.last_failed.set(FailedCall {
                at: self.gateway.deps.clock.now(),
                operation,
                agent_id: self.agent_id().clone(),
                address: address.to_owned(),
                error: error.to_string(),
            });
        }
    }

    /// One step of the machine and what follows from it. Says whether that included saving the session.
    async fn step(&mut self, input: Input) -> bool {
        // What ends the task takes back no word of a person.
        let ends = matches!(input, Input::Leave | Input::Stop { .. });
        let (was_wanted_out, left) = (self.machine.is_wanted_out(), self.machine.leaves());
        let effects = self.machine.step(input, Instant::now());
        let (last_ok, guid_since) = (self.machine.last_ok(), self.machine.guid_since());
        let times = Times { last_ok, guid_since, looks_past: self.machine.asks_for_past() };
        self.shared.publish(self.machine.state(), &effects, times, self.gateway.deps.clock.now());
        if !self.machine.holds_session() && self.ticket.take().is_some() {
            self.gateway.deps.tokens.session_ended(self.gateway(), self.agent_id());
        }
        self.shared.publish_ticket(self.ticket.as_ref());
        if !ends {
            self.shared.wanted_out.store(self.machine.is_wanted_out(), Ordering::Release);
        }
        let save = !effects.is_empty()
            || (!ends && self.machine.is_wanted_out() != was_wanted_out)
            // Else the next run would not know that it is to be signed out, and its call would be cut.
            || (self.machine.leaves() && !left)
            // Else the next run would miss a push that has come since, and an agent may be quiet for hours.
            || (ends && self.saved_awaiting && !self.shared.awaits_push());
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
                let now = self.gateway.deps.clock.now();
                self.shared.status().last_heartbeat = Some(now);
                self.shared.clear_degraded(Degradation::HeartbeatsFailing);
            }
            // It is there to be saved.
            Effect::SettingsDone => {}
            Effect::SkillsSet => self.shared.clear_degraded(Degradation::SkillsRefused),
            Effect::Degraded(degradation) => {
                let reason = degradation.as_str();
                self.shared.set_degraded(degradation);
                tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, "session degraded");
                self.journal(LifecycleKind::Degraded, reason);
            }
            Effect::Mended(degradation) => self.shared.clear_degraded(degradation),
            Effect::Lost(loss) => {
                let reason = loss.as_str();
                self.metrics().session_losses.with_label_values(&[self.gateway().as_str(), reason]).inc();
                tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, "session lost");
                self.journal(LifecycleKind::Lost, reason);
            }
            Effect::Suspended(suspension) => {
                let reason = suspension.as_str();
                self.count_sign_in("suspended");
                let retcode = self.last_retcode().map_or("", Retcode::as_str);
                tracing::error!(gateway = %self.gateway(), agent_id = %self.agent_id(), reason, retcode,
                    "session suspended: a person is needed");
                self.journal(LifecycleKind::Ended, reason);
            }
            Effect::SignedOut => {
                tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(), "signed out");
                self.journal(LifecycleKind::Ended, SIGNED_OUT);
            }
        }
    }

    fn started(&mut self, entry: Entry) {
        let how = match entry {
            Entry::SignedIn => "signed_in",
            Entry::TakenOver => "taken_over",
            Entry::Resumed => "resumed",
            Entry::Adopted => "adopted",
        };
        self.shared.status().adopted = self.adopted.is_some();
        self.count_sign_in(if entry == Entry::SignedIn { "ok" } else { how });
        self.trouble = None;
        let fresh = matches!(entry, Entry::SignedIn | Entry::TakenOver);
        // One that is resumed may have had none before the restart either.
        let awaited = fresh || entry == Entry::Resumed && self.shared.awaits_push();
        self.shared.session_began(awaited.then(Instant::now));
        tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(), how, "session started");
        self.journal(LifecycleKind::Started, how);
    }

    /// What the gateway said to the call that failed last.
    fn last_retcode(&self) -> Option<&Retcode> {
        self.trouble.as_ref()?.last_retcode.as_ref()
    }

    fn journal(&self, kind: LifecycleKind, reason: &'static str) {
        let event = LifecycleEvent {
            kind,
            reason,
            retcode: self.last_retcode().cloned(),
            login_time: self.shared.status().login_time.take(),
            time: self.gateway.deps.clock.now(),
        };
        self.gateway.deps.journal.record(self.gateway(), self.agent_id(), event);
    }

    /// Saves the session as it is, or that there is to be none, or forgets it.
    async fn save(&mut self) {
        let session = self.stored();
        self.saved_awaiting = session.as_ref().is_some_and(|session| session.push_awaited);
        let stored = match session {
            Some(session) => Some(Stored::Session(session)),
            None => self.stored_without_session(),
        };
        self.save_as(stored).await;
    }

    fn stored_without_session(&self) -> Option<Stored> {
        match self.machine.state() {
            State::Suspended(suspension) if suspension.is_of_the_account() => Some(Stored::Suspended {
                suspended: suspension.as_str().to_owned(),
                at: self.gateway.deps.clock.now(),
            }),
            _ => self.machine.is_wanted_out().then_some(Stored::SIGNED_OUT),
        }
    }

    async fn save_as(&self, stored: Option<Stored>) {
        let save = self.gateway.deps.store.save(self.gateway(), self.agent_id(), stored);
        let failure = match tokio::time::timeout(SAVE_DEADLINE, save).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "the store does not answer".to_owned(),
        };
        tracing::warn!(gateway = %self.gateway(), agent_id = %self.agent_id(), error = failure,
            "session not saved: a restart now would sign in anew");
    }

    /// The wall time of a moment that has passed.
    fn time_of(&self, moment: Instant) -> Timestamp {
        self.gateway.deps.clock.now().minus(Instant::now().saturating_duration_since(moment))
    }

    fn stored(&self) -> Option<StoredSession> {
        let (began, media_type) = {
            let status = self.shared.status();
            (status.began, status.media_type.as_deref().map(str::to_owned))
        };
        Some(StoredSession {
            ticket: Ticket::clone(self.ticket.as_deref()?),
            last_success: self.time_of(self.machine.last_ok()?),
            past: self.machine.may_be_past(),
            began,
            guid_taken: self.machine.guid_since().map(|since| self.time_of(since)),
            skills_set: self.machine.skills_set(),
            settings_due: self.machine.settings_due(),
            media_type,
            adopted: self.adopted.clone().map(|token| StoredAdoption { token }),
            fixed: self.fixed.clone().map(|token| StoredAdoption { token }),
            mode: Some(self.config.mode),
            callback: self.addressed.then_some(self.gateway.callback),
            push_awaited: self.shared.awaits_push(),
            leaving: self.machine.leaves(),
            wanted_out: self.machine.is_wanted_out(),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The task has ended: what it shows of itself goes, and who waits for it is told.
    pub(super) fn retire(&self) {
        self.shared.retire();
        self.shared.mail.refuse_forwards(&ForwardError::Ended);
    }

    /// The agent has left the roster: nothing of it stays behind, unless it is the daemon that stops before it could be signed out, or come
    /// back as a person wants it.
    async fn forget(&mut self) {
        if self.machine.leaves_later() {
            return self.save().await;
        }
        if self.machine.holds_session() {
            tracing::info!(gateway = %self.gateway(), agent_id = %self.agent_id(), "session left open");
            self.shared.status().reason = Some(RELEASED);
            self.journal(LifecycleKind::Ended, RELEASED);
        }
        let stops = self.gateway.stopping.load(Ordering::Acquire);
        let stored = (stops && self.machine.is_wanted_out()).then_some(Stored::SIGNED_OUT);
        self.save_as(stored).await;
        self.gateway.deps.tokens.revoke(self.gateway(), self.agent_id());
    }
}

/// Whether a sign-in is without the voice that its skill queues are for, as far as it tells.
pub(super) fn lacks_voice(media_type: Option<&str>, skills: &Skills) -> bool {
    let media = media_type.and_then(Media::parse);
    media.is_some_and(|media| !media.voice) && *skills != Skills::Ids(Vec::new())
}

/// Stands for an address, which may hold what nobody is to read.
fn digest(address: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(address).into();
    hash.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// A token that nobody can guess; none where there is no entropy.
fn fixed_token() -> Option<SecretString> {
    let mut bytes = [0u8; 20];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex(&bytes).into())
}

/// Whether the gateway does not do what was asked for, and will not the next time.
fn is_no_renewal(operation: Operation, outcome: Outcome) -> bool {
    let final_word =
        matches!(outcome, Outcome::Answered(Meaning::Refused | Meaning::Doubtful | Meaning::NotNow));
    operation == Operation::UpdateGuid && final_word
}

fn rules(gateway: &GatewayConfig, agent: &AgentConfig) -> Rules {
    Rules {
        heartbeat_interval: gateway.heartbeat_interval,
        sign_out_limit: gateway.sign_out_limit,
        guid_interval: gateway.guid_interval,
        guid_timeout: gateway.guid_timeout,
        guid_renewal: gateway.guid_renewal,
        takeover: agent.takeover,
        skills: agent.skills != Skills::Ids(Vec::new()),
        settings: agent.after_sign_in.operations(),
        may_sign_in: agent.password != PasswordSource::None,
        polls: agent.mode == Mode::Poll,
    }
}

/// What a ring is to the machine; `None` when there is mail to be read first.
fn input(ring: Ring) -> Option<Input> {
    Some(match ring {
        Ring::Mail => return None,
        Ring::TakeOver => Input::TakeOver,
        Ring::ForcedOut => Input::ForcedOut,
        Ring::SignIn => Input::SignIn,
        Ring::SignOut => Input::SignOut,
        Ring::Leave => Input::Leave,
        Ring::Stop => Input::Stop { sign_out: false },
        Ring::StopAndSignOut => Input::Stop { sign_out: true },
    })
}
