//! Why no answer came, in words for whoever has to mend it: hyper's errors say little by themselves, and those of
//! certificates not which key of the configuration they are about.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::causes::with_causes;

/// An error with its causes in one line, and the key to look at where a certificate is to blame.
pub(super) fn explained(error: &(dyn Error + 'static)) -> String {
    let mut text = with_causes(error);
    if let Some(hint) = tls_error(error).and_then(hint) {
        text.push_str(&format!(" ({hint})"));
    }
    text
}

/// What TLS says, where it stands among the causes. An I/O error passes over the one that it was made of, which may be another I/O
/// error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = within.map(|within| within as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn hint(error: &rustls::Error) -> Option<&'static str> {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, UnknownCA, UnsupportedCertificate,
    };
    use CertificateError::{
        BadSignature, ExpiredRevocationList, ExpiredRevocationListContext, NotValidForName,
        NotValidForNameContext, Revoked, UnknownIssuer, UnknownRevocationStatus,
    };
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => {
            Some("ca_file: no authority in it has signed the gateway's certificate")
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => Some(
            "tls_server_name, or else the host of the address: the gateway's certificate is for another name",
        ),
        rustls::Error::InvalidCertificate(
            Revoked | UnknownRevocationStatus | ExpiredRevocationList | ExpiredRevocationListContext { .. },
        ) => Some("crl_file: by its lists the gateway's certificate is not good"),
        rustls::Error::AlertReceived(
            AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | UnsupportedCertificate,
        ) => Some(
            "client_cert_file: the gateway does not take the certificate that it was shown, or wants one",
        ),
        _ => None,
    }
}
