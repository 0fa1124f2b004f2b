//! Gateways as they stand in the file, and the checks that turn them into the checked ones.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use super::{
    AgentDefaults, CALL_DEADLINE_SECS, CONNECT_DEADLINE_SECS, CallPattern, GUID_INTERVAL_SECS,
    GUID_RENEWAL_PART, GUID_TIMEOUT_MOST_SECS, GatewayConfig, HEARTBEAT_INTERVAL_SECS, POLL_DEADLINE_SECS,
    PUSH_SILENCE_LIMIT_SECS, SIGN_IN_DEADLINE_SECS, SIGN_IN_RATE_PER_SEC, SIGN_OUT_LIMIT_SECS,
};
use crate::config::Problems;
use crate::event::GatewayName;
use crate::session::gateway::GatewayClient;

/// Limit of the gateway's documents.
const CALLBACK_URI_LENGTH: usize = 200;
/// Each is a label in a metric; gateways come in pairs.
const MOST_BACKUPS: usize = 8;

/// `[[gateways]]` as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGateway {
    /// Our name of it: topics, labels, logs.
    pub name: String,
    /// `https://host:8043/agentgateway/resource`.
    pub base_url: String,
    /// Other addresses of it, for when that one cannot be reached.
    #[serde(default)]
    pub backup_base_urls: Vec<String>,
    /// PEM bundle of the authorities that sign the gateway's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file of lists of revoked certificates.
    pub crl_file: Option<PathBuf>,
    /// The name the certificate is checked against at every address, where it is not the host of the address.
    pub tls_server_name: Option<String>,
    /// Check the name in the certificate; the rest of it is checked in any case.
    #[serde(default = "yes")]
    pub verify_server_name: bool,
    /// PEM file of our own certificate, where the gateway asks for one.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key_file: Option<PathBuf>,
    /// The address the gateway pushes to: ours, as the gateway sees it.
    pub callback_uri: String,
    /// Seconds between heartbeats.
    #[serde(default = "heartbeat_interval_secs")]
    pub heartbeat_interval_secs: u64,
    /// Seconds of silence after which the gateway throws an agent out.
    #[serde(default = "sign_out_limit_secs")]
    pub sign_out_limit_secs: u64,
    /// Seconds after which the gateway renews a GUID on the next heartbeat.
    #[serde(default = "guid_interval_secs")]
    pub guid_interval_secs: u64,
    /// Seconds after which a GUID that was not renewed is dead; twice `guid_interval_secs` when left out.
    pub guid_timeout_secs: Option<u64>,
    /// Age in seconds at which we ask for a new GUID, zero for never; three quarters of `guid_interval_secs` when left
    /// out.
    pub guid_renewal_secs: Option<u64>,
    /// Seconds after a sign-in by which a push must have come.
    #[serde(default = "push_silence_limit_secs")]
    pub push_silence_limit_secs: u64,
    /// Seconds a heartbeat or another short call may take.
    #[serde(default = "call_deadline_secs")]
    pub call_deadline_secs: u64,
    /// Seconds a sign-in may take.
    #[serde(default = "sign_in_deadline_secs")]
    pub sign_in_deadline_secs: u64,
    /// Seconds a poll may take; 30, and less than `sign_out_limit_secs`, when left out.
    pub poll_deadline_secs: Option<u64>,
    /// Seconds to make a connection.
    #[serde(default = "connect_deadline_secs")]
    pub connect_deadline_secs: u64,
    /// Sign-ins per second, over all agents of this gateway.
    #[serde(default = "sign_in_rate_per_sec")]
    pub sign_in_rate_per_sec: u32,
    /// Accept any certificate and plain `http`: for a laboratory only.
    #[serde(default)]
    pub dangerously_trust_all: bool,
    /// Sign agents out when the daemon stops; else their sessions wait for its return.
    #[serde(default)]
    pub sign_out_on_stop: bool,
    /// Calls that other programs may make through the admin API.
    #[serde(default)]
    pub call_through: Vec<String>,
    /// Keys of `[[agents]]` for all agents of this gateway that leave them out.
    #[serde(default)]
    pub agent_defaults: AgentDefaults,
}

fn yes() -> bool {
    true
}
fn heartbeat_interval_secs() -> u64 {
    HEARTBEAT_INTERVAL_SECS
}
fn sign_out_limit_secs() -> u64 {
    SIGN_OUT_LIMIT_SECS
}
fn guid_interval_secs() -> u64 {
    GUID_INTERVAL_SECS
}
fn push_silence_limit_secs() -> u64 {
    PUSH_SILENCE_LIMIT_SECS
}
fn call_deadline_secs() -> u64 {
    CALL_DEADLINE_SECS
}
fn sign_in_deadline_secs() -> u64 {
    SIGN_IN_DEADLINE_SECS
}
fn connect_deadline_secs() -> u64 {
    CONNECT_DEADLINE_SECS
}
fn sign_in_rate_per_sec() -> u32 {
    SIGN_IN_RATE_PER_SEC
}

