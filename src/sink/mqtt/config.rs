//! The MQTT section of the configuration.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use secrecy::SecretString;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use crate::config::Problems;
use crate::route::{TopicRules, TopicTemplate};
use crate::sink::encoding::Encoding;
use crate::sink::on_error::OnError;
use crate::sink::secret::SecretFile;
use crate::sink::{DeliveryError, Disposition, is_here};

/// Often enough that a dead broker is noticed within half a minute (one and a half of these).
const KEEP_ALIVE_SECS: u16 = 15;
/// The client library allows no less.
const LEAST_KEEP_ALIVE_SECS: u16 = 5;
/// A broker that answers pings but has confirmed nothing for so long has forgotten what it owes.
const STALL_TIMEOUT_SECS: u64 = 60;
/// Enough to fill a link of 50 ms at 20,000 messages a second; brokers often allow less and say so.
const MAX_IN_FLIGHT: u16 = 1000;
/// What the status topic has a placeholder for.
const CLIENT_ID: &str = "{client_id}";
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

/// The section as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttOptions {
    /// `mqtt://host:port` or `mqtts://host:port`. Required.
    pub url: String,
    /// Version of the protocol: `5` or `"3.1.1"`.
    pub version: Version,
    /// Client id; `ccrelay-<sink>` when absent. Two relays at one broker need two.
    pub client_id: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password and nothing else. It is read for each connection.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust. Required with `mqtts`.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client's key, not encrypted.
    pub client_key_file: Option<PathBuf>,
    /// Interval of pings.
    pub keep_alive_secs: u16,
    /// Quality of service: 0, 1 or 2.
    pub qos: u8,
    /// How long the broker may keep the session of a connection that is gone.
    pub session_expiry_secs: u32,
    /// CloudEvents content mode: `binary` (user properties) or `structured`. MQTT 3.1.1 has the latter only.
    pub encoding: Option<Encoding>,
    /// Where the relay's own status is retained; nowhere when absent.
    pub status_topic: Option<String>,
    /// Where the last state of each agent is retained; nowhere when absent.
    pub state_topic: Option<String>,
    /// Messages sent and not yet confirmed; the broker's receive maximum lowers it.
    pub max_in_flight: u16,
    /// Without any confirmation for so long, with messages in flight, the connection is given up.
    pub stall_timeout_secs: u64,
    /// Larger packets are set aside; for brokers that close the connection instead of naming their limit.
    pub max_packet_bytes: Option<u32>,
    /// What errors lead to that are of one message.
    pub on_error: MqttOnErrorOptions,
}

/// The section `on_error` as it is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttOnErrorOptions {
    /// The message is larger than the broker or `max_packet_bytes` allows.
    pub too_large: Disposition,
    /// The user may not publish to the topic, or is refused altogether.
    pub not_authorised: Disposition,
    /// The broker has no room, or has had too much.
    pub quota: Disposition,
    /// No topic can have this name.
    pub topic_invalid: Disposition,
    /// The broker finds fault with the payload.
    pub payload_refused: Disposition,
    /// The broker refuses the message and does not say more than that.
    pub refused: Disposition,
}

impl Default for MqttOnErrorOptions {
    /// A quota is a matter of time, and so may be what the broker gives no reason for; the rest is a matter of the message.
    fn default() -> MqttOnErrorOptions {
        MqttOnErrorOptions {
            too_large: Disposition::DeadLetter,
            not_authorised: Disposition::DeadLetter,
            quota: Disposition::Retry,
            topic_invalid: Disposition::DeadLetter,
            payload_refused: Disposition::DeadLetter,
            refused: Disposition::Retry,
        }
    }
}

impl MqttOnErrorOptions {
    fn choices(self) -> OnError {
        OnError::new([
            ("too_large", self.too_large),
            ("not_authorised", self.not_authorised),
            ("quota", self.quota),
            ("topic_invalid", self.topic_invalid),
            ("payload_refused", self.payload_refused),
            ("refused", self.refused),
        ])
    }
}

