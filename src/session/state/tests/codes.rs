//! Every retcode of the table in every state, with people's wishes in between: what must hold whatever the code.

use super::*;
use crate::session::retcode::{Retcode, codes, meaning};

/// Codes that no table has.
const STRANGE: [&str; 3] = ["", "999-999", "gibberish"];
/// Codes for which a person is needed when a sign-in meets them.
const NEED_A_PERSON: [(&str, Suspension); 8] = [
    ("100-001", Suspension::RequestRefused),
    ("100-004", Suspension::BadCredentials),
    ("100-013", Suspension::PhoneRefused),
    ("100-014", Suspension::PhoneRefused),
    ("100-015", Suspension::NotReplaceable),
    ("100-020", Suspension::PasswordExpired),
    ("100-061", Suspension::AccountLocked),
    ("110-016", Suspension::AccountLocked),
];
const SWITCHING_OVER: [&str; 4] = ["000-004", "105-002", "105-003", "105-004"];
const NOT_KNOWN: [&str; 2] = ["000-003", "100-006"];
const IN_PROGRESS: [&str; 2] = ["000-007", "100-021"];

/// A state with the call that is in flight in it.
#[derive(Debug, Clone, Copy)]
enum Case {
    SigningIn,
    Forcing,
    SigningInAgain,
    Resuming,
    Adopting,
    EnteringSkills,
    SettingAutoAnswer,
    AskingForState(Operation),
    Active,
    SigningOut,
    SigningOutToChangeThePassword,
    StoppingWithSignOut,
}

const CASES: [Case; 14] = [
    Case::SigningIn,
    Case::Forcing,
    Case::SigningInAgain,
    Case::Resuming,
    Case::Adopting,
    Case::EnteringSkills,
    Case::SettingAutoAnswer,
    Case::AskingForState(SayFree),
    Case::AskingForState(SayBusy),
    Case::AskingForState(Work),
    Case::Active,
    Case::SigningOut,
    Case::SigningOutToChangeThePassword,
    Case::StoppingWithSignOut,
];

impl Case {
    /// The machine just before its call.
    fn bench(self) -> Bench {
        let mut bench = Bench::new(false);
        let resume = Resume {
            silence: Some(Duration::from_secs(20)),
            skills_set: true,
            settings_due: false,
            adopted: matches!(self, Case::Adopting),
            foreign: false,
            guid_age: None,
            delay: Duration::ZERO,
        };
        match self {
            Case::SigningIn => bench.input(Input::Start(None)),
            Case::Forcing => {
                bench.input(Input::Start(None));
                bench.input(Input::TakeOver);
                bench.answer(Login, Meaning::SignedIn);
            }
            Case::SigningInAgain => {
                bench = Bench::active(false);
                bench.answer(Handshake, Meaning::Lost(Loss::NotSignedIn));
            }
            Case::Resuming | Case::Adopting => bench.input(Input::Start(Some(resume))),
            Case::EnteringSkills => {
                bench.input(Input::Start(None));
                bench.answer(Login, Meaning::Ok);
            }
            Case::SettingAutoAnswer | Case::AskingForState(_) => {
                let state = if let Case::AskingForState(state) = self { state } else { SayFree };
                bench = Bench::with_settings([Some(AutoAnswer), Some(state)]);
                bench.input(Input::Start(None));
                bench.answer(Login, Meaning::Ok);
                bench.answer(ResetSkill, Meaning::Ok);
                if let Case::AskingForState(_) = self {
                    bench.answer(AutoAnswer, Meaning::Ok);
                }
            }
            Case::Active => bench = Bench::active(false),
            Case::SigningOut => {
                bench = Bench::active(false);
                bench.input(Input::SignOut);
            }
            Case::SigningOutToChangeThePassword => {
                bench.input(Input::Start(None));
                bench.call(Login, Outcome::PasswordChangeRequired);
            }
            Case::StoppingWithSignOut => {
                bench = Bench::active(false);
                bench.input(Input::Stop { sign_out: true });
            }
        }
        bench.effects.clear();
        bench
    }
}

/// The cases in which the agent is set up between two heartbeats.
const SETTING_UP: [Case; 5] = [
    Case::EnteringSkills,
    Case::SettingAutoAnswer,
    Case::AskingForState(SayFree),
    Case::AskingForState(SayBusy),
    Case::AskingForState(Work),
];

/// Whether a heartbeat may come between two tries of a call.
fn lets_heartbeats_through(operation: Operation) -> bool {
    matches!(operation, ResetSkill | AutoAnswer | SayFree | SayBusy | Work)
}

fn all_codes() -> impl Iterator<Item = &'static str> {
    codes().chain(STRANGE)
}

/// What may come in while the call is unanswered.
const WISHES: [Option<Input>; 5] =
    [None, Some(Input::ForcedOut), Some(Input::SignIn), Some(Input::SignOut), Some(Input::TakeOver)];

