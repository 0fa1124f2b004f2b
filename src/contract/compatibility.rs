//! What of a contract would break consumers of an older one: both are AsyncAPI documents.
//!
//! Consumers read, so what they may rely on is: a channel, message or member that is there stays; a member that is always
//! there stays so; types, formats, patterns and constants stay; words of an enumeration stay. A member that is newly
//! required is found too, because it breaks those who write events of their own for tests, and what reads stored ones.
//! Whatever is new beside that breaks nobody.

use serde_json::{Map, Value};

/// Members of a schema that must stay the same, as far as the older contract has them.
const SAME: [&str; 5] = ["type", "format", "pattern", "const", "$ref"];

/// Every breaking change from `old` to `new`, each with the place it was found at; none when there is none.
#[must_use]
pub fn breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let (mut old, mut new) = (old.clone(), new.clone());
    without_words(&mut old);
    without_words(&mut new);
    let (old, new) = (&old, &new);
    let mut found = Vec::new();
    for (key, what) in
        [("/channels", "channel"), ("/components/messages", "message"), ("/components/schemas", "schema")]
    {
        for (name, old) in members(old.pointer(key)) {
            let place = format!("{what} {name}");
            match new.pointer(key).and_then(|all| all.get(name)) {
                None => found.push(format!("{place}: is gone")),
                Some(new) if what == "schema" => compare(&place, old, new, &mut found),
                Some(new) if what == "message" => {
                    for part in ["headers", "contentType"] {
                        same(&place, part, old, new, &mut found);
                    }
                    payload(&place, old, new, &mut found);
                }
                Some(new) => {
                    same(&place, "address", old, new, &mut found);
                    gone(&format!("{place}: message"), old.get("messages"), new.get("messages"), &mut found);
                    parameters(&place, old, new, &mut found);
                }
            }
        }
    }
    found
}

/// Takes out what is for people. A member that is called so is an object and stays.
fn without_words(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(without_words),
        Value::Object(object) => {
            object.retain(|key, value| {
                !(value.is_string() && ["description", "title", "summary"].contains(&key.as_str()))
            });
            object.values_mut().for_each(without_words);
        }
        _ => {}
    }
}

/// The payload of a message, a reference or a schema.
fn payload(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let place = format!("{place}: payload");
    match (old.get("payload"), new.get("payload")) {
        (Some(old), Some(new)) => compare(&place, old, new, found),
        (Some(_), None) => found.push(format!("{place}: is gone")),
        (None, _) => {}
    }
}

/// The parameters of a channel's address: those who subscribe name their words.
fn parameters(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    for (name, old) in members(old.get("parameters")) {
        let place = format!("{place}: parameter {name}");
        match new.get("parameters").and_then(|all| all.get(name)) {
            None => found.push(format!("{place}: is gone")),
            Some(new) => compare(&place, old, new, found),
        }
    }
}

fn compare(place: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    for key in SAME {
        same(place, key, old, new, found);
    }
    for word in list(old, "enum").iter().filter(|word| !list(new, "enum").contains(word)) {
        if new.get("enum").is_some() {
            found.push(format!("{place}: the word {word} is gone"));
        }
    }
    if old.get("enum").is_none() && new.get("enum").is_some() {
        found.push(format!("{place}: has become an enumeration"));
    }
    for (key, change) in [("oneOf", "alternative"), ("anyOf", "alternative"), ("allOf", "part")] {
        let (old, new) = (list(old, key), list(new, key));
        for one in old.iter().filter(|one| !new.contains(one)) {
            found.push(format!("{place}: the {change} {one} is gone"));
        }
    }
    let (before, now) = (list(old, "required"), list(new, "required"));
    for name in before.iter().filter(|name| !now.contains(name)) {
        found.push(format!("{place}: {name} is not required any more", name = text(name)));
    }
    for name in now.iter().filter(|name| !before.contains(name)) {
        found.push(format!("{place}: {name} is newly required", name = text(name)));
    }
    let properties = new.get("properties");
    for (name, old) in members(old.get("properties")) {
        let place = format!("{place}.{name}");
        match properties.and_then(|all| all.get(name)) {
            None => found.push(format!("{place}: is gone")),
            Some(new) => compare(&place, old, new, found),
        }
    }
    if let (Some(old), Some(new)) = (old.get("items"), new.get("items")) {
        compare(&format!("{place}[]"), old, new, found);
    }
}

/// A part that must stay the same where the older contract has it.
fn same(place: &str, key: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if let Some(before) = old.get(key)
        && new.get(key) != Some(before)
    {
        let now = new.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        found.push(format!("{place}: {key} was {before} and is {now}"));
    }
}

fn gone(place: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<String>) {
    for (name, _) in members(old) {
        if new.and_then(|all| all.get(name)).is_none() {
            found.push(format!("{place} {name} is gone"));
        }
    }
}

fn members(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(name: &Value) -> &str {
    name.as_str().unwrap_or("")
}
