//! How many pushes a second the spool makes durable, beside the bare disk, and what the open of a big spool costs.
//!
//! ```text
//! cargo bench --bench spool                                  1, 16, 64 and 256 at a time, 5 s each
//! cargo bench --bench spool -- --secs 20 --at-a-time 64
//! cargo bench --bench spool -- --folder /srv/spool --backlog 2000000
//! ```
//!
//! *spool* appends records of the size of a usual push, so many at a time, each waiting for its fsync. *disk* writes as
//! many bytes over what a file has there and calls fdatasync, one after another: what one commit costs here at least. *mark* is
//! the unsynced write of `spool.mark` that each commit makes besides. At last the spool is closed with the backlog that
//! `--backlog` names and opened again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use ccrelay::clock::Clock;
use ccrelay::metrics::Metrics;
use ccrelay::spool::{
    RepeatRules, SinkStart, Spool, SpoolConfig, SpoolLimits, SpoolThreads, StartFrom, WhenFull,
};
use clap::Parser;
use tempfile::TempDir;

#[path = "common/fill.rs"]
mod fill;

use fill::{body, fill, record};

const SINK: &str = "nowhere";
/// The bytes of a mark.
const MARK: &[u8] = &[b'0'; 72];
const DISK_WRITES: u32 = 300;
const MARK_WRITES: u32 = 100_000;

#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each row.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Appends that wait at a time; may be given several times.
    #[arg(long)]
    at_a_time: Vec<usize>,
    /// Where to make the spool: a folder of the disk to be measured.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Records that the spool has when it is opened again.
    #[arg(long, default_value_t = 200_000)]
    backlog: u64,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let folder = match &options.folder {
        Some(folder) => TempDir::new_in(folder),
        None => TempDir::new(),
    }
    .context("no folder")?;
    let (commit, mark) = disk(folder.path())?;
    println!("disk: write and fdatasync of a push's bytes, median  {:>9.3} ms", millis(commit));
    println!("mark: unsynced write of the spool's mark, mean       {:>9.3} ms", millis(mark));

    let (spool, threads, metrics) = open(folder.path())?;
    println!(
        "\n{:>10}{:>12}{:>14}{:>16}{:>12}{:>12}",
        "at a time", "pushes/s", "commits/s", "pushes/commit", "p50 ms", "p99 ms"
    );
    let usual = vec![1, 16, 64, 256];
    for at_a_time in if options.at_a_time.is_empty() { &usual } else { &options.at_a_time } {
        row(&spool, &metrics, *at_a_time, Duration::from_secs_f64(options.secs)).await?;
    }

    let stored = *spool.end().borrow() - 1;
    fill(&spool, options.backlog.saturating_sub(stored)).await?;
    let records = *spool.end().borrow() - 1;
    close(spool, threads).await?;
    let begin = Instant::now();
    let (spool, threads, _) = open(folder.path())?;
    println!("\nopened with {records} records waiting in {:.3} s", begin.elapsed().as_secs_f64());
    close(spool, threads).await
}

fn open(folder: &Path) -> anyhow::Result<(Spool, SpoolThreads, Metrics)> {
    let metrics = Metrics::new(["main"], [(SINK, &[][..])])?;
    let config = SpoolConfig {
        directory: folder.join("spool"),
        limits: SpoolLimits::default(),
        repeats: RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) },
        call_age: Duration::from_secs(86_400),
    };
    let sink = SinkStart { name: SINK.to_owned(), from: StartFrom::Earliest, when_full: WhenFull::Block };
    let (spool, threads) = Spool::open(config, &[sink], metrics.clone(), Clock::system())?;
    Ok((spool, threads, metrics))
}

async fn close(spool: Spool, threads: SpoolThreads) -> anyhow::Result<()> {
    spool.close().await;
    tokio::task::spawn_blocking(move || threads.join()).await?;
    Ok(())
}

/// What a synced and an unsynced write cost: the median of the one, the mean of the other.
fn disk(folder: &Path) -> anyhow::Result<(Duration, Duration)> {
    let (synced, unsynced) = (File::create(folder.join("synced"))?, File::create(folder.join("unsynced"))?);
    let body = body(1001, 0);
    synced.write_all_at(&vec![b'0'; body.len() * DISK_WRITES as usize], 0)?;
    synced.sync_all()?;
    let mut took = Vec::new();
    for at in 0..u64::from(DISK_WRITES) {
        let begin = Instant::now();
        synced.write_all_at(&body, at * body.len() as u64)?;
        synced.sync_data()?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    let begin = Instant::now();
    for _ in 0..MARK_WRITES {
        unsynced.write_all_at(MARK, 0)?;
    }
    Ok((took[took.len() / 2], begin.elapsed() / MARK_WRITES))
}

async fn row(spool: &Spool, metrics: &Metrics, at_a_time: usize, length: Duration) -> anyhow::Result<()> {
    let commits = metrics.spool_commit_duration.get_sample_count();
    let begin = Instant::now();
    let producers: Vec<_> = (0..at_a_time)
        .map(|producer| {
            let spool = spool.clone();
            tokio::task::spawn(async move {
                let mut took = Vec::new();
                while begin.elapsed() < length {
                    let asked = Instant::now();
                    spool.append(record(producer as u64)).await?;
                    took.push(asked.elapsed());
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for producer in producers {
        took.extend(producer.await??);
    }
    let secs = begin.elapsed().as_secs_f64();
    let commits = metrics.spool_commit_duration.get_sample_count() - commits;
    took.sort_unstable();
    let pushes = took.len() as f64;
    println!(
        "{at_a_time:>10}{:>12.0}{:>14.0}{:>16.1}{:>12.3}{:>12.3}",
        pushes / secs,
        commits as f64 / secs,
        pushes / commits as f64,
        millis(took[took.len() / 2]),
        millis(took[took.len() * 99 / 100]),
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
