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
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::calm::Calm;
use crate::clock::{Clock, Timestamp};
use crate::event::{AgentId, GatewayName};

/// The longest token the gateway takes (CEC API Reference 1202, 1203).
pub const LONGEST_TOKEN: usize = 50;
/// The least bytes of a secret: as many as the MAC's hash gives.
pub const SHORTEST_SECRET: usize = 32;
/// How far the gateway's token may be ahead of our clock: instances that share a secret may differ by this.
const CLOCK_SKEW: Duration = Duration::from_secs(120);
const TIME_DIGITS: usize = 7;
const MAC_DIGITS: usize = 22;
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

/// A secret with the HMAC state made from it.
#[derive(Clone)]
pub struct TokenKey {
    id: u8,
    /// A hash that tells secrets apart; never shown.
    print: [u8; 32],
    mac: Hmac<Sha256>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// A secret that is too short.
#[derive(Debug, thiserror::Error)]
#[error("a token secret has at least {SHORTEST_SECRET} bytes, this one has {0}")]
pub struct SecretTooShort(usize);

/// A secret's file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the token secret {path}: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// It holds too little.
    #[error("{path}: {fault}")]
    TooShort {
        /// Which file.
        path: PathBuf,
        /// How long it is and should be.
        fault: SecretTooShort,
    },
}

impl TokenKey {
    /// Reads a secret from a file; white space around it is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or holds less than [`SHORTEST_SECRET`] bytes.
    pub fn read(path: &Path) -> Result<TokenKey, SecretFileError> {
        let unreadable = |reason| SecretFileError::Unreadable { path: path.into(), reason };
        let text = SecretString::from(std::fs::read_to_string(path).map_err(unreadable)?);
        let bytes = SecretSlice::from(text.expose_secret().trim().as_bytes().to_vec());
        TokenKey::new(&bytes).map_err(|fault| SecretFileError::TooShort { path: path.into(), fault })
    }

    /// Makes a key of a secret.
    ///
    /// # Errors
    /// When the secret has less than [`SHORTEST_SECRET`] bytes.
    pub fn new(secret: &SecretSlice<u8>) -> Result<TokenKey, SecretTooShort> {
        let bytes = secret.expose_secret();
        if bytes.len() < SHORTEST_SECRET {
            return Err(SecretTooShort(bytes.len()));
        }
        let mac = Hmac::<Sha256>::new_from_slice(bytes).map_err(|_| SecretTooShort(bytes.len()))?;
        // The key's name is one character of a hash: it tells two secrets apart and nothing about either.
        let name = Sha256::new().chain_update(b"ccrelay token key name").chain_update(bytes).finalize();
        Ok(TokenKey { id: BASE62[usize::from(name[0]) % 62], print: name.into(), mac })
    }

    fn sign(&self, gateway: &GatewayName, time: &[u8], agent: &str) -> [u8; MAC_DIGITS] {
        let mut mac = self.mac.clone();
        mac.update(b"ccrelay-token-1\0");
        mac.update(&[self.id]);
        mac.update(time);
        mac.update(agent.as_bytes());
        mac.update(b"\0");
        mac.update(gateway.as_str().as_bytes());
        let whole = mac.finalize().into_bytes();
        let mut half = [0u8; 16];
        half.copy_from_slice(&whole[..16]);
        base62(u128::from_be_bytes(half))
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

/// A fixed token, as a hash: what is looked up tells nothing of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedToken([u8; 32]);

/// Fixed tokens: whose they are and how long, and which one an agent has.
#[derive(Default)]
struct FixedTokens {
    holders: HashMap<FixedToken, HashMap<AgentId, Held>>,
    by_agent: HashMap<(GatewayName, AgentId), Fixed>,
}

/// The one that there is, where there is no other.
fn only<T>(mut them: impl Iterator<Item = T>) -> Option<T> {
    them.next().filter(|_| them.next().is_none())
}

/// How long a fixed token is one agent's.
#[derive(Clone, Copy)]
struct Held {
    since: Timestamp,
    /// There once its session has ended.
    until: Option<Timestamp>,
}

impl Held {
    fn is_over(self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now > until)
    }
}

/// The fixed tokens of one agent.
struct Fixed {
    newest: FixedToken,
    /// Good as well, for as long as it is not sure that the gateway has the newest.
    before: Option<FixedToken>,
}

impl FixedTokens {
    fn insert(&mut self, agent: (GatewayName, AgentId), fixed: Fixed, now: Timestamp) {
        let held = Held { since: now, until: None };
        self.holders.entry(fixed.newest).or_default().insert(agent.1.clone(), held);
        self.by_agent.insert(agent, fixed);
    }

    /// Whether it is anybody's. Fails where it was: whoever still has it does not guess.
    fn is_held(&self, token: &FixedToken, now: Timestamp) -> Result<bool, TokenFault> {
        let Some(holders) = self.holders.get(token) else { return Ok(false) };
        if holders.values().any(|held| !held.is_over(now)) {
            return Ok(true);
        }
        Err(TokenFault::Expired(only(holders.keys()).cloned()))
    }

    /// From `until` on the agent has none of those that it has now.
    fn end(&mut self, agent: &(GatewayName, AgentId), until: Timestamp) {
        let Some(Fixed { newest, before }) = self.by_agent.get(agent) else { return };
        for token in std::iter::once(newest).chain(before) {
            if let Some(held) = self.holders.get_mut(token).and_then(|holders| holders.get_mut(&agent.1)) {
                held.until.get_or_insert(until);
            }
        }
    }

