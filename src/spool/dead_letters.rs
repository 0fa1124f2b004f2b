//! Dead letters: events that a sink can never take, each with a copy of its record, so that the record itself can be
//! freed. They leave in two ways only: discarded by a person, or delivered again.
//!
//! To deliver one again, its id goes into the table `replays`, a durable queue. The sink's worker takes from it between
//! records, and the letter is deleted together with its place in the queue when the sink has confirmed the event. When it
//! fails again it stays, with one attempt more. A crash in between only means that it is delivered once more.
//!
//! Everything here runs on a connection that the caller gives: the writer's for changes, any for looking.

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::reader::{self, ReadRecord};
use super::segment::Stored;
use crate::clock::Timestamp;
use crate::event::{Event, cloudevent, normalise};

mod sweep;

pub(super) use sweep::{Change, Sweep};

/// Elements of a record's list of which events are made at a time, to find one.
const PIECE: usize = 256;

/// An event that can never be delivered to a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Which sink refused it.
    pub sink: String,
    /// The record it comes from.
    pub spool_offset: u64,
    /// The event's id; empty when the whole record could not be read.
    pub event_id: String,
    /// Where it was to go.
    pub topic: String,
    /// Why, as a short name.
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// When it was set aside, for the last time.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// How often its delivery was tried, over all replays.
    pub attempts: u32,
}

/// A dead letter as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredLetter {
    /// Its number: rises, and is never used twice.
    pub id: u64,
    /// What was set aside and why.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// From which gateway, where the record could be read.
    pub gateway: Option<String>,
    /// Of which agent, where the record could be read.
    pub agent_id: Option<String>,
    /// Whether it waits to be delivered again.
    pub replaying: bool,
    /// Bytes that it counts for.
    pub bytes: u64,
}

/// A dead letter with its record.
#[derive(Debug)]
pub struct Letter {
    /// What was set aside and why.
    pub stored: StoredLetter,
    /// The copy of its record.
    pub record: ReadRecord,
    /// The body of that as it was found, where the record is damaged and there is any.
    pub found: Option<Vec<u8>>,
}

/// A dead letter that is to be delivered again.
#[derive(Debug)]
pub struct Replay {
    /// The number of the request: rises, and is never used twice.
    pub number: u64,
    /// The letter.
    pub letter: Letter,
}

/// What became of a dead letter that was delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The sink has confirmed it: it is no dead letter any more.
    Delivered,
    /// It failed again and stays.
    Failed {
        /// Why, as a short name.
        reason: String,
        /// Why, in words.
        detail: String,
        /// When.
        at: Timestamp,
        /// How often its delivery was tried this time.
        attempts: u32,
    },
}

/// Which dead letters: those that meet every condition that is set. The default lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Any of these ids; empty: any at all.
    pub ids: Vec<u64>,
    /// Of this sink.
    pub sink: Option<String>,
    /// Set aside for this reason.
    pub reason: Option<String>,
    /// Set aside at or after this moment.
    pub since: Option<Timestamp>,
}

fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// What may be shown of dead letters.
pub trait LetterSight {
    /// The event of a letter of this sink, as it may be shown.
    fn event(&self, sink: &str, event: Event) -> Event;

    /// Whether what the gateway said may be shown of letters of this sink.
    fn body(&self, sink: &str) -> bool;
}

/// All may be shown: to whoever reads the files of the spool, it is.
#[derive(Debug, Clone, Copy)]
pub struct Unhidden;

impl LetterSight for Unhidden {
    fn event(&self, _: &str, event: Event) -> Event {
        event
    }

    fn body(&self, _: &str) -> bool {
        true
    }
}

impl Letter {
    /// The events that were set aside: one, or all of a record that could not be read at the time. What becomes of a
    /// record depends on the release, so they may have come to be readable.
    ///
    /// # Errors
    /// Says why no event can be made of the record.
    pub fn events(&self, spool_id: &str) -> Result<Vec<Event>, String> {
        let record = match &self.record {
            ReadRecord::Good(record) => record,
            ReadRecord::Damaged { fault, .. } => return Err((*fault).to_owned()),
        };
        let (view, id) = (record.view(spool_id), &self.stored.letter.event_id);
        let events = if id.is_empty() {
            normalise::normalise(&view)
        } else {
            let piece = normalise::piece_with(&view, id, PIECE);
            piece.map(|piece| piece.into_iter().flat_map(|p| p.events).filter(|e| e.id == *id).collect())
        };
        let events: Vec<Event> = events.map_err(|error| error.to_string())?;
        if events.is_empty() { Err("the record has no such event".to_owned()) } else { Ok(events) }
    }

