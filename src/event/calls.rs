//! The calls that an agent has, and what is remembered of each until it ends.
//!
//! A call is known from the first event that names it to this agent. What a summary will say is gathered in
//! [`CallSnapshot`], which lies in the snapshot of every record: so it has short names in JSON, leaves out what says
//! nothing, and holds only strings of bounded length. Times within a call are milliseconds after its beginning.
//!
//! Two agents in one call have a snapshot, and a summary, each: consumers join them by the call's id.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::codes;
use super::report::Report;
use super::vocabulary::Entry;
use crate::clock::Timestamp;

/// Calls of one agent that are tracked at a time, see [`makes_room`]. The gateway allows 60 text sessions (retcode 106-003), and
/// beside them there are a call of voice, a consultation, and what is offered meanwhile.
pub(super) const MAX_CALLS: usize = 64;
/// By less than this a clock is not behind. Silence is allowed for a minute at least.
const LATE_MILLIS: u64 = 60_000;
/// Call ids have two numbers and a hyphen, some 20 characters; longer ones are not tracked.
pub(super) const MAX_ID: usize = 48;

/// Where a call stands at this agent (ECMA-269: local connection state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
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
    /// It made room for a newer one, because 64 were open: its end was not seen. Of text sessions it is the one that was silent
    /// for longest; a call of voice or video only makes room where there is no text session.
    Displaced,
}

/// A call that an agent has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSnapshot {
    /// The gateway's id of the call.
    pub id: String,
    /// Where it stands.
    pub state: CallState,
    /// Whether it is a text session, which does not make its agent busy.
    #[serde(default, skip_serializing_if = "nothing")]
    pub text: bool,
    /// When it was first named. Zero in snapshots of early releases: there is no summary of such a call.
    #[serde(rename = "b", default, skip_serializing_if = "nothing")]
    pub began: Timestamp,
    /// When it came to its present state.
    #[serde(rename = "s", default, skip_serializing_if = "nothing")]
    pub since: u64,
    /// When it first rang, here or at the other party.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub rang: Option<u64>,
    /// When it was answered.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// When a text session was last heard of.
    #[serde(rename = "l", default, skip_serializing_if = "nothing")]
    pub heard: u64,
    /// How long both sides were connected, before the present state.
    #[serde(rename = "t", default, skip_serializing_if = "nothing")]
    pub talked: u64,
    /// How long the other side was on hold, before the present state.
    #[serde(rename = "h", default, skip_serializing_if = "nothing")]
    pub held: u64,
    /// How often it was put on hold.
    #[serde(rename = "n", default, skip_serializing_if = "nothing")]
    pub holds: u32,
    /// Both sides have talked: whoever's phone rings now is a third party.
    #[serde(rename = "e", default, skip_serializing_if = "nothing")]
    pub established: bool,
    /// Three or more took part.
    #[serde(rename = "c", default, skip_serializing_if = "nothing")]
    pub conferenced: bool,
    /// A third party's phone rings, and nothing came of it yet.
    #[serde(rename = "o", default, skip_serializing_if = "nothing")]
    pub reaching: bool,
    /// A third party whose phone rang is in a conversation with both: help, or a call that is being passed on.
    #[serde(rename = "g", default, skip_serializing_if = "nothing")]
    pub joined: bool,
    /// The gateway has reported a transfer.
    #[serde(rename = "x", default, skip_serializing_if = "nothing")]
    pub transferred: bool,
    /// The number of the third party.
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    pub third: Option<String>,
    /// The other party has left.
    #[serde(rename = "u", default, skip_serializing_if = "nothing")]
    pub left: bool,
    /// When the other party left, of two: nobody talks or waits any more.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub left_at: Option<u64>,
    /// `feature`.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<i64>,
    /// `mediaAbility`.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub media: Option<i64>,
    /// `mediaType`.
    #[serde(rename = "y", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<i64>,
    /// The calling number.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The called number.
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    pub called: Option<String>,
    /// The number of the other party.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// The skill queue.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<i64>,
    /// The skill queue's name.
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    pub queue_name: Option<String>,
    /// How much later than that it was received, by our clock, where that is a minute or more: the gateway's clock is behind.
    #[serde(rename = "v", default, skip_serializing_if = "nothing")]
    pub late: u64,
    /// It was given up when the record came, because nothing was heard of it for too long: said here, so that it does
    /// not depend on the configuration when the record is read.
    #[serde(rename = "d", default, skip_serializing_if = "nothing")]
    pub due: bool,
}

