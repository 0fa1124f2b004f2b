use std::path::Path;

use figment::Provider;
use figment::providers::{Format, Toml};
use tempfile::TempDir;

use super::sections::RawConfig;
use super::*;

const REFERENCE: &str = include_str!("../../config.toml");

/// A folder with a certificate, a key and files that examples name.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.path().join("certificate.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("password"), "hush-hush\n").unwrap();
    folder
}

/// Loads `text` with `FOLDER` replaced by a folder of files.
fn try_load(text: &str) -> Result<Config, ConfigError> {
    let folder = folder();
    let path = folder.path().join("test.toml");
    std::fs::write(&path, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    load(&path)
}

/// Keys of all mistakes in `text`, in order.
fn mistakes(text: &str) -> Vec<String> {
    match try_load(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Mistakes { problems, .. }) => {
            problems.into_iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn assert_mistakes(text: &str, expected: &[&str]) {
    let found = mistakes(text);
    let all = expected.iter().all(|expected| found.iter().any(|found| found.starts_with(expected)));
    assert!(all && found.len() == expected.len(), "expected {expected:#?}\nfound {found:#?}");
}

const CALLBACK: &str =
    "[callback]\ncertificate_file = 'FOLDER/certificate.pem'\nkey_file = 'FOLDER/key.pem'\n";
const GATEWAY: &str = "[[gateways]]\nname = 'main'\nbase_url = 'https://gw:8043/agentgateway/resource'\n\
                       ca_file = 'FOLDER/certificate.pem'\ncallback_uri = 'https://relay:8443/push/main'\n";
const AGENT: &str = "[[agents]]\ngateway = 'main'\nid = '1001'\npassword_file = 'FOLDER/password'\nphone_number = '88880001'\n";

#[test]
fn a_small_configuration_is_enough() {
    let config = try_load(&format!("{CALLBACK}{GATEWAY}{AGENT}")).unwrap();
    assert_eq!(config.callback.listen.port(), 8443);
    assert_eq!(config.sessions.agents.len(), 1);
    assert!(config.sinks.is_empty());
}

#[test]
fn what_is_required_is_asked_for_all_at_once() {
    assert_mistakes("", &["callback.certificate_file: ", "callback.key_file: ", "gateways: at least one"]);
    assert_mistakes(
        &format!(
            "{CALLBACK}[[gateways]]\n[[agents]]\n[sinks.bus]\n[sinks.k.kafka]\n[sinks.m.mqtt]\n[sinks.j.jsonl]"
        ),
        &[
            "gateways[0].name: is required",
            "gateways[0].base_url: is required",
            "gateways[0].callback_uri: is required",
            "gateways[0].ca_file: ",
            "agents[0].gateway: is required",
            "agents[0].id: is required",
            "agents[0].phone_number: is required",
            "agents[0]: needs one of password_file and password_env",
            "sinks.bus: exactly one of",
            "sinks.k.kafka.bootstrap_servers: ",
            "sinks.m.mqtt.url: ",
            "sinks.j.jsonl.path: ",
        ],
    );
}

#[test]
fn mistakes_of_form_and_of_meaning_are_reported_together() {
    let text = format!(
        "{CALLBACK}max_connections = 'many'\nmax_body_bytes = 0\nidle_timeout_secs = -1\n[log]\nformat = 'xml'\nlevel = 'ccrelay=loud'\n\
         {GATEWAY}sign_in_rate_per_sec = 0\n{AGENT}status = 9\nstate = 1\n[sinks.Bus.jsonl]\npath = ''\n[spol]\n"
    );
    assert_mistakes(
        &text,
        &[
            "callback.max_connections: expected a whole number, not negative, found a text",
            "callback.max_body_bytes: must be between 4096 and",
            "callback.idle_timeout_secs: expected a whole number, not negative",
            "log.format: expected one of auto, text, json",
            "log.level: ",
            "gateways[0].sign_in_rate_per_sec: must be at least 1",
            "agents[0].status: must be 3 (busy)",
            "agents[0].state: unknown key; known here: gateway, id, ",
            "sinks.Bus: a sink's name",
            "sinks.Bus.jsonl.path: ",
            "spol: unknown key; known here: callback, ",
        ],
    );
}

#[test]
fn unknown_keys_are_found_at_every_level() {
    let text = format!(
        "top = 1\n{CALLBACK}x = 1\n[token]\nx = 1\n[spool]\nx = 1\n[operations]\nx = 1\n[log]\nx = 1\n[shutdown]\nx = 1\n\
         {GATEWAY}x = 1\n{AGENT}x = 1\n[sinks.a]\nx = 1\n[sinks.a.jsonl]\npath = '-'\nx = 1\n\
         [sinks.b.kafka]\nbootstrap_servers = 'a:1'\nx = 1\n[sinks.b.kafka.security]\nx = 1\n[sinks.b.kafka.on_error]\nx = 1\n\
         [sinks.c.mqtt]\nurl = 'mqtt://a'\nx = 1\n"
    );
    let keys = [
        "top",
        "callback.x",
        "token.x",
        "spool.x",
        "operations.x",
        "log.x",
        "shutdown.x",
        "gateways[0].x",
        "agents[0].x",
        "sinks.a.x",
        "sinks.a.jsonl.x",
        "sinks.b.kafka.x",
        "sinks.b.kafka.on_error.x",
        "sinks.b.kafka.security.x",
        "sinks.c.mqtt.x",
    ];
    let expected: Vec<_> = keys.iter().map(|key| format!("{key}: unknown key")).collect();
    assert_mistakes(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn what_follows_from_a_mistake_is_not_reported_as_another() {
    // Whole sections of the wrong type: nothing in them is blamed, nor what refers to them.
    assert_mistakes(
        "callback = 5\ngateways = 'main'\nsinks = []\n[[agents]]\ngateway = 'main'\nid = '1'\n\
                     phone_number = '1'\npassword_file = 'FOLDER/password'",
        &["callback: expected a table", "gateways: expected a list", "sinks: expected a table"],
    );
    assert_mistakes(&format!("gateways = [5]\n{CALLBACK}{AGENT}"), &["gateways[0]: expected a table"]);
    // The name that an agent refers to cannot be read.
    let gateway = GATEWAY.replace("'main'\nbase", "7\nbase");
    assert_mistakes(&format!("{CALLBACK}{gateway}{AGENT}"), &["gateways[0].name: expected a text"]);
    // Times that are related to one that is wrong.
    assert_mistakes(
        &format!("{CALLBACK}{GATEWAY}sign_out_limit_secs = 0\nheartbeat_interval_secs = 300"),
        &["gateways[0].sign_out_limit_secs: must be between 1 and 3600"],
    );
    // A file of the wrong type is not looked for under its default name.
    assert_mistakes(
        &format!("{}{GATEWAY}", CALLBACK.replace("'FOLDER/key.pem'", "1")),
        &["callback.key_file: expected a text, found a whole number"],
    );
    assert_mistakes(
        &format!("{CALLBACK}{GATEWAY}[sinks.bus]\nkafka = 1"),
        &["sinks.bus.kafka: expected a table"],
    );
    assert_mistakes(
        &format!("{CALLBACK}{GATEWAY}{AGENT}skills = 'some'\n{AGENT}skills = true"),
        &[
            "agents[0].skills: must be \"all\" or a list",
            "agents[1].skills: expected \"all\" or a list of skill ids",
            "agents[1].id: this agent stands twice",
        ],
    );
}

#[test]
fn numbers_out_of_range_are_refused_before_clocks_overflow() {
    let text = format!(
        "{CALLBACK}max_connections = 9223372036854775807\nmax_body_bytes = 9223372036854775807\nmax_head_bytes = 8191\n\
         handshake_timeout_secs = 0\nheader_timeout_secs = 9223372036854775807\nbody_timeout_secs = 86401\n\
         [token]\nmax_age_secs = 0\n[spool]\nmax_bytes = 0\nrepeat_soonest_millis = 200000\n\
         [shutdown]\ngrace_secs = 9223372036854775807\n{GATEWAY}call_deadline_secs = 60\nsign_in_rate_per_sec = 4294967296\n\
         [sinks.a]\nwindow = 0\nstall_timeout_secs = 9223372036854775807\n[sinks.a.jsonl]\npath = '-'\n\
         [sinks.m.mqtt]\nurl = 'mqtt://a'\nmax_in_flight = 70000\nqos = 3\n"
    );
    assert_mistakes(
        &text,
        &[
            "callback.max_connections: ",
            "callback.max_body_bytes: ",
            "callback.max_head_bytes: must be between 8192 and",
            "callback.handshake_timeout_secs: ",
            "callback.header_timeout_secs: ",
            "callback.body_timeout_secs: must be between 1 and 86400",
            "token.max_age_secs: ",
            "spool.max_bytes: ",
            "spool.repeat_soonest_millis: ",
            "shutdown.grace_secs: ",
            "gateways[0].call_deadline_secs: ",
            "gateways[0].sign_in_rate_per_sec: expected a whole number from 0 to 4294967295",
            "sinks.a.window: ",
            "sinks.a.stall_timeout_secs: ",
            "sinks.m.mqtt.max_in_flight: expected a whole number from 0 to 65535",
            "sinks.m.mqtt.qos: ",
        ],
    );
}

#[test]
fn two_mqtt_sinks_with_one_client_id_at_one_broker_are_refused() {
    let sink =
        |name: &str, lines: &str| format!("[sinks.{name}.mqtt]\nurl = 'mqtt://broker:1883'\n{lines}\n");
    let both = |a: &str, b: &str| format!("{CALLBACK}{GATEWAY}{}{}", sink("a", a), sink("b", b));
    let mistake = "sinks.b.mqtt.client_id: is that of the sink a at the same broker";
    assert_mistakes(&both("client_id = 'x'", "client_id = 'x'"), &[mistake]);
    assert_mistakes(&both("", "client_id = 'ccrelay-a'"), &[mistake]);
    assert_mistakes(&both("", ""), &[]);
    let elsewhere = both("client_id = 'x'", "client_id = 'x'").replacen("1883", "1884", 1);
    assert_mistakes(&elsewhere, &[]);
}

#[test]
fn a_name_where_an_address_belongs_is_told_what_an_address_looks_like() {
    for listen in ["'localhost:8443'", "'0.0.0.0'", "8443"] {
        let text = format!("{CALLBACK}listen = {listen}\n{GATEWAY}");
        assert_mistakes(&text, &["callback.listen: expected an IP address and port, such as 0.0.0.0:8443"]);
    }
}

#[test]
fn limits_with_which_nothing_could_be_taken_are_refused() {
    let text = format!(
        "{CALLBACK}max_body_bytes = 4095\n[spool]\ndirectory = 'FOLDER/password'\nmax_bytes = 4194303\n\
         max_dead_letter_bytes = 1048575\n{GATEWAY}"
    );
    assert_mistakes(
        &text,
        &[
            "callback.max_body_bytes: must be between 4096 and",
            "spool.max_bytes: must be at least 4194304",
            "spool.max_dead_letter_bytes: must be at least 1048576",
            "spool.directory: ",
        ],
    );
    let text = format!(
        "{CALLBACK}max_body_bytes = 4096\n[spool]\ndirectory = 'FOLDER/a/b'\nmax_bytes = 4194304\n\
         max_dead_letter_bytes = 1048576\n{GATEWAY}"
    );
    assert_mistakes(&text, &[]);
}

#[test]
fn two_listeners_with_one_address_are_refused() {
    let both = |callback: &str, operations: &str| {
        format!("{CALLBACK}listen = '{callback}'\n[operations]\nlisten = '{operations}'\n{GATEWAY}")
    };
    for (callback, operations) in [
        ("127.0.0.1:8443", "127.0.0.1:8443"),
        ("0.0.0.0:8443", "127.0.0.1:8443"),
        ("[::]:8443", "127.0.0.1:8443"),
    ] {
        assert_mistakes(
            &both(callback, operations),
            &["operations.listen: is the address of callback.listen"],
        );
    }
    for (callback, operations) in [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:8443", "127.0.0.2:8443")] {
        assert_mistakes(&both(callback, operations), &[]);
    }
}

#[test]
fn tokens_last_until_the_next_ones_have_taken_their_place() {
    let with = |token: &str| format!("{CALLBACK}[token]\n{token}\n{GATEWAY}");
    for (token, mistake) in [
        (
            "period_secs = 600\nmax_age_secs = 300",
            "token.max_age_secs: must be at least 810, which is period_secs",
        ),
        ("max_age_secs = 60", "token.max_age_secs: must be at least 270"),
        ("max_age_secs = 269", "token.max_age_secs: must be at least 270"),
        ("overlap_secs = 0", "token.overlap_secs: must be at least 1"),
    ] {
        assert_mistakes(&with(token), &[mistake]);
    }
    assert_mistakes(&with("max_age_secs = 270"), &[]);
}

#[test]
fn files_are_tried_out_before_the_start() {
    let text = format!(
        "[callback]\ncertificate_file = 'FOLDER/password'\nkey_file = 'FOLDER/nothing'\n\
         [token]\nsecret_file = 'FOLDER/nothing'\nprevious_secret_file = 'FOLDER/password'\n{}{}",
        GATEWAY.replace("certificate.pem", "key.pem"),
        AGENT.replace("FOLDER/password", "FOLDER"),
    );
    assert_mistakes(
        &text,
        &[
            "callback.certificate_file: cannot read a certificate from ",
            "callback.key_file: cannot read a private key from ",
            "token.secret_file: cannot read the token secret ",
            "token.previous_secret_file: ",
            "gateways[0].ca_file: ",
            "agents[0].password_file: cannot read the password",
        ],
    );
    let foreign = folder();
    let key = foreign.path().join("key.pem");
    let text = format!("{}{GATEWAY}", CALLBACK.replace("FOLDER/key.pem", key.to_str().unwrap()));
    assert_mistakes(&text, &["callback.key_file: "]);
}

#[test]
fn no_value_is_echoed_wherever_a_secret_was_put_by_mistake() {
    const SECRET: &str = "hush-hush-9";
    let places = [
        "[callback]\nlisten = 'SECRET'",
        "[callback]\nmax_connections = 'SECRET'",
        "[token]\nsecret = 'SECRET'",
        "[token]\noverlap_secs = 'SECRET'",
        "[log]\nformat = 'SECRET'",
        "[[gateways]]\nname = 'SECRET ä'\nbase_url = 'https://relay:SECRET@gw/'\ncallback_uri = 'SECRET'",
        "[[agents]]\npassword = 'SECRET'\nskills = 'SECRET'\nphone_number = 'SECRET and far too long a number'",
        "[sinks.a.kafka]\ncompression = 'SECRET'\noptions = { 'sasl.pasword' = 'SECRET', 'linger.ms' = 'SECRET' }",
        "[sinks.a.kafka.security]\nprotocol = 'SECRET'\nsasl_mechanism = 'SECRET'\npassword = 'SECRET'",
        "[sinks.a.kafka.options]\n'sasl.password' = 'SECRET'",
        "[sinks.a.mqtt]\nurl = 'mqtt://relay:SECRET@broker'\nencoding = 'SECRET'\npassword = 'SECRET'",
        "password = 'SECRET",
        "SECRET",
        "[token]\nsecret_file = SECRET",
    ];
    for place in places {
        let error = try_load(&place.replace("SECRET", SECRET)).unwrap_err().to_string();
        assert!(!error.contains(SECRET), "{place}\n{error}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_reported_with_its_line() {
    let error = try_load("[callback]\nlisten = \n").unwrap_err().to_string();
    assert!(error.contains("test.toml: line 2: "), "{error}");
    let error = load(Path::new("/nonexistent/config.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration /nonexistent/config.toml: "), "{error}");
}

/// The reference with every key of the examples in it.
fn with_examples() -> String {
    let example = |line: &str| {
        let rest = line.strip_prefix('#')?;
        rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[' || c == '"').then(|| rest.to_owned())
    };
    REFERENCE.lines().map(|line| example(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn raw(text: &str) -> (Option<RawConfig>, Vec<Problem>) {
    let mut problems = Problems::default();
    let dict = Toml::string(text).data().unwrap().remove(&figment::Profile::Default).unwrap();
    (layers::read_layers(dict, &mut problems), problems.found)
}

#[test]
fn the_reference_configuration_says_what_the_defaults_are() {
    // What is installed has whole paths, so that it means the same from wherever it is read.
    let mut defaults = REFERENCE.to_owned();
    for (installed, default) in [
        ("certificate_file = \"/etc/ccrelay/certificate.pem\"", "certificate_file = \"certificate.pem\""),
        ("key_file = \"/etc/ccrelay/key.pem\"", "key_file = \"key.pem\""),
        ("directory = \"/var/lib/ccrelay/spool\"", "directory = \"spool\""),
    ] {
        assert_eq!(defaults.matches(&format!("\n{installed}\n")).count(), 1, "{installed}");
        defaults = defaults.replace(&format!("\n{installed}\n"), &format!("\n{default}\n"));
    }
    let (raw, problems) = raw(&defaults);
    assert_eq!(problems, []);
    assert_eq!(format!("{:#?}", raw.unwrap()), format!("{:#?}", RawConfig::default()));
}

#[test]
fn all_paths_of_the_reference_configuration_are_whole_and_every_relative_one_is_named() {
    let paths = |text: &str| {
        let dict = Toml::string(text).data().unwrap().remove(&figment::Profile::Default).unwrap();
        layers::relative_paths(&dict)
    };
    assert_eq!(paths(&with_examples()), [] as [&str; 0]);
    let bare = |text: &str| text.replace("\"/etc/ccrelay/", "\"").replace("\"/var/lib/ccrelay/", "\"");
    let relative = paths(&bare(&with_examples()));
    let whole = with_examples().lines().filter(|line| *line != bare(line)).count();
    assert!(whole > 20 && relative.len() == whole, "{whole} paths, named are {relative:?}");
    for key in ["spool.directory", "gateways[0].ca_file", "rosters[0].file", "sinks.file.jsonl.path"] {
        assert!(relative.iter().any(|named| named == key), "{key}: {relative:?}");
    }
    assert_eq!(paths(""), ["callback.certificate_file", "callback.key_file", "spool.directory"]);
    let piped = "spool.directory = '/spool'\ncallback = { certificate_file = '/c', key_file = '/k' }\n\
                 sinks.out.jsonl.path = '-'";
    assert_eq!(paths(piped), [] as [&str; 0], "standard output is nowhere");
}

#[test]
fn a_relative_path_that_leads_nowhere_is_reported_with_where_it_was_looked_for() {
    let found = mistakes(&format!("{CALLBACK}{GATEWAY}").replace("'FOLDER/key.pem'", "'no-such-key.pem'"));
    let here = std::env::current_dir().unwrap();
    let note = format!("(a relative path, looked for below {}, where this was started)", here.display());
    assert!(found.len() == 1 && found[0].starts_with("callback.") && found[0].contains(&note), "{found:?}");
}

#[test]
fn the_examples_of_the_reference_configuration_have_known_keys_only() {
    let (raw, problems) = raw(&with_examples());
    assert_eq!(problems, []);
    let mut problems = Problems::default();
    sections::validate(raw.unwrap(), &mut problems);
    // Nothing but the example's files and folders is missing, and of two ways to a password one is too many.
    for problem in problems.found() {
        let file = problem.key.ends_with("file") || problem.message.ends_with("is not a directory");
        assert!(file || problem.message.contains("password_env"), "{}: {}", problem.key, problem.message);
    }
}

#[test]
fn every_key_stands_in_the_reference_configuration() {
    let text = with_examples();
    let table: toml::Table = toml::from_str(&text).unwrap();
    for section in [
        "",
        "callback",
        "token",
        "spool",
        "operations",
        "log",
        "traces",
        "shutdown",
        "masking",
        "routes[0]",
        "gateways[0]",
        "agents[0]",
        "rosters[0]",
        "sinks.bus",
        "sinks.bus.kafka",
        "sinks.bus.kafka.security",
        "sinks.broker.mqtt",
        "sinks.file.jsonl",
    ] {
        // An unknown key makes the model name the ones it knows.
        let mut changed = toml::Value::Table(table.clone());
        let path = section.replace("[0]", ".0");
        let here =
            path.split('.').filter(|part| !part.is_empty()).fold(&mut changed, |value, part| {
                match part.parse::<usize>() {
                    Ok(index) => value.get_mut(index).unwrap(),
                    Err(_) => value.get_mut(part).unwrap(),
                }
            });
        here.as_table_mut().unwrap().insert("zzz".to_owned(), 1.into());
        let present: Vec<_> = here.as_table().unwrap().keys().cloned().collect();
        let (_, problems) = raw(&toml::to_string(&changed).unwrap());
        let known = problems[0].message.split_once("known here: ").unwrap().1;
        for key in known.split(", ") {
            let elsewhere = section == "sinks.bus" && ["mqtt", "jsonl"].contains(&key);
            assert!(elsewhere || present.iter().any(|p| p == key), "{section}.{key} is not in config.toml");
        }
    }
}

#[test]
fn the_admin_api_wants_private_tokens_and_tls_away_from_loopback() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let tokens = folder.path().join("tokens");
    let base = format!("{CALLBACK}{GATEWAY}[operations]\nadmin_tokens_file = '{}'\n", tokens.display());
    std::fs::write(&tokens, "crm a-token-that-is-long-enough\n").unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
    let found = mistakes(&base);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("operations.admin_tokens_file: "), "{found:?}");
    assert!(found[0].contains(tokens.to_str().unwrap()) && !found[0].contains("a-token"), "{found:?}");

    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_mistakes(&base, &[]);
    assert_mistakes(&format!("{base}listen = '[::1]:9464'"), &[]);
    let open = format!("{base}listen = '0.0.0.0:9464'\n");
    assert_mistakes(&open, &["operations.certificate_file: is required with admin_tokens_file where"]);
    let chain = "certificate_file = 'FOLDER/certificate.pem'\n";
    assert_mistakes(&format!("{open}{chain}"), &["operations.key_file: is required"]);
    assert_mistakes(&format!("{open}{chain}key_file = 'FOLDER/key.pem'\n"), &[]);
    assert_mistakes(&format!("{open}{chain}key_file = 'FOLDER/password'\n"), &["operations.key_file: "]);
    // To delete it is to revoke all tokens: whatever else has changed must come into force all the same.
    std::fs::remove_file(&tokens).unwrap();
    assert_mistakes(&base, &[]);
    // Metrics alone may be open to all, as before.
    assert_mistakes(&format!("{CALLBACK}{GATEWAY}[operations]\nlisten = '0.0.0.0:9464'"), &[]);
}

#[test]
fn tls_and_who_may_connect_are_checked_with_their_keys() {
    let with = |keys: &str| format!("{CALLBACK}{keys}\n{GATEWAY}");
    let ca = "client_ca_file = 'FOLDER/certificate.pem'\n";
    for good in [
        "tls_min_version = '1.3'\ntls_cipher_suites = ['TLS_AES_128_GCM_SHA256']".to_owned(),
        "tls_cipher_suites = ['TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256']".to_owned(),
        format!("client_certificates = 'optional'\n{ca}"),
        format!("client_certificates = 'required'\n{ca}"),
        "allow_from = ['10.0.0.0/8', '::1']".to_owned(),
    ] {
        assert_mistakes(&with(&good), &[]);
    }
    for (bad, said) in [
        ("tls_min_version = '1.1'", "callback.tls_min_version: expected one of 1.2, 1.3"),
        (
            "tls_cipher_suites = ['TLS_AES_128_GCM_SHA256', 'RC4-MD5']",
            "callback.tls_cipher_suites[1]: unknown cipher suite \"RC4-MD5\"; possible are TLS_AES_256_GCM_SHA384, ",
        ),
        // Of TLS 1.2, where only 1.3 is spoken; and for RSA, where the key is of an elliptic curve.
        (
            "tls_min_version = '1.3'\ntls_cipher_suites = ['TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256']",
            "callback.tls_cipher_suites: none of these can be used with the key of",
        ),
        (
            "tls_cipher_suites = ['TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256']",
            "callback.tls_cipher_suites: none of these can be used with the key of",
        ),
        (
            "client_certificates = 'maybe'",
            "callback.client_certificates: expected one of off, optional, required",
        ),
        ("client_certificates = 'required'", "callback.client_ca_file: is required where"),
        ("client_ca_file = 'x'", "callback.client_ca_file: has no meaning while"),
        ("client_crl_file = 'x'", "callback.client_crl_file: has no meaning while"),
        (
            "client_certificates = 'required'\nclient_ca_file = 'FOLDER/password'",
            "callback.client_ca_file: cannot read an authority from",
        ),
        (
            "client_certificates = 'optional'\nclient_ca_file = 'FOLDER/key.pem'",
            "callback.client_ca_file: cannot read an authority from",
        ),
        (
            "client_certificates = 'optional'\nclient_ca_file = 'FOLDER/certificate.pem'\nclient_crl_file = 'FOLDER/key.pem'",
            "callback.client_crl_file: cannot read a revocation list from",
        ),
        ("allow_from = ['10.0.0.0/8', '10.0.0.1/8']", "callback.allow_from[1]: \"10.0.0.1/8\" has bits"),
    ] {
        assert_mistakes(&with(bad), &[said]);
    }
    let operations =
        format!("{CALLBACK}{GATEWAY}[operations]\nallow_from = ['localhost']\ntls_cipher_suites = ['x']\n");
    assert_mistakes(
        &operations,
        &[
            "operations.tls_cipher_suites[0]: unknown",
            "operations.allow_from[0]: \"localhost\" is not an address",
        ],
    );
}

const ROUTED_SINKS: &str = "[sinks.bus.kafka]\nbootstrap_servers = 'k:1'\n[sinks.wall.mqtt]\nurl = 'mqtt://b'\n\
                            [sinks.file.jsonl]\npath = '-'\n";

#[test]
fn all_mistakes_of_routes_are_reported_at_once_with_their_keys() {
    let text = format!(
        "{CALLBACK}{GATEWAY}{ROUTED_SINKS}\
         [sinks.quiet]\nunrouted = 'drop'\nmask = ['call.callr']\n[sinks.quiet.jsonl]\npath = '-'\n\
         [[routes]]\nname = 'one'\ngateways = ['maine']\nagents = ['1999-1000', 'anna', '1001']\ncategories = ['calls']\n\
         types = ['ccrelay.cal.*']\nmedia = ['voices', '5', '05']\nskills = []\n\
         to = {{ bus = 'a/b', wall = 'a/+', gone = 'x', file = 'x' }}\n\
         [[routes]]\nname = 'one'\nto = {{ bus = '{{agnet}}', wall = '$x' }}\nnot_to = ['wall', 'far']\nmask = ['message.text:md5']\n\
         [[routes]]\nname = 'Ä'\n\
         [[routes]]\nname = 'long'\nto = {{ bus = '{long}' }}\nmask = ['call.caller']\nx = 1\n",
        long = "x".repeat(250),
    );
    assert_mistakes(
        &text,
        &[
            "sinks.quiet.mask[0]: there is no text \"call.callr\"; known are numbers",
            "sinks.quiet.unrouted: drop leaves nothing",
            "routes[0].gateways[0]: \"maine\" fits nothing; there are: main",
            "routes[0].agents[0]: the range \"1999-1000\" ends before it begins",
            "routes[0].agents[1]: \"anna\" is no agent id",
            "routes[0].categories[0]: \"calls\" fits nothing; there are: agent-state, call",
            "routes[0].types[0]: \"ccrelay.cal.*\" fits nothing",
            "routes[0].media[0]: \"voices\" fits nothing; there are: voice",
            "routes[0].media[2]: \"05\" fits nothing; there are: voice",
            "routes[0].skills: an empty list fits no event",
            "routes[0].to.bus: a Kafka topic must not contain '/'",
            "routes[0].to.wall: a MQTT topic must not contain '+'",
            "routes[0].to.gone: there is no sink \"gone\"; there are: bus, file, quiet, wall",
            "routes[1].name: another route is called \"one\" too",
            "routes[1].to.bus: unknown placeholder or lone brace at character 1",
            "routes[1].to.wall: a MQTT topic must not contain '$'",
            "routes[1].not_to[0]: wall stands in to as well",
            "routes[1].not_to[1]: there is no sink \"far\"",
            "routes[1].mask[0]: \"md5\" is none of hash, last4 and hide",
            "routes[2].name: is required: 1 to 32 characters",
            "routes[2].to: is required",
            "routes[3].to.bus: a topic can become longer than 249 characters",
            "routes[3].x: unknown key",
            "masking.secret_file: is required for the hashes of routes[3].mask",
        ],
    );
}

#[test]
fn routes_lead_each_sink_its_own_way_and_without_any_all_stays_as_it_was() {
    use crate::event::{AgentId, EventData, GatewayName};
    let topics = |more: &str, agent: &str| {
        let config = try_load(&format!("{CALLBACK}{GATEWAY}{ROUTED_SINKS}{more}")).unwrap();
        let (gateway, agent_id) = (GatewayName::parse("main").unwrap(), AgentId::parse(agent).unwrap());
        let event = crate::event::Event {
            id: "x".into(),
            source: "x".into(),
            event_type: "ccrelay.call.ringing",
            category: "call",
            gateway: gateway.clone(),
            agent_id: agent_id.clone(),
            time: crate::clock::Timestamp(1),
            recorded_time: crate::clock::Timestamp(1),
            written: Default::default(),
            sequence: 0,
            repeat: false,
            data: EventData::new(gateway, agent_id),
        };
        let of = |sink: &SinkConfig| {
            let topic = sink.router.route(event.clone().into()).map(|(topic, _)| topic.to_string());
            format!("{}={}", sink.name, topic.as_deref().unwrap_or("nowhere"))
        };
        config.sinks.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    let own = "bus=ccrelay.events file=ccrelay.events wall=ccrelay/main/agents/1001/events/call";
    assert_eq!(topics("", "1001"), own);
    let routes = "[[routes]]\nname = 'a'\nagents = ['1000-1999']\nto = { bus = 'sales' }\nnot_to = ['file']\n\
                  [[routes]]\nname = 'b'\nto = { wall = 'all/{agent}', file = 'f' }\n";
    assert_eq!(topics(routes, "1001"), "bus=sales file=nowhere wall=all/1001");
    assert_eq!(topics(routes, "2001"), "bus=ccrelay.events file=f wall=all/2001");
}

#[test]
fn the_secret_of_hashes_is_read_from_its_file_and_must_be_long_enough() {
    let with = |file: &str| {
        format!(
            "{CALLBACK}{GATEWAY}[masking]\nsecret_file = '{file}'\n[sinks.a]\nmask = ['numbers']\n[sinks.a.jsonl]\npath = '-'\n"
        )
    };
    assert_mistakes(&with("/nonexistent/secret"), &["masking.secret_file: cannot read /nonexistent/secret"]);
    let short = mistakes(&with("FOLDER/password"));
    assert_eq!(short.len(), 1);
    assert!(
        short[0].contains("has 9 bytes and needs at least 32") && !short[0].contains("hush"),
        "{short:?}"
    );
    assert!(try_load(&with("FOLDER/key.pem")).is_ok());
}
