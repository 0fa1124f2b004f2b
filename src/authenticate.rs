//! Who sent this push, and may they: callback tokens, minted for the gateway and checked before a body is read.
//!
//! A token is at most 50 characters of `[A-Za-z0-9]`, the most and the only ones the gateway is sure to take
//! (CEC API Reference 1202-1204; which characters it calls special is not said):
//!
//! ```text
//! K TTTTTTT AAAAAAAAAA SSSSSSSSSSSSSSSSSSSSSS
//! | |       |          22: MAC, base 62: HMAC-SHA-256 over all the rest and the gateway's name, cut to 128 bits
//! | |       1-10: agent id
//! | 7: seconds since the Unix epoch, base 36, at the begin of a period (a minute by default)
//! 1: key, so that two secrets can be valid while one is replaced
//! ```
//!
//! Any instance that holds the secret can check a token without asking anybody. What is kept per agent is only when
//! newer tokens were first seen and since when it has its session: that the gateway uses a refreshed token is inferred,
//! not documented, so a token stays good until a newer one of its agent **has arrived on a push**, and for an overlap after
//! that. Beyond its greatest age it is good only where it is of the agent's session and no newer one was seen: a gateway that
//! goes on with the sign-in's token must not lose every agent once a day by a rule of ours.
//!
//! A token from the future is one that was minted while our clock, or that of another instance, was ahead: nobody else has the
//! secret. It is good while its agent has a session, since a clock that is put right must sign nobody out. Which tokens are newer
//! it does not tell, so it supersedes none.
//!
//! The secrets can be replaced while pushes come ([`Authenticator::replace`]): a secret that is taken away is still good for
//! checking for one overlap, so that no push of a token that the gateway has already is refused.
//!
//! Besides there are **fixed tokens**: those which other programs gave to the gateway for sessions that we adopted. They
//! may be shared by many agents, so the body has to say whose push it is, and its agent must be one of the token's.
//! A fixed token counts as minted at the adoption: once newer tokens of ours were seen it ends like any other. It has no greatest
//! age, but ends one overlap after its session, which leaves time for the last pushes and what the gateway repeats of them.
//!
//! What was seen, and when a session was adopted, is in memory alone: after a restart what was superseded is good again until a
//! newer token comes, and a fixed token counts as minted then.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

use crate::calm::Calm;
use crate::clock::{Clock, Timestamp};
use crate::event::{AgentId, GatewayName};

mod digits;
mod fixed;
mod key;
mod parts;
mod seen;

use digits::time_digits;
pub use fixed::FixedToken;
use fixed::{Fixed, FixedTokens, only};
pub(crate) use key::read_keys;
pub use key::{SHORTEST_SECRET, SecretFileError, SecretTooShort, TokenKey};
use parts::Parts;
use seen::Seen;

/// The longest token the gateway takes (CEC API Reference 1202, 1203).
pub const LONGEST_TOKEN: usize = 50;
/// How far the gateway's token may be ahead of our clock: instances that share a secret may differ by this.
const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// Locks over which agents are spread; pushes of different agents rarely meet on one.
const SHARDS: usize = 64;

/// How long tokens live.
#[derive(Debug, Clone, Copy)]
pub struct TokenRules {
    /// How long one token is handed out before the next: the gateway recommends a minute (CEC API Reference 1204).
    pub period: Duration,
    /// How long a token is still good after a newer one of its agent was seen on a push.
    pub overlap: Duration,
    /// How long a token is good at all, but for one of the agent's session while no newer one was seen.
    pub max_age: Duration,
}

/// Why a token is refused. Where its MAC is right the agent is known all the same: a refused push counts against it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not of the shape above.
    #[error("token is malformed")]
    Malformed,
    /// Made with another secret, for another gateway, or changed on the way.
    #[error("token was not made here")]
    Forged,
    /// Older than the greatest age, or of a session that has ended: whose, where that is one agent's.
    #[error("token has expired")]
    Expired(Option<AgentId>),
    /// Newer ones have been in use for longer than the overlap.
    #[error("token has been superseded")]
    Superseded(AgentId),
    /// Minted in the future, for an agent without a session.
    #[error("token is from the future")]
    FromFuture(AgentId),
}

