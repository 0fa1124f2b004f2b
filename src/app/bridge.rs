//! The few places where parts that do not know each other meet: tokens, store and events for sessions, pushes back to their
//! sessions. What happens to sessions themselves goes into the spool by `journal`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use secrecy::SecretString;

use crate::authenticate::Authenticator;
use crate::clock::{Clock, Timestamp};
use crate::event::envelope::{self, RawEvent};
use crate::event::normalise::RecordKind;
use crate::event::{AgentId, GatewayName, vocabulary};
use crate::receive::{PushObserver, name_unknown};
use crate::session::{EventStore, SessionStore, Sessions, StoreError, Stored, TokenSource};
use crate::sink::BoxFuture;
use crate::spool::{AgentKey, NewRecord, OpenError, Spool};
use crate::trace::Traces;

/// Events that say that an agent was signed out (events.json: cec_07_1402; `Force_Logout` is seen in clients only).
const SIGNED_OUT: [&str; 2] = ["AgentOther_ShutdownService", "Force_Logout"];

/// Tokens of the authenticator for sessions.
pub(super) struct TokenBridge(pub(super) Arc<Authenticator>);

impl TokenSource for TokenBridge {
    fn mint(&self, gateway: &GatewayName, agent_id: &AgentId) -> SecretString {
        self.0.mint(gateway, agent_id)
    }

    fn accept(&self, gateway: &GatewayName, agent_id: &AgentId, token: &SecretString) {
        self.0.accept_fixed(gateway, agent_id, token);
    }

    fn offer(&self, gateway: &GatewayName, agent_id: &AgentId, token: &SecretString) {
        self.0.offer_fixed(gateway, agent_id, token);
    }

    fn session_began(&self, gateway: &GatewayName, agent_id: &AgentId, since: Option<Timestamp>) {
        self.0.session_began(gateway, agent_id, since);
    }

    fn session_ended(&self, gateway: &GatewayName, agent_id: &AgentId) {
        self.0.session_ended(gateway, agent_id);
    }

    fn revoke(&self, gateway: &GatewayName, agent_id: &AgentId) {
        self.0.revoke_fixed(gateway, agent_id);
    }
}

/// Sessions that survive a restart, in the spool's database.
pub(super) struct StoreBridge {
    spool: Spool,
    /// What was stored when the daemon started; each is asked for once.
    found: Mutex<HashMap<AgentKey, Stored>>,
}

impl StoreBridge {
    pub(super) fn load(spool: &Spool) -> Result<StoreBridge, OpenError> {
        let mut found = HashMap::new();
        for (agent, stored) in spool.sessions()? {
            match serde_json::from_slice(&stored) {
                Ok(stored) => drop(found.insert(agent, stored)),
                Err(_) => {
                    tracing::warn!(gateway = %agent.gateway, agent_id = %agent.agent_id, "a stored session is unreadable; the agent signs in anew");
                }
            }
        }
        Ok(StoreBridge { spool: spool.clone(), found: Mutex::new(found) })
    }
}

impl SessionStore for StoreBridge {
    fn load(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<Stored> {
        let agent = AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() };
        self.found.lock().unwrap_or_else(PoisonError::into_inner).remove(&agent)
    }

    fn unlisted(&self) -> Vec<(GatewayName, AgentId)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let unlisted = found.iter().filter(|(_, stored)| stored.may_be_unlisted());
        unlisted.map(|(agent, _)| (agent.gateway.clone(), agent.agent_id.clone())).collect()
    }

    fn take_unclaimed(&self) -> Vec<(GatewayName, AgentId)> {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        found.into_keys().map(|agent| (agent.gateway, agent.agent_id)).collect()
    }

    fn save<'a>(
        &'a self,
        gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        stored: Option<Stored>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let agent = AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() };
            let stored = stored.as_ref().map(serde_json::to_vec).transpose();
            let stored = stored.map_err(|error| StoreError(error.to_string()))?;
            self.spool.save_session(agent, stored).await.map_err(|error| StoreError(error.to_string()))
        })
    }
}

/// Events of polled agents into the spool, as they came.
pub(super) struct EventBridge {
    pub(super) spool: Spool,
    pub(super) clock: Clock,
    pub(super) observer: Arc<ObserverBridge>,
    pub(super) traces: Traces,
}

impl EventStore for EventBridge {
    fn store<'a>(
        &'a self,
        gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        answer: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // As received it lies in a connection's buffer, which may be many times as large.
            let answer = Bytes::copy_from_slice(&answer);
            let record = NewRecord {
                kind: RecordKind::Poll,
                received_at: self.clock.now(),
                agent: AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() },
                body: answer.clone(),
                answer: None,
            };
            let queued = self.traces.begin();
            let envelope = envelope::parse(&answer).ok();
            let appended = match &envelope {
                Some(envelope) => self.spool.append_read(record, &envelope.events).await,
                // What cannot be read is stored all the same and set aside later.
                None => self.spool.append(record).await,
            };
            let appended = appended.map_err(|error| StoreError(error.to_string()))?;
            self.traces.recorded("poll", gateway, appended.offset, queued);
            if let Some(envelope) = envelope {
                name_unknown(gateway, &envelope.events);
                self.observer.note_newest(gateway, agent_id, &envelope.events);
            }
            Ok(())
        })
    }
}

/// Pushes back to their sessions: what they say of the sign-out budget, their newest event, and forced sign-outs.
pub(super) struct ObserverBridge {
    sessions: OnceLock<Sessions>,
    clock: Clock,
}

impl ObserverBridge {
    pub(super) fn new(clock: Clock) -> ObserverBridge {
        ObserverBridge { sessions: OnceLock::new(), clock }
    }

    fn note_newest(&self, gateway: &GatewayName, agent_id: &AgentId, events: &[RawEvent<'_>]) {
        if let (Some(sessions), Some(newest)) = (self.sessions.get(), events.last()) {
            let event_type = newest.entry.map_or(vocabulary::UNKNOWN_TYPE, |entry| entry.event_type);
            sessions.note_event(gateway, agent_id, event_type, self.clock.now());
        }
    }

    /// From now on pushes are told to these sessions.
    pub(super) fn connect(&self, sessions: Sessions) {
        if self.sessions.set(sessions).is_err() {
            tracing::error!("sessions were connected twice");
        }
    }
}

impl PushObserver for ObserverBridge {
    fn stored(&self, agent: &AgentKey, events: &[RawEvent<'_>]) {
        let Some(sessions) = self.sessions.get() else { return };
        sessions.note_push(&agent.gateway, &agent.agent_id, true);
        self.note_newest(&agent.gateway, &agent.agent_id, events);
        if events.iter().any(|event| SIGNED_OUT.contains(&&*event.event_type)) {
            sessions.wake_forced_out(&agent.gateway, &agent.agent_id);
        }
    }

    fn refused(&self, agent: &AgentKey) {
        if let Some(sessions) = self.sessions.get() {
            sessions.note_push(&agent.gateway, &agent.agent_id, false);
        }
    }
}
