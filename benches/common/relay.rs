//! The real binary as the benches start it: nobody to sign in, and pushes that it takes.

use std::ops::RangeInclusive;
use std::time::Duration;

use ccrelay::authenticate::{Authenticator, TokenKey, TokenRules};
use ccrelay::clock::Clock;
use ccrelay::event::{AgentId, GatewayName};
use secrecy::ExposeSecret;

use crate::load::Push;
use crate::support::relay::{Relay, Wiring};

pub(crate) const KAFKA: &str = "bus";
pub(crate) const MQTT: &str = "wall";
pub(crate) const TOPIC: &str = "ccrelay.events";
pub(crate) const PARTITIONS: i32 = 4;

/// A sink for Kafka and one for MQTT, with brokers at these addresses.
pub(crate) fn sinks(kafka: &str, mqtt: &str) -> String {
    format!(
        "[sinks.{KAFKA}]\ntopic = \"{TOPIC}\"\n[sinks.{KAFKA}.kafka]\nbootstrap_servers = \"{kafka}\"\n\
         [sinks.{MQTT}.mqtt]\nurl = \"{mqtt}\"\n"
    )
}

/// A relay with the tables of these sinks, not yet started, and one push of each agent, with a token that lasts.
pub(crate) fn prepare(sinks: &str, agents: RangeInclusive<u32>) -> anyhow::Result<(Relay, Vec<Push>)> {
    let relay = Relay::prepare();
    relay.configure(&Wiring {
        gateway_url: "https://127.0.0.1:9/agentgateway/resource",
        gateway_ca: &relay.ca_pem(),
        #[expect(clippy::reversed_empty_ranges, reason = "nobody is to be signed in")]
        agents: 1..=0,
        password: "unused",
        tables: sinks,
    });
    let secret = relay.folder().join("secret");
    std::fs::write(&secret, "a secret for a benchmark, long enough to be one")?;
    relay.edit("[token]\n", &format!("[token]\nsecret_file = \"{}\"\n", secret.display()));

    let authenticator = Authenticator::new(TokenKey::read(&secret)?, None, rules(), Clock::system());
    let gateway = GatewayName::parse("main")?;
    let push = |agent: u32| {
        let token = authenticator.mint(&gateway, &AgentId::parse(&agent.to_string())?);
        Ok(Push::talking("/push/main", agent, token.expose_secret()))
    };
    let pushes = agents.map(push).collect::<anyhow::Result<_>>()?;
    Ok((relay, pushes))
}

fn rules() -> TokenRules {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    TokenRules { period: hours(1), overlap: hours(1), max_age: hours(24) }
}
