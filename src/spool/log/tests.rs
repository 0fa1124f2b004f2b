use std::io::Write;

use tempfile::TempDir;

use super::*;
use crate::spool::segment::Stored;
use crate::spool::testing::leave_room;

const ID: &str = "0badcafe";

/// A log in the folder of a spool, opened as a daemon does.
fn open(directory: &Path, first: u64, acknowledged: u64) -> LogWriter {
    let look = look(directory, ID, first, acknowledged).unwrap();
    assert!(look.faults.is_empty(), "{:?}", look.faults);
    look.go_on().unwrap()
}

/// Stages a record with this many bytes of body.
fn stage(log: &mut LogWriter, offset: u64, batch: u64, bytes: usize) {
    log.stage(&Stored {
        offset,
        batch,
        kind: 0,
        received_ms: 1_000 + offset,
        sequence: offset,
        gateway: b"main",
        agent_id: b"1001",
        repeats: &[],
        before: br#"{"state":"unknown"}"#,
        body: &vec![b'x'; bytes],
    });
}

/// Commits records one by one.
fn write(log: &mut LogWriter, offsets: std::ops::Range<u64>, bytes: usize) {
    for offset in offsets {
        stage(log, offset, offset, bytes);
        log.commit(offset + 1).unwrap();
    }
}

fn offsets(log: &Log, from: u64) -> Vec<u64> {
    log.reader().read(from, 100_000, usize::MAX).unwrap().iter().map(Item::offset).collect()
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(folder(directory)).unwrap().count()
}

#[test]
fn records_are_read_from_anywhere_across_files_and_starts() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..30, 200_000);
    assert!(files(folder.path()) >= 3, "they do not fit in one");
    drop(log);
    let mut log = open(folder.path(), 1, 30);
    write(&mut log, 30..40, 10);
    for from in [0, 1, 7, 29, 30, 39] {
        assert_eq!(offsets(log.log(), from), (from.max(1)..40).collect::<Vec<_>>());
    }
    assert!(offsets(log.log(), 40).is_empty());
    let mut reader = log.log().reader();
    // Backwards and with one reader: where it was before must not matter.
    for from in (1..40).rev() {
        assert_eq!(reader.read(from, 2, usize::MAX).unwrap()[0].offset(), from);
    }
    let bounded = reader.read(1, 100, 500_000).unwrap();
    assert_eq!(bounded.len(), 3, "so many bytes were asked for");
    assert!(bounded.iter().all(|item| matches!(item, Item::Good(_))));
}

#[test]
fn nothing_is_shown_before_it_is_durable_and_what_was_discarded_is_never_there() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    stage(&mut log, 1, 1, 10);
    assert!(offsets(log.log(), 0).is_empty());
    log.discard();
    stage(&mut log, 1, 1, 20);
    stage(&mut log, 2, 1, 20);
    log.commit(3).unwrap();
    assert_eq!(offsets(log.log(), 0), [1, 2]);
    assert_eq!(log.log().end(), 3);
    drop(log);
    assert_eq!(offsets(open(folder.path(), 1, 3).log(), 0), [1, 2]);
}

#[test]
fn files_whose_records_are_freed_are_used_again_and_their_old_records_are_never_seen() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    let mut reader = log.log().reader();
    let mut most = 0;
    for round in 0..40 {
        let from = 1 + round * 20;
        write(&mut log, from..from + 20, 100_000);
        let read = reader.read(from, 100, usize::MAX).unwrap();
        assert_eq!(read.len(), 20);
        assert!(read.iter().all(|item| matches!(item, Item::Good(_))), "round {round}");
        log.log().free_below(from + 20);
        log.log().tend().unwrap();
        most = most.max(files(folder.path()));
        assert_eq!(log.log().file_bytes(), bytes_on_disk(folder.path()));
    }
    assert!(most <= 6, "{most} files at a time");
    assert_eq!(log.log().first(), 801);
    drop(log);
    // Also where the next start finds them.
    let mut log = open(folder.path(), 801, 801);
    assert!(offsets(log.log(), 0).is_empty());
    write(&mut log, 801..803, 10);
    assert_eq!(offsets(log.log(), 0), [801, 802]);
}

