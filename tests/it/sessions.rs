//! Sessions against the simulated gateway, over real sockets: no storm after its restart, restarts of our own, one of two
//! gateways down, secrets that change, a gateway that cannot push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ccrelay::clock::Clock;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::metrics::Metrics;
use ccrelay::session::config::SessionsConfig;
use ccrelay::session::{
    Deps, EventStore, Journal, LifecycleEvent, SessionStore, Sessions, StoreError, Stored, TokenSource,
};
use ccrelay::simulate::settings::{Agents, PushShape};
use ccrelay::simulate::{Fault, FaultKind, Operation, Settings, SignOut, Simulator};
use ccrelay::sink::BoxFuture;
use secrecy::SecretString;

use crate::support::relay::{Relay, Wiring};
use crate::support::{DEADLINE, eventually};

const PASSWORD: &str = "canary-password";

/// What the daemon gives to sessions, in memory; it outlives them as the spool outlives the daemon.
#[derive(Default)]
struct World {
    stored: Mutex<HashMap<(GatewayName, AgentId), Stored>>,
    journal: Mutex<Vec<(AgentId, LifecycleEvent)>>,
}

impl TokenSource for World {
    fn mint(&self, _gateway: &GatewayName, agent_id: &AgentId) -> SecretString {
        format!("token{agent_id}").into()
    }

    fn accept(&self, _gateway: &GatewayName, _agent_id: &AgentId, _token: &SecretString) {}

    fn revoke(&self, _gateway: &GatewayName, _agent_id: &AgentId) {}
}

impl SessionStore for World {
    fn load(&self, gateway: &GatewayName, agent_id: &AgentId) -> Option<Stored> {
        self.stored.lock().expect("nobody panics").get(&(gateway.clone(), agent_id.clone())).cloned()
    }

    fn unlisted(&self) -> Vec<(GatewayName, AgentId)> {
        Vec::new()
    }

    fn take_unclaimed(&self) -> Vec<(GatewayName, AgentId)> {
        Vec::new()
    }

