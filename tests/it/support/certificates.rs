//! An authority and a certificate for 127.0.0.1, as PEM files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair};

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
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = CertificateParams::new(names).expect("valid names");
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "127.0.0.1");
        let leaf = leaf.signed_by(&key, &self.authority).expect("a certificate");
        write(&self.cert, &leaf.pem());
        write(&self.key, &key.serialize_pem());
        write(&self.both, &format!("{}{}", key.serialize_pem(), leaf.pem()));
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the folder can be written");
}