fn bytes_on_disk(directory: &Path) -> u64 {
    let files = std::fs::read_dir(folder(directory)).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn space_is_given_back_before_more_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..200, 100_000);
    log.log().free_below(200);
    // The name of the next file is taken, so none can be made.
    let next = log.log().0.next_number.load(Ordering::Relaxed);
    std::fs::create_dir(super::folder(folder.path()).join(file_name(next))).unwrap();
    log.log().0.wanted.store(LARGEST * 4, Ordering::Relaxed);
    assert!(log.log().tend().is_err());
    assert_eq!(files(folder.path()), 2, "the newest file and what is in the way");
    log.log().tend().unwrap();
    assert_eq!(files(folder.path()), 3);
    assert_eq!(
        lock(&log.log().0.spare).as_ref().map(|spare| spare.size),
        Some(SMALLEST),
        "little is asked for"
    );
}

#[test]
fn a_new_file_leaves_room_on_the_disk_and_after_a_lack_of_it_none_is_tried_for_a_while() {
    let folder = TempDir::new().unwrap();
    let log = open(folder.path(), 1, 1);
    let (shared, log) = (log.log().0.clone(), log.log().clone());
    let prepared = || lock(&shared.spare).as_ref().map(|spare| spare.size);
    let short = leave_room(&shared.folder, SMALLEST + LEFT_FREE - 1);
    assert!(log.tend().is_err_and(|error| room::is_none(&error)));
    drop(short);
    let exact = leave_room(&shared.folder, SMALLEST + LEFT_FREE);
    assert!(lock(&shared.not_before).is_some_and(|at| at > Instant::now()));
    *lock(&shared.not_before) = Some(Instant::now() + LATE * 60);
    log.tend().unwrap();
    assert_eq!(prepared(), None, "it is not the time");
    *lock(&shared.not_before) = None;
    log.tend().unwrap();
    assert_eq!(prepared(), Some(SMALLEST));
    drop(exact);
    assert!(log.give_spare_back().unwrap() && !log.give_spare_back().unwrap());
    assert_eq!((prepared(), files(folder.path())), (None, 1));
    assert!(
        lock(&shared.not_before).is_some_and(|at| at > Instant::now()),
        "who wanted the room has it first"
    );
}

#[test]
fn a_reader_whose_records_are_freed_meanwhile_goes_on_behind_them() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..20, 100_000);
    let mut slow = log.log().reader();
    assert_eq!(slow.read(1, 1, usize::MAX).unwrap().len(), 1);
    // Its file is given back, and has other records by the time it reads on.
    for from in [20, 40, 60, 80] {
        write(&mut log, from..from + 20, 100_000);
        log.log().free_below(from);
        log.log().tend().unwrap();
    }
    let read = slow.read(2, 1000, usize::MAX).unwrap();
    assert!(read.iter().all(|item| matches!(item, Item::Good(_))), "nothing is taken for damaged");
    assert_eq!(read.iter().map(Item::offset).collect::<Vec<_>>(), (80..100).collect::<Vec<_>>());
}

#[test]
fn a_record_larger_than_a_file_has_one_of_its_own() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..2, 10);
    write(&mut log, 2..3, 20 << 20);
    write(&mut log, 3..4, 10);
    assert_eq!(offsets(log.log(), 0), [1, 2, 3]);
    drop(log);
    assert_eq!(offsets(open(folder.path(), 1, 4).log(), 0), [1, 2, 3]);
}

#[test]
fn bytes_in_use_follow_what_is_written_and_what_is_needed() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..101, 10_000);
    let all = log.log().bytes_from(0);
    assert!((1_000_000..1_100_000).contains(&all), "{all}");
    let mut before = all;
    for from in 2..=101 {
        let now = log.log().bytes_from(from);
        assert!(now < before, "from {from}: {now} of {before}");
        before = now;
    }
    assert_eq!(before, 0);
    let half = log.log().bytes_from(51);
    assert!((450_000..600_000).contains(&half), "{half}");
    log.log().free_below(51);
    assert_eq!(log.log().bytes_from(0), half);
}

#[test]
fn a_file_that_was_being_made_when_the_machine_stopped_is_no_damage() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..4, 10);
    drop(log);
    for (number, bytes) in [(90, 0), (91, 700), (92, 9_000)] {
        let path = super::folder(folder.path()).join(file_name(number));
        File::create(path).unwrap().write_all(&vec![0; bytes]).unwrap();
    }
    let log = open(folder.path(), 1, 4);
    assert_eq!(offsets(log.log(), 0), [1, 2, 3]);
    assert_eq!(files(folder.path()), 2, "what is not needed is removed");
}