impl TokenFault {
    /// The label of `ccrelay_push_failures_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            TokenFault::Malformed => "token_malformed",
            TokenFault::Forged => "token_forged",
            TokenFault::Expired(_) => "token_expired",
            TokenFault::Superseded(_) => "token_superseded",
            TokenFault::FromFuture(_) => "token_from_future",
        }
    }

    /// Whose token it is beyond doubt, although it is not good.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            TokenFault::Malformed | TokenFault::Forged => None,
            TokenFault::Expired(agent) => agent.as_ref(),
            TokenFault::Superseded(agent) | TokenFault::FromFuture(agent) => Some(agent),
        }
    }
}

/// Whose a token is that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// This agent's.
    Agent(AgentId),
    /// That of the agents that were adopted with it.
    Fixed(FixedToken),
}

/// The secrets in force.
struct Keys {
    /// The first one mints; all check.
    good: Vec<TokenKey>,
    /// Those taken away, each with the end of its overlap.
    leaving: Vec<(TokenKey, Timestamp)>,
}

/// Mints and checks callback tokens.
pub struct Authenticator {
    keys: ArcSwap<Keys>,
    rules: TokenRules,
    clock: Clock,
    /// Keeps what is said of gateways that use old tokens calm.
    calm: Calm,
    /// Per agent: which tokens were seen on pushes, and when first.
    seen: Vec<Mutex<HashMap<(GatewayName, AgentId), Seen>>>,
    fixed: RwLock<FixedTokens>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// An authenticator that mints with `current` and also accepts tokens of `previous`.
    #[must_use]
    pub fn new(
        current: TokenKey,
        previous: Option<TokenKey>,
        rules: TokenRules,
        clock: Clock,
    ) -> Authenticator {
        let good = std::iter::once(current).chain(previous).collect();
        let keys = ArcSwap::from_pointee(Keys { good, leaving: Vec::new() });
        let seen = (0..SHARDS).map(|_| Mutex::default()).collect();
        Authenticator { keys, rules, clock, calm: Calm::default(), seen, fixed: RwLock::default() }
    }

    /// The agent has a session since then, or since it is not known when: tokens of it are good for as long as it lasts and
    /// the gateway shows no newer one.
    pub fn session_began(&self, gateway: &GatewayName, agent: &AgentId, since: Option<Timestamp>) {
        // Its first token bears the begin of a period, and may have been minted by an instance whose clock is behind. Where the
        // time is not known, nothing older than the greatest age can have been in use.
        let slack = self.rules.period + CLOCK_SKEW;
        let now = self.clock.now();
        let since = since.map_or_else(|| now.minus(self.rules.max_age), |at| at.minus(slack));
        let mut seen = self.shard(agent).lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry((gateway.clone(), agent.clone())).or_default();
        seen.session_since = Some(since);
        // What was superseded stays so. But a later token than the session's own first one cannot supersede that.
        seen.forget_after(now);
    }

    /// The agent's session has ended: its tokens end with their greatest age, and fixed ones, which have none, with the overlap.
    pub fn session_ended(&self, gateway: &GatewayName, agent: &AgentId) {
        let key = (gateway.clone(), agent.clone());
        let until = self.clock.now().plus(self.rules.overlap);
        self.fixed.write().unwrap_or_else(PoisonError::into_inner).end(&key, until);
        let mut seen = self.shard(agent).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.get_mut(&key) {
            seen.session_since = None;
        }
    }

    /// From now on mints with `current` and also accepts tokens of `previous`; secrets that are neither stay good for
    /// checking for one overlap. Says whether anything has changed.
    pub fn replace(&self, current: TokenKey, previous: Option<TokenKey>) -> bool {
        let now = self.clock.now();
        let good: Vec<TokenKey> = std::iter::once(current).chain(previous).collect();
        let old = self.keys.load();
        if good.iter().map(|key| key.print).eq(old.good.iter().map(|key| key.print)) {
            return false;
        }
        let leaves = |key: &TokenKey| good.iter().all(|stays| stays.print != key.print);
        let until = now.plus(self.rules.overlap);
        let gone = old.good.iter().filter(|key| leaves(key)).map(|key| (key.clone(), until));
        let still = old.leaving.iter().filter(|(key, until)| *until > now && leaves(key)).cloned();
        let leaving = still.chain(gone).collect();
        self.keys.store(Arc::new(Keys { good, leaving }));
        true
    }

