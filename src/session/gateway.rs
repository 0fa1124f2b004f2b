//! The HTTP client for one gateway: one pooled client over TLS for all its agents, a deadline for each call, and
//! answers read leniently.
//!
//! What a call looks like on the wire stands in [`wire`], which address it goes to in `addresses`; this file is about
//! getting it there and back. A call is never repeated here: whether it may be is for the session's state machine to
//! say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::body;
use crate::event::charset::{Charset, Text};
use crate::event::{AgentId, GatewayName};
use crate::metrics::Metrics;
use crate::session::call::{
    Answer, Call, CallError, Forwarded, GatewayCalls, Permit, PutInForce, Reply, Ticket,
};
use crate::session::config::GatewayConfig;
use crate::session::forward::{ForwardAnswer, ForwardRequest};
use crate::session::retcode::{Class, Operation};
use crate::sink::BoxFuture;

pub(in crate::session) mod addresses;
mod cause;
pub(in crate::session) mod queue;
mod sent;
mod tls;
pub(in crate::session) mod turns;
mod verify;
pub mod wire;
mod witnesses;

use addresses::{Addresses, Patience, Presence};
use queue::Queue;
use sent::{Sent, Watched};

/// Answers are a few hundred bytes; what is longer is not one.
const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// Answers that are passed on may be lists of agents or skills.
const FORWARDED_LIMIT_BYTES: usize = 256 * 1024;
/// As for pushes: an answer that is not taken is an event that is lost.
const POLLED_LIMIT_BYTES: usize = 1 << 20;
/// Connections are dropped before the gateway drops them: its servers do so after 20 s and more.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Idle connections kept: with heartbeats spread, a few dozen carry thousands of agents, but each agent that is polled
/// has one of its own, idle between two polls.
const POOL_SIZE: usize = 1024;

