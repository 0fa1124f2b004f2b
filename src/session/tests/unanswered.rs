//! Sign-ins that nobody answers: what is shown of the agent and of the gateway.

use super::fake::{Scene, Script, main_gateway, view};
use super::reasons;
use super::retcode::Operation::Login;

#[tokio::test(start_paused = true)]
async fn an_agent_who_cannot_be_signed_in_shows_why_and_the_gateway_shows_where() {
    for (script, reason, error) in [
        (Script::Unreachable, "unreachable", "the gateway cannot be reached: refused"),
        (Script::Status(404), "call_unknown", "HTTP status 404"),
        (Script::Status(500), "http_status", "HTTP status 500"),
    ] {
        let scene = Scene::new();
        assert!(reasons().any(|known| known == reason));
        scene.gateway.always(Login, script);
        let sessions = scene.start();
        assert_eq!(sessions.last_failed_call(&main_gateway()), None);
        scene.pass(10).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("signing_in", Some(reason)));
        let failed = sessions.last_failed_call(&main_gateway()).unwrap();
        assert_eq!((failed.operation, failed.agent_id.as_str()), (Login, "291"));
        assert_eq!(failed.error, error);
        assert!(failed.address.starts_with("main https://"), "{}", failed.address);
        // A refusal with a retcode says more than what was before it.
        scene.gateway.heal();
        scene.gateway.always(Login, Script::Code("100-003"));
        scene.pass(60).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("signing_in", None));
        scene.gateway.heal();
        scene.pass(60).await;
        assert_eq!((view(&sessions).state, view(&sessions).reason), ("active", None));
    }
}
