//! In which order the sessions of an earlier run are asked for.

use std::cmp::Reverse;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::session::StoredSession;

/// Where a session stands among those that are asked for; the least is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// By its stored times it stands: that whose GUID is the nearest to its end goes first.
    Stands(Timestamp),
    /// It looks past: that with the youngest GUID goes first. Sessions are left behind together, so where the youngest GUIDs are not known
    /// any more, none is; and where they are, the clock was wrong, though older ones have died of their age.
    LooksPast(Reverse<Option<Timestamp>>),
}

/// The place of this session, whose gateway waits for heartbeats for `limit`.
pub(super) fn place(session: &StoredSession, now: Timestamp, limit: Duration) -> Place {
    match session.silence(now, limit) {
        Some(_) => Place::Stands(session.guid_taken.unwrap_or(session.last_success)),
        None => Place::LooksPast(Reverse(session.guid_taken)),
    }
}
