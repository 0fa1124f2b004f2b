//! A session that the gateway gave us: when its heartbeats are due and how long it lasts without one.
//!
//! **The age of the GUID** decides how long the daemon may be away. The gateway renews a GUID on a heartbeat once it is
//! `guid_interval` old, and one that is not renewed dies at `guid_timeout`, twice that age by default; so a GUID that is
//! left to the gateway may have less than the difference to live when the daemon is killed. Therefore we ask for a new one
//! (`updateGuid`) at three quarters of the interval: with 60 s and 120 s, one that is at most 45 s old and a call lives for 75 s less that call, in
//! which a minute away, a start, and the first heartbeats over five seconds fit. What stays: a kill between the
//! gateway's answer with a new GUID and its being on disk, some milliseconds in 45 s.
//!
//! **A new GUID that we were not told.** An answer that is lost may have carried one: ours is then the one before, taken for
//! a while yet, and dead with the next change whose answer is lost too, since a gateway tells each only once. So after a
//! heartbeat or an `updateGuid` without an answer, the first heartbeat that succeeds and brings none is followed by an
//! `updateGuid` at once: answers come through just then. That holds after every unanswered one, however young our GUID is, since
//! the gateway's interval may be shorter than the one we were told.
//!
//! Where a gateway refuses `updateGuid` (older ones, static GUIDs), heartbeats keep slots, and the slots keep step with the GUID:
//! the gateway renews a GUID on the first heartbeat after `guid_interval`, so a heartbeat a moment before that age would
//! leave it to the next one, half a minute later. A daemon that is killed then and returns within seconds would meet a
//! dead GUID. So a slot shortly before that age moves to it, and no slot lies beyond it.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, jitter};
use crate::session::retcode::Operation;
use crate::session::state::{Entry, Resume, Rules};

/// How many calls may set an agent up after its sign-in.
pub const SETTINGS: usize = 2;

/// A failed heartbeat is repeated within seconds: at least eight tries with their deadlines fit into the limit.
const REPEAT_FIRST: Duration = Duration::from_secs(1);
const REPEAT_MOST: Duration = Duration::from_secs(4);
/// The first heartbeat follows soon, so that a session that is not one is found out at once.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(2);
const FIRST_SPREAD: Duration = Duration::from_secs(3);
/// How long after the age at which the gateway renews a GUID the heartbeat is due that fetches the new one.
const GUID_MARGIN: Duration = Duration::from_secs(1);
/// A GUID is older at the gateway than here, by as long as the answer that brought it was on its way.
const GUID_DELAY: Duration = Duration::from_secs(10);
/// A slot that lies before that by less than this part of the interval moves to it.
const GUID_PULL_DIVISOR: u32 = 4;
/// A refused sign-out is shown for five minutes at the usual interval. It is over when it is refused: the session is kept as
/// before.
const REFUSAL_SHOWN: u8 = 10;
/// New GUIDs that are asked for before we wait for the one that the gateway gives by itself, and the time between.
const RENEWAL_TRIES: u8 = 3;
const RENEWAL_PAUSE: Duration = Duration::from_secs(3);
/// How many heartbeats a gateway that refuses them is not asked for, ten minutes at the usual interval: a gateway that is being
/// deployed may refuse what it does when it is there.
const RENEWALS_REST: u8 = 20;
/// After a standstill all sessions are asked for within this long.
const WAKE_SPREAD: Duration = Duration::from_secs(5);
/// Heartbeats keep their slots, each late by up to a tenth of the interval, so that agents do not march in step.
const JITTER_DIVISOR: u32 = 10;
/// Skill queues that cannot be entered for the moment: calls stay away meanwhile, so soon, then calmer.
const SKILLS_FIRST: Duration = Duration::from_secs(1);
const SKILLS_MOST: Duration = Duration::from_secs(30);
/// Doubtful refusals of the skill queues, or of what else is set, before they count as final.
const SKILLS_TRIES: u32 = 5;
/// How long either may go on to fail, in whatever way, before that is told: the agent gets no calls meanwhile. It is tried on.
const SET_UP_PATIENCE: Duration = Duration::from_secs(60);
/// Shortest time between two checks asked for by events.
const CHECK_SPACING: Duration = Duration::from_secs(1);

