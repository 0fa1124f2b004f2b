//! Hiding what is personal: texts of an event are replaced, and what the gateway said verbatim goes.
//!
//! Nothing may leak, so:
//!
//! - Where anything is hidden, the gateway's own words (`raw.content`, `raw.event`) are left out of **every** event, also of
//!   those in which nothing was found to hide: they may hold the same number in a place that we do not know.
//! - A value that is hidden in one place is hidden in all texts of the event, also as a part of one, and so is the same
//!   number in another notation (`+4930123456` and `030123456`).
//! - What is published is made of the masked event alone: the event, an agent's retained state, copies of dead letters.
//!
//! A hash is keyed and the same for the same value in every event and place, so that it can be counted and joined; who
//! does not have the secret cannot find the value by trying out all numbers. Of numbers the digits count, without zeros at
//! the beginning.

use std::fmt;
use std::ops::Range;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::event::Event;
use crate::event::texts::{self, Texts};
use crate::hex::hex;

/// A secret that can be guessed makes hashes of numbers worthless.
const SHORTEST_SECRET: usize = 32;
/// What stands for something of which nothing is to be known.
const HIDDEN: &str = "***";
/// Characters that `last4` leaves.
const LAST: usize = 4;
/// Texts of less characters than this are hidden by `last4` altogether: four of them would be most of it.
const LEAST_FOR_LAST: usize = 8;
/// Values of fewer characters are looked for as whole words only: `12` is a part of too much.
const LEAST_PART: usize = 5;
/// Groups of digits that one number is written in, at most.
const MOST_GROUPS: usize = 8;
/// Digits that two notations of one number have in common at its end, at least.
const LEAST_DIGITS: usize = 6;
/// Fields that hold numbers of people, under one name.
const NUMBERS: &str = "numbers";
const NUMBER_FIELDS: &[&str] = &[
    "call.caller",
    "call.called",
    "call.otherParty",
    "call.partners",
    "call.transferredFrom",
    "message.sender",
    "conference.participant",
    "preview.numbers",
    "linkedPhone.number",
    "linkedPhone.target",
    "summary.transferredTo",
];

/// How a text is hidden, the weakest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// All but its last four characters: `***6789`.
    Last4,
    /// By a keyed hash: `hmac:` and 32 hexadecimal digits.
    Hash,
    /// All of it: `***`.
    Hide,
}

/// A key for hashes.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

/// A secret that is not long enough.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the secret has {0} bytes and needs at least {SHORTEST_SECRET}")]
pub struct SecretTooShort(usize);

impl MaskKey {
    /// A key made of a secret.
    ///
    /// # Errors
    /// When the secret is too short.
    pub fn new(secret: &[u8]) -> Result<MaskKey, SecretTooShort> {
        if secret.len() < SHORTEST_SECRET {
            return Err(SecretTooShort(secret.len()));
        }
        Hmac::new_from_slice(secret).map(MaskKey).map_err(|_| SecretTooShort(secret.len()))
    }

    fn hash(&self, value: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(b"ccrelay-mask-1\0");
        mac.update(digits(value).as_deref().unwrap_or(value).as_bytes());
        let half = &mac.finalize().into_bytes()[..16];
        "hmac:".to_owned() + &hex(half)
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey([redacted])")
    }
}

/// What is hidden in events on their way to one destination.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    fields: Vec<(String, Kind)>,
    drop_raw: bool,
    key: Option<MaskKey>,
}

/// A field that cannot be hidden so.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MaskError {
    /// There is no such text.
    #[error("there is no text {0:?}; {known}", known = known())]
    Field(String),
    /// There is no such way.
    #[error("{0:?} is none of hash, last4 and hide")]
    Kind(String),
}

fn known() -> String {
    format!(
        "known are {NUMBERS} (all that hold numbers of people), all below a section such as message.*, and {}",
        texts::all_paths().join(", ")
    )
}

impl Mask {
    /// Hides what `text` names as well: a path such as `call.caller`, a section such as `message.*`, or `numbers`; then
    /// perhaps a colon and the kind.
    ///
    /// # Errors
    /// When it names nothing, or no kind that there is.
    pub fn add(&mut self, text: &str) -> Result<(), MaskError> {
        let (field, kind) = text.split_once(':').unwrap_or((text, "hash"));
        let kind = match kind {
            "hash" => Kind::Hash,
            "last4" => Kind::Last4,
            "hide" => Kind::Hide,
            other => return Err(MaskError::Kind(other.to_owned())),
        };
        let all = texts::all_paths();
        let named = |path: &&String| match field.strip_suffix('*') {
            _ if field == NUMBERS => NUMBER_FIELDS.contains(&path.as_str()),
            Some(section) if section.ends_with('.') => path.starts_with(section),
            _ => *path == field,
        };
        let before = self.fields.len();
        self.fields.extend(all.iter().filter(named).map(|path| (path.clone(), kind)));
        if self.fields.len() == before { Err(MaskError::Field(field.to_owned())) } else { Ok(()) }
    }

    /// Hides every text there is but those at these paths, and the gateway's own words.
    #[must_use]
    pub fn all_but(open: &[&str]) -> Mask {
        let paths = texts::all_paths().into_iter().filter(|path| !open.contains(&path.as_str()));
        Mask { fields: paths.map(|path| (path, Kind::Hide)).collect(), drop_raw: true, key: None }
    }

    /// Leaves the gateway's own words out.
    pub fn drop_raw(&mut self) {
        self.drop_raw = true;
    }

