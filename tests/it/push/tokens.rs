//! Tokens: who may push.

use std::time::Duration;

use ccrelay::clock::{Clock, Timestamp};

use crate::support::in_process::{TestRelay, good, request, token, token_of, with_headers};
use crate::support::{DEADLINE, eventually};

const REFUSED: (u16, &str) = (401, "000-003");

pub(super) fn earlier(by: Duration) -> Clock {
    let millis = u64::try_from(by.as_millis()).expect("a short time");
    Clock::manual(Timestamp(Clock::system().now().millis() - millis))
}

pub(super) fn later(by: Duration) -> Clock {
    Clock::manual(Clock::system().now().plus(by))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_a_good_token_is_refused_before_its_body_is_looked_at() {
    let relay = TestRelay::with("", "max_age_secs = 3600").await;
    let length = format!("content-length: {}\r\n", good("1001").len());
    let own = relay.token("1001");
    let body = good("1001");
    let of = |headers: String| with_headers(&format!("{length}{headers}"), body.as_bytes());
    let cases = [
        (of(String::new()), "token_missing"),
        (of(format!("service_token: {own}\r\nservice_token: {own}\r\n")), "token_malformed"),
        (of("service_token: \r\n".to_owned()), "token_malformed"),
        (of("service_token: abc\r\n".to_owned()), "token_malformed"),
        (of(format!("service_token: {own}{own}\r\n")), "token_malformed"),
        (of(format!("service_token: {}-\r\n", &own[..own.len() - 1])), "token_malformed"),
        (of(format!("service_token: Bearer {own}\r\n")), "token_malformed"),
        (request(&"x".repeat(40), &body), "token_malformed"),
        (request(&format!("{}0", &own[..own.len() - 1]), &body), "token_forged"),
        (request(&token_of(&"x".repeat(40), "main", "1001", Clock::system()), &body), "token_forged"),
        (request(&token("other", "1001", Clock::system()), &body), "token_forged"),
        (request(&token("main", "1001", earlier(Duration::from_secs(7200))), &body), "token_expired"),
        (request(&token("main", "1001", later(Duration::from_secs(600))), &body), "token_from_future"),
    ];
    for (bytes, reason) in cases {
        relay.assert_refused(bytes, REFUSED, reason).await;
    }
    // As older gateways push, which know no header.
    let to = |query: &str, headers: String| {
        let bytes = of(headers);
        let text = String::from_utf8(bytes).expect("a request of text");
        text.replacen("/push/main", &format!("/push/main?{query}"), 1).into_bytes()
    };
    for (bytes, reason) in [
        (to("", String::new()), "token_missing"),
        (to("key=abc", String::new()), "token_missing"),
        (to("token=abc&x=1", String::new()), "token_missing"),
        (to("token=", String::new()), "token_malformed"),
        (to("token=abcdefghijklmnop", String::new()), "token_malformed"),
        (to("x=1&token=abc", String::new()), "token_malformed"),
        (to(&format!("token={}0", &own[..own.len() - 1]), String::new()), "token_forged"),
        (to(&format!("token={own}"), "service_token: abc\r\n".to_owned()), "token_malformed"),
    ] {
        relay.assert_refused(bytes, REFUSED, reason).await;
    }
    // Behind what the operator's own address has.
    let behind = to(&format!("x=1&token={own}"), String::new());
    assert_eq!(relay.send(behind).await.expect("an answer").status, 200);
    // The token decides even where the body could not be read.
    relay.assert_refused(request("abc", "no JSON at all"), REFUSED, "token_malformed").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_speaks_for_its_own_agent_only() {
    let relay = TestRelay::start().await;
    let bytes = request(&relay.token("1002"), good("1001"));
    relay.assert_refused(bytes, (403, "000-003"), "other_agent").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_once_a_newer_one_came_and_the_overlap_is_over() {
    let relay = TestRelay::with("", "overlap_secs = 1").await;
    let old = request(&token("main", "1001", earlier(Duration::from_secs(600))), good("1001"));
    assert_eq!(relay.send(&old).await.expect("an answer").status, 200, "no newer one came");
    relay.assert_takes_a_good_push().await;
    eventually("the old token refused", DEADLINE, || async {
        (relay.send(&old).await?.status == 401).then_some(())
    })
    .await;
    relay.assert_refused(&old, REFUSED, "token_superseded").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_tokens_is_counted_and_slowed_down_and_a_right_one_passes_at_once() {
    let relay = TestRelay::start().await;
    let series =
        |answer: &str| format!("ccrelay_token_guesses_total{{answer=\"{answer}\",listener=\"callback\"}}");
    let guesses = async || {
        let wrong = (0..60).map(|n| request(&format!("{n:040}"), good("1001")));
        let sent: Vec<_> =
            wrong.map(|bytes| async { relay.send(bytes).await.expect("an answer").status }).collect();
        for status in futures_util::future::join_all(sent).await {
            assert_eq!(status, 401);
        }
    };
    assert_eq!(relay.metric(&series("late")).await, 0.0);
    guesses().await;
    let late = relay.metric(&series("late")).await;
    assert!((1.0..=40.0).contains(&late), "{late}");
    assert_eq!(relay.metric(&series("at_once")).await + late, 60.0);
    // The address is the gateway's, as it turns out: it is not kept waiting, whatever comes from there.
    let (tokens, during) = tokio::join!(guesses(), async {
        let began = std::time::Instant::now();
        relay.assert_takes_a_good_push().await;
        began.elapsed()
    });
    let () = tokens;
    println!("a good push took {during:?} beside 60 guesses");
    let late = relay.metric(&series("late")).await;
    guesses().await;
    assert_eq!(relay.metric(&series("late")).await, late, "from now on none is late");
    relay.stop().await;
}
