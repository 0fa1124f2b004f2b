//! A client of the gateway and a receiver of its pushes, as plain as can be.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::event::ids::AgentId;
use crate::simulate::settings::Agents;
use crate::simulate::{Settings, Simulator};

/// Long enough for anything that is to happen.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
pub(super) const PASSWORD: &str = "Secret9";

pub(super) fn agent(id: u32) -> AgentId {
    AgentId::parse(&id.to_string()).unwrap()
}

/// Plain HTTP on a free port, agents 1001-1020, a quick retry.
pub(super) fn settings() -> Settings {
    Settings {
        https: false,
        agents: vec![Agents::range(1001, 1020, PASSWORD)],
        push_fail_interval_ms: 30,
        ..Settings::local()
    }
}

pub(super) async fn start(settings: Settings) -> Simulator {
    Simulator::start(settings).await.unwrap()
}

/// One agent's client.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) http: HttpClient<HttpConnector, Full<Bytes>>,
    pub(super) base: String,
    pub(super) id: u32,
    pub(super) guid: Option<String>,
    pub(super) cookies: Vec<String>,
}

/// An answer of the gateway.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Reply {
    pub(super) fn retcode(&self) -> &str {
        self.body["retcode"].as_str().unwrap_or("no retcode")
    }

    pub(super) fn set_guid(&self) -> Option<String> {
        let value = self.headers.get("set-guid")?.to_str().unwrap();
        Some(value.strip_prefix("JSESSIONID=").expect("the prefix").to_owned())
    }
}

impl Client {
    pub(super) fn new(simulator: &Simulator, id: u32) -> Client {
        Client {
            http: HttpClient::builder(TokioExecutor::new()).build_http(),
            base: simulator.base_url(),
            id,
            guid: None,
            cookies: Vec::new(),
        }
    }

    /// Sends with this client's GUID and cookies, if it has any.
    pub(super) async fn send(
        &self,
        method: Method,
        tail: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.try_send(method, tail, headers, body).await.expect("an answer")
    }

