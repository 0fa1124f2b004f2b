//! Three lanes of faults run beside each other: the relay with its paths to and from the gateway, Kafka, and Mosquitto.
//! So a relay is killed while one broker is frozen and the other away. Within a lane one fault comes after the other, and
//! in the relay's lane only when all agents have recovered: faults that must sign agents out are not wanted here.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ccrelay::simulate::{Fault as Misanswer, FaultKind, Operation};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::faults::{Disturbance, Fault, Misbehaviour, Path, Schedule, of_a_broker, of_the_relay};
use crate::options::Options;
use crate::scene::{HEARTBEAT, Scene, Shared};
use crate::support::kafka::Kafka;
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;
use crate::support::relay::Relay;

/// What all agents may take to be well again.
pub(crate) const RECOVERY_LIMIT: Duration = Duration::from_secs(45);

/// What was done, by lane and kind, and what the gateway noticed between the relay's faults.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) kinds: BTreeMap<(&'static str, Fault), Times>,
    /// Time in which the relay and its paths were left alone, and the part of it in which a broker was not well.
    pub(crate) quiet: Duration,
    pub(crate) quiet_without_broker: Duration,
    /// Pushes that failed in that time.
    pub(crate) failed_in_quiet: u64,
    /// Stops by SIGTERM that did not end with exit code 0.
    pub(crate) unclean_stops: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) count: u32,
    /// From the end of the fault until all agents were well again; not for brokers.
    pub(crate) slowest_recovery: Duration,
    /// How often they were not well within [`RECOVERY_LIMIT`].
    pub(crate) not_recovered: u32,
}

/// What the lanes share.
struct Run<'a> {
    shared: &'a Shared,
    until: Instant,
    faults: Mutex<Faults>,
    /// Brokers that are disturbed now.
    unwell: AtomicUsize,
}

/// The faults of the lanes of relay, Kafka and Mosquitto whose name in the table has `only` in it.
pub(crate) fn chosen(only: &str) -> [Vec<Fault>; 3] {
    [("relay", of_the_relay()), ("kafka", of_a_broker()), ("mqtt", of_a_broker())].map(|(lane, mut kinds)| {
        kinds.retain(|fault| format!("{lane}: {}", fault.name()).contains(only));
        kinds
    })
}

