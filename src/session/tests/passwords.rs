//! Passwords in files that change under our hands.

use std::path::Path;

use super::Sessions;
use super::config::PasswordSource;
use super::fake::{Scene, Script, view};
use super::retcode::Operation::Login;

fn scene(file: &Path) -> Scene {
    Scene::with(&["291"], |_, agent| agent.password = PasswordSource::File(file.to_owned()))
}

/// An agent whose password, "wrong" in this file, the gateway has refused.
async fn refused() -> (tempfile::NamedTempFile, Scene, Sessions) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong").unwrap();
    let scene = scene(file.path());
    scene.gateway.always(Login, Script::Code("100-004"));
    let sessions = scene.start();
    scene.pass(10).await;
    (file, scene, sessions)
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_waited_for_and_never_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let scene = scene(file.path());
    let sessions = scene.start();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("signing_in", 0));
    std::fs::write(file.path(), "word\n").unwrap();
    scene.pass(60).await;
    assert_eq!((view(&sessions).state, scene.gateway.passwords()), ("active", vec!["word".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_corrected_password_is_tried_by_itself_and_the_same_one_never_again() {
    let (file, scene, sessions) = refused().await;
    let write = |word: &str| std::fs::write(file.path(), word).unwrap();
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some("bad_credentials")));
    write("wrong\n");
    scene.pass(100).await;
    write("wrong too");
    scene.pass(100).await;
    assert_eq!(scene.gateway.passwords(), ["wrong", "wrong too"]);
    assert_eq!(view(&sessions).state, "suspended");
    scene.gateway.heal();
    write("right");
    scene.pass(30).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("active", 3));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_start_that_keeps_an_agent_suspended_looks_for_another_password_from_then_on() {
    let (file, scene, sessions) = refused().await;
    let write = |word: &str| std::fs::write(file.path(), word).unwrap();
    sessions.shutdown(false).await;
    scene.gateway.heal();
    let sessions = scene.start();
    scene.pass(100).await;
    assert_eq!((view(&sessions).state, scene.gateway.count(Login)), ("suspended", 1));
    write("right");
    scene.pass(30).await;
    assert_eq!(view(&sessions).state, "active");
    assert_eq!(scene.gateway.passwords(), ["wrong", "right"]);
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_late_is_read_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let scene = scene(&file);
    let sessions = scene.start();
    scene.pass(10).await;
    assert_eq!((view(&sessions).state, view(&sessions).reason), ("suspended", Some("password_unreadable")));
    std::fs::write(&file, "word").unwrap();
    scene.pass(30).await;
    assert_eq!(view(&sessions).state, "active");
    scene.gateway.check();
}
