use super::*;

fn small() -> SpoolLimits {
    SpoolLimits { max_bytes: 400_000, low_water_percent: 60, ..SpoolLimits::default() }
}

fn open_with(
    folder: &Path,
    limits: SpoolLimits,
    sinks: &[(&str, WhenFull)],
) -> (Spool, SpoolThreads, Metrics) {
    let names: Vec<_> = sinks.iter().map(|(name, _)| (*name, &[][..])).collect();
    let metrics = Metrics::new([], names).unwrap();
    let sinks: Vec<_> =
        sinks.iter().map(|(name, when_full)| SinkStart { when_full: *when_full, ..sink(name) }).collect();
    let (spool, threads) =
        Spool::open(limited(folder, limits), &sinks, metrics.clone(), Clock::system()).unwrap();
    (spool, threads, metrics)
}

fn long(n: u64) -> NewRecord {
    push(&(1001 + n).to_string(), &["a", &"x".repeat(10_000)], n)
}

/// Pushes until one is refused. Gives how many were stored.
async fn fill(spool: &Spool) -> u64 {
    for n in 0..200 {
        match spool.append(long(n)).await {
            Ok(_) => {}
            Err(AppendError::Full) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the limit was never met");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_high_mark_only_pushes_are_refused_and_they_are_taken_at_the_low_mark() {
    let folder = TempDir::new().unwrap();
    let (spool, threads, metrics) = open_with(folder.path(), small(), &[("kafka", WhenFull::Block)]);
    let stored = fill(&spool).await;
    until(async || metrics.spool_fill_ratio.get() >= 1.0).await;
    spool.save_session(agent("1001"), Some(b"guid".to_vec())).await.unwrap();
    let own = NewRecord {
        kind: RecordKind::Lifecycle,
        body: Bytes::from(r#"{"type":"session.lost"}"#),
        ..push("1001", &[], 300)
    };
    spool.append(own).await.unwrap();
    let reader = spool.reader("kafka").unwrap();
    // A little room is not enough: the low mark is far below.
    let full = metrics.spool_fill_ratio.get();
    reader.confirm(4);
    until(async || metrics.spool_fill_ratio.get() < full).await;
    assert_eq!(spool.append(long(400)).await, Err(AppendError::Full));
    reader.confirm(stored + 2);
    until(async || spool.append(long(401)).await.is_ok()).await;
    assert!(metrics.spool_fill_ratio.get() <= 0.61);
    assert!(metrics.spool_failures.with_label_values(&["full"]).get() >= 2);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_too_little_room_refuses_pushes_from_the_start() {
    let folder = TempDir::new().unwrap();
    let limits = SpoolLimits { min_free_disk_bytes: u64::MAX / 11, ..SpoolLimits::default() };
    let (spool, threads, metrics) = open_with(folder.path(), limits, &[("kafka", WhenFull::Block)]);
    assert_eq!(spool.append(long(0)).await, Err(AppendError::Full));
    spool.save_session(agent("1001"), Some(b"guid".to_vec())).await.unwrap();
    assert!(metrics.spool_fill_ratio.get() >= 1.0);
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_sheds_gives_up_its_oldest_records_and_no_push_is_refused() {
    let folder = TempDir::new().unwrap();
    let (spool, threads, metrics) = open_with(folder.path(), small(), &[("wall", WhenFull::Shed)]);
    let own = Bytes::from(r#"{"type":"session.started"}"#);
    let own = NewRecord { kind: RecordKind::Lifecycle, body: own, ..push("1001", &[], 0) };
    spool.append(own).await.unwrap();
    for n in 0..199 {
        spool.append(long(n)).await.unwrap();
    }
    let wall = spool.reader("wall").unwrap();
    let records = read_all(&wall).await;
    assert_eq!(records.last().unwrap().offset, 200, "the newest are kept");
    let shed = metrics.sink_shed_records.with_label_values(&["wall"]).get();
    assert!(shed > 100, "{shed}");
    let events = metrics.sink_shed_events.with_label_values(&["wall"]).get();
    assert_eq!(events, 2 * shed - 1, "the first record is one of our own, with one event");
    assert_eq!(wall.cursor(), shed + 1);
    assert_eq!(
        records.first().unwrap().offset,
        shed + 1,
        "what is kept and what is given up is all there was"
    );
    assert_eq!(metrics.spool_failures.with_label_values(&["full"]).get(), 0);
    // Between beats the mark may be passed; with them it goes down to the low mark.
    until(async || metrics.spool_fill_ratio.get() <= 1.0).await;
    close(spool, threads).await;
    let (spool, threads, _) = open_with(folder.path(), small(), &[("wall", WhenFull::Shed)]);
    assert!(spool.reader("wall").unwrap().cursor() > shed, "what was given up stays so");
    close(spool, threads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_up_for_a_sink_that_blocks_nor_where_it_would_free_nothing() {
    let folder = TempDir::new().unwrap();
    let sinks = [("bus", WhenFull::Block), ("wall", WhenFull::Shed)];
    let (spool, threads, metrics) = open_with(folder.path(), small(), &sinks);
    let stored = fill(&spool).await;
    let (bus, wall) = (spool.reader("bus").unwrap(), spool.reader("wall").unwrap());
    let shed = || metrics.sink_shed_records.with_label_values(&["wall"]).get();
    assert_eq!((shed(), wall.cursor()), (0, 1), "bus needs all of them, so nothing would be freed");
    // Now wall alone holds the first ten.
    bus.confirm(11);
    until(async || spool.append(long(300)).await.is_ok()).await;
    assert!((1..=10).contains(&shed()), "{}", shed());
    assert_eq!(metrics.sink_shed_records.with_label_values(&["bus"]).get(), 0);
    let kept: Vec<_> =
        read_all(&bus).await.iter().map(|record| record.offset).filter(|at| *at > 10).collect();
    assert_eq!(kept, (11..=stored + 1).collect::<Vec<_>>());
    assert!(wall.cursor() <= 11);
    close(spool, threads).await;
}
