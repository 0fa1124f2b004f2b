//! Log lines: to standard error, as text on a terminal and as JSON otherwise, and never more of a kind than anybody can read.
//!
//! - **A kind** is one place in the code that logs (a callsite), so there are only so many. Of each, [`LINES`] pass in
//!   [`INTERVAL`]; of the rest a line says how many there were ("more like this"), at the level of the kind. Debug and trace
//!   lines all pass: whoever turns them on wants them all. So do those of [`AUDIT_TARGET`], whatever the level is: who has changed
//!   what must be known also where nobody wants to read of the daemon's life. And so does what says how many lines are missing.
//! - What is known to come in floods (refused pushes, broken connections) is calmed at its place already, by reason
//!   ([`crate::calm`]); this here bounds whatever nobody thought of, lines of libraries included.
//! - A panic is a line like any other.
//! - **Nobody waits for whoever reads them** ([`lines`]).

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use crate::config::{LogConfig, LogFormat, levels};
use crate::metrics::Metrics;
use crate::problems::Problems;
use crate::reload::SetLogLevel;

mod lines;

use lines::{Lines, Queued};

/// Lines of a kind in an interval.
const LINES: u32 = 50;
/// After this time a kind begins anew.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether an interval is over.
const LOOK: Duration = Duration::from_secs(1);
/// Of lines that say who has changed what: they all come from one place, and none of them may be left out.
pub(crate) const AUDIT_TARGET: &str = "ccrelay::audit";
/// Of the lines that say how many were left out; there is one for a kind and interval.
const OWN_TARGET: &str = "ccrelay::log";
/// Of the line that says how many could not be written.
const DROPPED_TARGET: &str = "ccrelay::log::dropped";
/// Characters that are kept of what a kind says.
const MESSAGE_CHARS: usize = 200;
/// How long the end of the process waits for its last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines go and how they look. When it is dropped, lines that wait are written first.
pub(crate) struct Logging {
    /// Changes the level; none when the environment decides it.
    pub(crate) set_level: Option<SetLogLevel>,
    /// Lines are JSON.
    pub(crate) json: bool,
    lines: Arc<Lines>,
}

impl Logging {
    /// From now on lines that are dropped are counted in these metrics, with those before.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        self.lines.count_in(&metrics.log_lines_dropped);
    }

    /// Says something for people among the lines, after those before it.
    pub(crate) fn say(&self, text: &str) {
        self.lines.say(text);
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// Sets logging up, once in a process; a second time it does nothing. Warnings and errors that pass are noted among
/// `problems` too.
///
/// # Errors
/// When the thread that writes lines cannot be started.
pub(crate) fn init(config: &LogConfig, problems: Problems) -> std::io::Result<Logging> {
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let from_environment = levels::of_environment().unwrap_or_else(|error| {
        // With a configuration it was refused before; there are commands that have none.
        eprintln!("ccrelay: {}: {error}", levels::VARIABLE);
        None
    });
    let fixed = from_environment.is_some();
    let filter = with_own(EnvFilter::new(from_environment.as_ref().unwrap_or(&config.level)));
    let (filter, handle) = reload::Layer::new(filter);
    let kinds = Arc::new(Kinds::default());
    let lines = Lines::to_stderr()?;
    let format = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(Queued(lines.clone()));
    let format =
        if json { format.json().flatten_event(true).with_span_list(false).boxed() } else { format.boxed() };
    let limit = Limit(kinds.clone());
    let set = tracing_subscriber::registry().with(filter).with(limit).with(problems).with(format).try_init();
    match set {
        Ok(()) => tell_repetitions(&kinds),
        Err(_) => tracing::debug!("logging was set up before"),
    }
    let set_level: SetLogLevel = Arc::new(move |level| {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        handle.reload(with_own(filter)).map_err(|error| error.to_string())
    });
    Ok(Logging { set_level: (!fixed).then_some(set_level), json, lines })
}

/// The same filter, but for lines of the audit and those that say how many could not be written.
fn with_own(filter: EnvFilter) -> EnvFilter {
    let always = [AUDIT_TARGET, DROPPED_TARGET].map(|target| format!("{target}=info").parse());
    always.into_iter().flatten().fold(filter, EnvFilter::add_directive)
}

/// From now on a panic of any thread is a line of the log.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, thread = std::thread::current().name(), "a thread panicked");
    }));
}

fn tell_repetitions(kinds: &Arc<Kinds>) {
    let kinds: Weak<Kinds> = Arc::downgrade(kinds);
    let tell = move || {
        while let Some(kinds) = kinds.upgrade() {
            kinds.over(Instant::now()).iter().for_each(Repetition::tell);
            drop(kinds);
            std::thread::sleep(LOOK);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("log".into()).spawn(tell) {
        tracing::error!(%error, "how many lines are left out will not be said");
    }
}

/// Leaves out lines beyond [`LINES`].
struct Limit(Arc<Kinds>);

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO
            || [AUDIT_TARGET, OWN_TARGET, DROPPED_TARGET].contains(&metadata.target())
        {
            return true;
        }
        self.0.admits(metadata, || message(event))
    }
}

/// The lines of each kind in its interval.
#[derive(Debug, Default)]
struct Kinds {
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    lines: u32,
    left_out: Option<Repetition>,
}

