//! The one thread that writes records: it takes whatever waits, puts each record in its place, writes all of them to the log
//! in one write and one sync, and answers everybody. It never waits for the database, which belongs to [`super::keeper`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::agents::{AgentBook, Batch, NewEvent, Placement, Rules, Tally};
use super::keeper::{self, Rows};
use super::limits::{Gauge, Mark, Notice};
use super::log::{LogReader, LogWriter, WriteError};
use super::mark::MarkFile;
use super::reader;
use super::removed::Removed;
use super::segment::Stored;
use super::shed::{self, Shed};
use super::watching::Tap;
use super::{AppendError, Appended, NewRecord, ReadRecord, Record, SinkState, SpoolConfig, WhenFull};
use crate::calm::Calm;
use crate::clock::Timestamp;
use crate::metrics::Metrics;

/// Records in one commit at most: bounds what one fsync can hold up.
const BATCH_RECORDS: usize = 1024;
/// Bytes in one commit, beyond which no more are taken into it.
const BATCH_BYTES: usize = 1 << 20;
/// Records taken from the queue at once: each time costs a lock that those who append want too. What they have may go beyond
/// [`BATCH_BYTES`].
const TAKEN_AT_ONCE: usize = 32;
/// Agents' rows given to the keeper with one commit that somebody waits for.
const AGENT_ROWS: usize = 64;
/// The same when nobody waits.
const AGENT_ROWS_AT_LEISURE: usize = 4096;
/// How long the next commit waits for a round of the runtime.
const ROUND_AT_MOST: Duration = Duration::from_micros(500);
/// How often a round of agents' rows begins while pushes come: what came since is read again at the next start.
const ROUND_EVERY: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T, AppendError>>;

/// What the writer is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Store a record.
    Append {
        record: NewRecord,
        /// Its events, where it has an envelope that can be read.
        events: Option<Vec<NewEvent>>,
        /// Whose room it takes while it waits.
        room: Taken,
        reply: Reply<Appended>,
    },
    /// Answer when all that was asked before is done.
    Pulse { reply: Reply<()> },
    /// The keeper's beat, with what it has measured.
    Tick(Measured),
    /// The database has failed, which ends the spool.
    Failed(String),
    /// Write what waits and end.
    Close,
}

/// Room with the writer for records that wait. It is taken one by one, and given back for a whole commit at once.
#[derive(Debug)]
pub(super) struct Room {
    /// For those whose senders can wait for it.
    pub(super) appends: Semaphore,
    /// For those that must have their place at once, so that the others cannot take it.
    pub(super) own: Semaphore,
}

impl Room {
    pub(super) fn new(appends: usize, own: usize) -> Room {
        Room { appends: Semaphore::new(appends), own: Semaphore::new(own) }
    }
}

/// Which part of the room a record takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Appends,
    Own,
}

/// The writer's end of the room. With it the room ends: who waits for it learns that there is no writer any more.
#[derive(Debug)]
pub(super) struct RoomGiven(pub(super) Arc<Room>);

impl RoomGiven {
    /// These records wait no longer.
    fn give_back(&self, commands: &[Command]) {
        let mut counts = (0, 0);
        for command in commands {
            match command {
                Command::Append { room: Taken::Appends, .. } => counts.0 += 1,
                Command::Append { room: Taken::Own, .. } => counts.1 += 1,
                _ => {}
            }
        }
        self.0.appends.add_permits(counts.0);
        self.0.own.add_permits(counts.1);
    }
}

impl Drop for RoomGiven {
    fn drop(&mut self) {
        self.0.appends.close();
        self.0.own.close();
    }
}

/// What the keeper has measured with a beat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Bytes in use of the database, without dead letters.
    pub(super) database_bytes: u64,
    /// Free bytes of the disk, where the system says that.
    pub(super) free_disk: Option<u64>,
}

/// What the writer tells the world.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    /// Commits whose appends are to be answered.
    pub(super) answers: mpsc::Sender<Committed>,
    /// Why the disk failed.
    pub(super) failure: watch::Sender<Option<String>>,
}

/// A commit that is durable, and who waits for it.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) waiting: Waiting,
    /// Offset after the newest durable record, when that has moved or there is something else to look for.
    pub(super) end: Option<u64>,
    /// The writer is told when those who waited have had their turn.
    pub(super) round: Option<Arc<Round>>,
}

