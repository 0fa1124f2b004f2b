//! Witnesses: they read a broker while a test runs and hand every event to a judge at once, so that nothing has to be
//! kept. They are on no proxy, and outlive every death of their broker without missing what it had confirmed.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ccrelay::simulate::LedgerEntry;
use rdkafka::consumer::BaseConsumer;
use rdkafka::{ClientConfig, Message as _, Offset};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Connect, ConnectProperties, Filter, Packet, PubAck, Publish, Subscribe};

use super::judge::{Arrival, Judge, Verdict};
use super::kafka::{Kafka, Record, assign};
use super::{DEADLINE, eventually};

/// How long a read waits before it looks whether the test is over.
const LOOK: Duration = Duration::from_millis(200);

/// A reader of Kafka that has met an error is replaced after so long without a message.
const SILENCE: Duration = Duration::from_secs(3);

/// What a witness has seen so far.
pub(crate) struct Witness {
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Book {
    judge: Mutex<Judge>,
    arrivals: AtomicUsize,
    /// Subscriptions that the broker agreed to.
    subscriptions: AtomicUsize,
    over: AtomicBool,
    /// Messages of MQTT that were read and wait for the judge: reading must not wait for judging.
    inbox: Mutex<Vec<Publish>>,
    filled: Condvar,
}

impl Witness {
    /// Reads all partitions of a topic.
    pub(crate) fn of_kafka(kafka: &Kafka, topic: &str, partitions: i32) -> Witness {
        let book = Arc::new(Book::default());
        let (config, topic, reader) = (kafka.client_config(), topic.to_owned(), book.clone());
        let read = std::thread::spawn(move || read_kafka(&config, &topic, partitions, &reader));
        Witness { book, threads: vec![read] }
    }

    /// Subscribes to all topics under `filter`, and waits until the broker has agreed.
    pub(crate) async fn of_mqtt(port: u16, filter: &str) -> Witness {
        let book = Arc::new(Book::default());
        let (reader, judge, filter) = (book.clone(), book.clone(), filter.to_owned());
        let read = std::thread::spawn(move || read_mqtt(port, &filter, &reader));
        let judging = std::thread::spawn(move || judge_inbox(&judge));
        let witness = Witness { book, threads: vec![read, judging] };
        witness.subscribed(1).await;
        witness
    }

    /// How often the broker has agreed to the subscription.
    pub(crate) fn subscriptions(&self) -> usize {
        self.book.subscriptions.load(Ordering::Acquire)
    }

    pub(crate) async fn subscribed(&self, times: usize) {
        eventually("a subscription", DEADLINE, || async { (self.subscriptions() >= times).then_some(()) })
            .await;
    }

    pub(crate) fn arrivals(&self) -> usize {
        self.book.arrivals.load(Ordering::Acquire)
    }

    pub(crate) fn verdict(&self, ledger: &[LedgerEntry]) -> Verdict {
        self.book.judge.lock().expect("the judge did not panic").verdict(ledger)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.book.over.store(true, Ordering::Release);
        self.book.filled.notify_all();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Book {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn judge(&self, arrival: &Arrival) {
        self.judge.lock().expect("the judge did not panic").hear(arrival);
        self.arrivals.fetch_add(1, Ordering::AcqRel);
    }
}

/// Reads on with a new consumer when there is silence and the old one has met an error: now and then one does not read on, or
/// not all partitions, when its broker is back (rust-rdkafka issue 597, librdkafka issue 5153). Nothing is passed over by that.
fn read_kafka(config: &ClientConfig, topic: &str, partitions: i32, book: &Book) {
    let mut config = config.clone();
    // A broker that was killed may at first not offer all that it has: then nothing may be passed over.
    config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "false");
    config.set("reconnect.backoff.max.ms", "500").set("fetch.wait.max.ms", "50");
    let mut next: HashMap<i32, i64> = HashMap::new();
    while !book.is_over() {
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let from = |partition| next.get(&partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
        assign(&consumer, topic, (0..partitions).map(|partition| (partition, from(partition))));
        let (mut heard, mut disturbed) = (Instant::now(), false);
        while !book.is_over() {
            if disturbed && heard.elapsed() > SILENCE {
                break;
            }
            let message = match consumer.poll(LOOK) {
                Some(Ok(message)) => message,
                // Errors are those of a broker that is away.
                Some(Err(_)) => {
                    disturbed = true;
                    continue;
                }
                None => continue,
            };
            heard = Instant::now();
            let next = next.entry(message.partition()).or_default();
            // Read a second time after a restart, not there a second time.
            if message.offset() < *next {
                continue;
            }
            *next = message.offset() + 1;
            book.judge(&Arrival::from_kafka(&Record::of(&message)));
        }
    }
}

/// Reads until the end of the stream whatever becomes of the acks: what a broker sent before it was killed is in the
/// socket, and it has confirmed it to the sender.
fn read_mqtt(port: u16, filter: &str, book: &Book) {
    while !book.is_over() {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            drop(serve_mqtt(stream, port, filter, book));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn serve_mqtt(mut stream: TcpStream, port: u16, filter: &str, book: &Book) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    let properties = ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::new() };
    let connect = Connect {
        keep_alive: 0,
        client_id: format!("witness-{port}"),
        clean_start: false,
        properties: Some(properties),
    };
    stream.write_all(&bytes_of(&Packet::Connect(connect, None, None)))?;
    let (mut buffer, mut chunk, mut acks_go) = (BytesMut::new(), vec![0; 256 * 1024], true);
    while !book.is_over() {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        }
        let (mut messages, mut answers) = (Vec::new(), BytesMut::new());
        while let Ok(packet) = Packet::read(&mut buffer, None) {
            match packet {
                Packet::ConnAck(_) => {
                    let mut subscribe = Subscribe::new(Filter::new(filter, QoS::AtLeastOnce), None);
                    subscribe.pkid = 1;
                    answers.extend_from_slice(&bytes_of(&Packet::Subscribe(subscribe)));
                }
                Packet::SubAck(_) => {
                    book.subscriptions.fetch_add(1, Ordering::AcqRel);
                }
                Packet::Publish(publish) => {
                    let ack = PubAck::new(publish.pkid, None);
                    answers.extend_from_slice(&bytes_of(&Packet::PubAck(ack)));
                    messages.push(publish);
                }
                _ => {}
            }
        }
        book.inbox.lock().expect("the judge did not panic").append(&mut messages);
        book.filled.notify_all();
        acks_go = acks_go && stream.write_all(&answers).is_ok();
    }
    Ok(())
}

fn bytes_of(packet: &Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).expect("a small packet");
    bytes
}

fn judge_inbox(book: &Book) {
    while !book.is_over() {
        let inbox = book.inbox.lock().expect("the reader did not panic");
        let (mut inbox, _) = book.filled.wait_timeout(inbox, LOOK).expect("the reader did not panic");
        let messages = std::mem::take(&mut *inbox);
        drop(inbox);
        for message in &messages {
            book.judge(&Arrival::from_mqtt(message));
        }
    }
}
