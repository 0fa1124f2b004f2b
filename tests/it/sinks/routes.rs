//! Routes and masks, from a configuration to real brokers: what goes where, and that nothing hidden comes out anywhere.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::relay::Running;
use crate::support::certificates::Certificates;
use crate::support::kafka::{Kafka, Record};
use crate::support::mosquitto::{Mosquitto, Subscriber};
use crate::support::relay::binary;
use crate::support::{DEADLINE, eventually};

/// A customer's number, as the gateway writes it in one place and in another.
const NUMBER: &str = "+4930123456";
const SAME_NUMBER: &str = "004930123456";
/// What both have in common: it must not be seen.
const DIGITS: &str = "30123456";
const TEXT: &str = "my card is lost";

/// The sinks and routes of the test. `bus` has topics for two teams, one for texts, and a route to a topic that is not there.
fn configuration(kafka: &Kafka, mosquitto: &Mosquitto) -> String {
    format!(
        "[masking]\nsecret_file = 'FOLDER/key.pem'\n\
         [sinks.bus]\ntopic = 'rest'\ndead_letter_topic = 'dead'\nmask = ['numbers']\n\
         [sinks.bus.kafka]\nbootstrap_servers = '{}'\n[sinks.bus.kafka.on_error]\nunknown_topic = 'dead_letter'\n\
         [sinks.bus.kafka.options]\n'topic.metadata.propagation.max.ms' = 0\n\
         [sinks.wall]\nunrouted = 'drop'\nmask = ['numbers:last4']\n\
         [sinks.wall.mqtt]\nurl = '{}'\nstate_topic = 'state/{{gateway}}/{{agent}}'\n\
         [[routes]]\nname = 'texts'\ntypes = ['ccrelay.message.*']\nto = {{ bus = 'texts' }}\nmask = ['message.*:hide', 'call.attachedData:hide']\n\
         [[routes]]\nname = 'nowhere-yet'\nagents = ['1009']\nto = {{ bus = 'missing' }}\n\
         [[routes]]\nname = 'team'\nagents = ['1000-1999']\ncategories = ['call']\nmedia = ['voice']\n\
         to = {{ bus = 'team.{{gateway}}.{{category}}', wall = 'team/{{agent}}/{{type}}' }}\n\
         [[routes]]\nname = 'states'\ncategories = ['agent-state']\nto = {{ wall = 'states/{{agent}}' }}\nnot_to = ['bus']\n",
        kafka.address(),
        mosquitto.url()
    )
}

fn push(agent: &str, event_type: &str, content: &str) -> String {
    format!(
        r#"{{"workNo":"{agent}","eventList":[{{"eventType":"{event_type}","workNo":"{agent}","content":{content}}}]}}"#
    )
}

fn ringing(agent: &str) -> String {
    let content = format!(
        r#"{{"callid":"1469530123-84","caller":"{NUMBER}","otherPhone":"{SAME_NUMBER}","called":"8000","feature":0,
            "mediaAbility":1,"attachData":"from {NUMBER}","somethingNew":"{NUMBER}"}}"#
    );
    push(agent, "AgentEvent_Ringing", &content)
}

