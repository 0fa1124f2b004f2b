//! Calls that set an agent up after its sign-in: when they come, what they wait for, and what they never hold up.

use super::*;

const ALL: [Option<Operation>; SETTINGS] = [Some(AutoAnswer), Some(SayFree)];
const REFUSED: Effect = Effect::Degraded(Degradation::SettingsRefused);

fn resume(settings_due: bool) -> Resume {
    Resume {
        silence: Some(20 * SECOND),
        skills_set: true,
        settings_due,
        adopted: false,
        foreign: false,
        guid_age: None,
        delay: Duration::ZERO,
    }
}

/// Signed in, in its skill queues, and the first of its settings due.
fn to_be_set_up() -> Bench {
    let mut bench = Bench::with_settings(ALL);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    bench.answer(ResetSkill, Meaning::Ok);
    bench.effects.clear();
    bench
}

#[test]
fn they_follow_the_skill_queues_at_once_and_come_again_with_each_sign_in() {
    let mut bench = to_be_set_up();
    for _ in 0..3 {
        assert!(bench.machine.settings_due());
        assert_eq!(bench.answer(AutoAnswer, Meaning::Ok), Duration::ZERO);
        assert_eq!(bench.effects, [], "there is more to come");
        assert_eq!(bench.answer(SayFree, Meaning::Ok), Duration::ZERO);
        assert_eq!(bench.effects, [Effect::SettingsDone]);
        assert!(!bench.machine.settings_due());
        for _ in 0..5 {
            bench.answer(Handshake, Meaning::Ok);
        }
        bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
        bench.answer(Login, Meaning::Ok);
        bench.answer(ResetSkill, Meaning::Refused);
        bench.effects.clear();
    }
}

#[test]
fn a_resumed_session_has_them_only_when_they_were_not_finished_and_an_adopted_one_never() {
    for due in [false, true] {
        let mut bench = Bench::with_settings(ALL);
        bench.input(Input::Start(Some(resume(due))));
        if due {
            // First it is found out whether the session is there.
            bench.answer(Handshake, Meaning::Ok);
            bench.answer(AutoAnswer, Meaning::Ok);
            bench.answer(SayFree, Meaning::Ok);
        }
        for _ in 0..5 {
            bench.answer(Handshake, Meaning::Ok);
        }
    }
    let mut bench = Bench::with_settings(ALL);
    bench.input(Input::Start(Some(Resume { adopted: true, ..resume(true) })));
    for _ in 0..5 {
        bench.answer(Handshake, Meaning::Ok);
    }
}

#[test]
fn those_that_fail_for_now_are_repeated_ever_more_calmly_and_hold_up_no_heartbeat() {
    for outcome in [
        Outcome::Answered(Meaning::Transient),
        Outcome::Answered(Meaning::SwitchingOver),
        LOST_ANSWER,
        UNREACHABLE,
    ] {
        let mut bench = to_be_set_up();
        let (mut last, mut tries) = (bench.now, 0);
        while bench.now - last < LIMIT && tries < 60 {
            let Next::Call(operation, due) = bench.machine.next() else { panic!("nothing to do") };
            if operation == Handshake {
                assert!(due - last <= 35 * SECOND, "{outcome:?}: {:?}", due - last);
                bench.answer(Handshake, Meaning::Ok);
                last = bench.now;
            } else {
                bench.call(AutoAnswer, outcome);
                // As long as a call may take.
                bench.now += 8 * SECOND;
                tries += 1;
            }
        }
        assert_eq!((tries, bench.state()), (60, State::Active), "{outcome:?}");
        bench.effects.retain(|effect| *effect != Effect::Kept);
        assert_eq!(bench.effects, [REFUSED], "{outcome:?}: told once");
        // One that succeeds after all is told too.
        while bench.machine.settings_due() {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            bench.answer(operation, Meaning::Ok);
        }
        bench.effects.retain(|effect| *effect != Effect::Kept);
        assert_eq!(
            bench.effects,
            [REFUSED, Effect::Mended(Degradation::SettingsRefused), Effect::SettingsDone]
        );
    }
}

