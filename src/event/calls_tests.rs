use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::event::normalise::{EventRef, RecordKind, RecordView, Repeated, normalise};
use crate::event::state::{AgentSnapshot, AgentState};
use crate::event::{AgentId, Event, GatewayName, cloudevent, envelope};

#[path = "calls_ends_tests.rs"]
mod ends;

const START: u64 = 1_784_529_600_000;
const DAY: Duration = Duration::from_secs(86_400);

/// An agent whose events come one a record, as receiver and normaliser see them.
struct Desk {
    snapshot: AgentSnapshot,
    offset: u64,
    sequence: u64,
}

impl Desk {
    fn new(state: AgentState) -> Desk {
        let snapshot = AgentSnapshot { state, since: Timestamp(START), ..AgentSnapshot::default() };
        Desk { snapshot, offset: 0, sequence: 0 }
    }

    /// What becomes of an event at this second.
    fn event(&mut self, second: u64, event_type: &str, content: Value) -> Vec<Event> {
        let body = json!({"workNo": "291", "eventList": [{"eventType": event_type, "content": content}]});
        self.record(second, RecordKind::Push, &body.to_string(), &[])
    }

    fn session(&mut self, second: u64, event_type: &str) -> Vec<Event> {
        self.record(second, RecordKind::Lifecycle, &json!({"type": event_type}).to_string(), &[])
    }

    fn record(&mut self, second: u64, kind: RecordKind, body: &str, repeats: &[Repeated]) -> Vec<Event> {
        let received_at = Timestamp(START + second * 1000);
        self.offset += 1;
        self.snapshot.mark_due(received_at, DAY);
        let record = RecordView {
            spool_id: "k3v9",
            offset: self.offset,
            kind,
            received_at,
            gateway: &GatewayName::parse("main").unwrap(),
            agent_id: &AgentId::parse("291").unwrap(),
            sequence: self.sequence,
            repeats,
            before: &self.snapshot,
            body: body.as_bytes(),
        };
        let made = normalise(&record).unwrap();
        let ended = match kind {
            RecordKind::Lifecycle => self.snapshot.apply_own(body.as_bytes(), received_at).ended.len() + 1,
            _ => {
                let events = envelope::parse(body.as_bytes()).unwrap().events;
                let fresh = events.iter().skip(repeats.len());
                fresh.map(|event| self.snapshot.apply(event, received_at).ended.len() + 1).sum()
            }
        };
        assert_eq!(made.len(), repeats.len() + ended, "the receiver allots a number to each event");
        self.sequence += ended as u64;
        made
    }

    /// The summaries among what becomes of events, each a second after the one before.
    fn play(&mut self, from: u64, events: &[(&str, Value)]) -> Vec<Value> {
        let seconds = from..;
        let made = seconds
            .zip(events)
            .flat_map(|(second, (name, content))| self.event(second, name, content.clone()));
        made.filter(|event| event.event_type == "ccrelay.call.ended").map(|event| data(&event)).collect()
    }
}

fn data(event: &Event) -> Value {
    serde_json::from_slice(&cloudevent::data(event)).unwrap()
}

fn only_summary(made: &[Event]) -> Value {
    let ended: Vec<_> = made.iter().filter(|event| event.event_type == "ccrelay.call.ended").collect();
    assert_eq!(ended.len(), 1, "{made:?}");
    data(ended[0])
}

fn inbound(id: &str) -> Value {
    json!({"callid": id, "caller": "13800000000", "called": "6048", "feature": "0", "mediaAbility": "1"})
}

