//! The records: files of one size after another ([`super::segment`]), written at the end, read from anywhere, and given back
//! from the beginning.
//!
//! One thread writes ([`LogWriter`]): what it has staged goes out in one write and one sync. Readers never see more than is
//! durable. Files have their full length and are synced before they are used, and those that are not needed any more are used
//! again, so that a sync writes records and nothing of the file system. That is prepared by another thread ([`Log::tend`]).
//!
//! Records are freed by their offset ([`Log::free_below`]); the space comes back by whole files.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::segment::{HEADER, Header, PAGE, Stored};
use super::{limits, room};
use crate::clock::Timestamp;

mod look;
mod pages;
mod read;

pub(super) use look::{Look, file_bytes, has_files, look, spool_id};
pub(super) use read::{Item, LogReader};

/// The folder of the files in that of the spool.
const FOLDER: &str = "records";
/// Bytes of a file at first.
const SMALLEST: u64 = 1 << 20;
/// Bytes of a file at most, but for a record that is larger: rolling over to the next one is rare then, and what a file still
/// holds for one record is little.
const LARGEST: u64 = 16 << 20;
/// A file that was full sooner has a larger one after it.
const SOON: Duration = Duration::from_secs(5);
/// After one that lasted longer the files are small again.
const LATE: Duration = Duration::from_secs(60);
/// Bytes that are copied with one sync.
const COPIED: usize = 1 << 20;
/// Files kept for reuse at most, beside the one that is prepared.
const KEPT: usize = 1;
/// Bytes of a file that are filled with one sync, and how long others have the disk for themselves then.
const FILLED: u64 = 256 << 10;
const BETWEEN: Duration = Duration::from_millis(2);
/// Bytes of the disk that a new file leaves free. The database needs them to store what sinks have got, and that is what gives
/// records back.
pub(super) const LEFT_FREE: u64 = 1 << 20;
/// After this long a file is prepared where there was no room for the smallest one.
const PAUSE: Duration = Duration::from_secs(10);
/// Places that are remembered are so far apart.
const APART: u64 = 64 << 10;

pub(super) fn folder(directory: &Path) -> PathBuf {
    directory.join(FOLDER)
}

fn file_name(number: u64) -> String {
    format!("{number:012}.log")
}

/// A record's place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    position: u64,
}

/// A file with records.
#[derive(Debug)]
struct Segment {
    header: Header,
    path: PathBuf,
    size: u64,
    /// Some places, in order: the first record's, and the one after the newest record, as far as that is known.
    places: Mutex<Vec<Place>>,
    /// It was said that the disk does not give all of it: every reader meets that again and again.
    told: AtomicBool,
}

impl Segment {
    fn new(header: Header, path: PathBuf, size: u64) -> Segment {
        let first = Place { offset: header.first_offset, position: HEADER };
        Segment { header, path, size, places: Mutex::new(vec![first]), told: AtomicBool::new(false) }
    }

    /// Reads from the file, with zeros for what the disk does not give.
    fn read_at(&self, file: &File, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let lost = pages::read_at(file, buffer, position)?;
        if lost > 0 && !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(
                path = %self.path.display(), lost,
                "the disk does not give all pages of a file of the spool: the records in them are damaged"
            );
        }
        Ok(())
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        // Nothing panics while it holds the lock.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file has records up to here.
    fn ends_at(&self, end: Place) {
        let mut places = self.places();
        if let [.., before, last] = &mut places[..]
            && last.position < before.position + APART
        {
            *last = end;
        } else {
            places.push(end);
        }
    }

    /// A reader has come by here.
    fn remember(&self, place: Place) {
        let mut places = self.places();
        let at = places.partition_point(|known| known.offset <= place.offset);
        let far = |known: Option<&Place>| {
            known.is_none_or(|known| known.position.abs_diff(place.position) >= APART)
        };
        if far(at.checked_sub(1).and_then(|before| places.get(before))) && far(places.get(at)) {
            places.insert(at, place);
        }
    }

