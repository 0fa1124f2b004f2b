//! Looking into a spool, safe beside a running daemon: everything here only reads.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;

use super::dead_letters::{self, Letter, LetterFilter, StoredLetter};
use super::reader::{self, ReadRecord};
use super::schema::{self, OpenError};

/// Records read at a time.
const PIECE: usize = 512;
/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

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
    path: PathBuf,
}

impl Inspector {
    /// Opens the spool in this folder.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn open(directory: &Path) -> Result<Inspector, OpenError> {
        let path = schema::database(directory);
        Ok(Inspector { connection: schema::open_reader(directory)?, path })
    }

    /// What it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stat(&self) -> Result<SpoolStat, OpenError> {
        self.read_stat().map_err(|source| self.fault(source))
    }

    fn read_stat(&self) -> rusqlite::Result<SpoolStat> {
        let count = |table: &str| -> rusqlite::Result<u64> {
            self.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        };
        let edge = |edge: &str| -> rusqlite::Result<Option<u64>> {
            self.connection
                .query_row(&format!("SELECT {edge}(spool_offset) FROM records"), [], |row| row.get(0))
        };
        let (first_offset, last_offset) = (edge("min")?, edge("max")?);
        let mut statement = self.connection.prepare("SELECT sink, next_offset FROM cursors ORDER BY sink")?;
        let sinks = statement.query_map([], |row| {
            let next_offset: u64 = row.get(1)?;
            let lag_records = last_offset.map_or(0, |last| (last + 1).saturating_sub(next_offset));
            Ok(SinkStat { sink: row.get(0)?, next_offset, lag_records })
        })?;
        Ok(SpoolStat {
            spool_id: schema::spool_id(&self.connection)?,
            first_offset,
            last_offset,
            records: count("records")?,
            file_bytes: schema::file_bytes(&self.path),
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
        let mut from = 0;
        loop {
            let piece = reader::read_records(&self.connection, from, PIECE, PIECE_BYTES);
            let piece = piece.map_err(|source| self.fault(source))?;
            let Some(last) = piece.last() else { return Ok(()) };
            from = last.offset() + 1;
            for record in piece {
                if !look(record) {
                    return Ok(());
                }
            }
        }
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
