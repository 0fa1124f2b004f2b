//! Word to the service manager that started this process (`sd_notify(3)`): still starting, ready, reloading, stopping, a line of status,
//! and signs of life for its watchdog.
//!
//! One datagram for each word, to the socket that `NOTIFY_SOCKET` names; without one nothing is sent. Nothing here waits:
//! a word that the manager does not take at once is left out, the next one follows soon.
//!
//! **What a sign of life proves.** It is sent at half of `WATCHDOG_USEC`, and only after a question that went through the
//! spool's queue was answered. So timers fire, tasks run and are woken, the writer's thread lives, and everything that was
//! handed to the spool before the question is committed and answered: neither a runtime nor a disk that hangs can send it. A
//! full disk refuses and answers, so it is not killed for that. It proves nothing of brokers, whose silence a
//! restart does not mend, nor that the gateway gets through to the listener.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::calm::Calm;
use crate::event::GatewayName;
use crate::metrics::{Metrics, SESSION_STATES};
use crate::spool::Spool;

/// How often the line of status is made anew.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How long a start that gets on may then be silent: what the service unit gives it at first.
const STILL_STARTING: Duration = Duration::from_secs(300);

/// A `NOTIFY_SOCKET` or `WATCHDOG_USEC` that is of no use.
#[derive(Debug, Error)]
pub enum NotifyError {
    /// Neither a path nor an abstract name.
    #[error("NOTIFY_SOCKET is no absolute path and no name after @")]
    Address,
    /// No socket can be made.
    #[error("no socket for NOTIFY_SOCKET")]
    Socket(#[source] std::io::Error),
    /// Not a number.
    #[error("WATCHDOG_USEC is no number of microseconds")]
    Watchdog,
}

/// The service manager, or nobody; cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The longest silence that it bears.
    watchdog: Option<Duration>,
    calm: Calm,
}

