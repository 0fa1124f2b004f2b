//! Giving up records at the high-water mark, for sinks whose `when_full` is `shed` and for no other.
//!
//! Only the oldest records that no blocking sink needs any more are given up: others would not be freed by it. Every record
//! is counted for each sink that had not got it. The cursors in the database move with the deletion, in one transaction;
//! those in memory move when that is committed.

use rusqlite::{Connection, params};

use super::limits::record_bytes;
use super::{SinkState, WhenFull};
use crate::event::envelope;

/// Records given up in one transaction at most.
const RECORDS: usize = 4096;

/// What is given up with a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shed {
    /// Everything below is given up for those sinks.
    pub(super) to: u64,
    /// By the number of each sink: records and events it does not get.
    pub(super) sinks: Vec<(usize, u64, u64)>,
    /// Bytes freed, about.
    pub(super) bytes: u64,
}

/// The oldest records that only shedding sinks need, up to about `bytes` of them; `None` when there are none. Their cursors
/// are moved in the database.
pub(super) fn shed(
    connection: &Connection,
    sinks: &[SinkState],
    bytes: u64,
) -> rusqlite::Result<Option<Shed>> {
    let cursors: Vec<(usize, u64)> = sinks
        .iter()
        .enumerate()
        .filter(|(_, sink)| sink.when_full == WhenFull::Shed)
        .map(|(at, sink)| (at, sink.cursor()))
        .collect();
    let Some(from) = cursors.iter().map(|(_, cursor)| *cursor).min() else { return Ok(None) };
    let blocking = sinks.iter().filter(|sink| sink.when_full == WhenFull::Block);
    let until = blocking.map(SinkState::cursor).min().unwrap_or(i64::MAX as u64);
    let mut shed = Shed { sinks: cursors.iter().map(|(at, _)| (*at, 0, 0)).collect(), ..Shed::default() };
    let mut statement = connection.prepare_cached(
        "SELECT spool_offset, length(before), body FROM records
         WHERE spool_offset >= ?1 AND spool_offset < ?2 ORDER BY spool_offset LIMIT ?3",
    )?;
    let mut rows = statement.query(params![from, until, RECORDS])?;
    while let Some(row) = rows.next()? {
        let offset: u64 = row.get(0)?;
        let body = row.get_ref(2)?.as_bytes()?;
        // A record of our own has no envelope and is one event.
        let events = envelope::parse(body).map_or(1, |envelope| envelope.events.len() as u64);
        for ((_, records, all), (_, cursor)) in shed.sinks.iter_mut().zip(&cursors) {
            if offset >= *cursor {
                *records += 1;
                *all += events;
            }
        }
        shed.to = offset + 1;
        shed.bytes += record_bytes(body.len(), row.get(1)?);
        if shed.bytes >= bytes {
            break;
        }
    }
    shed.sinks.retain(|(_, records, _)| *records > 0);
    if shed.sinks.is_empty() {
        return Ok(None);
    }
    for (at, _, _) in &shed.sinks {
        connection
            .prepare_cached("UPDATE cursors SET next_offset = max(next_offset, ?2) WHERE sink = ?1")?
            .execute(params![sinks[*at].name, shed.to])?;
    }
    Ok(Some(shed))
}
