//! The operations listener.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::in_process::TestRelay;

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
