//! What a client's certificate says of the client, for the log. It has been checked before.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A line of the log has an end.
const LONGEST: usize = 200;

/// The certificate's subject and serial number; empty when it cannot be read.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return String::new() };
    let text = format!("{} (serial {})", parsed.subject(), parsed.raw_serial_as_string());
    text.chars().take(LONGEST).collect()
}
