//! `GET /events`: events as they are stored, for people who watch.
//!
//! - **What is shown** is what consumers get, with everything hidden that could be personal: every text but those of
//!   [`OPEN`], what any sink hides, and always the gateway's own words. A text that is new to the vocabulary is hidden
//!   until it is put on that list.
//! - **What is skipped** is counted, in the stream itself: a reader that is slow, or an agent and type of which more than
//!   [`RECORDS_PER_SEC`] records a second would have to be read, misses some. Delivery never waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::api::{Call, query};
use super::fault::Fault;
use super::live::{self, KEEP_ALIVE, Page, Seat, Source};
use crate::deliver::Ways;
use crate::event::normalise::normalise;
use crate::event::{Event, cloudevent, vocabulary};
use crate::route::{Mask, Router};
use crate::spool::{LetterSight, Record, Spool, Watch, Watched};

/// Texts that name things of the gateway and nobody: ids, queues, nodes, and words of our own.
const OPEN: &[&str] = &[
    "call.id",
    "call.leg",
    "queue.name",
    "conference.id",
    "recording.id",
    "recording.taskId",
    "recording.locationId",
    "preview.controlId",
    "phone.leg",
    "linkedPhone.provisionalCallId",
    "qualityCheck.mediaServer",
    "videoSession.channelId",
    "videoSession.role",
    "videoSession.locationId",
    "screenshot.locationId",
    "session.reason",
];
/// Records that are read for one reader in a second: faster than anybody can follow, and a few milliseconds of work.
const RECORDS_PER_SEC: u32 = 500;
/// What stands before every type, and may be left out.
const TYPE_PREFIX: &str = "ccrelay.";
const SECOND: Duration = Duration::from_secs(1);

/// What a reader wants to see.
#[derive(Debug, Default)]
struct Filter {
    gateway: Option<String>,
    agent: Option<String>,
    kind: Option<Kind>,
}

/// A type of events, or all that begin so.
#[derive(Debug)]
enum Kind {
    One(String),
    Beginning(String),
}

impl Kind {
    fn parse(text: &str) -> Result<Kind, Fault> {
        let whole =
            if text.starts_with(TYPE_PREFIX) { text.to_owned() } else { format!("{TYPE_PREFIX}{text}") };
        let kind = match whole.strip_suffix('*') {
            Some(beginning) => Kind::Beginning(beginning.to_owned()),
            None => Kind::One(whole),
        };
        if vocabulary::event_types().iter().any(|known| kind.fits(known)) {
            Ok(kind)
        } else {
            Err(Fault::bad_request("no event has such a type; call.ringing is one, and call.* are several"))
        }
    }

    fn fits(&self, event_type: &str) -> bool {
        match self {
            Kind::One(wanted) => event_type == wanted,
            Kind::Beginning(wanted) => event_type.starts_with(wanted),
        }
    }
}

impl Filter {
    fn lets(&self, record: &Record) -> bool {
        self.gateway.as_deref().is_none_or(|gateway| record.agent.gateway.as_str() == gateway)
            && self.agent.as_deref().is_none_or(|agent| record.agent.agent_id.as_str() == agent)
    }
}

/// Hides what is personal, and what any of these hides.
fn mask(routers: &[Arc<Router>]) -> Mask {
    routers.iter().flat_map(|router| router.masks()).fold(Mask::all_but(OPEN), Mask::and)
}

/// Dead letters for who may only look: of their events no more is shown than of those that come, and no body.
pub(super) struct Veiled {
    ways: Ways,
    mask: Mask,
}

impl Veiled {
    pub(super) fn new(ways: &Ways) -> Veiled {
        Veiled { ways: ways.clone(), mask: mask(&ways.routers()) }
    }
}

impl LetterSight for Veiled {
    fn event(&self, sink: &str, event: Event) -> Event {
        let mut event = self.ways.event(sink, event);
        self.mask.apply(&mut event);
        event
    }

    fn body(&self, _: &str) -> bool {
        false
    }
}

/// Hides what is personal, as the configuration that is in force has it.
struct Veil {
    ways: Ways,
    seen: Vec<Arc<Router>>,
    mask: Mask,
}

impl Veil {
    fn new(ways: Ways) -> Veil {
        let seen = ways.routers();
        Veil { mask: mask(&seen), seen, ways }
    }

    fn hide(&mut self, event: &mut Event) {
        let routers = self.ways.routers();
        let same = |(one, other): (&Arc<Router>, &Arc<Router>)| Arc::ptr_eq(one, other);
        if !routers.iter().zip(&self.seen).all(same) {
            (self.mask, self.seen) = (mask(&routers), routers);
        }
        self.mask.apply(event);
    }
}

