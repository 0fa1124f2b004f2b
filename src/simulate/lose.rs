//! A push whose answer is lost: the receiver has the request whole and answers it, and the connection is reset before any of
//! the answer is read. Under TLS the first bytes that are not of the protocol's own show that it has answered.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What stands in the way of an answer, or that it was lost.
#[derive(Debug, Error)]
pub(super) enum LoseError {
    #[error("not an address")]
    Address,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no answer came to be lost")]
    None,
    #[error("lost, or none came")]
    Lost(#[source] hyper::Error),
}

/// Sends a request on a connection of its own and loses its answer: never succeeds.
pub(super) async fn push_and_lose(tls: Arc<ClientConfig>, request: Request<Full<Bytes>>) -> LoseError {
    match connect_and_lose(tls, request).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn connect_and_lose(
    tls: Arc<ClientConfig>,
    mut request: Request<Full<Bytes>>,
) -> Result<Infallible, LoseError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or(LoseError::Address)?.trim_matches(['[', ']']).to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let authority = uri.authority().ok_or(LoseError::Address)?.as_str();
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(|_| LoseError::Address)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| LoseError::Address)?;

    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(LoseError::Connect)?;
    // However the connection ends, it ends by RST.
    tcp.set_zero_linger().map_err(LoseError::Connect)?;
    if !secure {
        return send(request, tcp).await;
    }
    let name = ServerName::try_from(host).map_err(|_| LoseError::Address)?;
    send(request, TlsConnector::from(tls).connect(name, tcp).await.map_err(LoseError::Connect)?).await
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    request: Request<Full<Bytes>>,
    stream: S,
) -> Result<Infallible, LoseError> {
    let (mut sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(Deaf(stream)))
        .await
        .map_err(LoseError::Lost)?;
    let (answer, _ended) = tokio::join!(sender.send_request(request), connection);
    // Nothing that is received is given to anybody.
    Err(answer.err().map_or(LoseError::None, LoseError::Lost))
}

/// A stream that breaks with the first byte which arrives.
struct Deaf<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Deaf<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut unread = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut unread))?;
        let lost = || Err(io::Error::new(io::ErrorKind::ConnectionReset, "the answer is lost, as told"));
        Poll::Ready(if unread.filled().is_empty() { Ok(()) } else { lost() })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deaf<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    /// Not a word of a goodbye.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
