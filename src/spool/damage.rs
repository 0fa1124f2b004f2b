//! Damage, and what it costs: looked for before anything is written, because what is wrong with a disk is not mended by
//! going on. The daemon does not start on a damaged spool without the operator's word.
//!
//! A journal or a log that ends in the middle of what was being written is no damage: nobody was answered for it.
//! Everything else is: a database that is gone, is none, is shorter than it says, or has pages that contradict each other; a log
//! that ends before the mark or lacks a file; a record whose checksum is wrong.
//!
//! At the start the check must not take long, so a long log is looked at where it begins and where it ends;
//! `ccrelay spool verify` reads all of it.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::log::{self, Item, Log, LogReader, Look};
use super::mark::Mark;
use super::{Record, schema};
use crate::clock::Timestamp;

/// Databases up to this size are checked page by page at the start.
const SMALL: u64 = 64 << 20;
/// Records checked at the beginning of a log, and read at a time.
const RECORDS: usize = 512;
const RECORDS_BYTES: usize = 4 << 20;
/// Findings listed at most.
const LISTED: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The database is gone or empty.
    Missing {
        /// What says that there was one.
        but: String,
    },
    /// SQLite cannot read it.
    Unreadable {
        /// SQLite's word.
        detail: String,
    },
    /// It is a database of some other program.
    Foreign {
        /// Whose, as far as SQLite knows.
        application_id: i64,
    },
    /// The file is shorter than its own header says.
    Truncated {
        /// Its size.
        bytes: u64,
        /// What it should be.
        expected: u64,
    },
    /// A file of the log is not as it was left.
    File {
        /// Its name.
        file: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// SQLite finds that pages contradict each other.
    Pages {
        /// SQLite's word, one line for each finding.
        findings: Vec<String>,
    },
    /// A record is not what was stored.
    Record {
        /// Its position.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
        /// Whose it seems to be.
        agent: String,
        /// When it seems to have come.
        at: Timestamp,
    },
    /// Acknowledged records cannot be read.
    LostRange {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
        /// When the record before them came.
        after: Option<Timestamp>,
        /// When the record after them came.
        before: Option<Timestamp>,
    },
    /// The oldest records that some sink still needs are not there.
    LostHead {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// Acknowledged records are not there.
    LostTail {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
        /// When the newest record that is there came.
        after: Option<Timestamp>,
        /// When the newest of them came.
        until: Timestamp,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Missing { but } => write!(f, "the database is gone or empty, but {but}"),
            Damage::Unreadable { detail } => write!(f, "the database cannot be read: {detail}"),
            Damage::Foreign { application_id } => {
                write!(f, "the database is not ccrelay's (application id {application_id})")
            }
            Damage::Truncated { bytes, expected } => {
                write!(f, "the database has {bytes} bytes and should have {expected}")
            }
            Damage::File { file, fault } => write!(f, "file {file} of the records {fault}"),
            Damage::Pages { findings } => write!(f, "pages are damaged: {}", findings.join("; ")),
            Damage::Record { offset, fault, agent, at } => {
                write!(
                    f,
                    "record {offset} is damaged ({fault}); it seems to be of agent {agent}, received {at}"
                )
            }
            Damage::LostRange { from, to, after, before } => {
                let count = to - from + 1;
                write!(f, "records {from} to {to} cannot be read: {count} that were acknowledged")?;
                if let Some(after) = after {
                    write!(f, ", received after {after}")?;
                }
                before.map_or(Ok(()), |before| write!(f, ", received before {before}"))
            }
            Damage::LostHead { from, to } => {
                write!(f, "records {from} to {to} are lost: {} that were acknowledged", to - from + 1)
            }
            Damage::LostTail { from, to, after, until } => {
                let count = to - from + 1;
                write!(f, "records {from} to {to} are lost: {count} that were acknowledged, received ")?;
                if let Some(after) = after {
                    write!(f, "from {after} ")?;
                }
                write!(f, "to {until}; whose they were is not known, and some sinks may have them")
            }
        }
    }
}

