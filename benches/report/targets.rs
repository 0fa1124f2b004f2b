//! What is to be reached, beside what was measured.

use serde_json::{Value, json};

/// Connections at which servers are compared.
const COMPARED: u64 = 64;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) push: Value,
    pub(crate) backlog: Value,
    pub(crate) spool: Value,
    pub(crate) deliver: Value,
    /// Microseconds, by the name of what was measured.
    pub(crate) micro: Value,
}

/// What is to be reached.
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) value: Option<f64>,
    pub(crate) limit: Option<f64>,
    pub(crate) least: bool,
    pub(crate) unit: &'static str,
}

impl Results {
    fn push_rows(&self) -> impl Iterator<Item = &Value> {
        self.push.as_array().into_iter().flatten()
    }

    /// As fast as can be, with the load's usual threads times `times`.
    fn flat(&self, server: &str, times: u64) -> Option<f64> {
        let usual = self.push_rows().filter_map(|row| row["load_threads"].as_u64()).min()?;
        let row = self.push_rows().find(|row| {
            row["server"] == server
                && row["connections"] == COMPARED
                && row["asked_per_second"].is_null()
                && row["load_threads"] == usual * times
        });
        row?["pushes_per_second"].as_f64()
    }

    /// The row at that share of the server's greatest rate.
    fn steady(&self, server: &str, share: &str) -> Option<&Value> {
        self.push_rows().find(|row| row["server"] == server && row["share"] == share)
    }
}

/// What issue 8 asks for.
pub(crate) fn targets(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut target = |what: &str, value, least, limit, unit| {
        targets.push(Target { what: what.to_owned(), value, limit, least, unit });
    };
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    let floor = results.flat("floor", 1);
    for (server, limit) in [("stopped", 0.75), ("both", 0.55)] {
        let share = ratio(results.flat(server, 1), floor);
        target(&format!("{server}: pushes/s of the floor's"), share, true, Some(limit), "");
    }
    let p99 = |server: &str, share: &str| results.steady(server, share)?["p99_ms"].as_f64();
    let sync = results.spool["fdatasync_ms"].as_f64();
    let limit = p99("floor", "0.5").zip(sync).map(|(floor, sync)| floor + 2.0 * sync + 1.0);
    for server in ["none", "stopped", "both"] {
        target(&format!("{server}: p99 at half rate"), p99(server, "0.5"), false, limit, "ms");
    }
    let worse = ratio(p99("stopped", "0.5 of both"), p99("both", "0.5"));
    target("stopped: p99 at half the rate of both, to that of both", worse, false, Some(1.2), "");
    for broker in ["kafka", "mqtt"] {
        let took = results.steady("both", "0.5").and_then(|row| row[broker]["p99_ms"].as_f64());
        target(&format!("end to end at half rate: p99 to {broker}"), took, false, Some(15.0), "ms");
    }
    let empty = results.backlog["empty_resident_mib"].as_f64();
    for (broker, limit) in [("Kafka", 100_000.0_f64), ("MQTT", 20_000.0)] {
        let drains = results.backlog["drains"].as_array();
        let drain = drains.and_then(|drains| drains.iter().find(|drain| drain["broker"] == broker));
        let number = |name: &str| drain.and_then(|drain| drain[name].as_f64());
        // Either will do: what is asked for, or four fifths of what the broker takes from its own tool.
        let limit = number("tool_per_second").map(|tool| limit.min(0.8 * tool));
        target(&format!("drain to {broker}"), number("events_per_second"), true, limit, "/s");
        let more = number("most_resident_mib").zip(empty).map(|(most, empty)| most - empty);
        target(&format!("drain to {broker}: memory beyond an empty spool's"), more, false, Some(64.0), "MiB");
    }
    target("ready with the backlog", results.backlog["ready_full_secs"].as_f64(), false, Some(1.0), "s");
    let usual = results.micro["deliver/talking to kafka"].as_f64();
    target("a usual event normalised and written for Kafka", usual, false, Some(5.0), "us");
    for server in ["floor", "none"] {
        let gain = ratio(results.flat(server, 2), results.flat(server, 1));
        target(&format!("{server}: gain of twice the load's threads"), gain, false, Some(1.1), "");
    }
    targets
}

impl Target {
    /// Nothing where it was not measured.
    pub(crate) fn met(&self) -> Option<bool> {
        let (value, limit) = (self.value?, self.limit?);
        Some(if self.least { value >= limit } else { value <= limit })
    }

    pub(crate) fn json(&self) -> Value {
        let Target { what, value, limit, least, unit } = self;
        let wanted = if *least { "at least" } else { "at most" };
        json!({ "what": what, "value": value, "wanted": wanted, "limit": limit, "unit": unit, "met": self.met() })
    }
}
