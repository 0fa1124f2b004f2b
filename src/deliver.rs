//! Delivery: one worker per sink reads the spool from the sink's cursor, normalises, routes and publishes, and moves the
//! cursor when the far end has **confirmed** everything below it.
//!
//! - A bounded window of unconfirmed events; a sink that is behind reads on from disk.
//! - Whatever goes wrong in passing ends the same way: the client is made anew and everything from the cursor on is
//!   published again, in order, with the same ids. So order holds and nothing is skipped; a consumer may see an
//!   event again, never for the first time after a later one of the same agent.
//! - Silence counts as failure: confirmations that do not come within the stall time-out mean a new client.
//! - What can never be delivered is set aside durably before the cursor passes it.
//! - Dead letters that a person wants delivered again come between records, with the ids they have. They are late by
//!   nature; among themselves they keep the order of the requests. The spool keeps them until they are confirmed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock::{Clock, Timestamp};
use crate::event::Event;
use crate::event::normalise;
use crate::metrics::Metrics;
use crate::route::TopicTemplate;
use crate::sink::{Ack, DeliveryError, Disposition, Message, Purpose, Sink};
use crate::spool::{DeadLetter, ReadRecord, Record, Replay, Replayed, Spool, SpoolReader};

/// Every reason of failures that are the worker's own, whatever the sink.
pub const REASONS: &[&str] = &["dead_letter_storage", "spool", "stalled", "unreadable"];

/// Records read from the spool at a time.
const READ_RECORDS: usize = 512;
/// Bytes of bodies read from the spool at a time, about.
const READ_BYTES: usize = 1 << 20;
/// Dead letters read at a time, to be delivered again.
const READ_REPLAYS: usize = 64;
/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait between tries: how long an end of an outage can go unnoticed.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How one sink is fed.
#[derive(Debug, Clone)]
pub struct DeliverConfig {
    /// The sink's name.
    pub sink: String,
    /// Events published and not yet confirmed at a time.
    pub window: usize,
    /// How long no confirmation may come while events are in flight.
    pub stall_timeout: Duration,
    /// Where events go.
    pub topic: TopicTemplate,
}

/// Feeds one sink.
pub struct Worker {
    config: DeliverConfig,
    sink: Box<dyn Sink>,
    spool: Spool,
    reader: SpoolReader,
    metrics: Metrics,
    clock: Clock,
    stop: CancellationToken,
    backoff: Backoff,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why one life of the client ended.
enum Ended {
    /// The daemon stops; everything in flight is confirmed.
    Stopped,
    /// Try again from the cursor.
    Retry(DeliveryError),
    /// A person is needed.
    Broken(DeliveryError),
}

impl From<DeliveryError> for Ended {
    fn from(error: DeliveryError) -> Ended {
        match error.disposition {
            Disposition::Stop => Ended::Broken(error),
            // A message that can never go is dealt with where the message is known; without one it is a failure.
            Disposition::Retry | Disposition::DeadLetter => Ended::Retry(error),
        }
    }
}

/// An event that was handed over.
struct InFlight {
    offset: u64,
    /// Whether the cursor passes the record once this is confirmed.
    ends_record: bool,
    received_at: Timestamp,
    message: Option<Message>,
    replay: Option<ReplayOf>,
    ack: Ack,
}

/// The dead letter that an event comes from; then `ends_record` says that it is the last event of the letter.
#[derive(Clone, Copy)]
struct ReplayOf {
    letter: u64,
    /// The letter is a whole record: an event of it that fails again becomes a letter of its own.
    whole: bool,
}

/// An event that is to be handed over, or the mark that a record has none.
struct Waiting {
    offset: u64,
    ends_record: bool,
    received_at: Timestamp,
    message: Option<Message>,
    replay: Option<ReplayOf>,
}

/// One life of the client: what was read, what is under way.
struct Flow {
    next: u64,
    /// The newest request to deliver a dead letter again that was read.
    replayed_to: u64,
    waiting: VecDeque<Waiting>,
    in_flight: VecDeque<InFlight>,
    /// Something could not be handed over: nothing more is, so that nothing overtakes it.
    blocked: bool,
    last_progress: Instant,
}

impl Worker {
    /// A worker for this sink.
    #[must_use]
    pub fn new(
        config: DeliverConfig,
        sink: Box<dyn Sink>,
        spool: Spool,
        reader: SpoolReader,
        metrics: Metrics,
        clock: Clock,
        stop: CancellationToken,
    ) -> Worker {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        Worker { config, sink, spool, reader, metrics, clock, stop, backoff }
    }