/// Whether the agent is in its skill queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkillsState {
    /// To be entered.
    Due,
    /// Entered, or none wanted.
    Done,
    /// Refused for good: the agent gets events but no calls.
    Refused,
}

#[derive(Debug)]
pub(super) struct Held {
    /// When the sign-in was answered, or the resumed session taken up.
    pub(super) since: Instant,
    /// When the last heartbeat that succeeded (or the sign-in) was sent: from then on the gateway counts silence.
    pub(super) last_ok: Instant,
    /// When the GUID came; unknown for one that another program gave us.
    pub(super) guid_since: Option<Instant>,
    /// When the next heartbeat is due.
    pub(super) next_heartbeat: Instant,
    /// The slot of the fixed schedule that `next_heartbeat` belongs to.
    slot: Instant,
    /// Waits between repeats of a failed heartbeat.
    repeat: Backoff,
    skills: SkillsState,
    /// What is still to be done for the agent to get calls: nothing, in a session that is only kept. On the heap, since
    /// nearly all sessions are only kept, and there are many.
    set_up: Option<Box<SetUp>>,
    /// Of an earlier run or another program, and not yet confirmed; and what it is once it is.
    pub(super) unconfirmed: Option<Entry>,
    marks: Marks,
    /// New GUIDs that were asked for in vain since the last one came.
    renewal_tries: u8,
    /// Whether our GUID is the newest.
    newest: Newest,
    /// The gateway gives no GUIDs that it is asked for: for so many heartbeats wait for its own.
    renewals_rest: u8,
    /// For how many heartbeats it is still shown that a sign-out was refused.
    refusal_shown: u8,
    /// It is shown that a sign-out was answered with nothing but that the session is unknown.
    unconfirmed_shown: bool,
    /// The token was refused: the next heartbeat goes without.
    pub(super) omit_token: bool,
    /// No heartbeat has succeeded since one failed, be it that the gateway could not be reached or is switching over.
    troubled: bool,
    /// A consumer was told that the session is in danger.
    pub(super) degraded: bool,
    /// An event said that the session has ended; a heartbeat is to find out.
    shut_down: bool,
    /// The heartbeat in flight was sent after that event.
    checking: bool,
}

/// What is seldom so.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// Another program had signed it in, and may sign in anew.
    Foreign = 1,
    /// The machine stood still, as it seems, and no heartbeat has succeeded since.
    Woken = 2,
    /// By wall time that took longer than the gateway waits: whoever is in our way now may well be a person.
    Outlasted = 4,
    /// It was left behind for longer than the gateway waits, if the clocks are right.
    LooksPast = 8,
}

/// All of it in one byte, since there are many sessions.
#[derive(Debug, Clone, Copy, Default)]
struct Marks(u8);

impl Marks {
    fn has(self, mark: Mark) -> bool {
        self.0 & mark as u8 != 0
    }

    fn with(self, mark: Mark, set: bool) -> Marks {
        Marks(if set { self.0 | mark as u8 } else { self.0 & !(mark as u8) })
    }
}

/// Whether the GUID that we hold is the newest, as far as we can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    /// Every answer that may have carried a newer one came.
    Ours,
    /// One did not. Ours lives on for a while, but asked for one more in vain it may be two behind and dead: a heartbeat has to
    /// show first that answers come again.
    Doubted,
    /// They come again, and none brought it: it is to be asked for. All sessions do that after an outage, as spread as their
    /// heartbeats are.
    Missed,
}

