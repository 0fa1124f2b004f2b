//! Changing a spool while no daemon has it: the same lock keeps either out.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use thiserror::Error;

use super::dead_letters::{self, Change, LetterFilter, Sweep};
use super::inspect::{PIECE, PIECE_BYTES};
use super::log::{self, Item, Log, LogReader, Look, WriteError};
use super::mark::{self, MarkFile};
use super::schema::{self, OpenError, SEQUENCE_FLOOR};
use super::{AgentKey, Record, keeper, writer};
use crate::clock::Timestamp;

/// Behind a backup offsets go on at the time in milliseconds times this. No relay stores as many records in a millisecond, day and night,
/// so that is beyond all that were given out after the backup, also where it is put back more than once. Consumers can still count as
/// far: JavaScript to 2^53, which is the year 4800.
const PER_MILLISECOND: u64 = 100;
/// How far they go on where a clock says too little for that.
const LEFT_OUT: u64 = 1_000_000_000_000;

/// Where a sink is to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At this record.
    Offset(u64),
    /// At the first record received at or after this moment.
    Time(Timestamp),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        if let Ok(offset) = text.parse() {
            return Ok(From::Offset(offset));
        }
        let time = text.parse().map(From::Time);
        time.map_err(|_| "expected an offset, or a time such as 2026-11-24T03:00:00Z".to_owned())
    }
}

/// Why a cursor cannot be moved back.
#[derive(Debug, Error)]
pub enum RewindError {
    /// The spool knows no such sink.
    #[error("the spool knows no sink called {sink}; it knows {known}")]
    UnknownSink {
        /// The name.
        sink: String,
        /// Those it knows.
        known: String,
    },
    /// Those records are not there any more.
    #[error(
        "records before {first} (received {received_at}) were delivered to every sink and are freed: begin there or later"
    )]
    Freed {
        /// The oldest record.
        first: u64,
        /// When it came.
        received_at: Timestamp,
    },
    /// That would skip records.
    #[error("the sink has only got to record {cursor}: a cursor goes back, never ahead")]
    Ahead {
        /// The sink's next record.
        cursor: u64,
    },
    /// There is nothing to deliver again.
    #[error("the spool holds no records from there on: every sink has all of them")]
    Empty,
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(OpenError),
}

fn rewind(
    connection: &Connection,
    log: &Log,
    sink: &str,
    from: From,
) -> rusqlite::Result<Result<u64, RewindError>> {
    let cursors: Vec<(String, u64)> = connection
        .prepare("SELECT sink, next_offset FROM cursors ORDER BY sink")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let Some((_, cursor)) = cursors.iter().find(|(name, _)| name == sink) else {
        let known = cursors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        return Ok(Err(RewindError::UnknownSink { sink: sink.to_owned(), known }));
    };
    let mut reader = log.reader();
    let oldest = first_record(&mut reader, log.first(), |_| true)?;
    let Some((first, oldest)) = oldest else { return Ok(Err(RewindError::Empty)) };
    let (freed, wanted) = match from {
        From::Offset(offset) => (offset < first, Some(offset)),
        From::Time(time) => {
            let found = first_record(&mut reader, first, |record| record.received_at >= time)?;
            // Without freed records the oldest one is the beginning, however early the time.
            (time < oldest && first > 1, found.map(|(offset, _)| offset))
        }
    };
    if freed {
        return Ok(Err(RewindError::Freed { first, received_at: oldest }));
    }
    let Some(wanted) = wanted else { return Ok(Err(RewindError::Empty)) };
    if wanted > *cursor {
        return Ok(Err(RewindError::Ahead { cursor: *cursor }));
    }
    connection.execute("UPDATE cursors SET next_offset = ?2 WHERE sink = ?1", params![sink, wanted])?;
    Ok(Ok(cursor - wanted))
}

/// The first good record from an offset on that is the right one, and when it came.
fn first_record(
    reader: &mut LogReader,
    mut from: u64,
    is_right: impl Fn(&Record) -> bool,
) -> rusqlite::Result<Option<(u64, Timestamp)>> {
    loop {
        let items = reader.read(from, PIECE, PIECE_BYTES).map_err(schema::of_io)?;
        let Some(last) = items.last() else { return Ok(None) };
        from = last.offset() + 1;
        let found = items.iter().find_map(|item| match item {
            Item::Good(record) if is_right(record) => Some((record.offset, record.received_at)),
            _ => None,
        });
        if found.is_some() {
            return Ok(found);
        }
    }
}

/// A spool opened for changes.
#[derive(Debug)]
pub struct Offline {
    connection: Connection,
    look: Look,
    directory: PathBuf,
    /// Keeps a daemon out for as long as this lives.
    _lock: File,
}

impl Offline {
    /// Opens the spool in this folder.
    ///
    /// # Errors
    /// When there is none, a daemon has it ([`OpenError::InUse`]), or it cannot be opened.
    pub fn open(directory: &Path) -> Result<Offline, OpenError> {
        let (connection, look, lock) = schema::open_offline(directory)?;
        Ok(Offline { connection, look, directory: directory.to_path_buf(), _lock: lock })
    }

