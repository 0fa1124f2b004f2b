//! Changes of the roster by callers: put, take away, adopt; and the GUID for who may know it.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::Instrument;

use super::agents::{named, view};
use super::api::{Answer, Call, Parts, query};
use super::fault::{Fault, json as answer, no_content};
use super::kept::{Kept, MOST_AGENTS, in_words};

use crate::causes::with_causes;
use crate::config::Problems;
use crate::session::call::{Cookie, Ticket};
use crate::session::config::{AgentConfig, PasswordError, RawAgent};
use crate::session::{AdoptError, Change, RosterError};
use crate::spool::AgentKey;

/// The gateway's own form of a GUID in headers, of which the GUID is what follows.
const GUID_PREFIX: &str = "JSESSIONID=";
/// Cookies of one session at most; load balancers set one or two.
const MOST_COOKIES: usize = 16;

pub(super) async fn put(call: &Call<'_>) -> Answer {
    query(call.query, &[])?;
    let agent = key(call)?;
    let (settings, config, stored) = read_agent(call, &agent).await?;
    let config = Arc::new(config);
    let in_memory = (!stored).then(|| config.clone());
    if call.parts.is_configured(&agent) {
        return Err(configured());
    }
    if call.parts.kept.find(&agent).is_none() && !call.parts.kept.has_room() {
        return Err(Fault::conflict("too_many", format_args!("{MOST_AGENTS} agents were put; no more fit")));
    }
    let (parts, changed) = (call.parts.clone(), agent.clone());
    // Not to be left half-way when the caller goes.
    let work = call.parts.runtime.spawn(
        async move {
            let _change = parts.kept.changes.lock().await;
            let before = set(&parts, &changed, Some(Kept { settings, in_memory })).await?;
            let put = parts.sessions.put(config);
            if put.is_err() {
                set(&parts, &changed, before).await?;
            }
            put.map_err(roster_fault)
        }
        .in_current_span(),
    );
    let status = match work.await.map_err(|error| Fault::internal("the agent cannot be put", &error))?? {
        Change::Added => StatusCode::CREATED,
        Change::Changed | Change::Unchanged => StatusCode::OK,
    };
    view(call, status, &agent.gateway, &agent.agent_id)
}

pub(super) async fn remove(call: &Call<'_>) -> Answer {
    let keep = match query(call.query, &["keep_session"])?.text("keep_session") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Fault::bad_request("keep_session is true or false")),
    };
    no_body(call)?;
    let agent = key(call)?;
    if call.parts.is_configured(&agent) {
        return Err(configured());
    }
    let parts = call.parts.clone();
    let work = call.parts.runtime.spawn(
        async move {
            let _change = parts.kept.changes.lock().await;
            let before = set(&parts, &agent, None).await?;
            let (gateway, agent_id) = (&agent.gateway, &agent.agent_id);
            let left = if keep {
                parts.sessions.release(gateway, agent_id)
            } else {
                parts.sessions.remove(gateway, agent_id)
            };
            if !left && parts.sessions.is_stopping() {
                // The next run signs in whoever is kept.
                set(&parts, &agent, before).await?;
                return Err(roster_fault(RosterError::Stopping));
            }
            if left || before.is_some() { Ok(()) } else { Err(Fault::no_such_agent()) }
        }
        .in_current_span(),
    );
    work.await.map_err(|error| Fault::internal("the agent cannot be taken away", &error))??;
    Ok(no_content())
}

/// A session that another program signed in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopted {
    guid: SecretString,
    #[serde(default)]
    cookies: Vec<AdoptedCookie>,
    token: SecretString,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptedCookie {
    name: String,
    value: SecretString,
}

pub(super) fn adopt(call: &Call<'_>) -> Answer {
    query(call.query, &[])?;
    let agent = key(call)?;
    let adopted: Adopted = serde_json::from_slice(&call.body).map_err(|error| unreadable(&error))?;
    let guid = adopted.guid.expose_secret();
    let guid = SecretString::from(guid.strip_prefix(GUID_PREFIX).unwrap_or(guid));
    if adopted.cookies.len() > MOST_COOKIES {
        return Err(Fault::bad_request(format_args!("a session has at most {MOST_COOKIES} cookies")));
    }
    let cookies = adopted.cookies.into_iter().map(cookie).collect::<Result<_, _>>()?;
    let ticket = Ticket::new(guid, cookies);
    match call.parts.sessions.adopt(&agent.gateway, &agent.agent_id, ticket, adopted.token) {
        Ok(()) => view(call, StatusCode::ACCEPTED, &agent.gateway, &agent.agent_id),
        Err(AdoptError::Roster(error)) => Err(roster_fault(error)),
        Err(error @ AdoptError::Polled) => Err(Fault::conflict("polled", error)),
        Err(error) => Err(Fault::bad_request(error)),
    }
}

