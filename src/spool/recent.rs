//! The newest records, kept in memory for sinks that are up to date: what was stored a moment ago need not be read from the
//! disk, checked and decoded once for each of them, and its events are made once for all.
//!
//! - A record is in here only after its commit: what is not durable is delivered to nobody.
//! - The ring has no gaps. Whoever reads at a place that is not in it any more, or not yet, reads the log.
//! - It holds what some sink has not read yet, and no more than so many records and bytes. While every sink is far behind
//!   nothing is put in, so that the writer has no work with it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Record, SinkState};
use crate::event::Event;
use crate::event::normalise::{self, NormaliseError, Piece};

/// Records at most: twice what one commit can hold.
const RECORDS: u64 = 2048;
/// Bytes of bodies, and of many open calls, at most. The events made of them take a few times as much, but for the tiniest.
const BYTES: usize = 2 << 20;
/// Calls that an agent has as a rule; what more there are, up to 64, counts with this many bytes each.
const USUAL_CALLS: usize = 2;
const BYTES_OF_A_CALL: usize = 400;

/// Events at most that are kept of a record. Of longer lists, which are rare, every sink makes its own: kept they could take a
/// thousand times as much as the bodies.
const EVENTS: usize = 16;

/// A record that was stored a moment ago.
#[derive(Debug)]
pub struct Recent {
    /// The record.
    pub record: Arc<Record>,
    /// None in it stands for more than are kept.
    events: OnceLock<Result<Option<Vec<Arc<Event>>>, NormaliseError>>,
}

impl Recent {
    fn new(record: Arc<Record>) -> Recent {
        Recent { record, events: OnceLock::new() }
    }

    /// Its events, made when they are first asked for; none when they are too many to be kept.
    ///
    /// # Errors
    /// When none can be made of it.
    pub fn events(&self, spool_id: &str) -> Result<Option<&[Arc<Event>]>, &NormaliseError> {
        let made = self.events.get_or_init(|| {
            let Piece { events, rest } = normalise::piece(&self.record.view(spool_id), None, EVENTS)?;
            Ok(rest.is_none().then(|| events.into_iter().map(Arc::new).collect()))
        });
        made.as_ref().map(Option::as_deref)
    }
}

/// The ring, shared by the writer and the readers.
#[derive(Debug, Clone, Default)]
pub(super) struct Ring(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Consecutive records.
    records: VecDeque<Arc<Recent>>,
    bytes: usize,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; were it so, the ring would still have no gap.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `count` records from `from` on; `None` when the ring does not begin there or before, or ends there.
    pub(super) fn from(&self, from: u64, count: usize) -> Option<Vec<Arc<Recent>>> {
        let inner = self.lock();
        let skip = from.checked_sub(inner.first()?).and_then(|skip| usize::try_from(skip).ok())?;
        let found: Vec<_> = inner.records.iter().skip(skip).take(count).cloned().collect();
        (!found.is_empty()).then_some(found)
    }

    /// Takes in what was committed, and lets go what everybody has read.
    pub(super) fn extend(&self, committed: impl Iterator<Item = Arc<Record>>, read_by_all: u64) {
        let mut gone = Vec::new();
        let mut inner = self.lock();
        for record in committed {
            if inner.end().is_some_and(|end| end != record.offset) {
                gone.extend(inner.records.drain(..));
                inner.bytes = 0;
            }
            inner.bytes += weight(&record);
            inner.records.push_back(Arc::new(Recent::new(record)));
        }
        while inner.first().is_some_and(|first| first < read_by_all || inner.is_over()) {
            let Some(oldest) = inner.records.pop_front() else { break };
            inner.bytes = inner.bytes.saturating_sub(weight(&oldest.record));
            gone.push(oldest);
        }
        // What they are made of is given back without the lock.
        drop(inner);
    }
}

fn weight(record: &Record) -> usize {
    record.body.len() + BYTES_OF_A_CALL * record.before.calls.len().saturating_sub(USUAL_CALLS)
}

impl Inner {
    fn first(&self) -> Option<u64> {
        self.records.front().map(|recent| recent.record.offset)
    }

    fn end(&self) -> Option<u64> {
        self.records.back().map(|recent| recent.record.offset + 1)
    }

    fn is_over(&self) -> bool {
        self.records.len() as u64 > RECORDS || self.bytes > BYTES
    }
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct Filler {
    ring: Ring,
    /// How far each sink has read.
    read_to: Vec<Arc<AtomicU64>>,
}

impl Filler {
    pub(super) fn new(ring: Ring, sinks: &[SinkState]) -> Filler {
        Filler { ring, read_to: sinks.iter().map(|sink| sink.read_to.clone()).collect() }
    }

    /// Whether some sink will want the record at `offset` before it has left the ring.
    pub(super) fn is_wanted(&self, offset: u64) -> bool {
        self.read_to.iter().any(|at| at.load(Ordering::Relaxed) + RECORDS > offset)
    }