#[test]
fn a_heartbeat_that_is_due_goes_before_them() {
    let mut bench = Bench::with_settings(ALL);
    bench.input(Input::Start(None));
    bench.answer(Login, Meaning::Ok);
    bench.input(Input::Began(ResetSkill));
    // The first heartbeat is due within 5 s of the sign-in.
    bench.now += 8 * SECOND;
    bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
    bench.answer(Handshake, Meaning::Ok);
    bench.input(Input::Began(AutoAnswer));
    bench.now += 40 * SECOND;
    bench.input(Input::Ended(Outcome::Answered(Meaning::Ok)));
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(SayFree, Meaning::Ok);
}

#[test]
fn where_events_are_polled_they_do_not_wait_for_a_poll_that_waits_for_an_event() {
    let mut bench = Bench::new(false);
    bench.machine = Machine::new(Rules { settings: ALL, polls: true, ..rules(false) });
    bench.input(Input::Start(None));
    for operation in [Login, ResetSkill, AutoAnswer, SayFree, Poll, Poll] {
        bench.answer(operation, Meaning::Ok);
    }
    // One that fails does.
    bench.answer(Poll, Meaning::Lost(Loss::GuidRefused));
    for operation in [Login, ResetSkill] {
        bench.answer(operation, Meaning::Ok);
    }
    bench.answer(AutoAnswer, Meaning::Transient);
    bench.answer(Poll, Meaning::Ok);
}

#[test]
fn one_that_is_refused_is_told_and_given_up_and_the_others_are_made_all_the_same() {
    let mut bench = to_be_set_up();
    bench.answer(AutoAnswer, Meaning::Refused);
    assert_eq!(bench.effects, [REFUSED]);
    bench.answer(SayFree, Meaning::Ok);
    assert_eq!(bench.effects, [REFUSED, Effect::SettingsDone]);
    bench.answer(Handshake, Meaning::Ok);

    // Without a clear reason it takes a few tries.
    let mut bench = to_be_set_up();
    bench.answer(AutoAnswer, Meaning::Ok);
    let mut tries = 0;
    while bench.machine.settings_due() {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        tries += usize::from(operation == SayFree);
        bench.answer(operation, if operation == SayFree { Meaning::Doubtful } else { Meaning::Ok });
    }
    assert!((3..10).contains(&tries), "{tries}");
    bench.effects.retain(|effect| *effect != Effect::Kept);
    assert_eq!(bench.effects, [REFUSED, Effect::SettingsDone]);
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn a_session_that_they_find_lost_is_signed_in_again_and_set_up_from_the_start() {
    for loss in [Loss::GuidRefused, Loss::NotSignedIn] {
        let mut bench = to_be_set_up();
        bench.answer(AutoAnswer, Meaning::Ok);
        bench.answer(SayFree, Meaning::Lost(loss));
        assert_eq!((bench.state(), bench.effects.as_slice()), (State::Recovering, &[Effect::Lost(loss)][..]));
        for operation in [Login, ResetSkill, AutoAnswer, SayFree, Handshake] {
            bench.answer(operation, Meaning::Ok);
        }
    }
}

#[test]
fn another_configuration_counts_for_those_not_made_yet_and_else_from_the_next_sign_in() {
    let configured = |settings| Input::Configured {
        rules: Rules { settings, ..rules(false) },
        skills: false,
        sign_in: false,
    };
    let mut bench = to_be_set_up();
    bench.input(Input::Began(AutoAnswer));
    bench.input(configured([None, Some(SayBusy)]));
    bench.input(Input::Ended(Outcome::Answered(Meaning::Refused)));
    bench.answer(SayBusy, Meaning::Ok);
    bench.input(configured([Some(AutoAnswer), Some(Work)]));
    bench.answer(Handshake, Meaning::Ok);
    bench.answer(Handshake, Meaning::Ok);
    assert_eq!(bench.effects, [Effect::SettingsDone, Effect::Kept, Effect::Kept]);
    bench.answer(Handshake, Meaning::Lost(Loss::GuidRefused));
    for operation in [Login, ResetSkill, AutoAnswer, Work, Handshake] {
        bench.answer(operation, Meaning::Ok);
    }

    // Nothing was wanted at the sign-in, or nothing is wanted any more.
    for (before, after) in [([None, None], ALL), (ALL, [None, None])] {
        let mut bench = Bench::with_settings(before);
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Ok);
        bench.input(configured(after));
        bench.answer(ResetSkill, Meaning::Ok);
        bench.answer(Handshake, Meaning::Ok);
        assert!(!bench.machine.settings_due());
    }
}