/// A gateway that cannot be set up.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// A file of certificates, keys or revocations cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The configuration key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file holds nothing of what it is for.
    #[error("no {what} in {path}")]
    Nothing {
        /// The configuration key that names it.
        key: &'static str,
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate of an authority cannot be used.
    #[error("a certificate in {path} is not that of an authority")]
    CaCertificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A list of revocations cannot be used.
    #[error("cannot use a list of revocations in {path}")]
    InvalidCrl {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The client's key does not go with its certificate, or is none.
    #[error("cannot use the key in {path} with the client's certificate")]
    ClientKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The name for the certificate check is not one.
    #[error("{0} is not a name a certificate can have")]
    ServerName(String),
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl GatewayError {
    /// The key of `[[gateways]]` that is to blame.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            GatewayError::Unreadable { key, .. } | GatewayError::Nothing { key, .. } => key,
            GatewayError::CaCertificate { .. } | GatewayError::Tls(_) => "ca_file",
            GatewayError::InvalidCrl { .. } => "crl_file",
            GatewayError::ClientKey { .. } => "client_key_file",
            GatewayError::ServerName(_) => "tls_server_name",
        }
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Watched>;

/// The client of one gateway.
pub struct GatewayClient {
    http: ArcSwap<HttpClient>,
    wire: wire::Wire,
    addresses: Arc<Addresses>,
    call_deadline: Duration,
    sign_in_deadline: Duration,
    poll_deadline: Duration,
    queue: Queue,
}

impl GatewayClient {
    /// Sets up the client; connects to nothing yet. With metrics it says which address it uses.
    ///
    /// # Errors
    /// When a file cannot be used or TLS cannot be set up.
    pub fn new(config: &GatewayConfig, metrics: Option<&Metrics>) -> Result<GatewayClient, GatewayError> {
        let http = ArcSwap::from_pointee(http_client(config)?);
        let patience = Patience::new(config.heartbeat_interval);
        let mut addresses = Addresses::new(config.name.clone(), config.bases(), patience);
        if let Some(metrics) = metrics {
            addresses.show(metrics);
        }
        Ok(GatewayClient {
            http,
            wire: wire::Wire::new(config),
            addresses: Arc::new(addresses),
            call_deadline: config.call_deadline,
            sign_in_deadline: config.sign_in_deadline,
            poll_deadline: config.poll_deadline,
            queue: Queue::new(config),
        })
    }

    async fn exchange(&self, call: Call<'_>, base: &str, sent: &Sent) -> (Answer, Presence) {
        let request = match self.wire.request(call, base) {
            Ok(request) => request,
            Err(error) => {
                return (Answer::failed(CallError::Unreachable(error.to_string())), Presence::Unknown);
            }
        };
        match self.http.load_full().request(sent.watch(request)).await {
            Ok(response) => read(response, call, self.addresses.gateway()).await,
            Err(error) => (Answer::failed(unanswered(&error, sent)), Presence::Absent),
        }
    }

    async fn pass_on(&self, request: &ForwardRequest, ticket: &Ticket, base: &str, sent: &Sent) -> Forwarded {
        let request = match wire::Wire::forward(request, ticket, base) {
            Ok(request) => request,
            Err(error) => return Forwarded::failed(CallError::Unreachable(error.to_string())),
        };
        match self.http.load_full().request(sent.watch(request)).await {
            Ok(response) => read_forwarded(response).await,
            Err(error) => Forwarded::failed(unanswered(&error, sent)),
        }
    }

    /// Asks the main address whether it is back, where calls go to a backup and it is time to: for this agent, and beside the
    /// call that is at hand, which must not wait for an address that may hang.
    fn probe_when_due(&self, agent_id: &AgentId) {
        let Some(base) = self.addresses.probe(Instant::now()) else { return };
        let request = match wire::probe(base, agent_id) {
            Ok(request) => request,
            Err(error) => return tracing::debug!(%error, "the main address cannot be asked"),
        };
        let (http, addresses, deadline) = (self.http.load_full(), self.addresses.clone(), self.call_deadline);
        tokio::spawn(async move {
            let asked = async {
                let response = http.request(Sent::default().watch(request)).await.ok()?;
                read_body(response.into_body(), BODY_LIMIT_BYTES).await.ok()
            };
            let body = timeout(deadline, asked).await.ok().flatten();
            // Any retcode will do; nothing is asked for.
            let answered = body.is_some_and(|body| wire::reply(&body).is_ok());
            addresses.probed(answered, Instant::now());
        });
    }
}

fn http_client(config: &GatewayConfig) -> Result<HttpClient, GatewayError> {
    let connector = tls::connector(config)?;
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_SIZE)
        .pool_timer(TokioTimer::new())
        .build(connector);
    Ok(client)
}

impl GatewayCalls for GatewayClient {
    fn renew<'a>(&'a self, config: &GatewayConfig) -> Result<PutInForce<'a>, GatewayError> {
        let http = Arc::new(http_client(config)?);
        let (unchecked, gateway) = (Unchecked::of(config), config.name.clone());
        Ok(Box::new(move || {
            unchecked.warn(&gateway);
            self.http.store(http);
        }))
    }

    fn admit(
        &self,
        operation: Operation,
        heard: Option<Instant>,
        guid_since: Option<Instant>,
    ) -> BoxFuture<'_, Result<Permit, CallError>> {
        Box::pin(self.queue.admit(operation, heard, guid_since))
    }

    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        let deadline = match call.operation {
            Operation::Login | Operation::ForceLogin => self.sign_in_deadline,
            Operation::Poll => self.poll_deadline,
            _ => self.call_deadline,
        };
        Box::pin(async move {
            self.probe_when_due(call.agent_id());
            let (address, sent) = (self.addresses.active(), Sent::default());
            let ended = timeout(deadline, self.exchange(call, address.base, &sent)).await;
            let (mut answer, presence) =
                ended.unwrap_or_else(|_elapsed| (Answer::failed(sent.timed_out()), Presence::Absent));
            self.addresses.note(address, Some(call.agent_id()), presence, Instant::now());
            answer.address = self.addresses.number(address);
            if call.ticket.is_some_and(|ticket| ticket.is_from_elsewhere(answer.address)) {
                self.addresses.note_moved(address, answer.verdict.as_ref().ok().and_then(knows_session));
            }
            answer
        })
    }

    fn forward<'a>(&'a self, request: &'a ForwardRequest, ticket: &'a Ticket) -> BoxFuture<'a, Forwarded> {
        Box::pin(async move {
            let _permit = match self.queue.admit_forward().await {
                Ok(permit) => permit,
                Err(error) => return Forwarded::failed(error),
            };
            let (address, sent) = (self.addresses.active(), Sent::default());
            let passed_on = self.pass_on(request, ticket, address.base, &sent);
            let forwarded = timeout(self.call_deadline, passed_on).await;
            let forwarded = forwarded.unwrap_or_else(|_elapsed| Forwarded::failed(sent.timed_out()));
            self.addresses.note(address, None, presence_of(&forwarded), Instant::now());
            forwarded
        })
    }
}

/// Whether the gateway knows the session of a call that it has answered so; nothing where the answer does not say.
fn knows_session(reply: &Reply) -> Option<bool> {
    match reply.retcode.class() {
        Some(Class::Ok) => Some(true),
        Some(Class::AuthLost) => Some(false),
        _ => None,
    }
}

fn unanswered(error: &hyper_util::client::legacy::Error, sent: &Sent) -> CallError {
    match error.is_connect() || !sent.is_noted() {
        true => CallError::Unreachable(cause::explained(error)),
        false => CallError::Broken(cause::explained(error)),
    }
}

impl std::fmt::Debug for GatewayClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatewayClient")
    }
}

