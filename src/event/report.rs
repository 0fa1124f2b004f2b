//! What an event reports of its agent: all that the agent's state and calls follow, without the bytes it was read from. So
//! it can be read where the event is received, by many at once, and followed where agents are, by one.

use std::borrow::Cow;

use super::body::Body;
use super::codes::{self, TEXT};
use super::content;
use super::data::Moment;
use super::envelope::RawEvent;
use super::vocabulary::{Content, Effect, Entry};
use crate::clock::Timestamp;

/// Numbers and queue names of more bytes are left out of summaries: half a number would be a wrong one.
const MAX_WORD: usize = 40;
/// When a session began, by the gateway's clock: in the answer to a sign-in, at the end of a session, and so in ccrelay's own
/// events too.
pub(crate) const LOGIN_TIME: &str = "loginTime";
/// `mediaType` of calls that are text sessions.
const TEXT_TYPES: &[i64] = &[1, 51, 53];

/// What one event reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// The event's line of the vocabulary.
    pub(super) entry: &'static Entry,
    /// The call it names.
    pub(super) call_id: Option<Cow<'a, str>>,
    /// Why the agent is not ready or rests.
    pub(super) reason: Option<u32>,
    /// Whether it is about a text session.
    pub(super) text: bool,
    /// `feature`.
    pub(super) feature: Option<i64>,
    /// The media that the call has from now on: `mediaAbility`, also after a switch.
    pub(super) media: Option<i64>,
    /// `mediaType`.
    pub(super) media_type: Option<i64>,
    /// The calling number.
    pub(super) caller: Option<Cow<'a, str>>,
    /// The called number.
    pub(super) called: Option<Cow<'a, str>>,
    /// The number of the other party, whose phone rings.
    pub(super) other: Option<Cow<'a, str>>,
    /// The skill queue.
    pub(super) queue: Option<i64>,
    /// The skill queue's name.
    pub(super) queue_name: Option<Cow<'a, str>>,
    /// What was tried has succeeded.
    pub(super) succeeded: bool,
    /// When the session that ends had begun.
    pub(super) signed_in_at: Option<Timestamp>,
}

impl<'a> Report<'a> {
    /// What `event` reports; nothing where it moves nothing, and then its content is not read.
    #[must_use]
    pub fn of(event: &RawEvent<'a>) -> Option<Report<'a>> {
        let entry = event.entry.filter(|entry| entry.effect != Effect::None)?;
        Some(Report::read(entry, &Body::read(event.content)))
    }

    /// The report of an event that says nothing but its type.
    pub(super) fn bare(entry: &'static Entry) -> Report<'a> {
        Report::read(entry, &Body::Nothing)
    }

    /// What an event with this content reports.
    pub(super) fn read(entry: &'static Entry, body: &Body<'a>) -> Report<'a> {
        let mut report = Report {
            entry,
            call_id: body.call_id(),
            reason: None,
            text: false,
            feature: None,
            media: None,
            media_type: None,
            caller: None,
            called: None,
            other: None,
            queue: None,
            queue_name: None,
            succeeded: false,
            signed_in_at: None,
        };
        report.text = entry.content == Content::Chat;
        if let Body::Members(_) = body {
            report.read_members(body);
        }
        report
    }

    fn read_members(&mut self, body: &Body<'a>) {
        let entry = self.entry;
        let ability = body.integer("mediaAbility");
        self.text |= ability == Some(TEXT);
        match entry.content {
            Content::NotReadyReason | Content::RestReason => {
                self.reason = body.integer("reason").and_then(|code| u32::try_from(code).ok());
            }
            Content::Call | Content::OfferedCall | Content::Chat => {
                self.feature = body.integer("feature");
                self.media = ability;
                self.media_type = body.integer("mediaType");
                self.caller = word(body, "caller");
                self.called = word(body, "called");
            }
            Content::SignOut => self.signed_in_at = body.time(LOGIN_TIME).map(|Moment(time)| time),
            Content::SwitchedCall => {
                self.media = content::switched_media(body).and_then(codes::media_of_switch);
            }
            _ => {}
        }
        if entry.content == Content::OfferedCall {
            self.text |= self.media_type.is_some_and(|code| TEXT_TYPES.contains(&code));
            self.queue = body.integer("skillId");
            self.queue_name = word(body, "skillName");
        }
        match entry.event_type {
            "ccrelay.call.customer-alerting" => self.other = word(body, "otherPhone"),
            "ccrelay.call.transfer-result"
            | "ccrelay.call.transfer-out-result"
            | "ccrelay.linked-phone.transfer-result" => self.succeeded = body.integer("result") == Some(0),
            _ => {}
        }
    }
}

impl Report<'_> {
    /// The same, for longer than the bytes last that it was read from.
    #[must_use]
    pub fn into_owned(self) -> Report<'static> {
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Report {
            call_id: owned(self.call_id),
            caller: owned(self.caller),
            called: owned(self.called),
            other: owned(self.other),
            queue_name: owned(self.queue_name),
            entry: self.entry,
            reason: self.reason,
            text: self.text,
            feature: self.feature,
            media: self.media,
            media_type: self.media_type,
            queue: self.queue,
            succeeded: self.succeeded,
            signed_in_at: self.signed_in_at,
        }
    }
}

/// A number or name that is short enough, and plain enough that JSON does not make it longer.
fn word<'a>(body: &Body<'a>, name: &str) -> Option<Cow<'a, str>> {
    body.word(name).filter(|text| text.len() <= MAX_WORD && !text.chars().any(char::is_control))
}
