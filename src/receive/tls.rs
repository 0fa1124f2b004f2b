//! Certificates of the listeners: read from PEM files, checked, made into rustls's settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Why certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that is not there or not PEM.
    #[error("cannot read {what} from {path}: {reason}")]
    Pem {
        /// Certificate chain or key.
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
    /// rustls refuses the protocol versions: cannot happen with the ones we name.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Settings for a listener: TLS 1.2 and 1.3 (the gateway's client is known to pin 1.2, guide §2.4), HTTP/1.1.
///
/// # Errors
/// When a file cannot be read or chain and key do not go together.
pub fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = read_chain(certificate)?;
    let private = read_key(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| TlsError::Unusable { certificate: certificate.into(), key: key.into(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Setup)?;
    Ok(config)
}

/// Reads a chain of certificates, the server's first.
///
/// # Errors
/// When the file cannot be read, is not PEM or has none.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |error| pem("a certificate", path, &error);
    let chain =
        CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    if chain.is_empty() {
        Err(pem("a certificate", path, &rustls_pki_types::pem::Error::NoItemsFound))
    } else {
        Ok(chain)
    }
}

/// Reads a private key.
///
/// # Errors
/// When the file cannot be read or has no key in PEM.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem("a private key", path, &error))
}

fn pem(what: &'static str, path: &Path, error: &rustls_pki_types::pem::Error) -> TlsError {
    use rustls_pki_types::pem::Error;
    let reason = match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "there is none in it".to_owned(),
        _ => "it is not valid PEM".to_owned(),
    };
    TlsError::Pem { what, path: path.into(), reason }
}
