//! The Kafka sink against Apache Kafka.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use ccrelay::clock::{Clock, Timestamp};
use ccrelay::config::Problems;
use ccrelay::sink::kafka::{KafkaOptions, KafkaSink, REASONS};
use ccrelay::sink::{Ack, CopyNote, Disposition, Message, Purpose, Sink};
use tokio::sync::watch;

use super::relay::Running;
use crate::support::certificates::Certificates;
use crate::support::in_process::good;
use crate::support::kafka::{Kafka, Record, SASL_PASSWORD, SASL_USER, SCRAM_PASSWORD};
use crate::support::worker::{assert_complete_and_in_order, deliver, deliver_all, settled};
use crate::support::{DEADLINE, message, messages, padded};

/// How long a worker waits, by default.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

fn sink(address: &str, lines: &str) -> KafkaSink {
    let options: KafkaOptions =
        toml::from_str(&format!("bootstrap_servers = '{address}'\n{lines}")).expect("valid lines");
    let mut problems = Problems::default();
    let config = options.validate(STALL_TIMEOUT, "sinks.kafka", &mut problems);
    let config = config.unwrap_or_else(|| panic!("{:?}", problems.found()));
    KafkaSink::new("kafka", config, Clock::system())
}

fn ids(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.header("ce_id").to_owned()).collect()
}

async fn publish(sink: &mut KafkaSink, messages: &[Message]) -> Vec<Ack> {
    let mut acks = Vec::new();
    for message in messages {
        acks.push(sink.publish(message).await.expect("it is taken"));
    }
    acks
}

#[tokio::test]
async fn a_confirmed_event_is_in_the_topic_once_with_its_attributes_as_headers() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("binary", 4, &[]).await;
    let sent = messages("binary", 500, 0);
    let mut sink = sink(&kafka.address(), "");
    let report = deliver_all(&mut sink, &sent, 100).await;
    sink.close().await;
    assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{report:?}");

    let records = kafka.read_all("binary").await;
    assert_eq!(records.len(), sent.len());
    assert_complete_and_in_order(ids(&records), &sent);
    for record in &records {
        assert_eq!(record.header("content-type"), "application/json");
        assert_eq!(record.header("ce_specversion"), "1.0");
        assert_eq!(record.header("ce_type"), "ccrelay.call.ringing");
        assert_eq!(record.header("ce_source"), format!("/ccrelay/main/agents/{}", record.key));
        assert_eq!(record.header("ce_subject"), record.key);
        assert!(record.headers.iter().all(|(name, _)| name == "content-type" || name.starts_with("ce_")));
        assert!(record.headers.iter().all(|(name, _)| name != "ce_datacontenttype"));
        assert_eq!(record.timestamp, Some(1_784_529_722_590));
        assert!(record.payload.starts_with(b"{"));
    }
    let of_101: Vec<_> = records.iter().filter(|record| record.key == "101").map(|r| r.partition).collect();
    assert!(of_101.windows(2).all(|pair| pair[0] == pair[1]), "an agent's events are on one partition");
}

#[tokio::test]
async fn structured_mode_puts_the_whole_event_into_the_payload() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("structured", 1, &[]).await;
    let mut sink = sink(&kafka.address(), "encoding = 'structured'");
    let report = deliver_all(&mut sink, &[message("structured", "101", 1)], 1).await;
    assert!(report.retries.is_empty(), "{report:?}");
    let records = kafka.read_all("structured").await;
    let expected = ("content-type".to_owned(), "application/cloudevents+json; charset=UTF-8".to_owned());
    assert_eq!(records[0].headers, [expected]);
    let event: serde_json::Value = serde_json::from_slice(&records[0].payload).unwrap();
    assert_eq!(event["id"], "101-1");
    assert_eq!(event["specversion"], "1.0");
}

