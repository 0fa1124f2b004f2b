//! Traces of a whole relay, and a collector that takes them, refuses them or is away.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::collector::{Answer, Collector, Span};
use crate::support::in_process::{TestRelay, good, with_headers};
use crate::support::{DEADLINE, eventually, free_port};

const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A relay with traces to this address, and further keys of `[traces]`.
async fn relay(endpoint: &str, keys: &str) -> TestRelay {
    let tables = format!("[traces]\nendpoint = '{endpoint}'\n{keys}\n");
    TestRelay::with_operations(|_| tables).await
}

/// Two events in one push.
fn two(agent: &str) -> String {
    good(agent).replace("}]}", r#"},{"eventType":"AgentState_Busy","content":null}]}"#)
}

/// Waits until the sink has written so many events.
async fn published(relay: &TestRelay, count: usize) -> Vec<Value> {
    eventually(&format!("{count} events"), DEADLINE, || async {
        let events = relay.published();
        (events.len() >= count).then_some(events)
    })
    .await
}

async fn push(relay: &TestRelay, body: &str) {
    let answer = relay.push("1001", body).await;
    assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{answer:?}");
}

fn counted(relay: &TestRelay, outcome: &str) -> u64 {
    relay.counters().trace_spans.with_label_values(&[outcome]).get()
}

async fn counts(relay: &TestRelay, outcome: &str, spans: u64) {
    eventually(&format!("{spans} spans {outcome}"), DEADLINE, || async {
        (counted(relay, outcome) >= spans).then_some(())
    })
    .await;
}

fn traceparent(event: &Value) -> &str {
    event["traceparent"].as_str().unwrap_or_else(|| panic!("no traceparent: {event}"))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_one_trace_from_its_head_over_the_disk_to_the_sink() {
    let collector = Collector::start().await;
    let keys = "service_name = 'relay-7'\nresource_attributes = { 'deployment.environment.name' = 'test' }";
    let relay = relay(&collector.url("http"), keys).await;
    let token = relay.token("1001");
    let body = two("1001");
    let headers =
        format!("service_token: {token}\r\ntraceparent: {OTHER}\r\ncontent-length: {}\r\n", body.len());
    let answer = relay.send(with_headers(&headers, body.as_bytes())).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let events = published(&relay, 2).await;
    let spans = collector.has(4).await;
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let ([push], [append], publishes) =
        (&named(&spans, "push")[..], &named(&spans, "spool append")[..], named(&spans, "publish file"))
    else {
        panic!("{spans:#?}")
    };
    assert_eq!((publishes.len(), &push.parent), (2, &None));
    for child in publishes.iter().copied().chain([*append]) {
        assert_eq!((&child.trace, child.parent.as_ref()), (&push.trace, Some(&push.id)));
    }
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), 4);
    assert!(push.begin <= append.begin && append.begin < append.end && append.end <= push.end, "{spans:#?}");
    let mut published: Vec<_> =
        publishes.iter().map(|span| span.attributes["messaging.message.id"].as_str()).collect();
    published.sort_unstable();
    for (event, id) in events.iter().zip(published) {
        assert_eq!(traceparent(event), format!("00-{}-{}-01", push.trace, push.id));
        assert_eq!(event["id"], id);
    }
    for publish in publishes {
        assert!(publish.begin >= append.begin && publish.begin < publish.end && !publish.is_failed());
        assert_eq!(publish.attributes["ccrelay.sink"], "file");
    }
    assert_eq!(push.attributes["url.path"], "/push/main");
    assert_eq!(push.whole["links"][0]["traceId"], OTHER[3..35]);
    assert_eq!(push.whole["links"][0]["spanId"], OTHER[36..52]);
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "relay-7");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert_eq!(resource["service.instance.id"], relay.spool().id());
    assert_eq!(counted(&relay, "exported"), 4);
    assert!(collector.heads()[0].starts_with("POST /v1/traces"));
    assert!(!collector.bodies().concat().contains(&token));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_an_older_gateway_is_in_no_span() {
    let collector = Collector::start().await;
    let relay = relay(&collector.url("http"), "").await;
    let (token, body) = (relay.token("1001"), good("1001"));
    let head = format!(
        "POST /push/main?token={token} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = relay.send(head + &body).await.expect("an answer");
    assert_eq!(answer.status, 200);
    collector.has(3).await;
    assert!(!collector.bodies().concat().contains(&token));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_say_of_each_push_whether_its_spans_are_sent() {
    const PUSHES: usize = 60;
    let collector = Collector::start().await;
    let relay = relay(&collector.url("http"), "sample_ratio = 0.5").await;
    for _ in 0..PUSHES {
        push(&relay, &good("1001")).await;
    }
    let events = published(&relay, PUSHES).await;
    let flagged: BTreeSet<_> = events
        .iter()
        .filter_map(|event| traceparent(event).strip_suffix("-01")?.get(3..35).map(str::to_owned))
        .collect();
    assert!(!flagged.is_empty() && flagged.len() < PUSHES, "{}", flagged.len());
    let metrics = relay.counters().clone();
    // The stop sends what still waits.
    relay.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3 * flagged.len());
    assert_eq!(spans.into_iter().map(|span| span.trace).collect::<BTreeSet<_>>(), flagged);
    assert_eq!(metrics.trace_spans.with_label_values(&["exported"]).get(), 3 * flagged.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_events_say_nothing_and_no_span_is_counted() {
    let relay = TestRelay::start().await;
    let body = good("1001");
    let headers = format!(
        "service_token: {}\r\ntraceparent: {OTHER}\r\ncontent-length: {}\r\n",
        relay.token("1001"),
        body.len()
    );
    let answer = relay.send(with_headers(&headers, body.as_bytes())).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let events = published(&relay, 1).await;
    assert_eq!(events[0].get("traceparent"), None);
    assert_eq!(["exported", "dropped", "failed"].map(|outcome| counted(&relay, outcome)), [0; 3]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_push_no_delivery_and_no_time_to_stop() {
    let relay = relay(&format!("http://127.0.0.1:{}", free_port()), "").await;
    for _ in 0..20 {
        push(&relay, &good("1001")).await;
    }
    published(&relay, 20).await;
    let (metrics, began) = (relay.counters().clone(), Instant::now());
    relay.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let counted = |outcome| metrics.trace_spans.with_label_values(&[outcome]).get();
    assert_eq!([counted("exported"), counted("dropped"), counted("failed")], [0, 0, 60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_costs_no_push_and_no_delivery() {
    let collector = Collector::start().await;
    collector.answer(Answer::Hang);
    let relay = relay(&collector.url("http"), "timeout_secs = 1").await;
    push(&relay, &good("1001")).await;
    collector.was_asked(1).await;
    for _ in 0..20 {
        push(&relay, &good("1001")).await;
    }
    published(&relay, 21).await;
    // It was given a second, and is asked again.
    collector.was_asked(2).await;
    collector.answer(Answer::Take);
    collector.has(63).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_collector_cannot_take_now_is_tried_again_and_what_it_refuses_is_counted() {
    let collector = Collector::start().await;
    let relay = relay(&collector.url("http"), "").await;
    for passing in [Answer::Refuse(503), Answer::Later(429, 1)] {
        let (asked, exported) = (collector.heads().len(), counted(&relay, "exported"));
        collector.answer(passing);
        push(&relay, &good("1001")).await;
        collector.was_asked(asked + 2).await;
        assert_eq!(counted(&relay, "exported"), exported);
        collector.answer(Answer::Take);
        counts(&relay, "exported", exported + 3).await;
    }
    assert_eq!(counted(&relay, "failed"), 0);
    let asked = collector.heads().len();
    collector.answer(Answer::Refuse(400));
    push(&relay, &good("1001")).await;
    counts(&relay, "failed", 3).await;
    let (exported, failed) = (counted(&relay, "exported"), counted(&relay, "failed"));
    collector.answer(Answer::Reject(1));
    push(&relay, &good("1001")).await;
    counts(&relay, "exported", exported + 1).await;
    counts(&relay, "failed", failed + 1).await;
    // Nobody waits for as long as this, and who asks for it stops nothing.
    collector.answer(Answer::Later(503, u64::MAX));
    push(&relay, &good("1001")).await;
    counts(&relay, "failed", failed + 4).await;
    collector.answer(Answer::Take);
    push(&relay, &good("1001")).await;
    counts(&relay, "exported", exported + 4).await;
    published(&relay, 6).await;
    assert!(collector.heads().len() > asked);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_gets_the_headers_of_the_file_as_it_is_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = crate::support::certificates::Certificates::create(folder.path());
    let collector = Collector::start_tls(&certificates).await;
    let headers = folder.path().join("headers");
    std::fs::write(&headers, "# of the vendor\nauthorization: Bearer one\nx-scope: tests\n")
        .expect("written");
    let keys = format!("ca_file = '{}'\nheaders_file = '{}'", certificates.ca.display(), headers.display());
    let relay = relay(&collector.url("https"), &keys).await;
    push(&relay, &good("1001")).await;
    collector.has(3).await;
    let head = collector.heads().pop().expect("a request");
    assert!(head.contains("Bearer one") && head.contains("\"x-scope\": \"tests\""), "{head}");
    // A file with a mistake leaves in force what was read before.
    for (text, expected) in [("nothing\n", "Bearer one"), ("authorization: Bearer three\n", "Bearer three")] {
        std::fs::write(&headers, text).expect("written");
        let asked = collector.heads().len();
        push(&relay, &good("1001")).await;
        collector.was_asked(asked + 1).await;
        let head = collector.heads().pop().expect("a request");
        assert!(head.contains(expected), "{text}{head}");
    }
    relay.stop().await;
}