    /// The last known place at or before an offset.
    fn place_before(&self, offset: u64) -> Place {
        let places = self.places();
        let after = places.partition_point(|place| place.offset <= offset);
        places
            .get(after.saturating_sub(1))
            .copied()
            .unwrap_or(Place { offset: self.header.first_offset, position: HEADER })
    }

    /// Bytes of the records from `from` on that are before `end`, about: between known places it counts evenly.
    fn bytes_between(&self, from: u64, end: u64) -> u64 {
        let places = self.places();
        let full = Place { offset: end, position: self.size };
        let position = |offset: u64| {
            let after = places.partition_point(|place| place.offset <= offset);
            let Some(low) = after.checked_sub(1).and_then(|at| places.get(at)) else { return HEADER };
            let high = places.get(after).unwrap_or(&full);
            match high.offset.saturating_sub(low.offset) {
                0 => low.position,
                records => {
                    let bytes = high.position.saturating_sub(low.position) as f64;
                    low.position + (bytes * (offset - low.offset) as f64 / records as f64) as u64
                }
            }
        };
        // Where the file ends is known, or it is taken for full.
        let last = places
            .last()
            .copied()
            .filter(|last| last.offset >= end)
            .map_or(full.position, |last| last.position);
        last.saturating_sub(position(from.min(end)))
    }
}

/// A file that is ready for records.
#[derive(Debug)]
struct Spare {
    number: u64,
    path: PathBuf,
    file: File,
    size: u64,
}

/// The files and what is in them; cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    spool_id: String,
    segments: Mutex<VecDeque<Arc<Segment>>>,
    /// Records below are freed.
    first: AtomicU64,
    /// Offset after the newest durable record.
    end: AtomicU64,
    /// Number of the next file that is made.
    next_number: AtomicU64,
    /// Bytes that the next file is to have.
    wanted: AtomicU64,
    /// When the newest file was begun.
    began: Mutex<Instant>,
    spare: Mutex<Option<Spare>>,
    /// None is made before, but for a writer that needs one now.
    not_before: Mutex<Option<Instant>>,
    /// Files whose records are all freed.
    freed: Mutex<Vec<Arc<Segment>>>,
    /// The thread that prepares files.
    tender: OnceLock<Thread>,
}

