//! One test for each kind of damage: what the daemon says at its start, that it changes nothing, and what a repair saves.

use std::fs;

use super::*;

const SINKS: [&str; 2] = ["kafka", "mqtt"];

/// A closed spool of forty records, of which mqtt has confirmed ten, with a session and a dead letter.
async fn closed() -> TempDir {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..40).await;
    spool.save_session(agent("1001"), Some(b"guid".to_vec())).await.unwrap();
    spool.dead_letter(letter(&spool)).await.unwrap();
    spool.reader("mqtt").unwrap().confirm(11);
    until(async || {
        inspect::Inspector::open(folder.path()).unwrap().stat().unwrap().sinks[1].next_offset == 11
    })
    .await;
    close(spool, threads).await;
    folder
}

/// What a crash leaves when thirty of forty records are in one file of the log and ten in the next.
async fn crashed() -> TempDir {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..30).await;
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 30..40).await;
    let copy = crash_copy(folder.path());
    close(spool, threads).await;
    copy
}

async fn store(spool: &Spool, numbers: std::ops::Range<u64>) {
    for n in numbers {
        spool
            .append(push(&(1001 + n % 4).to_string(), &[&format!("{n} {}", "x".repeat(900))], n))
            .await
            .unwrap();
    }
}

fn letter(spool: &Spool) -> DeadLetter {
    DeadLetter {
        sink: "kafka".to_owned(),
        spool_offset: 3,
        event_id: format!("{}-3-0", spool.id()),
        topic: "t".to_owned(),
        reason: "too_large".to_owned(),
        detail: String::new(),
        at: Timestamp(5),
        attempts: 1,
    }
}

