use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::request::RequestIds;
use crate::sink::testing::message;

/// What some event says of its trace.
pub(crate) fn context() -> TraceContext {
    let ids = RecordIds::of("k3v9", 70);
    TraceContext { trace: ids.trace, parent: ids.root, sampled: true }
}

fn metrics() -> Metrics {
    Metrics::new(["main"], [("bus", &[][..])]).unwrap()
}

/// What traces take down, read from the other end.
pub(crate) struct Taken(mpsc::Receiver<Span>);

/// Traces without an exporter.
pub(crate) fn traces(ratio: f64, spool_id: &str) -> (Traces, Taken) {
    traces_with(ratio, spool_id, 4096, &metrics())
}

/// The reasons of publishes that have ended since the last time, and none of those that were confirmed.
pub(crate) fn taken(Taken(spans): &mut Taken) -> Vec<Option<&'static str>> {
    let ended = std::iter::from_fn(|| spans.try_recv().ok()).filter_map(|span| match span.what {
        What::Publish(publish) => Some(publish.fault.map(|(reason, _)| reason)),
        _ => None,
    });
    ended.collect()
}

fn traces_with(ratio: f64, spool_id: &str, room: usize, metrics: &Metrics) -> (Traces, Taken) {
    let (queue, spans) = mpsc::channel(room);
    let recorder = Recorder {
        spool_id: spool_id.into(),
        sampler: Sampler::new(ratio),
        queue,
        dropped: metrics.trace_spans.with_label_values(&["dropped"]),
        clock: Clock::manual(Timestamp(1_784_529_723_000)),
        calm: Calm::default(),
    };
    (Traces { on: Some(Arc::new(recorder)) }, Taken(spans))
}

fn request(uri: &str) -> Request<()> {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Request::post(uri).header(TRACEPARENT, traceparent).header("service_token", "hush").body(()).unwrap()
}

fn push(traces: &Traces, offset: u64, began: Instant) {
    let incoming = traces.incoming(&request("/push/main?token=hush"));
    let peer = ([192, 0, 2, 7], 4711).into();
    let push = StoredPush { offset, events: 2, request_id: RequestIds::default().next(), peer, began };
    traces.appended(offset, Some(began));
    traces.pushed(incoming, &push);
}

/// Every span of one push to a sink, as they are sent.
async fn written() -> Vec<Value> {
    let (traces, Taken(mut spans)) = traces(1.0, "k3v9");
    let began = Instant::now();
    tokio::time::advance(Duration::from_micros(1500)).await;
    push(&traces, 70, began);
    let sink = traces.of_sink("bus", Some("kafka"));
    let message = Message { trace: sink.context(70), ..message("101", 1) };
    let handed_over = sink.begin(&message).unwrap();
    tokio::time::advance(Duration::from_millis(2)).await;
    sink.ended(&message, 70, handed_over, None);
    sink.ended(&message, 70, handed_over, Some(&DeliveryError::dead_letter("too_large", "9 bytes")));
    traces.recorded("poll", &message.event.gateway, 71, Some(handed_over));
    let mut batch = Vec::new();
    while let Ok(span) = spans.try_recv() {
        batch.push(span);
    }
    let resource = otlp::Resource::new([("service.name".to_owned(), "ccrelay".to_owned())]);
    let body = otlp::encode(&resource, &batch);
    assert!(!String::from_utf8_lossy(&body).contains("hush"));
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    let name = json!({ "key": "service.name", "value": { "stringValue": "ccrelay" } });
    assert_eq!(body["resourceSpans"][0]["resource"], json!({ "attributes": [name] }));
    let scope = &body["resourceSpans"][0]["scopeSpans"][0]["scope"];
    assert_eq!(*scope, json!({ "name": "ccrelay", "version": env!("CARGO_PKG_VERSION") }));
    serde_json::from_value(body["resourceSpans"][0]["scopeSpans"][0]["spans"].take()).unwrap()
}

