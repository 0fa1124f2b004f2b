//! Roster files: agents that stand apart from the configuration and may change while the daemon runs.
//!
//! Invariants:
//! - An agent stands in one place: in `[[agents]]` or in one line of one roster.
//! - A file that has a mistake anywhere is not used at all; what was read from it before stays in force.
//! - Nobody is signed out because a file was cut short: an empty one is refused unless that is allowed, and one that
//!   has lost more than half of its agents at once loses them only when a person confirms it, by an act that says nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::config::Problems;
use crate::session::config::{AgentConfig, AgentDefaults, RawAgent};
use crate::stamp::Stamp;

mod csv;
mod diff;
mod tables;
mod watch;
mod wish;

#[cfg(test)]
mod tests;

pub use diff::{AgentKey, Changes, diff};
pub use watch::{apply, watch};
pub use wish::{Desk, Stale, Standing, Wish};

use diff::key;

/// A hundred thousand agents take ten megabytes.
const FILE_BYTES: u64 = 256 << 20;
/// Rosters smaller than this are read by people, who see whom they remove.
const SMALL_ROSTER: usize = 10;

/// `[[rosters]]` as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRoster {
    /// CSV or TOML, by its ending.
    pub file: PathBuf,
    /// The gateway of agents that name none.
    pub gateway: Option<String>,
    /// The file may be without any agent.
    #[serde(default)]
    pub allow_empty: bool,
    /// Keys of `[[agents]]` for all agents of the file that leave them out.
    #[serde(default)]
    pub defaults: AgentDefaults,
}

/// All rosters, and what was read from them.
#[derive(Debug, Clone, Default)]
pub struct Rosters {
    files: Vec<RosterFile>,
    /// The gateways by their names as written, with the defaults of their agents.
    gateways: HashMap<String, AgentDefaults>,
    /// Agents of the configuration itself. Where one stands in a file too, this is what counts.
    inline: Inline,
    /// Files that are not in force as they are, for who looks.
    stale: Stale,
}

/// Agents that stand in `[[agents]]` of the configuration.
pub type Inline = Arc<[Arc<AgentConfig>]>;

#[derive(Debug, Clone)]
struct RosterFile {
    raw: RawRoster,
    /// What is in force.
    agents: Vec<Entry>,
    /// What the file looked like when it was read last.
    stamp: Option<Stamp>,
    watched: watch::Watched,
}

/// An agent and the line it comes from.
#[derive(Debug, Clone)]
struct Entry {
    agent: Arc<AgentConfig>,
    line: usize,
}

/// One agent as read, before it is checked.
#[derive(Debug)]
struct Row {
    line: usize,
    raw: RawAgent,
    /// Keys whose values could not be read, and what was expected.
    wrong: Vec<(String, String)>,
}

/// What is wrong with a file, and where. Never holds a value of the file, which may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, unless it concerns the whole file.
    pub line: Option<usize>,
    /// The column of a CSV file, the key of a TOML file.
    pub column: Option<String>,
    /// What is wrong and what is expected.
    pub message: String,
}

/// What came of reading some of the files.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What is to be done for it.
    pub changes: Changes,
    /// Files (by their place in the configuration) that are not used as they are now.
    pub refused: Vec<(usize, Vec<Mistake>)>,
    /// Files that lost so many agents that these are kept until a person confirms it, and how many.
    pub held: Vec<(usize, usize)>,
    /// Files by which agents were added or changed, and how many.
    pub put: Vec<(usize, usize)>,
    /// Files by which agents stand nowhere any more, and how many.
    pub removed: Vec<(usize, usize)>,
}

impl Rosters {
    /// Rosters of which nothing has been read yet.
    #[must_use]
    pub fn new(
        rosters: Vec<RawRoster>,
        gateways: HashMap<String, AgentDefaults>,
        inline: &[Arc<AgentConfig>],
    ) -> Rosters {
        let file =
            |raw| RosterFile { raw, agents: Vec::new(), stamp: None, watched: watch::Watched::default() };
        let files = rosters.into_iter().map(file).collect();
        Rosters { files, gateways, inline: inline.into(), stale: Stale::default() }
    }

    /// Reads all files for the first time and notes every mistake.
    pub fn read_first(&mut self, problems: &mut Problems) {
        let sound: Vec<usize> = (0..self.files.len()).filter(|index| self.check(*index, problems)).collect();
        for (index, mistakes) in self.load(&sound, true).refused {
            let path = self.files[index].raw.file.display();
            for mistake in mistakes {
                problems.add(format!("rosters[{index}].file"), format!("{path}: {mistake}"));
            }
        }
    }

