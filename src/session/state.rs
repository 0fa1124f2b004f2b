//! The life of one agent's session as a pure state machine: no I/O, no clock; time is handed in.
//!
//! Invariants:
//! - One call in flight per agent, ever: [`Machine::next`] offers none while one is unanswered. So no sign-in meets
//!   an unanswered sign-out, nor the reverse.
//! - A suspended session makes no call until a person asks for it, be it by a changed password or sign-in option. Only where it
//!   turns out just afterwards that this machine had stood still is it tried again, as somebody else may not be signed in at all.
//! - Each lost session is followed by one sign-in per back-off step; the back-off begins anew only after a session
//!   that lasted, so that two programs fighting over an agent do so calmly.
//! - Whether a session lives is for the gateway to say: an event that announces its end, a silence of ours, or stored times that
//!   make no sense or are long past (clocks are set), lead to a heartbeat first.
//!
//! **100-002 may be our own doing.** The session that stands in our way can be one of ours that we do not know:
//! - After a heartbeat without an answer, which may have changed the GUID, a sign-in without one that was to restore a
//!   session, a change to an address of the gateway that does not know ours, or a GUID that died of its age since our heartbeats were
//!   late (this machine stood still, or the gateway is slow): waiting for the gateway to end it would cost
//!   the person two minutes. So within the sign-out limit (and a margin) 100-002 leads to a forced sign-in even with
//!   `takeover = false`.
//! - After a start that knows of no session, a first sign-in without an answer, a silence of ours, or heartbeats that failed before
//!   one was refused (the gateway has started anew, and its platform has not), and whatever else there was, after an event that
//!   announced the end, a suspension, or a standstill for longer than the gateway waits, it may as well be a person who must not be
//!   thrown out. Ours ends by itself, since nobody keeps it alive: within the same time 100-002 is only a reason to try again.
//!
//! A sign-in without an answer may end long after we have given it up, and its session begins only then. So while the gateway says
//! that one is under way, the time is not over, and begins anew with the first answer that says otherwise.
//!
//! Later it cannot be ours any more, and a person is needed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, jitter};
use crate::session::retcode::{Loss, Meaning, Operation, Suspension};

mod held;
#[cfg(test)]
mod tests;

pub use held::SETTINGS;
use held::{Held, SkillsState};

/// Sign-ins after a failure: the first soon, then at most twice a minute, however long the gateway is away.
const SIGN_IN_FIRST: Duration = Duration::from_secs(1);
const SIGN_IN_MOST: Duration = Duration::from_secs(30);
/// Sign-ins refused without a clear reason: accounts are locked after a few, so stop before.
const DOUBTFUL_TRIES: u8 = 3;
/// While an agent is switched over, the documents ask for 1 to 5 s between tries.
const SWITCH_OVER_LEAST: Duration = Duration::from_secs(1);
const SWITCH_OVER_SPREAD: Duration = Duration::from_secs(4);
/// After a standstill wall time is set right within about as long.
const SET_RIGHT_WITHIN: Duration = Duration::from_secs(60);
/// The gateway looks for silent agents now and then, not to the second.
const SILENCE_MARGIN: Duration = Duration::from_secs(30);
/// How often an agent is asked again to be signed out, when it is to leave and its state forbids it, since most calls take
/// minutes, or when the gateway stays away.
const LEAVE_PAUSE: Duration = Duration::from_secs(10);
/// A sign-out is tried this often, this far apart, before a stop leaves the session as it is, or one that is asked for until the agent
/// is out becomes calmer.
const SIGN_OUT_TRIES: u8 = 3;
const SIGN_OUT_PAUSE: Duration = Duration::from_secs(1);

/// The gateway asks for 200 to 500 ms between the answer to a poll and the next one (API 1274).
const POLL_PAUSE: Duration = Duration::from_millis(200);
const POLL_SPREAD: Duration = Duration::from_millis(100);

/// What the machine must know of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which the gateway signs an agent out.
    pub sign_out_limit: Duration,
    /// Age at which the gateway renews a GUID on the next heartbeat.
    pub guid_interval: Duration,
    /// Age at which a GUID that was not renewed is dead.
    pub guid_timeout: Duration,
    /// Age at which we ask for a new GUID.
    pub guid_renewal: Option<Duration>,
    /// Force in where somebody is signed in.
    pub takeover: bool,
    /// Enter skill queues after sign-in.
    pub skills: bool,
    /// Calls that then set the agent up, in this order.
    pub settings: [Option<Operation>; SETTINGS],
    /// Heartbeats are polls, one after the other.
    pub polls: bool,
    /// There is a password. Without one a session that another program signed in can be kept, and nothing more.
    pub may_sign_in: bool,
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No session, and none wanted.
    SignedOut,
    /// First sign-in, or one that a person asked for.
    SigningIn,
    /// Signed in, heartbeats running.
    Active,
    /// The session was lost, or one of an earlier run is not yet confirmed.
    Recovering,
    /// Waits for a person.
    Suspended(Suspension),
    /// A sign-out is under way.
    SigningOut,
}

impl State {
    /// Label `state` of `ccrelay_sessions`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::SignedOut => "signed_out",
            State::SigningIn => "signing_in",
            State::Active => "active",
            State::Recovering => "recovering",
            State::Suspended(_) => "suspended",
            State::SigningOut => "signing_out",
        }
    }
}

