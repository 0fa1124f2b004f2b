//! The files with secrets that a configuration names: whoever may write one decides what the secret is, and whoever may read it
//! has it. Groups are nobody's business but the operator's, and links are followed: Kubernetes mounts secrets so.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Config, Problems, SinkKind};
use crate::session::config::PasswordSource;

/// Bits of the mode that let others than owner and group read or write.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
/// As many are named; a roster can have a file for each agent.
const NAMED: usize = 5;

/// Every file with a secret, under its key. Tokens of the admin API look after themselves.
fn files(config: &Config) -> Vec<(String, &Path)> {
    let plain = [
        ("callback.key_file", Some(config.callback.tls.from.key_file.as_path())),
        ("operations.key_file", config.operations.tls.as_ref().map(|tls| tls.from.key_file.as_path())),
        ("token.secret_file", config.token.secret_file.as_deref()),
        ("token.previous_secret_file", config.token.previous_secret_file.as_deref()),
        ("masking.secret_file", config.mask_secret_file.as_deref()),
        ("traces.headers_file", config.traces.as_ref().and_then(|traces| traces.headers_file.as_deref())),
    ];
    let plain = plain.into_iter().filter_map(|(key, file)| Some((key.to_owned(), file?)));
    let mut files: Vec<(String, &Path)> = plain.collect();
    for (at, gateway) in config.sessions.gateways.iter().enumerate() {
        let ours = gateway.client_certificate.iter().map(|(_, key)| key.as_path());
        files.extend(ours.map(|file| (format!("gateways[{at}].client_key_file"), file)));
    }
    for sink in &config.sinks {
        let (table, of_kind) = match &sink.kind {
            SinkKind::Kafka(kafka) => ("kafka.security", kafka.secret_files()),
            SinkKind::Mqtt(mqtt) => ("mqtt", mqtt.secret_files()),
            SinkKind::Jsonl(_) => continue,
        };
        let keys = ["password_file", "client_key_file"].into_iter().zip(of_kind);
        files.extend(
            keys.filter_map(|(key, file)| Some((format!("sinks.{}.{table}.{key}", sink.name), file?))),
        );
    }
    for agent in &config.sessions.agents {
        if let PasswordSource::File(file) = &agent.password {
            files.push((format!("agents.{}/{}.password_file", agent.gateway, agent.id), file));
        }
    }
    let mut seen = HashSet::new();
    files.retain(|(_, file)| seen.insert(*file));
    files
}

/// What others than owner and group may do with a regular file; nothing where it is none, or not there.
fn others(file: &Path) -> u32 {
    let found = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file);
    found.map_or(0, |found| found.mode() & 0o007)
}

/// Files that everybody may write.
pub(super) fn check(config: &Config, problems: &mut Problems) {
    for (key, file) in files(config) {
        if others(file) & OTHERS_WRITE != 0 {
            let file = file.display();
            problems.add(key, format!("everybody may write {file}, which holds a secret: chmod o= {file}"));
        }
    }
}

/// That everybody may read some.
pub(super) fn doubts(config: &Config) -> Option<String> {
    let mut open = files(config);
    open.retain(|(_, file)| others(file) & OTHERS_READ != 0);
    let more = open.len().checked_sub(NAMED).filter(|more| *more > 0);
    let named = open.iter().take(NAMED).map(|(key, file)| format!("{} ({key})", file.display()));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    (!open.is_empty()).then(|| format!("everybody may read files with secrets: {named}{more}: chmod o= them"))
}