#[tokio::test]
async fn the_key_can_hold_the_gateway_and_an_agent_stays_on_one_partition() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("keyed", 4, &[]).await;
    let sent = messages("keyed", 200, 0);
    let report = deliver_all(&mut sink(&kafka.address(), "key = 'gateway_agent'"), &sent, 50).await;
    assert!(report.retries.is_empty(), "{report:?}");
    let records = kafka.read_all("keyed").await;
    assert_complete_and_in_order(ids(&records), &sent);
    let mut partitions = std::collections::BTreeMap::new();
    for record in &records {
        assert_eq!(record.key, format!("main/{}", record.header("ce_subject")));
        assert_eq!(*partitions.entry(&record.key).or_insert(record.partition), record.partition);
    }
}

#[tokio::test]
async fn an_event_from_the_future_is_stamped_with_its_receipt() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("future", 1, &[]).await;
    let mut early = message("future", "101", 1);
    let event = std::sync::Arc::make_mut(&mut early.event);
    event.time = event.recorded_time.plus(Duration::from_secs(8 * 3600));
    let receipt = event.recorded_time;
    let report = deliver_all(&mut sink(&kafka.address(), ""), &[early], 1).await;
    assert!(report.dead_letters.is_empty(), "{report:?}");
    let records = kafka.read_all("future").await;
    assert_eq!(records[0].timestamp, i64::try_from(receipt.millis()).ok());
}

#[tokio::test]
async fn nothing_is_lost_or_reordered_when_the_broker_stops_dies_and_freezes() {
    let mut kafka = Kafka::start().await;
    kafka.create_topic("outages", 4, &[]).await;
    let sent = messages("outages", 6000, 300);
    // Impatient on purpose, so that outages lead to resets.
    let mut sink = sink(&kafka.address(), "stall_timeout_secs = 1");
    let (progress, mut watched) = watch::channel(0);
    let (report, ()) = tokio::join!(deliver(&mut sink, &sent, 300, &progress), async {
        settled(&mut watched, 500).await;
        kafka.stop().await;
        // The sink gives up in this time, at least once.
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.start_again().await;
        settled(&mut watched, 2000).await;
        kafka.kill9().await;
        kafka.start_again().await;
        settled(&mut watched, 4000).await;
        kafka.pause();
        tokio::time::sleep(Duration::from_secs(3)).await;
        kafka.resume();
    });
    sink.close().await;
    assert!(report.dead_letters.is_empty(), "{report:?}");
    assert!(report.retries.contains(&"stalled"), "{report:?}");
    assert!(report.retries.iter().all(|reason| REASONS.contains(reason)), "{report:?}");
    let records = kafka.read_all("outages").await;
    eprintln!("{} events, {} records, retries {:?}", sent.len(), records.len(), report.retries);
    assert_complete_and_in_order(ids(&records), &sent);
}

