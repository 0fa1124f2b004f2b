//! Agents who are to be signed out, for good or until a person says otherwise, and what comes between.

use super::fake::{Scene, Script, agent, main_gateway, view};
use super::retcode::Operation::{ForceLogin, Handshake, Login, Logout};
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
async fn a_gateway_whose_answers_are_lost_for_a_while_turns_no_sign_out_into_a_sign_in() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    for operation in [Handshake, Logout] {
        scene.gateway.always(operation, Script::AnswerLost);
    }
    scene.pass(20).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(15).await;
    assert!(!scene.gateway.is_signed_in("291"), "signed out, and nobody was told");
    scene.gateway.heal();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "signing_out");
    assert!(view(&sessions).degraded.contains(&"sign_out_unconfirmed"), "{:?}", view(&sessions));
    scene.pass(200).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("signed_out", Some("signed_out")));
    assert_eq!(scene.gateway.count(Login) + scene.gateway.count(ForceLogin), 1);
    assert!(view(&sessions).degraded.is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_while_calls_go_to_an_address_that_does_not_know_the_session_signs_nobody_in_there() {
    for returns in [false, true] {
        let scene = Scene::new();
        let sessions = scene.start();
        scene.pass(20).await;
        scene.gateway.move_to(1);
        assert!(sessions.sign_out(&main_gateway(), &agent("291")));
        scene.pass(60).await;
        let seen = view(&sessions);
        assert_eq!((seen.state, seen.reason), ("signing_out", Some("sign_out_unconfirmed")));
        assert!(seen.sign_out_budget_secs.is_some_and(|left| left < 60.0));
        let alarmed = scene.metrics.about_to_be_signed_out.with_label_values(&["main"]).get();
        assert_eq!(alarmed, 0, "it is to end");
        assert!(scene.gateway.is_signed_in("291"), "where it is not asked for");
        if returns {
            scene.gateway.move_to(0);
        }
        scene.pass(if returns { 15 } else { 100 }).await;
        assert_eq!((view(&sessions).state, scene.gateway.is_signed_in("291")), ("signed_out", false));
        assert_eq!(scene.gateway.count(Login) + scene.gateway.count(ForceLogin), 1);
        assert_eq!(scene.reasons(), ["signed_in", "sign_out_unconfirmed", "signed_out"]);
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

#[tokio::test(start_paused = true)]
async fn an_agent_who_is_taken_away_in_a_call_is_signed_out_after_it_also_when_a_kill_comes_at_once() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    let beats = scene.gateway.count(Handshake);
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(1).await;
    assert_eq!((scene.gateway.count(Logout), scene.gateway.count(Handshake)), (1, beats));
    kill(&scene, sessions).await;
    scene.config.agents.clear();
    scene.pass(30).await;
    let sessions = scene.start();
    scene.pass(300).await;
    assert_eq!(view(&sessions).state, "signing_out");
    assert!(scene.gateway.is_signed_in("291"), "its call was cut");
    scene.gateway.heal();
    scene.pass(15).await;
    assert!(sessions.list().is_empty() && !scene.gateway.is_signed_in("291"));
    assert!(scene.world.stored.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_during_an_outage_has_ended_on_the_topics_too() {
    for outage in [150, 5] {
        let scene = Scene::with(&["1", "2"], |_, _| {});
        let sessions = scene.start();
        scene.pass(20).await;
        for operation in [Handshake, Login, Logout] {
            scene.gateway.always(operation, Script::Unreachable);
        }
        scene.pass(outage).await;
        assert!(sessions.sign_out(&main_gateway(), &agent("1")));
        assert!(sessions.remove(&main_gateway(), &agent("2")));
        scene.pass(150).await;
        let gone = sessions.view(&main_gateway(), &agent("1")).unwrap();
        assert_eq!((gone.state, gone.reason), ("signed_out", Some("signed_out")));
        for id in ["1", "2"] {
            let journal = scene.world.journal.lock().unwrap();
            let told = journal.iter().filter(|(of, _)| of == id).map(|(_, event)| event.reason);
            let told: Vec<_> = told.filter(|reason| *reason != "heartbeats_failing").collect();
            assert_eq!(told, ["signed_in", "timed_out", "signed_out"], "{id}, {outage} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_of_agents_who_are_in_no_roster_any_more_goes_after_an_hour_and_not_before() {
    let mut scene = Scene::with(&["1", "2", "3"], |_, _| {});
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("2")));
    assert!(sessions.sign_out(&main_gateway(), &agent("3")));
    scene.pass(5).await;
    scene.gateway.once(Login, Script::Code("110-016"));
    assert!(sessions.sign_in(&main_gateway(), &agent("3")));
    scene.pass(5).await;
    sessions.shutdown(false).await;
    let stored = |scene: &Scene| {
        let mut ids: Vec<_> = scene.world.stored.lock().unwrap().keys().cloned().collect();
        ids.sort();
        ids
    };
    // As a clock that is wrong has it, the session is long past.
    scene.clock.advance(Duration::from_secs(7200));
    let agents = std::mem::take(&mut scene.config.agents);
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    assert_eq!(stored(&scene), ["1", "2", "3"]);
    scene.config.agents.clone_from(&agents);
    let sessions = scene.start();
    scene.pass(20).await;
    let state = |sessions: &Sessions, id| sessions.view(&main_gateway(), &agent(id)).unwrap().state;
    assert_eq!((state(&sessions, "1"), state(&sessions, "2")), ("active", "signed_out"));
    assert_eq!(scene.gateway.count(Login), 5, "no session was lost");
    sessions.shutdown(false).await;

    scene.config.agents.clear();
    let sessions = scene.start();
    scene.pass(3590).await;
    assert_eq!(stored(&scene).len(), 3);
    scene.pass(20).await;
    assert_eq!(stored(&scene).len(), 0);
    sessions.shutdown(false).await;
    // Months later it is a new agent, whom nobody has signed out.
    scene.config.agents = agents;
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    scene.gateway.check();
}

/// An agent in a call that is to come back in another mode, and its configuration then.
async fn leaving_for_another_mode() -> (Scene, Sessions) {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    Arc::make_mut(&mut scene.config.agents[0]).mode = config::Mode::LegacyPush;
    assert_eq!(sessions.put(scene.config.agents[0].clone()), Ok(Change::Changed));
    scene.pass(5).await;
    assert!(view(&sessions).leaving);
    (scene, sessions)
}

#[tokio::test(start_paused = true)]
async fn what_a_person_says_of_an_agent_who_leaves_to_come_back_holds_then() {
    for killed in [false, true] {
        for (words, end) in
            [(&[false][..], "signed_out"), (&[false, true], "active"), (&[true, false], "signed_out")]
        {
            let (scene, mut sessions) = leaving_for_another_mode().await;
            for signed_in in words {
                let say = if *signed_in { Sessions::sign_in } else { Sessions::sign_out };
                assert!(say(&sessions, &main_gateway(), &agent("291")));
                scene.pass(2).await;
            }
            if killed {
                kill(&scene, sessions).await;
                sessions = scene.start();
                scene.pass(20).await;
            }
            assert_eq!(view(&sessions).state, "signing_out", "its call goes on");
            scene.gateway.heal();
            scene.pass(60).await;
            assert_eq!(view(&sessions).state, end, "{words:?} {killed}");
            let sign_ins = if end == "active" { 2 } else { 1 };
            assert_eq!(scene.gateway.count(Login), sign_ins, "{words:?} {killed}");
            scene.gateway.check();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_who_was_signed_out_before_it_leaves_to_come_back_stays_out_over_a_kill() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Unreachable);
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    Arc::make_mut(&mut scene.config.agents[0]).mode = config::Mode::LegacyPush;
    assert_eq!(sessions.put(scene.config.agents[0].clone()), Ok(Change::Changed));
    scene.pass(1).await;
    kill(&scene, sessions).await;
    let sessions = scene.start();
    scene.pass(5).await;
    scene.gateway.heal();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_the_task_has_not_heard_yet_holds_in_another_mode() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Handshake, Script::Slow);
    let beats = scene.gateway.count(Handshake);
    while scene.gateway.count(Handshake) == beats {
        scene.pass(1).await;
    }
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    let mut other = config::AgentConfig::clone(&scene.config.agents[0]);
    other.mode = config::Mode::LegacyPush;
    assert_eq!(sessions.put(other), Ok(Change::Changed));
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));
}

#[tokio::test(start_paused = true)]
async fn a_further_change_while_an_agent_leaves_takes_back_neither_a_persons_word_nor_an_adoption() {
    let (scene, sessions) = leaving_for_another_mode().await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    let mut other = config::AgentConfig::clone(&scene.config.agents[0]);
    other.takeover = true;
    assert_eq!(sessions.put(other.clone()), Ok(Change::Added));
    scene.gateway.heal();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));

    for (mode, out, end) in [
        (config::Mode::Push, false, ("active", true, 1)),
        (config::Mode::Push, true, ("signed_out", false, 1)),
        (config::Mode::Poll, false, ("active", false, 2)),
    ] {
        let (scene, sessions) = leaving_for_another_mode().await;
        scene.gateway.sign_in_elsewhere("291", "theirs");
        let theirs = call::Ticket::new("theirs".into(), Vec::new());
        sessions.adopt(&main_gateway(), &agent("291"), theirs, "theirToken".into()).unwrap();
        other.mode = mode;
        assert_eq!(sessions.put(other.clone()), Ok(Change::Added));
        if out {
            assert!(sessions.sign_out(&main_gateway(), &agent("291")));
        }
        scene.gateway.heal();
        scene.pass(60).await;
        let seen = view(&sessions);
        let adopted = seen.adopted && scene.gateway.is_signed_in("291");
        assert_eq!((seen.state, adopted, scene.gateway.count(Login)), end, "{mode:?} {out}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_person_who_takes_over_while_the_agent_leaves_is_heard_when_it_comes_back() {
    let (scene, sessions) = leaving_for_another_mode().await;
    assert!(sessions.take_over(&main_gateway(), &agent("291")));
    scene.gateway.occupy("291");
    scene.gateway.heal();
    scene.pass(15).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(ForceLogin)), ("active", 1));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_put_again_after_a_restart_is_as_it_was_left() {
    // Signed out by a person, or with an account that may lock.
    for (out, end) in [(true, "signed_out"), (false, "suspended")] {
        let mut scene = Scene::new();
        let config = scene.config.agents.remove(0);
        let sessions = scene.start();
        if !out {
            scene.gateway.always(Login, Script::Code("110-016"));
        }
        sessions.put(config.clone()).unwrap();
        scene.pass(20).await;
        if out {
            assert!(sessions.sign_out(&main_gateway(), &agent("291")));
            scene.pass(5).await;
        }
        sessions.shutdown(false).await;
        let sessions = scene.start();
        scene.pass(20).await;
        assert_eq!(sessions.put(config.clone()), Ok(Change::Added));
        scene.pass(20).await;
        assert_eq!((view(&sessions).state, scene.gateway.count(Login)), (end, 1));
        // A person's word counts, and an agent who was taken away is a new one.
        scene.gateway.heal();
        assert!(sessions.sign_in(&main_gateway(), &agent("291")));
        scene.pass(20).await;
        assert_eq!(view(&sessions).state, "active");
        assert!(sessions.sign_out(&main_gateway(), &agent("291")));
        scene.pass(5).await;
        assert!(sessions.remove(&main_gateway(), &agent("291")));
        scene.pass(5).await;
        sessions.put(config.clone()).unwrap();
        scene.pass(20).await;
        assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 3));
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_persons_sign_out_of_an_agent_who_leaves_to_come_back_outlasts_a_stop_that_signs_out() {
    let (scene, sessions) = leaving_for_another_mode().await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(2).await;
    scene.gateway.heal();
    sessions.shutdown(true).await;
    assert!(!scene.gateway.is_signed_in("291"));
    let sessions = scene.start();
    scene.pass(30).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signed_out", 1));
}
