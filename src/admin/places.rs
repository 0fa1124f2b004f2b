//! Who is answered at the moment: a caller beyond the limit is told to come again, at once.
//!
//! A call through to the gateway may take as long as the gateway does, and each holds a connection of the listener. There are
//! so few places that, with the readers of live answers, a good part of the listener's connections is left for `/live`, `/ready`
//! and `/metrics`, which need no place. Calls through have places of their own, so that while the gateway is slow people can
//! still see how things are, and change them. Some places are for who may change things alone: those who only look are many, and
//! cannot be told from one that means ill.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::fault::Fault;
use super::routes::Endpoint;
use super::tokens::Scope;

/// Requests that are answered at a time: calls through to the gateway, and as many others.
pub(super) const PLACES: usize = 64;

/// Of the others, those for callers of the scope admin alone.
const FOR_ADMINS: usize = 16;

/// The places of requests.
#[derive(Debug)]
pub(super) struct Places {
    through: Arc<Semaphore>,
    admins: Arc<Semaphore>,
    everybody: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Places {
        let places = |count| Arc::new(Semaphore::new(count));
        Places { through: places(PLACES), admins: places(FOR_ADMINS), everybody: places(PLACES - FOR_ADMINS) }
    }

    /// A place for a request of this scope to this endpoint, which is given back when it is dropped.
    pub(super) fn take(&self, endpoint: Endpoint, scope: Scope) -> Result<OwnedSemaphorePermit, Fault> {
        let free = |places: &Arc<Semaphore>| places.clone().try_acquire_owned().ok();
        let (place, count, what) = match (endpoint, scope) {
            (Endpoint::CallThrough, _) => (free(&self.through), PLACES, "calls through to gateways"),
            (_, Scope::Admin) => (free(&self.admins).or_else(|| free(&self.everybody)), PLACES, "requests"),
            (_, Scope::Read) => (free(&self.everybody), PLACES - FOR_ADMINS, "requests of the scope read"),
        };
        place.ok_or_else(|| {
            let message = format_args!("{count} {what} are being answered, which is all there can be");
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
        let mut taken: Vec<_> =
            (0..PLACES).map(|_| places.take(Endpoint::CallThrough, Scope::Admin).unwrap()).collect();
        let refused = places.take(Endpoint::CallThrough, Scope::Admin).unwrap_err().response();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()[header::RETRY_AFTER]),
            (503, &"1".parse().unwrap())
        );
        assert!(places.take(Endpoint::Status, Scope::Read).is_ok());
        taken.pop();
        assert!(places.take(Endpoint::CallThrough, Scope::Admin).is_ok());
        let held = 2 * PLACES + MOST_READERS;
        assert!(held < super::super::limits().max_connections * 2 / 3, "{held}");
    }

    #[test]
    fn who_may_only_look_leaves_places_to_who_may_change_things() {
        let places = Places::new();
        let take = |scope| places.take(Endpoint::Status, scope);
        let readers: Vec<_> = (0..PLACES).map_while(|_| take(Scope::Read).ok()).collect();
        let admins: Vec<_> = (0..PLACES).map_while(|_| take(Scope::Admin).ok()).collect();
        assert_eq!((readers.len(), admins.len()), (PLACES - FOR_ADMINS, FOR_ADMINS));
        drop(readers);
        let more: Vec<_> = (0..PLACES).map_while(|_| take(Scope::Admin).ok()).collect();
        assert_eq!(more.len(), PLACES - FOR_ADMINS, "they may have all");
    }
}
