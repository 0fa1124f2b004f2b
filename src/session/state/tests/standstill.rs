//! Heartbeats that are late: the machine stood still, with the clock of its timers or without, or the gateway is slow.

use super::*;

/// No heartbeat for so long, and then the session is not known.
fn lost_after(bench: &mut Bench, pause: Duration, loss: Loss) {
    bench.now += pause;
    bench.answer(Handshake, Meaning::Lost(loss));
    assert_eq!(bench.state(), State::Recovering);
}

fn is_waited_for(bench: &mut Bench) {
    let took = bench.waits_without_force();
    assert!(took > LIMIT, "{took:?}");
}

fn is_forced_back(bench: &mut Bench) {
    bench.answer(Login, Meaning::SignedIn);
    bench.answer(ForceLogin, Meaning::Ok);
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn a_guid_that_died_while_heartbeats_were_late_is_no_sign_of_somebody_else() {
    for loss in [Loss::GuidRefused, Loss::NotSignedIn] {
        let mut bench = Bench::active(false);
        lost_after(&mut bench, 115 * SECOND, loss);
        is_forced_back(&mut bench);

        // By then the session has ended by itself.
        let mut bench = Bench::active(false);
        lost_after(&mut bench, 115 * SECOND, loss);
        bench.now += SILENCE_MARGIN + 10 * SECOND;
        bench.answer(Login, Meaning::SignedIn);
        assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere));
    }
}

#[test]
fn how_long_a_guid_lives_is_for_the_gateways_timeout_to_say() {
    for (timeout, pause, dead) in [(90, 85, true), (90, 65, false), (300, 115, false)] {
        let mut bench = Bench::active(false);
        let rules = Rules { guid_timeout: timeout * SECOND, ..rules(false) };
        bench.input(Input::Configured { rules, skills: false, sign_in: false });
        lost_after(&mut bench, pause * SECOND, Loss::GuidRefused);
        if dead { is_forced_back(&mut bench) } else { is_waited_for(&mut bench) }
    }
}

#[test]
fn a_session_that_was_left_alone_may_still_stand_and_nobody_is_forced() {
    for pause in [61 * SECOND, LIMIT, 600 * SECOND] {
        let mut bench = Bench::active(false);
        lost_after(&mut bench, pause, Loss::GuidRefused);
        is_waited_for(&mut bench);
    }

    // Its GUIDs do not change, so none has died.
    let mut bench = Bench::active(false);
    for _ in 0..3 {
        bench.answer(Handshake, Meaning::Ok);
    }
    lost_after(&mut bench, 115 * SECOND, Loss::GuidRefused);
    is_waited_for(&mut bench);

    // Another program may have signed in anew.
    let mut bench = Bench::new(false);
    bench.input(Input::Start(Some(Resume { adopted: true, foreign: true, ..left_behind(Duration::ZERO) })));
    bench.answer(Handshake, Meaning::Ok);
    bench.input(Input::GuidRenewed);
    lost_after(&mut bench, 115 * SECOND, Loss::GuidRefused);
    is_waited_for(&mut bench);
}

#[test]
fn an_end_that_was_announced_is_believed_however_old_the_guid_is() {
    let mut bench = Bench::active(false);
    bench.now += 115 * SECOND;
    bench.input(Input::ForcedOut);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    is_waited_for(&mut bench);
}

#[test]
fn a_standstill_makes_session_and_guid_older_and_asks_for_them_soon() {
    let mut bench = Bench::active(false);
    bench.input(Input::StoodStill(80 * SECOND));
    assert!(bench.answer(Handshake, Meaning::Ok) <= WAKES_WITHIN);
    assert_eq!((bench.state(), &bench.effects[..]), (State::Active, &[Effect::Kept][..]));
    assert!(bench.answer(Handshake, Meaning::Ok) > 20 * SECOND, "and then as before");

    let mut bench = Bench::active(false);
    bench.input(Input::StoodStill(112 * SECOND));
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    is_forced_back(&mut bench);

    // Longer than the gateway waits: a person may have come.
    let mut bench = Bench::active(false);
    bench.input(Input::StoodStill(600 * SECOND));
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    is_waited_for(&mut bench);
}

const WAKES_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn whoever_is_found_in_its_place_just_before_a_standstill_is_noticed_may_be_nobody_else() {
    let mut bench = Bench::active(false);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    assert_eq!(bench.machine.next(), Next::Rest);
    bench.now += 30 * SECOND;
    bench.input(Input::StoodStill(85 * SECOND));
    assert_eq!(bench.state(), State::Recovering);
    is_waited_for(&mut bench);
    bench.now += SET_RIGHT_WITHIN + SECOND;
    bench.input(Input::StoodStill(85 * SECOND));
    assert_eq!(bench.machine.next(), Next::Rest, "it was too long ago");
}

#[test]
fn a_clock_that_was_merely_set_costs_one_heartbeat_and_nothing_else() {
    for by in [10 * SECOND, 100 * SECOND, 3600 * SECOND] {
        let mut bench = Bench::active(false);
        bench.input(Input::StoodStill(by));
        // Nor does it, where the network is away just then.
        bench.call(Handshake, UNREACHABLE);
        bench.call(Handshake, UNREACHABLE);
        assert_eq!(bench.state(), State::Active, "{by:?}");
        bench.answer(Handshake, Meaning::Ok);
        assert!(bench.answer(Handshake, Meaning::Ok) > 15 * SECOND, "{by:?}");
        assert_eq!(bench.machine.last_ok(), bench.now.checked_sub(Duration::from_millis(100)));
    }
}

