//! The command line: `run`, `check`, `simulate`, `demo`, and the exit codes that scripts can rely on: 0 done, 1 failed,
//! 64 wrong usage, 65 a damaged spool, 78 wrong configuration (the last three from sysexits.h).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::app::Relay;
use crate::config::{self, Config, ConfigError, LogConfig, LogFormat};
use crate::demo;
use crate::lifecycle::Lifecycle;
use crate::log;
use crate::notify::Notifier;
use crate::problems::Problems;
use crate::reload::{self, Origin};
use crate::simulate;
use crate::spool::OpenError;

mod agents;
mod api;
mod dead_letters;
mod dev_cert;
mod inspect;
mod manual;
mod out;
mod route;
mod schema;
mod status;
mod tail;
mod token;

use agents::AgentsCommand;
use api::ApiPlace;
use dead_letters::DeadLettersCommand;
use dev_cert::DevCertArgs;
use inspect::SpoolCommand;
use manual::{CompletionsArgs, ManArgs};
use out::say;
use route::RouteCommand;
use schema::SchemaArgs;
use status::ReloadArgs;
use tail::TailArgs;
use token::TokenArgs;

/// Something failed while running.
const FAILED: u8 = 1;
/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// `EX_DATAERR` of sysexits.h: the spool is damaged, which needs a person's word.
const DAMAGED: u8 = 65;
/// `EX_CONFIG` of sysexits.h.
const CONFIGURATION: u8 = 78;

/// What scripts can rely on.
const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 somebody should look (status, sinks, reload) or an event goes nowhere (route \
    test); 3 somebody must act now (status); 64 wrong usage; 65 a damaged spool, or no event; 78 wrong configuration.";

/// Relays agent events of a CC-Gateway to Kafka and MQTT: durably, in order, and without ever costing an agent the
/// session because a broker is down.
#[derive(Debug, Parser)]
#[command(name = "ccrelay", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay.
    Run(ConfigFile),
    /// Check a configuration and stop; all mistakes are listed.
    Check(ConfigFile),
    /// Run a stand-in for a CC-Gateway, for development and tests.
    Simulate(SimulateArgs),
    /// Show it all at once: simulated gateway, relay and an embedded Kafka; nothing else is needed.
    Demo(demo::DemoArgs),
    /// Look into the spool, also while the daemon runs.
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Events that were set aside because they can never be delivered.
    #[command(subcommand)]
    Deadletters(DeadLettersCommand),
    /// See where events go.
    #[command(subcommand)]
    Route(RouteCommand),
    /// Make certificates for development: an authority, and one of it for the callback listener.
    DevCert(DevCertArgs),
    /// Print the contract for consumers of events: JSON Schemas and an AsyncAPI document.
    Schema(SchemaArgs),
    /// Look at agents and change their sessions, through the admin API of a running daemon.
    #[command(subcommand)]
    Agents(AgentsCommand),
    /// What a running daemon is doing, and what needs somebody: ends with 0 when nothing does, 2 when it can wait for the morning
    /// (severity warning), 3 when it cannot (critical). These are the concerns of the status page and the conditions of the
    /// alerts. 1: the daemon cannot be reached, or refuses.
    Status(ApiPlace),
    /// Where a running daemon delivers to, and how far each sink is; ends with 2 when one does not deliver.
    Sinks(ApiPlace),
    /// Events of a running daemon as they are stored, one a line, with everything hidden that could be personal. A daemon that
    /// goes away is tried again. Exit code 0: --limit was reached, or nobody reads; 1: it cannot be reached at first, or
    /// refuses.
    Tail(TailArgs),
    /// Make a token for callers of the admin API, or a secret.
    Token(TokenArgs),
    /// Have a running daemon read certificates, secrets, rosters and its log level anew. Ends with 2 when a roster is not in force as
    /// it is.
    Reload(ReloadArgs),
    /// Print what makes a shell complete commands and options, such as `source <(ccrelay completions bash)`.
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command.
    Man(ManArgs),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, default_value = "config.toml", env = "CCRELAY_CONFIG_FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Settings of the simulator, in TOML; keys are the gateway's own property names.
    #[arg(long, short)]
    config: Option<PathBuf>,
}