    fn save<'a>(
        &'a self,
        gateway: &'a GatewayName,
        agent_id: &'a AgentId,
        session: Option<Stored>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let key = (gateway.clone(), agent_id.clone());
        let mut stored = self.stored.lock().expect("nobody panics");
        match session {
            Some(session) => drop(stored.insert(key, session)),
            None => drop(stored.remove(&key)),
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

impl EventStore for World {
    fn store<'a>(
        &'a self,
        _gateway: &'a GatewayName,
        _agent_id: &'a AgentId,
        _answer: bytes::Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Journal for World {
    fn record(&self, _gateway: &GatewayName, agent_id: &AgentId, event: LifecycleEvent) {
        self.journal.lock().expect("nobody panics").push((agent_id.clone(), event));
    }
}

/// Sessions on a runtime of their own, which can be killed.
struct Daemon {
    sessions: Sessions,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    fn start(config: &SessionsConfig, world: &Arc<World>, metrics: &Metrics) -> Daemon {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let deps = Deps {
            tokens: world.clone(),
            store: world.clone(),
            journal: world.clone(),
            events: world.clone(),
            metrics: metrics.clone(),
            clock: Clock::system(),
        };
        let entered = runtime.enter();
        let sessions = Sessions::start(config.clone(), deps).expect("the clients can be set up");
        drop(entered);
        Daemon { sessions, runtime: Some(runtime) }
    }

    /// As by kill -9: nothing more is said to anybody, and nothing saved.
    fn kill(mut self) {
        self.runtime.take().expect("it runs").shutdown_background();
    }

    fn in_state(&self, gateway: &str, state: &str) -> usize {
        let views = self.sessions.list();
        views.iter().filter(|view| view.gateway.as_str() == gateway && view.state == state).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A gateway that takes pushes to nowhere for good: these tests are about sessions.
fn settings(agents: std::ops::RangeInclusive<u32>) -> Settings {
    let mut settings = Settings::local();
    settings.agents = vec![Agents::range(*agents.start(), *agents.end(), PASSWORD)];
    settings.timeout_flag = ccrelay::simulate::settings::Switch::On;
    settings.push_fail_total_ms = 3_600_000;
    settings.push_fail_interval_ms = 60_000;
    settings.keep_ledger = false;
    settings
}

/// The configuration of `gateways`, each with its agents and further keys.
fn config(
    folder: &std::path::Path,
    gateways: &[(&str, &Simulator, std::ops::RangeInclusive<u32>, &str)],
) -> SessionsConfig {
    let (mut raw_gateways, mut raw_agents) = (Vec::new(), Vec::new());
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD).expect("the folder can be written");
    for (name, simulator, agents, keys) in gateways {
        let ca = folder.join(format!("{name}-ca.pem"));
        std::fs::write(&ca, simulator.ca_pem().expect("a certificate was made"))
            .expect("the folder can be written");
        let text = format!(
            "name = \"{name}\"\nbase_url = \"{}\"\nca_file = \"{}\"\ncallback_uri = \"https://127.0.0.1:1/push/{name}\"\n{keys}",
            simulator.base_url(),
            ca.display(),
        );
        raw_gateways.push(toml::from_str(&text).expect("a gateway"));
        for id in agents.clone() {
            let text = format!(
                "gateway = \"{name}\"\nid = \"{id}\"\npassword_file = \"{}\"\nphone_number = \"7{id}\"\n",
                password.display()
            );
            raw_agents.push(toml::from_str(&text).expect("an agent"));
        }
    }
    let mut problems = ccrelay::config::Problems::default();
    let config = ccrelay::session::config::validate(raw_gateways, raw_agents, &mut problems);
    assert!(problems.found().is_empty(), "{:?}", problems.found());
    config
}

fn sign_ins(metrics: &Metrics, gateway: &str, outcome: &str) -> u64 {
    metrics.sign_ins.with_label_values(&[gateway, outcome]).get()
}

/// Heartbeats that were not answered with success.
fn failed_heartbeats(metrics: &Metrics, gateway: &str) -> u64 {
    let failures = ccrelay::metrics::HEARTBEAT_OUTCOMES.iter().filter(|outcome| **outcome != "ok");
    failures.map(|outcome| metrics.heartbeats.with_label_values(&[gateway, *outcome]).get()).sum()
}

async fn all_active(daemon: &Daemon, gateway: &str, count: usize) {
    eventually("all agents are active", DEADLINE, || async {
        (daemon.in_state(gateway, "active") == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_agents_come_back_after_the_gateways_restart_at_the_rate_and_without_a_storm() {
    const AGENTS: usize = 2_000;
    const RATE: u32 = 250;
    const HEARTBEAT: Duration = Duration::from_secs(5);
    /// For a machine on which much else runs; alone the arithmetic is met within a second or two.
    const MARGIN: Duration = Duration::from_secs(30);
    let simulator = Simulator::start(settings(1..=2000)).await.expect("the simulator starts");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "heartbeat_interval_secs = 5\nsign_in_rate_per_sec = 250\n";
    let config = config(folder.path(), &[("main", &simulator, 1..=2000, keys)]);
    let (world, metrics) = (Arc::new(World::default()), Metrics::new(["main"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    all_active(&daemon, "main", AGENTS).await;

    simulator.forget_sessions();
    let restart = Instant::now();
    eventually("all agents are signed in again", DEADLINE, || async {
        let again = simulator.statistics().total.sign_ins.saturating_sub(AGENTS as u64);
        let most = f64::from(RATE) * (restart.elapsed().as_secs_f64() + 0.2);
        assert!(again as f64 <= most, "{again} sign-ins after {:?}", restart.elapsed());
        (again >= AGENTS as u64).then_some(())
    })
    .await;
    let took = restart.elapsed();
    all_active(&daemon, "main", AGENTS).await;
    // The last is found out a heartbeat later, waits the first step of the back-off, and has the last turn.
    let arithmetic = HEARTBEAT * 11 / 10 + Duration::from_secs(1) + Duration::from_secs(AGENTS as u64) / RATE;
    assert!(took <= arithmetic + MARGIN, "{took:?} where {arithmetic:?} would do");
    println!("all {AGENTS} agents were back after {took:?}; the arithmetic says {arithmetic:?}");

    let statistics = simulator.statistics();
    let twice = statistics.agents.values().filter(|counts| counts.sign_ins == 2).count();
    assert_eq!((twice, statistics.signed_in), (AGENTS, AGENTS), "each agent has signed in twice");
    assert_eq!(sign_ins(&metrics, "main", "ok"), 2 * AGENTS as u64);
    for outcome in ["taken_over", "refused", "suspended", "timeout", "transport"] {
        assert_eq!(sign_ins(&metrics, "main", outcome), 0, "{outcome}");
    }
    drop(daemon);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_and_started_again_signs_nobody_in_or_out() {
    const AGENTS: usize = 300;
    let mut settings = settings(1..=300);
    settings.guid_interval_ms = 3_000;
    settings.guid_timeout_ms = 20_000;
    settings.handshake_max_time_ms = 20_000;
    settings.cookies = true;
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "heartbeat_interval_secs = 1\nguid_interval_secs = 3\nsign_out_limit_secs = 20\ncall_deadline_secs = 5\n\
                sign_in_rate_per_sec = 300\n";
    let config = config(folder.path(), &[("main", &simulator, 1..=300, keys)]);
    let (world, metrics) = (Arc::new(World::default()), Metrics::new(["main"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    all_active(&daemon, "main", AGENTS).await;
    let mut daemon = Some(daemon);
    for round in 1..=3 {
        let renewed = metrics.guid_changes.with_label_values(&["main"]).get();
        eventually("GUIDs are renewed", DEADLINE, || async {
            let now = metrics.guid_changes.with_label_values(&["main"]).get();
            (now >= renewed + AGENTS as u64).then_some(())
        })
        .await;
        daemon.take().expect("one runs").kill();
        let again = Daemon::start(&config, &world, &metrics);
        eventually("all sessions are resumed", DEADLINE, || async {
            (sign_ins(&metrics, "main", "resumed") >= round * AGENTS as u64).then_some(())
        })
        .await;
        assert_eq!(again.in_state("main", "active"), AGENTS);
        daemon = Some(again);
    }
    let total = simulator.statistics().total;
    assert_eq!(total.sign_ins, AGENTS as u64, "{total:?}");
    for reason in [SignOut::TakenOver, SignOut::HeartbeatSilence, SignOut::PushFailure, SignOut::Asked] {
        assert_eq!(total.signed_out(reason), 0, "{reason:?}");
    }
    let losses = ccrelay::metrics::SESSION_LOSS_REASONS.iter();
    let losses = losses.map(|reason| metrics.session_losses.with_label_values(&["main", *reason]).get());
    assert_eq!(losses.sum::<u64>(), 0);
    drop(daemon);
    simulator.stop().await;
}

/// Kills the daemon when the oldest GUID has this age, and starts it again after what stands for a minute: the gateway's
/// times are a tenth of its usual ones.
async fn away_for_a_minute_at(age: Duration) {
    const AGENTS: usize = 40;
    const AWAY: Duration = Duration::from_secs(6);
    let mut settings = settings(1..=40);
    settings.guid_interval_ms = 6_000;
    settings.guid_timeout_ms = 12_000;
    settings.handshake_max_time_ms = 12_000;
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "heartbeat_interval_secs = 3\nguid_interval_secs = 6\nsign_out_limit_secs = 12\ncall_deadline_secs = 4\n\
                sign_in_rate_per_sec = 400\n";
    let config = config(folder.path(), &[("main", &simulator, 1..=40, keys)]);
    let (world, metrics) = (Arc::new(World::default()), Metrics::new(["main"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    all_active(&daemon, "main", AGENTS).await;
    eventually("all GUIDs were renewed", DEADLINE, || async {
        (metrics.guid_changes.with_label_values(&["main"]).get() >= AGENTS as u64).then_some(())
    })
    .await;
    eventually("the oldest GUID is as old as wanted", DEADLINE, || async {
        let ages = daemon.sessions.list().into_iter().filter_map(|view| view.guid_age_secs);
        (ages.fold(0.0, f64::max) >= age.as_secs_f64()).then_some(())
    })
    .await;
    daemon.kill();
    tokio::time::sleep(AWAY).await;
    let daemon = Daemon::start(&config, &world, &metrics);
    eventually("all sessions are resumed", DEADLINE, || async {
        (sign_ins(&metrics, "main", "resumed") >= AGENTS as u64).then_some(())
    })
    .await;
    assert_eq!(daemon.in_state("main", "active"), AGENTS);
    assert_eq!(simulator.statistics().total.sign_ins, AGENTS as u64, "killed at an age of {age:?}");
    let losses = ccrelay::metrics::SESSION_LOSS_REASONS.iter();
    let losses = losses.map(|reason| metrics.session_losses.with_label_values(&["main", *reason]).get());
    assert_eq!(losses.sum::<u64>(), 0, "killed at an age of {age:?}");
    drop(daemon);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_between_kill_and_start_costs_no_session_however_old_its_guid_was() {
    // The last is the worst: a new one is asked for at 4.5 s.
    let at = |millis| away_for_a_minute_at(Duration::from_millis(millis));
    tokio::join!(at(200), at(1_500), at(3_000), at(4_350));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_down_touches_no_agent_of_another() {
    const AGENTS: usize = 100;
    let first = Simulator::start(settings(1..=100)).await.expect("the simulator starts");
    let second = Simulator::start(settings(1..=100)).await.expect("the simulator starts");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "heartbeat_interval_secs = 1\nsign_out_limit_secs = 60\ncall_deadline_secs = 5\nsign_in_rate_per_sec = 200\n";
    let gateways = [("first", &first, 1..=100, keys), ("second", &second, 1..=100, keys)];
    let config = config(folder.path(), &gateways);
    let (world, metrics) =
        (Arc::new(World::default()), Metrics::new(["first", "second"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    all_active(&daemon, "first", AGENTS).await;
    all_active(&daemon, "second", AGENTS).await;

    first.pause_listening().await;
    let beats = second.statistics().total.heartbeats;
    eventually("the outage is met by all, and the others go on", DEADLINE, || async {
        let met = failed_heartbeats(&metrics, "first") >= 2 * AGENTS as u64;
        (met && second.statistics().total.heartbeats >= beats + 4 * AGENTS as u64).then_some(())
    })
    .await;
    assert_eq!(daemon.in_state("second", "active"), AGENTS);
    assert_eq!(failed_heartbeats(&metrics, "second"), 0);

    first.resume_listening().await.expect("the port is still free");
    let beats = first.statistics().total.heartbeats;
    assert!(first.wait_for(DEADLINE, |s| s.total.heartbeats >= beats + 2 * AGENTS as u64).await);
    assert_eq!(daemon.in_state("first", "active"), AGENTS);
    for simulator in [first, second] {
        assert_eq!(simulator.statistics().total.sign_ins, AGENTS as u64, "nobody signed in again");
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_with_its_sessions_and_comes_back_suspends_nobody() {
    const AGENTS: usize = 20;
    let simulator = Simulator::start(settings(1..=20)).await.expect("the simulator starts");
    let backup = simulator.add_node().await.expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let keys = format!(
        "heartbeat_interval_secs = 1\nsign_out_limit_secs = 60\ncall_deadline_secs = 5\nsign_in_rate_per_sec = 200\n\
         backup_base_urls = [\"{backup}\"]\n"
    );
    let config = config(folder.path(), &[("main", &simulator, 1..=20, &keys)]);
    let (world, metrics) = (Arc::new(World::default()), Metrics::new(["main"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    all_active(&daemon, "main", AGENTS).await;

    simulator.pause_listening().await;
    eventually("all are signed in at the other node", DEADLINE, || async {
        (sign_ins(&metrics, "main", "taken_over") == AGENTS as u64).then_some(())
    })
    .await;
    all_active(&daemon, "main", AGENTS).await;
    simulator.resume_listening().await.expect("the port is still free");
    let beats = simulator.statistics().total.heartbeats;
    assert!(simulator.wait_for(DEADLINE, |s| s.total.heartbeats >= beats + 4 * AGENTS as u64).await);
    assert_eq!(daemon.in_state("main", "active"), AGENTS);
    let lost = |reason| metrics.session_losses.with_label_values(&["main", reason]).get();
    assert_eq!((lost("other_address"), lost("timed_out")), (AGENTS as u64, 0));
    assert_eq!(sign_ins(&metrics, "main", "suspended"), 0);
    drop(daemon);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_set_up_after_each_sign_in_and_not_after_a_restart() {
    /// What `agentstatus` says of who is busy.
    const BUSY: u8 = 3;
    let mut settings = settings(1..=3);
    settings.keep_ledger = true;
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    // The first is refused; the second passes; the third is done, so that the agent is busy when it is asked again.
    for (operation, agent, kind) in [
        (Operation::AutoAnswer, "1", FaultKind::Retcode("000-002".into())),
        (Operation::AutoAnswer, "2", FaultKind::Retcode("100-007".into())),
        (Operation::SayBusy, "3", FaultKind::DropAnswer),
    ] {
        simulator.inject(Fault::next(operation, 1, kind).of(agent));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let keys = "heartbeat_interval_secs = 1\n[agent_defaults]\nafter_sign_in_autoanswer = true\n\
                after_sign_in_state = \"busy\"\nafter_sign_in_busy_reason = 201\n";
    let config = config(folder.path(), &[("main", &simulator, 1..=3, keys)]);
    let (world, metrics) = (Arc::new(World::default()), Metrics::new(["main"], []).expect("metrics"));
    let daemon = Daemon::start(&config, &world, &metrics);
    let ids = ["1", "2", "3"].map(|id| AgentId::parse(id).expect("an id"));
    // How often each was made busy for our reason.
    let made_busy = || {
        ids.each_ref().map(|id| {
            let ledger = simulator.ledger_of(id);
            let ours =
                |json: &str| json.contains("AgentState_SetNotReady_Success") && json.contains("\"201\"");
            ledger.iter().filter(|entry| ours(&entry.json)).count()
        })
    };
    let all_set_up = || async {
        let busy = |id| simulator.session(id).is_some_and(|session| session.agent_state == BUSY);
        let stored = world.stored.lock().expect("nobody panics");
        let saved =
            stored.len() == 3 && stored.values().all(|one| one.session().is_some_and(|s| !s.settings_due));
        (saved && ids.iter().all(busy)).then_some(())
    };
    eventually("all agents are set up", DEADLINE, all_set_up).await;
    assert_eq!(made_busy(), [1, 1, 2]);
    let degraded = |daemon: &Daemon| {
        let views = daemon.sessions.list();
        ids.each_ref()
            .map(|id| views.iter().find(|view| view.agent_id == *id).expect("it is there").degraded.clone())
    };
    assert_eq!(degraded(&daemon), [vec!["settings_refused"], vec![], vec![]]);

    daemon.kill();
    let daemon = Daemon::start(&config, &world, &metrics);
    let beats = simulator.statistics().total.heartbeats;
    assert!(simulator.wait_for(DEADLINE, |s| s.total.heartbeats >= beats + 9).await);
    assert_eq!((sign_ins(&metrics, "main", "resumed"), made_busy()), (3, [1, 1, 2]));

    simulator.forget_sessions();
    eventually("all agents are made busy again", DEADLINE, || async {
        (made_busy() == [2, 2, 3]).then_some(())
    })
    .await;
    eventually("all agents are set up again", DEADLINE, all_set_up).await;
    assert_eq!(degraded(&daemon), [vec![""; 0], vec![], vec![]]);
    assert_eq!(sign_ins(&metrics, "main", "ok"), 6);
    drop(daemon);
    simulator.stop().await;
}

/// A relay of its own process and a gateway whose GUIDs change every two seconds.
async fn relay_and_gateway(change: impl FnOnce(&mut Settings)) -> (Relay, Simulator) {
    let relay = Relay::prepare();
    let mut settings = Settings::local();
    settings.guid_interval_ms = 2_000;
    settings.guid_timeout_ms = 20_000;
    settings.handshake_max_time_ms = 20_000;
    settings.push_fail_interval_ms = 500;
    settings.push_fail_total_ms = 20_000;
    settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
    settings.agents = vec![Agents::range(1001, 1050, PASSWORD)];
    change(&mut settings);
    let simulator = Simulator::start(settings).await.expect("the simulator starts");
    relay.configure(&Wiring {
        gateway_url: &simulator.base_url(),
        gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
        agents: 1001..=1050,
        password: PASSWORD,
        tables: "",
    });
    (relay, simulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_push_is_refused_while_guids_and_the_secret_of_tokens_change_under_load() {
    let (mut relay, simulator) = relay_and_gateway(|_| {}).await;
    let (old, new) = (relay.folder().join("old"), relay.folder().join("new"));
    std::fs::write(&old, "the secret of yesterday has forty characters").expect("the folder can be written");
    std::fs::write(&new, "the secret of today has more than forty bytes").expect("the folder can be written");
    relay.edit("[token]\n", &format!("[token]\nsecret_file = \"{}\"\n", old.display()));
    relay.start().await;
    assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 50).await, "{}", relay.log());
    simulator.play(4.0);
    let more = |events: u64| {
        let goal = simulator.statistics().total.delivered + events;
        simulator.wait_for(DEADLINE, move |s| s.total.delivered >= goal)
    };
    assert!(more(800).await, "{}", relay.log());
    assert_eq!(relay.metric("ccrelay_push_failures_total{").await, 0.0);
    relay.stop().await;

    // The new secret mints, the one before still checks: tokens of both are on their way now.
    let both = format!("secret_file = \"{}\"\nprevious_secret_file = \"{}\"", new.display(), old.display());
    relay.edit(&format!("secret_file = \"{}\"", old.display()), &both);
    relay.start().await;
    assert!(more(800).await, "{}", relay.log());
    assert_eq!(relay.metric("ccrelay_push_failures_total{").await, 0.0);
    // Each agent's heartbeat takes a token of the new secret to the gateway: the old one has to stay for that long.
    eventually("heartbeats and new GUIDs of all agents", DEADLINE, || async {
        let beats = relay.metric("ccrelay_heartbeats_total{gateway=\"main\",outcome=\"ok\"}").await;
        let guids = relay.metric("ccrelay_guid_changes_total{").await;
        (beats >= 500.0 && guids >= 100.0).then_some(())
    })
    .await;
    relay.stop().await;

    // By now the gateway has tokens of the new secret alone.
    relay.edit(&format!("\nprevious_secret_file = \"{}\"", old.display()), "");
    relay.start().await;
    assert!(more(400).await, "{}", relay.log());
    assert_eq!(relay.metric("ccrelay_push_failures_total{").await, 0.0);
    assert_eq!(simulator.statistics().total.sign_ins, 50, "each agent signed in once");
    relay.stop().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_trust_list_leaves_us_out_is_noticed_and_the_log_says_what_to_look_at() {
    let (mut relay, simulator) = relay_and_gateway(|settings| {
        settings.callback_trust_list = "https://elsewhere.example/push".into();
        // Nobody is to be signed out for it while the test looks on.
        settings.push_fail_total_ms = 600_000;
    })
    .await;
    relay.edit("heartbeat_interval_secs", "push_silence_limit_secs = 2\nheartbeat_interval_secs");
    relay.start().await;
    assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 50).await, "{}", relay.log());
    eventually("all agents are degraded", DEADLINE, || async {
        let silent = relay.metric("ccrelay_sessions_degraded{gateway=\"main\",reason=\"no_pushes\"}").await;
        (silent == 50.0).then_some(())
    })
    .await;
    assert_eq!(relay.metric("ccrelay_sessions{gateway=\"main\",state=\"active\"}").await, 50.0);
    let log = relay.log();
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("EVENT_PUST_WHITELIST_CALLBACKURI")).collect();
    assert!(
        (1..=3).contains(&warnings.len()),
        "one warning for all that fall silent together: {warnings:#?}"
    );
    assert!(warnings[0].contains("truststore") && warnings[0].contains("callback_uri"), "{}", warnings[0]);

    simulator.trust_callbacks();
    eventually("nobody is degraded once the list is right", DEADLINE, || async {
        let silent = relay.metric("ccrelay_sessions_degraded{gateway=\"main\",reason=\"no_pushes\"}").await;
        (silent == 0.0).then_some(())
    })
    .await;
    assert_eq!(simulator.statistics().total.sign_ins, 50, "and nobody had to sign in anew");
    relay.stop().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_who_is_signed_in_without_voice_is_warned_of_by_name_and_others_are_not() {
    let (mut relay, simulator) = relay_and_gateway(|settings| {
        let mut silent = Agents::range(1050, 1050, PASSWORD);
        silent.mediatype = "FTF".to_owned();
        settings.agents = vec![Agents::range(1001, 1049, PASSWORD), silent];
    })
    .await;
    relay.start().await;
    assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 50).await, "{}", relay.log());
    eventually("all are active", DEADLINE, || async {
        let active = relay.metric("ccrelay_sessions{gateway=\"main\",state=\"active\"}").await;
        (active == 50.0).then_some(())
    })
    .await;
    let log = relay.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("no voice calls come")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("1050") && warnings[0].contains("WARN"),
        "{warnings:#?}"
    );
    relay.stop().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_gateway_pushes_to_its_push_url_and_a_kill_costs_neither_session_nor_token() {
    let (mut relay, simulator) = relay_and_gateway(|settings| {
        settings.push_shape = PushShape::Legacy;
        settings.auth_mode = 1;
    })
    .await;
    relay.edit("[[agents]]\n", "[[agents]]\nmode = \"legacy-push\"\n");
    relay.start().await;
    assert!(simulator.wait_for(DEADLINE, |s| s.signed_in == 50).await, "{}", relay.log());
    let pushed = |more: u64| {
        let goal = simulator.statistics().total.delivered + more;
        simulator.wait_for(DEADLINE, move |s| s.total.delivered >= goal)
    };
    simulator.play(2.0);
    assert!(pushed(300).await, "{}", relay.log());
    let beats = simulator.statistics().total.heartbeats;
    assert!(simulator.wait_for(DEADLINE, |s| s.total.heartbeats >= beats + 150).await, "{}", relay.log());
    assert_eq!(relay.metric("ccrelay_push_failures_total{").await, 0.0);
    relay.kill9().await;
    relay.start().await;
    assert!(pushed(300).await, "{}", relay.log());
    assert_eq!(relay.metric("ccrelay_push_failures_total{").await, 0.0, "{}", relay.log());
    assert_eq!(simulator.statistics().total.sign_ins, 50, "each agent signed in once");
    assert!(!relay.log().contains("token="), "{}", relay.log());
    relay.stop().await;
    simulator.stop().await;
}
