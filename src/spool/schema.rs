//! The database: its tables, how it is opened, and what is checked before anything is written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use thiserror::Error;

use super::damage::{self, Damage, Findings};
use super::log::{self, LogWriter, Look};
use super::mark::{self, Mark};
use super::{SinkStart, SinkState, SpoolConfig, StartFrom, dead_letters, migrate, room};
use crate::clock::Timestamp;
use crate::hex::hex;

/// Raised with every change of the tables.
pub(super) const SCHEMA_VERSION: i64 = 3;
/// "ccrl": tells our databases from others.
pub(super) const APPLICATION_ID: i64 = 0x6363_726c;
const DATABASE: &str = "spool.db";
const LOCK: &str = "spool.lock";
/// How long a connection waits for another's lock: checkpoints hold theirs for milliseconds.
const BUSY: Duration = Duration::from_secs(10);

/// Bytes of the journal that are kept for reuse.
const JOURNAL_KEPT: u64 = 4 << 20;

const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
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

/// Why the spool cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder or a file in it.
    #[error("cannot use {path}{}", sandboxed(source))]
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
    #[error(
        "{} belongs to user {owner} and this is user {user}: run this as its owner, such as by sudo -u '#{owner}'",
        directory.display()
    )]
    OtherOwner {
        /// Which folder.
        directory: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who wants it.
        user: u32,
    },
    /// Root would make it where somebody else is at home, who could not open it.
    #[error(
        "{} would belong to user {user} below a folder of user {owner}, who could not open it: run this as that user, such as by sudo -u '#{owner}'",
        directory.display()
    )]
    OtherPlace {
        /// Which folder.
        directory: PathBuf,
        /// Whose the folder above is.
        owner: u32,
        /// Who wants it.
        user: u32,
    },
    /// A repair would not find the room for what it saves.
    #[error(
        "a repair writes a copy of what it saves, of up to {needed} bytes, and the disk of {} has {free} free: nothing was changed",
        directory.display()
    )]
    NoRoom {
        /// Which folder.
        directory: PathBuf,
        /// Bytes of the copy at most, about.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// A sink that was not named at the start.
    #[error("no sink is called {0}")]
    UnknownSink(String),
}

/// An open spool and what its threads need to know of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) log: LogWriter,
    /// Held for the life of the spool.
    pub(super) lock: File,
    pub(super) spool_id: String,
    /// When the newest record came.
    pub(super) newest: Timestamp,
    pub(super) agents_as_of: u64,
    pub(super) stored_first: u64,
    pub(super) sinks: Vec<SinkState>,
    /// Sinks that are not configured any more, and where they had got to.
    pub(super) removed: Vec<(String, u64)>,
}

