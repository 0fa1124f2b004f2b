//! Agents' sessions at the gateways: sign-in, heartbeats, GUIDs, tokens, recovery, sign-out.
//!
//! One small task per agent owns its session; [`state`] decides, [`gateway`] talks, `agent` drives both on tokio's
//! clock. What lives longer than a session (tokens, the store, life-cycle events) stands behind traits that the
//! daemon fills in.
//!
//! Invariants: one call in flight per agent; what the gateway may still hold of ours is saved before it is needed, so
//! that a restart within the sign-out limit signs nobody out; no secret is logged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::event::{AgentId, GatewayName};
use crate::metrics::Metrics;
use crate::session::config::Mode;
use crate::sink::BoxFuture;

mod agent;
pub mod call;
pub mod config;
mod failed;
pub mod forward;
pub mod gateway;
mod keeper;
mod mail;
mod pace;
pub mod password;
mod refused;
pub mod retcode;
pub mod roster;
mod standstill;
pub mod state;
mod status;

pub use failed::FailedCall;
pub use keeper::{AdoptError, Change, Glance, RosterError, Sessions, place};
pub use status::{Media, SessionView, reasons};

/// Stored times that are later than now by more: one of the clocks was wrong.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// Makes callback tokens. A fresh one goes out with each sign-in and each heartbeat.
pub trait TokenSource: Send + Sync {
    /// A token for pushes of this agent: at most 50 characters of `[A-Za-z0-9]`.
    fn mint(&self, gateway: &GatewayName, agent_id: &AgentId) -> SecretString;

    /// From now on pushes of this agent with this token of another program are good too, until tokens of ours have
    /// taken its place. A later one of the same agent replaces it.
    fn accept(&self, gateway: &GatewayName, agent_id: &AgentId, token: &SecretString);

    /// As [`TokenSource::accept`], for a token on its way to the gateway: the one before stays good until this one is accepted.
    fn offer(&self, gateway: &GatewayName, agent_id: &AgentId, token: &SecretString) {
        self.accept(gateway, agent_id, token);
    }

    /// The agent has a session since `since`, where that is known: a token of the session is good for as long as the gateway
    /// shows no newer one, however long that is.
    fn session_began(&self, _gateway: &GatewayName, _agent_id: &AgentId, _since: Option<Timestamp>) {}

    /// The agent has none any more: a token of another program, or of a session in the older push mode, is good for the last
    /// pushes, and then ends.
    fn session_ended(&self, _gateway: &GatewayName, _agent_id: &AgentId) {}

    /// Takes all of that back.
    fn revoke(&self, gateway: &GatewayName, agent_id: &AgentId);
}

/// Keeps sessions across restarts. Its files hold secrets and are for the daemon's user alone.
pub trait SessionStore: Send + Sync {
    /// What was saved last, read once at the start of the agent's task.
    fn load(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<Stored>;

    /// Agents whose stored session is kept although they may stand in no roster ([`Stored::may_be_unlisted`]).
    fn unlisted(&self) -> Vec<(GatewayName, AgentId)>;

    /// Whose agents nothing was asked for since the start; what is stored of them is not given out any more.
    fn take_unclaimed(&self) -> Vec<(GatewayName, AgentId)>;

    /// Saves what is to be known at the next start, or with `None` forgets it. May be dropped before it is done when it takes too long; the
    /// outcome is then open, and a later save replaces it.
    fn save<'a>(
        &'a self,
        gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        stored: Option<Stored>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Stores the events of agents that are polled.
pub trait EventStore: Send + Sync {
    /// Stores one answer to a poll, as it came; when this returns it is on disk. The next poll waits for it.
    fn store<'a>(
        &'a self,
        gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        answer: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A session or an event could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be stored: {0}")]
pub struct StoreError(pub String);

/// Takes the events of sessions' lives, which go to the topics like any other event. Must not block.
pub trait Journal: Send + Sync {
    /// Records one event.
    fn record(&self, gateway: &GatewayName, agent_id: &AgentId, event: LifecycleEvent);
}

/// What survives a restart of an agent. Serialising it exposes secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stored {
    /// Its session.
    Session(StoredSession),
    /// A person has signed it out, and until one signs it in again it stays so.
    SignedOut {
        /// Always true.
        signed_out: bool,
    },
    /// Its account was refused, and a further try may lock it.
    Suspended {
        /// Why.
        suspended: String,
        /// When that was, or when a start has last kept to it.
        at: Timestamp,
    },
}

impl Stored {
    pub(crate) const SIGNED_OUT: Stored = Stored::SignedOut { signed_out: true };

    /// The session, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<&StoredSession> {
        match self {
            Stored::Session(session) => Some(session),
            Stored::SignedOut { .. } | Stored::Suspended { .. } => None,
        }
    }

    /// Whether it is a session to be kept although its agent may stand in no roster: another program signed it in, or the agent
    /// was leaving.
    #[must_use]
    pub fn may_be_unlisted(&self) -> bool {
        self.session().is_some_and(|session| session.adopted.is_some() || session.leaving)
    }
}

/// A session as it survives a restart. Serialising it exposes its secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredSession {
    /// GUID and cookies.
    pub ticket: call::Ticket,
    /// When the gateway last heard of the session.
    pub last_success: Timestamp,
    /// That time says nothing: by wall time the gateway had ended the session, and it had not said yet that it has not.
    #[serde(default)]
    pub past: bool,
    /// When it began, where that is known: earlier versions did not say.
    #[serde(default)]
    pub began: Option<Timestamp>,
    /// When its GUID came, where that is known.
    #[serde(default)]
    pub guid_taken: Option<Timestamp>,
    /// Whether the agent is in its skill queues.
    pub skills_set: bool,
    /// Whether calls that set the agent up after its sign-in are still to be made.
    #[serde(default)]
    pub settings_due: bool,
    /// Three letters T or F: voice, text chat, mail.
    #[serde(default)]
    pub media_type: Option<String>,
    /// What is known of the program that signed it in, where that was not us.
    #[serde(default)]
    pub adopted: Option<StoredAdoption>,
    /// The callback token of a session in the older push mode.
    #[serde(default)]
    pub fixed: Option<StoredAdoption>,
    /// How its events come; earlier versions did not say.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// What stands for the address that its sign-in told the gateway to push to, where that was ours and is known.
    #[serde(default)]
    pub callback: Option<u64>,
    /// Whether no push has come yet since its sign-in.
    #[serde(default)]
    pub push_awaited: bool,
    /// Whether the agent was to be signed out, and has not been yet since it is in a call.
    #[serde(default)]
    pub leaving: bool,
    /// Whether a person wants the agent signed out, and it has not been yet since the gateway does not answer, or since it is leaving to
    /// come back.
    #[serde(default)]
    pub wanted_out: bool,
}

