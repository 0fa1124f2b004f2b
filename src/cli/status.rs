//! `ccrelay status`, `ccrelay sinks` and `ccrelay reload`: what a running daemon is doing, and the wish that it read its
//! files anew.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::api::{ApiPlace, Caller};
use super::out::say;

/// What `status`, `sinks` and `reload` end with when somebody should look.
const ATTENTION: u8 = 2;
/// What `status` ends with when somebody must act now.
const CRITICAL: u8 = 3;

/// Prints the state of the daemon, and ends as its worst concern says: what needs somebody is for the daemon to know, and the
/// same here, on the status page and in the alerts.
pub(super) fn status(api: &ApiPlace) -> anyhow::Result<ExitCode> {
    let status = get(api, Method::GET, "status")?;
    if api.json {
        say!("{status}");
    } else {
        print_status(&status);
    }
    let concerns = status["concerns"].as_array().context("the answer does not say what needs somebody")?;
    Ok(ExitCode::from(exit_code(concerns)))
}

/// Of severities that this release does not know it cannot be said that they may wait.
fn exit_code(concerns: &[Value]) -> u8 {
    let code = |concern: &Value| match text(&concern["severity"]) {
        "info" => 0,
        "critical" => CRITICAL,
        _ => ATTENTION,
    };
    concerns.iter().map(code).max().unwrap_or_default()
}

/// Prints the sinks. Ends with [`ATTENTION`] when one does not deliver.
pub(super) fn sinks(api: &ApiPlace) -> anyhow::Result<ExitCode> {
    let answer = get(api, Method::GET, "sinks")?;
    if api.json {
        say!("{answer}");
    } else {
        print_sinks(&answer["sinks"]);
    }
    Ok(if delivering(&answer["sinks"]) { ExitCode::SUCCESS } else { ExitCode::from(ATTENTION) })
}

/// What a reload may do.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    api: ApiPlace,
    /// Sign agents out that stand in no file any more, however many they are. Without this more than half of a roster of ten
    /// agents or more is kept when it is gone at once, since the file may have been cut short.
    #[arg(long)]
    confirm_removals: bool,
}

