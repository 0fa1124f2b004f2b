//! Sinks that come and go with the configuration of a whole relay.

use std::path::Path;

use bytes::Bytes;
use ccrelay::app::Relay;
use ccrelay::clock::Clock;
use ccrelay::event::normalise::RecordKind;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::lifecycle::Lifecycle;
use ccrelay::metrics::Metrics;
use ccrelay::reload;
use ccrelay::spool::{AgentKey, NewRecord, Spool};

use crate::support::certificates::Certificates;
use crate::support::in_process::good;
use crate::support::{DEADLINE, eventually};

/// A relay in this process that has these sinks.
pub(super) struct Running {
    pub(super) spool: Spool,
    pub(super) metrics: Metrics,
    lifecycle: Lifecycle,
    run: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(super) async fn start(folder: &Path, sinks: &str) -> Running {
        let at = folder.display();
        let text = format!(
            "[callback]\nlisten = '127.0.0.1:0'\ncertificate_file = '{at}/cert.pem'\nkey_file = '{at}/key.pem'\n\
             [operations]\nlisten = '127.0.0.1:0'\n[spool]\ndirectory = '{at}/spool'\n\
             [[gateways]]\nname = 'main'\nbase_url = 'https://127.0.0.1:1/x'\nca_file = '{at}/ca.pem'\n\
             callback_uri = 'https://127.0.0.1:8443/push/main'\n{}",
            sinks.replace("FOLDER", &at.to_string())
        );
        let file = folder.join("config.toml");
        std::fs::write(&file, text).expect("the folder can be written");
        let (config, origin) = reload::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let lifecycle = Lifecycle::default();
        let mut relay = Relay::start(config, lifecycle.clone()).await.expect("the relay starts");
        relay.watch_files(origin, None, &ccrelay::notify::Notifier::default());
        let (spool, metrics) = (relay.spool.clone(), relay.metrics.clone());
        Running { spool, metrics, lifecycle, run: tokio::spawn(relay.run()) }
    }

    async fn store(&self, records: usize) {
        for _ in 0..records {
            self.store_push("1001", good("1001")).await;
        }
    }

    /// Stores a push of this agent's.
    pub(super) async fn store_push(&self, agent: &str, body: impl Into<Bytes>) {
        let record = NewRecord {
            kind: RecordKind::Push,
            received_at: Clock::system().now(),
            agent: AgentKey {
                gateway: GatewayName::parse("main").expect("a name"),
                agent_id: AgentId::parse(agent).expect("an id"),
            },
            body: body.into(),
            answer: None,
        };
        self.spool.append(record).await.expect("it is stored");
    }

    /// Waits until the spool holds so many records.
    async fn holds(&self, records: i64) {
        eventually(&format!("{records} records in the spool"), DEADLINE, || async {
            (self.metrics.spool_records.get() == records).then_some(())
        })
        .await;
    }

    /// Waits until every sink has confirmed all that is stored.
    pub(super) async fn delivered(&self) {
        let end = *self.spool.end().borrow();
        eventually("all confirmed", DEADLINE, || async {
            self.spool.cursors().iter().all(|(_, cursor)| *cursor >= end).then_some(())
        })
        .await;
    }

    pub(super) async fn stop(self) {
        self.lifecycle.stop();
        self.run.await.expect("no panic").expect("a clean end");
    }
}

/// Waits until this file has so many lines, and checks that it has no more.
async fn lines(file: &Path, count: usize) {
    let written = || std::fs::read_to_string(file).unwrap_or_default().lines().count();
    eventually(&format!("{count} lines in {}", file.display()), DEADLINE, || async {
        (written() >= count).then_some(())
    })
    .await;
    assert_eq!(written(), count, "{}", file.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_removed_frees_its_records_and_a_new_one_begins_where_it_is_told() {
    const FILE: &str = "[sinks.file.jsonl]\npath = 'FOLDER/file'\n";
    const AWAY: &str = "[sinks.away.mqtt]\nurl = 'mqtt://127.0.0.1:1'\n";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Certificates::create(folder);
    // What a broker that is away has not got is kept for it.
    let relay = Running::start(folder, &format!("{FILE}{AWAY}")).await;
    relay.store(50).await;
    lines(&folder.join("file"), 50).await;
    relay.holds(50).await;
    relay.stop().await;
    // New sinks: one begins with what is kept, the other with what comes.
    let new = "[sinks.early]\nfrom = 'earliest'\n[sinks.early.jsonl]\npath = 'FOLDER/early'\n\
               [sinks.late]\nfrom = 'now'\n[sinks.late.jsonl]\npath = 'FOLDER/late'\n";
    let relay = Running::start(folder, &format!("{FILE}{AWAY}{new}")).await;
    relay.store(5).await;
    lines(&folder.join("early"), 55).await;
    lines(&folder.join("late"), 5).await;
    lines(&folder.join("file"), 55).await;
    relay.holds(55).await;
    relay.stop().await;
    // Nobody waits for a sink that is gone.
    let relay = Running::start(folder, FILE).await;
    relay.holds(0).await;
    relay.stop().await;
}