    /// Hides all that `other` hides too; where both hide a text, in the stronger way.
    #[must_use]
    pub fn and(mut self, other: &Mask) -> Mask {
        for (path, kind) in &mut self.fields {
            *kind = other.kind_of(path).map_or(*kind, |theirs| theirs.max(*kind));
        }
        self.fields.extend(other.fields.iter().cloned());
        self.drop_raw |= other.drop_raw;
        self.key = self.key.or_else(|| other.key.clone());
        self
    }

    /// Whether hashes are wanted, which need a key.
    #[must_use]
    pub fn needs_key(&self) -> bool {
        self.fields.iter().any(|(_, kind)| *kind == Kind::Hash)
    }

    /// Hashes with this key.
    pub fn set_key(&mut self, key: MaskKey) {
        self.key = Some(key);
    }

    /// Whether events pass as they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && !self.drop_raw
    }

    /// The paths of the texts that are hidden.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<_> = self.fields.iter().map(|(path, _)| path.as_str()).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// How the text at this path is hidden: what was said of it first counts.
    fn kind_of(&self, path: &str) -> Option<Kind> {
        self.fields.iter().find(|(field, _)| field == path).map(|(_, kind)| *kind)
    }

    /// Whether the gateway's own words are left out.
    #[must_use]
    pub fn drops_raw(&self) -> bool {
        !self.is_empty()
    }

    /// Hides it all.
    pub fn apply(&self, event: &mut Event) {
        if self.is_empty() {
            return;
        }
        let raw = &mut event.data.raw;
        (raw.content, raw.event, raw.withheld) = (None, None, true);
        let details = &mut event.data.details;
        let mut hidden: Vec<(String, String)> = Vec::new();
        details.visit("", &mut |path, text| {
            if let Some(kind) = self.kind_of(path) {
                let mask = self.mask(kind, text);
                hidden.push((std::mem::replace(text, mask.clone()), mask));
            }
        });
        // The longest first: one may be a part of another.
        hidden.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        details.visit("", &mut |path, text| {
            if self.kind_of(path).is_none() {
                hidden.iter().for_each(|(value, mask)| hide_same(path, text, value, mask));
            }
        });
    }

    fn mask(&self, kind: Kind, text: &str) -> String {
        match (kind, &self.key) {
            (Kind::Hash, Some(key)) => key.hash(text),
            (Kind::Last4, _) if text.chars().count() >= LEAST_FOR_LAST => {
                let from = text.char_indices().rev().nth(LAST - 1).map_or(0, |(at, _)| at);
                format!("{HIDDEN}{}", &text[from..])
            }
            _ => HIDDEN.to_owned(),
        }
    }
}

/// Puts `mask` wherever `text` has `value`, or the same number in another notation.
fn hide_same(path: &str, text: &mut String, value: &str, mask: &str) {
    if text == value {
        mask.clone_into(text);
    } else if text.contains(value) {
        let by_accident = is_id(path) || value.len() < LEAST_PART;
        *text = if by_accident { replace_whole(text, value, mask) } else { text.replace(value, mask) };
    }
    if !is_id(path) {
        hide_number(text, value, mask);
    }
}

/// Puts `mask` in the place of each number in `text` that is `value` in another notation. A number is groups of digits with
/// little between them; where several stand side by side, each row of groups is tried.
fn hide_number(text: &mut String, value: &str, mask: &str) {
    if digits(value).is_none_or(|digits| digits.len() < LEAST_DIGITS) {
        return;
    }
    let groups = groups(text);
    let (mut whole, mut from, mut at) = (String::new(), 0, 0);
    while at < groups.len() {
        let row = (at..groups.len().min(at + MOST_GROUPS)).rev().find(|last| {
            let number = &text[groups[at].start..groups[*last].end];
            number.chars().all(is_of_number) && same_number(number, value)
        });
        let Some(last) = row else {
            at += 1;
            continue;
        };
        let begin =
            if text[..groups[at].start].ends_with('+') { groups[at].start - 1 } else { groups[at].start };
        whole.push_str(&text[from..begin]);
        whole.push_str(mask);
        (from, at) = (groups[last].end, last + 1);
    }
    whole.push_str(&text[from..]);
    *text = whole;
}

/// Where digits stand together.
fn groups(text: &str) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match groups.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

/// Whether this text is an id: a number in the midst of its digits is there by accident.
fn is_id(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path);
    name == "id" || name.ends_with("Id")
}

/// Replaces `value` where no further letters and digits touch it.
fn replace_whole(text: &str, value: &str, mask: &str) -> String {
    let (mut whole, mut from) = (String::with_capacity(text.len()), 0);
    for (at, _) in text.match_indices(value) {
        let touches = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric());
        let end = at + value.len();
        let alone = !touches(text[..at].chars().next_back()) && !touches(text[end..].chars().next());
        whole.push_str(&text[from..at]);
        whole.push_str(if alone { mask } else { value });
        from = end;
    }
    whole.push_str(&text[from..]);
    whole
}

/// Whether two texts are the same number, but for the prefix of country or exchange and for blanks and the like.
fn same_number(one: &str, other: &str) -> bool {
    let (Some(one), Some(other)) = (digits(one), digits(other)) else { return false };
    one.len().min(other.len()) >= LEAST_DIGITS && (one.ends_with(&other) || other.ends_with(&one))
}

/// Whether numbers are written with this character.
fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || " +-()/.".contains(c)
}

/// The digits of a text that is a number, without zeros at its beginning: `+49` and `0049` are the same, and the zero of
/// a national number is not in the international one.
fn digits(text: &str) -> Option<String> {
    let is_number = text.chars().all(is_of_number);
    let digits: String = text.chars().filter(char::is_ascii_digit).skip_while(|c| *c == '0').collect();
    (is_number && !digits.is_empty()).then_some(digits)
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
