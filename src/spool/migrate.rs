//! Bringing a spool of an earlier release to this one's version. Up to version 2 records were rows of the database; now they
//! are in a log of their own. A crash in between leaves the old version, and the next start begins again.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::damage::{self, Damage};
use super::log::{self, Copied, WriteError};
use super::mark::Mark;
use super::reader;
use super::schema::{self, APPLICATION_ID, ChangeError, OpenError, SCHEMA_VERSION};
use super::segment::Stored;
use crate::clock::Timestamp;

/// From version 1, whose dead letters had neither attempts nor a checksum and could not be delivered again.
const FROM_VERSION_1: &str = "
    ALTER TABLE dead_letters ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE dead_letters ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE dead_letters ADD COLUMN crc INTEGER;
    UPDATE dead_letters SET bytes = 200 + length(detail) + coalesce(length(body), 0) + coalesce(length(before), 0);
    CREATE INDEX dead_letters_of_sink ON dead_letters (sink, bytes);
    CREATE TABLE replays (
        number INTEGER PRIMARY KEY AUTOINCREMENT, letter INTEGER NOT NULL UNIQUE, sink TEXT NOT NULL
    );
    CREATE INDEX replays_of_sink ON replays (sink, number);
";

/// What version 1 has of dead letters, in the columns of this one.
pub(super) const LETTERS_OF_VERSION_1: &str = "*, 1 AS attempts, NULL AS crc,
    200 + length(detail) + coalesce(length(body), 0) + coalesce(length(before), 0) AS bytes";

/// How often is said how far it has got, in the log and to whoever waits for the start.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Brings an open database to this version. Calls `goes_on` now and then, while it gets on.
pub(super) fn migrate(
    connection: &mut Connection,
    directory: &Path,
    version: i64,
    mark: Option<&Mark>,
    goes_on: &dyn Fn(),
) -> Result<(), OpenError> {
    let sql = |source| schema::fault(directory, source);
    let next = next_offset(connection).map_err(sql)?;
    let spool_id = schema::spool_id(connection).map_err(sql)?;
    if let Some(lost) = lost_tail(next, &spool_id, mark) {
        return Err(schema::damaged(directory, vec![lost]));
    }
    let folder = log::folder(directory);
    log::remove_folder(&folder).map_err(|source| OpenError::Io { path: folder.clone(), source })?;
    let first = first_offset(connection).map_err(sql)?.unwrap_or(next);
    if let Err(error) = copy_records(connection, directory, &spool_id, first..next, goes_on) {
        remove_half(&folder);
        return Err(error);
    }
    let finish = |connection: &mut Connection| {
        let transaction = connection.transaction()?;
        if version == 1 {
            transaction.execute_batch(FROM_VERSION_1)?;
        }
        transaction.execute_batch("DROP TABLE records")?;
        for (key, value) in [("first_offset", first), ("next_offset", next)] {
            transaction.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (key, value))?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()
    };
    finish(connection).map_err(|error| match ChangeError::of(error, directory) {
        ChangeError::Full(error) => {
            remove_half(&folder);
            sql(error)
        }
        // It may have come to the disk all the same, and then the folder has the only copy.
        ChangeError::Failed(error) => sql(error),
    })?;
    tracing::info!(version = SCHEMA_VERSION, "the spool was brought to this release's version");
    Ok(())
}

/// Copies the records of a database of an earlier version into a log.
fn copy_records(
    connection: &Connection,
    directory: &Path,
    spool_id: &str,
    offsets: Range<u64>,
    goes_on: &dyn Fn(),
) -> Result<(), OpenError> {
    let folder = log::folder(directory);
    let io = |error: WriteError| OpenError::Io { path: folder.clone(), source: error.into() };
    let mut copied = Copied::create(&folder, spool_id, offsets.start).map_err(io)?;
    let (mut faults, mut said) = (Vec::new(), Instant::now());
    goes_on();
    let mut take = |stored: &Stored<'_>| {
        if said.elapsed() >= SAID_EVERY {
            said = Instant::now();
            let (records, of) = (copied.records, offsets.end - offsets.start);
            tracing::info!(records, of, "the spool is being brought to this release's version");
            goes_on();
        }
        copied.take(stored)
    };
    let written = copy(connection, &mut take, &mut |damage| faults.push(damage))
        .map_err(|source| schema::fault(directory, source))?;
    if !faults.is_empty() {
        return Err(schema::damaged(directory, faults));
    }
    written.and_then(|()| copied.end_at(offsets.end)).map_err(io)?;
    goes_on();
    Ok(())
}

/// The records are in the database still. What was copied of them must not keep the disk full.
fn remove_half(folder: &Path) {
    if let Err(error) = log::remove_folder(folder) {
        tracing::warn!(path = %folder.display(), %error, "a copy of records that was left half done cannot be removed");
    }
}

/// Offset after the newest record of a database of an earlier version.
pub(super) fn next_offset(connection: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<u64> =
        connection.query_row("SELECT max(spool_offset) FROM records", [], |row| row.get(0))?;
    Ok(schema::number(connection, "next_offset")?.max(newest.map_or(0, |newest| newest + 1)))
}

pub(super) fn first_offset(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    connection.query_row("SELECT min(spool_offset) FROM records", [], |row| row.get(0))
}

/// Records that a mark says were acknowledged and that are not before `next`.
fn lost_tail(next: u64, spool_id: &str, mark: Option<&Mark>) -> Option<Damage> {
    let mark = mark.filter(|mark| mark.next_offset > next && damage::is_of(mark, spool_id))?;
    Some(Damage::LostTail { from: next, to: mark.next_offset - 1, after: None, until: mark.newest })
}

/// Looks at all records of a database of an earlier version, adds what is wrong, and gives how many are good. Only reads.
pub(super) fn look(
    connection: &Connection,
    mark: Option<&Mark>,
    findings: &mut Vec<Damage>,
) -> rusqlite::Result<u64> {
    let mut good_records = 0;
    let mut count = |_: &Stored<'_>| {
        good_records += 1;
        Ok(())
    };
    let looked = schema::spool_id(connection).and_then(|spool_id| {
        findings.extend(lost_tail(next_offset(connection)?, &spool_id, mark));
        // Nothing is written, so nothing can fail to be.
        copy(connection, &mut count, &mut |damage| findings.push(damage)).map(drop)
    });
    match looked {
        Err(error) if damage::is_damage(&error) => {
            findings.push(Damage::Unreadable { detail: error.to_string() });
        }
        looked => looked?,
    }
    Ok(good_records)
}

/// Shows the rows of records to `take`, and tells of those that are damaged.
pub(super) fn copy(
    connection: &Connection,
    take: &mut dyn FnMut(&Stored<'_>) -> Result<(), WriteError>,
    damaged: &mut dyn FnMut(Damage),
) -> rusqlite::Result<Result<(), WriteError>> {
    let mut statement = connection.prepare(
        "SELECT spool_offset, kind, received_ms, gateway, agent_id, sequence, repeats, before, body, crc
         FROM records ORDER BY spool_offset",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let offset: u64 = row.get(0)?;
        let readable = |stored| reader::decode(&stored).map(|_| stored);
        match reader::stored_row(row, offset).and_then(readable) {
            Ok(stored) => {
                if let Err(error) = take(&stored) {
                    return Ok(Err(error));
                }
            }
            Err(fault) => {
                let at = Timestamp(row.get(2).unwrap_or(0));
                damaged(Damage::Record { offset, fault, agent: String::new(), at });
            }
        }
    }
    Ok(Ok(()))
}