/// All that was found, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings(pub Vec<Damage>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in self.0.iter().take(LISTED) {
            write!(f, "\n- {damage}")?;
        }
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, "\n- and {more} more"),
        }
    }
}

/// Whether an error says that the file is damaged, and not that the disk or the caller is at fault.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// What the files alone say: a database must not be made anew where one has been.
pub(super) fn of_files(directory: &Path, mark: Option<&Mark>) -> Option<Damage> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let database = schema::database(directory);
    let (bytes, journal) = (size(&database), size(&database.with_extension("db-wal")));
    if bytes > 0 {
        // Pages that are not in the file yet may be in the journal.
        let expected = if journal > 0 { None } else { bytes_by_header(&database) };
        return expected
            .filter(|expected| bytes < *expected)
            .map(|expected| Damage::Truncated { bytes, expected });
    }
    match mark {
        Some(mark) if mark.next_offset > 1 => {
            let (last, newest) = (mark.next_offset - 1, mark.newest);
            let but = format!("its mark says that it had records up to {last}, the newest received {newest}");
            Some(Damage::Missing { but })
        }
        _ if journal > 0 => {
            Some(Damage::Missing { but: format!("it has left a journal of {journal} bytes") })
        }
        _ => log::has_files(directory)
            .then(|| Damage::Missing { but: "there are files with records".to_owned() }),
    }
}

/// Size of a page times their number, as the first page tells it (SQLite's file format, 1.3).
fn bytes_by_header(database: &Path) -> Option<u64> {
    let mut header = [0u8; 100];
    std::fs::File::open(database).ok()?.read_exact(&mut header).ok()?;
    let number = |at: usize| header[at..at + 4].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let page = match u64::from(header[16]) << 8 | u64::from(header[17]) {
        1 => 65_536,
        size => size,
    };
    // The number counts only where the same change wrote it.
    (header.starts_with(b"SQLite format 3\0") && number(24) == number(92)).then(|| page * number(28))
}

