use super::*;
use crate::event::cloudevent;

const RECEIVED_AT: Timestamp = Timestamp(1_784_529_723_000);

fn normalised(kind: RecordKind, repeats: &[Repeated], before: &AgentSnapshot, body: &str) -> Vec<Event> {
    let record = RecordView {
        spool_id: "k3v9",
        offset: 70,
        kind,
        received_at: RECEIVED_AT,
        gateway: &GatewayName::parse("main").unwrap(),
        agent_id: &AgentId::parse("291").unwrap(),
        sequence: 5,
        repeats,
        before,
        body: body.as_bytes(),
    };
    normalise(&record).unwrap()
}

fn pushed(list: &str) -> Vec<Event> {
    let body = format!(r#"{{"workNo":"291","eventList":[{list}]}}"#);
    normalised(RecordKind::Push, &[], &AgentSnapshot::default(), &body)
}

#[test]
fn events_of_a_record_count_on_and_follow_one_another() {
    let events = pushed(
        r#"{"eventType":"AgentState_Ready","eventGenTime":1784529700000},
           {"eventType":"AgentEvent_Talking","eventGenTime":1784529710500,"content":{"callId":"1-2","feature":7}},
           {"eventType":"AgentEvent_Hold","content":"1-2"}"#,
    );
    let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["k3v9-70-0", "k3v9-70-1", "k3v9-70-2"]);
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [5, 6, 7]);
    let agent = &events[1].data.agent;
    assert_eq!((agent.previous_state, agent.state), (AgentState::Ready, AgentState::Busy));
    assert_eq!(agent.previous_duration_seconds, Some(10.5));
    assert_eq!(events[1].time, Timestamp(1_784_529_710_500));
    assert_eq!(events[2].time, RECEIVED_AT, "without a time of its own it happened when it was received");
    let call = events[2].data.details.call.as_ref().unwrap();
    assert_eq!(call.id.as_deref(), Some("1-2"));
    assert_eq!(serde_json::to_string(&call.previous_state).unwrap(), "\"connected\"");
    assert_eq!(events[2].source, "/ccrelay/main/agents/291");
}

#[test]
fn repeats_have_the_ids_of_the_first_delivery_and_do_not_move_the_agent() {
    let first = Repeated { first: EventRef { offset: 64, index: 3 }, sequence: 2 };
    let now = AgentSnapshot { state: AgentState::Busy, since: Timestamp(9), ..AgentSnapshot::default() };
    let body =
        r#"{"workNo":"291","eventList":[{"eventType":"AgentState_Ready"},{"eventType":"AgentState_Work"}]}"#;
    let events = normalised(RecordKind::Push, &[first], &now, body);
    assert_eq!((events[0].id.as_str(), events[0].repeat), ("k3v9-64-3", true));
    assert_eq!((events[1].id.as_str(), events[1].repeat), ("k3v9-70-1", false));
    assert_eq!((events[0].sequence, events[1].sequence), (2, 5));
    assert_eq!((events[0].data.agent.state, events[0].data.agent.changed), (AgentState::Busy, false));
    assert_eq!(events[0].event_type, "ccrelay.agent.ready");
    assert_eq!(events[1].data.agent.state, AgentState::WorkingAfterCall);
}

