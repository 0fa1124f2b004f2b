//! Cipher suites by their names: those of IANA, and those of rustls, which calls the ones of TLS 1.3 `TLS13_...`.

use rustls::SupportedCipherSuite;
use thiserror::Error;

/// A name that stands for nothing we know.
#[derive(Debug, Error)]
#[error("unknown cipher suite {name:?}; possible are {}", possible())]
pub struct UnknownSuite {
    name: String,
}

/// The suite with this name.
///
/// # Errors
/// When there is none.
pub fn parse(name: &str) -> Result<SupportedCipherSuite, UnknownSuite> {
    let wanted = name.trim().to_ascii_uppercase().replace("TLS13_", "TLS_");
    let known = all().iter().find(|suite| name_of(suite) == wanted);
    known.copied().ok_or_else(|| UnknownSuite { name: name.chars().take(64).collect() })
}

/// What IANA calls it.
#[must_use]
pub fn name_of(suite: &SupportedCipherSuite) -> String {
    suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_")
}

fn all() -> &'static [SupportedCipherSuite] {
    rustls::crypto::ring::ALL_CIPHER_SUITES
}

fn possible() -> String {
    all().iter().map(name_of).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_found_by_both_of_its_names() {
        for suite in all() {
            let name = name_of(suite);
            assert!(name.starts_with("TLS_"), "{name}");
            assert_eq!(parse(&name).unwrap(), *suite);
            assert_eq!(parse(suite.suite().as_str().unwrap()).unwrap(), *suite);
        }
    }

    #[test]
    fn an_unknown_name_is_told_what_is_possible() {
        for name in ["TLS_RSA_WITH_3DES_EDE_CBC_SHA", "AES128-SHA", ""] {
            let said = parse(name).unwrap_err().to_string();
            assert!(said.contains(&format!("{name:?}")), "{said}");
            assert!(said.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{said}");
            assert!(said.contains("TLS_AES_256_GCM_SHA384"), "{said}");
        }
    }
}
