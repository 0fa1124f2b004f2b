//! What went wrong last at each sink, for people: from the same failure as its counter and its log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::sink::DeliveryError;

/// The last failure of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was.
    pub at: Timestamp,
    /// Label `reason` of `ccrelay_sink_failures_total`.
    pub reason: &'static str,
    /// In words.
    pub detail: String,
}

/// The last failure of each sink; cloning is cheap. There are as many as there are sinks.
#[derive(Debug, Clone, Default)]
pub struct Troubles {
    by_sink: Arc<Mutex<BTreeMap<String, Failure>>>,
}

impl Troubles {
    /// The last failure of this sink since the start.
    #[must_use]
    pub fn of(&self, sink: &str) -> Option<Failure> {
        self.by_sink.lock().unwrap_or_else(PoisonError::into_inner).get(sink).cloned()
    }

    pub(super) fn note(&self, sink: &str, error: &DeliveryError, at: Timestamp) {
        let failure = Failure { at, reason: error.reason, detail: error.to_string() };
        self.by_sink.lock().unwrap_or_else(PoisonError::into_inner).insert(sink.to_owned(), failure);
    }
}
