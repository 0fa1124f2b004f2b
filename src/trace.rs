//! Traces for OpenTelemetry, off by default: a push from its head to the answer, its way to the disk, and each event's way
//! to each sink; and `traceparent` in the events.
//!
//! - **Whose trace.** Each record of the spool has a trace of its own, whose ids follow from the record's place
//!   (`ids`). The span of the push is its root; what `traceparent` of an event names is that span, on every sink.
//! - **Nobody waits for a trace.** Ended spans go into a bounded queue; when it is full they are dropped and counted.
//!   `export` takes them out on a thread of its own.
//! - **Off costs nothing**: there is no queue then, no thread, and a look at one `Option`.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Request;
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::calm::Calm;
use crate::clock::Clock;
use crate::event::GatewayName;
use crate::metrics::Metrics;
use crate::request::RequestId;
use crate::sink::{DeliveryError, Message};

mod collector;
pub mod config;
mod export;
mod ids;
mod otlp;
mod span;

pub use collector::FileFault;
use config::TracesConfig;
pub use export::{Exporter, StartError};
pub use ids::{PATTERN, TRACEPARENT, TraceContext};
use ids::{RecordIds, Sampler, SpanId, TraceId};
use span::{Publish, Push, Span, What};

/// Spans that wait for the exporter. Each has some hundred bytes; at full load this is a fraction of a second.
const QUEUE_SPANS: usize = 8192;

/// Takes down what happens. Cloning is cheap; the default one is off.
#[derive(Clone, Default)]
pub struct Traces {
    on: Option<Arc<Recorder>>,
}

struct Recorder {
    spool_id: Arc<str>,
    sampler: Sampler,
    queue: mpsc::Sender<Span>,
    dropped: IntCounter,
    clock: Clock,
    calm: Calm,
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Traces").field("on", &self.on.is_some()).finish()
    }
}

/// What is kept of a request until it is known whether it is sampled.
#[derive(Debug)]
pub struct Incoming {
    path: String,
    link: Option<TraceContext>,
}

/// A push that was stored.
#[derive(Debug)]
pub struct StoredPush {
    /// Its record.
    pub offset: u64,
    /// Events in it.
    pub events: usize,
    /// Its name in the log.
    pub request_id: RequestId,
    /// Who sent it.
    pub peer: SocketAddr,
    /// When its head was there.
    pub began: Instant,
}

impl Traces {
    /// Traces as configured, of records of this spool, and what sends them.
    ///
    /// # Errors
    /// When a file cannot be used, or no thread can be made.
    pub fn start(
        config: &TracesConfig,
        spool_id: &str,
        metrics: &Metrics,
        clock: Clock,
    ) -> Result<(Traces, Exporter), StartError> {
        let (queue, spans) = mpsc::channel(QUEUE_SPANS);
        let exporter = Exporter::start(config, spool_id, spans, metrics)?;
        let recorder = Recorder {
            spool_id: spool_id.into(),
            sampler: Sampler::new(config.sample_ratio),
            queue,
            dropped: metrics.trace_spans.with_label_values(&["dropped"]),
            clock,
            calm: Calm::default(),
        };
        Ok((Traces { on: Some(Arc::new(recorder)) }, exporter))
    }

    /// What events of this record say of their trace; nothing while traces are off.
    #[must_use]
    pub fn context(&self, offset: u64) -> Option<TraceContext> {
        Some(self.on.as_ref()?.context(offset))
    }

    /// The beginning of a span.
    #[must_use]
    pub fn begin(&self) -> Option<Instant> {
        self.on.as_ref().map(|_| Instant::now())
    }

    /// What a push says, before its body is read. Never its query, where older gateways put the token.
    #[must_use]
    pub fn incoming<B>(&self, request: &Request<B>) -> Option<Incoming> {
        self.on.as_ref()?;
        let link = TraceContext::of_request(request.headers());
        Some(Incoming { path: request.uri().path().to_owned(), link })
    }

