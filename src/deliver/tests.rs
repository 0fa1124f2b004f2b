use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::event::normalise::RecordKind;
use crate::event::{AgentId, GatewayName};
use crate::route::{Condition, Pattern, Router, Rule, Subject, Target, TopicRules};
use crate::sink::BoxFuture;
use crate::sink::testing::until;
use crate::spool::testing::{change, flip, place_of, record_around, seal};
use crate::spool::{
    AgentKey, Letter, LetterFilter, NewRecord, RepeatRules, SinkStart, SpoolConfig, SpoolLimits,
    SpoolThreads, StartFrom, Unhidden, WhenFull,
};
use crate::trace::Traces;

/// What becomes of one publish.
enum Verdict {
    Confirm,
    /// The test decides later.
    Hold,
    /// Taken, and then failed.
    Fail(DeliveryError),
    /// Not taken.
    Refuse(DeliveryError),
    /// There is never room for it.
    Hang,
}

/// One publish as the sink saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// How many resets came before.
    life: usize,
    id: String,
    agent: String,
    sequence: u64,
    topic: String,
    /// What it is a copy for.
    copy: Option<(&'static str, String)>,
    /// Bytes of what the gateway said.
    content: usize,
    trace: Option<String>,
}

#[derive(Default)]
struct Book {
    seen: Vec<Seen>,
    resets: usize,
    closed: bool,
    held: Vec<Option<oneshot::Sender<Result<(), DeliveryError>>>>,
}

/// What a fake sink does with an event, and how often it has seen it.
type Script = Box<dyn FnMut(&Seen, usize) -> Verdict + Send>;

/// A sink that does what its script says and writes down what happens.
struct FakeSink {
    book: Arc<Mutex<Book>>,
    script: Script,
    retains_states: bool,
    /// A reset has no end.
    hangs: bool,
    /// Nor has a flush.
    keeps: bool,
    /// What fails while there is nothing to deliver.
    trouble: Option<DeliveryError>,
    /// What keeps it from the far end.
    complaint: Option<&'static str>,
}

