//! Steady load without a fault: what a process uses must not creep up.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::Options;
use crate::scene::{Scene, Shared};
use crate::support::usage::resident_kib;
use crate::usage::open_files;

/// Samples of a short run come faster than those of a long one.
const SAMPLES: u32 = 20;
const MOST_BETWEEN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Soak {
    memory: Series,
    files: Series,
    spool: Series,
}

/// One measure over time, in seconds.
#[derive(Debug, Default)]
struct Series(Vec<(f64, f64)>);

pub(crate) async fn run(scene: &mut Scene, options: &Options) -> Soak {
    let shared = &scene.shared;
    let interval = (options.length / SAMPLES).min(MOST_BETWEEN);
    let (mut soak, begun) = (Soak::default(), Instant::now());
    while begun.elapsed() < options.length {
        tokio::time::sleep(interval).await;
        soak.sample(shared, begun.elapsed().as_secs_f64()).await;
    }
    soak
}

impl Soak {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    async fn sample(&mut self, shared: &Shared, at: f64) {
        let pid = shared.memory.pid();
        self.memory.0.push((at, resident_kib(pid).expect("the relay runs") as f64 / 1024.0));
        self.files.0.push((at, open_files(pid).expect("the relay runs") as f64));
        let spool = shared.probe.metric("ccrelay_spool_bytes").await.expect("the relay answers");
        self.spool.0.push((at, spool / 1024.0 / 1024.0));
    }

    pub(crate) fn print(&self) {
        println!("{:<24}{:>10}{:>10}{:>10}{:>14}", "steady load", "first", "last", "most", "per hour");
        for (name, series) in
            [("memory, MiB", &self.memory), ("open files", &self.files), ("spool, MiB", &self.spool)]
        {
            let (first, last, most) = (series.first(), series.last(), series.most());
            let slope = series.second_half().slope() * 3600.0;
            println!("{name:<24}{first:>10.1}{last:>10.1}{most:>10.1}{slope:>+14.1}");
        }
    }

    /// The second half of the run against the first: a start may take what it needs, a creep goes on. What a machine
    /// makes of single samples is allowed for by a share and a fixed amount.
    pub(crate) fn assert_level(&self) {
        for (name, series, share, amount) in [
            ("memory, MiB", &self.memory, 1.10, 16.0),
            ("open files", &self.files, 1.10, 16.0),
            ("spool, MiB", &self.spool, 1.25, 16.0),
        ] {
            let (before, after) = (series.first_half().most(), series.second_half().most());
            assert!(after <= before * share + amount, "{name} crept up from {before} to {after}: {series:?}");
        }
    }
}

impl Series {
    fn first(&self) -> f64 {
        self.0.first().map_or(0.0, |(_, value)| *value)
    }

    fn last(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, value)| *value)
    }

    fn most(&self) -> f64 {
        self.0.iter().map(|(_, value)| *value).fold(0.0, f64::max)
    }

    fn first_half(&self) -> Series {
        Series(self.0[..self.0.len() / 2].to_vec())
    }

    fn second_half(&self) -> Series {
        Series(self.0[self.0.len() / 2..].to_vec())
    }

    /// By least squares, a second.
    #[expect(clippy::cast_precision_loss, reason = "few samples")]
    fn slope(&self) -> f64 {
        let count = self.0.len().max(1) as f64;
        let (sum_at, sum) = self.0.iter().fold((0.0, 0.0), |(a, v), (at, value)| (a + at, v + value));
        let (mean_at, mean) = (sum_at / count, sum / count);
        let (above, below) = self.0.iter().fold((0.0, 0.0), |(above, below), (at, value)| {
            (above + (at - mean_at) * (value - mean), below + (at - mean_at).powi(2))
        });
        if below > 0.0 { above / below } else { 0.0 }
    }
}

#[test]
fn a_creep_is_told_from_a_level() {
    let level: Series = Series((0..20).map(|at| (f64::from(at), 100.0)).collect());
    let creep: Series = Series((0..20).map(|at| (f64::from(at), 100.0 + 10.0 * f64::from(at))).collect());
    assert!(level.slope().abs() < 1e-9 && (creep.slope() - 10.0).abs() < 1e-9);
    Soak { memory: Series(level.0.clone()), ..Soak::default() }.assert_level();
    let caught = std::panic::catch_unwind(|| Soak { memory: creep, ..Soak::default() }.assert_level());
    assert!(caught.is_err(), "a creep is noticed");
}
