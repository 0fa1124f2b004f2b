//! Where an agent stands: a small state machine after ECMA-269 (CSTA), fed by the gateway's events.
//!
//! The gateway is always right: an event that does not fit the state before is reported as unexpected and followed
//! all the same. `AgentState_*` events decide; a call event only implies that its agent is busy, and not even that
//! for text sessions, of which an agent has several while being ready.
//!
//! A snapshot is stored with every record, so it stays small: it holds a bounded number of calls with ids of bounded length.

use std::borrow::Cow;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::calls::{self, MAX_CALLS};
pub use super::calls::{CallOutcome, CallSnapshot, CallState, EndedCall};
use super::envelope::RawEvent;
use super::json::{self, Members};
use super::report::{LOGIN_TIME, Report};
use super::vocabulary::{self, Effect};
use crate::clock::Timestamp;

/// Times of sign-in that are nearer to each other are those of one session, told by two parts of the gateway.
const ONE_SESSION: Duration = Duration::from_secs(1);

/// What an agent is doing. The words of ECMA-269, with rest apart from other reasons of being not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
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

impl AgentState {
    /// All of them.
    pub const ALL: &[AgentState] = &[
        AgentState::SignedOut,
        AgentState::SignedIn,
        AgentState::Ready,
        AgentState::Busy,
        AgentState::NotReady,
        AgentState::Rest,
        AgentState::WorkingAfterCall,
        AgentState::Unknown,
    ];

    /// As label of a metric.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            AgentState::SignedOut => "signed_out",
            AgentState::SignedIn => "signed_in",
            AgentState::Ready => "ready",
            AgentState::Busy => "busy",
            AgentState::NotReady => "not_ready",
            AgentState::Rest => "rest",
            AgentState::WorkingAfterCall => "working_after_call",
            AgentState::Unknown => "unknown",
        }
    }
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
    /// When the session that there is began, by the gateway's clock: what is known of that from the answer to our sign-in.
    #[serde(rename = "session", skip_serializing_if = "Option::is_none")]
    pub signed_in_at: Option<Timestamp>,
    /// The calls the agent has, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallSnapshot>,
    /// The call that came to nothing last, until there is another: a second word of its failure is not a second failure.
    #[serde(rename = "gone", skip_serializing_if = "Option::is_none")]
    pub came_to_nothing: Option<String>,
}

/// What one event did to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The calls that ended with it, oldest first. Each is one event more, `ccrelay.call.ended`.
    pub ended: Vec<EndedCall>,
}

impl AgentSnapshot {
    /// Follows `event`, which was received at `received_at`. The event's own time counts where it has one. Cheap: the
    /// content of an event that moves nothing is not read, so that its call's state is not in the answer either.
    ///
    /// Events that are marked as repeats must not be applied: they were when they came first. Nor those of another agent.
    pub fn apply(&mut self, event: &RawEvent<'_>, received_at: Timestamp) -> Transition {
        self.apply_report(Report::of(event).as_ref(), event.time(received_at))
    }

    /// Follows what an event reported that happened at `at`; the event has none when it moves nothing.
    pub fn apply_report(&mut self, report: Option<&Report<'_>>, at: Timestamp) -> Transition {
        match report {
            Some(report) => self.follow(report, at),
            None => self.pass(at),
        }
    }

    /// Follows the body of a life-cycle record, read as the normaliser reads it.
    pub fn apply_own(&mut self, body: &[u8], at: Timestamp) -> Transition {
        match members(body) {
            Some(members) => self.apply_members(&members, at),
            None => self.apply_session("", at),
        }
    }

    /// The same, where the body has been read.
    pub(super) fn apply_members(&mut self, members: &Members<'_>, at: Timestamp) -> Transition {
        let text = |name| members.value(name).and_then(json::text).unwrap_or_default();
        let name = text("type");
        // One that is resumed began when it began. Of one that another program began nobody has told us when.
        if name == "session.started" && text("reason") != "resumed" {
            self.signed_in_at = members.value(LOGIN_TIME).and_then(json::time);
        }
        self.apply_session(&name, at)
    }

