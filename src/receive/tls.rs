//! TLS of the listeners: certificates, authorities and revocation lists from PEM files, versions and cipher suites as
//! configured, made into rustls's settings.
//!
//! - **No certificate is taken on trust twice.** Where clients show certificates, sessions are not resumed: a resumed one
//!   would be let in by what was checked hours ago. Elsewhere resuming saves the gateway a round trip.
//! - Settings are made whole or not at all, and a new one has keys of its own for tickets: what an earlier one gave out is
//!   not taken by a later one.
//! - rustls with ring knows TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only, no renegotiation and no
//!   compression: nothing weak can be configured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde::Deserialize;
use thiserror::Error;

pub mod fault;
pub mod fitness;
pub mod peer;
pub mod suites;

/// TLS of one listener.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM chain.
    pub certificate_file: PathBuf,
    /// PEM key.
    pub key_file: PathBuf,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Cipher suites; none stands for all that are known.
    pub cipher_suites: Vec<SupportedCipherSuite>,
    /// How clients show who they are; they do not when absent.
    pub clients: Option<ClientCertificates>,
}

/// TLS of one listener with what was made of its files when they were checked: what was found to be in order is what is put in
/// force, whatever becomes of the files meanwhile.
#[derive(Clone)]
pub struct CheckedTls {
    /// What was configured.
    pub from: TlsConfig,
    /// What it came to.
    pub made: Arc<ServerConfig>,
    /// The certificate that it shows.
    pub shown: CertificateDer<'static>,
}

impl fmt::Debug for CheckedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what was made, which holds keys.
        self.from.fmt(f)
    }
}

/// Certificates of clients.
#[derive(Debug, Clone)]
pub struct ClientCertificates {
    /// Whether a client without one is refused. One that shows a wrong one is refused at any rate.
    pub required: bool,
    /// PEM bundle of the authorities.
    pub ca_file: PathBuf,
    /// PEM file of revocation lists.
    pub crl_file: Option<PathBuf>,
}

/// A version of TLS. The gateway's client is known to pin 1.2 (guide §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

impl TlsVersion {
    /// This version and all newer ones.
    #[must_use]
    pub fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            TlsVersion::V1_2 => &NEWEST_FIRST,
            TlsVersion::V1_3 => &NEWEST_FIRST[..1],
        }
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that is not there or not PEM.
    #[error("cannot read {what} from {path}: {reason}")]
    Pem {
        /// The key of the configuration.
        key: &'static str,
        /// Certificate chain, key, authorities or lists.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why; never the content.
        reason: String,
    },
    /// A chain and a key that do not go together, or that rustls cannot use.
    #[error("{certificate} and {key} cannot be used together: {source}")]
    Unusable {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate that cannot be an authority.
    #[error("{path} has a certificate that cannot be used as an authority: {source}")]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A revocation list that cannot be used.
    #[error("{path} has a revocation list that cannot be used: {source}")]
    Revocations {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
    /// No handshake could ever succeed.
    #[error("none of these can be used with the key of {key} and the versions from tls_min_version on")]
    NoSuite {
        /// The key's file.
        key: PathBuf,
    },
    /// rustls refuses what cannot be refused.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl TlsError {
    /// The key, in the listener's table, that has to be mended.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            TlsError::Pem { key, .. } => key,
            TlsError::Unusable { .. } => KEY_FILE,
            TlsError::Authority { .. } => CA_FILE,
            TlsError::Revocations { .. } => CRL_FILE,
            TlsError::NoSuite { .. } => "tls_cipher_suites",
            TlsError::Setup(_) => CERTIFICATE_FILE,
        }
    }
}

const CERTIFICATE_FILE: &str = "certificate_file";
const KEY_FILE: &str = "key_file";
const CA_FILE: &str = "client_ca_file";
const CRL_FILE: &str = "client_crl_file";

impl TlsConfig {
    /// A listener with this certificate, and everything else as it is without being configured.
    #[must_use]
    pub fn new(certificate_file: PathBuf, key_file: PathBuf) -> TlsConfig {
        TlsConfig {
            certificate_file,
            key_file,
            min_version: TlsVersion::default(),
            cipher_suites: Vec::new(),
            clients: None,
        }
    }

