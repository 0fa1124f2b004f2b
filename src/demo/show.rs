//! What a demo shows, from its consumer's side: what runs where, the events, and what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use rdkafka::consumer::StreamConsumer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kafka::{Kafka, Seen, TOPIC};
use super::place::{self, Folder};
use super::screen::{Screen, Style};
use super::summary::Figures;
use super::{DemoArgs, GUID_INTERVAL, view};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::simulate::Simulator;

/// How often a line says where things stand.
const INTERIM: Duration = Duration::from_secs(10);
/// How long what is under way at the end may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(25);

/// Where things are, beside what the brokers say themselves.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) callback: SocketAddr,
    pub(super) operations: SocketAddr,
    pub(super) mqtt_port: Option<u16>,
}

/// A demo that runs, seen from its consumer.
pub(super) struct Show {
    screen: Screen,
    consumer: StreamConsumer,
    pub(super) simulator: Simulator,
    metrics: Metrics,
    seen: Seen,
    mqtt: bool,
    began: Instant,
    clock: Clock,
}

impl Show {
    /// A show that begins now.
    pub(super) fn new(
        screen: Screen,
        consumer: StreamConsumer,
        simulator: Simulator,
        metrics: Metrics,
        mqtt: bool,
    ) -> Show {
        let (seen, began, clock) = (Seen::default(), Instant::now(), Clock::system());
        Show { screen, consumer, simulator, metrics, seen, mqtt, began, clock }
    }

    /// Says what runs where.
    pub(super) fn introduce(&mut self, args: &DemoArgs, folder: &Folder, kafka: &Kafka, at: &Addresses) {
        let bootstrap = kafka.bootstrap_servers();
        let title = self.screen.paint(Style::BOLD, "ccrelay demo");
        let mut lines = vec![
            ("gateway", format!("{} (simulated, {} agents)", self.simulator.base_url(), args.agents)),
            ("callback", format!("{} (certificates of this run)", place::callback_uri(at.callback.port()))),
            ("Kafka", format!("{bootstrap} (embedded), topic {TOPIC}; read it yourself:")),
            ("", format!("kcat -b {bootstrap} -t {TOPIC} -C")),
        ];
        match at.mqtt_port {
            Some(port) => {
                lines.push(("MQTT", format!("127.0.0.1:{port} (Mosquitto); read it yourself:")));
                lines.push(("", format!("mosquitto_sub -V 5 -h 127.0.0.1 -p {port} -t 'ccrelay/#' -v")));
            }
            None if args.no_mqtt => lines.push(("MQTT", "left out by --no-mqtt".to_owned())),
            None => lines.push(("MQTT", "Mosquitto is not installed, so there is none".to_owned())),
        }
        lines.push(("metrics", format!("http://{}/metrics", at.operations)));
        lines
            .push(("files", format!("{} (config.toml, spool; removed at the end)", folder.path().display())));
        let (guid, heartbeat) = (GUID_INTERVAL.as_secs(), place::HEARTBEAT_SECS);
        lines.push((
            "timers",
            format!(
                "shortened: heartbeats with a token every {heartbeat} s (usual 30), GUIDs change every {guid} s (60)"
            ),
        ));
        self.screen.line(&title);
        self.list(&lines);
        self.screen.line("");
        let hint = self.screen.paint(Style::DIM, "Ctrl-C stops it and adds up.");
        self.screen.line(&hint);
        self.screen.line("");
        let heading = view::heading(self.screen.width(), self.screen.colours());
        self.screen.line(&heading);
    }

    fn list(&mut self, lines: &[(&str, String)]) {
        for (label, text) in lines {
            let label = self.screen.paint(Style::DIM, &format!("{label:<9}"));
            self.screen.line(&format!("  {label} {text}"));
        }
    }

    /// Shows events until the stop, the time, the number of events, or a failure.
    pub(super) async fn watch(
        &mut self,
        args: &DemoArgs,
        stop: &CancellationToken,
        failed: &CancellationToken,
    ) {
        let end = args.seconds.map(|seconds| self.began + Duration::from_secs(seconds));
        let mut interim = tokio::time::interval_at(self.began + INTERIM, INTERIM);
        let enough = args.events.unwrap_or(u64::MAX);
        while self.seen.total() < enough && !self.screen.is_closed() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = failed.cancelled() => return,
                () = reached(end) => return,
                _ = interim.tick() => {
                    let text = format!("\u{2500}\u{2500} {}", self.figures().interim());
                    let line = self.screen.paint(Style::DIM, &text);
                    self.screen.line(&line);
                }
                () = self.next() => {}
            }
        }
    }

    /// Takes and shows the next event.
    ///
    /// # Cancel safety
    /// It waits only for the consumer, which keeps what was not taken.
    async fn next(&mut self) {
        let received = self.consumer.recv().await;
        if let Some(record) = self.seen.note(received, self.clock.now()) {
            let line = view::line(&record, self.screen.width(), self.screen.colours());
            self.screen.line(&line);
        }
    }

    /// Makes no more events and waits for those under way. False when some were not seen in time.
    pub(super) async fn drain(&mut self, stop: &CancellationToken) -> bool {
        self.simulator.stop_playing();
        let until = Instant::now() + DRAIN_LIMIT;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.figures().settled(),
                _ = look.tick() => {
                    let settled = self.figures().settled();
                    if settled || Instant::now() >= until {
                        return settled;
                    }
                }
                () = self.next() => {}
            }
        }
    }

    /// Adds up; gives the number of losses.
    pub(super) fn conclude(&mut self, drained: bool) -> usize {
        let figures = self.figures();
        let (lines, mut losses, took) = (figures.lines(), figures.losses(), figures.took);
        if !drained && losses.is_empty() {
            losses.push("not everything was confirmed in time".to_owned());
        }
        let title = self.screen.paint(Style::BOLD, &format!("After {:.1} s", took.as_secs_f64()));
        self.screen.line("");
        self.screen.line(&title);
        self.list(&lines);
        self.screen.line("");
        for loss in &losses {
            let line = self.screen.paint(Style::RED, &format!("LOST: {loss}"));
            self.screen.line(&line);
        }
        if losses.is_empty() {
            let text = "Nothing was lost: every acknowledged event reached the consumer, in order.";
            let line = self.screen.paint(Style::GREEN, text);
            self.screen.line(&line);
        }
        losses.len()
    }

    fn figures(&self) -> Figures<'_> {
        let gateway = self.simulator.statistics();
        let (metrics, seen, took) = (&self.metrics, &self.seen, self.began.elapsed());
        Figures { took, gateway, metrics, seen, mqtt: self.mqtt }
    }
}

async fn reached(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
