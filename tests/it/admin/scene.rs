//! A gateway, the real binary with tokens, and what tests ask of both.

use std::os::unix::fs::PermissionsExt;

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};
use serde_json::Value;

use super::client::Client;
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
        assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 3).await, "the agents sign in");
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

pub(super) fn agent(id: &str) -> AgentId {
    AgentId::parse(id).expect("an agent id")
}
