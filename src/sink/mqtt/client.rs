//! One MQTT connection, from CONNECT to its end, in one task that owns it.
//!
//! rumqttc alone would lose messages: it drops what is in flight when a session is gone, replays out of order, tells
//! nobody about refused publishes, and its `poll` can hang in a write for ever. So here
//! - nothing goes on after an error: a connection lives once, and its end fails every ack;
//! - acks are tied to packet ids in the order of sending ([`InFlight`]);
//! - a watchdog beside it ends a connection on which the broker has fallen silent ([`Watchdog`]), also in a write;
//! - waiting for what happens next is not dropped half-way while the connection lasts: a packet could be lost between
//!   state and socket.
//!
//! Where the relay's status is retained, the task connects again by itself while nothing is to be sent: there is nothing
//! that could be lost, and the status would stay `offline` until the next event.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::config::{MqttConfig, Version};
use super::encode::{self, OFFLINE, ONLINE, check_size};
use super::in_flight::{InFlight, Outcome, Waiter, resolve};
use super::packet::Publish;
use super::protocol::{Client, Limits, Notice, Protocol};
use super::short_lives::ShortLives;
use super::v4::V4;
use super::v5::V5;
use super::watchdog::Watchdog;
use crate::calm::Calm;
use crate::sink::{DeliveryError, Disposition};

/// How often the watchdog looks.
const WATCHDOG_TICK: Duration = Duration::from_millis(500);
/// How many queued messages are taken up at once.
const BATCH: usize = 64;
/// Between tries to connect while there is nothing to send.
const IDLE_RETRY: Duration = Duration::from_secs(1);

/// The sink's end of a connection. Dropping it ends the task, and so every ack that waits.
pub(super) struct Connection {
    jobs: mpsc::Sender<Job>,
    failure: Arc<OnceLock<DeliveryError>>,
    /// The last failure that ended nothing, as there was nothing to send.
    trouble: watch::Receiver<Option<DeliveryError>>,
    task: tokio::task::JoinHandle<()>,
}

/// A message on its way to the task.
struct Job {
    publish: Publish,
    ack: oneshot::Sender<Outcome>,
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(sink: &Arc<str>, config: &MqttConfig, short_lives: &ShortLives) -> Connection {
        let (jobs, queue) = mpsc::channel(usize::from(config.max_in_flight));
        let failure = Arc::new(OnceLock::new());
        let in_flight = InFlight::new(config.on_error.clone());
        let (tell, trouble) = watch::channel(None);
        let (sink, config) = (sink.clone(), config.clone());
        let version = config.version;
        let short_lives = short_lives.clone();
        let link =
            Link { sink, config, queue, open: true, in_flight, trouble: tell, connected: None, short_lives };
        let task = match version {
            Version::V5 => tokio::task::spawn(link.run::<V5>(failure.clone())),
            Version::V311 => tokio::task::spawn(link.run::<V4>(failure.clone())),
        };
        Connection { jobs, failure, trouble, task }
    }

    /// Queues a message; waits while the queue is full, and no longer than the connection lasts.
    pub(super) async fn send(&self, publish: Publish) -> Result<oneshot::Receiver<Outcome>, DeliveryError> {
        let (ack, outcome) = oneshot::channel();
        match self.jobs.send(Job { publish, ack }).await {
            Ok(()) => Ok(outcome),
            Err(_) => Err(self.failure.get().cloned().unwrap_or_else(ended)),
        }
    }

    /// Waits for the next failure while there is nothing to send.
    pub(super) async fn trouble(&mut self) -> DeliveryError {
        while self.trouble.changed().await.is_ok() {
            let told = self.trouble.borrow_and_update().clone();
            if let Some(error) = told {
                return error;
            }
        }
        // The task has ended, which whoever sends is told.
        std::future::pending().await
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
    /// The queue has a sender.
    open: bool,
    in_flight: InFlight,
    trouble: watch::Sender<Option<DeliveryError>>,
    /// Since when the connection is there.
    connected: Option<Instant>,
    short_lives: ShortLives,
}

/// What one connection keeps beside its messages.
struct Watch {
    limits: Limits,
    watchdog: Watchdog,
    ticker: Interval,
    /// What the broker is to retain as the relay's status before DISCONNECT.
    goodbye: Option<Publish>,
}

impl Link {
    async fn run<P: Protocol>(mut self, failure: Arc<OnceLock<DeliveryError>>) {
        let calm = Calm::default();
        let error = loop {
            let Err(mut error) = self.carry::<P>().await else { break ended() };
            if let Some(connected) = self.connected.take() {
                let client_id = self.config.client_id(&self.sink);
                error = self.short_lives.ended(connected.elapsed(), &client_id, error);
            }
            tracing::debug!(sink = &*self.sink, %error, "the MQTT connection has ended");
            if !self.is_idle() || error.disposition == Disposition::Stop {
                break error;
            }
            if let Some(suppressed) = calm.due(error.reason) {
                tracing::warn!(sink = &*self.sink, reason = error.reason, %error, suppressed, "not connected to the MQTT broker, with nothing to send; trying again");
            }
            self.trouble.send_replace(Some(error));
            self.in_flight = InFlight::new(self.config.on_error.clone());
            tokio::time::sleep(IDLE_RETRY).await;
        };
        // First the reason, then the end of the queue: whoever finds the queue closed finds the reason.
        drop(failure.set(error.clone()));
        self.queue.close();
        self.in_flight.fail(&error);
        while let Some(job) = self.queue.recv().await {
            resolve(job.ack, Err(error.clone()));
        }
    }

