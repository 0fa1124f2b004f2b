//! Configuration from file and environment, by the real program: the environment belongs to a child process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// What a configuration needs besides what a test is about.
fn folder(more: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let at = folder.path().display();
    let text = format!(
        "spool.directory = '{at}/spool'\n\
         [callback]\ncertificate_file = '{at}/cert.pem'\nkey_file = '{at}/key.pem'\n\
         [[gateways]]\nname = 'main'\nbase_url = 'https://127.0.0.1:1/x'\nca_file = '{at}/cert.pem'\n\
         callback_uri = 'https://127.0.0.1:8443/push/main'\n{more}\n"
    );
    for (name, text) in
        [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem()), ("config.toml", text)]
    {
        std::fs::write(folder.path().join(name), text).expect("the folder can be written");
    }
    set_mode(&folder.path().join("key.pem"), 0o600);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the mode can be set");
}

fn check(folder: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccrelay"))
        .args(["check", "--config", "config.toml"])
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts")
}

/// What it says, when it ends with the exit code for a wrong configuration.
#[track_caller]
fn refused(folder: &Path, environment: &[(&str, &str)]) -> String {
    let output = check(folder, environment);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(output.stdout.is_empty(), "mistakes go to standard error");
    said
}

#[test]
fn the_environment_overrides_the_file() {
    let folder = folder("[log]\nlevel = 'no level = at all'\n[sinks.file.jsonl]\npath = '/nonexistent/x'");
    assert!(refused(folder.path(), &[]).contains("2 mistakes"));
    let output =
        check(folder.path(), &[("CCRELAY_LOG__LEVEL", "debug"), ("CCRELAY_SINKS__FILE__JSONL__PATH", "-")]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "config.toml: no mistakes found\n");
}

#[test]
fn a_level_that_is_none_is_refused_in_the_file_and_in_the_environment() {
    for level in ["warning", "infos", "verbose", "info,ccrelay=deb"] {
        let wrong = folder(&format!("[log]\nlevel = '{level}'"));
        assert!(refused(wrong.path(), &[]).contains("log.level: item "), "{level}");
        let good = folder("");
        let said = refused(good.path(), &[("CCRELAY_LOG", level)]);
        assert!(said.contains("CCRELAY_LOG: item ") && said.contains("error, warn, info, debug"), "{said}");
    }
    let good = folder("[log]\nlevel = 'ccrelay=debug,info'");
    for level in ["", "debug", "warn,ccrelay::audit=info"] {
        assert_eq!(check(good.path(), &[("CCRELAY_LOG", level)]).status.code(), Some(0), "{level}");
    }
}

#[test]
fn a_variable_with_one_underscore_too_few_is_a_warning_that_names_what_was_meant() {
    let folder = folder("[sinks.file.jsonl]\npath = '-'");
    let output = check(folder.path(), &[("CCRELAY_SPOOL_MAX_BYTES", "10"), ("CCRELAY_CONFIG_FILE", "x")]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "config.toml: warning: the environment variable CCRELAY_SPOOL_MAX_BYTES is ignored: two underscores part section and \
         key, as in CCRELAY_SPOOL__MAX_BYTES\n"
    );
}

