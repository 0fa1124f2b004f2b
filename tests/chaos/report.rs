//! The table at the end of a run, and what in it is a mistake.

use std::time::Duration;

use ccrelay::simulate::Statistics;

use crate::lanes::Faults;
use crate::options::Options;
use crate::support::judge::Verdict;

/// Of a list of mistakes so many are named.
const NAMED: usize = 5;

pub(crate) struct Report {
    /// Time of load.
    pub(crate) length: Duration,
    /// From the last acknowledgement until both brokers had all.
    pub(crate) drain: Duration,
    pub(crate) faults: Faults,
    pub(crate) in_kafka: Verdict,
    pub(crate) in_mqtt: Verdict,
    pub(crate) statistics: Statistics,
    pub(crate) agents: u64,
    pub(crate) peak_kib: u64,
}

impl Report {
    pub(crate) fn print(&self, options: &Options) {
        let total = &self.statistics.total;
        println!();
        row("seed", options.seed);
        row("agents", self.agents);
        row("minutes of load", format!("{:.1}", self.length.as_secs_f64() / 60.0));
        self.print_faults();
        row("stops of the relay with an exit code not 0", self.faults.unclean_stops);
        row("events made by the gateway", total.events);
        row("events acknowledged to it", self.in_kafka.acknowledged);
        let per_second = self.in_kafka.acknowledged as f64 / self.length.as_secs_f64();
        row("  a second, on average", format!("{per_second:.0}"));
        row("pushes answered", total.pushes_acknowledged);
        row("pushes failed and repeated", total.pushes_failed);
        row("  of them while relay and paths were well", self.faults.failed_in_quiet);
        let quiet = self.faults.quiet.as_secs_f64();
        let without = self.faults.quiet_without_broker.as_secs_f64();
        row("  seconds of that, and without a broker", format!("{quiet:.0}, {without:.0}"));
        for (name, verdict) in [("Kafka", &self.in_kafka), ("MQTT", &self.in_mqtt)] {
            row(&format!("{name}: lost"), verdict.lost.len());
            row("  unknown", verdict.unknown.len());
            row("  out of order", verdict.out_of_order.len());
            row("  twice with the same id", verdict.duplicates_same_id);
            row("  twice with another id", verdict.duplicates_other_id.len());
            row("  not as normalised, gaps", verdict.not_as_normalised.len() + verdict.gaps.len());
        }
        row("agents signed out", total.sign_outs.values().sum::<u64>());
        for (reason, count) in &total.sign_outs {
            row(&format!("  {reason:?}"), count);
        }
        row("sign-ins beyond the first", total.sign_ins - self.agents);
        row("drained after the last answer, s", format!("{:.1}", self.drain.as_secs_f64()));
        row("peak memory of the relay, MiB", self.peak_kib / 1024);
    }

    fn print_faults(&self) {
        let kinds = &self.faults.kinds;
        row("faults", kinds.values().map(|times| times.count).sum::<u32>());
        for ((lane, fault), times) in kinds {
            let recovery = times.slowest_recovery.as_secs_f64();
            let recovery =
                if recovery > 0.0 { format!("  well again after {recovery:.1} s") } else { String::new() };
            row(&format!("  {lane}: {}", fault.name()), format!("{}{recovery}", times.count));
        }
    }

    /// Everything that must not be, in words; empty when all is well.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (name, verdict) in [("Kafka", &self.in_kafka), ("MQTT", &self.in_mqtt)] {
            for (what, list) in [
                ("lost", &verdict.lost),
                ("unknown", &verdict.unknown),
                ("out of order", &verdict.out_of_order),
                ("twice with another id", &verdict.duplicates_other_id),
                ("not as normalised", &verdict.not_as_normalised),
                ("gaps", &verdict.gaps),
            ] {
                if !list.is_empty() {
                    let named =
                        list.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("\n    ");
                    mistakes.push(format!("{name}: {} {what}:\n    {named}", list.len()));
                }
            }
        }
        let total = &self.statistics.total;
        if !total.sign_outs.is_empty() || total.sign_ins != self.agents {
            mistakes.push(format!("sign-outs {:?}, {} sign-ins", total.sign_outs, total.sign_ins));
        }
        if self.faults.unclean_stops > 0 {
            mistakes.push(format!("{} stops of the relay ended with an error", self.faults.unclean_stops));
        }
        if self.faults.failed_in_quiet > 0 {
            let failed = self.faults.failed_in_quiet;
            mistakes.push(format!("{failed} pushes failed though the relay and its paths were well"));
        }
        mistakes
    }
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("{name:<46}{value}");
}
