//! Secrets that sinks read from files.

use std::path::Path;

use secrecy::SecretString;

/// Reads a password from a file; the line break that editors leave at the end is not part of it.
///
/// # Errors
/// When the file cannot be read or holds nothing; the text names the path, never the content.
pub(super) fn read_secret(path: &Path) -> Result<SecretString, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(secret.into()) }
}
