//! The client against a small real TLS server that answers with prepared bytes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::session::call::Ticket;
use crate::session::config::{AgentConfig, RawAgent, RawGateway, validate};

mod backup;
mod trust;

/// Answers every request with the same bytes and keeps what was asked.
struct Server {
    port: u16,
    ca_file: tempfile::NamedTempFile,
    state: Arc<ServerState>,
}

struct ServerState {
    acceptor: TlsAcceptor,
    answer: &'static str,
    requests: Mutex<Vec<String>>,
    /// Every connection is closed as soon as it is made or used.
    absent: AtomicBool,
    /// Answers so instead, where there is something.
    instead: Mutex<Option<&'static [u8]>>,
    /// How many milliseconds an answer takes.
    slowness: AtomicU64,
}

/// Bytes that mean: never answer.
const SILENCE: &str = "";

impl Server {
    async fn start(names: &[&str], answer: &'static str) -> Server {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Server::with(config, &made.cert.pem(), answer).await
    }

    async fn with(config: rustls::ServerConfig, ca: &str, answer: &'static str) -> Server {
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), ca).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(ServerState {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            answer,
            requests: Mutex::default(),
            absent: AtomicBool::new(false),
            instead: Mutex::default(),
            slowness: AtomicU64::new(0),
        });
        tokio::spawn(serve(listener, state.clone()));
        Server { port, ca_file, state }
    }

    fn base_url(&self) -> String {
        format!("https://localhost:{}/agentgateway/resource", self.port)
    }

    /// All that was asked so far, in small letters.
    fn requests(&self) -> String {
        self.state.requests.lock().unwrap().join("").to_ascii_lowercase()
    }

    fn configs(&self, change: impl Fn(&mut RawGateway)) -> (GatewayConfig, AgentConfig) {
        let mut gateway: RawGateway = serde_json::from_value(serde_json::json!({
            "name": "main", "base_url": self.base_url(),
            "ca_file": self.ca_file.path(), "callback_uri": "https://relay.example/push/main",
        }))
        .unwrap();
        change(&mut gateway);
        let agent: RawAgent = serde_json::from_value(serde_json::json!({
            "gateway": "main", "id": "291", "phone_number": "70004", "password_env": "CARGO_PKG_NAME",
        }))
        .unwrap();
        let mut problems = crate::config::Problems::default();
        let mut config = validate(vec![gateway], vec![agent], &mut problems);
        assert!(problems.found().is_empty(), "{:?}", problems.found());
        (config.gateways.remove(0), AgentConfig::clone(&config.agents[0]))
    }

    async fn ask(&self, operation: Operation, change: impl Fn(&mut RawGateway)) -> Answer {
        let (gateway, agent) = self.configs(change);
        ask(&GatewayClient::new(&gateway, None).unwrap(), &agent, operation).await
    }
}

async fn ask(client: &GatewayClient, agent: &AgentConfig, operation: Operation) -> Answer {
    ask_with(client, agent, operation, Ticket::new("guid-secret".into(), Vec::new())).await
}

async fn ask_with(
    client: &GatewayClient,
    agent: &AgentConfig,
    operation: Operation,
    ticket: Ticket,
) -> Answer {
    let (password, token) = ("pass-secret".into(), "TokenSecret".into());
    let call = Call {
        operation,
        agent,
        password: Some(&password),
        token: Some(&token),
        ticket: (!operation.signs_in()).then_some(&ticket),
    };
    client.call(call).await
}

async fn serve(listener: TcpListener, state: Arc<ServerState>) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(converse(socket, state.clone()));
    }
}

