//! One file of the log: its header, and records one after the other.
//!
//! ```text
//! header, one page        magic, number of the file, offset of its first record, number of the file before and where
//!                         that ends, spool id, CRC-32 of all that
//! record, many            magic, length, CRC-32, then what the CRC covers: kind, lengths, offset, batch, time, sequence,
//!                         gateway, agent, repeat marks, state before, body; zeros up to a multiple of eight bytes
//! ```
//!
//! All numbers are little endian. A file is written once from its beginning to its end, and has its full length before: a sync
//! then has nothing to write but the records. What lies behind the newest record is zeros, or records of an earlier use of the
//! file, whose offsets are lower, so that they are never taken for the next one.
//!
//! `batch` is the offset of the first record of the same sync. What a power cut leaves of a batch is no damage when
//! no later batch is there: nobody was answered for it.

use std::ops::Range;

/// Bytes of the header: a page, so that records begin at a page of their own.
pub(super) const HEADER: u64 = 4096;
/// Bytes of a page. A write ends with a page, so that none has to be read first.
pub(super) const PAGE: usize = 4096;
/// Records begin at multiples of this.
const ALIGN: usize = 8;
/// No record is longer: what says that it is, is damaged.
const LONGEST: usize = 1 << 30;
const FILE_MAGIC: &[u8; 8] = b"ccrelay\x01";
const RECORD_MAGIC: [u8; 4] = *b"ccR\x01";
/// Bytes of a record before its texts.
const FIXED: usize = 64;
/// No record takes fewer bytes.
pub(super) const SHORTEST: u64 = FIXED as u64;
const SPOOL_ID: usize = 24;
const HEADER_USED: usize = 8 + 4 * 8 + SPOOL_ID + 4;

/// What a file's first page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Rises with every file; the same as in its name, or the file is not in use yet.
    pub(super) number: u64,
    /// Offset of the first record.
    pub(super) first_offset: u64,
    /// The number of the file before; 0 where there is none.
    pub(super) previous: u64,
    /// Offset after its last record. Lower than the first one only where a repair left out what was lost.
    pub(super) previous_end: u64,
    pub(super) spool_id: String,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE);
        page.extend(FILE_MAGIC);
        for number in [self.number, self.first_offset, self.previous, self.previous_end] {
            page.extend(number.to_le_bytes());
        }
        let id = self.spool_id.as_bytes();
        page.extend(id.iter().copied().chain(std::iter::repeat(0)).take(SPOOL_ID));
        page.extend(crc32fast::hash(&page).to_le_bytes());
        page.resize(PAGE, 0);
        page
    }

    /// `None` for anything but a header that was written whole.
    pub(super) fn decode(page: &[u8]) -> Option<Header> {
        let used = page.get(..HEADER_USED)?;
        let (covered, crc) = used.split_at_checked(HEADER_USED - 4)?;
        if !covered.starts_with(FILE_MAGIC) || number32(crc, 0)? != crc32fast::hash(covered) {
            return None;
        }
        let id = covered.get(40..)?.split(|byte| *byte == 0).next()?;
        Some(Header {
            number: number64(covered, 8)?,
            first_offset: number64(covered, 16)?,
            previous: number64(covered, 24)?,
            previous_end: number64(covered, 32)?,
            spool_id: std::str::from_utf8(id).ok()?.to_owned(),
        })
    }
}

/// A record's fields as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) offset: u64,
    pub(super) batch: u64,
    pub(super) kind: u8,
    pub(super) received_ms: u64,
    pub(super) sequence: u64,
    pub(super) gateway: &'a [u8],
    pub(super) agent_id: &'a [u8],
    pub(super) repeats: &'a [u8],
    pub(super) before: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Stored<'_> {
    /// Adds the record to `out`, which has only records in it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let texts = [self.gateway, self.agent_id, self.repeats, self.before, self.body];
        let length = FIXED + texts.iter().map(|text| text.len()).sum::<usize>();
        out.reserve(length + ALIGN);
        out.extend(RECORD_MAGIC);
        out.extend(short(length).to_le_bytes());
        out.extend([0; 4]);
        // Names are far shorter than that: see `event::ids`.
        let [gateway, agent_id] =
            [self.gateway, self.agent_id].map(|name| u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend([self.kind, gateway, agent_id, 0]);
        for number in [self.offset, self.batch, self.received_ms, self.sequence] {
            out.extend(number.to_le_bytes());
        }
        for text in [self.repeats, self.before, self.body] {
            out.extend(short(text.len()).to_le_bytes());
        }
        out.extend([0; 4]);
        for text in texts {
            out.extend(text);
        }
        let crc = crc32fast::hash(&out[begin + 12..]);
        out[begin + 8..begin + 12].copy_from_slice(&crc.to_le_bytes());
        out.resize(begin + padded(length), 0);
    }
}

