//! A gateway in memory that is strict about the protocol, and fakes of what the daemon gives to sessions.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::event::{AgentId, GatewayName};
use crate::metrics::Metrics;
use crate::session::call::{
    Answer, Call, CallError, Forwarded, GatewayCalls, Permit, Reply, SignInResult, Ticket,
};
use crate::session::config::{AgentConfig, GatewayConfig, RawAgent, RawGateway, SessionsConfig, validate};
use crate::session::forward::{ForwardAnswer, ForwardRequest};
use crate::session::gateway::queue::Queue;
use crate::session::retcode::{Operation, Retcode};
use crate::session::{
    Deps, EventStore, Journal, LifecycleEvent, SessionStore, SessionView, Sessions, StoreError, Stored,
    TokenSource,
};
use crate::sink::BoxFuture;

pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// `GUIDTIMEOUT`: a GUID that was not renewed is dead.
const GUID_TIMEOUT: Duration = Duration::from_secs(120);

/// What a scripted call does instead of what the gateway would do by itself.
#[derive(Debug, Clone)]
pub(super) enum Script {
    /// Refuses with this code; nothing happens.
    Code(&'static str),
    /// Does what was asked, but the answer is lost.
    AnswerLost,
    /// Nothing happens and no answer comes.
    RequestLost,
    /// No connection.
    Unreachable,
    /// An HTTP status, and nothing happens.
    Status(u16),
    /// Signs in and demands another password.
    PasswordChange,
    /// Does what was asked, and takes 5 s for it.
    Slow,
}

/// `GUIDINTERVAL`: a heartbeat brings another GUID from this age on.
const GUID_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Desk {
    guid: Option<String>,
    /// The one before, and until when it is still taken. It is told to nobody again.
    previous: Option<(String, Instant)>,
    last_heard: Option<Instant>,
    guid_since: Option<Instant>,
    /// Polls answered: each brings an event that is its number.
    polls: u32,
    /// Signed in for pushes, so that it may not poll.
    pushed: bool,
    in_flight: bool,
    /// What was set since the last sign-in; nothing where it was not ours.
    set_up: Option<Vec<Operation>>,
    /// The address at which it was signed in.
    address: u8,
}

impl Desk {
    /// Another GUID, which the caller is to be told.
    fn renew(&mut self, number: u32, now: Instant) -> String {
        let guid = format!("guid-{number}");
        let until = now + (GUID_TIMEOUT - GUID_INTERVAL);
        self.previous = self.guid.replace(guid.clone()).map(|previous| (previous, until));
        self.guid_since = Some(now);
        guid
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) agent: String,
    pub(super) operation: Operation,
    pub(super) at: Instant,
    pub(super) token: Option<String>,
}

#[derive(Default)]
struct State {
    desks: HashMap<String, Desk>,
    script: VecDeque<(Operation, Script)>,
    always: Vec<(Operation, Script)>,
    seen: Vec<Seen>,
    violations: Vec<String>,
    guids: u32,
    /// What the next calls that are passed on do.
    forwards: VecDeque<Script>,
    forwarded: Vec<(String, Instant)>,
    passwords: Vec<String>,
    /// As with `AUTHMODE=1`: GUIDs last as long as their sessions.
    static_guids: bool,
    guid_interval: Option<Duration>,
    /// How many more heartbeat answers that carry a new GUID are lost.
    guids_to_lose: u32,
    /// Which of the gateway's addresses calls go to. They share the agents and no session.
    address: u8,
    /// By so much its clock is ahead of ours.
    ahead: Duration,
    /// Calls wait in this one, and each takes so long.
    slow: Option<(Arc<Queue>, Duration)>,
}

/// The gateway.
#[derive(Default)]
pub(super) struct FakeGateway {
    state: Mutex<State>,
}

impl FakeGateway {
    /// The next call of this kind does that.
    pub(super) fn once(&self, operation: Operation, script: Script) {
        self.state.lock().unwrap().script.push_back((operation, script));
    }

