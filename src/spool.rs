//! The durable log: every push is here, fsynced, before it is answered, and stays until every sink has confirmed it.
//!
//! Records lie in a log of files (`log`, `segment`); what else must survive a restart, in an SQLite database in WAL mode with
//! `synchronous=FULL`. **One thread writes records** (`writer`): it takes whatever waits, writes it with one sync, and
//! answers everybody; where others wait by then already, those who were answered have a turn of the runtime before it goes on, and
//! that is all it ever waits for. **Another one has the database**
//! (`keeper`): cursors, agents' rows, sessions, dead letters. Whatever the database says of records was durable in the log before,
//! so no transaction spans both. Sinks read the log on their own (`reader`) and move their cursors; a record below all cursors
//! is freed, and the space of whole files is used again. This is the only module that knows SQL.
//!
//! Invariants:
//! - an append that was answered `Ok` is on disk; after a failed commit nothing is answered `Ok` any more
//!   ([`Spool::failure`]), because an fsync that succeeds after one that failed proves nothing;
//! - offsets rise by one and are never used twice, not even after everything was freed;
//! - a record carries what only the moment of receipt knew (time, sequence, agent state before, repeat marks), so that
//!   what becomes of it is a function of the record and the configuration alone;
//! - a record whose checksum is wrong is given to nobody: it is reported as damaged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{TryAcquireError, mpsc, oneshot, watch};

use crate::clock::Timestamp;
use crate::event::envelope::RawEvent;
use crate::event::normalise::{RecordKind, RecordView, Repeated};
use crate::event::state::AgentSnapshot;
use crate::event::{AgentId, GatewayName};
use crate::exchange::Exchange;

mod agents;
mod damage;
mod dead_letters;
pub mod inspect;
mod keeper;
mod limits;
mod log;
mod mark;
mod migrate;
pub mod offline;
mod reader;
mod recent;
mod removed;
pub mod repair;
mod reserve;
mod room;
mod schema;
mod segment;
mod shed;
mod start;
#[cfg(test)]
pub(crate) mod testing;
mod watching;
mod writer;

pub use agents::RepeatRules;
pub use damage::{Damage, Findings};
pub use dead_letters::{
    DeadLetter, Letter, LetterFilter, LetterSight, Replay, Replayed, StoredLetter, Unhidden, body_as_json,
};
pub use limits::{SpoolLimits, WhenFull};
pub use reader::{ReadRecord, SpoolReader};
pub use recent::Recent;
use recent::{Filler, Ring};
use removed::Removed;
pub use schema::OpenError;
pub(crate) use schema::nearest;
use watching::{Tap, Watchers};
pub use watching::{Watch, Watched};
use writer::Reply;

/// How many appends may wait for the writer; more wait in their tasks, and the gateway waits for them.
const QUEUE: usize = 4096;
/// How many records may wait for the writer beside them that nobody can wait with ([`Spool::queue`]); more are refused. What
/// happens to all sessions of a large centre at once fits in.
const OWN_QUEUE: usize = 65_536;

/// How many commits may wait for their answers to go out; more would only show that the runtime does not run.
const COMMITS: usize = 16;

/// Where the spool is and how much it may hold.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The folder of the spool; made when it is not there, readable by its owner only.
    pub directory: PathBuf,
    /// How much it may hold.
    pub limits: SpoolLimits,
    /// When a batch counts as a repeat of the one before.
    pub repeats: RepeatRules,
    /// How long nothing may be heard of a call before it is given up.
    pub call_age: Duration,
}

/// A sink that reads this spool, and where it begins when the spool has not seen it before.
#[derive(Debug, Clone)]
pub struct SinkStart {
    /// The sink's name in the configuration.
    pub name: String,
    /// Where a new sink begins.
    pub from: StartFrom,
    /// What it does at the high-water mark.
    pub when_full: WhenFull,
}

/// Where a new sink begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// At the next record that comes.
    Now,
    /// At the oldest record that is still there.
    #[default]
    Earliest,
}

