//! `call_through` of a gateway: which of its calls other programs may make through the admin API. A pattern is a method and
//! a path below the gateway's base URL, such as `PUT voicecall/{agent}/answer` or `DELETE qualitycontrol/{agent}/*`:
//! `{agent}` is the agent that the caller names and no other, `*` is any one segment.
//!
//! The calls by which sessions live are ccrelay's own and cannot be opened.

use bytes::Bytes;
use http::Method;
use thiserror::Error;

use crate::event::AgentId;
use crate::session::forward::{ForwardError, ForwardRequest};

/// The longest word that is taken for a call's name.
const LONGEST_WORD: usize = 40;

/// A pattern, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPattern {
    method: Method,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    Agent,
    Any,
}

/// A text that is no pattern, or one that must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CallPatternError {
    /// Not a method and a path.
    #[error(
        "a call is a method (GET, POST, PUT or DELETE), a space and a path such as voicecall/{{agent}}/answer"
    )]
    Form,
    /// A segment that is none of a name, `{agent}` and `*`.
    #[error("a segment of the path is a name of A-Z, a-z, 0-9, -, _ and ., or {{agent}}, or *")]
    Segment,
    /// The agent is not where the gateway has it.
    #[error(
        "the path must begin with a name and {{agent}}, which stands there once, as in voicecall/{{agent}}/answer"
    )]
    Agent,
    /// A call of the session's own.
    #[error(
        "calls that sign in or out, heartbeats, GUIDs, events and passwords are ccrelay's own and cannot be opened"
    )]
    Own,
    /// A star among the calls of which some are the session's own.
    #[error("onlineagent/{{agent}}/* would open ccrelay's own calls too: name the call in place of *")]
    TooWide,
}

impl CallPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none, or would open a call of the session's own.
    pub fn parse(text: &str) -> Result<CallPattern, CallPatternError> {
        let (method, path) = text.split_once(' ').ok_or(CallPatternError::Form)?;
        let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
        let method =
            methods.into_iter().find(|known| known.as_str() == method).ok_or(CallPatternError::Form)?;
        let segments: Vec<Segment> = path.split('/').map(segment).collect::<Result<_, _>>()?;
        let agents = segments.iter().filter(|segment| **segment == Segment::Agent).count();
        let [Segment::Text(root), Segment::Agent, rest @ ..] = &segments[..] else {
            return Err(CallPatternError::Agent);
        };
        if agents != 1 {
            return Err(CallPatternError::Agent);
        }
        if root.eq_ignore_ascii_case("agentevent") {
            return Err(CallPatternError::Own);
        }
        if root.eq_ignore_ascii_case("onlineagent") && rest.first() == Some(&Segment::Any) {
            return Err(CallPatternError::TooWide);
        }
        let example: String = segments.iter().map(|segment| format!("/{}", segment.example())).collect();
        match ForwardRequest::new(method.clone(), &example, None, Bytes::new()) {
            Ok(_) => Ok(CallPattern { method, segments }),
            Err(ForwardError::OwnCall) => Err(CallPatternError::Own),
            Err(_) => Err(CallPatternError::Segment),
        }
    }

    /// Whether this call of this agent is open. `path` has no slash at its beginning and no query.
    #[must_use]
    pub fn opens(&self, method: &Method, path: &str, agent_id: &AgentId) -> bool {
        let mut found = path.split('/');
        let all = self.segments.iter().all(|segment| {
            found.next().is_some_and(|found| match segment {
                Segment::Text(text) => found == text,
                Segment::Agent => found == agent_id.as_str(),
                Segment::Any => !found.is_empty(),
            })
        });
        self.method == *method && all && found.next().is_none()
    }

    /// A call that it opens, by a name that tells what is done and nothing of whom or what it is done to: in the place of a star
    /// stands a word of letters, as the gateway's names of calls are, or else the star.
    #[must_use]
    pub fn name_of(&self, path: &str) -> String {
        let mut name = self.method.to_string();
        let mut found = path.split('/');
        for (segment, separator) in
            self.segments.iter().zip(std::iter::once(' ').chain(std::iter::repeat('/')))
        {
            let word = found.next().filter(|word| {
                word.len() <= LONGEST_WORD && word.bytes().all(|byte| byte.is_ascii_alphabetic())
            });
            name.push(separator);
            name.push_str(match segment {
                Segment::Text(text) => text,
                Segment::Agent => "{agent}",
                Segment::Any => word.unwrap_or("*"),
            });
        }
        name
    }
}

impl Segment {
    fn example(&self) -> &str {
        match self {
            Segment::Text(text) => text,
            Segment::Agent => "101",
            Segment::Any => "x",
        }
    }
}

