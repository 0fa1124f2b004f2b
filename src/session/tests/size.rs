//! What an idle session takes of memory: a hundred thousand of them are to fit into a few hundred megabytes.

use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use tokio::time::Instant;

use super::agent::{Agent, Gateway, Start};
use super::config::AgentConfig;
use super::fake::Scene;
use super::pace::Pace;
use super::status::Shared;
use super::*;

/// All of it, with what the allocator and the tables add.
const MOST: usize = 2560;

#[tokio::test]
async fn an_idle_session_takes_less_than_two_and_a_half_kibibytes() {
    let scene = Scene::new();
    let deps = Deps {
        tokens: scene.world.clone(),
        store: scene.world.clone(),
        journal: scene.world.clone(),
        events: scene.world.clone(),
        metrics: scene.metrics.clone(),
        clock: scene.clock.clone(),
    };
    let gateway = Gateway {
        config: scene.config.gateways[0].clone(),
        calls: scene.gateway.clone(),
        pace: Pace::new(1),
    };
    let config = Arc::new(scene.config.agents[0].clone());
    let shared = Shared::new(
        config.gateway.clone(),
        config.id.clone(),
        gateway.config.sign_out_limit,
        Instant::now(),
        Timestamp(0),
        &scene.metrics,
    );
    let mut agent = Agent::new(config, Arc::new(gateway), Arc::new(deps), Arc::new(shared));
    let task = size_of::<Agent>() + size_of_val(&agent.run(Start::default()));
    // Strings of the configuration, GUID and cookies, the task's header, timer and place in the tables.
    let around = 768;
    let sum = task + size_of::<Shared>() + size_of::<AgentConfig>() + size_of::<call::Ticket>() + around;
    assert!(sum <= MOST, "{sum} bytes: the task alone takes {task}");
}
