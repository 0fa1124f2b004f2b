//! Every command of `docs/tls.md`, run as it stands there, with a store of Java's on the other side.

use std::path::Path;
use std::process::Command;

use ccrelay::receive::tls::{TlsConfig, read_chain, read_key};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::certificates::Certificates;

const PAGE: &str = include_str!("../../docs/tls.md");

/// Runs a shell script in the folder, where `ccrelay` is the program of this build, and gives what it says.
fn shell(folder: &Path, script: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_ccrelay")).parent().expect("a folder").display();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .env("PATH", format!("{program}:{path}"))
        .output()
        .expect("sh starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{said}\n`make setup` installs keytool and openssl");
    said
}

fn blocks() -> Vec<&'static str> {
    let after = PAGE.split("```sh\n").skip(1);
    after.map(|rest| rest.split_once("```").expect("the block ends").0).collect()
}

#[test]
fn every_command_of_the_page_on_certificates_works() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let at = folder.path();
    let certificates = Certificates::create(at);
    let write = |name: &str, bytes: &[u8]| std::fs::write(at.join(name), bytes).expect("it can be written");
    write("truststore.pass", b"a-password-of-ours\n");
    write("gateway.pass", b"a-password-of-theirs\n");
    let list =
        rustls_pki_types::CertificateRevocationListDer::from_pem_slice(certificates.revoked(&[1]).as_bytes());
    write("authority.crl", &list.expect("a list"));
    let authority = CertificateDer::from_pem_file(&certificates.ca).expect("a certificate");
    write("authority.der", &authority);
    shell(
        at,
        "keytool -genkeypair -alias gateway -keyalg RSA -dname CN=gateway -keystore gateway.jks -storetype JKS \
           -storepass:file gateway.pass -keypass:file gateway.pass
         openssl pkcs12 -export -in cert.pem -inkey key.pem -certfile ca.pem -out theirs.p12 -passout file:gateway.pass",
    );

    let blocks = blocks();
    assert_eq!(blocks.len(), 7, "blocks of commands");
    let said = shell(at, &blocks.join("\n"));
    assert!(said.contains("dev/certificate.pem: OK") && said.contains("dev/client.pem: OK"), "{said}");
    assert!(said.contains("trustedCertEntry"), "ours is in the store: {said}");
    assert!(said.contains("DNS:relay.example, IP Address:127.0.0.1"), "{said}");

    // What came out is what ccrelay can use.
    let chain = |name: &str| read_chain(&at.join(name)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(chain("gateway-ca.pem"), chain("gateway-all.pem"));
    assert_eq!(chain("theirs-ca.pem"), std::slice::from_ref(&authority));
    assert_eq!(chain("authority.pem"), [authority]);
    assert_eq!(chain("theirs.pem"), chain("cert.pem"));
    read_key(&at.join("theirs.key")).unwrap_or_else(|error| panic!("{error}"));
    TlsConfig {
        clients: Some(ccrelay::receive::tls::ClientCertificates {
            required: true,
            ca_file: at.join("authority.pem"),
            crl_file: Some(at.join("authority-crl.pem")),
        }),
        ..TlsConfig::new(at.join("dev/certificate.pem"), at.join("dev/key.pem"))
    }
    .checked()
    .unwrap_or_else(|faults| panic!("{faults:?}"));
}