/// An agent of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentKey {
    /// Which gateway.
    pub gateway: GatewayName,
    /// Which agent there.
    pub agent_id: AgentId,
}

/// What is to be stored.
#[derive(Debug)]
pub struct NewRecord {
    /// How it came.
    pub kind: RecordKind,
    /// When it came.
    pub received_at: Timestamp,
    /// Whose it is.
    pub agent: AgentKey,
    /// The bytes as received, in UTF-8; for pushes and polls a body that `envelope::parse` accepts. They may be kept for some time, so they
    /// should not be part of something larger.
    pub body: Bytes,
    /// How to find out later whether our answer arrived; `None` where no answer is owed.
    pub answer: Option<Exchange>,
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The record's offset.
    pub offset: u64,
    /// Events in it.
    pub events: usize,
    /// How many of them had come before.
    pub repeated: usize,
}

/// Why an append was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The spool's limit or the disk's: what it says is that nothing was stored, and that it may be tried again.
    #[error("the spool is full")]
    Full,
    /// The disk failed; the daemon is stopping.
    #[error("the spool has failed")]
    Failed,
    /// The spool is closed.
    #[error("the spool is closed")]
    Closed,
}

/// A record as stored.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its position.
    pub offset: u64,
    /// How it came.
    pub kind: RecordKind,
    /// When it came.
    pub received_at: Timestamp,
    /// Whose it is.
    pub agent: AgentKey,
    /// Number of its first event that is no repeat among those of its agent.
    pub sequence: u64,
    /// For its leading events: the first deliveries they repeat.
    pub repeats: Vec<Repeated>,
    /// The agent's state before its first event.
    pub before: AgentSnapshot,
    /// The bytes as received.
    pub body: Bytes,
}

impl Record {
    /// What `normalise` makes events of.
    #[must_use]
    pub fn view<'a>(&'a self, spool_id: &'a str) -> RecordView<'a> {
        RecordView {
            spool_id,
            offset: self.offset,
            kind: self.kind,
            received_at: self.received_at,
            gateway: &self.agent.gateway,
            agent_id: &self.agent.agent_id,
            sequence: self.sequence,
            repeats: &self.repeats,
            before: &self.before,
            body: &self.body,
        }
    }
}

/// A record that has its place in the order and will be stored.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Result<Appended, AppendError>>);

impl Queued {
    /// Returns when the record is fsynced, or certainly not stored.
    ///
    /// # Errors
    /// When it is not stored.
    pub async fn stored(self) -> Result<Appended, AppendError> {
        self.0.await.map_err(|_| AppendError::Failed)?
    }
}

/// Handle to the spool; cloning is cheap.
#[derive(Clone)]
pub struct Spool {
    writer: mpsc::Sender<writer::Command>,
    room: Arc<writer::Room>,
    keeper: mpsc::Sender<keeper::Command>,
    log: log::Log,
    end: watch::Receiver<u64>,
    failure: watch::Receiver<Option<String>>,
    id: Arc<str>,
    config: Arc<SpoolConfig>,
    sinks: Arc<[SinkState]>,
    removed: Removed,
    watchers: Watchers,
    ring: Ring,
}

/// What the spool's threads and a sink's reader share.
#[derive(Debug, Clone)]
struct SinkState {
    name: String,
    /// The first record that the sink has not confirmed.
    cursor: Arc<AtomicU64>,
    /// How far the sink's reader has got.
    read_to: Arc<AtomicU64>,
    /// The number of the newest durable request to deliver a dead letter again; rises by every such request.
    replay_to: Arc<AtomicU64>,
    when_full: WhenFull,
}

impl SinkState {
    fn new(sink: &SinkStart, cursor: u64, replay_to: u64) -> SinkState {
        let shared = |value| Arc::new(AtomicU64::new(value));
        SinkState {
            name: sink.name.clone(),
            cursor: shared(cursor),
            read_to: shared(cursor),
            replay_to: shared(replay_to),
            when_full: sink.when_full,
        }
    }

    fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool")
            .field("id", &self.id)
            .field("directory", &self.config.directory)
            .finish_non_exhaustive()
    }
}

