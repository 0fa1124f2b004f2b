//! What a push or a poll answer says: whose events, and which. Lenient in all but one thing: the whole body must be
//! a JSON object. Nothing is copied that can be borrowed from the body.
//!
//! Accepted shapes (CEC API Reference cec_07_1274, cec_07_1275, and the event samples):
//!
//! - `{"workNo": "291", "eventList": [{"eventType", "workNo", "content", "eventGenTime"}, ...]}`, the push;
//! - `{"message": "", "retcode": "0", "event": {...}}`, the poll answer and the legacy push, where `event` may be null;
//! - `{"eventType", "workNo", "content"}`, one event without an envelope.
//!
//! Some events name no agent (events.json: `AgentOther_BeQcStart`), and where there is no list, nothing does. Whose they are is then
//! known from elsewhere: who was polled, or whose token came with them.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2_iter;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::ids::AgentId;
use super::json::{self, Json, Members};
use super::vocabulary::{self, Entry};
use crate::clock::Timestamp;

/// Deeper nesting than this is an attack: real content has two levels. Consumers' JSON readers stop at 64 levels at the
/// earliest, and an event that is passed on whole lies one level deeper there than in the body.
const MAX_DEPTH: usize = 60;
/// More events than this are no push of a gateway: it keeps an agent's events for 120 s at most, and no agent has 80 in a second.
/// An element of a list may be of two bytes, and an event made of it is of some thousand: the events of a push are to fit into
/// memory however it is written, and the bound on its bytes does not say so. To refuse a push costs its agent the session in the
/// end, so this is far above all that was ever seen, which are tens. What is stored, or was polled, is read whatever its number.
pub const MAX_PUSHED_EVENTS: usize = 10_000;
/// An `eventGenTime` outside of 2000-01-01 to 2100-01-01 is not one.
const PLAUSIBLE_MILLIS: std::ops::Range<u64> = 946_684_800_000..4_102_444_800_000;
/// The members of an event that we know. `jsonKey` repeats the names of the others.
const EVENT_MEMBERS: &[&str] = &["eventType", "workNo", "content", "eventGenTime", "jsonKey"];

/// The body of one push or poll answer.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Whose events these are, as written: compare it with the agent that the token names. None when nobody is named, or the
    /// events name different agents.
    pub work_no: Option<Cow<'a, str>>,
    /// The events, oldest first; may be empty.
    pub events: Vec<RawEvent<'a>>,
}

/// A body taken apart, its events unread: of tiny ones there may be half a million in it, and what is read of each takes a hundred
/// times as much.
#[derive(Debug)]
pub struct Unread<'a> {
    /// What the envelope itself says.
    work_no: Option<&'a RawValue>,
    elements: Vec<&'a RawValue>,
}

/// One event, its content unread.
#[derive(Debug, Clone)]
pub struct RawEvent<'a> {
    /// The gateway's name of the event; empty when there is none or it is not a string.
    pub event_type: Cow<'a, str>,
    /// What we know of that type.
    pub entry: Option<&'static Entry>,
    /// The event's own `workNo`, where it has one.
    pub work_no: Option<Cow<'a, str>>,
    /// When the gateway made the event; none when it does not say or says something absurd.
    pub gen_time: Option<Timestamp>,
    /// `eventGenTime` as written, plausible or not.
    pub raw_gen_time: Option<Json<'a>>,
    /// `content` as written; none when the member is absent.
    pub content: Option<Json<'a>>,
    /// The whole event as written, whatever it is.
    pub raw: &'a RawValue,
    /// Whether `raw` says more than the fields above: members of other names, or no readable event at all.
    pub says_more: bool,
}

/// A body that is not what a push or a poll answer is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Not JSON in UTF-8.
    #[error("not JSON: {problem} at line {line} column {column}")]
    NotJson {
        /// What is wrong, in our words: the body is never quoted.
        problem: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// JSON, but no object.
    #[error("no workNo")]
    NoObject,
    /// A push that holds too many.
    #[error("a push of more than {MAX_PUSHED_EVENTS} events")]
    TooManyEvents,
}

/// Reads a body.
///
/// # Errors
/// When the body is not JSON from its first byte to its last, nests deeper than 60 levels, or is no object.
pub fn parse(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    take_apart(body).map(Unread::read)
}

/// Reads the body of a push that is about to be stored.
///
/// # Errors
/// As [`parse`], and when there are more than [`MAX_PUSHED_EVENTS`].
pub fn parse_push(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    let unread = take_apart(body)?;
    if unread.count() > MAX_PUSHED_EVENTS { Err(EnvelopeError::TooManyEvents) } else { Ok(unread.read()) }
}

/// Finds the events of a body.
///
/// # Errors
/// As [`parse`].
pub fn take_apart(body: &[u8]) -> Result<Unread<'_>, EnvelopeError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body)
        .map_err(|error| error_at(body, error.valid_up_to(), "the text is not UTF-8"))?;
    check_depth(body)?;
    if !text.trim_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(syntax_error)?;
        return Err(EnvelopeError::NoObject);
    }
    // Again, because an odd list can be read only whole. What is wrong with a text is told by the second reading.
    let top = Top::read(text, true).or_else(|_| Top::read(text, false)).map_err(syntax_error)?;
    Ok(top.into_unread(text))
}

