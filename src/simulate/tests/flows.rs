//! The documented flows, as the simulator plays them, through receiver and normaliser: each ends in the state and with
//! the summaries of calls that it means. Every flow comes with phones that must be picked up and with such as need not.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::support::*;
use crate::clock::Timestamp;
use crate::event::normalise::{RecordKind, RecordView, normalise};
use crate::event::state::{AgentSnapshot, AgentState};
use crate::event::{Event, GatewayName, cloudevent, envelope};
use crate::simulate::settings::Variety;
use crate::simulate::{Settings, Simulator};

/// What became of an agent.
struct Course {
    state: AgentState,
    /// Each summary in words.
    calls: Vec<String>,
    /// Calls that are still open.
    open: usize,
    unexpected: usize,
}

/// Plays `flows` one after another for the agent 1001, and before that `others` for the agent 1002.
async fn played(must_pick_up: bool, others: &[&str], flows: &[&str]) -> (Course, Course) {
    let receiver = Receiver::start().await;
    // No times of their own: what happens when is for the test to say.
    let variety = Variety {
        event_gen_time: 0.0,
        json_key: 0.5,
        non_ascii: 0.5,
        empty_content: 0.5,
        other_content: 0.5,
    };
    let simulator = start(Settings { must_pick_up, variety, ..settings() }).await;
    for id in [1001, 1002] {
        let mut client = Client::new(&simulator, id);
        client.login_to(&receiver).await;
        assert_eq!(client.call(Method::POST, "resetskill/true").await.retcode(), "0");
    }
    for (id, flows) in [(1002, others), (1001, flows)] {
        for flow in flows {
            simulator.play_flow(&agent(id), flow, Duration::ZERO).await.unwrap();
        }
    }
    (course(&simulator, 1001), course(&simulator, 1002))
}

