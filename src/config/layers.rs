//! The layers and how all mistakes of form are found in one go: a value that cannot be read is noted, taken out, and
//! the rest is read again.

use std::path::Path;

use figment::error::Kind;
use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use serde::Deserialize;

use super::sections::RawConfig;
use super::{ConfigError, Problems};

/// Variables with this prefix and two underscores between section and key are configuration. Others with the prefix
/// are not: the log filter, the file's own name, or what a test sets.
const PREFIX: &str = "CCRELAY_";
pub(super) fn read(path: &Path, problems: &mut Problems) -> Result<RawConfig, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.into(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let environment = Env::prefixed(PREFIX).filter(|key| key.as_str().contains("__")).split("__");
    let figment = Figment::new().merge(Toml::string(&text)).merge(environment);
    let mut layers = figment.data().map_err(|error| unreadable(error.to_string()))?;
    let mut dict = layers.remove(&Profile::Default).unwrap_or_default();
    loop {
        let value = Value::from(dict.clone());
        let error = match RawConfig::deserialize(&value) {
            Ok(raw) => return Ok(raw),
            Err(error) => error,
        };
        for error in error {
            let (path, message) = describe(&error);
            let key = path.join(".");
            let variable = format!("{PREFIX}{}", path.join("__").to_uppercase());
            let source = match std::env::var_os(&variable) {
                Some(_) => format!(" (from the environment variable {variable})"),
                None => String::new(),
            };
            problems.add(&key, format!("{message}{source}"));
            // Nothing can be taken out where something is missing, and the rest cannot be read without it.
            if !remove(&mut dict, &path) {
                return Ok(RawConfig::default());
            }
        }
    }
}

/// The key a mistake concerns and what is wrong there.
fn describe(error: &figment::Error) -> (Vec<String>, String) {
    let mut path = error.path.clone();
    let message = match &error.kind {
        Kind::UnknownField(name, known) => {
            path.push(name.clone());
            format!("unknown key; known here: {}", known.join(", "))
        }
        Kind::MissingField(name) => {
            path.push(name.to_string());
            "is required".to_owned()
        }
        Kind::InvalidType(found, expected) => format!("expected {expected}, found {}", kind_of(found)),
        Kind::InvalidValue(_, expected) => format!("expected {expected}"),
        Kind::UnknownVariant(name, known) => format!("{name:?} is none of {}", known.join(", ")),
        other => other.to_string(),
    };
    (path, message)
}

/// What a value is, without the value: it may be a secret that stands in the wrong place.
fn kind_of(actual: &figment::error::Actual) -> &'static str {
    use figment::error::Actual;
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a fraction",
        Actual::Str(_) | Actual::Char(_) | Actual::Bytes(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}

fn remove(dict: &mut Dict, path: &[String]) -> bool {
    match path {
        [] => false,
        [last] => dict.remove(last).is_some(),
        [first, rest @ ..] => dict.get_mut(first).is_some_and(|value| remove_from(value, rest)),
    }
}

fn remove_from(value: &mut Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Dict(_, inner), _) => remove(inner, path),
        // A wrong element leaves the list; its neighbours move up, so only their numbers in later messages differ.
        (Value::Array(_, list), [index, rest @ ..]) => {
            let Some(at) = index.parse::<usize>().ok().filter(|at| *at < list.len()) else { return false };
            if rest.is_empty() {
                list.remove(at);
                return true;
            }
            remove_from(&mut list[at], rest)
        }
        _ => false,
    }
}
