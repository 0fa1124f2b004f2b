//! Agents' sessions at the gateways: sign-in, heartbeats, GUIDs, tokens, recovery, sign-out.

pub mod retcode;
pub mod state;
