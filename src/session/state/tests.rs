//! The machine, driven by hand: every meaning in every state, and random walks.

use proptest::prelude::*;

use super::Operation::{
    AutoAnswer, ForceLogin, Handshake, Login, Logout, Poll, ResetSkill, SayBusy, SayFree, UpdateGuid, Work,
};
use super::*;

mod codes;
mod doubts;
mod settings;
mod sign_out;
mod standstill;

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);
const LOST_ANSWER: Outcome = Outcome::Unanswered { may_have_arrived: true };
const UNREACHABLE: Outcome = Outcome::Unanswered { may_have_arrived: false };

fn rules(takeover: bool) -> Rules {
    Rules {
        polls: false,
        heartbeat_interval: Duration::from_secs(30),
        sign_out_limit: LIMIT,
        guid_interval: Duration::from_secs(60),
        guid_timeout: Duration::from_secs(120),
        guid_renewal: None,
        takeover,
        skills: true,
        settings: [None, None],
        may_sign_in: true,
    }
}

/// A session of an earlier run that has been silent for so long.
fn left_behind(silence: Duration) -> Resume {
    Resume {
        silence: Some(silence),
        skills_set: true,
        settings_due: false,
        adopted: false,
        foreign: false,
        guid_age: None,
        delay: Duration::ZERO,
    }
}

/// A machine and the time.
struct Bench {
    machine: Machine,
    now: Instant,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(takeover: bool) -> Bench {
        Bench { machine: Machine::new(rules(takeover)), now: Instant::now(), effects: Vec::new() }
    }

    fn input(&mut self, input: Input) {
        let effects = self.machine.step(input, self.now);
        self.effects.extend(effects);
    }

    /// Goes to the next call, which must be `operation`, and lets it end that way after 100 ms. Returns the wait.
    fn call(&mut self, operation: Operation, outcome: Outcome) -> Duration {
        let Next::Call(next, due) = self.machine.next() else {
            panic!("{operation:?} expected, not {:?} in {:?}", self.machine.next(), self.machine.state());
        };
        assert_eq!(next, operation, "in {:?}", self.machine.state());
        let wait = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        self.input(Input::Began(operation));
        assert_eq!(self.machine.next(), Next::Rest, "no second call while one is unanswered");
        self.now += Duration::from_millis(100);
        self.input(Input::Ended(outcome));
        wait
    }

    /// With calls that set the agent up after its sign-in.
    fn with_settings(settings: [Option<Operation>; SETTINGS]) -> Bench {
        let rules = Rules { settings, ..rules(false) };
        Bench { machine: Machine::new(rules), ..Bench::new(false) }
    }

    fn answer(&mut self, operation: Operation, meaning: Meaning) -> Duration {
        self.call(operation, Outcome::Answered(meaning))
    }

    /// Signed in, skills set, one heartbeat done.
    fn active(takeover: bool) -> Bench {
        let mut bench = Bench::new(takeover);
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Ok);
        bench.answer(ResetSkill, Meaning::Ok);
        bench.answer(Handshake, Meaning::Ok);
        assert_eq!(bench.machine.state(), State::Active);
        bench.effects.clear();
        bench
    }

    fn state(&self) -> State {
        self.machine.state()
    }
}

#[test]
fn a_sign_in_leads_to_skills_and_a_first_heartbeat_within_seconds() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    assert_eq!(bench.state(), State::SigningIn);
    assert_eq!(bench.answer(Login, Meaning::Ok), Duration::ZERO);
    assert_eq!(bench.answer(ResetSkill, Meaning::Ok), Duration::ZERO);
    assert!(bench.answer(Handshake, Meaning::Ok) <= 5 * SECOND);
    assert_eq!(bench.effects, [Effect::Started(Entry::SignedIn), Effect::SkillsSet, Effect::Kept]);
}