/// Version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 5.
    #[default]
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        struct Versions;
        impl Visitor<'_> for Versions {
            type Value = Version;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("5 or \"3.1.1\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Version, E> {
                match number {
                    5 => Ok(Version::V5),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Version, E> {
                self.visit_u64(u64::try_from(number).unwrap_or_default())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Version, E> {
                match text {
                    "5" => Ok(Version::V5),
                    "3.1.1" => Ok(Version::V311),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Versions)
    }
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "these are the standard's words")]
pub(super) enum Quality {
    /// 0: a message is confirmed when it was written to the socket, which promises nothing.
    AtMostOnce,
    /// 1: by PUBACK.
    AtLeastOnce,
    /// 2: by PUBCOMP.
    ExactlyOnce,
}

impl Quality {
    fn of(level: u8) -> Option<Quality> {
        [Quality::AtMostOnce, Quality::AtLeastOnce, Quality::ExactlyOnce].get(usize::from(level)).copied()
    }

    /// As a number.
    pub(super) fn level(self) -> u8 {
        self as u8
    }
}

impl Default for MqttOptions {
    fn default() -> MqttOptions {
        MqttOptions {
            url: String::new(),
            version: Version::default(),
            client_id: None,
            username: None,
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            keep_alive_secs: KEEP_ALIVE_SECS,
            qos: 1,
            session_expiry_secs: 0,
            encoding: None,
            status_topic: None,
            state_topic: None,
            max_in_flight: MAX_IN_FLIGHT,
            stall_timeout_secs: STALL_TIMEOUT_SECS,
            max_packet_bytes: None,
            on_error: MqttOnErrorOptions::default(),
        }
    }
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<TlsFiles>,
    pub(super) version: Version,
    client_id: Option<String>,
    login: Option<(String, Option<SecretFile>)>,
    pub(super) keep_alive: Duration,
    pub(super) qos: Quality,
    pub(super) session_expiry_secs: u32,
    pub(super) encoding: Encoding,
    status_topic: Option<String>,
    pub(super) state_topic: Option<TopicTemplate>,
    pub(super) max_in_flight: u16,
    pub(super) stall_timeout: Duration,
    pub(super) max_packet_bytes: Option<u32>,
    pub(super) on_error: OnError,
}

impl MqttConfig {
    /// The host as it stands before a colon and a port.
    pub(super) fn host_before_port(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        }
    }

    /// What must be another one for every client: two that are equal throw each other out at the broker, for ever.
    #[must_use]
    pub fn session_of(&self, sink: &str) -> (&str, u16, String) {
        (&self.host, self.port, self.client_id(sink))
    }

    /// Files of the authorities and of our own certificate.
    #[must_use]
    pub fn certificate_files(&self) -> (Option<&Path>, Option<&Path>) {
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref());
        (self.tls.as_ref().map(|tls| tls.ca.as_path()), client.map(|(chain, _)| chain.as_path()))
    }

    /// Files of the password and of our own certificate's key.
    #[must_use]
    pub fn secret_files(&self) -> [Option<&Path>; 2] {
        let password = self.login.as_ref().and_then(|(_, file)| file.as_ref());
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref());
        [password.map(SecretFile::path), client.map(|(_, key)| key.as_path())]
    }

    /// What makes its connection unsafe where it leaves this machine, with its key.
    #[must_use]
    pub fn unsafe_choices(&self) -> Vec<String> {
        let [password, _] = self.secret_files();
        let open = self.tls.is_none() && password.is_some() && !is_here(&self.host);
        let said =
            || "url: the password goes to the broker in clear text (mqtt:// with password_file)".to_owned();
        open.then(said).into_iter().collect()
    }

    pub(super) fn client_id(&self, sink: &str) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("ccrelay-{sink}"))
    }

    /// User and password, which is empty where none is configured. It is read anew for each connection.
    pub(super) fn credentials(&self) -> Result<Option<(&str, SecretString)>, DeliveryError> {
        let Some((username, file)) = &self.login else { return Ok(None) };
        let password = file.as_ref().map(SecretFile::read).transpose()?;
        Ok(Some((username, password.unwrap_or_default())))
    }

    /// Where the relay's status is retained.
    pub(super) fn status_topic(&self, sink: &str) -> Option<String> {
        self.status_topic.as_ref().map(|topic| topic.replace(CLIENT_ID, &self.client_id(sink)))
    }

    /// Whether the relay's status is retained.
    pub(super) fn retains_status(&self) -> bool {
        self.status_topic.is_some()
    }

    /// Whether anything is to be retained by the broker.
    pub(super) fn retains(&self) -> bool {
        self.status_topic.is_some() || self.state_topic.is_some()
    }

    /// How long the library's queue must be: the window, and the relay's status.
    pub(super) fn queue(&self) -> usize {
        usize::from(self.max_in_flight) + 2
    }
}

/// Where the certificates are. They are read anew for each connection, so that renewed ones come into use.
#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    ca: PathBuf,
    client: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Text that names the file at fault.
    pub(super) fn load(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", self.ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{} has no usable key: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(certificates(chain)?, private)
                    .map_err(|error| format!("{}: {error}", chain.display()))?
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} holds no certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

