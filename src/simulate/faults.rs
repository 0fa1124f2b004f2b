//! Misbehaviour on order: the next answers of an operation fail in a chosen way.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::operation::Operation;
use super::random::Random;

/// One kind of failure of one operation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which operation fails.
    pub operation: Operation,
    /// For which agent; all when absent.
    #[serde(default)]
    pub agent: Option<String>,
    /// How many times; without end when absent.
    #[serde(default)]
    pub times: Option<u32>,
    /// The chance that a call meets it.
    #[serde(default = "always")]
    pub chance: f64,
    /// How it fails.
    pub kind: FaultKind,
}

/// How a call fails.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nothing is done; this retcode is answered.
    Retcode(String),
    /// Nothing is done; this HTTP status is answered.
    Status(u16),
    /// Done, and answered after so many milliseconds.
    DelayMs(u64),
    /// Nothing is done; the connection is closed without an answer.
    Drop,
    /// Done; the connection is closed without an answer.
    DropAnswer,
    /// Done; the answer is not JSON.
    Garbage,
}

/// The faults that wait for their call.
#[derive(Debug)]
pub(super) struct Faults(Mutex<(Vec<Fault>, Random)>);

impl Fault {
    /// The next `times` calls of `operation` by anybody fail as `kind`.
    #[must_use]
    pub fn next(operation: Operation, times: u32, kind: FaultKind) -> Fault {
        Fault { operation, agent: None, times: Some(times), chance: 1.0, kind }
    }

    /// The same for one agent only.
    #[must_use]
    pub fn of(self, agent: &str) -> Fault {
        Fault { agent: Some(agent.to_owned()), ..self }
    }
}

impl Faults {
    pub(super) fn new(faults: Vec<Fault>, seed: u64) -> Faults {
        Faults(Mutex::new((faults, Random::new(seed))))
    }

    pub(super) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.push(fault);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
    }

    /// What this call meets, if anything. Counts it.
    pub(super) fn meet(&self, operation: Operation, agent: &str) -> Option<FaultKind> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (faults, random) = &mut *guard;
        let found = faults.iter().position(|f| {
            f.operation == operation
                && f.agent.as_deref().is_none_or(|a| a == agent)
                && (f.chance >= 1.0 || random.chance(f.chance))
        })?;
        let kind = faults[found].kind.clone();
        if let Some(times) = &mut faults[found].times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(found);
            }
        }
        Some(kind)
    }
}

fn always() -> f64 {
    1.0
}