fn segment(text: &str) -> Result<Segment, CallPatternError> {
    match text {
        "{agent}" => Ok(Segment::Agent),
        "*" => Ok(Segment::Any),
        text => {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let good = plain && !text.is_empty() && !text.bytes().all(|byte| byte == b'.');
            good.then(|| Segment::Text(text.to_owned())).ok_or(CallPatternError::Segment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(pattern: &str, method: Method, path: &str) -> bool {
        let agent = AgentId::parse("1001").unwrap();
        CallPattern::parse(pattern).unwrap().opens(&method, path, &agent)
    }

    #[test]
    fn a_call_is_named_without_whom_it_concerns() {
        let name = |pattern: &str, path: &str| CallPattern::parse(pattern).unwrap().name_of(path);
        assert_eq!(
            name("PUT voicecall/{agent}/answer", "voicecall/1001/answer"),
            "PUT voicecall/{agent}/answer"
        );
        let all = "POST voicecall/{agent}/*";
        assert_eq!(name(all, "voicecall/1001/addsupervise"), "POST voicecall/{agent}/addsupervise");
        for odd in ["+4930123456", "1-2", &"x".repeat(500)] {
            assert_eq!(name(all, &format!("voicecall/1001/{odd}")), "POST voicecall/{agent}/*");
        }
    }

    #[test]
    fn a_pattern_opens_its_call_for_the_agent_that_is_named_and_nothing_else() {
        let answer = "PUT voicecall/{agent}/answer";
        assert!(opens(answer, Method::PUT, "voicecall/1001/answer"));
        for (method, path) in [
            (Method::POST, "voicecall/1001/answer"),
            (Method::PUT, "voicecall/1002/answer"),
            (Method::PUT, "voicecall/1001/hold"),
            (Method::PUT, "voicecall/1001"),
            (Method::PUT, "voicecall/1001/answer/"),
            (Method::PUT, "voicecall/1001/answer/x"),
            (Method::PUT, "/voicecall/1001/answer"),
            (Method::PUT, "VoiceCall/1001/answer"),
        ] {
            assert!(!opens(answer, method, path), "{path}");
        }
        let listen = "PUT qualitycontrol/{agent}/addsupervise/*";
        assert!(opens(listen, Method::PUT, "qualitycontrol/1001/addsupervise/1002"));
        assert!(!opens(listen, Method::PUT, "qualitycontrol/1002/addsupervise/1001"));
        assert!(!opens(listen, Method::PUT, "qualitycontrol/1001/addsupervise/"));
        assert!(!opens(listen, Method::PUT, "qualitycontrol/1001/addsupervise/1002/x"));
        assert!(opens("DELETE voicecall/{agent}", Method::DELETE, "voicecall/1001"));
    }

    #[test]
    fn the_sessions_own_calls_cannot_be_opened() {
        for text in [
            "PUT onlineagent/{agent}",
            "PUT onlineagent/{agent}/forcelogin",
            "PUT OnlineAgent/{agent}/forceLogin",
            "PUT onlineagent/{agent}/loginex",
            "DELETE onlineagent/{agent}/logout",
            "DELETE onlineagent/{agent}/forcelogout",
            "DELETE onlineagent/{agent}/forcelogoutwithreason/*",
            "POST onlineagent/{agent}/handshake",
            "PUT onlineagent/{agent}/heartbeat",
            "PUT onlineagent/{agent}/updateGuid",
            "POST onlineagent/{agent}/syncagentinfo",
            "POST onlineagent/{agent}/modifyaccountpwdex",
            "GET agentevent/{agent}",
            "GET agentevent/{agent}/x",
        ] {
            assert_eq!(CallPattern::parse(text), Err(CallPatternError::Own), "{text}");
        }
        assert_eq!(CallPattern::parse("DELETE onlineagent/{agent}/*"), Err(CallPatternError::TooWide));
        assert!(CallPattern::parse("POST onlineagent/{agent}/saybusy").is_ok());
        assert!(CallPattern::parse("POST onlineagent/{agent}/rest/*/*").is_ok());
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_is_wanted() {
        use CallPatternError::{Agent, Form, Segment};
        for (text, error) in [
            ("", Form),
            ("voicecall/{agent}/answer", Form),
            ("put voicecall/{agent}/answer", Form),
            ("* voicecall/{agent}/answer", Form),
            ("PUT  voicecall/{agent}/answer", Segment),
            ("PUT /voicecall/{agent}/answer", Segment),
            ("PUT voicecall/{agent}/", Segment),
            ("PUT voicecall/{agent}/..", Segment),
            ("PUT voicecall/{agent}/a%2fb", Segment),
            ("PUT voicecall/{agent}/answer?x=1", Segment),
            ("PUT voicecall/{number}/answer", Segment),
            ("PUT voicecall/1001/answer", Agent),
            ("PUT */{agent}/answer", Agent),
            ("PUT voicecall", Agent),
            ("PUT voicecall/*/answer", Agent),
            ("PUT voicecall/{agent}/{agent}", Agent),
        ] {
            assert_eq!(CallPattern::parse(text), Err(error), "{text}");
        }
    }
}
