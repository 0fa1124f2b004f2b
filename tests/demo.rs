//! The demo as its users run it: the binary, its output, its end.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far above what a start takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(90);

fn start(temporary: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .env_remove("CCRELAY_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Its output, once it has ended by itself.
fn ended(child: Child) -> Output {
    let id = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if told.recv_timeout(LIMIT).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
            kill(id, Signal::SIGKILL).expect("it still runs");
        }
    });
    let output = child.wait_with_output().expect("it ends");
    drop(tell);
    guard.join().expect("the guard ends");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder").next().is_none()
}

#[test]
fn a_demo_shows_events_adds_them_up_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a folder");
    let output = ended(start(temporary.path(), &["--plain", "--events", "100", "--rate", "5"]));
    let (shown, logged) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{:?}\n{shown}\n{logged}", output.status);
    assert_eq!(logged, "", "the view is not disturbed");
    assert!(!shown.contains('\x1b'), "no colours:\n{shown}");
    let lines: Vec<&str> = shown.lines().collect();
    let heading = lines.iter().position(|line| line.starts_with("time (UTC)")).expect("a heading");
    let events: Vec<&str> = lines[heading + 1..]
        .iter()
        .take_while(|line| !line.starts_with("After"))
        .filter(|line| line.ends_with(" ms") && !line.starts_with('\u{2500}'))
        .copied()
        .collect();
    assert!(events.len() >= 100, "{} events:\n{shown}", events.len());
    assert!(events.iter().any(|line| line.contains("session.started")), "{shown}");
    assert!(events.iter().any(|line| line.contains("  call.")), "{shown}");
    let seen = format!(", {} seen by the consumer, 0 seen twice", events.len());
    for part in
        ["kcat -b 127.0.0.1:", "12 sign-ins", " 0 failed", "0 agents signed out", "Nothing was lost", &seen]
    {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }
    assert!(is_empty(temporary.path()), "the folder is gone");
}

#[test]
fn an_interrupted_demo_adds_up_and_ends_soon() {
    use std::io::{BufRead, BufReader, Read};
    let temporary = tempfile::tempdir().expect("a folder");
    let mut child = start(temporary.path(), &["--no-mqtt", "--agents", "3"]);
    let mut shown = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains(" ms") {
        line.clear();
        assert_ne!(shown.read_line(&mut line).expect("UTF-8"), 0, "it ended before any event");
    }
    kill(Pid::from_raw(i32::try_from(child.id()).expect("an id")), Signal::SIGINT).expect("it runs");
    let interrupted = Instant::now();
    let mut rest = String::new();
    shown.read_to_string(&mut rest).expect("UTF-8");
    let output = ended(child);
    assert!(interrupted.elapsed() < Duration::from_secs(30), "{:?}", interrupted.elapsed());
    assert!(output.status.success(), "{:?}\n{rest}\n{}", output.status, text(&output.stderr));
    assert!(rest.contains("Nothing was lost"), "{rest}");
    assert!(!rest.contains("\n  MQTT"), "{rest}");
    assert!(is_empty(temporary.path()), "the folder is gone");
}

#[test]
fn a_reader_that_goes_away_ends_the_demo_in_good_order() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut child = start(temporary.path(), &["--no-mqtt", "--agents", "2"]);
    drop(child.stdout.take());
    let output = ended(child);
    assert!(output.status.success(), "{:?}\n{}", output.status, text(&output.stderr));
    assert!(is_empty(temporary.path()), "the folder is gone");
}

#[test]
fn wrong_options_are_refused() {
    for arguments in [["--rate", "0"], ["--rate", "often"], ["--agents", "0"], ["--events", "-1"]] {
        let temporary = tempfile::tempdir().expect("a folder");
        let output = ended(start(temporary.path(), &arguments));
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}
