//! One listener: accept, TLS handshake, HTTP/1.1, each step under a limit and a deadline of its own.
//!
//! - Addresses: who is not on the list is closed at once, before anything is read, and counted.
//! - Connections: each has a permit. At the limit one has been accepted and waits for a permit, the others wait in the kernel's queue,
//!   and `seats` says who of those that are in has to make room.
//! - Handshake: a task of its own under a time-out, so that a slow one holds up nobody.
//! - Head: the time from its first byte to its last, and its size, are limited; so is the time between requests.
//! - End: `exchange` is told when the peer ends in order. Where the end is ours, because a request asked for it, that of the peer is
//!   waited for, a moment.
//! - A stop ends accepting at once, lets the requests in hand finish, and closes idle connections.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calm::Calm;
use crate::exchange::{Connection, Exchange};
use crate::metrics::Metrics;
use crate::receive::tls::{fault, peer};
use crate::request::{RequestId, RequestIds};

pub mod allow;
mod phase;
mod seats;
mod standstill;

use allow::SharedAllowList;
use phase::{PHASE_IDLE, PHASE_LIVE, PHASE_REQUEST, Phase};
pub use phase::{Wait, Waiting};
use seats::{Seat, Seats};
use standstill::Standstill;

/// TLS settings that can be replaced while the listener runs.
pub type SharedTls = Arc<ArcSwap<rustls::ServerConfig>>;

/// How one gets in. Both can be replaced while the listener runs, and count for connections from then on.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Plain HTTP without.
    pub tls: Option<SharedTls>,
    /// Who may connect.
    pub allowed: SharedAllowList,
}

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at a time.
    pub max_connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Bytes of a request head. At least 8192.
    pub max_head_bytes: usize,
    /// The listener's name in metrics and the log.
    pub listener: &'static str,
    /// Counts connections in the metrics of the callback listener; the operations listener does not.
    pub counted: bool,
}

/// Headers of one request at most.
const MAX_HEADERS: usize = 64;
/// How long to wait after `accept` failed, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps for us, where it may: a gateway that comes back opens all of its own at once, and what does not
/// fit is forgotten, not refused.
const BACKLOG: u32 = 4096;
/// How long a peer that asked for the end of its connection may take to end its side of it.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long it takes to look again for somebody who makes room.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// A request with what its connection knows.
#[derive(Debug)]
pub struct Incomer {
    /// Who connected.
    pub peer: SocketAddr,
    /// This request among those of its connection.
    pub exchange: Exchange,
    /// Its name in the log.
    pub id: RequestId,
    /// Where it says that it only waits.
    pub waiting: Waiting,
}

/// Answers requests of a listener.
pub trait Handler: Send + Sync + 'static {
    /// What answers are made of. One that has no known length is live: it may last, as long as its peer takes it.
    type Body: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static;

    /// Answers one request. Never fails: every failure is an answer.
    fn handle(
        &self,
        request: Request<Incoming>,
        from: Incomer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A bound listener, ready to be run.
pub struct Listener<H> {
    listener: TcpListener,
    shared: Arc<Shared<H>>,
}

struct Shared<H> {
    handler: H,
    entry: Entry,
    limits: Limits,
    metrics: Metrics,
    calm: Calm,
    ids: RequestIds,
    stop: CancellationToken,
    seats: Seats,
    standstill: Arc<Standstill>,
}

impl<H> std::fmt::Debug for Listener<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.listener.local_addr().ok()).finish_non_exhaustive()
    }
}

impl<H: Handler> Listener<H> {
    /// Binds the address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        entry: Entry,
        limits: Limits,
        handler: H,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> std::io::Result<Listener<H>> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let shared = Shared {
            handler,
            entry,
            limits,
            metrics,
            calm: Calm::default(),
            ids: RequestIds::default(),
            stop,
            seats: Seats::default(),
            standstill: Arc::new(Standstill::new()),
        };
        Ok(Listener { listener, shared: Arc::new(shared) })
    }

    /// Where it listens; the port is known even when 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the stop, then waits for the connections to end.
    pub async fn run(self) {
        let permits = Arc::new(Semaphore::new(self.shared.limits.max_connections));
        let tracker = TaskTracker::new();
        let shared = self.shared.clone();
        tracker.spawn(async move { shared.stop.run_until_cancelled(shared.standstill.watch()).await });
        loop {
            tokio::select! {
                () = self.shared.stop.cancelled() => break,
                accepted = self.accept(&permits) => {
                    if let Some((stream, peer, permit)) = accepted {
                        tracker.spawn(connection(self.shared.clone(), stream, peer, permit));
                    }
                }
            }
        }
        drop(self.listener);
        tracker.close();
        tracker.wait().await;
    }

    /// # Cancel safety
    /// May be dropped when the listener stops: a connection that was accepted and has no permit yet is closed then.
    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // One connection at a time is accepted without: only then it is certain that somebody waits.
        let permit = permits.clone().try_acquire_owned();
        let (stream, peer) = match self.listener.accept().await {
            Ok((stream, peer)) if self.shared.entry.allowed.load().admits(peer.ip()) => (stream, peer),
            Ok((_stranger, peer)) => {
                self.shared.turn_away(peer);
                return None;
            }
            Err(error) => {
                self.shared.fault("accept", &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                return None;
            }
        };
        let permit = match permit.or_else(|_| permits.clone().try_acquire_owned()) {
            Ok(permit) => permit,
            Err(_) => {
                self.shared.fault("limit", &"all permitted connections are in use; new ones wait");
                self.permit_of_another(permits).await?
            }
        };
        Some((stream, peer, permit))
    }
}

