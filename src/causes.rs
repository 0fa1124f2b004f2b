//! Errors in words.

use std::error::Error;

/// An error with its causes in one line: those of libraries say little by themselves.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