/// One reader and what it is about to be shown.
struct Reader {
    seat: Seat,
    watch: Watch,
    spool: Spool,
    filter: Filter,
    veil: Veil,
    ready: VecDeque<Bytes>,
    /// Records not shown since that was last said.
    skipped: u64,
    /// Records read since `second` began.
    read: u32,
    second: Instant,
    tick: Interval,
    spoke: Instant,
    ended: bool,
}

pub(super) fn events(call: &Call<'_>, seat: Seat) -> Result<Response<Page>, Fault> {
    let query = query(call.query, &["gateway", "agent", "type"])?;
    let text = |name: &str| query.text(name).map(str::to_owned);
    let filter = Filter {
        gateway: text("gateway"),
        agent: text("agent"),
        kind: query.text("type").map(Kind::parse).transpose()?,
    };
    if filter.gateway.as_ref().is_some_and(|name| call.parts.gateways.iter().all(|g| g.as_str() != name)) {
        return Err(Fault::bad_request("no gateway has this name"));
    }
    let mut tick = tokio::time::interval(SECOND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = Instant::now();
    let reader = Reader {
        seat,
        watch: call.parts.spool.watch(),
        spool: call.parts.spool.clone(),
        filter,
        veil: Veil::new(call.parts.sight.clone()),
        ready: VecDeque::from([live::event(
            "begin",
            &serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }),
        )
        .into()]),
        skipped: 0,
        read: 0,
        second: now,
        tick,
        spoke: now,
        ended: false,
    };
    Ok(live::events(reader))
}

impl Source for Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                self.spoke = Instant::now();
                return Some(ready);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = self.seat.stopped() => self.end("stopping"),
                _ = self.tick.tick() => self.tick(),
                seen = self.watch.next() => match seen {
                    Some(Watched::Record(record)) => self.show(&record),
                    Some(Watched::Missed(count)) => self.skipped += count,
                    None => self.end("stopping"),
                },
            }
        }
    }
}

impl Reader {
    fn end(&mut self, reason: &str) {
        self.ended = true;
        self.ready.push_back(live::ended(reason));
    }

    fn tick(&mut self) {
        if self.skipped > 0 {
            let skipped = std::mem::take(&mut self.skipped);
            let said = live::event("skipped", &serde_json::json!({ "records": skipped }));
            self.ready.push_back(said.into());
        }
        if self.spoke.elapsed() >= KEEP_ALIVE {
            self.ready.push_back(live::keep_alive());
        }
        // Once a second is often enough, and needs no memory of who was let in when.
        if !self.seat.is_admitted() {
            self.end("unauthorised");
        }
    }

    fn show(&mut self, record: &Record) {
        if !self.filter.lets(record) {
            return;
        }
        if self.second.elapsed() >= SECOND {
            (self.second, self.read) = (Instant::now(), 0);
        }
        if self.read >= RECORDS_PER_SEC {
            self.skipped += 1;
            return;
        }
        self.read += 1;
        // What cannot be read is a dead letter, and shown as such.
        let events = normalise(&record.view(self.spool.id())).unwrap_or_default();
        let mut shown = Vec::new();
        for mut event in events {
            if self.filter.kind.as_ref().is_none_or(|kind| kind.fits(event.event_type)) {
                self.veil.hide(&mut event);
                shown.extend(live::message("event", &cloudevent::structured(&event)));
            }
        }
        if !shown.is_empty() {
            self.ready.push_back(shown.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::texts;

    #[test]
    fn what_is_open_exists_and_holds_no_number_text_or_name() {
        let all = texts::all_paths();
        for path in OPEN {
            assert!(all.iter().any(|known| known == path), "{path} is no text of an event");
        }
        for personal in [
            "call.caller",
            "call.called",
            "call.otherParty",
            "call.attachedData",
            "message.text",
            "note.text",
            "preview.numbers",
            "conference.participant",
            "recording.file",
            "qualityCheck.monitoredAgentName",
        ] {
            assert!(all.iter().any(|known| known == personal), "{personal}");
            assert!(!OPEN.contains(&personal), "{personal}");
        }
    }

    #[test]
    fn types_are_named_whole_or_by_their_beginning_and_must_exist() {
        assert!(Kind::parse("call.ringing").unwrap().fits("ccrelay.call.ringing"));
        assert!(Kind::parse("ccrelay.call.*").unwrap().fits("ccrelay.call.ended"));
        assert!(!Kind::parse("call.*").unwrap().fits("ccrelay.agent.ready"));
        assert!(Kind::parse("*").unwrap().fits("ccrelay.unknown"));
        for wrong in ["", "call", "nothing.*", "call.ring"] {
            assert!(Kind::parse(wrong).is_err(), "{wrong}");
        }
    }
}