/// How the writer learns that the runtime has done what was ready when a commit was told of: those who waited have written their
/// answers, and what had arrived by then has been read and waits for the next commit. To begin that one at once would find the
/// few records that came within the last sync, and each commit costs the processor as much as several pushes.
#[derive(Debug)]
pub(super) struct Round {
    over: AtomicBool,
    writer: Thread,
}

impl Round {
    /// Of a commit of this thread.
    fn new() -> Arc<Round> {
        Arc::new(Round { over: AtomicBool::new(false), writer: std::thread::current() })
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.writer.unpark();
    }

    /// To be called by the thread that made it. Returns when it is over, or after [`ROUND_AT_MOST`].
    fn wait(&self) {
        let began = Instant::now();
        while !self.over.load(Ordering::Acquire) {
            let Some(left) = ROUND_AT_MOST.checked_sub(began.elapsed()) else { return };
            std::thread::park_timeout(left);
        }
    }
}

/// Tells the world of commits, in their order: first where the spool ends, then everybody who waits. A task and not the
/// writer does it, because waking sixty tasks from outside of the runtime costs more than the commit itself.
pub(super) async fn answer(mut commits: mpsc::Receiver<Committed>, end: watch::Sender<u64>) {
    while let Some(Committed { waiting, end: moved, round }) = commits.recv().await {
        if let Some(moved) = moved {
            // The keeper tells of replays with the end as it was then, which another commit may have moved meanwhile.
            end.send_modify(|end| *end = moved.max(*end));
        }
        waiting.answer();
        if let Some(round) = round {
            // What is ready goes first.
            tokio::task::yield_now().await;
            round.end();
        }
    }
}

/// What the writer does after a commit.
enum Next {
    Go,
    /// Others wait already, and more will when this is over.
    After(Arc<Round>),
    Close,
}

/// Answers that wait for the commit.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    appends: Vec<(Reply<Appended>, Result<Appended, AppendError>)>,
    pulses: Vec<Reply<()>>,
    stored: usize,
    /// Records are given up to make room for this batch.
    room: bool,
}

/// Owns the log and what is known of the agents.
pub(super) struct Writer {
    pub(super) log: LogWriter,
    pub(super) room: RoomGiven,
    pub(super) book: AgentBook,
    /// When the newest record came.
    pub(super) newest: Timestamp,
    /// Tells at the next start how far this one had got.
    pub(super) mark: MarkFile,
    /// Agents' rows that the keeper has hold everything below this offset; what is above is read again at the next start.
    pub(super) agents_as_of: u64,
    /// The same once the round of rows that is under way is told.
    pub(super) round_as_of: u64,
    /// When it began.
    pub(super) round_began: Instant,
    /// What is in use and what that means for pushes.
    pub(super) gauge: Gauge,
    pub(super) measured: Measured,
    /// The last commit met a full disk.
    pub(super) disk_full: bool,
    /// Records given up since that was last logged.
    pub(super) shed_since_told: u64,
    /// Reads what is to be given up.
    pub(super) reader: LogReader,
    /// For sinks that are up to date, and people who watch.
    pub(super) tap: Tap,
    pub(super) calm: Calm,
    pub(super) keeper: mpsc::Sender<keeper::Command>,
    pub(super) signals: Signals,
    pub(super) config: Arc<SpoolConfig>,
    pub(super) sinks: Arc<[SinkState]>,
    /// Learn when pushes are refused for want of room.
    pub(super) removed: Removed,
    pub(super) path: PathBuf,
    pub(super) metrics: Metrics,
}

