//! `ccrelay spool`: look into a spool, also while the daemon runs; and what needs it stopped: moving a sink back, going on with a
//! backup, and saving what can be read of a damaged spool.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::out::{line, say};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::deliver::Ways;
use crate::spool::inspect::Inspector;
use crate::spool::offline::{From, Offline};
use crate::spool::{self, LetterSight, OpenError, ReadRecord, Record, Unhidden, repair};

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
    /// Print records that not every sink has confirmed, one JSON object a line, as they were received: nothing is hidden.
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
    /// Have records delivered to a sink again, with the ids they have, when the daemon runs next. Not beside a daemon.
    Replay {
        #[command(flatten)]
        place: SpoolPlace,
        /// The sink.
        #[arg(long)]
        sink: String,
        /// The first record: an offset, or a time such as 2026-11-24T03:00:00Z. What is freed cannot be replayed.
        #[arg(long)]
        from: From,
    },
    /// Prepare a spool that was put back from a backup: events that come have ids and sequence numbers then that none had after the
    /// backup. What it holds is delivered on. Not beside a daemon.
    Restored(SpoolPlace),
    /// Save what can be read of a damaged spool in a new database; the damaged one is kept beside it. Not beside a daemon.
    Repair {
        #[command(flatten)]
        place: SpoolPlace,
        /// Do it. Without this it is only said what is lost.
        #[arg(long)]
        accept_loss: bool,
    },
}

impl SpoolPlace {
    /// What may be shown of dead letters: what the configuration says, where it is what names the spool. Whoever names the
    /// spool's own folder sees what is in it.
    pub(super) fn sight(&self) -> anyhow::Result<Box<dyn LetterSight>> {
        match &self.directory {
            Some(_) => Ok(Box::new(Unhidden)),
            None => Ok(Box::new(Ways::of(&config::load(&self.config)?.sinks))),
        }
    }

    /// The sinks that are configured, where the configuration is what names the spool.
    pub(super) fn sinks(&self) -> anyhow::Result<Option<Vec<String>>> {
        match &self.directory {
            Some(_) => Ok(None),
            None => Ok(Some(config::load(&self.config)?.sinks.into_iter().map(|sink| sink.name).collect())),
        }
    }

    pub(super) fn directory(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        let config = config::load(&self.config)?;
        let directory = config.spool.directory;
        if !directory.exists() && config.relative_paths.iter().any(|key| key == "spool.directory") {
            bail!(
                "there is no spool at {}: spool.directory of {} is a relative path, and the daemon may have been started in \
                 another folder than this; name the spool with --directory",
                directory.display(),
                self.config.display()
            );
        }
        Ok(directory)
    }
}

pub(super) fn spool(command: SpoolCommand) -> anyhow::Result<ExitCode> {
    match command {
        SpoolCommand::Stat(place) => stat(&place),
        SpoolCommand::Verify(place) => verify(&place),
        SpoolCommand::Dump { place, agent, since, limit } => dump(&place, agent.as_deref(), since, limit),
        SpoolCommand::Replay { place, sink, from } => replay(&place, &sink, from),
        SpoolCommand::Restored(place) => restored(&place),
        SpoolCommand::Repair { place, accept_loss } => repair(&place, accept_loss),
    }
}

/// Opens the spool for changes.
pub(super) fn offline(place: &SpoolPlace, instead: &str) -> anyhow::Result<Offline> {
    Offline::open(&place.directory()?).map_err(|error| {
        let running = matches!(error, OpenError::InUse { .. });
        let error = anyhow::Error::from(error);
        if running { error.context(format!("a running daemon has this spool: {instead}")) } else { error }
    })
}

fn replay(place: &SpoolPlace, sink: &str, from: From) -> anyhow::Result<ExitCode> {
    let records = offline(place, "stop it first")?.rewind(sink, from)?;
    if place.json {
        say!("{}", json!({ "sink": sink, "records": records }));
        return Ok(ExitCode::SUCCESS);
    }
    say!("{records} records will be delivered to {sink} again when the daemon runs");
    Ok(ExitCode::SUCCESS)
}