/// Makes the call that is due, lets `wish` come in meanwhile, and answers `code`. Gives the call.
fn meet(bench: &mut Bench, code: &str, wish: Option<Input>) -> Operation {
    let Next::Call(operation, due) = bench.machine.next() else { panic!("no call in {:?}", bench.state()) };
    bench.now = bench.now.max(due);
    bench.input(Input::Began(operation));
    assert_eq!(bench.machine.next(), Next::Rest, "one call in flight");
    if let Some(wish) = wish {
        bench.input(wish);
        assert_eq!(bench.machine.next(), Next::Rest, "one call in flight, whatever {wish:?} wants");
    }
    bench.now += Duration::from_millis(50);
    bench.input(Input::Ended(Outcome::Answered(meaning(operation, &Retcode::new(code)))));
    operation
}

/// The next call and the wait for it.
fn next(bench: &Bench) -> Option<(Operation, Duration)> {
    match bench.machine.next() {
        Next::Call(operation, due) => Some((operation, due.saturating_duration_since(bench.now))),
        Next::Rest | Next::Done => None,
    }
}

#[test]
fn no_code_in_any_state_breaks_the_order_of_calls_or_waits_without_end() {
    let mut met = 0;
    for (case, code, wish) in
        CASES.iter().flat_map(|case| all_codes().flat_map(move |code| WISHES.map(|wish| (*case, code, wish))))
    {
        let mut bench = case.bench();
        let story = format!("{case:?} {code} {wish:?}");
        for round in 0..4 {
            if next(&bench).is_none() {
                break;
            }
            let operation = meet(&mut bench, code, wish.filter(|_| round == 0));
            met += 1;
            match next(&bench) {
                Some((then, wait)) => {
                    assert!(wait <= 35 * SECOND, "{story}: {wait:?} before {then:?}");
                    let state = bench.state();
                    assert!(!matches!(state, State::Suspended(_) | State::SignedOut), "{story}: {then:?}");
                    if then.signs_in() {
                        assert!(!bench.machine.holds_session(), "{story}: a sign-in beside a session");
                    } else {
                        assert!(bench.machine.holds_session(), "{story}: {then:?} without a session");
                    }
                    if then == ForceLogin {
                        let may = code == "100-002" || matches!(case, Case::Forcing);
                        assert!(may, "{story}: nobody allowed a forced sign-in");
                    }
                    // The same call at once would be a storm of one.
                    if then == operation && code != "0" && !(operation == Handshake && code == "100-001") {
                        assert!(wait >= SECOND / 2, "{story}: {then:?} again after {wait:?}");
                    }
                }
                None => {
                    let rests = matches!(bench.state(), State::Suspended(_) | State::SignedOut);
                    let stops = matches!(case, Case::StoppingWithSignOut);
                    assert!(rests || stops, "{story}: rests in {:?}", bench.state());
                }
            }
        }
    }
    assert!(met >= CASES.len() * all_codes().count() * WISHES.len(), "{met} answers");
}

#[test]
fn what_a_suspended_session_hears_moves_it_only_when_a_person_asks() {
    for case in [Case::SigningIn, Case::SigningInAgain, Case::Forcing] {
        for (code, suspension) in NEED_A_PERSON {
            let mut bench = case.bench();
            meet(&mut bench, code, None);
            assert_eq!(bench.state(), State::Suspended(suspension), "{case:?} {code}");
            assert_eq!(bench.effects, [Effect::Suspended(suspension)], "{case:?} {code}");
            let rules = Rules { skills: false, ..rules(false) };
            for input in [
                Input::ForcedOut,
                Input::GuidRenewed,
                Input::Configured { rules, skills: true, sign_in: false },
                Input::ForwardEnded(Forwarded::SessionDoubted),
            ] {
                bench.now += Duration::from_secs(3600);
                bench.input(input);
                assert_eq!(bench.machine.next(), Next::Rest, "{case:?} {code} {input:?}");
            }
            bench.input(Input::SignIn);
            assert_eq!(next(&bench), Some((Login, Duration::ZERO)), "{case:?} {code}");
        }
    }
    let mut bench = Case::SigningIn.bench();
    bench.call(Login, Outcome::PasswordChangeRequired);
    bench.answer(Logout, Meaning::Ok);
    assert_eq!(bench.state(), State::Suspended(Suspension::PasswordChangeRequired));
}

