//! A gateway, the real binary with tokens, and what tests ask of both.

use std::os::unix::fs::PermissionsExt;

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};
use serde_json::Value;

use super::client::{Client, Reply, over_tls};
use crate::support::relay::{Relay, Wiring};
use crate::support::{DEADLINE, eventually};

pub(super) const PASSWORD: &str = "canary-password";
pub(super) const ADMIN: &str = "admin-token-canary-0123456789";
pub(super) const READ: &str = "read-token-canary-0123456789";
const TOKENS: &str =
    "# tokens\nadmin crm admin-token-canary-0123456789\nread:grafana:read-token-canary-0123456789\n";

pub(super) struct Scene {
    pub(super) simulator: Simulator,
    pub(super) relay: Relay,
}

/// GUIDs change every second and last long enough for a busy machine.
fn gateway(callback_ca: String) -> Settings {
    let mut settings = Settings::local();
    settings.auth_mode = 2;
    settings.guid_interval_ms = 1_000;
    settings.guid_timeout_ms = 60_000;
    settings.handshake_max_time_ms = 60_000;
    settings.push_fail_interval_ms = 500;
    settings.push_fail_total_ms = 60_000;
    settings.eventpush.ssl.cert.pem = Some(callback_ca);
    settings.agents = vec![Agents::range(1001, 1009, PASSWORD)];
    settings.cookies = true;
    settings
}

impl Scene {
    /// Agents 1001 to 1003 are in the configuration and signed in; 1004 to 1009 are known to the gateway only.
    pub(super) async fn start() -> Scene {
        Scene::with(|_| {}).await
    }

    /// With a change of the configuration before the start.
    pub(super) async fn with(change: impl FnOnce(&Relay)) -> Scene {
        let mut relay = Relay::prepare();
        let simulator = Simulator::start(gateway(relay.ca_pem())).await.expect("the simulator starts");
        let folder = relay.folder().to_owned();
        let tables = format!("[sinks.file.jsonl]\npath = \"{}/events.jsonl\"\n", folder.display());
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url(),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: 1001..=1003,
            password: PASSWORD,
            tables: &tables,
        });
        let tokens = folder.join("tokens");
        std::fs::write(&tokens, TOKENS).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        relay
            .edit("[operations]\n", &format!("[operations]\nadmin_tokens_file = \"{}\"\n", tokens.display()));
        change(&relay);
        relay.start().await;
        assert!(simulator.wait_for(DEADLINE, |s| s.signed_in >= 3).await, "the agents sign in");
        Scene { simulator, relay }
    }

    /// A caller who may do everything.
    pub(super) fn admin(&self) -> Client {
        self.client(Some(ADMIN))
    }

    pub(super) fn client(&self, token: Option<&str>) -> Client {
        Client { address: self.relay.operations(), token: token.map(str::to_owned) }
    }

    /// Waits until the agent is in a state, and gives it.
    pub(super) async fn agent_in(&self, id: &str, state: &str) -> Value {
        let (client, path) = (self.admin(), format!("/api/v1/agents/main/{id}"));
        eventually(&format!("agent {id} {state}"), DEADLINE, || async {
            let agent = client.get(&path).await.json();
            (agent["state"] == state).then_some(agent)
        })
        .await
    }

    /// Waits until so many more heartbeats of the agent were answered with success.
    pub(super) async fn heartbeats(&self, id: &str, more: u64) {
        let goal = self.simulator.counts(&agent(id)).heartbeats + more;
        eventually("heartbeats", DEADLINE, || async {
            (self.simulator.counts(&agent(id)).heartbeats >= goal).then_some(())
        })
        .await;
    }

    /// The gateway's types of the events of an agent that have been delivered so far, in their order.
    pub(super) fn delivered(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.relay.folder().join("events.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("lines are JSON"));
        let of_agent = events.filter(|event| event["data"]["agent"]["id"] == id);
        let types =
            of_agent.filter_map(|event| event["data"]["raw"]["eventType"].as_str().map(str::to_owned));
        // Events of ccrelay's own, whose types have a dot, come between them.
        types.filter(|kind| !kind.contains('.')).collect()
    }

    /// A file with the password of every agent.
    pub(super) fn password_file(&self) -> String {
        self.relay.folder().join("password").display().to_string()
    }

    /// Another program's call of the gateway, such as its sign-in.
    pub(super) async fn gateway(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let base = base_path(&self.simulator);
        let length = body.len();
        let request = format!(
            "{method} {base}/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        let ca = self.simulator.ca_pem().expect("the simulator made a certificate");
        over_tls(self.simulator.local_addr(), ca, &request).await
    }

    /// Another program signs the agent in, with ccrelay's callback and a token of its own; gives GUID and cookies.
    pub(super) async fn sign_in_elsewhere(&self, id: &str, token: &str) -> (String, Vec<(String, String)>) {
        let callback = self.relay.callback_uri();
        let body = format!(
            r#"{{"password":"{PASSWORD}","phonenum":"7{id}","releasephone":true,"callBackUri":"{callback}","serviceToken":"{token}"}}"#
        );
        let reply = self.gateway("PUT", &format!("onlineagent/{id}"), "", &body).await;
        assert_eq!(reply.json()["retcode"], "0", "{reply:?}");
        let mut guid = String::new();
        let mut cookies = Vec::new();
        // Values keep their case.
        for line in reply.raw_head.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.trim();
            match name.to_lowercase().as_str() {
                "set-guid" => guid = value.to_owned(),
                "set-cookie" => {
                    let (name, value) =
                        value.split(';').next().and_then(|c| c.split_once('=')).expect("a cookie");
                    cookies.push((name.to_owned(), value.to_owned()));
                }
                _ => {}
            }
        }
        assert!(!guid.is_empty() && !cookies.is_empty(), "{reply:?}");
        (guid, cookies)
    }

    /// Fails when a secret is in the log, and stops everything.
    pub(super) async fn end(mut self) {
        self.relay.stop().await;
        let log = self.relay.log();
        for secret in [PASSWORD, ADMIN, READ, "JSESSIONID", "AgentGateway0", "canary"] {
            assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        }
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// The path of the simulator's base URL.
fn base_path(simulator: &Simulator) -> String {
    let url = simulator.base_url();
    let (_, rest) = url.split_once("://").expect("a scheme");
    rest.find('/').map_or(String::new(), |at| rest[at..].to_owned())
}

pub(super) fn agent(id: &str) -> AgentId {
    AgentId::parse(id).expect("an agent id")
}