fn cookie(adopted: AdoptedCookie) -> Result<Cookie, Fault> {
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b";,\"\\".contains(&byte));
    let name = adopted.name.as_str();
    if name.is_empty() || name.contains('=') || !visible(name) || !visible(adopted.value.expose_secret()) {
        return Err(Fault::bad_request("a cookie has a name and a value of visible ASCII, without ; and ,"));
    }
    Ok(Cookie { name: adopted.name, value: adopted.value })
}

pub(super) fn guid(call: &Call<'_>) -> Answer {
    query(call.query, &[])?;
    let (gateway, agent_id) = named(call)?;
    if call.parts.sessions.view(&gateway, &agent_id).is_none() {
        return Err(Fault::no_such_agent());
    }
    let ticket = call.parts.sessions.ticket(&gateway, &agent_id);
    let ticket = ticket.ok_or_else(|| Fault::conflict("no_session", "the agent is not signed in"))?;
    let cookies = ticket.cookies.iter();
    let cookies: Vec<_> =
        cookies.map(|cookie| json!({ "name": cookie.name, "value": cookie.value.expose_secret() })).collect();
    Ok(answer(StatusCode::OK, &json!({ "guid": ticket.guid.expose_secret(), "cookies": cookies })))
}

/// Settings as they are to be kept, without the password; the configuration with it and with the gateway's defaults; and
/// whether the settings do without a password, so that they can be stored.
async fn read_agent(
    call: &Call<'_>,
    agent: &AgentKey,
) -> Result<(Map<String, Value>, AgentConfig, bool), Fault> {
    let mut settings: Map<String, Value> = serde_json::from_slice(&call.body).map_err(|e| unreadable(&e))?;
    for (name, value) in [("gateway", agent.gateway.as_str()), ("id", agent.agent_id.as_str())] {
        let same = settings.get(name).is_none_or(|found| found == value);
        if !same {
            return Err(Fault::bad_request(format_args!("{name} is another one in the path")));
        }
        settings.insert(name.to_owned(), value.into());
    }
    let password = match settings.remove("password") {
        None => None,
        Some(Value::String(password)) => Some(SecretString::from(password)),
        Some(_) => return Err(Fault::bad_request("password is a text")),
    };
    // The message could quote what stands in the wrong place, which could be a password.
    let mut raw: RawAgent = serde_json::from_value(Value::Object(settings.clone()))
        .map_err(|error| Fault::bad_request(in_key(&settings, &without_values(&error.to_string()))))?;
    let stored = password.is_none();
    match call.parts.agent_defaults.get(&agent.gateway) {
        Some(defaults) if stored => raw.complete(defaults),
        Some(defaults) => raw.complete_beside_password(defaults),
        None => {}
    }
    // It reads the password, and this thread answers everybody.
    let validated = call.parts.passwords.run(move || {
        let mut problems = Problems::default();
        (raw.validate_with(password, "agent", &mut problems), problems)
    });
    let invalid = |why: &dyn fmt::Display| Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "agent_invalid", why);
    match validated.await {
        Some((Some(config), problems)) if problems.found().is_empty() => Ok((settings, config, stored)),
        Some((_, problems)) => Err(invalid(&in_words(&problems))),
        None => Err(invalid(&PasswordError::TimedOut)),
    }
}

/// What is wrong with settings, after the key that it is about: serde knows that of unknown keys only. A key that is unknown could be
/// anything, and is not said.
fn in_key(settings: &Map<String, Value>, what: &str) -> String {
    let is_wrong = |(key, value): &(&String, &Value)| {
        let alone = Map::from_iter([((*key).clone(), (*value).clone())]);
        serde_json::from_value::<RawAgent>(Value::Object(alone)).is_err()
    };
    match settings.iter().find(is_wrong) {
        Some((key, _)) if RawAgent::KEYS.contains(&key.as_str()) => format!("{key}: {what}"),
        _ => what.to_owned(),
    }
}

/// serde quotes one thing that stands in the body: a text in "…"; a number, or a key or word that it does not know, in `…` before what
/// it expected. Of keys that are missing or come twice it names its own.
fn without_values(message: &str) -> String {
    let own = message.starts_with("missing field") || message.starts_with("duplicate field");
    let (first, last) = match message.find(['"', '`']) {
        Some(first) if message[first..].starts_with('"') => (first, message.rfind('"')),
        Some(first) if !own => {
            let ends = ["`, expected", "`, there are no"];
            (first, ends.iter().find_map(|end| message.rfind(end)).or_else(|| message.rfind('`')))
        }
        _ => return message.to_owned(),
    };
    // A quote alone ends nowhere.
    let last = last.filter(|last| *last > first).unwrap_or(message.len() - 1);
    format!("{}…{}", &message[..first], &message[last + 1..])
}

