//! Who may call a gateway now: so many calls at a time, the most urgent first.
//!
//! **A call's own deadline begins when it is sent, and not while it waits here.** Where a gateway is slower than calls come, the
//! queue fills; a call that had spent its deadline waiting would be cut short although the gateway performs it, and so would
//! every one behind it. So each call that is sent has all of its time, and what is bounded is the wait, by what the call is
//! still good for when it ends:
//!
//! - A heartbeat waits for as long as its session can be saved. Those go first whose session would be signed out, or whose GUID
//!   would die, the soonest, so nobody is lost while each gets one through within the limit. Beyond that some agents are lost and the
//!   others stay, since a heartbeat that would come too late takes nobody's place.
//! - Other calls of a session hold its heartbeat up, so they leave it half of the limit. Asking for a new GUID gives way at
//!   once: heartbeats bring one too, and where they wait there is no room for both.
//! - A sign-in waits for as long as it must: there is no session yet that could be lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::session::call::{CallError, Permit};
use crate::session::config::GatewayConfig;
use crate::session::gateway::turns::Turns;
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
    calls: Arc<Turns>,
    sign_ins: Arc<Turns>,
    call_deadline: Duration,
    sign_out_limit: Duration,
    /// A GUID lives for so long.
    guid_life: Duration,
}

impl Queue {
    pub(in crate::session) fn new(config: &GatewayConfig) -> Queue {
        Queue::with_permits(config, CALLS_AT_A_TIME, SIGN_INS_AT_A_TIME)
    }

    pub(in crate::session) fn with_permits(config: &GatewayConfig, calls: usize, sign_ins: usize) -> Queue {
        Queue {
            calls: Turns::new(calls),
            sign_ins: Turns::new(sign_ins),
            call_deadline: config.call_deadline,
            sign_out_limit: config.sign_out_limit,
            guid_life: config.guid_timeout,
        }
    }

    /// Waits until a call of this kind may be sent; `heard` is when the gateway last heard of the agent's session, and
    /// `guid_since` when its GUID came.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when the call would come too late.
    pub(in crate::session) async fn admit(
        &self,
        operation: Operation,
        heard: Option<Instant>,
        guid_since: Option<Instant>,
    ) -> Result<Permit, CallError> {
        let now = Instant::now();
        match operation {
            // Thousands of them hang at the gateway, which is what they are for.
            Operation::Poll => Ok(Permit::default()),
            Operation::Login | Operation::ForceLogin => acquire(&self.sign_ins, now).await,
            _ => {
                let latest = self.latest(operation, heard, now);
                self.acquire_until(latest, self.needed_by(operation, heard, guid_since, now)).await
            }
        }
    }

    /// As [`Queue::admit`], for a call of somebody who waits for its answer.
    pub(super) async fn admit_forward(&self) -> Result<Permit, CallError> {
        let now = Instant::now();
        self.acquire_until(now + self.call_deadline, self.unhurried(now)).await
    }

    async fn acquire_until(&self, latest: Instant, needed_by: Instant) -> Result<Permit, CallError> {
        timeout_at(latest, acquire(&self.calls, needed_by)).await.unwrap_or(Err(CallError::NotSent))
    }

    /// Until when it makes sense to send a call of a session.
    fn latest(&self, operation: Operation, heard: Option<Instant>, now: Instant) -> Instant {
        if operation == Operation::UpdateGuid {
            return now + RENEWAL_WAIT;
        }
        let soon = now + self.call_deadline;
        heard.map_or(soon, |heard| soon.max(heard + self.patience(operation)))
    }

    /// How long after the gateway has heard of a session this call of it is in time.
    fn patience(&self, operation: Operation) -> Duration {
        match operation {
            // What is sent by then is at the gateway in time, however long it takes.
            Operation::Handshake => self.sign_out_limit.saturating_sub(self.call_deadline),
            _ => self.sign_out_limit / 2,
        }
    }

