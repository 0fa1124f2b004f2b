//! The two names every event carries: which gateway, and which agent there. Parsed once, valid ever after.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use thiserror::Error;

/// Agent ids are digits on every documented gateway: 101-59999 or 101-999999, by version. Two more digits are room.
const AGENT_ID_LENGTH: usize = 10;
/// Gateway names are ours: they stand in topics, labels, paths and sources, so they are kept short and plain.
const GATEWAY_NAME_LENGTH: usize = 32;

/// An agent's id (`workNo`, `agentid`): one to ten ASCII digits, not beginning with 0.
///
/// The digits stand in place, with zero bytes behind them: an id is in several tables for each agent, and none of them
/// is to be an allocation. Ids compare as their texts do.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId([u8; AGENT_ID_LENGTH]);

/// Our name of one CC-Gateway: 1-32 of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GatewayName(Arc<str>);

/// A name that is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not an agent id.
    #[error("an agent id is 1 to 10 digits that do not begin with 0")]
    AgentId,
    /// Not a gateway name.
    #[error("a gateway name is 1 to 32 characters of a-z, 0-9 and -")]
    GatewayName,
}

impl AgentId {
    /// Parses an agent id.
    ///
    /// # Errors
    /// When `text` is not one to ten digits, or begins with 0.
    pub fn parse(text: &str) -> Result<AgentId, NameError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits && text.len() <= AGENT_ID_LENGTH && !text.starts_with('0') {
            let mut bytes = [0; AGENT_ID_LENGTH];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            Ok(AgentId(bytes))
        } else {
            Err(NameError::AgentId)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(AGENT_ID_LENGTH);
        // Digits are UTF-8.
        std::str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

impl GatewayName {
    /// Parses a gateway name.
    ///
    /// # Errors
    /// When `text` is empty, longer than 32 characters or has others than `a-z`, `0-9` and `-`.
    pub fn parse(text: &str) -> Result<GatewayName, NameError> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if plain && !text.is_empty() && text.len() <= GATEWAY_NAME_LENGTH {
            Ok(GatewayName(text.into()))
        } else {
            Err(NameError::GatewayName)
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentId").field(&self.as_str()).finish()
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for AgentId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AgentId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]{0,9}$" })
    }
}

impl JsonSchema for GatewayName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GatewayName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9-]{1,32}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_ids_are_digits_without_a_leading_zero() {
        for good in ["1", "101", "59999", "999999", "1234567890"] {
            assert_eq!(AgentId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "0", "0101", "12345678901", "10a", "-1", " 101", "１０１"] {
            assert_eq!(AgentId::parse(bad), Err(NameError::AgentId), "{bad:?}");
        }
    }

    #[test]
    fn agent_ids_compare_and_read_as_their_texts_do() {
        let texts = ["1", "12", "1234567890", "13", "2", "59999"];
        let ids: Vec<_> = texts.iter().map(|text| AgentId::parse(text).unwrap()).collect();
        assert!(ids.is_sorted() && texts.is_sorted());
        assert_eq!(serde_json::to_string(&ids[3]).unwrap(), "\"13\"");
        assert_eq!(format!("{:?} {}", ids[1], ids[5]), "AgentId(\"12\") 59999");
    }

    #[test]
    fn gateway_names_are_short_and_plain() {
        for good in ["main", "gw-1", "0"] {
            assert_eq!(GatewayName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Main", "a/b", "a.b", "a+b", &"x".repeat(33)] {
            assert_eq!(GatewayName::parse(bad), Err(NameError::GatewayName), "{bad:?}");
        }
    }
}
