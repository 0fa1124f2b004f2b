//! Whole sessions on paused time against a gateway in memory that notes every breach of the protocol.

use std::time::Duration;

use super::retcode::Operation::{ForceLogin, Handshake, Login, Logout, ResetSkill};
use super::*;

mod fake;

use fake::{Scene, Script, agent, main_gateway, view};

#[tokio::test(start_paused = true)]
async fn an_agent_signs_in_enters_its_skills_and_keeps_its_session_across_guid_changes() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(1800).await;
    let operations = scene.gateway.operations();
    assert_eq!(operations[..3], [Login, ResetSkill, Handshake]);
    assert_eq!(scene.gateway.count(Login), 1);
    assert_eq!(view(&sessions).state, "active");
    assert!(scene.gateway.is_signed_in("291"));
    let beats: Vec<_> = scene.gateway.seen().into_iter().filter(|seen| seen.operation == Handshake).collect();
    assert!((59..=62).contains(&beats.len()), "{} heartbeats in half an hour", beats.len());
    for pair in beats.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_secs(26) && gap <= Duration::from_secs(34), "{gap:?}");
        assert_ne!(pair[0].token, pair[1].token, "each heartbeat brings a fresh token");
    }
    assert!(scene.metrics.guid_changes.with_label_values(&["main"]).get() >= 15);
    assert_eq!(scene.reasons(), ["signed_in"]);
    assert_eq!(view(&sessions).media_type.as_deref(), Some("TTF"));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_the_limit_continues_without_a_sign_in() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    assert!(scene.gateway.is_signed_in("291"));
    assert_eq!(scene.gateway.count(Logout), 0);
    scene.pass(60).await;
    let sessions = scene.start();
    scene.pass(300).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(Login) + scene.gateway.count(ForceLogin), 1);
    assert_eq!(scene.gateway.count(ResetSkill), 1);
    assert_eq!(scene.reasons(), ["signed_in", "resumed"]);
    assert_eq!(scene.metrics.sign_ins.with_label_values(&["main", "resumed"]).get(), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_the_limit_signs_in_anew() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    scene.pass(150).await;
    let sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(Login), 2);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_session_thrown_out_is_signed_in_again_within_seconds_of_the_event() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    scene.gateway.throw_out("291");
    sessions.wake_forced_out(&main_gateway(), &agent("291"));
    scene.pass(4).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(Login), 2);
    assert_eq!(scene.reasons(), ["signed_in", "shut_down", "signed_in"]);
    assert_eq!(scene.metrics.session_losses.with_label_values(&["main", "shut_down"]).get(), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_earlier_session_costs_one_heartbeat_and_nothing_else() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    for _ in 0..20 {
        sessions.wake_forced_out(&main_gateway(), &agent("291"));
    }
    scene.pass(5).await;
    assert_eq!(scene.gateway.count(Login), 1);
    assert_eq!(view(&sessions).state, "active");
    let beats = scene.gateway.count(Handshake);
    assert!(beats <= 7, "{beats} heartbeats");
    scene.gateway.check();
}
