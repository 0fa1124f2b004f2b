//! The database: its tables, how it is opened, and what is checked before anything is written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use thiserror::Error;

use super::damage::{self, Damage, Findings};
use super::dead_letters;
use super::mark::{self, Mark};
use super::{SinkStart, SinkState, SpoolConfig, StartFrom};
use crate::clock::Timestamp;
use crate::hex::hex;

/// Raised with every change of the tables.
const SCHEMA_VERSION: i64 = 2;
/// "ccrl": tells our databases from others.
const APPLICATION_ID: i64 = 0x6363_726c;
const DATABASE: &str = "spool.db";
const LOCK: &str = "spool.lock";
/// How long a connection waits for another's lock: checkpoints hold theirs for milliseconds.
const BUSY: Duration = Duration::from_secs(10);

/// Pages that the writer keeps, in KiB as SQLite wants it said. It appends, and trims what was read a while ago: more
/// than this was not measurably faster, and all of it is in use for good after the first long outage of a broker.
const WRITER_CACHE: i64 = -4_096;

/// Bytes of the journal that are kept for reuse: writing over what is there needs no new blocks of the disk, and so no
/// commit of the file system. More than it has when the writer begins it anew, so that it keeps its length under load.
pub(super) const JOURNAL_KEPT: u64 = 48 << 20;

const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE records (
        spool_offset INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        gateway TEXT NOT NULL,
        agent_id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        repeats BLOB,
        before BLOB NOT NULL,
        body BLOB NOT NULL,
        crc INTEGER NOT NULL
    );
    CREATE TABLE cursors (sink TEXT PRIMARY KEY, next_offset INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE agents (
        gateway TEXT NOT NULL, agent_id TEXT NOT NULL, row BLOB NOT NULL, PRIMARY KEY (gateway, agent_id)
    ) WITHOUT ROWID;
    CREATE TABLE sessions (
        gateway TEXT NOT NULL, agent_id TEXT NOT NULL, stored BLOB NOT NULL, PRIMARY KEY (gateway, agent_id)
    ) WITHOUT ROWID;
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sink TEXT NOT NULL,
        spool_offset INTEGER NOT NULL,
        event_id TEXT NOT NULL,
        topic TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        kind INTEGER, received_ms INTEGER, gateway TEXT, agent_id TEXT, sequence INTEGER, repeats BLOB, before BLOB,
        body BLOB,
        crc INTEGER,
        UNIQUE (sink, spool_offset, event_id)
    );
    CREATE INDEX dead_letters_of_sink ON dead_letters (sink, bytes);
    CREATE TABLE replays (
        number INTEGER PRIMARY KEY AUTOINCREMENT, letter INTEGER NOT NULL UNIQUE, sink TEXT NOT NULL
    );
    CREATE INDEX replays_of_sink ON replays (sink, number);
";

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

/// Why the spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder or a file in it.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// Which lock file.
        path: PathBuf,
    },
    /// SQLite's word.
    #[error("cannot open the database {path}")]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by another release.
    #[error("{path} has schema version {found}, this release reads {SCHEMA_VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Acknowledged records are lost, or may be. Nothing was changed.
    #[error(
        "the spool in {} is damaged and nothing was changed:{findings}\n`ccrelay spool repair --directory {}` says what \
         can be saved; with --accept-loss it saves that in a new database and keeps the damaged one",
        directory.display(), directory.display()
    )]
    Damaged {
        /// Which folder.
        directory: PathBuf,
        /// What is wrong.
        findings: Findings,
    },
    /// The folder is another user's.
    #[error("{} belongs to user {owner} and this is user {user}", directory.display())]
    OtherOwner {
        /// Which folder.
        directory: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who wants it.
        user: u32,
    },
    /// A sink that was not named at the start.
    #[error("no sink is called {0}")]
    UnknownSink(String),
}

/// An open database and what the writer needs to know of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Held for the life of the spool.
    pub(super) lock: File,
    pub(super) spool_id: String,
    pub(super) first_offset: u64,
    pub(super) next_offset: u64,
    /// When the newest record came.
    pub(super) newest: Timestamp,
    pub(super) agents_as_of: u64,
    pub(super) sinks: Vec<SinkState>,
}

pub(super) fn database(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

/// Opens for writing, when nothing is damaged.
pub(super) fn open(config: &SpoolConfig, sinks: &[SinkStart]) -> Result<Opened, OpenError> {
    let lock = lock(&config.directory)?;
    let path = database(&config.directory);
    let io = |source| OpenError::Io { path: path.clone(), source };
    let sql = |source| OpenError::Database { path: path.clone(), source };
    let mark = mark::read(&config.directory);
    if let Some(damage) = damage::of_files(&config.directory, mark.as_ref()) {
        return Err(damaged(&config.directory, vec![damage]));
    }
    // SQLite gives its journal the mode of the database, so this one call keeps all of it private.
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io)?;
    let connection = open_sound(&config.directory, mark.as_ref())?;
    set_up_writer(&connection).map_err(sql)?;
    recover(connection, lock, sinks, mark).map_err(sql)
}

