//! Bytes: what we write, and the many ways in which gateways answer.

use http::HeaderValue;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::session::config::{AgentConfig, RawAgent, RawGateway, validate};

fn configs(agent: serde_json::Value) -> (GatewayConfig, AgentConfig) {
    let gateway: RawGateway = serde_json::from_value(serde_json::json!({
        "name": "main", "base_url": "https://gw.example:8043/agentgateway/resource/", "ca_file": crate::session::TEST_CA,
        "callback_uri": "https://relay.example/push/main",
    }))
    .unwrap();
    let mut raw = serde_json::json!({
        "gateway": "main", "id": "291", "phone_number": "70004", "password_env": "CARGO_PKG_NAME",
    });
    raw.as_object_mut().unwrap().extend(agent.as_object().unwrap().clone());
    let raw: RawAgent = serde_json::from_value(raw).unwrap();
    let mut problems = crate::config::Problems::default();
    let mut config = validate(vec![gateway], vec![raw], &mut problems);
    assert!(problems.found().is_empty(), "{:?}", problems.found());
    (config.gateways.remove(0), AgentConfig::clone(&config.agents[0]))
}

fn request(operation: Operation, agent: serde_json::Value) -> Request<Full<Bytes>> {
    let (gateway, agent) = configs(agent);
    let (password, token) = ("pass".into(), "Token1".into());
    let cookies = vec![
        Cookie { name: "route".into(), value: "n1".into() },
        Cookie { name: "lb".into(), value: "2".into() },
    ];
    let ticket = Ticket::new("uuid.AgentGateway0".into(), cookies);
    let call = Call {
        operation,
        agent: &agent,
        password: operation.signs_in().then_some(&password),
        token: Some(&token),
        ticket: (!operation.signs_in()).then_some(&ticket),
    };
    Wire::new(&gateway).request(call, &gateway.bases()[0]).unwrap()
}

async fn body(request: Request<Full<Bytes>>) -> serde_json::Value {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_sign_in_sends_what_is_configured_and_always_releasephone() {
    let login = request(Operation::Login, serde_json::json!({}));
    assert_eq!(login.method(), Method::PUT);
    assert_eq!(login.uri(), "https://gw.example:8043/agentgateway/resource/onlineagent/291");
    assert_eq!(login.headers()[CONTENT_TYPE], "application/json; charset=UTF-8");
    assert!(!login.headers().contains_key(GUID) && !login.headers().contains_key(COOKIE));
    assert_eq!(
        body(login).await,
        serde_json::json!({
            "password": "pass", "phonenum": "70004", "releasephone": true,
            "callBackUri": "https://relay.example/push/main", "serviceToken": "Token1",
        })
    );
}

#[tokio::test]
async fn all_sixteen_parameters_have_the_gateways_own_names() {
    let login = request(
        Operation::ForceLogin,
        serde_json::json!({
            "autoanswer": false, "autoenteridle": true, "releasephone": false, "agenttype": 11, "status": 3,
            "ip": "10.1.2.3", "entry_ip": "10.1.2.4", "phonelinkage": true, "check_in_webm": false,
            "check_in_mailm": true, "vc_phone_number": "80004", "listen_status": true,
        }),
    );
    assert!(login.uri().path().ends_with("/onlineagent/291/forcelogin"));
    assert_eq!(
        body(login).await,
        serde_json::json!({
            "password": "pass", "phonenum": "70004", "autoanswer": false, "autoenteridle": true,
            "releasephone": false, "agenttype": 11, "status": 3, "ip": "10.1.2.3", "entryIp": "10.1.2.4",
            "phonelinkage": true, "checkInWebm": false, "checkInMailm": true, "vcPhoneNumber": "80004",
            "listenStatus": true, "callBackUri": "https://relay.example/push/main", "serviceToken": "Token1",
        })
    );
}

#[test]
fn a_heartbeat_brings_guid_cookies_and_token_marked_as_secret() {
    let beat = request(Operation::Handshake, serde_json::json!({}));
    assert_eq!(
        (beat.method(), beat.uri().path()),
        (&Method::POST, "/agentgateway/resource/onlineagent/291/handshake")
    );
    assert_eq!(beat.headers()[GUID], "uuid.AgentGateway0");
    assert_eq!(beat.headers()[COOKIE], "route=n1; lb=2");
    assert_eq!(beat.headers()[SERVICE_TOKEN], "Token1");
    let shown = format!("{:?}", beat.headers());
    assert!(
        !shown.contains("AgentGateway0") && !shown.contains("n1") && !shown.contains("Token1"),
        "{shown}"
    );
}

#[test]
fn skills_and_sign_out_are_asked_for_by_path() {
    let path = |operation, agent| {
        let request = request(operation, agent);
        assert!(!request.headers().contains_key(SERVICE_TOKEN));
        (
            request.method().clone(),
            request.uri().path_and_query().unwrap().as_str().rsplit_once("291/").unwrap().1.to_owned(),
        )
    };
    let all = path(Operation::ResetSkill, serde_json::json!({}));
    assert_eq!(all, (Method::POST, "resetskill/true".into()));
    let some = path(Operation::ResetSkill, serde_json::json!({"skills": [1, 2, 30], "phonelinkage": true}));
    assert_eq!(some.1, "resetskill/false?skillid=1;2;30&phonelinkage=1");
    let linked = path(Operation::ResetSkill, serde_json::json!({"phonelinkage": false}));
    assert_eq!(linked.1, "resetskill/true?phonelinkage=0");
    assert_eq!(path(Operation::Logout, serde_json::json!({})), (Method::DELETE, "logout".into()));
    for (operation, agent, expected) in [
        (Operation::AutoAnswer, serde_json::json!({"after_sign_in_autoanswer": true}), "autoanswer/true"),
        (Operation::AutoAnswer, serde_json::json!({"after_sign_in_autoanswer": false}), "autoanswer/false"),
        (Operation::SayFree, serde_json::json!({"after_sign_in_state": "ready"}), "sayfree"),
        (
            Operation::SayBusy,
            serde_json::json!({"after_sign_in_state": "busy"}),
            "saybusy?reason=0&prolong=true",
        ),
        (
            Operation::SayBusy,
            serde_json::json!({"after_sign_in_state": "busy", "after_sign_in_busy_reason": 201}),
            "saybusy?reason=201&prolong=true",
        ),
        (Operation::Work, serde_json::json!({"after_sign_in_state": "work"}), "work"),
    ] {
        assert_eq!(path(operation, agent), (Method::POST, expected.into()));
    }
    assert_eq!(request(Operation::Work, serde_json::json!({})).headers()[CONTENT_LENGTH], "0");
}

#[test]
fn a_guid_is_what_follows_the_first_equals_sign() {
    let guid = |text: &'static str| {
        super::guid(&HeaderValue::from_static(text)).map(|guid| guid.expose_secret().to_owned())
    };
    assert_eq!(guid("JSESSIONID=a-b.AgentGateway1").as_deref(), Some("a-b.AgentGateway1"));
    assert_eq!(guid("jsessionid=a=b").as_deref(), Some("a=b"));
    assert_eq!(guid("JSESSIONID=a; Path=/; Secure").as_deref(), Some("a"));
    assert_eq!(guid("a-b.AgentGateway1").as_deref(), Some("a-b.AgentGateway1"));
    assert_eq!(guid("JSESSIONID="), None);
    assert_eq!(guid(""), None);
}

