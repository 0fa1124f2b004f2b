//! What can go wrong, and in which order it does.

use std::time::Duration;

/// A fault of one lane. Names are those of the table at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL, away for a while, started again.
    Killed,
    /// SIGTERM, away for a while, started again.
    Stopped,
    /// SIGSTOP, and SIGCONT after a while.
    Frozen,
    /// On the path to a broker, of the pushes, or of the session calls.
    Path(Path, Disturbance),
    /// Pushes were stored, but their answers do not arrive.
    AnswersLost,
    /// Session calls are answered wrongly.
    Gateway(Misbehaviour),
    /// The gateway takes no connections.
    GatewayAway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// From the relay to the lane's broker.
    Broker,
    /// From the gateway to the relay.
    Push,
    /// From the relay to the gateway.
    Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disturbance {
    /// All connections end.
    Cut,
    /// All connections end by RST.
    Reset,
    /// A black hole.
    Stalled,
    /// Few bytes a second.
    Slow,
    /// A long way.
    Late,
    /// Nobody listens.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Misbehaviour {
    Retcodes,
    Status503,
    SlowAnswers,
    Silence,
    AnswersDropped,
    Garbage,
}

const DISTURBANCES: [Disturbance; 6] = [
    Disturbance::Cut,
    Disturbance::Reset,
    Disturbance::Stalled,
    Disturbance::Slow,
    Disturbance::Late,
    Disturbance::Refused,
];

/// All that may befall a broker. Deaths count double.
pub(crate) fn of_a_broker() -> Vec<Fault> {
    let processes = [Fault::Killed, Fault::Killed, Fault::Stopped, Fault::Frozen, Fault::Frozen];
    processes.into_iter().chain(DISTURBANCES.map(|d| Fault::Path(Path::Broker, d))).collect()
}

/// All that may befall the relay and its paths to and from the gateway.
pub(crate) fn of_the_relay() -> Vec<Fault> {
    let mut all = vec![Fault::Killed; 4];
    all.extend([Fault::Stopped, Fault::Stopped, Fault::Frozen, Fault::Frozen]);
    for path in [Path::Push, Path::Session] {
        all.extend(DISTURBANCES.map(|disturbance| Fault::Path(path, disturbance)));
    }
    all.extend([Fault::AnswersLost, Fault::GatewayAway]);
    all.extend(
        [
            Misbehaviour::Retcodes,
            Misbehaviour::Status503,
            Misbehaviour::SlowAnswers,
            Misbehaviour::Silence,
            Misbehaviour::AnswersDropped,
            Misbehaviour::Garbage,
        ]
        .map(Fault::Gateway),
    );
    all
}

impl Fault {
    /// As it stands in the table, after the name of the lane.
    pub(crate) fn name(self) -> String {
        let words = |debug: String| {
            debug.chars().fold(String::new(), |text, c| match c {
                'A'..='Z' if !text.is_empty() => text + " " + &c.to_lowercase().to_string(),
                c => text + &c.to_lowercase().to_string(),
            })
        };
        match self {
            Fault::Path(path, disturbance) => {
                format!("{} path {}", words(format!("{path:?}")), words(format!("{disturbance:?}")))
            }
            Fault::Gateway(misbehaviour) => format!("gateway {}", words(format!("{misbehaviour:?}"))),
            other => words(format!("{other:?}")),
        }
    }

    /// How long it may last, in seconds: well within the limit of a sign-out. What has no length takes no time.
    fn lengths(self) -> (f64, f64) {
        match self {
            Fault::Killed | Fault::Stopped => (0.0, 4.0),
            Fault::Frozen => (0.5, 8.0),
            Fault::Path(_, Disturbance::Cut | Disturbance::Reset) | Fault::AnswersLost => (0.0, 0.0),
            Fault::Path(_, Disturbance::Stalled) => (0.5, 8.0),
            Fault::Path(..) | Fault::GatewayAway => (1.0, 6.0),
            Fault::Gateway(_) => (2.0, 5.0),
        }
    }
}

/// An endless schedule: every kind comes before any comes again.
pub(crate) struct Schedule {
    kinds: Vec<Fault>,
    deck: Vec<Fault>,
    random: Random,
}

impl Schedule {
    pub(crate) fn new(kinds: Vec<Fault>, seed: u64) -> Schedule {
        Schedule { kinds, deck: Vec::new(), random: Random::new(seed) }
    }

    /// The pause before the next fault, the fault, and how long it lasts; none when there are no kinds.
    pub(crate) fn deal(&mut self) -> Option<(Duration, Fault, Duration)> {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            for at in (1..self.deck.len()).rev() {
                self.deck.swap(at, self.random.below(at + 1));
            }
        }
        let fault = self.deck.pop()?;
        let (least, most) = fault.lengths();
        let pause = Duration::from_secs_f64(self.random.between(0.5, 3.0));
        Some((pause, fault, Duration::from_secs_f64(self.random.between(least, most))))
    }
}

/// SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[test]
fn a_schedule_is_determined_by_its_seed_and_deals_every_kind_before_any_again() {
    let deal = |seed, count| {
        let mut schedule = Schedule::new(of_the_relay(), seed);
        (0..count).map_while(|_| schedule.deal()).collect::<Vec<_>>()
    };
    assert_eq!(deal(7, 100), deal(7, 100));
    assert_ne!(deal(7, 100), deal(8, 100));
    let mut dealt: Vec<Fault> =
        deal(7, of_the_relay().len()).into_iter().map(|(_, fault, _)| fault).collect();
    let mut kinds = of_the_relay();
    dealt.sort_unstable();
    kinds.sort_unstable();
    assert_eq!(dealt, kinds);
}