fn file(folder: &TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

fn refused(folder: &TempDir) -> OpenError {
    let sinks: Vec<_> = SINKS.iter().map(|name| sink(name)).collect();
    Spool::open(config(folder.path()), &sinks, Metrics::new([], []).unwrap(), Clock::system()).unwrap_err()
}

/// The daemon does not start and changes no byte of what is there; gives what it says.
#[track_caller]
fn does_not_start(folder: &TempDir) -> Vec<Damage> {
    // An empty journal says as much as none.
    let files = ["spool.db", "spool.db-wal", "spool.mark"];
    let contents = || -> Vec<_> {
        let others = files.iter().map(|name| file(folder, name));
        let records = fs::read_dir(log::folder(folder.path()));
        let records = records.into_iter().flatten().map(|entry| entry.unwrap().path());
        others.chain(records).map(|path| fs::read(path).unwrap_or_default()).collect()
    };
    let before = contents();
    let error = refused(folder);
    let OpenError::Damaged { findings, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("spool repair --directory"), "{error}");
    let examined = repair::examine(folder.path()).unwrap();
    assert!(!examined.findings.0.is_empty(), "verify sees it too");
    assert!(contents() == before, "it changed something");
    findings.0.clone()
}

/// Repairs, opens, and gives the offsets of the records that are left, after one more was stored.
async fn repaired(folder: &TempDir) -> (repair::Repaired, Vec<u64>) {
    let damaged = fs::read(file(folder, "spool.db")).ok().filter(|bytes| !bytes.is_empty());
    let unused = mark::read(folder.path()).map_or(41, |mark| mark.next_offset);
    let repaired = repair::repair(folder.path(), Timestamp(1_795_491_900_000)).unwrap();
    for kept in &repaired.kept {
        assert!(kept.to_string_lossy().contains(".damaged-20261124T"), "{}", kept.display());
    }
    let kept = repaired.kept.iter().find(|kept| kept.is_file());
    assert_eq!(kept.map(|kept| fs::read(kept).unwrap()), damaged, "the damaged one is kept");
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty(), "what is saved is sound");
    let (spool, threads) = open(config(folder.path()), &SINKS);
    let next = spool.append(push("1001", &["after the repair"], 9_000)).await.unwrap();
    assert_eq!(next.offset, unused, "no offset is used again");
    let offsets: Vec<_> =
        read_all(&spool.reader("kafka").unwrap()).await.iter().map(|record| record.offset).collect();
    close(spool, threads).await;
    (repaired, offsets)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_record_is_told_with_offset_agent_and_time() {
    let folder = closed().await;
    let (path, at) = place_of(folder.path(), "17 xxxx");
    flip(&path, at + 4);
    let found = does_not_start(&folder);
    let expected = Damage::Record {
        offset: 18,
        fault: "checksum mismatch",
        agent: "main/1002".to_owned(),
        at: Timestamp(1_795_491_917_000),
    };
    assert_eq!(found, [expected]);
    let (saved, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).filter(|offset| *offset != 18).collect::<Vec<_>>());
    assert_eq!(
        saved.saved,
        [
            ("records", 39),
            ("cursors", 2),
            ("agents", 4),
            ("sessions", 1),
            ("dead_letters", 1),
            ("replays", 0)
        ]
    );
    assert!(saved.torn.is_empty());
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(spool.cursors()[1], ("mqtt".to_owned(), 11));
    assert_eq!(spool.sessions().unwrap().len(), 1);
    assert_eq!(spool.dead_letters().unwrap().len(), 1);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ruined_bytes_cost_the_records_that_they_were_of_and_no_others() {
    let folder = closed().await;
    let (path, at) = place_of(folder.path(), "17 xxxx");
    // From the beginning of one record into the next one.
    change(&path, |bytes| {
        let begin = record_around(bytes, at).start;
        bytes[begin..begin + 1500].fill(0xee);
    });
    let found = does_not_start(&folder);
    assert!(
        matches!(found[..], [Damage::LostRange { from: 18, to: 19, after: Some(_), before: Some(_) }]),
        "{found:?}"
    );
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=17).chain(20..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_the_disk_does_not_give_costs_the_records_in_it_and_no_others() {
    let folder = closed().await;
    let (path, at) = place_of(folder.path(), "17 xxxx");
    let _lost = lose_page(&path, at);
    let found = does_not_start(&folder);
    // The record that goes on into the page still shows whose it is.
    let [Damage::Record { offset, .. }, Damage::LostRange { from, to, .. }] = found[..] else {
        panic!("{found:?}")
    };
    assert!((from..=to).contains(&18) && to - from < 5, "{from} to {to}: a page holds four records");
    assert_eq!(offset + 1, from);
    let (saved, left) = repaired(&folder).await;
    assert_eq!(saved.saved[0], ("records", 40 - (to - offset + 1)));
    assert_eq!(left, (1..offset).chain(to + 1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_the_disk_does_not_give_is_told_and_costs_no_record() {
    let folder = crashed().await;
    for content in ["11 xxxx", "31 xxxx"] {
        let (path, _) = place_of(folder.path(), content);
        let _lost = lose_page(&path, 0);
        let found = does_not_start(&folder);
        let fault = "has a header that cannot be read";
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(
            matches!(&found[..], [Damage::File { file, fault: told }] if *file == name && *told == fault),
            "{found:?}"
        );
    }
    let (path, _) = place_of(folder.path(), "31 xxxx");
    let _lost = lose_page(&path, 0);
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_a_running_daemon_is_not_given_is_set_aside_and_everything_goes_on() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..40).await;
    let (path, at) = place_of(folder.path(), "17 xxxx");
    let _lost = lose_page(&path, at);
    let reader = spool.reader("kafka").unwrap();
    let read = reader.read(1, 100, usize::MAX).await.unwrap();
    assert_eq!(read.iter().map(ReadRecord::offset).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    let damaged: Vec<_> = read.iter().filter(|r| matches!(r, ReadRecord::Damaged { .. })).collect();
    assert!((1..6).contains(&damaged.len()) && damaged.iter().any(|r| r.offset() == 18), "{damaged:?}");
    for record in damaged {
        let offset = record.offset();
        let letter = DeadLetter { spool_offset: offset, event_id: String::new(), ..letter(&spool) };
        spool.dead_letter(letter).await.unwrap();
    }
    spool.append(push("1001", &["next"], 100)).await.unwrap();
    spool.pulse().await.unwrap();
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruined_page_of_the_database_is_told_and_costs_no_record() {
    let folder = closed().await;
    let path = file(&folder, "spool.db");
    change(&path, |bytes| bytes[4096..8192].fill(0xee));
    let found = does_not_start(&folder);
    let told = |damage: &Damage| matches!(damage, Damage::Pages { .. } | Damage::Unreadable { .. });
    assert!(found.iter().any(told), "{found:?}");
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_cut_short_is_told_and_no_record_is_lost() {
    let folder = closed().await;
    let path = file(&folder, "spool.db");
    change(&path, |bytes| bytes.truncate(bytes.len() * 3 / 4 / 4096 * 4096));
    let found = does_not_start(&folder);
    assert!(matches!(found[0], Damage::Truncated { .. }), "{found:?}");
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_short_is_told_with_the_records_that_are_lost() {
    let folder = crashed().await;
    let (path, at) = place_of(folder.path(), "34 xxxx");
    change(&path, |bytes| bytes.truncate(at));
    let found = does_not_start(&folder);
    let [Damage::LostTail { from, to: 40, after: Some(_), until: Timestamp(1_795_491_939_000) }] = found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!(from, 35);
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..from).chain([41]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_at_the_end_of_the_log_does_not_lose_acknowledged_records_in_silence() {
    for number in 30..40 {
        let folder = crashed().await;
        let (path, at) = place_of(folder.path(), &format!("{number} xxxx"));
        flip(&path, at + 4);
        let lost = number + 1;
        let found = does_not_start(&folder);
        match found[..] {
            [Damage::Record { offset, .. }] => assert_eq!(offset, lost),
            [Damage::LostTail { from, to: 40, .. }] => {
                assert_eq!((from, lost), (40, 40), "only the last one")
            }
            _ => panic!("{found:?}"),
        }
        let (_, left) = repaired(&folder).await;
        assert_eq!(left, (1..=41).filter(|offset| *offset != lost).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_log_that_is_gone_is_told_with_the_records_that_are_lost() {
    for (last, from) in [(true, 31), (false, 1)] {
        let folder = crashed().await;
        let (path, _) = place_of(folder.path(), if last { "31 xxxx" } else { "11 xxxx" });
        fs::remove_file(path).unwrap();
        let found = does_not_start(&folder);
        let left: Vec<_> = if last {
            assert!(matches!(found[..], [Damage::LostTail { from: 31, to: 40, .. }]), "{found:?}");
            (1..from).chain([41]).collect()
        } else {
            assert!(matches!(found[..], [Damage::LostHead { from: 1, to: 30 }]), "{found:?}");
            (31..=41).collect()
        };
        assert_eq!(repaired(&folder).await.1, left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_middle_of_the_log_that_is_gone_is_told() {
    let folder = crashed().await;
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 40..50).await;
    close(spool, threads).await;
    let (path, _) = place_of(folder.path(), "31 xxxx");
    fs::remove_file(&path).unwrap();
    let found = does_not_start(&folder);
    let name = path.file_name().unwrap().to_string_lossy();
    assert!(matches!(&found[..], [Damage::File { file, fault: "is missing" }] if *file == name), "{found:?}");
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=30).chain(41..=51).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruined_header_of_a_file_is_told_and_costs_no_record() {
    let folder = crashed().await;
    let (path, _) = place_of(folder.path(), "31 xxxx");
    flip(&path, 20);
    let found = does_not_start(&folder);
    assert!(
        matches!(&found[..], [Damage::File { fault: "has a header that cannot be read", .. }]),
        "{found:?}"
    );
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_leaves_of_a_batch_that_nobody_was_answered_for_is_no_damage() {
    let folder = crashed().await;
    // The last two records become one batch whose first record did not get to the disk, and that the mark does not know.
    let (path, first) = place_of(folder.path(), "38 xxxx");
    let (_, second) = place_of(folder.path(), "39 xxxx");
    change(&path, |bytes| {
        let (first, second) = (record_around(bytes, first), record_around(bytes, second));
        let batch: [u8; 8] = bytes[first.start + 24..first.start + 32].try_into().unwrap();
        let last = &mut bytes[second.clone()];
        last[24..32].copy_from_slice(&batch);
        seal(last);
        bytes[first.start..second.start].fill(0);
    });
    let told = |next| {
        let mark = mark::read(folder.path()).unwrap();
        mark::MarkFile::create(folder.path(), &mark.spool_id, next, mark.newest).unwrap();
    };
    told(41);
    assert!(matches!(does_not_start(&folder)[..], [Damage::LostRange { from: 39, to: 39, .. }]));
    told(39);
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty());
    let (spool, threads) = open(config(folder.path()), &SINKS);
    let appended = spool.append(push("1001", &["next"], 100)).await.unwrap();
    assert_eq!(appended.offset, 39, "nobody was told of this number");
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 39);
    close(spool, threads).await;
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 39, "what was left behind stays out");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_the_database_that_is_gone_costs_no_record() {
    let folder = crashed().await;
    fs::remove_file(file(&folder, "spool.db-wal")).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 40);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_the_end_of_the_journal_is_what_a_crash_leaves_and_costs_nothing() {
    let folder = crashed().await;
    change(&file(&folder, "spool.db-wal"), |bytes| bytes.extend_from_slice(&[0xee; 5000]));
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty());
    let (spool, threads) = open(config(folder.path()), &SINKS);
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    assert_eq!(records.len(), 40);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_empty_or_gone_is_not_made_anew_without_a_word() {
    for gone in [false, true] {
        let folder = closed().await;
        let id = inspect::Inspector::open(folder.path()).unwrap().spool_id().unwrap();
        if gone {
            fs::remove_file(file(&folder, "spool.db")).unwrap();
        } else {
            change(&file(&folder, "spool.db"), Vec::clear);
        }
        let found = does_not_start(&folder);
        let [Damage::Missing { but }] = &found[..] else { panic!("{found:?}") };
        assert!(but.contains("records up to 40, the newest received 2026-11-24T"), "{but}");
        let (_, left) = repaired(&folder).await;
        assert_eq!(left, (1..=41).collect::<Vec<_>>());
        let after = inspect::Inspector::open(folder.path()).unwrap().spool_id().unwrap();
        assert_eq!(after, id, "ids go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_database_and_without_a_mark_are_told() {
    let folder = crashed().await;
    for name in ["spool.db", "spool.db-wal", "spool.mark"] {
        fs::remove_file(file(&folder, name)).unwrap();
    }
    let found = does_not_start(&folder);
    assert!(
        matches!(&found[..], [Damage::Missing { but }] if but.contains("files with records")),
        "{found:?}"
    );
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=41).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_or_that_of_another_program_is_left_alone() {
    let folder = closed().await;
    change(&file(&folder, "spool.db"), |bytes| bytes[..100].fill(0xee));
    assert!(matches!(does_not_start(&folder)[..], [Damage::Unreadable { .. }]));

    let folder = TempDir::new().unwrap();
    let other = rusqlite::Connection::open(file(&folder, "spool.db")).unwrap();
    other
        .execute_batch("CREATE TABLE theirs (x); PRAGMA application_id = 77; PRAGMA user_version = 2;")
        .unwrap();
    drop(other);
    assert_eq!(does_not_start(&folder), [Damage::Foreign { application_id: 77 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_of_the_release_before_is_not_brought_forward_and_can_be_repaired() {
    for version in [as_version_1, as_version_2] {
        let folder = closed().await;
        let database = version(folder.path());
        database.execute("UPDATE records SET body = x'7b7d' WHERE spool_offset = 18", []).unwrap();
        drop(database);
        let found = does_not_start(&folder);
        assert!(
            matches!(found[..], [Damage::Record { offset: 18, fault: "checksum mismatch", .. }]),
            "{found:?}"
        );
        let examined = repair::examine(folder.path()).unwrap();
        assert_eq!((examined.good_records, examined.findings.0), (39, found), "verify sees the same");
        assert!(!log::folder(folder.path()).exists(), "nothing was changed");
        let (saved, left) = repaired(&folder).await;
        assert_eq!(saved.saved[0], ("records", 39));
        assert!(saved.saved.contains(&("dead_letters", 1)), "{:?}", saved.saved);
        assert_eq!(left, (1..=41).filter(|offset| *offset != 18).collect::<Vec<_>>());
        let (spool, threads) = open(config(folder.path()), &SINKS);
        let letter = spool.letter(1).await.unwrap().unwrap();
        assert_eq!((letter.stored.letter.attempts, letter.stored.bytes > 200), (1, true));
        close(spool, threads).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_spool_of_the_release_before_is_found_sound_and_one_that_lost_its_end_is_not() {
    let folder = closed().await;
    let database = as_version_2(folder.path());
    let examined = repair::examine(folder.path()).unwrap();
    assert_eq!((examined.good_records, examined.findings.0), (40, Vec::new()));
    database.execute_batch("DELETE FROM records WHERE spool_offset > 35; UPDATE meta SET value = 36 WHERE key = 'next_offset'").unwrap();
    drop(database);
    let lost = does_not_start(&folder);
    assert!(matches!(lost[..], [Damage::LostTail { from: 36, to: 40, .. }]), "{lost:?}");
    assert_eq!(repair::examine(folder.path()).unwrap().findings.0, lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_of_a_later_release_is_left_to_it() {
    let folder = closed().await;
    let database = rusqlite::Connection::open(file(&folder, "spool.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    assert!(matches!(refused(&folder), OpenError::Version { found: 99, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_in_use_is_neither_opened_nor_repaired_and_can_be_examined() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..40).await;
    assert!(matches!(refused(&folder), OpenError::InUse { .. }));
    let repair = repair::repair(folder.path(), Timestamp(0));
    assert!(matches!(repair, Err(OpenError::InUse { .. })));
    let examined = repair::examine(folder.path()).unwrap();
    assert_eq!((examined.good_records, examined.findings.0), (40, Vec::new()));
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_records_is_told_before_it_gives_offsets_again() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..20).await;
    let old = crash_copy(folder.path());
    store(&spool, 20..40).await;
    close(spool, threads).await;
    for (path, old) in log_files(folder.path()).iter().zip(log_files(old.path())) {
        fs::copy(old, path).unwrap();
    }
    let found = does_not_start(&folder);
    assert!(matches!(found[..], [Damage::LostTail { from: 21, to: 40, .. }]), "{found:?}");
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=20).chain([41]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_database_delivers_again_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..20).await;
    close(spool, threads).await;
    let old = fs::read(file(&folder, "spool.db")).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 20..40).await;
    spool.reader("mqtt").unwrap().confirm(41);
    close(spool, threads).await;
    fs::write(file(&folder, "spool.db"), old).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(spool.cursors()[1], ("mqtt".to_owned(), 1));
    assert_eq!(spool.append(push("1001", &["next"], 100)).await.unwrap().offset, 41);
    let records = read_all(&spool.reader("mqtt").unwrap()).await;
    assert_eq!(records.len(), 41);
    assert_eq!(records[40].sequence, 10, "states and numbers were read again from the records");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_end_of_the_log_tells_that_records_are_lost() {
    let folder = closed().await;
    fs::remove_file(file(&folder, "spool.mark")).unwrap();
    let database = rusqlite::Connection::open(file(&folder, "spool.db")).unwrap();
    database.execute("UPDATE cursors SET next_offset = 61 WHERE sink = 'mqtt'", []).unwrap();
    drop(database);
    let found = does_not_start(&folder);
    assert!(matches!(found[..], [Damage::LostTail { from: 41, to: 60, .. }]), "{found:?}");
    repair::repair(folder.path(), Timestamp(1_795_491_900_000)).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(spool.append(push("1001", &["next"], 9_000)).await.unwrap().offset, 61);
    let mqtt = spool.reader("mqtt").unwrap();
    let next = mqtt.read(mqtt.cursor(), 10, usize::MAX).await.unwrap();
    assert_eq!(next.iter().map(ReadRecord::offset).collect::<Vec<_>>(), [61], "it is not passed over");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_mark_a_sound_spool_starts() {
    let folder = closed().await;
    fs::remove_file(file(&folder, "spool.mark")).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 40);
    close(spool, threads).await;
    assert_eq!(mark::read(folder.path()).unwrap().next_offset, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_or_a_new_version_that_finds_no_room_leaves_nothing_behind() {
    let folder = closed().await;
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    let before = names();
    let full = testing::fill_disk(&folder.path().join("records.draft"));
    let repair = repair::repair(folder.path(), Timestamp(0));
    assert!(matches!(repair, Err(OpenError::Io { .. })), "{repair:?}");
    assert_eq!(names(), before);
    drop(full);
    drop(as_version_2(folder.path()));
    let full = testing::fill_disk(&log::folder(folder.path()));
    assert!(matches!(refused(&folder), OpenError::Io { .. }));
    assert!(!log::folder(folder.path()).exists());
    drop(full);
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(read_all(&spool.reader("kafka").unwrap()).await.len(), 40);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_says_what_room_it_needs_and_does_not_begin_without() {
    let folder = closed().await;
    let large = fs::File::create(log::folder(folder.path()).join("000000000999.log")).unwrap();
    large.set_len(1 << 43).unwrap();
    let before = fs::read(file(&folder, "spool.db")).unwrap();
    let error = repair::repair(folder.path(), Timestamp(0)).unwrap_err();
    assert!(matches!(error, OpenError::NoRoom { needed, .. } if needed > 1 << 43), "{error}");
    assert!(!file(&folder, "spool.db.draft").exists());
    assert_eq!(fs::read(file(&folder, "spool.db")).unwrap(), before);
}

/// When spools are put back: long after their records came.
const PUT_BACK: Timestamp = Timestamp(1_800_000_000_000);

fn put_back(folder: &Path, at: Timestamp) -> u64 {
    offline::Offline::open(folder).unwrap().go_on_as_restored(at).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_folder_that_was_put_back_gives_no_id_again_once_that_was_said() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 0..20).await;
    spool.reader("mqtt").unwrap().confirm(21);
    spool.reader("kafka").unwrap().confirm(6);
    close(spool, threads).await;
    // A start that nothing came after, as of a backup that was tried out.
    let (spool, threads) = open(config(folder.path()), &SINKS);
    close(spool, threads).await;
    let next = put_back(folder.path(), PUT_BACK);
    assert_eq!(next, 180_000_000_000_000);
    assert!(repair::examine(folder.path()).unwrap().findings.0.is_empty());
    for round in 0..2 {
        let (spool, threads) = open(config(folder.path()), &SINKS);
        assert_eq!(spool.cursors(), [("kafka".to_owned(), 6), ("mqtt".to_owned(), next)]);
        let appended = spool.append(push("1001", &["next"], 100 + 20 * round)).await.unwrap();
        assert_eq!(appended.offset, next + round);
        let left = read_all(&spool.reader("kafka").unwrap()).await;
        let offsets: Vec<_> = left.iter().map(|record| record.offset).filter(|offset| *offset >= 6).collect();
        assert_eq!(offsets, (6..=20).chain(next..=next + round).collect::<Vec<_>>());
        close(spool, threads).await;
    }
    assert_eq!(
        put_back(folder.path(), Timestamp(0)),
        next + 2 + 1_000_000_000_000,
        "by a clock that is wrong"
    );
    assert!(next < 1 << 53, "consumers may count in doubles");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_put_back_goes_on_with_higher_numbers_of_all_agents() {
    // Without a close, so that what its rows lack is read from the records.
    let folder = crashed().await;
    let leap = put_back(folder.path(), PUT_BACK) - 41;
    let (spool, threads) = open(config(folder.path()), &SINKS);
    let number_of = async |spool: &Spool, agent_id: &str| {
        let appended = spool.append(push(agent_id, &["next"], 1000)).await.unwrap();
        let read = spool.reader("kafka").unwrap().read(appended.offset, 1, usize::MAX).await.unwrap();
        let ReadRecord::Good(record) = &read[0] else { panic!("it is sound") };
        record.sequence
    };
    assert_eq!(number_of(&spool, "1001").await, 10 + leap);
    assert_eq!(
        number_of(&spool, "2001").await,
        leap,
        "whom the backup does not know may have had numbers after it"
    );
    close(spool, threads).await;
    let (path, at) = place_of(folder.path(), "17 xxxx");
    flip(&path, at);
    repair::repair(folder.path(), PUT_BACK).unwrap();
    let (spool, threads) = open(config(folder.path()), &SINKS);
    assert_eq!(number_of(&spool, "2002").await, leap, "a repair knows it too");
    assert_eq!(number_of(&spool, "1001").await, 11 + leap);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spool_that_was_put_back_has_left_out_is_not_looked_for_when_a_header_is_ruined() {
    let folder = closed().await;
    let next = put_back(folder.path(), PUT_BACK);
    let (spool, threads) = open(config(folder.path()), &SINKS);
    store(&spool, 40..44).await;
    close(spool, threads).await;
    let newest = log_files(folder.path()).into_iter().rfind(|path| {
        let bytes = fs::read(path).unwrap();
        bytes[..8] != [0; 8] && bytes[4096..4100] == *b"ccR\x01"
    });
    change(&newest.unwrap(), |bytes| bytes[..64].fill(7));
    let found = does_not_start(&folder);
    assert!(found.iter().any(|damage| matches!(damage, Damage::File { .. })), "{found:?}");
    let (_, left) = repaired(&folder).await;
    assert_eq!(left, (1..=40).chain(next..=next + 4).collect::<Vec<_>>());
}
