use std::time::Duration;

use http::Method;

use super::support::*;
use crate::simulate::Settings;

fn quick() -> Settings {
    Settings { guid_interval_ms: 150, guid_timeout_ms: 450, ..settings() }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test]
async fn a_missing_or_wrong_guid_is_refused_and_a_stranger_is_not_signed_in() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    for operation in ["handshake", "resetskill/true", "sayfree"] {
        assert_eq!(client.call(Method::POST, operation).await.retcode(), "100-006");
    }
    client.login_to_poll().await;
    let guid = client.guid.take();
    assert_eq!(client.call(Method::POST, "handshake").await.retcode(), "000-003");
    client.guid = Some("wrong.AgentGateway0".into());
    assert_eq!(client.call(Method::GET, "agentskills").await.retcode(), "000-003");
    assert_eq!(client.poll().await.retcode(), "000-003");
    client.guid = guid.map(|guid| format!("JSESSIONID={guid}"));
    assert_eq!(client.call(Method::POST, "handshake").await.retcode(), "000-003");
}

#[tokio::test]
async fn a_new_guid_is_announced_once_when_the_interval_is_over() {
    let settings = Settings { guid_interval_ms: 500, guid_timeout_ms: 60_000, ..settings() };
    let simulator = start(settings).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let first = client.guid.clone();
    pass(520).await;
    assert_eq!(client.call(Method::GET, "agentstatus").await.set_guid(), None);
    assert!(client.handshake().await.set_guid().is_some());
    assert_ne!(client.guid, first);
    assert_eq!(client.handshake().await.set_guid(), None);
}

/// Waits until an operation with this client's GUID is refused.
async fn refused(client: &Client) {
    let until = tokio::time::Instant::now() + LIMIT;
    while client.call(Method::GET, "agentstatus").await.retcode() == "0" {
        assert!(tokio::time::Instant::now() < until, "still accepted");
        pass(10).await;
    }
    assert_eq!(client.call(Method::GET, "agentstatus").await.retcode(), "000-003");
}

#[tokio::test]
async fn the_old_guid_is_accepted_for_the_overlap_and_then_refused() {
    let settings = Settings { guid_interval_ms: 100, guid_timeout_ms: 1500, ..settings() };
    let simulator = start(settings).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let old = client.clone();
    pass(110).await;
    assert!(client.handshake().await.set_guid().is_some());
    assert_eq!(old.call(Method::GET, "agentstatus").await.retcode(), "0");
    let alive = async {
        loop {
            pass(100).await;
            assert_eq!(client.handshake().await.retcode(), "0");
        }
    };
    tokio::select! {
        () = refused(&old) => {}
        () = alive => {}
    }
}

#[tokio::test]
async fn a_guid_that_is_not_renewed_dies_and_the_session_lives_on() {
    let simulator = start(quick()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    refused(&client).await;
    assert_eq!(client.handshake().await.retcode(), "000-003");
    assert!(simulator.session(&agent(1001)).is_some());
}

#[tokio::test]
async fn a_static_guid_neither_changes_nor_dies() {
    let simulator = start(Settings { auth_mode: 1, ..quick() }).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    pass(470).await;
    let reply = client.handshake().await;
    assert_eq!((reply.retcode(), reply.set_guid()), ("0", None));
}

#[tokio::test]
async fn update_guid_answers_with_a_new_one_in_its_body() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let reply = client.call(Method::PUT, "updateGuid").await;
    assert_eq!(reply.set_guid(), None);
    let guid = reply.body["result"]["guid"].as_str().unwrap().to_owned();
    assert_eq!(client.handshake().await.retcode(), "0", "the old one, in the overlap");
    client.guid = Some(guid);
    let reply = client.handshake().await;
    assert_eq!((reply.retcode(), reply.set_guid()), ("0", None));
}

#[tokio::test]
async fn pushes_carry_the_current_guid_and_with_the_setting_one_the_client_was_not_told() {
    for ahead in [false, true] {
        let simulator = start(Settings {
            guid_runs_ahead: ahead,
            guid_interval_ms: 150,
            guid_timeout_ms: 60_000,
            ..settings()
        })
        .await;
        let receiver = Receiver::start().await;
        let mut client = Client::new(&simulator, 1001);
        client.login_to(&receiver).await;
        let first = client.guid.clone().unwrap();
        receiver.wait(1).await;
        assert!(simulator.drained(LIMIT).await);
        pass(170).await;
        simulator.emit(&agent(1001), "AgentState_Busy", serde_json::Value::Null, Default::default()).unwrap();
        let pushes = receiver.wait_until(|p| p.iter().any(|p| p.text.contains("AgentState_Busy"))).await;
        let carried = pushes.last().unwrap().header("guid").to_owned();
        assert_eq!(carried != first, ahead);
        let told = client.handshake().await.set_guid().unwrap();
        assert_eq!(told == carried, ahead);
        simulator.stop().await;
    }
}
