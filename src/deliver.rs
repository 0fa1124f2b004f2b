//! Delivery: one worker per sink reads the spool from the sink's cursor, normalises, routes and publishes, and moves the
//! cursor when the far end has **confirmed** everything below it.
//!
//! - A window of unconfirmed events, bounded in number and in bytes; a sink that is behind reads on from disk. After a failure it
//!   begins with one event and opens with the answers.
//! - Whatever goes wrong in passing ends the same way: the client is made anew and everything from the cursor on is
//!   published again, in order, with the same ids. So order holds and nothing is skipped; a consumer may see an
//!   event again, never for the first time after a later one of the same agent. Only what this process knows to be settled of
//!   the record that the cursor stands at is not published again: one event of it that fails must not repeat the others.
//! - Silence counts as failure: confirmations that do not come within the stall time-out mean a new client.
//! - What can never be delivered is set aside durably before the cursor passes it. Where a topic for copies is configured
//!   the cursor also waits for the copy, unless that can never go either.
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
use crate::event::normalise::Place;
use crate::event::{Event, EventData};
use crate::metrics::Metrics;
use crate::route::{Router, TopicTemplate};
use crate::sink::{Ack, CopyNote, DeliveryError, Disposition, Message, Purpose, Sink};
use crate::spool::{DeadLetter, Record, Replay, Replayed, Spool, SpoolReader};
use crate::trace::{SinkTraces, TraceContext};

mod meter;
mod reading;
mod tries;
mod trouble;
mod ways;
mod which_letters;
mod window;

use meter::{Copied, Meter, State};
use tries::Tries;
pub use trouble::{Failure, Troubles};
pub use ways::{Way, Ways, way};
pub use which_letters::misnamed;
use window::Window;

/// Every reason of failures that are the worker's own, whatever the sink.
pub const REASONS: &[&str] = &["dead_letter_storage", "not_routed", "spool", "stalled", "unreadable"];

/// Records read from the spool at a time.
const READ_RECORDS: usize = 512;
/// Bytes of bodies read from the spool at a time, about.
const READ_BYTES: usize = 1 << 20;
/// Events that wait, from which on no more are made: records may have lists of many, whose events take far more than the bodies.
const MOST_WAITING: usize = 4096;
/// Bytes of the contents of events in flight, about; one event may always go. Clients hold copies of their own.
const WINDOW_BYTES: usize = 16 << 20;
/// The reason of events that are larger than the far end allows, whatever the sink.
const TOO_LARGE: &str = "too_large";
/// What an event weighs beside its content.
const EVENT_BYTES: usize = 1024;
/// Between two looks at what there is to do, under load. One event alone is never kept waiting for it.
const PACE: Duration = Duration::from_millis(1);
/// Dead letters read at a time, to be delivered again.
const READ_REPLAYS: usize = 64;
/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// While the daemon stops a broker has this long for its next confirmation: one that is away must not use up the grace
/// period, and what it has not confirmed stays in the spool.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what the client says of why nothing is confirmed.
const COMPLAINTS: Duration = Duration::from_secs(1);
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
    pub way: Way,
    /// Where copies of events go that were set aside; nowhere when absent.
    pub dead_letter_topic: Option<TopicTemplate>,
    /// What becomes of events that came before.
    pub repeats: Repeats,
    /// Where failures are noted for people.
    pub troubles: Troubles,
}

/// What a sink does with further deliveries of an event, which the gateway makes when an answer of ours does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeats {
    /// Publishes them, marked and with the id of the first.
    #[default]
    Publish,
    /// Leaves them out, counted.
    Drop,
}

/// Feeds one sink.
pub struct Worker {
    config: DeliverConfig,
    sink: Box<dyn Sink>,
    spool: Spool,
    reader: SpoolReader,
    meter: Meter,
    clock: Clock,
    stop: CancellationToken,
    backoff: Backoff,
    tries: Tries,
    window: Window,
    /// The newest event that is settled and has others of its record behind it, with the record's offset. So whatever is settled is
    /// progress, also over lives of the client.
    settled: Option<(u64, String)>,
    /// The same of a dead letter that is a whole record, with the letter's id.
    settled_of_letter: Option<(u64, String)>,
    /// Cancelled when a stop has gone on for long enough.
    hurry: CancellationToken,
    traces: SinkTraces,
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
    /// The event was set aside, and what is in flight is its copy.
    copy: bool,
    /// The client took it, so its ack is the far end's answer.
    taken: bool,
    /// When it was handed over, where its trace is sampled and its span has not ended.
    began: Option<Instant>,
    ack: Ack,
}