/// What happens to a session.
#[derive(Debug, Clone, Copy)]
pub enum Input {
    /// Begin, with what an earlier run left. Where nothing is known of one, its session may still stand at the gateway.
    Start(Option<Resume>),
    /// Begin with an agent that has just come: nothing of ours is at the gateway.
    StartNew,
    /// Begin with an agent whom a person has signed out before.
    StartSignedOut,
    /// Begin with an agent who was suspended, and the start is nobody's word that it may be tried again.
    StartSuspended(Suspension),
    /// The call that [`Machine::next`] offered is sent now.
    Began(Operation),
    /// That call has ended.
    Ended(Outcome),
    /// An event says that the agent was signed out.
    ForcedOut,
    /// A person wants the agent signed in.
    SignIn,
    /// A person wants the agent signed in, and whoever is in its place forced out, this once.
    TakeOver,
    /// A person wants the agent signed out.
    SignOut,
    /// Another program has signed the agent in and leaves the session to us. Given between calls only.
    Adopted,
    /// The configuration of the agent has changed.
    Configured {
        /// What it now asks for.
        rules: Rules,
        /// The skill queues are others.
        skills: bool,
        /// Something of the sign-in is different: a person's word that a suspended session may try again.
        sign_in: bool,
    },
    /// Others who were left behind as long ago are gone from the gateway: this one is not asked for any more, if it is such.
    PastIsGone,
    /// The world's time has gone on by so much while ours stood still, as it seems. May come at any time.
    StoodStill(Duration),
    /// The answer at hand has brought a new GUID. Comes before what else that answer says.
    GuidRenewed,
    /// A call of somebody else is passed on now.
    ForwardBegan,
    /// That call has ended.
    ForwardEnded(Forwarded),
    /// The agent leaves the roster: it is signed out when its state allows that, and then the task is done.
    Leave,
    /// The daemon stops.
    Stop {
        /// Sign out first; else the session is left open for the next run.
        sign_out: bool,
    },
}

/// How a call that was passed on ended, as far as it concerns the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Whatever came of it, the session has no part in it.
    Fine,
    /// The answer says that the session is gone.
    SessionDoubted,
    /// Without an answer.
    Unanswered {
        /// Whether the gateway may have got it.
        may_have_arrived: bool,
    },
}

/// A session of an earlier run, or of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Time since its last heartbeat. Unknown where wall time says what cannot be, or that the gateway has ended the session since.
    pub silence: Option<Duration>,
    /// Whether it had entered its skill queues.
    pub skills_set: bool,
    /// Whether calls that set the agent up were still to be made. They all are then: each may be repeated.
    pub settings_due: bool,
    /// Another program has signed it in just now.
    pub adopted: bool,
    /// Another program had signed it in.
    pub foreign: bool,
    /// Age of its GUID, where it is known.
    pub guid_age: Option<Duration>,
    /// Its place among all that are resumed: its first heartbeat waits so long, if it can.
    pub delay: Duration,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer.
    Answered(Meaning),
    /// Signed in, but the password must be changed before calls come.
    PasswordChangeRequired,
    /// Without one.
    Unanswered {
        /// Whether the gateway may have done what was asked.
        may_have_arrived: bool,
    },
    /// The call was never made, as there is no password to send.
    NoPassword,
}

/// What the world is to know of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// There is a session.
    Started(Entry),
    /// A heartbeat succeeded.
    Kept,
    /// The agent is in its skill queues.
    SkillsSet,
    /// The agent is set up, as far as it was not refused.
    SettingsDone,
    /// The session lives but something is wrong with it.
    Degraded(Degradation),
    /// It is not wrong any more.
    Mended(Degradation),
    /// The session is gone; it will be signed in again.
    Lost(Loss),
    /// No session, and a person is needed.
    Suspended(Suspension),
    /// Signed out as asked.
    SignedOut,
}

/// How a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By a sign-in.
    SignedIn,
    /// By a forced sign-in.
    TakenOver,
    /// It was still there after a restart.
    Resumed,
    /// Another program has signed it in, and it is there.
    Adopted,
}

/// What is wrong with a session that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Degradation {
    /// Half of the sign-out limit has passed without a successful heartbeat.
    HeartbeatsFailing,
    /// The skill queues were refused, or could not be entered for a minute, and are tried on: no calls come.
    SkillsRefused,
    /// A call that sets the agent up after its sign-in was refused, or has failed for a minute and is tried on.
    SettingsRefused,
    /// A sign-out was refused, for instance in a call: the session stays.
    SignOutRefused,
    /// The agent is to be signed out, and the gateway does not know the session, which may stand by a newer GUID, after the death of its
    /// GUID, or at another of its addresses: it is asked on for as long as that can be.
    SignOutUnconfirmed,
    /// No push has come since the sign-in, which causes events. Found out by those who see pushes, not by the machine.
    NoPushes,
}

impl Degradation {
    /// All of them.
    pub const ALL: [Degradation; 6] = [
        Degradation::HeartbeatsFailing,
        Degradation::SkillsRefused,
        Degradation::SettingsRefused,
        Degradation::SignOutRefused,
        Degradation::SignOutUnconfirmed,
        Degradation::NoPushes,
    ];

    /// A short name for logs, events and the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Degradation::HeartbeatsFailing => "heartbeats_failing",
            Degradation::SkillsRefused => "skills_refused",
            Degradation::SettingsRefused => "settings_refused",
            Degradation::SignOutRefused => "sign_out_refused",
            Degradation::SignOutUnconfirmed => "sign_out_unconfirmed",
            Degradation::NoPushes => "no_pushes",
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Make this call at this time.
    Call(Operation, Instant),
    /// Nothing until something happens.
    Rest,
    /// The session's task is done.
    Done,
}

/// What people and the daemon want of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    SignedIn,
    SignedOut,
    Left {
        /// A person wants it signed out, should it come back.
        signed_out: bool,
    },
    Stopped {
        sign_out: bool,
        /// It was to leave before.
        left: bool,
        /// A person had wanted it signed out before.
        signed_out: bool,
    },
}

impl Wish {
    /// Whether the task is to end.
    fn ends(self) -> bool {
        matches!(self, Wish::Left { .. } | Wish::Stopped { .. })
    }

    /// Whether the agent is to be signed out for good, be it by the next run.
    fn leaves(self) -> bool {
        matches!(self, Wish::Left { .. } | Wish::Stopped { left: true, .. })
    }

