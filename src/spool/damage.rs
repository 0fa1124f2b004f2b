//! Damage, and what it costs: looked for before anything is written, because what is wrong with a disk is not mended by
//! going on. The daemon does not start on a damaged spool without the operator's word.
//!
//! A journal that ends in the middle of a transaction is no damage: nobody was answered for it, and SQLite cuts it off.
//! Everything else is: a database that is gone, is none, is shorter than it says, has pages that contradict each other,
//! or ends before the mark; a record whose checksum is wrong.
//!
//! At the start the check must not take long, so a large database is looked at where it begins and where it ends;
//! `ccrelay spool verify` reads all of it.

use std::fmt;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::mark::Mark;
use super::reader::{self, ReadRecord};
use super::{Record, schema};
use crate::clock::Timestamp;

/// Databases up to this size are checked page by page at the start.
const SMALL: u64 = 64 << 20;
/// Records checked at either end of a larger one.
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
        _ => None,
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

/// What an open database says of itself. `whole` checks every page, and leaves the records to [`scan`]. Only reads.
pub(super) fn of_database(
    connection: &Connection,
    directory: &Path,
    mark: Option<&Mark>,
    whole: bool,
) -> rusqlite::Result<Vec<Damage>> {
    let mut found = Vec::new();
    // Where one step meets damage the next may still say more.
    for step in [lost_tail, pages, records] {
        match step(&Look { connection, directory, mark, whole }) {
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

struct Look<'a> {
    connection: &'a Connection,
    directory: &'a Path,
    mark: Option<&'a Mark>,
    whole: bool,
}

impl Look<'_> {
    fn number(&self, query: &str) -> rusqlite::Result<u64> {
        self.connection.query_row(query, [], |row| row.get(0))
    }

    fn file_bytes(&self) -> u64 {
        std::fs::metadata(schema::database(self.directory)).map_or(0, |file| file.len())
    }
}

/// Offset after the newest record that the database knows of.
pub(super) fn next_offset(connection: &Connection) -> rusqlite::Result<u64> {
    let stored: u64 =
        connection.query_row("SELECT value FROM meta WHERE key = 'next_offset'", [], |row| row.get(0))?;
    let newest: Option<u64> =
        connection.query_row("SELECT max(spool_offset) FROM records", [], |row| row.get(0))?;
    Ok(stored.max(newest.map_or(0, |newest| newest + 1)))
}

fn lost_tail(look: &Look<'_>) -> rusqlite::Result<Vec<Damage>> {
    let next = next_offset(look.connection)?;
    let spool_id = schema::spool_id(look.connection)?;
    let Some(mark) = look.mark else { return Ok(Vec::new()) };
    if mark.spool_id != spool_id {
        tracing::warn!(%spool_id, other = mark.spool_id, "the spool's mark is that of another spool and says nothing about this one");
        return Ok(Vec::new());
    }
    if next >= mark.next_offset {
        return Ok(Vec::new());
    }
    let query = "SELECT received_ms FROM records ORDER BY spool_offset DESC LIMIT 1";
    let after: Option<u64> = look.connection.query_row(query, [], |row| row.get(0)).optional()?;
    let (after, until) = (after.map(Timestamp), mark.newest);
    Ok(vec![Damage::LostTail { from: next, to: mark.next_offset - 1, after, until }])
}

fn pages(look: &Look<'_>) -> rusqlite::Result<Vec<Damage>> {
    let check = match look.whole {
        true => format!("PRAGMA integrity_check({LISTED})"),
        false if look.file_bytes() <= SMALL => format!("PRAGMA quick_check({LISTED})"),
        false => return Ok(Vec::new()),
    };
    let mut statement = look.connection.prepare(&check)?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let findings: Vec<_> = lines.into_iter().filter(|line| line != "ok").collect();
    Ok(if findings.is_empty() { Vec::new() } else { vec![Damage::Pages { findings }] })
}

fn records(look: &Look<'_>) -> rusqlite::Result<Vec<Damage>> {
    if look.whole {
        // Whoever looks at all of them goes on with a scan.
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut take = |from: u64| -> rusqlite::Result<Option<u64>> {
        let records = reader::read_records(look.connection, from, RECORDS, RECORDS_BYTES)?;
        let next = records.last().map(|record| record.offset() + 1);
        for record in records {
            if let ReadRecord::Damaged { offset, fault } = record {
                found.push(describe(look.connection, offset, fault)?);
            }
        }
        Ok(next)
    };
    if let Some(from) = take(0)? {
        let newest = look.number("SELECT coalesce(max(spool_offset), 0) FROM records")?;
        take(from.max((newest + 1).saturating_sub(RECORDS as u64)))?;
    }
    Ok(found)
}

/// Shows every good record to `good`, oldest first, past pages that cannot be read, and gives what is wrong with the
/// others below `until`.
pub(super) fn scan(
    connection: &Connection,
    until: u64,
    mut good: impl FnMut(&Record) -> rusqlite::Result<()>,
) -> rusqlite::Result<Vec<Damage>> {
    let mut found = Vec::new();
    let mut from = first_offset(connection)?;
    let mut last: Option<Timestamp> = None;
    // Where pages cannot be read, one offset after the other is asked for.
    let mut lost_since: Option<u64> = None;
    while from < until || lost_since.is_none() {
        let many = if lost_since.is_none() { RECORDS } else { 1 };
        let read = match reader::read_records(connection, from, many, RECORDS_BYTES) {
            Ok(records) if lost_since.is_some() && records.iter().all(|record| record.offset() != from) => {
                None
            }
            Ok(records) => Some(records),
            Err(error) if is_damage(&error) => None,
            Err(error) => return Err(error),
        };
        let Some(records) = read else {
            lost_since.get_or_insert(from);
            from += u64::from(many == 1);
            continue;
        };
        let Some(newest) = records.last().map(ReadRecord::offset) else { break };
        for record in records {
            let offset = record.offset();
            let at = match record {
                ReadRecord::Good(record) => {
                    good(&record)?;
                    Some(record.received_at)
                }
                ReadRecord::Damaged { fault, .. } => {
                    found.push(describe(connection, offset, fault)?);
                    None
                }
            };
            if let Some(since) = lost_since.take().filter(|since| *since < offset) {
                found.push(Damage::LostRange { from: since, to: offset - 1, after: last, before: at });
            }
            last = at.or(last);
        }
        from = newest + 1;
    }
    if let Some(since) = lost_since.filter(|since| *since < until) {
        found.push(Damage::LostRange { from: since, to: until - 1, after: last, before: None });
    }
    Ok(found)
}

/// The oldest record, or, where that cannot be told, the one that the last sink has come to.
fn first_offset(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |query| connection.query_row(query, [], |row| row.get::<_, Option<u64>>(0));
    match number("SELECT min(spool_offset) FROM records") {
        Ok(first) => Ok(first.unwrap_or(0)),
        Err(error) if is_damage(&error) => {
            Ok(number("SELECT min(next_offset) FROM cursors").ok().flatten().unwrap_or(1))
        }
        Err(error) => Err(error),
    }
}

/// A damaged record, with what its fields say of it for what that is worth.
pub(super) fn describe(
    connection: &Connection,
    offset: u64,
    fault: &'static str,
) -> rusqlite::Result<Damage> {
    let query = "SELECT cast(gateway AS TEXT), cast(agent_id AS TEXT), cast(received_ms AS INTEGER)
         FROM records WHERE spool_offset = ?1";
    connection.query_row(query, [offset], |row| {
        let text = |column| -> String {
            let bytes = row.get_ref(column).ok().and_then(|value| value.as_bytes().ok()).unwrap_or_default();
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(40).collect()
        };
        let at = Timestamp(u64::try_from(row.get::<_, i64>(2).unwrap_or(0)).unwrap_or(0));
        Ok(Damage::Record { offset, fault, agent: format!("{}/{}", text(0), text(1)), at })
    })
}
