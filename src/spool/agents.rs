//! What the spool knows of each agent: the next sequence number, the state, and the last batch, so that a batch that
//! the gateway sends again is known as a repeat and carries the ids of the first delivery.
//!
//! Pushes have no id. The gateway repeats a batch when it has not seen our answer, 10 s later
//! (`EVENT_PUSH_FAIL_INTERVALTIME`, guide §1.3.4), perhaps with new events at its end. So a batch is a repeat when
//! - it begins with all events of the agent's last batch, byte for byte, and
//! - it comes within the window after that, and
//! - either every one of those events has an `eventGenTime` (two different events never have all bytes equal then), or
//!   nothing shows that our answer to the last batch arrived (see [`crate::exchange`]) and the gateway's retry interval has
//!   passed, or the gateway had begun it before that answer left: it sends an agent's pushes one by one, so it had given up
//!   waiting.
//!
//! In the last case both wait here at the same time, as after a machine that stood still, and the repeat may even be read
//! first; the batch that is then read last is the beginning of the one before.
//!
//! How long after another a batch comes is not measured by wall time, which may be put forward or back in between, but across a start.
//!
//! Two equal chat messages in a row on one connection are therefore two events, and so are two on connections of their own
//! that the gateway ends when it is answered: the second request, or the end, shows that the first answer arrived. What is
//! known of that is stored with the batch, so that a restart forgets none of it but what the last second before a crash told.
//! Where nothing shows it, two equal batches are one: of an agent's pushes on several kept connections, each may be the last
//! on its own.
//!
//! Only a push can repeat, and only a push. What answers a poll has left the gateway's queue, so an equal answer brings
//! events that are new, and nothing after a poll is taken for a repeat of what came before it.
//!
//! Nor does anything repeat what came before the end of a session: every session begins with the same events, and agents would
//! stay where the first of them left them. A push of the old session that the gateway repeats only then comes as new events,
//! with other ids: a consumer who is told something twice is better off than one who is never told. The start of a session
//! ends nothing, because it is also told of one that goes on, and the gateway's first push may come before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::{AgentKey, Record};
use crate::clock::Timestamp;
use crate::event::AgentId;
use crate::event::envelope::{self, RawEvent};
use crate::event::normalise::{EventRef, RecordKind, Repeated};
use crate::event::report::Report;
use crate::event::state::{self, AgentSnapshot, AgentState, CallOutcome, Transition};
use crate::event::vocabulary;
use crate::exchange::Exchange;

/// When a batch counts as a repeat.
#[derive(Debug, Clone, Copy)]
pub struct RepeatRules {
    /// No repeat comes sooner than this after the first delivery, unless `eventGenTime` proves it.
    pub soonest: Duration,
    /// No repeat comes later than this: the gateway has given the agent up by then.
    pub window: Duration,
}

/// How long nothing may be heard of a call, and when a batch counts as a repeat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) repeats: &'a RepeatRules,
    pub(super) call_age: Duration,
}

/// One agent's row; all but the mark is stored. Its parts are replaced and not changed, so that a copy of what was before
/// costs nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct AgentRow {
    pub(super) next_sequence: u64,
    pub(super) snapshot: Arc<AgentSnapshot>,
    pub(super) last: Option<Arc<LastBatch>>,
}

/// The agent's last push, as long as no poll has come after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LastBatch {
    received_at: Timestamp,
    events: Vec<LastEvent>,
    /// The number of the first event, in rows of early releases, where the others count on.
    #[serde(rename = "sequence", default, skip_serializing)]
    counts_from: Option<u64>,
    #[serde(rename = "arrived", default, skip_serializing_if = "Reply::may_be_lost")]
    reply: Reply,
}

/// Our answer to it, as far as is known whether it arrived. Stored as what is known then.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "bool", into = "bool")]
enum Reply {
    #[default]
    Unknown,
    /// The exchange goes on to tell.
    Sent(Exchange),
    Arrived,
}

/// One event of it: a digest of its bytes, whether it has an `eventGenTime`, its first delivery and its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LastEvent {
    digest: u64,
    timed: bool,
    first: EventRef,
    #[serde(default)]
    sequence: u64,
}

