//! The wish that all rosters be read at once, and what came of it, for whoever asked and for whoever looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// How long whoever asks waits: a file that has just changed is looked at again after some seconds, and a disk may be slow.
const PATIENCE: Duration = Duration::from_secs(15);
/// Wishes that may wait.
const WAITING: usize = 8;

/// How a roster's file stands, where there is something to be said of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The file.
    pub file: PathBuf,
    /// Agents that were added or changed.
    pub put: usize,
    /// Agents that were taken out, since they stand nowhere any more.
    pub removed: usize,
    /// Agents that the file has no more, and that are kept until a person confirms that they are to go.
    pub held: usize,
    /// Mistakes, for which the file is not used as it is.
    pub mistakes: usize,
    /// The file has changed a moment ago, and is read when it has looked the same twice.
    pub being_written: bool,
}

impl Standing {
    /// Whether nothing is to be said.
    pub(super) fn is_silent(&self) -> bool {
        let Standing { file: _, put, removed, held, mistakes, being_written } = self;
        put + removed + held + mistakes == 0 && !being_written
    }

    /// Why the file as it is now is not in force; `None` when it is.
    #[must_use]
    pub fn why_stale(&self) -> Option<String> {
        let file = self.file.display();
        match self {
            Standing { held, .. } if *held > 0 => Some(format!(
                "{file}: {held} agents that it has no more are kept until `ccrelay reload --confirm-removals` says that they are to go"
            )),
            Standing { mistakes, .. } if *mistakes > 0 => Some(format!(
                "{file}: {mistakes} mistakes, which the log names; what was read before stays in force"
            )),
            _ => None,
        }
    }
}

/// Rosters whose files as they are now are not in force, for all who look.
pub type Stale = Arc<ArcSwap<Vec<Standing>>>;

/// Whether somebody wants all files read, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// Nobody does.
    Not,
    /// To have what they say in force.
    Reading,
    /// And to have agents go, in any number, that stand nowhere any more.
    Removals,
}

/// That all files be read.
#[derive(Debug)]
pub struct Wish {
    pub(super) asked: Asked,
    pub(super) tell: oneshot::Sender<Vec<Standing>>,
}

/// Takes wishes.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::Sender<Wish>);

impl Desk {
    /// A desk and where its wishes come out.
    #[must_use]
    pub fn new() -> (Desk, mpsc::Receiver<Wish>) {
        let (wishes, received) = mpsc::channel(WAITING);
        (Desk(wishes), received)
    }

    /// Has all files read, and says of which there is something to be said; `None` when that takes too long. With `confirmed`
    /// agents may be lost in any number.
    pub async fn read(&self, confirmed: bool) -> Option<Vec<Standing>> {
        let (tell, told) = oneshot::channel();
        let asked = if confirmed { Asked::Removals } else { Asked::Reading };
        let exchange = async {
            self.0.send(Wish { asked, tell }).await.ok()?;
            told.await.ok()
        };
        tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
    }
}
