//! Wall time that was set while the daemon was away: stored times look past, or to come, and say nothing.

use super::retcode::Operation::ForceLogin;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn ids(agents: u32) -> Vec<String> {
    (1001..1001 + agents).map(|id| id.to_string()).collect()
}

fn scene(ids: &[String]) -> Scene {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    Scene::with(&ids, |_, _| {})
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_forward_between_two_runs_costs_no_session() {
    let scene = scene(&ids(10));
    let sessions = scene.start();
    scene.gateway.sign_in_elsewhere("2001", "theirs");
    let ticket = call::Ticket::new("theirs".to_owned().into(), Vec::new());
    sessions.adopt(&main_gateway(), &agent("2001"), ticket, "theirToken".into()).unwrap();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    scene.clock.advance(HOUR);
    let sessions = scene.start();
    scene.pass(20).await;
    let views = sessions.list();
    assert!(views.len() == 11 && views.iter().all(|view| view.state == "active"), "{views:?}");
    assert_eq!(scene.gateway.count(Login), 10);
    assert_eq!(scene.reasons()[11..], ["resumed"; 11]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn of_many_sessions_that_are_past_a_few_are_asked_for_and_none_is_told_as_lost() {
    const AGENTS: usize = 400;
    let ids = ids(400);
    let scene = scene(&ids);
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    scene.pass(600).await;
    let before = scene.gateway.count(Handshake);
    let told = scene.reasons().len();
    let sessions = scene.start();
    // The first heartbeats of new sessions come two seconds after their sign-ins.
    scene.pass(2).await;
    let asked = scene.gateway.count(Handshake) - before;
    assert!((16..=32).contains(&asked), "{asked} were asked for");
    scene.pass(30).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    assert_eq!(scene.gateway.count(Login), 2 * AGENTS);
    assert_eq!(scene.reasons()[told..], ["signed_in"; AGENTS]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_stored_time_that_is_yet_to_come_does_not_force_anybody_out() {
    for occupied in [false, true] {
        let mut scene = Scene::new();
        let sessions = scene.start();
        scene.pass(50).await;
        sessions.shutdown(false).await;
        scene.clock = Clock::manual(scene.clock.now().minus(HOUR));
        if occupied {
            scene.gateway.occupy("291");
        }
        let sessions = scene.start();
        scene.pass(200).await;
        let expected = if occupied { ("suspended", Some("signed_in_elsewhere")) } else { ("active", None) };
        assert_eq!((view(&sessions).state, view(&sessions).reason), expected);
        assert_eq!(scene.gateway.count(ForceLogin), 0);
        assert!(occupied || scene.gateway.count(Login) == 1);
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_stand_are_asked_for_though_many_guids_have_died_when_the_clock_was_set_as_well() {
    const DEAD: u32 = 20;
    let ids = ids(2 * DEAD);
    let scene = scene(&ids);
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    // Their GUIDs were older and have died, as those of a gateway that gives none that it is asked for.
    for id in &ids[..DEAD as usize] {
        let mut stored = scene.world.stored.lock().unwrap();
        let Some(Stored::Session(session)) = stored.get_mut(id) else { panic!("{id} is not stored") };
        session.ticket = call::Ticket::new("dead".to_owned().into(), Vec::new());
        session.guid_taken = session.guid_taken.map(|taken| taken.minus(Duration::from_secs(40)));
    }
    scene.clock.advance(HOUR);
    let told = scene.reasons().len();
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!(scene.reasons()[told..], ["resumed"; DEAD as usize]);
    // Where one stands, each of the others is asked for.
    let dead = sessions.list().into_iter().filter(|view| view.state == "signing_in").count();
    assert_eq!(dead, DEAD as usize);
    scene.gateway.check();
}

/// The session of 291 is past and somebody else has come, but the gateway cannot be asked. What is saved meanwhile is no word that the
/// session stood then: a further start forces nobody out.
async fn nobody_is_forced_out_after_a_further_start(scene: &Scene, sessions: Sessions) {
    let saved = scene.world.stored.lock().unwrap()["291"].clone();
    assert!(saved.session().unwrap().past, "and it was saved since");
    sessions.shutdown(false).await;
    scene.gateway.heal();
    let sessions = scene.start();
    scene.pass(200).await;
    assert_eq!(scene.gateway.count(ForceLogin), 0);
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some("signed_in_elsewhere")));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_looks_past_does_so_at_the_next_start_too() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    scene.pass(600).await;
    scene.gateway.occupy("291");
    for operation in [Handshake, Logout] {
        scene.gateway.always(operation, Script::Unreachable);
    }
    let sessions = scene.start();
    scene.pass(5).await;
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    nobody_is_forced_out_after_a_further_start(&scene, sessions).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_a_standstill_has_outlasted_looks_past_at_the_next_start() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    scene.gateway.occupy("291");
    scene.gateway.always(Handshake, Script::Unreachable);
    scene.clock.advance(Duration::from_secs(600));
    scene.pass(15).await;
    nobody_is_forced_out_after_a_further_start(&scene, sessions).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_to_be_signed_out_is_so_although_its_session_looks_past() {
    let mut scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    scene.gateway.always(Logout, Script::Code("100-010"));
    assert!(sessions.remove(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    sessions.shutdown(false).await;
    scene.gateway.heal();
    scene.clock.advance(HOUR);
    scene.config.agents.clear();
    let sessions = scene.start();
    scene.pass(5).await;
    assert!(!scene.gateway.is_signed_in("291"));
    assert!(sessions.list().is_empty());
    assert!(scene.world.stored.lock().unwrap().is_empty());
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn agents_in_a_call_are_not_given_up_because_others_were_signed_out_for_another_callback_address() {
    const AGENTS: usize = 40;
    const IN_A_CALL: usize = 4;
    let mut scene = scene(&ids(40));
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    scene.clock.advance(HOUR);
    scene.config.gateways[0].callback_uri = "https://relay.example/push/another".into();
    // Of those that are not slow enough are out when those in a call come to their next one.
    for _ in 0..AGENTS / 2 {
        scene.gateway.once(Logout, Script::Slow);
    }
    for _ in 0..IN_A_CALL {
        scene.gateway.once(Logout, Script::Code("100-010"));
    }
    let sessions = scene.start();
    scene.pass(40).await;
    assert_eq!(scene.gateway.count(Logout), AGENTS + IN_A_CALL, "each until it is out");
    // Whoever is given up is in the way of its own next sign-in.
    assert_eq!(scene.gateway.count(Login), 2 * AGENTS);
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn who_was_to_be_out_is_out_after_a_start_that_finds_the_session_past() {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(50).await;
    scene.gateway.always(Logout, Script::Unreachable);
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    sessions.shutdown(false).await;
    scene.gateway.heal();
    scene.pass(600).await;
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("signed_out", Some("signed_out")));
    assert_eq!(scene.reasons(), ["signed_in", "signed_out"], "who follows the topics learns it");
    let logouts = scene.gateway.count(Logout);
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Logout)), ("signed_out", logouts));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_alarmed_for_sessions_that_are_past_while_the_gateway_is_away() {
    let scene = scene(&ids(10));
    let sessions = scene.start();
    scene.pass(50).await;
    sessions.shutdown(false).await;
    scene.pass(600).await;
    for operation in [Handshake, Login] {
        scene.gateway.always(operation, Script::Unreachable);
    }
    let (told, sessions) = (scene.reasons().len(), scene.start());
    for _ in 0..15 {
        scene.pass(10).await;
        let alarmed = scene.metrics.about_to_be_signed_out.with_label_values(&["main"]).get();
        assert!(alarmed == 0 && scene.reasons().len() == told, "{:?}", scene.reasons());
    }
    scene.gateway.heal();
    scene.pass(55).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    // One that stands after all is in danger as any other.
    scene.gateway.always(Handshake, Script::Unreachable);
    scene.pass(70).await;
    assert_eq!(scene.metrics.about_to_be_signed_out.with_label_values(&["main"]).get(), 10);
}