/// What the book adds to a new record.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) sequence: u64,
    pub(super) repeats: Vec<Repeated>,
    pub(super) before: Arc<AgentSnapshot>,
}

/// What events did to agents, to be counted when it is committed.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The states in which events came that do not fit them.
    pub(super) unexpected: Vec<AgentState>,
    /// How calls ended.
    pub(super) ended: Vec<CallOutcome>,
    /// Events by category, also those that came again.
    pub(super) received: Vec<(&'static str, u64)>,
    /// Events that came again.
    pub(super) repeated: u64,
}

/// One event of a new record, as far as the book follows it: read by whoever brings the record, so that the one who follows
/// all agents has the less to do.
#[derive(Debug)]
pub(super) struct NewEvent {
    category: &'static str,
    digest: u64,
    /// Its `eventGenTime`.
    time: Option<Timestamp>,
    report: Option<Report<'static>>,
}

impl NewEvent {
    fn of(event: &RawEvent<'_>, agent_id: &AgentId) -> NewEvent {
        // What is another's says nothing of this agent, as in the normaliser.
        let followed = Some(event).filter(|event| !event.is_of_other_than(agent_id));
        NewEvent {
            category: event.entry.map_or(vocabulary::UNKNOWN_CATEGORY, |entry| entry.category),
            digest: digest(event.raw.get().as_bytes()),
            time: event.gen_time,
            report: followed.and_then(Report::of).map(Report::into_owned),
        }
    }
}

/// The events of a record that has an envelope which can be read.
pub(super) fn read_events(kind: RecordKind, agent_id: &AgentId, body: &[u8]) -> Option<Vec<NewEvent>> {
    match kind {
        RecordKind::Push | RecordKind::Poll => {
            let unread = envelope::take_apart(body).ok()?;
            Some(unread.events_from(0).map(|event| NewEvent::of(&event, agent_id)).collect())
        }
        // One event of ours, without an envelope.
        RecordKind::Lifecycle => None,
    }
}

