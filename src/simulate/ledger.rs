//! The books: every event that was made and what became of it, and what was counted. For whoever judges a
//! receiver from both ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::event::ids::AgentId;

/// One event that was made for an agent.
#[derive(Debug, Clone)]
pub struct LedgerEntry {
    /// For whom.
    pub agent: AgentId,
    /// Its number among this agent's events, from 1, in the order made.
    pub serial: u64,
    /// The event exactly as pushed: `{"eventType":..,"workNo":..,"content":..}`.
    pub json: Arc<str>,
    /// When it was made.
    pub made: Timestamp,
    /// How often it was part of a push.
    pub attempts: u32,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Still to be delivered.
    Waiting,
    /// A push with it was answered with success.
    Acknowledged,
    /// It was put into the answer of a poll.
    Polled,
    /// The session ended first. With `attempts` above 0 the receiver may have it all the same.
    Discarded,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignOut {
    /// By logout, forcelogout or forcelogoutwithreason.
    Asked,
    /// A forcelogin took the agent over.
    TakenOver,
    /// No poll within MAXTIME.
    PollSilence,
    /// No heartbeat within EVENT_PUSH_HANDSHAKE_MAXTIME.
    HeartbeatSilence,
    /// Pushes failed for EVENT_PUSH_FAIL_TOTALTIME.
    PushFailure,
    /// An inspector forced the agent out.
    Inspector,
    /// The gateway started again and knew nobody.
    Restart,
}

/// Counts of one agent, or their sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Logins and forcelogins that succeeded.
    pub sign_ins: u64,
    /// Heartbeats answered with success.
    pub heartbeats: u64,
    /// Events made.
    pub events: u64,
    /// Events acknowledged or polled.
    pub delivered: u64,
    /// Events discarded.
    pub discarded: u64,
    /// Pushes sent, repeats included.
    pub pushes_attempted: u64,
    /// Pushes answered with success.
    pub pushes_acknowledged: u64,
    /// Pushes that failed in any way.
    pub pushes_failed: u64,
    /// Pushes whose first event had been pushed before.
    pub pushes_repeated: u64,
    /// Sessions ended, by reason.
    pub sign_outs: BTreeMap<SignOut, u64>,
}

/// Counts of all agents that did anything.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// The sum.
    pub total: Counts,
    /// Agents signed in now.
    pub signed_in: usize,
    /// Events waiting now.
    pub waiting: usize,
    /// By agent.
    pub agents: BTreeMap<AgentId, Counts>,
}

impl Counts {
    /// How many sessions ended for `reason`.
    #[must_use]
    pub fn signed_out(&self, reason: SignOut) -> u64 {
        self.sign_outs.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Counts) {
        self.sign_ins += other.sign_ins;
        self.heartbeats += other.heartbeats;
        self.events += other.events;
        self.delivered += other.delivered;
        self.discarded += other.discarded;
        self.pushes_attempted += other.pushes_attempted;
        self.pushes_acknowledged += other.pushes_acknowledged;
        self.pushes_failed += other.pushes_failed;
        self.pushes_repeated += other.pushes_repeated;
        for (reason, count) in &other.sign_outs {
            *self.sign_outs.entry(*reason).or_default() += count;
        }
    }
}
