//! Calls of the admin API of a running daemon. The token comes from a file, so that no secret stands in the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Response;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use thiserror::Error;
use url::{Host, Url};

use super::tail::Parser;
use crate::receive::tls::read_chain;

/// Longer than the API takes for any answer to a change.
const PATIENCE: Duration = Duration::from_secs(70);
/// What can be seen is answered from memory: who gets nothing for so long talks to a daemon that stands still.
const PATIENCE_TO_LOOK: Duration = Duration::from_secs(10);
/// The daemon says something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// A page of agents has some hundred kilobytes.
const ANSWER_BYTES: usize = 16 << 20;

/// Where the admin API is.
#[derive(Debug, Args)]
pub(super) struct ApiPlace {
    /// The operations listener; http only for this machine itself.
    #[arg(long, env = "CCRELAY_ADMIN_URL", default_value = "http://127.0.0.1:9464")]
    url: Url,
    /// A file as of operations.admin_tokens_file; its first token is used.
    #[arg(long, env = "CCRELAY_ADMIN_TOKEN_FILE", default_value = "/etc/ccrelay/admin.tokens")]
    token_file: PathBuf,
    /// PEM file of the authorities to trust; needed with https.
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// Makes calls with a token.
pub(super) struct Caller {
    base: Url,
    token: SecretString,
    client: Client<
        hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>,
        Empty<Bytes>,
    >,
}

/// What was asked for, if it comes in time.
async fn within<T>(
    patience: Duration,
    exchange: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let answered = tokio::time::timeout(patience, exchange).await;
    answered.with_context(|| format!("no answer within {} s", patience.as_secs()))?
}

impl Caller {
    pub(super) fn new(api: &ApiPlace) -> anyhow::Result<Caller> {
        check_url(api)?;
        let base = api.url.join("/api/v1/").context("the URL cannot have a path")?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(client_config(api.ca_file.as_deref())?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Caller { base, token: read_token(&api.token_file)?, client })
    }

    pub(super) async fn call(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let patience = if method == Method::GET { PATIENCE_TO_LOOK } else { PATIENCE };
        let exchange = async {
            let response = self.send(method, path).await?;
            let status = response.status();
            anyhow::Ok((status, self.whole(response.into_body()).await?))
        };
        let (status, body) = within(patience, exchange).await.context(self.base.to_string())?;
        if status.is_success() { Ok(body) } else { Err(Refused::new(status, &body).into()) }
    }

    /// Asks for an answer that goes on.
    pub(super) async fn events(&self, path: &str) -> anyhow::Result<Events> {
        let exchange = async {
            let response = self.send(Method::GET, path).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(Events { body: response.into_body(), parser: Parser::default() });
            }
            let body = self.whole(response.into_body()).await?;
            Err(Refused::new(status, &body).into())
        };
        within(PATIENCE_TO_LOOK, exchange).await.context(self.base.to_string())
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Response<Incoming>> {
        let url = self.base.join(path).context("not a path")?;
        let mut token = HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()))
            .map_err(|_| anyhow!("the token has characters that no header can carry"))?;
        token.set_sensitive(true);
        let request =
            Request::builder().method(method).uri(url.as_str()).header(header::AUTHORIZATION, token);
        Ok(self.client.request(request.body(Empty::new())?).await?)
    }

    async fn whole(&self, body: Incoming) -> anyhow::Result<Value> {
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke: {error}"))?.to_bytes();
        serde_json::from_slice(&body).with_context(|| format!("{}: not the admin API", self.base))
    }
}

/// What the daemon does not do, in its own words.
#[derive(Debug, Error)]
#[error("{status} {code}: {message}")]
pub(super) struct Refused {
    status: StatusCode,
    code: String,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, body: &Value) -> Refused {
        let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        Refused { status, code: text("code"), message: text("message") }
    }

    /// Whether asking again is of no use.
    pub(super) fn is_final(&self) -> bool {
        self.status.is_client_error()
    }
}

/// An answer that goes on.
pub(super) struct Events {
    body: Incoming,
    parser: Parser,
}

/// One server-sent event.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: Value,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// When the answer ends, breaks, or is silent for longer than the daemon ever is.
    pub(super) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.parser.next()? {
                return Ok(event);
            }
            if self.parser.waiting() > ANSWER_BYTES {
                bail!("the daemon sends what has no end");
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let frame = frame.context("nothing is heard of the daemon")?;
            let frame =
                frame.context("the daemon has closed the connection")?.context("the connection broke")?;
            if let Some(bytes) = frame.data_ref() {
                self.parser.add(bytes);
            }
        }
    }
}

/// A token must not travel where others can read it.
fn check_url(api: &ApiPlace) -> anyhow::Result<()> {
    let here = match api.url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match api.url.scheme() {
        "https" if api.ca_file.is_none() => bail!("--ca-file is needed with https"),
        "https" => Ok(()),
        "http" if here => Ok(()),
        "http" => bail!("http would show the token to others: use https"),
        _ => bail!("the URL begins with https:// or http://"),
    }
}

fn client_config(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        for certificate in read_chain(path)? {
            roots.add(certificate).with_context(|| path.display().to_string())?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The last word of the first line that is no comment.
fn read_token(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = SecretString::from(text);
    let lines = text.expose_secret().lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let token = lines.next().and_then(|line| line.split([' ', '\t', ':']).next_back());
    token.map(SecretString::from).with_context(|| format!("{} has no token in it", path.display()))
}