/// A call that has ended at an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedCall {
    /// The call in the end. Its state is that before the end.
    pub call: CallSnapshot,
    /// How it ended.
    pub outcome: CallOutcome,
    /// When; where the end was not seen, when that became clear.
    pub at: Timestamp,
    /// Who ended it, where that can be told.
    pub by: Option<&'static str>,
}

impl CallState {
    /// Whether the agent has not answered it, nor was answered.
    fn is_pending(self) -> bool {
        matches!(self, CallState::Offered | CallState::Initiated | CallState::Alerting)
    }
}

impl CallOutcome {
    /// All of them.
    pub const ALL: &[CallOutcome] = &[
        CallOutcome::Answered,
        CallOutcome::NotAnswered,
        CallOutcome::Abandoned,
        CallOutcome::Failed,
        CallOutcome::SignedOut,
        CallOutcome::SessionLost,
        CallOutcome::Expired,
        CallOutcome::Displaced,
    ];

    /// As label of a metric.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            CallOutcome::Answered => "answered",
            CallOutcome::NotAnswered => "not_answered",
            CallOutcome::Abandoned => "abandoned",
            CallOutcome::Failed => "failed",
            CallOutcome::SignedOut => "signed_out",
            CallOutcome::SessionLost => "session_lost",
            CallOutcome::Expired => "expired",
            CallOutcome::Displaced => "displaced",
        }
    }

    /// Whether the end itself was seen, so that the last stretch counts.
    pub(super) fn is_seen(self) -> bool {
        !matches!(self, CallOutcome::SessionLost | CallOutcome::Expired | CallOutcome::Displaced)
    }

    /// What an event says of a call that it ends; none where that depends on the call.
    fn told_by(event_type: &str) -> Option<CallOutcome> {
        Some(match event_type {
            "ccrelay.call.abandoned" => CallOutcome::Abandoned,
            "ccrelay.call.not-answered" | "ccrelay.call.not-answered-cti" => CallOutcome::NotAnswered,
            "ccrelay.call.outgoing-failed"
            | "ccrelay.call.internal-failed"
            | "ccrelay.call.connection-failed"
            | "ccrelay.call.consultation-failed"
            | "ccrelay.chat.failed" => CallOutcome::Failed,
            _ => return None,
        })
    }
}

impl CallSnapshot {
    /// A call that is first named at `at`.
    #[must_use]
    pub fn new(id: &str, state: CallState, at: Timestamp) -> CallSnapshot {
        let mut call = CallSnapshot {
            id: id.to_owned(),
            state: CallState::Offered,
            text: false,
            began: at,
            since: 0,
            rang: None,
            answered: None,
            heard: 0,
            talked: 0,
            held: 0,
            holds: 0,
            established: false,
            conferenced: false,
            reaching: false,
            joined: false,
            transferred: false,
            third: None,
            left: false,
            left_at: None,
            feature: None,
            media: None,
            media_type: None,
            caller: None,
            called: None,
            other: None,
            queue: None,
            queue_name: None,
            late: 0,
            due: false,
        };
        call.enter(state, at);
        call
    }

    /// It began with an event that was received at `received_at`.
    pub(super) fn note_receipt(&mut self, received_at: Timestamp) {
        let late = received_at.millis().saturating_sub(self.began.millis());
        self.late = if late < LATE_MILLIS { 0 } else { late };
    }

    /// It comes to `state`, or is reported in it again.
    pub(super) fn enter(&mut self, state: CallState, at: Timestamp) {
        let now = self.elapsed(at);
        let stretch = self.left_at.unwrap_or(now).min(now).saturating_sub(self.since);
        match self.state {
            CallState::Connected => self.talked += stretch,
            CallState::Held => self.held += stretch,
            _ => {}
        }
        match state {
            CallState::Connected => self.answered = self.answered.or(Some(now)),
            CallState::Held if self.state != CallState::Held => {
                self.answered = self.answered.or(Some(now));
                self.holds = self.holds.saturating_add(1);
            }
            CallState::Alerting => self.rang = self.rang.or(Some(now)),
            _ => {}
        }
        (self.state, self.since) = (state, now.max(self.since));
    }

