//! Who gets as far as a request: certificates of clients, versions and suites as configured, and addresses.

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::certificates::{Certificates, Identity};
use crate::support::in_process::{TestRelay, answer, good, request, rest};
use crate::support::{DEADLINE, eventually};

const GOOD: u64 = 11;
const REVOKED: u64 = 12;

/// With further keys of `[callback]`, among them lists of revoked certificates, which are written first.
async fn relay(keys: &str) -> TestRelay {
    TestRelay::with_files(|folder, certificates| {
        std::fs::write(folder.join("crl.pem"), certificates.revoked(&[REVOKED])).expect("it can be written");
        let at = folder.display();
        keys.replace("CA", &format!("client_ca_file = '{at}/ca.pem'\nclient_crl_file = '{at}/crl.pem'"))
    })
    .await
}

/// The status of a push of somebody with this certificate; 0 when the connection came to nothing.
async fn push(relay: &TestRelay, identity: Option<Identity>) -> u16 {
    let connector = relay.connector_of(identity, &[&TLS13, &TLS12]);
    let stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    // With TLS 1.3 a client learns only afterwards that its certificate was refused.
    let Ok(mut stream) = connector.connect(name, stream).await else { return 0 };
    drop(stream.write_all(&request(&relay.token("1001"), good("1001"))).await);
    answer(&mut stream).await.map_or(0, |answer| answer.status)
}

