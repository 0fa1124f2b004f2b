//! What commands print. Whoever reads it may have read enough, as `| head` has: that is no failure, and the command ends with
//! its own exit code.

use std::fmt;
use std::io::Write;

/// Prints a line, like `println!`, which would panic where nobody reads.
macro_rules! say {
    ($($words:tt)*) => {{
        let _somebody_reads: bool = crate::cli::out::line(format_args!($($words)*));
    }};
}
pub(super) use say;

/// Prints a line, and says whether anybody reads.
pub(super) fn line(words: fmt::Arguments<'_>) -> bool {
    writeln!(std::io::stdout().lock(), "{words}").is_ok()
}
