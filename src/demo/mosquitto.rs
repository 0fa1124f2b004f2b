//! Mosquitto beside the demo, where it is installed: a child that does not outlive us, however we end.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::place::{Folder, free_port};

/// Where it is installed beside the folders of `PATH`: users' paths often lack the administrator's.
const FURTHER_FOLDERS: [&str; 4] =
    ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/opt/homebrew/opt/mosquitto/sbin"];
/// How long it may take until it listens; it takes some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Ends the command when its own standard input ends, which is when we are gone.
const KEEPER: &str = r#"
"$@" </dev/null >/dev/null 2>&1 &
child=$!
read -r _
kill $child 2>/dev/null
wait $child
"#;

/// A broker that runs.
#[derive(Debug)]
pub(super) struct Mosquitto {
    /// On the loopback.
    pub(super) port: u16,
    keeper: Child,
}

/// The binary, where there is one.
pub(super) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FURTHER_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join("mosquitto")).find(|program| program.is_file())
}

impl Mosquitto {
    /// Starts `program` on a free port and waits until it listens.
    pub(super) async fn start(program: PathBuf, folder: &Folder) -> anyhow::Result<Mosquitto> {
        let port = free_port()?;
        let configuration = folder.write(
            "mosquitto.conf",
            &format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
                 persistence false\nlog_dest none\n"
            ),
        )?;
        // A process group of its own: Ctrl-C is for us, and what is under way is delivered before the broker ends.
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh"])
            .arg(program)
            .arg("-c")
            .arg(configuration)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start Mosquitto")?;
        let broker = Mosquitto { port, keeper };
        let until = Instant::now() + START_LIMIT;
        while let Err(error) = TcpStream::connect(("127.0.0.1", port)).await {
            if error.kind() != ErrorKind::ConnectionRefused || Instant::now() >= until {
                bail!("Mosquitto does not listen on port {port}: {error}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(broker)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // The end of its input tells the keeper to end the broker.
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            tracing::warn!(%error, "Mosquitto may still run");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_broker_no_longer_listens() {
        let Some(program) = find() else {
            eprintln!("skipped: Mosquitto is not installed");
            return;
        };
        let folder = Folder::create().unwrap();
        let broker = Mosquitto::start(program, &folder).await.unwrap();
        let port = broker.port;
        drop(broker);
        let refused = TcpStream::connect(("127.0.0.1", port)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
