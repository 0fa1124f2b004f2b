//! JSON lines: one structured CloudEvent per line, to a file or to standard output.
//!
//! [`Sink::publish`] fills pieces of whole lines; [`Sink::flush`] writes and syncs them, and the acks of each resolve when it is
//! written. It ends before all are when they take long: so a reader that is slow and reads is told from one that does not, and
//! what it has read does not come to it again. A write that failed
//! half-way leaves a torn line: after [`Sink::reset`] a fresh line is begun, so that readers lose that one line only,
//! and the worker publishes its event again.
//!
//! A named pipe is refused: what is written to it is gone when nobody reads it, and nothing tells.
//!
//! A pipe that nobody reads, or a file system that is away, holds a write for as long as it likes, and no system takes a write
//! back. So one that the worker has given up goes on, and the next one waits for it: two would tear each other's lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Problems;
use crate::sink::{Ack, BoxFuture, DeliveryError, Message, Sink};

/// Every reason of this sink's [`DeliveryError`]s.
pub const REASONS: &[&str] = &["reset", "write"];

/// Bytes of a piece, about: as many as a pipe holds, and so few that the slowest reader has them before it is given up.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that go to a regular file in one write: each is synced, which takes a disk as long for a megabyte as for a line.
const FILE_PIECES: usize = 16;
/// Pieces that are worth a write before there is a flush.
const MANY_PIECES: usize = 16;
/// Once a flush has taken so long the worker has its turn.
const FLUSH_TURN: Duration = Duration::from_millis(100);
/// What a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The path that means standard output.
const STDOUT: &str = "-";
/// Events hold what callers said, so a file that is made here is its owner's alone, as the spool's files are.
const MODE: u32 = 0o600;

/// The section as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonlOptions {
    /// File to append to, or `-` for standard output. Required.
    pub path: String,
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct JsonlConfig {
    /// The file; `None` is standard output.
    path: Option<PathBuf>,
}

impl JsonlOptions {
    /// Checks the section; every mistake goes to `problems` under `key_prefix`.
    pub fn validate(self, key_prefix: &str, problems: &mut Problems) -> Option<JsonlConfig> {
        if self.path == STDOUT {
            return Some(JsonlConfig { path: None });
        }
        let path = PathBuf::from(self.path);
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let message = if path.file_name().is_none() {
            "is required: a file, or - for standard output".to_owned()
        } else if path.is_dir() {
            format!("{} is a directory", path.display())
        } else if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            format!("{} is not a directory", folder.display())
        } else if is_pipe(&path) {
            format!(
                "{} is a pipe: what nobody reads from it would count as delivered; name a file, or - for standard output",
                path.display()
            )
        } else {
            return Some(JsonlConfig { path: Some(path) });
        };
        problems.add(format!("{key_prefix}.path"), message);
        None
    }
}

/// A file of JSON lines as an output.
pub struct JsonlSink {
    config: JsonlConfig,
    output: Option<Arc<Output>>,
    /// What is to be written, in order.
    pieces: VecDeque<Piece>,
    /// A write under way.
    writing: Option<Writing>,
}

/// Lines that are written together, and who waits for them.
#[derive(Default)]
struct Piece {
    lines: Vec<u8>,
    waiting: Vec<oneshot::Sender<Result<(), DeliveryError>>>,
}

/// A write under way, which gives back the output, and who waits for it.
struct Writing {
    written: JoinHandle<io::Result<Arc<Output>>>,
    waiting: Vec<oneshot::Sender<Result<(), DeliveryError>>>,
}

enum Output {
    Stdout,
    /// A regular file is synced; a device cannot be.
    File {
        file: File,
        regular: bool,
    },
}

impl JsonlSink {
    /// A sink that opens its file at the first flush.
    #[must_use]
    pub fn new(config: JsonlConfig) -> JsonlSink {
        JsonlSink { config, output: None, pieces: VecDeque::new(), writing: None }
    }