impl<'a> Unread<'a> {
    /// How many events there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.elements.len()
    }

    /// The events from this one on, read one by one.
    pub fn events_from(&self, index: usize) -> impl Iterator<Item = RawEvent<'a>> {
        self.elements.iter().skip(index).map(|raw| RawEvent::read(raw))
    }

    fn read(self) -> Envelope<'a> {
        let events: Vec<_> = self.events_from(0).collect();
        let work_no = self.work_no.and_then(|work_no| json::text(work_no.into()));
        Envelope { work_no: work_no.or_else(|| common_work_no(&events)), events }
    }
}

impl Envelope<'_> {
    /// Whether there are events, and nobody says whose they are.
    #[must_use]
    pub fn names_nobody(&self) -> bool {
        let nobody = self.work_no.is_none() && self.events.iter().all(|event| event.work_no.is_none());
        nobody && !self.events.is_empty()
    }
}

/// The members of a body that we know. Of those that come twice the last one counts.
#[derive(Default)]
struct Top<'a> {
    work_no: Option<&'a RawValue>,
    event_list: Option<Vec<&'a RawValue>>,
    event: Option<Vec<&'a RawValue>>,
    /// There is an `eventType`.
    is_event: bool,
}

impl<'a> Top<'a> {
    /// The events of the object, which `text` is.
    fn into_unread(self, text: &'a str) -> Unread<'a> {
        let elements = match (self.event_list, self.event) {
            (None, None) if self.is_event => serde_json::from_str(text).into_iter().collect(),
            (Some(list), None) | (None, Some(list)) => list,
            (None, None) => Vec::new(),
            (Some(list), Some(more)) => [list, more].concat(),
        };
        Unread { work_no: self.work_no, elements }
    }

    /// Reads the object that `text` is, and checks all of it. `usual` finds the events on the way, and fails where `eventList` is
    /// no array.
    fn read(text: &'a str, usual: bool) -> Result<Top<'a>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let top = deserializer.deserialize_map(TopVisitor { usual })?;
        deserializer.end()?;
        Ok(top)
    }
}

struct TopVisitor {
    usual: bool,
}

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut top = Top::default();
        // As raw values names are checked like any string, and may hold halves of surrogate pairs.
        while let Some(name) = map.next_key::<&RawValue>()? {
            let name = json::string(name.into()).unwrap_or_default();
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("eventList") && self.usual {
                top.event_list = Some(map.next_value()?);
                continue;
            }
            let value: &RawValue = map.next_value()?;
            match () {
                () if is("workNo") => top.work_no = Some(value),
                () if is("eventList") => top.event_list = Some(json::elements(value)),
                () if is("event") => top.event = Some(json::elements(value)),
                () if is("eventType") => top.is_event = true,
                () => {}
            }
        }
        Ok(top)
    }
}

/// The agent that the events name, of which some may name nobody; none when they name different ones.
fn common_work_no<'a>(events: &[RawEvent<'a>]) -> Option<Cow<'a, str>> {
    let mut named = events.iter().filter_map(|event| event.work_no.as_ref());
    let first = named.next()?;
    named.all(|other| other == first).then(|| first.clone())
}

impl<'a> RawEvent<'a> {
    /// Reads one element of an event list.
    fn read(raw: &'a RawValue) -> RawEvent<'a> {
        let Some(members) = Members::of(raw.into()) else {
            return RawEvent {
                event_type: Cow::Borrowed(""),
                entry: None,
                work_no: None,
                gen_time: None,
                raw_gen_time: None,
                content: None,
                raw,
                says_more: true,
            };
        };
        let event_type = members.value("eventType").and_then(json::string);
        let raw_gen_time = members.value("eventGenTime");
        let says_more = event_type.is_none() || members.has_others_than(EVENT_MEMBERS);
        let event_type = event_type.unwrap_or_default();
        RawEvent {
            entry: vocabulary::lookup(&event_type),
            event_type,
            work_no: members.value("workNo").and_then(json::text),
            gen_time: raw_gen_time.and_then(plausible_time),
            raw_gen_time,
            content: members.value("content"),
            raw,
            says_more,
        }
    }

    /// Whether it names another agent than the one it came for: then it says nothing of that one.
    #[must_use]
    pub fn is_of_other_than(&self, agent_id: &AgentId) -> bool {
        let own = self.work_no.as_deref().map(AgentId::parse);
        own.is_some_and(|own| own.is_ok_and(|own| own != *agent_id))
    }

    /// When it happened: when the gateway made it, or else when it was received.
    #[must_use]
    pub fn time(&self, received_at: Timestamp) -> Timestamp {
        self.gen_time.unwrap_or(received_at)
    }
}

fn plausible_time(value: Json<'_>) -> Option<Timestamp> {
    let millis = u64::try_from(json::integer(value)?).ok()?;
    PLAUSIBLE_MILLIS.contains(&millis).then_some(Timestamp(millis))
}

/// Refuses bodies that nest too deeply. Only bodies with many brackets are looked at closely.
fn check_depth(body: &[u8]) -> Result<(), EnvelopeError> {
    if memchr2_iter(b'{', b'[', body).nth(MAX_DEPTH).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (index, byte) in body.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(error_at(body, index, "nested too deeply"));
        }
    }
    Ok(())
}

fn syntax_error(error: serde_json::Error) -> EnvelopeError {
    let problem = if error.is_eof() { "the text ends too early" } else { "the syntax is wrong" };
    EnvelopeError::NotJson { problem, line: error.line(), column: error.column() }
}

fn error_at(body: &[u8], index: usize, problem: &'static str) -> EnvelopeError {
    let before = &body[..index.min(body.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    EnvelopeError::NotJson { problem, line, column }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
