//! What the gateway says, and what we make of it. Pure: bytes in, events out, no I/O and no clock.

use serde::Serialize;

use crate::clock::Timestamp;

pub mod cloudevent;
pub mod ids;

pub use ids::{AgentId, GatewayName};

/// One event as consumers see it: the context attributes of CloudEvents 1.0 and typed data.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `<spool id>-<offset>-<index>`: the same at every delivery of the same event.
    pub id: String,
    /// `/ccrelay/<gateway>/agents/<agent>`.
    pub source: String,
    /// Stable dotted name such as `ccrelay.call.ringing`.
    pub event_type: &'static str,
    /// Bounded group of the type; one of [`crate::metrics::EVENT_CATEGORIES`].
    pub category: &'static str,
    /// Which gateway.
    pub gateway: GatewayName,
    /// Which agent: CloudEvents `subject` and `partitionkey`.
    pub agent_id: AgentId,
    /// When it happened: the gateway's `eventGenTime`, else the receipt. CloudEvents `time`.
    pub time: Timestamp,
    /// When we received it. CloudEvents `recordedtime`.
    pub recorded_time: Timestamp,
    /// Number of the event among those of its agent. CloudEvents `sequence`.
    pub sequence: u64,
    /// Whether this is a further delivery of an event that was received before. CloudEvents `ccrelayrepeat`.
    pub repeat: bool,
    /// The content, already serialised as a JSON object.
    pub data: EventData,
}

/// The `data` member of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventData {}
