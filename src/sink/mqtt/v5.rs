//! MQTT 5, by the library's half for it.

use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, LastWill, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use secrecy::ExposeSecret;

use super::config::{MqttConfig, Quality};
use super::encode::{self, OFFLINE};
use super::failure::{classify, classify_ack, classify_pubcomp, classify_pubrec, oldest_too_large};
use super::protocol::{Broken, Client, Limits, Notice, Protocol};
use super::{CONNECT_TIMEOUT, network, transport};
use crate::sink::DeliveryError;

/// The event loop for MQTT 5.
pub(super) struct V5(EventLoop);

impl Protocol for V5 {
    type Client = AsyncClient;

    fn new(sink: &str, config: &MqttConfig) -> Result<(AsyncClient, V5), DeliveryError> {
        let mut options = MqttOptions::new(config.client_id(sink), &config.host, config.port);
        options
            .set_clean_start(true)
            .set_session_expiry_interval(Some(config.session_expiry_secs))
            .set_keep_alive(config.keep_alive)
            .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
            .set_outgoing_inflight_upper_limit(config.max_in_flight);
        options.set_network_options(network());
        if let Some((username, password)) = &config.login {
            let password = password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
            options.set_credentials(username, password);
        }
        if let Some(transport) = transport(config)? {
            options.set_transport(transport);
        }
        if let Some(topic) = config.status_topic(sink) {
            options.set_last_will(LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true, None));
        }
        let (client, eventloop) = AsyncClient::new(options, config.queue());
        Ok((client, V5(eventloop)))
    }

    async fn connect(&mut self, config: &MqttConfig) -> Result<Limits, DeliveryError> {
        let properties = match self.0.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(ConnAck { properties, .. }))) => properties,
            Ok(event) => {
                return Err(DeliveryError::retry("protocol", format!("{event:?} in place of CONNACK")));
            }
            Err(error) => return Err(config.on_error.of_connection(classify(&error))),
        };
        let properties = properties.as_ref();
        if let Some(offered) = properties.and_then(|properties| properties.max_qos)
            && offered < config.qos.level()
        {
            let detail = format!("the broker offers quality of service {offered} at most");
            return Err(DeliveryError::retry("refused", detail));
        }
        let retains = properties.and_then(|properties| properties.retain_available) != Some(0);
        if !retains && config.retains() {
            return Err(DeliveryError::retry("refused", "the broker retains no messages"));
        }
        if self.0.options.keep_alive().is_zero() {
            // The broker wants no pings (server keep-alive 0), and the library would send them without a pause.
            self.0.options.set_keep_alive(config.keep_alive);
        }
        Ok(limits(properties, config))
    }

    fn keep_alive(&self) -> Duration {
        self.0.options.keep_alive()
    }

    async fn next(&mut self) -> Result<Notice, Broken> {
        match self.0.poll().await {
            Ok(event) => Ok(notice(&event)),
            Err(error) => Err(Broken { oldest_too_large: oldest_too_large(&error), error: classify(&error) }),
        }
    }

    fn rest(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.0.state.events).iter().map(notice).collect()
    }
}

impl Client for AsyncClient {
    fn publish(&self, publish: Publish) -> Result<(), DeliveryError> {
        let topic = encode::topic(&publish).into_owned();
        let Publish { qos, retain, payload, properties, .. } = publish;
        self.try_publish_with_properties(topic, qos, retain, payload, properties.unwrap_or_default())
            .map_err(|error| DeliveryError::retry("client", error.to_string()))
    }

    fn disconnect(&self) {
        drop(self.try_disconnect());
    }
}

fn notice(event: &Event) -> Notice {
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Notice::Written(*id),
        Event::Outgoing(Outgoing::Disconnect) => Notice::Left,
        Event::Outgoing(_) => Notice::Sent,
        Event::Incoming(Incoming::PubAck(ack)) => {
            Notice::Answered { id: ack.pkid, outcome: classify_ack(ack), leaked: false }
        }
        Event::Incoming(Incoming::PubRec(answer)) => match classify_pubrec(answer) {
            Ok(()) => Notice::Received(answer.pkid),
            // The exchange ends here (MQTT-4.3.3-4), which the library does not take into account.
            Err(error) => Notice::Answered { id: answer.pkid, outcome: Err(error), leaked: true },
        },
        Event::Incoming(Incoming::PubComp(answer)) => {
            Notice::Answered { id: answer.pkid, outcome: classify_pubcomp(answer), leaked: false }
        }
        Event::Incoming(_) => Notice::Heard,
    }
}

fn limits(properties: Option<&ConnAckProperties>, config: &MqttConfig) -> Limits {
    let receive_max = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
    let theirs = properties.and_then(|properties| properties.max_packet_size);
    let packet_bytes = [theirs, config.max_packet_bytes].into_iter().flatten().min();
    Limits {
        window: usize::from(receive_max.min(config.max_in_flight)),
        packet_bytes: packet_bytes.and_then(|bytes| usize::try_from(bytes).ok()),
    }
}

impl From<Quality> for QoS {
    fn from(quality: Quality) -> QoS {
        match quality {
            Quality::AtMostOnce => QoS::AtMostOnce,
            Quality::AtLeastOnce => QoS::AtLeastOnce,
            Quality::ExactlyOnce => QoS::ExactlyOnce,
        }
    }
}
