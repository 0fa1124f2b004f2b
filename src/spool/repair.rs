//! Looking at all of a spool for damage, and saving what can be read of a damaged one. What is saved goes into a new
//! database; the damaged files are kept beside it under other names. Nothing is deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::damage::{self, Damage, Findings};
use super::mark::{self, Mark, MarkFile};
use super::schema::{self, OpenError};
use crate::clock::Timestamp;

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
    schema::version(&connection, directory)?;
    findings.extend(damage::of_database(&connection, directory, mark, true).map_err(sql)?);
    let known = damage::next_offset(&connection).ok();
    let until = known.max(mark.map(|mark| mark.next_offset).filter(|_| known.is_none()));
    let mut good_records = 0;
    let scanned = damage::scan(&connection, until.unwrap_or(0), |_| {
        good_records += 1;
        Ok(())
    });
    match scanned {
        Ok(more) => findings.extend(more),
        Err(error) if damage::is_damage(&error) => {
            findings.push(Damage::Unreadable { detail: error.to_string() });
        }
        Err(error) => return Err(sql(error)),
    }
    Ok(good_records)
}

/// Saves what can be read of a damaged spool in a new database, which takes its place.
///
/// # Errors
/// When a daemon has the spool, or the new database cannot be written; then nothing was changed.
pub fn repair(directory: &Path, now: Timestamp) -> Result<Repaired, OpenError> {
    fs::metadata(directory).map_err(|source| OpenError::Io { path: directory.to_path_buf(), source })?;
    let _lock = schema::lock(directory)?;
    let mark = mark::read(directory);
    let draft = directory.join("spool.db.draft");
    let io = |source| OpenError::Io { path: draft.clone(), source };
    remove(&draft).map_err(io)?;
    let salvage = Salvage { directory, mark: mark.as_ref(), saved: Vec::new(), torn: Vec::new() };
    let (Salvage { saved, torn, .. }, new) =
        salvage.write(&draft).map_err(|source| OpenError::Database { path: draft.clone(), source })?;
    File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
    let kept = put_in_place(directory, &draft, now).map_err(io)?;
    MarkFile::create(directory, &new.spool_id, new.next_offset, new.newest)
        .map_err(|source| OpenError::Io { path: mark::path(directory), source })?;
    Ok(Repaired { saved, torn, kept })
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a draft that an earlier repair has left half done.
fn remove(draft: &Path) -> io::Result<()> {
    for file in [draft.to_path_buf(), beside(draft, "-wal"), beside(draft, "-shm")] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The damaged files get second names first; the old journal goes before the new database comes, because SQLite would
/// take it for the new one's. A crash in between leaves a spool that is still known as damaged.
fn put_in_place(directory: &Path, draft: &Path, now: Timestamp) -> io::Result<Vec<PathBuf>> {
    let database = schema::database(directory);
    let stamp: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut kept = Vec::new();
    for suffix in ["", "-wal"] {
        let file = beside(&database, suffix);
        if fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            let other = beside(&database, &format!("{suffix}.damaged-{stamp}"));
            // Not every file system has second names.
            fs::hard_link(&file, &other).or_else(|_| fs::copy(&file, &other).map(|_| ()))?;
            kept.push(other);
        }
    }
    let folder = File::open(directory)?;
    folder.sync_all()?;
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(&database, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(draft, &database)?;
    folder.sync_all()?;
    Ok(kept)
}

/// Where the new spool goes on.
struct New {
    spool_id: String,
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
    fn write(mut self, draft: &Path) -> rusqlite::Result<(Salvage<'a>, New)> {
        use std::os::unix::fs::OpenOptionsExt;
        let private = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(draft);
        private.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let mut new = Connection::open(draft)?;
        schema::create(&mut new)?;
        // Synced as a whole when it is done.
        new.pragma_update(None, "synchronous", "OFF")?;
        let old = schema::open_damaged(self.directory)
            .ok()
            .filter(|old| schema::version(old, self.directory).is_ok_and(|version| version > 0));
        let mut newest = self.mark.map_or(Timestamp::default(), |mark| mark.newest);
        let mut next_offset = self.mark.map_or(1, |mark| mark.next_offset);
        if let Some(old) = &old {
            next_offset = next_offset.max(damage::next_offset(old).unwrap_or(1));
            let last = self.records(old, &new, next_offset)?;
            next_offset = next_offset.max(last.map_or(1, |(offset, _)| offset + 1));
            newest = newest.max(last.map_or(newest, |(_, at)| at));
            for table in ["cursors", "agents", "sessions", "dead_letters", "replays"] {
                self.table(old, &new, table)?;
            }
        }
        let spool_id = old
            .and_then(|old| schema::spool_id(&old).ok())
            .or_else(|| self.mark.map(|mark| mark.spool_id.clone()));
        if let Some(id) = spool_id {
            new.execute("UPDATE meta SET value = ?1 WHERE key = 'spool_id'", [id])?;
        }
        // Offsets are never used twice. What the records say of agents is read again from the oldest one on.
        new.execute("UPDATE meta SET value = ?1 WHERE key = 'next_offset'", [next_offset])?;
        let spool_id = schema::spool_id(&new)?;
        new.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        new.close().map_err(|(_, error)| error)?;
        Ok((self, New { spool_id, next_offset, newest }))
    }

    /// Copies the good records. Gives position and time of the last one.
    fn records(
        &mut self,
        old: &Connection,
        new: &Connection,
        until: u64,
    ) -> rusqlite::Result<Option<(u64, Timestamp)>> {
        let mut row = old.prepare("SELECT * FROM records WHERE spool_offset = ?1")?;
        let mut insert = new.prepare("INSERT INTO records VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")?;
        let (mut saved, mut last) = (0, None);
        new.execute_batch("BEGIN")?;
        let scanned = damage::scan(old, until, |record| {
            let values = row.query_row([record.offset], |row| {
                (0..10).map(|column| row.get::<_, Value>(column)).collect::<rusqlite::Result<Vec<_>>>()
            })?;
            insert.execute(params_from_iter(values))?;
            saved += 1;
            last = Some((record.offset, record.received_at));
            Ok(())
        });
        new.execute_batch("COMMIT")?;
        match scanned {
            Err(error) if damage::is_damage(&error) => self.torn.push("records"),
            result => drop(result?),
        }
        self.saved.push(("records", saved));
        Ok(last)
    }

    /// Copies the rows of a table up to the first that cannot be read, and from the other end.
    fn table(&mut self, old: &Connection, new: &Connection, table: &'static str) -> rusqlite::Result<()> {
        let before: u64 = new.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        new.execute_batch("BEGIN")?;
        let copied = copy(old, new, table, "");
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
            match copy(old, new, table, &format!("ORDER BY {key} DESC")) {
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

fn copy(old: &Connection, new: &Connection, table: &str, order: &str) -> rusqlite::Result<()> {
    let mut rows = old.prepare(&format!("SELECT * FROM {table} {order}"))?;
    let names = rows.column_names().collect::<Vec<_>>().join(", ");
    let count = rows.column_count();
    let places = vec!["?"; count].join(", ");
    let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})"))?;
    let mut rows = rows.query(params![])?;
    while let Some(row) = rows.next()? {
        let values = (0..count).map(|column| row.get::<_, Value>(column));
        insert.execute(params_from_iter(values.collect::<rusqlite::Result<Vec<_>>>()?))?;
    }
    Ok(())
}
