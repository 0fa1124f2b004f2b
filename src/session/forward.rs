//! Calls of others passed on with an agent's GUID: which are let through, and what comes of one.
//!
//! A session's own calls (sign-in, sign-out, heartbeat and the like) are not passed on: made behind the session's
//! back they would break its order, cost it events, or the password that it signs in with.

use bytes::Bytes;
use http::Method;
use http::uri::PathAndQuery;
use thiserror::Error;

use crate::session::call::CallError;

/// Calls that wait for one agent's session. More are refused, so that one caller cannot fill the memory.
pub const FORWARD_QUEUE: usize = 8;
/// The largest body we pass on: call data has 16 KiB, messages less.
pub const FORWARD_BODY_BYTES: usize = 64 * 1024;

/// What a segment of a path may have besides letters and digits.
const PLAIN: &[u8] = b"-_.~:,@+$*";
/// What may stand there as its code.
const ENCODED: &[u8] = b" !\"#$&'()*+,:<=>@[]^`{|}~";
/// What stands after `onlineagent/{agentid}/` in the session's own calls.
const OWN_CALLS: [&str; 10] = [
    "forcelogin",
    "loginex",
    "logout",
    "forcelogout",
    "forcelogoutwithreason",
    "handshake",
    "heartbeat",
    "updateguid",
    // Empties the agent's queue of events at the gateway.
    "syncagentinfo",
    // The next sign-in would meet a password that is none any more, and tries with wrong ones lock the account.
    "modifyaccountpwdex",
];

/// One call to be passed on to the gateway, checked.
#[derive(Debug, Clone)]
pub struct ForwardRequest {
    method: Method,
    path: PathAndQuery,
    content_type: Option<String>,
    body: Bytes,
}

/// What the gateway answered.
#[derive(Debug, Clone)]
pub struct ForwardAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The header of that name.
    pub content_type: Option<String>,
    /// The body as it came.
    pub body: Bytes,
}

/// A call that is not passed on, or that no answer came to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForwardError {
    /// The path is none that is passed on.
    #[error("the path must begin with a slash and be a plain one below the gateway's base URL")]
    Path,
    /// The method is none of the gateway's.
    #[error("only GET, POST, PUT and DELETE are passed on")]
    Method,
    /// The body is too large.
    #[error("the body has more than {FORWARD_BODY_BYTES} bytes")]
    TooLarge,
    /// The call belongs to the session.
    #[error("this call is the session's own")]
    OwnCall,
    /// There is no such agent.
    #[error("no such agent")]
    UnknownAgent,
    /// The agent is not signed in.
    #[error("the agent is not signed in")]
    NoSession,
    /// Too many calls wait for this agent's session.
    #[error("too many calls wait for this agent")]
    QueueFull,
    /// The session had no time for it before its deadline; the gateway has not seen it.
    #[error("the session had no time for it before the deadline")]
    Expired,
    /// Its caller had gone before the session had time for it; the gateway has not seen it.
    #[error("the caller had gone before the session had time for it")]
    CallerGone,
    /// The call was made and failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The session ended before an answer came; the gateway may have done what was asked.
    #[error("the session ended before an answer came")]
    Ended,
}

