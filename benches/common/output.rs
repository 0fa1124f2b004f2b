//! The options that every bench has.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

/// Where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Output {
    /// Writes the file, if one was asked for.
    pub(crate) fn write(&self, result: &Value) -> anyhow::Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        std::fs::write(file, serde_json::to_vec_pretty(result)?).with_context(|| file.display().to_string())
    }
}
