//! What `deploy/` and the runbook say of metrics, alerts and commands is true of this release.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ccrelay::metrics::{Metrics, NAMES, PUSH_FAILURE_REASONS};
use serde_json::Value;
use sha2::{Digest, Sha256};

const RULES: &str = include_str!("../deploy/prometheus/ccrelay.rules.yml");
const CASES: &str = include_str!("../deploy/prometheus/ccrelay.test.yml");
const DASHBOARD: &str = include_str!("../deploy/grafana/ccrelay.json");
const RUNBOOK: &str = include_str!("../docs/runbook.md");
const UNIT: &str = include_str!("../deploy/ccrelay.service");
const README: &str = include_str!("../README.md");
const OPERATION: &str = include_str!("../docs/operation.md");
const SECURITY: &str = include_str!("../docs/security.md");
const FIRST_HOUR: &str = include_str!("../docs/first-hour.md");
/// Where attributes of spans are named.
const SPANS: &str = include_str!("../src/trace/otlp.rs");
/// Labels that Prometheus itself adds.
const ADDED: &[&str] = &["job", "instance"];

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn promtool(arguments: &[&str], folder: &Path) -> Output {
    tool("promtool", arguments, folder)
}

fn tool(name: &str, arguments: &[&str], folder: &Path) -> Output {
    let output = Command::new(name).args(arguments).current_dir(folder).output();
    output.unwrap_or_else(|error| panic!("{name} does not start ({error}): `make setup` installs it"))
}

#[track_caller]
fn succeeds(output: &Output) {
    let said =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(output.status.success() && !said.contains("FAILED"), "{said}");
}

/// Names of all alerts.
fn alerts() -> BTreeSet<&'static str> {
    RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// Every query of the dashboard, as Prometheus gets it.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter(|panel| panel["type"] != "row").flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        targets
    });
    let filled = |query: &str| {
        query
            .replace("$__rate_interval", "1m")
            .replace("$__range", "1h")
            .replace("$job", "ccrelay")
            .replace("$instance", ".*")
    };
    targets.map(|target| filled(target["expr"].as_str().expect("a query"))).collect()
}

/// A page of metrics as a new instance shows it, with one gateway and one sink.
fn page() -> String {
    let reasons: &[&str] = &["too_large"];
    let metrics = Metrics::new(["main"], [("bus", reasons)]).expect("metrics");
    String::from_utf8(metrics.render()).expect("text")
}

/// The metrics that a query names, each with what it asks of labels: name, operator and value.
fn selectors(query: &str) -> BTreeMap<String, Vec<(String, String, String)>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in query.match_indices("ccrelay_").chain(query.match_indices("process_")) {
        if query[..at].ends_with(is_name) {
            continue;
        }
        let name: String = query[at..].chars().take_while(|c| is_name(*c)).collect();
        let asked = found.entry(name.clone()).or_default();
        let Some(rest) = query[at + name.len()..].strip_prefix('{') else { continue };
        let inside = rest.split('}').next().expect("a part");
        for matcher in inside.split("\", ").map(|matcher| matcher.trim_end_matches('"')) {
            let (left, value) = matcher.split_once('"').unwrap_or_else(|| panic!("{matcher} in {query}"));
            let label = left.trim_end_matches(['=', '!', '~']);
            asked.push((label.to_owned(), left[label.len()..].to_owned(), value.to_owned()));
        }
    }
    found
}

/// What the page does not bear out.
fn faults(query: &str, page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, asked) in selectors(query) {
        let bare =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        if !NAMES.contains(&bare) && !NAMES.contains(&name.as_str()) && !name.starts_with("process_") {
            faults.push(format!("there is no metric {name}"));
            continue;
        }
        let series: Vec<_> = page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect();
        for (label, operator, value) in asked.iter().filter(|(label, ..)| !ADDED.contains(&label.as_str())) {
            if !series.iter().any(|line| line.contains(&format!("{label}=\""))) {
                faults.push(format!("{name} has no label {label}"));
            } else if operator == "="
                && !series.iter().any(|line| line.contains(&format!("{label}=\"{value}\"")))
            {
                faults.push(format!("{name} never has {label}=\"{value}\""));
            }
        }
    }
    faults
}

