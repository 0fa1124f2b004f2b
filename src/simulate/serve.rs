//! From a request to its answer: path, content type, faults, operation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use thiserror::Error;
use tracing::{info, warn};

use super::agent::{SessionCall, Slot};
use super::answer::{Answer, Refusal, either};
use super::calls;
use super::faults::FaultKind;
use super::gateway::Gateway;
use super::operation::{Call, NoOperation, Operation};
use super::poll;
use super::session::{self, CallMark};
use super::settings::PushShape;
use super::voice;

/// The most of a request that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// The connection is to be closed without an answer.
#[derive(Debug, Error)]
#[error("dropped on purpose")]
pub(super) struct Dropped;

/// Answers one request.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    node: u8,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let spellings = gateway.spellings.clone();
    let answer = match understand(&gateway, &request) {
        Err(status) => Answer::status(status),
        Ok(call) => answer(&gateway, node, call, request).await?,
    };
    Ok(answer.into_response(&spellings))
}

/// The operation asked for, or the HTTP status of a request that asks for none.
fn understand(gateway: &Gateway, request: &Request<Incoming>) -> Result<Call, StatusCode> {
    let (uri, limit) = (request.uri(), gateway.settings.agent_id_limit);
    let call = Call::parse(request.method(), uri.path(), uri.query(), limit).map_err(|none| match none {
        NoOperation::Path => StatusCode::NOT_FOUND,
        NoOperation::Method => StatusCode::METHOD_NOT_ALLOWED,
    });
    let json = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match call {
        Ok(_) if !json.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) => {
            Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        }
        Err(status) => {
            warn!(%status, method = %request.method(), path = uri.path(), "no such operation");
            Err(status)
        }
        ok => ok,
    }
}

/// The answer, or the failure that was ordered instead.
async fn answer(
    gateway: &Arc<Gateway>,
    node: u8,
    call: Call,
    request: Request<Incoming>,
) -> Result<Answer, Dropped> {
    let fault = gateway.faults.meet(call.operation, &call.agent);
    if let Some(fault) = &fault {
        info!(agent_id = call.agent, operation = ?call.operation, ?fault, "misbehaving as told");
    }
    match &fault {
        Some(FaultKind::Drop) => return Err(Dropped),
        Some(FaultKind::Retcode(code)) => return Ok(Answer::retcode(code, "injected")),
        Some(FaultKind::Status(code)) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok(Answer::status(status));
        }
        None | Some(FaultKind::DelayMs(_) | FaultKind::DropAnswer | FaultKind::Garbage) => {}
    }
    let (operation, agent_id) = (call.operation, call.agent.clone());
    let mut answer = perform(gateway, node, call, request).await;
    if !answer.body.contains(r#""retcode":"0""#) {
        info!(agent_id, ?operation, answer = answer.body, "refused");
    }
    match fault {
        Some(FaultKind::DropAnswer) => return Err(Dropped),
        Some(FaultKind::DelayMs(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(FaultKind::Garbage) => answer.body = "<html>not JSON</html>".to_owned(),
        _ => {}
    }
    Ok(answer)
}

async fn perform(gateway: &Arc<Gateway>, node: u8, call: Call, request: Request<Incoming>) -> Answer {
    let sign_in = matches!(call.operation, Operation::Login | Operation::ForceLogin);
    let Some(slot) = gateway.slot(&call.agent).cloned() else {
        return Answer::from(if sign_in { Refusal::PASSWORD } else { Refusal::NOT_SIGNED_IN });
    };
    if !sign_in && !slot.lock().is_known_at(node) {
        return Answer::from(Refusal::NOT_SIGNED_IN);
    }
    let (head, body) = request.into_parts();
    match call.operation {
        Operation::Login | Operation::ForceLogin => {
            let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
                return Answer::status(StatusCode::BAD_REQUEST);
            };
            let force = call.operation == Operation::ForceLogin;
            sign_in_task(gateway, node, slot, body.to_bytes().to_vec(), force).await
        }
        operation if operation.is_of_a_call() => {
            let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
                return Answer::status(StatusCode::BAD_REQUEST);
            };
            either(of_a_call(gateway, &slot, &call, &head.headers, &body.to_bytes()))
        }
        Operation::AgentEvent => either(poll::poll(gateway, &slot, &head.headers).await),
        _ => either(perform_now(gateway, &slot, &call, &head.headers)),
    }
}

/// Signs in by a task of its own, which a caller that hangs up does not stop.
async fn sign_in_task(
    gateway: &Arc<Gateway>,
    node: u8,
    slot: Arc<Slot>,
    body: Vec<u8>,
    force: bool,
) -> Answer {
    let mark = match CallMark::set(&slot, SessionCall::SignIn) {
        Ok(mark) => mark,
        Err(refusal) => return refusal.into(),
    };
    let (own, stop) = (gateway.clone(), gateway.stop.clone());
    let sign_in = session::sign_in(own, node, slot, body, force, mark);
    let task = gateway.tasks.spawn(async move { stop.run_until_cancelled(sign_in).await });
    match task.await {
        Ok(Some(outcome)) => either(outcome),
        Ok(None) | Err(_) => Answer::status(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// The operations that wait for nothing.
fn perform_now(
    gateway: &Arc<Gateway>,
    slot: &Arc<Slot>,
    call: &Call,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let settings = &gateway.settings;
    if let Operation::Logout | Operation::ForceLogout | Operation::ForceLogoutWithReason = call.operation {
        return sign_out(gateway, slot, call, headers);
    }
    let mut agent = slot.lock();
    let older = settings.push_shape == PushShape::Legacy;
    if call.operation == Operation::Heartbeat && !older {
        return Ok(Answer::status(StatusCode::NOT_FOUND));
    }
    if let Operation::Handshake | Operation::Heartbeat = call.operation {
        return calls::handshake(&mut agent, headers, settings);
    }
    let session = calls::authenticate(&mut agent, headers, settings)?;
    match call.operation {
        Operation::UpdateGuid => Ok(calls::update_guid(session, settings)),
        Operation::ResetSkill => calls::reset_skill(slot, session, call),
        Operation::AgentSkills => Ok(calls::agent_skills(slot)),
        Operation::AgentStatus => Ok(calls::agent_status(session)),
        Operation::AutoAnswer | Operation::AutoEnterIdle => calls::set_flag(call),
        _ => {
            let now = session.doing();
            drop(agent);
            calls::change_state(gateway, slot, now, call)
        }
    }
}

fn of_a_call(
    gateway: &Arc<Gateway>,
    slot: &Arc<Slot>,
    call: &Call,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refusal> {
    calls::authenticate(&mut slot.lock(), headers, &gateway.settings)?;
    voice::perform(gateway, slot, call, body)
}

fn sign_out(
    gateway: &Arc<Gateway>,
    slot: &Arc<Slot>,
    call: &Call,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let with_reason = call.operation == Operation::ForceLogoutWithReason;
    let reason = call.arguments.first().and_then(|reason| reason.parse::<u8>().ok());
    if with_reason && reason.is_none_or(|reason| reason == 0) {
        return Err(Refusal::SIGN_OUT_PARAMETER);
    }
    let _mark = CallMark::set(slot, SessionCall::SignOut)?;
    {
        let mut agent = slot.lock();
        if agent.session.is_none() && !gateway.settings.second_logout_unknown {
            return Err(Refusal::SIGNED_OUT);
        }
        calls::authenticate(&mut agent, headers, &gateway.settings)?;
    }
    session::sign_out(gateway, slot, call.operation == Operation::Logout, with_reason)
}
