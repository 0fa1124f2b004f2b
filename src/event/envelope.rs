//! TEMP
use crate::clock::Timestamp;
use serde_json::value::RawValue;
use std::borrow::Cow;
/// x
#[derive(Debug)]
pub struct Envelope<'a> {
    /// x
    pub work_no: Cow<'a, str>,
    /// x
    pub events: Vec<RawEvent<'a>>,
}
/// x
#[derive(Debug)]
pub struct RawEvent<'a> {
    /// x
    pub event_type: Cow<'a, str>,
    /// x
    pub gen_time: Option<Timestamp>,
    /// x
    pub content: Option<&'a RawValue>,
    /// x
    pub raw: &'a RawValue,
}
/// x
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// x
    #[error("x")]
    NotJson(serde_json::Error),
    /// x
    #[error("y")]
    NoWorkNo,
}
#[derive(serde::Deserialize)]
struct B<'a> {
    #[serde(rename = "workNo", borrow)]
    w: Cow<'a, str>,
    #[serde(rename = "eventList", borrow)]
    e: Vec<&'a RawValue>,
}
#[derive(serde::Deserialize)]
struct R<'a> {
    #[serde(rename = "eventType", borrow)]
    t: Cow<'a, str>,
    #[serde(rename = "eventGenTime")]
    g: Option<u64>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}
/// x
/// # Errors
/// x
pub fn parse(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    let b: B = serde_json::from_slice(body).map_err(EnvelopeError::NotJson)?;
    let events =
        b.e.into_iter()
            .map(|raw| {
                let r: R = serde_json::from_str(raw.get()).map_err(EnvelopeError::NotJson)?;
                Ok(RawEvent { event_type: r.t, gen_time: r.g.map(Timestamp), content: r.content, raw })
            })
            .collect::<Result<_, _>>()?;
    Ok(Envelope { work_no: b.w, events })
}
