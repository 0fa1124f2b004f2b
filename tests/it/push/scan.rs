//! What a scanner of TLS finds, with openssl as the scanner: nothing that is old or weak.

use std::io::Write;
use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::in_process::{TestRelay, rest};

/// Everything that openssl has, however weak, where it would refuse to offer it itself.
const ANYTHING: &str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";

/// What `openssl s_client` says to this, with `input` typed into it.
fn s_client(relay: &TestRelay, arguments: &[&str], input: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &relay.callback.to_string(), "-CAfile"])
        .arg(relay.ca_file())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("openssl does not start ({error}): `make setup` installs it"));
    // One that was refused does not read any more.
    drop(client.stdin.take().expect("stdin is piped").write_all(input.as_bytes()));
    let output = client.wait_with_output().expect("openssl ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_before_1_2_are_refused_whatever_they_offer() {
    let relay = TestRelay::start().await;
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&relay, &[version, "-cipher", ANYTHING], "");
        assert!(said.contains("alert") && said.contains("Cipher is (NONE)"), "{version}: {said}");
    }
    // SSL 3.0, which openssl has forgotten, and its two successors.
    for minor in 0..3 {
        let mut hello = vec![0x16, 3, 0, 0, 47, 1, 0, 0, 43, 3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
        let mut stream = TcpStream::connect(relay.callback).await.expect("it accepts");
        stream.write_all(&hello).await.expect("it reads");
        let rest = rest(&mut stream).await;
        assert!(matches!(rest[..], [0x15, _, _, 0, 2, 2, 70 | 40]), "{minor}: {rest:?} is not a fatal alert");
    }
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suites_without_forward_secrecy_or_authenticated_encryption_are_refused() {
    let relay = TestRelay::start().await;
    let weak = [
        "AES128-SHA",
        "AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-ECDSA-NULL-SHA",
        "AECDH-AES128-SHA",
        "NULL-SHA256",
        "DHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CAMELLIA128-SHA256",
    ];
    for suite in weak {
        let said = s_client(&relay, &["-tls1_2", "-cipher", &format!("{suite}:@SECLEVEL=0")], "");
        assert!(said.contains("alert") && said.contains("Cipher is (NONE)"), "{suite}: {said}");
    }
    for (arguments, suite) in [
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], "TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let said = s_client(&relay, &arguments, "Q\n");
        assert!(said.contains(&format!("Cipher is {suite}")), "{said}");
        assert!(said.contains("Compression: NONE") && said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    relay.assert_connection_failure_is_counted("tls_cipher_suite").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_never_negotiated_anew() {
    let relay = TestRelay::start().await;
    // A line with an R alone makes openssl ask for it.
    let said = s_client(&relay, &["-tls1_2"], "R\n");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    relay.assert_takes_a_good_push().await;
    relay.stop().await;
}