    /// Every call of this kind does that, until [`FakeGateway::heal`].
    pub(super) fn always(&self, operation: Operation, script: Script) {
        self.state.lock().unwrap().always.push((operation, script));
    }

    /// The next call that is passed on does that.
    pub(super) fn forward_once(&self, script: Script) {
        self.state.lock().unwrap().forwards.push_back(script);
    }

    /// From now on calls go to this address of the gateway.
    pub(super) fn move_to(&self, address: u8) {
        self.state.lock().unwrap().address = address;
    }

    /// Forgets every session, and its platform does not.
    pub(super) fn forget_tickets(&self) {
        for desk in self.state.lock().unwrap().desks.values_mut() {
            desk.guid = desk.guid.take().map(|guid| format!("{guid}, which nobody holds"));
            desk.previous = None;
        }
    }

    pub(super) fn keep_guids(&self) {
        self.state.lock().unwrap().static_guids = true;
    }

    /// GUIDs change when they are that old, and the next so many heartbeat answers that carry a new one are lost.
    pub(super) fn change_guids(&self, interval: Duration, lose: u32) {
        let mut state = self.state.lock().unwrap();
        (state.guid_interval, state.guids_to_lose) = (Some(interval), lose);
    }

    /// How many of those are still to be lost.
    pub(super) fn guids_to_lose(&self) -> u32 {
        self.state.lock().unwrap().guids_to_lose
    }

    /// From now on every call waits in this queue and then takes so long.
    pub(super) fn slow_down(&self, queue: Queue, each: Duration) {
        self.state.lock().unwrap().slow = Some((Arc::new(queue), each));
    }

    /// Time passes for the gateway, and for nobody else.
    pub(super) fn run_ahead(&self, by: Duration) {
        self.state.lock().unwrap().ahead += by;
    }

    /// What the agent was set to since we signed it in; `None` where that was somebody else.
    pub(super) fn set_up(&self, agent: &str) -> Option<Vec<Operation>> {
        self.state.lock().unwrap().desks.get(agent).and_then(|desk| desk.set_up.clone())
    }

    /// Passwords of all sign-ins.
    pub(super) fn passwords(&self) -> Vec<String> {
        self.state.lock().unwrap().passwords.clone()
    }

    /// Paths of the calls that were passed on.
    pub(super) fn forwarded(&self) -> Vec<(String, Instant)> {
        self.state.lock().unwrap().forwarded.clone()
    }

    /// Another program signs in as this agent and tells the GUID.
    pub(super) fn sign_in_elsewhere(&self, agent: &str, guid: &str) {
        let now = Instant::now();
        let desk =
            Desk { guid: Some(guid.into()), last_heard: Some(now), guid_since: Some(now), ..Desk::default() };
        let desk = Desk { pushed: true, ..desk };
        self.state.lock().unwrap().desks.insert(agent.into(), desk);
    }

    pub(super) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.forwards.clear();
        state.always.clear();
        state.script.clear();
    }

    /// Somebody else signs in as this agent, with a GUID of their own.
    pub(super) fn occupy(&self, agent: &str) {
        let desk = Desk {
            guid: Some("somebody else's".into()),
            last_heard: Some(Instant::now() + Duration::from_secs(100_000)),
            ..Desk::default()
        };
        self.state.lock().unwrap().desks.insert(agent.into(), desk);
    }

    /// Signs the agent out at the gateway's own initiative.
    pub(super) fn throw_out(&self, agent: &str) {
        if let Some(desk) = self.state.lock().unwrap().desks.get_mut(agent) {
            desk.guid = None;
        }
    }

    pub(super) fn is_signed_in(&self, agent: &str) -> bool {
        self.state.lock().unwrap().desks.get(agent).is_some_and(|desk| desk.guid.is_some())
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        self.seen().into_iter().map(|seen| seen.operation).collect()
    }

    pub(super) fn count(&self, operation: Operation) -> usize {
        self.operations().iter().filter(|seen| **seen == operation).count()
    }

    /// Fails the test when the protocol was broken.
    pub(super) fn check(&self) {
        let violations = &self.state.lock().unwrap().violations;
        assert!(violations.is_empty(), "{violations:?}");
    }
}

