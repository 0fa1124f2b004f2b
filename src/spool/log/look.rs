//! Finding out what the files of a log are, before anything is changed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::segment::{self, HEADER, Header, PAGE};
use super::read::tail;
use super::{Log, LogWriter, Place, Segment, WriteError, file_name, folder, lock, pages, sync, write};
use crate::clock::Timestamp;

/// How often the files are listed while some are given other names.
const LOOKS: u32 = 10;

/// What the files of a log say.
#[derive(Debug)]
pub(in crate::spool) struct Look {
    /// The log, for readers.
    pub(in crate::spool) log: Log,
    /// When its newest record came.
    pub(in crate::spool) newest: Option<Timestamp>,
    /// Files that are not as they were left.
    pub(in crate::spool) faults: Vec<Faulty>,
    /// The first record that is needed, whether it is there or not.
    pub(in crate::spool) needed: u64,
    /// Where the newest file begins.
    pub(in crate::spool) last_begins: u64,
    /// The byte of it where its records end.
    pub(super) last_ends: u64,
    /// The byte of it where those end of which it is known that they are durable.
    durable_ends: u64,
    /// Files without a record that is needed.
    unused: Vec<PathBuf>,
}

/// A file that is not as it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::spool) struct Faulty {
    pub(in crate::spool) file: String,
    pub(in crate::spool) fault: &'static str,
}

enum Found {
    Segment(Header, Option<&'static str>),
    Unused,
}

/// Looks at the files in the folder of a spool. Records below `first` are freed; all below `acknowledged` were told to be durable.
/// Changes nothing.
pub(in crate::spool) fn look(
    directory: &Path,
    spool_id: &str,
    first: u64,
    acknowledged: u64,
) -> io::Result<Look> {
    let mut looks = 0;
    loop {
        looks += 1;
        match look_once(directory, spool_id, first, acknowledged) {
            // A running daemon has given a file another name meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS => {}
            looked => return looked,
        }
    }
}

fn look_once(directory: &Path, spool_id: &str, first: u64, acknowledged: u64) -> io::Result<Look> {
    let folder = folder(directory);
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let (mut unused, mut faults) = (Vec::new(), Vec::new());
    let numbers = numbers(&folder)?;
    for number in &numbers {
        let name = file_name(*number);
        let path = folder.join(&name);
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        match what_is(&file, size, *number, spool_id)? {
            Found::Segment(header, fault) => {
                faults.extend(fault.map(|fault| (*number, Faulty { file: name, fault })));
                segments.push_back(Segment::new(header, path, size));
            }
            Found::Unused => unused.push(path),
        }
    }
    while segments.get(1).is_some_and(|next| next.header.first_offset <= first) {
        unused.extend(segments.pop_front().map(|segment| segment.path));
    }
    let (replaced, segments) = without_replaced(segments);
    unused.extend(replaced);
    let oldest = segments.front().map_or(u64::MAX, |segment| segment.header.number);
    faults.retain(|(number, _)| *number >= oldest);
    let broken = broken_links(&segments, |number| faults.iter().any(|(faulty, _)| *faulty == number));
    let faults = faults.into_iter().map(|(_, fault)| fault).chain(broken).collect();
    let (mut end, mut newest, mut last_begins, mut last_ends) = (first, None, first, HEADER);
    let mut durable_ends = HEADER;
    if let Some(last) = segments.back() {
        let mut bytes = vec![0; usize::try_from(last.size).unwrap_or(usize::MAX)];
        last.read_at(&File::open(&last.path)?, &mut bytes, 0)?;
        let tail = tail(&bytes, last.header.first_offset, acknowledged);
        last.ends_at(Place { offset: tail.end, position: tail.position });
        (end, newest, last_begins) = (tail.end, tail.newest.map(Timestamp), last.header.first_offset);
        (last_ends, durable_ends) = (tail.position, tail.durable);
    }
    let needed = first;
    let first = segments.front().map_or(first, |oldest| first.max(oldest.header.first_offset)).min(end);
    let next_number = numbers.last().map_or(1, |last| last + 1);
    let segments = segments.into_iter().map(Arc::new).collect();
    let log = Log::new(folder, spool_id, segments, first, end, next_number);
    Ok(Look { log, newest, faults, needed, last_begins, last_ends, durable_ends, unused })
}

/// Takes out the files that never had a record and that a start has put another one in the place of ([`Look::go_on`]): that one is
/// durable before the empty one goes, so a kill or a power cut between the two leaves both.
fn without_replaced(segments: VecDeque<Segment>) -> (Vec<PathBuf>, VecDeque<Segment>) {
    let place = |segment: &Segment| {
        let Header { first_offset, previous, previous_end, .. } = segment.header;
        (first_offset, previous, previous_end)
    };
    let places: Vec<_> = segments.iter().map(place).skip(1).map(Some).chain([None]).collect();
    let (mut replaced, mut others) = (Vec::new(), VecDeque::new());
    for (segment, next) in segments.into_iter().zip(places) {
        if next == Some(place(&segment)) {
            replaced.push(segment.path);
        } else {
            others.push_back(segment);
        }
    }
    (replaced, others)
}

/// Files of which the one behind says that they belong before it and that are not there, and such as have come between two that
/// belong together. What a faulty header says of others counts for nothing.
fn broken_links(segments: &VecDeque<Segment>, is_faulty: impl Fn(u64) -> bool) -> Vec<Faulty> {
    let mut broken = Vec::new();
    for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
        let (number, previous) = (segment.header.number, next.header.previous);
        if is_faulty(next.header.number) || previous == number {
            continue;
        }
        if !segments.iter().any(|segment| segment.header.number == previous) {
            broken.push(Faulty { file: file_name(previous), fault: "is missing" });
        } else if !is_faulty(number) {
            broken.push(Faulty { file: file_name(number), fault: "does not belong between its neighbours" });
        }
    }
    broken
}

