//! What may change while the daemon runs, changed under load: nothing is refused and nobody notices; and mistakes, which
//! leave everything as it was.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use ccrelay::event::AgentId;
use nix::sys::signal::Signal;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::scene::Scene;
use crate::support::in_process::TestRelay;
use crate::support::{DEADLINE, eventually};

const OK: &str = "ccrelay_reloads_total{outcome=\"ok\"}";
const REFUSED: &str = "ccrelay_reloads_total{outcome=\"refused\"}";
const ROSTER: &str = "id,phone_number\n1004,71004\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn ccrelay(scene: &Scene, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .args(arguments)
        .args(["--url", &format!("http://{}", scene.relay.operations()), "--token-file"])
        .arg(scene.relay.folder().join("tokens"))
        .output()
        .await
        .expect("the program starts")
}

/// With a secret of tokens in a file, which can be replaced.
async fn scene() -> (Scene, PathBuf) {
    let mut file = PathBuf::new();
    let scene = Scene::with(|relay| {
        file = relay.folder().join("secret");
        std::fs::write(&file, "canary: the first secret, long enough to be one").expect("it can be written");
        relay.edit("[token]\n", &format!("[token]\nsecret_file = \"{}\"\n", file.display()));
    })
    .await;
    (scene, file)
}

/// The certificate that the callback listener shows to a new connection.
async fn shown(scene: &Scene) -> CertificateDer<'static> {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(scene.relay.ca_pem().as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", scene.relay.callback_port())).await.expect("it listens");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.expect("a certificate of the authority");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

/// Waits until a metric is above a value.
async fn above(scene: &Scene, series: &str, value: f64) {
    eventually(&format!("{series} above {value}"), DEADLINE, || async {
        (scene.relay.metric(series).await > value).then_some(())
    })
    .await;
}

