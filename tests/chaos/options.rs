//! How long and how hard: in `cargo test` short, by `scripts/chaos` as its arguments say.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::lanes::chosen;

#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `CCRELAY_CHAOS_SECONDS`: of the faults, the outage, or the steady load.
    pub(crate) length: Duration,
    /// `CCRELAY_CHAOS_SEED`: determines which fault follows which, and how long each lasts.
    pub(crate) seed: u64,
    /// `CCRELAY_CHAOS_AGENTS`.
    pub(crate) agents: u32,
    /// `CCRELAY_CHAOS_RATE`: events a second of each agent.
    pub(crate) rate: f64,
    /// `CCRELAY_CHAOS_ONLY`: faults whose name in the table has this in it; all when empty.
    pub(crate) only: String,
}

impl Options {
    /// With these where nothing else is said.
    pub(crate) fn of_environment(seconds: u64, agents: u32, rate: f64) -> Options {
        let length = Duration::from_secs(variable("CCRELAY_CHAOS_SECONDS", seconds));
        assert!(!length.is_zero(), "CCRELAY_CHAOS_SECONDS is 0: nothing would be shown");
        Options {
            length,
            seed: variable("CCRELAY_CHAOS_SEED", 1),
            agents: variable("CCRELAY_CHAOS_AGENTS", agents),
            rate: variable("CCRELAY_CHAOS_RATE", rate),
            only: variable("CCRELAY_CHAOS_ONLY", String::new()),
        }
    }

    /// Refuses a choice of faults that chooses none.
    pub(crate) fn check_faults(&self) {
        let some = chosen(&self.only).iter().any(|kinds| !kinds.is_empty());
        assert!(some, "CCRELAY_CHAOS_ONLY is {:?}: no fault has that in its name", self.only);
    }

    /// Events a second that all agents have together.
    pub(crate) fn events_per_second(&self) -> f64 {
        f64::from(self.agents) * self.rate
    }
}

fn variable<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")),
        Err(_) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_chosen_by_what_their_names_have_in_them() {
        let count = |only| chosen(only).map(|kinds| kinds.len());
        assert!(count("").iter().all(|kinds| *kinds > 0));
        assert_eq!(count("relay: frozen"), [2, 0, 0]);
        assert_eq!(count("frozen"), [2, 2, 2]);
        assert_eq!(count("relay:frozen"), [0, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "no fault has that in its name")]
    fn a_choice_of_no_fault_is_refused() {
        let none = Options {
            length: Duration::from_secs(1),
            seed: 1,
            agents: 1,
            rate: 1.0,
            only: "relay: thawed".to_owned(),
        };
        none.check_faults();
    }
}
