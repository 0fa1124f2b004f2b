//! How old GUIDs get, and what that means for a daemon that is away.

use super::retcode::Operation::UpdateGuid;
use super::*;

/// Nobody is asked to be back sooner.
const AWAY_SECS: u64 = 60;

/// Keeps a session for `kept_secs`, is away for a minute, and says how many sign-ins that took in all.
async fn sign_ins_of_a_minute_away(kept_secs: u64) -> usize {
    let scene = Scene::new();
    let sessions = scene.start();
    scene.pass(kept_secs).await;
    sessions.shutdown(false).await;
    scene.pass(AWAY_SECS).await;
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!(view(&sessions).state, "active");
    scene.gateway.check();
    scene.gateway.count(Login) + scene.gateway.count(ForceLogin)
}

#[tokio::test(start_paused = true)]
async fn a_minute_away_costs_no_session_at_whatever_age_of_its_guid() {
    for kept_secs in (20..=112).step_by(4) {
        assert_eq!(sign_ins_of_a_minute_away(kept_secs).await, 1, "killed {kept_secs} s after the start");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_sessions_survive_a_minute_away_at_the_worst_moment() {
    let ids: Vec<String> = (1000..2000).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    // All at once, so that all GUIDs are old at the same time.
    let scene = Scene::with(&ids, |gateway, _| gateway.sign_in_rate_per_sec = 100_000);
    let sessions = scene.start();
    scene.pass(43).await;
    let oldest = sessions.list().iter().filter_map(|view| view.guid_age_secs).fold(0.0, f64::max);
    assert!(oldest > 40.0, "{oldest} s is not the worst moment");
    sessions.shutdown(false).await;
    scene.pass(AWAY_SECS).await;
    let sessions = scene.start();
    scene.pass(10).await;
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    assert_eq!(scene.gateway.count(Login), 1000);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn no_guid_gets_much_older_than_three_quarters_of_the_interval() {
    let scene = Scene::new();
    let sessions = scene.start();
    let mut oldest: f64 = 0.0;
    for _ in 0..1800 {
        scene.pass(1).await;
        oldest = oldest.max(view(&sessions).guid_age_secs.unwrap_or_default());
    }
    assert!((44.0..47.0).contains(&oldest), "{oldest}");
    let asked = scene.gateway.count(UpdateGuid);
    assert!((38..=40).contains(&asked), "{asked}");
    let beats = scene.gateway.count(Handshake);
    assert!((58..=62).contains(&beats), "as many heartbeats as ever: {beats}");
    assert_eq!(scene.gateway.count(Login), 1);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_gives_no_guid_is_seldom_asked_and_heartbeats_bring_new_ones() {
    for code in ["000-002", "999-999"] {
        let scene = Scene::new();
        scene.gateway.always(UpdateGuid, Script::Code(code));
        let sessions = scene.start();
        scene.pass(1800).await;
        assert_eq!((scene.gateway.count(UpdateGuid), scene.gateway.count(Login)), (3, 1), "{code}");
        assert!(view(&sessions).guid_age_secs.unwrap() < 62.0);
        assert_eq!((view(&sessions).retcode, view(&sessions).degraded), (None, Vec::new()));
    }
    let scene = Scene::with(&["291"], |gateway, _| gateway.guid_renewal = None);
    let sessions = scene.start();
    scene.pass(1800).await;
    assert_eq!((scene.gateway.count(UpdateGuid), scene.gateway.count(Login)), (0, 1));
    assert!(view(&sessions).guid_age_secs.unwrap() < 62.0);
}

#[tokio::test(start_paused = true)]
async fn one_refusal_does_not_end_renewals_for_the_life_of_the_session() {
    let scene = Scene::new();
    scene.gateway.once(UpdateGuid, Script::Code("999-999"));
    let sessions = scene.start();
    scene.pass(660).await;
    let before = scene.gateway.count(UpdateGuid);
    scene.pass(600).await;
    assert!(scene.gateway.count(UpdateGuid) >= before + 12, "{before}");
    assert!(view(&sessions).guid_age_secs.unwrap() < 47.0);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_repeated_a_few_times_and_costs_nothing_else() {
    for script in [Script::RequestLost, Script::Unreachable, Script::Code("100-007")] {
        let scene = Scene::new();
        scene.gateway.always(UpdateGuid, script);
        let sessions = scene.start();
        scene.pass(600).await;
        let asked = scene.gateway.count(UpdateGuid);
        // Three for each GUID, which then lives for a minute; two where a heartbeat comes in between.
        assert!((18..=30).contains(&asked), "{asked}");
        assert_eq!((scene.gateway.count(Login), view(&sessions).state), (1, "active"));
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_says_the_session_is_gone_is_not_believed_by_itself() {
    let scene = Scene::new();
    scene.gateway.once(UpdateGuid, Script::Code("100-006"));
    let sessions = scene.start();
    scene.pass(50).await;
    let operations = scene.gateway.operations();
    let asked = operations.iter().position(|operation| *operation == UpdateGuid).unwrap();
    assert_eq!(operations[asked + 1], Handshake, "asked at once");
    assert_eq!((scene.gateway.count(Login), view(&sessions).state), (1, "active"));
    scene.gateway.throw_out("291");
    scene.pass(60).await;
    assert_eq!((scene.gateway.count(Login), view(&sessions).state), (2, "active"));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn new_guids_that_are_lost_with_their_answers_one_after_the_other_cost_no_session() {
    // The gateway changes GUIDs sooner than it is said to, so heartbeats bring them; it tells each once.
    let scene = Scene::with(&["291"], |gateway, _| gateway.heartbeat_interval = Duration::from_secs(5));
    scene.gateway.change_guids(Duration::from_secs(20), 5);
    let sessions = scene.start();
    scene.pass(300).await;
    assert_eq!(scene.gateway.guids_to_lose(), 0, "all of them were lost");
    assert_eq!((scene.gateway.count(Login), view(&sessions).state), (1, "active"));
    // One is asked for after each that was lost; else heartbeats bring them, long before we would ask.
    assert_eq!(scene.gateway.count(UpdateGuid), 5);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_guid_whose_successor_was_lost_is_good_for_a_minute_and_then_the_session_is_forced_back() {
    for (outage_secs, forced) in [(50, 0), (70, 1)] {
        let scene = Scene::with(&["291"], |gateway, _| gateway.heartbeat_interval = Duration::from_secs(5));
        scene.gateway.change_guids(Duration::from_secs(20), 1);
        let sessions = scene.start();
        while scene.gateway.guids_to_lose() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Before the next heartbeat: the gateway is away, and the GUID that we know dies 60 s after the change.
        for operation in [Handshake, UpdateGuid, Login] {
            scene.gateway.always(operation, Script::Unreachable);
        }
        scene.pass(outage_secs).await;
        assert_eq!(view(&sessions).state, "active");
        scene.gateway.heal();
        scene.pass(10).await;
        assert_eq!(view(&sessions).state, "active", "after {outage_secs} s");
        assert_eq!(scene.gateway.count(ForceLogin), forced, "after {outage_secs} s");
        assert_eq!(scene.gateway.count(Login), 1 + forced, "after {outage_secs} s");
        scene.gateway.check();
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_each_session_asks_for_one_guid_and_not_all_at_once() {
    let ids: Vec<String> = (1000..1200).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let scene = Scene::with(&ids, |gateway, _| gateway.sign_in_rate_per_sec = 100_000);
    let sessions = scene.start();
    scene.pass(6).await;
    scene.gateway.always(Handshake, Script::AnswerLost);
    scene.pass(34).await;
    scene.gateway.heal();
    let before = scene.gateway.count(UpdateGuid);
    scene.pass(20).await;
    let asked: Vec<_> = scene
        .gateway
        .seen()
        .into_iter()
        .filter(|seen| seen.operation == UpdateGuid)
        .map(|seen| seen.at)
        .collect();
    assert_eq!((before, asked.len()), (0, 200), "one each");
    let spread = *asked.iter().max().unwrap() - *asked.iter().min().unwrap();
    assert!(spread > Duration::from_secs(3), "{spread:?}");
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    assert_eq!(scene.gateway.count(Login), 200);
    scene.gateway.check();
}