async fn read(response: Response<Incoming>, call: Call<'_>, gateway: &GatewayName) -> (Answer, Presence) {
    let operation = call.operation;
    let poll = operation == Operation::Poll;
    let (head, body) = response.into_parts();
    let mut answer = Answer::failed(CallError::Status(head.status.as_u16()));
    if head.status.is_success() {
        take_headers(&mut answer, &head.headers);
    }
    let limit = if poll { POLLED_LIMIT_BYTES } else { BODY_LIMIT_BYTES };
    let charset = Charset::of(head.headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes));
    let text = read_body(body, limit).await.map(|bytes| charset.to_utf8(bytes));
    let broken = text.as_ref().map_or(0, |text| text.broken);
    let bytes = text.map(|Text { body, .. }| body);
    let reply = bytes.clone().and_then(|bytes| wire::reply(&bytes));
    let presence = match reply {
        Ok(_) => Presence::There,
        Err(_) if is_unknown_to_some(operation, head.status) => Presence::Unknown,
        Err(_) => Presence::Absent,
    };
    if head.status == http::StatusCode::OK {
        answer.event = bytes.as_ref().ok().filter(|_| poll).and_then(wire::event);
        if answer.event.is_some() && broken > 0 {
            tracing::warn!(%gateway, agent_id = %call.agent_id(), broken,
                "an event that was fetched has broken characters: it has U+FFFD in their place");
        }
        if let (Operation::UpdateGuid, Ok(bytes)) = (operation, &bytes) {
            answer.guid = wire::updated_guid(bytes).or(answer.guid);
        }
        answer.verdict = reply;
    }
    (answer, presence)
}

/// Whether gateways that do not know this call answer like that.
fn is_unknown_to_some(operation: Operation, status: http::StatusCode) -> bool {
    operation == Operation::UpdateGuid && matches!(status.as_u16(), 404 | 405 | 501)
}

/// What a call of somebody else says of the address. Whether the gateway knows that call is for them to know, so of
/// answers without a retcode only those count that a balancer gives when nobody is there.
fn presence_of(forwarded: &Forwarded) -> Presence {
    match &forwarded.verdict {
        _ if forwarded.retcode.is_some() => Presence::There,
        Ok(answer) if !(502..=504).contains(&answer.status) => Presence::Unknown,
        Ok(_) | Err(_) => Presence::Absent,
    }
}

/// An answer for somebody else: whatever its status, it is passed back.
async fn read_forwarded(response: Response<Incoming>) -> Forwarded {
    let (head, body) = response.into_parts();
    let mut headers = Answer::failed(CallError::Status(head.status.as_u16()));
    if head.status.is_success() {
        take_headers(&mut headers, &head.headers);
    }
    let content_type = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let verdict = read_body(body, FORWARDED_LIMIT_BYTES).await.map(|body| ForwardAnswer {
        status: head.status.as_u16(),
        content_type: content_type.map(str::to_owned),
        body,
    });
    let reply = verdict.as_ref().ok().and_then(|answer| wire::reply(&answer.body).ok());
    Forwarded {
        guid: headers.guid,
        cookies: headers.cookies,
        verdict,
        retcode: reply.map(|reply| reply.retcode),
    }
}

fn take_headers(answer: &mut Answer, headers: &HeaderMap) {
    answer.guid = headers.get_all(wire::SET_GUID).iter().find_map(wire::guid);
    answer.cookies = headers.get_all(http::header::SET_COOKIE).iter().filter_map(wire::cookie).collect();
}

async fn read_body(body: Incoming, limit: usize) -> Result<Bytes, CallError> {
    let body = body::read(body, limit).await;
    body.map_err(|error| CallError::Broken(format!("cannot read the answer: {error}")))
}

/// What is not checked of who answers as the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unchecked {
    Nothing,
    Name,
    All,
}

impl Unchecked {
    fn of(config: &GatewayConfig) -> Unchecked {
        match (config.dangerously_trust_all, config.verify_server_name) {
            (true, _) => Unchecked::All,
            (false, false) => Unchecked::Name,
            (false, true) => Unchecked::Nothing,
        }
    }

    /// To be called whenever it comes into force.
    fn warn(self, gateway: &GatewayName) {
        match self {
            Unchecked::Nothing => {}
            Unchecked::Name => {
                tracing::warn!(%gateway, "verify_server_name = false: any certificate of the authorities in ca_file is \
                    believed to be the gateway's");
            }
            Unchecked::All => {
                tracing::warn!(%gateway, "dangerously_trust_all: whoever answers is believed to be the gateway, and gets \
                    agents' passwords");
            }
        }
    }
}

/// The client behind the trait, as sessions want it. Says loudly what is not checked.
///
/// # Errors
/// As [`GatewayClient::new`].
pub fn connect(config: &GatewayConfig, metrics: &Metrics) -> Result<Arc<dyn GatewayCalls>, GatewayError> {
    Unchecked::of(config).warn(&config.name);
    Ok(Arc::new(GatewayClient::new(config, Some(metrics))?))
}

#[cfg(test)]
mod tests;
