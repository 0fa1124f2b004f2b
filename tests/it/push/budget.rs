//! A refused push costs its agent the session in the end, whatever it was refused for: the sign-out budget must show it.

use std::time::Duration;

use ccrelay::clock::Clock;
use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};
use tokio::io::AsyncWriteExt;

use super::tokens::{earlier, later};
use crate::support::in_process::{
    Answer, answer, connect_to, connector_to, good, request, token_of, with_headers,
};
use crate::support::relay::{Relay, Wiring};
use crate::support::{DEADLINE, eventually};

const SECRET: &str = "the secret of this test has more than enough bytes";
const BUDGET: &str = "ccrelay_sign_out_budget_seconds{gateway=\"main\"}";
/// With a limit of 20 s and a heartbeat a second, the budget is above this but where pushes fail.
const EATEN: f64 = 16.0;

async fn send(relay: &Relay, bytes: Vec<u8>) -> Answer {
    let address = ([127, 0, 0, 1], relay.callback_port()).into();
    let mut stream = connect_to(address, connector_to(&relay.ca_pem())).await;
    stream.write_all(&bytes).await.expect("it reads");
    answer(&mut stream).await.expect("an answer")
}

/// A relay and the gateway at which its agent 1001 is signed in. The relay's secret is that of the test.
async fn scene(change: impl FnOnce(&mut Settings), token_keys: &str) -> (Relay, Simulator) {
    let mut relay = Relay::prepare();
    let mut settings = Settings::local();
    settings.agents = vec![Agents::range(1001, 1001, "hush")];
    settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
    change(&mut settings);
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    relay.configure(&Wiring {
        gateway_url: &simulator.base_url(),
        gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
        agents: 1001..=1001,
        password: "hush",
        tables: "",
    });
    let secret = relay.folder().join("secret");
    std::fs::write(&secret, SECRET).expect("the folder can be written");
    let keys = format!("[token]\nsecret_file = \"{}\"\n{token_keys}", secret.display());
    relay.edit("[token]\n", &keys);
    relay.start().await;
    // A good push of the sign-in that comes late would end a row of refused ones.
    const ACTIVE: &str = "ccrelay_sessions{gateway=\"main\",state=\"active\"}";
    eventually("an active agent", DEADLINE, || async { (relay.metric(ACTIVE).await == 1.0).then_some(()) })
        .await;
    assert!(simulator.drained(DEADLINE).await, "the pushes of the sign-in are answered");
    (relay, simulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_on_with_the_token_of_the_sign_in_loses_no_agent() {
    const MAX_AGE: Duration = Duration::from_secs(3);
    let change = |settings: &mut Settings| {
        settings.heartbeat_renews_token = false;
        settings.push_fail_interval_ms = 200;
        settings.push_fail_total_ms = 1_000;
    };
    let (mut relay, simulator) = scene(change, "overlap_secs = 1\nmax_age_secs = 3\n").await;
    let agent = AgentId::parse("1001").expect("an id");
    let taken = async || {
        let event = simulator.emit_example(&agent, "AgentState_Busy");
        event.expect("the agent is signed in");
        assert!(simulator.drained(DEADLINE).await, "the push is answered");
    };
    tokio::time::sleep(MAX_AGE * 2).await;
    taken().await;
    // What the relay knows of the session survives a restart.
    assert_eq!(relay.stop().await, 0);
    relay.start().await;
    taken().await;
    let counts = simulator.counts(&agent);
    assert_eq!((counts.sign_ins, counts.discarded), (1, 0), "{counts:?}");
    assert_eq!(relay.metric("ccrelay_push_failures_total{reason=\"token").await, 0.0);
    assert!(relay.log().contains("token.max_age_secs"), "{}", relay.log());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_push_is_refused_for_counts_against_the_agent_that_its_token_names() {
    let (mut relay, _simulator) = scene(|_| {}, "").await;
    let token = |clock: Clock| token_of(SECRET, "main", "1001", clock);
    let own = || token(Clock::system());
    let day = Duration::from_secs(25 * 3600);
    let headers = |more: &str| with_headers(&format!("service_token: {}\r\n{more}\r\n", own()), b"");
    let cases: [(Vec<u8>, u16); 3] = [
        (request(&token(earlier(day)), good("1001")), 401),
        (headers("content-length: 1000000000"), 413),
        (headers("content-length: 0\r\ncontent-encoding: gzip"), 415),
    ];
    for (bytes, status) in cases {
        assert_eq!(send(&relay, bytes).await.status, status);
        eventually(&format!("a budget that {status} eats"), DEADLINE, || async {
            (relay.metric(BUDGET).await < EATEN).then_some(())
        })
        .await;
        assert_eq!(send(&relay, request(&own(), good("1001"))).await.status, 200);
        eventually("the budget back where heartbeats leave it", DEADLINE, || async {
            (relay.metric(BUDGET).await > EATEN).then_some(())
        })
        .await;
    }
    // Of an agent with a session a token from the future is none of that: it tells of a clock that was put back.
    let ahead = request(&token(later(Duration::from_secs(600))), good("1001"));
    assert_eq!(send(&relay, ahead).await.status, 200);
    relay.stop().await;
}
