//! `ccrelay token`: makes tokens for callers of the admin API, and secrets for the files that the configuration names.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};

use super::out::say;
use crate::admin::tokens::TokenList;
use crate::hex::hex;

/// Bytes of randomness: more than anybody can guess, and what `masking.secret_file` needs at least.
const BYTES: usize = 32;

/// What is made.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// What its holder may do.
    #[arg(long, value_enum, default_value_t = ScopeName::Read)]
    scope: ScopeName,
    /// Its name in the audit log, such as grafana.
    #[arg(long)]
    name: Option<String>,
    /// Add the line to this file of operations.admin_tokens_file, which is made when it is not there, readable by its owner only,
    /// and print the token alone. A running daemon takes it at once. Without it the line is printed.
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
    /// Print a bare secret instead, for token.secret_file or masking.secret_file.
    #[arg(long, conflicts_with_all = ["scope", "name", "append"])]
    secret: bool,
}

/// Scopes by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// To look.
    Read,
    /// Everything.
    Admin,
}

pub(super) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let token = random()?;
    if args.secret {
        say!("{token}");
        return Ok(ExitCode::SUCCESS);
    }
    let scope = match args.scope {
        ScopeName::Read => "read",
        ScopeName::Admin => "admin",
    };
    let line =
        [Some(scope), args.name.as_deref(), Some(&token)].into_iter().flatten().collect::<Vec<_>>().join(" ");
    // What the daemon would refuse is refused here.
    if let Err(error) = TokenList::check(&line) {
        bail!("--name: {error}");
    }
    match &args.append {
        None => say!("{line}"),
        Some(path) => {
            append(path, &line)?;
            say!("{token}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0u8; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness for a token: {error}"))?;
    Ok(hex(&bytes))
}

/// A file that the daemon would refuse is left as it is.
fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    let before = if path.exists() {
        TokenList::read(path)?;
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    } else {
        String::new()
    };
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).append(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(format!("{gap}{line}\n").as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(append: &Path) -> TokenArgs {
        TokenArgs {
            scope: ScopeName::Read,
            name: Some("grafana".to_owned()),
            append: Some(append.to_owned()),
            secret: false,
        }
    }

    #[test]
    fn tokens_are_added_to_a_file_that_the_daemon_takes() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        run(&args(&path)).unwrap();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        run(&TokenArgs { scope: ScopeName::Admin, name: None, ..args(&path) }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("read grafana ") && lines[1].starts_with("admin "), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let list = TokenList::read(&path).unwrap();
        let token = lines[0].rsplit(' ').next().unwrap();
        assert_eq!(token.len(), 2 * BYTES);
        assert_eq!(&*list.find(token).unwrap().name, "grafana");
    }

    #[test]
    fn a_name_or_a_file_that_the_daemon_would_refuse_is_refused_here() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        let wrong = TokenArgs { name: Some("two words".to_owned()), ..args(&path) };
        assert!(run(&wrong).unwrap_err().to_string().contains("--name"));
        assert!(!path.exists());
        std::fs::write(&path, "read x 0123456789abcdef0123456789\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(run(&args(&path)).unwrap_err().to_string().contains("open to everybody"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