#[test]
fn alerts_and_their_cases_pass_promtool() {
    let folder = deploy("prometheus");
    succeeds(&promtool(&["check", "rules", "ccrelay.rules.yml"], &folder));
    succeeds(&promtool(&["test", "rules", "ccrelay.test.yml"], &folder));
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_a_section_in_the_runbook_and_no_section_is_without_its_alert()
{
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    let sections: BTreeSet<_> = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, alerts);
    for alert in alerts {
        assert!(CASES.contains(&format!("alertname=\"{alert}\"")), "{alert} never fires in a case");
        let link = format!("runbook_url: \"docs/runbook.md#{}\"", alert.to_lowercase());
        assert_eq!(RULES.matches(&link).count(), 1, "{link}");
    }
    for part in ["**At stake:**", "**Look:**", "**Do:**"] {
        assert_eq!(RUNBOOK.matches(part).count(), sections.len(), "{part}");
    }
}

/// What the runbook says of an alert.
fn section(alert: &str) -> &'static str {
    let section =
        RUNBOOK.split(&format!("\n## {alert}\n")).nth(1).and_then(|rest| rest.split("\n## ").next());
    section.unwrap_or_else(|| panic!("the runbook has no section {alert}"))
}

#[test]
fn whatever_shows_a_slow_disk_leads_to_what_it_costs_agents() {
    for alert in ["CcrelayAgentsAboutToBeSignedOut", "CcrelayAnswersSlow", "CcrelaySpoolSlow"] {
        let section = section(alert);
        assert!(section.contains("(#ccrelaypushesunanswered)") && section.contains("agent"), "{alert}");
    }
    let near = section("CcrelayAgentsAboutToBeSignedOut");
    for way_on in
        ["`peer_gone`", "(#ccrelayspoolslow)", "(#ccrelayspoolrefusespushes)", "(#ccrelaypushesrefused)"]
    {
        assert!(near.contains(way_on), "{way_on}");
    }
}

#[test]
fn the_runbook_has_the_configuration_checked_before_a_restart() {
    let before = RUNBOOK.split("\n## ").next().expect("a part");
    assert!(before.contains("restart") && before.contains("`ccrelay check --config"));
    for alert in [
        "CcrelayAgentsWithoutPushes",
        "CcrelayOnBackupAddress",
        "CcrelaySpoolRefusesPushes",
        "CcrelaySinkStopped",
        "CcrelayRestartNeeded",
    ] {
        let steps = section(alert).split("**Do:**").nth(1).expect("something to do").split("\n- ");
        for step in steps.filter(|step| step.contains(" restart")) {
            assert!(step.contains("`ccrelay check`"), "{alert}: {step}");
        }
    }
    assert!(section("CcrelaySpoolRefusesPushes").contains("`to` and `not_to` of all `[[routes]]`"));
}

#[test]
fn the_runbook_says_what_to_do_for_each_reason_of_a_refused_push() {
    for reason in PUSH_FAILURE_REASONS {
        let alert = match *reason {
            // A stop refuses what comes meanwhile, and no alert asks for it.
            "stopping" => continue,
            "spool_full" | "spool_failed" => "CcrelaySpoolRefusesPushes",
            "peer_gone" => "CcrelayPushesUnanswered",
            _ => "CcrelayPushesRefused",
        };
        let section = section(alert);
        // Of a full spool there is nothing else in its section.
        assert!(*reason == "spool_full" || section.contains(&format!("`{reason}`")), "{alert}: {reason}");
    }
}

#[test]
fn alerts_and_dashboard_name_only_metrics_and_labels_that_exist() {
    let page = page();
    let mut queries = queries();
    assert!(queries.len() > 30, "{queries:?}");
    // An expression may go on in the lines below its key.
    queries.extend(RULES.split("expr:").skip(1).map(|rest| {
        let end =
            rest.find("\n        for:").or_else(|| rest.find("\n        labels:")).unwrap_or(rest.len());
        rest[..end].to_owned()
    }));
    let faults: Vec<_> = queries.iter().flat_map(|query| faults(query, &page)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn series_that_readme_and_pages_name_exist() {
    let page = page();
    let pages = [README, RUNBOOK, OPERATION, SECURITY];
    let code = pages.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
    let series: BTreeSet<_> =
        code.filter(|code| code.starts_with("ccrelay_") && code.contains('{')).collect();
    assert!(series.len() > 2, "{series:?}");
    let faults: Vec<_> = series.iter().flat_map(|series| faults(series, &page)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_metric_or_label_that_does_not_exist_is_noticed() {
    let page = page();
    assert_eq!(
        faults("rate(ccrelay_nothing_total[5m])", &page),
        ["there is no metric ccrelay_nothing_total"]
    );
    assert_eq!(faults("ccrelay_sessions{colour=\"red\"}", &page), ["ccrelay_sessions has no label colour"]);
    let asleep = faults("sum(ccrelay_sessions{job=\"x\", state=\"asleep\"})", &page);
    assert_eq!(asleep, ["ccrelay_sessions never has state=\"asleep\""]);
    assert!(faults("ccrelay_sessions{state=\"active\"}", &page).is_empty());
}

#[test]
fn panels_of_the_dashboard_have_ids_and_places_of_their_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a number"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} covers another", panel["title"]);
        }
    }
}

