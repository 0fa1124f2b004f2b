//! All sessions: starts their tasks, finds them by agent, and looks over their budgets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::{AgentId, GatewayName};
use crate::session::Deps;
use crate::session::agent::{Agent, Gateway};
use crate::session::call::GatewayCalls;
use crate::session::config::{AgentConfig, GatewayConfig, SessionsConfig};
use crate::session::gateway::{self, GatewayError};
use crate::session::pace::Pace;
use crate::session::status::{Ring, SessionView, Shared};

/// How often the least budget is looked for: often enough for an alert, at a millisecond per 100,000 agents.
const BUDGET_INTERVAL: Duration = Duration::from_secs(2);
/// No session that is resumed has been silent for longer: the largest limit that can be configured.
const LONGEST_PAST: Duration = Duration::from_secs(3600);

type ByAgent = HashMap<AgentId, Arc<Shared>>;

/// Handle to all sessions; cloning is cheap.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    gateways: HashMap<GatewayName, Kept>,
    tasks: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
    deps: Arc<Deps>,
}

/// The sessions of one gateway.
struct Kept {
    gateway: Arc<Gateway>,
    agents: ByAgent,
}

impl Sessions {
    /// Starts one task per agent. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the client of a gateway cannot be set up.
    pub fn start(config: SessionsConfig, deps: Deps) -> Result<Sessions, GatewayError> {
        Sessions::start_with(config, deps, gateway::connect)
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
        let mut gateways = HashMap::new();
        for config in config.gateways {
            let calls = connect(&config)?;
            let pace = Pace::new(config.sign_in_rate_per_sec);
            let name = config.name.clone();
            let gateway = Arc::new(Gateway { config, calls, pace });
            gateways.insert(name, Kept { gateway, agents: HashMap::new() });
        }
        let mut inner = Inner {
            gateways,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
            deps: Arc::new(deps),
        };
        let now = Instant::now();
        let epoch = now.checked_sub(LONGEST_PAST).unwrap_or(now);
        for agent in config.agents {
            inner.add(agent, epoch);
        }
        let sessions = Sessions { inner: Arc::new(inner) };
        sessions.inner.tasks.spawn(look_over(sessions.clone()));
        Ok(sessions)
    }

    /// An event says that this agent was signed out: its session asks the gateway now. Unknown agents are ignored.
    pub fn wake_forced_out(&self, gateway: &GatewayName, agent_id: &AgentId) {
        self.ring(gateway, agent_id, Ring::ForcedOut);
    }

    /// Signs an agent in that is signed out or suspended; `false` when there is no such agent.
    pub fn sign_in(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.ring(gateway, agent_id, Ring::SignIn)
    }

    /// Signs an agent out until a person signs it in again; `false` when there is no such agent.
    pub fn sign_out(&self, gateway: &GatewayName, agent_id: &AgentId) -> bool {
        self.ring(gateway, agent_id, Ring::SignOut)
    }

    /// Notes whether a push of this agent was answered with success; the gateway counts failures too.
    pub fn note_push(&self, gateway: &GatewayName, agent_id: &AgentId, ok: bool) {
        if let Some(shared) = self.find(gateway, agent_id) {
            shared.note_push(ok, Instant::now());
        }
    }

    /// One session as it is now.
    #[must_use]
    pub fn view(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<SessionView> {
        self.find(gateway, agent_id).map(|shared| shared.view(Instant::now()))
    }

    /// All sessions as they are now, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<SessionView> {
        let now = Instant::now();
        let agents = self.inner.gateways.values().flat_map(|kept| kept.agents.values());
        agents.map(|shared| shared.view(now)).collect()
    }

    /// Cancelled when a session's task ended unasked: a mistake in the program, and a reason to stop the daemon.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.inner.failed.clone()
    }

    /// Ends all sessions' tasks and waits for them: each finishes the call it is in. With `sign_out`, or where the
    /// gateway's `sign_out_on_stop` says so, agents are signed out; else their sessions are left open and saved.
    pub async fn shutdown(&self, sign_out: bool) {
        self.inner.stop.cancel();
        for kept in self.inner.gateways.values() {
            let sign_out = sign_out || kept.gateway.config.sign_out_on_stop;
            let ring = if sign_out { Ring::StopAndSignOut } else { Ring::Stop };
            for shared in kept.agents.values() {
                shared.bell.ring(ring);
            }
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn ring(&self, gateway: &GatewayName, agent_id: &AgentId, ring: Ring) -> bool {
        let found = self.find(gateway, agent_id);
        if let Some(shared) = found {
            shared.bell.ring(ring);
        }
        found.is_some()
    }

    fn find(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<&Arc<Shared>> {
        self.inner.gateways.get(gateway)?.agents.get(agent_id)
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Inner {
    /// Starts the task of one agent; the configuration has checked that its gateway exists.
    fn add(&mut self, config: AgentConfig, epoch: Instant) {
        let Some(kept) = self.gateways.get_mut(&config.gateway) else { return };
        let shared = Arc::new(Shared::new(
            config.gateway.clone(),
            config.id.clone(),
            kept.gateway.config.sign_out_limit,
            epoch,
            self.deps.clock.now(),
            &self.deps.metrics,
        ));
        kept.agents.insert(config.id.clone(), shared.clone());
        let agent = Agent::new(Arc::new(config), kept.gateway.clone(), self.deps.clone(), shared);
        let guard = EndGuard { stop: self.stop.clone(), failed: self.failed.clone() };
        self.tasks.spawn(async move {
            let _guard = guard;
            agent.run().await;
        });
    }
}

/// Notices a task that ends while nobody has asked it to, be it by a panic.
struct EndGuard {
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.failed.cancel();
        }
    }
}

/// Exports the least budget of each gateway until the daemon stops.
async fn look_over(sessions: Sessions) {
    let mut ticks = tokio::time::interval(BUDGET_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = sessions.inner.stop.cancelled() => return,
            now = ticks.tick() => sessions.export_budgets(now),
        }
    }
}

impl Sessions {
    fn export_budgets(&self, now: Instant) {
        for (name, kept) in &self.inner.gateways {
            let least = kept.agents.values().filter_map(|shared| shared.budget(now)).min();
            let least = least.unwrap_or(kept.gateway.config.sign_out_limit);
            let gauge = self.inner.deps.metrics.sign_out_budget.with_label_values(&[name.as_str()]);
            gauge.set(least.as_secs_f64());
        }
    }
}
