//! Messages for the unit tests of sinks, and waiting for what comes of them.

use std::sync::Arc;
use std::time::Duration;

use super::{Message, Purpose};
use crate::clock::Timestamp;
use crate::event::{AgentId, Event, EventData, GatewayName};

/// Event number `sequence` of `agent`, with the id `<agent>-<sequence>`.
pub(crate) fn message(agent: &str, sequence: u64) -> Message {
    let event = Event {
        id: format!("{agent}-{sequence}"),
        source: format!("/ccrelay/main/agents/{agent}"),
        event_type: "ccrelay.call.ringing",
        category: "call",
        gateway: GatewayName::parse("main").unwrap(),
        agent_id: AgentId::parse(agent).unwrap(),
        time: Timestamp(1_784_529_722_590),
        recorded_time: Timestamp(1_784_529_722_600),
        written: Default::default(),
        sequence,
        repeat: false,
        data: EventData::new(
            GatewayName::parse("main").expect("a name"),
            AgentId::parse("1001").expect("an id"),
        ),
    };
    Message { event: Arc::new(event), topic: "events".into(), purpose: Purpose::default(), trace: None }
}

/// Waits until `done` says so.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 20 seconds");
}
