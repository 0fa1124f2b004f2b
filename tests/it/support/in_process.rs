//! A relay in this process, and a client that sends it whatever bytes it likes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ccrelay::app::Relay;
use ccrelay::authenticate::{Authenticator, TokenKey, TokenRules};
use ccrelay::clock::Clock;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::lifecycle::Lifecycle;
use ccrelay::metrics::Metrics;
use ccrelay::notify::Notifier;
use ccrelay::reload;
use ccrelay::spool::Spool;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use secrecy::{ExposeSecret, SecretSlice};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{Certificates, Identity};
use super::{DEADLINE, eventually};

const SECRET: &str = "this secret is for tests and has more than enough bytes";
const RULES: TokenRules = TokenRules {
    period: Duration::from_secs(60),
    overlap: Duration::from_secs(180),
    max_age: Duration::from_secs(24 * 3600),
};

/// A relay with the gateways `main` and `other`, no agents, and a sink that writes JSON lines.
pub(crate) struct TestRelay {
    pub(crate) callback: SocketAddr,
    pub(crate) operations: SocketAddr,
    spool: Spool,
    metrics: Metrics,
    lifecycle: Lifecycle,
    run: JoinHandle<anyhow::Result<()>>,
    certificates: Certificates,
    folder: TempDir,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The gateway's result code; empty when the body has none.
    pub(crate) fn retcode(&self) -> String {
        let value: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        value.and_then(|v| Some(v["retcode"].as_str()?.to_owned())).unwrap_or_default()
    }
}

impl TestRelay {
    pub(crate) async fn start() -> TestRelay {
        TestRelay::with("", "").await
    }

    /// With further keys of `[callback]` and `[token]`.
    pub(crate) async fn with(callback: &str, token: &str) -> TestRelay {
        TestRelay::with_all(|folder| text(folder, callback, token)).await
    }

    /// With further keys of `[spool]`.
    pub(crate) async fn with_spool(keys: &str) -> TestRelay {
        TestRelay::with_all(|folder| text(folder, "", "").replace("[spool]\n", &format!("[spool]\n{keys}")))
            .await
    }

    /// With further keys of `[operations]`, and tables after them; they are told where files are.
    pub(crate) async fn with_operations(keys: impl FnOnce(&Path) -> String) -> TestRelay {
        TestRelay::with_all(|folder| {
            let listen = "[operations]\nlisten = '127.0.0.1:0'\n";
            text(folder, "", "").replace(listen, &format!("{listen}{}", keys(folder)))
        })
        .await
    }

    /// With further keys of `[callback]`, told where files are, and what signs them.
    pub(crate) async fn with_files(keys: impl FnOnce(&Path, &Certificates) -> String) -> TestRelay {
        let text = |folder: &Path, certificates: &Certificates| text(folder, &keys(folder, certificates), "");
        TestRelay::prepared(text, |_, _| ()).await
    }

    /// With something that happens between the reading of the configuration and the end of the start.
    pub(crate) async fn while_it_starts(meanwhile: impl FnOnce(&Certificates, &Lifecycle)) -> TestRelay {
        TestRelay::prepared(|folder, _| text(folder, "", ""), meanwhile).await
    }

    async fn with_all(text: impl FnOnce(&Path) -> String) -> TestRelay {
        TestRelay::prepared(|folder, _| text(folder), |_, _| ()).await
    }

    async fn prepared(
        text: impl FnOnce(&Path, &Certificates) -> String,
        meanwhile: impl FnOnce(&Certificates, &Lifecycle),
    ) -> TestRelay {
        let folder = TempDir::new().expect("a folder");
        let certificates = Certificates::create(folder.path());
        let file = folder.path().join("config.toml");
        std::fs::write(folder.path().join("secret"), SECRET).expect("the folder can be written");
        std::fs::write(&file, text(folder.path(), &certificates)).expect("the folder can be written");
        let (config, origin) = reload::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let lifecycle = Lifecycle::default();
        let mut relay = Relay::start(config, lifecycle.clone()).await.expect("the relay starts");
        meanwhile(&certificates, &lifecycle);
        relay.watch_files(origin, None, &Notifier::default());
        TestRelay {
            callback: relay.callback_addr,
            operations: relay.operations_addr,
            spool: relay.spool.clone(),
            metrics: relay.metrics.clone(),
            lifecycle,
            run: tokio::spawn(relay.run()),
            certificates,
            folder,
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop_and_keep().await);
    }

