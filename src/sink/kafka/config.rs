//! The Kafka section of the configuration: few keys of our own, and a pass-through for the rest of librdkafka's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, ProducerContext};
use rdkafka::types::RDKafkaConfRes;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::brokers;
use crate::config::Problems;
use crate::event::Event;
use crate::sink::encoding::Encoding;
use crate::sink::on_error::OnError;
use crate::sink::secret::SecretFile;
use crate::sink::{DeliveryError, Disposition};

/// JSON shrinks to a quarter or less, for less CPU time per byte saved than any other codec; brokers know it since 2.1.
const COMPRESSION: &str = "zstd";
/// A batch waits this long for company. Events are wanted within milliseconds, and under load batches fill by themselves.
const LINGER_MILLIS: &str = "2";
/// Records that wait in the client. Far above any worker's window, which is the limit that counts.
const QUEUE_RECORDS: &str = "200000";
/// Twice librdkafka's own socket timeout: what has not moved by then will not move in this client.
const STALL_TIMEOUT_SECS: u64 = 120;
/// How long a topic that the brokers do not know may be about to come: one that was just made is known everywhere within
/// seconds. librdkafka's own 30 s are no less than a worker waits for a confirmation, and nobody would ever hear of it.
const TOPIC_PATIENCE_MILLIS: u128 = 10_000;
const TOPIC_PATIENCE: &str = "topic.metadata.propagation.max.ms";
/// What a connection may take to be there, with TLS and login. librdkafka's own 30 s are as long as a worker waits for a confirmation,
/// so of a name's addresses it would never try a second one.
const SETUP_PATIENCE: &str = "socket.connection.setup.timeout.ms";
/// librdkafka's least, and the most that is wanted.
const SETUP_PATIENCE_MILLIS: std::ops::RangeInclusive<u128> = 1_000..=10_000;
/// A name that is looked up anew for each connection, as it is after librdkafka's own 1 s, has its addresses in an order drawn
/// anew, and one that is silent may be the first again and again. Kept, they are tried by turns.
const ADDRESS_LIFE: &str = "broker.address.ttl";
/// librdkafka's default.
const BATCH_BYTES: usize = 1_000_000;

const BROKERS: &str = "bootstrap.servers";
const CA_FILE: &str = "ssl.ca.location";
const CERTIFICATE_FILE: &str = "ssl.certificate.location";
const KEY_FILE: &str = "ssl.key.location";
const PROTOCOL: &str = "security.protocol";
const MECHANISM: &str = "sasl.mechanism";
const VERIFICATION: &str = "enable.ssl.certificate.verification";
const SERVER_NAME: &str = "ssl.endpoint.identification.algorithm";

/// Properties of librdkafka that carry our promise or have a key of their own, each with what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("acks", ALL_REPLICAS),
    ("request.required.acks", ALL_REPLICAS),
    ("enable.idempotence", ORDER),
    ("enable.gapless.guarantee", ORDER),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    ("queuing.strategy", ORDER),
    ("message.timeout.ms", FOREVER),
    ("delivery.timeout.ms", FOREVER),
    ("retries", FOREVER),
    ("message.send.max.retries", FOREVER),
    ("delivery.report.only.error", "is set by ccrelay: every record needs its delivery report"),
    ("transactional.id", "cannot be set: ccrelay does not use transactions"),
    ("transaction.timeout.ms", "cannot be set: ccrelay does not use transactions"),
    ("statistics.interval.ms", "cannot be set: ccrelay has metrics of its own"),
    ("plugin.library.paths", "cannot be set: ccrelay loads no code"),
    ("bootstrap.servers", "has a key of its own: bootstrap_servers"),
    ("metadata.broker.list", "has a key of its own: bootstrap_servers"),
    ("compression.codec", "has a key of its own: compression"),
    ("compression.type", "has a key of its own: compression"),
    ("security.protocol", "has a key of its own: security.protocol"),
    ("ssl.ca.location", "has a key of its own: security.ca_file"),
    ("ssl.certificate.location", "has a key of its own: security.client_cert_file"),
    ("ssl.key.location", "has a key of its own: security.client_key_file"),
    ("sasl.mechanism", "has a key of its own: security.sasl_mechanism"),
    ("sasl.mechanisms", "has a key of its own: security.sasl_mechanism"),
    ("sasl.username", "has a key of its own: security.username"),
    ("sasl.password", SECRET),
    ("ssl.key.password", SECRET),
    ("ssl.key.pem", SECRET),
    ("ssl.keystore.password", SECRET),
    ("sasl.oauthbearer.client.secret", SECRET),
];
const ALL_REPLICAS: &str = "is set by ccrelay: a record is confirmed when all in-sync replicas have it";
const ORDER: &str = "is set by ccrelay: it keeps the order of each agent's events";
const FOREVER: &str = "is set by ccrelay: a slow broker must not become a failed delivery";
const SECRET: &str = "is a secret and has no place here; use the files of the security section";

