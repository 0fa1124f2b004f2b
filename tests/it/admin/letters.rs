//! Dead letters by API, of a relay in this process: its spool is told which events to set aside.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ccrelay::clock::Timestamp;
use ccrelay::spool::DeadLetter;
use serde_json::Value;
use tokio::process::Command;

use super::client::Client;
use super::scene::{ADMIN, READ};
use crate::support::in_process::{TestRelay, good};
use crate::support::{DEADLINE, eventually};

const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

/// A relay with the sink `file`, and a second one that never gets anywhere, so that records stay.
async fn relay_with(letters: u64) -> (TestRelay, Client) {
    let relay = TestRelay::with_operations(|folder| {
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, format!("crm {ADMIN}\n")).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        format!(
            "admin_tokens_file = '{}'\n[sinks.stuck.mqtt]\nurl = 'mqtt://127.0.0.1:1'\n",
            tokens.display()
        )
    })
    .await;
    for n in 0..letters {
        let offset = relay.stored();
        let answer = relay.push("1001", good("1001")).await;
        assert_eq!(answer.retcode(), "0");
        let letter = DeadLetter {
            sink: "file".to_owned(),
            spool_offset: offset,
            event_id: format!("{}-{offset}-0", relay.spool().id()),
            topic: "ccrelay.events".to_owned(),
            reason: if n % 2 == 0 { "too_large" } else { "topic" }.to_owned(),
            detail: "a test said so".to_owned(),
            at: Timestamp(1_784_529_722_590),
            attempts: 1,
        };
        relay.spool().dead_letter(letter).await.expect("it is set aside");
    }
    let client = Client { address: relay.operations, token: Some(ADMIN.to_owned()) };
    (relay, client)
}

async fn ids(client: &Client, query: &str) -> (Vec<u64>, Option<String>) {
    let page = client.get(&format!("/api/v1/dead-letters{query}")).await.json();
    let letters = page["dead_letters"].as_array().expect("a list").iter();
    (letters.map(|l| l["id"].as_u64().expect("a number")).collect(), page["next"].as_str().map(str::to_owned))
}

/// The command of the runbook that begins so, with names of this relay in the place of the runbook's.
fn of_runbook(relay: &TestRelay, beginning: &str) -> String {
    let code = RUNBOOK.split('`').skip(1).step_by(2);
    let mut found = code.filter(|code| code.starts_with(beginning));
    let mut command = found.next().unwrap_or_else(|| panic!("no command begins with {beginning}")).to_owned();
    let config = relay.folder().join("config.toml").display().to_string();
    let header = relay.folder().join("header");
    std::fs::write(&header, format!("Authorization: Bearer {ADMIN}\n")).expect("the folder can be written");
    for (name, value) in [
        ("127.0.0.1:9464", relay.operations.to_string()),
        ("/etc/ccrelay/config.toml", config),
        ("HEADER", header.display().to_string()),
        ("SINK", "file".to_owned()),
    ] {
        command = command.replace(name, &value);
    }
    command
}

