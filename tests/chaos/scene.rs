//! Everything of one run, wired so that each link can be disturbed:
//!
//!     gateway --push path--> relay --kafka path--> Kafka     <--- witness
//!             <-session path-      --mqtt path---> Mosquitto <--- witness
//!
//! Times are half of those in service or less: heartbeats every 2 s, a sign-out after 60 s, pushes given up after 3 s and
//! repeated after 2 s.

use std::time::Duration;

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::{Agents, Inspection};
use ccrelay::simulate::{Settings, Simulator};

use crate::faults::Random;
use crate::lanes::Faults;
use crate::options::Options;
use crate::report::Report;
use crate::support::judge::Verdict;
use crate::support::kafka::Kafka;
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;
use crate::support::relay::{Pace, Probe, Relay, Wiring};
use crate::support::witness::Witness;
use crate::usage::Watch;

const PASSWORD: &str = "canary-password";
const TOPIC: &str = "ccrelay.events";
const PARTITIONS: i32 = 4;
/// What a phase may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);
const SIGN_OUT_LIMIT: Duration = Duration::from_secs(60);
const PUSH_TIMEOUT: Duration = Duration::from_secs(3);
const PUSH_REPEAT: Duration = Duration::from_secs(2);
const GUID_AGE: Duration = Duration::from_secs(10);

/// After so much silence a witness has heard all, the shorter when nothing is missing.
const SILENCE: Duration = Duration::from_secs(20);
const SHORT_SILENCE: Duration = Duration::from_secs(1);

pub(crate) struct Scene {
    pub(crate) shared: Shared,
    pub(crate) relay: Relay,
    pub(crate) kafka: Kafka,
    pub(crate) mosquitto: Mosquitto,
    begun: tokio::time::Instant,
}

/// What all lanes of faults may use at once.
pub(crate) struct Shared {
    pub(crate) simulator: Simulator,
    pub(crate) agents: Vec<AgentId>,
    pub(crate) push_path: Proxy,
    pub(crate) session_path: Proxy,
    pub(crate) mqtt_path: Proxy,
    pub(crate) in_kafka: Witness,
    pub(crate) in_mqtt: Witness,
    pub(crate) probe: Probe,
    pub(crate) memory: Watch,
}

fn gateway(options: &Options, callback_ca: String) -> Settings {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).expect("a short time");
    let mut settings = Settings::local();
    settings.auth_mode = 2;
    settings.guid_interval_ms = millis(GUID_AGE);
    settings.guid_timeout_ms = millis(SIGN_OUT_LIMIT);
    settings.handshake_max_time_ms = millis(SIGN_OUT_LIMIT);
    settings.push_timeout_ms = millis(PUSH_TIMEOUT);
    settings.push_fail_interval_ms = millis(PUSH_REPEAT);
    settings.push_fail_total_ms = millis(SIGN_OUT_LIMIT);
    settings.eventpush.ssl.cert.pem = Some(callback_ca);
    settings.agents = vec![Agents::range(1001, 1000 + options.agents, PASSWORD)];
    settings.cookies = true;
    settings.events_before_answer = true;
    settings.mark_events = true;
    settings.seed = options.seed;
    be_unkind(&mut settings, options.seed);
    settings
}

/// Where no manual says what a gateway does, the seed says it. Answers that are lost are a fault of the schedule.
fn be_unkind(settings: &mut Settings, seed: u64) {
    let mut random = Random::new(seed);
    let mut either = || random.below(2) == 1;
    settings.push_new_connection = either();
    settings.guid_runs_ahead = either();
    settings.repeat_grows = either();
    settings.repeat_keeps_headers = either();
    settings.inspection = if either() { Inspection::Same } else { Inspection::Other };
    settings.push_batch_limit = if either() { 3 } else { settings.push_batch_limit };
    settings.login_delay_ms = if either() { 300 } else { 0 };
    settings.second_logout_unknown = either();
    println!(
        "the gateway: push_new_connection {}, guid_runs_ahead {}, repeat_grows {}, repeat_keeps_headers {}, \
         inspection {:?}, push_batch_limit {}, login_delay_ms {}, second_logout_unknown {}",
        settings.push_new_connection,
        settings.guid_runs_ahead,
        settings.repeat_grows,
        settings.repeat_keeps_headers,
        settings.inspection,
        settings.push_batch_limit,
        settings.login_delay_ms,
        settings.second_logout_unknown
    );
}

