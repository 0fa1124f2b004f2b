//! Records as they are stored, for people who watch and for sinks that are up to date ([`super::recent`]). Nobody waits for a
//! watcher: one who is slow misses records and is told how many. While nobody watches and every sink is behind, a record
//! costs the writer a look at a few counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Record;
use super::recent::Filler;

/// Records that wait for the slowest watcher, at most.
const WAITING: usize = 512;
/// Larger bodies are not shown, which bounds what waits to 32 MiB; the events of a push have some hundred bytes each.
const LARGEST_BODY: usize = 64 * 1024;

/// Where watchers come in.
#[derive(Debug, Clone)]
pub(super) struct Watchers {
    count: Arc<AtomicUsize>,
    sender: broadcast::Sender<Seen>,
}

/// What is told of one record.
#[derive(Debug, Clone)]
enum Seen {
    Record(Arc<Record>),
    TooLarge,
}

/// The writer's end: records of the commit that is being made.
#[derive(Debug)]
pub(super) struct Tap {
    watchers: Watchers,
    filler: Filler,
    staged: Vec<Arc<Record>>,
}

/// A watcher; leaving is dropping it.
#[derive(Debug)]
pub struct Watch {
    receiver: broadcast::Receiver<Seen>,
    count: Arc<AtomicUsize>,
}

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum Watched {
    /// This was stored.
    Record(Arc<Record>),
    /// So many records were stored that this watcher is not shown: it was too slow, or they are too large.
    Missed(u64),
}

impl Watchers {
    pub(super) fn new() -> Watchers {
        Watchers { count: Arc::default(), sender: broadcast::Sender::new(WAITING) }
    }

    pub(super) fn watch(&self) -> Watch {
        let receiver = self.sender.subscribe();
        self.count.fetch_add(1, Ordering::AcqRel);
        Watch { receiver, count: self.count.clone() }
    }
}

impl Tap {
    pub(super) fn new(watchers: Watchers, filler: Filler) -> Tap {
        Tap { watchers, filler, staged: Vec::new() }
    }

    /// Whether anybody wants the record at `offset`.
    pub(super) fn is_wanted(&self, offset: u64) -> bool {
        self.is_watched() || self.filler.is_wanted(offset)
    }

    fn is_watched(&self) -> bool {
        self.watchers.count.load(Ordering::Relaxed) > 0
    }

    /// This record is part of the commit that is being made.
    pub(super) fn stage(&mut self, record: Record) {
        self.staged.push(Arc::new(record));
    }

    /// The commit is durable: sinks and watchers may see it.
    pub(super) fn publish(&mut self) {
        if self.is_watched() {
            for record in &self.staged {
                let fits = record.body.len() <= LARGEST_BODY;
                let seen = if fits { Seen::Record(record.clone()) } else { Seen::TooLarge };
                if self.watchers.sender.send(seen).is_err() {
                    // The last watcher has left.
                    break;
                }
            }
        }
        self.filler.committed(self.staged.drain(..));
    }

    /// The commit was rolled back.
    pub(super) fn discard(&mut self) {
        self.staged.clear();
    }
}

impl Watch {
    /// The next thing that is told; `None` when the spool is gone.
    ///
    /// # Cancel safety
    /// May be dropped at any time; nothing is lost.
    pub async fn next(&mut self) -> Option<Watched> {
        match self.receiver.recv().await {
            Ok(Seen::Record(record)) => Some(Watched::Record(record)),
            Ok(Seen::TooLarge) => Some(Watched::Missed(1)),
            Err(RecvError::Lagged(missed)) => Some(Watched::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}
