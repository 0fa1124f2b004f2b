//! What an operator of the simulator may set. Keys in capitals, and `eventpush.ssl.*`, are the gateway's own
//! property names (times in milliseconds, as there); keys in small letters are the simulator's.
//!
//! ```toml
//! listen = "0.0.0.0:8043"
//! EVENT_PUSH_FAIL_INTERVALTIME = 10000
//! eventpush.ssl.cert.file = "callback-ca.pem"
//! agents = [{ first = 1001, last = 1050, password = "simulated" }]
//! rate = 0.5
//! misbehaviours = [{ operation = "handshake", chance = 0.01, kind = { retcode = "100-007" } }]
//! ```
//!
//! Where the gateway's manuals are silent or contradict each other, there is a key here, and its doc says so.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

mod parts;

pub use parts::{
    Agents, EventPush, EventPushCert, EventPushSsl, Inspection, OutsideTrustList, Phones, PushShape, Skill,
    Switch, TrustListMatch, Variety,
};

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
    /// A sign-out of an agent who is not signed in answers 100-006, as other calls do, rather than 100-008; manuals list both.
    pub second_logout_unknown: bool,
    /// The first events are pushed, and answered, before the login is answered.
    pub events_before_answer: bool,
    /// Pushes renew the GUID too, so that their `Guid` may be newer than any the client was told.
    pub guid_runs_ahead: bool,
    /// Pushes carry the newest `service_token` of a heartbeat, rather than that of the sign-in for as long as the session lasts; no
    /// manual says it in one sentence.
    pub heartbeat_renews_token: bool,
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
    /// A repeated batch has the `Guid` and `service_token` of its first push, rather than the newest.
    pub repeat_keeps_headers: bool,
    /// A new connection for every push, rather than a kept one.
    pub push_new_connection: bool,
    /// The chance that the answer of a push is lost on its way, so that the batch is repeated though received.
    pub push_answer_lost: f64,
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
    /// How often to log the counts when they changed; 0 never.
    pub report_interval_ms: u64,
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
            second_logout_unknown: false,
            events_before_answer: false,
            guid_runs_ahead: false,
            heartbeat_renews_token: true,
            shutdown_event: true,
            callback_outside_trust_list: OutsideTrustList::FailPushes,
            trust_list_match: TrustListMatch::Exact,
            check_callback_host_names: true,
            push_timeout_ms: 10_000,
            push_batch_limit: 20,
            repeat_grows: true,
            repeat_keeps_headers: false,
            push_new_connection: false,
            push_answer_lost: 0.0,
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
            report_interval_ms: 10_000,
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
