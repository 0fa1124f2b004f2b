//! Sinks that were taken out of the configuration. What they had not got is given up, but not by the start itself: it may fail, or
//! be one with the wrong configuration, and a person must have the time to see the warning and to put the right one back.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::spool::{AppendError, Spool};

/// How long they keep it once pushes are taken.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(300);
/// How often is looked whether the spool is full, and how soon a full disk is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives up what removed sinks keep, after a while, or as soon as pushes are refused for want of space: then it is the room that
/// somebody wants who takes a dead sink out. Ends with the stop.
pub(super) async fn forget(spool: Spool, metrics: Metrics, kept_for: Duration, stop: CancellationToken) {
    let forget = async {
        let full = async {
            while metrics.spool_fill_ratio.get() < 1.0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // Over or not, it is time.
        drop(tokio::time::timeout(kept_for, full).await);
        while spool.forget_removed_sinks().await == Err(AppendError::Full) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if stop.run_until_cancelled(forget).await.is_some() {
        stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::clock::Clock;
    use crate::spool::inspect::Inspector;
    use crate::spool::{RepeatRules, SinkStart, SpoolConfig, SpoolLimits, StartFrom, WhenFull};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_removed_sink_is_given_up_after_a_while_and_at_once_when_the_spool_is_full() {
        let hour = Duration::from_secs(3600);
        for (kept_for, full, given_up) in
            [(Duration::ZERO, false, true), (hour, true, true), (hour, false, false)]
        {
            let folder = TempDir::new().unwrap();
            let metrics = Metrics::new([], []).unwrap();
            let open = |sinks: &[&str]| {
                let start = |name: &&str| SinkStart {
                    name: (*name).to_owned(),
                    from: StartFrom::Earliest,
                    when_full: WhenFull::Block,
                };
                let sinks: Vec<_> = sinks.iter().map(start).collect();
                let config = SpoolConfig {
                    directory: folder.path().to_path_buf(),
                    limits: SpoolLimits {
                        min_free_disk_bytes: if full { u64::MAX / 11 } else { 0 },
                        ..SpoolLimits::default()
                    },
                    repeats: RepeatRules {
                        soonest: Duration::from_secs(8),
                        window: Duration::from_secs(180),
                    },
                    call_age: hour,
                };
                Spool::open(config, &sinks, metrics.clone(), Clock::system()).unwrap()
            };
            for sinks in [&["kafka", "old"][..], &["kafka"]] {
                let (spool, threads) = open(sinks);
                let stop = CancellationToken::new();
                let forgetting = forget(spool.clone(), metrics.clone(), kept_for, stop.clone());
                let forgetting = tokio::task::spawn(forgetting);
                let known = || Inspector::open(folder.path()).unwrap().stat().unwrap().sinks.len();
                let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                while given_up && known() > sinks.len() && tokio::time::Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert_eq!(known(), if given_up { sinks.len() } else { 2 }, "{kept_for:?} {full}");
                stop.cancel();
                forgetting.await.unwrap();
                spool.close().await;
                tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
            }
        }
    }
}
