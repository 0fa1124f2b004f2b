//! Two equal pushes without a time, further apart than a repeat of the gateway's may come: one event or two, by how the
//! connection of the first ended.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::in_process::{TestRelay, answer, rest, with_headers};
use crate::support::{DEADLINE, eventually};

/// A repeat comes no sooner than this.
const SOONEST: Duration = Duration::from_millis(300);
const CONNECTIONS: &str = "ccrelay_connections";

/// How a gateway leaves the connection on which it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    /// It asked for the end of it in its request.
    Asked,
    /// As a kept one, on which nothing more comes.
    Open,
    Reset,
    /// By whoever stands between: TCP ends, and TLS does not say so.
    Cut,
    /// In order, after such a wait for an answer that did not come.
    AfterAWait,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_pushes_are_two_events_where_the_end_of_the_connection_shows_that_the_first_was_answered() {
    for (end, events) in [
        (End::InOrder, 2),
        (End::Asked, 2),
        (End::Open, 1),
        (End::Reset, 1),
        (End::Cut, 1),
        (End::AfterAWait, 1),
    ] {
        let millis = SOONEST.as_millis();
        let relay = TestRelay::with_spool(&format!("repeat_soonest_millis = {millis}\n")).await;
        let mut kept = Vec::new();
        for _ in 0..2 {
            let stream = push(&relay, end).await;
            kept.extend(leave(stream, end).await);
            if end != End::Open {
                let closed = || async { (relay.metric(CONNECTIONS).await == 0.0).then_some(()) };
                eventually("the end of the connection", DEADLINE, closed).await;
            }
            tokio::time::sleep(SOONEST + Duration::from_millis(50)).await;
        }
        let published = eventually("both published", DEADLINE, || async {
            Some(relay.published()).filter(|all| all.len() == 2)
        })
        .await;
        let same = published[0]["id"] == published[1]["id"];
        assert_eq!(if same { 1 } else { 2 }, events, "{end:?}: {published:#?}");
        assert_eq!(published[1]["ccrelayrepeat"] == true, same, "{end:?}");
        relay.stop().await;
    }
}

/// Pushes a chat line on a connection of its own, and sees it answered.
async fn push(relay: &TestRelay, end: End) -> TlsStream<TcpStream> {
    let mut stream = relay.connect().await;
    let body = r#"{"workNo":"1001","eventList":[{"eventType":"AgentEvent_MessageData","workNo":"1001","content":{"message":"ok"}}]}"#;
    let close = if end == End::Asked { "connection: close\r\n" } else { "" };
    let (token, length) = (relay.token("1001"), body.len());
    let headers = format!("service_token: {token}\r\ncontent-length: {length}\r\n{close}");
    stream.write_all(&with_headers(&headers, body.as_bytes())).await.expect("it reads");
    let answer = answer(&mut stream).await.expect("an answer");
    assert_eq!((answer.status, answer.retcode().as_str()), (200, "0"), "{answer:?}");
    stream
}

/// Leaves the connection so; gives it where it stays.
async fn leave(mut stream: TlsStream<TcpStream>, end: End) -> Option<TlsStream<TcpStream>> {
    match end {
        End::Open => return Some(stream),
        End::InOrder => stream.shutdown().await.expect("it is open"),
        End::Asked => {
            assert_eq!(rest(&mut stream).await, b"", "the relay ends first");
            stream.shutdown().await.expect("its other side is open");
        }
        End::Reset => stream.get_ref().0.set_zero_linger().expect("an open socket"),
        End::Cut => {}
        End::AfterAWait => {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            stream.shutdown().await.expect("it is open");
        }
    }
    None
}
