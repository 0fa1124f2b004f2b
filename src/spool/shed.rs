//! Giving up records at the high-water mark, for sinks whose `when_full` is `shed` and for no other.
//!
//! Only the oldest records that no blocking sink needs any more are given up: others would not be freed by it. Every record
//! is counted for each sink that had not got it.

use std::io;

use super::log::LogReader;
use super::{ReadRecord, SinkState, WhenFull};
use crate::event::envelope;
use crate::event::normalise::RecordKind;

/// Records given up at a time, at most.
const RECORDS: usize = 4096;
/// Records looked at together.
const PIECE: usize = 64;
/// Bytes that a record takes besides its body, about.
const RECORD_BYTES: u64 = 200;

/// What is given up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shed {
    /// Everything below is given up for those sinks.
    pub(super) to: u64,
    /// By the number of each sink: records and events it does not get.
    pub(super) sinks: Vec<(usize, u64, u64)>,
    /// Bytes freed, about.
    pub(super) bytes: u64,
}

/// The oldest records that only shedding sinks need, up to about `bytes` of them; `None` when there are none.
pub(super) fn shed(log: &mut LogReader, sinks: &[SinkState], bytes: u64) -> io::Result<Option<Shed>> {
    let cursors: Vec<(usize, u64)> = sinks
        .iter()
        .enumerate()
        .filter(|(_, sink)| sink.when_full == WhenFull::Shed)
        .map(|(at, sink)| (at, sink.cursor()))
        .collect();
    let Some(mut from) = cursors.iter().map(|(_, cursor)| *cursor).min() else { return Ok(None) };
    let blocking = sinks.iter().filter(|sink| sink.when_full == WhenFull::Block);
    let until = blocking.map(SinkState::cursor).min().unwrap_or(u64::MAX);
    let mut shed = Shed { sinks: cursors.iter().map(|(at, _)| (*at, 0, 0)).collect(), ..Shed::default() };
    let mut seen = 0;
    while seen < RECORDS && shed.bytes < bytes {
        let wanted = usize::try_from(until.saturating_sub(from)).unwrap_or(PIECE).min(PIECE);
        let left = usize::try_from(bytes - shed.bytes).unwrap_or(usize::MAX);
        let piece = if wanted == 0 { Vec::new() } else { log.read(from, wanted, left)? };
        if piece.is_empty() {
            break;
        }
        seen += piece.len();
        for item in piece {
            let offset = item.offset();
            if offset >= until || shed.bytes >= bytes {
                break;
            }
            // A record of our own has no envelope and is one event, and so is what nobody can read.
            let (events, body) = match ReadRecord::from(item) {
                ReadRecord::Good(record) => {
                    let listed = match record.kind {
                        RecordKind::Lifecycle => None,
                        RecordKind::Push | RecordKind::Poll => envelope::take_apart(&record.body).ok(),
                    };
                    (listed.map_or(1, |unread| unread.count() as u64), record.body.len() as u64)
                }
                ReadRecord::Damaged { .. } => (1, 0),
            };
            for ((_, records, all), (_, cursor)) in shed.sinks.iter_mut().zip(&cursors) {
                if offset >= *cursor {
                    *records += 1;
                    *all += events;
                }
            }
            (shed.to, from) = (offset + 1, offset + 1);
            shed.bytes += body + RECORD_BYTES;
        }
    }
    shed.sinks.retain(|(_, records, _)| *records > 0);
    Ok((!shed.sinks.is_empty()).then_some(shed))
}
