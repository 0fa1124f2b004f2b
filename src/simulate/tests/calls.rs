use std::time::Duration;

use http::Method;
use serde_json::json;

use super::support::*;
use crate::simulate::Simulator;

async fn signed_in() -> (Simulator, Client) {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    assert!(simulator.wait_for(LIMIT, |s| s.waiting == 2).await);
    client.poll().await;
    client.poll().await;
    (simulator, client)
}

async fn post(client: &Client, operation: &str) -> String {
    client.call(Method::POST, operation).await.retcode().to_owned()
}

async fn next_event(client: &mut Client) -> String {
    client.poll().await.body["event"]["eventType"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test]
async fn resetskill_takes_the_configured_skills_among_those_asked_for() {
    let (simulator, client) = signed_in().await;
    let skills = || simulator.session(&agent(1001)).unwrap().skills;
    assert_eq!(skills(), None);
    for (operation, expected) in [
        ("resetskill/true", vec![1, 2]),
        ("resetskill/false?skillid=2;3;77&phonelinkage=0", vec![2]),
        ("resetskill/false?skillid=1%3B2&phonelinkage=1", vec![1, 2]),
        ("resetskill/TRUE", vec![]),
        ("resetskill/false?skillid=", vec![]),
    ] {
        assert_eq!(post(&client, operation).await, "0", "{operation}");
        assert_eq!(skills(), Some(expected), "{operation}");
    }
    assert_eq!(post(&client, "resetskill/true?phonelinkage=2").await, "000-002");
    assert_eq!(post(&client, &format!("resetskill/false?skillid={}", "1;".repeat(2001))).await, "000-002");
}

#[tokio::test]
async fn skills_and_status_are_answered() {
    let (_simulator, client) = signed_in().await;
    let skills = client.call(Method::GET, "agentskills").await;
    assert_eq!(skills.body["result"][0], json!({"name": "voice", "id": 1, "mediatype": 5}));
    let status = client.call(Method::GET, "agentstatus").await;
    assert_eq!(status.body["result"], json!({"agentState": 4, "isWorking": false}));
}

#[tokio::test]
async fn state_operations_make_their_events_and_are_refused_in_the_wrong_state() {
    let (simulator, mut client) = signed_in().await;
    let state = || simulator.session(&agent(1001)).unwrap().agent_state;
    for refused in ["cancelbusy", "cancelrest", "cancelwork"] {
        assert_eq!(post(&client, refused).await, "100-009");
    }
    for (operation, events, number) in [
        ("saybusy?reason=201", vec!["AgentState_SetNotReady_Success"], 3),
        ("cancelbusy", vec!["AgentState_CancelNotReady_Success", "AgentState_Ready"], 4),
        ("rest/600/3", vec!["AgentState_SetRest_Success"], 8),
        ("cancelrest", vec!["AgentState_CancelRest_Success", "AgentState_Ready"], 4),
        ("work", vec!["AgentState_Work"], 5),
        ("cancelwork", vec!["AgentState_CancelWork_Success", "AgentState_Ready"], 4),
        ("sayfree", vec!["AgentState_Ready"], 4),
    ] {
        assert_eq!(post(&client, operation).await, "0", "{operation}");
        assert_eq!(state(), number, "{operation}");
        for event in events {
            assert_eq!(next_event(&mut client).await, event);
        }
    }
}

#[tokio::test]
async fn who_says_busy_in_a_call_is_busy_when_it_is_over() {
    let (simulator, mut client) = signed_in().await;
    simulator.play_flow(&agent(1001), "auto-answer", Duration::ZERO).await.unwrap();
    assert_eq!(post(&client, "saybusy?reason=201").await, "0");
    assert_eq!(simulator.session(&agent(1001)).unwrap().agent_state, 7);
    simulator.play_flow(&agent(1001), "release", Duration::ZERO).await.unwrap();
    let mut events = Vec::new();
    while simulator.session(&agent(1001)).unwrap().waiting > 0 {
        events.push(next_event(&mut client).await);
    }
    assert_eq!(events.iter().filter(|event| event.contains("SetNotReady")).count(), 1, "{events:?}");
    assert_eq!(events.last().unwrap(), "AgentState_SetNotReady_Success", "{events:?}");
    assert_eq!(simulator.session(&agent(1001)).unwrap().agent_state, 3);
}

#[tokio::test]
async fn parameters_of_state_operations_are_checked() {
    let (_simulator, client) = signed_in().await;
    for operation in ["saybusy?reason=7", "rest/0/1", "rest/86400/1", "rest/60/256", "autoanswer/truetrue"] {
        assert_eq!(post(&client, operation).await, "000-002", "{operation}");
    }
    assert_eq!(post(&client, "autoanswer/false").await, "0");
    assert_eq!(post(&client, "saybusy").await, "0");
    assert_eq!(post(&client, "saybusy?reason=200").await, "000-002", "both are needed when busy already");
    assert_eq!(post(&client, "saybusy?reason=200&prolong=true").await, "0");
}

#[tokio::test]
async fn a_rest_that_is_over_says_so() {
    let (_simulator, mut client) = signed_in().await;
    assert_eq!(post(&client, "rest/1/0").await, "0");
    assert_eq!(next_event(&mut client).await, "AgentState_SetRest_Success");
    assert_eq!(next_event(&mut client).await, "AgentState_Rest_Timeout");
}
