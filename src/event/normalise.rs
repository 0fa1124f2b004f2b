//! TEMP
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EventRef {
    /// x
    pub offset: u64,
    /// x
    pub index: u32,
}
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// x
    Push,
    /// x
    Poll,
    /// x
    Lifecycle,
}
