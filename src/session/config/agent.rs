//! Agents as they stand in `[[agents]]`, in roster files and in defaults, and the checks that turn them into the
//! checked ones.

use std::env::VarError;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{AfterSignIn, AgentConfig, AgentState, Mode, PasswordSource, SignInOptions, Skills};
use crate::config::Problems;
use crate::event::{AgentId, GatewayName};

/// Limits of the gateway's documents.
const PHONE_LENGTH: usize = 24;
const SKILL_IDS_LENGTH: usize = 4000;

macro_rules! agent_tables {
    ($( $(#[doc = $doc:literal])+ $key:ident : $kind:ty; )+) => {
        /// `[[agents]]` as it stands in the file, and one agent of a roster file. Options left out are taken from the
        /// defaults of the roster, then from those of the gateway, and are else left to the gateway.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct RawAgent {
            /// Name of the gateway the agent belongs to.
            pub gateway: String,
            /// The agent's id (`workNo`).
            pub id: String,
            /// The phone the agent binds.
            pub phone_number: String,
            $( $(#[doc = $doc])+ pub $key: Option<$kind>, )+
        }

        /// What agents have in common: keys of `[[agents]]` for all that leave them out.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct AgentDefaults {
            $( $(#[doc = $doc])+ pub $key: Option<$kind>, )+
        }

        impl RawAgent {
            /// All keys of an agent.
            pub const KEYS: &[&str] = &["gateway", "id", "phone_number", $( stringify!($key) ),+];

            /// Sets a key to a value that is written as plain text.
            ///
            /// # Errors
            /// What is expected there, when it is something else. Never says what was found, which may be a secret.
            pub fn set_text(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    "gateway" => self.gateway = text.to_owned(),
                    "id" => self.id = text.to_owned(),
                    "phone_number" => self.phone_number = text.to_owned(),
                    $( stringify!($key) => self.$key = Some(from_text(text)?), )+
                    _ => return Err(unknown_key()),
                }
                Ok(())
            }

            /// Sets a key to a value of TOML.
            ///
            /// # Errors
            /// As [`RawAgent::set_text`].
            pub fn set_value(&mut self, key: &str, value: toml::Value) -> Result<(), String> {
                match key {
                    "gateway" => self.gateway = from_value(value)?,
                    "id" => self.id = from_value(value)?,
                    "phone_number" => self.phone_number = from_value(value)?,
                    $( stringify!($key) => self.$key = Some(from_value(value)?), )+
                    _ => return Err(unknown_key()),
                }
                Ok(())
            }

            /// Takes from `defaults` what is left out here.
            pub fn complete(&mut self, defaults: &AgentDefaults) {
                // Of two ways to a password the agent's own one counts, also when the default is the other.
                let password = (self.password_file.take(), self.password_env.take());
                $( if self.$key.is_none() { self.$key.clone_from(&defaults.$key); } )+
                if password != (None, None) {
                    (self.password_file, self.password_env) = password;
                }
            }

            /// As [`RawAgent::complete`], for an agent whose password is given beside: that of the defaults is not for it.
            pub fn complete_beside_password(&mut self, defaults: &AgentDefaults) {
                let own = (self.password_file.clone(), self.password_env.clone());
                self.complete(defaults);
                (self.password_file, self.password_env) = own;
            }
        }
    };
}

agent_tables! {
    /// File with the password; read anew at each sign-in. `{id}` and `{gateway}` stand for the agent's.
    password_file: PathBuf;
    /// Name of an environment variable with the password, with the same placeholders.
    password_env: String;
    /// `"all"` (when left out) or a list of skill ids; an empty list enters no skill queue.
    skills: RawSkills;
    /// Force in when somebody is signed in as this agent.
    takeover: bool;
    /// How the agent's events come.
    mode: Mode;
    /// Answer calls without a click.
    autoanswer: bool;
    /// Idle after a call, else wrap-up.
    autoenteridle: bool;
    /// Phone not off-hook for good after hang-up. Always sent, since gateways differ in their default: true.
    releasephone: bool;
    /// 4 is PC and phone, 11 is PC and phone with video.
    agenttype: u8;
    /// State after sign-in: 3 busy, 4 idle, 5 wrap-up.
    status: u8;
    /// The agent's IPv4 address.
    ip: Ipv4Addr;
    /// IP of the client application's gateway.
    entry_ip: IpAddr;
    /// Hard-phone linkage.
    phonelinkage: bool;
    /// Also sign in to the multimedia server.
    check_in_webm: bool;
    /// Also sign in to the mail server.
    check_in_mailm: bool;
    /// Second (video) phone.
    vc_phone_number: String;
    /// An inspector hears of agents' sign-in and sign-out.
    listen_status: bool;
    /// Once signed in, answer calls without a click from now on, or do not.
    after_sign_in_autoanswer: bool;
    /// State to ask for once signed in and in the skill queues.
    after_sign_in_state: AgentState;
    /// Why the agent is busy, where that is the state: 0 for no reason, or 200 to 250.
    after_sign_in_busy_reason: u8;
}

/// `skills` of an agent as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected \"all\" or a list of skill ids")]
pub enum RawSkills {
    /// `"all"`.
    Word(String),
    /// Ids.
    Ids(Vec<u64>),
}

/// A value that can be written as plain text.
trait Setting: DeserializeOwned {
    /// What to write.
    const EXPECTED: &str;

    fn parse(text: &str) -> Option<Self>;
}

fn from_text<T: Setting>(text: &str) -> Result<T, String> {
    T::parse(text).ok_or_else(|| format!("expected {}", T::EXPECTED))
}

fn from_value<T: Setting>(value: toml::Value) -> Result<T, String> {
    // The error itself can hold the value.
    value.try_into().map_err(|_error| format!("expected {}", T::EXPECTED))
}

fn unknown_key() -> String {
    format!("unknown key; known here: {}", RawAgent::KEYS.join(", "))
}

macro_rules! settings {
    ($( $kind:ty = $expected:literal; )+) => {
        $( impl Setting for $kind {
            const EXPECTED: &str = $expected;

            fn parse(text: &str) -> Option<$kind> {
                text.parse().ok()
            }
        } )+
    };
}

settings! {
    String = "a text";
    PathBuf = "a text";
    bool = "true or false";
    u8 = "a whole number from 0 to 255";
    Ipv4Addr = "an IPv4 address";
    IpAddr = "an IP address";
}

impl Setting for Mode {
    const EXPECTED: &str = "push, legacy-push or poll";

    fn parse(text: &str) -> Option<Mode> {
        match text {
            "push" => Some(Mode::Push),
            "legacy-push" => Some(Mode::LegacyPush),
            "poll" => Some(Mode::Poll),
            _ => None,
        }
    }
}

impl Setting for AgentState {
    const EXPECTED: &str = "ready, busy or work";

    fn parse(text: &str) -> Option<AgentState> {
        match text {
            "ready" => Some(AgentState::Ready),
            "busy" => Some(AgentState::Busy),
            "work" => Some(AgentState::Work),
            _ => None,
        }
    }
}

impl Setting for RawSkills {
    const EXPECTED: &str = "all, none, or skill ids such as 1;2;3 (in TOML \"all\" or a list of numbers)";

    fn parse(text: &str) -> Option<RawSkills> {
        match text {
            "all" => Some(RawSkills::Word(text.to_owned())),
            "none" => Some(RawSkills::Ids(Vec::new())),
            ids => ids.split(';').map(|id| id.trim().parse().ok()).collect::<Option<_>>().map(RawSkills::Ids),
        }
    }
}

fn needs_one_of(ways: &[&str]) -> String {
    let (last, others) = ways.split_last().unwrap_or((&"", &[]));
    format!("needs one of {} and {last}", others.join(", "))
}

impl RawAgent {
    /// Checks one agent; mistakes are noted under `key`. Reads the password once, to find out whether it can be.
    pub fn validate(self, key: &str, problems: &mut Problems) -> Option<AgentConfig> {
        self.checked(None, &["password_file", "password_env"], key, problems)
    }

    /// As [`RawAgent::validate`], with a password that was given beside: then the agent must name no other.
    pub fn validate_with(
        self,
        password: Option<SecretString>,
        key: &str,
        problems: &mut Problems,
    ) -> Option<AgentConfig> {
        self.checked(password, &["password", "password_file", "password_env"], key, problems)
    }

    /// `ways` are the keys that can give a password.
    fn checked(
        self,
        password: Option<SecretString>,
        ways: &[&str],
        key: &str,
        problems: &mut Problems,
    ) -> Option<AgentConfig> {
        let gateway = GatewayName::parse(&self.gateway).ok();
        let missing = [("gateway", &self.gateway), ("id", &self.id), ("phone_number", &self.phone_number)];
        for (name, _) in missing.iter().filter(|(_, value)| value.is_empty()) {
            require(&format!("{key}.{name}"), problems);
        }
        let id = match self.id.is_empty() {
            true => None,
            false => problems.check(&format!("{key}.id"), AgentId::parse(&self.id)),
        };
        let password = match password {
            Some(password) => self.check_given_password(password, ways, key, problems),
            None => self.check_password(ways, key, problems),
        };
        let skills = self.check_skills(key, problems);
        self.check_options(key, problems);
        Some(AgentConfig {
            gateway: gateway?,
            id: id?,
            password: password?,
            skills: skills?,
            takeover: self.takeover.unwrap_or(false),
            mode: self.mode.unwrap_or_default(),
            after_sign_in: AfterSignIn {
                autoanswer: self.after_sign_in_autoanswer,
                state: self.after_sign_in_state,
                busy_reason: self.after_sign_in_busy_reason,
            },
            options: SignInOptions {
                phone_number: self.phone_number,
                autoanswer: self.autoanswer,
                autoenteridle: self.autoenteridle,
                releasephone: self.releasephone.unwrap_or(true),
                agenttype: self.agenttype,
                status: self.status,
                ip: self.ip,
                entry_ip: self.entry_ip,
                phonelinkage: self.phonelinkage,
                check_in_webm: self.check_in_webm,
                check_in_mailm: self.check_in_mailm,
                vc_phone_number: self.vc_phone_number,
                listen_status: self.listen_status,
            },
        })
    }

    fn check_given_password(
        &self,
        password: SecretString,
        ways: &[&str],
        key: &str,
        problems: &mut Problems,
    ) -> Option<PasswordSource> {
        if self.password_file.is_some() || self.password_env.is_some() {
            problems.add(key, needs_one_of(ways));
        }
        let source = PasswordSource::Fixed(password);
        problems.check(&format!("{key}.password"), source.read())?;
        Some(source)
    }

    fn check_password(&self, ways: &[&str], key: &str, problems: &mut Problems) -> Option<PasswordSource> {
        let (key, source) = match (&self.password_file, &self.password_env) {
            (Some(path), None) => {
                // A path that is not UTF-8 has no placeholders.
                let path =
                    path.to_str().map_or(Some(path.clone()), |text| self.fill(text).map(PathBuf::from));
                (format!("{key}.password_file"), PasswordSource::File(path?))
            }
            (None, Some(name)) => {
                let (key, name) = (format!("{key}.password_env"), self.fill(name)?);
                // The error itself can hold the value.
                let value = std::env::var(&name).map_err(|error| match error {
                    VarError::NotPresent => format!("the environment variable {name} is not set"),
                    VarError::NotUnicode(_) => format!("the environment variable {name} is not UTF-8"),
                });
                let value = problems.check(&key, value)?;
                (key, PasswordSource::Fixed(value.into()))
            }
            _ => {
                if !ways.iter().any(|name| problems.suspect(&format!("{key}.{name}"))) {
                    problems.add(key, needs_one_of(ways));
                }
                return None;
            }
        };
        problems.check(&key, source.read())?;
        Some(source)
    }

    /// The text with its placeholders replaced. Nothing when it has some and the agent's names are none: they could
    /// lead a path anywhere.
    fn fill(&self, text: &str) -> Option<String> {
        let plain = !text.contains("{id}") && !text.contains("{gateway}");
        let named = AgentId::parse(&self.id).is_ok() && GatewayName::parse(&self.gateway).is_ok();
        (plain || named).then(|| text.replace("{id}", &self.id).replace("{gateway}", &self.gateway))
    }

    fn check_skills(&self, key: &str, problems: &mut Problems) -> Option<Skills> {
        let key = format!("{key}.skills");
        match &self.skills {
            None => Some(Skills::All),
            Some(RawSkills::Word(word)) if word == "all" => Some(Skills::All),
            Some(RawSkills::Word(_)) => {
                problems.add(key, "must be \"all\" or a list of skill ids");
                None
            }
            Some(RawSkills::Ids(ids)) => {
                let skills = Skills::Ids(ids.clone());
                if skills.joined().len() > SKILL_IDS_LENGTH {
                    problems.add(key, "the ids take more than the 4000 characters that gateways take");
                }
                Some(skills)
            }
        }
    }

    fn check_options(&self, key: &str, problems: &mut Problems) {
        if self.phone_number.len() > PHONE_LENGTH {
            problems.add(format!("{key}.phone_number"), "must have 1 to 24 characters");
        }
        if self.vc_phone_number.as_ref().is_some_and(|number| number.len() > PHONE_LENGTH) {
            problems.add(format!("{key}.vc_phone_number"), "must have at most 24 characters");
        }
        if self.status.is_some_and(|status| !(3..=5).contains(&status)) {
            problems.add(format!("{key}.status"), "must be 3 (busy), 4 (idle) or 5 (wrap-up)");
        }
        if self.after_sign_in_busy_reason.is_some_and(|reason| reason != 0 && !(200..=250).contains(&reason))
        {
            problems.add(format!("{key}.after_sign_in_busy_reason"), "must be 0 or 200 to 250");
        }
    }
}

fn require(key: &str, problems: &mut Problems) {
    if !problems.suspect(key) {
        problems.add(key, "is required");
    }
}
