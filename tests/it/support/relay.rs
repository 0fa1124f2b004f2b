//! The real binary with a configuration of a test's own, and what its metrics say.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Certificates;
use super::process::Process;
use super::{START_DEADLINE, eventually, free_port};

pub(crate) struct Relay {
    folder: TempDir,
    callback_port: u16,
    operations_port: u16,
    certificates: Certificates,
    process: Option<Process>,
    /// The port that the gateway is told.
    push_port: u16,
    pace: Pace,
    /// What stands before the binary on the command line.
    pub(crate) wrapper: Vec<String>,
    /// What is started.
    pub(crate) binary: String,
}

/// Times in seconds, but for the first of repeats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) heartbeat: u32,
    pub(crate) sign_out_limit: u32,
    pub(crate) repeat_soonest_millis: u32,
}

/// Reads the relay's metrics while somebody else has the relay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe(u16);

/// What a test adds to the configuration.
pub(crate) struct Wiring<'a> {
    pub(crate) gateway_url: &'a str,
    pub(crate) gateway_ca: &'a str,
    pub(crate) agents: std::ops::RangeInclusive<u32>,
    pub(crate) password: &'a str,
    /// Tables of sinks, and further top-level tables.
    pub(crate) tables: &'a str,
}

impl Relay {
    /// Ports and certificates; nothing runs yet. The simulator wants the certificates before the relay starts.
    pub(crate) fn prepare() -> Relay {
        let folder = tempfile::Builder::new().prefix("ccrelay-relay-").tempdir().expect("a folder");
        let certificates = Certificates::create(folder.path());
        let callback_port = free_port();
        Relay {
            folder,
            callback_port,
            operations_port: free_port(),
            certificates,
            process: None,
            push_port: callback_port,
            pace: Pace { heartbeat: 1, sign_out_limit: 20, repeat_soonest_millis: 400 },
            wrapper: Vec::new(),
            binary: binary(),
        }
    }

    /// The port on which it takes pushes.
    pub(crate) fn callback_port(&self) -> u16 {
        self.callback_port
    }

    /// Lets the gateway push to another port, where a proxy listens. Before `configure`.
    pub(crate) fn push_to(&mut self, port: u16) {
        self.push_port = port;
    }

    /// Other times. Before `configure`.
    pub(crate) fn at_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    pub(crate) fn probe(&self) -> Probe {
        Probe(self.operations_port)
    }

