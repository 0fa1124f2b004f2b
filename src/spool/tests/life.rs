//! Random lives of a spool with two sinks, one of which sheds, and with dead letters, against a model in memory; and copies
//! taken in the middle of writing.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Clone)]
enum Deed {
    Append(u8),
    Confirm(usize, u8),
    SetAside(usize, u8),
    Replay(usize),
    Settle(bool),
    Discard(usize),
    Crash,
    Restart,
}

const NAMES: [&str; 2] = ["bus", "wall"];

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let sink = 0..2usize;
    let deed = prop_oneof![
        6 => (1..30u8).prop_map(Deed::Append),
        3 => (sink.clone(), any::<u8>()).prop_map(|(sink, part)| Deed::Confirm(sink, part)),
        3 => (sink.clone(), any::<u8>()).prop_map(|(sink, part)| Deed::SetAside(sink, part)),
        2 => sink.clone().prop_map(Deed::Replay),
        3 => any::<bool>().prop_map(Deed::Settle),
        1 => sink.prop_map(Deed::Discard),
        1 => Just(Deed::Crash),
        1 => Just(Deed::Restart),
    ];
    proptest::collection::vec(deed, 1..25)
}

fn open_both(folder: &Path) -> (Spool, SpoolThreads) {
    let limits = SpoolLimits { max_bytes: 300_000, ..SpoolLimits::default() };
    let sinks = [WhenFull::Block, WhenFull::Shed];
    let sinks: Vec<_> =
        NAMES.iter().zip(sinks).map(|(name, when_full)| SinkStart { when_full, ..sink(name) }).collect();
    let metrics = Metrics::new([], NAMES.map(|name| (name, &[][..]))).unwrap();
    Spool::open(limited(folder, limits), &sinks, metrics, Clock::system()).unwrap()
}

/// What the spool must hold: every record by its offset, and for each letter its attempts and whether it waits.
#[derive(Default)]
struct Model {
    bodies: BTreeMap<u64, Bytes>,
    confirmed: [u64; 2],
    letters: BTreeMap<(String, u64), (u32, bool)>,
}

impl Model {
    fn next(&self) -> u64 {
        self.bodies.len() as u64 + 1
    }

    async fn check(&self, spool: &Spool) {
        let bus = spool.reader("bus").unwrap().cursor();
        assert!(bus <= self.confirmed[0].max(1), "a sink that blocks gets every record");
        for name in NAMES {
            let reader = spool.reader(name).unwrap();
            let from = reader.cursor();
            let found: Vec<_> = reader
                .read(from, 100_000, usize::MAX)
                .await
                .unwrap()
                .into_iter()
                .map(|record| match record {
                    ReadRecord::Good(record) => (record.offset, record.body),
                    ReadRecord::Damaged { offset, fault } => panic!("record {offset}: {fault}"),
                })
                // The sink that sheds may have given up some between the two looks.
                .filter(|(offset, _)| *offset >= reader.cursor())
                .collect();
            let from = from.max(reader.cursor());
            let expected: Vec<_> = self.bodies.range(from..).map(|(at, body)| (*at, body.clone())).collect();
            assert_eq!(found, expected, "{name} from {from}");
        }
        let letters = spool.letters(LetterFilter::default(), 0, 10_000).await.unwrap();
        let letters: BTreeMap<_, _> = letters
            .into_iter()
            .map(|l| ((l.letter.sink, l.letter.spool_offset), (l.letter.attempts, l.replaying)))
            .collect();
        assert_eq!(letters, self.letters);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]
    #[test]
    fn a_random_life_keeps_every_record_and_letter_that_it_owes(deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(live_through(deeds));
    }
}

