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
    /// `PUT onlineagent/{id}/heartbeat`, of older gateways
    Heartbeat,
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
    /// `PUT voicecall/{id}/answer`
    Answer,
    /// `DELETE voicecall/{id}/release`
    Release,
    /// `POST voicecall/{id}/dropcall/{argument}`
    DropCall,
    /// `POST voicecall/{id}/hold`
    Hold,
    /// `POST voicecall/{id}/gethold`
    GetHold,
    /// `POST voicecall/{id}/transfer`
    Transfer,
    /// `POST voicecall/{id}/innerhelp`
    InnerHelp,
    /// `POST voicecall/{id}/beginmute`
    BeginMute,
    /// `POST voicecall/{id}/endmute`
    EndMute,
    /// `POST voicecall/{id}/seconddial/{argument}`
    SecondDial,
    /// `PUT voicecall/{id}/callout`
    CallOut,
    /// `PUT qualitycontrol/{id}/addinsert/{argument}`
    AddInsert,
    /// `PUT qualitycontrol/{id}/addsupervise/{argument}`
    AddSupervise,
    /// `PUT qualitycontrol/{id}/intercept/{argument}`
    Intercept,
    /// `POST qualitycontrol/{id}/switch/{argument}`
    SwitchInspection,
    /// `DELETE qualitycontrol/{id}/{agent}`
    StopInspection,
    /// `PUT recordplay/{id}/play`
    Play,
    /// `POST recordplay/{id}/pauseplay`
    PausePlay,
    /// `POST recordplay/{id}/resumeplay`
    ResumePlay,
    /// `POST recordplay/{id}/forefast/{argument}`
    ForeFast,
    /// `POST recordplay/{id}/backfast/{argument}`
    BackFast,
    /// `DELETE recordplay/{id}/stopplay`
    StopPlay,
    /// `POST mediacall/{id}/sendmessage`
    SendMessage,
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
const TABLE: [(&str, Operation, Method, usize); 20] = [
    ("", Operation::Login, Method::PUT, 0),
    ("forcelogin", Operation::ForceLogin, Method::PUT, 0),
    ("logout", Operation::Logout, Method::DELETE, 0),
    ("forcelogout", Operation::ForceLogout, Method::DELETE, 0),
    ("forcelogoutwithreason", Operation::ForceLogoutWithReason, Method::DELETE, 1),
    ("resetskill", Operation::ResetSkill, Method::POST, 1),
    ("agentskills", Operation::AgentSkills, Method::GET, 0),
    ("agentstatus", Operation::AgentStatus, Method::GET, 0),
    ("handshake", Operation::Handshake, Method::POST, 0),
    ("heartbeat", Operation::Heartbeat, Method::PUT, 0),
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

/// Operations of a call: group, verb, method, number of path arguments. Releasing without a verb is the old way.
const CALLS: [(&str, &str, Operation, Method, usize); 23] = [
    ("voicecall", "answer", Operation::Answer, Method::PUT, 0),
    ("voicecall", "release", Operation::Release, Method::DELETE, 0),
    ("voicecall", "", Operation::Release, Method::DELETE, 0),
    ("voicecall", "dropcall", Operation::DropCall, Method::POST, 1),
    ("voicecall", "hold", Operation::Hold, Method::POST, 0),
    ("voicecall", "gethold", Operation::GetHold, Method::POST, 0),
    ("voicecall", "transfer", Operation::Transfer, Method::POST, 0),
    ("voicecall", "innerhelp", Operation::InnerHelp, Method::POST, 0),
    ("voicecall", "beginmute", Operation::BeginMute, Method::POST, 0),
    ("voicecall", "endmute", Operation::EndMute, Method::POST, 0),
    ("voicecall", "seconddial", Operation::SecondDial, Method::POST, 1),
    ("voicecall", "callout", Operation::CallOut, Method::PUT, 0),
    ("qualitycontrol", "addinsert", Operation::AddInsert, Method::PUT, 1),
    ("qualitycontrol", "addsupervise", Operation::AddSupervise, Method::PUT, 1),
    ("qualitycontrol", "intercept", Operation::Intercept, Method::PUT, 1),
    ("qualitycontrol", "switch", Operation::SwitchInspection, Method::POST, 1),
    ("recordplay", "play", Operation::Play, Method::PUT, 0),
    ("recordplay", "pauseplay", Operation::PausePlay, Method::POST, 0),
    ("recordplay", "resumeplay", Operation::ResumePlay, Method::POST, 0),
    ("recordplay", "forefast", Operation::ForeFast, Method::POST, 1),
    ("recordplay", "backfast", Operation::BackFast, Method::POST, 1),
    ("recordplay", "stopplay", Operation::StopPlay, Method::DELETE, 0),
    ("mediacall", "sendmessage", Operation::SendMessage, Method::POST, 0),
];

impl Operation {
    /// Whether it makes something of a call, a recording or a message.
    pub(super) fn is_of_a_call(self) -> bool {
        self == Operation::StopInspection || CALLS.iter().any(|(_, _, operation, ..)| *operation == self)
    }
}

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
        let tail: Vec<String> = segments.map(decoded).collect();
        let (operation, allowed, arguments) = match group {
            "onlineagent" => find(&tail)?,
            "agentevent" if tail.is_empty() => (Operation::AgentEvent, Method::GET, Vec::new()),
            group => find_of_a_call(group, method, &tail)?,
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

fn find_of_a_call(
    group: &str,
    method: &Method,
    tail: &[String],
) -> Result<(Operation, Method, Vec<String>), NoOperation> {
    let verb = tail.first().map_or("", String::as_str);
    let arguments = tail.get(1..).unwrap_or_default();
    let found = CALLS.iter().find(|(its_group, name, _, _, count)| {
        *its_group == group
            && *name == verb
            && *count == arguments.len()
            && name.is_empty() == tail.is_empty()
    });
    match found {
        Some((_, _, operation, method, _)) => Ok((*operation, method.clone(), arguments.to_vec())),
        None if group == "qualitycontrol" && tail.len() == 1 && *method == Method::DELETE => {
            Ok((Operation::StopInspection, Method::DELETE, tail.to_vec()))
        }
        None => Err(NoOperation::Path),
    }
}

/// A segment of the path with its percent signs read.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        let (byte, used) = match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => (byte, 3),
            None => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

    #[test]
    fn operations_of_a_call_are_known_by_group_verb_and_arguments() {
        let of = |method, path| parse(&method, path, None).map(|call| (call.operation, call.arguments));
        let dial = of(Method::POST, "voicecall/101/seconddial/%23");
        assert_eq!(dial, Ok((Operation::SecondDial, vec!["#".to_owned()])));
        assert_eq!(of(Method::DELETE, "voicecall/101"), Ok((Operation::Release, Vec::new())));
        assert_eq!(of(Method::DELETE, "voicecall/101/release"), Ok((Operation::Release, Vec::new())));
        let stop = of(Method::DELETE, "qualitycontrol/101/102");
        assert_eq!(stop, Ok((Operation::StopInspection, vec!["102".to_owned()])));
        assert_eq!(of(Method::POST, "voicecall/101/answer"), Err(NoOperation::Method));
        assert_eq!(of(Method::PUT, "recordplay/101/answer"), Err(NoOperation::Path));
        assert_eq!(of(Method::PUT, "voicecall/101/answer/1"), Err(NoOperation::Path));
        for (cut, whole) in [("100%", "100%"), ("%2", "%2"), ("%zz", "%zz"), ("a%20b", "a b")] {
            assert_eq!(decoded(cut), whole);
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
