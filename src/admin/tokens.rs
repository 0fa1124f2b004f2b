//! Bearer tokens of the admin API, from a file: one a line, with the scope and a name for the audit log before it.
//!
//! ```text
//! # scope  name     token
//! read     grafana  3f0c2d5b8a1e4c7f9d6b
//! admin    crm      9b1f7c3e5d8a2f4c6e0b
//! ```
//!
//! Words are parted by spaces or colons. Without a scope a token may do everything; without a name it is called after
//! its line. A name that looks like a scope is refused where no scope stands before it: whoever wrote `Read` or `readonly` did not mean
//! a token for everything. Of tokens only the SHA-256 is kept. A file that has changed is read anew with the next request; one that
//! cannot be used leaves the tokens as they were, is told of, and is tried again. One without a token, or that is gone, lets nobody in: whoever has lost a token
//! must be able to take all of them away. So a file is best replaced by a rename, which has no moment in which it is empty.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus::IntGauge;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

use crate::calm::Calm;
use crate::stamp::Stamp;

/// Sixteen random characters cannot be guessed through a listener that answers some thousand times a second.
const SHORTEST: usize = 16;
/// Longer than any generator makes them, shorter than a request head.
const LONGEST: usize = 512;
/// Names stand in log lines.
const NAME_LENGTH: usize = 64;
/// A file of tokens is a few lines.
const MOST_BYTES: u64 = 1 << 20;
/// Bits of the mode that let others than owner and group in.
const OTHERS: u32 = 0o007;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To look: lists, states, events and dead letters without what could be personal.
    Read,
    /// Everything: changes, calls through to gateways, GUIDs, and dead letters as they are.
    Admin,
}

/// Who called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name, for the audit log.
    pub name: Arc<str>,
    /// What it may do.
    pub scope: Scope,
}

/// A file of tokens that cannot be used. Says which file and line, never what stands there.
#[derive(Debug, Error)]
pub enum TokensError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner and group may read or write it.
    #[error(
        "{path} is open to everybody (mode {mode:03o}): let only its owner and group in, chmod o= {path}"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// More than tokens can take.
    #[error("{path} is larger than {MOST_BYTES} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// A line that is wrong.
    #[error("{path}, line {line}: {fault}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl TokensError {
    fn is_gone(&self) -> bool {
        matches!(self, TokensError::Unreadable { source, .. } if source.kind() == ErrorKind::NotFound)
    }

    /// Whether it may be over although the file stays as it is, as a lack of file descriptors.
    fn may_pass(&self) -> bool {
        matches!(self, TokensError::Unreadable { source, .. } if source.kind() != ErrorKind::InvalidData)
    }
}

/// The tokens of one file; there may be none.
#[derive(Debug, Default)]
pub struct TokenList {
    entries: Vec<Entry>,
    /// Lines that name no scope.
    unscoped: Vec<usize>,
}

struct Entry {
    digest: [u8; 32],
    caller: Caller,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.caller.fmt(f)
    }
}

