//! Start and end of long-lived tasks: every one has a name and is tracked; one that ends unasked or panics stops the
//! daemon; a stop is soft first, then hard.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of the daemon and its two stops.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    /// The first reason for which the daemon did not go on.
    failure: Arc<Mutex<Option<String>>>,
    /// How often files were to be read anew.
    reloads: Arc<watch::Sender<u64>>,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            tasks: TaskTracker::new(),
            failure: Arc::default(),
            reloads: Arc::default(),
        }
    }
}

impl Lifecycle {
    /// Cancelled when the daemon is to stop in good order.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Cancelled when the stop itself must come to an end: by a second signal, or when the grace period is over.
    #[must_use]
    pub fn cut_off(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Stops the daemon in good order.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Stops the daemon because something failed: it will end with an error.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(error = %reason, "the daemon must stop");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.soft.cancel();
    }

    /// Has files read anew that may change while the daemon runs.
    pub fn reload(&self) {
        self.reloads.send_modify(|times| *times += 1);
    }

    /// Changes with each reload.
    #[must_use]
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Why the daemon failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a task that must live until the stop: when it ends before, or panics, the daemon stops with an error. The
    /// hard stop drops it wherever it is.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.clone();
        let inner = self.tasks.spawn(task);
        self.tasks.spawn(async move {
            let abort = inner.abort_handle();
            tokio::select! {
                ended = inner => match ended {
                    Ok(()) if lifecycle.soft.is_cancelled() => tracing::debug!(task = name, "task ended"),
                    Ok(()) => lifecycle.fail(format!("the task {name} ended")),
                    Err(error) => lifecycle.fail(format!("the task {name} failed: {error}")),
                },
                () = lifecycle.hard.cancelled() => {
                    tracing::warn!(task = name, "task cut off");
                    abort.abort();
                }
            }
        });
    }

    /// Resolves when a stop has had `grace`, or must come to an end before.
    pub async fn stopped_for(&self, grace: Duration) {
        tokio::select! {
            () = self.hard.cancelled() => {}
            () = async {
                self.soft.cancelled().await;
                tokio::time::sleep(grace).await;
            } => tracing::warn!(grace_secs = grace.as_secs(), "the stop took too long"),
        }
    }

    /// Waits until all tasks have ended after a stop, at most for `grace` or until a second signal; then the hard stop.
    /// False when tasks had to be cut off.
    pub async fn drained(&self, grace: Duration) -> bool {
        self.tasks.close();
        let clean = tokio::select! {
            // First, as a hard stop ends the tasks too: what it ended was not clean.
            biased;
            () = self.hard.cancelled() => false,
            () = self.tasks.wait() => true,
            () = tokio::time::sleep(grace) => {
                tracing::warn!(grace_secs = grace.as_secs(), "the stop took too long");
                false
            }
        };
        self.hard.cancel();
        self.tasks.wait().await;
        clean
    }

    /// SIGTERM and SIGINT: the first stops softly, a second one hard. SIGHUP reads files anew.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn watch_signals(&self) -> std::io::Result<()> {
        self.watch_stops()?;
        let mut hangup = signal(SignalKind::hangup())?;
        let reloading = self.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!(signal = "SIGHUP", "reading files anew");
                reloading.reload();
            }
        });
        Ok(())
    }

    /// SIGTERM and SIGINT alone, for what reads nothing anew.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn watch_stops(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let lifecycle = self.clone();
        // Not one of the tracked tasks: it must not keep the daemon from ending.
        tokio::spawn(async move {
            for stop in [&lifecycle.soft, &lifecycle.hard] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                stop.cancel();
                tracing::info!(signal = name, "stopping");
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unasked_stops_the_daemon_with_its_name() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("reader", async {});
        lifecycle.stopping().cancelled().await;
        assert_eq!(lifecycle.failure().as_deref(), Some("the task reader ended"));
        assert!(lifecycle.drained(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_daemon() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("writer", async { panic!("on purpose") });
        lifecycle.stopping().cancelled().await;
        assert!(lifecycle.failure().unwrap().contains("the task writer failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stop_waits_for_has_the_grace_period_or_until_the_second_signal() {
        let grace = Duration::from_secs(20);
        let begun = tokio::time::Instant::now();
        let lifecycle = Lifecycle::default();
        let waiting = tokio::time::timeout(3 * grace, lifecycle.stopped_for(grace));
        assert!(waiting.await.is_err(), "nobody has asked for a stop");
        lifecycle.stop();
        lifecycle.stopped_for(grace).await;
        assert_eq!(begun.elapsed(), 4 * grace);
        lifecycle.hard.cancel();
        lifecycle.stopped_for(grace).await;
        assert_eq!(begun.elapsed(), 4 * grace);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_cut_off_after_the_grace_period() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("stuck", std::future::pending());
        lifecycle.stop();
        assert!(!lifecycle.drained(Duration::from_secs(20)).await);
        assert_eq!(lifecycle.failure(), None);
    }
}