async fn converse(socket: TcpStream, state: Arc<ServerState>) {
    let absent = || state.absent.load(Ordering::SeqCst);
    if absent() {
        return;
    }
    let Ok(mut stream) = state.acceptor.accept(socket).await else { return };
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 || absent() {
            return;
        }
        state.requests.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
        tokio::time::sleep(Duration::from_millis(state.slowness.load(Ordering::SeqCst))).await;
        let answer = state.instead.lock().unwrap().unwrap_or(state.answer.as_bytes());
        if answer != SILENCE.as_bytes() && stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

fn same(_: &mut RawGateway) {}

#[tokio::test]
async fn guid_and_cookies_are_taken_in_any_case_and_position() {
    let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: route=n1; Path=/\r\nDate: x\r\nsEt-gUiD: JSESSIONID=a.AgentGateway1\r\n\
        set-cookie: lb=2\r\nContent-Length: 13\r\n\r\n{\"retcode\":0}";
    let server = Server::start(&["localhost"], answer).await;
    let answer = server.ask(Operation::Login, same).await;
    assert_eq!(answer.verdict.unwrap().retcode.as_str(), "0");
    assert_eq!(answer.guid.unwrap().expose_secret(), "a.AgentGateway1");
    let cookies: Vec<_> =
        answer.cookies.iter().map(|cookie| (cookie.name.as_str(), cookie.value.expose_secret())).collect();
    assert_eq!(cookies, [("route", "n1"), ("lb", "2")]);
    let request = server.requests();
    assert!(request.starts_with("put /agentgateway/resource/onlineagent/291 http/1.1\r\n"), "{request}");
    assert!(request.contains("content-type: application/json; charset=utf-8\r\n"), "{request}");
    assert!(!request.contains("guid:"), "{request}");
}

#[tokio::test]
async fn empty_guids_are_ignored_and_a_later_one_counts() {
    let answer = "HTTP/1.1 200 OK\r\nSet-GUID: \r\nSet-GUID: JSESSIONID=b\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
    let server = Server::start(&["localhost"], answer).await;
    let answer = server.ask(Operation::Handshake, same).await;
    assert_eq!(answer.guid.unwrap().expose_secret(), "b");
    let request = server.requests();
    assert!(request.contains("guid: guid-secret\r\n") && request.contains("service_token: tokensecret\r\n"));
    assert!(request.contains("content-length: 0\r\n"), "{request}");
}

#[tokio::test]
async fn the_guid_of_a_2xx_answer_counts_even_when_its_body_is_of_no_use() {
    for head in ["HTTP/1.1 200 OK", "HTTP/1.1 202 Accepted"] {
        let answer = format!("{head}\r\nSet-GUID: JSESSIONID=c\r\nContent-Length: 2\r\n\r\n{{]");
        let server = Server::start(&["localhost"], answer.leak()).await;
        let answer = server.ask(Operation::Handshake, same).await;
        assert_eq!(answer.guid.unwrap().expose_secret(), "c");
        assert!(answer.verdict.unwrap_err().may_have_arrived());
    }
}

#[tokio::test]
async fn other_statuses_are_failed_calls_and_their_guids_are_not_believed() {
    let answer =
        "HTTP/1.1 503 Busy\r\nSet-GUID: JSESSIONID=d\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
    let server = Server::start(&["localhost"], answer).await;
    let answer = server.ask(Operation::Handshake, same).await;
    assert_eq!(answer.verdict, Err(CallError::Status(503)));
    assert!(answer.guid.is_none());
}

#[tokio::test]
async fn a_server_that_does_not_answer_meets_the_deadline() {
    let server = Server::start(&["localhost"], SILENCE).await;
    let began = tokio::time::Instant::now();
    let answer = server.ask(Operation::Handshake, |gateway| gateway.call_deadline_secs = 1).await;
    assert_eq!(answer.verdict, Err(CallError::TimedOut));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_polled_event_in_gbk_is_handed_on_in_utf8_whether_the_answer_says_so_or_not() {
    let server = Server::start(&["localhost"], SILENCE).await;
    for content_type in ["application/json; charset=GBK", "application/json"] {
        let body = [
            &b"{\"retcode\":\"0\",\"event\":{\"eventType\":\"AgentMediaEvent_Message\",\"content\":\""[..],
            // The second byte of the last character is a backslash.
            b"\xc4\xe3\xba\xc3\x81\x5c\"}}",
        ]
        .concat();
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n");
        *server.state.instead.lock().unwrap() = Some([head.as_bytes(), &body].concat().leak());
        let answer = server.ask(Operation::Poll, same).await;
        assert_eq!(answer.verdict.unwrap().retcode.as_str(), "0");
        let event: serde_json::Value = serde_json::from_slice(&answer.event.unwrap()).unwrap();
        assert_eq!(event["event"]["content"], "\u{4f60}\u{597d}\u{4e57}", "{content_type}");
    }
}

#[tokio::test]
async fn a_polled_event_with_a_broken_character_is_handed_on_with_the_rest_of_its_text() {
    let server = Server::start(&["localhost"], SILENCE).await;
    let body = [
        "{\"retcode\":\"0\",\"event\":{\"content\":\"\u{738b}\u{5c0f}".as_bytes(),
        // Two bytes of three.
        b"\xe4\xbd\"}}",
    ]
    .concat();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    *server.state.instead.lock().unwrap() = Some([head.as_bytes(), &body].concat().leak());
    let answer = server.ask(Operation::Poll, same).await;
    assert_eq!(answer.verdict.unwrap().retcode.as_str(), "0");
    let event: serde_json::Value = serde_json::from_slice(&answer.event.unwrap()).unwrap();
    assert_eq!(event["event"]["content"], "\u{738b}\u{5c0f}\u{fffd}");
}

#[tokio::test]
async fn a_poll_has_a_deadline_of_its_own_since_the_gateway_waits_for_events() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
    let server = Server::start(&["localhost"], answer).await;
    server.state.slowness.store(1500, Ordering::SeqCst);
    let ask = async |operation, secs| {
        let change = |gateway: &mut RawGateway| {
            (gateway.call_deadline_secs, gateway.poll_deadline_secs) = (1, Some(secs));
        };
        server.ask(operation, change).await.verdict.map(|reply| reply.retcode.as_str().to_owned())
    };
    assert_eq!(ask(Operation::Poll, 10).await.as_deref(), Ok("0"));
    assert_eq!(ask(Operation::Poll, 1).await, Err(CallError::TimedOut));
    assert_eq!(ask(Operation::Handshake, 10).await, Err(CallError::TimedOut));
}

#[tokio::test]
async fn a_call_that_no_connection_was_there_for_in_time_was_certainly_not_made() {
    // Connections are made, and the server never says a word: the TLS handshake does not end.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/agentgateway/resource", listener.local_addr().unwrap().port());
    let server = Server::start(&["localhost"], SILENCE).await;
    let (gateway, agent) = server.configs(|gateway| {
        gateway.base_url.clone_from(&url);
        (gateway.call_deadline_secs, gateway.sign_in_deadline_secs) = (1, 1);
    });
    let client = GatewayClient::new(&gateway, None).unwrap();
    for operation in [Operation::Login, Operation::Handshake] {
        let error = ask(&client, &agent, operation).await.verdict.unwrap_err();
        assert!(!error.may_have_arrived(), "{operation:?}: {error:?}");
    }
    let request =
        ForwardRequest::new(http::Method::PUT, "/voicecall/291/answer", None, Bytes::new()).unwrap();
    let forwarded = client.forward(&request, &Ticket::new("guid-secret".into(), Vec::new())).await;
    assert!(!forwarded.verdict.unwrap_err().may_have_arrived());

    // Where the handshake ends, the server may have done what was asked, be the body empty or not.
    let (gateway, agent) = server.configs(|gateway| {
        (gateway.call_deadline_secs, gateway.sign_in_deadline_secs) = (1, 1);
    });
    let client = GatewayClient::new(&gateway, None).unwrap();
    for operation in [Operation::Login, Operation::Handshake] {
        assert_eq!(ask(&client, &agent, operation).await.verdict, Err(CallError::TimedOut), "{operation:?}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_others_have_all_of_their_deadline_when_they_are_sent() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
    let server = Server::start(&["localhost"], answer).await;
    server.state.slowness.store(400, Ordering::SeqCst);
    let (gateway, agent) = server.configs(|gateway| gateway.sign_in_deadline_secs = 1);
    let mut client = GatewayClient::new(&gateway, None).unwrap();
    client.queue = Queue::with_permits(&gateway, 2, 2);
    let (client, agent) = (Arc::new(client), Arc::new(agent));
    let calls = (0..8).map(|_| {
        let (client, agent) = (client.clone(), agent.clone());
        tokio::spawn(async move {
            let _permit = client.admit(Operation::Login, None, None).await.unwrap();
            ask(&client, &agent, Operation::Login).await.verdict
        })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().retcode.as_str(), "0");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_off() {
    let mut answer = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned();
    answer.push_str(&" ".repeat(200_000));
    let server = Server::start(&["localhost"], answer.leak()).await;
    let answer = server.ask(Operation::Handshake, same).await;
    assert!(matches!(answer.verdict, Err(CallError::Broken(_))), "{:?}", answer.verdict);
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_authority_are_certainly_not_reached() {
    let server = Server::start(&["localhost"], SILENCE).await;
    let other = Server::start(&["localhost"], SILENCE).await;
    let ca = other.ca_file.path().to_owned();
    let answer = server.ask(Operation::Login, |gateway| gateway.ca_file = Some(ca.clone())).await;
    let error = answer.verdict.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
    let text = format!("{error:?} {error}");
    assert!(!text.contains("secret") && !text.contains("Secret"), "{text}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = format!("https://localhost:{closed}/agentgateway/resource");
    let answer = server.ask(Operation::Login, |gateway| gateway.base_url.clone_from(&url)).await;
    assert!(!answer.verdict.unwrap_err().may_have_arrived());
}

#[tokio::test]
async fn a_certificate_for_another_name_needs_to_be_told_or_trusted() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
    let server = Server::start(&["cc-gateway"], answer).await;
    let refused = server.ask(Operation::Login, same).await;
    assert!(matches!(refused.verdict, Err(CallError::Unreachable(_))), "{:?}", refused.verdict);
    let named =
        server.ask(Operation::Login, |gateway| gateway.tls_server_name = Some("cc-gateway".into())).await;
    assert!(named.verdict.is_ok(), "{:?}", named.verdict);
    let trusted = server
        .ask(Operation::Login, |gateway| {
            gateway.ca_file = None;
            gateway.dangerously_trust_all = true;
        })
        .await;
    assert!(trusted.verdict.is_ok(), "{:?}", trusted.verdict);
}

#[tokio::test]
async fn a_bundle_without_certificates_is_refused_at_the_start() {
    let server = Server::start(&["localhost"], SILENCE).await;
    let empty = tempfile::NamedTempFile::new().unwrap();
    let (mut gateway, _) = server.configs(same);
    gateway.ca_file = Some(empty.path().to_owned());
    assert!(GatewayClient::new(&gateway, None).is_err());
    gateway.ca_file = Some(empty.path().with_extension("missing"));
    assert!(matches!(
        GatewayClient::new(&gateway, None),
        Err(GatewayError::Unreadable { key: "ca_file", .. })
    ));
}

#[tokio::test]
async fn a_call_is_passed_on_with_guid_and_cookies_and_its_answer_is_passed_back_whatever_its_status() {
    let answer = "HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n\
        {\"retcode\": \"100-006\"}";
    let server = Server::start(&["localhost"], answer).await;
    let (gateway, _) = server.configs(same);
    let client = GatewayClient::new(&gateway, None).unwrap();
    let cookies = vec![crate::session::call::Cookie { name: "route".into(), value: "n1".into() }];
    let ticket = Ticket::new("guid-secret".into(), cookies);
    let path = "/voicecall/291/callout?x=1";
    let request =
        ForwardRequest::new(http::Method::PUT, path, Some("text/plain".into()), Bytes::from_static(b"{}"));
    let forwarded = client.forward(&request.unwrap(), &ticket).await;
    let answer = forwarded.verdict.unwrap();
    assert_eq!((answer.status, answer.content_type.as_deref()), (409, Some("application/json")));
    assert_eq!(&answer.body[..], br#"{"retcode": "100-006"}"#);
    assert_eq!(forwarded.retcode.unwrap().as_str(), "100-006");
    let sent = server.requests();
    assert!(sent.starts_with("put /agentgateway/resource/voicecall/291/callout?x=1 http/1.1\r\n"), "{sent}");
    for part in
        ["guid: guid-secret\r\n", "cookie: route=n1\r\n", "content-type: text/plain\r\n", "\r\n\r\n{}"]
    {
        assert!(sent.contains(part), "{part} in {sent}");
    }
}