#[test]
fn every_query_of_the_dashboard_is_one() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let queries = queries();
    let rules = queries.iter().enumerate().map(|(at, query)| {
        format!("  - record: query_{at}\n    expr: {}\n", serde_json::to_string(query).expect("text"))
    });
    let rules: String = rules.collect();
    let file = folder.path().join("queries.yml");
    std::fs::write(&file, format!("groups:\n- name: dashboard\n  rules:\n{rules}"))
        .expect("it can be written");
    succeeds(&promtool(&["check", "rules", "queries.yml"], folder.path()));
}

#[test]
fn the_time_to_a_sign_out_is_red_where_somebody_is_about_to_be_signed_out_and_by_no_limit_of_its_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let panel = panels.iter().find(|p| p["type"] == "stat" && p["title"] == "Seconds to the first sign-out");
    let panel = panel.expect("a panel");
    let fields = &panel["fieldConfig"];
    assert!(fields["defaults"]["thresholds"].is_null(), "limits are the gateway's: {fields}");
    assert_eq!(fields["defaults"]["color"]["fixedColor"], "green");
    let red = &fields["overrides"][0];
    assert_eq!(
        (&red["matcher"]["options"], &red["properties"][0]["value"]["fixedColor"]),
        (&"B".into(), &"red".into())
    );
    for (at, (name, word)) in [("A", " unless "), ("B", " and ")].into_iter().enumerate() {
        let target = &panel["targets"][at];
        let query = target["expr"].as_str().expect("a query");
        assert!(
            query.contains(&format!("{word}on() (sum(ccrelay_agents_about_to_be_signed_out{{")),
            "{query}"
        );
        assert!(target["refId"] == name && target["instant"] == true, "{target}");
    }
}

#[test]
fn commands_of_runbook_operation_and_security_exist() {
    let mut seen = 0;
    let pages = [RUNBOOK, OPERATION, SECURITY, FIRST_HOUR];
    let code = pages.iter().flat_map(|page| page.split('`').skip(1).step_by(2));
    for command in code.filter(|code| code.starts_with("ccrelay ")) {
        let command = command.split('|').next().expect("a part");
        let words = command.split_whitespace().skip(1);
        // Upper case stands for names; options are looked up in the command's help.
        let (options, names): (Vec<_>, Vec<_>) = words
            .filter(|word| !word.contains(char::is_uppercase) && !word.starts_with('/'))
            .partition(|word| word.starts_with("--"));
        let known: Vec<_> = names
            .iter()
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
            .collect();
        // A value of an option is no command.
        let known = known.into_iter().take(2 - usize::from(!options.is_empty() && names.len() < 2));
        let output = Command::new(env!("CARGO_BIN_EXE_ccrelay")).args(known).arg("--help").output();
        let output = output.expect("the program starts");
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
        for option in options {
            assert!(help.contains(option), "`{command}`: there is no {option} in\n{help}");
        }
        seen += 1;
    }
    assert!(seen > 15, "{seen} commands");
}

#[test]
fn systemd_takes_the_unit_and_finds_it_as_exposed_as_unit_and_pages_say() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let unit = UNIT.replace("/usr/local/bin/ccrelay", env!("CARGO_BIN_EXE_ccrelay"));
    assert_ne!(unit, UNIT);
    std::fs::write(folder.path().join("ccrelay.service"), unit).expect("it can be written");
    let verified = tool("systemd-analyze", &["verify", "./ccrelay.service"], folder.path());
    // It also reads units of this machine, and may have something to say about those.
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(!said.contains("ccrelay"), "{said}");

    let security = ["security", "--offline=true", "./ccrelay.service"];
    let security = tool("systemd-analyze", &security, folder.path());
    let said = String::from_utf8_lossy(&security.stdout);
    let found = said.split("exposure level for ccrelay.service: ").nth(1).expect("an exposure level");
    let found = found.split_whitespace().next().expect("a number");
    assert!(found.parse::<f64>().is_ok_and(|exposure| exposure < 1.5), "{said}");
    for (place, text) in [("the unit", UNIT), ("the README", README), ("security.md", SECURITY)] {
        assert!(text.contains(&format!("exposure {found}")), "{place} does not say that it is {found}");
    }
}