#[test]
fn starts_without_records_leave_no_files_behind() {
    let folder = TempDir::new().unwrap();
    write(&mut open(folder.path(), 1, 1), 1..3, 10);
    for _ in 0..5 {
        let log = open(folder.path(), 1, 3);
        assert_eq!(offsets(log.log(), 0), [1, 2]);
        assert_eq!(files(folder.path()), 2);
    }
}

#[test]
fn without_room_for_another_file_a_start_goes_on_in_the_newest_one_and_takes_up_nothing_that_a_crash_left() {
    for records in [1..4, 1..1] {
        let folder = TempDir::new().unwrap();
        let mut log = open(folder.path(), 1, 1);
        write(&mut log, records.clone(), 10);
        let end = log.log().end();
        let path = log.segment.path.clone();
        // A batch that nobody was answered for, whose first record did not get to the disk.
        for offset in end..end + 3 {
            stage(&mut log, offset, end, 10);
        }
        log.file.write_all_at(&log.staged, log.position).unwrap();
        log.file.write_all_at(&[0; 40], log.position).unwrap();
        drop(log);
        let look = look(folder.path(), ID, 1, end).unwrap();
        let last = lock(&look.log.0.segments).back().cloned().unwrap();
        let mut log = LogWriter::again(look.log, last, look.last_ends).unwrap();
        write(&mut log, end..end + 1, 10);
        let expected: Vec<_> = records.clone().chain([end]).collect();
        assert_eq!(offsets(log.log(), 0), expected);
        assert_eq!((files(folder.path()), log.segment.path == path), (1, true));
        drop(log);
        assert_eq!(offsets(open(folder.path(), 1, end + 1).log(), 0), expected);
    }
}

#[test]
fn where_a_repair_left_records_out_readers_pass_over_them_without_a_word() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..4, 10);
    log.skip_to(10).unwrap();
    write(&mut log, 10..12, 10);
    log.skip_to(20).unwrap();
    assert_eq!((offsets(log.log(), 0), log.log().end()), (vec![1, 2, 3, 10, 11], 20));
    drop(log);
    let mut log = open(folder.path(), 1, 20);
    write(&mut log, 20..21, 10);
    for from in [0, 4, 12] {
        let expected: Vec<_> = [1, 2, 3, 10, 11, 20].into_iter().filter(|offset| *offset >= from).collect();
        assert_eq!(offsets(log.log(), from), expected);
    }
}

#[test]
fn what_is_written_behind_a_damaged_newest_record_is_read() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..4, 10);
    let path = log.segment.path.clone();
    crate::spool::testing::flip(&path, log.position as usize - 40);
    let mut reader = log.log().reader();
    let damaged = |items: Vec<Item>| -> Vec<u64> {
        items.iter().filter(|item| matches!(item, Item::Damaged { .. })).map(Item::offset).collect()
    };
    assert_eq!(damaged(reader.read(1, 10, usize::MAX).unwrap()), [3]);
    write(&mut log, 4..6, 10);
    assert!(damaged(reader.read(4, 10, usize::MAX).unwrap()).is_empty(), "by who has seen the damage");
    assert_eq!(damaged(log.log().reader().read(1, 10, usize::MAX).unwrap()), [3], "and by others");
}

#[test]
fn a_lack_of_files_or_memory_passes_and_a_failed_disk_does_not() {
    let verdict = |errno: Errno| WriteError::of(errno.into());
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        assert!(matches!(verdict(errno), WriteError::Later(_)), "{errno}");
    }
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        assert!(matches!(verdict(errno), WriteError::Full(_)), "{errno}");
    }
    for errno in [Errno::IO, Errno::ROFS, Errno::ACCESS] {
        assert!(matches!(verdict(errno), WriteError::Failed(_)), "{errno}");
    }
}

#[test]
fn a_file_that_was_cut_in_the_zeros_behind_a_record_is_read_up_to_there() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..2, 10);
    let (path, end) = (log.segment.path.clone(), log.position);
    write(&mut log, 2..3, 10);
    drop(log);
    write(&mut open(folder.path(), 1, 3), 3..4, 10);
    let whole = std::fs::read(&path).unwrap();
    let zeros = whole[..end as usize].iter().rev().take_while(|byte| **byte == 0).count();
    assert!(zeros > 0, "the record has zeros behind it");
    File::options().write(true).open(&path).unwrap().set_len(end - zeros as u64).unwrap();
    let look = look(folder.path(), ID, 1, 4).unwrap();
    let items = look.log.reader().read(1, 10, usize::MAX).unwrap();
    let seen: Vec<_> = items.iter().map(|i| (i.offset(), matches!(i, Item::Good(_)))).collect();
    assert_eq!(seen, [(1, true), (2, false), (3, true)]);
}

