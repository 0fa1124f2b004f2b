//! So many at a time, and of those who wait the most urgent first.
//!
//! Invariant: nobody waits while there is room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Whom it is the turn of.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    room: usize,
    /// Those who wait, by how soon they must have their turn, and then by who came first.
    waiting: BTreeMap<Place, oneshot::Sender<Turn>>,
    came: u64,
}

type Place = (Instant, u64);

/// One's turn, until it is dropped: then it is the next one's.
#[derive(Debug)]
pub(in crate::session) struct Turn {
    turns: Arc<Turns>,
}

impl Turns {
    pub(super) fn new(at_a_time: usize) -> Arc<Turns> {
        let state = State { room: at_a_time, waiting: BTreeMap::new(), came: 0 };
        Arc::new(Turns { state: Mutex::new(state) })
    }

    /// Waits for a turn behind those who need theirs sooner; `None` never.
    ///
    /// # Cancel safety
    /// May be dropped at any time; then the place is lost.
    pub(super) async fn turn(self: &Arc<Self>, needed_by: Instant) -> Option<Turn> {
        let (receiver, _waiting) = {
            let mut state = self.lock();
            if let Some(room) = state.room.checked_sub(1) {
                state.room = room;
                return Some(Turn { turns: self.clone() });
            }
            let (sender, receiver) = oneshot::channel();
            let place = (needed_by, state.came);
            state.came += 1;
            state.waiting.insert(place, sender);
            (receiver, Waiting { turns: self, place })
        };
        // The sender is in the table until it is used.
        receiver.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits, and may give up.
struct Waiting<'a> {
    turns: &'a Turns,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.place);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.turns.lock();
            let next = state.waiting.pop_first();
            state.room += usize::from(next.is_none());
            next
        };
        if let Some((_, sender)) = next {
            // Whoever has given up in this moment drops it, and it is the next one's.
            drop(sender.send(Turn { turns: self.turns.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_is_next_then_who_came_first_and_who_gives_up_holds_up_nobody() {
        let (turns, now) = (Turns::new(1), Instant::now());
        let soon = now + Duration::from_secs(1);
        let held = turns.turn(now).await;
        let mut first = pin!(turns.turn(soon + Duration::from_secs(1)));
        let mut second = pin!(turns.turn(soon));
        let mut third = pin!(turns.turn(soon));
        let mut given_up = Box::pin(turns.turn(now));
        let mut granted = Box::pin(turns.turn(now));
        for waiting in [given_up.as_mut().now_or_never(), granted.as_mut().now_or_never()] {
            assert!(waiting.is_none());
        }
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(given_up);
        drop(held);
        // It has its turn, and does not take it.
        drop(granted);
        assert!(first.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        let held = second.as_mut().now_or_never().unwrap();
        drop(held);
        assert!(first.as_mut().now_or_never().is_none());
        drop(third.as_mut().now_or_never().unwrap());
        drop(first.as_mut().now_or_never().unwrap());
        assert_eq!(turns.lock().room, 1);
        assert!(turns.lock().waiting.is_empty());
    }
}
