//! Where an agent stands: a small state machine after ECMA-269 (CSTA), fed by the gateway's events.
//!
//! The gateway is always right: an event that does not fit the state before is reported as unexpected and followed
//! all the same. `AgentState_*` events decide; a call event only implies that its agent is busy, and not even that
//! for text sessions, of which an agent has several while being ready.
//!
//! A snapshot is stored with every record, so it stays small: it holds a bounded number of calls with ids of bounded length.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::body::Body;
use super::codes::TEXT;
use super::envelope::RawEvent;
use super::vocabulary::{self, Content, Effect, Entry};
use crate::clock::Timestamp;

/// Calls of one agent that are tracked at a time; the oldest makes room. Agents have up to about five text sessions.
const MAX_CALLS: usize = 8;
/// Call ids have two numbers and a hyphen, some 20 characters; longer ones are not tracked.
const MAX_ID: usize = 48;

/// What an agent is doing. The words of ECMA-269, with rest apart from other reasons of being not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// Not signed in (ECMA-269: agent null).
    SignedOut,
    /// Signed in a moment ago; the next event says what the agent is doing (agent logged on).
    SignedIn,
    /// Can be given calls (agent ready).
    Ready,
    /// Reserved for a call, or in one (agent busy).
    Busy,
    /// Cannot be given calls (agent not ready).
    NotReady,
    /// Takes a rest: not ready, agreed beforehand.
    Rest,
    /// Wraps up after a call (agent working after call).
    WorkingAfterCall,
    /// Nothing was heard of the agent yet, or the session was lost. Also the reading of a word that a later release may write.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Where a call stands at this agent (ECMA-269: local connection state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallState {
    /// It was announced to the agent and does not ring yet.
    Offered,
    /// The agent is calling.
    Initiated,
    /// It waits for the agent's answer.
    Alerting,
    /// The agent talks or writes.
    Connected,
    /// The other side waits.
    Held,
    /// The agent is out of it.
    Ended,
}

/// How a call or text session ended at an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CallOutcome {
    /// It was answered, and ended later.
    Answered,
    /// Nobody answered it in time, or it was taken away before.
    NotAnswered,
    /// Who called gave up before the answer.
    Abandoned,
    /// It could not be set up.
    Failed,
    /// The agent signed out in the middle of it.
    SignedOut,
    /// The session was lost in the middle of it: its end was not seen.
    SessionLost,
    /// Nothing was heard of it for so long that it is given up: its end was not seen.
    Expired,
    /// It made room for newer ones, because so many were open: its end was not seen.
    Displaced,
}

/// An agent at one moment. Compact as JSON: members that say nothing are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentSnapshot {
    /// What the agent is doing.
    pub state: AgentState,
    /// Since when; zero while that is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub since: Timestamp,
    /// Why the agent is not ready or rests: the gateway's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<u32>,
    /// The calls the agent has, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallSnapshot>,
}

/// A call that an agent has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSnapshot {
    /// The gateway's id of the call.
    pub id: String,
    /// Where it stands.
    pub state: CallState,
    /// Whether it is a text session, which does not make its agent busy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub text: bool,
}

/// What one event did to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before the event.
    pub before: AgentState,
    /// The state after it.
    pub after: AgentState,
    /// Whether a new stretch began: another state, or another reason for the same one.
    pub changed: bool,
    /// How long the stretch before lasted, when it ended now and its beginning is known.
    pub lasted: Option<Duration>,
    /// Whether the event does not fit the state before: something was missed, or the gateway contradicts itself.
    pub unexpected: bool,
    /// Where the event's call stood before, when that is known.
    pub call_before: Option<CallState>,
    /// Where the event's call stands now, when the event says it or it is known.
    pub call_after: Option<CallState>,
}

impl AgentSnapshot {
    /// Follows `event`, which was received at `received_at`. The event's own time counts where it has one. Cheap: the
    /// content of an event that moves nothing is not read, so that its call's state is not in the answer either.
    ///
    /// Events that are marked as repeats must not be applied: they were when they came first.
    pub fn apply(&mut self, event: &RawEvent<'_>, received_at: Timestamp) -> Transition {
        match vocabulary::lookup(&event.event_type) {
            Some(entry) if entry.effect != Effect::None => {
                self.follow(entry, &Body::read(event.content), event.time(received_at))
            }
            _ => self.unmoved(),
        }
    }

    /// Follows one of ccrelay's own events, such as `session.lost`.
    pub fn apply_session(&mut self, event_type: &str, at: Timestamp) -> Transition {
        let starts = event_type == "session.started";
        let known = !matches!(self.state, AgentState::Unknown | AgentState::SignedOut);
        match vocabulary::lookup_session(event_type) {
            // The gateway's own sign-in events may have come first and know more.
            Some(entry) if !(starts && known) => self.follow(entry, &Body::Nothing, at),
            _ => self.unmoved(),
        }
    }

