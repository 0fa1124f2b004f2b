//! Answers: HTTP 200 with a retcode, as business failures come too, and the headers that go with them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{Extensions, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// The content type of every answer.
const JSON: &str = "application/json; charset=UTF-8";

/// An answer before it is put on the wire. Not to be debugged: it has secrets.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: String,
    /// Value of `Set-GUID`, secret.
    pub(super) set_guid: Option<String>,
    /// Values of `Set-Cookie`, secret.
    pub(super) cookies: Vec<String>,
}

/// A retcode other than `0`, with the message that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) &'static str, pub(super) &'static str);

impl Refusal {
    pub(super) const WRONG_EVENT_MODE: Refusal = Refusal("000-001", "wrong way of getting events");
    pub(super) const PARAMETER: Refusal = Refusal("000-002", "invalid parameter");
    pub(super) const NO_RIGHT: Refusal = Refusal("000-003", "no right to invite resource");
    pub(super) const REPEATED: Refusal = Refusal("000-007", "called again before the answer");
    pub(super) const SIGN_IN_PARAMETER: Refusal = Refusal("100-001", "sign-in parameter empty or invalid");
    pub(super) const SIGNED_IN: Refusal = Refusal("100-002", "agent has signed in");
    pub(super) const PASSWORD: Refusal = Refusal("100-004", "wrong agent or password");
    pub(super) const SIGN_OUT_PARAMETER: Refusal = Refusal("100-005", "sign-out parameter invalid");
    pub(super) const NOT_SIGNED_IN: Refusal = Refusal("100-006", "agent has not signed in");
    pub(super) const SIGNED_OUT: Refusal = Refusal("100-008", "agent has signed out");
    pub(super) const STATE: Refusal = Refusal("100-009", "state cannot be set");
    pub(super) const SIGN_OUT_STATE: Refusal = Refusal("100-010", "state does not allow sign-out");
    pub(super) const OTHER_PARAMETER: Refusal = Refusal("100-011", "parameter invalid at sign-in");
    pub(super) const AGENT_TYPE: Refusal = Refusal("100-012", "agent type wrong");
    pub(super) const PHONE: Refusal = Refusal("100-013", "phone number invalid");
    pub(super) const PHONE_RANGE: Refusal = Refusal("100-014", "phone number out of range");
    pub(super) const NOT_FORCED: Refusal = Refusal("100-015", "signed in and may not be forced out");
    pub(super) const IP: Refusal = Refusal("100-016", "agent IP invalid");
    pub(super) const PASSWORD_EXPIRED: Refusal = Refusal("100-020", "password expired");
    pub(super) const SIGNING_IN: Refusal = Refusal("100-021", "sign-in in progress");
    pub(super) const LOCKED: Refusal = Refusal("110-016", "account locked");
    pub(super) const NUMBER: Refusal = Refusal("200-001", "dialled number wrong");
    pub(super) const NO_CALL_TO_ANSWER: Refusal = Refusal("200-002", "no call to answer");
    pub(super) const NO_CALL_TO_MUTE: Refusal = Refusal("200-003", "no call to mute");
    pub(super) const MUTE_STATE: Refusal = Refusal("200-004", "wrong state for mute");
    pub(super) const NO_CALL_TO_UNMUTE: Refusal = Refusal("200-007", "no call to unmute");
    pub(super) const UNMUTE_STATE: Refusal = Refusal("200-008", "wrong state for unmute");
    pub(super) const NO_CALL_TO_TRANSFER: Refusal = Refusal("200-012", "no call to transfer");
    pub(super) const NO_CALL_TO_HOLD: Refusal = Refusal("200-013", "no call to hold");
    pub(super) const HOLD_STATE: Refusal = Refusal("200-014", "wrong state for hold");
    pub(super) const NO_CALL_TO_UNHOLD: Refusal = Refusal("200-015", "no call to unhold");
    pub(super) const UNHOLD_STATE: Refusal = Refusal("200-016", "wrong state for unhold");
    pub(super) const NO_CALL_TO_END: Refusal = Refusal("200-017", "no call to end");
    pub(super) const NO_CALL_FOR_HELP: Refusal = Refusal("200-018", "no call for internal help");
    pub(super) const NO_CALL: Refusal = Refusal("200-026", "agent has no call");
    pub(super) const REWIND_STATE: Refusal = Refusal("500-001", "wrong state for rewind");
    pub(super) const FORWARD_STATE: Refusal = Refusal("500-002", "wrong state for fast forward");
    pub(super) const PAUSE_STATE: Refusal = Refusal("500-003", "wrong state for pausing playback");
    pub(super) const RESUME_STATE: Refusal = Refusal("500-005", "wrong state for resuming playback");
    pub(super) const PLAY_STATE: Refusal = Refusal("500-007", "wrong state for starting playback");
    pub(super) const STOP_STATE: Refusal = Refusal("500-009", "wrong state for stopping playback");
    pub(super) const NO_SUCH_AGENT: Refusal = Refusal("900-004", "no agent information");
    pub(super) const INSPECTION_STATE: Refusal = Refusal("900-005", "wrong state for quality control");
}

impl Answer {
    /// Success without a result.
    pub(super) fn success() -> Answer {
        Answer::text(r#"{"message":"success","retcode":"0"}"#.to_owned())
    }

    /// Success with a result.
    pub(super) fn result(result: &Value) -> Answer {
        Answer::text(format!(r#"{{"message":"","retcode":"0","result":{result}}}"#))
    }

    /// Success with an event, or without one.
    pub(super) fn event(event: Option<&str>) -> Answer {
        Answer::text(match event {
            Some(event) => format!(r#"{{"message":"","retcode":"0","event":{event}}}"#),
            None => r#"{"message":"","retcode":"0"}"#.to_owned(),
        })
    }

    /// Any retcode.
    pub(super) fn retcode(code: &str, message: &str) -> Answer {
        Answer::text(json!({ "message": message, "retcode": code, "result": {} }).to_string())
    }

    /// An HTTP status without a body, as for a failure before the interface is reached.
    pub(super) fn status(status: StatusCode) -> Answer {
        Answer { status, ..Answer::text(String::new()) }
    }

    fn text(body: String) -> Answer {
        Answer { status: StatusCode::OK, body, set_guid: None, cookies: Vec::new() }
    }

    /// The answer for the wire. Careless clients look at the first header only, so `Set-GUID` is the first.
    pub(super) fn into_response(self, spellings: &Extensions) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(value) = self.set_guid.and_then(|guid| HeaderValue::try_from(guid).ok()) {
            headers.insert("set-guid", value);
        }
        for cookie in self.cookies.into_iter().filter_map(|cookie| HeaderValue::try_from(cookie).ok()) {
            headers.append(SET_COOKIE, cookie);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        *response.extensions_mut() = spellings.clone();
        response
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        Answer::retcode(refusal.0, refusal.1)
    }
}

/// An answer with a refusal is an answer.
pub(super) fn either(outcome: Result<Answer, Refusal>) -> Answer {
    outcome.unwrap_or_else(Answer::from)
}
