//! The state of the daemon at a glance: version, spool, sinks, sessions, and which gateway is nearest to signing out.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::Response;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior};

use super::api::{Answer, Call, Sight, query};
use super::concerns::{self, Concern, Limit};
use super::fault::{Fault, json};
use super::live::{self, KEEP_ALIVE, Page, Seat, Source};
use super::pulse::{BEAT, Pace};
use crate::clock::Clock;
use crate::event::GatewayName;
use crate::metrics::SESSION_STATES;
use crate::problems::{Problem, Problems};
use crate::reload::Outcome;
use crate::session::FailedCall;

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    ready: bool,
    uptime_secs: u64,
    spool: SpoolState,
    sinks: Vec<SinkState>,
    /// How many sessions are in each state.
    sessions: BTreeMap<&'static str, i64>,
    /// Those with the least budget first.
    gateways: Vec<GatewayState>,
    /// What needs somebody, the worst first.
    concerns: Vec<Concern>,
}

#[derive(Debug, Serialize)]
struct SpoolState {
    id: String,
    records: i64,
    bytes: i64,
    oldest_record_age_secs: f64,
    fill_ratio: f64,
}

#[derive(Debug, Serialize)]
struct SinkState {
    sink: String,
    state: &'static str,
    next_offset: u64,
    lag_records: i64,
    in_flight: i64,
    delivered: u64,
    dead_letters: i64,
    /// Of its last failure since the start, as the next two.
    reason: Option<&'static str>,
    detail: Option<String>,
    failed_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct GatewayState {
    gateway: GatewayName,
    sign_out_budget_secs: f64,
    /// What it is when all is well.
    sign_out_limit_secs: f64,
    /// Agents with less than half of that time left, about.
    about_to_be_signed_out: i64,
    sessions: BTreeMap<&'static str, i64>,
    /// The last call that got no answer, or none of the gateway's, since the start.
    last_failed_call: Option<FailedCallState>,
}

#[derive(Debug, Serialize)]
struct FailedCallState {
    at: String,
    operation: &'static str,
    agent: String,
    address: String,
    error: String,
}

impl From<FailedCall> for FailedCallState {
    fn from(failed: FailedCall) -> FailedCallState {
        FailedCallState {
            at: failed.at.to_string(),
            operation: failed.operation.as_str(),
            agent: failed.agent_id.as_str().to_owned(),
            address: failed.address,
            error: failed.error,
        }
    }
}

/// What those who follow the state are told.
#[derive(Debug, Serialize)]
struct Beat {
    status: Status,
    /// Missing at first: a pace needs two looks.
    path: Option<Pace>,
    problems: Vec<Problem>,
}

pub(super) fn status(call: &Call<'_>) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &state(&call.sight()))
}

/// The state, every two seconds.
pub(super) fn follow(call: &Call<'_>, seat: Seat) -> Result<Response<Page>, Fault> {
    query(call.query, &[])?;
    let sight = call.sight();
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(live::events(Follower { seat, sight, interval, ended: false }))
}

/// One who follows the state. Something is sent with every beat, so nothing more keeps the connection alive.
struct Follower {
    seat: Seat,
    sight: Sight,
    interval: Interval,
    ended: bool,
}

const _: () = assert!(BEAT.as_secs() < KEEP_ALIVE.as_secs());

impl Source for Follower {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        tokio::select! {
            biased;
            () = self.seat.stopped() => {
                self.ended = true;
                return Some(live::ended("stopping"));
            }
            _ = self.interval.tick() => {}
        }
        if !self.seat.is_admitted() {
            self.ended = true;
            return Some(live::ended("unauthorised"));
        }
        let path = self.sight.pulse().pace();
        let beat = Beat {
            status: state(&self.sight),
            path,
            problems: self.sight.problems.as_ref().map(Problems::list).unwrap_or_default(),
        };
        // Numbers and texts can always be written.
        Some(live::message("status", &serde_json::to_vec(&beat).unwrap_or_default()).into())
    }
}

fn limit_of(sight: &Sight, gateway: &GatewayName) -> Limit {
    let sign_out = sight.parts.sessions.sign_out_limit(gateway).unwrap_or_default();
    let near = sight.parts.sessions.near_sign_out(gateway).unwrap_or_default();
    Limit { gateway: gateway.as_str().to_owned(), sign_out, near }
}

fn sinks_of(sight: &Sight) -> Vec<String> {
    sight.parts.spool.cursors().into_iter().map(|(sink, _)| sink).collect()
}

