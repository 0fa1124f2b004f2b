//! Notices a broker that is connected and dead: the library's own pings cannot, while a write hangs.

use std::time::Duration;

use tokio::time::Instant;

use super::in_flight::InFlight;
use super::protocol::Notice;
use crate::sink::DeliveryError;

pub(super) struct Watchdog {
    silence_limit: Duration,
    stall_limit: Duration,
    /// When the broker last said anything: pings see to it that it has something to say each keep-alive.
    heard: Instant,
    /// When it last confirmed anything, or had nothing to confirm.
    confirmed: Instant,
}

impl Watchdog {
    pub(super) fn new(keep_alive: Duration, stall_limit: Duration) -> Watchdog {
        let now = Instant::now();
        // The measure that MQTT sets for brokers, too.
        Watchdog { silence_limit: keep_alive * 3 / 2, stall_limit, heard: now, confirmed: now }
    }

    /// The first message is in flight now.
    pub(super) fn start(&mut self) {
        self.confirmed = Instant::now();
    }

    pub(super) fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::Received | Notice::Answered { .. } => {
                self.heard = Instant::now();
                self.confirmed = self.heard;
            }
            Notice::Heard => self.heard = Instant::now(),
            Notice::Written(0) => self.confirmed = Instant::now(),
            Notice::Written(_) | Notice::Left | Notice::Sent => {}
        }
    }

    /// Whether the connection may go on.
    pub(super) fn check(&self, in_flight: &InFlight) -> Result<(), DeliveryError> {
        if self.heard.elapsed() > self.silence_limit {
            let detail = format!("the broker was silent for {:?}", self.silence_limit);
            return Err(DeliveryError::retry("stalled", detail));
        }
        if !in_flight.is_empty() && self.confirmed.elapsed() > self.stall_limit {
            let detail = format!("the broker confirmed nothing for {:?}", self.stall_limit);
            return Err(DeliveryError::retry("stalled", detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_flight::Waiter;
    use super::*;
    use crate::sink::on_error::OnError;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_after_one_and_a_half_keep_alives() {
        let watchdog = Watchdog::new(Duration::from_secs(10), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(15)).await;
        let nothing = InFlight::new(OnError::default());
        assert!(watchdog.check(&nothing).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watchdog.check(&nothing).unwrap_err().reason, "stalled");
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_stand_in_for_confirmations() {
        let mut watchdog = Watchdog::new(Duration::from_secs(100), Duration::from_secs(60));
        let mut in_flight = InFlight::new(OnError::default());
        tokio::time::advance(Duration::from_secs(70)).await;
        assert!(watchdog.check(&in_flight).is_ok());
        watchdog.start();
        in_flight.push(Waiter::Ack(tokio::sync::oneshot::channel().0));
        tokio::time::advance(Duration::from_secs(59)).await;
        watchdog.note(&Notice::Heard);
        assert!(watchdog.check(&in_flight).is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(watchdog.check(&in_flight).unwrap_err().reason, "stalled");
    }
}
