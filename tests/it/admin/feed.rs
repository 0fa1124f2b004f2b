//! Events as they are stored, for people who watch.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::client::Client;
use super::scene::{ADMIN, READ, Scene, agent};
use crate::support::DEADLINE;
use crate::support::in_process::{TestRelay, good};

/// A reader of an answer that goes on.
pub(super) struct Reader {
    stream: TcpStream,
    head: String,
    raw: Vec<u8>,
    text: String,
}

impl Reader {
    /// Asks, and reads the head.
    pub(super) async fn open(address: SocketAddr, token: &str, path: &str) -> Reader {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        let request =
            format!("GET /api/v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut reader = Reader { stream, head: String::new(), raw: Vec::new(), text: String::new() };
        while reader.head.is_empty() {
            assert!(reader.more().await, "a head");
            if let Some(end) = reader.raw.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = reader.raw.drain(..end + 4).collect();
                reader.head = String::from_utf8(head).expect("text").to_lowercase();
            }
        }
        reader
    }

    pub(super) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let read = tokio::time::timeout(DEADLINE, self.stream.read(&mut buffer)).await.expect("in time");
        let read = read.expect("the connection lives");
        self.raw.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// Takes whole chunks out of what came.
    fn unchunk(&mut self) {
        while let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") {
            let size = std::str::from_utf8(&self.raw[..end]).expect("a size");
            let size = usize::from_str_radix(size, 16).expect("a size");
            if self.raw.len() < end + 2 + size + 2 {
                return;
            }
            let chunk: Vec<u8> = self.raw.drain(..end + 2 + size + 2).collect();
            self.text.push_str(std::str::from_utf8(&chunk[end + 2..end + 2 + size]).expect("text"));
        }
    }

    /// The next event that is no comment; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            self.unchunk();
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(name) = field("event: ") {
                    let data = field("data: ").expect("data");
                    return Some((name.to_owned(), serde_json::from_str(data).expect("JSON")));
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next CloudEvent.
    async fn event(&mut self) -> Value {
        loop {
            let (name, data) = self.next().await.expect("it goes on");
            if name == "event" {
                return data;
            }
        }
    }
}