/// Has the daemon read its files anew. Ends with [`ATTENTION`] when a roster is not in force as it is.
pub(super) fn reload(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let path = if args.confirm_removals { "reload?confirm_removals=true" } else { "reload" };
    let answer = get(&args.api, Method::POST, path)?;
    let rosters = answer["rosters"].as_array().map_or(&[][..], Vec::as_slice);
    let read = !answer["rosters"].is_null();
    let in_force = read && !rosters.iter().any(is_stale);
    let end = if in_force { ExitCode::SUCCESS } else { ExitCode::from(ATTENTION) };
    if args.api.json {
        say!("{answer}");
        return Ok(end);
    }
    let list = |name: &str| -> Vec<String> {
        let items = answer[name].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (changed, needs_restart) = (list("changed"), list("needs_restart"));
    if changed.is_empty() && rosters.is_empty() && read {
        say!("nothing has changed");
    }
    changed.iter().for_each(|what| say!("in force: {what}"));
    rosters.iter().flat_map(of_roster).for_each(|what| say!("{what}"));
    if !read {
        say!("rosters: not all of them are read yet, see the log");
    }
    needs_restart.iter().for_each(|key| say!("needs a restart: {key}"));
    Ok(end)
}

/// Whether the roster is not in force as its file is.
fn is_stale(roster: &Value) -> bool {
    ["held", "mistakes"].iter().any(|count| number(&roster[*count]) > 0.0) || roster["being_written"] == true
}

/// What is to be said of a roster, a line for each.
fn of_roster(roster: &Value) -> Vec<String> {
    let (file, count) = (text(&roster["file"]), |name: &str| number(&roster[name]));
    let mut said = Vec::new();
    if count("put") + count("removed") > 0.0 {
        said.push(format!(
            "in force: roster {file}: {} agents put in, {} taken out",
            count("put"),
            count("removed")
        ));
    }
    if count("held") > 0.0 {
        said.push(format!(
            "kept: roster {file}: {} agents that it has no more; if they are to be signed out: ccrelay reload --confirm-removals",
            count("held")
        ));
    }
    if count("mistakes") > 0.0 {
        said.push(format!(
            "not in force: roster {file}: {} mistakes, which the log names",
            count("mistakes")
        ));
    }
    if roster["being_written"] == true {
        said.push(format!("not in force yet: roster {file} is being written"));
    }
    said
}

fn get(api: &ApiPlace, method: Method, path: &str) -> anyhow::Result<Value> {
    super::block_on(async { Caller::new(api)?.call(method, path).await })
}

fn delivering(sinks: &Value) -> bool {
    sinks.as_array().into_iter().flatten().all(|sink| sink["state"] == "delivering")
}

fn print_status(status: &Value) {
    let ready = if status["ready"] == true { "ready" } else { "NOT READY" };
    let (version, up) = (text(&status["version"]), number(&status["uptime_secs"]));
    say!("ccrelay {version}, {ready}, up {}", in_words(up));
    for concern in status["concerns"].as_array().into_iter().flatten() {
        let (severity, alert) = (text(&concern["severity"]), text(&concern["alert"]));
        say!("{severity:<9}{} (runbook: {alert})", text(&concern["what"]));
    }
    let spool = &status["spool"];
    say!(
        "spool    {} records wait, the oldest for {}; {:.1} MiB on disk",
        number(&spool["records"]),
        in_words(number(&spool["oldest_record_age_secs"])),
        number(&spool["bytes"]) / 1_048_576.0
    );
    for gateway in status["gateways"].as_array().into_iter().flatten() {
        gateway_lines(gateway).iter().for_each(|line| say!("{line}"));
    }
    say!("");
    print_sinks(&status["sinks"]);
}

/// A gateway's agents, and while some of them wait for a session the last call that was not answered.
fn gateway_lines(gateway: &Value) -> Vec<String> {
    let sessions = gateway["sessions"].as_object().into_iter().flatten();
    let some = sessions.filter(|(_, count)| number(count) > 0.0);
    let some: Vec<_> = some.map(|(state, count)| format!("{} {state}", number(count))).collect();
    let some = if some.is_empty() { "no agents".to_owned() } else { some.join(", ") };
    let any = |states: &[&str]| states.iter().any(|state| number(&gateway["sessions"][*state]) > 0.0);
    let budget = match any(&["active", "recovering", "signing_out"]) {
        true => format!("{:.0} s to the first sign-out", number(&gateway["sign_out_budget_secs"])),
        false => "nobody is signed in".to_owned(),
    };
    let mut lines = vec![format!("gateway  {}: {some}; {budget}", text(&gateway["gateway"]))];
    let failed = &gateway["last_failed_call"];
    let troubled = any(&["signing_in", "recovering"]) || number(&gateway["about_to_be_signed_out"]) > 0.0;
    if failed.is_object() && troubled {
        let part = |name: &str| text(&failed[name]);
        lines.push(format!(
            "         last failed call: {} of agent {} at {} to {}: {}",
            part("operation"),
            part("agent"),
            part("at"),
            part("address"),
            part("error")
        ));
    }
    lines
}

fn print_sinks(sinks: &Value) {
    say!(
        "{:<20}{:<12}{:>12}{:>12}{:>14}{:>14}  last failure",
        "sink",
        "state",
        "behind",
        "in flight",
        "delivered",
        "dead letters"
    );
    for sink in sinks.as_array().into_iter().flatten() {
        say!(
            "{:<20}{:<12}{:>12}{:>12}{:>14}{:>14}  {}",
            text(&sink["sink"]),
            text(&sink["state"]),
            number(&sink["lag_records"]),
            number(&sink["in_flight"]),
            number(&sink["delivered"]),
            number(&sink["dead_letters"]),
            text(&sink["detail"])
        );
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// A time, in the unit that fits.
fn in_words(secs: f64) -> String {
    match secs {
        secs if secs < 120.0 => format!("{secs:.0} s"),
        secs if secs < 7200.0 => format!("{:.0} min", secs / 60.0),
        secs if secs < 172_800.0 => format!("{:.1} h", secs / 3600.0),
        secs => format!("{:.1} days", secs / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_concern_decides_how_status_ends() {
        let ends = |severities: &[&str]| {
            let concerns: Vec<_> =
                severities.iter().map(|severity| serde_json::json!({ "severity": severity })).collect();
            exit_code(&concerns)
        };
        assert_eq!([ends(&[]), ends(&["info"]), ends(&["info", "info"])], [0, 0, 0]);
        assert_eq!([ends(&["warning"]), ends(&["warning", "info"]), ends(&["new"])], [ATTENTION; 3]);
        assert_eq!([ends(&["critical"]), ends(&["critical", "warning"])], [CRITICAL; 2]);
        assert_eq!(exit_code(&[Value::Null]), ATTENTION);
    }

    #[test]
    fn a_gateway_where_nobody_is_signed_in_has_no_first_sign_out_and_says_what_its_calls_meet() {
        let failed = serde_json::json!({ "at": "2026-01-01T00:00:00Z", "operation": "login", "agent": "291",
            "address": "main https://gw.example/x", "error": "HTTP status 404" });
        let gateway = |signing_in: u32, active: u32| {
            gateway_lines(&serde_json::json!({ "gateway": "main", "sign_out_budget_secs": 120.0,
                "sessions": { "signing_in": signing_in, "active": active }, "last_failed_call": failed }))
        };
        assert_eq!(
            gateway(1, 0),
            [
                "gateway  main: 1 signing_in; nobody is signed in",
                "         last failed call: login of agent 291 at 2026-01-01T00:00:00Z to main https://gw.example/x: HTTP status 404",
            ]
        );
        assert_eq!(gateway(0, 2), ["gateway  main: 2 active; 120 s to the first sign-out"]);
    }

    #[test]
    fn what_a_reload_has_done_to_each_roster_is_said_with_its_file() {
        let roster = |put: u32, removed: u32, held: u32, mistakes: u32, being_written: bool| {
            serde_json::json!({ "file": "/r.csv", "put": put, "removed": removed, "held": held,
                "mistakes": mistakes, "being_written": being_written })
        };
        assert_eq!(
            of_roster(&roster(1, 2, 0, 0, false)),
            ["in force: roster /r.csv: 1 agents put in, 2 taken out"]
        );
        let held = roster(0, 0, 8, 0, false);
        assert!(of_roster(&held)[0].starts_with("kept: roster /r.csv: 8 agents") && is_stale(&held));
        assert!(is_stale(&roster(0, 0, 0, 3, false)) && is_stale(&roster(0, 0, 0, 0, true)));
        assert!(!is_stale(&roster(1, 2, 0, 0, false)));
        assert_eq!(of_roster(&roster(0, 0, 0, 3, true)).len(), 2);
    }

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        for (secs, words) in
            [(0.0, "0 s"), (119.0, "119 s"), (180.0, "3 min"), (9000.0, "2.5 h"), (259_200.0, "3.0 days")]
        {
            assert_eq!(in_words(secs), words);
        }
    }
}
