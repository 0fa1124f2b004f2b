//! Requests and answers as bytes. Names are the gateway's own; answers are read as leniently as they are written:
//! retcodes as string or number, booleans as `"false"`, `msg` for `message`, bodies in GBK.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderName};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::json::{self, Members};
use crate::event::report::LOGIN_TIME;
use crate::event::{AgentId, Json, charset};
use crate::session::call::{Call, CallError, Cookie, Reply, SignInResult, Ticket};
use crate::session::config::{GatewayConfig, Mode, SignInOptions, Skills};
use crate::session::forward::ForwardRequest;
use crate::session::retcode::{Operation, Retcode};

/// The answer header with a new GUID.
pub const SET_GUID: HeaderName = HeaderName::from_static("set-guid");
const GUID: HeaderName = HeaderName::from_static("guid");
const SERVICE_TOKEN: HeaderName = HeaderName::from_static("service_token");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");

/// GUIDs are about 55 characters.
const GUID_LENGTH: usize = 512;
/// A browser keeps 4 KiB per cookie.
const COOKIE_LENGTH: usize = 4096;
/// Enough of a message for a person to know what is meant.
const MESSAGE_LENGTH: usize = 200;

/// What some programs put before texts in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What all requests to one gateway have in common.
#[derive(Debug)]
pub(super) struct Wire {
    callback_uri: String,
}

impl Wire {
    pub(super) fn new(config: &GatewayConfig) -> Wire {
        Wire { callback_uri: config.callback_uri.clone() }
    }

    /// The request of a call; `base` is a base URL without its last slash.
    pub(super) fn request(&self, call: Call<'_>, base: &str) -> Result<Request<Full<Bytes>>, http::Error> {
        let agent = format!("{base}/onlineagent/{}", call.agent_id());
        let (method, uri) = match call.operation {
            Operation::Login => (Method::PUT, agent),
            Operation::ForceLogin => (Method::PUT, format!("{agent}/forcelogin")),
            // Known from clients of older gateways only.
            Operation::Handshake if call.agent.mode == Mode::LegacyPush => {
                (Method::PUT, format!("{agent}/heartbeat"))
            }
            Operation::Handshake => (Method::POST, format!("{agent}/handshake")),
            Operation::Poll => (Method::GET, format!("{base}/agentevent/{}", call.agent_id())),
            Operation::UpdateGuid => (Method::PUT, format!("{agent}/updateGuid")),
            Operation::Logout => (Method::DELETE, format!("{agent}/logout")),
            Operation::ResetSkill => (Method::POST, format!("{agent}/resetskill/{}", skills(call))),
            Operation::AutoAnswer => {
                let flag = call.agent.after_sign_in.autoanswer.unwrap_or_default();
                (Method::POST, format!("{agent}/autoanswer/{flag}"))
            }
            Operation::SayFree => (Method::POST, format!("{agent}/sayfree")),
            Operation::SayBusy => {
                // Both are asked for of an agent that is busy already, as after an answer that was lost; there the
                // second lets the reason be set again.
                let reason = call.agent.after_sign_in.busy_reason.unwrap_or_default();
                (Method::POST, format!("{agent}/saybusy?reason={reason}&prolong=true"))
            }
            Operation::Work => (Method::POST, format!("{agent}/work")),
        };
        let empty = method == Method::POST || (method == Method::PUT && !call.operation.signs_in());
        let mut request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, JSON);
        if empty {
            // hyper leaves the length of an empty body out; some balancers answer a POST or PUT without one with 411.
            request = request.header(CONTENT_LENGTH, "0");
        }
        if let Some(ticket) = call.ticket {
            request = request.header(GUID, sensitive(ticket.guid.expose_secret())?);
            if !ticket.cookies.is_empty() {
                request = request.header(COOKIE, sensitive(&cookies(ticket))?);
            }
        }
        if let (Operation::Handshake, Some(token)) = (call.operation, call.token) {
            request = request.header(SERVICE_TOKEN, sensitive(token.expose_secret())?);
        }
        request.body(Full::new(self.body(call)))
    }

    /// A call of somebody else with the agent's GUID and cookies.
    pub(super) fn forward(
        forward: &ForwardRequest,
        ticket: &Ticket,
        base: &str,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let uri = format!("{base}{}", forward.path());
        let mut request = Request::builder().method(forward.method()).uri(uri);
        request = match forward.content_type() {
            Some(content_type) => request.header(CONTENT_TYPE, content_type),
            None => request.header(CONTENT_TYPE, JSON),
        };
        if forward.body().is_empty() && forward.method() != Method::GET {
            request = request.header(CONTENT_LENGTH, "0");
        }
        request = request.header(GUID, sensitive(ticket.guid.expose_secret())?);
        if !ticket.cookies.is_empty() {
            request = request.header(COOKIE, sensitive(&cookies(ticket))?);
        }
        request.body(Full::new(forward.body().clone()))
    }

    fn body(&self, call: Call<'_>) -> Bytes {
        if !call.operation.signs_in() {
            return Bytes::new();
        }
        let body = SignInBody::new(call, &self.callback_uri);
        // The body is strings, numbers and booleans: there is nothing in it that cannot be written.
        serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
    }
}