    /// What an event says of the call beside its state. The first word counts, except for the media.
    pub(super) fn note(&mut self, report: &Report<'_>, at: Timestamp) {
        let keep = |kept: &mut Option<String>, word: &Option<Cow<'_, str>>| {
            if kept.is_none() {
                *kept = word.as_deref().map(str::to_owned);
            }
        };
        self.due = false;
        self.text |= report.text;
        self.feature = self.feature.or(report.feature);
        self.media = report.media.or(self.media);
        self.media_type = self.media_type.or(report.media_type);
        keep(&mut self.caller, &report.caller);
        keep(&mut self.called, &report.called);
        self.queue = self.queue.or(report.queue);
        keep(&mut self.queue_name, &report.queue_name);
        self.note_course(report, at);
        if self.text {
            self.heard = self.elapsed(at).max(self.heard);
        }
    }

    fn note_course(&mut self, report: &Report<'_>, at: Timestamp) {
        match report.entry.event_type {
            "ccrelay.call.customer-alerting" if self.established => {
                (self.reaching, self.transferred) = (true, false);
                let number = report.other.as_deref();
                let known =
                    |n: &&str| self.caller.as_deref() == Some(*n) || self.called.as_deref() == Some(*n);
                self.third = number.filter(|number| !known(number)).map(str::to_owned);
            }
            "ccrelay.call.customer-alerting" => {
                if self.answered.is_none() {
                    self.rang = self.rang.or(Some(self.elapsed(at)));
                }
                if self.other.is_none() {
                    self.other = report.other.as_deref().map(str::to_owned);
                }
            }
            "ccrelay.call.established" | "ccrelay.chat.established" => {
                (self.established, self.reaching, self.joined) = (true, false, false);
                (self.left, self.left_at) = (false, None);
            }
            "ccrelay.call.conferenced" => {
                self.joined |= self.reaching;
                (self.established, self.conferenced, self.reaching) = (true, true, false);
                (self.left, self.left_at) = (false, None);
            }
            "ccrelay.call.customer-released" => {
                self.left = true;
                if !self.conferenced {
                    self.left_at = self.left_at.or(Some(self.elapsed(at)));
                }
            }
            "ccrelay.call.transfer-result"
            | "ccrelay.call.transfer-out-result"
            | "ccrelay.linked-phone.transfer-result" => {
                if !report.succeeded {
                    self.third_is_gone();
                }
                self.transferred = report.succeeded;
                self.reaching &= self.transferred;
                self.joined = false;
            }
            "ccrelay.call.connection-failed"
            | "ccrelay.call.consultation-failed"
            | "ccrelay.call.returned-from-ivr" => {
                self.third_is_gone();
                (self.reaching, self.transferred) = (false, false);
            }
            _ => {}
        }
    }

    /// A third phone that rang is not reached. Whoever left while it rang was the third party: the talk goes on.
    fn third_is_gone(&mut self) {
        if self.reaching {
            (self.left, self.left_at) = (false, None);
        }
    }

    /// Ends it by this event, which need not say how.
    pub(super) fn ended_by(mut self, event_type: &str, at: Timestamp) -> Option<EndedCall> {
        if self.has_failed(event_type) {
            // That the agent's own phone answered was no answer.
            self.answered = None;
        }
        let pending = self.answered.is_none();
        let told = CallOutcome::told_by(event_type).filter(|_| pending);
        let outcome = match told {
            Some(told) => told,
            None if pending && self.left => CallOutcome::Abandoned,
            None if pending => CallOutcome::NotAnswered,
            None => CallOutcome::Answered,
        };
        let by = match outcome {
            CallOutcome::Abandoned => Some("otherParty"),
            CallOutcome::NotAnswered => told.map(|_| "platform"),
            CallOutcome::Answered if self.transferred_out() == Some(true) => Some("agent"),
            // Of a conversation of three or more somebody may leave without ending it.
            CallOutcome::Answered if self.is_over() => Some("otherParty"),
            _ => None,
        };
        self.ended(outcome, at).map(|ended| EndedCall { by, ..ended })
    }

    /// Whether only the agent is left in it.
    pub(super) fn is_over(&self) -> bool {
        self.left && !self.conferenced
    }

    /// Whether this event says of a call in which nobody has talked that it could not be set up.
    fn has_failed(&self, event_type: &str) -> bool {
        is_failed_attempt(event_type) && !self.established && self.holds == 0
    }

    /// Ends it; nothing where its beginning is not known.
    pub(super) fn ended(mut self, outcome: CallOutcome, at: Timestamp) -> Option<EndedCall> {
        if outcome.is_seen() {
            let state = self.state;
            self.enter(CallState::Ended, at);
            self.state = state;
        }
        (self.began != Timestamp::default()).then_some(EndedCall { call: self, outcome, at, by: None })
    }

    /// When it was last heard of, by our clock.
    #[must_use]
    pub fn last_heard(&self) -> Timestamp {
        Timestamp(self.last_heard_by_gateway().saturating_add(self.late))
    }

    /// The same by the gateway's clock, in milliseconds.
    fn last_heard_by_gateway(&self) -> u64 {
        self.began.millis().saturating_add(self.since.max(self.heard))
    }

    /// Whether it passed to somebody else, as far as was told. None where another phone rang last: the agent is released when
    /// that is answered, and also when the other party hangs up meanwhile. None, too, where help of three looks the same.
    pub(super) fn transferred_out(&self) -> Option<bool> {
        let open = self.joined || (self.reaching && !self.left);
        (self.transferred || !open).then_some(self.transferred)
    }

    fn elapsed(&self, at: Timestamp) -> u64 {
        at.millis().saturating_sub(self.began.millis())
    }
}