impl RawGateway {
    /// Checks one gateway; mistakes are noted under `key`.
    pub fn validate(self, key: &str, problems: &mut Problems) -> Option<GatewayConfig> {
        let name = problems.check(&format!("{key}.name"), GatewayName::parse(&self.name));
        let base_url = self.check_url(&format!("{key}.base_url"), &self.base_url, problems);
        let backup_base_urls = self.check_backups(key, problems);
        let client_certificate = self.check_client_certificate(key, problems);
        self.check_callback_uri(key, problems);
        self.check_times(key, problems);
        if self.ca_file.is_none() && !self.dangerously_trust_all {
            problems.add(format!("{key}.ca_file"), "needed to check the gateway's certificate");
        }
        if self.crl_file.is_some() && self.dangerously_trust_all {
            problems.add(format!("{key}.crl_file"), "is of no use with dangerously_trust_all");
        }
        if self.sign_in_rate_per_sec == 0 {
            problems.add(format!("{key}.sign_in_rate_per_sec"), "must be at least 1");
        }
        let call_through = self.check_call_through(key, problems);
        let guid_renewal = self.guid_renewal();
        let guid_timeout = Duration::from_secs(self.guid_timeout_secs());
        let poll_deadline = Duration::from_secs(self.poll_deadline_secs());
        let config = GatewayConfig {
            name: name?,
            base_url: base_url?,
            backup_base_urls,
            ca_file: self.ca_file,
            crl_file: self.crl_file,
            tls_server_name: self.tls_server_name,
            verify_server_name: self.verify_server_name,
            client_certificate,
            callback_uri: self.callback_uri,
            heartbeat_interval: Duration::from_secs(self.heartbeat_interval_secs),
            sign_out_limit: Duration::from_secs(self.sign_out_limit_secs),
            guid_interval: Duration::from_secs(self.guid_interval_secs),
            guid_timeout,
            guid_renewal,
            push_silence_limit: Duration::from_secs(self.push_silence_limit_secs),
            call_deadline: Duration::from_secs(self.call_deadline_secs),
            sign_in_deadline: Duration::from_secs(self.sign_in_deadline_secs),
            poll_deadline,
            connect_deadline: Duration::from_secs(self.connect_deadline_secs),
            sign_in_rate_per_sec: self.sign_in_rate_per_sec,
            dangerously_trust_all: self.dangerously_trust_all,
            sign_out_on_stop: self.sign_out_on_stop,
            call_through,
            agent_defaults: self.agent_defaults,
        };
        check_trust(&config, key, problems);
        Some(config)
    }

    fn guid_timeout_secs(&self) -> u64 {
        self.guid_timeout_secs.unwrap_or(self.guid_interval_secs.saturating_mul(2))
    }

    fn guid_renewal(&self) -> Option<Duration> {
        let (part, whole) = GUID_RENEWAL_PART;
        let default = Duration::from_secs(self.guid_interval_secs) * part / whole;
        let age = self.guid_renewal_secs.map_or(default, Duration::from_secs);
        (!age.is_zero()).then_some(age)
    }

    fn check_url(&self, key: &str, text: &str, problems: &mut Problems) -> Option<Url> {
        let url = problems.check(key, Url::parse(text))?;
        let plain = url.scheme() == "http" && self.dangerously_trust_all;
        if url.scheme() != "https" && !plain {
            problems.add(key, "must begin with https:// (http:// needs dangerously_trust_all)");
        }
        // What HTTP does not send would be left out of every call without a word.
        let bare = url.query().is_none() && url.fragment().is_none();
        let nameless = url.username().is_empty() && url.password().is_none();
        if url.host().is_none() || !bare || !nameless {
            problems.add(key, "must be a host with a path, without user, query or fragment");
        }
        Some(url)
    }

    fn check_backups(&self, key: &str, problems: &mut Problems) -> Vec<Url> {
        let key = format!("{key}.backup_base_urls");
        if self.backup_base_urls.len() > MOST_BACKUPS {
            problems.add(&key, format!("has more than {MOST_BACKUPS} addresses"));
        }
        let mut seen = vec![self.base_url.trim_end_matches('/')];
        let mut urls = Vec::new();
        for (index, text) in self.backup_base_urls.iter().enumerate() {
            let key = format!("{key}[{index}]");
            if seen.contains(&text.trim_end_matches('/')) {
                problems.add(&key, "this address stands here twice, or is base_url");
            }
            seen.push(text.trim_end_matches('/'));
            urls.extend(self.check_url(&key, text, problems));
        }
        urls
    }

    fn check_client_certificate(&self, key: &str, problems: &mut Problems) -> Option<(PathBuf, PathBuf)> {
        match (self.client_cert_file.clone(), self.client_key_file.clone()) {
            (Some(cert), Some(key)) => return Some((cert, key)),
            (Some(_), None) if !problems.suspect(&format!("{key}.client_key_file")) => {
                problems.add(format!("{key}.client_key_file"), "is required with client_cert_file");
            }
            (None, Some(_)) if !problems.suspect(&format!("{key}.client_cert_file")) => {
                problems.add(format!("{key}.client_cert_file"), "is required with client_key_file");
            }
            _ => {}
        }
        None
    }

