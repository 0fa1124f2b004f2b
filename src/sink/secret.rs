//! Secrets that sinks read from files.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::DeliveryError;

/// A regular file with a password. It is read anew for each client that needs it, so that a changed one comes into use. What gives
/// its text once only would have none for the next client, and a pipe would have a start wait for ever for who writes to it.
#[derive(Debug, Clone)]
pub(super) struct SecretFile(PathBuf);

impl SecretFile {
    /// The file, which can be read now.
    ///
    /// # Errors
    /// As [`SecretFile::read`].
    pub(super) fn checked(path: PathBuf) -> Result<SecretFile, String> {
        let file = SecretFile(path);
        file.read_out().map(|_| file)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The password; the line break that editors leave at the end is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or holds nothing; the text names the path, never the content.
    pub(super) fn read(&self) -> Result<SecretString, DeliveryError> {
        self.read_out().map_err(|error| DeliveryError::retry("client", error))
    }

    fn read_out(&self) -> Result<SecretString, String> {
        let path = self.0.display();
        let unreadable = |error: std::io::Error| format!("cannot read {path}: {error}");
        // Opening a pipe would else wait for somebody who writes to it.
        let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut file =
            OpenOptions::new().read(true).custom_flags(no_wait).open(&self.0).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(format!("{path} is not a regular file"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() { Err(format!("{path} is empty")) } else { Ok(secret.into()) }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_password_is_read_from_regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe, "/dev/zero".into(), folder.path().to_owned()] {
            let said = SecretFile::checked(path.clone()).unwrap_err();
            assert_eq!(said, format!("{} is not a regular file", path.display()));
        }
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "word\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(SecretFile::checked(link).unwrap().read().unwrap().expose_secret(), "word");
    }
}