    /// A push was stored and its answer leaves.
    pub fn pushed(&self, incoming: Option<Incoming>, push: &StoredPush) {
        let (Some(on), Some(Incoming { path, link })) = (&self.on, incoming) else { return };
        let Some(ids) = on.sampled(push.offset) else { return };
        let &StoredPush { offset, events, request_id, peer, began } = push;
        let push = Push { path, request_id, peer, events, link };
        on.record((ids.trace, ids.root, None), offset, began, What::Push(Box::new(push)));
    }

    /// A record is on the disk that was queued at `queued`.
    pub fn appended(&self, offset: u64, queued: Option<Instant>) {
        let (Some(on), Some(queued)) = (&self.on, queued) else { return };
        let Some(ids) = on.sampled(offset) else { return };
        on.record((ids.trace, ids.append, Some(ids.root)), offset, queued, What::Append);
    }

    /// The same of a record that no push has brought, with the span that is in the place of the push.
    pub fn recorded(&self, name: &'static str, gateway: &GatewayName, offset: u64, queued: Option<Instant>) {
        self.appended(offset, queued);
        let (Some(on), Some(queued)) = (&self.on, queued) else { return };
        let Some(ids) = on.sampled(offset) else { return };
        let what = What::Record { name, gateway: gateway.clone() };
        on.record((ids.trace, ids.root, None), offset, queued, what);
    }

    /// Takes down what one sink does; `system` is the broker's kind, in OpenTelemetry's words.
    #[must_use]
    pub fn of_sink(&self, sink: &str, system: Option<&'static str>) -> SinkTraces {
        SinkTraces { traces: self.clone(), sink: sink.into(), system }
    }
}

impl Recorder {
    fn context(&self, offset: u64) -> TraceContext {
        let ids = RecordIds::of(&self.spool_id, offset);
        TraceContext { trace: ids.trace, parent: ids.root, sampled: self.sampler.takes(&ids.trace) }
    }

    /// The ids of a record whose trace is sampled.
    fn sampled(&self, offset: u64) -> Option<RecordIds> {
        let ids = RecordIds::of(&self.spool_id, offset);
        self.sampler.takes(&ids.trace).then_some(ids)
    }

    /// A span that ends now.
    fn record(
        &self,
        (trace, id, parent): (TraceId, SpanId, Option<SpanId>),
        offset: u64,
        began: Instant,
        what: What,
    ) {
        let (begin, end) = self.times(began);
        self.send(Span { trace, id, parent, begin, end, offset, what });
    }

    /// Wall time of the end, which is now, and so of the begin: what is in between is measured.
    fn times(&self, began: Instant) -> (u64, u64) {
        let end = self.clock.nanos();
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (end.saturating_sub(took), end)
    }

    fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
            if let Some(left_out) = self.calm.due("dropped") {
                tracing::warn!(left_out, "spans are dropped: too many wait for the collector");
            }
        }
    }
}

/// Takes down what one sink does. The default one is off.
#[derive(Debug, Clone, Default)]
pub struct SinkTraces {
    traces: Traces,
    sink: Arc<str>,
    system: Option<&'static str>,
}

impl SinkTraces {
    /// What events of this record say of their trace; nothing while traces are off.
    #[must_use]
    pub fn context(&self, offset: u64) -> Option<TraceContext> {
        self.traces.context(offset)
    }

    /// The message is about to be handed over. None when its trace is not sampled.
    #[must_use]
    pub fn begin(&self, message: &Message) -> Option<Instant> {
        message.trace.filter(|trace| trace.sampled).and_then(|_| self.traces.begin())
    }

    /// What became of a message that was handed over at `began`.
    pub fn ended(&self, message: &Message, offset: u64, began: Instant, error: Option<&DeliveryError>) {
        let (Some(on), Some(trace)) = (&self.traces.on, message.trace) else { return };
        let (begin, end) = on.times(began);
        let publish = Publish {
            sink: self.sink.clone(),
            system: self.system,
            topic: message.topic.clone(),
            event_id: message.event.id.clone(),
            fault: error.map(|error| (error.reason, error.detail.clone())),
        };
        let id = ids::of_publish(&trace.trace, &self.sink, &publish.event_id, begin);
        let (parent, what) = (Some(trace.parent), What::Publish(Box::new(publish)));
        on.send(Span { trace: trace.trace, id, parent, begin, end, offset, what });
    }
}

#[cfg(test)]
pub(crate) mod tests;
