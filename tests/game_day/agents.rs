//! The gateway and the agents' sessions.

use std::time::Duration;

use ccrelay::simulate::{Fault, FaultKind, Operation, SignOut, Simulator};
use nix::sys::signal::Signal;

use crate::MACHINE;
use crate::scene::{PATIENCE, Plan, Scene, agent};
use crate::support::certificates::Certificates;
use crate::support::eventually;
use crate::support::proxy::Proxy;

pub(crate) const ALERTS: &[&str] = &[
    "CcrelaySignInsFailing",
    "CcrelayAgentsSuspended",
    "CcrelayAgentsWithoutPushes",
    "CcrelayHandshakesFailing",
    "CcrelayMostAgentsWithoutPushes",
    "CcrelayCertificateRefused",
    "CcrelaySessionsLost",
    "CcrelaySessionsLostAgain",
    "CcrelayRosterStale",
    "CcrelayAdminTokensStale",
    "CcrelayOnBackupAddress",
    "CcrelayHeartbeatsFailing",
    "CcrelayAgentsAboutToBeSignedOut",
    "CcrelayPollsUnanswered",
    "CcrelayHeartbeatsLate",
    "CcrelayNotReady",
    "CcrelayDown",
];

/// Those of the configuration, of which the last is polled; 1019 is of the roster, and 1020 has a wrong password.
const FIRST: u32 = 1001;
const LAST: u32 = 1018;
const IN_ROSTER: &str = "1019";
const LOCKED_OUT: &str = "1020";
const SIGNED_IN: usize = 19;
/// Reloads that succeeded, and whether the last did.
const RELOADED: &str = "ccrelay_reloads_total{outcome=\"ok\"}";
const LAST_OK: &str = "ccrelay_reload_last_ok";
/// More than the five seconds at which heartbeats count as late.
const FROZEN: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_threatens_agents_is_told_and_its_cause_is_shown() {
    let _together = MACHINE.read().await;
    let mut scene = Scene::prepare(20).await;
    let gateway = scene.simulator.local_addr().to_string();
    let (main, backup) = tokio::join!(Proxy::start(&gateway), Proxy::start(&gateway));
    configure(&mut scene, &main, &backup);

    // The gateway refuses sign-ins for now, and ours is not the certificate that it trusts.
    let elsewhere = tempfile::TempDir::new().expect("a folder");
    let strangers = Certificates::create(elsewhere.path());
    for (file, name) in [(&strangers.cert, "cert.pem"), (&strangers.key, "key.pem")] {
        std::fs::copy(file, scene.relay.folder().join(name)).expect("the folder can be written");
    }
    let refuse = Fault::next(Operation::Login, 1, FaultKind::Retcode("100-007".to_owned()));
    scene.simulator.inject(Fault { times: None, ..refuse });
    scene.start().await;
    scene.fires("CcrelaySignInsFailing", &["main 1001 signing_in", "100-007"]).await;
    scene.simulator.clear_faults();
    scene
        .fires("CcrelayAgentsSuspended", &[&format!("main {LOCKED_OUT} suspended"), "bad_credentials"])
        .await;
    scene.all_signed_in(SIGNED_IN).await;
    scene.fires("CcrelayAgentsWithoutPushes", &["reason=\"tls_own_certificate_refused"]).await;
    scene.fires("CcrelayHandshakesFailing", &["a connection came to nothing"]).await;
    scene.fires("CcrelayMostAgentsWithoutPushes", &["reason=\"tls_own_certificate_refused"]).await;
    scene.fires("CcrelayCertificateRefused", &["a connection came to nothing"]).await;
    // Before the roster is spoilt: a reload takes all or nothing.
    let reloaded = scene.relay.metric(RELOADED).await;
    scene.relay.renew_certificate();
    eventually("the certificate in force", PATIENCE, || async {
        (scene.relay.metric(RELOADED).await > reloaded && scene.relay.metric(LAST_OK).await == 1.0)
            .then_some(())
    })
    .await;

    scene.simulator.play(2.0);
    scene.simulator.force_out(&agent(FIRST)).expect("it is signed in");
    scene.fires("CcrelaySessionsLost", &["session lost", "\"agent_id\":\"1001\""]).await;
    // Everybody, as soon as they are back.
    let shown = ["session lost", "\"agent_id\":\"1002\""];
    scene.fires_while("CcrelaySessionsLostAgain", &shown, throw_all_out).await;
    scene.all_signed_in(SIGNED_IN).await;
    std::fs::write(scene.relay.folder().join("roster.csv"), "id,phone\nx,y\n")
        .expect("the folder can be written");
    scene.fires("CcrelayRosterStale", &["a mistake in a roster"]).await;
    let good = scene.replace_tokens("short\n");
    scene.fires("CcrelayAdminTokensStale", &["a token has 16 to 512 characters"]).await;
    scene.replace_tokens(&good);

    scene.simulator.inject(Fault::next(Operation::AgentEvent, 2, FaultKind::DropAnswer));
    scene.fires("CcrelayPollsUnanswered", &["{gateway=\"main\"}"]).await;

    assert!(!scene.firing().await.contains("CcrelayOnBackupAddress"), "the main address has answered so far");
    main.refuse();
    main.cut();
    scene.fires("CcrelayOnBackupAddress", &["curl: (7)"]).await;
    main.heal();

    main.stall();
    backup.stall();
    scene.fires("CcrelayHeartbeatsFailing", &["outcome=\"timeout\""]).await;
    scene.fires("CcrelayAgentsAboutToBeSignedOut", &["main 1001 ", "heartbeats_failing"]).await;
    for path in [&main, &backup] {
        path.reset();
        path.heal();
    }
    let failing = "ccrelay_sessions_degraded{gateway=\"main\",reason=\"heartbeats_failing\"}";
    eventually("heartbeats that are answered", PATIENCE, || async {
        (scene.relay.metric(failing).await == 0.0).then_some(())
    })
    .await;
    let statistics = scene.simulator.statistics();
    assert_eq!(statistics.signed_in, SIGNED_IN, "nobody was signed out");
    // An agent who was, and has signed in again, does not show in that.
    let total = &statistics.total;
    assert_eq!(total.signed_out(SignOut::HeartbeatSilence), 0, "{:?}", total.sign_outs);

    scene.relay.running().signal(Signal::SIGSTOP);
    tokio::time::sleep(FROZEN).await;
    scene.relay.running().signal(Signal::SIGCONT);
    scene.fires("CcrelayHeartbeatsLate", &["ccrelay_heartbeat_lateness_seconds_bucket"]).await;

    // A stop that hangs: agents are to be signed out, and the gateway does not answer.
    main.stall();
    backup.stall();
    scene.relay.running().signal(Signal::SIGTERM);
    scene.fires("CcrelayNotReady", &["stopping"]).await;
    scene.relay.kill9().await;
    scene.relay.edit("heartbeat_interval_secs = 1\n", "heartbeat_interval_secs = 60\n");
    scene.relay.launch();
    assert_eq!(scene.relay.ended(PATIENCE).await, 78);
    scene.fires("CcrelayDown", &["heartbeat_interval_secs"]).await;
    scene.assert_all_fired(ALERTS);
}

