//! `ccrelay tail`: events of a running daemon as they are stored, one line each. What could be personal is hidden, as the
//! daemon does it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::Value;

use super::api::{ApiPlace, Caller, Event, Events, Refused};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::demo::{Line, Screen};

/// The first wait before a daemon that went away is tried again, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Which events.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    api: ApiPlace,
    /// Of the agent with this id only.
    #[arg(long)]
    agent: Option<String>,
    /// Of this gateway only.
    #[arg(long)]
    gateway: Option<String>,
    /// Of this type only, such as call.ringing, or all that begin so: 'call.*'.
    #[arg(long = "type")]
    kind: Option<String>,
    /// End after so many events.
    #[arg(long)]
    limit: Option<u64>,
}

/// Prints events until the limit, or for ever: a daemon that goes away is tried again. Fails when it cannot be reached at
/// first, or refuses.
pub(super) fn run(args: &TailArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let caller = Caller::new(&args.api)?;
        let path = path(args);
        let mut printer = Printer::new(args);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut events = caller.events(&path).await?;
        loop {
            let lost = match follow(&mut events, &mut printer, &mut backoff).await {
                Ok(()) => return printer.end(),
                Err(lost) => lost,
            };
            eprintln!("ccrelay: {lost:#}; trying again");
            events = loop {
                tokio::time::sleep(backoff.next_wait()).await;
                match caller.events(&path).await {
                    Ok(events) => break events,
                    // A token that was taken away does not come back by itself.
                    Err(error) if error.downcast_ref::<Refused>().is_some_and(|r| r.is_final()) => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            };
        }
    })
}

/// Returns when enough was printed; fails when the answer ends.
async fn follow(events: &mut Events, printer: &mut Printer, backoff: &mut Backoff) -> anyhow::Result<()> {
    loop {
        if printer.is_done() {
            return Ok(());
        }
        let Event { name, data } = events.next().await?;
        backoff.reset();
        match name.as_str() {
            "event" => printer.event(&data),
            "skipped" => {
                let records = data["records"].as_u64().unwrap_or_default();
                eprintln!("ccrelay: {records} records were not shown: there were too many");
            }
            "end" => anyhow::bail!("the daemon ended it ({})", data["reason"].as_str().unwrap_or("-")),
            _ => {}
        }
    }
}

fn path(args: &TailArgs) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("agent", &args.agent), ("gateway", &args.gateway), ("type", &args.kind)] {
        query.extend_pairs(value.as_ref().map(|value| (name, value)));
    }
    format!("events?{}", query.finish())
}

/// Lines on standard output.
struct Printer {
    json: bool,
    screen: Screen,
    clock: Clock,
    left: Option<u64>,
}

impl Printer {
    fn new(args: &TailArgs) -> Printer {
        let mut screen = Screen::standard(false);
        let json = args.api.json;
        if !json && std::io::stdout().is_terminal() {
            let heading = Line::heading(&screen);
            screen.line(&heading);
        }
        Printer { json, screen, clock: Clock::system(), left: args.limit }
    }

    fn end(&self) -> anyhow::Result<ExitCode> {
        match self.screen.fault() {
            Some(error) => Err(anyhow!("standard output cannot be written: {error}")),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    /// Enough was printed, or nobody reads any more.
    fn is_done(&self) -> bool {
        self.left == Some(0) || self.screen.is_closed()
    }

    fn event(&mut self, event: &Value) {
        let line = if self.json {
            Some(event.to_string())
        } else {
            Line::of_cloud_event(event, self.clock.now()).map(|line| line.text(&self.screen))
        };
        if let Some(line) = line {
            self.screen.line(&line);
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
    }
}

/// The parts of a stream of server-sent events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: Vec<u8>,
}

impl Parser {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How much waits for its end.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next event that is whole. Comments are none.
    ///
    /// # Errors
    /// When its data are no JSON.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") else { return Ok(None) };
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8(block).context("the daemon sends no UTF-8")?;
            let field =
                |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let (Some(name), Some(data)) = (field("event"), field("data")) {
                let data = serde_json::from_str(data).context("the daemon sends no JSON")?;
                return Ok(Some(Event { name: name.to_owned(), data }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_from_a_stream_wherever_it_is_cut() {
        let stream = b": still here\n\nevent: begin\ndata: {}\n\nevent: event\ndata: {\"id\":\"a: b\"}\n\n";
        for cut in 0..stream.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                parser.add(part);
                while let Some(event) = parser.next().unwrap() {
                    found.push((event.name, event.data["id"].as_str().map(str::to_owned)));
                }
            }
            assert_eq!(found, [("begin".to_owned(), None), ("event".to_owned(), Some("a: b".to_owned()))]);
            assert_eq!(parser.waiting(), 0);
        }
    }
}
