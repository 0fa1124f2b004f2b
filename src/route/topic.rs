//! A topic made from a template.
//!
//! A template is text with placeholders from a fixed set: `{gateway}`, `{agent}`, `{category}`, `{type}`. What they stand
//! for has a small alphabet, so a template that is valid once is valid for every event.

use std::sync::Arc;

use thiserror::Error;

use super::facts::Facts;
use crate::event::Event;

/// The longest Kafka topic.
const KAFKA_LONGEST: usize = 249;
/// MQTT's limit of any string is 65535 bytes; topics are kept far below.
const MQTT_LONGEST: usize = 1024;
/// The longest names that placeholders stand for.
const GATEWAY_LONGEST: usize = 32;
const AGENT_LONGEST: usize = 10;
const CATEGORY_LONGEST: usize = 16;
const TYPE_LONGEST: usize = 64;

/// Which rules a topic must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRules {
    /// `[a-zA-Z0-9._-]`, at most 249.
    Kafka,
    /// No wildcard, no NUL, not beginning with `$`.
    Mqtt,
    /// Anything: the sink has no topics.
    Free,
}

/// A template that is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Nothing in it.
    #[error("a topic must not be empty")]
    Empty,
    /// A brace that is not part of a placeholder.
    #[error(
        "unknown placeholder or lone brace at character {at}; placeholders are {{gateway}}, {{agent}}, {{category}}, {{type}}"
    )]
    Placeholder {
        /// Where, counted from 1.
        at: usize,
    },
    /// A character the broker refuses.
    #[error("a {rules} topic must not contain {character:?}")]
    Character {
        /// Whose topic.
        rules: &'static str,
        /// Which one.
        character: char,
    },
    /// Too long for the broker once filled in.
    #[error("a topic can become longer than {limit} characters")]
    TooLong {
        /// How long it may be.
        limit: usize,
    },
}

/// A topic with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
    /// The whole topic, when there is no placeholder.
    fixed: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Gateway,
    Agent,
    Category,
    Type,
}

const PLACEHOLDERS: [(&str, Part); 4] = [
    ("{gateway}", Part::Gateway),
    ("{agent}", Part::Agent),
    ("{category}", Part::Category),
    ("{type}", Part::Type),
];

impl Part {
    /// The most bytes that it can become.
    fn longest(&self) -> usize {
        match self {
            Part::Text(text) => text.len(),
            Part::Gateway => GATEWAY_LONGEST,
            Part::Agent => AGENT_LONGEST,
            Part::Category => CATEGORY_LONGEST,
            Part::Type => TYPE_LONGEST,
        }
    }
}

impl TopicTemplate {
    /// Parses a template and checks it against the broker's rules.
    ///
    /// # Errors
    /// When it is empty, has an unknown placeholder, or could give a topic that the broker refuses.
    pub fn parse(text: &str, rules: TopicRules) -> Result<TopicTemplate, TemplateError> {
        let parts = split(text)?;
        for part in &parts {
            if let Part::Text(text) = part {
                rules.check(text)?;
            }
        }
        if rules == TopicRules::Mqtt && text.starts_with('$') {
            return Err(TemplateError::Character { rules: "MQTT", character: '$' });
        }
        let longest = parts.iter().map(Part::longest).sum::<usize>();
        let limit = rules.longest();
        match (parts.is_empty(), longest > limit) {
            (true, _) => Err(TemplateError::Empty),
            (_, true) => Err(TemplateError::TooLong { limit }),
            _ => {
                let fixed = match &parts[..] {
                    [Part::Text(text)] => Some(text.as_str().into()),
                    _ => None,
                };
                Ok(TopicTemplate { parts, fixed })
            }
        }
    }

    /// Whether it is the same topic for every event.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// Whether each agent has one topic, and no other agent has it.
    #[must_use]
    pub fn is_of_one_agent(&self) -> bool {
        let has = |part: Part| self.parts.contains(&part);
        has(Part::Gateway) && has(Part::Agent) && !has(Part::Category) && !has(Part::Type)
    }

    /// The topic of this event.
    #[must_use]
    pub fn render(&self, event: &Event) -> Arc<str> {
        self.fill(&Facts::names(event))
    }

