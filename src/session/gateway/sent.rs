//! Whether anything of a call was sent. What ends without an answer may have been done all the same, and the session has to
//! reckon with that; but not where the name was not found, the connection not made, or the TLS handshake not finished in time.
//!
//! The HTTP client looks at the body of a request when it has a connection, just before it writes the head, and never earlier.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::session::call::CallError;

/// A note of one call: it is being sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    /// The request that makes this note.
    pub(super) fn watch(&self, request: Request<Full<Bytes>>) -> Request<Watched> {
        request.map(|body| Watched { body, sent: self.clone() })
    }

    pub(super) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// What became of the call when its deadline is over.
    pub(super) fn timed_out(&self) -> CallError {
        match self.is_noted() {
            true => CallError::TimedOut,
            false => CallError::Unreachable("no connection within the deadline".to_owned()),
        }
    }

    fn note(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The body of a request whose sending is noted.
#[derive(Debug)]
pub(super) struct Watched {
    body: Full<Bytes>,
    sent: Sent,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.sent.note();
        Pin::new(&mut self.body).poll_frame(context)
    }

    /// Of an empty body nothing else is asked.
    fn is_end_stream(&self) -> bool {
        self.sent.note();
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