#[test]
fn a_switch_over_is_waited_for_one_to_five_seconds_in_every_state() {
    for case in CASES {
        for code in SWITCHING_OVER {
            let mut bench = case.bench();
            let state = bench.state();
            let operation = meet(&mut bench, code, None);
            assert_eq!(bench.state(), state, "{case:?} {code}");
            let between = lets_heartbeats_through(operation);
            while next(&bench).is_some_and(|(then, _)| then == Handshake && between) {
                bench.answer(Handshake, Meaning::Ok);
            }
            let before = bench.now;
            let Some((then, wait)) = next(&bench) else { panic!("{case:?} {code} rests") };
            // A forced sign-in that was not done asks anew whether it is needed.
            let same = if operation == ForceLogin { Login } else { operation };
            assert_eq!(then, same, "{case:?} {code}");
            let since = wait + (bench.now - before);
            assert!(since <= 5 * SECOND, "{case:?} {code}: {since:?}");
            if !between {
                assert!(since >= SECOND, "{case:?} {code}: {since:?}");
            }
        }
    }
}

#[test]
fn a_session_that_the_gateway_does_not_know_is_signed_in_again_once_for_each_step() {
    for case in SETTING_UP.into_iter().chain([Case::Resuming, Case::Active]) {
        for code in NOT_KNOWN {
            let mut bench = case.bench();
            let mut waits = Vec::new();
            for _ in 0..8 {
                meet(&mut bench, code, None);
                assert_eq!(bench.state(), State::Recovering, "{case:?} {code}");
                let (then, wait) = next(&bench).unwrap();
                assert_eq!(then, Login, "{case:?} {code}");
                waits.push(wait);
                bench.answer(Login, Meaning::Ok);
                bench.answer(ResetSkill, Meaning::Ok);
            }
            assert!(waits[0] <= SECOND, "{case:?} {code}: {waits:?}");
            assert!(waits[6..].iter().all(|wait| *wait >= SIGN_IN_MOST / 2), "{case:?} {code}: {waits:?}");
            let lost = bench.effects.iter().filter(|effect| matches!(effect, Effect::Lost(_))).count();
            assert_eq!(lost, 8, "{case:?} {code}");
        }
    }
}

#[test]
fn a_call_in_progress_at_the_gateway_is_waited_for_and_never_forced() {
    for case in SETTING_UP.into_iter().chain([Case::SigningIn, Case::SigningInAgain, Case::Active]) {
        for code in IN_PROGRESS {
            let mut bench = case.bench();
            let operation = meet(&mut bench, code, None);
            let (then, wait) = next(&bench).unwrap();
            assert!(then == operation || lets_heartbeats_through(operation), "{case:?} {code}: {then:?}");
            assert!(wait >= SECOND / 2, "{case:?} {code}: {wait:?}");
        }
    }
}

#[test]
fn a_living_session_ends_only_by_codes_that_say_so() {
    for code in all_codes() {
        for case in SETTING_UP.into_iter().chain([Case::Active, Case::Resuming]) {
            let mut bench = case.bench();
            let operation = meet(&mut bench, code, None);
            let lost = matches!(meaning(operation, &Retcode::new(code)), Meaning::Lost(_));
            assert_eq!(bench.machine.holds_session(), !lost, "{case:?} {code}");
        }
        // A call that was passed on ends none at all.
        let mut bench = Case::Active.bench();
        assert!(bench.machine.may_forward(bench.now));
        bench.input(Input::ForwardBegan);
        assert_eq!(bench.machine.next(), Next::Rest, "one call in flight");
        assert!(!bench.machine.may_forward(bench.now));
        bench.now += SECOND;
        let doubted = crate::session::retcode::doubts_session(&Retcode::new(code));
        let forwarded = if doubted { Forwarded::SessionDoubted } else { Forwarded::Fine };
        bench.input(Input::ForwardEnded(forwarded));
        let (then, wait) = next(&bench).unwrap();
        assert_eq!((bench.state(), then), (State::Active, Handshake), "{code}");
        assert_eq!(wait <= SECOND, doubted, "{code}: {wait:?}");
    }
}

#[test]
fn an_adopted_session_without_a_password_is_never_signed_in_whatever_happens_to_it() {
    for code in all_codes() {
        let mut bench = Bench::new(true);
        bench.machine = Machine::new(Rules { may_sign_in: false, ..rules(true) });
        let resume = Resume {
            silence: Some(Duration::ZERO),
            skills_set: true,
            settings_due: false,
            adopted: true,
            foreign: false,
            guid_age: None,
            delay: Duration::ZERO,
        };
        bench.input(Input::Start(Some(resume)));
        for round in 0..60 {
            match next(&bench) {
                Some((operation, _)) => {
                    assert_eq!(operation, Handshake, "{code}");
                    meet(&mut bench, code, None);
                }
                None => {
                    let lost = State::Suspended(Suspension::AdoptedSessionLost);
                    let refused = State::Suspended(Suspension::HeartbeatRefused);
                    assert!(bench.state() == lost || bench.state() == refused, "{code}: {:?}", bench.state());
                    bench.input(if round % 2 == 0 { Input::SignIn } else { Input::TakeOver });
                }
            }
        }
    }
}
