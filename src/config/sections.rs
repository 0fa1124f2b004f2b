//! The sections as they are written, and as they are once checked.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::routes::{self, OwnWay, RawMasking, RawRoute, Unrouted};
use super::{Problems, levels, spool_place};
use crate::admin::tokens::TokenList;
use crate::authenticate::{TokenKey, TokenRules};
use crate::deliver::Repeats;
use crate::event::GatewayName;
use crate::listen::Limits;
use crate::listen::allow::AllowList;
use crate::receive::PushLimits;
use crate::receive::tls::{CheckedTls, ClientCertificates, TlsConfig, TlsError, TlsVersion, suites};
use crate::route::{Router, TopicRules, TopicTemplate};
use crate::session::config::{AgentDefaults, RawAgent, RawGateway, SessionsConfig};
use crate::session::roster::RawRoster;
use crate::sink::jsonl::{JsonlConfig, JsonlOptions};
use crate::sink::kafka::{KafkaConfig, KafkaOptions};
use crate::sink::mqtt::{MqttConfig, MqttOptions};
use crate::spool::{RepeatRules, SpoolConfig, SpoolLimits, StartFrom, WhenFull};
use crate::trace::config::{RawTraces, TracesConfig};

/// The whole file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    callback: RawCallback,
    token: RawToken,
    spool: RawSpool,
    operations: RawOperations,
    log: RawLog,
    gateways: Vec<RawGateway>,
    agents: Vec<RawAgent>,
    rosters: Vec<RawRoster>,
    sinks: BTreeMap<String, RawSink>,
    routes: Vec<RawRoute>,
    masking: RawMasking,
    traces: RawTraces,
    shutdown: RawShutdown,
}

/// `[callback]`: the listener that the gateway pushes to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCallback {
    listen: SocketAddr,
    certificate_file: PathBuf,
    key_file: PathBuf,
    tls_min_version: TlsVersion,
    tls_cipher_suites: Vec<String>,
    client_certificates: AskClients,
    client_ca_file: Option<PathBuf>,
    client_crl_file: Option<PathBuf>,
    allow_from: Vec<String>,
    max_connections: usize,
    max_body_bytes: usize,
    max_head_bytes: usize,
    handshake_timeout_secs: u64,
    header_timeout_secs: u64,
    body_timeout_secs: u64,
    idle_timeout_secs: u64,
}

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskClients {
    #[default]
    Off,
    Optional,
    Required,
}

/// 8443 is the usual port of an HTTPS service that does not run as root.
const CALLBACK_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8443);
/// A gateway pools its connections; a few thousand are more than any cluster opens.
const MAX_CONNECTIONS: usize = 4096;
/// Events are some hundred bytes, and no batch limit is documented: room for a thousand events in one push.
const MAX_BODY_BYTES: usize = 1 << 20;
/// hyper's least; the gateway's heads are well below 1 KiB.
const MAX_HEAD_BYTES: usize = 8192;
const HANDSHAKE_TIMEOUT_SECS: u64 = 10;
const HEADER_TIMEOUT_SECS: u64 = 10;
const BODY_TIMEOUT_SECS: u64 = 10;
/// Longer than the heartbeat period, so that a quiet agent's connection lives on and saves handshakes.
const IDLE_TIMEOUT_SECS: u64 = 300;

impl Default for RawCallback {
    fn default() -> RawCallback {
        RawCallback {
            listen: CALLBACK_LISTEN,
            certificate_file: PathBuf::from("certificate.pem"),
            key_file: PathBuf::from("key.pem"),
            tls_min_version: TlsVersion::default(),
            tls_cipher_suites: Vec::new(),
            client_certificates: AskClients::default(),
            client_ca_file: None,
            client_crl_file: None,
            allow_from: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            max_body_bytes: MAX_BODY_BYTES,
            max_head_bytes: MAX_HEAD_BYTES,
            handshake_timeout_secs: HANDSHAKE_TIMEOUT_SECS,
            header_timeout_secs: HEADER_TIMEOUT_SECS,
            body_timeout_secs: BODY_TIMEOUT_SECS,
            idle_timeout_secs: IDLE_TIMEOUT_SECS,
        }
    }
}

