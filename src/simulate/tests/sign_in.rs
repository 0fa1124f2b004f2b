use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::support::*;
use crate::simulate::settings::{Agents, OutsideTrustList, Phones};
use crate::simulate::{EmitOptions, Fault, FaultKind, Operation, Settings};

async fn retcode_of(settings: Settings, body: Value) -> String {
    let simulator = start(settings).await;
    let reply = Client::new(&simulator, 1001).login(&body).await;
    assert_eq!(reply.status, 200);
    reply.retcode().to_owned()
}

fn with(key: &str, value: Value) -> Value {
    let mut body = push_login("https://receiver.example/push");
    body[key] = value;
    body
}

#[tokio::test]
async fn a_login_is_answered_with_a_guid_and_the_documented_result() {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    let reply = client.login(&poll_login()).await;
    assert_eq!(reply.retcode(), "0");
    assert!(client.guid.unwrap().ends_with(".AgentGateway0"));
    assert_eq!(reply.body["result"]["workno"], "1001");
    assert_eq!(reply.body["result"]["mediatype"], "TTF");
    assert!(reply.body["result"]["loginTime"].as_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000);
    simulator.stop().await;
}

#[tokio::test]
async fn body_parameters_may_be_strings_or_native_values() {
    for (key, value) in [
        ("autoanswer", json!(true)),
        ("autoanswer", json!("true")),
        ("status", json!(5)),
        ("status", json!("3")),
        ("agenttype", json!(11)),
        ("phonenum", json!(70004)),
        ("ip", json!("10.1.2.3")),
        ("unheardOf", json!({"a": 1})),
    ] {
        assert_eq!(retcode_of(settings(), with(key, value.clone())).await, "0", "{key} {value}");
    }
}

