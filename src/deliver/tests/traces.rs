//! What events say of their trace, and the spans of one worker.

use super::*;
use crate::spool::LetterFilter;
use crate::trace::tests::{taken, traces};

fn too_large() -> Verdict {
    Verdict::Fail(DeliveryError::dead_letter("too_large", "message is too large"))
}

/// What the events that were seen say of their traces, in their order.
fn said(worker: &Running) -> Vec<String> {
    let book = worker.book();
    book.seen.iter().map(|seen| seen.trace.clone().expect("traces are on")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_the_same_on_every_sink_at_every_try_and_after_a_restart() {
    let mut bench = Bench::open();
    let (on, mut spans) = traces(1.0, bench.spool.id());
    bench.traces = on.clone();
    let ids = bench.push("1001", 2).await;
    let second = ids[1].clone();
    let one = bench.start("one", move |seen, before| match seen.id == second && before == 0 {
        true => Verdict::Fail(DeliveryError::retry("connection", "lost")),
        false => Verdict::Confirm,
    });
    let two = bench.start("two", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 2).await;
    bench.cursor_at("two", 2).await;
    let expected = on.context(1).unwrap().traceparent();
    assert_eq!(said(&one), vec![expected.clone(); 3], "two events, the second twice");
    assert_eq!(said(&two), vec![expected.clone(); 2]);
    let faults = taken(&mut spans);
    let failed = faults.iter().flatten().count();
    assert_eq!((faults.len(), failed), (5, 1), "{faults:?}");
    let folder = bench.close().await;
    drop((one.ended().await, two.ended().await));

    let mut bench = Bench::open_in(folder);
    bench.traces = traces(1.0, bench.spool.id()).0;
    bench.push("1001", 1).await;
    let one = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 3).await;
    assert_eq!(said(&one), [on.context(2).unwrap().traceparent()]);
    bench.close().await;
    one.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_its_copy_and_its_replay_say_what_the_event_said() {
    let mut bench = Bench::open();
    bench.copies = true;
    let (on, mut spans) = traces(1.0, bench.spool.id());
    bench.traces = on.clone();
    bench.push("1001", 1).await;
    let worker =
        bench.start(
            "one",
            |seen, before| {
                if before == 0 && seen.copy.is_none() { too_large() } else { Verdict::Confirm }
            },
        );
    until("a dead letter", || bench.spool.dead_letters().unwrap().len() == 1).await;
    bench.cursor_at("one", 2).await;
    bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
    until("no dead letters", || bench.spool.dead_letters().unwrap().is_empty()).await;
    assert_eq!(said(&worker), vec![on.context(1).unwrap().traceparent(); 3]);
    assert_eq!(taken(&mut spans), [Some("too_large"), None], "the copy has no span");
    bench.close().await;
    worker.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_when_the_client_was_given_up_has_failed_spans() {
    let mut bench = Bench::open();
    let (on, mut spans) = traces(1.0, bench.spool.id());
    bench.traces = on;
    bench.push_singles(3).await;
    let worker = bench.start_with("one", 100, Duration::from_millis(200), |seen, _| match seen.life {
        0 => Verdict::Hold,
        _ => Verdict::Confirm,
    });
    bench.cursor_at("one", 4).await;
    assert_eq!(taken(&mut spans), [Some("stalled"), Some("stalled"), Some("stalled"), None, None, None]);
    bench.close().await;
    worker.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traces_events_say_nothing() {
    let bench = Bench::open();
    assert!(bench.traces.context(1).is_none());
    bench.push_singles(1).await;
    let worker = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 2).await;
    assert_eq!(worker.book().seen[0].trace, None);
    bench.close().await;
    worker.ended().await;
}
