//! Repeats of a gateway that marks no event, as none in service does: what is one event, and what is two.

use std::path::Path;
use std::time::Duration;

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{EmitOptions, Settings, SignOut, Simulator};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::relay::{Relay, Wiring};
use crate::support::{DEADLINE, eventually};

const PASSWORD: &str = "canary-password";
/// More than the relay's `repeat_soonest_millis`.
const APART: Duration = Duration::from_millis(700);

struct Scene {
    simulator: Simulator,
    relay: Relay,
    agent: AgentId,
}

impl Scene {
    /// One agent who is signed in, and whose first events are published.
    async fn start(unkind: impl FnOnce(&mut Settings), prepare: impl FnOnce(&Relay)) -> Scene {
        let mut relay = Relay::prepare();
        let mut settings = Settings::local();
        settings.push_fail_interval_ms = 500;
        settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
        settings.agents = vec![Agents::range(1001, 1001, PASSWORD)];
        unkind(&mut settings);
        assert!(!settings.mark_events, "no gateway in service does");
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        let folder = relay.folder().display().to_string();
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url(),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: 1001..=1001,
            password: PASSWORD,
            tables: &format!("[sinks.file.jsonl]\npath = \"{folder}/events.jsonl\"\n"),
        });
        prepare(&relay);
        relay.start().await;
        assert!(simulator.wait_for(DEADLINE, |s| s.total.delivered >= 2).await, "the agent signs in");
        Scene { simulator, relay, agent: AgentId::parse("1001").expect("an id") }
    }

    /// A customer writes, and the gateway has the answer.
    async fn write(&self, text: &str) {
        let content = json!({ "callid": "1-1", "message": text });
        self.simulator
            .emit(&self.agent, "AgentEvent_MessageData", content, EmitOptions::default())
            .expect("the agent is signed in");
        assert!(self.simulator.drained(DEADLINE).await, "{}", self.relay.log());
    }

    /// Text, id, and whether it is marked as a repeat, of each chat line published: so many must come.
    async fn lines(&self, count: usize) -> Vec<(String, String, bool)> {
        let lines = || async {
            let lines = chat(self.relay.folder());
            (lines.len() >= count).then_some(lines)
        };
        eventually("the chat lines", DEADLINE, lines).await
    }
}

fn chat(folder: &Path) -> Vec<(String, String, bool)> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let events = whole.lines().map(|line| serde_json::from_str(line).expect("a line is JSON"));
    let chat = events.filter(|event: &Value| event["data"]["raw"]["eventType"] == "AgentEvent_MessageData");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    chat.map(|event| {
        let said = text(&event["data"]["raw"]["content"]["message"]);
        (said, text(&event["id"]), event["ccrelayrepeat"] == true)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_written_twice_is_two_events_and_one_whose_answer_was_lost_is_one_on_new_connections_too()
 {
    let mut scene = Scene::start(|settings| settings.push_new_connection = true, |_| ()).await;
    scene.write("ok").await;
    tokio::time::sleep(APART).await;
    scene.write("ok").await;
    let lines = scene.lines(2).await;
    assert_ne!(lines[0].1, lines[1].1, "{lines:?}");
    assert!(lines.iter().all(|(_, _, repeat)| !repeat), "{lines:?}");

    // An upgrade in between, and the same line again.
    assert_eq!(scene.relay.stop().await, 0);
    scene.relay.start().await;
    tokio::time::sleep(APART).await;
    scene.write("ok").await;
    let lines = scene.lines(3).await;
    assert!(lines[2].1 != lines[1].1 && !lines[2].2, "{lines:?}");

    scene.simulator.lose_answers(&scene.agent, 1).expect("an agent");
    scene.write("lost").await;
    let lines = scene.lines(5).await;
    assert_eq!(lines[3].1, lines[4].1, "the gateway repeated it: {lines:?}");
    assert!(!lines[3].2 && lines[4].2, "{lines:?}");
    assert_eq!(scene.simulator.counts(&scene.agent).pushes_repeated, 1);
    scene.relay.stop().await;
    scene.simulator.stop().await;
}

/// The gateway may repeat a batch with the token that it had at first, and the secret of that may have gone meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_that_keeps_its_token_is_taken_for_one_overlap_after_the_secret_was_replaced() {
    for overlap in [60, 1] {
        let unkind = |settings: &mut Settings| {
            settings.repeat_keeps_headers = true;
            settings.push_fail_interval_ms = 2_000;
            settings.push_fail_total_ms = 6_000;
        };
        let secret = |relay: &Relay, letter: &str| {
            std::fs::write(relay.folder().join("secret"), letter.repeat(40))
                .expect("the folder can be written");
        };
        let prepare = |relay: &Relay| {
            secret(relay, "a");
            let file = relay.folder().join("secret").display().to_string();
            let keys = format!("period_secs = 1\noverlap_secs = {overlap}\nsecret_file = \"{file}\"\n");
            relay.edit("period_secs = 1\n", &keys);
        };
        let mut scene = Scene::start(unkind, prepare).await;
        scene.simulator.lose_answers(&scene.agent, 1).expect("an agent");
        let emitted = scene.simulator.emit(
            &scene.agent,
            "AgentEvent_MessageData",
            json!({ "message": "ok" }),
            EmitOptions::default(),
        );
        emitted.expect("the agent is signed in");
        assert!(scene.simulator.wait_for(DEADLINE, |s| s.total.pushes_failed == 1).await);
        const RELOADED: &str = "ccrelay_reloads_total{outcome=\"ok\"}";
        let before = scene.relay.metric(RELOADED).await;
        secret(&scene.relay, "b");
        scene.relay.running().signal(Signal::SIGHUP);
        eventually("the new secret", DEADLINE, || async {
            (scene.relay.metric(RELOADED).await > before).then_some(())
        })
        .await;
        assert_eq!(scene.simulator.counts(&scene.agent).pushes_failed, 1, "the repeat comes only now");
        if overlap > 1 {
            assert!(scene.simulator.drained(DEADLINE).await);
            assert_eq!(scene.lines(2).await[1].1, scene.lines(1).await[0].1);
            assert_eq!(scene.simulator.counts(&scene.agent).pushes_failed, 1);
        } else {
            let out = |s: &ccrelay::simulate::Statistics| s.total.signed_out(SignOut::PushFailure) == 1;
            assert!(
                scene.simulator.wait_for(DEADLINE, out).await,
                "{:?}",
                scene.simulator.statistics().total
            );
        }
        scene.relay.stop().await;
        scene.simulator.stop().await;
    }
}