#[test]
fn no_guid_is_asked_for_after_a_standstill_before_a_heartbeat_has_succeeded() {
    let rules = Rules { guid_renewal: Some(45 * SECOND), ..rules(false) };
    let mut bench = Bench { machine: Machine::new(rules), ..Bench::new(false) };
    bench.input(Input::StartNew);
    bench.answer(Login, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Ok);
    bench.answer(Handshake, Meaning::Ok);
    bench.input(Input::StoodStill(50 * SECOND));
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(UpdateGuid, Meaning::Ok);
}

#[test]
fn a_heartbeat_that_a_standstill_met_under_way_is_followed_by_another_at_once() {
    for told in [true, false] {
        let mut bench = Bench::active(false);
        let Next::Call(Handshake, due) = bench.machine.next() else { panic!("no heartbeat") };
        bench.now = due;
        bench.input(Input::Began(Handshake));
        if told {
            bench.input(Input::StoodStill(86 * SECOND));
        } else {
            bench.now += 86 * SECOND;
        }
        bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
        assert_eq!(bench.answer(Handshake, Meaning::Ok), Duration::ZERO);
        assert!(bench.answer(Handshake, Meaning::Ok) > Duration::ZERO);
    }
}

/// Longer than the gateway waits, and how it shows: wall time has jumped ahead, or all clocks have.
fn long_pauses() -> [fn(&mut Bench); 2] {
    [|bench| bench.input(Input::StoodStill(600 * SECOND)), |bench| bench.now += 600 * SECOND]
}

#[test]
fn nobody_is_forced_out_after_a_long_pause_although_an_answer_was_lost_then() {
    for pause in long_pauses() {
        // Of the first heartbeat after it.
        let mut bench = Bench::active(false);
        pause(&mut bench);
        bench.call(Handshake, LOST_ANSWER);
        if bench.state() == State::Active {
            bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        }
        is_waited_for(&mut bench);

        // Of one that was under way.
        let mut bench = Bench::active(false);
        bench.input(Input::Began(Handshake));
        pause(&mut bench);
        bench.input(Input::Ended(LOST_ANSWER));
        if bench.state() == State::Active {
            bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        }
        is_waited_for(&mut bench);

        // Of a call that was passed on.
        let mut bench = Bench::active(false);
        bench.input(Input::ForwardBegan);
        pause(&mut bench);
        bench.input(Input::ForwardEnded(Forwarded::Unanswered { may_have_arrived: true }));
        bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        is_waited_for(&mut bench);

        // Of a sign-in by force.
        let mut bench = Bench::active(true);
        bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        bench.answer(Login, Meaning::SignedIn);
        bench.machine.rules = Arc::new(rules(false));
        bench.input(Input::Began(ForceLogin));
        pause(&mut bench);
        bench.input(Input::Ended(LOST_ANSWER));
        is_waited_for(&mut bench);
    }
}

#[test]
fn nobody_is_forced_out_after_a_long_pause_although_an_answer_was_lost_before_it() {
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.input(Input::StoodStill(600 * SECOND));
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    is_waited_for(&mut bench);

    // The loss was told before wall time was set right.
    let mut bench = Bench::active(false);
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.input(Input::StoodStill(600 * SECOND));
    is_waited_for(&mut bench);

    // The gateway was away when all clocks began to jump.
    let mut bench = Bench::active(false);
    bench.call(Handshake, UNREACHABLE);
    bench.now += 600 * SECOND;
    bench.call(Handshake, LOST_ANSWER);
    is_waited_for(&mut bench);
}

#[test]
fn a_forced_sign_in_that_waits_for_its_turn_is_not_made_after_a_long_pause() {
    let about_to_force = || {
        let mut bench = Bench::active(false);
        bench.call(Handshake, LOST_ANSWER);
        bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        bench.answer(Login, Meaning::SignedIn);
        bench
    };
    let mut bench = about_to_force();
    bench.input(Input::StoodStill(600 * SECOND));
    is_waited_for(&mut bench);

    let mut bench = about_to_force();
    bench.input(Input::StoodStill(60 * SECOND));
    bench.answer(ForceLogin, Meaning::Ok);

    // Whoever is there is to be forced out in any case.
    let mut bench = Bench::active(true);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    bench.answer(Login, Meaning::SignedIn);
    bench.input(Input::StoodStill(600 * SECOND));
    bench.answer(ForceLogin, Meaning::Ok);
}

#[test]
fn a_session_whose_answers_were_lost_is_forced_back_after_a_shorter_pause() {
    let mut bench = Bench::active(false);
    bench.input(Input::StoodStill(60 * SECOND));
    bench.call(Handshake, LOST_ANSWER);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    is_forced_back(&mut bench);

    // No pause at all: heartbeats may have arrived all the time.
    let mut bench = Bench::active(false);
    while bench.state() == State::Active {
        bench.call(Handshake, LOST_ANSWER);
    }
    is_forced_back(&mut bench);
}
