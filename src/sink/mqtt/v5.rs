//! MQTT 5: the client library's packets on a loop of our own. The library's loop writes and flushes each message by itself
//! and keeps a copy of it until its answer comes, which costs more than all the rest of a delivery. Here all messages that
//! wait go in one write, and nothing is kept: the spool has it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, ConnectReturnCode, Disconnect,
    DisconnectReasonCode, LastWill, Login, Packet, PingReq, PubRel,
};
use rumqttc::v5::mqttbytes::{Error as WireError, QoS};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::answer::{self, Answer, Step};
use super::config::{MqttConfig, Quality};
use super::encode::OFFLINE;
use super::failure::{classify_answer, classify_disconnect, classify_io, classify_refusal, classify_wire};
use super::packet::Publish;
use super::protocol::{Client, Limits, Notice, Protocol};
use super::stream::{self, Stream};
use crate::sink::DeliveryError;

/// Messages in one write at most.
const BATCH: usize = 64;
/// Bytes after which a write goes out although more messages wait; one message may always go.
const WRITE_BYTES: usize = 64 * 1024;
/// A buffer that one large message has made larger than this is given back.
const KEPT_BYTES: usize = 4 * WRITE_BYTES;
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// Between two looks at the broker's answers, under load: it sends each by itself, and to be woken for each costs more than
/// to read it.
const PACE: Duration = Duration::from_millis(1);
/// What comes from a broker to one that subscribes to nothing is small.
const LARGEST_INCOMING: u32 = 64 * 1024;

/// A message to be sent, or nothing more: then DISCONNECT.
type Request = Option<Publish>;

/// A connection by MQTT 5.
pub(super) struct V5 {
    client_id: String,
    status_topic: Option<String>,
    config: MqttConfig,
    requests: mpsc::Receiver<Request>,
    /// What was taken out of `requests` and is being written.
    taken: Vec<Request>,
    wire: Option<Wire>,
    keep_alive: Duration,
    /// Messages in flight at most.
    window: usize,
    /// Messages sent and not yet answered.
    unanswered: usize,
    /// The packet id that was used last. The window is far smaller than the ids are many, so none comes round too early.
    last_id: u16,
    /// What has happened and was not told yet.
    notices: VecDeque<Notice>,
}

/// The socket with its buffers.
struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    ping: Interval,
    /// Answers that come before this are left for a moment.
    next_look: Instant,
    /// The last ping has no answer yet.
    pinged: bool,
}

impl Protocol for V5 {
    type Client = mpsc::Sender<Request>;

    fn new(sink: &str, config: &MqttConfig) -> Result<(Self::Client, V5), DeliveryError> {
        let (client, requests) = mpsc::channel(config.queue());
        let library = V5 {
            client_id: config.client_id(sink),
            status_topic: config.status_topic(sink),
            config: config.clone(),
            requests,
            taken: Vec::with_capacity(BATCH),
            wire: None,
            keep_alive: config.keep_alive,
            window: usize::from(config.max_in_flight),
            unanswered: 0,
            last_id: 0,
            notices: VecDeque::new(),
        };
        Ok((client, library))
    }

    async fn connect(&mut self, config: &MqttConfig) -> Result<Limits, DeliveryError> {
        let answer = self.introduce().await.map_err(|error| config.on_error.of_connection(error))?;
        let properties = answer.properties.as_ref();
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
        let limits = limits(properties, config);
        self.window = limits.window;
        Ok(limits)
    }

    fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    async fn next(&mut self) -> Result<Notice, DeliveryError> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(notice);
            }
            self.turn().await?;
        }
    }

    fn ready(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}

