//! The one thread that writes, and the keeper thread that checkpoints and gives the beat.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::agents::{AgentBook, AgentRow, Batch, NewEvent, Placement, Rules, Tally};
use super::dead_letters::{self, LetterFilter, Replayed};
use super::limits::{self, Gauge, Mark, Notice};
use super::mark::{self, MarkFile};
use super::reader::{self, Checked};
use super::schema::{self, OpenError, Opened};
use super::shed::{self, Shed};
use super::watching::Tap;
use super::{
    AgentKey, AppendError, Appended, DeadLetter, NewRecord, Record, SinkState, SpoolConfig, SpoolThreads,
    TICK, WhenFull,
};
use crate::calm::Calm;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;

/// Records in one commit at most: bounds what one fsync can hold up.
const BATCH_RECORDS: usize = 1024;
/// Bytes in one commit at most.
const BATCH_BYTES: usize = 1 << 20;
/// Freed records deleted with one commit at most: spreads the work of an outage's end.
const TRIM_RECORDS: u64 = 4096;
/// Agents' rows stored with one commit that somebody waits for: all at once they would hold up every push for tens of
/// milliseconds with each beat.
const AGENT_ROWS: usize = 64;
/// How often a round of agents' rows begins while pushes come: what came since is read again at the next start.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// A journal of more frames, a page of 4 KiB each, is checkpointed to its end by the writer itself, so that it is begun anew:
/// while pushes keep coming the keeper's checkpoints never get there. Up to what is kept its length says nothing of that.
const JOURNAL_FRAMES: u64 = (32 << 20) / 4096;
/// Free pages given back to the file system with one beat.
const VACUUM_PAGES: u32 = 1024;

type Reply<T> = oneshot::Sender<Result<T, AppendError>>;

/// What the writer is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Store a record; its events, where it has an envelope that can be read.
    Append { record: NewRecord, events: Option<Vec<NewEvent>>, reply: Reply<Appended> },
    /// Set an event aside.
    DeadLetter { letter: DeadLetter, reply: Reply<()> },
    /// Deliver dead letters again.
    ReplayLetters { which: LetterFilter, reply: Reply<u64> },
    /// Give dead letters up.
    DiscardLetters { which: LetterFilter, reply: Reply<u64> },
    /// Store what became of a letter that was delivered again.
    SettleReplay { letter: u64, outcome: Replayed, reply: Reply<()> },
    /// Store or forget a session.
    SaveSession { agent: AgentKey, stored: Option<Vec<u8>>, reply: Reply<()> },
    /// Answer when all that was asked before is done.
    Pulse { reply: Reply<()> },
    /// The keeper's beat, with the frames that the journal has.
    Tick { frames: u64 },
    /// The keeper met a fault of the disk, which ends the spool.
    CheckpointFailed(rusqlite::Error),
    /// Write what waits and end.
    Close,
}

/// What the writer tells the world.
#[derive(Debug)]
pub(super) struct Signals {
    /// Commits whose appends are to be answered.
    pub(super) answers: mpsc::Sender<Committed>,
    /// Why the disk failed.
    pub(super) failure: watch::Sender<Option<String>>,
}

#[expect(clippy::too_many_arguments, reason = "wiring, called once")]
pub(super) fn start(
    opened: Opened,
    commands: mpsc::Receiver<Command>,
    beat: mpsc::Sender<Command>,
    signals: Signals,
    config: &Arc<SpoolConfig>,
    sinks: &Arc<[SinkState]>,
    tap: Tap,
    metrics: Metrics,
    clock: Clock,
) -> Result<SpoolThreads, OpenError> {
    let path = schema::database(&config.directory);
    let keeper_connection = schema::open_keeper(&config.directory)?;
    let mark = MarkFile::create(&config.directory, &opened.spool_id, opened.next_offset, opened.newest)
        .map_err(|source| OpenError::Io { path: mark::path(&config.directory), source })?;
    let stored_cursors = sinks.iter().map(SinkState::cursor).collect();
    let mut writer = Writer {
        connection: opened.connection,
        _lock: opened.lock,
        book: AgentBook::default(),
        first_offset: opened.first_offset,
        next_offset: opened.next_offset,
        newest: opened.newest,
        mark,
        agents_as_of: opened.agents_as_of,
        round_as_of: opened.agents_as_of,
        round_began: Instant::now(),
        stored_cursors,
        gauge: Gauge::new(config.limits.clone()),
        last_beat: Instant::now(),
        letter_bytes: 0,
        letters_changed: true,
        disk_full: false,
        shed_since_told: 0,
        tap,
        calm: Calm::default(),
        signals,
        config: config.clone(),
        sinks: sinks.clone(),
        path: path.clone(),
        metrics,
        clock,
    };
    writer.load_agents().map_err(|source| OpenError::Database { path: path.clone(), source })?;
    writer.measure().map_err(|source| OpenError::Database { path: path.clone(), source })?;
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(|source| OpenError::Io { path: path.clone(), source })
    };
    let writer = spawn("spool-writer", Box::new(move || writer.run(commands)))?;
    let keeper = spawn("spool-keeper", Box::new(move || keep(&keeper_connection, &beat)))?;
    Ok(SpoolThreads { writer, keeper })
}

