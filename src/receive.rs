//! The callback endpoint: takes pushes of the gateway, and answers each only after it is stored.
//!
//! Checks come in this order, each before the next costs anything: connection limits and time-outs, path, method,
//! **token**, declared length, encoding, **then body**. The token comes as early as that because it says whose push it is:
//! whatever a push of an agent is refused for, the gateway counts it against the agent, and so do we. Whatever is well-formed JSON with the right `workNo`, or with none where the token alone says whose it is, is stored and answered
//! with success: what it means is for the normaliser to say later, so that no event however odd can cost an agent the
//! session. The brokers have no part in an answer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, Response};
use tokio::time::Instant;

use crate::authenticate::{Authenticator, Bearer, TokenFault};
use crate::body::{self, BodyFault, Place};
use crate::calm::Calm;
use crate::clock::{Clock, Timestamp};
use crate::event::charset::{Charset, Text};
use crate::event::envelope::{self, RawEvent};
use crate::event::normalise::RecordKind;
use crate::event::{AgentId, GatewayName};
use crate::exchange::Exchange;
use crate::guesses::Guesses;
use crate::listen::{Handler, Incomer, Waiting};
use crate::metrics::Metrics;
use crate::request::RequestId;
use crate::spool::{AgentKey, AppendError, Appended, NewRecord, Spool};
use crate::trace::{StoredPush, Traces};

mod bodies;
pub mod reply;
pub mod tls;
mod under_way;

pub use bodies::Bodies;
use reply::Refusal;
use under_way::UnderWay;

/// The header that carries the token (CEC API Reference 1275).
const TOKEN_HEADER: &str = "service_token";
/// What stands before the token in the query of an address that was given as `pushUrl`: it is the last parameter.
const TOKEN_PARAMETER: &str = "token=";
/// Pushes come to `/push/<gateway>`.
pub const PUSH_PATH: &str = "/push/";

/// Characters that are logged of an unknown type; known ones are far shorter.
const TYPE_CHARS: usize = 100;