/// `[token]`: callback tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawToken {
    secret_file: Option<PathBuf>,
    previous_secret_file: Option<PathBuf>,
    period_secs: u64,
    overlap_secs: u64,
    max_age_secs: u64,
}

/// The gateway recommends to change the token once a minute (CEC API Reference 1204).
const TOKEN_PERIOD_SECS: u64 = 60;
/// One retry interval (10 s) and the whole failure time (120 s) of the gateway fit in.
const TOKEN_OVERLAP_SECS: u64 = 180;
/// A gateway that never takes a refreshed token must not lose its agents within a working day.
const TOKEN_MAX_AGE_SECS: u64 = 24 * 3600;

impl Default for RawToken {
    fn default() -> RawToken {
        RawToken {
            secret_file: None,
            previous_secret_file: None,
            period_secs: TOKEN_PERIOD_SECS,
            overlap_secs: TOKEN_OVERLAP_SECS,
            max_age_secs: TOKEN_MAX_AGE_SECS,
        }
    }
}

/// `[spool]`: the durable log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSpool {
    directory: PathBuf,
    max_bytes: u64,
    low_water_percent: u8,
    min_free_disk_bytes: u64,
    max_dead_letter_bytes: u64,
    repeat_soonest_millis: u64,
    repeat_window_secs: u64,
    call_expiry_secs: u64,
}

/// The gateway repeats after `EVENT_PUSH_FAIL_INTERVALTIME`, 10 s; a little less allows for clocks and queues.
const REPEAT_SOONEST_MILLIS: u64 = 8_000;
/// The gateway gives up after `EVENT_PUSH_FAIL_TOTALTIME`, 120 s, each try counted from the one before.
const REPEAT_WINDOW_SECS: u64 = 180;
/// A day is longer than any conversation, and sessions of messengers are mostly answered within one.
const CALL_EXPIRY_SECS: u64 = 86_400;
/// A month, so that what is remembered of an agent has an end.
const LONGEST_CALL_SECS: u64 = 30 * 86_400;

impl Default for RawSpool {
    fn default() -> RawSpool {
        let limits = SpoolLimits::default();
        RawSpool {
            directory: PathBuf::from("spool"),
            max_bytes: limits.max_bytes,
            low_water_percent: limits.low_water_percent,
            min_free_disk_bytes: limits.min_free_disk_bytes,
            max_dead_letter_bytes: limits.max_dead_letter_bytes,
            repeat_soonest_millis: REPEAT_SOONEST_MILLIS,
            repeat_window_secs: REPEAT_WINDOW_SECS,
            call_expiry_secs: CALL_EXPIRY_SECS,
        }
    }
}

/// `[operations]`: metrics, health and the admin API.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOperations {
    listen: SocketAddr,
    admin_tokens_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    tls_min_version: TlsVersion,
    tls_cipher_suites: Vec<String>,
    allow_from: Vec<String>,
}

const OPERATIONS_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

impl Default for RawOperations {
    fn default() -> RawOperations {
        RawOperations {
            listen: OPERATIONS_LISTEN,
            admin_tokens_file: None,
            certificate_file: None,
            key_file: None,
            tls_min_version: TlsVersion::default(),
            tls_cipher_suites: Vec::new(),
            allow_from: Vec::new(),
        }
    }
}

/// `[log]`: what is logged and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    level: String,
    format: LogFormat,
}

