//! When events arrive at consumers of both brokers, against the time at which their push was sent. They share the processors
//! with what is measured, so they do as little as can be: the one time stamp is looked for, from the end, and nothing else
//! of a message is read. The subscriber has QoS 0, which changes nothing of what the relay has to do for its QoS 1 and spares
//! the broker an answer for each message; that none was dropped shows in the count of events.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::TcpStreamExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::{Buf, BytesMut};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::{Message, Offset};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Connect, Filter, Packet, Subscribe};

use crate::load::now_millis;
use crate::support::kafka::assign;

/// The member of `data.raw` that carries the time of sending.
const TIME: &[u8] = b"\"eventGenTime\":";

/// Milliseconds from sending to arrival, of one broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<Vec<u64>>>);

impl Arrivals {
    fn note(&self, payload: &[u8], now: u64) {
        let place = payload.windows(TIME.len()).rposition(|window| window == TIME);
        let digits = place.and_then(|at| payload.get(at + TIME.len()..at + TIME.len() + 13));
        let sent = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        if let Some(sent) = sent {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(now.saturating_sub(sent));
        }
    }

    /// How many there are so far.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Those so far, sorted; from now on they are counted anew.
    pub(crate) fn take(&self) -> Vec<u64> {
        let mut taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        taken.sort_unstable();
        taken
    }
}

/// Reads a topic of Kafka, from its begin so that nothing is missed, on a thread of its own until it is told to stop.
pub(crate) fn of_kafka(
    config: &ClientConfig,
    topic: &str,
    partitions: i32,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<(Arrivals, JoinHandle<()>)> {
    let mut config = config.clone();
    config.set("group.id", "bench").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create()?;
    assign(&consumer, topic, (0..partitions).map(|partition| (partition, Offset::Beginning)));
    let (arrivals, stop) = (Arrivals::default(), stop.clone());
    let noted = arrivals.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                noted.note(message.payload().unwrap_or_default(), now_millis());
            }
        }
    });
    Ok((arrivals, thread))
}

/// First byte of a PUBLISH with QoS 0, without its flags.
const PUBLISH: u8 = 0x30;

/// Subscribes to everything of an MQTT broker, and reads on a thread of its own until the broker ends.
pub(crate) fn of_mqtt(port: u16, filter: &str) -> anyhow::Result<Arrivals> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("no broker")?;
    stream.set_nodelay(true)?;
    let connect = Connect {
        keep_alive: 0,
        client_id: "bench-subscriber".to_owned(),
        clean_start: true,
        properties: None,
    };
    let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None);
    subscribe.pkid = 1;
    let mut outgoing = BytesMut::new();
    Packet::Connect(connect, None, None).write(&mut outgoing, None)?;
    Packet::Subscribe(subscribe).write(&mut outgoing, None)?;
    stream.write_all(&outgoing)?;
    let (mut incoming, mut piece) = (BytesMut::new(), vec![0; 256 * 1024]);
    let mut answers = 0;
    while answers < 2 {
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the broker closed the connection");
        incoming.extend_from_slice(&piece[..read]);
        while let Some(length) = frame_length(&incoming) {
            incoming.advance(length);
            answers += 1;
        }
    }
    let arrivals = Arrivals::default();
    let noted = arrivals.clone();
    std::thread::spawn(move || {
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            incoming.extend_from_slice(&piece[..read]);
            // The broker holds the next message back until this one is acknowledged; the kernel would delay that.
            drop(stream.set_quickack(true));
            let now = now_millis();
            while let Some(length) = frame_length(&incoming) {
                if incoming[0] & 0xf0 == PUBLISH {
                    noted.note(&incoming[..length], now);
                }
                incoming.advance(length);
            }
        }
    });
    Ok(arrivals)
}

/// Bytes of the packet in front, when all of it is there: what its remaining length says, and what stands before.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let all = length + at + 2;
            return (bytes.len() >= all).then_some(all);
        }
    }
    None
}
