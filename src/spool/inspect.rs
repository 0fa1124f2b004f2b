//! Looking into a spool, safe beside a running daemon: everything here only reads.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;

use super::dead_letters::{self, Letter, LetterFilter, StoredLetter};
use super::log::{self, Log};
use super::mark;
use super::reader::ReadRecord;
use super::schema::{self, OpenError};

/// Records read at a time.
pub(super) const PIECE: usize = 512;
/// Bytes read at a time.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What a spool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolStat {
    /// The first part of every event id.
    pub spool_id: String,
    /// Offset of the oldest record that is still there.
    pub first_offset: Option<u64>,
    /// Offset of the newest record.
    pub last_offset: Option<u64>,
    /// Records that are still there.
    pub records: u64,
    /// Bytes of all files of the spool.
    pub file_bytes: u64,
    /// Where each sink has got to, as stored: at most a quarter of a second behind a running daemon.
    pub sinks: Vec<SinkStat>,
    /// Events set aside.
    pub dead_letters: u64,
    /// Agents of which sequence and state are known.
    pub agents: u64,
    /// Sessions stored for a restart.
    pub sessions: u64,
}

/// Where a sink has got to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkStat {
    /// Its name.
    pub sink: String,
    /// The first record that it has not confirmed.
    pub next_offset: u64,
    /// Records that it has not confirmed.
    pub lag_records: u64,
}

/// A spool opened for looking.
#[derive(Debug)]
pub struct Inspector {
    connection: Connection,
    directory: PathBuf,
    path: PathBuf,
}

impl Inspector {
    /// Opens the spool in this folder.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn open(directory: &Path) -> Result<Inspector, OpenError> {
        let path = schema::database(directory);
        let connection = schema::open_reader(directory)?;
        Ok(Inspector { connection, directory: directory.to_path_buf(), path })
    }

    /// What it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stat(&self) -> Result<SpoolStat, OpenError> {
        let (look, _) =
            schema::look(&self.connection, &self.directory, mark::read(&self.directory).as_ref())?;
        self.read_stat(&look.log).map_err(|source| self.fault(source))
    }

    /// Sinks that have a place in it, or letters; and the reasons of letters.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known_names(&self) -> Result<(Vec<String>, Vec<String>), OpenError> {
        let names = |query: &str| -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare(query)?;
            let names = statement.query_map([], |row| row.get(0))?;
            names.collect()
        };
        let read = || {
            let sinks = names("SELECT sink FROM cursors UNION SELECT sink FROM dead_letters ORDER BY sink")?;
            Ok((sinks, names("SELECT DISTINCT reason FROM dead_letters")?))
        };
        read().map_err(|source| self.fault(source))
    }

    fn read_stat(&self, log: &Log) -> rusqlite::Result<SpoolStat> {
        let count = |table: &str| -> rusqlite::Result<u64> {
            self.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        };
        let (first, end) = (log.first(), log.end());
        let there = first < end;
        let mut statement = self.connection.prepare("SELECT sink, next_offset FROM cursors ORDER BY sink")?;
        let sinks = statement.query_map([], |row| {
            let next_offset: u64 = row.get(1)?;
            Ok(SinkStat { sink: row.get(0)?, next_offset, lag_records: end.saturating_sub(next_offset) })
        })?;
        Ok(SpoolStat {
            spool_id: schema::spool_id(&self.connection)?,
            first_offset: there.then_some(first),
            last_offset: there.then(|| end - 1),
            records: end - first,
            file_bytes: schema::file_bytes(&self.path) + log.file_bytes(),
            sinks: sinks.collect::<rusqlite::Result<_>>()?,
            dead_letters: count("dead_letters")?,
            agents: count("agents")?,
            sessions: count("sessions")?,
        })
    }

    /// Shows every record to `look`, oldest first, until it says that it has seen enough.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn records(&self, mut look: impl FnMut(ReadRecord) -> bool) -> Result<(), OpenError> {
        let mark = mark::read(&self.directory);
        let mut from = 0;
        loop {
            let (found, _) = schema::look(&self.connection, &self.directory, mark.as_ref())?;
            let mut reader = found.log.reader();
            loop {
                let items = match reader.read(from, PIECE, PIECE_BYTES) {
                    Ok(items) => items,
                    // A daemon has freed them meanwhile: it goes on with what there is now.
                    Err(_) if self.freed_below()? > found.log.first() => break,
                    Err(source) => return Err(OpenError::Io { path: log::folder(&self.directory), source }),
                };
                let Some(last) = items.last() else { return Ok(()) };
                from = last.offset() + 1;
                for item in items {
                    if !look(item.into()) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn freed_below(&self) -> Result<u64, OpenError> {
        schema::number(&self.connection, "first_offset").map_err(|source| self.fault(source))
    }

    /// Dead letters that the filter lets through with ids above `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn letters(
        &self,
        filter: &LetterFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, OpenError> {
        dead_letters::list(&self.connection, filter, after, limit).map_err(|source| self.fault(source))
    }

    /// One dead letter with its record.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn letter(&self, id: u64) -> Result<Option<Letter>, OpenError> {
        dead_letters::one(&self.connection, id).map_err(|source| self.fault(source))
    }

    /// The first part of every event id.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn spool_id(&self) -> Result<String, OpenError> {
        schema::spool_id(&self.connection).map_err(|source| self.fault(source))
    }

    fn fault(&self, source: rusqlite::Error) -> OpenError {
        OpenError::Database { path: self.path.clone(), source }
    }
}