    /// The topic of an event with these names.
    #[must_use]
    pub fn fill(&self, facts: &Facts<'_>) -> Arc<str> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let mut topic = String::with_capacity(64);
        for part in &self.parts {
            topic.push_str(match part {
                Part::Text(text) => text,
                Part::Gateway => facts.gateway,
                Part::Agent => facts.agent,
                Part::Category => facts.category,
                Part::Type => facts.event_type,
            });
        }
        topic.into()
    }
}

impl TopicRules {
    fn longest(self) -> usize {
        match self {
            TopicRules::Kafka => KAFKA_LONGEST,
            TopicRules::Mqtt | TopicRules::Free => MQTT_LONGEST,
        }
    }

    fn check(self, text: &str) -> Result<(), TemplateError> {
        let (rules, refused): (_, fn(char) -> bool) = match self {
            TopicRules::Kafka => ("Kafka", |c| !(c.is_ascii_alphanumeric() || "._-".contains(c))),
            TopicRules::Mqtt => ("MQTT", |c| matches!(c, '+' | '#') || c.is_control()),
            TopicRules::Free => return Ok(()),
        };
        match text.chars().find(|c| refused(*c)) {
            Some(character) => Err(TemplateError::Character { rules, character }),
            None => Ok(()),
        }
    }
}

fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let brace = rest.find(['{', '}']).unwrap_or(rest.len());
        if brace > 0 {
            parts.push(Part::Text(rest[..brace].to_owned()));
            rest = &rest[brace..];
            continue;
        }
        let found = PLACEHOLDERS.iter().find(|(name, _)| rest.starts_with(name));
        let (name, part) = found.ok_or(TemplateError::Placeholder { at: text.len() - rest.len() + 1 })?;
        parts.push(part.clone());
        rest = &rest[name.len()..];
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AgentId, GatewayName, vocabulary};
    use crate::metrics::EVENT_CATEGORIES;

    #[test]
    fn templates_are_checked_against_the_brokers_rules() {
        let kafka = |text| TopicTemplate::parse(text, TopicRules::Kafka);
        assert!(kafka("ccrelay.events").is_ok());
        assert!(kafka("ccrelay.{gateway}.{category}").is_ok());
        assert!(kafka("{gateway}.{agent}.{category}.{type}").is_ok());
        assert_eq!(kafka(""), Err(TemplateError::Empty));
        assert_eq!(kafka("a/b"), Err(TemplateError::Character { rules: "Kafka", character: '/' }));
        assert_eq!(kafka("a{agnet}"), Err(TemplateError::Placeholder { at: 2 }));
        assert_eq!(kafka("a}"), Err(TemplateError::Placeholder { at: 2 }));
        assert_eq!(kafka(&"x".repeat(250)), Err(TemplateError::TooLong { limit: 249 }));
        let mqtt = |text| TopicTemplate::parse(text, TopicRules::Mqtt);
        assert!(mqtt("ccrelay/{gateway}/agents/{agent}/{type}").is_ok());
        assert_eq!(mqtt("ccrelay/+/x"), Err(TemplateError::Character { rules: "MQTT", character: '+' }));
        assert_eq!(mqtt("$SYS/x"), Err(TemplateError::Character { rules: "MQTT", character: '$' }));
    }

    #[test]
    fn a_template_may_become_as_long_as_the_broker_allows_with_the_longest_names() {
        let names = GATEWAY_LONGEST + AGENT_LONGEST + CATEGORY_LONGEST + TYPE_LONGEST;
        let kafka = |more: usize| {
            let text = format!("{{gateway}}{{agent}}{{category}}{{type}}{}", "x".repeat(more));
            TopicTemplate::parse(&text, TopicRules::Kafka)
        };
        assert!(kafka(KAFKA_LONGEST - names).is_ok());
        assert_eq!(kafka(KAFKA_LONGEST - names + 1), Err(TemplateError::TooLong { limit: 249 }));
        assert!(GatewayName::parse(&"x".repeat(GATEWAY_LONGEST + 1)).is_err());
        assert!(AgentId::parse(&"1".repeat(AGENT_LONGEST + 1)).is_err());
        assert!(EVENT_CATEGORIES.iter().all(|category| category.len() <= CATEGORY_LONGEST));
        assert!(vocabulary::event_types().iter().all(|event_type| event_type.len() <= TYPE_LONGEST));
    }
}