#[test]
fn each_suspension_at_sign_in_stops_all_calls_until_a_person_asks() {
    use Suspension::*;
    for suspension in
        [BadCredentials, AccountLocked, PasswordExpired, PhoneRefused, RequestRefused, NotReplaceable]
    {
        let mut bench = Bench::new(true);
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Suspend(suspension));
        assert_eq!(bench.state(), State::Suspended(suspension));
        assert_eq!(bench.machine.next(), Next::Rest);
        bench.input(Input::ForcedOut);
        assert_eq!(bench.machine.next(), Next::Rest, "an event does not wake a suspended session");
        bench.input(Input::SignIn);
        assert_eq!(bench.answer(Login, Meaning::Ok), Duration::ZERO);
        assert_eq!(bench.state(), State::Active);
    }
}

#[test]
fn a_missing_password_suspends_without_a_call() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.call(Login, Outcome::NoPassword);
    assert_eq!(bench.state(), State::Suspended(Suspension::PasswordUnreadable));
}

#[test]
fn a_password_that_must_be_changed_signs_out_and_suspends() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.call(Login, Outcome::PasswordChangeRequired);
    assert_eq!(bench.state(), State::SigningOut);
    bench.answer(Logout, Meaning::Ok);
    assert_eq!(bench.state(), State::Suspended(Suspension::PasswordChangeRequired));
    assert_eq!(bench.effects, [Effect::Suspended(Suspension::PasswordChangeRequired)]);
}

#[test]
fn somebody_else_is_forced_out_only_with_takeover() {
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));

    let mut bench = Bench::new(true);
    bench.input(Input::StartNew);
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.answer(ForceLogin, Meaning::Ok), Duration::ZERO);
    assert_eq!(bench.effects, [Effect::Started(Entry::TakenOver)]);
}

impl Bench {
    /// Somebody is signed in: tried again until it cannot be a session of ours any more, without force, and then a person is
    /// needed. Returns how long that took.
    fn waits_without_force(&mut self) -> Duration {
        let began = self.now;
        while !matches!(self.state(), State::Suspended(_)) {
            let wait = self.answer(Login, Meaning::SignedIn);
            assert!(wait <= SIGN_IN_MOST, "{wait:?}");
        }
        assert_eq!(self.state(), State::Suspended(Suspension::SignedInElsewhere));
        self.now - began
    }
}

#[test]
fn a_start_that_knows_of_no_session_waits_for_one_of_its_own_to_end_and_forces_nobody() {
    let past = Resume { silence: None, ..left_behind(Duration::ZERO) };
    for start in [None, Some(past)] {
        let begin = || {
            let mut bench = Bench::new(false);
            bench.input(Input::Start(start));
            if start.is_some() {
                bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
            }
            bench
        };
        let mut bench = begin();
        let took = bench.waits_without_force();
        assert!(took > LIMIT + SILENCE_MARGIN && took < LIMIT + SILENCE_MARGIN + SIGN_IN_MOST, "{took:?}");
        // A person's word is not held up by it.
        bench.input(Input::SignIn);
        bench.answer(Login, Meaning::SignedIn);
        assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));

        let mut bench = begin();
        bench.answer(Login, Meaning::SignedIn);
        bench.answer(Login, Meaning::Ok);
        assert_eq!(bench.effects, [Effect::Started(Entry::SignedIn)]);
    }
}

#[test]
fn a_first_sign_in_without_an_answer_may_have_met_a_person_and_forces_nobody() {
    for start in [Input::StartNew, Input::Start(None)] {
        let mut bench = Bench::new(false);
        bench.input(start);
        bench.call(Login, LOST_ANSWER);
        bench.waits_without_force();
    }
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.call(Login, LOST_ANSWER);
    bench.now += LIMIT + SILENCE_MARGIN + SECOND;
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_sign_in_that_never_arrived_leaves_nothing_of_ours() {
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.call(Login, UNREACHABLE);
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_session_lost_to_silence_may_still_stand_for_a_while_and_nobody_is_forced() {
    let mut bench = Bench::active(false);
    while bench.state() == State::Active {
        bench.call(Handshake, UNREACHABLE);
    }
    assert_eq!(bench.state(), State::Recovering);
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(Login, Meaning::Ok);
    assert_eq!(bench.state(), State::Active);

    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::Lost(Loss::SwitchedOver));
    bench.waits_without_force();
}

#[test]
fn a_session_that_another_program_had_signed_in_is_not_forced_back_after_a_restart() {
    let resume = Resume { foreign: true, ..left_behind(SECOND) };
    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(resume)));
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.waits_without_force();
}

