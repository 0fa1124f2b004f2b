//! Names of traces and spans, and `traceparent` of W3C Trace Context.
//!
//! The trace of a record, its first two spans and whether it is sampled are pure functions of the spool's id and the
//! record's offset. So every sink says the same of an event, at every delivery, after a restart and when a dead letter is
//! delivered again.

use std::fmt;

use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::hex::push_hex;

/// The header of W3C Trace Context, and the attribute of CloudEvents' extension "Distributed Tracing".
pub const TRACEPARENT: &str = "traceparent";
/// Keeps our hashes apart from all others.
const DOMAIN: &[u8] = b"ccrelay trace\0";
/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

pub(super) type TraceId = [u8; 16];
pub(super) type SpanId = [u8; 8];

/// What an event says of the trace it belongs to: the span that brought it is the parent of whatever a consumer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) parent: SpanId,
    pub(super) sampled: bool,
}

impl TraceContext {
    /// As the value of `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(LENGTH);
        text.push_str("00-");
        push_hex(&mut text, &self.trace);
        text.push('-');
        push_hex(&mut text, &self.parent);
        text.push_str(if self.sampled { "-01" } else { "-00" });
        text
    }

    /// Reads the `traceparent` of a request: one header of the form that W3C Trace Context asks for. None of anything else.
    pub(super) fn of_request(headers: &HeaderMap) -> Option<TraceContext> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?.as_bytes();
        if values.next().is_some() {
            return None;
        }
        let (fixed, more) = value.split_at_checked(LENGTH)?;
        let version = unhex::<1>(&fixed[..2])?;
        // Later versions may have more behind what this one has; ff is none.
        let ends_well = more.is_empty() || (version != [0] && more[0] == b'-');
        let dashes = [2, 35, 52].iter().all(|at| fixed[*at] == b'-');
        if !ends_well || !dashes || version == [0xff] {
            return None;
        }
        let (trace, parent) = (unhex(&fixed[3..35])?, unhex(&fixed[36..52])?);
        let [flags] = unhex(&fixed[53..])?;
        let real = trace != TraceId::default() && parent != SpanId::default();
        real.then_some(TraceContext { trace, parent, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// What every `traceparent` of ours looks like.
pub const PATTERN: &str = "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$";

/// Lower-case digits only, as the header wants them.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The ids of a record's trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordIds {
    pub(super) trace: TraceId,
    /// The span that brought the record.
    pub(super) root: SpanId,
    /// The span of its way to the disk.
    pub(super) append: SpanId,
}

impl RecordIds {
    pub(super) fn of(spool_id: &str, offset: u64) -> RecordIds {
        let hash =
            Sha256::new().chain_update(DOMAIN).chain_update(spool_id).chain_update(offset.to_be_bytes());
        let (mut ids, hash) = (RecordIds { trace: [0; 16], root: [0; 8], append: [0; 8] }, hash.finalize());
        ids.trace.copy_from_slice(&hash[..16]);
        ids.root.copy_from_slice(&hash[16..24]);
        ids.append.copy_from_slice(&hash[24..]);
        ids
    }
}

/// The id of the span of one try to publish an event: each try is a span of its own.
pub(super) fn of_publish(trace: &TraceId, sink: &str, event_id: &str, began: u64) -> SpanId {
    let hash = Sha256::new().chain_update(trace).chain_update(sink).chain_update([0]).chain_update(event_id);
    let hash = hash.chain_update(began.to_be_bytes()).finalize();
    let mut id = [0; 8];
    id.copy_from_slice(&hash[..8]);
    id
}

/// Which traces are sampled: those whose random part lies below a bound, as OpenTelemetry's `TraceIdRatioBased` has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampler {
    bound: u64,
}

/// The random part has 63 bits.
const ALL: u64 = 1 << 63;

impl Sampler {
    /// Takes this part of all traces, from 0 to 1.
    pub(super) fn new(ratio: f64) -> Sampler {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^63")]
        let bound = (ratio.clamp(0.0, 1.0) * ALL as f64) as u64;
        Sampler { bound }
    }

    pub(super) fn takes(self, trace: &TraceId) -> bool {
        let random = trace[8..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        random >> 1 < self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(values: &[&str]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        TraceContext::of_request(&headers)
    }

    #[test]
    fn the_ids_of_a_record_follow_from_its_place_alone() {
        let ids = RecordIds::of("k3v9", 70);
        assert_eq!(ids, RecordIds::of("k3v9", 70));
        // Whoever changes them tells consumers of the upgrade: what was delivered before has others.
        let context = TraceContext { trace: ids.trace, parent: ids.root, sampled: true };
        assert_eq!(context.traceparent(), "00-dd35c444a16077c6a7c4bfb687cc79d6-5d27f047888e0440-01");
        for other in [RecordIds::of("k3v9", 71), RecordIds::of("k3va", 70)] {
            assert!(ids.trace != other.trace && ids.root != other.root && ids.append != other.append);
        }
        assert_ne!(ids.root, ids.append);
    }

    #[test]
    fn a_traceparent_of_ours_is_one_that_we_can_read() {
        for sampled in [true, false] {
            let ids = RecordIds::of("k3v9", 1);
            let context = TraceContext { trace: ids.trace, parent: ids.root, sampled };
            assert_eq!(request(&[&context.traceparent()]), Some(context));
        }
    }

    #[test]
    fn a_traceparent_that_is_not_one_is_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(request(&[good]).is_some_and(|context| context.sampled));
        assert!(request(&[&good.replace("-01", "-02")]).is_some_and(|context| !context.sampled));
        assert!(request(&[&good.replace("00-", "cc-")]).is_some());
        assert!(request(&[&format!("{}-more", good.replace("00-", "cc-"))]).is_some());
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &format!("{}more", good.replace("00-", "cc-")),
            &good.replace("00-", "ff-"),
            &good.to_uppercase(),
            &good.replace('-', "_"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good.replace("b7ad", "b7ag"),
        ] {
            assert_eq!(request(&[bad]), None, "{bad:?}");
        }
        assert_eq!(request(&[good, good]), None);
        assert_eq!(request(&[]), None);
    }

    #[test]
    fn the_part_that_is_sampled_is_the_one_that_was_asked_for() {
        let part = |ratio| {
            let sampler = Sampler::new(ratio);
            (0..10_000).filter(|offset| sampler.takes(&RecordIds::of("k3v9", *offset).trace)).count()
        };
        assert_eq!((part(0.0), part(1.0)), (0, 10_000));
        let quarter = part(0.25);
        assert!((2_300..2_700).contains(&quarter), "{quarter}");
        // What a smaller part has, a larger one has too.
        let (few, many) = (Sampler::new(0.1), Sampler::new(0.5));
        let traces = (0..1000).map(|offset| RecordIds::of("k3v9", offset).trace);
        assert!(traces.filter(|trace| few.takes(trace)).all(|trace| many.takes(&trace)));
    }
}
