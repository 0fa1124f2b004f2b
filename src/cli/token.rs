//! `ccrelay token`: makes tokens for callers of the admin API, and secrets for the files that the configuration names.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};

use super::out::{self, say};
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
    /// Add the line to this file of operations.admin_tokens_file, and print the token alone. A running daemon takes it at once. A file
    /// that is not there is made, readable by its owner only; one that root makes has the owner and the group of its folder, and
    /// that group may read it where it may read the folder. Without it the line is printed.
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
            let before = before(path)?;
            // Only then is it of use to anybody that it is valid.
            if !out::line(format_args!("{token}")) {
                bail!("nobody has read the token, so it was not added to {}", path.display());
            }
            append(path, &before, &line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0u8; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness for a token: {error}"))?;
    Ok(hex(&bytes))
}

/// What is in the file. One that the daemon would refuse is left as it is.
fn before(path: &Path) -> anyhow::Result<String> {
    if !path.exists() {
        return Ok(String::new());
    }
    TokenList::read(path)?;
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn append(path: &Path, before: &str, line: &str) -> anyhow::Result<()> {
    let new = !path.exists();
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let mut options = std::fs::OpenOptions::new();
    options.append(true).mode(0o600);
    if new {
        // Not through a link to where nothing is, which would make the folder's owner that of any file.
        options.create_new(true);
    }
    let file = options.open(path);
    let written = file.and_then(|mut file| {
        if new && rustix::process::geteuid().is_root() {
            give_to_owner_of_folder(&file, path)?;
        }
        file.write_all(format!("{gap}{line}\n").as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// What root makes the daemon's user could not read: as other secrets, it is for whom its folder is for.
fn give_to_owner_of_folder(file: &std::fs::File, path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::metadata(folder)?;
    std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    let for_group = folder.gid() != 0 && folder.mode() & 0o050 == 0o050;
    let mode = if for_group { 0o640 } else { 0o600 };
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
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
    fn a_file_that_root_makes_can_be_read_by_whom_its_folder_is_for() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this is for root");
            return;
        }
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens");
        let mode =
            |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let made = || {
            run(&args(&path)).unwrap();
            let made = std::fs::metadata(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            (made.uid(), made.gid(), made.mode() & 0o777)
        };
        std::os::unix::fs::chown(folder.path(), Some(0), Some(65_534)).unwrap();
        mode(0o750);
        assert_eq!(made(), (0, 65_534, 0o640));
        mode(0o700);
        assert_eq!(made(), (0, 65_534, 0o600));
        std::os::unix::fs::chown(folder.path(), Some(65_534), Some(0)).unwrap();
        mode(0o755);
        assert_eq!(made(), (65_534, 0, 0o600));
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