const NO_LOG: &str = "cannot begin to log";
/// How long the end of the process waits for work whose outcome nobody waits for.
const LAST_WORK: Duration = Duration::from_secs(1);
/// Files that are no connections of the callback listener: the spool, brokers, gateways, the operations listener.
const OTHER_FILES: u64 = 768;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; a closed terminal is no reason to complain about one.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match cli.command {
        Command::Run(file) => run(&file.config),
        Command::Check(file) => with(config::load(&file.config), |config| check(&file.config, &config)),
        Command::Simulate(args) => simulate(args.config.as_deref()),
        Command::Demo(args) => demo::main(args),
        Command::Spool(command) => inspected(inspect::spool(command)),
        Command::Deadletters(command) => inspected(dead_letters::run(command)),
        Command::Route(command) => inspected(route::run(command)),
        Command::DevCert(args) => inspected(dev_cert::run(&args)),
        Command::Schema(args) => inspected(schema::run(args)),
        Command::Agents(command) => inspected(agents::run(command)),
        Command::Status(api) => inspected(status::status(&api)),
        Command::Sinks(api) => inspected(status::sinks(&api)),
        Command::Tail(args) => inspected(tail::run(&args)),
        Command::Token(args) => inspected(token::run(&args)),
        Command::Completions(args) => inspected(manual::completions(&args, Cli::command())),
        Command::Man(args) => inspected(manual::man(&args, Cli::command())),
        Command::Reload(args) => inspected(status::reload(&args)),
    }
}

/// Says what speaks against a configuration that has no mistake, and what keeps this user from starting it.
fn check(file: &Path, config: &Config) -> ExitCode {
    let doubts = config::doubts(config).into_iter().chain(relative_doubt(config));
    let doubts = doubts.chain(tokens_doubt(config)).chain(config::variable_doubts());
    doubts.for_each(|doubt| eprintln!("{}: warning: {doubt}", file.display()));
    let problems = config::hindrances(config);
    if !problems.is_empty() {
        eprintln!("ccrelay: {}", ConfigError::Mistakes { path: file.into(), problems });
        return ExitCode::from(CONFIGURATION);
    }
    say!("{}: no mistakes found", file.display());
    ExitCode::SUCCESS
}

/// That what this process found is not what another one finds. A service and a person are seldom in the same folder.
fn relative_doubt(config: &Config) -> Option<String> {
    let keys = config.relative_paths.join(", ");
    (!keys.is_empty()).then(|| {
        format!(
            "relative paths are looked for below the folder that a command is started in, now here: {keys}"
        )
    })
}

/// A path that leads nowhere stops no start, but is more often misspelt than meant.
fn tokens_doubt(config: &Config) -> Option<String> {
    let path = config.operations.admin_tokens_file.as_deref().filter(|path| !path.exists())?;
    Some(format!(
        "operations.admin_tokens_file: there is no {}, so the admin API refuses everybody",
        path.display()
    ))
}

fn inspected(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("ccrelay: {error:#}");
        let configuration = error.downcast_ref::<ConfigError>().is_some();
        if configuration { ExitCode::from(CONFIGURATION) } else { exit_code(&error) }
    })
}

fn with<T>(loaded: Result<T, ConfigError>, then: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match loaded {
        Ok(loaded) => then(loaded),
        Err(error) => {
            eprintln!("ccrelay: {error}");
            ExitCode::from(CONFIGURATION)
        }
    }
}

/// Signals are heard before the configuration is read: with a large roster that takes long enough to be hit by one, whose default is
/// to end the process.
fn run(path: &Path) -> ExitCode {
    let lifecycle = Lifecycle::default();
    let runtime = match runtime().and_then(|runtime| {
        let _inside = runtime.enter();
        lifecycle.watch_signals().context("cannot watch signals")?;
        Ok(runtime)
    }) {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(error)),
    };
    // Nothing has begun that needs an end, and what is read may be on a disk that never answers.
    let stopping = lifecycle.stopping();
    let ends = runtime.spawn(async move {
        stopping.cancelled().await;
        std::process::exit(0);
    });
    let loaded = reload::load(path);
    ends.abort();
    with(loaded, |(config, origin)| {
        if lifecycle.stopping().is_cancelled() {
            return ExitCode::SUCCESS;
        }
        run_on(runtime, &lifecycle, config, origin)
    })
}

