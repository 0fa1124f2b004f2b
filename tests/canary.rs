//! No secret leaves: the real binary goes through all it does with secrets, well and badly, at log level trace, and then
//! everything it said is searched for every one of them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ccrelay::clock::{Clock, Timestamp};
use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};
use nix::sys::signal::Signal;
use serde_json::Value;

#[expect(dead_code, reason = "a tool box of another test")]
#[path = "it/admin/client.rs"]
mod client;
#[path = "it/support/mod.rs"]
mod support;

use client::{Client, over_tls};
use support::collector::Collector;
use support::in_process::token_of;
use support::mosquitto::Mosquitto;
use support::relay::{Relay, Wiring, binary};
use support::{DEADLINE, eventually, free_port};

const PASSWORD: &str = "CanaryAgentPassword1";
const WRONG_PASSWORD: &str = "CanaryWrongPassword2";
const PUT_PASSWORD: &str = "CanaryPutPassword3";
const ADMIN: &str = "CanaryAdminToken4-0123456789";
const READ: &str = "CanaryReadToken5-0123456789";
const WRONG_ADMIN: &str = "CanaryWrongAdmin6-0123456789";
const WRONG_PUSH: &str = "CanaryWrongPushToken7";
const KAFKA_PASSWORD: &str = "CanaryKafkaPassword8";
const MQTT_PASSWORD: &str = "CanaryMqttPassword9";
const SECRET: &str = "CanaryTokenSecret10-0123456789abcdef";
const OLD_SECRET: &str = "CanaryOldTokenSecret11-0123456789abcdef";
const SHORT_SECRET: &str = "CanaryShortSecret12";
const MASK_SECRET: &str = "CanaryMaskSecret13-0123456789abcdef";
const BAD_TOKEN_LINE: &str = "CanaryBadTokenLine14";
const BAD_KEY: &str = "CanaryBrokenPrivateKey15";
const OPTION: &str = "CanaryKafkaOption16";
const ADOPTED_GUID: &str = "CanaryAdoptedGuid17.node-1";
const ADOPTED_TOKEN: &str = "CanaryAdoptedToken18";
const ADOPTED_COOKIE: &str = "CanaryAdoptedCookie19";
const IN_TOML: &str = "CanaryInTheConfiguration20";
const TRACES_HEADER: &str = "CanaryTracesHeader21";
const BAD_TRACES_HEADER: &str = "CanaryBadTracesHeader22";
/// All that are written here; GUIDs, cookies, keys and tokens come besides.
const WRITTEN: &[&str] = &[
    PASSWORD,
    WRONG_PASSWORD,
    PUT_PASSWORD,
    ADMIN,
    READ,
    WRONG_ADMIN,
    WRONG_PUSH,
    KAFKA_PASSWORD,
    MQTT_PASSWORD,
    SECRET,
    OLD_SECRET,
    SHORT_SECRET,
    MASK_SECRET,
    BAD_TOKEN_LINE,
    BAD_KEY,
    OPTION,
    ADOPTED_GUID,
    ADOPTED_TOKEN,
    ADOPTED_COOKIE,
    IN_TOML,
    TRACES_HEADER,
    BAD_TRACES_HEADER,
];
const AGENTS: std::ops::RangeInclusive<u32> = 1001..=1003;

struct Scene {
    relay: Relay,
    collector: Collector,
    simulator: Simulator,
    /// What was said, by whom.
    said: Vec<(String, String)>,
    /// GUIDs and cookies that the API gave away, as it may.
    given_away: Vec<String>,
}

