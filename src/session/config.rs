//! Gateways and the roster of agents: the raw model as it stands in the file, and what it becomes once checked.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::Problems;
use crate::event::{AgentId, GatewayName};
use crate::session::retcode::Operation;
use crate::session::roster::{RawRoster, Rosters};
use crate::session::state::SETTINGS;

mod agent;
mod call_through;
mod doubts;
mod raw;
#[cfg(test)]
mod tests;

pub use agent::{AgentDefaults, RawAgent, RawSkills};
pub use call_through::{CallPattern, CallPatternError};
pub use doubts::id_doubts;
pub use raw::RawGateway;

/// The gateway recommends 30 s against its limit of 120 s: three may fail and the agent stays.
pub const HEARTBEAT_INTERVAL_SECS: u64 = 30;
/// `EVENT_PUSH_HANDSHAKE_MAXTIME` and `EVENT_PUSH_FAIL_TOTALTIME` of the gateway, both 120 s by default.
pub const SIGN_OUT_LIMIT_SECS: u64 = 120;
/// `GUIDINTERVAL` of the gateway, 60 s by default. A GUID that is not renewed dies at `GUIDTIMEOUT`, by default twice that.
pub const GUID_INTERVAL_SECS: u64 = 60;
/// We ask for a new GUID at this part of GUIDINTERVAL, 45 s of 60 s: one that is never much older lives for 75 s more
/// when the daemon is killed, so that a minute away and a start fit in.
pub const GUID_RENEWAL_PART: (u32, u32) = (3, 4);
/// As long as a GUID may live: twice the longest interval.
const GUID_TIMEOUT_MOST_SECS: u64 = 7200;
/// The events of a sign-in come within a second, and the gateway repeats a failed push after 10 s: a minute without
/// any is no delay.
pub const PUSH_SILENCE_LIMIT_SECS: u64 = 60;
/// A heartbeat is a lookup for the gateway. A deadline of 8 s leaves eight tries and more within the limit.
pub const CALL_DEADLINE_SECS: u64 = 8;
/// A sign-in goes through telephony and media servers; cutting it short leaves a session nobody knows of.
pub const SIGN_IN_DEADLINE_SECS: u64 = 30;
/// An empty poll is answered after 10 s by default, and after more where switching over takes more, which that time must exceed. What
/// is cut short may be an event, so with 30 s there is room, and time for three more polls within the limit.
pub const POLL_DEADLINE_SECS: u64 = 30;
/// Connections are made in the same data centre; five seconds survive one lost SYN and its repetition.
pub const CONNECT_DEADLINE_SECS: u64 = 5;
/// Fast enough for a thousand agents in 50 s, slow enough not to look like an attack.
pub const SIGN_IN_RATE_PER_SEC: u32 = 20;

/// Passwords are 32 characters at most, but gateways that expect cipher text get a longer one.
const PASSWORD_LENGTH: usize = 256;
/// A file with so many bytes holds something else.
const PASSWORD_FILE_BYTES: usize = 4096;

/// A gateway, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "fields are documented on RawGateway")]
pub struct GatewayConfig {
    pub name: GatewayName,
    pub base_url: Url,
    pub backup_base_urls: Vec<Url>,
    pub ca_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    pub tls_server_name: Option<String>,
    pub verify_server_name: bool,
    /// Our own certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub callback_uri: String,
    pub heartbeat_interval: Duration,
    pub sign_out_limit: Duration,
    pub guid_interval: Duration,
    pub guid_timeout: Duration,
    /// `None` where we are not to ask for new GUIDs.
    pub guid_renewal: Option<Duration>,
    pub push_silence_limit: Duration,
    pub call_deadline: Duration,
    pub sign_in_deadline: Duration,
    pub poll_deadline: Duration,
    pub connect_deadline: Duration,
    pub sign_in_rate_per_sec: u32,
    pub dangerously_trust_all: bool,
    pub sign_out_on_stop: bool,
    pub call_through: Vec<CallPattern>,
    /// For agents that are put while the daemon runs; those of the configuration have taken theirs.
    pub agent_defaults: AgentDefaults,
}

impl GatewayConfig {
    /// The files of certificates, keys and revocations.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let ours = self.client_certificate.iter().flat_map(|(chain, key)| [chain, key]);
        self.ca_file.iter().chain(&self.crl_file).chain(ours)
    }

    /// All base URLs without their last slash, the main one first.
    #[must_use]
    pub fn bases(&self) -> Vec<String> {
        let urls = std::iter::once(&self.base_url).chain(&self.backup_base_urls);
        urls.map(|url| url.as_str().trim_end_matches('/').to_owned()).collect()
    }

    /// An agent with less time left is about to be signed out: half of the limit. Between two heartbeats all may be well down to
    /// what their interval leaves, which can be as little, so it is two thirds of that at most.
    pub(crate) fn near_sign_out(&self) -> Duration {
        let left_by_heartbeats = self.sign_out_limit.saturating_sub(self.heartbeat_interval);
        (self.sign_out_limit / 2).min(left_by_heartbeats * 2 / 3)
    }
}

