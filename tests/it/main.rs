//! Tests against real brokers, in one binary so that they can share them. `make setup` fetches what they need.

mod admin;
mod benches;
mod conservation;
mod judge;
mod poll;
mod push;
mod repeats;
mod sessions;
mod sinks;
mod support;
mod tls_page;
mod traces;
