//! The daemon: the only module that knows all the others. Builds, binds, wires, runs, and ends in good order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::kept::{self, KeptAgents};
use crate::admin::tokens::TokenFile;
use crate::admin::{self, Api, OperationsHandler, Parts, Readiness};
use crate::authenticate::{Authenticator, read_keys};
use crate::calm::Calm;
use crate::clock::Clock;
use crate::config::{self, Config, OperationsConfig, SinkConfig, TokenConfig};
use crate::deliver::{Troubles, Ways};
use crate::event::GatewayName;
use crate::guesses::Guesses;
use crate::lifecycle::Lifecycle;
use crate::listen::{Entry, Listener};
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::problems::Problems;
use crate::receive::{Bodies, PushHandler};
use crate::reload::{self, Desk, Origin, Reloader, SetLogLevel, Targets, Wishes};
use crate::session::config::{AgentConfig, AgentDefaults, GatewayConfig, SessionsConfig};
use crate::session::password::PasswordReader;
use crate::session::roster::{self, Changes};
use crate::session::{Deps, Sessions};
use crate::spool::{AgentKey, SinkStart, Spool, SpoolThreads};
use crate::trace::{Exporter, Traces};

mod bridge;
mod journal;
mod removed;
mod sinks;

use bridge::{EventBridge, ObserverBridge, StoreBridge, TokenBridge};
use journal::JournalBridge;
use sinks::Surroundings;

/// How long a stop waits for the collector of traces, of what is left of the grace period.
const LAST_SPANS: Duration = Duration::from_secs(5);
/// And answers of the operations listener, which nobody's session depends on.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Somebody wanted a stop before the start was over. Nothing has begun that has not ended.
#[derive(Debug, thiserror::Error)]
#[error("it was stopped before it had started")]
pub struct Stopped;

/// A running relay.
pub struct Relay {
    /// Where pushes are taken.
    pub callback_addr: SocketAddr,
    /// Where metrics and health are.
    pub operations_addr: SocketAddr,
    /// Agents' sessions.
    pub sessions: Sessions,
    /// The spool.
    pub spool: Spool,
    /// All metrics.
    pub metrics: Metrics,
    lifecycle: Lifecycle,
    readiness: Readiness,
    receiving: CancellationToken,
    delivering: CancellationToken,
    hurry: CancellationToken,
    operations: Operations,
    threads: SpoolThreads,
    exporter: Option<Exporter>,
    targets: Targets,
    /// What was called for since the start began, and whatever is from now on.
    reloads: watch::Receiver<u64>,
    wishes: Option<Wishes>,
    config: Config,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("callback_addr", &self.callback_addr).finish_non_exhaustive()
    }
}

impl Relay {
    /// As [`Relay::start`], for no longer than a stop may take: `None` when there was one before anything had begun.
    ///
    /// # Errors
    /// As [`Relay::start`], and when the start is not over by the end of the stop: what it had begun ends with the runtime.
    pub async fn start_unless_stopped(
        config: Config,
        lifecycle: &Lifecycle,
        manager: &Notifier,
    ) -> anyhow::Result<Option<Relay>> {
        let cut_off = lifecycle.stopped_for(config.shutdown_grace);
        // On a task of its own: a disk that hangs holds a thread.
        let start = tokio::spawn(Relay::start_slowly(config, lifecycle.clone(), manager.clone()));
        let started = tokio::select! {
            biased;
            started = start => started.context("the start panicked")?,
            () = cut_off => return Err(anyhow!("the start was not over when the stop had to be")),
        };
        match started {
            Err(error) if error.is::<Stopped>() => Ok(None),
            started => started.map(Some),
        }
    }

    /// Starts everything: when this returns, pushes are taken and agents are being signed in.
    ///
    /// # Errors
    /// When a file, an address or the spool cannot be used; the message says which. [`Stopped`] when somebody wants a stop while the
    /// disk is read, which may take long.
    pub async fn start(config: Config, lifecycle: Lifecycle) -> anyhow::Result<Relay> {
        Relay::start_slowly(config, lifecycle, Notifier::default()).await
    }

