//! An event as the gateway writes it.

use serde_json::Value;

use crate::clock::Timestamp;

/// What may be unusual about an event made on order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmitOptions {
    /// Add `eventGenTime`.
    pub event_gen_time: bool,
    /// Add `jsonKey`, the list of the other keys.
    pub json_key: bool,
}

/// An event to be made.
#[derive(Debug, Clone)]
pub(super) enum Draft {
    /// By the parts.
    Parts { event_type: String, content: Value, options: EmitOptions },
    /// As it stands, whatever that is.
    Raw(String),
}

impl Draft {
    /// The event in JSON, for agent `work_no`; `mark` adds the serial number.
    pub(super) fn render(&self, work_no: &str, now: Timestamp, mark: Option<u64>) -> String {
        let Draft::Parts { event_type, content, options } = self else {
            return self.raw().to_owned();
        };
        let event_type = Value::from(event_type.as_str());
        let mut json = format!(r#"{{"eventType":{event_type},"workNo":"{work_no}","content":{content}"#);
        if options.event_gen_time {
            json.push_str(&format!(r#","eventGenTime":{}"#, now.millis()));
        }
        if options.json_key {
            json.push_str(r#","jsonKey":["eventType","workNo","content"]"#);
        }
        if let Some(serial) = mark {
            json.push_str(&format!(r#","simulatorSerial":{serial}"#));
        }
        json.push('}');
        json
    }

    /// The type, where there is one, by which the agent's state is followed.
    pub(super) fn event_type(&self) -> Option<&str> {
        match self {
            Draft::Parts { event_type, .. } => Some(event_type),
            Draft::Raw(_) => None,
        }
    }

    fn raw(&self) -> &str {
        match self {
            Draft::Raw(json) => json,
            Draft::Parts { .. } => "",
        }
    }
}

impl Draft {
    /// An ordinary event.
    pub(super) fn parts(event_type: &str, content: Value) -> Draft {
        Draft::Parts { event_type: event_type.to_owned(), content, options: EmitOptions::default() }
    }

    /// The agent is busy, for a reason.
    pub(super) fn busy(reason: &str) -> Draft {
        Draft::parts("AgentState_SetNotReady_Success", serde_json::json!({ "reason": reason }))
    }
}
