//! Kafka: an idempotent producer with `acks=all`, whose delivery reports are the acks.
//!
//! Key is the agent, with or without its gateway, so that its events stay in order on one partition; the time-out of a record is infinite, so that
//! a slow cluster delays events and never reorders them. What a client holds is never needed: the worker publishes
//! again from its cursor after [`Sink::reset`], and because both the old client's leftovers and the new one's
//! records begin at or before the first unconfirmed event, consumers that drop known ids see each agent in order.
//!
//! **Batches that are refused.** A broker that finds a batch larger than the topic's `max.message.bytes` refuses all
//! of it without saying which record, if any, is at fault; and so it does for one record whose timestamp or content it
//! does not take. Such a batch is published again record by record (`solo`); what is then refused is set aside. After them
//! batches come back; those that were too large half as large, unless a record was to blame.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::sink::{Ack, BoxFuture, DeliveryError, Message, Sink};

mod acks;
mod brokers;
mod client;
mod complaint;
mod config;
mod encode;
mod failure;

use client::{Client, Refusal};
pub use config::{KafkaConfig, KafkaOnErrorOptions, KafkaOptions, KafkaSecurityOptions, Key, OptionValue};
pub use encode::{Encoded, encode};

/// Every reason of this sink's [`DeliveryError`]s.
pub const REASONS: &[&str] = &[
    "batch_refused",
    "batch_too_large",
    "broker",
    "client",
    "fatal",
    "not_authorised",
    "record_refused",
    "reset",
    "stalled",
    "timestamp_refused",
    "tls",
    "too_large",
    "topic_invalid",
    "unknown_topic",
];

/// Below this a batch is hardly more than a record.
const LEAST_BATCH_BYTES: usize = 1_000;
/// A full queue wakes us when it moves; this is for the case that it moved just before we looked.
const QUEUE_FULL_TICK: Duration = Duration::from_millis(50);
/// What a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A Kafka cluster as an output.
pub struct KafkaSink {
    name: Arc<str>,
    config: KafkaConfig,
    clock: Clock,
    batches: Batches,
    /// Absent only when the last one could not be made; the next [`Sink::reset`] tries again.
    client: Option<Client>,
}

/// How many records go into one batch.
#[derive(Debug, Clone, Copy)]
struct Batches {
    bytes: usize,
    /// How many records are still to be sent one by one.
    solo: usize,
    /// `bytes` was halved for their sake.
    halved: bool,
}

impl KafkaSink {
    /// Makes the client; it connects by itself. Where it cannot be made, as with a file of certificates that was spoilt since the
    /// configuration was checked, the sink is one that fails and is tried again: keeping agents alive does not depend on it.
    #[must_use]
    pub fn new(name: &str, config: KafkaConfig, clock: Clock) -> KafkaSink {
        let name: Arc<str> = name.into();
        let batches = Batches { bytes: config.batch_bytes, solo: 0, halved: false };
        let client = start(&name, &config, batches)
            .inspect_err(|error| tracing::error!(sink = &*name, %error, "no Kafka client can be made yet"));
        KafkaSink { name, config, clock, batches, client: client.ok() }
    }

    async fn send(&mut self, message: &Message) -> Result<Ack, DeliveryError> {
        self.count_solo().await?;
        let Some(client) = &self.client else {
            return Err(DeliveryError::retry("client", "there is no client"));
        };
        let mut encoded = encode(message, self.config.encoding, self.clock.now());
        let key = self.config.key.of(&message.event);
        loop {
            let progress = client.progress().notified();
            match client.send(&message.topic, &key, &mut encoded) {
                Ok(outcome) => {
                    return Ok(Box::pin(async {
                        let lost = |_| Err(DeliveryError::retry("reset", "the client is gone"));
                        outcome.await.unwrap_or_else(lost)
                    }));
                }
                Err(Refusal::Failed(error)) => return Err(error),
                Err(Refusal::QueueFull) => {
                    // Elapsed or not, the answer is to try again.
                    drop(tokio::time::timeout(QUEUE_FULL_TICK, progress).await);
                }
            }
        }
    }

