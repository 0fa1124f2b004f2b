//! What the status page costs with many agents: time and size of what it asks for, and what that does to pushes.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ccrelay::event::AgentId;
use ccrelay::simulate::Simulator;

/// The token of whoever looks.
pub(crate) const TOKEN: &str = "benchmark-admin-token-0123456789";
/// Pushes a second meanwhile.
const PUSHES: u32 = 300;
/// People who have the page open.
const VIEWERS: usize = 4;
/// The page asks for its agents every five seconds; these are in more of a hurry.
const HURRY: Duration = Duration::from_secs(1);
/// Times that each request is made alone.
const TIMES: usize = 20;
/// Agents on one page of the status page.
const LIMIT: u32 = 50;

/// Who is there, and where to look.
pub(crate) struct Place<'a> {
    pub(crate) simulator: &'a Arc<Simulator>,
    pub(crate) operations: u16,
    pub(crate) first_agent: u32,
    pub(crate) agents: u32,
    pub(crate) secs: u64,
}

/// Prints a table of requests, then how long pushes took without anybody who looks and with [`VIEWERS`].
pub(crate) async fn measure(place: &Place<'_>) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let pushing = push(place, stop.clone());
    let port = place.operations;
    let last = place.first_agent + place.agents - 1;
    println!(
        "  the status page with {} agents, {PUSHES} events a second meanwhile; each request {TIMES} times",
        place.agents
    );
    println!("  {:<64}{:>10}  {:>8}  {:>8}", "request", "bytes", "p50 ms", "most ms");
    let budget = format!("/api/v1/agents?limit={LIMIT}&order=budget");
    let first_page = blocking(move || get(port, &budget)).await?;
    let next = first_page.split("\"next\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let next = next.context("there is a second page")?.to_owned();
    let requests = [
        "/".to_owned(),
        "/api/v1/status".to_owned(),
        format!("/api/v1/agents?limit={LIMIT}&order=budget"),
        format!("/api/v1/agents?limit={LIMIT}&order=budget&after={next}"),
        format!("/api/v1/agents?limit={LIMIT}"),
        format!("/api/v1/agents?limit={LIMIT}&after=main/{}", last - 2 * LIMIT),
        format!("/api/v1/agents?limit={LIMIT}&order=budget&search={}", last / 100),
        format!("/api/v1/agents?limit={LIMIT}&order=budget&state=suspended"),
        format!("/api/v1/agents/main/{last}"),
        "/metrics".to_owned(),
    ];
    for request in requests {
        blocking(move || {
            let mut took = Vec::new();
            let mut bytes = 0;
            for _ in 0..TIMES {
                let began = Instant::now();
                bytes = get(port, &request)?.len();
                took.push(began.elapsed());
            }
            took.sort();
            println!(
                "  {request:<64}{bytes:>10}  {:>8.1}  {:>8.1}",
                ms(took[TIMES / 2]),
                ms(took[TIMES - 1])
            );
            Ok(())
        })
        .await?;
    }

    let window = Duration::from_secs(place.secs);
    let mut rows = Vec::new();
    for viewers in [0, VIEWERS] {
        place.simulator.take_latencies();
        let looking: Vec<_> = (0..viewers).map(|_| view(place)).collect();
        tokio::time::sleep(window).await;
        let pushes = place.simulator.take_latencies();
        let mut views = Vec::new();
        for one in looking {
            views.push(one.await??);
        }
        rows.push((viewers, pushes, views));
    }
    stop.store(true, Ordering::Relaxed);
    pushing.await?;
    for (viewers, pushes, views) in rows {
        println!(
            "  {viewers} viewers: {} pushes, p50 {:.2} ms, p99 {:.2} ms, most {:.1} ms",
            pushes.count(),
            ms(pushes.quantile(0.5)),
            ms(pushes.quantile(0.99)),
            ms(pushes.most())
        );
        let most = |of: fn(&View) -> Duration| views.iter().map(of).max().unwrap_or_default();
        if let Some(view) = views.first() {
            println!(
                "    each: {} states of {} bytes, {:.2} s apart at most; {} lists, {:.1} ms at most; {} live events",
                view.states,
                view.state_bytes,
                most(|view| view.apart).as_secs_f64(),
                view.lists,
                ms(most(|view| view.list)),
                view.events
            );
            ensure!(view.states > 0 && view.lists > 0 && view.events > 0, "a viewer saw nothing");
        }
    }
    Ok(())
}

/// One push after the other, each of another agent.
fn push(place: &Place<'_>, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (simulator, first, agents) = (place.simulator.clone(), place.first_agent, place.agents);
    tokio::task::spawn(async move {
        let mut interval = tokio::time::interval(Duration::from_secs(1) / PUSHES);
        let mut at = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            interval.tick().await;
            // A stride, so that neighbours on the page do not all change at once.
            at = (at + 7919) % agents;
            if let Ok(agent) = AgentId::parse(&(first + at).to_string()) {
                // One that is being signed in again gets none.
                drop(simulator.emit_example(&agent, "AgentEvent_Talking"));
            }
        }
    })
}

/// What somebody saw who had the page open.
#[derive(Debug, Default)]
struct View {
    states: u32,
    state_bytes: usize,
    apart: Duration,
    lists: u32,
    list: Duration,
    events: u32,
}

/// Somebody has the page open: the stream of the state, live events, and the list of agents again and again.
fn view(place: &Place<'_>) -> tokio::task::JoinHandle<anyhow::Result<View>> {
    let (port, end) = (place.operations, Instant::now() + Duration::from_secs(place.secs));
    let states = std::thread::spawn(move || follow(port, "/api/v1/status/stream", end));
    let events = std::thread::spawn(move || follow(port, "/api/v1/events", end));
    tokio::task::spawn_blocking(move || {
        let mut view = View::default();
        while Instant::now() < end {
            let began = Instant::now();
            get(port, &format!("/api/v1/agents?limit={LIMIT}&order=budget"))?;
            view.list = view.list.max(began.elapsed());
            view.lists += 1;
            std::thread::sleep(HURRY.saturating_sub(began.elapsed()));
        }
        let joined = |thread: std::thread::JoinHandle<_>| -> anyhow::Result<Stream> {
            thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?
        };
        let (states, events) = (joined(states)?, joined(events)?);
        (view.states, view.state_bytes, view.apart) = (states.messages, states.bytes, states.apart);
        view.events = events.messages;
        Ok(view)
    })
}

/// What came of a stream.
struct Stream {
    messages: u32,
    bytes: usize,
    apart: Duration,
}

/// Reads a stream of server-sent events until `end`.
fn follow(port: u16, path: &str, end: Instant) -> anyhow::Result<Stream> {
    let stream = ask(port, path)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut found, mut last) = (Stream { messages: 0, bytes: 0, apart: Duration::ZERO }, Instant::now());
    for line in BufReader::new(stream).lines() {
        if Instant::now() > end {
            break;
        }
        let line = line.with_context(|| path.to_owned())?;
        if let Some(data) = line.strip_prefix("data: ") {
            (found.messages, found.bytes) = (found.messages + 1, data.len());
            found.apart = found.apart.max(last.elapsed());
            last = Instant::now();
        }
    }
    Ok(found)
}

fn ask(port: u16, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    )?;
    Ok(stream)
}

/// The body.
fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut answer = String::new();
    ask(port, path)?.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    Ok(answer.split_once("\r\n\r\n").context("an answer has a head")?.1.to_owned())
}

async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(what).await?
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
