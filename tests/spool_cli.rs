//! `ccrelay spool` and `ccrelay deadletters` by the real program: exit codes, what is said, and what is refused while a
//! daemon has the spool.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ccrelay::clock::{Clock, Timestamp};
use ccrelay::event::normalise::RecordKind;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::metrics::Metrics;
use ccrelay::spool::{
    AgentKey, DeadLetter, NewRecord, OpenError, RepeatRules, SinkStart, Spool, SpoolConfig, SpoolLimits,
    SpoolThreads, StartFrom, WhenFull,
};
use serde_json::Value;
use tempfile::TempDir;

/// 2026-11-24T03:45:00Z.
const BEGUN: u64 = 1_795_491_900_000;

fn open(directory: &Path) -> (Spool, SpoolThreads) {
    try_open(directory).expect("the spool opens")
}

fn try_open(directory: &Path) -> Result<(Spool, SpoolThreads), OpenError> {
    let repeats = RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) };
    let config = SpoolConfig {
        directory: directory.to_path_buf(),
        limits: SpoolLimits::default(),
        repeats,
        call_age: Duration::from_secs(86_400),
    };
    let sinks = ["bus", "wall"].map(|name| SinkStart {
        name: name.to_owned(),
        from: StartFrom::Earliest,
        when_full: WhenFull::Block,
    });
    let metrics = Metrics::new([], []).expect("metrics");
    Spool::open(config, &sinks, metrics, Clock::system())
}

async fn close(spool: Spool, threads: SpoolThreads) {
    spool.close().await;
    tokio::task::spawn_blocking(move || threads.join()).await.expect("no panic");
}

/// Ten records, one a minute; wall has all of them, bus the first six; four dead letters of bus.
async fn filled(directory: &Path) -> (Spool, SpoolThreads) {
    let (spool, threads) = open(directory);
    for n in 0..10u64 {
        let id = 1001 + n % 2;
        let body = format!(
            r#"{{"workNo":"{id}","eventList":[{{"eventType":"AgentEvent_MessageData","content":"number {n}"}}]}}"#
        );
        let record = NewRecord {
            kind: RecordKind::Push,
            received_at: Timestamp(BEGUN + n * 60_000),
            agent: AgentKey {
                gateway: GatewayName::parse("main").expect("a name"),
                agent_id: AgentId::parse(&id.to_string()).expect("an id"),
            },
            body: Bytes::from(body),
            answer: None,
        };
        spool.append(record).await.expect("it is stored");
    }
    for offset in 1..=4 {
        let letter = DeadLetter {
            sink: "bus".to_owned(),
            spool_offset: offset,
            event_id: format!("{}-{offset}-0", spool.id()),
            topic: "events".to_owned(),
            reason: if offset < 4 { "too_large" } else { "forbidden" }.to_owned(),
            detail: "the broker said no".to_owned(),
            at: Timestamp(BEGUN),
            attempts: 1,
        };
        spool.dead_letter(letter).await.expect("it is stored");
    }
    (spool, threads)
}

/// A closed spool whose first two records are freed.
async fn stopped() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let (spool, threads) = filled(folder.path()).await;
    spool.reader("bus").expect("a sink").confirm(3);
    spool.reader("wall").expect("a sink").confirm(11);
    let freed = |directory: &Path| run(directory, &["spool", "stat", "--json"])["firstOffset"] == 3;
    let begin = Instant::now();
    while !freed(folder.path()) {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "records that every sink has confirmed are not freed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(freed(folder.path()), "the first two are freed");
    close(spool, threads).await;
    folder
}

