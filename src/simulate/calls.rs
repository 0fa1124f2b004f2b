//! The calls of a signed-in agent: heartbeat, GUID, skills, state. Each takes the agent's state locked.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::COOKIE;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info};

use super::agent::{Activity, Agent, Session, Slot};
use super::answer::{Answer, Refusal};
use super::event::Draft;
use super::gateway::Gateway;
use super::login::is_token;
use super::operation::{Call, Operation};
use super::settings::Settings;

/// The longest a skill list may be.
const SKILLS_LENGTH: usize = 4000;
/// The longest a rest may be, in seconds.
const REST_SECONDS: u64 = 86_399;

/// The session that a call's headers prove; else why not.
pub(super) fn authenticate<'a>(
    agent: &'a mut Agent,
    headers: &HeaderMap,
    settings: &Settings,
) -> Result<&'a mut Session, Refusal> {
    let session = agent.session.as_mut().ok_or(Refusal::NOT_SIGNED_IN)?;
    // Without its cookies a call reaches another node, where nobody is signed in.
    if !session.cookies.iter().all(|cookie| sent(headers, cookie.expose_secret())) {
        return Err(Refusal::NOT_SIGNED_IN);
    }
    let guid = headers.get("guid").and_then(|value| value.to_str().ok()).ok_or(Refusal::NO_RIGHT)?;
    match session.guids.accept(guid, Instant::now(), settings) {
        true => Ok(session),
        false => Err(Refusal::NO_RIGHT),
    }
}

fn sent(headers: &HeaderMap, cookie: &str) -> bool {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).any(|part| part.trim() == cookie)
}

/// The heartbeat. Carries the newest `service_token`; its answer may carry a new GUID.
pub(super) fn handshake(
    agent: &mut Agent,
    headers: &HeaderMap,
    settings: &Settings,
) -> Result<Answer, Refusal> {
    let session = authenticate(agent, headers, settings)?;
    if let Some(token) = headers.get("service_token").filter(|token| !token.is_empty()) {
        let token = token.to_str().ok().filter(|token| is_token(token)).ok_or(Refusal::SIGN_IN_PARAMETER)?;
        if settings.heartbeat_renews_token {
            session.token = token.to_owned().into();
        }
    }
    let now = Instant::now();
    if session.is_push() {
        session.last_contact = now;
    }
    session.guids.renew_if_due(now, settings);
    let mut answer = Answer::success();
    answer.set_guid = session.guids.announce();
    agent.counts.heartbeats += 1;
    Ok(answer)
}

/// `updateGuid`: a new GUID at once, in the answer's body.
pub(super) fn update_guid(session: &mut Session, settings: &Settings) -> Answer {
    session.guids.renew(Instant::now(), settings);
    let _told_by_body = session.guids.announce();
    Answer::result(&json!({ "guid": session.guids.current().expose() }))
}

/// `resetskill`: all configured skills, or those asked for that are configured.
pub(super) fn reset_skill(slot: &Slot, session: &mut Session, call: &Call) -> Result<Answer, Refusal> {
    let asked = call.parameter("skillid").unwrap_or_default();
    let linkage = call.parameter("phonelinkage");
    if asked.len() > SKILLS_LENGTH || linkage.is_some_and(|flag| flag != "0" && flag != "1") {
        return Err(Refusal::PARAMETER);
    }
    let all = call.arguments.first().is_some_and(|flag| flag == "true");
    let wanted: Vec<&str> = asked.split(';').collect();
    let configured = slot.profile.skills.iter().map(|skill| skill.id);
    let skills: Vec<u32> = configured.filter(|id| all || wanted.contains(&id.to_string().as_str())).collect();
    info!(agent_id = %slot.id, ?skills, "skills reset");
    session.skills = Some(skills);
    slot.changed.notify_waiters();
    Ok(Answer::success())
}

/// `agentskills`: what is configured.
pub(super) fn agent_skills(slot: &Slot) -> Answer {
    let skill = |s: &super::settings::Skill| json!({ "name": s.name, "id": s.id, "mediatype": s.mediatype });
    Answer::result(&Value::Array(slot.profile.skills.iter().map(skill).collect()))
}