#[test]
fn pages_that_speak_of_a_spool_elsewhere_name_what_the_sandbox_wants_and_systemd_takes_it() {
    assert!(UNIT.contains("\nProtectSystem=strict\n") && UNIT.contains("\nStateDirectory=ccrelay\n"));
    for (page, begin, end) in [
        (RUNBOOK, "\n## CcrelayDown\n", "\n## "),
        (RUNBOOK, "\n## CcrelaySpoolSlow\n", "\n## "),
        (OPERATION, "\n**After the loss of the disk**", "\n\n"),
        (README, "\n## Install\n", "\n## "),
        (CONFIG, "\n[spool]\n", "\ndirectory = "),
    ] {
        let text = page.split(begin).nth(1).and_then(|rest| rest.split(end).next());
        let named = text.is_some_and(|text| text.contains("ReadWritePaths="));
        assert!(named, "{begin} does not say that another folder needs ReadWritePaths=");
    }
    let section =
        OPERATION.split("\n## The spool elsewhere\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let drop_ins = section.expect("a section").split("```ini\n").skip(1);
    let drop_ins: Vec<_> = drop_ins.filter_map(|rest| rest.split("```").next()).collect();
    assert!(drop_ins.len() == 2 && drop_ins[0].contains("\nReadWritePaths="), "{drop_ins:?}");
    for (drop_in, well) in drop_ins
        .iter()
        .map(|text| ((*text).to_owned(), true))
        .chain([(drop_ins[0].replace("Paths=", "Path="), false)])
    {
        let folder = tempfile::TempDir::new().expect("a folder");
        let unit = UNIT.replace("/usr/local/bin/ccrelay", env!("CARGO_BIN_EXE_ccrelay"));
        std::fs::write(folder.path().join("ccrelay.service"), unit).expect("it can be written");
        std::fs::create_dir(folder.path().join("ccrelay.service.d")).expect("a folder");
        std::fs::write(folder.path().join("ccrelay.service.d/override.conf"), &drop_in)
            .expect("it can be written");
        let verified = tool("systemd-analyze", &["verify", "./ccrelay.service"], folder.path());
        let said = String::from_utf8_lossy(&verified.stderr);
        assert_eq!(!said.contains("ccrelay"), well, "{drop_in}\n{said}");
    }
}

#[test]
fn a_mistake_in_the_unit_is_noticed() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let unit = UNIT.replace("/usr/local/bin/ccrelay", env!("CARGO_BIN_EXE_ccrelay"));
    std::fs::write(folder.path().join("ccrelay.service"), unit.replace("Type=notify", "Type=norify"))
        .expect("it can be written");
    let verified = tool("systemd-analyze", &["verify", "./ccrelay.service"], folder.path());
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains("ccrelay") && said.contains("norify"), "{said}");
}

// --- Images, compose file, chart, package ------------------------------------------------------------------------

const DOCKERFILE: &str = include_str!("../deploy/Dockerfile");
const COMPOSE: &str = include_str!("../deploy/compose/compose.yml");
const CHART: &str = include_str!("../deploy/helm/ccrelay/Chart.yaml");
const VALUES: &str = include_str!("../deploy/helm/ccrelay/values.yaml");
const RENDERED: &str = include_str!("../deploy/helm/rendered.yaml");
const CONFIG: &str = include_str!("../config.toml");
const MANIFEST: &str = include_str!("../Cargo.toml");

/// Certificates and settings as `deploy/compose/prepare` makes them.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().expect("a folder");
    let at = folder.path().display().to_string();
    succeeds(&tool(&deploy("compose/prepare").display().to_string(), &[&at], folder.path()));
    folder
}

/// Has the program check a configuration.
fn checked(folder: &Path, text: &str) {
    let file = folder.join("checked.toml");
    std::fs::write(&file, text).expect("it can be written");
    let arguments = ["check", "--config", "checked.toml"];
    succeeds(&tool(env!("CARGO_BIN_EXE_ccrelay"), &arguments, folder));
}

/// Whether `config.toml` has this key, given as the environment's name of it.
fn is_a_key(variable: &str) -> bool {
    is_key_of_table(&variable.trim_start_matches("CCRELAY_").to_lowercase().replace("__", "."))
}

