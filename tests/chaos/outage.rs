//! Kafka away under load: nothing of it may be felt on the other side of the spool.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::Options;
use crate::scene::{Scene, Shared};
use crate::support::eventually;
use crate::support::usage::resident_kib;

/// Events that MQTT may be behind at any time: what is under way, and what a busy machine is late with.
const MQTT_LAG: f64 = 2_000.0;
const TENTHS: usize = 10;
/// What the drain of an outage may take; for a long one, as long again.
const DRAIN: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(crate) struct Outage {
    length: Duration,
    /// p50 and p99 of the gateway's pushes, before and during.
    undisturbed: (Duration, Duration),
    disturbed: (Duration, Duration),
    failed: u64,
    start_kib: u64,
    most_kib: u64,
    /// The most of each tenth of it.
    tenths_kib: [u64; TENTHS],
    /// The most by the end of the drain.
    drain_kib: u64,
    /// Events behind: Kafka at the end of the outage, MQTT at the worst.
    kafka_lag: f64,
    mqtt_lag: f64,
    drain: Duration,
    /// Acknowledged while it drained.
    meanwhile: u64,
}

pub(crate) async fn run(scene: &mut Scene, options: &Options) -> Outage {
    let Scene { shared, kafka, .. } = scene;
    let simulator = &shared.simulator;
    let measured = options.length.min(Duration::from_secs(60)) / 2;
    let percentiles = || {
        let latencies = simulator.take_latencies();
        (latencies.quantile(0.5), latencies.quantile(0.99))
    };
    percentiles();
    tokio::time::sleep(measured).await;
    let mut outage = Outage { undisturbed: percentiles(), length: options.length, ..Outage::default() };
    outage.start_kib = resident_kib(shared.memory.pid()).expect("the relay runs");

    let failed = simulator.statistics().total.pushes_failed;
    kafka.stop().await;
    percentiles();
    let end = Instant::now() + options.length;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
        outage.sample(shared, 1.0 - left / options.length.as_secs_f64()).await;
    }
    outage.disturbed = percentiles();
    outage.kafka_lag = lag(shared, "bus").await;

    kafka.start_again().await;
    let acknowledged = simulator.statistics().total.delivered;
    let begun = Instant::now();
    let limit = DRAIN.max(options.length);
    // Drained when what is behind is what is under way; new events keep coming all the while.
    let under_way = options.events_per_second() / 2.0 + 20.0;
    eventually("the drain of the outage", limit, || async {
        (lag(shared, "bus").await < under_way).then_some(())
    })
    .await;
    outage.drain = begun.elapsed();
    outage.drain_kib = shared.memory.peak_kib();
    outage.failed = simulator.statistics().total.pushes_failed - failed;
    outage.meanwhile = simulator.statistics().total.delivered - acknowledged;
    outage
}

async fn lag(shared: &Shared, sink: &str) -> f64 {
    let series = format!("ccrelay_sink_lag_records{{sink=\"{sink}\"}}");
    shared.probe.metric(&series).await.expect("the relay answers")
}

impl Outage {
    /// `at` is the share of the outage that is over.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1")]
    async fn sample(&mut self, shared: &Shared, at: f64) {
        let resident = resident_kib(shared.memory.pid()).expect("the relay runs");
        self.most_kib = self.most_kib.max(resident);
        let tenth = &mut self.tenths_kib[((at * TENTHS as f64) as usize).min(TENTHS - 1)];
        *tenth = (*tenth).max(resident);
        self.mqtt_lag = self.mqtt_lag.max(lag(shared, "wall").await);
    }

    pub(crate) fn print(&self) {
        let millis = |(p50, p99): (Duration, Duration)| {
            format!("{:.2}, {:.2}", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
        };
        let row = |name: &str, value: String| println!("{name:<46}{value}");
        row("outage of Kafka, s", self.length.as_secs().to_string());
        row("pushes failed meanwhile", self.failed.to_string());
        row("push p50, p99 before, ms", millis(self.undisturbed));
        row("push p50, p99 in the outage, ms", millis(self.disturbed));
        let ratio = self.disturbed.1.as_secs_f64() / self.undisturbed.1.as_secs_f64();
        row("p99 in the outage / before", format!("{ratio:.2}"));
        let (start, most, drain) = (self.start_kib / 1024, self.most_kib / 1024, self.drain_kib / 1024);
        row("memory at its start, most, most in drain, MiB", format!("{start}, {most}, {drain}"));
        let tenths = self.tenths_kib.map(|kib| (kib / 1024).to_string()).join(" ");
        row("  the most of each tenth, MiB", tenths);
        row("Kafka behind at its end, pushes", self.kafka_lag.to_string());
        row("MQTT behind at the worst, pushes", self.mqtt_lag.to_string());
        row("drained, s", format!("{:.1}", self.drain.as_secs_f64()));
        row("  events acknowledged meanwhile", self.meanwhile.to_string());
    }

    /// Times are printed and never asserted: they belong to the machine.
    pub(crate) fn assert_harmless(&self) {
        assert_eq!(self.failed, 0, "pushes failed though only Kafka was away");
        assert!(self.kafka_lag > 0.0, "Kafka was not away");
        assert!(self.mqtt_lag < MQTT_LAG, "MQTT waited for Kafka: {} behind", self.mqtt_lag);
        let growth = self.most_kib.saturating_sub(self.start_kib);
        assert!(growth < 64 * 1024, "memory grew by {growth} KiB in the outage");
    }
}
