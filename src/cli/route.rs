//! `ccrelay route test`: where an event would go by a configuration, and why. Nothing is sent.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use super::out::say;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::event::normalise::{RecordKind, RecordView, normalise};
use crate::event::state::AgentSnapshot;
use crate::event::{AgentId, GatewayName, envelope};
use crate::route::Facts;
use crate::route::explain::Explanation;

/// Some event goes to no sink.
const NOWHERE: u8 = 2;
/// `EX_DATAERR` of sysexits.h: what was given is no event.
const NO_EVENT: u8 = 65;
/// The name of standard input.
const STDIN: &str = "-";

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub(super) enum RouteCommand {
    /// Show for each sink where events would go, and why. Exit code 0: each goes somewhere, 2: one goes nowhere, 65: the file
    /// is neither a push nor an event, 78: the configuration is wrong.
    Test {
        /// A push body as the gateway sends it, or an event as ccrelay publishes it (structured mode); - for standard input.
        file: PathBuf,
        /// The configuration file.
        #[arg(long, short, default_value = "config.toml", env = "CCRELAY_CONFIG_FILE")]
        config: PathBuf,
        /// The gateway that a push is from; needed where several are configured.
        #[arg(long)]
        gateway: Option<String>,
        /// Print JSON, one object for each event.
        #[arg(long)]
        json: bool,
    },
}

/// Where one event goes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    event_type: String,
    category: String,
    gateway: String,
    agent_id: String,
    sinks: Vec<Explanation>,
}

pub(super) fn run(command: RouteCommand) -> anyhow::Result<ExitCode> {
    let RouteCommand::Test { file, config, gateway, json } = command;
    let config = config::load(&config)?;
    let reports = match read(&file).and_then(|bytes| explain(&config, &bytes, gateway.as_deref())) {
        Ok(reports) => reports,
        Err(fault) => {
            eprintln!("ccrelay: {}: {fault}", file.display());
            return Ok(ExitCode::from(NO_EVENT));
        }
    };
    for report in &reports {
        if json {
            say!("{}", serde_json::to_string(report)?);
        } else {
            say!("{}", report.in_words().trim_end());
        }
    }
    let nowhere = |report: &Report| report.sinks.iter().all(|sink| sink.topic.is_none());
    Ok(if reports.iter().any(nowhere) { ExitCode::from(NOWHERE) } else { ExitCode::SUCCESS })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new(STDIN) {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|read| bytes = read)
    };
    read.map(|()| bytes).map_err(|error| error.to_string())
}

/// Takes either kind of text apart and explains each event.
fn explain(config: &Config, bytes: &[u8], gateway: Option<&str>) -> Result<Vec<Report>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    if value.get("specversion").is_some() {
        let facts = Facts::of_cloud_event(&value).ok_or("a CloudEvent, but none of ccrelay's")?;
        return Ok(vec![Report::of(config, &facts)]);
    }
    let gateway = gateway_of(config, gateway)?;
    let work_no = envelope::parse(bytes).map_err(|error| error.to_string())?.work_no;
    let work_no = work_no.ok_or("no workNo")?;
    let agent_id = AgentId::parse(&work_no).map_err(|error| format!("workNo: {error}"))?;
    let record = RecordView {
        spool_id: "test",
        offset: 1,
        kind: RecordKind::Push,
        received_at: Clock::system().now(),
        gateway: &gateway,
        agent_id: &agent_id,
        sequence: 1,
        repeats: &[],
        before: &AgentSnapshot::default(),
        body: bytes,
    };
    let events = normalise(&record).map_err(|error| error.to_string())?;
    if events.is_empty() {
        return Err("there is no event in it".to_owned());
    }
    Ok(events.iter().map(|event| Report::of(config, &Facts::of(event))).collect())
}

fn gateway_of(config: &Config, wanted: Option<&str>) -> Result<GatewayName, String> {
    let known: Vec<&GatewayName> = config.sessions.gateways.iter().map(|gateway| &gateway.name).collect();
    let list = || known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, &known[..]) {
        (None, [only]) => Ok((*only).clone()),
        (None, _) => Err(format!("say which gateway the push is from with --gateway: {}", list())),
        (Some(name), _) => {
            let found = known.iter().find(|known| known.as_str() == name);
            found
                .map(|name| (*name).clone())
                .ok_or_else(|| format!("there is no gateway {name:?}; there are: {}", list()))
        }
    }
}

impl Report {
    fn of(config: &Config, facts: &Facts<'_>) -> Report {
        Report {
            event_type: facts.event_type.to_owned(),
            category: facts.category.to_owned(),
            gateway: facts.gateway.to_owned(),
            agent_id: facts.agent.to_owned(),
            sinks: config.sinks.iter().map(|sink| sink.router.explain(&sink.name, facts)).collect(),
        }
    }

    fn in_words(&self) -> String {
        let mut text = format!(
            "{} ({}) of agent {} at {}\n",
            self.event_type, self.category, self.agent_id, self.gateway
        );
        if self.sinks.is_empty() {
            text.push_str("  no sinks are configured\n");
        }
        for sink in &self.sinks {
            let by = sink
                .rule
                .as_ref()
                .map_or_else(|| "no route decides".to_owned(), |rule| format!("route {rule}"));
            match &sink.topic {
                Some(topic) => text.push_str(&format!("  {}: {topic} ({by})\n", sink.sink)),
                None => text.push_str(&format!("  {}: nowhere ({by})\n", sink.sink)),
            }
            if !sink.mask.is_empty() {
                text.push_str(&format!("    hidden: {}\n", sink.mask.join(", ")));
            }
            if sink.raw_withheld {
                text.push_str("    left out: raw.content, raw.event\n");
            }
            for tried in &sink.tried {
                for miss in &tried.misses {
                    let found =
                        if miss.found.is_empty() { "nothing".to_owned() } else { miss.found.join(", ") };
                    text.push_str(&format!(
                        "    not route {}: {} is {found}, not {}\n",
                        tried.rule,
                        miss.key,
                        miss.expected.join(" or ")
                    ));
                }
            }
        }
        text
    }
}
