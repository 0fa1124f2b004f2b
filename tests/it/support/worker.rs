//! What the delivery worker does, in small: a window of acks, and go-back-N after every retry.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use ccrelay::sink::{Ack, DeliveryError, Disposition, Message, Sink};
use tokio::sync::watch;

/// What became of the messages.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Reason of each return to the cursor.
    pub(crate) retries: Vec<&'static str>,
    /// Ids and reasons.
    pub(crate) dead_letters: Vec<(String, &'static str)>,
}

/// Delivers `messages` through `sink`, and tells `progress` how many are settled.
pub(crate) async fn deliver(
    sink: &mut dyn Sink,
    messages: &[Message],
    window: usize,
    progress: &watch::Sender<usize>,
) -> Report {
    let mut report = Report::default();
    let mut acks: VecDeque<Ack> = VecDeque::new();
    let (mut settled, mut next, mut blocked) = (0, 0, false);
    while settled < messages.len() {
        while !blocked && acks.len() < window && next < messages.len() {
            let ack = sink.publish(&messages[next]).await.unwrap_or_else(|error| {
                // What was handed out before stays valid, so this error waits for its turn.
                blocked = error.disposition != Disposition::DeadLetter;
                Box::pin(std::future::ready(Err(error)))
            });
            acks.push_back(ack);
            next += 1;
        }
        let flushed = sink.flush().await;
        let ack = acks.pop_front().expect("there is at least one");
        let outcome = match flushed {
            Ok(()) => ack.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => settled += 1,
            Err(DeliveryError { disposition: Disposition::DeadLetter, reason, .. }) => {
                report.dead_letters.push((messages[settled].event.id.clone(), reason));
                settled += 1;
            }
            Err(error) => {
                assert_eq!(error.disposition, Disposition::Retry, "{error}");
                report.retries.push(error.reason);
                // A little back-off, as the worker's.
                tokio::time::sleep(Duration::from_millis(100)).await;
                acks.clear();
                blocked = false;
                next = settled;
                if let Err(error) = sink.reset().await {
                    assert_eq!(error.disposition, Disposition::Retry, "{error}");
                }
            }
        }
        progress.send_replace(settled);
    }
    report
}

/// The same for those who need no progress.
pub(crate) async fn deliver_all(sink: &mut dyn Sink, messages: &[Message], window: usize) -> Report {
    deliver(sink, messages, window, &watch::channel(0).0).await
}

/// Waits until at least `count` messages are settled.
pub(crate) async fn settled(progress: &mut watch::Receiver<usize>, count: usize) {
    let wait = progress.wait_for(|settled| *settled >= count);
    tokio::time::timeout(super::DEADLINE, wait).await.expect("messages flow").expect("the worker lives");
}

/// Checks ids as a consumer sees them, `<agent>-<sequence>`: when known ones are dropped, each agent's events are there
/// without a gap and in order.
pub(crate) fn assert_complete_and_in_order(ids: impl IntoIterator<Item = String>, expected: &[Message]) {
    let mut seen = HashSet::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for id in ids {
        if !seen.insert(id.clone()) {
            continue;
        }
        let (agent, sequence) = id.split_once('-').expect("an id of a test");
        let sequence: u64 = sequence.parse().expect("a number");
        let before = last.insert(agent.to_owned(), sequence);
        assert!(before.is_none_or(|before| before < sequence), "agent {agent}: {sequence} after {before:?}");
    }
    let expected: HashSet<String> = expected.iter().map(|message| message.event.id.clone()).collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), expected.len());
    assert_eq!(seen.len(), expected.len(), "something unknown arrived");
}
