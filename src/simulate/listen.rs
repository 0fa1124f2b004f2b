//! The gateway's port: accepts, shakes hands, serves; can go away and come back as in an outage.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::gateway::Gateway;
use super::serve::serve;

/// Time for a TLS handshake.
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the head of a request, and for an idle connection.
const HEAD: Duration = Duration::from_secs(60);

/// The port, open or closed.
#[derive(Debug)]
pub(super) struct Port {
    addr: SocketAddr,
    /// Which node of the gateway answers here.
    node: u8,
    open: Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
    gateway: Arc<Gateway>,
    tls: Option<Acceptor>,
}

/// A `TlsAcceptor` that can be debugged.
#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Port {
    /// Binds and begins to accept.
    pub(super) async fn open(
        gateway: Arc<Gateway>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> io::Result<Port> {
        let addr = gateway.settings.listen;
        let tls = tls.map(|config| Acceptor(config.into()));
        Port { addr, node: 0, open: Mutex::new(None), gateway, tls }.bound().await
    }

    /// The port of another node, on the same host.
    pub(super) async fn of_node(&self, node: u8) -> io::Result<Port> {
        let (addr, gateway) = (SocketAddr::new(self.addr.ip(), 0), self.gateway.clone());
        Port { addr, node, open: Mutex::new(None), gateway, tls: self.tls.clone() }.bound().await
    }

    async fn bound(mut self) -> io::Result<Port> {
        let listener = TcpListener::bind(self.addr).await?;
        self.addr = listener.local_addr()?;
        *self.open.lock().await = Some(self.accept(listener));
        Ok(self)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port and every connection. Sessions and pushes go on.
    pub(super) async fn close(&self) {
        if let Some((stop, accepting)) = self.open.lock().await.take() {
            stop.cancel();
            // It ends as it was told to; a panic in it has been reported already.
            let _ended = accepting.await;
            info!(addr = %self.addr, "port closed");
        }
    }

    /// Opens it again at the same address.
    pub(super) async fn reopen(&self) -> io::Result<()> {
        let mut open = self.open.lock().await;
        if open.is_none() {
            *open = Some(self.accept(TcpListener::bind(self.addr).await?));
            info!(addr = %self.addr, "port open");
        }
        Ok(())
    }

    fn accept(&self, listener: TcpListener) -> (CancellationToken, JoinHandle<()>) {
        let stop = self.gateway.stop.child_token();
        let (gateway, node, tls, until) = (self.gateway.clone(), self.node, self.tls.clone(), stop.clone());
        let accepting = async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => connect(&gateway, node, tls.clone(), stream, &until),
                        // Out of descriptors, say: others must close first.
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    },
                    () = until.cancelled() => return,
                }
            }
        };
        (stop, self.gateway.tasks.spawn(accepting))
    }
}

/// Starts the task of one connection.
fn connect(
    gateway: &Arc<Gateway>,
    node: u8,
    tls: Option<Acceptor>,
    stream: TcpStream,
    until: &CancellationToken,
) {
    let (own, until) = (gateway.clone(), until.clone());
    gateway.tasks.spawn(async move {
        tokio::select! {
            // First, so that a request which is there already is not answered any more.
            biased;
            () = until.cancelled() => {}
            () = converse(own, node, tls, stream) => {}
        }
    });
}

async fn converse(gateway: Arc<Gateway>, node: u8, tls: Option<Acceptor>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
    let Some(tls) = tls else { return requests(gateway, node, stream).await };
    match tokio::time::timeout(TLS_HANDSHAKE, tls.0.accept(stream)).await {
        Ok(Ok(stream)) => requests(gateway, node, stream).await,
        Ok(Err(error)) => info!(%error, "TLS handshake failed"),
        Err(_) => info!("TLS handshake timed out"),
    }
}

async fn requests(
    gateway: Arc<Gateway>,
    node: u8,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| serve(gateway.clone(), node, request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .preserve_header_case(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}
