//! Reading records, a bounded piece at a time, beside the one who writes.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::super::segment::{self, HEADER, Header, Piece, Stored};
use super::super::{ReadRecord, Record, reader};
use super::{LARGEST, Log, Place, Segment};

/// Bytes read at a time.
const CHUNK: u64 = 128 << 10;

/// One position of the log.
#[derive(Debug)]
pub(in crate::spool) enum Item {
    /// The record.
    Good(Record),
    /// It is not what was stored.
    Damaged {
        /// Its position.
        offset: u64,
        /// What is wrong.
        fault: &'static str,
        /// What is there, where its form is still that of a record.
        found: Option<Found>,
    },
}

/// A record's fields as they were found, though it cannot be taken for what was stored.
#[derive(Debug)]
pub(in crate::spool) struct Found {
    /// Its checksum is right: it is only not understood, which another release may do.
    pub(in crate::spool) intact: bool,
    /// The fields, in the form of a record.
    bytes: Vec<u8>,
}

impl Found {
    fn new(stored: &Stored<'_>, intact: bool) -> Found {
        let mut bytes = Vec::new();
        stored.encode(&mut bytes);
        Found { intact, bytes }
    }

    pub(in crate::spool) fn stored(&self) -> Option<Stored<'_>> {
        match segment::parse(&self.bytes) {
            Piece::Good(stored, _) => Some(stored),
            _ => None,
        }
    }

    /// Whose it seems to be, and when it seems to have come.
    pub(in crate::spool) fn seems(&self) -> Option<(String, u64)> {
        let stored = self.stored()?;
        let text = |bytes: &[u8]| -> String {
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(40).collect()
        };
        Some((format!("{}/{}", text(stored.gateway), text(stored.agent_id)), stored.received_ms))
    }
}

impl Item {
    pub(in crate::spool) fn offset(&self) -> u64 {
        match self {
            Item::Good(record) => record.offset,
            Item::Damaged { offset, .. } => *offset,
        }
    }
}

impl From<Item> for ReadRecord {
    fn from(item: Item) -> ReadRecord {
        match item {
            Item::Good(record) => ReadRecord::Good(record),
            Item::Damaged { offset, fault, .. } => ReadRecord::Damaged { offset, fault },
        }
    }
}

/// Reads from a log and remembers where it was.
#[derive(Debug)]
pub(in crate::spool) struct LogReader {
    log: Log,
    place: Option<OpenPlace>,
    chunk: Vec<u8>,
}

#[derive(Debug)]
struct OpenPlace {
    segment: Arc<Segment>,
    file: File,
    offset: u64,
    position: u64,
    /// Behind damage no record has shown yet where the one at `offset` begins.
    lost: bool,
}

/// What is still wanted of a reading.
struct Wanted {
    from: u64,
    records: usize,
    bytes: usize,
    found: Vec<Item>,
}

impl Wanted {
    fn is_met(&self) -> bool {
        self.records == 0 || (self.bytes == 0 && !self.found.is_empty())
    }

    fn take(&mut self, item: Item) {
        self.from = item.offset() + 1;
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(match &item {
            Item::Good(record) => record.body.len(),
            Item::Damaged { found, .. } => found.as_ref().map_or(0, |found| found.bytes.len()),
        });
        self.found.push(item);
    }
}

impl LogReader {
    pub(super) fn new(log: Log) -> LogReader {
        LogReader { log, place: None, chunk: Vec::new() }
    }

    /// Up to `records` records from `from` on, but no more than about `bytes` of bodies; at least one if there is one.
    ///
    /// # Errors
    /// When the disk cannot be read, or the files have become others.
    pub(in crate::spool) fn read(
        &mut self,
        from: u64,
        records: usize,
        bytes: usize,
    ) -> io::Result<Vec<Item>> {
        let mut wanted = Wanted { from, records, bytes, found: Vec::new() };
        while !wanted.is_met() {
            let first = self.log.first();
            wanted.from = wanted.from.max(first);
            if wanted.from >= self.log.end() {
                break;
            }
            match self.read_on(&mut wanted) {
                Ok(true) => {}
                Ok(false) => break,
                // The file is another by now, because what it held was freed.
                Err(error) => {
                    self.place = None;
                    if self.log.first() <= first {
                        return Err(error);
                    }
                }
            }
        }
        Ok(wanted.found)
    }

    /// Reads on in one file. Gives whether there is more to look at.
    fn read_on(&mut self, wanted: &mut Wanted) -> io::Result<bool> {
        let Some((segment, end, next)) = self.log.segment_of(wanted.from) else { return Ok(false) };
        if wanted.from >= end {
            // What is not in any file was left out by a repair.
            wanted.from = match next {
                Some(next) if next > wanted.from => next,
                _ => return Ok(false),
            };
            return Ok(true);
        }
        let mut place = self.open_at(segment, wanted.from)?;
        let mut chunk = std::mem::take(&mut self.chunk);
        let read = place.read_until(end, wanted, &mut chunk);
        self.chunk = chunk;
        read?;
        self.place = (!place.lost).then_some(place);
        Ok(true)
    }

