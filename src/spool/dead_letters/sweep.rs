//! Changes of all dead letters that a filter lets through, of which there may be a million. They are made a piece at a time,
//! each in a transaction of its own: what is deleted is overwritten in the journal, so one transaction for all would need as
//! much room on the disk as the letters take, and whatever else is asked of the database would wait for it.

use rusqlite::{Connection, params};

use super::{Conditions, LetterFilter, WHERE};

/// Letters looked at for one piece at most.
const LOOKED_AT: usize = 4096;
/// Letters changed with one piece at most: each may lie in other pages of the indexes.
const CHANGED: usize = 512;
/// Bytes of letters changed with one piece, beyond which no more are taken into it: less than what is kept of the journal.
const BYTES: u64 = 1 << 20;

/// What is done with letters.
#[derive(Debug)]
pub(in crate::spool) enum Change {
    /// Ask that they be delivered again, those of these sinks.
    Replay { sinks: Vec<String> },
    /// Delete them, also such as wait to be delivered again.
    Discard,
}

/// A change that is under way. Letters that are set aside after its first piece are none of its own.
#[derive(Debug)]
pub(in crate::spool) struct Sweep {
    change: Change,
    which: LetterFilter,
    /// The ids that are left: above the first of these, up to the second. Unknown before the first piece.
    left: Option<(u64, u64)>,
    changed: u64,
}

impl Sweep {
    pub(in crate::spool) fn new(change: Change, which: LetterFilter) -> Sweep {
        Sweep { change, which, left: None, changed: 0 }
    }

    /// How many letters it has changed.
    pub(in crate::spool) fn changed(&self) -> u64 {
        self.changed
    }

    /// Whether somebody is to deliver letters after a piece.
    pub(in crate::spool) fn is_replay(&self) -> bool {
        matches!(self.change, Change::Replay { .. })
    }

    /// Changes the next piece, in a transaction of the caller's. Gives whether that was the last one.
    pub(in crate::spool) fn step(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        let (after, last) = match self.left {
            Some(left) => left,
            None => self.bounds(connection)?,
        };
        let (piece, next) = self.piece(connection, after, last)?;
        for id in piece {
            self.changed += self.change.make(connection, id)?;
        }
        self.left = Some((next.unwrap_or(last), last));
        Ok(next.is_none())
    }

    fn bounds(&self, connection: &Connection) -> rusqlite::Result<(u64, u64)> {
        let newest: u64 =
            connection.query_row("SELECT coalesce(max(id), 0) FROM dead_letters", [], |row| row.get(0))?;
        let ids = &self.which.ids;
        let first = ids.iter().min().map_or(0, |first| first.saturating_sub(1));
        Ok((first.min(newest), ids.iter().max().map_or(newest, |last| newest.min(*last))))
    }

    /// The next letters to be changed, and the id after which it goes on when there may be more.
    fn piece(
        &self,
        connection: &Connection,
        after: u64,
        last: u64,
    ) -> rusqlite::Result<(Vec<u64>, Option<u64>)> {
        let query = format!(
            "SELECT d.id, d.sink, d.bytes, ({WHERE}) FROM dead_letters d WHERE d.id > ?5 AND d.id <= ?6 ORDER BY d.id"
        );
        let conditions = Conditions::of(&self.which);
        let [ids, sink, reason, since] = conditions.parameters();
        let mut statement = connection.prepare_cached(&query)?;
        let mut rows = statement.query(params![ids, sink, reason, since, after, last])?;
        let (mut piece, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            looked_at += 1;
            if row.get(3)? && self.change.is_for(row.get_ref(1)?.as_str()?) {
                piece.push(id);
                bytes += row.get::<_, u64>(2)?;
            }
            if looked_at == LOOKED_AT || piece.len() == CHANGED || bytes >= BYTES {
                return Ok((piece, Some(id)));
            }
        }
        Ok((piece, None))
    }
}

impl Change {
    fn is_for(&self, sink: &str) -> bool {
        match self {
            Change::Replay { sinks } => sinks.iter().any(|name| name == sink),
            Change::Discard => true,
        }
    }

    /// Gives how many letters that changes: none that waited to be delivered again, where it is to be.
    fn make(&self, connection: &Connection, id: u64) -> rusqlite::Result<u64> {
        let change = match self {
            Change::Replay { .. } => {
                "INSERT OR IGNORE INTO replays (letter, sink) SELECT id, sink FROM dead_letters WHERE id = ?1"
            }
            Change::Discard => {
                connection.prepare_cached("DELETE FROM replays WHERE letter = ?1")?.execute([id])?;
                "DELETE FROM dead_letters WHERE id = ?1"
            }
        };
        connection.prepare_cached(change)?.execute([id]).map(|count| count as u64)
    }
}
