//! Those who wait for a transaction of the keeper.

use super::super::AppendError;
use super::super::writer::{Reply, tell};
use super::Command;

/// Answers that wait for the transaction.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) letters: Vec<(Reply<bool>, Result<bool, AppendError>)>,
    /// Of sweeps that do not begin.
    pub(super) counts: Vec<Reply<u64>>,
    pub(super) others: Vec<Reply<()>>,
    /// Removed sinks that are given up.
    pub(super) forgotten: Vec<String>,
}

impl Held {
    /// Takes the answer a command waits for, without doing what it asks.
    pub(super) fn hold(&mut self, command: Command) {
        match command {
            Command::ReplayLetters { reply, .. } | Command::DiscardLetters { reply, .. } => {
                self.counts.push(reply);
            }
            // What stands here is never told: who holds without doing refuses.
            Command::DeadLetter { reply, .. } => self.letters.push((reply, Err(AppendError::Failed))),
            Command::Pulse { reply }
            | Command::ForgetRemoved { reply, .. }
            | Command::SaveSession { reply, .. }
            | Command::SettleReplay { reply, .. } => self.others.push(reply),
            Command::Rows(_) | Command::Tick | Command::Failed | Command::Close => {}
        }
    }

    pub(super) fn answer(self) {
        self.letters.into_iter().for_each(|(reply, result)| tell(reply, result));
        self.others.into_iter().for_each(|reply| tell(reply, Ok(())));
    }

    pub(super) fn refuse(self, verdict: AppendError) {
        self.letters.into_iter().for_each(|(reply, _)| tell(reply, Err(verdict)));
        self.counts.into_iter().for_each(|reply| tell(reply, Err(verdict)));
        self.others.into_iter().for_each(|reply| tell(reply, Err(verdict)));
    }
}