impl TokenList {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, is open to everybody, or has a line that is wrong.
    pub fn read(path: &Path) -> Result<TokenList, TokensError> {
        let unreadable = |source| TokensError::Unreadable { path: path.into(), source };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let mode = metadata.mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(TokensError::Open { path: path.into(), mode });
        }
        if metadata.len() > MOST_BYTES {
            return Err(TokensError::TooLarge { path: path.into() });
        }
        let text = SecretString::from(std::fs::read_to_string(path).map_err(unreadable)?);
        TokenList::parse(text.expose_secret(), path)
    }

    /// The same, but a file that is gone has no tokens: deleting it revokes them, and must not keep the rest of a
    /// configuration out of force.
    ///
    /// # Errors
    /// As [`TokenList::read`], when it is there.
    pub fn read_if_there(path: &Path) -> Result<TokenList, TokensError> {
        match TokenList::read(path) {
            Err(error) if error.is_gone() => Ok(TokenList::default()),
            read => read,
        }
    }

    /// Whether a line is one that a file may have; says what is wrong with it.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(line: &str) -> Result<(), &'static str> {
        parse_line(line, 1).map(|_| ())
    }

    fn parse(text: &str, path: &Path) -> Result<TokenList, TokensError> {
        let (mut entries, mut unscoped): (Vec<Entry>, _) = (Vec::new(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let wrong = |fault| TokensError::Line { path: path.into(), line: line_number, fault };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (entry, scoped) = parse_line(line, line_number).map_err(wrong)?;
            if entries.iter().any(|other| other.digest == entry.digest) {
                return Err(wrong("this token stands in the file twice"));
            }
            entries.push(entry);
            if !scoped {
                unscoped.push(line_number);
            }
        }
        Ok(TokenList { entries, unscoped })
    }

    /// Lines that name no scope, whose tokens so may do everything.
    #[must_use]
    pub fn unscoped(&self) -> &[usize] {
        &self.unscoped
    }

    /// Whose token this is. Takes the same time for every token of the file and every wrong one.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Caller> {
        let digest = digest(token);
        let mut found = None;
        for entry in &self.entries {
            let same: Choice = entry.digest.ct_eq(&digest);
            if bool::from(same) {
                found = Some(&entry.caller);
            }
        }
        found.cloned()
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The entry, and whether its scope stands there.
fn parse_line(line: &str, number: usize) -> Result<(Entry, bool), &'static str> {
    let words: Vec<&str> = line.split([' ', '\t', ':']).filter(|word| !word.is_empty()).collect();
    let (token, before) = words.split_last().ok_or("no token")?;
    let (scope, names) = match before.split_first() {
        Some((&"read", names)) => (Some(Scope::Read), names),
        Some((&"admin", names)) => (Some(Scope::Admin), names),
        _ => (None, before),
    };
    let name = match names {
        [] => format!("line-{number}"),
        [name] if scope.is_none() && looks_like_scope(name) => {
            return Err(
                "the name looks like a scope and is none: write read or admin, then a name, then the token",
            );
        }
        [name] => (*name).to_owned(),
        _ => return Err("expected a scope (read or admin), a name and a token, the first two optional"),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > NAME_LENGTH || !name.bytes().all(plain) {
        return Err("a name has at most 64 characters of A-Z, a-z, 0-9, -, _ and .");
    }
    if !(SHORTEST..=LONGEST).contains(&token.len()) {
        return Err("a token has 16 to 512 characters");
    }
    if !token.bytes().all(|byte| plain(byte) || b"~+/=".contains(&byte)) {
        return Err("a token is made of A-Z, a-z, 0-9, -, _, ., ~, +, / and =");
    }
    let caller = Caller { name: name.into(), scope: scope.unwrap_or(Scope::Admin) };
    Ok((Entry { digest: digest(token), caller }, scope.is_some()))
}

/// Whether a word was most likely meant to say what a token may do.
fn looks_like_scope(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let short = word.split(['-', '_', '.']).next().is_some_and(|first| ["ro", "rw"].contains(&first));
    short || word == "admin" || ["read", "view"].iter().any(|begin| word.starts_with(begin))
}

/// The tokens of a file that may change while the daemon runs.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    tokens: ArcSwap<TokenList>,
    seen: Mutex<Seen>,
    /// 1 while the tokens are not those of the file as it is.
    stale: IntGauge,
    calm: Calm,
}

/// What the file looked like when what stands in it was found last. Its mode and owner count too: they decide whether it is used.
#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    /// It was found to be wrong, and what was read before counts.
    refused: bool,
}

