//! One MQTT connection, from CONNECT to its end, in one task that owns client and event loop.
//!
//! rumqttc alone would lose messages: it drops what is in flight when a session is gone, replays out of order, tells
//! nobody about refused publishes, and its `poll` can hang in a write for ever. So here
//! - the event loop is never polled again after an error: a connection lives once, and its end fails every ack;
//! - acks are tied to packet ids in the order of sending ([`InFlight`]);
//! - a watchdog beside `poll` ends a connection on which the broker has fallen silent ([`Watchdog`]);
//! - `poll` is not dropped half-way while the connection lasts: a packet could be lost between state and socket.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, Publish};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

use super::config::MqttConfig;
use super::encode::check_size;
use super::failure::{classify, oldest_too_large};
use super::in_flight::{InFlight, Outcome, resolve};
use super::watchdog::Watchdog;
use crate::sink::DeliveryError;

/// From the name's lookup to CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the watchdog looks.
const WATCHDOG_TICK: Duration = Duration::from_millis(500);
/// How many queued messages are taken up at once.
const BATCH: usize = 64;

/// The sink's end of a connection. Dropping it ends the task, and so every ack that waits.
pub(super) struct Connection {
    jobs: mpsc::Sender<Job>,
    failure: Arc<OnceLock<DeliveryError>>,
    task: tokio::task::JoinHandle<()>,
}

/// A message on its way to the task.
struct Job {
    publish: Publish,
    ack: oneshot::Sender<Outcome>,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(sink: &Arc<str>, config: &MqttConfig) -> Connection {
        let (jobs, queue) = mpsc::channel(usize::from(config.max_in_flight));
        let failure = Arc::new(OnceLock::new());
        let link = Link { sink: sink.clone(), config: config.clone(), queue, in_flight: InFlight::default() };
        let task = tokio::task::spawn(link.run(failure.clone()));
        Connection { jobs, failure, task }
    }

    /// Queues a message; waits while the queue is full, and no longer than the connection lasts.
    pub(super) async fn send(&self, publish: Publish) -> Result<oneshot::Receiver<Outcome>, DeliveryError> {
        let (ack, outcome) = oneshot::channel();
        match self.jobs.send(Job { publish, ack }).await {
            Ok(()) => Ok(outcome),
            Err(_) => Err(self.failure.get().cloned().unwrap_or_else(ended)),
        }
    }

    /// Ends without a goodbye, and waits until the socket is closed and the acks have resolved.
    pub(super) async fn abandon(mut self) {
        self.task.abort();
        // "Cancelled" is what was asked for.
        drop((&mut self.task).await);
    }

