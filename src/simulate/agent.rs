//! One agent at the gateway: its session, the events that wait for it, and its books. Pure state behind one
//! mutex; who changes it also tells [`Slot::changed`].
//!
//! Invariants: events wait only while the agent is signed in (a farewell excepted); a batch that failed is
//! repeated with the same events at its head; at most one push, one poll and one session call are under way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Uri;
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::catalogue;
use super::guid::{Guid, Guids};
use super::ledger::{Counts, Fate, LedgerEntry, SignOut};
use super::settings::Agents;
use super::voice::Line;
use crate::clock::Timestamp;
use crate::event::ids::AgentId;

/// An agent's place in the simulator, shared by everything that deals with it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: AgentId,
    /// What the operator configured, shared by the agents of a range.
    pub(super) profile: Arc<Agents>,
    /// Told whenever events wait or a session begins or ends.
    pub(super) changed: Notify,
    agent: Mutex<Agent>,
}

/// The changing part.
#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) session: Option<Session>,
    /// The session call under way, so that a second one is refused.
    pub(super) session_call: Option<SessionCall>,
    /// The session of which a poll waits: it is not silent.
    pub(super) polling: Option<u64>,
    /// A push task runs.
    pub(super) pushing: bool,
    /// How many answers of pushes are to be lost.
    pub(super) answers_to_lose: u32,
    pub(super) bad_passwords: u32,
    pub(super) locked_until: Option<Instant>,
    /// The call of the flow being played.
    pub(super) call: catalogue::Call,
    pub(super) counts: Counts,
    pub(super) queue: VecDeque<Queued>,
    /// How many events the failed push had that is to be repeated.
    pub(super) repeating: usize,
    /// With what it was sent.
    pub(super) failed: Option<Target>,
    /// When the first of an unbroken row of failed pushes began.
    pub(super) failing_since: Option<Instant>,
    /// Number of the newest session, so that late work for an old one is recognised.
    epoch: u64,
    serial: u64,
    ledger: Vec<LedgerEntry>,
}

/// A session call, of which an agent may have one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionCall {
    SignIn,
    SignOut,
}

/// An event on its way.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) serial: u64,
    pub(super) json: Arc<str>,
    pub(super) attempts: u32,
    /// Set for the last event of a session that is gone: one try, with what the session knew.
    pub(super) farewell: Option<Arc<Target>>,
}

/// Where and as what to push.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) uri: Uri,
    /// False when the address is not in the trust list.
    pub(super) trusted: bool,
    pub(super) guid: Guid,
    pub(super) token: SecretString,
}

/// How events reach the agent's client.
#[derive(Debug, Clone)]
pub(super) enum Delivery {
    Push { uri: Uri, trusted: bool },
    Poll,
}

/// What an agent does, as far as `agentstatus` and refusals need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Busy,
    Idle,
    Work,
    Talking,
    Rest,
}

/// A signed-in agent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) epoch: u64,
    /// The node at which it was signed in, and which alone knows it.
    pub(super) node: u8,
    pub(super) guids: Guids,
    pub(super) delivery: Delivery,
    /// The newest `service_token`.
    pub(super) token: SecretString,
    /// The last sign of life that counts in this session's mode.
    pub(super) last_contact: Instant,
    /// The stickiness cookies, `name=value`.
    pub(super) cookies: Vec<SecretString>,
    /// What its events say. [`Session::doing`] knows of the call too.
    pub(super) activity: Activity,
    /// Asked for in a call, and told when the call is over: the reason for being busy.
    pub(super) busy_after_call: Option<String>,
    /// Its voice call and what else is done with its phone.
    pub(super) line: Line,
    /// Effective skills; none before the first resetskill.
    pub(super) skills: Option<Vec<u32>>,
    pub(super) login_time: Timestamp,
}

impl Slot {
    pub(super) fn new(id: AgentId, profile: Arc<Agents>) -> Slot {
        Slot { id, profile, changed: Notify::new(), agent: Mutex::new(Agent::default()) }
    }

    /// The state. Never held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Begins a session; the caller has ended any other.
    pub(super) fn sign_in(&mut self, make: impl FnOnce(u64) -> Session) -> u64 {
        self.epoch += 1;
        self.session = Some(make(self.epoch));
        self.counts.sign_ins += 1;
        self.bad_passwords = 0;
        self.locked_until = None;
        self.epoch
    }

    /// The session, if it still is the one of that number.
    pub(super) fn session_of(&mut self, epoch: u64) -> Option<&mut Session> {
        self.session.as_mut().filter(|session| session.epoch == epoch)
    }

    /// Whether a call to this node meets the session, if there is one.
    pub(super) fn is_known_at(&self, node: u8) -> bool {
        self.session.as_ref().is_none_or(|session| session.node == node)
    }

    /// Ends the session. What waits for it is discarded, as nobody may receive it any more.
    pub(super) fn sign_out(&mut self, reason: SignOut) -> Option<Session> {
        let session = self.session.take()?;
        *self.counts.sign_outs.entry(reason).or_default() += 1;
        let farewells = self.queue.iter().filter(|q| q.farewell.is_some()).cloned().collect();
        for event in std::mem::replace(&mut self.queue, farewells) {
            if event.farewell.is_none() {
                self.close(event.serial, event.attempts, Fate::Discarded);
            }
        }
        self.repeating = 0;
        self.failed = None;
        self.failing_since = None;
        Some(session)
    }

