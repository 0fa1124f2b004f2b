//! What the gateway says, and what we make of it. Pure: bytes in, events out, no I/O and no clock.
//!
//! `envelope` takes a body apart, `vocabulary` knows every event by name, `state` follows the agent, `normalise` makes
//! the events, `cloudevent` writes them down. What consumers get is in `data` and `details`.

use crate::clock::Timestamp;

mod body;
mod calls;
pub mod charset;
pub mod cloudevent;
pub mod codes;
pub(crate) mod content;
pub mod data;
pub mod details;
pub mod envelope;
pub mod ids;
pub(crate) mod json;
pub mod normalise;
pub mod report;
pub mod state;
mod summary;
pub mod texts;
pub mod vocabulary;

pub use data::EventData;
pub use ids::{AgentId, GatewayName};
pub use json::Json;
pub use normalise::{EventRef, Repeated};

/// One event as consumers see it: the context attributes of CloudEvents 1.0 and typed data.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `<spool id>-<offset>-<index>`, and `-<n>` more for what follows from that event: the same at every delivery.
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
    /// The content.
    pub data: EventData,
    /// The content as JSON, once it was asked for.
    pub written: cloudevent::Written,
}

/// The id of the event at `place` in the spool called `spool_id`.
#[must_use]
pub fn event_id(spool_id: &str, place: EventRef) -> String {
    let (mut offset, mut index) = (itoa::Buffer::new(), itoa::Buffer::new());
    [spool_id, "-", offset.format(place.offset), "-", index.format(place.index)].concat()
}

#[cfg(test)]
mod tests;