#[test]
fn cookies_are_name_and_value_without_attributes() {
    let cookie = super::cookie(&HeaderValue::from_static("route=a=b; Path=/; HttpOnly")).unwrap();
    assert_eq!((cookie.name.as_str(), cookie.value.expose_secret()), ("route", "a=b"));
    assert!(super::cookie(&HeaderValue::from_static("; Path=/")).is_none());
    assert!(super::cookie(&HeaderValue::from_static("nonsense")).is_none());
}

#[test]
fn answers_are_read_whatever_types_and_names_they_use() {
    let read = |text: &str| reply(text.as_bytes()).unwrap();
    assert_eq!(read(r#"{"message":"success","retcode":"0"}"#).retcode.as_str(), "0");
    assert_eq!(read(r#"{"message":"","retcode":0}"#).retcode.as_str(), "0");
    assert_eq!(read("\u{feff}{\"retcode\":\"100-006\"}").retcode.as_str(), "100-006");
    assert_eq!(read(r#"{"msg":"old","retcode":"100-006"}"#).message, "old");
    assert_eq!(read(r#"{"message":null,"msg":"old","retcode":"1"}"#).message, "old");
    let documented = read(
        r#"{"message":"","retcode":"0","result":{"vdnid":1,"workno":"291","mediatype":"TTF",
            "loginTime":"1471585949806","isForceChange":"false","serverName":"AgentGateway","timeRemaining":"9"}}"#,
    );
    let expected = SignInResult {
        media_type: Some("TTF".into()),
        password_change_required: false,
        password_days_left: Some(9),
        login_time: Some(Timestamp(1_471_585_949_806)),
    };
    assert_eq!(documented.result, expected);
    let other = read(r#"{"retcode":"0","result":{"isForceChange":true,"timeRemaining":180,"mediatype":""}}"#);
    assert!(other.result.password_change_required);
    assert_eq!((other.result.password_days_left, other.result.media_type), (Some(180), None));
    assert_eq!(read(r#"{"retcode":"0","result":"odd"}"#).result, SignInResult::default());
}

#[test]
fn an_answer_in_gbk_is_read_even_with_a_backslash_in_a_character() {
    // The second byte of the first character is 0x5c, a backslash in ASCII, just before the closing quote.
    let mut bytes = b"{\"message\":\"".to_vec();
    bytes.extend([0xc4, 0xe3, 0x81, 0x5c]);
    bytes.extend(b"\",\"retcode\":\"100-004\"}");
    let reply = reply(&bytes).unwrap();
    assert_eq!((reply.retcode.as_str(), reply.message.as_str()), ("100-004", "\u{4f60}\u{4e57}"));
}

#[test]
fn what_is_not_an_answer_is_a_broken_call() {
    for text in ["", "<html>502</html>", "{", "[]", "null", r#"{"message":"x"}"#, r#"{"retcode":null}"#] {
        assert!(matches!(reply(text.as_bytes()), Err(CallError::Broken(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _reply = reply(&bytes);
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let _guid = super::guid(&value);
            let _cookie = super::cookie(&value);
        }
    }
}

#[tokio::test]
async fn an_older_gateway_gets_a_push_url_with_the_token_and_another_heartbeat() {
    let agent = serde_json::json!({ "mode": "legacy-push" });
    let sent = body(request(Operation::Login, agent.clone())).await;
    assert_eq!(sent["pushUrl"], "https://relay.example/push/main?token=Token1");
    assert_eq!(push_url("https://relay/push/main?x=1", "abc"), "https://relay/push/main?x=1&token=abc");
    assert!(sent.get("callBackUri").is_none() && sent.get("serviceToken").is_none(), "{sent}");
    let heartbeat = request(Operation::Handshake, agent);
    assert_eq!(
        (heartbeat.method(), heartbeat.uri().path()),
        (&Method::PUT, "/agentgateway/resource/onlineagent/291/heartbeat")
    );
    assert_eq!(heartbeat.headers()[CONTENT_LENGTH], "0");
    let now = body(request(Operation::Login, serde_json::json!({}))).await;
    assert!(now.get("pushUrl").is_none() && now["serviceToken"] == "Token1", "{now}");
}

#[test]
fn an_updated_guid_is_read_from_the_body_with_and_without_its_name() {
    let read = |body: &str| updated_guid(body.as_bytes()).map(|guid| guid.expose_secret().to_owned());
    let guid = Some("uuid.AgentGateway0".to_owned());
    assert_eq!(read(r#"{"retcode":"0","result":{"guid":"uuid.AgentGateway0"}}"#), guid);
    assert_eq!(read(r#"{"retcode":"0","result":{"guid":"JSESSIONID=uuid.AgentGateway0"}}"#), guid);
    for none in [
        "",
        "{}",
        r#"{"result":{}}"#,
        r#"{"result":{"guid":""}}"#,
        r#"{"result":{"guid":7}}"#,
        r#"{"result":{"guid":"a b"}}"#,
    ] {
        assert_eq!(read(none), None, "{none}");
    }
}

#[test]
fn an_updated_guid_and_an_event_are_read_where_the_rest_of_the_answer_is() {
    // The second byte of the last character in GBK is a backslash.
    for message in [b"\xb3\xc9\xb9\x5c".as_slice(), "\u{6210}".as_bytes(), b"success"] {
        for mark in [BYTE_ORDER_MARK, b""] {
            let body = |end: &str| {
                [mark, b"{\"retcode\":\"0\",\"message\":\"", message, b"\"", end.as_bytes(), b"}"].concat()
            };
            let updated = body(r#","result":{"guid":"uuid.AgentGateway0"}"#);
            assert_eq!(reply(&updated).unwrap().retcode.as_str(), "0");
            assert_eq!(updated_guid(&updated).unwrap().expose_secret(), "uuid.AgentGateway0");
            let polled = Bytes::from(body(r#","event":{"eventType":"AgentState_Ready","workNo":"291"}"#));
            assert_eq!(event(&polled).unwrap()[..], polled[mark.len()..]);
            assert_eq!(event(&Bytes::from(body(r#","event":null"#))), None);
        }
    }
}

#[test]
fn an_event_is_handed_on_whatever_its_content_is() {
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    for content in [r#""hi \ud83d""#, "1e999", r#"{"\udfff":1}"#, &deep] {
        let answer = format!(
            r#"{{"message":"\ud83d","retcode":"0","event":{{"eventType":"AgentEvent_MessageData","content":{content}}}}}"#
        );
        let answer = Bytes::from(answer);
        assert_eq!(reply(&answer).unwrap().retcode.as_str(), "0", "{content}");
        assert_eq!(event(&answer), Some(answer), "{content}");
    }
}
