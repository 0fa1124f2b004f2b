//! The admin API: finds the route, checks the token, reads the body, and answers.
//!
//! Checks come in this order, each before the next costs anything: whether the API is on, path, method, **token, then
//! body**. Who has a right token and has sent all needs a place too (`places`). A call that changes something, or that gives a GUID or dead letters away, leaves a line in the log
//! with the name of its token. All lines
//! that a call leaves carry its `request_id`: the caller's own of `X-Request-Id`, or one that is made here and answered.
//! What changes something runs on the daemon's own runtime, to its end and to its line in the log, also when the caller has gone.
//! Only a call through to the gateway that still waits then is not made.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::fault::{Fault, answer};
use super::kept::KeptAgents;
use super::live::{Seat, Seats};
use super::places::Places;
use super::pulse::{BEAT, Pulse};
use super::routes::{self, Access, Endpoint, Found, Params, Route};
use super::tokens::{Caller, Scope, TokenFile};
use super::{Page, Readiness, agents, change, feed, letters, status, through};
use crate::body::{self, BodyFault};
use crate::calm::Calm;
use crate::deliver::{Troubles, Ways};
use crate::event::GatewayName;
use crate::guesses::Guesses;
use crate::listen::{Incomer, Waiting};
use crate::log::AUDIT_TARGET;
use crate::metrics::Metrics;
use crate::problems::Problems;
use crate::reload::Desk;
use crate::request;
use crate::session::Sessions;
use crate::session::config::{AgentDefaults, CallPattern};
use crate::session::password::PasswordReader;
use crate::session::roster::Stale;
use crate::spool::{AgentKey, Spool};

/// Bodies are an agent's settings, a ticket, or a call of the gateway's, whose largest has 16 KiB of call data.
const BODY_BYTES: usize = 64 * 1024;
/// From the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of the body to the answer; longer than a call to the gateway may take by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The document that describes all this.
const OPEN_API: &str = include_str!("openapi.json");

/// What the API shows and changes.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Agents' sessions.
    pub sessions: Sessions,
    /// Records, cursors and dead letters.
    pub spool: Spool,
    /// All gateways of the configuration.
    pub gateways: Vec<GatewayName>,
    /// Agents of the configuration, which callers cannot change.
    pub configured: Arc<ArcSwap<HashSet<AgentKey>>>,
    /// Agents that callers put.
    pub kept: Arc<KeptAgents>,
    /// What agents of each gateway have in common, for those that are put.
    pub agent_defaults: Arc<HashMap<GatewayName, AgentDefaults>>,
    /// Reads the passwords of agents that are put.
    pub passwords: PasswordReader,
    /// Which calls of each gateway are open to callers.
    pub call_through: Arc<HashMap<GatewayName, Vec<CallPattern>>>,
    /// What may be shown of dead letters.
    pub sight: Ways,
    /// What went wrong last at each sink.
    pub troubles: Troubles,
    /// Takes wishes for a reload.
    pub reloads: Desk,
    /// Rosters whose files are not in force as they are.
    pub stale_rosters: Stale,
    /// Where changes run: the daemon's runtime, which lives longer than a caller's patience.
    pub runtime: Handle,
}

impl Parts {
    pub(super) fn is_configured(&self, agent: &AgentKey) -> bool {
        self.configured.load().contains(agent)
    }
}

/// The admin API; cloning is cheap. It answers 503 until it is connected.
#[derive(Debug, Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokens: Option<TokenFile>,
    parts: OnceLock<Parts>,
    metrics: Metrics,
    readiness: Readiness,
    began: Instant,
    calm: Calm,
    guesses: Guesses,
    places: Places,
    seats: Seats,
    problems: OnceLock<Problems>,
    pulse: Arc<Mutex<Pulse>>,
    /// Calls that change something, while they are being answered.
    changes: TaskTracker,
    stop: CancellationToken,
}

impl Inner {
    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be seen of the daemon at this moment; cloning is cheap.
#[derive(Clone)]
pub(super) struct Sight {
    pub(super) parts: Parts,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) problems: Option<Problems>,
    pub(super) began: Instant,
    pub(super) pulse: Arc<Mutex<Pulse>>,
}

impl Sight {
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    pub(super) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may be answered.
pub(super) struct Call<'a> {
    pub(super) route: &'static Route,
    pub(super) params: Params<'a>,
    /// What the caller's token allows.
    pub(super) scope: Scope,
    pub(super) query: &'a str,
    pub(super) body: Bytes,
    pub(super) parts: &'a Parts,
    /// Its caller has gone.
    pub(super) gone: &'a CancellationToken,
    api: &'a Api,
}

