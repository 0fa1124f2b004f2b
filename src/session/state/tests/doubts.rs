//! Sessions of our own that stand in our way, and what shows that they may.

use super::*;
use crate::session::retcode::{Retcode, meaning};

fn code(operation: Operation, code: &str) -> Meaning {
    meaning(operation, &Retcode::new(code))
}

#[test]
fn a_session_that_is_unknown_after_heartbeats_that_failed_may_still_stand_and_nobody_is_forced() {
    let refused = Outcome::Answered(code(Handshake, "100-003"));
    let switching = Outcome::Answered(code(Handshake, "000-004"));
    for failure in [UNREACHABLE, refused, switching] {
        for loss in [Loss::NotSignedIn, Loss::GuidRefused] {
            let mut bench = Bench::active(false);
            for _ in 0..3 {
                bench.call(Handshake, failure);
            }
            bench.answer(Handshake, Meaning::Lost(loss));
            let took = bench.waits_without_force();
            assert!(took > LIMIT + SILENCE_MARGIN, "{failure:?}, {loss:?}: {took:?}");
        }
    }
}

#[test]
fn a_session_that_another_address_does_not_know_is_our_own_in_its_way() {
    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::Lost(Loss::OtherAddress));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.answer(ForceLogin, Meaning::Ok), Duration::ZERO);
    assert_eq!(bench.effects, [Effect::Lost(Loss::OtherAddress), Effect::Started(Entry::TakenOver)]);

    // It may have ended since, and somebody have come.
    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::Lost(Loss::OtherAddress));
    bench.now += LIMIT + SILENCE_MARGIN + SECOND;
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_session_whose_end_was_announced_does_not_stand_at_the_other_address() {
    let mut bench = Bench::active(false);
    bench.input(Input::ForcedOut);
    bench.answer(Handshake, Meaning::Lost(Loss::OtherAddress));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn an_end_that_was_announced_and_confirmed_forces_nobody_out_though_an_answer_was_lost_before() {
    let lose_heartbeat = |bench: &mut Bench| {
        bench.call(Handshake, LOST_ANSWER);
    };
    let lose_forward = |bench: &mut Bench| {
        bench.input(Input::ForwardBegan);
        bench.input(Input::ForwardEnded(Forwarded::Unanswered { may_have_arrived: true }));
    };
    let losses = [Loss::NotSignedIn, Loss::GuidRefused, Loss::OtherAddress];
    for lose_answer in [lose_heartbeat as fn(&mut Bench), lose_forward] {
        for loss in losses {
            let mut bench = Bench::active(false);
            lose_answer(&mut bench);
            bench.input(Input::ForcedOut);
            bench.answer(Handshake, Meaning::Lost(loss));
            assert_eq!(bench.effects, [Effect::Lost(Loss::ShutDown)]);
            bench.waits_without_force();

            // The event comes after that.
            let mut bench = Bench::active(false);
            lose_answer(&mut bench);
            bench.answer(Handshake, Meaning::Lost(loss));
            bench.input(Input::ForcedOut);
            bench.waits_without_force();
        }
    }
}

#[test]
fn heartbeats_that_succeed_again_end_that_doubt() {
    let mut bench = Bench::active(false);
    bench.call(Handshake, UNREACHABLE);
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

/// Answers that the agent's sign-in is under way, until a session that stood when it was sent would have ended.
fn is_under_way_for_minutes(bench: &mut Bench) {
    let sent = bench.now;
    while bench.now - sent < LIMIT + SILENCE_MARGIN + 60 * SECOND {
        bench.answer(Login, code(Login, "100-021"));
        bench.answer(Login, code(Login, "000-007"));
    }
}

#[test]
fn a_sign_in_of_ours_that_is_still_under_way_begins_a_session_that_is_ours() {
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.call(Login, LOST_ANSWER);
    is_under_way_for_minutes(&mut bench);
    let took = bench.waits_without_force();
    assert!(took > LIMIT, "{took:?}");

    // One that was to restore a session is forced back as before.
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.call(Login, LOST_ANSWER);
    is_under_way_for_minutes(&mut bench);
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);
}

#[test]
fn a_session_that_could_not_be_ended_after_its_password_was_to_be_changed_is_waited_for_as_long_as_it_stands()
{
    let suspended = |refusals: &[Outcome]| {
        let mut bench = Bench::new(false);
        bench.input(Input::StartNew);
        bench.call(Login, Outcome::PasswordChangeRequired);
        for refusal in refusals {
            bench.call(Logout, *refusal);
        }
        assert_eq!(bench.state(), State::Suspended(Suspension::PasswordChangeRequired));
        bench
    };
    for refusals in [&[LOST_ANSWER; 3][..], &[Outcome::Answered(Meaning::NotNow)]] {
        // It may as well be the person who has changed the password.
        let mut bench = suspended(refusals);
        bench.now += LIMIT;
        bench.input(Input::SignIn);
        bench.waits_without_force();

        let mut bench = suspended(refusals);
        bench.now += LIMIT + SILENCE_MARGIN + SECOND;
        bench.input(Input::SignIn);
        bench.answer(Login, Meaning::SignedIn);
        assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
    }
    // One that has been ended stands in nobody's way.
    let mut bench = suspended(&[Outcome::Answered(Meaning::Ok)]);
    bench.input(Input::SignIn);
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn whoever_signs_in_while_a_session_is_suspended_is_not_forced_out() {
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::Suspend(Suspension::AccountLocked));
    bench.input(Input::SignIn);
    bench.waits_without_force();
}

#[test]
fn a_sign_in_that_is_under_way_without_our_doing_is_somebody_elses() {
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.answer(Login, code(Login, "100-021"));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
}

#[test]
fn a_sign_out_is_believed_of_a_session_that_is_unknown_unless_it_may_stand_by_another_guid_or_elsewhere() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::Lost(Loss::NotSignedIn));
    assert_eq!((bench.state(), bench.effects), (State::SignedOut, vec![Effect::SignedOut]));

    // More of these in `sign_out`.
    for (lost, loss) in [(0, Loss::OtherAddress), (1, Loss::GuidRefused)] {
        let mut bench = Bench::active(false);
        for _ in 0..lost {
            bench.call(Handshake, LOST_ANSWER);
        }
        bench.input(Input::SignOut);
        bench.answer(Logout, Meaning::Lost(loss));
        assert_eq!((bench.state(), bench.machine.is_wanted_out()), (State::SigningOut, true));
    }
}