/// Opens a spool that is there for changes while no daemon has it.
pub(super) fn open_offline(directory: &Path) -> Result<(Connection, File), OpenError> {
    let path = database(directory);
    let there = fs::metadata(&path).or_else(|error| fs::metadata(mark::path(directory)).map_err(|_| error));
    there.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let lock = lock(directory)?;
    let mark = mark::read(directory);
    if let Some(damage) = damage::of_files(directory, mark.as_ref()) {
        return Err(damaged(directory, vec![damage]));
    }
    let connection = open_sound(directory, mark.as_ref())?;
    set_up_writer(&connection).map_err(|source| OpenError::Database { path, source })?;
    Ok((connection, lock))
}

fn damaged(directory: &Path, findings: Vec<Damage>) -> OpenError {
    OpenError::Damaged { directory: directory.to_path_buf(), findings: Findings(findings) }
}

/// Opens a database, new or not, and brings it to this version, unless it is damaged: then not a byte is changed, not even
/// by a checkpoint, because the journal may hold what the database does not.
fn open_sound(directory: &Path, mark: Option<&Mark>) -> Result<Connection, OpenError> {
    let path = database(directory);
    let sql = |source| fault(directory, source);
    let mut connection =
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    leave_as_it_is(&connection, true).map_err(sql)?;
    let version = version(&connection, directory)?;
    if version > 0 {
        let found = damage::of_database(&connection, directory, mark, false).map_err(sql)?;
        if !found.is_empty() {
            return Err(damaged(directory, found));
        }
    }
    leave_as_it_is(&connection, false).map_err(sql)?;
    match version {
        0 => create(&mut connection).map_err(sql)?,
        1 => migrate(&mut connection).map_err(sql)?,
        _ => {}
    }
    Ok(connection)
}

/// The version of the tables; 0 when there are none yet.
pub(super) fn version(connection: &Connection, directory: &Path) -> Result<i64, OpenError> {
    let sql = |source| fault(directory, source);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(sql);
    let (version, application_id) = (pragma("user_version")?, pragma("application_id")?);
    let tables: u64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    match version {
        0 if tables == 0 && application_id == 0 => Ok(0),
        1 if application_id == 0 => Ok(1),
        SCHEMA_VERSION if application_id == APPLICATION_ID => Ok(version),
        found if application_id == APPLICATION_ID => {
            Err(OpenError::Version { path: database(directory), found })
        }
        _ => Err(damaged(directory, vec![Damage::Foreign { application_id }])),
    }
}

/// SQLite's error: damage, or a fault of another kind.
fn fault(directory: &Path, source: rusqlite::Error) -> OpenError {
    if damage::is_damage(&source) {
        return damaged(directory, vec![Damage::Unreadable { detail: source.to_string() }]);
    }
    OpenError::Database { path: database(directory), source }
}

/// Whether the last one to close the database leaves its journal to the next one.
pub(super) fn leave_as_it_is(connection: &Connection, leave: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leave).map(|_| ())
}

pub(super) fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let io = |source| OpenError::Io { path: path.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    check_owner(directory)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
        Err(fs::TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// A folder of somebody else's would end up with files of two owners.
fn check_owner(directory: &Path) -> Result<(), OpenError> {
    let metadata =
        fs::metadata(directory).map_err(|source| OpenError::Io { path: directory.to_path_buf(), source })?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == user || user == 0 {
        return Ok(());
    }
    Err(OpenError::OtherOwner { directory: directory.to_path_buf(), owner, user })
}

pub(super) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    // Must come before the first table: it decides how free pages are kept.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    let mut id = [0u8; 4];
    // Without entropy ids could meet those of another spool; SQLite's own randomness is the fallback.
    if getrandom::fill(&mut id).is_err() {
        let random: i64 = transaction.query_row("SELECT random()", [], |row| row.get(0))?;
        id.copy_from_slice(&random.to_be_bytes()[..4]);
    }
    let id = hex(&id);
    transaction
        .execute("INSERT INTO meta VALUES ('spool_id', ?1), ('next_offset', 1), ('agents_as_of', 1)", [id])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(FROM_VERSION_1)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    tracing::info!(version = SCHEMA_VERSION, "the spool's tables were brought to this release's version");
    Ok(())
}

/// Whether the disk has no room. That passes, other faults of the disk do not. The index file beside the journal grows by
/// a call of its own, whose error says no more than that.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == rusqlite::ErrorCode::DiskFull
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}

