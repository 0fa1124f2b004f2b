//! What [`Link`](super::client) needs of a connection, which for MQTT 5 is a loop of ours and for 3.1.1 the client
//! library's.

use std::future::Future;
use std::time::Duration;

use super::config::MqttConfig;
use super::in_flight::Outcome;
use super::packet::Publish;
use crate::sink::DeliveryError;

/// A connection by one version of the protocol.
pub(super) trait Protocol: Send + Sized {
    /// What takes messages on behalf of the connection.
    type Client: Client;

    /// Makes both; nothing connects yet.
    fn new(sink: &str, config: &MqttConfig) -> Result<(Self::Client, Self), DeliveryError>;

    /// From the name's lookup to CONNACK.
    fn connect(&mut self, config: &MqttConfig) -> impl Future<Output = Result<Limits, DeliveryError>> + Send;

    /// The interval of pings, as agreed with the broker.
    fn keep_alive(&self) -> Duration;

    /// What happens next.
    ///
    /// # Cancel safety
    /// Must not be dropped while the connection is to go on: a packet could be lost between state and socket.
    fn next(&mut self) -> impl Future<Output = Result<Notice, DeliveryError>> + Send;

    /// What has happened already and was not told yet; also after the connection broke.
    fn ready(&mut self) -> Option<Notice>;
}

/// What takes messages on behalf of a connection, whose queue is as long as the largest window.
pub(super) trait Client: Send + Sync {
    fn publish(&self, publish: Publish) -> Result<(), DeliveryError>;

    /// Asks for DISCONNECT. It cannot fail while nothing is in flight; a second one would not be sent.
    fn disconnect(&self);
}

/// What happened.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    /// The next message was written to the socket, under this packet id; 0 with quality of service 0.
    Written(u16),
    /// The broker has the message and the exchange goes on (PUBREC).
    Received,
    /// The exchange is over.
    Answered {
        /// The packet id.
        id: u16,
        /// How it ended.
        outcome: Outcome,
    },
    /// The broker said something else, such as that it lives.
    Heard,
    /// DISCONNECT was written.
    Left,
    /// Something else was written.
    Sent,
}

impl Notice {
    pub(super) fn answered(id: u16, outcome: Outcome) -> Notice {
        Notice::Answered { id, outcome }
    }
}

/// What the broker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages in flight.
    pub(super) window: usize,
    /// Bytes of a packet.
    pub(super) packet_bytes: Option<usize>,
}
