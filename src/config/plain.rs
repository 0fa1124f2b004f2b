//! Connections that anybody on the way can read or take over: an address that is this machine's has no way.

use super::{Config, SinkKind};

/// What speaks against connections to brokers and collector. They are the operator's choice, and often a laboratory's that was
/// forgotten.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    for sink in &config.sinks {
        let (table, said) = match &sink.kind {
            SinkKind::Kafka(kafka) => ("kafka", kafka.unsafe_choices()),
            SinkKind::Mqtt(mqtt) => ("mqtt", mqtt.unsafe_choices()),
            SinkKind::Jsonl(_) => continue,
        };
        doubts.extend(said.into_iter().map(|said| format!("sinks.{}.{table}.{said}", sink.name)));
    }
    doubts.extend(config.traces.as_ref().and_then(|traces| traces.unsafe_choice()));
    doubts
}