impl InFlight {
    /// It is no event, but its agent's state alone.
    fn is_state(&self) -> bool {
        self.message.as_ref().is_some_and(Message::is_state)
    }

    /// Its span ends here, if it has one that has not.
    fn end_span(&mut self, traces: &SinkTraces, error: Option<&DeliveryError>) {
        if let (Some(began), Some(message)) = (self.began.take(), &self.message) {
            traces.ended(message, self.offset, began, error);
        }
    }
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

impl Waiting {
    /// The mark of a record of which nothing is handed over.
    fn nothing(offset: u64, received_at: Timestamp) -> Waiting {
        Waiting { offset, ends_record: true, received_at, message: None, replay: None }
    }
}

/// One life of the client: what was read, what is under way.
struct Flow {
    next: u64,
    /// The newest request to deliver a dead letter again that was read.
    replayed_to: u64,
    /// The offset after the newest record of which anything was handed over.
    published_to: u64,
    /// Bytes of what is in flight, about.
    bytes: usize,
    waiting: VecDeque<Waiting>,
    /// The record whose events wait last goes on at this place.
    rest: Option<(Arc<Record>, Place)>,
    in_flight: VecDeque<InFlight>,
    /// Something could not be handed over: nothing more is, so that nothing overtakes it.
    blocked: bool,
    /// The last event that was handed over has others of its record behind it.
    in_record: bool,
    last_progress: Instant,
    /// When it was last looked for something to do.
    last_look: Instant,
    /// What the client has said of why nothing is confirmed, since something last was, and when it was last asked.
    complaint: Option<String>,
    last_asked: Instant,
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
        let meter = Meter::new(&config.sink, metrics);
        let (tries, traces) = (Tries::default(), SinkTraces::default());
        let (hurry, window) = (CancellationToken::new(), Window::new(config.window));
        let (settled, settled_of_letter) = (None, None);
        Worker {
            config,
            sink,
            spool,
            reader,
            meter,
            clock,
            stop,
            backoff,
            tries,
            window,
            settled,
            settled_of_letter,
            hurry,
            traces,
        }
    }

    /// The same worker, which in a stop goes on no longer than until this is cancelled, also in the middle of a record.
    #[must_use]
    pub fn hurried(self, hurry: CancellationToken) -> Worker {
        Worker { hurry, ..self }
    }

    /// The same worker, which takes down what it does.
    #[must_use]
    pub fn traced(self, traces: SinkTraces) -> Worker {
        Worker { traces, ..self }
    }

    /// Delivers until the stop, then waits for what is in flight and closes the sink.
    pub async fn run(mut self) {
        loop {
            self.meter.state(if self.backoff.tries() == 0 { State::Delivering } else { State::Retrying });
            match self.deliver().await {
                Ended::Stopped => break,
                Ended::Retry(error) => {
                    if !self.recover(&error).await {
                        break;
                    }
                }
                Ended::Broken(error) => {
                    self.failed(&error);
                    self.meter.state(State::Stopped);
                    self.meter.in_flight(0);
                    tracing::error!(sink = %self.config.sink, reason = error.reason, %error, "this sink has stopped and waits for a person; the others go on");
                    self.stop.cancelled().await;
                    break;
                }
            }
        }
        self.sink.close().await;
        tracing::info!(sink = %self.config.sink, spool_offset = self.reader.cursor(), "sink closed");
    }

    fn failed(&self, error: &DeliveryError) {
        self.meter.failed(error);
        self.config.troubles.note(&self.config.sink, error, self.clock.now());
    }