    /// Whether a person wants the agent signed out, be it by the next run or when it has come back.
    fn is_out(self) -> bool {
        match self {
            Wish::SignedIn => false,
            Wish::SignedOut => true,
            Wish::Left { signed_out } | Wish::Stopped { signed_out, .. } => signed_out,
        }
    }

    /// Whether the agent is to have no session, be it only until the next run.
    fn wants_no_session(self) -> bool {
        self.is_out() || self.leaves() || matches!(self, Wish::Stopped { sign_out: true, .. })
    }

    /// Whether a sign-out is asked for until it is done, with heartbeats between, however long the gateway is away.
    fn waits(self) -> bool {
        matches!(self, Wish::Left { .. } | Wish::SignedOut)
    }
}

/// How likely the session in our way is one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It is, unless a person came in just now: force it out.
    Great,
    /// It may as well be a person's: ours would end by itself.
    Small,
}

/// A call that is unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Call(Operation),
    Forward,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// Most agents of a gateway have the same.
    rules: Arc<Rules>,
    state: State,
    wish: Wish,
    /// The unanswered call and when it was sent.
    in_flight: Option<(InFlight, Instant)>,
    /// The session, while there is one.
    held: Option<Held>,
    /// When the next sign-in or sign-out is due, where there is one to make.
    due: Option<Instant>,
    /// The next sign-in forces.
    force: bool,
    /// A person has said that whoever is in the agent's place may be forced out, once.
    take_over: bool,
    sign_in_backoff: Backoff,
    /// Sign-ins in a row that were refused without a clear reason.
    doubtful: u8,
    sign_out_tries: u8,
    /// Until when a session in our way may be our own (see the module's text).
    ours_until: Option<Instant>,
    /// How likely it is then.
    doubt: Doubt,
    /// The gateway is still at a sign-in that may be ours.
    under_way: bool,
    /// What comes after the sign-out under way, if it is not the wish that asked for it.
    after_sign_out: Option<Suspension>,
    done: bool,
    effects: Vec<Effect>,
}

impl Machine {
    /// A machine that waits for [`Input::Start`].
    #[must_use]
    pub fn new(rules: impl Into<Arc<Rules>>) -> Machine {
        Machine {
            rules: rules.into(),
            state: State::SignedOut,
            wish: Wish::SignedIn,
            in_flight: None,
            held: None,
            due: None,
            force: false,
            take_over: false,
            sign_in_backoff: Backoff::new(SIGN_IN_FIRST, SIGN_IN_MOST),
            doubtful: 0,
            sign_out_tries: 0,
            ours_until: None,
            doubt: Doubt::Small,
            under_way: false,
            after_sign_out: None,
            done: false,
            effects: Vec::new(),
        }
    }

    /// Where the session is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether there is a session that heartbeats keep alive.
    #[must_use]
    pub fn holds_session(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the next heartbeat is to carry a token.
    #[must_use]
    pub fn wants_token(&self) -> bool {
        self.held.as_ref().is_none_or(|held| !held.omit_token)
    }

    /// Whether there may be a session of an earlier run that looks past, and the gateway has not said yet.
    #[must_use]
    pub fn asks_for_past(&self) -> bool {
        self.held.as_ref().is_some_and(Held::looks_past)
    }

    /// Whether by wall time the gateway has ended the session, and has not said yet that it has not.
    #[must_use]
    pub fn may_be_past(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.looks_past() || held.is_outlasted())
    }

    /// Whether the agent is in its skill queues, as far as wanted.
    #[must_use]
    pub fn skills_set(&self) -> bool {
        self.held.as_ref().is_some_and(Held::skills_are_past)
    }