impl MqttOptions {
    /// Checks the section; every mistake goes to `problems` under `key_prefix`.
    pub fn validate(self, key_prefix: &str, problems: &mut Problems) -> Option<MqttConfig> {
        let before = problems.found().len();
        let key = |name: &str| format!("{key_prefix}.{name}");
        let address = problems.check(&key("url"), address(&self.url));
        let tls = address.as_ref().and_then(|address| self.tls_files(address, key_prefix, problems));
        let qos = Quality::of(self.qos);
        if qos.is_none() {
            problems.add(key("qos"), "must be 0, 1 or 2");
        }
        let encoding = self.encoding(&key("encoding"), problems);
        if self.version == Version::V311 && self.session_expiry_secs > 0 {
            problems.add(key("session_expiry_secs"), "has no meaning in MQTT 3.1.1");
        }
        let status_topic = self.status_topic.as_deref().filter(|topic| !topic.is_empty());
        let status_topic =
            status_topic.and_then(|topic| problems.check(&key("status_topic"), status_topic_of(topic)));
        let state_topic = self.state_topic.as_deref().filter(|topic| !topic.is_empty());
        let state_topic =
            state_topic.and_then(|topic| problems.check(&key("state_topic"), state_topic_of(topic)));
        if self.keep_alive_secs < LEAST_KEEP_ALIVE_SECS {
            problems.add(key("keep_alive_secs"), format!("must be at least {LEAST_KEEP_ALIVE_SECS}"));
        }
        if self.max_in_flight == 0 {
            problems.add(key("max_in_flight"), "must be at least 1");
        }
        if self.stall_timeout_secs == 0 {
            problems.add(key("stall_timeout_secs"), "must be at least 1");
        }
        if self.client_id.as_deref() == Some("") {
            problems.add(key("client_id"), "must not be empty: leave it out for ccrelay-<sink>");
        }
        if self.password_file.is_some() && self.username.is_none() {
            problems.add(key("username"), "is required with password_file");
        }
        let password = self
            .password_file
            .and_then(|path| problems.check(&key("password_file"), SecretFile::checked(path)));
        let address = address.filter(|_| problems.found().len() == before)?;
        Some(MqttConfig {
            host: address.host,
            port: address.port,
            tls,
            version: self.version,
            client_id: self.client_id,
            login: self.username.map(|username| (username, password)),
            keep_alive: Duration::from_secs(self.keep_alive_secs.into()),
            qos: qos?,
            session_expiry_secs: self.session_expiry_secs,
            encoding,
            status_topic,
            state_topic,
            max_in_flight: self.max_in_flight,
            stall_timeout: Duration::from_secs(self.stall_timeout_secs),
            max_packet_bytes: self.max_packet_bytes,
            on_error: self.on_error.choices(),
        })
    }

    fn encoding(&self, key: &str, problems: &mut Problems) -> Encoding {
        match (self.version, self.encoding) {
            (Version::V5, encoding) => encoding.unwrap_or_default(),
            (Version::V311, None | Some(Encoding::Structured)) => Encoding::Structured,
            (Version::V311, Some(Encoding::Binary)) => {
                problems.add(key, "must be structured with MQTT 3.1.1, which has no user properties");
                Encoding::Structured
            }
        }
    }

    fn tls_files(&self, address: &Address, prefix: &str, problems: &mut Problems) -> Option<TlsFiles> {
        let pair = (&self.client_cert_file, &self.client_key_file);
        if pair.0.is_some() != pair.1.is_some() {
            problems.add(
                format!("{prefix}.client_cert_file"),
                "client_cert_file and client_key_file belong together",
            );
        }
        let ca_key = format!("{prefix}.ca_file");
        if !address.tls {
            if self.ca_file.is_some() || pair.0.is_some() || pair.1.is_some() {
                problems.add(ca_key, "certificates have no meaning unless the url begins with mqtts:");
            }
            return None;
        }
        match ServerName::try_from(address.host.as_str()) {
            // The library for it takes the brackets for a part of the name.
            Ok(ServerName::IpAddress(IpAddr::V6(_))) if self.version == Version::V311 => {
                problems.add(format!("{prefix}.url"), "mqtts with an IPv6 address needs version 5");
            }
            Ok(_) => {}
            Err(_) => problems.add(format!("{prefix}.url"), "mqtts needs a host name or an address"),
        }
        let Some(ca) = self.ca_file.clone() else {
            problems.add(ca_key, "is required with mqtts: a PEM file of the authorities to trust");
            return None;
        };
        let client = pair.0.clone().zip(pair.1.clone());
        let files = TlsFiles { ca, client };
        problems.check(&ca_key, files.load())?;
        Some(files)
    }
}