    fn check_call_through(&self, key: &str, problems: &mut Problems) -> Vec<CallPattern> {
        let patterns = self.call_through.iter().enumerate().map(|(index, text)| {
            problems.check(&format!("{key}.call_through[{index}]"), CallPattern::parse(text))
        });
        patterns.flatten().collect()
    }

    fn check_callback_uri(&self, key: &str, problems: &mut Problems) {
        let key = format!("{key}.callback_uri");
        if let Some(url) = problems.check(&key, Url::parse(&self.callback_uri)) {
            if url.scheme() != "https" && !(url.scheme() == "http" && self.dangerously_trust_all) {
                problems.add(&key, "must begin with https://");
            }
            // A query may be there: with `legacy-push` the token is one more parameter.
            let bare = url.fragment().is_none();
            let nameless = url.username().is_empty() && url.password().is_none();
            if !bare || !nameless {
                problems.add(&key, "must be a host with a path, without user or fragment");
            }
            let nowhere = match url.host() {
                Some(Host::Ipv4(address)) => address.is_unspecified(),
                Some(Host::Ipv6(address)) => address.is_unspecified(),
                Some(Host::Domain(_)) => false,
                None => true,
            };
            if nowhere {
                problems.add(&key, "must have the host by which the gateway reaches [callback]");
            }
        }
        if self.callback_uri.len() > CALLBACK_URI_LENGTH {
            problems.add(&key, "is longer than the 200 characters that gateways take");
        }
    }

    fn poll_deadline_secs(&self) -> u64 {
        let shorter_than_limit = self.sign_out_limit_secs.saturating_sub(1).max(1);
        self.poll_deadline_secs.unwrap_or(POLL_DEADLINE_SECS.min(shorter_than_limit))
    }

    fn check_times(&self, key: &str, problems: &mut Problems) {
        let seconds = [
            ("heartbeat_interval_secs", self.heartbeat_interval_secs),
            ("sign_out_limit_secs", self.sign_out_limit_secs),
            ("guid_interval_secs", self.guid_interval_secs),
            ("push_silence_limit_secs", self.push_silence_limit_secs),
            ("call_deadline_secs", self.call_deadline_secs),
            ("sign_in_deadline_secs", self.sign_in_deadline_secs),
            ("poll_deadline_secs", self.poll_deadline_secs()),
            ("connect_deadline_secs", self.connect_deadline_secs),
        ];
        for (name, value) in seconds {
            if !(1..=3600).contains(&value) {
                problems.add(format!("{key}.{name}"), "must be between 1 and 3600");
            }
        }
        if self.guid_timeout_secs.is_some_and(|secs| secs <= self.guid_interval_secs) {
            problems.add(
                format!("{key}.guid_timeout_secs"),
                "must be more than guid_interval_secs, or GUIDs die before the gateway renews them",
            );
        }
        if self.guid_timeout_secs.is_some_and(|secs| secs > GUID_TIMEOUT_MOST_SECS) {
            problems
                .add(format!("{key}.guid_timeout_secs"), format!("must be at most {GUID_TIMEOUT_MOST_SECS}"));
        }
        if self.guid_renewal_secs.is_some_and(|secs| secs >= self.guid_interval_secs) {
            problems.add(
                format!("{key}.guid_renewal_secs"),
                "must be less than guid_interval_secs, at which the gateway renews a GUID by itself",
            );
        }
        if self.poll_deadline_secs.is_some_and(|secs| secs >= self.sign_out_limit_secs) {
            problems.add(
                format!("{key}.poll_deadline_secs"),
                "must be less than sign_out_limit_secs, or one lost poll costs the session",
            );
        }
        let related = ["heartbeat_interval_secs", "sign_out_limit_secs", "call_deadline_secs"];
        if related.iter().any(|name| problems.suspect(&format!("{key}.{name}"))) {
            return;
        }
        if self.heartbeat_interval_secs.saturating_mul(2) > self.sign_out_limit_secs {
            problems.add(
                format!("{key}.heartbeat_interval_secs"),
                "must be at most half of sign_out_limit_secs, or one lost heartbeat costs the session",
            );
        }
        let retry_room = self.sign_out_limit_secs.saturating_sub(self.heartbeat_interval_secs) / 2;
        if self.call_deadline_secs > retry_room {
            problems.add(
                format!("{key}.call_deadline_secs"),
                "leaves no time for a second heartbeat within sign_out_limit_secs",
            );
        }
    }
}

/// Tries out what the certificates of the gateway and our own are checked with.
fn check_trust(config: &GatewayConfig, key: &str, problems: &mut Problems) {
    if problems.suspect(&format!("{key}.ca_file")) {
        return;
    }
    let Err(error) = GatewayClient::new(config, None) else { return };
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
    problems.add(format!("{key}.{}", error.key()), format!("{error}{cause}"));
}