    /// Checks how a roster is configured; false when it cannot be read for that reason.
    fn check(&self, index: usize, problems: &mut Problems) -> bool {
        let (raw, key) = (&self.files[index].raw, format!("rosters[{index}]"));
        let (file_key, gateway_key) = (format!("{key}.file"), format!("{key}.gateway"));
        let before = problems.found().len();
        if Format::of(&raw.file).is_none() {
            problems.add(&file_key, "must end in .csv or .toml");
        }
        if (0..index).any(|other| self.files[other].raw.file == raw.file) {
            problems.add(&file_key, "two rosters name this file");
        }
        if raw.gateway.as_ref().is_some_and(|name| !self.gateways.contains_key(name)) {
            problems.add(&gateway_key, "no gateway has this name");
        }
        before == problems.found().len() && !problems.suspect(&key) && !problems.suspect("gateways")
    }

    /// All agents of all files.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<AgentConfig>> {
        self.files.iter().flat_map(|file| file.agents.iter().map(|entry| &entry.agent))
    }

    /// How many of these agents stand in no file.
    #[must_use]
    pub fn strangers(&self, agents: &[AgentKey]) -> usize {
        if agents.is_empty() {
            return 0;
        }
        let here: HashSet<AgentKey> = self.agents().map(|agent| key(agent)).collect();
        agents.iter().filter(|agent| !here.contains(*agent)).count()
    }

    /// Files that are not in force as they are, at whatever time that is asked.
    #[must_use]
    pub fn stale(&self) -> Stale {
        self.stale.clone()
    }

    /// Agents of the configuration itself.
    #[must_use]
    pub fn inline(&self) -> Inline {
        self.inline.clone()
    }

    /// Each agent that is in force, once.
    fn in_force(&self) -> Vec<Arc<AgentConfig>> {
        let inline: HashSet<AgentKey> = self.inline.iter().map(|agent| key(agent)).collect();
        let of_files = self.agents().filter(|agent| inline.is_empty() || !inline.contains(&key(agent)));
        self.inline.iter().chain(of_files).cloned().collect()
    }

    /// Reads these files and puts in force what may be. With `confirmed` agents may be lost in any number.
    pub fn load(&mut self, due: &[usize], confirmed: bool) -> Loaded {
        self.load_with(None, due, confirmed)
    }

    /// As [`Rosters::load`], with other agents of the configuration itself.
    fn load_with(&mut self, inline: Option<Inline>, due: &[usize], confirmed: bool) -> Loaded {
        let old = self.in_force();
        if let Some(inline) = inline {
            self.inline = inline;
        }
        let mut loaded = Loaded::default();
        let mut fresh = BTreeMap::new();
        for &index in due {
            let file = &mut self.files[index];
            // Looked at before it is read: what is written meanwhile is read the next time.
            file.stamp = Stamp::of(&file.raw.file);
            match self.read(index) {
                Ok(entries) => drop(fresh.insert(index, entries)),
                Err(mistakes) => loaded.refused.push((index, mistakes)),
            }
        }
        while let Some((index, mistakes)) = self.find_clash(&fresh) {
            fresh.remove(&index);
            loaded.refused.push((index, mistakes));
        }
        if !confirmed {
            loaded.held = self.hold(&mut fresh);
        }
        let before: Vec<_> = fresh
            .into_iter()
            .map(|(index, entries)| (index, std::mem::replace(&mut self.files[index].agents, entries)))
            .collect();
        loaded.changes = diff(&old, &self.in_force());
        self.count(&before, &mut loaded);
        loaded
    }

    /// Notes how many of the changes each of the files has made that had these agents `before`.
    fn count(&self, before: &[(usize, Vec<Entry>)], loaded: &mut Loaded) {
        let put: HashSet<AgentKey> = loaded.changes.put.iter().map(|agent| key(agent)).collect();
        let removed: HashSet<&AgentKey> = loaded.changes.remove.iter().collect();
        for (index, before) in before {
            let put =
                self.files[*index].agents.iter().filter(|entry| put.contains(&key(&entry.agent))).count();
            let removed = before.iter().filter(|entry| removed.contains(&key(&entry.agent))).count();
            loaded.put.extend((put > 0).then_some((*index, put)));
            loaded.removed.extend((removed > 0).then_some((*index, removed)));
        }
    }

    fn read(&self, index: usize) -> Result<Vec<Entry>, Vec<Mistake>> {
        let raw = &self.files[index].raw;
        let text = read_text(&raw.file).map_err(|mistake| vec![mistake])?;
        let (rows, mut mistakes) = match Format::of(&raw.file) {
            Some(Format::Toml) => tables::rows(&text),
            Some(Format::Csv) | None => csv::rows(&text),
        };
        let mut entries: Vec<Entry> = Vec::with_capacity(rows.len());
        let mut lines = HashMap::new();
        for row in rows {
            let line = row.line;
            let Some(agent) = self.agent(row, raw, &mut mistakes) else { continue };
            match lines.insert(key(&agent), line) {
                Some(first) => mistakes.push(Mistake::twice(line, &format!("in line {first}"))),
                None => {
                    let agent = agent.sharing_with(entries.last().map(|entry| &entry.agent));
                    entries.push(Entry { agent: Arc::new(agent), line });
                }
            }
        }
        if mistakes.is_empty() && entries.is_empty() && !raw.allow_empty {
            mistakes.push(Mistake::whole("has no agents, which allow_empty = true would allow"));
        }
        mistakes.sort_by_key(|mistake| mistake.line);
        if mistakes.is_empty() { Ok(entries) } else { Err(mistakes) }
    }

    fn agent(&self, row: Row, roster: &RawRoster, mistakes: &mut Vec<Mistake>) -> Option<AgentConfig> {
        const ROW: &str = "row";
        let mut problems = Problems::default();
        for (column, message) in row.wrong {
            problems.add(format!("{ROW}.{column}"), message);
        }
        let mut raw = row.raw;
        if let (true, Some(gateway)) = (raw.gateway.is_empty(), &roster.gateway) {
            raw.gateway.clone_from(gateway);
        }
        raw.complete(&roster.defaults);
        match self.gateways.get(&raw.gateway) {
            Some(defaults) => raw.complete(defaults),
            None if raw.gateway.is_empty() => {}
            None => problems.add(format!("{ROW}.gateway"), "no gateway has this name"),
        }
        let agent = raw.validate(ROW, &mut problems);
        mistakes.extend(problems.found().iter().map(|problem| {
            let column = problem.key.strip_prefix(ROW).and_then(|rest| rest.strip_prefix('.'));
            Mistake::at(row.line, column.map(str::to_owned), &problem.message)
        }));
        agent.filter(|_| problems.found().is_empty())
    }

    /// One of the fresh files that has agents which stand elsewhere too, the last one first.
    fn find_clash(&self, fresh: &BTreeMap<usize, Vec<Entry>>) -> Option<(usize, Vec<Mistake>)> {
        fresh.iter().rev().find_map(|(index, entries)| {
            let mut elsewhere: HashMap<AgentKey, String> = HashMap::new();
            for (other, file) in self.files.iter().enumerate().filter(|(other, _)| other != index) {
                let path = file.raw.file.display();
                for entry in fresh.get(&other).unwrap_or(&file.agents) {
                    elsewhere.insert(key(&entry.agent), format!("in {path} line {}", entry.line));
                }
            }
            elsewhere.extend(self.inline.iter().map(|agent| (key(agent), "in [[agents]]".to_owned())));
            let mistakes = entries.iter().filter_map(|entry| {
                let place = elsewhere.get(&key(&entry.agent))?;
                Some(Mistake::twice(entry.line, place))
            });
            let mistakes: Vec<_> = mistakes.collect();
            (!mistakes.is_empty()).then_some((*index, mistakes))
        })
    }

    /// Keeps the agents that a file has lost, where they are suspiciously many; says of which files how many.
    fn hold(&self, fresh: &mut BTreeMap<usize, Vec<Entry>>) -> Vec<(usize, usize)> {
        let new = fresh.values().flatten().map(|entry| key(&entry.agent));
        // Who stands in the configuration is not lost.
        let new: HashSet<AgentKey> = new.chain(self.inline.iter().map(|agent| key(agent))).collect();
        let mut held = Vec::new();
        for (index, entries) in fresh {
            let before = &self.files[*index].agents;
            let lost: Vec<_> = before.iter().filter(|entry| !new.contains(&key(&entry.agent))).collect();
            if are_too_many(lost.len(), before.len()) {
                held.push((*index, lost.len()));
                entries.extend(lost.into_iter().cloned());
            }
        }
        held
    }
}

/// Whether so many agents of so many are not lost at once without a person's word.
#[must_use]
pub fn are_too_many(lost: usize, of: usize) -> bool {
    of >= SMALL_ROSTER && lost * 2 > of
}

impl Mistake {
    fn at(line: usize, column: Option<String>, message: impl Into<String>) -> Mistake {
        Mistake { line: Some(line), column, message: message.into() }
    }

    fn whole(message: impl Into<String>) -> Mistake {
        Mistake { line: None, column: None, message: message.into() }
    }

    fn twice(line: usize, place: &str) -> Mistake {
        Mistake::at(line, Some("id".to_owned()), format!("this agent of the same gateway stands {place} too"))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, &self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, {column}: {}", self.message),
            (Some(line), None) => write!(f, "line {line}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

enum Format {
    Csv,
    Toml,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()? {
            "csv" => Some(Format::Csv),
            "toml" => Some(Format::Toml),
            _ => None,
        }
    }
}

fn read_text(path: &Path) -> Result<String, Mistake> {
    let unreadable = |error: std::io::Error| Mistake::whole(format!("cannot be read: {error}"));
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES {
        return Err(Mistake::whole(format!("is larger than {FILE_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Mistake::at(line, None, "is not UTF-8")
    })
}