/// `agentstatus`.
pub(super) fn agent_status(session: &Session) -> Answer {
    let doing = session.doing();
    Answer::result(&json!({ "agentState": doing.number(), "isWorking": doing == Activity::Talking }))
}

/// The operations that ask for another state. Success means accepted; events tell the rest.
pub(super) fn change_state(
    gateway: &Arc<Gateway>,
    slot: &Arc<Slot>,
    now: Activity,
    call: &Call,
) -> Result<Answer, Refusal> {
    let free = matches!(now, Activity::Busy | Activity::Idle | Activity::Work | Activity::Rest);
    let ready = Draft::parts("AgentState_Ready", Value::Null);
    let event = |name: &str| Draft::parts(name, Value::Null);
    let drafts = match call.operation {
        Operation::SayFree if free => vec![ready],
        Operation::SayBusy => {
            let reason = busy_reason(call, now)?;
            if let Some(session) = &mut slot.lock().session
                && session.line.in_call()
            {
                // In a call it is accepted, and comes true when the call is over.
                session.busy_after_call = Some(reason);
                return Ok(Answer::success());
            }
            vec![Draft::busy(&reason)]
        }
        Operation::CancelBusy if now == Activity::Busy => {
            vec![event("AgentState_CancelNotReady_Success"), ready]
        }
        Operation::Rest if free => vec![start_rest(gateway, slot, call)?],
        Operation::CancelRest if now == Activity::Rest => vec![event("AgentState_CancelRest_Success"), ready],
        Operation::Work if free => vec![event("AgentState_Work")],
        Operation::CancelWork if now == Activity::Work => vec![event("AgentState_CancelWork_Success"), ready],
        _ => return Err(Refusal::STATE),
    };
    debug!(agent_id = %slot.id, operation = ?call.operation, "state asked for");
    gateway.emit(slot, &drafts).map_err(|_| Refusal::NOT_SIGNED_IN)?;
    Ok(Answer::success())
}

/// A flag in the path of `autoanswer` and `autoenteridle`: at most five characters, any but `true` is false.
pub(super) fn set_flag(call: &Call) -> Result<Answer, Refusal> {
    match call.arguments.first() {
        Some(flag) if flag.len() <= 5 => Ok(Answer::success()),
        _ => Err(Refusal::PARAMETER),
    }
}

/// Who is busy already must say why and whether it is prolonged.
fn busy_reason(call: &Call, now: Activity) -> Result<String, Refusal> {
    let reason = call.parameter("reason");
    let prolong = call.parameter("prolong");
    if now == Activity::Busy && (reason.is_none() || prolong.is_none()) {
        return Err(Refusal::PARAMETER);
    }
    match reason.map(str::parse::<u16>) {
        None | Some(Ok(0)) => Ok("1".to_owned()),
        Some(Ok(own @ 200..=250)) => Ok(own.to_string()),
        Some(_) => Err(Refusal::PARAMETER),
    }
}

/// Checks a rest and starts its clock.
fn start_rest(gateway: &Arc<Gateway>, slot: &Arc<Slot>, call: &Call) -> Result<Draft, Refusal> {
    let seconds = call.arguments.first().and_then(|text| text.parse::<u64>().ok());
    let cause = call.arguments.get(1).and_then(|text| text.parse::<u8>().ok());
    let seconds = seconds.filter(|s| (1..=REST_SECONDS).contains(s)).ok_or(Refusal::PARAMETER)?;
    let cause = cause.ok_or(Refusal::PARAMETER)?;
    let epoch = slot.lock().session.as_ref().map(|session| session.epoch);
    let (own, slot) = (gateway.clone(), slot.clone());
    gateway.spawn(async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let resting = |session: &Session| Some(session.epoch) == epoch && session.activity == Activity::Rest;
        let still = slot.lock().session.as_ref().is_some_and(resting);
        if still {
            // A session that ended just now needs no event.
            let _gone = own.emit(&slot, &[Draft::parts("AgentState_Rest_Timeout", Value::Null)]);
        }
    });
    Ok(Draft::parts("AgentState_SetRest_Success", json!({ "reason": cause.to_string() })))
}
