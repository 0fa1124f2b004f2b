//! How long events took to a consumer. Of a run whose events did not all come there is nothing to say: those that are missing
//! are the late ones.

use serde_json::{Value, json};

/// Of a run of so many pushes, of one event each, whose events took so many milliseconds, sorted.
pub(crate) fn end_to_end(pushes: usize, took: &[u64]) -> Value {
    let all = pushes > 0 && took.len() >= pushes;
    let at = |q: f64| {
        let last = took.len().saturating_sub(1);
        took.get((last as f64 * q).round() as usize).filter(|_| all)
    };
    json!({
        "pushes": pushes, "events": took.len(),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999),
    })
}
