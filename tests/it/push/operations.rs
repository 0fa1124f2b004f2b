//! The operations listener.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::in_process::{TestRelay, good};
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_listener_answers_what_it_has_and_nothing_else() {
    let relay = TestRelay::start().await;
    for (path, body) in [("/live", "live\n"), ("/ready", "ready\n")] {
        let answer = relay.operations("GET", path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
    }
    let page = relay.operations("GET", "/metrics").await;
    assert_eq!(page.status, 200);
    assert!(page.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    assert_eq!(relay.operations("GET", "/push/main").await.status, 404);
    for method in ["POST", "PUT", "DELETE"] {
        for path in ["/metrics", "/live", "/ready", "/nothing"] {
            assert_eq!(relay.operations(method, path).await.status, 405, "{method} {path}");
        }
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_mend_in_the_metrics() {
    let relay = TestRelay::start().await;
    relay.assert_takes_a_good_push().await;
    let page = relay.operations("GET", "/metrics").await.body;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool does not start ({error}): `make setup` installs it"));
    promtool.stdin.take().expect("stdin is piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    relay.stop().await;
}

/// The series of the page, without their values.
async fn series(relay: &TestRelay) -> BTreeSet<String> {
    let page = relay.operations("GET", "/metrics").await.body;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_agents_make_no_series_more_than_none() {
    const AGENTS: u32 = 100_000;
    let small = TestRelay::start().await;
    small.assert_takes_a_good_push().await;
    let few = series(&small).await;
    small.stop().await;
    // Nobody answers for their gateway: every way to fail is gone through as well.
    let large = TestRelay::with_operations(|folder| {
        let rows: String = (0..AGENTS).map(|n| format!("{},{}\n", 200_000 + n, 700_000 + n)).collect();
        std::fs::write(folder.join("agents.csv"), format!("id,phone_number\n{rows}")).expect("it is written");
        std::fs::write(folder.join("password"), "hush").expect("it is written");
        let at = folder.display();
        format!(
            "[[rosters]]\nfile = '{at}/agents.csv'\ngateway = 'main'\n[rosters.defaults]\npassword_file = '{at}/password'\n"
        )
    })
    .await;
    eventually("a roster that is read", DEADLINE, || async {
        (large.metric("ccrelay_roster_agents{gateway=\"main\"}").await == f64::from(AGENTS)).then_some(())
    })
    .await;
    for n in 0..50 {
        let agent = (200_000 + n).to_string();
        assert_eq!(large.push(&agent, good(&agent)).await.status, 200);
    }
    eventually("a failed sign-in", DEADLINE, || async {
        let failed = "ccrelay_sign_ins_total{gateway=\"main\",outcome=\"transport\"}";
        (large.metric(failed).await > 0.0).then_some(())
    })
    .await;
    let many = series(&large).await;
    println!("{} series with {AGENTS} agents", many.len());
    assert_eq!(many, few);
    assert!(many.len() < 2000, "{}", many.len());
    large.stop().await;
}
