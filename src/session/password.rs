//! Reads passwords off the runtime's threads: few at a time, and each within seconds.
//!
//! A password's file may lie on a disk that hangs. Whoever reads it then is lost until the disk is back, and the runtime has
//! so many threads for such work and no more, with which names of hosts are looked up too. So a few may be lost, not all.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::session::config::{PasswordError, PasswordSource};

/// A read takes microseconds, so these are enough for any rate of sign-ins.
const AT_A_TIME: usize = 8;
/// For the read and the wait for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reads passwords; cloning is cheap.
#[derive(Debug, Clone)]
pub struct PasswordReader {
    permits: Arc<Semaphore>,
}

impl Default for PasswordReader {
    fn default() -> PasswordReader {
        PasswordReader { permits: Arc::new(Semaphore::new(AT_A_TIME)) }
    }
}

impl PasswordReader {
    /// The password.
    ///
    /// # Errors
    /// As [`PasswordSource::read`], and when the read does not end in time.
    pub async fn read(&self, source: &PasswordSource) -> Result<SecretString, PasswordError> {
        match source {
            PasswordSource::File(_) => {
                let source = source.clone();
                self.run(move || source.read()).await.unwrap_or(Err(PasswordError::TimedOut))
            }
            PasswordSource::Fixed(_) | PasswordSource::None => source.read(),
        }
    }

    /// Runs something that reads passwords; `None` when it does not end in time.
    pub async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let permits = self.permits.clone();
        let read = async {
            let permit = permits.acquire_owned().await.ok()?;
            let read = move || {
                // Not given back before the end, also when nobody waits for it any more.
                let _permit = permit;
                read()
            };
            spawn_blocking(read).await.ok()
        };
        timeout(DEADLINE, read).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn reads_that_hang_are_given_up_and_take_no_more_than_a_few_threads() {
        let (reader, begun) = (PasswordReader::default(), Arc::new(AtomicUsize::new(0)));
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let reads = (0..50).map(|_| {
            let (reader, begun, hang) = (reader.clone(), begun.clone(), hang.clone());
            tokio::spawn(async move {
                let read = move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    assert!(hang.lock().unwrap().recv().is_err());
                };
                reader.run(read).await
            })
        });
        for read in reads.collect::<Vec<_>>() {
            assert_eq!(read.await.unwrap(), None);
        }
        assert_eq!(begun.load(Ordering::SeqCst), AT_A_TIME);
        // The disk is back.
        drop(release);
        assert_eq!(reader.run(|| 1).await, Some(1));
    }
}