fn ccrelay(directory: &Path, arguments: &[&str]) -> Output {
    let mut tries = 0;
    loop {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ccrelay"));
        command.args(arguments).arg("--directory").arg(directory).env_clear();
        let output = command.output().expect("the program starts");
        tries += 1;
        // A child that another test starts has our files, and with them the lock, for the moment before it is a program of
        // its own. What a daemon holds stays in use.
        if tries == 10 || !String::from_utf8_lossy(&output.stderr).contains("in use by another process") {
            return output;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What it prints when it ends well: JSON where it is.
#[track_caller]
fn run(directory: &Path, arguments: &[&str]) -> Value {
    let output = ccrelay(directory, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    let said = text(&output.stdout);
    serde_json::from_str(&said).unwrap_or(Value::String(said))
}

/// What it says when it fails.
#[track_caller]
fn fails(directory: &Path, arguments: &[&str]) -> String {
    let output = ccrelay(directory, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr) + &text(&output.stdout)
}

fn lines(said: &Value) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("each line is JSON");
    match said {
        Value::String(said) => said.lines().map(parse).collect(),
        one => vec![one.clone()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_is_safe_beside_a_daemon_and_changes_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let (spool, threads) = filled(folder.path()).await;
    let at = folder.path();
    assert_eq!(run(at, &["spool", "stat", "--json"])["records"], 10);
    assert_eq!(run(at, &["spool", "verify", "--json"])["sound"], true);
    let all = lines(&run(at, &["spool", "dump", "--json"]));
    assert_eq!(all.len(), 10);
    let since = ["spool", "dump", "--agent", "1002", "--since", "2026-11-24T03:50:00Z"];
    let some = lines(&run(at, &since));
    let offsets: Vec<_> = some.iter().map(|record| record["offset"].as_u64().expect("a number")).collect();
    assert_eq!(offsets, [6, 8, 10]);
    assert_eq!(some[0]["body"]["eventList"][0]["content"], "number 5");
    assert_eq!(lines(&run(at, &["deadletters", "list", "--json"])).len(), 4);
    assert_eq!(run(at, &["deadletters", "show", "2", "--json"])["deadLetter"]["spoolOffset"], 2);
    for change in [&["deadletters", "replay", "1"][..], &["deadletters", "discard", "--all"]] {
        let said = fails(at, change);
        assert!(said.contains("a running daemon has this spool: use its admin API"), "{said}");
    }
    for change in [&["spool", "replay", "--sink", "bus", "--from", "1"][..], &["spool", "restored"]] {
        let said = fails(at, change);
        assert!(said.contains("a running daemon has this spool: stop it first"), "{said}");
    }
    assert_eq!(spool.dead_letters().expect("readable").len(), 4);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_exported_replayed_and_discarded() {
    let folder = stopped().await;
    let at = folder.path();
    let ids = |said: &Value| -> Vec<u64> {
        lines(said).iter().map(|letter| letter["id"].as_u64().expect("a number")).collect()
    };
    assert_eq!(ids(&run(at, &["deadletters", "list", "--json", "--reason", "too_large"])), [1, 2, 3]);
    assert_eq!(ids(&run(at, &["deadletters", "list", "--json", "--after", "1", "--limit", "2"])), [2, 3]);
    let listed = text(&ccrelay(at, &["deadletters", "list"]).stdout);
    assert!(
        listed.contains("bus") && listed.contains("forbidden: the broker said no  attempts 1"),
        "{listed}"
    );

    let exported = lines(&run(at, &["deadletters", "export"]));
    assert_eq!(exported.len(), 4);
    assert_eq!(exported[3]["deadLetter"]["reason"], "forbidden");
    assert_eq!(exported[3]["event"]["id"], exported[3]["deadLetter"]["eventId"]);
    assert_eq!(exported[3]["event"]["specversion"], "1.0");
    let target = folder.path().join("letters.jsonl");
    let target = target.to_str().expect("text");
    run(at, &["deadletters", "export", "--output", target]);
    assert_eq!(fs::read_to_string(target).expect("it is there").lines().count(), 4);
    assert!(fails(at, &["deadletters", "export", "--output", target]).contains("cannot make"));
    // As `| head -0` leaves it: nobody reads at all.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut export = Command::new(env!("CARGO_BIN_EXE_ccrelay"));
    export.args(["deadletters", "export", "--directory"]).arg(at).env_clear().stdout(writer);
    let output = export.output().expect("the program starts");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));

    assert!(fails(at, &["deadletters", "discard"]).contains("say which"));
    let said = run(at, &["deadletters", "replay", "--sink", "bus", "--reason", "forbidden"]);
    assert_eq!(said, "1 dead letters will be delivered again when the daemon runs\n");
    let replaying = lines(&run(at, &["deadletters", "list", "--json"]));
    let replaying: Vec<_> = replaying.iter().map(|letter| letter["replaying"] == true).collect();
    assert_eq!(replaying, [false, false, false, true]);
    assert_eq!(run(at, &["deadletters", "discard", "1", "3"]), "2 dead letters discarded\n");
    assert_eq!(ids(&run(at, &["deadletters", "list", "--json"])), [2, 4]);
    assert!(fails(at, &["deadletters", "show", "1"]).contains("there is no dead letter 1"));
    assert_eq!(run(at, &["deadletters", "discard", "--all"]), "2 dead letters discarded\n");
    assert_eq!(run(at, &["deadletters", "list"]), "no dead letters\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_goes_back_to_what_is_still_there_and_says_what_is_not() {
    let folder = TempDir::new().expect("a folder");
    let (spool, threads) = filled(folder.path()).await;
    spool.reader("wall").expect("a sink").confirm(11);
    close(spool, threads).await;
    let at = folder.path();
    let replay = |from: &'static str| ["spool", "replay", "--sink", "wall", "--from", from];
    let cursor = || run(at, &["spool", "stat", "--json"])["sinks"][1]["nextOffset"].clone();
    assert_eq!(cursor(), 11);
    assert_eq!(run(at, &replay("8")), "3 records will be delivered to wall again when the daemon runs\n");
    assert_eq!(cursor(), 8);
    assert!(fails(at, &replay("9")).contains("the sink has only got to record 8"));
    assert_eq!(cursor(), 8);
    let said = run(at, &replay("2026-11-24T03:47:30Z"));
    assert_eq!(said, "4 records will be delivered to wall again when the daemon runs\n");
    assert_eq!(cursor(), 4, "03:48 is the first after that");
    assert!(fails(at, &["spool", "replay", "--sink", "no", "--from", "1"]).contains("it knows bus, wall"));
    let usage = ccrelay(at, &replay("yesterday"));
    assert_eq!(usage.status.code(), Some(64));
    assert_eq!(run(at, &replay("1")), "3 records will be delivered to wall again when the daemon runs\n");

    let folder = stopped().await;
    let said = fails(folder.path(), &["spool", "replay", "--sink", "wall", "--from", "1"]);
    assert!(said.contains("are freed: begin there or later") && said.contains("records before "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_put_back_goes_on_with_ids_that_none_has_had() {
    let folder = stopped().await;
    let at = folder.path();
    let said = run(at, &["spool", "restored"]);
    let next =
        said.as_str().and_then(|said| said.strip_prefix("the next record has the offset ")?.split_once(','));
    let next: u64 = next.and_then(|(next, _)| next.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!((170_000_000_000_000..1 << 53).contains(&next), "{next}");
    assert_eq!(run(at, &["spool", "verify", "--json"])["sound"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_is_repaired_only_when_the_loss_is_accepted() {
    let folder = TempDir::new().expect("a folder");
    let (spool, threads) = filled(folder.path()).await;
    close(spool, threads).await;
    let at = folder.path();
    assert!(run(at, &["spool", "repair"]).as_str().expect("text").contains("nothing is damaged: 10 good"));
    let content = b"number 6";
    let find = |path: PathBuf| {
        let bytes = fs::read(&path).expect("it is there");
        let place = bytes.windows(content.len()).rposition(|window| window == content)?;
        Some((path, bytes, place))
    };
    let files =
        fs::read_dir(at.join("records")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let (records, mut bytes, place) = files.into_iter().find_map(find).expect("it is there");
    bytes[place] ^= 1;
    fs::write(&records, &bytes).expect("it can be written");
    for command in [&["spool", "verify"][..], &["spool", "repair"]] {
        let said = fails(at, command);
        assert!(said.contains("record 7 is damaged") && said.contains("agent main/1001"), "{said}");
    }
    for change in [
        &["deadletters", "replay", "--all"][..],
        &["deadletters", "discard", "--all"],
        &["spool", "replay", "--sink", "bus", "--from", "1"],
    ] {
        let output = ccrelay(at, change);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{change:?}: {said}");
        assert!(said.contains("record 7 is damaged"), "{change:?}: {said}");
    }
    assert_eq!(fs::read(&records).expect("it is there"), bytes, "nothing was changed");
    let said = run(at, &["spool", "repair", "--accept-loss"]);
    assert!(said.as_str().expect("text").contains("saved    9 of records"), "{said}");
    assert_eq!(run(at, &["spool", "verify", "--json"])["goodRecords"], 9);
    let kept = fs::read_dir(at).expect("a folder").map(|entry| entry.expect("an entry").path());
    let kept: Vec<PathBuf> = kept.filter(|path| path.to_string_lossy().contains(".damaged-")).collect();
    let folders: Vec<_> = kept.iter().filter(|path| path.is_dir()).collect();
    assert_eq!((kept.len(), folders.len()), (2, 1), "{kept:?}");
    let damaged = folders[0].join(records.file_name().expect("a name"));
    assert_eq!(fs::read(damaged).expect("it is there"), bytes);
}

/// Makes a closed spool one of version 2, with two records in its database, the first of which is damaged.
fn of_version_2(at: &Path) {
    let database = rusqlite::Connection::open(at.join("spool.db")).expect("a database");
    database
        .execute_batch(
            "CREATE TABLE records (
                spool_offset INTEGER PRIMARY KEY, kind INTEGER NOT NULL, received_ms INTEGER NOT NULL,
                gateway TEXT NOT NULL, agent_id TEXT NOT NULL, sequence INTEGER NOT NULL, repeats BLOB,
                before BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER
             );
             INSERT INTO records VALUES (9, 0, 1, 'main', '1001', 4, NULL, '{}', '{}', 77);
             INSERT INTO records VALUES (10, 0, 1, 'main', '1001', 5, NULL, '{}', '{}', NULL);
             DELETE FROM meta WHERE key = 'first_offset'; PRAGMA user_version = 2;",
        )
        .expect("it is changed");
    fs::remove_dir_all(at.join("records")).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_of_the_release_before_is_told_and_repaired() {
    let folder = TempDir::new().expect("a folder");
    let (spool, threads) = filled(folder.path()).await;
    close(spool, threads).await;
    let at = folder.path();
    of_version_2(at);
    for command in [&["spool", "verify"][..], &["spool", "repair"]] {
        let said = fails(at, command);
        assert!(said.contains("record 9 is damaged (checksum mismatch)"), "{said}");
    }
    assert!(!at.join("records").exists(), "nothing was changed");
    let said = run(at, &["spool", "repair", "--accept-loss"]);
    assert!(said.as_str().expect("text").contains("saved    1 of records"), "{said}");
    assert_eq!(run(at, &["spool", "verify", "--json"])["goodRecords"], 1);
}

#[test]
fn a_folder_without_a_spool_is_said_to_have_none_and_none_is_made() {
    let folder = TempDir::new().expect("a folder");
    for command in [
        &["spool", "stat"][..],
        &["spool", "verify"],
        &["spool", "repair"],
        &["spool", "replay", "--sink", "bus", "--from", "1"],
        &["deadletters", "list"],
        &["deadletters", "discard", "--all"],
    ] {
        let said = fails(folder.path(), command);
        assert!(said.contains("spool.db"), "{command:?}: {said}");
    }
    assert!(!folder.path().join("spool.db").exists());
    let nowhere = folder.path().join("nowhere");
    assert!(fails(&nowhere, &["spool", "stat"]).contains("nowhere"));
    assert!(!nowhere.exists());
}

// --- The spool that the configuration names -------------------------------------------------------------------------

const CONFIG: &str = include_str!("../config.toml");
const RUNBOOK: &str = include_str!("../docs/runbook.md");

/// What is installed as `/etc/ccrelay/config.toml`, with certificates and a gateway, as a file in `folder` that stands for
/// both that folder and `/var/lib/ccrelay`.
fn installed(folder: &Path) -> PathBuf {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = names.self_signed(&key).expect("a certificate").pem();
    let gateway = "\n[[gateways]]\nname = \"main\"\nbase_url = \"https://127.0.0.1:1/x\"\n\
                   ca_file = \"/etc/ccrelay/certificate.pem\"\ncallback_uri = \"https://127.0.0.1:8443/push/main\"\n";
    let text = format!("{CONFIG}{gateway}");
    let at = folder.display().to_string();
    let text = text.replace("/etc/ccrelay", &at).replace("/var/lib/ccrelay", &at);
    for (name, text) in
        [("certificate.pem", certificate), ("key.pem", key.serialize_pem()), ("config.toml", text)]
    {
        fs::write(folder.join(name), text).expect("the folder can be written");
    }
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.join("key.pem"), private).expect("the mode can be set");
    folder.join("config.toml")
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_runbook_find_the_spool_of_the_installed_configuration_from_anywhere() {
    let folder = TempDir::new().expect("a folder");
    let file = installed(folder.path()).display().to_string();
    let (spool, threads) = filled(&folder.path().join("spool")).await;
    close(spool, threads).await;
    let commands = RUNBOOK.split('`').filter(|code| code.contains("--config /etc/ccrelay/config.toml"));
    let commands: Vec<_> = commands.collect();
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
        let command = command.replace("/etc/ccrelay/config.toml", &file).replace("SINK", "bus");
        let output = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
            .args(command.split_whitespace().skip(1))
            .current_dir("/")
            .env_clear()
            .output()
            .expect("the program starts");
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{command}");
    }
}

#[test]
fn a_spool_that_is_not_where_this_was_started_is_looked_for_by_its_keys_name() {
    let folder = TempDir::new().expect("a folder");
    let file = installed(folder.path());
    let whole = format!("directory = \"{}/spool\"", folder.path().display());
    let changed = fs::read_to_string(&file).expect("a file").replace(&whole, "directory = \"no-such-spool\"");
    fs::write(&file, changed).expect("it can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .args(["spool", "repair", "--config"])
        .arg(&file)
        .current_dir("/")
        .env_clear()
        .output()
        .expect("the program starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("ccrelay: there is no spool at /no-such-spool: spool.directory of "), "{said}");
    assert!(said.contains(" is a relative path") && said.contains("--directory"), "{said}");
}

// --- Rights ---------------------------------------------------------------------------------------------------------

/// Runs the program as somebody who is not root: what is forbidden is not forbidden to root.
fn as_other(directory: &Path, program: &Path, user: Option<u32>) -> Output {
    let mut command = Command::new(program);
    command.args(["deadletters", "discard", "--all", "--directory"]).arg(directory).env_clear();
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.output().expect("the program starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_read_only_or_of_another_user_is_named() {
    let folder = TempDir::new().expect("a folder");
    let spool = folder.path().join("spool");
    let (opened, threads) = filled(&spool).await;
    close(opened, threads).await;
    let root = rustix::process::geteuid().is_root();
    // Another user can neither see the build's folder nor own what this one makes.
    let program = folder.path().join("ccrelay");
    fs::copy(env!("CARGO_BIN_EXE_ccrelay"), &program).expect("a copy");
    let allow = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    allow(folder.path(), 0o755);
    allow(&program, 0o755);
    let user = root.then_some(65_534);
    if root {
        allow(&spool, 0o755);
        let said = text(&as_other(&spool, &program, user).stderr);
        assert!(said.contains("belongs to user 0 and this is user 65534"), "{said}");
        for folder in [&spool.join("records"), &spool] {
            for entry in fs::read_dir(folder).expect("a folder") {
                std::os::unix::fs::chown(entry.expect("an entry").path(), user, user).expect("as root");
            }
        }
        fs::remove_file(spool.join("spool.lock")).expect("it is there");
        std::os::unix::fs::chown(&spool, user, user).expect("as root");
    } else {
        fs::remove_file(spool.join("spool.lock")).expect("it is there");
    }
    allow(&spool, 0o500);
    let output = as_other(&spool, &program, user);
    let said = text(&output.stderr);
    assert!(said.contains("cannot use") && said.contains("spool.lock"), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    allow(&spool, 0o700);
    let output = as_other(&spool, &program, user);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_changes_no_spool_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this is for root");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let spool = folder.path().join("spool");
    let (opened, threads) = filled(&spool).await;
    close(opened, threads).await;
    for path in [spool.clone(), spool.join("spool.db")] {
        std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).expect("as root");
    }
    let refused = |command: &[&str]| {
        let said = fails(&spool, command);
        assert!(said.contains("belongs to user 65534 and this is user 0: run this as its owner"), "{said}");
        assert!(said.contains("sudo -u '#65534'"), "{said}");
    };
    let error = try_open(&spool).map(|_| ()).expect_err("a daemon neither").to_string();
    assert!(
        error.contains(&spool.display().to_string()) && error.contains("belongs to user 65534"),
        "{error}"
    );
    refused(&["deadletters", "discard", "--all"]);
    refused(&["spool", "replay", "--sink", "bus", "--from", "1"]);
    assert_eq!(run(&spool, &["spool", "verify", "--json"])["sound"], true, "looking is free");
    fs::remove_file(spool.join("spool.db")).expect("it is there");
    refused(&["spool", "repair", "--accept-loss"]);
    let draft = fs::read_dir(&spool).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    assert!(draft.into_iter().all(|name| !name.to_string_lossy().contains("draft")), "nothing was made");
}

#[test]
fn root_makes_no_spool_where_another_user_is_at_home() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this is for root");
        return;
    }
    let home = TempDir::new().expect("a folder");
    std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).expect("as root");
    let spool = home.path().join("data").join("spool");
    let error = try_open(&spool).map(|_| ()).expect_err("it would be root's").to_string();
    assert!(error.contains(&spool.display().to_string()) && error.contains("user 65534"), "{error}");
    assert!(!home.path().join("data").exists());
}

// --- What is printed --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_printed_is_said_and_ends_with_1() {
    let folder = stopped().await;
    let onto_full_disk = |arguments: &[&str]| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ccrelay"));
        let output = command.args(arguments).env_clear().stdout(full).output().expect("the program starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("No space left on device"), "{arguments:?}: {said}");
    };
    let at = folder.path().to_str().expect("text");
    for arguments in [
        &["spool", "dump"][..],
        &["spool", "stat"],
        &["deadletters", "list", "--json"],
        &["deadletters", "export"],
    ] {
        onto_full_disk(&[arguments, &["--directory", at]].concat());
    }
    onto_full_disk(&["schema"]);
    let tokens = folder.path().join("tokens");
    onto_full_disk(&["token", "--append", tokens.to_str().expect("text")]);
    assert!(!tokens.exists(), "a token that nobody knows is not valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelt_is_not_found_to_be_nothing() {
    let folder = stopped().await;
    let at = folder.path();
    for command in [&["deadletters", "list"][..], &["deadletters", "export"], &["deadletters", "replay"]] {
        let said = fails(at, &[command, &["--sink", "bsu"]].concat());
        assert!(said.contains("no sink is called \"bsu\"; sinks are bus, wall"), "{said}");
        let said = fails(at, &[command, &["--reason", "to_large"]].concat());
        assert!(said.contains("no reason is called \"to_large\"") && said.contains("too_large"), "{said}");
    }
    let said = fails(&at.join("spol"), &["spool", "stat"]);
    assert!(said.contains("spol/spool.db") && said.contains("No such file or directory"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_json_of_what_changes_a_spool_too() {
    let folder = stopped().await;
    let at = folder.path();
    assert_eq!(run(at, &["deadletters", "replay", "1", "--json"])["replaying"], 1);
    assert!(run(at, &["deadletters", "discard", "--sink", "bus", "--json"])["discarded"].as_u64() >= Some(3));
    assert_eq!(run(at, &["spool", "replay", "--sink", "wall", "--from", "5", "--json"])["sink"], "wall");
    assert!(run(at, &["spool", "restored", "--json"])["nextOffset"].is_u64());
    let repaired = run(at, &["spool", "repair", "--json"]);
    assert_eq!((&repaired["sound"], &repaired["repaired"]), (&Value::Bool(true), &Value::Bool(false)));
}
