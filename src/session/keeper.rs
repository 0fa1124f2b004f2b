//! All sessions: starts their tasks, finds them by agent, and looks over their budgets. Agents come and go while the
//! daemon runs.
//!
//! Invariant: an agent has one task at most. One that comes back while its old task still signs out waits for that.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Timestamp;
use crate::event::{AgentId, GatewayName};
use crate::session::agent::{Agent, Gateway, Start};
use crate::session::call::{GatewayCalls, Ticket};
use crate::session::config::{AgentConfig, GatewayConfig, Mode, SessionsConfig};
use crate::session::forward::{ForwardAnswer, ForwardError, ForwardRequest};
use crate::session::gateway::{self, GatewayError};
use crate::session::mail::{Adoption, Waiting};
use crate::session::status::{Ring, SessionView, Shared};
use crate::session::{Deps, FailedCall, Stored};

/// Sessions of an earlier run are all checked within this long.
const RESUME_SPREAD: Duration = Duration::from_secs(5);
/// No gateway waits longer for a heartbeat: the largest limit that can be configured.
const LONGEST_PAST: Duration = Duration::from_secs(3600);
/// How long a call that is to be passed on may wait for its session: longer than a heartbeat that fails.
const FORWARD_PATIENCE: Duration = Duration::from_secs(20);
/// A fixed token that can be guessed lets anybody push.
const SHORTEST_FIXED_TOKEN: usize = 8;
/// Gateways take 50 characters; older ones of other programs may be longer.
const LONGEST_FIXED_TOKEN: usize = 256;

mod look;
mod order;
mod watch;

pub use look::{Glance, place};

/// Handle to all sessions; cloning is cheap.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    gateways: HashMap<GatewayName, Kept>,
    tasks: TaskTracker,
    /// Tasks run here, whichever runtime adds an agent.
    runtime: Handle,
    stop: CancellationToken,
    failed: CancellationToken,
    deps: Arc<Deps>,
}

/// The sessions of one gateway.
struct Kept {
    gateway: Arc<Gateway>,
    agents: RwLock<HashMap<AgentId, Slot>>,
}

/// One agent of the roster.
struct Slot {
    config: Arc<AgentConfig>,
    shared: Arc<Shared>,
    /// What comes when the task that is leaving has ended.
    next: Option<Box<Next>>,
}

struct Next {
    config: Arc<AgentConfig>,
    adoption: Option<Adoption>,
    /// It is the same agent in another mode, and a person has signed it out.
    signed_out: bool,
    /// What a person has said since: it is said again to whoever comes.
    word: Option<Ring>,
}

impl Next {
    fn new(config: Arc<AgentConfig>, signed_out: bool) -> Next {
        Next { config, adoption: None, signed_out, word: None }
    }

    /// It is to be like that. What was said of it, or given to it, stays, but a session that is pushed to is none for an agent who is polled.
    fn configure(&mut self, config: Arc<AgentConfig>) {
        self.adoption.take_if(|_| !config.mode.is_pushed());
        self.config = config;
    }
}

/// What became of an agent that was put into the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new: it is being signed in.
    Added,
    /// It has another configuration now.
    Changed,
    /// It was there like that.
    Unchanged,
}

/// An agent that cannot be put into the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// No gateway has this name.
    #[error("no gateway has this name")]
    UnknownGateway,
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A session that cannot be adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// The agent cannot be put into the roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The GUID is empty or no header could carry it.
    #[error("the GUID must be visible ASCII")]
    Guid,
    /// The token is too short, too long, or no header could carry it.
    #[error("the token must be visible ASCII of {SHORTEST_FIXED_TOKEN} to {LONGEST_FIXED_TOKEN} characters")]
    Token,
    /// The agent is configured to be polled, and the session to be adopted is one that is pushed to.
    #[error("the agent has mode = \"poll\", and only a session whose events are pushed can be adopted")]
    Polled,
}

impl Sessions {
    /// Starts one task per agent, and for each session that was adopted, or whose agent was leaving, in an earlier run. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the client of a gateway cannot be set up.
    pub fn start(config: SessionsConfig, deps: Deps) -> Result<Sessions, GatewayError> {
        let metrics = deps.metrics.clone();
        Sessions::start_with(config, deps, |config| gateway::connect(config, &metrics))
    }

