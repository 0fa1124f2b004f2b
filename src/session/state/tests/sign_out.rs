//! What a person's word that an agent is to be signed out comes to where the gateway does not answer.

use super::*;

const IN_VAIN: [Outcome; 4] = [
    Outcome::Answered(Meaning::Transient),
    Outcome::Answered(Meaning::SwitchingOver),
    LOST_ANSWER,
    UNREACHABLE,
];

#[test]
fn a_sign_out_whose_answers_are_lost_is_not_turned_into_a_sign_in() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    for _ in 0..SIGN_OUT_TRIES {
        bench.call(Logout, LOST_ANSWER);
    }
    assert_eq!((bench.state(), bench.effects.as_slice()), (State::SigningOut, &[][..]));
    while !matches!(bench.machine.next(), Next::Call(Handshake, _)) {
        bench.call(Logout, LOST_ANSWER);
    }
    // It was signed out by the first of them.
    bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
    assert_eq!((bench.state(), bench.machine.next()), (State::SignedOut, Next::Rest));
    assert_eq!(bench.effects, [Effect::SignedOut], "which is what was wanted, and no loss");
    assert!(bench.machine.is_wanted_out());
}

#[test]
fn a_sign_out_is_asked_for_until_the_gateway_answers_and_the_session_kept_alive_meanwhile() {
    for outcome in IN_VAIN {
        let mut bench = Bench::active(false);
        bench.input(Input::SignOut);
        let (mut heartbeats, began) = (0, bench.now);
        while bench.now < began + 5 * LIMIT {
            assert_eq!(bench.state(), State::SigningOut, "{outcome:?}");
            let Next::Call(operation, due) = bench.machine.next() else { panic!("nothing to do") };
            assert!(due <= bench.now + LEAVE_PAUSE, "{operation:?}");
            heartbeats += usize::from(operation == Handshake);
            bench.call(
                operation,
                if operation == Handshake { Outcome::Answered(Meaning::Ok) } else { outcome },
            );
        }
        assert!(heartbeats >= 15, "{heartbeats}");
        bench.effects.clear();
        while bench.state() == State::SigningOut {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            bench.answer(operation, Meaning::Ok);
        }
        assert_eq!(bench.effects.last(), Some(&Effect::SignedOut));
        assert_eq!((bench.state(), bench.machine.next()), (State::SignedOut, Next::Rest));
    }
}

#[test]
fn a_guid_that_the_gateway_still_takes_minutes_after_a_lost_answer_is_the_newest() {
    for (heartbeats, out) in [(2, false), (10, true)] {
        let mut bench = Bench::active(false);
        bench.call(Handshake, LOST_ANSWER);
        for _ in 0..heartbeats {
            bench.answer(Handshake, Meaning::Ok);
        }
        bench.input(Input::SignOut);
        bench.answer(Logout, Meaning::Lost(Loss::NotSignedIn));
        let expected = if out { State::SignedOut } else { State::SigningOut };
        assert_eq!(bench.state(), expected, "after {heartbeats} heartbeats");
    }
}

#[test]
fn a_sign_out_of_a_session_that_nobody_answers_for_ends_with_the_session() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    while bench.state() == State::SigningOut {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.call(operation, UNREACHABLE);
    }
    assert_eq!((bench.state(), bench.machine.next()), (State::SignedOut, Next::Rest));
    assert_eq!(bench.effects[1..], [Effect::Lost(Loss::TimedOut), Effect::SignedOut]);
}

#[test]
fn an_agent_who_is_not_to_come_back_after_a_loss_that_was_told_has_ended() {
    for input in [Input::SignOut, Input::Leave, Input::Stop { sign_out: true }] {
        let mut bench = Bench::active(false);
        bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
        bench.call(Login, UNREACHABLE);
        bench.input(input);
        assert_eq!(bench.effects, [Effect::Lost(Loss::NotSignedIn), Effect::SignedOut], "{input:?}");
        bench.input(input);
        assert_eq!(bench.effects.len(), 2, "once");
    }
    // Nobody was told of a session.
    let mut bench = Bench::new(false);
    bench.input(Input::StartNew);
    bench.call(Login, UNREACHABLE);
    bench.input(Input::SignOut);
    assert_eq!((bench.state(), bench.effects.as_slice()), (State::SignedOut, &[][..]));
}