    /// Delivers until the stop, then waits for what is in flight and closes the sink.
    pub async fn run(mut self) {
        loop {
            self.set_state(if self.backoff.tries() == 0 { 1 } else { 0 });
            match self.deliver().await {
                Ended::Stopped => break,
                Ended::Retry(error) => {
                    if !self.recover(&error).await {
                        break;
                    }
                }
                Ended::Broken(error) => {
                    self.count_failure(&error);
                    self.set_state(-1);
                    tracing::error!(sink = %self.config.sink, reason = error.reason, %error, "this sink has stopped and waits for a person; the others go on");
                    self.stop.cancelled().await;
                    break;
                }
            }
        }
        self.sink.close().await;
        tracing::info!(sink = %self.config.sink, spool_offset = self.reader.cursor(), "sink closed");
    }

    /// A new client, after a wait. False when the daemon stops.
    async fn recover(&mut self, error: &DeliveryError) -> bool {
        let sink = self.config.sink.clone();
        self.count_failure(error);
        self.set_state(0);
        self.metrics.sink_retries.with_label_values(&[&sink, error.reason]).inc();
        self.metrics.sink_in_flight.with_label_values(&[&sink]).set(0);
        let wait = self.backoff.next_wait();
        tracing::warn!(%sink, reason = error.reason, %error, attempt = self.backoff.tries(), wait_secs = wait.as_secs_f64(), spool_offset = self.reader.cursor(), "delivery failed; trying again from the cursor");
        if let Err(error) = self.sink.reset().await {
            tracing::warn!(%sink, reason = error.reason, %error, "the client cannot be made anew yet");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.stop.cancelled() => false,
        }
    }

