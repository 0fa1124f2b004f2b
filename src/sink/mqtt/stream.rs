//! The way to the broker: TCP, and TLS where it is wanted.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::TryFutureExt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::CONNECT_TIMEOUT;
use super::config::MqttConfig;
use super::failure::{chain, classify_io};
use super::reach::reach;
use crate::sink::DeliveryError;

/// Either of them.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects.
pub(super) async fn open(config: &MqttConfig) -> Result<Box<dyn Stream>, DeliveryError> {
    let tls = |error: &dyn std::error::Error| DeliveryError::retry("tls", chain(error));
    let files = config.tls.as_ref().map(|files| files.load()).transpose();
    let files = files.map_err(|error| DeliveryError::retry("tls", error))?;
    let tcp = reach(&config.host, config.port).await?;
    // Messages that wait go together as it is; waiting for more would cost 40 ms.
    tcp.set_nodelay(true).map_err(|error| classify_io(&error))?;
    let tcp = Prompt(tcp);
    let Some(files) = files else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(config.host.clone()).map_err(|error| tls(&error))?;
    let connecting = TlsConnector::from(files).connect(name, tcp).map_err(|error| tls(&error));
    Ok(Box::new(in_time("to TLS", connecting).await?))
}

/// One step towards a connection, within the time that a broker has for it.
pub(super) async fn in_time<T>(
    what: &str,
    step: impl Future<Output = Result<T, DeliveryError>>,
) -> Result<T, DeliveryError> {
    let late = |_| {
        let secs = CONNECT_TIMEOUT.as_secs();
        Err(DeliveryError::retry("connection", format!("the broker had no answer {what} within {secs} s")))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, step).await.unwrap_or_else(late)
}

/// TCP whose segments are acknowledged as soon as they are read. A broker sends each answer by itself, and most hold the next
/// one back until the last is acknowledged (Nagle); we, who write seldom and much, would let the kernel delay that by 40 ms.
struct Prompt(TcpStream);

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        // The kernel falls back to delays by itself, so it is told each time. That it cannot be told costs time only.
        #[cfg(target_os = "linux")]
        if read.is_ready()
            && let Err(error) = self.0.set_quickack(true)
        {
            tracing::trace!(%error, "acknowledgements are delayed");
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