impl State {
    fn arrive(&mut self, call: &Call<'_>) -> Option<Script> {
        let agent = call.agent_id().as_str().to_owned();
        let sent = Instant::now();
        let now = sent + self.ahead;
        let desk = self.desks.entry(agent.clone()).or_default();
        if std::mem::replace(&mut desk.in_flight, true) {
            self.violations.push(format!("agent {agent}: two calls in flight at {:?}", call.operation));
        }
        if desk.last_heard.is_some_and(|heard| now.saturating_duration_since(heard) > LIMIT) {
            desk.guid = None;
        }
        if call.operation.signs_in() == call.ticket.is_some() {
            self.violations.push(format!("{:?}: ticket {:?}", call.operation, call.ticket));
        }
        let token_lacks = call.token.is_none() && call.agent.mode.is_pushed();
        if call.operation.signs_in() && (call.password.is_none() || token_lacks) {
            self.violations.push("sign-in without password or token".into());
        }
        self.passwords.extend(call.password.map(|password| password.expose_secret().to_owned()));
        self.seen.push(Seen {
            agent: call.agent_id().as_str().to_owned(),
            operation: call.operation,
            at: sent,
            token: call.token.map(|token| token.expose_secret().to_owned()),
        });
        let scripted = self.script.iter().position(|(operation, _)| *operation == call.operation);
        match scripted {
            Some(index) => self.script.remove(index).map(|(_, script)| script),
            None => {
                self.always.iter().find(|(op, _)| *op == call.operation).map(|(_, script)| script.clone())
            }
        }
    }

    /// What the gateway does by itself.
    fn act(&mut self, call: &Call<'_>) -> Answer {
        let desk = self.desks.entry(call.agent_id().as_str().to_owned()).or_default();
        let now = Instant::now() + self.ahead;
        if call.operation == Operation::Login && desk.guid.is_some() {
            return answer("100-002", None);
        }
        if call.operation.signs_in() {
            self.guids += 1;
            let guid = format!("guid-{}", self.guids);
            (desk.guid, desk.last_heard, desk.guid_since) = (Some(guid.clone()), Some(now), Some(now));
            desk.previous = None;
            desk.address = self.address;
            desk.pushed = call.agent.mode.is_pushed();
            desk.set_up = Some(Vec::new());
            return answer("0", Some(guid));
        }
        let held = call.ticket.map(|ticket| ticket.guid.expose_secret());
        let previous =
            desk.previous.as_ref().filter(|(_, until)| now < *until).map(|(guid, _)| guid.as_str());
        match &desk.guid {
            None => return answer("100-006", None),
            Some(_) if desk.address != self.address => return answer("100-006", None),
            Some(guid) if held.is_none_or(|held| held != guid && previous != Some(held)) => {
                return answer("000-003", None);
            }
            Some(_)
                if !self.static_guids
                    && desk.guid_since.is_some_and(|since| now.duration_since(since) >= GUID_TIMEOUT) =>
            {
                return answer("000-003", None);
            }
            Some(_) => {}
        }
        match call.operation {
            Operation::Logout => desk.guid = None,
            Operation::Poll if desk.pushed => return answer("000-001", None),
            Operation::UpdateGuid if self.static_guids => {}
            Operation::UpdateGuid => {
                self.guids += 1;
                return answer("0", Some(desk.renew(self.guids, now)));
            }
            Operation::Handshake | Operation::Poll => {
                desk.last_heard = Some(now);
                if !self.static_guids
                    && desk.guid_since.is_some_and(|since| {
                        now.duration_since(since) >= self.guid_interval.unwrap_or(GUID_INTERVAL)
                    })
                {
                    self.guids += 1;
                    return answer("0", Some(desk.renew(self.guids, now)));
                }
            }
            setting => desk.set_up.iter_mut().for_each(|made| made.push(setting)),
        }
        let mut answer = answer("0", None);
        if call.operation == Operation::Poll {
            desk.polls += 1;
            answer.event = Some(desk.polls.to_string().into());
        }
        answer
    }
}

