use std::time::Duration;

use futures_util::poll;
use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;
use crate::spool::testing::hold_disk;
use crate::spool::{
    ReadRecord, Record, RepeatRules, SinkStart, SpoolConfig, SpoolLimits, SpoolThreads, StartFrom, WhenFull,
};

/// More than wait for room with the writer and are in one commit.
const MANY: usize = 6000;

struct Bench {
    folder: TempDir,
    spool: Spool,
    threads: SpoolThreads,
    metrics: Metrics,
    lifecycle: Lifecycle,
    stop: CancellationToken,
    journal: JournalBridge,
}

impl Bench {
    fn new() -> Bench {
        let (folder, lifecycle) = (TempDir::new().unwrap(), Lifecycle::default());
        let (metrics, clock) = (Metrics::new(["main"], []).unwrap(), Clock::system());
        let config = SpoolConfig {
            directory: folder.path().to_path_buf(),
            limits: SpoolLimits::default(),
            repeats: RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) },
            call_age: Duration::from_secs(86_400),
        };
        let sink = SinkStart { name: "all".into(), from: StartFrom::Earliest, when_full: WhenFull::Block };
        let (spool, threads) = Spool::open(config, &[sink], metrics.clone(), clock.clone()).unwrap();
        let stop = CancellationToken::new();
        let journal = JournalBridge::start(
            &lifecycle,
            spool.clone(),
            metrics.clone(),
            clock,
            Traces::default(),
            stop.clone(),
        );
        Bench { folder, spool, threads, metrics, lifecycle, stop, journal }
    }

    fn record(&self, agent: usize, kind: LifecycleKind) {
        let AgentKey { gateway, agent_id } = agent_key(agent);
        let event = LifecycleEvent {
            kind,
            reason: "guid_refused",
            retcode: None,
            login_time: None,
            time: Timestamp(0),
        };
        self.journal.record(&gateway, &agent_id, event);
    }

    fn lost(&self, reason: &str) -> u64 {
        self.metrics.session_events_lost.with_label_values(&["main", reason]).get()
    }

    fn counted(&self) -> u64 {
        self.metrics.events.with_label_values(&["session"]).get()
    }

    async fn records(&self) -> Vec<Record> {
        let reader = self.spool.reader("all").unwrap();
        let records = reader.read(0, usize::MAX, usize::MAX).await.unwrap();
        let sound = |record| match record {
            ReadRecord::Good(record) => record,
            ReadRecord::Damaged { fault, .. } => panic!("{fault}"),
        };
        records.into_iter().map(sound).collect()
    }

    async fn close(self) {
        self.spool.close().await;
        tokio::task::spawn_blocking(move || self.threads.join()).await.unwrap();
    }
}

fn agent_key(agent: usize) -> AgentKey {
    let agent_id = AgentId::parse(&(1000 + agent).to_string()).unwrap();
    AgentKey { gateway: GatewayName::parse("main").unwrap(), agent_id }
}

fn push(agent: usize) -> NewRecord {
    let agent = agent_key(agent);
    let body = format!(
        r#"{{"workNo":"{}","eventList":[{{"eventType":"AgentState_Ready","content":null}}]}}"#,
        agent.agent_id
    );
    let (kind, received_at) = (RecordKind::Push, Timestamp(0));
    NewRecord { kind, received_at, agent, body: Bytes::from(body), answer: None }
}

#[tokio::test]
async fn what_happened_to_sessions_is_stored_before_their_next_pushes_however_slow_the_disk_is() {
    let bench = Bench::new();
    let disk = hold_disk(bench.folder.path());
    (0..MANY).for_each(|agent| bench.record(agent, LifecycleKind::Lost));
    let last = MANY - 1;
    let mut pushed = Box::pin(bench.spool.append(push(last)));
    assert!(poll!(&mut pushed).is_pending());
    bench.record(last, LifecycleKind::Started);
    drop(disk);
    pushed.await.unwrap();
    bench.stop.cancel();
    bench.lifecycle.stop();
    assert!(bench.lifecycle.drained(Duration::from_secs(20)).await);
    let records = bench.records().await;
    let of_last: Vec<_> = records.iter().filter(|record| record.agent == agent_key(last)).collect();
    let seen: Vec<_> = of_last.iter().map(|record| (record.kind, record.sequence)).collect();
    let (ours, pushed) = (RecordKind::Lifecycle, RecordKind::Push);
    assert_eq!(seen, [(ours, 0), (pushed, 1), (ours, 2)]);
    assert_eq!(records.len(), MANY + 2);
    assert_eq!(bench.counted(), MANY as u64 + 1);
    bench.close().await;
}

#[tokio::test]
async fn a_stop_that_cannot_wait_for_the_disk_loses_nothing_that_happened_to_sessions() {
    let bench = Bench::new();
    let disk = hold_disk(bench.folder.path());
    (0..300).for_each(|agent| bench.record(agent, LifecycleKind::Started));
    bench.stop.cancel();
    bench.lifecycle.stop();
    assert!(!bench.lifecycle.drained(Duration::ZERO).await, "the disk is held");
    // One whose session outlives the stop's patience.
    bench.record(300, LifecycleKind::Ended);
    drop(disk);
    bench.spool.close().await;
    let mut closed = bench.spool.end();
    while *closed.borrow_and_update() <= 301 {
        closed.changed().await.unwrap();
    }
    assert_eq!(bench.records().await.len(), 301);
    bench.close().await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_counted_with_its_reason() {
    let bench = Bench::new();
    let disk = hold_disk(bench.folder.path());
    // As many as wait, as are in a commit, and some more.
    (0..65_536 + 1024 + 10).for_each(|_| bench.record(0, LifecycleKind::Degraded));
    assert!((10..=1034).contains(&bench.lost("queue_full")), "{}", bench.lost("queue_full"));
    // They take no room of those who wait for it.
    let mut pushed = Box::pin(bench.spool.append(push(1)));
    assert!(poll!(&mut pushed).is_pending());
    drop(disk);
    pushed.await.unwrap();
    bench.spool.close().await;
    while bench.spool.pulse().await.is_ok() {}
    bench.record(0, LifecycleKind::Ended);
    assert_eq!(bench.lost("stopping"), 1);
    bench.close().await;
}
