//! Where a demo lives: a folder of its own that goes with it, the certificates, and the configuration a user would
//! write.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::hex::hex;
use crate::receive::PUSH_PATH;

/// The relay's name of the simulated gateway.
pub(super) const GATEWAY: &str = "demo";
/// The first agent's id.
pub(super) const FIRST_AGENT: u32 = 1001;
/// The password of all agents.
pub(super) const PASSWORD: &str = "simulated";
/// Often enough to see a few of them; gateways recommend 30 s.
pub(super) const HEARTBEAT_SECS: u64 = 5;
/// Sign-ins a second, so that a large demo does not begin with a minute of them.
const SIGN_INS_PER_SEC: u32 = 100;
/// A demo has nothing that could take long, and somebody waits for its end.
const GRACE_SECS: u64 = 5;

/// A temporary folder, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new folder that only this user may read: it holds keys and what agents do.
    pub(super) fn create() -> anyhow::Result<Folder> {
        let mut random = [0u8; 6];
        getrandom::fill(&mut random).map_err(|error| anyhow!("no randomness: {error}"))?;
        let path = std::env::temp_dir().join(format!("ccrelay-demo-{}", hex(&random)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Folder { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that only this user may read, and gives its path.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        use std::io::Write as _;
        let path = self.path.join(name);
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            options
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&path)?
                .write_all(text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the folder of the demo was not removed");
        }
    }
}

/// Makes the callback's certificate in the folder, and gives the CA for the gateway to trust.
pub(super) fn certify(folder: &Folder) -> anyhow::Result<String> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "ccrelay demo CA");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, "ccrelay demo");
    let key = KeyPair::generate()?;
    folder.write("certificate.pem", &leaf.signed_by(&key, &ca)?.pem())?;
    folder.write("key.pem", &key.serialize_pem())?;
    Ok(ca.pem())
}

/// A port of the loopback that was free a moment ago.
pub(super) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}

/// What the configuration is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) folder: &'a Path,
    /// Name of the spool's folder in it.
    pub(super) spool: &'a str,
    pub(super) callback_port: u16,
    /// The gateway's base URL.
    pub(super) base_url: &'a str,
    pub(super) agents: u32,
    pub(super) kafka: &'a str,
    pub(super) topic: &'a str,
    /// Port of the MQTT broker, where there is one.
    pub(super) mqtt_port: Option<u16>,
}

/// Where the gateway pushes to.
pub(super) fn callback_uri(port: u16) -> String {
    format!("https://127.0.0.1:{port}{PUSH_PATH}{GATEWAY}")
}

/// The configuration, as a user would write it.
pub(super) fn configuration(parts: &Parts<'_>) -> String {
    let Parts { callback_port: port, base_url, kafka, topic, .. } = parts;
    let file = |name: &str| toml::Value::from(parts.folder.join(name).display().to_string()).to_string();
    let (certificate, key, spool) = (file("certificate.pem"), file("key.pem"), file(parts.spool));
    let callback = callback_uri(*port);
    let (ca, password) = (file("gateway-ca.pem"), file("password"));
    let mut text = format!(
        r#"[callback]
listen = "127.0.0.1:{port}"
certificate_file = {certificate}
key_file = {key}

[spool]
directory = {spool}

[operations]
listen = "127.0.0.1:0"

[shutdown]
grace_secs = {GRACE_SECS}

[[gateways]]
name = "{GATEWAY}"
base_url = "{base_url}"
ca_file = {ca}
callback_uri = "{callback}"
heartbeat_interval_secs = {HEARTBEAT_SECS}
sign_in_rate_per_sec = {SIGN_INS_PER_SEC}

[sinks.kafka]
topic = "{topic}"
kafka = {{ bootstrap_servers = "{kafka}" }}
"#
    );
    if let Some(port) = parts.mqtt_port {
        text.push_str(&format!("\n[sinks.mqtt]\nmqtt = {{ url = \"mqtt://127.0.0.1:{port}\" }}\n"));
    }
    for id in (FIRST_AGENT..).take(parts.agents as usize) {
        text.push_str(&format!(
                "\n[[agents]]\ngateway = \"{GATEWAY}\"\nid = \"{id}\"\npassword_file = {password}\nphone_number = \"7{id}\"\n"
            ));
    }
    text
}