    fn remove(&mut self, agent: &(GatewayName, AgentId)) {
        let Some(Fixed { newest, before }) = self.by_agent.remove(agent) else { return };
        self.forget(newest, &agent.1);
        if let Some(before) = before {
            self.forget(before, &agent.1);
        }
    }

    fn forget(&mut self, token: FixedToken, agent: &AgentId) {
        if let Some(holders) = self.holders.get_mut(&token) {
            holders.remove(agent);
            if holders.is_empty() {
                self.holders.remove(&token);
            }
        }
    }
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

/// Times of tokens seen on pushes, oldest first, each with its first sight. Holds what the overlap still needs.
#[derive(Debug, Default)]
struct Seen {
    /// What was minted before belongs to no session that there is; none where there is no session that we keep.
    session_since: Option<Timestamp>,
    /// Few, and of most agents one: no more room is taken than that.
    tokens: Vec<(Timestamp, Timestamp)>,
}

impl Seen {
    /// When a token newer than the one of `minted` was first seen.
    fn superseded_at(&self, minted: Timestamp) -> Option<Timestamp> {
        self.tokens.iter().find(|(newer, _)| *newer > minted).map(|(_, at)| *at)
    }

    /// Whether a token of this time may be the one that the gateway was given last, as far as it has shown.
    fn may_be_the_newest(&self, minted: Timestamp) -> bool {
        self.session_since.is_some_and(|since| minted >= since) && self.superseded_at(minted).is_none()
    }

    /// Forgets tokens that are later than this moment, which is now or a little later: they were seen while the clock was ahead,
    /// and would pass for newer than all that are minted until it comes there again.
    fn forget_after(&mut self, moment: Timestamp) {
        self.tokens.retain(|(minted, _)| *minted <= moment);
    }

    fn note(&mut self, minted: Timestamp, now: Timestamp, overlap: Duration) {
        if self.tokens.last().is_none_or(|(newest, _)| minted > *newest) {
            self.tokens.reserve_exact(1);
            self.tokens.push((minted, now));
        }
        // The last one whose overlap is over stays: it stands for all that are older.
        while self.tokens.len() > 1 && self.tokens.get(1).is_some_and(|(_, at)| now.since(*at) > overlap) {
            self.tokens.remove(0);
        }
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

impl TokenKey {
    /// Compares in constant time.
    fn matches(&self, gateway: &GatewayName, parts: &Parts<'_>) -> bool {
        self.sign(gateway, parts.time_digits, parts.agent.as_str()).ct_eq(parts.mac).into()
    }
}

impl FixedToken {
    fn of(gateway: &GatewayName, token: &str) -> FixedToken {
        let hash = Sha256::new()
            .chain_update(b"ccrelay fixed token\0")
            .chain_update(gateway.as_str())
            .chain_update(b"\0")
            .chain_update(token)
            .finalize();
        FixedToken(hash.into())
    }
}

/// A token taken apart; nothing of it is believed yet.
struct Parts<'a> {
    key: u8,
    minted: Timestamp,
    time_digits: &'a [u8],
    agent: AgentId,
    mac: &'a [u8],
}

impl Parts<'_> {
    fn split(token: &str) -> Result<Parts<'_>, TokenFault> {
        let bytes = token.as_bytes();
        let fixed = 1 + TIME_DIGITS + MAC_DIGITS;
        if bytes.len() <= fixed || bytes.len() > LONGEST_TOKEN || !bytes.iter().all(u8::is_ascii_alphanumeric)
        {
            return Err(TokenFault::Malformed);
        }
        let (head, mac) = bytes.split_at(bytes.len() - MAC_DIGITS);
        let time_digits = &head[1..=TIME_DIGITS];
        let seconds = std::str::from_utf8(time_digits).ok().and_then(|d| u64::from_str_radix(d, 36).ok());
        let agent = std::str::from_utf8(&head[1 + TIME_DIGITS..]).ok().and_then(|a| AgentId::parse(a).ok());
        match (seconds, agent) {
            (Some(seconds), Some(agent)) => {
                Ok(Parts { key: head[0], minted: Timestamp(seconds * 1000), time_digits, agent, mac })
            }
            _ => Err(TokenFault::Malformed),
        }
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^22 is more than 2^128, so 22 digits always suffice. They are taken ten at a time from what fits into 64 bits, since a
/// division of 128 bits costs as much as many of those.
fn base62(mut number: u128) -> [u8; MAC_DIGITS] {
    const CHUNK: usize = 10;
    const CHUNK_VALUES: u128 = 62_u128.pow(CHUNK as u32);
    let mut digits = [b'0'; MAC_DIGITS];
    for chunk in digits.rchunks_mut(CHUNK) {
        write_digits(chunk, u64::try_from(number % CHUNK_VALUES).unwrap_or(0), BASE62);
        number /= CHUNK_VALUES;
    }
    digits
}

/// 36^7 seconds end in the year 4453.
fn time_digits(seconds: u64) -> [u8; TIME_DIGITS] {
    let mut digits = [b'0'; TIME_DIGITS];
    write_digits(&mut digits, seconds, b"0123456789abcdefghijklmnopqrstuvwxyz");
    digits
}

/// Writes the last digits of a number, with leading zeros.
fn write_digits<const BASE: usize>(digits: &mut [u8], mut number: u64, alphabet: &[u8; BASE]) {
    for digit in digits.iter_mut().rev() {
        *digit = alphabet[usize::try_from(number % BASE as u64).unwrap_or(0)];
        number /= BASE as u64;
    }
}

#[cfg(test)]
mod tests;
