//! From a record of the spool to events: a pure function, so that a record read again gives the same events with the
//! same ids.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::body::Body;
use super::codes::{self, Code};
use super::content;
use super::data::{AgentData, EventData, Moment, Raw, Verbatim};
use super::details::{CallData, Details, SessionData};
use super::envelope::{self, EnvelopeError, RawEvent};
use super::ids::{AgentId, GatewayName};
use super::json::{self, Members};
use super::report::{LOGIN_TIME, Report};
use super::state::{AgentSnapshot, AgentState, Transition};
use super::summary;
use super::vocabulary::{self, CALL_ENDED, Content, Effect, Entry};
use super::{Event, event_id};
use crate::clock::Timestamp;

/// One record as the spool holds it.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Which spool it is in: the first part of every event's id.
    pub spool_id: &'a str,
    /// Where it is there: the second part.
    pub offset: u64,
    /// What its body is.
    pub kind: RecordKind,
    /// When it was received.
    pub received_at: Timestamp,
    /// From which gateway.
    pub gateway: &'a GatewayName,
    /// For which agent.
    pub agent_id: &'a AgentId,
    /// The sequence number of its first event that is no repeat; the others, and what follows from them, count on.
    pub sequence: u64,
    /// For its leading events: which first delivery they repeat. At most as long as the list of events. What they did
    /// to the agent is in `before` already.
    pub repeats: &'a [Repeated],
    /// Where the agent stood before it.
    pub before: &'a AgentSnapshot,
    /// The body as received.
    pub body: &'a [u8],
}

/// What the body of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordKind {
    /// A push of the gateway.
    Push,
    /// An answer of the gateway to a poll.
    Poll,
    /// An event of ccrelay's own about a session: `{"type": "session.lost", "reason": "..."}`.
    Lifecycle,
}

/// Names an event of the same spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventRef {
    /// The record it is in.
    pub offset: u64,
    /// Its place in the list of that record, from 0.
    pub index: u32,
}

/// Marks an event as a further delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// The first delivery, which has the id.
    pub first: EventRef,
    /// Its sequence number.
    pub sequence: u64,
}

/// A record that no event can be made of.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NormaliseError {
    /// The body of a push or poll answer cannot be read. What the receiver accepts can be, so this is damage, or a poll answer
    /// that is none.
    #[error("the body cannot be read")]
    Envelope(#[from] EnvelopeError),
    /// The body of a life-cycle record is not an object.
    #[error("the life-cycle record is not a JSON object")]
    Lifecycle,
}

/// Some events of a record, one after the other.
#[derive(Debug)]
pub struct Piece {
    /// The events.
    pub events: Vec<Event>,
    /// Where the record goes on, if it does.
    pub rest: Option<Place>,
}

/// A place between two events of a record, and what is known there.
#[derive(Debug, Clone)]
pub struct Place {
    index: usize,
    snapshot: AgentSnapshot,
    next: u64,
}

/// Makes the events of `record`, in their order. A call that ends with an event is one event more, after it.
///
/// # Errors
/// When the body is not what the record's kind says. That never mends: set the record aside.
pub fn normalise(record: &RecordView<'_>) -> Result<Vec<Event>, NormaliseError> {
    piece(record, None, usize::MAX).map(|piece| piece.events)
}

/// Makes events of `record` from a place in it on, or from its begin: of `most` elements of its list, with the calls that end
/// with them. All that are made of a record may be a thousand times as large as its body.
///
/// # Errors
/// As [`normalise`].
pub fn piece(record: &RecordView<'_>, from: Option<&Place>, most: usize) -> Result<Piece, NormaliseError> {
    let (index, snapshot, next) = match from {
        Some(place) => (place.index, place.snapshot.clone(), place.next),
        None => (0, record.before.clone(), record.sequence),
    };
    let mut maker = Maker { record, snapshot, next, made: Vec::new() };
    if record.kind == RecordKind::Lifecycle {
        maker.lifecycle_event()?;
        return Ok(Piece { events: maker.made, rest: None });
    }
    let unread = envelope::take_apart(record.body)?;
    let end = unread.count().min(index.saturating_add(most));
    maker.made.reserve_exact(end.saturating_sub(index));
    for (index, raw) in (index..end).zip(unread.events_from(index)) {
        maker.gateway_event(index, &raw);
    }
    let Maker { snapshot, next, made, .. } = maker;
    let rest = (end < unread.count()).then_some(Place { index: end, snapshot, next });
    Ok(Piece { events: made, rest })
}

/// The piece of a record in which the event with this id is, where there is one; all pieces are of `most` elements.
///
/// # Errors
/// As [`normalise`].
pub fn piece_with(record: &RecordView<'_>, id: &str, most: usize) -> Result<Option<Piece>, NormaliseError> {
    let mut from = None;
    loop {
        let piece = piece(record, from.as_ref(), most)?;
        if piece.events.iter().any(|event| event.id == id) {
            return Ok(Some(piece));
        }
        from = piece.rest;
        if from.is_none() {
            return Ok(None);
        }
    }
}

/// Makes the events of one record.
struct Maker<'a> {
    record: &'a RecordView<'a>,
    /// Where the agent stands after the events made so far.
    snapshot: AgentSnapshot,
    /// The sequence number of the next event that is not a repeat.
    next: u64,
    made: Vec<Event>,
}

