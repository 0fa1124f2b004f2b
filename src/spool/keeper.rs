//! The thread that has the database: cursors, agents' rows, sessions and dead letters, whatever of them waits in one
//! transaction. It also frees records. Nobody who pushes waits for it. Beside it a thread gives the beat and prepares the log's
//! files.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rusqlite::{Connection, params};
use tokio::sync::mpsc;

use super::agents::{AgentBook, AgentRow};
use super::dead_letters::{self, Change, LetterFilter, Replayed, Sweep};
use super::limits;
use super::log::{Item, Log, LogReader};
use super::reader;
use super::removed::Removed;
use super::reserve::{self, Reserve};
use super::schema::{self, ChangeError};
use super::writer::{self, Committed, Measured, Reply, Signals, Waiting, tell};
use super::{AgentKey, AppendError, DeadLetter, ReadRecord, SinkState, SpoolConfig, TICK};
use crate::calm::Calm;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

mod held;

use held::Held;

/// Commands in one transaction at most.
const BATCH: usize = 1024;
/// Free pages given back to the file system with one beat.
const VACUUM_PAGES: u32 = 1024;

/// What the keeper is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Set an event aside. The answer says whether it was not before.
    DeadLetter { letter: DeadLetter, reply: Reply<bool> },
    /// Deliver dead letters again.
    ReplayLetters { which: LetterFilter, reply: Reply<u64> },
    /// Give dead letters up.
    DiscardLetters { which: LetterFilter, reply: Reply<u64> },
    /// Store what became of a letter that was delivered again.
    SettleReplay { letter: u64, outcome: Replayed, reply: Reply<()> },
    /// Store or forget a session.
    SaveSession { agent: AgentKey, stored: Option<Vec<u8>>, reply: Reply<()> },
    /// Store rows of agents.
    Rows(Rows),
    /// Give up what sinks have not got that are not configured any more, but for these.
    ForgetRemoved { keep: BTreeSet<String>, reply: Reply<()> },
    /// Answer when all that was asked before is done.
    Pulse { reply: Reply<()> },
    /// The beat.
    Tick,
    /// The log has failed: refuse everything and end.
    Failed,
    /// Write what waits and end.
    Close,
}

/// Agents' rows to be stored.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) rows: Vec<(AgentKey, AgentRow)>,
    /// With the last ones of a round: with them the rows hold everything below this offset.
    pub(super) as_of: Option<u64>,
}

/// Gives the beat until the keeper is gone, and prepares the log's files in between.
pub(super) fn beat(keeper: &mpsc::Sender<Command>, log: &Log) {
    let calm = Calm::default();
    log.is_tended_here();
    let mut last = Instant::now();
    loop {
        // The writer wakes this when it has taken the file that was prepared.
        std::thread::park_timeout(TICK.saturating_sub(last.elapsed()));
        if last.elapsed() >= TICK {
            last = Instant::now();
            if let Err(mpsc::error::TrySendError::Closed(_)) = keeper.try_send(Command::Tick) {
                return;
            }
        }
        if let Err(error) = log.tend()
            && let Some(left_out) = calm.due("tend")
        {
            // The writer makes a file when it needs one and there is none.
            tracing::warn!(%error, left_out, "the next file of the spool cannot be prepared");
        }
    }
}

