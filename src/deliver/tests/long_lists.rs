//! Records with lists of many events, which are made piece by piece.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn of_long_lists_only_so_many_events_wait_at_a_time_in_their_order() {
    let bench = Bench::open();
    let mut ids = bench.push("1001", 9000).await;
    for _ in 0..20 {
        ids.extend(bench.push("1002", 500).await);
    }
    let (_book, mut worker) = bench.worker("one", 100, Duration::from_secs(30), |_, _| Verdict::Confirm);
    let mut flow = Flow::new(1);
    let (mut made, mut ends) = (Vec::new(), 0);
    while made.len() < ids.len() {
        let read =
            if flow.rest.is_some() { worker.go_on(&mut flow).await } else { worker.read(&mut flow).await };
        assert!(read.is_ok() && (1..8300).contains(&flow.waiting.len()), "{} wait", flow.waiting.len());
        for waiting in flow.waiting.drain(..) {
            made.push(waiting.message.expect("all have a route").event.id.clone());
            ends += usize::from(waiting.ends_record);
        }
    }
    assert!(made == ids && ends == 21 && flow.rest.is_none(), "{} made, {ends} ends", made.len());
    drop(worker);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_of_a_long_list_does_not_come_again() {
    let bench = Bench::open();
    let ids = bench.push("1001", 4500).await;
    let fails = ids[4300].clone();
    let worker = bench.start_with("one", 1, Duration::from_secs(30), move |seen, before| {
        match seen.id == fails && before == 0 {
            true => Verdict::Fail(DeliveryError::retry("connection", "lost")),
            false => Verdict::Confirm,
        }
    });
    bench.cursor_at("one", 2).await;
    assert_eq!(worker.ids(), [&ids[..=4300], &ids[4300..]].concat());
    bench.close().await;
    worker.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_that_was_begun_goes_to_its_end_in_a_stop() {
    let bench = Bench::open();
    let ids = bench.push("1001", 5000).await;
    let (stop, last) = (bench.stop.clone(), ids[100].clone());
    let worker = bench.start("one", move |seen, _| {
        if seen.id == last {
            stop.cancel();
        }
        Verdict::Confirm
    });
    let book = worker.ended().await;
    assert_eq!(book.lock().unwrap().seen.len(), ids.len());
    assert_eq!(bench.cursor("one"), 2);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_which_nothing_has_a_route_is_passed() {
    let mut bench = Bench::open();
    bench.router = Some(Router::new(Vec::new(), None, Arc::default()));
    bench.push("1001", 9000).await;
    let worker = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 2).await;
    assert!(worker.ids().is_empty());
    bench.close().await;
    worker.ended().await;
}
