//! Room on the disk that is kept for the database. What is stored there gives records back to the disk, so without it a full disk
//! would stay full: neither that a sink has got its records nor that it is gone could be stored.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::log::LEFT_FREE;

/// Bytes that are kept: as many as files of records leave free, which the journal may have taken before the disk was full.
const BYTES: u64 = LEFT_FREE;
/// They are taken again only where there is so much more that nothing is short of it.
const WELL_FREE: u64 = 4 << 20;
const NAME: &str = "reserve";

/// The file that keeps the room.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// That of this spool's folder, as an earlier run has left it.
    pub(super) fn of(directory: &Path) -> Reserve {
        let path = directory.join(NAME);
        let held = fs::metadata(&path).is_ok_and(|file| file.len() == BYTES);
        Reserve { path, held }
    }

    /// Gives the room to the database.
    pub(super) fn give(&mut self) -> std::io::Result<()> {
        self.held = false;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the room, where there is plenty and it is not held already.
    pub(super) fn take(&mut self, free: Option<u64>) -> std::io::Result<()> {
        if self.held || is_short(free) {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
        let filled =
            std::io::copy(&mut std::io::repeat(0).take(BYTES), &mut file).and_then(|_| file.sync_all());
        self.held = filled.is_ok();
        if !self.held {
            self.give()?;
        }
        filled
    }
}

/// Whether so little of the disk is free that none of it is taken without need.
pub(super) fn is_short(free: Option<u64>) -> bool {
    free.is_some_and(|free| free < WELL_FREE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_where_there_is_plenty_given_once_and_known_after_a_restart() {
        let folder = tempfile::TempDir::new().unwrap();
        let bytes = || fs::metadata(folder.path().join(NAME)).ok().map(|file| file.len());
        let mut reserve = Reserve::of(folder.path());
        reserve.take(Some(WELL_FREE - 1)).unwrap();
        assert_eq!(bytes(), None);
        reserve.take(Some(WELL_FREE)).unwrap();
        assert_eq!(bytes(), Some(BYTES));
        let mut reserve = Reserve::of(folder.path());
        assert!(reserve.held);
        reserve.give().unwrap();
        reserve.give().unwrap();
        assert_eq!(bytes(), None);
        // One that was cut short is no reserve.
        fs::write(folder.path().join(NAME), "short").unwrap();
        let mut reserve = Reserve::of(folder.path());
        reserve.take(None).unwrap();
        assert_eq!(bytes(), Some(BYTES));
    }
}
