//! What the gateway is answered: the one place where reasons become HTTP statuses and retcodes.
//!
//! Success is HTTP 200 with `{"message":"success","retcode":"0"}` (CEC API Reference 1275). What else counts as success
//! is not documented, so every refusal has both another status and another retcode. Retcodes are the gateway's own
//! (CEC API Reference 0580), chosen by their meaning, so that its log says something true.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::Response;
use thiserror::Error;

use crate::authenticate::TokenFault;
use crate::event::AgentId;
use crate::event::envelope::EnvelopeError;
use crate::request::{self, RequestId};

/// Why a push was not stored.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Not `/push/<gateway>` of a configured gateway.
    #[error("no gateway has this callback path")]
    NotFound,
    /// Not POST.
    #[error("pushes are sent with POST")]
    MethodNotAllowed,
    /// Longer than allowed.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// A compressed body.
    #[error("a body must not be compressed")]
    EncodingUnsupported,
    /// No token.
    #[error("the header service_token is missing")]
    TokenMissing,
    /// A token that is not good.
    #[error(transparent)]
    Token(TokenFault),
    /// The token's agent is not the body's.
    #[error("the token belongs to another agent than workNo")]
    OtherAgent,
    /// The body did not come in time, or before too many newer ones of its agent.
    #[error("the body did not come in time")]
    BodyTimeout,
    /// The connection broke inside the body.
    #[error("the body ended early: {0}")]
    BodyBroken(String),
    /// Not what a push is.
    #[error("{0}")]
    Envelope(EnvelopeError),
    /// Neither the body nor the token says whose it is.
    #[error("no workNo")]
    NoWorkNo,
    /// No space.
    #[error("the spool is full")]
    SpoolFull,
    /// The disk failed.
    #[error("the spool has failed")]
    SpoolFailed,
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Refusal {
    /// The label of `ccrelay_push_failures_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NotFound => "not_found",
            Refusal::MethodNotAllowed => "method_not_allowed",
            Refusal::TooLarge { .. } | Refusal::Envelope(EnvelopeError::TooManyEvents) => "too_large",
            Refusal::EncodingUnsupported => "encoding_unsupported",
            Refusal::TokenMissing => "token_missing",
            Refusal::Token(fault) => fault.reason(),
            Refusal::OtherAgent => "other_agent",
            Refusal::BodyTimeout => "body_timeout",
            Refusal::BodyBroken(_) => "body_broken",
            Refusal::Envelope(EnvelopeError::NotJson { .. }) => "not_json",
            Refusal::NoWorkNo | Refusal::Envelope(EnvelopeError::NoObject) => "no_work_no",
            Refusal::SpoolFull => "spool_full",
            Refusal::SpoolFailed => "spool_failed",
            Refusal::Stopping => "stopping",
        }
    }

    /// The agent that the refusal itself names.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            Refusal::Token(fault) => fault.agent(),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::TooLarge { .. } | Refusal::Envelope(EnvelopeError::TooManyEvents) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Refusal::EncodingUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::TokenMissing | Refusal::Token(_) => StatusCode::UNAUTHORIZED,
            Refusal::OtherAgent => StatusCode::FORBIDDEN,
            Refusal::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::BodyBroken(_) | Refusal::Envelope(_) | Refusal::NoWorkNo => StatusCode::BAD_REQUEST,
            Refusal::SpoolFull | Refusal::SpoolFailed | Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn retcode(&self) -> &'static str {
        match self {
            Refusal::NotFound | Refusal::MethodNotAllowed => "000-002",
            Refusal::TokenMissing | Refusal::Token(_) | Refusal::OtherAgent => "000-003",
            Refusal::TooLarge { .. }
            | Refusal::EncodingUnsupported
            | Refusal::BodyTimeout
            | Refusal::BodyBroken(_)
            | Refusal::Envelope(_)
            | Refusal::NoWorkNo => "000-006",
            Refusal::SpoolFull | Refusal::SpoolFailed | Refusal::Stopping => "100-007",
        }
    }

    /// Whether the body was left unread, so that the connection cannot go on.
    fn leaves_body(&self) -> bool {
        !matches!(
            self,
            Refusal::Envelope(_)
                | Refusal::NoWorkNo
                | Refusal::OtherAgent
                | Refusal::SpoolFull
                | Refusal::SpoolFailed
                | Refusal::Stopping
        )
    }
}

/// The answer to a push that is stored.
#[must_use]
pub fn success() -> Response<Full<Bytes>> {
    json(StatusCode::OK, Bytes::from_static(br#"{"message":"success","retcode":"0"}"#))
}

/// The answer to a push that is not. It carries the request's name; the answer of success stays as it is documented, bare.
#[must_use]
pub fn refusal(refusal: &Refusal, request_id: RequestId) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "message": refusal.to_string(), "retcode": refusal.retcode() });
    let mut response = json(refusal.status(), Bytes::from(body.to_string()));
    if let Ok(name) = HeaderValue::try_from(request_id.to_string()) {
        response.headers_mut().insert(request::HEADER, name);
    }
    if refusal.leaves_body() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if matches!(refusal, Refusal::MethodNotAllowed) {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}