    /// Every file it is read from.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let clients = self.clients.iter().flat_map(|c| std::iter::once(&c.ca_file).chain(&c.crl_file));
        [&self.certificate_file, &self.key_file].into_iter().chain(clients)
    }

    /// Settings for a listener of HTTP/1.1, of what stands in the files now.
    ///
    /// # Errors
    /// Everything that is wrong with the files or does not go together, as far as one mistake does not only follow from another.
    pub fn checked(self) -> Result<CheckedTls, Vec<TlsError>> {
        let mut faults = Vec::new();
        let chain = read_chain(&self.certificate_file).map_err(|error| faults.push(error));
        let key = read_key(&self.key_file).map_err(|error| faults.push(error));
        let provider = self.provider();
        let clients = self.clients.as_ref().map(|clients| clients.verifier(provider.clone(), &mut faults));
        let (Ok(chain), Ok(key)) = (chain, key) else { return Err(faults) };
        let shown = chain.first().cloned();
        match (self.make(chain, key, provider, clients.flatten()), shown) {
            (Ok(made), Some(shown)) if faults.is_empty() => {
                Ok(CheckedTls { from: self, made: Arc::new(made), shown })
            }
            (made, _) => {
                faults.extend(made.err());
                Err(faults)
            }
        }
    }

    fn make(
        &self,
        chain: Vec<CertificateDer<'static>>,
        private: PrivateKeyDer<'static>,
        provider: Arc<CryptoProvider>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<ServerConfig, TlsError> {
        let unusable = |source| TlsError::Unusable {
            certificate: self.certificate_file.clone(),
            key: self.key_file.clone(),
            source,
        };
        let signer = provider.key_provider.load_private_key(private.clone_key()).map_err(unusable)?;
        let versions = self.min_version.and_newer();
        let usable = |suite: &SupportedCipherSuite| {
            versions.contains(&suite.version()) && suite.usable_for_signature_algorithm(signer.algorithm())
        };
        if !provider.cipher_suites.iter().any(usable) {
            return Err(TlsError::NoSuite { key: self.key_file.clone() });
        }
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(setup)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if self.clients.is_some() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(setup)?;
        }
        Ok(config)
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::ring::default_provider();
        if !self.cipher_suites.is_empty() {
            provider.cipher_suites.clone_from(&self.cipher_suites);
        }
        Arc::new(provider)
    }
}

impl ClientCertificates {
    /// Checks chain, time, purpose, and revocation where there are lists: one of each authority in the chain, or its
    /// certificates are refused. That a list is out of date is not a reason to refuse, as towards gateways. `None` when something is
    /// wrong, which is noted.
    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
        faults: &mut Vec<TlsError>,
    ) -> Option<Arc<dyn ClientCertVerifier>> {
        let roots = self.authorities().map_err(|error| faults.push(error));
        let lists = self.revocations().map_err(|error| faults.push(error));
        let (Ok(roots), Ok(lists)) = (roots, lists) else { return None };
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
        let builder = if self.required { builder } else { builder.allow_unauthenticated() };
        let fault = |source| match (&self.crl_file, source) {
            (Some(path), source @ VerifierBuilderError::InvalidCrl(_)) => {
                TlsError::Revocations { path: path.clone(), source }
            }
            (_, source) => TlsError::Setup(source.to_string()),
        };
        builder.build().map_err(|source| faults.push(fault(source))).ok()
    }

    fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in read(CA_FILE, "an authority", &self.ca_file)? {
            let unusable = |source| TlsError::Authority { path: self.ca_file.clone(), source };
            store.add(certificate).map_err(unusable)?;
        }
        Ok(store)
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        self.crl_file.as_deref().map_or(Ok(Vec::new()), |path| read(CRL_FILE, "a revocation list", path))
    }
}

/// Reads a chain of certificates, the server's first.
///
/// # Errors
/// When the file cannot be read, is not PEM or has none.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    read(CERTIFICATE_FILE, "a certificate", path)
}

/// Reads a private key.
///
/// # Errors
/// When the file cannot be read or has no key in PEM.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem(KEY_FILE, "a private key", path, &error))
}

/// Everything of a kind that a file has, at least one.
fn read<T: PemObject>(key: &'static str, what: &'static str, path: &Path) -> Result<Vec<T>, TlsError> {
    let fault = |error| pem(key, what, path, &error);
    let found = T::pem_file_iter(path).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    if found.is_empty() { Err(fault(rustls_pki_types::pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn pem(key: &'static str, what: &'static str, path: &Path, error: &rustls_pki_types::pem::Error) -> TlsError {
    use rustls_pki_types::pem::Error;
    let reason = match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "there is none in it".to_owned(),
        _ => "it is not valid PEM".to_owned(),
    };
    TlsError::Pem { key, what, path: path.into(), reason }
}

fn setup(error: rustls::Error) -> TlsError {
    TlsError::Setup(error.to_string())
}
