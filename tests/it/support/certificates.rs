//! An authority and a certificate for 127.0.0.1, as PEM files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Key and certificate in one file, as Kafka wants them.
    pub(crate) both: PathBuf,
}

impl Certificates {
    pub(crate) fn create(folder: &Path) -> Certificates {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "ccrelay test authority");
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = CertificateParams::new(names).expect("valid names");
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "127.0.0.1");
        let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("the folder can be written");
            path
        };
        let both = format!("{}{}", key.serialize_pem(), leaf.pem());
        Certificates {
            ca: write("ca.pem", &authority.pem()),
            cert: write("cert.pem", &leaf.pem()),
            key: write("key.pem", &key.serialize_pem()),
            both: write("both.pem", &both),
        }
    }
}
