//! Conservation, the test of the product: every event that the gateway was answered for reaches Kafka and MQTT intact,
//! in order per agent, nothing unknown arrives, nobody is signed out, whatever is killed or stopped meanwhile.

use std::time::Duration;

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::{Agents, Inspection, OutsideTrustList};
use ccrelay::simulate::{Settings, SignOut, Simulator};

use crate::support::judge::{Arrival, Verdict, judge};
use crate::support::kafka::Kafka;
use crate::support::mosquitto::{Mosquitto, Subscriber};
use crate::support::relay::{Relay, Wiring};

const PASSWORD: &str = "canary-password";
const TOPIC: &str = "ccrelay.events";
/// What a phase may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything of one run: gateway, relay, brokers and a subscriber.
struct Scene {
    simulator: Simulator,
    relay: Relay,
    kafka: Kafka,
    mosquitto: Mosquitto,
    subscriber: Subscriber,
    agents: std::ops::RangeInclusive<u32>,
}

/// Dynamic authentication with timers far shorter than in service. As there, a GUID lives as long as the gateway waits
/// for a heartbeat: one whose announcement dies with a killed relay leaves its predecessor good for the restart.
fn gateway(agents: &std::ops::RangeInclusive<u32>, callback_ca: String) -> Settings {
    let mut settings = Settings::local();
    settings.auth_mode = 2;
    settings.guid_interval_ms = 2_000;
    settings.guid_timeout_ms = 20_000;
    settings.handshake_max_time_ms = 20_000;
    settings.push_fail_interval_ms = 500;
    settings.push_fail_total_ms = 20_000;
    settings.eventpush.ssl.cert.pem = Some(callback_ca);
    settings.agents = vec![Agents::range(*agents.start(), *agents.end(), PASSWORD)];
    settings.cookies = true;
    settings.events_before_answer = true;
    settings.mark_events = true;
    settings
}

impl Scene {
    async fn start(agents: std::ops::RangeInclusive<u32>) -> Scene {
        Scene::start_with(agents, |_, _| "").await
    }

