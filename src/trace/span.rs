//! What a span says, before it is written down.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ids::{SpanId, TraceContext, TraceId};
use crate::event::GatewayName;
use crate::request::RequestId;

/// One span, ended. Times are nanoseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) begin: u64,
    pub(super) end: u64,
    /// The record that it is about.
    pub(super) offset: u64,
    pub(super) what: What,
}

/// What a span is about.
#[derive(Debug)]
pub(super) enum What {
    /// A push, from its head to the answer.
    Push(Box<Push>),
    /// Another record than a push: where it comes from.
    Record { name: &'static str, gateway: GatewayName },
    /// From the spool's queue to the disk.
    Append,
    /// One try to publish an event.
    Publish(Box<Publish>),
}

#[derive(Debug)]
pub(super) struct Push {
    pub(super) path: String,
    pub(super) request_id: RequestId,
    pub(super) peer: SocketAddr,
    pub(super) events: usize,
    /// The trace that the request says it belongs to.
    pub(super) link: Option<TraceContext>,
}

#[derive(Debug)]
pub(super) struct Publish {
    pub(super) sink: Arc<str>,
    /// The broker's kind, in OpenTelemetry's words; none of a file.
    pub(super) system: Option<&'static str>,
    pub(super) topic: Arc<str>,
    pub(super) event_id: String,
    /// Why the event was not confirmed: a short name, and what the client library said.
    pub(super) fault: Option<(&'static str, String)>,
}
