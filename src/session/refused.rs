//! Whether a file holds another password than the one for which an agent is suspended. Only then is another try worth it: the gateway
//! locks accounts after a few with a wrong one, so the same is never sent twice.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// How often such a file is looked at.
pub(super) const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// Tells passwords apart for as long as the daemon runs, and says nothing else of them.
#[derive(Default)]
pub(super) struct Marks(RandomState);

/// Stands for one password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Marks {
    pub(super) fn of(&self, password: &SecretString) -> Mark {
        Mark(self.0.hash_one(password.expose_secret()))
    }

    /// There was none to be sent.
    pub(super) fn of_none(&self) -> Mark {
        Mark(self.0.hash_one(""))
    }
}

/// The password that did not lead to a session, and what was found since.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Unknown after a restart.
    tried: Option<Mark>,
    found: Option<Mark>,
}

impl Refused {
    pub(super) fn new(tried: Mark) -> Refused {
        Refused { tried: Some(tried), found: None }
    }

    /// Notes what a look has found. Says whether it is another password, and was so the last time too: one that is half written is
    /// none. Where it is not known what was tried, what is found first may be that.
    pub(super) fn finds_another(&mut self, found: Mark) -> bool {
        let twice = self.found.replace(found) == Some(found);
        let tried = *self.tried.get_or_insert(found);
        twice && tried != found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_password_counts_when_it_was_found_twice_in_a_row() {
        let marks = Marks::default();
        let mark = |text: &str| marks.of(&SecretString::from(text));
        let mut refused = Refused::new(mark("wrong"));
        for (found, another) in
            [("wrong", false), ("wrong", false), ("ri", false), ("right", false), ("right", true)]
        {
            assert_eq!(refused.finds_another(mark(found)), another, "{found}");
        }
        let mut unknown = Refused::default();
        for (found, another) in [("one", false), ("one", false), ("two", false), ("two", true)] {
            assert_eq!(unknown.finds_another(mark(found)), another, "{found}");
        }
    }
}