impl Default for RawLog {
    fn default() -> RawLog {
        RawLog { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[sinks.<name>]`: an output; exactly one of the tables `kafka`, `mqtt` and `jsonl` says of which kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSink {
    topic: Option<String>,
    dead_letter_topic: Option<String>,
    from: StartFrom,
    when_full: WhenFull,
    repeats: Repeats,
    window: Option<usize>,
    stall_timeout_secs: u64,
    unrouted: Unrouted,
    mask: Vec<String>,
    drop_raw: bool,
    kafka: Option<KafkaOptions>,
    mqtt: Option<MqttOptions>,
    jsonl: Option<JsonlOptions>,
}

/// Enough to keep a broker 20 ms away busy at 50,000 events a second; a thousand of them are some megabytes.
const WINDOW: usize = 1000;
/// Kafka takes them in batches, each of which waits for `linger.ms` and for its answer: with a thousand a drain waits most of the time.
const KAFKA_WINDOW: usize = 3000;
/// A broker that has confirmed nothing for so long gets a new client.
const STALL_TIMEOUT_SECS: u64 = 30;
const KAFKA_TOPIC: &str = "ccrelay.events";
const MQTT_TOPIC: &str = "ccrelay/{gateway}/agents/{agent}/events/{category}";

impl Default for RawSink {
    fn default() -> RawSink {
        RawSink {
            topic: None,
            dead_letter_topic: None,
            from: StartFrom::default(),
            when_full: WhenFull::default(),
            repeats: Repeats::default(),
            window: None,
            stall_timeout_secs: STALL_TIMEOUT_SECS,
            unrouted: Unrouted::default(),
            mask: Vec::new(),
            drop_raw: false,
            kafka: None,
            mqtt: None,
            jsonl: None,
        }
    }
}

/// `[shutdown]`: how the daemon ends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawShutdown {
    grace_secs: u64,
}

impl Default for RawShutdown {
    fn default() -> RawShutdown {
        RawShutdown { grace_secs: SHUTDOWN_GRACE_SECS }
    }
}

/// Long enough for brokers to confirm what is in flight, short enough for an init system.
const SHUTDOWN_GRACE_SECS: u64 = 20;

/// Keys whose defaults are relative paths.
pub(super) const RELATIVE_BY_DEFAULT: [&str; 3] =
    ["callback.certificate_file", "callback.key_file", "spool.directory"];

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys of paths that another process, started in another folder, would look for elsewhere.
    pub relative_paths: Vec<String>,
    /// The callback listener.
    pub callback: CallbackConfig,
    /// Callback tokens.
    pub token: TokenConfig,
    /// The spool.
    pub spool: SpoolConfig,
    /// The operations listener.
    pub operations: OperationsConfig,
    /// Logging.
    pub log: LogConfig,
    /// Gateways and agents.
    pub sessions: SessionsConfig,
    /// Outputs.
    pub sinks: Vec<SinkConfig>,
    /// File with the secret of hashes of hidden texts.
    pub mask_secret_file: Option<PathBuf>,
    /// Traces, where they are on.
    pub traces: Option<TracesConfig>,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
}

/// The callback listener.
#[derive(Debug, Clone)]
pub struct CallbackConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate, versions, and certificates of clients.
    pub tls: CheckedTls,
    /// Who may connect.
    pub allowed: AllowList,
    /// Limits of connections and heads.
    pub limits: Limits,
    /// Limits of bodies.
    pub push: PushLimits,
}

/// Callback tokens.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// File with the secret; made in the spool's folder when none is named.
    pub secret_file: Option<PathBuf>,
    /// File with the secret before, while tokens made with it are still in use.
    pub previous_secret_file: Option<PathBuf>,
    /// How long tokens live.
    pub rules: TokenRules,
}

/// The operations listener.
#[derive(Debug, Clone)]
pub struct OperationsConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Tokens of the admin API, which is off without.
    pub admin_tokens_file: Option<PathBuf>,
    /// Plain HTTP without.
    pub tls: Option<CheckedTls>,
    /// Who may connect.
    pub allowed: AllowList,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A filter such as `info` or `ccrelay=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// An output.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Its name: metrics, logs, cursor.
    pub name: String,
    /// Where it begins when it is new.
    pub from: StartFrom,
    /// What it does when the spool is full.
    pub when_full: WhenFull,
    /// What it does with events that came before.
    pub repeats: Repeats,
    /// Events in flight.
    pub window: usize,
    /// How long no confirmation may come.
    pub stall_timeout: Duration,
    /// Where events go.
    pub router: Router,
    /// Where copies of events go that were set aside; nowhere when absent.
    pub dead_letter_topic: Option<TopicTemplate>,
    /// Of which kind it is.
    pub kind: SinkKind,
}

/// Of which kind a sink is, with that kind's own settings.
#[derive(Debug, Clone)]
pub enum SinkKind {
    /// Apache Kafka.
    Kafka(Box<KafkaConfig>),
    /// MQTT.
    Mqtt(Box<MqttConfig>),
    /// JSON lines.
    Jsonl(JsonlConfig),
}

impl SinkKind {
    /// Every reason that failures of this kind of sink can have: labels of its metrics.
    #[must_use]
    pub fn reasons(&self) -> &'static [&'static str] {
        match self {
            SinkKind::Kafka(_) => crate::sink::kafka::REASONS,
            SinkKind::Mqtt(_) => crate::sink::mqtt::REASONS,
            SinkKind::Jsonl(_) => crate::sink::jsonl::REASONS,
        }
    }

    /// What OpenTelemetry calls the broker; files are none.
    #[must_use]
    pub fn messaging_system(&self) -> Option<&'static str> {
        match self {
            SinkKind::Kafka(_) => Some("kafka"),
            SinkKind::Mqtt(_) => Some("mqtt"),
            SinkKind::Jsonl(_) => None,
        }
    }
}

