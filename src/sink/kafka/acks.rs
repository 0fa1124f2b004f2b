//! The acks that wait for delivery reports, in a table from which all can be resolved at once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::sink::DeliveryError;

/// What an ack resolves to.
pub(super) type Outcome = Result<(), DeliveryError>;

/// Acks by number, oldest first. Numbers are librdkafka's opaques.
pub(super) struct Acks {
    table: Mutex<Table>,
    progress: Notify,
    /// Whether batches hold one record each.
    solo: bool,
}

#[derive(Default)]
struct Table {
    /// Number of the first entry.
    first: usize,
    /// `None` is an entry that was resolved before an older one.
    entries: VecDeque<Option<oneshot::Sender<Outcome>>>,
    unresolved: usize,
    /// How many were resolved, ever.
    resolved: u64,
    /// Set once: the client is spent.
    failure: Option<DeliveryError>,
    /// Set with it: the entries of that moment and the one that failed.
    to_go_again: usize,
    refused_alone: bool,
    /// How many were resolved when that was last looked at.
    resolved_then: u64,
    /// Since when nothing has moved, as far as was looked.
    still_since: Option<Instant>,
}

impl Acks {
    pub(super) fn new(solo: bool) -> Acks {
        Acks { table: Mutex::default(), progress: Notify::new(), solo }
    }

    /// Notified whenever an ack resolves.
    pub(super) fn progress(&self) -> &Notify {
        &self.progress
    }

    pub(super) fn solo(&self) -> bool {
        self.solo
    }

    pub(super) fn unresolved(&self) -> usize {
        self.lock().unresolved
    }

    /// How many acks have resolved so far.
    pub(super) fn resolved(&self) -> u64 {
        self.lock().resolved
    }

    pub(super) fn failure(&self) -> Option<DeliveryError> {
        self.lock().failure.clone()
    }

    pub(super) fn to_go_again(&self) -> usize {
        self.lock().to_go_again
    }

    pub(super) fn refused_alone(&self) -> bool {
        self.lock().refused_alone
    }