#[test]
fn a_guid_that_ends_without_its_successor_is_not_taken_for_somebody_else() {
    // The gateway gives none that it is asked for, and the answer with the new one was lost.
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(Login, Meaning::Ok);
    assert_eq!(bench.state(), State::Active);
    // That one knows its GUID.
    bench.answer(ResetSkill, Meaning::Ok);
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_sign_out_takes_back_what_a_person_said_of_taking_over() {
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.input(Input::TakeOver);
    bench.input(Input::SignOut);
    assert_eq!(bench.state(), State::SignedOut);
    bench.input(Input::SignIn);
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_guid_refused_after_a_lost_heartbeat_is_ours_but_out_of_the_blue_it_is_somebody_else() {
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);
    assert_eq!(bench.state(), State::Active);

    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn passing_failures_of_sign_in_are_repeated_with_growing_bounded_waits() {
    for outcome in [Outcome::Answered(Meaning::Transient), LOST_ANSWER, UNREACHABLE] {
        let mut bench = Bench::new(false);
        bench.input(Input::Start(None));
        let waits: Vec<_> = (0..20).map(|_| bench.call(Login, outcome)).collect();
        assert!(waits[1] <= SECOND && waits[1] >= SECOND / 3, "{waits:?}");
        assert!(
            waits[10..].iter().all(|wait| *wait >= SIGN_IN_MOST / 3 && *wait <= SIGN_IN_MOST),
            "{waits:?}"
        );
        assert_eq!(bench.state(), State::SigningIn);
    }
}

#[test]
fn a_switch_over_is_waited_out_in_every_call() {
    let short = SECOND - Duration::from_millis(200)..=5 * SECOND;
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::SwitchingOver);
    assert!(short.contains(&bench.answer(Login, Meaning::Ok)));
    bench.answer(ResetSkill, Meaning::SwitchingOver);
    let mut calls = 0;
    while !bench.machine.skills_set() {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        assert!(bench.answer(operation, Meaning::Ok) <= 5 * SECOND);
        calls += 1;
    }
    assert!(calls <= 3);
    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::SwitchingOver);
    assert!(short.contains(&bench.answer(Handshake, Meaning::Ok)));
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn refusals_without_a_reason_are_tried_three_times() {
    let mut bench = Bench::new(true);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Doubtful);
    bench.answer(Login, Meaning::Doubtful);
    bench.answer(Login, Meaning::Doubtful);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignInRefused));
}

#[test]
fn each_loss_is_followed_by_one_sign_in_per_step_and_fights_grow_calm() {
    for loss in [Loss::GuidRefused, Loss::NotSignedIn, Loss::SwitchedOver] {
        let mut bench = Bench::active(true);
        bench.answer(Handshake, Meaning::Lost(loss));
        assert_eq!(bench.state(), State::Recovering);
        assert_eq!(bench.effects, [Effect::Lost(loss)]);
        assert!(!bench.machine.holds_session());
    }
    // Somebody takes the agent back each time.
    let mut bench = Bench::active(true);
    let mut waits = Vec::new();
    for _ in 0..10 {
        bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        waits.push(bench.answer(Login, Meaning::Ok));
        bench.answer(ResetSkill, Meaning::Ok);
    }
    assert!(waits[8..].iter().all(|wait| *wait >= SIGN_IN_MOST / 2), "{waits:?}");
}

#[test]
fn a_failed_heartbeat_is_repeated_within_seconds_and_often_enough() {
    for outcome in
        [Outcome::Answered(Meaning::Transient), Outcome::Answered(Meaning::Refused), LOST_ANSWER, UNREACHABLE]
    {
        let mut bench = Bench::active(false);
        bench.call(Handshake, outcome);
        assert!(bench.call(Handshake, outcome) <= SECOND);
        assert!((0..10).all(|_| bench.call(Handshake, outcome) <= 4 * SECOND));
        let wait = bench.answer(Handshake, Meaning::Ok);
        assert!(wait <= 4 * SECOND);
        assert_eq!(bench.state(), State::Active);
        assert!(bench.effects.iter().all(|effect| matches!(effect, Effect::Kept | Effect::Degraded(_))));
    }
}

