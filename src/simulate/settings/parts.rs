//! The types of single settings.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

/// `ON` or `OFF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Switch {
    /// Active.
    #[serde(rename = "ON", alias = "on")]
    On,
    /// Not active.
    #[serde(rename = "OFF", alias = "off")]
    Off,
}

/// The branch `eventpush` of the gateway's properties.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPush {
    /// `eventpush.ssl`.
    pub ssl: EventPushSsl,
}

/// How the callback's certificate is checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPushSsl {
    /// Accept any certificate.
    #[serde(rename = "trustAll", alias = "trustall")]
    pub trust_all: bool,
    /// The trust store.
    pub cert: EventPushCert,
}

/// The trust store. Without one, and without `trustAll`, no HTTPS callback is trusted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventPushCert {
    /// PEM file (the gateway takes JKS, the simulator does not).
    pub file: Option<PathBuf>,
    /// Only `PEM`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// PEM text, for use in-process; added to `file`.
    pub pem: Option<String>,
}

/// One agent, or a range of them that share everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// The agent's id, or the first of the range.
    pub first: u32,
    /// The last of the range.
    #[serde(default)]
    pub last: Option<u32>,
    /// What the sign-in signs in to, three letters T or F: voice, text chat, mail.
    #[serde(default = "voice_and_chat")]
    pub mediatype: String,
    /// Password at sign-in.
    pub password: SecretString,
    /// What to send instead with `LOGIN_PWD_DECRYPT_ENABLE`.
    #[serde(default)]
    pub encrypted_password: Option<SecretString>,
    /// The only phone the agent may bind; any when absent.
    #[serde(default)]
    pub phone: Option<String>,
    /// Configured skills.
    #[serde(default = "default_skills")]
    pub skills: Vec<Skill>,
    /// The password has expired: 100-020.
    #[serde(default)]
    pub password_expired: bool,
    /// Signed in, this agent may not be forced out: 100-015.
    #[serde(default)]
    pub not_forced: bool,
}

/// A skill queue of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// 1 text chat, 5 voice and video, ...
    pub mediatype: u32,
}

/// A range of phone numbers.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phones {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

/// What a callback address outside the trust list leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideTrustList {
    /// Login answers 100-001.
    RefuseLogin,
    /// Login succeeds, every push fails, and the agent is forced out in the end.
    FailPushes,
}

/// How an entry of the trust list matches a callback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustListMatch {
    /// The whole address.
    Exact,
    /// Its beginning.
    Prefix,
}

/// The body of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushShape {
    /// `{workNo, eventList:[...]}`; only HTTP 200 with the string retcode `"0"` is success.
    EventList,
    /// `{message, retcode, event:{...}}`, one event each; an empty answer and the number 0 are success too, and
    /// a login may name its address `pushUrl`, without a token.
    Legacy,
}

/// Whom an inspector inspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspection {
    /// Another signed-in agent, where there is one.
    Other,
    /// The same agent plays both parts.
    Same,
}

/// Chances, from 0 to 1, that an event of a flow is unusual in one way.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variety {
    /// It has `eventGenTime`.
    pub event_gen_time: f64,
    /// It has `jsonKey`.
    pub json_key: f64,
    /// Its text is not ASCII, where it has text.
    pub non_ascii: f64,
    /// `""` stands where null was.
    pub empty_content: f64,
    /// Its content is spelt as another edition of the manuals has it, where one has it otherwise.
    pub other_content: f64,
}

impl Default for Variety {
    fn default() -> Variety {
        Variety {
            event_gen_time: 0.3,
            json_key: 0.05,
            non_ascii: 0.1,
            empty_content: 0.2,
            other_content: 0.2,
        }
    }
}

impl Agents {
    /// Agents `first` to `last`, all with `password` and one voice and one chat skill.
    #[must_use]
    pub fn range(first: u32, last: u32, password: &str) -> Agents {
        Agents {
            first,
            last: Some(last),
            password: password.to_owned().into(),
            encrypted_password: None,
            phone: None,
            skills: default_skills(),
            mediatype: voice_and_chat(),
            password_expired: false,
            not_forced: false,
        }
    }
}

fn voice_and_chat() -> String {
    "TTF".to_owned()
}

fn default_skills() -> Vec<Skill> {
    vec![
        Skill { id: 1, name: "voice".into(), mediatype: 5 },
        Skill { id: 2, name: "chat".into(), mediatype: 1 },
    ]
}
