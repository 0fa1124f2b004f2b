//! `spool.mark`: a line beside the database that says how far the spool had got.
//!
//! SQLite takes a damaged frame of its journal for the end of the journal, and what comes after is gone without a word.
//! The line is written with every commit, after its fsync, so it never says more than was durable. A database that ends
//! before it has lost records that were acknowledged. It is not synced itself: after a power cut it may say less, which
//! only means that less is noticed. One sector, a checksum, no other meaning.
//!
//! ```text
//! ccrelay-spool-mark 1 <spool id> <next offset> <time of the newest record> <crc>
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;

const FILE: &str = "spool.mark";
const MAGIC: &str = "ccrelay-spool-mark 1";

/// What the line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) spool_id: String,
    pub(super) next_offset: u64,
    pub(super) newest: Timestamp,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    spool_id: String,
}

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// The mark of the spool in this folder; `None` when there is none or it cannot be read.
pub(super) fn read(directory: &Path) -> Option<Mark> {
    match std::fs::read(path(directory)) {
        Ok(line) => {
            let mark = parse(&line);
            if mark.is_none() {
                tracing::warn!(path = %path(directory).display(), "the spool's mark is unreadable: a loss of its newest records would not be noticed at this start");
            }
            mark
        }
        Err(_) => None,
    }
}

fn parse(line: &[u8]) -> Option<Mark> {
    let (text, crc) = std::str::from_utf8(line).ok()?.trim_end().rsplit_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(text.as_bytes()) {
        return None;
    }
    let mut words = text.strip_prefix(MAGIC)?.split_ascii_whitespace();
    Some(Mark {
        spool_id: words.next()?.to_owned(),
        next_offset: words.next()?.parse().ok()?,
        newest: Timestamp(words.next()?.parse().ok()?),
    })
}

/// All lines of one spool have one length, so that each covers the one before.
fn line(spool_id: &str, next_offset: u64, newest: Timestamp) -> String {
    let text = format!("{MAGIC} {spool_id} {next_offset:020} {:020}", newest.millis());
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text} {crc:08x}\n")
}

impl MarkFile {
    /// Opens the file and writes the first line, synced.
    pub(super) fn create(
        directory: &Path,
        spool_id: &str,
        next_offset: u64,
        newest: Timestamp,
    ) -> io::Result<MarkFile> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path(directory))?;
        let mark = MarkFile { file, spool_id: spool_id.to_owned() };
        mark.write(next_offset, newest)?;
        mark.file.set_len(line(spool_id, next_offset, newest).len() as u64)?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Everything below `next_offset` is durable.
    pub(super) fn write(&self, next_offset: u64, newest: Timestamp) -> io::Result<()> {
        self.file.write_all_at(line(&self.spool_id, next_offset, newest).as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_a_changed_byte_of_it_is_noticed() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(read(folder.path()), None);
        let file = MarkFile::create(folder.path(), "0badcafe", 7, Timestamp(5)).unwrap();
        file.write(12, Timestamp(9)).unwrap();
        let mark = Mark { spool_id: "0badcafe".to_owned(), next_offset: 12, newest: Timestamp(9) };
        assert_eq!(read(folder.path()), Some(mark));
        let good = std::fs::read(path(folder.path())).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        assert_eq!(parse(&good[..good.len() / 2]), None);
    }
}