#[tokio::test]
async fn a_slow_broker_delays_and_does_not_fail() {
    let mut kafka = Kafka::start().await;
    kafka.create_topic("slow", 1, &[]).await;
    let mut sink = sink(&kafka.address(), "");
    let sent = messages("slow", 100, 0);
    assert!(deliver_all(&mut sink, &sent[..50], 10).await.retries.is_empty());
    kafka.pause();
    let acks = publish(&mut sink, &sent[50..]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    kafka.resume();
    for ack in acks {
        tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap();
    }
    // Nor does one that is away for a while.
    kafka.stop().await;
    let acks = publish(&mut sink, &messages("slow", 110, 0)[100..]).await;
    kafka.start_again().await;
    for ack in acks {
        tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap();
    }
    assert_eq!(kafka.read_all("slow").await.len(), 110);
}

#[tokio::test]
async fn a_reset_is_prompt_and_resolves_what_the_broker_has_not_confirmed() {
    let kafka = Kafka::start().await;
    kafka.create_topic("reset", 2, &[]).await;
    let sent = messages("reset", 400, 1000);
    let mut sink = sink(&kafka.address(), "");
    assert!(deliver_all(&mut sink, &sent[..100], 10).await.retries.is_empty());
    kafka.pause();
    let acks = publish(&mut sink, &sent[100..]).await;
    let begin = Instant::now();
    sink.reset().await.unwrap();
    for ack in acks {
        let error = ack.await.unwrap_err();
        assert_eq!((error.disposition, error.reason), (Disposition::Retry, "reset"));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    kafka.resume();
    assert!(deliver_all(&mut sink, &sent[100..], 50).await.retries.is_empty());
    assert_complete_and_in_order(ids(&kafka.read_all("reset").await), &sent);
}

#[tokio::test]
async fn a_full_queue_waits_and_sends_the_same_record_again() {
    let kafka = Kafka::start().await;
    kafka.create_topic("full", 1, &[]).await;
    let mut sink = sink(&kafka.address(), "options = {'queue.buffering.max.messages' = 10}");
    let sent = messages("full", 200, 0);
    assert!(deliver_all(&mut sink, &sent[..1], 1).await.retries.is_empty());
    kafka.pause();
    let (progress, _) = watch::channel(0);
    let (report, ()) = tokio::join!(deliver(&mut sink, &sent[1..], 100, &progress), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        kafka.resume();
    });
    assert!(report.retries.is_empty(), "{report:?}");
    let records = kafka.read_all("full").await;
    assert_eq!(records.len(), sent.len());
    assert_complete_and_in_order(ids(&records), &sent);
}

#[tokio::test]
async fn only_the_records_that_are_too_large_are_set_aside_and_not_their_batch() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("limited", 1, &[("max.message.bytes", "3000")]).await;
    let mut sent = messages("limited", 300, 500);
    sent[100] = padded("limited", "999", 0, 5000);
    sent[101] = padded("limited", "999", 1, 5000);
    // Larger than the client's own limit: refused without asking the broker.
    sent[200] = padded("limited", "999", 2, 1_100_000);
    // Batches of many records: the topic's limit is below them too.
    let mut sink = sink(&kafka.address(), "compression = 'none'\noptions = {'linger.ms' = 50}");
    let report = deliver_all(&mut sink, &sent, 100).await;
    let expected: Vec<_> = (0..3).map(|n| (format!("999-{n}"), "too_large")).collect();
    assert_eq!(report.dead_letters, expected);
    assert!(report.retries.iter().all(|reason| *reason == "batch_too_large"), "{report:?}");
    sent.retain(|message| message.event.agent_id.as_str() != "999");
    assert_complete_and_in_order(ids(&kafka.read_all("limited").await), &sent);
}

/// A topic whose broker takes no record that is older than a quarter of an hour.
async fn create_topic_for_the_present(kafka: &Kafka, name: &str) {
    kafka.create_topic(name, 1, &[("message.timestamp.before.max.ms", "900000")]).await;
}

/// Older than that, and not so old that it could only be a wrong clock.
const TOO_OLD: Duration = Duration::from_secs(1800);

/// The message as one that happened so long ago.
fn aged(mut message: Message, age: Duration) -> Message {
    let now = Clock::system().now();
    let event = std::sync::Arc::make_mut(&mut message.event);
    event.recorded_time = now;
    event.time = Timestamp(now.millis() - u64::try_from(age.as_millis()).expect("it is not that old"));
    message
}

#[tokio::test]
async fn only_the_records_that_are_refused_are_set_aside_and_not_their_batch() {
    let kafka = Kafka::shared().await;
    create_topic_for_the_present(kafka, "present").await;
    let new = |message| aged(message, Duration::ZERO);
    // The first of a batch, two in one, and the last of all.
    let old = [0, 100, 101, 299];
    let mut sent: Vec<Message> = messages("present", 300, 0).into_iter().map(new).collect();
    for (number, place) in (0..).zip(old) {
        sent[place] = aged(message("present", "999", number), TOO_OLD);
    }
    let lines = "options = {'linger.ms' = 50}\non_error = {timestamp_refused = 'dead_letter'}";
    let mut sink = sink(&kafka.address(), lines);
    let report = tokio::time::timeout(DEADLINE, deliver_all(&mut sink, &sent, 100)).await.unwrap();
    let expected: Vec<_> = (0..4).map(|n| (format!("999-{n}"), "timestamp_refused")).collect();
    assert_eq!(report.dead_letters, expected);
    assert!(!report.retries.is_empty(), "{report:?}");
    assert!(report.retries.iter().all(|reason| *reason == "batch_refused"), "{report:?}");
    sent.retain(|message| message.event.agent_id.as_str() != "999");
    assert_complete_and_in_order(ids(&kafka.read_all("present").await), &sent);
}