#[test]
fn pieces_of_a_record_are_what_the_whole_is() {
    let talking = |call: &str| format!(r#"{{"eventType":"AgentEvent_Talking","content":"{call}"}}"#);
    let ready = r#"{"eventType":"AgentState_Ready"}"#.to_owned();
    let list = [talking("1-1"), talking("1-2"), ready.clone(), talking("1-3"), ready, "0".to_owned()];
    let body = format!(r#"{{"workNo":"291","eventList":[{}]}}"#, list.join(","));
    let first = Repeated { first: EventRef { offset: 64, index: 3 }, sequence: 2 };
    let (gateway, agent_id) = (GatewayName::parse("main").unwrap(), AgentId::parse("291").unwrap());
    let record = RecordView {
        spool_id: "k3v9",
        offset: 70,
        kind: RecordKind::Push,
        received_at: RECEIVED_AT,
        gateway: &gateway,
        agent_id: &agent_id,
        sequence: 5,
        repeats: &[first],
        before: &AgentSnapshot::default(),
        body: body.as_bytes(),
    };
    let whole = normalise(&record).unwrap();
    assert!(whole.len() > list.len(), "calls ended");
    for most in 1..=list.len() {
        let (mut events, mut place, mut pieces) = (Vec::new(), None, 0);
        loop {
            let made = piece(&record, place.as_ref(), most).unwrap();
            events.extend(made.events);
            pieces += 1;
            place = made.rest;
            if place.is_none() {
                break;
            }
        }
        assert_eq!((&events, pieces), (&whole, list.len().div_ceil(most)), "{most} at a time");
        for event in &whole {
            let made = piece_with(&record, &event.id, most).unwrap().unwrap();
            assert!(made.events.contains(event), "{most} at a time");
        }
    }
    assert!(piece_with(&record, "k3v9-71-0", 2).unwrap().is_none());
}

#[test]
fn a_poll_answer_gives_one_event_or_none() {
    let poll = |body: &str| normalised(RecordKind::Poll, &[], &AgentSnapshot::default(), body);
    let body = r#"{"message":"","retcode":"0","event":{"eventType":"AgentOther_PhoneRelease","workNo":"291","content":{"phoneState":"3"}}}"#;
    let events = poll(body);
    assert_eq!(events.len(), 1);
    let phone = events[0].data.details.phone.as_ref().unwrap();
    assert_eq!(phone.released_by, Some(Code { code: 3, name: Some("platform") }));
    assert!(poll(r#"{"message":"","retcode":"0","event":null}"#).is_empty());
}

#[test]
fn an_event_that_names_nobody_is_the_agents_whose_record_it_is() {
    // As documented (events.json: cec_07_0542).
    let body = r#"{"message":"","retcode":"0","event":{"eventType":"AgentOther_BeQcStart","content":{"qcType":8,"qcAgentId":30169}}}"#;
    let events = normalised(RecordKind::Poll, &[], &AgentSnapshot::default(), body);
    assert_eq!((events.len(), events[0].agent_id.as_str()), (1, "291"));
    assert_eq!(events[0].data.raw.event_type, "AgentOther_BeQcStart");
}

#[test]
fn what_is_not_known_passes_whole() {
    let events = pushed(
        r#"{"eventType":"AgentEvent_New","content":{"a":[1]}},"odd",{"eventType":"AgentState_Ready","seq":1}"#,
    );
    assert_eq!((events[0].event_type, events[0].category), ("ccrelay.unknown", "unknown"));
    let raw = |index: usize| String::from_utf8(serde_json::to_vec(&events[index].data.raw).unwrap()).unwrap();
    assert_eq!(raw(0), r#"{"eventType":"AgentEvent_New","content":{"a":[1]}}"#);
    assert_eq!(raw(1), r#"{"eventType":"","event":"odd"}"#);
    assert_eq!(
        raw(2),
        r#"{"eventType":"AgentState_Ready","event":{"eventType":"AgentState_Ready","seq":1}}"#
    );
    assert!(!events[0].data.agent.unexpected);
}

#[test]
fn the_deepest_event_can_be_read_by_others() {
    let deep = |depth| format!(r#"{{"new":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let event = &pushed(&deep(57))[0];
    assert!(serde_json::from_slice::<serde_json::Value>(&cloudevent::structured(event)).is_ok());
    let body = format!(r#"{{"workNo":"291","eventList":[{}]}}"#, deep(58));
    assert!(envelope::parse(body.as_bytes()).is_err());
}

#[test]
fn raw_is_verbatim_byte_for_byte() {
    for content in [
        r#"{"callid" : "1-2",  "n":1.50e+02,"big":123456789012345678901234567890,"e":"\u00e9\/\ud800"}"#,
        "{\n \"dup\":1,\"dup\":2}",
        "\"Gr\u{fc}\u{df}e \\u0041\"",
        "-0.0",
    ] {
        let event = &pushed(&format!(r#"{{"eventType":"AgentEvent_Talking","content":{content}}}"#))[0];
        for json in [cloudevent::data(event), cloudevent::structured(event)] {
            let json = String::from_utf8(json).unwrap();
            assert!(
                json.contains(&format!(r#""raw":{{"eventType":"AgentEvent_Talking","content":{content}}}"#)),
                "{json}"
            );
        }
    }
    let event = &pushed(r#"{"eventType":"AgentState_Ready","eventGenTime":"later"}"#)[0];
    assert_eq!(event.data.raw.event_gen_time.as_ref().unwrap().as_str(), "\"later\"");
}

#[test]
fn spellings_and_types_are_levelled() {
    let call = |content: &str| {
        let event = pushed(&format!(r#"{{"eventType":"AgentEvent_Ringing","content":{content}}}"#)).remove(0);
        *event.data.details.call.unwrap()
    };
    let one = call(
        r#"{"callid":"1-2","caller":"A49997","feature":"51","mediaAbility":"1","transfer":"yes","transfrom":"70"}"#,
    );
    let other = call(
        r#"{"callId":"1-2","caller":"A49997","feature":51,"mediaAbility":1,"transfer":true,"transFrom":70}"#,
    );
    assert_eq!(one, other);
    assert_eq!(one.caller_agent_id.as_deref(), Some("49997"));
    assert_eq!((one.direction, one.transferred), (Some("internal"), Some(true)));
    assert_eq!(call(r#""1-2""#).id.as_deref(), Some("1-2"));
    for partner in ["1,a2", "1, a2", "1，a2,"] {
        let event = pushed(&format!(
            r#"{{"eventType":"AgentEvent_Conference","content":{{"partner":"{partner}"}}}}"#
        ));
        let call = event[0].data.details.call.as_ref().unwrap();
        assert_eq!(call.partners.as_deref().unwrap(), ["1", "a2"], "{partner}");
    }
}

#[test]
fn ccrelays_own_events_have_a_session() {
    let before = AgentSnapshot { state: AgentState::Ready, since: Timestamp(1), ..AgentSnapshot::default() };
    let lifecycle = |body: &str| normalised(RecordKind::Lifecycle, &[], &before, body);
    let event = &lifecycle(r#"{"type":"session.lost","reason":"timed_out","seconds":120}"#)[0];
    assert_eq!((event.event_type, event.category), ("ccrelay.session.lost", "session"));
    assert_eq!(event.id, "k3v9-70-0");
    assert_eq!(event.data.agent.state, AgentState::Unknown);
    assert_eq!(event.data.details.session.as_ref().unwrap().reason.as_deref(), Some("timed_out"));
    assert!(event.data.raw.content.as_ref().unwrap().as_str().contains("120"));
    let started =
        &lifecycle(r#"{"type":"session.started","reason":"signed_in","loginTime":1471585949806}"#)[0];
    let session = started.data.details.session.as_ref().unwrap();
    assert_eq!(session.signed_in_at, Some(Moment(Timestamp(1_471_585_949_806))));
    assert_eq!(lifecycle(r#"{"type":"session.dreamt"}"#)[0].event_type, "ccrelay.unknown");
}

#[test]
fn damage_is_an_error() {
    let record = |kind, body: &'static [u8]| {
        let (gateway, agent_id) = (GatewayName::parse("main").unwrap(), AgentId::parse("291").unwrap());
        let before = AgentSnapshot::default();
        normalise(&RecordView {
            spool_id: "k3v9",
            offset: 1,
            kind,
            received_at: RECEIVED_AT,
            gateway: &gateway,
            agent_id: &agent_id,
            sequence: 1,
            repeats: &[],
            before: &before,
            body,
        })
    };
    assert!(matches!(record(RecordKind::Push, b"{"), Err(NormaliseError::Envelope(_))));
    for body in [&b"[]"[..], b"", b"\xff"] {
        assert_eq!(record(RecordKind::Lifecycle, body), Err(NormaliseError::Lifecycle));
    }
}
