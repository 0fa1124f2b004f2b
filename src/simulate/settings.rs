//! What an operator of the simulator may set. Keys in capitals, and `eventpush.ssl.*`, are the gateway's own
//! property names (times in milliseconds, as there); keys in small letters are the simulator's.
//!
//! Where the gateway's manuals are silent or contradict each other, there is a key here, and its doc says so.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use thiserror::Error;

use super::catalogue::Catalogue;
use super::faults::Fault;

/// The highest agent id of a gateway of 2023 to 03/2025; one of 11/2025 allows 999999.
const AGENT_ID_LIMIT: u32 = 59_999;
/// The port of a single node's HTTPS.
const PORT: u16 = 8043;

/// Everything about one simulated gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// HTTPS, or plain HTTP as on the gateway's port 8000.
    pub https: bool,
    /// PEM certificate chain; without it one is generated, with a CA of its own.
    pub tls_cert: Option<PathBuf>,
    /// PEM key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// Host names and addresses of a generated certificate, beside those of this host's loopback.
    pub tls_names: Vec<String>,
    /// Where to write the CA of a generated certificate.
    pub tls_ca_out: Option<PathBuf>,

    /// 1 static GUID, 2 dynamic.
    #[serde(rename = "AUTHMODE", alias = "authmode")]
    pub auth_mode: u8,
    /// Age at which a GUID is renewed.
    #[serde(rename = "GUIDINTERVAL", alias = "guidinterval")]
    pub guid_interval_ms: u64,
    /// Age at which a GUID that was not renewed is dead.
    #[serde(rename = "GUIDTIMEOUT", alias = "guidtimeout")]
    pub guid_timeout_ms: u64,
    /// Whether silence signs an agent out.
    #[serde(rename = "TIMEOUT_FLAG", alias = "timeout_flag")]
    pub timeout_flag: Switch,
    /// Polling mode: longest silence.
    #[serde(rename = "MAXTIME", alias = "maxtime")]
    pub max_time_ms: u64,
    /// Push mode: longest time without a heartbeat.
    #[serde(rename = "EVENT_PUSH_HANDSHAKE_MAXTIME", alias = "event_push_handshake_maxtime")]
    pub handshake_max_time_ms: u64,
    /// Wait before a failed push is repeated.
    #[serde(rename = "EVENT_PUSH_FAIL_INTERVALTIME", alias = "event_push_fail_intervaltime")]
    pub push_fail_interval_ms: u64,
    /// Accumulated failure time after which the agent is forced out.
    #[serde(rename = "EVENT_PUSH_FAIL_TOTALTIME", alias = "event_push_fail_totaltime")]
    pub push_fail_total_ms: u64,
    /// Whether a poll without an event waits for one.
    #[serde(rename = "AGENT_POLL_WAIT_FLAG", alias = "agent_poll_wait_flag")]
    pub poll_wait_flag: Switch,
    /// How many intervals it waits.
    #[serde(rename = "AGENT_POLL_WAIT_TIMES", alias = "agent_poll_wait_times")]
    pub poll_wait_times: u32,
    /// Length of one interval.
    #[serde(rename = "AGENT_POLL_WAIT_INTERVAL", alias = "agent_poll_wait_interval")]
    pub poll_wait_interval_ms: u64,
    /// Passwords are expected as cipher text: a login must send `encrypted_password` of its agent.
    #[serde(rename = "LOGIN_PWD_DECRYPT_ENABLE", alias = "login_pwd_decrypt_enable")]
    pub login_password_decrypt: bool,
    /// Allowed callback addresses joined by `;`; empty allows all. The web pages spell it `WHILTELIST`.
    #[serde(
        rename = "EVENT_PUST_WHITELIST_CALLBACKURI",
        alias = "EVENT_PUST_WHILTELIST_CALLBACKURI",
        alias = "event_pust_whitelist_callbackuri",
        alias = "event_pust_whiltelist_callbackuri"
    )]
    pub callback_trust_list: String,
    /// `eventpush.ssl.trustAll`, `eventpush.ssl.cert.file`, `eventpush.ssl.cert.type`.
    pub eventpush: EventPush,

    /// Who may sign in.
    pub agents: Vec<Agents>,
    /// Paths with a greater agent id answer 404 (59999 or 999999, by the gateway's version).
    pub agent_id_limit: u32,
    /// Phone numbers a login may bind; any when absent.
    pub phones: Option<Phones>,
    /// Bad passwords in a row after which an account is locked (110-016); 0 never locks.
    pub lockout_attempts: u32,
    /// How long it stays locked.
    pub lockout_ms: u64,
    /// A load balancer's stickiness: login sets cookies, later calls without them answer 100-006.
    pub cookies: bool,
    /// How long a sign-in takes, to meet 100-021.
    pub login_delay_ms: u64,
    /// The first events are pushed, and answered, before the login is answered.
    pub events_before_answer: bool,
    /// Pushes renew the GUID too, so that their `Guid` may be newer than any the client was told.
    pub guid_runs_ahead: bool,
    /// Say goodbye by `AgentOther_ShutdownService` when an inspector or `forcelogoutwithreason` signs an agent out.
    pub shutdown_event: bool,

    /// What happens when a callback address is not in the trust list; no manual says.
    pub callback_outside_trust_list: OutsideTrustList,
    /// How the trust list matches; no manual says.
    pub trust_list_match: TrustListMatch,
    /// Whether the name in the callback's certificate must fit; no manual says.
    pub check_callback_host_names: bool,
    /// Longest time for one push, from connecting to the end of its answer; no manual says.
    pub push_timeout_ms: u64,
    /// Most events in one push; no manual says.
    pub push_batch_limit: usize,
    /// Whether a repeated batch may have new events at its end.
    pub repeat_grows: bool,
    /// A new connection for every push, rather than a kept one.
    pub push_new_connection: bool,
    /// The shape of pushes.
    pub push_shape: PushShape,

    /// Flows to play continuously, in this order; empty composes plausible days at random.
    pub flows: Vec<String>,
    /// Events a second for each signed-in agent; 0 plays nothing.
    pub rate: f64,
    /// Seed of everything random except GUIDs.
    pub seed: u64,
    /// Agents' phones must be picked up: steps for such agents are played.
    pub must_pick_up: bool,
    /// Continuous play waits until the agent has reset its skills.
    pub calls_need_skills: bool,
    /// Who the inspected agent of an inspection is.
    pub inspection: Inspection,
    /// How often event bodies vary.
    pub variety: Variety,
    /// Add `simulatorSerial` to each event, for exact comparison; a real gateway has nothing like it.
    pub mark_events: bool,
    /// Keep every event made, for comparison.
    pub keep_ledger: bool,
    /// Faults from the start.
    pub misbehaviours: Vec<Fault>,
}

