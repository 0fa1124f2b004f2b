//! Whether the disk has no room: that passes, where other faults of it do not.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const TRIAL: &str = "spool.trial";
/// More than a page of the database with its head in the journal.
const TRIAL_BYTES: usize = 16 << 10;

/// Whether an error says that there is no room, on the disk or in what its owner may use of it.
pub(super) fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes a little into this folder, and removes it again.
pub(super) fn find(directory: &Path) -> io::Result<()> {
    let path = directory.join(TRIAL);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    let written = file.write_all_at(&[1; TRIAL_BYTES], 0).and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_find_out_leaves_nothing_behind() {
        let folder = tempfile::TempDir::new().unwrap();
        find(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!is_none(&find(&folder.path().join("nowhere")).unwrap_err()));
    }
}