    /// The letter with its record's body and its events, for people. A body that may not be shown is null.
    #[must_use]
    pub fn shown(&self, spool_id: &str, sight: &dyn LetterSight) -> Value {
        let (events, fault) = match self.events(spool_id) {
            Ok(events) => (events.into_iter().map(|event| self.in_full(event, sight)).collect(), Value::Null),
            Err(fault) => (Vec::new(), Value::String(fault)),
        };
        let record = match &self.record {
            ReadRecord::Good(record) => json!({
                "kind": record.kind,
                "receivedAt": record.received_at.to_string(),
                "sequence": record.sequence,
                "body": self.body(sight),
            }),
            ReadRecord::Damaged { .. } if self.found.is_some() => json!({ "body": self.body(sight) }),
            ReadRecord::Damaged { .. } => Value::Null,
        };
        json!({ "deadLetter": self.stored, "record": record, "events": events, "fault": fault })
    }

    /// One line for each event: the letter, and the event as a structured CloudEvent. Where no event can be made of the
    /// record, one line that says why, with the body.
    #[must_use]
    pub fn exported(&self, spool_id: &str, sight: &dyn LetterSight) -> Vec<Value> {
        match self.events(spool_id) {
            Ok(events) => events
                .into_iter()
                .map(|event| json!({ "deadLetter": self.stored, "event": self.in_full(event, sight) }))
                .collect(),
            Err(fault) => {
                vec![json!({ "deadLetter": self.stored, "fault": fault, "body": self.body(sight) })]
            }
        }
    }

    fn body(&self, sight: &dyn LetterSight) -> Value {
        let body = match &self.record {
            ReadRecord::Good(record) => Some(&record.body[..]),
            ReadRecord::Damaged { .. } => self.found.as_deref(),
        };
        let body = body.filter(|_| sight.body(&self.stored.letter.sink));
        body.map_or(Value::Null, body_as_json)
    }

    /// As a text where the gateway wrote half a surrogate pair, which no JSON value can hold.
    fn in_full(&self, event: Event, sight: &dyn LetterSight) -> Value {
        let event = sight.event(&self.stored.letter.sink, event);
        body_as_json(&cloudevent::structured(&event))
    }
}

/// A body as JSON, or as text where it is none.
#[must_use]
pub fn body_as_json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}

/// Bytes that a letter's row holds besides its record: names and fields, about.
const ROW_BYTES: i64 = 200;

const COLUMNS: &str = "d.id, d.sink, d.event_id, d.topic, d.reason, d.detail, d.at_ms, d.attempts, d.bytes,
    EXISTS (SELECT 1 FROM replays WHERE letter = d.id)";
/// As [`reader::read_record`] expects them.
const RECORD_COLUMNS: &str =
    "d.spool_offset, d.kind, d.received_ms, d.gateway, d.agent_id, d.sequence, d.repeats,
    d.before, d.body, d.crc";
const BODY_COLUMN: usize = 8;
/// The parameters are those of [`Conditions`].
const WHERE: &str =
    "(?1 IS NULL OR d.id IN (SELECT value FROM json_each(?1))) AND (?2 IS NULL OR d.sink = ?2)
    AND (?3 IS NULL OR d.reason = ?3) AND d.at_ms >= ?4";

/// A filter as parameters of [`WHERE`].
struct Conditions<'a> {
    ids: Option<String>,
    filter: &'a LetterFilter,
    since: i64,
}