#[test]
fn silence_beyond_the_limit_is_told_once_at_half_time_and_then_signs_in_again() {
    let mut bench = Bench::active(false);
    let mut guard = 0;
    while bench.state() == State::Active {
        bench.call(Handshake, LOST_ANSWER);
        bench.now += 8 * SECOND;
        guard += 1;
        assert!(guard < 50);
    }
    assert!(guard >= 8, "only {guard} tries within the limit");
    let degraded = Effect::Degraded(Degradation::HeartbeatsFailing);
    assert_eq!(bench.effects, [degraded, Effect::Lost(Loss::TimedOut)]);
    assert_eq!(bench.state(), State::Recovering);
    // Our own session may still stand there.
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);
}

#[test]
fn heartbeats_refused_as_malformed_to_the_end_need_a_person() {
    let mut bench = Bench::active(false);
    while bench.state() == State::Active {
        bench.answer(Handshake, Meaning::Refused);
    }
    assert_eq!(bench.state(), State::Suspended(Suspension::HeartbeatRefused));
    assert_eq!(bench.machine.next(), Next::Rest);
}

#[test]
fn a_refused_token_costs_no_session() {
    let mut bench = Bench::active(false);
    assert!(bench.machine.wants_token());
    bench.answer(Handshake, Meaning::TokenRefused);
    assert!(!bench.machine.wants_token());
    assert_eq!(bench.answer(Handshake, Meaning::Ok), Duration::ZERO);
    assert!(bench.machine.wants_token(), "the next heartbeat tries again");
}

#[test]
fn heartbeats_keep_their_schedule_after_a_repeat_and_after_a_long_sleep() {
    let mut bench = Bench::active(false);
    let start = bench.now;
    for round in 0..100 {
        if round % 7 == 0 {
            bench.answer(Handshake, Meaning::Transient);
        }
        bench.answer(Handshake, Meaning::Ok);
    }
    let took = bench.now - start;
    assert!(took <= Duration::from_secs(100 * 30 + 40), "{took:?}");
    bench.now += Duration::from_secs(7200);
    assert_eq!(bench.answer(Handshake, Meaning::Ok), Duration::ZERO, "one at once");
    assert!(bench.answer(Handshake, Meaning::Ok) <= 33 * SECOND, "and none in arrears");
}

#[test]
fn skills_that_fail_for_now_do_not_hold_up_heartbeats() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    let mut last = bench.now;
    for _ in 0..60 {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        let meaning = if operation == Handshake { Meaning::Ok } else { Meaning::Transient };
        bench.answer(operation, meaning);
        if operation == Handshake {
            assert!(bench.now - last <= 35 * SECOND);
            last = bench.now;
        }
    }
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn skills_refused_leave_the_session_alive_and_are_told_once() {
    for meaning in [Meaning::Refused, Meaning::Doubtful] {
        let mut bench = Bench::new(false);
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Ok);
        for _ in 0..30 {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            bench.answer(operation, if operation == ResetSkill { meaning } else { Meaning::Ok });
        }
        assert_eq!(bench.state(), State::Active);
        let told =
            bench.effects.iter().filter(|e| **e == Effect::Degraded(Degradation::SkillsRefused)).count();
        assert_eq!(told, 1);
    }
}

#[test]
fn skills_that_meet_a_lost_session_sign_in_again() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Lost(Loss::NotSignedIn));
    bench.answer(Login, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Ok);
}

#[test]
fn a_sign_out_waits_for_the_sign_in_and_the_sign_in_for_the_sign_out() {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.input(Input::Began(Login));
    bench.input(Input::SignOut);
    assert_eq!(bench.machine.next(), Next::Rest);
    bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
    assert_eq!(bench.state(), State::SigningOut);
    bench.input(Input::Began(Logout));
    bench.input(Input::SignIn);
    assert_eq!(bench.machine.next(), Next::Rest);
    bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
    assert_eq!(bench.answer(Login, Meaning::Ok), Duration::ZERO);
}

