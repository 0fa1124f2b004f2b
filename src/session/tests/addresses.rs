//! Two addresses of a gateway with one table of agents, which do not know each other's sessions.

use super::*;

const AGENTS: [&str; 3] = ["291", "292", "293"];

fn lost(scene: &Scene, reason: &str) -> u64 {
    scene.metrics.session_losses.with_label_values(&["main", reason]).get()
}

fn are_active(sessions: &Sessions) -> bool {
    sessions.list().iter().all(|view| view.state == "active")
}

#[tokio::test(start_paused = true)]
async fn a_change_of_address_and_back_signs_everybody_in_there_and_suspends_nobody() {
    let scene = Scene::with(&AGENTS, |_, _| {});
    let sessions = scene.start();
    scene.pass(100).await;
    assert!(are_active(&sessions));
    // The first cannot be reached, and calls go to the second.
    scene.gateway.always(Handshake, Script::Unreachable);
    scene.pass(8).await;
    scene.gateway.heal();
    scene.gateway.move_to(1);
    scene.pass(40).await;
    assert!(are_active(&sessions), "{:?}", scene.reasons());
    // The first is back, and calls return without any failure.
    scene.gateway.move_to(0);
    scene.pass(40).await;
    assert!(are_active(&sessions), "{:?}", scene.reasons());
    assert_eq!(lost(&scene, "other_address"), 2 * AGENTS.len() as u64);
    assert_eq!(scene.gateway.count(ForceLogin), 2 * AGENTS.len());
    scene.pass(600).await;
    assert!(are_active(&sessions), "{:?}", scene.reasons());
    assert_eq!(scene.gateway.count(ForceLogin), 2 * AGENTS.len());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_calls_go_to_another_address_suspends_nobody() {
    let scene = Scene::with(&AGENTS, |_, _| {});
    scene.gateway.move_to(1);
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    // A start begins with the first.
    scene.gateway.move_to(0);
    scene.pass(5).await;
    let sessions = scene.start();
    scene.pass(40).await;
    assert!(are_active(&sessions), "{:?}", scene.reasons());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn somebody_who_signs_in_at_the_same_address_is_left_in_peace_as_before() {
    let scene = Scene::with(&AGENTS, |_, _| {});
    let sessions = scene.start();
    scene.pass(100).await;
    scene.gateway.move_to(1);
    scene.pass(60).await;
    scene.gateway.sign_in_elsewhere("291", "theirs");
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some("signed_in_elsewhere")));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_starts_anew_without_its_sessions_suspends_nobody() {
    let scene = Scene::with(&AGENTS, |_, _| {});
    let sessions = scene.start();
    scene.pass(100).await;
    scene.gateway.always(Handshake, Script::Unreachable);
    scene.pass(35).await;
    scene.gateway.heal();
    // The gateway is another one by its memory, not by its address.
    scene.gateway.forget_tickets();
    scene.pass(200).await;
    assert!(are_active(&sessions), "{:?}", scene.reasons());
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    scene.gateway.check();
}