    /// Follows one of ccrelay's own events, such as `session.lost`.
    pub fn apply_session(&mut self, event_type: &str, at: Timestamp) -> Transition {
        let starts = event_type == "session.started";
        let known = !matches!(self.state, AgentState::Unknown | AgentState::SignedOut);
        match vocabulary::lookup_session(event_type) {
            // The gateway's own sign-in events may have come first and know more.
            Some(entry) if !(starts && known) => self.follow(&Report::bare(entry), at),
            _ => self.pass(at),
        }
    }

    /// Notes of calls that began with an event of this time when it was received: how long a call is silent is by our clock, and
    /// the gateway's may be far behind.
    pub fn note_receipt(&mut self, at: Timestamp, received_at: Timestamp) {
        for call in self.calls.iter_mut().filter(|call| call.began == at) {
            call.note_receipt(received_at);
        }
    }

    /// Marks the calls of which nothing was heard for longer than `age`: unless the next event names them, they end
    /// with it as expired.
    pub fn mark_due(&mut self, now: Timestamp, age: Duration) {
        for call in &mut self.calls {
            call.due = is_due(call, now, age);
        }
    }

    /// Whether [`AgentSnapshot::mark_due`] would change anything.
    #[must_use]
    pub fn has_marks_to_change(&self, now: Timestamp, age: Duration) -> bool {
        self.calls.iter().any(|call| call.due != is_due(call, now, age))
    }

    pub(super) fn follow(&mut self, report: &Report<'_>, at: Timestamp) -> Transition {
        let (entry, id) = (report.entry, report.call_id.as_deref());
        let call = calls::position(&self.calls, entry, id);
        let call_before = call.map(|index| self.calls[index].state);
        let in_call = matches!(self.state, AgentState::Busy | AgentState::Unknown);
        let continues = call.is_some() || in_call;
        // Some see work reported as soon as the agent is reserved.
        let may_call = in_call || self.state == AgentState::WorkingAfterCall;
        let late =
            entry.effect == Effect::Enters(AgentState::SignedOut) && self.is_of_an_earlier_session(report);
        let unexpected = match entry.effect {
            _ if late => true,
            Effect::Continues(_) => !continues,
            effect => !is_expected(self.state, effect),
        };
        // What moves nothing is not read at receipt, so nothing may be noted of it here.
        if let Some(index) = call.filter(|_| entry.effect != Effect::None) {
            self.calls[index].note(report, at);
        }
        let mut heard = Heard { report, call, at, ended: Vec::new() };
        let (moved, call_after) = match entry.effect {
            Effect::None | Effect::Reminds(_) | Effect::Notes => (None, call_before),
            _ if late => (None, call_before),
            Effect::Enters(state) => (self.enter(state, report.reason, &mut heard), call_before),
            // The success of what led to it may be told late: whoever is busy by now, in a call perhaps, stays so.
            Effect::Leaves(_) if self.state == AgentState::Busy => (None, call_before),
            Effect::Leaves(_) => (self.enter(AgentState::Ready, None, &mut heard), call_before),
            Effect::Continues(_) if !continues => (None, None),
            Effect::Call(state) | Effect::Continues(state) => {
                let state = calls::state_after(state, call.map(|index| &self.calls[index]), report);
                (self.move_call(state, &mut heard), Some(state))
            }
            Effect::Offers if call.is_some() => (None, call_before),
            Effect::Offers => (self.move_call(CallState::Offered, &mut heard), Some(CallState::Offered)),
            Effect::Reaches if call.is_none() && may_call && id.is_some() => {
                (self.move_call(CallState::Initiated, &mut heard), Some(CallState::Initiated))
            }
            Effect::Reaches => (None, call_before),
            Effect::Fails if call.is_none_or(|index| self.calls[index].answered.is_some()) => {
                (None, call_before)
            }
            Effect::Fails => (self.move_call(CallState::Ended, &mut heard), Some(CallState::Ended)),
        };
        if let Some(gone) = heard.ended.iter().rfind(|ended| !ended.call.established) {
            self.came_to_nothing = Some(gone.call.id.clone());
        }
        let mut transition = self.moved(moved, at);
        transition.ended = heard.ended;
        transition.unexpected = unexpected;
        (transition.call_before, transition.call_after) = (call_before, call_after);
        self.expire(at, &mut transition.ended);
        transition
    }

