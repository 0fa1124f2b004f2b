//! Looking at all of a spool for damage, and saving what can be read of a damaged one. What is saved goes into a new
//! database and a new log; the damaged files are kept beside them under other names. Nothing is deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::damage::{self, Damage, Findings};
use super::log::{self, Copied, Look};
use super::mark::{self, Mark, MarkFile};
use super::schema::{self, OpenError};
use super::{limits, migrate, reader};
use crate::clock::Timestamp;

/// How often a spool is looked at while a daemon frees what is looked at.
const LOOKS: u32 = 5;

/// What a look at all of a spool has shown.
#[derive(Debug)]
pub struct Examination {
    /// Records that are as they were stored.
    pub good_records: u64,
    /// What is wrong; empty when all is well.
    pub findings: Findings,
}

/// What a repair came to.
#[derive(Debug)]
pub struct Repaired {
    /// Rows saved of each table.
    pub saved: Vec<(&'static str, u64)>,
    /// Tables of which not all rows could be read.
    pub torn: Vec<&'static str>,
    /// The files that were damaged, under their new names.
    pub kept: Vec<PathBuf>,
}

/// Reads all of a spool, also beside a running daemon. Changes nothing.
///
/// # Errors
/// When there is no spool, or the disk or the caller is at fault.
pub fn examine(directory: &Path) -> Result<Examination, OpenError> {
    for _ in 0..LOOKS {
        // A daemon frees records meanwhile, and their files become others: then what was seen is looked at once more.
        let first = freed_below(directory);
        let examined = examine_once(directory);
        let sound = examined.as_ref().is_ok_and(|examined| examined.findings.0.is_empty());
        if sound || first.is_none() || first == freed_below(directory) {
            return examined;
        }
    }
    examine_once(directory)
}

fn freed_below(directory: &Path) -> Option<u64> {
    let connection = schema::open_looking(directory).ok()?;
    schema::number(&connection, "first_offset").ok()
}

fn examine_once(directory: &Path) -> Result<Examination, OpenError> {
    // Before the database: what it says then is at least what the mark says.
    let mark = mark::read(directory);
    let mut findings: Vec<_> = damage::of_files(directory, mark.as_ref()).into_iter().collect();
    if let [Damage::Missing { .. }] = findings[..] {
        return Ok(Examination { good_records: 0, findings: Findings(findings) });
    }
    let path = schema::database(directory);
    fs::metadata(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    match look(directory, mark.as_ref(), &mut findings) {
        Ok(good_records) => Ok(Examination { good_records, findings: Findings(findings) }),
        Err(OpenError::Damaged { findings: Findings(more), .. }) => {
            findings.extend(more);
            Ok(Examination { good_records: 0, findings: Findings(findings) })
        }
        Err(OpenError::Database { source, .. }) if damage::is_damage(&source) => {
            findings.push(Damage::Unreadable { detail: source.to_string() });
            Ok(Examination { good_records: 0, findings: Findings(findings) })
        }
        Err(error) => Err(error),
    }
}

/// Gives the number of good records.
fn look(directory: &Path, mark: Option<&Mark>, findings: &mut Vec<Damage>) -> Result<u64, OpenError> {
    let sql = |source| OpenError::Database { path: schema::database(directory), source };
    let connection = schema::open_damaged(directory).map_err(sql)?;
    let version = schema::version(&connection, directory)?;
    if version == 0 {
        return Err(OpenError::Version { path: schema::database(directory), found: version });
    }
    findings.extend(damage::of_database(&connection, directory, true).map_err(sql)?);
    if version < schema::SCHEMA_VERSION {
        return migrate::look(&connection, mark, findings).map_err(sql);
    }
    let io = |source| OpenError::Io { path: log::folder(directory), source };
    let (look, acknowledged) = look_at_log(&connection, directory, mark).map_err(io)?;
    findings.extend(damage::of_ends(&look, acknowledged, mark));
    let mut good_records = 0;
    let scanned = damage::scan(&look.log, |_| {
        good_records += 1;
        Ok(())
    });
    findings.extend(scanned.map_err(io)?);
    Ok(good_records)
}

/// Looks at the log of a database that may be damaged, and gives the offset below which all was acknowledged.
fn look_at_log(connection: &Connection, directory: &Path, mark: Option<&Mark>) -> io::Result<(Look, u64)> {
    let spool_id = schema::spool_id(connection)
        .ok()
        .or_else(|| mark.map(|mark| mark.spool_id.clone()))
        .or_else(|| log::spool_id(directory))
        .unwrap_or_default();
    let number = |key| schema::number(connection, key).ok();
    let next = number("next_offset").max(schema::furthest_cursor(connection).ok());
    let acknowledged = schema::acknowledged(mark, &spool_id, next.unwrap_or(1));
    let look = log::look(directory, &spool_id, number("first_offset").unwrap_or(1), acknowledged)?;
    Ok((look, acknowledged))
}

/// Saves what can be read of a damaged spool in a new database and a new log, which take their places.
///
/// # Errors
/// When a daemon has the spool, or there is no room for what is new, or it cannot be written; then nothing was changed.
pub fn repair(directory: &Path, now: Timestamp) -> Result<Repaired, OpenError> {
    fs::metadata(directory).map_err(|source| OpenError::Io { path: directory.to_path_buf(), source })?;
    let _lock = schema::lock(directory)?;
    let mark = mark::read(directory);
    let draft = Draft { database: directory.join("spool.db.draft"), log: directory.join("records.draft") };
    let io = |source| OpenError::Io { path: draft.database.clone(), source };
    draft.remove().map_err(io)?;
    check_room(directory)?;
    let salvage = Salvage { directory, mark: mark.as_ref(), saved: Vec::new(), torn: Vec::new() };
    let written = salvage.write(&draft).and_then(|written| {
        File::open(&draft.database).and_then(|file| file.sync_all()).map_err(io)?;
        let kept = keep_beside(directory, now).map_err(io)?;
        Ok((written, kept))
    });
    let ((Salvage { saved, torn, .. }, new), kept) = written.inspect_err(|_| {
        // A half copy must not keep the disk full.
        if let Err(error) = draft.remove() {
            tracing::warn!(path = %draft.database.display(), %error, "what a repair has left half done cannot be removed");
        }
    })?;
    let kept = put_in_place(directory, &draft, kept, now).map_err(io)?;
    MarkFile::create(directory, &new.spool_id, new.next_offset, new.newest)
        .map_err(|source| OpenError::Io { path: mark::path(directory), source })?;
    Ok(Repaired { saved, torn, kept })
}

/// What is to take the places of a database and a log.
struct Draft {
    database: PathBuf,
    log: PathBuf,
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Draft {
    /// Removes what an earlier repair has left half done.
    fn remove(&self) -> io::Result<()> {
        let file = &self.database;
        for file in [file.clone(), beside(file, "-wal"), beside(file, "-shm")] {
            unless_missing(fs::remove_file(file))?;
        }
        log::remove_folder(&self.log)
    }
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Without room beside what there is nothing is begun. All that is good is copied, which is mostly nearly all.
fn check_room(directory: &Path) -> Result<(), OpenError> {
    let records = log::file_bytes(directory)
        .map_err(|source| OpenError::Io { path: log::folder(directory), source })?;
    let needed = records + schema::file_bytes(&schema::database(directory));
    match limits::free_disk(directory) {
        Some(free) if free < needed => {
            Err(OpenError::NoRoom { directory: directory.to_path_buf(), needed, free })
        }
        _ => Ok(()),
    }
}

fn stamp(now: Timestamp) -> String {
    now.to_string().chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Gives the files of the damaged database second names.
fn keep_beside(directory: &Path, now: Timestamp) -> io::Result<Vec<PathBuf>> {
    let (database, stamp) = (schema::database(directory), stamp(now));
    let mut kept = Vec::new();
    for suffix in ["", "-wal"] {
        let file = beside(&database, suffix);
        if fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            let other = beside(&database, &format!("{suffix}.damaged-{stamp}"));
            // Not every file system has second names.
            let linked = fs::hard_link(&file, &other).or_else(|_| fs::copy(&file, &other).map(|_| ()));
            kept.push(other);
            if let Err(error) = linked {
                kept.iter().try_for_each(|other| unless_missing(fs::remove_file(other)))?;
                return Err(error);
            }
        }
    }
    Ok(kept)
}

/// The damaged files have second names by now; the old journal goes before the new database comes, because SQLite would
/// take it for the new one's. A crash in between leaves a spool that is still known as damaged.
fn put_in_place(
    directory: &Path,
    draft: &Draft,
    mut kept: Vec<PathBuf>,
    now: Timestamp,
) -> io::Result<Vec<PathBuf>> {
    let (database, stamp) = (schema::database(directory), stamp(now));
    let folder = File::open(directory)?;
    folder.sync_all()?;
    for suffix in ["-wal", "-shm"] {
        unless_missing(fs::remove_file(beside(&database, suffix)))?;
    }
    let (records, other) = (log::folder(directory), directory.join(format!("records.damaged-{stamp}")));
    match fs::rename(&records, &other) {
        Ok(()) => kept.push(other),
        result => unless_missing(result)?,
    }
    fs::rename(&draft.log, &records)?;
    fs::rename(&draft.database, &database)?;
    folder.sync_all()?;
    Ok(kept)
}

/// Where the new spool goes on.
struct New {
    spool_id: String,
    first_offset: u64,
    next_offset: u64,
    newest: Timestamp,
}

struct Salvage<'a> {
    directory: &'a Path,
    mark: Option<&'a Mark>,
    saved: Vec<(&'static str, u64)>,
    torn: Vec<&'static str>,
}

impl<'a> Salvage<'a> {
    fn write(mut self, draft: &Draft) -> Result<(Salvage<'a>, New), OpenError> {
        let sql = |source| OpenError::Database { path: draft.database.clone(), source };
        let io = |source| OpenError::Io { path: draft.log.clone(), source };
        let mut new = self.new_database(&draft.database).map_err(sql)?;
        let old = schema::open_damaged(self.directory).ok();
        let version = old.as_ref().and_then(|old| schema::version(old, self.directory).ok());
        let old = old.filter(|_| version.is_some_and(|version| version > 0));
        let spool_id = old
            .as_ref()
            .and_then(|old| schema::spool_id(old).ok())
            .or_else(|| self.mark.map(|mark| mark.spool_id.clone()))
            .or_else(|| log::spool_id(self.directory));
        let spool_id = match spool_id {
            Some(spool_id) => spool_id,
            None => schema::spool_id(&new).map_err(sql)?,
        };
        let records = match (&old, version) {
            (Some(old), Some(1 | 2)) => self.rows(old, draft, &spool_id)?,
            // A database that cannot be opened says nothing of its log.
            (old, _) => self.records(old.as_ref().unwrap_or(&new), draft, &spool_id).map_err(io)?,
        };
        if let Some(old) = &old {
            let columns = if version == Some(1) { migrate::LETTERS_OF_VERSION_1 } else { "*" };
            for table in ["cursors", "agents", "sessions"] {
                self.table(old, &new, table, "*").map_err(sql)?;
            }
            self.table(old, &new, "dead_letters", columns).map_err(sql)?;
            // Version 1 could not deliver them again.
            if version != Some(1) {
                self.table(old, &new, "replays", "*").map_err(sql)?;
            }
        }
        let floor = old.as_ref().and_then(|old| schema::sequence_floor(old).ok()).unwrap_or(0);
        finish(&mut new, &spool_id, &records, floor).map_err(sql)?;
        new.close().map_err(|(_, error)| sql(error))?;
        Ok((self, records))
    }

    fn new_database(&self, draft: &Path) -> rusqlite::Result<Connection> {
        use std::os::unix::fs::OpenOptionsExt;
        let private = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(draft);
        private.map_err(schema::of_io)?;
        let mut new = Connection::open(draft)?;
        schema::create(&mut new)?;
        // Synced as a whole when it is done.
        new.pragma_update(None, "synchronous", "OFF")?;
        Ok(new)
    }

    /// Copies the good records of a log into a new one.
    fn records(&mut self, old: &Connection, draft: &Draft, spool_id: &str) -> io::Result<New> {
        let (look, acknowledged) = look_at_log(old, self.directory, self.mark)?;
        let first = look.log.first();
        let mut copied = Copied::create(&draft.log, spool_id, first)?;
        damage::scan(&look.log, |record| {
            let (repeats, before) =
                (reader::encode_repeats(&record.repeats), reader::encode_state(&record.before));
            Ok(copied.take(&reader::stored(record, record.offset, &repeats, &before))?)
        })?;
        self.records_saved(copied, first, acknowledged.max(look.log.end()), spool_id)
    }

    /// Copies the good records of a spool of an earlier release, whose database has them.
    fn rows(&mut self, old: &Connection, draft: &Draft, spool_id: &str) -> Result<New, OpenError> {
        let sql = |source| OpenError::Database { path: schema::database(self.directory), source };
        let io = |source| OpenError::Io { path: draft.log.clone(), source };
        let next = migrate::next_offset(old).unwrap_or(1);
        let end = next.max(self.mark.map_or(1, |mark| mark.next_offset));
        let first = migrate::first_offset(old).ok().flatten().unwrap_or(end);
        let mut copied = Copied::create(&draft.log, spool_id, first).map_err(|error| io(error.into()))?;
        match migrate::copy(old, &mut |stored| copied.take(stored), &mut |_| ()) {
            Err(error) if damage::is_damage(&error) => self.torn.push("records"),
            written => written.map_err(sql)?.map_err(|error| io(error.into()))?,
        }
        self.records_saved(copied, first, end, spool_id).map_err(io)
    }

    /// Offsets are never used twice: the new log goes on at `end`, or behind what was copied.
    fn records_saved(&mut self, mut copied: Copied, first: u64, end: u64, spool_id: &str) -> io::Result<New> {
        let next_offset = copied.next.max(end);
        copied.end_at(next_offset)?;
        self.saved.push(("records", copied.records));
        let newest = copied.newest.max(self.mark.map(|mark| mark.newest)).unwrap_or_default();
        Ok(New { spool_id: spool_id.to_owned(), first_offset: first, next_offset, newest })
    }

    /// Copies the rows of a table up to the first that cannot be read, and from the other end.
    fn table(
        &mut self,
        old: &Connection,
        new: &Connection,
        table: &'static str,
        columns: &str,
    ) -> rusqlite::Result<()> {
        let before: u64 = new.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        new.execute_batch("BEGIN")?;
        let copied = copy(old, new, table, columns, "");
        if let Err(error) = &copied
            && damage::is_damage(error)
        {
            self.torn.push(table);
            let key = match table {
                "cursors" => "sink",
                "agents" | "sessions" => "gateway DESC, agent_id",
                "dead_letters" => "id",
                _ => "number",
            };
            match copy(old, new, table, columns, &format!("ORDER BY {key} DESC")) {
                Err(error) if !damage::is_damage(&error) => return Err(error),
                _ => {}
            }
        } else {
            copied?;
        }
        new.execute_batch("COMMIT")?;
        let after: u64 = new.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        self.saved.push((table, after - before));
        Ok(())
    }
}

/// Writes where the new spool goes on. What the records say of agents is read again from the oldest one on.
fn finish(new: &mut Connection, spool_id: &str, records: &New, sequence_floor: u64) -> rusqlite::Result<()> {
    new.execute("UPDATE meta SET value = ?1 WHERE key = 'spool_id'", [spool_id])?;
    if sequence_floor > 0 {
        new.execute("INSERT INTO meta VALUES (?1, ?2)", params![schema::SEQUENCE_FLOOR, sequence_floor])?;
    }
    for (key, value) in [("first_offset", records.first_offset), ("next_offset", records.next_offset)] {
        new.execute("UPDATE meta SET value = ?2 WHERE key = ?1", params![key, value])?;
    }
    new.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Rows copied with one transaction: the journal stays small beside what they take.
const ROWS: usize = 512;

fn copy(old: &Connection, new: &Connection, table: &str, columns: &str, order: &str) -> rusqlite::Result<()> {
    let mut rows = old.prepare(&format!("SELECT {columns} FROM {table} {order}"))?;
    let names = rows.column_names().collect::<Vec<_>>().join(", ");
    let count = rows.column_count();
    let places = vec!["?"; count].join(", ");
    let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})"))?;
    let (mut rows, mut copied) = (rows.query(params![])?, 0);
    while let Some(row) = rows.next()? {
        let values = (0..count).map(|column| row.get::<_, Value>(column));
        insert.execute(params_from_iter(values.collect::<rusqlite::Result<Vec<_>>>()?))?;
        copied += 1;
        if copied % ROWS == 0 {
            new.execute_batch("COMMIT; BEGIN")?;
        }
    }
    Ok(())
}
