//! Agents whose events are asked for.

use super::*;
use crate::session::config::Mode;
use crate::session::retcode::Operation::Poll;

fn polled() -> Scene {
    Scene::with(&["291"], |_, agent| agent.mode = Mode::Poll)
}

#[tokio::test(start_paused = true)]
async fn polls_take_the_place_of_heartbeats_and_no_token_goes_out() {
    let scene = polled();
    let sessions = scene.start();
    scene.pass(600).await;
    assert_eq!(scene.gateway.operations()[..3], [Login, ResetSkill, Poll]);
    assert_eq!((scene.gateway.count(Login), scene.gateway.count(Handshake)), (1, 0));
    assert!(scene.gateway.seen().iter().all(|seen| seen.token.is_none()));
    assert_eq!(view(&sessions).state, "active");
    let stored: Vec<_> = scene.world.polled.lock().unwrap().iter().map(|(_, event)| event.clone()).collect();
    let expected: Vec<_> = (1..=stored.len()).map(|n| n.to_string()).collect();
    assert!(stored.len() > 1000 && stored == expected, "{} events", stored.len());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_stored_is_kept_and_no_other_is_asked_for() {
    let scene = polled();
    *scene.world.refusals.lock().unwrap() = 60;
    let _sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(scene.gateway.count(Poll), 1);
    assert!(scene.world.polled.lock().unwrap().is_empty());
    scene.pass(20).await;
    assert_eq!(scene.world.polled.lock().unwrap()[0].1, "1");
    assert!(scene.gateway.count(Poll) > 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_one_more_try_to_store_an_event_and_counts_one_that_is_lost() {
    for (refusals, lost) in [(u32::MAX, 1), (0, 0)] {
        let scene = polled();
        *scene.world.refusals.lock().unwrap() = u32::MAX;
        let sessions = scene.start();
        scene.pass(20).await;
        assert!(scene.world.polled.lock().unwrap().is_empty());
        *scene.world.refusals.lock().unwrap() = refusals;
        let began = tokio::time::Instant::now();
        sessions.shutdown(false).await;
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(scene.metrics.polled_events_lost.with_label_values(&["main"]).get(), lost);
        assert_eq!(scene.world.polled.lock().unwrap().len() as u64, 1 - lost);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_signed_in_for_pushes_waits_for_a_person() {
    let scene = polled();
    scene.gateway.always(Poll, Script::Code("000-001"));
    let sessions = scene.start();
    scene.pass(60).await;
    assert_eq!(view(&sessions).state, "suspended");
    assert_eq!(view(&sessions).reason, Some("wrong_event_mode"));
    assert_eq!(scene.gateway.count(Poll), 1);
}

#[tokio::test(start_paused = true)]
async fn polls_whose_answer_is_lost_are_counted_since_an_event_may_be_lost_with_each() {
    let scene = polled();
    for script in [Script::AnswerLost, Script::RequestLost, Script::Unreachable, Script::Code("100-007")] {
        scene.gateway.once(Poll, script);
    }
    let sessions = scene.start();
    scene.pass(60).await;
    assert_eq!(view(&sessions).state, "active");
    // One that was not sent, or was refused, has lost nothing.
    assert_eq!(scene.metrics.polls_unanswered.with_label_values(&["main"]).get(), 2);
    assert_eq!(scene.world.polled.lock().unwrap()[0].1, "2", "the first event is gone");
}
