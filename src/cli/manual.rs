//! `ccrelay completions` and `ccrelay man`: made of the commands as they are, so that they cannot say anything else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

use super::out::{say, whole};

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Where manual pages go.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder, which is made when it is not there. Without it the page of ccrelay itself
    /// is printed, to be read by `man -l -`.
    #[arg(long, value_name = "DIR")]
    all: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ccrelay", &mut script);
    Ok(print(&script))
}

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    let Some(folder) = &args.all else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("cannot make the page")?;
        return Ok(print(&page));
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages =
        write_pages(command, folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    say!("{pages} pages written to {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: Command, folder: &Path) -> std::io::Result<usize> {
    clap_mangen::generate_to(command, folder)?;
    Ok(std::fs::read_dir(folder)?.count())
}

fn print(bytes: &[u8]) -> ExitCode {
    let _somebody_reads = whole(bytes);
    ExitCode::SUCCESS
}
