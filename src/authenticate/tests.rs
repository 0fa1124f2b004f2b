use proptest::prelude::*;

use secrecy::SecretSlice;

use super::digits::{BASE62, base62};
use super::*;

const START: Timestamp = Timestamp(1_795_491_900_000);
const RULES: TokenRules = TokenRules {
    period: Duration::from_secs(60),
    overlap: Duration::from_secs(180),
    max_age: Duration::from_secs(24 * 3600),
};

fn key(byte: u8) -> TokenKey {
    TokenKey::new(&SecretSlice::from(vec![byte; 32])).unwrap()
}

fn gateway() -> GatewayName {
    GatewayName::parse("main").unwrap()
}

fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap()
}

fn fixture() -> (Authenticator, Clock) {
    let clock = Clock::manual(START);
    (Authenticator::new(key(1), None, RULES, clock.clone()), clock)
}

proptest! {
    #[test]
    fn digits_to_the_base_62_say_the_number(number: u128) {
        for number in [number, number >> 64, 0, u128::MAX, 62_u128.pow(10), 62_u128.pow(20) - 1] {
            let digits = base62(number);
            let value = |digit: &u8| BASE62.iter().position(|known| known == digit).unwrap() as u128;
            prop_assert_eq!(digits.iter().fold(0, |said, digit| said * 62 + value(digit)), number);
        }
    }
}

#[test]
fn a_token_names_its_agent_and_fits_the_gateways_limits() {
    let (authenticator, _) = fixture();
    for id in ["1", "101", "59999", "999999", "1234567890"] {
        let token = authenticator.mint(&gateway(), &agent(id));
        let text = token.expose_secret();
        assert!(text.len() <= LONGEST_TOKEN && text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        assert_eq!(authenticator.check(&gateway(), text), Ok(agent(id)));
    }
}

#[test]
fn any_change_of_one_character_is_refused() {
    let (authenticator, _) = fixture();
    let token = authenticator.mint(&gateway(), &agent("1001")).expose_secret().to_owned();
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(authenticator.check(&gateway(), &changed).is_err(), "{changed} differs from {token} at {at}");
    }
}

#[test]
fn a_secret_that_is_replaced_is_good_for_one_overlap_more() {
    let (authenticator, clock) = fixture();
    let old = authenticator.mint(&gateway(), &agent("1001"));
    assert!(!authenticator.replace(key(1), None), "nothing has changed");
    assert!(authenticator.replace(key(2), None));
    let new = authenticator.mint(&gateway(), &agent("1001"));
    for token in [&old, &new] {
        assert_eq!(authenticator.check(&gateway(), token.expose_secret()), Ok(agent("1001")));
    }
    clock.advance(RULES.overlap - Duration::from_secs(1));
    // Another change in between neither lengthens nor shortens it.
    assert!(authenticator.replace(key(3), Some(key(2))));
    assert!(authenticator.check(&gateway(), old.expose_secret()).is_ok());
    clock.advance(Duration::from_secs(2));
    assert_eq!(authenticator.check(&gateway(), old.expose_secret()), Err(TokenFault::Forged));
    assert!(authenticator.check(&gateway(), new.expose_secret()).is_ok(), "it is named as the one before");
    // A secret that comes back is good for good.
    assert!(authenticator.replace(key(1), None));
    clock.advance(RULES.overlap * 2);
    assert!(authenticator.check(&gateway(), old.expose_secret()).is_ok());
}

#[test]
fn a_token_is_good_for_its_own_gateway_and_secret_only() {
    let (authenticator, clock) = fixture();
    let token = authenticator.mint(&gateway(), &agent("1001"));
    let other = GatewayName::parse("other").unwrap();
    assert_eq!(authenticator.check(&other, token.expose_secret()), Err(TokenFault::Forged));
    let stranger = Authenticator::new(key(2), None, RULES, clock);
    assert_eq!(stranger.check(&gateway(), token.expose_secret()), Err(TokenFault::Forged));
}

