//! A child process that does not outlive the tests, however they end: a shell beside it reads a pipe that only the
//! tests hold, and at its end kills the child and removes its folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// `$0` is the folder, `$1` the log, the rest the command.
const KEEPER: &str = r#"
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
child=$!
echo $child
if read -r _; then wait $child; exit; fi 2>/dev/null
{ kill -9 $child; wait $child; rm -rf "$0"; } 2>/dev/null
"#;

pub(crate) struct Process {
    keeper: Child,
    pid: Pid,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which lives in `folder`; its output goes to `<folder>/log`.
    pub(crate) fn start(folder: &Path, command: &[String]) -> Process {
        let log = folder.join("log");
        let mut keeper = Command::new("sh")
            .arg("-c")
            .arg(KEEPER)
            .arg(folder)
            .arg(&log)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(keeper.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut line).expect("sh names the child");
        let pid = Pid::from_raw(line.trim().parse().expect("sh names a process id"));
        Process { keeper, pid, name: command[0].clone(), log }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{} takes no {signal}: {error}", self.name));
    }

    /// Whether it runs, stopped or not.
    pub(crate) fn is_alive(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the name, which is in brackets.
        !matches!(status.rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z' | 'X'))
    }

    /// Fails with the end of the log when the process has ended.
    pub(crate) fn assert_alive(&self) {
        assert!(self.is_alive(), "{} has ended:\n{}", self.name, self.log_tail());
    }

    /// Ends it by `signal`, keeping its folder. Gives its exit code, 128 more than the signal if that ended it.
    pub(crate) async fn end(self, signal: Signal) -> i32 {
        self.signal(signal);
        self.ended(Duration::from_secs(30)).await
    }

    /// Whether it ends within this time.
    pub(crate) async fn ends_within(&self, within: Duration) -> bool {
        let end = async {
            while self.is_alive() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, end).await.is_ok()
    }

    /// Waits until it has ended, keeping its folder. Gives its exit code.
    pub(crate) async fn ended(mut self, within: Duration) -> i32 {
        eventually(&format!("the end of {}", self.name), within, || async {
            (!self.is_alive()).then_some(())
        })
        .await;
        if let Some(mut pipe) = self.keeper.stdin.take() {
            pipe.write_all(b"keep the folder\n").expect("the keeper reads");
        }
        self.keeper.wait().expect("the keeper ends").code().expect("the keeper is not killed")
    }

    pub(crate) fn log_tail(&self) -> String {
        const TAIL: i64 = 4000;
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let seek = file.seek(SeekFrom::End(-TAIL)).or_else(|_| file.seek(SeekFrom::Start(0)));
            seek.and_then(|_| file.read_to_end(&mut text)).expect("the log can be read");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of the pipe ends the child.
        if self.keeper.stdin.take().is_some() {
            drop(self.keeper.wait());
        }
    }
}