/// Owns the connection that changes the database.
pub(super) struct Keeper {
    pub(super) connection: Connection,
    /// Keeps other processes out for as long as this thread lives.
    pub(super) _lock: std::fs::File,
    pub(super) log: Log,
    pub(super) reserve: Reserve,
    pub(super) calm: Calm,
    /// Reads records that are copied into dead letters, and the oldest one.
    pub(super) reader: LogReader,
    /// Agents' rows that are still to be stored, also where the disk had no room for them.
    pub(super) rows: BTreeMap<AgentKey, AgentRow>,
    /// With them rows hold everything below this offset.
    pub(super) rows_as_of: Option<u64>,
    /// The oldest record that some sink needs, and when it came, where it can be read.
    pub(super) oldest: Option<(u64, Option<Timestamp>)>,
    /// Stored agents' rows hold everything below this offset.
    pub(super) agents_as_of: u64,
    /// Cursors as stored, in the order of `sinks`.
    pub(super) stored_cursors: Vec<u64>,
    /// Records below are freed, as stored.
    pub(super) stored_first: u64,
    /// Bytes of dead letters, as of the last beat plus what was added since.
    pub(super) letter_bytes: u64,
    /// Dead letters came or went since they were last counted.
    pub(super) letters_changed: bool,
    /// Sinks that are not configured any more and are not given up yet.
    pub(super) removed: Removed,
    /// Sinks that are not configured any more and had letters at the start.
    pub(super) former_sinks: Vec<String>,
    /// Changes of many letters that are under way.
    pub(super) sweeps: VecDeque<(Sweep, Reply<u64>)>,
    /// The last transaction met a full disk.
    pub(super) disk_full: bool,
    pub(super) writer: mpsc::Sender<writer::Command>,
    pub(super) signals: Signals,
    pub(super) config: Arc<SpoolConfig>,
    pub(super) sinks: Arc<[SinkState]>,
    pub(super) path: PathBuf,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

impl Keeper {
    /// Measures for the first time.
    pub(super) fn begin(&mut self) -> rusqlite::Result<Measured> {
        for held in dead_letters::held(&self.connection)? {
            if self.sinks.iter().all(|sink| sink.name != held.sink) {
                tracing::warn!(
                    sink = held.sink,
                    dead_letters = held.letters,
                    bytes = held.bytes,
                    "there are dead letters of a sink that is not configured any more: they count against spool.max_dead_letter_bytes until they are discarded"
                );
                self.former_sinks.push(held.sink);
            }
        }
        self.count_letters()?;
        self.set_gauges();
        let measured = measured(&self.connection, self.letter_bytes, &self.config)?;
        // Before records take it.
        self.keep_room(measured.free_disk);
        Ok(measured)
    }

    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        loop {
            // A sweep goes on between commands.
            let sweeping = !self.sweeps.is_empty();
            let first = if sweeping { commands.try_recv().ok() } else { commands.blocking_recv() };
            if first.is_none() && !sweeping {
                break;
            }
            batch.extend(first);
            while !batch.is_empty() && batch.len() < BATCH {
                let Ok(next) = commands.try_recv() else { break };
                batch.push(next);
            }
            let tick = batch.iter().any(|command| matches!(command, Command::Tick));
            let closing = batch.iter().any(|command| matches!(command, Command::Close));
            if batch.iter().any(|command| matches!(command, Command::Failed)) {
                return refuse_all(batch, &mut commands);
            }
            let mut done = Ok(());
            if !batch.is_empty() {
                done = self
                    .commit(&mut batch, tick || closing)
                    .and_then(|()| if tick { self.beat().map_err(|e| self.fault(e)) } else { Ok(()) });
            }
            if !closing && !matches!(done, Err(ChangeError::Failed(_))) {
                done = self.sweep().and(done);
            }
            // Nothing of a beat is owed to anybody: it is made up for when there is space.
            if matches!(done, Err(ChangeError::Full(_))) {
                self.disk_is_full();
                // Records are freed by what is stored here, so this goes before those that are still to come.
                let given = self.log.give_spare_back().and_then(|_| self.reserve.give());
                if let Err(error) = given {
                    tracing::warn!(%error, "room that is kept for the database cannot be given back to the disk");
                }
                // What could not be stored has taken the rest of the disk for the journal: it is wanted for records.
                let emptied = schema::empty_journal(&self.connection, &self.path);
                done = emptied.map_err(|error| self.fault(error));
            }
            if let Err(ChangeError::Failed(error)) = done {
                return self.fail(&error, batch, &mut commands);
            }
            if closing {
                break;
            }
        }
        self.close(&mut commands);
    }