/// The same of a body that was read before.
pub(super) fn new_events(events: &[RawEvent<'_>], agent_id: &AgentId) -> Vec<NewEvent> {
    events.iter().map(|event| NewEvent::of(event, agent_id)).collect()
}

/// All agents, in memory; the writer thread owns it and stores what changed.
#[derive(Debug, Default)]
pub(super) struct AgentBook {
    places: HashMap<AgentKey, usize>,
    slots: Vec<Slot>,
    /// The number at which agents begin that come for the first time.
    first_sequence: u64,
    /// What each agent touched by the commit under way was before it; nothing where it was not there.
    undo: Vec<(usize, Option<AgentRow>)>,
    /// What happened in the commit under way.
    tally: Tally,
    /// Agents whose stored row is old.
    dirty: Vec<usize>,
    /// Those of them that the round in progress has still to store, the last one first.
    round: Vec<usize>,
    /// Agents whose stored row does not say yet that the last answer arrived, where that matters and may still be told.
    untold: Vec<usize>,
}

/// One agent of the book.
#[derive(Debug)]
struct Slot {
    agent: AgentKey,
    row: AgentRow,
    /// Stands in `undo`.
    touched: bool,
    /// Stands in `dirty`.
    dirty: bool,
    /// Stands in `untold`.
    untold: bool,
}

impl AgentBook {
    /// A book without agents; those that come begin with this number.
    pub(super) fn new(first_sequence: u64) -> AgentBook {
        AgentBook { first_sequence, ..AgentBook::default() }
    }

    pub(super) fn insert(&mut self, agent: AgentKey, mut row: AgentRow) {
        if let Some(last) = row.last.as_mut().map(Arc::make_mut)
            && let Some(first) = last.counts_from.take()
        {
            for (sequence, event) in (first..).zip(&mut last.events) {
                event.sequence = sequence;
            }
        }
        let (place, _) = self.place_of(&agent);
        self.slots[place].row = row;
    }

    /// The rows of all agents.
    pub(super) fn into_rows(self) -> impl Iterator<Item = (AgentKey, AgentRow)> {
        self.slots.into_iter().map(|slot| (slot.agent, slot.row))
    }

    /// Where this agent is, and whether it has come just now.
    fn place_of(&mut self, agent: &AgentKey) -> (usize, bool) {
        if let Some(place) = self.places.get(agent) {
            return (*place, false);
        }
        let place = self.slots.len();
        self.places.insert(agent.clone(), place);
        let (agent, row) =
            (agent.clone(), AgentRow { next_sequence: self.first_sequence, ..AgentRow::default() });
        self.slots.push(Slot { agent, row, touched: false, dirty: false, untold: false });
        (place, true)
    }

    /// Puts a batch of events of one agent into its place and remembers it.
    pub(super) fn place(&mut self, batch: Batch<'_>, rules: &Rules<'_>) -> Placement {
        let (row, tally) = self.touch(batch.agent);
        let events: Vec<LastEvent> =
            batch.events.iter().map(|event| LastEvent::of(event, batch.offset)).collect();
        let repeated = row.last.as_ref().filter(|last| last.is_repeated_by(&events, &batch, rules.repeats));
        let (placement, events) = match repeated {
            Some(last) => last.placed_again(events, row),
            None if events.is_empty() => (row.placed_again(), events),
            None => (row.placed_new(batch.received_at, rules.call_age), renumbered(events)),
        };
        tally.receive(batch.events, placement.repeats.len());
        row.advance(batch, &placement, events, tally);
        placement
    }

    /// Puts an event of our own, which has no envelope, after the agent's last one.
    pub(super) fn place_own(
        &mut self,
        agent: &AgentKey,
        body: &[u8],
        at: Timestamp,
        rules: &Rules<'_>,
    ) -> Placement {
        let (row, tally) = self.touch(agent);
        let placement = row.placed_new(at, rules.call_age);
        row.advance_own(placement.sequence, body, at, tally);
        placement
    }

    /// Makes up for a record that was committed after the agents' rows were last stored.
    pub(super) fn replay(&mut self, record: &Record) {
        let (row, tally) = self.touch(&record.agent);
        row.snapshot = Arc::new(record.before.clone());
        let Some(events) = read_events(record.kind, &record.agent.agent_id, &record.body) else {
            row.advance_own(record.sequence, &record.body, record.received_at, tally);
            return;
        };
        let mut last: Vec<LastEvent> =
            events.iter().map(|event| LastEvent::of(event, record.offset)).collect();
        for (event, repeated) in last.iter_mut().zip(&record.repeats) {
            (event.first, event.sequence) = (repeated.first, repeated.sequence);
        }
        let batch = Batch {
            kind: record.kind,
            agent: &record.agent,
            offset: record.offset,
            received_at: record.received_at,
            events: &events,
            answer: None,
        };
        let placement = Placement {
            sequence: record.sequence,
            repeats: record.repeats.clone(),
            before: row.snapshot.clone(),
        };
        row.advance(batch, &placement, renumbered(last), tally);
    }

    /// An agent's row that is about to change.
    fn touch(&mut self, agent: &AgentKey) -> (&mut AgentRow, &mut Tally) {
        let (place, new) = self.place_of(agent);
        let slot = &mut self.slots[place];
        if !slot.touched {
            slot.touched = true;
            self.undo.push((place, (!new).then(|| slot.row.clone())));
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(place);
        }
        (&mut slot.row, &mut self.tally)
    }

    /// The commit under way is done. Gives what happened in it.
    pub(super) fn committed(&mut self) -> Tally {
        for (place, _) in self.undo.drain(..) {
            self.slots[place].touched = false;
        }
        std::mem::take(&mut self.tally)
    }

    /// The commit failed: all rows are as they were.
    pub(super) fn rolled_back(&mut self) {
        self.tally = Tally::default();
        // Backwards: agents that came with it are the last ones.
        while let Some((place, row)) = self.undo.pop() {
            self.slots[place].touched = false;
            match row {
                Some(row) => self.slots[place].row = row,
                None => {
                    if let Some(slot) = self.slots.pop() {
                        self.places.remove(&slot.agent);
                    }
                }
            }
        }
        let there = self.slots.len();
        self.dirty.retain(|place| *place < there);
        self.round.retain(|place| *place < there);
        self.untold.retain(|place| *place < there);
    }

    /// Begins a round that stores every row which is old now. Rows that change while it lasts are for the next one as well.
    pub(super) fn begin_round(&mut self) {
        for place in &self.dirty {
            self.slots[*place].dirty = false;
        }
        self.round.append(&mut self.dirty);
        // Neighbours share pages, so they are stored together.
        let slots = &self.slots;
        self.round.sort_unstable_by(|one, other| slots[*other].agent.cmp(&slots[*one].agent));
    }

    /// Stored rows that say less than is known by now of whether the last answer arrived become old.
    pub(super) fn note_arrivals(&mut self) {
        let slots = &self.slots;
        let told: Vec<usize> = self.untold.extract_if(.., |place| !slots[*place].row.awaits_word()).collect();
        for place in told {
            let slot = &mut self.slots[place];
            slot.untold = false;
            if !slot.dirty {
                slot.dirty = true;
                self.dirty.push(place);
            }
        }
    }

    /// Whether no stored row is old, but for those of the round.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether the round has stored all its rows.
    pub(super) fn round_is_over(&self) -> bool {
        self.round.is_empty()
    }

    /// The next rows of the round, as they are now, `most` at most.
    pub(super) fn next_rows(&mut self, most: usize) -> impl Iterator<Item = (&AgentKey, &AgentRow)> {
        let left = self.round.len().saturating_sub(most);
        for place in &self.round[left..] {
            let slot = &mut self.slots[*place];
            if !slot.untold && slot.row.awaits_word() {
                slot.untold = true;
                self.untold.push(*place);
            }
        }
        let slots = &self.slots;
        self.round.drain(left..).rev().map(|place| (&slots[place].agent, &slots[place].row))
    }
}

/// Events of one agent that came together.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) kind: RecordKind,
    pub(super) agent: &'a AgentKey,
    pub(super) offset: u64,
    pub(super) received_at: Timestamp,
    pub(super) events: &'a [NewEvent],
    pub(super) answer: Option<Exchange>,
}

