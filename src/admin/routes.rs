//! Every route of the admin API, in one table: the router reads it, and a test holds the OpenAPI document against it.

use hyper::Method;

use crate::event::{AgentId, GatewayName};

/// Where the API begins.
pub(super) const ROOT: &str = "/api/v1";

/// Where calls to the gateway itself go.
const THROUGH: &str = "/gateway/{gateway}/{agent}/{path...}";

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody.
    Open,
    /// Every token.
    Read,
    /// Tokens that may do everything.
    Admin,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    OpenApi,
    Status,
    FollowStatus,
    Events,
    Sinks,
    Reload,
    Agents,
    Agent,
    SignIn,
    SignOut,
    TakeOver,
    PutAgent,
    RemoveAgent,
    Adopt,
    Guid,
    CallThrough,
    DeadLetters,
    DeadLetter,
    Export,
    ReplayOne,
    Replay,
    DiscardOne,
    Discard,
}

/// One method on one path.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Below [`ROOT`]; `{name}` stands for one segment.
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) endpoint: Endpoint,
}

impl Route {
    /// What stood at the names of its path in a path that led to it.
    pub(super) fn params<'a>(&self, path: &'a str) -> Params<'a> {
        path.strip_prefix(ROOT).and_then(|path| matched(self.path, path)).unwrap_or_default()
    }

    /// Whether a call leaves a line in the log that says who called: it changes something, or gives something away.
    pub(super) fn is_audited(&self) -> bool {
        self.access == Access::Admin || matches!(self.endpoint, Endpoint::DeadLetter | Endpoint::Export)
    }
}

const fn route(method: Method, path: &'static str, access: Access, endpoint: Endpoint) -> Route {
    Route { method, path, access, endpoint }
}

/// All of them. Where two match a path, the first counts.
pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, "/openapi.json", Access::Open, Endpoint::OpenApi),
    route(Method::GET, "/status", Access::Read, Endpoint::Status),
    route(Method::GET, "/status/stream", Access::Read, Endpoint::FollowStatus),
    route(Method::GET, "/events", Access::Read, Endpoint::Events),
    route(Method::GET, "/sinks", Access::Read, Endpoint::Sinks),
    route(Method::POST, "/reload", Access::Admin, Endpoint::Reload),
    route(Method::GET, "/agents", Access::Read, Endpoint::Agents),
    route(Method::GET, "/agents/{gateway}/{agent}", Access::Read, Endpoint::Agent),
    route(Method::POST, "/agents/{gateway}/{agent}/sign-in", Access::Admin, Endpoint::SignIn),
    route(Method::POST, "/agents/{gateway}/{agent}/sign-out", Access::Admin, Endpoint::SignOut),
    route(Method::POST, "/agents/{gateway}/{agent}/take-over", Access::Admin, Endpoint::TakeOver),
    route(Method::PUT, "/agents/{gateway}/{agent}", Access::Admin, Endpoint::PutAgent),
    route(Method::DELETE, "/agents/{gateway}/{agent}", Access::Admin, Endpoint::RemoveAgent),
    route(Method::POST, "/agents/{gateway}/{agent}/adopt", Access::Admin, Endpoint::Adopt),
    route(Method::GET, "/agents/{gateway}/{agent}/guid", Access::Admin, Endpoint::Guid),
    route(Method::GET, THROUGH, Access::Admin, Endpoint::CallThrough),
    route(Method::POST, THROUGH, Access::Admin, Endpoint::CallThrough),
    route(Method::PUT, THROUGH, Access::Admin, Endpoint::CallThrough),
    route(Method::DELETE, THROUGH, Access::Admin, Endpoint::CallThrough),
    route(Method::GET, "/dead-letters", Access::Read, Endpoint::DeadLetters),
    route(Method::GET, "/dead-letters/export", Access::Read, Endpoint::Export),
    route(Method::POST, "/dead-letters/replay", Access::Admin, Endpoint::Replay),
    route(Method::POST, "/dead-letters/discard", Access::Admin, Endpoint::Discard),
    route(Method::GET, "/dead-letters/{id}", Access::Read, Endpoint::DeadLetter),
    route(Method::DELETE, "/dead-letters/{id}", Access::Admin, Endpoint::DiscardOne),
    route(Method::POST, "/dead-letters/{id}/replay", Access::Admin, Endpoint::ReplayOne),
];

