//! One line for each event, as its consumer has it: when, who, the agent's state, what happened, which call, how long
//! it took.

use std::time::Duration;

use serde_json::Value;

use super::kafka::Record;
use super::screen::{Screen, Style, fit, paint};
use crate::clock::Timestamp;

/// The line of an event that did not come by Kafka.
pub(crate) struct Line(Record);

impl Line {
    /// Reads a structured CloudEvent that arrived at `now`; none when it is not an event of ours.
    pub(crate) fn of_cloud_event(event: &Value, now: Timestamp) -> Option<Line> {
        let text = |name: &str| event[name].as_str();
        Some(Line(Record {
            agent: text("subject")?.to_owned(),
            event_type: text("type")?.to_owned(),
            sequence: text("sequence")?.parse().ok()?,
            time: text("time")?.parse().ok()?,
            latency: now.since(text("recordedtime")?.parse().ok()?),
            data: event["data"].clone(),
        }))
    }

    /// As it stands on this screen.
    pub(crate) fn text(&self, screen: &Screen) -> String {
        line(&self.0, screen.width(), screen.colours())
    }

    /// The names of the columns on this screen.
    pub(crate) fn heading(screen: &Screen) -> String {
        heading(screen.width(), screen.colours())
    }
}

/// What stands before every type and says nothing here.
const TYPE_PREFIX: &str = "ccrelay.";
const GAP: &str = "  ";
/// Slower than this is worth a colour.
const SLOW: Duration = Duration::from_millis(500);

/// Cells of each column; those of width 0 are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    time: usize,
    agent: usize,
    state: usize,
    event: usize,
    call: usize,
    latency: usize,
}

impl Columns {
    /// As much as fits in `width`: first the time loses its milliseconds, then the calls go.
    fn of(width: usize) -> Columns {
        let mut columns = match width {
            90.. => Columns { time: 12, agent: 5, state: 16, event: 24, call: 1, latency: 7 },
            68.. => Columns { time: 8, agent: 5, state: 10, event: 22, call: 1, latency: 7 },
            _ => Columns { time: 8, agent: 5, state: 10, event: 1, call: 0, latency: 7 },
        };
        let left = width.saturating_sub(columns.total());
        match columns.call {
            0 => columns.event = (columns.event + left).min(38),
            _ => columns.call = (columns.call + left).min(60),
        }
        columns
    }

    fn widths(self) -> [usize; 6] {
        [self.time, self.agent, self.state, self.event, self.call, self.latency]
    }

    fn total(self) -> usize {
        let shown = self.widths().iter().filter(|width| **width > 0).count();
        self.widths().iter().sum::<usize>() + GAP.len() * (shown - 1)
    }

    fn line(self, cells: [(String, Style); 6], colours: bool) -> String {
        let mut shown = Vec::with_capacity(6);
        for (width, (text, style)) in self.widths().into_iter().zip(cells) {
            if width > 0 {
                shown.push(paint(colours, style, &fit(&text, width)));
            }
        }
        shown.join(GAP)
    }
}

/// The names of the columns.
pub(super) fn heading(width: usize, colours: bool) -> String {
    let columns = Columns::of(width);
    let names = ["time (UTC)", "agent", "state", "event", "call, parties, content", "latency"];
    columns.line(names.map(|name| (name.to_owned(), Style::DIM)), colours)
}

/// The line of an event.
pub(super) fn line(record: &Record, width: usize, colours: bool) -> String {
    let columns = Columns::of(width);
    let time = record.time.to_string();
    let agent = &record.data["agent"];
    let state = agent["state"].as_str().unwrap_or("?");
    let changed = agent["changed"].as_bool().unwrap_or(false);
    let event = record.event_type.strip_prefix(TYPE_PREFIX).unwrap_or(&record.event_type);
    let milliseconds = record.latency.as_millis();
    let latency = if milliseconds < 10_000 {
        format!("{milliseconds:>4} ms")
    } else {
        format!("{:>5} s", record.latency.as_secs())
    };
    let slow = if record.latency >= SLOW { Style::YELLOW } else { Style::DIM };
    columns.line(
        [
            // Of `2026-11-24T03:32:59.120Z` the time of day.
            (time.get(11..11 + columns.time).unwrap_or_default().to_owned(), Style::DIM),
            (record.agent.clone(), Style::BOLD),
            (state.to_owned(), if changed { state_style(state) } else { Style::DIM }),
            (event.to_owned(), event_style(event)),
            (content(&record.data), Style::NONE),
            (latency, slow),
        ],
        colours,
    )
}

