//! Sinks that were taken out of the configuration. What they had not got is given up, but not by the start itself: it may fail, or
//! be one with the wrong configuration, and a person must have the time to see the warning and to put the right one back. While the
//! file names such a sink again, which a restart has to follow, nothing of it is given up.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::spool::{AppendError, Spool};

/// How long they keep it once pushes are taken, or once the file names other sinks than before.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(300);
/// How soon a full disk is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Gives up what removed sinks keep that the file does not name, after a while, or as soon as pushes are refused for want of space:
/// then it is the room that somebody wants who takes a dead sink out. Ends with the stop.
pub(super) async fn forget(
    spool: Spool,
    mut named: watch::Receiver<BTreeSet<String>>,
    kept_for: Duration,
    stop: CancellationToken,
) {
    let forget = async {
        while !spool.removed_sinks().is_empty() {
            named.mark_unchanged();
            let changed = async {
                if named.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = tokio::time::sleep(kept_for) => {}
                () = spool.room_is_wanted() => {}
                () = changed => {
                    say_kept(&spool, &named.borrow());
                    continue;
                }
            }
            while spool.removed_sinks().iter().any(|(sink, _)| !named.borrow().contains(sink)) {
                let keep = named.borrow().clone();
                match spool.forget_removed_sinks(keep).await {
                    Ok(()) => {}
                    Err(AppendError::Full) => tokio::time::sleep(AGAIN).await,
                    Err(AppendError::Failed | AppendError::Closed) => return,
                }
            }
        }
    };
    if stop.run_until_cancelled(forget).await.is_some() {
        stop.cancelled().await;
    }
}

fn say_kept(spool: &Spool, named: &BTreeSet<String>) {
    for (sink, records) in spool.removed_sinks().into_iter().filter(|(sink, _)| named.contains(sink)) {
        tracing::warn!(%sink, records, "the configuration's file names a sink again that does not run: what it has not got is kept, and it goes on after a restart");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::spool::inspect::Inspector;
    use crate::spool::{RepeatRules, SinkStart, SpoolConfig, SpoolLimits, SpoolThreads, StartFrom, WhenFull};

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(folder: &Path, sinks: &[&str], full: bool, when_full: WhenFull) -> (Spool, SpoolThreads) {
        let start =
            |name: &&str| SinkStart { name: (*name).to_owned(), from: StartFrom::Earliest, when_full };
        let sinks: Vec<_> = sinks.iter().map(start).collect();
        let min_free_disk_bytes = if full { u64::MAX / 11 } else { 0 };
        let config = SpoolConfig {
            directory: folder.to_path_buf(),
            limits: SpoolLimits { min_free_disk_bytes, ..SpoolLimits::default() },
            repeats: RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) },
            call_age: HOUR,
        };
        Spool::open(config, &sinks, Metrics::new([], []).unwrap(), Clock::system()).unwrap()
    }

    async fn close(spool: &Spool, threads: SpoolThreads) {
        spool.close().await;
        tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
    }

    fn known(folder: &Path) -> Vec<String> {
        Inspector::open(folder).unwrap().stat().unwrap().sinks.into_iter().map(|sink| sink.sink).collect()
    }

    fn names(sinks: &[&str]) -> BTreeSet<String> {
        sinks.iter().map(|sink| (*sink).to_owned()).collect()
    }

    async fn until_known(folder: &Path, sinks: &[&str]) {
        for _ in 0..1000 {
            if known(folder) == sinks {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} and not {sinks:?}", known(folder));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_removed_sink_is_given_up_after_a_while_and_at_once_when_pushes_are_refused() {
        let (block, shed) = (WhenFull::Block, WhenFull::Shed);
        for (kept_for, full, when_full, given_up) in [
            (Duration::ZERO, false, block, true),
            (HOUR, true, block, true),
            (HOUR, false, block, false),
            // It makes room, so nobody is refused.
            (HOUR, true, shed, false),
        ] {
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(folder.path(), &["kafka", "old"], full, when_full);
            close(&spool, threads).await;
            let (spool, threads) = open(folder.path(), &["kafka"], full, when_full);
            let stop = CancellationToken::new();
            let (_names, named) = watch::channel(names(&["kafka"]));
            let forgetting = tokio::task::spawn(forget(spool.clone(), named, kept_for, stop.clone()));
            if given_up {
                until_known(folder.path(), &["kafka"]).await;
            } else {
                // Two beats have passed by then.
                for _ in 0..2 {
                    tokio::time::sleep(crate::spool::TICK).await;
                    spool.pulse().await.unwrap();
                }
            }
            let expected: &[&str] = if given_up { &["kafka"] } else { &["kafka", "old"] };
            assert_eq!(known(folder.path()), expected, "{kept_for:?} {full} {when_full:?}");
            stop.cancel();
            forgetting.await.unwrap();
            close(&spool, threads).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_removed_sink_that_the_file_names_again_is_never_given_up() {
        for full in [false, true] {
            let folder = TempDir::new().unwrap();
            let (spool, threads) = open(folder.path(), &["back", "kafka", "old"], full, WhenFull::Block);
            close(&spool, threads).await;
            let (spool, threads) = open(folder.path(), &["kafka"], full, WhenFull::Block);
            let stop = CancellationToken::new();
            let (sinks, named) = watch::channel(names(&["back", "kafka"]));
            let kept_for = if full { HOUR } else { Duration::ZERO };
            let forgetting = tokio::task::spawn(forget(spool.clone(), named, kept_for, stop.clone()));
            until_known(folder.path(), &["back", "kafka"]).await;
            assert_eq!(spool.removed_sinks(), [("back".to_owned(), 0)]);
            sinks.send_replace(names(&["kafka"]));
            until_known(folder.path(), &["kafka"]).await;
            stop.cancel();
            forgetting.await.unwrap();
            close(&spool, threads).await;
        }
    }
}