fn restored(place: &SpoolPlace) -> anyhow::Result<ExitCode> {
    let next = offline(place, "stop it first")?.go_on_as_restored(Clock::system().now())?;
    if place.json {
        say!("{}", json!({ "nextOffset": next }));
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "the next record has the offset {next}, and the sequence numbers of agents go on as far behind: beyond what a relay can have \
         given out by this machine's clock"
    );
    Ok(ExitCode::SUCCESS)
}

fn repair(place: &SpoolPlace, accept_loss: bool) -> anyhow::Result<ExitCode> {
    let directory = place.directory()?;
    let examined = repair::examine(&directory)?;
    if place.json {
        return repair_for_programs(&directory, &examined, accept_loss);
    }
    if examined.findings.0.is_empty() {
        say!("nothing is damaged: {} good records", examined.good_records);
        return Ok(ExitCode::SUCCESS);
    }
    say!("{} good records can be saved. Damaged:{}", examined.good_records, examined.findings);
    if !accept_loss {
        say!("nothing was changed; with --accept-loss the rest is saved in a new database");
        return Ok(ExitCode::from(super::FAILED));
    }
    let repaired = repair::repair(&directory, Clock::system().now())?;
    for (table, rows) in &repaired.saved {
        let torn = if repaired.torn.contains(table) { ", others cannot be read" } else { "" };
        say!("saved    {rows} of {table}{torn}");
    }
    for file in &repaired.kept {
        say!("kept     {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The same in one object: what can be saved and what is damaged, and what was saved and kept where it was to be done.
fn repair_for_programs(
    directory: &Path,
    examined: &repair::Examination,
    accept_loss: bool,
) -> anyhow::Result<ExitCode> {
    let findings: Vec<_> = examined.findings.0.iter().map(ToString::to_string).collect();
    let (sound, good) = (findings.is_empty(), examined.good_records);
    let repaired =
        if sound || !accept_loss { None } else { Some(repair::repair(directory, Clock::system().now())?) };
    let saved = repaired.iter().flat_map(|repaired| &repaired.saved);
    let saved: serde_json::Map<_, _> =
        saved.map(|(table, rows)| ((*table).to_string(), json!(rows))).collect();
    let torn: Vec<_> = repaired.iter().flat_map(|repaired| &repaired.torn).collect();
    let kept: Vec<_> =
        repaired.iter().flat_map(|one| &one.kept).map(|file| file.display().to_string()).collect();
    say!(
        "{}",
        json!({ "sound": sound, "goodRecords": good, "findings": findings, "repaired": repaired.is_some(), "saved": saved,
            "torn": torn, "kept": kept })
    );
    Ok(if sound || repaired.is_some() { ExitCode::SUCCESS } else { ExitCode::from(super::FAILED) })
}

fn stat(place: &SpoolPlace) -> anyhow::Result<ExitCode> {
    let stat = Inspector::open(&place.directory()?)?.stat()?;
    if place.json {
        say!("{}", serde_json::to_string(&stat)?);
        return Ok(ExitCode::SUCCESS);
    }
    let offset = |offset: Option<u64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    say!("spool         {}", stat.spool_id);
    say!(
        "records       {} (offsets {} to {})",
        stat.records,
        offset(stat.first_offset),
        offset(stat.last_offset)
    );
    say!("on disk       {} bytes", stat.file_bytes);
    say!("dead letters  {}", stat.dead_letters);
    say!("agents        {} known, {} sessions stored", stat.agents, stat.sessions);
    for sink in &stat.sinks {
        say!(
            "sink          {}: next offset {}, {} records behind",
            sink.sink,
            sink.next_offset,
            sink.lag_records
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(place: &SpoolPlace) -> anyhow::Result<ExitCode> {
    let examined = repair::examine(&place.directory()?)?;
    let findings = &examined.findings.0;
    let sound = findings.is_empty();
    if place.json {
        let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
        say!("{}", json!({ "sound": sound, "goodRecords": examined.good_records, "findings": findings }));
    } else {
        say!("{} good records", examined.good_records);
        for damage in findings {
            say!("damaged: {damage}");
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
                if !line(format_args!("{}", shown(&record))) {
                    left = 0;
                }
            }
            ReadRecord::Good(_) => {}
            ReadRecord::Damaged { offset, fault } => {
                say!("{}", json!({ "offset": offset, "damaged": fault }))
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
