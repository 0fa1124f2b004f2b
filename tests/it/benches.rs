//! What the benches say of what they have measured.

use serde_json::json;

#[path = "../../benches/push/end_to_end.rs"]
mod end_to_end;
#[path = "../../benches/report/targets.rs"]
#[expect(dead_code, reason = "the report uses the rest")]
mod targets;

use end_to_end::end_to_end;
use targets::{Results, targets};

/// Whether the target for events to Kafka is met by a run of so many pushes.
fn met(pushes: usize, took: &[u64]) -> Option<bool> {
    let row = json!({ "server": "both", "share": "0.5", "kafka": end_to_end(pushes, took) });
    let results = Results { push: json!([row]), ..Results::default() };
    let targets = targets(&results);
    targets.iter().find(|target| target.what.ends_with("p99 to kafka")).expect("the target").met()
}

#[test]
fn a_run_whose_events_did_not_all_arrive_has_no_times_and_meets_no_target() {
    assert_eq!(met(0, &[]), None);
    assert_eq!(met(100, &[]), None);
    assert_eq!(met(100, &[1; 99]), None, "the one that lacks is late");
    assert_eq!(met(100, &[1; 100]), Some(true));
    assert_eq!(met(100, &[16; 100]), Some(false));
    assert_eq!(end_to_end(100, &[1; 99])["events"], 99);
}
