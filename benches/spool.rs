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
use ccrelay::metrics::Metrics;
use ccrelay::spool::Spool;
use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "common/output.rs"]
mod output;
#[path = "common/spool.rs"]
mod spool;
#[path = "common/talking.rs"]
mod talking;

use output::Output;
use spool::{body, close, fill, record};

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
    #[command(flatten)]
    output: Output,
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

    let directory = folder.path().join("spool");
    let (spool, threads, metrics) = spool::open(&directory, [SINK])?;
    println!(
        "\n{:>10}{:>12}{:>14}{:>16}{:>12}{:>12}",
        "at a time", "pushes/s", "commits/s", "pushes/commit", "p50 ms", "p99 ms"
    );
    let (usual, mut rows) = (vec![1, 16, 64, 256], Vec::new());
    for at_a_time in if options.at_a_time.is_empty() { &usual } else { &options.at_a_time } {
        rows.push(row(&spool, &metrics, *at_a_time, Duration::from_secs_f64(options.secs)).await?);
    }

    let stored = *spool.end().borrow() - 1;
    fill(&spool, options.backlog.saturating_sub(stored)).await?;
    let records = *spool.end().borrow() - 1;
    close(spool, threads).await?;
    let begin = Instant::now();
    let (spool, threads, _) = spool::open(&directory, [SINK])?;
    let opened = begin.elapsed().as_secs_f64();
    println!("\nopened with {records} records waiting in {opened:.3} s");
    options.output.write(&json!({
        "fdatasync_ms": millis(commit), "mark_ms": millis(mark), "rows": rows,
        "waiting_records": records, "opened_secs": opened,
    }))?;
    close(spool, threads).await
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

async fn row(spool: &Spool, metrics: &Metrics, at_a_time: usize, length: Duration) -> anyhow::Result<Value> {
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
    let (per_second, commits_per_second) = (pushes / secs, commits as f64 / secs);
    let (p50, p99) = (millis(took[took.len() / 2]), millis(took[took.len() * 99 / 100]));
    println!(
        "{at_a_time:>10}{per_second:>12.0}{commits_per_second:>14.0}{:>16.1}{p50:>12.3}{p99:>12.3}",
        per_second / commits_per_second,
    );
    Ok(json!({
        "at_a_time": at_a_time, "pushes_per_second": per_second, "commits_per_second": commits_per_second,
        "p50_ms": p50, "p99_ms": p99,
    }))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
