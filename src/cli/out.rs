//! What commands print. Whoever reads it may have read enough, as `| head` has: that is no failure, and the command ends with
//! its own exit code. What cannot be written for any other reason, such as a full disk, is one: it is said, and the command ends
//! with 1.

use std::fmt;
use std::io::{ErrorKind, Write};

/// Prints a line, like `println!`, which would panic where nobody reads.
macro_rules! say {
    ($($words:tt)*) => {{
        let _somebody_reads: bool = crate::cli::out::line(format_args!($($words)*));
    }};
}
pub(super) use say;

/// Prints a line, and says whether anybody reads.
pub(super) fn line(words: fmt::Arguments<'_>) -> bool {
    heard(writeln!(std::io::stdout().lock(), "{words}"))
}

/// Prints what is whole already, and says whether anybody reads.
pub(super) fn whole(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    heard(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whether anybody has heard what was written. Does not return when it could not be written: all that a command prints comes after
/// what it does, so there is nothing to undo, and nothing that it printed may look like the whole.
fn heard(written: std::io::Result<()>) -> bool {
    match written {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => false,
        Err(error) => {
            eprintln!("ccrelay: standard output cannot be written: {error}");
            std::process::exit(super::FAILED.into())
        }
    }
}
