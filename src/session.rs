//! Agents' sessions at the gateways: sign-in, heartbeats, GUIDs, tokens, recovery, sign-out.

pub mod call;
pub mod config;
pub mod gateway;
pub mod retcode;
pub mod state;