/// What stands at one place of a file.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A record as it was written, and the bytes it takes.
    Good(Stored<'a>, usize),
    /// What has the form of a record, and another checksum.
    Changed(Stored<'a>),
    /// So many bytes are needed to tell.
    Short(usize),
    /// No record.
    Nothing,
}

/// Reads the record that begins here.
pub(super) fn parse(bytes: &[u8]) -> Piece<'_> {
    let Some(fixed) = bytes.get(..FIXED) else { return Piece::Short(FIXED) };
    parse_fixed(bytes, fixed).unwrap_or(Piece::Nothing)
}

fn parse_fixed<'a>(bytes: &'a [u8], fixed: &[u8]) -> Option<Piece<'a>> {
    let length = number32(fixed, 4)? as usize;
    if !fixed.starts_with(&RECORD_MAGIC) || !(FIXED..=LONGEST).contains(&length) {
        return None;
    }
    let (gateway, agent_id) = (usize::from(fixed[13]), usize::from(fixed[14]));
    let mut rest = FIXED;
    let mut next = |length: usize| -> Range<usize> {
        let place = rest..rest + length;
        rest += length;
        place
    };
    let gateway = next(gateway);
    let agent_id = next(agent_id);
    let repeats = next(number32(fixed, 48)? as usize);
    let before = next(number32(fixed, 52)? as usize);
    let body = next(number32(fixed, 56)? as usize);
    if rest != length {
        return None;
    }
    let Some(record) = bytes.get(..length) else { return Some(Piece::Short(padded(length))) };
    let stored = Stored {
        offset: number64(fixed, 16)?,
        batch: number64(fixed, 24)?,
        kind: fixed[12],
        received_ms: number64(fixed, 32)?,
        sequence: number64(fixed, 40)?,
        gateway: record.get(gateway)?,
        agent_id: record.get(agent_id)?,
        repeats: record.get(repeats)?,
        before: record.get(before)?,
        body: record.get(body)?,
    };
    let good = crc32fast::hash(&record[12..]) == number32(fixed, 8)?;
    Some(if good { Piece::Good(stored, padded(length)) } else { Piece::Changed(stored) })
}

/// The first good record at `from` or behind it whose offset is in `offsets`: where it begins, and itself.
pub(super) fn resume<'a>(bytes: &'a [u8], from: usize, offsets: &Range<u64>) -> Option<(usize, Stored<'a>)> {
    let mut at = from.next_multiple_of(ALIGN);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= FIXED) {
        if rest.starts_with(&RECORD_MAGIC)
            && let Piece::Good(stored, _) = parse(rest)
            && offsets.contains(&stored.offset)
        {
            return Some((at, stored));
        }
        at += ALIGN;
    }
    None
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// Lengths have four bytes: bodies are limited to far less.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(offset: u64, body: &[u8]) -> Stored<'_> {
        Stored {
            offset,
            batch: offset / 2 * 2,
            kind: 1,
            received_ms: 1_795_491_900_000,
            sequence: 7,
            gateway: b"main",
            agent_id: b"1001",
            repeats: &[2, 1, 0],
            before: b"{}",
            body,
        }
    }

    #[test]
    fn a_record_reads_back_and_no_changed_byte_of_it_goes_unseen() {
        let mut bytes = Vec::new();
        stored(5, b"{\"workNo\":\"1001\"}").encode(&mut bytes);
        let length = bytes.len();
        stored(6, b"").encode(&mut bytes);
        let Piece::Good(first, read) = parse(&bytes) else { panic!("it is whole") };
        assert_eq!((first, read), (stored(5, b"{\"workNo\":\"1001\"}"), length));
        assert!(matches!(parse(&bytes[length..]), Piece::Good(second, _) if second == stored(6, b"")));
        let used = FIXED + 4 + 4 + 3 + 2 + 17;
        for at in 0..used {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(!matches!(parse(&bad), Piece::Good(..)), "byte {at}");
        }
        for end in 0..used {
            assert!(matches!(parse(&bytes[..end]), Piece::Short(_)), "{end} bytes");
        }
    }

    #[test]
    fn behind_damage_the_next_record_of_the_wanted_offsets_is_found() {
        let mut bytes = Vec::new();
        let places: Vec<usize> = (5..9)
            .map(|offset| {
                let at = bytes.len();
                stored(offset, b"x").encode(&mut bytes);
                at
            })
            .collect();
        bytes[places[1] + 3] ^= 1;
        let found = |from, offsets| resume(&bytes, from, &offsets).map(|(at, stored)| (at, stored.offset));
        assert_eq!(found(places[1], 6..100), Some((places[2], 7)));
        assert_eq!(found(places[1] + 1, 8..100), Some((places[3], 8)));
        assert_eq!(found(0, 9..100), None);
    }

    #[test]
    fn a_header_reads_back_and_a_changed_byte_of_it_is_noticed() {
        let header = Header {
            number: 3,
            first_offset: 40,
            previous: 2,
            previous_end: 39,
            spool_id: "0badcafe".to_owned(),
        };
        let page = header.encode();
        assert_eq!((page.len(), Header::decode(&page)), (PAGE, Some(header)));
        for at in 0..HEADER_USED {
            let mut bad = page.clone();
            bad[at] ^= 1;
            assert_eq!(Header::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Header::decode(&[0; PAGE]), None);
    }
}
