//! What somebody can do who reaches a port and has no token, or only wants to be in the way: good pushes are answered all the same.
//!
//! | attempt | shown by |
//! |---|---|
//! | slowloris, heads, callback and operations | `heads_that_trickle_in_keep_no_push_out`, `heads::a_head_that_trickles_in_is_cut_off` |
//! | slowloris, bodies | `bodies_that_trickle_in_keep_no_push_out`, `pushes_that_are_begun_with_one_agents_token_...`, `bodies::a_body_that_does_not_come_is_refused_in_time`; without a token no body is read: `tokens::a_push_without_a_good_token_...` |
//! | 10,000 idle connections | `ten_thousand_idle_connections_keep_no_push_out`, through TLS `idle::ten_thousand_...`, `tls::connections_beyond_the_limit_...` |
//! | handshakes that never end | `tls::handshakes_that_are_never_finished_...` |
//! | oversized and endless bodies | `bodies::a_body_that_is_too_large_...`; of the API `admin::tokens::what_is_not_there_...` |
//! | compressed bodies, zip bombs | `bodies::compressed_bodies_are_refused` (nothing is ever unpacked) |
//! | nested and broken JSON | `bodies::what_is_no_push_is_refused` |
//! | header floods | `heads::heads_that_are_too_large_are_refused_and_counted` |
//! | request smuggling: CL and TE, two CL, other spellings | `heads::requests_with_two_lengths_are_refused_...` |
//! | smuggling: folded lines, bare LF and CR, chunk extensions, HTTP/1.0 | `heads::requests_that_can_be_read_in_two_ways_...` |
//! | HTTP/2 preface, other protocols | `heads::what_is_not_http_is_refused_and_counted`, `tls::plain_http_at_the_tls_port_is_refused` |
//! | TLS scan: old versions, weak suites, renegotiation, compression | `scan::...` |
//! | certificates of clients, versions, suites, addresses as configured | `clients::...` |
//! | guessing tokens of pushes and of the API | `tokens::who_guesses_...`, `admin::tokens::guesses_...`, unit tests of `guesses` |
//! | API without or with a wrong token, every route | `admin::tokens::no_route_is_open_...` |
//! | path traversal in paths of both listeners | `admin::tokens::paths_that_climb_...`, `heads::other_paths_and_methods_are_refused`, `admin::through` |
//! | path traversal in names that become files (CLI) | unit tests of `cli::dev_cert`; other files are named by the operator alone |

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::in_process::{TestRelay, answer, good, request, with_headers};
use crate::support::{DEADLINE, eventually};

/// The gateway repeats a push that is not answered in this time.
pub(super) const GATEWAY_PATIENCE: Duration = Duration::from_secs(10);

/// A push on a connection of its own; gives how long it took.
async fn push(relay: &TestRelay) -> Duration {
    let began = Instant::now();
    relay.assert_takes_a_good_push().await;
    began.elapsed()
}

/// Whoever needs most of the files that this process may have open.
pub(super) static MANY_FILES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// As many files as the system lets this process have open.
pub(super) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be as high as the hard one");
    limit.maximum.unwrap_or(u64::MAX)
}

