//! Certificates on both sides: the gateway's own, and how it checks the callback's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use thiserror::Error;

use super::settings::Settings;

/// Names a generated certificate always has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate that cannot be read, made or used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A PEM file that is missing or is none.
    #[error("cannot read the PEM file {path}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A trust store given as text that is not PEM.
    #[error("eventpush.ssl.cert.pem is not PEM")]
    PemText(#[source] rustls_pki_types::pem::Error),
    /// The generated CA cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be generated.
    #[error("cannot generate a certificate")]
    Generate(#[from] rcgen::Error),
    /// A certificate cannot be used.
    #[error("cannot use the certificate or its key")]
    Use(#[from] rustls::Error),
    /// The trust store cannot be used.
    #[error("cannot use the trust store")]
    Store(#[from] rustls::client::VerifierBuilderError),
}

/// The gateway's TLS, and the CA in PEM when it was generated.
pub(super) fn server_config(settings: &Settings) -> Result<(Arc<ServerConfig>, Option<String>), TrustError> {
    let (chain, key, ca) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => (read_certs(cert)?, read_key(key)?, None),
        _ => generate(&settings.tls_names)?,
    };
    if let (Some(path), Some(pem)) = (&settings.tls_ca_out, &ca) {
        std::fs::write(path, pem).map_err(|source| TrustError::Write { path: path.clone(), source })?;
    }
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok((Arc::new(config), ca))
}

/// How the callback's certificate is checked.
pub(super) fn client_config(settings: &Settings) -> Result<ClientConfig, TrustError> {
    let ssl = &settings.eventpush.ssl;
    let mut roots = RootCertStore::empty();
    if let Some(path) = &ssl.cert.file {
        roots.add_parsable_certificates(read_certs(path)?);
    }
    if let Some(pem) = &ssl.cert.pem {
        let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        roots.add_parsable_certificates(certs.map_err(TrustError::PemText)?);
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let lax = ssl.trust_all || (!settings.check_callback_host_names && !roots.is_empty());
    if !lax {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let chain = match ssl.trust_all {
        true => None,
        false => Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?),
    };
    let verifier = Arc::new(Lax { chain, provider: provider() });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Option<String>);

/// A CA and a certificate of it for the loopback and `names`.
pub(super) fn generate(names: &[String]) -> Result<Identity, TrustError> {
    let local = LOCAL_NAMES.iter().map(ToString::to_string);
    generate_for(&local.chain(names.iter().cloned()).collect::<Vec<_>>())
}

/// A CA and a certificate of it for `names` alone.
pub(super) fn generate_for(names: &[String]) -> Result<Identity, TrustError> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "simulated CC-Gateway CA");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let mut leaf = CertificateParams::new(names.to_vec())?;
    leaf.distinguished_name.push(DnType::CommonName, "simulated CC-Gateway");
    let key = KeyPair::generate()?;
    let cert = leaf.signed_by(&key, &ca)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((vec![cert.der().clone()], key, Some(ca.pem())))
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let failed = |source| TrustError::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TrustError::Pem { path: path.to_owned(), source })
}

/// Checks the chain but not the name, or nothing at all.
#[derive(Debug)]
struct Lax {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // The name is checked last, so when it alone is wrong the chain is right.
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
