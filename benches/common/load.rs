//! The load: the same for every server, over TLS connections that stay open, with times from when a push was **meant** to
//! be sent, so that a server which is late is not spared by a client that waits for it.
//!
//! Each thread of it waits for many sockets at once and does nothing else, so that it takes little of the processors that it
//! shares with the server; what it takes, it says. A thread that waited for the server part of the time did not hold it up.

#![allow(dead_code, reason = "shared by benches, none of which uses all of it")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use ccrelay::clock::Clock;
use ccrelay::receive::tls;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use crate::talking::{millis_at, talking};

/// What a server may take for an answer before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sockets that are looked at after one wait.
const READY: usize = 64;

/// One agent's push as bytes, without the time of its event.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    bytes: Vec<u8>,
    /// Where the time goes.
    time_at: usize,
    body_len: usize,
}

/// How many pushes, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends as soon as it has its answer.
    Flat,
    /// So many a second over all connections, sent when they are due or as soon after as can be.
    PerSecond(f64),
}

/// What came of one run.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From when it was due to its answer, of each push; sorted.
    pub(crate) took: Vec<Duration>,
    pub(crate) length: Duration,
    /// Pushes that were not answered with success.
    pub(crate) refused: u64,
    /// What all threads of the load used.
    pub(crate) processor: Duration,
    /// What the one used that used most.
    pub(crate) busiest: Duration,
}

impl Times {
    pub(crate) fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.length.as_secs_f64()
    }

    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
    }

    /// Adds another run, or another thread's part of this one.
    pub(crate) fn add(&mut self, other: Times) {
        self.took.extend(other.took);
        self.refused += other.refused;
        self.processor += other.processor;
        self.busiest = self.busiest.max(other.busiest);
    }
}

impl Push {
    /// The usual push of `agent`, with its `token`.
    pub(crate) fn talking(path: &str, agent: u32, token: &str) -> Push {
        let body = talking(agent.into(), 0);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: relay.test\r\nservice_token: {token}\r\n\
             Content-Type: application/json;charset=UTF-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let time_at = head.len() + millis_at(&body);
        Push { body_len: body.len(), bytes: (head + &body).into_bytes(), time_at }
    }

    pub(crate) fn body_len(&self) -> usize {
        self.body_len
    }

    /// Says that its event happened now.
    fn stamp(&mut self) {
        write!(&mut self.bytes[self.time_at..], "{:013}", now_millis()).expect("there is room");
    }
}

pub(crate) fn now_millis() -> u64 {
    Clock::system().now().millis()
}

/// A connection that is open, and what it is doing.
pub(crate) struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    answer: Vec<u8>,
    /// Pushes of agents that no other connection speaks of, and how many were sent.
    pushes: Vec<Push>,
    sent: usize,
    /// When the push was meant to be sent whose answer is awaited.
    due: Instant,
}

/// Opens connections, each for some of the pushes in turn.
pub(crate) fn connect(
    address: SocketAddr,
    ca: &Path,
    count: usize,
    pushes: &[Push],
) -> anyhow::Result<Vec<Connection>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in tls::read_chain(ca)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let open = |at| {
        let own = pushes.iter().skip(at).step_by(count).cloned().collect();
        Connection::open(address, config.clone(), own)
    };
    (0..count).map(open).collect()
}

impl Connection {
    fn open(
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
        pushes: Vec<Push>,
    ) -> anyhow::Result<Connection> {
        ensure!(!pushes.is_empty(), "more connections than pushes");
        let mut socket = TcpStream::connect(address).context("nobody listens")?;
        socket.set_nodelay(true)?;
        let mut tls = ClientConnection::new(config, ServerName::try_from("127.0.0.1")?)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        socket.set_nonblocking(true)?;
        let answer = Vec::with_capacity(1024);
        Ok(Connection { socket, tls, answer, pushes, sent: 0, due: Instant::now() })
    }

    /// Sends its next push, which was due then.
    fn send(&mut self, due: Instant) -> anyhow::Result<()> {
        let at = self.sent % self.pushes.len();
        self.sent += 1;
        self.due = due;
        self.pushes[at].stamp();
        self.tls.writer().write_all(&self.pushes[at].bytes)?;
        while self.tls.wants_write() {
            // One push at a time always has room in the socket.
            self.tls.write_tls(&mut self.socket).context("the server does not read")?;
        }
        Ok(())
    }

