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
        let sessions = gateway["sessions"].as_object().into_iter().flatten();
        let some = sessions.filter(|(_, count)| number(count) > 0.0);
        let some: Vec<_> = some.map(|(state, count)| format!("{} {state}", number(count))).collect();
        let some = if some.is_empty() { "no agents".to_owned() } else { some.join(", ") };
        let budget = number(&gateway["sign_out_budget_secs"]);
        say!("gateway  {}: {some}; {budget:.0} s to the first sign-out", text(&gateway["gateway"]));
    }
    say!("");
    print_sinks(&status["sinks"]);
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
    fn times_are_said_in_the_unit_that_fits() {
        for (secs, words) in
            [(0.0, "0 s"), (119.0, "119 s"), (180.0, "3 min"), (9000.0, "2.5 h"), (259_200.0, "3.0 days")]
        {
            assert_eq!(in_words(secs), words);
        }
    }
}