#[test]
fn a_call_that_was_offered_answered_held_and_released_is_summed_up() {
    let mut desk = Desk::new(AgentState::Ready);
    let offer = json!({"callId": "1-2", "skillId": 7, "skillName": "Orders", "caller": "13800000000", "called": "6048"});
    assert_eq!(desk.event(0, "AgentEvent_Incoming_CallInfo", offer).len(), 1);
    assert_eq!(desk.snapshot.state, AgentState::Ready, "an offer does not make its agent busy");
    desk.event(1, "AgentState_Busy", json!(null));
    desk.event(2, "AgentEvent_Ringing", inbound("1-2"));
    desk.event(7, "AgentEvent_Talking", inbound("1-2"));
    desk.event(20, "AgentEvent_Hold", json!("1-2"));
    desk.event(30, "AgentEvent_Talking", inbound("1-2"));
    desk.event(60, "AgentEvent_Hold", json!("1-2"));
    desk.event(65, "AgentEvent_Talking", inbound("1-2"));
    desk.event(99, "AgentEvent_Customer_Release", json!({"callid": "1-2", "number": "13800000000"}));
    let made = desk.event(100, "AgentEvent_Call_Release", json!("1-2"));
    assert_eq!(made[0].event_type, "ccrelay.call.released");
    assert_eq!((made[1].event_type, made[1].category), ("ccrelay.call.ended", "call"));
    let summary: Value = serde_json::from_slice(&cloudevent::structured(&made[1])).unwrap();
    insta::with_settings!({ snapshot_path => "testdata/golden", prepend_module_to_snapshot => false }, {
        insta::assert_json_snapshot!("call-ended", summary);
    });
    assert_eq!(desk.snapshot.calls, []);
}

#[test]
fn a_summary_has_the_id_of_the_event_that_ended_the_call_and_the_next_number() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    let body = json!({"workNo": "291", "eventList": [
        {"eventType": "AgentEvent_Talking", "content": inbound("1-3")},
        {"eventType": "AgentState_Ready"},
        {"eventType": "AgentEvent_Call_Release", "content": "1-2"},
    ]});
    let made = desk.record(5, RecordKind::Push, &body.to_string(), &[]);
    let ids: Vec<_> = made.iter().map(|event| (event.id.as_str(), event.sequence)).collect();
    assert_eq!(
        ids,
        [("k3v9-2-0", 1), ("k3v9-2-1", 2), ("k3v9-2-1-1", 3), ("k3v9-2-1-2", 4), ("k3v9-2-2", 5)]
    );
    assert_eq!(
        (data(&made[2])["call"]["id"].clone(), data(&made[3])["call"]["id"].clone()),
        (json!("1-2"), json!("1-3"))
    );
}

#[test]
fn a_repeat_of_the_event_that_ended_a_call_gives_no_second_summary() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    assert_eq!(desk.event(5, "AgentEvent_Call_Release", json!("1-2")).len(), 2);
    let body = json!({"workNo": "291", "eventList": [
        {"eventType": "AgentEvent_Call_Release", "content": "1-2"}, {"eventType": "AgentState_Ready"},
    ]});
    let first = Repeated { first: EventRef { offset: 2, index: 0 }, sequence: 1 };
    let made = desk.record(15, RecordKind::Push, &body.to_string(), &[first]);
    let ids: Vec<_> = made.iter().map(|event| (event.id.as_str(), event.sequence, event.repeat)).collect();
    assert_eq!(ids, [("k3v9-2-0", 1, true), ("k3v9-3-1", 3, false)]);
}

