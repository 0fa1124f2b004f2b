//! A relay under load, the Prometheus that watches it, and the eyes of whoever is woken.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ccrelay::event::AgentId;
use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};

use crate::page::Page;
use crate::prometheus::Prometheus;
use crate::runbook::{Look, first_look};
use crate::support::relay::{Pace, Relay, Wiring, binary};

pub(crate) const PASSWORD: &str = "canary-password";
const TOKEN: &str = "admin-token-canary-0123456789";
/// Half of it is what a scene waits for agents that are about to be signed out.
pub(crate) const SIGN_OUT_LIMIT: u32 = 62;
/// What an alert may take on a busy machine, windows included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Alerts that a busy machine may set off.
const OF_TIMES: &[&str] = &["CcrelaySpoolSlow", "CcrelayAnswersSlow", "CcrelayHeartbeatsLate"];
/// The configuration of the runbook's commands.
const CONFIG: &str = "/etc/ccrelay/config.toml";
/// A relay that is down has no page.
const UNSEEN: &str = "CcrelayDown";

pub(crate) struct Scene {
    pub(crate) simulator: Simulator,
    pub(crate) relay: Relay,
    prometheus: Option<Prometheus>,
    page: Option<Page>,
    fired: BTreeSet<&'static str>,
    /// What stands in this scene for names that the runbook's commands of the system have.
    pub(crate) words: Vec<(&'static str, String)>,
}

/// What a scene is made of.
pub(crate) struct Plan<'a> {
    pub(crate) agents: std::ops::RangeInclusive<u32>,
    /// The address that the relay calls the gateway at, made from the gateway's own.
    pub(crate) gateway_port: Option<u16>,
    /// Tables of sinks, and further ones.
    pub(crate) tables: &'a str,
}

impl Scene {
    /// A gateway of so many agents, and a relay that is not yet configured.
    pub(crate) async fn prepare(agents: u32) -> Scene {
        Scene::prepare_with(agents, |_| ()).await
    }

    /// The same with other settings of the gateway.
    pub(crate) async fn prepare_with(agents: u32, set: impl FnOnce(&mut Settings)) -> Scene {
        let mut relay = Relay::prepare();
        let mut settings = Settings::local();
        settings.guid_interval_ms = 20_000;
        settings.guid_timeout_ms = u64::from(SIGN_OUT_LIMIT) * 1000;
        settings.handshake_max_time_ms = u64::from(SIGN_OUT_LIMIT) * 1000;
        settings.push_fail_interval_ms = 500;
        // Failed pushes alone sign nobody out here.
        settings.push_fail_total_ms = 600_000;
        settings.push_timeout_ms = 20_000;
        settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
        settings.agents = vec![Agents::range(1001, 1000 + agents, PASSWORD)];
        set(&mut settings);
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        relay.at_pace(Pace { heartbeat: 1, sign_out_limit: SIGN_OUT_LIMIT, repeat_soonest_millis: 400 });
        Scene { simulator, relay, prometheus: None, page: None, fired: BTreeSet::new(), words: Vec::new() }
    }

    pub(crate) fn configure(&self, plan: &Plan<'_>) {
        let real = self.simulator.local_addr().port();
        let url = self
            .simulator
            .base_url()
            .replace(&format!(":{real}/"), &format!(":{}/", plan.gateway_port.unwrap_or(real)));
        let tokens = self.relay.folder().join("tokens");
        std::fs::write(&tokens, format!("admin night {TOKEN}\n")).expect("the folder can be written");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        self.relay.configure(&Wiring {
            gateway_url: &url,
            gateway_ca: self.simulator.ca_pem().expect("the simulator made a certificate"),
            agents: plan.agents.clone(),
            password: PASSWORD,
            tables: plan.tables,
        });
        let key = format!("[operations]\nadmin_tokens_file = \"{}\"\n", tokens.display());
        self.relay.edit("[operations]\n", &key);
    }

    /// Starts the relay, and Prometheus.
    pub(crate) async fn start(&mut self) {
        self.relay.start().await;
        self.page = Some(Page::open(self.relay.operations(), TOKEN));
        self.prometheus = Some(Prometheus::start(self.relay.operations().port()).await);
    }

    pub(crate) async fn all_signed_in(&self, count: usize) {
        assert!(self.simulator.wait_for(PATIENCE, |s| s.signed_in >= count).await, "{}", self.relay.log());
    }

    pub(crate) async fn firing(&self) -> BTreeSet<String> {
        self.prometheus.as_ref().expect("Prometheus was started").firing().await
    }

