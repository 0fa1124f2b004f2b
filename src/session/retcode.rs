//! Retcodes: kept as the gateway sent them, and what each means to a session.
//!
//! `retcodes.csv` is the one table of codes and their classes. What a class asks of us depends on the call that met
//! it: [`meaning`] answers that. A code that no table knows is never fatal to a session that lives, and is tried only
//! a few times at sign-in, where repeating may lock an account.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::Serialize;

/// Codes are `0` or `nnn-nnn`; the rest is room for gateways that say more, not for a page of HTML.
const RETCODE_LENGTH: usize = 32;

static TABLE: LazyLock<HashMap<&'static str, Class>> =
    LazyLock::new(|| rows().filter_map(|(code, class)| Some((code, Class::parse(class)?))).collect());

/// A retcode as sent, cut to 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Retcode(Arc<str>);

impl Retcode {
    /// Takes a code as it came.
    #[must_use]
    pub fn new(text: &str) -> Retcode {
        Retcode(
            text.trim().chars().filter(|c| !c.is_control()).take(RETCODE_LENGTH).collect::<String>().into(),
        )
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The class of the code; `None` when no table knows it.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        TABLE.get(self.as_str()).copied()
    }
}

impl fmt::Display for Retcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Classes of `retcodes.csv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Done.
    Ok,
    /// Passes by itself.
    Transient,
    /// The request is wrong and stays wrong.
    BadRequest,
    /// The gateway does not know this session any more.
    AuthLost,
    /// Somebody is signed in as this agent.
    AlreadySignedIn,
    /// Password or account: repeating makes it worse.
    BadCredentials,
    /// Not allowed in the state the agent is in.
    State,
    /// Everything else.
    Other,
}

impl Class {
    fn parse(text: &str) -> Option<Class> {
        Some(match text {
            "ok" => Class::Ok,
            "transient" => Class::Transient,
            "bad_request" => Class::BadRequest,
            "auth_lost" => Class::AuthLost,
            "already_signed_in" => Class::AlreadySignedIn,
            "bad_credentials" => Class::BadCredentials,
            "state" => Class::State,
            "other" => Class::Other,
            _ => return None,
        })
    }
}

/// All codes of the table.
#[cfg(test)]
pub(crate) fn codes() -> impl Iterator<Item = &'static str> {
    rows().map(|(code, _)| code)
}

/// First and last column of each row.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("retcodes.csv").lines().skip(1);
    lines.filter_map(|line| Some((line.split_once(',')?.0, line.rsplit_once(',')?.1)))
}

/// The calls of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Sign in.
    Login,
    /// Sign in and end whatever session there is.
    ForceLogin,
    /// Enter the skill queues.
    ResetSkill,
    /// Answer calls by themselves, or not.
    AutoAnswer,
    /// Be ready for calls.
    SayFree,
    /// Be busy.
    SayBusy,
    /// Be in wrap-up.
    Work,
    /// The heartbeat.
    Handshake,
    /// The heartbeat in polling mode, which may bring an event.
    Poll,
    /// Ask for a new GUID.
    UpdateGuid,
    /// Sign out.
    Logout,
}

impl Operation {
    /// The gateway's own name of the call, as in its logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Login => "login",
            Operation::ForceLogin => "forceLogin",
            Operation::ResetSkill => "resetSkill",
            Operation::AutoAnswer => "setAgentAutoAnswer",
            Operation::SayFree => "sayFree",
            Operation::SayBusy => "sayBusy",
            Operation::Work => "sayWork",
            Operation::Handshake => "handShake",
            Operation::Poll => "getAgentEvent",
            Operation::UpdateGuid => "updateGuid",
            Operation::Logout => "logout",
        }
    }

    /// Whether the call signs an agent in.
    #[must_use]
    pub fn signs_in(self) -> bool {
        matches!(self, Operation::Login | Operation::ForceLogin)
    }

    /// Whether gateways give GUIDs with answers to the call, so that one may be lost with an answer.
    #[must_use]
    pub fn brings_guid(self) -> bool {
        match self {
            Operation::Login
            | Operation::ForceLogin
            | Operation::Handshake
            | Operation::Poll
            | Operation::UpdateGuid => true,
            Operation::ResetSkill
            | Operation::AutoAnswer
            | Operation::SayFree
            | Operation::SayBusy
            | Operation::Work
            | Operation::Logout => false,
        }
    }

    /// Whether the call sets an agent up after its sign-in.
    #[must_use]
    pub fn sets_up(self) -> bool {
        use Operation::{AutoAnswer, ResetSkill, SayBusy, SayFree, Work};
        matches!(self, ResetSkill | AutoAnswer | SayFree | SayBusy | Work)
    }
}

/// Why a session that we held is gone. Label `reason` of `ccrelay_session_losses_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The GUID was not accepted (000-003): it ran out, or somebody else signed in.
    GuidRefused,
    /// The gateway says the agent is not signed in.
    NotSignedIn,
    /// Disaster recovery moved the agent, and it must sign in again.
    SwitchedOver,
    /// An event announced the end (forced out, service shut down), and the gateway confirmed it.
    ShutDown,
    /// No heartbeat succeeded for as long as the gateway waits.
    TimedOut,
    /// Calls go to another address of the gateway, which does not know the session. Where it was signed in it still stands.
    OtherAddress,
}