/// Runs a command in an empty folder, as whoever is woken may be in any; gives whether it succeeded and what it said.
async fn shell(command: &str) -> (bool, String) {
    let folder = tempfile::TempDir::new().expect("a folder");
    let program = Path::new(env!("CARGO_BIN_EXE_ccrelay")).parent().expect("a folder").display();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new("sh").args(["-c", command]).current_dir(folder.path()).env("PATH", path).output();
    let output = output.await.expect("sh starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_runbook_work_as_they_stand() {
    let (relay, client) = relay_with(3).await;
    let list = of_runbook(&relay, "ccrelay deadletters list");
    let (done, said) = shell(&list).await;
    assert!(done && said.lines().count() == 3, "{list}: {said}");
    let replay = of_runbook(&relay, "curl -X POST");
    let (done, said) = shell(&replay).await;
    assert!(done && said.contains(r#"{"replaying":3}"#), "{replay}: {said}");
    eventually("no letters", DEADLINE, || async { ids(&client, "").await.0.is_empty().then_some(()) }).await;
    let discard = replay.replace("/replay?", "/discard?").replace("sink=file", "all=true");
    let (done, said) = shell(&discard).await;
    assert!(done && said.contains(r#"{"discarded":0}"#), "{discard}: {said}");

    // These are for a daemon that has ended.
    let (offline, repair) =
        (of_runbook(&relay, "ccrelay deadletters replay"), of_runbook(&relay, "ccrelay spool repair"));
    let (done, said) = shell(&offline).await;
    assert!(!done && said.contains("daemon has this spool"), "{offline}: {said}");
    let folder = relay.stop_and_keep().await;
    for (command, result) in [(&offline, "0 dead letters will be delivered"), (&repair, "nothing is damaged")]
    {
        let (done, said) = shell(command).await;
        assert!(done && said.contains(result), "{command}: {said}");
    }
    drop(folder);
}

/// Sets an event aside, or with an empty id the whole record.
async fn set_aside(relay: &TestRelay, sink: &str, offset: u64, event_id: &str) {
    let letter = DeadLetter {
        sink: sink.to_owned(),
        spool_offset: offset,
        event_id: event_id.to_owned(),
        topic: "t".to_owned(),
        reason: "too_large".to_owned(),
        detail: String::new(),
        at: Timestamp(1_784_529_722_590),
        attempts: 1,
    };
    relay.spool().dead_letter(letter).await.expect("it is set aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_from_a_sink_is_hidden_in_its_dead_letters_too() {
    let relay = TestRelay::with_operations(|folder| {
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, format!("crm {ADMIN}\n")).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        format!(
            "admin_tokens_file = '{}'\n[sinks.stuck]\nmask = ['call.caller:last4']\n[sinks.stuck.mqtt]\nurl = 'mqtt://127.0.0.1:1'\n",
            tokens.display()
        )
    })
    .await;
    let body = r#"{"workNo":"1001","eventList":[{"eventType":"AgentEvent_Ringing","workNo":"1001",
        "content":{"callid":"1-2","caller":"+4930123456"}}]}"#;
    let offset = relay.stored();
    assert_eq!(relay.push("1001", body).await.retcode(), "0");
    let id = format!("{}-{offset}-0", relay.spool().id());
    // One whole record, of which nobody knows what is in it; and one of a sink that is not there any more.
    for (sink, event_id) in [("stuck", id.as_str()), ("stuck", ""), ("gone", &id), ("file", &id)] {
        set_aside(&relay, sink, offset, event_id).await;
    }
    let client = Client { address: relay.operations, token: Some(ADMIN.to_owned()) };
    let mut texts = vec![client.get("/api/v1/dead-letters/export?limit=3").await.text];
    for letter in 1..=3 {
        texts.push(client.get(&format!("/api/v1/dead-letters/{letter}")).await.text);
    }
    for text in &texts {
        assert!(text.contains("AgentEvent_Ringing") && !text.contains("0123456"), "{text}");
    }
    assert!(texts[0].contains("***3456"), "{}", texts[0]);
    let of_file = client.get("/api/v1/dead-letters/4").await.json();
    assert_eq!(of_file["events"][0]["data"]["call"]["caller"], "+4930123456", "this sink hides nothing");
    assert_eq!(of_file["record"]["body"]["workNo"], "1001");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_sees_nobodys_number_or_words_in_dead_letters() {
    let relay = TestRelay::with_operations(|folder| {
        let tokens = folder.join("tokens");
        let lines = format!("admin crm {ADMIN}\nread grafana {READ}\n");
        std::fs::write(&tokens, lines).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        format!("admin_tokens_file = '{}'\n", tokens.display())
    })
    .await;
    let body = r#"{"workNo":"1001","eventList":[{"eventType":"AgentEvent_Ringing","workNo":"1001",
        "content":{"callid":"1-2","caller":"+4930123456"}},
        {"eventType":"Brand_New","workNo":"1001","content":{"chat":"canary of a chat"}}]}"#;
    let offset = relay.stored();
    assert_eq!(relay.push("1001", body).await.retcode(), "0");
    for (sink, index) in [("file", "-0"), ("file", "-1"), ("file", ""), ("gone", "-0")] {
        let event_id =
            if index.is_empty() { String::new() } else { format!("{}-{offset}{index}", relay.spool().id()) };
        set_aside(&relay, sink, offset, &event_id).await;
    }
    let client = |token: &str| Client { address: relay.operations, token: Some(token.to_owned()) };
    let paths = ["", "/export", "/1", "/2", "/3", "/4"].map(|path| format!("/api/v1/dead-letters{path}"));
    for path in &paths {
        let reply = client(READ).get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        let text = reply.text;
        assert!(!text.contains("0123456") && !text.contains("canary of a chat"), "{path}: {text}");
    }
    let seen = client(READ).get(&paths[2]).await.json();
    assert_eq!(seen["events"][0]["data"]["call"]["id"], "1-2", "what names nobody is there");
    let all = client(ADMIN).get(&paths[1]).await.text;
    assert!(all.contains("+4930123456") && all.contains("canary of a chat"), "{all}");
    let whole = client(ADMIN).get(&paths[4]).await.json();
    assert_eq!(whole["record"]["body"]["workNo"], "1001");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_exported() {
    let (relay, client) = relay_with(4).await;
    assert_eq!(ids(&client, "").await, (vec![1, 2, 3, 4], None));
    assert_eq!(ids(&client, "?reason=topic&sink=file").await, (vec![2, 4], None));
    assert_eq!(ids(&client, "?sink=stuck").await, (vec![], None));
    assert_eq!(ids(&client, "?since=2100-01-01T00:00:00Z").await, (vec![], None));
    assert_eq!(ids(&client, "?limit=3").await, (vec![1, 2, 3], Some("3".to_owned())));
    assert_eq!(ids(&client, "?limit=3&after=3").await, (vec![4], None));
    assert_eq!(client.get("/api/v1/dead-letters?since=yesterday").await.status, 400);

    let shown = client.get("/api/v1/dead-letters/2").await.json();
    assert_eq!(shown["deadLetter"]["reason"], "topic");
    assert_eq!(shown["record"]["body"]["workNo"], "1001");
    assert_eq!(shown["events"][0]["id"], shown["deadLetter"]["eventId"]);
    for none in ["77", "9223372036854775808", "18446744073709551615", "18446744073709551616"] {
        assert_eq!(client.get(&format!("/api/v1/dead-letters/{none}")).await.status, 404, "{none}");
        assert_eq!(client.post(&format!("/api/v1/dead-letters/{none}/replay")).await.status, 404, "{none}");
        let discarded = client.call("DELETE", &format!("/api/v1/dead-letters/{none}"), "").await;
        assert_eq!(discarded.status, 404, "{none}");
    }
    assert_eq!(ids(&client, "?after=18446744073709551615").await, (vec![], None));
    assert_eq!(client.get("/api/v1/dead-letters?after=18446744073709551616").await.status, 400);
    assert_eq!(client.get("/api/v1/dead-letters/x").await.status, 404);

    let export = client.get("/api/v1/dead-letters/export?limit=3").await;
    assert!(export.has("ccrelay-next: 3"), "{export:?}");
    let lines: Vec<Value> = export.text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["event"]["id"] == line["deadLetter"]["eventId"]));
    let rest = client.get("/api/v1/dead-letters/export?after=3").await;
    assert!(rest.text.lines().count() == 1 && !rest.head.contains("ccrelay-next"), "{rest:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_delivered_again_or_discarded_when_the_api_is_told_which() {
    let (relay, client) = relay_with(4).await;
    for action in ["replay", "discard"] {
        for query in ["", "?all=yes", "?all=true&sink=file", "?id=1"] {
            let path = format!("/api/v1/dead-letters/{action}{query}");
            assert_eq!(client.post(&path).await.status, 400, "{path}");
        }
    }
    let published = |id: &str| relay.published().iter().filter(|event| event["id"] == id).count();
    let first = client.get("/api/v1/dead-letters/1").await.json();
    let id = first["deadLetter"]["eventId"].as_str().expect("an id").to_owned();
    eventually("the first delivery", DEADLINE, || async { (published(&id) == 1).then_some(()) }).await;

    let reply = client.post("/api/v1/dead-letters/1/replay").await;
    assert_eq!((reply.status, reply.json()["replaying"].as_u64()), (202, Some(1)));
    eventually("the letter's delivery", DEADLINE, || async {
        (published(&id) == 2 && ids(&client, "").await.0 == [2, 3, 4]).then_some(())
    })
    .await;
    assert_eq!(client.post("/api/v1/dead-letters/1/replay").await.status, 404);

    assert_eq!(client.call("DELETE", "/api/v1/dead-letters/2", "").await.status, 204);
    assert_eq!(client.call("DELETE", "/api/v1/dead-letters/2", "").await.status, 404);
    let reply = client.post("/api/v1/dead-letters/discard?reason=too_large").await;
    assert_eq!(reply.json()["discarded"], 1);
    assert_eq!(ids(&client, "").await.0, [4]);
    let reply = client.post("/api/v1/dead-letters/replay?all=true").await;
    assert_eq!(reply.json()["replaying"], 1);
    eventually("an end of dead letters", DEADLINE, || async {
        ids(&client, "").await.0.is_empty().then_some(())
    })
    .await;
    relay.stop().await;
}
