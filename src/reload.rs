//! Reads anew, while the daemon runs, what may change under it: TLS of the listeners and who may connect, authorities,
//! revocation lists and client certificates of gateways, token secrets, agents of the configuration, routes and what is hidden, and
//! the log level. Rosters and the tokens of the admin API
//! look after themselves.
//!
//! - **When**: SIGHUP, `POST /api/v1/reload`, or when one of the files looks different; a file that is being written is left
//!   alone until it has looked the same twice.
//! - **All or nothing**: the whole configuration is read and checked as at a start, and everything is made ready before
//!   anything is put in force. One mistake, and all stays as it was. What can be read once only, such as a pipe, says for ever what
//!   it said at the start, and what it names is read anew.
//! - **Nobody is disturbed**: listeners go on listening, open connections keep what they began with, sessions know nothing
//!   of it, but those of agents that were added, changed or taken away. That more than half of them are gone at once is a mistake
//!   unless a person says that these are to go, which is an act of its own: a SIGHUP or a reload for any other reason, such as a
//!   renewed certificate, says nothing of agents. So is a certificate of a listener that is over, for others than servers or without the host
//!   of a `callback_uri`, where the one in force is not, unless a person asked for the reload. A token secret that is taken away is good
//!   for checking for one overlap more.
//! - **What cannot change** is named: those keys need a restart, and nothing follows from them before. So agents that stand in the
//!   configuration take what they leave out from the defaults in force, and those of a gateway whose name is gone stay as they are.
//!   Sinks are those of the start, and while others are written the routes wait with them: events that lead to a sink that does not
//!   run would be kept from those that do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::Discriminant;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::authenticate::{Authenticator, read_keys};
use crate::config::{Config, ConfigError, Draft, Outline, Problem, SinkKind, Source};
use crate::deliver::Ways;
use crate::event::GatewayName;
use crate::listen::Entry;
use crate::listen::allow::SharedAllowList;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::session::Sessions;
use crate::session::config::{AgentConfig, AgentDefaults};
use crate::session::roster::{self, Inline, Standing};
use crate::stamp::Stamp;

mod expiry;

pub use expiry::show as show_expiry;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often files that could not be used are read again, since what is wrong may lie in another one: a roster, a password, or
/// one that is not there yet.
const RETRY: Duration = Duration::from_secs(30);
/// Callers that may wait for a reload.
const WAITING: usize = 8;
/// The list of agents, whose keys may all change.
const AGENTS: &str = "agents";
/// Part of the keys with what agents have in common, which need a restart.
const AGENT_DEFAULTS: &str = ".agent_defaults.";
/// Ends of keys that may change while the daemon runs, in the tables before the dot.
const CHANGEABLE: &[(&str, &[&str])] = &[
    ("log", &["level"]),
    (
        "callback",
        &[
            "certificate_file",
            "key_file",
            "tls_min_version",
            "tls_cipher_suites",
            "client_certificates",
            "client_ca_file",
            "client_crl_file",
            "allow_from",
        ],
    ),
    ("operations", &["certificate_file", "key_file", "tls_min_version", "tls_cipher_suites", "allow_from"]),
    ("token", &["secret_file", "previous_secret_file"]),
    (
        "gateways",
        &[
            "ca_file",
            "crl_file",
            "client_cert_file",
            "client_key_file",
            "tls_server_name",
            "verify_server_name",
            "dangerously_trust_all",
        ],
    ),
];

const ALLOW_FROM: &str = "allow_from";
/// The key of a file that decides what is hidden.
const MASK_SECRET: &str = "masking.secret_file";

/// What files look like.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// What a configuration was read from, and what that looked like before.
#[derive(Debug)]
pub struct Origin {
    source: Source,
    outline: Outline,
    stamps: Stamps,
}

/// Reads the configuration for a start, so that of what changes from then on nothing is missed, however long the start takes.
///
/// # Errors
/// As [`crate::config::load`].
pub fn load(path: &Path) -> Result<(Config, Origin), ConfigError> {
    let source = Source::of(path)?;
    let (draft, stamps) = look_and_read(&source)?;
    Ok((draft.check()?, Origin { source, outline: draft.outline(), stamps }))
}

/// Sets the log level of the running process.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What a reload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is as the files say.
    Done {
        /// What is other than before, in words.
        changed: Vec<String>,
        /// Keys that are written differently now and need a restart.
        needs_restart: Vec<String>,
        /// Rosters of which there is something to be said; `None` when they were not all read in time.
        rosters: Option<Vec<Standing>>,
    },
    /// Nothing was changed, because of these mistakes.
    Refused(Vec<Problem>),
}

