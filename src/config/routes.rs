//! `[[routes]]` and `[masking]`: from what is written to the way to each sink.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Problems;
use crate::event::{codes, vocabulary};
use crate::metrics::EVENT_CATEGORIES;
use crate::route::{
    Condition, Mask, MaskKey, Pattern, PatternError, Router, Rule, Subject, Target, TopicRules, TopicTemplate,
};

/// `[[routes]]`: which events go where.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRoute {
    name: String,
    gateways: Option<Vec<String>>,
    agents: Option<Vec<String>>,
    categories: Option<Vec<String>>,
    types: Option<Vec<String>>,
    media: Option<Vec<String>>,
    skills: Option<Vec<String>>,
    to: BTreeMap<String, String>,
    not_to: Vec<String>,
    mask: Vec<String>,
    drop_raw: bool,
}

/// `[masking]`: the secret of hashes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMasking {
    pub(super) secret_file: Option<PathBuf>,
}

/// What a sink does with events that no rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unrouted {
    /// Publishes them to its own topic.
    #[default]
    Publish,
    /// Leaves them out, counted.
    Drop,
}

/// What a sink says of its own way.
#[derive(Debug)]
pub(super) struct OwnWay {
    /// Its own topic; none when there was a mistake in it.
    pub(super) topic: Option<TopicTemplate>,
    pub(super) unrouted: Unrouted,
    pub(super) mask: Vec<String>,
    pub(super) drop_raw: bool,
    /// None when it is not known of which kind it is.
    pub(super) topics: Option<TopicRules>,
}

/// A route's name stands in reports and keys.
const NAME_LENGTH: usize = 32;

/// The router of each sink, by the sink's name.
pub(super) fn validate(
    routes: &[RawRoute],
    masking: &RawMasking,
    sinks: &BTreeMap<String, OwnWay>,
    gateways: &[&str],
    problems: &mut Problems,
) -> BTreeMap<String, Router> {
    let key =
        masking.secret_file.as_deref().map(|path| problems.check("masking.secret_file", read_key(path)));
    let mut masks =
        Masks { key: key.clone().flatten(), missing: key.is_none() && !problems.suspect("masking") };
    let mut ways: BTreeMap<&str, (Mask, Vec<Rule>)> = sinks
        .iter()
        .map(|(name, own)| {
            let mask = masks.read(&format!("sinks.{name}"), &own.mask, own.drop_raw, problems);
            (name.as_str(), (mask, Vec::new()))
        })
        .collect();
    let mut names = BTreeSet::new();
    for (index, route) in routes.iter().enumerate() {
        let key = format!("routes[{index}]");
        if !problems.suspect(&format!("{key}.name")) {
            check_name(&key, &route.name, &mut names, problems);
        }
        let name: Arc<str> = route.name.as_str().into();
        let conditions: Arc<[Condition]> = route.conditions(&key, gateways, problems).into();
        let mask = masks.read(&key, &route.mask, route.drop_raw, problems);
        for (sink, target) in route.targets(&key, sinks, problems) {
            let Some((of_sink, rules)) = ways.get_mut(sink) else { continue };
            let mask = Arc::new(mask.clone().and(of_sink));
            let target = target.map(|topic| Target { topic, mask });
            rules.push(Rule { name: name.clone(), conditions: conditions.clone(), target });
        }
    }
    let router = |(name, (mask, rules)): (&str, (Mask, Vec<Rule>))| {
        let own = &sinks[name];
        let nothing = own.unrouted == Unrouted::Drop && rules.iter().all(|rule| rule.target.is_none());
        if nothing && !problems.suspect("routes") {
            problems.add(
                format!("sinks.{name}.unrouted"),
                "drop leaves nothing for this sink, as no route leads to it",
            );
        }
        let topic = own.topic.clone().filter(|_| own.unrouted == Unrouted::Publish);
        let mask = Arc::new(mask);
        let default = topic.map(|topic| Target { topic, mask: mask.clone() });
        (name.to_owned(), Router::new(rules, default, mask))
    };
    ways.into_iter().map(router).collect()
}

/// A file with the secret; white space around it is not part of it.
fn read_key(path: &Path) -> Result<MaskKey, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let text = SecretString::from(std::fs::read_to_string(path).map_err(unreadable)?);
    let key = MaskKey::new(text.expose_secret().trim().as_bytes());
    key.map_err(|error| format!("{}: {error}", path.display()))
}

fn check_name<'a>(key: &str, name: &'a str, names: &mut BTreeSet<&'a str>, problems: &mut Problems) {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if name.is_empty() || name.len() > NAME_LENGTH || !plain {
        problems.add(format!("{key}.name"), "is required: 1 to 32 characters of a-z, 0-9, - and _");
    } else if !names.insert(name) {
        problems.add(format!("{key}.name"), format!("another route is called {name:?} too"));
    }
}

