//! Answers that go on: server-sent events over a response that ends with its reader, the daemon, or the reader's token.
//!
//! A reader's answer is made when its connection has room for more, on the thread of the operations listener. So one who
//! does not read costs nothing and holds nobody up; one who takes nothing for the listener's `idle_timeout` is closed.
//! There are [`MOST_READERS`] at a time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::api::Admitted;
use super::fault::{Fault, answer};

/// Readers of live answers at a time: a small part of the connections that the listener takes.
pub(super) const MOST_READERS: usize = 16;
/// How often a reader is sent something even when nothing happens, and its token looked at again.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of an answer: all there is, or what comes.
pub enum Page {
    /// All of it.
    Whole(Full<Bytes>),
    /// Until it ends.
    Live(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Page::Whole(_) => "Whole",
            Page::Live(_) => "Live",
        })
    }
}

impl From<Full<Bytes>> for Page {
    fn from(body: Full<Bytes>) -> Page {
        Page::Whole(body)
    }
}

impl Body for Page {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Page::Whole(body) => Pin::new(body).poll_frame(cx),
            Page::Live(stream) => stream.as_mut().poll_next(cx).map(|next| next.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Page::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Page::Whole(body) => body.size_hint(),
            Page::Live(_) => SizeHint::default(),
        }
    }
}

/// The places of readers.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    stop: CancellationToken,
}

/// One reader's place: who it is, and when it must end.
pub(super) struct Seat {
    admitted: Admitted,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    pub(super) fn new(stop: CancellationToken) -> Seats {
        Seats { free: Arc::new(Semaphore::new(MOST_READERS)), stop }
    }

    pub(super) fn take(&self, admitted: Admitted) -> Result<Seat, Fault> {
        let permit = self.free.clone().try_acquire_owned().map_err(|_| {
            let hint = format_args!("{MOST_READERS} readers of live answers are all there can be");
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_readers", hint)
        })?;
        Ok(Seat { admitted, stop: self.stop.clone(), _permit: permit })
    }
}

impl Seat {
    /// Returns when the daemon stops.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the reader's token still counts.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted.still()
    }
}

/// What a live answer is made of, one piece after the other.
pub(super) trait Source: Send + 'static {
    /// The next piece, as soon as there is one; `None` ends the answer.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// An answer of server-sent events.
pub(super) fn events(source: impl Source) -> Response<Page> {
    let stream = stream::unfold(source, |mut source| async move {
        let next = source.next().await?;
        Some((next, source))
    });
    let (mut head, _) = answer(StatusCode::OK, "text/event-stream", Bytes::new()).into_parts();
    // A proxy that gathers what comes would show it too late.
    head.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Response::from_parts(head, Page::Live(Box::pin(stream)))
}

/// One server-sent event. The data are JSON on one line, which nothing in an event can break out of.
pub(super) fn event(name: &str, data: &Value) -> Vec<u8> {
    message(name, data.to_string().as_bytes())
}

/// The same of JSON that is written already.
pub(super) fn message(name: &str, json: &[u8]) -> Vec<u8> {
    [b"event: ", name.as_bytes(), b"\ndata: ", json, b"\n\n"].concat()
}

/// Shows the reader that the connection lives.
pub(super) fn keep_alive() -> Bytes {
    Bytes::from_static(b": still here\n\n")
}

/// The last event before an answer ends.
pub(super) fn ended(reason: &str) -> Bytes {
    event("end", &serde_json::json!({ "reason": reason })).into()
}
