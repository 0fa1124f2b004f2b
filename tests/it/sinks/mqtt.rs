//! The MQTT sink against Mosquitto.

use std::path::Path;
use std::time::{Duration, Instant};

use ccrelay::config::Problems;
use ccrelay::sink::mqtt::{MqttOptions, MqttSink, REASONS};
use ccrelay::sink::{Ack, Disposition, Message, Sink};
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::watch;

use crate::support::mosquitto::{Mosquitto, Subscriber};
use crate::support::proxy::Proxy;
use crate::support::worker::{assert_complete_and_in_order, deliver, deliver_all, settled};
use crate::support::{DEADLINE, message, messages, padded};

fn sink(url: &str, lines: &str) -> MqttSink {
    let options: MqttOptions = toml::from_str(&format!("url = '{url}'\n{lines}")).expect("valid lines");
    let mut problems = Problems::default();
    let config = options.validate("sinks.mqtt", &mut problems);
    MqttSink::new("mqtt", config.unwrap_or_else(|| panic!("{:?}", problems.found())))
}

fn through(proxy: &Proxy, lines: &str) -> MqttSink {
    sink(&format!("mqtt://127.0.0.1:{}", proxy.port()), lines)
}

fn property<'a>(publish: &'a Publish, name: &str) -> &'a str {
    let properties = publish.properties.as_ref().map_or(&[][..], |p| &p.user_properties);
    properties.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn ids(received: &[Publish]) -> Vec<String> {
    received.iter().map(|publish| property(publish, "id").to_owned()).collect()
}

async fn publish(sink: &mut MqttSink, messages: &[Message]) -> Vec<Ack> {
    let mut acks = Vec::new();
    for message in messages {
        acks.push(sink.publish(message).await.expect("it is taken"));
    }
    acks
}

/// Waits for an ack that is to fail.
async fn failure(ack: Ack) -> (Disposition, &'static str) {
    let error = tokio::time::timeout(DEADLINE, ack).await.expect("it resolves").expect_err("it fails");
    assert!(REASONS.contains(&error.reason), "{error}");
    (error.disposition, error.reason)
}

/// Checks that all of `sent` has come.
async fn assert_received(subscriber: &Subscriber, sent: &[Message]) {
    let last = sent.last().expect("something was sent").event.id.clone();
    let received = subscriber
        .wait_for("the last message", |received| ids(received).iter().filter(|id| **id == last).count() > 0)
        .await;
    assert_complete_and_in_order(ids(&received), sent);
}

#[tokio::test]
async fn a_confirmed_event_reaches_subscribers_once_with_its_attributes_as_user_properties() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "binary/#").await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("binary/events", 500, 0);
    let report = deliver_all(&mut sink, &sent, 100).await;
    sink.close().await;
    assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{report:?}");
    let received = subscriber.wait_for("all", |received| received.len() >= sent.len()).await;
    assert_eq!(received.len(), sent.len());
    assert_complete_and_in_order(ids(&received), &sent);
    let first = &received[0];
    assert_eq!(property(first, "specversion"), "1.0");
    assert_eq!(property(first, "type"), "ccrelay.call.ringing");
    assert_eq!(property(first, "subject"), "101");
    let properties = first.properties.as_ref().unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert!(first.payload.starts_with(b"{"));
}

#[tokio::test]
async fn structured_mode_puts_the_whole_event_into_the_payload() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "encoding = 'structured'");
    deliver_all(&mut sink, &[message("structured", "101", 1)], 1).await;
    let received = subscriber.wait_for("it", |received| !received.is_empty()).await;
    let properties = received[0].properties.as_ref().unwrap();
    let expected = Some("application/cloudevents+json; charset=UTF-8");
    assert_eq!(properties.content_type.as_deref(), expected);
    assert!(properties.user_properties.is_empty());
    let event: serde_json::Value = serde_json::from_slice(&received[0].payload).unwrap();
    assert_eq!(event["id"], "101-1");
}

#[tokio::test]
async fn nothing_is_lost_or_reordered_when_connections_break() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let proxy = Proxy::start(&format!("127.0.0.1:{}", broker.port())).await;
    let mut sink = through(&proxy, "");
    let sent = messages("events", 8000, 200);
    let (progress, mut watched) = watch::channel(0);
    let (report, ()) = tokio::join!(deliver(&mut sink, &sent, 500, &progress), async {
        for step in 1..=6 {
            settled(&mut watched, step * 1000).await;
            match step % 3 {
                0 => proxy.cut(),
                1 => proxy.reset(),
                _ => {
                    proxy.refuse();
                    proxy.reset();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    proxy.heal();
                }
            }
        }
    });
    assert!(report.dead_letters.is_empty(), "{report:?}");
    assert!(report.retries.len() >= 6, "{report:?}");
    assert_received(&subscriber, &sent).await;
    eprintln!("{} messages, {} arrived, {:?}", sent.len(), subscriber.received().len(), report.retries);
}

