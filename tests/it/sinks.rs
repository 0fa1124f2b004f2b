//! The sinks against real brokers.

mod kafka;
mod mqtt;
mod relay;
mod routes;
