//! `ccrelay schema`: the contract for consumers, printed or written to a folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::out::{say, whole};
use crate::contract;

/// Which part of the contract.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// A type of events such as ccrelay.call.ringing, agent-state or cloudevent. Without anything all names are listed.
    name: Option<String>,
    /// Print the AsyncAPI 3 document of all topics and messages.
    #[arg(long, conflicts_with_all = ["name", "all"])]
    asyncapi: bool,
    /// Write everything into this folder, which is made when it is not there.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    all: Option<PathBuf>,
}

pub(super) fn run(args: SchemaArgs) -> anyhow::Result<ExitCode> {
    match args {
        SchemaArgs { all: Some(folder), .. } => write_all(&folder)?,
        SchemaArgs { asyncapi: true, .. } => print(&contract::to_text(&contract::asyncapi())),
        SchemaArgs { name: Some(name), .. } => match contract::schema(&name) {
            Some(schema) => print(&contract::to_text(&schema)),
            None => bail!("there is no schema {name:?}; `ccrelay schema` lists them"),
        },
        _ => print(&(contract::names().join("\n") + "\n")),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) {
    let _somebody_reads = whole(text.as_bytes());
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    let files = contract::files();
    for (path, document) in &files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let written = std::fs::write(&path, contract::to_text(document));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    say!("{} files written to {}", files.len(), folder.display());
    Ok(())
}
