//! `ccrelay status`, `ccrelay sinks` and `ccrelay reload`: what a running daemon is doing, and the wish that it read its
//! files anew.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use serde_json::Value;

use super::api::{ApiPlace, Caller};
use super::out::say;

/// What `status` and `sinks` end with when somebody should look.
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

/// Has the daemon read its files anew.
pub(super) fn reload(api: &ApiPlace) -> anyhow::Result<ExitCode> {
    let answer = get(api, Method::POST, "reload")?;
    if api.json {
        say!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let list = |name: &str| -> Vec<String> {
        let items = answer[name].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (changed, needs_restart) = (list("changed"), list("needs_restart"));
    if changed.is_empty() {
        say!("nothing has changed");
    }
    changed.iter().for_each(|what| say!("in force: {what}"));
    needs_restart.iter().for_each(|key| say!("needs a restart: {key}"));
    Ok(ExitCode::SUCCESS)
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
    fn times_are_said_in_the_unit_that_fits() {
        for (secs, words) in
            [(0.0, "0 s"), (119.0, "119 s"), (180.0, "3 min"), (9000.0, "2.5 h"), (259_200.0, "3.0 days")]
        {
            assert_eq!(in_words(secs), words);
        }
    }
}