/// Takes a lock that nobody panics under.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn new(
        folder: PathBuf,
        spool_id: &str,
        segments: VecDeque<Arc<Segment>>,
        first: u64,
        end: u64,
        next_number: u64,
    ) -> Log {
        Log(Arc::new(Shared {
            folder,
            spool_id: spool_id.to_owned(),
            segments: Mutex::new(segments),
            first: AtomicU64::new(first),
            end: AtomicU64::new(end),
            next_number: AtomicU64::new(next_number),
            wanted: AtomicU64::new(SMALLEST),
            began: Mutex::new(Instant::now()),
            spare: Mutex::default(),
            not_before: Mutex::default(),
            freed: Mutex::default(),
            tender: OnceLock::new(),
        }))
    }

    /// From now on this thread is unparked when there is a file to be prepared.
    pub(super) fn is_tended_here(&self) {
        self.0.tender.get_or_init(std::thread::current);
    }

    /// The oldest record that is not freed.
    pub(super) fn first(&self) -> u64 {
        self.0.first.load(Ordering::Acquire)
    }

    /// The offset after the newest durable record.
    pub(super) fn end(&self) -> u64 {
        self.0.end.load(Ordering::Acquire)
    }

    pub(super) fn reader(&self) -> LogReader {
        LogReader::new(self.clone())
    }

    /// Bytes of the records from `from` on that are not freed, about.
    pub(super) fn bytes_from(&self, from: u64) -> u64 {
        let (first, end) = (self.first().max(from), self.end());
        let segments = lock(&self.0.segments);
        let ends = segments.iter().skip(1).map(|next| next.header.previous_end).chain([end]);
        segments
            .iter()
            .zip(ends)
            .filter(|(_, end)| *end > first)
            .map(|(segment, end)| segment.bytes_between(first.max(segment.header.first_offset), end))
            .sum()
    }

    /// Bytes of all files, also of those that wait for records.
    pub(super) fn file_bytes(&self) -> u64 {
        let used: u64 = lock(&self.0.segments).iter().map(|segment| segment.size).sum();
        let freed: u64 = lock(&self.0.freed).iter().map(|segment| segment.size).sum();
        used + freed + lock(&self.0.spare).as_ref().map_or(0, |spare| spare.size)
    }

    /// Records below `to` are shown to nobody any more. They keep their space until they are freed.
    pub(super) fn hide_below(&self, to: u64) {
        self.0.first.fetch_max(to.min(self.end()), Ordering::AcqRel);
    }

    /// Nobody needs the records below `to` any more, nor does the next start.
    pub(super) fn free_below(&self, to: u64) {
        // Before the files: whoever reads in one of them knows by this that it may be another by now.
        self.hide_below(to);
        let mut segments = lock(&self.0.segments);
        while segments.get(1).is_some_and(|next| next.header.first_offset <= to) {
            lock(&self.0.freed).extend(segments.pop_front());
        }
    }

    /// Gives files back that are not needed any more, and prepares the next one, where there is none. May take as long as a disk
    /// takes to write a file: for one thread that nobody waits for.
    pub(super) fn tend(&self) -> io::Result<()> {
        if lock(&self.0.began).elapsed() > LATE {
            self.0.wanted.store(SMALLEST, Ordering::Relaxed);
        }
        let wanted = self.0.wanted.load(Ordering::Relaxed);
        let fits = |size: u64| (wanted..=2 * wanted).contains(&size);
        let active = lock(&self.0.segments).back().map_or(0, |segment| segment.header.number);
        // The space comes first: without it the next file may not find room.
        let spare = lock(&self.0.spare).take_if(|spare| spare.number < active || !fits(spare.size));
        if let Some(spare) = spare {
            fs::remove_file(spare.path)?;
        }
        let needed = KEPT + usize::from(lock(&self.0.spare).is_none());
        while let Some(segment) = self.surplus(needed, fits) {
            fs::remove_file(&segment.path)?;
        }
        if lock(&self.0.spare).is_some() {
            return Ok(());
        }
        let freed = lock(&self.0.freed).pop();
        let spare = match freed {
            Some(segment) => self.reuse(&segment)?,
            None if lock(&self.0.not_before).is_some_and(|at| Instant::now() < at) => return Ok(()),
            None => self.make(wanted, false).inspect_err(|_| {
                if wanted == SMALLEST {
                    self.make_none_for_now();
                }
                // Where there is little room, little is asked for.
                self.0.wanted.store(SMALLEST, Ordering::Relaxed);
            })?,
        };
        *lock(&self.0.spare) = Some(spare);
        Ok(())
    }

    fn make_none_for_now(&self) {
        *lock(&self.0.not_before) = Some(Instant::now() + PAUSE);
    }

    /// Gives the space of the prepared file back to the disk, for whoever needs it more. Gives whether there was one.
    pub(super) fn give_spare_back(&self) -> io::Result<bool> {
        let Some(spare) = lock(&self.0.spare).take() else { return Ok(false) };
        self.make_none_for_now();
        fs::remove_file(spare.path).map(|()| true)
    }

    /// A freed file that is not to be used again: of another size, or one more than are needed.
    fn surplus(&self, needed: usize, fits: impl Fn(u64) -> bool) -> Option<Arc<Segment>> {
        let mut freed = lock(&self.0.freed);
        match freed.iter().position(|segment| !fits(segment.size)) {
            Some(at) => Some(freed.swap_remove(at)),
            None if freed.len() > needed => freed.pop(),
            None => None,
        }
    }

    fn reuse(&self, segment: &Segment) -> io::Result<Spare> {
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.0.folder.join(file_name(number));
        let renamed = fs::rename(&segment.path, &path)
            .and_then(|()| sync_folder(&self.0.folder))
            .and_then(|()| OpenOptions::new().read(true).write(true).open(&path));
        match renamed {
            Ok(file) => Ok(Spare { number, path, file, size: segment.size }),
            Err(error) => {
                // Nobody knows of it any more, whichever name it has: its space must not be lost until the next start.
                drop(fs::remove_file(&path));
                drop(fs::remove_file(&segment.path));
                Err(error)
            }
        }
    }

    /// Makes a file of this many bytes, synced. Where it would leave too little of the disk none is begun: filling that up would take
    /// from others what is given back a moment later.
    fn make(&self, size: u64, hurry: bool) -> io::Result<Spare> {
        #[cfg(test)]
        super::testing::find_room(&self.0.folder, size + LEFT_FREE)?;
        if limits::free_disk(&self.0.folder).is_some_and(|free| free < size + LEFT_FREE) {
            return Err(Errno::NOSPC.into());
        }
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let path = self.0.folder.join(file_name(number));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let filled = fill(&file, size, hurry)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_folder(&self.0.folder));
        if let Err(error) = filled {
            drop(fs::remove_file(&path));
            return Err(error);
        }
        Ok(Spare { number, path, file, size })
    }

    /// The segment that holds `offset`, or where that is not there any more the one after it; with where its records end and
    /// where those of the next one begin, if there is one.
    fn segment_of(&self, offset: u64) -> Option<(Arc<Segment>, u64, Option<u64>)> {
        let segments = lock(&self.0.segments);
        let after = segments.partition_point(|segment| segment.header.first_offset <= offset);
        let at = after.saturating_sub(1);
        let segment = segments.get(at)?.clone();
        let next = segments.get(at + 1).map(|next| (next.header.previous_end, next.header.first_offset));
        let end = self.end();
        Some((
            segment,
            next.map_or(end, |(previous_end, _)| previous_end.min(end)),
            next.map(|(_, first)| first),
        ))
    }
}

