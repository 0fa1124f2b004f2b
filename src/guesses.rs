//! Wrong tokens, counted for each address, and answered late to who only guesses.
//!
//! What has to hold, in this order:
//!
//! 1. **A right token passes, always and at once**, whatever came from its address before: to a gateway's pushes one address
//!    stands for all agents, and one agent with an old token must not cost the others anything. So nothing here is asked before a
//!    token is found to be wrong, no address is ever shut out, and no connection is refused.
//! 2. **An address that has shown a right token is never kept waiting.** A gateway may send thousands of pushes with wrong tokens
//!    (the secret was lost, or a copy of the gateway pushes to the wrong relay), and a gateway whose pool of connections waits for our
//!    refusals would be late with good pushes. The admin API does not use this exception: its callers are few, people choose
//!    its tokens, and one caller's read token is no reason to let it guess at another's.
//! 3. **A guess must be slow.** Tokens of pushes carry a MAC of 128 bits, so that no rate at all would find one. But those that
//!    sessions were adopted with are made by other programs and have 8 characters at least, and tokens of the admin API are made by
//!    people and have 16. After `FREE` wrong ones in `WINDOW` an address gets its refusals `DELAY` late, and its connection is closed
//!    after each (`reply`, `api`): it pays for a TLS handshake each time.
//! 4. **Guessing must cost us nothing.** Answers that wait are few (`HELD_PER_SOURCE`, `HELD`), far fewer than the listeners allow
//!    connections; beyond them a refusal goes out at once, because a connection that waits is dearer than one that is over. A token
//!    is judged from the head, before a body is read. The table has `SOURCES` addresses (of IPv6 networks of 64 bits, which one host
//!    has to itself) and forgets the one that was quiet longest. The log gets one line in ten seconds of each
//!    address, and no more than fifty of all (`log`).
//!
//! Expired tokens, and those that a newer one has replaced, have a good MAC: they are refused, but nobody guessed them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::calm::{Calm, network};
use crate::metrics::Metrics;

/// Wrong tokens of one address that are answered at once: more than anybody mistypes.
const FREE: u32 = 20;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How late refusals come after that.
const DELAY: Duration = Duration::from_secs(1);
/// Refusals that wait at a time, of one address and of all.
const HELD_PER_SOURCE: usize = 4;
const HELD: usize = 16;
/// Addresses that are remembered.
const SOURCES: usize = 4096;

/// Wrong tokens at one listener.
#[derive(Debug)]
pub struct Guesses {
    listener: &'static str,
    sources: Mutex<HashMap<IpAddr, Source>>,
    held: Arc<Semaphore>,
    metrics: Metrics,
    calm: Calm,
}

#[derive(Debug)]
struct Source {
    /// When the window began, and wrong tokens in it.
    since: Instant,
    wrong: u32,
    last: Instant,
    /// Has shown a right token.
    known: bool,
    held: Arc<Semaphore>,
}

/// What becomes of a refusal.
#[derive(Debug)]
enum Verdict {
    AtOnce,
    /// With its places among those that wait.
    Late([OwnedSemaphorePermit; 2]),
}

impl Guesses {
    /// Nobody has guessed yet.
    #[must_use]
    pub fn new(listener: &'static str, metrics: Metrics) -> Guesses {
        let held = Arc::new(Semaphore::new(HELD));
        Guesses { listener, sources: Mutex::default(), held, metrics, calm: Calm::default() }
    }

    /// A right token came from here: refusals to this address never wait again.
    pub fn right(&self, peer: SocketAddr) {
        self.with(peer, |source, now| (source.known, source.last) = (true, now));
    }

    /// A wrong token came from here; returns when it may be refused.
    ///
    /// # Cancel safety
    /// May be dropped: the guess is counted, and who has gone needs no answer.
    pub async fn wrong(&self, peer: SocketAddr) {
        let (verdict, count) = self.judge(peer);
        let answer = if matches!(verdict, Verdict::Late(..)) { "late" } else { "at_once" };
        self.metrics.token_guesses.with_label_values(&[self.listener, answer]).inc();
        if count > FREE
            && let Some(left_out) = self.calm.due_about("guesses", peer.ip())
        {
            let listener = self.listener;
            tracing::warn!(listener, %peer, count, left_out, "many wrong tokens from one address");
        }
        if let Verdict::Late(places) = verdict {
            tokio::time::sleep(DELAY).await;
            drop(places);
        }
    }