    /// Whether calls that set the agent up are still to be made.
    #[must_use]
    pub fn settings_due(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.setting(&self.rules).is_some())
    }

    /// Whether a person wants the agent signed out. It may not be so yet: that can take as long as the gateway is away.
    #[must_use]
    pub fn is_wanted_out(&self) -> bool {
        self.wish.is_out()
    }

    /// Whether the agent leaves the roster and is still to be signed out.
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.wish.leaves() && self.held.is_some()
    }

    /// Whether the daemon stops before that is done, so that it is for the next run.
    #[must_use]
    pub fn leaves_later(&self) -> bool {
        self.leaves() && !self.wish.waits()
    }

    /// When the gateway last heard of the session: from then on it counts silence.
    #[must_use]
    pub fn last_ok(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.last_ok)
    }

    /// When the session's GUID came, where that is known.
    #[must_use]
    pub fn guid_since(&self) -> Option<Instant> {
        self.held.as_ref().and_then(|held| held.guid_since)
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.done {
            return Next::Done;
        }
        if self.in_flight.is_some() {
            return Next::Rest;
        }
        match (self.state, &self.held, self.due) {
            (State::SignedOut | State::Suspended(_), _, _) => Next::Rest,
            (State::SigningOut, Some(held), Some(due)) if self.waits_to_be_out(held, due) => {
                self.heartbeat(held)
            }
            (State::SigningOut, _, Some(due)) => Next::Call(Operation::Logout, due),
            (_, Some(held), _) => match held.errand(&self.rules) {
                Some((operation, due)) if due <= held.next_heartbeat => Next::Call(operation, due),
                _ => self.heartbeat(held),
            },
            (_, None, Some(due)) => {
                let operation = if self.force { Operation::ForceLogin } else { Operation::Login };
                Next::Call(operation, due)
            }
            (_, None, None) => Next::Rest,
        }
    }

    fn heartbeat(&self, held: &Held) -> Next {
        let operation = if self.rules.polls { Operation::Poll } else { Operation::Handshake };
        Next::Call(operation, held.next_heartbeat)
    }

    /// Whether a heartbeat comes before the next try to sign the agent out.
    fn waits_to_be_out(&self, held: &Held, due: Instant) -> bool {
        self.wish.waits() && held.next_heartbeat < due
    }

    /// Whether a call of somebody else may be passed on now: there is a session, and none of its own calls is due.
    #[must_use]
    pub fn may_forward(&self, now: Instant) -> bool {
        let idle = matches!(self.next(), Next::Call(_, due) if due > now);
        let lives = self.state == State::Active || self.wish.waits();
        idle && lives && self.held.is_some()
    }

    /// Takes one input and says what the world is to know.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Start(resume) => self.start(resume, now),
            Input::StartNew => self.wish = Wish::SignedIn,
            Input::StartSignedOut => self.wish = Wish::SignedOut,
            Input::StartSuspended(suspension) => self.state = State::Suspended(suspension),
            Input::Began(operation) => self.began(operation, now),
            Input::Ended(outcome) => self.ended(outcome, now),
            Input::ForcedOut => match &mut self.held {
                Some(held) => held.check(now),
                // Whoever stands in our way has most likely come after that.
                None => self.doubt = Doubt::Small,
            },
            Input::SignIn => self.wish_signed_in(now),
            Input::TakeOver => {
                self.take_over = self.held.is_none();
                self.wish_signed_in(now);
            }
            Input::GuidRenewed => {
                if let Some(held) = &mut self.held {
                    held.guid_renewed(now);
                }
            }
            Input::PastIsGone if self.asks_for_past() => self.begin_anew(now),
            Input::PastIsGone => {}
            Input::StoodStill(by) => self.stood_still(by, now),
            Input::Adopted => self.adopted(now),
            Input::Configured { rules, skills, sign_in } => self.configured(rules, skills, sign_in, now),
            Input::ForwardBegan => self.in_flight = Some((InFlight::Forward, now)),
            Input::ForwardEnded(forwarded) => self.forward_ended(forwarded, now),
            Input::SignOut => self.wish_signed_out(),
            Input::Leave if !self.wish.ends() => self.wish = Wish::Left { signed_out: self.wish.is_out() },
            Input::Leave => {}
            Input::Stop { sign_out } => {
                let (left, signed_out) = (self.wish.leaves(), self.wish.is_out());
                self.wish = Wish::Stopped { sign_out, left, signed_out };
                self.due = self.due.map(|due| due.min(now));
            }
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    fn start(&mut self, resume: Option<Resume>, now: Instant) {
        self.wish = Wish::SignedIn;
        let Some(resume) = resume else { return self.may_be_ours_from(now, Doubt::Small) };
        if resume.adopted {
            return self.adopted(now);
        }
        let limit = self.rules.sign_out_limit;
        let remaining = limit.saturating_sub(resume.silence.unwrap_or_default());
        // A GUID that is near its end cannot wait for its place. One that is past it is dead, or does not change.
        let guid_left = resume.guid_age.and_then(|age| self.rules.guid_timeout.checked_sub(age));
        let first = resume.delay.min(remaining.min(guid_left.unwrap_or(remaining)) / 4);
        let skills = if resume.skills_set { SkillsState::Done } else { self.skills() };
        let mut held = Held::resumed(now, resume, now + first, skills);
        held.spread_slots(&self.rules);
        if resume.settings_due {
            held.set_up(&self.rules, now);
        }
        self.held = Some(held);
        // A GUID that came just before the last run ended may not have been saved. Another program may have signed in anew
        // meanwhile, and could not tell us.
        let known = resume.silence.is_some() && !resume.foreign;
        let doubt = if known { Doubt::Great } else { Doubt::Small };
        self.doubt_until(now + remaining + SILENCE_MARGIN, doubt);
        self.state = State::Recovering;
    }

    /// A session that looked past is not there: as at a start that knows of none.
    fn begin_anew(&mut self, now: Instant) {
        self.held = None;
        self.state = State::SignedOut;
        self.may_be_ours_from(now, Doubt::Small);
        if self.wish.wants_no_session() {
            self.effects.push(Effect::SignedOut);
        }
    }

    /// A session that another program signed in: whoever did that has also seen to its skill queues. Whether it is
    /// there a heartbeat finds out at once.
    fn adopted(&mut self, now: Instant) {
        if self.in_flight.is_some() || self.wish.ends() {
            return;
        }
        self.wish = Wish::SignedIn;
        self.held = Some(Held::adopted(now));
        self.state = State::Recovering;
        (self.due, self.after_sign_out, self.ours_until) = (None, None, None);
        self.under_way = false;
        self.sign_in_backoff.reset();
    }

    /// What is under way was begun before.
    fn stood_still(&mut self, by: Duration, now: Instant) {
        if let Some((_, sent)) = &mut self.in_flight {
            *sent = sent.checked_sub(by).unwrap_or(*sent);
        }
        let limit = self.rules.sign_out_limit;
        let outlasted = match &mut self.held {
            Some(held) => {
                held.stood_still(by, &self.rules, now);
                held.has_been_outlasted(limit, now)
            }
            None => by >= limit,
        };
        if outlasted {
            self.doubt = Doubt::Small;
            self.force &= self.rules.takeover || self.take_over;
        }
        let just_now = self.ours_until.is_some_and(|until| now <= until + SET_RIGHT_WITHIN);
        if self.state == State::Suspended(Suspension::SignedInElsewhere) && just_now {
            self.may_be_ours_from(now, Doubt::Small);
            self.begin_sign_in(State::Recovering, now);
        }
    }

    fn configured(&mut self, rules: Rules, skills: bool, sign_in: bool, now: Instant) {
        self.rules = Arc::new(rules);
        if let Some(held) = &mut self.held {
            held.skip_settings_not_wanted(&rules);
        }
        if let Some(held) = self.held.as_mut().filter(|_| skills) {
            held.skills_changed(now);
        }
        if sign_in && matches!(self.state, State::Suspended(_)) {
            self.wish_signed_in(now);
        }
    }

    /// What a call that was passed on says of the session is for a heartbeat to find out.
    fn forward_ended(&mut self, forwarded: Forwarded, now: Instant) {
        let Some((InFlight::Forward, sent)) = self.in_flight else { return };
        self.in_flight = None;
        match (forwarded, &mut self.held) {
            (Forwarded::SessionDoubted, Some(held)) => held.doubt(now),
            (Forwarded::Unanswered { may_have_arrived: true }, _) => {
                self.answer_lost(Doubt::Great, sent, now)
            }
            _ => {}
        }
    }

    fn wish_signed_out(&mut self) {
        match &mut self.wish {
            Wish::Left { signed_out } => *signed_out = true,
            Wish::Stopped { .. } => {}
            Wish::SignedIn | Wish::SignedOut => {
                self.wish = Wish::SignedOut;
                self.take_over = false;
            }
        }
    }

    fn wish_signed_in(&mut self, now: Instant) {
        if let Wish::Left { signed_out } = &mut self.wish {
            *signed_out = false;
        }
        if self.wish.ends() {
            return;
        }
        self.wish = Wish::SignedIn;
        if self.held.as_mut().is_some_and(Held::drop_refusal) {
            self.effects.push(Effect::Mended(Degradation::SignOutRefused));
        }
        if self.held.as_mut().is_some_and(Held::drop_unconfirmed) {
            self.effects.push(Effect::Mended(Degradation::SignOutUnconfirmed));
        }
        if self.held.is_none() && self.in_flight.is_none() {
            self.doubtful = 0;
            self.sign_in_backoff.reset();
            match self.state {
                State::Recovering => self.due = Some(now),
                _ => self.begin_sign_in(State::SigningIn, now),
            }
        }
    }

    fn began(&mut self, operation: Operation, now: Instant) {
        debug_assert!(self.in_flight.is_none(), "two calls in flight");
        self.in_flight = Some((InFlight::Call(operation), now));
        if let (Operation::Handshake | Operation::Poll, Some(held)) = (operation, &mut self.held) {
            held.heartbeat_sent();
        }
    }

    fn ended(&mut self, outcome: Outcome, now: Instant) {
        let Some((InFlight::Call(operation), sent)) = self.in_flight else { return };
        self.in_flight = None;
        if outcome == (Outcome::Unanswered { may_have_arrived: true }) && operation.brings_guid() {
            // A sign-in that restores nothing may have met a person.
            let small = operation == Operation::Login && !self.is_ours(now);
            self.answer_lost(if small { Doubt::Small } else { Doubt::Great }, sent, now);
        }
        if self.asks_for_past() && matches!(outcome, Outcome::Answered(Meaning::Lost(_))) {
            // Nor has anybody signed it out who was to be.
            return self.begin_anew(now);
        }
        if let (Outcome::Answered(Meaning::NotNow), Some(held)) = (outcome, &mut self.held) {
            held.is_not_past();
        }
        match operation {
            Operation::Login | Operation::ForceLogin => self.sign_in_ended(operation, outcome, sent, now),
            Operation::Handshake | Operation::Poll => self.heartbeat_ended(outcome, sent, now),
            Operation::ResetSkill => self.skills_ended(outcome, now),
            Operation::AutoAnswer | Operation::SayFree | Operation::SayBusy | Operation::Work => {
                self.setting_ended(operation, outcome, now);
            }
            Operation::UpdateGuid => self.renewal_ended(outcome, sent, now),
            Operation::Logout => self.sign_out_ended(outcome, now),
        }
    }

    /// Brings state and wish together, where no call is in flight.
    fn settle(&mut self, now: Instant) {
        if self.in_flight.is_some() || self.done {
            return;
        }
        match (self.wish, self.state) {
            (Wish::SignedIn, State::SignedOut | State::SigningIn | State::Recovering)
                if self.held.is_none() && !self.rules.may_sign_in =>
            {
                self.suspend(Suspension::AdoptedSessionLost);
            }
            (Wish::SignedIn, State::SignedOut) => self.begin_sign_in(State::SigningIn, now),
            (Wish::SignedIn, State::SigningOut) if self.after_sign_out.is_none() => self.stay(now),
            (Wish::SignedIn, _) => {}
            (Wish::Stopped { sign_out: false, .. }, _) => self.done = true,
            (_, State::SigningOut) => {}
            (wish, state) if self.held.is_none() => {
                // A loss was told, and with it that the agent will be signed in again.
                if state == State::Recovering {
                    self.effects.push(Effect::SignedOut);
                }
                self.state = State::SignedOut;
                self.due = None;
                self.under_way = false;
                self.done = wish.ends();
            }
            _ => self.begin_sign_out(now),
        }
    }

    fn begin_sign_in(&mut self, state: State, due: Instant) {
        self.state = state;
        self.force = false;
        self.due = Some(due);
    }

    fn sign_in_ended(&mut self, operation: Operation, outcome: Outcome, sent: Instant, now: Instant) {
        self.force = false;
        if std::mem::take(&mut self.under_way) {
            self.may_be_ours_from(now, self.doubt);
        }
        match outcome {
            Outcome::Answered(Meaning::Ok) => {
                self.hold(sent, now);
                let forced = operation == Operation::ForceLogin;
                let entry = if forced { Entry::TakenOver } else { Entry::SignedIn };
                self.effects.push(Effect::Started(entry));
            }
            Outcome::PasswordChangeRequired => {
                self.hold(sent, now);
                self.after_sign_out = Some(Suspension::PasswordChangeRequired);
                self.begin_sign_out(now);
            }
            Outcome::Answered(Meaning::SignedIn)
                if self.rules.takeover || self.take_over || self.is_ours(now) =>
            {
                self.force = true;
                self.due = Some(now);
            }
            Outcome::Answered(Meaning::SignedIn) if self.may_be_ours(now) => self.sign_in_later(now),
            Outcome::Answered(Meaning::SignedIn) => {
                // Past, unless it turns out that we stood still.
                self.ours_until = Some(now);
                self.suspend(Suspension::SignedInElsewhere);
            }
            Outcome::Answered(Meaning::Suspend(suspension)) => self.suspend(suspension),
            Outcome::NoPassword => self.suspend(Suspension::PasswordUnreadable),
            Outcome::Answered(Meaning::SwitchingOver) => self.due = Some(now + switch_over_wait()),
            Outcome::Answered(Meaning::UnderWay) => {
                self.under_way = self.may_be_ours(now);
                self.sign_in_later(now);
            }
            Outcome::Answered(Meaning::Transient) | Outcome::Unanswered { .. } => self.sign_in_later(now),
            Outcome::Answered(_) => {
                self.doubtful = self.doubtful.saturating_add(1);
                if self.doubtful >= DOUBTFUL_TRIES {
                    self.suspend(Suspension::SignInRefused);
                } else {
                    self.sign_in_later(now);
                }
            }
        }
    }

    fn sign_in_later(&mut self, now: Instant) {
        self.due = Some(now + self.sign_in_backoff.next_wait());
    }

    /// From now on there may be a session of ours, or a GUID, that we do not know.
    fn may_be_ours_from(&mut self, now: Instant, doubt: Doubt) {
        self.doubt_until(now + self.rules.sign_out_limit + SILENCE_MARGIN, doubt);
    }

    /// The answer to a call may have carried what we do not know now. Where the gateway has heard nothing of us for as long as it waits,
    /// before that call or since, the session is past, and a person may have come.
    fn answer_lost(&mut self, doubt: Doubt, sent: Instant, now: Instant) {
        let limit = self.rules.sign_out_limit;
        let outlasted = now.saturating_duration_since(sent) >= limit
            || self.held.as_ref().is_some_and(|held| held.has_been_outlasted(limit, sent));
        self.may_be_ours_from(now, if outlasted { Doubt::Small } else { doubt });
    }

    fn doubt_until(&mut self, until: Instant, doubt: Doubt) {
        self.ours_until = Some(until);
        self.doubt = doubt;
    }

    /// Whether a session in our way may be our own, so that it may end by itself.
    fn may_be_ours(&self, now: Instant) -> bool {
        self.ours_until.is_some_and(|until| now <= until)
    }

    /// Whether it is, as far as we can know.
    fn is_ours(&self, now: Instant) -> bool {
        self.doubt == Doubt::Great && self.may_be_ours(now)
    }

    /// There is a session, sent for at `sent`.
    fn hold(&mut self, sent: Instant, now: Instant) {
        let mut held = Held::signed_in(sent, now, self.skills());
        if self.rules.polls {
            held.next_heartbeat = now;
        }
        held.set_up(&self.rules, now);
        self.held = Some(held);
        self.state = State::Active;
        self.due = None;
        self.doubtful = 0;
        self.ours_until = None;
        self.take_over = false;
    }

    fn skills(&self) -> SkillsState {
        if self.rules.skills { SkillsState::Due } else { SkillsState::Done }
    }

    fn heartbeat_ended(&mut self, outcome: Outcome, sent: Instant, now: Instant) {
        let Some(held) = &mut self.held else { return };
        match outcome {
            Outcome::Answered(Meaning::Ok) => self.heartbeat_succeeded(sent, now),
            Outcome::Answered(Meaning::Lost(loss)) if self.wish.waits() => {
                held.heartbeat_waits(now + LEAVE_PAUSE);
                self.unknown_while_leaving(loss, now);
            }
            Outcome::Answered(Meaning::Lost(loss)) => self.lose(loss, now),
            Outcome::Answered(Meaning::Suspend(_) | Meaning::Refused | Meaning::Doubtful)
                if held.looks_past() =>
            {
                self.begin_anew(now);
            }
            Outcome::Answered(Meaning::Suspend(suspension)) => self.suspend(suspension),
            Outcome::Answered(Meaning::TokenRefused) if !held.omit_token => {
                held.omit_token = true;
                held.next_heartbeat = now;
            }
            Outcome::Answered(Meaning::SwitchingOver) => {
                held.heartbeat_waits(now + switch_over_wait());
                self.check_silence(outcome, now);
            }
            _ => {
                if let Outcome::Unanswered { may_have_arrived: true } = outcome {
                    held.answer_lost();
                }
                held.heartbeat_failed(now);
                self.check_silence(outcome, now);
            }
        }
    }

    fn heartbeat_succeeded(&mut self, sent: Instant, now: Instant) {
        let Some(held) = &mut self.held else { return };
        if let Some(entry) = held.unconfirmed {
            self.effects.push(Effect::Started(entry));
        }
        held.heartbeat_succeeded(sent, now, &self.rules);
        if self.rules.polls {
            held.next_heartbeat = now + POLL_PAUSE + jitter(POLL_SPREAD);
        }
        if sent.saturating_duration_since(held.since) >= self.rules.heartbeat_interval {
            self.sign_in_backoff.reset();
        }
        if held.forgets_refusal() {
            self.effects.push(Effect::Mended(Degradation::SignOutRefused));
        }
        if held.drop_unconfirmed() {
            self.effects.push(Effect::Mended(Degradation::SignOutUnconfirmed));
        }
        // One that the gateway had replaced it would not have taken for so long.
        if self.ours_until.is_some_and(|until| sent > until + self.rules.guid_interval) {
            held.guid_is_newest();
        }
        // Else the GUID that we know is on its way out. What stands in our way then may still be our own session.
        if held.knows_newest_guid() {
            self.ours_until = None;
        }
        self.doubt = Doubt::Small;
        if self.state != State::SigningOut {
            self.state = State::Active;
        }
        self.effects.push(Effect::Kept);
    }

    /// After a failed heartbeat: is there still a session to fight for?
    fn check_silence(&mut self, outcome: Outcome, now: Instant) {
        let Some(held) = &mut self.held else { return };
        let silence = held.silence(now);
        if silence >= self.rules.sign_out_limit {
            match outcome {
                Outcome::Answered(Meaning::Refused) => self.suspend(Suspension::HeartbeatRefused),
                _ => self.lose(Loss::TimedOut, now),
            }
        } else if silence >= self.rules.sign_out_limit / 2 && !held.degraded && !held.looks_past() {
            held.degraded = true;
            self.effects.push(Effect::Degraded(Degradation::HeartbeatsFailing));
        }
    }

    fn skills_ended(&mut self, outcome: Outcome, now: Instant) {
        let Some(held) = &mut self.held else { return };
        match outcome {
            Outcome::Answered(Meaning::Ok) => {
                held.skills_ended(SkillsState::Done, &self.rules, now);
                self.effects.push(Effect::SkillsSet);
            }
            Outcome::Answered(Meaning::Lost(loss)) if self.wish.waits() => {
                self.unknown_while_leaving(loss, now)
            }
            Outcome::Answered(Meaning::Lost(loss)) => self.lose(loss, now),
            Outcome::Answered(Meaning::SwitchingOver) => held.skills_wait(now + switch_over_wait()),
            Outcome::Answered(Meaning::Refused) => return self.skills_refused(now),
            Outcome::Answered(Meaning::Doubtful) if held.skills_hopeless() => {
                return self.skills_refused(now);
            }
            _ => held.skills_failed(now),
        }
        self.tell_of_skills(false, now);
    }

    fn skills_refused(&mut self, now: Instant) {
        self.tell_of_skills(true, now);
        if let Some(held) = &mut self.held {
            held.skills_ended(SkillsState::Refused, &self.rules, now);
        }
    }

    fn tell_of_skills(&mut self, refused: bool, now: Instant) {
        if self.held.as_mut().is_some_and(|held| held.tell_of_skills(refused, now)) {
            self.effects.push(Effect::Degraded(Degradation::SkillsRefused));
        }
    }

    fn setting_ended(&mut self, operation: Operation, outcome: Outcome, now: Instant) {
        let Some(held) = &mut self.held else { return };
        // Where the configuration has changed meanwhile, what is wanted now has not been asked for yet.
        let asked = held.setting(&self.rules) == Some(operation);
        match outcome {
            Outcome::Answered(Meaning::Lost(loss)) if self.wish.waits() => {
                self.unknown_while_leaving(loss, now)
            }
            Outcome::Answered(Meaning::Lost(loss)) => self.lose(loss, now),
            _ if !asked => {}
            Outcome::Answered(Meaning::Ok) => {
                if held.setting_mended() {
                    self.effects.push(Effect::Mended(Degradation::SettingsRefused));
                }
                self.setting_is_past(now);
            }
            Outcome::Answered(Meaning::Refused) => self.setting_refused(now),
            Outcome::Answered(Meaning::Doubtful) if held.setting_hopeless() => self.setting_refused(now),
            Outcome::Answered(Meaning::SwitchingOver) => {
                held.setting_waits(now + switch_over_wait());
                self.tell_of_setting(false, now);
            }
            _ => {
                held.setting_failed(now);
                self.tell_of_setting(false, now);
            }
        }
    }

    fn setting_refused(&mut self, now: Instant) {
        self.tell_of_setting(true, now);
        self.setting_is_past(now);
    }

    fn tell_of_setting(&mut self, refused: bool, now: Instant) {
        if self.held.as_mut().is_some_and(|held| held.tell_of_setting(refused, now)) {
            self.effects.push(Effect::Degraded(Degradation::SettingsRefused));
        }
    }

    fn setting_is_past(&mut self, now: Instant) {
        let Some(held) = &mut self.held else { return };
        held.setting_is_past(&self.rules, now);
        if held.setting(&self.rules).is_none() {
            self.effects.push(Effect::SettingsDone);
        }
    }

    /// What the answer says of the session is for a heartbeat to find out.
    fn renewal_ended(&mut self, outcome: Outcome, sent: Instant, now: Instant) {
        let Some(held) = &mut self.held else { return };
        match outcome {
            Outcome::Answered(Meaning::Ok) if held.guid_since.is_some_and(|since| since >= sent) => {}
            Outcome::Answered(Meaning::Lost(_)) => {
                held.renewal_failed();
                held.doubt(now);
            }
            Outcome::Unanswered { may_have_arrived: true } => held.renewal_unanswered(now),
            Outcome::Answered(Meaning::SwitchingOver | Meaning::Transient) | Outcome::Unanswered { .. } => {
                held.renewal_failed();
            }
            // Also a success that brings no new GUID: the gateway's are static.
            _ => held.renewal_refused(),
        }
    }

    fn begin_sign_out(&mut self, now: Instant) {
        self.state = State::SigningOut;
        self.sign_out_tries = 0;
        self.due = Some(now);
    }

    fn sign_out_ended(&mut self, outcome: Outcome, now: Instant) {
        self.sign_out_tries = self.sign_out_tries.saturating_add(1);
        match outcome {
            Outcome::Answered(Meaning::Lost(loss)) if self.wish.waits() => {
                self.due = Some(now + LEAVE_PAUSE);
                self.unknown_while_leaving(loss, now);
            }
            Outcome::Answered(Meaning::Lost(loss)) if self.may_stand_unknown(loss, now) => {
                self.sign_out_refused(now)
            }
            Outcome::Answered(Meaning::Ok | Meaning::Lost(_)) => self.is_out(),
            // In a call, which would end with the session: it is kept until then.
            Outcome::Answered(Meaning::NotNow) if matches!(self.wish, Wish::Left { .. }) => {
                self.sign_out_tries = 0;
                self.due = Some(now + LEAVE_PAUSE);
            }
            Outcome::Answered(Meaning::NotNow) if !self.wish.ends() => self.sign_out_refused(now),
            Outcome::Answered(Meaning::Refused) => self.sign_out_refused(now),
            _ if self.sign_out_tries < SIGN_OUT_TRIES => self.due = Some(now + SIGN_OUT_PAUSE),
            // A gateway that is away for a while cuts no call and takes back no word: whether the session lives is for heartbeats
            // to find out.
            Outcome::Answered(Meaning::Transient | Meaning::SwitchingOver) | Outcome::Unanswered { .. }
                if self.wish.waits() =>
            {
                self.due = Some(now + LEAVE_PAUSE);
            }
            _ => self.sign_out_refused(now),
        }
    }

    /// Whether a gateway that says that it does not know the session may know it by a newer GUID, or keep it after its GUID has died of its
    /// age, or know it at another address: then it would stand in its queues for as long as the gateway waits for heartbeats, and calls
    /// would ring. Not where an event has announced its end.
    fn may_stand_unknown(&self, loss: Loss, now: Instant) -> bool {
        let announced = self.held.as_ref().is_some_and(Held::end_was_announced);
        if announced && loss != Loss::SwitchedOver {
            return false;
        }
        matches!(loss, Loss::OtherAddress | Loss::SwitchedOver)
            || self.held.as_ref().is_some_and(|held| {
                !held.knows_newest_guid() || held.has_outlived_its_guid(&self.rules, now)
            })
            // Of an earlier run, with a GUID that may not have been saved, or after a call that was passed on without an answer.
            || self.is_ours(now)
    }

    /// The gateway does not know the session of an agent who is to be signed out. Out already, by a sign-out whose answer was lost or by
    /// somebody else: that was what was wanted. Where it may stand all the same, and a person wants the agent out, it is asked for until
    /// nobody can have kept it alive. Who leaves may be to come back, which does not wait for that.
    fn unknown_while_leaving(&mut self, loss: Loss, now: Instant) {
        let unsure = self.may_stand_unknown(loss, now);
        let Some(held) = &mut self.held else { return };
        let over =
            held.silence(now) >= self.rules.sign_out_limit && self.ours_until.is_none_or(|until| now > until);
        if over || !unsure {
            self.is_out();
        } else if !self.wish.is_out() {
            self.sign_out_refused(now);
        } else if held.remember_unconfirmed() {
            self.effects.push(Effect::Degraded(Degradation::SignOutUnconfirmed));
        }
    }

    /// There is no session any more, as was wanted.
    fn is_out(&mut self) {
        self.held = None;
        self.ours_until = None;
        match self.after_sign_out.take() {
            Some(suspension) => self.suspend(suspension),
            None => {
                self.state = State::SignedOut;
                self.due = None;
                self.effects.push(Effect::SignedOut);
            }
        }
    }

    /// The gateway does not sign the agent out: leave the session to the next run, to silence, or keep it.
    fn sign_out_refused(&mut self, now: Instant) {
        if let Some(suspension) = self.after_sign_out.take() {
            // It stands for as long as the gateway waits for heartbeats, and may meet us when another password is there before. So may the
            // person who has just changed it.
            self.may_be_ours_from(now, Doubt::Small);
            self.suspend(suspension);
        } else if self.wish.ends() {
            self.done = true;
        } else {
            self.wish = Wish::SignedIn;
            self.effects.push(Effect::Degraded(Degradation::SignOutRefused));
            if let Some(held) = &mut self.held {
                held.remember_refusal();
            }
            self.stay(now);
        }
    }

    /// Keeps the session that was to be signed out.
    fn stay(&mut self, now: Instant) {
        self.state = State::Active;
        self.due = None;
        match &mut self.held {
            Some(held) => held.next_heartbeat = held.next_heartbeat.min(now),
            None => self.begin_sign_in(State::SigningIn, now),
        }
    }

    fn lose(&mut self, loss: Loss, now: Instant) {
        if self.asks_for_past() {
            return self.begin_anew(now);
        }
        let held = self.held.take();
        let announced = held.as_ref().is_some_and(Held::end_was_announced);
        let confirmed = matches!(loss, Loss::NotSignedIn | Loss::GuidRefused | Loss::OtherAddress);
        let ended = announced && confirmed;
        if ended {
            // Though an answer was lost before: only an event that is late, and of an earlier session, leaves one of ours standing.
            self.doubt = Doubt::Small;
        }
        let loss = if ended { Loss::ShutDown } else { loss };
        let unknown = matches!(loss, Loss::NotSignedIn | Loss::GuidRefused);
        // A GUID that has died is refused whoever is signed in.
        let outlived = held
            .as_ref()
            .filter(|held| unknown && held.has_outlived_its_guid(&self.rules, now))
            .map(|held| self.rules.sign_out_limit.saturating_sub(held.silence(now)));
        // The gateway looks for silent agents in its own time, another site may know the session, and a gateway that was away may
        // have forgotten what its platform keeps.
        let stands = matches!(loss, Loss::TimedOut | Loss::SwitchedOver)
            || held.is_some_and(|held| held.was_troubled() || held.was_left_alone(&self.rules, now))
            || self.may_be_ours(now);
        if loss == Loss::OtherAddress {
            self.may_be_ours_from(now, Doubt::Great);
        } else if !self.is_ours(now) {
            match outlived {
                Some(remaining) => self.doubt_until(now + remaining + SILENCE_MARGIN, Doubt::Great),
                None if stands => self.may_be_ours_from(now, Doubt::Small),
                None => {}
            }
        }
        self.effects.push(Effect::Lost(loss));
        let wait = self.sign_in_backoff.next_wait();
        self.begin_sign_in(State::Recovering, now + wait);
    }

    /// A person is needed, who may sign in as the agent to see to it.
    fn suspend(&mut self, suspension: Suspension) {
        self.held = None;
        self.doubt = Doubt::Small;
        self.due = None;
        self.take_over = false;
        self.state = State::Suspended(suspension);
        self.effects.push(Effect::Suspended(suspension));
    }
}

fn switch_over_wait() -> Duration {
    SWITCH_OVER_LEAST + jitter(SWITCH_OVER_SPREAD)
}
