//! What a session asks of a gateway and what comes back, apart from how it travels: the trait that the HTTP client
//! implements and tests fake.

use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::AgentId;
use crate::session::config::{AgentConfig, GatewayConfig};
use crate::session::forward::{ForwardAnswer, ForwardRequest};
use crate::session::gateway::GatewayError;
use crate::session::gateway::turns::Turn;
use crate::session::retcode::{Operation, Retcode};
use crate::sink::BoxFuture;

/// Load balancers set one or two cookies; more than this many are not kept.
const MOST_COOKIES: usize = 16;

/// One gateway, as far as sessions are concerned.
pub trait GatewayCalls: Send + Sync {
    /// Waits until a call of this kind may be made, as few are made at a time; `heard` is when the gateway last heard of the
    /// agent's session, and `guid_since` when its GUID came. Whoever makes the call holds the permit until its end.
    ///
    /// The future fails with [`CallError::NotSent`] when the call would come too late. It may be dropped at any time; then
    /// the place in the queue is lost.
    fn admit(
        &self,
        operation: Operation,
        heard: Option<Instant>,
        guid_since: Option<Instant>,
    ) -> BoxFuture<'_, Result<Permit, CallError>> {
        let (_whatever_it_is, _and_of_whom) = (operation, (heard, guid_since));
        Box::pin(std::future::ready(Ok(Permit::default())))
    }

    /// Makes one call and waits for its end, at most for the configured deadline. Never repeats by itself.
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Answer>;

    /// Passes on one call of somebody else, with the agent's GUID and cookies and the deadline of a short call. Never
    /// repeats by itself.
    fn forward<'a>(&'a self, request: &'a ForwardRequest, ticket: &'a Ticket) -> BoxFuture<'a, Forwarded>;

    /// Reads the files of certificates anew; what it returns puts them in force for connections from then on. Calls that
    /// are under way end as they began.
    ///
    /// # Errors
    /// When a file cannot be used; then nothing has changed.
    fn renew<'a>(&'a self, config: &GatewayConfig) -> Result<PutInForce<'a>, GatewayError> {
        let _nothing_to_read = config;
        Ok(Box::new(|| ()))
    }
}

/// Leave to make one call, until it is dropped.
#[derive(Debug, Default)]
pub struct Permit {
    /// Nothing where calls are not counted.
    _held: Option<Turn>,
}

impl From<Turn> for Permit {
    fn from(held: Turn) -> Permit {
        Permit { _held: Some(held) }
    }
}

/// The second half of [`GatewayCalls::renew`].
pub type PutInForce<'a> = Box<dyn FnOnce() + Send + 'a>;

/// One call of one agent.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Which call.
    pub operation: Operation,
    /// Who, and with which sign-in options.
    pub agent: &'a AgentConfig,
    /// The password: sign-in only.
    pub password: Option<&'a SecretString>,
    /// A fresh callback token: sign-in and heartbeat.
    pub token: Option<&'a SecretString>,
    /// What proves the session: everything but sign-in.
    pub ticket: Option<&'a Ticket>,
}

impl Call<'_> {
    /// The agent's id.
    #[must_use]
    pub fn agent_id(&self) -> &AgentId {
        &self.agent.id
    }
}

/// What came of a call. GUID and cookies are taken from any 2xx answer, whatever its body says.
#[derive(Debug, Clone)]
pub struct Answer {
    /// A new GUID, when there was one.
    pub guid: Option<SecretString>,
    /// Cookies that were set.
    pub cookies: Vec<Cookie>,
    /// The body, or why there is none.
    pub verdict: Result<Reply, CallError>,
    /// The whole body, in UTF-8, where it is a poll's and brings an event.
    pub event: Option<Bytes>,
    /// Which of the gateway's addresses the call was sent to, where there may be others.
    pub address: Option<u8>,
}

impl Answer {
    /// An answer with nothing but an error.
    #[must_use]
    pub fn failed(error: CallError) -> Answer {
        Answer { guid: None, cookies: Vec::new(), verdict: Err(error), event: None, address: None }
    }
}

/// What came of a call that was passed on.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// A new GUID, when there was one.
    pub guid: Option<SecretString>,
    /// Cookies that were set.
    pub cookies: Vec<Cookie>,
    /// The answer, whatever its status, or why there is none.
    pub verdict: Result<ForwardAnswer, CallError>,
    /// The retcode in the answer's body, where there is one.
    pub retcode: Option<Retcode>,
}

impl Forwarded {
    /// An answer with nothing but an error.
    #[must_use]
    pub fn failed(error: CallError) -> Forwarded {
        Forwarded { guid: None, cookies: Vec::new(), verdict: Err(error), retcode: None }
    }
}

/// The body of an answer, read leniently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The result code.
    pub retcode: Retcode,
    /// The gateway's words; bounded, for a person to read.
    pub message: String,
    /// `result` of a sign-in; empty elsewhere.
    pub result: SignInResult,
}

/// What a sign-in tells about the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignInResult {
    /// Three letters T or F: voice, text chat, mail.
    pub media_type: Option<String>,
    /// The password must be changed before calls come.
    pub password_change_required: bool,
    /// Days until the password expires.
    pub password_days_left: Option<u32>,
    /// When the session began, by the gateway's clock.
    pub login_time: Option<Timestamp>,
}