/// Partitioners that send equal keys to one partition, and so keep an agent's events in order.
const PARTITIONERS: &[&str] =
    &["murmur2", "murmur2_random", "consistent", "consistent_random", "fnv1a", "fnv1a_random"];
const COMPRESSIONS: &[&str] = &["zstd", "lz4", "gzip", "snappy", "none"];
const PROTOCOLS: &[&str] = &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const MECHANISMS: &[&str] = &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// The section as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOptions {
    /// Brokers to begin with, `host:port,host:port`. Required.
    pub bootstrap_servers: String,
    /// CloudEvents content mode: `binary` or `structured`.
    pub encoding: Encoding,
    /// What records have as their key.
    pub key: Key,
    /// `zstd`, `lz4`, `gzip`, `snappy` or `none`.
    pub compression: String,
    /// Without any delivery report for so long, with records in flight, the client is rebuilt.
    pub stall_timeout_secs: u64,
    /// What errors lead to that are of one record.
    pub on_error: KafkaOnErrorOptions,
    /// Encryption and authentication.
    pub security: KafkaSecurityOptions,
    /// Further properties of librdkafka by their own names.
    pub options: BTreeMap<String, OptionValue>,
}

impl Default for KafkaOptions {
    fn default() -> KafkaOptions {
        KafkaOptions {
            bootstrap_servers: String::new(),
            encoding: Encoding::default(),
            key: Key::default(),
            compression: COMPRESSION.to_owned(),
            stall_timeout_secs: STALL_TIMEOUT_SECS,
            on_error: KafkaOnErrorOptions::default(),
            security: KafkaSecurityOptions::default(),
            options: BTreeMap::new(),
        }
    }
}

/// What a record has as its key. Each choice puts all events of an agent on one partition; any finer one, such as the call,
/// would not, and their order would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The agent's id.
    #[default]
    Agent,
    /// Gateway and agent, as `main/1001`: agents of one id at two gateways have two keys.
    GatewayAgent,
}

impl Key {
    /// The key of this event.
    pub(super) fn of(self, event: &Event) -> Cow<'_, str> {
        match self {
            Key::Agent => Cow::Borrowed(event.agent_id.as_str()),
            Key::GatewayAgent => {
                Cow::Owned(format!("{}/{}", event.gateway.as_str(), event.agent_id.as_str()))
            }
        }
    }
}

/// The section `on_error` as it is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOnErrorOptions {
    /// The record is larger than the topic or the client allows.
    pub too_large: Disposition,
    /// The topic does not exist.
    pub unknown_topic: Disposition,
    /// The user may not write to the topic, or is refused altogether.
    pub not_authorised: Disposition,
    /// No topic can have this name.
    pub topic_invalid: Disposition,
    /// The broker refuses the record.
    pub record_refused: Disposition,
    /// The broker refuses the record's timestamp.
    pub timestamp_refused: Disposition,
}

impl Default for KafkaOnErrorOptions {
    /// What a person may mend at any time waits for it; what is in the record itself never mends. The timestamp is never ahead of our
    /// clock, so one that is refused says that this clock is, in all likelihood, and each record would be set aside for it.
    fn default() -> KafkaOnErrorOptions {
        KafkaOnErrorOptions {
            too_large: Disposition::DeadLetter,
            unknown_topic: Disposition::Retry,
            not_authorised: Disposition::Retry,
            topic_invalid: Disposition::DeadLetter,
            record_refused: Disposition::DeadLetter,
            timestamp_refused: Disposition::Retry,
        }
    }
}

