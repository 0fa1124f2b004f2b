//! What summaries say of calls whose end is not plain: those that make room, that are passed on with an end nobody reported,
//! that fail at once, that an agent was connected to before the other party, and whose other party has left long before.

use super::*;

fn chat(id: &str) -> Value {
    json!({"callId": id})
}

fn release(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Call_Release", json!(id))
}

fn left(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Customer_Release", json!({"callid": id, "number": "13800000000"}))
}

fn third_rings(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Customer_Alerting", json!({"callid": id, "otherPhone": "80001"}))
}

/// An agent in a call of voice, with as many text sessions beside it as are tracked.
fn full_desk() -> Desk {
    let mut desk = Desk::new(AgentState::Ready);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    for (second, n) in (1..).zip(1..MAX_CALLS) {
        desk.event(second, "AgentChat_Connected", chat(&format!("5-{n}")));
    }
    assert_eq!(desk.snapshot.calls.len(), MAX_CALLS);
    desk
}

#[test]
fn as_many_text_sessions_as_the_gateway_allows_and_a_call_of_voice_with_help_displace_nothing() {
    let mut desk = Desk::new(AgentState::Ready);
    let mut ended = desk.play(0, &[("AgentEvent_Talking", inbound("1-2"))]);
    for n in 0..60 {
        ended.extend(desk.play(1 + n, &[("AgentChat_Connected", chat(&format!("5-{n}")))]));
    }
    ended.extend(desk.play(70, &[("AgentEvent_Talking", inbound("1-3")), release("1-3"), release("1-2")]));
    let told: Vec<_> =
        ended.iter().map(|ended| json!([ended["call"]["id"], ended["summary"]["outcome"]])).collect();
    assert_eq!(told, [json!(["1-3", "answered"]), json!(["1-2", "answered"])]);
    assert_eq!(ended[1]["summary"]["talkedSeconds"], 72.0);
}

#[test]
fn room_is_made_by_the_text_session_that_is_silent_for_longest() {
    let mut desk = full_desk();
    desk.event(100, "AgentChat_DataRecved", json!({"callId": "5-1", "chatContent": "still there"}));
    let ended = only_summary(&desk.event(101, "AgentChat_Connected", chat("6-1")));
    assert_eq!((&ended["call"]["id"], &ended["summary"]["outcome"]), (&json!("5-2"), &json!("displaced")));
    let ended = only_summary(&desk.event(102, "AgentEvent_Talking", inbound("1-3")));
    assert_eq!(ended["call"]["id"], "5-3");
    let ended = only_summary(&desk.event(110, "AgentEvent_Call_Release", json!("1-2")));
    assert_eq!(
        (&ended["summary"]["outcome"], &ended["summary"]["talkedSeconds"]),
        (&json!("answered"), &json!(110.0))
    );
}

#[test]
fn who_makes_room_does_not_depend_on_what_the_receiver_alone_knows() {
    let mut desk = full_desk();
    // The receiver notes how far the gateway's clock is behind when a call begins; the normaliser has no word of it yet.
    desk.snapshot.calls[1].late = 500_000;
    let ended = only_summary(&desk.event(101, "AgentChat_Connected", chat("6-1")));
    assert_eq!(ended["call"]["id"], "5-1");
}

#[test]
fn a_call_that_is_released_while_a_third_phone_rings_is_passed_on_only_where_a_result_says_so() {
    let talk = ("AgentEvent_Talking", inbound("1-2"));
    let result = |result: i64| ("AgentEvent_SuccTransResult", json!({"callId": "1-2", "result": result}));
    let ready = ("AgentState_Ready", json!(null));
    // The agent is released when the target picks up, or when the customer hangs up: the same events up to the result.
    for told in [0, 1] {
        let course =
            [talk.clone(), third_rings("1-2"), release("1-2"), left("1-2"), ready.clone(), result(told)];
        let ended = Desk::new(AgentState::Busy).play(0, &course);
        assert_eq!(ended.len(), 1, "{ended:?}");
        let summary = &ended[0]["summary"];
        for member in ["transferredOut", "transferredTo", "endedBy"] {
            assert_eq!(summary.get(member), None, "{member}");
        }
    }
    let course = [talk, third_rings("1-2"), result(0), release("1-2"), left("1-2")];
    let summary = &Desk::new(AgentState::Busy).play(0, &course)[0]["summary"];
    assert_eq!(
        json!([summary["transferredOut"], summary["transferredTo"], summary["endedBy"]]),
        json!([true, "80001", "agent"])
    );
}