#[test]
fn a_person_may_think_better_of_a_sign_out_that_is_not_answered() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    for _ in 0..=SIGN_OUT_TRIES {
        bench.call(Logout, UNREACHABLE);
    }
    bench.input(Input::SignIn);
    assert_eq!((bench.state(), bench.machine.is_wanted_out()), (State::Active, false));
    bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
    bench.answer(Login, Meaning::Ok);
}

#[test]
fn a_stop_leaves_the_sign_out_to_the_next_run() {
    for sign_out in [false, true] {
        let mut bench = Bench::active(false);
        bench.input(Input::SignOut);
        bench.call(Logout, UNREACHABLE);
        bench.input(Input::Stop { sign_out });
        while bench.machine.next() != Next::Done {
            bench.call(Logout, UNREACHABLE);
        }
        assert!(bench.machine.is_wanted_out() && bench.machine.holds_session());
    }
}

/// The agent is to be signed out, and whatever is asked is answered with that the session is unknown, until it shows as signed out.
/// Returns how long that took.
fn is_unknown_until_it_is_out(bench: &mut Bench, loss: Loss) -> Duration {
    let began = bench.now;
    while bench.state() != State::SignedOut {
        assert!(bench.state() == State::SigningOut && bench.machine.is_wanted_out(), "{:?}", bench.state());
        let Next::Call(operation, due) = bench.machine.next() else { panic!("nothing to do") };
        assert!(matches!(operation, Logout | Handshake), "{operation:?}");
        assert!(due <= bench.now + LEAVE_PAUSE, "{operation:?}");
        bench.answer(operation, Meaning::Lost(loss));
    }
    assert_eq!(bench.machine.next(), Next::Rest, "nobody is at the desk");
    bench.now - began
}

const UNCONFIRMED: Effect = Effect::Degraded(Degradation::SignOutUnconfirmed);

#[test]
fn a_sign_out_of_a_session_that_may_have_a_newer_guid_is_asked_for_until_nobody_can_have_kept_it_alive() {
    for loss in [Loss::NotSignedIn, Loss::GuidRefused] {
        // Answers are lost for a while, of a heartbeat and of the sign-out.
        let mut bench = Bench::active(false);
        bench.call(Handshake, LOST_ANSWER);
        let doubted = bench.now;
        bench.input(Input::SignOut);
        bench.call(Logout, LOST_ANSWER);
        is_unknown_until_it_is_out(&mut bench, loss);
        let took = bench.now - doubted;
        assert!(took > LIMIT && took < LIMIT + SILENCE_MARGIN + 2 * LEAVE_PAUSE, "{took:?}");
        assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);
    }
}

#[test]
fn a_sign_out_at_an_address_that_does_not_know_the_session_is_asked_for_until_it_has_ended_at_the_other() {
    for loss in [Loss::OtherAddress, Loss::SwitchedOver] {
        let mut bench = Bench::active(false);
        bench.input(Input::SignOut);
        let took = is_unknown_until_it_is_out(&mut bench, loss);
        assert!(took + 5 * SECOND > LIMIT && took < LIMIT + 2 * LEAVE_PAUSE, "{took:?}");
        assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);

        // Calls go back to where it is known.
        let mut bench = Bench::active(false);
        bench.input(Input::SignOut);
        for _ in 0..3 {
            bench.answer(Logout, Meaning::Lost(loss));
        }
        assert_eq!(bench.state(), State::SigningOut);
        while !matches!(bench.machine.next(), Next::Call(Handshake, _)) {
            bench.answer(Logout, Meaning::Lost(loss));
        }
        bench.answer(Handshake, Meaning::Ok);
        bench.answer(Logout, Meaning::Ok);
        let mended = Effect::Mended(Degradation::SignOutUnconfirmed);
        assert_eq!(bench.effects, [UNCONFIRMED, mended, Effect::Kept, Effect::SignedOut]);
    }
}

