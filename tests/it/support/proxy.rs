//! A TCP proxy that can cut, reset, stall, slow down and refuse.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Passes everything on.
    Open,
    /// Passes nothing on and reads nothing, with connections open.
    Stalled,
    /// Passes on so many bytes a second in each direction.
    Slow(u32),
    /// Passes each portion on after a while.
    Late(Duration),
    /// Nobody listens.
    Refusing,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts orders to end all connections, and whether the last one is to be by RST.
    cuts: watch::Sender<(u64, bool)>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `target` on a port of its own.
    pub(crate) async fn start(target: &str) -> Proxy {
        let port = super::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let (mode, modes) = watch::channel(Mode::Open);
        let (cuts, orders) = watch::channel((0, false));
        let task = tokio::task::spawn(listen(listener, target.to_owned(), modes, orders));
        Proxy { address, mode, cuts, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends all connections; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|(count, reset)| (*count, *reset) = (*count + 1, false));
    }

    /// Ends all connections by RST, so that what was under way is lost; new ones are welcome.
    pub(crate) fn reset(&self) {
        self.cuts.send_modify(|(count, reset)| (*count, *reset) = (*count + 1, true));
    }

    /// Passes nothing on from now on.
    pub(crate) fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// Passes on so many bytes a second.
    pub(crate) fn slow(&self, bytes_per_second: u32) {
        self.mode.send_replace(Mode::Slow(bytes_per_second));
    }

    /// Passes each portion on only after `delay`.
    pub(crate) fn late(&self, delay: Duration) {
        self.mode.send_replace(Mode::Late(delay));
    }

    /// Takes no new connections.
    pub(crate) fn refuse(&self) {
        self.mode.send_replace(Mode::Refusing);
    }

    /// Is a plain proxy again.
    pub(crate) fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    listener: TcpListener,
    target: String,
    mut mode: watch::Receiver<Mode>,
    cuts: watch::Receiver<(u64, bool)>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let refusing = *mode.borrow_and_update() == Mode::Refusing;
        if refusing {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still free"));
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    connections.spawn(carry(client, target.clone(), mode.clone(), cuts.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn carry(
    client: TcpStream,
    target: String,
    mode: watch::Receiver<Mode>,
    mut cuts: watch::Receiver<(u64, bool)>,
) {
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Delays are what the proxy adds on purpose only.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let ordered = tokio::select! {
        () = pass(&mut from_client, &mut to_server, mode.clone()) => false,
        () = pass(&mut from_server, &mut to_client, mode.clone()) => false,
        changed = cuts.changed() => changed.is_ok(),
    };
    if ordered && cuts.borrow().1 {
        for stream in [from_client.reunite(to_client).ok(), from_server.reunite(to_server).ok()] {
            stream.map_or(Ok(()), |stream| stream.set_zero_linger()).expect("the socket is open");
        }
    }
}

async fn pass(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let now = *mode.borrow_and_update();
        let most = match now {
            Mode::Stalled => {
                if mode.changed().await.is_err() {
                    return;
                }
                continue;
            }
            // Twenty portions a second.
            Mode::Slow(bytes) => usize::try_from(bytes / 20).map_or(1, |bytes| bytes.clamp(1, 16 * 1024)),
            Mode::Open | Mode::Late(_) | Mode::Refusing => buffer.len(),
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            changed = mode.changed() => if changed.is_ok() { continue } else { return },
        };
        let Ok(count @ 1..) = read else { return };
        if let Mode::Late(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if let Mode::Slow(_) = now {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