/// A question to see whether a gateway answers, which is without a GUID: it changes nothing, tells nothing, and is refused with a
/// retcode. Every version known has it.
pub(super) fn probe(base: &str, agent_id: &AgentId) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = format!("{base}/onlineagent/{agent_id}/agentstatus");
    Request::get(uri).header(CONTENT_TYPE, JSON).body(Full::default())
}

/// `resetskill/{autoflag}?skillid=1;2&phonelinkage=0`; the ids go with raw semicolons, as the gateway's sample does.
fn skills(call: Call<'_>) -> String {
    let mut path = match &call.agent.skills {
        Skills::All => "true?".to_owned(),
        ids @ Skills::Ids(_) => format!("false?skillid={}&", ids.joined()),
    };
    match call.agent.options.phonelinkage {
        Some(linked) => path.push_str(if linked { "phonelinkage=1" } else { "phonelinkage=0" }),
        None => path.truncate(path.len() - 1),
    }
    path
}

fn cookies(ticket: &Ticket) -> String {
    let pairs =
        ticket.cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value.expose_secret()));
    pairs.collect::<Vec<_>>().join("; ")
}

fn sensitive(text: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body of login and forcelogin: all sixteen parameters, those left out left to the gateway.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignInBody<'a> {
    password: &'a str,
    phonenum: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoanswer: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoenteridle: Option<bool>,
    releasephone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agenttype: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<std::net::Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_ip: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phonelinkage: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_in_webm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_in_mailm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vc_phone_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen_status: Option<bool>,
    /// Without this and the next the agent is in polling mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    call_back_uri: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_token: Option<&'a str>,
    /// In place of both at older gateways. The token is in the address, since nothing else comes with a push.
    #[serde(skip_serializing_if = "Option::is_none")]
    push_url: Option<String>,
}

impl<'a> SignInBody<'a> {
    fn new(call: Call<'a>, callback_uri: &'a str) -> SignInBody<'a> {
        let options: &SignInOptions = &call.agent.options;
        let pushes = call.agent.mode == Mode::Push;
        let token = call.token.map_or("", |token| token.expose_secret());
        SignInBody {
            password: call.password.map_or("", |password| password.expose_secret()),
            phonenum: &options.phone_number,
            autoanswer: options.autoanswer,
            autoenteridle: options.autoenteridle,
            releasephone: options.releasephone,
            agenttype: options.agenttype,
            status: options.status,
            ip: options.ip,
            entry_ip: options.entry_ip,
            phonelinkage: options.phonelinkage,
            check_in_webm: options.check_in_webm,
            check_in_mailm: options.check_in_mailm,
            vc_phone_number: options.vc_phone_number.as_deref(),
            listen_status: options.listen_status,
            call_back_uri: pushes.then_some(callback_uri),
            service_token: pushes.then_some(token),
            push_url: (call.agent.mode == Mode::LegacyPush).then(|| push_url(callback_uri, token)),
        }
    }
}

/// The callback address with the token as the last parameter of its query.
fn push_url(callback_uri: &str, token: &str) -> String {
    let begin = if callback_uri.contains('?') { '&' } else { '?' };
    format!("{callback_uri}{begin}token={token}")
}