    async fn deliver(&mut self) -> Ended {
        let mut flow = Flow {
            next: self.reader.cursor(),
            replayed_to: 0,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            blocked: false,
            last_progress: Instant::now(),
        };
        let mut end = self.spool.end();
        loop {
            match self.advance(&mut flow, &mut end).await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    /// One step: settle what is confirmed, publish if there is room, else wait for something to happen.
    async fn advance(
        &mut self,
        flow: &mut Flow,
        end: &mut tokio::sync::watch::Receiver<u64>,
    ) -> Result<(), Ended> {
        while let Some(result) = flow.in_flight.front_mut().and_then(|front| (&mut front.ack).now_or_never())
        {
            self.settle(flow, result).await?;
        }
        let stopping = self.stop.is_cancelled();
        let room = flow.in_flight.len() < self.config.window && !stopping && !flow.blocked;
        if room && flow.waiting.is_empty() {
            let more = *end.borrow_and_update() > flow.next;
            if self.reader.replay_to() > flow.replayed_to {
                self.read_replays(flow).await?;
            }
            if more {
                self.read(flow).await?;
            }
        }
        if room && let Some(waiting) = flow.waiting.pop_front() {
            return self.publish(flow, waiting).await;
        }
        self.sink.flush().await?;
        if flow.in_flight.is_empty() {
            if stopping {
                return Err(Ended::Stopped);
            }
            tokio::select! {
                // The spool's sender is gone only when the daemon is ending.
                changed = end.changed() => if changed.is_err() { self.stop.cancelled().await },
                () = self.stop.cancelled() => {}
            }
            flow.last_progress = Instant::now();
            return Ok(());
        }
        self.wait(flow, end, room, stopping).await
    }

    async fn wait(
        &mut self,
        flow: &mut Flow,
        end: &mut tokio::sync::watch::Receiver<u64>,
        room: bool,
        stopping: bool,
    ) -> Result<(), Ended> {
        let Some(front) = flow.in_flight.front_mut() else { return Ok(()) };
        let stalled = flow.last_progress + self.config.stall_timeout;
        let result = tokio::select! {
            biased;
            result = &mut front.ack => result,
            changed = end.changed(), if room => {
                return if changed.is_ok() { Ok(()) } else { Err(Ended::Stopped) };
            }
            () = self.stop.cancelled(), if !stopping => return Ok(()),
            () = tokio::time::sleep_until(stalled) => {
                let silence = self.config.stall_timeout.as_secs();
                return Err(DeliveryError::retry("stalled", format!("no confirmation for {silence} s")).into());
            }
        };
        self.settle(flow, result).await
    }

    async fn read(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        let records = self.reader.read(flow.next, READ_RECORDS, READ_BYTES).await;
        let records = records.map_err(|error| DeliveryError::retry("spool", error.to_string()))?;
        for record in records {
            let offset = record.offset();
            match record {
                ReadRecord::Good(record) => self.prepare(flow, &record).await?,
                ReadRecord::Damaged { fault, .. } => {
                    self.set_aside_record(flow, offset, Timestamp(0), fault).await?
                }
            }
            flow.next = offset + 1;
        }
        Ok(())
    }

    async fn prepare(&mut self, flow: &mut Flow, record: &Record) -> Result<(), Ended> {
        let events: Vec<Event> = match normalise::normalise(&record.view(self.spool.id())) {
            Ok(events) => events,
            Err(error) => {
                return self
                    .set_aside_record(flow, record.offset, record.received_at, &error.to_string())
                    .await;
            }
        };
        let (offset, received_at) = (record.offset, record.received_at);
        if events.is_empty() {
            flow.waiting.push_back(Waiting {
                offset,
                ends_record: true,
                received_at,
                message: None,
                replay: None,
            });
        }
        self.queue(flow, offset, received_at, events, None);
        Ok(())
    }

    fn queue(
        &self,
        flow: &mut Flow,
        offset: u64,
        received_at: Timestamp,
        events: Vec<Event>,
        replay: Option<ReplayOf>,
    ) {
        let last = events.len().saturating_sub(1);
        for (index, event) in events.into_iter().enumerate() {
            let topic = self.config.topic.render(&event);
            let purpose = if replay.is_some() { Purpose::Replay } else { Purpose::Delivery };
            let message = Some(Message { event: Arc::new(event), topic, purpose });
            let ends_record = index == last;
            flow.waiting.push_back(Waiting { offset, ends_record, received_at, message, replay });
        }
    }

    /// Dead letters that are to be delivered again. What cannot be read even now stays a dead letter.
    async fn read_replays(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        let newest = self.reader.replay_to();
        let replays = self.reader.replays(flow.replayed_to, READ_REPLAYS).await;
        let replays = replays.map_err(|error| DeliveryError::retry("spool", error.to_string()))?;
        let all = replays.len() < READ_REPLAYS;
        for Replay { number, letter } in replays {
            flow.replayed_to = number;
            let stored = &letter.stored;
            let replay = ReplayOf { letter: stored.id, whole: stored.letter.event_id.is_empty() };
            match letter.events(self.spool.id()) {
                Ok(events) => {
                    self.queue(flow, stored.letter.spool_offset, stored.letter.at, events, Some(replay));
                }
                Err(fault) => {
                    let error = DeliveryError::dead_letter("unreadable", fault);
                    self.settle_replay(replay.letter, Some(error)).await?;
                }
            }
        }
        if all {
            flow.replayed_to = flow.replayed_to.max(newest);
        }
        Ok(())
    }

    /// A dead letter was confirmed, or has failed again.
    async fn settle_replay(&mut self, letter: u64, error: Option<DeliveryError>) -> Result<(), Ended> {
        let sink = self.config.sink.as_str();
        let (outcome, name) = match error {
            None => (Replayed::Delivered, "delivered"),
            Some(DeliveryError { reason, detail, .. }) => {
                tracing::error!(%sink, letter, reason, error = detail, "a dead letter that was delivered again has failed again");
                let (reason, at) = (reason.to_owned(), self.clock.now());
                (Replayed::Failed { reason, detail, at, attempts: 1 }, "failed")
            }
        };
        let stored = self.spool.settle_replay(letter, outcome).await;
        stored.map_err(|error| DeliveryError::retry("dead_letter_storage", error.to_string()))?;
        self.metrics.replays.with_label_values(&[sink, name]).inc();
        Ok(())
    }

    async fn publish(&mut self, flow: &mut Flow, waiting: Waiting) -> Result<(), Ended> {
        let Waiting { offset, ends_record, received_at, message, replay } = waiting;
        let ack: Ack = match &message {
            None => Box::pin(std::future::ready(Ok(()))),
            Some(message) => match self.sink.publish(message).await {
                Ok(ack) => ack,
                // Its place in the order is kept. Acks handed out before stay valid, so what this error leads to comes
                // about when everything before it is settled: a message that never goes must not undo theirs.
                Err(error) => {
                    flow.blocked |= error.disposition != Disposition::DeadLetter;
                    Box::pin(std::future::ready(Err(error)))
                }
            },
        };
        if flow.in_flight.is_empty() {
            flow.last_progress = Instant::now();
        }
        flow.in_flight.push_back(InFlight { offset, ends_record, received_at, message, replay, ack });
        self.show_in_flight(flow);
        Ok(())
    }

    /// The first event in flight has its result.
    async fn settle(&mut self, flow: &mut Flow, result: Result<(), DeliveryError>) -> Result<(), Ended> {
        let Some(front) = flow.in_flight.front() else { return Ok(()) };
        let (ends_record, offset, replay) = (front.ends_record, front.offset, front.replay);
        let mut again = None;
        match result {
            Ok(()) => self.count_success(front),
            Err(error)
                if error.disposition == Disposition::DeadLetter && replay.is_some_and(|r| !r.whole) =>
            {
                self.count_failure(&error);
                again = Some(error);
            }
            Err(error) if error.disposition == Disposition::DeadLetter => {
                self.count_failure(&error);
                let letter = self.letter_of(front, error);
                self.set_aside(letter).await?;
            }
            Err(error) => return Err(error.into()),
        }
        match replay {
            Some(replay) if ends_record => self.settle_replay(replay.letter, again).await?,
            None if ends_record => self.reader.confirm(offset + 1),
            _ => {}
        }
        flow.in_flight.pop_front();
        flow.last_progress = Instant::now();
        self.show_in_flight(flow);
        Ok(())
    }

    fn count_success(&mut self, event: &InFlight) {
        if event.message.is_none() {
            return;
        }
        if self.backoff.tries() > 0 {
            self.backoff.reset();
            self.set_state(1);
            tracing::info!(sink = %self.config.sink, spool_offset = event.offset, "delivering again");
        }
        if event.replay.is_some() {
            self.metrics.sink_delivered.with_label_values(&[&self.config.sink]).inc();
            return;
        }
        let took = self.clock.now().since(event.received_at).as_secs_f64();
        self.metrics.sink_delivered.with_label_values(&[&self.config.sink]).inc();
        self.metrics.sink_delivery_duration.with_label_values(&[&self.config.sink]).observe(took);
    }

    /// The letter of an event that can never go.
    fn letter_of(&self, event: &InFlight, error: DeliveryError) -> DeadLetter {
        let message = event.message.as_ref();
        DeadLetter {
            sink: self.config.sink.clone(),
            spool_offset: event.offset,
            event_id: message.map_or_else(String::new, |message| message.event.id.clone()),
            topic: message.map_or_else(String::new, |message| message.topic.to_string()),
            reason: error.reason.to_owned(),
            detail: error.detail,
            at: self.clock.now(),
            attempts: 1,
        }
    }

    /// A record of which nothing can be made: set aside whole, in its place in the order.
    async fn set_aside_record(
        &mut self,
        flow: &mut Flow,
        offset: u64,
        received_at: Timestamp,
        fault: &str,
    ) -> Result<(), Ended> {
        let letter = DeadLetter {
            sink: self.config.sink.clone(),
            spool_offset: offset,
            event_id: String::new(),
            topic: String::new(),
            reason: "unreadable".to_owned(),
            detail: fault.to_owned(),
            at: self.clock.now(),
            attempts: 1,
        };
        self.set_aside(letter).await?;
        flow.waiting.push_back(Waiting {
            offset,
            ends_record: true,
            received_at,
            message: None,
            replay: None,
        });
        Ok(())
    }

    async fn set_aside(&mut self, letter: DeadLetter) -> Result<(), Ended> {
        let (sink, reason) = (letter.sink.clone(), letter.reason.clone());
        tracing::error!(%sink, spool_offset = letter.spool_offset, event_id = letter.event_id, topic = letter.topic, reason, error = letter.detail, "an event cannot be delivered and is set aside");
        let stored = self.spool.dead_letter(letter).await;
        stored.map_err(|error| DeliveryError::retry("dead_letter_storage", error.to_string()))?;
        self.metrics.sink_dead_letters.with_label_values(&[sink, reason]).inc();
        Ok(())
    }

    fn count_failure(&self, error: &DeliveryError) {
        self.metrics.sink_failures.with_label_values(&[self.config.sink.as_str(), error.reason]).inc();
    }

    fn show_in_flight(&self, flow: &Flow) {
        let count = i64::try_from(flow.in_flight.len()).unwrap_or(i64::MAX);
        self.metrics.sink_in_flight.with_label_values(&[&self.config.sink]).set(count);
    }

    fn set_state(&self, state: i64) {
        self.metrics.sink_state.with_label_values(&[&self.config.sink]).set(state);
    }
}

#[cfg(test)]
mod tests;
