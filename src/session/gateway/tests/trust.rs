//! What of a gateway's certificate is checked, key by key, and our own certificate.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"retcode\":\"0\"}";
const SERVER_SERIAL: u64 = 7;

type Change<'a> = &'a dyn Fn(&mut RawGateway);

/// An authority, and files that it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, folder: tempfile::TempDir::new().unwrap() }
    }

    fn issue(&self, name: &str, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A list that revokes this serial number.
    fn crl(&self, serial: u64) -> PathBuf {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2034, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.file(&format!("crl-{serial}.pem"), &params.signed_by(&self.issuer).unwrap().pem().unwrap())
    }

    /// A server with a certificate for this name; with `client_auth` it wants one of this authority from us.
    async fn server(&self, name: &str, client_auth: bool) -> Server {
        let (certificate, key) = self.issue(name, SERVER_SERIAL);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if client_auth {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Server::with(builder.with_single_cert(chain, key).unwrap(), &self.issuer.pem(), OK).await
    }
}

/// Whether a handshake with this server succeeds; a refusal must be one of its certificate.
async fn trusts(server: &Server, change: impl Fn(&mut RawGateway)) -> bool {
    let answer = server.ask(Operation::Login, change).await;
    if let Err(error) = &answer.verdict {
        assert!(matches!(error, CallError::Unreachable(text) if text.contains("certificate")), "{error:?}");
    }
    answer.verdict.is_ok()
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_others_of_the_authority_are_not() {
    let authority = Authority::new("ours");
    let server = authority.server("localhost", false).await;
    let (ours, another) = (authority.crl(SERVER_SERIAL), authority.crl(SERVER_SERIAL + 1));
    assert!(trusts(&server, same).await);
    assert!(!trusts(&server, |gateway| gateway.crl_file = Some(ours.clone())).await);
    assert!(trusts(&server, |gateway| gateway.crl_file = Some(another.clone())).await);
    // A list of somebody else says nothing about this certificate, which is not the same as "not revoked".
    let other = Authority::new("another");
    let foreign = other.crl(1);
    assert!(!trusts(&server, |gateway| gateway.crl_file = Some(foreign.clone())).await);
}

#[tokio::test]
async fn without_the_check_of_the_name_all_else_is_still_checked() {
    let authority = Authority::new("ours");
    let server = authority.server("cc-gateway", false).await;
    assert!(!trusts(&server, same).await);
    assert!(trusts(&server, |gateway| gateway.verify_server_name = false).await);
    let other = Authority::new("another");
    let ca = other.file("ca.pem", &other.issuer.pem());
    let foreign = |gateway: &mut RawGateway| {
        gateway.verify_server_name = false;
        gateway.ca_file = Some(ca.clone());
    };
    assert!(!trusts(&server, foreign).await);
    let crl = authority.crl(SERVER_SERIAL);
    let revoked = |gateway: &mut RawGateway| {
        gateway.verify_server_name = false;
        gateway.crl_file = Some(crl.clone());
    };
    assert!(!trusts(&server, revoked).await);
}

/// A gateway's configuration with this change, and what is wrong with it.
fn checked(change: Change<'_>) -> (crate::session::config::SessionsConfig, crate::config::Problems) {
    let mut raw: RawGateway = serde_json::from_value(serde_json::json!({
        "name": "main", "base_url": "https://gw.example/", "ca_file": crate::session::TEST_CA,
        "callback_uri": "https://relay.example/push/main",
    }))
    .unwrap();
    change(&mut raw);
    let mut problems = crate::config::Problems::default();
    let config = validate(vec![raw], Vec::new(), &mut problems);
    (config, problems)
}

#[tokio::test]
async fn what_is_not_checked_any_more_after_a_reload_is_said_when_it_comes_into_force() {
    use tracing_subscriber::layer::SubscriberExt;

    let config = |change: Change<'_>| {
        let (config, problems) = checked(change);
        assert!(problems.found().is_empty(), "{:?}", problems.found());
        config.gateways.into_iter().next().unwrap()
    };
    let client = GatewayClient::new(&config(&|_| {}), None).unwrap();
    let said = |change: Change<'_>| {
        let problems = crate::problems::Problems::default();
        let subscriber = tracing_subscriber::registry().with(problems.clone());
        tracing::subscriber::with_default(subscriber, || {
            let put_in_force = client.renew(&config(change)).ok().unwrap();
            assert!(problems.list().is_empty(), "it is not in force yet");
            put_in_force();
        });
        problems.list().into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    assert!(said(&|_| {}).is_empty());
    let name = said(&|gateway| gateway.verify_server_name = false);
    assert!(name.len() == 1 && name[0].starts_with("verify_server_name = false"), "{name:?}");
    let all = said(&|gateway| {
        (gateway.dangerously_trust_all, gateway.ca_file) = (true, None);
    });
    assert!(all.len() == 1 && all[0].starts_with("dangerously_trust_all"), "{all:?}");
}

#[tokio::test]
async fn our_own_certificate_is_shown_where_the_gateway_asks_for_one() {
    let authority = Authority::new("ours");
    let server = authority.server("localhost", true).await;
    let without = server.ask(Operation::Login, same).await;
    assert!(without.verdict.is_err());
    let (certificate, key) = authority.issue("ccrelay", 8);
    let cert_file = authority.file("client.pem", &certificate.pem());
    let key_file = authority.file("client.key", &key.serialize_pem());
    let with = server
        .ask(Operation::Login, |gateway| {
            gateway.client_cert_file = Some(cert_file.clone());
            gateway.client_key_file = Some(key_file.clone());
        })
        .await;
    assert!(with.verdict.is_ok(), "{:?}", with.verdict);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_a_mistake_of_the_configuration_with_key_and_file() {
    let authority = Authority::new("ours");
    let (certificate, key) = authority.issue("ccrelay", 8);
    let cert_file = authority.file("client.pem", &certificate.pem());
    let key_file = authority.file("client.key", &key.serialize_pem());
    let other_key = authority.file("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let empty = authority.file("empty.pem", "");
    let broken = authority.file("broken.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let missing = authority.folder.path().join("missing.pem");
    let cases: [(&str, &PathBuf, Change<'_>); 6] = [
        ("crl_file", &empty, &|gateway| gateway.crl_file = Some(empty.clone())),
        ("crl_file", &missing, &|gateway| gateway.crl_file = Some(missing.clone())),
        ("crl_file", &broken, &|gateway| gateway.crl_file = Some(broken.clone())),
        ("client_cert_file", &empty, &|gateway| {
            (gateway.client_cert_file, gateway.client_key_file) =
                (Some(empty.clone()), Some(key_file.clone()));
        }),
        ("client_key_file", &missing, &|gateway| {
            (gateway.client_cert_file, gateway.client_key_file) =
                (Some(cert_file.clone()), Some(missing.clone()));
        }),
        ("client_key_file", &other_key, &|gateway| {
            (gateway.client_cert_file, gateway.client_key_file) =
                (Some(cert_file.clone()), Some(other_key.clone()));
        }),
    ];
    for (key, path, change) in cases {
        let (_config, problems) = checked(change);
        let [problem] = problems.found() else { panic!("{key}: {:?}", problems.found()) };
        assert_eq!(problem.key, format!("gateways[0].{key}"));
        assert!(problem.message.contains(&path.display().to_string()), "{}", problem.message);
    }
}

/// What is said of a handshake that fails.
async fn refusal(server: &Server, change: impl Fn(&mut RawGateway)) -> String {
    server.ask(Operation::Login, change).await.verdict.unwrap_err().to_string()
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_told_with_the_key_to_look_at() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let server = ours.server("localhost", false).await;
    let (others, crl) = (other.file("ca.pem", &other.issuer.pem()), ours.crl(SERVER_SERIAL));
    let said = refusal(&server, |gateway| gateway.ca_file = Some(others.clone())).await;
    assert!(said.contains("ca_file: "), "{said}");
    let said = refusal(&server, |gateway| gateway.tls_server_name = Some("gw.example".into())).await;
    assert!(said.contains("tls_server_name, "), "{said}");
    let said = refusal(&server, |gateway| gateway.crl_file = Some(crl.clone())).await;
    assert!(said.contains("crl_file: "), "{said}");
}
