//! `ccrelay agents`, the API from the command line.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use ccrelay::simulate::{Fault, FaultKind, Operation};
use tokio::process::Command;

use super::client::over_tls;
use super::scene::{READ, Scene};
use crate::support::{DEADLINE, eventually};

/// Runs it with the scene's tokens, of which the first may do everything.
async fn agents(scene: &Scene, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().expect("a command");
    Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .args(["agents", command, "--url", &format!("http://{}", scene.relay.operations())])
        .arg("--token-file")
        .arg(scene.relay.folder().join("tokens"))
        .args(rest)
        .output()
        .await
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_shown_and_changed_from_the_command_line() {
    let scene = Scene::start().await;
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let output = agents(&scene, &["list", "--state", "active"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.starts_with("gateway     agent     state"), "{listed}");
    assert!(
        listed.lines().skip(1).all(|line| line.starts_with("main        100") && line.contains("  active  ")),
        "{listed}"
    );

    assert!(agents(&scene, &["sign-out", "main", "1002"]).await.status.success());
    scene.agent_in("1002", "signed_out").await;
    let output = agents(&scene, &["show", "main", "1002", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["state"], "signed_out");
    assert!(agents(&scene, &["sign-in", "main", "1002"]).await.status.success());
    scene.agent_in("1002", "active").await;
    assert!(agents(&scene, &["take-over", "main", "1002"]).await.status.success());

    let output = agents(&scene, &["show", "main", "9999"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not_found"), "{}", text(&output.stderr));
    std::fs::write(scene.relay.folder().join("other"), READ).expect("the folder can be written");
    let other = scene.relay.folder().join("other").display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .args(["agents", "sign-out", "main", "1001", "--token-file", &other])
        .args(["--url", &format!("http://{}", scene.relay.operations())])
        .output()
        .await
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("scope_missing"), "{}", text(&output.stderr));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_sent_where_others_can_read_it() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("tokens");
    std::fs::write(&file, READ).expect("the folder can be written");
    for (url, said) in [
        ("http://192.0.2.1:9464", "use https"),
        ("http://ccrelay.example:9464", "use https"),
        ("https://192.0.2.1:9464", "--ca-file is needed"),
        ("ftp://127.0.0.1", "begins with https://"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
            .args(["agents", "list", "--url", url, "--token-file"])
            .arg(&file)
            .output()
            .await
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{url}");
        let error = text(&output.stderr);
        assert!(error.contains(said) && !error.contains(READ), "{url}: {error}");
    }
}

/// The program with these arguments, to its end.
async fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccrelay")).args(arguments).output().await.expect("the program starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_a_manual_page_and_is_completed_by_shells() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let pages = folder.path().display().to_string();
    assert!(program(&["man", "--all", &pages]).await.status.success());
    let page = text(&program(&["man"]).await.stdout).to_owned();
    let help = text(&program(&["--help"]).await.stdout).to_owned();
    assert!(help.contains("Exit codes: 0 done") && page.contains("Exit codes: 0 done"), "{help}");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<_> =
        commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    for wanted in ["run", "status", "agents", "tail", "sinks", "spool", "deadletters", "reload", "token"] {
        assert!(commands.contains(&wanted), "{wanted} is no command: {commands:?}");
    }
    for command in &commands {
        let page =
            std::fs::read_to_string(folder.path().join(format!("ccrelay-{command}.1"))).expect("a page");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&program(&["completions", shell]).await.stdout).to_owned();
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let script = folder.path().join("script");
    std::fs::write(&script, program(&["completions", "bash"]).await.stdout)
        .expect("the folder can be written");
    let completed = Command::new("bash")
        .arg("-c")
        .arg("source \"$0\"; COMP_WORDS=(ccrelay ta); COMP_CWORD=1; _ccrelay ccrelay ta ccrelay; echo \"${COMPREPLY[@]}\"")
        .arg(&script)
        .output()
        .await
        .expect("bash starts");
    assert_eq!(text(&completed.stdout).trim(), "tail", "{completed:?}");
    assert_eq!(program(&["completions", "no-such-shell"]).await.status.code(), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_made_lets_its_holder_in_at_once() {
    let scene = Scene::start().await;
    let file = scene.relay.folder().join("tokens").display().to_string();
    let made = program(&["token", "--name", "night-shift", "--append", &file]).await;
    assert!(made.status.success(), "{made:?}");
    let token = text(&made.stdout).trim().to_owned();
    assert_eq!(scene.client(Some(&token)).get("/api/v1/status").await.status, 200);
    let refused = scene.client(Some(&token)).post("/api/v1/agents/main/1001/sign-out").await;
    assert_eq!(refused.code(), "scope_missing");
    let secrets = [program(&["token", "--secret"]).await, program(&["token", "--secret"]).await];
    assert!(secrets.iter().all(|secret| text(&secret.stdout).trim().len() == 64));
    assert_ne!(secrets[0].stdout, secrets[1].stdout);
    assert_eq!(program(&["token", "--name", "two words"]).await.status.code(), Some(1));
    assert!(!scene.relay.log().contains(&token));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_sinks_say_what_is_wrong_and_end_with_2() {
    let scene = Scene::with(|relay| {
        let sink = "[sinks.broker.mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";
        relay.edit("[sinks.file.jsonl]", &format!("{sink}[sinks.file.jsonl]"));
    })
    .await;
    let url = format!("http://{}", scene.relay.operations());
    let tokens = scene.relay.folder().join("tokens").display().to_string();
    let place = ["--url", &url, "--token-file", &tokens];
    eventually("the failure", DEADLINE, || async {
        let output = program(&[&["status"], &place[..]].concat()).await;
        let said = text(&output.stdout);
        (output.status.code() == Some(2)
            && said.contains("warning  broker does not deliver")
            && said.contains("(runbook: CcrelaySinkStuck)")
            && said.contains("Connection refused"))
        .then_some(())
    })
    .await;
    assert_eq!(program(&[&["sinks"], &place[..]].concat()).await.status.code(), Some(2));
    for command in ["status", "sinks", "reload"] {
        let output = program(&[&[command, "--json"], &place[..]].concat()).await;
        let value: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        assert!(value.is_ok(), "{command}: {output:?}");
    }
    let nobody = ["--url", "http://127.0.0.1:1", "--token-file", &tokens];
    for command in ["status", "sinks", "reload", "tail"] {
        assert_eq!(program(&[&[command], &nobody[..]].concat()).await.status.code(), Some(1), "{command}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_ends_as_the_worst_concern_of_the_api_says_also_of_what_was_before_anybody_looked() {
    let scene = Scene::start().await;
    let url = format!("http://{}", scene.relay.operations());
    let tokens = scene.relay.folder().join("tokens").display().to_string();
    let ends_with = async |code: i32| {
        eventually(&format!("status ends with {code}"), DEADLINE, || async {
            let output = program(&["status", "--url", &url, "--token-file", &tokens]).await;
            (output.status.code() == Some(code)).then(|| text(&output.stdout))
        })
        .await
    };
    let well = ends_with(0).await;
    assert!(!well.contains("runbook"), "{well}");

    let callback = ([127, 0, 0, 1], scene.relay.callback_port()).into();
    for _ in 0..6 {
        let push = "POST /push/main HTTP/1.1\r\nhost: x\r\nconnection: close\r\nservice_token: abc\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(over_tls(callback, &scene.relay.ca_pem(), push).await.status, 401);
    }
    let warned = ends_with(2).await;
    assert!(warned.contains("warning  pushes were refused"), "{warned}");
    assert!(warned.contains("(runbook: CcrelayPushesRefused)"), "{warned}");

    scene.simulator.inject(Fault::next(Operation::Handshake, 1_000, FaultKind::Drop).of("1002"));
    let critical = ends_with(3).await;
    let of_api = scene.admin().get("/api/v1/status").await.json();
    let of_api = of_api["concerns"].as_array().expect("concerns").clone();
    assert_eq!(of_api[0]["severity"], "critical", "{of_api:?}");
    for concern in of_api.iter().filter(|concern| concern["severity"] == "warning") {
        let alert = concern["alert"].as_str().expect("a name");
        assert!(critical.contains(alert), "{alert} is not in\n{critical}");
    }
    scene.simulator.clear_faults();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_read_enough_may_leave_and_the_exit_code_stays_what_it_is() {
    let scene = Scene::start().await;
    let url = format!("http://{}", scene.relay.operations());
    let tokens = scene.relay.folder().join("tokens").display().to_string();
    let (config, spool) =
        (scene.relay.folder().join("config.toml"), scene.relay.folder().join("spool").display().to_string());
    let config = config.display().to_string();
    for secret in ["key.pem", "password"] {
        let only_ours = Permissions::from_mode(0o600);
        std::fs::set_permissions(scene.relay.folder().join(secret), only_ours).expect("it is ours");
    }
    let place = ["--url", url.as_str(), "--token-file", tokens.as_str()];
    for command in [
        [&["status"], &place[..]].concat(),
        [&["sinks"], &place[..]].concat(),
        [&["agents", "list"], &place[..]].concat(),
        vec!["spool", "stat", "--directory", &spool],
        vec!["spool", "dump", "--directory", &spool],
        vec!["deadletters", "list", "--directory", &spool],
        vec!["check", "--config", &config],
        vec!["man"],
        vec!["schema"],
        vec!["--help"],
    ] {
        // As `| head -0` leaves it: nobody reads at all.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_ccrelay")).args(&command).stdout(writer).output().await;
        let output = output.expect("the program starts");
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{command:?}");
    }
    scene.end().await;
}