/// Lets the faults go on for the length of the run.
pub(crate) async fn run(scene: &mut Scene, options: &Options) -> Faults {
    let Scene { shared, relay, kafka, mosquitto, .. } = scene;
    let run = Run {
        shared,
        until: Instant::now() + options.length,
        faults: Mutex::default(),
        unwell: AtomicUsize::new(0),
    };
    let schedule = |kinds, lane| Schedule::new(kinds, options.seed.wrapping_mul(1000) + lane);
    let [of_relay, of_kafka, of_mqtt] = chosen(&options.only);
    tokio::join!(
        run.relay_lane(relay, schedule(of_relay, 0)),
        run.kafka_lane(kafka, schedule(of_kafka, 1)),
        run.mqtt_lane(mosquitto, schedule(of_mqtt, 2)),
    );
    run.faults.into_inner().expect("no lane panicked")
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Books a fault, and how long all took to be well again: none where they were not in time.
    fn book(&self, lane: &'static str, fault: Fault, recovery: Option<Duration>) {
        let mut faults = self.faults.lock().expect("no lane panicked");
        let times = faults.kinds.entry((lane, fault)).or_default();
        times.count += 1;
        times.slowest_recovery = times.slowest_recovery.max(recovery.unwrap_or(RECOVERY_LIMIT));
        times.not_recovered += u32::from(recovery.is_none());
    }

    async fn relay_lane(&self, relay: &mut Relay, mut schedule: Schedule) {
        while !self.is_over() {
            let Some((pause, fault, length)) = schedule.deal() else { return };
            self.be_quiet(pause).await;
            self.on_relay(relay, fault, length).await;
            let recovery = self.recovered().await;
            self.book("relay", fault, recovery);
        }
    }

    /// Leaves the relay alone for a while, in which no push may fail whatever becomes of the brokers.
    async fn be_quiet(&self, length: Duration) {
        let failed = || self.shared.simulator.statistics().total.pushes_failed;
        let (before, end) = (failed(), Instant::now() + length);
        let mut without_broker = Duration::ZERO;
        while Instant::now() < end {
            let step = Duration::from_millis(50);
            tokio::time::sleep(step).await;
            if self.unwell.load(Ordering::Relaxed) > 0 {
                without_broker += step;
            }
        }
        let failed = failed() - before;
        let mut faults = self.faults.lock().expect("no lane panicked");
        faults.quiet += length;
        faults.quiet_without_broker += without_broker;
        faults.failed_in_quiet += failed;
    }

    async fn on_relay(&self, relay: &mut Relay, fault: Fault, length: Duration) {
        let Shared { simulator, agents, memory, push_path, session_path, .. } = self.shared;
        match fault {
            Fault::Killed | Fault::Stopped => {
                memory.now(0);
                if fault == Fault::Killed {
                    relay.kill9().await;
                } else if relay.stop().await != 0 {
                    self.faults.lock().expect("no lane panicked").unclean_stops += 1;
                }
                tokio::time::sleep(length).await;
                relay.start().await;
                memory.now(relay.running().pid());
            }
            Fault::Frozen => {
                relay.running().signal(Signal::SIGSTOP);
                tokio::time::sleep(length).await;
                relay.running().signal(Signal::SIGCONT);
            }
            Fault::Path(path, disturbance) => {
                let path = if path == Path::Push { push_path } else { session_path };
                disturb(path, disturbance, length).await;
            }
            Fault::AnswersLost => {
                for agent in agents.iter().step_by(3) {
                    simulator.lose_answers(agent, 1).expect("an agent");
                }
            }
            Fault::Gateway(misbehaviour) => {
                self.misbehave(misbehaviour);
                tokio::time::sleep(length).await;
                simulator.clear_faults();
            }
            Fault::GatewayAway => {
                simulator.pause_listening().await;
                tokio::time::sleep(length).await;
                simulator.resume_listening().await.expect("the port is still free");
            }
        }
    }

    fn misbehave(&self, misbehaviour: Misbehaviour) {
        let Shared { simulator, agents, .. } = self.shared;
        let kind = match misbehaviour {
            Misbehaviour::Retcodes => FaultKind::Retcode("100-007".to_owned()),
            Misbehaviour::Status503 => FaultKind::Status(503),
            Misbehaviour::SlowAnswers => FaultKind::DelayMs(2_000),
            Misbehaviour::Silence => FaultKind::Drop,
            Misbehaviour::Garbage => FaultKind::Garbage,
            // Once each: a gateway knows a GUID and the one before, so a client that misses two is out.
            Misbehaviour::AnswersDropped => {
                for agent in agents {
                    let once = Misanswer::next(Operation::Handshake, 1, FaultKind::DropAnswer);
                    simulator.inject(once.of(agent.as_str()));
                }
                return;
            }
        };
        let mostly = Misanswer::next(Operation::Handshake, 1, kind);
        simulator.inject(Misanswer { times: None, chance: 0.7, ..mostly });
    }

    /// Waits until each agent had a push answered and two heartbeats from now on. Says how long that took, if it came to that
    /// in time.
    async fn recovered(&self) -> Option<Duration> {
        let Shared { simulator, agents, .. } = self.shared;
        let begin = Instant::now();
        let counts = || agents.iter().map(|agent| simulator.counts(agent));
        let before: Vec<_> = counts().collect();
        let well = || {
            counts().zip(&before).all(|(now, before)| {
                now.pushes_acknowledged > before.pushes_acknowledged
                    && now.heartbeats >= before.heartbeats + 2
            })
        };
        while !well() {
            if begin.elapsed() >= RECOVERY_LIMIT {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(begin.elapsed().saturating_sub(2 * HEARTBEAT))
    }

    async fn kafka_lane(&self, kafka: &mut Kafka, mut schedule: Schedule) {
        while !self.is_over() {
            let Some((pause, fault, length)) = schedule.deal() else { return };
            tokio::time::sleep(pause).await;
            self.unwell.fetch_add(1, Ordering::Relaxed);
            match fault {
                Fault::Killed | Fault::Stopped => {
                    match fault {
                        Fault::Killed => kafka.kill9().await,
                        _ => kafka.stop().await,
                    }
                    tokio::time::sleep(length).await;
                    kafka.start_again().await;
                }
                Fault::Frozen => {
                    kafka.pause();
                    tokio::time::sleep(length).await;
                    kafka.resume();
                }
                Fault::Path(_, disturbance) => disturb(kafka.proxy(), disturbance, length).await,
                other => panic!("{other:?} is no fault of a broker"),
            }
            self.unwell.fetch_sub(1, Ordering::Relaxed);
            self.book("kafka", fault, Some(Duration::ZERO));
        }
    }

    async fn mqtt_lane(&self, mosquitto: &mut Mosquitto, mut schedule: Schedule) {
        while !self.is_over() {
            let Some((pause, fault, length)) = schedule.deal() else { return };
            tokio::time::sleep(pause).await;
            self.unwell.fetch_add(1, Ordering::Relaxed);
            match fault {
                Fault::Killed | Fault::Stopped => self.restart_mosquitto(mosquitto, fault, length).await,
                Fault::Frozen => {
                    mosquitto.pause();
                    tokio::time::sleep(length).await;
                    mosquitto.resume();
                }
                Fault::Path(_, disturbance) => disturb(&self.shared.mqtt_path, disturbance, length).await,
                other => panic!("{other:?} is no fault of a broker"),
            }
            self.unwell.fetch_sub(1, Ordering::Relaxed);
            self.book("mqtt", fault, Some(Duration::ZERO));
        }
    }

    /// What Mosquitto confirms to a publisher it has sent to subscribers that are there, or else saves within a second.
    /// So the witness must be there first, or Mosquitto's own loss would be taken for ours.
    async fn restart_mosquitto(&self, mosquitto: &mut Mosquitto, fault: Fault, length: Duration) {
        let (path, witness) = (&self.shared.mqtt_path, &self.shared.in_mqtt);
        path.refuse();
        path.cut();
        // What it has confirmed and not yet written to the witness would die with it, the more the busier the machine: it saves
        // to disk each second only. So the publisher's path goes first, and the kill comes when the witness hears nothing more.
        let mut heard = None;
        while heard != Some(witness.arrivals()) {
            heard = Some(witness.arrivals());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        match fault {
            Fault::Killed => mosquitto.kill9().await,
            _ => mosquitto.stop().await,
        }
        tokio::time::sleep(length).await;
        let subscriptions = witness.subscriptions();
        mosquitto.start_again().await;
        witness.subscribed(subscriptions + 1).await;
        path.heal();
    }
}

async fn disturb(path: &Proxy, disturbance: Disturbance, length: Duration) {
    match disturbance {
        Disturbance::Cut => path.cut(),
        Disturbance::Reset => path.reset(),
        Disturbance::Stalled => path.stall(),
        Disturbance::Slow => path.slow(100_000),
        Disturbance::Late => path.late(Duration::from_millis(200)),
        Disturbance::Refused => {
            path.refuse();
            path.cut();
        }
    }
    tokio::time::sleep(length).await;
    path.heal();
}
