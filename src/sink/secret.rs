//! Secrets that sinks read from files.

use std::path::PathBuf;

use secrecy::SecretString;

use super::DeliveryError;

/// A file with a password. It is read anew for each client that needs it, so that a changed one comes into use.
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

    /// The password; the line break that editors leave at the end is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or holds nothing; the text names the path, never the content.
    pub(super) fn read(&self) -> Result<SecretString, DeliveryError> {
        self.read_out().map_err(|error| DeliveryError::retry("client", error))
    }

    fn read_out(&self) -> Result<SecretString, String> {
        let path = self.0.display();
        let text =
            std::fs::read_to_string(&self.0).map_err(|error| format!("cannot read {path}: {error}"))?;
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() { Err(format!("{path} is empty")) } else { Ok(secret.into()) }
    }
}
