//! The last call to a gateway that came to nothing, for people: an agent's own state has no room for where and why.

use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::event::AgentId;
use crate::session::retcode::Operation;

/// A call that got no answer, or none of the gateway's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// When it ended.
    pub at: Timestamp,
    /// Which call.
    pub operation: Operation,
    /// Whose it was.
    pub agent_id: AgentId,
    /// Which of the gateway's addresses it went to: `main` or `backup-1`, and the base URL.
    pub address: String,
    /// Why it came to nothing.
    pub error: String,
}

/// The last one of a gateway.
#[derive(Debug, Default)]
pub(super) struct LastFailed(Mutex<Option<FailedCall>>);

impl LastFailed {
    pub(super) fn set(&self, failed: FailedCall) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
    }

    pub(super) fn get(&self) -> Option<FailedCall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
