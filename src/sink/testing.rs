//! Messages for the unit tests of sinks.

use std::sync::Arc;

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