/// What stood in a path where its route has names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Params<'a> {
    named: Vec<(&'static str, &'a str)>,
}

impl<'a> Params<'a> {
    /// What stood at this name; empty when the route has no such name.
    pub(super) fn text(&self, name: &str) -> &'a str {
        self.named.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// Gateway and agent, where both can be names.
    pub(super) fn agent(&self) -> Option<(GatewayName, AgentId)> {
        Some((GatewayName::parse(self.text("gateway")).ok()?, AgentId::parse(self.text("agent")).ok()?))
    }
}

/// What a method and a path lead to.
#[derive(Debug)]
pub(super) enum Found {
    Route(&'static Route),
    /// Only with other methods: these.
    Methods(String),
    Nothing,
}

/// Looks a path up. It is taken as it came: an encoded character matches nothing but itself.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let Some(path) = path.strip_prefix(ROOT) else { return Found::Nothing };
    let mut methods: Vec<&str> = Vec::new();
    for route in ROUTES {
        if matched(route.path, path).is_none() {
            continue;
        }
        if route.method == *method {
            return Found::Route(route);
        }
        methods.push(route.method.as_str());
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods.join(", ")) }
}

/// `{name}` takes one segment that is not empty, `{name...}` at the end takes all that is left.
fn matched<'a>(template: &'static str, path: &'a str) -> Option<Params<'a>> {
    let mut params = Params::default();
    let (mut template, mut path) = (template.strip_prefix('/')?, path.strip_prefix('/')?);
    loop {
        let (wanted, template_rest) = cut(template);
        if let Some(name) = wanted.strip_prefix('{').and_then(|name| name.strip_suffix("...}")) {
            params.named.push((name, path));
            return (!path.is_empty()).then_some(params);
        }
        let (found, path_rest) = cut(path);
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(_) if found.is_empty() => return None,
            Some(name) => params.named.push((name, found)),
            None if wanted != found => return None,
            None => {}
        }
        match (template_rest, path_rest) {
            (None, None) => return Some(params),
            (Some(a), Some(b)) => (template, path) = (a, b),
            _ => return None,
        }
    }
}

fn cut(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_route_with_what_stood_at_its_names() {
        let path = "/api/v1/agents/main/1001/sign-in";
        let Found::Route(route) = find(&Method::POST, path) else { panic!("no route") };
        assert_eq!(route.endpoint, Endpoint::SignIn);
        let (gateway, agent) = route.params(path).agent().unwrap();
        assert_eq!((gateway.as_str(), agent.as_str()), ("main", "1001"));
    }

    #[test]
    fn paths_that_are_nearly_right_lead_nowhere() {
        for path in [
            "/api/v1",
            "/api/v1/",
            "/api/v1/status/",
            "/api/v1//status",
            "/api/v1/agents/main",
            "/api/v1/agents//1001",
            "/api/v1/agents/main/",
            "/api/v1/agents/main/1001/",
            "/api/v1/%73tatus",
            "/api/v2/status",
            "/metrics",
        ] {
            assert!(matches!(find(&Method::GET, path), Found::Nothing), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let Found::Methods(methods) = find(&Method::PATCH, "/api/v1/status") else { panic!("no methods") };
        assert_eq!(methods, "GET");
    }

    #[test]
    fn the_last_name_can_take_all_that_is_left() {
        let params = matched("/gateway/{gateway}/{path...}", "/gateway/main/voicecall/1/answer").unwrap();
        assert_eq!((params.text("gateway"), params.text("path")), ("main", "voicecall/1/answer"));
        assert!(matched("/gateway/{gateway}/{path...}", "/gateway/main/").is_none());
        assert!(matched("/gateway/{gateway}/{path...}", "/gateway/main").is_none());
    }
}