/// Takes wishes for a reload; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Desk {
    wishes: mpsc::Sender<Wish>,
}

/// Somebody wants a reload.
#[derive(Debug)]
struct Wish {
    /// Agents that stand nowhere any more are to go, however many they are.
    confirms_removals: bool,
    tell: oneshot::Sender<Outcome>,
}

/// The other end of a [`Desk`].
#[derive(Debug)]
pub struct Wishes(mpsc::Receiver<Wish>);

impl Desk {
    /// A desk and where its wishes come out.
    #[must_use]
    pub fn new() -> (Desk, Wishes) {
        let (wishes, received) = mpsc::channel(WAITING);
        (Desk { wishes }, Wishes(received))
    }

    /// Reloads and says what came of it; `None` when nobody does that here. With `confirms_removals` agents may be lost in any number.
    pub async fn reload(&self, confirms_removals: bool) -> Option<Outcome> {
        let (tell, told) = oneshot::channel();
        self.wishes.send(Wish { confirms_removals, tell }).await.ok()?;
        told.await.ok()
    }
}

/// What can be changed in a running daemon.
#[derive(Clone)]
pub struct Targets {
    /// Of the callback listener.
    pub callback_tls: Arc<ArcSwap<ServerConfig>>,
    /// Who may connect to the callback listener.
    pub callback_allowed: SharedAllowList,
    /// TLS of the operations listener, where it has it, and who may connect.
    pub operations: Entry,
    /// The token secrets.
    pub authenticator: Arc<Authenticator>,
    /// The clients of gateways.
    pub sessions: Sessions,
    /// Agents that stand in the configuration itself, for whoever keeps the sessions to them.
    pub roll: Arc<watch::Sender<Inline>>,
    /// Reads the rosters.
    pub rosters: roster::Desk,
    /// Names of the sinks that stand in the file, for whoever gives up what others have not got. They run only after a restart.
    pub named_sinks: Arc<watch::Sender<BTreeSet<String>>>,
    /// Where events go.
    pub ways: Ways,
    /// The log level; none when the environment decides.
    pub set_log_level: Option<SetLogLevel>,
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Targets")
    }
}

/// What is in force.
#[derive(Debug)]
struct InForce {
    /// What the configuration said.
    outline: Outline,
    /// What agents take from their gateway where they leave it out, as at the start.
    agent_defaults: HashMap<GatewayName, AgentDefaults>,
    /// The sinks that run, which are those of the start.
    sinks: Kinds,
    level: String,
    /// Certificates of listeners.
    shown: expiry::Shown,
    /// What files looked like when they were read.
    stamps: Stamps,
}

/// Names of sinks, each with what kind it is of.
type Kinds = BTreeMap<String, Discriminant<SinkKind>>;

/// Watches files and reloads.
#[derive(Debug)]
pub struct Reloader {
    source: Source,
    targets: Arc<Targets>,
    in_force: InForce,
    /// What files looked like at the last look, and at the last try.
    seen: Stamps,
    tried: Stamps,
    /// What was wrong at the last try, and when it is tried again though no file has changed.
    refused: Vec<Problem>,
    retry: Option<Instant>,
    metrics: Metrics,
    manager: Notifier,
}

impl Reloader {
    /// A reloader of a daemon that was started with `config`, which was read from this origin.
    #[must_use]
    pub fn new(
        origin: Origin,
        config: &Config,
        targets: Targets,
        metrics: Metrics,
        manager: Notifier,
    ) -> Reloader {
        let Origin { source, outline, stamps } = origin;
        Reloader {
            source,
            targets: Arc::new(targets),
            in_force: InForce {
                outline,
                agent_defaults: config.sessions.agent_defaults(),
                sinks: kinds(config),
                level: config.log.level.clone(),
                shown: expiry::Shown::of(config),
                stamps: stamps.clone(),
            },
            seen: stamps.clone(),
            tried: stamps,
            refused: Vec::new(),
            retry: None,
            metrics,
            manager,
        }
    }

