//! What people may see of events that were set aside: what their sink would have got, with the same hidden.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::SinkConfig;
use crate::event::Event;
use crate::route::Router;
use crate::spool::LetterSight;

/// The ways to all sinks of the configuration. Of a sink that is not there any more nothing is known, so where any other
/// hides something its letters are shown without what the gateway said.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    routers: Arc<BTreeMap<String, Router>>,
}

impl Sight {
    /// By these sinks.
    #[must_use]
    pub fn of(sinks: &[SinkConfig]) -> Sight {
        let routers = sinks.iter().map(|sink| (sink.name.clone(), sink.router.clone()));
        Sight { routers: Arc::new(routers.collect()) }
    }
}

impl LetterSight for Sight {
    fn event(&self, sink: &str, mut event: Event) -> Event {
        match self.routers.get(sink) {
            Some(router) => router.hide(event),
            None if self.routers.values().any(Router::hides) => {
                event.data.details = Default::default();
                let raw = &mut event.data.raw;
                (raw.content, raw.event, raw.withheld) = (None, None, true);
                event
            }
            None => event,
        }
    }

    fn body(&self, sink: &str) -> bool {
        self.routers
            .get(sink)
            .map_or_else(|| !self.routers.values().any(Router::hides), |router| !router.hides())
    }
}