#[test]
fn the_outcome_says_how_a_call_ended() {
    let ring = ("AgentEvent_Ringing", inbound("1-2"));
    let talk = ("AgentEvent_Talking", inbound("1-2"));
    let calling = ("AgentEvent_Customer_Alerting", json!({"callid": "1-2", "otherPhone": "70093"}));
    let left = ("AgentEvent_Customer_Release", json!({"callid": "1-2", "number": "13800000000"}));
    let release = ("AgentEvent_Call_Release", json!("1-2"));
    let ready = ("AgentState_Ready", json!(null));
    for (course, outcome, by) in [
        (vec![ring.clone(), talk.clone(), release.clone()], "answered", json!(null)),
        (vec![ring.clone(), talk.clone(), left.clone(), release.clone()], "answered", json!("otherParty")),
        (vec![ring.clone(), talk.clone(), ready.clone(), release.clone()], "answered", json!(null)),
        (vec![ring.clone(), ("AgentEvent_No_Answer", json!("1-2"))], "notAnswered", json!("platform")),
        (
            vec![ring.clone(), ("AgentEvent_No_Answer_From_Cti", json!(null))],
            "notAnswered",
            json!("platform"),
        ),
        (
            vec![ring.clone(), ("AgentState_SetNotReady_Success", json!({"reason": "2"}))],
            "notAnswered",
            json!(null),
        ),
        (
            vec![talk.clone(), ("AgentState_SetNotReady_Success", json!({"reason": "1"})), release.clone()],
            "answered",
            json!(null),
        ),
        (
            vec![ring.clone(), ("AgentState_Work", json!(null)), talk.clone(), release.clone()],
            "answered",
            json!(null),
        ),
        (vec![talk.clone(), ("AgentState_Work", json!(null)), ready.clone()], "answered", json!(null)),
        (vec![ring.clone(), ("AgentEvent_AbandonCall", json!(null))], "abandoned", json!("otherParty")),
        (vec![ring.clone(), left.clone(), release.clone()], "abandoned", json!("otherParty")),
        (vec![calling.clone(), ("AgentEvent_Call_Out_Fail", json!("1-2"))], "failed", json!(null)),
        (vec![calling.clone(), ("AgentEvent_Connect_Fail", json!("1-2"))], "failed", json!(null)),
        (
            vec![talk.clone(), ("AgentEvent_Connect_Fail", json!("1-2")), release.clone()],
            "answered",
            json!(null),
        ),
        (vec![talk.clone(), ("AgentOther_ShutdownService", json!({}))], "signedOut", json!(null)),
        (vec![talk, ("Force_Logout", json!(null))], "signedOut", json!(null)),
    ] {
        let ended = Desk::new(AgentState::Busy).play(0, &course);
        assert_eq!(ended.len(), 1, "{course:?}: {ended:?}");
        assert_eq!(ended[0]["summary"]["outcome"], outcome, "{course:?}");
        assert_eq!(ended[0]["summary"]["endedBy"], by, "{course:?}");
    }
}

#[test]
fn an_outgoing_call_begins_with_its_ringing_also_where_work_is_reported_before() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentState_Busy", json!(null));
    desk.event(1, "AgentState_Work", json!(null));
    let made = desk.event(2, "AgentEvent_Customer_Alerting", json!({"callid": "1-2", "otherPhone": "70093"}));
    assert_eq!(data(&made[0])["call"]["state"], "initiated");
    assert_eq!(desk.snapshot.state, AgentState::WorkingAfterCall, "the gateway says what the agent does");
    desk.event(10, "AgentEvent_Talking", json!({"callid": "1-2", "feature": "7"}));
    let ended = only_summary(&desk.event(30, "AgentEvent_Call_Release", json!("1-2")));
    let summary = &ended["summary"];
    assert_eq!(summary["startedAt"], Timestamp(START + 2000).to_string());
    assert_eq!((&summary["ringingSeconds"], &summary["answeredAfterSeconds"]), (&json!(8.0), &json!(8.0)));
    assert_eq!((&ended["call"]["otherParty"], &summary["talkedSeconds"]), (&json!("70093"), &json!(20.0)));
}

