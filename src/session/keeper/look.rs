//! A few of many sessions, for people who turn pages: all are glanced at, only those that are shown are looked at closely.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Sessions;
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

    /// Its state, and why it is suspended, was lost, or is degraded, as in [`SessionView`].
    #[must_use]
    pub fn state_and_reason(self) -> (&'static str, Option<&'static str>) {
        self.shared.state_and_reason()
    }

    /// Time before the gateway would sign the agent out; `None` without a session.
    #[must_use]
    pub fn sign_out_budget(self) -> Option<Duration> {
        self.shared.budget(self.now)
    }
}

/// A session and its place; places alone are compared.
struct Placed<P> {
    place: P,
    shared: Arc<Shared>,
}

impl<P: Ord> PartialEq for Placed<P> {
    fn eq(&self, other: &Placed<P>) -> bool {
        self.place == other.place
    }
}

impl<P: Ord> Eq for Placed<P> {}

impl<P: Ord> PartialOrd for Placed<P> {
    fn partial_cmp(&self, other: &Placed<P>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Ord> Ord for Placed<P> {
    fn cmp(&self, other: &Placed<P>) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl Sessions {
    /// The first `most` sessions in the order of their places, each with its place; those without one are left out.
    pub fn first<P: Ord>(
        &self,
        most: usize,
        mut place: impl FnMut(Glance<'_>) -> Option<P>,
    ) -> Vec<(P, SessionView)> {
        let now = Instant::now();
        // The last of those that were found is on top, to give way to one that comes before it.
        let mut found = BinaryHeap::with_capacity(most.saturating_add(1));
        for kept in self.inner.gateways.values() {
            for slot in kept.read().values() {
                let Some(place) = place(Glance { shared: &slot.shared, now }) else { continue };
                if found.len() < most || found.peek().is_some_and(|last: &Placed<P>| place < last.place) {
                    found.push(Placed { place, shared: slot.shared.clone() });
                }
                if found.len() > most {
                    found.pop();
                }
            }
        }
        let view = |Placed { place, shared }: Placed<P>| (place, shared.view(now));
        found.into_sorted_vec().into_iter().map(view).collect()
    }
}
