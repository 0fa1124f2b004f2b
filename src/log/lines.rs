//! Lines on their way to standard error. Whoever logs puts them into a queue and goes on; one thread writes them, many at a
//! time, and waits alone for a reader that does not read: a pipe that nobody empties, a terminal that is stopped.
//!
//! - **Bounded**: [`MOST`] bytes wait, and as many are being written. What finds the queue full is dropped and counted, and
//!   once lines are written again one says how many there were, whatever the level is. For that one and for lines of
//!   [`AUDIT_TARGET`] there is as much room again.
//! - **The end**: [`Lines::flush`] waits for what is left, but no longer than it is told.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::{AUDIT_TARGET, DROPPED_TARGET};

/// Bytes that wait: some thousand lines, as many as come in seconds of the worst day.
const MOST: usize = 1 << 20;
/// How soon a target that takes nothing at the moment, and says so instead of waiting, is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// The queue of lines, for those who log and the one who writes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    text: Vec<u8>,
    lines: u64,
    /// What was taken out of the queue is not written yet.
    writing: bool,
    /// Lines that were dropped since that was last said.
    unsaid: u64,
    dropped: u64,
    /// Where they are counted, once there are metrics.
    counter: Option<IntCounter>,
}

impl Queue {
    fn drop_lines(&mut self, lines: u64) {
        self.unsaid += lines;
        self.dropped += lines;
        if let Some(counter) = &self.counter {
            counter.inc_by(lines);
        }
    }
}

impl Lines {
    /// A queue whose lines a thread of its own writes to standard error.
    ///
    /// # Errors
    /// When standard error or a thread cannot be had.
    pub(crate) fn to_stderr() -> io::Result<Arc<Lines>> {
        // Another handle: who holds std's own keeps everybody out who writes there for another reason.
        let target = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let lines = Arc::new(Lines::default());
        let writer = lines.clone();
        let run = move || {
            writer.write_to(target, &mut || {
                let dropped = writer.to_be_said();
                if dropped > 0 {
                    let why = "log lines were dropped, since standard error took none or too few";
                    tracing::warn!(target: DROPPED_TARGET, dropped, "{why}");
                }
                dropped
            });
        };
        std::thread::Builder::new().name("log-lines".into()).spawn(run)?;
        Ok(lines)
    }

    /// Puts one line into the queue, or drops it when more than `most` bytes would wait.
    pub(super) fn put(&self, line: &[u8], most: usize) {
        let mut queue = self.lock();
        // A line longer than the queue goes alone.
        if !queue.text.is_empty() && queue.text.len() + line.len() > most {
            return queue.drop_lines(1);
        }
        // Who writes looks again before it waits, so it has to be woken for the first one only.
        if queue.text.is_empty() {
            self.filled.notify_one();
        }
        queue.text.extend_from_slice(line);
        queue.lines += 1;
    }

    /// Puts a line into the queue that is no event.
    pub(crate) fn say(&self, text: &str) {
        self.put(format!("{text}\n").as_bytes(), MOST);
    }

    /// From now on dropped lines are counted there; those before are made up for.
    pub(crate) fn count_in(&self, counter: &IntCounter) {
        let mut queue = self.lock();
        counter.inc_by(queue.dropped);
        queue.counter = Some(counter.clone());
    }