#[test]
fn a_sign_out_refused_in_a_call_keeps_the_session() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::NotNow);
    assert_eq!(bench.state(), State::Active);
    assert_eq!(bench.effects, [Effect::Degraded(Degradation::SignOutRefused)]);
    bench.answer(Handshake, Meaning::Ok);
}

#[test]
fn a_refused_sign_out_is_shown_for_ten_heartbeats_or_until_somebody_wants_the_agent_signed_in() {
    let mended = Effect::Mended(Degradation::SignOutRefused);
    let mut bench = Bench::active(false);
    for _ in 0..2 {
        bench.input(Input::SignOut);
        bench.answer(Logout, Meaning::NotNow);
        bench.effects.clear();
        for _ in 0..9 {
            bench.answer(Handshake, Meaning::Ok);
        }
        assert!(!bench.effects.contains(&mended));
        bench.answer(Handshake, Meaning::Ok);
        assert!(bench.effects.contains(&mended));
        bench.effects.clear();
        bench.answer(Handshake, Meaning::Ok);
        assert_eq!(bench.effects, [Effect::Kept]);
    }
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::NotNow);
    bench.effects.clear();
    bench.input(Input::SignIn);
    assert_eq!(bench.effects, [mended]);
}

#[test]
fn an_agent_who_leaves_in_a_call_is_kept_alive_until_it_is_over() {
    let mut bench = Bench::active(false);
    bench.input(Input::Leave);
    assert_eq!(bench.answer(Logout, Meaning::NotNow), Duration::ZERO);
    let (mut heartbeats, began) = (0, bench.now);
    while bench.now < began + 10 * LIMIT {
        assert_eq!(bench.state(), State::SigningOut);
        let Next::Call(operation, due) = bench.machine.next() else { panic!("nothing to do") };
        assert!(due <= bench.now + LEAVE_PAUSE, "{operation:?}");
        assert_eq!(
            bench.machine.may_forward(bench.now),
            due > bench.now,
            "its program may still end the call"
        );
        heartbeats += usize::from(operation == Handshake);
        bench.answer(operation, if operation == Handshake { Meaning::Ok } else { Meaning::NotNow });
    }
    assert!(heartbeats >= 35, "{heartbeats}");
    bench.effects.clear();
    while bench.machine.next() != Next::Done {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.answer(operation, Meaning::Ok);
    }
    assert_eq!(bench.effects.last(), Some(&Effect::SignedOut));

    // The daemon's stop waits for nobody's call.
    for sign_out in [false, true] {
        let mut bench = Bench::active(false);
        bench.input(Input::Leave);
        bench.answer(Logout, Meaning::NotNow);
        bench.input(Input::Stop { sign_out });
        for _ in 0..if sign_out { SIGN_OUT_TRIES } else { 0 } {
            assert!(bench.answer(Logout, Meaning::NotNow) <= SIGN_OUT_PAUSE);
        }
        assert_eq!(bench.machine.next(), Next::Done);
    }

    // And a session that is lost meanwhile is not signed in again.
    let mut bench = Bench::active(false);
    bench.input(Input::Leave);
    bench.answer(Logout, Meaning::NotNow);
    while !matches!(bench.machine.next(), Next::Call(Handshake, _)) {
        bench.answer(Logout, Meaning::NotNow);
    }
    bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
    assert_eq!(bench.machine.next(), Next::Done);
}

#[test]
fn stopping_leaves_the_session_open_or_signs_out_and_never_hangs() {
    let mut bench = Bench::active(false);
    bench.input(Input::Stop { sign_out: false });
    assert_eq!(bench.machine.next(), Next::Done);
    assert!(bench.machine.holds_session());

    let mut bench = Bench::active(false);
    bench.input(Input::Stop { sign_out: true });
    bench.answer(Logout, Meaning::Ok);
    assert_eq!(bench.machine.next(), Next::Done);
    assert_eq!(bench.effects, [Effect::SignedOut]);

    for outcome in [LOST_ANSWER, Outcome::Answered(Meaning::NotNow), Outcome::Answered(Meaning::Transient)] {
        let mut bench = Bench::active(false);
        bench.input(Input::Stop { sign_out: true });
        for _ in 0..SIGN_OUT_TRIES {
            bench.call(Logout, outcome);
        }
        assert_eq!(bench.machine.next(), Next::Done);
    }

    let mut bench = Bench::new(false);
    bench.input(Input::Start(None));
    bench.input(Input::Stop { sign_out: true });
    assert_eq!(bench.machine.next(), Next::Done, "nothing to sign out");
}