/// A topic that is the same for everything that happens, but for the client id.
fn status_topic_of(text: &str) -> Result<String, String> {
    let sample = TopicTemplate::parse(&text.replace(CLIENT_ID, "id"), TopicRules::Mqtt);
    match sample {
        Ok(topic) if topic.is_fixed() => Ok(text.to_owned()),
        Ok(_) => Err("the only placeholder here is {client_id}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A topic of its own for each agent: what is retained there is one agent's.
fn state_topic_of(text: &str) -> Result<TopicTemplate, String> {
    let topic = TopicTemplate::parse(text, TopicRules::Mqtt).map_err(|error| error.to_string())?;
    match topic.is_of_one_agent() {
        true => Ok(topic),
        false => Err("must hold {gateway} and {agent}, and neither {category} nor {type}".to_owned()),
    }
}

struct Address {
    host: String,
    port: u16,
    tls: bool,
}

fn address(text: &str) -> Result<Address, String> {
    const EXPECTED: &str = "is required: mqtt://host:port or mqtts://host:port";
    let url = Url::parse(text).map_err(|_| EXPECTED)?;
    let (tls, port) = match url.scheme() {
        "mqtt" => (false, MQTT_PORT),
        "mqtts" => (true, MQTTS_PORT),
        _ => return Err(EXPECTED.to_owned()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold credentials: use username and password_file".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port".to_owned());
    }
    let host = match url.host().ok_or(EXPECTED)? {
        // Without the brackets, which belong to the URL.
        Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    };
    if host.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    Ok(Address { host, port: url.port().unwrap_or(port), tls })
}

#[cfg(test)]
pub(super) mod tests {
    use secrecy::ExposeSecret;

    use super::super::answer::{Answer, Step};
    use super::super::failure::classify_answer;
    use super::*;

    pub(in crate::sink::mqtt) fn parse(text: &str) -> Result<MqttConfig, Vec<String>> {
        let options: MqttOptions = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        let mut problems = Problems::default();
        let config = options.validate("sinks.mqtt", &mut problems);
        config.ok_or_else(|| problems.found().iter().map(|p| format!("{}: {}", p.key, p.message)).collect())
    }

    #[test]
    fn a_password_in_clear_text_is_told_unless_it_stays_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hush-hush").unwrap();
        let said = |host: &str, password: bool| {
            let file = file.display();
            let login = if password {
                format!("username = 'relay'\npassword_file = '{file}'")
            } else {
                String::new()
            };
            let options: MqttOptions = toml::from_str(&format!("url = 'mqtt://{host}'\n{login}")).unwrap();
            options.validate("sinks.broker.mqtt", &mut Problems::default()).unwrap().unsafe_choices().len()
        };
        assert_eq!((said("broker", true), said("broker", false)), (1, 0));
        assert_eq!((said("localhost", true), said("127.0.0.1:1", true), said("[::1]", true)), (0, 0, 0));
    }

    #[test]
    fn a_url_gives_host_and_port() {
        for (url, host, port) in [
            ("mqtt://broker", "broker", 1883),
            ("mqtt://10.0.0.1:1999/", "10.0.0.1", 1999),
            ("mqtt://[::1]:1883", "::1", 1883),
        ] {
            let config = parse(&format!("url = '{url}'")).unwrap();
            assert_eq!((config.host.as_str(), config.port), (host, port));
        }
        for bad in ["", "broker:1883", "http://broker", "mqtt://", "mqtt://u:p@broker", "mqtt://broker/x?y"] {
            let found = parse(&format!("url = '{bad}'")).unwrap_err();
            assert!(found[0].starts_with("sinks.mqtt.url: "), "{bad}: {found:?}");
        }
    }

    #[test]
    fn an_ipv6_address_has_its_brackets_before_a_port_alone() {
        for (url, host) in [("mqtt://[::1]", "[::1]"), ("mqtt://10.0.0.1", "10.0.0.1"), ("mqtt://b", "b")] {
            assert_eq!(parse(&format!("url = '{url}'")).unwrap().host_before_port(), host);
        }
        // There is no authority here, which is another mistake.
        for (version, mistakes) in [("5", 1), ("'3.1.1'", 2)] {
            let found = parse(&format!("url = 'mqtts://[::1]'\nversion = {version}")).unwrap_err();
            assert_eq!(found.len(), mistakes, "{found:?}");
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_key() {
        let text = "url = 'mqtts://broker'\nqos = 3\nkeep_alive_secs = 4\nmax_in_flight = 0\nclient_id = ''\n\
                    password_file = '/nonexistent/password'\nclient_key_file = '/nonexistent/key'";
        let found = parse(text).unwrap_err();
        let names = [
            "qos",
            "keep_alive_secs",
            "max_in_flight",
            "client_id",
            "password_file",
            "ca_file",
            "client_cert_file",
        ];
        for name in names {
            let key = format!("sinks.mqtt.{name}: ");
            assert!(found.iter().any(|f| f.starts_with(&key)), "{key} is missing in {found:#?}");
        }
    }

    #[test]
    fn the_version_decides_what_else_can_be_asked_for() {
        assert_eq!(parse("url = 'mqtt://b'\nversion = 5").unwrap().encoding, Encoding::Binary);
        let older = parse("url = 'mqtt://b'\nversion = '3.1.1'").unwrap();
        assert_eq!((older.version, older.encoding), (Version::V311, Encoding::Structured));
        let text = "url = 'mqtt://b'\nversion = '3.1.1'\nencoding = 'binary'\nsession_expiry_secs = 1";
        let found = parse(text).unwrap_err();
        assert!(found[0].starts_with("sinks.mqtt.encoding: must be structured"), "{found:?}");
        assert!(found[1].starts_with("sinks.mqtt.session_expiry_secs: "), "{found:?}");
        for version in ["4", "-5", "'3.1'", "true"] {
            let found = parse(&format!("url = 'mqtt://b'\nversion = {version}")).unwrap_err();
            assert!(found[0].contains("5 or \"3.1.1\""), "{found:?}");
        }
    }

    #[test]
    fn what_is_retained_has_a_topic_of_its_own() {
        let config = parse("url = 'mqtt://b'\nstatus_topic = 'r/{client_id}/s'\nclient_id = 'x'").unwrap();
        assert_eq!(config.status_topic("sink").as_deref(), Some("r/x/s"));
        let config = parse("url = 'mqtt://b'\nstatus_topic = 'r/{client_id}'\nstate_topic = ''").unwrap();
        assert_eq!(config.status_topic("wall").as_deref(), Some("r/ccrelay-wall"));
        assert!(config.state_topic.is_none());
        for line in ["status_topic = 'r/{agent}'", "status_topic = 'r/#'", "status_topic = 'r/{x}'"] {
            let found = parse(&format!("url = 'mqtt://b'\n{line}")).unwrap_err();
            assert!(found[0].starts_with("sinks.mqtt.status_topic: "), "{found:?}");
        }
        for line in ["'state'", "'{agent}'", "'{gateway}/{agent}/{type}'", "'{gateway}/{agent}/+'"] {
            let found = parse(&format!("url = 'mqtt://b'\nstate_topic = {line}")).unwrap_err();
            assert!(found[0].starts_with("sinks.mqtt.state_topic: "), "{found:?}");
        }
    }

    #[test]
    fn what_a_refusal_without_a_reason_leads_to_is_the_operators_choice() {
        for (line, expected) in [
            ("", Disposition::Retry),
            ("on_error.refused = 'dead_letter'", Disposition::DeadLetter),
            ("on_error.refused = 'stop'", Disposition::Stop),
        ] {
            let config = parse(&format!("url = 'mqtt://b'\n{line}")).unwrap();
            // Unspecified, the implementation's own, packet id in use.
            for reason in [0x80, 0x83, 0x91] {
                let answer = Answer { step: Step::Ack, id: 1, reason, text: None };
                let error = classify_answer(&answer).unwrap_err();
                assert_eq!(config.on_error.of_message(error).disposition, expected, "{line} 0x{reason:02x}");
            }
        }
    }

    #[test]
    fn the_password_is_read_for_each_connection_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hush-hush\n").unwrap();
        let text = format!("url = 'mqtt://b'\nusername = 'relay'\npassword_file = '{}'", file.display());
        let config = parse(&text).unwrap();
        assert!(!format!("{config:?}").contains("hush-hush"));
        for password in ["hush-hush", "rotated"] {
            std::fs::write(&file, password).unwrap();
            let (username, read) = config.credentials().unwrap().unwrap();
            assert_eq!((username, read.expose_secret()), ("relay", password));
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.credentials().unwrap_err().reason, "client");
    }
}