/// Lines that were left out.
#[derive(Debug)]
struct Repetition {
    more: u64,
    metadata: &'static Metadata<'static>,
    message: String,
}

impl Kinds {
    fn admits(&self, metadata: &'static Metadata<'static>, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Kind { since: Instant::now(), lines: 0, left_out: None };
        let kind = kinds.entry(metadata.callsite()).or_insert_with(new);
        if kind.lines < LINES {
            kind.lines += 1;
            return true;
        }
        match &mut kind.left_out {
            Some(repetition) => repetition.more += 1,
            None => kind.left_out = Some(Repetition { more: 1, metadata, message: message() }),
        }
        false
    }

    /// What was left out in intervals that are over; the kinds begin anew.
    fn over(&self, now: Instant) -> Vec<Repetition> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let over = kinds.extract_if(|_, kind| now.saturating_duration_since(kind.since) >= INTERVAL);
        over.filter_map(|(_, kind)| kind.left_out).collect()
    }
}

impl Repetition {
    fn tell(&self) {
        let Repetition { more, metadata, message } = self;
        let of = metadata.target();
        match *metadata.level() {
            Level::ERROR => tracing::error!(target: OWN_TARGET, more, of, like = message, "more like this"),
            Level::WARN => tracing::warn!(target: OWN_TARGET, more, of, like = message, "more like this"),
            _ => tracing::info!(target: OWN_TARGET, more, of, like = message, "more like this"),
        }
    }
}

/// What an event says, without its fields.
fn message(event: &Event<'_>) -> String {
    struct Said(String);
    impl Visit for Said {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}").chars().take(MESSAGE_CHARS).collect();
            }
        }
    }
    let mut said = Said(String::new());
    event.record(&mut said);
    said.0
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn count(&self, part: &str) -> usize {
            let bytes = self.0.lock().unwrap();
            std::str::from_utf8(&bytes).unwrap().lines().filter(|line| line.contains(part)).count()
        }
    }

    fn logged(work: impl FnOnce(&Kinds)) -> Lines {
        logged_at("debug", work)
    }

    fn logged_at(level: &str, work: impl FnOnce(&Kinds)) -> Lines {
        let (lines, kinds) = (Lines::default(), Arc::new(Kinds::default()));
        let writer = lines.clone();
        let layer = fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry()
            .with(with_own(EnvFilter::new(level)))
            .with(Limit(kinds.clone()))
            .with(layer);
        tracing::subscriber::with_default(subscriber, || work(&kinds));
        lines
    }

    fn warn(times: u32) {
        (0..times).for_each(|n| tracing::warn!(n, "it rains"));
    }

    #[test]
    fn of_a_flood_so_many_lines_pass_and_one_says_how_many_more_there_were() {
        let now = Instant::now();
        let lines = logged(|kinds| {
            warn(LINES + 7);
            (0..LINES + 7).for_each(|_| tracing::debug!("it drips"));
            tracing::error!("something else");
            assert!(kinds.over(now).is_empty(), "the interval is not over");
            kinds.over(Instant::now() + INTERVAL).iter().for_each(Repetition::tell);
            // All begins anew.
            warn(1);
            assert!(kinds.over(Instant::now() + INTERVAL).is_empty());
        });
        assert_eq!(lines.count(r#""message":"it rains""#), LINES as usize + 1);
        assert_eq!(lines.count(r#""message":"more like this""#), 1);
        assert_eq!(lines.count(r#""level":"WARN","message":"more like this","more":7"#), 1);
        assert_eq!(lines.count(r#""like":"it rains""#), 1);
        assert_eq!(lines.count("something else"), 1);
        assert_eq!(lines.count("it drips"), LINES as usize + 7);
    }

    #[test]
    fn of_lines_that_say_who_has_changed_what_none_is_left_out() {
        let lines = logged(|kinds| {
            (0..LINES + 10).for_each(|n| tracing::info!(target: AUDIT_TARGET, n, "somebody has changed it"));
            assert!(kinds.over(Instant::now() + INTERVAL).is_empty());
        });
        assert_eq!(lines.count("somebody has changed it"), LINES as usize + 10);
    }

    #[test]
    fn who_has_changed_what_and_how_many_lines_are_missing_is_said_at_every_level() {
        for level in
            ["warn", "error", "off", "ccrelay::audit=off", "ccrelay::log=off", "ccrelay=error,rumqttc=debug"]
        {
            let lines = logged_at(level, |_| {
                tracing::info!("a day like any other");
                tracing::info!(target: AUDIT_TARGET, "somebody has changed it");
                tracing::warn!(target: DROPPED_TARGET, dropped = 7, "some are missing");
            });
            assert_eq!(lines.count("somebody has changed it"), 1, "{level}");
            assert_eq!(lines.count("some are missing"), 1, "{level}");
            assert_eq!(lines.count("a day like any other"), 0, "{level}");
        }
    }

    #[test]
    fn what_is_kept_of_kinds_goes_with_their_intervals() {
        logged(|kinds| {
            warn(LINES * 100);
            assert_eq!(kinds.kinds.lock().unwrap().len(), 1);
            kinds.over(Instant::now() + INTERVAL);
            assert!(kinds.kinds.lock().unwrap().is_empty());
        });
    }
}
