//! Agents that are polled, in a roster file, between the simulator and a relay in this process.

use std::path::{Path, PathBuf};

use ccrelay::app::Relay;
use ccrelay::config;
use ccrelay::event::AgentId;
use ccrelay::lifecycle::Lifecycle;
use ccrelay::simulate::{EmitOptions, Settings, Simulator};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::support::certificates::Certificates;
use super::support::judge::{Arrival, Verdict, judge};
use super::support::relay::{Relay as Binary, Wiring};
use super::support::{DEADLINE, eventually};

struct Running {
    lifecycle: Lifecycle,
    run: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(file: &Path) -> Running {
        let config = config::load(file).unwrap_or_else(|error| panic!("{error}"));
        let lifecycle = Lifecycle::default();
        let relay = Relay::start(config, lifecycle.clone()).await.expect("the relay starts");
        Running { lifecycle, run: tokio::spawn(relay.run()) }
    }

    async fn stop(self) {
        self.lifecycle.stop();
        self.run.await.expect("no panic").expect("a clean end");
    }
}

async fn gateway(folder: &Path) -> Simulator {
    let settings = "listen = '127.0.0.1:0'\nAGENT_POLL_WAIT_TIMES = 5\nmark_events = true\n\
        [[agents]]\nfirst = 1001\nlast = 1002\npassword = 'hush'\n";
    let settings: Settings = toml::from_str(settings).expect("settings");
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    std::fs::write(folder.join("gateway-ca.pem"), simulator.ca_pem().expect("it speaks TLS"))
        .expect("a file");
    std::fs::write(folder.join("password"), "hush\n").expect("a file");
    simulator
}

fn configuration(folder: &Path, simulator: &Simulator) -> PathBuf {
    let (at, url) = (folder.display(), simulator.base_url());
    let text = format!(
        "[callback]\nlisten = '127.0.0.1:0'\ncertificate_file = '{at}/cert.pem'\nkey_file = '{at}/key.pem'\n\
         [spool]\ndirectory = '{at}/spool'\n[operations]\nlisten = '127.0.0.1:0'\n\
         [[gateways]]\nname = 'main'\nbase_url = '{url}'\nca_file = '{at}/gateway-ca.pem'\n\
         callback_uri = 'https://127.0.0.1:1/push/main'\n\
         [gateways.agent_defaults]\nmode = 'poll'\npassword_file = '{at}/password'\n\
         [[rosters]]\nfile = '{at}/agents.csv'\ngateway = 'main'\n\
         [sinks.file.jsonl]\npath = '{at}/events.jsonl'\n"
    );
    std::fs::write(folder.join("config.toml"), text).expect("a file");
    folder.join("config.toml")
}

/// What was published so far, without a line that is being written and not whole yet.
fn lines(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    text.rfind('\n').map_or("", |end| &text[..end]).lines().map(str::to_owned).collect()
}

/// What the gateway has given to polls, against what was published.
fn verdict(simulator: &Simulator, folder: &Path) -> Verdict {
    let arrivals: Vec<_> = lines(folder).iter().map(|line| Arrival::from_json_line(line)).collect();
    judge(&simulator.ledger(), &arrivals)
}

/// The numbers of our own events of this agent that were published, in their order.
fn published(folder: &Path, agent: &str) -> Vec<u64> {
    let lines = lines(folder);
    let events = lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON"));
    let events = events.filter(|event: &serde_json::Value| event["subject"] == agent);
    events.filter_map(|event| event["data"]["raw"]["content"]["n"].as_u64()).collect()
}

fn emit(simulator: &Simulator, agent: &AgentId, n: u64) {
    let emitted = simulator.emit(agent, "AgentOther_PhoneOffhook", json!({ "n": n }), EmitOptions::default());
    emitted.expect("the agent is signed in");
}

