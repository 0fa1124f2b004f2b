//! Pushing: per agent one batch at a time, in order, repeated until it succeeds or the agent is forced out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::ExposeSecret;
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::agent::{Agent, Slot, Target};
use super::gateway::Gateway;
use super::ledger::SignOut;
use super::lose::{self, LoseError};
use super::settings::{PushShape, Settings};
use super::trust;

/// The most of an answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Kept connections for one callback; agents share them.
const IDLE_CONNECTIONS: usize = 512;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Sends pushes.
#[derive(Debug)]
pub(super) struct Pusher {
    client: HttpsClient,
    /// For pushes whose answer is lost: the same TLS.
    tls: Arc<rustls::ClientConfig>,
    spellings: Extensions,
    shape: PushShape,
    timeout: Duration,
}

/// One push to be made.
#[derive(Debug)]
struct Batch {
    target: Target,
    /// The session it is for; none for a farewell.
    epoch: Option<u64>,
    serials: Vec<u64>,
    attempts: u32,
    body: String,
    lose_answer: bool,
}

/// Why a push did not succeed.
#[derive(Debug, Error)]
enum PushError {
    #[error("the callback address is not in the trust list")]
    Untrusted,
    #[error("no answer in time")]
    Timeout,
    #[error("answer to be lost")]
    Lost(#[source] LoseError),
    #[error("not sent or not answered")]
    Transport(#[source] hyper_util::client::legacy::Error),
    #[error("not a request")]
    Request(#[source] http::Error),
    #[error("answer broken off or too long")]
    Body,
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("answer is not JSON")]
    NotJson,
    #[error("retcode {0}")]
    Retcode(String),
}

/// What to do after a push.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Wait(Duration),
    ForceOut,
}

impl Pusher {
    pub(super) fn new(settings: &Settings, spellings: Extensions) -> Result<Pusher, trust::TrustError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let config = trust::client_config(settings)?;
        let tls = Arc::new(config.clone());
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(if settings.push_new_connection { 0 } else { IDLE_CONNECTIONS })
            .http1_preserve_header_case(true)
            .build(connector);
        let timeout = Duration::from_millis(settings.push_timeout_ms);
        Ok(Pusher { client, tls, spellings, shape: settings.push_shape, timeout })
    }

    /// Makes one push. An answer is lost by a reset of its connection, which is of its own.
    async fn push(&self, target: &Target, body: String, lose_answer: bool) -> Result<(), PushError> {
        if !target.trusted {
            return Err(PushError::Untrusted);
        }
        let request = self.request(target, body)?;
        let exchange = async {
            match lose_answer {
                true => Err(PushError::Lost(lose::push_and_lose(self.tls.clone(), request).await)),
                false => self.exchange(request).await,
            }
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(PushError::Timeout))
    }

    fn request(&self, target: &Target, body: String) -> Result<Request<Full<Bytes>>, PushError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target.uri.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"))
            .header("guid", secret_value(target.guid.expose())?)
            .body(Full::new(Bytes::from(body)))
            .map_err(PushError::Request)?;
        let token = target.token.expose_secret();
        if !token.is_empty() {
            request.headers_mut().insert("service_token", secret_value(token)?);
        }
        *request.extensions_mut() = self.spellings.clone();
        Ok(request)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(), PushError> {
        let response = self.client.request(request).await.map_err(PushError::Transport)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|_| PushError::Body)?.to_bytes();
        judge(self.shape, status, &body)
    }
}

/// Pushes what waits for an agent until nothing does. One such task runs per agent at a time.
pub(super) async fn push_all(gateway: Arc<Gateway>, slot: Arc<Slot>) {
    loop {
        let Some(batch) = next_batch(&mut slot.lock(), slot.id.as_str(), &gateway.settings) else { return };
        let lose = batch.lose_answer || gateway.roll(|r| r.chance(gateway.settings.push_answer_lost));
        let started = Instant::now();
        let outcome = gateway.pusher.push(&batch.target, batch.body.clone(), lose).await;
        log(&slot, &batch, &outcome);
        if outcome.is_ok() {
            gateway.took(started.elapsed());
        }
        let next = settle(&mut slot.lock(), &batch, outcome.is_ok(), started, &gateway.settings);
        slot.changed.notify_waiters();
        match next {
            Next::Continue => {}
            Next::Wait(wait) => wait_or_end(&slot, batch.epoch, wait).await,
            Next::ForceOut => gateway.force_out(&slot, batch.epoch, SignOut::PushFailure),
        }
    }
}