fn attribute(span: &Value, key: &str) -> Option<String> {
    let attributes = span["attributes"].as_array().unwrap();
    let value = &attributes.iter().find(|attribute| attribute["key"] == key)?["value"];
    value["stringValue"].as_str().or(value["intValue"].as_str()).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_push_its_way_to_the_disk_and_its_publishing_are_one_trace() {
    let spans = written().await;
    let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["spool append", "push", "publish bus", "publish bus", "spool append", "poll"]);
    let (append, push, publish, failed, poll) = (&spans[0], &spans[1], &spans[2], &spans[3], &spans[5]);
    let context = context().traceparent();
    let expected =
        format!("00-{}-{}-01", push["traceId"].as_str().unwrap(), push["spanId"].as_str().unwrap());
    assert_eq!(context, expected, "what events say");
    assert_eq!(push.get("parentSpanId"), None);
    for child in [append, publish, failed] {
        assert_eq!((&child["traceId"], &child["parentSpanId"]), (&push["traceId"], &push["spanId"]));
    }
    let ids: HashSet<_> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    assert_eq!(ids.len() + 1, spans.len(), "but for the one that was ended twice: {ids:?}");
    assert_eq!([&push["kind"], &append["kind"], &publish["kind"]], [&json!(2), &json!(1), &json!(4)]);
    assert_eq!(poll.get("parentSpanId"), None);
    assert_ne!(poll["traceId"], push["traceId"]);
}

