//! What an idle session takes of memory: a hundred thousand of them are to fit into a few hundred megabytes.

use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use tokio::time::Instant;

use super::agent::{Agent, Gateway};
use super::config::AgentConfig;
use super::fake::Scene;
use super::status::Shared;
use super::*;

/// All of it, with what the allocator and the tables add.
const MOST: usize = 1760;
/// What a task is waiting with: with tokio's header it takes 640 bytes, since tasks lie on multiples of 128.
const MOST_OF_THE_TASK: usize = 500;

#[tokio::test]
async fn an_idle_session_takes_less_than_one_and_three_quarters_kibibytes() {
    let scene = Scene::new();
    let deps = Deps {
        tokens: scene.world.clone(),
        store: scene.world.clone(),
        journal: scene.world.clone(),
        events: scene.world.clone(),
        metrics: scene.metrics.clone(),
        clock: scene.clock.clone(),
    };
    let gateway =
        Gateway::new(scene.config.gateways[0].clone(), scene.gateway.clone(), Arc::new(deps), Instant::now());
    let config = scene.config.agents[0].clone();
    let shared = Shared::new(gateway.common.clone(), config.id.clone(), Timestamp(0));
    let mut agent = Agent::new(config, Arc::new(gateway), Arc::new(shared));
    let task = size_of::<Agent>() + size_of_val(&agent.run());
    // Strings of the configuration, GUID and cookies, the task's header, timer and place in the tables.
    let around = 768;
    let sum = task + size_of::<Shared>() + size_of::<AgentConfig>() + size_of::<call::Ticket>() + around;
    assert!(task <= MOST_OF_THE_TASK, "{task} bytes");
    assert!(sum <= MOST, "{sum} bytes: the task alone takes {task}");
}
