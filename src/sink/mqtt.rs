//! MQTT 5 with quality of service 1: a PUBACK with a reason below 0x80 is the ack.
//!
//! A connection lives once. Whatever ends it, every message without a PUBACK fails, the sink takes nothing more, and
//! the worker resets it and publishes again from its cursor, always with a clean start: neither the broker's session
//! nor the client library's memory is relied on. Within a connection messages go in the order of the calls.

use std::sync::Arc;
use std::time::Duration;

use crate::sink::{Ack, BoxFuture, DeliveryError, Message, Sink};

mod client;
mod config;
mod encode;
mod failure;
mod in_flight;
mod watchdog;

use client::Connection;
pub use config::{MqttConfig, MqttOptions};

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

/// What a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// An MQTT broker as an output.
pub struct MqttSink {
    name: Arc<str>,
    config: MqttConfig,
    /// Absent until the first publish, so that nothing connects before there is something to say.
    connection: Option<Connection>,
}

impl MqttSink {
    /// A sink that connects at its first publish.
    #[must_use]
    pub fn new(name: &str, config: MqttConfig) -> MqttSink {
        MqttSink { name: name.into(), config, connection: None }
    }

    async fn send(&mut self, message: &Message) -> Result<Ack, DeliveryError> {
        let publish = encode::encode(message, self.config.encoding)?;
        let (name, config) = (&self.name, &self.config);
        let connection = self.connection.get_or_insert_with(|| Connection::open(name, config));
        let outcome = connection.send(publish).await?;
        Ok(Box::pin(async { outcome.await.unwrap_or_else(|_| Err(client::ended())) }))
    }
}

impl Sink for MqttSink {
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        Box::pin(self.send(message))
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        Box::pin(async {
            if let Some(connection) = self.connection.take() {
                connection.abandon().await;
            }
            self.connection = Some(Connection::open(&self.name, &self.config));
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
