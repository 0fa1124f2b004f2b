//! Header names on the wire as the gateway spells them.
//!
//! Clients of the gateway exist that compare `Set-GUID` with regard to case. hyper writes names in lower or in
//! title case, except where a message carries the spelling it was received with, for proxies. So one message
//! with our spellings is received in memory at the start, and what it carries is given to all that are sent.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Extensions, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The spellings; names sent twice in one message must stand here twice.
const SAMPLE: &[u8] = b"HTTP/1.1 204 No Content\r\n\
    Set-GUID: x\r\nSet-Cookie: x\r\nSet-Cookie: x\r\nContent-Type: x\r\nGuid: x\r\nservice_token: x\r\n\r\n";

/// The spellings could not be learnt.
#[derive(Debug, Error)]
#[error("the header spellings could not be prepared")]
pub struct CasingError(#[source] hyper::Error);

/// What a message must carry to be written with the gateway's spellings, on a connection that preserves case.
pub(super) async fn spellings() -> Result<Extensions, CasingError> {
    let (near, mut far) = tokio::io::duplex(1024);
    let (mut sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(near))
        .await
        .map_err(CasingError)?;
    let serve = async move {
        let mut request = [0u8; 512];
        // Whether reading or writing works shows in what the other side receives.
        let _read = far.read(&mut request).await;
        let _written = far.write_all(SAMPLE).await;
        far
    };
    let ask = sender.send_request(Request::new(Empty::<Bytes>::new()));
    // How the connection ends shows in what was asked over it.
    let drive = async move {
        let _ended = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        (response, _far) = async { tokio::join!(ask, serve) } => {
            response.map(|r| r.extensions().clone()).map_err(CasingError)
        }
        never = drive => match never {},
    }
}
