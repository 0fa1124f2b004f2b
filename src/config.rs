//! Configuration: defaults, then the file, then the environment (`CCRELAY_SECTION__KEY`), read into a raw model
//! that refuses unknown keys and turned into a [`Config`] that cannot be wrong, with every mistake reported at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use figment::value::Dict;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::event::GatewayName;
use crate::session::config::AgentDefaults;

pub mod certificates;
mod doubts;
mod layers;
pub(crate) mod levels;
mod plain;
mod routes;
mod secrets;
mod sections;
mod spool_place;

pub use doubts::doubts;
pub use sections::{
    CallbackConfig, Config, LogConfig, LogFormat, OperationsConfig, SinkConfig, SinkKind, TokenConfig,
};
pub use spool_place::hindrances;

/// Mistakes found in a configuration, each with the key it concerns.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
    /// Keys whose value could not be read. Something else stands there now, which must not be blamed for anything.
    doubted: Vec<String>,
}

/// One mistake: which key, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, such as `sinks.bus.kafka.bootstrap_servers`.
    pub key: String,
    /// What is wrong and what is expected. Never contains a secret.
    pub message: String,
}

impl Problems {
    /// Notes a mistake, unless it only follows from a value that could not be read.
    pub fn add(&mut self, key: impl Into<String>, message: impl fmt::Display) {
        let key = key.into();
        if !self.doubted.iter().any(|doubted| is_within(&key, doubted)) {
            self.found.push(Problem { key, message: message.to_string() });
        }
    }

    /// Says that the value of this key is not what was written.
    fn doubt(&mut self, key: &str) {
        self.doubted.push(key.to_owned());
    }

    /// Whether a mistake was found in this key already, or in a table that holds it or that it holds: what is said about
    /// the key together with others would then be guesswork.
    #[must_use]
    pub fn suspect(&self, key: &str) -> bool {
        let found = self.found.iter().map(|problem| problem.key.as_str()).any(|found| found == key);
        found || self.doubted.iter().any(|doubted| is_within(key, doubted) || is_within(doubted, key))
    }

    /// Takes the value of `result`, or notes its error under `key`.
    pub fn check<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(key, error)).ok()
    }

    /// All mistakes noted so far.
    #[must_use]
    pub fn found(&self) -> &[Problem] {
        &self.found
    }
}

/// Whether `key` is `table` or something in it.
fn is_within(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file or the environment has mistakes.
    #[error("{}", list(path, problems))]
    Mistakes {
        /// Which file.
        path: PathBuf,
        /// All of them.
        problems: Vec<Problem>,
    },
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let count = problems.len();
    let mut text = format!("{}: {count} mistake{}", path.display(), if count == 1 { "" } else { "s" });
    for problem in problems {
        text.push_str(&format!("\n  {}: {}", problem.key, problem.message));
    }
    text
}

/// Reads the configuration: defaults, then the file, then the environment.
///
/// # Errors
/// When the file cannot be read, or anything in it or in the environment is wrong; all mistakes are named.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Source::of(path)?.draft()?.check()
}

/// Warnings of environment variables that look like configuration and are not. Values are no part of them.
pub fn variable_doubts() -> impl Iterator<Item = String> {
    layers::misspelt_variables().into_iter().map(|(name, meant)| {
        format!(
            "the environment variable {name} is ignored: two underscores part section and key, as in {meant}"
        )
    })
}

/// Where the text of a configuration comes from, again and again.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    /// What was read from a pipe, which gives it once only.
    read: Option<SecretString>,
}

impl Source {
    /// A file is read whenever it is asked for; anything else, such as `/dev/stdin`, now and never again.
    ///
    /// # Errors
    /// When it is no file and cannot be read.
    pub fn of(path: &Path) -> Result<Source, ConfigError> {
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let read = if is_file { None } else { Some(read(path)?.into()) };
        Ok(Source { path: path.into(), read })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, where it can be read again.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.read.is_none().then_some(&self.path)
    }

