//! What a connection does and since when: this says which of its deadlines runs, and whether it may be closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Limits;

pub(super) const PHASE_IDLE: u64 = 0;
pub(super) const PHASE_HEAD: u64 = 1;
pub(super) const PHASE_REQUEST: u64 = 2;
pub(super) const PHASE_LIVE: u64 = 3;
pub(super) const PHASE_WAITING: u64 = 4;

/// Bits of the phase.
const BITS: u32 = 3;

/// What a connection is doing and since when, in one word: milliseconds since it began, times eight, plus the phase.
#[derive(Debug)]
pub(super) struct Phase {
    began: Instant,
    word: AtomicU64,
}

impl Phase {
    pub(super) fn new() -> Phase {
        Phase { began: Instant::now(), word: AtomicU64::new(PHASE_IDLE) }
    }

    pub(super) fn enter(&self, phase: u64) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> BITS);
        self.word.store((millis << BITS) | phase, Ordering::Release);
    }

    pub(super) fn since(&self) -> Instant {
        self.began + Duration::from_millis(self.word.load(Ordering::Acquire) >> BITS)
    }

    fn now(&self) -> u64 {
        phase_of(self.word.load(Ordering::Acquire))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.now() == PHASE_IDLE
    }

    /// Whether it is being answered, also by something that goes on.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.now(), PHASE_REQUEST | PHASE_LIVE)
    }

    /// Whether it is being answered by something that goes on.
    pub(super) fn is_live(&self) -> bool {
        self.now() == PHASE_LIVE
    }

    pub(super) fn bytes_came(&self) {
        if self.now() == PHASE_IDLE {
            self.enter(PHASE_HEAD);
        }
    }

    /// Returns when the connection has been in one phase for longer than it may.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn overdue(&self, limits: &Limits) -> &'static str {
        loop {
            let word = self.word.load(Ordering::Acquire);
            let since = self.began + Duration::from_millis(word >> BITS);
            let (limit, reason) = match phase_of(word) {
                PHASE_IDLE => (limits.idle_timeout, "idle_timeout"),
                PHASE_HEAD => (limits.header_timeout, "header_timeout"),
                // Nothing was asked of a live answer for so long: the peer has stopped to take it.
                PHASE_LIVE => (limits.idle_timeout, "idle_timeout"),
                // The handler has time-outs of its own; look again later.
                _ => {
                    tokio::time::sleep(limits.header_timeout.min(limits.idle_timeout)).await;
                    continue;
                }
            };
            // From idle a head may begin at any time and has the shorter limit.
            let look = since + limit;
            if look <= Instant::now() {
                return reason;
            }
            tokio::time::sleep_until(look.min(Instant::now() + limits.header_timeout / 4)).await;
        }
    }
}

fn phase_of(word: u64) -> u64 {
    word & ((1 << BITS) - 1)
}

/// How a request says that it only waits.
#[derive(Debug, Clone)]
pub struct Waiting(Arc<Phase>);

/// A wait of a request, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Wait<'a>(&'a Phase);

impl Waiting {
    pub(super) fn of(phase: &Arc<Phase>) -> Waiting {
        Waiting(phase.clone())
    }

    /// Nothing is done for the request now: its peer is waited for. So its connection may be closed for one that comes.
    pub fn begin(&self) -> Wait<'_> {
        self.0.enter(PHASE_WAITING);
        Wait(&self.0)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.enter(PHASE_REQUEST);
    }
}