impl KafkaOnErrorOptions {
    fn choices(self) -> OnError {
        OnError::new([
            ("too_large", self.too_large),
            ("unknown_topic", self.unknown_topic),
            ("not_authorised", self.not_authorised),
            ("topic_invalid", self.topic_invalid),
            ("record_refused", self.record_refused),
            ("timestamp_refused", self.timestamp_refused),
        ])
    }
}

/// The section `security` as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSecurityOptions {
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub protocol: String,
    /// PEM file of the authorities to trust; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client's key, not encrypted.
    pub client_key_file: Option<PathBuf>,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: String,
    /// SASL user.
    pub username: Option<String>,
    /// File that holds the SASL password and nothing else. It is read for each client, as after each failure.
    pub password_file: Option<PathBuf>,
}

impl Default for KafkaSecurityOptions {
    fn default() -> KafkaSecurityOptions {
        KafkaSecurityOptions {
            protocol: "plaintext".to_owned(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            sasl_mechanism: "SCRAM-SHA-512".to_owned(),
            username: None,
            password_file: None,
        }
    }
}

/// A property's value in whatever type it is most naturally written.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, true or false")]
pub enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A fraction.
    Float(f64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::Bool(value) => write!(f, "{value}"),
            OptionValue::Integer(value) => write!(f, "{value}"),
            OptionValue::Float(value) => write!(f, "{value}"),
            OptionValue::Text(value) => f.write_str(value),
        }
    }
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// CloudEvents content mode.
    pub encoding: Encoding,
    /// What records have as their key.
    pub(super) key: Key,
    /// How long nothing may be confirmed, with records in flight, before the client is given up.
    pub stall_timeout: Duration,
    /// What a batch may hold at first.
    pub(super) batch_bytes: usize,
    /// What the operator wants done about errors.
    pub(super) on_error: Arc<OnError>,
    properties: BTreeMap<String, String>,
    password: Option<SecretFile>,
}

impl KafkaConfig {
    /// The configuration of a new client, with the password in it as its file has it now: not for logs.
    pub(super) fn client_config(&self) -> Result<ClientConfig, DeliveryError> {
        let mut config: ClientConfig = self.properties.clone().into_iter().collect();
        if let Some(password) = &self.password {
            config.set("sasl.password", password.read()?.expose_secret());
        }
        Ok(config)
    }

    /// Files of the authorities and of our own certificate.
    #[must_use]
    pub fn certificate_files(&self) -> (Option<&Path>, Option<&Path>) {
        let file = |property: &str| self.properties.get(property).map(Path::new);
        (file(CA_FILE), file(CERTIFICATE_FILE))
    }

    /// Files of the password and of our own certificate's key.
    #[must_use]
    pub fn secret_files(&self) -> [Option<&Path>; 2] {
        [self.password.as_ref().map(SecretFile::path), self.properties.get(KEY_FILE).map(Path::new)]
    }

    /// What makes its connections unsafe where they leave this machine, each with its key.
    #[must_use]
    pub fn unsafe_choices(&self) -> Vec<String> {
        let property = |name: &str| self.properties.get(name).map_or("", String::as_str);
        let protocol = property(PROTOCOL);
        if brokers::are_here(property(BROKERS), protocol) {
            return Vec::new();
        }
        let mut said = Vec::new();
        let tls = protocol.ends_with("ssl");
        if tls && ["false", "f", "0"].contains(&property(VERIFICATION).to_ascii_lowercase().as_str()) {
            said.push(format!(
                "options.\"{VERIFICATION}\": whoever answers is believed to be the broker, and gets the events and the password"
            ));
        } else if tls && property(SERVER_NAME).eq_ignore_ascii_case("none") {
            said.push(format!(
                "options.\"{SERVER_NAME}\": whoever has any certificate of the authorities is believed to be the broker, and gets the \
                 events and the password"
            ));
        }
        if protocol == "sasl_plaintext" && property(MECHANISM) == "PLAIN" {
            said.push(
                "security: the password goes to the brokers in clear text (sasl_plaintext with PLAIN)"
                    .to_owned(),
            );
        }
        said
    }

