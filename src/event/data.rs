//! The typed content of an event: the `data` of the CloudEvent, a published contract. Members are only ever added.
//!
//! All names are in camel case, all times RFC 3339 in UTC, all durations seconds; phone numbers and ids are strings,
//! codes of the gateway are numbers with their meaning beside them. What the gateway does not say is left out.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::codes::Code;
use super::details::Details;
use super::ids::{AgentId, GatewayName};
use super::json::Json;
use super::state::AgentState;
use crate::clock::Timestamp;

/// The `data` member of an event.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    /// Whose event it is, and where that agent stands.
    pub agent: AgentData,
    /// What the content says, by kind.
    #[serde(flatten)]
    pub details: Details,
    /// What the gateway said, verbatim.
    pub raw: Raw,
}

/// An agent before and after an event.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentData {
    /// The agent's id, `workNo`.
    pub id: AgentId,
    /// The gateway that serves the agent.
    pub gateway: GatewayName,
    /// The state after the event.
    pub state: AgentState,
    /// Since when the agent has been in this state, for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Why the agent is not ready or rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Code>,
    /// The state before the event: the same one, unless `changed`.
    pub previous_state: AgentState,
    /// Whether the event changed the state or its reason.
    pub changed: bool,
    /// How long the state before lasted; only when it ended with this event and its beginning is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_duration_seconds: Option<f64>,
    /// Only when true: the event does not fit the state before, so one was missed or the gateway contradicts itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unexpected: bool,
}

/// What the gateway said, byte for byte.
#[derive(Debug, Clone, PartialEq, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Raw {
    /// `eventType`, or ccrelay's name of an event of its own.
    pub event_type: String,
    /// `content`; left out where the event has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Verbatim>,
    /// `eventGenTime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_gen_time: Option<Verbatim>,
    /// The whole event, when it says more than the members above can hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Verbatim>,
    /// Only when true: the operator has `content` and `event` left out, whatever the gateway said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

impl EventData {
    /// Data that say whose event it is, and nothing else.
    #[must_use]
    pub fn new(gateway: GatewayName, agent_id: AgentId) -> EventData {
        let agent = AgentData {
            id: agent_id,
            gateway,
            state: AgentState::Unknown,
            since: None,
            reason: None,
            previous_state: AgentState::Unknown,
            changed: false,
            previous_duration_seconds: None,
            unexpected: false,
        };
        EventData { agent, details: Details::default(), raw: Raw::default() }
    }
}

/// A time, in JSON as RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.rfc3339().as_str())
    }
}

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// JSON that is passed on byte for byte.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Verbatim(Box<RawValue>);

impl Verbatim {
    /// A copy of `value`.
    #[must_use]
    pub fn of(value: &RawValue) -> Verbatim {
        Verbatim(value.to_owned())
    }

    /// A copy of a part of a larger text.
    #[must_use]
    pub fn of_part(part: Json<'_>) -> Option<Verbatim> {
        serde_json::from_str(part.get()).map(Verbatim).ok()
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Verbatim {
    fn eq(&self, other: &Verbatim) -> bool {
        self.as_str() == other.as_str()
    }
}

impl JsonSchema for Verbatim {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Verbatim".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({})
    }
}