    /// As [`Sessions::start`], with another way to reach gateways.
    ///
    /// # Errors
    /// What `connect` fails with.
    pub fn start_with<E>(
        config: SessionsConfig,
        deps: Deps,
        connect: impl Fn(&GatewayConfig) -> Result<Arc<dyn GatewayCalls>, E>,
    ) -> Result<Sessions, E> {
        let (mut gateways, deps, now) = (HashMap::new(), Arc::new(deps), Instant::now());
        let epoch = now.checked_sub(LONGEST_PAST).unwrap_or(now);
        for config in config.gateways {
            let calls = connect(&config)?;
            let name = config.name.clone();
            let gateway = Arc::new(Gateway::new(config, calls, deps.clone(), epoch));
            gateways.insert(name, Kept { gateway, agents: RwLock::default() });
        }
        let inner = Arc::new(Inner {
            gateways,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
            deps,
        });
        let sessions = Sessions { inner };
        let mut unlisted = sessions.inner.deps.store.unlisted();
        // One that is configured keeps its configuration, and its session is given out once.
        if !unlisted.is_empty() {
            let listed: HashSet<_> = config.agents.iter().map(|agent| (&agent.gateway, &agent.id)).collect();
            unlisted.retain(|(gateway, id)| !listed.contains(&(gateway, id)));
        }
        let unlisted = unlisted.into_iter().map(|(gateway, id)| Arc::new(AgentConfig::unlisted(gateway, id)));
        sessions.inner.begin_all(config.agents.into_iter().chain(unlisted));
        sessions.inner.tasks.spawn(sessions.inner.clone().forget_past());
        sessions.inner.tasks.spawn(watch::look_over(sessions.clone()));
        Ok(sessions)
    }

    /// Reads the certificates of these gateways anew and puts all of them in force, or none. Sessions notice nothing.
    ///
    /// # Errors
    /// When a file cannot be used, with the gateway's name.
    pub fn renew(&self, configs: &[&GatewayConfig]) -> Result<(), (GatewayName, GatewayError)> {
        let mut ready = Vec::new();
        for config in configs {
            // One that is new needs a restart.
            let Some(kept) = self.inner.gateways.get(&config.name) else { continue };
            ready.push(kept.gateway.calls.renew(config).map_err(|error| (config.name.clone(), error))?);
        }
        ready.into_iter().for_each(|put_in_force| put_in_force());
        Ok(())
    }

    /// How long this gateway may hear nothing before it signs an agent out.
    #[must_use]
    pub fn sign_out_limit(&self, gateway: &GatewayName) -> Option<Duration> {
        self.inner.gateways.get(gateway).map(|kept| kept.gateway.config.sign_out_limit)
    }

    /// The last call to the gateway that got no answer, or none of the gateway's.
    #[must_use]
    pub fn last_failed_call(&self, gateway: &GatewayName) -> Option<FailedCall> {
        self.inner.gateways.get(gateway)?.gateway.common.last_failed.get()
    }

    /// Agents with less time than that left are about to be signed out.
    #[must_use]
    pub fn near_sign_out(&self, gateway: &GatewayName) -> Option<Duration> {
        self.inner.gateways.get(gateway).map(|kept| kept.gateway.config.near_sign_out())
    }

    /// Adds an agent, which is then signed in, or changes the one that is there: its session stays, other skill queues
    /// are entered at once, and what concerns the sign-in counts from the next one on. A suspended agent whose
    /// sign-in is configured differently now is tried again.
    ///
    /// # Errors
    /// When its gateway does not exist or the daemon stops.
    pub fn put(&self, config: impl Into<Arc<AgentConfig>>) -> Result<Change, RosterError> {
        let config = config.into();
        let kept = self.inner.gateways.get(&config.gateway).ok_or(RosterError::UnknownGateway)?;
        let mut agents = kept.write();
        if self.inner.stop.is_cancelled() {
            return Err(RosterError::Stopping);
        }
        match agents.get_mut(&config.id) {
            None => {
                let start = Start { new: true, ..self.inner.start(&config) };
                self.inner.begin(kept, &mut agents, config, None, start);
                Ok(Change::Added)
            }
            Some(slot) if slot.is_leaving() => {
                match &mut slot.next {
                    Some(next) => next.configure(config),
                    None => slot.next = Some(Box::new(Next::new(config, false))),
                }
                Ok(Change::Added)
            }
            Some(slot) if slot.config == config => Ok(Change::Unchanged),
            // A session is signed in for one way to its events: the agent leaves and comes back.
            Some(slot) if slot.config.mode != config.mode => {
                slot.next = Some(Box::new(Next::new(config, slot.shared.is_wanted_out())));
                slot.shared.leaving.store(true, Ordering::Release);
                slot.shared.bell.ring(Ring::Leave);
                Ok(Change::Changed)
            }
            Some(slot) => {
                slot.config = config.clone();
                slot.shared.mail.put_config(config);
                slot.shared.bell.ring(Ring::Mail);
                Ok(Change::Changed)
            }
        }
    }

