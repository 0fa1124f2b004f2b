use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::support::*;
use crate::simulate::settings::{PushShape, TrustListMatch};
use crate::simulate::{EmitOptions, Fate, Settings, SignOut, Simulator, trust};

fn emit(simulator: &Simulator, id: u32, event_type: &str) -> u64 {
    simulator.emit(&agent(id), event_type, Value::Null, EmitOptions::default()).unwrap()
}

/// Signs in and waits until the first events are through.
async fn signed_in(simulator: &Simulator, receiver: &Receiver, id: u32) -> Client {
    let mut client = Client::new(simulator, id);
    client.login_to(receiver).await;
    assert!(simulator.wait_for(LIMIT, |s| s.total.delivered >= 2 && s.waiting == 0).await);
    client
}

#[tokio::test]
async fn the_first_push_has_in_service_and_ready_and_the_documented_headers() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let client = signed_in(&simulator, &receiver, 1001).await;
    let push = &receiver.pushes()[0];
    assert_eq!(push.types(), ["AgentOther_InService", "AgentState_Ready"]);
    assert_eq!(push.body()["workNo"], "1001");
    assert_eq!(push.path, "/callback/pushresult?x=1");
    assert_eq!(push.header("content-type"), "application/json; charset=UTF-8");
    assert_eq!(push.header("service_token"), "firstToken");
    assert_eq!(Some(push.header("guid")), client.guid.as_deref());
}

#[tokio::test]
async fn with_the_setting_the_first_events_come_before_the_login_is_answered() {
    let simulator = start(Settings { events_before_answer: true, ..settings() }).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    assert_eq!(receiver.pushes().len(), 1);
}

#[tokio::test]
async fn a_heartbeat_brings_the_token_of_later_pushes() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let client = signed_in(&simulator, &receiver, 1001).await;
    for (token, retcode) in [("second2", "0"), ("not-a-token", "100-001"), (&"a".repeat(51), "100-001")] {
        let reply =
            client.send(Method::POST, "onlineagent/1001/handshake", &[("service_token", token)], "").await;
        assert_eq!(reply.retcode(), retcode, "{token}");
    }
    emit(&simulator, 1001, "AgentState_Busy");
    assert_eq!(receiver.wait(2).await[1].header("service_token"), "second2");
}

