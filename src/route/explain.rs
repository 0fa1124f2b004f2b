//! Why an event goes where it goes: for people who write rules.

use serde::Serialize;

use super::{Facts, Miss, Router, Target};

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// The rule.
    pub rule: String,
    /// Its conditions that do not hold; none for the rule that decided.
    pub misses: Vec<Miss>,
}

/// Where an event goes on one sink, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The sink.
    pub sink: String,
    /// The topic; none when the event does not go to this sink.
    pub topic: Option<String>,
    /// The rule that decided; none when it was the sink's default.
    pub rule: Option<String>,
    /// The texts that are hidden.
    pub mask: Vec<String>,
    /// Whether the gateway's own words are left out.
    pub raw_withheld: bool,
    /// The rules that were looked at, in their order; those after the deciding one were not.
    pub tried: Vec<Tried>,
}

impl Router {
    /// Where an event with these facts goes on the sink called `sink`, and why.
    #[must_use]
    pub fn explain(&self, sink: &str, facts: &Facts<'_>) -> Explanation {
        let (mut tried, mut decided) = (Vec::new(), None);
        for rule in &self.rules {
            let misses: Vec<_> = rule.conditions.iter().filter_map(|c| c.miss(facts)).collect();
            let holds = misses.is_empty();
            tried.push(Tried { rule: rule.name.to_string(), misses });
            if holds {
                decided = Some(rule);
                break;
            }
        }
        let target: Option<&Target> = decided.map_or(self.default.as_ref(), |rule| rule.target.as_ref());
        Explanation {
            sink: sink.to_owned(),
            topic: target.map(|target| target.topic.fill(facts).to_string()),
            rule: decided.map(|rule| rule.name.to_string()),
            mask: target.map_or_else(Vec::new, |target| {
                target.mask.fields().into_iter().map(str::to_owned).collect()
            }),
            raw_withheld: target.is_some_and(|target| target.mask.drops_raw()),
            tried,
        }
    }
}