    /// Takes an agent out of the roster: it is signed out and forgotten, after the call that it is in, and where the daemon stops before
    /// that, by the next run. `false` when there is no such agent, or the daemon stops already: it is not heard then, and stays.
    pub fn remove(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.leave(gateway, agent_id, Ring::Leave)
    }

    /// Takes an agent out of the roster and leaves its session open at the gateway, for another program to keep it;
    /// the gateway ends it after the sign-out limit. `false` as of [`Sessions::remove`].
    pub fn release(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.leave(gateway, agent_id, Ring::Stop)
    }

    /// Takes over a session that another program signed in: keeps it alive, accepts pushes with the token which that
    /// program gave to the gateway, and lets tokens of ours take its place with the first heartbeat. An agent that is
    /// in the roster keeps its configuration; another one has no password, so that it is suspended with the reason
    /// `adopted_session_lost` when the session is lost. It survives a restart within the sign-out limit.
    ///
    /// # Errors
    /// When GUID or token are none, the gateway does not exist, the agent is polled or the daemon stops.
    pub fn adopt(
        &self,
        gateway: &GatewayName,
        agent_id: &AgentId,
        ticket: Ticket,
        token: SecretString,
    ) -> Result<(), AdoptError> {
        let visible = |text: &SecretString| text.expose_secret().bytes().all(|byte| byte.is_ascii_graphic());
        let length = token.expose_secret().len();
        if !visible(&token) || !(SHORTEST_FIXED_TOKEN..=LONGEST_FIXED_TOKEN).contains(&length) {
            return Err(AdoptError::Token);
        }
        if ticket.guid.expose_secret().is_empty() || !visible(&ticket.guid) {
            return Err(AdoptError::Guid);
        }
        let kept = self.inner.gateways.get(gateway).ok_or(RosterError::UnknownGateway)?;
        let mut agents = kept.write();
        if self.inner.stop.is_cancelled() {
            return Err(RosterError::Stopping.into());
        }
        if agents.get(agent_id).and_then(Slot::mode).is_some_and(|mode| !mode.is_pushed()) {
            return Err(AdoptError::Polled);
        }
        self.inner.deps.tokens.accept(gateway, agent_id, &token);
        let adoption = Adoption { ticket, token };
        let alone = || Arc::new(AgentConfig::unlisted(gateway.clone(), agent_id.clone()));
        match agents.get_mut(agent_id) {
            None => self.inner.begin(kept, &mut agents, alone(), Some(adoption), Start::default()),
            Some(slot) if slot.is_leaving() => {
                let config = slot.next.take().map_or_else(alone, |next| next.config);
                slot.next = Some(Box::new(Next { adoption: Some(adoption), ..Next::new(config, false) }));
            }
            Some(slot) => {
                slot.shared.mail.put_adoption(adoption);
                slot.shared.bell.ring(Ring::Mail);
            }
        }
        Ok(())
    }