impl Call<'_> {
    /// What can be seen, for who looks.
    pub(super) fn sight(&self) -> Sight {
        let Inner { metrics, readiness, problems, began, pulse, .. } = &*self.api.inner;
        Sight {
            parts: self.parts.clone(),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            problems: problems.get().cloned(),
            began: *began,
            pulse: pulse.clone(),
        }
    }
}

pub(super) type Answer = Result<Response<Full<Bytes>>, Fault>;

impl Api {
    /// An API that is on when there are tokens. Live answers end with `stop`.
    #[must_use]
    pub fn new(
        tokens: Option<TokenFile>,
        metrics: Metrics,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> Api {
        let parts = OnceLock::new();
        let (began, calm, seats) = (Instant::now(), Calm::default(), Seats::new(stop.clone()));
        let guesses = Guesses::new("operations", metrics.clone());
        Api {
            inner: Arc::new(Inner {
                tokens,
                parts,
                metrics,
                readiness,
                began,
                calm,
                guesses,
                places: Places::new(),
                seats,
                problems: OnceLock::new(),
                pulse: Arc::default(),
                changes: TaskTracker::new(),
                stop,
            }),
        }
    }

    /// From now on requests are answered from these parts.
    pub fn connect(&self, parts: Parts) {
        let gateways = parts.gateways.iter().map(|gateway| gateway.as_str().to_owned()).collect();
        let sinks = parts.spool.cursors().into_iter().map(|(sink, _)| sink).collect();
        let mut pulse = Pulse::new(gateways, sinks);
        // What happens from here on counts, also before the first beat.
        pulse.beat(&self.inner.metrics);
        *self.inner.pulse() = pulse;
        if self.inner.parts.set(parts).is_err() {
            tracing::error!("the admin API was connected twice");
        }
    }

    /// Looks at the file of tokens now and then, until the daemon stops: somebody takes tokens away who does not call the API.
    pub async fn look_at_tokens(&self) {
        if self.inner.tokens.is_none() {
            return;
        }
        let mut interval = tokio::time::interval(BEAT);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.inner.stop.run_until_cancelled(interval.tick()).await.is_some() {
            let inner = self.inner.clone();
            // The disk may not answer, and nobody must wait for that.
            let look = move || inner.tokens.iter().for_each(TokenFile::refresh);
            let look = tokio::task::spawn_blocking(look);
            drop(self.inner.stop.run_until_cancelled(look).await);
        }
    }

    /// Keeps in mind how it went in the last minutes, until the daemon stops.
    pub async fn remember(&self) {
        let mut interval = tokio::time::interval(BEAT);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.inner.stop.run_until_cancelled(interval.tick()).await.is_some() {
            if self.inner.parts.get().is_some() {
                self.inner.pulse().beat(&self.inner.metrics);
            }
        }
    }

    /// From now on these problems are shown.
    pub fn show(&self, problems: Problems) {
        if self.inner.problems.set(problems).is_err() {
            tracing::error!("problems were shown twice");
        }
    }

    /// Waits for calls that change something, also those whose caller has gone.
    pub async fn settled(&self) {
        self.inner.changes.close();
        self.inner.changes.wait().await;
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, from: &Incomer) -> Response<Page> {
        let mut left = Left { body: !request.body().is_end_stream(), count: true };
        let given = request::given(request.headers());
        let request_id = given.map_or_else(|| from.id.to_string(), str::to_owned);
        let span = tracing::error_span!("api", request_id);
        let result = self.try_answer(request, from, &mut left).instrument(span).await;
        let mut response = result.unwrap_or_else(|fault| fault.response().map(Page::from));
        if left.body || response.status() == StatusCode::UNAUTHORIZED {
            // What is left unread cannot be told from the next request; and the next guess costs a connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(name) = HeaderValue::try_from(request_id) {
            response.headers_mut().insert(request::HEADER, name);
        }
        if left.count {
            self.count(response.status());
        }
        response
    }

    fn count(&self, status: StatusCode) {
        self.inner.metrics.admin_requests.with_label_values(&[outcome(status)]).inc();
    }

    async fn try_answer(
        &self,
        request: Request<Incoming>,
        from: &Incomer,
        left: &mut Left,
    ) -> Result<Response<Page>, Fault> {
        let (head, body) = request.into_parts();
        let route = match routes::find(&head.method, head.uri.path()) {
            Found::Route(route) => route,
            Found::Methods(methods) => return Err(wrong_method(&methods)),
            Found::Nothing => {
                return Err(Fault::not_found("there is no such path; /api/v1/openapi.json has all"));
            }
        };
        if route.endpoint == Endpoint::OpenApi {
            return Ok(answer(StatusCode::OK, "application/json", OPEN_API).map(Page::from));
        }
        let caller = match self.authorise(route, &head.headers, from) {
            Err(fault) if fault.is_unauthorised() && head.headers.contains_key(header::AUTHORIZATION) => {
                let _wait = from.waiting.begin();
                self.inner.guesses.wrong(from.peer).await;
                return Err(fault);
            }
            authorised => authorised?,
        };
        let body = read_body(body, &from.waiting).await?;
        left.body = false;
        // Who does not send what was announced has no place.
        let place = self.inner.places.take(route.endpoint, caller.scope)?;
        let parts = self.inner.parts.get().ok_or_else(|| Fault::unavailable("ccrelay is starting"))?;
        let gone = CancellationToken::new();
        // Dropped with this, and so when the connection ends: what is answered elsewhere goes on.
        let _caller = gone.clone().drop_guard();
        let asked = Asked {
            api: self.clone(),
            parts: parts.clone(),
            route,
            scope: caller.scope,
            uri: head.uri,
            body,
            gone,
            _place: place,
        };
        if let Some(follow) = live(route.endpoint) {
            return follow(&asked.call(), self.inner.seats.take(self.admitted(&head.headers))?);
        }
        let answer = if route.is_audited() {
            left.count = false;
            let runtime = asked.parts.runtime.clone();
            let work = asked.answer_and_note(caller, from.peer).in_current_span();
            let answer = self.inner.changes.spawn_on(work, &runtime).await;
            answer.map_err(|error| Fault::internal("the call cannot be answered", &error))?
        } else {
            asked.answer().await
        };
        Ok(answer.map(Page::from))
    }

    /// The token that was found to be good, to be looked at again.
    fn admitted(&self, headers: &http::HeaderMap) -> Admitted {
        let token = bearer(headers).unwrap_or_default().to_owned();
        Admitted { api: self.clone(), token: SecretString::from(token) }
    }

    fn authorise(&self, route: &Route, headers: &http::HeaderMap, from: &Incomer) -> Result<Caller, Fault> {
        let Some(tokens) = &self.inner.tokens else {
            let hint =
                "the admin API is off: it is on when operations.admin_tokens_file names a file with tokens";
            return Err(Fault::new(StatusCode::FORBIDDEN, "api_off", hint));
        };
        let caller = bearer(headers).and_then(|token| tokens.find(token));
        let Some(caller) = caller else {
            if let Some(left_out) = self.inner.calm.due_about("unauthorised", from.peer.ip()) {
                tracing::warn!(peer = %from.peer, left_out, "a call of the admin API without a valid token");
            }
            let fault =
                Fault::new(StatusCode::UNAUTHORIZED, "unauthorised", "a valid bearer token is needed");
            return Err(fault.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        };
        if route.access == Access::Admin && caller.scope < Scope::Admin {
            let caller = &caller.name;
            tracing::warn!(%caller, peer = %from.peer, route = route.path, "a token that may only read was refused");
            let fault =
                Fault::new(StatusCode::FORBIDDEN, "scope_missing", "this needs a token of the scope admin");
            let challenge = HeaderValue::from_static("Bearer error=\"insufficient_scope\", scope=\"admin\"");
            return Err(fault.with(header::WWW_AUTHENTICATE, challenge));
        }
        Ok(caller)
    }
}

/// What is left to be done with a request when its answer was found.
struct Left {
    /// Its body was not read.
    body: bool,
    /// It was not counted.
    count: bool,
}

/// A request that may be answered, with all that its answer needs: whoever has asked may go away meanwhile.
struct Asked {
    api: Api,
    parts: Parts,
    route: &'static Route,
    scope: Scope,
    uri: Uri,
    body: Bytes,
    /// Is cancelled when its caller has gone.
    gone: CancellationToken,
    /// Is given back when this is dropped.
    _place: OwnedSemaphorePermit,
}

impl Asked {
    fn call(&self) -> Call<'_> {
        Call {
            route: self.route,
            params: self.route.params(self.uri.path()),
            scope: self.scope,
            query: self.uri.query().unwrap_or_default(),
            body: self.body.clone(),
            parts: &self.parts,
            gone: &self.gone,
            api: &self.api,
        }
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let done = tokio::time::timeout(ANSWER_TIMEOUT, dispatch(self.call())).await;
        let done = done.unwrap_or_else(|_| {
            Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "it took too long; it may still be done"))
        });
        done.unwrap_or_else(Fault::response)
    }

    /// Leaves a line in the log that says who has done what.
    async fn answer_and_note(self, caller: Caller, peer: SocketAddr) -> Response<Full<Bytes>> {
        let operation = through::operation(&self.call());
        let answer = self.answer().await;
        let (gateway, agent_id) = self.route.params(self.uri.path()).agent().unzip();
        tracing::info!(
            target: AUDIT_TARGET,
            caller = %caller.name,
            %peer,
            method = %self.route.method,
            route = self.route.path,
            gateway = gateway.as_ref().map(GatewayName::as_str),
            agent_id = agent_id.as_ref().map(crate::event::AgentId::as_str),
            operation,
            status = answer.status().as_u16(),
            "call of the admin API"
        );
        self.api.count(answer.status());
        answer
    }
}

