//! How many times a record was tried: what a dead letter says of itself.

use std::collections::BTreeMap;

/// The lives of the client that ended since the cursor last moved past what they had published, as: published up to here,
/// so many times. It has no more entries than the window has records.
#[derive(Debug, Default)]
pub(super) struct Tries {
    published_to: BTreeMap<u64, u32>,
}

impl Tries {
    /// A life ended that had published all records from the cursor on and below `end`.
    pub(super) fn life_ended(&mut self, cursor: u64, end: u64) {
        self.published_to = self.published_to.split_off(&(cursor + 1));
        if end > cursor {
            let count = self.published_to.entry(end).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Which try of the record at `offset` this life's is, from 1.
    pub(super) fn of(&self, offset: u64) -> u32 {
        self.published_to.range(offset + 1..).fold(1, |tries, (_, count)| tries.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_is_a_try_of_the_records_it_had_published() {
        let mut tries = Tries::default();
        assert_eq!(tries.of(5), 1);
        tries.life_ended(5, 8);
        tries.life_ended(5, 6);
        assert_eq!([5, 6, 7, 8].map(|offset| tries.of(offset)), [3, 2, 2, 1]);
        tries.life_ended(6, 6);
        assert_eq!([6, 7, 8].map(|offset| tries.of(offset)), [2, 2, 1]);
        for _ in 0..1000 {
            tries.life_ended(7, 9);
        }
        assert_eq!((tries.of(8), tries.published_to.len()), (1001, 2));
        tries.life_ended(20, 20);
        assert!(tries.published_to.is_empty());
    }
}