    /// Waits until all lines are written, at most so long.
    pub(crate) fn flush(&self, within: Duration) {
        let unwritten = |queue: &mut Queue| queue.writing || !queue.text.is_empty();
        let waited = self.emptied.wait_timeout_while(self.lock(), within, unwritten);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes for ever what comes into the queue. After each piece that was written `after` is called, which gives of how many
    /// dropped lines it has put a line into the queue.
    fn write_to(&self, mut target: impl Write, after: &mut dyn FnMut() -> u64) {
        let (mut text, mut said) = (Vec::new(), 0);
        loop {
            let lines = self.take(&mut text);
            match write_all(&mut target, &text) {
                Ok(()) => said = after(),
                // Some of them may have been written; but that which said so, if there was one, counts as not.
                Err(_) => {
                    let mut queue = self.lock();
                    queue.drop_lines(lines);
                    queue.unsaid += std::mem::take(&mut said);
                }
            }
            self.written();
        }
    }

    /// Waits for lines and puts them into `text` in place of what is there. Gives how many they are.
    fn take(&self, text: &mut Vec<u8>) -> u64 {
        text.clear();
        let nothing = |queue: &mut Queue| queue.text.is_empty();
        let mut queue = self.filled.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        std::mem::swap(&mut queue.text, text);
        std::mem::take(&mut queue.lines)
    }

    fn written(&self) {
        let mut queue = self.lock();
        queue.writing = false;
        if queue.text.is_empty() {
            self.emptied.notify_all();
        }
    }

    /// Lines that were dropped and of which nothing was said yet, where there is room to say it; else none.
    fn to_be_said(&self) -> u64 {
        let mut queue = self.lock();
        let room = queue.text.len() < MOST / 2;
        if room { std::mem::take(&mut queue.unsaid) } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(target: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match target.write(text) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else who has the same pipe or terminal has set it not to wait.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes one line: what formats lines gives each in one piece.
#[derive(Debug)]
pub(super) struct Line<'a> {
    lines: &'a Lines,
    most: usize,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.put(line, self.most);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes writers for what formats lines.
#[derive(Debug)]
pub(super) struct Queued(pub(super) Arc<Lines>);

impl<'a> MakeWriter<'a> for Queued {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: &self.0, most: MOST }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        let most = if [AUDIT_TARGET, DROPPED_TARGET].contains(&metadata.target()) { 2 * MOST } else { MOST };
        Line { lines: &self.0, most }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Takes a piece only when somebody receives it.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn piped() -> (Arc<Lines>, Receiver<Vec<u8>>) {
        let (pipe, read) = sync_channel(0);
        (written_to(Pipe(pipe)), read)
    }

    fn written_to(target: impl Write + Send + 'static) -> Arc<Lines> {
        let lines = Arc::new(Lines::default());
        let writer = lines.clone();
        let after = lines.clone();
        std::thread::spawn(move || {
            writer.write_to(target, &mut || {
                let dropped = after.to_be_said();
                if dropped > 0 {
                    after.put(format!("{dropped} were dropped\n").as_bytes(), MOST);
                }
                dropped
            });
        });
        lines
    }

    fn line(of: u8) -> Vec<u8> {
        let mut line = vec![of; MOST / 4];
        line.push(b'\n');
        line
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_and_later_one_says_so() {
        let (lines, read) = piped();
        lines.put(b"first\n", MOST);
        // The writer has it in hand, and waits for the reader.
        while !lines.lock().writing {
            std::thread::yield_now();
        }
        for of in *b"abcdef" {
            lines.put(&line(of), MOST);
        }
        let counter = IntCounter::new("dropped", "dropped").unwrap();
        lines.count_in(&counter);
        assert_eq!(counter.get(), 3, "three of a quarter and a bit fit");
        lines.put(&line(b'g'), MOST);
        assert_eq!(counter.get(), 4);
        lines.put(&line(b'h'), 2 * MOST);
        assert_eq!(counter.get(), 4, "there is room for those that must not be left out");

        assert_eq!(read.recv_timeout(PATIENCE).unwrap(), b"first\n");
        let next = read.recv_timeout(PATIENCE).unwrap();
        let kept: Vec<u8> = next.split_inclusive(|byte| *byte == b'\n').map(|line| line[0]).collect();
        assert_eq!(kept, b"abch", "there was no room to say more before");
        assert_eq!(read.recv_timeout(PATIENCE).unwrap(), b"4 were dropped\n");
    }

    #[test]
    fn a_flush_waits_for_the_last_line_and_no_longer_than_it_is_told() {
        let (lines, read) = piped();
        lines.put(b"last\n", MOST);
        lines.flush(Duration::from_millis(1));
        assert!(lines.lock().writing || !lines.lock().text.is_empty(), "nobody has read it");
        let reader = std::thread::spawn(move || read.recv_timeout(PATIENCE).unwrap());
        lines.flush(PATIENCE);
        assert_eq!(reader.join().unwrap(), b"last\n");
        assert!(!lines.lock().writing && lines.lock().text.is_empty());
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_too() {
        let (lines, read) = piped();
        drop(read);
        let counter = IntCounter::new("dropped", "dropped").unwrap();
        lines.count_in(&counter);
        lines.put(b"for nobody\n", MOST);
        lines.flush(PATIENCE);
        assert_eq!(counter.get(), 1);
    }

    /// Fails the first time that it is to write this.
    struct FullDisk(Pipe, Option<&'static [u8]>);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1.take_if(|refused| bytes.ends_with(refused)).is_some() {
                return Err(ErrorKind::StorageFull.into());
            }
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn how_many_were_dropped_is_said_again_when_what_said_so_was_not_written() {
        let (pipe, read) = sync_channel(0);
        let lines = written_to(FullDisk(Pipe(pipe), Some(b"3 were dropped\n")));
        lines.lock().unsaid = 3;
        lines.put(b"first\n", MOST);
        assert_eq!(read.recv_timeout(PATIENCE).unwrap(), b"first\n");
        while lines.lock().dropped == 0 {
            std::thread::yield_now();
        }
        lines.put(b"second\n", MOST);
        assert_eq!(read.recv_timeout(PATIENCE).unwrap(), b"second\n");
        assert_eq!(read.recv_timeout(PATIENCE).unwrap(), b"4 were dropped\n", "with the line that said so");
    }
}