    /// Nothing is broken: for longer than an alert has patience nothing fires, and the page shows no concern, but for times,
    /// which are the machine's.
    pub(crate) async fn assert_quiet(&self) {
        let page = self.page.as_ref().expect("the page was opened");
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            for mut told in [self.firing().await, page.shows()] {
                told.retain(|alert| !OF_TIMES.contains(&alert.as_str()));
                assert_eq!(told, BTreeSet::new(), "nothing is broken\n{}", self.relay.log());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Has the file of tokens say this, and gives what it said. There is no moment in which it is empty: that would let nobody in.
    pub(crate) fn replace_tokens(&self, text: &str) -> String {
        let (tokens, new) = (self.relay.folder().join("tokens"), self.relay.folder().join("tokens.new"));
        let before = std::fs::read_to_string(&tokens).expect("it was written");
        std::fs::write(&new, text).expect("the folder can be written");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        std::fs::rename(&new, &tokens).expect("the folder can be written");
        before
    }

    /// Waits until `alert` fires, and looks where the runbook says first: each of `cause` must be there.
    pub(crate) async fn fires(&mut self, alert: &'static str, cause: &[&str]) -> String {
        self.fires_while(alert, cause, |_| ()).await
    }

    /// As [`Scene::fires`], doing something again and again meanwhile.
    pub(crate) async fn fires_while(
        &mut self,
        alert: &'static str,
        cause: &[&str],
        mut again: impl FnMut(&Simulator),
    ) -> String {
        let begin = Instant::now();
        loop {
            let firing = self.firing().await;
            if firing.contains(alert) {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{alert} does not fire, {firing:?} do\n{}", self.tail());
            again(&self.simulator);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let fired = begin.elapsed();
        // The log may be a moment behind the alert.
        let seen = loop {
            let seen = squeezed(&self.look(alert));
            if cause.iter().all(|part| seen.contains(part)) {
                break seen;
            }
            let late = begin.elapsed() > fired + Duration::from_secs(10);
            assert!(!late, "{alert} fires, but {:?} does not show {cause:?}:\n{seen}", first_look(alert));
            tokio::time::sleep(Duration::from_millis(250)).await;
        };
        if alert != UNSEEN {
            self.page_shows(alert).await;
        }
        let shown = seen.lines().find(|line| cause.first().is_none_or(|part| line.contains(part)));
        println!("{alert:<32} after {:>4.1} s: {}", fired.as_secs_f64(), shown.unwrap_or_default().trim());
        self.fired.insert(alert);
        seen
    }

    /// The page says the same. It is told every two seconds, and of figures over a minute.
    async fn page_shows(&self, alert: &str) {
        let page = self.page.as_ref().expect("the page was opened");
        let begin = Instant::now();
        while !page.shows().contains(alert) {
            let late = begin.elapsed() > Duration::from_secs(20);
            assert!(!late, "the page does not show {alert}, but {:?}\n{}", page.shows(), self.tail());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// What whoever is woken sees first.
    fn look(&self, alert: &str) -> String {
        match first_look(alert) {
            Look::Ccrelay(words) => self.ccrelay(&words),
            Look::Metric(name) => self.series(name),
            Look::Log(pattern) => {
                self.relay.log().lines().filter(|line| line.contains(pattern)).collect::<Vec<_>>().join("\n")
            }
            Look::LogTail => self.tail(),
            Look::Shell(command) => self.shell(command),
        }
    }

    fn tail(&self) -> String {
        let log = self.relay.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(50)..].join("\n")
    }

    /// Series of a metric that have a value.
    fn series(&self, name: &str) -> String {
        let url = format!("http://{}/metrics", self.relay.operations());
        let output = Command::new("curl").args(["-s", "-m", "5", &url]).output();
        let page = text(&output.expect("curl starts: `make setup` installs it"));
        let series = page.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0"));
        series.collect::<Vec<_>>().join("\n")
    }

    /// Runs a command of ours as the runbook has it.
    fn ccrelay(&self, words: &[&str]) -> String {
        let config = self.relay.folder().join("config.toml").display().to_string();
        let words = words.iter().map(|word| if *word == CONFIG { config.as_str() } else { word });
        let output = Command::new(binary())
            .args(words)
            .env("CCRELAY_ADMIN_URL", format!("http://{}", self.relay.operations()))
            .env("CCRELAY_ADMIN_TOKEN_FILE", self.relay.folder().join("tokens"))
            .output();
        text(&output.expect("the program starts"))
    }

    /// Runs a command of the system, with names of this scene in the place of the runbook's.
    fn shell(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (name, value) in &self.words {
            command = command.replace(name, value);
        }
        text(&Command::new("sh").args(["-c", &command]).output().expect("sh starts"))
    }

    /// All that was to fire has fired.
    pub(crate) fn assert_all_fired(&self, alerts: &[&'static str]) {
        assert_eq!(self.fired, alerts.iter().copied().collect::<BTreeSet<_>>());
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

pub(crate) fn agent(id: u32) -> AgentId {
    AgentId::parse(&id.to_string()).expect("an agent id")
}

/// With one space wherever columns are apart.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