#[test]
fn a_resumed_session_is_checked_first_and_signed_in_only_when_refused() {
    let resume = left_behind(Duration::from_secs(100));
    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(resume)));
    assert_eq!(bench.state(), State::Recovering);
    assert!(bench.answer(Handshake, Meaning::Ok) <= 5 * SECOND);
    assert_eq!(bench.effects, [Effect::Started(Entry::Resumed), Effect::Kept]);

    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(resume)));
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);

    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(Resume { silence: None, ..resume })));
    assert!(bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn)) <= 5 * SECOND);
    assert_eq!(bench.answer(Login, Meaning::Ok), Duration::ZERO);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let meanings = prop_oneof![
        4 => Just(Meaning::Ok),
        1 => Just(Meaning::Transient),
        1 => Just(Meaning::SwitchingOver),
        1 => Just(Meaning::SignedIn),
        1 => Just(Meaning::Lost(Loss::GuidRefused)),
        1 => Just(Meaning::Lost(Loss::NotSignedIn)),
        1 => Just(Meaning::TokenRefused),
        1 => Just(Meaning::Refused),
        1 => Just(Meaning::Doubtful),
        1 => Just(Meaning::NotNow),
        1 => Just(Meaning::Suspend(Suspension::BadCredentials)),
    ];
    prop_oneof![
        8 => meanings.prop_map(Outcome::Answered),
        1 => Just(LOST_ANSWER),
        1 => Just(UNREACHABLE),
        1 => Just(Outcome::PasswordChangeRequired),
        1 => Just(Outcome::NoPassword),
    ]
}

fn inputs() -> impl Strategy<Value = Option<Input>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Input::ForcedOut)),
        1 => Just(Some(Input::SignIn)),
        1 => Just(Some(Input::SignOut)),
    ]
}

proptest! {
    /// Whatever the gateway answers and people wish, at whatever moment: one call at a time, no call while suspended,
    /// a wait for each that is bounded; and once the gateway is well the session is active or waits for a person.
    #[test]
    fn any_history_ends_active_suspended_or_as_wished(
        takeover: bool,
        autoanswer: bool,
        leaves: bool,
        agent_state in prop::sample::select(vec![None, Some(SayFree), Some(SayBusy), Some(Work)]),
        history in proptest::collection::vec((outcomes(), inputs(), inputs(), 0u64..20), 0..120),
    ) {
        let settings = [autoanswer.then_some(AutoAnswer), agent_state];
        let mut bench = Bench::new(takeover);
        bench.machine = Machine::new(Rules { settings, ..rules(takeover) });
        bench.input(Input::Start(None));
        let mut wants_out = false;
        for (outcome, before, during, seconds) in history {
            let mut wish = |bench: &mut Bench, input: Option<Input>| if let Some(input) = input {
                wants_out = match input { Input::SignOut => true, Input::SignIn => false, _ => wants_out };
                bench.input(input);
            };
            wish(&mut bench, before);
            match bench.machine.next() {
                Next::Call(operation, due) => {
                    let wait = due.saturating_duration_since(bench.now);
                    prop_assert!(wait <= Duration::from_secs(35), "{wait:?} before {operation:?}");
                    prop_assert!(!matches!(bench.state(), State::Suspended(_) | State::SignedOut));
                    bench.now = bench.now.max(due);
                    bench.input(Input::Began(operation));
                    prop_assert_eq!(bench.machine.next(), Next::Rest);
                    wish(&mut bench, during);
                    prop_assert_eq!(bench.machine.next(), Next::Rest);
                    bench.now += Duration::from_secs(seconds);
                    bench.input(Input::Ended(outcome));
                }
                Next::Rest => prop_assert!(matches!(bench.state(), State::Suspended(_) | State::SignedOut)),
                Next::Done => prop_assert!(false, "done without being stopped"),
            }
        }
        for _ in 0..50 {
            let Next::Call(operation, due) = bench.machine.next() else { break };
            bench.now = bench.now.max(due);
            bench.input(Input::Began(operation));
            bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
        }
        match bench.state() {
            State::Active => prop_assert!(!bench.machine.settings_due()),
            State::Suspended(_) => {}
            State::SignedOut => prop_assert!(wants_out),
            other => prop_assert!(false, "ended in {other:?}"),
        }
        bench.input(if leaves { Input::Leave } else { Input::Stop { sign_out: true } });
        for _ in 0..100 {
            let Next::Call(operation, due) = bench.machine.next() else { break };
            bench.now = bench.now.max(due);
            bench.input(Input::Began(operation));
            bench.input(Input::Ended(LOST_ANSWER));
        }
        prop_assert_eq!(bench.machine.next(), Next::Done);
    }
}