impl<H> Listener<H> {
    async fn permit_of_another(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            self.shared.seats.make_room();
            let permit = tokio::time::timeout(ROOM_PAUSE, permits.clone().acquire_owned()).await;
            if let Ok(permit) = permit {
                return permit.ok();
            }
        }
    }
}

impl<H> Shared<H> {
    fn count_failure(&self, reason: &'static str) {
        if self.limits.counted {
            self.metrics.connection_failures.with_label_values(&[reason]).inc();
        }
    }

    fn fault(&self, reason: &'static str, error: &dyn std::fmt::Display) {
        self.count_failure(reason);
        if let Some(left_out) = self.calm.due(reason) {
            let listener = self.limits.listener;
            tracing::warn!(listener, reason, %error, left_out, "a connection came to nothing");
        }
    }

    fn made_room(&self) {
        self.fault("made_room", &"it was closed because others wait and it did nothing");
    }

    fn turn_away(&self, peer: SocketAddr) {
        let listener = self.limits.listener;
        self.metrics.addresses_refused.with_label_values(&[listener]).inc();
        if let Some(left_out) = self.calm.due("address") {
            tracing::warn!(listener, %peer, left_out, "an address that is not in allow_from was turned away");
        }
    }

    /// What the client showed of itself in the handshake.
    fn met(&self, peer: SocketAddr, connection: &rustls::ServerConnection) {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        if self.limits.counted {
            let shown = if certificate.is_some() { "verified" } else { "none" };
            self.metrics.tls_handshakes.with_label_values(&[shown]).inc();
        }
        if let Some(certificate) = certificate
            && let Some(left_out) = self.calm.due("client_certificate")
        {
            let subject = peer::subject(certificate);
            tracing::info!(listener = self.limits.listener, %peer, subject, left_out, "a client showed its certificate");
        }
    }
}

async fn connection<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are small and must not wait for an ACK; a socket that refuses this still works.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let accepted = Instant::now();
    let taken = shared.seats.take();
    let seat = &taken.seat;
    let gauge = shared.limits.counted.then(|| OpenConnection::new(&shared.metrics));
    match &shared.entry.tls {
        None => serve(&shared, stream, peer, accepted, seat).await,
        Some(tls) => {
            let acceptor = TlsAcceptor::from(tls.load_full());
            let handshake = shake_hands(&acceptor, stream);
            let handshake = tokio::time::timeout(shared.limits.handshake_timeout, handshake);
            let handshake = seat.leave.run_until_cancelled(handshake);
            // Nothing was asked for yet, so a stop does not wait.
            let Some(shaken) = shared.stop.run_until_cancelled(handshake).await else { return };
            match shaken {
                None => shared.made_room(),
                Some(Ok(Ok(None))) => shared.count_failure("closed_unused"),
                Some(Ok(Ok(Some(stream)))) => {
                    shared.met(peer, stream.get_ref().1);
                    seat.phase.enter(PHASE_IDLE);
                    serve(&shared, stream, peer, accepted, seat).await;
                }
                Some(Ok(Err(error))) => {
                    shared.fault(fault::reason(&error), &format_args!("{error} (of {peer})"));
                }
                Some(Err(_)) => shared.fault("tls_handshake_timeout", &"the TLS handshake took too long"),
            }
        }
    }
    drop(gauge);
}

/// `None` when the peer has closed before it sent anything, as the checks of load balancers do.
async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<Option<TlsStream<TcpStream>>> {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => Ok(None),
        Ok(_) => acceptor.accept(stream).await.map(Some),
    }
}

struct OpenConnection(Metrics);

