//! Which dead letters a person can mean: a name that is misspelt finds nothing, which looks as if there were nothing.

use std::collections::BTreeSet;

use super::REASONS;
use crate::sink::{jsonl, kafka, mqtt};
use crate::spool::LetterFilter;

/// Why no dead letter can ever be one of these: there is no such sink, or no such reason. The spool knows sinks, and the reasons that
/// letters have, which may be those of another release.
#[must_use]
pub fn misnamed(filter: &LetterFilter, (sinks, used): &(Vec<String>, Vec<String>)) -> Option<String> {
    if let Some(sink) = &filter.sink
        && !sinks.contains(sink)
    {
        return Some(format!("no sink is called {sink:?}; sinks are {}", sinks.join(", ")));
    }
    let reasons: BTreeSet<_> =
        [REASONS, kafka::REASONS, mqtt::REASONS, jsonl::REASONS].concat().into_iter().collect();
    if let Some(reason) = &filter.reason
        && !reasons.contains(reason.as_str())
        && !used.contains(reason)
    {
        let known: Vec<_> = reasons.into_iter().collect();
        return Some(format!("no reason is called {reason:?}; reasons are {}", known.join(", ")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_sink_or_reason_is_named_with_those_that_there_are() {
        let known = (vec!["bus".to_owned(), "wall".to_owned()], vec!["forbidden".to_owned()]);
        let filter = |sink: Option<&str>, reason: Option<&str>| LetterFilter {
            sink: sink.map(str::to_owned),
            reason: reason.map(str::to_owned),
            ..LetterFilter::default()
        };
        let misnamed = |sink, reason| misnamed(&filter(sink, reason), &known);
        assert_eq!(misnamed(None, None), None);
        assert_eq!(misnamed(Some("bus"), Some("too_large")), None);
        assert_eq!(misnamed(None, Some("unreadable")), None);
        assert_eq!(misnamed(None, Some("forbidden")), None, "a letter of another release has it");
        assert_eq!(misnamed(Some("bsu"), None).unwrap(), "no sink is called \"bsu\"; sinks are bus, wall");
        assert!(misnamed(None, Some("to_large")).unwrap().contains("too_large"));
    }
}
