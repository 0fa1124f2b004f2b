//! TEMP
use std::process::ExitCode;
/// Options.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}
/// TEMP
#[must_use]
pub fn main(_: DemoArgs) -> ExitCode {
    ExitCode::SUCCESS
}