    /// The token of this agent of this gateway for the current period.
    #[must_use]
    pub fn mint(&self, gateway: &GatewayName, agent: &AgentId) -> SecretString {
        let keys = self.keys.load();
        let key = &keys.good[0];
        let period = self.rules.period.as_secs().max(1);
        let time = time_digits(self.clock.now().millis() / 1000 / period * period);
        let mac = key.sign(gateway, &time, agent.as_str());
        let mut token = String::with_capacity(LONGEST_TOKEN);
        token.push(char::from(key.id));
        token.extend(time.iter().map(|b| char::from(*b)));
        token.push_str(agent.as_str());
        token.extend(mac.iter().map(|b| char::from(*b)));
        SecretString::from(token)
    }

    /// Whose token this is, if it is good for a push of this gateway now.
    ///
    /// # Errors
    /// When it is not; the fault says why.
    pub fn check(&self, gateway: &GatewayName, token: &str) -> Result<AgentId, TokenFault> {
        let parts = Parts::split(token)?;
        let now = self.clock.now();
        let keys = self.keys.load();
        let leaving = keys.leaving.iter().filter(|(_, until)| *until > now).map(|(key, _)| key);
        if !keys.good.iter().chain(leaving).any(|key| key.id == parts.key && key.matches(gateway, &parts)) {
            return Err(TokenFault::Forged);
        }
        self.note(gateway, &parts, now)?;
        Ok(parts.agent)
    }

    /// Whose this token is, be it one of ours or a fixed one.
    ///
    /// # Errors
    /// When it is nobody's; the fault says why.
    pub fn bearer(&self, gateway: &GatewayName, token: &str) -> Result<Bearer, TokenFault> {
        match self.check(gateway, token) {
            Ok(agent) => Ok(Bearer::Agent(agent)),
            Err(fault @ (TokenFault::Malformed | TokenFault::Forged)) => {
                let token = FixedToken::of(gateway, token);
                let fixed = self.fixed.read().unwrap_or_else(PoisonError::into_inner);
                if fixed.is_held(&token, self.clock.now())? { Ok(Bearer::Fixed(token)) } else { Err(fault) }
            }
            Err(fault) => Err(fault),
        }
    }

    /// The agent whose pushes this token is good for, where it is no other's as well.
    #[must_use]
    pub fn sole_holder(&self, bearer: &Bearer) -> Option<AgentId> {
        let token = match bearer {
            Bearer::Agent(agent) => return Some(agent.clone()),
            Bearer::Fixed(token) => token,
        };
        let fixed = self.fixed.read().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let holders = fixed.holders.get(token)?.iter().filter(|(_, held)| !held.is_over(now));
        only(holders).map(|(agent, _)| agent.clone())
    }

    /// The agent of that name, if the push may be its; `None` when it may not.
    ///
    /// # Errors
    /// When the token has been superseded for this agent, or its session has ended.
    pub fn admit(
        &self,
        gateway: &GatewayName,
        bearer: &Bearer,
        work_no: &str,
    ) -> Result<Option<AgentId>, TokenFault> {
        let token = match bearer {
            Bearer::Agent(agent) => return Ok((agent.as_str() == work_no).then(|| agent.clone())),
            Bearer::Fixed(token) => token,
        };
        let Ok(agent) = AgentId::parse(work_no) else { return Ok(None) };
        let held = {
            let fixed = self.fixed.read().unwrap_or_else(PoisonError::into_inner);
            fixed.holders.get(token).and_then(|holders| holders.get(&agent)).copied()
        };
        let Some(held) = held else { return Ok(None) };
        let now = self.clock.now();
        if held.is_over(now) {
            return Err(TokenFault::Expired(Some(agent)));
        }
        let seen = self.shard(&agent).lock().unwrap_or_else(PoisonError::into_inner);
        let newer =
            seen.get(&(gateway.clone(), agent.clone())).and_then(|seen| seen.superseded_at(held.since));
        if newer.is_some_and(|at| now.since(at) > self.rules.overlap) {
            return Err(TokenFault::Superseded(agent));
        }
        Ok(Some(agent))
    }