async fn live_through(deeds: Vec<Deed>) {
    let mut folder = TempDir::new().unwrap();
    let (mut spool, mut threads) = open_both(folder.path());
    let mut model = Model::default();
    for deed in deeds {
        match deed {
            Deed::Append(count) => {
                for _ in 0..count {
                    let record =
                        push(&(1000 + model.next() % 3).to_string(), &[&"x".repeat(3_000)], model.next());
                    let body = record.body.clone();
                    match spool.append(record).await {
                        Ok(appended) => {
                            assert_eq!(appended.offset, model.next());
                            model.bodies.insert(appended.offset, body);
                        }
                        Err(error) => assert_eq!(error, AppendError::Full),
                    }
                }
            }
            Deed::Confirm(at, part) => {
                let reader = spool.reader(NAMES[at]).unwrap();
                let to = reader.cursor() + (model.next() - reader.cursor()) * u64::from(part) / 255;
                reader.confirm(to);
                model.confirmed[at] = model.confirmed[at].max(to);
            }
            Deed::SetAside(at, part) => {
                let offset = 1 + (model.next() - 1) * u64::from(part) / 256;
                let letter = DeadLetter {
                    sink: NAMES[at].to_owned(),
                    spool_offset: offset,
                    event_id: format!("{}-{offset}-0", spool.id()),
                    topic: String::new(),
                    reason: "too_large".to_owned(),
                    detail: String::new(),
                    at: Timestamp(offset),
                    attempts: 1,
                };
                spool.dead_letter(letter).await.unwrap();
                model.letters.entry((NAMES[at].to_owned(), offset)).or_insert((1, false));
            }
            Deed::Replay(at) => {
                let filter = LetterFilter { sink: Some(NAMES[at].to_owned()), ..LetterFilter::default() };
                let mine = model.letters.iter_mut().filter(|((sink, _), _)| sink == NAMES[at]);
                let mut asked = 0;
                for (_, (_, replaying)) in mine {
                    asked += u64::from(!*replaying);
                    *replaying = true;
                }
                assert_eq!(spool.replay_letters(filter).await.unwrap(), asked);
            }
            Deed::Settle(delivered) => {
                for name in NAMES {
                    let first = spool.reader(name).unwrap().replays(0, 1).await.unwrap().pop();
                    let Some(Replay { letter, .. }) = first else {
                        assert!(model.letters.iter().all(|((sink, _), (_, waits))| sink != name || !waits));
                        continue;
                    };
                    let key = (name.to_owned(), letter.stored.letter.spool_offset);
                    let outcome = if delivered {
                        model.letters.remove(&key);
                        Replayed::Delivered
                    } else {
                        let known = model.letters.get_mut(&key).expect("the model has it");
                        *known = (known.0 + 1, false);
                        let (reason, detail, at) = ("no".to_owned(), String::new(), Timestamp(7));
                        Replayed::Failed { reason, detail, at, attempts: 1 }
                    };
                    spool.settle_replay(letter.stored.id, outcome).await.unwrap();
                }
            }
            Deed::Discard(at) => {
                let filter = LetterFilter { sink: Some(NAMES[at].to_owned()), ..LetterFilter::default() };
                spool.discard_letters(filter).await.unwrap();
                model.letters.retain(|(sink, _), _| sink != NAMES[at]);
            }
            Deed::Crash | Deed::Restart => {
                let copy = crash_copy(folder.path());
                close(spool, threads).await;
                if matches!(deed, Deed::Crash) {
                    folder = copy;
                }
                (spool, threads) = open_both(folder.path());
            }
        }
        model.check(&spool).await;
    }
    close(spool, threads).await;
}

/// Files that are copied one after the other are no moment that ever was. What matters is that such a copy is either whole
/// or known to be none.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_taken_while_it_writes_has_every_acknowledged_record_or_is_refused() {
    let folder = TempDir::new().unwrap();
    let (spool, threads) = open(config(folder.path()), &["kafka"]);
    let mut producers = tokio::task::JoinSet::new();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for producer in 0..4u64 {
        let (spool, stop) = (spool.clone(), stop.clone());
        producers.spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                spool.append(push(&(1001 + producer).to_string(), &[&n.to_string()], n)).await.unwrap();
                n += 1;
            }
        });
    }
    let mut end = spool.end();
    for _ in 0..8 {
        let acknowledged = *end.wait_for(|end| *end > 100).await.unwrap();
        let copy = crash_copy(folder.path());
        let copied = Spool::open(
            config(copy.path()),
            &[sink("kafka")],
            Metrics::new([], []).unwrap(),
            Clock::system(),
        );
        match copied {
            Ok((copied, its_threads)) => {
                let records = read_all(&copied.reader("kafka").unwrap()).await;
                let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
                assert_eq!(offsets, (1..=offsets.len() as u64).collect::<Vec<_>>());
                assert!(offsets.len() as u64 >= acknowledged - 1, "{} of {acknowledged}", offsets.len());
                close(copied, its_threads).await;
            }
            Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{error}"),
        }
    }
    stop.store(true, Ordering::Release);
    producers.join_all().await;
    let copy = crash_copy(folder.path());
    let count = *end.borrow_and_update() - 1;
    close(spool, threads).await;
    let (copied, its_threads) = open(config(copy.path()), &["kafka"]);
    assert_eq!(read_all(&copied.reader("kafka").unwrap()).await.len() as u64, count);
    close(copied, its_threads).await;
}
