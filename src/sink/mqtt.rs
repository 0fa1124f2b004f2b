//! MQTT 5 or 3.1.1. With quality of service 1 a PUBACK with a reason below 0x80 is the ack, with 2 the PUBCOMP; with 0
//! there is none, and what was written to the socket counts as delivered.
//!
//! A connection lives once. Whatever ends it, every message without its ack fails, the sink takes nothing more, and
//! the worker resets it and publishes again from its cursor, always with a clean start: neither the broker's session
//! nor the client library's memory is relied on. Within a connection messages go in the order of the calls.
//!
//! The last state of each agent and the relay's own status can be retained by the broker. A state is part of its event:
//! the event's ack waits for both, and both go again after a failure. Of an event that no route leads here only the state goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event::Event;
use crate::sink::{Ack, BoxFuture, DeliveryError, Disposition, Message, Purpose, Sink};

mod answer;
mod client;
mod config;
mod encode;
mod failure;
mod in_flight;
mod packet;
mod protocol;
mod reach;
mod short_lives;
mod stream;
mod v4;
mod v5;
mod watchdog;

use client::Connection;
pub use config::{MqttConfig, MqttOnErrorOptions, MqttOptions, Version};
pub(crate) use encode::state_schema;
use in_flight::Outcome;
use packet::Publish;
use short_lives::ShortLives;

/// Every reason of this sink's [`DeliveryError`]s.
pub const REASONS: &[&str] = &[
    "client",
    "connection",
    "not_authorised",
    "payload_refused",
    "protocol",
    "quota",
    "refused",
    "reset",
    "session_taken_over",
    "stalled",
    "tls",
    "too_large",
    "topic_invalid",
];

/// Each step of a broker towards a connection: TCP, TLS, CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// An MQTT broker as an output.
pub struct MqttSink {
    name: Arc<str>,
    config: MqttConfig,
    /// Absent until the first publish, so that nothing connects before there is something to say.
    connection: Option<Connection>,
    short_lives: ShortLives,
    refused: Refused,
}

/// The id of an event that the broker has refused for good, and closed the connection before it had the agent's state: only that goes
/// again. One is enough, as the worker hears of the oldest that fails.
type Refused = Arc<Mutex<Option<(String, DeliveryError)>>>;

impl MqttSink {
    /// A sink that connects at its first publish, or with its worker where the relay's status is retained.
    #[must_use]
    pub fn new(name: &str, config: MqttConfig) -> MqttSink {
        MqttSink {
            name: name.into(),
            config,
            connection: None,
            short_lives: ShortLives::default(),
            refused: Refused::default(),
        }
    }

    fn connection(&mut self) -> &Connection {
        let (name, config, lives) = (&self.name, &self.config, &self.short_lives);
        self.connection.get_or_insert_with(|| Connection::open(name, config, lives))
    }

    async fn send(&mut self, message: &Message) -> Result<Ack, DeliveryError> {
        let on_error = |error| self.config.on_error.of_message(error);
        if message.is_state() {
            let state =
                encode::state(&message.event, message.topic.clone(), &self.config).map_err(on_error)?;
            return Ok(Box::pin(outcome(self.connection().send(state).await?)));
        }
        let event = match self.refused_before(message) {
            Some(error) => Err(error),
            None => encode::encode(message, &self.config).map_err(on_error),
        };
        let state = self.state(message).map_err(on_error);
        let (event, state) = match (event, state) {
            (Ok(event), Ok(None)) => return Ok(Box::pin(outcome(self.connection().send(event).await?))),
            (event, Ok(Some(state))) => (event, state),
            (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
        };
        let event = match event {
            Ok(event) => self.connection().send(event).await?,
            // An event that can never go changes its agent's state all the same.
            Err(error) if error.disposition == Disposition::DeadLetter => refused(error),
            Err(error) => return Err(error),
        };
        // Should the connection have ended over the event, its refusal is to be heard all the same.
        let state = self.connection().send(state).await.unwrap_or_else(refused);
        let (refused, id) = (self.refused.clone(), message.event.id.clone());
        Ok(Box::pin(async move {
            let (event, state) = (outcome(event).await, outcome(state).await);
            if let (Err(error), Err(failed)) = (&event, &state)
                && error.disposition == Disposition::DeadLetter
                && failed.disposition != Disposition::DeadLetter
            {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, error.clone()));
            }
            worse(event, state)
        }))
    }

    /// Why the broker has refused this event, if it is the one of which only the state goes again.
    fn refused_before(&self, message: &Message) -> Option<DeliveryError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let known = matches!(message.purpose, Purpose::Delivery);
        refused.take_if(|(id, _)| known && *id == message.event.id).map(|(_, error)| error)
    }

    /// The agent's state, where it is retained and the event has its turn and has changed it.
    fn state(&self, message: &Message) -> Result<Option<Publish>, DeliveryError> {
        let event = &*message.event;
        let news = event.data.agent.changed && matches!(message.purpose, Purpose::Delivery);
        match self.state_topic(event) {
            Some(topic) if news => encode::state(event, topic, &self.config).map(Some),
            _ => Ok(None),
        }
    }
}

