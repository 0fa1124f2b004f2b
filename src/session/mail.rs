//! What others hand to a session's task, beyond the few bits of its bell: a changed configuration, a session that
//! somebody else signed in, calls to be passed on.
//!
//! A box that nothing was put into takes two words: a hundred thousand idle sessions each have one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::session::call::Ticket;
use crate::session::config::AgentConfig;
use crate::session::forward::{FORWARD_QUEUE, ForwardAnswer, ForwardError, ForwardRequest};

/// A session that another program signed in.
pub(super) struct Adoption {
    pub(super) ticket: Ticket,
    /// The token that program gave to the gateway.
    pub(super) token: SecretString,
}

/// A call that waits to be passed on.
pub(super) struct Waiting {
    pub(super) request: ForwardRequest,
    /// Not to be begun later than this.
    pub(super) until: Instant,
    /// Nobody waits for it any more.
    pub(super) gone: CancellationToken,
    pub(super) answer: oneshot::Sender<Result<ForwardAnswer, ForwardError>>,
}

impl Waiting {
    fn is_wanted(&self) -> bool {
        !self.gone.is_cancelled() && !self.answer.is_closed()
    }
}

#[derive(Default)]
struct Content {
    config: Option<Arc<AgentConfig>>,
    adoption: Option<Adoption>,
    /// At most [`FORWARD_QUEUE`]; what is more is refused.
    forwards: VecDeque<Waiting>,
}

impl Content {
    fn is_empty(&self) -> bool {
        self.config.is_none() && self.adoption.is_none() && self.forwards.is_empty()
    }
}

/// The box.
#[derive(Default)]
pub(super) struct Mailbox {
    content: Mutex<Option<Box<Content>>>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    /// The configuration to be used from now on; a later one replaces one not yet taken.
    pub(super) fn put_config(&self, config: Arc<AgentConfig>) {
        self.open().get_or_insert_default().config = Some(config);
    }

    /// A session to be taken over; a later one replaces one not yet taken.
    pub(super) fn put_adoption(&self, adoption: Adoption) {
        self.open().get_or_insert_default().adoption = Some(adoption);
    }

    /// A call to be passed on, given back when too many wait.
    pub(super) fn put_forward(&self, waiting: Waiting) -> Result<(), ForwardError> {
        let mut content = self.open();
        let forwards = &mut content.get_or_insert_default().forwards;
        leave_out_unwanted(forwards);
        if forwards.len() >= FORWARD_QUEUE {
            return Err(ForwardError::QueueFull);
        }
        forwards.push_back(waiting);
        Ok(())
    }

    pub(super) fn take_config(&self) -> Option<Arc<AgentConfig>> {
        self.take(|content| content.config.take())
    }

    pub(super) fn take_adoption(&self) -> Option<Adoption> {
        self.take(|content| content.adoption.take())
    }

    /// The next call that somebody still waits for and that is in time; the others are told. It is boxed, since each idle session
    /// would have room for one else.
    pub(super) fn take_forward(&self, now: Instant) -> Option<Box<Waiting>> {
        self.take(|content| {
            while let Some(waiting) = content.forwards.pop_front() {
                if !waiting.is_wanted() {
                    drop(waiting.answer.send(Err(ForwardError::CallerGone)));
                    continue;
                }
                if now <= waiting.until {
                    return Some(Box::new(waiting));
                }
                drop(waiting.answer.send(Err(ForwardError::Expired)));
            }
            None
        })
    }

    /// Takes out the calls that nobody waits for any more.
    pub(super) fn drop_unwanted(&self) {
        self.take(|content| {
            leave_out_unwanted(&mut content.forwards);
            Some(())
        });
    }

    /// Tells all that wait for a call that it is not made.
    pub(super) fn refuse_forwards(&self, error: &ForwardError) {
        let waiting = self.take(|content| Some(std::mem::take(&mut content.forwards)));
        for waiting in waiting.into_iter().flatten() {
            drop(waiting.answer.send(Err(error.clone())));
        }
    }