/// What an open database says of itself. `whole` checks every page. Only reads.
pub(super) fn of_database(
    connection: &Connection,
    directory: &Path,
    whole: bool,
) -> rusqlite::Result<Vec<Damage>> {
    let mut found = Vec::new();
    // Where one step meets damage the next may still say more.
    for step in [own_rows, pages] {
        match step(connection, directory, whole) {
            Ok(more) => found.extend(more),
            Err(error) if is_damage(&error) => {
                let damage = Damage::Unreadable { detail: error.to_string() };
                if !found.contains(&damage) {
                    found.push(damage);
                }
            }
            // A table or a row of ours that is not there, or a field of another type.
            Err(error @ (rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::InvalidColumnType(..))) => {
                found.push(Damage::Unreadable { detail: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What every database of ours has.
fn own_rows(connection: &Connection, _: &Path, _: bool) -> rusqlite::Result<Vec<Damage>> {
    schema::spool_id(connection)?;
    schema::number(connection, "next_offset")?;
    schema::number(connection, "agents_as_of")?;
    Ok(Vec::new())
}

fn pages(connection: &Connection, directory: &Path, whole: bool) -> rusqlite::Result<Vec<Damage>> {
    let bytes = std::fs::metadata(schema::database(directory)).map_or(0, |file| file.len());
    let check = match whole {
        true => format!("PRAGMA integrity_check({LISTED})"),
        false if bytes <= SMALL => format!("PRAGMA quick_check({LISTED})"),
        false => return Ok(Vec::new()),
    };
    let mut statement = connection.prepare(&check)?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let findings: Vec<_> = lines.into_iter().filter(|line| line != "ok").collect();
    Ok(if findings.is_empty() { Vec::new() } else { vec![Damage::Pages { findings }] })
}

/// Whether a mark is that of this spool.
pub(super) fn is_of(mark: &Mark, spool_id: &str) -> bool {
    let same = mark.spool_id == spool_id;
    if !same {
        tracing::warn!(%spool_id, other = mark.spool_id, "the spool's mark is that of another spool and says nothing about this one");
    }
    same
}

/// What the log says of itself where it begins and where it ends. Only reads.
pub(super) fn of_log(look: &Look, acknowledged: u64, mark: Option<&Mark>) -> io::Result<Vec<Damage>> {
    let mut found = of_ends(look, acknowledged, mark);
    if found.is_empty() {
        let mut log = look.log.reader();
        let first = look.log.first();
        let begin = log.read(first, RECORDS, RECORDS_BYTES)?;
        let then = begin.last().map_or(first, |last| last.offset() + 1);
        let mut ranges = Ranges::default();
        begin.into_iter().for_each(|item| ranges.add(item));
        scan_from(&mut log, then.max(look.last_begins), &mut ranges, |_| Ok(()))?;
        found.extend(ranges.finish());
    }
    Ok(found)
}

/// What is known without reading records: files that are not as they were left, and an end before what was acknowledged.
pub(super) fn of_ends(look: &Look, acknowledged: u64, mark: Option<&Mark>) -> Vec<Damage> {
    let mut found: Vec<_> = look
        .faults
        .iter()
        .map(|faulty| Damage::File { file: faulty.file.clone(), fault: faulty.fault })
        .collect();
    let (first, end) = (look.log.first(), look.log.end());
    if look.needed < first {
        found.push(Damage::LostHead { from: look.needed, to: first - 1 });
    }
    if end < acknowledged {
        let after = look.newest;
        let until = mark.map(|mark| mark.newest).or(after).unwrap_or_default();
        found.push(Damage::LostTail { from: end, to: acknowledged - 1, after, until });
    }
    found
}

/// Shows every good record to `good`, oldest first, and gives what is wrong with the others.
pub(super) fn scan(log: &Log, good: impl FnMut(&Record) -> io::Result<()>) -> io::Result<Vec<Damage>> {
    let mut ranges = Ranges::default();
    scan_from(&mut log.reader(), log.first(), &mut ranges, good)?;
    Ok(ranges.finish())
}

fn scan_from(
    log: &mut LogReader,
    mut from: u64,
    ranges: &mut Ranges,
    mut good: impl FnMut(&Record) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let items = log.read(from, RECORDS, RECORDS_BYTES)?;
        let Some(last) = items.last() else { return Ok(()) };
        from = last.offset() + 1;
        for item in items {
            if let Item::Good(record) = &item {
                good(record)?;
            }
            ranges.add(item);
        }
    }
}

/// Brings neighbours that cannot be read together.
#[derive(Default)]
struct Ranges {
    found: Vec<Damage>,
    last: Option<Timestamp>,
    /// The first and last offset that cannot be read, and when the record before came.
    lost: Option<(u64, u64, Option<Timestamp>)>,
}

impl Ranges {
    fn add(&mut self, item: Item) {
        match item {
            Item::Good(record) => {
                self.end_range(Some(record.received_at));
                self.last = Some(record.received_at);
            }
            Item::Damaged { offset, fault, found } => match found.and_then(|found| found.seems()) {
                Some((agent, at)) => {
                    self.end_range(Some(Timestamp(at)));
                    self.found.push(Damage::Record { offset, fault, agent, at: Timestamp(at) });
                }
                None => match &mut self.lost {
                    Some((_, to, _)) => *to = offset,
                    None => self.lost = Some((offset, offset, self.last)),
                },
            },
        }
    }

    fn end_range(&mut self, before: Option<Timestamp>) {
        if let Some((from, to, after)) = self.lost.take() {
            self.found.push(Damage::LostRange { from, to, after, before });
        }
    }

    fn finish(mut self) -> Vec<Damage> {
        self.end_range(None);
        self.found
    }
}
