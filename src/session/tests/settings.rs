//! Agents that are set up after their sign-in, and what their sign-in tells.

use super::agent::lacks_voice;
use super::config::{AfterSignIn, AgentState, Skills};
use super::fake::{Scene, Script, agent, main_gateway, view};
use super::retcode::Operation::{AutoAnswer, Handshake, Login, ResetSkill, SayBusy};

fn scene() -> Scene {
    Scene::with(&["291"], |_, agent| {
        agent.after_sign_in =
            AfterSignIn { autoanswer: Some(false), state: Some(AgentState::Busy), busy_reason: Some(201) };
    })
}

#[tokio::test(start_paused = true)]
async fn a_restart_sets_nobody_up_again_who_was() {
    let scene = scene();
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!(scene.gateway.operations()[..5], [Login, ResetSkill, AutoAnswer, SayBusy, Handshake]);
    sessions.shutdown(false).await;
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!((scene.gateway.count(AutoAnswer), scene.gateway.count(SayBusy)), (1, 1));
    // Each sign-in does.
    scene.gateway.throw_out("291");
    scene.pass(100).await;
    assert_eq!((scene.gateway.count(Login), scene.gateway.count(SayBusy)), (2, 2));
    assert_eq!((view(&sessions).state, view(&sessions).degraded), ("active", Vec::new()));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_finishes_what_was_begun() {
    let scene = scene();
    scene.gateway.always(SayBusy, Script::RequestLost);
    let sessions = scene.start();
    scene.pass(100).await;
    sessions.shutdown(false).await;
    scene.gateway.heal();
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.set_up("291"), Some(vec![ResetSkill, AutoAnswer, AutoAnswer, SayBusy]));
    assert_eq!(scene.reasons(), ["signed_in", "settings_refused", "resumed"]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_shown_until_a_sign_in_that_is_set_up() {
    let scene = scene();
    scene.gateway.always(SayBusy, Script::Code("000-002"));
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!(scene.gateway.count(SayBusy), 1, "given up");
    assert_eq!((view(&sessions).state, view(&sessions).degraded), ("active", vec!["settings_refused"]));
    let degraded = || scene.metrics.sessions_degraded.with_label_values(&["main", "settings_refused"]).get();
    assert_eq!((degraded(), scene.reasons()), (1, vec!["signed_in", "settings_refused"]));
    scene.gateway.heal();
    assert!(sessions.sign_out(&main_gateway(), &agent("291")));
    scene.pass(5).await;
    assert!(sessions.sign_in(&main_gateway(), &agent("291")));
    scene.pass(100).await;
    assert_eq!((view(&sessions).degraded, degraded()), (Vec::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn what_never_succeeds_is_shown_until_it_does() {
    let scene = scene();
    scene.gateway.always(ResetSkill, Script::Code("100-007"));
    let sessions = scene.start();
    scene.pass(300).await;
    assert_eq!((view(&sessions).state, view(&sessions).degraded), ("active", vec!["skills_refused"]));
    assert_eq!(scene.reasons(), ["signed_in", "skills_refused"]);
    scene.gateway.heal();
    // A gateway that does not know one of the calls holds up no other.
    scene.gateway.always(AutoAnswer, Script::Status(404));
    scene.pass(150).await;
    assert_eq!(scene.gateway.set_up("291"), Some(vec![ResetSkill, SayBusy]));
    assert_eq!(view(&sessions).degraded, ["settings_refused"]);
    assert_eq!(scene.reasons(), ["signed_in", "skills_refused", "settings_refused"]);
    assert_eq!(scene.gateway.count(Login), 1);
    scene.gateway.check();
}

#[test]
fn a_sign_in_without_voice_is_worth_a_warning_where_skill_queues_are_wanted() {
    for (media_type, skills, warned) in [
        (Some("FTF"), Skills::All, true),
        (Some("ftt"), Skills::Ids(vec![7]), true),
        (Some("FTF"), Skills::Ids(Vec::new()), false),
        (Some("TFF"), Skills::All, false),
        (Some("gibberish"), Skills::All, false),
        (None, Skills::All, false),
    ] {
        assert_eq!(lacks_voice(media_type, &skills), warned, "{media_type:?} {skills:?}");
    }
}
