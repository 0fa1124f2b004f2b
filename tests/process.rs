//! The real binary: its signals, exit codes and commands, and what it does when its disk is full or fails.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, SignOut, Simulator};
use nix::sys::signal::Signal;
use tempfile::TempDir;

#[path = "it/support/mod.rs"]
mod support;

use support::eventually;
use support::judge::{Arrival, judge};
use support::mosquitto::Mosquitto;
use support::process::Process;
use support::proxy::Proxy;
use support::relay::{Pace, Relay, Wiring, binary};

const PASSWORD: &str = "canary-password";
const AGENTS: std::ops::RangeInclusive<u32> = 1001..=1020;
/// What a phase may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// The sign-out limit of the scene, and the metric that counts down from it.
const SIGN_OUT_LIMIT: f64 = 60.0;
const BUDGET: &str = "ccrelay_sign_out_budget_seconds{gateway=\"main\"}";
/// Far above what a stop or a failure takes, and below the default grace period of 20 s.
const SOON: Duration = Duration::from_secs(15);

/// A gateway that plays, and a relay that writes what comes to a file.
struct Scene {
    simulator: Simulator,
    relay: Relay,
    session_path: Proxy,
    events: PathBuf,
}

impl Scene {
    /// Everything but the start of the relay; `more` goes into its configuration.
    async fn prepare(more: &str) -> Scene {
        Scene::prepare_with(more, |_| ()).await
    }

    /// The same with other settings of the gateway.
    async fn prepare_with(more: &str, set: impl FnOnce(&mut Settings)) -> Scene {
        let mut relay = Relay::prepare();
        let mut settings = Settings::local();
        settings.guid_interval_ms = 10_000;
        settings.guid_timeout_ms = 60_000;
        settings.handshake_max_time_ms = 60_000;
        settings.push_fail_interval_ms = 500;
        settings.push_fail_total_ms = 60_000;
        settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
        settings.agents = vec![Agents::range(*AGENTS.start(), *AGENTS.end(), PASSWORD)];
        settings.cookies = true;
        settings.mark_events = true;
        set(&mut settings);
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        let session_path = Proxy::start(&simulator.local_addr().to_string()).await;
        relay.at_pace(Pace { heartbeat: 1, sign_out_limit: 60, repeat_soonest_millis: 400 });
        let events = relay.folder().join("events.jsonl");
        let real = simulator.local_addr().port().to_string();
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url().replace(&real, &session_path.port().to_string()),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: AGENTS,
            password: PASSWORD,
            tables: &format!("{more}\n[sinks.file.jsonl]\npath = \"{}\"\n", events.display()),
        });
        Scene { simulator, relay, session_path, events }
    }

    /// Replaces a piece of the configuration.
    fn reconfigure(&self, old: &str, new: &str) {
        let file = self.relay.folder().join("config.toml");
        let text = std::fs::read_to_string(&file).expect("it was written");
        assert!(text.contains(old), "{old:?} is not in {text}");
        std::fs::write(&file, text.replace(old, new)).expect("the folder can be written");
    }

    /// Starts the relay, signs everybody in, and plays.
    async fn start(&mut self) {
        self.relay.start().await;
        let count = AGENTS.count();
        assert!(self.simulator.wait_for(PATIENCE, |s| s.signed_in == count).await, "all agents sign in");
        self.simulator.play(10.0);
    }

    /// Waits until so many more events are acknowledged.
    async fn play_on(&self, events: u64) {
        let goal = self.simulator.statistics().total.delivered + events;
        let got_there = self.simulator.wait_for(PATIENCE, |s| s.total.delivered >= goal).await;
        assert!(got_there, "{:?}\n{}", self.simulator.statistics().total, self.relay.log());
    }

    fn failed_pushes(&self) -> u64 {
        self.simulator.statistics().total.pushes_failed
    }

    /// Ends the play, waits until all is delivered, and judges. Nobody may have been signed out on the way.
    async fn assert_nothing_is_lost(&self) {
        self.play_on(200).await;
        self.simulator.stop_playing();
        assert!(self.simulator.drained(PATIENCE).await, "the gateway gets rid of its events");
        self.relay.delivered(PATIENCE).await;
        judge(&self.simulator.ledger(), &self.arrivals()).assert_flawless("the file");
        self.assert_nobody_was_signed_out();
    }

    fn arrivals(&self) -> Vec<Arrival> {
        let text = std::fs::read_to_string(&self.events).expect("there are events");
        text.lines().map(Arrival::from_json_line).collect()
    }

    fn assert_nobody_was_signed_out(&self) {
        let total = self.simulator.statistics().total;
        assert!(total.sign_outs.is_empty(), "{total:?}");
        assert_eq!(total.sign_ins, AGENTS.count() as u64, "each agent signed in once");
    }
}