fn is_key_of_table(path: &str) -> bool {
    let Some((table, key)) = path.split_once('.') else { return false };
    let table = CONFIG.split(&format!("\n[{table}]\n")).nth(1).unwrap_or_default();
    let table = table.split("\n[").next().unwrap_or_default();
    table.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")))
}

#[test]
fn variables_ports_and_versions_of_images_and_chart_are_those_of_the_program() {
    let name = |c: char| c.is_ascii_uppercase() || c == '_';
    let mut variables = BTreeSet::new();
    for text in [DOCKERFILE, COMPOSE, RENDERED] {
        for (at, _) in text.match_indices("CCRELAY_") {
            variables.insert(text[at..].chars().take_while(|c| name(*c)).collect::<String>());
        }
    }
    assert!(variables.remove("CCRELAY_CONFIG_FILE") && variables.len() == 2, "{variables:?}");
    for variable in variables {
        assert!(is_a_key(&variable), "{variable} sets nothing");
    }
    // Where the chart mounts it, also for commands that a person runs in the pod.
    for line in [
        "{name: CCRELAY_CONFIG_FILE, value: /etc/ccrelay/config/config.toml}",
        "{name: config, mountPath: /etc/ccrelay/config, readOnly: true}",
    ] {
        assert!(RENDERED.contains(line), "{line}");
    }
    assert!(!is_a_key("CCRELAY_SPOOL__DIRECTORIES") && !is_a_key("CCRELAY_OPERATIONS__DIRECTORY"));

    assert!(CONFIG.contains("listen = \"0.0.0.0:8443\"") && CONFIG.contains("listen = \"127.0.0.1:9464\""));
    assert!(DOCKERFILE.contains("EXPOSE 8443 9464") && COMPOSE.contains("127.0.0.1:9464:9464"));
    for port in ["{name: callback, containerPort: 8443,", "{name: operations, containerPort: 9464,"] {
        assert!(RENDERED.contains(port), "{port}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert!(CHART.contains(&format!("\nversion: {version}\nappVersion: \"{version}\"")));
    assert_eq!(COMPOSE.matches(&format!("image: ccrelay:{version}")).count(), 2);
    assert!(DOCKERFILE.contains(concat!("ARG RUST=", env!("CARGO_PKG_RUST_VERSION"))));
    let kafka = include_str!("brokers/pom.xml").split("<artifactId>kafka_2.13</artifactId>").nth(1);
    let kafka = kafka.and_then(|rest| rest.split(['<', '>']).nth(2)).expect("a version");
    assert!(COMPOSE.contains(&format!("image: apache/kafka:{kafka}\n")), "the tests have Kafka {kafka}");
}

#[test]
fn the_image_has_the_library_and_the_authorities_that_the_program_takes_from_the_system() {
    assert!(
        CONFIG.contains("PEM file of the authorities to trust; the system's when left out.\n#ca_file = ")
    );
    let last = DOCKERFILE.rsplit("\nFROM ").next().expect("a stage");
    let installed = last.split("--no-install-recommends ").nth(1).and_then(|rest| rest.lines().next());
    let installed: Vec<_> = installed.expect("packages").trim_end_matches('\\').split_whitespace().collect();
    assert!(installed.contains(&"ca-certificates") && installed.contains(&"libssl3"), "{installed:?}");
}

#[test]
fn whatever_stops_it_waits_longer_than_it_takes() {
    let secs = |text: &str, key: &str| {
        let value = text.split(&format!("\n{key}")).nth(1).and_then(|rest| rest.lines().next());
        let value = value.unwrap_or_else(|| panic!("no {key}")).trim_end_matches('s');
        value.parse::<u64>().expect("a number")
    };
    let grace = secs(CONFIG, "grace_secs = ");
    for (text, key) in [
        (UNIT, "TimeoutStopSec="),
        (VALUES, "terminationGracePeriodSeconds: "),
        (COMPOSE, "    stop_grace_period: "),
    ] {
        let waits = secs(text, key);
        assert!(waits > grace, "{key}{waits}");
        let said = format!("{} ({waits}) of the ", key.trim().trim_end_matches([':', '=']));
        assert!(CONFIG.contains(&said), "config.toml does not say {said}");
    }
    let set = "{{ .Values.terminationGracePeriodSeconds }}";
    assert!(include_str!("../deploy/helm/ccrelay/templates/statefulset.yaml").contains(set));
}