impl TokenFile {
    /// Reads the file. One that is not there warns only: agents' sessions must not wait for who calls the API.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn load(path: &Path, stale: IntGauge) -> Result<TokenFile, TokensError> {
        // Looked at before it is read, so that a change in between is found later.
        let seen = Seen { stamp: Stamp::of(path), refused: false };
        let tokens = TokenList::read_if_there(path)?;
        if tokens.entries.is_empty() {
            warn_of_none(path);
        }
        Ok(TokenFile {
            path: path.into(),
            tokens: ArcSwap::from_pointee(tokens),
            seen: Mutex::new(seen),
            stale,
            calm: Calm::default(),
        })
    }

    /// Whose token this is, by the file as it is now.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Caller> {
        self.refresh();
        self.tokens.load().find(token)
    }

    /// Reads the file if it has changed.
    pub fn refresh(&self) {
        self.refresh_by(TokenList::read_if_there);
    }

    fn refresh_by(&self, read: impl FnOnce(&Path) -> Result<TokenList, TokensError>) {
        let now = Stamp::of(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.stamp == now {
            self.stale.set(i64::from(seen.refused));
            return;
        }
        match read(&self.path) {
            Ok(tokens) => {
                match tokens.entries.len() {
                    0 => warn_of_none(&self.path),
                    tokens => tracing::info!(tokens, "the tokens of the admin API were read anew"),
                }
                self.tokens.store(Arc::new(tokens));
                *seen = Seen { stamp: now, refused: false };
                self.stale.set(0);
            }
            Err(error) => {
                // Whose token was taken away must not stay in because the file could not be read at the moment.
                if !error.may_pass() {
                    *seen = Seen { stamp: now, refused: true };
                }
                self.stale.set(1);
                if let Some(left_out) = self.calm.due("tokens") {
                    tracing::error!(%error, left_out, "the tokens of the admin API stay as they were");
                }
            }
        }
    }
}

