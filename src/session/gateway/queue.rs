//! Who may call a gateway now: so many calls at a time, first come first served.
//!
//! **A call's own deadline begins when it is sent, and not while it waits here.** Where a gateway is slower than calls come, the
//! queue fills; a call that had spent its deadline waiting would be cut short although the gateway performs it, and so would
//! every one behind it. So each call that is sent has all of its time, and what is bounded is the wait, by what the call is
//! still good for when it ends:
//!
//! - A heartbeat waits for as long as its session can be saved. All are served in turn, so nobody is lost while each gets one
//!   through within the limit. Beyond that some agents are lost and the others stay, since a heartbeat that would come too late
//!   takes nobody's place.
//! - Other calls of a session hold its heartbeat up, so they leave it half of the limit. Asking for a new GUID gives way at
//!   once: heartbeats bring one too, and where they wait there is no room for both.
//! - A sign-in waits for as long as it must: there is no session yet that could be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::session::call::{CallError, Permit};
use crate::session::config::GatewayConfig;
use crate::session::retcode::Operation;

/// Calls at a time, so that a gateway that hangs does not meet thousands of connections when it returns. Sign-ins
/// have their own count, since slow ones must not keep heartbeats waiting.
const CALLS_AT_A_TIME: usize = 256;
const SIGN_INS_AT_A_TIME: usize = 64;
/// Asking for a new GUID gives way after so long.
const RENEWAL_WAIT: Duration = Duration::from_secs(1);

/// The calls of one gateway that wait.
#[derive(Debug)]
pub(in crate::session) struct Queue {
    calls: Arc<Semaphore>,
    sign_ins: Arc<Semaphore>,
    call_deadline: Duration,
    sign_out_limit: Duration,
}

impl Queue {
    pub(in crate::session) fn new(config: &GatewayConfig) -> Queue {
        Queue::with_permits(config, CALLS_AT_A_TIME, SIGN_INS_AT_A_TIME)
    }

    pub(in crate::session) fn with_permits(config: &GatewayConfig, calls: usize, sign_ins: usize) -> Queue {
        Queue {
            calls: Arc::new(Semaphore::new(calls)),
            sign_ins: Arc::new(Semaphore::new(sign_ins)),
            call_deadline: config.call_deadline,
            sign_out_limit: config.sign_out_limit,
        }
    }

    /// Waits until a call of this kind may be sent; `heard` is when the gateway last heard of the agent's session.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when the call would come too late.
    pub(in crate::session) async fn admit(
        &self,
        operation: Operation,
        heard: Option<Instant>,
    ) -> Result<Permit, CallError> {
        match operation {
            // Thousands of them hang at the gateway, which is what they are for.
            Operation::Poll => Ok(Permit::default()),
            Operation::Login | Operation::ForceLogin => acquire(&self.sign_ins).await,
            _ => self.acquire_until(self.latest(operation, heard, Instant::now())).await,
        }
    }

    /// As [`Queue::admit`], for a call of somebody who waits for its answer.
    pub(super) async fn admit_forward(&self) -> Result<Permit, CallError> {
        self.acquire_until(Instant::now() + self.call_deadline).await
    }

    async fn acquire_until(&self, latest: Instant) -> Result<Permit, CallError> {
        timeout_at(latest, acquire(&self.calls)).await.unwrap_or(Err(CallError::NotSent))
    }

    /// Until when it makes sense to send a call of a session.
    fn latest(&self, operation: Operation, heard: Option<Instant>, now: Instant) -> Instant {
        let silence = match operation {
            // What is sent by then is at the gateway in time, however long it takes.
            Operation::Handshake => self.sign_out_limit.saturating_sub(self.call_deadline),
            Operation::UpdateGuid => return now + RENEWAL_WAIT,
            _ => self.sign_out_limit / 2,
        };
        let soon = now + self.call_deadline;
        heard.map_or(soon, |heard| soon.max(heard + silence))
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Result<Permit, CallError> {
    // It is never closed.
    semaphore.clone().acquire_owned().await.map(Permit::from).map_err(|_closed| CallError::NotSent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problems;
    use crate::session::config::validate;

    fn queue() -> Queue {
        let gateway = serde_json::from_value(serde_json::json!({
            "name": "main", "base_url": "https://gw.example/", "ca_file": crate::session::TEST_CA,
            "callback_uri": "https://relay.example/push/main",
        }));
        let config = validate(vec![gateway.unwrap()], Vec::new(), &mut Problems::default());
        Queue::with_permits(&config.gateways[0], 1, 1)
    }

    /// How long a call of an agent that was heard of so many seconds ago waits in vain.
    async fn wait(queue: &Queue, operation: Operation, silence: u64) -> u64 {
        let began = Instant::now();
        let heard = began.checked_sub(Duration::from_secs(silence)).unwrap();
        assert_eq!(queue.admit(operation, Some(heard)).await.unwrap_err(), CallError::NotSent);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_as_long_as_it_is_good_for_something() {
        let queue = queue();
        tokio::time::advance(Duration::from_secs(1000)).await;
        let held = queue.admit(Operation::Handshake, None).await.unwrap();
        // The limit is 120 s, and a call may take 8 of them.
        assert_eq!(wait(&queue, Operation::Handshake, 30).await, 82);
        assert_eq!(wait(&queue, Operation::Handshake, 119).await, 8);
        assert_eq!(wait(&queue, Operation::ResetSkill, 1).await, 59);
        assert_eq!(wait(&queue, Operation::Logout, 100).await, 8);
        assert_eq!(wait(&queue, Operation::UpdateGuid, 15).await, 1);
        assert!(queue.admit(Operation::Poll, None).await.is_ok());
        drop(held);
        assert!(queue.admit(Operation::Handshake, None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_in_waits_for_its_turn_however_long_and_heartbeats_do_not_wait_for_it() {
        let queue = queue();
        let held = queue.admit(Operation::Login, None).await.unwrap();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, queue.admit(Operation::ForceLogin, None)).await.is_err());
        assert!(queue.admit(Operation::Handshake, None).await.is_ok());
        drop(held);
        assert!(queue.admit(Operation::ForceLogin, None).await.is_ok());
    }
}