/// Reads masks, which share one key.
struct Masks {
    key: Option<MaskKey>,
    /// There is no key, and that is no other mistake's fault.
    missing: bool,
}

impl Masks {
    fn read(&mut self, key: &str, fields: &[String], drop_raw: bool, problems: &mut Problems) -> Mask {
        let mut mask = Mask::default();
        for (index, field) in fields.iter().enumerate() {
            problems.check(&format!("{key}.mask[{index}]"), mask.add(field));
        }
        if drop_raw {
            mask.drop_raw();
        }
        if mask.needs_key() && self.missing {
            self.missing = false;
            problems.add("masking.secret_file", format!("is required for the hashes of {key}.mask"));
        }
        if let Some(key) = &self.key {
            mask.set_key(key.clone());
        }
        mask
    }
}

impl RawRoute {
    fn conditions(&self, key: &str, gateways: &[&str], problems: &mut Problems) -> Vec<Condition> {
        let media: Vec<&str> = codes::MEDIA.iter().map(|(_, name)| *name).collect();
        let types = vocabulary::event_types();
        let written = [
            (Subject::Gateways, &self.gateways, Some(gateways)),
            (Subject::Agents, &self.agents, None),
            (Subject::Categories, &self.categories, Some(EVENT_CATEGORIES)),
            (Subject::Types, &self.types, Some(&*types)),
            (Subject::Media, &self.media, Some(&*media)),
            (Subject::Skills, &self.skills, None),
        ];
        let mut conditions = Vec::new();
        for (subject, texts, known) in written {
            let key = format!("{key}.{}", subject.key());
            let Some(texts) = texts else { continue };
            if texts.is_empty() {
                problems.add(&key, "an empty list fits no event; leave the key out to let all through");
            }
            let read = |(index, text): (usize, &String)| {
                problems.check(&format!("{key}[{index}]"), pattern(subject, text, known))
            };
            let any_of = texts.iter().enumerate().filter_map(read).collect();
            conditions.push(Condition { subject, any_of });
        }
        conditions
    }

    /// What the route says about each sink that it names.
    fn targets<'a>(
        &'a self,
        key: &str,
        sinks: &BTreeMap<String, OwnWay>,
        problems: &mut Problems,
    ) -> Vec<(&'a str, Option<TopicTemplate>)> {
        let mut targets = Vec::new();
        if self.to.is_empty() && self.not_to.is_empty() {
            let suspect = ["to", "not_to"].iter().any(|name| problems.suspect(&format!("{key}.{name}")));
            if !suspect {
                problems.add(
                    format!("{key}.to"),
                    "is required: sinks and their topics, such as { bus = \"calls\" }, or not_to",
                );
            }
        }
        for (sink, topic) in &self.to {
            let key = format!("{key}.to.{sink}");
            let Some(own) = sinks.get(sink) else {
                add_unknown_sink(&key, sink, sinks, problems);
                continue;
            };
            if let Some(topics) = own.topics
                && let Some(topic) = problems.check(&key, TopicTemplate::parse(topic, topics))
            {
                targets.push((sink.as_str(), Some(topic)));
            }
        }
        for (index, sink) in self.not_to.iter().enumerate() {
            let at = format!("{key}.not_to[{index}]");
            if !sinks.contains_key(sink) {
                add_unknown_sink(&at, sink, sinks, problems);
            } else if self.to.contains_key(sink) {
                problems.add(at, format!("{sink} stands in to as well"));
            } else {
                targets.push((sink.as_str(), None));
            }
        }
        targets
    }
}

fn add_unknown_sink(key: &str, sink: &str, sinks: &BTreeMap<String, OwnWay>, problems: &mut Problems) {
    if !problems.suspect("sinks") || !sinks.is_empty() {
        let known: Vec<&str> = sinks.keys().map(String::as_str).collect();
        problems.add(key, format!("there is no sink {sink:?}; there are: {}", known.join(", ")));
    }
}

/// A pattern of `subject`. Where all values are known, one that fits none of them is a mistake.
fn pattern(subject: Subject, text: &str, known: Option<&[&str]>) -> Result<Pattern, String> {
    let read = if subject == Subject::Agents { Pattern::agents(text) } else { Pattern::text(text) };
    let pattern = read.map_err(|error: PatternError| error.to_string())?;
    // As events have it: "05" fits none.
    let is_code = || text.parse::<i64>().is_ok_and(|code| code.to_string() == text);
    let code = subject == Subject::Media && is_code();
    match known {
        Some(known) if !code && !known.iter().any(|value| pattern.fits(value)) => {
            let all = if subject == Subject::Types {
                "types are listed by `ccrelay schema`".to_owned()
            } else {
                format!("there are: {}", known.join(", "))
            };
            Err(format!("{text:?} fits nothing; {all}"))
        }
        _ => Ok(pattern),
    }
}
