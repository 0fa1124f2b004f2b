//! Whether a listener's certificate can do what it is for: one that is over, is none for servers or has other names than its
//! clients connect to makes a listener that nobody talks to, though key and suites are in order.

use std::fmt;

use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Timestamp;

const DAY_SECS: i64 = 86_400;

/// Something for which clients may refuse a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// It has ended.
    Ended {
        /// Seconds ago.
        ago_secs: i64,
    },
    /// It is not valid yet.
    NotYet {
        /// Seconds from now.
        in_secs: i64,
    },
    /// Its purposes are listed, and to be a server is none of them.
    NotForServers,
    /// It has not the name or address that clients connect to.
    LacksHost(String),
}

impl Defect {
    /// Whether it is the same trouble, of whatever degree.
    #[must_use]
    pub fn is_like(&self, other: &Defect) -> bool {
        match (self, other) {
            (Defect::LacksHost(host), Defect::LacksHost(other)) => host == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Defect::Ended { ago_secs } => write!(f, "has ended {} ago", days(*ago_secs)),
            Defect::NotYet { in_secs } => write!(f, "is not valid yet, but in {}", days(*in_secs)),
            Defect::NotForServers => {
                f.write_str("is not for servers: its extended key usage lacks serverAuth")
            }
            Defect::LacksHost(host) => write!(f, "has no subject alternative name {host}"),
        }
    }
}

/// So long in days, hours or less.
#[must_use]
pub fn days(secs: i64) -> String {
    match secs {
        ..3600 => "less than an hour".to_owned(),
        3600..DAY_SECS => format!("{} h", secs / 3600),
        _ if secs / DAY_SECS == 1 => "1 day".to_owned(),
        _ => format!("{} days", secs / DAY_SECS),
    }
}

/// What is wrong with this certificate of a server to which clients connect by these hosts; nothing where it cannot be read.
#[must_use]
pub fn defects(certificate: &CertificateDer<'_>, hosts: &[String], now: Timestamp) -> Vec<Defect> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let now = i64::try_from(now.millis() / 1000).unwrap_or(i64::MAX);
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let mut found = Vec::new();
    if end < now {
        found.push(Defect::Ended { ago_secs: now.saturating_sub(end) });
    }
    if begin > now {
        found.push(Defect::NotYet { in_secs: begin.saturating_sub(now) });
    }
    if let Ok(Some(usage)) = parsed.extended_key_usage()
        && !usage.value.server_auth
        && !usage.value.any
    {
        found.push(Defect::NotForServers);
    }
    let lacks = hosts.iter().filter(|host| !has_name(certificate, host));
    found.extend(lacks.cloned().map(Defect::LacksHost));
    found
}

fn has_name(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(host))
    else {
        return true;
    };
    verify_server_name(&parsed, &name).is_ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let names = ["relay.test", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 12, 31));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// The first of July 2026.
    const NOW: Timestamp = Timestamp(1_782_864_000_000);

    fn said(certificate: &CertificateDer<'_>, hosts: &[&str]) -> Vec<String> {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        defects(certificate, &hosts, NOW).iter().map(Defect::to_string).collect()
    }

    #[test]
    fn a_good_certificate_has_no_defect() {
        let nothing = said(&certificate(|_| {}), &["relay.test", "192.0.2.1", "2001:db8::1"]);
        assert!(nothing.is_empty(), "{nothing:?}");
        for usages in [
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            vec![ExtendedKeyUsagePurpose::Any],
        ] {
            assert!(said(&certificate(|params| params.extended_key_usages = usages), &[]).is_empty());
        }
    }

    #[test]
    fn time_purpose_and_names_are_told() {
        let over = certificate(|params| params.not_after = date_time_ymd(2026, 6, 21));
        assert_eq!(said(&over, &[]), ["has ended 10 days ago"]);
        let early = certificate(|params| params.not_before = date_time_ymd(2026, 7, 2));
        assert_eq!(said(&early, &[]), ["is not valid yet, but in 1 day"]);
        let client = certificate(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert_eq!(said(&client, &[]), ["is not for servers: its extended key usage lacks serverAuth"]);
        let elsewhere = said(&certificate(|_| {}), &["relay.test", "other.test", "192.0.2.2"]);
        let lacks =
            ["has no subject alternative name other.test", "has no subject alternative name 192.0.2.2"];
        assert_eq!(elsewhere, lacks);
    }

    #[test]
    fn a_trouble_is_like_another_of_its_kind_and_names_are_kinds_of_their_own() {
        let lacks = |host: &str| Defect::LacksHost(host.to_owned());
        assert!(Defect::Ended { ago_secs: 1 }.is_like(&Defect::Ended { ago_secs: 9 }));
        assert!(!Defect::Ended { ago_secs: 1 }.is_like(&Defect::NotYet { in_secs: 1 }));
        assert!(lacks("a").is_like(&lacks("a")) && !lacks("a").is_like(&lacks("b")));
    }
}