#[tokio::test]
async fn nothing_is_lost_when_the_broker_restarts() {
    let mut broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("events", 4000, 200);
    let (progress, mut watched) = watch::channel(0);
    let (report, ()) = tokio::join!(deliver(&mut sink, &sent, 500, &progress), async {
        for step in 1..=2 {
            settled(&mut watched, step * 1000).await;
            broker.stop().await;
            broker.start_again().await;
        }
    });
    assert!(report.dead_letters.is_empty(), "{report:?}");
    assert!(!report.retries.is_empty(), "{report:?}");
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn every_ack_resolves_when_the_broker_is_killed_and_what_was_not_confirmed_goes_again() {
    let mut broker = Mosquitto::start().await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("events", 3000, 1000);
    let report = deliver_all(&mut sink, &sent[..100], 100).await;
    assert!(report.retries.is_empty(), "{report:?}");
    // Frozen, so that it confirms nothing more before it dies.
    broker.pause();
    let acks = publish(&mut sink, &sent[100..600]).await;
    broker.kill9().await;
    for ack in acks {
        assert_eq!(failure(ack).await.0, Disposition::Retry);
    }
    // Nothing is taken before the reset, so nothing overtakes.
    assert_eq!(sink.publish(&sent[600]).await.map(drop).unwrap_err().disposition, Disposition::Retry);
    broker.start_again().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    sink.reset().await.unwrap();
    assert!(deliver_all(&mut sink, &sent[100..], 500).await.dead_letters.is_empty());
    let again: Vec<_> = sent[100..].to_vec();
    assert_received(&subscriber, &again).await;
}

#[tokio::test]
async fn a_frozen_broker_is_noticed_though_the_library_hangs_in_a_write() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "keep_alive_secs = 5");
    // The window opens with the messages that were confirmed.
    let mut sent = messages("events", 1000, 0);
    assert!(deliver_all(&mut sink, &sent, 1000).await.retries.is_empty());
    sent.extend((0..1000).map(|n| padded("events", "999", n, 20_000)));
    broker.pause();
    // 20 MB, far more than the sockets' buffers hold.
    let acks = publish(&mut sink, &sent[1000..]).await;
    let begin = Instant::now();
    for ack in acks {
        assert_eq!(failure(ack).await, (Disposition::Retry, "stalled"));
    }
    assert!(begin.elapsed() < Duration::from_secs(12), "it took {:?}", begin.elapsed());
    broker.resume();
    sink.reset().await.unwrap();
    assert!(deliver_all(&mut sink, &sent[1000..], 500).await.dead_letters.is_empty());
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn a_reset_is_prompt_and_resolves_what_the_broker_has_not_confirmed() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("events", 600, 20_000);
    assert!(deliver_all(&mut sink, &sent[..100], 100).await.retries.is_empty());
    broker.pause();
    let acks = publish(&mut sink, &sent[100..]).await;
    let begin = Instant::now();
    sink.reset().await.unwrap();
    for ack in acks {
        assert_eq!(failure(ack).await, (Disposition::Retry, "reset"));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());
    broker.resume();
    deliver_all(&mut sink, &sent[100..], 100).await;
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn a_broker_that_is_away_or_silent_is_a_retry_within_a_bounded_time() {
    let mut sink = sink("mqtt://127.0.0.1:1", "");
    let acks = publish(&mut sink, &messages("events", 10, 0)).await;
    for ack in acks {
        assert_eq!(failure(ack).await, (Disposition::Retry, "connection"));
    }
    let broker = Mosquitto::start().await;
    let proxy = Proxy::start(&format!("127.0.0.1:{}", broker.port())).await;
    proxy.stall();
    // More than the queue holds, so that `publish` itself waits.
    let mut sink = through(&proxy, "max_in_flight = 5");
    let begin = Instant::now();
    let mut outcome = Ok(());
    for message in &messages("events", 10, 0) {
        outcome = sink.publish(message).await.map(drop);
    }
    assert_eq!(outcome.unwrap_err().reason, "connection");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_slow_link_delays_and_does_not_fail() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let proxy = Proxy::start(&format!("127.0.0.1:{}", broker.port())).await;
    let mut sink = through(&proxy, "keep_alive_secs = 5");
    let sent = messages("events", 300, 1000);
    proxy.slow(40_000);
    let report = deliver_all(&mut sink, &sent, 200).await;
    assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{report:?}");
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn the_brokers_receive_maximum_is_respected() {
    let broker = Mosquitto::start_with("allow_anonymous true\nmax_inflight_messages 3\n").await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("events", 2000, 0);
    let report = deliver_all(&mut sink, &sent, 500).await;
    assert!(report.retries.is_empty() && report.dead_letters.is_empty(), "{report:?}");
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn a_packet_over_the_brokers_maximum_is_set_aside_before_it_is_sent() {
    let broker = Mosquitto::start_with("allow_anonymous true\nmax_packet_size 2000\n").await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sent = messages("events", 100, 100);
    sent[50] = padded("events", "999", 0, 3000);
    let report = deliver_all(&mut sink(&broker.url(), ""), &sent, 20).await;
    assert_eq!(report.dead_letters, [("999-0".to_owned(), "too_large")]);
    assert!(report.retries.is_empty(), "{report:?}");
    sent.remove(50);
    assert_received(&subscriber, &sent).await;
}

#[tokio::test]
async fn a_payload_over_the_brokers_unannounced_limit_is_set_aside_alone() {
    let broker = Mosquitto::start_with("allow_anonymous true\nmessage_size_limit 2000\n").await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sent = messages("events", 100, 100);
    sent[50] = padded("events", "999", 0, 3000);
    let mut sink = sink(&broker.url(), "encoding = 'structured'");
    let report = tokio::time::timeout(DEADLINE, deliver_all(&mut sink, &sent, 20)).await.unwrap();
    assert_eq!(report.dead_letters, [("999-0".to_owned(), "too_large")], "{report:?}");
    subscriber.wait_for("the others", |received| received.len() >= 99).await;
}

#[tokio::test]
async fn a_topic_that_is_not_allowed_is_set_aside_and_a_refused_login_is_a_retry() {
    let lines = "allow_anonymous true\nacl_file {folder}/acl\n";
    let broker = {
        // The file must be there before the broker is.
        let mut broker = Mosquitto::start().await;
        broker.stop().await;
        broker.write_file("acl", "topic readwrite open/#\n");
        broker.configure(lines);
        broker.start_again().await;
        broker
    };
    let subscriber = Subscriber::start(broker.port(), "open/#").await;
    let mut sent = messages("open/events", 20, 0);
    sent[10] = message("closed/events", "999", 0);
    // Mosquitto 2.0.11 closes the connection behind such an answer when more messages follow: hence retries, but each
    // connection gets further than the last.
    let report = deliver_all(&mut sink(&broker.url(), ""), &sent, 20).await;
    assert_eq!(report.dead_letters, [("999-0".to_owned(), "not_authorised")], "{report:?}");
    assert!(report.retries.len() < 12, "{report:?}");
    sent.remove(10);
    assert_received(&subscriber, &sent).await;

    let closed = Mosquitto::start_with("allow_anonymous false\n").await;
    let mut refused = sink(&closed.url(), "");
    let ack = refused.publish(&message("events", "101", 0)).await.unwrap();
    assert_eq!(failure(ack).await, (Disposition::Retry, "not_authorised"));
}

#[tokio::test]
async fn tls_works_with_client_certificates_and_not_with_a_wrong_authority() {
    let broker = Mosquitto::start_with("allow_anonymous true\nrequire_certificate true\n").await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let files = broker.certificates();
    let lines = |ca: &Path| {
        format!(
            "ca_file = '{}'\nclient_cert_file = '{}'\nclient_key_file = '{}'",
            ca.display(),
            files.cert.display(),
            files.key.display()
        )
    };
    let sent = messages("events", 50, 0);
    let mut trusting = sink(&broker.tls_url(), &lines(&files.ca));
    assert!(deliver_all(&mut trusting, &sent, 20).await.retries.is_empty());
    assert_received(&subscriber, &sent).await;

    let mut distrustful = sink(&broker.tls_url(), &lines(&files.cert));
    let ack = distrustful.publish(&message("events", "101", 0)).await.unwrap();
    assert_eq!(failure(ack).await, (Disposition::Retry, "tls"));
}

#[tokio::test]
async fn closing_lets_what_was_sent_be_confirmed() {
    let broker = Mosquitto::start().await;
    let subscriber = Subscriber::start(broker.port(), "#").await;
    let mut sink = sink(&broker.url(), "");
    let sent = messages("events", 500, 0);
    let acks = publish(&mut sink, &sent).await;
    sink.close().await;
    for ack in acks {
        ack.await.unwrap();
    }
    assert_received(&subscriber, &sent).await;
}