    /// These records are durable.
    pub(super) fn committed(&self, records: impl Iterator<Item = Arc<Record>>) {
        let read_by_all = self.read_to.iter().map(|at| at.load(Ordering::Relaxed)).min();
        self.ring.extend(records, read_by_all.unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::normalise::RecordKind;
    use crate::event::state::{AgentSnapshot, CallSnapshot, CallState};
    use crate::event::{AgentId, GatewayName};
    use crate::spool::AgentKey;

    fn record(offset: u64, bytes: usize) -> Arc<Record> {
        let agent = AgentKey {
            gateway: GatewayName::parse("main").unwrap(),
            agent_id: AgentId::parse("101").unwrap(),
        };
        Arc::new(Record {
            offset,
            kind: RecordKind::Push,
            received_at: Timestamp(1),
            agent,
            sequence: 1,
            repeats: Vec::new(),
            before: Default::default(),
            body: Bytes::from(vec![b' '; bytes]),
        })
    }

    fn offsets(ring: &Ring, from: u64) -> Option<Vec<u64>> {
        ring.from(from, 3).map(|found| found.iter().map(|recent| recent.record.offset).collect())
    }

    #[test]
    fn what_is_in_the_ring_is_read_from_anywhere_in_it() {
        let ring = Ring::default();
        assert_eq!(offsets(&ring, 0), None);
        ring.extend((5..10).map(|offset| record(offset, 1)), 0);
        assert_eq!(offsets(&ring, 4), None);
        assert_eq!(offsets(&ring, 5), Some(vec![5, 6, 7]));
        assert_eq!(offsets(&ring, 9), Some(vec![9]));
        assert_eq!(offsets(&ring, 10), None);
    }

    #[test]
    fn after_a_gap_only_what_came_behind_it_is_there() {
        let ring = Ring::default();
        ring.extend((1..3).map(|offset| record(offset, 1)), 0);
        ring.extend((7..9).map(|offset| record(offset, 1)), 0);
        assert_eq!(offsets(&ring, 2), None);
        assert_eq!(offsets(&ring, 7), Some(vec![7, 8]));
    }

    #[test]
    fn what_all_have_read_and_what_is_too_much_goes() {
        let ring = Ring::default();
        ring.extend((0..4).map(|offset| record(offset, 1)), 2);
        assert_eq!((offsets(&ring, 1), offsets(&ring, 2)), (None, Some(vec![2, 3])));
        ring.extend((4..RECORDS + 10).map(|offset| record(offset, 1)), 0);
        assert_eq!((offsets(&ring, 9), offsets(&ring, 10)), (None, Some(vec![10, 11, 12])));
        ring.extend((RECORDS + 10..RECORDS + 12).map(|offset| record(offset, BYTES / 2 + 1)), 0);
        assert_eq!(offsets(&ring, RECORDS + 11), Some(vec![RECORDS + 11]));
        assert_eq!(offsets(&ring, RECORDS + 10), None);
    }

    #[test]
    fn agents_with_many_calls_do_not_fill_the_memory() {
        let call = CallSnapshot::new("1-2", CallState::Connected, Timestamp(1));
        let before = AgentSnapshot { calls: vec![call; 64], ..AgentSnapshot::default() };
        let busy = |offset| Arc::new(Record { before: before.clone(), ..Record::clone(&record(offset, 1)) });
        let ring = Ring::default();
        ring.extend((0..1000).map(busy), 0);
        assert_eq!(offsets(&ring, 900), None);
        assert_eq!(offsets(&ring, 950), Some(vec![950, 951, 952]));
    }

    #[test]
    fn events_of_a_short_list_are_kept_and_those_of_a_long_one_are_not() {
        for (count, kept) in [(1, Some(1)), (EVENTS, Some(EVENTS)), (EVENTS + 1, None)] {
            let body = format!(r#"{{"workNo":"101","eventList":[0{}]}}"#, ",0".repeat(count - 1));
            let record = Record { body: Bytes::from(body), ..Record::clone(&record(1, 0)) };
            let recent = Recent::new(Arc::new(record));
            assert_eq!(recent.events("k3v9").unwrap().map(<[_]>::len), kept);
        }
    }

    #[test]
    fn only_while_some_sink_is_near_the_end_is_anything_kept() {
        let read_to = [3, 5000].map(|at| Arc::new(AtomicU64::new(at)));
        let filler = Filler { ring: Ring::default(), read_to: read_to.to_vec() };
        assert!(filler.is_wanted(5000));
        assert!(!filler.is_wanted(5000 + RECORDS));
        let nobody = Filler { ring: Ring::default(), read_to: Vec::new() };
        assert!(!nobody.is_wanted(0));
    }
}