    pub(crate) fn running(&self) -> &Process {
        self.process.as_ref().expect("the relay is running")
    }

    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(&self.certificates.ca).expect("the certificate was written")
    }

    /// Replaces the certificate of the callback listener by another of the same authority.
    pub(crate) fn renew_certificate(&self) {
        self.certificates.renew();
    }

    /// The same, by one that ends so soon.
    pub(crate) fn renew_certificate_for(&self, lifetime: Duration) {
        self.certificates.renew_for(Some(lifetime));
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Timers are short: heartbeats and tokens every second, where a gateway in service has 30 and 60.
    pub(crate) fn configure(&self, wiring: &Wiring<'_>) {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("gateway-ca.pem"), wiring.gateway_ca).expect("the folder can be written");
        std::fs::write(path("password"), wiring.password).expect("the folder can be written");
        let folder = self.folder.path().display();
        let (callback, operations) = (self.callback_port, self.operations_port);
        let (push, Pace { heartbeat, sign_out_limit, repeat_soonest_millis }) = (self.push_port, self.pace);
        let mut text = format!(
            "[callback]\nlisten = \"127.0.0.1:{callback}\"\n\
             certificate_file = \"{folder}/cert.pem\"\nkey_file = \"{folder}/key.pem\"\n\
             [operations]\nlisten = \"127.0.0.1:{operations}\"\n\
             [token]\nperiod_secs = 1\n\
             [spool]\ndirectory = \"{folder}/spool\"\nrepeat_soonest_millis = {repeat_soonest_millis}\n\
             [[gateways]]\nname = \"main\"\nbase_url = \"{}\"\nca_file = \"{folder}/gateway-ca.pem\"\n\
             callback_uri = \"https://127.0.0.1:{push}/push/main\"\n\
             heartbeat_interval_secs = {heartbeat}\nsign_out_limit_secs = {sign_out_limit}\ncall_deadline_secs = 5\n\
             sign_in_deadline_secs = 10\nsign_in_rate_per_sec = 100\n{}\n",
            wiring.gateway_url, wiring.tables
        );
        for id in wiring.agents.clone() {
            text.push_str(&format!(
                "[[agents]]\ngateway = \"main\"\nid = \"{id}\"\npassword_file = \"{folder}/password\"\n\
                 phone_number = \"7{id}\"\n"
            ));
        }
        std::fs::write(self.config_file(), text).expect("the folder can be written");
    }

    /// Changes the configuration that [`Relay::configure`] wrote: `from` must stand in it.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config_file()).expect("the configuration was written");
        assert!(text.contains(from), "{from} is not in the configuration");
        std::fs::write(self.config_file(), text.replace(from, to)).expect("the folder can be written");
    }

    /// As [`Relay::edit`], where `from` stands for the first time.
    pub(crate) fn edit_first(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config_file()).expect("the configuration was written");
        assert!(text.contains(from), "{from} is not in the configuration");
        std::fs::write(self.config_file(), text.replacen(from, to, 1)).expect("the folder can be written");
    }

    /// Where metrics and the admin API are.
    pub(crate) fn operations(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.operations_port).into()
    }

    /// Where the gateway pushes to.
    pub(crate) fn callback_uri(&self) -> String {
        format!("https://127.0.0.1:{}/push/main", self.callback_port)
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Starts the binary and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.launch();
        let (probe, process) = (self.probe(), self.running());
        eventually("a relay that is ready", START_DEADLINE, || async {
            process.assert_alive();
            probe.is_ready().await.then_some(())
        })
        .await;
    }

    /// Starts the binary.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "the relay is running");
        let mut command = self.wrapper.clone();
        command.extend([self.binary.clone(), "run".to_owned(), "--config".to_owned()]);
        command.push(self.config_file().display().to_string());
        self.process = Some(Process::start(self.folder.path(), &command));
    }

    pub(crate) async fn kill9(&mut self) {
        self.process.take().expect("the relay is running").end(Signal::SIGKILL).await;
    }

    /// Gives the exit code.
    pub(crate) async fn stop(&mut self) -> i32 {
        self.process.take().expect("the relay is running").end(Signal::SIGTERM).await
    }

    /// Waits until it has ended by itself, and gives the exit code.
    pub(crate) async fn ended(&mut self, within: Duration) -> i32 {
        self.process.take().expect("the relay is running").ended(within).await
    }

    /// The sum of all series whose name and labels begin with `series`.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        self.probe().metric(series).await.expect("the operations listener answers")
    }

    /// Waits until every sink has confirmed everything that is stored. The gauges are set a few times a second, so they
    /// must say so for longer than that.
    pub(crate) async fn delivered(&self, within: Duration) {
        const BEATS: Duration = Duration::from_secs(1);
        let begin = Instant::now();
        let mut since = begin;
        while since.elapsed() < BEATS {
            assert!(begin.elapsed() < within, "not everything was delivered in {within:?}:\n{}", self.log());
            let lag = self.metric("ccrelay_sink_lag_records{").await;
            if lag + self.metric("ccrelay_sink_in_flight{").await > 0.0 {
                since = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Probe {
    pub(crate) async fn is_ready(self) -> bool {
        self.get("/ready").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The sum of all series whose name and labels begin with `series`; none when nobody answers.
    pub(crate) async fn metric(self, series: &str) -> Option<f64> {
        let page = self.get("/metrics").await?;
        let values = page.lines().filter(|line| line.starts_with(series));
        Some(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    async fn get(self, path: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.0)).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        // A relay that is frozen takes connections and says nothing.
        tokio::time::timeout(Duration::from_secs(2), ask).await.ok().flatten()
    }
}

/// The binary: that of `CCRELAY_BIN`, else the one that cargo built for this test.
pub(crate) fn binary() -> String {
    std::env::var("CCRELAY_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ccrelay").to_owned())
}