#[test]
fn the_secret_can_be_replaced_while_tokens_of_the_old_one_are_in_use() {
    let (old, clock) = fixture();
    let token = old.mint(&gateway(), &agent("1001"));
    let new = Authenticator::new(key(2), Some(key(1)), RULES, clock);
    assert_eq!(new.check(&gateway(), token.expose_secret()), Ok(agent("1001")));
    let fresh = new.mint(&gateway(), &agent("1001"));
    assert_eq!(old.check(&gateway(), fresh.expose_secret()), Err(TokenFault::Forged));
}

#[test]
fn a_token_stays_good_until_a_newer_one_was_seen_and_the_overlap_is_over() {
    let (authenticator, clock) = fixture();
    let first = authenticator.mint(&gateway(), &agent("1001"));
    clock.advance(Duration::from_secs(3600));
    assert!(authenticator.check(&gateway(), first.expose_secret()).is_ok(), "no newer one was seen");
    let second = authenticator.mint(&gateway(), &agent("1001"));
    assert!(authenticator.check(&gateway(), second.expose_secret()).is_ok());
    clock.advance(RULES.overlap);
    assert!(authenticator.check(&gateway(), first.expose_secret()).is_ok(), "within the overlap");
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        authenticator.check(&gateway(), first.expose_secret()),
        Err(TokenFault::Superseded(agent("1001")))
    );
    assert!(authenticator.check(&gateway(), second.expose_secret()).is_ok());
    let other = authenticator.mint(&gateway(), &agent("1002"));
    assert!(authenticator.check(&gateway(), other.expose_secret()).is_ok(), "agents do not touch each other");
}

#[test]
fn tokens_that_change_every_minute_still_supersede_old_ones() {
    let (authenticator, clock) = fixture();
    let first = authenticator.mint(&gateway(), &agent("1001"));
    assert!(authenticator.check(&gateway(), first.expose_secret()).is_ok());
    let mut refused_after = None;
    for minute in 1..=10u64 {
        clock.advance(Duration::from_secs(60));
        let token = authenticator.mint(&gateway(), &agent("1001"));
        assert!(authenticator.check(&gateway(), token.expose_secret()).is_ok());
        let old = authenticator.check(&gateway(), first.expose_secret());
        if old == Err(TokenFault::Superseded(agent("1001"))) {
            refused_after.get_or_insert(minute);
        }
    }
    assert_eq!(refused_after, Some(5), "seen newer at minute 1, overlap of 3 minutes over at minute 5");
}

#[test]
fn tokens_expire_and_may_not_come_from_the_future() {
    let (authenticator, clock) = fixture();
    let token = authenticator.mint(&gateway(), &agent("1001"));
    clock.advance(RULES.max_age + Duration::from_secs(61));
    assert_eq!(
        authenticator.check(&gateway(), token.expose_secret()),
        Err(TokenFault::Expired(Some(agent("1001"))))
    );
    let ahead =
        Authenticator::new(key(1), None, RULES, Clock::manual(clock.now().plus(Duration::from_secs(600))));
    let token = ahead.mint(&gateway(), &agent("1001"));
    assert_eq!(
        authenticator.check(&gateway(), token.expose_secret()),
        Err(TokenFault::FromFuture(agent("1001")))
    );
}

#[test]
fn a_token_of_the_session_is_good_beyond_the_greatest_age_while_no_newer_one_was_seen() {
    let (authenticator, clock) = fixture();
    let before = authenticator.mint(&gateway(), &agent("1001"));
    clock.advance(Duration::from_secs(3600));
    let token = authenticator.mint(&gateway(), &agent("1001"));
    clock.advance(Duration::from_secs(59));
    authenticator.session_began(&gateway(), &agent("1001"), Some(clock.now()));
    let check = |token: &SecretString| authenticator.check(&gateway(), token.expose_secret());
    clock.advance(RULES.max_age * 3);
    assert_eq!(check(&before), Err(TokenFault::Expired(Some(agent("1001")))), "of a session that has ended");
    for _ in 0..3 {
        assert_eq!(check(&token), Ok(agent("1001")));
        clock.advance(RULES.max_age);
    }
    let newer = authenticator.mint(&gateway(), &agent("1001"));
    assert_eq!(check(&newer), Ok(agent("1001")));
    assert_eq!(check(&token), Err(TokenFault::Expired(Some(agent("1001")))), "the gateway does refresh them");
}