    /// Reloads whenever there is a reason to, until the stop. What was called for since `reloads` began to listen is not forgotten.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        mut reloads: watch::Receiver<u64>,
        mut wishes: Wishes,
    ) {
        let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut asked, mut signalled) = (Vec::new(), false);
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    let Some((back, due)) = off_the_runtime(self, Reloader::is_due, &stop).await else { return };
                    self = back;
                    if !due {
                        continue;
                    }
                }
                changed = reloads.changed() => match changed {
                    Ok(()) => signalled = true,
                    Err(_) => return stop.cancelled().await,
                },
                Some(wish) = wishes.0.recv() => asked.push(wish),
            }
            while let Ok(wish) = wishes.0.try_recv() {
                asked.push(wish);
            }
            let wanted = signalled || !asked.is_empty();
            let confirmed = asked.iter().any(|wish| wish.confirms_removals);
            let reload = move |reloader: &mut Reloader| reloader.reload(wanted, confirmed);
            let Some((back, mut outcome)) = off_the_runtime(self, reload, &stop).await else { return };
            self = back;
            if signalled || (wanted && matches!(outcome, Outcome::Done { .. })) {
                // Rosters are read anew as well, each for itself.
                let read = stop.run_until_cancelled(self.targets.rosters.read(confirmed)).await.flatten();
                if read.is_none() && !stop.is_cancelled() {
                    tracing::warn!("rosters are not all read yet");
                }
                if let Outcome::Done { rosters, .. } = &mut outcome {
                    *rosters = read;
                }
            }
            for wish in asked {
                // Who asked may have gone.
                drop(wish.tell.send(outcome.clone()));
            }
        }
    }

    /// What the files look like now that are in force.
    fn look(&self) -> Stamps {
        self.in_force.stamps.keys().map(|file| look(file)).collect()
    }

    /// Whether files have settled on something other than what was tried last, or on what is to be tried again.
    fn is_due(&mut self) -> bool {
        let now = self.look();
        let settled = now == self.seen;
        self.seen = now;
        settled && (self.seen != self.tried || self.retry.is_some_and(|retry| retry <= Instant::now()))
    }

    /// Reads everything and puts it in force, or leaves everything as it is. Somebody has `wanted` it, or files have changed; with
    /// `confirmed` agents may be lost in any number.
    fn reload(&mut self, wanted: bool, confirmed: bool) -> Outcome {
        self.manager.reloading();
        let tried = self.tried.clone();
        let (outcome, refused) = match self.try_reload(wanted, confirmed) {
            Ok(outcome) => (outcome, Vec::new()),
            Err(problems) => (Outcome::Refused(problems.clone()), problems),
        };
        self.retry = (!refused.is_empty()).then(|| Instant::now() + RETRY);
        // Nobody asked for what was only tried again, and what was said of it before is not said again.
        let again = !wanted && self.tried == tried;
        if !again || refused.is_empty() || refused != self.refused {
            self.say(&outcome);
        }
        self.refused = refused;
        self.manager.ready();
        outcome
    }

    fn try_reload(&mut self, wanted: bool, confirmed: bool) -> Result<Outcome, Vec<Problem>> {
        // Looked at before it is read: what is written in between is read again.
        let before = self.look();
        (self.seen, self.tried) = (before.clone(), before.clone());
        let problem = |key: &str, message: String| vec![Problem { key: key.to_owned(), message }];
        let (config, outline, now) = self.read().map_err(problems_of)?;
        // Also where something else is refused: a sink that is put back must not lose what it has not got.
        self.name_sinks(config.sinks.iter().map(|sink| sink.name.clone()).collect());
        self.compare_certificates(&config, wanted)?;

        let token = &config.token;
        let (secret, previous) = (token.secret_file.as_deref(), token.previous_secret_file.as_deref());
        let (current, previous) = read_keys(secret, previous, &config.spool.directory)
            .map_err(|error| problem("token.secret_file", format!("{error:#}")))?;
        let (inline, of_agents) =
            self.agents(&config, confirmed).map_err(|message| problem(AGENTS, message))?;
        let changes = Changes {
            outline: self.in_force.outline.difference(&outline),
            before: &self.in_force.stamps,
            now: &now,
        };
        let gateways = config.sessions.gateways.iter().enumerate();
        let renewed: Vec<_> = gateways
            .filter(|(at, gateway)| {
                changes.has_key(&format!("gateways[{at}]"), "gateways") || changes.any_file(gateway.files())
            })
            .map(|(_, gateway)| gateway)
            .collect();
        // The last thing that can fail, and it puts all gateways in force or none.
        self.targets.sessions.renew(&renewed).map_err(|(name, error)| {
            problem(&format!("gateways.{name}.{}", error.key()), format!("{:#}", anyhow::Error::from(error)))
        })?;

        let mut changed = Vec::new();
        let tls = &config.callback.tls;
        if changes.of_tls("callback") || changes.any_file(tls.from.files()) {
            self.targets.callback_tls.store(tls.made.clone());
            changed.push("certificate of the callback listener".to_owned());
        }
        if let (Some(target), Some(tls)) = (&self.targets.operations.tls, &config.operations.tls)
            && (changes.of_tls("operations") || changes.any_file(tls.from.files()))
        {
            target.store(tls.made.clone());
            changed.push("certificate of the operations listener".to_owned());
        }
        for (listener, target, allowed) in [
            ("callback", &self.targets.callback_allowed, &config.callback.allowed),
            ("operations", &self.targets.operations.allowed, &config.operations.allowed),
        ] {
            if **target.load() != *allowed {
                target.store(Arc::new(allowed.clone()));
                changed.push(format!("who may connect to the {listener} listener"));
            }
        }
        if self.targets.authenticator.replace(current, previous) {
            changed.push("token secrets".to_owned());
        }
        changed.extend(renewed.iter().map(|gateway| format!("TLS towards the gateway {}", gateway.name)));
        if config.log.level != self.in_force.level
            && let Some(set) = &self.targets.set_log_level
        {
            match set(&config.log.level) {
                Ok(()) => changed.push("log level".to_owned()),
                // It was read as a level before; this is about the process, not the file.
                Err(error) => tracing::error!(error, "the log level cannot be changed"),
            }
        }
        let routes_wait = kinds(&config) != self.in_force.sinks;
        let new_mask_secret = changes.any_file(&config.mask_secret_file);
        if !routes_wait && (changes.of_routes() || new_mask_secret) {
            self.targets.ways.replace(config.sinks.clone());
            changed.push("routes".to_owned());
        }
        if !of_agents.is_empty() {
            changed.push(format!(
                "agents: {} put in, {} taken out",
                of_agents.put.len(),
                of_agents.remove.len()
            ));
            self.targets.roll.send_replace(inline);
        }
        let mut needs_restart = changes.needing_restart(self.targets.operations.tls.is_some(), routes_wait);
        if routes_wait && new_mask_secret && !needs_restart.iter().any(|key| key == MASK_SECRET) {
            needs_restart.push(MASK_SECRET.to_owned());
        }
        expiry::show(&config, &self.metrics);
        self.in_force.shown.take(&config);
        self.in_force.level = config.log.level;
        (self.seen, self.tried) = (now.clone(), now.clone());
        let stamps = std::mem::replace(&mut self.in_force.stamps, now);
        if routes_wait
            && let Some(file) = config.mask_secret_file
            && let Some(look) = stamps.get(&file)
        {
            // The secret in force is the one that was read then.
            self.in_force.stamps.insert(file, *look);
        }
        // What needs a restart is compared with what the daemon was started with, every time.
        let is_taken = |key: &str| is_changeable(key) && !(routes_wait && is_of_routes(key));
        self.in_force.outline = std::mem::take(&mut self.in_force.outline).with(outline, is_taken);
        Ok(Outcome::Done { changed, needs_restart, rosters: Some(Vec::new()) })
    }

    fn name_sinks(&self, names: BTreeSet<String>) {
        self.targets.named_sinks.send_if_modified(|named| {
            let other = *named != names;
            *named = names;
            other
        });
    }

    /// A certificate that cannot work is not taken for one that can, unless somebody asks for it: most likely the wrong file was
    /// written, and every push would fail.
    fn compare_certificates(&self, config: &Config, wanted: bool) -> Result<(), Vec<Problem>> {
        let worse = self.in_force.shown.worse(config);
        if !wanted && !worse.is_empty() {
            return Err(worse);
        }
        for Problem { key, message } in worse {
            tracing::warn!(key, error = message, "a certificate is taken as somebody asked for it");
        }
        Ok(())
    }

    /// Reads the configuration, and gives what its files looked like before that.
    fn read(&self) -> Result<(Config, Outline, Stamps), ConfigError> {
        let (draft, looks) = look_and_read(&self.source)?;
        let outline = draft.outline();
        let config = self.with_defaults_in_force(draft.check()?, &draft, &outline)?;
        Ok((config, outline, looks))
    }

    /// The configuration with the defaults of agents that are in force, where others are written.
    fn with_defaults_in_force(
        &self,
        config: Config,
        draft: &Draft,
        outline: &Outline,
    ) -> Result<Config, ConfigError> {
        if !self.in_force.outline.difference(outline).iter().any(|key| key.contains(AGENT_DEFAULTS)) {
            return Ok(config);
        }
        let config = draft.check_with(&self.in_force.agent_defaults);
        config.map_err(|mut error| {
            if let ConfigError::Mistakes { problems, .. } = &mut error {
                for problem in problems {
                    problem.message.push_str(" (with the agent_defaults in force: others need a restart)");
                }
            }
            error
        })
    }

    /// Agents of the configuration itself as they are to be, and what that changes. Those of a gateway that is not there before a
    /// restart have to wait for it, and those of one that is there until then stay.
    fn agents(&self, config: &Config, confirmed: bool) -> Result<(Inline, roster::Changes), String> {
        let known =
            |agent: &&Arc<AgentConfig>| self.targets.sessions.sign_out_limit(&agent.gateway).is_some();
        let before = self.targets.roll.borrow().clone();
        let gone = |agent: &&Arc<AgentConfig>| {
            config.sessions.gateways.iter().all(|gateway| gateway.name != agent.gateway)
        };
        let written = config.sessions.rosters.inline();
        let inline: Inline =
            written.iter().filter(known).chain(before.iter().filter(gone)).cloned().collect();
        let changes = roster::diff(before.iter(), inline.iter());
        // Who stands in a roster is not lost.
        let (lost, of) = (config.sessions.rosters.strangers(&changes.remove), before.len());
        if !confirmed && roster::are_too_many(lost, of) {
            return Err(format!(
                "{lost} of {of} agents are gone at once: they are kept until `ccrelay reload --confirm-removals` says that this is meant"
            ));
        }
        Ok((inline, changes))
    }

    fn say(&self, outcome: &Outcome) {
        let (label, ok) = match outcome {
            Outcome::Done { changed, needs_restart, rosters: _ } => {
                tracing::info!(?changed, "read anew");
                if !needs_restart.is_empty() {
                    tracing::warn!(keys = ?needs_restart, "these keys have other values now, which need a restart");
                }
                self.metrics.restart_needed.set(i64::from(!needs_restart.is_empty()));
                ("ok", 1)
            }
            Outcome::Refused(problems) => {
                for Problem { key, message } in problems {
                    tracing::error!(file = %self.source.path().display(), key, error = message, "a mistake in what was read anew");
                }
                tracing::error!(mistakes = problems.len(), "not reloaded: all stays as it was");
                ("refused", 0)
            }
        };
        self.metrics.reloads.with_label_values(&[label]).inc();
        self.metrics.reload_last_ok.set(ok);
    }
}