impl Writer {
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::with_capacity(BATCH_RECORDS);
        while commands.blocking_recv_many(&mut batch, TAKEN_AT_ONCE) > 0 {
            let mut bytes = batch.iter().map(Command::size).sum::<usize>();
            while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES && !commands.is_empty() {
                let from = batch.len();
                commands.blocking_recv_many(&mut batch, TAKEN_AT_ONCE.min(BATCH_RECORDS - from));
                bytes += batch[from..].iter().map(Command::size).sum::<usize>();
            }
            match self.commit(&mut batch, &commands) {
                Ok(Next::Go) => {}
                Ok(Next::After(round)) => round.wait(),
                Ok(Next::Close) => break,
                Err(error) => return self.fail(&error, &mut commands),
            }
        }
        self.close(&mut commands);
    }

    /// One write and one sync for everything that waits; answers go out after it. Gives what comes next.
    fn commit(
        &mut self,
        batch: &mut Vec<Command>,
        commands: &mpsc::Receiver<Command>,
    ) -> Result<Next, String> {
        let started = Instant::now();
        let tick = batch.iter().any(|command| matches!(command, Command::Tick(_)));
        let (mut closing, mut failed) = (false, None);
        let end = self.log.log().end();
        let mut waiting = Waiting::default();
        let bytes = batch.iter().map(Command::size).sum::<usize>() as u64;
        self.room.give_back(batch);
        self.make_room(bytes, tick, &mut waiting);
        let mut next = end;
        for command in batch.drain(..) {
            match command {
                Command::Append { record, events, reply, .. } => {
                    self.append(record, events.as_deref(), reply, end, &mut next, &mut waiting);
                }
                Command::Pulse { reply } => waiting.pulses.push(reply),
                Command::Tick(measured) => self.measured = measured,
                Command::Failed(error) => failed = Some(error),
                Command::Close => closing = true,
            }
        }
        if let Some(error) = failed {
            waiting.refuse(AppendError::Failed);
            return Err(error);
        }
        if let Err(error) = self.log.commit(next) {
            self.log.discard();
            self.book.rolled_back();
            self.tap.discard();
            return self.refuse(error, waiting).map(|()| if closing { Next::Close } else { Next::Go });
        }
        let tally = self.book.committed();
        self.count(&tally);
        let stored = waiting.stored > 0;
        if stored {
            self.disk_full = false;
            self.metrics.spool_commit_duration.observe(started.elapsed().as_secs_f64());
            self.metrics.spool_commit_records.observe(waiting.stored as f64);
            self.set_mark();
            self.tap.publish();
        }
        let round = (stored && !closing && !commands.is_empty()).then(Round::new);
        if !waiting.is_empty() {
            let committed = Committed { waiting, end: stored.then_some(next), round: round.clone() };
            let told = self.signals.answers.blocking_send(committed);
            // At the end there may be nobody left who waits. Before, everybody would be refused for ever.
            if told.is_err() && !closing && !commands.is_closed() {
                return Err("nothing passes on the answers to pushes any more".to_owned());
            }
        }
        self.tell_rows(tick, !stored);
        if tick {
            self.measure();
        }
        Ok(match round {
            _ if closing => Next::Close,
            Some(round) => Next::After(round),
            None => Next::Go,
        })
    }

    /// At the high-water mark sinks that shed give up what makes room for this batch; with a beat, also what is in use
    /// above the low mark. When the disk is what is full, giving up more than is needed would not help it.
    fn make_room(&mut self, bytes: u64, tick: bool, waiting: &mut Waiting) {
        let Some(mark) = self.gauge.mark() else { return };
        let excess = if tick && mark == Mark::Bytes { self.gauge.excess() } else { 0 };
        let wanted = excess.max(2 * bytes);
        if wanted == 0 || self.sinks.iter().all(|sink| sink.when_full == WhenFull::Block) {
            return;
        }
        let delivered = self.gauge.used().saturating_sub(self.used());
        if delivered >= wanted {
            // What was delivered since the last beat makes room enough.
            waiting.room = true;
            return;
        }
        match shed::shed(&mut self.reader, &self.sinks, wanted) {
            Ok(None) => {}
            Ok(Some(shed)) => {
                waiting.room = shed.bytes >= bytes;
                self.has_shed(&shed);
            }
            Err(error) => {
                if let Some(left_out) = self.calm.due("shed") {
                    tracing::error!(%error, left_out, "what the spool is to give up cannot be read");
                }
            }
        }
    }

    fn has_shed(&mut self, shed: &Shed) {
        self.gauge.freed(shed.bytes);
        for (at, records, events) in &shed.sinks {
            let sink = &self.sinks[*at];
            sink.cursor.fetch_max(shed.to, Ordering::AcqRel);
            self.metrics.sink_shed_records.with_label_values(&[&sink.name]).inc_by(*records);
            self.metrics.sink_shed_events.with_label_values(&[&sink.name]).inc_by(*events);
        }
        if let Some(needed) = self.sinks.iter().map(SinkState::cursor).min() {
            self.log.log().hide_below(needed);
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

    fn append(
        &mut self,
        record: NewRecord,
        events: Option<&[NewEvent]>,
        reply: Reply<Appended>,
        batch: u64,
        next: &mut u64,
        waiting: &mut Waiting,
    ) {
        if !self.gauge.admits(record.kind) && !waiting.room {
            self.metrics.spool_failures.with_label_values(&["full"]).inc();
            waiting.appends.push((reply, Err(AppendError::Full)));
            self.removed.room_is_wanted();
            return;
        }
        let offset = *next;
        let received_at = record.received_at;
        let rules = Rules { repeats: &self.config.repeats, call_age: self.config.call_age };
        let (events, placement) = match events {
            Some(events) => {
                let (kind, agent, answer) = (record.kind, &record.agent, record.answer);
                let batch = Batch { kind, agent, offset, received_at, events, answer };
                (events.len(), self.book.place(batch, &rules))
            }
            None => (1, self.book.place_own(&record.agent, &record.body, received_at, &rules)),
        };
        let bytes = self.log.stage(&Stored {
            offset,
            batch,
            kind: reader::kind_number(record.kind),
            received_ms: received_at.millis(),
            sequence: placement.sequence,
            gateway: record.agent.gateway.as_str().as_bytes(),
            agent_id: record.agent.agent_id.as_str().as_bytes(),
            repeats: &reader::encode_repeats(&placement.repeats),
            before: &reader::encode_state(&placement.before),
            body: &record.body,
        });
        self.gauge.added(bytes);
        *next += 1;
        waiting.stored += 1;
        self.newest = received_at;
        let appended = Appended { offset, events, repeated: placement.repeats.len() };
        waiting.appends.push((reply, Ok(appended)));
        if self.tap.is_wanted(offset) {
            let NewRecord { kind, received_at, agent, body, .. } = record;
            let Placement { sequence, repeats, before } = placement;
            let before = Arc::unwrap_or_clone(before);
            self.tap.stage(Record { offset, kind, received_at, agent, sequence, repeats, before, body });
        }
    }

    /// Before anybody is answered, so that what was acknowledged is told. A mark that cannot be written is no reason to
    /// refuse what is stored.
    fn set_mark(&self) {
        if let Err(error) = self.mark.write(self.log.log().end(), self.newest)
            && let Some(left_out) = self.calm.due("mark")
        {
            tracing::warn!(%error, left_out, "the spool's mark cannot be written");
        }
    }

    /// Gives the keeper agents' rows to store: with a beat a round of them begins, and some go with every commit until it has
    /// all. With a commit for which nobody waits many go at once.
    fn tell_rows(&mut self, tick: bool, at_leisure: bool) {
        let due = at_leisure || self.round_began.elapsed() >= ROUND_EVERY;
        if self.book.round_is_over() && !(tick && due) {
            return;
        }
        // When the keeper is busy they go with a later commit.
        if let Ok(permit) = self.keeper.clone().try_reserve_owned() {
            let most = if at_leisure { AGENT_ROWS_AT_LEISURE } else { AGENT_ROWS };
            if let Some(rows) = self.next_rows(most) {
                drop(permit.send(keeper::Command::Rows(rows)));
            }
        }
    }

    /// Some rows of the round, which begins when there is none. Rows that are newer than the round do no harm: the records
    /// from its begin on are read again at the next start, and lead to the same row.
    fn next_rows(&mut self, most: usize) -> Option<Rows> {
        if self.book.round_is_over() {
            let end = self.log.log().end();
            self.book.note_arrivals();
            if self.agents_as_of == end && self.book.is_clean() {
                return None;
            }
            self.book.begin_round();
            (self.round_as_of, self.round_began) = (end, Instant::now());
        }
        let rows = self.book.next_rows(most).map(|(agent, row)| (agent.clone(), row.clone())).collect();
        let as_of = self.book.round_is_over().then_some(self.round_as_of);
        self.agents_as_of = as_of.unwrap_or(self.agents_as_of);
        Some(Rows { rows, as_of })
    }

    /// Counts the events of a commit, and what they did to their agents. Here and not where a push is answered: by then its peer
    /// may have gone, and what is stored is stored.
    fn count(&self, tally: &Tally) {
        for (category, count) in &tally.received {
            self.metrics.events.with_label_values(&[*category]).inc_by(*count);
        }
        self.metrics.events_repeated.inc_by(tally.repeated);
        for state in &tally.unexpected {
            self.metrics.events_unexpected.with_label_values(&[state.as_label()]).inc();
        }
        for outcome in &tally.ended {
            self.metrics.calls_ended.with_label_values(&[outcome.as_label()]).inc();
        }
    }

    /// Bytes in use: what some sink still needs, and the database.
    fn used(&self) -> u64 {
        let needed = self.sinks.iter().map(SinkState::cursor).min();
        self.log.log().bytes_from(needed.unwrap_or(u64::MAX)) + self.measured.database_bytes
    }

    pub(super) fn measure(&mut self) {
        let notices = self.gauge.measured(self.used(), self.measured.free_disk, Instant::now());
        notices.iter().for_each(|notice| self.say(notice));
        self.metrics.spool_fill_ratio.set(self.gauge.ratio());
        // Where a sink sheds, no push need be refused at a mark.
        if self.gauge.mark().is_some() && self.sinks.iter().all(|sink| sink.when_full == WhenFull::Block) {
            self.removed.room_is_wanted();
        }
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

    /// A commit failed. A full disk passes, and so does a lack of files: refuse and go on. Anything else ends the spool.
    fn refuse(&mut self, error: WriteError, waiting: Waiting) -> Result<(), String> {
        let (reason, verdict) = match &error {
            WriteError::Full(_) | WriteError::Later(_) => ("full", AppendError::Full),
            WriteError::Failed(_) => ("failed", AppendError::Failed),
        };
        self.metrics.spool_failures.with_label_values(&[reason]).inc();
        waiting.refuse(verdict);
        match error {
            WriteError::Full(_) => {
                self.removed.room_is_wanted();
                if !self.disk_full {
                    self.disk_full = true;
                    tracing::error!(path = %self.path.display(), "the disk of the spool is full: pushes are refused until there is space");
                }
                Ok(())
            }
            WriteError::Later(error) => {
                if let Some(left_out) = self.calm.due("later") {
                    tracing::error!(path = %self.path.display(), %error, left_out, "no file for records can be opened: pushes are refused until one can");
                }
                Ok(())
            }
            WriteError::Failed(error) => Err(error.to_string()),
        }
    }

    /// The disk failed: say so once, refuse everything that waits or comes, and end.
    fn fail(self, error: &str, commands: &mut mpsc::Receiver<Command>) {
        tracing::error!(path = %self.path.display(), %error, "the spool has failed; nothing more is accepted");
        self.signals.failure.send_replace(Some(error.to_owned()));
        drop(self.keeper.blocking_send(keeper::Command::Failed));
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
        if let Err(error) = self.commit(&mut rest, commands) {
            return self.fail(&error, commands);
        }
        // First what is left of the round under way, then what has changed since it began.
        while let Some(rows) = self.next_rows(AGENT_ROWS_AT_LEISURE) {
            if self.keeper.blocking_send(keeper::Command::Rows(rows)).is_err() {
                break;
            }
        }
        drop(self.keeper.blocking_send(keeper::Command::Close));
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.pulses.is_empty()
    }

    /// Takes the answer a command waits for, without doing what it asks.
    fn hold(&mut self, command: Command) {
        match command {
            Command::Append { reply, .. } => self.appends.push((reply, Err(AppendError::Failed))),
            Command::Pulse { reply } => self.pulses.push(reply),
            Command::Tick(_) | Command::Failed(_) | Command::Close => {}
        }
    }

    fn answer(self) {
        for (reply, result) in self.appends {
            tell(reply, result);
        }
        for reply in self.pulses {
            tell(reply, Ok(()));
        }
    }

    fn refuse(self, verdict: AppendError) {
        for (reply, _) in self.appends {
            tell(reply, Err(verdict));
        }
        for reply in self.pulses {
            tell(reply, Err(verdict));
        }
    }
}

/// Answers one who waits. Who asked may be gone, with the connection that brought the push; the record stays.
pub(super) fn tell<T>(reply: Reply<T>, result: Result<T, AppendError>) {
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

/// Makes up for records that are not in stored rows: those from `from` on.
pub(super) fn replay(book: &mut AgentBook, log: &mut LogReader, mut from: u64) -> std::io::Result<()> {
    loop {
        let items = log.read(from, BATCH_RECORDS, BATCH_BYTES)?;
        let Some(last) = items.last() else { break };
        from = last.offset() + 1;
        for item in items {
            match item.into() {
                ReadRecord::Good(record) => book.replay(&record),
                ReadRecord::Damaged { offset, fault } => {
                    tracing::error!(spool_offset = offset, fault, "a record of the spool is damaged");
                }
            }
        }
    }
    // What happened before this start was counted then.
    book.committed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::AgentKey;
    use super::*;
    use crate::event::normalise::RecordKind;
    use crate::event::{AgentId, GatewayName};

    #[tokio::test]
    async fn an_end_that_is_told_late_wakes_workers_and_takes_nothing_back() {
        let (commits, told) = mpsc::channel(2);
        let (end, mut seen) = watch::channel(1);
        let answering = tokio::task::spawn(answer(told, end));
        for (moved, expected) in [(5, 5), (3, 5)] {
            let committed = Committed { waiting: Waiting::default(), end: Some(moved), round: None };
            commits.send(committed).await.unwrap();
            seen.changed().await.unwrap();
            assert_eq!(*seen.borrow_and_update(), expected);
        }
        drop(commits);
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn room_comes_back_with_what_is_taken_and_ends_with_the_writer() {
        let room = Arc::new(Room::new(1, 1));
        let given = RoomGiven(room.clone());
        for taken in [Taken::Appends, Taken::Own] {
            let part = if taken == Taken::Own { &room.own } else { &room.appends };
            part.try_acquire().unwrap().forget();
            assert!(part.try_acquire().is_err());
            given.give_back(&[append(taken)]);
            part.try_acquire().unwrap().forget();
        }
        let waits = room.clone();
        let waits = tokio::task::spawn(async move { waits.appends.acquire().await.is_err() });
        tokio::task::yield_now().await;
        drop(given);
        assert!(waits.await.unwrap() && room.own.try_acquire().is_err());
    }

    fn append(room: Taken) -> Command {
        let agent = AgentKey {
            gateway: GatewayName::parse("main").unwrap(),
            agent_id: AgentId::parse("1001").unwrap(),
        };
        let record = NewRecord {
            kind: RecordKind::Lifecycle,
            received_at: Timestamp(0),
            agent,
            body: bytes::Bytes::new(),
            answer: None,
        };
        Command::Append { record, events: None, room, reply: oneshot::channel().0 }
    }

    #[test]
    fn a_round_lasts_until_it_is_ended_and_not_for_ever() {
        let round = Round::new();
        let begun = Instant::now();
        round.wait();
        assert!(begun.elapsed() >= ROUND_AT_MOST, "nobody has ended it");
        let (ended, other) = (Round::new(), round.clone());
        std::thread::spawn(move || other.end()).join().unwrap();
        // The thread was woken for another round, which is no reason to go on with this one.
        let begun = Instant::now();
        ended.wait();
        assert!(begun.elapsed() >= ROUND_AT_MOST);
        round.wait();
        assert!(round.over.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn a_round_ends_after_those_who_were_answered_had_their_turn() {
        let (commits, told) = mpsc::channel(1);
        let (end, _seen) = watch::channel(1);
        let answering = tokio::task::spawn(answer(told, end));
        let (reply, answered) = oneshot::channel::<Result<(), AppendError>>();
        let round = Round::new();
        let seen = round.clone();
        let turn = tokio::task::spawn(async move {
            answered.await.unwrap().unwrap();
            seen.over.load(Ordering::Acquire)
        });
        let waiting = Waiting { pulses: vec![reply], ..Waiting::default() };
        commits.send(Committed { waiting, end: None, round: Some(round.clone()) }).await.unwrap();
        assert!(!turn.await.unwrap(), "it was over before");
        drop(commits);
        answering.await.unwrap();
        assert!(round.over.load(Ordering::Acquire));
    }
}