#[test]
fn a_sign_out_does_not_wait_for_them_and_a_call_that_is_passed_on_does() {
    let mut bench = to_be_set_up();
    assert!(!bench.machine.may_forward(bench.now));
    bench.answer(AutoAnswer, Meaning::Ok);
    bench.answer(SayFree, Meaning::Ok);
    assert!(bench.machine.may_forward(bench.now));

    let mut bench = to_be_set_up();
    bench.input(Input::SignOut);
    bench.answer(Logout, Meaning::Ok);
    assert_eq!(bench.state(), State::SignedOut);
}

#[test]
fn one_that_fails_for_a_moment_is_told_to_nobody() {
    for outcome in [Outcome::Answered(Meaning::Transient), LOST_ANSWER, UNREACHABLE] {
        let mut bench = to_be_set_up();
        let began = bench.now;
        while bench.now < began + 20 * SECOND {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            let well = Outcome::Answered(Meaning::Ok);
            bench.call(operation, if operation == AutoAnswer { outcome } else { well });
        }
        while bench.machine.settings_due() {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            bench.answer(operation, Meaning::Ok);
        }
        bench.effects.retain(|effect| *effect != Effect::Kept);
        assert_eq!(bench.effects, [Effect::SettingsDone], "{outcome:?}");
    }
}

#[test]
fn one_that_was_refused_is_still_shown_when_another_succeeds_late() {
    let mut bench = to_be_set_up();
    bench.answer(AutoAnswer, Meaning::Refused);
    let began = bench.now;
    while bench.now < began + 3 * LIMIT {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.answer(operation, if operation == SayFree { Meaning::Transient } else { Meaning::Ok });
    }
    while bench.machine.settings_due() {
        let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
        bench.answer(operation, Meaning::Ok);
    }
    bench.effects.retain(|effect| *effect != Effect::Kept);
    assert_eq!(bench.effects, [REFUSED, Effect::SettingsDone]);
}

#[test]
fn skill_queues_that_fail_on_and_on_are_told_once_and_hold_up_no_new_guid() {
    for outcome in [
        Outcome::Answered(Meaning::Transient),
        Outcome::Answered(Meaning::SwitchingOver),
        LOST_ANSWER,
        UNREACHABLE,
    ] {
        let mut bench = Bench::new(false);
        bench.machine = Machine::new(Rules { guid_renewal: Some(45 * SECOND), ..rules(false) });
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Ok);
        let (began, mut tries, mut renewed) = (bench.now, 0, None);
        while tries < 60 {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            tries += usize::from(operation == ResetSkill);
            bench.call(
                operation,
                if operation == ResetSkill { outcome } else { Outcome::Answered(Meaning::Ok) },
            );
            if operation == UpdateGuid {
                renewed.get_or_insert(bench.now - began);
                bench.input(Input::GuidRenewed);
            }
        }
        let told = Effect::Degraded(Degradation::SkillsRefused);
        bench.effects.retain(|effect| *effect != Effect::Kept);
        assert_eq!(bench.effects, [Effect::Started(Entry::SignedIn), told], "{outcome:?}");
        assert!(renewed.is_some_and(|after| after <= 46 * SECOND), "{outcome:?}: {renewed:?}");
        assert!(!bench.machine.skills_set(), "it is tried on");
        bench.effects.clear();
        while !bench.machine.skills_set() {
            let Next::Call(operation, _) = bench.machine.next() else { panic!("nothing to do") };
            bench.answer(operation, Meaning::Ok);
        }
        assert_eq!(bench.effects.last(), Some(&Effect::SkillsSet), "which mends it");
    }
}

#[test]
fn a_setting_without_an_answer_loses_no_guid_so_that_a_person_who_comes_in_is_not_forced_out() {
    for operation in [ResetSkill, AutoAnswer, SayFree] {
        let mut bench = Bench::with_settings(ALL);
        bench.input(Input::Start(None));
        bench.answer(Login, Meaning::Ok);
        for before in [ResetSkill, AutoAnswer, SayFree].into_iter().take_while(|before| *before != operation)
        {
            bench.answer(before, Meaning::Ok);
        }
        bench.call(operation, LOST_ANSWER);
        bench.answer(operation, Meaning::Lost(Loss::GuidRefused));
        bench.answer(Login, Meaning::SignedIn);
        assert_eq!(bench.state(), State::Suspended(Suspension::SignedInElsewhere), "{operation:?}");
    }
}