    pub(super) fn note_refused_alone(&self) {
        self.lock().refused_alone = true;
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds the lock; were it so, the table would still be whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a record that is about to be sent, unless the client is spent.
    pub(super) fn expect(&self) -> Result<(usize, oneshot::Receiver<Outcome>), DeliveryError> {
        let mut table = self.lock();
        if let Some(failure) = &table.failure {
            return Err(failure.clone());
        }
        if table.unresolved == 0 {
            table.still_since = Some(Instant::now());
        }
        let (resolve, outcome) = oneshot::channel();
        table.entries.push_back(Some(resolve));
        table.unresolved += 1;
        Ok((table.first + table.entries.len() - 1, outcome))
    }

    /// The record was not taken after all. That is no movement: while a queue is full it comes about again and again.
    pub(super) fn forget(&self, number: usize) {
        drop(self.lock().take(number));
    }

    pub(super) fn resolve(&self, number: usize, outcome: Outcome) {
        let resolved = {
            let mut table = self.lock();
            let taken = table.take(number);
            if taken.is_some() {
                table.resolved += 1;
            }
            taken
        };
        if let Some(resolve) = resolved {
            // The worker may have dropped its ack.
            drop(resolve.send(outcome));
            self.progress.notify_waiters();
        }
    }

    /// Resolves every ack to `error` and spends the client. Returns whether it was fresh until now.
    pub(super) fn fail(&self, error: DeliveryError) -> bool {
        self.give_up(error, 1)
    }

    /// The same for a record that failed and whose ack waits with the others: not for a moment can its failure be known
    /// and the client be fresh, or a later record could overtake it.
    pub(super) fn fail_with_record(&self, error: DeliveryError) -> bool {
        self.give_up(error, 0)
    }

    fn give_up(&self, error: DeliveryError, resolved: usize) -> bool {
        let (entries, fresh) = {
            let mut table = self.lock();
            let fresh = table.failure.is_none();
            if fresh {
                table.failure = Some(error.clone());
                table.to_go_again = table.entries.len() + resolved;
            }
            table.unresolved = 0;
            table.first += table.entries.len();
            (std::mem::take(&mut table.entries), fresh)
        };
        for resolve in entries.into_iter().flatten() {
            drop(resolve.send(Err(error.clone())));
        }
        self.progress.notify_waiters();
        fresh
    }

    /// Whether something has waited for so long without any movement. The clock is read here and not for each record, so movement
    /// counts from the look that finds it.
    pub(super) fn stalled(&self, timeout: Duration) -> bool {
        let mut table = self.lock();
        if table.resolved_then != table.resolved {
            table.resolved_then = table.resolved;
            table.still_since = Some(Instant::now());
        }
        table.unresolved > 0 && table.still_since.is_some_and(|since| since.elapsed() > timeout)
    }
}

impl Table {
    fn take(&mut self, number: usize) -> Option<oneshot::Sender<Outcome>> {
        let index = number.checked_sub(self.first)?;
        let taken = self.entries.get_mut(index)?.take()?;
        self.unresolved -= 1;
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_resolve_by_number_in_any_order() {
        let acks = Acks::new(false);
        let (first, mut one) = acks.expect().unwrap();
        let (second, mut two) = acks.expect().unwrap();
        let (third, mut three) = acks.expect().unwrap();
        acks.resolve(second, Ok(()));
        acks.resolve(second, Err(DeliveryError::retry("broker", "a second report changes nothing")));
        assert!(two.try_recv().unwrap().is_ok());
        assert!(one.try_recv().is_err());
        acks.forget(third);
        assert!(three.try_recv().is_err());
        acks.resolve(first, Ok(()));
        assert!(one.try_recv().unwrap().is_ok());
        let table = acks.lock();
        assert_eq!((table.unresolved, table.entries.len(), table.first), (0, 0, 3));
    }

    #[test]
    fn a_failure_resolves_every_ack_and_spends_the_client() {
        let acks = Acks::new(false);
        let (number, _) = acks.expect().unwrap();
        acks.resolve(number, Ok(()));
        let (late, mut waiting) = acks.expect().unwrap();
        assert!(acks.fail(DeliveryError::retry("fatal", "first")));
        assert!(!acks.fail(DeliveryError::retry("reset", "second")));
        assert_eq!(waiting.try_recv().unwrap().unwrap_err().reason, "fatal");
        assert_eq!(acks.expect().unwrap_err().reason, "fatal");
        assert_eq!(acks.lock().to_go_again, 2);
        // Reports of records that were given up come late, or never.
        acks.resolve(late, Ok(()));
    }

    #[test]
    fn whoever_hears_of_a_failed_record_finds_the_client_spent() {
        let acks = Acks::new(false);
        let (_, mut waiting) = acks.expect().unwrap();
        assert!(acks.fail_with_record(DeliveryError::retry("broker", "")));
        assert_eq!(waiting.try_recv().unwrap().unwrap_err().reason, "broker");
        assert_eq!((acks.expect().unwrap_err().reason, acks.to_go_again()), ("broker", 1));
    }

    #[test]
    fn only_what_waits_can_stall() {
        let acks = Acks::new(false);
        assert!(!acks.stalled(Duration::ZERO));
        let (number, _waiting) = acks.expect().unwrap();
        assert!(acks.stalled(Duration::ZERO) && !acks.stalled(Duration::from_secs(60)));
        acks.resolve(number, Ok(()));
        assert!(!acks.stalled(Duration::ZERO));
    }

    #[test]
    fn records_that_find_the_queue_full_do_not_hide_that_nothing_moves() {
        let acks = Acks::new(false);
        let (_, _waiting) = acks.expect().unwrap();
        let timeout = Duration::from_millis(50);
        std::thread::sleep(timeout * 2);
        for _ in 0..3 {
            let (number, _) = acks.expect().unwrap();
            acks.forget(number);
        }
        assert!(acks.stalled(timeout));
        assert_eq!(acks.resolved(), 0);
    }
}