fn state_style(state: &str) -> Style {
    match state {
        "ready" => Style::GREEN,
        "busy" => Style::YELLOW,
        "workingAfterCall" => Style::CYAN,
        "notReady" | "rest" => Style::MAGENTA,
        "signedIn" => Style::BLUE,
        "signedOut" => Style::RED,
        _ => Style::NONE,
    }
}

/// Calls stand out a little; what is rare more.
fn event_style(event: &str) -> Style {
    match event.split('.').next() {
        Some("session") if event != "session.ended" && event != "session.lost" => Style::BLUE,
        Some("session" | "unknown") => Style::RED,
        Some("call" | "message" | "conference") => Style::NONE,
        _ => Style::DIM,
    }
}

/// What the event is about, in few words.
fn content(data: &Value) -> String {
    let text = |pointer: &str| match data.pointer(pointer)? {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let code = |pointer: &str| text(&format!("{pointer}/name")).or_else(|| text(&format!("{pointer}/code")));
    let parties = match (text("/call/caller"), text("/call/called")) {
        (Some(caller), Some(called)) => Some(format!("{caller}\u{2192}{called}")),
        (Some(caller), None) => Some(format!("{caller} \u{2192}")),
        (None, Some(called)) => Some(format!("\u{2192} {called}")),
        (None, None) => text("/call/otherParty")
            .map(|party| format!("with {party}"))
            .or_else(|| partners(data).map(|parties| format!("with {parties}"))),
    };
    let message = text("/message/text").map(|text| format!("\u{201c}{text}\u{201d}"));
    let labelled = |label: &str, value: Option<String>| value.map(|value| format!("{label} {value}"));
    let parts = [
        text("/call/id"),
        // A message says more than who the two are.
        if message.is_some() { message } else { parties },
        labelled("conference", text("/conference/id")),
        text("/conference/participant"),
        labelled("recording", text("/recording/taskId").or_else(|| text("/recording/id"))),
        labelled("preview", text("/preview/controlId")),
        labelled("desk phone", text("/linkedPhone/number").or_else(|| code("/linkedPhone/status"))),
        labelled("inspector", text("/qualityCheck/inspectorId")),
        labelled("room", text("/videoSession/channelId")),
        text("/note/text").map(|text| format!("\u{201c}{text}\u{201d}")),
        text("/session/reason"),
        code("/agent/reason"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(" ")
}

fn partners(data: &Value) -> Option<String> {
    let partners = data.pointer("/call/partners")?.as_array()?;
    let partners: Vec<&str> = partners.iter().filter_map(Value::as_str).collect();
    (!partners.is_empty()).then(|| partners.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ringing() -> Record {
        Record {
            agent: "1001".to_owned(),
            event_type: "ccrelay.call.ringing".to_owned(),
            sequence: 7,
            time: Timestamp(1_784_529_722_590),
            latency: Duration::from_millis(4),
            data: json!({
                "agent": { "state": "busy", "changed": true },
                "call": { "id": "1456403661-19", "caller": "70092", "called": "71001" },
            }),
        }
    }

    #[test]
    fn a_line_shows_when_who_what_and_which_call() {
        let line = line(&ringing(), 100, false);
        let expected = "06:42:02.590  1001   busy              call.ringing              \
                        1456403661-19 70092\u{2192}71001      4 ms";
        assert_eq!(line, expected);
    }

    #[test]
    fn lines_keep_to_the_width_of_the_terminal() {
        for width in 40..160 {
            for line in [line(&ringing(), width, false), heading(width, false)] {
                let cells = line.chars().count();
                assert!(cells <= width, "{cells} of {width}: {line}");
            }
        }
    }

    #[test]
    fn content_is_what_the_event_has() {
        assert_eq!(content(&json!({ "call": { "id": "1-2", "otherParty": "7" } })), "1-2 with 7");
        assert_eq!(content(&json!({ "call": { "partners": ["7", "8"] } })), "with 7 + 8");
        assert_eq!(
            content(&json!({ "call": { "caller": "7" }, "message": { "text": "hello" } })),
            "\u{201c}hello\u{201d}"
        );
        assert_eq!(content(&json!({ "agent": { "reason": { "code": 3 } } })), "3");
        assert_eq!(content(&json!({})), "");
    }
}
