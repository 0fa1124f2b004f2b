//! Whose calls say something of an address: those of agents who were answered there of late.
//!
//! A gateway may fail one agent and serve all others: old ones answer 404 to an id outside their pattern, and any may
//! have trouble with one record. Calls come in bunches, so such an agent alone can fail for seconds on end between two
//! good answers. That must move nobody. So while there are agents who were answered, only their failures count, and of
//! so many of them that it is not their own trouble. Where nobody was answered, as after a start, all failures count.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::AgentId;

/// Two, and one in so many of the others: with heartbeats spread over their interval, a quarter fails within that part of it.
const PART: usize = 4;
/// As many are enough, however many there are: of a gateway that hangs only so many calls are under way at a time.
const ENOUGH: usize = 24;

/// The agents who were answered at the address in use.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    answered: HashMap<AgentId, Instant>,
    /// Whose calls have failed since the last answer.
    failing: HashSet<AgentId>,
}

impl Witnesses {
    /// The gateway has answered, a call of this agent where it is known whose.
    pub(super) fn answered(&mut self, agent_id: Option<&AgentId>, now: Instant) {
        self.failing.clear();
        if let Some(agent_id) = agent_id {
            self.answered.insert(agent_id.clone(), now);
        }
    }

    /// A call of this agent has failed.
    pub(super) fn failed(&mut self, agent_id: Option<&AgentId>) {
        self.failing.extend(agent_id.cloned());
    }

    /// Whether it is the address that fails, as far as those say who were answered within `memory`.
    pub(super) fn agree(&mut self, memory: Duration, now: Instant) -> bool {
        self.answered.retain(|_, at| now.saturating_duration_since(*at) < memory);
        let there = self.answered.len();
        let failing = self.failing.iter().filter(|agent_id| self.answered.contains_key(*agent_id)).count();
        failing >= there.min(2 + there / PART).min(ENOUGH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(60);

    fn agent(n: usize) -> AgentId {
        AgentId::parse(&(1001 + n).to_string()).unwrap()
    }

    fn failing(answered: usize, failing: std::ops::Range<usize>) -> bool {
        let (mut witnesses, now) = (Witnesses::default(), Instant::now());
        (0..answered).for_each(|n| witnesses.answered(Some(&agent(n)), now));
        failing.for_each(|n| witnesses.failed(Some(&agent(n))));
        witnesses.agree(MEMORY, now)
    }

    #[test]
    fn few_of_many_say_nothing_of_the_address_and_strangers_never_do() {
        for (answered, least) in [(1, 1), (2, 2), (3, 2), (60, 17), (5000, ENOUGH)] {
            assert!(!failing(answered, 0..least - 1), "{answered}");
            assert!(failing(answered, 0..least), "{answered}");
            assert!(!failing(answered, answered..answered + 1000), "{answered}");
        }
    }

    #[test]
    fn where_nobody_was_answered_of_late_anybody_counts() {
        assert!(failing(0, 0..1));
        let (mut witnesses, start) = (Witnesses::default(), Instant::now());
        witnesses.answered(Some(&agent(0)), start);
        witnesses.failed(Some(&agent(1)));
        assert!(!witnesses.agree(MEMORY, start + MEMORY / 2));
        assert!(witnesses.agree(MEMORY, start + MEMORY));
    }

    #[test]
    fn an_answer_to_anybody_begins_the_count_anew() {
        let (mut witnesses, now) = (Witnesses::default(), Instant::now());
        witnesses.answered(Some(&agent(0)), now);
        witnesses.failed(Some(&agent(0)));
        assert!(witnesses.agree(MEMORY, now));
        witnesses.answered(None, now);
        assert!(!witnesses.agree(MEMORY, now));
    }
}
