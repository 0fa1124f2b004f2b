//! Agents who are to be signed out, for good or until a person says otherwise, and what comes between.

use super::fake::{Scene, Script, agent, main_gateway, view};
use super::retcode::Operation::{Handshake, Login, Logout};
use super::*;

/// The daemon is killed: what it had stored by now is what the next start finds.
async fn kill(scene: &Scene, sessions: Sessions) {
    let stored = scene.world.stored.lock().unwrap().clone();
    sessions.shutdown(false).await;
    *scene.world.stored.lock().unwrap() = stored;
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_the_gateway_does_not_answer_keeps_a_persons_word() {
    for script in [Script::AnswerLost, Script::RequestLost, Script::Unreachable, Script::Code("100-007")] {
        let scene = Scene::new();
        let sessions = scene.start();
        scene.pass(20).await;
        scene.gateway.always(Logout, script.clone());
        assert!(sessions.sign_out(&main_gateway(), &agent("291")));
        scene.pass(200).await;
        scene.gateway.heal();
        scene.pass(30).await;
        assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1), "{script:?}");
        assert!(!scene.gateway.is_signed_in("291"), "{script:?}");
        assert_eq!(scene.reasons(), ["signed_in", "signed_out"], "{script:?}");
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_is_not_answered_before_a_kill_is_asked_for_by_the_next_run() {
    let scene = Scene::new();
    let mut sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Unreachable);
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    for _ in 0..2 {
        scene.pass(1).await;
        kill(&scene, sessions).await;
        sessions = scene.start();
        scene.pass(100).await;
        assert_eq!(view(&sessions).state, "signing_out");
        assert!(scene.gateway.count(Handshake) >= 3, "kept alive: the call that it is in would be cut");
    }
    scene.gateway.heal();
    scene.pass(15).await;
    assert_eq!((view(&sessions).state, scene.gateway.is_signed_in("291")), ("signed_out", false));
    kill(&scene, sessions).await;
    let sessions = scene.start();
    scene.pass(30).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));
    // One whose session has ended meanwhile stays signed out as well.
    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    scene.pass(10).await;
    scene.gateway.always(Logout, Script::Unreachable);
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(1).await;
    kill(&scene, sessions).await;
    scene.pass(200).await;
    let sessions = scene.start();
    scene.pass(30).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 2));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_sign_out_is_not_answered_stays_out_in_another_mode() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Unreachable);
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    let mut other = config::AgentConfig::clone(&scene.config.agents[0]);
    other.mode = config::Mode::LegacyPush;
    assert_eq!(sessions.put(other), Ok(Change::Changed));
    scene.pass(5).await;
    scene.gateway.heal();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));
}
