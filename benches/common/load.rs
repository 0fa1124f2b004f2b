//! The load: the same for every server, over TLS connections that stay open, with times from when a push was **meant** to
//! be sent, so that a server which is late is not spared by a client that waits for it.

#![allow(dead_code, reason = "shared by benches, none of which uses all of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ccrelay::clock::Clock;
use ccrelay::receive::tls;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Between the head of an answer and its body.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// One agent's push as bytes, without the time of its event.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    head: String,
    before: String,
    after: String,
}

/// How many pushes, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends as soon as it has its answer.
    Flat,
    /// So many a second over all connections, sent when they are due or as soon after as can be.
    PerSecond(f64),
}

/// Times of all pushes of one run, sorted.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) took: Vec<Duration>,
    pub(crate) length: Duration,
    /// Pushes that were not answered with success.
    pub(crate) refused: u64,
}

impl Times {
    pub(crate) fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.length.as_secs_f64()
    }

    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * q).round() as usize).copied().unwrap_or_default()
    }
}

impl Push {
    /// A push of the size and shape of AgentEvent_Talking (CEC API Reference 1355), of `agent` with its `token`.
    pub(crate) fn talking(path: &str, agent: u32, token: &str) -> Push {
        let before = format!(
            r#"{{"workNo":"{agent}","eventList":[{{"message":"","retcode":"0","eventType":"AgentEvent_Talking","workNo":"{agent}","content":{{"caller":"10086","callid":"1456401416-{agent}","called":"70092","feature":"7","type":"main","mediaAbility":"1"}},"eventGenTime":"#
        );
        Push {
            head: format!(
                "POST {path} HTTP/1.1\r\nHost: relay.test\r\nservice_token: {token}\r\n\
                 Content-Type: application/json;charset=UTF-8\r\nContent-Length: "
            ),
            before,
            after: "}]}".to_owned(),
        }
    }

    /// The bytes of one push; `time` in milliseconds is its eventGenTime.
    fn bytes(&self, time: u64, buffer: &mut Vec<u8>) {
        use std::io::Write;
        let length = self.before.len() + 13 + self.after.len();
        buffer.clear();
        buffer.extend_from_slice(self.head.as_bytes());
        write!(buffer, "{length}\r\n\r\n{}{time:013}{}", self.before, self.after).expect("memory takes it");
    }

    pub(crate) fn body_len(&self) -> usize {
        self.before.len() + 13 + self.after.len()
    }
}

/// Opens connections, each for some of the pushes in turn.
pub(crate) async fn connect(
    address: SocketAddr,
    ca: &Path,
    count: usize,
) -> anyhow::Result<Vec<TlsStream<TcpStream>>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in tls::read_chain(ca)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(address).await.context("nobody listens")?;
        stream.set_nodelay(true)?;
        streams.push(connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?);
    }
    Ok(streams)
}

/// Pushes for `length`, and says how long each answer took.
pub(crate) async fn run(
    streams: &mut Vec<TlsStream<TcpStream>>,
    pushes: &[Push],
    pace: Pace,
    length: Duration,
) -> anyhow::Result<Times> {
    let (count, begin) = (streams.len(), Instant::now());
    let tasks: Vec<_> = std::mem::take(streams)
        .into_iter()
        .enumerate()
        .map(|(at, stream)| {
            let own: Vec<Push> = pushes.iter().skip(at).step_by(count).cloned().collect();
            let between = match pace {
                Pace::Flat => None,
                Pace::PerSecond(rate) => Some(Duration::from_secs_f64(count as f64 / rate)),
            };
            let first = begin + between.unwrap_or_default().mul_f64(at as f64 / count as f64);
            tokio::task::spawn(connection(stream, own, first, between, begin + length))
        })
        .collect();
    let mut times = Times::default();
    for task in tasks {
        let (stream, took, refused) = task.await??;
        times.took.extend(took);
        times.refused += refused;
        streams.push(stream);
    }
    times.length = begin.elapsed();
    times.took.sort_unstable();
    Ok(times)
}

async fn connection(
    mut stream: TlsStream<TcpStream>,
    pushes: Vec<Push>,
    first: Instant,
    between: Option<Duration>,
    end: Instant,
) -> anyhow::Result<(TlsStream<TcpStream>, Vec<Duration>, u64)> {
    let (mut took, mut refused) = (Vec::new(), 0);
    let (mut request, mut answer) = (Vec::with_capacity(1024), Vec::with_capacity(1024));
    let mut due = first;
    for push in pushes.iter().cycle() {
        let now = Instant::now();
        match between {
            None => due = now,
            Some(_) if due > now => tokio::time::sleep_until(due.into()).await,
            Some(_) => {}
        }
        if due >= end {
            break;
        }
        push.bytes(now_millis(), &mut request);
        stream.write_all(&request).await?;
        stream.flush().await?;
        refused += u64::from(!read_answer(&mut stream, &mut answer).await?);
        took.push(due.elapsed());
        due += between.unwrap_or_default();
    }
    Ok((stream, took, refused))
}

/// Reads one answer; whether it was success.
async fn read_answer(stream: &mut TlsStream<TcpStream>, answer: &mut Vec<u8>) -> anyhow::Result<bool> {
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            bail!("the connection was closed");
        }
        let Some(head) = answer.windows(4).position(|window| window == HEAD_END) else { continue };
        let text = std::str::from_utf8(&answer[..head])?.to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.context("an answer without a length")?.parse()?;
        if answer.len() >= head + HEAD_END.len() + length {
            return Ok(text.starts_with("http/1.1 200") && answer.ends_with(br#""retcode":"0"}"#));
        }
    }
}

pub(crate) fn now_millis() -> u64 {
    Clock::system().now().millis()
}
