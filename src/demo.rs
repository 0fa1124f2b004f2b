//! The demo: simulated gateway, relay and an embedded Kafka in one process, Mosquitto beside it where it is installed,
//! and a view of the events as a consumer of Kafka has them. Nothing in it is a short cut: the relay is configured by
//! a file, pushes come by HTTPS, events go through the spool, and the consumer knows only the topic.
//!
//! It ends in order: no more events are made, what is under way is waited for, and then both ends are compared.
//! Anything lost is an error.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::Relay;
use crate::cli;
use crate::clock::Clock;
use crate::config::{self, LogFormat};
use crate::lifecycle::Lifecycle;
use crate::simulate::settings::Agents;
use crate::simulate::{Settings, Simulator};

mod kafka;
mod mosquitto;
mod place;
mod screen;
mod show;
mod summary;
mod view;

pub(crate) use screen::Screen;
pub(crate) use view::Line;

use kafka::{Kafka, TOPIC};
use mosquitto::Mosquitto;
use place::{Folder, Parts};
use show::{Addresses, Show};

/// Lines a second that can be followed by eye: the rate of all agents together, where none is given.
const READABLE_RATE: f64 = 8.0;
/// Short enough to see a few renewals; gateways have 60 s.
const GUID_INTERVAL: Duration = Duration::from_secs(15);
/// Three times the interval.
const GUID_TIMEOUT: Duration = Duration::from_secs(45);
/// A port that was free may have been taken before we use it.
const START_TRIES: usize = 3;

/// Options of the demo.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Stop after so many seconds; without it and --events, at Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Stop when the consumer has seen so many events.
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// Agents to sign in.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=5000))]
    agents: u32,
    /// Events a second for each agent; without it, about 8 for all of them.
    #[arg(long, value_name = "EVENTS", value_parser = rate)]
    rate: Option<f64>,
    /// No colours, even on a terminal.
    #[arg(long)]
    plain: bool,
    /// Leave Mosquitto out, even when it is installed.
    #[arg(long)]
    no_mqtt: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("must be above 0".to_owned()) }
}

/// Runs the demo.
#[must_use]
pub fn main(args: DemoArgs) -> ExitCode {
    let screen = Screen::standard(args.plain);
    cli::finish(cli::logged("warn", LogFormat::Text, Box::pin(run(args, screen))))
}

/// The stops that a user can ask for: the first ends the play, the second the waiting for what is under way.
#[derive(Debug, Clone, Default)]
struct Stops {
    play: CancellationToken,
    waiting: CancellationToken,
}

impl Stops {
    fn watch_signals() -> anyhow::Result<Stops> {
        let stops = Stops::default();
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch signals")?;
        let told = stops.clone();
        tokio::spawn(async move {
            for stop in [told.play, told.waiting] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.cancel();
            }
        });
        Ok(stops)
    }
}

async fn run(args: DemoArgs, screen: Screen) -> anyhow::Result<()> {
    let stops = Stops::watch_signals()?;
    // In this order they are also dropped last to first: the folder outlives all that writes to it.
    let folder = Folder::create()?;
    let kafka = Kafka::start()?;
    let consumer = kafka.consumer()?;
    let mosquitto = match mosquitto::find().filter(|_| !args.no_mqtt) {
        Some(program) => Some(Mosquitto::start(program, &folder).await?),
        None => None,
    };
    let simulator = Simulator::start(settings(&args, &folder)?).await.context("the simulated gateway")?;
    let lifecycle = Lifecycle::default();
    let mqtt_port = mosquitto.as_ref().map(|broker| broker.port);
    let relay = start_relay(&args, &folder, &simulator, &kafka, mqtt_port, &lifecycle).await?;

    let addresses = Addresses { callback: relay.callback_addr, operations: relay.operations_addr, mqtt_port };
    let mut show = Show::new(screen, consumer, simulator, relay.metrics.clone(), mqtt_port.is_some());
    show.introduce(&args, &folder, &kafka, &addresses);
    show.simulator.play(args.rate.unwrap_or(READABLE_RATE / f64::from(args.agents)));
    show.watch(&args, &stops.play, &lifecycle.stopping()).await;
    let drained = show.drain(&stops.waiting).await;
    let losses = show.conclude(drained);

    lifecycle.stop();
    let ended = relay.run().await;
    show.simulator.stop().await;
    ended.context("the relay did not end in good order")?;
    if losses > 0 { Err(anyhow!("events were lost")) } else { Ok(()) }
}

/// The gateway: dynamic GUIDs, trust in our certificate alone, no books that would grow.
fn settings(args: &DemoArgs, folder: &Folder) -> anyhow::Result<Settings> {
    let mut settings = Settings::local();
    settings.guid_interval_ms = millis(GUID_INTERVAL);
    settings.guid_timeout_ms = millis(GUID_TIMEOUT);
    settings.agents = vec![Agents::range(
        place::FIRST_AGENT,
        place::FIRST_AGENT + args.agents.saturating_sub(1),
        place::PASSWORD,
    )];
    settings.eventpush.ssl.cert.pem = Some(place::certify(folder).context("certificates")?);
    settings.keep_ledger = false;
    settings.report_interval_ms = 0;
    settings.seed = Clock::system().now().millis();
    Ok(settings)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn start_relay(
    args: &DemoArgs,
    folder: &Folder,
    simulator: &Simulator,
    kafka: &Kafka,
    mqtt_port: Option<u16>,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Relay> {
    folder.write("gateway-ca.pem", simulator.ca_pem().unwrap_or_default())?;
    folder.write("password", place::PASSWORD)?;
    for attempt in 1.. {
        // A relay that did not start may still be closing its spool.
        let spool = if attempt == 1 { "spool".to_owned() } else { format!("spool-{attempt}") };
        let text = place::configuration(&Parts {
            folder: folder.path(),
            spool: &spool,
            callback_port: place::free_port()?,
            base_url: &simulator.base_url(),
            agents: args.agents,
            kafka: &kafka.bootstrap_servers(),
            topic: TOPIC,
            mqtt_port,
        });
        let config = config::load(&folder.write("config.toml", &text)?)?;
        match Relay::start(config, lifecycle.clone()).await {
            Err(error) if attempt < START_TRIES && is_taken(&error) => {}
            started => return started,
        }
    }
    Err(anyhow!("no free port"))
}

fn is_taken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    })
}
