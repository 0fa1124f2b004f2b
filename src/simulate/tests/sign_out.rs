use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::support::*;
use crate::simulate::settings::Switch;
use crate::simulate::{EmitError, EmitOptions, Fate, Settings, SignOut, Simulator};

async fn forced_out(simulator: &Simulator, reason: SignOut) {
    let out = simulator.wait_for(LIMIT, |s| s.total.signed_out(reason) == 1 && s.signed_in == 0).await;
    assert!(out, "{:?}", simulator.statistics().total);
}

#[tokio::test]
async fn an_agent_that_does_not_poll_is_forced_out_though_it_sends_heartbeats() {
    let simulator = start(Settings { max_time_ms: 200, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let forced = forced_out(&simulator, SignOut::PollSilence);
    tokio::pin!(forced);
    loop {
        tokio::select! {
            () = &mut forced => break,
            () = tokio::time::sleep(Duration::from_millis(30)) => { client.handshake().await; }
        }
    }
    assert_eq!(client.poll().await.retcode(), "100-006");
}

#[tokio::test]
async fn polls_keep_an_agent_signed_in() {
    let settings = Settings { max_time_ms: 200, poll_wait_times: 1, poll_wait_interval_ms: 20, ..settings() };
    let simulator = start(settings).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    while tokio::time::Instant::now() < until {
        assert_eq!(client.poll().await.retcode(), "0");
    }
    assert_eq!(simulator.statistics().signed_in, 1);
}

#[tokio::test]
async fn an_agent_without_heartbeats_is_forced_out_and_others_are_not() {
    let simulator = start(Settings { handshake_max_time_ms: 800, ..settings() }).await;
    let receiver = Receiver::start().await;
    let (mut silent, mut alive) = (Client::new(&simulator, 1001), Client::new(&simulator, 1002));
    silent.login_to(&receiver).await;
    alive.login_to(&receiver).await;
    while simulator.statistics().signed_in == 2 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(alive.handshake().await.retcode(), "0");
    }
    assert_eq!(silent.handshake().await.retcode(), "100-006");
    assert_eq!(simulator.counts(&agent(1001)).signed_out(SignOut::HeartbeatSilence), 1);
    assert!(simulator.session(&agent(1002)).is_some());
}

#[tokio::test]
async fn silence_is_allowed_when_the_flag_is_off() {
    let settings =
        Settings { handshake_max_time_ms: 50, max_time_ms: 50, timeout_flag: Switch::Off, ..settings() };
    let simulator = start(settings).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    assert!(!simulator.wait_for(Duration::from_millis(250), |s| s.signed_in == 0).await);
}

#[tokio::test]
async fn an_agent_whose_pushes_fail_for_too_long_is_forced_out() {
    let simulator = start(Settings { push_fail_total_ms: 250, ..settings() }).await;
    let receiver = Receiver::start().await;
    receiver.answer_always(Some(Answer::Body(500, "")));
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    forced_out(&simulator, SignOut::PushFailure).await;
    assert_eq!(client.handshake().await.retcode(), "100-006");
    assert!(receiver.pushes().len() > 3);
    let ledger = simulator.ledger_of(&agent(1001));
    assert!(ledger.iter().all(|e| e.fate == Fate::Discarded && e.attempts > 3), "{ledger:?}");
    let lost = simulator.emit(&agent(1001), "X", Value::Null, EmitOptions::default());
    assert_eq!(lost, Err(EmitError::NotSignedIn(agent(1001))));
}

#[tokio::test]
async fn one_success_resets_the_failure_time() {
    let simulator =
        start(Settings { push_fail_total_ms: 1500, push_fail_interval_ms: 200, ..settings() }).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    receiver.wait(1).await;
    for _ in 0..4 {
        assert!(simulator.drained(LIMIT).await);
        receiver.answer(&[Answer::Body(500, ""), Answer::Body(500, "")]);
        simulator.emit(&agent(1001), "AgentState_Busy", Value::Null, EmitOptions::default()).unwrap();
        assert!(simulator.drained(LIMIT).await);
    }
    assert_eq!(simulator.counts(&agent(1001)).pushes_failed, 8);
    assert_eq!(simulator.statistics().signed_in, 1);
}

#[tokio::test]
async fn logout_ends_the_session_and_a_second_one_is_told_so() {
    let simulator = start(settings()).await;
    for verb in ["logout", "forcelogout", "forcelogoutwithreason/7"] {
        let mut client = Client::new(&simulator, 1001);
        assert_eq!(client.call(Method::DELETE, verb).await.retcode(), "100-008");
        client.login_to_poll().await;
        let wrong = Client { guid: Some("wrong".into()), ..client.clone() };
        assert_eq!(wrong.call(Method::DELETE, verb).await.retcode(), "000-003");
        assert_eq!(client.call(Method::DELETE, verb).await.retcode(), "0");
        assert_eq!(client.call(Method::DELETE, verb).await.retcode(), "100-008");
        assert_eq!(client.handshake().await.retcode(), "100-006");
    }
    assert_eq!(simulator.counts(&agent(1001)).signed_out(SignOut::Asked), 3);
}

#[tokio::test]
async fn a_second_logout_may_be_told_no_more_than_other_calls() {
    let simulator = start(Settings { second_logout_unknown: true, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    assert_eq!(client.call(Method::DELETE, "logout").await.retcode(), "0");
    assert_eq!(client.call(Method::DELETE, "logout").await.retcode(), "100-006");
}

#[tokio::test]
async fn a_reason_out_of_range_is_refused() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    for reason in ["0", "256", "x"] {
        let reply = client.call(Method::DELETE, &format!("forcelogoutwithreason/{reason}")).await;
        assert_eq!(reply.retcode(), "100-005");
    }
}

#[tokio::test]
async fn a_talking_agent_signs_out_by_force_only() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    assert!(simulator.wait_for(LIMIT, |s| s.waiting == 2).await);
    let content = json!({"callid": "1-1"});
    simulator.emit(&agent(1001), "AgentEvent_Talking", content, EmitOptions::default()).unwrap();
    // To be busy after the call is no end of the call.
    for before in [None, Some("saybusy?reason=201")] {
        if let Some(before) = before {
            assert_eq!(client.call(Method::POST, before).await.retcode(), "0");
        }
        assert_eq!(client.call(Method::DELETE, "logout").await.retcode(), "100-010");
        let status = client.call(Method::GET, "agentstatus").await;
        assert_eq!(status.body["result"], json!({"agentState": 7, "isWorking": true}));
    }
    assert_eq!(client.call(Method::DELETE, "forcelogout").await.retcode(), "0");
}

#[tokio::test]
async fn an_inspector_forces_out_with_a_farewell_after_which_the_guid_is_dead() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    receiver.wait(1).await;
    assert!(simulator.drained(LIMIT).await);
    simulator.force_out(&agent(1001)).unwrap();
    let pushes = receiver.wait(2).await;
    assert_eq!(pushes[1].types(), ["AgentOther_ShutdownService"]);
    assert!(pushes[1].body()["eventList"][0]["content"]["loginTime"].is_string());
    assert_eq!(pushes[1].header("service_token"), "firstToken");
    assert_eq!(client.handshake().await.retcode(), "100-006");
    assert!(simulator.drained(LIMIT).await);
    assert!(simulator.ledger().iter().all(|e| e.fate == Fate::Acknowledged));
    assert_eq!(simulator.force_out(&agent(1001)), Err(EmitError::NotSignedIn(agent(1001))));
}