    /// Has librdkafka make a client and lets it go: only then does it read certificates and keys, and compare properties with each
    /// other. Without brokers it connects to nobody.
    fn try_out(&self) -> Result<(), String> {
        let mut config = self.client_config().map_err(|error| error.detail)?;
        config.remove(BROKERS);
        let made: Result<BaseProducer<Silent>, _> = config.create_with_context(Silent);
        made.map(drop).map_err(|error| match error {
            KafkaError::ClientCreation(reason) => reason,
            // The others hold values, and one may be a secret.
            _ => "librdkafka refuses it".to_owned(),
        })
    }
}

/// Of a client that is only tried out nothing is logged: what counts is whether it can be made.
struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Silent {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// The key that librdkafka speaks of, as far as its words tell.
fn place(reason: &str) -> String {
    let ours = [
        ("ssl.ca.location", ".security.ca_file"),
        ("ssl.certificate.location", ".security.client_cert_file"),
        ("ssl.key.location", ".security.client_key_file"),
        ("rivate key", ".security.client_key_file"),
    ];
    let known = ours.iter().find(|(words, _)| reason.contains(words));
    known.map_or(String::new(), |(_, key)| (*key).to_owned())
}

impl KafkaOptions {
    /// Checks the section for a worker that gives the client up after `patience` without a confirmation; every mistake goes
    /// to `problems` under `key_prefix`.
    pub fn validate(
        self,
        patience: Duration,
        key_prefix: &str,
        problems: &mut Problems,
    ) -> Option<KafkaConfig> {
        let before = problems.found().len();
        let mut properties = promise();
        let brokers = brokers::parse(&self.bootstrap_servers, &self.security.protocol);
        let brokers = problems.check(&format!("{key_prefix}.bootstrap_servers"), brokers);
        properties.extend(brokers.map(|brokers| (BROKERS.to_owned(), brokers)));
        one_of(problems, &format!("{key_prefix}.compression"), &self.compression, COMPRESSIONS);
        properties.insert("compression.type".into(), self.compression);
        if self.stall_timeout_secs == 0 {
            problems.add(format!("{key_prefix}.stall_timeout_secs"), "must be at least 1");
        }
        let password = self.security.validate(&format!("{key_prefix}.security"), problems, &mut properties);
        for (name, value) in self.options {
            let value = value.to_string();
            let key = format!("{key_prefix}.options.\"{name}\"");
            if let Some(message) = refusal(&name, &value) {
                problems.add(key, message);
            } else {
                properties.insert(name, value);
            }
        }
        let patience = patience.min(Duration::from_secs(self.stall_timeout_secs));
        topic_patience(patience, &mut properties, key_prefix, problems);
        connection_patience(patience, &mut properties);
        let batch_bytes = properties.get("batch.size").and_then(|v| v.parse().ok()).unwrap_or(BATCH_BYTES);
        if problems.found().len() > before {
            return None;
        }
        let config = KafkaConfig {
            encoding: self.encoding,
            key: self.key,
            stall_timeout: Duration::from_secs(self.stall_timeout_secs),
            batch_bytes,
            on_error: Arc::new(self.on_error.choices()),
            properties,
            password,
        };
        let made = config.try_out();
        if let Err(reason) = &made {
            problems.add(
                format!("{key_prefix}{}", place(reason)),
                format!("no client can be made of it: {reason}"),
            );
        }
        made.ok().map(|()| config)
    }
}

impl KafkaSecurityOptions {
    fn validate(
        self,
        key: &str,
        problems: &mut Problems,
        properties: &mut BTreeMap<String, String>,
    ) -> Option<SecretFile> {
        one_of(problems, &format!("{key}.protocol"), &self.protocol, PROTOCOLS);
        let tls = self.protocol.ends_with("ssl");
        let sasl = self.protocol.starts_with("sasl");
        let files = [
            ("ca_file", CA_FILE, &self.ca_file),
            ("client_cert_file", CERTIFICATE_FILE, &self.client_cert_file),
            ("client_key_file", KEY_FILE, &self.client_key_file),
        ];
        for (name, property, path) in files {
            let Some(path) = path else { continue };
            let key = format!("{key}.{name}");
            if !tls {
                problems.add(key, "has no meaning unless protocol is ssl or sasl_ssl");
            } else if let Some(path) = readable(problems, &key, path) {
                properties.insert(property.into(), path);
            }
        }
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            problems.add(
                format!("{key}.client_cert_file"),
                "client_cert_file and client_key_file belong together",
            );
        }
        properties.insert(PROTOCOL.into(), self.protocol);
        if !sasl {
            if self.username.is_some() || self.password_file.is_some() {
                problems.add(
                    format!("{key}.username"),
                    "has no meaning unless protocol is sasl_ssl or sasl_plaintext",
                );
            }
            return None;
        }
        one_of(problems, &format!("{key}.sasl_mechanism"), &self.sasl_mechanism, MECHANISMS);
        properties.insert(MECHANISM.into(), self.sasl_mechanism);
        match self.username {
            Some(username) if !username.is_empty() => {
                properties.insert("sasl.username".into(), username);
            }
            _ => problems.add(format!("{key}.username"), "is required with SASL"),
        }
        let password_key = format!("{key}.password_file");
        let Some(path) = self.password_file else {
            problems.add(password_key, "is required with SASL");
            return None;
        };
        problems.check(&password_key, SecretFile::checked(path))
    }
}

