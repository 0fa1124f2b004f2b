//! What a file looks like from outside: enough to notice that it was changed or replaced, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Differs when a file was written, replaced, led elsewhere by a link, or got another mode or owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    node: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None when there is no such file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Stamp> {
        let stamp = |file: Metadata| Stamp {
            node: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        };
        std::fs::metadata(path).map(stamp).ok()
    }
}