#[test]
fn a_file_of_tokens_that_is_gone_is_a_warning_and_no_mistake() {
    let folder =
        folder("[operations]\nadmin_tokens_file = '/nonexistent/tokens'\n[sinks.file.jsonl]\npath = '-'");
    let output = check(folder.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let about =
        "operations.admin_tokens_file: there is no /nonexistent/tokens, so the admin API refuses everybody";
    assert_eq!(said, format!("config.toml: warning: {about}\n"));
}

#[test]
fn a_callback_uri_that_leads_elsewhere_is_a_warning_and_no_mistake() {
    let folder = folder("[sinks.file.jsonl]\npath = '-'");
    let path = folder.path().join("config.toml");
    let good = std::fs::read_to_string(&path).expect("it was written");
    for (uri, doubt) in
        [("/push/main", None), ("/push/main/", None), ("/", Some("/")), ("/push/Main", Some("/push/Main"))]
    {
        std::fs::write(&path, good.replace("8443/push/main", &format!("8443{uri}")))
            .expect("it can be written");
        let output = check(folder.path(), &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "config.toml: no mistakes found\n");
        let said = String::from_utf8_lossy(&output.stderr);
        match doubt {
            None => assert_eq!(said, ""),
            Some(path) => {
                let about = format!(
                    "config.toml: warning: the path of callback_uri of the gateway main is {path:?}, but"
                );
                assert!(said.starts_with(&about) && said.contains("\"/push/main\""), "{said}");
            }
        }
    }
}

#[test]
fn a_certificate_that_cannot_work_is_a_warning_that_says_why() {
    let folder = folder("[sinks.file.jsonl]\npath = '-'");
    let warnings = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        change(&mut params);
        let certificate = params.self_signed(&key).expect("a certificate");
        // Its mode stays.
        for (name, text) in [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(folder.path().join(name), text).expect("the folder can be written");
        }
        let output = check(folder.path(), &[]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("text")
    };
    assert_eq!(warnings(&|_| {}), "");
    let said = warnings(&|params| params.not_after = rcgen::date_time_ymd(2025, 1, 1));
    let of_callback = format!(
        "config.toml: warning: callback.certificate_file: the certificate in {}/cert.pem has ended ",
        folder.path().display()
    );
    assert!(said.contains(&of_callback) && said.contains(" days ago: clients refuse it\n"), "{said}");
    assert!(said.contains("warning: a certificate for gateway_ca of main in "), "{said}");
    let said = warnings(&|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.clear();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert!(said.contains(" is not for servers: ") && said.contains(" subject alternative name 127.0.0.1"));
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_file_with_a_secret_that_everybody_may_read_is_a_warning_and_one_to_write_a_mistake() {
    let folder = folder("[sinks.file.jsonl]\npath = '-'");
    let at = folder.path().display();
    let text = std::fs::read_to_string(folder.path().join("config.toml")).expect("it was written");
    let agent = "[[agents]]\ngateway = 'main'\nid = '1001'\nphone_number = '1'\n";
    let text = format!("{text}{agent}password_file = '{at}/link'\n");
    std::fs::write(folder.path().join("config.toml"), text).expect("it can be written");
    let (password, key) = (folder.path().join("password"), folder.path().join("key.pem"));
    std::fs::write(&password, "hush").expect("it can be written");
    // As Kubernetes mounts them.
    std::os::unix::fs::symlink("password", folder.path().join("link")).expect("a link");
    for (mode, open) in [(0o600, false), (0o660, false), (0o644, true)] {
        set_mode(&password, mode);
        let output = check(folder.path(), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let warning = format!(
            "config.toml: warning: everybody may read files with secrets: {at}/link (agents.main/1001.password_file): chmod o= them\n"
        );
        assert_eq!(said, if open { warning } else { String::new() }, "{mode:o}");
    }
    set_mode(&password, 0o646);
    set_mode(&key, 0o602);
    let said = refused(folder.path(), &[]);
    for line in [
        format!(
            "callback.key_file: everybody may write {at}/key.pem, which holds a secret: chmod o= {at}/key.pem"
        ),
        format!("agents.main/1001.password_file: everybody may write {at}/link"),
    ] {
        assert!(said.contains(&line) && said.contains("2 mistakes"), "{line}\n{said}");
    }
}

#[test]
fn a_spool_that_cannot_be_used_is_told_before_the_start() {
    let folder = folder("[sinks.file.jsonl]\npath = '-'");
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).expect("it can be made");
    set_mode(&spool, 0o755);
    let output = check(folder.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("spool.directory: others than owner and group") && said.contains("chmod 700"),
        "{said}"
    );

    let least = ("CCRELAY_SPOOL__MIN_FREE_DISK_BYTES", "9000000000000000000");
    let said = refused(folder.path(), &[least]);
    assert!(said.contains("spool.min_free_disk_bytes: the disk of "), "{said}");

    // Somebody else's: nothing keeps root from it.
    if nix::unistd::geteuid().is_root() {
        set_mode(folder.path(), 0o755);
        for file in ["config.toml", "cert.pem", "key.pem", "password"] {
            let file = folder.path().join(file);
            if file.exists() {
                set_mode(&file, 0o644);
            }
        }
        let output = Command::new(env!("CARGO_BIN_EXE_ccrelay"))
            .args(["check", "--config", "config.toml"])
            .current_dir(folder.path())
            .env_clear()
            .uid(65_534)
            .output();
        // Where nobody else may come to the folder of the build there is nothing to be seen.
        let Ok(output) = output else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("spool.directory: this user may not read and write "), "{said}");
    }
}

#[test]
fn relative_paths_are_a_warning_that_names_their_keys() {
    let folder = folder("[sinks.file.jsonl]\npath = 'events.jsonl'");
    let output = check(folder.path(), &[("CCRELAY_SPOOL__DIRECTORY", "spool")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.ends_with(" is started in, now here: sinks.file.jsonl.path, spool.directory\n"), "{said}");
}

#[test]
fn the_environment_alone_can_make_a_sink() {
    let folder = folder("");
    let broker = ("CCRELAY_SINKS__BUS__KAFKA__BOOTSTRAP_SERVERS", "kafka:9092");
    assert_eq!(check(folder.path(), &[broker]).status.code(), Some(0));
    let said = refused(folder.path(), &[("CCRELAY_SINKS__BUS__TOPIC", "x")]);
    assert!(said.contains("sinks.bus: exactly one of the tables kafka, mqtt and jsonl is needed"), "{said}");
}

#[test]
fn mistakes_from_the_environment_name_the_variable_and_never_the_value() {
    let folder = folder("[operations]\nlisten = 'nowhere'");
    let environment = [
        ("CCRELAY_CALLBACK__LISTEN", "hush-1"),
        ("CCRELAY_CALLBACK__MAX_BODY_BYTES", "0"),
        ("CCRELAY_CALLBAK__LISTEN", "hush-2"),
        ("CCRELAY_SPOOL__NO_SUCH_KEY", "hush-3"),
        ("CCRELAY_LOG__FORMAT", "hush-4"),
        ("CCRELAY_TOKEN", "hush-5"),
    ];
    let said = refused(folder.path(), &environment);
    for line in [
        "callback.listen: ",
        "callback.max_body_bytes: must be between 4096 and 67108864 (from the environment variable \
         CCRELAY_CALLBACK__MAX_BODY_BYTES)",
        "callbak: unknown key",
        "spool.no_such_key: unknown key",
        "log.format: expected one of auto, text, json (from the environment variable CCRELAY_LOG__FORMAT)",
    ] {
        assert!(said.contains(line), "{line} is missing:\n{said}");
    }
    for (variable, _) in &environment[..5] {
        assert!(said.contains(variable), "{variable} is missing:\n{said}");
    }
    let of_the_file = said.lines().find(|line| line.contains("operations.listen: ")).expect("it is reported");
    assert!(!of_the_file.contains("environment"), "{of_the_file}");
    assert!(said.contains("6 mistakes") && !said.contains("hush"), "{said}");
}

#[test]
fn lists_cannot_be_changed_by_the_environment_and_it_says_so() {
    let folder = folder("");
    let said = refused(folder.path(), &[("CCRELAY_GATEWAYS__0__NAME", "other")]);
    assert!(said.contains("gateways: expected a list, found a table"), "{said}");
    assert!(said.contains("(from the environment variable CCRELAY_GATEWAYS__0__NAME)"), "{said}");
    assert!(said.contains("1 mistake\n"), "{said}");
}

#[test]
fn passwords_of_the_environment_are_read_and_never_shown() {
    let agent =
        "[[agents]]\ngateway = 'main'\nid = '1001'\nphone_number = '1'\npassword_env = 'AGENT_PASSWORD'";
    let folder = folder(agent);
    assert_eq!(check(folder.path(), &[("AGENT_PASSWORD", "hush")]).status.code(), Some(0));
    let said = refused(folder.path(), &[]);
    assert!(
        said.contains("agents[0].password_env: the environment variable AGENT_PASSWORD is not set"),
        "{said}"
    );
    let long = "hush".repeat(100);
    assert!(!refused(folder.path(), &[("AGENT_PASSWORD", &long)]).contains("hush"));
}