impl RawConfig {
    /// Every file that is read anew while the daemon runs, but rosters and tokens, which look after themselves. Sinks and
    /// traces read their certificates by themselves; of these the ends are shown.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let RawCallback { certificate_file, key_file, client_ca_file, client_crl_file, .. } = &self.callback;
        let callback = [certificate_file, key_file].into_iter().chain(client_ca_file).chain(client_crl_file);
        let operations = self.operations.certificate_file.iter().chain(&self.operations.key_file);
        let secrets = self.token.secret_file.iter().chain(&self.token.previous_secret_file);
        let gateways = self.gateways.iter().flat_map(|gateway| {
            let ours = gateway.client_cert_file.iter().chain(&gateway.client_key_file);
            gateway.ca_file.iter().chain(&gateway.crl_file).chain(ours)
        });
        let sinks = self.sinks.values().flat_map(|sink| {
            let kafka = sink.kafka.iter().flat_map(|kafka| {
                let security = &kafka.security;
                security.ca_file.iter().chain(&security.client_cert_file)
            });
            kafka.chain(sink.mqtt.iter().flat_map(|mqtt| mqtt.ca_file.iter().chain(&mqtt.client_cert_file)))
        });
        let files = callback.chain(operations).chain(secrets).chain(gateways);
        files.chain(&self.masking.secret_file).chain(sinks).chain(&self.traces.ca_file)
    }

    /// Gateways of these names have these defaults for their agents, whatever is written.
    pub(super) fn keep_agent_defaults(&mut self, agent_defaults: &HashMap<GatewayName, AgentDefaults>) {
        for (name, defaults) in agent_defaults {
            let named = self.gateways.iter_mut().filter(|gateway| gateway.name == name.as_str());
            named.for_each(|gateway| gateway.agent_defaults.clone_from(defaults));
        }
    }
}

