//! The state of the daemon at a glance: version, spool, sinks, sessions, and which gateway is nearest to signing out.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::Response;
use serde::Serialize;

use super::api::{Answer, Call, query};
use super::fault::{Fault, json};
use crate::event::GatewayName;
use crate::metrics::SESSION_STATES;
use crate::reload::Outcome;

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
}

#[derive(Debug, Serialize)]
struct SpoolState {
    id: String,
    records: i64,
    bytes: i64,
    oldest_record_age_secs: f64,
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
}

#[derive(Debug, Serialize)]
struct GatewayState {
    gateway: GatewayName,
    sign_out_budget_secs: f64,
    /// What it is when all is well.
    sign_out_limit_secs: f64,
    sessions: BTreeMap<&'static str, i64>,
}

pub(super) fn status(call: &Call<'_>) -> Response<Full<Bytes>> {
    let metrics = call.metrics;
    let mut gateways: Vec<_> =
        call.parts.gateways.iter().map(|gateway| gateway_state(call, gateway)).collect();
    gateways.sort_by(|one, other| one.sign_out_budget_secs.total_cmp(&other.sign_out_budget_secs));
    let in_state = |state| gateways.iter().filter_map(|gateway| gateway.sessions.get(state)).sum();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: call.ready,
        uptime_secs: call.uptime.as_secs(),
        spool: SpoolState {
            id: call.parts.spool.id().to_owned(),
            records: metrics.spool_records.get(),
            bytes: metrics.spool_bytes.get(),
            oldest_record_age_secs: metrics.spool_oldest_age.get(),
        },
        sinks: sink_states(call),
        sessions: SESSION_STATES.iter().map(|state| (*state, in_state(state))).collect(),
        gateways,
    };
    json(StatusCode::OK, &status)
}

pub(super) fn sinks(call: &Call<'_>) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &serde_json::json!({ "sinks": sink_states(call) }))
}

/// Reads anew what may change while the daemon runs. A configuration with mistakes is the caller's to mend, so it is
/// their conflict; each is named.
pub(super) async fn reload(call: &Call<'_>) -> Answer {
    query(call.query, &[])?;
    if !call.body.is_empty() {
        return Err(Fault::bad_request("no body is expected"));
    }
    match call.parts.reloads.reload().await {
        None => Err(Fault::unavailable("this process reads nothing anew")),
        Some(Outcome::Done { changed, needs_restart }) => Ok(json(
            StatusCode::OK,
            &serde_json::json!({ "changed": changed, "needs_restart": needs_restart }),
        )),
        Some(Outcome::Refused(problems)) => {
            let listed: Vec<_> = problems.iter().map(|one| format!("{}: {}", one.key, one.message)).collect();
            Err(Fault::conflict("reload_refused", format_args!("nothing was changed: {}", listed.join("; "))))
        }
    }
}

fn gateway_state(call: &Call<'_>, gateway: &GatewayName) -> GatewayState {
    let name = gateway.as_str();
    let sessions =
        |state: &&'static str| (*state, call.metrics.sessions.with_label_values(&[name, *state]).get());
    let limit = call.parts.sessions.sign_out_limit(gateway);
    GatewayState {
        gateway: gateway.clone(),
        sign_out_budget_secs: call.metrics.sign_out_budget.with_label_values(&[name]).get(),
        sign_out_limit_secs: limit.unwrap_or_default().as_secs_f64(),
        sessions: SESSION_STATES.iter().map(sessions).collect(),
    }
}

fn sink_states(call: &Call<'_>) -> Vec<SinkState> {
    let metrics = call.metrics;
    let cursors = call.parts.spool.cursors().into_iter();
    let state = |(sink, next_offset): (String, u64)| {
        let label = &[sink.as_str()];
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
            sink,
        }
    };
    cursors.map(state).collect()
}