/// Plays until so many more events of the agents are delivered.
async fn play_on(scene: &Scene, events: u64) {
    let goal = scene.simulator.statistics().total.delivered + events;
    assert!(
        scene.simulator.wait_for(DEADLINE, |s| s.total.delivered >= goal).await,
        "{:?}\n{}",
        scene.simulator.statistics().total,
        scene.relay.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_secrets_change_under_load_and_not_one_push_is_refused() {
    let (scene, secret) = scene().await;
    scene.simulator.play(20.0);
    for round in 0..4 {
        let (before, reloads) = (shown(&scene).await, scene.relay.metric(OK).await);
        scene.relay.renew_certificate();
        std::fs::write(&secret, format!("canary: secret number {round} that comes after the first"))
            .expect("it can be written");
        // Twice nobody says anything, once a signal does, and once the command line.
        match round {
            2 => scene.relay.running().signal(Signal::SIGHUP),
            3 => {
                let output = ccrelay(&scene, &["reload"]).await;
                assert!(output.status.success(), "{}", text(&output.stderr));
                let said = text(&output.stdout);
                assert!(
                    said.contains("certificate of the callback") && said.contains("token secrets"),
                    "{said}"
                );
            }
            _ => {}
        }
        above(&scene, OK, reloads).await;
        eventually("the new certificate", DEADLINE, || async {
            (shown(&scene).await != before).then_some(())
        })
        .await;
        // Heartbeats take tokens of the new secret to the gateway while those of the old one are on their way.
        play_on(&scene, 60).await;
        scene.heartbeats("1001", 2).await;
        play_on(&scene, 60).await;
    }
    let total = scene.simulator.statistics().total;
    assert_eq!(total.pushes_failed, 0, "{total:?}\n{}", scene.relay.log());
    assert!(total.sign_outs.is_empty() && total.sign_ins == 3, "{total:?}");
    assert_eq!(scene.relay.metric(REFUSED).await, 0.0);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_leaves_everything_as_it_was_and_is_named() {
    let (scene, secret) = scene().await;
    scene.simulator.play(20.0);
    let before = shown(&scene).await;
    // A good certificate and a secret that is too short: neither may be taken.
    scene.relay.renew_certificate();
    std::fs::write(&secret, "canary").expect("it can be written");
    above(&scene, REFUSED, 0.0).await;
    assert_eq!(scene.relay.metric("ccrelay_reload_last_ok").await, 0.0);
    let output = ccrelay(&scene, &["reload"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(said.contains("token.secret_file") && said.contains("at least 32 bytes"), "{said}");
    assert!(shown(&scene).await == before, "all or nothing");
    play_on(&scene, 60).await;
    std::fs::write(&secret, "canary: a secret of thirty-two characters and more").expect("it can be written");
    above(&scene, "ccrelay_reload_last_ok", 0.0).await;
    assert!(shown(&scene).await != before);
    scene.heartbeats("1001", 2).await;
    play_on(&scene, 60).await;
    let total = scene.simulator.statistics().total;
    assert!(total.pushes_failed == 0 && total.sign_outs.is_empty(), "{total:?}\n{}", scene.relay.log());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_work_is_not_taken_for_a_good_one_unless_somebody_asks_for_it() {
    let (scene, _) = scene().await;
    let before = shown(&scene).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["elsewhere.test".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).expect("a certificate");
    for (name, text) in [("key.pem", key.serialize_pem()), ("cert.pem", certificate.pem())] {
        std::fs::write(scene.relay.folder().join(name), text).expect("the folder can be written");
    }
    let said = "has no subject alternative name 127.0.0.1";
    eventually("a refusal", DEADLINE, || async { scene.relay.log().contains(said).then_some(()) }).await;
    for said in ["callback.certificate_file", "has ended ", "lacks serverAuth"] {
        assert!(scene.relay.log().contains(said), "{said}\n{}", scene.relay.log());
    }
    assert!(shown(&scene).await == before, "the one in force stays");

    let output = ccrelay(&scene, &["reload"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("certificate of the callback"), "{}", text(&output.stdout));
    // Nothing is wrong any more that was right before.
    let reloads = scene.relay.metric(OK).await;
    scene.relay.edit("[operations]\n", "[log]\nlevel = \"debug\"\n[operations]\n");
    above(&scene, OK, reloads).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_a_mistake_in_another_file_is_tried_again_when_that_is_mended() {
    let mut roster = PathBuf::new();
    let scene = Scene::with(|relay| {
        roster = relay.folder().join("roster.csv");
        std::fs::write(&roster, ROSTER).expect("it can be written");
        let table = format!("[[rosters]]\nfile = \"{}\"\ngateway = \"main\"\n", roster.display());
        let password =
            format!("agent_defaults = {{ password_file = \"{}/password\" }}\n", relay.folder().display());
        relay.edit(
            "[[gateways]]\nname = \"main\"\n",
            &format!("{table}[[gateways]]\nname = \"main\"\n{password}"),
        );
    })
    .await;
    let before = shown(&scene).await;
    std::fs::write(&roster, "id,no such column\n1004,x\n").expect("it can be written");
    above(&scene, "ccrelay_rosters_stale", 0.0).await;
    scene.relay.renew_certificate();
    above(&scene, REFUSED, 0.0).await;
    assert!(shown(&scene).await == before, "all or nothing");
    // The roster's own watcher takes it. No file that the reload was refused with changes any more.
    std::fs::write(&roster, ROSTER).expect("it can be written");
    above(&scene, "ccrelay_reload_last_ok", 0.0).await;
    assert!(shown(&scene).await != before, "{}", scene.relay.log());
    scene.agent_in("1004", "active").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_the_relay_starts_is_not_missed_and_neither_is_a_signal() {
    let relay = TestRelay::while_it_starts(|certificates, lifecycle| {
        certificates.renew();
        lifecycle.reload();
    })
    .await;
    eventually("a reload", DEADLINE, || async { (relay.metric(OK).await > 0.0).then_some(()) }).await;
    let stream = relay.connect().await;
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    let written = CertificateDer::from_pem_file(&relay.certificates().cert).expect("PEM");
    assert!(shown == written, "the certificate of before is shown");
    drop(stream);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_the_log_level_does_not() {
    let (scene, _) = scene().await;
    scene
        .relay
        .edit("[operations]\n", "[log]\nlevel = \"debug\"\n[shutdown]\ngrace_secs = 19\n[operations]\n");
    let output = ccrelay(&scene, &["reload"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("needs a restart: shutdown.grace_secs"), "{said}");
    assert!(!said.contains("restart: log"), "{said}");
    assert_eq!(scene.relay.metric("ccrelay_restart_needed").await, 1.0);
    eventually("log lines of the level debug", DEADLINE, || async {
        scene.relay.log().contains("DEBUG").then_some(())
    })
    .await;
    scene.relay.edit("grace_secs = 19", "grace_secs = 20");
    let output = ccrelay(&scene, &["reload", "--json"]).await;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // The key was not there at the start: it still differs, though its value is the default.
    assert_eq!(said["needs_restart"], serde_json::json!(["shutdown.grace_secs"]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_a_gateway_changes_and_sessions_go_on() {
    let (scene, _) = scene().await;
    let file = scene.relay.folder().join("gateway-ca.pem");
    let right = std::fs::read_to_string(&file).expect("it was written");
    scene.heartbeats("1002", 1).await;
    std::fs::write(&file, scene.relay.ca_pem()).expect("it can be written");
    // Calls from now on find a gateway that they must not trust.
    above(&scene, "ccrelay_heartbeats_total{gateway=\"main\",outcome=\"transport\"}", 2.0).await;
    std::fs::write(&file, right).expect("it can be written");
    let counted = scene.simulator.counts(&AgentId::parse("1002").expect("an id")).heartbeats;
    assert!(counted > 0);
    for id in ["1001", "1002", "1003"] {
        scene.heartbeats(id, 2).await;
    }
    let total = scene.simulator.statistics().total;
    assert!(total.sign_outs.is_empty() && total.sign_ins == 3, "{total:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_sinks_are_shown_with_an_exit_code() {
    let (scene, _) = scene().await;
    scene.simulator.play(20.0);
    play_on(&scene, 20).await;
    let delivering = eventually("a sink that delivers", DEADLINE, || async {
        let output = ccrelay(&scene, &["status"]).await;
        output.status.success().then_some(output)
    });
    let said = text(&delivering.await.stdout);
    assert!(
        said.contains("ready, up") && said.contains("main: 3 active") && said.contains("delivering"),
        "{said}"
    );
    let output = ccrelay(&scene, &["sinks", "--json"]).await;
    let sinks: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(sinks["sinks"][0]["sink"], "file");

    // A suspended agent needs a person.
    let put = scene
        .admin()
        .call("PUT", "/api/v1/agents/main/1004", r#"{"phone_number":"71004","password":"not it"}"#)
        .await;
    assert_eq!(put.status, 201, "{}", put.text);
    scene.agent_in("1004", "suspended").await;
    let output = ccrelay(&scene, &["status"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("1 suspended"), "{}", text(&output.stdout));
    scene.end().await;
}

/// An agent's table, as it stands in the configuration.
fn table(scene: &Scene, id: u32) -> String {
    let folder = scene.relay.folder().display();
    format!(
        "[[agents]]\ngateway = \"main\"\nid = \"{id}\"\npassword_file = \"{folder}/password\"\nphone_number = \"7{id}\"\n"
    )
}

async fn is_gone(scene: &Scene, id: u32) {
    let (client, path) = (scene.admin(), format!("/api/v1/agents/main/{id}"));
    eventually(&format!("agent {id} gone"), DEADLINE, || async {
        (client.get(&path).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_the_configuration_come_change_and_go_and_the_others_notice_nothing() {
    let (scene, _) = scene().await;
    scene.simulator.play(20.0);
    let (second, fourth) = (table(&scene, 1002), table(&scene, 1004));
    let third = table(&scene, 1003);
    let text = third.replace("phone_number = \"71003\"", "phone_number = \"79999\"\ntakeover = true");
    scene.relay.edit(&third, &text);
    scene.relay.edit(&second, &fourth);
    let added = scene.agent_in("1004", "active").await;
    assert_eq!(added["origin"], "configuration");
    is_gone(&scene, 1002).await;
    assert!(scene.simulator.session(&AgentId::parse("1002").expect("an id")).is_none(), "it was signed out");
    assert_eq!(scene.relay.metric("ccrelay_restart_needed").await, 0.0, "{}", scene.relay.log());
    assert_eq!(scene.relay.metric("ccrelay_roster_agents").await, 3.0);
    let refused = scene.admin().call("DELETE", "/api/v1/agents/main/1004", "").await;
    assert_eq!(refused.status, 409, "{}", refused.text);

    // A mistake anywhere, and nobody comes or goes.
    let before = scene.relay.metric(REFUSED).await;
    let wrong = table(&scene, 1005).replace("gateway = \"main\"", "gateway = \"nowhere\"");
    scene.relay.edit(&fourth, &wrong);
    above(&scene, REFUSED, before).await;
    play_on(&scene, 60).await;
    scene.agent_in("1004", "active").await;
    scene.relay.edit(&wrong, &fourth);
    let output = ccrelay(&scene, &["reload"]).await;
    assert!(text_of(&output).contains("nothing has changed"), "{}", text_of(&output));

    for id in ["1001", "1003", "1004"] {
        let counts = scene.simulator.counts(&AgentId::parse(id).expect("an id"));
        assert_eq!((counts.sign_ins, counts.pushes_failed), (1, 0), "{id}: {counts:?}");
        assert!(counts.sign_outs.is_empty(), "{id}: {counts:?}");
    }
    scene.end().await;
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_notice_nothing_of_keys_that_need_a_restart() {
    let (scene, _) = scene().await;
    scene.simulator.play(20.0);
    let fourth = table(&scene, 1004);
    let (named, of_agents) = ("[[gateways]]\nname = \"main\"\n", "[[agents]]\ngateway = \"main\"\n");
    // In another mode each agent would be signed out and in. One that comes takes the mode in force.
    let defaults = format!("{named}agent_defaults = {{ mode = \"poll\", takeover = true }}\n");
    scene.relay.edit(named, &defaults);
    let third = table(&scene, 1003);
    scene.relay.edit(&third, &format!("{third}{fourth}"));
    let output = ccrelay(&scene, &["reload"]).await;
    let said = text_of(&output);
    assert!(said.contains("agents: 1 put in, 0 taken out"), "{said}");
    assert!(said.contains("gateways[0].agent_defaults.mode"), "{said}");
    scene.agent_in("1004", "active").await;
    play_on(&scene, 60).await;

    // Under the other name nobody can be signed in before a restart.
    scene.relay.edit(named, "[[gateways]]\nname = \"other\"\n");
    scene.relay.edit(of_agents, &of_agents.replace("main", "other"));
    let said = text_of(&ccrelay(&scene, &["reload"]).await);
    assert!(said.contains("gateways[0].name") && !said.contains("taken out"), "{said}");
    play_on(&scene, 60).await;
    assert_eq!(scene.relay.metric("ccrelay_restart_needed").await, 1.0);
    for id in ["1001", "1002", "1003", "1004"] {
        let counts = scene.simulator.counts(&AgentId::parse(id).expect("an id"));
        assert_eq!((counts.sign_ins, counts.pushes_failed), (1, 0), "{id}: {counts:?}");
        assert!(counts.sign_outs.is_empty(), "{id}: {counts:?}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_has_lost_most_of_its_agents_needs_a_persons_word() {
    let (scene, _) = scene().await;
    // The gateway knows nine of them.
    let more: String = (1004..=1012).map(|id| table(&scene, id)).collect();
    let first = table(&scene, 1001);
    scene.relay.edit(&first, &format!("{more}{first}"));
    scene.agent_in("1009", "active").await;
    let before = scene.relay.metric(REFUSED).await;
    scene.relay.edit(&more, "");
    above(&scene, REFUSED, before).await;
    assert!(scene.relay.log().contains("9 of 12 agents are gone at once"), "{}", scene.relay.log());
    scene.agent_in("1009", "active").await;
    let output = ccrelay(&scene, &["reload"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert!(text_of(&output).contains("9 of 12 agents are gone at once"), "{}", text_of(&output));
    let output = ccrelay(&scene, &["reload", "--confirm-removals"]).await;
    assert!(text_of(&output).contains("0 put in, 9 taken out"), "{}", text_of(&output));
    is_gone(&scene, 1009).await;
    for id in ["1001", "1002", "1003"] {
        let counts = scene.simulator.counts(&AgentId::parse(id).expect("an id"));
        assert_eq!((counts.sign_ins, counts.sign_outs.len()), (1, 0), "{id}: {counts:?}");
    }
    scene.end().await;
}

fn lines(ids: std::ops::Range<u32>) -> String {
    "id,phone_number\n".to_owned() + &ids.map(|id| format!("{id},7{id}\n")).collect::<String>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_for_another_reason_signs_nobody_out_whom_a_shortened_roster_has_no_more() {
    let mut roster = PathBuf::new();
    let scene = Scene::with(|relay| {
        roster = relay.folder().join("roster.csv");
        std::fs::write(&roster, lines(2001..2013)).expect("it can be written");
        let folder = relay.folder().display().to_string();
        let table = format!(
            "[[rosters]]\nfile = \"{}\"\ngateway = \"main\"\ndefaults = {{ password_file = \"{folder}/password\" }}\n",
            roster.display()
        );
        relay.edit("[[gateways]]\n", &format!("{table}[[gateways]]\n"));
    })
    .await;
    let agents = async || scene.relay.metric("ccrelay_roster_agents").await;
    assert_eq!(agents().await, 15.0);
    std::fs::write(&roster, lines(2001..2005)).expect("it can be written");
    above(&scene, "ccrelay_rosters_stale", 0.0).await;
    let reloads = scene.relay.metric(OK).await;
    scene.relay.running().signal(Signal::SIGHUP);
    above(&scene, OK, reloads).await;
    let output = ccrelay(&scene, &["reload"]).await;
    let said = text_of(&output);
    let named = format!("kept: roster {}: 8 agents", roster.display());
    assert!(said.contains(&named) && said.contains("--confirm-removals"), "{said}");
    assert!(!said.contains("nothing has changed"), "{said}");
    assert_eq!(output.status.code(), Some(2), "{said}");
    let said = text_of(&ccrelay(&scene, &["status"]).await);
    assert!(said.contains(&format!("{}: 8 agents that it has no more", roster.display())), "{said}");
    assert_eq!(agents().await, 15.0, "{}", scene.relay.log());

    let output = ccrelay(&scene, &["reload", "--confirm-removals"]).await;
    let said = text_of(&output);
    assert!(output.status.success() && said.contains("0 agents put in, 8 taken out"), "{said}");
    assert_eq!(agents().await, 7.0);
    assert_eq!(text_of(&ccrelay(&scene, &["reload"]).await).trim(), "nothing has changed");
    scene.end().await;
}
