//! Watches roster files and says what is to be done to keep the sessions to them.
//!
//! Files are looked at every few seconds, which works on every file system and needs nothing else; a file that is
//! being written is left alone until it has looked the same twice. Whoever reads the configuration anew hands over the agents
//! that stand in it, and then the wish that all files be read ([`Desk`](super::Desk)): in this order, so that an agent that has moved
//! from one to the other is not touched. Only a wish that says so lets agents be lost in any number.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::wish::{Asked, Standing, Wish};
use super::{Changes, Inline, Loaded, Mistake, Rosters};
use crate::metrics::Metrics;
use crate::session::Sessions;
use crate::stamp::Stamp;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often a file that could not be used is read again, since what it lacks may be elsewhere: a password's file.
const RETRY: Duration = Duration::from_secs(30);
/// Mistakes of one file that are logged one by one.
const MOST_LOGGED: usize = 50;

/// What is known of a file while it is watched.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// What the file looked like the last time.
    seen: Option<Stamp>,
    /// Why the file as it is now is not in force.
    refused: Vec<Mistake>,
    /// How many agents it has lost that are kept.
    held: usize,
    /// When it is read again though it has not changed.
    retry: Option<Instant>,
}

/// What came of a look at the files.
#[derive(Debug, Default)]
pub(super) struct Polled {
    /// What is to be done.
    pub(super) changes: Changes,
    /// Files of which there is something to be said.
    pub(super) standings: Vec<Standing>,
}

/// Looks at the rosters until the stop, at the agents of the configuration itself (`roll`) and at wishes. `make` is given the
/// changes, on a thread that may wait for files.
pub async fn watch(
    mut rosters: Rosters,
    make: impl Fn(Changes) + Send + Sync + 'static,
    metrics: Metrics,
    mut roll: Receiver<Inline>,
    mut wishes: mpsc::Receiver<Wish>,
    stop: CancellationToken,
) {
    rosters.show(&metrics);
    let make = Arc::new(make);
    let mut known = roll.borrow_and_update().clone();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: Vec<Wish> = Vec::new();
    loop {
        let ticked = tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => true,
            Some(wish) = wishes.recv() => {
                waiting.push(wish);
                false
            }
            changed = roll.changed() => match changed {
                Ok(()) => false,
                // Nobody says anything any more.
                Err(_) => return stop.cancelled().await,
            },
        };
        while let Ok(wish) = wishes.try_recv() {
            waiting.push(wish);
        }
        let called = roll.borrow_and_update().clone();
        let fresh = (!Arc::ptr_eq(&called, &known)).then(|| called.clone());
        known = called;
        // A wish waits for files that have just changed, but not for ever.
        let (asked, patient) = (waiting.iter().map(|wish| wish.asked).max().unwrap_or(Asked::Not), !ticked);
        let (now, counted, make) = (Instant::now(), metrics.clone(), make.clone());
        // Files may lie on a disk that hangs, which holds up no stop.
        let polled = tokio::task::spawn_blocking(move || {
            let wait = patient && asked > Asked::Not && fresh.is_none() && !rosters.have_settled();
            if wait {
                return (rosters, None);
            }
            let Polled { changes, standings } = rosters.poll(now, fresh, asked, &counted);
            if !changes.is_empty() {
                make(changes);
            }
            (rosters, Some(standings))
        });
        let Some(Ok((back, standings))) = stop.run_until_cancelled(polled).await else { return };
        rosters = back;
        let Some(standings) = standings else {
            // The next look is a whole interval after this one.
            ticks.reset();
            continue;
        };
        for wish in waiting.drain(..) {
            // Who asked may have gone.
            drop(wish.tell.send(standings.clone()));
        }
    }
}

/// Keeps the sessions to the changes.
pub fn apply(changes: Changes, sessions: &Sessions) {
    for (gateway, agent_id) in &changes.remove {
        sessions.remove(gateway, agent_id);
    }
    for agent in changes.put {
        let (gateway, agent_id) = (agent.gateway.clone(), agent.id.clone());
        if let Err(error) = sessions.put(agent) {
            tracing::error!(%gateway, %agent_id, %error, "an agent of a roster is not taken in");
        }
    }
}

