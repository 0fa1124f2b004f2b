//! Bodies of pushes that have not come with their heads. The gateway pushes for one agent at a time, and repeats what failed 10 s later,
//! so few of an agent's bodies can be under way. More come of somebody who has its token and ends no request: each keeps a connection
//! for as long as a body may take. So there are [`MOST`] of an agent at a time, and the oldest gives way to one more: the newest is
//! what the gateway waits for, if any of them is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::body::Room;
use crate::spool::AgentKey;

/// Bodies of one agent that are waited for at a time.
const MOST: usize = 8;

/// Bodies that are waited for.
#[derive(Debug, Default)]
pub struct Bodies {
    /// Where large ones have their place.
    pub(super) room: Room,
    /// Those of each agent that has any, the oldest first.
    awaited: Mutex<HashMap<AgentKey, VecDeque<Ticket>>>,
}

/// Tells one body from the others: the token that says that it gives way.
type Ticket = (u64, CancellationToken);

/// A body that is waited for, until this is dropped.
#[derive(Debug)]
pub(super) struct Awaited<'a> {
    bodies: &'a Bodies,
    /// Whose it is; none where many share a token.
    agent: Option<AgentKey>,
    number: u64,
    gives_way: CancellationToken,
}

impl Bodies {
    /// One more is waited for. Where nobody knows whose it is before it has come, there may be any number.
    pub(super) fn await_one(&self, agent: Option<AgentKey>) -> Awaited<'_> {
        let gives_way = CancellationToken::new();
        let mut number = 0;
        if let Some(agent) = &agent {
            let mut awaited = self.lock();
            let of_agent = awaited.entry(agent.clone()).or_default();
            number = of_agent.back().map_or(0, |(newest, _)| newest + 1);
            if of_agent.len() >= MOST
                && let Some((_, oldest)) = of_agent.pop_front()
            {
                oldest.cancel();
            }
            of_agent.push_back((number, gives_way.clone()));
        }
        Awaited { bodies: self, agent, number, gives_way }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentKey, VecDeque<Ticket>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited<'_> {
    /// Returns when it has to give way.
    pub(super) async fn gave_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(agent) = &self.agent else { return };
        let mut awaited = self.bodies.lock();
        if let Some(of_agent) = awaited.get_mut(agent) {
            of_agent.retain(|(number, _)| *number != self.number);
            if of_agent.is_empty() {
                awaited.remove(agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AgentId, GatewayName};

    fn agent(id: &str) -> Option<AgentKey> {
        let (gateway, agent_id) = (GatewayName::parse("main").unwrap(), AgentId::parse(id).unwrap());
        Some(AgentKey { gateway, agent_id })
    }

    fn giving_way(awaited: &[Awaited<'_>]) -> Vec<usize> {
        let giving_way = awaited.iter().enumerate().filter(|(_, body)| body.gives_way.is_cancelled());
        giving_way.map(|(at, _)| at).collect()
    }

    #[test]
    fn an_agents_oldest_body_gives_way_to_one_too_many_and_no_other_agents() {
        let bodies = Bodies::default();
        let other = bodies.await_one(agent("1002"));
        let mut awaited: Vec<_> = (0..MOST).map(|_| bodies.await_one(agent("1001"))).collect();
        assert!(giving_way(&awaited).is_empty());
        awaited.push(bodies.await_one(agent("1001")));
        assert_eq!(giving_way(&awaited), [0]);
        // One that has come makes room.
        drop(awaited.remove(3));
        awaited.push(bodies.await_one(agent("1001")));
        assert_eq!(giving_way(&awaited), [0]);
        // One that has given way already takes none.
        drop(awaited.remove(0));
        awaited.push(bodies.await_one(agent("1001")));
        assert_eq!(giving_way(&awaited), [0]);
        let unknown: Vec<_> = (0..2 * MOST).map(|_| bodies.await_one(None)).collect();
        assert!(giving_way(&unknown).is_empty() && !other.gives_way.is_cancelled());
        drop((awaited, other));
        assert!(bodies.lock().is_empty());
    }
}