impl Loss {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Loss::GuidRefused => "guid_refused",
            Loss::NotSignedIn => "not_signed_in",
            Loss::SwitchedOver => "switched_over",
            Loss::ShutDown => "shut_down",
            Loss::TimedOut => "timed_out",
            Loss::OtherAddress => "other_address",
        }
    }
}

/// Why a session waits for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspension {
    /// Wrong user or password; a further try might lock the account.
    BadCredentials,
    /// The account is locked.
    AccountLocked,
    /// The password has expired.
    PasswordExpired,
    /// The password must be changed before calls come (`isForceChange`).
    PasswordChangeRequired,
    /// The password cannot be read from its file.
    PasswordUnreadable,
    /// The phone number is invalid or outside the configured range.
    PhoneRefused,
    /// The gateway refuses what we send: the configuration of gateway or agent is wrong.
    RequestRefused,
    /// Somebody else is signed in as this agent and `takeover` is off.
    SignedInElsewhere,
    /// Somebody else is signed in and may not be forced out.
    NotReplaceable,
    /// Sign-in was refused several times with codes that say nothing more.
    SignInRefused,
    /// The agent is to be polled, but is signed in for pushes.
    WrongEventMode,
    /// Heartbeats were refused as malformed for as long as the gateway waits.
    HeartbeatRefused,
    /// A session that another program signed in is gone, and there is no password to sign in anew with.
    AdoptedSessionLost,
}

impl Suspension {
    /// All of them.
    pub const ALL: [Suspension; 13] = [
        Suspension::BadCredentials,
        Suspension::AccountLocked,
        Suspension::PasswordExpired,
        Suspension::PasswordChangeRequired,
        Suspension::PasswordUnreadable,
        Suspension::PhoneRefused,
        Suspension::RequestRefused,
        Suspension::SignedInElsewhere,
        Suspension::NotReplaceable,
        Suspension::SignInRefused,
        Suspension::WrongEventMode,
        Suspension::HeartbeatRefused,
        Suspension::AdoptedSessionLost,
    ];

    /// Those after which another try may lock the account, or has met one that is locked.
    const OF_THE_ACCOUNT: [Suspension; 5] = [
        Suspension::BadCredentials,
        Suspension::AccountLocked,
        Suspension::PasswordExpired,
        Suspension::PasswordChangeRequired,
        Suspension::SignInRefused,
    ];

    /// Whether a restart by itself must not lead to another try.
    #[must_use]
    pub fn is_of_the_account(self) -> bool {
        Suspension::OF_THE_ACCOUNT.contains(&self)
    }

    /// Whether another password is a reason to try again.
    #[must_use]
    pub fn is_of_the_password(self) -> bool {
        use Suspension::{BadCredentials, PasswordChangeRequired, PasswordExpired, PasswordUnreadable};
        matches!(self, BadCredentials | PasswordExpired | PasswordChangeRequired | PasswordUnreadable)
    }