fn throw_all_out(gateway: &Simulator) {
    for id in FIRST..=LAST {
        // Who is not signed in cannot be thrown out.
        drop(gateway.force_out(&agent(id)));
    }
}

fn configure(scene: &mut Scene, main: &Proxy, backup: &Proxy) {
    let folder = scene.relay.folder().display().to_string();
    let path = |name: &str| scene.relay.folder().join(name);
    std::fs::write(path("wrong"), "not the password").expect("the folder can be written");
    let roster = format!("id,phone_number,password_file\n{IN_ROSTER},7{IN_ROSTER},{folder}/password\n");
    std::fs::write(path("roster.csv"), roster).expect("the folder can be written");
    scene.configure(&Plan {
        agents: FIRST..=LAST,
        gateway_port: Some(main.port()),
        tables: &format!(
            "[shutdown]\ngrace_secs = 120\n\
             [sinks.file.jsonl]\npath = \"{folder}/events.jsonl\"\n\
             [[rosters]]\nfile = \"{folder}/roster.csv\"\ngateway = \"main\"\n\
             [[agents]]\ngateway = \"main\"\nid = \"{LOCKED_OUT}\"\npassword_file = \"{folder}/wrong\"\n\
             phone_number = \"7{LOCKED_OUT}\"\n"
        ),
    });
    let real = scene.simulator.local_addr().port();
    let other = scene.simulator.base_url().replace(&format!(":{real}/"), &format!(":{}/", backup.port()));
    scene.relay.edit(
        "callback_uri = ",
        &format!(
            "backup_base_urls = [\"{other}\"]\npush_silence_limit_secs = 3\nsign_out_on_stop = true\n\
             poll_deadline_secs = 12\ncallback_uri = "
        ),
    );
    let polled = format!("id = \"{LAST}\"\n");
    scene.relay.edit(&polled, &format!("{polled}mode = \"poll\"\n"));
    scene.words = vec![
        ("CA_FILE", format!("{folder}/gateway-ca.pem")),
        ("MAIN-ADDRESS", format!("127.0.0.1:{}", main.port())),
    ];
}