#[test]
fn with_the_session_the_exception_for_old_tokens_ends() {
    let (authenticator, clock) = fixture();
    let token = authenticator.mint(&gateway(), &agent("1001"));
    let check = || authenticator.check(&gateway(), token.expose_secret());
    // As it is stored by a version that did not know the time.
    clock.advance(RULES.max_age / 2);
    authenticator.session_began(&gateway(), &agent("1001"), None);
    clock.advance(RULES.max_age);
    assert_eq!(check(), Ok(agent("1001")));
    authenticator.session_ended(&gateway(), &agent("1001"));
    assert_eq!(check(), Err(TokenFault::Expired(Some(agent("1001")))));
    authenticator.session_began(&gateway(), &agent("1001"), Some(clock.now()));
    assert_eq!(check(), Err(TokenFault::Expired(Some(agent("1001")))), "it is not of this session");
}

#[test]
fn a_clock_that_is_put_back_costs_no_agent_its_session_then_or_when_the_old_time_comes() {
    let hour = Duration::from_secs(3600);
    let (authenticator, clock) = fixture();
    let (agent, other) = (agent("1001"), agent("1002"));
    let check = |token: &SecretString| authenticator.check(&gateway(), token.expose_secret());
    let begin = || {
        authenticator.session_began(&gateway(), &agent, Some(clock.now()));
        authenticator.mint(&gateway(), &agent)
    };
    // The clock is wrong, the agent signs in, and the gateway goes on with the token of the sign-in.
    clock.advance(hour);
    let first = begin();
    let of_nobody = authenticator.mint(&gateway(), &other);
    assert_eq!(check(&first), Ok(agent.clone()));
    clock.put_back(hour);
    for _ in 0..5 {
        assert_eq!(check(&first), Ok(agent.clone()));
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(check(&of_nobody), Err(TokenFault::FromFuture(other)), "it has no session");
    // What the first session left does not stand in the way of the second.
    let second = begin();
    for _ in 0..70 {
        clock.advance(Duration::from_secs(60));
        assert_eq!(check(&second), Ok(agent.clone()), "at {:?}", clock.now());
    }
    let last = authenticator.mint(&gateway(), &agent);
    authenticator.session_ended(&gateway(), &agent);
    clock.put_back(hour);
    assert_eq!(check(&last), Err(TokenFault::FromFuture(agent)), "its session has ended");
}

#[test]
fn what_was_seen_while_the_clock_was_ahead_supersedes_nothing_once_it_is_right() {
    let ahead = Duration::from_secs(900);
    let (authenticator, clock) = fixture();
    let agent = agent("1001");
    let check = |token: &SecretString| authenticator.check(&gateway(), token.expose_secret());
    authenticator.session_began(&gateway(), &agent, Some(clock.now()));
    let old = authenticator.mint(&gateway(), &agent);
    assert!(check(&old).is_ok());
    clock.advance(ahead);
    assert!(check(&authenticator.mint(&gateway(), &agent)).is_ok());
    clock.put_back(ahead);
    for _ in 0..30 {
        assert_eq!(check(&old), Ok(agent.clone()), "at {:?}", clock.now());
        clock.advance(Duration::from_secs(60));
    }
    assert!(check(&authenticator.mint(&gateway(), &agent)).is_ok());
    clock.advance(RULES.overlap + Duration::from_secs(1));
    assert_eq!(check(&old), Err(TokenFault::Superseded(agent)), "as ever");
}

#[test]
fn a_sign_in_after_a_small_step_back_of_the_clock_supersedes_what_was_seen_before() {
    let (authenticator, clock) = fixture();
    let agent = agent("1001");
    let check = |token: &SecretString| authenticator.check(&gateway(), token.expose_secret());
    assert!(check(&authenticator.mint(&gateway(), &agent)).is_ok());
    clock.put_back(CLOCK_SKEW - Duration::from_secs(20));
    authenticator.session_began(&gateway(), &agent, Some(clock.now()));
    let kept = authenticator.mint(&gateway(), &agent);
    for _ in 0..10 {
        assert_eq!(check(&kept), Ok(agent.clone()), "at {:?}", clock.now());
        clock.advance(Duration::from_secs(60));
    }
}

#[test]
fn a_fixed_token_is_good_for_those_who_were_adopted_with_it() {
    let (authenticator, _) = fixture();
    let fixed = SecretString::from("chosenByThem");
    authenticator.accept_fixed(&gateway(), &agent("1001"), &fixed);
    authenticator.accept_fixed(&gateway(), &agent("1002"), &fixed);
    let bearer = authenticator.bearer(&gateway(), "chosenByThem").unwrap();
    let admit = |work_no: &str| authenticator.admit(&gateway(), &bearer, work_no);
    assert_eq!(admit("1001"), Ok(Some(agent("1001"))));
    assert_eq!(admit("1002"), Ok(Some(agent("1002"))));
    assert_eq!(admit("1003"), Ok(None));
    assert_eq!(admit("none"), Ok(None));
    assert_eq!(authenticator.sole_holder(&bearer), None);
    authenticator.revoke_fixed(&gateway(), &agent("1001"));
    assert_eq!(admit("1001"), Ok(None));
    assert_eq!(authenticator.sole_holder(&bearer), Some(agent("1002")));
    authenticator.accept_fixed(&gateway(), &agent("1002"), &"another one".into());
    assert_eq!(authenticator.bearer(&gateway(), "chosenByThem"), Err(TokenFault::Malformed));
    let other = GatewayName::parse("other").unwrap();
    assert!(authenticator.bearer(&other, "another one").is_err());
}

#[test]
fn a_fixed_token_that_is_offered_leaves_the_one_before_good_until_it_is_accepted() {
    let (authenticator, _) = fixture();
    let is_good = |token: &str| {
        let bearer = authenticator.bearer(&gateway(), token);
        bearer.is_ok_and(|bearer| authenticator.admit(&gateway(), &bearer, "1001").unwrap().is_some())
    };
    let good = || ["before", "first", "second"].map(is_good);
    authenticator.accept_fixed(&gateway(), &agent("1001"), &"before".into());
    authenticator.offer_fixed(&gateway(), &agent("1001"), &"first".into());
    authenticator.offer_fixed(&gateway(), &agent("1001"), &"first".into());
    assert_eq!(good(), [true, true, false]);
    authenticator.offer_fixed(&gateway(), &agent("1001"), &"second".into());
    assert_eq!(good(), [true, false, true], "no more than two");
    authenticator.accept_fixed(&gateway(), &agent("1001"), &"second".into());
    assert_eq!(good(), [false, false, true]);
    authenticator.offer_fixed(&gateway(), &agent("1001"), &"first".into());
    authenticator.revoke_fixed(&gateway(), &agent("1001"));
    assert_eq!(good(), [false; 3]);
    assert!(authenticator.fixed.read().unwrap().holders.is_empty());
}

#[test]
fn a_fixed_token_ends_one_overlap_after_its_session() {
    let (authenticator, clock) = fixture();
    let (agent, other) = (agent("1001"), agent("1002"));
    let shared = SecretString::from("chosenByThem");
    let admit = |token: &str, agent: &AgentId| {
        let bearer = authenticator.bearer(&gateway(), token)?;
        authenticator.admit(&gateway(), &bearer, agent.as_str())
    };
    authenticator.accept_fixed(&gateway(), &agent, &shared);
    authenticator.accept_fixed(&gateway(), &other, &shared);
    authenticator.session_ended(&gateway(), &agent);
    clock.advance(RULES.overlap);
    assert_eq!(admit("chosenByThem", &agent), Ok(Some(agent.clone())), "its last pushes");
    authenticator.session_ended(&gateway(), &agent);
    clock.advance(Duration::from_secs(1));
    assert_eq!(admit("chosenByThem", &agent), Err(TokenFault::Expired(Some(agent.clone()))));
    assert_eq!(admit("chosenByThem", &other), Ok(Some(other.clone())), "its session goes on");
    let bearer = authenticator.bearer(&gateway(), "chosenByThem").unwrap();
    assert_eq!(authenticator.sole_holder(&bearer), Some(other.clone()), "also where a push names nobody");
    authenticator.session_ended(&gateway(), &other);
    clock.advance(RULES.overlap + Duration::from_secs(1));
    assert_eq!(
        admit("chosenByThem", &other),
        Err(TokenFault::Expired(None)),
        "it is nobody's, and was no guess"
    );
    // Adopted anew, perhaps with the same one.
    authenticator.accept_fixed(&gateway(), &agent, &shared);
    assert_eq!(admit("chosenByThem", &agent), Ok(Some(agent.clone())));
    // The session ends while the next one is signed in with another token.
    authenticator.session_ended(&gateway(), &agent);
    authenticator.offer_fixed(&gateway(), &agent, &"the next one".into());
    clock.advance(RULES.overlap + Duration::from_secs(1));
    assert_eq!(admit("chosenByThem", &agent), Err(TokenFault::Expired(None)));
    authenticator.revoke_fixed(&gateway(), &other);
    assert_eq!(admit("chosenByThem", &agent), Err(TokenFault::Expired(Some(agent.clone()))));
    assert_eq!(admit("the next one", &agent), Ok(Some(agent.clone())));
}

#[test]
fn a_fixed_token_ends_after_the_overlap_once_one_of_ours_was_seen() {
    let (authenticator, clock) = fixture();
    authenticator.accept_fixed(&gateway(), &agent("1001"), &"chosenByThem".into());
    let admit = || {
        let bearer = authenticator.bearer(&gateway(), "chosenByThem").unwrap();
        authenticator.admit(&gateway(), &bearer, "1001")
    };
    clock.advance(Duration::from_secs(48 * 3600));
    assert_eq!(admit(), Ok(Some(agent("1001"))), "the gateway has taken none of ours");
    let ours = authenticator.mint(&gateway(), &agent("1001"));
    let bearer = authenticator.bearer(&gateway(), ours.expose_secret()).unwrap();
    assert_eq!(bearer, Bearer::Agent(agent("1001")));
    assert_eq!(authenticator.admit(&gateway(), &bearer, "1001"), Ok(Some(agent("1001"))));
    assert_eq!(authenticator.admit(&gateway(), &bearer, "1002"), Ok(None));
    clock.advance(RULES.overlap);
    assert_eq!(admit(), Ok(Some(agent("1001"))), "within the overlap");
    clock.advance(Duration::from_secs(1));
    assert_eq!(admit(), Err(TokenFault::Superseded(agent("1001"))));
}

#[test]
fn short_secrets_are_refused_and_nothing_prints_a_secret() {
    let error = TokenKey::new(&SecretSlice::from(vec![0; 31])).unwrap_err();
    assert_eq!(error.to_string(), "a token secret has at least 32 bytes, this one has 31");
    let (authenticator, _) = fixture();
    let token = authenticator.mint(&gateway(), &agent("1001"));
    assert!(!format!("{authenticator:?} {token:?}").contains(token.expose_secret()));
}

proptest! {
    #[test]
    fn no_text_makes_the_check_panic_or_pass(token in "\\PC{0,60}") {
        let (authenticator, _) = fixture();
        prop_assert!(authenticator.check(&gateway(), &token).is_err());
    }
}
