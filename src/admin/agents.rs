//! Agents: list, one, sign-in, sign-out and take-over.

use http::StatusCode;
use serde::Serialize;

use super::api::{Answer, Call, Parts, query};
use super::fault::{Fault, json};
use crate::event::{AgentId, GatewayName};
use crate::metrics::SESSION_STATES;
use crate::session::{Glance, Media, SessionView};
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
        Some(kept) if kept.stored => "api",
        Some(_) => "api_memory",
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
    let wanted = |glance: Glance<'_>| {
        let likes = || {
            let (now, why) = glance.state_and_reason();
            state.is_none_or(|state| state == now) && reason.is_none_or(|reason| why == Some(reason))
        };
        gateway.is_none_or(|gateway| glance.gateway().as_str() == gateway)
            && part.is_none_or(|part| contains(glance.agent_id().as_str(), part))
            && ((state.is_none() && reason.is_none()) || likes())
    };
    let mut total = 0;
    // One more than is shown tells whether there is another page.
    let mut found = call.parts.sessions.first(limit + 1, |glance| {
        if !wanted(glance) {
            return None;
        }
        total += 1;
        let place = Place::of(order, glance);
        after.as_ref().is_none_or(|after| place > *after).then_some(place)
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(place, _)| place.cursor(order));
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
}

/// Where an agent stands among the others; a page begins after such a place, where it was when the page before was made. Ids of
/// different length are in the order of their numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Milliseconds left, where they count.
    urgency: u64,
    gateway: GatewayName,
    length: usize,
    agent_id: AgentId,
}

impl Place {
    fn of(order: Order, glance: Glance<'_>) -> Place {
        let left = || glance.sign_out_budget().and_then(|left| u64::try_from(left.as_millis()).ok());
        let urgency = match order {
            Order::Id => 0,
            Order::Budget => left().unwrap_or(u64::MAX),
        };
        Place::new(urgency, glance.gateway().clone(), glance.agent_id().clone())
    }

    fn new(urgency: u64, gateway: GatewayName, agent_id: AgentId) -> Place {
        Place { urgency, gateway, length: agent_id.as_str().len(), agent_id }
    }

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
            Some(Place::new(urgency, GatewayName::parse(gateway).ok()?, AgentId::parse(agent_id).ok()?))
        };
        parse().ok_or_else(|| Fault::bad_request("after is what next of the page before said"))
    }

    fn cursor(&self, order: Order) -> String {
        match order {
            Order::Id => format!("{}/{}", self.gateway, self.agent_id),
            Order::Budget => format!("{}/{}/{}", self.urgency, self.gateway, self.agent_id),
        }
    }
}

pub(super) fn show(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    query(call.query, &[])?;
    view(call, StatusCode::OK, &gateway, &agent_id)
}

pub(super) fn sign_in(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    call.parts.sessions.sign_in(&gateway, &agent_id);
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
}

pub(super) fn sign_out(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    call.parts.sessions.sign_out(&gateway, &agent_id);
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
}

pub(super) fn take_over(call: &Call<'_>) -> Answer {
    let (gateway, agent_id) = named(call)?;
    call.parts.sessions.take_over(&gateway, &agent_id);
    view(call, StatusCode::ACCEPTED, &gateway, &agent_id)
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
