//! What happens to sessions, into the spool. A session must not wait for the disk, and its agent's next push comes only
//! after its next call: so an event takes its place in the spool's order at once, before that call, and this is all that
//! has to happen for it to be stored. A task hears later what came of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::calm::Calm;
use crate::clock::Clock;
use crate::event::normalise::RecordKind;
use crate::event::report::LOGIN_TIME;
use crate::event::{AgentId, GatewayName};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::session::{Journal, LifecycleEvent, LifecycleKind};
use crate::spool::{AgentKey, AppendError, NewRecord, Queued, Spool};
use crate::trace::Traces;

/// Events that were queued and not counted yet. As many wait for the spool at most, which refuses what is more.
const UNCOUNTED: usize = 131_072;

/// Life-cycle events into the spool, in order, without making a session wait.
pub(super) struct JournalBridge {
    books: Arc<Books>,
    entries: mpsc::Sender<Entry>,
}

/// What an event needs to be stored and counted.
struct Books {
    spool: Spool,
    metrics: Metrics,
    clock: Clock,
    traces: Traces,
    calm: Calm,
}

/// An event that has its place in the spool's order.
struct Entry {
    agent: AgentKey,
    kind: LifecycleKind,
    since: Option<Instant>,
    queued: Queued,
}

impl JournalBridge {
    /// Starts the task that counts what was stored; at the stop it ends when it knows that of all.
    pub(super) fn start(
        lifecycle: &Lifecycle,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        traces: Traces,
        stop: CancellationToken,
    ) -> JournalBridge {
        let (entries, queued) = mpsc::channel(UNCOUNTED);
        let books = Arc::new(Books { spool, metrics, clock, traces, calm: Calm::default() });
        lifecycle.spawn("journal", count(books.clone(), queued, stop));
        JournalBridge { books, entries }
    }
}

/// The spool answers in the order in which it was asked, so one after another is as soon as can be.
async fn count(books: Arc<Books>, mut queued: mpsc::Receiver<Entry>, stop: CancellationToken) {
    while let Some(entry) = tokio::select! {
        biased;
        entry = queued.recv() => entry,
        () = stop.cancelled() => None,
    } {
        books.count(entry).await;
    }
}

impl Books {
    fn queue(&self, agent: AgentKey, event: &LifecycleEvent) -> Option<Entry> {
        let mut body = serde_json::json!({
            "type": event.kind.as_str(),
            "reason": event.reason,
            "retcode": event.retcode.as_ref().map(|retcode| retcode.as_str().to_owned()),
            "time": event.time.to_string(),
        });
        if let Some(time) = event.login_time {
            body[LOGIN_TIME] = time.millis().into();
        }
        let record = NewRecord {
            kind: RecordKind::Lifecycle,
            received_at: self.clock.now(),
            agent: agent.clone(),
            body: Bytes::from(body.to_string()),
            answer: None,
        };
        let (kind, since) = (event.kind, self.traces.begin());
        match self.spool.queue(record) {
            Ok(queued) => Some(Entry { agent, kind, since, queued }),
            Err(AppendError::Full) => {
                self.lost(&agent, kind, "queue_full");
                None
            }
            Err(error) => {
                self.lost(&agent, kind, reason(error));
                None
            }
        }
    }

    async fn count(&self, entry: Entry) {
        let Entry { agent, kind, since, queued } = entry;
        match queued.stored().await {
            Ok(appended) => {
                self.traces.recorded("session event", &agent.gateway, appended.offset, since);
                self.metrics.events.with_label_values(&["session"]).inc();
            }
            Err(error) => self.lost(&agent, kind, reason(error)),
        }
    }

    fn lost(&self, agent: &AgentKey, kind: LifecycleKind, reason: &'static str) {
        self.metrics.session_events_lost.with_label_values(&[agent.gateway.as_str(), reason]).inc();
        if let Some(left_out) = self.calm.due(reason) {
            tracing::error!(gateway = %agent.gateway, agent_id = %agent.agent_id, kind = kind.as_str(), reason, left_out,
                "an event of a session's life was not stored");
        }
    }
}

fn reason(error: AppendError) -> &'static str {
    match error {
        AppendError::Full => "spool_full",
        AppendError::Failed => "spool_failed",
        AppendError::Closed => "stopping",
    }
}

impl Journal for JournalBridge {
    fn record(&self, gateway: &GatewayName, agent_id: &AgentId, event: LifecycleEvent) {
        let agent = AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() };
        if let Some(entry) = self.books.queue(agent, &event)
            && self.entries.try_send(entry).is_err()
        {
            // A session that outlives the stop's patience; a close of the spool stores its event all the same.
            tracing::debug!(%gateway, %agent_id, "an event of a session's life is not counted");
        }
    }
}

#[cfg(test)]
mod tests;
