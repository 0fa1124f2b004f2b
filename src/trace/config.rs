//! The section `[traces]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::collector::Collector;
use super::otlp;
use crate::config::Problems;
use crate::sink::is_here;

/// Traces of a few pushes and of all of them look the same at little load, and who has much says less.
const SAMPLE_RATIO: f64 = 1.0;
/// What OpenTelemetry's exporters have.
const TIMEOUT_SECS: u64 = 10;
/// What waits longer has held up all that came after it.
const LONGEST_TIMEOUT_SECS: u64 = 60;

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTraces {
    /// Address of the collector; traces are off without.
    pub endpoint: Option<String>,
    /// Part of the pushes that are sampled.
    pub sample_ratio: f64,
    /// The attribute `service.name`.
    pub service_name: String,
    /// Further attributes of the resource.
    pub resource_attributes: BTreeMap<String, String>,
    /// File with header lines for the collector.
    pub headers_file: Option<PathBuf>,
    /// Authorities that sign the collector's certificate.
    pub ca_file: Option<PathBuf>,
    /// Seconds for one request.
    pub timeout_secs: u64,
}

impl Default for RawTraces {
    fn default() -> RawTraces {
        RawTraces {
            endpoint: None,
            sample_ratio: SAMPLE_RATIO,
            service_name: env!("CARGO_PKG_NAME").to_owned(),
            resource_attributes: BTreeMap::new(),
            headers_file: None,
            ca_file: None,
            timeout_secs: TIMEOUT_SECS,
        }
    }
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    /// Where spans are sent to, `/v1/traces` included.
    pub url: Url,
    /// Part of the pushes that are sampled, from 0 to 1.
    pub sample_ratio: f64,
    /// Attributes of the resource, `service.name` included.
    pub resource: BTreeMap<String, String>,
    /// File with header lines for the collector.
    pub headers_file: Option<PathBuf>,
    /// Authorities that sign the collector's certificate; there with https.
    pub ca_file: Option<PathBuf>,
    /// For one request.
    pub timeout: Duration,
}

impl TracesConfig {
    /// What makes the connection to the collector unsafe where it leaves this machine.
    #[must_use]
    pub fn unsafe_choice(&self) -> Option<String> {
        let plain = self.url.scheme() == "http" && !self.url.host_str().is_some_and(is_here);
        (plain && self.headers_file.is_some()).then(|| {
            "traces.endpoint: the secrets of headers_file go to the collector in clear text (http://)"
                .to_owned()
        })
    }
}

const SERVICE_NAME: &str = "service.name";

impl RawTraces {
    /// Checks the section; every mistake goes to `problems`. None when traces are off.
    pub fn validate(self, problems: &mut Problems) -> Option<TracesConfig> {
        let url = self.endpoint.as_deref().and_then(|text| problems.check("traces.endpoint", endpoint(text)));
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            problems.add("traces.sample_ratio", "must be between 0 and 1");
        }
        if !(1..=LONGEST_TIMEOUT_SECS).contains(&self.timeout_secs) {
            problems.add("traces.timeout_secs", format!("must be between 1 and {LONGEST_TIMEOUT_SECS}"));
        }
        if self.service_name.is_empty() {
            problems.add("traces.service_name", "must not be empty");
        }
        if self.resource_attributes.contains_key(SERVICE_NAME) {
            problems.add("traces.resource_attributes.\"service.name\"", "is what service_name is for");
        }
        let url = url?;
        const CA: &str = "traces.ca_file";
        let tls = url.scheme() == "https";
        if tls && self.ca_file.is_none() && !problems.suspect(CA) {
            problems.add(CA, "is required with https://");
        } else if !tls && self.ca_file.is_some() {
            problems.add(CA, "has no meaning with http://");
        }
        let mut resource = self.resource_attributes;
        resource.insert(SERVICE_NAME.to_owned(), self.service_name);
        let config = TracesConfig {
            url,
            sample_ratio: self.sample_ratio,
            resource,
            headers_file: self.headers_file,
            ca_file: self.ca_file,
            timeout: Duration::from_secs(self.timeout_secs),
        };
        for fault in Collector::faults(&config) {
            problems.add(format!("traces.{}", fault.key()), fault);
        }
        Some(config)
    }
}

/// The address for traces below that of the collector.
fn endpoint(text: &str) -> Result<Url, &'static str> {
    const EXPECTED: &str = "expected http:// or https://, host, port and perhaps a path";
    let mut url = Url::parse(text).map_err(|_| EXPECTED)?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(EXPECTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a password: headers_file can");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(EXPECTED);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.ends_with(otlp::PATH) {
        return Err("/v1/traces is added to it by ccrelay");
    }
    url.set_path(&(path + otlp::PATH));
    Ok(url)
}
