use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;
use crate::simulate::{Fault, FaultKind, Operation, Settings, Simulator};

/// Sends a request as bytes and gives the answer as text.
async fn raw(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let text = String::from_utf8(answer.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
        let n = tokio::time::timeout(LIMIT, stream.read(&mut chunk)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {text:?}");
        answer.extend_from_slice(&chunk[..n]);
    }
}

fn raw_login(id: u32) -> String {
    let body = poll_login().to_string();
    format!(
        "PUT /agentgateway/resource/onlineagent/{id} HTTP/1.1\r\nHost: gw\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn set_guid_is_spelt_so_and_is_the_first_header_of_login_and_heartbeat() {
    let simulator =
        start(Settings { guid_interval_ms: 1, guid_timeout_ms: 10_000, cookies: true, ..settings() }).await;
    let mut stream = TcpStream::connect(simulator.local_addr()).await.unwrap();
    let login = raw(&mut stream, &raw_login(1001)).await;
    let lines: Vec<&str> = login.lines().collect();
    assert_eq!(lines[0], "HTTP/1.1 200 OK");
    let guid = lines[1].strip_prefix("Set-GUID: JSESSIONID=").expect(lines[1]);
    assert!(lines[2].starts_with("Set-Cookie: AWSALB="), "{login}");
    assert!(lines[3].starts_with("Set-Cookie: SERVERID="), "{login}");
    assert_eq!(lines[4], "Content-Type: application/json; charset=UTF-8");
    assert!(login.contains("\"message\""), "the body is as it was");
    let cookie = |line: &str| line["Set-Cookie: ".len()..].split(';').next().unwrap().to_owned();
    let cookies = format!("{}; {}", cookie(lines[2]), cookie(lines[3]));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let heartbeat = format!(
        "POST /agentgateway/resource/onlineagent/1001/handshake HTTP/1.1\r\nhost: gw\r\ncookie: {cookies}\r\n\
         set-guid: mine\r\nguid: {guid}\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
    );
    let answer = raw(&mut stream, &heartbeat).await;
    assert!(answer.lines().nth(1).unwrap().starts_with("Set-GUID: JSESSIONID="), "{answer}");
}

#[tokio::test]
async fn pushes_spell_their_headers_as_documented() {
    let simulator = start(settings()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    Client::new(&simulator, 1001).login(&push_login(&uri)).await;
    let (mut stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut head = vec![0u8; 4096];
    let n = stream.read(&mut head).await.unwrap();
    let text = String::from_utf8_lossy(&head[..n]).into_owned();
    for name in ["\r\nContent-Type: application/json; charset=UTF-8\r\n", "\r\nGuid: ", "\r\nservice_token: "]
    {
        assert!(text.contains(name), "{name:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn https_is_served_with_a_certificate_of_the_ca_given_out_under_tls_1_2_and_1_3() {
    let simulator = start(Settings { https: true, ..settings() }).await;
    assert!(simulator.base_url().starts_with("https://127.0.0.1:"));
    let mut roots = rustls::RootCertStore::empty();
    let pem = simulator.ca_pem().unwrap().as_bytes();
    let ca = rustls_pki_types::pem::PemObject::from_pem_slice(pem).unwrap();
    roots.add(ca).unwrap();
    for (i, version) in [&rustls::version::TLS12, &rustls::version::TLS13].into_iter().enumerate() {
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
        let tcp = TcpStream::connect(simulator.local_addr()).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let answer = raw(&mut tls, &raw_login(1001 + u32::try_from(i).unwrap())).await;
        assert!(answer.lines().nth(1).unwrap().starts_with("Set-GUID: "), "{answer}");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn cookies_of_the_login_are_required_on_later_calls() {
    let simulator = start(Settings { cookies: true, ..settings() }).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    assert_eq!(client.cookies.len(), 2);
    assert_eq!(client.handshake().await.retcode(), "0");
    let mut bare = Client { cookies: Vec::new(), ..client.clone() };
    assert_eq!(bare.handshake().await.retcode(), "100-006");
    bare.cookies = vec![client.cookies[0].clone()];
    assert_eq!(bare.handshake().await.retcode(), "100-006");
}

#[tokio::test]
async fn wrong_paths_methods_and_content_types_do_not_reach_the_interface() {
    let simulator = start(settings()).await;
    let client = Client::new(&simulator, 1001);
    for (method, path, status) in [
        (Method::PUT, "onlineagent/1001/forceLogin", 404),
        (Method::POST, "onlineagent/1001/resetSkill/true", 404),
        (Method::POST, "onlineagent/1001/resetskill", 404),
        (Method::POST, "onlineagent/1001/rest/60", 404),
        (Method::PUT, "onlineagent/0100", 404),
        (Method::PUT, "onlineagent/60000", 404),
        (Method::PUT, "onlineagent/abc", 404),
        (Method::PUT, "onlineagent/1001/", 404),
        (Method::GET, "agentevent/1001/x", 404),
        (Method::PUT, "agentevents/1001", 404),
        (Method::POST, "onlineagent/1001", 405),
        (Method::GET, "onlineagent/1001/handshake", 405),
        (Method::POST, "onlineagent/1001/logout", 405),
    ] {
        let reply = client.send(method, path, &[], "").await;
        assert_eq!(reply.status, StatusCode::from_u16(status).unwrap(), "{path}");
    }
    for content_type in ["", "text/plain"] {
        let headers = [("Content-Type", content_type)];
        let reply = client.send(Method::POST, "onlineagent/1001/handshake", &headers, "").await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}

#[tokio::test]
async fn a_newer_gateway_takes_greater_agent_ids() {
    let simulator = start(Settings { agent_id_limit: 999_999, ..settings() }).await;
    let reply = Client::new(&simulator, 999_999).login(&poll_login()).await;
    assert_eq!(reply.retcode(), "100-004");
}

async fn heartbeat(client: &Client) -> Option<Reply> {
    client.try_send(Method::POST, "onlineagent/1001/handshake", &[], "").await
}

async fn faulty(kind: FaultKind) -> (Simulator, Client) {
    let simulator = start(settings()).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to_poll().await;
    simulator.inject(Fault::next(Operation::Handshake, 2, kind).of("1001"));
    (simulator, client)
}

#[tokio::test]
async fn injected_faults_meet_the_next_calls_and_no_more() {
    let (_simulator, client) = faulty(FaultKind::Retcode("000-004".into())).await;
    assert_eq!(heartbeat(&client).await.unwrap().retcode(), "000-004");
    assert_eq!(client.call(Method::GET, "agentstatus").await.retcode(), "0");
    assert_eq!(heartbeat(&client).await.unwrap().retcode(), "000-004");
    assert_eq!(heartbeat(&client).await.unwrap().retcode(), "0");

    let (_simulator, client) = faulty(FaultKind::Status(502)).await;
    assert_eq!(heartbeat(&client).await.unwrap().status, StatusCode::BAD_GATEWAY);

    let (simulator, client) = faulty(FaultKind::Drop).await;
    assert!(heartbeat(&client).await.is_none());
    assert_eq!(simulator.counts(&agent(1001)).heartbeats, 0);

    let (simulator, client) = faulty(FaultKind::DropAnswer).await;
    assert!(heartbeat(&client).await.is_none());
    assert_eq!(simulator.counts(&agent(1001)).heartbeats, 1);

    let (_simulator, client) = faulty(FaultKind::Garbage).await;
    assert_eq!(heartbeat(&client).await.unwrap().body, serde_json::Value::Null);

    let (simulator, client) = faulty(FaultKind::DelayMs(100)).await;
    let before = tokio::time::Instant::now();
    assert_eq!(heartbeat(&client).await.unwrap().retcode(), "0");
    assert!(before.elapsed() >= Duration::from_millis(100));
    simulator.clear_faults();
}

#[tokio::test]
async fn a_gateway_that_is_away_refuses_connections_and_comes_back_at_its_port_with_its_sessions() {
    let simulator = start(settings()).await;
    let receiver = Receiver::start().await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    receiver.wait(1).await;
    simulator.pause_listening().await;
    assert!(heartbeat(&client).await.is_none());
    simulator.emit(&agent(1001), "AgentState_Busy", serde_json::Value::Null, Default::default()).unwrap();
    receiver.wait_until(|pushes| pushes.iter().any(|p| p.text.contains("AgentState_Busy"))).await;
    simulator.resume_listening().await.unwrap();
    assert_eq!(heartbeat(&client).await.unwrap().retcode(), "0");
}