/// Whether there is any file of a log.
pub(in crate::spool) fn has_files(directory: &Path) -> bool {
    numbers(&folder(directory)).is_ok_and(|numbers| !numbers.is_empty())
}

/// Bytes of all files of a log that may be damaged.
pub(in crate::spool) fn file_bytes(directory: &Path) -> io::Result<u64> {
    let folder = folder(directory);
    let sizes = numbers(&folder)?.into_iter().map(|number| folder.join(file_name(number)).metadata());
    sizes.map(|file| file.map(|file| file.len())).sum()
}

/// Whose the files say that they are.
pub(in crate::spool) fn spool_id(directory: &Path) -> Option<String> {
    let folder = folder(directory);
    numbers(&folder).ok()?.into_iter().find_map(|number| {
        let mut page = vec![0; PAGE];
        File::open(folder.join(file_name(number))).ok()?.read_exact_at(&mut page, 0).ok()?;
        Header::decode(&page).map(|header| header.spool_id)
    })
}

/// The numbers of the files that are there, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|name| name.parse().ok());
        // Only what we would call so.
        numbers.extend(number.filter(|number| name.to_str() == Some(&file_name(*number))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn what_is(file: &File, size: u64, number: u64, spool_id: &str) -> io::Result<Found> {
    let mut page = vec![0; PAGE];
    if size < PAGE as u64 {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let lost = pages::read_at(file, &mut bytes, 0)?;
        // One that was being made when the machine stopped.
        let new = lost == 0 && bytes.iter().all(|byte| *byte == 0);
        return Ok(if new { Found::Unused } else { damaged(number, 0) });
    }
    let lost = pages::read_at(file, &mut page, 0)?;
    match Header::decode(&page) {
        Some(header) if header.number != number => Ok(Found::Unused),
        Some(header) if header.spool_id != spool_id => {
            Ok(Found::Segment(header, Some("belongs to another spool")))
        }
        Some(header) => Ok(Found::Segment(header, None)),
        None if lost == 0 && page.iter().all(|byte| *byte == 0) => Ok(Found::Unused),
        None => {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
            pages::read_at(file, &mut bytes, 0)?;
            let first = segment::resume(&bytes, PAGE, &(0..u64::MAX)).map(|(_, stored)| stored.offset);
            Ok(damaged(number, first.unwrap_or(0)))
        }
    }
}

/// A file whose header cannot be read: its records tell where it begins. What was before it nobody can tell.
fn damaged(number: u64, first_offset: u64) -> Found {
    let header =
        Header { number, first_offset, previous: 0, previous_end: first_offset, spool_id: String::new() };
    Found::Segment(header, Some("has a header that cannot be read"))
}

impl Look {
    /// Goes on behind the newest record, in a file of its own: what a crash has left behind that record stays out of use. Where
    /// there is no room for another file it goes on in the newest one.
    pub(in crate::spool) fn go_on(self) -> Result<LogWriter, WriteError> {
        super::make_folder(&self.log.0.folder).map_err(WriteError::of)?;
        // Before the next file is made: on a full disk this is the room for it.
        for path in self.unused {
            std::fs::remove_file(path).map_err(WriteError::of)?;
        }
        let end = self.log.end();
        let newest: Vec<_> = lock(&self.log.0.segments).iter().rev().take(2).cloned().collect();
        let last = newest.first();
        if let Some(last) = last {
            make_durable(last, self.durable_ends, self.last_ends)?;
        }
        // One without a record has another one in its place, also where a repair has left out what was lost before it.
        let empty = last.filter(|last| last.header.first_offset >= end);
        let previous = if empty.is_some() { newest.get(1) } else { last };
        let previous_end = empty.map_or(end, |segment| segment.header.previous_end);
        let begun = LogWriter::begin(self.log.clone(), previous.map(AsRef::as_ref), previous_end, end);
        match (begun, last) {
            (Err(WriteError::Full(_)), Some(last)) => {
                LogWriter::again(self.log, last.clone(), self.last_ends)
            }
            (begun, _) => {
                let writer = begun?;
                if let Some(empty) = empty {
                    lock(&self.log.0.segments).retain(|segment| !Arc::ptr_eq(segment, empty));
                    std::fs::remove_file(&empty.path).map_err(WriteError::of)?;
                }
                Ok(writer)
            }
        }
    }
}

/// Has what was found in a file on the disk before anything counts on it. A process that was killed, or whose sync has failed, may
/// have left records there that only the system's memory has, and after a sync that failed the system takes them for written. So
/// those that nobody was answered for are written once more, which is one batch at most.
fn make_durable(segment: &Segment, from: u64, to: u64) -> Result<(), WriteError> {
    let file = OpenOptions::new().read(true).write(true).open(&segment.path).map_err(WriteError::of)?;
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)];
    // Nothing is written over pages that the disk does not give.
    if pages::read_at(&file, &mut bytes, from).map_err(WriteError::of)? == 0 {
        write(&file, &bytes, from).map_err(WriteError::of)?;
    }
    sync(&file).map_err(WriteError::Failed)
}
