use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::support::*;
use crate::simulate::{Fate, Settings};

#[tokio::test]
async fn a_poll_gives_one_event_at_a_time_in_order_beginning_with_the_sign_in() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let first = client.poll().await;
    assert_eq!(first.body["event"]["eventType"], "AgentOther_InService");
    assert_eq!(first.body["event"]["workNo"], "1001");
    assert_eq!(client.poll().await.body["event"]["eventType"], "AgentState_Ready");
    let ledger = simulator.ledger_of(&agent(1001));
    assert_eq!(
        ledger.iter().map(|e| (e.serial, e.fate)).collect::<Vec<_>>(),
        [(1, Fate::Polled), (2, Fate::Polled)]
    );
}

#[tokio::test]
async fn an_empty_poll_waits_and_an_event_ends_the_wait() {
    let simulator = start(Settings { poll_wait_times: 3, poll_wait_interval_ms: 50, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    client.poll().await;
    client.poll().await;
    let before = tokio::time::Instant::now();
    let empty = client.poll().await;
    assert!(before.elapsed() >= Duration::from_millis(150));
    assert_eq!(empty.body, serde_json::json!({"message": "", "retcode": "0"}));

    let emit = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        simulator.emit(&agent(1001), "AgentState_Busy", Value::Null, Default::default()).unwrap();
    };
    let (reply, ()) = tokio::join!(client.poll(), emit);
    assert_eq!(reply.body["event"]["eventType"], "AgentState_Busy");
}

#[tokio::test]
async fn an_agent_whose_events_are_pushed_may_not_poll() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    assert_eq!(client.poll().await.retcode(), "000-001");
}

#[tokio::test]
async fn a_second_poll_beside_the_first_is_refused() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    client.poll().await;
    client.poll().await;
    let mut other = client.clone();
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reply = other.poll().await;
        simulator.emit(&agent(1001), "AgentState_Busy", Value::Null, Default::default()).unwrap();
        reply
    };
    let (first, second) = tokio::join!(client.poll(), second);
    assert_eq!(second.retcode(), "000-007");
    assert_eq!(first.body["event"]["eventType"], "AgentState_Busy");
}

#[tokio::test]
async fn a_poll_that_waits_ends_with_the_session() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    client.poll().await;
    client.poll().await;
    let other = client.clone();
    let logout = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        other.call(Method::DELETE, "logout").await
    };
    let (poll, logout) = tokio::join!(client.poll(), logout);
    assert_eq!((poll.retcode(), logout.retcode()), ("100-006", "0"));
}

#[tokio::test]
async fn a_poll_announces_the_new_guid() {
    let simulator = start(Settings {
        guid_interval_ms: 50,
        guid_timeout_ms: 5000,
        poll_wait_times: 1,
        poll_wait_interval_ms: 60,
        ..settings()
    })
    .await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    client.poll().await;
    client.poll().await;
    assert!(client.poll().await.set_guid().is_some());
}
