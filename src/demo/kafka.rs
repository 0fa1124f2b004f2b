//! The embedded Kafka, which is librdkafka's mock cluster on a port of the loopback, and a consumer that reads it
//! as anybody's would.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{Message, error::KafkaError};
use serde_json::Value;

use crate::clock::Timestamp;

/// Where events go: the relay's own default.
pub(super) const TOPIC: &str = "ccrelay.events";
/// More than one, so that keys matter.
const PARTITIONS: i32 = 3;
/// The mock cluster answers a fetch that finds nothing only when this is over, so it bounds the latency shown.
const FETCH_WAIT_MILLIS: &str = "10";

/// A Kafka in this process.
pub(super) struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Kafka {
    /// Starts one broker with the topic.
    pub(super) fn start() -> anyhow::Result<Kafka> {
        let cluster = MockCluster::new(1).context("cannot start the embedded Kafka")?;
        cluster.create_topic(TOPIC, PARTITIONS, 1).context("cannot create the topic")?;
        Ok(Kafka { cluster })
    }

    /// `127.0.0.1:port`.
    pub(super) fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// A consumer of the whole topic, from its beginning.
    pub(super) fn consumer(&self) -> anyhow::Result<StreamConsumer> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap_servers())
            .set("group.id", "ccrelay-demo")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", FETCH_WAIT_MILLIS)
            .create()
            .context("cannot make a consumer")?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(TOPIC, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions).context("cannot read the topic")?;
        Ok(consumer)
    }
}

/// An event as a consumer has it: the record's headers and its data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) agent: String,
    /// Such as `ccrelay.call.ringing`.
    pub(super) event_type: String,
    pub(super) sequence: u64,
    /// When it happened.
    pub(super) time: Timestamp,
    /// From the relay's receipt to this consumer.
    pub(super) latency: Duration,
    pub(super) data: Value,
}

impl Record {
    /// Reads a message that arrived at `now`; none when it is not an event of ours.
    pub(super) fn read(message: &BorrowedMessage<'_>, now: Timestamp) -> Option<Record> {
        let headers = message.headers()?;
        let header = |name: &str| {
            let found = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(found.value?).ok()
        };
        let received: Timestamp = header("ce_recordedtime")?.parse().ok()?;
        Some(Record {
            agent: header("ce_subject")?.to_owned(),
            event_type: header("ce_type")?.to_owned(),
            sequence: header("ce_sequence")?.parse().ok()?,
            time: header("ce_time")?.parse().ok()?,
            latency: now.since(received),
            data: serde_json::from_slice(message.payload()?).ok()?,
        })
    }

    /// Whether the relay made it itself, of a session's life or at a call's end, rather than the gateway.
    pub(super) fn is_own(&self) -> bool {
        let name = self.data["raw"]["eventType"].as_str();
        name.is_some_and(|name| name.starts_with("session.") || name == "call.ended")
    }
}

/// What the consumer has seen, and whether it was right.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Events of the gateway, each once.
    pub(super) events: u64,
    /// Events that the relay made itself.
    pub(super) own: u64,
    /// Events that came once more, as at-least-once allows.
    pub(super) again: u64,
    /// Numbers of an agent's sequence that were passed over.
    pub(super) missing: u64,
    /// Messages that are not events.
    pub(super) unreadable: u64,
    /// Errors of the consumer.
    pub(super) errors: u64,
    /// By agent: the next sequence number, from 0 as the spool is new, and events of the gateway.
    agents: BTreeMap<String, (u64, u64)>,
}

impl Seen {
    /// Takes account of what the consumer got; gives the event when there is one.
    pub(super) fn note(
        &mut self,
        received: Result<BorrowedMessage<'_>, KafkaError>,
        now: Timestamp,
    ) -> Option<Record> {
        let message = match received {
            Ok(message) => message,
            Err(error) => {
                self.errors += 1;
                tracing::debug!(%error, "the demo's consumer");
                return None;
            }
        };
        let record = Record::read(&message, now);
        match &record {
            Some(record) => self.count(record),
            None => self.unreadable += 1,
        }
        record
    }

    fn count(&mut self, record: &Record) {
        let (next, events) = self.agents.get(&record.agent).copied().unwrap_or_default();
        if record.sequence < next {
            self.again += 1;
            return;
        }
        let own = record.is_own();
        self.missing += record.sequence - next;
        self.own += u64::from(own);
        self.events += u64::from(!own);
        self.agents.insert(record.agent.clone(), (record.sequence + 1, events + u64::from(!own)));
    }

    /// Events of the gateway for one agent.
    pub(super) fn events_of(&self, agent: &str) -> u64 {
        self.agents.get(agent).map_or(0, |(_, events)| *events)
    }

    /// All events, each once.
    pub(super) fn total(&self) -> u64 {
        self.events + self.own
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the consumer has seen of one event of the gateway for each of these numbers of an agent.
    pub(crate) fn seen(agent: &str, sequences: &[u64]) -> Seen {
        let mut seen = Seen::default();
        sequences.iter().for_each(|number| seen.count(&record(agent, *number, "AgentEvent_Ringing")));
        seen
    }

    fn record(agent: &str, sequence: u64, name: &str) -> Record {
        Record {
            agent: agent.to_owned(),
            event_type: "ccrelay.call.ringing".to_owned(),
            sequence,
            time: Timestamp(0),
            latency: Duration::ZERO,
            data: serde_json::json!({ "raw": { "eventType": name } }),
        }
    }

    #[test]
    fn repeats_and_gaps_are_told_apart_and_agents_are_counted_for_themselves() {
        let mut seen = Seen::default();
        for (agent, sequence) in [("1", 0), ("1", 1), ("2", 1), ("1", 1), ("1", 4)] {
            seen.count(&record(agent, sequence, "AgentEvent_Ringing"));
        }
        seen.count(&record("2", 2, "session.started"));
        assert_eq!((seen.events, seen.own, seen.again, seen.missing), (4, 1, 1, 3));
        assert_eq!((seen.events_of("1"), seen.events_of("2"), seen.total()), (3, 1, 5));
    }
}