    pub(super) async fn try_send(
        &self,
        method: Method,
        tail: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Reply> {
        let mut request = Request::builder().method(method).uri(format!("{}/{tail}", self.base));
        if !headers.iter().any(|(name, _)| *name == "Content-Type") {
            request = request.header("Content-Type", "application/json; charset=UTF-8");
        }
        if let Some(guid) = &self.guid {
            request = request.header("Guid", guid);
        }
        if !self.cookies.is_empty() {
            request = request.header("Cookie", self.cookies.join("; "));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let answer = tokio::time::timeout(LIMIT, self.http.request(request)).await.expect("in time").ok()?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Some(Reply { status: head.status, headers: head.headers, body })
    }

    /// An operation of this agent, by its path's end.
    pub(super) async fn call(&self, method: Method, operation: &str) -> Reply {
        self.send(method, &format!("onlineagent/{}/{operation}", self.id), &[], "").await
    }

    /// A call of any group, with a body.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> Reply {
        self.send(method, path, &[], &body.to_string()).await
    }

    pub(super) async fn handshake(&mut self) -> Reply {
        let reply = self.call(Method::POST, "handshake").await;
        self.guid = reply.set_guid().or(self.guid.take());
        reply
    }

    pub(super) async fn poll(&mut self) -> Reply {
        let reply = self.send(Method::GET, &format!("agentevent/{}", self.id), &[], "").await;
        self.guid = reply.set_guid().or(self.guid.take());
        reply
    }

    /// Login or forcelogin with this body; keeps what a success gives.
    pub(super) async fn sign_in(&mut self, verb: &str, body: &Value) -> Reply {
        let tail = format!("onlineagent/{}{verb}", self.id);
        let anonymous = Client { guid: None, cookies: Vec::new(), ..self.clone() };
        let reply = anonymous.send(Method::PUT, &tail, &[], &body.to_string()).await;
        if reply.retcode() == "0" {
            self.guid = Some(reply.set_guid().expect("Set-GUID at sign-in"));
            let cookies = reply.headers.get_all("set-cookie").iter();
            self.cookies =
                cookies.map(|c| c.to_str().unwrap().split(';').next().unwrap().to_owned()).collect();
        }
        reply
    }

    pub(super) async fn login(&mut self, body: &Value) -> Reply {
        self.sign_in("", body).await
    }

    pub(super) async fn login_to(&mut self, receiver: &Receiver) {
        let reply = self.login(&push_login(&receiver.uri())).await;
        assert_eq!(reply.retcode(), "0", "{reply:?}");
    }

    pub(super) async fn login_to_poll(&mut self) {
        let reply = self.login(&poll_login()).await;
        assert_eq!(reply.retcode(), "0", "{reply:?}");
    }
}

pub(super) fn push_login(uri: &str) -> Value {
    json!({"password": PASSWORD, "phonenum": "70004", "autoanswer": "true", "status": "4", "agenttype": "4",
           "callBackUri": uri, "serviceToken": "firstToken"})
}

pub(super) fn poll_login() -> Value {
    json!({"password": PASSWORD, "phonenum": "70004"})
}

/// How the receiver answers one push.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Ok,
    Body(u16, &'static str),
    /// After so long.
    Late(Duration),
}

/// A push as it came.
#[derive(Debug, Clone)]
pub(super) struct Push {
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(super) path: String,
    /// The number of the connection it came on.
    pub(super) connection: usize,
}

impl Push {
    pub(super) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(super) fn types(&self) -> Vec<String> {
        let body = self.body();
        let events = body["eventList"].as_array().unwrap().iter();
        events.map(|e| e["eventType"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A receiver of pushes.
pub(super) struct Receiver {
    addr: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pushes: Mutex<Vec<Push>>,
    answers: Mutex<VecDeque<Answer>>,
    always: Mutex<Option<Answer>>,
    connections: AtomicUsize,
    /// Connections that ended by RST.
    resets: AtomicUsize,
    came: Notify,
}

impl Receiver {
    pub(super) async fn start() -> Receiver {
        Receiver::start_with(None).await
    }

    pub(super) async fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (own, tls) = (shared.clone(), tls.map(TlsAcceptor::from));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (own.clone(), tls.clone());
                let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    match tls {
                        None => requests(shared, connection, stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                requests(shared, connection, stream).await;
                            }
                        }
                    }
                });
            }
        });
        Receiver { addr, scheme, shared }
    }

    pub(super) fn uri(&self) -> String {
        format!("{}://localhost:{}/callback/pushresult?x=1", self.scheme, self.addr.port())
    }

    /// Answers the next pushes so, then with success.
    pub(super) fn answer(&self, answers: &[Answer]) {
        self.shared.answers.lock().unwrap().extend(answers.iter().cloned());
    }

    /// Answers every push so from now on, or with success again.
    pub(super) fn answer_always(&self, answer: Option<Answer>) {
        *self.shared.always.lock().unwrap() = answer;
    }

    /// How many connections have ended by RST.
    pub(super) fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::SeqCst)
    }

    pub(super) fn pushes(&self) -> Vec<Push> {
        self.shared.pushes.lock().unwrap().clone()
    }

    /// Waits until so many pushes have come.
    pub(super) async fn wait(&self, count: usize) -> Vec<Push> {
        self.wait_until(|pushes| pushes.len() >= count).await
    }

    pub(super) async fn wait_until(&self, done: impl Fn(&[Push]) -> bool) -> Vec<Push> {
        let waiting = async {
            loop {
                let came = self.shared.came.notified();
                let pushes = self.pushes();
                if done(&pushes) {
                    return pushes;
                }
                came.await;
            }
        };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(pushes) => pushes,
            Err(_) => panic!("only these pushes came: {:#?}", self.pushes()),
        }
    }
}

async fn requests(
    shared: Arc<Shared>,
    connection: usize,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let own = shared.clone();
    let service = service_fn(move |request| receive(own.clone(), connection, request));
    let stream = TokioIo::new(Observed { stream, shared });
    let _ended = http1::Builder::new().serve_connection(stream, service).await;
}

/// A stream that notes a reset, of which hyper says nothing when it has answered.
struct Observed<S> {
    stream: S,
    shared: Arc<Shared>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(&read, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset) {
            self.shared.resets.fetch_add(1, Ordering::SeqCst);
            self.shared.came.notify_waiters();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn receive(
    shared: Arc<Shared>,
    connection: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let path = head.uri.path_and_query().unwrap().to_string();
    shared.pushes.lock().unwrap().push(Push { headers: head.headers, text, path, connection });
    let next = shared.answers.lock().unwrap().pop_front();
    let always = shared.always.lock().unwrap().clone();
    shared.came.notify_waiters();
    let (status, body) = match next.or(always).unwrap_or(Answer::Ok) {
        Answer::Ok => (200, r#"{"message":"success","retcode":"0"}"#),
        Answer::Body(status, body) => (status, body),
        Answer::Late(by) => {
            tokio::time::sleep(by).await;
            (200, r#"{"message":"success","retcode":"0"}"#)
        }
    };
    Ok(Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap())
}
