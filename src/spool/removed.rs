//! Sinks that the spool knows and the configuration of this start does not. They keep what they had not got until somebody says that
//! it is given up ([`Spool::forget_removed_sinks`]), and whoever does so learns here when that room is wanted.
//!
//! [`Spool::forget_removed_sinks`]: super::Spool::forget_removed_sinks

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The sinks, shared by the spool's threads and its handles; cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Removed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Each with where it had got to.
    sinks: Mutex<Vec<(String, u64)>>,
    wanted: Notify,
}

impl Removed {
    pub(super) fn new(sinks: Vec<(String, u64)>) -> Removed {
        Removed(Arc::new(Shared { sinks: Mutex::new(sinks), wanted: Notify::new() }))
    }

    fn sinks(&self) -> MutexGuard<'_, Vec<(String, u64)>> {
        // Nothing panics while it holds the lock.
        self.0.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<(String, u64)> {
        self.sinks().clone()
    }

    /// Records below are needed by none of them.
    pub(super) fn needed(&self) -> Option<u64> {
        self.sinks().iter().map(|(_, at)| *at).min()
    }

    /// Takes out those with these names.
    pub(super) fn take(&self, names: &[String]) -> Vec<(String, u64)> {
        self.sinks().extract_if(.., |(name, _)| names.contains(name)).collect()
    }

    /// Pushes are refused for want of room.
    pub(super) fn room_is_wanted(&self) {
        self.0.wanted.notify_one();
    }

    /// Returns when that is so, or was so since it was asked last.
    pub(super) async fn until_room_is_wanted(&self) {
        self.0.wanted.notified().await;
    }
}
