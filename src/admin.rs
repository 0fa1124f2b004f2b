//! The operations listener: the status page at `/`, `/metrics`, `/live`, `/ready`, and the admin API under `/api`. It runs on a thread of its own,
//! so that it answers also when the data path is saturated.
//!
//! - **In** (`listen` -> here -> `api`): pages for everybody, the API for who has a token (`tokens`).
//! - **Routes** (`routes`): one table; `openapi.json` beside it says the same, and a test compares them.
//! - **Answers** (`agents`, `change`, `through`, `letters`, `status`, `fault`): JSON; failures as `{"error":{"code","message"}}`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::listen::{Handler, Incomer, Limits};
use crate::metrics::Metrics;

mod agents;
mod api;
mod change;
mod concerns;
mod fault;
mod feed;
mod forecast;
pub mod kept;
mod letters;
mod live;
mod page;
mod places;
mod pulse;
mod routes;
#[cfg(test)]
mod schema;
mod status;
#[cfg(test)]
mod tests;
mod through;
pub mod tokens;

pub use api::{Api, Parts};
pub use live::Page;

/// Limits of the operations listener: scrapers, people and callers of the API, who are never answered on more than a part of the
/// connections (`places`).
#[must_use]
pub fn limits() -> Limits {
    Limits {
        max_connections: 256,
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(120),
        max_head_bytes: 16 * 1024,
        listener: "operations",
        counted: false,
    }
}

/// Whether pushes are taken. Degraded is not unready: as long as the spool can store, traffic must keep coming.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Says that pushes are taken, or no longer.
    pub fn set(&self, ready: bool, metrics: &Metrics) {
        self.ready.store(ready, Ordering::Release);
        metrics.ready.set(i64::from(ready));
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// Answers on the operations listener.
#[derive(Debug)]
pub struct OperationsHandler {
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `/ready` shows.
    pub readiness: Readiness,
    /// What `/api` leads to.
    pub api: Api,
}

impl Handler for OperationsHandler {
    type Body = Page;

    async fn handle(&self, request: Request<Incoming>, from: Incomer) -> Response<Page> {
        if request.uri().path().starts_with("/api/") {
            return self.api.answer(request, &from).await;
        }
        self.page(&request).map(Page::from)
    }
}

impl OperationsHandler {
    fn page(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let mut page = text(StatusCode::OK, self.metrics.render());
                let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                page.headers_mut().insert(header::CONTENT_TYPE, kind);
                page
            }
            "/" | "/status" => page::page(),
            "/runbook" => page::runbook(),
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" if self.readiness.is_ready() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or stopping\n"),
            _ => text(StatusCode::NOT_FOUND, "here are /, /metrics, /live, /ready, /runbook and /api/v1\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
