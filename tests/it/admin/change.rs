//! Agents that come, change and go by API, and sessions that other programs hand over.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;

use ccrelay::simulate::{EmitOptions, SignOut};
use serde_json::{Value, json};

use super::scene::{PASSWORD, READ, Scene, agent};
use crate::support::{DEADLINE, eventually};

const AGENT: &str = "/api/v1/agents/main/1004";
/// The token of another program.
const TOKEN: &str = "canaryTokenOfAnotherProgram";

fn settings(scene: &Scene) -> Value {
    json!({ "phone_number": "71004", "password_file": scene.password_file() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_put_is_signed_in_and_outlives_a_restart() {
    let mut scene = Scene::start().await;
    let client = scene.admin();
    let body = settings(&scene).to_string();
    let reply = client.call("PUT", AGENT, &body).await;
    assert_eq!((reply.status, reply.json()["origin"].as_str()), (201, Some("api")), "{reply:?}");
    scene.agent_in("1004", "active").await;
    scene.heartbeats("1004", 1).await;
    let reply = client.call("PUT", AGENT, &body).await;
    assert_eq!(reply.status, 200, "the same again changes nothing");
    assert_eq!(client.get("/api/v1/agents").await.json()["total"], 4);
    let mode = std::fs::metadata(scene.relay.folder().join("spool/agents.json")).expect("the file").mode();
    assert_eq!(mode & 0o777, 0o600);

    scene.relay.stop().await;
    scene.relay.start().await;
    let back = scene.agent_in("1004", "active").await;
    assert_eq!(back["origin"], "api");
    scene.heartbeats("1004", 2).await;
    assert_eq!(scene.simulator.counts(&agent("1004")).sign_ins, 1, "its session was resumed");

    assert_eq!(client.call("DELETE", AGENT, "").await.status, 204);
    eventually("an agent that is gone", DEADLINE, || async {
        (client.get(AGENT).await.status == 404).then_some(())
    })
    .await;
    assert!(scene.simulator.session(&agent("1004")).is_none(), "it was signed out");
    assert_eq!(client.call("DELETE", AGENT, "").await.status, 404);
    scene.relay.stop().await;
    scene.relay.start().await;
    assert_eq!(client.get(AGENT).await.status, 404, "it does not come back");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_changes_leaves_a_line_with_the_name_of_its_token() {
    let scene = Scene::start().await;
    let client = scene.admin();
    let body = json!({ "phone_number": "7", "password": PASSWORD }).to_string();
    let paths: Vec<_> = (2001..=2060).map(|id| format!("/api/v1/agents/main/{id}")).collect();
    let puts = paths.iter().map(|path| client.call("PUT", path, &body));
    let replies = futures_util::future::join_all(puts).await;
    assert!(replies.iter().all(|reply| reply.status == 201), "{replies:?}");
    let log = scene.relay.log();
    for id in 2001..=2060 {
        let of_it = |line: &&str| {
            line.contains("call of the admin API")
                && line.contains(&format!("\"agent_id\":\"{id}\""))
                && line.contains("\"caller\":\"crm\"")
        };
        assert_eq!(log.lines().filter(of_it).count(), 1, "agent {id}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_hangs_up_leaves_its_line_too_and_is_counted() {
    let scene = Scene::start().await;
    let client = scene.admin();
    // Kept in a file, which takes a while.
    let body = settings(&scene).to_string();
    for id in 2001..=2020 {
        drop(client.ask("PUT", &format!("/api/v1/agents/main/{id}"), &body).await);
    }
    let asked = Cell::new(0);
    // Where it was seen before the call was begun, nothing is done and nothing noted.
    let as_many = || async {
        let agents = client.get("/api/v1/agents").await.json()["total"].as_u64().expect("a number") - 3;
        asked.set(asked.get() + 1);
        let log = scene.relay.log();
        let of_it = |line: &&str, id: u32| {
            line.contains("call of the admin API") && line.contains(&format!("\"agent_id\":\"{id}\""))
        };
        let lines: Vec<_> =
            (2001..=2020).map(|id| log.lines().filter(|line| of_it(line, id)).count() as u64).collect();
        assert!(lines.iter().all(|lines| *lines <= 1), "{log}");
        let counted = scene.relay.metric("ccrelay_admin_requests_total{outcome=\"ok\"}").await;
        let noted = lines.iter().sum::<u64>();
        (agents > 0 && noted == agents && counted == (agents + asked.get()) as f64).then_some(())
    };
    eventually("as many lines as changes, and all counted", DEADLINE, as_many).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_put_agent_leaves_out_is_taken_from_its_gateways_defaults() {
    let mut scene = Scene::with(|relay| {
        let folder = relay.folder().display().to_string();
        let defaults =
            format!("agent_defaults = {{ password_file = \"{folder}/password\", takeover = true }}\n");
        relay.edit("heartbeat_interval_secs", &format!("{defaults}heartbeat_interval_secs"));
    })
    .await;
    let client = scene.admin();
    // Somebody is signed in as this agent: the default takes over.
    scene.sign_in_elsewhere("1004", TOKEN).await;
    let reply = client.call("PUT", AGENT, r#"{"phone_number":"71004"}"#).await;
    assert_eq!((reply.status, reply.json()["origin"].as_str()), (201, Some("api")), "{reply:?}");
    scene.agent_in("1004", "active").await;
    assert_eq!(scene.simulator.statistics().total.signed_out(SignOut::TakenOver), 1);
    // A password in the call goes before that of the defaults.
    let body = json!({ "phone_number": "71005", "password": PASSWORD }).to_string();
    let reply = client.call("PUT", "/api/v1/agents/main/1005", &body).await;
    assert_eq!((reply.status, reply.json()["origin"].as_str()), (201, Some("api_memory")), "{reply:?}");
    scene.agent_in("1005", "active").await;

    scene.relay.stop().await;
    let file = std::fs::read_to_string(scene.relay.folder().join("spool/agents.json")).expect("the file");
    assert!(file.contains("1004") && !file.contains("takeover"), "what was put is kept, and no more: {file}");
    scene.relay.start().await;
    scene.agent_in("1004", "active").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_call_is_kept_in_memory_only_and_shown_to_nobody() {
    let mut scene = Scene::start().await;
    let client = scene.admin();
    let body = json!({ "phone_number": "71004", "password": PASSWORD }).to_string();
    let reply = client.call("PUT", AGENT, &body).await;
    assert_eq!((reply.status, reply.json()["origin"].as_str()), (201, Some("api_memory")), "{reply:?}");
    assert!(!reply.text.contains(PASSWORD), "{reply:?}");
    scene.agent_in("1004", "active").await;
    assert!(!scene.relay.folder().join("spool/agents.json").exists(), "nothing was written");

    // After a restart it has to be put again; its session is resumed then.
    scene.relay.stop().await;
    scene.relay.start().await;
    assert_eq!(client.get(AGENT).await.status, 404);
    assert_eq!(client.call("PUT", AGENT, &body).await.status, 201);
    scene.agent_in("1004", "active").await;
    scene.heartbeats("1004", 1).await;
    assert_eq!(scene.simulator.counts(&agent("1004")).sign_ins, 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_wrong_are_refused_with_all_mistakes_and_no_value() {
    let scene = Scene::start().await;
    let client = scene.admin();
    let twice =
        json!({ "phone_number": "7", "password": "canary-1", "password_file": scene.password_file() });
    for (body, status) in [
        (String::new(), 400),
        ("[]".to_owned(), 400),
        (r#"{"phone_number":"7","password":7}"#.to_owned(), 400),
        (r#"{"phone_number":"7","password":"canary-1","takeover":"canary-2"}"#.to_owned(), 400),
        (r#"{"phone_number":"7","password":"canary-1","color":"canary-3"}"#.to_owned(), 400),
        (r#"{"id":"1005","phone_number":"7","password":"canary-1"}"#.to_owned(), 400),
        (r#"{"phone_number":"7"}"#.to_owned(), 422),
        (r#"{"phone_number":"7","password_file":"/nonexistent"}"#.to_owned(), 422),
        (r#"{"phone_number":"7","password_file":"/dev/zero"}"#.to_owned(), 422),
        (twice.to_string(), 422),
    ] {
        let reply = client.call("PUT", AGENT, &body).await;
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        assert!(!reply.text.contains("canary"), "{body}: {reply:?}");
    }
    let reply = client.call("PUT", AGENT, r#"{"phone_number":"","status":9,"password":"canary-1"}"#).await;
    assert!(reply.text.contains("phone_number") && reply.text.contains("status"), "{reply:?}");
    let body = settings(&scene).to_string();
    assert_eq!(client.call("PUT", "/api/v1/agents/other/1004", &body).await.status, 404);
    assert_eq!(client.get(AGENT).await.status, 404, "nothing was put");
    // The configuration's agents are the configuration's.
    for method in ["PUT", "DELETE"] {
        let body = if method == "PUT" { body.as_str() } else { "" };
        let reply = client.call(method, "/api/v1/agents/main/1001", body).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "configured"), "{method}");
    }
    let reader = scene.client(Some(READ));
    for (method, path) in [("PUT", AGENT), ("DELETE", AGENT), ("POST", "/api/v1/agents/main/1004/adopt")] {
        assert_eq!(reader.call(method, path, "").await.status, 403, "{method} {path}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_who_is_signed_in_elsewhere_is_taken_over_when_a_caller_says_so() {
    let scene = Scene::start().await;
    let client = scene.admin();
    scene.sign_in_elsewhere("1004", TOKEN).await;
    assert_eq!(client.call("PUT", AGENT, &settings(&scene).to_string()).await.status, 201);
    let held = scene.agent_in("1004", "suspended").await;
    assert_eq!(held["retcode"], "100-002", "{held}");
    assert_eq!(client.post(&format!("{AGENT}/take-over")).await.status, 202);
    scene.agent_in("1004", "active").await;
    scene.heartbeats("1004", 1).await;
    assert_eq!(scene.simulator.statistics().total.signed_out(SignOut::TakenOver), 1);
    assert_eq!(client.post("/api/v1/agents/main/1009/take-over").await.status, 404);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_program_is_adopted_kept_alive_and_its_pushes_are_taken() {
    let mut scene = Scene::start().await;
    let client = scene.admin();
    let (guid, cookies) = scene.sign_in_elsewhere("1004", TOKEN).await;
    let pushed = scene.simulator.counts(&agent("1004")).delivered;
    let cookies: Vec<_> =
        cookies.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let body = json!({ "guid": guid, "cookies": cookies, "token": TOKEN }).to_string();
    let adopt = format!("{AGENT}/adopt");
    let reply = client.call("POST", &adopt, &body).await;
    assert_eq!((reply.status, reply.json()["origin"].as_str()), (202, Some("adoption")), "{reply:?}");
    let adopted = scene.agent_in("1004", "active").await;
    assert_eq!(adopted["adopted"], true);

    // Pushes come with the token of the other program until a heartbeat has brought one of ours.
    eventually("pushes with the adopted token", DEADLINE, || async {
        (scene.simulator.counts(&agent("1004")).delivered > pushed).then_some(())
    })
    .await;
    scene.heartbeats("1004", 3).await;
    scene
        .simulator
        .emit(&agent("1004"), "AgentState_Busy", Value::Null, EmitOptions::default())
        .expect("the agent is signed in");
    assert!(scene.simulator.drained(DEADLINE).await, "pushes after the heartbeats are taken too");

    // The GUID has changed meanwhile, and only who may know it is told.
    let first = guid.split_once('=').expect("a prefix").1.to_owned();
    let now = eventually("another GUID", DEADLINE, || async {
        let reply = client.get(&format!("{AGENT}/guid")).await;
        assert_eq!(reply.status, 200);
        assert!(reply.has("cache-control: no-store"), "{reply:?}");
        let now = reply.json()["guid"].as_str().expect("a GUID").to_owned();
        (now != first).then_some(reply.json())
    })
    .await;
    assert_eq!(now["cookies"].as_array().map(Vec::len), Some(cookies.len()));
    assert_eq!(scene.client(Some(READ)).get(&format!("{AGENT}/guid")).await.status, 403);

    // It outlives a restart, without a sign-in.
    scene.relay.stop().await;
    scene.relay.start().await;
    scene.agent_in("1004", "active").await;
    scene.heartbeats("1004", 1).await;
    let counts = scene.simulator.counts(&agent("1004"));
    assert_eq!((counts.sign_ins, counts.signed_out(SignOut::HeartbeatSilence)), (1, 0));

    // Given back: the session stays, and the agent is gone here.
    assert_eq!(client.call("DELETE", &format!("{AGENT}?keep_session=true"), "").await.status, 204);
    eventually("an agent that is gone", DEADLINE, || async {
        (client.get(AGENT).await.status == 404).then_some(())
    })
    .await;
    assert!(scene.simulator.session(&agent("1004")).is_some(), "its session is open");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_adopted_for_an_agent_who_is_polled() {
    let scene = Scene::start().await;
    let client = scene.admin();
    let body = json!({ "phone_number": "71004", "password_file": scene.password_file(), "mode": "poll" });
    assert_eq!(client.call("PUT", AGENT, &body.to_string()).await.status, 201);
    scene.agent_in("1004", "active").await;
    let body = json!({ "guid": "canary-guid", "token": TOKEN }).to_string();
    let reply = client.call("POST", &format!("{AGENT}/adopt"), &body).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "polled"), "{reply:?}");
    assert!(reply.text.contains("mode") && !reply.text.contains("canary"), "{reply:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_session_is_not_adopted() {
    let scene = Scene::start().await;
    let client = scene.admin();
    let adopt = format!("{AGENT}/adopt");
    for body in [
        json!({}),
        json!({ "guid": "canary-guid" }),
        json!({ "guid": "", "token": TOKEN }),
        json!({ "guid": "canary guid", "token": TOKEN }),
        json!({ "guid": "canary-guid", "token": "short" }),
        json!({ "guid": "canary-guid", "token": TOKEN, "cookies": [{ "name": "a;b", "value": "c" }] }),
        json!({ "guid": "canary-guid", "token": TOKEN, "cookies": [{ "name": "a", "value": "b\r\nc: d" }] }),
        json!({ "guid": "canary-guid", "token": TOKEN, "more": 1 }),
    ] {
        let reply = client.call("POST", &adopt, &body.to_string()).await;
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        assert!(!reply.text.contains("canary"), "{reply:?}");
    }
    let body = json!({ "guid": "canary-guid", "token": TOKEN }).to_string();
    assert_eq!(client.call("POST", "/api/v1/agents/other/1004/adopt", &body).await.status, 404);
    assert_eq!(client.get(AGENT).await.status, 404);
    // A GUID that is wrong is found out by the first heartbeat; without a password a person is needed.
    scene.sign_in_elsewhere("1004", TOKEN).await;
    assert_eq!(client.call("POST", &adopt, &body).await.status, 202);
    let lost = scene.agent_in("1004", "suspended").await;
    assert_eq!(lost["reason"], "adopted_session_lost");
    let reply = client.get(&format!("{AGENT}/guid")).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "no_session"));
    scene.end().await;
}

/// A scene with the roster file `agents.csv` that holds this, beside the configuration's agents.
async fn with_a_roster(rows: &str) -> Scene {
    Scene::with(|relay| {
        let folder = relay.folder().display().to_string();
        std::fs::write(relay.folder().join("agents.csv"), rows).expect("the folder can be written");
        let rosters = format!(
            "[[rosters]]\nfile = \"{folder}/agents.csv\"\ngateway = \"main\"\nallow_empty = true\n\
             [rosters.defaults]\npassword_file = \"{folder}/password\"\n[[agents]]\n"
        );
        relay.edit_first("[[agents]]\n", &rosters);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_a_roster_file_are_the_configurations_as_long_as_they_stand_there() {
    let scene = with_a_roster("id,phone_number\n1005,71005\n").await;
    let client = scene.admin();
    scene.agent_in("1005", "active").await;
    let (first, second) = ("/api/v1/agents/main/1005", "/api/v1/agents/main/1006");
    assert_eq!(client.get(first).await.json()["origin"], "configuration");
    assert_eq!(client.call("DELETE", first, "").await.status, 409);

    let file = scene.relay.folder().join("agents.csv");
    std::fs::write(&file, "id,phone_number\n1006,71006\n").expect("the folder can be written");
    let added = scene.agent_in("1006", "active").await;
    assert_eq!(added["origin"], "configuration");
    assert_eq!(client.call("DELETE", second, "").await.status, 409);
    eventually("an agent that is gone", DEADLINE, || async {
        (client.get(first).await.status == 404).then_some(())
    })
    .await;
    let body = json!({ "phone_number": "71005", "password_file": scene.password_file() }).to_string();
    let put = client.call("PUT", first, &body).await;
    assert_eq!((put.status, put.json()["origin"].as_str()), (201, Some("api")), "{put:?}");
    scene.agent_in("1005", "active").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_put_and_leaves_a_roster_is_the_callers_again() {
    let mut scene = with_a_roster("id,phone_number\n").await;
    let client = scene.admin();
    assert_eq!(client.call("PUT", AGENT, &settings(&scene).to_string()).await.status, 201);
    scene.agent_in("1004", "active").await;
    let file = scene.relay.folder().join("agents.csv");
    let origin = |wanted: &'static str| {
        let client = scene.admin();
        async move {
            eventually(wanted, DEADLINE, || async {
                (client.get(AGENT).await.json()["origin"] == wanted).then_some(())
            })
            .await;
        }
    };
    // Beside one who was never put.
    std::fs::write(&file, "id,phone_number\n1004,81004\n1005,71005\n").expect("it can be written");
    origin("configuration").await;
    scene.agent_in("1005", "active").await;
    std::fs::write(&file, "id,phone_number\n").expect("it can be written");
    eventually("an agent that is gone", DEADLINE, || async {
        (client.get("/api/v1/agents/main/1005").await.status == 404).then_some(())
    })
    .await;
    origin("api").await;
    scene.heartbeats("1004", 2).await;
    let counts = scene.simulator.counts(&agent("1004"));
    assert_eq!((counts.sign_ins, counts.signed_out(SignOut::Asked)), (1, 0), "its session went on");
    assert_eq!(client.call("DELETE", AGENT, "").await.status, 204, "the caller may change it");
    scene.relay.stop().await;
    scene.relay.start().await;
    // Where the stop came before its sign-out was answered, that is done first.
    eventually("an agent that was taken away", DEADLINE, || async {
        (client.get(AGENT).await.status == 404).then_some(())
    })
    .await;
    scene.end().await;
}
