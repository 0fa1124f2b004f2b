//! A caller of the API who believes nothing: each answer must be one that the document allows.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::in_process::{connect_to, connector_to};

#[path = "../../../src/admin/schema.rs"]
mod schema;

const DOCUMENT: &str = include_str!("../../../src/admin/openapi.json");

/// Calls with one token, or with none.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The head, in lower case.
    pub(super) head: String,
    pub(super) raw_head: String,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// `error.code`; empty when there is none.
    pub(super) fn code(&self) -> String {
        let value: Value = serde_json::from_str(&self.text).unwrap_or_default();
        value["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn has(&self, line: &str) -> bool {
        self.head.lines().any(|found| found == line)
    }
}

impl Client {
    pub(super) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "").await
    }

    pub(super) async fn post(&self, path: &str) -> Reply {
        self.call("POST", path, "").await
    }

    /// Asks, and does not wait for the answer.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}{length}\r\n",
            token.unwrap_or_default()
        );
        let mut stream = TcpStream::connect(self.address).await.expect("the operations listener accepts");
        let request = [head.as_bytes(), body.as_bytes()].concat();
        // A listener that has seen enough may close before all is sent; its answer is there all the same.
        drop(stream.write_all(&request).await);
        stream
    }

    /// Calls, and fails when the answer is none that the document knows for this path.
    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let reply = self.send(method, path, body).await;
        check(method, path, &reply);
        reply
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = self.ask(method, path, body).await;
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(crate::support::DEADLINE, read).await.expect("an answer");
        // One that has closed before all was sent may reset the connection behind its answer.
        let reset = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(read.is_ok() || reset, "{method} {path}: {read:?}");
        let reply = reply(&bytes);
        let announced = reply.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let announced = announced.map(|length| length.parse::<usize>().expect("a length"));
        assert!(
            announced.map_or(reply.status == 204, |length| length == reply.text.len()),
            "{method} {path}: the answer is not whole: {reply:?}"
        );
        reply
    }
}

/// Reads an answer to its end.
pub(super) fn reply(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Reply { status, head: head.to_lowercase(), raw_head: head.to_owned(), text: body.to_owned() }
}

fn check(method: &str, path: &str, reply: &Reply) {
    let document: Value = serde_json::from_str(DOCUMENT).expect("the document is JSON");
    let path = path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/api/v1").unwrap_or_else(|| panic!("{path} is not of the API"));
    let paths = document["paths"].as_object().expect("paths");
    // Of two templates that fit, the one that says more counts.
    let fitting = paths.iter().filter(|(template, _)| fits(template, path));
    let Some((template, methods)) = fitting.min_by_key(|(template, _)| template.matches('{').count()) else {
        assert_eq!(reply.status, 404, "{path} is not in the document: {reply:?}");
        return check_error(&document, reply);
    };
    let Some(operation) = methods.get(method.to_lowercase()) else {
        assert_eq!(reply.status, 405, "{method} {template} is not in the document: {reply:?}");
        return check_error(&document, reply);
    };
    let responses = &operation["responses"];
    // What the gateway itself answered is marked, and may have any status.
    let passed = reply.has("ccrelay-answer: gateway");
    let documented = if passed { &responses["default"] } else { &responses[reply.status.to_string()] };
    assert!(!documented.is_null(), "{method} {template}: {} is not documented: {reply:?}", reply.status);
    let documented = match documented["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect("the reference"),
        None => documented,
    };
    let Some(content) = documented["content"].as_object() else {
        assert_eq!(reply.text, "", "{method} {template}: no content is documented");
        return;
    };
    let said = reply.head.lines().find_map(|line| line.strip_prefix("content-type: "));
    let said = said.and_then(|said| said.split(';').next()).unwrap_or_default();
    if passed && (said != "application/json" || reply.text.is_empty()) {
        // A gateway in trouble says what it likes.
        return;
    }
    let kind = content.keys().find(|kind| *kind == said);
    let kind = kind.unwrap_or_else(|| panic!("{method} {template}: another content type: {reply:?}"));
    let schema = &content[kind]["schema"];
    let values: Vec<Value> = match kind.as_str() {
        "application/json" => vec![reply.json()],
        "application/x-ndjson" => {
            reply.text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
        }
        _ => Vec::new(),
    };
    for value in values {
        let faults = schema::faults(&document, schema, &value);
        assert!(faults.is_empty(), "{method} {template} {}: {faults:#?}", reply.status);
    }
}

fn check_error(document: &Value, reply: &Reply) {
    let faults = schema::faults(document, &document["components"]["schemas"]["Error"], &reply.json());
    assert!(faults.is_empty(), "{faults:#?}");
}

fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            // The last name of a call that is passed through takes all that is left.
            (Some("{path}"), Some(_)) => return true,
            (Some(name), Some(found)) if name.starts_with('{') && !found.is_empty() => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

/// Sends one request over TLS and reads the answer.
pub(super) async fn over_tls(address: SocketAddr, ca_pem: &str, request: &str) -> Reply {
    let mut stream = connect_to(address, connector_to(ca_pem)).await;
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes).await);
    reply(&bytes)
}
