//! ccrelay: agent events of a CC-Gateway, kept safe in a local spool and relayed to Kafka and MQTT.
//!
//! One way through: `receive -> authenticate -> spool -> normalise -> route -> deliver -> sink`, with agent
//! sessions kept alive beside it. `ARCHITECTURE.md` has the map and the invariants.

pub mod admin;
pub mod app;
pub mod authenticate;
pub mod backoff;
mod body;
pub mod calm;
mod causes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
pub mod deliver;
pub mod demo;
pub mod event;
pub mod exchange;
pub mod guesses;
mod hex;
pub mod lifecycle;
pub mod listen;
mod log;
pub mod metrics;
pub mod notify;
pub mod problems;
pub mod receive;
pub mod reload;
pub mod request;
pub mod route;
pub mod session;
pub mod simulate;
pub mod sink;
pub mod spool;
pub mod stamp;
pub mod trace;

/// Records are made by one thread and let go by another, which the allocator of the C library answers with locks and with memory
/// given back and asked for again. It is that of librdkafka and SQLite too (feature `unprefixed_malloc_on_supported_platforms`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
