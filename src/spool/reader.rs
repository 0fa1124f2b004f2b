//! Reading: each sink reads the log on from where it stands, a bounded piece at a time, so that a sink that is far behind costs
//! no memory and slows no other.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::dead_letters::{self, Replay};
use super::log::{Log, LogReader};
use super::recent::{Recent, Ring};
use super::segment::Stored;
use super::{AgentKey, OpenError, Record, SinkState, schema};
use crate::clock::Timestamp;
use crate::event::normalise::{EventRef, RecordKind, Repeated};
use crate::event::state::AgentSnapshot;
use crate::event::{AgentId, GatewayName};

/// One position of the spool as read.
#[derive(Debug)]
pub enum ReadRecord {
    /// The record.
    Good(Record),
    /// Its checksum is wrong or a field cannot be read: it must be set aside, never skipped in silence.
    Damaged {
        /// Its position.
        offset: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl ReadRecord {
    /// Its position.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            ReadRecord::Good(record) => record.offset,
            ReadRecord::Damaged { offset, .. } => *offset,
        }
    }
}

/// Reads for one sink and moves its cursor.
#[derive(Debug, Clone)]
pub struct SpoolReader {
    records: Arc<Mutex<LogReader>>,
    /// For dead letters.
    connection: Arc<Mutex<Connection>>,
    state: SinkState,
    ring: Ring,
}

impl SpoolReader {
    pub(super) fn open(
        directory: &Path,
        log: &Log,
        state: SinkState,
        ring: Ring,
    ) -> Result<SpoolReader, OpenError> {
        let connection = Arc::new(Mutex::new(schema::open_reader(directory)?));
        Ok(SpoolReader { records: Arc::new(Mutex::new(log.reader())), connection, state, ring })
    }

    /// The first record that the sink has not confirmed.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.state.cursor.load(Ordering::Acquire)
    }

    /// Everything below `next_offset` is confirmed. Stored within a quarter of a second; after a crash the records in
    /// between are delivered again, with the same ids.
    pub fn confirm(&self, next_offset: u64) {
        self.state.cursor.fetch_max(next_offset, Ordering::AcqRel);
    }

    /// Up to `records` records from `from` on, if they were stored so lately that they are in memory; else they are to be
    /// [read](SpoolReader::read).
    #[must_use]
    pub fn recent(&self, from: u64, records: usize) -> Option<Vec<Arc<Recent>>> {
        self.state.read_to.store(from, Ordering::Relaxed);
        let found = self.ring.from(from, records)?;
        if let Some(last) = found.last() {
            self.state.read_to.store(last.record.offset + 1, Ordering::Relaxed);
        }
        Some(found)
    }

    /// Up to `records` records from `from` on, but no more than about `bytes` of bodies; at least one if there is one.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn read(&self, from: u64, records: usize, bytes: usize) -> io::Result<Vec<ReadRecord>> {
        let log = self.records.clone();
        let read = move || {
            let items = log.lock().unwrap_or_else(PoisonError::into_inner).read(from, records, bytes)?;
            Ok(items.into_iter().map(ReadRecord::from).collect())
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the reading thread panicked")),
        }
    }

    /// The number of the newest request to deliver a dead letter again: when it is above the last one that
    /// [`SpoolReader::replays`] gave, there may be more. [`crate::spool::Spool::end`] tells when it changes.
    #[must_use]
    pub fn replay_to(&self) -> u64 {
        self.state.replay_to.load(Ordering::Acquire)
    }

    /// Dead letters of this sink that are to be delivered again, with numbers above `after`, in the order of the
    /// requests, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn replays(&self, after: u64, limit: usize) -> rusqlite::Result<Vec<Replay>> {
        let sink = self.state.name.clone();
        self.look(move |connection| dead_letters::replays(connection, &sink, after, limit)).await
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let connection = self.connection.clone();
        let read = move || look(&connection.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(read).await {
            Ok(result) => result,
            Err(_) => Err(rusqlite::Error::UnwindingPanic),
        }
    }
}

/// A record in the columns of a dead letter, wherever they stand.
pub(super) fn read_record(row: &Row<'_>) -> rusqlite::Result<ReadRecord> {
    let offset: u64 = row.get(0)?;
    Ok(match decode_row(row, offset) {
        Ok(record) => ReadRecord::Good(record),
        Err(fault) => ReadRecord::Damaged { offset, fault },
    })
}