    /// Where the call with this id stands.
    #[must_use]
    pub fn call_state(&self, id: &str) -> Option<CallState> {
        self.calls.iter().find(|call| call.id == id).map(|call| call.state)
    }

    pub(super) fn follow(&mut self, entry: &Entry, body: &Body<'_>, at: Timestamp) -> Transition {
        let id = body.call_id();
        let call_before = id.as_deref().and_then(|id| self.call_state(id));
        let continues = call_before.is_some() || matches!(self.state, AgentState::Busy | AgentState::Unknown);
        let unexpected = match entry.effect {
            Effect::Continues(_) => !continues,
            effect => !is_expected(self.state, effect),
        };
        let mut transition = match entry.effect {
            Effect::None | Effect::Reminds(_) => self.unmoved(),
            Effect::Enters(state) => self.enter(state, reason(entry.content, body), at),
            Effect::Leaves(_) => self.enter(AgentState::Ready, None, at),
            Effect::Continues(_) if !continues => self.unmoved(),
            Effect::Call(state) | Effect::Continues(state) => {
                let text = entry.content == Content::Chat || body.integer("mediaAbility") == Some(TEXT);
                self.move_call(id.as_deref(), state, text, at)
            }
        };
        transition.unexpected = unexpected;
        transition.call_before = call_before;
        transition.call_after = match entry.effect {
            Effect::Call(state) | Effect::Continues(state) => Some(state),
            _ => call_before,
        };
        transition
    }

    fn enter(&mut self, state: AgentState, reason: Option<u32>, at: Timestamp) -> Transition {
        match state {
            AgentState::Busy => {}
            AgentState::SignedIn | AgentState::SignedOut | AgentState::Unknown => self.calls.clear(),
            // Whoever can be in these states has no call of voice or video any more.
            _ => self.calls.retain(|call| call.text),
        }
        let before = self.state;
        if before == state && self.reason == reason {
            return self.unmoved();
        }
        let lasted = (self.since != Timestamp::default()).then(|| at.since(self.since));
        (self.state, self.reason, self.since) = (state, reason, at);
        Transition { before, changed: true, lasted, ..self.unmoved() }
    }

    fn move_call(&mut self, id: Option<&str>, state: CallState, text: bool, at: Timestamp) -> Transition {
        let known = id.and_then(|id| self.calls.iter().position(|call| call.id == id));
        let text = text || known.is_some_and(|index| self.calls[index].text);
        match (known, state) {
            (Some(index), CallState::Ended) => drop(self.calls.remove(index)),
            (Some(index), _) => self.calls[index].state = state,
            (None, CallState::Ended) => {}
            (None, _) => self.add_call(id, state, text),
        }
        let stays = text || state == CallState::Ended || self.state == AgentState::Busy;
        if stays { self.unmoved() } else { self.enter(AgentState::Busy, None, at) }
    }

    fn add_call(&mut self, id: Option<&str>, state: CallState, text: bool) {
        let Some(id) = id.filter(|id| id.len() <= MAX_ID) else { return };
        if self.calls.len() >= MAX_CALLS {
            self.calls.remove(0);
        }
        self.calls.push(CallSnapshot { id: id.to_owned(), state, text });
    }

    fn unmoved(&self) -> Transition {
        Transition {
            before: self.state,
            after: self.state,
            changed: false,
            lasted: None,
            unexpected: false,
            call_before: None,
            call_after: None,
        }
    }
}

fn reason(content: Content, body: &Body<'_>) -> Option<u32> {
    match content {
        Content::NotReadyReason | Content::RestReason => u32::try_from(body.integer("reason")?).ok(),
        _ => None,
    }
}

/// Whether an event with this effect can come in this state, had none been missed.
fn is_expected(before: AgentState, effect: Effect) -> bool {
    use AgentState::{Busy, Ready, SignedIn, SignedOut, Unknown};
    match (before, effect) {
        (Unknown, _) | (_, Effect::None | Effect::Call(CallState::Ended)) => true,
        (SignedOut, Effect::Enters(state)) => matches!(state, SignedIn | SignedOut | Unknown),
        (SignedOut, _) => false,
        (_, Effect::Enters(_) | Effect::Call(_) | Effect::Continues(_)) => true,
        // The gateway may report the new state before the success of what led to it.
        (_, Effect::Leaves(state)) => before == state || before == Ready || before == Busy,
        (_, Effect::Reminds(state)) => before == state,
    }
}

fn is_zero(time: &Timestamp) -> bool {
    time.millis() == 0
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