/// Checks everything; what it returns is complete only when nothing was noted.
pub(super) fn validate(raw: RawConfig, problems: &mut Problems) -> Option<Config> {
    let log = validate_log(raw.log, problems);
    let traces = raw.traces.validate(problems);
    let callback_listen = raw.callback.listen;
    let callback = raw.callback.validate(problems);
    let operations = raw.operations.validate(problems);
    if collide(callback_listen, operations.listen)
        && !["callback.listen", "operations.listen"].iter().any(|key| problems.suspect(key))
    {
        problems.add("operations.listen", "is the address of callback.listen, which takes pushes");
    }
    let no_gateway = raw.gateways.is_empty();
    let gateways: Vec<String> = raw.gateways.iter().map(|gateway| gateway.name.clone()).collect();
    let heartbeat_secs =
        raw.gateways.iter().map(|gateway| gateway.heartbeat_interval_secs).max().unwrap_or(0);
    let sessions = crate::session::config::validate_all(raw.gateways, raw.agents, raw.rosters, problems);
    if no_gateway {
        problems.add("gateways", "at least one [[gateways]] is needed");
    }
    let gateways: Vec<&str> = gateways.iter().map(String::as_str).collect();
    let own = raw.sinks.iter().map(|(name, sink)| (name.clone(), sink.own_way(name, problems))).collect();
    let mut routers = routes::validate(&raw.routes, &raw.masking, &own, &gateways, problems);
    let sinks = raw.sinks.into_iter().map(|(name, sink)| {
        let router = routers.remove(&name);
        sink.validate(name, router, problems)
    });
    let sinks: Vec<_> = sinks.collect();
    check_sessions_at_brokers(&sinks, problems);
    raw.spool.check(problems);
    raw.token.check(heartbeat_secs, problems);
    within(problems, "shutdown.grace_secs", raw.shutdown.grace_secs, 0, LONGEST_SECS);
    Some(Config {
        relative_paths: Vec::new(),
        callback: callback?,
        token: TokenConfig {
            secret_file: raw.token.secret_file,
            previous_secret_file: raw.token.previous_secret_file,
            rules: TokenRules {
                period: Duration::from_secs(raw.token.period_secs),
                overlap: Duration::from_secs(raw.token.overlap_secs),
                max_age: Duration::from_secs(raw.token.max_age_secs),
            },
        },
        spool: SpoolConfig {
            // Whole, so that whatever is said of it says where it is. As it stands where there is no such folder to start in.
            directory: std::path::absolute(&raw.spool.directory).unwrap_or(raw.spool.directory),
            limits: SpoolLimits {
                max_bytes: raw.spool.max_bytes,
                low_water_percent: raw.spool.low_water_percent,
                min_free_disk_bytes: raw.spool.min_free_disk_bytes,
                max_dead_letter_bytes: raw.spool.max_dead_letter_bytes,
            },
            repeats: RepeatRules {
                soonest: Duration::from_millis(raw.spool.repeat_soonest_millis),
                window: Duration::from_secs(raw.spool.repeat_window_secs),
            },
            call_age: Duration::from_secs(raw.spool.call_expiry_secs),
        },
        operations,
        log,
        sessions,
        sinks: sinks.into_iter().collect::<Option<_>>()?,
        mask_secret_file: raw.masking.secret_file,
        traces,
        shutdown_grace: Duration::from_secs(raw.shutdown.grace_secs),
    })
}

/// Whether only one of two listeners can have its address.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    // An unspecified IPv6 address stands for those of IPv4, too.
    let takes = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    let same_port = one.port() == other.port() && one.port() != 0;
    same_port && (one.ip() == other.ip() || takes(one, other) || takes(other, one))
}

/// A broker ends the session of a client when another one comes with its id.
fn check_sessions_at_brokers(sinks: &[Option<SinkConfig>], problems: &mut Problems) {
    let mut first_of: HashMap<_, &str> = HashMap::new();
    for sink in sinks.iter().flatten() {
        let SinkKind::Mqtt(mqtt) = &sink.kind else { continue };
        let first = *first_of.entry(mqtt.session_of(&sink.name)).or_insert(&sink.name);
        if first != sink.name {
            problems.add(
                format!("sinks.{}.mqtt.client_id", sink.name),
                format!(
                    "is that of the sink {first} at the same broker: they would throw each other out for ever"
                ),
            );
        }
    }
}

fn validate_log(raw: RawLog, problems: &mut Problems) -> LogConfig {
    problems.check("log.level", levels::check(&raw.level));
    problems.check(levels::VARIABLE, levels::of_environment());
    LogConfig { level: raw.level, format: raw.format }
}

