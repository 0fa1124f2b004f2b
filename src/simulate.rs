//! A stand-in for the CC-Gateway: as strict as its manuals, unkind where they are silent, and able to misbehave.
//! It knows the wire and nothing of the relay.
//!
//! - **In** (`listen` -> `serve` -> `session`, `calls`, `poll`): the interface under
//!   `/agentgateway/resource`. Business failures are HTTP 200 with a retcode.
//! - **Out** (`push`): per agent one batch at a time, in order, repeated until it succeeds.
//! - **State** (`agent`): everything about an agent behind one mutex, never held across an await.
//! - **Time** (`watch`, `play`): one task and one heap each, for any number of agents.
//! - **Books** (`ledger`): every event made and what became of it.
//!
//! Choices where the manuals say nothing: no content type answers HTTP 415, a wrong method 405; a missing,
//! wrong or dead GUID answers 000-003; a call without the session's cookies, or of nobody, 100-006; a second
//! poll beside a first 000-007; a body that is not JSON 100-001. Nodes of one gateway share the agents and not the sessions: a call
//! to another node is one of nobody, and a login there finds the agent signed in (100-002). A heartbeat in polling mode is answered but
//! does not count as a poll. A takeover discards what waited; a push in flight still arrives, and the new
//! session's first push waits for its end.

mod agent;
mod answer;
mod calls;
mod casing;
mod catalogue;
mod event;
mod faults;
mod gateway;
mod guid;
mod latency;
mod ledger;
mod listen;
mod login;
mod lose;
mod operation;
mod play;
mod poll;
mod push;
mod random;
mod serve;
mod session;
pub mod settings;
mod trust;
mod voice;
mod watch;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use casing::CasingError;
pub use event::EmitOptions;
pub use faults::{Fault, FaultKind};
pub use gateway::EmitError;
pub use latency::Latencies;
pub use ledger::{Counts, Fate, LedgerEntry, SignOut, Statistics};
pub use operation::Operation;
pub use settings::{Settings, SettingsError};
pub use trust::TrustError;

use crate::event::ids::AgentId;
use agent::Slot;
use catalogue::Catalogue;
use event::Draft;
use gateway::Gateway;

/// How often a wait for a state looks at it.
const LOOK: Duration = Duration::from_millis(5);

/// A simulated gateway that runs.
#[derive(Debug)]
pub struct Simulator {
    gateway: Arc<Gateway>,
    port: listen::Port,
    /// How many nodes were added.
    nodes: AtomicU8,
    ca_pem: Option<String>,
    /// Ends the continuous play that runs.
    playing: Mutex<Option<CancellationToken>>,
}

/// What an agent's session looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Events are pushed rather than polled.
    pub push: bool,
    /// The state, as `agentstatus` numbers it.
    pub agent_state: u8,
    /// Effective skills; none before the first resetskill.
    pub skills: Option<Vec<u32>>,
    /// Events that wait.
    pub waiting: usize,
    /// Time since the last sign of life that counts.
    pub silent_for: Duration,
}

