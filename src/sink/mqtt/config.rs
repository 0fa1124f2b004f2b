//! The MQTT section of the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::config::Problems;
use crate::sink::encoding::Encoding;
use crate::sink::secret::read_secret;

/// Often enough that a dead broker is noticed within half a minute (one and a half of these).
const KEEP_ALIVE_SECS: u16 = 15;
/// The client library allows no less.
const LEAST_KEEP_ALIVE_SECS: u16 = 5;
/// A broker that answers pings but has confirmed nothing for so long has forgotten what it owes.
const STALL_TIMEOUT_SECS: u64 = 60;
/// Enough to fill a link of 50 ms at 20,000 messages a second; brokers often allow less and say so.
const MAX_IN_FLIGHT: u16 = 1000;
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

/// The section as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttOptions {
    /// `mqtt://host:port` or `mqtts://host:port`. Required.
    pub url: String,
    /// Client id; `ccrelay-<sink>` when absent. Two relays at one broker need two.
    pub client_id: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password and nothing else.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities to trust. Required with `mqtts`.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client's key, not encrypted.
    pub client_key_file: Option<PathBuf>,
    /// Interval of pings.
    pub keep_alive_secs: u16,
    /// Quality of service; 1 is the one there is.
    pub qos: u8,
    /// CloudEvents content mode: `binary` (user properties) or `structured`.
    pub encoding: Encoding,
    /// Messages sent and not yet confirmed; the broker's receive maximum lowers it.
    pub max_in_flight: u16,
    /// Without any confirmation for so long, with messages in flight, the connection is given up.
    pub stall_timeout_secs: u64,
    /// Larger packets are set aside; for brokers that close the connection instead of naming their limit.
    pub max_packet_bytes: Option<u32>,
}

impl Default for MqttOptions {
    fn default() -> MqttOptions {
        MqttOptions {
            url: String::new(),
            client_id: None,
            username: None,
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            keep_alive_secs: KEEP_ALIVE_SECS,
            qos: 1,
            encoding: Encoding::default(),
            max_in_flight: MAX_IN_FLIGHT,
            stall_timeout_secs: STALL_TIMEOUT_SECS,
            max_packet_bytes: None,
        }
    }
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<TlsFiles>,
    pub(super) client_id: Option<String>,
    pub(super) login: Option<(String, Option<SecretString>)>,
    pub(super) keep_alive: Duration,
    pub(super) encoding: Encoding,
    pub(super) max_in_flight: u16,
    pub(super) stall_timeout: Duration,
    pub(super) max_packet_bytes: Option<u32>,
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
        if self.qos != 1 {
            problems.add(
                key("qos"),
                "must be 1: 0 has no confirmation, and after a lost connection 2 repeats messages just as 1 does",
            );
        }
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
            .as_deref()
            .and_then(|path| problems.check(&key("password_file"), read_secret(path)));
        let address = address.filter(|_| problems.found().len() == before)?;
        Some(MqttConfig {
            host: address.host,
            port: address.port,
            tls,
            client_id: self.client_id,
            login: self.username.map(|username| (username, password)),
            keep_alive: Duration::from_secs(self.keep_alive_secs.into()),
            encoding: self.encoding,
            max_in_flight: self.max_in_flight,
            stall_timeout: Duration::from_secs(self.stall_timeout_secs),
            max_packet_bytes: self.max_packet_bytes,
        })
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
        if ServerName::try_from(address.host.as_str()).is_err() {
            problems.add(format!("{prefix}.url"), "mqtts needs a host name or an IPv4 address");
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
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(EXPECTED)?.to_owned();
    Ok(Address { host, port: url.port().unwrap_or(port), tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MqttConfig, Vec<String>> {
        let options: MqttOptions = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        let mut problems = Problems::default();
        let config = options.validate("sinks.mqtt", &mut problems);
        config.ok_or_else(|| problems.found().iter().map(|p| format!("{}: {}", p.key, p.message)).collect())
    }

    #[test]
    fn a_url_gives_host_and_port() {
        for (url, host, port) in [
            ("mqtt://broker", "broker", 1883),
            ("mqtt://10.0.0.1:1999/", "10.0.0.1", 1999),
            ("mqtt://[::1]:1883", "[::1]", 1883),
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
    fn every_mistake_is_reported_with_its_key() {
        let text = "url = 'mqtts://broker'\nqos = 2\nkeep_alive_secs = 4\nmax_in_flight = 0\nclient_id = ''\n\
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
    fn the_password_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hush-hush\n").unwrap();
        let text = format!("url = 'mqtt://b'\nusername = 'relay'\npassword_file = '{}'", file.display());
        assert!(!format!("{:?}", parse(&text).unwrap()).contains("hush-hush"));
    }
}