#[test]
fn probes_ask_for_pages_that_there_are() {
    let pages = include_str!("../src/admin.rs");
    let asked = RENDERED.split("path: /").skip(1).filter_map(|rest| rest.split([',', '\n']).next());
    let asked: BTreeSet<_> = asked.filter(|path| !path.is_empty()).collect();
    assert_eq!(asked, BTreeSet::from(["live", "metrics", "ready"]));
    for page in asked {
        assert!(pages.contains(&format!("\"/{page}\" ")), "there is no page /{page}");
    }
    assert!(DOCKERFILE.contains("127.0.0.1/9464 && printf 'GET /ready HTTP/1.0"));
}

#[test]
fn the_compose_file_has_a_configuration_that_passes_and_a_gateway_that_starts() {
    let folder = prepared();
    let at = folder.path().display().to_string();
    let here = |text: &str| text.replace("/etc/ccrelay/local", &at);
    checked(folder.path(), &here(include_str!("../deploy/compose/ccrelay.toml")));
    let settings = std::fs::read_to_string(folder.path().join("gateway.toml")).expect("it was made");
    let settings: ccrelay::simulate::Settings = toml::from_str(&here(&settings)).expect("settings");
    settings.check().expect("they are in order");

    let rules = std::fs::canonicalize(deploy("prometheus/ccrelay.rules.yml")).expect("it is there");
    let prometheus = include_str!("../deploy/compose/prometheus.yml")
        .replace("/etc/prometheus/ccrelay.rules.yml", &rules.display().to_string());
    std::fs::write(folder.path().join("prometheus.yml"), prometheus).expect("it can be written");
    succeeds(&promtool(&["check", "config", "prometheus.yml"], folder.path()));
}

#[test]
fn what_the_compose_file_needs_is_readable_in_its_containers_and_a_missing_openssl_is_said() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let (script, made) = (deploy("compose/prepare").display().to_string(), folder.path().join("local"));
    let made_as_text = made.display().to_string();
    let private =
        ["-c", "umask 077; mkdir local; echo mine >local/own; \"$@\"", "bash", &script, &made_as_text];
    succeeds(&tool("bash", &private, folder.path()));
    // What is not of its making stays as it was.
    for (path, mode) in [(made.clone(), 0o755), (made.join("gateway.key"), 0o644), (made.join("own"), 0o600)]
    {
        let has = std::fs::metadata(&path).expect("it was made").permissions().mode();
        assert_eq!(has & 0o777, mode, "{}", path.display());
    }
    let nowhere =
        Command::new("/bin/bash").args([&script, &made_as_text]).env("PATH", folder.path()).output();
    let nowhere = nowhere.expect("bash starts");
    let said = String::from_utf8_lossy(&nowhere.stderr);
    assert!(!nowhere.status.success() && said.contains("openssl is not there"), "{said}");
}

#[test]
fn services_without_capabilities_do_not_begin_as_root() {
    // Images of which the others are not root: ours, Prometheus (nobody), Grafana (472).
    let of_themselves = ["ccrelay:", "prom/prometheus:", "grafana/grafana:"];
    let services = COMPOSE.split("    <<: *hardened\n").skip(1);
    let services: Vec<_> = services.map(|rest| rest.split("\n\n").next().unwrap_or_default()).collect();
    assert!(services.len() > 3, "{services:?}");
    for service in services {
        let image = service.split("    image: ").nth(1).expect("an image").lines().next().unwrap_or_default();
        let named = service.lines().any(|line| line.starts_with("    user: ") && !line.contains("\"0"));
        assert!(named || of_themselves.iter().any(|name| image.starts_with(name)), "{image} begins as root");
    }
}