    /// GUID and cookies of an agent's session as they are now, for callers who may know them.
    #[must_use]
    pub fn ticket(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<Arc<Ticket>> {
        self.with(gateway, agent_id, Shared::ticket)?
    }

    /// Passes one call on to the gateway with the agent's GUID and cookies, between the session's own calls, of which
    /// a due heartbeat goes first. At most [`crate::session::forward::FORWARD_QUEUE`] calls wait per agent. One that still waits
    /// when `gone` says that its caller has gone is not made: a caller who asks again would have it made twice.
    ///
    /// # Errors
    /// When the call is not made, or no answer comes; the error says whether the gateway may have seen it.
    pub async fn forward(
        &self,
        gateway: &GatewayName,
        agent_id: &AgentId,
        request: ForwardRequest,
        gone: &CancellationToken,
    ) -> Result<ForwardAnswer, ForwardError> {
        let (answer, mut receiver) = oneshot::channel();
        let (until, gone) = (Instant::now() + FORWARD_PATIENCE, gone.clone());
        let waiting = Waiting { request, until, gone: gone.clone(), answer };
        let put = self.with(gateway, agent_id, |shared| {
            shared.ticket().ok_or(ForwardError::NoSession)?;
            shared.mail.put_forward(waiting)?;
            shared.bell.ring(Ring::Mail);
            Ok(())
        });
        let result = match put.unwrap_or(Err(ForwardError::UnknownAgent)) {
            Ok(()) => {
                let answered = tokio::select! {
                    biased;
                    answered = &mut receiver => answered,
                    () = gone.cancelled() => {
                        self.with(gateway, agent_id, |shared| shared.mail.drop_unwanted());
                        // One that is being made goes on, and what came of it is wanted for the log.
                        receiver.await
                    }
                };
                answered.unwrap_or(Err(ForwardError::Ended))
            }
            Err(error) => Err(error),
        };
        if matches!(result, Err(ForwardError::NoSession | ForwardError::QueueFull | ForwardError::Expired)) {
            let refused = self.inner.deps.metrics.forwards.with_label_values(&[gateway.as_str(), "refused"]);
            refused.inc();
        }
        result
    }

    /// An event says that this agent was signed out: its session asks the gateway now. Unknown agents are ignored.
    pub fn wake_forced_out(&self, gateway: &GatewayName, agent_id: &AgentId) {
        self.with(gateway, agent_id, |shared| shared.bell.ring(Ring::ForcedOut));
    }

    /// Signs an agent in that is signed out or suspended; `false` as of [`Sessions::remove`].
    pub fn sign_in(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.say(gateway, agent_id, Ring::SignIn)
    }

    /// Signs an agent in that is signed out or suspended, and this once forces out whoever is signed in in its place,
    /// whatever `takeover` says; `false` as of [`Sessions::remove`].
    pub fn take_over(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.say(gateway, agent_id, Ring::TakeOver)
    }

    /// Signs an agent out until a person signs it in again; `false` as of [`Sessions::remove`].
    pub fn sign_out(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.say(gateway, agent_id, Ring::SignOut)
    }

    /// Notes whether a push of this agent was answered with success; the gateway counts failures too.
    pub fn note_push(&self, gateway: &GatewayName, agent_id: &AgentId, ok: bool) {
        self.with(gateway, agent_id, |shared| shared.note_push(ok, Instant::now()));
    }

    /// Notes the newest event that was stored of this agent.
    pub fn note_event(
        &self,
        gateway: &GatewayName,
        agent_id: &AgentId,
        event_type: &'static str,
        at: Timestamp,
    ) {
        self.with(gateway, agent_id, |shared| shared.note_event(event_type, at));
    }

    /// One session as it is now.
    #[must_use]
    pub fn view(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<SessionView> {
        self.with(gateway, agent_id, |shared| shared.view(Instant::now()))
    }

    /// All sessions as they are now, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<SessionView> {
        let now = Instant::now();
        let mut views = Vec::new();
        for kept in self.inner.gateways.values() {
            views.extend(kept.read().values().map(|slot| slot.shared.view(now)));
        }
        views
    }

    /// Cancelled when a session's task ended unasked: a mistake in the program, and a reason to stop the daemon.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.inner.failed.clone()
    }

    /// Ends all sessions' tasks: each finishes the call it is in, and tries once more to store an event that
    /// it has fetched. With `sign_out`, or where the gateway's `sign_out_on_stop` says so, agents are signed out; else their
    /// sessions are left open and saved. They hear of it at once, whatever becomes of the future, which waits for their ends.
    pub fn shutdown(&self, sign_out: bool) -> impl Future<Output = ()> + use<> {
        self.inner.stop.cancel();
        for kept in self.inner.gateways.values() {
            kept.gateway.stopping.store(true, Ordering::Release);
            let sign_out = sign_out || kept.gateway.config.sign_out_on_stop;
            let ring = if sign_out { Ring::StopAndSignOut } else { Ring::Stop };
            for slot in kept.read().values() {
                slot.shared.bell.ring(ring);
            }
        }
        self.inner.tasks.close();
        let tasks = self.inner.tasks.clone();
        async move { tasks.wait().await }
    }