/// Fills a file with zeros. Whoever is not in a hurry syncs piece by piece, because the sync of a commit waits for those that
/// are under way.
fn fill(file: &File, size: u64, hurry: bool) -> io::Result<()> {
    let mut from = 0;
    while from < size {
        let to = size.min(from + FILLED);
        clear(file, from, to)?;
        from = to;
        if !hurry && to.is_multiple_of(FILLED) {
            file.sync_data()?;
            std::thread::sleep(BETWEEN);
        }
    }
    Ok(())
}

/// Makes a part of a file zeros, a page at a time: larger writes make larger pages of the cache, which a short write later on
/// dirties as a whole.
fn clear(file: &File, from: u64, to: u64) -> io::Result<()> {
    for position in (from..to).step_by(PAGE) {
        let length = PAGE.min(usize::try_from(to - position).unwrap_or(PAGE));
        file.write_all_at(&[0; PAGE][..length], position)?;
    }
    Ok(())
}

/// Writes what must not be lost; [`sync`] makes it durable.
fn write(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    #[cfg(test)]
    super::testing::has_written(file, bytes, position);
    file.write_all_at(bytes, position)
}

fn sync(file: &File) -> io::Result<()> {
    #[cfg(test)]
    super::testing::has_synced(file);
    file.sync_data()
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes the folder with all that is in it, where there is one.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the folder, readable by its owner only, when it is not there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Why records were not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// There is no room, which passes: nothing was stored.
    Full(io::Error),
    /// The system has no more files or memory for now, which passes as well: nothing was stored.
    Later(io::Error),
    /// The disk failed, and what it holds is not known.
    Failed(io::Error),
}