/// When every session began, as sign-ins are told.
pub(super) const LOGIN_TIME: Timestamp = Timestamp(1_471_585_949_806);

/// How long a call takes.
fn took(script: Option<&Script>) -> Duration {
    match script {
        Some(Script::AnswerLost | Script::RequestLost) => Duration::from_secs(8),
        Some(Script::Slow) => Duration::from_secs(5),
        _ => Duration::from_millis(50),
    }
}

fn answer(code: &str, guid: Option<String>) -> Answer {
    let login_time = guid.is_some().then_some(LOGIN_TIME);
    let result = SignInResult { media_type: Some("TTF".into()), login_time, ..SignInResult::default() };
    let reply = Reply { retcode: Retcode::new(code), message: String::new(), result };
    Answer {
        guid: guid.map(SecretString::from),
        cookies: Vec::new(),
        verdict: Ok(reply),
        event: None,
        address: None,
    }
}

impl GatewayCalls for FakeGateway {
    fn admit(
        &self,
        operation: Operation,
        heard: Option<Instant>,
        guid_since: Option<Instant>,
    ) -> BoxFuture<'_, Result<Permit, CallError>> {
        let slow = self.state.lock().unwrap().slow.clone();
        Box::pin(async move {
            match slow {
                Some((queue, _)) => queue.admit(operation, heard, guid_since).await,
                None => Ok(Permit::default()),
            }
        })
    }

    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let (script, slow) = {
                let mut state = self.state.lock().unwrap();
                (state.arrive(&call), state.slow.as_ref().map(|(_, each)| *each))
            };
            tokio::time::sleep(slow.unwrap_or_else(|| took(script.as_ref()))).await;
            let mut state = self.state.lock().unwrap();
            let answer = match script {
                None | Some(Script::Slow) => {
                    let answer = state.act(&call);
                    if call.operation == Operation::Handshake
                        && answer.guid.is_some()
                        && state.guids_to_lose > 0
                    {
                        state.guids_to_lose -= 1;
                        Answer::failed(CallError::TimedOut)
                    } else {
                        answer
                    }
                }
                Some(Script::Code(code)) => answer(code, None),
                Some(Script::AnswerLost) => {
                    state.act(&call);
                    Answer::failed(CallError::TimedOut)
                }
                Some(Script::RequestLost) => Answer::failed(CallError::TimedOut),
                Some(Script::Unreachable) => Answer::failed(CallError::Unreachable("refused".into())),
                Some(Script::Status(status)) => Answer::failed(CallError::Status(status)),
                Some(Script::PasswordChange) => {
                    let mut answer = state.act(&call);
                    if let Ok(reply) = &mut answer.verdict {
                        reply.result.password_change_required = true;
                    }
                    answer
                }
            };
            if let Some(desk) = state.desks.get_mut(call.agent_id().as_str()) {
                desk.in_flight = false;
            }
            Answer { address: Some(state.address), ..answer }
        })
    }

    fn forward<'a>(&'a self, request: &'a ForwardRequest, ticket: &'a Ticket) -> BoxFuture<'a, Forwarded> {
        Box::pin(async move {
            // Calls of these tests end with the agent's id.
            let path = request.path().path().to_owned();
            let agent = path.rsplit('/').next().unwrap_or_default().to_owned();
            let script = {
                let mut state = self.state.lock().unwrap();
                let desk = state.desks.entry(agent.clone()).or_default();
                if std::mem::replace(&mut desk.in_flight, true) {
                    state.violations.push(format!("agent {agent}: a call passed on while one is in flight"));
                }
                state.forwarded.push((path, Instant::now()));
                state.forwards.pop_front()
            };
            tokio::time::sleep(took(script.as_ref())).await;
            let mut state = self.state.lock().unwrap();
            let guid = format!("guid-{}", state.guids + 1);
            let desk = state.desks.entry(agent).or_default();
            desk.in_flight = false;
            let known = desk.guid.as_deref() == Some(ticket.guid.expose_secret());
            match script {
                Some(Script::Code(code)) => forwarded(code, None),
                Some(Script::Unreachable) => Forwarded::failed(CallError::Unreachable("refused".into())),
                Some(Script::Status(status)) => Forwarded::failed(CallError::Status(status)),
                Some(Script::AnswerLost | Script::RequestLost) => Forwarded::failed(CallError::TimedOut),
                Some(Script::PasswordChange | Script::Slow) | None if !known => forwarded("100-006", None),
                // This script stands for an answer that renews the GUID.
                Some(Script::PasswordChange) => {
                    (desk.guid, desk.guid_since) = (Some(guid.clone()), Some(Instant::now()));
                    state.guids += 1;
                    forwarded("0", Some(guid))
                }
                None | Some(Script::Slow) => forwarded("0", None),
            }
        })
    }
}

