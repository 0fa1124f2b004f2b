//! Agents: list, one, sign-in, sign-out and take-over.

use http::StatusCode;
use serde::Serialize;

use super::api::{Answer, Call, Parts, query};
use super::change::roster_fault;
use super::fault::{Fault, json};
use crate::event::{AgentId, GatewayName};
use crate::metrics::SESSION_STATES;
use crate::session::{self, Glance, Media, RosterError, SessionView};
use crate::spool::AgentKey;

/// An agent and its session as callers see them.
#[derive(Debug, Serialize)]
struct AgentView {
    gateway: GatewayName,
    id: AgentId,
    state: &'static str,
    since: String,
    reason: Option<&'static str>,
    retcode: Option<String>,
    sign_out_budget_secs: Option<f64>,
    last_heartbeat: Option<String>,
    last_event: Option<&'static str>,
    last_event_at: Option<String>,
    media_type: Option<String>,
    media: Option<Media>,
    password_days_left: Option<u32>,
    adopted: bool,
    guid_age_secs: Option<f64>,
    degraded: Vec<&'static str>,
    origin: &'static str,
}

impl AgentView {
    fn new(parts: &Parts, view: SessionView) -> AgentView {
        AgentView {
            origin: origin(parts, &view),
            gateway: view.gateway,
            id: view.agent_id,
            state: view.state,
            since: view.since.to_string(),
            reason: view.reason,
            retcode: view.retcode.map(|retcode| retcode.as_str().to_owned()),
            sign_out_budget_secs: view.sign_out_budget_secs,
            last_heartbeat: view.last_heartbeat.map(|time| time.to_string()),
            last_event: view.last_event.map(|(event_type, _)| event_type),
            last_event_at: view.last_event.map(|(_, at)| at.to_string()),
            media_type: view.media_type,
            media: view.media,
            password_days_left: view.password_days_left,
            adopted: view.adopted,
            guid_age_secs: view.guid_age_secs,
            degraded: view.degraded,
        }
    }
}

/// Where an agent comes from, which says what becomes of it at a restart.
fn origin(parts: &Parts, view: &SessionView) -> &'static str {
    let agent = AgentKey { gateway: view.gateway.clone(), agent_id: view.agent_id.clone() };
    if parts.is_configured(&agent) {
        return "configuration";
    }
    match parts.kept.find(&agent) {
        Some(kept) if kept.is_stored() => "api",
        Some(_) => "api_memory",
        None if view.leaving => "leaving",
        None => "adoption",
    }
}

/// One page of agents.
#[derive(Debug, Serialize)]
struct Page {
    agents: Vec<AgentView>,
    /// Agents that the filter lets through, on all pages.
    total: usize,
    /// `after` of the next page.
    next: Option<String>,
}

pub(super) fn list(call: &Call<'_>) -> Answer {
    let query = query(call.query, &["gateway", "state", "reason", "search", "order", "limit", "after"])?;
    let limit = query.limit()?;
    let state = query.text("state");
    if state.is_some_and(|state| !SESSION_STATES.contains(&state)) {
        return Err(Fault::bad_request(format_args!("states are {}", SESSION_STATES.join(", "))));
    }
    let order = Order::parse(query.text("order").unwrap_or("id"))?;
    let after = query.text("after").map(|after| Place::parse(order, after)).transpose()?;
    let (gateway, reason, part) = (query.text("gateway"), query.text("reason"), query.text("search"));
    // A name that is misspelt finds nobody, which looks as if all were well.
    if gateway.is_some_and(|name| call.parts.gateways.iter().all(|known| known.as_str() != name)) {
        return Err(Fault::bad_request("no gateway has this name"));
    }
    if reason.is_some_and(|reason| session::reasons().all(|known| known != reason)) {
        let known: Vec<_> = session::reasons().collect();
        return Err(Fault::bad_request(format_args!("reasons are {}", known.join(", "))));
    }
    let wanted = |glance: Glance<'_>| {
        gateway.is_none_or(|gateway| glance.gateway().as_str() == gateway)
            && part.is_none_or(|part| contains(glance.agent_id().as_str(), part))
            && state.is_none_or(|state| glance.state() == state)
            && reason.is_none_or(|reason| glance.has_reason(reason))
    };
    let mut total = 0;
    // One more than is shown tells whether there is another page.
    let mut found = call.parts.sessions.first(limit + 1, |glance| {
        if !wanted(glance) {
            return None;
        }
        total += 1;
        let urgency = order.urgency(glance);
        let place = session::place(urgency, glance.gateway(), glance.agent_id());
        after.as_ref().is_none_or(|after| after.is_before(place)).then_some(urgency)
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(urgency, last)| order.cursor(*urgency, last));
    let agents = found.into_iter().map(|(_, view)| AgentView::new(call.parts, view)).collect();
    Ok(json(StatusCode::OK, &Page { agents, total, next }))
}