    /// Stops it, and gives the folder with its files.
    pub(crate) async fn stop_and_keep(self) -> TempDir {
        self.lifecycle.stop();
        self.run.await.expect("no panic").expect("a clean end");
        self.folder
    }

    /// A token of this relay's secret for an agent of `main`, made now.
    pub(crate) fn token(&self, agent: &str) -> String {
        token("main", agent, Clock::system())
    }

    /// The authority of the certificates.
    pub(crate) fn ca_file(&self) -> &Path {
        &self.certificates.ca
    }

    /// The authority, and what it signed.
    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes the configuration, in which `from` must stand, and has it read anew; gives whether it was taken.
    pub(crate) async fn reload(&self, from: &str, to: &str) -> bool {
        let file = self.folder.path().join("config.toml");
        let text = std::fs::read_to_string(&file).expect("it was written");
        assert!(text.contains(from), "{from} is not in the configuration");
        let series = |outcome: &str| format!("ccrelay_reloads_total{{outcome=\"{outcome}\"}}");
        let count = async || (self.metric(&series("ok")).await, self.metric(&series("refused")).await);
        let before = count().await;
        std::fs::write(&file, text.replace(from, to)).expect("the folder can be written");
        self.lifecycle.reload();
        let after = eventually("a reload", DEADLINE, || async {
            let now = count().await;
            (now != before).then_some(now)
        });
        after.await.0 > before.0
    }

    /// The relay's spool.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Its metrics, where nobody can get at the page.
    pub(crate) fn counters(&self) -> &Metrics {
        &self.metrics
    }

    /// Records stored so far.
    pub(crate) fn stored(&self) -> u64 {
        *self.spool.end().borrow()
    }

    /// Events that the sink has written.
    pub(crate) fn published(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join("events.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// The value of one series on the metrics page.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.operations("GET", "/metrics").await.body;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not on the page")).parse().expect("a number")
    }

    pub(crate) async fn operations(&self, method: &str, path: &str) -> Answer {
        let mut stream = TcpStream::connect(self.operations).await.expect("the operations listener accepts");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        answer(&mut stream).await.expect("it answers")
    }

    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_with(&[&rustls::version::TLS13, &rustls::version::TLS12]).await
    }

    pub(crate) async fn connect_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsStream<TcpStream> {
        connect_to(self.callback, self.connector(versions)).await
    }

    /// A connection that is made when the future is polled, wherever that is.
    pub(crate) fn connect_later(&self) -> impl Future<Output = TlsStream<TcpStream>> + use<> {
        connect_to(self.callback, self.connector(&[&rustls::version::TLS13]))
    }

    pub(crate) fn connector(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        self.connector_of(None, versions)
    }

    /// Who connects with a certificate, or without; knows the suites of these versions.
    pub(crate) fn connector_of(
        &self,
        identity: Option<Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.certificates.ca).expect("the authority's file")
        {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).expect("a key of the certificate")
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    /// Sends bytes on a connection of their own and gives the answer, if there is one.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Option<Answer> {
        let mut stream = self.connect().await;
        // A listener that has seen enough may close before all is sent; its answer is there all the same.
        drop(stream.write_all(bytes.as_ref()).await);
        drop(stream.flush().await);
        answer(&mut stream).await
    }

    /// A push of this body in the name of `agent`.
    pub(crate) async fn push(&self, agent: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(request(&self.token(agent), body)).await.expect("an answer")
    }

    /// Fails unless an ordinary push is stored and answered with success.
    pub(crate) async fn assert_takes_a_good_push(&self) {
        let before = self.stored();
        let answer = self.push("1001", good("1001")).await;
        assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{answer:?}");
        assert_eq!(self.stored(), before + 1);
    }

    /// Fails unless these bytes are refused in this way and for this reason, and nothing else suffers.
    pub(crate) async fn assert_refused(
        &self,
        bytes: impl AsRef<[u8]>,
        (status, retcode): (u16, &str),
        reason: &str,
    ) {
        let series = format!("ccrelay_push_failures_total{{reason=\"{reason}\"}}");
        let (counted, stored) = (self.metric(&series).await, self.stored());
        let answer = self.send(bytes).await.unwrap_or_else(|| panic!("{reason}: no answer"));
        assert_eq!((answer.status, answer.retcode().as_str()), (status, retcode), "{reason}: {answer:?}");
        assert_eq!(self.metric(&series).await, counted + 1.0, "{series}");
        assert_eq!(self.stored(), stored, "{reason}: nothing is stored");
        self.assert_takes_a_good_push().await;
    }

    /// Fails unless a connection comes to nothing for this reason, in time.
    pub(crate) async fn assert_connection_failure_is_counted(&self, reason: &str) {
        let series = format!("ccrelay_connection_failures_total{{reason=\"{reason}\"}}");
        eventually(&series, DEADLINE, || async { (self.metric(&series).await > 0.0).then_some(()) }).await;
    }
}