/// An agent, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are documented on RawAgent")]
pub struct AgentConfig {
    pub gateway: GatewayName,
    pub id: AgentId,
    pub password: PasswordSource,
    pub skills: Skills,
    pub takeover: bool,
    pub mode: Mode,
    pub after_sign_in: AfterSignIn,
    /// Options of the sign-in, passed on as they are.
    pub options: SignInOptions,
}

/// What is set once an agent is signed in and in its skill queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are documented on RawAgent")]
pub struct AfterSignIn {
    pub autoanswer: Option<bool>,
    pub state: Option<AgentState>,
    pub busy_reason: Option<u8>,
}

/// A state that an agent can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// Calls may come.
    Ready,
    /// No calls come.
    Busy,
    /// Wrap-up.
    Work,
}

/// The sign-in options that we pass on without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are documented on RawAgent")]
pub struct SignInOptions {
    pub phone_number: String,
    pub autoanswer: Option<bool>,
    pub autoenteridle: Option<bool>,
    pub releasephone: bool,
    pub agenttype: Option<u8>,
    pub status: Option<u8>,
    pub ip: Option<std::net::Ipv4Addr>,
    pub entry_ip: Option<std::net::IpAddr>,
    pub phonelinkage: Option<bool>,
    pub check_in_webm: Option<bool>,
    pub check_in_mailm: Option<bool>,
    pub vc_phone_number: Option<String>,
    pub listen_status: Option<bool>,
}

/// Where an agent's password comes from.
#[derive(Clone)]
pub enum PasswordSource {
    /// A file, read at each sign-in and not kept, so that a changed password needs no restart.
    File(PathBuf),
    /// A value that was given at the start.
    Fixed(SecretString),
    /// There is none: the agent's session is one that another program signed in.
    None,
}

/// How an agent's events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The gateway pushes them to the callback listener.
    #[default]
    Push,
    /// Older gateways push them one by one to `pushUrl`; the token stands in that address.
    #[serde(rename = "legacy-push")]
    LegacyPush,
    /// We ask for them, one at a time; asking is the heartbeat too.
    Poll,
}

impl Mode {
    /// Whether the gateway brings the events.
    #[must_use]
    pub fn is_pushed(self) -> bool {
        self != Mode::Poll
    }
}

/// Which skill queues an agent enters after sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skills {
    /// All that are configured for the agent.
    All,
    /// These; none when empty.
    Ids(Vec<u64>),
}

/// All gateways and agents, consistent with each other.
#[derive(Debug, Clone, Default)]
pub struct SessionsConfig {
    /// The gateways, each name once.
    pub gateways: Vec<GatewayConfig>,
    /// The agents, each of a gateway that exists, each once; those of rosters too.
    pub agents: Vec<Arc<AgentConfig>>,
    /// Where some of them come from, to be watched.
    pub rosters: Rosters,
}

impl SessionsConfig {
    /// What agents take from their gateway where they leave it out, by gateway.
    #[must_use]
    pub fn agent_defaults(&self) -> HashMap<GatewayName, AgentDefaults> {
        self.gateways.iter().map(|gateway| (gateway.name.clone(), gateway.agent_defaults.clone())).collect()
    }
}

/// As [`validate_all`], without rosters.
pub fn validate(gateways: Vec<RawGateway>, agents: Vec<RawAgent>, problems: &mut Problems) -> SessionsConfig {
    validate_all(gateways, agents, Vec::new(), problems)
}

/// Checks `[[gateways]]`, `[[agents]]` and `[[rosters]]` with the files they name, and notes every mistake. What it
/// returns is complete only when nothing was noted.
pub fn validate_all(
    gateways: Vec<RawGateway>,
    agents: Vec<RawAgent>,
    rosters: Vec<RawRoster>,
    problems: &mut Problems,
) -> SessionsConfig {
    let mut config = SessionsConfig::default();
    // Names that are there but wrong elsewhere must not make their agents look wrong too.
    let known: HashMap<String, AgentDefaults> =
        gateways.iter().map(|gateway| (gateway.name.clone(), gateway.agent_defaults.clone())).collect();
    let (mut names, count) = (HashSet::new(), gateways.len());
    for (index, raw) in gateways.into_iter().enumerate() {
        let key = format!("gateways[{index}]");
        if !names.insert(raw.name.clone()) {
            problems.add(format!("{key}.name"), "two gateways have this name");
        }
        config.gateways.extend(raw.validate(&key, problems));
    }
    let unsure =
        (0..count).any(|n| problems.suspect(&format!("gateways[{n}].name"))) || problems.suspect("gateways");
    let mut ids = HashSet::new();
    for (index, mut raw) in agents.into_iter().enumerate() {
        let key = format!("agents[{index}]");
        match known.get(&raw.gateway) {
            Some(defaults) => raw.complete(defaults),
            None if unsure || raw.gateway.is_empty() => {}
            None => problems.add(format!("{key}.gateway"), "no gateway has this name"),
        }
        let twice = !ids.insert((raw.gateway.clone(), raw.id.clone()));
        if twice && !raw.id.is_empty() && !problems.suspect(&format!("{key}.gateway")) {
            problems.add(format!("{key}.id"), "this agent stands twice in the roster of its gateway");
        }
        if let Some(agent) = raw.validate(&key, problems) {
            let agent = agent.sharing_with(config.agents.last());
            config.agents.push(Arc::new(agent));
        }
    }
    let mut rosters = Rosters::new(rosters, known, &config.agents);
    if !unsure {
        rosters.read_first(problems);
    }
    config.agents.extend(rosters.agents().cloned());
    config.rosters = rosters;
    config
}

