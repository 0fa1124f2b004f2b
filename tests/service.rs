//! The real binary under a service manager: what it says on `NOTIFY_SOCKET`, and what it falls silent for.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use ccrelay::simulate::settings::Agents;
use ccrelay::simulate::{Settings, Simulator};
use nix::sys::signal::Signal;

#[path = "it/support/mod.rs"]
mod support;

use support::DEADLINE;
use support::relay::{Relay, Wiring};

const PASSWORD: &str = "a-password";
const AGENTS: std::ops::RangeInclusive<u32> = 1001..=1003;
/// The watchdog bears so long a silence; half of it is the pace of signs of life.
const WATCHDOG: Duration = Duration::from_secs(1);

/// A relay with a service manager, which is the test.
struct Scene {
    relay: Relay,
    simulator: Simulator,
    socket: UnixDatagram,
}

impl Scene {
    async fn start() -> Scene {
        let mut relay = Relay::prepare();
        let mut settings = Settings::local();
        settings.eventpush.ssl.cert.pem = Some(relay.ca_pem());
        settings.agents = vec![Agents::range(*AGENTS.start(), *AGENTS.end(), PASSWORD)];
        settings.mark_events = true;
        let simulator = Simulator::start(settings).await.expect("the simulator starts");
        relay.configure(&Wiring {
            gateway_url: &simulator.base_url(),
            gateway_ca: simulator.ca_pem().expect("the simulator made a certificate"),
            agents: AGENTS,
            password: PASSWORD,
            tables: &format!("[sinks.file.jsonl]\npath = \"{}/events.jsonl\"\n", relay.folder().display()),
        });
        let path = relay.folder().join("manager");
        let socket = UnixDatagram::bind(&path).expect("the folder takes a socket");
        let environment = [
            "env".to_owned(),
            format!("NOTIFY_SOCKET={}", path.display()),
            format!("WATCHDOG_USEC={}", WATCHDOG.as_micros()),
        ];
        relay.wrapper = environment.to_vec();
        relay.launch();
        Scene { relay, simulator, socket }
    }

    /// The next word; none when none comes in the time.
    async fn word(&self, within: Duration) -> Option<String> {
        let socket = self.socket.try_clone().expect("a socket can be shared");
        let receive = tokio::task::spawn_blocking(move || {
            socket.set_read_timeout(Some(within)).expect("a time-out can be set");
            let mut word = [0; 512];
            let length = socket.recv(&mut word).ok()?;
            Some(String::from_utf8_lossy(&word[..length]).into_owned())
        });
        receive.await.expect("it does not panic")
    }

    /// Waits for a word that begins so, and gives it with those before it.
    async fn until(&self, begin: &str) -> Vec<String> {
        let (mut words, since) = (Vec::new(), Instant::now());
        while since.elapsed() < DEADLINE {
            self.relay.running().assert_alive();
            let Some(word) = self.word(Duration::from_secs(1)).await else { continue };
            let found = word.starts_with(begin);
            words.push(word);
            if found {
                return words;
            }
        }
        panic!("{begin} was not said, but {words:?}:\n{}", self.relay.log());
    }

    /// Everything that is said in this time.
    async fn during(&self, time: Duration) -> Vec<String> {
        let (mut words, since) = (Vec::new(), Instant::now());
        while let Some(left) = time.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
            words.extend(self.word(left).await);
        }
        words
    }
}

fn signs_of_life(words: &[String]) -> usize {
    words.iter().filter(|word| *word == "WATCHDOG=1").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_start_state_reload_and_stop() {
    let mut scene = Scene::start().await;
    // Pushes are taken when it says so, not before.
    let words = scene.until("READY=1").await;
    assert_eq!(words, ["READY=1"]);
    assert!(scene.relay.probe().is_ready().await);

    scene.until("STATUS=1 of 1 sinks deliver, 3 of 3 agents signed in, spool 0% full").await;

    scene.relay.running().signal(Signal::SIGHUP);
    let reloading = scene.until("RELOADING=1").await;
    let micros = reloading.last().and_then(|word| word.split_once("\nMONOTONIC_USEC="));
    let (_, micros) = micros.expect("it says when");
    assert!(micros.parse::<u64>().is_ok_and(|micros| micros > 0), "{micros}");
    scene.until("READY=1").await;

    // A reload that is refused ends too.
    scene.relay.edit("[token]\nperiod_secs = 1\n", "[token]\nperiod_secs = 0\n");
    scene.relay.running().signal(Signal::SIGHUP);
    scene.until("RELOADING=1").await;
    scene.until("READY=1").await;

    scene.relay.running().signal(Signal::SIGTERM);
    scene.until("STOPPING=1\nSTATUS=stopping").await;
    assert_eq!(scene.relay.ended(DEADLINE).await, 0, "{}", scene.relay.log());
    assert_eq!(signs_of_life(&scene.during(WATCHDOG).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_stop_when_the_spool_does_not_get_on_and_come_again_with_it() {
    let mut scene = Scene::start().await;
    scene.until("READY=1").await;
    scene.until("WATCHDOG=1").await;
    // Idle, and under load.
    for rate in [0.0, 20.0] {
        if rate > 0.0 {
            let all = AGENTS.count();
            assert!(scene.simulator.wait_for(DEADLINE, |s| s.signed_in == all).await);
            scene.simulator.play(rate);
        }
        let words = scene.during(WATCHDOG * 3).await;
        assert!(signs_of_life(&words) >= 3, "{words:?}");
    }

    // Another process holds the database, as a disk that hangs would: the writer waits inside its commit.
    let database = scene.relay.folder().join("spool/spool.db");
    let other = rusqlite::Connection::open(database).expect("the database is there");
    other.busy_timeout(DEADLINE).expect("a time-out can be set");
    other.execute_batch("BEGIN IMMEDIATE").expect("the writer lets others in between its commits");
    // What was answered before may still be under way.
    scene.during(WATCHDOG / 2).await;
    let words = scene.during(WATCHDOG * 2).await;
    assert_eq!(signs_of_life(&words), 0, "{words:?}");
    assert!(scene.relay.probe().is_ready().await, "the rest of it goes on");
    assert!(scene.relay.log().contains("gets no sign of life"), "{}", scene.relay.log());

    other.execute_batch("ROLLBACK").expect("nothing was written");
    scene.until("WATCHDOG=1").await;
    scene.simulator.stop_playing();
    assert_eq!(scene.relay.stop().await, 0, "{}", scene.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notify_socket_that_cannot_be_meant_is_said_at_the_start() {
    let mut scene = Scene::start().await;
    scene.until("READY=1").await;
    assert_eq!(scene.relay.stop().await, 0);
    scene.relay.wrapper = ["env", "NOTIFY_SOCKET=nowhere"].map(str::to_owned).to_vec();
    scene.relay.launch();
    assert_eq!(scene.relay.ended(DEADLINE).await, 1);
    assert!(scene.relay.log().contains("NOTIFY_SOCKET is no absolute path"), "{}", scene.relay.log());
}
