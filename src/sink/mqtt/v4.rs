//! MQTT 3.1.1, by the library's half for it. Its acks have no reasons: a broker that refuses a message either says
//! nothing of it or closes the connection.

use std::time::Duration;

use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, Outgoing, QoS,
    TlsConfiguration, Transport,
};
use secrecy::ExposeSecret;

use super::CONNECT_TIMEOUT;
use super::config::{MqttConfig, Quality};
use super::encode::{LARGEST_PACKET, OFFLINE};
use super::failure::classify_v4;
use super::packet::Publish;
use super::protocol::{Client, Limits, Notice, Protocol};
use super::reach::LOOKUP_TIMEOUT;
use crate::sink::DeliveryError;

/// What comes from a broker to one that subscribes to nothing is small.
const LARGEST_INCOMING: usize = 64 * 1024;

/// Messages in flight with quality of service 2. A broker that holds a message until PUBREL has a limit, which this version
/// gives it no way to tell, and closes the connection beyond it: this is Mosquitto's, the smallest we know.
const EXACTLY_ONCE_WINDOW: u16 = 20;

/// The event loop for MQTT 3.1.1.
pub(super) struct V4(EventLoop);

impl Protocol for V4 {
    type Client = AsyncClient;

    fn new(sink: &str, config: &MqttConfig) -> Result<(AsyncClient, V4), DeliveryError> {
        let mut options = MqttOptions::new(config.client_id(sink), config.host_before_port(), config.port);
        options
            .set_clean_session(true)
            .set_keep_alive(config.keep_alive)
            .set_inflight(config.max_in_flight)
            .set_max_packet_size(LARGEST_INCOMING, LARGEST_PACKET);
        if let Some((username, password)) = config.credentials()? {
            options.set_credentials(username, password.expose_secret());
        }
        if let Some(transport) = transport(config)? {
            options.set_transport(transport);
        }
        if let Some(topic) = config.status_topic(sink) {
            options.set_last_will(LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true));
        }
        let (client, mut eventloop) = AsyncClient::new(options, config.queue());
        eventloop.set_network_options(network());
        Ok((client, V4(eventloop)))
    }

    async fn connect(&mut self, config: &MqttConfig) -> Result<Limits, DeliveryError> {
        match self.0.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => Ok(Limits {
                window: usize::from(window(config)),
                packet_bytes: config.max_packet_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
            }),
            Ok(event) => Err(DeliveryError::retry("protocol", format!("{event:?} in place of CONNACK"))),
            Err(error) => Err(config.on_error.of_connection(classify_v4(&error))),
        }
    }

    fn keep_alive(&self) -> Duration {
        self.0.mqtt_options.keep_alive()
    }

    async fn next(&mut self) -> Result<Notice, DeliveryError> {
        match self.0.poll().await {
            Ok(event) => Ok(notice(&event)),
            Err(error) => Err(classify_v4(&error)),
        }
    }

    fn ready(&mut self) -> Option<Notice> {
        self.0.state.events.pop_front().as_ref().map(notice)
    }
}

impl Client for AsyncClient {
    fn publish(&self, publish: Publish) -> Result<(), DeliveryError> {
        let qos = match publish.quality {
            Quality::AtMostOnce => QoS::AtMostOnce,
            Quality::AtLeastOnce => QoS::AtLeastOnce,
            Quality::ExactlyOnce => QoS::ExactlyOnce,
        };
        self.try_publish(&*publish.topic, qos, publish.retain, publish.payload)
            .map_err(|error| DeliveryError::retry("client", error.to_string()))
    }

    fn disconnect(&self) {
        drop(self.try_disconnect());
    }
}

/// How the library makes its connections: every publish is a write of its own, and waiting for company would cost 40 ms. It has
/// one limit for lookup, TCP, TLS and CONNACK together, and tries the addresses of a name one after another.
fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout((LOOKUP_TIMEOUT + CONNECT_TIMEOUT).as_secs());
    network
}

/// TLS, where it is wanted.
fn transport(config: &MqttConfig) -> Result<Option<Transport>, DeliveryError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let tls = files.load().map_err(|error| DeliveryError::retry("tls", error))?;
    Ok(Some(Transport::tls_with_config(TlsConfiguration::Rustls(tls))))
}

fn window(config: &MqttConfig) -> u16 {
    match config.qos {
        Quality::ExactlyOnce => config.max_in_flight.min(EXACTLY_ONCE_WINDOW),
        Quality::AtMostOnce | Quality::AtLeastOnce => config.max_in_flight,
    }
}

fn notice(event: &Event) -> Notice {
    let answered = |id| Notice::answered(id, Ok(()));
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Notice::Written(*id),
        Event::Outgoing(Outgoing::Disconnect) => Notice::Left,
        Event::Outgoing(_) => Notice::Sent,
        Event::Incoming(Incoming::PubAck(ack)) => answered(ack.pkid),
        Event::Incoming(Incoming::PubRec(_)) => Notice::Received,
        Event::Incoming(Incoming::PubComp(answer)) => answered(answer.pkid),
        Event::Incoming(_) => Notice::Heard,
    }
}