    /// Whether the connection was there for the relay's status alone, and is to be there again.
    fn is_idle(&self) -> bool {
        let wanted = self.open && !self.queue.is_closed() && self.config.status_topic(&self.sink).is_some();
        wanted && self.queue.is_empty() && self.in_flight.only_status()
    }

    /// Carries messages until the queue has ended and all is confirmed, or the connection fails.
    async fn carry<P: Protocol>(&mut self) -> Result<(), DeliveryError> {
        let (client, mut library) = P::new(&self.sink, &self.config)?;
        let limits = library.connect(&self.config).await?;
        self.connected = Some(Instant::now());
        tracing::info!(sink = &*self.sink, window = limits.window, "connected to the MQTT broker");
        let mut ticker = tokio::time::interval(WATCHDOG_TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watchdog = Watchdog::new(library.keep_alive(), self.config.stall_timeout);
        let mut watch = Watch { limits, watchdog, ticker, goodbye: None };
        if let Some(topic) = self.config.status_topic(&self.sink) {
            self.in_flight.push(Waiter::Status);
            client.publish(encode::status(&topic, ONLINE))?;
            watch.goodbye = Some(encode::status(&topic, OFFLINE));
        }
        loop {
            match self.next(&client, &mut library, &mut watch).await? {
                Ok(notice) => {
                    let mut next = Some(notice);
                    while let Some(notice) = next {
                        if matches!(notice, Notice::Left) {
                            return Ok(());
                        }
                        watch.watchdog.note(&notice);
                        self.in_flight.note(notice)?;
                        next = library.ready();
                    }
                }
                Err(error) => return Err(self.last_words(&mut library, error)),
            }
        }
    }

    /// Waits for one notice of the library, taking up messages and watching the time meanwhile.
    async fn next<P: Protocol>(
        &mut self,
        client: &P::Client,
        library: &mut P,
        watch: &mut Watch,
    ) -> Result<Result<Notice, DeliveryError>, DeliveryError> {
        let mut next = pin!(library.next());
        let mut batch = Vec::new();
        loop {
            let room = self.room(&watch.limits);
            if !self.open && self.in_flight.is_empty() {
                match watch.goodbye.take() {
                    Some(publish) => {
                        self.in_flight.push(Waiter::Status);
                        client.publish(publish)?;
                    }
                    None => client.disconnect(),
                }
            }
            tokio::select! {
                notice = &mut next => return Ok(notice),
                taken = self.queue.recv_many(&mut batch, room), if self.open && room > 0 => {
                    self.open = taken > 0;
                    if self.in_flight.is_empty() {
                        watch.watchdog.start();
                    }
                    for job in batch.drain(..) {
                        self.hand_over(client, &watch.limits, job)?;
                    }
                }
                _ = watch.ticker.tick() => watch.watchdog.check(&self.in_flight)?,
            }
        }
    }

    /// How many messages may be handed over now. The window begins at one and grows with each answer: a broker that
    /// closes the connection over one message, its answer lost with it, thus meets that message alone before long.
    fn room(&self, limits: &Limits) -> usize {
        let window = limits.window.min(1 + self.in_flight.answered());
        window.saturating_sub(self.in_flight.len()).min(BATCH)
    }

    fn hand_over(&mut self, client: &impl Client, limits: &Limits, job: Job) -> Result<(), DeliveryError> {
        let Job { publish, ack } = job;
        if let Some(Err(error)) = limits.packet_bytes.map(|limit| check_size(&publish, limit)) {
            let error = self.config.on_error.of_message(error);
            resolve(ack, Err(error.clone()));
            return if error.disposition == Disposition::DeadLetter { Ok(()) } else { Err(error) };
        }
        self.in_flight.push(Waiter::Ack(ack));
        client.publish(publish)
    }

    /// What the broker confirmed just before the end is confirmed.
    fn last_words(&mut self, library: &mut impl Protocol, error: DeliveryError) -> DeliveryError {
        while let Some(notice) = library.ready() {
            // What is called written may have met its end on the way to the socket.
            if !matches!(notice, Notice::Written(0))
                && let Err(error) = self.in_flight.note(notice)
            {
                return error;
            }
        }
        self.config.on_error.of_connection(error)
    }
}