// --- Signals -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_is_clean_leaves_sessions_open_and_delivers_nothing_twice() {
    let mut scene = Scene::prepare("").await;
    scene.start().await;
    for _ in 0..2 {
        scene.play_on(300).await;
        let begin = Instant::now();
        assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        let statistics = scene.simulator.statistics();
        assert_eq!(statistics.signed_in, AGENTS.count(), "sessions are left open");
        assert_eq!(statistics.total.signed_out(SignOut::Asked), 0, "no logout was called");
        scene.relay.start().await;
    }
    scene.assert_nothing_is_lost().await;
    // The gateway may repeat a push whose answer the stop cut off. We repeat nothing.
    let mut ids = HashSet::new();
    let again = |arrival: &Arrival| !arrival.is_repeat() && !ids.insert(arrival.attribute("id").to_owned());
    let again = scene.arrivals().into_iter().filter(again).count();
    assert_eq!(again, 0, "what was written was known as written after the restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_goes_on_where_it_was_killed() {
    let mut scene = Scene::prepare("").await;
    scene.start().await;
    for _ in 0..3 {
        scene.play_on(300).await;
        scene.relay.kill9().await;
        scene.relay.start().await;
    }
    scene.assert_nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_a_stop_that_hangs() {
    // Signing out hangs, as the gateway is a black hole, and the grace period is long.
    let mut scene = Scene::prepare("[shutdown]\ngrace_secs = 600").await;
    scene.reconfigure("name = \"main\"\n", "name = \"main\"\nsign_out_on_stop = true\n");
    scene.reconfigure("call_deadline_secs = 5\n", "call_deadline_secs = 25\n");
    scene.start().await;
    scene.play_on(100).await;
    scene.session_path.stall();
    // Far less than the deadline of the calls that hang.
    let at_once = Duration::from_secs(5);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        scene.relay.running().signal(signal);
        if signal == Signal::SIGTERM {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(2) {
                scene.relay.running().assert_alive();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert_eq!(scene.relay.ended(at_once).await, 1, "{}", scene.relay.log());
    // The calls that hung in the black hole go no further.
    scene.session_path.reset();
    scene.session_path.heal();
    scene.relay.start().await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_file_that_cannot_be_read() {
    let mut scene = Scene::prepare("").await;
    let roster = scene.relay.folder().join("roster.csv");
    std::fs::write(&roster, "id,phone_number\n").expect("the folder can be written");
    let table = format!(
        "[[rosters]]\nfile = \"{}\"\ngateway = \"main\"\nallow_empty = true\n[[gateways]]\n",
        roster.display()
    );
    scene.reconfigure("[[gateways]]\n", &table);
    scene.start().await;
    scene.play_on(100).await;
    // A pipe is as a disk that hangs: whoever opens it waits for somebody who writes.
    std::fs::remove_file(&roster).expect("it is there");
    run("mkfifo", &[&roster.display().to_string()]);
    let mut writer = std::fs::OpenOptions::new();
    writer.write(true).custom_flags(nix::libc::O_NONBLOCK);
    // It can be opened in this way when somebody reads it, and as long as it is open there may come more.
    let writer =
        eventually("a roster that is being read", PATIENCE, || async { writer.open(&roster).ok() }).await;
    let begin = Instant::now();
    assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    drop(writer);
    std::fs::remove_file(&roster).expect("it is there");
    std::fs::write(&roster, "id,phone_number\n").expect("the folder can be written");
    scene.relay.start().await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_start_that_hangs_takes_its_time_and_no_more_and_signs_nobody_in() {
    let mut scene = Scene::prepare("").await;
    // A pipe is as a disk that hangs.
    let spool = scene.relay.folder().join("spool");
    std::fs::create_dir(&spool).expect("the folder can be written");
    let secret = spool.join("token.secret");
    run("mkfifo", &[&secret.display().to_string()]);
    for signals in [2, 1] {
        std::fs::write(scene.relay.folder().join("log"), "").expect("the folder can be written");
        scene.relay.launch();
        let mut pipe = std::fs::OpenOptions::new();
        pipe.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut pipe = eventually("a start that reads", PATIENCE, || async { pipe.open(&secret).ok() }).await;
        scene.relay.running().signal(Signal::SIGTERM);
        let seen = || async { scene.relay.log().contains("stopping").then_some(()) };
        eventually("a signal that is seen", PATIENCE, seen).await;
        scene.relay.running().assert_alive();
        if signals == 2 {
            scene.relay.running().signal(Signal::SIGTERM);
        } else {
            std::fs::remove_file(&secret).expect("it is there");
            std::io::Write::write_all(&mut pipe, &[b'x'; 32]).expect("somebody reads");
            drop(pipe);
        }
        let code = scene.relay.ended(Duration::from_secs(5)).await;
        assert_eq!(code, if signals == 2 { 1 } else { 0 }, "{}", scene.relay.log());
        assert_eq!(scene.simulator.statistics().total.sign_ins, 0);
    }
    scene.start().await;
    scene.assert_nothing_is_lost().await;
}

// --- The log -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_pushes_nor_the_stop() {
    let mut scene = Scene::prepare("").await;
    scene.reconfigure("[operations]\n", "[log]\nlevel = \"trace\"\n[operations]\n");
    let pipe = scene.relay.folder().join("stderr").display().to_string();
    run("mkfifo", &[&pipe]);
    // It is open for reading, and full after some hundred lines.
    let _unread = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    scene.relay.wrapper = ["sh", "-c", "exec \"$@\" 2>\"$0\"", &pipe].map(str::to_owned).to_vec();
    scene.start().await;
    eventually("lines that are dropped", PATIENCE, || async {
        (scene.relay.metric("ccrelay_log_lines_dropped_total").await > 0.0).then_some(())
    })
    .await;
    scene.play_on(300).await;
    assert_eq!(scene.failed_pushes(), 0);
    let begin = Instant::now();
    assert_eq!(scene.relay.stop().await, 0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    scene.relay.wrapper.clear();
    scene.relay.start().await;
    scene.assert_nothing_is_lost().await;
}

// --- The disk ----------------------------------------------------------------------------------------------------

/// The tests of a full disk mount one of their own.
fn assert_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a small file system: run it as root");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_pushes_and_when_there_is_space_again_nothing_is_lost() {
    fill_the_disk(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_refuses_pushes_and_when_there_is_space_again_nothing_is_lost() {
    fill_the_disk(4_000_000).await;
}

async fn fill_the_disk(min_free_bytes: u32) {
    assert_root();
    // A sink whose broker is away keeps the spool growing, so that it needs the space.
    let mosquitto = Mosquitto::start().await;
    let path = Proxy::start(&format!("127.0.0.1:{}", mosquitto.port())).await;
    path.refuse();
    let away = format!("[sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:{}\"", path.port());
    let mut scene = Scene::prepare(&away).await;
    scene.reconfigure("[spool]\n", &format!("[spool]\nmin_free_disk_bytes = {min_free_bytes}\n"));
    let spool = scene.relay.folder().join("spool");
    std::fs::create_dir(&spool).expect("the folder can be written");
    // In a mount namespace of the relay's own, so that nothing is left mounted.
    let mount = "mount -t tmpfs -o size=32m tmpfs \"$0\" && exec \"$@\"";
    scene.relay.wrapper = ["unshare", "-m", "sh", "-c", mount].map(str::to_owned).to_vec();
    scene.relay.wrapper.push(spool.display().to_string());
    scene.start().await;
    // What the spool has prepared takes pushes for a while: two files.
    scene.simulator.play(60.0);
    scene.play_on(300).await;
    assert_eq!(scene.failed_pushes(), 0);

    let seen_by_relay = format!("/proc/{}/root{}", scene.relay.running().pid(), spool.display());
    let ballast = Path::new(&seen_by_relay).join("ballast");
    let refused = "ccrelay_push_failures_total{reason=\"spool_full\"}";
    for _ in 0..2 {
        let before = (scene.relay.metric(refused).await, scene.failed_pushes());
        eventually("pushes that are refused", PATIENCE, || async {
            fill(&ballast);
            (scene.relay.metric(refused).await >= before.0 + 20.0).then_some(())
        })
        .await;
        assert!(scene.simulator.wait_for(PATIENCE, |s| s.total.pushes_failed >= before.1 + 20).await);
        assert!(scene.relay.probe().is_ready().await, "traffic must keep coming: a full disk passes");
        // Heartbeats come every second, so that what eats the budget is the pushes refused.
        eventually("refused pushes that eat the sign-out budget", PATIENCE, || async {
            fill(&ballast);
            (scene.relay.metric(BUDGET).await < SIGN_OUT_LIMIT - 5.0).then_some(())
        })
        .await;
        std::fs::remove_file(&ballast).expect("the ballast is there");
        scene.play_on(300).await;
        eventually("the budget back where heartbeats leave it", PATIENCE, || async {
            (scene.relay.metric(BUDGET).await > SIGN_OUT_LIMIT - 4.0).then_some(())
        })
        .await;
    }
    path.heal();
    scene.assert_nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_restarted_on_a_full_disk_comes_back_and_loses_nothing() {
    assert_root();
    let mosquitto = Mosquitto::start().await;
    let path = Proxy::start(&format!("127.0.0.1:{}", mosquitto.port())).await;
    path.refuse();
    let away = format!("[sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:{}\"", path.port());
    // What a session gets anew cannot be stored either, so nobody gets anything.
    let set = |settings: &mut Settings| {
        (settings.guid_interval_ms, settings.guid_timeout_ms) = (300_000, 600_000);
    };
    let mut scene = Scene::prepare_with(&away, set).await;
    scene.reconfigure("[spool]\n", "[spool]\nmin_free_disk_bytes = 0\n");
    let disk = Disk::of(&mut scene, 64).await;
    scene.start().await;
    scene.simulator.play(60.0);
    scene.play_on(300).await;

    let ballast = disk.folder.join("ballast");
    let refused = "ccrelay_push_failures_total{reason=\"spool_full\"}";
    for end in ["killed", "stopped", "stopped before the disk was full"] {
        let before = scene.relay.metric(refused).await;
        if end != "stopped before the disk was full" {
            eventually("pushes that are refused", PATIENCE, || async {
                fill(&ballast);
                (scene.relay.metric(refused).await >= before + 20.0).then_some(())
            })
            .await;
        }
        if end == "killed" {
            scene.relay.kill9().await;
        } else {
            assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
        }
        // Also what the end has given back.
        fill(&ballast);
        scene.relay.start().await;
        eventually("pushes that are refused as before", PATIENCE, || async {
            fill(&ballast);
            (scene.relay.metric(refused).await >= 1.0).then_some(())
        })
        .await;
        std::fs::remove_file(&ballast).expect("the ballast is there");
        scene.play_on(300).await;
    }
    path.heal();
    scene.assert_nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_sink_that_is_taken_out_gives_a_full_disk_room_again_also_after_restarts() {
    assert_root();
    let away = "[sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";
    let set = |settings: &mut Settings| {
        (settings.guid_interval_ms, settings.guid_timeout_ms) = (300_000, 600_000);
    };
    let mut scene = Scene::prepare_with(away, set).await;
    scene.reconfigure("[spool]\n", "[spool]\nmin_free_disk_bytes = 0\n");
    // Nothing but the spool is on it, so that what comes again is the room of the records.
    let _disk = Disk::of(&mut scene, 12).await;
    scene.start().await;
    scene.simulator.play(60.0);
    let refused = "ccrelay_push_failures_total{reason=\"spool_full\"}";
    for restart in 0..3 {
        eventually("pushes that are refused", PATIENCE, || async {
            (scene.relay.metric(refused).await >= 20.0).then_some(())
        })
        .await;
        assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
        if restart == 2 {
            scene.reconfigure(away, "");
        }
        scene.relay.start().await;
    }
    scene.play_on(1000).await;
    assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_taken_out_is_kept_while_the_file_names_it_again_and_goes_on_after_a_restart() {
    let away = "[sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";
    let mut scene = Scene::prepare(away).await;
    scene.start().await;
    scene.play_on(100).await;
    let lag = "ccrelay_sink_lag_records{sink=\"wall\"}";
    eventually("a backlog", PATIENCE, || async { (scene.relay.metric(lag).await >= 50.0).then_some(()) })
        .await;
    assert_eq!(scene.relay.stop().await, 0);
    scene.reconfigure(away, "");
    scene.relay.start().await;
    scene.reconfigure("[sinks.file.jsonl]", &format!("{away}[sinks.file.jsonl]"));
    let said = "the configuration's file names a sink again";
    eventually(said, PATIENCE, || async { scene.relay.log().contains(said).then_some(()) }).await;
    assert_eq!(scene.relay.stop().await, 0);
    scene.relay.start().await;
    eventually("the same backlog", PATIENCE, || async {
        (scene.relay.metric(lag).await >= 50.0).then_some(())
    })
    .await;
    assert_eq!(scene.relay.stop().await, 0);
}

/// A small disk for a spool. It outlives the relay: it is mounted in the namespace of a process beside it.
struct Disk {
    _process: Process,
    _place: TempDir,
    /// What is on it, as it is seen from here.
    folder: PathBuf,
}

impl Disk {
    async fn of(scene: &mut Scene, megabytes: u32) -> Disk {
        let spool = scene.relay.folder().join("spool");
        std::fs::create_dir(&spool).expect("the folder can be written");
        let place = TempDir::new().expect("a folder");
        let mount =
            format!("mount -t tmpfs -o size={megabytes}m tmpfs '{}' && exec sleep infinity", spool.display());
        let process = ["unshare", "-m", "sh", "-c", &mount].map(str::to_owned);
        let process = Process::start(place.path(), &process);
        let inside = process.pid().to_string();
        scene.relay.wrapper = ["nsenter", "-m", "-t", &inside].map(str::to_owned).to_vec();
        let mounted = || async {
            let mounts = std::fs::read_to_string(format!("/proc/{inside}/mounts")).unwrap_or_default();
            mounts.contains(&spool.display().to_string()).then_some(())
        };
        eventually("a disk", PATIENCE, mounted).await;
        let folder = PathBuf::from(format!("/proc/{inside}/root{}", spool.display()));
        Disk { _process: process, _place: place, folder }
    }
}

/// Writes to `file` until nothing more goes in.
fn fill(file: &Path) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(file).expect("the relay's mount can be seen");
    // In small pieces in the end, so that no page is left.
    for piece in [64 * 1024, 512] {
        let piece = vec![0; piece];
        while file.write_all(&piece).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_fsync_ends_the_daemon_and_loses_nothing_that_was_acknowledged() {
    let mut scene = Scene::prepare("").await;
    for _ in 0..2 {
        scene.start().await;
        scene.play_on(300).await;
        let pid = scene.relay.running().pid().to_string();
        let place = TempDir::new().expect("a folder");
        let fault = "inject=fsync,fdatasync:error=EIO";
        let strace = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", fault, "-p", &pid].map(str::to_owned);
        let _strace = Process::start(place.path(), &strace);
        assert_eq!(scene.relay.ended(SOON).await, 1, "{}", scene.relay.log());
        let log = scene.relay.log();
        assert!(log.contains("the spool has failed"), "it says so:\n{log}");
        // Whatever was under way was not answered with success; what was before must be there now.
        scene.relay.start().await;
        scene.play_on(200).await;
        assert_eq!(scene.relay.stop().await, 0);
    }
    scene.relay.start().await;
    scene.assert_nothing_is_lost().await;
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: run `make setup`"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

// --- Configuration and usage -------------------------------------------------------------------------------------

fn ccrelay(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).env_remove("CCRELAY_LOG").output().expect("the binary starts")
}

fn code_and_errors(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_configuration_passes_the_check_and_a_bad_one_neither_passes_nor_runs() {
    let scene = Scene::prepare("").await;
    let file = scene.relay.folder().join("config.toml");
    let path = file.display().to_string();
    let output = ccrelay(&["check", "--config", &path]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("no mistakes found"), "{output:?}");

    let good = std::fs::read_to_string(&file).expect("it was written");
    let bad = good.replace("heartbeat_interval_secs = 1", "heartbeat_interval_secs = 59");
    std::fs::write(&file, bad.replace("id = \"1001\"", "id = \"10 01\"")).expect("the folder can be written");
    for command in ["check", "run"] {
        let (code, errors) = code_and_errors(&ccrelay(&[command, "--config", &path]));
        assert_eq!(code, Some(78), "{command}: {errors}");
        // Both mistakes at once, each by its key.
        for key in ["heartbeat_interval_secs", "agents"] {
            assert!(errors.contains(key), "{command}: {key} is not in {errors}");
        }
    }
    std::fs::write(&file, "this is not TOML").expect("the folder can be written");
    assert_eq!(ccrelay(&["run", "--config", &path]).status.code(), Some(78));
    let (code, errors) = code_and_errors(&ccrelay(&["run", "--config", "no-such-file.toml"]));
    assert_eq!(code, Some(78));
    assert!(errors.contains("no-such-file.toml"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_can_be_read_once_only_is_read_once_and_its_files_are_read_anew() {
    let mut scene = Scene::prepare("").await;
    for from in ["/dev/stdin < <(cat \"$4\")", "<(cat \"$4\")"] {
        let script = format!("exec \"$1\" \"$2\" \"$3\" {from}");
        scene.relay.wrapper = ["bash", "-c", &script, "bash"].map(str::to_owned).to_vec();
        scene.relay.start().await;
        scene.relay.renew_certificate();
        scene.relay.running().signal(Signal::SIGHUP);
        eventually("a reload", PATIENCE, || async {
            (scene.relay.metric("ccrelay_reloads_total{outcome=\"ok\"}").await >= 1.0).then_some(())
        })
        .await;
        assert_eq!(scene.relay.metric("ccrelay_reloads_total{outcome=\"refused\"}").await, 0.0);
        assert!(scene.relay.log().contains("certificate of the callback listener"), "{}", scene.relay.log());
        assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_while_the_configuration_is_read_is_heard() {
    let scene = Scene::prepare("").await;
    let text = std::fs::read(scene.relay.folder().join("config.toml")).expect("it was written");
    let pipe = scene.relay.folder().join("pipe").display().to_string();
    run("mkfifo", &[&pipe]);
    let mut relay =
        Command::new(binary()).args(["run", "--config", &pipe]).spawn().expect("the binary starts");
    // It is opened when the other end is read.
    let mut other_end = std::fs::OpenOptions::new().write(true).open(&pipe).expect("a pipe");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(relay.id()).expect("a pid"));
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        nix::sys::signal::kill(pid, signal).expect("it runs");
    }
    // Who is killed reads no more.
    drop(other_end.write_all(&text));
    drop(other_end);
    assert_eq!(relay.wait().expect("it ends").code(), Some(0));
}

#[test]
fn wrong_usage_is_told_from_wrong_configuration() {
    for arguments in [&["fly"][..], &["run", "--no-such-option"], &[]] {
        let (code, errors) = code_and_errors(&ccrelay(arguments));
        assert_eq!(code, Some(64), "{arguments:?}: {errors}");
        assert!(errors.contains("Usage"), "{arguments:?}: {errors}");
    }
    assert!(ccrelay(&["--version"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_ends_with_one() {
    let scene = Scene::prepare("").await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", scene.relay.callback_port())).expect("it is free");
    let path = scene.relay.folder().join("config.toml").display().to_string();
    let (code, errors) = code_and_errors(&ccrelay(&["run", "--config", &path]));
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains(&scene.relay.callback_port().to_string()), "it names the address: {errors}");
    drop(taken);

    // The spool is one process's only.
    let mut scene = Scene::prepare("").await;
    scene.start().await;
    let text = std::fs::read_to_string(scene.relay.folder().join("config.toml")).expect("it was written");
    let other = TempDir::new().expect("a folder");
    let file = other.path().join("config.toml");
    let port = |text: &str, of: u16| text.replace(&of.to_string(), &support::free_port().to_string());
    std::fs::write(&file, port(&text, scene.relay.callback_port())).expect("the folder can be written");
    let (code, errors) = code_and_errors(&ccrelay(&["run", "--config", &file.display().to_string()]));
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("spool"), "{errors}");
    scene.play_on(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_ends_with_a_code_of_its_own_that_no_restart_follows() {
    let mut scene = Scene::prepare("").await;
    scene.start().await;
    scene.play_on(50).await;
    assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
    let database = scene.relay.folder().join("spool/spool.db");
    let mut bytes = std::fs::read(&database).expect("it is there");
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&database, &bytes).expect("it can be written");

    let path = scene.relay.folder().join("config.toml").display().to_string();
    let (code, errors) = code_and_errors(&ccrelay(&["run", "--config", &path]));
    assert_eq!(code, Some(65), "{errors}");
    assert!(errors.contains("damaged") && errors.contains("spool repair"), "{errors}");
    assert_eq!(std::fs::read(&database).expect("it is there"), bytes, "nothing was changed");
    let unit = include_str!("../deploy/ccrelay.service");
    assert!(unit.contains("RestartPreventExitStatus=64 65 78"), "systemd does not try again");
}