/// Fewer where the hard limit of open files is low; both ends of each connection are in this process.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_keep_no_push_out() {
    const PERMITTED: u64 = 4096;
    let _alone = MANY_FILES.lock().await;
    let files = raise_open_files();
    let count = files.saturating_sub(PERMITTED + 2000).min(10_000);
    if count < 10_000 {
        println!("only {count} connections: the hard limit of open files is {files}");
    }
    assert!(count >= 1000, "the hard limit of open files is {files}");
    let relay =
        TestRelay::with(&format!("max_connections = {PERMITTED}\nhandshake_timeout_secs = 120"), "").await;
    // A gateway that is in before the others come.
    let mut gateway = relay.connect().await;
    let bytes = request(&relay.token("1002"), good("1002"));
    gateway.write_all(&bytes).await.expect("it reads");
    assert_eq!(answer(&mut gateway).await.expect("an answer").status, 200);

    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    let failures = |reason: &str| format!("ccrelay_connection_failures_total{{reason=\"{reason}\"}}");
    let (gone, open) = (failures("made_room"), "ccrelay_connections");
    let mut idle: Vec<TcpStream> = Vec::new();
    while (idle.len() as u64) < count {
        // Not more at a time than the kernel keeps for the listener: it would forget the others.
        let mut opening = JoinSet::new();
        for _ in 0..100 {
            opening.spawn(TcpStream::connect(relay.callback));
        }
        idle.extend(opening.join_all().await.into_iter().map(|opened| opened.expect("it accepts")));
        while relay.metric(&gone).await + relay.metric(open).await < idle.len() as f64 {
            let now = (relay.metric(open).await, relay.metric(&gone).await);
            assert!(began.elapsed() < DEADLINE, "{} were opened, {now:?} are open and made room", idle.len());
            // It is answered in between, all the time.
            let began = Instant::now();
            gateway.write_all(&bytes).await.expect("it reads");
            assert_eq!(answer(&mut gateway).await.expect("an answer").status, 200);
            slowest = slowest.max(began.elapsed());
        }
    }
    println!("{} idle connections in {:?}", idle.len(), began.elapsed());
    let newcomer = push(&relay).await;
    println!(
        "{} idle connections: pushes took {slowest:?} at most, one of a newcomer {newcomer:?}",
        idle.len()
    );
    assert!(slowest < GATEWAY_PATIENCE && newcomer < GATEWAY_PATIENCE, "{slowest:?}, {newcomer:?}");
    for reason in ["limit", "made_room"] {
        assert!(count <= PERMITTED || relay.metric(&failures(reason)).await >= 1.0, "{reason}");
    }
    drop(idle);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_trickle_in_keep_no_push_out() {
    // More than the listeners permit, on both; that of operations permits 64.
    let relay = TestRelay::with("max_connections = 32\nheader_timeout_secs = 60", "").await;
    let mut tricklers = JoinSet::new();
    for (address, count) in [(relay.callback, 48), (relay.operations, 96)] {
        for _ in 0..count {
            tricklers.spawn(async move {
                let Ok(mut stream) = TcpStream::connect(address).await else { return };
                // At the callback listener it is not even the beginning of a handshake.
                drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ").await);
                while stream.write_all(b"y").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
    }
    for address in [relay.callback, relay.operations] {
        for _ in 0..3 {
            let began = Instant::now();
            if address == relay.callback {
                push(&relay).await;
            } else {
                assert_eq!(relay.operations("GET", "/live").await.status, 200);
            }
            assert!(began.elapsed() < GATEWAY_PATIENCE, "{:?}", began.elapsed());
        }
    }
    tricklers.abort_all();
    relay.stop().await;
}

/// Begins pushes that do not come, one after another, as fast as they are refused.
fn begin_pushes_without_end(relay: &TestRelay, count: usize) -> JoinSet<()> {
    let head = format!("service_token: {}\r\ncontent-length: 9\r\n", relay.token("1003"));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (bytes, connector) = (with_headers(&head, b"{"), relay.connector(&[&rustls::version::TLS13]));
        let callback = relay.callback;
        tasks.spawn(async move {
            loop {
                let Ok(stream) = TcpStream::connect(callback).await else { continue };
                let name = "127.0.0.1".try_into().expect("a name");
                let Ok(mut stream) = connector.connect(name, stream).await else { continue };
                drop(stream.write_all(&bytes).await);
                drop(answer(&mut stream).await);
            }
        });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_are_begun_with_one_agents_token_and_never_end_close_no_gateways_connection() {
    let relay = TestRelay::with("max_connections = 32", "").await;
    let mut gateway = relay.connect().await;
    let bytes = request(&relay.token("1002"), good("1002"));
    gateway.write_all(&bytes).await.expect("it reads");
    assert_eq!(answer(&mut gateway).await.expect("an answer").status, 200);
    let mut tasks = begin_pushes_without_end(&relay, 64);
    let series = "ccrelay_push_failures_total{reason=\"body_timeout\"}";
    eventually(series, DEADLINE, || async { (relay.metric(series).await >= 200.0).then_some(()) }).await;
    // For longer than a connection is left alone while others wait for its place.
    tokio::time::sleep(Duration::from_secs(3)).await;
    gateway.write_all(&bytes).await.expect("it is open");
    assert_eq!(answer(&mut gateway).await.expect("an answer").status, 200);
    assert!(push(&relay).await < GATEWAY_PATIENCE, "a newcomer is let in");
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_trickle_in_keep_no_push_out() {
    let relay = TestRelay::with("max_connections = 64\nbody_timeout_secs = 2", "").await;
    let mut tricklers = JoinSet::new();
    for _ in 0..60 {
        // Only who has a token gets as far as this.
        let head = with_headers(
            &format!("service_token: {}\r\ncontent-length: 1000\r\n", relay.token("1003")),
            b"{",
        );
        let connect = relay.connect_later();
        tricklers.spawn(async move {
            let mut stream = connect.await;
            drop(stream.write_all(&head).await);
            while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    for _ in 0..5 {
        assert!(push(&relay).await < GATEWAY_PATIENCE);
    }
    let series = "ccrelay_push_failures_total{reason=\"body_timeout\"}";
    eventually(series, DEADLINE, || async { (relay.metric(series).await >= 60.0).then_some(()) }).await;
    tricklers.abort_all();
    relay.stop().await;
}