    /// Reads what has come; once the answer is whole, whether it is success.
    fn read(&mut self) -> anyhow::Result<Option<bool>> {
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => bail!("the connection was closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let state = self.tls.process_new_packets()?;
        let had = self.answer.len();
        self.answer.resize(had + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut self.answer[had..])?;
        let verdict = verdict(&self.answer)?;
        if verdict.is_some() {
            self.answer.clear();
        }
        Ok(verdict)
    }
}

/// Whether `answer` is success; nothing while it is not whole.
fn verdict(answer: &[u8]) -> anyhow::Result<Option<bool>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer)? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without a length")?.value;
    let length: usize = std::str::from_utf8(length)?.parse()?;
    let body = &answer[head..];
    ensure!(body.len() <= length, "more than one answer");
    let whole = body.len() == length;
    Ok(whole.then(|| response.code == Some(200) && body.ends_with(br#""retcode":"0"}"#)))
}

/// Pushes for `length` from so many threads, each with its share of the connections.
pub(crate) fn run(
    connections: &mut [Connection],
    pace: Pace,
    length: Duration,
    threads: usize,
) -> anyhow::Result<Times> {
    let count = connections.len();
    let between = match pace {
        Pace::Flat => None,
        Pace::PerSecond(rate) => Some(Duration::from_secs_f64(count as f64 / rate)),
    };
    // The connections take turns, those of all threads together.
    let (begin, step) = (Instant::now(), between.unwrap_or_default().div_f64(count as f64));
    let each = count.div_ceil(threads.clamp(1, count));
    let mut times = Times::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = connections
            .chunks_mut(each)
            .enumerate()
            .map(|(at, connections)| {
                let first = begin + step.mul_f64((at * each) as f64);
                let part = Part { connections, first, step, between, end: begin + length };
                scope.spawn(|| part.run())
            })
            .collect();
        for part in parts {
            times.add(part.join().map_err(|_| anyhow!("a thread of the load panicked"))??);
        }
        anyhow::Ok(())
    })?;
    times.length = begin.elapsed();
    times.took.sort_unstable();
    Ok(times)
}

/// One thread's part of a run.
struct Part<'a> {
    connections: &'a mut [Connection],
    /// When its first connection is due, and the time from one connection to the next.
    first: Instant,
    step: Duration,
    /// From one push of a connection to its next; none where it sends as soon as it has its answer.
    between: Option<Duration>,
    /// What would be due from then on is not sent.
    end: Instant,
}

impl Part<'_> {
    fn run(self) -> anyhow::Result<Times> {
        let (used, mut times) = (thread_time(), Times::default());
        let sockets = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Connections that await no answer, by when they are due.
        let mut idle = BinaryHeap::new();
        for (at, connection) in self.connections.iter().enumerate() {
            epoll::add(&sockets, &connection.socket, EventData::new_u64(at as u64), EventFlags::IN)?;
            idle.push(Reverse((self.first + self.step.mul_f64(at as f64), at)));
        }
        let (mut awaited, mut ready) = (0_usize, Vec::with_capacity(READY));
        loop {
            let now = Instant::now();
            while let Some(&Reverse((due, at))) = idle.peek()
                && due <= now
            {
                idle.pop();
                self.connections[at].send(due)?;
                awaited += 1;
            }
            let next = idle.peek().map(|Reverse((due, _))| due.saturating_duration_since(now));
            if awaited == 0 && next.is_none() {
                break;
            }
            let wait = Timespec::try_from(next.unwrap_or(PATIENCE))?;
            epoll::wait(&sockets, spare_capacity(&mut ready), Some(&wait))?;
            ensure!(
                next.is_some() || !ready.is_empty(),
                "{awaited} pushes have no answer after {PATIENCE:?}"
            );
            for event in ready.drain(..) {
                let at = usize::try_from(event.data.u64())?;
                let connection = &mut self.connections[at];
                let Some(success) = connection.read()? else { continue };
                awaited = awaited.checked_sub(1).context("an answer to nothing")?;
                times.refused += u64::from(!success);
                let now = Instant::now();
                times.took.push(now - connection.due);
                let due = self.between.map_or(now, |between| connection.due + between);
                match due {
                    _ if due >= self.end => {}
                    _ if due <= now => {
                        connection.send(due)?;
                        awaited += 1;
                    }
                    _ => idle.push(Reverse((due, at))),
                }
            }
        }
        times.processor = thread_time().saturating_sub(used);
        times.busiest = times.processor;
        Ok(times)
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}