/// Somebody whose token was good when a live answer began.
#[derive(Debug)]
pub(super) struct Admitted {
    api: Api,
    token: SecretString,
}

impl Admitted {
    /// Whether it is now.
    pub(super) fn still(&self) -> bool {
        let tokens = self.api.inner.tokens.as_ref();
        tokens.is_some_and(|tokens| tokens.find(self.token.expose_secret()).is_some())
    }
}

/// The label of `ccrelay_admin_requests_total`.
fn outcome(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "denied",
        status if status.is_server_error() => "failed",
        status if status.is_client_error() => "refused",
        _ => "ok",
    }
}

fn wrong_method(methods: &str) -> Fault {
    let fault = Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format_args!("this path knows only {methods}"),
    );
    match HeaderValue::from_str(methods) {
        Ok(allow) => fault.with(header::ALLOW, allow),
        Err(_) => fault,
    }
}

/// The token of the one header `Authorization: Bearer <token>`. Two are none: which of them would be the one that counts?
fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

async fn read_body(body: Incoming, waiting: &Waiting) -> Result<Bytes, Fault> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let _wait = waiting.begin();
    match tokio::time::timeout(BODY_TIMEOUT, body::read(body, BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BodyFault::TooLong { limit })) => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format_args!("a body has {limit} bytes at most"),
        )),
        Ok(Err(BodyFault::Broken(error))) => {
            Err(Fault::bad_request(format_args!("the body ended early: {error}")))
        }
        Err(_) => {
            Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time"))
        }
    }
}