#[test]
fn the_rendered_chart_is_of_this_chart_and_as_strict_as_it_says() {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    files(&deploy("helm/ccrelay"), &mut found);
    found.sort_by_key(|path| path.display().to_string());
    let mut hash = Sha256::new();
    found.iter().for_each(|path| hash.update(std::fs::read(path).expect("it can be read")));
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        RENDERED.contains(&format!("# chart: {hash}\n")),
        "run deploy/helm/render: the chart has changed"
    );

    // What deploy/helm/render has seen the chart refuse.
    for refused in [
        "[callback] listen must have the port 8443",
        "operations.tls must be true",
        "config must have certificate_file and key_file in [operations]",
        "which is 20",
        "which is 40",
    ] {
        assert!(RENDERED.contains(&format!("\n# refused: {refused}\n")), "{refused}");
    }

    for line in [
        "kind: StatefulSet",
        "replicas: 1",
        "podManagementPolicy: Parallel",
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "allowPrivilegeEscalation: false",
        "capabilities: {drop: [ALL]}",
        "seccompProfile: {type: RuntimeDefault}",
        "automountServiceAccountToken: false",
        "kind: PodDisruptionBudget",
        "kind: ServiceMonitor",
        "kind: NetworkPolicy",
        "accessModes: [ReadWriteOncePod]",
        "{targetLabel: job, replacement: ccrelay}",
        // The name of a pod of a StatefulSet is always the same; see the cases of CcrelaySessionsLost.
        "sourceLabels: [__meta_kubernetes_namespace, __meta_kubernetes_pod_name]\n          separator: /\n          \
         targetLabel: instance\n",
        "defaultMode: 288",
        "terminationGracePeriodSeconds: 30",
    ] {
        assert!(RENDERED.contains(line), "{line}");
    }
    assert!(!RENDERED.contains("kind: Secret"), "secrets are named, not made");
    let uid = "useradd --system --uid 10001 ";
    assert!(DOCKERFILE.contains(uid) && RENDERED.contains("runAsUser: 10001"));
    let schema: Value = serde_json::from_str(include_str!("../deploy/helm/ccrelay/values.schema.json"))
        .expect("the schema is JSON");
    let known = schema["properties"].as_object().expect("properties");
    let keys = VALUES.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let keys: BTreeSet<_> = keys.filter_map(|line| line.split(':').next()).collect();
    assert!(keys.len() > 15 && keys.iter().all(|key| known.contains_key(*key)), "{keys:?}");

    // The configuration that comes with the chart is one.
    let folder = prepared();
    let config = VALUES.split("config: |\n").nth(1).expect("a configuration");
    let config: String = config
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .map(|l| format!("{l}\n"))
        .collect();
    let config = config
        .replace("/etc/ccrelay/callback/tls.crt", "callback.pem")
        .replace("/etc/ccrelay/callback/tls.key", "callback.key")
        .replace("/etc/ccrelay/gateway/ca.crt", "ca.pem");
    checked(folder.path(), &config);
}

#[test]
fn the_package_has_manual_pages_and_completions_of_the_program() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let made = folder.path().join("made");
    let output = Command::new(deploy("deb/build"))
        .args([Path::new(env!("CARGO_BIN_EXE_ccrelay")), &made])
        .env("CARGO_TARGET_DIR", folder.path().join("elsewhere"))
        .output()
        .expect("the script starts");
    succeeds(&output);
    assert!(!folder.path().join("elsewhere").exists(), "cargo-deb looks for them in target/deb");
    assert!(include_str!("../deploy/deb/build").contains("\nmade=${2:-target/deb}\n"));
    for file in ["man/ccrelay.1.gz", "man/ccrelay-run.1.gz", "ccrelay", "_ccrelay", "ccrelay.fish"] {
        let size = std::fs::metadata(made.join(file));
        assert!(size.is_ok_and(|made| made.len() > 100), "{file}");
        let asset = if file.starts_with("man/") { "man/*" } else { file };
        assert!(MANIFEST.contains(&format!("[\"target/deb/{asset}\", ")), "{asset} is not in the package");
    }
}