/// How far the agent is set up.
#[derive(Debug)]
struct SetUp {
    /// To enter the skill queues, if they are to be entered.
    skills: Step,
    /// Which of the settings in the rules is next; behind the last when all are made.
    next_setting: usize,
    /// To make that one, once the skill queues are entered.
    setting: Step,
    /// One was refused, which is shown until the next sign-in.
    setting_refused: bool,
}

impl SetUp {
    /// Nothing but the skill queues, from now on.
    fn new(now: Instant) -> Box<SetUp> {
        let (skills, setting) = (Step::new(now), Step::new(now));
        Box::new(SetUp { skills, next_setting: SETTINGS, setting, setting_refused: false })
    }
}

/// One of the things that set an agent up, and how it goes.
#[derive(Debug)]
struct Step {
    due: Instant,
    backoff: Backoff,
    /// Since when it is to be done.
    since: Instant,
    /// It was told that it fails.
    told: bool,
}

impl Step {
    fn new(now: Instant) -> Step {
        Step { due: now, backoff: Backoff::new(SKILLS_FIRST, SKILLS_MOST), since: now, told: false }
    }

    fn failed(&mut self, now: Instant) {
        self.due = now + self.backoff.next_wait();
    }

    /// Whether it has failed too often for a refusal without a clear reason.
    fn is_hopeless(&self) -> bool {
        self.backoff.tries() >= SKILLS_TRIES
    }

    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= SET_UP_PATIENCE
    }
}

impl Held {
    /// A session that was just given.
    pub(super) fn signed_in(sent: Instant, now: Instant, skills: SkillsState) -> Held {
        let first = now + FIRST_HEARTBEAT + jitter(FIRST_SPREAD);
        Held { guid_since: Some(now), ..Held::new(now, sent, first, skills) }
    }

    /// A session of an earlier run.
    pub(super) fn resumed(now: Instant, resume: Resume, first: Instant, skills: SkillsState) -> Held {
        let silence = resume.silence.unwrap_or_default();
        let last_ok = now.checked_sub(silence).unwrap_or(now);
        let guid_since = resume.guid_age.and_then(|age| now.checked_sub(age));
        let marks = Marks::default()
            .with(Mark::Foreign, resume.foreign)
            .with(Mark::LooksPast, resume.silence.is_none());
        Held {
            guid_since,
            unconfirmed: Some(Entry::Resumed),
            marks,
            ..Held::new(now, last_ok, first, skills)
        }
    }

    /// The first heartbeats of all that are resumed come within seconds. The next ones are to be spread over the interval, so the slot
    /// that the first belongs to is an earlier one.
    pub(super) fn spread_slots(&mut self, rules: &Rules) {
        let earlier = jitter(rules.heartbeat_interval);
        self.slot = self.slot.checked_sub(earlier).unwrap_or(self.slot);
    }

    /// A session that another program signed in; when, we cannot know.
    pub(super) fn adopted(now: Instant) -> Held {
        let (unconfirmed, marks) = (Some(Entry::Adopted), Marks::default().with(Mark::Foreign, true));
        Held { unconfirmed, marks, ..Held::new(now, now, now, SkillsState::Done) }
    }

    fn new(since: Instant, last_ok: Instant, first_heartbeat: Instant, skills: SkillsState) -> Held {
        Held {
            since,
            last_ok,
            guid_since: None,
            next_heartbeat: first_heartbeat,
            slot: first_heartbeat,
            repeat: Backoff::new(REPEAT_FIRST, REPEAT_MOST),
            skills,
            set_up: (skills == SkillsState::Due).then(|| SetUp::new(since)),
            unconfirmed: None,
            marks: Marks::default(),
            renewal_tries: 0,
            newest: Newest::Ours,
            renewals_rest: 0,
            refusal_shown: 0,
            unconfirmed_shown: false,
            omit_token: false,
            troubled: false,
            degraded: false,
            shut_down: false,
            checking: false,
        }
    }