#[test]
fn a_call_that_is_passed_on_says_so_and_to_whom() {
    let talk = ("AgentEvent_Talking", inbound("1-2"));
    let third = ("AgentEvent_Customer_Alerting", json!({"callid": "1-2", "otherPhone": "70093"}));
    let release = ("AgentEvent_Call_Release", json!("1-2"));
    let result = |result: i64| ("AgentEvent_SuccTransResult", json!({"callId": "1-2", "result": result}));
    let conference = ("AgentEvent_Conference", json!({"callid": "1-2", "partner": "291,70093"}));
    let left = ("AgentEvent_Customer_Release", json!({"callid": "1-2"}));
    let yes = || (json!(true), json!("70093"), json!("agent"));
    let no = || (json!(false), json!(null), json!(null));
    // Whether the third party has answered is not said, and help of three looks like a call that is passed on after a talk of three.
    let not_told = || (json!(null), json!(null), json!(null));
    for (course, (transferred, to, by), conferenced) in [
        (vec![talk.clone(), release.clone()], no(), false),
        (vec![talk.clone(), third.clone(), release.clone()], not_told(), false),
        (vec![talk.clone(), third.clone(), result(0), release.clone()], yes(), false),
        (vec![talk.clone(), third.clone(), result(1), release.clone()], no(), false),
        (vec![talk.clone(), third.clone(), talk.clone(), release.clone()], no(), false),
        (vec![talk.clone(), third.clone(), conference.clone(), release.clone()], not_told(), true),
        (
            vec![talk.clone(), third.clone(), conference.clone(), left.clone(), release.clone()],
            not_told(),
            true,
        ),
        (vec![talk.clone(), third.clone(), conference.clone(), result(0), release.clone()], yes(), true),
        (vec![talk.clone(), third.clone(), conference.clone(), result(1), release.clone()], no(), true),
        (vec![talk.clone(), third.clone(), conference.clone(), talk.clone(), release.clone()], no(), true),
        (vec![talk.clone(), conference, release.clone()], no(), true),
        (
            vec![talk.clone(), third.clone(), left, release.clone()],
            (json!(false), json!(null), json!("otherParty")),
            false,
        ),
        (vec![talk, third, ("AgentEvent_Consult_Fail", json!("1-2")), release], no(), false),
    ] {
        let ended = Desk::new(AgentState::Busy).play(0, &course);
        let summary = &ended[0]["summary"];
        assert_eq!(summary["transferredOut"], transferred, "{course:?}");
        assert_eq!(summary["transferredTo"], to, "{course:?}");
        assert_eq!(summary["endedBy"], by, "{course:?}");
        assert_eq!(summary["conferenced"], conferenced, "{course:?}");
    }
}

#[test]
fn the_result_of_a_transfer_without_a_call_id_is_never_that_of_a_text_session() {
    let chat = ("AgentChat_Connected", json!({"callId": "5-1"}));
    let talk = ("AgentEvent_Talking", inbound("1-2"));
    let third = ("AgentEvent_Customer_Alerting", json!({"callid": "1-2", "otherPhone": "70093"}));
    let release = ("AgentEvent_Call_Release", json!("1-2"));
    let result = |result: i64| ("AgentEvent_TransOutResult", json!({"result": result}));
    let chat_ends = ("AgentChat_Disconnected", json!({"callId": "5-1"}));
    let told = |course: &[(&str, Value)]| {
        let ended = Desk::new(AgentState::Busy).play(0, course);
        let words = |ended: &Value| {
            json!([
                ended["call"]["id"],
                ended["summary"]["transferredOut"],
                ended["summary"]["transferredTo"]
            ])
        };
        ended.iter().map(words).collect::<Vec<_>>()
    };
    let failed = [chat.clone(), talk.clone(), third.clone(), result(1), release.clone(), chat_ends.clone()];
    assert_eq!(told(&failed), [json!(["1-2", false, null]), json!(["5-1", false, null])]);
    let late = [chat, talk, third, release, result(0), chat_ends];
    assert_eq!(told(&late), [json!(["1-2", null, null]), json!(["5-1", false, null])]);
}