    /// Ends with DISCONNECT once all that was sent is confirmed.
    pub(super) async fn close(mut self) {
        // The task sees that its queue has no sender any more.
        self.jobs = mpsc::channel(1).0;
        drop((&mut self.task).await);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The error of acks whose connection is no more.
pub(super) fn ended() -> DeliveryError {
    DeliveryError::retry("reset", "the connection was dropped before the broker confirmed")
}

/// The task's end of a connection.
struct Link {
    sink: Arc<str>,
    config: MqttConfig,
    queue: mpsc::Receiver<Job>,
    in_flight: InFlight,
}

impl Link {
    async fn run(mut self, failure: Arc<OnceLock<DeliveryError>>) {
        let error = self.carry().await.err().unwrap_or_else(ended);
        tracing::debug!(sink = &*self.sink, %error, "the MQTT connection has ended");
        // First the reason, then the end of the queue: whoever finds the queue closed finds the reason.
        drop(failure.set(error.clone()));
        self.queue.close();
        self.in_flight.fail(&error);
        while let Some(job) = self.queue.recv().await {
            resolve(job.ack, Err(error.clone()));
        }
    }

    /// Carries messages until the queue has ended and all is confirmed, or the connection fails.
    async fn carry(&mut self) -> Result<(), DeliveryError> {
        let options = library_options(&self.sink, &self.config)?;
        let (client, mut eventloop) = AsyncClient::new(options, self.config.max_in_flight.into());
        let limits = connect(&mut eventloop, &self.config).await?;
        tracing::info!(sink = &*self.sink, window = limits.window, "connected to the MQTT broker");
        let keep_alive = eventloop.options.keep_alive();
        let mut watchdog = Watchdog::new(keep_alive, self.config.stall_timeout);
        let mut ticker = tokio::time::interval(WATCHDOG_TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        loop {
            let polled = self
                .next_event(&client, &mut eventloop, &limits, &mut watchdog, &mut ticker, &mut open)
                .await?;
            match polled {
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return Ok(()),
                Ok(event) => {
                    watchdog.note(&event);
                    self.in_flight.note(&event)?;
                }
                Err(error) => return Err(self.last_words(&mut eventloop, &error)),
            }
        }
    }

    /// Polls the event loop for one event, taking up messages and watching the time meanwhile.
    async fn next_event(
        &mut self,
        client: &AsyncClient,
        eventloop: &mut EventLoop,
        limits: &Limits,
        watchdog: &mut Watchdog,
        ticker: &mut Interval,
        open: &mut bool,
    ) -> Result<Result<Event, ConnectionError>, DeliveryError> {
        let mut poll = pin!(eventloop.poll());
        let mut batch = Vec::new();
        loop {
            let room = self.room(limits);
            if !*open && self.in_flight.is_empty() {
                // It cannot be full, as nothing is in flight; a second DISCONNECT would not be sent.
                drop(client.try_disconnect());
            }
            tokio::select! {
                polled = &mut poll => return Ok(polled),
                taken = self.queue.recv_many(&mut batch, room), if *open && room > 0 => {
                    *open = taken > 0;
                    if self.in_flight.is_empty() {
                        watchdog.start();
                    }
                    for job in batch.drain(..) {
                        self.hand_over(client, limits, job)?;
                    }
                }
                _ = ticker.tick() => watchdog.check(&self.in_flight)?,
            }
        }
    }

    /// How many messages may be handed over now. The window begins at one and grows with each answer: a broker that
    /// closes the connection over one message, its answer lost with it, thus meets that message alone before long.
    fn room(&self, limits: &Limits) -> usize {
        let window = limits.window.min(1 + self.in_flight.answered());
        window.saturating_sub(self.in_flight.len()).min(BATCH)
    }

    fn hand_over(&mut self, client: &AsyncClient, limits: &Limits, job: Job) -> Result<(), DeliveryError> {
        let Job { publish, ack } = job;
        if let Some(Err(error)) = limits.packet_bytes.map(|limit| check_size(&publish, limit)) {
            resolve(ack, Err(error));
            return Ok(());
        }
        self.in_flight.push(ack);
        let Publish { topic, payload, properties, .. } = publish;
        let topic = String::from_utf8_lossy(&topic);
        // The library's queue is as long as the largest window.
        client
            .try_publish_with_properties(
                topic,
                QoS::AtLeastOnce,
                false,
                payload,
                properties.unwrap_or_default(),
            )
            .map_err(|error| DeliveryError::retry("client", error.to_string()))
    }

    /// What the broker confirmed just before the end is confirmed.
    fn last_words(&mut self, eventloop: &mut EventLoop, error: &ConnectionError) -> DeliveryError {
        for event in std::mem::take(&mut eventloop.state.events) {
            if let Err(error) = self.in_flight.note(&event) {
                return error;
            }
        }
        if oldest_too_large(error) {
            self.in_flight.fail_oldest(DeliveryError::dead_letter("too_large", "the broker refused it"));
        }
        classify(error)
    }
}

fn library_options(sink: &str, config: &MqttConfig) -> Result<MqttOptions, DeliveryError> {
    let client_id = config.client_id.clone().unwrap_or_else(|| format!("ccrelay-{sink}"));
    let mut options = MqttOptions::new(client_id, &config.host, config.port);
    options
        .set_clean_start(true)
        .set_keep_alive(config.keep_alive)
        .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
        .set_outgoing_inflight_upper_limit(config.max_in_flight);
    if let Some((username, password)) = &config.login {
        let password = password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        options.set_credentials(username, password);
    }
    if let Some(files) = &config.tls {
        let tls = files.load().map_err(|error| DeliveryError::retry("tls", error))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let mut network = NetworkOptions::new();
    // Every publish is a write of its own; waiting for company would cost 40 ms.
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    Ok(options)
}

/// What the broker allows.
struct Limits {
    window: usize,
    packet_bytes: Option<usize>,
}

async fn connect(eventloop: &mut EventLoop, config: &MqttConfig) -> Result<Limits, DeliveryError> {
    let properties = match eventloop.poll().await {
        Ok(Event::Incoming(Incoming::ConnAck(ConnAck { properties, .. }))) => properties,
        Ok(event) => return Err(DeliveryError::retry("protocol", format!("{event:?} in place of CONNACK"))),
        Err(error) => return Err(classify(&error)),
    };
    let properties = properties.as_ref();
    if properties.and_then(|properties| properties.max_qos) == Some(0) {
        return Err(DeliveryError::retry("refused", "the broker offers no quality of service 1"));
    }
    if eventloop.options.keep_alive().is_zero() {
        // The broker wants no pings (server keep-alive 0), and the library would send them without a pause.
        eventloop.options.set_keep_alive(config.keep_alive);
    }
    Ok(limits(properties, config))
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
