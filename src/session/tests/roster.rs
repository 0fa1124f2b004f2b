//! Agents that come, change and go while the daemon runs, and sessions that other programs signed in.

use super::config::{AfterSignIn, AgentConfig, Mode, PasswordSource, SignInOptions, Skills};
use super::fake::{Scene, Script, agent, main_gateway, view};
use super::retcode::Operation::{ForceLogin, Handshake, Login, Logout, Poll, ResetSkill};
use super::*;

fn config(id: &str) -> AgentConfig {
    AgentConfig {
        gateway: main_gateway(),
        id: agent(id),
        password: PasswordSource::Fixed("pass".into()),
        skills: Skills::All,
        after_sign_in: AfterSignIn::default(),
        takeover: false,
        mode: crate::session::config::Mode::Push,
        options: SignInOptions { phone_number: "70004".into(), ..SignInOptions::default() },
    }
}

fn ticket(guid: &str) -> call::Ticket {
    call::Ticket::new(guid.into(), Vec::new())
}

fn state(sessions: &Sessions, id: &str) -> Option<&'static str> {
    sessions.view(&main_gateway(), &agent(id)).map(|view| view.state)
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_added_is_signed_in_and_one_that_is_removed_is_signed_out_and_forgotten() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    assert_eq!(sessions.put(config("501")), Ok(Change::Added));
    scene.pass(20).await;
    assert_eq!(state(&sessions, "501"), Some("active"));
    assert_eq!(sessions.put(config("501")), Ok(Change::Unchanged));
    assert!(sessions.remove(&main_gateway(), &agent("501")));
    assert!(!sessions.remove(&main_gateway(), &agent("501")), "it is leaving already");
    scene.pass(5).await;
    assert_eq!(state(&sessions, "501"), None);
    assert!(!scene.gateway.is_signed_in("501"));
    assert!(scene.world.stored.lock().unwrap().is_empty());
    assert_eq!(scene.reasons(), ["signed_in", "signed_out"]);
    let gauges: i64 = crate::metrics::SESSION_STATES
        .iter()
        .map(|state| scene.metrics.sessions.with_label_values(&["main", *state]).get())
        .sum();
    assert_eq!(gauges, 0);
    assert!(!sessions.failed().is_cancelled(), "leaving is no failure");
    assert!(!sessions.remove(&main_gateway(), &agent("501")));
    let other = AgentConfig { gateway: GatewayName::parse("other").unwrap(), ..config("501") };
    assert_eq!(sessions.put(other), Err(RosterError::UnknownGateway));
    sessions.shutdown(false).await;
    assert_eq!(sessions.put(config("501")), Err(RosterError::Stopping));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_an_agent_while_the_daemon_stops_is_not_answered_as_if_it_were_heard() {
    let says: [fn(&Sessions) -> bool; 4] = [
        |sessions| sessions.remove(&main_gateway(), &agent("291")),
        |sessions| sessions.release(&main_gateway(), &agent("291")),
        |sessions| sessions.sign_out(&main_gateway(), &agent("291")),
        |sessions| sessions.take_over(&main_gateway(), &agent("291")),
    ];
    for say in says {
        let scene = Scene::new();
        let sessions = scene.start();
        scene.pass(20).await;
        // Its task is at a heartbeat.
        scene.gateway.always(Handshake, Script::Slow);
        scene.pass(33).await;
        let stopped = sessions.shutdown(false);
        assert!(!say(&sessions) && sessions.is_stopping());
        stopped.await;
        let kept = scene.world.stored.lock().unwrap()["291"].session().cloned().expect("a session");
        assert!(!kept.leaving && !kept.wanted_out);
        assert!(scene.gateway.is_signed_in("291"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_while_it_leaves_has_never_two_tasks() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    sessions.put(config("501")).unwrap();
    scene.pass(20).await;
    scene.gateway.once(Logout, Script::RequestLost);
    assert!(sessions.remove(&main_gateway(), &agent("501")));
    scene.pass(2).await;
    assert_eq!(sessions.put(config("501")), Ok(Change::Added));
    assert_eq!(state(&sessions, "501"), Some("signing_out"));
    scene.pass(20).await;
    assert_eq!(state(&sessions, "501"), Some("active"));
    let calls: Vec<_> = scene.gateway.operations().into_iter().filter(|call| *call != Handshake).collect();
    assert_eq!(calls, [Login, ResetSkill, Logout, Logout, Login, ResetSkill]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_costs_no_session() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    sessions.put(config("501")).unwrap();
    scene.pass(20).await;
    let mut changed = config("501");
    changed.options.phone_number = "70005".into();
    changed.password = PasswordSource::Fixed("another".into());
    assert_eq!(sessions.put(changed.clone()), Ok(Change::Changed));
    scene.pass(100).await;
    assert_eq!((scene.gateway.count(Login), scene.gateway.count(ResetSkill)), (1, 1));
    changed.skills = Skills::Ids(vec![7]);
    assert_eq!(sessions.put(changed), Ok(Change::Changed));
    scene.pass(2).await;
    assert_eq!((scene.gateway.count(Login), scene.gateway.count(ResetSkill)), (1, 2));
    scene.gateway.throw_out("501");
    scene.pass(60).await;
    assert_eq!(scene.gateway.passwords(), ["pass", "another"], "the next sign-in has the new one");
    assert_eq!(state(&sessions, "501"), Some("active"));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_suspended_agent_is_tried_again_when_its_sign_in_is_changed_and_not_for_less() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    scene.gateway.always(Login, Script::Code("100-004"));
    sessions.put(config("501")).unwrap();
    scene.pass(20).await;
    assert_eq!(state(&sessions, "501"), Some("suspended"));
    scene.gateway.heal();
    let mut changed = config("501");
    changed.skills = Skills::Ids(Vec::new());
    sessions.put(changed.clone()).unwrap();
    scene.pass(100).await;
    assert_eq!(scene.gateway.operations(), [Login], "other skill queues are no other password");
    changed.password = PasswordSource::Fixed("another".into());
    sessions.put(changed).unwrap();
    scene.pass(10).await;
    assert_eq!(state(&sessions, "501"), Some("active"));
    assert_eq!(scene.gateway.count(Login), 2);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_session_is_kept_alive_with_tokens_of_ours_and_survives_a_restart() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    scene.gateway.sign_in_elsewhere("601", "their-guid");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-guid"), "theirToken".into()).unwrap();
    assert_eq!(scene.world.fixed.lock().unwrap()["601"], "theirToken");
    scene.pass(100).await;
    let view = sessions.view(&main_gateway(), &agent("601")).unwrap();
    assert!(view.state == "active" && view.adopted, "{view:?}");
    assert!(scene.gateway.operations().iter().all(|call| *call == Handshake));
    assert!(scene.gateway.seen()[0].token.as_ref().unwrap().starts_with("token601"));
    let held = sessions.ticket(&main_gateway(), &agent("601")).unwrap();
    assert_ne!(secrecy::ExposeSecret::expose_secret(&held.guid), "their-guid", "it was renewed");
    sessions.shutdown(false).await;
    assert!(sessions.ticket(&main_gateway(), &agent("601")).is_none());
    scene.world.fixed.lock().unwrap().clear();
    scene.pass(60).await;
    let sessions = scene.start();
    scene.pass(20).await;
    let view = sessions.view(&main_gateway(), &agent("601")).unwrap();
    assert!(view.state == "active" && view.adopted, "{view:?}");
    assert_eq!(scene.world.fixed.lock().unwrap()["601"], "theirToken");
    assert_eq!(scene.reasons(), ["adopted", "resumed"]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_lost_adopted_session_waits_for_a_person_unless_there_is_a_password() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    scene.gateway.sign_in_elsewhere("601", "their-guid");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-guid"), "theirToken".into()).unwrap();
    scene.pass(20).await;
    scene.gateway.throw_out("601");
    scene.pass(40).await;
    let lost = sessions.view(&main_gateway(), &agent("601")).unwrap();
    assert_eq!((lost.state, lost.reason), ("suspended", Some("adopted_session_lost")));
    assert!(scene.gateway.operations().iter().all(|call| *call == Handshake), "no sign-in of ours");
    sessions.sign_in(&main_gateway(), &agent("601"));
    sessions.take_over(&main_gateway(), &agent("601"));
    scene.pass(100).await;
    assert_eq!(state(&sessions, "601"), Some("suspended"));
    assert_eq!(scene.gateway.count(Login) + scene.gateway.count(ForceLogin), 0);
    // The program signs in anew and tells us.
    scene.gateway.sign_in_elsewhere("601", "their-second");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-second"), "theirSecond".into()).unwrap();
    scene.pass(10).await;
    assert_eq!(state(&sessions, "601"), Some("active"));
    // With a password the agent is signed in again like any other.
    assert_eq!(sessions.put(config("601")), Ok(Change::Changed));
    scene.gateway.throw_out("601");
    scene.pass(60).await;
    let back = sessions.view(&main_gateway(), &agent("601")).unwrap();
    assert!(back.state == "active" && !back.adopted, "{back:?}");
    assert_eq!(scene.gateway.count(Login), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn the_token_of_an_adopted_session_ends_with_it_and_not_with_the_session_before() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    scene.gateway.always(Handshake, Script::Slow);
    scene.gateway.sign_in_elsewhere("601", "their-guid");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-guid"), "theirToken".into()).unwrap();
    scene.pass(2).await;
    // That the first is lost is said only when the second is here.
    scene.gateway.sign_in_elsewhere("601", "their-second");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-second"), "theirSecond".into()).unwrap();
    scene.gateway.heal();
    scene.pass(20).await;
    assert_eq!(scene.reasons(), ["guid_refused", "adopted_session_lost", "adopted"]);
    assert_eq!(scene.world.fixed.lock().unwrap()["601"], "theirSecond");
    sessions.sign_out(&main_gateway(), &agent("601"));
    scene.pass(10).await;
    assert!(scene.world.fixed.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_guid_that_the_gateway_does_not_know_is_found_out_at_once() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    sessions.adopt(&main_gateway(), &agent("601"), ticket("invented"), "theirToken".into()).unwrap();
    scene.pass(2).await;
    let view = sessions.view(&main_gateway(), &agent("601")).unwrap();
    assert_eq!((view.state, view.reason), ("suspended", Some("adopted_session_lost")));
    assert_eq!(view.retcode.unwrap().as_str(), "100-006");
    assert!(scene.world.stored.lock().unwrap().is_empty());
    for (guid, token, error) in [
        ("", "theirToken", AdoptError::Guid),
        ("two words", "theirToken", AdoptError::Guid),
        ("guid", "short", AdoptError::Token),
        ("guid", "with a space", AdoptError::Token),
    ] {
        let result = sessions.adopt(&main_gateway(), &agent("602"), ticket(guid), token.into());
        assert_eq!(result, Err(error), "{guid} {token}");
    }
    assert_eq!(state(&sessions, "602"), None);
}

#[tokio::test(start_paused = true)]
async fn a_pushed_session_is_not_adopted_for_an_agent_who_is_polled() {
    let scene = Scene::with(&["291"], |_, agent| agent.mode = Mode::Poll);
    let sessions = scene.start();
    scene.pass(20).await;
    let adopt = || sessions.adopt(&main_gateway(), &agent("291"), ticket("theirs"), "theirToken".into());
    assert_eq!(adopt(), Err(AdoptError::Polled));
    scene.pass(20).await;
    assert_eq!((view(&sessions).state, view(&sessions).adopted), ("active", false));
    assert!(scene.world.fixed.lock().unwrap().is_empty(), "its token is not taken either");
    // What counts is how the agent comes back, where it is leaving.
    scene.gateway.always(Logout, Script::Code("100-010"));
    let polled = AgentConfig::clone(&scene.config.agents[0]);
    sessions.put(AgentConfig { mode: Mode::Push, ..polled.clone() }).unwrap();
    assert_eq!(adopt(), Ok(()));
    sessions.put(polled).unwrap();
    assert_eq!(adopt(), Err(AdoptError::Polled));
}

#[tokio::test(start_paused = true)]
async fn a_released_session_stays_open_at_the_gateway() {
    let scene = Scene::with(&[], |_, _| {});
    let sessions = scene.start();
    scene.gateway.sign_in_elsewhere("601", "their-guid");
    sessions.adopt(&main_gateway(), &agent("601"), ticket("their-guid"), "theirToken".into()).unwrap();
    scene.pass(20).await;
    assert!(sessions.release(&main_gateway(), &agent("601")));
    scene.pass(2).await;
    assert_eq!(state(&sessions, "601"), None);
    assert!(scene.gateway.is_signed_in("601"));
    assert!(scene.world.stored.lock().unwrap().is_empty());
    assert!(scene.world.fixed.lock().unwrap().is_empty());
    assert_eq!(scene.reasons(), ["adopted", "released"]);
    assert!(!sessions.failed().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_person_may_take_over_once_without_takeover() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.occupy("291");
    scene.pass(40).await;
    assert_eq!(view(&sessions).reason, Some("signed_in_elsewhere"));
    assert!(sessions.take_over(&main_gateway(), &agent("291")));
    scene.pass(10).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(ForceLogin), 1);
    scene.gateway.occupy("291");
    scene.pass(100).await;
    assert_eq!(view(&sessions).reason, Some("signed_in_elsewhere"), "once is once");
    assert_eq!(scene.gateway.count(ForceLogin), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_agent_who_is_taken_away_in_a_call_is_signed_out_after_it() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(600).await;
    assert_eq!(state(&sessions, "291"), Some("signing_out"));
    assert!(view(&sessions).leaving && !view(&sessions).adopted);
    assert!(scene.gateway.is_signed_in("291"), "thrown out in mid-call");
    // The gateway is away for half a minute, in one way or another, and the call goes on.
    for script in [Script::Unreachable, Script::RequestLost, Script::Code("000-004"), Script::Code("100-007")]
    {
        scene.gateway.heal();
        for operation in [Logout, Handshake] {
            scene.gateway.always(operation, script.clone());
        }
        scene.pass(30).await;
        scene.gateway.heal();
        scene.gateway.always(Logout, Script::Code("100-010"));
        scene.pass(200).await;
        assert_eq!(state(&sessions, "291"), Some("signing_out"), "{script:?}");
        assert!(scene.gateway.is_signed_in("291"), "thrown out in mid-call after {script:?}");
    }
    scene.gateway.heal();
    scene.pass(15).await;
    assert_eq!(state(&sessions, "291"), None);
    assert!(!scene.gateway.is_signed_in("291"));
    assert_eq!(scene.reasons(), ["signed_in", "signed_out"]);
    assert!(scene.world.stored.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_agent_who_is_taken_away_in_a_call_is_kept_over_restarts_and_signed_out_after_it() {
    for sign_out_on_stop in [false, true] {
        let mut scene = Scene::with(&["291"], |gateway, _| gateway.sign_out_on_stop = sign_out_on_stop);
        let mut sessions = scene.start();
        scene.pass(20).await;
        scene.gateway.always(Logout, Script::Code("100-010"));
        assert!(sessions.remove(&main_gateway(), &agent("291")));
        scene.pass(20).await;
        scene.config.agents.clear();
        for _ in 0..2 {
            sessions.shutdown(false).await;
            scene.pass(30).await;
            let beats = scene.gateway.count(Handshake);
            sessions = scene.start();
            scene.pass(300).await;
            assert_eq!(state(&sessions, "291"), Some("signing_out"));
            assert!(scene.gateway.is_signed_in("291"), "thrown out in mid-call");
            assert!(scene.gateway.count(Handshake) >= beats + 9);
        }
        scene.gateway.heal();
        let tries = scene.gateway.count(Logout);
        scene.pass(15).await;
        assert_eq!((state(&sessions, "291"), scene.gateway.count(Logout)), (None, tries + 1));
        assert!(!scene.gateway.is_signed_in("291"));
        assert!(scene.world.stored.lock().unwrap().is_empty());
        assert_eq!(scene.reasons(), ["signed_in", "resumed", "resumed", "signed_out"]);
        assert!(!sessions.failed().is_cancelled());
        sessions.shutdown(false).await;
        assert!(scene.start().list().is_empty());
        assert_eq!(scene.gateway.count(Login), 1);
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_who_was_leaving_for_another_mode_comes_back_in_it_after_a_restart() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    Arc::make_mut(&mut scene.config.agents[0]).mode = Mode::Poll;
    assert_eq!(sessions.put(scene.config.agents[0].clone()), Ok(Change::Changed));
    scene.pass(20).await;
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(200).await;
    assert_eq!(view(&sessions).state, "signing_out");
    assert!(scene.gateway.is_signed_in("291"), "thrown out in mid-call");
    scene.gateway.heal();
    scene.pass(20).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2));
    assert!(scene.gateway.count(Poll) > 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_session_has_ended_before_the_start_has_nothing_to_leave() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(20).await;
    sessions.shutdown(false).await;
    scene.pass(200).await;
    let agents = std::mem::take(&mut scene.config.agents);
    let stored = scene.world.stored.lock().unwrap().clone();
    scene.world.saves.lock().unwrap().clear();
    let sessions = scene.start();
    scene.pass(5).await;
    assert_eq!(state(&sessions, "291"), None);
    let saves = scene.world.saves.lock().unwrap().clone();
    let signed_out = |stored: &Option<Stored>| matches!(stored, Some(Stored::SignedOut { .. }));
    assert!(!saves.iter().any(signed_out), "nobody has signed it out: {saves:?}");
    assert!(scene.world.stored.lock().unwrap().is_empty());
    assert_eq!(scene.reasons(), ["signed_in", "signed_out"], "nobody is needed");
    sessions.shutdown(false).await;
    // One who is in the roster again is signed in as ever.
    *scene.world.stored.lock().unwrap() = stored;
    scene.config.agents = agents;
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_released_session_is_not_signed_out_by_a_later_start() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.release(&main_gateway(), &agent("291")));
    sessions.shutdown(false).await;
    scene.config.agents.clear();
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.list().is_empty());
    assert_eq!((scene.gateway.count(Logout), scene.gateway.is_signed_in("291")), (0, true));
}

#[tokio::test(start_paused = true)]
async fn an_adopted_session_of_an_agent_in_the_roster_survives_a_restart() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(20).await;
    scene.gateway.sign_in_elsewhere("291", "their-guid");
    sessions.adopt(&main_gateway(), &agent("291"), ticket("their-guid"), "theirToken".into()).unwrap();
    scene.pass(20).await;
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(20).await;
    assert!(view(&sessions).state == "active" && view(&sessions).adopted, "{:?}", view(&sessions));
    assert_eq!(scene.gateway.count(Login), 1);
    // It has a password still.
    scene.gateway.throw_out("291");
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2));
    scene.gateway.check();
}

/// A session that was signed in as configured, a start with a changed configuration while the agent is in a call, and what must come of it.
async fn changed_over_a_restart(scene: &mut Scene, change: impl FnOnce(&mut Scene), case: &str) {
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    change(scene);
    scene.gateway.always(Logout, Script::Code("100-010"));
    let sessions = scene.start();
    scene.pass(300).await;
    assert_eq!(view(&sessions).state, "signing_out", "{case}");
    assert!(scene.gateway.is_signed_in("291"), "thrown out in mid-call: {case}");
    assert_eq!(scene.gateway.count(Login), 1);
    scene.gateway.heal();
    scene.pass(20).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("active", None), "{case}");
    assert_eq!(scene.reasons(), ["signed_in", "resumed", "signed_out", "signed_in"]);
    // Once is enough.
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 2), "{case}");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_start_with_another_mode_signs_agents_out_after_their_calls_and_in_again() {
    use Mode::{LegacyPush, Push};
    for (before, after) in [(Push, Mode::Poll), (Mode::Poll, Push), (Push, LegacyPush), (LegacyPush, Push)] {
        let mut scene = Scene::with(&["291"], |_, agent| agent.mode = before);
        let change = |scene: &mut Scene| Arc::make_mut(&mut scene.config.agents[0]).mode = after;
        changed_over_a_restart(&mut scene, change, &format!("{before:?} {after:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_with_another_callback_address_tells_it_to_the_gateway_by_signing_agents_out_and_in() {
    let change = |scene: &mut Scene| {
        scene.config.gateways[0].callback_uri = "https://relay.example/push/mended".into();
    };
    changed_over_a_restart(&mut Scene::new(), change, "callback_uri").await;
}

#[tokio::test(start_paused = true)]
async fn another_callback_address_is_nothing_to_those_who_are_polled_or_adopted_or_of_an_earlier_version() {
    for (mode, stored_before) in [(Mode::Poll, false), (Mode::Push, true)] {
        let mut scene = Scene::with(&["291"], |_, agent| agent.mode = mode);
        let sessions = scene.start();
        scene.gateway.sign_in_elsewhere("601", "their-guid");
        sessions.adopt(&main_gateway(), &agent("601"), ticket("their-guid"), "theirToken".into()).unwrap();
        scene.pass(100).await;
        sessions.shutdown(false).await;
        if stored_before {
            let mut stored = scene.world.stored.lock().unwrap();
            let Some(Stored::Session(session)) = stored.get_mut("291") else { panic!("no session") };
            assert!(session.callback.take().is_some());
        }
        scene.config.gateways[0].callback_uri = "https://relay.example/push/mended".into();
        let sessions = scene.start();
        scene.pass(100).await;
        assert!(sessions.list().iter().all(|view| view.state == "active"), "{mode:?}");
        assert_eq!((scene.gateway.count(Login), scene.gateway.count(Logout)), (1, 0), "{mode:?}");
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_an_earlier_version_stored_is_taken_for_what_the_agent_is_configured_as() {
    use Mode::{LegacyPush, Push};
    for (before, after, sign_ins) in
        [(Push, Push, 1), (Mode::Poll, Mode::Poll, 1), (LegacyPush, LegacyPush, 1), (LegacyPush, Push, 2)]
    {
        let mut scene = Scene::with(&["291"], |_, agent| agent.mode = before);
        let sessions = scene.start();
        scene.pass(100).await;
        sessions.shutdown(false).await;
        let stored = serde_json::to_value(&scene.world.stored.lock().unwrap()["291"]).unwrap();
        let serde_json::Value::Object(mut stored) = stored else { panic!("{stored}") };
        assert!(stored.remove("mode").is_some());
        let stored = serde_json::from_value(stored.into()).unwrap();
        scene.world.stored.lock().unwrap().insert("291".into(), stored);
        Arc::make_mut(&mut scene.config.agents[0]).mode = after;
        let sessions = scene.start();
        scene.pass(100).await;
        let end = (view(&sessions).state, scene.gateway.count(Login));
        assert_eq!(end, ("active", sign_ins), "{before:?} {after:?}");
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_whom_a_person_has_signed_out_stays_so_over_restarts_and_in_another_mode() {
    let scene = Scene::new();
    let mut sessions = scene.start();
    scene.pass(20).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    for _ in 0..2 {
        sessions.shutdown(false).await;
        sessions = scene.start();
        scene.pass(200).await;
        assert_eq!(view(&sessions).state, "signed_out");
    }
    let mut other = AgentConfig::clone(&scene.config.agents[0]);
    other.mode = Mode::LegacyPush;
    assert_eq!(sessions.put(other), Ok(Change::Changed));
    scene.pass(200).await;
    assert_eq!(view(&sessions).state, "signed_out");
    assert_eq!(scene.gateway.count(Login), 1);

    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert_eq!(view(&sessions).state, "active");
    // One who is taken away and added again is a new agent.
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    sessions.put(scene.config.agents[0].clone()).unwrap();
    scene.pass(5).await;
    assert_eq!(view(&sessions).state, "active");
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!(view(&sessions).state, "active");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_again_and_again_does_not_try_a_refused_account_each_time() {
    let scene = Scene::new();
    scene.gateway.always(Login, Script::Code("100-004"));
    let mut sessions = scene.start();
    scene.pass(5).await;
    for away in [1, 300, 500] {
        sessions.shutdown(false).await;
        scene.pass(away).await;
        sessions = scene.start();
        scene.pass(10).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some("bad_credentials")));
        assert_eq!(scene.gateway.count(Login), 1, "away for {away} s");
    }
    // A person's word counts at once, and so does a start that is one of few.
    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert_eq!(scene.gateway.count(Login), 2);
    sessions.shutdown(false).await;
    scene.pass(700).await;
    let sessions = scene.start();
    scene.pass(5).await;
    assert_eq!(scene.gateway.count(Login), 3);
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert!(scene.world.stored.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_before_the_first_sign_in_is_remembered_too() {
    let scene = Scene::new();
    scene.gateway.always(Login, Script::Unreachable);
    let sessions = scene.start();
    scene.pass(5).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    sessions.shutdown(false).await;
    scene.gateway.heal();
    let sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "signed_out");
}

#[test]
fn agents_can_be_added_from_another_runtime() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (home, other) = (runtime(), runtime());
    let scene = Scene::with(&[], |_, _| {});
    let sessions = home.block_on(async { scene.start() });
    other.block_on(async { sessions.put(config("501")) }).unwrap();
    home.block_on(scene.pass(10));
    assert_eq!(state(&sessions, "501"), Some("active"));
}