    /// The same; while it takes long and gets on, the service manager hears so.
    async fn start_slowly(
        mut config: Config,
        lifecycle: Lifecycle,
        manager: Notifier,
    ) -> anyhow::Result<Relay> {
        let reloads = lifecycle.reloads();
        let clock = Clock::system();
        let gateways: Vec<GatewayName> = config.sessions.gateways.iter().map(|g| g.name.clone()).collect();
        let names = config.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind.reasons()));
        let metrics = Metrics::new(gateways.iter().map(GatewayName::as_str), names).context("metrics")?;
        let tls = Arc::new(ArcSwap::new(config.callback.tls.made.clone()));
        reload::show_expiry(&config, &metrics);
        let (spool, threads) = open_spool(&config, &metrics, &clock, manager).await?;
        let authenticator = Arc::new(authenticator(&config.token, &config.spool.directory, &clock)?);
        let (kept, stored) = (KeptAgents::load(&config.spool.directory)?, StoreBridge::load(&spool)?);
        if lifecycle.stopping().is_cancelled() {
            close_spool(&spool, threads).await?;
            return Err(Stopped.into());
        }
        let (traces, exporter) = match &config.traces {
            Some(config) => {
                let (traces, exporter) = Traces::start(config, spool.id(), &metrics, clock.clone())?;
                (traces, Some(exporter))
            }
            None => (Traces::default(), None),
        };

        let doubts = config::doubts(&config).into_iter().chain(config::variable_doubts());
        doubts.for_each(|doubt| tracing::warn!("{doubt}"));
        let readiness = Readiness::default();
        let operations = Operations::start(&config.operations, &metrics, &readiness).await?;
        let (receiving, delivering) = (CancellationToken::new(), CancellationToken::new());
        let hurry = CancellationToken::new();
        let observer = Arc::new(ObserverBridge::new(clock.clone()));
        let handler = PushHandler {
            gateways,
            authenticator: authenticator.clone(),
            spool: spool.clone(),
            limits: config.callback.push.clone(),
            bodies: Bodies::default(),
            observer: observer.clone(),
            guesses: Guesses::new("callback", metrics.clone()),
            metrics: metrics.clone(),
            clock: clock.clone(),
            calm: Calm::default(),
            traces: traces.clone(),
        };
        let address = config.callback.listen;
        let limits = config.callback.limits.clone();
        let allowed = Arc::new(ArcSwap::from_pointee(config.callback.allowed.clone()));
        let entry = Entry { tls: Some(tls.clone()), allowed: allowed.clone() };
        let listener = Listener::bind(address, entry, limits, handler, metrics.clone(), receiving.clone());
        let listener =
            listener.await.with_context(|| format!("cannot listen on callback.listen {address}"))?;
        let callback_addr = listener.local_addr().context("the callback listener has no address")?;

        let (ways, troubles) = (Ways::of(&config.sinks), Troubles::default());
        let surroundings = Surroundings {
            lifecycle: lifecycle.clone(),
            troubles: troubles.clone(),
            spool: spool.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            traces: traces.clone(),
            stop: delivering.clone(),
            hurry: hurry.clone(),
        };
        for sink in &config.sinks {
            surroundings.start(sink, ways.to(&sink.name)).await?;
        }
        lifecycle.spawn("callback listener", listener.run());
        let journal = JournalBridge::start(
            &lifecycle,
            spool.clone(),
            metrics.clone(),
            clock.clone(),
            traces.clone(),
            receiving.clone(),
        );
        let deps = Deps {
            tokens: Arc::new(TokenBridge(authenticator.clone())),
            store: Arc::new(stored),
            journal: Arc::new(journal),
            events: Arc::new(EventBridge {
                spool: spool.clone(),
                clock: clock.clone(),
                observer: observer.clone(),
                traces,
            }),
            metrics: metrics.clone(),
            clock,
        };
        // Events may come before the answer to a sign-in, so sign-ins begin when pushes are taken.
        let kept = Arc::new(kept);
        // The roster is large: the sessions keep it, and nobody a second one.
        let mut agents = std::mem::take(&mut config.sessions.agents);
        let configured = Arc::new(ArcSwap::from_pointee(agents.iter().map(|agent| key(agent)).collect()));
        let count = agents.len();
        let put = kept::without(&agents, kept.configs(&config.sessions.agent_defaults()));
        agents.extend(put.into_iter().map(Arc::new));
        // They too hold the roster, and their task alone needs them.
        let rosters = std::mem::take(&mut config.sessions.rosters);
        let (roll, called) = watch::channel(rosters.inline());
        let ((roster_desk, roster_wishes), stale) = (roster::Desk::new(), rosters.stale());
        let sessions = Sessions::start(SessionsConfig { agents, ..config.sessions.clone() }, deps)?;
        observer.connect(sessions.clone());
        let (desk, wishes) = Desk::new();
        let parts = admin_parts(
            (&ways, &troubles),
            &config.sessions,
            configured.clone(),
            &sessions,
            &spool,
            kept.clone(),
            (desk, stale),
        );
        operations.api.connect(parts);
        watch_failures(&lifecycle, &spool, &sessions);
        let (rostered, defaults) = (sessions.clone(), config.sessions.agent_defaults());
        lifecycle.spawn(
            "rosters",
            roster::watch(
                rosters,
                move |changes| change_roster(changes, &rostered, &kept, &defaults, &configured),
                metrics.clone(),
                called,
                roster_wishes,
                lifecycle.stopping(),
            ),
        );
        readiness.set(true, &metrics);
        let names: BTreeSet<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        let (named_sinks, named) = watch::channel(names);
        let forget = removed::forget(spool.clone(), named, removed::KEPT_FOR, lifecycle.stopping());
        lifecycle.spawn("removed sinks", forget);
        tracing::info!(
            callback = %callback_addr,
            operations = %operations.address,
            sinks = config.sinks.len(),
            agents = count,
            spool = %config.spool.directory.display(),
            "ccrelay is ready"
        );
        let targets = Targets {
            callback_tls: tls,
            callback_allowed: allowed,
            operations: operations.entry.clone(),
            authenticator,
            sessions: sessions.clone(),
            roll: Arc::new(roll),
            named_sinks: Arc::new(named_sinks),
            rosters: roster_desk,
            ways,
            set_log_level: None,
        };
        Ok(Relay {
            callback_addr,
            operations_addr: operations.address,
            sessions,
            spool,
            metrics,
            lifecycle,
            readiness,
            receiving,
            delivering,
            hurry,
            operations,
            threads,
            exporter,
            targets,
            reloads,
            wishes: Some(wishes),
            config,
        })
    }

    /// From now on these problems are shown to people.
    pub fn show(&self, problems: Problems) {
        self.operations.api.show(problems);
    }

    /// From now on what may change while the daemon runs is read anew when it changes or when somebody asks for it, also where
    /// that was since its configuration was read from there.
    pub fn watch_files(&mut self, origin: Origin, set_log_level: Option<SetLogLevel>, manager: &Notifier) {
        let Some(wishes) = self.wishes.take() else { return };
        let targets = Targets { set_log_level, ..self.targets.clone() };
        let reloader = Reloader::new(origin, &self.config, targets, self.metrics.clone(), manager.clone());
        let run = reloader.run(self.lifecycle.stopping(), self.reloads.clone(), wishes);
        self.lifecycle.spawn("reloads", run);
    }

    /// From now on the service manager hears how it stands.
    pub fn report_to(&self, manager: Notifier) {
        let gateways = self.config.sessions.gateways.iter().map(|gateway| gateway.name.clone()).collect();
        let stop = self.lifecycle.stopping();
        let report = manager.report(self.metrics.clone(), self.spool.clone(), gateways, stop);
        self.lifecycle.spawn("report to the service manager", report);
    }

    /// Runs until the stop, then ends in order: sessions, pushes in hand, sinks, spool, operations.
    ///
    /// # Errors
    /// When something failed for which the daemon had to stop, or tasks had to be cut off.
    pub async fn run(self) -> anyhow::Result<()> {
        self.lifecycle.stopping().cancelled().await;
        self.readiness.set(false, &self.metrics);
        let (began, grace) = (Instant::now(), self.config.shutdown_grace);
        let cut_off = self.lifecycle.cut_off();
        // Signing out, where it is configured, still brings pushes; so the listener ends after the sessions. A part of
        // the grace period is left for it and the sinks.
        // They hear of it here, also when there is no time to wait for them.
        let ended = self.sessions.shutdown(false);
        let sessions = tokio::time::timeout(grace * 3 / 4, ended);
        if !matches!(cut_off.run_until_cancelled(sessions).await, Some(Ok(()))) {
            tracing::warn!(grace_secs = grace.as_secs(), "not all sessions ended in time");
        }
        self.receiving.cancel();
        self.delivering.cancel();
        let clean = self.drained(grace.saturating_sub(began.elapsed())).await;
        close_spool(&self.spool, self.threads).await?;
        if let Some(exporter) = self.exporter {
            exporter.stop(grace.saturating_sub(began.elapsed()).min(LAST_SPANS)).await;
        }
        self.operations.stop(LAST_ANSWERS).await;
        match self.lifecycle.failure().or_else(|| self.spool.failure().borrow().clone()) {
            Some(reason) => Err(anyhow!(reason)),
            None if !clean => Err(anyhow!("tasks had to be cut off")),
            None => Ok(()),
        }
    }

    /// Waits for pushes in hand and for sinks, which have half of the time: a slow one in the middle of a long record would take all
    /// of it, and be cut off. False when tasks had to be.
    async fn drained(&self, left: Duration) -> bool {
        let mut drained = std::pin::pin!(self.lifecycle.drained(left));
        match tokio::time::timeout(left / 2, &mut drained).await {
            Ok(clean) => clean,
            Err(_) => {
                self.hurry.cancel();
                drained.await
            }
        }
    }
}