/// `ON` or `OFF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Switch {
    /// Active.
    #[serde(rename = "ON", alias = "on")]
    On,
    /// Not active.
    #[serde(rename = "OFF", alias = "off")]
    Off,
}

/// The branch `eventpush` of the gateway's properties.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPush {
    /// `eventpush.ssl`.
    pub ssl: EventPushSsl,
}

/// How the callback's certificate is checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPushSsl {
    /// Accept any certificate.
    #[serde(rename = "trustAll", alias = "trustall")]
    pub trust_all: bool,
    /// The trust store.
    pub cert: EventPushCert,
}

/// The trust store. Without one, and without `trustAll`, no HTTPS callback is trusted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPushCert {
    /// PEM file (the gateway takes JKS, the simulator does not).
    pub file: Option<PathBuf>,
    /// Only `PEM`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// PEM text, for use in-process; added to `file`.
    pub pem: Option<String>,
}

/// One agent, or a range of them that share everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// The agent's id, or the first of the range.
    pub first: u32,
    /// The last of the range.
    #[serde(default)]
    pub last: Option<u32>,
    /// Password at sign-in.
    pub password: SecretString,
    /// What to send instead with `LOGIN_PWD_DECRYPT_ENABLE`.
    #[serde(default)]
    pub encrypted_password: Option<SecretString>,
    /// The only phone the agent may bind; any when absent.
    #[serde(default)]
    pub phone: Option<String>,
    /// Configured skills.
    #[serde(default = "default_skills")]
    pub skills: Vec<Skill>,
    /// The password has expired: 100-020.
    #[serde(default)]
    pub password_expired: bool,
    /// Signed in, this agent may not be forced out: 100-015.
    #[serde(default)]
    pub not_forced: bool,
}

/// A skill queue of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// 1 text chat, 5 voice and video, ...
    pub mediatype: u32,
}

/// A range of phone numbers.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phones {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// What a callback address outside the trust list leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideTrustList {
    /// Login answers 100-001.
    RefuseLogin,
    /// Login succeeds, every push fails, and the agent is forced out in the end.
    FailPushes,
}

/// How an entry of the trust list matches a callback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustListMatch {
    /// The whole address.
    Exact,
    /// Its beginning.
    Prefix,
}

/// The body of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushShape {
    /// `{workNo, eventList:[...]}`; only HTTP 200 with the string retcode `"0"` is success.
    EventList,
    /// `{message, retcode, event:{...}}`, one event each; an empty answer and the number 0 are success too.
    Legacy,
}

/// Whom an inspector inspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspection {
    /// Another signed-in agent, where there is one.
    Other,
    /// The same agent plays both parts.
    Same,
}

/// Chances, from 0 to 1, that an event of a flow is unusual in one way.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variety {
    /// It has `eventGenTime`.
    pub event_gen_time: f64,
    /// It has `jsonKey`.
    pub json_key: f64,
    /// Its text is not ASCII, where it has text.
    pub non_ascii: f64,
    /// `""` stands where null was.
    pub empty_content: f64,
}