fn warn_of_none(path: &Path) {
    tracing::warn!(path = %path.display(), "there are no tokens of the admin API: it refuses everybody");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn parse(text: &str) -> Result<TokenList, String> {
        TokenList::parse(text, Path::new("tokens")).map_err(|error| error.to_string())
    }

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(path: &Path) -> TokenFile {
        TokenFile::load(path, IntGauge::new("stale", "a test").unwrap()).unwrap()
    }

    #[test]
    fn lines_have_a_scope_a_name_and_a_token_the_first_two_optional() {
        let list = parse(&format!(
            "# comment\n\n{TOKEN}1\ncrm:{TOKEN}2\nread grafana {TOKEN}3\nread: {TOKEN}4\nadmin\tops\t{TOKEN}5\n"
        ))
        .unwrap();
        let found =
            |n: u32| list.find(&format!("{TOKEN}{n}")).map(|caller| (caller.name.to_string(), caller.scope));
        assert_eq!(found(1), Some(("line-3".into(), Scope::Admin)));
        assert_eq!(found(2), Some(("crm".into(), Scope::Admin)));
        assert_eq!(found(3), Some(("grafana".into(), Scope::Read)));
        assert_eq!(found(4), Some(("line-6".into(), Scope::Read)));
        assert_eq!(found(5), Some(("ops".into(), Scope::Admin)));
        assert_eq!(found(6), None);
        assert_eq!(list.find(""), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_the_token() {
        for (text, fault) in [
            ("\nshort-secret", "tokens, line 2: a token has 16 to 512 characters"),
            (&format!("read a b {TOKEN}"), "line 1: expected a scope"),
            (&format!("name?!x {TOKEN}"), "line 1: a name has"),
            (&format!("crm {TOKEN}\u{e9}"), "line 1: a token is made of"),
            (&format!("{TOKEN}\nread x {TOKEN}"), "line 2: this token stands in the file twice"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(fault), "{text:?}: {said}");
            assert!(!said.contains(TOKEN) && !said.contains("short-secret"), "{said}");
        }
        assert!(!format!("{:?}", parse(TOKEN).unwrap()).contains(TOKEN));
    }

    #[test]
    fn a_misspelt_scope_makes_no_token_for_everything() {
        for word in
            ["Read", "READ", "readonly", "read-only", "reader", "ro", "RO", "ro-grafana", "Admin", "viewer"]
        {
            let said = parse(&format!("{word} {TOKEN}")).err().unwrap_or_else(|| panic!("{word} is taken"));
            assert!(
                said.starts_with("tokens, line 1: the name looks like a scope") && !said.contains(TOKEN),
                "{said}"
            );
            assert!(
                TokenList::check(&format!("admin {word} {TOKEN}")).is_ok(),
                "{word} is a name after a scope"
            );
        }
        let list =
            parse(&format!("robot {TOKEN}1\nread x {TOKEN}2\n# read\n{TOKEN}3\nadmin {TOKEN}4\n")).unwrap();
        assert_eq!(list.unscoped(), [1, 4]);
    }

    #[test]
    fn a_file_that_everybody_may_read_or_write_is_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        for mode in [0o644, 0o642, 0o604] {
            write(&path, TOKEN, mode);
            let said = TokenList::read(&path).unwrap_err().to_string();
            assert!(said.contains(path.to_str().unwrap()) && said.contains("chmod o="), "{said}");
        }
        write(&path, TOKEN, 0o640);
        assert!(TokenList::read(&path).is_ok());
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_changes_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        write(&path, TOKEN, 0o600);
        let file = load(&path);
        assert!(file.find(TOKEN).is_some());
        write(&path, "read another-token-of-ours", 0o600);
        assert!(file.find(TOKEN).is_none());
        assert_eq!(file.find("another-token-of-ours").unwrap().scope, Scope::Read);
        write(&path, "broken", 0o600);
        assert!(file.find("another-token-of-ours").is_some());
    }

    #[test]
    fn a_token_that_was_taken_away_while_the_file_could_not_be_read_is_refused_once_it_can() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        write(&path, TOKEN, 0o600);
        let file = load(&path);
        write(&path, "read another-token-of-ours", 0o600);
        file.refresh_by(|path| {
            let source = std::io::Error::from_raw_os_error(24);
            Err(TokensError::Unreadable { path: path.into(), source })
        });
        assert_eq!(file.stale.get(), 1);
        assert!(file.find(TOKEN).is_none());
        assert_eq!(file.stale.get(), 0);
    }

    #[test]
    fn a_file_that_is_not_in_force_is_told_of_until_it_is_and_a_wrong_one_is_read_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        write(&path, TOKEN, 0o600);
        let file = load(&path);
        for wrong in [&b"short"[..], b"\xff\xfe"] {
            std::fs::write(&path, wrong).unwrap();
            file.refresh();
            assert_eq!(file.stale.get(), 1);
            file.refresh_by(|_| panic!("it was read before"));
            assert_eq!(file.stale.get(), 1);
            write(&path, TOKEN, 0o600);
            file.refresh();
            assert_eq!(file.stale.get(), 0);
        }
    }

    #[test]
    fn a_file_that_is_emptied_or_gone_lets_nobody_in_until_it_has_tokens_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        write(&path, "\n# none yet\n", 0o600);
        let file = load(&path);
        assert!(file.find(TOKEN).is_none());
        for nothing in [Some(""), Some("\n  # revoked\n"), None] {
            write(&path, TOKEN, 0o600);
            assert!(file.find(TOKEN).is_some());
            match nothing {
                Some(text) => write(&path, text, 0o600),
                None => std::fs::remove_file(&path).unwrap(),
            }
            assert!(file.find(TOKEN).is_none(), "{nothing:?}");
            assert!(file.find(TOKEN).is_none(), "{nothing:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_at_the_start_counts_once_it_is() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        let file = load(&path);
        assert!(file.find(TOKEN).is_none());
        write(&path, TOKEN, 0o600);
        assert!(file.find(TOKEN).is_some());
    }

    #[test]
    fn a_file_that_is_closed_to_others_after_it_was_refused_counts_at_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        write(&path, TOKEN, 0o600);
        let file = load(&path);
        write(&path, "read another-token-of-ours", 0o644);
        assert!(file.find(TOKEN).is_some());
        let refused = Stamp::of(&path);
        // Times of files may be as coarse as ten milliseconds.
        while Stamp::of(&path) == refused {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(file.find("another-token-of-ours").is_some());
        assert!(file.find(TOKEN).is_none());
    }
}