/// Where a body stops being what it should be; never what stands there.
fn unreadable(error: &serde_json::Error) -> Fault {
    let what = without_values(&error.to_string());
    Fault::bad_request(format_args!("the body is not the JSON that is wanted here: {what}"))
}

fn no_body(call: &Call<'_>) -> Result<(), Fault> {
    if call.body.is_empty() { Ok(()) } else { Err(Fault::bad_request("this takes no body")) }
}

fn key(call: &Call<'_>) -> Result<AgentKey, Fault> {
    let (gateway, agent_id) = call.params.agent().ok_or_else(Fault::no_such_agent)?;
    if !call.parts.gateways.contains(&gateway) {
        return Err(Fault::not_found("no gateway has this name"));
    }
    Ok(AgentKey { gateway, agent_id })
}

fn configured() -> Fault {
    Fault::conflict("configured", "this agent stands in the configuration: change it there")
}

pub(super) fn roster_fault(error: RosterError) -> Fault {
    match error {
        RosterError::UnknownGateway => Fault::not_found(error),
        RosterError::Stopping => Fault::unavailable(error),
    }
}

/// The file is written off the runtime's threads.
async fn set(parts: &Parts, agent: &AgentKey, kept: Option<Kept>) -> Result<Option<Kept>, Fault> {
    let (parts, agent) = (parts.clone(), agent.clone());
    let set = tokio::task::spawn_blocking(move || parts.kept.set(&agent, kept)).await;
    match set {
        Ok(Ok(before)) => Ok(before),
        Ok(Err(error)) => {
            Err(Fault::internal("the agents of the admin API cannot be written", &with_causes(&error)))
        }
        Err(error) => Err(Fault::internal("the agents of the admin API cannot be written", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_about_a_body_do_not_quote_it() {
        let wrong = serde_json::from_str::<RawAgent>(
            r#"{"gateway":"main","id":"1","phone_number":"1","takeover":"hush-hush"}"#,
        );
        let said = without_values(&wrong.unwrap_err().to_string());
        assert!(said.contains("boolean") && !said.contains("hush"), "{said}");
        let wrong = serde_json::from_slice::<Adopted>(br#"{"guid":7,"token":"hush-hush"}"#).err().unwrap();
        assert!(!without_values(&wrong.to_string()).contains("hush"));
    }

    #[test]
    fn the_key_of_a_wrong_value_is_named_and_an_unknown_one_is_not() {
        let said = |key: &str, value: Value| {
            let agent =
                json!({ "gateway": "main", "id": "1", "phone_number": "1", "skills": "all", key: value });
            let Value::Object(settings) = agent else { panic!("an object") };
            let error = serde_json::from_value::<RawAgent>(Value::Object(settings.clone())).unwrap_err();
            in_key(&settings, &without_values(&error.to_string()))
        };
        assert_eq!(
            said("phone_number", 71_005.into()),
            "phone_number: invalid type: integer …, expected a string"
        );
        assert!(
            said("takeover", "hush".into())
                .starts_with("takeover: invalid type: string …, expected a boolean")
        );
        let unknown = said("hush", 1.into());
        assert!(unknown.starts_with("unknown field …") && !unknown.contains("hush"), "{unknown}");
    }

    #[test]
    fn words_keys_and_numbers_that_are_wrong_are_not_quoted_either() {
        for value in ["hush", "hush`, expected `hush", "hush\"`hush", "`hush`", "\"hush"] {
            let agent = |key: &str, value: serde_json::Value| {
                let agent = json!({ "gateway": "main", "id": "1", "phone_number": "1", key: value });
                serde_json::from_value::<RawAgent>(agent).unwrap_err().to_string()
            };
            for (message, kept) in [
                (agent("mode", value.into()), "expected "),
                (agent(value, 1.into()), "`phone_number`"),
                (agent("password_file", 70_707.into()), "expected "),
                (agent("takeover", value.into()), "expected a boolean"),
            ] {
                let said = without_values(&message);
                assert!(!said.contains("hush") && !said.contains("707"), "{message}: {said}");
                assert!(said.contains('…') && said.contains(kept), "{message}: {said}");
            }
        }
        let missing = serde_json::from_str::<Adopted>(r#"{"guid":"hush"}"#).err().unwrap();
        assert!(without_values(&missing.to_string()).starts_with("missing field `token`"));
    }
}