    /// Whether the daemon stops, so that nothing is heard that is said of agents.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    fn leave(&self, gateway: &GatewayName, agent_id: &AgentId, ring: Ring) -> bool {
        let Some(kept) = self.inner.gateways.get(gateway) else { return false };
        let mut agents = kept.write();
        // Its task may have saved the session already, and ended.
        if self.is_stopping() {
            return false;
        }
        let Some(slot) = agents.get_mut(agent_id) else { return false };
        if slot.is_leaving() {
            // Whoever was to come back does not, and there is nobody else to leave.
            return slot.next.take().is_some();
        }
        slot.shared.leaving.store(true, Ordering::Release);
        slot.shared.bell.ring(ring);
        true
    }

    /// What a person says of an agent. One that leaves and comes back is to know it then, and its task stores it until then.
    fn say(&self, gateway: &GatewayName, agent_id: &AgentId, word: Ring) -> bool {
        let Some(kept) = self.inner.gateways.get(gateway) else { return false };
        let mut agents = kept.write();
        if self.is_stopping() {
            return false;
        }
        let Some(slot) = agents.get_mut(agent_id) else { return false };
        if let Some(next) = &mut slot.next {
            next.signed_out = word == Ring::SignOut;
            next.word = Some(word);
        }
        slot.shared.bell.ring(word);
        true
    }

    fn with<T>(
        &self,
        gateway: &GatewayName,
        agent_id: &AgentId,
        then: impl FnOnce(&Shared) -> T,
    ) -> Option<T> {
        let agents = self.inner.gateways.get(gateway)?.read();
        agents.get(agent_id).map(|slot| then(&slot.shared))
    }
}

impl Kept {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<AgentId, Slot>> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<AgentId, Slot>> {
        self.agents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn is_leaving(&self) -> bool {
        self.shared.leaving.load(Ordering::Acquire)
    }

