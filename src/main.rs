//! Arguments, runtime, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ccrelay::cli::main()
}
