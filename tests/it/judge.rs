//! The judge must find what it is there for: a judge that acquits everybody proves nothing.

use std::sync::Arc;

use ccrelay::clock::Timestamp;
use ccrelay::event::normalise::{RecordKind, RecordView, normalise};
use ccrelay::event::state::AgentSnapshot;
use ccrelay::event::{AgentId, GatewayName, cloudevent, envelope};
use ccrelay::simulate::{Fate, LedgerEntry};

use crate::support::judge::{Arrival, Verdict, judge};

/// `count` events of one agent: what the gateway made, and the lines that a flawless relay wrote of them.
fn flawless(count: u64) -> (Vec<LedgerEntry>, Vec<String>) {
    let kinds = ["AgentState_Busy", "AgentState_Ready"];
    let kinds = (1..=count).map(|serial| (kinds[usize::try_from(serial % 2).expect("it is small")], "null"));
    delivered(&kinds.collect::<Vec<_>>())
}

/// The same of a call.
fn flawless_call() -> (Vec<LedgerEntry>, Vec<String>) {
    delivered(&[
        ("AgentEvent_Talking", r#"{"callid":"1-2"}"#),
        ("AgentEvent_Hold", "\"1-2\""),
        ("AgentEvent_Call_Release", "\"1-2\""),
        ("AgentState_Ready", "null"),
    ])
}

fn delivered(events: &[(&str, &str)]) -> (Vec<LedgerEntry>, Vec<String>) {
    let (gateway, agent) =
        (GatewayName::parse("main").expect("a name"), AgentId::parse("1001").expect("an id"));
    let mut state = AgentSnapshot::default();
    let (mut ledger, mut lines) = (Vec::new(), Vec::new());
    for (serial, (kind, content)) in (1..).zip(events) {
        let json = format!(
            r#"{{"eventType":"{kind}","workNo":"1001","content":{content},"simulatorSerial":{serial}}}"#
        );
        let body = format!(r#"{{"workNo":"1001","eventList":[{json}]}}"#);
        let received_at = Timestamp(1_784_529_722_590 + serial);
        let view = RecordView {
            spool_id: "x",
            offset: serial,
            kind: RecordKind::Push,
            received_at,
            gateway: &gateway,
            agent_id: &agent,
            sequence: lines.len() as u64,
            repeats: &[],
            before: &state,
            body: body.as_bytes(),
        };
        for event in normalise(&view).expect("a push") {
            lines.push(String::from_utf8(cloudevent::structured(&event)).expect("UTF-8"));
        }
        state.apply(&envelope::parse(body.as_bytes()).expect("a push").events[0], received_at);
        ledger.push(LedgerEntry {
            agent: agent.clone(),
            serial,
            json: Arc::from(json),
            made: received_at,
            attempts: 1,
            fate: Fate::Acknowledged,
        });
    }
    (ledger, lines)
}

fn verdict(ledger: &[LedgerEntry], lines: &[String]) -> Verdict {
    judge(ledger, &lines.iter().map(|line| Arrival::from_json_line(line)).collect::<Vec<_>>())
}

#[test]
fn the_judge_acquits_a_flawless_delivery_and_one_that_was_repeated_with_the_same_ids() {
    let (ledger, mut lines) = flawless(6);
    verdict(&ledger, &lines).assert_flawless("the file");
    lines.extend_from_within(2..);
    let verdict = verdict(&ledger, &lines);
    verdict.assert_flawless("the file");
    assert_eq!((verdict.acknowledged, verdict.duplicates_same_id), (6, 4));
}

#[test]
fn the_judge_finds_each_crime() {
    let (ledger, lines) = flawless(6);
    let crime = |commit: &dyn Fn(&mut Vec<LedgerEntry>, &mut Vec<String>)| {
        let (mut ledger, mut lines) = (ledger.clone(), lines.clone());
        commit(&mut ledger, &mut lines);
        verdict(&ledger, &lines)
    };
    let lost = crime(&|_, lines| drop(lines.remove(3)));
    assert_eq!((lost.lost.len(), lost.gaps.len()), (1, 1), "{lost:?}");
    let lost_at_the_end = crime(&|_, lines| drop(lines.pop()));
    assert_eq!(lost_at_the_end.lost.len(), 1, "{lost_at_the_end:?}");
    let polled_and_lost = crime(&|ledger, lines| {
        ledger.iter_mut().for_each(|entry| entry.fate = Fate::Polled);
        lines.pop();
    });
    let counts = (polled_and_lost.acknowledged, polled_and_lost.polled, polled_and_lost.lost_polled.len());
    assert_eq!(counts, (0, 6, 1), "{polled_and_lost:?}");
    let never_made = crime(&|ledger, _| drop(ledger.remove(3)));
    assert_eq!(never_made.unknown.len(), 1, "{never_made:?}");
    let never_sent = crime(&|ledger, _| (ledger[3].attempts, ledger[3].fate) = (0, Fate::Waiting));
    assert_eq!(never_sent.unknown.len(), 1, "{never_sent:?}");
    let altered = crime(&|_, lines| lines[3] = lines[3].replace("\"content\":null", "\"content\":\"\""));
    assert_eq!(altered.unknown.len(), 1, "{altered:?}");
    let misnamed = crime(&|_, lines| lines[3] = lines[3].replace("\"type\":\"", "\"type\":\"x."));
    assert_eq!(misnamed.not_as_normalised.len(), 1, "{misnamed:?}");
    let swapped = crime(&|_, lines| lines.swap(2, 3));
    assert_eq!(swapped.out_of_order.len(), 1, "{swapped:?}");
    let other_id = crime(&|_, lines| lines.push(lines[5].replace("\"x-6-0\"", "\"x-7-0\"")));
    assert_eq!(other_id.duplicates_other_id.len(), 1, "{other_id:?}");
    let differs = crime(&|_, lines| lines.push(lines[5].replace("\"time\":\"2", "\"time\":\"3")));
    assert_eq!(differs.not_as_normalised.len(), 1, "{differs:?}");
}

#[test]
fn the_judge_finds_summaries_that_are_missing_wrong_or_out_of_place() {
    let (ledger, lines) = flawless_call();
    assert!(lines[3].contains("ccrelay.call.ended"));
    verdict(&ledger, &lines).assert_flawless("the file");
    let crime = |commit: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        commit(&mut lines);
        verdict(&ledger, &lines)
    };
    let lost = crime(&|lines| drop(lines.remove(3)));
    assert_eq!((lost.lost.len(), lost.gaps.len()), (1, 1), "{lost:?}");
    let lost_at_the_end = crime(&|lines| lines.truncate(3));
    assert_eq!(lost_at_the_end.lost.len(), 2, "the summary and the last event: {lost_at_the_end:?}");
    let early = crime(&|lines| lines.swap(2, 3));
    assert_eq!((early.unknown.len(), early.gaps.len()), (1, 1), "{early:?}");
    let wrong = crime(&|lines| lines[3] = lines[3].replace("\"heldCount\":1", "\"heldCount\":2"));
    assert_eq!(wrong.not_as_normalised.len(), 1, "{wrong:?}");
    let renamed = crime(&|lines| lines[3] = lines[3].replace("x-3-0-1", "x-3-0-2"));
    assert_eq!(renamed.not_as_normalised.len(), 1, "{renamed:?}");
}