    /// With a gateway that has further settings; gives what the relay is told of it.
    async fn start_with(
        agents: std::ops::RangeInclusive<u32>,
        further: impl FnOnce(&mut Settings, &Relay) -> &'static str,
    ) -> Scene {
        let (kafka, mosquitto) = tokio::join!(Kafka::start(), Mosquitto::start());
        kafka.create_topic(TOPIC, 4, &[]).await;
        let subscriber = Subscriber::start(mosquitto.port(), "ccrelay/#").await;
        let mut relay = Relay::prepare();
        let mut settings = gateway(&agents, relay.ca_pem());
        let keys = further(&mut settings, &relay);
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        let tables = format!(
            "{keys}[sinks.bus]\ntopic = \"{TOPIC}\"\n[sinks.bus.kafka]\nbootstrap_servers = \"{}\"\n\
             [sinks.wall]\n[sinks.wall.mqtt]\nurl = \"{}\"\n",
            kafka.address(),
            mosquitto.url()
        );
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url(),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: agents.clone(),
            password: PASSWORD,
            tables: &tables,
        });
        relay.start().await;
        let count = agents.clone().count();
        assert!(simulator.wait_for(PATIENCE, |s| s.signed_in == count).await, "all agents sign in");
        Scene { simulator, relay, kafka, mosquitto, subscriber, agents }
    }

    /// Plays at random until so many more events are acknowledged.
    async fn play(&self, rate: f64, events: u64) {
        let goal = self.simulator.statistics().total.delivered + events;
        self.simulator.play(rate);
        let got_there = self.simulator.wait_for(PATIENCE, |s| s.total.delivered >= goal).await;
        assert!(got_there, "{:?}\n{}", self.simulator.statistics().total, self.relay.log());
    }

    fn failed_pushes(&self) -> u64 {
        self.simulator.statistics().total.pushes_failed
    }

    /// Ends the play, waits until all is delivered, and judges both brokers.
    async fn judge(&self) -> Verdict {
        self.simulator.stop_playing();
        assert!(self.simulator.drained(PATIENCE).await, "the gateway gets rid of its events");
        self.relay.delivered(PATIENCE).await;
        let ledger = self.simulator.ledger();
        let kafka: Vec<_> = self.kafka.read_all(TOPIC).await.iter().map(Arrival::from_kafka).collect();
        let in_kafka = judge(&ledger, &kafka);
        in_kafka.assert_flawless("Kafka");
        // What Mosquitto has confirmed it may still be handing out.
        let enough = in_kafka.acknowledged;
        let arrivals = self.subscriber.wait_for("what Mosquitto confirmed", |all| {
            let all: Vec<_> = all.iter().map(Arrival::from_mqtt).collect();
            judge(&ledger, &all).lost.is_empty() && all.len() >= enough
        });
        let mqtt: Vec<_> = arrivals.await.iter().map(Arrival::from_mqtt).collect();
        judge(&ledger, &mqtt).assert_flawless("MQTT");
        in_kafka
    }

    fn assert_nobody_was_signed_out(&self) {
        let total = self.simulator.statistics().total;
        for reason in [
            SignOut::TakenOver,
            SignOut::HeartbeatSilence,
            SignOut::PushFailure,
            SignOut::PollSilence,
            SignOut::Asked,
        ] {
            assert_eq!(total.signed_out(reason), 0, "{reason:?}: {total:?}");
        }
        assert_eq!(total.sign_ins, self.agents.clone().count() as u64, "each agent signed in once");
    }

    fn assert_no_secret_was_logged(&self) {
        let log = self.relay.log();
        assert!(!log.contains(PASSWORD), "the password is in the log");
        assert!(!log.contains("JSESSIONID") && !log.contains("AgentGateway0"), "a GUID is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_every_flow_reaches_kafka_and_mqtt_in_order_while_guids_and_tokens_change() {
    let scene = Scene::start(1001..=1050).await;
    let begun = scene.simulator.statistics().total.heartbeats;
    let ids: Vec<_> = scene.agents.clone().map(agent).collect();
    let flows: Vec<_> = Simulator::flows().collect();
    for (turn, flow) in flows.iter().enumerate() {
        // All agents at once, each with another flow, so that in the end every agent has played every flow.
        let plays = ids.iter().enumerate().map(|(at, agent)| {
            let flow = flows[(turn + at) % flows.len()];
            scene.simulator.play_flow(agent, flow, Duration::from_millis(2))
        });
        for played in futures_util::future::join_all(plays).await {
            played.unwrap_or_else(|error| panic!("{flow}: {error}"));
        }
    }
    for event_type in Simulator::event_types() {
        scene.simulator.emit_example(&ids[0], event_type).expect("the agent is signed in");
    }
    // Long enough for several GUIDs: each agent's changes with the first heartbeat after two seconds.
    let heartbeats = begun + 8 * 50;
    assert!(
        scene.simulator.wait_for(PATIENCE, |s| s.total.heartbeats >= heartbeats).await,
        "heartbeats go on"
    );
    scene.play(5.0, 2_000).await;
    let verdict = scene.judge().await;
    assert!(verdict.acknowledged > 50 * flows.len(), "{verdict:?}");
    assert_eq!(scene.failed_pushes(), 0);
    assert!(scene.relay.metric("ccrelay_guid_changes_total{").await >= 3.0 * 50.0, "GUIDs changed");
    scene.assert_nobody_was_signed_out();
    scene.assert_no_secret_was_logged();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_relay_is_killed_and_each_broker_is_away_for_a_while() {
    let mut scene = Scene::start(1001..=1050).await;
    scene.play(4.0, 1_000).await;

    // Each broker away in turn: not one push fails meanwhile, and the other broker's sink does not wait.
    let before = scene.failed_pushes();
    scene.kafka.stop().await;
    let wall = scene.relay.metric("ccrelay_sink_delivered_total{sink=\"wall\"}").await;
    scene.play(4.0, 1_000).await;
    assert!(
        scene.relay.metric("ccrelay_sink_delivered_total{sink=\"wall\"}").await > wall,
        "MQTT does not wait for Kafka"
    );
    scene.kafka.start_again().await;
    scene.mosquitto.stop().await;
    scene.play(4.0, 1_000).await;
    scene.mosquitto.start_again().await;
    scene.subscriber.subscribed(2).await;
    assert_eq!(scene.failed_pushes(), before, "a broker that is away is no reason for a failed push");

    // The relay killed under load, three times, once with both brokers away, and answers lost on their way.
    for round in 0..3 {
        if round == 1 {
            scene.kafka.kill9().await;
            scene.mosquitto.stop().await;
        }
        scene.play(4.0, 300).await;
        scene.relay.kill9().await;
        scene.relay.start().await;
        for id in scene.agents.clone().step_by(5) {
            scene.simulator.lose_answers(&agent(id), 1).expect("an agent");
        }
        scene.play(4.0, 300).await;
        if round == 1 {
            scene.kafka.start_again().await;
            scene.mosquitto.start_again().await;
            scene.subscriber.subscribed(3).await;
        }
    }
    let verdict = scene.judge().await;
    assert!(verdict.acknowledged > 4_000, "{verdict:?}");
    assert!(scene.simulator.statistics().total.pushes_repeated > 0, "the gateway repeated pushes");
    scene.assert_nobody_was_signed_out();
    scene.assert_no_secret_was_logged();
    scene.relay.stop().await;
}

/// Where no manual says what a gateway does, it does here what is hardest for us.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_with_a_gateway_that_is_as_unkind_as_it_may_be() {
    let unkind = |settings: &mut Settings, relay: &Relay| {
        settings.login_delay_ms = 300;
        settings.callback_trust_list = relay.callback_uri();
        settings.callback_outside_trust_list = OutsideTrustList::RefuseLogin;
        // A relay that is away for longer than a GUID's age loses the session then, whatever it does: that is not wanted here.
        settings.guid_runs_ahead = true;
        (settings.guid_interval_ms, settings.guid_timeout_ms) = (20_000, 60_000);
        settings.push_new_connection = true;
        settings.push_answer_lost = 0.02;
        settings.push_batch_limit = 3;
        settings.repeat_grows = false;
        settings.repeat_keeps_headers = true;
        settings.second_logout_unknown = true;
        settings.inspection = Inspection::Same;
        "guid_interval_secs = 20\n"
    };
    let mut scene = Scene::start_with(1001..=1010, unkind).await;
    scene.play(8.0, 800).await;
    scene.relay.kill9().await;
    scene.relay.start().await;
    scene.play(8.0, 800).await;
    assert_eq!(scene.relay.stop().await, 0);
    scene.relay.start().await;
    scene.play(8.0, 400).await;
    let verdict = scene.judge().await;
    assert!(verdict.acknowledged >= 2_000, "{verdict:?}");
    let total = scene.simulator.statistics().total;
    assert!(total.pushes_repeated > 10, "answers were lost: {total:?}");
    scene.assert_nobody_was_signed_out();
    scene.assert_no_secret_was_logged();
}

fn agent(id: u32) -> AgentId {
    AgentId::parse(&id.to_string()).expect("an agent id")
}