#[tokio::test]
async fn a_record_whose_time_is_refused_is_tried_again_unless_something_else_was_chosen() {
    let kafka = Kafka::shared().await;
    create_topic_for_the_present(kafka, "waiting").await;
    let mut sink = sink(&kafka.address(), "options = {'batch.num.messages' = 1}");
    let sent = [aged(message("waiting", "101", 0), TOO_OLD)];
    // The first is refused as one of a batch, for all that anybody knows.
    for reason in ["batch_refused", "timestamp_refused"] {
        let ack = sink.publish(&sent[0]).await.unwrap();
        let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
        assert_eq!((error.disposition, error.reason), (Disposition::Retry, reason));
        sink.reset().await.unwrap();
    }
    kafka.create_topic("clock-behind", 1, &[]).await;
    let sent = [aged(message("clock-behind", "101", 0), Duration::from_secs(48 * 3600))];
    assert!(deliver_all(&mut sink, &sent, 1).await.dead_letters.is_empty());
    let records = kafka.read_all("clock-behind").await;
    let times: Vec<_> = records.iter().map(|record| record.timestamp).collect();
    let recorded = i64::try_from(sent[0].event.recorded_time.millis()).ok();
    assert_eq!(times, [recorded], "of a gateway whose clock is days behind ours counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_an_event_that_is_refused_holds_up_nothing_and_its_copy_goes_out() {
    let kafka = Kafka::shared().await;
    create_topic_for_the_present(kafka, "clocks").await;
    kafka.create_topic("clocks-dead", 1, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    Certificates::create(folder.path());
    let configuration = format!(
        "[sinks.bus]\ntopic = 'clocks'\ndead_letter_topic = 'clocks-dead'\n\
         [sinks.bus.kafka]\nbootstrap_servers = '{}'\n[sinks.bus.kafka.options]\n'linger.ms' = 200\n\
         [sinks.bus.kafka.on_error]\ntimestamp_refused = 'dead_letter'\n",
        kafka.address()
    );
    let relay = Running::start(folder.path(), &configuration).await;
    let now = Clock::system().now().millis();
    // Of each agent three events come in one push. One of the second agent's is too old.
    for agent in ["1001", "1002", "1003"] {
        let events = [1, 2, 3].map(|n| {
            let behind = if (agent, n) == ("1002", 2) { TOO_OLD } else { Duration::ZERO };
            let behind = u64::try_from(behind.as_millis()).expect("it is not that old");
            format!(
                r#"{{"eventType":"AgentState_Ready","workNo":"{agent}","eventGenTime":{},"content":null}}"#,
                now - behind + n
            )
        });
        let push = format!(r#"{{"workNo":"{agent}","eventList":[{}]}}"#, events.join(","));
        relay.store_push(agent, push).await;
    }
    relay.delivered().await;
    let letters = relay.spool.dead_letters().expect("the spool can be read");
    let found: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(found, ["timestamp_refused"]);
    relay.stop().await;

    let (mut seen, mut last) = (HashSet::new(), BTreeMap::new());
    for record in kafka.read_all("clocks").await {
        // A batch that goes again may have gone before.
        if seen.insert(record.header("ce_id").to_owned()) {
            let (agent, sequence) = (record.header("ce_subject"), record.header("ce_sequence"));
            let before = last.insert(agent.to_owned(), sequence.to_owned());
            assert!(before.is_none_or(|before| *before < *sequence), "{agent}: {sequence}");
        }
    }
    let refused = &letters[0].event_id;
    assert_eq!((seen.len(), seen.contains(refused)), (8, false), "{seen:?}");
    let copies = kafka.read_all("clocks-dead").await;
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(copies[0].header("ce_id"), *refused);
    assert_eq!(copies[0].header("ce_ccrelaydeadletterreason"), "timestamp_refused");
}

#[tokio::test]
async fn an_unknown_topic_is_waited_for() {
    let kafka = Kafka::shared().await;
    let lines = "options = {'topic.metadata.propagation.max.ms' = 500}";
    let mut sink = sink(&kafka.address(), lines);
    let sent = messages("late", 50, 0);
    let ack = sink.publish(&sent[0]).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "unknown_topic"));
    // What failed is not overtaken: nothing is taken before the reset.
    let refused = sink.publish(&sent[1]).await.map(drop).unwrap_err();
    assert_eq!(refused.reason, "unknown_topic");
    kafka.create_topic("late", 1, &[]).await;
    sink.reset().await.unwrap();
    assert!(deliver_all(&mut sink, &sent, 10).await.dead_letters.is_empty());
    assert_complete_and_in_order(ids(&kafka.read_all("late").await), &sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_an_unknown_topic_is_the_operators_choice_with_all_else_as_it_is_by_default() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("known", 1, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    Certificates::create(folder.path());
    let configuration = format!(
        "[sinks.bus]\ntopic = 'known'\n[sinks.bus.kafka]\nbootstrap_servers = '{}'\n\
         on_error.unknown_topic = 'dead_letter'\n\
         [[routes]]\nname = 'nowhere'\nagents = ['1009']\nto = {{ bus = 'not-there' }}\n",
        kafka.address()
    );
    let relay = Running::start(folder.path(), &configuration).await;
    for agents in [&["1001"][..], &["1009", "1002"]] {
        for agent in agents {
            relay.store_push(agent, good(agent)).await;
        }
        relay.delivered().await;
    }
    let letters = relay.spool.dead_letters().expect("the spool can be read");
    let found: Vec<_> = letters.iter().map(|letter| (&*letter.topic, &*letter.reason)).collect();
    assert_eq!(found, [("not-there", "unknown_topic")]);
    assert_eq!(relay.metrics.sink_failures.with_label_values(&["bus", "stalled"]).get(), 0);
    relay.stop().await;
    assert_eq!(kafka.read_all("known").await.len(), 2);
}

#[tokio::test]
async fn what_an_error_leads_to_is_the_operators_choice() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("chosen", 1, &[("max.message.bytes", "3000")]).await;
    let quick =
        "options = {'topic.metadata.propagation.max.ms' = 500, 'linger.ms' = 0}\ncompression = 'none'";
    // An event for a topic that is not there, set aside, and the rest goes on in order.
    let mut sent = messages("chosen", 30, 0);
    sent[10] = message("nowhere", "999", 0);
    let mut setting_aside =
        sink(&kafka.address(), &format!("{quick}\non_error.unknown_topic = 'dead_letter'"));
    let report = deliver_all(&mut setting_aside, &sent, 10).await;
    assert_eq!(report.dead_letters, [("999-0".to_owned(), "unknown_topic")], "{report:?}");
    sent.remove(10);
    assert_complete_and_in_order(ids(&kafka.read_all("chosen").await), &sent);
    // A record that is too large, waited for.
    let large = padded("chosen", "998", 0, 5000);
    let mut waiting = sink(&kafka.address(), &format!("{quick}\non_error.too_large = 'retry'"));
    for round in 0..3 {
        let outcome = waiting.publish(&large).await.unwrap().await;
        let error = outcome.expect_err(&format!("the broker's limit holds in round {round}"));
        assert_eq!(error.disposition, Disposition::Retry, "{error}");
        assert_eq!(waiting.publish(&sent[0]).await.map(drop).unwrap_err().disposition, Disposition::Retry);
        waiting.reset().await.unwrap();
    }
    // The same, and a person is called.
    let mut stopping = sink(&kafka.address(), &format!("{quick}\non_error.unknown_topic = 'stop'"));
    let error = stopping.publish(&message("nowhere", "999", 0)).await.unwrap().await.unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Stop, "unknown_topic"));
}

