//! One librdkafka producer with its poll thread, and the acks that wait for its delivery reports.
//!
//! The acks live in a table of ours ([`Acks`]), not behind pointers inside librdkafka as with `FutureProducer`: so
//! they can all be resolved at once, whatever becomes of the producer. After the first failure that asks for a retry
//! the client is **spent**: it takes nothing more and purges what it holds, because a later record of the same agent
//! must not overtake the failed one. Only a new client goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use tokio::sync::{Notify, oneshot};

use super::acks::{Acks, Outcome};
use super::complaint::Complaint;
use super::config::KafkaConfig;
use super::encode::Encoded;
use super::failure::{classify, classify_fatal};
use crate::calm::Calm;
use crate::sink::on_error::OnError;
use crate::sink::{DeliveryError, Disposition};

/// How often the poll thread looks whether it should end or nothing moves. Delivery reports wake it at once.
const POLL_TICK: Duration = Duration::from_millis(100);

/// Between two looks at delivery reports, so that those of several batches are dealt with together.
const PACE: Duration = Duration::from_millis(1);
/// After so many looks at nothing new it waits to be woken.
const LOOKS_IN_VAIN: u32 = 20;

/// What librdkafka says comes at one calm rate.
const LOG_KIND: &str = "librdkafka";

/// A producer and its poll thread.
pub(super) struct Client {
    producer: Arc<BaseProducer<Context>>,
    acks: Arc<Acks>,
    stop: Arc<AtomicBool>,
}

/// Why a record was not taken.
pub(super) enum Refusal {
    /// librdkafka's queue is full: wait for [`Client::progress`] and try again.
    QueueFull,
    /// What the caller of `publish` must hear.
    Failed(DeliveryError),
}

impl Client {
    /// Makes a producer and starts its poll thread. `solo` says that its batches hold one record each.
    pub(super) fn start(
        sink: &Arc<str>,
        properties: &ClientConfig,
        solo: bool,
        config: &KafkaConfig,
    ) -> Result<Client, DeliveryError> {
        let acks = Arc::new(Acks::new(solo));
        let context = Context {
            sink: sink.clone(),
            acks: acks.clone(),
            on_error: config.on_error.clone(),
            producer: OnceLock::new(),
            calm: Calm::default(),
            complaint: Complaint::default(),
        };
        let producer: BaseProducer<Context> = properties
            .create_with_context(context)
            .map_err(|error| DeliveryError::retry("client", error.to_string()))?;
        let producer = Arc::new(producer);
        // Cannot be set already: the context is new.
        drop(producer.context().producer.set(Arc::downgrade(&producer)));
        let stop = Arc::new(AtomicBool::new(false));
        let poller = Poller {
            producer: producer.clone(),
            acks: acks.clone(),
            stop: stop.clone(),
            stall_timeout: config.stall_timeout,
        };
        std::thread::Builder::new()
            .name(format!("kafka-{sink}"))
            .spawn(move || poller.run())
            .map_err(|error| DeliveryError::retry("client", format!("no poll thread: {error}")))?;
        Ok(Client { producer, acks, stop })
    }

