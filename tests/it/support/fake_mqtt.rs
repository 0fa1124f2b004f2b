//! An MQTT 5 broker that answers out of order, which no real one does on purpose.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck, PubComp, PubRec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long it waits for more before it answers the newest first.
const PATIENCE: Duration = Duration::from_millis(5);

pub(crate) struct FakeMqtt {
    port: u16,
    book: Arc<Book>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Book {
    in_use: Mutex<HashSet<u16>>,
    faults: AtomicUsize,
    received: AtomicUsize,
}

impl FakeMqtt {
    pub(crate) async fn start() -> FakeMqtt {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let book = Arc::<Book>::default();
        let task = tokio::task::spawn(listen(listener, book.clone()));
        FakeMqtt { port, book, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// How often a packet id came while its last use was not over.
    pub(crate) fn faults(&self) -> usize {
        self.book.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> usize {
        self.book.received.load(Ordering::Relaxed)
    }
}

impl Drop for FakeMqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, book: Arc<Book>) {
    while let Ok((stream, _)) = listener.accept().await {
        book.in_use.lock().expect("nobody panicked").clear();
        serve(stream, &book).await;
    }
}

/// Serves one connection to its end.
async fn serve(mut stream: TcpStream, book: &Book) {
    let (mut input, mut waiting) = (BytesMut::new(), Vec::new());
    loop {
        while let Ok(packet) = Packet::read(&mut input, None) {
            waiting.extend(answer(packet, book));
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut input)).await;
        match read {
            Ok(Ok(1..)) => continue,
            Ok(_) => return,
            Err(_) => {}
        }
        let mut output = BytesMut::new();
        for packet in waiting.drain(..).rev() {
            if let Packet::PubAck(PubAck { pkid, .. }) | Packet::PubComp(PubComp { pkid, .. }) = &packet {
                book.in_use.lock().expect("nobody panicked").remove(pkid);
            }
            packet.write(&mut output, None).expect("a small packet");
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
    }
}

fn answer(packet: Packet, book: &Book) -> Option<Packet> {
    match packet {
        Packet::Connect(..) => Some(Packet::ConnAck(ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: None,
        })),
        Packet::Publish(publish) => {
            book.received.fetch_add(1, Ordering::Relaxed);
            if !book.in_use.lock().expect("nobody panicked").insert(publish.pkid) {
                book.faults.fetch_add(1, Ordering::Relaxed);
            }
            Some(match publish.qos {
                QoS::ExactlyOnce => Packet::PubRec(PubRec::new(publish.pkid, None)),
                _ => Packet::PubAck(PubAck::new(publish.pkid, None)),
            })
        }
        Packet::PubRel(release) => Some(Packet::PubComp(PubComp::new(release.pkid, None))),
        Packet::PingReq(_) => Some(Packet::PingResp(rumqttc::v5::mqttbytes::v5::PingResp)),
        _ => None,
    }
}
