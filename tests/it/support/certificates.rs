//! An authority and a certificate for 127.0.0.1, as PEM files; and certificates of clients.

#![allow(dead_code, reason = "a tool box: benches need only a part of it")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ccrelay::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What a client shows of itself.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Key and certificate in one file, as Kafka wants them.
    pub(crate) both: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    pub(crate) fn create(folder: &Path) -> Certificates {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "ccrelay test authority");
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let path = |name: &str| folder.join(name);
        let certificates = Certificates {
            ca: path("ca.pem"),
            cert: path("cert.pem"),
            key: path("key.pem"),
            both: path("both.pem"),
            authority,
        };
        write(&certificates.ca, &certificates.authority.pem());
        certificates.renew();
        certificates
    }

    /// Another key and certificate of the same authority, in the same files.
    pub(crate) fn renew(&self) {
        self.renew_for(None);
    }

    /// The same, with a certificate that ends so soon.
    pub(crate) fn renew_for(&self, lifetime: Option<Duration>) {
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut leaf = CertificateParams::new(names).expect("valid names");
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "127.0.0.1");
        if let Some(lifetime) = lifetime {
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(Clock::system().now().millis());
            leaf.not_after = (now + lifetime).into();
        }
        let leaf = leaf.signed_by(&key, &self.authority).expect("a certificate");
        write(&self.cert, &leaf.pem());
        write(&self.key, &key.serialize_pem());
        write(&self.both, &format!("{}{}", key.serialize_pem(), leaf.pem()));
    }

    /// A client's certificate with this serial number, good until the end of that year.
    pub(crate) fn client(&self, serial: u64, last_year: i32, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new([]).expect("no names");
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "the gateway");
        leaf.serial_number = Some(SerialNumber::from(serial));
        leaf.extended_key_usages = vec![usage];
        leaf.not_before = date_time_ymd(2020, 1, 1);
        leaf.not_after = date_time_ymd(last_year, 12, 31);
        let leaf = leaf.signed_by(&key, &self.authority).expect("a certificate");
        (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    /// A list, as PEM, that revokes certificates with these serial numbers.
    pub(crate) fn revoked(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            // Lists that are out of date count as well.
            next_update: date_time_ymd(2025, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.authority).expect("a list").pem().expect("PEM")
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the folder can be written");
}