impl<'a> Conditions<'a> {
    fn of(filter: &'a LetterFilter) -> Conditions<'a> {
        let ids: Vec<String> = filter.ids.iter().map(u64::to_string).collect();
        let ids = (!ids.is_empty()).then(|| format!("[{}]", ids.join(",")));
        let since = filter.since.map_or(0, |since| i64::try_from(since.millis()).unwrap_or(i64::MAX));
        Conditions { ids, filter, since }
    }

    fn parameters(&self) -> [&dyn ToSql; 4] {
        [&self.ids, &self.filter.sink, &self.filter.reason, &self.since]
    }
}

/// Letters that the filter lets through, without their records.
pub(super) fn list(
    connection: &Connection,
    filter: &LetterFilter,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<StoredLetter>> {
    let query = format!(
        "SELECT {RECORD_COLUMNS}, {COLUMNS} FROM dead_letters d WHERE {WHERE} AND d.id > ?5 ORDER BY d.id LIMIT ?6"
    );
    let conditions = Conditions::of(filter);
    // No id is as large as what does not fit.
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let [ids, sink, reason, since] = conditions.parameters();
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map(params![ids, sink, reason, since, after, limit], stored)?;
    rows.collect()
}

/// One letter with its record.
pub(super) fn one(connection: &Connection, id: u64) -> rusqlite::Result<Option<Letter>> {
    let Ok(id) = i64::try_from(id) else { return Ok(None) };
    let query = format!("SELECT {RECORD_COLUMNS}, {COLUMNS} FROM dead_letters d WHERE d.id = ?1");
    connection.prepare_cached(&query)?.query_row([id], whole).optional()
}

/// Letters of a sink that wait to be delivered again.
pub(super) fn replays(
    connection: &Connection,
    sink: &str,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<Replay>> {
    let query = format!(
        "SELECT {RECORD_COLUMNS}, {COLUMNS}, r.number FROM replays r JOIN dead_letters d ON d.id = r.letter
         WHERE r.sink = ?1 AND r.number > ?2 ORDER BY r.number LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map(params![sink, after, limit], |row| {
        Ok(Replay { number: row.get(20)?, letter: whole(row)? })
    })?;
    rows.collect()
}

fn whole(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let record = reader::read_record(row)?;
    let found = match &record {
        ReadRecord::Good(_) => None,
        ReadRecord::Damaged { .. } => {
            row.get_ref(BODY_COLUMN)?.as_bytes_or_null().ok().flatten().map(Vec::from)
        }
    };
    Ok(Letter { stored: stored(row)?, record, found })
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredLetter> {
    Ok(StoredLetter {
        id: row.get(10)?,
        letter: DeadLetter {
            sink: row.get(11)?,
            spool_offset: row.get(0)?,
            event_id: row.get(12)?,
            topic: row.get(13)?,
            reason: row.get(14)?,
            detail: row.get(15)?,
            at: Timestamp(row.get(16)?),
            attempts: row.get(17)?,
        },
        // A damaged record's names may be anything.
        gateway: row.get(3).unwrap_or_default(),
        agent_id: row.get(4).unwrap_or_default(),
        bytes: row.get(18)?,
        replaying: row.get(19)?,
    })
}

/// Whether an event was set aside before.
pub(super) fn is_there(connection: &Connection, letter: &DeadLetter) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM dead_letters WHERE sink = ?1 AND spool_offset = ?2 AND event_id = ?3)")?
        .query_row(params![letter.sink, letter.spool_offset, letter.event_id], |row| row.get(0))
}

/// Sets an event aside, with a copy of its record where there is one; beside it stands whether it is what was stored. What is damaged
/// is kept as it was found, but for its names. An event that a worker sets aside again, because it had to go back to its cursor,
/// is there already; then its attempts are those that the worker has counted. Gives the letter's bytes where it is a new one.
pub(super) fn insert(
    connection: &Connection,
    letter: &DeadLetter,
    record: Option<(Stored<'_>, bool)>,
) -> rusqlite::Result<Option<u64>> {
    let there = is_there(connection, letter)?;
    let stored = record.as_ref().map(|(stored, _)| stored);
    let intact = record.as_ref().filter(|(_, intact)| *intact).map(|(stored, _)| stored);
    // What is damaged may hold numbers that SQLite cannot.
    let number = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    // A wrong one stays wrong: the record must never be taken for good.
    let crc = record.as_ref().map(|(stored, intact)| {
        let crc = reader::checksum(stored);
        if *intact { crc } else { !crc }
    });
    let bytes = connection
        .prepare_cached(
            "INSERT INTO dead_letters (sink, spool_offset, event_id, topic, reason, detail, at_ms, attempts, bytes,
                kind, received_ms, gateway, agent_id, sequence, repeats, before, body, crc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
                ?9 + length(?6) + coalesce(length(?17), 0) + coalesce(length(?16), 0),
                ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
             ON CONFLICT (sink, spool_offset, event_id) DO UPDATE SET attempts = max(attempts, excluded.attempts)
             RETURNING bytes",
        )?
        .query_row(
            params![
                letter.sink,
                letter.spool_offset,
                letter.event_id,
                letter.topic,
                letter.reason,
                letter.detail,
                i64::try_from(letter.at.millis()).unwrap_or(i64::MAX),
                letter.attempts,
                ROW_BYTES,
                stored.map(|stored| stored.kind),
                number(stored.map(|stored| stored.received_ms)),
                intact.and_then(|stored| std::str::from_utf8(stored.gateway).ok()),
                intact.and_then(|stored| std::str::from_utf8(stored.agent_id).ok()),
                number(stored.map(|stored| stored.sequence)),
                stored.map(|stored| stored.repeats).filter(|repeats| !repeats.is_empty()),
                stored.map(|stored| stored.before),
                stored.map(|stored| stored.body),
                crc,
            ],
            |row| row.get(0),
        )?;
    Ok((!there).then_some(bytes))
}

/// Sets an event aside whose record is not in the log any more. A letter of the whole record, from which it comes, may have
/// the only copy, so that is copied. Gives the letter's bytes where it is a new one.
pub(super) fn insert_beside(connection: &Connection, letter: &DeadLetter) -> rusqlite::Result<Option<u64>> {
    let bytes = insert(connection, letter, None)?;
    let copied = connection
        .prepare_cached(
            "UPDATE dead_letters AS d SET (kind, received_ms, gateway, agent_id, sequence, repeats, before, body, crc, bytes)
                = (w.kind, w.received_ms, w.gateway, w.agent_id, w.sequence, w.repeats, w.before, w.body, w.crc,
                    d.bytes + coalesce(length(w.body), 0) + coalesce(length(w.before), 0))
             FROM dead_letters AS w
             WHERE d.sink = ?1 AND d.spool_offset = ?2 AND d.event_id = ?3 AND d.kind IS NULL
                AND w.sink = d.sink AND w.spool_offset = d.spool_offset AND w.event_id = '' AND w.kind IS NOT NULL
             RETURNING bytes",
        )?
        .query_row(params![letter.sink, letter.spool_offset, letter.event_id], |row| row.get(0))
        .optional()?;
    Ok(bytes.map(|bytes| copied.unwrap_or(bytes)))
}

/// Of the letters that the filter lets through, how many are of none of these sinks: nobody would deliver them again.
pub(super) fn stranded(
    connection: &Connection,
    filter: &LetterFilter,
    sinks: &[String],
) -> rusqlite::Result<u64> {
    let conditions = Conditions::of(filter);
    let query = format!(
        "SELECT count(*) FROM dead_letters d WHERE {WHERE} AND d.sink NOT IN (SELECT value FROM json_each(?5))"
    );
    let [ids, sink, reason, since] = conditions.parameters();
    let sinks = json!(sinks).to_string();
    connection.prepare_cached(&query)?.query_row(params![ids, sink, reason, since, sinks], |row| row.get(0))
}

/// Stores what became of a letter that was delivered again. One that was discarded meanwhile stays discarded.
pub(super) fn settle(connection: &Connection, id: u64, outcome: &Replayed) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM replays WHERE letter = ?1")?.execute([id])?;
    match outcome {
        Replayed::Delivered => {
            connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?.execute([id])
        }
        Replayed::Failed { reason, detail, at, attempts } => connection
            .prepare_cached(
                "UPDATE dead_letters SET reason = ?2, detail = ?3, at_ms = ?4, attempts = attempts + ?5 WHERE id = ?1",
            )?
            .execute(params![
                id,
                reason,
                detail,
                i64::try_from(at.millis()).unwrap_or(i64::MAX),
                attempts
            ]),
    }
    .map(|_| ())
}

/// The newest request to deliver a letter of this sink again; 0 when there is none.
pub(super) fn replay_to(connection: &Connection, sink: &str) -> rusqlite::Result<u64> {
    let query = "SELECT coalesce(max(number), 0) FROM replays WHERE sink = ?1";
    connection.prepare_cached(query)?.query_row([sink], |row| row.get(0))
}

/// Number and bytes of the letters of one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) sink: String,
    pub(super) letters: u64,
    pub(super) bytes: u64,
}

/// What is held for each sink that has letters.
pub(super) fn held(connection: &Connection) -> rusqlite::Result<Vec<Held>> {
    let query = "SELECT sink, count(*), sum(bytes) FROM dead_letters GROUP BY sink";
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement
        .query_map([], |row| Ok(Held { sink: row.get(0)?, letters: row.get(1)?, bytes: row.get(2)? }))?;
    rows.collect()
}