#[test]
fn an_outbound_call_is_answered_by_the_customer_and_not_by_its_agents_phone() {
    for feature in ["7", "40", "41", "43", "44", "45"] {
        let call = || json!({"callid": "1-2", "caller": "6048", "called": "80001", "feature": feature});
        let mut desk = Desk::new(AgentState::Busy);
        let made = desk.event(0, "AgentEvent_Auto_Answer", call());
        assert_eq!(data(&made[0])["call"]["state"], "initiated", "{feature}");
        desk.event(2, "AgentEvent_Customer_Alerting", json!({"callid": "1-2", "otherPhone": "80001"}));
        let failed = only_summary(&desk.event(30, "AgentEvent_Call_Out_Fail", json!("1-2")));
        let summary = &failed["summary"];
        assert_eq!(
            json!([summary["outcome"], summary["ringingSeconds"]]),
            json!(["failed", 28.0]),
            "{feature}"
        );
        assert_eq!((summary.get("talkedSeconds"), summary.get("answeredAfterSeconds")), (None, None));

        let course = [
            ("AgentEvent_Auto_Answer", call()),
            third_rings("1-2"),
            ("AgentEvent_Talking", call()),
            release("1-2"),
        ];
        let summary = &Desk::new(AgentState::Busy).play(0, &course)[0]["summary"];
        let told = json!([summary["outcome"], summary["answeredAfterSeconds"], summary["talkedSeconds"]]);
        assert_eq!(told, json!(["answered", 2.0, 1.0]), "{feature}");
        // Told late it takes nothing back.
        let mut desk = Desk::new(AgentState::Busy);
        desk.event(0, "AgentEvent_Talking", call());
        let made = desk.event(1, "AgentEvent_Auto_Answer", call());
        assert_eq!(data(&made[0])["call"]["state"], "connected", "{feature}");
    }
    // Who is called has answered when it is answered for them.
    for feature in ["0", "6"] {
        let call = json!({"callid": "1-2", "feature": feature});
        let ended = Desk::new(AgentState::Busy).play(0, &[("AgentEvent_Auto_Answer", call), release("1-2")]);
        assert_eq!(ended[0]["summary"]["outcome"], "answered", "{feature}");
    }
}

#[test]
fn a_call_that_the_gateway_reports_as_failed_has_failed_unless_somebody_talked() {
    for failure in ["AgentEvent_Call_Out_Fail", "AgentEvent_Inside_Call_Fail"] {
        let picked_up = ("AgentEvent_Auto_Answer", json!({"callid": "1-2"}));
        let course = [picked_up.clone(), (failure, json!("1-2"))];
        let summary = &Desk::new(AgentState::Busy).play(0, &course)[0]["summary"];
        assert_eq!(
            (&summary["outcome"], summary.get("talkedSeconds")),
            (&json!("failed"), None),
            "{failure}"
        );
        let course = [picked_up, ("AgentEvent_Talking", inbound("1-2")), (failure, json!("1-2"))];
        let summary = &Desk::new(AgentState::Busy).play(0, &course)[0]["summary"];
        assert_eq!(
            json!([summary["outcome"], summary["talkedSeconds"]]),
            json!(["answered", 2.0]),
            "{failure}"
        );
    }
}

#[test]
fn a_call_that_fails_before_anything_else_is_told_of_it_is_summed_up_once() {
    let failed = ("AgentEvent_Call_Out_Fail", json!("1-2"));
    let not_connected = ("AgentEvent_Connect_Fail", json!("1-2"));
    let inside = ("AgentEvent_Inside_Call_Fail", json!("1-2"));
    let rings = third_rings("1-2");
    let ready = ("AgentState_Ready", json!(null));
    for (course, lasted) in [
        (vec![failed.clone(), not_connected.clone()], 0.0),
        (vec![not_connected.clone(), failed.clone()], 0.0),
        (vec![inside, not_connected.clone()], 0.0),
        (vec![failed.clone(), failed.clone(), not_connected.clone(), failed.clone()], 0.0),
        (vec![rings.clone(), not_connected.clone(), failed.clone(), failed.clone()], 1.0),
    ] {
        let ended = Desk::new(AgentState::Busy).play(0, &course);
        assert_eq!(ended.len(), 1, "{course:?}: {ended:?}");
        let told = json!([
            ended[0]["call"]["id"],
            ended[0]["summary"]["outcome"],
            ended[0]["summary"]["durationSeconds"]
        ]);
        assert_eq!(told, json!(["1-2", "failed", lasted]), "{course:?}");
    }
    let ended = Desk::new(AgentState::Busy).play(0, &[rings, ready, failed]);
    assert_eq!(ended.len(), 1, "the agent was ready before the failure was told: {ended:?}");
    for nameless in [json!(null), json!(""), json!("9".repeat(MAX_ID + 1))] {
        let ended = Desk::new(AgentState::Busy).play(0, &[("AgentEvent_Call_Out_Fail", nameless.clone())]);
        assert_eq!(ended, Vec::<Value>::new(), "{nameless}");
    }
}

