//! The secrets that callback tokens are made with, and their files.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::digits::{BASE62, MAC_DIGITS, base62};
use super::parts::Parts;
use crate::event::GatewayName;
use crate::hex::hex;

/// The least bytes of a secret: as many as the MAC's hash gives.
pub const SHORTEST_SECRET: usize = 32;
/// The secret's file in the spool's folder where none is configured.
const OWN_SECRET: &str = "token.secret";

/// The token secrets as their files have them now: the one that mints, and the one before. Where no file is configured it is
/// one in `directory`, which is made if it is not there.
///
/// # Errors
/// When a file cannot be read, or holds too little, or cannot be made.
pub(crate) fn read_keys(
    secret: Option<&Path>,
    previous: Option<&Path>,
    directory: &Path,
) -> Result<(TokenKey, Option<TokenKey>), SecretFileError> {
    let current = match secret {
        Some(path) => TokenKey::read(path)?,
        None => own_key(&directory.join(OWN_SECRET))?,
    };
    Ok((current, previous.map(TokenKey::read).transpose()?))
}

/// The secret that this instance made for itself at its first start.
fn own_key(path: &Path) -> Result<TokenKey, SecretFileError> {
    if !path.exists() {
        make_secret(path).map_err(|reason| SecretFileError::Unwritable { path: path.into(), reason })?;
        tracing::info!(path = %path.display(), "made a token secret");
    }
    TokenKey::read(path)
}

fn make_secret(path: &Path) -> std::io::Result<()> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|error| std::io::Error::other(format!("no randomness: {error}")))?;
    let draft = path.with_extension("draft");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(hex(&secret).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

/// A secret with the HMAC state made from it.
#[derive(Clone)]
pub struct TokenKey {
    pub(super) id: u8,
    /// A hash that tells secrets apart; never shown.
    pub(super) print: [u8; 32],
    mac: Hmac<Sha256>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// A secret that is too short.
#[derive(Debug, thiserror::Error)]
#[error("a token secret has at least {SHORTEST_SECRET} bytes, this one has {0}")]
pub struct SecretTooShort(usize);

/// A secret's file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the token secret {path}: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// There is none, and none can be made.
    #[error("cannot write the token secret {path}: {reason}")]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// It holds too little.
    #[error("{path}: {fault}")]
    TooShort {
        /// Which file.
        path: PathBuf,
        /// How long it is and should be.
        fault: SecretTooShort,
    },
}

impl TokenKey {
    /// Reads a secret from a file; white space around it is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or holds less than [`SHORTEST_SECRET`] bytes.
    pub fn read(path: &Path) -> Result<TokenKey, SecretFileError> {
        let unreadable = |reason| SecretFileError::Unreadable { path: path.into(), reason };
        let text = SecretString::from(std::fs::read_to_string(path).map_err(unreadable)?);
        let bytes = SecretSlice::from(text.expose_secret().trim().as_bytes().to_vec());
        TokenKey::new(&bytes).map_err(|fault| SecretFileError::TooShort { path: path.into(), fault })
    }

    /// Makes a key of a secret.
    ///
    /// # Errors
    /// When the secret has less than [`SHORTEST_SECRET`] bytes.
    pub fn new(secret: &SecretSlice<u8>) -> Result<TokenKey, SecretTooShort> {
        let bytes = secret.expose_secret();
        if bytes.len() < SHORTEST_SECRET {
            return Err(SecretTooShort(bytes.len()));
        }
        let mac = Hmac::<Sha256>::new_from_slice(bytes).map_err(|_| SecretTooShort(bytes.len()))?;
        // The key's name is one character of a hash: it tells two secrets apart and nothing about either.
        let name = Sha256::new().chain_update(b"ccrelay token key name").chain_update(bytes).finalize();
        Ok(TokenKey { id: BASE62[usize::from(name[0]) % 62], print: name.into(), mac })
    }

    pub(super) fn sign(&self, gateway: &GatewayName, time: &[u8], agent: &str) -> [u8; MAC_DIGITS] {
        let mut mac = self.mac.clone();
        mac.update(b"ccrelay-token-1\0");
        mac.update(&[self.id]);
        mac.update(time);
        mac.update(agent.as_bytes());
        mac.update(b"\0");
        mac.update(gateway.as_str().as_bytes());
        let whole = mac.finalize().into_bytes();
        let mut half = [0u8; 16];
        half.copy_from_slice(&whole[..16]);
        base62(u128::from_be_bytes(half))
    }
    /// Compares in constant time.
    pub(super) fn matches(&self, gateway: &GatewayName, parts: &Parts<'_>) -> bool {
        self.sign(gateway, parts.time_digits, parts.agent.as_str()).ct_eq(parts.mac).into()
    }
}