async fn open_spool(
    config: &Config,
    metrics: &Metrics,
    clock: &Clock,
    manager: Notifier,
) -> anyhow::Result<(Spool, SpoolThreads)> {
    let start =
        |sink: &SinkConfig| SinkStart { name: sink.name.clone(), from: sink.from, when_full: sink.when_full };
    let sinks: Vec<_> = config.sinks.iter().map(start).collect();
    if sinks.is_empty() {
        tracing::warn!("no sinks are configured: events are stored, answered and freed at once");
    }
    let (spool, metrics, clock) = (config.spool.clone(), metrics.clone(), clock.clone());
    let goes_on = move || manager.still_starting();
    let open = move || Spool::open_slowly(spool, &sinks, metrics, clock, &goes_on);
    tokio::task::spawn_blocking(open).await?.context("cannot open the spool")
}

async fn close_spool(spool: &Spool, threads: SpoolThreads) -> anyhow::Result<()> {
    spool.close().await;
    tokio::task::spawn_blocking(move || threads.join()).await.context("closing the spool")
}

fn authenticator(config: &TokenConfig, directory: &Path, clock: &Clock) -> anyhow::Result<Authenticator> {
    let (secret, previous) = (config.secret_file.as_deref(), config.previous_secret_file.as_deref());
    let (current, previous) = read_keys(secret, previous, directory)?;
    Ok(Authenticator::new(current, previous, config.rules, clock.clone()))
}

