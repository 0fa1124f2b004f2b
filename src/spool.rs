//! The durable log: every push is here, fsynced, before it is answered, and stays until every sink has confirmed it.
//!
//! One SQLite database in WAL mode with `synchronous=FULL`. **One thread writes** (`writer`): it takes whatever
//! waits, commits it in one transaction, which is one fsync, and answers everybody; it never lingers to gather more.
//! Sinks read on connections of their own (`reader`) and move their cursors; a record below all cursors is deleted
//! and its pages are used again. Checkpoints run beside the commit path. This is the only module that knows SQL.
//!
//! Invariants:
//! - an append that was answered `Ok` is on disk; after a failed commit nothing is answered `Ok` any more
//!   ([`Spool::failure`]), because an fsync that succeeds after one that failed proves nothing;
//! - offsets rise by one and are never used twice, not even after everything was freed;
//! - a record carries what only the moment of receipt knew (time, sequence, agent state before, repeat marks), so that
//!   what becomes of it is a function of the record and the configuration alone;
//! - a record whose checksum is wrong is given to nobody: it is reported as damaged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Timestamp;
use crate::event::normalise::{EventRef, RecordKind};
use crate::event::state::AgentSnapshot;
use crate::event::{AgentId, GatewayName};

mod agents;
pub mod inspect;
mod reader;
mod schema;
mod writer;

pub use agents::{AnswerMark, RepeatRules};
pub use reader::{ReadRecord, SpoolReader};
pub use schema::OpenError;
use writer::Command;

/// How many appends may wait for the writer; more wait in their tasks, and the gateway waits for them.
const QUEUE: usize = 4096;

/// Where the spool is and how much it may hold.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The folder of the database; made when it is not there, readable by its owner only.
    pub directory: PathBuf,
    /// Live bytes beyond which pushes are refused.
    pub max_bytes: u64,
    /// When a batch counts as a repeat of the one before.
    pub repeats: RepeatRules,
}

/// A sink that reads this spool, and where it begins when the spool has not seen it before.
#[derive(Debug, Clone)]
pub struct SinkStart {
    /// The sink's name in the configuration.
    pub name: String,
    /// Where a new sink begins.
    pub from: StartFrom,
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
    /// The bytes as received; for pushes and polls a body that `envelope::parse` accepts.
    pub body: Bytes,
    /// How to find out later whether our answer arrived; `None` where no answer is owed.
    pub answer: Option<AnswerMark>,
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
    /// The spool's limit or the disk's.
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
    /// Number of its first event among those of its agent.
    pub sequence: u64,
    /// For its leading events: the first deliveries they repeat.
    pub repeats: Vec<EventRef>,
    /// The agent's state before its first event.
    pub before: AgentSnapshot,
    /// The bytes as received.
    pub body: Bytes,
}

/// An event that can never be delivered to a sink.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Which sink refused it.
    pub sink: String,
    /// The record it comes from.
    pub spool_offset: u64,
    /// The event's id; empty when the whole record could not be read.
    pub event_id: String,
    /// Where it was to go.
    pub topic: String,
    /// Why, as a short name.
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// When it was set aside.
    pub at: Timestamp,
}

/// Handle to the spool; cloning is cheap.
#[derive(Clone)]
pub struct Spool {
    commands: mpsc::Sender<Command>,
    end: watch::Receiver<u64>,
    failure: watch::Receiver<Option<String>>,
    id: Arc<str>,
    config: Arc<SpoolConfig>,
    cursors: Arc<Vec<(String, Arc<AtomicU64>)>>,
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
pub struct SpoolThreads {
    writer: std::thread::JoinHandle<()>,
    keeper: std::thread::JoinHandle<()>,
}

impl SpoolThreads {
    /// Waits until all is written and closed. Blocks: call it off the runtime's threads.
    pub fn join(self) {
        for thread in [self.writer, self.keeper] {
            if thread.join().is_err() {
                tracing::error!("a thread of the spool panicked");
            }
        }
    }
}

impl Spool {
    /// Opens the spool, makes it when it is not there, recovers what a crash left, and starts its threads.
    ///
    /// # Errors
    /// When the folder or database cannot be opened, is in use by another process, or is of another version.
    pub fn open(
        config: SpoolConfig,
        sinks: &[SinkStart],
        metrics: crate::metrics::Metrics,
        clock: crate::clock::Clock,
    ) -> Result<(Spool, SpoolThreads), OpenError> {
        let opened = schema::open(&config, sinks)?;
        let id: Arc<str> = opened.spool_id.as_str().into();
        let config = Arc::new(config);
        let cursors: Arc<Vec<_>> = Arc::new(
            opened.cursors.iter().map(|(n, at)| (n.clone(), Arc::new(AtomicU64::new(*at)))).collect(),
        );
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (end_sender, end) = watch::channel(opened.next_offset);
        let (failure_sender, failure) = watch::channel(None);
        let signals = writer::Signals { end: end_sender, failure: failure_sender };
        let threads =
            writer::start(opened, receiver, commands.clone(), signals, &config, &cursors, metrics, clock)?;
        Ok((Spool { commands, end, failure, id, config, cursors }, threads))
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
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Append { record, reply }).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Failed)?
    }

    /// The offset after the newest durable record; changes with every commit.
    #[must_use]
    pub fn end(&self) -> watch::Receiver<u64> {
        self.end.clone()
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
        let cursor = self.cursors.iter().find(|(name, _)| name == sink).map(|(_, cursor)| cursor.clone());
        let cursor = cursor.ok_or_else(|| OpenError::UnknownSink(sink.to_owned()))?;
        SpoolReader::open(&self.config.directory, cursor)
    }

    /// Sets an event aside for a sink; returns when that is fsynced.
    ///
    /// # Errors
    /// When it is not stored: the sink must not go on.
    pub async fn dead_letter(&self, letter: DeadLetter) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::DeadLetter { letter, reply }).await.map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Failed)?
    }

    /// Stores what a session needs after a restart, or forgets it; returns when that is fsynced.
    ///
    /// # Errors
    /// When it is not stored.
    pub async fn save_session(&self, agent: AgentKey, stored: Option<Vec<u8>>) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::SaveSession { agent, stored, reply })
            .await
            .map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Failed)?
    }

    /// What was stored of all sessions. Reads the disk: call it at start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sessions(&self) -> Result<Vec<(AgentKey, Vec<u8>)>, OpenError> {
        reader::sessions(&self.config.directory)
    }

    /// All dead letters, oldest first. Reads the disk.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, OpenError> {
        reader::dead_letters(&self.config.directory)
    }

    /// Where each sink has got to.
    #[must_use]
    pub fn cursors(&self) -> Vec<(String, u64)> {
        self.cursors.iter().map(|(name, at)| (name.clone(), at.load(Ordering::Acquire))).collect()
    }

    /// Writes everything that waits and closes the database; [`SpoolThreads::join`] tells when that is done.
    pub async fn close(&self) {
        if self.commands.send(Command::Close).await.is_err() {
            tracing::debug!("the spool is closed already");
        }
    }
}

/// All dead letters of the spool in this folder, oldest first; also while a daemon has it open.
///
/// # Errors
/// When the database cannot be read.
pub fn dead_letters_of(directory: &std::path::Path) -> Result<Vec<DeadLetter>, OpenError> {
    reader::dead_letters(directory)
}

/// How often cursors, agent rows and checkpoints are written, space is freed and gauges are set.
pub(crate) const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
