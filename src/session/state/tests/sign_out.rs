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
fn a_sign_out_of_a_session_that_nobody_answers_for_ends_with_the_session() {
    let mut bench = Bench::active(false);
    bench.input(Input::SignOut);
    while bench.state() == State::SigningOut {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.call(operation, UNREACHABLE);
    }
    assert_eq!((bench.state(), bench.machine.next()), (State::SignedOut, Next::Rest));
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