#[test]
fn records_of_another_spool_are_told() {
    let folder = TempDir::new().unwrap();
    write(&mut open(folder.path(), 1, 1), 1..3, 10);
    let look = look(folder.path(), "other", 1, 3).unwrap();
    assert_eq!(look.faults[0].fault, "belongs to another spool");
}

#[test]
fn an_empty_file_that_a_kill_left_beside_the_one_in_its_place_is_no_fault() {
    let folder = TempDir::new().unwrap();
    write(&mut open(folder.path(), 1, 1), 1..4, 10);
    let (empty, kept) = (open(folder.path(), 1, 4).segment.path.clone(), folder.path().join("kept"));
    std::fs::copy(&empty, &kept).unwrap();
    let mut log = open(folder.path(), 1, 4);
    assert!(!empty.exists());
    write(&mut log, 4..6, 10);
    drop(log);
    // As often as it comes about.
    for _ in 0..2 {
        std::fs::copy(&kept, &empty).unwrap();
        let log = open(folder.path(), 1, 6);
        assert_eq!(offsets(log.log(), 0), [1, 2, 3, 4, 5]);
        assert!(!empty.exists());
    }
}

#[test]
fn a_header_that_cannot_be_read_makes_no_file_missing_that_never_was() {
    let folder = TempDir::new().unwrap();
    write(&mut open(folder.path(), 1, 1), 1..4, 10);
    // Numbers have gaps where an empty file was replaced.
    drop(open(folder.path(), 1, 4));
    let mut log = open(folder.path(), 1, 4);
    write(&mut log, 4..6, 10);
    let path = log.segment.path.clone();
    drop(log);
    File::options().write(true).open(&path).unwrap().write_all_at(b"??", 20).unwrap();
    let look = look(folder.path(), ID, 1, 6).unwrap();
    let faults: Vec<_> = look.faults.iter().map(|faulty| (Path::new(&faulty.file), faulty.fault)).collect();
    assert_eq!(faults, [(Path::new(path.file_name().unwrap()), "has a header that cannot be read")]);
}

#[test]
fn a_file_that_does_not_belong_where_it_is_is_told() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..4, 10);
    let (from, between) = (log.segment.path.clone(), super::folder(folder.path()).join(file_name(2)));
    drop(log);
    drop(open(folder.path(), 1, 4));
    write(&mut open(folder.path(), 1, 4), 4..6, 10);
    let mut page = std::fs::read(from).unwrap();
    let header = Header { number: 2, first_offset: 2, previous: 1, ..Header::decode(&page).unwrap() };
    page[..HEADER as usize].copy_from_slice(&header.encode());
    std::fs::write(between, page).unwrap();
    let look = look(folder.path(), ID, 1, 6).unwrap();
    assert_eq!(look.faults[0].fault, "does not belong between its neighbours");
}

#[test]
fn what_a_start_found_and_builds_on_survives_a_power_cut() {
    let folder = TempDir::new().unwrap();
    let mut log = open(folder.path(), 1, 1);
    write(&mut log, 1..4, 10);
    crate::spool::testing::watch_power(folder.path());
    // Killed before its sync, or the sync has failed: the batch is in memory only.
    for offset in 4..6 {
        stage(&mut log, offset, 4, 5_000);
    }
    log.file.write_all_at(&log.staged, log.position).unwrap();
    drop(log);
    let mut log = open(folder.path(), 1, 4);
    assert_eq!(log.log().end(), 6);
    write(&mut log, 6..7, 10);
    drop(log);
    crate::spool::testing::cut_power(folder.path());
    let log = open(folder.path(), 1, 7);
    assert_eq!(offsets(log.log(), 0), (1..7).collect::<Vec<_>>());
    let items = log.log().reader().read(0, 10, usize::MAX).unwrap();
    assert!(items.iter().all(|item| matches!(item, Item::Good(_))), "{items:?}");
}