    /// Whether the session whose end it reports was over when the present one began. The gateway tells it late then, as it
    /// does after a forced sign-in: whoever believed it would end a call that goes on.
    fn is_of_an_earlier_session(&self, report: &Report<'_>) -> bool {
        let times = report.signed_in_at.zip(self.signed_in_at);
        times.is_some_and(|(ended, present)| ended.plus(ONE_SESSION) < present)
    }

    /// An event that moves nothing; calls may be overdue all the same.
    fn pass(&mut self, at: Timestamp) -> Transition {
        let mut transition = self.unmoved();
        self.expire(at, &mut transition.ended);
        transition
    }

    fn enter(&mut self, state: AgentState, reason: Option<u32>, heard: &mut Heard<'_>) -> Option<Stretch> {
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.calls).into_iter().partition(|call| ends_in(state, call));
        self.calls = kept;
        heard.ended.extend(gone.into_iter().filter_map(|call| match state {
            AgentState::SignedIn | AgentState::SignedOut => call.ended(CallOutcome::SignedOut, heard.at),
            AgentState::Unknown => call.ended(CallOutcome::SessionLost, heard.at),
            _ => call.ended_by(heard.report.entry.event_type, heard.at),
        }));
        if self.state == state && self.reason == reason {
            return None;
        }
        let stretch = Stretch { state: self.state, since: self.since };
        (self.state, self.reason, self.since) = (state, reason, heard.at);
        Some(stretch)
    }

    fn move_call(&mut self, state: CallState, heard: &mut Heard<'_>) -> Option<Stretch> {
        let known = heard.call.is_some_and(|index| self.calls[index].text);
        let text = known || heard.report.text;
        match (heard.call, state) {
            (Some(index), CallState::Ended) => {
                let call = self.calls.remove(index);
                heard.ended.extend(call.ended_by(heard.report.entry.event_type, heard.at));
            }
            (Some(index), _) => self.calls[index].enter(state, heard.at),
            (None, CallState::Ended) => self.end_unseen(heard),
            (None, _) => self.add_call(state, heard),
        }
        let stays = text
            || matches!(state, CallState::Ended | CallState::Offered)
            || self.state == AgentState::Busy
            || heard.report.entry.effect == Effect::Reaches;
        if stays { None } else { self.enter(AgentState::Busy, None, heard) }
    }

    /// Of a call that the agent tried to make, the failure may be the first that is heard: it has a summary like any other.
    fn end_unseen(&mut self, heard: &mut Heard<'_>) {
        let event_type = heard.report.entry.event_type;
        let id = heard.report.call_id.as_deref().filter(|id| calls::is_id(id));
        let Some(id) = id.filter(|_| calls::is_failed_attempt(event_type)) else { return };
        if self.came_to_nothing.as_deref() != Some(id) {
            let mut call = CallSnapshot::new(id, CallState::Initiated, heard.at);
            call.note(heard.report, heard.at);
            heard.ended.extend(call.ended_by(event_type, heard.at));
        }
    }

    fn add_call(&mut self, state: CallState, heard: &mut Heard<'_>) {
        let id = heard.report.call_id.as_deref();
        let Some(id) = id.filter(|id| calls::is_id(id)) else {
            return;
        };
        self.came_to_nothing = None;
        if self.calls.len() >= MAX_CALLS
            && let Some(index) = calls::makes_room(&self.calls)
        {
            heard.ended.extend(self.calls.remove(index).ended(CallOutcome::Displaced, heard.at));
        }
        let mut call = CallSnapshot::new(id, state, heard.at);
        call.note(heard.report, heard.at);
        self.calls.push(call);
    }

    /// Ends the calls that are due.
    fn expire(&mut self, at: Timestamp, ended: &mut Vec<EndedCall>) {
        if self.calls.iter().all(|call| !call.due) {
            return;
        }
        let (due, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.calls).into_iter().partition(|call| call.due);
        self.calls = kept;
        ended.extend(due.into_iter().filter_map(|call| call.ended(CallOutcome::Expired, at)));
    }

    /// The transition to the present state from the stretch before; none when it goes on.
    fn moved(&self, before: Option<Stretch>, at: Timestamp) -> Transition {
        let Some(before) = before else { return self.unmoved() };
        let lasted = (before.since != Timestamp::default()).then(|| at.since(before.since));
        Transition { before: before.state, changed: true, lasted, ..self.unmoved() }
    }

    /// What an event does that is not followed.
    pub(super) fn unmoved(&self) -> Transition {
        Transition {
            before: self.state,
            after: self.state,
            changed: false,
            lasted: None,
            unexpected: false,
            call_before: None,
            call_after: None,
            ended: Vec::new(),
        }
    }
}

