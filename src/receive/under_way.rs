//! A push between its head and its answer. The gateway waits some seconds for an answer and then closes the connection, and with
//! that the push's handler is dropped, wherever it waits: most likely for the disk. For the gateway that is a failed push like any
//! other, so it has to count like any other.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::PushObserver;
use crate::calm::Calm;
use crate::metrics::Metrics;
use crate::request::RequestId;
use crate::spool::AgentKey;

/// The label of `ccrelay_push_failures_total` for a push whose connection ended before it was answered.
const PEER_GONE: &str = "peer_gone";

/// Says how a push ended, also where nobody is left to be answered. What was stored of it is counted by the spool.
pub(super) struct UnderWay<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) observer: &'a dyn PushObserver,
    pub(super) calm: &'a Calm,
    pub(super) began: Instant,
    pub(super) peer: SocketAddr,
    pub(super) request_id: RequestId,
    /// Whose push it is beyond doubt, as soon as that is known.
    pub(super) agent: Option<AgentKey>,
    /// Its answer is certain.
    pub(super) over: bool,
}

impl UnderWay<'_> {
    /// It was stored, and is answered with success.
    pub(super) fn stored(mut self) {
        self.over = true;
        self.took("stored");
    }

    /// It is answered with a refusal, which counts against this agent.
    pub(super) fn refused(mut self, agent: Option<AgentKey>) {
        self.over = true;
        self.agent = agent;
        self.failed();
    }

    fn failed(&self) {
        self.took("refused");
        if let Some(agent) = &self.agent {
            self.observer.refused(agent);
        }
    }

    fn took(&self, outcome: &str) {
        self.metrics.push_duration.with_label_values(&[outcome]).observe(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.failed();
        self.metrics.push_failures.with_label_values(&[PEER_GONE]).inc();
        if let Some(left_out) = self.calm.due_about(PEER_GONE, self.peer.ip()) {
            let (request_id, peer, reason) = (self.request_id, self.peer, PEER_GONE);
            let waited_secs = self.began.elapsed().as_secs_f64();
            tracing::warn!(%request_id, reason, %peer, left_out, waited_secs, "push refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::envelope::RawEvent;
    use crate::event::{AgentId, GatewayName};
    use crate::request::RequestIds;

    #[derive(Default)]
    struct Seen(Mutex<Vec<AgentKey>>);

    impl PushObserver for Seen {
        fn stored(&self, _: &AgentKey, _: &[RawEvent<'_>]) {}

        fn refused(&self, agent: &AgentKey) {
            self.0.lock().unwrap().push(agent.clone());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_that_is_dropped_unfinished_has_failed_and_one_that_is_answered_counts_once() {
        let (metrics, seen, calm) = (Metrics::new([], []).unwrap(), Seen::default(), Calm::default());
        let agent = AgentKey {
            gateway: GatewayName::parse("main").unwrap(),
            agent_id: AgentId::parse("1001").unwrap(),
        };
        let push = || UnderWay {
            metrics: &metrics,
            observer: &seen,
            calm: &calm,
            began: Instant::now(),
            peer: "192.0.2.1:4711".parse().unwrap(),
            request_id: RequestIds::default().next(),
            agent: Some(agent.clone()),
            over: false,
        };
        let counted = || {
            let took = |outcome| metrics.push_duration.with_label_values(&[outcome]).get_sample_count();
            let gone = metrics.push_failures.with_label_values(&[PEER_GONE]).get();
            (gone, took("stored"), took("refused"), seen.0.lock().unwrap().len())
        };
        let stalled = push();
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        drop(stalled);
        assert_eq!(counted(), (1, 0, 1, 1));
        assert!(metrics.push_duration.with_label_values(&["refused"]).get_sample_sum() >= 3.0);
        push().stored();
        assert_eq!(counted(), (1, 1, 1, 1));
        push().refused(Some(agent.clone()));
        assert_eq!(counted(), (1, 1, 2, 2));
    }
}
