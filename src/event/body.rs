//! The content of an event, split into members that are read by name, in any spelling and type.

use std::borrow::Cow;

use super::codes::{self, Code, Table};
use super::data::Moment;
use super::json::{self, Json, Members};

/// What separates numbers: the editions of AgentEvent_Conference differ (cec_07_1358).
const SEPARATORS: &[char] = &[',', '，', ';', '、'];

/// The content of an event, split but not interpreted.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// Absent, null, empty, or a list.
    Nothing,
    /// A bare string, number or boolean.
    Bare(Cow<'a, str>),
    /// An object.
    Members(Members<'a>),
}

impl<'a> Body<'a> {
    pub(super) fn read(content: Option<Json<'a>>) -> Body<'a> {
        let Some(content) = content else { return Body::Nothing };
        match Members::of(content) {
            Some(members) => Body::Members(members),
            None => json::text(content).map_or(Body::Nothing, Body::Bare),
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<Json<'a>> {
        match self {
            Body::Members(members) => members.value(name),
            Body::Nothing | Body::Bare(_) => None,
        }
    }

    /// The call id: the content itself when it is bare, or else its member of that name.
    pub(super) fn call_id(&self) -> Option<Cow<'a, str>> {
        match self {
            Body::Bare(text) => Some(text.clone()),
            _ => self.value("callid").and_then(json::text),
        }
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        json::integer(self.value(name)?)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.word(name).map(Cow::into_owned)
    }

    pub(super) fn word(&self, name: &str) -> Option<Cow<'a, str>> {
        json::text(self.value(name)?)
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        json::flag(self.value(name)?)
    }

    pub(super) fn code(&self, name: &str, table: Table) -> Option<Code> {
        Some(Code::of(table, self.integer(name)?))
    }

    pub(super) fn outcome(&self, name: &str) -> Option<Code> {
        self.integer(name).map(codes::outcome)
    }

    /// Milliseconds since the epoch, as a number or a string.
    pub(super) fn time(&self, name: &str) -> Option<Moment> {
        json::time(self.value(name)?).map(Moment)
    }

    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let text = json::text(self.value(name)?)?;
        let parts = text.split(SEPARATORS).map(str::trim).filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.map(str::to_owned).collect();
        (!parts.is_empty()).then_some(parts)
    }

    /// The `address` of an address object, or the member itself when it is bare.
    pub(super) fn address(&self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        let text = match Members::of(value) {
            Some(members) => json::text(members.value("address")?),
            None => json::text(value),
        };
        text.map(Cow::into_owned)
    }
}