/// Whether this event says that a call which the agent made could not be set up.
pub(super) fn is_failed_attempt(event_type: &str) -> bool {
    matches!(event_type, "ccrelay.call.outgoing-failed" | "ccrelay.call.internal-failed")
}

/// Where a call stands after an event that says `state` of it. What is answered automatically in an outbound call is the
/// agent's own phone, which may ring before the customer's.
pub(super) fn state_after(state: CallState, call: Option<&CallSnapshot>, report: &Report<'_>) -> CallState {
    let feature = call.and_then(|call| call.feature).or(report.feature);
    let is_outbound = feature.and_then(codes::direction) == Some("outbound");
    let is_talk = report.text || call.is_some_and(|call| call.text || call.established);
    match report.entry.event_type {
        "ccrelay.call.auto-answered" if is_outbound && !is_talk => CallState::Initiated,
        _ => state,
    }
}

/// Whether a call of this id is tracked.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && !id.chars().any(char::is_control)
}

/// Which of `calls` makes room for another: the text session that is silent for longest, since many that stay open were left; what
/// is spoken only where there is none. Of times only the gateway's count, so that receiver and normaliser choose the same.
pub(super) fn makes_room(calls: &[CallSnapshot]) -> Option<usize> {
    let longest = calls.iter().enumerate().min_by_key(|(_, call)| (!call.text, call.last_heard_by_gateway()));
    longest.map(|(index, _)| index)
}

/// Which of `calls` an event means: the one it names, or, where it names none, the only one that it can be about.
pub(super) fn position(calls: &[CallSnapshot], entry: &Entry, id: Option<&str>) -> Option<usize> {
    if let Some(id) = id {
        return calls.iter().position(|call| call.id == id);
    }
    let waits = |call: &CallSnapshot| match entry.event_type {
        "ccrelay.call.abandoned" | "ccrelay.call.not-answered-cti" => call.state.is_pending(),
        "ccrelay.call.transfer-out-result" => call.established && !call.text,
        _ => false,
    };
    let mut fitting = calls.iter().enumerate().filter(|(_, call)| waits(call));
    let (index, _) = fitting.next()?;
    fitting.next().is_none().then_some(index)
}

fn nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