    /// The one of the account that has this name.
    #[must_use]
    pub fn of_the_account(name: &str) -> Option<Suspension> {
        Suspension::OF_THE_ACCOUNT.into_iter().find(|suspension| suspension.as_str() == name)
    }

    /// A short name for logs, events and the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Suspension::BadCredentials => "bad_credentials",
            Suspension::AccountLocked => "account_locked",
            Suspension::PasswordExpired => "password_expired",
            Suspension::PasswordChangeRequired => "password_change_required",
            Suspension::PasswordUnreadable => "password_unreadable",
            Suspension::PhoneRefused => "phone_refused",
            Suspension::RequestRefused => "request_refused",
            Suspension::SignedInElsewhere => "signed_in_elsewhere",
            Suspension::NotReplaceable => "not_replaceable",
            Suspension::SignInRefused => "sign_in_refused",
            Suspension::WrongEventMode => "wrong_event_mode",
            Suspension::HeartbeatRefused => "heartbeat_refused",
            Suspension::AdoptedSessionLost => "adopted_session_lost",
        }
    }
}

/// What an answer asks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Done.
    Ok,
    /// Passes by itself: repeat with back-off.
    Transient,
    /// The agent is being switched over: wait 1 to 5 s and repeat.
    SwitchingOver,
    /// A sign-in of this agent is under way already, be it ours of which we did not wait for the end: repeat with back-off.
    UnderWay,
    /// Somebody is signed in: force in, if that is allowed.
    SignedIn,
    /// The session is gone: sign in again.
    Lost(Loss),
    /// The heartbeat's `service_token` was refused: repeat without it, the session matters more.
    TokenRefused,
    /// The call was refused and the same call will be refused again.
    Refused,
    /// Refused for no reason that we know: repeat, but not for ever.
    Doubtful,
    /// The agent's state forbids it now.
    NotNow,
    /// Stop and wait for a person.
    Suspend(Suspension),
}

/// What `retcode` means as the answer to `operation`.
#[must_use]
pub fn meaning(operation: Operation, retcode: &Retcode) -> Meaning {
    match (retcode.class(), retcode.as_str()) {
        (Some(Class::Ok), _) => Meaning::Ok,
        (_, "000-004" | "105-002" | "105-003" | "105-004") => Meaning::SwitchingOver,
        (class, code) => match operation {
            Operation::Login | Operation::ForceLogin => at_sign_in(operation, class, code),
            Operation::Handshake => at_heartbeat(class, code),
            Operation::Poll => at_poll(class, code),
            Operation::ResetSkill
            | Operation::AutoAnswer
            | Operation::SayFree
            | Operation::SayBusy
            | Operation::Work
            | Operation::UpdateGuid => at_setting(class, code),
            Operation::Logout => at_logout(class, code),
        },
    }
}

/// Whether the answer to a call that we passed on says that the session is gone. It is not believed by itself: the
/// session's own heartbeat finds out.
#[must_use]
pub fn doubts_session(retcode: &Retcode) -> bool {
    retcode.class() == Some(Class::AuthLost)
}

fn at_sign_in(operation: Operation, class: Option<Class>, code: &str) -> Meaning {
    match (class, code) {
        (_, "100-002") if operation == Operation::Login => Meaning::SignedIn,
        // Forced, and still somebody is in: a race with another sign-in, or an endless one.
        (_, "100-002") => Meaning::Doubtful,
        (_, "000-007" | "100-021") => Meaning::UnderWay,
        (_, "100-015") => Meaning::Suspend(Suspension::NotReplaceable),
        (_, "100-013" | "100-014") => Meaning::Suspend(Suspension::PhoneRefused),
        (_, "100-020") => Meaning::Suspend(Suspension::PasswordExpired),
        (_, "110-016" | "100-061") => Meaning::Suspend(Suspension::AccountLocked),
        (Some(Class::BadCredentials), _) => Meaning::Suspend(Suspension::BadCredentials),
        (Some(Class::BadRequest), _) => Meaning::Suspend(Suspension::RequestRefused),
        // "Sign in again" as the answer to a sign-in: do that, with back-off.
        (Some(Class::Transient | Class::AuthLost), _) => Meaning::Transient,
        _ => Meaning::Doubtful,
    }
}