impl RawCallback {
    /// `None` only when something was noted.
    fn validate(self, problems: &mut Problems) -> Option<CallbackConfig> {
        within(problems, "callback.max_connections", self.max_connections as u64, 1, MOST_CONNECTIONS);
        let bytes = self.max_body_bytes as u64;
        within(problems, "callback.max_body_bytes", bytes, LEAST_BODY_BYTES, MOST_BODY_BYTES);
        let least = MAX_HEAD_BYTES as u64;
        within(problems, "callback.max_head_bytes", self.max_head_bytes as u64, least, MOST_HEAD_BYTES);
        for (key, secs) in [
            ("callback.handshake_timeout_secs", self.handshake_timeout_secs),
            ("callback.header_timeout_secs", self.header_timeout_secs),
            ("callback.body_timeout_secs", self.body_timeout_secs),
            ("callback.idle_timeout_secs", self.idle_timeout_secs),
        ] {
            within(problems, key, secs, 1, LONGEST_SECS);
        }
        let tls = TlsConfig {
            min_version: self.tls_min_version,
            cipher_suites: cipher_suites("callback", &self.tls_cipher_suites, problems),
            clients: client_certificates(
                self.client_certificates,
                self.client_ca_file,
                self.client_crl_file,
                problems,
            ),
            ..TlsConfig::new(self.certificate_file, self.key_file)
        };
        let tls = checked_tls("callback", tls, problems);
        let allowed = networks("callback", &self.allow_from, problems);
        Some(CallbackConfig {
            listen: self.listen,
            tls: tls?,
            allowed,
            limits: Limits {
                max_connections: self.max_connections,
                handshake_timeout: Duration::from_secs(self.handshake_timeout_secs),
                header_timeout: Duration::from_secs(self.header_timeout_secs),
                idle_timeout: Duration::from_secs(self.idle_timeout_secs),
                max_head_bytes: self.max_head_bytes,
                listener: "callback",
                counted: true,
            },
            push: PushLimits {
                max_body_bytes: self.max_body_bytes,
                body_timeout: Duration::from_secs(self.body_timeout_secs),
            },
        })
    }
}

impl RawOperations {
    fn validate(self, problems: &mut Problems) -> OperationsConfig {
        const TOKENS: &str = "operations.admin_tokens_file";
        const CERTIFICATE: &str = "operations.certificate_file";
        const KEY: &str = "operations.key_file";
        if let Some(file) = &self.admin_tokens_file {
            problems.check(TOKENS, TokenList::read_if_there(file));
        }
        let cipher_suites = cipher_suites("operations", &self.tls_cipher_suites, problems);
        let tls = match (self.certificate_file, self.key_file) {
            (Some(chain), Some(key)) => Some(TlsConfig {
                min_version: self.tls_min_version,
                cipher_suites,
                ..TlsConfig::new(chain, key)
            }),
            (Some(_), None) if !problems.suspect(KEY) => {
                problems.add(KEY, "is required with certificate_file");
                None
            }
            (None, Some(_)) if !problems.suspect(CERTIFICATE) => {
                problems.add(CERTIFICATE, "is required with key_file");
                None
            }
            _ => None,
        };
        let is_tls = tls.is_some();
        let tls = tls.and_then(|tls| checked_tls("operations", tls, problems));
        let open = self.admin_tokens_file.is_some() && !self.listen.ip().is_loopback();
        let unsure = [CERTIFICATE, KEY, "operations.listen"].iter().any(|key| problems.suspect(key));
        if open && !is_tls && !unsure {
            problems.add(
                CERTIFICATE,
                "is required with admin_tokens_file where listen is not a loopback address",
            );
        }
        let allowed = networks("operations", &self.allow_from, problems);
        OperationsConfig { listen: self.listen, admin_tokens_file: self.admin_tokens_file, tls, allowed }
    }
}

/// Reads all files of a listener's TLS, once, and makes its settings of them; `None` when something was noted.
fn checked_tls(table: &str, tls: TlsConfig, problems: &mut Problems) -> Option<CheckedTls> {
    if problems.suspect(&format!("{table}.tls_min_version")) {
        return None;
    }
    let noted = |faults: Vec<TlsError>| {
        for fault in faults {
            problems.add(format!("{table}.{}", fault.key()), fault);
        }
    };
    tls.checked().map_err(noted).ok()
}

fn cipher_suites(
    table: &str,
    names: &[String],
    problems: &mut Problems,
) -> Vec<rustls::SupportedCipherSuite> {
    let named = names.iter().enumerate();
    let parsed = named
        .map(|(at, name)| problems.check(&format!("{table}.tls_cipher_suites[{at}]"), suites::parse(name)));
    // With a name that is wrong it is not known whether the others are enough: all are taken, and nothing more is said.
    parsed.collect::<Vec<_>>().into_iter().collect::<Option<_>>().unwrap_or_default()
}

