//! Mosquitto, and a subscriber that collects what comes.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::certificates::Certificates;
use super::process::Process;
use super::{DEADLINE, START_DEADLINE, eventually, free_port};

pub(crate) struct Mosquitto {
    folder: TempDir,
    port: u16,
    tls_port: u16,
    certificates: Certificates,
    process: Option<Process>,
}

impl Mosquitto {
    /// A broker that lets everybody do everything.
    pub(crate) async fn start() -> Mosquitto {
        Mosquitto::start_with("allow_anonymous true\nmax_inflight_messages 0\n").await
    }

    /// A broker with further lines of configuration; `{folder}` in them is its folder.
    pub(crate) async fn start_with(lines: &str) -> Mosquitto {
        let folder = tempfile::Builder::new().prefix("ccrelay-mqtt-").tempdir().expect("a folder");
        let certificates = Certificates::create(folder.path());
        let mut broker =
            Mosquitto { folder, port: free_port(), tls_port: free_port(), certificates, process: None };
        broker.configure(lines);
        broker.start_again().await;
        broker
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.tls_port)
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Writes the configuration, `lines` last; it holds from the next start.
    pub(crate) fn configure(&self, lines: &str) {
        let folder = self.folder.path().display();
        let (port, tls_port) = (self.port, self.tls_port);
        let text = format!(
            "listener {port} 127.0.0.1\n\
             listener {tls_port} 127.0.0.1\n\
             cafile {folder}/ca.pem\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n\
             persistence true\npersistence_location {folder}/\nautosave_interval 1\n\
             max_queued_messages 0\n\
             log_dest stderr\n\
             user root\n\
             {}",
            lines.replace("{folder}", &folder.to_string())
        );
        std::fs::write(self.folder.path().join("mosquitto.conf"), text).expect("the folder can be written");
    }

    /// Writes a file beside the configuration, for its lines to name.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).expect("the folder can be written");
    }

    pub(crate) async fn stop(&mut self) {
        let process = self.take();
        process.signal(Signal::SIGTERM);
        // It forgets a signal that comes in the last moment of its start.
        if !process.ends_within(Duration::from_secs(5)).await {
            process.signal(Signal::SIGTERM);
        }
        process.ended(DEADLINE).await;
    }

    pub(crate) async fn kill9(&mut self) {
        self.take().end(Signal::SIGKILL).await;
    }

    pub(crate) fn pause(&self) {
        self.running().signal(Signal::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        self.running().signal(Signal::SIGCONT);
    }

    /// Starts a stopped broker on its old address and waits until it listens.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker is running");
        let configuration = self.folder.path().join("mosquitto.conf");
        let command = [program(), "-c".to_owned(), configuration.display().to_string()];
        let process = Process::start(self.folder.path(), &command);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            process.assert_alive();
            assert!(begin.elapsed() < START_DEADLINE, "Mosquitto is silent:\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the broker is running")
    }

    fn take(&mut self) -> Process {
        self.process.take().expect("the broker is running")
    }
}

fn program() -> String {
    for path in ["mosquitto", "/usr/sbin/mosquitto"] {
        if Command::new(path).arg("-h").output().is_ok() {
            return path.to_owned();
        }
    }
    panic!("no mosquitto: run `make setup`");
}

/// Collects all messages of a topic filter, with a session that outlives its connections.
pub(crate) struct Subscriber {
    received: Arc<Mutex<Vec<Publish>>>,
    /// How many times it has been subscribed.
    subscribed: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes and waits until the broker has agreed.
    pub(crate) async fn start(port: u16, filter: &str) -> Subscriber {
        Subscriber::start_as(&format!("subscriber-{port}"), port, filter).await
    }

    /// The same for one that the broker has never seen.
    pub(crate) async fn newcomer(port: u16, filter: &str) -> Subscriber {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("newcomer-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Subscriber::start_as(&name, port, filter).await
    }

    async fn start_as(name: &str, port: u16, filter: &str) -> Subscriber {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (subscribed_tx, subscribed) = watch::channel(0);
        let task = collect(name.to_owned(), port, filter.to_owned(), received.clone(), subscribed_tx);
        let task = tokio::task::spawn(task);
        let subscriber = Subscriber { received, subscribed, task };
        subscriber.subscribed(1).await;
        subscriber
    }

    /// Waits until it has been subscribed `times` times: once for each start of the broker.
    pub(crate) async fn subscribed(&self, times: usize) {
        let mut subscribed = self.subscribed.clone();
        let wait = subscribed.wait_for(|count| *count >= times);
        tokio::time::timeout(DEADLINE, wait).await.expect("it subscribes in time").expect("it lives");
    }

    pub(crate) fn received(&self) -> Vec<Publish> {
        self.received.lock().expect("nobody panicked").clone()
    }

    /// Waits until `enough` holds of what was received.
    pub(crate) async fn wait_for(&self, what: &str, enough: impl Fn(&[Publish]) -> bool) -> Vec<Publish> {
        eventually(what, DEADLINE, || async {
            let received = self.received();
            enough(&received).then_some(received)
        })
        .await
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn collect(
    name: String,
    port: u16,
    filter: String,
    received: Arc<Mutex<Vec<Publish>>>,
    subscribed: watch::Sender<usize>,
) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_clean_start(false).set_session_expiry_interval(Some(3600));
    options.set_max_packet_size(Some(1 << 20)).set_keep_alive(Duration::from_secs(5));
    let (client, mut eventloop) = AsyncClient::new(options, 100);
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                client.subscribe(&filter, QoS::AtLeastOnce).await.expect("the event loop lives");
            }
            Ok(Event::Incoming(Incoming::SubAck(_))) => subscribed.send_modify(|count| *count += 1),
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                received.lock().expect("nobody panicked").push(publish);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