/// Whether a part of an id was asked for.
fn contains(id: &str, part: &str) -> bool {
    let (id, part) = (id.as_bytes(), part.as_bytes());
    part.is_empty() || id.windows(part.len()).any(|some| some.eq_ignore_ascii_case(part))
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Gateway and number.
    Id,
    /// The least time left before the gateway signs the agent out. Agents without a session come last.
    Budget,
}

impl Order {
    fn parse(text: &str) -> Result<Order, Fault> {
        match text {
            "id" => Ok(Order::Id),
            "budget" => Ok(Order::Budget),
            _ => Err(Fault::bad_request("orders are id and budget")),
        }
    }

    /// Milliseconds left, where they count.
    fn urgency(self, glance: Glance<'_>) -> u64 {
        match self {
            Order::Id => 0,
            Order::Budget => {
                let left = glance.sign_out_budget();
                left.and_then(|left| u64::try_from(left.as_millis()).ok()).unwrap_or(u64::MAX)
            }
        }
    }

    /// Where the page after this agent begins.
    fn cursor(self, urgency: u64, last: &SessionView) -> String {
        match self {
            Order::Id => format!("{}/{}", last.gateway, last.agent_id),
            Order::Budget => format!("{urgency}/{}/{}", last.gateway, last.agent_id),
        }
    }
}

/// Where a page begins: after this agent, or where it was when the page before was made.
struct Place {
    urgency: u64,
    gateway: GatewayName,
    agent_id: AgentId,
}

impl Place {
    fn parse(order: Order, text: &str) -> Result<Place, Fault> {
        let parse = || {
            let (urgency, text) = match order {
                Order::Id => (0, text),
                Order::Budget => {
                    let (urgency, text) = text.split_once('/')?;
                    (urgency.parse().ok()?, text)
                }
            };
            let (gateway, agent_id) = text.split_once('/')?;
            let (gateway, agent_id) = (GatewayName::parse(gateway).ok()?, AgentId::parse(agent_id).ok()?);
            Some(Place { urgency, gateway, agent_id })
        };
        parse().ok_or_else(|| Fault::bad_request("after is what next of the page before said"))
    }

    fn is_before(&self, other: (u64, &str, usize, &str)) -> bool {
        session::place(self.urgency, &self.gateway, &self.agent_id) < other
    }
}

pub(super) fn show(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    query(call.query, &[])?;
    view(call, StatusCode::OK, &gateway, &agent_id)
}

pub(super) fn sign_in(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    heard(call, call.parts.sessions.sign_in(&gateway, &agent_id))?;
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
}

pub(super) fn sign_out(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    heard(call, call.parts.sessions.sign_out(&gateway, &agent_id))?;
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
}

pub(super) fn take_over(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    heard(call, call.parts.sessions.take_over(&gateway, &agent_id))?;
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
}

/// Whether what was said of an agent is heard. Not while the daemon stops: it would be lost, and answered as if it were not.
fn heard(call: &Call<'_>, heard: bool) -> Result<(), Fault> {
    match heard {
        true => Ok(()),
        false if call.parts.sessions.is_stopping() => Err(roster_fault(RosterError::Stopping)),
        false => Err(Fault::no_such_agent()),
    }
}

/// The agent of the path; names that cannot be names belong to nobody.
pub(super) fn named(call: &Call<'_>) -> Result<(GatewayName, AgentId), Fault> {
    if !call.body.is_empty() {
        return Err(Fault::bad_request("this takes no body"));
    }
    call.params.agent().ok_or_else(Fault::no_such_agent)
}

pub(super) fn view(call: &Call<'_>, status: StatusCode, gateway: &GatewayName, agent_id: &AgentId) -> Answer {
    let view = call.parts.sessions.view(gateway, agent_id).ok_or_else(Fault::no_such_agent)?;
    Ok(json(status, &AgentView::new(call.parts, view)))
}
