//! Agents' sessions at the gateways: sign-in, heartbeats, GUIDs, tokens, recovery, sign-out.

pub mod config;
pub mod retcode;
pub mod state;
