//! When certificates end, for whoever has to renew them in time; and that a listener does not get a worse one unasked.

use rustls_pki_types::CertificateDer;

use crate::clock::{Clock, Timestamp};
use crate::config::certificates::{callback_hosts, named};
use crate::config::{Config, Problem};
use crate::metrics::Metrics;
use crate::receive::tls::CheckedTls;
use crate::receive::tls::fitness::{Defect, defects};

/// Shows the ends of all certificates that `config` names.
#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
pub fn show(config: &Config, metrics: &Metrics) {
    metrics.certificate_expiry.reset();
    for named in named(config) {
        let labels = [named.purpose, named.gateway, named.sink];
        match named.first_end() {
            Some(end) => metrics.certificate_expiry.with_label_values(&labels).set(end as f64),
            None => {
                tracing::warn!(file = %named.file.display(), "the end of a certificate cannot be read");
            }
        }
    }
}

/// The certificates that listeners show, and for whom.
#[derive(Debug)]
pub(super) struct Shown {
    callback: CertificateDer<'static>,
    operations: Option<CertificateDer<'static>>,
    /// By which gateways reach the callback listener until the next start.
    hosts: Vec<String>,
}

impl Shown {
    /// Those of a start.
    pub(super) fn of(config: &Config) -> Shown {
        let mut shown = Shown {
            callback: config.callback.tls.shown.clone(),
            operations: None,
            hosts: callback_hosts(config),
        };
        shown.take(config);
        shown
    }

    /// From now on they are these.
    pub(super) fn take(&mut self, config: &Config) {
        self.callback = config.callback.tls.shown.clone();
        self.operations = config.operations.tls.as_ref().map(|tls| tls.shown.clone());
    }

    /// What is wrong with those of `config` and right with these.
    pub(super) fn worse(&self, config: &Config) -> Vec<Problem> {
        let now = Clock::system().now();
        let mut worse = worse("callback", &self.callback, &config.callback.tls, &self.hosts, now);
        if let (Some(before), Some(after)) = (&self.operations, &config.operations.tls) {
            worse.extend(self::worse("operations", before, after, &[], now));
        }
        worse
    }
}

fn worse(
    table: &str,
    before: &CertificateDer<'_>,
    after: &CheckedTls,
    hosts: &[String],
    now: Timestamp,
) -> Vec<Problem> {
    let had = defects(before, hosts, now);
    // Of one that is over or not for servers nothing is worth keeping, and some gateways compare no names.
    let useless = had.iter().any(|defect| !matches!(defect, Defect::LacksHost(_)));
    let is_new = |defect: &Defect| {
        let nothing_lost = useless && matches!(defect, Defect::LacksHost(_));
        !nothing_lost && !had.iter().any(|other| defect.is_like(other))
    };
    let file = after.from.certificate_file.display();
    let said = |defect: Defect| Problem {
        key: format!("{table}.certificate_file"),
        message: format!(
            "the certificate in {file} {defect}, unlike the one in force, which stays until SIGHUP or `ccrelay reload` says \
             that this one is meant"
        ),
    };
    defects(&after.shown, hosts, now).into_iter().filter(is_new).map(said).collect()
}