impl ForwardRequest {
    /// Checks a call. `path` comes after the gateway's base URL, with its query: `/voicecall/291/answer?callid=7`.
    ///
    /// # Errors
    /// When it is not one to be passed on.
    pub fn new(
        method: Method,
        path: &str,
        content_type: Option<String>,
        body: Bytes,
    ) -> Result<ForwardRequest, ForwardError> {
        if !matches!(method, Method::GET | Method::POST | Method::PUT | Method::DELETE) {
            return Err(ForwardError::Method);
        }
        if body.len() > FORWARD_BODY_BYTES {
            return Err(ForwardError::TooLarge);
        }
        let parsed: PathAndQuery = path.parse().map_err(|_| ForwardError::Path)?;
        check_path(&method, parsed.path())?;
        Ok(ForwardRequest { method, path: parsed, content_type, body })
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Path and query below the gateway's base URL.
    #[must_use]
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// The type of the body, where one was given.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Servers read paths differently, so only those are let through that can be read in one way.
fn check_path(method: &Method, path: &str) -> Result<(), ForwardError> {
    let segments: Vec<&str> = path.strip_prefix('/').ok_or(ForwardError::Path)?.split('/').collect();
    let plain = |segment: &&str| {
        is_plain(segment.as_bytes()) && !segment.is_empty() && !segment.bytes().all(|byte| byte == b'.')
    };
    if !segments.iter().all(plain) {
        return Err(ForwardError::Path);
    }
    let is = |segment: &str, name: &str| segment.eq_ignore_ascii_case(name);
    match &segments[..] {
        [root, _agent] if is(root, "onlineagent") && method == Method::PUT => Err(ForwardError::OwnCall),
        [root, _agent, name, ..] if is(root, "onlineagent") && OWN_CALLS.iter().any(|own| is(name, own)) => {
            Err(ForwardError::OwnCall)
        }
        [root, account] if is(root, "onlineagent") && is(account, "loginbyaccount") => {
            Err(ForwardError::OwnCall)
        }
        _ => Ok(()),
    }
}

/// Bytes that mean nothing to a server, and percent signs before the code of such a byte: `seconddial/%23` dials a hash.
/// Letters, digits and dots must stand as they are, so that no name has two spellings; a slash, backslash, semicolon,
/// percent sign or control character must not come at all.
fn is_plain(mut segment: &[u8]) -> bool {
    while let Some((first, rest)) = segment.split_first() {
        segment = match (first, rest) {
            (b'%', [high, low, rest @ ..]) => {
                let digits = char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16));
                let byte = digits.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                if !byte.is_some_and(|byte| ENCODED.contains(&byte)) {
                    return false;
                }
                rest
            }
            (byte, rest) if byte.is_ascii_alphanumeric() || PLAIN.contains(byte) => rest,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, path: &str) -> Result<(), ForwardError> {
        ForwardRequest::new(method.clone(), path, None, Bytes::new()).map(drop)
    }

    #[test]
    fn calls_of_the_gateways_documents_are_let_through() {
        for (method, path) in [
            (Method::POST, "/onlineagent/291/saybusy?reason=200&prolong=true"),
            (Method::PUT, "/voicecall/291/callout"),
            (Method::DELETE, "/voicecall/291/release"),
            (Method::GET, "/onlineagent/291/agentstatus"),
            (Method::POST, "/voicecall/291/dropcall/1471585949-12"),
            (Method::POST, "/voicecall/291/seconddial/12*"),
            (Method::POST, "/voicecall/291/seconddial/%23"),
            (Method::POST, "/voicecall/291/seconddial/1%2A2%2a%23%20%5b"),
            (Method::POST, "/onlineagent/291/resetskill/false?skillid=1;2;3"),
        ] {
            assert_eq!(check(&method, path), Ok(()), "{path}");
        }
    }

    #[test]
    fn the_sessions_own_calls_are_refused_however_they_are_spelt() {
        for (method, path) in [
            (Method::PUT, "/onlineagent/291"),
            (Method::PUT, "/OnlineAgent/291/forceLogin"),
            (Method::DELETE, "/onlineagent/291/logout?x=1"),
            (Method::DELETE, "/onlineagent/291/forcelogoutwithreason/3"),
            (Method::POST, "/onlineagent/291/handshake"),
            (Method::PUT, "/onlineagent/291/updateGuid"),
            (Method::PUT, "/onlineagent/loginbyaccount"),
            (Method::POST, "/onlineagent/291/syncAgentInfo"),
            (Method::POST, "/onlineagent/291/modifyaccountpwdex"),
        ] {
            assert_eq!(check(&method, path), Err(ForwardError::OwnCall), "{path}");
        }
    }

    #[test]
    fn paths_that_could_be_read_in_two_ways_are_refused() {
        for path in [
            "voicecall/291/answer",
            "//voicecall/291",
            "/voicecall/../onlineagent/291/logout",
            "/voicecall/%2e%2e/x",
            "/onlineagent/291/log%6fut",
            "/voicecall/291/seconddial/%2e%2e",
            "/voicecall/291/seconddial/%2E",
            "/voicecall/291/seconddial/.%2e",
            "/voicecall/291/seconddial/x%2fy",
            "/voicecall/291/seconddial/x%2Fy",
            "/voicecall/291/seconddial/x%5cy",
            "/voicecall/291/seconddial/%00",
            "/voicecall/291/seconddial/%0d%0aGuid:x",
            "/voicecall/291/seconddial/%7f",
            "/voicecall/291/seconddial/%252e%252e",
            "/voicecall/291/seconddial/%25",
            "/voicecall/291/seconddial/%3bx=1",
            "/voicecall/291/seconddial/%3fx=1",
            "/voicecall/291/seconddial/%c0%af",
            "/voicecall/291/seconddial/%31",
            "/voicecall/291/seconddial/%",
            "/voicecall/291/seconddial/%2",
            "/voicecall/291/seconddial/%+2",
            "/voicecall/291/seconddial/%zz",
            "/onlineagent/291/logout;x=1",
            "/onlineagent//291",
            "/voicecall/291/",
            "/voicecall\\291",
            "https://elsewhere.example/x",
            "/x y",
            "",
        ] {
            assert_eq!(check(&Method::GET, path), Err(ForwardError::Path), "{path}");
        }
        assert_eq!(check(&Method::PATCH, "/voicecall/291/answer"), Err(ForwardError::Method));
        let large = Bytes::from(vec![b'x'; FORWARD_BODY_BYTES + 1]);
        let refused = ForwardRequest::new(Method::POST, "/x", None, large);
        assert_eq!(refused.map(drop), Err(ForwardError::TooLarge));
    }
}
