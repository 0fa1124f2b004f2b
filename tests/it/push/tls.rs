//! Connections: TLS versions, handshakes that come to nothing, and the limit.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::in_process::{TestRelay, answer, good, request, rest};
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_are_taken() {
    let relay = TestRelay::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = relay.connect_with(&[version]).await;
        stream.write_all(&request(&relay.token("1001"), good("1001"))).await.expect("it reads");
        let answer = answer(&mut stream).await.expect("an answer");
        assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{version:?}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_1_is_refused() {
    // A record of a handshake with a ClientHello of version 3.2, two ciphers of its time and no extension.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let relay = TestRelay::start().await;
    let mut stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    stream.write_all(&hello).await.expect("it reads");
    let rest = rest(&mut stream).await;
    // A fatal alert: protocol_version, or handshake_failure because of what such old clients do not say.
    let refused = matches!(rest[..], [0x15, _, _, 0, 2, 2, 70 | 40]);
    assert!(refused, "{rest:?} is not that alert");
    relay
        .assert_connection_failure_is_counted(if rest.last() == Some(&70) {
            "tls_version"
        } else {
            "tls_handshake"
        })
        .await;
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_at_the_tls_port_is_refused() {
    let relay = TestRelay::start().await;
    let stored = relay.stored();
    let mut stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    stream.write_all(&request(&relay.token("1001"), good("1001"))).await.expect("it reads");
    let rest = rest(&mut stream).await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    relay.assert_connection_failure_is_counted("tls_handshake").await;
    assert_eq!(relay.stored(), stored);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_never_finished_end_in_time_and_hold_up_nobody() {
    let relay = TestRelay::with("handshake_timeout_secs = 1", "").await;
    let mut silent = TcpStream::connect(relay.callback).await.expect("it accepts");
    let mut half = TcpStream::connect(relay.callback).await.expect("it accepts");
    half.write_all(&[0x16, 3, 1, 2]).await.expect("it reads");
    relay.assert_takes_a_good_push().await;
    assert!(rest(&mut silent).await.is_empty());
    assert!(rest(&mut half).await.is_empty());
    let series = "ccrelay_connection_failures_total{reason=\"tls_handshake_timeout\"}";
    eventually(series, DEADLINE, || async { (relay.metric(series).await == 2.0).then_some(()) }).await;
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_connects_and_closes_is_no_failed_handshake() {
    let relay = TestRelay::start().await;
    drop(TcpStream::connect(relay.callback).await.expect("it accepts"));
    let reset = TcpStream::connect(relay.callback).await.expect("it accepts");
    reset.set_zero_linger().expect("a socket");
    drop(reset);
    let series = "ccrelay_connection_failures_total{reason=\"closed_unused\"}";
    eventually(series, DEADLINE, || async { (relay.metric(series).await == 2.0).then_some(()) }).await;
    let failed = "ccrelay_connection_failures_total{reason=\"tls_handshake\"}";
    assert_eq!(relay.metric(failed).await, 0.0);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

/// Heartbeats have stopped by then, so each second counts against the agents.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_nobody_who_has_asked_for_nothing_yet() {
    let relay = TestRelay::start().await;
    let mut silent = TcpStream::connect(relay.callback).await.expect("it accepts");
    let mut half = TcpStream::connect(relay.callback).await.expect("it accepts");
    half.write_all(&[0x16, 3, 1, 2]).await.expect("it reads");
    let mut head = TcpStream::connect(relay.operations).await.expect("it accepts");
    head.write_all(b"GET /metrics HTTP/1.1\r\n").await.expect("it reads");
    relay.assert_takes_a_good_push().await;
    let began = tokio::time::Instant::now();
    relay.stop().await;
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(8), "{took:?}, and the time-outs are 10 s");
    for stream in [&mut silent, &mut half] {
        assert!(rest(stream).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_until_those_that_did_nothing_make_room() {
    let relay = TestRelay::with("max_connections = 2", "").await;
    let mut first = relay.connect().await;
    first.write_all(&request(&relay.token("1002"), good("1002"))).await.expect("it reads");
    assert_eq!(answer(&mut first).await.expect("an answer").status, 200);
    let mut second = relay.connect().await;
    assert_eq!(relay.metric("ccrelay_connections").await, 2.0);
    let third = tokio::spawn({
        let bytes = request(&relay.token("1001"), good("1001"));
        let connect = relay.connect_later();
        async move {
            let mut stream = connect.await;
            stream.write_all(&bytes).await.expect("it reads");
            answer(&mut stream).await.expect("an answer")
        }
    });
    relay.assert_connection_failure_is_counted("limit").await;
    // Of the two that are in, the one makes room that has never pushed.
    assert!(rest(&mut second).await.is_empty());
    relay.assert_connection_failure_is_counted("made_room").await;
    assert_eq!(third.await.expect("no panic").status, 200);
    first.write_all(&request(&relay.token("1002"), good("1002"))).await.expect("it reads");
    assert_eq!(answer(&mut first).await.expect("an answer").status, 200, "who has pushed stays");
    drop(first);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}
