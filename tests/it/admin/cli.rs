//! `ccrelay agents`, the API from the command line.

use std::process::Output;

use tokio::process::Command;

use super::scene::{READ, Scene};

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
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed.lines().all(|line| line.starts_with("main  100") && line.contains("  active  ")),
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