/// Trusts this authority, and shows no certificate.
pub(crate) fn connector_to(ca_pem: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_root_certificates(roots);
    TlsConnector::from(Arc::new(builder.with_no_client_auth()))
}

pub(crate) async fn connect_to(address: SocketAddr, connector: TlsConnector) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("the callback listener accepts");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    connector.connect(name, stream).await.expect("a TLS handshake")
}

fn text(folder: &Path, callback: &str, token: &str) -> String {
    let folder = folder.display();
    let gateway = |name: &str| {
        format!(
            "[[gateways]]\nname = '{name}'\nbase_url = 'https://127.0.0.1:1/agentgateway/resource'\n\
             ca_file = '{folder}/ca.pem'\ncallback_uri = 'https://127.0.0.1:8443/push/{name}'\n"
        )
    };
    format!(
        "[callback]\nlisten = '127.0.0.1:0'\ncertificate_file = '{folder}/cert.pem'\nkey_file = '{folder}/key.pem'\n\
         {callback}\n[token]\nsecret_file = '{folder}/secret'\n{token}\n[spool]\ndirectory = '{folder}/spool'\n\
         [operations]\nlisten = '127.0.0.1:0'\n{}{}[sinks.file.jsonl]\npath = '{folder}/events.jsonl'\n",
        gateway("main"),
        gateway("other")
    )
}

/// A token of the relay's secret, made when `clock` says.
pub(crate) fn token(gateway: &str, agent: &str, clock: Clock) -> String {
    token_of(SECRET, gateway, agent, clock)
}

pub(crate) fn token_of(secret: &str, gateway: &str, agent: &str, clock: Clock) -> String {
    let key = TokenKey::new(&SecretSlice::from(secret.as_bytes().to_vec())).expect("a long secret");
    let gateway = GatewayName::parse(gateway).expect("a name");
    let agent = AgentId::parse(agent).expect("an agent id");
    Authenticator::new(key, None, RULES, clock).mint(&gateway, &agent).expose_secret().to_owned()
}

/// A push that every relay must take.
pub(crate) fn good(agent: &str) -> String {
    format!(
        r#"{{"workNo":"{agent}","eventList":[{{"eventType":"AgentState_Ready","workNo":"{agent}","content":null}}]}}"#
    )
}

/// A push to `main` with this token.
pub(crate) fn request(token: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    with_headers(&format!("service_token: {token}\r\ncontent-length: {}\r\n", body.len()), body)
}

/// A push to `main` with these header lines.
pub(crate) fn with_headers(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /push/main HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Reads one answer; none when the connection ends before it is whole.
pub(crate) async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<Answer> {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = parse(&bytes) {
                return Some(answer);
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return None;
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer or an end")
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let body = body.get(..length.unwrap_or(0))?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Reads until the other end closes; whatever came.
pub(crate) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async { while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {} };
    tokio::time::timeout(DEADLINE, read).await.expect("the other end closes");
    bytes
}
