//! The certificates that a configuration names, what they are for, and what is wrong with them.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use url::{Host, Url};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Config, SinkKind};
use crate::clock::Timestamp;
use crate::receive::tls::fitness::{self, Defect};
use crate::receive::tls::{self, CheckedTls};

/// A file of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// What it is for, as label of its metric. Those of authorities end in `_ca`.
    pub purpose: &'static str,
    /// The gateway that it is for; empty where it is for none.
    pub gateway: &'a str,
    /// The sink, likewise.
    pub sink: &'a str,
    /// The file.
    pub file: &'a Path,
}

/// What begins the end of an authority's purpose.
pub const OF_AUTHORITY: &str = "_ca";

impl Named<'_> {
    /// When the first of its certificates ends, in seconds since 1970. None where it cannot be read.
    #[must_use]
    pub fn first_end(&self) -> Option<i64> {
        let chain = tls::read_chain(self.file).ok()?;
        let end = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed.validity().not_after.timestamp())
        };
        chain.iter().map(end).collect::<Option<Vec<i64>>>()?.into_iter().min()
    }

    /// Purpose, and gateway or sink.
    #[must_use]
    pub fn subject(&self) -> String {
        subject(self.purpose, self.gateway, self.sink)
    }
}

/// A purpose, and whose it is.
#[must_use]
pub fn subject(purpose: &str, gateway: &str, sink: &str) -> String {
    match (gateway, sink) {
        ("", "") => purpose.to_owned(),
        (name, "") | (_, name) => format!("{purpose} of {name}"),
    }
}

/// Every file of certificates.
pub fn named(config: &Config) -> Vec<Named<'_>> {
    let plain = |purpose, file| Named { purpose, gateway: "", sink: "", file };
    let mut named = vec![plain("callback", config.callback.tls.from.certificate_file.as_path())];
    named.extend(config.callback.tls.from.clients.iter().map(|of| plain("callback_client_ca", &of.ca_file)));
    named.extend(config.operations.tls.iter().map(|tls| plain("operations", &tls.from.certificate_file)));
    let traces = config.traces.iter().filter_map(|traces| traces.ca_file.as_deref());
    named.extend(traces.map(|file| plain("traces_ca", file)));
    for gateway in &config.sessions.gateways {
        let of = |purpose, file| Named { gateway: gateway.name.as_str(), ..plain(purpose, file) };
        named.extend(gateway.client_certificate.iter().map(|(chain, _)| of("gateway_client", chain)));
        named.extend(gateway.ca_file.iter().map(|bundle| of("gateway_ca", bundle)));
    }
    for sink in &config.sinks {
        let (purposes, (ca, client)) = match &sink.kind {
            SinkKind::Kafka(kafka) => (["kafka_ca", "kafka_client"], kafka.certificate_files()),
            SinkKind::Mqtt(mqtt) => (["mqtt_ca", "mqtt_client"], mqtt.certificate_files()),
            SinkKind::Jsonl(_) => continue,
        };
        let files =
            purposes.into_iter().zip([ca, client]).filter_map(|(purpose, file)| Some((purpose, file?)));
        named.extend(files.map(|(purpose, file)| Named { sink: &sink.name, ..plain(purpose, file) }));
    }
    named
}

/// The hosts by which gateways reach the callback listener over TLS, each once.
#[must_use]
pub fn callback_hosts(config: &Config) -> Vec<String> {
    let mut hosts: Vec<String> =
        config.sessions.gateways.iter().filter_map(|gateway| tls_host(&gateway.callback_uri)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

fn tls_host(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok().filter(|url| url.scheme() == "https")?;
    url.host().map(|host| match host {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

/// What is wrong with a listener's certificate, under its key.
fn unfit(table: &str, tls: &CheckedTls, hosts: &[String], now: Timestamp) -> Vec<String> {
    let file = tls.from.certificate_file.display();
    let said = |defect: Defect| {
        let what = match defect {
            Defect::LacksHost(_) => " of a callback_uri: a gateway that compares names refuses it",
            _ => ": clients refuse it",
        };
        format!("{table}.certificate_file: the certificate in {file} {defect}{what}")
    };
    fitness::defects(&tls.shown, hosts, now).into_iter().map(said).collect()
}

/// What speaks against the certificates that are named.
pub(super) fn doubts(config: &Config, now: Timestamp) -> Vec<String> {
    let mut doubts = unfit("callback", &config.callback.tls, &callback_hosts(config), now);
    doubts.extend(config.operations.tls.iter().flat_map(|tls| unfit("operations", tls, &[], now)));
    let now = i64::try_from(now.millis() / 1000).unwrap_or(i64::MAX);
    for named in
        self::named(config).iter().filter(|named| !["callback", "operations"].contains(&named.purpose))
    {
        let Some(ended) = named.first_end().filter(|end| *end < now) else { continue };
        let (file, ago) = (named.file.display(), fitness::days(now.saturating_sub(ended)));
        doubts.push(format!("a certificate for {} in {file} has ended {ago} ago", named.subject()));
    }
    doubts
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
        let named = Named { purpose: "gateway_ca", gateway: "main", sink: "", file: &file };
        assert_eq!(named.first_end(), Some(1_930_089_600));
        std::fs::write(&file, "nothing").unwrap();
        assert_eq!(named.first_end(), None);
    }

    #[test]
    fn a_host_is_that_of_an_address_with_tls() {
        let hosts = ["https://relay:8443/push/main", "https://[2001:db8::1]/push/main", "http://relay/"];
        let hosts: Vec<_> = hosts.iter().filter_map(|uri| tls_host(uri)).collect();
        assert_eq!(hosts, ["relay", "2001:db8::1"]);
    }
}