/// Checkpoints what is committed into the database file, beside the commits, and gives the writer its beat.
fn keep(connection: &Connection, beat: &mpsc::Sender<Command>) {
    let calm = Calm::default();
    loop {
        std::thread::sleep(TICK);
        // Busy only means that somebody reads: the next beat gets further.
        // Its row: whether somebody was in the way, frames in the journal, how many of them are in the database now.
        let checkpoint =
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
        let beat_of = match checkpoint {
            Err(error) if is_fault_of_disk(&error) => Command::CheckpointFailed(error),
            Err(error) => {
                if let Some(left_out) = calm.due("checkpoint") {
                    tracing::warn!(%error, left_out, "a checkpoint of the spool did not get through");
                }
                Command::Tick { frames: 0 }
            }
            Ok(frames) => Command::Tick { frames: frames.unsigned_abs() },
        };
        let failed = matches!(beat_of, Command::CheckpointFailed(_));
        let sent = if failed {
            beat.blocking_send(beat_of).map_err(|_| ())
        } else {
            match beat.try_send(beat_of) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
                Err(mpsc::error::TrySendError::Closed(_)) => Err(()),
            }
        };
        if failed || sent.is_err() {
            return;
        }
    }
}

/// What a checkpoint could not write or sync may be lost: no second try proves anything.
fn is_fault_of_disk(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) && !schema::is_full(error)
}

struct Writer {
    connection: Connection,
    /// Keeps other processes out for as long as this thread lives.
    _lock: std::fs::File,
    book: AgentBook,
    /// The oldest record that may still be there.
    first_offset: u64,
    next_offset: u64,
    /// When the newest record came.
    newest: Timestamp,
    /// Tells at the next start how far this one had got.
    mark: MarkFile,
    /// Stored agent rows hold everything below this offset; what is above is read again at the next start.
    agents_as_of: u64,
    /// The same once the round of rows that is under way is stored.
    round_as_of: u64,
    /// When it began.
    round_began: Instant,
    /// Cursors as stored, in the order of `sinks`.
    stored_cursors: Vec<u64>,
    /// What is in use and what that means for pushes.
    gauge: Gauge,
    /// Whoever floods the queue must not keep the keeper's beat out.
    last_beat: Instant,
    /// Bytes of dead letters, as of the last beat plus what was added since.
    letter_bytes: u64,
    /// Dead letters came or went since they were last counted.
    letters_changed: bool,
    /// The last commit met a full disk.
    disk_full: bool,
    /// Records given up since that was last logged.
    shed_since_told: u64,
    /// For sinks that are up to date, and people who watch.
    tap: Tap,
    calm: Calm,
    signals: Signals,
    config: Arc<SpoolConfig>,
    sinks: Arc<[SinkState]>,
    path: PathBuf,
    metrics: Metrics,
    clock: Clock,
}

/// A commit that is durable, and who waits for it.
#[derive(Debug)]
pub(super) struct Committed {
    waiting: Waiting,
    /// Offset after the newest durable record, when that has moved or there is something else to look for.
    end: Option<u64>,
}

