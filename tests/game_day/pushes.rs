//! What comes from the gateway, the machine under us, and the files that we live from.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ccrelay::simulate::EmitOptions;
use nix::sys::signal::Signal;

use crate::MACHINE;
use crate::scene::{Plan, Scene, agent};
use crate::support::process::Process;

pub(crate) const ALERTS: &[&str] = &[
    "CcrelayPushesRefused",
    "CcrelayPushesUnanswered",
    "CcrelayTokenGuessing",
    "CcrelayUnknownEvents",
    "CcrelaySpoolSlow",
    "CcrelayAnswersSlow",
    "CcrelayCertificateExpiring",
    "CcrelayCertificateExpired",
    "CcrelayReloadRefused",
    "CcrelayRestartNeeded",
    "CcrelayFilesRunningOut",
    "CcrelayLogLinesDropped",
];

const AGENTS: u32 = 10;
/// What the relay may open, and of it the part at which the alert fires.
const FILES: usize = 200;
const FILES_IN_USE: usize = FILES * 8 / 10;
/// Connections to the callback listener that say nothing: more than half of the files are not given to them.
const IDLE: usize = FILES / 2;
/// And to the operations listener: not so many that there is no file left to be scraped with.
const IDLE_OPERATORS: usize = 35;
/// For how long the gateway waits for an answer: longer than for a disk that is slow, and not for one that stalls.
const PUSH_TIMEOUT_MS: u64 = 8000;
const SLOW: Duration = Duration::from_millis(1500);
const STALLED: Duration = Duration::from_secs(12);
const TEN_DAYS: Duration = Duration::from_secs(10 * 86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_goes_wrong_with_pushes_disk_and_files_is_told_and_its_cause_is_shown() {
    let _together = MACHINE.read().await;
    let mut scene = Scene::prepare_with(AGENTS, |gateway| gateway.push_timeout_ms = PUSH_TIMEOUT_MS).await;
    let folder = scene.relay.folder().to_owned();
    scene.configure(&Plan {
        agents: 1001..=1000 + AGENTS,
        gateway_port: None,
        tables: &format!("[sinks.file.jsonl]\npath = \"{}/events.jsonl\"\n", folder.display()),
    });
    let limited = format!("ulimit -n {FILES} && exec \"$@\"");
    scene.relay.wrapper = ["sh", "-c", &limited, "sh"].map(str::to_owned).to_vec();
    scene.start().await;
    scene.all_signed_in(AGENTS as usize).await;
    scene.simulator.play(5.0);
    scene.assert_quiet().await;

    let (ca, uri) = (folder.join("ca.pem"), scene.relay.callback_uri());
    scene.fires_while("CcrelayPushesRefused", &["reason=\"token_"], |_| forge(&ca, &uri)).await;
    let operations = scene.relay.operations();
    let shown = ["\"listener\":\"operations\"", "\"peer\":\"127.0.0.1:"];
    scene.fires_while("CcrelayTokenGuessing", &shown, |_| guess(operations)).await;
    let emitted =
        scene.simulator.emit(&agent(1001), "AgentOther_Novel", serde_json::json!({}), EmitOptions::default());
    emitted.expect("the agent is signed in");
    scene.fires("CcrelayUnknownEvents", &["AgentOther_Novel"]).await;

    let slow = disk_that_takes(&scene, SLOW);
    let seen = scene.fires("CcrelaySpoolSlow", &["ccrelay_spool_commit_duration_seconds_bucket"]).await;
    let [all, quick] = ["+Inf", "1"].map(|le| bucket(&seen, le));
    assert!(all > quick + 1.0, "commits of more than a second: {seen}");
    scene.fires("CcrelayAnswersSlow", &["ccrelay_spool_commit_duration_seconds_sum"]).await;
    slow.end(Signal::SIGINT).await;
    let stalled = disk_that_takes(&scene, STALLED);
    scene.fires("CcrelayPushesUnanswered", &["\"reason\":\"peer_gone\"", "\"waited_secs\":"]).await;
    // The disk is well again.
    stalled.end(Signal::SIGINT).await;

    scene.words = vec![
        ("FILE", folder.join("cert.pem").display().to_string()),
        ("$(pidof ccrelay)", scene.relay.running().pid().to_string()),
    ];
    scene.relay.renew_certificate_for(TEN_DAYS);
    scene.fires("CcrelayCertificateExpiring", &["notAfter="]).await;
    let keys = old_certificate(&folder);
    let gateway = "[[gateways]]\nname = \"main\"\n";
    scene.relay.edit(gateway, &format!("{gateway}{keys}"));
    scene.fires("CcrelayCertificateExpired", &["notAfter="]).await;
    scene.relay.edit(&keys, "");
    std::fs::write(folder.join("key.pem"), "not a key").expect("the folder can be written");
    scene.fires("CcrelayReloadRefused", &["callback.key_file"]).await;
    scene.relay.renew_certificate();
    scene.relay.edit("[spool]\n", "[spool]\nmax_bytes = 123456789\n");
    scene.fires("CcrelayRestartNeeded", &["spool.max_bytes"]).await;

    let (mut idle, mut operators) = (Vec::new(), Vec::new());
    let (callback, operations) = (scene.relay.callback_port(), scene.relay.operations());
    let seen = scene
        .fires_while("CcrelayFilesRunningOut", &[], |_| {
            // Those that say nothing are closed after a while, so there are new ones all the time.
            idle.drain(..idle.len().saturating_sub(IDLE - 10));
            idle.extend((0..10).filter_map(|_| TcpStream::connect(("127.0.0.1", callback)).ok()));
            let missing = IDLE_OPERATORS.saturating_sub(operators.len()).min(10);
            operators.extend((0..missing).filter_map(|_| TcpStream::connect(operations).ok()));
        })
        .await;
    assert!(seen.trim().parse::<usize>().is_ok_and(|open| open > FILES_IN_USE), "{seen}");

    // There is much of the log, and its reader does not read.
    drop((idle, operators));
    scene.relay.stop().await;
    let pipe = folder.join("stderr").display().to_string();
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts");
    assert!(made.success(), "{pipe}");
    let _unread = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    scene.relay.wrapper = ["sh", "-c", "exec \"$@\" 2>\"$0\"", &pipe].map(str::to_owned).to_vec();
    scene.relay.edit("[operations]\n", "[log]\nlevel = \"trace\"\n[operations]\n");
    scene.relay.start().await;
    scene.simulator.play(50.0);
    let operations = scene.relay.operations();
    let shown = ["ccrelay_log_lines_dropped_total"];
    scene.fires_while("CcrelayLogLinesDropped", &shown, |_| guess(operations)).await;
    scene.assert_all_fired(ALERTS);
    assert_eq!(scene.simulator.statistics().total.sign_outs.len(), 0, "nobody was signed out");
}

/// A push with a token that nobody made.
fn forge(ca: &std::path::Path, uri: &str) {
    let output = Command::new("curl")
        .args(["-s", "-m", "5", "--cacert"])
        .arg(ca)
        .args(["-H", "service_token: abcdefghijklmnopqrstuvwxyz0123456789", "-d", "{}", uri])
        .output()
        .expect("curl starts: `make setup` installs it");
    assert!(output.status.success(), "{output:?}");
}

/// Calls of the API with tokens that nobody gave out, many at a time.
fn guess(operations: std::net::SocketAddr) {
    let output = Command::new("curl")
        .args(["-s", "-m", "5", "-Z", "--parallel-immediate", "-o", "/dev/null", "-w", "%{http_code}\n"])
        .args(["-H", "authorization: Bearer a-token-that-nobody-gave-out"])
        .arg(format!("http://{operations}/api/v1/status?guess=[1-40]"))
        .output()
        .expect("curl starts: `make setup` installs it");
    let answers = String::from_utf8_lossy(&output.stdout);
    assert!(answers.lines().all(|status| status == "401") && !answers.is_empty(), "{output:?}");
}

/// From now on every fsync of the relay takes so long.
fn disk_that_takes(scene: &Scene, time: Duration) -> Process {
    let pid = scene.relay.running().pid().to_string();
    let words = ["strace", "-f", "-p", &pid, "-e", "trace=fdatasync,fsync", "-o", "/dev/null"];
    let delay = format!("inject=fdatasync,fsync:delay_enter={}", time.as_micros());
    let command: Vec<String> = words.iter().chain(&["-e", &delay]).map(|word| (*word).to_owned()).collect();
    let folder = scene.relay.folder().join(format!("strace-{}", time.as_millis()));
    std::fs::create_dir(&folder).expect("the folder can be written");
    Process::start(&folder, &command)
}

/// How many commits took no longer than that.
fn bucket(page: &str, le: &str) -> f64 {
    let series = format!("ccrelay_spool_commit_duration_seconds_bucket{{le=\"{le}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series} in {page}"))
}

/// Keys of a gateway, with a certificate of our own for it that ended long ago. It asks for none.
fn old_certificate(folder: &Path) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["relay.test".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2024, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    for (name, text) in [("old.pem", certificate), ("old.key", key.serialize_pem())] {
        std::fs::write(folder.join(name), text).expect("the folder can be written");
    }
    let at = folder.display();
    format!("client_cert_file = \"{at}/old.pem\"\nclient_key_file = \"{at}/old.key\"\n")
}
