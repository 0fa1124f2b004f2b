//! Calls of others, passed on between the session's own.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use super::fake::{Scene, Script, agent, main_gateway, view};
use super::forward::{FORWARD_QUEUE, ForwardAnswer, ForwardError, ForwardRequest};
use super::retcode::Operation::{ForceLogin, Handshake, Login, ResetSkill};
use super::*;

async fn forward(sessions: &Sessions, path: &str) -> Result<ForwardAnswer, ForwardError> {
    let request = ForwardRequest::new(Method::POST, path, None, Bytes::new()).unwrap();
    sessions.forward(&main_gateway(), &agent("291"), request, &CancellationToken::new()).await
}

fn body(answer: ForwardAnswer) -> serde_json::Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_passed_on_with_the_agents_guid_and_the_renewed_guid_is_taken() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    let answer = forward(&sessions, "/say/291").await.unwrap();
    assert_eq!((answer.status, body(answer)["retcode"].clone()), (200, "0".into()));
    scene.gateway.forward_once(Script::PasswordChange);
    forward(&sessions, "/renew/291").await.unwrap();
    let held = sessions.ticket(&main_gateway(), &agent("291")).unwrap();
    assert_eq!(held.guid.expose_secret(), "guid-2");
    let stored =
        scene.world.stored.lock().unwrap()["291"].session().unwrap().ticket.guid.expose_secret().to_owned();
    assert_eq!(stored, "guid-2", "a restart now would need it");
    scene.pass(100).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 1));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn calls_wait_their_turn_and_a_due_heartbeat_goes_first() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    // Each of these takes 8 s, so that together they last over two heartbeats.
    for _ in 0..FORWARD_QUEUE {
        scene.gateway.forward_once(Script::RequestLost);
    }
    let paths: Vec<String> = (0..FORWARD_QUEUE).map(|n| format!("/call{n}/291")).collect();
    let calls = futures_util::future::join_all(paths.iter().map(|path| forward(&sessions, path)));
    let (results, ()) = tokio::join!(calls, scene.pass(90));
    let made = scene.gateway.forwarded();
    assert!(made.iter().map(|(path, _)| path).eq(paths.iter().take(made.len())), "in order: {made:?}");
    let timed_out = results.iter().filter(|result| matches!(result, Err(ForwardError::Call(_)))).count();
    let expired = results.iter().filter(|result| matches!(result, Err(ForwardError::Expired))).count();
    assert_eq!((timed_out, timed_out + expired), (made.len(), FORWARD_QUEUE), "{results:?}");
    assert!((2..=3).contains(&made.len()), "20 s are room for three at most: {made:?}");
    let beats: Vec<_> = scene.gateway.seen().into_iter().filter(|seen| seen.operation == Handshake).collect();
    for pair in beats.windows(2) {
        assert!(pair[1].at - pair[0].at < Duration::from_secs(45), "{beats:?}");
    }
    assert_eq!(view(&sessions).state, "active");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_when_its_caller_goes_is_not_made_and_one_in_hand_goes_on() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.forward_once(Script::RequestLost);
    let gone = CancellationToken::new();
    let call = |path| {
        let request = ForwardRequest::new(Method::PUT, path, None, Bytes::new()).unwrap();
        let (sessions, gone) = (sessions.clone(), gone.clone());
        async move { sessions.forward(&main_gateway(), &agent("291"), request, &gone).await }
    };
    let (in_hand, waiting, next, ()) = tokio::join!(
        call("/in-hand/291"),
        call("/waiting/291"),
        async {
            scene.pass(3).await;
            forward(&sessions, "/next/291").await
        },
        async {
            scene.pass(2).await;
            gone.cancel();
            scene.pass(20).await;
        }
    );
    assert!(
        matches!(in_hand, Err(ForwardError::Call(_))),
        "its own outcome is what the log needs: {in_hand:?}"
    );
    assert_eq!(waiting.unwrap_err(), ForwardError::CallerGone);
    assert!(next.is_ok(), "{next:?}");
    let made = scene.gateway.forwarded();
    assert!(made.iter().map(|(path, _)| path.as_str()).eq(["/in-hand/291", "/next/291"]), "{made:?}");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_the_queue_holds_are_refused_at_once() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    let paths: Vec<String> = (0..FORWARD_QUEUE + 3).map(|n| format!("/call{n}/291")).collect();
    let calls = futures_util::future::join_all(paths.iter().map(|path| forward(&sessions, path)));
    let (results, ()) = tokio::join!(calls, scene.pass(5));
    let full = results.iter().filter(|result| matches!(result, Err(ForwardError::QueueFull))).count();
    assert_eq!(full, 3);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), FORWARD_QUEUE);
    let metric = |outcome: &str| scene.metrics.forwards.with_label_values(&["main", outcome]).get();
    assert_eq!((metric("answered"), metric("refused")), (FORWARD_QUEUE as u64, 3));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_doubts_the_session_leads_to_a_heartbeat_and_is_not_believed() {
    for code in ["000-003", "100-006"] {
        let scene = Scene::new();
        let sessions = scene.start();
        scene.pass(20).await;
        let beats = scene.gateway.count(Handshake);
        scene.gateway.forward_once(Script::Code(code));
        let answer = forward(&sessions, "/say/291").await.unwrap();
        assert_eq!(body(answer)["retcode"], code, "the caller gets what the gateway said");
        scene.pass(2).await;
        assert_eq!(scene.gateway.count(Handshake), beats + 1, "{code}");
        assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 1), "{code}");
        // And when it is true, the agent is back within seconds.
        scene.gateway.throw_out("291");
        let _refused = forward(&sessions, "/say/291").await.unwrap();
        scene.pass(4).await;
        assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2), "{code}");
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_session_calls_are_refused_at_once() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.gateway.always(Login, Script::Code("100-004"));
    scene.pass(10).await;
    assert_eq!(forward(&sessions, "/say/291").await.unwrap_err(), ForwardError::NoSession);
    let request = ForwardRequest::new(Method::GET, "/x/292", None, Bytes::new()).unwrap();
    let unknown = sessions.forward(&main_gateway(), &agent("292"), request, &CancellationToken::new()).await;
    assert_eq!(unknown.unwrap_err(), ForwardError::UnknownAgent);
    assert!(scene.gateway.forwarded().is_empty());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_when_the_session_ends_are_told() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Handshake, Script::RequestLost);
    scene.gateway.always(ResetSkill, Script::RequestLost);
    scene.gateway.forward_once(Script::RequestLost);
    let (first, second, ()) =
        tokio::join!(forward(&sessions, "/a/291"), forward(&sessions, "/b/291"), async {
            scene.pass(4).await;
            sessions.sign_out(&main_gateway(), &agent("291"));
            scene.pass(60).await;
        });
    assert!(matches!(first, Err(ForwardError::Call(_))), "{first:?}");
    assert_eq!(second.unwrap_err(), ForwardError::NoSession);
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    scene.gateway.check();
}