fn client_certificates(
    ask: AskClients,
    ca_file: Option<PathBuf>,
    crl_file: Option<PathBuf>,
    problems: &mut Problems,
) -> Option<ClientCertificates> {
    const CA: &str = "callback.client_ca_file";
    match (ask, ca_file) {
        (AskClients::Off, ca_file) => {
            let given = [(CA, ca_file), ("callback.client_crl_file", crl_file)];
            if let Some((key, _)) = given.iter().find(|(_, file)| file.is_some())
                && !problems.suspect("callback.client_certificates")
            {
                problems.add(*key, "has no meaning while client_certificates is off");
            }
            None
        }
        (_, None) => {
            if !problems.suspect(CA) {
                problems.add(CA, "is required where clients are asked for certificates");
            }
            None
        }
        (ask, Some(ca_file)) => {
            Some(ClientCertificates { required: ask == AskClients::Required, ca_file, crl_file })
        }
    }
}

fn networks(table: &str, texts: &[String], problems: &mut Problems) -> AllowList {
    let texts = texts.iter().enumerate();
    let networks = texts
        .filter_map(|(at, text)| problems.check(&format!("{table}.allow_from[{at}]"), text.parse()))
        .collect();
    AllowList::new(networks)
}

impl RawToken {
    fn check(&self, heartbeat_secs: u64, problems: &mut Problems) {
        const MAX_AGE: &str = "token.max_age_secs";
        let lengths = [
            ("token.period_secs", self.period_secs),
            ("token.overlap_secs", self.overlap_secs),
            (MAX_AGE, self.max_age_secs),
        ];
        for (key, secs) in lengths {
            at_least(problems, key, secs, 1);
        }
        // A token bears the begin of its period, the next one goes out with a heartbeat, and the overlap begins then.
        let least = self.period_secs.saturating_add(self.overlap_secs).saturating_add(heartbeat_secs);
        if self.max_age_secs < least && !lengths.iter().any(|(key, _)| problems.suspect(key)) {
            problems.add(
                MAX_AGE,
                format!(
                    "must be at least {least}, which is period_secs, the longest heartbeat_interval_secs and overlap_secs \
                     together: else tokens end before the next ones have taken their place"
                ),
            );
        }
        let files = [
            ("token.secret_file", &self.secret_file),
            ("token.previous_secret_file", &self.previous_secret_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                problems.check(key, TokenKey::read(file));
            }
        }
    }
}

impl RawSpool {
    fn check(&self, problems: &mut Problems) {
        const SOONEST: &str = "spool.repeat_soonest_millis";
        const WINDOW: &str = "spool.repeat_window_secs";
        at_least(problems, "spool.max_bytes", self.max_bytes, LEAST_SPOOL_BYTES);
        within(problems, "spool.low_water_percent", u64::from(self.low_water_percent), 1, 100);
        at_least(
            problems,
            "spool.max_dead_letter_bytes",
            self.max_dead_letter_bytes,
            LEAST_DEAD_LETTER_BYTES,
        );
        spool_place::check(&self.directory, problems);
        within(problems, WINDOW, self.repeat_window_secs, 1, LONGEST_SECS);
        within(problems, "spool.call_expiry_secs", self.call_expiry_secs, 60, LONGEST_CALL_SECS);
        let too_late = self.repeat_soonest_millis / 1000 >= self.repeat_window_secs;
        if too_late && !problems.suspect(WINDOW) {
            problems.add(SOONEST, "must be less than repeat_window_secs, or no repeat is ever recognised");
        }
    }
}

impl RawSink {
    /// The broker's rules for topics, and the topic where none is configured; none when it is not known which broker.
    fn topics(&self) -> Option<(TopicRules, &'static str)> {
        match (&self.kafka, &self.mqtt, &self.jsonl) {
            (Some(_), None, None) => Some((TopicRules::Kafka, KAFKA_TOPIC)),
            (None, Some(_), None) => Some((TopicRules::Mqtt, MQTT_TOPIC)),
            (None, None, Some(_)) => Some((TopicRules::Free, KAFKA_TOPIC)),
            _ => None,
        }
    }