fn watch_failures(lifecycle: &Lifecycle, spool: &Spool, sessions: &Sessions) {
    let (watcher, stopping) = (lifecycle.clone(), lifecycle.stopping());
    let (mut spool, sessions) = (spool.failure(), sessions.failed());
    lifecycle.spawn("failure watch", async move {
        tokio::select! {
            failed = spool.wait_for(Option::is_some) => if let Ok(reason) = failed {
                watcher.fail(format!("the spool has failed: {}", reason.as_deref().unwrap_or("")));
            },
            () = sessions.cancelled() => watcher.fail("the task of a session ended"),
            () = stopping.cancelled() => {}
        }
    });
}

/// What the admin API shows and changes.
fn admin_parts(
    (ways, troubles): (&Ways, &Troubles),
    config: &SessionsConfig,
    configured: Arc<ArcSwap<HashSet<AgentKey>>>,
    sessions: &Sessions,
    spool: &Spool,
    kept: Arc<KeptAgents>,
    (reloads, stale_rosters): (Desk, roster::Stale),
) -> Parts {
    let open = |gateway: &GatewayConfig| (gateway.name.clone(), gateway.call_through.clone());
    Parts {
        sessions: sessions.clone(),
        spool: spool.clone(),
        gateways: config.gateways.iter().map(|gateway| gateway.name.clone()).collect(),
        configured,
        kept,
        agent_defaults: Arc::new(config.agent_defaults()),
        passwords: PasswordReader::default(),
        call_through: Arc::new(config.gateways.iter().map(open).collect()),
        runtime: tokio::runtime::Handle::current(),
        sight: ways.clone(),
        troubles: troubles.clone(),
        reloads,
        stale_rosters,
    }
}