#[tokio::test]
async fn a_farewell_is_tried_once_and_after_what_is_in_flight() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    receiver.wait(1).await;
    assert!(simulator.drained(LIMIT).await);
    receiver.answer(&[Answer::Late(Duration::from_millis(100)), Answer::Body(500, "")]);
    simulator.emit(&agent(1001), "AgentState_Busy", Value::Null, EmitOptions::default()).unwrap();
    receiver.wait(2).await;
    assert_eq!(client.call(Method::DELETE, "forcelogoutwithreason/1").await.retcode(), "0");
    assert!(simulator.wait_for(LIMIT, |s| s.total.pushes_failed == 1).await);
    assert!(simulator.drained(LIMIT).await);
    assert_eq!(receiver.pushes()[2].types(), ["AgentOther_ShutdownService"]);
    let fates: Vec<Fate> = simulator.ledger().iter().map(|e| e.fate).collect();
    assert_eq!(fates[2..], [Fate::Acknowledged, Fate::Discarded], "what was in flight did arrive");
    assert_eq!(simulator.counts(&agent(1001)).discarded, 1);
}

#[tokio::test]
async fn a_gateway_that_forgets_its_sessions_knows_no_guid_and_says_no_farewell() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    receiver.wait(1).await;
    assert!(simulator.drained(LIMIT).await);
    simulator.forget_sessions();
    assert_eq!(client.handshake().await.retcode(), "100-006");
    client.login_to(&receiver).await;
    assert_eq!(receiver.wait(2).await[1].types(), ["AgentOther_InService", "AgentState_Ready"]);
}

#[tokio::test]
async fn a_takeover_discards_what_waited_and_pushes_to_the_new_address_only() {
    let simulator = start(settings()).await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    old.answer_always(Some(Answer::Body(500, "")));
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&old).await;
    old.wait(1).await;
    let reply = client.sign_in("/forcelogin", &push_login(&new.uri())).await;
    assert_eq!(reply.retcode(), "0");
    assert_eq!(new.wait(1).await[0].types(), ["AgentOther_InService", "AgentState_Ready"]);
    assert!(simulator.drained(LIMIT).await);
    let fates: Vec<Fate> = simulator.ledger().iter().map(|e| e.fate).collect();
    assert_eq!(fates, [Fate::Discarded, Fate::Discarded, Fate::Acknowledged, Fate::Acknowledged]);
}
