//! Why a TLS handshake came to nothing, in one word for the metric: what an operator does about it differs.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The label `reason` of `ccrelay_connection_failures_total` for a handshake that failed with this error.
#[must_use]
pub fn reason(error: &std::io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or("tls_handshake", of_rustls)
}

fn of_rustls(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "tls_client_certificate_missing",
        Error::InvalidCertificate(fault) => of_certificate(fault),
        Error::PeerIncompatible(fault) => of_peer(fault),
        Error::AlertReceived(alert) if is_about_certificates(*alert) => "tls_own_certificate_refused",
        _ => "tls_handshake",
    }
}

fn of_certificate(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "tls_client_certificate_expired",
        CertificateError::Revoked => "tls_client_certificate_revoked",
        CertificateError::UnknownRevocationStatus => "tls_client_certificate_unlisted",
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "tls_client_certificate_untrusted"
        }
        _ => "tls_client_certificate_invalid",
    }
}

fn of_peer(fault: &PeerIncompatible) -> &'static str {
    match fault {
        PeerIncompatible::NoCipherSuitesInCommon => "tls_cipher_suite",
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "tls_version",
        _ => "tls_handshake",
    }
}

/// What a client says that does not like our certificate: most often its trust store lacks the authority.
fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // Its signature does not fit the key of an authority that has the same name (RFC 8446, 6.2).
            | AlertDescription::DecryptError
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CONNECTION_FAILURE_REASONS;

    #[test]
    fn every_reason_has_a_series_from_the_start() {
        let errors = [
            Error::NoCertificatesPresented,
            Error::InvalidCertificate(CertificateError::Expired),
            Error::InvalidCertificate(CertificateError::Revoked),
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::UnknownRevocationStatus),
            Error::InvalidCertificate(CertificateError::InvalidPurpose),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
            Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
            Error::AlertReceived(AlertDescription::UnknownCA),
            Error::AlertReceived(AlertDescription::CloseNotify),
        ];
        for error in errors {
            let reason = reason(&std::io::Error::new(std::io::ErrorKind::InvalidData, error.clone()));
            assert!(CONNECTION_FAILURE_REASONS.contains(&reason), "{error:?}: {reason}");
        }
        assert_eq!(reason(&std::io::ErrorKind::UnexpectedEof.into()), "tls_handshake");
    }
}