fn at_heartbeat(class: Option<Class>, code: &str) -> Meaning {
    match (class, code) {
        (_, "100-001") => Meaning::TokenRefused,
        (Some(Class::AuthLost), _) => Meaning::Lost(loss(code)),
        (Some(Class::BadRequest), _) => Meaning::Refused,
        // Whatever else it says, the session may well be alive: ask again.
        _ => Meaning::Transient,
    }
}

fn at_poll(class: Option<Class>, code: &str) -> Meaning {
    match (class, code) {
        // Signed in with push: by somebody else, since we would not.
        (_, "000-001") => Meaning::Suspend(Suspension::WrongEventMode),
        (Some(Class::AuthLost), _) => Meaning::Lost(loss(code)),
        (Some(Class::BadRequest), _) => Meaning::Refused,
        _ => Meaning::Transient,
    }
}

/// What is set once after a sign-in (skill queues, automatic answers, the agent's state) and a new GUID.
fn at_setting(class: Option<Class>, code: &str) -> Meaning {
    match class {
        Some(Class::AuthLost) => Meaning::Lost(loss(code)),
        Some(Class::Transient) => Meaning::Transient,
        Some(Class::BadRequest | Class::BadCredentials) => Meaning::Refused,
        _ => Meaning::Doubtful,
    }
}

fn at_logout(class: Option<Class>, code: &str) -> Meaning {
    match (class, code) {
        // Already out is what was wanted.
        (_, "100-008") => Meaning::Ok,
        (Some(Class::AuthLost), _) => Meaning::Lost(loss(code)),
        (Some(Class::State), _) => Meaning::NotNow,
        (Some(Class::BadRequest), _) => Meaning::Refused,
        _ => Meaning::Transient,
    }
}