impl Notifier {
    /// Whoever the environment names.
    ///
    /// # Errors
    /// When it names somebody who cannot be spoken to.
    pub fn from_environment() -> Result<Notifier, NotifyError> {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Notifier::default());
        };
        let text = |name: &str| std::env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref())?;
        Notifier::new(&socket, watchdog)
    }

    fn new(name: &OsStr, watchdog: Option<Duration>) -> Result<Notifier, NotifyError> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name).map_err(NotifyError::Socket)?,
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).map_err(NotifyError::Socket)?,
            _ => return Err(NotifyError::Address),
        };
        let socket = UnixDatagram::unbound().map_err(NotifyError::Socket)?;
        socket.set_nonblocking(true).map_err(NotifyError::Socket)?;
        Ok(Notifier { manager: Some(Arc::new(Manager { socket, address, watchdog, calm: Calm::default() })) })
    }

    /// Files are being read anew; ready follows, whatever comes of it.
    pub fn reloading(&self) {
        // A manager that waits for it (`Type=notify-reload`) tells an old word from a new one by the time.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// Pushes are taken.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The start takes long, and gets on.
    pub fn still_starting(&self) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", STILL_STARTING.as_micros()));
    }

    /// Tells the manager how it stands until the stop, and that.
    pub async fn report(
        self,
        metrics: Metrics,
        spool: Spool,
        gateways: Vec<GatewayName>,
        stop: CancellationToken,
    ) {
        let Some(manager) = &self.manager else { return stop.cancelled().await };
        let watchdog = manager.watchdog.map(|silence| silence / 2);
        self.ready();
        let life = async {
            match watchdog {
                Some(interval) => self.show_life(&spool, interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.show_status(&metrics, &spool, &gateways) => {}
            () = life => {}
            () = stop.cancelled() => {}
        }
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    async fn show_status(&self, metrics: &Metrics, spool: &Spool, gateways: &[GatewayName]) {
        let mut ticks = interval_at(Instant::now(), STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let status = status(metrics, spool, gateways);
            if status != told {
                self.send(&format!("STATUS={status}"));
                told = status;
            }
        }
    }

    /// Ends when the spool has failed, of which others take care.
    async fn show_life(&self, spool: &Spool, interval: Duration) {
        let mut ticks = interval_at(Instant::now(), interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut answer = std::pin::pin!(spool.pulse());
            let answered = match tokio::time::timeout(interval, answer.as_mut()).await {
                Ok(answered) => answered,
                Err(_) => {
                    tracing::error!(
                        waited_secs = interval.as_secs(),
                        "the spool does not answer: the service manager gets no sign of life"
                    );
                    answer.await
                }
            };
            if answered.is_err() {
                return std::future::pending().await;
            }
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, word: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.socket.send_to_addr(word.as_bytes(), &manager.address)
            && let Some(left_out) = manager.calm.due("deaf")
        {
            tracing::warn!(%error, left_out, "the service manager does not listen");
        }
    }
}

/// The longest silence that the manager bears, of this process.
fn watchdog(micros: Option<&str>, pid: Option<&str>) -> Result<Option<Duration>, NotifyError> {
    let other = pid.is_some_and(|pid| pid != std::process::id().to_string());
    let Some(micros) = micros.filter(|_| !other) else { return Ok(None) };
    let micros: u64 = micros.parse().map_err(|_| NotifyError::Watchdog)?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

/// How it stands, in a line: `systemctl status` shows it.
fn status(metrics: &Metrics, spool: &Spool, gateways: &[GatewayName]) -> String {
    let sinks = spool.cursors();
    let delivers = |sink: &str| metrics.sink_state.with_label_values(&[sink]).get() == 1;
    let delivering = sinks.iter().filter(|(sink, _)| delivers(sink)).count();
    let (mut active, mut agents) = (0, 0);
    for (gateway, state) in
        gateways.iter().flat_map(|gateway| SESSION_STATES.iter().map(move |s| (gateway, *s)))
    {
        let count = metrics.sessions.with_label_values(&[gateway.as_str(), state]).get();
        agents += count;
        active += if state == "active" { count } else { 0 };
    }
    let full = metrics.spool_fill_ratio.get() * 100.0;
    let sinks = sinks.len();
    format!(
        "{delivering} of {sinks} sinks deliver, {active} of {agents} agents signed in, spool {full:.0}% full"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names_and_for_nobody_else() {
        let own = std::process::id().to_string();
        assert_eq!(watchdog(Some("3000000"), Some(&own)).unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), None).unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), Some("1")).unwrap(), None);
        assert_eq!(watchdog(Some("0"), None).unwrap(), None);
        assert_eq!(watchdog(None, None).unwrap(), None);
        assert!(matches!(watchdog(Some("soon"), None), Err(NotifyError::Watchdog)));
    }

    #[test]
    fn words_go_to_a_path_or_an_abstract_name_and_nowhere_else() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("manager");
        let heard = UnixDatagram::bind(&path).unwrap();
        Notifier::new(path.as_os_str(), None).unwrap().ready();
        let mut word = [0; 64];
        let length = heard.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"READY=1");
        Notifier::new(path.as_os_str(), None).unwrap().still_starting();
        let length = heard.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"EXTEND_TIMEOUT_USEC=300000000");

        let name = format!("ccrelay-notify-{}", std::process::id());
        let heard = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::new(OsStr::new(&format!("@{name}")), None).unwrap().reloading();
        let length = heard.recv(&mut word).unwrap();
        assert!(word[..length].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
        for nowhere in ["relative", "vsock:2:1234"] {
            assert!(matches!(Notifier::new(OsStr::new(nowhere), None), Err(NotifyError::Address)));
        }
    }

    #[tokio::test]
    async fn a_manager_that_is_full_or_gone_holds_up_nobody() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("manager");
        let deaf = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str(), None).unwrap();
        for _ in 0..10_000 {
            notifier.ready();
        }
        drop(deaf);
        notifier.ready();
    }
}
