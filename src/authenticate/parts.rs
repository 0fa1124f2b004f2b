//! Tokens taken apart.

use super::digits::{MAC_DIGITS, TIME_DIGITS};
use super::{LONGEST_TOKEN, TokenFault};
use crate::clock::Timestamp;
use crate::event::AgentId;

/// A token taken apart; nothing of it is believed yet.
pub(super) struct Parts<'a> {
    pub(super) key: u8,
    pub(super) minted: Timestamp,
    pub(super) time_digits: &'a [u8],
    pub(super) agent: AgentId,
    pub(super) mac: &'a [u8],
}

impl Parts<'_> {
    pub(super) fn split(token: &str) -> Result<Parts<'_>, TokenFault> {
        let bytes = token.as_bytes();
        let fixed = 1 + TIME_DIGITS + MAC_DIGITS;
        if bytes.len() <= fixed || bytes.len() > LONGEST_TOKEN || !bytes.iter().all(u8::is_ascii_alphanumeric)
        {
            return Err(TokenFault::Malformed);
        }
        let (head, mac) = bytes.split_at(bytes.len() - MAC_DIGITS);
        let time_digits = &head[1..=TIME_DIGITS];
        let seconds = std::str::from_utf8(time_digits).ok().and_then(|d| u64::from_str_radix(d, 36).ok());
        let agent = std::str::from_utf8(&head[1 + TIME_DIGITS..]).ok().and_then(|a| AgentId::parse(a).ok());
        match (seconds, agent) {
            (Some(seconds), Some(agent)) => {
                Ok(Parts { key: head[0], minted: Timestamp(seconds * 1000), time_digits, agent, mac })
            }
            _ => Err(TokenFault::Malformed),
        }
    }
}