#[test]
fn the_package_is_configured_also_where_its_configuration_was_removed() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).expect("a folder");
    for (name, script) in [("adduser", "exit 0"), ("chown", "for file; do :; done; [ -e \"$file\" ]")] {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let script = include_str!("../deploy/deb/postinst").replace("/etc/ccrelay", &etc.display().to_string());
    let configure = || {
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let output =
            Command::new("sh").args(["-c", &script, "postinst", "configure"]).env("PATH", path).output();
        succeeds(&output.expect("sh starts"));
    };
    configure();
    let file = etc.join("config.toml");
    std::fs::write(&file, "").expect("it can be written");
    configure();
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_package_holds_what_the_unit_and_its_scripts_rely_on() {
    let manifest: toml::Value = toml::from_str(MANIFEST).expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    for asset in deb["assets"].as_array().expect("assets") {
        let from = asset[0].as_str().expect("a path").trim_end_matches(['*', '.', 'm', 'd']);
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(from).exists();
        assert!(exists || from.starts_with("target/") || from == "README" || from == "CHANGELOG", "{from}");
    }
    // Nobody's address: whoever publishes it gives theirs.
    assert!(deb["maintainer"].as_str().is_some_and(|who| who.ends_with("@ccrelay.invalid>")));
    assert!(include_str!("../deploy/deb/build").contains("--maintainer \"${DEBFULLNAME:-"));
    assert_eq!(deb["conf-files"][0].as_str(), Some("/etc/ccrelay/config.toml"));
    let (postinst, package) =
        (include_str!("../deploy/deb/postinst"), include_str!("../deploy/deb/package.conf"));
    assert!(postinst.contains("--home /var/lib/ccrelay ccrelay\n") && UNIT.contains("\nUser=ccrelay\n"));
    let start = "ExecStart=/usr/local/bin/ccrelay run --config /etc/ccrelay/config.toml\n";
    assert!(UNIT.contains(start) && package.ends_with(&start.replace("/local", "")));
    assert!(UNIT.contains("StateDirectory=ccrelay\n") && UNIT.contains("WorkingDirectory=%S/ccrelay\n"));
}

// --- Pages for operators -----------------------------------------------------------------------------------------

#[test]
fn the_pod_that_repairs_a_spool_has_the_image_the_user_and_the_volume_of_the_chart() {
    let section = OPERATION.split("\n## The spool of the chart\n").nth(1).expect("a section");
    let pod = section.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a pod");
    // What it has in common with the StatefulSet, whatever the depth at which it stands there.
    let rendered: BTreeSet<_> = RENDERED.lines().map(str::trim).collect();
    for line in pod.lines().map(str::trim) {
        let its_own =
            ["apiVersion: v1", "kind: Pod", "name: ccrelay-repair", "restartPolicy: Never", "volumes:"];
        let its_own =
            its_own.contains(&line) || line.starts_with("args: ") || line.contains("persistentVolumeClaim");
        assert!(its_own || rendered.contains(line), "{line} is not in the chart");
    }
    // A claim of a StatefulSet has the template's name, the set's and the pod's number.
    assert!(pod.contains("claimName: spool-ccrelay-0}") && RENDERED.contains("\n        name: spool\n"));
    let arguments = pod.split("args: [").nth(1).and_then(|rest| rest.split(']').next()).expect("arguments");
    let folder = tempfile::TempDir::new().expect("a folder");
    let there = folder.path().display().to_string();
    let arguments = arguments.replace("/var/lib/ccrelay/spool", &there);
    let output = Command::new(env!("CARGO_BIN_EXE_ccrelay")).args(arguments.split(", ")).output();
    let said = String::from_utf8(output.expect("the program starts").stderr).expect("text");
    assert!(said.contains(&format!("cannot use {there}/spool.db")), "it looks for another spool: {said}");
}

/// What a page says of keys, tables, metrics, alerts, attributes of spans and files that is not so.
fn lies(page: &str) -> Vec<String> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let mut lies = Vec::new();
    for code in page.split('`').skip(1).step_by(2) {
        let word = code.split([' ', '{']).next().unwrap_or_default();
        let table = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).filter(|name| plain(name));
        let key =
            word.split_once('.').is_some_and(|(table, key)| plain(table) && plain(key) && table != "tests");
        let file = ["tests/", "deploy/", "docs/"].iter().any(|folder| word.starts_with(folder));
        let so = if word.starts_with("ccrelay_") {
            NAMES.contains(&word)
        } else if word.starts_with("Ccrelay") {
            alerts().contains(word)
        } else if let Some(table) = table {
            CONFIG.contains(&format!("\n[{table}]\n"))
        } else if file {
            Path::new(env!("CARGO_MANIFEST_DIR")).join(word).exists()
        } else if key && !["spool.db", "spool.mark", "deny.toml"].contains(&word) {
            is_key_of_table(word) || SPANS.contains(&format!("(\"{word}\", "))
        } else {
            true
        };
        if !so {
            lies.push(code.to_owned());
        }
    }
    lies
}

#[test]
fn keys_metrics_and_alerts_that_pages_for_operators_name_exist() {
    for (name, page) in
        [("operation.md", OPERATION), ("security.md", SECURITY), ("first-hour.md", FIRST_HOUR)]
    {
        let lies = lies(page);
        assert!(lies.is_empty(), "{name}: {lies:?}");
    }
    let wrong = "`spool.size` `ccrelay_nothing` `ccrelay.nothing` `ccrelay.events` `CcrelayBored` `[nowhere]` \
                 `tests/nothing.rs` `spool.max_bytes`";
    assert_eq!(lies(wrong).len(), 6);
}
