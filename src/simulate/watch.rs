//! The watch for silence: one task and one heap for all agents, an entry for each session. An entry that comes
//! up too early, as the agent has been heard since, goes back with its new time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::agent::Slot;
use super::gateway::Gateway;
use super::ledger::SignOut;
use super::settings::{Settings, Switch};

/// Sessions by the time at which they may have been silent for too long.
#[derive(Debug, Default)]
pub(super) struct Watch {
    heap: Mutex<BinaryHeap<Reverse<(Instant, String, u64)>>>,
    /// Told when an entry is earlier than all others.
    sooner: Notify,
}

impl Watch {
    /// Watches a new session.
    pub(super) fn add(&self, slot: &Slot, epoch: u64, settings: &Settings) {
        if settings.timeout_flag == Switch::Off {
            return;
        }
        let push = slot.lock().session_of(epoch).is_some_and(|session| session.is_push());
        self.put(Instant::now() + allowed(push, settings), slot.id.to_string(), epoch);
    }

    fn put(&self, at: Instant, agent: String, epoch: u64) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let sooner = heap.peek().is_none_or(|Reverse((first, ..))| at < *first);
        heap.push(Reverse((at, agent, epoch)));
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// The entries due at `now`, and when the next one is.
    fn due(&self, now: Instant) -> (Vec<(String, u64)>, Option<Instant>) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some(Reverse((at, _, _))) = heap.peek() {
            if *at > now {
                return (due, Some(*at));
            }
            if let Some(Reverse((_, agent, epoch))) = heap.pop() {
                due.push((agent, epoch));
            }
        }
        (due, None)
    }
}

/// Forces silent agents out, for ever.
pub(super) async fn watch(gateway: Arc<Gateway>) {
    loop {
        let now = Instant::now();
        let (due, next) = gateway.watch.due(now);
        if !due.is_empty() {
            for (agent, epoch) in due {
                examine(&gateway, &agent, epoch, now);
            }
            continue;
        }
        tokio::select! {
            () = gateway.watch.sooner.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

fn examine(gateway: &Arc<Gateway>, agent: &str, epoch: u64, now: Instant) {
    let Some(slot) = gateway.slot(agent) else { return };
    let (deadline, reason) = {
        let mut agent = slot.lock();
        let polling = agent.polling == Some(epoch);
        let Some(session) = agent.session_of(epoch) else { return };
        let push = session.is_push();
        let heard = if polling { now } else { session.last_contact };
        let reason = if push { SignOut::HeartbeatSilence } else { SignOut::PollSilence };
        (heard + allowed(push, &gateway.settings), reason)
    };
    if deadline <= now {
        gateway.force_out(slot, Some(epoch), reason);
    } else {
        gateway.watch.put(deadline, agent.to_owned(), epoch);
    }
}

/// The longest silence in that mode.
fn allowed(push: bool, settings: &Settings) -> Duration {
    Duration::from_millis(if push { settings.handshake_max_time_ms } else { settings.max_time_ms })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
