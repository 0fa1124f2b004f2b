//! Acks of the messages that a connection has taken, tied to packet ids: [`Notice::Written`] comes in the order in which the
//! messages were handed over, and each names the id that the broker's answer will bear.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::protocol::Notice;
use crate::sink::on_error::OnError;
use crate::sink::{DeliveryError, Disposition};

/// What an ack resolves to.
pub(super) type Outcome = Result<(), DeliveryError>;

/// Who waits for the end of a message.
pub(super) enum Waiter {
    /// The worker.
    Ack(oneshot::Sender<Outcome>),
    /// Nobody: it is the relay's own status.
    Status,
}

/// From the oldest message that is not answered to the newest. Its length is what the window limits: were it only the
/// number of unanswered ones, answers out of order could let a packet id come round while its last use is not over,
/// which the library does not survive.
pub(super) struct InFlight {
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    /// How many entries, from the first, are on the wire.
    written: usize,
    numbers: HashMap<u16, u64>,
    answered: usize,
    on_error: OnError,
}

struct Entry {
    /// `None` once answered.
    waiter: Option<Waiter>,
}

impl InFlight {
    pub(super) fn new(on_error: OnError) -> InFlight {
        InFlight {
            entries: VecDeque::new(),
            first: 0,
            written: 0,
            numbers: HashMap::new(),
            answered: 0,
            on_error,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the worker waits for none of them.
    pub(super) fn only_status(&self) -> bool {
        !self.entries.iter().any(|entry| matches!(entry.waiter, Some(Waiter::Ack(_))))
    }

    /// How many messages the broker has answered.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    /// Remembers who waits for a message that is handed over now.
    pub(super) fn push(&mut self, waiter: Waiter) {
        self.entries.push_back(Entry { waiter: Some(waiter) });
    }

    /// Learns what happened. An error ends the connection.
    pub(super) fn note(&mut self, notice: Notice) -> Result<(), DeliveryError> {
        match notice {
            Notice::Written(0) => {
                self.written += 1;
                self.end(self.first + self.written as u64 - 1, Ok(()))
            }
            Notice::Written(id) => {
                self.written += 1;
                match self.numbers.insert(id, self.first + self.written as u64 - 1) {
                    None => Ok(()),
                    Some(_) => {
                        Err(DeliveryError::retry("protocol", format!("packet id {id} is in use twice")))
                    }
                }
            }
            Notice::Answered { id, outcome } => {
                let Some(number) = self.numbers.remove(&id) else { return Ok(()) };
                self.end(number, outcome.map_err(|error| self.on_error.of_message(error)))
            }
            Notice::Received | Notice::Heard | Notice::Left | Notice::Sent => Ok(()),
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// After a message that must go again none may go on, so that is an error.
    fn end(&mut self, number: u64, outcome: Outcome) -> Result<(), DeliveryError> {
        let waiter = self.entry(number).and_then(|entry| entry.waiter.take());
        self.answered += 1;
        while self.entries.front().is_some_and(|entry| entry.waiter.is_none()) {
            self.entries.pop_front();
            self.first += 1;
            self.written = self.written.saturating_sub(1);
        }
        match waiter {
            Some(Waiter::Ack(ack)) => {
                resolve(ack, outcome.clone());
                outcome.or_else(|error| match error.disposition {
                    Disposition::DeadLetter => Ok(()),
                    Disposition::Retry | Disposition::Stop => Err(error),
                })
            }
            Some(Waiter::Status) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, reason = error.reason, "the broker does not take the relay's status");
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Fails all.
    pub(super) fn fail(&mut self, error: &DeliveryError) {
        self.numbers.clear();
        self.first += self.entries.len() as u64;
        self.written = 0;
        for entry in self.entries.drain(..) {
            if let Some(Waiter::Ack(ack)) = entry.waiter {
                resolve(ack, Err(error.clone()));
            }
        }
    }
}

/// The worker may have dropped its end; that is its right.
pub(super) fn resolve(ack: oneshot::Sender<Outcome>, outcome: Outcome) {
    drop(ack.send(outcome));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(in_flight: &mut InFlight, count: usize) -> Vec<oneshot::Receiver<Outcome>> {
        (0..count)
            .map(|_| {
                let (ack, outcome) = oneshot::channel();
                in_flight.push(Waiter::Ack(ack));
                outcome
            })
            .collect()
    }

    #[test]
    fn acks_follow_packet_ids_whatever_the_order_of_answers() {
        let mut in_flight = InFlight::new(OnError::default());
        let mut outcomes = pushed(&mut in_flight, 3);
        for id in [7, 8, 9] {
            in_flight.note(Notice::Written(id)).unwrap();
        }
        in_flight.note(Notice::answered(9, Ok(()))).unwrap();
        let refused = DeliveryError::dead_letter("not_authorised", "");
        in_flight.note(Notice::answered(8, Err(refused))).unwrap();
        assert!(outcomes[2].try_recv().unwrap().is_ok());
        assert_eq!(outcomes[1].try_recv().unwrap().unwrap_err().disposition, Disposition::DeadLetter);
        assert!(outcomes[0].try_recv().is_err());
        assert_eq!(in_flight.len(), 3, "the oldest holds the window");
        assert!(in_flight.note(Notice::answered(7, Err(DeliveryError::retry("quota", "")))).is_err());
        assert_eq!(outcomes[0].try_recv().unwrap().unwrap_err().reason, "quota");
        assert!(in_flight.is_empty());
    }

    #[test]
    fn a_packet_id_that_comes_round_too_early_ends_the_connection() {
        let mut in_flight = InFlight::new(OnError::default());
        let _outcomes = pushed(&mut in_flight, 2);
        in_flight.note(Notice::Written(1)).unwrap();
        in_flight.note(Notice::Received).unwrap();
        assert_eq!(in_flight.note(Notice::Written(1)).unwrap_err().reason, "protocol");
    }

    #[test]
    fn without_quality_of_service_what_is_written_is_confirmed() {
        let mut in_flight = InFlight::new(OnError::default());
        let mut outcomes = pushed(&mut in_flight, 2);
        in_flight.note(Notice::Written(0)).unwrap();
        assert!(outcomes[0].try_recv().unwrap().is_ok());
        assert!(outcomes[1].try_recv().is_err());
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn the_relays_own_status_fails_nothing() {
        let mut in_flight = InFlight::new(OnError::default());
        in_flight.push(Waiter::Status);
        assert!(in_flight.only_status() && !in_flight.is_empty());
        in_flight.note(Notice::Written(1)).unwrap();
        in_flight.note(Notice::answered(1, Err(DeliveryError::retry("quota", "")))).unwrap();
        assert!(in_flight.is_empty());
    }
}