    /// What the configuration says now.
    ///
    /// # Errors
    /// When it cannot be read, or is no TOML.
    pub fn draft(&self) -> Result<Draft, ConfigError> {
        let path = self.path.clone();
        let layers = match &self.read {
            Some(text) => layers::merged(&path, text.expose_secret())?,
            None => layers::merged(&path, &read(&path)?)?,
        };
        Ok(Draft { path, layers })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable =
        |error: std::io::Error| ConfigError::Unreadable { path: path.into(), reason: error.to_string() };
    std::fs::read_to_string(path).map_err(unreadable)
}

/// What a configuration says, before anything was checked and any file was read that it names.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    layers: Dict,
}

impl Draft {
    /// Enough to tell it from another one.
    #[must_use]
    pub fn outline(&self) -> Outline {
        Outline(layers::outline(&self.layers))
    }

    /// Files that it names and that are read anew while the daemon runs; none where it is too wrong to say.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let raw = layers::read_layers(self.layers.clone(), &mut Problems::default());
        raw.map(|raw| raw.files().cloned().collect()).unwrap_or_default()
    }

    /// The configuration.
    ///
    /// # Errors
    /// When anything in it or in the environment is wrong; all mistakes are named.
    pub fn check(&self) -> Result<Config, ConfigError> {
        self.check_with(&HashMap::new())
    }

    /// The same, but agents of these gateways take what they leave out from these defaults, whatever is written.
    ///
    /// # Errors
    /// As [`Draft::check`].
    pub fn check_with(
        &self,
        agent_defaults: &HashMap<GatewayName, AgentDefaults>,
    ) -> Result<Config, ConfigError> {
        let mut problems = Problems::default();
        let relative_paths = layers::relative_paths(&self.layers);
        let mut raw = layers::read_layers(self.layers.clone(), &mut problems);
        if let Some(raw) = &mut raw {
            raw.keep_agent_defaults(agent_defaults);
        }
        let config = raw.and_then(|raw| sections::validate(raw, &mut problems));
        if let Some(config) = &config {
            secrets::check(config, &mut problems);
        }
        match (config, problems.found.is_empty()) {
            (Some(config), true) => Ok(Config { relative_paths, ..config }),
            _ => {
                let problems = with_variables(with_places(problems.found, &relative_paths));
                Err(ConfigError::Mistakes { path: self.path.clone(), problems })
            }
        }
    }
}

/// What a configuration says, key by key, without what it says: enough to tell two of them apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline(BTreeMap<String, u64>);

impl Outline {
    /// Keys that stand in one of the two only, or with another value.
    #[must_use]
    pub fn difference(&self, other: &Outline) -> Vec<String> {
        let differs = |key: &&String| self.0.get(*key) != other.0.get(*key);
        let mine = self.0.keys().filter(differs);
        let others = other.0.keys().filter(|key| !self.0.contains_key(*key));
        let mut keys: Vec<String> = mine.chain(others).cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// This one, with the keys of `newer` for which `takes` holds.
    #[must_use]
    pub fn with(mut self, newer: Outline, takes: impl Fn(&str) -> bool) -> Outline {
        self.0.retain(|key, _| !takes(key));
        self.0.extend(newer.0.into_iter().filter(|(key, _)| takes(key)));
        self
    }
}

/// Says of a path that is relative where it was looked for: a person who reads it may be elsewhere.
fn with_places(mut problems: Vec<Problem>, relative: &[String]) -> Vec<Problem> {
    let Ok(here) = std::env::current_dir() else { return problems };
    for problem in problems.iter_mut().filter(|problem| relative.contains(&problem.key)) {
        let here = here.display();
        problem
            .message
            .push_str(&format!(" (a relative path, looked for below {here}, where this was started)"));
    }
    problems
}

/// Names the environment variable wherever the value came from one.
fn with_variables(mut problems: Vec<Problem>) -> Vec<Problem> {
    for problem in &mut problems {
        if let Some(variable) = layers::variable(&problem.key) {
            problem.message.push_str(&format!(" (from the environment variable {variable})"));
        }
    }
    problems
}

#[cfg(test)]
mod tests;