#[test]
fn a_consultation_that_fails_under_a_call_id_of_its_own_has_failed() {
    let mut desk = Desk::new(AgentState::Busy);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    desk.event(10, "AgentEvent_Hold", json!("1-2"));
    desk.event(11, "AgentEvent_Customer_Alerting", json!({"callid": "1-3", "otherPhone": "70093"}));
    let made = desk.event(31, "AgentEvent_Consult_Fail", json!("1-3"));
    assert_eq!(data(&made[0])["call"]["state"], "ended");
    let failed = only_summary(&made);
    assert_eq!((&failed["call"]["id"], &failed["summary"]["outcome"]), (&json!("1-3"), &json!("failed")));
    assert_eq!(failed["summary"]["ringingSeconds"], 20.0);
    desk.event(32, "AgentEvent_Talking", inbound("1-2"));
    let ended = only_summary(&desk.event(632, "AgentEvent_Call_Release", json!("1-2")));
    assert_eq!((&ended["call"]["id"], &ended["summary"]["outcome"]), (&json!("1-2"), &json!("answered")));
    assert_eq!(desk.event(633, "AgentState_Ready", json!(null)).len(), 1, "no call is open any more");
}

#[test]
fn a_consultation_that_fails_under_the_id_of_the_call_does_not_end_it() {
    let mut desk = Desk::new(AgentState::Busy);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    desk.event(10, "AgentEvent_Hold", json!("1-2"));
    let made = desk.event(31, "AgentEvent_Consult_Fail", json!("1-2"));
    assert_eq!((made.len(), &data(&made[0])["call"]["state"]), (1, &json!("held")));
    // Of a call that is not known nobody can say whether it was answered.
    let made = desk.event(32, "AgentEvent_Consult_Fail", json!("9-9"));
    assert_eq!((made.len(), &data(&made[0])["call"]["state"]), (1, &json!(null)));
    let ended = only_summary(&desk.event(60, "AgentEvent_Call_Release", json!("1-2")));
    assert_eq!(ended["summary"]["outcome"], "answered");
}

#[test]
fn a_switch_of_media_has_one_name_in_its_event_in_the_next_ones_and_in_the_summary() {
    let switch = |reason: Value, media_type: i64| {
        let mut desk = Desk::new(AgentState::Ready);
        desk.event(0, "AgentEvent_Talking", inbound("1-2"));
        let content = json!({"callid": "1-2", "reason": reason, "mediaType": media_type});
        let made = desk.event(5, "AgentEvent_MediaSwith", content);
        let ended = only_summary(&desk.event(9, "AgentEvent_Call_Release", json!("1-2")));
        json!([data(&made[0])["call"]["media"], ended["call"]["media"]])
    };
    let voice = json!({"code": 1, "name": "voice"});
    let mut desk = Desk::new(AgentState::Ready);
    let made = desk.event(0, "AgentEvent_Talking", json!({"callid": "1-2", "mediaAbility": "3"}));
    let video = data(&made[0])["call"]["media"].clone();
    assert_eq!(video, json!({"code": 3, "name": "voiceAndVideo"}));
    assert_eq!(switch(json!(0), 3), json!([video, video]));
    assert_eq!(switch(json!("0"), 1), json!([voice, voice]));
    for failed in [json!(1), json!(null)] {
        assert_eq!(switch(failed, 3), json!([null, voice]), "it stayed as it was");
    }
    assert_eq!(switch(json!(0), 5), json!([{"code": 5}, voice]), "5 is text, but not in a switch");
}

#[test]
fn text_sessions_are_summed_up_while_their_agent_is_ready() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentChat_Ring", json!({"callId": "5-1", "caller": "customer-7"}));
    desk.event(4, "AgentChat_Connected", json!({"callId": "5-1"}));
    desk.event(5, "AgentState_Ready", json!(null));
    desk.event(9, "AgentChat_DataRecved", json!({"callId": "5-1", "chatContent": "hello"}));
    let ended = only_summary(&desk.event(64, "AgentChat_Disconnected", json!({"callId": "5-1"})));
    assert_eq!(ended["summary"]["talkedSeconds"], 60.0);
    assert_eq!(ended["summary"]["ringingSeconds"], 4.0);
    assert_eq!(ended["call"]["media"]["name"], "text");
    assert_eq!((&ended["agent"]["state"], &ended["call"]["caller"]), (&json!("ready"), &json!("customer-7")));
}

