//! Real brokers, a proxy that misbehaves, and what tests of sinks have in common. A `mod.rs`, so that further test
//! binaries can take it in by its path.
#![allow(dead_code, reason = "a tool box: not every tool is in use at every time")]

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ccrelay::clock::Timestamp;
use ccrelay::event::{AgentId, Event, EventData, GatewayName};
use ccrelay::sink::{Message, Purpose};

pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod fake_mqtt;
pub(crate) mod in_process;
pub(crate) mod judge;
pub(crate) mod kafka;
pub(crate) mod mosquitto;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod relay;
pub(crate) mod usage;
pub(crate) mod witness;
pub(crate) mod worker;

/// What a broker may take to start on a busy machine.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(90);
/// What a state may take to come about.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Event number `sequence` of `agent`, with the id `<agent>-<sequence>`.
pub(crate) fn event(agent: &str, sequence: u64) -> Event {
    Event {
        id: format!("{agent}-{sequence}"),
        source: format!("/ccrelay/main/agents/{agent}"),
        event_type: "ccrelay.call.ringing",
        category: "call",
        gateway: GatewayName::parse("main").expect("a valid name"),
        agent_id: AgentId::parse(agent).expect("a valid agent id"),
        time: Timestamp(1_784_529_722_590),
        recorded_time: Timestamp(1_784_529_722_600),
        written: Default::default(),
        sequence,
        repeat: false,
        data: EventData::new(
            GatewayName::parse("main").expect("a name"),
            AgentId::parse("1001").expect("an id"),
        ),
    }
}

/// A message of about `bytes` bytes more than the least: its source is padded.
pub(crate) fn padded(topic: &str, agent: &str, sequence: u64, bytes: usize) -> Message {
    let mut event = event(agent, sequence);
    event.source.push_str(&"x".repeat(bytes));
    Message { event: Arc::new(event), topic: topic.into(), purpose: Purpose::default(), trace: None }
}

/// A message to `topic`.
pub(crate) fn message(topic: &str, agent: &str, sequence: u64) -> Message {
    padded(topic, agent, sequence, 0)
}

/// `count` messages of several agents, each agent's numbered from 0.
pub(crate) fn messages(topic: &str, count: u64, bytes: usize) -> Vec<Message> {
    const AGENTS: u64 = 7;
    (0..count).map(|n| padded(topic, &(101 + n % AGENTS).to_string(), n / AGENTS, bytes)).collect()
}

/// A port that nobody listens on, below the range that the system gives to clients, so that it is still free after a
/// broker was stopped on it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 11_000;
    const PORTS: u16 = 20_000;
    // Test binaries that run at the same time begin in different places.
    let begin = u16::try_from(std::process::id() * 97 % u32::from(PORTS)).expect("a remainder is small");
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin + step) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits until `state` yields a value, and fails when it takes too long.
pub(crate) async fn eventually<T, F>(what: &str, deadline: Duration, mut state: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = state().await {
            return value;
        }
        assert!(begin.elapsed() < deadline, "{what} did not come about within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