#[test]
fn a_consultation_whose_helper_has_left_lasts_until_then_and_ends_with_the_wrap_up() {
    let mut desk = Desk::new(AgentState::Busy);
    desk.event(0, "AgentEvent_Talking", inbound("1-2"));
    desk.event(10, "AgentEvent_Hold", json!("1-2"));
    desk.event(11, "AgentEvent_Customer_Alerting", json!({"callid": "1-3", "otherPhone": "80001"}));
    desk.event(15, "AgentEvent_Talking", json!({"callid": "1-3", "feature": "51"}));
    desk.event(40, "AgentEvent_Customer_Release", json!({"callid": "1-3", "number": "80001"}));
    desk.event(41, "AgentEvent_Talking", inbound("1-2"));
    let talked = only_summary(&desk.event(100, "AgentEvent_Call_Release", json!("1-2")));
    assert_eq!(talked["summary"]["talkedSeconds"], 69.0);
    let helped = only_summary(&desk.event(101, "AgentState_Work", json!(null)));
    let told =
        json!([helped["call"]["id"], helped["summary"]["talkedSeconds"], helped["summary"]["endedBy"]]);
    assert_eq!(told, json!(["1-3", 25.0, "otherParty"]));
    assert_eq!(desk.event(130, "AgentState_CancelWork_Success", json!(null)).len(), 1);
}

#[test]
fn the_talk_goes_on_where_another_comes_for_the_party_that_left() {
    let talk = ("AgentEvent_Talking", inbound("1-2"));
    let conference = ("AgentEvent_Conference", json!({"callid": "1-2", "partner": "291,80001"}));
    let work = ("AgentState_Work", json!(null));
    let told = |course: &[(&str, Value)]| {
        let ended = Desk::new(AgentState::Busy).play(0, course);
        assert_eq!(ended.len(), 1, "{course:?}");
        json!([ended[0]["summary"]["talkedSeconds"], ended[0]["summary"]["durationSeconds"]])
    };
    // As the guide prints help of three: somebody leaves between ringing and conversation.
    let help = [talk.clone(), third_rings("1-2"), left("1-2"), conference.clone(), release("1-2")];
    assert_eq!(told(&help), json!([4.0, 4.0]));
    let one_of_three = [talk.clone(), conference, left("1-2"), work.clone(), release("1-2")];
    assert_eq!(told(&one_of_three), json!([4.0, 4.0]), "the others talk on");
    let alone =
        [talk.clone(), left("1-2"), ("AgentEvent_MessageData", json!({"callid": "1-2"})), release("1-2")];
    assert_eq!(told(&alone), json!([1.0, 3.0]));
    assert_eq!(told(&[talk, left("1-2"), work, release("1-2")]), json!([1.0, 2.0]));
}

#[test]
fn who_leaves_while_a_third_phone_rings_that_is_not_reached_ends_no_talk() {
    let failed = [
        ("AgentEvent_Consult_Fail", json!("1-2")),
        ("AgentEvent_SuccTransResult", json!({"callId": "1-2", "result": 1})),
    ];
    for failed in failed {
        let mut desk = Desk::new(AgentState::Ready);
        let talk = ("AgentEvent_Talking", inbound("1-2"));
        let ended = desk.play(0, &[talk, third_rings("1-2"), left("1-2"), failed.clone(), release("1-2")]);
        assert_eq!(ended.len(), 1, "{failed:?}");
        assert_eq!(ended[0]["summary"]["talkedSeconds"], 4.0, "{failed:?}");
    }
}
