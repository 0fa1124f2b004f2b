//! TEMP
use super::envelope::RawEvent;
use crate::clock::Timestamp;
/// x
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AgentSnapshot {
    since: Timestamp,
    n: u64,
}
impl AgentSnapshot {
    /// x
    pub fn apply(&mut self, _: &RawEvent<'_>, at: Timestamp) {
        self.since = at;
        self.n += 1;
    }
}