fn decode_row(row: &Row<'_>, offset: u64) -> Result<Record, &'static str> {
    decode(&stored_row(row, offset)?)
}

/// The fields of a row that has a record in these columns, when its checksum is right.
pub(super) fn stored_row<'a>(row: &'a Row<'_>, offset: u64) -> Result<Stored<'a>, &'static str> {
    let number = |column| u64::try_from(integer(row, column)?).map_err(|_| "a number is out of range");
    let stored = Stored {
        offset,
        batch: offset,
        kind: u8::try_from(number(1)?).map_err(|_| "unknown kind")?,
        received_ms: number(2)?,
        gateway: bytes_of(row, 3)?,
        agent_id: bytes_of(row, 4)?,
        sequence: number(5)?,
        repeats: bytes_of(row, 6)?,
        before: bytes_of(row, 7)?,
        body: bytes_of(row, 8)?,
    };
    // Dead letters of schema version 1 have none.
    let unchecked = matches!(row.get_ref(9), Ok(ValueRef::Null));
    if !unchecked && i64::from(checksum(&stored)) != integer(row, 9)? {
        return Err("checksum mismatch");
    }
    Ok(stored)
}

/// A record's fields as they are stored, with its marks and state as they are encoded.
pub(super) fn stored<'a>(record: &'a Record, batch: u64, repeats: &'a [u8], before: &'a [u8]) -> Stored<'a> {
    Stored {
        offset: record.offset,
        batch,
        kind: kind_number(record.kind),
        received_ms: record.received_at.millis(),
        sequence: record.sequence,
        gateway: record.agent.gateway.as_str().as_bytes(),
        agent_id: record.agent.agent_id.as_str().as_bytes(),
        repeats,
        before,
        body: &record.body,
    }
}

/// What a record's stored fields mean.
pub(super) fn decode(stored: &Stored<'_>) -> Result<Record, &'static str> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "name is not UTF-8");
    let (sequence, repeats) =
        decode_repeats(stored.sequence, stored.repeats).ok_or("repeat marks unreadable")?;
    Ok(Record {
        offset: stored.offset,
        kind: kind_of(stored.kind).ok_or("unknown kind")?,
        received_at: Timestamp(stored.received_ms),
        agent: AgentKey {
            gateway: GatewayName::parse(text(stored.gateway)?).map_err(|_| "gateway name invalid")?,
            agent_id: AgentId::parse(text(stored.agent_id)?).map_err(|_| "agent id invalid")?,
        },
        sequence,
        repeats,
        before: decode_state(stored.before).ok_or("state unreadable")?,
        body: Bytes::copy_from_slice(stored.body),
    })
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, &'static str> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(value)) => Ok(value),
        _ => Err("a field has the wrong type"),
    }
}

fn bytes_of<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], &'static str> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(value) | ValueRef::Blob(value)) => Ok(value),
        Ok(ValueRef::Null) => Ok(&[]),
        _ => Err("a field has the wrong type"),
    }
}

/// The checksum of a record in a dead letter: CRC-32 over every field, each with its length, so that bytes cannot move from one
/// field to the next unseen.
pub(super) fn checksum(record: &Stored<'_>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in [u64::from(record.kind), record.received_ms, record.sequence, record.offset] {
        crc.update(&number.to_le_bytes());
    }
    for field in [record.gateway, record.agent_id, record.repeats, record.before, record.body] {
        crc.update(&(field.len() as u64).to_le_bytes());
        crc.update(field);
    }
    crc.finalize()
}

pub(super) fn kind_number(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Push => 0,
        RecordKind::Poll => 1,
        RecordKind::Lifecycle => 2,
    }
}

fn kind_of(number: u8) -> Option<RecordKind> {
    [RecordKind::Push, RecordKind::Poll, RecordKind::Lifecycle]
        .into_iter()
        .find(|kind| kind_number(*kind) == number)
}

/// An agent's state as it is stored with a record, in MessagePack with the members' names.
pub(super) fn encode_state(before: &AgentSnapshot) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_STATE);
    if rmp_serde::encode::write_named(&mut bytes, before).is_err() {
        // It has nothing that MessagePack cannot say; were it otherwise, the record would be set aside as unreadable.
        bytes.clear();
    }
    bytes
}

