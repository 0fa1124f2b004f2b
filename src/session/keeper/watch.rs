//! Looks over all sessions every two seconds: exports what there is to see of them, finds those whose pushes do not
//! come, and has all of them asked for after a standstill of the machine.
//!
//! A gateway that cannot push says so to nobody but its own log: agents are signed in, heartbeats succeed, and events
//! are missing. But each sign-in causes events, so an agent of whom no push has come a minute later shows it.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{Kept, Sessions};
use crate::event::{AgentId, GatewayName};
use crate::metrics::BUDGET_BOUNDS;
use crate::session::state::Degradation;
use crate::session::status::{Ring, Shared};
use crate::session::{LifecycleEvent, LifecycleKind};

/// Often enough for an alert, at a few milliseconds per 100,000 agents.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks over the sessions until the daemon stops.
pub(super) async fn look_over(sessions: Sessions) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = sessions.inner.stop.cancelled() => return,
            now = ticks.tick() => {
                for (name, kept) in &sessions.inner.gateways {
                    sessions.look_over_gateway(name, kept, now);
                }
            }
        }
    }
}

/// What a look over the sessions of one gateway sums up.
#[derive(Default)]
struct Sums {
    least_budget: Option<Duration>,
    /// Sessions with at most the budget of the bound in this place.
    within: [i64; BUDGET_BOUNDS.len()],
    about_to_be_signed_out: i64,
    degraded: [i64; Degradation::ALL.len()],
    oldest_guid: Duration,
    /// Agents whose silence was found just now, and the first of them.
    silent: usize,
    first_silent: Option<AgentId>,
}

impl Sums {
    fn add(&mut self, shared: &Shared, near: Duration, now: Instant) {
        let Some(budget) = shared.budget(now) else { return };
        // One that the gateway does not know, and that is to be signed out, is to end: nobody is in danger.
        let wanted = !shared.degradations().contains(Degradation::SignOutUnconfirmed);
        if wanted {
            self.least_budget = Some(self.least_budget.map_or(budget, |least| least.min(budget)));
        }
        for (count, (_, bound)) in self.within.iter_mut().zip(BUDGET_BOUNDS) {
            *count += i64::from(budget <= Duration::from_secs(*bound));
        }
        self.about_to_be_signed_out += i64::from(wanted && budget < near);
        for (count, one) in self.degraded.iter_mut().zip(Degradation::ALL) {
            *count += i64::from(shared.degradations().contains(one));
        }
        self.oldest_guid = self.oldest_guid.max(shared.guid_age(now).unwrap_or_default());
    }
}

impl Sessions {
    fn look_over_gateway(&self, name: &GatewayName, kept: &Kept, now: Instant) {
        self.look_for_standstill(name, kept);
        let mut sums = Sums::default();
        let config = &kept.gateway.config;
        let near = config.near_sign_out();
        for slot in kept.read().values() {
            let pushes = slot.config.mode.is_pushed();
            if pushes && slot.shared.falls_silent(config.push_silence_limit, now) {
                sums.silent += 1;
                sums.first_silent.get_or_insert_with(|| slot.shared.agent_id.clone());
                self.fell_silent(&slot.shared);
            }
            sums.add(&slot.shared, near, now);
        }
        if let Some(agent_id) = &sums.first_silent {
            tracing::warn!(
                gateway = %name,
                %agent_id,
                agents = sums.silent,
                limit_secs = config.push_silence_limit.as_secs(),
                callback_uri = config.callback_uri,
                "agents are signed in but none of their events is pushed; look whether the gateway's trust list \
                 EVENT_PUST_WHITELIST_CALLBACKURI holds callback_uri, whether its truststore \
                 (eventpush.ssl.cert.file) holds the authority of our certificate, whether a firewall lets it \
                 through, and whether callback_uri is our address as the gateway sees it"
            );
        }
        self.export(name, kept, &sums);
    }

    fn look_for_standstill(&self, name: &GatewayName, kept: &Kept) {
        let Some(ahead) = kept.gateway.standstill.take_news() else { return };
        tracing::warn!(gateway = %name, ahead_secs = ahead.as_secs(),
            "wall time has jumped ahead: this machine stood still, or its clock was set; all sessions are asked for now");
        for slot in kept.read().values() {
            slot.shared.bell.ring(Ring::Mail);
        }
    }

    fn fell_silent(&self, shared: &Shared) {
        let reason = Degradation::NoPushes.as_str();
        shared.status().reason = Some(reason);
        let time = self.inner.deps.clock.now();
        let event =
            LifecycleEvent { kind: LifecycleKind::Degraded, reason, retcode: None, login_time: None, time };
        self.inner.deps.journal.record(shared.gateway(), &shared.agent_id, event);
    }

    fn export(&self, name: &GatewayName, kept: &Kept, sums: &Sums) {
        let (metrics, name) = (&self.inner.deps.metrics, name.as_str());
        let least = sums.least_budget.unwrap_or(kept.gateway.config.sign_out_limit);
        metrics.sign_out_budget.with_label_values(&[name]).set(least.as_secs_f64());
        for (count, (bound, _)) in sums.within.iter().zip(BUDGET_BOUNDS) {
            metrics.sign_out_budget_agents.with_label_values(&[name, *bound]).set(*count);
        }
        metrics.about_to_be_signed_out.with_label_values(&[name]).set(sums.about_to_be_signed_out);
        for (count, one) in sums.degraded.iter().zip(Degradation::ALL) {
            metrics.sessions_degraded.with_label_values(&[name, one.as_str()]).set(*count);
        }
        metrics.guid_oldest_age.with_label_values(&[name]).set(sums.oldest_guid.as_secs_f64());
    }
}
