use super::super::dead_letters::{Change, Sweep};
use super::*;

fn letter(spool: &Spool, sink: &str, offset: u64, index: Option<u32>) -> DeadLetter {
    DeadLetter {
        sink: sink.to_owned(),
        spool_offset: offset,
        event_id: index.map_or_else(String::new, |index| format!("{}-{offset}-{index}", spool.id())),
        topic: "t".to_owned(),
        reason: "too_large".to_owned(),
        detail: "message is too large".to_owned(),
        at: Timestamp(1_000 * offset),
        attempts: 1,
    }
}

async fn ids(spool: &Spool, filter: LetterFilter) -> Vec<u64> {
    spool.letters(filter, 0, 100).await.unwrap().iter().map(|stored| stored.id).collect()
}

fn of_sink(sink: &str) -> LetterFilter {
    LetterFilter { sink: Some(sink.to_owned()), ..LetterFilter::default() }
}

/// A spool with four letters: three of kafka, one of mqtt.
async fn with_letters(folder: &Path) -> (Spool, SpoolThreads) {
    let (spool, threads) = open(config(folder), &["kafka", "mqtt"]);
    for n in 0..3u64 {
        spool.append(push("1001", &["a", &n.to_string()], n)).await.unwrap();
    }
    for n in 1..=3 {
        spool.dead_letter(letter(&spool, "kafka", n, Some(1))).await.unwrap();
    }
    spool.dead_letter(letter(&spool, "mqtt", 2, None)).await.unwrap();
    (spool, threads)
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_by_sink_reason_and_time_a_page_at_a_time() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    assert_eq!(ids(&spool, LetterFilter::default()).await, [1, 2, 3, 4]);
    assert_eq!(ids(&spool, of_sink("kafka")).await, [1, 2, 3]);
    let since = LetterFilter { since: Some(Timestamp(2_000)), ..of_sink("kafka") };
    assert_eq!(ids(&spool, since).await, [2, 3]);
    let reason = LetterFilter { reason: Some("forbidden".to_owned()), ..LetterFilter::default() };
    assert!(ids(&spool, reason).await.is_empty());
    let some = LetterFilter { ids: vec![2, 4, 9], ..LetterFilter::default() };
    assert_eq!(ids(&spool, some).await, [2, 4]);
    let page = spool.letters(LetterFilter::default(), 1, 2).await.unwrap();
    assert_eq!(page.iter().map(|stored| stored.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(page[0].agent_id.as_deref(), Some("1001"));
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_keeps_its_record_when_the_record_itself_is_freed() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    for sink in ["kafka", "mqtt"] {
        spool.reader(sink).unwrap().confirm(4);
    }
    until(async || read_all(&spool.reader("kafka").unwrap()).await.is_empty()).await;
    let one = spool.letter(2).await.unwrap().unwrap();
    let events = one.events(spool.id()).unwrap();
    assert_eq!(events.len(), 1, "the one event that was set aside, not the whole record");
    assert_eq!(events[0].id, format!("{}-2-1", spool.id()));
    let whole = spool.letter(4).await.unwrap().unwrap();
    assert_eq!(whole.events(spool.id()).unwrap().len(), 2);
    assert_eq!(whole.exported(spool.id(), &Unhidden).len(), 2);
    let shown = one.shown(spool.id(), &Unhidden);
    assert_eq!(shown["record"]["body"]["workNo"], "1001");
    assert_eq!(shown["events"][0]["id"], events[0].id);
    assert_eq!(shown["deadLetter"]["reason"], "too_large");
    assert!(spool.letter(77).await.unwrap().is_none());
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_deliver_again_survive_a_crash_and_end_when_they_are_confirmed() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    assert_eq!(spool.replay_letters(of_sink("kafka")).await.unwrap(), 3);
    assert_eq!(spool.replay_letters(of_sink("kafka")).await.unwrap(), 0, "all were asked for before");
    assert_eq!(spool.reader("mqtt").unwrap().replay_to(), 0);
    let copy = crash_copy(folder.path());
    close(spool, threads).await;

    let (spool, threads) = open(config(copy.path()), &["kafka", "mqtt"]);
    let reader = spool.reader("kafka").unwrap();
    let waiting = reader.replays(0, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|replay| replay.letter.stored.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(reader.replay_to(), waiting[2].number);
    spool.settle_replay(1, Replayed::Delivered).await.unwrap();
    let failed = Replayed::Failed {
        reason: "forbidden".to_owned(),
        detail: "no such topic".to_owned(),
        at: Timestamp(9_000),
        attempts: 2,
    };
    spool.settle_replay(2, failed).await.unwrap();
    assert_eq!(ids(&spool, of_sink("kafka")).await, [2, 3]);
    let again = spool.letter(2).await.unwrap().unwrap().stored;
    assert_eq!(
        (again.letter.reason.as_str(), again.letter.attempts, again.replaying),
        ("forbidden", 3, false)
    );
    assert!(spool.letter(3).await.unwrap().unwrap().stored.replaying);
    let one = LetterFilter { ids: vec![2], ..LetterFilter::default() };
    assert_eq!(spool.replay_letters(one).await.unwrap(), 1, "what failed again may be asked for again");
    let waiting = reader.replays(waiting[2].number, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|replay| replay.letter.stored.id).collect::<Vec<_>>(), [2]);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_letter_is_gone_and_is_not_delivered_again() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    spool.replay_letters(LetterFilter::default()).await.unwrap();
    assert_eq!(spool.discard_letters(of_sink("kafka")).await.unwrap(), 3);
    assert_eq!(ids(&spool, LetterFilter::default()).await, [4]);
    assert!(spool.reader("kafka").unwrap().replays(0, 10).await.unwrap().is_empty());
    spool.settle_replay(1, Replayed::Delivered).await.unwrap();
    assert_eq!(spool.discard_letters(of_sink("kafka")).await.unwrap(), 0);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_letter_that_is_gone_stays_readable_in_the_database() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    // One that lies within a page, and one that has pages of its own.
    for (n, canary) in [(1u64, "small-canary".to_owned()), (2, "large-canary".repeat(2_000))] {
        spool.append(push("1001", &[&canary, "b"], n)).await.unwrap();
        spool.dead_letter(letter(&spool, "kafka", n, Some(0))).await.unwrap();
        spool.dead_letter(letter(&spool, "mqtt", n, Some(0))).await.unwrap();
    }
    close(spool, threads).await;
    let readable = |canary: &str| {
        let files = ["spool.db", "spool.db-wal"].map(|file| std::fs::read(folder.path().join(file)));
        files.iter().flatten().any(|bytes| String::from_utf8_lossy(bytes).contains(canary))
    };
    assert!(readable("small-canary") && readable("large-canary"), "they are kept as they came");
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    assert_eq!(spool.discard_letters(of_sink("kafka")).await.unwrap(), 2);
    for id in ids(&spool, of_sink("mqtt")).await {
        spool.settle_replay(id, Replayed::Delivered).await.unwrap();
    }
    close(spool, threads).await;
    assert!(!readable("small-canary") && !readable("large-canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_beyond_their_limit_are_refused_until_there_is_room() {
    let folder = TempDir::new().unwrap();
    let limits = SpoolLimits { max_dead_letter_bytes: 600, ..SpoolLimits::default() };
    let metrics = Metrics::new([], [("kafka", &[][..])]).unwrap();
    let sinks = [sink("kafka")];
    let (spool, threads) =
        Spool::open(limited(folder.path(), limits), &sinks, metrics.clone(), Clock::system()).unwrap();
    for n in 0..9u64 {
        spool.append(push("1001", &[&n.to_string()], n)).await.unwrap();
    }
    let mut stored = 0;
    while spool.dead_letter(letter(&spool, "kafka", stored + 1, Some(0))).await.is_ok() {
        stored += 1;
        assert!(stored < 9, "the limit was never met");
    }
    assert!(stored >= 1);
    let refused = spool.dead_letter(letter(&spool, "kafka", stored + 1, Some(0))).await;
    assert_eq!(refused, Err(AppendError::Full));
    let again = DeadLetter { attempts: 7, ..letter(&spool, "kafka", 1, Some(0)) };
    assert_eq!(spool.dead_letter(again).await, Ok(false), "what is there takes no more room");
    assert_eq!(spool.letter(1).await.unwrap().unwrap().stored.letter.attempts, 7);
    assert!(spool.append(push("1001", &["still"], 50)).await.is_ok(), "pushes have nothing to do with it");
    let held = || metrics.dead_letters.with_label_values(&["kafka"]).get();
    until(async || held() == i64::try_from(stored).unwrap()).await;
    assert!(metrics.dead_letter_bytes.with_label_values(&["kafka"]).get() >= 600);
    spool.discard_letters(LetterFilter::default()).await.unwrap();
    until(async || spool.dead_letter(letter(&spool, "kafka", 9, Some(0))).await.is_ok()).await;
    until(async || held() == 1).await;
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_sink_that_was_taken_away_are_counted_and_said_not_to_be_delivered() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    close(spool, threads).await;
    let metrics = Metrics::new([], [("mqtt", &[][..])]).unwrap();
    let start = || Spool::open(config(folder.path()), &[sink("mqtt")], metrics.clone(), Clock::system());
    let (spool, threads) = start().unwrap();
    let held = |sink| metrics.dead_letters.with_label_values(&[sink]).get();
    assert_eq!((held("kafka"), held("mqtt")), (3, 1));
    assert_eq!(spool.replay_letters(LetterFilter::default()).await.unwrap(), 1);
    spool.forget_removed_sinks(BTreeSet::new()).await.unwrap();
    close(spool, threads).await;
    let offline = offline::Offline::open(folder.path()).unwrap();
    let (all, sinks) = (LetterFilter::default(), offline.sinks().unwrap());
    assert_eq!(sinks, ["mqtt"]);
    assert_eq!(offline.stranded_letters(&all, &sinks).unwrap(), 3);
    assert_eq!(offline.stranded_letters(&of_sink("mqtt"), &sinks).unwrap(), 0);
    drop(offline);
    let (spool, threads) = start().unwrap();
    assert_eq!(spool.discard_letters(of_sink("kafka")).await.unwrap(), 3);
    until(async || held("kafka") == 0).await;
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_sink_that_was_taken_away_are_asked_for_by_nobody_before_and_after_it_is_given_up() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    assert_eq!(spool.replay_letters(of_sink("kafka")).await.unwrap(), 3);
    close(spool, threads).await;
    // It is not given up yet, so the spool knows it; the configuration does not.
    let (spool, threads) = open(config(folder.path()), &["mqtt"]);
    close(spool, threads).await;
    let offline = offline::Offline::open(folder.path()).unwrap();
    assert_eq!(offline.sinks().unwrap(), ["kafka", "mqtt"]);
    let (all, configured) = (LetterFilter::default(), ["mqtt".to_owned()]);
    assert_eq!(offline.replay_letters(&all, &configured).unwrap(), 1);
    assert_eq!(offline.stranded_letters(&all, &configured).unwrap(), 3);
    drop(offline);
    let (spool, threads) = open(config(folder.path()), &["mqtt"]);
    let replaying = async || {
        let letters = spool.letters(of_sink("kafka"), 0, 10).await.unwrap();
        letters.iter().filter(|letter| letter.replaying).count()
    };
    assert_eq!(replaying().await, 3);
    spool.forget_removed_sinks(BTreeSet::new()).await.unwrap();
    assert_eq!(replaying().await, 0);
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    assert_eq!(spool.replay_letters(of_sink("kafka")).await.unwrap(), 3, "they can be asked for anew");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_changed_offline_and_never_beside_a_running_daemon() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    let beside = offline::Offline::open(folder.path());
    assert!(matches!(beside, Err(OpenError::InUse { .. })));
    close(spool, threads).await;
    let offline = offline::Offline::open(folder.path()).unwrap();
    assert_eq!(offline.discard_letters(&of_sink("mqtt")).unwrap(), 1);
    let two = LetterFilter { ids: vec![1, 3], ..LetterFilter::default() };
    assert_eq!(offline.replay_letters(&two, &offline.sinks().unwrap()).unwrap(), 2);
    drop(offline);
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    assert_eq!(spool.reader("kafka").unwrap().replays(0, 10).await.unwrap().len(), 2);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_the_version_before_is_brought_forward_with_its_letters() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    close(spool, threads).await;
    drop(as_version_1(folder.path()));
    assert!(matches!(inspect::Inspector::open(folder.path()), Err(OpenError::Version { found: 1, .. })));
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    let old = spool.letter(2).await.unwrap().unwrap();
    assert_eq!((old.stored.letter.attempts, old.events(spool.id()).unwrap().len()), (1, 1));
    assert!(old.stored.bytes > 200);
    assert_eq!(spool.replay_letters(of_sink("kafka")).await.unwrap(), 3);
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 3);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_that_was_set_aside_is_delivered_again_alone_with_its_id_and_number() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let event =
        |event_type: &str, content: &str| format!(r#"{{"eventType":"{event_type}","content":{content}}}"#);
    let events = [
        event("AgentEvent_Talking", r#"{"callid":"1-2"}"#),
        event("AgentEvent_Call_Release", "\"1-2\""),
        event("AgentState_Ready", "null"),
    ];
    spool.append(record("1001", &events, 0)).await.unwrap();
    let id = format!("{}-1-1-1", spool.id());
    spool.dead_letter(DeadLetter { event_id: id.clone(), ..letter(&spool, "kafka", 1, None) }).await.unwrap();
    let letter = spool.letter(1).await.unwrap().unwrap();
    let again = letter.events(spool.id()).unwrap();
    let found: Vec<_> = again.iter().map(|e| (e.id.as_str(), e.event_type, e.sequence)).collect();
    assert_eq!(found, [(id.as_str(), "ccrelay.call.ended", 2)]);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_letter_of_a_whole_record_that_fails_again_has_a_copy_of_the_record_of_its_own() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    spool.append(push("1001", &["a", "b"], 0)).await.unwrap();
    spool.dead_letter(letter(&spool, "kafka", 1, None)).await.unwrap();
    spool.reader("kafka").unwrap().confirm(2);
    until(async || read_all(&spool.reader("kafka").unwrap()).await.is_empty()).await;
    // The record is freed. The whole letter is delivered again, and its second event is set aside.
    spool.dead_letter(letter(&spool, "kafka", 1, Some(1))).await.unwrap();
    spool.settle_replay(1, Replayed::Delivered).await.unwrap();
    let left = spool.letters(LetterFilter::default(), 0, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].bytes > 200, "{left:?}");
    let again = spool.letter(left[0].id).await.unwrap().unwrap();
    let events = again.events(spool.id()).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id, format!("{}-1-1", spool.id()));
    assert_eq!(again.stored.agent_id.as_deref(), Some("1001"));
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_with_numbers_that_no_database_holds_is_set_aside_and_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    for (n, place) in [(0, 39), (1, 47)] {
        let content = format!("number {n}");
        spool.append(push("1001", &[&content], n)).await.unwrap();
        let (path, at) = place_of(folder.path(), &content);
        let begin = record_around(&std::fs::read(&path).unwrap(), at).start;
        // A good one behind it, so that the place of the next one can be told.
        let good = spool.append(push("1001", &["good"], n)).await.unwrap().offset;
        // The highest bit of the time, and of the sequence: bit 7, where `flip` changes bit 0.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x80], (begin + place) as u64).unwrap();
        let letter = DeadLetter { event_id: String::new(), ..letter(&spool, "kafka", good - 1, None) };
        spool.dead_letter(letter).await.unwrap();
        let kept = spool.letter(n + 1).await.unwrap().unwrap();
        assert!(matches!(kept.record, ReadRecord::Damaged { .. }), "{kept:?}");
        assert!(String::from_utf8(kept.found.unwrap()).unwrap().contains(&content));
    }
    spool.pulse().await.unwrap();
    assert_eq!(*spool.failure().borrow(), None);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_half_a_surrogate_pair_is_shown_and_exported_as_text() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let half = r#"{"eventType":"AgentEvent_MessageData","content":{"callId":"7-7","message":"\ud83d"}}"#;
    spool.append(record("1001", &[half.to_owned()], 0)).await.unwrap();
    spool.dead_letter(letter(&spool, "kafka", 1, Some(0))).await.unwrap();
    let letter = spool.letter(1).await.unwrap().unwrap();
    let shown = letter.shown(spool.id(), &Unhidden);
    let exported = letter.exported(spool.id(), &Unhidden);
    for event in [&shown["events"][0], &exported[0]["event"]] {
        let text = event.as_str().unwrap_or_else(|| panic!("{event}"));
        assert!(text.starts_with('{') && text.contains(r#""message":"\ud83d""#), "{text}");
    }
    close(spool, threads).await;
}

/// Puts letters of kafka into a closed spool, with bodies of a thousand bytes, all of different sizes.
fn set_many_aside(folder: &Path, count: u64) {
    let database = rusqlite::Connection::open(folder.join("spool.db")).unwrap();
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO dead_letters (sink, spool_offset, event_id, topic, reason, detail, at_ms, attempts, bytes, body)
        SELECT 'kafka', i, 'one of many', 't', 'too_large', '', 0, 1, 1000 + i * 7919 % 4001, randomblob(1000) FROM n";
    database.execute(many, [count]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_discarded_in_pieces_that_need_little_journal_each() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    close(spool, threads).await;
    set_many_aside(folder.path(), 20_000);
    let (connection, _look, _lock) = schema::open_offline(folder.path()).unwrap();
    let mut sweep = Sweep::new(Change::Discard, of_sink("kafka"));
    let (mut pieces, mut most) = (0, 0);
    loop {
        let transaction = connection.unchecked_transaction().unwrap();
        let before = sweep.changed();
        let over = sweep.step(&transaction).unwrap();
        assert!(sweep.changed() - before <= 512);
        transaction.commit().unwrap();
        most = most.max(std::fs::metadata(folder.path().join("spool.db-wal")).unwrap().len());
        if pieces == 0 {
            // What comes while it is under way stays.
            let late = "UPDATE dead_letters SET sink = 'kafka', id = 30000 WHERE sink = 'mqtt'";
            assert_eq!(connection.execute(late, []).unwrap(), 1);
        }
        pieces += 1;
        if over {
            break;
        }
    }
    assert_eq!(sweep.changed(), 20_003);
    assert!(pieces > 39, "{pieces}");
    assert!(most < 12 << 20, "{most} bytes of journal for 40 MB of letters");
    let left: u64 = connection.query_row("SELECT sum(id) FROM dead_letters", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_while_many_letters_are_changed_and_a_close_ends_that() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = with_letters(folder.path()).await;
    close(spool, threads).await;
    set_many_aside(folder.path(), 5_000);
    let (spool, threads) = open(config(folder.path()), &["kafka", "mqtt"]);
    let all = || LetterFilter::default();
    let (asked, saved) =
        tokio::join!(spool.replay_letters(all()), spool.save_session(agent("1001"), Some(b"guid".to_vec())));
    assert_eq!((asked, saved), (Ok(5_004), Ok(())));
    assert_eq!(spool.reader("kafka").unwrap().replays(0, 10_000).await.unwrap().len(), 5_003);
    let one = LetterFilter { ids: vec![4, u64::MAX], ..LetterFilter::default() };
    assert_eq!(spool.discard_letters(one).await, Ok(1));
    let some = LetterFilter { ids: vec![1, 2], ..LetterFilter::default() };
    assert_eq!(
        tokio::join!(spool.discard_letters(some), spool.discard_letters(of_sink("mqtt"))),
        (Ok(2), Ok(0))
    );
    let (discarded, ()) = tokio::join!(spool.discard_letters(all()), spool.close());
    assert!(matches!(discarded, Ok(5_001) | Err(AppendError::Closed)), "{discarded:?}");
    tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
    // What is left is sound, and goes in the same way without a daemon.
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty());
    let offline = offline::Offline::open(folder.path()).unwrap();
    assert!(offline.discard_letters(&all()).unwrap() <= 5_001);
    assert_eq!(offline.discard_letters(&all()).unwrap(), 0);
}