fn secured(kafka: &Kafka, password: &str, ca: &std::path::Path) -> (tempfile::TempDir, KafkaSink) {
    secured_by("PLAIN", kafka, password, ca)
}

fn secured_by(
    mechanism: &str,
    kafka: &Kafka,
    password: &str,
    ca: &std::path::Path,
) -> (tempfile::TempDir, KafkaSink) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, password).expect("the folder can be written");
    let lines = format!(
        "[security]\nprotocol = 'sasl_ssl'\nca_file = '{}'\nsasl_mechanism = '{mechanism}'\nusername = '{SASL_USER}'\n\
         password_file = '{}'",
        ca.display(),
        file.display()
    );
    (folder, sink(&kafka.sasl_address(), &lines))
}

#[tokio::test]
async fn a_topic_that_is_not_allowed_is_a_retry_and_goes_on_once_it_is() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("guarded", 1, &[]).await;
    let (_folder, mut sink) = secured(kafka, SASL_PASSWORD, &kafka.certificates().ca);
    let sent = messages("guarded", 20, 0);
    let ack = sink.publish(&sent[0]).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "not_authorised"));
    kafka.allow("guarded").await;
    sink.reset().await.unwrap();
    let report = tokio::time::timeout(DEADLINE, deliver_all(&mut sink, &sent, 10)).await.unwrap();
    assert!(report.dead_letters.is_empty(), "{report:?}");
    assert_complete_and_in_order(ids(&kafka.read_all("guarded").await), &sent);
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_authority_are_retries_that_say_so() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("locked", 1, &[]).await;
    let (_folder, mut wrong) = secured(kafka, "guess", &kafka.certificates().ca);
    let ack = wrong.publish(&message("locked", "101", 1)).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "not_authorised"));
    assert!(!error.detail.contains("guess"), "{error}");

    let (_folder, mut distrustful) = secured(kafka, SASL_PASSWORD, &kafka.certificates().cert);
    let ack = distrustful.publish(&message("locked", "101", 1)).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "tls"));
}

