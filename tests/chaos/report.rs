//! The table at the end of a run, and what in it is a mistake.

use std::time::Duration;

use ccrelay::simulate::Statistics;

use crate::lanes::{Faults, RECOVERY_LIMIT};
use crate::options::Options;
use crate::support::judge::Verdict;

/// Of a list of mistakes so many are named.
const NAMED: usize = 5;

pub(crate) struct Report {
    /// Time of load.
    pub(crate) length: Duration,
    /// From the last acknowledgement until both brokers had all.
    pub(crate) drain: Duration,
    /// None where the scenario is not one of faults by a schedule.
    pub(crate) faults: Option<Faults>,
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
        self.faults.iter().for_each(print_faults);
        row("events made by the gateway", total.events);
        row("events acknowledged to it", self.in_kafka.acknowledged);
        let per_second = self.in_kafka.acknowledged as f64 / self.length.as_secs_f64();
        row("  a second, on average", format!("{per_second:.0}"));
        row("pushes answered", total.pushes_acknowledged);
        row("pushes failed and repeated", total.pushes_failed);
        if let Some(faults) = &self.faults {
            row("  of them while relay and paths were well", faults.failed_in_quiet);
            let (quiet, without) = (faults.quiet.as_secs_f64(), faults.quiet_without_broker.as_secs_f64());
            row("  seconds of that, and without a broker", format!("{quiet:.0}, {without:.0}"));
        }
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

    /// Everything that must not be, in words; empty when all is well.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (name, verdict) in [("Kafka", &self.in_kafka), ("MQTT", &self.in_mqtt)] {
            for (what, list) in [
                ("lost", &verdict.lost),
                ("lost after a poll", &verdict.lost_polled),
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
        if let Some(faults) = &self.faults {
            mistakes.extend(mistakes_in(faults));
        }
        mistakes
    }
}

fn print_faults(faults: &Faults) {
    row("faults", faults.kinds.values().map(|times| times.count).sum::<u32>());
    for ((lane, fault), times) in &faults.kinds {
        let recovery = times.slowest_recovery.as_secs_f64();
        let recovery = match times.not_recovered {
            0 if recovery > 0.0 => format!("  well again after {recovery:.1} s"),
            0 => String::new(),
            not => format!("  {not} times not well after {recovery:.1} s"),
        };
        row(&format!("  {lane}: {}", fault.name()), format!("{}{recovery}", times.count));
    }
    row("stops of the relay with an exit code not 0", faults.unclean_stops);
}

fn mistakes_in(faults: &Faults) -> Vec<String> {
    let mut mistakes = Vec::new();
    if faults.kinds.is_empty() {
        mistakes.push("no fault was injected, so nothing is shown".to_owned());
    }
    for ((lane, fault), times) in faults.kinds.iter().filter(|(_, times)| times.not_recovered > 0) {
        let (not, limit) = (times.not_recovered, RECOVERY_LIMIT.as_secs());
        mistakes.push(format!("{not} times not well within {limit} s after {lane}: {}", fault.name()));
    }
    if faults.unclean_stops > 0 {
        mistakes.push(format!("{} stops of the relay ended with an error", faults.unclean_stops));
    }
    if faults.failed_in_quiet > 0 {
        let failed = faults.failed_in_quiet;
        mistakes.push(format!("{failed} pushes failed though the relay and its paths were well"));
    }
    mistakes
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("{name:<46}{value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;
    use crate::lanes::Times;

    fn report(faults: Option<Faults>) -> Report {
        Report {
            length: Duration::from_secs(1),
            drain: Duration::ZERO,
            faults,
            in_kafka: Verdict::default(),
            in_mqtt: Verdict::default(),
            statistics: Statistics::default(),
            agents: 0,
            peak_kib: 0,
        }
    }

    fn one_fault(recovered: bool) -> Faults {
        let times = Times {
            count: 2,
            slowest_recovery: Duration::from_secs(3),
            not_recovered: u32::from(!recovered),
        };
        Faults { kinds: [(("relay", Fault::Frozen), times)].into(), ..Faults::default() }
    }

    #[test]
    fn a_run_of_faults_without_a_fault_shows_nothing_and_is_a_mistake() {
        assert_eq!(report(None).mistakes(), [""; 0], "another scenario");
        assert_eq!(report(Some(one_fault(true))).mistakes(), [""; 0]);
        let mistakes = report(Some(Faults::default())).mistakes();
        assert_eq!(mistakes, ["no fault was injected, so nothing is shown"]);
    }

    #[test]
    fn agents_that_are_not_well_in_time_after_a_fault_are_a_mistake() {
        let mistakes = report(Some(one_fault(false))).mistakes();
        assert_eq!(mistakes, ["1 times not well within 45 s after relay: frozen"]);
    }
}