/// What `ccrelay route test` says of this event.
fn route_test(folder: &Path, event: &str, more: &[&str]) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(binary())
        .args(["route", "test", "-", "--config"])
        .arg(folder.join("config.toml"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(event.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// Topics of `bus` and `wall` by `ccrelay route test --json`.
fn topics(output: &Output) -> [Option<String>; 2] {
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    ["bus", "wall"].map(|sink| {
        let sinks = report["sinks"].as_array().expect("a list");
        let found = sinks.iter().find(|found| found["sink"] == sink).expect("each sink is there");
        found["topic"].as_str().map(str::to_owned)
    })
}

fn assert_hidden(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains(DIGITS) && !text.contains(TEXT), "{what}: {text}");
}

fn data(record: &Record) -> Value {
    serde_json::from_slice(&record.payload).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_where_their_route_leads_and_what_is_hidden_comes_out_nowhere() {
    let (kafka, mosquitto) = tokio::join!(Kafka::start(), Mosquitto::start());
    for topic in ["rest", "texts", "team.main.call", "dead"] {
        kafka.create_topic(topic, 1, &[]).await;
    }
    let subscriber = Subscriber::start(mosquitto.port(), "#").await;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    Certificates::create(folder);
    let relay = Running::start(folder, &configuration(&kafka, &mosquitto)).await;

    let chat = format!(r#"{{"callId":"7-7","message":"{TEXT}","sender":"{NUMBER}"}}"#);
    let unknown = push("1001", "AgentEvent_Invented", &format!(r#"{{"tel":"{NUMBER}"}}"#));
    for (agent, body, bus, wall) in [
        ("1001", ringing("1001"), Some("team.main.call"), Some("team/1001/ccrelay.call.ringing")),
        ("2001", ringing("2001"), Some("rest"), None),
        ("1009", ringing("1009"), Some("missing"), Some("team/1009/ccrelay.call.ringing")),
        ("1001", push("1001", "AgentEvent_MessageData", &chat), Some("texts"), None),
        ("1001", push("1001", "AgentState_Ready", "null"), None, Some("states/1001")),
        ("1001", unknown, Some("rest"), None),
    ] {
        let told = route_test(folder, &body, &["--json"]);
        assert_eq!(told.status.code(), Some(0), "{}", String::from_utf8_lossy(&told.stderr));
        assert_eq!(topics(&told), [bus, wall].map(|topic| topic.map(str::to_owned)));
        relay.store_push(agent, body).await;
    }
    relay.delivered().await;

    // What it said is what came about.
    let read = async |topic: &str| kafka.read_all(topic).await;
    let (rest, texts, team, dead) =
        (read("rest").await, read("texts").await, read("team.main.call").await, read("dead").await);
    // Being ready ends the call, which has its summary then.
    assert_eq!([rest.len(), texts.len(), team.len(), dead.len()], [2, 1, 2, 1]);
    assert_eq!(team[1].header("ce_type"), "ccrelay.call.ended");
    assert_eq!(dead[0].header("ce_ccrelaydeadlettertopic"), "missing");
    assert_eq!(dead[0].header("ce_subject"), "1009");
    let messages = subscriber.wait_for("four events and the states", |all| all.len() >= 8).await;
    let mut at: Vec<_> = messages.iter().map(|m| String::from_utf8_lossy(&m.topic).into_owned()).collect();
    at.sort_unstable();
    let expected = [
        "state/main/1001",
        "state/main/1001",
        "state/main/1009",
        // Of an event that no route leads there; those of its category would be led there.
        "state/main/2001",
        "states/1001",
        "team/1001/ccrelay.call.ended",
        "team/1001/ccrelay.call.ringing",
        "team/1009/ccrelay.call.ringing",
    ];
    assert_eq!(at, expected);
    let unrouted = |sink| relay.metrics.sink_unrouted.with_label_values(&[sink]).get();
    assert!(unrouted("bus") >= 1 && unrouted("wall") >= 3, "counted");

    // The number and the text are nowhere: payloads, headers, keys, retained states, copies of dead letters.
    for record in rest.iter().chain(&texts).chain(&team).chain(&dead) {
        assert_hidden("a record", &record.payload);
        assert_hidden("headers", format!("{:?} {}", record.headers, record.key).as_bytes());
    }
    for message in &messages {
        assert_hidden("a message", &message.payload);
        assert_hidden("properties", format!("{:?}", message.properties).as_bytes());
    }
    for command in [&["deadletters", "export"][..], &["deadletters", "show", "1"]] {
        let output = Command::new(binary())
            .args(command)
            .arg("--config")
            .arg(folder.join("config.toml"))
            .output()
            .expect("the program starts");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("hmac:"), "{output:?}");
        assert_hidden("dead letters", &output.stdout);
    }
    // But the same number is the same hash wherever it stands, and the rest is as it was.
    let (one, other) = (data(&team[0]), data(&dead[0]));
    let hash = one["call"]["caller"].as_str().expect("a text");
    assert!(hash.starts_with("hmac:"), "{hash}");
    assert_eq!(one["call"]["otherParty"], hash);
    assert_eq!(other["call"]["caller"], hash);
    assert_eq!(one["call"]["attachedData"], format!("from {hash}"));
    assert_eq!(one["call"]["id"], "1469530123-84");
    assert_eq!(one["raw"], serde_json::json!({"eventType": "AgentEvent_Ringing", "withheld": true}));
    assert_eq!(data(&texts[0])["message"]["text"], "***");
    let ringing = messages.iter().find(|m| m.topic.starts_with(b"team/1001")).expect("it is there");
    let ringing: Value = serde_json::from_slice(&ringing.payload).expect("JSON");
    assert_eq!(ringing["call"]["caller"], "***3456");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn route_test_says_why_and_its_exit_code_tells_what_it_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    Certificates::create(folder);
    let relay = Running::start(
        folder,
        "[sinks.file]\nunrouted = 'drop'\n[sinks.file.jsonl]\npath = 'FOLDER/events'\n\
         [[routes]]\nname = 'north'\ngateways = ['main']\nagents = ['2000-2999']\nmedia = ['text']\nto = { file = 'x' }\n\
         [[routes]]\nname = 'calls'\ntypes = ['ccrelay.call.*']\nto = { file = 'calls' }\nmask = ['numbers:hide']\n",
    )
    .await;
    let words = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let told = route_test(folder, &ringing("1001"), &[]);
    assert_eq!(told.status.code(), Some(0));
    let expected = [
        "ccrelay.call.ringing (call) of agent 1001 at main\n  file: calls (route calls)\n    hidden: call.called, call.caller,",
        "    left out: raw.content, raw.event\n",
        "    not route north: agents is 1001, not 2000-2999\n    not route north: media is 1, voice, not text\n",
    ];
    for part in expected {
        assert!(words(&told).contains(part), "{part} is missing:\n{}", words(&told));
    }
    // An event as it was published has the same answer as the push that it came from.
    relay.store_push("1001", ringing("1001")).await;
    relay.delivered().await;
    let published = std::fs::read_to_string(folder.join("events")).expect("the sink wrote it");
    let again = route_test(folder, published.lines().next().expect("a line"), &[]);
    assert_eq!((again.status.code(), words(&again)), (Some(0), words(&told)));

    let nowhere = route_test(folder, &push("1001", "AgentState_Ready", "null"), &[]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(words(&nowhere).contains("file: nowhere (no route decides)"), "{}", words(&nowhere));
    for (text, fault) in [
        ("{", "not JSON"),
        ("{}", "no workNo"),
        (r#"{"workNo":"1001","eventList":[]}"#, "there is no event in it"),
        (r#"{"specversion":"1.0","source":"/x"}"#, "none of ccrelay's"),
    ] {
        let told = route_test(folder, text, &[]);
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(65) && said.contains(fault), "{text}: {said}");
    }
    let other = route_test(folder, &ringing("1001"), &["--gateway", "south"]);
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("there is no gateway \"south\"; there are: main")
    );
    std::fs::write(folder.join("config.toml"), "[[routes]]\nname = 1\n").expect("the folder can be written");
    assert_eq!(route_test(folder, "{}", &[]).status.code(), Some(78));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_masks_change_while_the_relay_runs_and_a_mistake_leaves_them_as_they_were() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    Certificates::create(folder);
    let relay = Running::start(folder, "[sinks.file.jsonl]\npath = 'FOLDER/events'\n").await;
    let file = folder.join("config.toml");
    let without = std::fs::read_to_string(&file).expect("it was written");
    let lines = || std::fs::read_to_string(folder.join("events")).unwrap_or_default();
    let mut agents = 1001..;
    let mut reloaded = async |outcome: &str, more: &str| {
        let reloads = relay.metrics.reloads.with_label_values(&[outcome]);
        let before = reloads.get();
        std::fs::write(&file, format!("{without}{more}")).expect("the folder can be written");
        eventually("a reload", DEADLINE, || async { (reloads.get() > before).then_some(()) }).await;
        // Each time another agent, whose call is new.
        let agent = agents.next().expect("it has no end").to_string();
        relay.store_push(&agent, ringing(&agent)).await;
        relay.delivered().await;
    };
    let hidden =
        "[[routes]]\nname = 'all'\nto = { file = 'x' }\nmask = ['numbers:hide', 'call.attachedData:hide']\n";
    reloaded("ok", hidden).await;
    assert_eq!(lines().lines().count(), 1);
    assert_hidden("the first line", lines().as_bytes());
    reloaded("refused", "[[routes]]\nname = 'all'\nto = { gone = 'x' }\n").await;
    assert_eq!(lines().lines().count(), 2);
    assert_hidden("two lines", lines().as_bytes());
    reloaded("ok", "[[routes]]\nname = 'none'\nnot_to = ['file']\n").await;
    assert_eq!(lines().lines().count(), 2, "nothing goes there any more");
    assert_eq!(relay.metrics.restart_needed.get(), 0);
    reloaded("ok", "").await;
    assert_eq!(lines().lines().count(), 3, "{}", lines());
    assert!(lines().contains(NUMBER), "{}", lines());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_wait_with_sinks_that_need_a_restart_and_no_event_is_lost_between_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    Certificates::create(folder);
    std::fs::write(folder.join("secret"), "0123456789abcdef0123456789abcdef")
        .expect("the folder can be written");
    const FILE: &str = "[sinks.file]\nmask = ['numbers']\n[sinks.file.jsonl]\npath = 'FOLDER/file'\n\
                        [masking]\nsecret_file = 'FOLDER/secret'\n";
    const OTHER: &str = "[sinks.other]\ntopic = 'x'\n[sinks.other.jsonl]\npath = 'FOLDER/other'\n\
                         [[routes]]\nname = 'moved'\nto = { other = 'y' }\nnot_to = ['file']\n";
    let lines = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default().lines().count();
    let relay = Running::start(folder, FILE).await;
    let file = folder.join("config.toml");
    let begun = std::fs::read_to_string(&file).expect("it was written");
    let reloaded = async |write: &dyn Fn(), restart_needed: i64| {
        let reloads = relay.metrics.reloads.with_label_values(&["ok"]);
        let before = reloads.get();
        write();
        eventually("a reload", DEADLINE, || async { (reloads.get() > before).then_some(()) }).await;
        assert_eq!(relay.metrics.restart_needed.get(), restart_needed);
    };
    let both = format!("{begun}{}", OTHER.replace("FOLDER", &folder.display().to_string()));
    // One of another kind is another sink.
    let kind = begun.replace("jsonl]\npath = ", "mqtt]\nurl = 'mqtt://127.0.0.1:1'\nclient_id = ");
    let kind = format!("{kind}[[routes]]\nname = 'none'\nnot_to = ['file']\n");
    let save = |text: &str| std::fs::write(&file, text).expect("the folder can be written");
    for (agent, text) in [("1000", kind), ("1001", both.clone())] {
        reloaded(&|| save(&text), 1).await;
        relay.store_push(agent, ringing(agent)).await;
        relay.delivered().await;
    }
    assert_eq!((lines("file"), lines("other")), (2, 0), "the only sink that runs has them");

    // Without the new sink all is as before; so it is with a secret that came meanwhile, which then counts.
    let secret = || std::fs::write(folder.join("secret"), "f".repeat(40)).expect("the folder can be written");
    reloaded(&secret, 1).await;
    relay.store_push("1002", ringing("1002")).await;
    relay.delivered().await;
    reloaded(&|| save(&begun), 0).await;
    relay.store_push("1003", ringing("1003")).await;
    relay.delivered().await;
    let written = std::fs::read_to_string(folder.join("file")).expect("the sink wrote it");
    let callers: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["data"]["call"]["caller"].take())
        .collect();
    assert_eq!(callers[1], callers[2], "the secret waits with the routes");
    assert_ne!(callers[2], callers[3]);

    reloaded(&|| save(&both), 1).await;
    relay.stop().await;
    let relay = Running::start(folder, &format!("{FILE}{OTHER}")).await;
    relay.store_push("1004", ringing("1004")).await;
    relay.delivered().await;
    assert_eq!((lines("file"), lines("other")), (4, 1), "the restart has put the route in force");
    // A sink that is to go is still led to.
    let reloads = relay.metrics.reloads.with_label_values(&["ok"]).get();
    save(&begun);
    eventually("a reload", DEADLINE, || async {
        (relay.metrics.reloads.with_label_values(&["ok"]).get() > reloads).then_some(())
    })
    .await;
    relay.store_push("1005", ringing("1005")).await;
    relay.delivered().await;
    assert_eq!((lines("file"), lines("other")), (4, 2));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_of_an_agent_is_right_though_only_calls_are_routed_there() {
    let mosquitto = Mosquitto::start().await;
    let subscriber = Subscriber::start(mosquitto.port(), "#").await;
    let folder = tempfile::tempdir().expect("a folder");
    Certificates::create(folder.path());
    let configuration = format!(
        "[sinks.wall]\nunrouted = 'drop'\n[sinks.wall.mqtt]\nurl = '{}'\nstate_topic = 'state/{{gateway}}/{{agent}}'\n\
         [[routes]]\nname = 'calls'\nagents = ['1*']\ncategories = ['call']\nto = {{ wall = 'calls/{{agent}}' }}\n",
        mosquitto.url()
    );
    let relay = Running::start(folder.path(), &configuration).await;
    let talking = |agent| push(agent, "AgentEvent_Talking", r#"{"callid":"1-2","mediaAbility":"1"}"#);
    let ready = |agent| push(agent, "AgentState_Ready", "null");
    for body in [ready("1001"), talking("1001"), ready("1001")] {
        relay.store_push("1001", body).await;
    }
    relay.store_push("2001", ready("2001")).await;
    relay.delivered().await;
    let is_last = |p: &rumqttc::v5::mqttbytes::v5::Publish| {
        p.topic == "state/main/1001" && String::from_utf8_lossy(&p.payload).contains(r#""sequence":2,"#)
    };
    let received = subscriber.wait_for("the last state", |received| received.iter().any(is_last)).await;
    relay.stop().await;
    let seen: Vec<_> = received
        .iter()
        .map(|publish| {
            let data: Value = serde_json::from_slice(&publish.payload).expect("JSON");
            let topic = String::from_utf8(publish.topic.to_vec()).expect("text");
            (topic, data["state"].as_str().map(str::to_owned))
        })
        .collect();
    let state = |state: &str| ("state/main/1001".to_owned(), Some(state.to_owned()));
    // The call ends with the last event, and its summary is of the category of calls.
    let call = || ("calls/1001".to_owned(), None);
    assert_eq!(seen, [state("ready"), call(), state("busy"), state("ready"), call()]);
}