impl Scene {
    /// Starts all, signs everybody in, and plays.
    pub(crate) async fn start(options: &Options) -> Scene {
        let (kafka, mosquitto) = tokio::join!(Kafka::start_behind_proxy(), Mosquitto::start());
        kafka.create_topic(TOPIC, PARTITIONS, &[]).await;
        let in_kafka = Witness::of_kafka(&kafka, TOPIC, PARTITIONS);
        let in_mqtt = Witness::of_mqtt(mosquitto.port(), "ccrelay/#").await;
        let mqtt_path = Proxy::start(&format!("127.0.0.1:{}", mosquitto.port())).await;
        let mut relay = Relay::prepare();
        let simulator =
            Simulator::start(gateway(options, relay.ca_pem())).await.expect("the simulator starts");
        let session_path = Proxy::start(&simulator.local_addr().to_string()).await;
        let push_path = Proxy::start(&format!("127.0.0.1:{}", relay.callback_port())).await;
        relay.push_to(push_path.port());
        let soonest = u32::try_from(PUSH_REPEAT.as_millis() * 8 / 10).expect("a short time");
        let secs = |duration: Duration| u32::try_from(duration.as_secs()).expect("a short time");
        relay.at_pace(Pace {
            heartbeat: secs(HEARTBEAT),
            sign_out_limit: secs(SIGN_OUT_LIMIT),
            repeat_soonest_millis: soonest,
        });
        let real = simulator.local_addr().port().to_string();
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url().replace(&real, &session_path.port().to_string()),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: 1001..=1000 + options.agents,
            password: PASSWORD,
            tables: &format!(
                "[sinks.bus]\ntopic = \"{TOPIC}\"\nstall_timeout_secs = 6\n\
                 [sinks.bus.kafka]\nbootstrap_servers = \"127.0.0.1:{}\"\n\
                 [sinks.wall]\nstall_timeout_secs = 6\n\
                 [sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n",
                kafka.proxy().port(),
                mqtt_path.port()
            ),
        });
        relay.start().await;
        let agents = (1001..=1000 + options.agents).map(|id| AgentId::parse(&id.to_string()));
        let agents: Vec<AgentId> = agents.map(|id| id.expect("an agent id")).collect();
        let count = agents.len();
        assert!(simulator.wait_for(PATIENCE, |s| s.signed_in == count).await, "all agents sign in");
        let (probe, memory) = (relay.probe(), Watch::start(relay.running().pid()));
        let shared = Shared {
            simulator,
            agents,
            push_path,
            session_path,
            mqtt_path,
            in_kafka,
            in_mqtt,
            probe,
            memory,
        };
        shared.simulator.play(options.rate);
        let scene = Scene { shared, relay, kafka, mosquitto, begun: tokio::time::Instant::now() };
        scene.play_on(count as u64).await;
        scene
    }

    /// Waits until so many more events are acknowledged.
    async fn play_on(&self, events: u64) {
        let simulator = &self.shared.simulator;
        let goal = simulator.statistics().total.delivered + events;
        let done = simulator.wait_for(PATIENCE, |s| s.total.delivered >= goal).await;
        assert!(done, "fresh events get through: {:?}\n{}", simulator.statistics().total, self.log_tail());
    }

    /// With all faults over: lets fresh events through, waits until everything is delivered, and judges.
    pub(crate) async fn finish(&self, faults: Option<Faults>) -> Report {
        let simulator = &self.shared.simulator;
        self.play_on(2 * self.shared.agents.len() as u64).await;
        let length = self.begun.elapsed();
        simulator.stop_playing();
        assert!(simulator.drained(PATIENCE).await, "the gateway gets rid of its events\n{}", self.log_tail());
        let drain = tokio::time::Instant::now();
        self.relay.delivered(PATIENCE).await;
        let drain = drain.elapsed();
        let (in_kafka, in_mqtt) = self.verdicts().await;
        Report {
            length,
            drain,
            faults,
            in_kafka,
            in_mqtt,
            statistics: simulator.statistics(),
            agents: self.shared.agents.len() as u64,
            peak_kib: self.shared.memory.peak_kib(),
        }
    }

    /// What the brokers have, once both witnesses have heard all or too long have heard nothing.
    async fn verdicts(&self) -> (Verdict, Verdict) {
        let ledger = self.shared.simulator.ledger();
        let witnesses = [&self.shared.in_kafka, &self.shared.in_mqtt];
        let heard = || witnesses.map(Witness::arrivals);
        let verdicts = || witnesses.map(|witness| witness.verdict(&ledger));
        let (mut last, mut since) = (heard(), tokio::time::Instant::now());
        let begun = since;
        while since.elapsed() < SILENCE {
            assert!(begun.elapsed() < PATIENCE, "the brokers have no end of events");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = heard();
            if now != last {
                (last, since) = (now, tokio::time::Instant::now());
            } else if since.elapsed() > SHORT_SILENCE && verdicts().iter().all(|v| v.lost.is_empty()) {
                break;
            }
        }
        let [in_kafka, in_mqtt] = verdicts();
        if !in_kafka.lost.is_empty() {
            let (seen, there) = (self.shared.in_kafka.arrivals(), self.kafka.read_all(TOPIC).await.len());
            eprintln!("of {there} records in the topic the witness has seen {seen}");
        }
        (in_kafka, in_mqtt)
    }

    pub(crate) fn assert_flawless(&self, report: &Report) {
        let log = self.relay.log();
        let faults = report.mistakes();
        if !faults.is_empty() {
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos-relay.log");
            std::fs::write(&path, &log).expect("the folder can be written");
            panic!("{}\nThe relay's log is in {}.", faults.join("\n"), path.display());
        }
        assert!(!log.contains(PASSWORD), "the password is in the log");
        assert!(!log.contains("JSESSIONID") && !log.contains("AgentGateway0"), "a GUID is in the log");
    }

    fn log_tail(&self) -> String {
        self.relay.running().log_tail()
    }
}