fn run_on(runtime: Runtime, lifecycle: &Lifecycle, mut config: Config, origin: Origin) -> ExitCode {
    let problems = Problems::default();
    let logging = match log::init(&config.log, problems.clone()) {
        Ok(logging) => logging,
        Err(error) => return finish(Err(error).context(NO_LOG)),
    };
    log::log_panics();
    let connections = &mut config.callback.limits.max_connections;
    *connections = raise_open_files(*connections);
    let result = finish_on(runtime, async {
        let manager = Notifier::from_environment()?;
        let Some(mut relay) = Relay::start_unless_stopped(config, lifecycle, &manager).await? else {
            return Ok(());
        };
        relay.show(problems);
        logging.count_in(&relay.metrics);
        relay.watch_files(origin, logging.set_level.clone(), &manager);
        relay.report_to(manager);
        relay.run().await
    });
    let Err(error) = result else { return ExitCode::SUCCESS };
    if logging.json && tracing::enabled!(tracing::Level::ERROR) {
        // Whoever reads JSON reads nothing else.
        tracing::error!(error = format!("{error:#}"), "ccrelay has failed");
    } else {
        logging.say(&format!("ccrelay: {error:#}"));
    }
    exit_code(&error)
}

/// Lets this process have as many files open as the system allows: every connection is one. Gives how many connections
/// that are, up to so many.
fn raise_open_files(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let permitted = permitted_connections(connections, files);
    if permitted < connections {
        let needed = connections as u64 + OTHER_FILES;
        tracing::warn!(
            files,
            needed,
            permitted,
            "fewer files may be open than callback.max_connections needs, so fewer connections are taken: raise LimitNOFILE"
        );
    }
    permitted
}

/// Connections must leave files to the spool: without one it can store nothing.
fn permitted_connections(wanted: usize, files: u64) -> usize {
    let room = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX))
}

fn simulate(path: Option<&Path>) -> ExitCode {
    let settings = match simulator_settings(path) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("ccrelay: {error:#}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    finish(logged("info", LogFormat::Auto, async {
        let lifecycle = Lifecycle::default();
        lifecycle.watch_stops().context("cannot watch signals")?;
        let simulator = simulate::Simulator::start(settings).await?;
        lifecycle.stopping().cancelled().await;
        simulator.stop().await;
        Ok(())
    }))
}

/// Runs what is no relay with its log, whose last lines are written before this returns.
pub(crate) fn logged(
    level: &str,
    format: LogFormat,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let config = LogConfig { level: level.to_owned(), format };
    let _logging = log::init(&config, Problems::default()).context(NO_LOG)?;
    block_on(work)
}

fn simulator_settings(path: Option<&Path>) -> anyhow::Result<simulate::Settings> {
    let Some(path) = path else { return Ok(simulate::Settings::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let settings: simulate::Settings = toml::from_str(&text).with_context(|| path.display().to_string())?;
    settings.check().with_context(|| path.display().to_string())?;
    Ok(settings)
}

/// Runs a future on a runtime of all cores, as [`finish_on`].
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    finish_on(runtime()?, future)
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// Runs a future. What is left of other work then, such as a read from a disk that hangs, has [`LAST_WORK`] and no more.
fn finish_on<T>(runtime: Runtime, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let done = runtime.block_on(future);
    // Dropped, it would wait for work that blocks, for as long as that takes.
    runtime.shutdown_timeout(LAST_WORK);
    done
}

/// Says why it failed, with all causes, and gives the exit code.
pub(crate) fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ccrelay: {error:#}");
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let damaged = error.chain().any(|cause| {
        cause.downcast_ref::<OpenError>().is_some_and(|e| matches!(e, OpenError::Damaged { .. }))
    });
    ExitCode::from(if damaged { DAMAGED } else { FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_spool_and_its_sinks() {
        assert_eq!(permitted_connections(4096, 262_144), 4096);
        assert_eq!(permitted_connections(4096, 4096 + OTHER_FILES), 4096);
        assert_eq!(permitted_connections(4096, 4096), 4096 - usize::try_from(OTHER_FILES).unwrap());
        assert_eq!(permitted_connections(4096, 600), 300, "where there are few, half of them");
        assert_eq!(permitted_connections(4096, 0), 1);
    }
}
