//! Signing in and out. An agent has one such call at a time, and the call goes on when its caller hangs up.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use super::agent::{Activity, Agent, Session, SessionCall, Slot};
use super::answer::{Answer, Refusal};
use super::event::Draft;
use super::gateway::Gateway;
use super::guid::{Guid, Guids};
use super::ledger::SignOut;
use super::login::Login;
use super::settings::{Agents, Settings};
use super::voice::Line;

/// How long the first events may hold the login's answer back, where they precede it.
const FIRST_EVENTS: Duration = Duration::from_secs(5);
/// How long after the login's answer the first events leave, where they follow it.
const AFTER_ANSWER: Duration = Duration::from_millis(10);

/// The mark that a session call of an agent is under way.
pub(super) struct CallMark(Arc<Slot>);

impl CallMark {
    /// Marks the call, unless another is under way.
    pub(super) fn set(slot: &Arc<Slot>, call: SessionCall) -> Result<CallMark, Refusal> {
        let mut agent = slot.lock();
        match (agent.session_call, call) {
            (None, _) => agent.session_call = Some(call),
            (Some(SessionCall::SignIn), SessionCall::SignIn) => return Err(Refusal::SIGNING_IN),
            (Some(_), _) => return Err(Refusal::REPEATED),
        }
        Ok(CallMark(slot.clone()))
    }
}

impl Drop for CallMark {
    fn drop(&mut self) {
        self.0.lock().session_call = None;
    }
}

/// Login, or forcelogin.
pub(super) async fn sign_in(
    gateway: Arc<Gateway>,
    node: u8,
    slot: Arc<Slot>,
    body: Vec<u8>,
    force: bool,
    _mark: CallMark,
) -> Result<Answer, Refusal> {
    let settings = &gateway.settings;
    let login = Login::parse(&body, settings)?;
    // A refusal is quick. Meanwhile nobody else can sign in, since a second call is refused.
    admit(&mut slot.lock(), &slot.profile, &login, force, settings)?;
    tokio::time::sleep(Duration::from_millis(settings.login_delay_ms)).await;
    gateway.end_session(&slot, None, SignOut::TakenOver, false);
    let (answer, epoch) = begin(&gateway, node, &slot, &login);
    gateway.watch.add(&slot, epoch, settings);
    deliver_first_events(&gateway, &slot).await;
    let push = login.delivery.is_push();
    info!(agent_id = %slot.id, phone = login.phone, force, push, "signed in");
    Ok(answer)
}

/// Logout (polite) or one of the forced kinds. `farewell` where the gateway may say AgentOther_ShutdownService.
pub(super) fn sign_out(
    gateway: &Gateway,
    slot: &Arc<Slot>,
    polite: bool,
    farewell: bool,
) -> Result<Answer, Refusal> {
    let talking = slot.lock().session.as_ref().is_some_and(|s| s.doing() == Activity::Talking);
    if polite && talking {
        return Err(Refusal::SIGN_OUT_STATE);
    }
    match gateway.end_session(slot, None, SignOut::Asked, farewell) {
        true => Ok(Answer::success()),
        false => Err(Refusal::SIGNED_OUT),
    }
}

/// Whether this login may be: password, lock, phone, other session.
fn admit(
    agent: &mut Agent,
    profile: &Agents,
    login: &Login,
    force: bool,
    settings: &Settings,
) -> Result<(), Refusal> {
    let now = Instant::now();
    if agent.locked_until.is_some_and(|until| now < until) {
        return Err(Refusal::LOCKED);
    }
    if !password_fits(profile, login, settings) {
        agent.bad_passwords += 1;
        if settings.lockout_attempts > 0 && agent.bad_passwords >= settings.lockout_attempts {
            agent.locked_until = Some(now + Duration::from_millis(settings.lockout_ms));
            agent.bad_passwords = 0;
        }
        return Err(Refusal::PASSWORD);
    }
    if profile.password_expired {
        return Err(Refusal::PASSWORD_EXPIRED);
    }
    if profile.phone.as_ref().is_some_and(|phone| *phone != login.phone) {
        return Err(Refusal::PHONE_RANGE);
    }
    match (&agent.session, force) {
        (None, _) => Ok(()),
        (Some(_), true) if profile.not_forced => Err(Refusal::NOT_FORCED),
        (Some(_), true) => Ok(()),
        (Some(_), false) => Err(Refusal::SIGNED_IN),
    }
}

