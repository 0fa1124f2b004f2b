//! The sinks against real brokers.

mod consumers;
mod kafka;
mod mqtt;
mod relay;
mod routes;