    /// Takes something out, and throws the box away when it is empty then.
    fn take<T>(&self, take: impl FnOnce(&mut Content) -> Option<T>) -> Option<T> {
        let mut open = self.open();
        let content = open.as_mut()?;
        let taken = take(content);
        if content.is_empty() {
            *open = None;
        }
        taken
    }

    fn open(&self) -> MutexGuard<'_, Option<Box<Content>>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls whose caller has gone take no place, and are not made.
fn leave_out_unwanted(forwards: &mut VecDeque<Waiting>) {
    let (wanted, unwanted) = std::mem::take(forwards).into_iter().partition(Waiting::is_wanted);
    *forwards = wanted;
    let unwanted: VecDeque<Waiting> = unwanted;
    for waiting in unwanted {
        drop(waiting.answer.send(Err(ForwardError::CallerGone)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::Method;

    use super::*;

    type Answer = oneshot::Receiver<Result<ForwardAnswer, ForwardError>>;

    fn waiting(path: &str, until: Instant) -> (Waiting, Answer) {
        let request = ForwardRequest::new(Method::GET, path, None, Bytes::new()).unwrap();
        let (answer, receiver) = oneshot::channel();
        (Waiting { request, until, gone: CancellationToken::new(), answer }, receiver)
    }

    #[test]
    fn calls_come_out_in_order_and_more_than_the_queue_holds_are_refused() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let mut answers = Vec::new();
        for n in 0..FORWARD_QUEUE {
            let (waiting, answer) = waiting(&format!("/x/{n}"), now);
            mailbox.put_forward(waiting).unwrap();
            answers.push(answer);
        }
        let (more, _answer) = waiting("/x/more", now);
        assert_eq!(mailbox.put_forward(more), Err(ForwardError::QueueFull));
        drop(answers.remove(0));
        let (more, _answer) = waiting("/x/more", now);
        assert_eq!(mailbox.put_forward(more), Ok(()), "who has gone makes room");
        let first = mailbox.take_forward(now).unwrap();
        assert_eq!(first.request.path(), "/x/1");
    }

    #[test]
    fn a_call_whose_caller_has_gone_is_not_made_and_takes_no_place() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let (first, mut first_answer) = waiting("/x/first", now);
        let (second, mut second_answer) = waiting("/x/second", now);
        let gone = [first.gone.clone(), second.gone.clone()];
        for waiting in [first, second] {
            mailbox.put_forward(waiting).unwrap();
        }
        gone[0].cancel();
        mailbox.drop_unwanted();
        assert_eq!(first_answer.try_recv().unwrap().unwrap_err(), ForwardError::CallerGone);
        assert!(second_answer.try_recv().is_err(), "its caller still waits");
        gone[1].cancel();
        assert!(mailbox.take_forward(now).is_none());
        assert_eq!(second_answer.try_recv().unwrap().unwrap_err(), ForwardError::CallerGone);
        assert!(mailbox.open().is_none());
    }

    #[test]
    fn late_calls_are_told_so_and_an_emptied_box_is_thrown_away() {
        let (mailbox, now) = (Mailbox::default(), Instant::now());
        let (late, mut answer) = waiting("/x/late", now);
        mailbox.put_forward(late).unwrap();
        assert!(mailbox.take_forward(now + Duration::from_secs(1)).is_none());
        assert_eq!(answer.try_recv().unwrap().unwrap_err(), ForwardError::Expired);
        assert!(mailbox.open().is_none());
        let (refused, mut answer) = waiting("/x/refused", now);
        mailbox.put_forward(refused).unwrap();
        mailbox.refuse_forwards(&ForwardError::NoSession);
        assert_eq!(answer.try_recv().unwrap().unwrap_err(), ForwardError::NoSession);
        assert!(mailbox.open().is_none());
    }
}