    fn open_at(&mut self, segment: Arc<Segment>, from: u64) -> io::Result<OpenPlace> {
        let same = |place: &OpenPlace| Arc::ptr_eq(&place.segment, &segment) && place.offset <= from;
        let best = segment.place_before(from);
        match self.place.take().filter(same) {
            Some(place) if place.offset >= best.offset => Ok(place),
            Some(place) => Ok(OpenPlace { offset: best.offset, position: best.position, ..place }),
            None => {
                let file = File::open(&segment.path)?;
                Ok(OpenPlace { segment, file, offset: best.offset, position: best.position, lost: false })
            }
        }
    }
}

impl OpenPlace {
    /// Reads on up to before `end`, or until enough is found.
    fn read_until(&mut self, end: u64, wanted: &mut Wanted, chunk: &mut Vec<u8>) -> io::Result<()> {
        let mut least = CHUNK;
        while self.offset < end && !wanted.is_met() {
            self.segment.remember(Place { offset: self.offset, position: self.position });
            let there = self.segment.size.saturating_sub(self.position);
            self.load(chunk, least.min(there))?;
            let mut at = 0;
            least = CHUNK;
            while self.offset < end && !wanted.is_met() {
                // A file that was cut short may end in the zeros behind a record.
                let piece = segment::parse(chunk.get(at..).unwrap_or_default());
                match piece {
                    Piece::Good(stored, length) if stored.offset == self.offset => {
                        if stored.offset >= wanted.from {
                            wanted.take(item(&stored));
                        }
                        at += length;
                        self.position += length as u64;
                        self.offset += 1;
                    }
                    Piece::Short(needed) if self.position + needed as u64 <= self.segment.size => {
                        least = CHUNK.max(needed as u64);
                        break;
                    }
                    piece => {
                        let found = match piece {
                            Piece::Changed(stored) if stored.offset == self.offset => {
                                Some(Found::new(&stored, false))
                            }
                            _ => None,
                        };
                        self.pass_damage(end, found, wanted, chunk)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn load(&self, chunk: &mut Vec<u8>, bytes: u64) -> io::Result<()> {
        chunk.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        self.segment.read_at(&self.file, chunk, self.position)
    }

    /// Goes on behind what is no record, and tells which offsets that costs.
    fn pass_damage(
        &mut self,
        end: u64,
        mut found: Option<Found>,
        wanted: &mut Wanted,
        chunk: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut page = vec![0; segment::PAGE];
        self.load(chunk, self.segment.size.saturating_sub(self.position))?;
        self.segment.read_at(&self.file, &mut page, 0)?;
        if Header::decode(&page).is_some_and(|header| header != self.segment.header) {
            return Err(io::Error::other("the records were freed meanwhile"));
        }
        let resumed = segment::resume(chunk, 0, &(self.offset + 1..end));
        let (skip, next) = resumed.map_or((chunk.len(), end), |(at, stored)| (at, stored.offset));
        // No more were there than go into a file, wherever the next one begins: what is between was left out. Where no record tells
        // with which one the file began, all are named.
        let most = match self.segment.header.first_offset {
            0 => u64::MAX,
            first => first.saturating_add(LARGEST / segment::SHORTEST),
        };
        for offset in self.offset..next.min(most) {
            let found = found.take();
            if offset >= wanted.from {
                if wanted.is_met() {
                    // The rest is told with the next reading, which finds it from the same place.
                    return Ok(());
                }
                let fault = if found.is_some() { "checksum mismatch" } else { "unreadable" };
                wanted.take(Item::Damaged { offset, fault, found });
            }
        }
        wanted.from = wanted.from.max(next);
        (self.offset, self.position) = (next, self.position + skip as u64);
        self.lost = resumed.is_none();
        Ok(())
    }
}

fn item(stored: &Stored<'_>) -> Item {
    match reader::decode(stored) {
        Ok(record) => Item::Good(record),
        Err(fault) => Item::Damaged { offset: stored.offset, fault, found: Some(Found::new(stored, true)) },
    }
}

/// What one file holds up to its last record, read alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Offset after the last record.
    pub(super) end: u64,
    /// Where that would begin.
    pub(super) position: u64,
    /// When the last record came.
    pub(super) newest: Option<u64>,
    /// Where those end of which it is known that they are durable.
    pub(super) durable: u64,
}

/// Looks for the last record of a file. What comes behind a place without a record counts only when it shows that the place
/// was synced: because a later batch follows, or because all below `acknowledged` was.
pub(super) fn tail(bytes: &[u8], first_offset: u64, acknowledged: u64) -> Tail {
    let mut at = HEADER as usize;
    let mut tail = Tail { end: first_offset, position: HEADER, newest: None, durable: HEADER };
    while let Some(rest) = bytes.get(at..) {
        match segment::parse(rest) {
            Piece::Good(stored, length) if stored.offset == tail.end => {
                at += length;
                let (end, position) = (stored.offset + 1, at as u64);
                let durable = if end <= acknowledged { position } else { tail.durable };
                tail = Tail { end, position, newest: Some(stored.received_ms), durable };
            }
            _ => match segment::resume(bytes, at, &(tail.end + 1..u64::MAX)) {
                Some((place, stored)) if stored.batch > tail.end || tail.end < acknowledged => {
                    at = place;
                    tail.end = stored.offset;
                }
                _ => break,
            },
        }
    }
    tail
}