impl V5 {
    /// Connects, and begins the connection as the broker's answer says.
    async fn introduce(&mut self) -> Result<ConnAck, DeliveryError> {
        let mut stream = stream::open(&self.config).await?;
        let (mut incoming, mut outgoing) = (BytesMut::new(), BytesMut::new());
        self.connect_packet()?.write(&mut outgoing, None).map_err(|error| classify_wire(&error))?;
        let answer = greet(&mut stream, &mut outgoing, &mut incoming);
        let answer = stream::in_time("to CONNECT", answer).await?;
        // A broker that wants no pings (0) can well have some: they tell us that it lives.
        let theirs = answer.properties.as_ref().and_then(|properties| properties.server_keep_alive);
        if let Some(secs) = theirs.filter(|secs| *secs > 0) {
            self.keep_alive = Duration::from_secs(secs.into());
        }
        let mut ping = tokio::time::interval_at(Instant::now() + self.keep_alive, self.keep_alive);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.wire = Some(Wire { stream, incoming, outgoing, ping, next_look: Instant::now(), pinged: false });
        Ok(answer)
    }

    fn connect_packet(&self) -> Result<Packet, DeliveryError> {
        let config = &self.config;
        let properties = ConnectProperties {
            session_expiry_interval: Some(config.session_expiry_secs),
            ..ConnectProperties::new()
        };
        let connect = Connect {
            keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
            client_id: self.client_id.clone(),
            clean_start: true,
            properties: Some(properties),
        };
        let will = self.status_topic.as_ref();
        let will = will.map(|topic| LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true, None));
        let login = config.credentials()?;
        let login = login.map(|(username, password)| Login::new(username, password.expose_secret()));
        Ok(Packet::Connect(connect, will, login))
    }

    /// Reads, writes or pings once.
    async fn turn(&mut self) -> Result<(), DeliveryError> {
        let Some(wire) = &mut self.wire else { return Err(closed()) };
        wire.incoming.reserve(READ_BYTES);
        let unhurried = self.unanswered < self.window / 2 && wire.next_look > Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(wire.next_look), if unhurried => Ok(()),
            read = wire.stream.read_buf(&mut wire.incoming), if !unhurried => {
                wire.next_look = Instant::now() + PACE;
                match read {
                    Ok(0) => return Err(closed()),
                    Ok(_) => self.understand()?,
                    Err(error) => return Err(classify_io(&error)),
                }
                self.write_out().await
            }
            taken = self.requests.recv_many(&mut self.taken, BATCH) => {
                if taken == 0 {
                    return Err(DeliveryError::retry("client", "nobody sends any more"));
                }
                self.send().await
            }
            _ = wire.ping.tick() => {
                if std::mem::replace(&mut wire.pinged, true) {
                    return Err(DeliveryError::retry("stalled", "the broker did not answer a ping"));
                }
                PingReq::write(&mut wire.outgoing).map_err(|error| classify_wire(&error))?;
                self.notices.push_back(Notice::Sent);
                self.write_out().await
            }
        }
    }

    /// Writes what was taken.
    async fn send(&mut self) -> Result<(), DeliveryError> {
        let mut taken = std::mem::take(&mut self.taken);
        for request in taken.drain(..) {
            let Some(wire) = &mut self.wire else { return Err(closed()) };
            match request {
                Some(publish) if publish.quality == Quality::AtMostOnce => {
                    self.notices.push_back(Notice::Written(0));
                    publish.write(0, &mut wire.outgoing);
                }
                Some(publish) => {
                    self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                    self.unanswered += 1;
                    self.notices.push_back(Notice::Written(self.last_id));
                    publish.write(self.last_id, &mut wire.outgoing);
                }
                None => {
                    self.notices.push_back(Notice::Left);
                    let goodbye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
                    goodbye.write(&mut wire.outgoing).map_err(|error| classify_wire(&error))?;
                }
            }
            if wire.outgoing.len() >= WRITE_BYTES {
                self.write_out().await?;
            }
        }
        self.taken = taken;
        self.write_out().await
    }

    async fn write_out(&mut self) -> Result<(), DeliveryError> {
        let Some(wire) = &mut self.wire else { return Err(closed()) };
        if wire.outgoing.is_empty() {
            return Ok(());
        }
        if let Err(error) = wire.write_out().await {
            // Why it has closed the connection, and what it had confirmed before, the broker may have said.
            while let Some(Ok(1..)) = wire.stream.read_buf(&mut wire.incoming).now_or_never() {}
            self.understand()?;
            return Err(classify_io(&error));
        }
        Ok(())
    }

    /// Takes in the packets that are complete.
    fn understand(&mut self) -> Result<(), DeliveryError> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        loop {
            if let Some(answer) = answer::take(&mut wire.incoming) {
                let notice = wire.answered(&answer)?;
                let answers = usize::from(matches!(notice, Notice::Answered { .. }));
                self.unanswered = self.unanswered.saturating_sub(answers);
                self.notices.push_back(notice);
                continue;
            }
            let notice = match Packet::read(&mut wire.incoming, Some(LARGEST_INCOMING)) {
                Ok(Packet::PingResp(_)) => {
                    wire.pinged = false;
                    Notice::Heard
                }
                Ok(Packet::Disconnect(disconnect)) => return Err(classify_disconnect(&disconnect)),
                Ok(Packet::Publish(_)) => Notice::Heard,
                Ok(packet) => {
                    return Err(DeliveryError::retry("protocol", format!("the broker sent {packet:?}")));
                }
                Err(WireError::InsufficientBytes(_)) => return Ok(()),
                Err(error) => return Err(classify_wire(&error)),
            };
            self.notices.push_back(notice);
        }
    }
}

