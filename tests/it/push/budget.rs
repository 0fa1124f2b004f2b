//! A refused push costs its agent the session in the end, whatever it was refused for: the sign-out budget must show it.

use std::time::Duration;

use ccrelay::clock::Clock;
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

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_push_is_refused_for_counts_against_the_agent_that_its_token_names() {
    let mut relay = Relay::prepare();
    let mut settings = Settings::local();
    settings.agents = vec![Agents::range(1001, 1001, "hush")];
    settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
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
    relay.edit("[token]\n", &format!("[token]\nsecret_file = \"{}\"\n", secret.display()));
    relay.start().await;
    assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 1).await, "the agent signs in");

    let token = |clock: Clock| token_of(SECRET, "main", "1001", clock);
    let own = || token(Clock::system());
    let day = Duration::from_secs(25 * 3600);
    let headers = |more: &str| with_headers(&format!("service_token: {}\r\n{more}\r\n", own()), b"");
    let cases: [(Vec<u8>, u16); 4] = [
        (request(&token(earlier(day)), good("1001")), 401),
        (request(&token(later(Duration::from_secs(600))), good("1001")), 401),
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
    relay.stop().await;
}
