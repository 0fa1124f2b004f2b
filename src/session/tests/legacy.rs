//! Agents of older gateways, which push to an address with a token that stays the same.

use secrecy::ExposeSecret;

use super::*;
use crate::session::config::Mode;

#[tokio::test(start_paused = true)]
async fn the_token_of_the_sign_in_stays_over_heartbeats_and_a_restart_and_a_new_sign_in_brings_another() {
    let scene = Scene::with(&["291"], |_, agent| agent.mode = Mode::LegacyPush);
    let sessions = scene.start();
    scene.pass(300).await;
    let stored = || {
        let stored = scene.world.stored.lock().unwrap();
        stored["291"]
            .session()
            .unwrap()
            .fixed
            .as_ref()
            .map(|fixed| fixed.token.expose_secret().to_owned())
            .unwrap()
    };
    let token = stored();
    assert_eq!(token.len(), 40);
    assert_eq!(scene.gateway.seen()[0].token.as_ref(), Some(&token));
    let later: Vec<_> = scene.gateway.seen().into_iter().skip(1).collect();
    assert!(later.len() > 8 && later.iter().all(|seen| seen.token.is_none()));
    sessions.shutdown(false).await;
    scene.pass(30).await;
    let sessions = scene.start();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 1));
    assert_eq!(stored(), token);
    scene.gateway.throw_out("291");
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2));
    assert_ne!(stored(), token);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_is_tried_again_has_the_token_of_the_one_that_may_have_arrived() {
    let scene = Scene::with(&["291"], |_, agent| (agent.mode, agent.takeover) = (Mode::LegacyPush, true));
    scene.gateway.once(Login, Script::AnswerLost);
    let sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "active");
    let tokens: Vec<_> = scene.gateway.seen().into_iter().take(3).map(|seen| seen.token).collect();
    assert_eq!(scene.gateway.operations()[..3], [Login, Login, ForceLogin]);
    assert!(tokens[0].is_some() && tokens[0] == tokens[1] && tokens[1] == tokens[2], "{tokens:?}");
    // Accepted for as long as the session, with which it ends.
    assert_eq!(scene.world.fixed.lock().unwrap().get("291"), tokens[0].as_ref());
    scene.gateway.throw_out("291");
    scene.pass(60).await;
    let again = scene.gateway.seen().into_iter().rfind(|seen| seen.operation == Login).unwrap();
    assert!(again.token.is_some() && again.token != tokens[0]);
    scene.gateway.check();
}