    fn judge(&self, peer: SocketAddr) -> (Verdict, u32) {
        self.with(peer, |source, now| {
            if now.duration_since(source.since) >= WINDOW {
                (source.since, source.wrong) = (now, 0);
            }
            source.wrong = source.wrong.saturating_add(1);
            source.last = now;
            let late = source.wrong > FREE && !source.known;
            let places = late.then(|| {
                let own = source.held.clone().try_acquire_owned().ok()?;
                Some(Verdict::Late([own, self.held.clone().try_acquire_owned().ok()?]))
            });
            (places.flatten().unwrap_or(Verdict::AtOnce), source.wrong)
        })
    }

    fn with<T>(&self, peer: SocketAddr, then: impl FnOnce(&mut Source, Instant) -> T) -> T {
        let (key, now) = (network(peer.ip()), Instant::now());
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES && !sources.contains_key(&key) {
            let quietest = sources.iter().min_by_key(|(_, source)| source.last).map(|(key, _)| *key);
            quietest.map(|key| sources.remove(&key));
        }
        let source = sources.entry(key).or_insert_with(|| Source {
            since: now,
            wrong: 0,
            last: now,
            known: false,
            held: Arc::new(Semaphore::new(HELD_PER_SOURCE)),
        });
        then(source, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn guesses() -> Guesses {
        Guesses::new("callback", Metrics::new([], []).unwrap())
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 4711)
    }

    async fn time_of_a_wrong_one(guesses: &Guesses, from: &str) -> Duration {
        let began = Instant::now();
        guesses.wrong(peer(from)).await;
        began.elapsed()
    }

    fn counted(guesses: &Guesses, answer: &str) -> u64 {
        guesses.metrics.token_guesses.with_label_values(&["callback", answer]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_guesses_is_answered_late_and_nobody_else_is() {
        let guesses = guesses();
        for _ in 0..FREE {
            assert_eq!(time_of_a_wrong_one(&guesses, "192.0.2.1").await, Duration::ZERO);
        }
        assert!(time_of_a_wrong_one(&guesses, "192.0.2.1").await >= DELAY);
        assert_eq!(time_of_a_wrong_one(&guesses, "192.0.2.2").await, Duration::ZERO);
        assert_eq!((counted(&guesses, "at_once"), counted(&guesses, "late")), (u64::from(FREE) + 1, 1));
        tokio::time::advance(WINDOW).await;
        assert_eq!(time_of_a_wrong_one(&guesses, "192.0.2.1").await, Duration::ZERO, "a minute later");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_has_shown_a_right_token_never_waits() {
        let guesses = guesses();
        guesses.right(peer("192.0.2.1"));
        for _ in 0..10 * FREE {
            assert_eq!(time_of_a_wrong_one(&guesses, "::ffff:192.0.2.1").await, Duration::ZERO);
        }
        assert_eq!(counted(&guesses, "late"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_few_answers_wait_at_a_time() {
        let guesses = guesses();
        let places = |from: String, count: u32| {
            let verdicts: Vec<_> = (0..count).map(|_| guesses.judge(peer(&from)).0).collect();
            verdicts.into_iter().filter(|verdict| matches!(verdict, Verdict::Late(..))).collect::<Vec<_>>()
        };
        let one = places("192.0.2.1".into(), 100);
        assert_eq!(one.len(), HELD_PER_SOURCE);
        let others: Vec<_> = (2..50).flat_map(|n| places(format!("192.0.2.{n}"), 100)).collect();
        assert_eq!(one.len() + others.len(), HELD);
        drop((one, others));
        assert_eq!(places("192.0.2.1".into(), 100).len(), HELD_PER_SOURCE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_who_was_heard_last() {
        let guesses = guesses();
        guesses.right(peer("192.0.2.1"));
        for n in 0..2 * SOURCES as u128 {
            tokio::time::advance(Duration::from_millis(1)).await;
            guesses.judge(SocketAddr::new(Ipv6Addr::from_bits(n << 64).into(), 1));
            if n % 1000 == 0 {
                guesses.right(peer("192.0.2.1"));
            }
        }
        let sources = guesses.sources.lock().unwrap();
        assert_eq!(sources.len(), SOURCES);
        assert!(sources[&"192.0.2.1".parse::<IpAddr>().unwrap()].known);
    }
}