/// The event as it is handed to the client, for whoever wants to know what that costs.
///
/// # Errors
/// When no broker would take it: its topic or its size.
pub fn encode(message: &Message, config: &MqttConfig) -> Result<impl Sized + use<>, DeliveryError> {
    encode::encode(message, config)
}

/// What becomes of a publish that nobody would take.
fn refused(error: DeliveryError) -> oneshot::Receiver<Outcome> {
    let (resolve, outcome) = oneshot::channel();
    // The receiver is here.
    drop(resolve.send(Err(error)));
    outcome
}

/// What becomes of one publish.
async fn outcome(receiver: oneshot::Receiver<Outcome>) -> Outcome {
    receiver.await.unwrap_or_else(|_| Err(client::ended()))
}

/// What becomes of an event and the state that goes with it. Whatever makes either of them go again decides.
fn worse(event: Outcome, state: Outcome) -> Outcome {
    match (event, state) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Err(state)) if error.disposition == Disposition::DeadLetter => {
            Err(if state.disposition == Disposition::DeadLetter { error } else { state })
        }
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) => {
            let detail = format!("the event was delivered, its agent's state was not: {}", error.detail);
            Err(DeliveryError { detail, ..error })
        }
    }
}

impl Sink for MqttSink {
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        Box::pin(self.send(message))
    }

    fn state_topic(&self, event: &Event) -> Option<Arc<str>> {
        self.config.state_topic.as_ref().map(|topic| topic.render(event))
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        if self.config.retains_status() {
            self.connection();
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn trouble(&mut self) -> BoxFuture<'_, DeliveryError> {
        match &mut self.connection {
            Some(connection) => Box::pin(connection.trouble()),
            None => Box::pin(std::future::pending()),
        }
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        Box::pin(async {
            if let Some(connection) = self.connection.take() {
                connection.abandon().await;
            }
            self.connection = Some(Connection::open(&self.name, &self.config, &self.short_lives));
            Ok(())
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(connection) = self.connection.take() {
                // What is not confirmed by then stays in the spool.
                drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broker_that_is_away_while_there_is_nothing_to_send_is_told_of() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("mqtt://{closed}");
        let options = MqttOptions { url, status_topic: Some("status".to_owned()), ..MqttOptions::default() };
        let config = options.validate("sinks.bus.mqtt", &mut crate::config::Problems::default()).unwrap();
        let mut sink = MqttSink::new("bus", config);
        assert!(futures_util::poll!(sink.trouble()).is_pending());
        sink.flush().await.unwrap();
        for _ in 0..2 {
            let trouble = tokio::time::timeout(Duration::from_secs(20), sink.trouble()).await;
            assert_eq!(trouble.expect("it is told").reason, "connection");
        }
        sink.close().await;
    }

    #[test]
    fn an_event_ends_as_the_worse_of_itself_and_its_state() {
        use Disposition::{DeadLetter, Retry};
        let dead = || Err(DeliveryError::dead_letter("not_authorised", "x"));
        let retry = || Err(DeliveryError::retry("connection", "x"));
        let disposition =
            |event, state| worse(event, state).err().map(|error: DeliveryError| error.disposition);
        assert_eq!(disposition(Ok(()), Ok(())), None);
        assert_eq!(disposition(Ok(()), dead()), Some(DeadLetter));
        assert_eq!(disposition(dead(), Ok(())), Some(DeadLetter));
        assert_eq!(disposition(dead(), retry()), Some(Retry));
        assert_eq!(disposition(retry(), dead()), Some(Retry));
    }
}
