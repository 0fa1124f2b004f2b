use serde_json::{Value, json};

use super::*;
use crate::event::calls::MAX_ID;
use crate::event::envelope;

const START: Timestamp = Timestamp(1_784_529_600_000);

fn after(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn applied(snapshot: &mut AgentSnapshot, event_type: &str, content: Value, at: Timestamp) -> Transition {
    let body = json!({"workNo": "1", "event": {"eventType": event_type, "content": content}}).to_string();
    let envelope = envelope::parse(body.as_bytes()).unwrap();
    snapshot.apply(&envelope.events[0], at)
}

fn in_state(state: AgentState) -> AgentSnapshot {
    AgentSnapshot { state, since: START, ..AgentSnapshot::default() }
}

#[test]
fn a_day_of_an_agent() {
    let mut agent = AgentSnapshot::default();
    for (second, event_type, content, state, lasted) in [
        (0, "AgentOther_InService", json!(""), AgentState::SignedIn, None),
        (1, "AgentState_Ready", json!(null), AgentState::Ready, Some(1)),
        (60, "AgentState_Busy", json!(null), AgentState::Busy, Some(59)),
        (62, "AgentEvent_Ringing", json!({"callid": "1-2"}), AgentState::Busy, None),
        (65, "AgentEvent_Talking", json!({"callid": "1-2"}), AgentState::Busy, None),
        (120, "AgentEvent_Call_Release", json!("1-2"), AgentState::Busy, None),
        (121, "AgentState_Work", json!(null), AgentState::WorkingAfterCall, Some(61)),
        (131, "AgentState_CancelWork_Success", json!(null), AgentState::Ready, Some(10)),
        (132, "AgentState_Ready", json!(null), AgentState::Ready, None),
        (200, "AgentState_SetRest_Success", json!({"reason": "12"}), AgentState::Rest, Some(69)),
        (800, "AgentState_Rest_Timeout", json!(null), AgentState::Rest, None),
        (900, "AgentState_CancelRest_Success", json!(null), AgentState::Ready, Some(700)),
        (901, "AgentState_SetNotReady_Success", json!({"reason": 201}), AgentState::NotReady, Some(1)),
        (905, "AgentOther_ShutdownService", json!({}), AgentState::SignedOut, Some(4)),
    ] {
        let before = agent.state;
        let transition = applied(&mut agent, event_type, content, after(second));
        assert_eq!((transition.before, transition.after), (before, state), "{event_type}");
        assert_eq!(transition.lasted, lasted.map(Duration::from_secs), "{event_type}");
        assert_eq!(transition.changed, agent.since == after(second), "{event_type}");
        assert!(!transition.unexpected, "{event_type}");
    }
}

#[test]
fn a_call_is_followed_from_ringing_to_its_end() {
    let mut agent = in_state(AgentState::Ready);
    let call = json!({"callid": "7-7", "mediaAbility": "1"});
    let ringing = applied(&mut agent, "AgentEvent_Ringing", call.clone(), after(1));
    assert_eq!((agent.state, ringing.changed), (AgentState::Busy, true));
    for (event_type, content, before, now) in [
        ("AgentEvent_Talking", call.clone(), CallState::Alerting, CallState::Connected),
        ("AgentEvent_Hold", json!("7-7"), CallState::Connected, CallState::Held),
        ("AgentEvent_Talking", call, CallState::Held, CallState::Connected),
        ("AgentEvent_Call_Release", json!({"callId": "7-7"}), CallState::Connected, CallState::Ended),
    ] {
        let transition = applied(&mut agent, event_type, content, after(2));
        assert_eq!(
            (transition.call_before, transition.call_after),
            (Some(before), Some(now)),
            "{event_type}"
        );
    }
    assert_eq!(agent.calls, []);
    assert_eq!(agent.state, AgentState::Busy, "the gateway says what comes after the call");
}

#[test]
fn text_sessions_do_not_make_an_agent_busy() {
    let mut agent = in_state(AgentState::Ready);
    applied(&mut agent, "AgentEvent_Talking", json!({"callid": "5-1", "mediaAbility": 5}), after(1));
    applied(&mut agent, "AgentChat_Connected", json!({"callId": "5-2"}), after(2));
    assert_eq!((agent.state, agent.calls.len()), (AgentState::Ready, 2));
    applied(&mut agent, "AgentEvent_Talking", json!({"callid": "1-3", "mediaAbility": "1"}), after(3));
    assert_eq!((agent.state, agent.calls.len()), (AgentState::Busy, 3));
    applied(&mut agent, "AgentState_Ready", json!(null), after(4));
    let texts: Vec<_> = agent.calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(texts, ["5-1", "5-2"], "a ready agent has no call of voice, and may have text sessions");
}

#[test]
fn what_does_not_fit_is_reported_and_followed() {
    for (state, event_type, after_it) in [
        (AgentState::SignedOut, "AgentState_Ready", AgentState::Ready),
        (AgentState::SignedOut, "AgentEvent_Talking", AgentState::Busy),
        (AgentState::Ready, "AgentState_Rest_Timeout", AgentState::Ready),
        (AgentState::Rest, "AgentState_CancelNotReady_Success", AgentState::Ready),
        (AgentState::Ready, "AgentEvent_Hold", AgentState::Ready),
    ] {
        let mut agent = in_state(state);
        let transition = applied(&mut agent, event_type, json!(null), after(1));
        assert!(transition.unexpected, "{event_type}");
        assert_eq!((transition.after, agent.state), (after_it, after_it), "{event_type}");
    }
    for event_type in ["AgentState_Rest_Timeout", "AgentState_CancelRest_Success", "AgentEvent_Hold", "New"] {
        assert!(!applied(&mut AgentSnapshot::default(), event_type, json!(null), START).unexpected);
    }
}

#[test]
fn a_success_that_is_told_late_ends_no_call() {
    for (state, event_type) in [
        (AgentState::NotReady, "AgentState_CancelNotReady_Success"),
        (AgentState::Rest, "AgentState_CancelRest_Success"),
        (AgentState::WorkingAfterCall, "AgentState_CancelWork_Success"),
    ] {
        let mut agent = in_state(state);
        applied(&mut agent, "AgentEvent_Talking", json!({"callid": "1-2", "mediaAbility": "1"}), after(1));
        let late = applied(&mut agent, event_type, json!(null), after(2));
        assert_eq!(
            (late.after, late.changed, late.unexpected),
            (AgentState::Busy, false, false),
            "{event_type}"
        );
        assert_eq!((agent.calls.len(), late.ended), (1, vec![]), "{event_type}");
        let ready = applied(&mut agent, "AgentState_Ready", json!(null), after(60));
        assert_eq!((ready.after, ready.ended.len()), (AgentState::Ready, 1), "{event_type}");
    }
}

#[test]
fn another_reason_begins_another_stretch() {
    let mut agent = in_state(AgentState::NotReady);
    let content = json!({"reason": "200"});
    assert!(applied(&mut agent, "AgentState_SetNotReady_Success", content.clone(), after(5)).changed);
    assert_eq!((agent.reason, agent.since), (Some(200), after(5)));
    assert!(!applied(&mut agent, "AgentState_SetNotReady_Success", content, after(9)).changed);
    assert_eq!(agent.since, after(5));
}

#[test]
fn the_events_own_time_counts_and_time_that_runs_backwards_lasts_nothing() {
    let mut agent = in_state(AgentState::Ready);
    let body = format!(
        r#"{{"workNo":"1","event":{{"eventType":"AgentState_Busy","eventGenTime":{}}}}}"#,
        START.millis() - 500
    );
    let transition = agent.apply(&envelope::parse(body.as_bytes()).unwrap().events[0], after(100));
    assert_eq!(transition.lasted, Some(Duration::ZERO));
    assert_eq!(agent.since, Timestamp(START.millis() - 500));
}

#[test]
fn sessions_move_their_agent() {
    let mut agent = AgentSnapshot::default();
    assert_eq!(agent.apply_session("session.started", START).after, AgentState::SignedIn);
    applied(&mut agent, "AgentState_Ready", json!(null), after(1));
    assert_eq!(agent.apply_session("session.started", after(2)).after, AgentState::Ready);
    assert_eq!(agent.apply_session("session.degraded", after(3)).after, AgentState::Ready);
    assert_eq!(agent.apply_session("session.lost", after(4)).after, AgentState::Unknown);
    assert_eq!(agent.apply_session("session.ended", after(5)).after, AgentState::SignedOut);
    assert!(!agent.apply_session("session.dreamt", after(6)).changed);
}

#[test]
fn snapshots_stay_small_and_read_back() {
    let mut agent = AgentSnapshot::default();
    assert_eq!(serde_json::to_string(&agent).unwrap(), r#"{"state":"unknown"}"#);
    for number in 0..100 {
        let id = format!("1456401416-{number}");
        applied(&mut agent, "AgentEvent_Talking", json!({"callid": id, "mediaAbility": "5"}), START);
    }
    applied(&mut agent, "AgentEvent_Talking", json!({"callid": "9".repeat(MAX_ID + 1)}), START);
    assert_eq!(agent.calls.len(), MAX_CALLS);
    assert_eq!(agent.calls[MAX_CALLS - 1].id, "1456401416-99");
    let stored = serde_json::to_string(&agent).unwrap();
    assert_eq!(serde_json::from_str::<AgentSnapshot>(&stored).unwrap(), agent);
    let later: AgentSnapshot = serde_json::from_str(r#"{"state":"napping","new":1}"#).unwrap();
    assert_eq!(later.state, AgentState::Unknown);
}

fn started(agent: &mut AgentSnapshot, reason: &str, login_time: Option<u64>) {
    let mut body = json!({ "type": "session.started", "reason": reason });
    if let Some(time) = login_time {
        body["loginTime"] = json!(time);
    }
    agent.apply_own(body.to_string().as_bytes(), after(1));
}

/// The end of a session that began so long after the first one did.
fn shut_down(agent: &mut AgentSnapshot, login_time: Option<u64>) -> Transition {
    let content = login_time.map_or(json!({}), |time| json!({ "loginTime": time.to_string() }));
    applied(agent, "AgentOther_ShutdownService", content, after(9))
}

#[test]
fn a_late_end_of_an_earlier_session_ends_neither_the_present_one_nor_its_call() {
    const PRESENT: u64 = 1_784_529_500_000;
    for goes_on in [None, Some("resumed")] {
        let mut agent = AgentSnapshot::default();
        started(&mut agent, "taken_over", Some(PRESENT));
        applied(&mut agent, "AgentEvent_Talking", json!({ "callid": "7-7" }), after(2));
        if let Some(reason) = goes_on {
            agent = serde_json::from_str(&serde_json::to_string(&agent).unwrap()).unwrap();
            started(&mut agent, reason, None);
        }
        let late = shut_down(&mut agent, Some(PRESENT - 60_000));
        assert_eq!((late.after, late.changed, late.unexpected), (AgentState::Busy, false, true));
        assert!(late.ended.is_empty());
        let call = agent.calls.iter().find(|call| call.id == "7-7");
        assert_eq!(call.map(|call| call.state), Some(CallState::Connected));
        let end = shut_down(&mut agent, Some(PRESENT));
        assert_eq!((end.after, end.unexpected, end.ended.len()), (AgentState::SignedOut, false, 1));
    }
}

#[test]
fn an_end_is_believed_where_one_of_the_times_is_not_known() {
    for (how, began, ended) in [
        ("signed_in", Some(START.millis()), None),
        ("signed_in", None, Some(1)),
        // Of what another program began we know no time, whatever we knew of the session before.
        ("adopted", None, Some(1)),
    ] {
        let mut agent = AgentSnapshot::default();
        started(&mut agent, "signed_in", Some(START.millis()));
        started(&mut agent, how, began);
        assert_eq!(shut_down(&mut agent, ended).after, AgentState::SignedOut, "{how}, {began:?}, {ended:?}");
    }
}