impl Maker<'_> {
    fn gateway_event(&mut self, index: usize, raw: &RawEvent<'_>) {
        let record = self.record;
        let entry = raw.entry;
        let body = Body::read(raw.content);
        let time = raw.time(record.received_at);
        let repeated = record.repeats.get(index);
        // A repeated event moved the agent when it came first; the agent has gone on since. One of another agent never does, and
        // whose it is stands nowhere else.
        let is_other = raw.is_of_other_than(record.agent_id);
        let followed = entry.filter(|_| repeated.is_none() && !is_other).unwrap_or(&NO_EFFECT);
        let transition = self.snapshot.follow(&Report::read(followed, &body), time);
        let mut details = entry.map_or_else(Details::default, |entry| content::details(entry.content, &body));
        add_call_states(&mut details, entry, &transition);
        let raw = Raw {
            event_type: raw.event_type.to_string(),
            content: raw.content.and_then(Verbatim::of_part),
            event_gen_time: raw.raw_gen_time.and_then(Verbatim::of_part),
            event: (raw.says_more || is_other).then(|| Verbatim::of(raw.raw)),
            withheld: false,
        };
        let place = EventRef { offset: record.offset, index: u32::try_from(index).unwrap_or(u32::MAX) };
        match repeated {
            Some(repeated) => {
                let id = event_id(record.spool_id, repeated.first);
                let event = self.event(entry, id, repeated.sequence, time, &transition, details, raw);
                self.made.push(Event { repeat: true, ..event });
            }
            None => self.add(entry, place, time, &transition, details, raw),
        }
    }

    fn lifecycle_event(&mut self) -> Result<(), NormaliseError> {
        let record = self.record;
        let body: &RawValue = serde_json::from_slice(record.body).map_err(|_| NormaliseError::Lifecycle)?;
        let members = Members::of(body.into()).ok_or(NormaliseError::Lifecycle)?;
        let name = members.value("type").and_then(json::text).unwrap_or_default();
        let transition = self.snapshot.apply_members(&members, record.received_at);
        let reason = members.value("reason").and_then(json::text).map(String::from);
        let signed_in_at = members.value(LOGIN_TIME).and_then(json::time).map(Moment);
        let session = SessionData { signed_in_at, reason };
        let details = Details { session: Some(session), ..Details::default() };
        let raw = Raw { event_type: name.to_string(), content: Some(Verbatim::of(body)), ..Raw::default() };
        let (entry, place) =
            (vocabulary::lookup_session(&name), EventRef { offset: record.offset, index: 0 });
        self.add(entry, place, record.received_at, &transition, details, raw);
        Ok(())
    }

    /// The event at `place`, and the summaries of the calls that ended with it.
    fn add(
        &mut self,
        entry: Option<&Entry>,
        place: EventRef,
        time: Timestamp,
        transition: &Transition,
        details: Details,
        raw: Raw,
    ) {
        let id = event_id(self.record.spool_id, place);
        self.made.reserve(transition.ended.len());
        let event = self.event(entry, id.clone(), self.next, time, transition, details, raw);
        self.made.push(event);
        self.next = self.next.saturating_add(1);
        for (n, ended) in transition.ended.iter().enumerate() {
            let id = format!("{id}-{}", n + 1);
            let raw = Raw { event_type: CALL_ENDED.gateway_type.to_owned(), ..Raw::default() };
            let (unmoved, details) = (self.snapshot.unmoved(), summary::details(ended));
            let event = self.event(Some(CALL_ENDED), id, self.next, time, &unmoved, details, raw);
            self.made.push(event);
            self.next = self.next.saturating_add(1);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of an event, each once")]
    fn event(
        &self,
        entry: Option<&Entry>,
        id: String,
        sequence: u64,
        time: Timestamp,
        transition: &Transition,
        details: Details,
        raw: Raw,
    ) -> Event {
        let record = self.record;
        let entry = entry.unwrap_or(&NO_EFFECT);
        Event {
            id,
            source: ["/ccrelay/", record.gateway.as_str(), "/agents/", record.agent_id.as_str()].concat(),
            event_type: entry.event_type,
            category: entry.category,
            gateway: record.gateway.clone(),
            agent_id: record.agent_id.clone(),
            time,
            recorded_time: record.received_at,
            sequence,
            repeat: false,
            data: EventData { agent: agent_data(record, &self.snapshot, transition), details, raw },
            written: Default::default(),
        }
    }
}

/// What unknown and repeated events, and those of others, do to the agent.
static NO_EFFECT: Entry = Entry {
    gateway_type: "",
    event_type: vocabulary::UNKNOWN_TYPE,
    category: vocabulary::UNKNOWN_CATEGORY,
    content: Content::Nothing,
    effect: Effect::None,
    page: "-",
};

fn agent_data(record: &RecordView<'_>, after: &AgentSnapshot, transition: &Transition) -> AgentData {
    let reason = after.reason.map(|code| match after.state {
        AgentState::NotReady => Code::not_ready_reason(i64::from(code)),
        _ => Code { code: i64::from(code), name: None },
    });
    AgentData {
        id: record.agent_id.clone(),
        gateway: record.gateway.clone(),
        state: after.state,
        since: (after.since != Timestamp::default()).then_some(Moment(after.since)),
        reason,
        previous_state: transition.before,
        changed: transition.changed,
        previous_duration_seconds: transition.lasted.as_ref().map(Duration::as_secs_f64),
        unexpected: transition.unexpected,
    }
}

fn add_call_states(details: &mut Details, entry: Option<&Entry>, transition: &Transition) {
    let is_chat = entry.is_some_and(|entry| entry.content == Content::Chat);
    let Some(call) = details.call.as_deref_mut() else { return };
    call.state = transition.call_after;
    call.previous_state = transition.call_before;
    if is_chat {
        add_chat_media(call);
    }
}

/// A text session is of text, also where the older interface does not say so.
fn add_chat_media(call: &mut CallData) {
    call.media = call.media.or(Some(Code::of(codes::MEDIA, codes::TEXT)));
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
