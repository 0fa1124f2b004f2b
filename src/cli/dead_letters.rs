//! `ccrelay deadletters`: events that were set aside. Looking is safe beside a running daemon; changes need the spool for
//! themselves, because the daemon's admin API makes them while it runs.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::inspect::{SpoolPlace, offline};
use super::out::say;
use crate::clock::Timestamp;
use crate::deliver::misnamed;
use crate::spool::inspect::Inspector;
use crate::spool::offline::Offline;
use crate::spool::{LetterFilter, StoredLetter};

/// Letters read at a time.
const PAGE: usize = 256;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List the events that were set aside, oldest first.
    List {
        #[command(flatten)]
        place: SpoolPlace,
        #[command(flatten)]
        which: Which,
        /// Those with a greater id than this, to read on.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show one with its record as received and its event as it would be sent. What is hidden from the sink is left out, unless
    /// --directory names the spool.
    Show {
        #[command(flatten)]
        place: SpoolPlace,
        /// Its id.
        id: u64,
    },
    /// Have them delivered again, with the ids they have, when the daemon runs next.
    Replay(Change),
    /// Give them up for good.
    Discard(Change),
    /// Write them as JSON lines, each with its event as a structured CloudEvent. What is hidden from the sink is left out, unless
    /// --directory names the spool.
    Export {
        #[command(flatten)]
        place: SpoolPlace,
        #[command(flatten)]
        which: Which,
        /// A new file, readable by its owner only; standard output when left out.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

/// Which letters.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Of this sink only.
    #[arg(long)]
    sink: Option<String>,
    /// Set aside for this reason only.
    #[arg(long)]
    reason: Option<String>,
    /// Set aside at or after this time, such as 2026-11-24T03:00:00Z.
    #[arg(long)]
    since: Option<Timestamp>,
}

/// A change of letters.
#[derive(Debug, Args)]
pub(super) struct Change {
    #[command(flatten)]
    place: SpoolPlace,
    #[command(flatten)]
    which: Which,
    /// Their ids.
    ids: Vec<u64>,
    /// All there are.
    #[arg(long, conflicts_with_all = ["ids", "sink", "reason", "since"])]
    all: bool,
}

impl Which {
    fn filter(self, ids: Vec<u64>) -> LetterFilter {
        LetterFilter { ids, sink: self.sink, reason: self.reason, since: self.since }
    }
}

pub(super) fn run(command: DeadLettersCommand) -> anyhow::Result<ExitCode> {
    match command {
        DeadLettersCommand::List { place, which, after, limit } => {
            list(&place, &which.filter(Vec::new()), after, limit.unwrap_or(usize::MAX))?;
        }
        DeadLettersCommand::Show { place, id } => show(&place, id)?,
        DeadLettersCommand::Replay(change) => {
            let json = change.place.json;
            let configured = change.place.sinks()?;
            let (offline, which) = opened(change)?;
            // Without a configuration nobody knows which of them still runs.
            let sinks = configured.map_or_else(|| offline.sinks(), Ok)?;
            let count = offline.replay_letters(&which, &sinks)?;
            let stranded = offline.stranded_letters(&which, &sinks)?;
            if json {
                say!("{}", json!({ "replaying": count, "stranded": stranded }));
                return Ok(ExitCode::SUCCESS);
            }
            say!("{count} dead letters will be delivered again when the daemon runs");
            if stranded > 0 {
                say!(
                    "{stranded} more are of sinks that are not configured any more: they stay until a sink has that name again, or discard gives them up"
                );
            }
        }
        DeadLettersCommand::Discard(change) => {
            let json = change.place.json;
            let (offline, which) = opened(change)?;
            let count = offline.discard_letters(&which)?;
            if json {
                say!("{}", json!({ "discarded": count }));
            } else {
                say!("{count} dead letters discarded");
            }
        }
        DeadLettersCommand::Export { place, which, output } => {
            export(&place, &which.filter(Vec::new()), output.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The spool, for a change of letters that were named in some way.
fn opened(change: Change) -> anyhow::Result<(Offline, LetterFilter)> {
    let all = change.all;
    let which = change.which.filter(change.ids);
    if which == LetterFilter::default() && !all {
        bail!("say which: ids, --sink, --reason, --since or --all");
    }
    let offline = offline(&change.place, "use its admin API (/api/v1/dead-letters)")?;
    looked_up(&change.place, &which)?;
    Ok((offline, which))
}

/// The spool to look into, where the filter names what there is.
fn looked_up(place: &SpoolPlace, filter: &LetterFilter) -> anyhow::Result<Inspector> {
    let inspector = Inspector::open(&place.directory()?)?;
    if let Some(why) = misnamed(filter, &inspector.known_names()?) {
        bail!(why);
    }
    Ok(inspector)
}

/// Every letter that the filter lets through, a page at a time.
fn each(
    inspector: &Inspector,
    filter: &LetterFilter,
    mut after: u64,
    mut left: usize,
    mut look: impl FnMut(StoredLetter) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while left > 0 {
        let page = inspector.letters(filter, after, PAGE.min(left))?;
        let Some(last) = page.last() else { break };
        (after, left) = (last.id, left - page.len());
        page.into_iter().try_for_each(&mut look)?;
    }
    Ok(())
}

fn list(place: &SpoolPlace, filter: &LetterFilter, after: u64, limit: usize) -> anyhow::Result<()> {
    let mut none = true;
    each(&looked_up(place, filter)?, filter, after, limit, |stored| {
        none = false;
        if place.json {
            say!("{}", serde_json::to_string(&stored)?);
            return Ok(());
        }
        let letter = &stored.letter;
        let event = if letter.event_id.is_empty() { "(whole record)" } else { &letter.event_id };
        let replaying = if stored.replaying { "  to be delivered again" } else { "" };
        say!(
            "{}  {}  {}  {event}  {}  {}: {}  attempts {}{replaying}",
            stored.id,
            letter.at,
            letter.sink,
            letter.topic,
            letter.reason,
            letter.detail,
            letter.attempts
        );
        Ok(())
    })?;
    if none && !place.json {
        say!("no dead letters");
    }
    Ok(())
}

fn show(place: &SpoolPlace, id: u64) -> anyhow::Result<()> {
    let inspector = Inspector::open(&place.directory()?)?;
    let letter = inspector.letter(id)?.with_context(|| format!("there is no dead letter {id}"))?;
    let shown = letter.shown(&inspector.spool_id()?, &*place.sight()?);
    let text =
        if place.json { serde_json::to_string(&shown)? } else { serde_json::to_string_pretty(&shown)? };
    say!("{text}");
    Ok(())
}

fn export(place: &SpoolPlace, filter: &LetterFilter, output: Option<&Path>) -> anyhow::Result<()> {
    let inspector = looked_up(place, filter)?;
    let (spool_id, sight) = (inspector.spool_id()?, place.sight()?);
    let mut out: Box<dyn Write> = match output {
        None => Box::new(BufWriter::new(std::io::stdout().lock())),
        Some(path) => Box::new(BufWriter::new(new_file(path)?)),
    };
    let written = each(&inspector, filter, 0, usize::MAX, |stored| {
        // It may have been delivered or discarded since the page was read.
        let Some(letter) = inspector.letter(stored.id)? else { return Ok(()) };
        for line in letter.exported(&spool_id, &*sight) {
            out.write_all(&serde_json::to_vec(&line)?)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    });
    match written.and_then(|()| out.flush().context("cannot write the export")) {
        // Whoever reads it has read enough.
        Err(error) if output.is_none() && is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// What it will hold is callers' data.
fn new_file(path: &Path) -> anyhow::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot make {}", path.display()))
}
