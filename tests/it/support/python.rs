//! Python with the packages of `tests/python/requirements.txt`, for readers that are not ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::DEADLINE;

/// Runs a script of this repository with `input`, and gives what it prints. Fails when it fails.
pub(crate) async fn run(script: &str, arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new(interpreter())
        .arg(root().join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Python starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let feed = tokio::task::spawn(async move {
        // A script that has failed no longer reads; its own words say why.
        drop(stdin.write_all(&input).await);
    });
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{script} has no end")).expect("it ends");
    feed.await.expect("no panic");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {complaint}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// That of `CCRELAY_PYTHON`, else the one of `make setup`.
fn interpreter() -> PathBuf {
    let python = std::env::var_os("CCRELAY_PYTHON")
        .map_or_else(|| root().join(".cache/python/bin/python"), PathBuf::from);
    assert!(python.exists(), "no Python in {}: run `make setup` (or set CCRELAY_PYTHON)", python.display());
    python
}