    /// Hands one record to librdkafka, which copies it but for the headers: they are gone from `encoded` once it is taken.
    pub(super) fn send(
        &self,
        topic: &str,
        key: &str,
        encoded: &mut Encoded,
    ) -> Result<oneshot::Receiver<Outcome>, Refusal> {
        let (number, outcome) = self.acks.expect().map_err(Refusal::Failed)?;
        let mut record = BaseRecord::with_opaque_to(topic, number)
            .key(key)
            .payload(&encoded.payload[..])
            .timestamp(encoded.timestamp);
        record.headers = encoded.headers.take();
        let Err((error, refused)) = self.producer.send(record) else { return Ok(outcome) };
        encoded.headers = refused.headers;
        self.acks.forget(number);
        if matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
            return Err(Refusal::QueueFull);
        }
        Err(Refusal::Failed(self.producer.context().sort(&error, true)))
    }

    /// Notified whenever an ack resolves.
    pub(super) fn progress(&self) -> &Notify {
        self.acks.progress()
    }

    /// How many records await their delivery report.
    pub(super) fn unresolved(&self) -> usize {
        self.acks.unresolved()
    }

    /// Why the client is spent, if it is.
    pub(super) fn failure(&self) -> Option<DeliveryError> {
        self.acks.failure()
    }

    /// What the library said lately of why it does not reach its brokers.
    pub(super) fn complaint(&self) -> Option<String> {
        self.producer.context().complaint.lately(Instant::now())
    }

    /// How many records, from the oldest that must go again, had been taken when the client was spent.
    pub(super) fn to_go_again(&self) -> usize {
        self.acks.to_go_again()
    }

    /// Whether the broker has refused a record as too large that was alone in its batch.
    pub(super) fn refused_alone(&self) -> bool {
        self.acks.refused_alone()
    }

    /// Gives up: every ack that waits resolves to an error. Blocks for a moment; what blocks for longer (the end of
    /// connections, of librdkafka's threads) is left to the poll thread. Nor does it wait until those threads have purged what
    /// they hold: one that looks up a broker's name does not for as long as the resolver is silent.
    pub(super) fn abandon(self) {
        self.acks.fail(DeliveryError::retry("reset", "the client was reset before the broker confirmed"));
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

impl Drop for Client {
    /// The poll thread holds the other reference: it sees the flag and lets the producer go.
    fn drop(&mut self) {
        self.acks.fail(DeliveryError::retry("reset", "the client was dropped before the broker confirmed"));
        self.stop.store(true, Ordering::Release);
    }
}

/// What runs on the poll thread. Should it ever end, by a panic too, no ack is left behind.
struct Poller {
    producer: Arc<BaseProducer<Context>>,
    acks: Arc<Acks>,
    stop: Arc<AtomicBool>,
    stall_timeout: Duration,
}

impl Poller {
    fn run(self) {
        while !self.stop.load(Ordering::Acquire) {
            self.take_reports();
            if self.acks.stalled(self.stall_timeout) {
                let context = self.producer.context();
                let said = context.complaint.lately(Instant::now()).map(|said| format!(": {said}"));
                let silence = self.stall_timeout.as_secs();
                let detail = format!("no delivery report for {silence} s{}", said.unwrap_or_default());
                context.spend(DeliveryError::retry("stalled", detail));
            }
        }
    }
}

impl Poller {
    /// Deals with delivery reports. While they keep coming it looks for them from time to time and is woken for none of them,
    /// which is far cheaper under load; then it waits for one.
    fn take_reports(&self) {
        let mut in_vain = 0;
        while in_vain < LOOKS_IN_VAIN && self.acks.unresolved() > 0 && !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(PACE);
            in_vain = if self.take_those_there() { 0 } else { in_vain + 1 };
        }
        self.producer.poll(POLL_TICK);
    }

    /// Whether there were any.
    fn take_those_there(&self) -> bool {
        let (begin, mut before) = (self.acks.resolved(), None);
        let mut now = begin;
        // A poll deals with one batch of them.
        while before != Some(now) {
            before = Some(now);
            self.producer.poll(Duration::ZERO);
            now = self.acks.resolved();
        }
        now != begin
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.acks.fail(DeliveryError::retry("client", "the poll thread has ended"));
    }
}

/// What librdkafka calls: on the poll thread for reports and errors, on its own threads for logs.
struct Context {
    sink: Arc<str>,
    acks: Arc<Acks>,
    on_error: Arc<OnError>,
    /// The producer that this is the context of, to purge it.
    producer: OnceLock<Weak<BaseProducer<Context>>>,
    calm: Calm,
    complaint: Complaint,
}