    /// One transaction for everything that waits; answers go out after its fsync.
    fn commit(&mut self, batch: &mut Vec<Command>, cursors: bool) -> Result<(), ChangeError> {
        let mut held = Held::default();
        let (as_of, letter_bytes) = (self.agents_as_of, self.letter_bytes);
        let stored = (self.stored_cursors.clone(), self.stored_first);
        let mut result = self.connection.execute_batch("BEGIN IMMEDIATE");
        for command in batch.drain(..) {
            let done = match command {
                Command::Rows(Rows { rows, as_of }) => {
                    self.rows.extend(rows);
                    self.rows_as_of = as_of.or(self.rows_as_of);
                    Ok(())
                }
                command if result.is_ok() => self.stage(command, &mut held),
                command => {
                    held.hold(command);
                    Ok(())
                }
            };
            result = result.and(done);
        }
        if result.is_ok() {
            result = self
                .store_rows()
                .and_then(|()| if cursors { self.store_cursors() } else { Ok(()) })
                .and_then(|()| self.connection.execute_batch("COMMIT"));
        }
        let Err(error) = result else {
            self.disk_full = false;
            self.rows.clear();
            self.rows_as_of = None;
            self.has_forgotten(&held.forgotten);
            held.answer();
            return Ok(());
        };
        (self.agents_as_of, self.letter_bytes) = (as_of, letter_bytes);
        (self.stored_cursors, self.stored_first) = stored;
        let (error, verdict) = self.roll_back(error);
        held.refuse(verdict);
        Err(error)
    }

