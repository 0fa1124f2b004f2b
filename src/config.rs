//! Configuration: defaults, then the file, then the environment (`CCRELAY_SECTION__KEY`), read into a raw model
//! that refuses unknown keys and turned into a [`Config`] that cannot be wrong, with every mistake reported at once.

use std::fmt;

/// Mistakes found in a configuration, each with the key it concerns.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
}

/// One mistake: which key, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key, such as `sinks.kafka.bootstrap_servers`.
    pub key: String,
    /// What is wrong and what is expected. Never contains a secret.
    pub message: String,
}

impl Problems {
    /// Notes a mistake.
    pub fn add(&mut self, key: impl Into<String>, message: impl fmt::Display) {
        self.found.push(Problem { key: key.into(), message: message.to_string() });
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