impl Context {
    /// What a failed send or delivery leads to.
    fn sort(&self, error: &KafkaError, alone: bool) -> DeliveryError {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.fatal(&error.to_string()),
            _ => self.on_error.of_message(classify(error, alone)),
        }
    }

    /// What it leads to that the client has failed for good. That alone says nothing: librdkafka tells when asked what it was.
    fn fatal(&self, detail: &str) -> DeliveryError {
        let producer = self.producer.get().and_then(Weak::upgrade);
        let (code, reason) = producer.and_then(|producer| producer.client().fatal_error()).unzip();
        self.on_error.of_connection(classify_fatal(code, reason.as_deref().unwrap_or(detail)))
    }

    fn spend(&self, error: DeliveryError) {
        if self.acks.fail(error) {
            self.purge();
        }
    }

    fn purge(&self) {
        if let Some(producer) = self.producer.get().and_then(Weak::upgrade) {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error, Warning};
        let sink = &*self.sink;
        if !matches!(level, Emerg | Alert | Critical | Error | Warning) {
            tracing::debug!(sink, facility, detail = message, "librdkafka");
        } else if let Some(suppressed) = self.calm.due(LOG_KIND) {
            tracing::warn!(sink, facility, detail = message, suppressed, "librdkafka");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::{Authentication, Fatal, SSL};
        let sink = &*self.sink;
        if let Some(suppressed) = self.calm.due(LOG_KIND) {
            tracing::warn!(sink, %error, reason, suppressed, "the Kafka client has a problem");
        }
        match error.rdkafka_error_code() {
            Some(Fatal) => self.spend(self.fatal(reason)),
            Some(Authentication) => {
                let error = DeliveryError::retry("not_authorised", reason);
                self.spend(self.on_error.of_connection(error));
            }
            Some(SSL) => self.spend(DeliveryError::retry("tls", reason)),
            // The rest librdkafka mends by itself, without a time limit: slow is not failed.
            code => self.complaint.note(code, reason, Instant::now()),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(_) => self.acks.resolve(number, Ok(())),
            Err((error, _)) => {
                let error = self.sort(error, self.acks.solo());
                if error.reason == "too_large" {
                    self.acks.note_refused_alone();
                }
                if error.disposition == Disposition::DeadLetter {
                    self.acks.resolve(number, Err(error));
                } else if self.acks.fail_with_record(error) {
                    self.purge();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    fn context(acks: &Arc<Acks>, on_error: OnError) -> Context {
        Context {
            sink: "kafka".into(),
            acks: acks.clone(),
            on_error: Arc::new(on_error),
            producer: OnceLock::new(),
            calm: Calm::default(),
            complaint: Complaint::default(),
        }
    }

    #[test]
    fn a_user_without_any_right_is_told_of_and_no_record_is_to_blame() {
        let cluster = MockCluster::new(1).unwrap();
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied; 10]);
        let acks = Arc::new(Acks::new(false));
        let on_error = OnError::new([("not_authorised", Disposition::DeadLetter)]);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("enable.idempotence", "true");
        let producer: BaseProducer<Context> = config.create_with_context(context(&acks, on_error)).unwrap();
        let producer = Arc::new(producer);
        producer.context().producer.set(Arc::downgrade(&producer)).unwrap();
        let failed = || producer.client().fatal_error().is_some();
        assert!((0..2000).any(|_| failed() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }));
        let error = producer.context().sort(&KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), true);
        assert_eq!((error.reason, error.disposition), ("not_authorised", Disposition::Retry), "{error}");
    }

    #[test]
    fn the_end_of_the_poll_thread_leaves_no_ack_behind() {
        let acks = Arc::new(Acks::new(false));
        let context = context(&acks, OnError::default());
        let producer = ClientConfig::new().create_with_context(context).unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let poller = Poller {
            producer: Arc::new(producer),
            acks: acks.clone(),
            stop,
            stall_timeout: Duration::from_secs(1),
        };
        let (_, mut waiting) = acks.expect().unwrap();
        drop(poller);
        assert_eq!(waiting.try_recv().unwrap().unwrap_err().reason, "client");
    }
}