    /// How events of the agent come who is in the roster: of the one who comes back, where it is leaving.
    fn mode(&self) -> Option<Mode> {
        match (&self.next, self.is_leaving()) {
            (Some(next), _) => Some(next.config.mode),
            (None, true) => None,
            (None, false) => Some(self.config.mode),
        }
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Inner {
    /// Starts the tasks of all agents. Sessions of an earlier run are checked one after the other.
    fn begin_all(self: &Arc<Self>, agents: impl Iterator<Item = Arc<AgentConfig>>) {
        let now = self.deps.clock.now();
        let mut starts: Vec<_> = agents
            .filter_map(|agent| {
                let start = self.start(&agent);
                let kept = self.gateways.get(&agent.gateway)?;
                let session = start.stored.as_ref().and_then(|stored| stored.session());
                let limit = kept.gateway.config.sign_out_limit;
                let place = session.map(|session| order::place(session, now, limit));
                Some((place, kept, agent, start))
            })
            .collect();
        starts.sort_by_key(|(place, ..)| *place);
        let resumed = starts.iter().filter(|(place, ..)| place.is_some()).count();
        let step = RESUME_SPREAD / u32::try_from(resumed.max(1)).unwrap_or(u32::MAX);
        let mut delay = Duration::ZERO;
        for (place, kept, agent, mut start) in starts {
            if place.is_some() {
                start.delay = delay;
                delay += step;
            }
            let mut agents = kept.write();
            if !agents.contains_key(&agent.id) {
                self.begin(kept, &mut agents, agent, None, start);
            }
        }
    }

    /// Forgets what is stored of agents who are in no roster any more: nobody else would. Stored times may be wrong, so the gateways
    /// have ended their sessions for certain when this run has lasted for as long. Until then the agent may be put again, and whom a
    /// person has signed out stays so.
    async fn forget_past(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => return,
            () = tokio::time::sleep(LONGEST_PAST) => {}
        }
        for (gateway, agent_id) in self.deps.store.take_unclaimed() {
            if self.stop.is_cancelled() {
                return;
            }
            // One that was put meanwhile has a session of its own.
            let is_back = self.gateways.get(&gateway).is_some_and(|kept| kept.read().contains_key(&agent_id));
            if !is_back && let Err(error) = self.deps.store.save(&gateway, &agent_id, None).await {
                tracing::warn!(%gateway, %agent_id, %error, "an agent who is in no roster any more stays stored");
                return;
            }
        }
    }

    /// What an earlier run left of this agent's session.
    fn start(&self, config: &AgentConfig) -> Start {
        let stored = self.deps.store.load(&config.gateway, &config.id);
        Start { stored: stored.map(Box::new), ..Start::default() }
    }

    /// Starts the task of one agent.
    fn begin(
        self: &Arc<Self>,
        kept: &Kept,
        agents: &mut HashMap<AgentId, Slot>,
        config: Arc<AgentConfig>,
        adoption: Option<Adoption>,
        start: Start,
    ) {
        let common = kept.gateway.common.clone();
        let shared = Arc::new(Shared::new(common, config.id.clone(), self.deps.clock.now()));
        let Beginning { config, leaves, next } = beginning(config, &start, kept.gateway.callback);
        if leaves {
            shared.leaving.store(true, Ordering::Release);
            shared.bell.ring(Ring::Leave);
        }
        if let Some(adoption) = adoption {
            shared.mail.put_adoption(adoption);
        }
        let slot = Slot { config: config.clone(), shared: shared.clone(), next };
        agents.insert(config.id.clone(), slot);
        let agent = Agent::new(config, kept.gateway.clone(), shared);
        let mut keeping = Keeping { inner: self.clone(), agent };
        let mut start = Some(Box::new(start));
        let task = async move {
            // By reference: a future that takes its owner would hold it twice.
            Box::pin(keeping.agent.begin(*start.take().unwrap_or_default())).await;
            keeping.agent.run().await;
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// The task of an agent that was leaving has ended: the agent is gone, or comes back.
    fn left(self: &Arc<Self>, shared: &Arc<Shared>) {
        let Some(kept) = self.gateways.get(shared.gateway()) else { return };
        let mut agents = kept.write();
        let Some(slot) = agents.remove(&shared.agent_id) else { return };
        if let Some(next) = slot.next.filter(|_| !self.stop.is_cancelled()) {
            if let Some(adoption) = &next.adoption {
                self.deps.tokens.accept(shared.gateway(), &shared.agent_id, &adoption.token);
            }
            let stored = next.signed_out.then(|| Box::new(Stored::SIGNED_OUT));
            let start = Start { stored, ..Start::default() };
            self.begin(kept, &mut agents, next.config, next.adoption, start);
            if let (Some(word), Some(slot)) = (next.word, agents.get(&shared.agent_id)) {
                slot.shared.bell.ring(word);
            }
        }
    }
}

/// How the task of an agent begins.
struct Beginning {
    config: Arc<AgentConfig>,
    /// It signs the agent out, after the call that it is in.
    leaves: bool,
    /// What comes then.
    next: Option<Box<Next>>,
}

/// A session of an earlier run was signed in for one way to its events and with one callback address. Where the configuration now
/// has another, the agent leaves and comes back; and one that was leaving goes on with that.
fn beginning(config: Arc<AgentConfig>, start: &Start, callback: u64) -> Beginning {
    let Some(session) = start.stored.as_ref().and_then(|stored| stored.session()) else {
        return Beginning { config, leaves: false, next: None };
    };
    let mode = session.mode(config.mode);
    let elsewhere = mode.is_pushed() && session.callback.is_some_and(|told| told != callback);
    let leaves = session.leaving || config.is_listed() && (mode != config.mode || elsewhere);
    let before = if mode == config.mode {
        config.clone()
    } else {
        Arc::new(AgentConfig { mode, ..AgentConfig::clone(&config) })
    };
    let signed_out = session.wanted_out;
    let next = (leaves && config.is_listed()).then(|| Next::new(config, signed_out));
    Beginning { config: before, leaves, next: next.map(Box::new) }
}

/// What a task holds. Notices when it ends while nobody has asked it to, be it by a panic.
struct Keeping {
    inner: Arc<Inner>,
    agent: Agent,
}

impl Drop for Keeping {
    fn drop(&mut self) {
        // What the agent shows of itself goes before a successor begins.
        self.agent.retire();
        let shared = self.agent.shared();
        let leaving = shared.leaving.load(Ordering::Acquire);
        if leaving && !std::thread::panicking() {
            self.inner.left(shared);
        } else if !self.inner.stop.is_cancelled() {
            self.inner.failed.cancel();
        }
    }
}
