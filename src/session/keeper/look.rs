//! A few of many sessions, for people who turn pages: all are glanced at, only those that are shown are looked at closely.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Sessions, Slot};
use crate::event::{AgentId, GatewayName};
use crate::session::status::{SessionView, Shared};

/// What of a session says whether it is shown, and where. Nothing is allocated for it.
#[derive(Debug, Clone, Copy)]
pub struct Glance<'a> {
    shared: &'a Shared,
    now: Instant,
}

impl<'a> Glance<'a> {
    /// Whose gateway.
    #[must_use]
    pub fn gateway(self) -> &'a GatewayName {
        self.shared.gateway()
    }

    /// Whose session.
    #[must_use]
    pub fn agent_id(self) -> &'a AgentId {
        &self.shared.agent_id
    }

    /// Its state, as in [`SessionView`].
    #[must_use]
    pub fn state(self) -> &'static str {
        self.shared.state().as_str()
    }

    /// Whether that is why it is suspended, was lost, or is degraded, be it for other reasons too.
    #[must_use]
    pub fn has_reason(self, reason: &str) -> bool {
        self.shared.has_reason(reason)
    }

    /// Time before the gateway would sign the agent out; `None` without a session.
    #[must_use]
    pub fn sign_out_budget(self) -> Option<Duration> {
        self.shared.budget(self.now)
    }
}

/// A session that is to be shown, as far as another one does not come before it.
struct Placed {
    urgency: u64,
    shared: Arc<Shared>,
}

/// Where a session stands among others: by urgency, then by gateway and number; ids of different length are in the order of their
/// numbers. Nothing is copied for it: of the many that are compared few are kept.
#[must_use]
pub fn place<'a>(
    urgency: u64,
    gateway: &'a GatewayName,
    agent_id: &'a AgentId,
) -> (u64, &'a str, usize, &'a str) {
    let id = agent_id.as_str();
    (urgency, gateway.as_str(), id.len(), id)
}

impl Placed {
    fn place(&self) -> (u64, &str, usize, &str) {
        place(self.urgency, self.shared.gateway(), &self.shared.agent_id)
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Placed) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Placed {}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Placed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Placed) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl Sessions {
    /// The first `most` sessions by the urgency that `urgency` gives them (the least first), then by gateway and number, each with its
    /// urgency; those to which it gives none are left out.
    pub fn first(
        &self,
        most: usize,
        mut urgency: impl FnMut(Glance<'_>) -> Option<u64>,
    ) -> Vec<(u64, SessionView)> {
        let now = Instant::now();
        // The last of those that were found is on top, to give way to one that comes before it.
        let mut found: BinaryHeap<Placed> = BinaryHeap::with_capacity(most.saturating_add(1));
        for kept in self.inner.gateways.values() {
            for Slot { shared, .. } in kept.read().values() {
                let Some(urgency) = urgency(Glance { shared, now }) else { continue };
                let before =
                    |last: &Placed| place(urgency, shared.gateway(), &shared.agent_id) < last.place();
                if found.len() < most || found.peek().is_some_and(before) {
                    found.push(Placed { urgency, shared: shared.clone() });
                }
                if found.len() > most {
                    found.pop();
                }
            }
        }
        let view = |placed: Placed| (placed.urgency, placed.shared.view(now));
        found.into_sorted_vec().into_iter().map(view).collect()
    }
}
