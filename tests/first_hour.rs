//! The walk of `docs/first-hour.md`, every command of it as it stands there, in an empty folder.

#[path = "it/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use support::free_port;

const PAGE: &str = include_str!("../docs/first-hour.md");
/// The ports that the page takes for granted.
const PORTS: [&str; 3] = ["8443", "9464", "18043"];
/// Nothing that the page starts outlives it.
const BEGIN: &str = "trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT\n";
/// Seconds for all of it, on a busy machine.
const PATIENCE: &str = "180";

#[test]
fn every_command_of_the_first_hour_works_as_it_stands() {
    let blocks: Vec<&str> =
        PAGE.split("```sh\n").skip(1).map(|rest| rest.split_once("```").expect("the block ends").0).collect();
    assert_eq!(blocks.len(), 13, "blocks of commands");
    let mut script = BEGIN.to_owned() + &blocks.join("\n");
    for port in PORTS {
        assert!(script.contains(port), "{port}");
        script = script.replace(port, &free_port().to_string());
    }
    let folder = tempfile::TempDir::new().expect("a folder");
    let program = Path::new(env!("CARGO_BIN_EXE_ccrelay")).parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("timeout")
        .args([PATIENCE, "bash", "-euo", "pipefail", "-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{program}:{path}"))
        .output()
        .expect("timeout starts");
    let said =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    let log = std::fs::read_to_string(folder.path().join("ccrelay.log")).unwrap_or_default();
    assert!(output.status.success(), "{:?}\n{said}\n{log}", output.status);

    // What the page shows of it is what it says.
    for line in [
        "config.toml: no mistakes found",
        "nothing needs anybody",
        "{\"message\":\"success\",\"retcode\":\"0\"}",
        "{\"message\":\"token is malformed\",\"retcode\":\"000-003\"}",
        "reload ended with 1",
        "status ended with 2",
        "(runbook: CcrelayReloadRefused)",
        "no dead letters",
    ] {
        assert!(said.contains(line) && PAGE.contains(line), "{line} is not in the page, or not in\n{said}");
    }
}
