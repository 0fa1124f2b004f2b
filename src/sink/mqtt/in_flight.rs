//! Acks of the messages that rumqttc has taken, tied to packet ids: `Outgoing(Publish(id))` events come in the order in
//! which the messages were handed over, and each names the id that the PUBACK will bear.

use std::collections::{HashMap, VecDeque};

use rumqttc::Outgoing;
use rumqttc::v5::{Event, Incoming};
use tokio::sync::oneshot;

use super::failure::classify_ack;
use crate::sink::{DeliveryError, Disposition};

/// What an ack resolves to.
pub(super) type Outcome = Result<(), DeliveryError>;

#[derive(Default)]
pub(super) struct InFlight {
    /// Handed over and not yet on the wire, in order.
    queued: VecDeque<oneshot::Sender<Outcome>>,
    /// On the wire, by packet id, with its number in the order of sending.
    sent: HashMap<u16, (u64, oneshot::Sender<Outcome>)>,
    sent_total: u64,
    answered: usize,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.queued.len() + self.sent.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages the broker has answered.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    /// Remembers the ack of a message that is handed over now.
    pub(super) fn push(&mut self, ack: oneshot::Sender<Outcome>) {
        self.queued.push_back(ack);
    }

    /// Learns from an event of the library. An error ends the connection.
    pub(super) fn note(&mut self, event: &Event) -> Result<(), DeliveryError> {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) => {
                let Some(ack) = self.queued.pop_front() else { return Ok(()) };
                self.sent_total += 1;
                if self.sent.insert(*id, (self.sent_total, ack)).is_some() {
                    return Err(DeliveryError::retry("protocol", format!("packet id {id} is in use twice")));
                }
            }
            Event::Incoming(Incoming::PubAck(answer)) => {
                let Some((_, ack)) = self.sent.remove(&answer.pkid) else { return Ok(()) };
                self.answered += 1;
                let outcome = classify_ack(answer);
                resolve(ack, outcome.clone());
                // After a message that must go again none may go on.
                return outcome.or_else(|error| match error.disposition {
                    Disposition::DeadLetter => Ok(()),
                    Disposition::Retry | Disposition::Stop => Err(error),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Fails the message that was sent first.
    pub(super) fn fail_oldest(&mut self, error: DeliveryError) {
        let oldest = self.sent.iter().min_by_key(|(_, (number, _))| *number).map(|(id, _)| *id);
        if let Some((_, ack)) = oldest.and_then(|id| self.sent.remove(&id)) {
            resolve(ack, Err(error));
        }
    }

    /// Fails all.
    pub(super) fn fail(&mut self, error: &DeliveryError) {
        let sent = self.sent.drain().map(|(_, (_, ack))| ack);
        for ack in sent.chain(self.queued.drain(..)) {
            resolve(ack, Err(error.clone()));
        }
    }
}

/// The worker may have dropped its end; that is its right.
pub(super) fn resolve(ack: oneshot::Sender<Outcome>, outcome: Outcome) {
    drop(ack.send(outcome));
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{PubAck, PubAckReason};

    use super::*;

    fn answer(pkid: u16, reason: PubAckReason) -> Event {
        Event::Incoming(Incoming::PubAck(PubAck { pkid, reason, properties: None }))
    }

    #[test]
    fn acks_follow_packet_ids_whatever_the_order_of_answers() {
        let mut in_flight = InFlight::default();
        let mut outcomes: Vec<_> = (0..3)
            .map(|_| {
                let (ack, outcome) = oneshot::channel();
                in_flight.push(ack);
                outcome
            })
            .collect();
        for id in [7, 8, 9] {
            in_flight.note(&Event::Outgoing(Outgoing::Publish(id))).unwrap();
        }
        in_flight.note(&answer(9, PubAckReason::NoMatchingSubscribers)).unwrap();
        in_flight.note(&answer(8, PubAckReason::NotAuthorized)).unwrap();
        assert!(outcomes[2].try_recv().unwrap().is_ok());
        assert_eq!(outcomes[1].try_recv().unwrap().unwrap_err().disposition, Disposition::DeadLetter);
        assert!(outcomes[0].try_recv().is_err());
        assert!(in_flight.note(&answer(7, PubAckReason::QuotaExceeded)).is_err());
        assert_eq!(outcomes[0].try_recv().unwrap().unwrap_err().reason, "quota");
        assert!(in_flight.is_empty());
    }
}