impl AgentRow {
    /// Whether it may still be told that the last answer arrived, and that makes a difference: events that all have a time
    /// are known as repeats by that.
    fn awaits_word(&self) -> bool {
        let awaits = |last: &LastBatch| last.reply.may_tell() && last.events.iter().any(|event| !event.timed);
        self.last.as_deref().is_some_and(awaits)
    }

    /// A place for new events. What is due is marked in the record, so that reading it needs no configuration.
    fn placed_new(&self, at: Timestamp, call_age: Duration) -> Placement {
        let mut placement = self.placed_again();
        if placement.before.has_marks_to_change(at, call_age) {
            Arc::make_mut(&mut placement.before).mark_due(at, call_age);
        }
        placement
    }

    /// A place for what moves nothing but perhaps its last events.
    fn placed_again(&self) -> Placement {
        Placement { sequence: self.next_sequence, repeats: Vec::new(), before: self.snapshot.clone() }
    }

    fn advance_own(&mut self, sequence: u64, body: &[u8], at: Timestamp, tally: &mut Tally) {
        let transition = Arc::make_mut(&mut self.snapshot).apply_own(body, at);
        if state::ends_session(body) {
            self.last = None;
        }
        self.next_sequence = self.next_sequence.max(sequence + numbers(&transition));
        tally.add(&transition);
    }

    fn advance(
        &mut self,
        batch: Batch<'_>,
        placement: &Placement,
        mut events: Vec<LastEvent>,
        tally: &mut Tally,
    ) {
        self.snapshot = placement.before.clone();
        let mut next = placement.sequence;
        // Repeated events moved the agent when they came first.
        for (event, last) in batch.events.iter().zip(&mut events).skip(placement.repeats.len()) {
            last.sequence = next;
            let at = event.time.unwrap_or(batch.received_at);
            let snapshot = Arc::make_mut(&mut self.snapshot);
            let transition = snapshot.apply_report(event.report.as_ref(), at);
            snapshot.note_receipt(at, batch.received_at);
            next += numbers(&transition);
            tally.add(&transition);
        }
        self.next_sequence = self.next_sequence.max(next);
        let (received_at, reply) = (batch.received_at, batch.answer.map_or(Reply::Unknown, Reply::Sent));
        let last = LastBatch { received_at, events, counts_from: None, reply };
        self.last = (batch.kind == RecordKind::Push).then(|| Arc::new(last));
    }
}

