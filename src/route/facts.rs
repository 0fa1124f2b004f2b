//! What rules and topics can ask of an event, whether it is at hand or was written down as a CloudEvent.

use std::borrow::Cow;

use serde_json::Value;

use super::rule::Subject;
use crate::event::{Event, vocabulary};

/// Names and kinds of one event. Borrowed from it: they are looked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Which gateway.
    pub gateway: &'a str,
    /// Which agent.
    pub agent: &'a str,
    /// The group of the type.
    pub category: &'a str,
    /// The type.
    pub event_type: &'a str,
    /// The gateway's code of the media of its call.
    pub media_code: Option<Cow<'a, str>>,
    /// The name of that code, where it has one.
    pub media_name: Option<Cow<'a, str>>,
    /// The number of the skill queue.
    pub skill_id: Option<Cow<'a, str>>,
    /// The name of the skill queue.
    pub skill_name: Option<Cow<'a, str>>,
}

impl<'a> Facts<'a> {
    /// The names alone, which are what topics are made of.
    #[must_use]
    pub fn names(event: &'a Event) -> Facts<'a> {
        Facts {
            gateway: event.gateway.as_str(),
            agent: event.agent_id.as_str(),
            category: event.category,
            event_type: event.event_type,
            media_code: None,
            media_name: None,
            skill_id: None,
            skill_name: None,
        }
    }

    /// All of them.
    #[must_use]
    pub fn of(event: &'a Event) -> Facts<'a> {
        let details = &event.data.details;
        let queue = details.queue.as_ref();
        let media = details.call.as_ref().and_then(|call| call.media);
        Facts {
            media_code: media.map(|media| Cow::Owned(media.code.to_string())),
            media_name: media.and_then(|media| media.name).map(Cow::Borrowed),
            skill_id: queue.and_then(|queue| queue.id).map(|id| Cow::Owned(id.to_string())),
            skill_name: queue.and_then(|queue| queue.name.as_deref()).map(Cow::Borrowed),
            ..Facts::names(event)
        }
    }

    /// Those of an event that was written down in the JSON format of CloudEvents; none when it is not one of ours.
    #[must_use]
    pub fn of_cloud_event(event: &'a Value) -> Option<Facts<'a>> {
        let text = |name: &str| event.get(name)?.as_str();
        let source = text("source")?.strip_prefix("/ccrelay/")?;
        let (gateway, agent) = source.split_once("/agents/")?;
        let event_type = text("type")?;
        let media = event.pointer("/data/call/media");
        let queue = event.pointer("/data/queue");
        Some(Facts {
            gateway,
            agent,
            category: vocabulary::category(event_type),
            event_type,
            media_code: media.and_then(|m| m.get("code")?.as_i64()).map(|code| Cow::Owned(code.to_string())),
            media_name: media.and_then(|m| m.get("name")?.as_str()).map(Cow::Borrowed),
            skill_id: queue.and_then(|q| q.get("id")?.as_i64()).map(|id| Cow::Owned(id.to_string())),
            skill_name: queue.and_then(|q| q.get("name")?.as_str()).map(Cow::Borrowed),
        })
    }

    /// What a condition on `subject` looks at; any of them may fit.
    pub(super) fn values(&self, subject: Subject) -> [Option<&str>; 2] {
        match subject {
            Subject::Gateways => [Some(self.gateway), None],
            Subject::Agents => [Some(self.agent), None],
            Subject::Categories => [Some(self.category), None],
            Subject::Types => [Some(self.event_type), None],
            Subject::Media => [self.media_code.as_deref(), self.media_name.as_deref()],
            Subject::Skills => [self.skill_id.as_deref(), self.skill_name.as_deref()],
        }
    }
}