#[test]
fn a_heartbeat_on_its_way_when_the_agent_is_to_be_signed_out_is_no_reason_to_believe_it() {
    for (loss, state) in [(Loss::OtherAddress, State::SigningOut), (Loss::NotSignedIn, State::SignedOut)] {
        let mut bench = Bench::active(false);
        bench.input(Input::Began(Handshake));
        bench.input(Input::SignOut);
        bench.input(Input::Ended(Outcome::Answered(Meaning::Lost(loss))));
        assert_eq!(bench.state(), state, "{loss:?}");
    }
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.input(Input::Began(Handshake));
    bench.input(Input::SignOut);
    bench.input(Input::Ended(Outcome::Answered(Meaning::Lost(Loss::GuidRefused))));
    assert_eq!(bench.answer(Logout, Meaning::Ok), Duration::ZERO);
    assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);
}

#[test]
fn an_event_that_announces_the_end_confirms_a_sign_out_whose_answer_was_lost() {
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::Lost(Loss::NotSignedIn));
    assert_eq!(bench.state(), State::SigningOut);
    bench.input(Input::ForcedOut);
    assert!(bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn)) < SECOND);
    assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);
}

#[test]
fn a_session_of_an_earlier_run_is_asked_for_as_long_unless_a_heartbeat_has_shown_that_its_guid_is_the_newest()
{
    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(left_behind(10 * SECOND))));
    bench.input(Input::SignOut);
    let took = is_unknown_until_it_is_out(&mut bench, Loss::NotSignedIn);
    assert!(took > LIMIT - 10 * SECOND, "{took:?}");
    assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);

    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(left_behind(10 * SECOND))));
    bench.answer(Handshake, Meaning::Ok);
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::Lost(Loss::NotSignedIn));
    assert_eq!(bench.state(), State::SignedOut);
}

#[test]
fn a_person_may_think_better_of_a_sign_out_that_is_not_confirmed() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::Lost(Loss::OtherAddress));
    bench.input(Input::SignIn);
    assert_eq!(bench.effects, [UNCONFIRMED, Effect::Mended(Degradation::SignOutUnconfirmed)]);
    bench.answer(Handshake, Meaning::Lost(Loss::OtherAddress));
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn an_agent_whom_a_person_has_signed_out_is_asked_for_as_long_when_it_leaves_too() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    bench.input(Input::Leave);
    let began = bench.now;
    while bench.machine.next() != Next::Done {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.answer(operation, Meaning::Lost(Loss::OtherAddress));
    }
    assert!(bench.now - began > LIMIT - 5 * SECOND);
    assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);
}

#[test]
fn an_agent_who_leaves_unknown_to_the_gateway_may_be_to_come_back_and_waits_for_nothing() {
    // A heartbeat is on its way, or the sign-out itself.
    for in_flight in [true, false] {
        let mut bench = Bench::active(false);
        if in_flight {
            bench.input(Input::Began(Handshake));
        }
        bench.input(Input::Leave);
        if !in_flight {
            bench.input(Input::Began(Logout));
        }
        bench.input(Input::Ended(Outcome::Answered(Meaning::Lost(Loss::OtherAddress))));
        assert_eq!((bench.machine.next(), bench.machine.holds_session()), (Next::Done, true));
        assert!(bench.effects.is_empty());
    }
}

#[test]
fn a_guid_that_died_of_its_age_does_not_show_that_the_agent_is_out() {
    let pauses: [fn(&mut Bench); 2] =
        [|bench| bench.now += 115 * SECOND, |bench| bench.input(Input::StoodStill(112 * SECOND))];
    for pause in pauses {
        for loss in [Loss::NotSignedIn, Loss::GuidRefused] {
            let mut bench = Bench::active(false);
            pause(&mut bench);
            bench.input(Input::SignOut);
            is_unknown_until_it_is_out(&mut bench, loss);
            assert_eq!(bench.effects, [UNCONFIRMED, Effect::SignedOut]);
        }
    }
}
