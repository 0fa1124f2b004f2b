//! Bodies: what is stored whatever it means, and what is not a push at all.

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::in_process::{TestRelay, answer, good, request, with_headers};
use crate::support::{DEADLINE, eventually};

const REFUSED: (u16, &str) = (400, "000-006");

#[tokio::test(flavor = "multi_thread")]
async fn pushes_of_both_shapes_are_stored_and_answered_with_success() {
    let relay = TestRelay::start().await;
    let legacy = r#"{"message":"","retcode":"0","event":{"eventType":"AgentState_Ready","workNo":"1001","content":null}}"#;
    for body in [good("1001").as_str(), legacy] {
        let before = relay.stored();
        let answer = relay.push("1001", body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, r#"{"message":"success","retcode":"0"}"#);
        assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{}", answer.head);
        assert_eq!(relay.stored(), before + 1);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_names_nobody_is_the_agents_whose_token_came_with_it() {
    let relay = TestRelay::start().await;
    let begun =
        r#"{"message":"","retcode":"0","event":{"eventType":"AgentOther_BeQcStart","content":{"qcType":8}}}"#;
    let answer = relay.push("1001", begun).await;
    assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"));
    let published =
        eventually("the event published", DEADLINE, || async { relay.published().first().cloned() }).await;
    assert_eq!(published["subject"], "1001");
    // Events that name somebody are theirs or nobody's.
    let other = r#"{"event":{"eventType":"AgentState_Ready","workNo":"1002"}}"#;
    relay.assert_refused(request(&relay.token("1001"), other), (403, "000-003"), "other_agent").await;
    let both = r#"{"eventList":[{"workNo":"1001"},{"workNo":"1002"}]}"#;
    relay.assert_refused(request(&relay.token("1001"), both), REFUSED, "no_work_no").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pushes_come_on_one_connection() {
    let relay = TestRelay::start().await;
    let mut stream = relay.connect().await;
    let before = relay.stored();
    for _ in 0..10 {
        stream.write_all(&request(&relay.token("1001"), good("1001"))).await.expect("it reads");
        assert_eq!(answer(&mut stream).await.expect("an answer").status, 200);
    }
    assert_eq!(relay.stored(), before + 10);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_however_odd_are_stored_and_published() {
    let relay = TestRelay::start().await;
    let events = [
        (r#"{"eventType":"AgentState_Ready","content":null}"#, "ccrelay.agent."),
        (r#"{"eventType":"AgentState_Ready","content":""}"#, "ccrelay.agent."),
        (r#"{"eventType":"AgentState_Ready"}"#, "ccrelay.agent."),
        (r#"{"eventType":"AgentEvent_Ringing","content":"a bare string"}"#, "ccrelay.call."),
        (r#"{"eventType":"AgentEvent_Ringing","content":[1,2]}"#, "ccrelay.call."),
        (r#"{"eventType":"Brand_New","content":{"a":1}}"#, "ccrelay.unknown"),
        (r#"{"content":{"a":1}}"#, "ccrelay.unknown"),
        ("17", "ccrelay.unknown"),
    ];
    for (event, _) in events {
        let answer = relay.push("1001", format!(r#"{{"workNo":"1001","eventList":[{event}]}}"#)).await;
        assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{event}");
    }
    let published = eventually("all events published", DEADLINE, || async {
        Some(relay.published()).filter(|published| published.len() >= events.len())
    })
    .await;
    for ((event, prefix), published) in events.iter().zip(&published) {
        let found = published["type"].as_str().expect("a type");
        assert!(found.starts_with(prefix), "{event} became {found}");
    }
    assert_eq!(published.len(), events.len());
    assert_eq!(relay.metric("ccrelay_events_total{category=\"unknown\"}").await, 3.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_peer_goes_before_the_answer_has_failed_and_its_events_count_if_they_are_stored() {
    let relay = TestRelay::start().await;
    let before = relay.stored();
    let gone = "ccrelay_push_failures_total{reason=\"peer_gone\"}";
    // Now and then the answer is out before the end of the connection is seen.
    eventually("a push without a peer", DEADLINE, || async {
        let mut stream = relay.connect().await;
        stream.write_all(&request(&relay.token("1001"), good("1001"))).await.expect("it reads");
        drop(stream);
        (relay.metric(gone).await >= 1.0).then_some(())
    })
    .await;
    // One after them is stored after them.
    assert_eq!(relay.push("1001", good("1001")).await.retcode(), "0");
    eventually("all stored events counted", DEADLINE, || async {
        let counted = relay.metric("ccrelay_events_total{category=\"agent-state\"}").await;
        (counted == (relay.stored() - before) as f64).then_some(())
    })
    .await;
    let refused = relay.metric("ccrelay_push_duration_seconds_count{outcome=\"refused\"}").await;
    assert_eq!(refused, relay.metric(gone).await, "each of them has taken its time");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_events_is_a_success() {
    let relay = TestRelay::start().await;
    for body in
        [r#"{"workNo":"1001","eventList":[]}"#, r#"{"workNo":1001,"eventList":null}"#, r#"{"workNo":"1001"}"#]
    {
        let answer = relay.push("1001", body).await;
        assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{body}");
    }
    relay.assert_takes_a_good_push().await;
    eventually("the push after them published", DEADLINE, || async {
        (relay.published().len() == 1).then_some(())
    })
    .await;
    relay.stop().await;
}

/// Pushes an event whose content has these bytes, and gives what is published of it after `before` others.
async fn published_of(relay: &TestRelay, before: usize, content_type: &str, content: &[u8]) -> Value {
    let head = &b"{\"workNo\":\"1001\",\"eventList\":[{\"eventType\":\"Brand_New\",\"content\":\""[..];
    let body = [head, content, b"\"}]}"].concat();
    let (token, length) = (relay.token("1001"), body.len());
    let headers =
        format!("service_token: {token}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n");
    let answer = relay.send(with_headers(&headers, &body)).await.expect("an answer");
    assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{content_type}");
    let published = || async { relay.published().get(before).cloned() };
    eventually("the event published", DEADLINE, published).await["data"]["raw"]["content"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_in_gbk_is_published_with_its_text_whether_it_says_so_or_not() {
    let relay = TestRelay::start().await;
    let types = ["application/json; charset=GBK", "application/json;charset=UTF-8"];
    for (n, content_type) in types.into_iter().enumerate() {
        let text = published_of(&relay, n, content_type, b"\xc4\xe3\xba\xc3").await;
        assert_eq!(text, "\u{4f60}\u{597d}", "{content_type}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_a_broken_character_is_published_with_the_rest_of_its_text() {
    let relay = TestRelay::start().await;
    let cut = ["\u{738b}\u{5c0f}".as_bytes(), b"\xe4\xbd"].concat();
    for (n, content_type) in ["application/json; charset=UTF-8", "application/json"].into_iter().enumerate() {
        let text = published_of(&relay, n, content_type, &cut).await;
        assert_eq!(text, "\u{738b}\u{5c0f}\u{fffd}", "{content_type}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_push_is_refused() {
    let relay = TestRelay::start().await;
    let whole = good("1001");
    let nul = whole.replace("AgentState_Ready", "Agent\0");
    let bomb = format!("{{\"workNo\":\"1001\",\"eventList\":{}", "[".repeat(200_000));
    let objects = r#"{"a":"#.repeat(50_000);
    let bad: [(&[u8], &str); 9] = [
        (b"", "not_json"),
        (b"hello", "not_json"),
        (&whole.as_bytes()[..whole.len() - 1], "not_json"),
        (nul.as_bytes(), "not_json"),
        (bomb.as_bytes(), "not_json"),
        (objects.as_bytes(), "not_json"),
        (b"{\"workNo\":\"1001\"} {}", "not_json"),
        (b"{\"eventList\":[]}", "no_work_no"),
        (b"[1]", "no_work_no"),
    ];
    for (body, reason) in bad {
        relay.assert_refused(request(&relay.token("1001"), body), REFUSED, reason).await;
    }
    let mut broken = whole.into_bytes();
    broken[12] = 0xe4;
    // A name with a broken character is not the agent's.
    relay.assert_refused(request(&relay.token("1001"), broken), (403, "000-003"), "other_agent").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_refused() {
    let relay = TestRelay::start().await;
    for encoding in ["gzip", "br", "gzip, identity"] {
        let headers = format!(
            "service_token: {}\r\ncontent-encoding: {encoding}\r\ncontent-length: 4\r\n",
            relay.token("1001")
        );
        relay
            .assert_refused(with_headers(&headers, b"\x1f\x8b\0\0"), (415, "000-006"), "encoding_unsupported")
            .await;
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_by_its_declared_and_by_its_true_length() {
    let relay = TestRelay::with("max_body_bytes = 4096", "").await;
    let token = format!("service_token: {}\r\n", relay.token("1001"));
    let declared = format!("{token}content-length: 4097\r\n");
    relay.assert_refused(with_headers(&declared, b""), (413, "000-006"), "too_large").await;
    let declared = format!("{token}content-length: 18446744073709551610\r\n");
    let answer = relay.send(with_headers(&declared, b"")).await.expect("an answer");
    assert!(answer.status == 413 || answer.status == 400, "{answer:?}");
    let chunked = format!("{token}transfer-encoding: chunked\r\n");
    let body = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    relay.assert_refused(with_headers(&chunked, body.as_bytes()), (413, "000-006"), "too_large").await;
    // As large as allowed is not too large.
    let good = good("1001");
    let largest = format!("{good}{}", " ".repeat(4096 - good.len()));
    assert_eq!(relay.push("1001", largest).await.status, 200);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_more_events_than_any_gateway_has_is_refused_and_a_long_one_delivered() {
    let relay = TestRelay::start().await;
    let body = |count: usize| format!(r#"{{"workNo":"1001","eventList":[0{}]}}"#, ",0".repeat(count - 1));
    let refused = request(&relay.token("1001"), body(10_001));
    relay.assert_refused(refused, (413, "000-006"), "too_large").await;
    assert_eq!(relay.push("1001", body(3000)).await.status, 200);
    eventually("all events published", DEADLINE, || async {
        Some(relay.published().len()).filter(|published| *published >= 3000)
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_taken_and_a_broken_one_refused() {
    let relay = TestRelay::start().await;
    let headers = format!("service_token: {}\r\ntransfer-encoding: chunked\r\n", relay.token("1001"));
    let good = good("1001");
    let chunked = format!("{:x}\r\n{good}\r\n0\r\n\r\n", good.len());
    let answer = relay.send(with_headers(&headers, chunked.as_bytes())).await.expect("an answer");
    assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"));
    relay.assert_refused(with_headers(&headers, b"zz\r\nxx\r\n0\r\n\r\n"), REFUSED, "body_broken").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_with_the_connection_is_not_stored() {
    let relay = TestRelay::start().await;
    let before = relay.stored();
    let mut stream = relay.connect().await;
    let whole = request(&relay.token("1001"), good("1001"));
    stream.write_all(&whole[..whole.len() - 5]).await.expect("it reads");
    stream.shutdown().await.expect("a close");
    drop(stream);
    let series = "ccrelay_push_failures_total{reason=\"body_broken\"}";
    eventually(series, DEADLINE, || async { (relay.metric(series).await == 1.0).then_some(()) }).await;
    assert_eq!(relay.stored(), before);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_refused_in_time() {
    let relay = TestRelay::with("body_timeout_secs = 1", "").await;
    let headers = format!("service_token: {}\r\ncontent-length: 100\r\n", relay.token("1001"));
    relay.assert_refused(with_headers(&headers, b"{\"workNo\""), (408, "000-006"), "body_timeout").await;
    relay.stop().await;
}