pub(super) fn spool_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT value FROM meta WHERE key = 'spool_id'", [], |row| row.get(0))
}

fn set_up_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The keeper thread checkpoints; the commit path must not.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
    // A journal that once had to grow while a reader held it up goes back to this with its next begin.
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_KEPT, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn recover(
    mut connection: Connection,
    lock: File,
    sinks: &[SinkStart],
    mark: Option<Mark>,
) -> rusqlite::Result<Opened> {
    let transaction = connection.transaction()?;
    let oldest: Option<u64> =
        transaction.query_row("SELECT min(spool_offset) FROM records", [], |row| row.get(0))?;
    let newest = "SELECT received_ms FROM records ORDER BY spool_offset DESC LIMIT 1";
    let newest: Option<u64> = transaction.query_row(newest, [], |row| row.get(0)).optional()?;
    let newest = newest.map(Timestamp).or(mark.map(|mark| mark.newest)).unwrap_or_default();
    let next_offset = damage::next_offset(&transaction)?;
    let first_offset = oldest.unwrap_or(next_offset);
    let agents_as_of =
        transaction.query_row("SELECT value FROM meta WHERE key = 'agents_as_of'", [], |row| row.get(0))?;
    let spool_id = spool_id(&transaction)?;
    let sinks = sink_states(&transaction, sinks, first_offset, next_offset)?;
    transaction.commit()?;
    Ok(Opened { connection, lock, spool_id, first_offset, next_offset, newest, agents_as_of, sinks })
}

fn sink_states(
    connection: &Connection,
    sinks: &[SinkStart],
    first_offset: u64,
    next_offset: u64,
) -> rusqlite::Result<Vec<SinkState>> {
    let mut known = Vec::new();
    for sink in sinks {
        let stored: Option<u64> = connection
            .query_row("SELECT next_offset FROM cursors WHERE sink = ?1", [&sink.name], |row| row.get(0))
            .optional()?;
        let start = match sink.from {
            StartFrom::Now => next_offset,
            StartFrom::Earliest => first_offset,
        };
        let at = stored.unwrap_or(start);
        if stored.is_none() {
            connection.execute("INSERT INTO cursors VALUES (?1, ?2)", params![sink.name, at])?;
            tracing::info!(sink = %sink.name, spool_offset = at, "a new sink begins");
        }
        let replay_to = dead_letters::replay_to(connection, &sink.name)?;
        known.push(SinkState::new(sink, at, replay_to));
    }
    forget_removed(connection, sinks, next_offset)?;
    Ok(known)
}

fn forget_removed(connection: &Connection, sinks: &[SinkStart], next_offset: u64) -> rusqlite::Result<()> {
    let stored: Vec<(String, u64)> = connection
        .prepare("SELECT sink, next_offset FROM cursors")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (name, at) in stored.into_iter().filter(|(name, _)| sinks.iter().all(|s| s.name != *name)) {
        let records = next_offset.saturating_sub(at);
        tracing::warn!(sink = %name, records, "a sink was removed from the configuration; what it had not got is given up for it");
        connection.execute("DELETE FROM cursors WHERE sink = ?1", [name])?;
    }
    Ok(())
}

/// Bytes of the database with its journal and index.
pub(super) fn file_bytes(database: &Path) -> u64 {
    let files = ["db", "db-wal", "db-shm"].map(|extension| database.with_extension(extension));
    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
}

/// Opens for reading, beside a writer.
pub(super) fn open_reader(directory: &Path) -> Result<Connection, OpenError> {
    let sql = |source| fault(directory, source);
    let connection = open_looking(directory).map_err(sql)?;
    connection.pragma_update(None, "cache_size", -2_048).map_err(sql)?;
    match version(&connection, directory)? {
        SCHEMA_VERSION => Ok(connection),
        found => Err(OpenError::Version { path: database(directory), found }),
    }
}

/// Opens to look, changing nothing.
pub(super) fn open_looking(directory: &Path) -> rusqlite::Result<Connection> {
    let connection = open_to_look(directory)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens what is damaged, also when it is shorter than it says (that is what `writable_schema` does here), changing nothing.
pub(super) fn open_damaged(directory: &Path) -> rusqlite::Result<Connection> {
    let connection = open_to_look(directory)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn open_to_look(directory: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database(directory), flags)?;
    connection.busy_timeout(BUSY)?;
    leave_as_it_is(&connection, true)?;
    Ok(connection)
}

/// Opens for checkpoints, beside a writer.
pub(super) fn open_keeper(directory: &Path) -> Result<Connection, OpenError> {
    let path = database(directory);
    let sql = |source| OpenError::Database { path: path.clone(), source };
    let connection = Connection::open(&path).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
    Ok(connection)
}