/// Follows an agent through everything that the simulator made for it, a second for each event.
fn course(simulator: &Simulator, id: u32) -> Course {
    let made = simulator.ledger_of(&agent(id));
    let mut snapshot = AgentSnapshot::default();
    let mut events: Vec<Event> = Vec::new();
    for entry in made {
        let body = format!(r#"{{"workNo":"{id}","eventList":[{}]}}"#, entry.json);
        let received_at = Timestamp(1_784_529_600_000 + entry.serial * 1000);
        let record = RecordView {
            spool_id: "k3v9",
            offset: entry.serial,
            kind: RecordKind::Push,
            received_at,
            gateway: &GatewayName::parse("main").unwrap(),
            agent_id: &agent(id),
            sequence: events.len() as u64,
            repeats: &[],
            before: &snapshot,
            body: body.as_bytes(),
        };
        events.extend(normalise(&record).unwrap());
        snapshot.apply(&envelope::parse(body.as_bytes()).unwrap().events[0], received_at);
    }
    assert!((0u64..).zip(&events).all(|(number, event)| event.sequence == number));
    let summaries = events.iter().filter(|event| event.event_type == "ccrelay.call.ended");
    Course {
        state: snapshot.state,
        calls: summaries.map(|event| in_words(&event_data(event))).collect(),
        open: snapshot.calls.len(),
        unexpected: events.iter().filter(|event| event.data.agent.unexpected).count(),
    }
}

fn event_data(event: &Event) -> Value {
    serde_json::from_slice(&cloudevent::data(event)).unwrap()
}

fn in_words(data: &Value) -> String {
    let summary = &data["summary"];
    let mut words = vec![summary["outcome"].as_str().unwrap().to_owned()];
    words.extend(data["call"]["direction"].as_str().map(str::to_owned));
    words.extend(
        summary["talkedSeconds"].as_f64().filter(|talked| *talked > 0.0).map(|_| "talked".to_owned()),
    );
    let holds = summary["heldCount"].as_u64().filter(|holds| *holds > 0);
    words.extend(holds.map(|holds| format!("held {holds}x {} s", summary["heldSeconds"])));
    for (member, word) in [("conferenced", "conferenced"), ("transferredOut", "passed on")] {
        words.extend((summary[member] == true).then(|| word.to_owned()));
    }
    let not_told = summary["outcome"] == "answered" && summary["transferredOut"].is_null();
    words.extend(not_told.then(|| "perhaps passed on".to_owned()));
    words.extend(summary["endedBy"].as_str().map(|by| format!("by {by}")));
    words.join(", ")
}

/// One test for each line: the flows played, the state in the end, open calls, summaries.
macro_rules! flows {
    ($( $name:ident: [$($flow:literal),*] => $state:ident, open $open:literal, [$($call:literal),*]; )+) => {
        $(
            #[tokio::test]
            async fn $name() {
                for must_pick_up in [false, true] {
                    let (course, _) = played(must_pick_up, &[], &[$($flow),*]).await;
                    let calls: &[&str] = &[$($call),*];
                    assert_eq!((course.state, course.open), (AgentState::$state, $open));
                    assert_eq!(course.calls, calls);
                }
            }
        )+
        /// Every flow that a test plays.
        const PLAYED: &[&str] = &[$($($flow),*),+];
    };
}

flows! {
    signing_in_makes_an_agent_ready: ["sign-in"] => Ready, open 0, [];
    an_outgoing_call_that_is_answered_makes_its_agent_busy: ["outgoing-call"] => Busy, open 1, [];
    an_outgoing_call_is_summed_up_when_it_is_released: ["outgoing-call", "release"] => Ready, open 0, ["answered, outbound, talked"];
    an_outgoing_call_that_the_agent_lets_fail_has_failed: ["outgoing-call-agent-fails"] => Ready, open 0, ["failed"];
    an_outgoing_call_that_nobody_takes_has_failed: ["outgoing-call-called-fails"] => Ready, open 0, ["failed"];
    an_automatically_answered_call_makes_its_agent_busy: ["auto-answer"] => Busy, open 1, [];
    an_automatically_answered_call_is_summed_up: ["auto-answer", "release"] => Ready, open 0, ["answered, inbound, talked"];
    a_call_answered_by_hand_makes_its_agent_busy: ["manual-answer"] => Busy, open 1, [];
    a_call_answered_by_hand_is_summed_up: ["manual-answer", "query-before-answer", "release"] => Ready, open 0, ["answered, inbound, talked"];
    a_call_that_the_agent_does_not_answer_was_not_answered: ["no-answer"] => Busy, open 0, ["notAnswered, inbound, by platform"];
    a_held_call_goes_on: ["manual-answer", "hold"] => Busy, open 1, [];
    a_call_that_was_held_and_taken_up_again_says_for_how_long: ["manual-answer", "hold", "unhold", "release"] => Ready, open 0, ["answered, inbound, talked, held 1x 1.0 s"];
    a_success_transfer_whose_result_comes_late_perhaps_passes_the_call_on: ["manual-answer", "transfer-success"] => Ready, open 0, ["answered, inbound, talked, perhaps passed on"];
    a_blind_transfer_perhaps_passes_the_call_on: ["manual-answer", "transfer-blind"] => Ready, open 0, ["answered, inbound, talked, perhaps passed on"];
    a_transfer_to_an_ivr_perhaps_passes_the_call_on: ["manual-answer", "transfer-suspend-ivr"] => Ready, open 0, ["answered, inbound, talked, perhaps passed on"];
    a_talk_transfer_looks_like_help_of_three: ["manual-answer", "transfer-talk"] => Ready, open 0, ["answered, inbound, talked, conferenced, perhaps passed on"];
    a_three_party_transfer_whose_conference_comes_late_perhaps_passes_the_call_on: ["manual-answer", "transfer-three-party"] => Ready, open 0, ["answered, inbound, talked, perhaps passed on"];
    help_of_a_colleague_holds_the_call_and_does_not_pass_it_on: ["manual-answer", "internal-help-two-party", "release"] => Ready, open 0, ["answered, inbound, talked, held 1x 2.0 s"];
    help_of_a_colleague_in_the_call_is_a_conference: ["manual-answer", "internal-help-three-party", "release"] => Ready, open 0, ["answered, inbound, talked, conferenced, perhaps passed on"];
    a_three_party_call_is_a_conference_whoever_leaves_first: ["manual-answer", "three-party-call", "release"] => Ready, open 0, ["answered, inbound, talked, conferenced"];
    muting_is_not_seen: ["manual-answer", "mute-start", "mute-stop", "release"] => Ready, open 0, ["answered, inbound, talked"];
    an_inspector_who_inserts_is_busy_without_a_call: ["insert"] => Busy, open 0, [];
    an_inspector_who_listens_is_busy_without_a_call: ["listen"] => Busy, open 0, [];
    an_inspector_who_intercepts_has_the_call: ["listen", "intercept"] => Busy, open 1, [];
    playing_a_recording_keeps_an_agent_busy_without_a_call: ["playback-idle", "playback-pause", "playback-resume", "playback-forward", "playback-rewind"] => Busy, open 0, [];
    a_recording_that_was_played_leaves_its_agent_ready: ["playback-idle", "playback-idle-stop"] => Ready, open 0, [];
    a_recording_that_cannot_be_played_leaves_its_agent_ready: ["playback-idle-failure"] => Ready, open 0, [];
    a_recording_played_into_a_call_changes_nothing_of_it: ["manual-answer", "playback-call", "playback-call-stop", "playback-call-failure", "release"] => Ready, open 0, ["answered, inbound, talked"];
    a_message_alone_begins_no_text_session: ["text-chat"] => Ready, open 0, [];
}

#[test]
fn every_flow_of_the_catalogue_is_played_by_a_test() {
    let missing: Vec<_> = Simulator::flows().filter(|flow| !PLAYED.contains(flow)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn a_call_that_an_inspector_takes_away_has_ended_for_the_inspected_agent_and_goes_on_for_the_inspector()
{
    for must_pick_up in [false, true] {
        let (inspector, inspected) = played(must_pick_up, &["manual-answer"], &["listen", "intercept"]).await;
        assert_eq!((inspected.state, inspected.open), (AgentState::Ready, 0));
        assert_eq!(inspected.calls, ["answered, inbound, talked"], "the order is the reverse of a release");
        assert_eq!((inspector.state, inspector.open, inspector.calls.len()), (AgentState::Busy, 1, 0));
    }
}

#[tokio::test]
async fn no_flow_is_refused_and_only_a_conference_after_the_transfer_does_not_fit() {
    for flow in Simulator::flows() {
        let before: &[&str] = if flow.starts_with("transfer") { &["manual-answer"] } else { &[] };
        let (course, _) = played(true, &[], &[before, &[flow]].concat()).await;
        let late = flow == "transfer-three-party";
        let without_a_call =
            ["hold", "three-party-call", "internal-help-two-party", "internal-help-three-party"];
        // These begin in a call; played without one, the first event that goes on with it does not fit.
        let expected = usize::from(late) + usize::from(without_a_call.contains(&flow));
        assert_eq!(course.unexpected, expected, "{flow}");
    }
}

/// Events of one call in an order of our own.
fn in_order(events: &[&str]) -> Course {
    let mut snapshot = AgentSnapshot { state: AgentState::Ready, ..AgentSnapshot::default() };
    let mut course = Course { state: AgentState::Ready, calls: Vec::new(), open: 0, unexpected: 0 };
    for (second, event_type) in (1u64..).zip(events) {
        let content = match *event_type {
            "AgentEvent_Call_Release" | "AgentEvent_Call_Out_Fail" | "AgentEvent_Connect_Fail" => r#""1-2""#,
            "AgentEvent_Talking" | "AgentEvent_Ringing" => r#"{"callid":"1-2","feature":"0"}"#,
            name if name.starts_with("AgentEvent_") => r#"{"callid":"1-2"}"#,
            _ => "null",
        };
        let body = format!(
            r#"{{"workNo":"1001","eventList":[{{"eventType":"{event_type}","content":{content}}}]}}"#
        );
        let received_at = Timestamp(1_784_529_600_000 + second * 1000);
        let record = RecordView {
            spool_id: "k3v9",
            offset: second,
            kind: RecordKind::Push,
            received_at,
            gateway: &GatewayName::parse("main").unwrap(),
            agent_id: &agent(1001),
            sequence: 0,
            repeats: &[],
            before: &snapshot,
            body: body.as_bytes(),
        };
        for event in normalise(&record).unwrap() {
            course.unexpected += usize::from(event.data.agent.unexpected);
            if event.event_type == "ccrelay.call.ended" {
                course.calls.push(in_words(&event_data(&event)));
            }
        }
        snapshot.apply(&envelope::parse(body.as_bytes()).unwrap().events[0], received_at);
    }
    Course { state: snapshot.state, open: snapshot.calls.len(), ..course }
}

#[test]
fn orders_that_the_sources_contradict_end_in_the_same_state_with_the_same_summary() {
    let answered = &["AgentState_Busy", "AgentEvent_Ringing", "AgentEvent_Talking"][..];
    let reserved = &["AgentEvent_Customer_Alerting"][..];
    for (orders, calls) in [
        // The guide's release, the guide's interception, and on hook before all.
        (
            [
                vec![
                    "AgentEvent_Call_Release",
                    "AgentEvent_Customer_Release",
                    "AgentOther_PhoneRelease",
                    "AgentState_Ready",
                ],
                vec![
                    "AgentState_Ready",
                    "AgentOther_PhoneRelease",
                    "AgentEvent_Call_Release",
                    "AgentEvent_Customer_Release",
                ],
                vec![
                    "AgentOther_PhoneRelease",
                    "AgentEvent_Call_Release",
                    "AgentState_Ready",
                    "AgentEvent_Customer_Release",
                ],
            ]
            .map(|end| [answered, &end[..]].concat()),
            ["answered, inbound, talked"],
        ),
        // The failing branches of an outgoing call: on hook last, on hook first, and the state before either.
        (
            [
                vec![
                    "AgentEvent_Call_Out_Fail",
                    "AgentEvent_Connect_Fail",
                    "AgentOther_PhoneRelease",
                    "AgentState_Ready",
                ],
                vec![
                    "AgentOther_PhoneRelease",
                    "AgentEvent_Call_Out_Fail",
                    "AgentEvent_Connect_Fail",
                    "AgentState_Ready",
                ],
                vec![
                    "AgentEvent_Connect_Fail",
                    "AgentEvent_Call_Out_Fail",
                    "AgentState_Ready",
                    "AgentOther_PhoneRelease",
                ],
            ]
            .map(|end| [&["AgentState_Busy"], reserved, &end[..]].concat()),
            ["failed"],
        ),
        // The same, with work reported at once, after the ringing, and after the failure.
        (
            [
                vec![
                    "AgentState_Work",
                    "AgentEvent_Customer_Alerting",
                    "AgentEvent_Call_Out_Fail",
                    "AgentEvent_Connect_Fail",
                ],
                vec![
                    "AgentEvent_Customer_Alerting",
                    "AgentState_Work",
                    "AgentEvent_Call_Out_Fail",
                    "AgentEvent_Connect_Fail",
                ],
                vec![
                    "AgentEvent_Customer_Alerting",
                    "AgentEvent_Connect_Fail",
                    "AgentEvent_Call_Out_Fail",
                    "AgentState_Work",
                ],
            ]
            .map(|course| [&["AgentState_Busy"], &course[..], &["AgentState_Ready"]].concat()),
            ["failed"],
        ),
        // Busy before the phone, after it, and, as a public client has it, followed by work at once.
        (
            [
                vec![
                    "AgentState_Busy",
                    "AgentOther_PhoneOffhook",
                    "AgentEvent_Ringing",
                    "AgentEvent_Talking",
                ],
                vec![
                    "AgentOther_PhoneOffhook",
                    "AgentEvent_Ringing",
                    "AgentState_Busy",
                    "AgentEvent_Talking",
                ],
                vec!["AgentState_Busy", "AgentState_Work", "AgentEvent_Ringing", "AgentEvent_Talking"],
            ]
            .map(|begin| [&begin[..], &["AgentEvent_Call_Release", "AgentState_Ready"]].concat()),
            ["answered, inbound, talked"],
        ),
    ] {
        for order in orders {
            let course = in_order(&order);
            assert_eq!(
                (course.state, course.open, course.unexpected),
                (AgentState::Ready, 0, 0),
                "{order:?}"
            );
            assert_eq!(course.calls, calls, "{order:?}");
        }
    }
}