/// The threads of an open spool; they end after [`Spool::close`].
#[derive(Debug)]
pub struct SpoolThreads(Vec<std::thread::JoinHandle<()>>);

impl SpoolThreads {
    /// Waits until all is written and closed. Blocks: call it off the runtime's threads.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread of the spool panicked");
            }
        }
    }
}

impl Spool {
    /// Opens the spool, makes it when it is not there, recovers what a crash left, and starts its threads. To be called
    /// in a runtime, on which appends are answered.
    ///
    /// # Errors
    /// When the folder or database cannot be opened, is in use by another process, or is of another version.
    pub fn open(
        config: SpoolConfig,
        sinks: &[SinkStart],
        metrics: crate::metrics::Metrics,
        clock: crate::clock::Clock,
    ) -> Result<(Spool, SpoolThreads), OpenError> {
        Spool::open_slowly(config, sinks, metrics, clock, &|| ())
    }

    /// The same; calls `goes_on` now and then while a spool of an earlier release is brought to this one's version, which may take
    /// minutes.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_slowly(
        config: SpoolConfig,
        sinks: &[SinkStart],
        metrics: crate::metrics::Metrics,
        clock: crate::clock::Clock,
        goes_on: &dyn Fn(),
    ) -> Result<(Spool, SpoolThreads), OpenError> {
        let opened = schema::open(&config, sinks, goes_on)?;
        let id: Arc<str> = opened.spool_id.as_str().into();
        let config = Arc::new(config);
        let sinks: Arc<[SinkState]> = opened.sinks.clone().into();
        let removed = Removed::new(opened.removed.clone());
        let log = opened.log.log().clone();
        let (writer, to_writer) = mpsc::channel(QUEUE + OWN_QUEUE);
        let (keeper, to_keeper) = mpsc::channel(QUEUE);
        let (end_sender, end) = watch::channel(log.end());
        let (failure_sender, failure) = watch::channel(None);
        let (answers, commits) = mpsc::channel(COMMITS);
        tokio::task::spawn(writer::answer(commits, end_sender));
        let watchers = Watchers::new();
        let ring = Ring::default();
        let room = Arc::new(writer::Room::new(QUEUE, OWN_QUEUE));
        let parts = start::Parts {
            room: writer::RoomGiven(room.clone()),
            signals: writer::Signals { answers, failure: failure_sender },
            tap: Tap::new(watchers.clone(), Filler::new(ring.clone(), &sinks)),
            config: config.clone(),
            sinks: sinks.clone(),
            removed: removed.clone(),
            writer: writer.clone(),
            keeper: keeper.clone(),
            metrics,
            clock,
        };
        let threads = start::start(opened, parts, to_writer, to_keeper)?;
        let spool =
            Spool { writer, room, keeper, log, end, failure, id, config, sinks, removed, watchers, ring };
        Ok((spool, threads))
    }

    /// The spool's name: the first part of every event id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Stores a record. Returns when it is fsynced, or certainly not stored.
    ///
    /// # Errors
    /// When it is not stored.
    ///
    /// # Cancel safety
    /// Dropping the future after it began does not tell whether the record was stored.
    pub async fn append(&self, record: NewRecord) -> Result<Appended, AppendError> {
        let events = agents::read_events(record.kind, &record.agent.agent_id, &record.body);
        self.append_events(record, events).await
    }

    /// Stores a record whose body was read before, with these events.
    ///
    /// # Errors
    /// When it is not stored.
    ///
    /// # Cancel safety
    /// As [`Spool::append`].
    pub async fn append_read(
        &self,
        record: NewRecord,
        events: &[RawEvent<'_>],
    ) -> Result<Appended, AppendError> {
        let events = Some(agents::new_events(events, &record.agent.agent_id));
        self.append_events(record, events).await
    }

    async fn append_events(
        &self,
        record: NewRecord,
        events: Option<Vec<agents::NewEvent>>,
    ) -> Result<Appended, AppendError> {
        let room = self.room.appends.acquire().await.map_err(|_| AppendError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let command = writer::Command::Append { record, events, room: writer::Taken::Appends, reply };
        // Who has room need not wait, but for the moments of other commands.
        match self.writer.try_send(command) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(command)) => {
                self.writer.send(command).await.map_err(|_| AppendError::Closed)?;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(AppendError::Closed),
        }
        room.forget();
        answer.await.map_err(|_| AppendError::Failed)?
    }

    /// Gives a record its place at once: behind all that were appended or queued before, and before all that will be. Nothing has
    /// to be waited for, and a close stores it too.
    ///
    /// # Errors
    /// When it will not be stored: too many wait, or the spool is closed.
    pub fn queue(&self, record: NewRecord) -> Result<Queued, AppendError> {
        let events = agents::read_events(record.kind, &record.agent.agent_id, &record.body);
        let room = self.room.own.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => AppendError::Full,
            TryAcquireError::Closed => AppendError::Closed,
        })?;
        let (reply, answer) = oneshot::channel();
        let command = writer::Command::Append { record, events, room: writer::Taken::Own, reply };
        self.writer.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::Full,
            mpsc::error::TrySendError::Closed(_) => AppendError::Closed,
        })?;
        room.forget();
        Ok(Queued(answer))
    }

    /// The offset after the newest durable record; notified of every commit of records and of replays.
    #[must_use]
    pub fn end(&self) -> watch::Receiver<u64> {
        self.end.clone()
    }

    /// From now on shows every record that becomes durable, to people who watch. It never slows the writer: see [`Watch`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watchers.watch()
    }

    /// Becomes `Some` when the disk has failed: the daemon must stop.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// A reader for one sink, from its cursor.
    ///
    /// # Errors
    /// When the sink is unknown or the database cannot be opened.
    pub fn reader(&self, sink: &str) -> Result<SpoolReader, OpenError> {
        let state = self.sinks.iter().find(|state| state.name == sink);
        let state = state.ok_or_else(|| OpenError::UnknownSink(sink.to_owned()))?;
        SpoolReader::open(&self.config.directory, &self.log, state.clone(), self.ring.clone())
    }

    /// Sets an event aside for a sink; returns when that is fsynced. Gives whether it was not set aside before.
    ///
    /// # Errors
    /// When it is not stored, also when there is no room for more: the sink must not go on.
    pub async fn dead_letter(&self, letter: DeadLetter) -> Result<bool, AppendError> {
        ask(&self.keeper, |reply| keeper::Command::DeadLetter { letter, reply }).await
    }

    /// Dead letters that the filter lets through with ids above `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn letters(
        &self,
        filter: LetterFilter,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, OpenError> {
        self.inspect(move |inspector| inspector.letters(&filter, after, limit)).await
    }

    /// Sinks that have a place in it, or letters; and the reasons of letters.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_names(&self) -> Result<(Vec<String>, Vec<String>), OpenError> {
        self.inspect(inspect::Inspector::known_names).await
    }

    /// One dead letter with its record; `None` when there is none of this id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn letter(&self, id: u64) -> Result<Option<Letter>, OpenError> {
        self.inspect(move |inspector| inspector.letter(id)).await
    }

    async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&inspect::Inspector) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let directory = self.config.directory.clone();
        let looked = tokio::task::spawn_blocking(move || look(&inspect::Inspector::open(&directory)?));
        looked.await.unwrap_or_else(|_| {
            let path = schema::database(&self.config.directory);
            Err(OpenError::Database { path, source: rusqlite::Error::UnwindingPanic })
        })
    }

    /// Has dead letters delivered again, with the same event ids. Each is removed when its sink has confirmed it and
    /// stays, with one attempt more, when it fails again; also across a crash. Gives how many were not asked for before.
    ///
    /// # Errors
    /// When that is not stored, or not of all.
    pub async fn replay_letters(&self, which: LetterFilter) -> Result<u64, AppendError> {
        ask(&self.keeper, |reply| keeper::Command::ReplayLetters { which, reply }).await
    }

    /// Gives dead letters up for good. Gives how many.
    ///
    /// # Errors
    /// When that is not stored, or not of all: some may be gone then.
    pub async fn discard_letters(&self, which: LetterFilter) -> Result<u64, AppendError> {
        ask(&self.keeper, |reply| keeper::Command::DiscardLetters { which, reply }).await
    }

    /// Stores what became of a dead letter that was delivered again; returns when that is fsynced.
    ///
    /// # Errors
    /// When that is not stored: it will be delivered again.
    pub async fn settle_replay(&self, letter: u64, outcome: Replayed) -> Result<(), AppendError> {
        ask(&self.keeper, |reply| keeper::Command::SettleReplay { letter, outcome, reply }).await
    }

    /// Stores what a session needs after a restart, or forgets it; returns when that is fsynced.
    ///
    /// # Errors
    /// When it is not stored.
    pub async fn save_session(&self, agent: AgentKey, stored: Option<Vec<u8>>) -> Result<(), AppendError> {
        ask(&self.keeper, |reply| keeper::Command::SaveSession { agent, stored, reply }).await
    }

    /// Sinks that are not among those of this start and are not given up yet, each with how many records it has not got.
    #[must_use]
    pub fn removed_sinks(&self) -> Vec<(String, u64)> {
        let left = |(sink, at): (String, u64)| (sink, self.log.end().saturating_sub(at));
        self.removed.all().into_iter().map(left).collect()
    }

    /// Gives up what sinks have not got that are not among those of this start, but for those to be kept, so that its space is freed;
    /// returns when that is fsynced. Until then a later start with such a sink goes on where it was.
    ///
    /// # Errors
    /// When that is not stored.
    pub async fn forget_removed_sinks(&self, keep: BTreeSet<String>) -> Result<(), AppendError> {
        ask(&self.keeper, |reply| keeper::Command::ForgetRemoved { keep, reply }).await
    }

    /// Returns when pushes are refused for want of room, or were since this was asked last.
    pub async fn room_is_wanted(&self) {
        self.removed.until_room_is_wanted().await;
    }

    /// Returns when the spool's threads have done everything that was asked of them before, also when they had to refuse that.
    ///
    /// # Errors
    /// When there is no writer any more: the spool has failed or is closed.
    pub async fn pulse(&self) -> Result<(), AppendError> {
        let unless_full = |answer| match answer {
            Err(AppendError::Full) => Ok(()),
            answer => answer,
        };
        unless_full(ask(&self.writer, |reply| writer::Command::Pulse { reply }).await)?;
        unless_full(ask(&self.keeper, |reply| keeper::Command::Pulse { reply }).await)
    }

    /// What was stored of all sessions. Reads the disk: call it at start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sessions(&self) -> Result<Vec<(AgentKey, Vec<u8>)>, OpenError> {
        reader::sessions(&self.config.directory)
    }

    /// All dead letters, oldest first. Reads the disk and holds all of them: for tests.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, OpenError> {
        let all = inspect::Inspector::open(&self.config.directory)?;
        let letters = all.letters(&LetterFilter::default(), 0, usize::MAX)?;
        Ok(letters.into_iter().map(|stored| stored.letter).collect())
    }

    /// Where each sink has got to.
    #[must_use]
    pub fn cursors(&self) -> Vec<(String, u64)> {
        self.sinks.iter().map(|sink| (sink.name.clone(), sink.cursor())).collect()
    }

    /// Writes everything that waits and closes the spool; [`SpoolThreads::join`] tells when that is done.
    pub async fn close(&self) {
        if self.writer.send(writer::Command::Close).await.is_err() {
            tracing::debug!("the spool is closed already");
        }
    }
}

/// Asks a thread of the spool and waits for its answer, which comes after the fsync.
async fn ask<C, T>(thread: &mpsc::Sender<C>, command: impl FnOnce(Reply<T>) -> C) -> Result<T, AppendError> {
    let (reply, answer) = oneshot::channel();
    thread.send(command(reply)).await.map_err(|_| AppendError::Closed)?;
    answer.await.map_err(|_| AppendError::Failed)?
}

/// How often cursors are written, space is freed and gauges are set.
pub(crate) const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