    /// A new client, after a wait. Not before: what connects at once finds a broker away that is back at the end of the wait, and
    /// drives out another that has the same id. False when the daemon stops.
    async fn recover(&mut self, error: &DeliveryError) -> bool {
        let sink = self.config.sink.clone();
        self.failed(error);
        self.meter.state(State::Retrying);
        self.meter.retried(error);
        self.meter.in_flight(0);
        self.window.failed();
        let wait = self.backoff.next_wait();
        tracing::warn!(%sink, reason = error.reason, %error, attempt = self.backoff.tries(), wait_secs = wait.as_secs_f64(), spool_offset = self.reader.cursor(), "delivery failed; trying again from the cursor");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => return false,
        }
        match or_stopped((&self.stop, &self.hurry), &sink, self.sink.reset()).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::warn!(%sink, reason = error.reason, %error, "the client cannot be made anew yet");
                true
            }
            None => false,
        }
    }

    async fn deliver(&mut self) -> Ended {
        let mut flow = Flow::new(self.reader.cursor());
        let mut end = self.spool.end();
        loop {
            if let Err(ended) = self.advance(&mut flow, &mut end).await {
                self.tries.life_ended(self.reader.cursor(), flow.published_to);
                self.end_spans(&mut flow, &ended);
                return ended;
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
        if stopping && self.hurry.is_cancelled() {
            return Err(self.ended_in_haste(flow));
        }
        // The cursor knows whole records only: one that was begun goes to its end also in a stop, or all of it came again after it.
        let room = flow.has_room(self.window.open()) && (!stopping || flow.in_record);
        if room && flow.waiting.is_empty() && flow.rest.is_some() {
            self.go_on(flow).await?;
        } else if room && !stopping && flow.waiting.is_empty() {
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
        self.flush(flow).await?;
        flow.pace(self.window.open()).await;
        if flow.in_flight.is_empty() {
            if stopping {
                return Err(Ended::Stopped);
            }
            if self.reader.cursor() >= *end.borrow() {
                // What failed before does not wait any more, whatever became of it.
                self.recovered(self.reader.cursor());
            }
            tokio::select! {
                // The spool's sender is gone only when the daemon is ending.
                changed = end.changed() => if changed.is_err() { self.stop.cancelled().await },
                error = self.sink.trouble() => self.failed(&error),
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
        let given_up = Instant::now() + STOP_PATIENCE;
        // A far end that confirms within this time is well, whatever its client said before.
        let asked = flow.last_progress.max(flow.last_asked) + COMPLAINTS;
        let result = tokio::select! {
            biased;
            result = &mut front.ack => result,
            () = tokio::time::sleep_until(asked), if !stopping && asked < stalled => {
                self.hear(flow);
                return Ok(());
            }
            changed = end.changed(), if room => {
                return if changed.is_ok() { Ok(()) } else { Err(Ended::Stopped) };
            }
            () = self.stop.cancelled(), if !stopping => return Ok(()),
            // Said with the next step.
            () = self.hurry.cancelled(), if stopping => return Ok(()),
            () = tokio::time::sleep_until(given_up), if stopping => {
                let events = flow.in_flight.len();
                tracing::warn!(sink = %self.config.sink, events, spool_offset = self.reader.cursor(), "no confirmation while stopping: what is in flight stays in the spool");
                return Err(Ended::Stopped);
            }
            () = tokio::time::sleep_until(stalled) => {
                self.hear(flow);
                let silence = self.config.stall_timeout.as_secs();
                let said = flow.complaint.take().map(|said| format!(": {said}")).unwrap_or_default();
                let detail = format!("no confirmation for {silence} s{said}");
                return Err(DeliveryError::retry("stalled", detail).into());
            }
        };
        self.settle(flow, result).await
    }

    /// The stop has no more time, however well the far end confirms: what is left of a long record is too much for it.
    fn ended_in_haste(&self, flow: &Flow) -> Ended {
        let (events, spool_offset) = (flow.in_flight.len(), self.reader.cursor());
        if events > 0 || flow.in_record {
            tracing::warn!(sink = %self.config.sink, events, spool_offset, "the stop has no more time for this sink: what is not confirmed stays in the spool, and a record that was begun comes again whole");
        }
        Ended::Stopped
    }

    /// Shows for people what the client says of why nothing is confirmed, once: it is no failure of a delivery, which goes on.
    fn hear(&self, flow: &mut Flow) {
        flow.last_asked = Instant::now();
        let Some(error) = self.sink.complaint() else { return };
        if flow.complaint.as_ref() != Some(&error.detail) {
            self.config.troubles.note(&self.config.sink, &error, self.clock.now());
            flow.complaint = Some(error.detail);
        }
    }

    /// The event on its way to this sink; or its agent's state alone, where the sink retains that and no route speaks of the
    /// event: what is retained would be wrong until the next change otherwise.
    fn message(
        &self,
        router: &Router,
        event: Arc<Event>,
        trace: Option<TraceContext>,
        replay: bool,
    ) -> Option<Message> {
        let is_news = event.data.agent.changed && !replay;
        if is_news
            && router.leaves_out(&event)
            && let Some(topic) = self.sink.state_topic(&event)
        {
            return Some(Message { event, topic, purpose: Purpose::State, trace });
        }
        let (topic, event) = router.route(event)?;
        let purpose = if replay { Purpose::Replay } else { Purpose::Delivery };
        Some(Message { event, topic, purpose, trace })
    }

    /// Dead letters that are to be delivered again. What cannot be read even now stays a dead letter.
    async fn read_replays(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        let newest = self.reader.replay_to();
        let replays = self.reader.replays(flow.replayed_to, READ_REPLAYS).await;
        let replays = replays.map_err(|error| DeliveryError::retry("spool", error.to_string()))?;
        let mut all = replays.len() < READ_REPLAYS;
        for Replay { number, letter } in replays {
            if flow.is_full() {
                all = false;
                break;
            }
            flow.replayed_to = number;
            let stored = &letter.stored;
            let replay = ReplayOf { letter: stored.id, whole: stored.letter.event_id.is_empty() };
            match letter.events(self.spool.id()) {
                Ok(events) => {
                    let (offset, at) = (stored.letter.spool_offset, stored.letter.at);
                    let mut events = events.into_iter().map(Arc::new).collect();
                    if replay.whole {
                        leave_out_settled(self.settled_of_letter.as_ref(), stored.id, &mut events);
                    }
                    if self.queue(flow, (offset, at), events, Some(replay), true) == 0 {
                        let detail = "no route sends the event to this sink any more";
                        let error = DeliveryError::dead_letter("not_routed", detail);
                        self.settle_replay(replay.letter, Some(error)).await?;
                    }
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
        self.meter.replayed(name);
        Ok(())
    }

    async fn publish(&mut self, flow: &mut Flow, waiting: Waiting) -> Result<(), Ended> {
        let Waiting { offset, ends_record, received_at, message, replay } = waiting;
        if replay.is_none() {
            flow.published_to = flow.published_to.max(offset + 1);
            if message.is_some() && self.tries.of(offset) > 1 {
                self.meter.published_again();
            }
        }
        let began = message.as_ref().and_then(|message| self.traces.begin(message));
        let mut taken = false;
        let ack: Ack = match &message {
            None => Box::pin(std::future::ready(Ok(()))),
            Some(message) => match self.hand_over(message).await? {
                Ok(ack) => {
                    taken = true;
                    ack
                }
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
        flow.bytes += message.as_ref().map_or(0, weight);
        flow.in_record = !ends_record;
        let copy = false;
        let event = InFlight { offset, ends_record, received_at, message, replay, copy, taken, began, ack };
        flow.in_flight.push_back(event);
        self.meter.in_flight(flow.in_flight.len());
        Ok(())
    }

    /// Hands a message to the sink, unless the daemon stops and it has no room for it.
    async fn hand_over(&mut self, message: &Message) -> Result<Result<Ack, DeliveryError>, Ended> {
        let ends = (&self.stop, &self.hurry);
        let published = or_stopped(ends, &self.config.sink, self.sink.publish(message)).await;
        published.ok_or(Ended::Stopped)
    }

    /// Has the sink write out what it holds, for which it has as long as for a confirmation. What has come to be confirmed when that
    /// fails is settled all the same, so that it does not come again.
    async fn flush(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        let flushed = self.write_out().await;
        if flushed.is_err() {
            while let Some(Some(Ok(()))) =
                flow.in_flight.front_mut().map(|front| (&mut front.ack).now_or_never())
            {
                self.settle(flow, Ok(())).await?;
            }
        }
        flushed
    }

    async fn write_out(&mut self) -> Result<(), Ended> {
        let limit = self.config.stall_timeout;
        let late = |_| {
            let detail = format!("what was to be written was not taken for {} s", limit.as_secs());
            Err(DeliveryError::retry("stalled", detail))
        };
        let flushed = tokio::time::timeout(limit, self.sink.flush());
        let ends = (&self.stop, &self.hurry);
        let flushed = or_stopped(ends, &self.config.sink, flushed).await.ok_or(Ended::Stopped)?;
        Ok(flushed.unwrap_or_else(late)?)
    }

    /// The first event in flight has its result.
    async fn settle(&mut self, flow: &mut Flow, result: Result<(), DeliveryError>) -> Result<(), Ended> {
        let Some(front) = flow.in_flight.front_mut() else { return Ok(()) };
        front.end_span(&self.traces, result.as_ref().err());
        let front = &*front;
        let (ends_record, offset, replay) = (front.ends_record, front.offset, front.replay);
        let answered = front.taken;
        let mut again = None;
        match result {
            Ok(()) if front.copy => self.meter.copied(Copied::Confirmed),
            Ok(()) => self.count_success(front),
            Err(error) if error.disposition == Disposition::DeadLetter && front.is_state() => {
                self.failed(&error);
                tracing::warn!(sink = %self.config.sink, spool_offset = offset, reason = error.reason, %error, "an agent's state cannot be retained; no event is lost");
            }
            Err(error) if error.disposition == Disposition::DeadLetter && front.copy => {
                self.failed(&error);
                self.meter.copied(Copied::GivenUp);
                tracing::warn!(sink = %self.config.sink, spool_offset = offset, reason = error.reason, %error, "the copy of a dead letter is given up; the dead letter itself is stored");
            }
            Err(error)
                if error.disposition == Disposition::DeadLetter && replay.is_some_and(|r| !r.whole) =>
            {
                self.failed(&error);
                again = Some(error);
            }
            // It is counted as shed, and there is no record any more of which a letter could have a copy.
            Err(error)
                if error.disposition == Disposition::DeadLetter
                    && replay.is_none()
                    && offset < self.reader.cursor() =>
            {
                self.failed(&error);
                tracing::warn!(sink = %self.config.sink, spool_offset = offset, reason = error.reason, %error, "an event is refused that was given up with its record meanwhile");
            }
            Err(error) if error.disposition == Disposition::DeadLetter => {
                self.failed(&error);
                let (copy, letter) = (self.copy_of(front, &error), self.letter_of(front, error));
                self.set_aside(letter).await?;
                if let Some(copy) = copy {
                    return self.publish_copy(flow, copy).await;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(replay) = replay.filter(|_| ends_record) {
            self.settle_replay(replay.letter, again).await?;
        }
        // Not before: a replay of which that cannot be stored comes again.
        if answered {
            self.window.answered();
            self.recovered(offset);
        }
        if replay.is_none() && ends_record {
            self.reader.confirm(offset + 1);
        }
        let settled = flow.in_flight.pop_front().and_then(|front| front.message);
        flow.bytes = flow.bytes.saturating_sub(settled.as_ref().map_or(0, weight));
        let newest = settled.filter(|_| !ends_record).map(|message| message.event.id.clone());
        match replay {
            None => self.settled = newest.map(|id| (offset, id)),
            Some(ReplayOf { letter, whole: true }) => self.settled_of_letter = newest.map(|id| (letter, id)),
            Some(_) => {}
        }
        (flow.last_progress, flow.complaint) = (Instant::now(), None);
        self.meter.in_flight(flow.in_flight.len());
        Ok(())
    }

    /// What is in flight will come again, and each try is a span of its own.
    fn end_spans(&self, flow: &mut Flow, ended: &Ended) {
        let stopped = || DeliveryError::retry("stopping", "not confirmed before the stop");
        let error = match ended {
            Ended::Retry(error) | Ended::Broken(error) => error,
            Ended::Stopped => &stopped(),
        };
        for event in &mut flow.in_flight {
            event.end_span(&self.traces, Some(error));
        }
    }

    /// The far end has answered what was in flight, if only with a refusal for good, and that is settled; or nothing waits for it
    /// any more.
    fn recovered(&mut self, spool_offset: u64) {
        if self.backoff.tries() > 0 {
            self.backoff.reset();
            self.meter.state(State::Delivering);
            tracing::info!(sink = %self.config.sink, spool_offset, "delivering again");
        }
    }

    fn count_success(&self, event: &InFlight) {
        if event.message.is_none() || event.is_state() {
            return;
        }
        let live = event.replay.is_none();
        self.meter.delivered(live.then(|| self.clock.now().since(event.received_at).as_secs_f64()));
    }

    /// The copy of an event that is being set aside, where copies are wanted. What was too large goes without its content.
    fn copy_of(&self, event: &InFlight, error: &DeliveryError) -> Option<Message> {
        let (topic, message) = (self.config.dead_letter_topic.as_ref()?, event.message.as_ref()?);
        let note = CopyNote {
            reason: error.reason,
            topic: message.topic.clone(),
            sink: self.config.sink.as_str().into(),
            at: self.clock.now(),
        };
        let mut copied = message.event.clone();
        if error.reason == TOO_LARGE {
            let event = Arc::make_mut(&mut copied);
            let empty = EventData::new(event.gateway.clone(), event.agent_id.clone());
            event.data = EventData { agent: event.data.agent.clone(), ..empty };
        }
        let topic = topic.render(&copied);
        let trace = message.trace;
        Some(Message { event: copied, topic, purpose: Purpose::Copy(Arc::new(note)), trace })
    }

    /// Publishes the copy of the event in front, which keeps its place: the cursor waits for both.
    async fn publish_copy(&mut self, flow: &mut Flow, copy: Message) -> Result<(), Ended> {
        let published = self.hand_over(&copy).await?;
        flow.blocked |= published.as_ref().is_err_and(|error| error.disposition != Disposition::DeadLetter);
        if let Some(front) = flow.in_flight.front_mut() {
            (front.copy, front.taken) = (true, published.is_ok());
            front.ack = published.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))));
        }
        flow.last_progress = Instant::now();
        Ok(())
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
            attempts: self.tries.of(event.offset),
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
        flow.waiting.push_back(Waiting::nothing(offset, received_at));
        Ok(())
    }

    async fn set_aside(&mut self, letter: DeadLetter) -> Result<(), Ended> {
        let stored = self.spool.dead_letter(letter.clone()).await;
        let new = stored.map_err(|error| DeliveryError::retry("dead_letter_storage", error.to_string()))?;
        // One comes here again for as long as its copy cannot go, and after a restart.
        if new {
            let DeadLetter { sink, spool_offset, event_id, topic, reason, detail, .. } = &letter;
            tracing::error!(%sink, spool_offset, event_id, topic, reason, error = detail, "an event cannot be delivered and is set aside");
            self.meter.set_aside(reason);
        }
        Ok(())
    }
}

impl Flow {
    /// One that begins at this offset.
    fn new(next: u64) -> Flow {
        Flow {
            next,
            replayed_to: 0,
            published_to: 0,
            bytes: 0,
            waiting: VecDeque::new(),
            rest: None,
            in_flight: VecDeque::new(),
            blocked: false,
            in_record: false,
            last_progress: Instant::now(),
            last_look: Instant::now(),
            complaint: None,
            last_asked: Instant::now(),
        }
    }

    /// Whether so many events wait that no more are made.
    fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_WAITING || self.rest.is_some()
    }

    /// Whether one more event may be in flight.
    fn has_room(&self, window: usize) -> bool {
        !self.blocked && self.in_flight.len() < window && self.bytes < WINDOW_BYTES
    }

    /// Lets a moment pass since the last look, so that what comes meanwhile, records and confirmations, is dealt with
    /// together: to be woken for each costs more than the rest. Not when the window fills up: then it is the broker who would
    /// be kept waiting.
    async fn pace(&mut self, window: usize) {
        if self.last_look.elapsed() < PACE && self.in_flight.len() < window / 2 {
            tokio::time::sleep(PACE).await;
        }
        self.last_look = Instant::now();
    }
}

/// Waits for a sink, and while the daemon stops no longer than for a confirmation. None when it is not done then: what was asked
/// of it is dropped, so it can only be closed.
async fn or_stopped<T>(
    (stop, hurry): (&CancellationToken, &CancellationToken),
    sink: &str,
    work: impl Future<Output = T>,
) -> Option<T> {
    let given_up = async {
        stop.cancelled().await;
        // Over or not, it is time.
        drop(tokio::time::timeout(STOP_PATIENCE, hurry.cancelled()).await);
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = given_up => {
            tracing::warn!(sink, "the client does not go on while stopping: what is not confirmed stays in the spool");
            None
        }
    }
}

/// Of the events of a record those are left out that were settled before one behind them failed, where these are its own.
fn leave_out_settled(settled: Option<&(u64, String)>, of: u64, events: &mut Vec<Arc<Event>>) {
    let Some((_, settled)) = settled.filter(|(owner, _)| *owner == of) else { return };
    if let Some(last) = events.iter().position(|event| event.id == *settled) {
        events.drain(..=last);
    }
}

/// Bytes that an event takes up in flight, about: its content is held verbatim.
fn weight(message: &Message) -> usize {
    let raw = &message.event.data.raw;
    let content = [&raw.content, &raw.event].into_iter().flatten().map(|json| json.as_str().len());
    content.sum::<usize>() + EVENT_BYTES
}

#[cfg(test)]
mod tests;