/// Sends CONNECT and reads the broker's answer.
async fn greet(
    stream: &mut Box<dyn Stream>,
    outgoing: &mut BytesMut,
    incoming: &mut BytesMut,
) -> Result<ConnAck, DeliveryError> {
    stream.write_all_buf(outgoing).await.map_err(|error| classify_io(&error))?;
    stream.flush().await.map_err(|error| classify_io(&error))?;
    loop {
        match Packet::read(incoming, Some(LARGEST_INCOMING)) {
            Ok(Packet::ConnAck(answer)) if answer.code == ConnectReturnCode::Success => return Ok(answer),
            Ok(Packet::ConnAck(answer)) => return Err(classify_refusal(answer.code)),
            Ok(packet) => {
                return Err(DeliveryError::retry("protocol", format!("{packet:?} in place of CONNACK")));
            }
            Err(WireError::InsufficientBytes(_)) => {
                incoming.reserve(READ_BYTES);
                let read = stream.read_buf(incoming).await.map_err(|error| classify_io(&error))?;
                if read == 0 {
                    return Err(closed());
                }
            }
            Err(error) => return Err(classify_wire(&error)),
        }
    }
}

impl Wire {
    /// What an answer means. A message that the broker has and that goes on is released.
    fn answered(&mut self, answer: &Answer) -> Result<Notice, DeliveryError> {
        let outcome = classify_answer(answer);
        if answer.step != Step::Received || outcome.is_err() {
            // A PUBREC that refuses ends the exchange (MQTT-4.3.3-4).
            return Ok(Notice::answered(answer.id, outcome));
        }
        let release = PubRel::new(answer.id, None);
        release.write(&mut self.outgoing).map_err(|error| classify_wire(&error))?;
        Ok(Notice::Received)
    }

    async fn write_out(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.outgoing).await?;
        self.stream.flush().await?;
        if self.outgoing.capacity() > KEPT_BYTES {
            self.outgoing = BytesMut::new();
        } else {
            self.outgoing.clear();
        }
        Ok(())
    }
}

impl Client for mpsc::Sender<Request> {
    fn publish(&self, publish: Publish) -> Result<(), DeliveryError> {
        self.try_send(Some(publish)).map_err(|error| DeliveryError::retry("client", error.to_string()))
    }

    fn disconnect(&self) {
        drop(self.try_send(None));
    }
}

fn closed() -> DeliveryError {
    DeliveryError::retry("connection", "the broker closed the connection")
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
