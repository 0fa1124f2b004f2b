//! What a process used at most, and the files that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::usage::resident_kib;

/// Watches the memory of whichever process is named to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// Zero while there is none.
    pid: Arc<AtomicI32>,
    peak: Arc<AtomicU64>,
}

impl Watch {
    pub(crate) fn start(pid: i32) -> Watch {
        let watch = Watch::default();
        watch.now(pid);
        let (pid, peak) = (Arc::downgrade(&watch.pid), watch.peak.clone());
        tokio::task::spawn(async move {
            while let Some(pid) = pid.upgrade().map(|pid| pid.load(Ordering::Relaxed)) {
                peak.fetch_max(resident_kib(pid).unwrap_or(0), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        watch
    }

    pub(crate) fn now(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The most memory that any of them had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

pub(crate) fn open_files(pid: i32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}