/// The next push; none when nothing waits, and then the push task has ended.
fn next_batch(agent: &mut Agent, work_no: &str, settings: &Settings) -> Option<Batch> {
    let head = agent.queue.front().and_then(|head| match &head.farewell {
        Some(target) => Some(((**target).clone(), None)),
        None => agent.session.as_mut().and_then(|session| {
            if settings.guid_runs_ahead {
                session.guids.renew_if_due(Instant::now(), settings);
            }
            session.target().map(|target| (target, Some(session.epoch)))
        }),
    });
    let Some((mut target, epoch)) = head else {
        agent.pushing = false;
        return None;
    };
    if let Some(failed) = agent.failed.as_ref().filter(|_| settings.repeat_keeps_headers && epoch.is_some()) {
        (target.guid, target.token) = (failed.guid.clone(), failed.token.clone());
    }
    let count = batch_length(agent, epoch.is_none(), settings);
    agent.counts.pushes_attempted += 1;
    if agent.repeating > 0 {
        agent.counts.pushes_repeated += 1;
    }
    let mut serials = Vec::with_capacity(count);
    let mut events = Vec::with_capacity(count);
    for event in agent.queue.iter_mut().take(count) {
        event.attempts += 1;
        serials.push(event.serial);
        events.push(event.json.clone());
    }
    let attempts = agent.queue.front().map_or(1, |e| e.attempts);
    let lose_answer = agent.answers_to_lose > 0;
    agent.answers_to_lose = agent.answers_to_lose.saturating_sub(1);
    let body = body(settings.push_shape, work_no, &events);
    Some(Batch { target, epoch, serials, attempts, body, lose_answer })
}

fn batch_length(agent: &Agent, farewell: bool, settings: &Settings) -> usize {
    if farewell || settings.push_shape == PushShape::Legacy {
        return 1;
    }
    let waiting = agent.queue.iter().take_while(|event| event.farewell.is_none());
    if agent.repeating > 0 && !settings.repeat_grows {
        return agent.repeating;
    }
    waiting.take(settings.push_batch_limit.max(agent.repeating)).count()
}