    /// Until when the call has to be sent, as against others that wait. The gateway may have let a heartbeat pass without a new
    /// GUID when ours was not old enough, and the next one has to come before it dies. One that is older than that does not change.
    fn needed_by(
        &self,
        operation: Operation,
        heard: Option<Instant>,
        guid_since: Option<Instant>,
        now: Instant,
    ) -> Instant {
        let silence = heard.map(|heard| heard + self.patience(operation));
        let guid = guid_since.map(|since| since + self.guid_life.saturating_sub(self.call_deadline));
        let ends = match operation {
            Operation::Handshake => [silence, guid],
            // Where heartbeats wait there is no room for both.
            Operation::UpdateGuid => [None, None],
            _ => [silence, None],
        };
        // What may come too late takes nobody's place who is in time.
        let in_time = ends.into_iter().flatten().filter(|end| *end > now).min();
        in_time.unwrap_or(now + self.sign_out_limit)
    }

    /// For calls that lose nothing but their own time: they have the place of a session that half of the limit is left to.
    fn unhurried(&self, now: Instant) -> Instant {
        now + self.sign_out_limit / 2
    }
}

async fn acquire(turns: &Arc<Turns>, needed_by: Instant) -> Result<Permit, CallError> {
    turns.turn(needed_by).await.map(Permit::from).ok_or(CallError::NotSent)
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
        assert_eq!(queue.admit(operation, Some(heard), None).await.unwrap_err(), CallError::NotSent);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_as_long_as_it_is_good_for_something() {
        let queue = queue();
        tokio::time::advance(Duration::from_secs(1000)).await;
        let held = queue.admit(Operation::Handshake, None, None).await.unwrap();
        // The limit is 120 s, and a call may take 8 of them.
        assert_eq!(wait(&queue, Operation::Handshake, 30).await, 82);
        assert_eq!(wait(&queue, Operation::Handshake, 119).await, 8);
        assert_eq!(wait(&queue, Operation::ResetSkill, 1).await, 59);
        assert_eq!(wait(&queue, Operation::Logout, 100).await, 8);
        assert_eq!(wait(&queue, Operation::UpdateGuid, 15).await, 1);
        assert!(queue.admit(Operation::Poll, None, None).await.is_ok());
        drop(held);
        assert!(queue.admit(Operation::Handshake, None, None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_heartbeat_goes_first_whose_session_or_guid_would_end_the_soonest() {
        let queue = Arc::new(queue());
        tokio::time::advance(Duration::from_secs(1000)).await;
        let held = queue.admit(Operation::Handshake, None, None).await.unwrap();
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let ago = |secs: u64| Instant::now().checked_sub(Duration::from_secs(secs));
        let calls = [
            ("rested", Operation::Handshake, ago(31), ago(31)),
            ("GUID that does not change", Operation::Handshake, ago(31), ago(900)),
            ("skills", Operation::ResetSkill, ago(1), ago(1)),
            ("silent", Operation::Handshake, ago(90), ago(20)),
            ("late", Operation::Handshake, ago(114), ago(114)),
            ("another GUID", Operation::UpdateGuid, ago(31), ago(100)),
            ("dying GUID", Operation::Handshake, ago(31), ago(95)),
        ];
        let mut tasks = tokio::task::JoinSet::new();
        for (name, operation, heard, guid_since) in calls {
            let (queue, order) = (queue.clone(), order.clone());
            tasks.spawn(async move {
                let _permit = queue.admit(operation, heard, guid_since).await.unwrap();
                order.lock().unwrap().push(name);
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        tasks.join_all().await;
        let served =
            ["dying GUID", "silent", "skills", "rested", "GUID that does not change", "late", "another GUID"];
        assert_eq!(*order.lock().unwrap(), served);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_in_waits_for_its_turn_however_long_and_heartbeats_do_not_wait_for_it() {
        let queue = queue();
        let held = queue.admit(Operation::Login, None, None).await.unwrap();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, queue.admit(Operation::ForceLogin, None, None)).await.is_err());
        assert!(queue.admit(Operation::Handshake, None, None).await.is_ok());
        drop(held);
        assert!(queue.admit(Operation::ForceLogin, None, None).await.is_ok());
    }
}
