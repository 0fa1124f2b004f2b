//! A game day: everything that an alert exists for is broken for real, with the relay under load. Then Prometheus, which
//! scrapes the real binary, must fire that alert, the status page must show it, and the first thing that the runbook says to
//! look at must show the cause.
//!
//! Rules are those of `deploy/`, with their expressions as they stand; only windows and patience are shorter, since nobody
//! can wait for hours here.

#[path = "../it/support/mod.rs"]
mod support;

mod agents;
mod page;
mod prometheus;
mod pushes;
mod runbook;
mod scene;
mod sinks;

use std::collections::BTreeSet;

/// Two scenes go together; that of the sinks, which has the most load, has the machine for itself.
static MACHINE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

#[test]
fn every_alert_has_its_break() {
    let broken: BTreeSet<_> = [agents::ALERTS, pushes::ALERTS, sinks::ALERTS].concat().into_iter().collect();
    assert_eq!(broken, prometheus::alerts().collect::<BTreeSet<_>>());
}