fn key(agent: &AgentConfig) -> AgentKey {
    AgentKey { gateway: agent.gateway.clone(), agent_id: agent.id.clone() }
}

/// Makes the changes of rosters. An agent who has left them and was put by a caller before is the caller's again.
fn change_roster(
    mut changes: Changes,
    sessions: &Sessions,
    kept: &KeptAgents,
    defaults: &HashMap<GatewayName, AgentDefaults>,
    configured: &ArcSwap<HashSet<AgentKey>>,
) {
    let _change = kept.begin_change();
    note_configured(configured, &changes);
    let gone: HashSet<AgentKey> = changes
        .remove
        .iter()
        .map(|(gateway, agent_id)| AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() })
        .collect();
    for config in kept.configs_of(|agent| gone.contains(agent), defaults) {
        tracing::info!(gateway = %config.gateway, agent_id = %config.id,
            "an agent that stands in no roster any more was put by the admin API too, which counts now");
        changes.remove.retain(|(gateway, agent_id)| (gateway, agent_id) != (&config.gateway, &config.id));
        changes.put.push(Arc::new(config));
    }
    roster::apply(changes, sessions);
}

/// Agents of rosters are the configuration's, as long as they stand there.
fn note_configured(configured: &ArcSwap<HashSet<AgentKey>>, changes: &Changes) {
    let mut known = HashSet::clone(&configured.load());
    for (gateway, agent_id) in &changes.remove {
        known.remove(&AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() });
    }
    known.extend(changes.put.iter().map(|agent| key(agent)));
    configured.store(Arc::new(known));
}

/// The operations listener on a thread and runtime of its own.
struct Operations {
    address: SocketAddr,
    entry: Entry,
    api: Api,
    stop: CancellationToken,
    /// Resolves when the thread has nothing more to do; nobody has to join it.
    ended: oneshot::Receiver<()>,
}

impl Operations {
    async fn start(
        config: &OperationsConfig,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> anyhow::Result<Operations> {
        let (listen, stop) = (config.listen, CancellationToken::new());
        let load = |path| TokenFile::load(path, metrics.admin_tokens_stale.clone());
        let tokens = config.admin_tokens_file.as_deref().map(load).transpose()?;
        let api = Api::new(tokens, metrics.clone(), readiness.clone(), stop.clone());
        let handler =
            OperationsHandler { metrics: metrics.clone(), readiness: readiness.clone(), api: api.clone() };
        let entry = Entry {
            tls: config.tls.as_ref().map(|tls| Arc::new(ArcSwap::new(tls.made.clone()))),
            allowed: Arc::new(ArcSwap::from_pointee(config.allowed.clone())),
        };
        let bind =
            Listener::bind(listen, entry.clone(), admin::limits(), handler, metrics.clone(), stop.clone());
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let remembering = api.clone();
        let serve = async move {
            let (listener, address) =
                match bind.await.and_then(|l| l.local_addr().map(|address| (l, address))) {
                    Ok(bound) => bound,
                    Err(error) => {
                        drop(tell.send(Err(error)));
                        return;
                    }
                };
            if tell.send(Ok(address)).is_ok() {
                // On this thread too, so that what happened while all else was busy is seen.
                tokio::join!(listener.run(), remembering.remember(), remembering.look_at_tokens());
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(serve);
            let _nobody_waits = end.send(());
        };
        std::thread::Builder::new().name("operations".into()).spawn(run)?;
        let address = told.await.context("the operations thread ended")?;
        let address = address.with_context(|| format!("cannot listen on operations.listen {listen}"))?;
        Ok(Operations { address, entry, api, stop, ended })
    }

    /// Ends it once those have their answers who take them within `patience`, and what was asked for by others is done. Whoever reads
    /// slowly must not hold up the stop: no heartbeat is sent any more.
    async fn stop(self, patience: Duration) {
        self.stop.cancel();
        let ended = tokio::time::timeout(patience, async {
            let ended = self.ended.await;
            self.api.settled().await;
            ended
        });
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the operations thread panicked"),
            Err(_elapsed) => tracing::warn!("answers of the operations listener were cut off"),
        }
    }
}
