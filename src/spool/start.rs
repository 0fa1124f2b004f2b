//! Starting the threads of an open spool.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::keeper::{self, Keeper};
use super::limits::Gauge;
use super::log;
use super::mark::{self, MarkFile};
use super::removed::Removed;
use super::reserve::Reserve;
use super::schema::{self, OpenError, Opened};
use super::watching::Tap;
use super::writer::{self, RoomGiven, Signals, Writer};
use super::{SinkState, SpoolConfig, SpoolThreads};
use crate::calm::Calm;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// What the threads share with each other and with the world.
pub(super) struct Parts {
    pub(super) room: RoomGiven,
    pub(super) signals: Signals,
    pub(super) tap: Tap,
    pub(super) config: Arc<SpoolConfig>,
    pub(super) sinks: Arc<[SinkState]>,
    pub(super) removed: Removed,
    pub(super) writer: mpsc::Sender<writer::Command>,
    pub(super) keeper: mpsc::Sender<keeper::Command>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// Starts writer, keeper and beat, with what the agents' rows and the records after them say.
pub(super) fn start(
    opened: Opened,
    parts: Parts,
    to_writer: mpsc::Receiver<writer::Command>,
    to_keeper: mpsc::Receiver<keeper::Command>,
) -> Result<SpoolThreads, OpenError> {
    let Opened { connection, log, lock, spool_id, newest, agents_as_of, stored_first, .. } = opened;
    let Parts {
        room,
        signals,
        tap,
        config,
        sinks,
        removed,
        writer: writer_sender,
        keeper: keeper_sender,
        metrics,
        clock,
    } = parts;
    let path = schema::database(&config.directory);
    let alarm = Alarm {
        failure: signals.failure.clone(),
        writer: writer_sender.clone(),
        keeper: keeper_sender.clone(),
    };
    let sql = |source| OpenError::Database { path: path.clone(), source };
    let mark = MarkFile::create(&config.directory, &spool_id, log.log().end(), newest)
        .map_err(|source| OpenError::Io { path: mark::path(&config.directory), source })?;
    let mut book = keeper::stored_book(&connection).map_err(sql)?;
    let mut reader = log.log().reader();
    writer::replay(&mut book, &mut reader, agents_as_of)
        .map_err(|source| OpenError::Io { path: log::folder(&config.directory), source })?;
    let (beat, tended) = (keeper_sender.clone(), log.log().clone());
    let mut keeper = Keeper {
        connection,
        _lock: lock,
        log: log.log().clone(),
        reserve: Reserve::of(&config.directory),
        calm: Calm::default(),
        reader: log.log().reader(),
        rows: BTreeMap::new(),
        rows_as_of: None,
        oldest: None,
        agents_as_of,
        stored_cursors: sinks.iter().map(SinkState::cursor).collect(),
        stored_first,
        letter_bytes: 0,
        letters_changed: true,
        removed: removed.clone(),
        former_sinks: Vec::new(),
        sweeps: VecDeque::new(),
        disk_full: false,
        writer: writer_sender,
        signals: signals.clone(),
        config: config.clone(),
        sinks: sinks.clone(),
        path: path.clone(),
        metrics: metrics.clone(),
        clock,
    };
    let measured = keeper.begin().map_err(sql)?;
    let mut writer = Writer {
        log,
        room,
        book,
        newest,
        mark,
        agents_as_of,
        round_as_of: agents_as_of,
        round_began: Instant::now(),
        gauge: Gauge::new(config.limits.clone()),
        measured,
        disk_full: false,
        shed_since_told: 0,
        reader,
        tap,
        calm: Calm::default(),
        keeper: keeper_sender,
        signals,
        config,
        sinks,
        removed,
        path: path.clone(),
        metrics,
    };
    writer.measure();
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let alarm = alarm.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _alarm = alarm;
            run();
        });
        thread.map_err(|source| OpenError::Io { path: path.clone(), source })
    };
    Ok(SpoolThreads(vec![
        spawn("spool-writer", Box::new(move || writer.run(to_writer)))?,
        spawn("spool-keeper", Box::new(move || keeper.run(to_keeper)))?,
        spawn("spool-beat", Box::new(move || keeper::beat(&beat, &tended)))?,
    ]))
}

/// Ends the spool when the thread that holds it panics: the others would refuse, or wait, for ever.
#[derive(Debug, Clone)]
struct Alarm {
    failure: watch::Sender<Option<String>>,
    writer: mpsc::Sender<writer::Command>,
    keeper: mpsc::Sender<keeper::Command>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let thread = std::thread::current();
        let error = format!("the thread {} panicked", thread.name().unwrap_or("of the spool"));
        self.failure.send_replace(Some(error.clone()));
        // Whoever has panicked takes nothing any more.
        drop(self.writer.blocking_send(writer::Command::Failed(error)));
        drop(self.keeper.blocking_send(keeper::Command::Failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_ends_the_spool_and_one_that_ends_does_not() {
        for panics in [false, true] {
            let (failure, seen) = watch::channel(None);
            let (writer, mut to_writer) = mpsc::channel(1);
            let (keeper, mut to_keeper) = mpsc::channel(1);
            let alarm = Alarm { failure, writer, keeper };
            let thread = std::thread::Builder::new().name("spool-test".to_owned()).spawn(move || {
                let _alarm = alarm;
                assert!(!panics, "as it should");
            });
            assert_eq!(thread.unwrap().join().is_err(), panics);
            let said = seen.borrow().clone();
            assert_eq!(said.as_deref(), panics.then_some("the thread spool-test panicked"));
            assert_eq!(matches!(to_writer.try_recv(), Ok(writer::Command::Failed(_))), panics);
            assert_eq!(matches!(to_keeper.try_recv(), Ok(keeper::Command::Failed)), panics);
        }
    }
}
