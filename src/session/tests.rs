//! Whole sessions on paused time against a gateway in memory that notes every breach of the protocol.

use std::time::Duration;

use super::retcode::Operation::{ForceLogin, Handshake, Login, Logout, ResetSkill, UpdateGuid};
use super::*;

mod addresses;
mod clocks;
mod fake;
mod guids;
mod legacy;
mod model;
mod passing_on;
mod passwords;
mod polling;
mod roster;
mod settings;
mod signing_out;
mod size;
mod slow;
mod standstill;
mod unanswered;

use fake::{Scene, Script, Seen, agent, main_gateway, view};

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
        assert!(gap >= Duration::from_secs(23) && gap <= Duration::from_secs(34), "{gap:?}");
        assert_ne!(pair[0].token, pair[1].token, "each heartbeat brings a fresh token");
    }
    assert!(scene.metrics.guid_changes.with_label_values(&["main"]).get() >= 15);
    assert_eq!(scene.reasons(), ["signed_in"]);
    assert_eq!(view(&sessions).media_type.as_deref(), Some("TTF"));
    assert_eq!(view(&sessions).media, Some(Media { voice: true, text_chat: true, mail: false }));
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
    // When it began by the gateway's clock is told with its begin only.
    let told: Vec<_> =
        scene.world.journal.lock().unwrap().iter().map(|(_, event)| event.login_time).collect();
    assert_eq!(told, [Some(fake::LOGIN_TIME), None]);
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