impl Tally {
    fn add(&mut self, transition: &Transition) {
        self.unexpected.extend(transition.unexpected.then_some(transition.before));
        self.ended.extend(transition.ended.iter().map(|ended| ended.outcome));
    }

    /// Categories are few: looking through them costs less than a map would.
    fn receive(&mut self, events: &[NewEvent], repeated: usize) {
        for event in events {
            match self.received.iter_mut().find(|(category, _)| *category == event.category) {
                Some((_, count)) => *count += 1,
                None => self.received.push((event.category, 1)),
            }
        }
        self.repeated += repeated as u64;
    }
}

/// How many numbers an event takes: its own, and one for each summary of a call that ended with it.
fn numbers(transition: &Transition) -> u64 {
    1 + transition.ended.len() as u64
}

impl LastBatch {
    fn is_repeated_by(&self, events: &[LastEvent], batch: &Batch<'_>, rules: &RepeatRules) -> bool {
        let alike = !self.events.is_empty()
            && !events.is_empty()
            && self.events.iter().zip(events).all(|(old, new)| old.digest == new.digest);
        let by_wall = batch.received_at.since(self.received_at);
        let (gap, overlaps) = match (&self.reply, &batch.answer) {
            (Reply::Sent(last), Some(new)) => (last.until(new), last.overlaps(new)),
            // Across a start only wall time tells.
            _ => (by_wall, false),
        };
        let timed = self.events.iter().all(|event| event.timed);
        let whole = self.events.len() <= events.len();
        // While the machine is suspended wall time alone goes on.
        let late = gap.max(by_wall) >= rules.soonest;
        let unanswered = whole && self.reply.may_be_lost() && late;
        let pushed = batch.kind == RecordKind::Push;
        pushed && alike && gap <= rules.window && (timed || unanswered || overlaps)
    }

    /// Repeated events keep id and sequence; new ones at the end count on from the agent's newest event.
    fn placed_again(&self, mut events: Vec<LastEvent>, row: &AgentRow) -> (Placement, Vec<LastEvent>) {
        let repeats = self.events.iter().take(events.len());
        let repeats = repeats.map(|old| Repeated { first: old.first, sequence: old.sequence }).collect();
        for (new, old) in events.iter_mut().zip(&self.events) {
            (new.first, new.sequence) = (old.first, old.sequence);
        }
        // The first delivery that is read after its repeat: what is known of the repeat stays known.
        events.extend(self.events.iter().skip(events.len()).cloned());
        (Placement { repeats, ..row.placed_again() }, renumbered(events))
    }
}

impl Reply {
    /// An exchange may still tell that it arrived.
    fn may_tell(&self) -> bool {
        matches!(self, Reply::Sent(exchange) if !exchange.arrived())
    }

    fn may_be_lost(&self) -> bool {
        match self {
            Reply::Unknown => true,
            Reply::Sent(exchange) => !exchange.arrived(),
            Reply::Arrived => false,
        }
    }
}

impl From<bool> for Reply {
    fn from(arrived: bool) -> Reply {
        if arrived { Reply::Arrived } else { Reply::Unknown }
    }
}

impl From<Reply> for bool {
    fn from(reply: Reply) -> bool {
        !reply.may_be_lost()
    }
}

impl LastEvent {
    fn of(event: &NewEvent, offset: u64) -> LastEvent {
        LastEvent {
            digest: event.digest,
            timed: event.time.is_some(),
            first: EventRef { offset, index: u32::MAX },
            sequence: 0,
        }
    }
}

/// Gives events that are not repeats their index in this record.
fn renumbered(mut events: Vec<LastEvent>) -> Vec<LastEvent> {
    for (index, event) in events.iter_mut().enumerate() {
        if event.first.index == u32::MAX {
            event.first.index = u32::try_from(index).unwrap_or(u32::MAX);
        }
    }
    events
}

/// XXH3, 64 bits: stored, so it must be the same in every release and on every machine.
fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