fn body(shape: PushShape, work_no: &str, events: &[Arc<str>]) -> String {
    match shape {
        PushShape::EventList => {
            format!(r#"{{"workNo":"{work_no}","eventList":[{}]}}"#, events.join(","))
        }
        PushShape::Legacy => format!(r#"{{"message":"","retcode":"0","event":{}}}"#, events.concat()),
    }
}

/// Books a push and says what comes next.
fn settle(agent: &mut Agent, batch: &Batch, success: bool, started: Instant, settings: &Settings) -> Next {
    if success {
        agent.failed = None;
        agent.acknowledge(&batch.serials, batch.attempts);
        return Next::Continue;
    }
    agent.counts.pushes_failed += 1;
    let Some(epoch) = batch.epoch else {
        agent.drop_farewell();
        return Next::Continue;
    };
    if agent.session_of(epoch).is_none() {
        return Next::Continue;
    }
    agent.repeating = batch.serials.len();
    agent.failed.get_or_insert_with(|| batch.target.clone());
    let failing = agent.failing_since.get_or_insert(started).elapsed();
    let total = Duration::from_millis(settings.push_fail_total_ms);
    match total.checked_sub(failing) {
        None | Some(Duration::ZERO) => Next::ForceOut,
        Some(rest) => Next::Wait(rest.min(Duration::from_millis(settings.push_fail_interval_ms))),
    }
}

/// Waits before a repeat, unless the session ends meanwhile.
async fn wait_or_end(slot: &Slot, epoch: Option<u64>, wait: Duration) {
    let until = Instant::now() + wait;
    loop {
        let changed = slot.changed.notified();
        if epoch.is_some_and(|epoch| slot.lock().session_of(epoch).is_none()) {
            return;
        }
        if tokio::time::timeout_at(until, changed).await.is_err() {
            return;
        }
    }
}

/// Whether an answer is success: no manual says how lenient the gateway is, so it is not.
fn judge(shape: PushShape, status: StatusCode, body: &[u8]) -> Result<(), PushError> {
    if status != StatusCode::OK {
        return Err(PushError::Status(status));
    }
    if shape == PushShape::Legacy && body.is_empty() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(body).map_err(|_| PushError::NotJson)?;
    match answer.get("retcode") {
        Some(Value::String(code)) if code == "0" => Ok(()),
        Some(Value::Number(code)) if shape == PushShape::Legacy && code.as_u64() == Some(0) => Ok(()),
        code => Err(PushError::Retcode(code.map_or_else(|| "missing".into(), Value::to_string))),
    }
}

fn secret_value(text: &str) -> Result<HeaderValue, PushError> {
    let mut value = HeaderValue::from_str(text).map_err(|e| PushError::Request(e.into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn log(slot: &Slot, batch: &Batch, outcome: &Result<(), PushError>) {
    let (agent_id, events, attempt) = (&slot.id, batch.serials.len(), batch.attempts);
    match outcome {
        Ok(()) => debug!(%agent_id, events, attempt, "pushed"),
        Err(error) => {
            let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
            let cause = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            warn!(%agent_id, events, attempt, %error, cause, "push failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::ids::AgentId;
    use crate::simulate::agent::{Activity, Delivery, Session};
    use crate::simulate::guid::Guids;

    fn agent(events: usize) -> Agent {
        let mut agent = Agent::default();
        let delivery = Delivery::Push { uri: Uri::from_static("http://x/"), trusted: true };
        agent.sign_in(|epoch| Session {
            epoch,
            node: 0,
            guids: Guids::new(Instant::now()),
            delivery,
            token: "t".to_owned().into(),
            last_contact: Instant::now(),
            cookies: Vec::new(),
            activity: Activity::Idle,
            busy_after_call: None,
            line: super::super::voice::Line::default(),
            skills: None,
            login_time: Timestamp(0),
        });
        add(&mut agent, events);
        agent
    }

    fn add(agent: &mut Agent, events: usize) {
        let id = AgentId::parse("1001").unwrap();
        for _ in 0..events {
            agent.enqueue(&id, Timestamp(0), true, None, |serial| serial.to_string());
        }
    }

    fn push(agent: &mut Agent, success: bool, settings: &Settings) -> (Vec<u64>, Next) {
        let batch = next_batch(agent, "1001", settings).unwrap();
        let next = settle(agent, &batch, success, Instant::now(), settings);
        (batch.serials, next)
    }

    #[tokio::test(start_paused = true)]
    async fn failure_time_accumulates_to_a_forced_sign_out_and_a_success_resets_it() {
        let settings = Settings::default();
        let mut agent = agent(1);
        for failures in [11, 12] {
            for _ in 0..failures {
                let (_, next) = push(&mut agent, false, &settings);
                assert_eq!(next, Next::Wait(Duration::from_secs(10)));
                tokio::time::advance(Duration::from_secs(10)).await;
            }
            if failures == 11 {
                assert_eq!(push(&mut agent, true, &settings).1, Next::Continue);
                add(&mut agent, 1);
            }
        }
        assert_eq!(push(&mut agent, false, &settings).1, Next::ForceOut);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_wait_ends_with_the_failure_time() {
        let settings = Settings { push_fail_total_ms: 15_000, ..Settings::default() };
        let mut agent = agent(1);
        assert_eq!(push(&mut agent, false, &settings).1, Next::Wait(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(push(&mut agent, false, &settings).1, Next::Wait(Duration::from_secs(5)));
    }

    #[test]
    fn a_repeat_keeps_its_head_and_grows_up_to_the_limit_or_not_at_all() {
        for (repeat_grows, repeated) in [(true, vec![1, 2, 3, 4]), (false, vec![1, 2])] {
            let settings = Settings { repeat_grows, push_batch_limit: 4, ..Settings::default() };
            let mut agent = agent(2);
            assert_eq!(push(&mut agent, false, &settings).0, [1, 2]);
            add(&mut agent, 5);
            assert_eq!(push(&mut agent, false, &settings).0, repeated);
            assert_eq!(push(&mut agent, true, &settings).0, repeated);
            let next = *repeated.last().unwrap() + 1;
            assert_eq!(
                push(&mut agent, true, &settings).0,
                [next, next + 1, next + 2, next + 3][..(7 - repeated.len()).min(4)]
            );
        }
    }

    #[test]
    fn a_repeat_has_the_newest_token_or_with_the_setting_that_of_its_first_push() {
        for (repeat_keeps_headers, repeated) in [(false, "new"), (true, "t")] {
            let settings = Settings { repeat_keeps_headers, ..Settings::default() };
            let mut agent = agent(1);
            push(&mut agent, false, &settings);
            agent.session.as_mut().unwrap().token = "new".to_owned().into();
            for success in [false, true] {
                let batch = next_batch(&mut agent, "1001", &settings).unwrap();
                assert_eq!(batch.target.token.expose_secret(), repeated);
                settle(&mut agent, &batch, success, Instant::now(), &settings);
            }
            add(&mut agent, 1);
            let batch = next_batch(&mut agent, "1001", &settings).unwrap();
            assert_eq!(batch.target.token.expose_secret(), "new", "the batch after it");
        }
    }

    #[test]
    fn success_is_what_the_manual_shows_and_nothing_more() {
        let judge = |shape, status, body: &str| {
            judge(shape, StatusCode::from_u16(status).unwrap(), body.as_bytes()).is_ok()
        };
        assert!(judge(PushShape::EventList, 200, r#"{"message":"x","retcode":"0","more":1}"#));
        for bad in ["", "0", "null", "{}", r#"{"retcode":0}"#, r#"{"retcode":"00"}"#, r#"{"retcode":null}"#] {
            assert!(!judge(PushShape::EventList, 200, bad), "{bad}");
        }
        assert!(!judge(PushShape::EventList, 204, r#"{"retcode":"0"}"#));
        assert!(judge(PushShape::Legacy, 200, "") && judge(PushShape::Legacy, 200, r#"{"retcode":0}"#));
        assert!(!judge(PushShape::Legacy, 200, r#"{"retcode":1}"#));
    }
}