/// A session of an earlier run that looks past, or to come.
fn looks_past() -> Bench {
    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(Resume { silence: None, ..left_behind(Duration::ZERO) })));
    assert!(bench.machine.asks_for_past());
    bench
}

#[test]
fn a_session_that_looks_past_is_asked_for_once_and_its_end_is_no_loss() {
    let mut bench = looks_past();
    bench.answer(Handshake, Meaning::Ok);
    assert_eq!(bench.effects, [Effect::Started(Entry::Resumed), Effect::Kept]);
    bench.input(Input::PastIsGone);
    assert_eq!(bench.state(), State::Active);

    let suspend = Meaning::Suspend(Suspension::RequestRefused);
    for meaning in [Meaning::Lost(Loss::NotSignedIn), suspend, Meaning::Refused, Meaning::Doubtful] {
        let mut bench = looks_past();
        bench.answer(Handshake, meaning);
        assert_eq!((bench.state(), bench.effects.len()), (State::SigningIn, 0), "{meaning:?}");
        assert_eq!(bench.answer(Login, Meaning::SignedIn), Duration::ZERO);
        bench.waits_without_force();
    }

    let mut bench = looks_past();
    bench.input(Input::PastIsGone);
    assert_eq!(bench.answer(Login, Meaning::Ok), Duration::ZERO);
    assert_eq!(bench.effects, [Effect::Started(Entry::SignedIn)]);
}

#[test]
fn a_session_that_looks_past_is_asked_for_until_an_answer_comes_and_then_nobody_is_forced() {
    let mut bench = looks_past();
    for _ in 0..5 {
        bench.call(Handshake, LOST_ANSWER);
    }
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.waits_without_force();

    let mut bench = looks_past();
    while bench.state() == State::Recovering {
        bench.call(Handshake, UNREACHABLE);
    }
    assert_eq!(bench.state(), State::SigningIn);
}

#[test]
fn a_session_that_looks_past_enters_no_skill_queues_before_it_is_confirmed() {
    let past = Resume { silence: None, skills_set: false, settings_due: true, ..left_behind(Duration::ZERO) };
    let mut bench = Bench::with_settings([Some(AutoAnswer), None]);
    bench.input(Input::Start(Some(past)));
    bench.call(Handshake, UNREACHABLE);
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Ok);
    bench.answer(AutoAnswer, Meaning::Ok);

    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(Resume { silence: Some(SECOND), ..past })));
    bench.answer(ResetSkill, Meaning::Ok);
}

#[test]
fn a_sign_out_that_is_refused_in_a_call_shows_that_the_session_is_not_past() {
    let mut bench = looks_past();
    bench.input(Input::Leave);
    bench.answer(Logout, Meaning::NotNow);
    assert!(!bench.machine.asks_for_past());
    bench.input(Input::PastIsGone);
    assert!(bench.machine.holds_session() && bench.machine.next() != Next::Done);
    // The heartbeat after the first one may be due before it is tried again.
    while matches!(bench.machine.next(), Next::Call(Handshake, _)) {
        bench.answer(Handshake, Meaning::Ok);
    }
    bench.answer(Logout, Meaning::Ok);
    bench.effects.dedup();
    assert_eq!(bench.effects, [Effect::Started(Entry::Resumed), Effect::Kept, Effect::SignedOut]);
}

#[test]
fn an_agent_who_is_to_be_out_is_told_as_out_where_its_session_is_past() {
    let wanted_out: [(Input, Next); 3] = [
        (Input::SignOut, Next::Rest),
        (Input::Leave, Next::Done),
        (Input::Stop { sign_out: true }, Next::Done),
    ];
    for (wish, next) in wanted_out {
        let mut bench = looks_past();
        bench.input(wish);
        bench.answer(Logout, Meaning::Lost(Loss::NotSignedIn));
        assert_eq!((bench.machine.next(), bench.effects), (next, vec![Effect::SignedOut]), "{wish:?}");

        let mut bench = looks_past();
        bench.input(wish);
        bench.input(Input::PastIsGone);
        assert_eq!((bench.machine.next(), bench.effects), (next, vec![Effect::SignedOut]), "{wish:?}");
    }
    // A stop alone wants nobody out.
    let mut bench = looks_past();
    bench.input(Input::Began(Handshake));
    bench.input(Input::Stop { sign_out: false });
    bench.input(Input::Ended(Outcome::Answered(Meaning::Lost(Loss::NotSignedIn))));
    assert_eq!((bench.machine.next(), bench.effects), (Next::Done, vec![]));
}
