//! A sink is a configured output: it takes events one after another and says of each when the far end has
//! **confirmed** it. A sink keeps nothing: the spool is the only retry store, so after any doubt the worker
//! calls [`Sink::reset`] and publishes again from its cursor.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::event::Event;
use crate::event::cloudevent::{self, Attributes, Extension};
use crate::trace::{TRACEPARENT, TraceContext};

pub mod encoding;
pub mod jsonl;
pub mod kafka;
pub mod mqtt;
mod on_error;
mod secret;
#[cfg(test)]
pub(crate) mod testing;

/// A future on the heap, so that sinks of different kinds stand behind one type.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Resolves when the far end has confirmed one message, or to why it has not.
pub type Ack = BoxFuture<'static, Result<(), DeliveryError>>;

/// One event on its way to one topic.
#[derive(Debug, Clone)]
pub struct Message {
    /// What is sent.
    pub event: Arc<Event>,
    /// Where to: a Kafka topic or an MQTT topic, already checked by the route.
    pub topic: Arc<str>,
    /// Why it is sent.
    pub purpose: Purpose,
    /// The trace it belongs to, while traces are on.
    pub trace: Option<TraceContext>,
}

impl Message {
    /// It is no event, but its agent's state alone.
    #[must_use]
    pub fn is_state(&self) -> bool {
        matches!(self.purpose, Purpose::State)
    }
}

/// Why a message is sent.
#[derive(Debug, Clone, Default)]
pub enum Purpose {
    /// The event has its turn.
    #[default]
    Delivery,
    /// The event was set aside and is delivered after all: later ones of its agent may have gone before it, so it says
    /// nothing of how things stand now.
    Replay,
    /// The event does not go to this sink; the state to which it led its agent is retained there.
    State,
    /// The event was set aside, and this is its copy for those who watch for that.
    Copy(Arc<CopyNote>),
}

/// What a copy says beside its event.
#[derive(Debug, Clone)]
pub struct CopyNote {
    /// Why the event was set aside, as a short name.
    pub reason: &'static str,
    /// The topic that the event was for.
    pub topic: Arc<str>,
    /// The sink that refused it.
    pub sink: Arc<str>,
    /// When it was set aside.
    pub at: Timestamp,
}

impl Message {
    /// The context attributes of the event, those of its trace, and those of the copy if it is one.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'_> {
        cloudevent::attributes_with(&self.event, self.extensions())
    }

    /// The whole event in the JSON format of CloudEvents.
    #[must_use]
    pub fn structured(&self) -> Vec<u8> {
        cloudevent::structured_with(&self.event, self.extensions())
    }

    fn extensions(&self) -> Vec<Extension<'_>> {
        let mut extensions = Vec::new();
        if let Some(trace) = &self.trace {
            extensions.push((TRACEPARENT, Cow::Owned(trace.traceparent())));
        }
        if let Purpose::Copy(note) = &self.purpose {
            extensions.extend([
                ("ccrelaydeadletterreason", Cow::Borrowed(note.reason)),
                ("ccrelaydeadlettertopic", Cow::Borrowed(&*note.topic)),
                ("ccrelaydeadlettersink", Cow::Borrowed(&*note.sink)),
                ("ccrelaydeadlettertime", Cow::Owned(note.at.to_string())),
            ]);
        }
        extensions
    }
}

/// What the worker must do about a failed delivery. In a configuration `retry`, `dead_letter` or `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// The far end is away or busy: reset the sink, wait, publish again from the cursor, for as long as it takes.
    Retry,
    /// This message can never go (too large, forbidden topic): set it aside with its reason and go on.
    DeadLetter,
    /// The configuration is wrong and time does not mend it: stop this sink and tell a person.
    Stop,
}

/// A delivery that failed.
#[derive(Debug, Clone)]
pub struct DeliveryError {
    /// What to do about it.
    pub disposition: Disposition,
    /// A short name from a bounded set, used as a metric label, such as `queue_full` or `too_large`.
    pub reason: &'static str,
    /// What the client library or the broker said, without control characters and not too long; no payload and no secret.
    pub detail: String,
}

/// Characters that are kept of what a far end said.
const DETAIL_CHARS: usize = 200;