/// A call without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// Too many calls wait for the gateway, and this one would have come too late; so it says nothing of the gateway.
    #[error("not sent: too many calls wait for the gateway")]
    NotSent,
    /// No connection, so the gateway certainly has not seen the call.
    #[error("the gateway cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time; the gateway may have done what was asked.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The connection broke, or the answer is none of the gateway's; it may have done what was asked.
    #[error("the call broke: {0}")]
    Broken(String),
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
}

impl CallError {
    /// Whether the gateway may have done what was asked although we have no answer. Status 503 is what a load balancer
    /// without a gateway behind it says, or one that takes no more.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        !matches!(self, CallError::NotSent | CallError::Unreachable(_) | CallError::Status(503))
    }

    /// Everything that [`CallError::reason`] says.
    pub const REASONS: [&str; 5] = ["unreachable", "no_answer", "call_broken", "call_unknown", "http_status"];

    /// A short name for the admin API, where the gateway had a part in it.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            CallError::NotSent => return None,
            CallError::Unreachable(_) => "unreachable",
            CallError::TimedOut => "no_answer",
            CallError::Broken(_) => "call_broken",
            // A wrong path, or an id outside the pattern in the gateway's paths.
            CallError::Status(404 | 405 | 501) => "call_unknown",
            CallError::Status(_) => "http_status",
        })
    }

    /// Label `outcome` of the call metrics.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            CallError::NotSent => "queue",
            CallError::TimedOut => "timeout",
            CallError::Unreachable(_) | CallError::Broken(_) | CallError::Status(_) => "transport",
        }
    }
}

/// A cookie of a load balancer: its value routes to the node that holds the session, so it is kept like the GUID.
#[derive(Clone, Serialize, Deserialize)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value; empty when the answer deleted it.
    #[serde(with = "secret")]
    pub value: SecretString,
}

/// What proves a session: the GUID and the cookies that came with it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ticket {
    /// The newest GUID.
    #[serde(with = "secret")]
    pub guid: SecretString,
    /// The cookies, each name once.
    #[serde(default)]
    pub cookies: Vec<Cookie>,
    /// Which of the gateway's addresses has taken it last. A run does not know it of one that the run before left.
    #[serde(skip)]
    pub address: Option<u8>,
}

impl Ticket {
    /// The ticket of a fresh sign-in.
    #[must_use]
    pub fn new(guid: SecretString, cookies: Vec<Cookie>) -> Ticket {
        let mut ticket = Ticket { guid, cookies: Vec::new(), address: None };
        ticket.set_cookies(cookies);
        ticket
    }

    /// Whether the gateway took it last at another address than this one.
    #[must_use]
    pub fn is_from_elsewhere(&self, address: Option<u8>) -> bool {
        self.address.zip(address).is_some_and(|(home, address)| home != address)
    }

    /// Takes over a new GUID and says whether it differs from the one held.
    pub fn set_guid(&mut self, guid: SecretString) -> bool {
        let changed = self.guid.expose_secret() != guid.expose_secret();
        self.guid = guid;
        changed
    }

    /// Takes over cookies: a name that is held gets the new value, an empty value deletes.
    pub fn set_cookies(&mut self, cookies: Vec<Cookie>) {
        for cookie in cookies {
            self.cookies.retain(|held| held.name != cookie.name);
            if !cookie.value.expose_secret().is_empty() && self.cookies.len() < MOST_COOKIES {
                self.cookies.push(cookie);
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket([redacted], {} cookies)", self.cookies.len())
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cookie({}=[redacted])", self.name)
    }
}

/// Secrets inside the session store, whose files only we can read.
pub(super) mod secret {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::session) fn serialize<S: Serializer>(
        secret: &SecretString,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose_secret())
    }

    pub(in crate::session) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretString, D::Error> {
        Ok(SecretString::from(String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(name: &str, value: &str) -> Cookie {
        Cookie { name: name.into(), value: value.into() }
    }

    #[test]
    fn cookies_are_replaced_by_name_and_deleted_by_an_empty_value() {
        let mut ticket = Ticket::new("g".into(), vec![cookie("a", "1"), cookie("b", "2")]);
        ticket.set_cookies(vec![cookie("a", "3"), cookie("b", "")]);
        assert_eq!(ticket.cookies.len(), 1);
        assert_eq!(ticket.cookies[0].value.expose_secret(), "3");
    }

    #[test]
    fn the_number_of_cookies_is_bounded() {
        let many = (0..100).map(|n| cookie(&n.to_string(), "x")).collect();
        assert_eq!(Ticket::new("g".into(), many).cookies.len(), MOST_COOKIES);
    }

    #[test]
    fn a_ticket_hides_its_secrets_in_debug_and_keeps_them_in_the_store() {
        let ticket = Ticket::new("guid-secret".into(), vec![cookie("route", "cookie-secret")]);
        let shown = format!("{ticket:?} {:?}", ticket.cookies);
        assert!(!shown.contains("secret"), "{shown}");
        let stored: Ticket = serde_json::from_slice(&serde_json::to_vec(&ticket).unwrap()).unwrap();
        assert_eq!(stored.guid.expose_secret(), "guid-secret");
        assert_eq!(stored.cookies[0].value.expose_secret(), "cookie-secret");
    }
}
