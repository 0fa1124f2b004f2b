//! Names of requests: what joins the lines of the log that speak of one push or one call of the admin API, and the answer.
//!
//! A name is that of the listener's life (random) and a number: `9f3ac1d2-1a`. Who calls the admin API may bring a name of
//! their own in `X-Request-Id`; the gateway is not asked for one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

/// The header that carries a request's name, on answers and from callers of the admin API.
pub const HEADER: &str = "x-request-id";
/// A longer name of a caller's is not taken.
const LONGEST: usize = 64;

/// Gives out names of requests.
#[derive(Debug)]
pub struct RequestIds {
    life: u32,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> RequestIds {
        let mut life = [0; 4];
        if let Err(error) = getrandom::fill(&mut life) {
            tracing::debug!(%error, "two lives of this listener may share names of requests");
        }
        RequestIds { life: u32::from_ne_bytes(life), next: AtomicU64::new(1) }
    }
}

impl RequestIds {
    /// A name that no other request of this listener has.
    pub fn next(&self) -> RequestId {
        RequestId { life: self.life, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

/// The name of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    life: u32,
    number: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.life, self.number)
    }
}

/// The name that a caller has given: one header, 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `-`, `_`, `.` and `:`. Anything
/// else is none, so that nobody writes lines into the log.
pub fn given(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let good = (1..=LONGEST).contains(&value.len()) && value.bytes().all(plain);
    (good && values.next().is_none()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_listener_differ_and_are_ones_that_a_caller_could_give() {
        let ids = RequestIds::default();
        let (one, other) = (ids.next().to_string(), ids.next().to_string());
        assert_ne!(one, other);
        assert_eq!(one.split('-').next(), other.split('-').next());
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, one.parse().unwrap());
        assert_eq!(given(&headers), Some(&*one));
    }

    #[test]
    fn a_name_that_is_long_or_odd_or_one_of_two_is_not_taken() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            given(&headers).map(str::to_owned)
        };
        assert_eq!(with(&["Order_7:a.b-c"]).as_deref(), Some("Order_7:a.b-c"));
        for odd in ["", "a b", "a\tb", "a\"b", "{}", &"x".repeat(65)] {
            assert_eq!(with(&[odd]), None, "{odd:?}");
        }
        assert_eq!(with(&["one", "two"]), None);
        assert_eq!(with(&[]), None);
    }
}