impl StoredSession {
    /// How long the gateway has not heard of it; `None` where wall time says what cannot be, or that the gateway has ended it, be it
    /// before an earlier run that could not ask. A clock that was set since, or was wrong then, makes each session look past or to come,
    /// and all of them stand.
    fn silence(&self, now: Timestamp, limit: Duration) -> Option<Duration> {
        let has_been = !self.past && self.last_success <= now.plus(CLOCK_SLACK);
        has_been.then(|| now.since(self.last_success)).filter(|silence| *silence < limit)
    }

    /// How its events come. Where that was not stored it is what else is known of it, or else what the configuration says.
    fn mode(&self, configured: Mode) -> Mode {
        match self {
            StoredSession { mode: Some(mode), .. } => *mode,
            StoredSession { fixed: Some(_), .. } => Mode::LegacyPush,
            // Its token goes with pushes.
            StoredSession { adopted: Some(_), .. } if !configured.is_pushed() => Mode::Push,
            _ => configured,
        }
    }
}

/// The mark of a stored session that another program signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredAdoption {
    /// The callback token that program gave to the gateway.
    #[serde(with = "call::secret")]
    pub token: SecretString,
}

/// One event of a session's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// What happened.
    pub kind: LifecycleKind,
    /// Why or how: a short name from a bounded set, such as `taken_over` or `guid_refused`.
    pub reason: &'static str,
    /// The gateway's last word, where it had a part in it.
    pub retcode: Option<retcode::Retcode>,
    /// When the session began by the gateway's clock, where a sign-in of ours was told.
    pub login_time: Option<Timestamp>,
    /// When.
    pub time: Timestamp,
}

/// The kinds of [`LifecycleEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleKind {
    /// There is a session: signed in, taken over or resumed.
    Started,
    /// The session lives, but something is wrong with it.
    Degraded,
    /// The session was lost and will be signed in again.
    Lost,
    /// The session has ended, and nothing is done until a person asks for it.
    Ended,
}

impl LifecycleKind {
    /// The name on the topics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LifecycleKind::Started => "session.started",
            LifecycleKind::Degraded => "session.degraded",
            LifecycleKind::Lost => "session.lost",
            LifecycleKind::Ended => "session.ended",
        }
    }
}

/// What sessions need of the daemon.
#[derive(Clone)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Deps {
    pub tokens: Arc<dyn TokenSource>,
    pub store: Arc<dyn SessionStore>,
    pub journal: Arc<dyn Journal>,
    pub events: Arc<dyn EventStore>,
    pub metrics: Metrics,
    pub clock: Clock,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deps")
    }
}

/// A certificate that nothing is signed with, for tests that only name one.
#[cfg(test)]
const TEST_CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/testdata/ca.pem");

#[cfg(test)]
mod tests;