    /// Sinks that the spool knows, also such as are not configured any more and are not given up yet.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sinks(&self) -> Result<Vec<String>, OpenError> {
        self.change(|connection| {
            let mut names = connection.prepare("SELECT sink FROM cursors")?;
            names.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Has dead letters of these sinks delivered again when the daemon runs next. Gives how many were not asked for before.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn replay_letters(&self, which: &LetterFilter, sinks: &[String]) -> Result<u64, OpenError> {
        self.sweep(Sweep::new(Change::Replay { sinks: sinks.to_vec() }, which.clone()))
    }

    /// Of these dead letters, how many are of none of these sinks, so that nobody would deliver them again.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn stranded_letters(&self, which: &LetterFilter, sinks: &[String]) -> Result<u64, OpenError> {
        self.change(|connection| dead_letters::stranded(connection, which, sinks))
    }

    /// Gives dead letters up for good. Gives how many.
    ///
    /// # Errors
    /// When that cannot be stored; some may be gone then.
    pub fn discard_letters(&self, which: &LetterFilter) -> Result<u64, OpenError> {
        self.sweep(Sweep::new(Change::Discard, which.clone()))
    }

    /// Moves a sink's cursor back, so that what the spool still has of the records from there on is delivered again, with
    /// the same ids. Gives how many records that is.
    ///
    /// # Errors
    /// Says why the cursor cannot go there; then it stays.
    pub fn rewind(&self, sink: &str, from: From) -> Result<u64, RewindError> {
        let place = self.change(|connection| rewind(connection, &self.look.log, sink, from));
        place.map_err(RewindError::Spool)?
    }

    /// Has a spool that was put back from a backup go on with offsets, and so with ids of events, that it cannot have given out after the
    /// backup, and with sequence numbers as much higher. What it holds stays, and every sink goes on where it was. Gives the offset of
    /// the next record.
    ///
    /// # Errors
    /// When that cannot be written. Done once more, it leaves out offsets and numbers once more.
    pub fn go_on_as_restored(self, now: Timestamp) -> Result<u64, OpenError> {
        let end = self.look.log.end();
        let by_time = now.millis().saturating_mul(PER_MILLISECOND);
        let next = if by_time > end { by_time } else { end + LEFT_OUT };
        let agents = self.agents_after(next - end)?;
        // First the log: what the database and the mark say of it must be there.
        let spool_id = self.change(schema::spool_id)?;
        let newest = self.look.newest.or(mark::read(&self.directory).map(|mark| mark.newest));
        let Offline { connection, look, directory, _lock } = self;
        let io = |error: WriteError| OpenError::Io { path: log::folder(&directory), source: error.into() };
        look.go_on().and_then(|mut log| log.skip_to(next)).map_err(io)?;
        let store = || {
            let transaction = connection.unchecked_transaction()?;
            let mut row = transaction.prepare("INSERT OR REPLACE INTO agents VALUES (?1, ?2, ?3)")?;
            for (agent, bytes) in &agents {
                row.execute(params![agent.gateway.as_str(), agent.agent_id.as_str(), bytes])?;
            }
            drop(row);
            let floor = schema::sequence_floor(&transaction)? + (next - end);
            let mut meta = transaction.prepare("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
            for (key, value) in [("next_offset", next), ("agents_as_of", next), (SEQUENCE_FLOOR, floor)] {
                meta.execute(params![key, value])?;
            }
            drop(meta);
            // Who has all of it waits for the next record.
            transaction.execute("UPDATE cursors SET next_offset = ?2 WHERE next_offset = ?1", [end, next])?;
            transaction.commit()
        };
        store().map_err(|source| OpenError::Database { path: schema::database(&directory), source })?;
        MarkFile::create(&directory, &spool_id, next, newest.unwrap_or_default())
            .map_err(|source| OpenError::Io { path: mark::path(&directory), source })?;
        Ok(next)
    }

    /// Rows of all agents, as the records leave them, with numbers that are so much higher.
    fn agents_after(&self, leap: u64) -> Result<Vec<(AgentKey, Vec<u8>)>, OpenError> {
        let (mut book, as_of) = self.change(|connection| {
            Ok((keeper::stored_book(connection)?, schema::number(connection, "agents_as_of")?))
        })?;
        let io = |source| OpenError::Io { path: log::folder(&self.directory), source };
        writer::replay(&mut book, &mut self.look.log.reader(), as_of).map_err(io)?;
        let rows = book.into_rows().map(|(agent, mut row)| {
            row.next_sequence += leap;
            serde_json::to_vec(&row).map(|row| (agent, row))
        });
        rows.collect::<Result<_, _>>().map_err(|error| io(error.into()))
    }

    fn sweep(&self, mut sweep: Sweep) -> Result<u64, OpenError> {
        while !self.change(|connection| sweep.step(connection))? {}
        Ok(sweep.changed())
    }

    fn change<T>(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OpenError> {
        let run = || {
            let transaction = self.connection.unchecked_transaction()?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|source| OpenError::Database { path: schema::database(&self.directory), source })
    }
}