impl Rosters {
    /// Reads the files that have changed, and those that have settled when somebody has `asked`, or all of them when the
    /// configuration has other agents; and says what is to be done.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        inline: Option<Inline>,
        asked: Asked,
        metrics: &Metrics,
    ) -> Polled {
        let (mut due, mut unsettled) = (Vec::new(), Vec::new());
        for index in 0..self.files.len() {
            let settled = self.look(index);
            if inline.is_some() || self.is_due(index, settled, now) || (settled && asked > Asked::Not) {
                due.push(index);
            } else if !settled {
                unsettled.push(index);
            }
        }
        if due.is_empty() && inline.is_none() {
            return Polled {
                changes: Changes::default(),
                standings: self.standings(&Loaded::default(), &unsettled),
            };
        }
        let loaded = self.load_with(inline, &due, asked == Asked::Removals);
        self.report(&due, &loaded, asked, now, metrics);
        self.show(metrics);
        let standings = self.standings(&loaded, &unsettled);
        Polled { changes: loaded.changes, standings }
    }

    /// Looks at a file: whether it looks as it did the last time.
    fn look(&mut self, index: usize) -> bool {
        let file = &mut self.files[index];
        let stamp = Stamp::of(&file.raw.file);
        let settled = file.watched.seen == stamp || file.stamp == stamp;
        file.watched.seen = stamp;
        settled
    }

    /// Whether no file has changed since it was read or looked at. What has is looked at from here on.
    pub(super) fn have_settled(&mut self) -> bool {
        let settled: Vec<bool> = (0..self.files.len()).map(|index| self.look(index)).collect();
        settled.into_iter().all(|settled| settled)
    }

    fn is_due(&self, index: usize, settled: bool, now: Instant) -> bool {
        let file = &self.files[index];
        let changed = settled && file.watched.seen != file.stamp;
        changed || file.watched.retry.is_some_and(|retry| retry <= now)
    }

    /// What is to be said of each file.
    fn standings(&self, loaded: &Loaded, unsettled: &[usize]) -> Vec<Standing> {
        let of = |counts: &[(usize, usize)], index: usize| {
            counts.iter().find(|(at, _)| *at == index).map_or(0, |(_, count)| *count)
        };
        let standing = |(index, file): (usize, &super::RosterFile)| Standing {
            file: file.raw.file.clone(),
            put: of(&loaded.put, index),
            removed: of(&loaded.removed, index),
            held: file.watched.held,
            mistakes: file.watched.refused.len(),
            being_written: unsettled.contains(&index),
        };
        self.files.iter().enumerate().map(standing).filter(|standing| !standing.is_silent()).collect()
    }

    /// Says what came of it. What was said before and has not changed is not said again.
    fn report(&mut self, due: &[usize], loaded: &Loaded, asked: Asked, now: Instant, metrics: &Metrics) {
        for &index in due {
            let file = &mut self.files[index];
            let refused = loaded.refused.iter().find(|(at, _)| *at == index);
            let refused = refused.map_or(&[][..], |(_, mistakes)| mistakes);
            let held = loaded.held.iter().find(|(at, _)| *at == index).map_or(0, |(_, held)| *held);
            let path = file.raw.file.display();
            if !refused.is_empty() && file.watched.refused != refused {
                metrics.roster_reload_failures.inc();
                log_mistakes(&path, refused);
            }
            if held > 0 && file.watched.held != held {
                metrics.roster_reload_failures.inc();
            }
            // Whoever asks, by SIGHUP perhaps, reads the answer here.
            if held > 0 && (file.watched.held != held || asked > Asked::Not) {
                tracing::error!(file = %path, agents = held, "more than half of a roster's agents are gone at once: \
                    they are kept until `ccrelay reload --confirm-removals` says that this is meant");
            }
            if refused.is_empty() && !file.watched.refused.is_empty() {
                tracing::warn!(file = %path, "the roster is in force again");
            }
            file.watched.refused = refused.to_vec();
            file.watched.held = held;
            file.watched.retry = (!refused.is_empty()).then(|| now + RETRY);
        }
        let changes = &loaded.changes;
        if !changes.is_empty() {
            let (put, removed) = (changes.put.len(), changes.remove.len());
            tracing::info!(put, removed, "the roster has changed");
        }
    }

    fn show(&self, metrics: &Metrics) {
        let mut standings = self.standings(&Loaded::default(), &[]);
        standings.retain(|standing| standing.why_stale().is_some());
        metrics.rosters_stale.set(i64::try_from(standings.len()).unwrap_or(i64::MAX));
        self.stale.store(Arc::new(standings));
        for name in self.gateways.keys() {
            let inline = self.inline.iter().filter(|agent| agent.gateway.as_str() == name).count();
            let agents = self.agents().filter(|agent| agent.gateway.as_str() == name).count() + inline;
            let gauge = metrics.roster_agents.with_label_values(&[name]);
            gauge.set(i64::try_from(agents).unwrap_or(i64::MAX));
        }
    }
}

fn log_mistakes(path: &dyn std::fmt::Display, mistakes: &[Mistake]) {
    for mistake in mistakes.iter().take(MOST_LOGGED) {
        let (line, column) = (mistake.line, mistake.column.as_deref());
        tracing::error!(file = %path, line, column, error = mistake.message, "a mistake in a roster");
    }
    tracing::error!(file = %path, mistakes = mistakes.len(), "the roster has mistakes: what was read from it before \
        stays in force");
}