/// What every client of ours has, whatever the operator says.
fn promise() -> BTreeMap<String, String> {
    [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        // Zero is for ever: waiting is the worker's business, and a time-out here would reorder events.
        ("message.timeout.ms", "0"),
        ("retries", "2147483647"),
        ("delivery.report.only.error", "false"),
        ("queue.buffering.max.messages", QUEUE_RECORDS),
        ("linger.ms", LINGER_MILLIS),
        // The Java client's, so that all producers of a topic agree where an agent's events are.
        ("partitioner", "murmur2_random"),
        ("client.id", "ccrelay"),
        ("socket.nagle.disable", "true"),
        ("log.connection.close", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

/// An unknown topic is told before whoever waits for a confirmation has lost patience.
fn topic_patience(
    patience: Duration,
    properties: &mut BTreeMap<String, String>,
    key_prefix: &str,
    problems: &mut Problems,
) {
    let patience = patience.as_millis();
    let own = (patience / 3).min(TOPIC_PATIENCE_MILLIS).to_string();
    let chosen = properties.entry(TOPIC_PATIENCE.to_owned()).or_insert(own);
    if patience > 0 && chosen.parse().is_ok_and(|millis: u128| millis >= patience) {
        let key = format!("{key_prefix}.options.\"{TOPIC_PATIENCE}\"");
        problems.add(key, "must be less than stall_timeout_secs, or an unknown topic is only ever stalled");
    }
}

/// An address that takes connections and says nothing leaves time for the others of its name.
fn connection_patience(patience: Duration, properties: &mut BTreeMap<String, String>) {
    let millis = patience.as_millis();
    let (least, most) = SETUP_PATIENCE_MILLIS.into_inner();
    let setup = (millis / 3).clamp(least, most).to_string();
    properties.entry(SETUP_PATIENCE.to_owned()).or_insert(setup);
    properties.entry(ADDRESS_LIFE.to_owned()).or_insert(millis.min(30_000).to_string());
}

/// Why a pass-through property cannot be taken, if so.
fn refusal(name: &str, value: &str) -> Option<String> {
    if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        return Some((*reason).to_owned());
    }
    if name == "partitioner" && !PARTITIONERS.contains(&value) {
        return Some(format!("must keep an agent on one partition: one of {}", PARTITIONERS.join(", ")));
    }
    let tried = ClientConfig::new().set(name, value).create_native_config();
    // The error itself holds the value, which may be a secret under a misspelt name.
    tried.err().map(|error| match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            "librdkafka has no such property".to_owned()
        }
        _ => "librdkafka refuses this value".to_owned(),
    })
}

