//! Spans as OTLP asks for them: an `ExportTraceServiceRequest` in the JSON mapping of protobuf (OTLP 1.x, "JSON Protobuf
//! Encoding": ids in hexadecimal, 64-bit numbers as texts). Attributes are those of OpenTelemetry's semantic conventions
//! for HTTP and messaging, and ours, which begin with `ccrelay.`.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::span::{Publish, Push, Span, What};
use crate::hex::hex;
use crate::receive::PUSH_PATH;

/// Where OTLP/HTTP takes traces, below the collector's address.
pub(super) const PATH: &str = "/v1/traces";
/// One span has about so many bytes.
const SPAN_BYTES: usize = 900;

// SpanKind and StatusCode of opentelemetry.proto.trace.v1.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const PRODUCER: u8 = 4;
const ERROR: u8 = 2;
/// The flag of W3C Trace Context: whatever is sent is sampled.
const SAMPLED: u32 = 1;

/// Who the spans are of.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Resource {
    attributes: Vec<Attribute<'static>>,
}

impl Resource {
    pub(super) fn new(attributes: impl IntoIterator<Item = (String, String)>) -> Resource {
        let attribute = |(key, value)| Attribute { key: Cow::Owned(key), value: Value::text(value) };
        Resource { attributes: attributes.into_iter().map(attribute).collect() }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Attribute<'a> {
    key: Cow<'static, str>,
    value: Value<'a>,
}

#[derive(Debug, Clone, Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(Cow<'a, str>),
    #[serde(rename = "intValue")]
    Number(String),
}

impl<'a> Value<'a> {
    fn text(text: impl Into<Cow<'a, str>>) -> Value<'a> {
        Value::Text(text.into())
    }

    fn number(number: u64) -> Value<'a> {
        Value::Number(number.to_string())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: &'a Resource,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<SpanDocument<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanDocument<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: Cow<'a, str>,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<[Link; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    trace_id: String,
    span_id: String,
    flags: u32,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u8,
    message: Cow<'a, str>,
}

/// The body of a request that brings these spans.
pub(super) fn encode(resource: &Resource, spans: &[Span]) -> Bytes {
    let scope = Scope { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
    let spans: Vec<_> = spans.iter().map(SpanDocument::of).collect();
    let mut json = Vec::with_capacity(spans.len() * SPAN_BYTES);
    let scope_spans = [ScopeSpans { scope, spans }];
    let request = Request { resource_spans: [ResourceSpans { resource, scope_spans }] };
    serde_json::to_writer(&mut json, &request)
        .expect("writing to memory cannot fail, and the types have no maps");
    json.into()
}

impl<'a> SpanDocument<'a> {
    fn of(span: &'a Span) -> SpanDocument<'a> {
        let (name, kind, mut attributes) = match &span.what {
            What::Push(push) => ("push".into(), SERVER, of_push(push)),
            What::Record { name, gateway } => {
                ((*name).into(), INTERNAL, vec![text("ccrelay.gateway", gateway.as_str())])
            }
            What::Append => ("spool append".into(), INTERNAL, Vec::new()),
            What::Publish(publish) => {
                (format!("publish {}", publish.sink).into(), PRODUCER, of_publish(publish))
            }
        };
        attributes.push(number("ccrelay.spool_offset", span.offset));
        SpanDocument {
            trace_id: hex(&span.trace),
            span_id: hex(&span.id),
            parent_span_id: span.parent.map(|parent| hex(&parent)),
            flags: SAMPLED,
            name,
            kind,
            start_time_unix_nano: span.begin.to_string(),
            end_time_unix_nano: span.end.to_string(),
            attributes,
            links: link(&span.what).map(|link| [link]),
            status: fault(&span.what),
        }
    }
}

fn link(what: &What) -> Option<Link> {
    let What::Push(push) = what else { return None };
    let other = push.link?;
    Some(Link {
        trace_id: hex(&other.trace),
        span_id: hex(&other.parent),
        flags: u32::from(other.sampled) * SAMPLED,
    })
}

fn fault(what: &What) -> Option<Status<'_>> {
    let What::Publish(publish) = what else { return None };
    let (reason, detail) = publish.fault.as_ref()?;
    Some(Status { code: ERROR, message: format!("{reason}: {detail}").into() })
}

fn text<'a>(key: &'static str, value: impl Into<Cow<'a, str>>) -> Attribute<'a> {
    Attribute { key: key.into(), value: Value::text(value) }
}

fn number<'a>(key: &'static str, value: u64) -> Attribute<'a> {
    Attribute { key: key.into(), value: Value::number(value) }
}

/// A push that was stored was answered with 200; others have no span.
fn of_push(push: &Push) -> Vec<Attribute<'_>> {
    vec![
        text("http.request.method", "POST"),
        text("http.route", format!("{PUSH_PATH}{{gateway}}")),
        text("url.scheme", "https"),
        text("url.path", &*push.path),
        number("http.response.status_code", 200),
        text("network.peer.address", push.peer.ip().to_string()),
        number("network.peer.port", push.peer.port().into()),
        text("ccrelay.gateway", push.path.strip_prefix(PUSH_PATH).unwrap_or_default()),
        text("ccrelay.request_id", push.request_id.to_string()),
        number("ccrelay.events", push.events as u64),
    ]
}

fn of_publish(publish: &Publish) -> Vec<Attribute<'_>> {
    let mut attributes =
        vec![text("ccrelay.sink", &*publish.sink), text("messaging.message.id", &*publish.event_id)];
    if let Some(system) = publish.system {
        attributes.extend([
            text("messaging.system", system),
            text("messaging.destination.name", &*publish.topic),
            text("messaging.operation.name", "publish"),
            text("messaging.operation.type", "send"),
        ]);
    }
    if let Some((reason, _)) = &publish.fault {
        attributes.push(text("error.type", *reason));
    }
    attributes
}

/// How many spans the collector says it has not kept, of those in a request that it took.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Answer {
        partial_success: Option<Partial>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Partial {
        rejected_spans: Option<Count>,
    }
    /// 64-bit numbers are texts, and a reader of this mapping takes both.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(u64),
        Text(String),
    }
    let answer: Answer = serde_json::from_slice(answer).unwrap_or_default();
    match answer.partial_success.and_then(|partial| partial.rejected_spans) {
        Some(Count::Number(number)) => number,
        Some(Count::Text(text)) => text.parse().unwrap_or(0),
        None => 0,
    }
}