#[tokio::test]
async fn scram_and_client_certificates_open_the_door() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("scram", 1, &[]).await;
    kafka.allow("scram").await;
    for (round, mechanism) in ["SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().enumerate() {
        let (_folder, mut sink) = secured_by(mechanism, kafka, SCRAM_PASSWORD, &kafka.certificates().ca);
        let sent = messages("scram", 20, 0);
        let report = tokio::time::timeout(DEADLINE, deliver_all(&mut sink, &sent, 10)).await.unwrap();
        assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{mechanism}: {report:?}");
        assert_eq!(kafka.read_all("scram").await.len(), 20 * (round + 1));
    }
    kafka.create_topic("certified", 1, &[]).await;
    let files = kafka.certificates();
    let lines =
        |own: &str| format!("[security]\nprotocol = 'ssl'\nca_file = '{}'\n{own}", files.ca.display());
    let own =
        format!("client_cert_file = '{}'\nclient_key_file = '{}'", files.cert.display(), files.key.display());
    let sent = messages("certified", 20, 0);
    let mut known = sink(&kafka.tls_address(), &lines(&own));
    let report = tokio::time::timeout(DEADLINE, deliver_all(&mut known, &sent, 10)).await.unwrap();
    assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{report:?}");
    assert_complete_and_in_order(ids(&kafka.read_all("certified").await), &sent);
    // The broker tells nobody why it closes a connection without a certificate.
    let mut stranger = sink(&kafka.tls_address(), &format!("stall_timeout_secs = 2\n{}", lines("")));
    let ack = stranger.publish(&message("certified", "101", 1)).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, ack).await.unwrap().unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
}

