//! The ways to all sinks, which can be replaced while the workers run; and what people may see of events that were set
//! aside: what their sink would have got, with the same hidden.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::SinkConfig;
use crate::event::Event;
use crate::event::details::Details;
use crate::route::Router;
use crate::spool::LetterSight;

/// The way to one sink. Whoever follows it looks anew for each record.
pub type Way = Arc<ArcSwap<Router>>;

/// The ways to all sinks of the configuration; cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    by_sink: Arc<BTreeMap<String, Way>>,
}

impl Ways {
    /// Those of these sinks.
    #[must_use]
    pub fn of(sinks: &[SinkConfig]) -> Ways {
        let ways = sinks.iter().map(|sink| (sink.name.clone(), way(sink.router.clone())));
        Ways { by_sink: Arc::new(ways.collect()) }
    }

    /// The way to the sink of this name; nothing goes to one that was not there.
    #[must_use]
    pub fn to(&self, sink: &str) -> Way {
        let none = || way(Router::new(Vec::new(), None, Arc::default()));
        self.by_sink.get(sink).cloned().unwrap_or_else(none)
    }

    /// Takes the ways of these sinks from now on. Sinks that were not there have no way to be replaced.
    pub fn replace(&self, sinks: Vec<SinkConfig>) {
        for sink in sinks {
            if let Some(way) = self.by_sink.get(&sink.name) {
                way.store(Arc::new(sink.router));
            }
        }
    }

    /// The routers of all sinks as they are now.
    #[must_use]
    pub fn routers(&self) -> Vec<Arc<Router>> {
        self.by_sink.values().map(|way| way.load_full()).collect()
    }

    fn any_hides(&self) -> bool {
        self.by_sink.values().any(|way| way.load().hides())
    }
}

/// The way that this router shows.
#[must_use]
pub fn way(router: Router) -> Way {
    Arc::new(ArcSwap::from_pointee(router))
}

/// Of a sink that is not there any more nothing is known, so where any other hides something its letters are shown without
/// what the gateway said.
impl LetterSight for Ways {
    fn event(&self, sink: &str, mut event: Event) -> Event {
        match self.by_sink.get(sink) {
            Some(way) => return way.load().hide(event),
            None if self.any_hides() => {
                event.data.details = Details::default();
                let raw = &mut event.data.raw;
                (raw.content, raw.event, raw.withheld) = (None, None, true);
            }
            None => {}
        }
        event
    }

    fn body(&self, sink: &str) -> bool {
        !self.by_sink.get(sink).map_or_else(|| self.any_hides(), |way| way.load().hides())
    }
}