#[tokio::test(start_paused = true)]
async fn a_new_guid_that_is_never_asked_for_and_lost_costs_the_session_and_nobody_is_forced_out() {
    for takeover in [false, true] {
        let scene = Scene::with(&["291"], |gateway, agent| {
            gateway.guid_renewal = None;
            // So that no heartbeat comes at the second in which a GUID dies.
            gateway.heartbeat_interval = Duration::from_secs(31);
            agent.takeover = takeover;
        });
        // The gateway tells each GUID once, and the answer to the heartbeat that brings the first does not arrive.
        scene.gateway.change_guids(Duration::from_secs(60), 1);
        let sessions = scene.start();
        scene.pass(70).await;
        assert_eq!(scene.gateway.guids_to_lose(), 0);
        assert_eq!(view(&sessions).state, "active", "the one before is taken for a minute yet");
        scene.pass(60).await;
        assert_eq!(scene.metrics.session_losses.with_label_values(&["main", "guid_refused"]).get(), 1);
        let state = if takeover { "active" } else { "recovering" };
        assert_eq!(view(&sessions).state, state);
        // Our own session, which nobody keeps alive, ends by itself.
        scene.pass(150).await;
        assert_eq!(view(&sessions).state, "active");
        assert!(scene.gateway.is_signed_in("291"));
        let sign_ins = scene.gateway.count(Login);
        assert!(if takeover { sign_ins == 2 } else { sign_ins > 4 }, "{sign_ins}");
        assert_eq!(scene.gateway.count(ForceLogin), usize::from(takeover));
        assert_eq!(scene.gateway.count(UpdateGuid), 0);
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_whose_answer_is_lost_is_waited_for_and_nobody_is_forced_out() {
    let scene = Scene::new();
    scene.gateway.once(Login, Script::AnswerLost);
    let sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "signing_in");
    assert_eq!(view(&sessions).retcode.unwrap().as_str(), "100-002");
    // The gateway ends a session that nobody keeps alive.
    scene.pass(140).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    assert_eq!(scene.metrics.sign_ins.with_label_values(&["main", "timeout"]).get(), 1);
    assert!(scene.metrics.sign_ins.with_label_values(&["main", "signed_in_elsewhere"]).get() >= 5);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_has_lost_its_memory_signs_its_agents_in_again_when_their_sessions_have_ended() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    scene.world.stored.lock().unwrap().clear();
    let sessions = scene.start();
    scene.pass(20).await;
    assert_eq!(view(&sessions).state, "signing_in");
    scene.pass(140).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn somebody_who_took_over_is_left_in_peace_without_takeover_and_forced_out_with_it() {
    for takeover in [false, true] {
        let scene = Scene::with(&["291"], |_, agent| agent.takeover = takeover);
        let sessions = scene.start();
        scene.pass(100).await;
        scene.gateway.occupy("291");
        scene.pass(40).await;
        let view = view(&sessions);
        if takeover {
            assert_eq!(view.state, "active");
            assert_eq!(scene.reasons(), ["signed_in", "guid_refused", "taken_over"]);
        } else {
            assert_eq!((view.state, view.reason), ("suspended", Some("signed_in_elsewhere")));
            assert_eq!(view.retcode.unwrap().as_str(), "100-002");
            assert_eq!(view.sign_out_budget_secs, None);
            let calls = scene.gateway.seen().len();
            scene.pass(3600).await;
            assert_eq!(scene.gateway.seen().len(), calls, "suspended means no calls");
        }
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn codes_that_need_a_person_are_met_once_and_never_repeated() {
    for (code, reason) in [
        ("100-001", "request_refused"),
        ("100-004", "bad_credentials"),
        ("100-013", "phone_refused"),
        ("100-014", "phone_refused"),
        ("100-015", "not_replaceable"),
        ("100-020", "password_expired"),
        ("110-016", "account_locked"),
    ] {
        let scene = Scene::new();
        scene.gateway.always(Login, Script::Code(code));
        let sessions = scene.start();
        scene.pass(1000).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some(reason)), "{code}");
        assert_eq!(scene.gateway.operations(), [Login], "{code}");
        assert_eq!(scene.metrics.sign_ins.with_label_values(&["main", "suspended"]).get(), 1);
        scene.gateway.heal();
        assert!(sessions.sign_in(&main_gateway(), &agent("291")));
        scene.pass(10).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("active", None));
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_that_must_be_changed_is_left_to_a_person_and_the_session_closed() {
    let scene = Scene::new();
    scene.gateway.once(Login, Script::PasswordChange);
    let sessions = scene.start();
    scene.pass(60).await;
    assert_eq!(view(&sessions).reason, Some("password_change_required"));
    assert!(!scene.gateway.is_signed_in("291"));
    assert_eq!(scene.gateway.operations(), [Login, Logout]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_missing_password_file_is_a_reason_to_suspend_and_is_read_again_when_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "pass\n").unwrap();
    let missing = file.path().with_extension("missing");
    let scene = Scene::with(&["291"], |_, agent| {
        agent.password = config::PasswordSource::File(missing.clone());
    });
    let sessions = scene.start();
    scene.pass(30).await;
    assert_eq!(view(&sessions).reason, Some("password_unreadable"));
    assert!(scene.gateway.seen().is_empty());
    std::fs::rename(file.path(), &missing).unwrap();
    sessions.sign_in(&main_gateway(), &agent("291"));
    scene.pass(10).await;
    std::fs::remove_file(&missing).unwrap();
    assert_eq!(view(&sessions).state, "active");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_limit_costs_no_session() {
    for script in [Script::Unreachable, Script::RequestLost, Script::Code("100-007"), Script::Code("what?")] {
        let scene = Scene::new();
        let sessions = scene.start();
        // The GUID was renewed just now: it will last as long as the session.
        scene.pass(66).await;
        scene.gateway.always(Handshake, script);
        scene.pass(75).await;
        let budget = view(&sessions).sign_out_budget_secs.unwrap();
        assert!(budget < 60.0, "{budget}");
        assert_eq!(view(&sessions).reason, Some("heartbeats_failing"));
        let gauge = scene.metrics.sign_out_budget.with_label_values(&["main"]).get();
        assert!((gauge - budget).abs() <= 3.0, "{gauge} {budget}");
        scene.gateway.heal();
        scene.pass(15).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("active", None));
        assert_eq!(scene.gateway.count(Login), 1);
        assert_eq!(scene.reasons(), ["signed_in", "heartbeats_failing"]);
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_long_outage_agents_come_back_by_themselves() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(100).await;
    for operation in [Login, Handshake] {
        scene.gateway.always(operation, Script::Unreachable);
    }
    scene.pass(1000).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("recovering", Some("timed_out")));
    scene.gateway.heal();
    scene.pass(40).await;
    assert_eq!(view(&sessions).state, "active");
    let tries = scene.gateway.count(Login);
    assert!((20..80).contains(&tries), "{tries} sign-ins in a quarter of an hour");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_sign_in_at_the_configured_rate_and_their_heartbeats_are_spread() {
    let ids: Vec<String> = (1000..2000).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::with(&ids, |_, _| {});
    let sessions = scene.start();
    scene.pass(120).await;
    let active = |sessions: &Sessions| sessions.list().iter().filter(|view| view.state == "active").count();
    assert_eq!(active(&sessions), 1000);
    assert_eq!(scene.metrics.sessions.with_label_values(&["main", "active"]).get(), 1000);
    assert!(busiest_second(&scene, Login) <= 21);
    assert!(busiest_second(&scene, Handshake) <= 100);
    // The gateway restarts and has forgotten everybody.
    for id in &ids {
        scene.gateway.throw_out(id);
    }
    scene.pass(110).await;
    assert_eq!(active(&sessions), 1000);
    assert!(busiest_second(&scene, Login) <= 21);
    sessions.shutdown(true).await;
    assert!(ids.iter().all(|id| !scene.gateway.is_signed_in(id)));
    assert!(scene.world.stored.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn the_first_of_many_are_those_that_sorting_all_would_give() {
    let ids: Vec<String> = (900..1300).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::with(&ids, |_, _| {});
    let sessions = scene.start();
    // Half of them are signed in by then.
    scene.pass(10).await;
    let mut all = sessions.list();
    // By an order that is not that of the table, in which many are alike: the last digit.
    let urgency = |id: &AgentId| id.as_str().bytes().last().map_or(0, u64::from);
    let place = |id: &AgentId| (urgency(id), id.as_str().len(), id.clone());
    all.sort_by_key(|view| place(&view.agent_id));
    assert!(all.iter().any(|view| view.state == "active") && all.iter().any(|view| view.state != "active"));
    for most in [0, 1, 7, 399, 400, 1000] {
        let mut glances = 0;
        let first = sessions.first(most, |glance| {
            glances += 1;
            Some(urgency(glance.agent_id()))
        });
        assert_eq!(glances, 400);
        let expected: Vec<_> =
            all.iter().take(most).map(|view| (urgency(&view.agent_id), view.clone())).collect();
        assert_eq!(first, expected, "{most}");
    }
    let mut seen = Vec::new();
    let active = sessions.first(1000, |glance| {
        let state = glance.state();
        let known = session_reasons(glance);
        seen.push((glance.gateway().clone(), glance.agent_id().clone(), known, glance.sign_out_budget()));
        (state == "active").then_some(0)
    });
    assert_eq!(active.len(), all.iter().filter(|view| view.state == "active").count());
    for (gateway, agent_id, known, budget) in seen {
        let view = sessions.view(&gateway, &agent_id).unwrap();
        let shown: Vec<_> = view.reason.into_iter().collect();
        assert_eq!((known, budget.map(|left| left.as_secs_f64())), (shown, view.sign_out_budget_secs));
    }
    scene.gateway.check();
}

fn session_reasons(glance: Glance<'_>) -> Vec<&'static str> {
    reasons().filter(|reason| glance.has_reason(reason)).collect()
}

fn busiest_second(scene: &Scene, operation: retcode::Operation) -> usize {
    let times: Vec<_> =
        scene.gateway.seen().iter().filter(|seen| seen.operation == operation).map(|seen| seen.at).collect();
    let busy =
        |start: usize| times[start..].partition_point(|at| *at - times[start] < Duration::from_secs(1));
    (0..times.len()).map(busy).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_resumed_sessions_are_all_checked_in_time_with_no_sign_in() {
    let ids: Vec<String> = (1000..2000).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::with(&ids, |_, _| {});
    let sessions = scene.start();
    scene.pass(120).await;
    sessions.shutdown(false).await;
    assert_eq!(scene.metrics.sessions.with_label_values(&["main", "active"]).get(), 0);
    scene.pass(50).await;
    let sessions = scene.start();
    scene.pass(40).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    assert_eq!(scene.gateway.count(Login), 1000);
    assert!(busiest_second(&scene, Handshake) <= 400);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_person_signs_an_agent_out_and_in_again() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert_eq!(view(&sessions).state, "signed_out");
    assert!(!scene.gateway.is_signed_in("291"));
    let calls = scene.gateway.seen().len();
    scene.pass(600).await;
    assert_eq!(scene.gateway.seen().len(), calls);
    sessions.sign_in(&main_gateway(), &agent("291"));
    scene.pass(10).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.reasons(), ["signed_in", "signed_out", "signed_in"]);
    assert!(!sessions.sign_in(&main_gateway(), &agent("292")));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn failing_pushes_use_up_the_budget_although_heartbeats_succeed() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.note_push(&main_gateway(), &agent("291"), false);
    scene.pass(100).await;
    let budget = view(&sessions).sign_out_budget_secs.unwrap();
    assert!((18.0..=21.0).contains(&budget), "{budget}");
    sessions.note_push(&main_gateway(), &agent("291"), true);
    assert!(view(&sessions).sign_out_budget_secs.unwrap() > 80.0);
    sessions.note_push(&main_gateway(), &agent("999"), false);
}

#[tokio::test(start_paused = true)]
async fn stopping_signs_out_where_the_gateway_is_configured_so() {
    let scene = Scene::with(&["291"], |gateway, _| gateway.sign_out_on_stop = true);
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    assert!(!scene.gateway.is_signed_in("291"));
    assert!(!sessions.failed().is_cancelled());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_nobody_waits_for_is_heard_all_the_same() {
    let scene = Scene::new();
    let sessions = scene.start();
    drop(sessions.shutdown(false));
    scene.pass(300).await;
    assert_eq!(scene.gateway.operations(), [], "nobody was signed in");
    assert!(!sessions.failed().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_skill_queues_enters_none() {
    let scene = Scene::with(&["291"], |_, agent| agent.skills = config::Skills::Ids(Vec::new()));
    let _sessions = scene.start();
    scene.pass(100).await;
    assert_eq!(scene.gateway.count(ResetSkill), 0);
    assert_eq!(scene.gateway.operations()[..2], [Login, Handshake]);
}

#[tokio::test(start_paused = true)]
async fn where_the_gateway_alone_renews_guids_a_restart_of_almost_a_minute_finds_each_alive() {
    let ids: Vec<String> = (1000..1200).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::with(&ids, |gateway, _| gateway.guid_renewal = None);
    let mut oldest = Vec::new();
    // The sign-ins of 200 agents at 20 a second and the walk of the heartbeats give GUIDs of many ages.
    for uptime in [130, 161, 185, 250] {
        let sessions = scene.start();
        scene.pass(uptime).await;
        oldest.push(scene.metrics.guid_oldest_age.with_label_values(&["main"]).get());
        sessions.shutdown(false).await;
        scene.pass(53).await;
    }
    let sessions = scene.start();
    scene.pass(10).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    assert_eq!(scene.gateway.count(Login) + scene.gateway.count(ForceLogin), 200);
    let near = |age: &f64| (55.0..=63.0).contains(age);
    assert!(oldest.iter().any(near) && oldest.iter().all(|age| *age <= 63.0), "{oldest:?}");
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn resumed_sessions_are_checked_in_the_order_of_their_guids_ages() {
    let scene = Scene::with(&["1", "2", "3"], |_, _| {});
    let now = scene.clock.now();
    for (id, age) in [("1", 40), ("2", 70), ("3", 55)] {
        scene.gateway.sign_in_elsewhere(id, id);
        let stored = StoredSession {
            ticket: call::Ticket::new(id.into(), Vec::new()),
            last_success: Timestamp(now.millis() - 30_000),
            past: false,
            began: None,
            guid_taken: Some(Timestamp(now.millis() - age * 1000)),
            skills_set: true,
            settings_due: false,
            media_type: None,
            adopted: None,
            fixed: None,
            mode: None,
            callback: None,
            push_awaited: false,
            leaving: false,
            wanted_out: false,
        };
        scene.world.stored.lock().unwrap().insert(id.into(), Stored::Session(stored));
    }
    let _sessions = scene.start();
    scene.pass(6).await;
    let seen = scene.gateway.seen().into_iter();
    let mut order = Vec::new();
    for Seen { agent, .. } in seen.filter(|seen| seen.operation == Handshake) {
        // Its second one may come soon.
        if !order.contains(&agent) {
            order.push(agent);
        }
    }
    assert_eq!(order, ["2", "3", "1"]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_resumed_sessions_are_spread_over_the_interval() {
    let ids: Vec<String> = (1000..1200).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    // GUIDs that change would move the heartbeats.
    let scene = Scene::with(&ids, |gateway, _| {
        (gateway.guid_interval, gateway.guid_renewal) = (Duration::from_secs(600), None);
    });
    scene.gateway.keep_guids();
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    let _sessions = scene.start();
    scene.pass(40).await;
    // Once each was asked for twice.
    let began = tokio::time::Instant::now();
    scene.pass(30).await;
    // In each six seconds a fifth of them would be even.
    let mut parts = [0; 6];
    for seen in scene.gateway.seen().iter().filter(|seen| seen.operation == Handshake && seen.at >= began) {
        parts[(seen.at - began).as_secs() as usize / 6] += 1;
    }
    assert!(parts.iter().all(|part| *part <= 80), "{parts:?}");
    assert_eq!(scene.gateway.count(Login), 200);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn static_guids_are_no_reason_for_more_heartbeats() {
    let scene = Scene::new();
    scene.gateway.keep_guids();
    let sessions = scene.start();
    scene.pass(1800).await;
    let beats = scene.gateway.count(Handshake);
    assert!((55..=62).contains(&beats), "{beats}");
    assert_eq!(scene.gateway.count(Login), 1);
    assert!(view(&sessions).guid_age_secs.unwrap() > 1700.0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_events_are_not_pushed_is_degraded_until_one_is() {
    let limit = Duration::from_secs(config::PUSH_SILENCE_LIMIT_SECS);
    let scene = Scene::with(&["291", "292"], |gateway, _| gateway.push_silence_limit = limit);
    let sessions = scene.start();
    let push = |id: &str| sessions.note_push(&main_gateway(), &agent(id), true);
    scene.pass(3).await;
    push("292");
    scene.pass(50).await;
    assert_eq!(view(&sessions).degraded, [""; 0]);
    scene.pass(15).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("active", Some("no_pushes")));
    assert_eq!(view(&sessions).degraded, ["no_pushes"]);
    let degraded = || scene.metrics.sessions_degraded.with_label_values(&["main", "no_pushes"]).get();
    assert_eq!(degraded(), 1);
    scene.pass(200).await;
    assert_eq!(scene.reasons(), ["signed_in", "signed_in", "no_pushes"], "told once");
    push("291");
    assert_eq!((view(&sessions).reason, view(&sessions).degraded), (None, Vec::new()));
    scene.pass(200).await;
    assert_eq!((degraded(), scene.reasons().len()), (0, 3), "an agent may be quiet for hours");
    // The events of a sign-in may come before its answer.
    scene.gateway.throw_out("291");
    scene.gateway.once(Login, Script::Slow);
    sessions.wake_forced_out(&main_gateway(), &agent("291"));
    scene.pass(3).await;
    push("291");
    scene.pass(300).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason, degraded()), ("active", None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_hide_that_no_push_has_come() {
    let limit = Duration::from_secs(config::PUSH_SILENCE_LIMIT_SECS);
    let scene = Scene::with(&["291"], |gateway, _| gateway.push_silence_limit = limit);
    let mut sessions = scene.start();
    scene.pass(100).await;
    assert_eq!(view(&sessions).degraded, ["no_pushes"]);
    for _ in 0..2 {
        sessions.shutdown(false).await;
        sessions = scene.start();
        scene.pass(50).await;
        assert_eq!(view(&sessions).degraded, [""; 0], "one may be on its way");
        scene.pass(20).await;
        assert_eq!(
            (view(&sessions).reason, view(&sessions).degraded),
            (Some("no_pushes"), vec!["no_pushes"])
        );
    }
    // Just before a stop, so that no heartbeat comes between.
    sessions.note_push(&main_gateway(), &agent("291"), true);
    for _ in 0..2 {
        sessions.shutdown(false).await;
        sessions = scene.start();
        scene.pass(200).await;
        assert_eq!(view(&sessions).degraded, [""; 0], "an agent may be quiet for hours");
    }
    assert_eq!(scene.gateway.count(Login), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn the_budgets_of_all_sessions_are_counted_by_bounds() {
    let scene = Scene::with(&["291", "292", "293"], |_, _| {});
    let sessions = scene.start();
    scene.pass(60).await;
    let within = |le: &str| scene.metrics.sign_out_budget_agents.with_label_values(&["main", le]).get();
    let near = || scene.metrics.about_to_be_signed_out.with_label_values(&["main"]).get();
    assert_eq!((within("60"), within("120"), within("+Inf"), near()), (0, 3, 3, 0));
    scene.gateway.always(Handshake, Script::Unreachable);
    scene.pass(80).await;
    assert_eq!((within("0"), within("60"), within("+Inf"), near()), (0, 3, 3, 3));
    scene.gateway.heal();
    sessions.shutdown(true).await;
}

#[tokio::test(start_paused = true)]
async fn with_a_short_limit_nobody_is_about_to_be_signed_out_while_all_is_well() {
    for interval in [1, 20, 30] {
        let scene = Scene::with(&["291", "292", "293"], |gateway, _| {
            gateway.sign_out_limit = Duration::from_secs(60);
            gateway.heartbeat_interval = Duration::from_secs(interval);
        });
        let sessions = scene.start();
        let near = || scene.metrics.about_to_be_signed_out.with_label_values(&["main"]).get();
        for second in 0..120 {
            scene.pass(1).await;
            assert_eq!(near(), 0, "after {second} s with a heartbeat each {interval} s");
        }
        scene.gateway.always(Handshake, Script::Unreachable);
        let mut most = 0;
        for _ in 0..60 {
            scene.pass(1).await;
            most = most.max(near());
        }
        assert_eq!(most, 3, "with a heartbeat each {interval} s");
        scene.gateway.heal();
        sessions.shutdown(true).await;
    }
}