/// A setting that contradicts itself or names nothing.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A key with a value it cannot have.
    #[error("{key}: {problem}")]
    Invalid {
        /// Which.
        key: &'static str,
        /// Why.
        problem: String,
    },
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            https: true,
            tls_cert: None,
            tls_key: None,
            tls_names: Vec::new(),
            tls_ca_out: None,
            auth_mode: 2,
            guid_interval_ms: 60_000,
            guid_timeout_ms: 120_000,
            timeout_flag: Switch::On,
            max_time_ms: 120_000,
            handshake_max_time_ms: 120_000,
            push_fail_interval_ms: 10_000,
            push_fail_total_ms: 120_000,
            poll_wait_flag: Switch::On,
            poll_wait_times: 100,
            poll_wait_interval_ms: 100,
            login_password_decrypt: false,
            callback_trust_list: String::new(),
            eventpush: EventPush::default(),
            agents: vec![Agents::range(1001, 1050, "simulated")],
            agent_id_limit: AGENT_ID_LIMIT,
            phones: None,
            lockout_attempts: 5,
            lockout_ms: 1_800_000,
            cookies: false,
            login_delay_ms: 0,
            events_before_answer: false,
            guid_runs_ahead: false,
            shutdown_event: true,
            callback_outside_trust_list: OutsideTrustList::FailPushes,
            trust_list_match: TrustListMatch::Exact,
            check_callback_host_names: true,
            push_timeout_ms: 10_000,
            push_batch_limit: 20,
            repeat_grows: true,
            push_new_connection: false,
            push_shape: PushShape::EventList,
            flows: Vec::new(),
            rate: 0.0,
            seed: 1,
            must_pick_up: false,
            calls_need_skills: true,
            inspection: Inspection::Other,
            variety: Variety::default(),
            mark_events: false,
            keep_ledger: true,
            misbehaviours: Vec::new(),
        }
    }
}

impl Default for Variety {
    fn default() -> Variety {
        Variety { event_gen_time: 0.3, json_key: 0.05, non_ascii: 0.1, empty_content: 0.2 }
    }
}

impl Agents {
    /// Agents `first` to `last`, all with `password` and one voice and one chat skill.
    #[must_use]
    pub fn range(first: u32, last: u32, password: &str) -> Agents {
        Agents {
            first,
            last: Some(last),
            password: password.to_owned().into(),
            encrypted_password: None,
            phone: None,
            skills: default_skills(),
            password_expired: false,
            not_forced: false,
        }
    }
}

impl Settings {
    /// The defaults on a free port of the loopback, for use in-process.
    #[must_use]
    pub fn local() -> Settings {
        Settings { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..Settings::default() }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// On the first setting that contradicts another or names something unknown.
    pub fn check(&self) -> Result<(), SettingsError> {
        let invalid = |key, problem: String| Err(SettingsError::Invalid { key, problem });
        if !(1..=2).contains(&self.auth_mode) {
            return invalid("AUTHMODE", "must be 1 or 2".into());
        }
        if self.auth_mode == 2 && self.guid_interval_ms >= self.guid_timeout_ms {
            return invalid("GUIDINTERVAL", "must be smaller than GUIDTIMEOUT".into());
        }
        if self.eventpush.ssl.cert.kind.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("PEM")) {
            return invalid("eventpush.ssl.cert.type", "only PEM is supported".into());
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return invalid("tls_key", "tls_cert and tls_key belong together".into());
        }
        if !self.rate.is_finite() || self.rate < 0.0 {
            return invalid("rate", "must be a number of events a second".into());
        }
        if self.push_batch_limit == 0 {
            return invalid("push_batch_limit", "must be at least 1".into());
        }
        if let Some(unknown) = self.flows.iter().find(|id| Catalogue::shared().flow(id).is_none()) {
            return invalid("flows", format!("there is no flow {unknown:?}"));
        }
        if self.agents.iter().any(|a| a.first == 0 || a.last.is_some_and(|last| last < a.first)) {
            return invalid("agents", "a range begins above 0 and does not end before it begins".into());
        }
        Ok(())
    }

    /// How long an empty poll waits.
    pub(super) fn poll_wait(&self) -> Duration {
        match self.poll_wait_flag {
            Switch::On => Duration::from_millis(self.poll_wait_interval_ms) * self.poll_wait_times,
            Switch::Off => Duration::ZERO,
        }
    }

    /// Whether the gateway may push to `uri`.
    pub(super) fn trusts(&self, uri: &str) -> bool {
        let mut entries =
            self.callback_trust_list.split(';').map(str::trim).filter(|e| !e.is_empty()).peekable();
        entries.peek().is_none()
            || entries.any(|entry| match self.trust_list_match {
                TrustListMatch::Exact => entry == uri,
                TrustListMatch::Prefix => uri.starts_with(entry),
            })
    }
}

fn default_skills() -> Vec<Skill> {
    vec![
        Skill { id: 1, name: "voice".into(), mediatype: 5 },
        Skill { id: 2, name: "chat".into(), mediatype: 1 },
    ]
}
