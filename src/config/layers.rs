//! The layers and how all mistakes of form are found in one go: a value that cannot be read is noted and taken out, one
//! that is missing is noted and put in, and the whole is read again. The keys so repaired are doubted ever after
//! ([`Problems::doubt`]), so that what stands there now is blamed for nothing.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use figment::error::{Actual, Kind};
use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use serde::Deserialize;

use super::sections::{RELATIVE_BY_DEFAULT, RawConfig};
use super::{ConfigError, Problems};

/// Variables with this prefix and two underscores between section and key are configuration. Others with the prefix
/// are not: the log filter, the file's own name, or what a test sets.
const PREFIX: &str = "CCRELAY_";
/// Where a listener is, and what the library says of a text that is no such thing.
const ADDRESS: &str = "an IP address and port, such as 0.0.0.0:8443";
const NO_ADDRESS: &str = "invalid socket address syntax";
/// What stands in the place of a path where a sink writes to standard output.
const STANDARD_OUTPUT: &str = "-";

/// The text of the file with the environment over it.
pub(super) fn merged(path: &Path, text: &str) -> Result<Dict, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.into(), reason };
    check_syntax(text).map_err(unreadable)?;
    let environment = Env::prefixed(PREFIX).filter(|key| key.as_str().contains("__")).split("__");
    let figment = Figment::new().merge(Toml::string(text)).merge(environment);
    let mut layers = figment.data().map_err(|error| unreadable(error.to_string()))?;
    Ok(layers.remove(&Profile::Default).unwrap_or_default())
}

/// Variables with one underscore where two belong, each with the name that was most likely meant: they are not configuration,
/// and whoever has set one believes that it is.
pub(super) fn misspelt_variables() -> Vec<(String, String)> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut misspelt: Vec<_> = names.filter_map(|name| meant_by(&name).map(|meant| (name, meant))).collect();
    misspelt.sort_unstable();
    misspelt
}

/// The variable that would be one of a key that there is, if this one has one underscore too few.
fn meant_by(name: &str) -> Option<String> {
    let name = name.to_uppercase();
    let (section, key) = name.strip_prefix(PREFIX).filter(|rest| !rest.contains("__"))?.split_once('_')?;
    let value = Value::from(Dict::from([(key.to_lowercase(), Value::from(""))]));
    let dict = Dict::from([(section.to_lowercase(), value)]);
    // Whatever is found fault with in the value; what has no keys is told by its path.
    let known = match RawConfig::deserialize(&Value::from(dict)) {
        Ok(_) => true,
        Err(error) => error
            .into_iter()
            .all(|error| error.path.len() > 1 && !matches!(error.kind, Kind::UnknownField(..))),
    };
    known.then(|| format!("{PREFIX}{section}__{key}"))
}

/// Each key with a hash of its value.
pub(super) fn outline(dict: &Dict) -> BTreeMap<String, u64> {
    let mut keys = BTreeMap::new();
    for (name, value) in dict {
        add_to_outline(&mut keys, name.clone(), value);
    }
    keys
}

fn add_to_outline(keys: &mut BTreeMap<String, u64>, key: String, value: &Value) {
    let mut hasher = DefaultHasher::new();
    match value {
        Value::Dict(_, dict) => {
            for (name, value) in dict {
                add_to_outline(keys, format!("{key}.{name}"), value);
            }
            return;
        }
        Value::Array(_, list) => {
            for (at, value) in list.iter().enumerate() {
                add_to_outline(keys, format!("{key}[{at}]"), value);
            }
            return;
        }
        Value::String(_, text) => text.hash(&mut hasher),
        Value::Char(_, character) => character.to_string().hash(&mut hasher),
        Value::Bool(_, flag) => flag.hash(&mut hasher),
        Value::Num(_, number) => format!("{number:?}").hash(&mut hasher),
        Value::Empty(..) => {}
    }
    keys.insert(key, hasher.finish());
}

/// Keys of paths that are looked for below the folder that the process was started in. By their names, which say whose values
/// are paths; those that are left out are relative where the default is.
pub(super) fn relative_paths(dict: &Dict) -> Vec<String> {
    let mut relative = Vec::new();
    add_relative_paths(&mut relative, "", dict);
    for key in RELATIVE_BY_DEFAULT {
        let (table, name) = key.split_once('.').unwrap_or(("", key));
        let given = dict.get(table).is_some_and(|value| has(value, name));
        if !given {
            relative.push(key.to_owned());
        }
    }
    relative.sort_unstable();
    relative
}