pub(super) fn database(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

/// Opens for writing, when nothing is damaged. Calls `goes_on` now and then where that takes long.
pub(super) fn open(
    config: &SpoolConfig,
    sinks: &[SinkStart],
    goes_on: &dyn Fn(),
) -> Result<Opened, OpenError> {
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
    let (connection, look) = open_sound(&config.directory, mark.as_ref(), goes_on)?;
    set_up_writer(&connection).map_err(sql)?;
    let newest = look.newest.or(mark.map(|mark| mark.newest)).unwrap_or_default();
    let log = look.go_on();
    let log =
        log.map_err(|error| OpenError::Io { path: log::folder(&config.directory), source: error.into() })?;
    recover(connection, log, lock, sinks, newest).map_err(sql)
}

/// Opens a spool that is there for changes while no daemon has it.
pub(super) fn open_offline(directory: &Path) -> Result<(Connection, Look, File), OpenError> {
    let path = database(directory);
    let there = fs::metadata(&path).or_else(|error| fs::metadata(mark::path(directory)).map_err(|_| error));
    there.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let lock = lock(directory)?;
    let mark = mark::read(directory);
    if let Some(damage) = damage::of_files(directory, mark.as_ref()) {
        return Err(damaged(directory, vec![damage]));
    }
    let (connection, look) = open_sound(directory, mark.as_ref(), &|| ())?;
    set_up_writer(&connection).map_err(|source| OpenError::Database { path, source })?;
    Ok((connection, look, lock))
}

pub(super) fn damaged(directory: &Path, findings: Vec<Damage>) -> OpenError {
    OpenError::Damaged { directory: directory.to_path_buf(), findings: Findings(findings) }
}

/// Opens a database, new or not, with its log, and brings it to this version, unless something is damaged: then not a byte is
/// changed, not even by a checkpoint, because the journal may hold what the database does not.
fn open_sound(
    directory: &Path,
    mark: Option<&Mark>,
    goes_on: &dyn Fn(),
) -> Result<(Connection, Look), OpenError> {
    let path = database(directory);
    let sql = |source| fault(directory, source);
    let mut connection =
        Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(sql)?;
    connection.busy_timeout(BUSY).map_err(sql)?;
    leave_as_it_is(&connection, true).map_err(sql)?;
    let version = version(&connection, directory)?;
    let mut found = Vec::new();
    if version > 0 {
        found = damage::of_database(&connection, directory, false).map_err(sql)?;
    }
    let mut looked = None;
    if version == SCHEMA_VERSION && found.is_empty() {
        let (look, acknowledged) = look(&connection, directory, mark)?;
        found = damage::of_log(&look, acknowledged, mark)
            .map_err(|source| OpenError::Io { path: log::folder(directory), source })?;
        looked = Some(look);
    }
    if !found.is_empty() {
        return Err(damaged(directory, found));
    }
    leave_as_it_is(&connection, false).map_err(sql)?;
    match version {
        0 => create(&mut connection).map_err(sql)?,
        1 | 2 => migrate::migrate(&mut connection, directory, version, mark, goes_on)?,
        _ => {}
    }
    let look = match looked {
        Some(look) => look,
        None => look(&connection, directory, mark)?.0,
    };
    Ok((connection, look))
}

/// Looks at the log of an open database. Also gives the offset below which all records were acknowledged.
pub(super) fn look(
    connection: &Connection,
    directory: &Path,
    mark: Option<&Mark>,
) -> Result<(Look, u64), OpenError> {
    let read = || -> rusqlite::Result<_> {
        Ok((spool_id(connection)?, number(connection, "first_offset")?, number(connection, "next_offset")?))
    };
    let (spool_id, first, next) = read().map_err(|source| fault(directory, source))?;
    let cursor = furthest_cursor(connection).map_err(|source| fault(directory, source))?;
    let acknowledged = acknowledged(mark, &spool_id, next.max(cursor));
    let look = log::look(directory, &spool_id, first, acknowledged);
    let look = look.map_err(|source| OpenError::Io { path: log::folder(directory), source })?;
    Ok((look, acknowledged))
}

/// Where the sink that has got furthest goes on: what is below was there.
pub(super) fn furthest_cursor(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(max(next_offset), 1) FROM cursors", [], |row| row.get(0))
}

/// Offset below which all records were acknowledged, as the database and the mark say.
pub(super) fn acknowledged(mark: Option<&Mark>, spool_id: &str, next: u64) -> u64 {
    let marked = mark.filter(|mark| damage::is_of(mark, spool_id)).map_or(1, |mark| mark.next_offset);
    next.max(marked)
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
        2 | SCHEMA_VERSION if application_id == APPLICATION_ID => Ok(version),
        found if application_id == APPLICATION_ID => {
            Err(OpenError::Version { path: database(directory), found })
        }
        _ => Err(damaged(directory, vec![Damage::Foreign { application_id }])),
    }
}

/// What a read-only file system mostly is where a service has a sandbox: not the disk.
fn sandboxed(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => {
            " (a service that is to write outside of /var/lib/ccrelay needs ReadWritePaths= in its unit: docs/operation.md)"
        }
        _ => "",
    }
}

/// SQLite's error: damage, or a fault of another kind.
pub(super) fn fault(directory: &Path, source: rusqlite::Error) -> OpenError {
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
    check_owner(directory)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
        Err(fs::TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// The nearest of this path and what is above it that is there.
pub(crate) fn nearest(path: &Path) -> Option<(PathBuf, fs::Metadata)> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|path| Some((path.to_path_buf(), fs::metadata(path).ok()?)))
}

