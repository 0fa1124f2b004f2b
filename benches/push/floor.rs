//! What TLS and HTTP alone cost here: a server that reads the body and answers a constant, in a process of its own, with
//! the same libraries and the same answer as the relay's.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use ccrelay::receive::reply;
use ccrelay::receive::tls::TlsConfig;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves until the process ends.
pub(crate) async fn serve(port: u16, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let tls = TlsConfig::new(certificate.into(), key.into()).checked();
    let acceptor = TlsAcceptor::from(tls.map_err(|mut faults| faults.remove(0))?.made);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::task::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A connection that breaks is the load's end.
            drop(served.await);
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    drop(request.into_body().collect().await);
    Ok(reply::success())
}
