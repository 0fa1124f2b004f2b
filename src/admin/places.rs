//! Who is answered at the moment: a caller beyond the limit is told to come again, at once.
//!
//! A call through to the gateway may take as long as the gateway does, and each holds a connection of the listener. There are
//! so few places that, with the readers of live answers, a good part of the listener's connections is left for `/live`, `/ready`
//! and `/metrics`, which need no place. Calls through have places of their own, so that while the gateway is slow people can
//! still see how things are, and change them.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;
use super::routes::Endpoint;

/// Requests that are answered at a time: calls through to the gateway, and as many others.
pub(super) const PLACES: usize = 64;

/// The places of requests.
#[derive(Debug)]
pub(super) struct Places {
    through: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places { through: Arc::new(Semaphore::new(PLACES)), others: Arc::new(Semaphore::new(PLACES)) }
    }

    /// A place for a request to this endpoint, which is given back when it is dropped.
    pub(super) fn take(&self, endpoint: Endpoint) -> Result<OwnedSemaphorePermit, Fault> {
        let (places, what) = match endpoint {
            Endpoint::CallThrough => (&self.through, "calls through to gateways"),
            _ => (&self.others, "requests"),
        };
        places.clone().try_acquire_owned().map_err(|_| {
            let message = format_args!("{PLACES} {what} are being answered, which is all there can be");
            let fault = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).closing();
            fault.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::live::MOST_READERS;
    use super::*;

    #[test]
    fn calls_through_take_no_place_from_others_and_all_leave_connections_to_the_pages() {
        let places = Places::new();
        let mut taken: Vec<_> = (0..PLACES).map(|_| places.take(Endpoint::CallThrough).unwrap()).collect();
        let refused = places.take(Endpoint::CallThrough).unwrap_err().response();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()[header::RETRY_AFTER]),
            (503, &"1".parse().unwrap())
        );
        assert!(places.take(Endpoint::Status).is_ok());
        taken.pop();
        assert!(places.take(Endpoint::CallThrough).is_ok());
        let held = 2 * PLACES + MOST_READERS;
        assert!(held < super::super::limits().max_connections * 2 / 3, "{held}");
    }
}
