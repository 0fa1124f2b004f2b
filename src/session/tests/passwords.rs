//! Passwords in files that change under our hands.

use std::path::Path;

use super::config::PasswordSource;
use super::fake::{Scene, view};
use super::retcode::Operation::Login;

fn scene(file: &Path) -> Scene {
    Scene::with(&["291"], |_, agent| agent.password = PasswordSource::File(file.to_owned()))
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