/// What is other than it was.
struct Changes<'a> {
    outline: Vec<String>,
    before: &'a Stamps,
    now: &'a Stamps,
}

impl Changes<'_> {
    /// Whether a changeable key of this table was written differently.
    fn has_key(&self, table: &str, kind: &str) -> bool {
        let ends = CHANGEABLE.iter().find(|(known, _)| *known == kind).map_or(&[][..], |(_, ends)| ends);
        let of_table = self.outline.iter().filter_map(|key| key.strip_prefix(table)?.strip_prefix('.'));
        of_table.into_iter().any(|end| ends.contains(&end))
    }

    /// Whether a key of this listener's TLS was written differently.
    fn of_tls(&self, table: &str) -> bool {
        let ends = self.outline.iter().filter_map(|key| key.strip_prefix(table)?.strip_prefix('.'));
        ends.map(end_of).any(|end| end != ALLOW_FROM && is_changeable(&format!("{table}.{end}")))
    }

    /// Whether anything was written differently that decides where events go and what is hidden.
    fn of_routes(&self) -> bool {
        self.outline.iter().any(|key| is_of_routes(key))
    }

    fn any_file<'p>(&self, files: impl IntoIterator<Item = &'p PathBuf>) -> bool {
        files.into_iter().any(|file| self.before.get(file) != self.now.get(file))
    }

    fn needing_restart(&self, operations_tls: bool, routes_wait: bool) -> Vec<String> {
        let stays = |key: &&String| {
            let waits = (!operations_tls && is_of_operations_tls(key)) || (routes_wait && is_of_routes(key));
            waits || !is_changeable(key)
        };
        self.outline.iter().filter(stays).cloned().collect()
    }
}

