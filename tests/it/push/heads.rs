//! Heads: paths, methods, lengths, and attempts to exhaust or to confuse.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::in_process::{TestRelay, answer, good, request, rest, with_headers};

const UNKNOWN: (u16, &str) = (404, "000-002");

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_refused() {
    let relay = TestRelay::start().await;
    let whole = String::from_utf8(request(&relay.token("1001"), good("1001"))).expect("text");
    for path in
        ["/", "/push", "/push/", "/push/nobody", "/push/main//", "/push/MAIN", "/push/main%00", "/metrics"]
    {
        relay.assert_refused(whole.replace("/push/main", path), UNKNOWN, "not_found").await;
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let bytes = whole.replace("POST", method);
        relay.assert_refused(bytes, (405, "000-002"), "method_not_allowed").await;
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_or_a_slash_after_the_path_does_no_harm() {
    let relay = TestRelay::start().await;
    let whole = String::from_utf8(request(&relay.token("1001"), good("1001"))).expect("text");
    for path in ["/push/main?a=b", "/push/main/", "/push/main/?a=b"] {
        let answer = relay.send(whole.replace("/push/main", path)).await.expect("an answer");
        assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{path}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused_and_counted() {
    let relay = TestRelay::start().await;
    let stored = relay.stored();
    let many = (0..100).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = format!("x: {}\r\n", "y".repeat(9000));
    for (count, headers) in [many, long].iter().enumerate() {
        let answer = relay.send(with_headers(headers, b"")).await.expect("an answer");
        assert_eq!(answer.status, 431, "{answer:?}");
        let series = "ccrelay_connection_failures_total{reason=\"header_too_large\"}";
        relay.assert_connection_failure_is_counted("header_too_large").await;
        assert_eq!(relay.metric(series).await, (count + 1) as f64);
    }
    // A head without an end is not read on for ever.
    let mut stream = relay.connect().await;
    drop(stream.write_all(b"POST /push/main HTTP/1.1\r\n").await);
    let line = format!("x: {}\r\n", "y".repeat(100));
    let mut sent = 0;
    while sent < 1 << 20 && stream.write_all(line.as_bytes()).await.is_ok() {
        sent += line.len();
    }
    let rest = rest(&mut stream).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(relay.stored(), stored);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_in_is_cut_off() {
    let relay = TestRelay::with("header_timeout_secs = 1", "").await;
    let mut stream = relay.connect().await;
    stream.write_all(b"POST /push/main HTTP/1.1\r\nx: ").await.expect("it reads");
    let (mut reading, mut writing) = tokio::io::split(stream);
    let trickle = async {
        while writing.write_all(b"y").await.is_ok() && writing.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let began = std::time::Instant::now();
    tokio::select! {
        left = rest(&mut reading) => assert!(left.is_empty()),
        () = trickle => {}
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    relay.assert_connection_failure_is_counted("header_timeout").await;
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_is_nobodys_fault() {
    let relay = TestRelay::with("idle_timeout_secs = 1", "").await;
    let mut stream = relay.connect().await;
    stream.write_all(&request(&relay.token("1001"), good("1001"))).await.expect("it reads");
    assert_eq!(answer(&mut stream).await.expect("an answer").status, 200);
    assert!(rest(&mut stream).await.is_empty());
    assert_eq!(relay.metric("ccrelay_connection_failures_total{reason=\"header_timeout\"}").await, 0.0);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_refused_and_counted() {
    let relay = TestRelay::start().await;
    for bytes in
        ["\r\n\r\n\0\0\0\r\n\r\n", "POST /push/main HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let series = "ccrelay_connection_failures_total{reason=\"http\"}";
        let before = relay.metric(series).await;
        let mut stream = relay.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("it reads");
        let rest = rest(&mut stream).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{bytes:?}: {}", String::from_utf8_lossy(&rest));
        crate::support::eventually(series, crate::support::DEADLINE, || async {
            (relay.metric(series).await > before).then_some(())
        })
        .await;
    }
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

/// A request hidden in the body of another is answered to nobody: where two lengths contradict each other, none counts.
#[tokio::test(flavor = "multi_thread")]
async fn requests_with_two_lengths_are_refused_and_the_connection_ends() {
    let relay = TestRelay::start().await;
    let stored = relay.stored();
    let token = format!("service_token: {}\r\n", relay.token("1001"));
    let hidden = String::from_utf8(request(&relay.token("1001"), good("1001"))).expect("text");
    let chunked = format!("0\r\n\r\n{hidden}");
    let (length, chunks) =
        (format!("content-length: {}\r\n", chunked.len()), "transfer-encoding: chunked\r\n");
    let cases = [
        (format!("{length}{chunks}"), chunked.as_str()),
        (format!("{chunks}{length}"), chunked.as_str()),
        (format!("content-length: 5\r\n{length}"), chunked.as_str()),
        (format!("content-length: 5, {}\r\n", chunked.len()), chunked.as_str()),
        ("content-length: +5\r\n".to_owned(), hidden.as_str()),
        ("content-length: 0x5\r\n".to_owned(), hidden.as_str()),
        ("content-length : 5\r\n".to_owned(), hidden.as_str()),
        ("transfer-encoding: chunked, identity\r\n".to_owned(), chunked.as_str()),
        ("transfer-encoding: x\r\n".to_owned(), chunked.as_str()),
    ];
    for (headers, body) in cases {
        let mut stream = relay.connect().await;
        drop(stream.write_all(&with_headers(&format!("{token}{headers}"), body.as_bytes())).await);
        drop(stream.flush().await);
        let text = String::from_utf8(rest(&mut stream).await).expect("text");
        assert!(text.starts_with("HTTP/1.1 400"), "{headers:?}: {text:?}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{headers:?}: {text:?}");
        assert_eq!(relay.stored(), stored, "{headers:?}");
    }
    relay.assert_connection_failure_is_counted("http").await;
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

/// Where two programs could see different requests in the same bytes, there is one answer and at most one record for each request
/// that is whole, and the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_be_read_in_two_ways_are_refused_or_read_as_one() {
    let relay = TestRelay::start().await;
    let token = format!("service_token: {}\r\n", relay.token("1001"));
    let body = good("1001");
    let (length, chunks) = (format!("content-length: {}\r\n", body.len()), "transfer-encoding: chunked\r\n");
    let chunked = |extension: &str| format!("{:x}{extension}\r\n{body}\r\n0\r\n\r\n", body.len());
    let plain = |headers: &str, body: &str| with_headers(&format!("{token}{headers}"), body.as_bytes());
    let old =
        |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").replace("HTTP/1.1", "HTTP/1.0").into_bytes();
    let cases = [
        ("a folded line", plain(&format!("x: a\r\n b\r\n{length}"), &body), 400),
        ("a folded length", plain(&format!("content-length:\r\n {}\r\n", body.len()), &body), 400),
        ("a bare CR in a line", plain(&format!("x: a\rcontent-length: 0\r\n{length}"), &body), 400),
        ("a NUL in a line", plain(&format!("x: a\0b\r\n{length}"), &body), 400),
        ("a line without a name", plain(&format!(": x\r\n{length}"), &body), 400),
        ("a chunk whose size has a sign", plain(chunks, &format!("+{}", chunked(""))), 400),
        ("a chunk whose size is too large", plain(chunks, "fffffffffffffffff\r\nx"), 400),
        ("a bare LF in a chunk's extension", plain(chunks, &chunked(";a\nb")), 400),
        (
            "a chunk's extension without an end",
            plain(chunks, &chunked(&format!(";{}", "x".repeat(40_000)))),
            400,
        ),
        ("a chunk that is longer than it says", plain(chunks, &format!("1\r\n{body}\r\n0\r\n\r\n")), 400),
        ("chunks in HTTP/1.0", old(plain(chunks, &chunked(""))), 400),
        ("a chunk's extension", plain(chunks, &chunked(";a=b")), 200),
        ("HTTP/1.0", old(plain(&length, &body)), 200),
    ];
    for (what, bytes, status) in cases {
        let stored = relay.stored();
        let mut stream = relay.connect().await;
        drop(stream.write_all(&bytes).await);
        drop(stream.flush().await);
        let answer = answer(&mut stream).await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(relay.stored(), stored + u64::from(status == 200), "{what}");
        if status != 200 {
            assert!(rest(&mut stream).await.is_empty(), "{what}: the connection ends");
        }
    }
    // Lines that end with LF alone, which RFC 9112 (2.2) lets us read: one request, one answer, one record.
    let stored = relay.stored();
    let text = String::from_utf8(plain(&length, "")).expect("text").replace("\r\n", "\n");
    let mut stream = relay.connect().await;
    drop(stream.write_all(format!("{text}{body}").as_bytes()).await);
    assert_eq!(answer(&mut stream).await.expect("an answer").status, 200);
    assert_eq!(relay.stored(), stored + 1);
    // What comes behind a body is a request of its own, with no more rights than any other.
    let hidden = format!("POST /push/main HTTP/1.1\r\nhost: x\r\n{length}\r\n{body}");
    drop(stream.write_all(&[plain(&length, &body), hidden.into_bytes()].concat()).await);
    assert_eq!(answer_of_two(&mut stream).await, [200, 401]);
    assert_eq!(relay.stored(), stored + 2);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

/// The statuses of two answers, the second of which ends the connection.
async fn answer_of_two(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> [u16; 2] {
    let text = String::from_utf8(rest(stream).await).expect("text");
    let mut found = text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().expect("a status"));
    let both = [found.next().expect("an answer"), found.next().expect("another")];
    assert_eq!(found.next(), None, "{text}");
    both
}
