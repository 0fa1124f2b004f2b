//! Watches roster files and says what is to be done to keep the sessions to them.
//!
//! Files are looked at every few seconds, which works on every file system and needs nothing else; a file that is
//! being written is left alone until it has looked the same twice. Whoever reads the configuration anew hands over the agents
//! that stand in it ([`Roll`]), and with SIGHUP the word that all files are to be read at once and that agents may be lost: in
//! this order, so that an agent that has moved from one to the other is not touched.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

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

/// What the rest of the daemon says of agents.
#[derive(Debug, Clone)]
pub struct Roll {
    /// Those of the configuration itself.
    pub inline: Inline,
    /// How often a person has asked for all to be read anew, which confirms that agents may be lost.
    pub confirmed: u64,
}

/// Looks at the rosters and the roll until the stop. `make` is given the changes, on a thread that may wait for files.
pub async fn watch(
    mut rosters: Rosters,
    make: impl Fn(Changes) + Send + Sync + 'static,
    metrics: Metrics,
    mut roll: Receiver<Roll>,
    stop: CancellationToken,
) {
    rosters.show(&metrics);
    let make = Arc::new(make);
    let mut known = roll.borrow_and_update().clone();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            changed = roll.changed() => if changed.is_err() {
                // Nobody says anything any more.
                return stop.cancelled().await;
            },
        }
        let called = roll.borrow_and_update().clone();
        let fresh = (!Arc::ptr_eq(&called.inline, &known.inline)).then(|| called.inline.clone());
        let confirmed = called.confirmed != known.confirmed;
        known = called;
        let (now, counted, make) = (Instant::now(), metrics.clone(), make.clone());
        // Files may lie on a disk that hangs, which holds up no stop.
        let polled = tokio::task::spawn_blocking(move || {
            let changes = rosters.poll(now, fresh, confirmed, &counted);
            if !changes.is_empty() {
                make(changes);
            }
            rosters
        });
        let Some(Ok(back)) = stop.run_until_cancelled(polled).await else { return };
        rosters = back;
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
    /// Reads the files that have changed, or all of them when that is `confirmed` or the configuration has other agents, and says
    /// what is to be done.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        inline: Option<Inline>,
        confirmed: bool,
        metrics: &Metrics,
    ) -> Changes {
        let all = confirmed || inline.is_some();
        let due: Vec<usize> = (0..self.files.len()).filter(|at| self.is_due(*at, now) || all).collect();
        if due.is_empty() && inline.is_none() {
            return Changes::default();
        }
        let loaded = self.load_with(inline, &due, confirmed);
        self.report(&due, &loaded, now, metrics);
        self.show(metrics);
        loaded.changes
    }

    fn is_due(&mut self, index: usize, now: Instant) -> bool {
        let file = &mut self.files[index];
        let stamp = Stamp::of(&file.raw.file);
        let settled = file.watched.seen == stamp;
        file.watched.seen = stamp;
        let changed = settled && stamp != file.stamp;
        changed || file.watched.retry.is_some_and(|retry| retry <= now)
    }

    /// Says what came of it. What was said before and has not changed is not said again.
    fn report(&mut self, due: &[usize], loaded: &Loaded, now: Instant, metrics: &Metrics) {
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
                tracing::error!(file = %path, agents = held, "more than half of a roster's agents are gone at once: \
                    they are kept until SIGHUP says that this is meant");
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
        let stale = self.files.iter().map(|file| &file.watched);
        let stale = stale.filter(|watched| !watched.refused.is_empty() || watched.held > 0).count();
        metrics.rosters_stale.set(i64::try_from(stale).unwrap_or(i64::MAX));
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