    async fn add(&mut self, message: &Message) -> Result<Ack, DeliveryError> {
        // Nobody waits here: what is in flight is bounded by the worker, who knows how long a flush may take.
        if self.pieces.len() >= MANY_PIECES
            && let Some(written) = self.written().now_or_never()
        {
            written?;
            self.begin_write();
        }
        // What the gateway said is verbatim, and it may have written it on several lines: blanks are all they mean in JSON.
        let event = message.structured();
        let blank = |byte: u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte };
        let (resolve, outcome) = oneshot::channel();
        let mut piece = match self.pieces.pop_back() {
            Some(piece) if piece.lines.len() < PIECE_BYTES => piece,
            full => {
                self.pieces.extend(full);
                Piece::default()
            }
        };
        piece.lines.extend(event.into_iter().map(blank));
        piece.lines.push(b'\n');
        piece.waiting.push(resolve);
        self.pieces.push_back(piece);
        Ok(Box::pin(async {
            let lost = |_| Err(DeliveryError::retry("reset", "the buffer was dropped before it was written"));
            outcome.await.unwrap_or_else(lost)
        }))
    }

    /// Writes what there is, as long as that goes quickly: the first of it in any case.
    async fn write_out(&mut self) -> Result<(), DeliveryError> {
        let began = Instant::now();
        self.written().await?;
        while !self.pieces.is_empty() {
            self.begin_write();
            self.written().await?;
            if began.elapsed() > FLUSH_TURN {
                break;
            }
        }
        Ok(())
    }

    async fn write_all_out(&mut self) -> Result<(), DeliveryError> {
        self.written().await?;
        while !self.pieces.is_empty() {
            self.write_out().await?;
        }
        Ok(())
    }

    /// Begins to write the first pieces. There is no write under way.
    fn begin_write(&mut self) {
        let regular = self.output.as_ref().is_some_and(|output| output.is_regular());
        let count = if regular { FILE_PIECES } else { 1 };
        let pieces: Vec<Piece> = self.pieces.drain(..count.min(self.pieces.len())).collect();
        let (lines, waiting): (Vec<_>, Vec<_>) =
            pieces.into_iter().map(|piece| (piece.lines, piece.waiting)).unzip();
        let waiting = waiting.into_iter().flatten().collect();
        let (output, config) = (self.output.take(), self.config.clone());
        let written = tokio::task::spawn_blocking(move || {
            let output = output.map_or_else(|| Output::open(&config).map(Arc::new), Ok)?;
            output.write(&lines)?;
            Ok(output)
        });
        self.writing = Some(Writing { written, waiting });
    }

    /// Waits for the write under way, if there is one.
    async fn written(&mut self) -> Result<(), DeliveryError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let outcome = match (&mut writing.written).await {
            Ok(Ok(output)) => {
                self.output = Some(output);
                Ok(())
            }
            Ok(Err(error)) => Err(DeliveryError::retry("write", error.to_string())),
            Err(error) => Err(DeliveryError::retry("write", error.to_string())),
        };
        for resolve in self.writing.take().into_iter().flat_map(|writing| writing.waiting) {
            // The worker may have dropped its ack.
            drop(resolve.send(outcome.clone()));
        }
        if outcome.is_err() {
            // What is behind it must not come before it: a stop closes the sink without a reset.
            self.pieces.clear();
        }
        outcome
    }
}

impl Output {
    fn open(config: &JsonlConfig) -> io::Result<Output> {
        let Some(path) = &config.path else { return Ok(Output::Stdout) };
        if is_pipe(path) {
            return Err(io::Error::other("it has become a pipe"));
        }
        let created = !path.exists();
        let mut file =
            File::options().read(true).append(true).create(true).mode(MODE).open(path).or_else(|_| {
                // A device may be writable only.
                File::options().append(true).open(path)
            })?;
        let regular = file.metadata()?.is_file();
        if regular && ends_torn(&mut file)? {
            file.write_all(b"\n")?;
        }
        if regular && created {
            sync_folder(path)?;
        }
        Ok(Output::File { file, regular })
    }

    fn is_regular(&self) -> bool {
        matches!(self, Output::File { regular: true, .. })
    }

    fn write(&self, pieces: &[Vec<u8>]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                pieces.iter().try_for_each(|lines| stdout.write_all(lines))?;
                stdout.flush()
            }
            Output::File { file, regular } => {
                let mut writer: &File = file;
                pieces.iter().try_for_each(|lines| writer.write_all(lines))?;
                if *regular { file.sync_data() } else { Ok(()) }
            }
        }
    }
}

/// Whether there is something of which nobody can tell that what was written to it was read.
fn is_pipe(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.file_type().is_fifo() || found.file_type().is_socket())
}

fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// A new file survives a crash only when its name does.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl Sink for JsonlSink {
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        Box::pin(self.add(message))
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        Box::pin(self.write_out())
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        self.pieces.clear();
        self.output = None;
        if let Some(writing) = &mut self.writing {
            writing.waiting.clear();
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let late = |_| Err(DeliveryError::retry("stalled", "the output takes nothing"));
            let written = tokio::time::timeout(CLOSE_TIMEOUT, self.write_all_out()).await;
            let written = written.unwrap_or_else(late);
            if let Err(error) = written {
                tracing::warn!(%error, "the last lines were not written; they stay in the spool");
            }
            self.output = None;
        })
    }
}

#[cfg(test)]
mod tests;