impl OpenConnection {
    fn new(metrics: &Metrics) -> OpenConnection {
        metrics.connections.inc();
        OpenConnection(metrics.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

async fn serve<H: Handler, S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: &Arc<Shared<H>>,
    stream: S,
    peer: SocketAddr,
    accepted: Instant,
    seat: &Arc<Seat>,
) {
    let turns = Connection::accepted_at(accepted);
    let (phase, standstill) = (seat.phase.clone(), shared.standstill.clone());
    let mut watched = Watched { stream, phase, turns: turns.clone(), standstill, ended: false };
    let in_order = converse(shared, &mut watched, peer, &turns, seat).await;
    if !in_order || watched.ended || !turns.is_answered() {
        return;
    }
    // It was ours to end: the peer's end shows whether the last answer arrived.
    seat.ends();
    tokio::select! {
        () = watched.end() => {}
        () = shared.stop.cancelled() => {}
        () = seat.leave.cancelled() => {}
        () = tokio::time::sleep(END_PATIENCE) => {}
    }
}

/// Takes requests until the connection is over. Says whether it came to an end in order.
async fn converse<H: Handler, S: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: &Arc<Shared<H>>,
    watched: &mut Watched<S>,
    peer: SocketAddr,
    turns: &Arc<Connection>,
    seat: &Arc<Seat>,
) -> bool {
    let phase = seat.phase.clone();
    let service = service_fn(|request: Request<Incoming>| {
        phase.enter(PHASE_REQUEST);
        let exchange = turns.begin_when(shared.standstill.is_recent());
        let (id, waiting) = (shared.ids.next(), Waiting::of(&phase));
        let answer =
            shared.handler.handle(request, Incomer { peer, exchange: exchange.clone(), id, waiting });
        let (phase, seat) = (phase.clone(), seat.clone());
        async move {
            let answer = answer.await;
            if answer.status().is_success() {
                seat.prove();
            }
            exchange.answered();
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, phase)))
        }
    });
    // The watch below keeps the deadlines, hyper's single one cannot tell a slow head from an idle connection.
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(shared.limits.max_head_bytes)
        .serve_connection(TokioIo::new(&mut *watched), service);
    let mut connection = pin!(connection);
    // What may end it besides is looked at only when it says so itself, not with each request and answer: one that waits in
    // here wakes nobody else, and is not asked when somebody else is woken.
    let mut watch = FuturesUnordered::from_iter([disturbed(shared, seat, true)]);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                // Who reads a live answer ends it by leaving, which is no fault.
                if let Some(error) = ended.as_ref().err().filter(|_| !phase.is_live()) {
                    shared.fault(reason_of(error), error);
                }
                return ended.is_ok();
            }
            Some(disturbance) = watch.next() => match disturbance {
                Disturbance::Leave if !phase.is_busy() => {
                    shared.made_room();
                    return false;
                }
                // Where it has to leave, something came in this very moment: it is answered, and then the connection ends.
                Disturbance::Stop | Disturbance::Leave => {
                    connection.as_mut().graceful_shutdown();
                    watch.push(disturbed(shared, seat, false));
                }
                Disturbance::Overdue(reason) => {
                    // An idle connection that ends is nobody's fault.
                    if reason != "idle_timeout" {
                        shared.fault(reason, &"the head of a request took too long");
                    }
                    return false;
                }
            }
        }
    }
}

/// Why a connection ends that would go on.
enum Disturbance {
    Stop,
    Leave,
    Overdue(&'static str),
}

/// Waits for what may end a connection; for its deadlines alone when it is ending already.
async fn disturbed<H>(shared: &Shared<H>, seat: &Seat, goes_on: bool) -> Disturbance {
    tokio::select! {
        () = shared.stop.cancelled(), if goes_on => Disturbance::Stop,
        () = seat.leave.cancelled(), if goes_on => Disturbance::Leave,
        reason = seat.phase.overdue(&shared.limits) => Disturbance::Overdue(reason),
    }
}

fn reason_of(error: &hyper::Error) -> &'static str {
    if error.is_parse_too_large() { "header_too_large" } else { "http" }
}

/// The body of an answer. The connection is idle when it has all been taken, and one that is live is not while it lasts.
struct Answering<B> {
    body: B,
    phase: Arc<Phase>,
    live: bool,
}

impl<B: Body> Answering<B> {
    fn new(body: B, phase: Arc<Phase>) -> Answering<B> {
        let live = body.size_hint().exact().is_none();
        phase.enter(if live { PHASE_LIVE } else { PHASE_IDLE });
        Answering { body, phase, live }
    }
}

impl<B: Body<Data = Bytes, Error = Infallible> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.live {
            self.phase.enter(PHASE_LIVE);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        if self.live {
            self.phase.enter(PHASE_IDLE);
        }
    }
}

/// A stream that notes when the first bytes of a head arrive, when an answer was written, and the peer's end.
struct Watched<S> {
    stream: S,
    phase: Arc<Phase>,
    turns: Arc<Connection>,
    standstill: Arc<Standstill>,
    /// Nothing more comes.
    ended: bool,
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Reads what nobody wants any more, until the peer has ended.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn end(&mut self) {
        let mut unwanted = [0; 256];
        while matches!(self.read(&mut unwanted).await, Ok(1..)) {}
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phase.bytes_came();
        } else if room > 0 && matches!(result, Poll::Ready(Ok(()))) && !self.ended {
            self.ended = true;
            if !self.standstill.is_recent() {
                self.turns.ended();
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.turns.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
