use std::collections::VecDeque;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::testing::{change, flip, log_files, lose_page, place_of, record_around, seal};
use super::*;
use crate::clock::Clock;
use crate::exchange::Connection;
use crate::metrics::Metrics;

const RULES: RepeatRules = RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) };
/// Longer than what these tests do.
const CALL_AGE: Duration = Duration::from_secs(86_400);

fn config(directory: &Path) -> SpoolConfig {
    SpoolConfig {
        directory: directory.to_path_buf(),
        limits: SpoolLimits::default(),
        repeats: RULES,
        call_age: CALL_AGE,
    }
}

fn limited(directory: &Path, limits: SpoolLimits) -> SpoolConfig {
    SpoolConfig { limits, ..config(directory) }
}

fn sink(name: &str) -> SinkStart {
    SinkStart { name: name.to_owned(), from: StartFrom::Earliest, when_full: WhenFull::Block }
}

fn open(config: SpoolConfig, sinks: &[&str]) -> (Spool, SpoolThreads) {
    let sinks: Vec<_> = sinks.iter().map(|name| sink(name)).collect();
    Spool::open(config, &sinks, Metrics::new([], []).unwrap(), Clock::system()).unwrap()
}

async fn close(spool: Spool, threads: SpoolThreads) {
    spool.close().await;
    tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
}

fn agent(id: &str) -> AgentKey {
    AgentKey { gateway: GatewayName::parse("main").unwrap(), agent_id: AgentId::parse(id).unwrap() }
}