/// A simulator that does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The settings contradict themselves.
    #[error("settings")]
    Settings(#[from] SettingsError),
    /// A certificate cannot be used.
    #[error("TLS")]
    Trust(#[from] TrustError),
    /// Header names cannot be prepared.
    #[error("HTTP")]
    Casing(#[from] CasingError),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Simulator {
    /// Binds the address and starts. With a `rate` in the settings it plays at once.
    ///
    /// # Errors
    /// When the settings, a certificate or the address do not do.
    pub async fn start(settings: Settings) -> Result<Simulator, StartError> {
        settings.check()?;
        let (tls, ca_pem) = match settings.https {
            true => trust::server_config(&settings).map(|(config, ca)| (Some(config), ca))?,
            false => (None, None),
        };
        let (addr, rate) = (settings.listen, settings.rate);
        let gateway = Gateway::new(settings, casing::spellings().await?)?;
        let port = listen::Port::open(gateway.clone(), tls)
            .await
            .map_err(|source| StartError::Listen { addr, source })?;
        gateway.spawn(watch::watch(gateway.clone()));
        gateway.spawn(report(gateway.clone()));
        let (nodes, playing) = (AtomicU8::new(0), Mutex::new(None));
        let simulator = Simulator { gateway, port, nodes, ca_pem, playing };
        info!(base_url = simulator.base_url(), agents = simulator.gateway.slots().len(), "simulator started");
        if rate > 0.0 {
            simulator.play(rate);
        }
        Ok(simulator)
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// `https://127.0.0.1:{port}/agentgateway/resource`, or with `http`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.url_at(self.local_addr())
    }

    /// Opens a port of another node of this gateway and gives its base URL. It has the agents, and none of the sessions that were
    /// signed in at another node.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn add_node(&self) -> std::io::Result<String> {
        let node = self.nodes.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // It is open until the gateway stops.
        Ok(self.url_at(self.port.of_node(node).await?.addr()))
    }

    fn url_at(&self, mut addr: SocketAddr) -> String {
        let scheme = if self.gateway.settings.https { "https" } else { "http" };
        if addr.ip().is_unspecified() {
            addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("{scheme}://{addr}{}", operation::BASE_PATH)
    }

    /// The CA of the certificate, when it was generated.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Stops everything: connections, pushes, timers.
    pub async fn stop(self) {
        self.stop_playing();
        self.gateway.stop.cancel();
        self.port.close().await;
        self.gateway.tasks.close();
        self.gateway.tasks.wait().await;
        info!("simulator stopped");
    }

    /// Makes one event for a signed-in agent. Gives its serial number in the ledger.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn emit(
        &self,
        agent: &AgentId,
        event_type: &str,
        content: Value,
        options: EmitOptions,
    ) -> Result<u64, EmitError> {
        let draft = Draft::Parts { event_type: event_type.to_owned(), content, options };
        let serials = self.gateway.emit(self.slot(agent)?, &[draft])?;
        Ok(serials.first().copied().unwrap_or_default())
    }

    /// Makes several events in one go, so that they are pushed together as far as the batch limit allows.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn emit_batch(
        &self,
        agent: &AgentId,
        events: Vec<(&str, Value)>,
        options: EmitOptions,
    ) -> Result<Vec<u64>, EmitError> {
        let draft = |(event_type, content): (&str, Value)| Draft::Parts {
            event_type: event_type.to_owned(),
            content,
            options,
        };
        let drafts: Vec<Draft> = events.into_iter().map(draft).collect();
        self.gateway.emit(self.slot(agent)?, &drafts)
    }

    /// Makes an event of any text at all, to see what a receiver makes of it.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn emit_raw(&self, agent: &AgentId, json: &str) -> Result<u64, EmitError> {
        let serials = self.gateway.emit(self.slot(agent)?, &[Draft::Raw(json.to_owned())])?;
        Ok(serials.first().copied().unwrap_or_default())
    }

    /// Makes an event with the example content of its type.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn emit_example(&self, agent: &AgentId, event_type: &str) -> Result<u64, EmitError> {
        let slot = self.slot(agent)?;
        let serials = self.gateway.emit(slot, &[play::example(&self.gateway, slot, event_type)])?;
        Ok(serials.first().copied().unwrap_or_default())
    }

    /// All event types there is an example of.
    pub fn event_types() -> impl Iterator<Item = &'static str> {
        Catalogue::shared().event_types()
    }

    /// Loses the answers of the agent's next `times` pushes: they are repeated though received and answered. The receiver sees
    /// its connection reset.
    ///
    /// # Errors
    /// When there is no such agent.
    pub fn lose_answers(&self, agent: &AgentId, times: u32) -> Result<(), EmitError> {
        self.slot(agent)?.lock().answers_to_lose = times;
        Ok(())
    }

    /// Plays one flow for an agent, with a pause between its steps. Gives the number of events.
    ///
    /// # Errors
    /// When there is no such agent or flow, or the agent is not signed in.
    pub async fn play_flow(&self, agent: &AgentId, flow: &str, pause: Duration) -> Result<usize, EmitError> {
        let slot = self.slot(agent)?;
        let flow = Catalogue::shared().flow(flow).ok_or_else(|| EmitError::NoSuchFlow(flow.to_owned()))?;
        play::play_flow(&self.gateway, slot, flow, pause).await
    }

    /// A call comes in for an agent and rings until somebody answers it or gives it up. Gives its id.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn ring(&self, agent: &AgentId) -> Result<String, EmitError> {
        play::ring(&self.gateway, self.slot(agent)?)
    }

    /// The names of all flows.
    pub fn flows() -> impl Iterator<Item = &'static str> {
        Catalogue::shared().flow_ids()
    }

    /// Plays the settings' flows for every signed-in agent, `rate` events a second each, until stopped.
    pub fn play(&self, rate: f64) {
        self.stop_playing();
        if !rate.is_finite() || rate <= 0.0 {
            return;
        }
        let stop = CancellationToken::new();
        *self.playing.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop.clone());
        let gateway = self.gateway.clone();
        self.gateway.spawn(async move {
            tokio::select! {
                // First the stop: after it nothing more is made, also where something is due.
                biased;
                () = stop.cancelled() => {}
                () = play::play_all(gateway, rate) => {}
            }
        });
        info!(rate, "playing");
    }

    /// Ends continuous play; what was made is still delivered.
    pub fn stop_playing(&self) {
        if let Some(stop) = self.playing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            stop.cancel();
        }
    }

    /// An inspector forces the agent out.
    ///
    /// # Errors
    /// When there is no such agent or it is not signed in.
    pub fn force_out(&self, agent: &AgentId) -> Result<(), EmitError> {
        let slot = self.slot(agent)?;
        if slot.lock().session.is_none() {
            return Err(EmitError::NotSignedIn(agent.clone()));
        }
        self.gateway.force_out(slot, None, SignOut::Inspector);
        Ok(())
    }

    /// All sessions are gone at once and without a word, as after a crash of the gateway.
    pub fn forget_sessions(&self) {
        for slot in self.gateway.slots() {
            self.gateway.force_out(slot, None, SignOut::Restart);
        }
    }

    /// Adds a fault; several of one operation are met in the order added.
    pub fn inject(&self, fault: Fault) {
        self.gateway.faults.add(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.gateway.faults.clear();
    }

    /// The operator adds the callbacks of all sessions to the trust list: pushes to them are made from now on.
    pub fn trust_callbacks(&self) {
        for slot in self.gateway.slots() {
            if let Some(session) = &mut slot.lock().session {
                session.delivery.trust();
            }
            self.gateway.wake(slot);
        }
    }

    /// Closes the port and all connections to it, as in an outage. Sessions, timers and pushes go on.
    pub async fn pause_listening(&self) {
        self.port.close().await;
    }

    /// Opens the port again.
    ///
    /// # Errors
    /// When the address has been taken meanwhile.
    pub async fn resume_listening(&self) -> std::io::Result<()> {
        self.port.reopen().await
    }

    /// How long pushes took since this was last asked.
    pub fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut *self.gateway.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.gateway.statistics()
    }

    /// The counts of one agent.
    #[must_use]
    pub fn counts(&self, agent: &AgentId) -> Counts {
        self.slot(agent).map(|slot| slot.lock().counts.clone()).unwrap_or_default()
    }

    /// The session of an agent that is signed in.
    #[must_use]
    pub fn session(&self, agent: &AgentId) -> Option<SessionView> {
        let agent = self.slot(agent).ok()?.lock();
        let session = agent.session.as_ref()?;
        Some(SessionView {
            push: session.is_push(),
            agent_state: session.doing().number(),
            skills: session.skills.clone(),
            waiting: agent.queue.len(),
            silent_for: session.last_contact.elapsed(),
        })
    }

    /// Every event made, by agent in the settings' order, each agent's in the order made.
    #[must_use]
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.gateway.slots().iter().flat_map(|slot| slot.lock().ledger()).collect()
    }

    /// Every event made for one agent.
    #[must_use]
    pub fn ledger_of(&self, agent: &AgentId) -> Vec<LedgerEntry> {
        self.slot(agent).map(|slot| slot.lock().ledger()).unwrap_or_default()
    }

    /// Waits until the statistics satisfy `done`. False when they did not in time.
    pub async fn wait_for(&self, limit: Duration, done: impl Fn(&Statistics) -> bool) -> bool {
        let until = Instant::now() + limit;
        loop {
            if done(&self.statistics()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until no event waits for anybody. False when some still did in the end.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.wait_for(limit, |statistics| statistics.waiting == 0).await
    }

    fn slot(&self, agent: &AgentId) -> Result<&Arc<Slot>, EmitError> {
        self.gateway.slot(agent.as_str()).ok_or_else(|| EmitError::NoSuchAgent(agent.clone()))
    }
}

impl Drop for Simulator {
    /// Begins what [`Simulator::stop`] waits for.
    fn drop(&mut self) {
        self.gateway.stop.cancel();
    }
}

/// Logs the counts now and then, when they changed.
async fn report(gateway: Arc<Gateway>) {
    let interval = Duration::from_millis(gateway.settings.report_interval_ms);
    let mut before = Counts::default();
    while !interval.is_zero() {
        tokio::time::sleep(interval).await;
        let Statistics { total, signed_in, waiting, .. } = gateway.statistics();
        if total != before {
            let (events, delivered, failed) = (total.events, total.delivered, total.pushes_failed);
            info!(signed_in, events, delivered, waiting, pushes_failed = failed, "so far");
            before = total;
        }
    }
}