fn failures(reason: &str) -> String {
    format!("ccrelay_connection_failures_total{{reason=\"tls_{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_certificate_nobody_gets_in_where_one_is_required() {
    let relay = relay("client_certificates = 'required'\nCA").await;
    let of = relay.certificates();
    let strangers = TempDir::new().expect("a folder");
    let strangers = Certificates::create(strangers.path());
    assert_eq!(push(&relay, Some(of.client(GOOD, 2090, ClientAuth))).await, 200);
    for (identity, reason) in [
        (None, "client_certificate_missing"),
        (Some(of.client(REVOKED, 2090, ClientAuth)), "client_certificate_revoked"),
        (Some(of.client(GOOD, 2021, ClientAuth)), "client_certificate_expired"),
        (Some(of.client(GOOD, 2090, ServerAuth)), "client_certificate_invalid"),
        (Some(strangers.client(GOOD, 2090, ClientAuth)), "client_certificate_untrusted"),
    ] {
        let series = failures(reason);
        assert_eq!(relay.metric(&series).await, 0.0, "created at zero");
        assert_eq!(push(&relay, identity).await, 0, "{reason}");
        eventually(&series, DEADLINE, || async { (relay.metric(&series).await == 1.0).then_some(()) }).await;
        assert_eq!(push(&relay, Some(of.client(GOOD, 2090, ClientAuth))).await, 200, "{reason}");
    }
    assert_eq!(relay.metric("ccrelay_tls_handshakes_total{client_certificate=\"none\"}").await, 0.0);
    assert_eq!(relay.metric("ccrelay_tls_handshakes_total{client_certificate=\"verified\"}").await, 6.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_certificate_is_counted_and_a_wrong_one_refused() {
    let relay = relay("client_certificates = 'optional'\nCA").await;
    let of = relay.certificates();
    assert_eq!(push(&relay, None).await, 200);
    assert_eq!(push(&relay, Some(of.client(GOOD, 2090, ClientAuth))).await, 200);
    assert_eq!(push(&relay, Some(of.client(REVOKED, 2090, ClientAuth))).await, 0);
    for shown in ["none", "verified"] {
        let series = format!("ccrelay_tls_handshakes_total{{client_certificate=\"{shown}\"}}");
        assert_eq!(relay.metric(&series).await, 1.0, "{series}");
    }
    relay.stop().await;
}

/// Also a client that has been in before, and could go on where it was: what it showed then is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_meanwhile_is_refused_from_then_on_and_open_connections_go_on() {
    let relay = relay("client_certificates = 'required'\nCA").await;
    let identity = relay.certificates().client(GOOD, 2090, ClientAuth);
    let connector = relay.connector_of(Some((identity.0.clone(), identity.1.clone_key())), &[&TLS13, &TLS12]);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    let mut open = connector.connect(name.clone(), stream).await.expect("a handshake");
    let bytes = request(&relay.token("1001"), good("1001"));
    open.write_all(&bytes).await.expect("it reads");
    assert_eq!(answer(&mut open).await.expect("an answer").status, 200);

    let lists = relay.folder().join("crl.pem");
    std::fs::write(&lists, "no list").expect("it can be written");
    assert!(!relay.reload("[token]", "[token]").await, "a list that is none changes nothing");
    assert_eq!(push(&relay, Some((identity.0.clone(), identity.1.clone_key()))).await, 200);
    std::fs::write(&lists, relay.certificates().revoked(&[GOOD])).expect("it can be written");
    assert!(relay.reload("[token]", "[token]").await);
    let stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    if let Ok(mut again) = connector.connect(name, stream).await {
        drop(again.write_all(&bytes).await);
        assert_eq!(answer(&mut again).await, None);
    }
    assert_eq!(push(&relay, Some(identity)).await, 0);
    open.write_all(&bytes).await.expect("it reads");
    assert_eq!(answer(&mut open).await.expect("an answer").status, 200, "who is in is not disturbed");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_versions_and_suites_of_the_configuration_are_spoken_and_a_reload_changes_them() {
    let relay = relay("tls_min_version = '1.3'\ntls_cipher_suites = ['TLS_AES_256_GCM_SHA384']").await;
    let stream = relay.connect_with(&[&TLS13]).await;
    let suite = stream.get_ref().1.negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let old = relay.connector_of(None, &[&TLS12]);
    let stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    assert!(old.connect(name.clone(), stream).await.is_err(), "TLS 1.2 is not spoken");
    relay.assert_connection_failure_is_counted("tls_version").await;

    assert!(!relay.reload("'1.3'", "'1.4'").await);
    assert!(relay.reload("'1.4'", "'1.2'").await);
    // TLS 1.2 now, but none of its suites.
    let stream = TcpStream::connect(relay.callback).await.expect("it accepts");
    assert!(old.connect(name, stream).await.is_err());
    let both = "'TLS_AES_256_GCM_SHA384', 'TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256'";
    assert!(relay.reload("'TLS_AES_256_GCM_SHA384'", both).await);
    let stream = relay.connect_with(&[&TLS12]).await;
    let suite = stream.get_ref().1.negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_on_the_list_are_turned_away_and_counted_on_both_listeners() {
    let relay = relay("allow_from = ['192.0.2.0/24', '127.0.0.1']").await;
    relay.assert_takes_a_good_push().await;
    let series = |listener: &str| format!("ccrelay_addresses_refused_total{{listener=\"{listener}\"}}");
    assert_eq!(relay.metric(&series("callback")).await, 0.0);
    assert!(relay.reload("'127.0.0.1']", "'198.51.100.7/32']").await);
    let mut stream = TcpStream::connect(relay.callback).await.expect("the kernel accepts");
    drop(stream.write_all(&[0x16, 3, 1]).await);
    assert!(rest(&mut stream).await.is_empty());
    eventually("a refusal", DEADLINE, || async {
        (relay.metric(&series("callback")).await == 1.0).then_some(())
    })
    .await;
    assert!(relay.reload("'198.51.100.7/32']", "'127.0.0.0/8']").await);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;

    let relay = TestRelay::with_operations(|_| "allow_from = ['192.0.2.0/24']\n".to_owned()).await;
    let mut stream = TcpStream::connect(relay.operations).await.expect("the kernel accepts");
    drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await);
    assert!(rest(&mut stream).await.is_empty());
    assert_eq!(relay.counters().addresses_refused.with_label_values(&["operations"]).get(), 1);
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}