/// A session that is to ask for a new GUID next.
fn before_a_renewal() -> Bench {
    let mut bench = Bench::new(false);
    bench.machine = Machine::new(Rules { guid_renewal: Some(Duration::from_secs(45)), ..rules(false) });
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Ok);
    while !matches!(bench.machine.next(), Next::Call(UpdateGuid, _)) {
        bench.answer(Handshake, Meaning::Ok);
    }
    bench
}

#[test]
fn after_a_renewal_without_an_answer_a_heartbeat_must_succeed_before_the_next_is_asked_for() {
    let mut bench = before_a_renewal();
    bench.call(UpdateGuid, LOST_ANSWER);
    // The gateway may have another GUID now. Were it asked again in vain, ours would be two behind.
    for _ in 0..3 {
        assert!(matches!(bench.machine.next(), Next::Call(Handshake, _)), "{:?}", bench.machine.next());
        bench.call(Handshake, LOST_ANSWER);
    }
    bench.answer(Handshake, Meaning::Ok);
    let waited = bench.answer(UpdateGuid, Meaning::Ok);
    assert!(waited < Duration::from_secs(5), "soon, while ours is still taken: {waited:?}");
}

#[test]
fn a_renewal_that_was_never_sent_is_no_reason_for_a_heartbeat() {
    let mut bench = before_a_renewal();
    bench.call(UpdateGuid, UNREACHABLE);
    for _ in 0..2 {
        assert!(bench.call(UpdateGuid, UNREACHABLE) <= 3 * SECOND);
    }
    let waited = bench.answer(Handshake, Meaning::Ok);
    assert!(waited > 5 * SECOND, "it keeps its slot: {waited:?}");
    assert!(matches!(bench.machine.next(), Next::Call(Handshake, _)), "{:?}", bench.machine.next());
}

#[test]
fn a_renewal_waits_for_the_skill_queues_and_while_heartbeats_fail() {
    let renewal = Some(Duration::from_secs(45));
    let mut bench = Bench::new(false);
    bench.machine = Machine::new(Rules { guid_renewal: renewal, ..rules(false) });
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    let signed_in = bench.now;
    bench.answer(ResetSkill, Meaning::Ok);
    bench.answer(Handshake, Meaning::Ok);
    // By now a GUID is to be asked for, but heartbeats are not answered.
    while bench.now < signed_in + Duration::from_secs(50) {
        bench.call(Handshake, UNREACHABLE);
    }
    bench.answer(Handshake, Meaning::Ok);
    assert_eq!(bench.answer(UpdateGuid, Meaning::Transient), Duration::ZERO);
    assert_eq!(bench.machine.next(), Next::Call(UpdateGuid, signed_in + Duration::from_secs(48)));
    bench.input(Input::Configured { rules: rules(false), skills: true, sign_in: false });
    bench.answer(ResetSkill, Meaning::Ok);
    assert!(matches!(bench.machine.next(), Next::Call(Handshake, _)), "no renewals are wanted any more");
}