#[test]
fn the_loss_of_a_session_ends_its_calls_without_an_end_that_was_seen() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    let ended = only_summary(&desk.session(50, "session.lost"));
    assert_eq!(ended["summary"]["outcome"], "sessionLost");
    assert_eq!(
        (&ended["summary"]["endedAt"], &ended["summary"]["talkedSeconds"]),
        (&json!(null), &json!(0.0))
    );
    assert_eq!(desk.session(60, "session.ended").len(), 1);
}

#[test]
fn a_call_that_never_ends_expires_with_the_agents_next_event() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentEvent_Talking", json!({"callid": "5-1", "mediaAbility": "5"}));
    desk.event(10, "AgentEvent_Talking", json!({"callid": "5-2", "mediaAbility": "5"}));
    desk.event(80_000, "AgentEvent_MessageData", json!({"callid": "5-2", "message": "still there"}));
    assert_eq!(desk.event(86_400, "AgentState_Busy", json!(null)).len(), 1, "a day, and not a moment more");
    let made = desk.event(90_000, "AgentEvent_New", json!(null));
    let ended = only_summary(&made);
    assert_eq!((&ended["summary"]["outcome"], &ended["call"]["id"]), (&json!("expired"), &json!("5-1")));
    assert_eq!(ended["summary"]["endedAt"], json!(null));
    let ids: Vec<_> = desk.snapshot.calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["5-2"], "something was said in it");
    // An event that names the call shows that it lives.
    let ended = only_summary(&desk.event(900_000, "AgentChat_Disconnected", json!({"callId": "5-2"})));
    assert_eq!(ended["summary"]["outcome"], "answered");
}

#[test]
fn an_agent_without_end_of_calls_takes_bounded_room_and_each_call_is_summed_up_once() {
    let mut desk = Desk::new(AgentState::Ready);
    let mut ended = Vec::new();
    for n in 0..2 * MAX_CALLS as u64 {
        let call = json!({"callid": format!("1456401416-{n}"), "mediaAbility": "5", "caller": "x".repeat(41),
            "called": "y".repeat(40)});
        ended.extend(desk.play(n, &[("AgentEvent_Talking", call)]));
    }
    assert_eq!((desk.snapshot.calls.len(), ended.len()), (MAX_CALLS, MAX_CALLS));
    assert!(ended.iter().all(|ended| ended["summary"]["outcome"] == "displaced"));
    assert_eq!(ended[0]["call"]["caller"], json!(null), "a number that long is none");
    assert!(serde_json::to_string(&desk.snapshot).unwrap().len() < 250 * MAX_CALLS);
}

#[test]
fn calls_of_early_releases_are_followed_and_not_summed_up() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.snapshot = serde_json::from_str(
        r#"{"state":"busy","since":1784529600000,"calls":[{"id":"1-2","state":"connected"}]}"#,
    )
    .unwrap();
    assert_eq!(desk.event(9, "AgentEvent_Call_Release", json!("1-2")).len(), 1);
    assert_eq!(desk.snapshot.calls, []);
}

#[test]
fn a_typical_call_takes_little_room_in_a_record() {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(1, "AgentEvent_Ringing", inbound("1456401416-3"));
    desk.event(3, "AgentEvent_Talking", inbound("1456401416-3"));
    let stored = serde_json::to_string(&desk.snapshot).unwrap();
    assert!(stored.len() < 220, "{} bytes: {stored}", stored.len());
    assert_eq!(serde_json::from_str::<AgentSnapshot>(&stored).unwrap(), desk.snapshot);
}