    /// Ends a transaction that has failed. Gives what that means, and what those who wait for it are told.
    fn roll_back(&self, error: rusqlite::Error) -> (ChangeError, AppendError) {
        if !self.connection.is_autocommit()
            // A roll-back needs no disk. Should it fail all the same, the next BEGIN does, and that ends the daemon.
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction of the spool could not be rolled back");
        }
        let error = self.fault(error);
        let (reason, verdict) = match &error {
            ChangeError::Full(_) => ("full", AppendError::Full),
            ChangeError::Failed(_) => ("failed", AppendError::Failed),
        };
        self.metrics.spool_failures.with_label_values(&[reason]).inc();
        (error, verdict)
    }

    /// Goes on with a sweep, by a piece. Who asked for it is answered after the last one.
    fn sweep(&mut self) -> Result<(), ChangeError> {
        let Some((mut sweep, reply)) = self.sweeps.pop_front() else { return Ok(()) };
        self.letters_changed = true;
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        let over = begun
            .and_then(|()| sweep.step(&self.connection))
            .and_then(|over| self.connection.execute_batch("COMMIT").map(|()| over));
        let over = match over.map_err(|error| self.roll_back(error)) {
            Ok(over) => over,
            Err((error, verdict)) => {
                tell(reply, Err(verdict));
                return Err(error);
            }
        };
        if sweep.is_replay() {
            self.note_replays().map_err(|error| self.fault(error))?;
        }
        if over {
            tell(reply, Ok(sweep.changed()));
        } else {
            self.sweeps.push_back((sweep, reply));
        }
        Ok(())
    }

    fn fault(&self, error: rusqlite::Error) -> ChangeError {
        ChangeError::of(error, &self.config.directory)
    }

    fn stage(&mut self, command: Command, held: &mut Held) -> rusqlite::Result<()> {
        match command {
            Command::DeadLetter { letter, reply } => {
                // One that is there already, from before its sink went back to its cursor, takes no more room.
                if self.letter_bytes >= self.config.limits.max_dead_letter_bytes
                    && !dead_letters::is_there(&self.connection, &letter)?
                {
                    held.letters.push((reply, Err(AppendError::Full)));
                    return Ok(());
                }
                match self.insert_dead_letter(&letter) {
                    // Not SQLite's own word: the letter cannot be stored, which is no fault of the database.
                    Err(error) if error.sqlite_error().is_none() => {
                        tracing::error!(sink = %letter.sink, spool_offset = letter.spool_offset, %error, "a dead letter cannot be stored");
                        held.letters.push((reply, Err(AppendError::Full)));
                        Ok(())
                    }
                    inserted => {
                        held.letters.push((reply, Ok(*inserted.as_ref().unwrap_or(&false))));
                        inserted.map(|_| ())
                    }
                }
            }
            Command::ReplayLetters { which, reply } => {
                let sinks = self.sinks.iter().map(|sink| sink.name.clone()).collect();
                self.sweeps.push_back((Sweep::new(Change::Replay { sinks }, which), reply));
                Ok(())
            }
            Command::DiscardLetters { which, reply } => {
                self.sweeps.push_back((Sweep::new(Change::Discard, which), reply));
                Ok(())
            }
            Command::SettleReplay { letter, outcome, reply } => {
                held.others.push(reply);
                self.letters_changed = true;
                dead_letters::settle(&self.connection, letter, &outcome)
            }
            Command::SaveSession { agent, stored, reply } => {
                held.others.push(reply);
                self.save_session(&agent, stored.as_deref())
            }
            Command::ForgetRemoved { keep, reply } => {
                held.others.push(reply);
                let names = self.removed.all().into_iter().map(|(sink, _)| sink);
                let from = held.forgotten.len();
                held.forgotten.extend(names.filter(|sink| !keep.contains(sink)));
                let forgotten = &held.forgotten[from..];
                forgotten.iter().try_for_each(|sink| schema::forget_sink(&self.connection, sink))
            }
            Command::Pulse { reply } => {
                held.others.push(reply);
                Ok(())
            }
            Command::Rows(_) | Command::Tick | Command::Failed | Command::Close => Ok(()),
        }
    }

    /// Gives whether the letter is a new one.
    fn insert_dead_letter(&mut self, letter: &DeadLetter) -> rusqlite::Result<bool> {
        let offset = letter.spool_offset;
        let item = self.reader.read(offset, 1, 1).map_err(schema::of_io)?.pop();
        let item = item.filter(|item| item.offset() == offset);
        let (repeats, before);
        let copy = match &item {
            Some(Item::Good(record)) => {
                (repeats, before) =
                    (reader::encode_repeats(&record.repeats), reader::encode_state(&record.before));
                Some((reader::stored(record, offset, &repeats, &before), true))
            }
            Some(Item::Damaged { found, .. }) => {
                found.as_ref().and_then(|found| Some((found.stored()?, found.intact)))
            }
            None => None,
        };
        self.letters_changed = true;
        let bytes = match copy {
            Some(copy) => dead_letters::insert(&self.connection, letter, Some(copy))?,
            None => dead_letters::insert_beside(&self.connection, letter)?,
        };
        self.letter_bytes += bytes.unwrap_or(0);
        Ok(bytes.is_some())
    }

    fn save_session(&self, agent: &AgentKey, stored: Option<&[u8]>) -> rusqlite::Result<()> {
        let (gateway, agent_id) = (agent.gateway.as_str(), agent.agent_id.as_str());
        match stored {
            Some(bytes) => self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3)")?
                .execute(params![gateway, agent_id, bytes]),
            None => self
                .connection
                .prepare_cached("DELETE FROM sessions WHERE gateway = ?1 AND agent_id = ?2")?
                .execute(params![gateway, agent_id]),
        }
        .map(|_| ())
    }

    fn store_rows(&mut self) -> rusqlite::Result<()> {
        let mut statement =
            self.connection.prepare_cached("INSERT OR REPLACE INTO agents VALUES (?1, ?2, ?3)")?;
        for (agent, row) in &self.rows {
            let row = serde_json::to_vec(row)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            statement.execute(params![agent.gateway.as_str(), agent.agent_id.as_str(), row])?;
        }
        drop(statement);
        if let Some(as_of) = self.rows_as_of {
            self.set_meta("agents_as_of", as_of)?;
            self.set_meta("next_offset", self.log.end())?;
            self.agents_as_of = as_of;
        }
        Ok(())
    }

    fn set_meta(&self, key: &str, value: u64) -> rusqlite::Result<()> {
        let mut meta = self.connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
        meta.execute(params![key, value]).map(|_| ())
    }

    fn store_cursors(&mut self) -> rusqlite::Result<()> {
        for (at, sink) in self.sinks.iter().enumerate() {
            let now = sink.cursor();
            if self.stored_cursors[at] < now {
                self.connection
                    .prepare_cached("UPDATE cursors SET next_offset = ?2 WHERE sink = ?1")?
                    .execute(params![sink.name, now])?;
                self.stored_cursors[at] = now;
            }
        }
        let first = self.free_below();
        if first > self.stored_first {
            self.set_meta("first_offset", first)?;
            self.stored_first = first;
        }
        Ok(())
    }

    /// Everything below is confirmed by every sink, in stored cursors, and told in stored agents' rows.
    fn free_below(&self) -> u64 {
        let needed = self.stored_cursors.iter().copied().chain(self.removed.needed()).min();
        needed.unwrap_or(u64::MAX).min(self.agents_as_of)
    }

    /// The cursors of these removed sinks are gone: with the next beat so is what only they needed.
    fn has_forgotten(&self, names: &[String]) {
        for (sink, at) in self.removed.take(names) {
            let records = self.log.end().saturating_sub(at);
            tracing::warn!(%sink, records, "a sink was removed from the configuration; what it had not got is given up for it");
        }
    }

    /// Workers are to look for dead letters that are to be delivered again.
    fn note_replays(&self) -> rusqlite::Result<()> {
        for sink in self.sinks.iter() {
            let newest = dead_letters::replay_to(&self.connection, &sink.name)?;
            sink.replay_to.fetch_max(newest, Ordering::AcqRel);
        }
        // Without a runtime there is nobody left who looks.
        let committed = Committed { waiting: Waiting::default(), end: Some(self.log.end()), round: None };
        drop(self.signals.answers.blocking_send(committed));
        Ok(())
    }

    /// After a beat's transaction: free what nobody needs, give space back, set the gauges.
    fn beat(&mut self) -> rusqlite::Result<()> {
        self.log.free_below(self.stored_first);
        // First, as the rest may find no room.
        let measured = self.measure()?;
        let free: u64 = self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        let pages: u64 = self.connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        if free > u64::from(VACUUM_PAGES) && free > pages / 4 {
            let mut vacuum =
                self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        if reserve::is_short(measured.free_disk) {
            // A journal that begins at its front again takes no more of the disk. By itself it would do so only with a thousand
            // pages, and what it has by then may be all that records have left free.
            return schema::empty_journal(&self.connection, &self.path);
        }
        schema::shrink_journal(&self.connection, &self.path)
    }

    fn measure(&mut self) -> rusqlite::Result<Measured> {
        if self.letters_changed {
            self.count_letters()?;
        }
        let measured = measured(&self.connection, self.letter_bytes, &self.config)?;
        self.keep_room(measured.free_disk);
        // When the writer has much to do it gets the next one.
        drop(self.writer.try_send(writer::Command::Tick(measured)));
        self.set_gauges();
        Ok(measured)
    }

    fn keep_room(&mut self, free_disk: Option<u64>) {
        if let Err(error) = self.reserve.take(free_disk)
            && let Some(left_out) = self.calm.due("reserve")
        {
            tracing::warn!(%error, left_out, "no room can be kept on the disk for the spool's database");
        }
    }

    fn set_gauges(&mut self) {
        let end = self.log.end();
        let oldest = self.sinks.iter().map(SinkState::cursor).min().unwrap_or(end);
        self.metrics.spool_bytes.set(signed(schema::file_bytes(&self.path) + self.log.file_bytes()));
        self.metrics.spool_records.set(signed(end.saturating_sub(oldest)));
        let age = self.age_of(oldest);
        self.metrics.spool_oldest_age.set(age);
        for sink in self.sinks.iter() {
            let lag = end.saturating_sub(sink.cursor());
            self.metrics.sink_lag_records.with_label_values(&[&sink.name]).set(signed(lag));
        }
    }

    fn age_of(&mut self, offset: u64) -> f64 {
        if self.oldest.is_none_or(|(known, _)| known != offset) {
            let read = self.reader.read(offset, 1, 1).map(|mut items| items.pop().map(ReadRecord::from));
            self.oldest = match read {
                Ok(Some(ReadRecord::Good(record))) => Some((offset, Some(record.received_at))),
                // Not read again with every beat: a disk that fails takes its time.
                Ok(Some(ReadRecord::Damaged { .. })) => Some((offset, None)),
                _ => None,
            };
        }
        self.oldest.and_then(|(_, at)| at).map_or(0.0, |at| self.clock.now().since(at).as_secs_f64())
    }

    fn count_letters(&mut self) -> rusqlite::Result<()> {
        let held = dead_letters::held(&self.connection)?;
        self.letter_bytes = held.iter().map(|held| held.bytes).sum();
        for sink in self.sinks.iter().map(|sink| &sink.name).chain(&self.former_sinks) {
            let held = held.iter().find(|held| held.sink == *sink);
            let (letters, bytes) = held.map_or((0, 0), |held| (held.letters, held.bytes));
            self.metrics.dead_letters.with_label_values(&[sink]).set(signed(letters));
            self.metrics.dead_letter_bytes.with_label_values(&[sink]).set(signed(bytes));
        }
        self.letters_changed = false;
        Ok(())
    }

    fn disk_is_full(&mut self) {
        if !self.disk_full {
            self.disk_full = true;
            tracing::error!(path = %self.path.display(), "the disk of the spool is full: sessions and dead letters cannot be stored until there is space");
        }
    }

    /// The disk failed: say so once, refuse everything that waits or comes, and end the writer.
    fn fail(self, error: &rusqlite::Error, batch: Vec<Command>, commands: &mut mpsc::Receiver<Command>) {
        tracing::error!(path = %self.path.display(), %error, "the spool's database has failed");
        self.signals.failure.send_replace(Some(error.to_string()));
        drop(self.writer.blocking_send(writer::Command::Failed(error.to_string())));
        refuse_all(batch, commands);
    }

    fn close(mut self, commands: &mut mpsc::Receiver<Command>) {
        commands.close();
        let mut rest = Vec::new();
        while let Some(command) = commands.blocking_recv() {
            rest.push(command);
        }
        let closed = self.commit(&mut rest, true);
        self.sweeps.drain(..).for_each(|(_, reply)| tell(reply, Err(AppendError::Closed)));
        let closed = closed.and_then(|()| {
            let truncated = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            // The index beside the journal stays: on a full disk the next start could not make it anew.
            let kept = truncated.and_then(|()| schema::leave_as_it_is(&self.connection, true));
            kept.map_err(|error| self.fault(error))
        });
        match closed {
            Ok(()) => tracing::info!(path = %self.path.display(), "spool closed"),
            // What is stored is stored; the next start makes up for the checkpoint.
            Err(ChangeError::Full(error)) => {
                tracing::warn!(path = %self.path.display(), %error, "spool closed on a full disk");
            }
            Err(ChangeError::Failed(error)) => {
                tracing::error!(path = %self.path.display(), %error, "the spool could not be closed cleanly");
                self.signals.failure.send_replace(Some(error.to_string()));
            }
        }
    }
}