fn add_relative_paths(relative: &mut Vec<String>, above: &str, dict: &Dict) {
    for (name, value) in dict {
        let key = format!("{above}{name}");
        match value {
            Value::Dict(_, inner) => add_relative_paths(relative, &format!("{key}."), inner),
            Value::Array(_, list) => {
                let tables = list.iter().enumerate().filter_map(|(at, value)| Some((at, value.as_dict()?)));
                tables.for_each(|(at, inner)| add_relative_paths(relative, &format!("{key}[{at}]."), inner));
            }
            Value::String(_, text) if holds_path(name) && leads_from_here(text) => relative.push(key),
            _ => {}
        }
    }
}

fn leads_from_here(path: &str) -> bool {
    path != STANDARD_OUTPUT && Path::new(path).is_relative()
}

fn holds_path(key: &str) -> bool {
    key.ends_with("_file") || ["directory", "file", "path"].contains(&key)
}

/// TOML's own report quotes the line, which may hold a secret.
fn check_syntax(text: &str) -> Result<(), String> {
    toml::from_str::<toml::Table>(text).map(drop).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
        format!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', ", "))
    })
}

/// The raw model; none when the mistakes are such that nothing more can be said about the rest.
pub(super) fn read_layers(mut dict: Dict, problems: &mut Problems) -> Option<RawConfig> {
    loop {
        let error = match RawConfig::deserialize(&Value::from(dict.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        for error in error {
            let mistake = Mistake::of(&error, &dict);
            let key = key_of(&dict, &mistake.path);
            problems.add(&key, format!("{}{}", mistake.message, mistake.variable(&key)));
            if mistake.repair != Repair::Forget {
                problems.doubt(&key);
            }
            if !mistake.repair.apply(&mut dict, &mistake.path) {
                return None;
            }
        }
    }
}

/// One mistake of form: where, what, and what is done about it to find the next.
struct Mistake {
    path: Vec<String>,
    message: String,
    repair: Repair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    /// An unknown key is taken out and nothing else suffers.
    Forget,
    /// What is required is put in. Everything that is required is a text.
    PutIn,
    /// What cannot be read is taken out.
    TakeOut,
}

impl Mistake {
    /// Values are never part of the message: one may be a secret that stands in the wrong place.
    fn of(error: &figment::Error, dict: &Dict) -> Mistake {
        let mut path = error.path.clone();
        let (message, repair) = match &error.kind {
            Kind::UnknownField(name, known) => {
                // In an element of a list figment has put the name there itself.
                if path.last() != Some(name) || find(dict, &path).is_some_and(|value| has(value, name)) {
                    path.push(name.clone());
                }
                (format!("unknown key; known here: {}", known.join(", ")), Repair::Forget)
            }
            Kind::MissingField(name) => {
                path.push(name.to_string());
                ("is required".to_owned(), Repair::PutIn)
            }
            Kind::InvalidType(found, expected) => {
                (format!("expected {}, found {}", in_words(expected), kind_of(found)), Repair::TakeOut)
            }
            Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
                (format!("expected {}", in_words(expected)), Repair::TakeOut)
            }
            Kind::UnknownVariant(_, known) => {
                (format!("expected one of {}", known.join(", ")), Repair::TakeOut)
            }
            Kind::Message(said) if said == NO_ADDRESS => (format!("expected {ADDRESS}"), Repair::TakeOut),
            other => (other.to_string(), Repair::TakeOut),
        };
        Mistake { path, message, repair }
    }

    /// A note that names the variable where the mistake comes from the environment.
    fn variable(&self, key: &str) -> String {
        if variable(key).is_some() {
            // The mistake gets its note with all others in the end.
            return String::new();
        }
        let above = format!("{}__", name_of(key));
        let mut names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let beneath = names.find(|name| name.to_uppercase().starts_with(&above));
        beneath.map_or(String::new(), |name| format!(" (from the environment variable {name})"))
    }
}

/// The environment variable that sets this key, if there is one.
pub(super) fn variable(key: &str) -> Option<String> {
    let name = name_of(key);
    let mut names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.find(|found| found.to_uppercase() == name)
}

fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('[', ".").replace(['"', ']'], "").replace('.', "__")).to_uppercase()
}