fn loss(code: &str) -> Loss {
    match code {
        "000-003" => Loss::GuidRefused,
        _ if code.starts_with("105-") => Loss::SwitchedOver,
        _ => Loss::NotSignedIn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPERATIONS: [Operation; 10] = [
        Operation::Login,
        Operation::ForceLogin,
        Operation::ResetSkill,
        Operation::AutoAnswer,
        Operation::SayFree,
        Operation::SayBusy,
        Operation::Work,
        Operation::Handshake,
        Operation::Poll,
        Operation::Logout,
    ];

    fn means(operation: Operation, code: &str) -> Meaning {
        meaning(operation, &Retcode::new(code))
    }

    #[test]
    fn every_row_of_the_csv_is_in_the_table_once_and_with_its_class() {
        let lines = include_str!("retcodes.csv").lines().skip(1).filter(|line| !line.is_empty()).count();
        assert_eq!(rows().count(), lines);
        assert_eq!(TABLE.len(), lines, "a code stands twice or a class is unknown");
        for (code, class) in rows() {
            assert_eq!(Retcode::new(code).class(), Class::parse(class), "{code}");
        }
    }

    /// A change of what a code means must be seen: the table is looked at, not derived.
    #[test]
    fn what_each_code_means_as_the_answer_to_each_call_stands_in_the_golden_table() {
        let mut table = String::from("code,class");
        for operation in OPERATIONS {
            table.push_str(&format!(",{}", operation.as_str()));
        }
        table.push_str(",passed on\n");
        for (code, class) in rows().chain([("gibberish", "unknown")]) {
            table.push_str(&format!("{code},{class}"));
            for operation in OPERATIONS {
                table.push_str(&format!(",{:?}", means(operation, code)));
            }
            let doubts = if doubts_session(&Retcode::new(code)) { "ask by a heartbeat" } else { "-" };
            table.push_str(&format!(",{doubts}\n"));
        }
        insta::with_settings!({
            snapshot_path => "testdata", prepend_module_to_snapshot => false, omit_expression => true
        }, {
            insta::assert_snapshot!("meanings", table);
        });
    }

    #[test]
    fn codes_of_the_documented_actions_mean_what_the_document_says() {
        use Operation::{ForceLogin, Handshake, Login, Logout, ResetSkill};
        for operation in OPERATIONS {
            assert_eq!(means(operation, "0"), Meaning::Ok);
            assert_eq!(means(operation, "000-004"), Meaning::SwitchingOver);
            assert_eq!(means(operation, "105-003"), Meaning::SwitchingOver);
        }
        assert_eq!(means(Login, "100-002"), Meaning::SignedIn);
        assert_eq!(means(ForceLogin, "100-002"), Meaning::Doubtful);
        assert_eq!(means(Login, "100-004"), Meaning::Suspend(Suspension::BadCredentials));
        assert_eq!(means(Login, "110-016"), Meaning::Suspend(Suspension::AccountLocked));
        assert_eq!(means(Login, "100-015"), Meaning::Suspend(Suspension::NotReplaceable));
        assert_eq!(means(Login, "100-014"), Meaning::Suspend(Suspension::PhoneRefused));
        assert_eq!(means(Login, "100-001"), Meaning::Suspend(Suspension::RequestRefused));
        for code in ["100-003", "100-007", "105-005"] {
            assert_eq!(means(Login, code), Meaning::Transient, "{code}");
        }
        for code in ["000-007", "100-021"] {
            assert_eq!(means(Login, code), Meaning::UnderWay, "{code}");
        }
        assert_eq!(means(Handshake, "100-001"), Meaning::TokenRefused);
        assert_eq!(means(Handshake, "000-003"), Meaning::Lost(Loss::GuidRefused));
        assert_eq!(means(Handshake, "100-006"), Meaning::Lost(Loss::NotSignedIn));
        assert_eq!(means(Handshake, "105-001"), Meaning::Lost(Loss::SwitchedOver));
        let wrong_mode = Meaning::Suspend(Suspension::WrongEventMode);
        assert_eq!(means(Operation::Poll, "000-001"), wrong_mode);
        assert_eq!(means(Operation::Poll, "000-003"), Meaning::Lost(Loss::GuidRefused));
        assert_eq!(means(Operation::Poll, "100-007"), Meaning::Transient);
        assert_eq!(means(ResetSkill, "000-002"), Meaning::Refused);
        for setting in [Operation::AutoAnswer, Operation::SayFree, Operation::SayBusy, Operation::Work] {
            assert_eq!(means(setting, "000-002"), Meaning::Refused);
            assert_eq!(means(setting, "000-003"), Meaning::Lost(Loss::GuidRefused));
            assert_eq!(means(setting, "100-006"), Meaning::Lost(Loss::NotSignedIn));
            assert_eq!(means(setting, "100-007"), Meaning::Transient);
            assert_eq!(means(setting, "100-009"), Meaning::Doubtful);
        }
        assert_eq!(means(Logout, "100-008"), Meaning::Ok);
        assert_eq!(means(Logout, "000-003"), Meaning::Lost(Loss::GuidRefused));
        assert_eq!(means(Logout, "100-010"), Meaning::NotNow);
    }

    #[test]
    fn an_unknown_code_never_ends_a_living_session() {
        for code in ["", "999-999", "OK", "1", "java.lang.NullPointerException"] {
            assert_eq!(means(Operation::Handshake, code), Meaning::Transient);
            assert_eq!(means(Operation::Login, code), Meaning::Doubtful);
        }
    }

    #[test]
    fn no_code_means_success_but_zero() {
        for (code, class) in rows().filter(|(code, _)| *code != "0") {
            for operation in &OPERATIONS[..OPERATIONS.len() - 1] {
                assert_ne!(means(*operation, code), Meaning::Ok, "{code} {class}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_bounded_code(text in ".{0,200}") {
            let code = Retcode::new(&text);
            prop_assert!(code.as_str().chars().count() <= RETCODE_LENGTH);
            for operation in OPERATIONS {
                let _meaning = meaning(operation, &code);
            }
        }
    }
}
