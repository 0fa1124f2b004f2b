//! The texts of an event by their paths, such as `call.caller`: what can be hidden in it.
//!
//! Only what the gateway filled in freely is a text here. Names of our own, codes and times are none.

use super::codes::Code;
use super::data::Moment;
use super::state::{CallOutcome, CallState};

/// A part of `data` that may hold texts.
pub trait Texts {
    /// Shows each text there is, with its path below `path`.
    fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String));

    /// The paths of all texts that there can be below `path`.
    fn paths(path: &str, found: &mut Vec<String>);
}

impl Texts for String {
    fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String)) {
        look(path, self);
    }

    fn paths(path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
    }
}

impl<T: Texts> Texts for Vec<T> {
    fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String)) {
        self.iter_mut().for_each(|element| element.visit(path, look));
    }

    fn paths(path: &str, found: &mut Vec<String>) {
        T::paths(path, found);
    }
}

impl<T: Texts> Texts for Box<T> {
    fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String)) {
        (**self).visit(path, look);
    }

    fn paths(path: &str, found: &mut Vec<String>) {
        T::paths(path, found);
    }
}

impl<T: Texts> Texts for Option<T> {
    fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String)) {
        if let Some(value) = self {
            value.visit(path, look);
        }
    }

    fn paths(path: &str, found: &mut Vec<String>) {
        T::paths(path, found);
    }
}

macro_rules! no_texts {
    ($($type:ty),+) => { $(
        impl Texts for $type {
            fn visit(&mut self, _: &str, _: &mut dyn FnMut(&str, &mut String)) {}
            fn paths(_: &str, _: &mut Vec<String>) {}
        }
    )+ };
}

no_texts!(bool, i64, u32, u64, f64, &'static str, Code, Moment, CallState, CallOutcome);

/// The path of the member that serde calls `field` in camel case.
pub(super) fn below(path: &str, field: &str) -> String {
    let mut whole = String::with_capacity(path.len() + field.len() + 1);
    whole.push_str(path);
    if !path.is_empty() {
        whole.push('.');
    }
    for (index, word) in field.split('_').enumerate() {
        let head = usize::from(index > 0 && !word.is_empty());
        whole.push_str(&word[..head].to_ascii_uppercase());
        whole.push_str(&word[head..]);
    }
    whole
}

/// The paths of all texts of `data`, in the order of its members.
#[must_use]
pub fn all_paths() -> Vec<String> {
    let mut found = Vec::new();
    super::details::Details::paths("", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::details::{CallData, Details};

    #[test]
    fn texts_are_found_by_the_paths_that_consumers_see() {
        let call = CallData {
            caller: Some("1".into()),
            other_party: Some("2".into()),
            partners: Some(vec!["3".into(), "4".into()]),
            direction: Some("inbound"),
            ..CallData::default()
        };
        let mut details = Details { call: Some(Box::new(call)), ..Details::default() };
        let mut seen = Vec::new();
        details.visit("", &mut |path, text| seen.push(format!("{path}={text}")));
        assert_eq!(seen, ["call.caller=1", "call.otherParty=2", "call.partners=3", "call.partners=4"]);
        let all = all_paths();
        for path in ["call.caller", "call.otherParty", "message.text", "linkedPhone.provisionalCallId"] {
            assert!(all.iter().any(|known| known == path), "{path}");
        }
        assert!(!all.iter().any(|path| path == "call.direction" || path == "call.media"));
    }
}