impl WriteError {
    fn of(error: io::Error) -> WriteError {
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match error.raw_os_error() {
            _ if room::is_none(&error) => WriteError::Full(error),
            Some(number) if passing.map(Errno::raw_os_error).contains(&number) => WriteError::Later(error),
            _ => WriteError::Failed(error),
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> io::Error {
        let (WriteError::Full(error) | WriteError::Later(error) | WriteError::Failed(error)) = error;
        error
    }
}

/// The one that writes.
#[derive(Debug)]
pub(super) struct LogWriter {
    log: Log,
    segment: Arc<Segment>,
    file: File,
    /// Where the next record goes.
    position: u64,
    staged: Vec<u8>,
    /// What is at `position` may be a part of records that were refused.
    unsure: bool,
}

impl LogWriter {
    /// Begins a new file behind `previous`, whose records end before `previous_end`, for records from `first_offset` on.
    fn begin(
        log: Log,
        previous: Option<&Segment>,
        previous_end: u64,
        first_offset: u64,
    ) -> Result<LogWriter, WriteError> {
        let (segment, file) = start_segment(&log, previous, previous_end, first_offset, 0)?;
        log.0.end.store(first_offset, Ordering::Release);
        Ok(LogWriter { log, segment, file, position: HEADER, staged: Vec::new(), unsure: false })
    }

    /// Goes on in a file that is there, from `position` on. What a crash has left there is made zeros first: it must never be
    /// taken for a record behind those that come.
    fn again(log: Log, segment: Arc<Segment>, position: u64) -> Result<LogWriter, WriteError> {
        let file = OpenOptions::new().read(true).write(true).open(&segment.path).map_err(WriteError::of)?;
        clear(&file, position, segment.size).map_err(WriteError::of)?;
        sync(&file).map_err(WriteError::Failed)?;
        Ok(LogWriter { log, segment, file, position, staged: Vec::new(), unsure: false })
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Adds a record to what the next commit writes. Gives its bytes.
    pub(super) fn stage(&mut self, stored: &Stored<'_>) -> u64 {
        let before = self.staged.len();
        stored.encode(&mut self.staged);
        (self.staged.len() - before) as u64
    }

    /// What was staged is not to be written.
    pub(super) fn discard(&mut self) {
        self.staged.clear();
    }

    /// Writes what is staged, up to before `end`. It is durable then, or certainly not acknowledged.
    pub(super) fn commit(&mut self, end: u64) -> Result<(), WriteError> {
        let length = self.staged.len() as u64;
        if length == 0 {
            return Ok(());
        }
        if self.unsure || self.position + length > self.segment.size {
            let first = self.log.end();
            self.roll(first, length)?;
        }
        // Up to the end of a page, so that no page has to be read first. What is behind is not needed any more.
        let whole = (self.position + length).next_multiple_of(PAGE as u64) - self.position;
        self.staged.resize(usize::try_from(whole).unwrap_or(usize::MAX), 0);
        self.unsure = true;
        write(&self.file, &self.staged, self.position).map_err(WriteError::of)?;
        #[cfg(test)]
        super::testing::wait_for_disk(&self.log.0.folder);
        // After a sync that failed another one that succeeds proves nothing.
        sync(&self.file).map_err(WriteError::Failed)?;
        self.unsure = false;
        self.staged.clear();
        self.position += length;
        self.segment.ends_at(Place { offset: end, position: self.position });
        self.log.0.end.store(end, Ordering::Release);
        Ok(())
    }

    /// Goes on with another file at `first`, where a repair leaves out what was lost, or a restored spool what others have had.
    pub(super) fn skip_to(&mut self, first: u64) -> Result<(), WriteError> {
        if first > self.log.end() {
            self.roll(first, 0)?;
            self.log.0.end.store(first, Ordering::Release);
        }
        Ok(())
    }

    /// Goes on with another file.
    fn roll(&mut self, first_offset: u64, length: u64) -> Result<(), WriteError> {
        let wanted = &self.log.0.wanted;
        let lasted = std::mem::replace(&mut *lock(&self.log.0.began), Instant::now()).elapsed();
        if lasted < SOON && !self.unsure {
            wanted.store((self.segment.size * 2).clamp(SMALLEST, LARGEST), Ordering::Relaxed);
        }
        let end = self.log.end();
        let (segment, file) = start_segment(&self.log, Some(&self.segment), end, first_offset, length)?;
        (self.segment, self.file) = (segment, file);
        (self.position, self.unsure) = (HEADER, false);
        if let Some(tender) = self.log.0.tender.get() {
            tender.unpark();
        }
        Ok(())
    }
}

/// A new log that records of another one, or of a database, are copied into with their offsets, in order.
#[derive(Debug)]
pub(super) struct Copied {
    log: LogWriter,
    /// Offset after the newest record.
    pub(super) next: u64,
    /// How many records were copied.
    pub(super) records: u64,
    /// When the newest of them came.
    pub(super) newest: Option<Timestamp>,
}

impl Copied {
    /// Makes a log in a folder that has none, for records from `first` on.
    pub(super) fn create(folder: &Path, spool_id: &str, first: u64) -> Result<Copied, WriteError> {
        make_folder(folder).map_err(WriteError::of)?;
        let log = Log::new(folder.to_path_buf(), spool_id, VecDeque::new(), first, first, 1);
        let log = LogWriter::begin(log, None, first, first)?;
        Ok(Copied { log, next: first, records: 0, newest: None })
    }

    /// Copies a record. Those between it and the one before are left out.
    pub(super) fn take(&mut self, stored: &Stored<'_>) -> Result<(), WriteError> {
        if stored.offset > self.next {
            self.end_at(stored.offset)?;
        }
        self.log.stage(&Stored { batch: self.log.log().end(), ..*stored });
        let at = Timestamp(stored.received_ms);
        (self.next, self.records, self.newest) =
            (stored.offset + 1, self.records + 1, self.newest.max(Some(at)));
        if self.log.staged.len() >= COPIED { self.log.commit(self.next) } else { Ok(()) }
    }

    /// Makes all of it durable. The next record has this offset, or the one after the newest record.
    pub(super) fn end_at(&mut self, offset: u64) -> Result<(), WriteError> {
        self.log.commit(self.next)?;
        self.log.skip_to(offset)
    }
}

/// Puts a header into a prepared file, or into one that is made now, and takes it into the log.
fn start_segment(
    log: &Log,
    previous: Option<&Segment>,
    previous_end: u64,
    first_offset: u64,
    length: u64,
) -> Result<(Arc<Segment>, File), WriteError> {
    let least = (HEADER + length).next_multiple_of(PAGE as u64);
    let previous = previous.map_or(0, |segment| segment.header.number);
    let fits = |spare: &mut Spare| spare.size >= least && spare.number > previous;
    let prepared = lock(&log.0.spare).take_if(fits);
    let spare = match prepared {
        Some(spare) => spare,
        None => {
            let wanted = log.0.wanted.load(Ordering::Relaxed);
            let made = log.make(wanted.max(least), true);
            made.or_else(|_| log.make(SMALLEST.max(least), true)).map_err(WriteError::of)?
        }
    };
    let Spare { number, path, file, size } = spare;
    let spool_id = log.0.spool_id.clone();
    let header = Header { number, first_offset, previous, previous_end, spool_id };
    // Synced: when the file before it is given back, this one must be there.
    write(&file, &header.encode(), 0).map_err(WriteError::of)?;
    sync(&file).map_err(WriteError::Failed)?;
    let segment = Arc::new(Segment::new(header, path, size));
    lock(&log.0.segments).push_back(segment.clone());
    Ok((segment, file))
}

#[cfg(test)]
mod tests;
