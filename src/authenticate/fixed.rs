//! Fixed tokens: those which other programs gave to the gateway for sessions that we adopted.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::TokenFault;
use crate::clock::Timestamp;
use crate::event::{AgentId, GatewayName};

/// A fixed token, as a hash: what is looked up tells nothing of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedToken([u8; 32]);

/// Fixed tokens: whose they are and how long, and which one an agent has.
#[derive(Default)]
pub(super) struct FixedTokens {
    pub(super) holders: HashMap<FixedToken, HashMap<AgentId, Held>>,
    pub(super) by_agent: HashMap<(GatewayName, AgentId), Fixed>,
}

/// The one that there is, where there is no other.
pub(super) fn only<T>(mut them: impl Iterator<Item = T>) -> Option<T> {
    them.next().filter(|_| them.next().is_none())
}

/// How long a fixed token is one agent's.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) since: Timestamp,
    /// There once its session has ended.
    until: Option<Timestamp>,
}

impl Held {
    pub(super) fn is_over(self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now > until)
    }
}

/// The fixed tokens of one agent.
pub(super) struct Fixed {
    pub(super) newest: FixedToken,
    /// Good as well, for as long as it is not sure that the gateway has the newest.
    pub(super) before: Option<FixedToken>,
}

impl FixedTokens {
    pub(super) fn insert(&mut self, agent: (GatewayName, AgentId), fixed: Fixed, now: Timestamp) {
        let held = Held { since: now, until: None };
        self.holders.entry(fixed.newest).or_default().insert(agent.1.clone(), held);
        self.by_agent.insert(agent, fixed);
    }

    /// Whether it is anybody's. Fails where it was: whoever still has it does not guess.
    pub(super) fn is_held(&self, token: &FixedToken, now: Timestamp) -> Result<bool, TokenFault> {
        let Some(holders) = self.holders.get(token) else { return Ok(false) };
        if holders.values().any(|held| !held.is_over(now)) {
            return Ok(true);
        }
        Err(TokenFault::Expired(only(holders.keys()).cloned()))
    }

    /// From `until` on the agent has none of those that it has now.
    pub(super) fn end(&mut self, agent: &(GatewayName, AgentId), until: Timestamp) {
        let Some(Fixed { newest, before }) = self.by_agent.get(agent) else { return };
        for token in std::iter::once(newest).chain(before) {
            if let Some(held) = self.holders.get_mut(token).and_then(|holders| holders.get_mut(&agent.1)) {
                held.until.get_or_insert(until);
            }
        }
    }

    pub(super) fn remove(&mut self, agent: &(GatewayName, AgentId)) {
        let Some(Fixed { newest, before }) = self.by_agent.remove(agent) else { return };
        self.forget(newest, &agent.1);
        if let Some(before) = before {
            self.forget(before, &agent.1);
        }
    }

    pub(super) fn forget(&mut self, token: FixedToken, agent: &AgentId) {
        if let Some(holders) = self.holders.get_mut(&token) {
            holders.remove(agent);
            if holders.is_empty() {
                self.holders.remove(&token);
            }
        }
    }
}

impl FixedToken {
    pub(super) fn of(gateway: &GatewayName, token: &str) -> FixedToken {
        let hash = Sha256::new()
            .chain_update(b"ccrelay fixed token\0")
            .chain_update(gateway.as_str())
            .chain_update(b"\0")
            .chain_update(token)
            .finalize();
        FixedToken(hash.into())
    }
}