    /// How long the gateway has not heard of us.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_ok)
    }

    /// Whether by wall time it is past, and the gateway has not said yet that it is not.
    pub(super) fn looks_past(&self) -> bool {
        self.marks.has(Mark::LooksPast) && self.unconfirmed.is_some()
    }

    /// Whether this machine stood still for longer than the gateway waits, and no heartbeat has succeeded since.
    pub(super) fn is_outlasted(&self) -> bool {
        self.marks.has(Mark::Outlasted)
    }

    /// The gateway has said what it says of sessions that there are.
    pub(super) fn is_not_past(&mut self) {
        self.marks = self.marks.with(Mark::LooksPast, false);
    }

    pub(super) fn heartbeat_sent(&mut self) {
        self.checking = self.shut_down;
    }

    /// A heartbeat succeeded: on to the next slot after `now`.
    pub(super) fn heartbeat_succeeded(&mut self, sent: Instant, now: Instant, rules: &Rules) {
        let interval = rules.heartbeat_interval;
        self.last_ok = sent;
        self.repeat.reset();
        self.unconfirmed = None;
        self.renewals_rest = self.renewals_rest.saturating_sub(1);
        if self.newest == Newest::Doubted {
            self.newest = Newest::Missed;
        }
        self.omit_token = false;
        self.troubled = false;
        self.degraded = false;
        self.marks = self.marks.with(Mark::Woken, false).with(Mark::Outlasted, false);
        if let Some(late) = now.checked_duration_since(self.slot) {
            let slots = late.as_nanos() / interval.as_nanos().max(1) + 1;
            self.slot += interval.saturating_mul(u32::try_from(slots).unwrap_or(u32::MAX));
        }
        self.next_heartbeat = self.slot + jitter(interval / JITTER_DIVISOR);
        // One that is past did not bring a new GUID: then the gateway's are static, or it keeps another time.
        let renewal = self.guid_since.map(|since| since + rules.guid_interval + GUID_MARGIN);
        if let Some(renewal) = renewal.filter(|renewal| *renewal > now)
            && self.next_heartbeat + interval / GUID_PULL_DIVISOR > renewal
        {
            self.slot = renewal;
            self.next_heartbeat = renewal;
        }
        // An answer that took so long came while we stood still: the gateway has not heard of us since it was asked for.
        self.next_heartbeat = self.next_heartbeat.min(now.max(sent + interval * 2));
        if self.shut_down && !self.checking {
            self.next_heartbeat = now + CHECK_SPACING;
        } else {
            self.shut_down = false;
        }
    }

    /// A heartbeat failed: repeat it soon.
    pub(super) fn heartbeat_failed(&mut self, now: Instant) {
        let wait = self.repeat.next_wait();
        self.heartbeat_waits(now + wait);
    }

    /// A heartbeat failed and is to be repeated then.
    pub(super) fn heartbeat_waits(&mut self, until: Instant) {
        self.troubled = true;
        self.next_heartbeat = until;
    }

    /// Whether the gateway was in trouble when it was last asked, so that it may have forgotten sessions that its platform keeps.
    pub(super) fn was_troubled(&self) -> bool {
        self.troubled
    }

    /// Whether heartbeats are missing: what the gateway says of a session that we have left alone is no sign of a person.
    pub(super) fn was_left_alone(&self, rules: &Rules, now: Instant) -> bool {
        self.marks.has(Mark::Outlasted) || self.silence(now) >= rules.heartbeat_interval * 2
    }

    /// Whether the gateway has, until then, not been asked for as long as it waits: this machine stood still.
    pub(super) fn has_been_outlasted(&self, limit: Duration, then: Instant) -> bool {
        // What failed may have arrived, and is repeated within seconds.
        let quiet_since = if self.troubled { self.next_heartbeat } else { self.last_ok };
        self.marks.has(Mark::Outlasted) || then.saturating_duration_since(quiet_since) >= limit
    }

    /// Whether the GUID has died of its age while the gateway may still keep the session. Not where a heartbeat that was to bring
    /// a new one succeeded without: such GUIDs do not change.
    pub(super) fn has_outlived_its_guid(&self, rules: &Rules, now: Instant) -> bool {
        let Some(since) = self.guid_since.filter(|_| !self.marks.has(Mark::Foreign)) else { return false };
        let changes = self.last_ok.saturating_duration_since(since) <= rules.guid_interval;
        let dead = now.saturating_duration_since(since) + GUID_DELAY >= rules.guid_timeout;
        let kept = !self.marks.has(Mark::Outlasted) && self.silence(now) < rules.sign_out_limit;
        changes && dead && kept
    }

    /// So much time has passed, as it seems, that the gateway has counted and we have not: session and GUID are older than we took
    /// them for, and a heartbeat is to come soon.
    pub(super) fn stood_still(&mut self, by: Duration, rules: &Rules, now: Instant) {
        let silence = self.silence(now);
        let limit = rules.sign_out_limit;
        let outlasted = self.marks.has(Mark::Outlasted) || silence + by >= limit;
        // Whether the session is past is for the gateway to say, so time stays to ask for it.
        let aged = (silence + by).min(limit - limit / 4).max(silence);
        self.last_ok = now.checked_sub(aged).unwrap_or(self.last_ok);
        self.guid_since = self.guid_since.map(|since| since.checked_sub(by).unwrap_or(since));
        let guid_age = self.guid_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        // A GUID that is past its life hurries nobody: it is dead, or does not change.
        let guid_left = rules.guid_timeout.checked_sub(guid_age);
        let left = limit.saturating_sub(aged).min(guid_left.unwrap_or(limit));
        self.next_heartbeat = self.next_heartbeat.min(now + jitter(WAKE_SPREAD.min(left / 4)));
        self.marks = self.marks.with(Mark::Woken, true).with(Mark::Outlasted, outlasted);
    }

    /// When a new GUID is to be asked for. Not where heartbeats fail: they matter more, and bring one too.
    fn to_renew(&self, rules: &Rules) -> Option<(Operation, Instant)> {
        let doubted = self.shut_down || self.marks.has(Mark::Woken);
        let well = self.unconfirmed.is_none() && self.repeat.tries() == 0 && !doubted;
        let wanted = well && self.renewals_rest == 0 && self.renewal_tries < RENEWAL_TRIES;
        let age = rules.guid_renewal.filter(|_| wanted)?;
        let from = match self.newest {
            Newest::Ours => self.guid_since? + age,
            Newest::Doubted => return None,
            Newest::Missed => self.last_ok,
        };
        Some((Operation::UpdateGuid, from + RENEWAL_PAUSE * self.renewal_tries.into()))
    }

    pub(super) fn guid_renewed(&mut self, now: Instant) {
        self.guid_since = Some(now);
        self.renewal_tries = 0;
        self.newest = Newest::Ours;
    }

    /// No answer that was lost has carried a newer one.
    pub(super) fn guid_is_newest(&mut self) {
        self.newest = Newest::Ours;
    }

    /// Whether no answer that may have carried a newer GUID was lost.
    pub(super) fn knows_newest_guid(&self) -> bool {
        self.newest == Newest::Ours
    }

    /// A heartbeat was not answered, or a call that asked for a GUID: with the answer a new one may have been lost.
    pub(super) fn answer_lost(&mut self) {
        self.newest = Newest::Doubted;
    }

    /// The gateway gives none that it is asked for.
    pub(super) fn renewal_refused(&mut self) {
        self.renewals_rest = RENEWALS_REST;
    }

    /// Asked for in vain: once more after a while.
    pub(super) fn renewal_failed(&mut self) {
        self.renewal_tries = self.renewal_tries.saturating_add(1);
    }

    /// No answer came although the gateway may have been asked: a heartbeat has to show that answers come again before one more is
    /// asked for, and soon, because ours may have been succeeded.
    pub(super) fn renewal_unanswered(&mut self, now: Instant) {
        self.renewal_failed();
        self.answer_lost();
        self.doubt(now);
    }

    /// A sign-out was refused, and the session is kept on.
    pub(super) fn remember_refusal(&mut self) {
        self.refusal_shown = REFUSAL_SHOWN;
    }

    /// A heartbeat succeeded: whether the refusal has now been shown for long enough.
    pub(super) fn forgets_refusal(&mut self) -> bool {
        let shown = self.refusal_shown > 0;
        self.refusal_shown = self.refusal_shown.saturating_sub(1);
        shown && self.refusal_shown == 0
    }

    /// The agent is to be signed in: whether a refusal was shown till now.
    pub(super) fn drop_refusal(&mut self) -> bool {
        std::mem::take(&mut self.refusal_shown) > 0
    }

    /// The session is unknown where it is to be signed out, and may stand: whether that is still to be told.
    pub(super) fn remember_unconfirmed(&mut self) -> bool {
        !std::mem::replace(&mut self.unconfirmed_shown, true)
    }

    /// The session is known after all, or not to be signed out any more: whether the contrary was shown till now.
    pub(super) fn drop_unconfirmed(&mut self) -> bool {
        std::mem::take(&mut self.unconfirmed_shown)
    }

    /// An event says that the session has ended: ask the gateway now. The event may be late and belong to an earlier
    /// session, so it is never believed by itself.
    pub(super) fn check(&mut self, now: Instant) {
        self.shut_down = true;
        self.doubt(now);
    }

    /// Another call says that the session has ended: ask the gateway now.
    pub(super) fn doubt(&mut self, now: Instant) {
        let soonest = now.max(self.last_ok + CHECK_SPACING);
        self.next_heartbeat = self.next_heartbeat.min(soonest);
    }

    /// Whether an event announced the end that the gateway has now confirmed.
    pub(super) fn end_was_announced(&self) -> bool {
        self.shut_down
    }

    /// Whether the agent is in its skill queues, as far as it can be.
    pub(super) fn skills_are_past(&self) -> bool {
        self.skills != SkillsState::Due
    }

    /// Other skill queues are wanted: enter those.
    pub(super) fn skills_changed(&mut self, now: Instant) {
        self.skills = SkillsState::Due;
        let set_up = self.set_up.get_or_insert_with(|| SetUp::new(now));
        set_up.skills = Step { told: set_up.skills.told, ..Step::new(now) };
    }

    /// Entering the skill queues failed for now.
    pub(super) fn skills_failed(&mut self, now: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.skills.failed(now);
        }
    }

    /// The skill queues have to wait until then.
    pub(super) fn skills_wait(&mut self, until: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.skills.due = until;
        }
    }

    /// Whether entering the skill queues has failed too often for a refusal without a clear reason.
    pub(super) fn skills_hopeless(&self) -> bool {
        self.set_up.as_ref().is_some_and(|set_up| set_up.skills.is_hopeless())
    }

    /// Whether it is to be told that the skill queues are not entered: once, for a refusal or after a while of failures.
    pub(super) fn tell_of_skills(&mut self, refused: bool, now: Instant) -> bool {
        let due = self.skills == SkillsState::Due;
        let Some(step) = self.set_up.as_mut().filter(|_| due).map(|set_up| &mut set_up.skills) else {
            return false;
        };
        (refused || step.is_late(now)) && !std::mem::replace(&mut step.told, true)
    }

    /// The skill queues are entered, or refused: on to the settings.
    pub(super) fn skills_ended(&mut self, skills: SkillsState, rules: &Rules, now: Instant) {
        self.skills = skills;
        self.settings_from(rules, now);
    }

    /// All settings of the rules are to be made.
    pub(super) fn set_up(&mut self, rules: &Rules, now: Instant) {
        let set_up = self.set_up.get_or_insert_with(|| SetUp::new(now));
        (set_up.next_setting, set_up.setting_refused) = (0, false);
        self.skip_settings_not_wanted(rules);
        self.settings_from(rules, now);
    }

    /// The next setting, where one is to be made.
    pub(super) fn setting(&self, rules: &Rules) -> Option<Operation> {
        rules.settings.get(self.set_up.as_ref()?.next_setting).copied().flatten()
    }

    /// What is to be done next for the agent to get calls, and when: first the skill queues, then the settings, for which
    /// a session of an earlier run is confirmed before; and for both one that looks past.
    fn to_set_up(&self, rules: &Rules) -> Option<(Operation, Instant)> {
        let set_up = self.set_up.as_ref()?;
        match self.skills {
            _ if self.looks_past() => None,
            SkillsState::Due => Some((Operation::ResetSkill, set_up.skills.due)),
            _ if self.unconfirmed.is_some() => None,
            SkillsState::Done | SkillsState::Refused => Some((self.setting(rules)?, set_up.setting.due)),
        }
    }

    /// What is to be done between heartbeats, and when. What waits to be repeated holds up nothing else.
    pub(super) fn errand(&self, rules: &Rules) -> Option<(Operation, Instant)> {
        let errands = [self.to_set_up(rules), self.to_renew(rules)];
        errands.into_iter().flatten().min_by_key(|(_, due)| *due)
    }

    /// Settings that nobody wants are passed over. One that is wanted later is for the next sign-in.
    pub(super) fn skip_settings_not_wanted(&mut self, rules: &Rules) {
        if let Some(set_up) = &mut self.set_up {
            let wanted = |at: &usize| rules.settings.get(*at).is_none_or(Option::is_some);
            set_up.next_setting = (set_up.next_setting..SETTINGS).find(wanted).unwrap_or(SETTINGS);
        }
        self.forget_what_is_set_up();
    }

    /// The next setting is due from now on: a heartbeat that was due before goes first. A poll does not, since it is
    /// answered only when something happens, which may be what the setting brings about.
    fn settings_from(&mut self, rules: &Rules, now: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.setting = Step::new(now);
        }
        if rules.polls && self.setting(rules).is_some() {
            self.next_heartbeat = self.next_heartbeat.max(now);
        }
        self.forget_what_is_set_up();
    }

    /// One setting is made, or refused: on to the next.
    pub(super) fn setting_is_past(&mut self, rules: &Rules, now: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.next_setting += 1;
        }
        self.skip_settings_not_wanted(rules);
        self.settings_from(rules, now);
    }

    /// A setting failed for now.
    pub(super) fn setting_failed(&mut self, now: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.setting.failed(now);
        }
    }

    /// The next setting has to wait until then.
    pub(super) fn setting_waits(&mut self, until: Instant) {
        if let Some(set_up) = &mut self.set_up {
            set_up.setting.due = until;
        }
    }

    /// Whether a setting has failed too often for a refusal without a clear reason.
    pub(super) fn setting_hopeless(&self) -> bool {
        self.set_up.as_ref().is_some_and(|set_up| set_up.setting.is_hopeless())
    }

    /// Whether it is to be told that a setting is not made: for a refusal or after a while of failures, and not while it is shown
    /// of one before.
    pub(super) fn tell_of_setting(&mut self, refused: bool, now: Instant) -> bool {
        let Some(set_up) = self.set_up.as_mut().filter(|set_up| refused || set_up.setting.is_late(now))
        else {
            return false;
        };
        let told = std::mem::replace(&mut set_up.setting.told, true);
        let shown = told || set_up.setting_refused;
        set_up.setting_refused |= refused;
        !shown
    }

    /// A setting is made after all: whether nothing is wrong with the settings any more of which somebody was told.
    pub(super) fn setting_mended(&self) -> bool {
        self.set_up.as_ref().is_some_and(|set_up| set_up.setting.told && !set_up.setting_refused)
    }

    fn forget_what_is_set_up(&mut self) {
        let made = self.set_up.as_ref().is_some_and(|set_up| set_up.next_setting >= SETTINGS);
        if made && self.skills_are_past() {
            self.set_up = None;
        }
    }
}
