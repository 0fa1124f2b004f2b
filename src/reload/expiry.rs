//! When certificates end, for whoever has to renew them in time.

use std::path::Path;

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::receive::tls;

/// Shows the ends of all certificates that `config` names.
pub fn show(config: &Config, metrics: &Metrics) {
    metrics.certificate_expiry.reset();
    set(metrics, "callback", "", &config.callback.tls.from.certificate_file);
    if let Some(clients) = &config.callback.tls.from.clients {
        set(metrics, "callback_client_ca", "", &clients.ca_file);
    }
    if let Some(tls) = &config.operations.tls {
        set(metrics, "operations", "", &tls.from.certificate_file);
    }
    for gateway in &config.sessions.gateways {
        if let Some((chain, _)) = &gateway.client_certificate {
            set(metrics, "gateway_client", gateway.name.as_str(), chain);
        }
        if let Some(bundle) = &gateway.ca_file {
            set(metrics, "gateway_ca", gateway.name.as_str(), bundle);
        }
    }
}

fn set(metrics: &Metrics, purpose: &str, gateway: &str, file: &Path) {
    match first_end(file) {
        Some(end) => metrics.certificate_expiry.with_label_values(&[purpose, gateway]).set(end),
        None => tracing::warn!(file = %file.display(), "the end of a certificate cannot be read"),
    }
}

/// When the first of the certificates in `file` ends, in seconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
fn first_end(file: &Path) -> Option<f64> {
    let chain = tls::read_chain(file).ok()?;
    let end =
        |der: &[u8]| Some(X509Certificate::from_der(der).ok()?.1.validity().not_after.timestamp() as f64);
    chain
        .iter()
        .map(|certificate| end(certificate))
        .collect::<Option<Vec<f64>>>()?
        .into_iter()
        .reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_of_a_bundle_is_what_counts() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("bundle.pem");
        let pem = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["relay.test".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 3, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        std::fs::write(&file, pem(2041) + &pem(2031)).unwrap();
        assert_eq!(first_end(&file), Some(1_930_089_600.0));
        std::fs::write(&file, "nothing").unwrap();
        assert_eq!(first_end(&file), None);
    }
}