/// Whether this key decides where events go, or what is hidden.
fn is_of_routes(key: &str) -> bool {
    let plain = key.split('[').next().unwrap_or(key);
    match plain.split('.').collect::<Vec<_>>()[..] {
        ["routes", ..] | ["masking", _] => true,
        ["sinks", _, end] => ["topic", "unrouted", "mask", "drop_raw"].contains(&end),
        _ => false,
    }
}

/// Whether this key is one of an agent that stands in the configuration itself.
fn is_of_agents(key: &str) -> bool {
    end_of(key) == AGENTS && key != AGENTS
}

/// A listener that began without TLS goes on without.
fn is_of_operations_tls(key: &str) -> bool {
    key.strip_prefix("operations.").is_some_and(|end| end_of(end) != ALLOW_FROM)
}

/// The key without the place in its list.
fn end_of(key: &str) -> &str {
    key.split('[').next().unwrap_or(key)
}

fn is_changeable(key: &str) -> bool {
    if is_of_routes(key) || is_of_agents(key) {
        return true;
    }
    let Some((table, end)) = key.rsplit_once('.') else { return false };
    let (kind, end) = (end_of(table), end_of(end));
    CHANGEABLE.iter().any(|(known, ends)| *known == kind && ends.contains(&end))
}

/// What a configuration says, and what it and the files that it names looked like before they are read.
fn look_and_read(source: &Source) -> Result<(Draft, Stamps), ConfigError> {
    let mut looks: Stamps = source.file().into_iter().map(look).collect();
    let draft = source.draft()?;
    looks.extend(draft.files().iter().map(|file| look(file)));
    Ok((draft, looks))
}