type Follow = fn(&Call<'_>, Seat) -> Result<Response<Page>, Fault>;

/// What answers until its reader leaves.
fn live(endpoint: Endpoint) -> Option<Follow> {
    match endpoint {
        Endpoint::Events => Some(feed::events),
        Endpoint::FollowStatus => Some(status::follow),
        _ => None,
    }
}

async fn dispatch(call: Call<'_>) -> Answer {
    match call.route.endpoint {
        Endpoint::OpenApi | Endpoint::Events | Endpoint::FollowStatus => {
            Err(Fault::not_found("it is answered before"))
        }
        Endpoint::Status => Ok(status::status(&call)),
        Endpoint::Sinks => Ok(status::sinks(&call)),
        Endpoint::Reload => status::reload(&call).await,
        Endpoint::Agents => agents::list(&call),
        Endpoint::Agent => agents::show(&call),
        Endpoint::SignIn => agents::sign_in(&call),
        Endpoint::SignOut => agents::sign_out(&call),
        Endpoint::TakeOver => agents::take_over(&call),
        Endpoint::PutAgent => change::put(&call).await,
        Endpoint::RemoveAgent => change::remove(&call).await,
        Endpoint::Adopt => change::adopt(&call),
        Endpoint::Guid => change::guid(&call),
        Endpoint::CallThrough => through::call(&call).await,
        Endpoint::DeadLetters => letters::list(&call).await,
        Endpoint::DeadLetter => letters::show(&call).await,
        Endpoint::Export => letters::export(&call).await,
        Endpoint::ReplayOne => letters::replay_one(&call).await,
        Endpoint::Replay => letters::replay(&call).await,
        Endpoint::DiscardOne => letters::discard_one(&call).await,
        Endpoint::Discard => letters::discard(&call).await,
    }
}

/// The parameters of a query, none of them twice, all of them known.
pub(super) fn query<'a>(query: &'a str, known: &[&str]) -> Result<Query<'a>, Fault> {
    let mut found: Vec<(std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(Fault::bad_request(format_args!("known parameters are {}", known.join(", "))));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(Fault::bad_request(format_args!("{name} stands there twice")));
        }
        found.push((name, value));
    }
    Ok(Query { found })
}

/// Parameters of a query.
pub(super) struct Query<'a> {
    found: Vec<(std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>,
}

/// Items of one page at most, and where the caller does not say how many.
const MOST_ITEMS: usize = 1000;
const ITEMS: usize = 100;

impl Query<'_> {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.found.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// `limit`: items of a page.
    pub(super) fn limit(&self) -> Result<usize, Fault> {
        let Some(text) = self.text("limit") else { return Ok(ITEMS) };
        let limit = text.parse().ok().filter(|limit| (1..=MOST_ITEMS).contains(limit));
        limit.ok_or_else(|| Fault::bad_request(format_args!("limit is a number from 1 to {MOST_ITEMS}")))
    }
}