    /// What it says of its own way, beside what routes say.
    fn own_way(&self, name: &str, problems: &mut Problems) -> OwnWay {
        let topic = self.topics().and_then(|(rules, default)| {
            let topic = TopicTemplate::parse(self.topic.as_deref().unwrap_or(default), rules);
            problems.check(&format!("sinks.{name}.topic"), topic)
        });
        OwnWay {
            topic,
            unrouted: self.unrouted,
            mask: self.mask.clone(),
            drop_raw: self.drop_raw,
            topics: self.topics().map(|(rules, _)| rules),
        }
    }

    fn validate(self, name: String, router: Option<Router>, problems: &mut Problems) -> Option<SinkConfig> {
        let key = format!("sinks.{name}");
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        {
            problems.add(&key, "a sink's name is made of a-z, 0-9, - and _");
        }
        let window = self.window.unwrap_or(if self.kafka.is_some() { KAFKA_WINDOW } else { WINDOW });
        within(problems, &format!("{key}.window"), window as u64, 1, MOST_IN_FLIGHT);
        within(problems, &format!("{key}.stall_timeout_secs"), self.stall_timeout_secs, 1, LONGEST_SECS);
        let Some((rules, _)) = self.topics() else {
            if !["kafka", "mqtt", "jsonl"].iter().any(|kind| problems.suspect(&format!("{key}.{kind}"))) {
                problems.add(&key, "exactly one of the tables kafka, mqtt and jsonl is needed");
            }
            return None;
        };
        let stall_timeout = Duration::from_secs(self.stall_timeout_secs);
        let kind = match (self.kafka, self.mqtt, self.jsonl) {
            (Some(kafka), ..) => {
                let config = kafka.validate(stall_timeout, &format!("{key}.kafka"), problems);
                config.map(|c| SinkKind::Kafka(Box::new(c)))
            }
            (_, Some(mqtt), _) => {
                mqtt.validate(&format!("{key}.mqtt"), problems).map(|c| SinkKind::Mqtt(Box::new(c)))
            }
            (.., jsonl) => {
                jsonl.and_then(|jsonl| jsonl.validate(&format!("{key}.jsonl"), problems)).map(SinkKind::Jsonl)
            }
        };
        let copies_key = format!("{key}.dead_letter_topic");
        let copies = self.dead_letter_topic.filter(|text| !text.is_empty());
        if copies.is_some() && rules == TopicRules::Free {
            problems.add(&copies_key, "has no meaning here: a file has no topics");
        }
        let dead_letter_topic =
            copies.and_then(|text| problems.check(&copies_key, TopicTemplate::parse(&text, rules)));
        Some(SinkConfig {
            name,
            from: self.from,
            when_full: self.when_full,
            repeats: self.repeats,
            window,
            stall_timeout,
            router: router?,
            dead_letter_topic,
            kind: kind?,
        })
    }
}

/// No time-out needs more than a day, and the arithmetic of clocks stays far from its end.
const LONGEST_SECS: u64 = 24 * 3600;
/// Above what one process can have open.
const MOST_CONNECTIONS: u64 = 1_000_000;
/// An event with what documents and clients put into it has some hundred bytes, and several may come in one push.
const LEAST_BODY_BYTES: u64 = 4096;
/// A few thousand events: with less, pushes are refused for each hiccup of a broker.
const LEAST_SPOOL_BYTES: u64 = 4 << 20;
/// One of the largest bodies that are taken by default: where a letter never finds room, its sink waits for ever.
const LEAST_DEAD_LETTER_BYTES: u64 = MAX_BODY_BYTES as u64;
/// Every connection may hold one body in memory.
const MOST_BODY_BYTES: u64 = 64 << 20;
const MOST_HEAD_BYTES: u64 = 1 << 20;
/// All that is in flight is in memory.
const MOST_IN_FLIGHT: u64 = 1_000_000;

fn within(problems: &mut Problems, key: &str, value: u64, least: u64, most: u64) {
    if !(least..=most).contains(&value) {
        problems.add(key, format!("must be between {least} and {most}"));
    }
}

fn at_least(problems: &mut Problems, key: &str, value: u64, least: u64) {
    if value < least {
        problems.add(key, format!("must be at least {least}"));
    }
}