/// Whether the body of a life-cycle record tells of the end of a session.
#[must_use]
pub fn ends_session(body: &[u8]) -> bool {
    matches!(&*own_type(body), "session.lost" | "session.ended")
}

/// The type of the event that the body of a life-cycle record is; empty where there is none.
fn own_type(body: &[u8]) -> Cow<'_, str> {
    members(body).and_then(|members| members.value("type")).and_then(json::text).unwrap_or_default()
}

fn members(body: &[u8]) -> Option<Members<'_>> {
    Members::of(serde_json::from_slice::<&RawValue>(body).ok()?.into())
}

/// An event, the call that it means, and the calls that end with it.
struct Heard<'a> {
    report: &'a Report<'a>,
    call: Option<usize>,
    at: Timestamp,
    ended: Vec<EndedCall>,
}

/// A state that has come to its end.
struct Stretch {
    state: AgentState,
    since: Timestamp,
}

/// Whether nothing was heard of a call for longer than `age`.
fn is_due(call: &CallSnapshot, now: Timestamp, age: Duration) -> bool {
    now.since(call.last_heard()) > age
}

/// Whether an agent who comes to `state` has this call no more.
fn ends_in(state: AgentState, call: &CallSnapshot) -> bool {
    match state {
        AgentState::SignedIn | AgentState::SignedOut | AgentState::Unknown => true,
        // Whoever can be given a call has none of voice or video.
        AgentState::Ready => !call.text,
        // An agent can ask for these in a call, which then goes on; one that rings goes elsewhere.
        AgentState::NotReady | AgentState::Rest => !call.text && call.answered.is_none(),
        // Some see work reported as soon as the agent is reserved. The end of a consultation is told by nothing but this and
        // that the helper has left.
        AgentState::WorkingAfterCall => !call.text && call.is_over(),
        AgentState::Busy => false,
    }
}

/// Whether an event with this effect can come in this state, had none been missed.
fn is_expected(before: AgentState, effect: Effect) -> bool {
    use AgentState::{Busy, Ready, SignedIn, SignedOut, Unknown};
    match (before, effect) {
        (Unknown, _) => true,
        (_, Effect::None | Effect::Notes | Effect::Reaches | Effect::Fails) => true,
        (_, Effect::Call(CallState::Ended)) => true,
        (SignedOut, Effect::Enters(state)) => matches!(state, SignedIn | SignedOut | Unknown),
        (SignedOut, _) => false,
        (_, Effect::Enters(_) | Effect::Call(_) | Effect::Continues(_) | Effect::Offers) => true,
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
