//! Which tokens of an agent were seen on pushes.

use std::time::Duration;

use crate::clock::Timestamp;

/// Times of tokens seen on pushes, oldest first, each with its first sight. Holds what the overlap still needs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What was minted before belongs to no session that there is; none where there is no session that we keep.
    pub(super) session_since: Option<Timestamp>,
    /// Few, and of most agents one: no more room is taken than that.
    tokens: Vec<(Timestamp, Timestamp)>,
}

impl Seen {
    /// When a token newer than the one of `minted` was first seen.
    pub(super) fn superseded_at(&self, minted: Timestamp) -> Option<Timestamp> {
        self.tokens.iter().find(|(newer, _)| *newer > minted).map(|(_, at)| *at)
    }

    /// Whether a token of this time may be the one that the gateway was given last, as far as it has shown.
    pub(super) fn may_be_the_newest(&self, minted: Timestamp) -> bool {
        self.session_since.is_some_and(|since| minted >= since) && self.superseded_at(minted).is_none()
    }

    /// Forgets tokens that are later than this moment, which is now or a little later: they were seen while the clock was ahead,
    /// and would pass for newer than all that are minted until it comes there again.
    pub(super) fn forget_after(&mut self, moment: Timestamp) {
        self.tokens.retain(|(minted, _)| *minted <= moment);
    }

    pub(super) fn note(&mut self, minted: Timestamp, now: Timestamp, overlap: Duration) {
        if self.tokens.last().is_none_or(|(newest, _)| minted > *newest) {
            self.tokens.reserve_exact(1);
            self.tokens.push((minted, now));
        }
        // The last one whose overlap is over stays: it stands for all that are older.
        while self.tokens.len() > 1 && self.tokens.get(1).is_some_and(|(_, at)| now.since(*at) > overlap) {
            self.tokens.remove(0);
        }
    }
}
