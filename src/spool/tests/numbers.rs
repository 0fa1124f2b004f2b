//! Sequence numbers, read as sinks read them: whatever is published of an agent has consecutive ones.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::event::Event;
use crate::event::normalise::normalise;

fn event(event_type: &str, content: &str) -> String {
    format!(r#"{{"eventType":"{event_type}","content":{content}}}"#)
}

fn talking(id: &str) -> String {
    event("AgentEvent_Talking", &format!(r#"{{"callid":"{id}"}}"#))
}

fn released(id: &str) -> String {
    event("AgentEvent_Call_Release", &format!("\"{id}\""))
}

fn own(agent_id: &str, event_type: &str, at: u64) -> NewRecord {
    let body = Bytes::from(format!(r#"{{"type":"{event_type}"}}"#));
    NewRecord { kind: RecordKind::Lifecycle, body, ..record(agent_id, &[], at) }
}

/// Everything that a sink would publish, in order.
async fn published(spool: &Spool) -> Vec<Event> {
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    records.iter().flat_map(|record| normalise(&record.view(spool.id())).unwrap()).collect()
}

/// Ids and numbers of all but repeats, which must be consecutive; repeats must say what their first delivery said.
fn assert_consecutive(events: &[Event]) {
    let fresh: Vec<_> = events.iter().filter(|event| !event.repeat).collect();
    for (expected, event) in (0u64..).zip(&fresh) {
        assert_eq!(event.sequence, expected, "{}: {}", event.id, event.event_type);
    }
    for repeat in events.iter().filter(|event| event.repeat) {
        let first = fresh.iter().find(|event| event.id == repeat.id);
        assert_eq!(first.map(|first| first.sequence), Some(repeat.sequence), "{}", repeat.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_have_no_gap_across_summaries_own_events_repeats_expiry_and_a_crash() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    spool.append(own("1001", "session.started", 0)).await.unwrap();
    let calls = [talking("1-1"), talking("1-2"), event("AgentState_Ready", "null"), talking("1-3")];
    spool.append(record("1001", &calls, 1)).await.unwrap();
    // The gateway repeats a batch in whose middle calls ended, twice, with more at its end; our own event in between.
    spool.append(own("1001", "session.degraded", 2)).await.unwrap();
    let more: Vec<_> = calls.iter().cloned().chain([released("1-3"), talking("1-4")]).collect();
    spool.append(record("1001", &more, 12)).await.unwrap();
    spool.append(record("1001", &more, 24)).await.unwrap();
    let copy = crash_copy(folder.path());
    close(spool, threads).await;

    let (spool, threads) = open(config(copy.path()), &["kafka"]);
    spool.append(record("1001", &more, 36)).await.unwrap();
    spool.append(record("1001", &[], 80_000)).await.unwrap();
    spool.append(record("1001", &[event("AgentEvent_New", "null")], 90_000)).await.unwrap();
    spool.append(record("1001", &[talking("1-5")], 90_001)).await.unwrap();
    spool.append(own("1001", "session.lost", 90_002)).await.unwrap();
    spool.append(own("1001", "session.ended", 90_003)).await.unwrap();
    let events = published(&spool).await;
    assert_consecutive(&events);
    let ended: Vec<_> =
        events.iter().filter_map(|event| event.data.details.summary.as_ref()?.outcome).collect();
    use crate::event::state::CallOutcome::{Answered, Expired, SessionLost};
    assert_eq!(ended, [Answered, Answered, Answered, Expired, SessionLost]);
    assert_eq!(events.iter().filter(|event| event.repeat).count(), 4 + 6 + 6);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_agent_moves_nobody_and_is_numbered() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let others = r#"{"eventType":"AgentState_Work","workNo":"1002","content":null}"#.to_owned();
    let list = [talking("1-1"), others, event("AgentEvent_New", "null")];
    spool.append(record("1001", &list, 0)).await.unwrap();
    spool.append(record("1001", &[released("1-1")], 1)).await.unwrap();
    let events = published(&spool).await;
    assert_consecutive(&events);
    use crate::event::state::AgentState::Busy;
    assert!(events.iter().all(|event| event.data.agent.state == Busy), "{events:?}");
    let whole = events[1].data.raw.event.as_ref().map(|raw| raw.as_str());
    assert!(whole.is_some_and(|raw| raw.contains(r#""workNo":"1002""#)), "{whole:?}");
    assert!(events[0].data.raw.event.is_none());
    let stored = read_all(&spool.reader("kafka").unwrap()).await;
    assert_eq!(stored[1].before.state, Busy, "so it is at receipt");
    close(spool, threads).await;
}

/// How many agents have a row in the spool, and below which offset the rows hold everything.
fn progress(directory: &Path) -> (usize, u64) {
    let connection = rusqlite::Connection::open(directory.join("spool.db")).unwrap();
    let query = "SELECT (SELECT count(*) FROM agents), (SELECT value FROM meta WHERE key = 'agents_as_of')";
    connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_parts_of_a_round_of_rows_or_after_it_costs_no_number_and_no_repeat() {
    for over in [false, true] {
        let mut crashed = None;
        // A beat may find nobody waiting, and stores all rows at once then.
        for _ in 0..20 {
            crashed = crash_in_the_first_round(over).await;
            if crashed.is_some() {
                break;
            }
        }
        let (copy, last) = crashed.expect("a crash in the first round");
        let (spool, threads) = open(config(copy.path()), &["kafka"]);
        for record in last.values() {
            let id = record.agent.agent_id.as_str();
            let again = NewRecord { body: record.body.clone(), ..super::record(id, &[], 14) };
            let again = spool.append(again).await.unwrap();
            assert_eq!((again.events, again.repeated), (1, 1), "{id}");
            spool.append(super::record(id, &[talking("9-9")], 20)).await.unwrap();
        }
        let mut by_agent: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for event in published(&spool).await {
            by_agent.entry(event.agent_id.as_str().to_owned()).or_default().push(event);
        }
        assert_eq!(by_agent.len(), last.len());
        for events in by_agent.values() {
            assert!(events.len() >= 3);
            assert_consecutive(events);
        }
        close(spool, threads).await;
    }
}

/// Pushes for many agents at once until the first round of their rows is under way, or over; gives what a crash leaves then, and
/// each agent's last push. `None` when that moment was missed.
async fn crash_in_the_first_round(over: bool) -> Option<(TempDir, BTreeMap<String, Record>)> {
    const AGENTS: usize = 6000;
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let stop = CancellationToken::new();
    // Two that take turns, so that there is always somebody for whom rows go a few at a time.
    let load = |half: usize| {
        let (spool, stop) = (spool.clone(), stop.clone());
        tokio::spawn(async move {
            for turn in 0.. {
                for agents in (0..AGENTS / 2).collect::<Vec<_>>().chunks(50) {
                    let push = |agent: &usize| {
                        let id = (2000 + 2 * agent + half).to_string();
                        spool.append(record(&id, &[talking(&format!("1-{turn}"))], 2))
                    };
                    for appended in futures_util::future::join_all(agents.iter().map(push)).await {
                        appended.unwrap();
                    }
                    if stop.is_cancelled() {
                        return;
                    }
                }
            }
        })
    };
    let loads = [load(0), load(1)];
    let begun = |(rows, as_of): (usize, u64)| if over { as_of > 1 } else { rows > 0 };
    until(async || {
        // Looked at closely: a round takes some milliseconds.
        (0..25).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            begun(progress(folder.path()))
        })
    })
    .await;
    stop.cancel();
    for load in loads {
        load.await.unwrap();
    }
    let now = progress(folder.path());
    let copy = crash_copy(folder.path());
    // A beat in the middle of copying makes a copy that no crash leaves.
    let whole = progress(folder.path()) == now;
    let there = whole && (over || now.1 == 1);
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    close(spool, threads).await;
    let last = records.into_iter().map(|record| (record.agent.agent_id.as_str().to_owned(), record));
    there.then(|| (copy, last.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_do_not_fit_and_calls_that_end_are_counted_once_they_are_stored() {
    let folder = TempDir::new().unwrap();
    let metrics = Metrics::new([], []).unwrap();
    let open =
        || Spool::open(config(folder.path()), &[sink("kafka")], metrics.clone(), Clock::system()).unwrap();
    let (spool, threads) = open();
    let refused =
        [event("AgentState_SetRest_Success", "null"), event("AgentState_CancelNotReady_Success", "null")];
    spool.append(record("1001", &refused, 0)).await.unwrap();
    spool.append(record("1001", &[talking("1-1"), released("1-1"), talking("1-2")], 20)).await.unwrap();
    spool.append(own("1001", "session.lost", 40)).await.unwrap();
    spool.append(own("1001", "session.ended", 41)).await.unwrap();
    spool.append(record("1001", &[talking("1-3")], 60)).await.unwrap();
    close(spool, threads).await;
    // A start counts nothing again.
    let (spool, threads) = open();
    close(spool, threads).await;
    let unexpected = |state| metrics.events_unexpected.with_label_values(&[state]).get();
    assert_eq!((unexpected("rest"), unexpected("signed_out"), unexpected("ready")), (1, 1, 0));
    let ended = |outcome| metrics.calls_ended.with_label_values(&[outcome]).get();
    assert_eq!((ended("answered"), ended("session_lost"), ended("expired")), (1, 1, 0));
}

/// What happens to one agent.
#[derive(Debug, Clone)]
enum Step {
    Push(Vec<(u8, u8)>),
    Again(u8),
    Own(bool),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let events = prop::collection::vec((0u8..8, 0u8..4), 1..5);
    prop_oneof![
        6 => events.prop_map(Step::Push),
        3 => (0u8..3).prop_map(Step::Again),
        1 => any::<bool>().prop_map(Step::Own),
        1 => Just(Step::Crash),
    ]
}

fn made_of((kind, call): (u8, u8), serial: usize) -> String {
    let id = format!("1-{call}");
    // The number makes events different, so that only what is sent again is a repeat.
    match kind {
        0 | 1 => event("AgentEvent_Talking", &format!(r#"{{"callid":"{id}","n":{serial}}}"#)),
        2 => event("AgentEvent_Talking", &format!(r#"{{"callid":"{id}","mediaAbility":"5","n":{serial}}}"#)),
        3 | 4 => event("AgentEvent_Call_Release", &format!(r#"{{"callid":"{id}","n":{serial}}}"#)),
        5 => event("AgentState_Ready", &format!(r#"{{"n":{serial}}}"#)),
        6 => event("AgentOther_ShutdownService", &format!(r#"{{"n":{serial}}}"#)),
        _ => event("AgentEvent_New", &format!(r#"{{"callid":"{id}","n":{serial}}}"#)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn numbers_are_consecutive_whatever_comes(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut folder = TempDir::new().unwrap();
            let (mut spool, mut threads) = open(config(folder.path()), &["kafka"]);
            let (mut last, mut serial, mut at) = (Vec::<String>::new(), 0, 0);
            for step in steps {
                at += 20;
                match step {
                    Step::Push(kinds) => {
                        last = kinds.into_iter().map(|kind| { serial += 1; made_of(kind, serial) }).collect();
                        spool.append(record("1001", &last, at)).await.unwrap();
                    }
                    Step::Again(more) => {
                        for _ in 0..more {
                            serial += 1;
                            last.push(made_of((u8::try_from(serial % 8).unwrap(), more), serial));
                        }
                        spool.append(record("1001", &last, at)).await.unwrap();
                    }
                    Step::Own(lost) => {
                        let name = if lost { "session.lost" } else { "session.degraded" };
                        spool.append(own("1001", name, at)).await.unwrap();
                    }
                    Step::Crash => {
                        let copy = crash_copy(folder.path());
                        close(spool, threads).await;
                        folder = copy;
                        (spool, threads) = open(config(folder.path()), &["kafka"]);
                    }
                }
            }
            assert_consecutive(&published(&spool).await);
            close(spool, threads).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_silent_by_our_clock_however_far_behind_the_gateways_is() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let age = CALL_AGE.as_secs();
    // The gateway's clock is three times that behind; the next event comes without a time, as all do of some gateways.
    let began = Timestamp(1_795_491_900_000 - 3 * age * 1000).millis();
    let talking = format!(
        r#"{{"eventType":"AgentEvent_Talking","eventGenTime":{began},"content":{{"callid":"1-2","mediaAbility":"1"}}}}"#
    );
    let hold = r#"{"eventType":"AgentEvent_Hold","content":"1-2"}"#.to_owned();
    let other = r#"{"eventType":"AgentOther_Note","content":{}}"#.to_owned();
    spool.append(record("1001", &[talking], 0)).await.unwrap();
    spool.append(record("1001", std::slice::from_ref(&other), age - 1)).await.unwrap();
    spool.append(record("1001", &[other], age + 1)).await.unwrap();
    spool.append(record("1001", &[hold], age + 2)).await.unwrap();
    let records = read_all(&spool.reader("kafka").unwrap()).await;
    let due = |at: usize| records[at].before.calls.iter().map(|call| call.due).collect::<Vec<_>>();
    assert_eq!((due(1), due(2), due(3)), (vec![false], vec![true], vec![]));
    close(spool, threads).await;
}
