//! What a login asks for: the sixteen body parameters, read leniently (strings or native values) and checked
//! strictly, each failure with the retcode that fits it.

use std::net::Ipv4Addr;

use http::Uri;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::agent::{Activity, Delivery};
use super::answer::Refusal;
use super::settings::{OutsideTrustList, Phones, PushShape, Settings};

/// The longest a `serviceToken` or `service_token` may be.
const TOKEN_LENGTH: usize = 50;
const PASSWORD_LENGTH: usize = 32;
const PHONE_LENGTH: usize = 24;
const CALLBACK_LENGTH: usize = 200;
/// The same for the legacy `pushUrl`.
const PUSH_URL_LENGTH: usize = 512;

/// A login that is well formed; whether it may be is another matter.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) password: SecretString,
    pub(super) phone: String,
    pub(super) delivery: Delivery,
    /// The first `service_token`; empty in polling mode.
    pub(super) token: SecretString,
    /// State after sign-in.
    pub(super) activity: Activity,
}

impl Login {
    /// Reads and checks the body.
    pub(super) fn parse(body: &[u8], settings: &Settings) -> Result<Login, Refusal> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
            return Err(Refusal::SIGN_IN_PARAMETER);
        };
        let body = Fields(fields);
        let password = body.text("password").filter(|p| p.chars().count() <= PASSWORD_LENGTH);
        let phone = body.text("phonenum").filter(|p| !p.is_empty() && p.len() <= PHONE_LENGTH);
        let (Some(password), Some(phone)) = (password, phone) else {
            return Err(Refusal::SIGN_IN_PARAMETER);
        };
        check_phone(&phone, settings.phones)?;
        body.check_others()?;
        let (delivery, token) = body.delivery(settings)?;
        let activity = body.activity()?;
        Ok(Login { password: password.into(), phone, delivery, token: token.into(), activity })
    }
}

/// Whether a token is one: no manual defines its "special characters", so none is allowed.
pub(super) fn is_token(token: &str) -> bool {
    token.len() <= TOKEN_LENGTH && token.bytes().all(|b| b.is_ascii_alphanumeric())
}

struct Fields(Map<String, Value>);

impl Fields {
    /// A parameter as text, whichever JSON type it came as; null is absent.
    fn text(&self, key: &str) -> Option<String> {
        match self.0.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    fn check_others(&self) -> Result<(), Refusal> {
        for key in
            ["autoanswer", "autoenteridle", "releasephone", "phonelinkage", "checkInWebm", "listenStatus"]
        {
            if self.text(key).is_some_and(|flag| flag != "true" && flag != "false") {
                return Err(Refusal::OTHER_PARAMETER);
            }
        }
        if self.text("agenttype").is_some_and(|kind| kind != "4" && kind != "11") {
            return Err(Refusal::AGENT_TYPE);
        }
        if self.text("ip").is_some_and(|ip| !ip.is_empty() && ip.parse::<Ipv4Addr>().is_err()) {
            return Err(Refusal::IP);
        }
        if self.text("vcPhoneNumber").is_some_and(|phone| phone.len() > PHONE_LENGTH) {
            return Err(Refusal::PHONE);
        }
        Ok(())
    }

    fn activity(&self) -> Result<Activity, Refusal> {
        match self.text("status").as_deref() {
            Some("3") => Ok(Activity::Busy),
            None | Some("" | "4") => Ok(Activity::Idle),
            Some("5") => Ok(Activity::Work),
            Some(_) => Err(Refusal::OTHER_PARAMETER),
        }
    }

    /// Push mode if there are both an address and a token, else polling mode.
    fn delivery(&self, settings: &Settings) -> Result<(Delivery, String), Refusal> {
        let given = |key| self.text(key).filter(|text| !text.is_empty());
        let (uri, mut token) = (given("callBackUri"), given("serviceToken"));
        let (uri, limit) = match given("pushUrl") {
            Some(old) if settings.push_shape == PushShape::Legacy => {
                token = Some(String::new());
                (Some(old), PUSH_URL_LENGTH)
            }
            _ => (uri, CALLBACK_LENGTH),
        };
        if token.as_deref().is_some_and(|token| !is_token(token)) {
            return Err(Refusal::SIGN_IN_PARAMETER);
        }
        let parsed = uri.as_deref().map(|uri| callback(uri, limit)).transpose()?;
        let (Some(text), Some(uri), Some(token)) = (uri, parsed, token) else {
            return Ok((Delivery::Poll, String::new()));
        };
        let trusted = settings.trusts(&text);
        if !trusted && settings.callback_outside_trust_list == OutsideTrustList::RefuseLogin {
            return Err(Refusal::SIGN_IN_PARAMETER);
        }
        Ok((Delivery::Push { uri, trusted }, token))
    }
}

/// An absolute address of HTTP or HTTPS that is not too long.
fn callback(text: &str, limit: usize) -> Result<Uri, Refusal> {
    let uri = text.parse::<Uri>().ok().filter(|_| text.len() <= limit);
    uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        .ok_or(Refusal::SIGN_IN_PARAMETER)
}

fn check_phone(phone: &str, range: Option<Phones>) -> Result<(), Refusal> {
    if !phone.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::PHONE);
    }
    let number = phone.parse::<u64>().ok();
    match range {
        Some(range) if number.is_none_or(|n| n < range.first || n > range.last) => Err(Refusal::PHONE_RANGE),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = Login::parse(&body, &Settings::default());
        }

        #[test]
        fn any_text_as_a_parameter_is_read_or_refused(value in "\\PC{0,60}", key in 0usize..6) {
            let key = ["password", "phonenum", "callBackUri", "serviceToken", "status", "ip"][key];
            let mut body = serde_json::json!({"password": "p", "phonenum": "1"});
            body[key] = value.into();
            let _outcome = Login::parse(body.to_string().as_bytes(), &Settings::default());
        }

        #[test]
        fn tokens_are_up_to_fifty_letters_and_digits(token in "[A-Za-z0-9]{0,50}", other in "[^A-Za-z0-9]") {
            prop_assert!(is_token(&token));
            let longer = token.clone() + &other;
            prop_assert!(!is_token(&longer));
        }
    }

    #[test]
    fn fifty_one_characters_are_no_token() {
        assert!(is_token(&"a".repeat(50)) && !is_token(&"a".repeat(51)));
    }
}
