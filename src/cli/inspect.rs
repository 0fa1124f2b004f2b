//! `ccrelay spool`: look into a spool, also while the daemon runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::config;
use crate::spool::inspect::Inspector;
use crate::spool::{self, ReadRecord, Record};

/// Which spool.
#[derive(Debug, Args)]
pub(super) struct SpoolPlace {
    /// The spool's folder; without it the one that the configuration names.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, short, default_value = "config.toml", env = "CCRELAY_CONFIG_FILE")]
    config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to do with a spool.
#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Show what it holds and how far each sink has got.
    Stat(SpoolPlace),
    /// Check every record's checksum and the database itself; exit 1 when anything is damaged.
    Verify(SpoolPlace),
    /// Print records that not every sink has confirmed, one JSON object a line.
    Dump {
        #[command(flatten)]
        place: SpoolPlace,
        /// Of this agent only.
        #[arg(long)]
        agent: Option<String>,
        /// Received at or after this time, such as 2026-11-24T03:00:00Z.
        #[arg(long)]
        since: Option<Timestamp>,
        /// At most so many.
        #[arg(long)]
        limit: Option<usize>,
    },
}

impl SpoolPlace {
    pub(super) fn directory(&self) -> anyhow::Result<PathBuf> {
        match &self.directory {
            Some(directory) => Ok(directory.clone()),
            None => Ok(config::load(&self.config)?.spool.directory),
        }
    }
}

pub(super) fn spool(command: SpoolCommand) -> anyhow::Result<ExitCode> {
    match command {
        SpoolCommand::Stat(place) => stat(&place),
        SpoolCommand::Verify(place) => verify(&place),
        SpoolCommand::Dump { place, agent, since, limit } => dump(&place, agent.as_deref(), since, limit),
    }
}

fn stat(place: &SpoolPlace) -> anyhow::Result<ExitCode> {
    let stat = Inspector::open(&place.directory()?)?.stat()?;
    if place.json {
        println!("{}", serde_json::to_string(&stat)?);
        return Ok(ExitCode::SUCCESS);
    }
    let offset = |offset: Option<u64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    println!("spool         {}", stat.spool_id);
    println!(
        "records       {} (offsets {} to {})",
        stat.records,
        offset(stat.first_offset),
        offset(stat.last_offset)
    );
    println!("on disk       {} bytes", stat.file_bytes);
    println!("dead letters  {}", stat.dead_letters);
    println!("agents        {} known, {} sessions stored", stat.agents, stat.sessions);
    for sink in &stat.sinks {
        println!(
            "sink          {}: next offset {}, {} records behind",
            sink.sink, sink.next_offset, sink.lag_records
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(place: &SpoolPlace) -> anyhow::Result<ExitCode> {
    let inspector = Inspector::open(&place.directory()?)?;
    let (mut good, mut damaged) = (0u64, Vec::new());
    inspector.records(|record| {
        match record {
            ReadRecord::Good(_) => good += 1,
            ReadRecord::Damaged { offset, fault } => {
                damaged.push(json!({ "offset": offset, "fault": fault }))
            }
        }
        true
    })?;
    let pages = inspector.integrity()?;
    let sound = damaged.is_empty() && pages.is_empty();
    if place.json {
        println!(
            "{}",
            json!({ "sound": sound, "goodRecords": good, "damagedRecords": damaged, "database": pages })
        );
    } else {
        println!("{good} good records, {} damaged", damaged.len());
        for line in damaged.iter().map(Value::to_string).chain(pages) {
            println!("damaged: {line}");
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(super::FAILED) })
}

fn dump(
    place: &SpoolPlace,
    agent: Option<&str>,
    since: Option<Timestamp>,
    limit: Option<usize>,
) -> anyhow::Result<ExitCode> {
    let mut left = limit.unwrap_or(usize::MAX);
    let wanted = |record: &Record| {
        agent.is_none_or(|agent| record.agent.agent_id.as_str() == agent)
            && since.is_none_or(|since| record.received_at >= since)
    };
    Inspector::open(&place.directory()?)?.records(|record| {
        match record {
            ReadRecord::Good(record) if wanted(&record) && left > 0 => {
                left -= 1;
                println!("{}", shown(&record));
            }
            ReadRecord::Good(_) => {}
            ReadRecord::Damaged { offset, fault } => {
                println!("{}", json!({ "offset": offset, "damaged": fault }))
            }
        }
        left > 0
    })?;
    Ok(ExitCode::SUCCESS)
}

fn shown(record: &Record) -> Value {
    json!({
        "offset": record.offset,
        "kind": record.kind,
        "receivedAt": record.received_at.to_string(),
        "gateway": record.agent.gateway,
        "agent": record.agent.agent_id,
        "sequence": record.sequence,
        "repeats": record.repeats.len(),
        "body": spool::body_as_json(&record.body),
    })
}