/// A folder of somebody else's would end up with files of two owners, and whose it is could not open what another makes: not even
/// root, whom nothing keeps from it. Root makes none below a folder of somebody else's either, for the same reason.
fn check_owner(directory: &Path) -> Result<(), OpenError> {
    let user = rustix::process::geteuid();
    if user.is_root() && fs::metadata(directory.join(DATABASE)).is_ok_and(|database| database.uid() == 0) {
        // It was root who made it, as in a container whose folder belongs to a user of the host.
        return Ok(());
    }
    let (found, there) = match fs::metadata(directory) {
        Ok(metadata) => (metadata, true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match nearest(directory).filter(|_| user.is_root()) {
                Some((_, above)) => (above, false),
                None => return Ok(()),
            }
        }
        Err(source) => return Err(OpenError::Io { path: directory.to_path_buf(), source }),
    };
    let (owner, user) = (found.uid(), user.as_raw());
    if owner == user {
        return Ok(());
    }
    let directory = directory.to_path_buf();
    Err(if there {
        OpenError::OtherOwner { directory, owner, user }
    } else {
        OpenError::OtherPlace { directory, owner, user }
    })
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
    let meta = "INSERT INTO meta
        VALUES ('spool_id', ?1), ('first_offset', 1), ('next_offset', 1), ('agents_as_of', 1)";
    transaction.execute(meta, [id])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Why the database was not changed.
#[derive(Debug)]
pub(super) enum ChangeError {
    /// There is no room, which passes.
    Full(rusqlite::Error),
    /// The disk failed, or what it holds is not what it should be.
    Failed(rusqlite::Error),
}

impl ChangeError {
    pub(super) fn of(error: rusqlite::Error, directory: &Path) -> ChangeError {
        if is_full(&error, || room::find(directory)) {
            ChangeError::Full(error)
        } else {
            ChangeError::Failed(error)
        }
    }
}

/// Whether the disk has no room. The index file beside the journal grows by a call of its own, whose error says no more than
/// that. Of a write that a quota forbids SQLite says only that it failed, so that what is written to find out tells.
fn is_full(error: &rusqlite::Error, find_room: impl FnOnce() -> std::io::Result<()>) -> bool {
    error.sqlite_error().is_some_and(|error| match error.extended_code {
        rusqlite::ffi::SQLITE_IOERR_SHMSIZE => true,
        rusqlite::ffi::SQLITE_IOERR_WRITE => find_room().is_err_and(|error| room::is_none(&error)),
        _ => error.code == rusqlite::ErrorCode::DiskFull,
    })
}

pub(super) fn spool_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT value FROM meta WHERE key = 'spool_id'", [], |row| row.get(0))
}

/// The key of the number at which agents begin that the spool has not seen before. Only a spool that was put back from a backup has it.
pub(super) const SEQUENCE_FLOOR: &str = "sequence_floor";

/// The number at which agents begin that the spool has not seen before.
pub(super) fn sequence_floor(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(number(connection, SEQUENCE_FLOOR).optional()?.unwrap_or(0))
}

/// A number that the spool keeps.
pub(super) fn number(connection: &Connection, key: &str) -> rusqlite::Result<u64> {
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
}

/// A fault of a file that was met in the middle of a transaction.
pub(super) fn of_io(error: std::io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn set_up_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_KEPT, |_| Ok(()))?;
    // A dead letter that was discarded or delivered must not stay readable in pages that are free. What changes often, the rows of
    // agents, changes in pages that are written anyway.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Gives the space of a journal back that has grown far beyond what is kept of it. After a transaction that was rolled back SQLite
/// would do so only with the next thousand pages, which on a full disk nobody writes. A journal that is being read stays.
pub(super) fn shrink_journal(connection: &Connection, database: &Path) -> rusqlite::Result<()> {
    let bytes = fs::metadata(database.with_extension("db-wal")).map_or(0, |journal| journal.len());
    if bytes <= 2 * JOURNAL_KEPT {
        return Ok(());
    }
    connection.busy_timeout(Duration::ZERO)?;
    let shrunk = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    connection.busy_timeout(BUSY)?;
    shrunk
}