#[tokio::test(start_paused = true)]
async fn spans_say_when_how_long_and_what() {
    let spans = written().await;
    let (push, publish, failed) = (&spans[1], &spans[2], &spans[3]);
    // A manual clock stands still, so all end at one time.
    assert_eq!(push["endTimeUnixNano"], "1784529723000000000");
    assert_eq!(push["startTimeUnixNano"], "1784529722998500000");
    assert_eq!(publish["startTimeUnixNano"], "1784529722998000000");
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/push/main"),
        ("http.response.status_code", "200"),
        ("network.peer.address", "192.0.2.7"),
        ("ccrelay.gateway", "main"),
        ("ccrelay.events", "2"),
        ("ccrelay.spool_offset", "70"),
    ] {
        assert_eq!(attribute(push, key).as_deref(), Some(value), "{key}");
    }
    assert!(attribute(push, "ccrelay.request_id").unwrap().contains('-'));
    let other =
        json!([{ "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "flags": 1 }]);
    assert_eq!(push["links"], other);
    for (key, value) in [
        ("messaging.system", "kafka"),
        ("messaging.destination.name", "events"),
        ("messaging.operation.type", "send"),
        ("messaging.message.id", "101-1"),
        ("ccrelay.sink", "bus"),
    ] {
        assert_eq!(attribute(publish, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!((publish.get("status"), attribute(publish, "error.type")), (None, None));
    assert_eq!(failed["status"], json!({ "code": 2, "message": "too_large: 9 bytes" }));
    assert_eq!(attribute(failed, "error.type").as_deref(), Some("too_large"));
}

#[tokio::test]
async fn only_sampled_records_have_spans_and_every_event_says_whether_its_own_has() {
    let (traces, Taken(mut spans)) = traces(0.5, "k3v9");
    let sink = traces.of_sink("bus", None);
    let mut flagged = HashSet::new();
    for offset in 0..200 {
        push(&traces, offset, Instant::now());
        let context = traces.context(offset).unwrap();
        let message = Message { trace: Some(context), ..message("101", offset) };
        assert_eq!(sink.begin(&message).is_some(), context.sampled);
        if context.traceparent().ends_with("-01") {
            flagged.insert(offset);
        }
    }
    let mut sent = HashSet::new();
    while let Ok(span) = spans.try_recv() {
        sent.insert(span.offset);
    }
    assert_eq!(sent, flagged);
    assert!((60..140).contains(&sent.len()), "{}", sent.len());
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let metrics = metrics();
    let (traces, Taken(mut spans)) = traces_with(1.0, "k3v9", 4, &metrics);
    for offset in 0..5 {
        push(&traces, offset, Instant::now());
    }
    let dropped = || metrics.trace_spans.with_label_values(&["dropped"]).get();
    assert_eq!((spans.len(), dropped()), (4, 6));
    spans.close();
    push(&traces, 5, Instant::now());
    assert_eq!(dropped(), 8);
}

#[test]
fn traces_that_are_off_take_nothing_down() {
    let traces = Traces::default();
    assert_eq!((traces.context(70), traces.begin()), (None, None));
    assert!(traces.incoming(&request("/push/main")).is_none());
    let sink = traces.of_sink("bus", None);
    assert_eq!((sink.context(70), sink.begin(&message("101", 1))), (None, None));
    // Somebody else's mark does not turn them on.
    let marked = Message { trace: Some(context()), ..message("101", 1) };
    assert_eq!(sink.begin(&marked), None);
}

#[test]
fn the_collectors_word_on_what_it_has_not_kept_is_understood() {
    for (answer, rejected) in [
        ("{}", 0),
        ("", 0),
        ("not json", 0),
        (r#"{"partialSuccess":{}}"#, 0),
        (r#"{"partialSuccess":null}"#, 0),
        (r#"{"partialSuccess":{"rejectedSpans":"7","errorMessage":"x"}}"#, 7),
        (r#"{"partialSuccess":{"rejectedSpans":7}}"#, 7),
        (r#"{"partialSuccess":{"rejectedSpans":"many"}}"#, 0),
    ] {
        assert_eq!(otlp::rejected(answer.as_bytes()), rejected, "{answer}");
    }
}

mod settings {
    use std::path::Path;

    use super::super::config::{RawTraces, TracesConfig};
    use crate::config::Problems;

    fn read(text: &str, folder: &Path) -> Result<TracesConfig, Vec<String>> {
        let raw: RawTraces = toml::from_str(&text.replace("FOLDER", &folder.display().to_string())).unwrap();
        let mut problems = Problems::default();
        let config = raw.validate(&mut problems);
        let found: Vec<_> =
            problems.found().iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
        if found.is_empty() { Ok(config.expect("it is on")) } else { Err(found) }
    }

    #[test]
    fn without_an_endpoint_traces_are_off() {
        let mut problems = Problems::default();
        assert!(RawTraces::default().validate(&mut problems).is_none());
        assert!(problems.found().is_empty());
    }

    #[test]
    fn the_path_for_traces_is_added_to_the_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector.example/", "http://collector.example/v1/traces"),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces"),
        ] {
            let config = read(&format!("endpoint = '{endpoint}'"), folder.path()).unwrap();
            assert_eq!((config.url.as_str(), config.resource["service.name"].as_str()), (url, "ccrelay"));
        }
    }

    #[test]
    fn all_mistakes_are_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("headers"), "# mine\n\nauthorization: Bearer hush\nhush\n")
            .unwrap();
        let text = "endpoint = 'https://c.example'\nsample_ratio = 1.5\ntimeout_secs = 0\nservice_name = ''\n\
                    headers_file = 'FOLDER/headers'\nca_file = 'FOLDER/none'\n\
                    resource_attributes = { 'service.name' = 'x' }";
        let found = read(text, folder.path()).unwrap_err();
        let at = folder.path().display();
        for expected in [
            "traces.sample_ratio: must be between 0 and 1".to_owned(),
            "traces.timeout_secs: must be between 1 and 60".to_owned(),
            "traces.service_name: must not be empty".to_owned(),
            "traces.resource_attributes.\"service.name\": is what service_name is for".to_owned(),
            format!(
                "traces.headers_file: line 4 of {at}/headers is not a header that can be added; expected name: value"
            ),
            format!("traces.ca_file: no certificate of an authority can be read from {at}/none: "),
        ] {
            assert!(found.iter().any(|found| found.starts_with(&expected)), "{expected}\n{found:#?}");
        }
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(!found.concat().contains("hush"));
        for (endpoint, expected) in [
            ("collector:4318", "expected http:// or https://, host, port and perhaps a path"),
            ("grpc://c.example:4317", "expected http:// or https://, host, port and perhaps a path"),
            ("http://c.example?token=hush", "expected http:// or https://, host, port and perhaps a path"),
            ("http://me:hush@c.example", "must not hold a password: headers_file can"),
            ("http://c.example/v1/traces", "/v1/traces is added to it by ccrelay"),
        ] {
            let found = read(&format!("endpoint = '{endpoint}'"), folder.path()).unwrap_err();
            assert_eq!(found, [format!("traces.endpoint: {expected}")]);
        }
        for (text, expected) in [
            ("endpoint = 'https://c.example'", "is required with https://"),
            ("endpoint = 'http://c.example'\nca_file = 'FOLDER/ca'", "has no meaning with http://"),
        ] {
            let found = read(text, folder.path()).unwrap_err();
            assert!(found[0] == format!("traces.ca_file: {expected}"), "{found:#?}");
        }
    }

    #[test]
    fn headers_that_change_what_a_request_is_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for line in ["content-type: x", "Host: x", "no colon", ": x", "a b: x"] {
            std::fs::write(folder.path().join("headers"), line).unwrap();
            let found = read("endpoint = 'http://c'\nheaders_file = 'FOLDER/headers'", folder.path());
            assert!(found.unwrap_err()[0].contains("line 1"), "{line}");
        }
    }
}