impl Scene {
    async fn start(open: &Mosquitto, closed: &Mosquitto) -> Scene {
        let mut relay = Relay::prepare();
        let mut settings = Settings::local();
        settings.guid_interval_ms = 1_000;
        settings.guid_timeout_ms = 60_000;
        settings.handshake_max_time_ms = 60_000;
        settings.push_fail_interval_ms = 500;
        settings.push_fail_total_ms = 60_000;
        settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
        settings.agents = vec![Agents::range(1001, 1009, PASSWORD)];
        settings.cookies = true;
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        let at = relay.folder().display().to_string();
        for (name, text) in [
            ("wrong.password", WRONG_PASSWORD),
            ("kafka.password", KAFKA_PASSWORD),
            ("mqtt.password", MQTT_PASSWORD),
            ("token.secret", SECRET),
            ("old.secret", OLD_SECRET),
            ("mask.secret", MASK_SECRET),
            ("traces.headers", &format!("authorization: Bearer {TRACES_HEADER}")),
            ("tokens", &format!("admin crm {ADMIN}\nread:grafana:{READ}\n")),
        ] {
            write(relay.folder(), name, text);
        }
        let collector = Collector::start().await;
        let mqtt = format!("username = \"ccrelay\"\npassword_file = \"{at}/mqtt.password\"");
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url(),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: AGENTS,
            password: PASSWORD,
            tables: &format!(
                "[masking]\nsecret_file = \"{at}/mask.secret\"\n\
                 [traces]\nendpoint = \"{}\"\nheaders_file = \"{at}/traces.headers\"\n\
                 [sinks.file]\nmask = [\"numbers\"]\n[sinks.file.jsonl]\npath = \"{at}/events.jsonl\"\n\
                 [sinks.bus]\ntopic = \"events\"\n\
                 [sinks.bus.kafka]\nbootstrap_servers = \"127.0.0.1:{kafka}\"\n\
                 [sinks.bus.kafka.security]\nprotocol = \"sasl_plaintext\"\nusername = \"ccrelay\"\n\
                 password_file = \"{at}/kafka.password\"\n[sinks.bus.kafka.options]\ndebug = \"all\"\n\
                 [sinks.open]\ntopic = \"events\"\n[sinks.open.mqtt]\nurl = \"{}\"\nmax_packet_bytes = 300\n{mqtt}\n\
                 [sinks.closed]\ntopic = \"events\"\n[sinks.closed.mqtt]\nurl = \"{}\"\nclient_id = \"two\"\n{mqtt}\n\
                 [[agents]]\ngateway = \"main\"\nid = \"1004\"\npassword_file = \"{at}/wrong.password\"\n\
                 phone_number = \"71004\"\n",
                collector.url("http"),
                open.url(),
                closed.url(),
                kafka = free_port(),
            ),
        });
        let secrets =
            format!("secret_file = \"{at}/token.secret\"\nprevious_secret_file = \"{at}/old.secret\"\n");
        relay.edit("[token]\n", &format!("[token]\n{secrets}"));
        relay.edit("[operations]\n", &format!("[operations]\nadmin_tokens_file = \"{at}/tokens\"\n"));
        relay.wrapper = ["env", "CCRELAY_LOG=trace"].map(str::to_owned).to_vec();
        relay.start().await;
        let all = AGENTS.count();
        assert!(simulator.wait_for(DEADLINE, |s| s.signed_in >= all).await, "{}", relay.log());
        Scene { relay, collector, simulator, said: Vec::new(), given_away: Vec::new() }
    }

    fn hear(&mut self, who: impl Into<String>, said: impl Into<String>) {
        self.said.push((who.into(), said.into()));
    }

    /// A call of the API, with a bearer token or whatever else stands in the header lines.
    async fn call(&mut self, token: Option<&str>, method: &str, path: &str, body: &str) -> client::Reply {
        let client = Client { address: self.relay.operations(), token: token.map(str::to_owned) };
        let reply = client.send(method, path, body).await;
        self.hear(format!("the API: {method} {path}"), format!("{}\n{}", reply.raw_head, reply.text));
        reply
    }

    /// A push with these header lines, to this path.
    async fn push(&mut self, path: &str, headers: &str, body: &str) -> u16 {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        let address = ([127, 0, 0, 1], self.relay.callback_port()).into();
        let reply = over_tls(address, &self.relay.ca_pem(), &request).await;
        self.hear(format!("the answer to a push to {path}"), format!("{}\n{}", reply.raw_head, reply.text));
        reply.status
    }

    /// What the program says with these arguments, here.
    fn program(&mut self, arguments: &[&str]) -> bool {
        let output = Command::new(binary())
            .args(arguments)
            .current_dir(self.relay.folder())
            .env("CCRELAY_ADMIN_URL", format!("http://{}", self.relay.operations()))
            .env("CCRELAY_ADMIN_TOKEN_FILE", "tokens")
            .output()
            .expect("the binary starts");
        let said = [output.stdout, output.stderr].concat();
        self.hear(format!("ccrelay {}", arguments.join(" ")), String::from_utf8_lossy(&said));
        output.status.success()
    }

    /// Takes the secrets of sessions, from where they may be had.
    async fn take_guids(&mut self) {
        for agent in AGENTS {
            let client = Client { address: self.relay.operations(), token: Some(ADMIN.to_owned()) };
            let reply = client.send("GET", &format!("/api/v1/agents/main/{agent}/guid"), "").await;
            let Ok(given) = serde_json::from_str::<Value>(&reply.text) else { continue };
            let cookies = given["cookies"].as_array().into_iter().flatten();
            let values = cookies.map(|cookie| &cookie["value"]).chain([&given["guid"]]);
            self.given_away.extend(values.filter_map(|value| value.as_str().map(str::to_owned)));
        }
    }

    /// Waits until a reload is refused once more.
    async fn refused_reload(&mut self) {
        let series = "ccrelay_reloads_total{outcome=\"refused\"}";
        let before = self.relay.metric(series).await;
        self.call(Some(ADMIN), "POST", "/api/v1/reload", "").await;
        let probe = self.relay.probe();
        eventually("a refused reload", DEADLINE, || async {
            (probe.metric(series).await? > before).then_some(())
        })
        .await;
    }

    /// Writes a file that is wrong, has it read, and puts the right one back.
    async fn with_wrong_file(&mut self, name: &str, text: &str) {
        let path = self.relay.folder().join(name);
        let good = std::fs::read_to_string(&path).expect("it is there");
        write(self.relay.folder(), name, text);
        self.program(&["check", "--config", "config.toml"]);
        self.refused_reload().await;
        write(self.relay.folder(), name, &good);
    }

    /// Every secret of this scene with where it comes from.
    fn secrets(&self, began: Timestamp) -> BTreeMap<String, String> {
        let mut secrets: BTreeMap<String, String> =
            WRITTEN.iter().map(|secret| ((*secret).to_owned(), "the test".to_owned())).collect();
        let mut add = |secret: &str, whence: &str| secrets.insert(secret.to_owned(), whence.to_owned());
        for given in &self.given_away {
            add(given, "a session");
        }
        for name in ["key.pem"] {
            let text = std::fs::read_to_string(self.relay.folder().join(name)).expect("it is there");
            for line in text.lines().filter(|line| !line.starts_with('-') && line.len() > 20) {
                add(line, name);
            }
        }
        // Tokens are made once a second here, of the secret, the agent and the second.
        let now = Clock::system().now();
        let seconds = now.since(began).as_secs() + 2;
        for second in 0..seconds {
            let clock = Clock::manual(began.plus(Duration::from_secs(second)));
            for agent in 1001..=1005 {
                add(&token_of(SECRET, "main", &agent.to_string(), clock.clone()), "a callback token");
            }
        }
        secrets
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

/// Which of the secrets were said, and where.
fn found(secrets: &BTreeMap<String, String>, said: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (who, text) in said {
        for (secret, whence) in secrets.iter().filter(|(secret, _)| text.contains(secret.as_str())) {
            let at = text.find(secret.as_str()).unwrap_or_default();
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let line: String = text[line..].lines().next().unwrap_or_default().chars().take(400).collect();
            found.push(format!("{secret} of {whence} was said by {who}: {line}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_was_said() {
    let began = Clock::system().now();
    let open = Mosquitto::start().await;
    let closed = Mosquitto::start_with("allow_anonymous false\n").await;
    let mut scene = Scene::start(&open, &closed).await;
    scene.simulator.play(10.0);

    good_and_bad_pushes(&mut scene).await;
    calls_of_the_api(&mut scene).await;
    reloads(&mut scene).await;
    scene.take_guids().await;
    // A session that ends, and GUIDs that change.
    scene.simulator.force_out(&AgentId::parse("1003").expect("an id")).expect("it is signed in");
    let changed = scene.relay.metric("ccrelay_guid_changes_total").await;
    let probe = scene.relay.probe();
    eventually("new GUIDs", DEADLINE, || async {
        (probe.metric("ccrelay_guid_changes_total").await? >= changed + 3.0).then_some(())
    })
    .await;
    scene.take_guids().await;
    for reason in [
        "ccrelay_dead_letters{sink=\"open\"}",
        "ccrelay_sink_failures_total{reason=\"not_authorised\",sink=\"closed\"}",
        "ccrelay_sign_ins_total{gateway=\"main\",outcome=\"suspended\"}",
    ] {
        eventually(reason, DEADLINE, || async { (probe.metric(reason).await? > 0.0).then_some(()) }).await;
    }
    scene.simulator.stop_playing();

    let pid = scene.relay.running().pid();
    for file in ["cmdline", "environ", "comm"] {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).expect("the process runs");
        scene.hear(format!("/proc: {file}"), String::from_utf8_lossy(&text));
    }
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["sinks"],
        &["agents", "list"],
        &["agents", "show", "main", "1001"],
        &["spool", "stat"],
        &["spool", "dump"],
        &["deadletters", "list"],
        &["deadletters", "export"],
        &["deadletters", "show", "1"],
        &["check", "--config", "config.toml"],
    ] {
        scene.program(command);
    }
    assert_eq!(scene.relay.stop().await, 0);
    let log = scene.relay.log();
    let events = std::fs::read_to_string(scene.relay.folder().join("events.jsonl")).expect("events");
    assert!(events.lines().count() > 20 && log.lines().count() > 1000, "too little happened");
    scene.hear("the log", log);
    scene.hear("events", events);
    // Its headers hold one, which is where that belongs.
    let (heads, spans) = (scene.collector.heads(), scene.collector.bodies().concat());
    assert!(
        heads.iter().any(|head| head.contains(TRACES_HEADER)) && spans.contains("spool append"),
        "{heads:?}"
    );
    scene.hear("spans", spans);

    let secrets = scene.secrets(began);
    assert!(scene.given_away.len() > 10, "GUIDs and cookies were seen: {}", scene.given_away.len());
    assert!(secrets.len() > WRITTEN.len() + 20, "{secrets:?}");
    let found = found(&secrets, &scene.said);
    assert!(found.is_empty(), "{} times a secret was said:\n{}", found.len(), found.join("\n"));
    the_log_is_json_with_request_ids(&scene);
}

/// A token in each of its places; what is wrong with it differs.
async fn good_and_bad_pushes(scene: &mut Scene) {
    let push = "/push/main";
    let body =
        r#"{"workNo":"1001","eventList":[{"eventType":"AgentState_Ready","workNo":"1001","content":null}]}"#;
    let clock = Clock::system;
    let good = token_of(SECRET, "main", "1001", clock());
    let old = Clock::manual(Timestamp(clock().now().millis() - 100_000_000));
    let expired = token_of(SECRET, "main", "1001", old);
    let forged = token_of(OLD_SECRET, "other", "1001", clock());
    let header = |token: &str| format!("service_token: {token}\r\n");
    assert_eq!(scene.push(push, &header(&good), body).await, 200);
    assert_eq!(scene.push(&format!("{push}?token={good}"), "", body).await, 200);
    for (path, headers) in [
        (push.to_owned(), header(WRONG_PUSH)),
        (push.to_owned(), header(&expired)),
        (push.to_owned(), header(&forged)),
        (push.to_owned(), header(&good) + &header(WRONG_PUSH)),
        (push.to_owned(), header(&WRONG_PUSH.repeat(50))),
        (format!("{push}?token={WRONG_PUSH}"), String::new()),
        (push.to_owned(), format!("authorization: Bearer {WRONG_PUSH}\r\n")),
    ] {
        assert_eq!(scene.push(&path, &headers, body).await, 401, "{path}");
    }
    assert_eq!(scene.push(&format!("/{WRONG_PUSH}"), &header(&good), body).await, 404);
    assert_eq!(scene.push(push, &header(&good), "this is no JSON").await, 400);
    let other = token_of(SECRET, "main", "1002", clock());
    assert_eq!(scene.push(push, &header(&other), body).await, 403);
}

async fn calls_of_the_api(scene: &mut Scene) {
    let api = |path: &str| format!("/api/v1{path}");
    for token in [None, Some(READ), Some(ADMIN), Some(WRONG_ADMIN), Some("x\", realm=\"y")] {
        for path in
            ["/status", "/sinks", "/agents", "/agents/main/1001", "/dead-letters", "/dead-letters/export"]
        {
            scene.call(token, "GET", &api(path), "").await;
        }
        if token != Some(ADMIN) {
            scene.call(token, "GET", &api("/agents/main/1001/guid"), "").await;
            scene.call(token, "POST", &api("/reload"), "").await;
        }
    }
    for path in ["/metrics", "/live", "/ready", "/nowhere"] {
        scene.call(None, "GET", path, "").await;
    }
    let agent = api("/agents/main/1005");
    for body in [
        format!(r#"{{"phone_number":"71005","password":"{PUT_PASSWORD}"}}"#),
        format!(r#"{{"phone_number":"71005","password":"{PUT_PASSWORD}","takeover":"{PUT_PASSWORD}"}}"#),
        format!(r#"{{"phone_number":"71005","password":["{PUT_PASSWORD}"]}}"#),
        format!(r#"{{"phone_number":"71005","secret":"{PUT_PASSWORD}"}}"#),
        format!(r#"{{"phone_number":"71005","password":"{PUT_PASSWORD}"#),
    ] {
        scene.call(Some(ADMIN), "PUT", &agent, &body).await;
    }
    let adopt = api("/agents/main/1005/adopt");
    let cookie = format!(r#"{{"name":"route","value":"{ADOPTED_COOKIE}"}}"#);
    for body in [
        format!(r#"{{"guid":"{ADOPTED_GUID}","token":"{ADOPTED_TOKEN}","cookies":[{cookie}]}}"#),
        format!(r#"{{"guid":["{ADOPTED_GUID}"],"token":"{ADOPTED_TOKEN}"}}"#),
        format!(r#"{{"guid":"{ADOPTED_GUID}","tokens":"{ADOPTED_TOKEN}"}}"#),
        format!(r#"{{"guid":"{ADOPTED_GUID}","token":"{ADOPTED_TOKEN}","cookies":["{ADOPTED_COOKIE}"]}}"#),
    ] {
        scene.call(Some(ADMIN), "POST", &adopt, &body).await;
    }
}

async fn reloads(scene: &mut Scene) {
    scene.with_wrong_file("token.secret", SHORT_SECRET).await;
    scene
        .with_wrong_file(
            "key.pem",
            &format!("-----BEGIN PRIVATE KEY-----\n{BAD_KEY}\n-----END PRIVATE KEY-----\n"),
        )
        .await;
    let good = std::fs::read_to_string(scene.relay.folder().join("config.toml")).expect("it is there");
    for bad in [
        format!("{good}\npassword = \"{IN_TOML}\"\n"),
        good.replace("debug = \"all\"", &format!("\"sasl.password\" = \"{OPTION}\"")),
        good.replace("debug = \"all\"", &format!("\"ssl.key.password\" = \"{OPTION}\"")),
        good.replace("username = \"ccrelay\"", &format!("username = \"ccrelay\"\npassword = \"{IN_TOML}\"")),
    ] {
        assert_ne!(bad, good);
        scene.with_wrong_file("config.toml", &bad).await;
    }
    // So does the file of headers for traces, with the next spans.
    let headers = std::fs::read_to_string(scene.relay.folder().join("traces.headers")).expect("it is there");
    write(scene.relay.folder(), "traces.headers", BAD_TRACES_HEADER);
    scene.program(&["check", "--config", "config.toml"]);
    eventually("a complaint", DEADLINE, || async {
        scene.relay.log().contains("the files of traces cannot be used").then_some(())
    })
    .await;
    write(scene.relay.folder(), "traces.headers", &headers);
    // The tokens of the API look after themselves: a file with a mistake leaves the old ones in force.
    let tokens = std::fs::read_to_string(scene.relay.folder().join("tokens")).expect("it is there");
    write(scene.relay.folder(), "tokens", &format!("{BAD_TOKEN_LINE} {BAD_TOKEN_LINE} a b c\n"));
    scene.call(Some(ADMIN), "GET", "/api/v1/status", "").await;
    scene.program(&["status"]);
    write(scene.relay.folder(), "tokens", &tokens);
    scene.relay.running().signal(Signal::SIGHUP);
}

/// Where no terminal is, every line is JSON, and lines of a request carry its name.
fn the_log_is_json_with_request_ids(scene: &Scene) {
    let (_, log) = scene.said.iter().find(|(who, _)| who == "the log").expect("the log");
    let mut names = BTreeMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let message = line["message"].as_str().unwrap_or_default().to_owned();
        for name in [&line["request_id"], &line["span"]["request_id"]] {
            if let Some(name) = name.as_str() {
                names.entry(message.clone()).or_insert_with(|| name.to_owned());
            }
        }
    }
    for message in ["push stored", "push refused", "call of the admin API"] {
        assert!(names.contains_key(message), "{message} has no request_id: {names:?}");
    }
    // A refused push is told the name, one that is stored gets the bare answer.
    let refused = &names["push refused"];
    let answered = |(who, text): &(String, String)| who.starts_with("the answer") && text.contains(refused);
    assert!(scene.said.iter().any(answered), "{refused}");
    for (who, text) in scene.said.iter().filter(|(who, _)| who.starts_with("the answer")) {
        assert_eq!(text.contains("x-request-id"), !text.contains("200 OK"), "{who}: {text}");
    }
}

#[test]
fn a_secret_that_is_said_is_found() {
    let secrets = BTreeMap::from([("CanaryX".to_owned(), "here".to_owned())]);
    let said = [
        ("one".to_owned(), "nothing\n".to_owned()),
        ("two".to_owned(), "a line\nwith=CanaryX;\nend".to_owned()),
    ];
    assert_eq!(found(&secrets, &said), ["CanaryX of here was said by two: with=CanaryX;"]);
}