#[tokio::test]
async fn bad_parameters_are_refused_each_with_its_retcode() {
    let long = |n| json!("a".repeat(n));
    for (key, value, retcode) in [
        ("password", Value::Null, "100-001"),
        ("password", long(33), "100-001"),
        ("phonenum", Value::Null, "100-001"),
        ("phonenum", json!(""), "100-001"),
        ("phonenum", long(25), "100-001"),
        ("phonenum", json!("7000x"), "100-013"),
        ("serviceToken", long(51), "100-001"),
        ("serviceToken", json!("with-dash"), "100-001"),
        ("callBackUri", json!("/relative"), "100-001"),
        ("callBackUri", json!("ftp://receiver.example/"), "100-001"),
        ("callBackUri", json!(format!("https://receiver.example/{}", "a".repeat(200))), "100-001"),
        ("status", json!("9"), "100-011"),
        ("autoanswer", json!("maybe"), "100-011"),
        ("agenttype", json!("5"), "100-012"),
        ("ip", json!("::1"), "100-016"),
        ("password", json!("wrong"), "100-004"),
    ] {
        assert_eq!(retcode_of(settings(), with(key, value.clone())).await, retcode, "{key} {value}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let simulator = start(settings()).await;
    let client = Client::new(&simulator, 1001);
    for body in ["", "x", "[]", "{\"password\":"] {
        let reply = client.send(Method::PUT, "onlineagent/1001", &[], body).await;
        assert_eq!(reply.retcode(), "100-001", "{body:?}");
        assert_eq!(reply.set_guid(), None);
    }
}

#[tokio::test]
async fn an_unknown_agent_and_a_phone_out_of_range_are_refused() {
    let simulator = start(settings()).await;
    assert_eq!(Client::new(&simulator, 4711).login(&poll_login()).await.retcode(), "100-004");

    let range = Settings { phones: Some(Phones { first: 1, last: 100 }), ..settings() };
    assert_eq!(retcode_of(range, poll_login()).await, "100-014");
    let own = Agents { phone: Some("5".into()), ..Agents::range(1001, 1001, PASSWORD) };
    assert_eq!(retcode_of(Settings { agents: vec![own], ..settings() }, poll_login()).await, "100-014");
}

#[tokio::test]
async fn an_expired_password_is_refused() {
    let agents = vec![Agents { password_expired: true, ..Agents::range(1001, 1001, PASSWORD) }];
    assert_eq!(retcode_of(Settings { agents, ..settings() }, poll_login()).await, "100-020");
}

#[tokio::test]
async fn an_account_is_locked_after_bad_passwords_in_a_row_and_opens_again() {
    let simulator = start(Settings { lockout_attempts: 3, lockout_ms: 500, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    let bad = json!({"password": "wrong", "phonenum": "70004"});
    for _ in 0..3 {
        assert_eq!(client.login(&bad).await.retcode(), "100-004");
    }
    assert_eq!(client.login(&poll_login()).await.retcode(), "110-016");
    tokio::time::sleep(Duration::from_millis(520)).await;
    assert_eq!(client.login(&poll_login()).await.retcode(), "0");
}

#[tokio::test]
async fn with_encrypted_passwords_the_plain_one_is_wrong() {
    let agents = vec![Agents {
        encrypted_password: Some("c1ph3r".to_owned().into()),
        ..Agents::range(1001, 1001, PASSWORD)
    }];
    let settings = Settings { login_password_decrypt: true, agents, ..settings() };
    assert_eq!(retcode_of(settings.clone(), poll_login()).await, "100-004");
    assert_eq!(retcode_of(settings, json!({"password": "c1ph3r", "phonenum": "1"})).await, "0");
}

#[tokio::test]
async fn a_signed_in_agent_must_be_taken_over_by_forcelogin() {
    let simulator = start(settings()).await;
    let mut first = Client::new(&simulator, 1001);
    first.login_to_poll().await;
    let mut second = Client::new(&simulator, 1001);
    assert_eq!(second.login(&poll_login()).await.retcode(), "100-002");
    assert_eq!(second.sign_in("/forcelogin", &poll_login()).await.retcode(), "0");
    assert_eq!(first.call(Method::POST, "handshake").await.retcode(), "000-003");
    assert_eq!(second.call(Method::POST, "handshake").await.retcode(), "0");
    assert_eq!(simulator.counts(&agent(1001)).signed_out(crate::simulate::SignOut::TakenOver), 1);
}

#[tokio::test]
async fn an_agent_that_may_not_be_forced_out_keeps_its_session() {
    let agents = vec![Agents { not_forced: true, ..Agents::range(1001, 1001, PASSWORD) }];
    let simulator = start(Settings { agents, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    assert_eq!(client.sign_in("/forcelogin", &poll_login()).await.retcode(), "0");
    let mut second = Client::new(&simulator, 1001);
    assert_eq!(second.sign_in("/forcelogin", &poll_login()).await.retcode(), "100-015");
    assert_eq!(client.call(Method::POST, "handshake").await.retcode(), "0");
}

#[tokio::test]
async fn the_first_events_follow_the_state_asked_for_and_precede_all_others() {
    for (status, last) in [("3", "AgentState_SetNotReady_Success"), ("4", ""), ("5", "AgentState_Work")] {
        let simulator = start(settings()).await;
        let receiver = Receiver::start().await;
        let mut body = push_login(&receiver.uri());
        body["status"] = json!(status);
        Client::new(&simulator, 1001).login(&body).await;
        simulator.emit(&agent(1001), "AgentEvent_Hold", Value::Null, EmitOptions::default()).unwrap();
        assert!(simulator.drained(LIMIT).await);
        let types: Vec<String> = receiver.pushes().iter().flat_map(Push::types).collect();
        let mut expected = vec!["AgentOther_InService", "AgentState_Ready", last, "AgentEvent_Hold"];
        expected.retain(|event_type| !event_type.is_empty());
        assert_eq!(types, expected);
    }
}

#[tokio::test]
async fn session_calls_beside_an_unanswered_login_are_refused() {
    let simulator = start(Settings { login_delay_ms: 1500, ..settings() }).await;
    let mut first = Client::new(&simulator, 1001);
    let mut other = Client::new(&simulator, 1001);
    let beside = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let login = other.login(&poll_login()).await;
        let forced = other.sign_in("/forcelogin", &poll_login()).await;
        let logout = other.call(Method::DELETE, "logout").await;
        [login.retcode().to_owned(), forced.retcode().to_owned(), logout.retcode().to_owned()]
    };
    let body = poll_login();
    let (login, beside) = tokio::join!(first.login(&body), beside);
    assert_eq!(login.retcode(), "0");
    assert_eq!(beside, ["100-021", "100-021", "000-007"]);
}

#[tokio::test]
async fn a_login_whose_caller_hangs_up_goes_on() {
    let simulator = start(Settings { login_delay_ms: 500, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    let body = poll_login();
    let given_up = tokio::time::timeout(Duration::from_millis(50), client.login(&body)).await;
    assert!(given_up.is_err());
    drop(client);
    assert!(simulator.wait_for(LIMIT, |s| s.signed_in == 1).await);
    assert_eq!(Client::new(&simulator, 1001).login(&poll_login()).await.retcode(), "100-002");
}

#[tokio::test]
async fn with_one_of_address_and_token_the_agent_polls() {
    for key in ["callBackUri", "serviceToken"] {
        let simulator = start(settings()).await;
        let mut body = push_login("https://receiver.example/push");
        body.as_object_mut().unwrap().remove(key);
        assert_eq!(Client::new(&simulator, 1001).login(&body).await.retcode(), "0");
        assert!(!simulator.session(&agent(1001)).unwrap().push, "without {key}");
    }
}

#[tokio::test]
async fn with_the_setting_a_callback_outside_the_trust_list_refuses_the_login() {
    let settings = Settings {
        callback_trust_list: "https://a.example/x; https://receiver.example/push".into(),
        callback_outside_trust_list: OutsideTrustList::RefuseLogin,
        ..settings()
    };
    assert_eq!(retcode_of(settings.clone(), push_login("https://receiver.example/push")).await, "0");
    assert_eq!(retcode_of(settings, push_login("https://receiver.example/push?x=1")).await, "100-001");
}

#[tokio::test]
async fn an_answer_lost_after_a_login_leaves_the_agent_signed_in() {
    let simulator = start(settings()).await;
    simulator.inject(Fault::next(Operation::Login, 1, FaultKind::DropAnswer));
    let client = Client::new(&simulator, 1001);
    let tail = "onlineagent/1001";
    assert!(client.try_send(Method::PUT, tail, &[], &poll_login().to_string()).await.is_none());
    assert_eq!(client.send(Method::PUT, tail, &[], &poll_login().to_string()).await.retcode(), "100-002");
}

#[tokio::test]
async fn a_node_has_the_agents_and_not_the_sessions_of_another() {
    let simulator = start(settings()).await;
    let mut first = Client::new(&simulator, 1001);
    first.login_to_poll().await;
    let base = simulator.add_node().await.unwrap();
    let mut other = Client { base, ..first.clone() };
    assert_eq!(other.handshake().await.retcode(), "100-006");
    assert_eq!(other.call(Method::DELETE, "logout").await.retcode(), "100-006");
    assert_eq!(other.login(&poll_login()).await.retcode(), "100-002");
    assert_eq!(first.handshake().await.retcode(), "0");
    assert_eq!(other.sign_in("/forcelogin", &poll_login()).await.retcode(), "0");
    assert_eq!(other.handshake().await.retcode(), "0");
    assert_eq!(first.handshake().await.retcode(), "100-006");
}
