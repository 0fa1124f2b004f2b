//! `ccrelay agents`: looks at agents and changes their sessions through the admin API of a running daemon.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::api::{ApiPlace, Caller};

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
        /// With this reason only.
        #[arg(long)]
        reason: Option<String>,
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
            AgentsCommand::List { api, gateway, state, reason } => {
                list(&api, [("gateway", gateway), ("state", state), ("reason", reason)]).await?;
            }
            AgentsCommand::Show(agent) => one(&agent, Method::GET, "").await?,
            AgentsCommand::SignIn(agent) => one(&agent, Method::POST, "/sign-in").await?,
            AgentsCommand::SignOut(agent) => one(&agent, Method::POST, "/sign-out").await?,
            AgentsCommand::TakeOver(agent) => one(&agent, Method::POST, "/take-over").await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn list(api: &ApiPlace, filter: [(&str, Option<String>); 3]) -> anyhow::Result<()> {
    let caller = Caller::new(api)?;
    let mut after: Option<String> = None;
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

async fn one(agent: &Agent, method: Method, action: &str) -> anyhow::Result<()> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain(&agent.gateway) || !plain(&agent.agent) {
        bail!("gateway and agent are names of letters, digits and -");
    }
    let path = format!("agents/{}/{}{action}", agent.gateway, agent.agent);
    let found = Caller::new(&agent.api)?.call(method, &path).await?;
    print(&agent.api, &found);
    Ok(())
}

fn print(api: &ApiPlace, agent: &Value) {
    if api.json {
        println!("{agent}");
        return;
    }
    let text = |name: &str| agent[name].as_str().unwrap_or("-");
    let budget = agent["sign_out_budget_secs"].as_f64().map_or("-".to_owned(), |secs| format!("{secs:.0} s"));
    println!(
        "{}  {}  {}  since {}  {}  retcode {}  budget {budget}  {}",
        text("gateway"),
        text("id"),
        text("state"),
        text("since"),
        text("reason"),
        text("retcode"),
        text("origin")
    );
}