    /// Puts an event into the queue and the ledger. `render` gets its serial number.
    pub(super) fn enqueue(
        &mut self,
        id: &AgentId,
        now: Timestamp,
        keep_ledger: bool,
        farewell: Option<Arc<Target>>,
        render: impl FnOnce(u64) -> String,
    ) -> u64 {
        self.serial += 1;
        let (serial, json) = (self.serial, Arc::<str>::from(render(self.serial)));
        self.counts.events += 1;
        if keep_ledger {
            self.ledger.push(LedgerEntry {
                agent: id.clone(),
                serial,
                json: json.clone(),
                made: now,
                attempts: 0,
                fate: Fate::Waiting,
            });
        }
        self.queue.push_back(Queued { serial, json, attempts: 0, farewell });
        serial
    }

    /// Takes the oldest event for the answer of a poll.
    pub(super) fn take_polled(&mut self) -> Option<Arc<str>> {
        let event = self.queue.pop_front()?;
        self.close(event.serial, 1, Fate::Polled);
        Some(event.json)
    }

    /// Removes `serials` from the head of the queue as delivered. Some may have been discarded meanwhile: the
    /// receiver has them, so the books are corrected.
    pub(super) fn acknowledge(&mut self, serials: &[u64], attempts: u32) {
        for serial in serials {
            let attempts = match self.queue.front() {
                Some(head) if head.serial == *serial => self.queue.pop_front().map_or(1, |e| e.attempts),
                _ => {
                    self.counts.discarded = self.counts.discarded.saturating_sub(1);
                    attempts
                }
            };
            self.close(*serial, attempts, Fate::Acknowledged);
        }
        self.counts.pushes_acknowledged += 1;
        self.failing_since = None;
        self.repeating = 0;
    }

    /// Gives up the farewell at the head of the queue.
    pub(super) fn drop_farewell(&mut self) {
        if self.queue.front().is_some_and(|event| event.farewell.is_some())
            && let Some(event) = self.queue.pop_front()
        {
            self.close(event.serial, event.attempts, Fate::Discarded);
        }
    }

    /// What was made and what became of it.
    pub(super) fn ledger(&self) -> Vec<LedgerEntry> {
        let mut entries = self.ledger.clone();
        for waiting in &self.queue {
            if let Some(entry) = index(waiting.serial).and_then(|i| entries.get_mut(i)) {
                entry.attempts = waiting.attempts;
            }
        }
        entries
    }

    /// Follows the agent's state from the events it is sent.
    pub(super) fn observe(&mut self, event_type: &str) {
        let Some(session) = &mut self.session else { return };
        session.line.observe(event_type);
        session.activity = match event_type {
            "AgentState_Ready" | "AgentState_Force_Ready" => Activity::Idle,
            "AgentState_SetNotReady_Success" | "AgentState_Force_SetNotReady" | "AgentState_NotReady" => {
                Activity::Busy
            }
            "AgentState_Work" | "AgentState_SetWork_Success" => Activity::Work,
            "AgentState_SetRest_Success" => Activity::Rest,
            "AgentEvent_Ringing" | "AgentEvent_Auto_Answer" | "AgentEvent_Talking" => Activity::Talking,
            "AgentEvent_Call_Release" | "AgentEvent_No_Answer" | "AgentEvent_Call_Out_Fail"
                if session.activity == Activity::Talking =>
            {
                Activity::Idle
            }
            _ => session.activity,
        };
    }

    fn close(&mut self, serial: u64, attempts: u32, fate: Fate) {
        match fate {
            Fate::Waiting => {}
            Fate::Acknowledged | Fate::Polled => self.counts.delivered += 1,
            Fate::Discarded => self.counts.discarded += 1,
        }
        if let Some(entry) = index(serial).and_then(|i| self.ledger.get_mut(i)) {
            entry.attempts = attempts;
            entry.fate = fate;
        }
    }
}

impl Session {
    /// What the agent does: one who is in a call talks, whatever else was said meanwhile.
    pub(super) fn doing(&self) -> Activity {
        if self.line.in_call() { Activity::Talking } else { self.activity }
    }

    /// The reason for being busy that was held back for the end of a call, once the call is over.
    pub(super) fn take_held_back(&mut self) -> Option<String> {
        if self.line.in_call() { None } else { self.busy_after_call.take() }
    }

    /// Whether events are pushed.
    pub(super) fn is_push(&self) -> bool {
        self.delivery.is_push()
    }

    /// Where and as what to push now; none in polling mode.
    pub(super) fn target(&self) -> Option<Target> {
        match &self.delivery {
            Delivery::Push { uri, trusted } => Some(Target {
                uri: uri.clone(),
                trusted: *trusted,
                guid: self.guids.current().clone(),
                token: self.token.clone(),
            }),
            Delivery::Poll => None,
        }
    }
}

impl Activity {
    /// The number in `agentstatus`.
    pub(super) fn number(self) -> u8 {
        match self {
            Activity::Busy => 3,
            Activity::Idle => 4,
            Activity::Work => 5,
            Activity::Talking => 7,
            Activity::Rest => 8,
        }
    }
}

/// The ledger has every event of the agent, so serial numbers are positions in it.
fn index(serial: u64) -> Option<usize> {
    usize::try_from(serial).ok()?.checked_sub(1)
}

impl Delivery {
    /// The address is in the trust list now.
    pub(super) fn trust(&mut self) {
        if let Delivery::Push { trusted, .. } = self {
            *trusted = true;
        }
    }

    /// Whether events are pushed.
    pub(super) fn is_push(&self) -> bool {
        matches!(self, Delivery::Push { .. })
    }
}
