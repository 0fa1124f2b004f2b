//! Readers that are not ours: the Python SDK of CloudEvents, and the examples that were written from the contract.

use std::path::Path;

use ccrelay::clock::Clock;
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::{Value, json};

use super::relay::Running;
use crate::support::certificates::Certificates;
use crate::support::kafka::{Kafka, Record};
use crate::support::mosquitto::{Mosquitto, Subscriber};
use crate::support::python;

/// An event of the gateway: seconds after the begin, name, content.
type Said<'a> = (u64, &'a str, Value);

/// A push of events that happened so long after `begin`.
fn push(agent: &str, begin: u64, events: &[Said<'_>]) -> String {
    let event = |(at, event_type, content): &Said<'_>| json!({ "eventType": event_type, "workNo": agent, "eventGenTime": begin + 1000 * at, "content": content });
    json!({ "workNo": agent, "eventList": events.iter().map(event).collect::<Vec<_>>() }).to_string()
}

/// An hour ago, in whole seconds.
fn begin() -> u64 {
    let now = Clock::system().now().millis();
    now - now % 1000 - 3_600_000
}

fn call(id: &str, caller: &str) -> Value {
    json!({ "callid": id, "caller": caller, "called": "8000", "feature": 0, "mediaAbility": 1 })
}

/// Stores what three agents did: one talked, held and wrapped up; one let it ring; one went home in the end.
async fn store_day(relay: &Running, begin: u64) {
    let (talk, missed) = (call("1700000001-1", "+4930123456"), call("1700000002-2", "+4940654321"));
    let days: [(&str, Vec<Said<'_>>); 3] = [
        (
            "1001",
            vec![
                (0, "AgentOther_InService", Value::Null),
                (10, "AgentState_Ready", Value::Null),
                (40, "AgentEvent_Ringing", talk.clone()),
                (45, "AgentEvent_Talking", talk.clone()),
                (105, "AgentEvent_Hold", talk.clone()),
                (135, "AgentEvent_Talking", talk.clone()),
                (195, "AgentEvent_Call_Release", talk),
                (195, "AgentState_Work", Value::Null),
                (225, "AgentState_Ready", Value::Null),
            ],
        ),
        (
            "1002",
            vec![
                (0, "AgentOther_InService", Value::Null),
                (5, "AgentState_Ready", Value::Null),
                (50, "AgentEvent_Ringing", missed.clone()),
                (70, "AgentEvent_No_Answer", missed),
                (70, "AgentState_SetNotReady_Success", json!({ "reason": 2 })),
            ],
        ),
        (
            "1003",
            vec![
                (0, "AgentOther_InService", Value::Null),
                (1, "AgentState_Ready", Value::Null),
                (301, "AgentOther_ShutdownService", json!({ "loginTime": begin })),
            ],
        ),
    ];
    for (agent, events) in days {
        // Two pushes, so that states are carried over.
        let (first, second) = events.split_at(events.len() / 2);
        relay.store_push(agent, push(agent, begin, first)).await;
        relay.store_push(agent, push(agent, begin, second)).await;
    }
}

/// A Kafka and a Mosquitto with sinks of both content modes, and a file that says what was sent.
async fn relay(folder: &Path, kafka: &Kafka, mosquitto: &Mosquitto) -> Running {
    Certificates::create(folder);
    let (kafka, mosquitto) = (kafka.address(), mosquitto.url());
    let mut sinks = "[sinks.file.jsonl]\npath = 'FOLDER/events'\n".to_owned();
    for mode in ["binary", "structured"] {
        sinks.push_str(&format!(
            "[sinks.k-{mode}]\ntopic = '{mode}'\n[sinks.k-{mode}.kafka]\nbootstrap_servers = '{kafka}'\nencoding = '{mode}'\n\
             [sinks.m-{mode}]\ntopic = '{mode}/{{agent}}'\n[sinks.m-{mode}.mqtt]\nurl = '{mosquitto}'\nencoding = '{mode}'\n"
        ));
    }
    sinks.push_str("state_topic = 'ccrelay/{gateway}/agents/{agent}/state'\n");
    Running::start(folder, &sinks).await
}

fn of_kafka(record: &Record) -> Value {
    json!({ "from": "kafka", "key": record.key, "headers": record.headers, "payload": base64(&record.payload) })
}

fn of_mqtt(message: &Publish) -> Value {
    let properties = message.properties.as_ref().expect("MQTT 5");
    let mut headers = properties.user_properties.clone();
    let content_type = properties.content_type.clone().expect("a content type");
    headers.push(("content-type".to_owned(), content_type));
    json!({ "from": "mqtt", "key": "", "headers": headers, "payload": base64(&message.payload) })
}

/// Base64 of RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = chunk.iter().chain([&0, &0]).take(3).fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        for place in 0..4_usize {
            let digit = DIGITS[(three >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_of_cloudevents_reads_every_mode_of_both_brokers() {
    let (kafka, mosquitto) = tokio::join!(Kafka::start(), Mosquitto::start());
    for topic in ["binary", "structured"] {
        kafka.create_topic(topic, 1, &[]).await;
    }
    let subscriber = Subscriber::start(mosquitto.port(), "+/+").await;
    let folder = tempfile::tempdir().expect("a folder");
    let relay = relay(folder.path(), &kafka, &mosquitto).await;
    store_day(&relay, begin()).await;
    // Nothing that JSON can hold may be in the way either.
    let odd = json!({ "callid": "3-3", "attachData": "Grüße \u{1f600} \"\\\n", "unheard": [1.5e3, null, { "of": {} }] });
    relay.store_push("1001", push("1001", begin(), &[(400, "AgentEvent_Ringing", odd)])).await;
    relay.delivered().await;

    let lines = std::fs::read_to_string(folder.path().join("events")).expect("the sink wrote it");
    let sent: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(sent.len(), 20, "18 events of the gateway and the summaries of two calls");
    let on_mqtt = subscriber.wait_for("all in both modes", |all| all.len() >= 2 * sent.len()).await;
    let (binary, structured): (Vec<_>, Vec<_>) =
        on_mqtt.iter().partition(|message| message.topic.starts_with(b"binary/"));
    let ways: [(&str, Vec<Value>); 4] = [
        ("Kafka, binary", kafka.read_all("binary").await.iter().map(of_kafka).collect()),
        ("Kafka, structured", kafka.read_all("structured").await.iter().map(of_kafka).collect()),
        ("MQTT, binary", binary.into_iter().map(of_mqtt).collect()),
        ("MQTT, structured", structured.into_iter().map(of_mqtt).collect()),
    ];
    for (way, messages) in ways {
        assert_eq!(messages.len(), sent.len(), "{way}");
        let input: Vec<String> = messages.iter().map(Value::to_string).collect();
        let read = python::run("tests/python/read_cloudevents.py", &[], input.join("\n").as_bytes()).await;
        for (sent, read) in sent.iter().zip(read.lines()) {
            let read: Value = serde_json::from_str(read).expect("JSON");
            let mut attributes = sent.clone();
            let data = attributes.as_object_mut().and_then(|event| event.remove("data")).expect("data");
            assert_eq!(read, json!({ "attributes": attributes, "data": data }), "{way}");
        }
        assert_eq!(read.lines().count(), sent.len(), "{way}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_written_from_the_contract_rebuild_states_and_calls_and_a_wallboard() {
    let (kafka, mosquitto) = tokio::join!(Kafka::start(), Mosquitto::start());
    for topic in ["binary", "structured"] {
        kafka.create_topic(topic, 3, &[]).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let relay = relay(folder.path(), &kafka, &mosquitto).await;
    let begin = begin();
    store_day(&relay, begin).await;
    relay.delivered().await;
    let at = |seconds: u64| ccrelay::clock::Timestamp(begin + 1000 * seconds).to_string();

    let source = |agent: &str| format!("/ccrelay/main/agents/{agent}");
    for topic in ["binary", "structured"] {
        let arguments = [&kafka.address(), "--topic", topic, "--once", "--json"];
        let told = python::run("deploy/examples/consumer.py", &arguments, b"").await;
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let agent = |id: &str| told["agents"][source(id)].clone();
        assert_eq!(
            agent("1001"),
            json!({
                "state": "ready", "since": at(225), "reason": null,
                "seconds": { "unknown": 0.0, "signedIn": 10.0, "ready": 30.0, "busy": 155.0, "workingAfterCall": 30.0 },
            }),
            "{topic}"
        );
        assert_eq!(
            agent("1002"),
            json!({
                "state": "notReady", "since": at(70), "reason": { "code": 2, "name": "noAnswer" },
                "seconds": { "unknown": 0.0, "signedIn": 5.0, "ready": 45.0, "busy": 20.0 },
            }),
            "{topic}"
        );
        assert_eq!(
            agent("1003"),
            json!({
                "state": "signedOut", "since": at(301), "reason": null,
                "seconds": { "unknown": 0.0, "signedIn": 1.0, "ready": 300.0 },
            }),
            "{topic}"
        );
        let mut calls = told["calls"].as_array().expect("a list").clone();
        calls.sort_by_key(|call| call["id"].to_string());
        assert_eq!(
            calls,
            [
                json!({
                    "source": source("1001"), "id": "1700000001-1", "caller": "+4930123456", "direction": "inbound",
                    "outcome": "answered", "seconds": 155.0, "answeredAfter": 5.0, "talked": 120.0, "held": 30.0,
                }),
                json!({
                    "source": source("1002"), "id": "1700000002-2", "caller": "+4940654321", "direction": "inbound",
                    "outcome": "notAnswered", "seconds": 20.0, "answeredAfter": null, "talked": null, "held": null,
                }),
            ],
            "{topic}"
        );
        let rest = json!([told["open"], told["missing"], told["repeated"], told["late"], told["differing"]]);
        assert_eq!(rest, json!([0, 0, 0, 0, []]), "{topic}");

        let older = copy_of_consumer(&folder.path().join("older"), "ccrelay.agent.ready");
        let told_by_older = python::run(&older, &arguments, b"").await;
        let told_by_older: Value = serde_json::from_str(&told_by_older).expect("JSON");
        for part in ["agents", "missing", "differing"] {
            assert_eq!(
                told_by_older[part], told[part],
                "{topic}: types may come that a copy of the contract lacks"
            );
        }
    }

    let board = python::run(
        "deploy/examples/wallboard.py",
        &["127.0.0.1", &mosquitto.port().to_string(), "--once", "--json"],
        b"",
    )
    .await;
    let board: Value = serde_json::from_str(&board).expect("JSON");
    let agents = board["agents"].as_array().expect("a list").iter();
    let seen: Vec<_> = agents.map(|agent| json!([agent["id"], agent["state"], agent["since"]])).collect();
    assert_eq!(
        seen,
        [json!(["1001", "ready", at(225)]), json!(["1002", "notReady", at(70)])],
        "who is signed out is not there"
    );
    assert_eq!(board["states"], json!({ "ready": 1, "notReady": 1 }));
    relay.stop().await;
}

/// The example consumer beside a contract that lacks a type.
fn copy_of_consumer(folder: &Path, lacking: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let contract = std::fs::read_to_string(deploy.join("contract/asyncapi.json")).expect("the contract");
    let mut contract: Value = serde_json::from_str(&contract).expect("JSON");
    let messages = contract["channels"]["kafka-events"]["messages"].as_object_mut().expect("messages");
    messages.remove(lacking).expect("the type");
    for part in ["contract", "examples"] {
        std::fs::create_dir_all(folder.join(part)).expect("a folder");
    }
    std::fs::write(folder.join("contract/asyncapi.json"), contract.to_string()).expect("written");
    let script = folder.join("examples/consumer.py");
    std::fs::copy(deploy.join("examples/consumer.py"), &script).expect("copied");
    script.to_str().expect("a plain path").to_owned()
}

/// An event of the spool `k3v9` as the example consumer takes it: of the agent 1001, and of its call where that has a state.
fn taken(sequence: u64, at: u64, kind: &str, (before, secs): (&str, f64), state: &str, call: &str) -> Value {
    let time = ccrelay::clock::Timestamp(1000 * at).to_string();
    let mut data = json!({ "agent": {
        "state": state, "since": time, "changed": state != before, "previousState": before,
        "previousDurationSeconds": secs,
    } });
    if !call.is_empty() {
        data["call"] = json!({ "id": "1700000001-1", "state": call });
    }
    if kind == "ccrelay.call.ended" {
        data["summary"] = json!({ "outcome": "answered", "endedAt": time, "talkedSeconds": 60.0 });
    }
    let attributes = json!({
        "id": format!("k3v9-{}-0", sequence + 1), "source": "/ccrelay/main/agents/1001", "type": kind,
        "sequence": format!("{sequence:020}"), "time": time,
    });
    json!({ "attributes": attributes, "data": data })
}

/// What the example consumer shows after these events.
async fn told_of(events: &[Value]) -> Value {
    let input: Vec<String> = events.iter().map(Value::to_string).collect();
    let told = python::run("tests/python/take_events.py", &[], input.join("\n").as_bytes()).await;
    serde_json::from_str(&told).expect("JSON")
}

#[tokio::test]
async fn the_example_consumer_does_not_go_back_when_what_was_set_aside_is_delivered_again() {
    let events = [
        taken(7, 0, "ccrelay.agent.ready", ("signedIn", 5.0), "ready", ""),
        // The record of number 8 was set aside.
        taken(9, 20, "ccrelay.call.established", ("busy", 0.0), "busy", "connected"),
        taken(10, 80, "ccrelay.call.released", ("busy", 70.0), "workingAfterCall", "ended"),
        taken(11, 80, "ccrelay.call.ended", ("workingAfterCall", 0.0), "workingAfterCall", "ended"),
        taken(8, 10, "ccrelay.call.ringing", ("ready", 10.0), "busy", "alerting"),
        // From before the first that was read.
        taken(6, 0, "ccrelay.agent.signed-in", ("signedOut", 1.0), "signedIn", ""),
    ];
    let told = told_of(&events).await;
    let agent = &told["agents"]["/ccrelay/main/agents/1001"];
    assert_eq!(agent["state"], "workingAfterCall");
    assert_eq!(agent["since"], ccrelay::clock::Timestamp(80_000).to_string());
    assert_eq!(
        agent["seconds"],
        json!({ "signedIn": 5.0, "busy": 70.0, "ready": 10.0, "signedOut": 1.0 }),
        "time that is over counts whenever it is told"
    );
    let rest = [&told["open"], &told["missing"], &told["repeated"], &told["late"], &told["differing"]];
    assert_eq!(json!(rest), json!([0, 0, 0, 2, []]));
}

#[tokio::test]
async fn the_example_consumer_follows_a_call_to_its_end_also_where_the_event_that_ends_it_does_not_name_it() {
    let events = [
        taken(0, 20, "ccrelay.call.established", ("ready", 5.0), "busy", "connected"),
        // As in an interception.
        taken(1, 80, "ccrelay.agent.ready", ("busy", 60.0), "ready", ""),
        taken(2, 80, "ccrelay.call.ended", ("ready", 0.0), "ready", "ended"),
        taken(3, 81, "ccrelay.call.released", ("ready", 0.0), "ready", "ended"),
    ];
    let told = told_of(&events).await;
    assert_eq!(told["calls"].as_array().map(Vec::len), Some(1));
    assert_eq!((&told["open"], &told["differing"]), (&json!(0), &json!([])));
    assert_eq!(told["kept"], 0, "what comes after the end is no call");
}

#[tokio::test]
async fn the_example_consumer_keeps_nothing_of_a_call_that_has_ended_and_counts_until_the_other_party_left() {
    let mut events = [
        taken(0, 20, "ccrelay.call.established", ("ready", 5.0), "busy", "connected"),
        taken(1, 80, "ccrelay.call.customer-released", ("busy", 60.0), "busy", "connected"),
        taken(2, 95, "ccrelay.call.released", ("busy", 15.0), "busy", "ended"),
        taken(3, 95, "ccrelay.call.ended", ("busy", 0.0), "busy", "ended"),
        // By the guide the customer's leaving is told after the agent's.
        taken(4, 96, "ccrelay.call.customer-released", ("busy", 1.0), "busy", "ended"),
        taken(5, 97, "ccrelay.call.connection-failed", ("busy", 1.0), "busy", "ended"),
    ];
    for event in &mut events[4..] {
        event["data"]["call"].as_object_mut().expect("a call").remove("state");
    }
    let told = told_of(&events).await;
    let rest = [&told["calls"][0]["talked"], &told["open"], &told["kept"], &told["differing"]];
    assert_eq!(json!(rest), json!([60.0, 0, 0, []]));
}

#[tokio::test]
async fn the_example_consumer_goes_on_with_a_new_spool_whose_numbers_start_again() {
    let mut events = [
        taken(5000, 0, "ccrelay.agent.ready", ("signedIn", 5.0), "ready", ""),
        taken(5001, 10, "ccrelay.agent.not-ready", ("ready", 10.0), "notReady", ""),
        // The disk was replaced. The record of number 2 was set aside.
        taken(0, 100, "ccrelay.session.started", ("unknown", 0.0), "signedIn", ""),
        taken(1, 101, "ccrelay.agent.ready", ("signedIn", 1.0), "ready", ""),
        taken(3, 130, "ccrelay.call.established", ("busy", 0.0), "busy", "connected"),
        taken(4, 190, "ccrelay.call.ended", ("busy", 0.0), "busy", "ended"),
        taken(2, 120, "ccrelay.call.ringing", ("ready", 19.0), "busy", "alerting"),
    ];
    for event in &mut events[2..] {
        let id = event["attributes"]["id"].as_str().expect("an id").replace("k3v9", "7b20");
        event["attributes"]["id"] = id.into();
    }
    let told = told_of(&events).await;
    let agent = &told["agents"]["/ccrelay/main/agents/1001"];
    assert_eq!((&agent["state"], told["calls"].as_array().map(Vec::len)), (&json!("busy"), Some(1)));
    let rest = [&told["open"], &told["missing"], &told["repeated"], &told["late"], &told["differing"]];
    assert_eq!(json!(rest), json!([0, 0, 0, 1, []]), "what comes late is told for each spool");
}