async fn relay() -> TestRelay {
    TestRelay::with_operations(|folder| {
        use std::os::unix::fs::PermissionsExt;
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, format!("crm {ADMIN}\n")).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        format!("admin_tokens_file = '{}'\n", tokens.display())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_as_they_are_stored_and_nobody_can_be_known_by_them() {
    let scene = Scene::start().await;
    scene.agent_in("1001", "active").await;
    scene.agent_in("1002", "active").await;
    let address = scene.relay.operations();
    let mut all = Reader::open(address, READ, "events").await;
    assert!(all.head.contains("content-type: text/event-stream"), "{}", all.head);
    assert_eq!(all.next().await.expect("it begins").0, "begin");
    let mut calls = Reader::open(address, READ, "events?agent=1002&type=call.*").await;
    let mut nothing = Reader::open(address, READ, "events?agent=1003&gateway=main").await;
    for reader in [&mut calls, &mut nothing] {
        assert_eq!(reader.next().await.expect("it begins").0, "begin");
    }
    scene.simulator.ring(&agent("1001")).expect("it rings");
    let call = scene.simulator.ring(&agent("1002")).expect("it rings");

    let event = calls.event().await;
    assert_eq!(event["type"], "ccrelay.call.ringing");
    assert_eq!((&event["subject"], &event["specversion"]), (&Value::from("1002"), &Value::from("1.0")));
    assert_eq!(event["data"]["call"]["id"], call);
    assert_eq!(event["data"]["call"]["caller"], "***", "{event}");
    assert_eq!(event["data"]["raw"]["withheld"], true);
    assert!(event["data"]["raw"].get("content").is_none(), "{event}");
    // Whoever wants all of them gets both agents'.
    let mut seen = Vec::new();
    while !(seen.contains(&"1001".to_owned()) && seen.contains(&"1002".to_owned())) {
        seen.push(all.event().await["subject"].as_str().expect("an agent").to_owned());
    }
    drop(nothing);

    let client = scene.client(Some(READ));
    for wrong in ["?type=nothing", "?gateway=other", "?colour=red", "?agent=1&agent=2"] {
        assert_eq!(client.get(&format!("/api/v1/events{wrong}")).await.status, 400, "{wrong}");
    }
    for token in [None, Some("wrong-token-canary-0123456789")] {
        assert_eq!(scene.client(token).get("/api/v1/events").await.status, 401);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
    // More than the sockets between them hold.
    const PUSHES: u64 = 1_200;
    const EVENTS: u64 = 40;
    let relay = relay().await;
    let mut reader = Reader::open(relay.operations, ADMIN, "events?agent=1001").await;
    let one: Value = serde_json::from_str(&good("1001")).expect("JSON");
    let events = vec![one["eventList"][0].clone(); EVENTS as usize];
    assert!(events[0].is_object(), "{one}");
    let body = serde_json::json!({ "workNo": "1001", "eventList": events }).to_string();
    for _ in 0..PUSHES {
        assert_eq!(relay.push("1001", &body).await.retcode(), "0");
    }
    let (mut shown, mut skipped) = (0, 0);
    while shown + skipped * EVENTS < PUSHES * EVENTS {
        let (name, data) = reader.next().await.expect("it goes on");
        match name.as_str() {
            "event" => shown += 1,
            "skipped" => skipped += data["records"].as_u64().expect("a number"),
            _ => assert_eq!(name, "begin"),
        }
    }
    assert_eq!(shown + skipped * EVENTS, PUSHES * EVENTS, "{shown} events shown, {skipped} records skipped");
    assert!(shown > 0 && skipped > 0, "{shown} events shown, {skipped} records skipped");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_have_places_and_leave_them() {
    const PLACES: usize = 16;
    let relay = relay().await;
    let client = Client { address: relay.operations, token: Some(ADMIN.to_owned()) };
    let mut readers = Vec::new();
    for _ in 0..PLACES {
        let mut reader = Reader::open(relay.operations, ADMIN, "events").await;
        assert_eq!(reader.next().await.expect("it begins").0, "begin");
        readers.push(reader);
    }
    let refused = client.get("/api/v1/events").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_readers"));
    // The rest of the listener goes on, and so do pages for everybody.
    assert_eq!(client.get("/api/v1/sinks").await.status, 200);
    readers.pop();
    crate::support::eventually("a free place", DEADLINE, || async {
        let reader = Reader::open(relay.operations, ADMIN, "events").await;
        (reader.status() == 200).then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_goes_on_ends_with_its_token_and_with_the_daemon() {
    let mut scene = Scene::start().await;
    let address = scene.relay.operations();
    let mut reader = Reader::open(address, READ, "events?agent=1009").await;
    let mut admin = Reader::open(address, ADMIN, "events?agent=1009").await;
    let mut gone = Reader::open(address, ADMIN, "events?agent=1009").await;
    assert_eq!(gone.next().await.expect("it begins").0, "begin");
    drop(gone);
    assert_eq!(reader.next().await.expect("it begins").0, "begin");
    assert_eq!(admin.next().await.expect("it begins").0, "begin");
    let file = scene.relay.folder().join("tokens");
    std::fs::write(&file, format!("admin crm {ADMIN}\n")).expect("the folder can be written");
    assert_eq!(
        reader.next().await.expect("a reason"),
        ("end".into(), serde_json::json!({ "reason": "unauthorised" }))
    );
    assert_eq!(reader.next().await, None);
    assert_eq!(scene.relay.stop().await, 0);
    assert_eq!(
        admin.next().await.expect("a reason"),
        ("end".into(), serde_json::json!({ "reason": "stopping" }))
    );
    assert_eq!(admin.next().await, None);
    let log = scene.relay.log();
    assert!(!log.contains("a connection came to nothing"), "a reader that leaves is no fault:\n{log}");
}

/// The program, following a scene.
fn tail(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccrelay"));
    let tokens = scene.relay.folder().join("tokens");
    command
        .arg("tail")
        .args(arguments)
        .args(["--url", &format!("http://{}", scene.relay.operations())])
        .arg("--token-file")
        .arg(tokens)
        .kill_on_drop(true)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_events_and_finds_a_daemon_that_was_restarted() {
    let mut scene = Scene::start().await;
    scene.agent_in("1001", "active").await;
    let mut child = tail(&scene, &["--agent", "1001", "--type", "call.ringing", "--limit", "2"])
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    // When the program listens cannot be seen from here, so it rings until it is heard.
    let mut line = None;
    for _ in 0..600 {
        scene.simulator.ring(&agent("1001")).expect("it rings");
        match tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await {
            Ok(read) => {
                line = read.expect("text");
                break;
            }
            Err(_) => continue,
        }
    }
    let line = line.expect("a line");
    assert!(line.contains("1001") && line.contains("call.ringing") && line.contains("***"), "{line}");
    scene.relay.stop().await;
    scene.relay.start().await;
    scene.agent_in("1001", "active").await;
    let mut ended = None;
    for _ in 0..600 {
        scene.simulator.ring(&agent("1001")).expect("it rings");
        if let Ok(status) = tokio::time::timeout(Duration::from_millis(200), child.wait()).await {
            ended = Some(status.expect("a status"));
            break;
        }
    }
    assert_eq!(ended.expect("it ends at its limit").code(), Some(0));

    let wait = tail(&scene, &["--json", "--limit", "1"]).output();
    let ring = async {
        loop {
            scene.simulator.ring(&agent("1001")).expect("it rings");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let output = tokio::select! { output = wait => output.expect("it ran"), () = ring => unreachable!() };
    let event: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(event["specversion"], "1.0");

    let refused = tail(&scene, &["--type", "nothing"]).output().await.expect("it ran");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad_request"), "{refused:?}");
    let nobody = tail(&scene, &["--url", "http://127.0.0.1:1"]).output().await.expect("it ran");
    assert_eq!(nobody.status.code(), Some(64), "an option that stands there twice");
    scene.end().await;
}
