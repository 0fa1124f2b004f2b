//! TLS towards a gateway: its authorities, revocations and our own certificate from files, TLS 1.2 and 1.3, ring.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::{VerifierBuilderError, WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};

use super::GatewayError;
use super::verify::{AnyName, TrustAll};
use crate::session::config::GatewayConfig;

pub(super) fn connector(config: &GatewayConfig) -> Result<HttpsConnector<HttpConnector>, GatewayError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(config.connect_deadline));
    let builder = HttpsConnectorBuilder::new().with_tls_config(client_config(config)?).https_or_http();
    let builder = match &config.tls_server_name {
        None => builder,
        Some(name) => {
            let name = ServerName::try_from(name.clone())
                .map_err(|_invalid| GatewayError::ServerName(name.clone()))?;
            builder.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
    };
    Ok(builder.enable_http1().wrap_connector(http))
}

fn client_config(config: &GatewayConfig) -> Result<ClientConfig, GatewayError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(GatewayError::Tls)?;
    let builder = if config.dangerously_trust_all {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
    } else {
        let verifier = verifier(config, provider)?;
        match config.verify_server_name {
            true => builder.with_webpki_verifier(verifier),
            false => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier))),
        }
    };
    with_client_certificate(builder, config)
}

fn verifier(
    config: &GatewayConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, GatewayError> {
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(config)?), provider);
    if let Some(path) = &config.crl_file {
        builder = builder.with_crls(revocations(path)?);
    }
    builder.build().map_err(|error| match (error, &config.crl_file) {
        (VerifierBuilderError::InvalidCrl(source), Some(path)) => {
            GatewayError::InvalidCrl { path: path.clone(), source: source.into() }
        }
        (error, _) => GatewayError::Tls(rustls::Error::General(error.to_string())),
    })
}

fn authorities(config: &GatewayConfig) -> Result<RootCertStore, GatewayError> {
    // The configuration has no gateway without one that does not trust all.
    let path = config.ca_file.as_deref().unwrap_or(Path::new(""));
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca_file", path)? {
        store.add(certificate).map_err(|source| GatewayError::CaCertificate { path: path.into(), source })?;
    }
    Ok(store)
}

/// All lists of a file: one for each authority whose certificates are to be checked.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, GatewayError> {
    let unreadable = |source| unreadable("crl_file", path, source);
    let lists = CertificateRevocationListDer::pem_file_iter(path).map_err(unreadable)?;
    let lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(unreadable)?;
    match lists.is_empty() {
        true => {
            Err(GatewayError::Nothing { key: "crl_file", what: "list of revocations", path: path.into() })
        }
        false => Ok(lists),
    }
}

fn with_client_certificate(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    config: &GatewayConfig,
) -> Result<ClientConfig, GatewayError> {
    let Some((cert_file, key_file)) = &config.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("client_cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|source| unreadable("client_key_file", key_file, source))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|source| GatewayError::ClientKey { path: key_file.clone(), source })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, GatewayError> {
    let unreadable = |source| unreadable(key, path, source);
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    match found.is_empty() {
        true => Err(GatewayError::Nothing { key, what: "certificate", path: path.into() }),
        false => Ok(found),
    }
}

fn unreadable(key: &'static str, path: &Path, source: rustls_pki_types::pem::Error) -> GatewayError {
    GatewayError::Unreadable { key, path: path.into(), source }
}
