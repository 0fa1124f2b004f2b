//! Changing a spool while no daemon has it: the same lock keeps either out.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::dead_letters::{self, LetterFilter};
use super::schema::{self, OpenError};

/// A spool opened for changes.
#[derive(Debug)]
pub struct Offline {
    connection: Connection,
    path: PathBuf,
    /// Keeps a daemon out for as long as this lives.
    _lock: File,
}

impl Offline {
    /// Opens the spool in this folder.
    ///
    /// # Errors
    /// When there is none, a daemon has it ([`OpenError::InUse`]), or it cannot be opened.
    pub fn open(directory: &Path) -> Result<Offline, OpenError> {
        let (connection, lock) = schema::open_offline(directory)?;
        Ok(Offline { connection, path: schema::database(directory), _lock: lock })
    }

    /// Has dead letters delivered again when the daemon runs next. Gives how many were not asked for before.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn replay_letters(&self, which: &LetterFilter) -> Result<u64, OpenError> {
        self.change(|connection| dead_letters::replay(connection, which))
    }

    /// Gives dead letters up for good. Gives how many.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub fn discard_letters(&self, which: &LetterFilter) -> Result<u64, OpenError> {
        self.change(|connection| dead_letters::discard(connection, which))
    }

    fn change<T>(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OpenError> {
        let run = || {
            let transaction = self.connection.unchecked_transaction()?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|source| OpenError::Database { path: self.path.clone(), source })
    }
}
