//! Where an event goes: to which topic of each sink, and with what hidden. Pure functions of event and configuration.
//!
//! For each sink the **first** rule decides whose conditions hold for the event and that says something about that sink;
//! without one it is the sink's own topic. So an event is on a sink once or not at all, as a consumer that counts expects
//! and as one cursor can confirm; the order of rules is that of the file, exceptions before what is general; and what a rule
//! says of one sink changes nothing for another. (Were all matches to count, one more rule for one team would double the
//! events of another that reads both topics.)
//!
//! What a sink hides it hides by every rule.

use std::sync::Arc;

use crate::event::Event;

pub mod explain;
mod facts;
mod mask;
mod rule;
mod topic;

pub use facts::Facts;
pub use mask::{Mask, MaskError, MaskKey, SecretTooShort};
pub use rule::{Condition, Miss, Pattern, PatternError, Subject};
pub use topic::{TemplateError, TopicRules, TopicTemplate};

/// Where a sink's events go that a rule or nothing else decides about.
#[derive(Debug, Clone)]
pub struct Target {
    /// The topic.
    pub topic: TopicTemplate,
    /// What is hidden on the way.
    pub mask: Arc<Mask>,
}

/// What one rule says about one sink.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule's name.
    pub name: Arc<str>,
    /// All of them must hold.
    pub conditions: Arc<[Condition]>,
    /// Where events go; nowhere when absent.
    pub target: Option<Target>,
}

/// The way to one sink.
#[derive(Debug, Clone)]
pub struct Router {
    rules: Vec<Rule>,
    default: Option<Target>,
    /// What the sink hides by every rule.
    mask: Arc<Mask>,
}

impl Router {
    /// All events go to this topic as they are.
    #[must_use]
    pub fn to(topic: TopicTemplate) -> Router {
        Router::new(Vec::new(), Some(Target { topic, mask: Arc::default() }), Arc::default())
    }

    /// Rules in their order, what happens when none holds (events go nowhere when absent), and what the sink hides.
    #[must_use]
    pub fn new(rules: Vec<Rule>, default: Option<Target>, mask: Arc<Mask>) -> Router {
        Router { rules, default, mask }
    }

    /// Where this event goes, with what is to be hidden hidden; nowhere when no rule sends it here. Other sinks have the
    /// same event, so what is hidden is hidden in a copy.
    #[must_use]
    pub fn route(&self, mut event: Arc<Event>) -> Option<(Arc<str>, Arc<Event>)> {
        let target = self.target(&event)?;
        let topic = target.topic.render(&event);
        if !target.mask.is_empty() {
            target.mask.apply(Arc::make_mut(&mut event));
        }
        Some((topic, event))
    }

    /// The event as the sink would get it; one that no rule sends here with what the sink hides hidden.
    #[must_use]
    pub fn hide(&self, mut event: Event) -> Event {
        self.target(&event).map_or(&self.mask, |target| &target.mask).apply(&mut event);
        event
    }

    /// Whether this event stays away only because no rule speaks of it, while others of its agent come here.
    #[must_use]
    pub fn leaves_out(&self, event: &Event) -> bool {
        // Nearly always.
        if self.default.is_some() {
            return false;
        }
        let facts = Facts::of(event);
        let is_for_agent = |rule: &Rule| {
            let mut conditions = rule.conditions.iter().filter(|condition| condition.is_of_agent());
            rule.target.is_some() && conditions.all(|condition| condition.holds(&facts))
        };
        self.rule(&facts).is_none() && self.rules.iter().any(is_for_agent)
    }

    /// Whether anything is hidden from this sink, in whatever event.
    #[must_use]
    pub fn hides(&self) -> bool {
        let targets = self.rules.iter().filter_map(|rule| rule.target.as_ref());
        !self.mask.is_empty() || targets.chain(&self.default).any(|target| !target.mask.is_empty())
    }

    /// Everything that is hidden from this sink, by whatever rule.
    pub fn masks(&self) -> impl Iterator<Item = &Mask> {
        let targets = self.rules.iter().filter_map(|rule| rule.target.as_ref());
        let of_targets = targets.chain(&self.default).map(|target| &*target.mask);
        std::iter::once(&*self.mask).chain(of_targets)
    }

    fn target(&self, event: &Event) -> Option<&Target> {
        if self.rules.is_empty() {
            return self.default.as_ref();
        }
        match self.rule(&Facts::of(event)) {
            Some(rule) => rule.target.as_ref(),
            None => self.default.as_ref(),
        }
    }

    fn rule(&self, facts: &Facts<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.conditions.iter().all(|condition| condition.holds(facts)))
    }
}

#[cfg(test)]
mod tests;
