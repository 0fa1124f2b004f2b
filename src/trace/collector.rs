//! The collector: one HTTP client, and the files that it needs, which are read anew when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use super::config::TracesConfig;
use super::otlp;
use crate::body;
use crate::calm::Calm;
use crate::causes::with_causes;
use crate::stamp::Stamp;

/// An answer says how many spans were not taken, and why.
const ANSWER_BYTES: usize = 64 * 1024;
/// One connection is all that is needed; it is dropped before the collector drops it.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Headers of a file that would change what a request is.
const OURS: [HeaderName; 5] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// A file that the client cannot use. Its content is never quoted.
#[derive(Debug, Error)]
pub enum FileFault {
    /// The file of headers cannot be read.
    #[error("cannot read {path}: {source}")]
    Headers {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it is not a header.
    #[error("line {line} of {path} is not a header that can be added; expected name: value")]
    HeaderLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file of authorities cannot be read, or has none.
    #[error("no certificate of an authority can be read from {path}: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl FileFault {
    /// The key of `[traces]` that is to blame.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            FileFault::Headers { .. } | FileFault::HeaderLine { .. } => "headers_file",
            FileFault::Authorities { .. } => "ca_file",
        }
    }
}

/// A request that did not bring its spans.
#[derive(Debug)]
pub(super) enum Fault {
    /// It may be tried again, after so long if the collector says so.
    Passing { reason: String, after: Option<Duration> },
    /// Another try would end the same way.
    Final { reason: String },
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Takes spans.
pub(super) struct Collector {
    config: TracesConfig,
    uri: Uri,
    in_force: InForce,
    /// What the files looked like when what is in force was read.
    stamps: [Option<Stamp>; 2],
    calm: Calm,
}

/// What is made of the files.
struct InForce {
    http: HttpClient,
    headers: HeaderMap,
}

impl Collector {
    /// Connects to nothing yet.
    pub(super) fn new(config: &TracesConfig) -> Result<Collector, FileFault> {
        let stamps = stamps(config);
        let in_force = InForce::read(config)?;
        let (config, calm) = (config.clone(), Calm::default());
        // Whatever is a URL of these schemes is an address.
        let uri = config.url.as_str().parse().unwrap_or_default();
        Ok(Collector { config, uri, in_force, stamps, calm })
    }

    /// All that is wrong with the files.
    pub(super) fn faults(config: &TracesConfig) -> Vec<FileFault> {
        [headers(config).err(), tls(config.ca_file.as_deref()).err()].into_iter().flatten().collect()
    }

    /// Brings spans. Gives how many of them the collector has not kept.
    pub(super) async fn take(&mut self, body: Bytes) -> Result<u64, Fault> {
        self.read_anew();
        let mut request = Request::post(self.uri.clone()).body(Full::new(body));
        if let Ok(request) = &mut request {
            request.headers_mut().extend(self.in_force.headers.clone());
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.map_err(|error| Fault::Final { reason: error.to_string() })?;
        let exchange = async {
            let response = self.in_force.http.request(request).await.map_err(|error| with_causes(&error))?;
            read(response).await
        };
        match tokio::time::timeout(self.config.timeout, exchange).await {
            Ok(Ok(answer)) => answer.verdict(),
            Ok(Err(reason)) => Err(Fault::Passing { reason, after: None }),
            Err(_elapsed) => Err(Fault::Passing { reason: "no answer in time".to_owned(), after: None }),
        }
    }

    /// Where a file has changed and is good, it counts from now on; what was read before stays in force if it is not.
    fn read_anew(&mut self) {
        let stamps = stamps(&self.config);
        if stamps == self.stamps {
            return;
        }
        match InForce::read(&self.config) {
            Ok(in_force) => {
                // Only then: what cannot be read is tried again, as the file may be as it is for good.
                self.stamps = stamps;
                self.in_force = in_force;
                tracing::info!("the files of traces were read anew");
            }
            Err(error) => {
                if let Some(left_out) = self.calm.due("files") {
                    tracing::warn!(left_out, %error, "the files of traces cannot be used; what they had before stays in force");
                }
            }
        }
    }
}

fn stamps(config: &TracesConfig) -> [Option<Stamp>; 2] {
    [&config.headers_file, &config.ca_file].map(|file| file.as_deref().and_then(Stamp::of))
}

impl InForce {
    fn read(config: &TracesConfig) -> Result<InForce, FileFault> {
        let (headers, tls) = (headers(config)?, tls(config.ca_file.as_deref())?);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(config.timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(InForce { http: client, headers })
    }
}

/// `name: value`, one a line; lines that are empty or begin with `#` are none.
fn headers(config: &TracesConfig) -> Result<HeaderMap, FileFault> {
    let mut headers = HeaderMap::new();
    let Some(path) = &config.headers_file else { return Ok(headers) };
    let text =
        std::fs::read_to_string(path).map_err(|source| FileFault::Headers { path: path.clone(), source })?;
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            header_of(line).ok_or_else(|| FileFault::HeaderLine { path: path.clone(), line: at + 1 })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn header_of(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name: HeaderName = name.trim().parse().ok().filter(|name| !OURS.contains(name))?;
    let mut value: HeaderValue = value.trim().parse().ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// Trusts nobody without a file: then the collector is one without TLS.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, FileFault> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca_file {
        let fault = |reason: String| FileFault::Authorities { path: path.into(), reason };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fault(error.to_string()))?;
            store.add(certificate).map_err(|error| fault(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(fault("there is none in it".to_owned()));
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions");
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// What came back.
struct Answer {
    status: StatusCode,
    after: Option<Duration>,
    body: Bytes,
}

async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let (head, body) = response.into_parts();
    let after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = body::read(body, ANSWER_BYTES).await.map_err(|error| error.to_string())?;
    Ok(Answer { status: head.status, after: after.map(Duration::from_secs), body })
}

impl Answer {
    /// Which failures pass is OTLP's to say ("Failures", OTLP/HTTP).
    fn verdict(&self) -> Result<u64, Fault> {
        let reason = || format!("the answer is {}", self.status);
        match self.status.as_u16() {
            200..=299 => Ok(otlp::rejected(&self.body)),
            429 | 502 | 503 | 504 => Err(Fault::Passing { reason: reason(), after: self.after }),
            _ => Err(Fault::Final { reason: reason() }),
        }
    }
}
