//! Whether the spool can be where it is to be.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::{Config, Problem, Problems};
use crate::spool::nearest;

const DIRECTORY: &str = "spool.directory";
/// Bits of the mode that let others than owner and group in.
const OTHERS: u32 = 0o007;

/// A path that leads to or through something that is no folder. Nothing that may be made is missed.
pub(super) fn check(directory: &Path, problems: &mut Problems) {
    let Some((there, found)) = nearest(directory) else { return };
    if !found.is_dir() {
        problems.add(DIRECTORY, format!("{} is there and is not a folder", there.display()));
    }
}

/// What keeps this user from a start, though no word of the configuration is wrong. Who only looks at a configuration, such as
/// `ccrelay route test`, need not be able to start it.
#[must_use]
pub fn hindrances(config: &Config) -> Vec<Problem> {
    let directory = &config.spool.directory;
    let Some((there, _)) = nearest(directory) else { return Vec::new() };
    let mut found = Vec::new();
    let mut add = |key: &str, message: String| found.push(Problem { key: key.to_owned(), message });
    let needed = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if there == *directory
        && let Err(error) = access(&there, needed)
    {
        let at = there.display();
        add(
            DIRECTORY,
            format!("this user may not read and write {at}, without which nothing starts: {error}"),
        );
    }
    let size = statvfs(&there).map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    if let Ok(size) = size
        && size > 0
        && config.spool.limits.min_free_disk_bytes >= size
    {
        let at = there.display();
        add(
            "spool.min_free_disk_bytes",
            format!(
                "the disk of {at} has {size} bytes in all: with fewer of them free every push is refused"
            ),
        );
    }
    found
}

/// What speaks against the folder as it is.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let directory = &config.spool.directory;
    match nearest(directory) {
        Some((there, found)) if there == *directory => {
            let (at, mode) = (there.display(), found.mode() & 0o777);
            let open = mode & OTHERS != 0;
            let said = || {
                format!(
                    "{DIRECTORY}: others than owner and group may enter {at} (mode {mode:03o}), which holds what callers said and \
                     keys of sessions: chmod 700 {at}"
                )
            };
            open.then(said).into_iter().collect()
        }
        Some((there, found))
            if found.is_dir() && access(&there, Access::WRITE_OK | Access::EXEC_OK).is_err() =>
        {
            let at = directory.display();
            vec![format!(
                "{DIRECTORY}: this user cannot make {at}, as {} is not writable: a start as this user fails",
                there.display()
            )]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_folder_is_a_mistake_and_what_can_be_made_is_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = |path: &Path| {
            let mut problems = Problems::default();
            check(path, &mut problems);
            problems.found().iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
        };
        let expected = [format!("{} is there and is not a folder", file.display())];
        assert_eq!((said(&file), said(&file.join("below"))), (expected.to_vec(), expected.to_vec()));
        assert!(said(folder.path()).is_empty() && said(&folder.path().join("a/b/c")).is_empty());
    }
}