/// The same read again. Early releases stored JSON: no map of MessagePack begins like an object.
fn decode_state(bytes: &[u8]) -> Option<AgentSnapshot> {
    if bytes.starts_with(b"{") {
        serde_json::from_slice(bytes).ok()
    } else {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// Room for an agent with a call.
const USUAL_STATE: usize = 256;
/// What entries with a number begin with; those of early releases have none.
const NUMBERED: u8 = 2;

/// Twenty bytes an entry: offset, index and sequence, little endian.
pub(super) fn encode_repeats(repeats: &[Repeated]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Repeated { first, sequence } in repeats {
        if bytes.is_empty() {
            bytes.push(NUMBERED);
        }
        bytes.extend(first.offset.to_le_bytes());
        bytes.extend(first.index.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
    }
    bytes
}

/// The number of the first event that is no repeat, and the repeats. In early releases an entry had twelve bytes, and
/// the numbers of all events counted on from `first`.
fn decode_repeats(first: u64, bytes: &[u8]) -> Option<(u64, Vec<Repeated>)> {
    let reference = |entry: &[u8]| {
        let (offset, index) = entry.split_at_checked(8)?;
        Some(EventRef {
            offset: u64::from_le_bytes(offset.try_into().ok()?),
            index: u32::from_le_bytes(index.try_into().ok()?),
        })
    };
    match bytes {
        [NUMBERED, entries @ ..] if bytes.len() % 20 == 1 => {
            let decode = |entry: &[u8]| {
                let (place, sequence) = entry.split_at_checked(12)?;
                let sequence = u64::from_le_bytes(sequence.try_into().ok()?);
                Some(Repeated { first: reference(place)?, sequence })
            };
            Some((first, entries.chunks_exact(20).map(decode).collect::<Option<_>>()?))
        }
        _ => {
            let (entries, rest) = bytes.as_chunks::<12>();
            let numbered = (first..).zip(entries);
            let repeats =
                numbered.map(|(sequence, entry)| Some(Repeated { first: reference(entry)?, sequence }));
            let repeats: Vec<_> = rest.is_empty().then(|| repeats.collect::<Option<_>>())??;
            Some((first + repeats.len() as u64, repeats))
        }
    }
}

pub(super) fn sessions(directory: &Path) -> Result<Vec<(AgentKey, Vec<u8>)>, OpenError> {
    let sql = |source| OpenError::Database { path: schema::database(directory), source };
    let connection = schema::open_reader(directory)?;
    let mut statement = connection.prepare("SELECT gateway, agent_id, stored FROM sessions").map_err(sql)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .map_err(sql)?
        .collect::<rusqlite::Result<Vec<_>>>()
        .map_err(sql)?;
    // A name that no release of ours can have written belongs to no agent.
    Ok(rows
        .into_iter()
        .filter_map(|(gateway, agent, stored)| Some((agent_key(&gateway, &agent)?, stored)))
        .collect())
}

pub(super) fn agent_key(gateway: &str, agent_id: &str) -> Option<AgentKey> {
    Some(AgentKey { gateway: GatewayName::parse(gateway).ok()?, agent_id: AgentId::parse(agent_id).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_from_messagepack_and_from_the_json_of_early_releases() {
        let call = r#"{"id":"1-2","state":"connected","text":true,"b":1,"s":2,"r":3,"a":4,"l":5,"t":6,"h":7,"n":8,"e":true,"c":true,
            "o":true,"x":true,"z":"9","u":true,"f":-1,"m":2,"y":51,"p":"p","q":"q","w":"w","k":5,"j":"é","d":true}"#;
        let full = format!(
            r#"{{"state":"notReady","since":1784529722590,"reason":3,"calls":[{call},{{"id":"3","state":"held"}}]}}"#
        );
        for json in [&full, r#"{"state":"busy"}"#, "{}", r#"{"state":"napping","new":1}"#] {
            let state = decode_state(json.as_bytes()).unwrap();
            let stored = encode_state(&state);
            assert_eq!(decode_state(&stored), Some(state), "{json}");
            assert_eq!(decode_state(&stored[..stored.len() - 1]), None, "{json}");
        }
        let state: AgentSnapshot = serde_json::from_str(&full).unwrap();
        let written = serde_json::to_string(&state).unwrap();
        assert_eq!(written, full.split_whitespace().collect::<String>(), "the call above has every member");
        assert!(encode_state(&state).len() < written.len());
        let later = rmp_serde::to_vec_named(&serde_json::json!({"state": "napping", "new": [1]})).unwrap();
        assert_eq!(decode_state(&later), Some(AgentSnapshot::default()));
    }

    #[test]
    fn repeat_marks_read_back_and_those_of_early_releases_count_on() {
        let marks = [(70, 0, 5), (70, 1, 9)]
            .map(|(offset, index, sequence)| Repeated { first: EventRef { offset, index }, sequence });
        assert_eq!(decode_repeats(12, &encode_repeats(&marks)), Some((12, marks.to_vec())));
        assert_eq!(decode_repeats(12, &encode_repeats(&[])), Some((12, Vec::new())));
        let early: Vec<u8> = marks
            .iter()
            .flat_map(|mark| {
                mark.first.offset.to_le_bytes().into_iter().chain(mark.first.index.to_le_bytes())
            })
            .collect();
        let (next, read) = decode_repeats(5, &early).unwrap();
        assert_eq!(next, 7);
        assert_eq!(
            read.iter().map(|mark| (mark.first, mark.sequence)).collect::<Vec<_>>(),
            [(marks[0].first, 5), (marks[1].first, 6)]
        );
        for damaged in [&early[..13], &[NUMBERED][..], &[0; 21]] {
            let read = decode_repeats(5, damaged);
            assert!(read.is_none() || read == Some((5, Vec::new())), "{damaged:?}");
        }
    }
}
