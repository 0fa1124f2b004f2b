//! The conditions of a rule: which events it is for.

use thiserror::Error;

use super::facts::Facts;

/// What a condition is about; as a key of `[[routes]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The gateway's name.
    Gateways,
    /// The agent's id.
    Agents,
    /// The category.
    Categories,
    /// The type.
    Types,
    /// The media of the call.
    Media,
    /// Number or name of the skill queue.
    Skills,
}

impl Subject {
    /// Its key in the configuration.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Subject::Gateways => "gateways",
            Subject::Agents => "agents",
            Subject::Categories => "categories",
            Subject::Types => "types",
            Subject::Media => "media",
            Subject::Skills => "skills",
        }
    }
}

/// One thing that fits a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Exact,
    /// `*` stands for any characters, `?` for one.
    Glob,
    /// Both ends belong to it.
    Range(u64, u64),
}

/// A pattern that is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// Nothing fits it.
    #[error("must not be empty")]
    Empty,
    /// Agents have digits only.
    #[error("{0:?} is no agent id, range such as 1000-1999, or pattern such as 20??")]
    Agent(String),
    /// The range has nothing in it.
    #[error("the range {0:?} ends before it begins")]
    Range(String),
}

impl Pattern {
    /// An exact text, or with `*` and `?` a pattern.
    ///
    /// # Errors
    /// When it is empty.
    pub fn text(text: &str) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let kind = if text.contains(['*', '?']) { Kind::Glob } else { Kind::Exact };
        Ok(Pattern { text: text.to_owned(), kind })
    }

    /// An agent's id, a range of ids, or a pattern of them.
    ///
    /// # Errors
    /// When no id can fit it.
    pub fn agents(text: &str) -> Result<Pattern, PatternError> {
        let not_one = || PatternError::Agent(text.to_owned());
        let id = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 10 && part.bytes().all(|b| b.is_ascii_digit());
            if digits && !part.starts_with('0') { part.parse::<u64>().ok() } else { None }
        };
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (id(first).ok_or_else(not_one)?, id(last).ok_or_else(not_one)?);
            if first > last {
                return Err(PatternError::Range(text.to_owned()));
            }
            return Ok(Pattern { text: text.to_owned(), kind: Kind::Range(first, last) });
        }
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b"*?".contains(&b));
        let pattern = Pattern::text(text)?;
        if plain && (pattern.kind == Kind::Glob || id(text).is_some()) { Ok(pattern) } else { Err(not_one()) }
    }

    /// Whether `value` fits.
    #[must_use]
    pub fn fits(&self, value: &str) -> bool {
        match self.kind {
            Kind::Exact => self.text == value,
            Kind::Glob => glob(self.text.as_bytes(), value.as_bytes()),
            Kind::Range(first, last) => value.parse::<u64>().is_ok_and(|id| (first..=last).contains(&id)),
        }
    }
}

/// Whether `text` fits `pattern`. Never goes back further than to the last star, so it is quick whatever they are.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (p, t) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// One condition: it holds when any of its patterns fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it looks at.
    pub subject: Subject,
    /// What fits it.
    pub any_of: Vec<Pattern>,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Miss {
    /// The key of the condition.
    pub key: &'static str,
    /// What would have fitted.
    pub expected: Vec<String>,
    /// What the event has; nothing when it has none.
    pub found: Vec<String>,
}

impl Condition {
    /// Whether it holds.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let values = facts.values(self.subject);
        values.into_iter().flatten().any(|value| self.any_of.iter().any(|pattern| pattern.fits(value)))
    }

    /// Whether it holds for all events of an agent or for none.
    pub(super) fn is_of_agent(&self) -> bool {
        matches!(self.subject, Subject::Gateways | Subject::Agents)
    }

    /// Why it does not hold.
    pub(super) fn miss(&self, facts: &Facts<'_>) -> Option<Miss> {
        (!self.holds(facts)).then(|| Miss {
            key: self.subject.key(),
            expected: self.any_of.iter().map(|pattern| pattern.text.clone()).collect(),
            found: facts.values(self.subject).into_iter().flatten().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, fits, others) in [
            ("ccrelay.call.*", &["ccrelay.call.ringing", "ccrelay.call."][..], &["ccrelay.call", "x"][..]),
            ("*", &["", "x"], &[]),
            ("a?c", &["abc"], &["ac", "abbc"]),
            ("*.not-*ed", &["ccrelay.call.not-answered"], &["ccrelay.call.not-answered-cti"]),
            ("a*b*c", &["abc", "aXbYbZc"], &["acb", "abcd"]),
            ("exact", &["exact"], &["exactly", "exac", ""]),
        ] {
            let pattern = Pattern::text(pattern).unwrap();
            assert!(fits.iter().all(|value| pattern.fits(value)), "{pattern:?}");
            assert!(!others.iter().any(|value| pattern.fits(value)), "{pattern:?}");
        }
        assert_eq!(Pattern::text(""), Err(PatternError::Empty));
    }

    #[test]
    fn agents_are_ids_ranges_and_patterns() {
        for (pattern, fits, others) in [
            ("1001", &["1001"][..], &["10010", "100"][..]),
            ("1000-1999", &["1000", "1500", "1999"], &["999", "2000", "10000"]),
            ("20??", &["2000", "2099"], &["200", "20000", "2100"]),
            ("20*", &["20", "20123"], &["21"]),
        ] {
            let pattern = Pattern::agents(pattern).unwrap();
            assert!(fits.iter().all(|value| pattern.fits(value)), "{pattern:?}");
            assert!(!others.iter().any(|value| pattern.fits(value)), "{pattern:?}");
        }
        for bad in ["", "0101", "12345678901", "anna", "1000-", "-5", "1-2-3", "10a*", "1000 - 1999"] {
            assert!(Pattern::agents(bad).is_err(), "{bad}");
        }
        assert_eq!(Pattern::agents("9-1"), Err(PatternError::Range("9-1".into())));
    }

    #[test]
    fn a_pattern_of_many_stars_is_quick() {
        let pattern = Pattern::text(&"*a".repeat(200)).unwrap();
        assert!(!pattern.fits(&"a".repeat(100_000)[..100_000 - 1].replace('a', "b")));
        assert!(pattern.fits(&"a".repeat(100_000)));
    }
}