fn password_fits(profile: &Agents, login: &Login, settings: &Settings) -> bool {
    let expected = match settings.login_password_decrypt {
        true => profile.encrypted_password.as_ref(),
        false => Some(&profile.password),
    };
    expected.is_some_and(|password| password.expose_secret() == login.password.expose_secret())
}

/// Begins the session and words its answer.
fn begin(gateway: &Gateway, node: u8, slot: &Slot, login: &Login) -> (Answer, u64) {
    let (now, login_time) = (Instant::now(), gateway.clock.now());
    let cookies = if gateway.settings.cookies { fresh_cookies() } else { Vec::new() };
    let mut agent = slot.lock();
    let epoch = agent.sign_in(|epoch| Session {
        epoch,
        node,
        guids: Guids::new(now),
        delivery: login.delivery.clone(),
        token: login.token.clone(),
        last_contact: now,
        cookies: cookies.iter().map(|c| c.clone().into()).collect(),
        activity: login.activity,
        busy_after_call: None,
        line: Line::default(),
        skills: None,
        login_time,
    });
    gateway.enqueue(&slot.id, &mut agent, &first_events(login.activity), None);
    let mut answer = Answer::result(&json!({
        "vdnid": 1, "workno": slot.id.as_str(), "mediatype": slot.profile.mediatype,
        "loginTime": login_time.millis().to_string(), "isForceChange": "false",
        "serverName": "AgentGateway", "timeRemaining": "",
    }));
    answer.set_guid = agent.session.as_ref().map(|session| session.guids.current().announcement());
    answer.cookies = cookies.into_iter().map(|cookie| cookie + "; Path=/; HttpOnly").collect();
    (answer, epoch)
}

/// The events of a sign-in.
fn first_events(activity: Activity) -> Vec<Draft> {
    let mut drafts = vec![
        Draft::parts("AgentOther_InService", Value::Null),
        Draft::parts("AgentState_Ready", Value::Null),
    ];
    match activity {
        Activity::Busy => drafts.push(Draft::busy("1")),
        Activity::Work => drafts.push(Draft::parts("AgentState_Work", Value::Null)),
        Activity::Idle | Activity::Talking | Activity::Rest => {}
    }
    drafts
}

/// With the setting, waits until the first events are delivered. Otherwise they may overtake the answer or not,
/// as with the gateway, but give it a moment.
async fn deliver_first_events(gateway: &Arc<Gateway>, slot: &Arc<Slot>) {
    if gateway.settings.events_before_answer {
        gateway.wake(slot);
        let _late = tokio::time::timeout(FIRST_EVENTS, drained(slot)).await;
        return;
    }
    let (own, slot) = (gateway.clone(), slot.clone());
    gateway.spawn(async move {
        tokio::time::sleep(AFTER_ANSWER).await;
        own.wake(&slot);
    });
}

/// Waits until nothing waits for the agent.
async fn drained(slot: &Slot) {
    loop {
        let changed = slot.changed.notified();
        let agent_waits = !slot.lock().queue.is_empty();
        if !agent_waits {
            return;
        }
        changed.await;
    }
}

/// Two cookies, as load balancers set them.
fn fresh_cookies() -> Vec<String> {
    let part = || Guid::random().expose()[..8].to_owned();
    vec![format!("AWSALB={}", part()), format!("SERVERID={}", part())]
}
