//! Connections through TLS that then say nothing, as a gateway's pool leaves them: held by the real binary, while pushes go on.

use std::time::{Duration, Instant};

use ccrelay::clock::Clock;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::floods::{GATEWAY_PATIENCE, MANY_FILES, raise_open_files};
use crate::support::in_process::{answer, connect_to, connector_to, good, request, token_of};
use crate::support::relay::{Relay, Wiring};
use crate::support::{DEADLINE, eventually};

const SECRET: &str = "this secret is for tests and has more than enough bytes";
/// Files of this process that are no connections of this test.
const OTHER_FILES: u64 = 3000;
/// Handshakes at a time: fewer than the kernel keeps for a listener.
const AT_A_TIME: usize = 64;
/// Pushes are watched for so long before and after.
const WATCHED: Duration = Duration::from_secs(2);

/// A relay with many seats, for whose pushes the secret is known, and whose soft limit of open files is far too low.
async fn relay(seats: u64) -> Relay {
    let mut relay = Relay::prepare();
    let folder = relay.folder().display().to_string();
    std::fs::write(relay.folder().join("secret"), SECRET).expect("the folder can be written");
    relay.configure(&Wiring {
        gateway_url: "https://127.0.0.1:1/agentgateway/resource",
        gateway_ca: &relay.ca_pem(),
        #[expect(clippy::reversed_empty_ranges, reason = "no agents")]
        agents: 1..=0,
        password: "",
        tables: &format!("[sinks.file.jsonl]\npath = \"{folder}/events.jsonl\"\n"),
    });
    relay.edit("period_secs = 1\n", &format!("secret_file = \"{folder}/secret\"\n"));
    let seats = format!("[callback]\nmax_connections = {seats}\nidle_timeout_secs = 600\n");
    relay.edit("[callback]\n", &seats);
    relay.wrapper = ["sh", "-c", "ulimit -S -n 256 && exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    relay.start().await;
    relay
}

/// A gateway that pushes again and again on one connection.
struct Gateway {
    stream: TlsStream<TcpStream>,
}

impl Gateway {
    async fn push(&mut self) -> Duration {
        let began = Instant::now();
        let bytes = request(&token_of(SECRET, "main", "1001", Clock::system()), good("1001"));
        self.stream.write_all(&bytes).await.expect("it reads");
        assert_eq!(answer(&mut self.stream).await.expect("an answer").status, 200);
        began.elapsed()
    }

    /// The median and the longest of the pushes until `end`.
    async fn push_until(&mut self, end: impl Fn() -> bool) -> (Duration, Duration) {
        let mut took = vec![self.push().await];
        while !end() {
            took.push(self.push().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took.sort();
        (took[took.len() / 2], took[took.len() - 1])
    }

    async fn push_for(&mut self, time: Duration) -> (Duration, Duration) {
        let began = Instant::now();
        self.push_until(|| began.elapsed() >= time).await
    }
}

/// Bytes of memory that are the relay's alone.
fn resident(relay: &Relay) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.running().pid()));
    let status = status.expect("the relay runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number") * 1024.0
}

/// As many as the hard limit of open files allows, 10,000 at most: one end of each is in this process, the other in the relay.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_through_tls_are_held_and_keep_no_push_out() {
    let _alone = MANY_FILES.lock().await;
    let files = raise_open_files();
    let count = files.saturating_sub(OTHER_FILES).min(10_000);
    if count < 10_000 {
        println!("only {count} connections: the hard limit of open files is {files}");
    }
    assert!(count >= 500, "the hard limit of open files is {files}");
    let relay = relay(count + 100).await;
    let callback = ([127, 0, 0, 1], relay.callback_port()).into();
    let connector = connector_to(&relay.ca_pem());
    let mut gateway = Gateway { stream: connect_to(callback, connector.clone()).await };
    let before = gateway.push_for(WATCHED).await;
    let memory = resident(&relay);

    let began = Instant::now();
    let opening = tokio::task::spawn(async move {
        let (mut idle, mut opening) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            if opening.len() >= AT_A_TIME {
                idle.extend(opening.join_next().await);
            }
            opening.spawn(connect_to(callback, connector.clone()));
        }
        idle.extend(opening.join_all().await.into_iter().map(Ok));
        idle.into_iter().collect::<Result<Vec<_>, _>>().expect("all were opened")
    });
    let meanwhile = gateway.push_until(|| opening.is_finished()).await;
    let idle = opening.await.expect("all were opened");
    let opened = began.elapsed();
    eventually("all of them are counted", DEADLINE, || async {
        (relay.metric("ccrelay_connections").await > count as f64).then_some(())
    })
    .await;
    let each = (resident(&relay) - memory) / 1024.0 / count as f64;
    let after = gateway.push_for(WATCHED).await;
    let newcomer = Instant::now();
    Gateway { stream: connect_to(callback, connector_to(&relay.ca_pem())).await }.push().await;
    let newcomer = newcomer.elapsed();

    println!("{} idle connections through TLS in {opened:.1?}: {each:.1} KiB of memory each", idle.len());
    for (when, (median, most)) in
        [("before", before), ("while they are opened", meanwhile), ("beside them", after)]
    {
        println!("  pushes {when}: {median:.2?} the median, {most:.2?} at most");
        assert!(most < GATEWAY_PATIENCE, "{when}: {most:?}");
    }
    println!("  a newcomer's handshake and push: {newcomer:.2?}");
    assert!(newcomer < GATEWAY_PATIENCE, "{newcomer:?}");
    assert!(each < 100.0, "{each} KiB for each");
    for reason in ["limit", "made_room", "idle_timeout", "tls"] {
        let series = format!("ccrelay_connection_failures_total{{reason=\"{reason}");
        assert_eq!(relay.metric(&series).await, 0.0, "{reason}: {}", relay.log());
    }
    assert!(!relay.log().contains("raise LimitNOFILE"), "it raises its own limit:\n{}", relay.log());
    drop(idle);
    let mut relay = relay;
    assert_eq!(relay.stop().await, 0);
}