    /// From now on `token` is good for pushes of this agent too, instead of the fixed one it had before.
    pub fn accept_fixed(&self, gateway: &GatewayName, agent: &AgentId, token: &SecretString) {
        let key = (gateway.clone(), agent.clone());
        let token = FixedToken::of(gateway, token.expose_secret());
        let mut fixed = self.fixed.write().unwrap_or_else(PoisonError::into_inner);
        fixed.remove(&key);
        fixed.insert(key, Fixed { newest: token, before: None }, self.clock.now());
    }

    /// As [`Authenticator::accept_fixed`], but the token that was accepted before stays good until that says of this one that it is
    /// the agent's.
    pub fn offer_fixed(&self, gateway: &GatewayName, agent: &AgentId, token: &SecretString) {
        let key = (gateway.clone(), agent.clone());
        let token = FixedToken::of(gateway, token.expose_secret());
        let mut fixed = self.fixed.write().unwrap_or_else(PoisonError::into_inner);
        let before = match fixed.by_agent.remove(&key) {
            Some(Fixed { newest, before }) if newest == token => before,
            // Of those that were only offered the last one counts.
            Some(Fixed { newest, before: Some(before) }) => {
                fixed.forget(newest, agent);
                Some(before)
            }
            Some(Fixed { newest, before: None }) => Some(newest),
            None => None,
        };
        fixed.insert(key, Fixed { newest: token, before }, self.clock.now());
    }

    /// Takes [`Authenticator::accept_fixed`] and [`Authenticator::offer_fixed`] back.
    pub fn revoke_fixed(&self, gateway: &GatewayName, agent: &AgentId) {
        let mut fixed = self.fixed.write().unwrap_or_else(PoisonError::into_inner);
        fixed.remove(&(gateway.clone(), agent.clone()));
    }

    fn shard(&self, agent: &AgentId) -> &Mutex<HashMap<(GatewayName, AgentId), Seen>> {
        let hash =
            agent.as_str().bytes().fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
        &self.seen[hash % SHARDS]
    }

    fn note(&self, gateway: &GatewayName, parts: &Parts<'_>, now: Timestamp) -> Result<(), TokenFault> {
        let mut seen = self.shard(&parts.agent).lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry((gateway.clone(), parts.agent.clone())).or_default();
        let latest = now.plus(CLOCK_SKEW);
        if parts.minted > latest {
            if seen.session_since.is_none() {
                return Err(TokenFault::FromFuture(parts.agent.clone()));
            }
            self.tell_from_future(gateway);
            return Ok(());
        }
        seen.forget_after(latest);
        if now.since(parts.minted) > self.rules.max_age {
            if !seen.may_be_the_newest(parts.minted) {
                return Err(TokenFault::Expired(Some(parts.agent.clone())));
            }
            self.tell_not_refreshed(gateway);
        }
        if seen.superseded_at(parts.minted).is_some_and(|at| now.since(at) > self.rules.overlap) {
            return Err(TokenFault::Superseded(parts.agent.clone()));
        }
        seen.note(parts.minted, now, self.rules.overlap);
        Ok(())
    }

    fn tell_from_future(&self, gateway: &GatewayName) {
        if let Some(left_out) = self.calm.due("token_from_future") {
            tracing::warn!(%gateway, left_out, "a push has a token of a later time than it is: the clock of this machine was put \
                back, or that of another instance is ahead; pushes are taken all the same, for as long as their sessions last");
        }
    }

    fn tell_not_refreshed(&self, gateway: &GatewayName) {
        if let Some(left_out) = self.calm.due("token_not_refreshed") {
            tracing::warn!(%gateway, left_out, "a push has a token beyond token.max_age_secs: the gateway does not use the \
                tokens that heartbeats hand it; pushes are taken all the same, for as long as their sessions last");
        }
    }
}

#[cfg(test)]
mod tests;
