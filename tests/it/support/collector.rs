//! A collector of traces on loopback: takes what OTLP over HTTP brings, as JSON, or answers as it is told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;
use super::{DEADLINE, eventually};

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Take,
    /// It is taken, but of its spans so many are not.
    Reject(u64),
    /// This status.
    Refuse(u16),
    /// This status, and so many seconds to wait.
    Later(u16, u64),
    /// None at all.
    Hang,
}

/// One span as it came.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) name: String,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// Values of all kinds as texts.
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) whole: Value,
}

#[derive(Default)]
struct Book {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    /// Header lines of every request.
    heads: Vec<String>,
    /// Bodies of every request, taken or not.
    bodies: Vec<String>,
}

pub(crate) struct Collector {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    answer: Arc<Mutex<Answer>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Collector {
    pub(crate) async fn start() -> Collector {
        Collector::start_with(None).await
    }

    /// One that speaks TLS, with these certificates.
    pub(crate) async fn start_tls(certificates: &Certificates) -> Collector {
        let chain = CertificateDer::pem_file_iter(&certificates.cert).expect("the file");
        let chain = chain.collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&certificates.key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("known versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a key of the certificate");
        Collector::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (book, answer) = (Arc::<Mutex<Book>>::default(), Arc::new(Mutex::new(Answer::Take)));
        let state = (book.clone(), answer.clone());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (state.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Collector { address, book, answer, server }
    }

    /// Where it is, for `endpoint`.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// From now on requests are answered so.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    /// The spans it has taken.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.book.lock().expect("no panic").spans.clone()
    }

    /// Attributes of the resource of the last request.
    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.book.lock().expect("no panic").resource.clone()
    }

    /// The header lines of every request.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.book.lock().expect("no panic").heads.clone()
    }

    /// The bodies of every request, taken or not.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.book.lock().expect("no panic").bodies.clone()
    }

    /// Waits until it has taken so many spans.
    pub(crate) async fn has(&self, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans"), DEADLINE, || async {
            let spans = self.spans();
            (spans.len() >= count).then_some(spans)
        })
        .await
    }

    /// Waits until so many requests have come.
    pub(crate) async fn was_asked(&self, times: usize) {
        eventually(&format!("{times} requests"), DEADLINE, || async {
            (self.heads().len() >= times).then_some(())
        })
        .await;
    }
}

type State = (Arc<Mutex<Book>>, Arc<Mutex<Answer>>);

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: State) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(take(request, state).await) }
    });
    // The relay goes when its test ends.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn take(request: Request<Incoming>, (book, answer): State) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8(body.to_vec()).expect("JSON is UTF-8");
    let answer = *answer.lock().expect("no panic");
    {
        let mut book = book.lock().expect("no panic");
        book.heads.push(format!("{} {}\n{:?}", head.method, head.uri, head.headers));
        if let Some(value) = head.headers.get("authorization") {
            // What is secret does not show in the headers' own text.
            book.heads.last_mut().expect("it was put there").push_str(value.to_str().expect("text"));
        }
        assert_eq!(head.headers["content-type"], "application/json");
        if matches!(answer, Answer::Take | Answer::Reject(_)) {
            let body: Value = serde_json::from_str(&text).expect("JSON");
            for resource in body["resourceSpans"].as_array().expect("resourceSpans") {
                book.resource = attributes(&resource["resource"]["attributes"]);
                for scope in resource["scopeSpans"].as_array().expect("scopeSpans") {
                    let spans = scope["spans"].as_array().expect("spans");
                    book.spans.extend(spans.iter().map(Span::read));
                }
            }
        }
        book.bodies.push(text);
    }
    let respond = Response::builder().header("content-type", "application/json");
    let response = match answer {
        Answer::Take => respond.body(Full::from("{}")),
        Answer::Reject(spans) => {
            respond.body(format!(r#"{{"partialSuccess":{{"rejectedSpans":"{spans}"}}}}"#).into())
        }
        Answer::Refuse(status) => respond.status(status).body(Full::default()),
        Answer::Later(status, secs) => {
            respond.status(status).header("retry-after", secs).body(Full::default())
        }
        Answer::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            respond.body(Full::default())
        }
    };
    response.expect("a response")
}

/// Strict about what a collector of OTLP is strict about.
impl Span {
    fn read(span: &Value) -> Span {
        let hex = |key: &str, bytes: usize| {
            let text = span[key].as_str().unwrap_or_else(|| panic!("{key}: {span}"));
            assert!(text.len() == 2 * bytes && text.bytes().all(|b| b.is_ascii_hexdigit()), "{key}: {span}");
            text.to_owned()
        };
        let nanos = |key: &str| span[key].as_str().and_then(|text| text.parse().ok()).expect("a time");
        Span {
            trace: hex("traceId", 16),
            id: hex("spanId", 8),
            parent: span.get("parentSpanId").map(|_| hex("parentSpanId", 8)),
            name: span["name"].as_str().expect("a name").to_owned(),
            begin: nanos("startTimeUnixNano"),
            end: nanos("endTimeUnixNano"),
            attributes: attributes(&span["attributes"]),
            whole: span.clone(),
        }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.whole["status"]["code"] == 2
    }
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let attribute = |attribute: &Value| {
        let value = &attribute["value"];
        let text = value["stringValue"].as_str().or(value["intValue"].as_str()).expect("a text or a number");
        (attribute["key"].as_str().expect("a key").to_owned(), text.to_owned())
    };
    list.as_array().expect("attributes").iter().map(attribute).collect()
}