/// After a transaction that found no room: what the journal has goes into the database, so that the next one begins at its front and
/// needs no more of the disk. Only with a thousand pages would that come by itself.
pub(super) fn empty_journal(connection: &Connection, database: &Path) -> rusqlite::Result<()> {
    shrink_journal(connection, database)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn recover(
    mut connection: Connection,
    log: LogWriter,
    lock: File,
    sinks: &[SinkStart],
    newest: Timestamp,
) -> rusqlite::Result<Opened> {
    let transaction = connection.transaction()?;
    let (first, next) = (log.log().first(), log.log().end());
    let agents_as_of = number(&transaction, "agents_as_of")?;
    let spool_id = spool_id(&transaction)?;
    let removed = removed_sinks(&transaction, sinks, next)?;
    let sinks = sink_states(&transaction, sinks, first, next)?;
    transaction.commit()?;
    Ok(Opened { connection, log, lock, spool_id, newest, agents_as_of, stored_first: first, sinks, removed })
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
    Ok(known)
}

/// Sinks that are not configured any more. They keep what they had not got for now: this start may fail, or be one with the wrong
/// configuration.
fn removed_sinks(
    connection: &Connection,
    sinks: &[SinkStart],
    next_offset: u64,
) -> rusqlite::Result<Vec<(String, u64)>> {
    let mut stored = connection.prepare("SELECT sink, next_offset FROM cursors")?;
    let mut removed = stored
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(String, u64)>>>()?;
    removed.retain(|(name, _)| sinks.iter().all(|sink| sink.name != *name));
    for (name, at) in &removed {
        let records = next_offset.saturating_sub(*at);
        tracing::warn!(sink = %name, records, "a sink is not configured any more: what it has not got is given up some minutes after pushes are taken, unless it is put back and ccrelay restarted; while the configuration's file names it, nothing of it is given up");
    }
    Ok(removed)
}

/// Forgets where a sink had got to that is not configured any more, and that letters of it were to be delivered again: the letters
/// stay, and may be asked for anew.
pub(super) fn forget_sink(connection: &Connection, sink: &str) -> rusqlite::Result<()> {
    for table in ["cursors", "replays"] {
        connection.prepare_cached(&format!("DELETE FROM {table} WHERE sink = ?1"))?.execute([sink])?;
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
    // SQLite says the same of a folder that is not there and of one that may not be entered. The file is not opened for that: to close
    // it would end the locks that this process has on it.
    let path = database(directory);
    fs::metadata(&path).map_err(|source| OpenError::Io { path, source })?;
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

#[cfg(test)]
mod tests {
    use rusqlite::ffi;
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_folder_that_the_sandbox_of_the_service_keeps_read_only_is_said_to_be_one() {
        let said =
            |errno: Errno| OpenError::Io { path: "/srv/spool".into(), source: errno.into() }.to_string();
        assert!(said(Errno::ROFS).contains("needs ReadWritePaths= in its unit"), "{}", said(Errno::ROFS));
        assert_eq!(said(Errno::ACCESS), "cannot use /srv/spool");
    }

    #[test]
    fn a_used_up_quota_is_a_full_disk_and_a_failed_write_or_sync_is_none() {
        let said = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let full = |code, tried: Option<Errno>| {
            is_full(&said(code), || tried.map_or(Ok(()), |error| Err(error.into())))
        };
        for errno in [Errno::DQUOT, Errno::NOSPC] {
            assert!(full(ffi::SQLITE_IOERR_WRITE, Some(errno)), "{errno}");
            assert!(!full(ffi::SQLITE_IOERR_FSYNC, Some(errno)), "{errno}");
        }
        assert!(!full(ffi::SQLITE_IOERR_WRITE, Some(Errno::IO)));
        assert!(!full(ffi::SQLITE_IOERR_WRITE, None));
        assert!(full(ffi::SQLITE_FULL, None));
        assert!(full(ffi::SQLITE_IOERR_SHMSIZE, None));
    }

    #[test]
    fn a_journal_that_a_rolled_back_transaction_has_left_large_is_given_back_unless_it_is_being_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = database(folder.path());
        let mut connection = Connection::open(&path).unwrap();
        create(&mut connection).unwrap();
        set_up_writer(&connection).unwrap();
        connection.pragma_update(None, "cache_size", 10).unwrap();
        connection
            .execute_batch(
                "BEGIN;
                 CREATE TABLE filler (bytes); INSERT INTO filler VALUES (zeroblob(12000000));
                 ROLLBACK;",
            )
            .unwrap();
        let journal = || fs::metadata(path.with_extension("db-wal")).unwrap().len();
        let left = journal();
        assert!(left > 12_000_000);
        let reading = open_looking(folder.path()).unwrap();
        reading.execute_batch("BEGIN").unwrap();
        assert_eq!(number(&reading, "first_offset").unwrap(), 1);
        shrink_journal(&connection, &path).unwrap();
        assert_eq!(journal(), left);
        drop(reading);
        shrink_journal(&connection, &path).unwrap();
        assert_eq!(journal(), 0);
    }

    #[test]
    fn what_comes_after_a_full_disk_has_the_room_of_the_journal() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = database(folder.path());
        let mut connection = Connection::open(&path).unwrap();
        create(&mut connection).unwrap();
        set_up_writer(&connection).unwrap();
        let journal = || fs::metadata(path.with_extension("db-wal")).unwrap().len();
        connection
            .execute_batch("CREATE TABLE filler (bytes); INSERT INTO filler VALUES (zeroblob(2000000))")
            .unwrap();
        let before = journal();
        assert!(before > 2_000_000);
        empty_journal(&connection, &path).unwrap();
        connection.execute("INSERT INTO filler VALUES (zeroblob(1900000))", []).unwrap();
        assert_eq!(journal(), before);
    }
}