/// A push of these events, each given as its `content`, received `at` seconds after the start.
fn push(agent_id: &str, contents: &[&str], at: u64) -> NewRecord {
    let events: Vec<_> = contents
        .iter()
        .map(|c| format!(r#"{{"eventType":"AgentEvent_MessageData","content":"{c}"}}"#))
        .collect();
    record(agent_id, &events, at)
}

fn record(agent_id: &str, events: &[String], at: u64) -> NewRecord {
    let body = format!(r#"{{"workNo":"{agent_id}","eventList":[{}]}}"#, events.join(","));
    NewRecord {
        kind: RecordKind::Push,
        received_at: Timestamp(1_795_491_900_000 + at * 1000),
        agent: agent(agent_id),
        body: Bytes::from(body),
        answer: None,
    }
}

async fn read_all(reader: &SpoolReader) -> Vec<Record> {
    let records = reader.read(0, 100_000, usize::MAX).await.unwrap();
    records
        .into_iter()
        .map(|record| match record {
            ReadRecord::Good(record) => record,
            ReadRecord::Damaged { offset, fault } => panic!("record {offset} is damaged: {fault}"),
        })
        .collect()
}

/// Waits until a beat has done what `done` looks for.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..400 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("this did not happen within 10 seconds");
}

/// What a crash leaves: the files as they are, without a close. (What an fsync is worth only a power cut shows.)
fn crash_copy(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    // First the mark, so that it says no more than the rest, and the database before the records that it speaks of.
    for name in ["spool.mark", "spool.db", "spool.db-wal"] {
        std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    std::fs::create_dir(log::folder(copy.path())).unwrap();
    for path in log_files(directory) {
        std::fs::copy(&path, log::folder(copy.path()).join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Makes a closed spool one of version 2, whose records were rows of the database.
fn as_version_2(directory: &Path) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(directory.join("spool.db")).unwrap();
    database
        .execute_batch(
            "CREATE TABLE records (
                spool_offset INTEGER PRIMARY KEY, kind INTEGER NOT NULL, received_ms INTEGER NOT NULL,
                gateway TEXT NOT NULL, agent_id TEXT NOT NULL, sequence INTEGER NOT NULL, repeats BLOB,
                before BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL
             );
             DELETE FROM meta WHERE key = 'first_offset'; PRAGMA user_version = 2;",
        )
        .unwrap();
    let inspector = rusqlite::Connection::open(directory.join("spool.db")).unwrap();
    let look = log::look(directory, &schema::spool_id(&inspector).unwrap(), 1, 1).unwrap();
    for item in look.log.reader().read(0, 100_000, usize::MAX).unwrap() {
        let ReadRecord::Good(record) = item.into() else { panic!("it is sound") };
        let repeats = reader::encode_repeats(&record.repeats);
        let before = serde_json::to_vec(&record.before).unwrap();
        let crc = reader::checksum(&reader::stored(&record, 0, &repeats, &before));
        let row = rusqlite::params![
            record.offset,
            reader::kind_number(record.kind),
            record.received_at.millis(),
            record.agent.gateway.as_str(),
            record.agent.agent_id.as_str(),
            record.sequence,
            (!repeats.is_empty()).then_some(repeats),
            before,
            &record.body[..],
            crc,
        ];
        database.execute("INSERT INTO records VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)", row).unwrap();
    }
    std::fs::remove_dir_all(log::folder(directory)).unwrap();
    database
}

/// Makes a closed spool one of version 1, whose dead letters could not be delivered again.
fn as_version_1(directory: &Path) -> rusqlite::Connection {
    let database = as_version_2(directory);
    database
        .execute_batch(
            "DROP TABLE replays; DROP INDEX dead_letters_of_sink;
             ALTER TABLE dead_letters DROP COLUMN attempts; ALTER TABLE dead_letters DROP COLUMN bytes;
             ALTER TABLE dead_letters DROP COLUMN crc; PRAGMA user_version = 1; PRAGMA application_id = 0;",
        )
        .unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_release_before_go_into_the_log_also_when_that_was_left_half_done() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    for n in 0..20u64 {
        spool.append(push(&(1001 + n % 3).to_string(), &["a", "b"], n * 10)).await.unwrap();
    }
    let kafka = spool.reader("kafka").unwrap();
    kafka.confirm(6);
    let before = read_all(&kafka).await;
    close(spool, threads).await;
    let database = as_version_2(folder.path());
    // One that a sink had confirmed is not there any more, nor is one that a repair has left out.
    database.execute("DELETE FROM records WHERE spool_offset < 6 OR spool_offset = 9", []).unwrap();
    drop(database);
    std::fs::create_dir(log::folder(folder.path())).unwrap();
    std::fs::write(log::folder(folder.path()).join("000000000001.log"), [1; 9000]).unwrap();
    let told = std::cell::Cell::new(0);
    let (spool, threads) = Spool::open_slowly(
        config(folder.path()),
        &[sink("kafka")],
        Metrics::new([], []).unwrap(),
        Clock::system(),
        &|| told.set(told.get() + 1),
    )
    .unwrap();
    assert!(told.get() > 0, "who waits for the start hears that it gets on");
    let after = read_all(&spool.reader("kafka").unwrap()).await;
    let kept = before.iter().filter(|record| record.offset >= 6 && record.offset != 9);
    assert_eq!(format!("{after:?}"), format!("{:?}", kept.collect::<Vec<_>>()));
    assert_eq!(spool.cursors(), [("kafka".to_owned(), 6)]);
    let again = spool.append(push("1001", &["a", "b"], 190)).await.unwrap();
    assert_eq!((again.offset, again.repeated), (21, 2), "what is known of agents is kept");
    close(spool, threads).await;
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_in_order_and_as_they_were_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let id = spool.id().to_owned();
    for n in 0..10 {
        let appended = spool.append(push("1001", &[&format!("ä {n}")], n)).await.unwrap();
        assert_eq!(appended, Appended { offset: n + 1, events: 1, repeated: 0 });
    }
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    assert_eq!(spool.id(), id);
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    assert_eq!(records.len(), 10);
    for (n, record) in (0..10).zip(&records) {
        assert_eq!(record.body, push("1001", &[&format!("ä {n}")], n).body);
        assert_eq!((record.offset, record.sequence), (n + 1, n));
    }
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_crash_and_goes_on_with_the_next_offset_and_sequence() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    for n in 0..5 {
        spool.append(push("1001", &["x", "y"], n * 20)).await.unwrap();
    }
    let copy = crash_copy(folder.path());
    close(spool, threads).await;
    let (spool, threads) = open(config(copy.path()), &["kafka"]);
    let appended = spool.append(push("1001", &["z"], 500)).await.unwrap();
    assert_eq!(appended.offset, 6);
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    assert_eq!(records.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(records[5].sequence, 10 - 8, "four batches were repeats of the first and took no numbers");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_freed_when_every_sink_has_confirmed_it_and_its_offset_is_never_used_again() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    for n in 0..100u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    let (kafka, mqtt) = (spool.reader("kafka").unwrap(), spool.reader("mqtt").unwrap());
    kafka.confirm(101);
    mqtt.confirm(51);
    until(async || read_all(&kafka).await.first().is_some_and(|r| r.offset == 51)).await;
    assert_eq!(read_all(&mqtt).await.len(), 50, "a record that one sink still needs stays");
    mqtt.confirm(101);
    until(async || read_all(&kafka).await.is_empty()).await;
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    assert_eq!(spool.append(push("1001", &["new"], 1000)).await.unwrap().offset, 101);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back_after_a_backlog_was_delivered() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let long = "x".repeat(20_000);
    let mut pushes = tokio::task::JoinSet::new();
    for n in 0..4000u64 {
        let (spool, record) = (spool.clone(), push(&(1000 + n).to_string(), &[&long], n));
        pushes.spawn(async move { spool.append(record).await.unwrap() });
    }
    pushes.join_all().await;
    let size = || -> u64 {
        let files = log_files(folder.path());
        files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum()
    };
    assert!(size() > 80_000_000);
    spool.reader("kafka").unwrap().confirm(4001);
    // The newest file, the next one, and one that is kept.
    until(async || size() <= 3 * (16 << 20)).await;
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sink_begins_where_it_is_told_and_a_removed_one_frees_its_records() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    for n in 0..4u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    close(spool, threads).await;
    let sinks =
        [sink("early"), SinkStart { name: "late".into(), from: StartFrom::Now, when_full: WhenFull::Block }];
    let (spool, threads) =
        Spool::open(config(folder.path()), &sinks, Metrics::new([], []).unwrap(), Clock::system()).unwrap();
    assert_eq!(spool.cursors(), [("early".to_owned(), 1), ("late".to_owned(), 5)]);
    assert!(spool.reader("kafka").is_err(), "kafka was removed");
    let early = spool.reader("early").unwrap();
    early.confirm(5);
    spool.forget_removed_sinks(BTreeSet::new()).await.unwrap();
    until(async || read_all(&early).await.is_empty()).await;
    close(spool, threads).await;
}

#[test]
fn a_spool_whose_answers_nobody_passes_on_any_more_has_failed() {
    let folder = TempDir::new().unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let (spool, threads) = first.block_on(async { open(config(folder.path()), &["kafka"]) });
    // The task that passes them on ends with it, as if it had panicked.
    drop(first);
    runtime().block_on(async {
        assert_eq!(spool.append(push("1001", &["a"], 0)).await, Err(AppendError::Failed));
        let mut failure = spool.failure();
        let said = tokio::time::timeout(Duration::from_secs(20), failure.wait_for(Option::is_some)).await;
        assert!(said.unwrap().unwrap().as_deref().unwrap().contains("passes on the answers"));
        tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_sink_gives_up_nothing_of_it_by_itself() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    for n in 0..4u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    spool.reader("mqtt").unwrap().confirm(3);
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    spool.reader("kafka").unwrap().confirm(5);
    close(spool, threads).await;
    let now = |name: &str| SinkStart { from: StartFrom::Now, ..sink(name) };
    let (spool, threads) = Spool::open(
        config(folder.path()),
        &[now("kafka"), now("mqtt")],
        Metrics::new([], []).unwrap(),
        Clock::system(),
    )
    .unwrap();
    assert_eq!(spool.cursors(), [("kafka".to_owned(), 5), ("mqtt".to_owned(), 3)]);
    let left = read_all(&spool.reader("mqtt").unwrap()).await;
    assert_eq!(left.iter().map(|record| record.offset).collect::<Vec<_>>(), [3, 4]);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_at_its_limit_refuses_and_takes_again_when_there_is_space() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(
        limited(folder.path(), SpoolLimits { max_bytes: 400_000, ..SpoolLimits::default() }),
        &["kafka"],
    );
    let long = "x".repeat(10_000);
    let mut stored = 0;
    let refused = loop {
        match spool.append(push(&(1001 + stored).to_string(), &[&long], stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the limit was never met");
    };
    assert_eq!(refused, AppendError::Full);
    let reader = spool.reader("kafka").unwrap();
    assert_eq!(read_all(&reader).await.len() as u64, stored, "what was refused is not there");
    reader.confirm(stored + 1);
    until(async || spool.append(push("1001", &["again"], 900)).await.is_ok()).await;
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_and_an_unknown_version_are_refused() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &[]);
    let again = Spool::open(config(folder.path()), &[], Metrics::new([], []).unwrap(), Clock::system());
    assert!(matches!(again, Err(OpenError::InUse { .. })));
    close(spool, threads).await;
    let database = rusqlite::Connection::open(folder.path().join("spool.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let newer = Spool::open(config(folder.path()), &[], Metrics::new([], []).unwrap(), Clock::system());
    assert!(matches!(newer, Err(OpenError::Version { found: 99, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_can_be_read_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("spool");
    let (spool, threads) = open(config(&directory), &[]);
    spool.append(push("1001", &["x"], 0)).await.unwrap();
    for name in ["spool.db", "spool.db-wal", "spool.db-shm", "spool.lock", "spool.mark"] {
        let mode = std::fs::metadata(directory.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for path in log_files(&directory) {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(log::folder(&directory)).unwrap().permissions().mode() & 0o777, 0o700);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changes_under_a_running_daemon_costs_no_other_record() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    for n in 0..3u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    let (path, at) = place_of(folder.path(), "\"content\":\"1\"");
    flip(&path, at);
    let records = spool.reader("kafka").unwrap().read(0, 10, usize::MAX).await.unwrap();
    assert!(
        matches!(records[1], ReadRecord::Damaged { offset: 2, fault: "checksum mismatch" }),
        "{records:?}"
    );
    assert!(matches!(&records[0], ReadRecord::Good(r) if r.offset == 1));
    assert!(matches!(&records[2], ReadRecord::Good(r) if r.offset == 3));
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_sessions_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    spool.append(push("1001", &["x"], 0)).await.unwrap();
    let letter = DeadLetter {
        sink: "kafka".into(),
        spool_offset: 1,
        event_id: format!("{}-1-0", spool.id()),
        topic: "t".into(),
        reason: "too_large".into(),
        detail: "message is too large".into(),
        at: Timestamp(5),
        attempts: 3,
    };
    spool.dead_letter(letter.clone()).await.unwrap();
    spool.save_session(agent("1001"), Some(b"guid".to_vec())).await.unwrap();
    spool.save_session(agent("1002"), Some(b"other".to_vec())).await.unwrap();
    spool.save_session(agent("1002"), None).await.unwrap();
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    assert_eq!(format!("{:?}", spool.dead_letters().unwrap()), format!("{:?}", [letter]));
    assert_eq!(spool.sessions().unwrap(), [(agent("1001"), b"guid".to_vec())]);
    close(spool, threads).await;
}

mod damaged;
mod dead_letters;
mod full;
mod life;
mod numbers;

mod repeats {
    use super::*;

    async fn repeats_of(spool: &Spool) -> Vec<(u64, Vec<(u64, u32)>)> {
        let records = read_all(&spool.reader("kafka").unwrap()).await;
        let refs = |record: &Record| record.repeats.iter().map(|r| (r.first.offset, r.first.index)).collect();
        let first =
            |record: &Record| record.repeats.first().map_or(record.sequence, |repeat| repeat.sequence);
        records.iter().map(|record| (first(record), refs(record))).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_sent_again_with_new_events_at_its_end_keeps_the_first_ids_and_numbers() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        spool.append(push("1001", &["before"], 0)).await.unwrap();
        spool.append(push("1001", &["a", "b"], 20)).await.unwrap();
        spool.append(push("1001", &["a", "b", "c"], 30)).await.unwrap();
        spool.append(push("1001", &["a", "b", "c"], 40)).await.unwrap();
        spool.append(push("1001", &["d"], 60)).await.unwrap();
        let expected = [
            (0, vec![]),
            (1, vec![]),
            (1, vec![(2, 0), (2, 1)]),
            (1, vec![(2, 0), (2, 1), (3, 2)]),
            (4, vec![]),
        ];
        assert_eq!(repeats_of(&spool).await, expected);
        close(spool, threads).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_repeat_is_known_after_a_crash_even_when_the_first_delivery_was_freed() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        spool.append(push("1001", &["a", "b"], 20)).await.unwrap();
        let reader = spool.reader("kafka").unwrap();
        reader.confirm(2);
        until(async || read_all(&reader).await.is_empty()).await;
        let copy = crash_copy(folder.path());
        close(spool, threads).await;
        let (spool, threads) = open(config(copy.path()), &["kafka"]);
        let appended = spool.append(push("1001", &["a", "b"], 30)).await.unwrap();
        assert_eq!(appended, Appended { offset: 2, events: 2, repeated: 2 });
        assert_eq!(repeats_of(&spool).await, [(0, vec![(1, 0), (1, 1)])]);
        close(spool, threads).await;
    }

    /// The gateway repeats a batch while the relay is down, and adds to it what has happened since.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_that_grows_across_restarts_is_known_with_times_and_without() {
        let untimed = |n: u64| format!(r#"{{"eventType":"AgentEvent_MessageData","content":"{n}"}}"#);
        let timed = |n: u64| {
            format!(
                r#"{{"eventType":"AgentState_Ready","eventGenTime":{},"content":null}}"#,
                1_784_529_722_590 + n
            )
        };
        let makers: [(&dyn Fn(u64) -> String, u64); 2] = [(&untimed, 10), (&timed, 1)];
        for (event, gap) in makers {
            let folder = TempDir::new().unwrap();
            let batch = |count: u64, at: u64| record("1001", &(0..count).map(event).collect::<Vec<_>>(), at);
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            spool.append(batch(2, 0)).await.unwrap();
            close(spool, threads).await;
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            spool.append(batch(3, gap)).await.unwrap();
            let copy = crash_copy(folder.path());
            close(spool, threads).await;
            let (spool, threads) = open(config(copy.path()), &["kafka"]);
            let last = spool.append(batch(5, 2 * gap)).await.unwrap();
            assert_eq!((last.events, last.repeated), (5, 3));
            let expected = [(0, vec![]), (0, vec![(1, 0), (1, 1)]), (0, vec![(1, 0), (1, 1), (2, 2)])];
            assert_eq!(repeats_of(&spool).await, expected);
            close(spool, threads).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_equal_messages_are_two_events_when_the_first_answer_is_known_to_have_arrived() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        let connection = Connection::new();
        let exchange = || {
            let exchange = connection.begin();
            exchange.answered();
            Some(exchange)
        };
        spool.append(NewRecord { answer: exchange(), ..push("1001", &["hello"], 0) }).await.unwrap();
        let second = NewRecord { answer: exchange(), ..push("1001", &["hello"], 15) };
        assert_eq!(spool.append(second).await.unwrap().repeated, 0);
        // No later request on that connection: this one may be the gateway's retry.
        let third = NewRecord { answer: None, ..push("1001", &["hello"], 30) };
        assert_eq!(spool.append(third).await.unwrap().repeated, 1);
        close(spool, threads).await;
    }

    /// The connection on which a push came that is stored and answered.
    async fn hello_that_is_answered(spool: &Spool) -> Arc<Connection> {
        let connection = Connection::new();
        let exchange = connection.begin();
        let first = NewRecord { answer: Some(exchange.clone()), ..push("1001", &["hello"], 0) };
        spool.append(first).await.unwrap();
        exchange.answered();
        connection
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_equal_messages_on_connections_of_their_own_are_two_events_where_the_gateway_ended_the_first()
    {
        for (ended, repeated) in [(true, 0), (false, 1)] {
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            let connection = hello_that_is_answered(&spool).await;
            connection.flushed();
            if ended {
                connection.ended();
            }
            let again = Connection::new().begin().delayed(Duration::from_secs(15));
            let second = NewRecord { answer: Some(again), ..push("1001", &["hello"], 15) };
            assert_eq!(spool.append(second).await.unwrap().repeated, repeated, "ended: {ended}");
            close(spool, threads).await;
        }
    }

    fn rows_are_stored_before(directory: &Path, offset: u64) -> bool {
        let database = rusqlite::Connection::open(directory.join("spool.db")).unwrap();
        let query = "SELECT value FROM meta WHERE key = 'agents_as_of'";
        database.query_row(query, [], |row| row.get::<_, u64>(0)).unwrap() == offset
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restart_does_not_forget_that_an_answer_arrived() {
        for (arrived, repeated) in [(true, 0), (false, 1)] {
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            let connection = hello_that_is_answered(&spool).await;
            // Only now it shows, and the row was stored before.
            until(async || rows_are_stored_before(folder.path(), 2)).await;
            if arrived {
                drop(connection.begin());
            }
            close(spool, threads).await;
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            let second = push("1001", &["hello"], 15);
            assert_eq!(spool.append(second).await.unwrap().repeated, repeated, "arrived: {arrived}");
            close(spool, threads).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_forgets_no_arrival_that_was_told_a_while_before() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        let connection = hello_that_is_answered(&spool).await;
        until(async || rows_are_stored_before(folder.path(), 2)).await;
        let row = || -> Vec<u8> {
            let database = rusqlite::Connection::open(folder.path().join("spool.db")).unwrap();
            database.query_row("SELECT row FROM agents", [], |row| row.get(0)).unwrap()
        };
        let before = row();
        // Another agent's push, say.
        drop(connection.begin());
        until(async || row() != before).await;
        let copy = crash_copy(folder.path());
        close(spool, threads).await;
        let (spool, threads) = open(config(copy.path()), &["kafka"]);
        assert_eq!(spool.append(push("1001", &["hello"], 15)).await.unwrap().repeated, 0);
        close(spool, threads).await;
    }

    /// As after a machine that stood still: the gateway gave the first delivery up, and both wait to be read.
    #[tokio::test(flavor = "multi_thread")]
    async fn deliveries_that_wait_at_the_same_time_are_the_same_whichever_is_read_first() {
        for first_is_longer in [false, true] {
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            let (given_up, again) = (Connection::new().begin(), Connection::new().begin());
            let (short, long) = (push("1001", &["hello"], 0), push("1001", &["hello", "more"], 0));
            let (first, second) = if first_is_longer { (long, short) } else { (short, long) };
            spool.append(NewRecord { answer: Some(given_up.clone()), ..first }).await.unwrap();
            given_up.answered();
            let second = spool.append(NewRecord { answer: Some(again.clone()), ..second }).await.unwrap();
            again.answered();
            assert_eq!(second.repeated, 1);
            // An equal one that was begun after the answer is another.
            let later = NewRecord { answer: Some(Connection::new().begin()), ..push("1001", &["hello"], 1) };
            assert_eq!(spool.append(later).await.unwrap().repeated, 0);
            let firsts = repeats_of(&spool).await.into_iter().map(|(_, repeats)| repeats).collect::<Vec<_>>();
            assert_eq!(firsts, [vec![], vec![(1, 0)], vec![]]);
            close(spool, threads).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_time_a_repeat_comes_neither_too_soon_nor_too_late() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        for (at, repeated) in [(0, 0), (5, 0), (13, 1), (193, 1), (374, 0)] {
            let appended = spool.append(push("1001", &["hello"], at)).await.unwrap();
            assert_eq!(appended.repeated, repeated, "at {at} s");
        }
        close(spool, threads).await;
    }

    /// The clock is put forward by an hour, or back, between a push and its repeat 10 s later, or the machine was suspended for them.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_of_the_clock_hides_no_repeat() {
        let untimed = r#"{"eventType":"AgentEvent_MessageData","content":"hello"}"#;
        let timed = r#"{"eventType":"AgentState_Ready","eventGenTime":1784529722590,"content":null}"#;
        for event in [untimed, timed] {
            for (at, delay) in [(3600 + 3610, 10), (10, 10), (3610, 0)] {
                let folder = TempDir::new().unwrap();
                let (spool, threads) = open(config(folder.path()), &["kafka"]);
                let batch = |at, exchange| NewRecord {
                    answer: Some(exchange),
                    ..record("1001", &[event.to_owned()], at)
                };
                let first = Connection::new().begin();
                spool.append(batch(3600, first.clone())).await.unwrap();
                first.answered();
                let again = Connection::new().begin().delayed(Duration::from_secs(delay));
                assert_eq!(spool.append(batch(at, again)).await.unwrap().repeated, 1, "at {at} s: {event}");
                close(spool, threads).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_event_gen_time_the_match_is_exact_at_any_time_in_the_window() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        let event = |time: u64| {
            [format!(r#"{{"eventType":"AgentState_Ready","eventGenTime":{time},"content":null}}"#)]
        };
        for (at, time, repeated) in
            [(0, 1_784_529_722_590, 0), (1, 1_784_529_722_590, 1), (2, 1_784_529_722_591, 0)]
        {
            let appended = spool.append(record("1001", &event(time), at)).await.unwrap();
            assert_eq!(appended.repeated, repeated, "at {at} s");
        }
        close(spool, threads).await;
    }

    fn own(event_type: &str, at: u64) -> NewRecord {
        let body = Bytes::from(format!(r#"{{"type":"{event_type}"}}"#));
        NewRecord { kind: RecordKind::Lifecycle, body, ..record("1001", &[], at) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_events_of_a_session_repeat_none_of_the_session_before_also_after_a_crash() {
        let signed_in = ["AgentOther_InService", "AgentState_Ready"];
        let signed_in = signed_in.map(|name| format!(r#"{{"eventType":"{name}","content":null}}"#));
        for (event_type, repeated) in [
            ("session.lost", 0),
            ("session.ended", 0),
            // These say nothing of a new session.
            ("session.degraded", 2),
            ("session.started", 2),
        ] {
            for crashes in [false, true] {
                let folder = TempDir::new().unwrap();
                let (mut spool, mut threads) = open(config(folder.path()), &["kafka"]);
                spool.append(record("1001", &signed_in, 0)).await.unwrap();
                spool.append(own(event_type, 9)).await.unwrap();
                let copy = crash_copy(folder.path());
                if crashes {
                    close(spool, threads).await;
                    (spool, threads) = open(config(copy.path()), &["kafka"]);
                }
                let appended = spool.append(record("1001", &signed_in, 20)).await.unwrap();
                assert_eq!(appended.repeated, repeated, "{event_type}, after a crash: {crashes}");
                close(spool, threads).await;
            }
        }
    }

    /// A poll is asked for again only when its answer was stored, so what it brings is always new.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_to_a_poll_is_no_repeat_however_equal_it_is_also_after_a_crash() {
        let timed = r#"{"eventType":"AgentState_Ready","eventGenTime":1784529722590,"content":null}"#;
        let answer = r#"{"eventType":"AgentChat_DataRecved","content":{"callId":"1-1","sender":"7","chatContent":"ok"}}"#;
        for event in [answer, timed] {
            let poll = |at| NewRecord { kind: RecordKind::Poll, ..record("1001", &[event.to_owned()], at) };
            let push = |at| record("1001", &[event.to_owned()], at);
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(config(folder.path()), &["kafka"]);
            for at in [0, 15] {
                assert_eq!(spool.append(poll(at)).await.unwrap().repeated, 0, "at {at} s: {event}");
            }
            let crashed = crash_copy(folder.path());
            close(spool, threads).await;
            for folder in [crashed, folder] {
                let (spool, threads) = open(config(folder.path()), &["kafka"]);
                assert_eq!(spool.append(poll(30)).await.unwrap().repeated, 0, "after a start: {event}");
                // The agent is pushed to from now on, and then polled again.
                for (record, repeated) in [(push(45), 0), (push(60), 1), (poll(75), 0), (push(90), 0)] {
                    let kind = record.kind;
                    assert_eq!(spool.append(record).await.unwrap().repeated, repeated, "{kind:?}: {event}");
                }
                let numbers = repeats_of(&spool).await.into_iter().map(|(number, _)| number);
                assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 3, 3, 4, 5]);
                close(spool, threads).await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn agents_do_not_repeat_each_other() {
        let folder = TempDir::new().unwrap();
        let (spool, threads) = open(config(folder.path()), &["kafka"]);
        spool.append(push("1001", &["hello"], 0)).await.unwrap();
        assert_eq!(spool.append(push("1002", &["hello"], 10)).await.unwrap().repeated, 0);
        close(spool, threads).await;
    }
}

/// Random life of a spool against a queue in memory.
#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Confirm(u8),
    Crash,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..20u8).prop_map(Step::Append),
        3 => any::<u8>().prop_map(Step::Confirm),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_random_life_never_loses_or_reorders_a_record(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(live(steps));
    }
}

async fn live(steps: Vec<Step>) {
    let mut folder = TempDir::new().unwrap();
    let (mut spool, mut threads) = open(config(folder.path()), &["kafka"]);
    let mut model: VecDeque<(u64, Bytes)> = VecDeque::new();
    let (mut next, mut confirmed) = (1u64, 1u64);
    for step in steps {
        match step {
            Step::Append(count) => {
                for _ in 0..count {
                    let record = push(&(1000 + next % 3).to_string(), &[&next.to_string()], next);
                    let body = record.body.clone();
                    assert_eq!(spool.append(record).await.unwrap().offset, next);
                    model.push_back((next, body));
                    next += 1;
                }
            }
            Step::Confirm(part) => {
                confirmed += (next - confirmed) * u64::from(part) / 255;
                spool.reader("kafka").unwrap().confirm(confirmed);
            }
            Step::Crash | Step::Restart => {
                let copy = crash_copy(folder.path());
                close(spool, threads).await;
                if matches!(step, Step::Crash) {
                    folder = copy;
                }
                (spool, threads) = open(config(folder.path()), &["kafka"]);
            }
        }
        // A crash may forget that records were confirmed, never that they were stored.
        let cursor = spool.reader("kafka").unwrap().cursor();
        assert!(cursor <= confirmed);
        let records = spool.reader("kafka").unwrap().read(cursor, 100_000, usize::MAX).await.unwrap();
        let found: Vec<_> = records
            .iter()
            .map(|record| match record {
                ReadRecord::Good(record) => (record.offset, record.body.clone()),
                ReadRecord::Damaged { offset, fault } => panic!("record {offset}: {fault}"),
            })
            .collect();
        let expected: Vec<_> = model.iter().filter(|(offset, _)| *offset >= cursor).cloned().collect();
        assert_eq!(found, expected);
        confirmed = cursor.max(confirmed.min(cursor));
    }
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_spool_can_be_looked_into() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    for n in 0..5u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    spool.reader("kafka").unwrap().confirm(4);
    let inspector = inspect::Inspector::open(folder.path()).unwrap();
    until(async || inspector.stat().unwrap().sinks[0].next_offset == 4).await;
    let stat = inspector.stat().unwrap();
    assert_eq!((stat.records, stat.first_offset, stat.last_offset), (5, Some(1), Some(5)));
    assert_eq!(stat.sinks.iter().map(|sink| sink.lag_records).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(stat.spool_id, spool.id());
    close(spool, threads).await;
}