fn forwarded(code: &str, guid: Option<String>) -> Forwarded {
    let body = serde_json::json!({ "message": "", "retcode": code }).to_string();
    Forwarded {
        guid: guid.map(SecretString::from),
        cookies: Vec::new(),
        verdict: Ok(ForwardAnswer { status: 200, content_type: None, body: body.into() }),
        retcode: Some(Retcode::new(code)),
    }
}

/// Tokens, store and journal in memory.
#[derive(Default)]
pub(super) struct World {
    tokens: Mutex<u32>,
    pub(super) fixed: Mutex<HashMap<String, String>>,
    pub(super) stored: Mutex<HashMap<String, Stored>>,
    /// Everything that was saved, in this order.
    pub(super) saves: Mutex<Vec<Option<Stored>>>,
    /// What was stored at the start, each given out once.
    found: Mutex<HashMap<String, Stored>>,
    pub(super) journal: Mutex<Vec<(String, LifecycleEvent)>>,
    /// Answers to polls that were stored.
    pub(super) polled: Mutex<Vec<(String, String)>>,
    /// How often storing an answer fails from now on.
    pub(super) refusals: Mutex<u32>,
    /// The agent whose session is never saved, since the disk hangs.
    pub(super) hangs: Mutex<Option<AgentId>>,
}

impl TokenSource for World {
    fn mint(&self, _gateway: &GatewayName, agent_id: &AgentId) -> SecretString {
        let mut tokens = self.tokens.lock().unwrap();
        *tokens += 1;
        format!("token{agent_id}n{tokens}").into()
    }

    fn accept(&self, _gateway: &GatewayName, agent_id: &AgentId, token: &SecretString) {
        let token = token.expose_secret().to_owned();
        self.fixed.lock().unwrap().insert(agent_id.as_str().into(), token);
    }

    /// At once, where the authenticator leaves it time for its last pushes.
    fn session_ended(&self, gateway: &GatewayName, agent_id: &AgentId) {
        self.revoke(gateway, agent_id);
    }

    fn revoke(&self, _gateway: &GatewayName, agent_id: &AgentId) {
        self.fixed.lock().unwrap().remove(agent_id.as_str());
    }
}

impl SessionStore for World {
    fn unlisted(&self) -> Vec<(GatewayName, AgentId)> {
        let found = self.found.lock().unwrap();
        let unlisted = found.iter().filter(|(_, stored)| stored.may_be_unlisted());
        unlisted.map(|(id, _)| (main_gateway(), agent(id))).collect()
    }

    fn take_unclaimed(&self) -> Vec<(GatewayName, AgentId)> {
        let found = std::mem::take(&mut *self.found.lock().unwrap());
        found.into_keys().map(|id| (main_gateway(), agent(&id))).collect()
    }

    fn load(&self, _gateway: &GatewayName, agent_id: &AgentId) -> Option<Stored> {
        self.found.lock().unwrap().remove(agent_id.as_str())
    }

    fn save<'a>(
        &'a self,
        _gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        stored: Option<Stored>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        if self.hangs.lock().unwrap().as_ref() == Some(agent_id) {
            return Box::pin(std::future::pending());
        }
        self.saves.lock().unwrap().push(stored.clone());
        let mut kept = self.stored.lock().unwrap();
        match stored {
            Some(stored) => kept.insert(agent_id.as_str().into(), stored),
            None => kept.remove(agent_id.as_str()),
        };
        Box::pin(std::future::ready(Ok(())))
    }
}