/// The GUID of a `Set-GUID` header: what follows the first `=`, up to a `;`. Empty ones mean nothing.
pub(super) fn guid(value: &HeaderValue) -> Option<SecretString> {
    guid_of(value.to_str().ok()?)
}

/// The GUID in the body of the answer to `updateGuid`, which comes without the name before it.
pub(super) fn updated_guid(bytes: &[u8]) -> Option<SecretString> {
    let text = text(bytes);
    let result = Members::of(members(&text).ok()??.value("result")?)?;
    guid_of(&json::string(result.value("guid")?)?)
}

fn guid_of(text: &str) -> Option<SecretString> {
    let text = text.split_once('=').map_or(text, |(_name, guid)| guid);
    let text = text.split(';').next().unwrap_or_default().trim();
    let fits = !text.is_empty() && text.len() <= GUID_LENGTH && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| SecretString::from(text))
}

/// Name and value of a `Set-Cookie` header. Its attributes are of no use with one host and one path.
pub(super) fn cookie(value: &HeaderValue) -> Option<Cookie> {
    let text = value.to_str().ok()?;
    let (name, value) = text.split(';').next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let short = name.len() + value.len() <= COOKIE_LENGTH;
    (!name.is_empty() && short).then(|| Cookie { name: name.to_owned(), value: SecretString::from(value) })
}

/// Reads the body of an answer: no more of it than is asked for, so that nothing an event says, however odd, can make an answer
/// of the gateway unreadable.
pub(super) fn reply(bytes: &[u8]) -> Result<Reply, CallError> {
    let text = text(bytes);
    let members =
        members(&text).map_err(|error| CallError::Broken(format!("the answer is not JSON: {error}")))?;
    let retcode = members.as_ref().and_then(|members| members.value("retcode")).and_then(retcode);
    let (Some(members), Some(retcode)) = (members, retcode) else {
        return Err(CallError::Broken("the answer has no retcode".into()));
    };
    let message = text_of(&members, "message").or_else(|| text_of(&members, "msg")).unwrap_or_default();
    Ok(Reply {
        retcode,
        message: message.chars().filter(|c| !c.is_control()).take(MESSAGE_LENGTH).collect(),
        result: members.value("result").map(sign_in_result).unwrap_or_default(),
    })
}

/// The answer to a poll, in UTF-8, where it brings an event, as far as can be read. A byte order mark is none of it.
pub(super) fn event(bytes: &Bytes) -> Option<Bytes> {
    let text = text(bytes);
    let event = members(&text).ok()??.value("event")?;
    (event.get() != "null").then(|| bytes.slice(bytes.len() - without_mark(bytes).len()..))
}

/// The text of an answer, which may be in GBK or begin with a byte order mark.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    charset::read(without_mark(bytes))
}

/// The members of an answer; none where it is JSON, but no object.
fn members(text: &str) -> serde_json::Result<Option<Members<'_>>> {
    Ok(Members::of(serde_json::from_str::<&RawValue>(text)?.into()))
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

fn retcode(value: Json<'_>) -> Option<Retcode> {
    match value.get().as_bytes().first()? {
        b'"' => json::string(value).map(|text| Retcode::new(&text)),
        b'-' | b'0'..=b'9' => Some(Retcode::new(value.get())),
        _ => None,
    }
}

fn sign_in_result(result: Json<'_>) -> SignInResult {
    let Some(result) = Members::of(result) else { return SignInResult::default() };
    SignInResult {
        media_type: text_of(&result, "mediatype").map(|text| text.chars().take(8).collect()),
        password_change_required: text_of(&result, "isForceChange")
            .is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1"),
        password_days_left: text_of(&result, "timeRemaining").and_then(|text| text.trim().parse().ok()),
        login_time: result.value(LOGIN_TIME).and_then(json::time),
    }
}

/// A field as text, whichever of string, number and boolean it was sent as; empty counts as missing.
fn text_of<'a>(members: &Members<'a>, name: &str) -> Option<Cow<'a, str>> {
    members.value(name).and_then(json::text)
}

#[cfg(test)]
mod tests;