impl AgentConfig {
    /// With the gateway's name in common with the agent before, where it is the same: there are many agents.
    #[must_use]
    pub fn sharing_with(mut self, before: Option<&Arc<AgentConfig>>) -> AgentConfig {
        if let Some(before) = before.filter(|before| before.gateway == self.gateway) {
            self.gateway = before.gateway.clone();
        }
        self
    }

    /// An agent of whom we know only that it has a session: another program signed it in, or the agent has left the roster.
    #[must_use]
    pub fn unlisted(gateway: GatewayName, id: AgentId) -> AgentConfig {
        AgentConfig {
            gateway,
            id,
            password: PasswordSource::None,
            skills: Skills::Ids(Vec::new()),
            takeover: false,
            mode: Mode::Push,
            after_sign_in: AfterSignIn::default(),
            options: SignInOptions::default(),
        }
    }

    /// Whether that is not all we know.
    pub(super) fn is_listed(&self) -> bool {
        self.password != PasswordSource::None
    }
}

impl AfterSignIn {
    /// The calls that do it, in their order.
    #[must_use]
    pub fn operations(&self) -> [Option<Operation>; SETTINGS] {
        let state = self.state.map(|state| match state {
            AgentState::Ready => Operation::SayFree,
            AgentState::Busy => Operation::SayBusy,
            AgentState::Work => Operation::Work,
        });
        [self.autoanswer.map(|_flag| Operation::AutoAnswer), state]
    }
}

impl Skills {
    /// The ids as `resetskill` wants them: `1;2;3`.
    #[must_use]
    pub fn joined(&self) -> String {
        match self {
            Skills::All => String::new(),
            Skills::Ids(ids) => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(";"),
        }
    }
}

/// A password that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file cannot be read.
    #[error("cannot read the password: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is a pipe, a device or a folder.
    #[error("cannot read the password: it is not in a regular file")]
    NotAFile,
    /// The file lies on a disk that does not answer.
    #[error("cannot read the password: its disk does not answer")]
    TimedOut,
    /// The file holds nothing, be it because somebody is just writing it.
    #[error("there is no password in the file yet: it is empty")]
    Empty,
    /// Longer than any gateway takes.
    #[error("the password is longer than 256 characters")]
    TooLong,
    /// There is none.
    #[error("no password is configured")]
    None,
}

impl PasswordSource {
    /// The password. Line ends after it are not part of it. Blocks for the time of a small read, or for as long as a disk hangs.
    ///
    /// # Errors
    /// When there is none, or the file cannot be read, is empty or holds more than a password.
    pub fn read(&self) -> Result<SecretString, PasswordError> {
        let secret = match self {
            PasswordSource::None => return Err(PasswordError::None),
            PasswordSource::Fixed(secret) => secret.clone(),
            PasswordSource::File(path) => {
                let text = read_small(path)?;
                let password = text.expose_secret().trim_end_matches(['\r', '\n']);
                // An account without a password has its empty one in a variable or in the call that puts the agent.
                if password.is_empty() {
                    return Err(PasswordError::Empty);
                }
                SecretString::from(password)
            }
        };
        if secret.expose_secret().len() > PASSWORD_LENGTH { Err(PasswordError::TooLong) } else { Ok(secret) }
    }
}

/// The text of a regular file that holds no more than a password does.
fn read_small(path: &Path) -> Result<SecretString, PasswordError> {
    // Opening a pipe would else wait for somebody who writes to it.
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(no_wait).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(PasswordError::NotAFile);
    }
    let mut text = String::with_capacity(PASSWORD_FILE_BYTES);
    let read = file.take(PASSWORD_FILE_BYTES as u64).read_to_string(&mut text);
    let text = SecretString::from(text);
    if read? == PASSWORD_FILE_BYTES { Err(PasswordError::TooLong) } else { Ok(text) }
}

impl PartialEq for PasswordSource {
    fn eq(&self, other: &PasswordSource) -> bool {
        match (self, other) {
            (PasswordSource::File(one), PasswordSource::File(other)) => one == other,
            (PasswordSource::Fixed(one), PasswordSource::Fixed(other)) => {
                one.expose_secret() == other.expose_secret()
            }
            (PasswordSource::None, PasswordSource::None) => true,
            _ => false,
        }
    }
}

impl Eq for PasswordSource {}

impl fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordSource::File(path) => write!(f, "File({})", path.display()),
            PasswordSource::Fixed(_) => f.write_str("Fixed([redacted])"),
            PasswordSource::None => f.write_str("None"),
        }
    }
}