/// Told of every push that was stored, before its answer leaves.
pub trait PushObserver: Send + Sync {
    /// These events of this agent were stored.
    fn stored(&self, agent: &AgentKey, events: &[RawEvent<'_>]);
    /// A push that was this agent's beyond doubt, by a token of ours, was refused: it counts against the sign-out budget.
    fn refused(&self, agent: &AgentKey);
}

/// What a push may be.
#[derive(Debug, Clone)]
pub struct PushLimits {
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
}

/// Handles pushes.
pub struct PushHandler {
    /// Gateways whose pushes are taken.
    pub gateways: Vec<GatewayName>,
    /// Checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// Where pushes are stored.
    pub spool: Spool,
    /// What a push may be.
    pub limits: PushLimits,
    /// What is still to come of pushes.
    pub bodies: Bodies,
    /// Told of pushes.
    pub observer: Arc<dyn PushObserver>,
    /// Wrong tokens so far.
    pub guesses: Guesses,
    /// Counts.
    pub metrics: Metrics,
    /// Wall time of receipt.
    pub clock: Clock,
    /// Keeps complaints calm.
    pub calm: Calm,
    /// Takes down what happens.
    pub traces: Traces,
}

impl Handler for PushHandler {
    type Body = Full<Bytes>;

    fn handle(
        &self,
        request: Request<Incoming>,
        from: Incomer,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send {
        let began = Instant::now();
        let received_at = self.clock.now();
        let incoming = self.traces.incoming(&request);
        // The head is looked at and let go before anything is waited for: what waits is moved more than once, and stays small.
        let admitted = self.admit(request, &from);
        let mut under_way = UnderWay {
            metrics: &self.metrics,
            observer: &*self.observer,
            calm: &self.calm,
            began,
            peer: from.peer,
            request_id: from.id,
            agent: admitted.as_ref().ok().and_then(|push| named_by(&push.bearer, push.gateway)),
            over: false,
        };
        async move {
            let Incomer { peer, exchange, id: request_id, waiting } = from;
            let result = match admitted {
                Ok(admitted) => {
                    self.push(admitted, exchange, received_at, &waiting, &mut under_way.agent).await
                }
                Err(refused) => Err(refused),
            };
            match result {
                Ok(Appended { offset, events, repeated }) => {
                    under_way.stored();
                    self.traces.pushed(incoming, &StoredPush { offset, events, request_id, peer, began });
                    tracing::debug!(%request_id, %peer, spool_offset = offset, events, repeated, "push stored");
                    reply::success()
                }
                Err(Refused { refusal, agent }) => {
                    under_way.refused(agent);
                    self.refuse(&refusal, peer, request_id, &waiting).await
                }
            }
        }
    }
}

/// What a head has shown: which gateway pushes, and with whose token. What it has not shown is in the body.
struct Admitted<'a> {
    gateway: &'a GatewayName,
    bearer: Bearer,
    charset: Charset,
    body: Incoming,
}

/// A push that is not stored, and whose it was where that is known.
struct Refused {
    refusal: Refusal,
    agent: Option<AgentKey>,
}

impl Refused {
    /// `agent` is whose push it was as far as was found; what the refusal itself knows is added.
    fn of(gateway: &GatewayName, refusal: Refusal, agent: Option<AgentKey>) -> Refused {
        let named = || refusal.agent().map(|agent_id| key(gateway, agent_id));
        Refused { agent: agent.or_else(named), refusal }
    }
}

fn key(gateway: &GatewayName, agent_id: &AgentId) -> AgentKey {
    AgentKey { gateway: gateway.clone(), agent_id: agent_id.clone() }
}

/// Whose push it is, where the token alone says so.
fn named_by(bearer: &Bearer, gateway: &GatewayName) -> Option<AgentKey> {
    match bearer {
        Bearer::Agent(agent_id) => Some(key(gateway, agent_id)),
        Bearer::Fixed(_) => None,
    }
}

/// Names events of types that are unknown. A type can be as long as a body: its beginning is enough to know it by.
pub fn name_unknown(gateway: &GatewayName, events: &[RawEvent<'_>]) {
    for event in events.iter().filter(|event| event.entry.is_none()) {
        let event_type: String = event.event_type.chars().take(TYPE_CHARS).collect();
        tracing::info!(%gateway, event_type = %event_type.escape_debug(), "an event of a type that this release does not know");
    }
}

impl PushHandler {
    /// Path, method, token, declared length and encoding: all that the head alone tells.
    fn admit(&self, request: Request<Incoming>, from: &Incomer) -> Result<Admitted<'_>, Refused> {
        let gateway = self.expected(&request).map_err(|refusal| Refused { refusal, agent: None })?;
        let bearer =
            self.authenticate(gateway, &request).map_err(|refusal| Refused::of(gateway, refusal, None))?;
        if from.exchange.is_first() {
            self.guesses.right(from.peer);
        }
        self.readable(&request)
            .map_err(|refusal| Refused::of(gateway, refusal, named_by(&bearer, gateway)))?;
        let charset = Charset::of(request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes));
        Ok(Admitted { gateway, bearer, charset, body: request.into_body() })
    }

    fn expected(&self, request: &Request<Incoming>) -> Result<&GatewayName, Refusal> {
        let name = request.uri().path().strip_prefix(PUSH_PATH).ok_or(Refusal::NotFound)?;
        let name = name.strip_suffix('/').unwrap_or(name);
        let gateway = self.gateways.iter().find(|g| g.as_str() == name).ok_or(Refusal::NotFound)?;
        if request.method() == Method::POST { Ok(gateway) } else { Err(Refusal::MethodNotAllowed) }
    }

    /// Whether the body, as the head announces it, is one that is read at all.
    fn readable(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        if request.body().size_hint().lower() > self.limits.max_body_bytes as u64 {
            return Err(Refusal::TooLarge { limit: self.limits.max_body_bytes });
        }
        match request.headers().get(header::CONTENT_ENCODING) {
            Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                Err(Refusal::EncodingUnsupported)
            }
            _ => Ok(()),
        }
    }

    fn authenticate(&self, gateway: &GatewayName, request: &Request<Incoming>) -> Result<Bearer, Refusal> {
        let mut tokens = request.headers().get_all(TOKEN_HEADER).iter();
        let Some(token) = tokens.next() else {
            // Older gateways send no header, but the address as it was given to them.
            let token = request
                .uri()
                .query()
                .and_then(|query| query.rsplit('&').next()?.strip_prefix(TOKEN_PARAMETER));
            let token = token.ok_or(Refusal::TokenMissing)?;
            return self.authenticator.bearer(gateway, token).map_err(Refusal::Token);
        };
        // Two tokens are none: which of them would be the one that counts?
        let token = tokens.next().is_none().then(|| token.to_str().ok()).flatten();
        let token = token.ok_or(Refusal::Token(TokenFault::Malformed))?;
        self.authenticator.bearer(gateway, token).map_err(Refusal::Token)
    }

    async fn push(
        &self,
        admitted: Admitted<'_>,
        exchange: Exchange,
        received_at: Timestamp,
        waiting: &Waiting,
        agent: &mut Option<AgentKey>,
    ) -> Result<Appended, Refused> {
        let gateway = admitted.gateway;
        let stored = self.store(admitted, exchange, received_at, waiting, agent).await;
        stored.map_err(|refusal| Refused::of(gateway, refusal, agent.clone()))
    }