/// What the database and the disk have in use.
fn measured(connection: &Connection, letter_bytes: u64, config: &SpoolConfig) -> rusqlite::Result<Measured> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let live = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
    Ok(Measured {
        database_bytes: live.saturating_sub(letter_bytes),
        free_disk: limits::free_disk(&config.directory),
    })
}

fn refuse_all(batch: Vec<Command>, commands: &mut mpsc::Receiver<Command>) {
    commands.close();
    let mut held = Held::default();
    let rest = std::iter::from_fn(|| commands.blocking_recv());
    for command in batch.into_iter().chain(rest) {
        held.hold(command);
    }
    held.refuse(AppendError::Failed);
}

/// Gauges are signed; ours never reach the sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The agents as their stored rows say.
pub(super) fn stored_book(connection: &Connection) -> rusqlite::Result<AgentBook> {
    let mut book = AgentBook::new(schema::sequence_floor(connection)?);
    stored_rows(connection)?.into_iter().for_each(|(agent, row)| book.insert(agent, row));
    Ok(book)
}

/// Rows of agents as they are stored.
pub(super) fn stored_rows(connection: &Connection) -> rusqlite::Result<HashMap<AgentKey, AgentRow>> {
    let mut statement = connection.prepare("SELECT gateway, agent_id, row FROM agents")?;
    let mut rows = statement.query([])?;
    let mut found = HashMap::new();
    while let Some(row) = rows.next()? {
        let (gateway, agent_id): (String, String) = (row.get(0)?, row.get(1)?);
        let decoded = serde_json::from_slice::<AgentRow>(row.get_ref(2)?.as_blob()?);
        match (super::reader::agent_key(&gateway, &agent_id), decoded) {
            (Some(agent), Ok(row)) => drop(found.insert(agent, row)),
            (_, Err(error)) => {
                tracing::error!(%gateway, %agent_id, %error, "what the spool knew of an agent is unreadable; its state and sequence begin anew")
            }
            (None, Ok(_)) => {
                tracing::error!(%gateway, %agent_id, "the spool has an agent that cannot be one")
            }
        }
    }
    Ok(found)
}
