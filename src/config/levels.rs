//! What is logged: a level for all, or levels for single targets. A lone word that is no level would be taken for the name of a
//! target, which turns everything else off; so it is refused.

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The variable that goes before `log.level`.
pub(crate) const VARIABLE: &str = "CCRELAY_LOG";

/// No level, or no list of them. Does not say what was there: that may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "item {item} is no level: expected error, warn, info, debug or trace, or a list such as ccrelay=debug,info"
)]
pub(crate) struct LevelError {
    item: usize,
}

/// Whether this is a level, or a list of levels and of levels for targets.
///
/// # Errors
/// When an item of it is neither.
pub(crate) fn check(text: &str) -> Result<(), LevelError> {
    for (at, item) in text.split(',').enumerate() {
        let level = item.rsplit_once('=').map_or(item, |(_, level)| level).trim();
        // The library takes no word at all for a level, too.
        let known = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if !known || EnvFilter::try_new(item).is_err() {
            return Err(LevelError { item: at + 1 });
        }
    }
    Ok(())
}

/// What the environment wants; nothing where the variable is empty.
///
/// # Errors
/// When that is no list of levels.
pub(crate) fn of_environment() -> Result<Option<String>, LevelError> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.into_string().map_err(|_| LevelError { item: 1 })?;
    check(&text).map(|()| Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_lists_of_them_are_taken_and_words_that_are_none_refused() {
        for good in
            ["error", "warn", "INFO", "debug", "trace", "off", "ccrelay=debug,info", "info,rdkafka=off"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, item) in [
            ("", 1),
            ("warning", 1),
            ("infos", 1),
            ("verbose", 1),
            ("info,", 2),
            // The library takes no blanks.
            ("info, rdkafka=off", 2),
            ("info,ccrelay", 2),
            ("ccrelay=deb", 1),
            ("ccrelay=", 1),
            ("debug,ccrelay=warning", 2),
        ] {
            assert_eq!(check(bad), Err(LevelError { item }), "{bad}");
        }
    }
}