/// The path as people write it: `gateways[0].name`, `options."linger.ms"`.
fn key_of(dict: &Dict, path: &[String]) -> String {
    let mut key = String::new();
    for (at, part) in path.iter().enumerate() {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        match find(dict, &path[..at]) {
            Some(Value::Array(..)) => key.push_str(&format!("[{part}]")),
            _ if plain => key.push_str(&format!(".{part}")),
            _ => key.push_str(&format!(".\"{part}\"")),
        }
    }
    key.trim_start_matches('.').to_owned()
}

/// What stands at this path; nothing at the empty one.
fn find<'a>(dict: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(dict.get(first)?, |value, part| match value {
        Value::Dict(_, inner) => inner.get(part),
        Value::Array(_, list) => list.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

fn has(value: &Value, key: &str) -> bool {
    value.as_dict().is_some_and(|dict| dict.contains_key(key))
}

/// What serde expects, without the names of Rust's types.
fn in_words(expected: impl std::fmt::Display) -> String {
    let expected = expected.to_string();
    let bound = |bits: u32| format!("a whole number from 0 to {}", u64::MAX >> (64 - bits));
    match expected.as_str() {
        "u8" => bound(8),
        "u16" => bound(16),
        "u32" => bound(32),
        "u64" | "usize" => "a whole number, not negative".to_owned(),
        "a string" | "path string" | "str" => "a text".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        "socket address" => ADDRESS.to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        _ => expected,
    }
}

/// What a value is, without the value.
fn kind_of(actual: &Actual) -> &'static str {
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

impl Repair {
    /// False when there is nothing to repair: then the rest cannot be read.
    fn apply(self, dict: &mut Dict, path: &[String]) -> bool {
        match path {
            [] => false,
            [last] if self == Repair::PutIn => dict.insert(last.clone(), Value::from("")).is_none(),
            [last] => dict.remove(last).is_some(),
            [first, rest @ ..] => dict.get_mut(first).is_some_and(|value| self.apply_in(value, rest)),
        }
    }

    fn apply_in(self, value: &mut Value, path: &[String]) -> bool {
        match (value, path) {
            (Value::Dict(_, inner), _) => self.apply(inner, path),
            (Value::Array(_, list), [index, rest @ ..]) => {
                let Some(element) = index.parse::<usize>().ok().and_then(|at| list.get_mut(at)) else {
                    return false;
                };
                if !rest.is_empty() {
                    return self.apply_in(element, rest);
                }
                // Its neighbours keep their numbers.
                let empty = matches!(element, Value::Dict(_, inner) if inner.is_empty());
                *element = Value::from(Dict::new());
                !empty
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_with_one_underscore_is_known_by_the_key_that_it_would_set() {
        for (name, meant) in [
            ("CCRELAY_SPOOL_MAX_BYTES", "CCRELAY_SPOOL__MAX_BYTES"),
            ("CCRELAY_LOG_LEVEL", "CCRELAY_LOG__LEVEL"),
            ("CCRELAY_LOG_FORMAT", "CCRELAY_LOG__FORMAT"),
            ("ccrelay_callback_listen", "CCRELAY_CALLBACK__LISTEN"),
            ("CCRELAY_OPERATIONS_ADMIN_TOKENS_FILE", "CCRELAY_OPERATIONS__ADMIN_TOKENS_FILE"),
            ("CCRELAY_TOKEN_PERIOD_SECS", "CCRELAY_TOKEN__PERIOD_SECS"),
            ("CCRELAY_SHUTDOWN_GRACE_SECS", "CCRELAY_SHUTDOWN__GRACE_SECS"),
            ("CCRELAY_SINKS_BUS_TOPIC", "CCRELAY_SINKS__BUS_TOPIC"),
        ] {
            assert_eq!(meant_by(name).as_deref(), Some(meant), "{name}");
        }
        // What is ours and no configuration, what is set right, what nobody can set so, and what Kubernetes sets for services.
        for name in [
            "CCRELAY_LOG",
            "CCRELAY_CONFIG_FILE",
            "CCRELAY_ADMIN_TOKEN_FILE",
            "CCRELAY_SPOOL__MAX_BYTES",
            "CCRELAY_GATEWAYS_NAME",
            "CCRELAY_OPERATIONS_PORT",
            "CCRELAY_OPERATIONS_PORT_9464_TCP",
            "CCRELAY_OPERATIONS_SERVICE_HOST",
            "SPOOL_MAX_BYTES",
        ] {
            assert_eq!(meant_by(name), None, "{name}");
        }
    }
}