impl EventStore for World {
    fn store<'a>(
        &'a self,
        _gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        answer: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut refusals = self.refusals.lock().unwrap();
        let refused = *refusals > 0;
        *refusals = refusals.saturating_sub(1);
        if !refused {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            self.polled.lock().unwrap().push((agent_id.as_str().into(), answer));
        }
        Box::pin(async move { if refused { Err(StoreError("full".into())) } else { Ok(()) } })
    }
}

impl Journal for World {
    fn record(&self, _gateway: &GatewayName, agent_id: &AgentId, event: LifecycleEvent) {
        self.journal.lock().unwrap().push((agent_id.as_str().into(), event));
    }
}

/// One gateway, its agents, and the daemon around them.
pub(super) struct Scene {
    pub(super) gateway: Arc<FakeGateway>,
    pub(super) world: Arc<World>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
    pub(super) config: SessionsConfig,
}

impl Scene {
    /// One agent, 291. Wall time follows tokio's clock only through [`Scene::pass`].
    pub(super) fn new() -> Scene {
        Scene::with(&["291"], |_, _| {})
    }

    pub(super) fn with(agents: &[&str], change: impl Fn(&mut GatewayConfig, &mut AgentConfig)) -> Scene {
        let mut problems = crate::config::Problems::default();
        let raw = agents.iter().map(|id| raw_agent(id)).collect();
        let mut config = validate(vec![raw_gateway()], raw, &mut problems);
        assert!(problems.found().is_empty(), "{:?}", problems.found());
        // Nobody pushes here, except where a test does.
        config.gateways[0].push_silence_limit = Duration::from_secs(1_000_000);
        for agent in &mut config.agents {
            change(&mut config.gateways[0], Arc::make_mut(agent));
        }
        Scene {
            gateway: Arc::default(),
            world: Arc::default(),
            metrics: Metrics::new(["main"], []).unwrap(),
            clock: Clock::manual(Timestamp(1_784_529_722_590)),
            config,
        }
    }

    pub(super) fn start(&self) -> Sessions {
        self.world.found.lock().unwrap().clone_from(&self.world.stored.lock().unwrap());
        let deps = Deps {
            tokens: self.world.clone(),
            store: self.world.clone(),
            journal: self.world.clone(),
            events: self.world.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        };
        let gateway = self.gateway.clone();
        Sessions::start_with(self.config.clone(), deps, |_| {
            Ok::<_, Infallible>(gateway.clone() as Arc<dyn GatewayCalls>)
        })
        .unwrap()
    }

    /// Lets time pass, on both clocks and in small steps.
    pub(super) async fn pass(&self, secs: u64) {
        for _ in 0..secs {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.clock.advance(Duration::from_secs(1));
        }
    }

    pub(super) fn reasons(&self) -> Vec<&'static str> {
        self.world.journal.lock().unwrap().iter().map(|(_, event)| event.reason).collect()
    }
}

pub(super) fn main_gateway() -> GatewayName {
    GatewayName::parse("main").unwrap()
}

pub(super) fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap()
}

pub(super) fn view(sessions: &Sessions) -> SessionView {
    sessions.view(&main_gateway(), &agent("291")).unwrap()
}

pub(super) fn raw_gateway() -> RawGateway {
    serde_json::from_value(serde_json::json!({
        "name": "main", "base_url": "https://gateway.example:8043/agentgateway/resource",
        "ca_file": crate::session::TEST_CA, "callback_uri": "https://relay.example/push/main",
    }))
    .unwrap()
}

fn raw_agent(id: &str) -> RawAgent {
    serde_json::from_value(serde_json::json!({
        "gateway": "main", "id": id, "phone_number": "70004",
        // A variable that is set in every test run.
        "password_env": "CARGO_PKG_NAME",
    }))
    .unwrap()
}
