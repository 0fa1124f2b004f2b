//! What summaries say of calls whose end is not plain: those that make room, that are passed on with an end nobody reported,
//! that fail at once, that an agent was connected to before the other party, and whose other party has left long before.

use super::*;

fn release(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Call_Release", json!(id))
}

fn left(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Customer_Release", json!({"callid": id, "number": "13800000000"}))
}

fn third_rings(id: &str) -> (&'static str, Value) {
    ("AgentEvent_Customer_Alerting", json!({"callid": id, "otherPhone": "80001"}))
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