/// Tells the world of commits, in their order: first where the spool ends, then everybody who waits. A task and not the
/// writer does it, because waking sixty tasks from outside of the runtime costs more than the commit itself.
pub(super) async fn answer(mut commits: mpsc::Receiver<Committed>, end: watch::Sender<u64>) {
    while let Some(Committed { waiting, end: moved }) = commits.recv().await {
        if let Some(moved) = moved {
            end.send_replace(moved);
        }
        waiting.answer();
    }
}

/// Answers that wait for the commit.
#[derive(Debug, Default)]
struct Waiting {
    appends: Vec<(Reply<Appended>, Result<Appended, AppendError>)>,
    letters: Vec<(Reply<()>, Result<(), AppendError>)>,
    counts: Vec<(Reply<u64>, u64)>,
    others: Vec<Reply<()>>,
    stored: usize,
    /// Somebody asked for replays: workers look for them.
    replays: bool,
    /// Records are given up to make room for this batch.
    room: bool,
    shed: Option<Shed>,
}

impl Writer {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH_RECORDS);
        while let Some(first) = commands.blocking_recv() {
            let mut bytes = first.size();
            batch.push(first);
            while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
                let Ok(next) = commands.try_recv() else { break };
                bytes += next.size();
                batch.push(next);
            }
            let closing = batch.iter().any(|command| matches!(command, Command::Close));
            if let Err(error) = self.commit(&mut batch, closing) {
                self.fail(&error, &mut commands);
                return;
            }
            if closing {
                break;
            }
        }
        self.close(&mut commands);
    }

    /// One transaction for everything that waits; answers go out after its fsync.
    fn commit(&mut self, batch: &mut Vec<Command>, closing: bool) -> rusqlite::Result<()> {
        let started = Instant::now();
        let told = batch.iter().find_map(|command| match command {
            Command::Tick { frames } => Some(*frames),
            _ => None,
        });
        let tick = told.is_some() || closing || self.last_beat.elapsed() >= 2 * TICK;
        let end = self.next_offset;
        let mut waiting = Waiting::default();
        let result = self.transaction(batch, tick, closing, &mut waiting);
        if let Err(error) = result {
            self.book.rolled_back();
            self.tap.discard();
            self.next_offset = end;
            return self.refuse(error, waiting);
        }
        let tally = self.book.committed();
        self.count(&tally);
        self.disk_full = false;
        if let Some(shed) = waiting.shed.take() {
            self.has_shed(&shed);
        }
        if waiting.stored > 0 {
            self.metrics.spool_commit_duration.observe(started.elapsed().as_secs_f64());
            self.metrics.spool_commit_records.observe(waiting.stored as f64);
            self.set_mark();
            self.tap.publish();
        }
        if waiting.replays {
            self.note_replays()?;
        }
        let end = (waiting.stored > 0 || waiting.replays).then_some(self.next_offset);
        // Without a runtime there is nobody left who waits.
        drop(self.signals.answers.blocking_send(Committed { waiting, end }));
        if !tick {
            return Ok(());
        }
        self.last_beat = Instant::now();
        match self.beat(told.unwrap_or(0)) {
            // Nothing of a beat is owed to anybody: it is made up for when there is space.
            Err(error) if schema::is_full(&error) => {
                self.disk_is_full();
                Ok(())
            }
            result => result,
        }
    }

    fn transaction(
        &mut self,
        batch: &mut Vec<Command>,
        tick: bool,
        closing: bool,
        waiting: &mut Waiting,
    ) -> rusqlite::Result<()> {
        // Every command must leave the batch with its answer, also when an earlier one failed.
        let mut result = self.connection.execute_batch("BEGIN IMMEDIATE");
        if result.is_ok() {
            let bytes = batch.iter().map(Command::size).sum::<usize>() as u64;
            result = self.make_room(bytes, tick, waiting);
        }
        for command in batch.drain(..) {
            let done = if result.is_ok() {
                self.stage(command, waiting)
            } else {
                waiting.hold(command);
                Ok(())
            };
            result = result.and(done);
        }
        if result.is_ok() {
            result = self
                .housekeeping(tick, closing || waiting.stored == 0)
                .and_then(|()| self.connection.execute_batch("COMMIT"));
        }
        if result.is_err() && !self.connection.is_autocommit() {
            // A roll-back needs no disk. Should it fail all the same, the next BEGIN does, and that ends the daemon.
            if let Err(error) = self.connection.execute_batch("ROLLBACK") {
                tracing::error!(%error, "a transaction of the spool could not be rolled back");
            }
        }
        result
    }

    /// At the high-water mark sinks that shed give up what makes room for this batch; with a beat, also what is in use
    /// above the low mark. When the disk is what is full, giving up more than is needed would not help it.
    fn make_room(&mut self, bytes: u64, tick: bool, waiting: &mut Waiting) -> rusqlite::Result<()> {
        let Some(mark) = self.gauge.mark() else { return Ok(()) };
        let excess = if tick && mark == Mark::Bytes { self.gauge.excess() } else { 0 };
        let wanted = excess.max(2 * bytes);
        if wanted == 0 || self.sinks.iter().all(|sink| sink.when_full == WhenFull::Block) {
            return Ok(());
        }
        self.store_cursors()?;
        self.store_all_agents()?;
        if self.free_below() > self.first_offset + TRIM_RECORDS {
            // What was delivered is still being deleted, which makes room enough.
            waiting.room = true;
            return Ok(());
        }
        let Some(shed) = shed::shed(&self.connection, &self.sinks, wanted)? else { return Ok(()) };
        for (at, _, _) in &shed.sinks {
            self.stored_cursors[*at] = self.stored_cursors[*at].max(shed.to);
        }
        waiting.room = shed.bytes >= bytes;
        waiting.shed = Some(shed);
        let to = self.free_below();
        if to > self.first_offset {
            self.connection.prepare_cached("DELETE FROM records WHERE spool_offset < ?1")?.execute([to])?;
            self.first_offset = to;
        }
        Ok(())
    }

    /// What was given up is committed.
    fn has_shed(&mut self, shed: &Shed) {
        self.gauge.freed(shed.bytes);
        for (at, records, events) in &shed.sinks {
            let sink = &self.sinks[*at];
            sink.cursor.fetch_max(shed.to, Ordering::AcqRel);
            self.metrics.sink_shed_records.with_label_values(&[&sink.name]).inc_by(*records);
            self.metrics.sink_shed_events.with_label_values(&[&sink.name]).inc_by(*events);
        }
        self.shed_since_told = self.shed_since_told.saturating_add(shed.sinks.iter().map(|s| s.1).sum());
        if self.calm.due("shed").is_some() {
            let records = std::mem::take(&mut self.shed_since_told);
            let sinks: Vec<_> = shed.sinks.iter().map(|(at, ..)| self.sinks[*at].name.as_str()).collect();
            tracing::warn!(
                ?sinks,
                records,
                spool_offset = shed.to,
                "the spool is full: the oldest records of sinks that shed are given up"
            );
        }
    }

    fn stage(&mut self, command: Command, waiting: &mut Waiting) -> rusqlite::Result<()> {
        match command {
            Command::Append { record, events, reply } => {
                if !self.gauge.admits(record.kind) && !waiting.room {
                    self.metrics.spool_failures.with_label_values(&["full"]).inc();
                    waiting.appends.push((reply, Err(AppendError::Full)));
                    return Ok(());
                }
                let stored = self.insert(record, events.as_deref());
                waiting.stored += 1;
                waiting.appends.push((reply, stored.as_ref().copied().map_err(|_| AppendError::Failed)));
                stored.map(|_| ())
            }
            Command::DeadLetter { letter, reply } => {
                if self.letter_bytes >= self.config.limits.max_dead_letter_bytes {
                    waiting.letters.push((reply, Err(AppendError::Full)));
                    return Ok(());
                }
                waiting.letters.push((reply, Ok(())));
                self.insert_dead_letter(&letter)
            }
            Command::ReplayLetters { which, reply } => {
                waiting.counts.push((reply, 0));
                let count = dead_letters::replay(&self.connection, &which)?;
                waiting.replays = true;
                waiting.count(count);
                Ok(())
            }
            Command::DiscardLetters { which, reply } => {
                waiting.counts.push((reply, 0));
                let count = dead_letters::discard(&self.connection, &which)?;
                self.letters_changed = true;
                waiting.count(count);
                Ok(())
            }
            Command::SettleReplay { letter, outcome, reply } => {
                waiting.others.push(reply);
                self.letters_changed = true;
                dead_letters::settle(&self.connection, letter, &outcome)
            }
            Command::SaveSession { agent, stored, reply } => {
                waiting.others.push(reply);
                self.save_session(&agent, stored.as_deref())
            }
            Command::Pulse { reply } => {
                waiting.others.push(reply);
                Ok(())
            }
            Command::CheckpointFailed(error) => Err(error),
            Command::Tick { .. } | Command::Close => Ok(()),
        }
    }

    fn insert(&mut self, record: NewRecord, events: Option<&[NewEvent]>) -> rusqlite::Result<Appended> {
        let offset = self.next_offset;
        let received_at = record.received_at;
        let rules = Rules { repeats: &self.config.repeats, call_age: self.config.call_age };
        let (events, placement) = match events {
            Some(events) => {
                let batch =
                    Batch { agent: &record.agent, offset, received_at, events, answer: record.answer };
                (events.len(), self.book.place(batch, &rules))
            }
            None => (1, self.book.place_own(&record.agent, &record.body, received_at, &rules)),
        };
        let before = serde_json::to_vec(&*placement.before)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let repeats = reader::encode_repeats(&placement.repeats);
        let checked = Checked {
            offset,
            kind: reader::kind_number(record.kind),
            received_ms: signed(received_at.millis()),
            gateway: record.agent.gateway.as_str().as_bytes(),
            agent_id: record.agent.agent_id.as_str().as_bytes(),
            sequence: signed(placement.sequence),
            repeats: &repeats,
            before: &before,
            body: &record.body,
        };
        self.connection
            .prepare_cached("INSERT INTO records VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")?
            .execute(params![
                offset,
                checked.kind,
                checked.received_ms,
                record.agent.gateway.as_str(),
                record.agent.agent_id.as_str(),
                checked.sequence,
                (!repeats.is_empty()).then_some(&repeats[..]),
                before,
                &record.body[..],
                reader::checksum(&checked),
            ])?;
        self.next_offset += 1;
        self.newest = received_at;
        self.gauge.added(limits::record_bytes(record.body.len(), before.len()));
        let appended = Appended { offset, events, repeated: placement.repeats.len() };
        if self.tap.is_wanted(offset) {
            let NewRecord { kind, received_at, agent, body, .. } = record;
            let Placement { sequence, repeats, before } = placement;
            let before = Arc::unwrap_or_clone(before);
            self.tap.stage(Record { offset, kind, received_at, agent, sequence, repeats, before, body });
        }
        Ok(appended)
    }

    fn insert_dead_letter(&mut self, letter: &DeadLetter) -> rusqlite::Result<()> {
        self.letters_changed = true;
        self.letter_bytes += dead_letters::insert(&self.connection, letter)?;
        Ok(())
    }

    /// Before anybody is answered, so that what was acknowledged is told. A mark that cannot be written is no reason to
    /// refuse what is stored.
    fn set_mark(&self) {
        if let Err(error) = self.mark.write(self.next_offset, self.newest)
            && let Some(left_out) = self.calm.due("mark")
        {
            tracing::warn!(%error, left_out, "the spool's mark cannot be written");
        }
    }

    /// Workers are to look for dead letters that are to be delivered again.
    fn note_replays(&self) -> rusqlite::Result<()> {
        for sink in self.sinks.iter() {
            let newest = dead_letters::replay_to(&self.connection, &sink.name)?;
            sink.replay_to.fetch_max(newest, Ordering::AcqRel);
        }
        Ok(())
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

    /// What rides on a commit: cursors that moved, agents' rows from a beat on, some with every commit until it has
    /// all, and deletion of what is freed. With a commit for which nobody waits all rows go at once.
    fn housekeeping(&mut self, tick: bool, at_leisure: bool) -> rusqlite::Result<()> {
        if tick {
            self.store_cursors()?;
        }
        if tick && at_leisure {
            self.store_all_agents()?;
        } else if (tick && self.round_began.elapsed() >= ROUND_EVERY) || !self.book.round_is_over() {
            self.store_agents(AGENT_ROWS)?;
        }
        let freed = self.free_below();
        // With a beat any freed record goes; between beats only when it is worth a statement.
        if freed > self.first_offset + if tick { 0 } else { TRIM_RECORDS / 8 } {
            let to = freed.min(self.first_offset + TRIM_RECORDS);
            self.connection.prepare_cached("DELETE FROM records WHERE spool_offset < ?1")?.execute([to])?;
            self.first_offset = to;
        }
        Ok(())
    }

    /// Everything below is confirmed by every sink, in stored cursors, and told in stored agent rows.
    fn free_below(&self) -> u64 {
        self.stored_cursors.iter().copied().min().unwrap_or(self.next_offset).min(self.agents_as_of)
    }

    fn store_cursors(&mut self) -> rusqlite::Result<()> {
        for (at, sink) in self.sinks.iter().enumerate() {
            let now = sink.cursor();
            // One that gives records up is stored before it moves.
            if self.stored_cursors[at] < now {
                self.connection
                    .prepare_cached("UPDATE cursors SET next_offset = ?2 WHERE sink = ?1")?
                    .execute(params![sink.name, now])?;
                self.stored_cursors[at] = now;
            }
        }
        Ok(())
    }

    fn store_all_agents(&mut self) -> rusqlite::Result<()> {
        // First what is left of the round under way, then what has changed since it began.
        self.store_agents(usize::MAX)?;
        self.store_agents(usize::MAX)
    }

    /// Stores some rows of the round, which begins when there is none. Rows that are newer than the round do no harm: the
    /// records from its begin on are read again at the next start, and lead to the same row.
    fn store_agents(&mut self, most: usize) -> rusqlite::Result<()> {
        if self.book.round_is_over() {
            if self.agents_as_of == self.next_offset {
                return Ok(());
            }
            self.book.begin_round();
            (self.round_as_of, self.round_began) = (self.next_offset, Instant::now());
        }
        let mut statement =
            self.connection.prepare_cached("INSERT OR REPLACE INTO agents VALUES (?1, ?2, ?3)")?;
        for (agent, row) in self.book.next_rows(most) {
            let row = serde_json::to_vec(row)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            statement.execute(params![agent.gateway.as_str(), agent.agent_id.as_str(), row])?;
        }
        if self.book.round_is_over() {
            let mut meta = self.connection.prepare_cached("UPDATE meta SET value = ?2 WHERE key = ?1")?;
            meta.execute(params!["agents_as_of", self.round_as_of])?;
            meta.execute(params!["next_offset", self.next_offset])?;
            self.agents_as_of = self.round_as_of;
        }
        Ok(())
    }

    /// Reads the agents' rows, and makes up for what was committed after they were stored.
    fn load_agents(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare("SELECT gateway, agent_id, row FROM agents")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (gateway, agent_id): (String, String) = (row.get(0)?, row.get(1)?);
            let decoded = serde_json::from_slice::<AgentRow>(row.get_ref(2)?.as_blob()?);
            match (reader::agent_key(&gateway, &agent_id), decoded) {
                (Some(agent), Ok(row)) => self.book.insert(agent, row),
                (_, Err(error)) => {
                    tracing::error!(%gateway, %agent_id, %error, "what the spool knew of an agent is unreadable; its state and sequence begin anew")
                }
                (None, Ok(_)) => {
                    tracing::error!(%gateway, %agent_id, "the spool has an agent that cannot be one")
                }
            }
        }
        drop(rows);
        drop(statement);
        self.replay_agents()
    }

    fn replay_agents(&mut self) -> rusqlite::Result<()> {
        let mut from = self.agents_as_of.max(self.first_offset);
        loop {
            let records = reader::read_records(&self.connection, from, BATCH_RECORDS, BATCH_BYTES)?;
            let Some(last) = records.last() else { break };
            from = last.offset() + 1;
            for record in records {
                match record {
                    reader::ReadRecord::Good(record) => self.book.replay(&record),
                    reader::ReadRecord::Damaged { offset, fault } => {
                        tracing::error!(spool_offset = offset, fault, "a record of the spool is damaged");
                    }
                }
            }
        }
        // What happened before this start was counted then.
        self.book.committed();
        Ok(())
    }

    /// Counts what the events of a commit did to their agents.
    fn count(&self, tally: &Tally) {
        for state in &tally.unexpected {
            self.metrics.events_unexpected.with_label_values(&[state.as_label()]).inc();
        }
        for outcome in &tally.ended {
            self.metrics.calls_ended.with_label_values(&[outcome.as_label()]).inc();
        }
    }

    /// After a beat's commit: give free pages back, keep the journal short, set the gauges.
    fn beat(&mut self, frames: u64) -> rusqlite::Result<()> {
        let journal = self.path.with_extension("db-wal");
        let grown = || std::fs::metadata(&journal).is_ok_and(|file| file.len() > schema::JOURNAL_KEPT);
        if frames > JOURNAL_FRAMES || grown() {
            // Nobody else writes now, so this one gets to the end and the next commit begins the journal anew.
            self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        }
        let free: u64 = self.connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        let pages: u64 = self.connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        let worth_it = free > pages / 4 || self.gauge.mark() == Some(Mark::Disk);
        if free > u64::from(VACUUM_PAGES) && worth_it {
            let mut vacuum =
                self.connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
        }
        self.measure()
    }

    fn measure(&mut self) -> rusqlite::Result<()> {
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let live = (pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?;
        if self.letters_changed {
            self.count_letters()?;
        }
        let used = live.saturating_sub(self.letter_bytes);
        let notices = self.gauge.measured(used, limits::free_disk(&self.config.directory), Instant::now());
        notices.iter().for_each(|notice| self.say(notice));
        self.metrics.spool_fill_ratio.set(self.gauge.ratio());
        let on_disk = schema::file_bytes(&self.path);
        let oldest = self.sinks.iter().map(SinkState::cursor).min().unwrap_or(self.next_offset);
        self.metrics.spool_bytes.set(signed(on_disk));
        self.metrics.spool_records.set(signed(self.next_offset.saturating_sub(oldest)));
        self.metrics.spool_oldest_age.set(self.age_of(oldest)?);
        for sink in self.sinks.iter() {
            let lag = self.next_offset.saturating_sub(sink.cursor());
            self.metrics.sink_lag_records.with_label_values(&[&sink.name]).set(signed(lag));
        }
        Ok(())
    }

    fn say(&self, notice: &Notice) {
        let path = self.path.display();
        match notice {
            Notice::Filling { percent, left } => {
                let left = left.map(|left| left.as_secs());
                tracing::warn!(%path, percent, left_secs = left, "the spool is filling up; when it is full, pushes are refused");
            }
            Notice::Closed(mark) => {
                tracing::error!(%path, ?mark, "the spool is full: pushes are refused until it has room, and the gateway signs agents out");
            }
            Notice::Opened => tracing::warn!(%path, "the spool has room again: pushes are taken"),
        }
    }

    fn disk_is_full(&mut self) {
        if !self.disk_full {
            self.disk_full = true;
            tracing::error!(path = %self.path.display(), "the disk of the spool is full: pushes are refused until there is space");
        }
    }

    fn count_letters(&mut self) -> rusqlite::Result<()> {
        let held = dead_letters::held(&self.connection)?;
        self.letter_bytes = held.iter().map(|held| held.bytes).sum();
        for sink in self.sinks.iter() {
            let held = held.iter().find(|held| held.sink == sink.name);
            let (letters, bytes) = held.map_or((0, 0), |held| (held.letters, held.bytes));
            self.metrics.dead_letters.with_label_values(&[&sink.name]).set(signed(letters));
            self.metrics.dead_letter_bytes.with_label_values(&[&sink.name]).set(signed(bytes));
        }
        self.letters_changed = false;
        Ok(())
    }

    fn age_of(&self, offset: u64) -> rusqlite::Result<f64> {
        let mut statement =
            self.connection.prepare_cached("SELECT received_ms FROM records WHERE spool_offset = ?1")?;
        let mut rows = statement.query([offset])?;
        Ok(match rows.next()? {
            Some(row) => self.clock.now().since(Timestamp(row.get(0)?)).as_secs_f64(),
            None => 0.0,
        })
    }

    /// A commit failed. A full disk passes: refuse and go on. Anything else ends the spool.
    fn refuse(&mut self, error: rusqlite::Error, waiting: Waiting) -> rusqlite::Result<()> {
        let full = schema::is_full(&error);
        let verdict = if full { AppendError::Full } else { AppendError::Failed };
        self.metrics.spool_failures.with_label_values(&[if full { "full" } else { "failed" }]).inc();
        if full {
            self.disk_is_full();
        }
        // What was staged is rolled back, so stored cursors and rows are as before.
        self.reload_stored();
        waiting.refuse(verdict);
        if full { Ok(()) } else { Err(error) }
    }

    fn reload_stored(&mut self) {
        let read = |key: &str| {
            self.connection
                .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get::<_, u64>(0))
        };
        if let Ok(as_of) = read("agents_as_of") {
            self.agents_as_of = as_of.min(self.agents_as_of);
        }
        let stored: Option<HashMap<String, u64>> = self
            .connection
            .prepare("SELECT sink, next_offset FROM cursors")
            .and_then(|mut rows| rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .ok();
        if let Some(stored) = stored {
            for (at, sink) in self.sinks.iter().enumerate() {
                self.stored_cursors[at] = stored.get(&sink.name).copied().unwrap_or(0);
            }
        }
        self.book.all_dirty();
    }

    /// The disk failed: say so once, refuse everything that waits or comes, and end.
    fn fail(self, error: &rusqlite::Error, commands: &mut mpsc::Receiver<Command>) {
        tracing::error!(path = %self.path.display(), %error, "the spool has failed; nothing more is accepted");
        self.signals.failure.send_replace(Some(error.to_string()));
        commands.close();
        while let Some(command) = commands.blocking_recv() {
            let mut waiting = Waiting::default();
            waiting.hold(command);
            waiting.refuse(AppendError::Failed);
        }
    }

    fn close(mut self, commands: &mut mpsc::Receiver<Command>) {
        commands.close();
        let mut rest = Vec::new();
        while let Some(command) = commands.blocking_recv() {
            rest.push(command);
        }
        let closed = self
            .commit(&mut rest, false)
            .and_then(|()| self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        match closed {
            Ok(()) => tracing::info!(path = %self.path.display(), "spool closed"),
            // What is stored is stored; the next start makes up for the checkpoint.
            Err(error) if schema::is_full(&error) => {
                tracing::warn!(path = %self.path.display(), %error, "spool closed on a full disk");
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the spool could not be closed cleanly");
                self.signals.failure.send_replace(Some(error.to_string()));
            }
        }
    }
}

impl Waiting {
    /// Takes the answer a command waits for, without doing what it asks.
    fn hold(&mut self, command: Command) {
        match command {
            Command::Append { reply, .. } => self.appends.push((reply, Err(AppendError::Failed))),
            Command::ReplayLetters { reply, .. } | Command::DiscardLetters { reply, .. } => {
                self.counts.push((reply, 0));
            }
            Command::DeadLetter { reply, .. }
            | Command::Pulse { reply }
            | Command::SaveSession { reply, .. }
            | Command::SettleReplay { reply, .. } => self.others.push(reply),
            Command::Tick { .. } | Command::CheckpointFailed(_) | Command::Close => {}
        }
    }

    /// Sets the number that the last who asked for one is told.
    fn count(&mut self, count: u64) {
        if let Some((_, last)) = self.counts.last_mut() {
            *last = count;
        }
    }

    fn answer(self) {
        for (reply, result) in self.appends {
            tell(reply, result);
        }
        for (reply, result) in self.letters {
            tell(reply, result);
        }
        for (reply, count) in self.counts {
            tell(reply, Ok(count));
        }
        for reply in self.others {
            tell(reply, Ok(()));
        }
    }

    fn refuse(self, verdict: AppendError) {
        for (reply, _) in self.appends {
            tell(reply, Err(verdict));
        }
        for (reply, _) in self.letters {
            tell(reply, Err(verdict));
        }
        for (reply, _) in self.counts {
            tell(reply, Err(verdict));
        }
        for reply in self.others {
            tell(reply, Err(verdict));
        }
    }
}

/// Answers one who waits. Who asked may be gone, with the connection that brought the push; the record stays.
fn tell<T>(reply: Reply<T>, result: Result<T, AppendError>) {
    if reply.send(result).is_err() {
        tracing::debug!("nobody waits any more for an answer of the spool");
    }
}

impl Command {
    fn size(&self) -> usize {
        match self {
            Command::Append { record, .. } => record.body.len(),
            _ => 0,
        }
    }
}

/// SQLite's integers and the gauges are signed; ours never reach the sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