/// A broker can say anything, and what it says is read in logs, on terminals and in dead letters: it must not be a command to a
/// terminal there, nor a page.
fn plain(detail: &str) -> String {
    let mut chars = detail.trim_end().chars().map(|c| if c.is_control() { '\u{b7}' } else { c });
    let mut text: String = chars.by_ref().take(DETAIL_CHARS).collect();
    if chars.next().is_some() {
        text.push('\u{2026}');
    }
    text
}

impl DeliveryError {
    /// An error to be retried.
    pub fn retry(reason: &'static str, detail: impl AsRef<str>) -> DeliveryError {
        DeliveryError { disposition: Disposition::Retry, reason, detail: plain(detail.as_ref()) }
    }

    /// An error that sets the message aside.
    pub fn dead_letter(reason: &'static str, detail: impl AsRef<str>) -> DeliveryError {
        DeliveryError { disposition: Disposition::DeadLetter, reason, detail: plain(detail.as_ref()) }
    }

    /// An error that stops the sink.
    pub fn stop(reason: &'static str, detail: impl AsRef<str>) -> DeliveryError {
        DeliveryError { disposition: Disposition::Stop, reason, detail: plain(detail.as_ref()) }
    }
}

impl fmt::Display for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for DeliveryError {}

/// Whether this host is this machine, so that what goes there is read by nobody on the way.
pub(crate) fn is_here(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An output. One worker owns it, so every method takes `&mut self`.
pub trait Sink: Send {
    /// Hands over one message and returns its [`Ack`]. Messages are sent in the order of the calls. Waits while the
    /// client's own queue is full: a full queue is not an error.
    ///
    /// # Errors
    /// When the message was certainly not taken. Acks already handed out stay valid. After a failure of disposition
    /// [`Disposition::Retry`], here or in an ack, the sink may refuse every message until [`Sink::reset`], so that
    /// nothing overtakes what failed.
    ///
    /// # Cancel safety
    /// Must not be dropped before it is done, as the message may or may not have been taken, but to close the sink next.
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>>;

    /// Waits for the next failure to reach the far end while there is nothing to deliver, where the sink connects all the same. By
    /// default there is none.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what is told is told once.
    fn trouble(&mut self) -> BoxFuture<'_, DeliveryError> {
        Box::pin(std::future::pending())
    }

    /// What keeps the client from the far end, where it goes on trying by itself and messages wait meanwhile; nothing by sinks whose
    /// acks fail at once.
    fn complaint(&self) -> Option<DeliveryError> {
        None
    }

    /// Where the state to which this event led its agent is retained; nowhere by most sinks. Where the event itself does not
    /// go to the sink, it is published with this topic and [`Purpose::State`].
    fn state_topic(&self, _: &Event) -> Option<Arc<str>> {
        None
    }

    /// Pushes out what a sink may have buffered, before the worker waits for something else: at least so much that the oldest
    /// ack that is not resolved comes to be, if that is for the sink to do. Most need nothing.
    ///
    /// # Errors
    /// When it could not be written.
    ///
    /// # Cancel safety
    /// Must not be dropped before it is done, but to reset or close the sink next.
    fn flush(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Drops the client with everything in flight and makes a new one. Acks of the old client resolve to an error
    /// of disposition [`Disposition::Retry`], never to `Ok`, unless they had been confirmed. Must return promptly
    /// (it need not be connected yet).
    ///
    /// # Errors
    /// When no client can be made.
    ///
    /// # Cancel safety
    /// Must not be dropped before it is done, but to close the sink next.
    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>>;

    /// Ends the client in good order (MQTT DISCONNECT, file flushed), within a few seconds at most.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_said_is_no_command_to_a_terminal_and_no_page() {
        let said = "no\u{1b}]0;owned\u{7} \u{1b}[2J\r\nsink ok\u{9b}1m";
        for error in [
            DeliveryError::retry("refused", said),
            DeliveryError::dead_letter("refused", said),
            DeliveryError::stop("refused", said),
        ] {
            assert!(!error.detail.chars().any(char::is_control), "{error}");
            assert!(error.detail.starts_with("no\u{b7}]0;owned"), "{error}");
        }
        let long = DeliveryError::retry("refused", "\u{fc}".repeat(60_000));
        assert_eq!(long.detail.chars().count(), DETAIL_CHARS + 1);
        assert_eq!(DeliveryError::retry("refused", "as it is").detail, "as it is");
    }
}