#[tokio::test]
async fn a_failed_batch_is_repeated_whole_and_first() {
    let simulator = start(Settings { repeat_grows: false, ..settings() }).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    receiver.answer(&[Answer::Body(200, r#"{"retcode":"1"}"#), Answer::Body(503, "")]);
    emit(&simulator, 1001, "AgentState_Busy");
    receiver.wait(2).await;
    emit(&simulator, 1001, "AgentState_Work");
    let pushes = receiver.wait(5).await;
    assert_eq!(pushes[1].text, pushes[2].text);
    assert_eq!(pushes[1].text, pushes[3].text);
    assert_eq!(pushes[4].types(), ["AgentState_Work"]);
    assert!(simulator.drained(LIMIT).await);
    let counts = simulator.counts(&agent(1001));
    assert_eq!((counts.pushes_attempted, counts.pushes_failed, counts.pushes_repeated), (5, 2, 2));
    assert_eq!(simulator.ledger_of(&agent(1001))[2].attempts, 3);
}

#[tokio::test]
async fn a_repeated_batch_may_have_new_events_at_its_end() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    receiver.answer(&[Answer::Body(200, "{}")]);
    emit(&simulator, 1001, "AgentState_Busy");
    receiver.wait(2).await;
    emit(&simulator, 1001, "AgentState_Work");
    assert_eq!(receiver.wait(3).await[2].types(), ["AgentState_Busy", "AgentState_Work"]);
}

#[tokio::test]
async fn only_status_200_with_the_string_zero_is_success() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    receiver.answer(&[
        Answer::Body(200, r#"{"retcode":0}"#),
        Answer::Body(200, ""),
        Answer::Body(200, "ok"),
        Answer::Body(201, r#"{"retcode":"0"}"#),
        Answer::Body(302, r#"{"retcode":"0"}"#),
    ]);
    emit(&simulator, 1001, "AgentState_Busy");
    assert!(simulator.drained(LIMIT).await);
    assert_eq!(simulator.counts(&agent(1001)).pushes_failed, 5);
}

#[tokio::test]
async fn an_answer_that_is_late_is_a_failure() {
    let simulator = start(Settings { push_timeout_ms: 100, ..settings() }).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    receiver.answer(&[Answer::Late(Duration::from_secs(1))]);
    emit(&simulator, 1001, "AgentState_Busy");
    let pushes = receiver.wait(3).await;
    assert_eq!(pushes[1].text, pushes[2].text);
}

#[tokio::test]
async fn a_lost_answer_makes_a_repeat_of_what_was_received_on_a_new_connection_and_is_lost_by_a_reset() {
    let (secure, ca) = https_receiver("localhost").await;
    let mut trusting = settings();
    trusting.eventpush.ssl.cert.pem = Some(ca);
    for (settings, receiver) in [(settings(), Receiver::start().await), (trusting, secure)] {
        let simulator = start(settings).await;
        let _client = signed_in(&simulator, &receiver, 1001).await;
        simulator.lose_answers(&agent(1001), 2).unwrap();
        emit(&simulator, 1001, "AgentState_Busy");
        let pushes = receiver.wait(4).await;
        assert!(simulator.drained(LIMIT).await);
        assert_eq!(pushes[1].text, pushes[2].text);
        assert_eq!(pushes[1].text, pushes[3].text);
        let connections: Vec<usize> = pushes.iter().map(|push| push.connection).collect();
        assert_eq!(connections, [0, 1, 2, 0]);
        assert_eq!(pushes[1].header("host"), pushes[0].header("host"));
        assert_eq!(pushes[1].path, pushes[0].path);
        receiver.wait_until(|_| receiver.resets() == 2).await;
        assert_eq!(simulator.ledger_of(&agent(1001))[2].attempts, 3);
    }
}

#[tokio::test]
async fn an_agent_whose_answers_are_all_lost_is_forced_out() {
    let receiver = Receiver::start().await;
    let always = Settings { push_answer_lost: 1.0, push_fail_total_ms: 100, ..settings() };
    let simulator = start(always).await;
    Client::new(&simulator, 1001).login_to(&receiver).await;
    assert!(simulator.wait_for(LIMIT, |s| s.total.signed_out(SignOut::PushFailure) == 1).await);
}

#[tokio::test]
async fn every_known_event_type_can_be_pushed_with_its_example() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    for event_type in Simulator::event_types() {
        simulator.emit_example(&agent(1001), event_type).unwrap();
    }
    assert!(simulator.drained(LIMIT).await);
    assert_eq!(simulator.counts(&agent(1001)).delivered, 102);
    assert!(receiver.pushes().iter().all(|push| !push.text.contains('$')));
}

#[tokio::test]
async fn events_arrive_in_order_one_batch_at_a_time_as_the_ledger_has_them() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    for i in 0..100 {
        let content = json!({"callid": format!("1456404171-{i}")});
        simulator.emit(&agent(1001), "AgentEvent_Talking", content, EmitOptions::default()).unwrap();
        if i % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(simulator.drained(LIMIT).await);
    let ledger = simulator.ledger_of(&agent(1001));
    let pushes = receiver.pushes();
    let pushed: Vec<Value> =
        pushes.iter().flat_map(|p| p.body()["eventList"].as_array().unwrap().clone()).collect();
    let made: Vec<Value> = ledger.iter().map(|e| serde_json::from_str(&e.json).unwrap()).collect();
    assert_eq!(pushed, made);
    assert!(pushes.iter().all(|p| p.types().len() <= 20));
    assert!(pushes.iter().any(|p| p.text.contains(&*ledger[50].json)));
    assert!(ledger.iter().all(|e| e.fate == Fate::Acknowledged && e.attempts == 1));
}

#[tokio::test]
async fn an_emitted_batch_is_pushed_together_and_raw_events_as_they_stand() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let _client = signed_in(&simulator, &receiver, 1001).await;
    let options = EmitOptions { event_gen_time: true, json_key: true };
    let events = vec![("AgentState_Busy", Value::Null), ("AgentEvent_Hold", json!("1-2")), ("X", json!(""))];
    simulator.emit_batch(&agent(1001), events, options).unwrap();
    let push = receiver.wait(2).await[1].clone();
    assert_eq!(push.types(), ["AgentState_Busy", "AgentEvent_Hold", "X"]);
    assert_eq!(push.body()["eventList"][1]["content"], "1-2");
    assert!(push.body()["eventList"][2]["eventGenTime"].is_u64());
    assert!(push.body()["eventList"][2]["jsonKey"].is_array());
    assert!(simulator.drained(LIMIT).await);
    simulator.emit_raw(&agent(1001), "{broken").unwrap();
    assert_eq!(receiver.wait(3).await[2].text, r#"{"workNo":"1001","eventList":[{broken]}"#);
}

#[tokio::test]
async fn pushes_share_a_kept_connection_or_with_the_setting_have_one_each() {
    for (new, connections) in [(false, 1), (true, 4)] {
        let simulator = start(Settings { push_new_connection: new, ..settings() }).await;
        let receiver = Receiver::start().await;
        let _client = signed_in(&simulator, &receiver, 1001).await;
        for _ in 0..3 {
            emit(&simulator, 1001, "AgentState_Busy");
            assert!(simulator.drained(LIMIT).await);
        }
        let last = receiver.wait(4).await[3].connection;
        assert_eq!(last + 1, connections);
    }
}

#[tokio::test]
async fn the_legacy_shape_has_one_event_and_takes_an_empty_answer() {
    let simulator = start(Settings { push_shape: PushShape::Legacy, ..settings() }).await;
    let receiver = Receiver::start().await;
    receiver.answer(&[Answer::Body(200, ""), Answer::Body(200, r#"{"retcode":0}"#)]);
    let _client = signed_in(&simulator, &receiver, 1001).await;
    let pushes = receiver.wait(2).await;
    assert_eq!(pushes[0].body()["event"]["eventType"], "AgentOther_InService");
    assert_eq!(pushes[1].body()["event"]["eventType"], "AgentState_Ready");
    assert_eq!(pushes[1].body()["retcode"], "0");
}

#[tokio::test]
async fn a_legacy_login_may_name_a_push_url_and_its_pushes_have_no_token() {
    for (push_shape, push) in [(PushShape::Legacy, true), (PushShape::EventList, false)] {
        let simulator = start(Settings { push_shape, ..settings() }).await;
        let receiver = Receiver::start().await;
        let body = json!({"password": PASSWORD, "phonenum": "1", "pushUrl": receiver.uri()});
        assert_eq!(Client::new(&simulator, 1001).login(&body).await.retcode(), "0");
        assert_eq!(simulator.session(&agent(1001)).unwrap().push, push);
        if push {
            assert_eq!(receiver.wait(1).await[0].headers.get("service_token"), None);
        }
    }
}

#[tokio::test]
async fn nothing_is_pushed_outside_the_trust_list_and_the_agent_is_forced_out() {
    let settings = Settings {
        callback_trust_list: "http://localhost/other".into(),
        push_fail_total_ms: 150,
        ..settings()
    };
    let simulator = start(settings).await;
    let receiver = Receiver::start().await;
    Client::new(&simulator, 1001).login_to(&receiver).await;
    assert!(simulator.wait_for(LIMIT, |s| s.total.signed_out(SignOut::PushFailure) == 1).await);
    assert!(receiver.pushes().is_empty());
}

#[tokio::test]
async fn the_trust_list_can_match_by_prefix() {
    let receiver = Receiver::start().await;
    let entry = receiver.uri().split("/callback").next().unwrap().to_owned() + "/";
    let settings = Settings {
        callback_trust_list: format!("https://x.example/;{entry}"),
        trust_list_match: TrustListMatch::Prefix,
        ..settings()
    };
    let simulator = start(settings).await;
    signed_in(&simulator, &receiver, 1001).await;
}

/// A receiver with a certificate of its own CA for `names`, and that CA.
async fn https_receiver(name: &str) -> (Receiver, String) {
    let names = if name == "localhost" { Vec::new() } else { vec![name.to_owned()] };
    let (chain, key, ca) = match names.is_empty() {
        true => trust::generate(&[]).unwrap(),
        false => trust::generate_for(&names).unwrap(),
    };
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    (Receiver::start_with(Some(Arc::new(config))).await, ca.unwrap())
}

async fn first_push_succeeds(settings: Settings, receiver: &Receiver) -> bool {
    let simulator = start(settings).await;
    Client::new(&simulator, 1001).login_to(receiver).await;
    let settled = |s: &crate::simulate::Statistics| s.total.pushes_failed + s.total.pushes_acknowledged > 0;
    assert!(simulator.wait_for(LIMIT, settled).await);
    simulator.statistics().total.pushes_failed == 0
}

#[tokio::test]
async fn the_callbacks_certificate_is_checked_unless_all_are_trusted() {
    let (receiver, ca) = https_receiver("localhost").await;
    assert!(!first_push_succeeds(settings(), &receiver).await, "no trust store");

    let mut all = settings();
    all.eventpush.ssl.trust_all = true;
    assert!(first_push_succeeds(all, &receiver).await, "trustAll");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &ca).unwrap();
    let mut trusting = settings();
    trusting.eventpush.ssl.cert.file = Some(file.path().to_owned());
    assert!(first_push_succeeds(trusting, &receiver).await, "cert.file");

    let (_, stranger) = https_receiver("localhost").await;
    let mut wrong = settings();
    wrong.eventpush.ssl.cert.pem = Some(stranger);
    assert!(!first_push_succeeds(wrong, &receiver).await, "another CA");
}

#[tokio::test]
async fn the_name_in_the_callbacks_certificate_is_checked_unless_switched_off() {
    let (receiver, ca) = https_receiver("elsewhere.example").await;
    let mut strict = settings();
    strict.eventpush.ssl.cert.pem = Some(ca.clone());
    let lax = Settings { check_callback_host_names: false, ..strict.clone() };
    assert!(!first_push_succeeds(strict, &receiver).await);
    assert!(first_push_succeeds(lax.clone(), &receiver).await);

    let (stranger, _) = https_receiver("elsewhere.example").await;
    assert!(!first_push_succeeds(lax, &stranger).await, "the chain is checked all the same");
}
