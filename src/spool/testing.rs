//! The files of the log, for unit tests that damage them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use super::log;
use super::segment::PAGE;

/// The files of the log, in order.
pub(crate) fn log_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(log::folder(directory)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The file of the log that holds these bytes, and where.
pub(crate) fn place_of(directory: &Path, content: &str) -> (PathBuf, usize) {
    let found = log_files(directory).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(content.len()).rposition(|window| window == content.as_bytes())?;
        Some((path, at))
    });
    found.expect("it is there")
}

/// The place of the record that this byte of a file is of.
pub(crate) fn record_around(bytes: &[u8], at: usize) -> Range<usize> {
    let begin = bytes[..at].windows(4).rposition(|window| window == b"ccR\x01").unwrap();
    let length = u32::from_le_bytes(bytes[begin + 4..begin + 8].try_into().unwrap()) as usize;
    begin..begin + length
}

/// Makes the checksum of a record right again.
pub(crate) fn seal(record: &mut [u8]) {
    let crc = crc32fast::hash(&record[12..]);
    record[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// Changes a file.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes a byte of a file where it lies, as a disk does.
pub(crate) fn flip(path: &Path, at: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

/// Device and inode of files, and a page of each that the disk does not give.
static LOST: Mutex<Vec<(u64, u64, u64)>> = Mutex::new(Vec::new());

/// A page that the disk does not give for as long as this lives.
#[derive(Debug)]
pub(crate) struct LostPage(u64, u64, u64);

/// Has the disk fail on the page with this byte.
pub(crate) fn lose_page(path: &Path, at: usize) -> LostPage {
    let file = fs::metadata(path).unwrap();
    let page = (file.dev(), file.ino(), (at / PAGE) as u64);
    LOST.lock().unwrap_or_else(PoisonError::into_inner).push(page);
    LostPage(page.0, page.1, page.2)
}

impl Drop for LostPage {
    fn drop(&mut self) {
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        lost.retain(|page| *page != (self.0, self.1, self.2));
    }
}

/// What the system says of a reading with such a page in it.
pub(crate) fn fail_on_lost_pages(file: &File, length: usize, position: u64) -> io::Result<()> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if lost.is_empty() || length == 0 {
        return Ok(());
    }
    let file = file.metadata()?;
    let page = PAGE as u64;
    let pages = position / page..=(position + length as u64 - 1) / page;
    let fails = lost
        .iter()
        .any(|(device, inode, page)| (*device, *inode) == (file.dev(), file.ino()) && pages.contains(page));
    if fails { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
}

/// Folders of logs whose disk does not get on.
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static RELEASED: Condvar = Condvar::new();

/// A disk that finishes no commit for as long as this lives.
#[derive(Debug)]
pub(crate) struct HeldDisk(PathBuf);

/// Has the commits of the spool in this folder wait.
pub(crate) fn hold_disk(directory: &Path) -> HeldDisk {
    let folder = log::folder(directory);
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(folder.clone());
    HeldDisk(folder)
}

impl Drop for HeldDisk {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).retain(|folder| *folder != self.0);
        RELEASED.notify_all();
    }
}

/// Returns when nobody holds this disk.
pub(super) fn wait_for_disk(folder: &Path) {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    while held.iter().any(|one| one == folder) {
        held = RELEASED.wait(held).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Folders of logs whose disk has no more than so much room for another file.
static FULL: Mutex<Vec<(PathBuf, u64)>> = Mutex::new(Vec::new());

/// A disk without room for as long as this lives.
#[derive(Debug)]
pub(crate) struct FullDisk(PathBuf);

/// Has the log in this folder find no room for another file.
pub(crate) fn fill_disk(folder: &Path) -> FullDisk {
    leave_room(folder, 0)
}

/// Has the log in this folder find no room for a file that needs more than this, with what it leaves free.
pub(crate) fn leave_room(folder: &Path, bytes: u64) -> FullDisk {
    FULL.lock().unwrap_or_else(PoisonError::into_inner).push((folder.to_path_buf(), bytes));
    FullDisk(folder.to_path_buf())
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        FULL.lock().unwrap_or_else(PoisonError::into_inner).retain(|(folder, _)| *folder != self.0);
    }
}

/// What the system says of a file that is to be made there.
pub(super) fn find_room(folder: &Path, needed: u64) -> io::Result<()> {
    let full = FULL.lock().unwrap_or_else(PoisonError::into_inner);
    let is_short = full.iter().any(|(one, room)| one == folder && needed > *room);
    if is_short { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
}

/// Files whose power may be cut, with what their disk has of them, and what only memory has.
static POWERED: Mutex<Vec<Powered>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Powered {
    path: PathBuf,
    durable: Vec<u8>,
    written: Vec<(usize, Vec<u8>)>,
}

/// Has power cuts of the log in this folder lose what is written from now on and not synced.
pub(crate) fn watch_power(directory: &Path) {
    for path in log_files(directory) {
        let durable = fs::read(&path).unwrap();
        POWERED.lock().unwrap_or_else(PoisonError::into_inner).push(Powered {
            path,
            durable,
            written: Vec::new(),
        });
    }
}

/// Leaves of the files that were there when [`watch_power`] began what their disk has.
pub(crate) fn cut_power(directory: &Path) {
    let folder = log::folder(directory);
    let mut powered = POWERED.lock().unwrap_or_else(PoisonError::into_inner);
    for file in powered.extract_if(.., |file| file.path.starts_with(&folder)) {
        fs::write(&file.path, &file.durable).unwrap();
    }
}

fn with_powered(file: &File, change: impl FnOnce(&mut Powered)) {
    let mut powered = POWERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !powered.is_empty() {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        powered.iter_mut().find(|file| file.path == path).map(change);
    }
}

pub(super) fn has_written(file: &File, bytes: &[u8], position: u64) {
    with_powered(file, |file| file.written.push((position as usize, bytes.to_vec())));
}

/// What was written before [`watch_power`] began, as by a process whose own sync has failed, is not made durable by this.
pub(super) fn has_synced(file: &File) {
    with_powered(file, |file| {
        for (position, bytes) in std::mem::take(&mut file.written) {
            file.durable[position..position + bytes.len()].copy_from_slice(&bytes);
        }
    });
}