    /// Counts down the records that go one by one, and brings batches back once the last of them is confirmed.
    async fn count_solo(&mut self) -> Result<(), DeliveryError> {
        match self.batches.solo {
            0 => return Ok(()),
            1 => {}
            _ => {
                self.batches.solo -= 1;
                return Ok(());
            }
        }
        if let Some(client) = &self.client {
            drained(client).await;
            // A fresh client may not go on where this one has failed: that is for the worker to begin again.
            if let Some(failure) = client.failure() {
                return Err(failure);
            }
        }
        self.batches.solo = 0;
        if self.batches.halved && self.client.as_ref().is_some_and(Client::refused_alone) {
            self.batches.bytes = (self.batches.bytes * 2).min(self.config.batch_bytes);
        }
        tracing::info!(sink = &*self.name, batch_bytes = self.batches.bytes, "sending in batches again");
        self.rebuild().await
    }

    async fn rebuild(&mut self) -> Result<(), DeliveryError> {
        let old = self.client.take();
        let (name, config, batches) = (self.name.clone(), self.config.clone(), self.batches);
        let rebuilt = tokio::task::spawn_blocking(move || {
            if let Some(old) = old {
                old.abandon();
            }
            start(&name, &config, batches)
        });
        let client = rebuilt.await.map_err(|error| DeliveryError::retry("client", error.to_string()))??;
        self.client = Some(client);
        Ok(())
    }

    /// After a batch was refused its records go one by one.
    fn choose_batches(&mut self) {
        let Some(client) = &self.client else { return };
        let Some(failure) = client.failure() else { return };
        let why = match failure.reason {
            "batch_too_large" => {
                "the broker refused a batch as too large, so these records go one by one: if it is not for single large \
                 events, set batch.size below the topic's max.message.bytes"
            }
            "batch_refused" => {
                "the broker refused a batch for one of its records, so these records go one by one"
            }
            _ => return,
        };
        self.batches.halved = failure.reason == "batch_too_large";
        if self.batches.halved {
            self.batches.bytes = (self.batches.bytes / 2).max(LEAST_BATCH_BYTES);
        }
        // One more, as the count ends before the last.
        self.batches.solo = client.to_go_again() + 1;
        tracing::warn!(sink = &*self.name, records = self.batches.solo, "{why}");
    }
}

fn start(name: &Arc<str>, config: &KafkaConfig, batches: Batches) -> Result<Client, DeliveryError> {
    let mut properties = config.client_config()?;
    properties.set("batch.size", batches.bytes.to_string());
    let solo = batches.solo > 0;
    if solo {
        properties.set("batch.num.messages", "1");
    }
    Client::start(name, &properties, solo, config)
}

/// Waits until no record awaits its report. Ends also when the client fails, as that resolves them all.
async fn drained(client: &Client) {
    loop {
        let progress = client.progress().notified();
        if client.unresolved() == 0 {
            return;
        }
        progress.await;
    }
}

impl Sink for KafkaSink {
    fn publish<'a>(&'a mut self, message: &'a Message) -> BoxFuture<'a, Result<Ack, DeliveryError>> {
        Box::pin(self.send(message))
    }

    fn complaint(&self) -> Option<DeliveryError> {
        let said = self.client.as_ref()?.complaint()?;
        Some(DeliveryError::retry("broker", said))
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), DeliveryError>> {
        self.choose_batches();
        Box::pin(self.rebuild())
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(client) = self.client.take() {
                // What is not confirmed by then stays in the spool.
                drop(tokio::time::timeout(CLOSE_TIMEOUT, drained(&client)).await);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problems;
    use crate::sink::testing::{message, until};

    #[tokio::test]
    async fn why_no_broker_is_reached_is_said_while_records_wait() {
        // Nobody listens there.
        let options: KafkaOptions = toml::from_str("bootstrap_servers = '127.0.0.1:1'").unwrap();
        let mut problems = Problems::default();
        let config = options.validate(Duration::from_secs(30), "sinks.kafka", &mut problems);
        let mut sink = KafkaSink::new("kafka", config.unwrap(), Clock::system());
        assert!(sink.complaint().is_none());
        let _ack = sink.publish(&message("1001", 0)).await.unwrap();
        until("a complaint", || sink.complaint().is_some()).await;
        let said = sink.complaint().unwrap();
        assert!(said.reason == "broker" && said.detail.contains("Connection refused"), "{said}");
    }
}