impl Sink for FakeSink {
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        let mut book = self.book.lock().unwrap();
        let event = &message.event;
        let (agent, sequence) = (event.agent_id.to_string(), event.sequence);
        let copy = match &message.purpose {
            Purpose::Copy(note) => Some((note.reason, note.topic.to_string())),
            Purpose::Delivery | Purpose::Replay | Purpose::State => None,
        };
        let content = event.data.raw.content.as_ref().map_or(0, |content| content.as_str().len());
        let (id, topic) = (event.id.clone(), message.topic.to_string());
        let trace = message.trace.map(|trace| trace.traceparent());
        let seen = Seen { life: book.resets, id, agent, sequence, topic, copy, content, trace };
        let before = book.seen.iter().filter(|other| other.id == seen.id).count();
        let verdict = (self.script)(&seen, before);
        book.seen.push(seen);
        let result: Result<Ack, DeliveryError> = match verdict {
            Verdict::Confirm => Ok(Box::pin(std::future::ready(Ok(())))),
            Verdict::Fail(error) => Ok(Box::pin(std::future::ready(Err(error)))),
            Verdict::Refuse(error) => Err(error),
            Verdict::Hang => return Box::pin(std::future::pending()),
            Verdict::Hold => {
                let (sender, receiver) = oneshot::channel();
                book.held.push(Some(sender));
                let gone = |_| Err(DeliveryError::retry("reset", "the client is gone"));
                Ok(Box::pin(async move { receiver.await.unwrap_or_else(gone) }))
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn state_topic(&self, event: &Event) -> Option<Arc<str>> {
        self.retains_states.then(|| format!("state.{}", event.agent_id).into())
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        if self.keeps {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn trouble(&mut self) -> BoxFuture<'_, DeliveryError> {
        match self.trouble.take() {
            Some(error) => Box::pin(std::future::ready(error)),
            None => Box::pin(std::future::pending()),
        }
    }

    fn complaint(&self) -> Option<DeliveryError> {
        self.complaint.map(|said| DeliveryError::retry("broker", said))
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        let mut book = self.book.lock().unwrap();
        book.resets += 1;
        book.held.clear();
        if self.hangs {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.book.lock().unwrap().closed = true;
        Box::pin(std::future::ready(()))
    }
}

/// A spool with the sinks `one` and `two`.
struct Bench {
    folder: TempDir,
    spool: Spool,
    threads: SpoolThreads,
    metrics: Metrics,
    stop: CancellationToken,
    hurry: CancellationToken,
    /// Copies of dead letters are wanted.
    copies: bool,
    repeats: Repeats,
    /// Another way than all events to one topic of their agent.
    router: Option<Router>,
    retains_states: bool,
    /// A reset of the sink has no end.
    hangs: bool,
    /// A flush of the sink has no end.
    keeps: bool,
    trouble: Option<DeliveryError>,
    complaint: Option<&'static str>,
    troubles: Troubles,
    traces: Traces,
}

/// A worker that runs.
struct Running {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl Running {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.book().seen.iter().map(|seen| seen.id.clone()).collect()
    }

    /// Waits until this many events were published.
    async fn published(&self, count: usize) {
        until(&format!("{count} events published"), || self.book().seen.len() >= count).await;
    }

    /// Confirms what was held as number `index` of this life.
    fn confirm(&self, index: usize) {
        let sender = self.book().held[index].take().expect("it is held");
        sender.send(Ok(())).expect("the worker waits");
    }

    async fn ended(self) -> Arc<Mutex<Book>> {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        ended.expect("the worker ends").expect("no panic");
        self.book
    }
}

impl Bench {
    fn open() -> Bench {
        Bench::open_in(TempDir::new().unwrap())
    }

    fn open_in(folder: TempDir) -> Bench {
        Bench::limited(folder, SpoolLimits::default())
    }

    fn limited(folder: TempDir, limits: SpoolLimits) -> Bench {
        let metrics = Metrics::new(["main"], [("one", &[][..]), ("two", &[][..])]).unwrap();
        let repeats = RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) };
        let config = SpoolConfig {
            directory: folder.path().to_path_buf(),
            limits,
            repeats,
            call_age: Duration::from_secs(86_400),
        };
        let sinks = ["one", "two"].map(|name| SinkStart {
            name: name.to_owned(),
            from: StartFrom::Earliest,
            when_full: WhenFull::Block,
        });
        let (spool, threads) = Spool::open(config, &sinks, metrics.clone(), Clock::system()).unwrap();
        Bench {
            folder,
            spool,
            threads,
            metrics,
            stop: CancellationToken::new(),
            hurry: CancellationToken::new(),
            copies: false,
            repeats: Repeats::Publish,
            router: None,
            retains_states: false,
            hangs: false,
            keeps: false,
            trouble: None,
            complaint: None,
            troubles: Troubles::default(),
            traces: Traces::default(),
        }
    }

    /// Closes the spool; its folder stays.
    async fn close(self) -> TempDir {
        self.stop.cancel();
        self.spool.close().await;
        let threads = self.threads;
        tokio::task::spawn_blocking(move || threads.join()).await.unwrap();
        self.folder
    }

    fn start(&self, sink: &str, script: impl FnMut(&Seen, usize) -> Verdict + Send + 'static) -> Running {
        self.start_with(sink, 100, Duration::from_secs(30), script)
    }

    fn start_with(
        &self,
        sink: &str,
        window: usize,
        stall_timeout: Duration,
        script: impl FnMut(&Seen, usize) -> Verdict + Send + 'static,
    ) -> Running {
        let (book, worker) = self.worker(sink, window, stall_timeout, script);
        Running { book, task: tokio::spawn(worker.run()) }
    }

    fn worker(
        &self,
        sink: &str,
        window: usize,
        stall_timeout: Duration,
        script: impl FnMut(&Seen, usize) -> Verdict + Send + 'static,
    ) -> (Arc<Mutex<Book>>, Worker) {
        let router = self
            .router
            .clone()
            .unwrap_or_else(|| Router::to(TopicTemplate::parse("events.{agent}", TopicRules::Free).unwrap()));
        let copies = TopicTemplate::parse("copies", TopicRules::Free).unwrap();
        let dead_letter_topic = self.copies.then_some(copies);
        let repeats = self.repeats;
        let sink_name = sink.to_owned();
        let config = DeliverConfig {
            sink: sink_name,
            window,
            stall_timeout,
            way: way(router),
            dead_letter_topic,
            repeats,
            troubles: self.troubles.clone(),
        };
        let book = Arc::<Mutex<Book>>::default();
        let (script, retains_states) = (Box::new(script), self.retains_states);
        let (book_of, hangs, keeps, trouble) = (book.clone(), self.hangs, self.keeps, self.trouble.clone());
        let complaint = self.complaint;
        let fake = FakeSink { book: book_of, script, retains_states, hangs, keeps, trouble, complaint };
        let reader = self.spool.reader(sink).unwrap();
        let (spool, metrics, stop) = (self.spool.clone(), self.metrics.clone(), self.stop.clone());
        let worker = Worker::new(config, Box::new(fake), spool, reader, metrics, Clock::system(), stop);
        (book, worker.traced(self.traces.of_sink(sink, None)).hurried(self.hurry.clone()))
    }

    /// Stores a push of `events` events. Gives their ids.
    async fn push(&self, agent: &str, events: usize) -> Vec<String> {
        self.push_with(agent, events, "null").await
    }

    /// The same with this content in each event.
    async fn push_with(&self, agent: &str, events: usize, content: &str) -> Vec<String> {
        let event = &*format!(r#"{{"eventType":"AgentState_Ready","content":{content}}}"#);
        let list = vec![event; events].join(",");
        let record = NewRecord {
            kind: RecordKind::Push,
            received_at: Clock::system().now(),
            agent: AgentKey {
                gateway: GatewayName::parse("main").unwrap(),
                agent_id: AgentId::parse(agent).unwrap(),
            },
            body: Bytes::from(format!(r#"{{"workNo":"{agent}","eventList":[{list}]}}"#)),
            answer: None,
        };
        let appended = self.spool.append(record).await.unwrap();
        (0..events).map(|index| format!("{}-{}-{index}", self.spool.id(), appended.offset)).collect()
    }

    async fn push_singles(&self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.extend(self.push("1001", 1).await);
        }
        ids
    }

    fn cursor(&self, sink: &str) -> u64 {
        self.spool.cursors().into_iter().find(|(name, _)| name == sink).unwrap().1
    }

    async fn cursor_at(&self, sink: &str, offset: u64) {
        until(&format!("cursor of {sink} at {offset}"), || self.cursor(sink) == offset).await;
    }

    fn state(&self, sink: &str) -> i64 {
        self.metrics.sink_state.with_label_values(&[sink]).get()
    }

    fn counted(&self, counter: &prometheus::IntCounterVec, reason: &str) -> u64 {
        counter.with_label_values(&["one", reason]).get()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_in_the_order_of_the_spool() {
    let bench = Bench::open();
    let running = bench.start("one", |_, _| Verdict::Confirm);
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.extend(bench.push(["1001", "1002", "1003"][n % 3], 1 + n % 4).await);
    }
    bench.cursor_at("one", 31).await;
    assert_eq!(running.ids(), ids);
    for agent in ["1001", "1002", "1003"] {
        let book = running.book();
        let sequences: Vec<_> = book.seen.iter().filter(|s| s.agent == agent).map(|s| s.sequence).collect();
        assert_eq!(sequences, (0..sequences.len() as u64).collect::<Vec<_>>(), "{agent}");
    }
    assert_eq!(bench.metrics.sink_delivered.with_label_values(&["one"]).get(), ids.len() as u64);
    bench.close().await;
    assert!(running.ended().await.lock().unwrap().closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_passes_a_record_only_when_all_before_it_are_confirmed() {
    let bench = Bench::open();
    let running = bench.start("one", |_, _| Verdict::Hold);
    bench.push("1001", 2).await;
    bench.push_singles(2).await;
    running.published(4).await;
    for late in [1, 2, 3] {
        running.confirm(late);
    }
    // What is published after that shows that the worker has gone round.
    bench.push_singles(1).await;
    running.published(5).await;
    assert_eq!(bench.cursor("one"), 1);
    running.confirm(0);
    bench.cursor_at("one", 4).await;
    running.confirm(4);
    bench.cursor_at("one", 5).await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_everything_from_the_cursor_on_comes_again_with_the_same_ids() {
    let bench = Bench::open();
    let ids = bench.push_singles(6).await;
    let third = ids[2].clone();
    let running = bench.start("one", move |seen, before| match seen.id == third && before == 0 {
        true => Verdict::Fail(DeliveryError::retry("connection", "lost")),
        false => Verdict::Confirm,
    });
    bench.cursor_at("one", 7).await;
    assert_eq!(running.book().resets, 1);
    let lives = |life: usize| {
        let book = running.book();
        book.seen.iter().filter(|seen| seen.life == life).map(|seen| seen.id.clone()).collect::<Vec<_>>()
    };
    assert!(ids.starts_with(&lives(0)) && lives(0).len() >= 3, "in order until it was noticed");
    assert_eq!(lives(1), ids[2..], "again from the cursor");
    assert_eq!(bench.counted(&bench.metrics.sink_retries, "connection"), 1);
    assert_eq!(bench.state("one"), 1);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_go_yet_is_tried_alone_and_the_window_opens_again_with_answers() {
    let bench = Bench::open();
    bench.push_singles(10).await;
    let running = bench.start("one", |_, _| Verdict::Hold);
    let fail_first = || {
        let first = running.book().held[0].take().expect("it is held");
        first.send(Err(DeliveryError::retry("unknown_topic", ""))).expect("the worker waits");
    };
    let in_life = |life: usize| running.book().seen.iter().filter(|seen| seen.life == life).count();
    running.published(10).await;
    for life in 0..3 {
        fail_first();
        until("the next try", || in_life(life + 1) == 1).await;
    }
    assert_eq!([0, 1, 2].map(in_life), [10, 1, 1]);
    let again = bench.metrics.sink_published_again.with_label_values(&["one"]);
    assert_eq!(again.get(), 3);
    // One answer makes room for two.
    running.confirm(0);
    until("two more", || in_life(3) == 3).await;
    fail_second(&running);
    until("the next try", || in_life(4) == 1).await;
    assert_eq!((in_life(3), again.get()), (3, 6));
    running.confirm(0);
    for index in 1..9 {
        until("the next", || running.book().held.len() > index).await;
        running.confirm(index);
    }
    bench.cursor_at("one", 11).await;
    bench.close().await;
    running.ended().await;
}

/// What comes after the first of this life fails.
fn fail_second(running: &Running) {
    let second = running.book().held[1].take().expect("it is held");
    second.send(Err(DeliveryError::retry("connection", ""))).expect("the worker waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_made_anew_at_the_end_of_the_wait_and_not_before() {
    let bench = Bench::open();
    bench.push_singles(1).await;
    let stop = bench.stop.clone();
    let running = bench.start("one", move |_, _| {
        stop.cancel();
        Verdict::Fail(DeliveryError::retry("connection", "lost"))
    });
    let book = running.ended().await;
    let seen = {
        let book = book.lock().unwrap();
        (book.seen.len(), book.resets, book.closed)
    };
    assert_eq!(seen, (1, 0, true));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_while_there_is_nothing_to_deliver_is_noted_and_changes_nothing_else() {
    let mut bench = Bench::open();
    bench.trouble = Some(DeliveryError::retry("connection", "away"));
    let running = bench.start("one", |_, _| Verdict::Confirm);
    until("it is noted", || bench.troubles.of("one").is_some()).await;
    assert_eq!(bench.counted(&bench.metrics.sink_failures, "connection"), 1);
    bench.push_singles(1).await;
    bench.cursor_at("one", 2).await;
    assert_eq!((bench.state("one"), running.book().resets), (1, 0));
    bench.close().await;
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_takes_nothing_for_a_while_loses_nothing() {
    let bench = Bench::open();
    let ids = bench.push_singles(3).await;
    let mut left = 3;
    let running = bench.start("one", move |_, _| {
        left -= i32::from(left > 0);
        if left > 0 { Verdict::Refuse(DeliveryError::retry("connection", "away")) } else { Verdict::Confirm }
    });
    bench.cursor_at("one", 4).await;
    assert_eq!(running.book().resets, 2);
    assert_eq!(running.ids()[2..], ids, "each once when it is back");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_go_is_set_aside_and_the_rest_goes_on() {
    let bench = Bench::open();
    let ids = bench.push_singles(5).await;
    let (refused, failed) = (ids[1].clone(), ids[3].clone());
    let running = bench.start("one", move |seen, _| match &seen.id {
        id if *id == refused => Verdict::Refuse(DeliveryError::dead_letter("too_large", "by the client")),
        id if *id == failed => Verdict::Fail(DeliveryError::dead_letter("too_large", "by the broker")),
        _ => Verdict::Confirm,
    });
    bench.cursor_at("one", 6).await;
    assert_eq!(running.ids(), ids, "each was tried once");
    assert_eq!(running.book().resets, 0);
    let letters = bench.spool.dead_letters().unwrap();
    let found: Vec<_> =
        letters.iter().map(|l| (l.event_id.as_str(), l.spool_offset, l.detail.as_str())).collect();
    assert_eq!(found, [(ids[1].as_str(), 2, "by the client"), (ids[3].as_str(), 4, "by the broker")]);
    assert!(letters.iter().all(|l| l.sink == "one" && l.topic == "events.1001" && l.reason == "too_large"));
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letters, "too_large"), 2);
    assert_eq!(bench.metrics.sink_delivered.with_label_values(&["one"]).get(), 3);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_answers_again_is_delivered_to_though_it_refuses_for_good() {
    let refusal = || DeliveryError::dead_letter("too_large", "");
    for (copies, by_the_client, behind, state) in [
        // Of what the far end says the state follows at once, of what the client says it does not.
        (false, false, true, 1),
        (true, false, true, 1),
        (false, true, true, 0),
        // With nothing behind it nothing waits any more.
        (false, false, false, 1),
        (false, true, false, 1),
    ] {
        let mut bench = Bench::open();
        bench.copies = copies;
        let first = bench.push_singles(if behind { 2 } else { 1 }).await.remove(0);
        let running = bench.start("one", move |seen, before| match (seen.id == first, before, &seen.copy) {
            (false, ..) => Verdict::Hold,
            (true, 0, _) => Verdict::Fail(DeliveryError::retry("batch_too_large", "")),
            (true, _, Some(_)) => Verdict::Confirm,
            (true, ..) if by_the_client => Verdict::Refuse(refusal()),
            (true, ..) => Verdict::Fail(refusal()),
        });
        bench.cursor_at("one", 2).await;
        assert_eq!(bench.counted(&bench.metrics.sink_retries, "batch_too_large"), 1);
        if behind {
            assert_eq!(bench.state("one"), state, "copies: {copies}, by the client: {by_the_client}");
        } else {
            until("it delivers", || bench.state("one") == state).await;
        }
        bench.close().await;
        drop(running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_of_a_record_neither_comes_again_nor_ends_the_trouble_with_the_rest_of_it() {
    let lost = || DeliveryError::retry("connection", "");
    for set_aside in [false, true] {
        let bench = Bench::open();
        let ids = bench.push("1001", 2).await;
        let first = ids[0].clone();
        let state = bench.metrics.sink_state.with_label_values(&["one"]);
        let states = Arc::new(Mutex::new(Vec::new()));
        let running = bench.start("one", {
            let states = states.clone();
            move |seen, before| {
                states.lock().unwrap().push(state.get());
                match seen.id == first {
                    true if set_aside => Verdict::Fail(DeliveryError::dead_letter("too_large", "")),
                    false if before < 4 => Verdict::Fail(lost()),
                    _ => Verdict::Confirm,
                }
            }
        });
        bench.cursor_at("one", 2).await;
        assert_eq!(running.ids(), [0, 1, 1, 1, 1, 1].map(|index| ids[index].clone()));
        assert_eq!(*states.lock().unwrap(), [1, 1, 0, 0, 0, 0]);
        until("it delivers", || bench.state("one") == 1).await;
        let letters = bench.spool.dead_letters().unwrap();
        assert_eq!(letters.len(), usize::from(set_aside));
        assert_eq!(bench.counted(&bench.metrics.sink_dead_letters, "too_large"), letters.len() as u64);
        bench.close().await;
        running.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_waits_for_the_copy_of_a_dead_letter_and_the_copy_is_tried_like_an_event() {
    let mut bench = Bench::open();
    bench.copies = true;
    let ids = bench.push_singles(3).await;
    let second = ids[1].clone();
    let mut tries = 0;
    let running = bench.start("one", move |seen, _| match &seen.copy {
        None if seen.id == second => Verdict::Fail(DeliveryError::dead_letter("not_authorised", "")),
        None => Verdict::Confirm,
        Some(_) => {
            tries += 1;
            if tries == 1 { Verdict::Fail(DeliveryError::retry("connection", "")) } else { Verdict::Hold }
        }
    });
    let copies =
        |book: &Book| book.seen.iter().filter(|seen| seen.copy.is_some()).cloned().collect::<Vec<_>>();
    until("two tries of the copy", || copies(&running.book()).len() == 2).await;
    assert_eq!(bench.spool.dead_letters().unwrap().len(), 1, "stored once, and before the copy is confirmed");
    assert_eq!((bench.cursor("one"), running.book().resets), (2, 1));
    running.confirm(0);
    bench.cursor_at("one", 4).await;
    for copy in copies(&running.book()) {
        assert_eq!((copy.id.as_str(), copy.topic.as_str()), (ids[1].as_str(), "copies"));
        assert_eq!(copy.copy, Some(("not_authorised", "events.1001".to_owned())));
    }
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letter_copies, "confirmed"), 1);
    assert_eq!(bench.spool.dead_letters().unwrap()[0].attempts, 2);
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letters, "not_authorised"), 1, "one letter");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_record_was_given_up_meanwhile_is_no_dead_letter() {
    let bench = Bench::open();
    bench.push_singles(2).await;
    let running = bench.start("one", |_, _| Verdict::Hold);
    running.published(2).await;
    // As the spool does where it sheds.
    bench.spool.reader("one").unwrap().confirm(2);
    let refused = running.book().held[0].take().unwrap();
    refused.send(Err(DeliveryError::dead_letter("too_large", ""))).unwrap();
    running.confirm(1);
    bench.cursor_at("one", 3).await;
    assert!(bench.spool.dead_letters().unwrap().is_empty());
    assert_eq!(bench.counted(&bench.metrics.sink_failures, "too_large"), 1);
    bench.close().await;
    running.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_can_never_go_is_counted_and_given_up_and_of_a_large_event_it_has_no_content() {
    let mut bench = Bench::open();
    bench.copies = true;
    bench.push_with("1001", 1, r#"{"text":"a long story"}"#).await;
    bench.push_singles(1).await;
    let running = bench.start("one", move |seen, _| match seen.sequence {
        0 => Verdict::Refuse(DeliveryError::dead_letter("too_large", "")),
        _ => Verdict::Confirm,
    });
    bench.cursor_at("one", 3).await;
    let seen = running.book().seen.clone();
    let copies: Vec<_> = seen.iter().filter(|seen| seen.copy.is_some()).collect();
    assert_eq!((copies.len(), copies[0].content), (1, 0));
    assert!(seen[0].content > 0);
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letter_copies, "given_up"), 1);
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letters, "too_large"), 1);
    assert_eq!((bench.spool.dead_letters().unwrap().len(), running.book().resets), (1, 0));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_how_often_it_was_tried() {
    let bench = Bench::open();
    let ids = bench.push_singles(2).await;
    let first = ids[0].clone();
    bench.start("one", move |seen, before| match seen.id == first {
        true if before < 2 => Verdict::Fail(DeliveryError::retry("connection", "")),
        true => Verdict::Fail(DeliveryError::dead_letter("too_large", "")),
        false => Verdict::Confirm,
    });
    bench.cursor_at("one", 3).await;
    assert_eq!(bench.spool.dead_letters().unwrap()[0].attempts, 3);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_events_fill_the_window_by_their_bytes_and_small_ones_by_their_number() {
    let bench = Bench::open();
    let story = format!("\"{}\"", "x".repeat(1_000_000));
    for _ in 0..40 {
        bench.push_with("1001", 1, &story).await;
    }
    bench.push("1001", 2000).await;
    let running = bench.start_with("one", 1000, Duration::from_secs(30), |_, _| Verdict::Hold);
    // In a window of 16 MiB there is room for a seventeenth, and not for more.
    for confirmed in 0..40 {
        let huge = (confirmed + 17).min(40);
        running.published(huge).await;
        if huge < 40 {
            assert_eq!(running.book().seen.len(), huge, "the window is full");
        }
        running.confirm(confirmed);
    }
    running.published(1040).await;
    bench.cursor_at("one", 41).await;
    let in_flight = bench.metrics.sink_in_flight.with_label_values(&["one"]);
    until("a full window", || in_flight.get() == 1000).await;
    assert_eq!(running.book().seen.len(), 1040);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_set_aside_in_its_place_and_not_before_those_ahead_of_it_are_settled() {
    let bench = Bench::open();
    let ids = bench.push_singles(2).await;
    let second = ids[1].clone();
    let running = bench.start("one", move |seen, _| match seen.id == second {
        true => Verdict::Refuse(DeliveryError::dead_letter("too_large", "")),
        false => Verdict::Hold,
    });
    running.published(2).await;
    bench.push_singles(1).await;
    running.published(3).await;
    assert!(bench.spool.dead_letters().unwrap().is_empty());
    running.confirm(0);
    bench.cursor_at("one", 3).await;
    assert_eq!(bench.spool.dead_letters().unwrap().len(), 1);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_not_taken_blocks_what_is_behind_it_and_undoes_nothing_before_it() {
    let bench = Bench::open();
    let ids = bench.push_singles(4).await;
    let third = ids[2].clone();
    let running = bench.start("one", move |seen, _| match seen.id == third {
        true => Verdict::Refuse(DeliveryError::retry("too_large", "by the client")),
        false => Verdict::Hold,
    });
    running.published(3).await;
    bench.push_singles(1).await;
    running.confirm(0);
    running.confirm(1);
    bench.cursor_at("one", 3).await;
    until("two tries of the third", || running.ids().iter().filter(|id| **id == ids[2]).count() >= 2).await;
    assert!(running.ids().iter().all(|id| ids[..3].contains(id)), "nothing overtakes it");
    assert_eq!(running.ids().iter().filter(|id| **id == ids[0]).count(), 1);
    assert_eq!((bench.state("one"), bench.spool.dead_letters().unwrap().len()), (0, 0));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_needs_a_person_stops_alone_and_ends_with_the_daemon() {
    let bench = Bench::open();
    bench.push_singles(3).await;
    let broken = bench.start("one", |_, before| match before {
        0 => Verdict::Fail(DeliveryError::stop("authentication", "wrong password")),
        _ => Verdict::Confirm,
    });
    let other = bench.start("two", |_, _| Verdict::Confirm);
    until("state of one", || bench.state("one") == -1).await;
    bench.push_singles(2).await;
    bench.cursor_at("two", 6).await;
    assert_eq!((bench.state("two"), other.book().resets), (1, 0));
    assert_eq!((bench.cursor("one"), bench.state("one"), broken.book().resets), (1, -1, 0));
    assert!(!broken.task.is_finished(), "it waits for the stop");
    bench.stop.cancel();
    assert!(broken.ended().await.lock().unwrap().closed);
    assert!(other.ended().await.lock().unwrap().closed);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_stopped_has_nothing_in_flight() {
    let bench = Bench::open();
    let in_flight = bench.metrics.sink_in_flight.with_label_values(&["one"]);
    let broken = bench.start("one", |_, _| Verdict::Hold);
    bench.push_singles(3).await;
    until("three in flight", || in_flight.get() == 3).await;
    let ack = broken.book().held[0].take().expect("it is held");
    ack.send(Err(DeliveryError::stop("authentication", "wrong password"))).expect("the worker waits");
    until("state of one", || bench.state("one") == -1).await;
    until("nothing in flight", || in_flight.get() == 0).await;
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_whose_far_end_is_dead_slows_no_other() {
    let bench = Bench::open();
    let dead = bench.start_with("one", 10, Duration::from_millis(200), |_, _| Verdict::Hold);
    let two = bench.start("two", |_, _| Verdict::Confirm);
    let ids = bench.push_singles(200).await;
    bench.cursor_at("two", 201).await;
    assert_eq!(two.ids(), ids);
    assert_eq!((two.book().resets, bench.state("two"), bench.cursor("one")), (0, 1, 1));
    until("the dead one is seen to be dead", || dead.book().resets > 0 && bench.state("one") == 0).await;
    {
        let book = dead.book();
        assert!(book.seen.len() <= 10 * (book.resets + 1), "no more than its window at a time");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_counts_as_a_failure() {
    let bench = Bench::open();
    let ids = bench.push_singles(4).await;
    let running = bench.start_with("one", 100, Duration::from_millis(300), |seen, _| match seen.life {
        0 => Verdict::Hold,
        _ => Verdict::Confirm,
    });
    running.published(4).await;
    running.confirm(0);
    bench.cursor_at("one", 5).await;
    assert_eq!(running.book().resets, 1);
    assert_eq!(running.ids()[4..], ids[1..], "again from the cursor");
    assert_eq!(bench.counted(&bench.metrics.sink_retries, "stalled"), 1);
    // With nothing in flight silence is no failure.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(running.book().resets, 1);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_says_of_why_nothing_is_confirmed_is_shown_before_the_sink_counts_as_stalled() {
    let mut bench = Bench::open();
    bench.complaint = Some("connection refused");
    bench.push_singles(2).await;
    let running = bench.start("one", |_, _| Verdict::Hold);
    running.published(2).await;
    until("it is noted", || bench.troubles.of("one").is_some()).await;
    let noted = bench.troubles.of("one").unwrap();
    assert_eq!((noted.reason, noted.detail.as_str()), ("broker", "broker: connection refused"));
    assert_eq!((running.book().resets, bench.state("one")), (0, 1), "it goes on");
    let failures = bench.metrics.sink_failures.with_label_values(&["one", "broker"]).get();
    assert_eq!(failures, 0, "no delivery has failed");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_stalls_says_what_its_client_said() {
    let mut bench = Bench::open();
    bench.complaint = Some("no such host");
    bench.push_singles(1).await;
    let running = bench.start_with("one", 100, Duration::from_millis(50), |_, _| Verdict::Hold);
    until("it has stalled", || running.book().resets > 0).await;
    let noted = bench.troubles.of("one").unwrap();
    assert_eq!(
        (noted.reason, noted.detail.as_str()),
        ("stalled", "stalled: no confirmation for 0 s: no such host")
    );
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_events_than_the_window_are_in_flight() {
    let bench = Bench::open();
    let running = bench.start_with("one", 3, Duration::from_secs(30), |_, _| Verdict::Hold);
    bench.push("1001", 5).await;
    bench.push_singles(5).await;
    for confirmed in 0..7 {
        running.published(confirmed + 3).await;
        let in_flight = bench.metrics.sink_in_flight.with_label_values(&["one"]);
        until("three in flight", || in_flight.get() == 3).await;
        assert_eq!(running.book().seen.len(), confirmed + 3, "the window is full");
        running.confirm(confirmed);
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_what_is_in_flight_and_publishes_nothing_more() {
    let bench = Bench::open();
    let running = bench.start("one", |_, _| Verdict::Hold);
    bench.push_singles(2).await;
    running.published(2).await;
    bench.stop.cancel();
    bench.push_singles(1).await;
    running.confirm(0);
    bench.cursor_at("one", 2).await;
    assert!(!running.task.is_finished(), "one is still in flight");
    running.confirm(1);
    let book = running.ended().await;
    assert_eq!((bench.cursor("one"), book.lock().unwrap().seen.len()), (3, 2));
    assert!(book.lock().unwrap().closed);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_up_on_a_far_end_that_confirms_nothing() {
    let bench = Bench::open();
    // Far less than the stall time-out: that one would use up the grace period of the daemon.
    let running = bench.start_with("one", 100, Duration::from_secs(3600), |_, _| Verdict::Hold);
    bench.push_singles(2).await;
    running.published(2).await;
    bench.stop.cancel();
    let book = running.ended().await;
    assert!(book.lock().unwrap().closed);
    assert_eq!(bench.cursor("one"), 1, "what was not confirmed stays in the spool");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_goes_to_the_end_of_a_record_that_was_begun_unless_it_has_no_more_time() {
    for hurries in [false, true] {
        let bench = Bench::open();
        bench.push("1001", 10).await;
        bench.push_singles(1).await;
        let (stop, hurry) = (bench.stop.clone(), bench.hurry.clone());
        let running = bench.start_with("one", 1, Duration::from_secs(30), move |seen, _| {
            match seen.sequence {
                1 => stop.cancel(),
                3 if hurries => hurry.cancel(),
                _ => {}
            }
            Verdict::Confirm
        });
        let book = running.ended().await;
        let seen = book.lock().unwrap().seen.len();
        assert_eq!((seen, bench.cursor("one")), if hurries { (4, 1) } else { (10, 2) });
        assert!(book.lock().unwrap().closed);
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_up_on_a_client_that_takes_nothing() {
    for copies in [false, true] {
        let mut bench = Bench::open();
        bench.copies = copies;
        bench.push_singles(1).await;
        let running = bench.start("one", move |seen, _| match seen.copy.is_some() == copies {
            true => Verdict::Hang,
            false => Verdict::Fail(DeliveryError::dead_letter("too_large", "")),
        });
        running.published(1 + usize::from(copies)).await;
        bench.stop.cancel();
        let book = running.ended().await;
        assert!(book.lock().unwrap().closed);
        assert_eq!(bench.cursor("one"), 1, "what was not taken stays in the spool");
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_written_out_counts_as_a_failure_and_does_not_hold_a_stop() {
    let mut bench = Bench::open();
    bench.keeps = true;
    bench.push_singles(1).await;
    let stalls = || bench.counted(&bench.metrics.sink_retries, "stalled");
    let running = bench.start_with("one", 100, Duration::from_millis(100), |_, _| Verdict::Hold);
    until("a stall", || stalls() >= 1 && bench.state("one") == 0).await;
    bench.stop.cancel();
    assert!(running.ended().await.lock().unwrap().closed);
    let stalled = stalls();
    // Far more than a stop may take.
    bench.stop = CancellationToken::new();
    let running = bench.start_with("one", 100, Duration::from_secs(3600), |_, _| Verdict::Hold);
    running.published(1).await;
    bench.stop.cancel();
    assert!(running.ended().await.lock().unwrap().closed);
    assert_eq!((bench.counted(&bench.metrics.sink_retries, "stalled"), bench.cursor("one")), (stalled, 1));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_before_a_flush_failed_does_not_come_again() {
    let mut bench = Bench::open();
    bench.keeps = true;
    let ids = bench.push_singles(2).await;
    let running = bench.start_with("one", 100, Duration::from_millis(500), |_, _| Verdict::Hold);
    running.published(2).await;
    running.confirm(0);
    running.published(3).await;
    assert_eq!((running.ids()[2].as_str(), bench.cursor("one")), (ids[1].as_str(), 2));
    bench.stop.cancel();
    assert!(running.ended().await.lock().unwrap().closed);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_up_on_a_client_that_cannot_be_made_anew() {
    let mut bench = Bench::open();
    bench.hangs = true;
    bench.push_singles(1).await;
    let running = bench.start("one", |_, _| Verdict::Fail(DeliveryError::retry("connection", "lost")));
    until("a reset", || running.book().resets == 1).await;
    bench.stop.cancel();
    assert!(running.ended().await.lock().unwrap().closed);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_wait_between_tries_at_once() {
    let bench = Bench::open();
    bench.push_singles(1).await;
    let running = bench.start("one", |_, _| Verdict::Refuse(DeliveryError::retry("connection", "away")));
    // After a few tries the waits are seconds long.
    running.published(4).await;
    let began = Instant::now();
    bench.stop.cancel();
    running.ended().await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(bench.cursor("one"), 1);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_set_aside_whole_and_a_record_without_events_passes() {
    let bench = Bench::open();
    let first = bench.push("1001", 1).await;
    bench.push_with("1001", 2, "\"damaged!\"").await;
    assert!(bench.push("1001", 0).await.is_empty());
    let last = bench.push("1001", 1).await;
    // What was stored a moment ago would be delivered from memory. While the spool is open: it does not open on damage.
    let bench = Bench::open_in(bench.close().await);
    let before = r#""eventList":[{"eventType":"AgentState_Ready","content":""#;
    let (path, at) = place_of(bench.folder.path(), &format!("{before}damaged!"));
    flip(&path, at + before.len());
    let running = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 5).await;
    assert_eq!(running.ids(), [first, last].concat());
    let letters = bench.spool.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].spool_offset, letters[0].reason.as_str()), (2, "unreadable"));
    assert!(letters[0].detail.contains("checksum"), "{}", letters[0].detail);
    assert_eq!(bench.counted(&bench.metrics.sink_dead_letters, "unreadable"), 1);
    // What is left of it is there for people, and is not taken for what was stored.
    let letter = only_letter(&bench).await;
    assert_eq!(letter.events(bench.spool.id()), Err("checksum mismatch".to_owned()));
    let shown = letter.shown(bench.spool.id(), &Unhidden);
    assert_eq!(shown["record"]["body"]["eventList"][0]["content"], "eamaged!", "{shown}");
    assert_eq!(shown["deadLetter"]["agentId"], serde_json::Value::Null, "{shown}");
    let exported = letter.exported(bench.spool.id(), &Unhidden);
    assert_eq!(exported[0]["body"]["eventList"][0]["content"], "eamaged!", "{exported:?}");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_this_release_does_not_understand_is_kept_as_it_is() {
    let bench = Bench::open();
    bench.push_with("1001", 1, "\"of a later release\"").await;
    let last = bench.push("1001", 1).await;
    let bench = Bench::open_in(bench.close().await);
    let (path, at) = place_of(bench.folder.path(), "of a later release");
    change(&path, |bytes| {
        let place = record_around(bytes, at);
        let record = &mut bytes[place];
        record[12] = 99;
        seal(record);
    });
    let running = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 3).await;
    assert_eq!(running.ids(), last);
    let letter = only_letter(&bench).await;
    assert_eq!(letter.events(bench.spool.id()), Err("unknown kind".to_owned()), "its checksum is right");
    let shown = letter.shown(bench.spool.id(), &Unhidden);
    assert_eq!(shown["record"]["body"]["eventList"][0]["content"], "of a later release", "{shown}");
    assert_eq!(shown["deadLetter"]["agentId"], "1001", "{shown}");
    bench.close().await;
}

async fn only_letter(bench: &Bench) -> Letter {
    let letters = bench.spool.letters(LetterFilter::default(), 0, 2).await.unwrap();
    assert_eq!(letters.len(), 1);
    bench.spool.letter(letters[0].id).await.unwrap().expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_each_sink_goes_on_from_its_own_stored_cursor() {
    let bench = Bench::open();
    let ids = bench.push_singles(3).await;
    let one = bench.start("one", |_, _| Verdict::Confirm);
    let two = bench.start("two", |_, _| Verdict::Hold);
    bench.cursor_at("one", 4).await;
    two.published(3).await;
    two.confirm(0);
    bench.cursor_at("two", 2).await;
    bench.stop.cancel();
    one.ended().await;
    two.task.abort();
    let bench = Bench::open_in(bench.close().await);
    let more = bench.push_singles(2).await;
    let one = bench.start("one", |_, _| Verdict::Confirm);
    let two = bench.start("two", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 6).await;
    bench.cursor_at("two", 6).await;
    assert_eq!(one.ids(), more);
    assert_eq!(
        two.ids(),
        [&ids[1..], &more[..]].concat(),
        "what was not confirmed comes again with the same ids"
    );
    bench.close().await;
}

/// A spool with so many records of one event, none of them in memory any more, and the ids of the events.
async fn backlog(records: u64) -> (Bench, Vec<String>) {
    let bench = Bench::open();
    futures_util::future::join_all((0..records).map(|_| bench.push("1001", 1))).await;
    let bench = Bench::open_in(bench.close().await);
    let ids = (1..=records).map(|offset| format!("{}-{offset}-0", bench.spool.id())).collect();
    (bench, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_several_readings_behind_gets_each_event_in_order_also_after_a_failure() {
    let records = 2 * READ_RECORDS + 300;
    let (bench, ids) = backlog(records as u64).await;
    let fails = ids[READ_RECORDS + 200].clone();
    let running = bench.start("one", move |seen, before| match seen.id == fails && before == 0 {
        true => Verdict::Fail(DeliveryError::retry("connection", "lost")),
        false => Verdict::Confirm,
    });
    bench.cursor_at("one", records as u64 + 1).await;
    let seen = running.ids();
    let first = running.book().seen.iter().filter(|seen| seen.life == 0).count();
    assert!(first > READ_RECORDS + 200);
    assert_eq!(seen[..first], ids[..first], "in order until it was noticed");
    assert_eq!(seen[first..], ids[READ_RECORDS + 200..], "again from the cursor");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_before_it_is_read_is_not_delivered() {
    let records = 2 * READ_RECORDS;
    let (bench, ids) = backlog(records as u64).await;
    let mut seen = 0;
    let running = bench.start_with("one", 10, Duration::from_secs(30), move |_, _| {
        seen += 1;
        if seen <= 10 { Verdict::Hold } else { Verdict::Confirm }
    });
    running.published(10).await;
    // As a full spool does for a sink that sheds, while another one still needs the records.
    let kept = READ_RECORDS + 100;
    bench.spool.reader("one").unwrap().confirm(kept as u64 + 1);
    (0..10).for_each(|held| running.confirm(held));
    bench.cursor_at("one", records as u64 + 1).await;
    let expected = [&ids[..READ_RECORDS], &ids[kept..]].concat();
    assert_eq!(running.ids(), expected, "but for those that were read already");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_published_with_the_first_ids_or_left_out_and_counted() {
    for (repeats, published, dropped) in [(Repeats::Publish, 7, 0), (Repeats::Drop, 4, 3)] {
        let mut bench = Bench::open();
        bench.repeats = repeats;
        let event = |n| format!(r#"{{"eventType":"AgentEvent_MessageData","content":"{n}"}}"#);
        // One, then the same with another at its end, then exactly that again, then what is new.
        for (seconds, contents) in [(0, &[1][..]), (10, &[1, 2]), (20, &[1, 2]), (30, &[3, 4])] {
            let list: Vec<_> = contents.iter().map(event).collect();
            let record = NewRecord {
                kind: RecordKind::Push,
                received_at: Timestamp(1_795_491_900_000 + seconds * 1000),
                agent: AgentKey {
                    gateway: GatewayName::parse("main").unwrap(),
                    agent_id: AgentId::parse("1001").unwrap(),
                },
                body: Bytes::from(format!(r#"{{"workNo":"1001","eventList":[{}]}}"#, list.join(","))),
                answer: None,
            };
            bench.spool.append(record).await.unwrap();
        }
        let worker = bench.start("one", |_, _| Verdict::Confirm);
        until("all confirmed", || bench.spool.reader("one").unwrap().cursor() == 5).await;
        let mut ids = worker.ids();
        assert_eq!(ids.len(), published, "{ids:?}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4, "each of the four events is there: {ids:?}");
        assert_eq!(bench.metrics.sink_repeats_dropped.with_label_values(&["one"]).get(), dropped);
        bench.close().await;
        worker.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_which_nothing_is_routed_here_are_passed_over_and_counted() {
    let mut bench = Bench::open();
    bench.router = Some(only_agents_of("1001"));
    let mut ids = bench.push("1001", 2).await;
    bench.push("1002", 3).await;
    ids.extend(bench.push("1001", 1).await);
    bench.push("1002", 1).await;
    let routed = bench.start("one", |_, _| Verdict::Confirm);
    bench.cursor_at("one", 5).await;
    assert_eq!(routed.ids(), ids);
    assert_eq!(bench.metrics.sink_unrouted.with_label_values(&["one"]).get(), 4);
    assert_eq!(bench.metrics.sink_delivered.with_label_values(&["one"]).get(), 3);
    assert_eq!(bench.metrics.sink_unrouted.with_label_values(&["two"]).get(), 0);
    bench.close().await;
    routed.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_event_that_no_route_speaks_of_the_state_goes_where_it_is_retained_and_is_no_dead_letter() {
    let mut bench = Bench::open();
    bench.router = Some(only(Subject::Categories, Pattern::text("call").unwrap()));
    (bench.retains_states, bench.copies) = (true, true);
    // Of each agent the first event changes the state, from unknown to ready.
    bench.push("1001", 2).await;
    bench.push("1002", 1).await;
    let refused = |seen: &Seen, _| match &*seen.agent {
        "1002" => Verdict::Fail(DeliveryError::dead_letter("not_authorised", "")),
        _ => Verdict::Confirm,
    };
    let running = bench.start("one", refused);
    bench.cursor_at("one", 3).await;
    let topics: Vec<_> = running.book().seen.iter().map(|seen| seen.topic.clone()).collect();
    assert_eq!(topics, ["state.1001", "state.1002"]);
    assert_eq!(bench.counted(&bench.metrics.sink_failures, "not_authorised"), 1);
    assert_eq!(bench.spool.dead_letters().unwrap(), []);
    assert_eq!(bench.metrics.sink_unrouted.with_label_values(&["one"]).get(), 3);
    assert_eq!(bench.metrics.sink_delivered.with_label_values(&["one"]).get(), 0);
    bench.close().await;
    running.ended().await;
}

/// Events of this agent go to one topic, and no others anywhere.
fn only_agents_of(agent: &str) -> Router {
    only(Subject::Agents, Pattern::agents(agent).unwrap())
}

/// Events that fit go to one topic, and no others anywhere.
fn only(subject: Subject, pattern: Pattern) -> Router {
    let conditions: Arc<[Condition]> = [Condition { subject, any_of: vec![pattern] }].into();
    let topic = TopicTemplate::parse("chosen", TopicRules::Free).unwrap();
    let target = Some(Target { topic, mask: Arc::default() });
    Router::new(vec![Rule { name: "chosen".into(), conditions, target }], None, Arc::default())
}

mod long_lists;
mod traces;

mod replays {
    use super::*;
    use crate::spool::LetterFilter;

    fn too_large() -> Verdict {
        Verdict::Fail(DeliveryError::dead_letter("too_large", "message is too large"))
    }

    async fn without_letters(bench: &Bench) {
        until("no dead letters", || bench.spool.dead_letters().unwrap().is_empty()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_letter_is_delivered_again_with_its_id_beside_new_events_and_then_is_none() {
        let bench = Bench::open();
        let ids = bench.push("1001", 2).await;
        let worker = bench.start("one", |seen, before| {
            if seen.sequence == 0 && before == 0 { too_large() } else { Verdict::Confirm }
        });
        until("a dead letter", || bench.spool.dead_letters().unwrap().len() == 1).await;
        assert_eq!(bench.spool.replay_letters(LetterFilter::default()).await.unwrap(), 1);
        without_letters(&bench).await;
        let more = bench.push("1001", 1).await;
        worker.published(4).await;
        assert_eq!(worker.ids(), [&ids[0], &ids[1], &ids[0], &more[0]].map(Clone::clone));
        let replays = &bench.metrics.replays;
        assert_eq!(replays.with_label_values(&["one", "delivered"]).get(), 1);
        assert_eq!(worker.book().resets, 0);
        bench.close().await;
        worker.ended().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_letter_that_no_route_sends_here_any_more_stays_and_says_so() {
        let mut bench = Bench::open();
        bench.push("1001", 1).await;
        let worker = bench.start("one", |_, _| too_large());
        until("a dead letter", || bench.spool.dead_letters().unwrap().len() == 1).await;
        bench.stop.cancel();
        worker.ended().await;
        bench.stop = CancellationToken::new();
        bench.router = Some(only_agents_of("1002"));
        bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
        let worker = bench.start("one", |_, _| Verdict::Confirm);
        until("it says so", || bench.spool.dead_letters().unwrap()[0].reason == "not_routed").await;
        assert!(worker.ids().is_empty());
        bench.close().await;
        worker.ended().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_letter_that_fails_again_stays_with_one_attempt_more() {
        let bench = Bench::open();
        bench.push("1001", 1).await;
        let worker = bench.start("one", |_, before| if before < 2 { too_large() } else { Verdict::Confirm });
        until("a dead letter", || bench.spool.dead_letters().unwrap().len() == 1).await;
        for attempts in [2, 3] {
            assert_eq!(bench.spool.dead_letters().unwrap()[0].attempts, attempts - 1);
            bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
            if attempts == 2 {
                until("another attempt", || bench.spool.dead_letters().unwrap()[0].attempts == attempts)
                    .await;
            }
        }
        without_letters(&bench).await;
        assert_eq!(worker.book().seen.len(), 3);
        bench.close().await;
        worker.ended().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replay_under_way_when_the_client_or_the_daemon_goes_is_made_again() {
        let bench = Bench::open();
        let ids = bench.push("1001", 1).await;
        let worker = bench.start("one", |_, before| match before {
            0 => too_large(),
            1 => Verdict::Fail(DeliveryError::retry("away", "connection lost")),
            _ => Verdict::Hold,
        });
        until("a dead letter", || bench.spool.dead_letters().unwrap().len() == 1).await;
        bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
        worker.published(3).await;
        assert_eq!(worker.book().resets, 1);
        assert_eq!(bench.spool.dead_letters().unwrap().len(), 1, "it is not confirmed");
        worker.task.abort();
        let bench = Bench::open_in(bench.close().await);
        let worker = bench.start("one", |_, _| Verdict::Confirm);
        without_letters(&bench).await;
        assert_eq!(worker.ids(), ids);
        bench.close().await;
        worker.ended().await;
    }

    /// The letter of this record, which was set aside whole.
    fn whole(spool_offset: u64) -> DeadLetter {
        DeadLetter {
            sink: "one".to_owned(),
            spool_offset,
            event_id: String::new(),
            topic: String::new(),
            reason: "unreadable".to_owned(),
            detail: "not by the release before".to_owned(),
            at: Timestamp(1),
            attempts: 1,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_set_aside_whole_leaves_its_events_that_fail_as_letters_of_their_own() {
        let bench = Bench::open();
        let ids = bench.push("1001", 2).await;
        bench.spool.dead_letter(whole(1)).await.unwrap();
        bench.spool.reader("one").unwrap().confirm(2);
        bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
        let worker =
            bench.start("one", |seen, _| if seen.sequence == 0 { too_large() } else { Verdict::Confirm });
        until("the letter of one event", || {
            let letters = bench.spool.dead_letters().unwrap();
            letters.len() == 1 && letters[0].event_id == ids[0]
        })
        .await;
        assert_eq!(worker.ids(), ids);
        bench.close().await;
        worker.ended().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_that_is_replayed_whole_brings_nothing_again_of_the_record_at_the_cursor() {
        let bench = Bench::open();
        let replayed = bench.push("1001", 2).await;
        let ids = bench.push("1002", 2).await;
        bench.spool.dead_letter(whole(1)).await.unwrap();
        bench.spool.reader("one").unwrap().confirm(2);
        let last = ids[1].clone();
        let worker = bench.start("one", move |seen, before| match before {
            0 if seen.id == last => Verdict::Hold,
            1 if seen.id == last => Verdict::Fail(DeliveryError::retry("connection", "lost")),
            _ => Verdict::Confirm,
        });
        worker.published(2).await;
        bench.spool.replay_letters(LetterFilter::default()).await.unwrap();
        let held = worker.book().held[0].take().expect("it is held");
        held.send(Err(DeliveryError::retry("connection", "lost"))).expect("the worker waits");
        bench.cursor_at("one", 3).await;
        without_letters(&bench).await;
        let seen = worker.ids();
        let count = |id: &String| seen.iter().filter(|seen| *seen == id).count();
        assert_eq!((count(&ids[0]), count(&ids[1])), (1, 3), "{seen:?}");
        assert!(replayed.iter().all(|id| count(id) >= 1), "{seen:?}");
        bench.close().await;
        worker.ended().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sink_waits_while_there_is_no_room_for_its_dead_letter() {
        let limits = SpoolLimits { max_dead_letter_bytes: 1, ..SpoolLimits::default() };
        let bench = Bench::limited(TempDir::new().unwrap(), limits);
        let ids = [bench.push("1001", 1).await, bench.push("1001", 2).await].concat();
        let worker =
            bench.start("one", |seen, _| if seen.sequence < 2 { too_large() } else { Verdict::Confirm });
        let waited = || bench.counted(&bench.metrics.sink_retries, "dead_letter_storage") > 0;
        until("the sink waits", waited).await;
        assert_eq!(bench.state("one"), 0);
        assert_eq!(bench.spool.dead_letters().unwrap().len(), 1);
        assert_eq!(
            bench.spool.reader("one").unwrap().cursor(),
            2,
            "it has not passed what it could not set aside"
        );
        bench.spool.discard_letters(LetterFilter::default()).await.unwrap();
        until("it goes on", || bench.spool.reader("one").unwrap().cursor() == 3).await;
        assert_eq!(bench.spool.dead_letters().unwrap()[0].event_id, ids[1]);
        assert_eq!(worker.ids().last(), ids.last());
        bench.close().await;
        worker.ended().await;
    }
}
