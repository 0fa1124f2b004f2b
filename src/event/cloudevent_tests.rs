use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::event::{AgentId, EventData, GatewayName};

fn event() -> Event {
    let (gateway, agent_id) = (GatewayName::parse("main").unwrap(), AgentId::parse("291").unwrap());
    Event {
        id: "k3v9-70-0".to_owned(),
        source: "/ccrelay/main/agents/291".to_owned(),
        event_type: "ccrelay.agent.ready",
        category: "agent-state",
        data: EventData::new(gateway.clone(), agent_id.clone()),
        gateway,
        agent_id,
        time: Timestamp(1_784_529_722_590),
        recorded_time: Timestamp(1_784_529_723_000),
        written: Default::default(),
        sequence: 42,
        repeat: false,
    }
}

#[test]
fn structured_mode_is_one_json_object() {
    let read: Value = serde_json::from_slice(&structured(&event())).unwrap();
    let expected = json!({
        "specversion": "1.0",
        "id": "k3v9-70-0",
        "source": "/ccrelay/main/agents/291",
        "type": "ccrelay.agent.ready",
        "subject": "291",
        "time": "2026-07-20T06:42:02.590Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:ccrelay:schema:ccrelay.agent.ready:1",
        "sequence": "00000000000000000042",
        "partitionkey": "291",
        "recordedtime": "2026-07-20T06:42:03.000Z",
        "data": {
            "agent": {
                "id": "291",
                "gateway": "main",
                "state": "unknown",
                "previousState": "unknown",
                "changed": false
            },
            "raw": {"eventType": ""}
        }
    });
    assert_eq!(read, expected);
    assert!(structured(&event()).starts_with(br#"{"specversion":"1.0","id":"#));
}

#[test]
fn binary_mode_has_the_same_attributes_in_a_fixed_order() {
    let event = event();
    let names: Vec<_> = attributes(&event).iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "specversion",
            "id",
            "source",
            "type",
            "dataschema",
            "subject",
            "time",
            "sequence",
            "partitionkey",
            "recordedtime"
        ]
    );
    let read: Value = serde_json::from_slice(&structured(&event)).unwrap();
    for (name, value) in attributes(&event).iter() {
        assert_eq!(read[name], json!(value), "{name}");
    }
    assert_eq!(read["data"], serde_json::from_slice::<Value>(&data(&event)).unwrap());
}

#[test]
fn repeats_are_marked_and_only_they() {
    let repeat = Event { repeat: true, ..event() };
    assert_eq!(attributes(&repeat).iter().last().unwrap(), ("ccrelayrepeat", "true"));
    let read: Value = serde_json::from_slice(&structured(&repeat)).unwrap();
    assert_eq!(read["ccrelayrepeat"], json!(true));
}

#[test]
fn sequences_sort_as_text() {
    let text = |sequence| super::Sequence::of(sequence).as_str().to_owned();
    assert!(text(9) < text(10) && text(10) < text(u64::MAX));
    assert_eq!((&*text(10), &*text(u64::MAX)), ("00000000000000000010", "18446744073709551615"));
}

#[test]
fn a_copy_that_is_changed_is_written_anew() {
    let event = event();
    let written = shared_data(&event);
    assert_eq!(written, data(&event));
    assert_eq!(written.as_ptr(), shared_data(&event).as_ptr());
    let mut copy = event.clone();
    copy.data.raw.event_type.push('x');
    assert_eq!(copy.written, event.written);
    assert_ne!(shared_data(&copy), written);
}
