//! The operations of the gateway's interface, and how a request names one: method, path, agent, argument.

use http::Method;
use serde::Deserialize;

/// Everything before the operation in a path.
pub(super) const BASE_PATH: &str = "/agentgateway/resource";

/// An operation of the interface, named as its path ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `PUT onlineagent/{id}`
    Login,
    /// `PUT onlineagent/{id}/forcelogin`
    ForceLogin,
    /// `DELETE onlineagent/{id}/logout`
    Logout,
    /// `DELETE onlineagent/{id}/forcelogout`
    ForceLogout,
    /// `DELETE onlineagent/{id}/forcelogoutwithreason/{reason}`
    ForceLogoutWithReason,
    /// `POST onlineagent/{id}/resetskill/{autoflag}`
    ResetSkill,
    /// `GET onlineagent/{id}/agentskills`
    AgentSkills,
    /// `GET onlineagent/{id}/agentstatus`
    AgentStatus,
    /// `POST onlineagent/{id}/handshake`
    Handshake,
    /// `PUT onlineagent/{id}/updateGuid`
    UpdateGuid,
    /// `GET agentevent/{id}`
    AgentEvent,
    /// `POST onlineagent/{id}/autoanswer/{flag}`
    AutoAnswer,
    /// `POST onlineagent/{id}/autoenteridle/{flag}`
    AutoEnterIdle,
    /// `POST onlineagent/{id}/sayfree`
    SayFree,
    /// `POST onlineagent/{id}/saybusy`
    SayBusy,
    /// `POST onlineagent/{id}/cancelbusy`
    CancelBusy,
    /// `POST onlineagent/{id}/rest/{time}/{cause}`
    Rest,
    /// `POST onlineagent/{id}/cancelrest`
    CancelRest,
    /// `POST onlineagent/{id}/work`
    Work,
    /// `POST onlineagent/{id}/cancelwork`
    CancelWork,
}

/// A request understood as far as its path goes.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) agent: String,
    pub(super) arguments: Vec<String>,
    pub(super) query: Vec<(String, String)>,
}

/// Why a path names no operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoOperation {
    /// There is none: 404.
    Path,
    /// There is one, by another method: 405.
    Method,
}

/// Verb in the path, method, number of path arguments. Case counts: `forceLogin` is not there.
const TABLE: [(&str, Operation, Method, usize); 19] = [
    ("", Operation::Login, Method::PUT, 0),
    ("forcelogin", Operation::ForceLogin, Method::PUT, 0),
    ("logout", Operation::Logout, Method::DELETE, 0),
    ("forcelogout", Operation::ForceLogout, Method::DELETE, 0),
    ("forcelogoutwithreason", Operation::ForceLogoutWithReason, Method::DELETE, 1),
    ("resetskill", Operation::ResetSkill, Method::POST, 1),
    ("agentskills", Operation::AgentSkills, Method::GET, 0),
    ("agentstatus", Operation::AgentStatus, Method::GET, 0),
    ("handshake", Operation::Handshake, Method::POST, 0),
    ("updateGuid", Operation::UpdateGuid, Method::PUT, 0),
    ("autoanswer", Operation::AutoAnswer, Method::POST, 1),
    ("autoenteridle", Operation::AutoEnterIdle, Method::POST, 1),
    ("sayfree", Operation::SayFree, Method::POST, 0),
    ("saybusy", Operation::SayBusy, Method::POST, 0),
    ("cancelbusy", Operation::CancelBusy, Method::POST, 0),
    ("rest", Operation::Rest, Method::POST, 2),
    ("cancelrest", Operation::CancelRest, Method::POST, 0),
    ("work", Operation::Work, Method::POST, 0),
    ("cancelwork", Operation::CancelWork, Method::POST, 0),
];

impl Call {
    /// Understands method, path and query.
    pub(super) fn parse(
        method: &Method,
        path: &str,
        query: Option<&str>,
        limit: u32,
    ) -> Result<Call, NoOperation> {
        let rest = path.strip_prefix(BASE_PATH).and_then(|p| p.strip_prefix('/')).ok_or(NoOperation::Path)?;
        let mut segments = rest.split('/');
        let group = segments.next().unwrap_or_default();
        let agent = segments.next().filter(|id| is_agent(id, limit)).ok_or(NoOperation::Path)?;
        let tail: Vec<String> = segments.map(str::to_owned).collect();
        let (operation, allowed, arguments) = match group {
            "onlineagent" => find(&tail)?,
            "agentevent" if tail.is_empty() => (Operation::AgentEvent, Method::GET, Vec::new()),
            _ => return Err(NoOperation::Path),
        };
        if allowed != *method {
            return Err(NoOperation::Method);
        }
        Ok(Call { operation, agent: agent.to_owned(), arguments, query: parse_query(query) })
    }

    /// The value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The gateway's own path pattern: digits without a leading zero, up to a limit.
fn is_agent(id: &str, limit: u32) -> bool {
    !id.starts_with('0')
        && id.bytes().all(|b| b.is_ascii_digit())
        && id.parse::<u32>().is_ok_and(|number| number <= limit)
}

fn find(tail: &[String]) -> Result<(Operation, Method, Vec<String>), NoOperation> {
    let verb = tail.first().map_or("", String::as_str);
    let arguments = tail.get(1..).unwrap_or_default();
    TABLE
        .iter()
        .find(|(name, _, _, count)| {
            *name == verb && *count == arguments.len() && (name.is_empty() == tail.is_empty())
        })
        .map(|(_, operation, method, _)| (*operation, method.clone(), arguments.to_vec()))
        .ok_or(NoOperation::Path)
}

/// Query parameters. Only `&` separates them: a raw `;` belongs to the value, as skill lists need.
fn parse_query(query: Option<&str>) -> Vec<(String, String)> {
    query.map_or_else(Vec::new, |q| {
        url::form_urlencoded::parse(q.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Call, NoOperation> {
        Call::parse(method, &format!("{BASE_PATH}/{path}"), query, 59_999)
    }

    #[test]
    fn a_raw_semicolon_belongs_to_the_value_and_an_encoded_one_too() {
        for query in ["skillid=1;2;3&phonelinkage=0", "phonelinkage=0&skillid=1%3B2%3B3"] {
            let call = parse(&Method::POST, "onlineagent/101/resetskill/false", Some(query)).unwrap();
            assert_eq!(call.operation, Operation::ResetSkill);
            assert_eq!(call.parameter("skillid"), Some("1;2;3"));
            assert_eq!(call.parameter("phonelinkage"), Some("0"));
            assert_eq!(call.arguments, ["false"]);
        }
    }

    proptest! {
        #[test]
        fn any_path_and_query_is_understood_or_refused(path in "[a-z0-9/;%?]{0,40}|\\PC*", query in "\\PC*") {
            for method in [Method::GET, Method::PUT] {
                let _outcome = parse(&method, &path, Some(&query));
                let _outcome = Call::parse(&method, &path, None, 1);
            }
        }

        #[test]
        fn agent_ids_are_numbers_up_to_the_limit(id in 1u32..200_000) {
            let known = parse(&Method::PUT, &format!("onlineagent/{id}"), None).is_ok();
            prop_assert_eq!(known, id <= 59_999);
        }
    }
}
