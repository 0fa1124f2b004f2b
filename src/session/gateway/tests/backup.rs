//! Two servers of one gateway, one of them away by turns.

use super::super::addresses::Patience;
use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
const REFUSED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{\"retcode\":\"100-007\"}";
const DEADLINE: Duration = Duration::from_secs(30);

/// A client of both that is quick to give up, and an agent.
fn client(main: &Server, backup: &Server) -> (GatewayClient, AgentConfig) {
    let both = tempfile::NamedTempFile::new().unwrap();
    let bundle = [&main.ca_file, &backup.ca_file].map(|file| std::fs::read_to_string(file.path()).unwrap());
    std::fs::write(both.path(), bundle.concat()).unwrap();
    let (gateway, agent) = main.configs(|gateway| {
        gateway.ca_file = Some(both.path().to_owned());
        gateway.backup_base_urls = vec![backup.base_url()];
    });
    let mut client = GatewayClient::new(&gateway, None).unwrap();
    let millis = Duration::from_millis;
    let patience =
        Patience { switch_after: millis(200), probe_interval: millis(100), memory: Duration::from_secs(60) };
    let bases = vec![main.base_url(), backup.base_url()];
    client.addresses = Arc::new(Addresses::new(gateway.name, bases, patience));
    (client, agent)
}

/// A heartbeat of a session that was signed in at the main address.
async fn beat(client: &GatewayClient, agent: &AgentConfig) -> Answer {
    let ticket = Ticket { address: Some(0), ..Ticket::new("guid-secret".into(), Vec::new()) };
    ask_with(client, agent, Operation::Handshake, ticket).await
}

/// Makes calls until this server has got one, and fails when that takes too long.
async fn call_until_reached(client: &GatewayClient, agent: &AgentConfig, server: &Server) {
    let before = server.requests().len();
    let deadline = Instant::now() + DEADLINE;
    while !server.requests()[before..].contains("/handshake") {
        assert!(Instant::now() < deadline, "the calls do not reach the other address");
        drop(beat(client, agent).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_go_to_the_backup_while_the_main_address_is_away_and_come_back_with_it() {
    let (main, backup) = (Server::start(&["localhost"], OK).await, Server::start(&["localhost"], OK).await);
    let (client, agent) = client(&main, &backup);
    assert!(ask(&client, &agent, Operation::Handshake).await.verdict.is_ok());
    assert_eq!(backup.requests(), "");

    main.state.absent.store(true, Ordering::SeqCst);
    call_until_reached(&client, &agent, &backup).await;
    main.state.absent.store(false, Ordering::SeqCst);
    call_until_reached(&client, &agent, &main).await;
    // What led back are questions without a secret.
    let asked = main.requests();
    let asked =
        asked.split("get /agentgateway/resource/onlineagent/291/agentstatus http/1.1\r\n").nth(1).unwrap();
    assert!(!asked.split("\r\n\r\n").next().unwrap().contains("secret"), "{asked}");

    main.state.absent.store(true, Ordering::SeqCst);
    call_until_reached(&client, &agent, &backup).await;
    backup.state.absent.store(true, Ordering::SeqCst);
    main.state.absent.store(false, Ordering::SeqCst);
    call_until_reached(&client, &agent, &main).await;
}

#[tokio::test]
async fn a_gateway_that_refuses_everything_is_there_and_keeps_its_calls() {
    let main = Server::start(&["localhost"], REFUSED).await;
    let backup = Server::start(&["localhost"], OK).await;
    let (client, agent) = client(&main, &backup);
    for _ in 0..20 {
        let answer = ask(&client, &agent, Operation::Handshake).await;
        assert_eq!(answer.verdict.unwrap().retcode.as_str(), "100-007");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(backup.requests(), "");
}

/// A server on which the gateway's application did not start.
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n<html></html>";
const REFUSED_BY_STATUS: &str =
    "HTTP/1.1 404 Not Found\r\nContent-Length: 21\r\n\r\n{\"retcode\":\"100-006\"}";

#[tokio::test]
async fn a_server_without_the_gateway_is_no_gateway_and_does_not_attract_the_return_to_it() {
    let (main, backup) = (Server::start(&["localhost"], OK).await, Server::start(&["localhost"], OK).await);
    let (client, agent) = client(&main, &backup);
    *main.state.instead.lock().unwrap() = Some(NOT_FOUND.as_bytes());
    call_until_reached(&client, &agent, &backup).await;
    let asked = || main.requests().matches("/agentstatus").count();
    let (before, deadline) = (main.requests().matches("/handshake").count(), Instant::now() + DEADLINE);
    while asked() < 5 {
        assert!(Instant::now() < deadline, "the main address is not asked");
        assert!(ask(&client, &agent, Operation::Handshake).await.verdict.is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(main.requests().matches("/handshake").count(), before);
    *main.state.instead.lock().unwrap() = None;
    call_until_reached(&client, &agent, &main).await;
}

#[tokio::test]
async fn an_answer_with_a_retcode_is_the_gateways_whatever_its_status_and_a_call_it_does_not_know_says_nothing()
 {
    for (answer, operation) in [(REFUSED_BY_STATUS, Operation::Handshake), (NOT_FOUND, Operation::UpdateGuid)]
    {
        let main = Server::start(&["localhost"], answer).await;
        let backup = Server::start(&["localhost"], OK).await;
        let (client, agent) = client(&main, &backup);
        for _ in 0..20 {
            let answer = ask(&client, &agent, operation).await;
            assert_eq!(answer.verdict, Err(CallError::Status(404)));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(backup.requests(), "");
    }
}

const UNKNOWN_SESSION: &str = "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{\"retcode\":\"100-006\"}";

#[tokio::test]
async fn calls_stay_at_a_backup_that_did_not_know_the_sessions_until_it_fails() {
    let main = Server::start(&["localhost"], OK).await;
    let backup = Server::start(&["localhost"], UNKNOWN_SESSION).await;
    let (client, agent) = client(&main, &backup);
    let beat = async || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        beat(&client, &agent).await.address
    };
    assert_eq!(beat().await, Some(0));
    main.state.absent.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + DEADLINE;
    while beat().await != Some(1) {
        assert!(Instant::now() < deadline, "the calls do not reach the backup");
    }
    main.state.absent.store(false, Ordering::SeqCst);
    while main.requests().matches("/agentstatus").count() < 6 {
        assert!(Instant::now() < deadline, "the main address is not asked");
        assert_eq!(beat().await, Some(1));
    }
    backup.state.absent.store(true, Ordering::SeqCst);
    while beat().await != Some(0) {
        assert!(Instant::now() < deadline, "the calls do not leave a backup that fails");
    }
}