async fn signed_in(simulator: &Simulator, agent: &AgentId) {
    let session = || async { simulator.session(agent).map(drop) };
    eventually("the agent is signed in", DEADLINE, session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_polled_agents_are_published_in_order_over_a_restart_and_the_roster_is_followed() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path();
    let _certificates = Certificates::create(path);
    let simulator = gateway(path).await;
    let file = configuration(path, &simulator);
    std::fs::write(path.join("agents.csv"), "id,phone_number\n1001,71001\n").expect("a file");
    let (one, two) = (AgentId::parse("1001").expect("an id"), AgentId::parse("1002").expect("an id"));

    let relay = Running::start(&file).await;
    signed_in(&simulator, &one).await;
    for n in 0..10 {
        emit(&simulator, &one, n);
    }
    let some = || async { (published(path, "1001").len() >= 3).then_some(()) };
    eventually("the first events are published", DEADLINE, some).await;
    relay.stop().await;
    // The session waits at the gateway meanwhile, and so do its events.
    for n in 10..15 {
        emit(&simulator, &one, n);
    }

    let relay = Running::start(&file).await;
    // Another agent comes with the file, without a word to the relay.
    std::fs::write(path.join("agents.csv"), "id,phone_number\n1001,71001\n1002,71002\n").expect("a file");
    signed_in(&simulator, &two).await;
    emit(&simulator, &two, 100);
    let all = || async {
        (published(path, "1001").len() >= 15 && published(path, "1002").len() == 1).then_some(())
    };
    eventually("all events are published", DEADLINE, all).await;
    assert_eq!(published(path, "1001"), (0..15).collect::<Vec<_>>());
    let flawless = verdict(&simulator, path);
    flawless.assert_flawless("the file");
    assert!(flawless.polled >= 16, "{flawless:?}");
    assert_eq!(simulator.counts(&one).sign_ins, 1, "the restart signs nobody in anew");

    // An agent that leaves the file is signed out.
    std::fs::write(path.join("agents.csv"), "id,phone_number\n1002,71002\n").expect("a file");
    let gone = || async { simulator.session(&one).is_none().then_some(()) };
    eventually("the agent is signed out", DEADLINE, gone).await;
    assert!(simulator.session(&two).is_some());
    relay.stop().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_binary_cost_a_polled_agent_no_session_and_at_most_the_answer_on_its_way() {
    const KILLS: u64 = 3;
    const ROUND: u64 = 20;
    let mut binary = Binary::prepare();
    let folder = binary.folder().to_owned();
    let simulator = gateway(&folder).await;
    binary.configure(&Wiring {
        gateway_url: &simulator.base_url(),
        gateway_ca: simulator.ca_pem().expect("it speaks TLS"),
        agents: 1001..=1001,
        password: "hush",
        tables: &format!("[sinks.file.jsonl]\npath = \"{}/events.jsonl\"\n", folder.display()),
    });
    binary.edit("[[agents]]\n", "[[agents]]\nmode = \"poll\"\n");
    let one = AgentId::parse("1001").expect("an id");
    binary.start().await;
    signed_in(&simulator, &one).await;
    let mut n = 0;
    for _ in 0..KILLS {
        for _ in 0..ROUND {
            emit(&simulator, &one, n);
            n += 1;
        }
        let (before, goal) = (published(&folder, "1001").len(), 5);
        let some = || async { (published(&folder, "1001").len() >= before + goal).then_some(()) };
        eventually("events are published", DEADLINE, some).await;
        binary.kill9().await;
        // The session and the events wait at the gateway.
        for _ in 0..3 {
            emit(&simulator, &one, n);
            n += 1;
        }
        binary.start().await;
    }
    emit(&simulator, &one, n);
    let last = || async { published(&folder, "1001").contains(&n).then_some(()) };
    eventually("the last event is published", DEADLINE, last).await;
    // What was published and not yet noted as such comes again, with the id that it had; all else would be a fault.
    let mut verdict = verdict(&simulator, &folder);
    // The gateway hands out an event once and asks for no receipt: one that is on its way at a kill is gone.
    let missing = std::mem::take(&mut verdict.lost_polled);
    assert!(missing.len() as u64 <= KILLS, "of {n} are missing: {missing:?}");
    verdict.assert_flawless("the file");
    assert!(verdict.polled as u64 > n, "{verdict:?}");
    assert_eq!(simulator.counts(&one).sign_ins, 1, "{}", binary.log());
    binary.stop().await;
    simulator.stop().await;
}
