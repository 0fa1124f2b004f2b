//! The machine stands still for a while, and the gateways do not.

use super::*;

const AGENTS: [&str; 10] = ["1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010"];

/// After that, with wall time set right some seconds later.
async fn wakes(scene: &Scene, sessions: &Sessions, secs: u64) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.clock.advance(Duration::from_secs(secs));
    all_are_well(scene, sessions).await;
}

async fn all_are_well(scene: &Scene, sessions: &Sessions) {
    scene.pass(150).await;
    let views = sessions.list();
    for view in &views {
        assert_eq!(view.state, "active", "{} of {views:?}", view.agent_id);
    }
    assert!(AGENTS.iter().all(|id| scene.gateway.is_signed_in(id)));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stood_still_with_the_clock_of_its_timers_suspends_nobody() {
    for (kept_secs, still_secs) in [(45, 60), (50, 85), (70, 85), (100, 100), (110, 117)] {
        let scene = Scene::with(&AGENTS, |_, _| {});
        let sessions = scene.start();
        scene.pass(kept_secs).await;
        scene.gateway.run_ahead(Duration::from_secs(still_secs));
        wakes(&scene, &sessions, still_secs).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_was_frozen_suspends_nobody() {
    for (kept_secs, frozen_secs) in [(45, 60), (50, 86), (70, 100), (100, 117)] {
        let scene = Scene::with(&AGENTS, |_, _| {});
        let sessions = scene.start();
        scene.pass(kept_secs).await;
        scene.clock.advance(Duration::from_secs(frozen_secs));
        tokio::time::advance(Duration::from_secs(frozen_secs)).await;
        all_are_well(&scene, &sessions).await;
        assert!(!scene.reasons().contains(&"signed_in_elsewhere"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_costs_no_session() {
    let scene = Scene::with(&AGENTS, |_, _| {});
    let sessions = scene.start();
    scene.pass(50).await;
    let before = scene.gateway.count(Handshake);
    wakes(&scene, &sessions, 3600).await;
    assert!(scene.gateway.count(Handshake) >= before + AGENTS.len(), "each is asked for at once");
    assert_eq!(scene.gateway.count(Login), AGENTS.len());
}

#[tokio::test(start_paused = true)]
async fn whoever_was_signed_in_by_hand_during_a_long_pause_is_not_forced_out_although_answers_are_lost_after_it()
 {
    let scene = Scene::with(&AGENTS, |_, _| {});
    let sessions = scene.start();
    scene.pass(50).await;
    scene.gateway.run_ahead(Duration::from_secs(600));
    for id in AGENTS {
        scene.gateway.occupy(id);
        scene.gateway.once(Handshake, Script::RequestLost);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.clock.advance(Duration::from_secs(600));
    scene.pass(200).await;
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    assert!(sessions.list().iter().all(|view| view.reason == Some("signed_in_elsewhere")));
}

/// Longer than the gateway waits, by a clock that nobody has looked at yet.
async fn a_standstill_is_over(scene: &Scene) {
    // Between two looks, which come every two seconds.
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.clock.advance(Duration::from_secs(600));
}

/// The first heartbeat of 291 is lost, and its session not known then: it is its own that stands in its way.
async fn is_forced_back(scene: &Scene, sessions: &Sessions) {
    let (forced, passed) = (scene.gateway.count(ForceLogin), scene.gateway.count(Handshake));
    scene.gateway.once(Handshake, Script::RequestLost);
    scene.gateway.once(Handshake, Script::Code("000-003"));
    scene.pass(25).await;
    assert!(scene.gateway.count(Handshake) > passed + 2);
    assert_eq!((view(sessions).state, scene.gateway.count(ForceLogin)), ("active", forced + 1));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_standstill_before_a_sign_in_does_not_count_for_the_session_though_it_is_noticed_later() {
    let mut scene = Scene::new();
    let config = scene.config.agents.remove(0);
    let sessions = scene.start();
    a_standstill_is_over(&scene).await;
    sessions.put(config).unwrap();
    is_forced_back(&scene, &sessions).await;

    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(10).await;
    a_standstill_is_over(&scene).await;
    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    is_forced_back(&scene, &sessions).await;
}