#[tokio::test]
async fn what_every_codec_packs_can_be_read() {
    let kafka = Kafka::shared().await;
    for codec in ["zstd", "lz4", "gzip", "snappy", "none"] {
        for encoding in ["binary", "structured"] {
            let topic = format!("packed-{codec}-{encoding}");
            kafka.create_topic(&topic, 1, &[]).await;
            let lines = format!("compression = '{codec}'\nencoding = '{encoding}'");
            let sent = messages(&topic, 100, 500);
            let report = deliver_all(&mut sink(&kafka.address(), &lines), &sent, 50).await;
            assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{topic}: {report:?}");
            let records = kafka.read_all(&topic).await;
            let found = records.iter().map(|record| match encoding {
                "binary" => record.header("ce_id").to_owned(),
                _ => {
                    let event: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
                    event["id"].as_str().unwrap().to_owned()
                }
            });
            assert_complete_and_in_order(found, &sent);
        }
    }
}

#[tokio::test]
async fn a_copy_of_a_dead_letter_says_why_and_where_it_was_refused() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("copies", 1, &[]).await;
    let note = CopyNote {
        reason: "not_authorised",
        topic: "guarded".into(),
        sink: "bus".into(),
        at: ccrelay::clock::Timestamp(1_784_529_722_700),
    };
    let copy = Message { purpose: Purpose::Copy(note.into()), ..message("copies", "101", 1) };
    for encoding in ["binary", "structured"] {
        let lines = format!("encoding = '{encoding}'");
        let copies = [copy.clone()];
        let report = deliver_all(&mut sink(&kafka.address(), &lines), &copies, 1).await;
        assert!(report.retries.is_empty(), "{report:?}");
    }
    let records = kafka.read_all("copies").await;
    let structured: serde_json::Value = serde_json::from_slice(&records[1].payload).unwrap();
    for (name, value) in [
        ("id", "101-1"),
        ("ccrelaydeadletterreason", "not_authorised"),
        ("ccrelaydeadlettertopic", "guarded"),
        ("ccrelaydeadlettersink", "bus"),
        ("ccrelaydeadlettertime", "2026-07-20T06:42:02.700Z"),
    ] {
        assert_eq!(records[0].header(&format!("ce_{name}")), value);
        assert_eq!(structured[name], value);
    }
}

#[tokio::test]
async fn a_sink_closes_in_time_with_its_broker_away() {
    let mut kafka = Kafka::start().await;
    kafka.create_topic("events", 1, &[]).await;
    let mut sink = sink(&kafka.address(), "");
    for ack in publish(&mut sink, &messages("events", 10, 0)).await {
        ack.await.expect("the broker confirms");
    }
    kafka.stop().await;
    let acks = publish(&mut sink, &messages("events", 10, 0)).await;
    let begin = Instant::now();
    sink.close().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    for ack in acks {
        assert_eq!(ack.await.unwrap_err().disposition, Disposition::Retry);
    }
}

#[tokio::test]
async fn batches_come_back_smaller_after_records_went_one_by_one() {
    let kafka = Kafka::shared().await;
    kafka.create_topic("narrow", 1, &[("max.message.bytes", "15000")]).await;
    let sent = messages("narrow", 10_000, 100);
    let lines = "compression = 'none'\noptions = {'linger.ms' = 20, 'batch.size' = 20000}";
    let report = deliver_all(&mut sink(&kafka.address(), lines), &sent, 2000).await;
    // Halved once, a batch fits.
    assert_eq!(report.retries, ["batch_too_large"]);
    assert!(report.dead_letters.is_empty(), "{report:?}");
    assert_complete_and_in_order(ids(&kafka.read_all("narrow").await), &sent);
}
