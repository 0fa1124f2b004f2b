//! When events arrive at consumers of both brokers, against the time at which their push was sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};

use crate::load::now_millis;

/// The member of `data.raw` that carries the time of sending.
const TIME: &[u8] = b"\"eventGenTime\":";

/// Milliseconds from sending to arrival, of one broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<Vec<u64>>>);

impl Arrivals {
    fn note(&self, payload: &[u8]) {
        let place = payload.windows(TIME.len()).position(|window| window == TIME);
        let digits = place.and_then(|at| payload.get(at + TIME.len()..at + TIME.len() + 13));
        let sent = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        if let Some(sent) = sent {
            let took = now_millis().saturating_sub(sent);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
    }

    /// Those so far, sorted; from now on they are counted anew.
    pub(crate) fn take(&self) -> Vec<u64> {
        let mut taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        taken.sort_unstable();
        taken
    }
}

/// Reads a topic of Kafka on a thread of its own until it is told to stop.
pub(crate) fn of_kafka(
    config: &ClientConfig,
    topic: &str,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<(Arrivals, JoinHandle<()>)> {
    let mut config = config.clone();
    config.set("group.id", "bench").set("auto.offset.reset", "latest").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic]).context("cannot subscribe")?;
    let (arrivals, stop) = (Arrivals::default(), stop.clone());
    let noted = arrivals.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                noted.note(message.payload().unwrap_or_default());
            }
        }
    });
    Ok((arrivals, thread))
}

/// Subscribes to everything of an MQTT broker, with QoS 1.
pub(crate) async fn of_mqtt(port: u16, filter: &str) -> anyhow::Result<Arrivals> {
    let mut options = MqttOptions::new("bench-subscriber", "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::new(options, 1000);
    client.subscribe(filter, QoS::AtLeastOnce).await?;
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::task::spawn(async move {
        let (_client, mut tell) = (client, Some(tell));
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Incoming::Publish(publish)) => noted.note(&publish.payload),
                Event::Incoming(Incoming::SubAck(_)) => drop(tell.take().map(|tell| tell.send(()))),
                _ => {}
            }
        }
    });
    told.await.context("no subscription")?;
    Ok(arrivals)
}