fn look(file: &Path) -> (PathBuf, Option<Stamp>) {
    (file.into(), Stamp::of(file))
}

/// The sinks of this configuration.
fn kinds(config: &Config) -> Kinds {
    config.sinks.iter().map(|sink| (sink.name.clone(), std::mem::discriminant(&sink.kind))).collect()
}

fn problems_of(error: ConfigError) -> Vec<Problem> {
    match error {
        ConfigError::Mistakes { problems, .. } => problems,
        ConfigError::Unreadable { path, reason } => {
            vec![Problem { key: path.display().to_string(), message: reason }]
        }
    }
}

/// Files may lie on a disk that hangs, which holds up no stop.
async fn off_the_runtime<T: Send + 'static>(
    mut reloader: Reloader,
    work: impl FnOnce(&mut Reloader) -> T + Send + 'static,
    stop: &CancellationToken,
) -> Option<(Reloader, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&mut reloader);
        (reloader, done)
    });
    stop.run_until_cancelled(done).await?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_may_change_are_told_from_those_that_need_a_restart() {
        for key in [
            "log.level",
            "callback.key_file",
            "callback.allow_from[2]",
            "operations.tls_cipher_suites[0]",
            "gateways[3].crl_file",
            "token.previous_secret_file",
        ] {
            assert!(is_changeable(key), "{key}");
        }
        for key in ["agents[0].id", "agents[12].skills[1]", "agents[3].phone_number"] {
            assert!(is_of_agents(key) && is_changeable(key), "{key}");
        }
        for key in [
            "routes[0].to.bus",
            "routes[1].agents[0]",
            "masking.secret_file",
            "sinks.bus.topic",
            "sinks.bus.mask[2]",
        ] {
            assert!(is_of_routes(key) && is_changeable(key), "{key}");
        }
        for key in [
            "log.format",
            "callback.listen",
            "gateways[3].base_url",
            "sinks.bus.window",
            "sinks.w.mqtt.topic",
            "callback",
            "rosters[0].file",
            "gateways[0].agent_defaults.status",
            "agents",
            "",
        ] {
            assert!(!is_changeable(key), "{key}");
        }
    }

    #[test]
    fn routes_that_wait_are_named_among_the_keys_that_need_a_restart() {
        let outline = ["log.level", "routes[0].to.bus2", "sinks.bus2.jsonl.path"].map(str::to_owned).to_vec();
        let changes = Changes { outline, before: &Stamps::new(), now: &Stamps::new() };
        assert_eq!(changes.needing_restart(true, true), changes.outline[1..]);
        assert_eq!(changes.needing_restart(true, false), changes.outline[2..]);
    }

    #[tokio::test]
    async fn a_desk_that_nobody_serves_says_so() {
        let (desk, wishes) = Desk::new();
        drop(wishes);
        assert_eq!(desk.reload(false).await, None);
    }
}