fn one_of(problems: &mut Problems, key: &str, value: &str, choices: &[&str]) {
    if !choices.contains(&value) {
        problems.add(key, format!("must be one of {}", choices.join(", ")));
    }
}

fn readable(problems: &mut Problems, key: &str, path: &Path) -> Option<String> {
    let opened =
        std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    problems.check(key, opened)?;
    let text = path.to_str().map(str::to_owned).ok_or("the path must be UTF-8");
    problems.check(key, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KafkaConfig, Vec<String>> {
        let options: KafkaOptions = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        let mut problems = Problems::default();
        let config = options.validate(Duration::from_secs(30), "sinks.kafka", &mut problems);
        config.ok_or_else(|| problems.found().iter().map(|p| format!("{}: {}", p.key, p.message)).collect())
    }

    #[test]
    fn defaults_promise_confirmation_by_all_replicas_in_order_for_ever() {
        let config = parse("bootstrap_servers = 'a:1'").unwrap().client_config().unwrap();
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
        assert_eq!(config.get("message.timeout.ms"), Some("0"));
        assert_eq!(config.get("compression.type"), Some("zstd"));
        config.create_native_config().unwrap();
    }

    #[test]
    fn properties_that_carry_the_promise_cannot_be_overridden() {
        for (name, _) in RESERVED {
            let found = parse(&format!("bootstrap_servers = 'a:1'\n[options]\n'{name}' = '1'")).unwrap_err();
            assert!(found[0].starts_with(&format!("sinks.kafka.options.\"{name}\": ")), "{found:?}");
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_key() {
        let text = "compression = 'rar'\n[security]\nprotocol = 'sasl_ssl'\nca_file = '/nonexistent/ca.pem'\n\
                    [options]\n'linger.ms' = 'soon'\n'no.such' = 1\npartitioner = 'random'";
        let found = parse(text).unwrap_err();
        for key in [
            "sinks.kafka.bootstrap_servers: ",
            "sinks.kafka.compression: ",
            "sinks.kafka.security.ca_file: ",
            "sinks.kafka.security.username: ",
            "sinks.kafka.security.password_file: ",
            "sinks.kafka.options.\"linger.ms\": ",
            "sinks.kafka.options.\"no.such\": ",
            "sinks.kafka.options.\"partitioner\": ",
        ] {
            assert!(found.iter().any(|f| f.starts_with(key)), "{key} is missing in {found:#?}");
        }
        assert_eq!(found.len(), 8, "{found:#?}");
    }

    #[test]
    fn an_unknown_topic_is_told_before_anybody_loses_patience() {
        let patience = |lines: &str| {
            let config =
                parse(&format!("bootstrap_servers = 'a:1'\n{lines}")).unwrap().client_config().unwrap();
            config.get(TOPIC_PATIENCE).map(str::to_owned)
        };
        assert_eq!(patience("").as_deref(), Some("10000"));
        assert_eq!(patience("stall_timeout_secs = 6").as_deref(), Some("2000"));
        assert_eq!(patience("options = {'topic.metadata.propagation.max.ms' = 500}").as_deref(), Some("500"));
        let late = "bootstrap_servers = 'a:1'\noptions = {'topic.metadata.propagation.max.ms' = 30000}";
        let found = parse(late).unwrap_err();
        assert!(found[0].starts_with("sinks.kafka.options.\"topic.metadata"), "{found:?}");
    }

    #[test]
    fn a_silent_address_leaves_time_for_the_next_one() {
        let set = |lines: &str| {
            let config =
                parse(&format!("bootstrap_servers = 'a:1'\n{lines}")).unwrap().client_config().unwrap();
            [SETUP_PATIENCE, ADDRESS_LIFE].map(|name| config.get(name).unwrap().to_owned())
        };
        assert_eq!(set(""), ["10000", "30000"]);
        assert_eq!(set("stall_timeout_secs = 6"), ["2000", "6000"]);
        assert_eq!(set("stall_timeout_secs = 1"), ["1000", "1000"]);
        let chosen = "[options]\n'socket.connection.setup.timeout.ms' = 2500\n'broker.address.ttl' = 500";
        assert_eq!(set(chosen), ["2500", "500"]);
    }

    #[test]
    fn what_no_client_can_be_made_of_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let certified = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(["relay".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((cert, key), (_, other_key)) = (certified(), certified());
        for (name, text) in [
            ("cert.pem", cert.as_str()),
            ("key.pem", &key),
            ("other.pem", &other_key),
            ("noise.pem", "this is no PEM"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let tls = |lines: &str| {
            let security = format!("[security]\nprotocol = 'ssl'\n{lines}");
            parse(&format!("bootstrap_servers = 'a:1'\n{}", security.replace("FOLDER", &at.to_string())))
        };
        let pair =
            |key: &str| format!("client_cert_file = 'FOLDER/cert.pem'\nclient_key_file = 'FOLDER/{key}'");
        tls("ca_file = 'FOLDER/cert.pem'").unwrap();
        tls(&pair("key.pem")).unwrap();
        for (options, place) in [
            (tls("ca_file = 'FOLDER/noise.pem'"), ".security.ca_file"),
            (tls(&pair("other.pem")), ".security.client_key_file"),
            (tls("[options]\n'ssl.ca.pem' = 'this is no PEM'"), ""),
            (parse("bootstrap_servers = 'a:1'\noptions = {'reconnect.backoff.ms' = 20000}"), ""),
        ] {
            let found = options.unwrap_err();
            let begin = format!("sinks.kafka{place}: no client can be made of it: ");
            assert!(found.len() == 1 && found[0].starts_with(&begin), "{begin}\n{found:#?}");
        }
    }

    #[test]
    fn what_makes_connections_unsafe_is_told_unless_they_stay_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hush-hush").unwrap();
        let said = |brokers: &str, protocol: &str, lines: &str| {
            let login = match protocol.starts_with("sasl") {
                true => format!("username = 'relay'\npassword_file = '{}'\n", file.display()),
                false => String::new(),
            };
            let text = format!(
                "bootstrap_servers = '{brokers}'\n[security]\nprotocol = '{protocol}'\n{login}{lines}"
            );
            parse(&text).unwrap().unsafe_choices().join("; ")
        };
        for lines in [
            "[options]\n'enable.ssl.certificate.verification' = false",
            "[options]\n'enable.ssl.certificate.verification' = 'F'",
            "[options]\n'ssl.endpoint.identification.algorithm' = 'none'",
        ] {
            assert!(said("k1:9093", "ssl", lines).contains("is believed to be the broker"), "{lines}");
            assert_eq!(said("localhost:9093,[::1]:9093", "ssl", lines), "");
            assert_eq!(said("k1:9093", "plaintext", lines), "", "it has no meaning there");
        }
        let plain = "sasl_mechanism = 'PLAIN'";
        assert!(said("k1", "sasl_plaintext", plain).contains("in clear text"));
        assert_eq!(said("k1", "sasl_ssl", plain) + &said("k1", "sasl_plaintext", ""), "");
        assert_eq!(said("k1", "ssl", ""), "");
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(parse("bootstrap_server = 'a:1'").unwrap_err()[0].contains("unknown field"));
    }

    #[test]
    fn the_password_is_used_as_it_is_then_but_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hush-hush\n").unwrap();
        let config = parse(&format!(
            "bootstrap_servers = 'a:1'\n[options]\n'linger.ms' = 7\n[security]\nprotocol = 'sasl_plaintext'\n\
             username = 'relay'\npassword_file = '{}'",
            file.display()
        ))
        .unwrap();
        assert!(!format!("{config:?}").contains("hush-hush"));
        let client = config.client_config().unwrap();
        assert_eq!((client.get("sasl.password"), client.get("linger.ms")), (Some("hush-hush"), Some("7")));
        std::fs::write(&file, "rotated").unwrap();
        assert_eq!(config.client_config().unwrap().get("sasl.password"), Some("rotated"));
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(config.client_config().unwrap_err().reason, "client");
    }
}