fn state(sight: &Sight) -> Status {
    let (metrics, lately) = (&sight.metrics, sight.pulse().lately());
    let mut gateways: Vec<_> =
        sight.parts.gateways.iter().map(|gateway| gateway_state(sight, gateway)).collect();
    gateways.sort_by(|one, other| one.sign_out_budget_secs.total_cmp(&other.sign_out_budget_secs));
    let in_state = |state| gateways.iter().filter_map(|gateway| gateway.sessions.get(state)).sum();
    let sessions = SESSION_STATES.iter().map(|state| (*state, in_state(state))).collect();
    let limits: Vec<_> = sight.parts.gateways.iter().map(|gateway| limit_of(sight, gateway)).collect();
    let (names, stale, now) = (sinks_of(sight), sight.parts.stale_rosters.load(), Clock::system().now());
    Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: sight.is_ready(),
        uptime_secs: sight.began.elapsed().as_secs(),
        spool: SpoolState {
            id: sight.parts.spool.id().to_owned(),
            records: metrics.spool_records.get(),
            bytes: metrics.spool_bytes.get(),
            oldest_record_age_secs: metrics.spool_oldest_age.get(),
            fill_ratio: metrics.spool_fill_ratio.get(),
        },
        sinks: sink_states(sight),
        sessions,
        gateways,
        concerns: concerns::concerns(metrics, sight.is_ready(), &limits, &names, &stale, &lately, now),
    }
}

pub(super) fn sinks(call: &Call<'_>) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &serde_json::json!({ "sinks": sink_states(&call.sight()) }))
}

/// Reads anew what may change while the daemon runs. A configuration with mistakes is the caller's to mend, so it is
/// their conflict; each is named.
pub(super) async fn reload(call: &Call<'_>) -> Answer {
    let query = query(call.query, &["confirm_removals"])?;
    let confirms_removals = match query.text("confirm_removals") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Fault::bad_request("confirm_removals is true or false")),
    };
    if !call.body.is_empty() {
        return Err(Fault::bad_request("no body is expected"));
    }
    match call.parts.reloads.reload(confirms_removals).await {
        None => Err(Fault::unavailable("this process reads nothing anew")),
        Some(Outcome::Done { changed, needs_restart, rosters }) => Ok(json(
            StatusCode::OK,
            &serde_json::json!({ "changed": changed, "needs_restart": needs_restart, "rosters": rosters }),
        )),
        Some(Outcome::Refused(problems)) => {
            let listed: Vec<_> = problems.iter().map(|one| format!("{}: {}", one.key, one.message)).collect();
            Err(Fault::conflict("reload_refused", format_args!("nothing was changed: {}", listed.join("; "))))
        }
    }
}

fn gateway_state(sight: &Sight, gateway: &GatewayName) -> GatewayState {
    let name = gateway.as_str();
    let sessions =
        |state: &&'static str| (*state, sight.metrics.sessions.with_label_values(&[name, *state]).get());
    let limit = limit_of(sight, gateway);
    GatewayState {
        gateway: gateway.clone(),
        sign_out_budget_secs: sight.metrics.sign_out_budget.with_label_values(&[name]).get(),
        sign_out_limit_secs: limit.sign_out.as_secs_f64(),
        about_to_be_signed_out: sight.metrics.about_to_be_signed_out.with_label_values(&[name]).get(),
        sessions: SESSION_STATES.iter().map(sessions).collect(),
        last_failed_call: sight.parts.sessions.last_failed_call(gateway).map(FailedCallState::from),
    }
}

fn sink_states(sight: &Sight) -> Vec<SinkState> {
    let metrics = &sight.metrics;
    let cursors = sight.parts.spool.cursors().into_iter();
    let state = |(sink, next_offset): (String, u64)| {
        let label = &[sink.as_str()];
        let failure = sight.parts.troubles.of(&sink);
        SinkState {
            state: match metrics.sink_state.with_label_values(label).get() {
                1 => "delivering",
                0 => "retrying",
                _ => "stopped",
            },
            next_offset,
            lag_records: metrics.sink_lag_records.with_label_values(label).get(),
            in_flight: metrics.sink_in_flight.with_label_values(label).get(),
            delivered: metrics.sink_delivered.with_label_values(label).get(),
            dead_letters: metrics.dead_letters.with_label_values(label).get(),
            reason: failure.as_ref().map(|failure| failure.reason),
            failed_at: failure.as_ref().map(|failure| failure.at.to_string()),
            detail: failure.map(|failure| failure.detail),
            sink,
        }
    };
    cursors.map(state).collect()
}