    /// Stores the push; `agent` is filled in where only the body says whose it is.
    async fn store(
        &self,
        admitted: Admitted<'_>,
        exchange: Exchange,
        received_at: Timestamp,
        waiting: &Waiting,
        agent: &mut Option<AgentKey>,
    ) -> Result<Appended, Refusal> {
        let Admitted { gateway, bearer, charset, body } = admitted;
        let whose = || self.authenticator.sole_holder(&bearer).map(|agent_id| key(gateway, &agent_id));
        let (body, _place) = self.body(body, waiting, whose).await?;
        let Text { body, broken } = charset.to_utf8(body);
        let envelope = envelope::parse_push(&body).map_err(Refusal::Envelope)?;
        // Some events name nobody, and their token may be one agent's alone.
        let sole = if envelope.names_nobody() { self.authenticator.sole_holder(&bearer) } else { None };
        let work_no = envelope.work_no.as_deref().or(sole.as_ref().map(AgentId::as_str));
        let work_no = work_no.ok_or(Refusal::NoWorkNo)?;
        let agent_id = self.authenticator.admit(gateway, &bearer, work_no).map_err(Refusal::Token)?;
        let agent_id = agent_id.ok_or(Refusal::OtherAgent)?;
        let agent = &*agent.insert(key(gateway, &agent_id));
        if broken > 0 {
            self.tell_broken(agent, broken);
        }
        let record = NewRecord {
            kind: RecordKind::Push,
            received_at,
            agent: agent.clone(),
            body: body.clone(),
            answer: Some(exchange),
        };
        let queued = self.traces.begin();
        let appended =
            self.spool.append_read(record, &envelope.events).await.map_err(|error| match error {
                AppendError::Full => Refusal::SpoolFull,
                AppendError::Failed => Refusal::SpoolFailed,
                AppendError::Closed => Refusal::Stopping,
            })?;
        self.traces.appended(appended.offset, queued);
        name_unknown(gateway, &envelope.events);
        self.observer.stored(agent, &envelope.events);
        Ok(appended)
    }

    fn tell_broken(&self, agent: &AgentKey, broken: usize) {
        if let Some(left_out) = self.calm.due("broken_characters") {
            tracing::warn!(gateway = %agent.gateway, agent_id = %agent.agent_id, broken, left_out,
                "a push has broken characters: its events have U+FFFD in their place");
        }
    }

    /// The body, with its place where it is a large one.
    async fn body(
        &self,
        body: Incoming,
        waiting: &Waiting,
        whose: impl FnOnce() -> Option<AgentKey>,
    ) -> Result<(Bytes, Option<Place<'_>>), Refusal> {
        let room = Some(&self.bodies.room);
        let mut reading = pin!(body::read_into(room, body, self.limits.max_body_bytes));
        // Most have come with their heads, and nothing is waited for.
        let read = match reading.as_mut().now_or_never() {
            Some(read) => read,
            None => {
                let _wait = waiting.begin();
                let awaited = self.bodies.await_one(whose());
                tokio::select! {
                    biased;
                    read = reading => read,
                    () = awaited.gave_way() => return Err(Refusal::BodyTimeout),
                    () = tokio::time::sleep(self.limits.body_timeout) => return Err(Refusal::BodyTimeout),
                }
            }
        };
        read.map_err(|fault| match fault {
            BodyFault::TooLong { limit } => Refusal::TooLarge { limit },
            BodyFault::Broken(error) => Refusal::BodyBroken(error.to_string()),
        })
    }

    async fn refuse(
        &self,
        refusal: &Refusal,
        peer: SocketAddr,
        request_id: RequestId,
        waiting: &Waiting,
    ) -> Response<Full<Bytes>> {
        // First what does not wait: who has gone in the meantime was refused all the same.
        let reason = refusal.reason();
        self.metrics.push_failures.with_label_values(&[reason]).inc();
        if let Some(left_out) = self.calm.due_about(reason, peer.ip()) {
            tracing::warn!(%request_id, reason, %peer, left_out, error = %refusal, "push refused");
        }
        if let Refusal::Token(TokenFault::Malformed | TokenFault::Forged) = refusal {
            let _wait = waiting.begin();
            self.guesses.wrong(peer).await;
        }
        reply::refusal(refusal, request_id)
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn of_an_unknown_type_the_beginning_is_logged() {
        let said = Arc::new(std::sync::Mutex::new(Vec::<u8>::new()));
        let writer = said.clone();
        let body =
            format!(r#"{{"workNo":"1001","eventList":[{{"eventType":"New{}"}}]}}"#, "w".repeat(900_000));
        let envelope = envelope::parse(body.as_bytes()).unwrap();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || Copied(writer.clone()));
        let gateway = GatewayName::parse("main").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            name_unknown(&gateway, &envelope.events);
        });
        let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
        assert!(said.contains(&format!("New{}", "w".repeat(TYPE_CHARS - 3))) && said.len() < 1_000, "{said}");
    }

    struct Copied(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Copied {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
