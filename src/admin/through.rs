//! Calls through to the gateway: those that the configuration opens, made with the agent's current GUID and cookies, one at
//! a time for each agent, so that the caller needs to know nothing of sessions.
//!
//! What the gateway answered passes with its status and body, without its headers, and is marked as its answer; without
//! the mark an answer is ours.

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::api::{Answer, Call};
use super::fault::{Fault, answer};
use super::routes::Endpoint;
use crate::event::AgentId;
use crate::session::call::CallError;
use crate::session::config::CallPattern;
use crate::session::forward::{ForwardError, ForwardRequest};

/// What the log and the count have for a call that was not made, since its caller had gone: nginx's status for that.
const CALLER_GONE: u16 = 499;
/// On what the gateway answered.
const MARK: HeaderName = HeaderName::from_static("ccrelay-answer");

pub(super) async fn call(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = call.params.agent().ok_or_else(Fault::no_such_agent)?;
    let open = call.parts.call_through.get(&gateway).ok_or_else(Fault::no_such_agent)?;
    let (method, path) = (&call.route.method, call.params.text("path"));
    let target = match call.query {
        "" => format!("/{path}"),
        query => format!("/{path}?{query}"),
    };
    let request = ForwardRequest::new(method.clone(), &target, None, call.body.clone()).map_err(fault)?;
    if opened(open, call, &agent_id).is_none() {
        return Err(not_open("no pattern in call_through of this gateway opens this call for this agent"));
    }
    let answered = call.parts.sessions.forward(&gateway, &agent_id, request, call.gone).await;
    let answered = answered.map_err(fault)?;
    let status = StatusCode::from_u16(answered.status).ok().filter(|status| !status.is_informational());
    let status = status.ok_or_else(|| broken("the gateway answered with no status that can be passed on"))?;
    let mut response = answer(status, "application/json", answered.body);
    let headers = response.headers_mut();
    if let Some(kind) = answered.content_type.and_then(|kind| HeaderValue::from_str(&kind).ok()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(MARK, HeaderValue::from_static("gateway"));
    Ok(response)
}

/// What the gateway is asked for, for the log; none where that is not open.
pub(super) fn operation(call: &Call<'_>) -> Option<String> {
    let (gateway, agent_id) = call.params.agent().filter(|_| call.route.endpoint == Endpoint::CallThrough)?;
    let open = call.parts.call_through.get(&gateway)?;
    Some(opened(open, call, &agent_id)?.name_of(call.params.text("path")))
}

/// The pattern that opens this call for this agent.
fn opened<'a>(open: &'a [CallPattern], call: &Call<'_>, agent_id: &AgentId) -> Option<&'a CallPattern> {
    let path = call.params.text("path");
    open.iter().find(|pattern| pattern.opens(&call.route.method, path, agent_id))
}

fn not_open(message: &str) -> Fault {
    Fault::new(StatusCode::FORBIDDEN, "not_open", message)
}

fn broken(message: &str) -> Fault {
    Fault::new(StatusCode::BAD_GATEWAY, "gateway_failed", message)
}

fn fault(error: ForwardError) -> Fault {
    match error {
        ForwardError::Path | ForwardError::Method => Fault::bad_request(error),
        ForwardError::TooLarge => Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error),
        ForwardError::OwnCall => not_open("this call is ccrelay's own and cannot be opened"),
        ForwardError::UnknownAgent => Fault::no_such_agent(),
        ForwardError::NoSession => Fault::conflict("no_session", error),
        ForwardError::QueueFull => {
            let fault = Fault::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error);
            fault.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
        }
        ForwardError::Expired | ForwardError::Call(CallError::NotSent) => {
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "expired", error)
        }
        ForwardError::CallerGone => {
            let status = StatusCode::from_u16(CALLER_GONE).unwrap_or(StatusCode::REQUEST_TIMEOUT);
            Fault::new(status, "caller_gone", error)
        }
        ForwardError::Call(CallError::TimedOut) => {
            let message = "the gateway did not answer in time; it may have done what was asked";
            Fault::new(StatusCode::GATEWAY_TIMEOUT, "gateway_silent", message)
        }
        ForwardError::Call(CallError::Unreachable(_)) => {
            let message = "the gateway cannot be reached; it has not seen the call";
            Fault::new(StatusCode::BAD_GATEWAY, "gateway_unreachable", message)
        }
        ForwardError::Call(CallError::Broken(_) | CallError::Status(_)) => {
            broken("the call broke; the gateway may have done what was asked")
        }
        ForwardError::Ended => {
            broken("the session ended before an answer came; the gateway may have done it")
        }
    }
}
