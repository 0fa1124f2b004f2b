//! What the admin API answers when it cannot do what was asked: a status, a code for programs and a message for people,
//! as `{"error":{"code","message"}}`. Messages carry no secret.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::Response;
use serde::Serialize;

/// A refusal or a failure.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
    /// The connection ends with it.
    closing: bool,
}

impl Fault {
    /// A fault with this status, code and message.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl fmt::Display) -> Fault {
        Fault { status, code, message: message.to_string(), header: None, closing: false }
    }

    /// With a header that the status calls for.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Fault {
        self.header = Some((name, value));
        self
    }

    /// With an end of the connection, which others wait for.
    pub(super) fn closing(mut self) -> Fault {
        self.closing = true;
        self
    }

    pub(super) fn bad_request(message: impl fmt::Display) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn not_found(message: impl fmt::Display) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn no_such_agent() -> Fault {
        Fault::not_found("there is no such agent")
    }

    pub(super) fn conflict(code: &'static str, message: impl fmt::Display) -> Fault {
        Fault::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn unavailable(message: impl fmt::Display) -> Fault {
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// Something of ours failed; what it was goes to the log, not to the caller.
    pub(super) fn internal(what: &'static str, error: &dyn fmt::Display) -> Fault {
        tracing::error!(%error, "{what}");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", what)
    }

    /// Whether no token was shown, or a wrong one.
    pub(super) fn is_unauthorised(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = json(self.status, &body);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        if self.closing {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An answer in JSON. None may be kept by a cache: they are of the moment, and some are secret.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body) {
        Ok(bytes) => answer(status, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "an answer of the admin API cannot be written");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Bytes::new())
        }
    }
}

/// An answer of any kind.
pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Nothing to say.
pub(super) fn no_content() -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::NO_CONTENT, "application/json", Bytes::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}
