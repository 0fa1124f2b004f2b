//! `ccrelay agents`: looks at agents and changes their sessions through the admin API of a running daemon.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::api::{ApiPlace, Caller};
use super::out::say;

/// How long a change may take that is shown, and how often is looked.
const LOOK_FOR: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Agents asked for at a time.
const PAGE: usize = 1000;

/// What to do with agents.
#[derive(Debug, Subcommand)]
pub(super) enum AgentsCommand {
    /// List agents with the states of their sessions.
    List {
        #[command(flatten)]
        api: ApiPlace,
        /// Of this gateway only.
        #[arg(long)]
        gateway: Option<String>,
        /// In this state only, such as active or suspended.
        #[arg(long)]
        state: Option<String>,
        /// With this reason only, also where a session is degraded for others too.
        #[arg(long)]
        reason: Option<String>,
        /// With this part in the id.
        #[arg(long)]
        search: Option<String>,
        /// What comes first: id, or budget for those with the least time left.
        #[arg(long, value_parser = ["id", "budget"])]
        order: Option<String>,
    },
    /// Show one agent.
    Show(Agent),
    /// Sign an agent in that is signed out or suspended.
    SignIn(Agent),
    /// Sign an agent out until somebody signs it in.
    SignOut(Agent),
    /// Sign an agent in and force out whoever is signed in in its place.
    TakeOver(Agent),
}

/// One agent.
#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    api: ApiPlace,
    /// Name of the gateway.
    gateway: String,
    /// The agent's id.
    agent: String,
}

pub(super) fn run(command: AgentsCommand) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        match command {
            AgentsCommand::List { api, gateway, state, reason, search, order } => {
                let filter = [("gateway", gateway), ("state", state), ("reason", reason)];
                let rest = [("search", search), ("order", order)];
                list(&api, filter.into_iter().chain(rest).collect()).await?;
            }
            AgentsCommand::Show(agent) => {
                let found = Caller::new(&agent.api)?.call(Method::GET, &path(&agent)?).await?;
                show(&agent.api, &found);
            }
            AgentsCommand::SignIn(agent) => change(&agent, "sign-in").await?,
            AgentsCommand::SignOut(agent) => change(&agent, "sign-out").await?,
            AgentsCommand::TakeOver(agent) => change(&agent, "take-over").await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn list(api: &ApiPlace, filter: Vec<(&str, Option<String>)>) -> anyhow::Result<()> {
    let caller = Caller::new(api)?;
    let mut after: Option<String> = None;
    if !api.json {
        heading();
    }
    loop {
        let mut query = url::form_urlencoded::Serializer::new(format!("limit={PAGE}"));
        let given = filter.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        query.extend_pairs(given.chain(after.as_deref().map(|after| ("after", after))));
        let page = caller.call(Method::GET, &format!("agents?{}", query.finish())).await?;
        for agent in page["agents"].as_array().into_iter().flatten() {
            print(api, agent);
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

/// Asks for a change, and shows what has come of it a moment later. It is made by the agent's own task, which may have to wait for the
/// gateway.
async fn change(agent: &Agent, action: &str) -> anyhow::Result<()> {
    let (caller, path) = (Caller::new(&agent.api)?, path(agent)?);
    let mut found = caller.call(Method::POST, &format!("{path}/{action}")).await?;
    let asked = found.clone();
    let looks = async {
        while !has_changed(&asked, &found) {
            tokio::time::sleep(LOOK_EVERY).await;
            // Where it is gone, or the daemon, there is nothing more to see.
            let Ok(seen) = caller.call(Method::GET, &path).await else { return };
            found = seen;
        }
    };
    // Over or not, it is time to say something.
    drop(tokio::time::timeout(LOOK_FOR, looks).await);
    show(&agent.api, &found);
    if !has_changed(&asked, &found) {
        eprintln!(
            "ccrelay: {action} is asked for, and nothing has come of it yet: look again with `ccrelay agents show`"
        );
    }
    Ok(())
}

/// Whether the session is in another state, or in the same again.
fn has_changed(before: &Value, now: &Value) -> bool {
    ["state", "since", "reason"].iter().any(|name| before[*name] != now[*name])
}

fn path(agent: &Agent) -> anyhow::Result<String> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain(&agent.gateway) || !plain(&agent.agent) {
        bail!("gateway and agent are names of letters, digits and -");
    }
    Ok(format!("agents/{}/{}", agent.gateway, agent.agent))
}

fn show(api: &ApiPlace, agent: &Value) {
    if !api.json {
        heading();
    }
    print(api, agent);
}

fn print(api: &ApiPlace, agent: &Value) {
    if api.json {
        say!("{agent}");
        return;
    }
    let text = |name: &str| agent[name].as_str().unwrap_or("-");
    let budget = agent["sign_out_budget_secs"].as_f64().map_or("-".to_owned(), |secs| format!("{secs:.0} s"));
    let last = agent["last_event"].as_str().map_or("-", |name| name.strip_prefix("ccrelay.").unwrap_or(name));
    let reason = reasons(agent);
    let shown = [text("gateway"), text("id"), text("state"), &budget, text("since"), last, &reason];
    row(&[&shown[..], &[text("retcode"), text("origin")]].concat());
}

/// Everything that is wrong with it, the newest first.
fn reasons(agent: &Value) -> String {
    let newest = agent["reason"].as_str();
    let degraded = agent["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let all: Vec<_> = newest.into_iter().chain(degraded.filter(|one| Some(*one) != newest)).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

fn heading() {
    row(&["gateway", "agent", "state", "time left", "since", "last event", "reason", "retcode", "origin"]);
}

/// One line of the table. What is wider than its column moves the rest of its line.
fn row(cells: &[&str]) {
    const WIDTHS: [usize; 8] = [10, 8, 11, 9, 24, 22, 18, 8];
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate() {
        let width = WIDTHS.get(at).copied().unwrap_or(0);
        line.push_str(&format!("{cell:<width$}  "));
    }
    say!("{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_seen_by_state_reason_and_time() {
        let agent = |state: &str, since: &str| json!({ "state": state, "since": since, "reason": null });
        let before = agent("active", "t1");
        assert!(!has_changed(&before, &before));
        assert!(
            has_changed(&before, &agent("signing_out", "t1")) && has_changed(&before, &agent("active", "t2"))
        );
    }

    #[test]
    fn an_agent_is_shown_with_everything_that_is_wrong_with_it() {
        for (reason, degraded, shown) in [
            (json!(null), json!([]), "-"),
            (json!("shut_down"), json!([]), "shut_down"),
            (json!(null), json!(["no_pushes"]), "no_pushes"),
            (json!("no_pushes"), json!(["heartbeats_failing", "no_pushes"]), "no_pushes,heartbeats_failing"),
        ] {
            assert_eq!(reasons(&json!({ "reason": reason, "degraded": degraded })), shown);
        }
    }
}
