//! What all parts of one simulated gateway share: its agents, its settings, and the few changes that touch
//! more than one of them - making events, ending sessions, starting a push task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::Extensions;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::agent::{Agent, Session, Slot, Target};
use super::event::Draft;
use super::faults::Faults;
use super::latency::Latencies;
use super::ledger::{Counts, SignOut, Statistics};
use super::push::{self, Pusher};
use super::random::Random;
use super::settings::Settings;
use super::trust::TrustError;
use super::watch::Watch;
use crate::clock::Clock;
use crate::event::ids::AgentId;

/// An event that cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EmitError {
    /// The simulator has no such agent.
    #[error("there is no agent {0}")]
    NoSuchAgent(AgentId),
    /// The agent is not signed in, so the gateway has no events for it.
    #[error("agent {0} is not signed in")]
    NotSignedIn(AgentId),
    /// There is no flow of that name.
    #[error("there is no flow {0:?}")]
    NoSuchFlow(String),
}

/// One simulated gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) settings: Settings,
    pub(super) faults: Faults,
    pub(super) pusher: Pusher,
    pub(super) watch: Watch,
    pub(super) clock: Clock,
    /// Makes answers spell their header names as the gateway does.
    pub(super) spellings: Extensions,
    pub(super) random: Mutex<Random>,
    /// Times of pushes since somebody last asked.
    pub(super) latencies: Mutex<Latencies>,
    /// Every task of this gateway.
    pub(super) tasks: TaskTracker,
    /// Ends them.
    pub(super) stop: CancellationToken,
    slots: HashMap<String, Arc<Slot>>,
    /// In the order of the settings, to find an agent's neighbour.
    order: Vec<Arc<Slot>>,
    calls: AtomicU64,
    /// Itself, for the tasks it starts.
    own: Weak<Gateway>,
}

impl Gateway {
    pub(super) fn new(settings: Settings, spellings: Extensions) -> Result<Arc<Gateway>, TrustError> {
        let pusher = Pusher::new(&settings, spellings.clone())?;
        let order = slots(&settings);
        Ok(Arc::new_cyclic(|own| Gateway {
            faults: Faults::new(settings.misbehaviours.clone(), settings.seed ^ 1),
            random: Mutex::new(Random::new(settings.seed)),
            latencies: Mutex::default(),
            slots: order.iter().map(|slot| (slot.id.to_string(), slot.clone())).collect(),
            order,
            pusher,
            watch: Watch::default(),
            clock: Clock::system(),
            spellings,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            calls: AtomicU64::new(0),
            own: own.clone(),
            settings,
        }))
    }

    /// The agent of that id.
    pub(super) fn slot(&self, id: &str) -> Option<&Arc<Slot>> {
        self.slots.get(id)
    }

    /// All agents.
    pub(super) fn slots(&self) -> &[Arc<Slot>] {
        &self.order
    }

    /// Runs `with` on the random stream.
    pub(super) fn roll<T>(&self, with: impl FnOnce(&mut Random) -> T) -> T {
        with(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes how long a push took.
    pub(super) fn took(&self, time: std::time::Duration) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).add(time);
    }

    /// The number of the next call.
    pub(super) fn call_number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Starts a task that ends with the gateway.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Makes events for a signed-in agent, all in one go, and sees that they are pushed.
    pub(super) fn emit(&self, slot: &Arc<Slot>, drafts: &[Draft]) -> Result<Vec<u64>, EmitError> {
        let serials = {
            let mut agent = slot.lock();
            if agent.session.is_none() {
                return Err(EmitError::NotSignedIn(slot.id.clone()));
            }
            self.enqueue(&slot.id, &mut agent, drafts, None)
        };
        self.wake(slot);
        Ok(serials)
    }

    /// Makes events without seeing that they are pushed.
    pub(super) fn enqueue(
        &self,
        id: &AgentId,
        agent: &mut Agent,
        drafts: &[Draft],
        farewell: Option<&Arc<Target>>,
    ) -> Vec<u64> {
        let (now, settings) = (self.clock.now(), &self.settings);
        let mut one = |draft: &Draft| {
            if let Some(event_type) = draft.event_type() {
                agent.observe(event_type);
            }
            agent.enqueue(id, now, settings.keep_ledger, farewell.cloned(), |serial| {
                draft.render(id.as_str(), now, settings.mark_events.then_some(serial))
            })
        };
        let serials = drafts.iter().map(&mut one).collect();
        if let Some(reason) = agent.session.as_mut().and_then(Session::take_held_back) {
            self.enqueue(id, agent, &[Draft::busy(&reason)], None);
        }
        serials
    }

    /// Starts the agent's push task if events wait for one, and tells whoever polls.
    pub(super) fn wake(&self, slot: &Arc<Slot>) {
        slot.changed.notify_waiters();
        let Some(own) = self.own.upgrade() else { return };
        {
            let mut agent = slot.lock();
            let pushes = agent.session.as_ref().is_some_and(Session::is_push)
                || agent.queue.front().is_some_and(|event| event.farewell.is_some());
            if agent.pushing || !pushes || agent.queue.is_empty() {
                return;
            }
            agent.pushing = true;
        }
        self.spawn(push::push_all(own, slot.clone()));
    }

    /// Ends the session of that number, or whichever there is.
    pub(super) fn force_out(&self, slot: &Arc<Slot>, epoch: Option<u64>, reason: SignOut) {
        if self.end_session(slot, epoch, reason, reason == SignOut::Inspector) {
            warn!(agent_id = %slot.id, ?reason, "forced out");
        }
    }

    /// Ends a session, with a farewell where the gateway says one. False when it had ended already.
    pub(super) fn end_session(
        &self,
        slot: &Arc<Slot>,
        epoch: Option<u64>,
        reason: SignOut,
        farewell: bool,
    ) -> bool {
        {
            let mut agent = slot.lock();
            if epoch.is_some_and(|epoch| agent.session_of(epoch).is_none()) {
                return false;
            }
            let Some(session) = agent.sign_out(reason) else { return false };
            let target = session.target().filter(|_| farewell && self.settings.shutdown_event);
            if let Some(target) = target.map(Arc::new) {
                let content = serde_json::json!({ "loginTime": session.login_time.millis().to_string() });
                let draft = Draft::parts("AgentOther_ShutdownService", content);
                self.enqueue(&slot.id, &mut agent, &[draft], Some(&target));
            }
        }
        info!(agent_id = %slot.id, ?reason, "signed out");
        self.wake(slot);
        true
    }

    /// Everything counted so far.
    pub(super) fn statistics(&self) -> Statistics {
        let mut all = Statistics::default();
        for slot in &self.order {
            let agent = slot.lock();
            all.signed_in += usize::from(agent.session.is_some());
            all.waiting += agent.queue.len();
            if agent.counts != Counts::default() {
                all.total.add(&agent.counts);
                all.agents.insert(slot.id.clone(), agent.counts.clone());
            }
        }
        all
    }
}

/// A place for every configured agent; the first of two settings for one id counts.
fn slots(settings: &Settings) -> Vec<Arc<Slot>> {
    let mut seen = std::collections::HashSet::new();
    let mut slots = Vec::new();
    for agents in &settings.agents {
        let profile = Arc::new(agents.clone());
        for id in agents.first..=agents.last.unwrap_or(agents.first) {
            if let Ok(id) = AgentId::parse(&id.to_string())
                && seen.insert(id.clone())
            {
                slots.push(Arc::new(Slot::new(id, profile.clone())));
            }
        }
    }
    slots
}
