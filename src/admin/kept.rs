//! Agents that callers put: written to a file in the spool's folder, readable by its owner only, so that they survive a
//! restart. The file is replaced as a whole and synced before the caller is answered.
//!
//! An agent whose password was given in the call itself is kept in memory only: after a restart it has to be put again.
//! Its session is resumed then when that is within the gateway's limit, since sessions are stored apart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::config::Problems;
use crate::event::{AgentId, GatewayName};
use crate::session::config::{AgentConfig, AgentDefaults, RawAgent};
use crate::spool::AgentKey;

/// The file in the spool's folder.
const FILE: &str = "agents.json";
/// The file is written as a whole for each change; a larger roster belongs into the configuration.
pub(super) const MOST_AGENTS: usize = 10_000;

/// The file cannot be used.
#[derive(Debug, Error)]
pub enum KeptError {
    /// Reading or writing failed.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{path} is not what ccrelay writes")]
    Content {
        /// Which file.
        path: PathBuf,
    },
}

/// The agents that callers put.
#[derive(Debug)]
pub struct KeptAgents {
    path: PathBuf,
    agents: Mutex<BTreeMap<AgentKey, Kept>>,
    /// Held over each change, which is of the file and of the sessions, so that both end alike.
    pub(super) changes: tokio::sync::Mutex<()>,
}

/// One agent as it was put.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kept {
    /// Without a password.
    pub(super) settings: Map<String, Value>,
    /// What was made of them and the password in the call, where there was one: it is not in the file then, and no password but that
    /// one is its own.
    pub(super) in_memory: Option<Arc<AgentConfig>>,
}

impl Kept {
    /// Whether it is in the file.
    pub(super) fn is_stored(&self) -> bool {
        self.in_memory.is_none()
    }
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    agents: Vec<Map<String, Value>>,
}

impl KeptAgents {
    /// Reads the file in this folder, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn load(directory: &Path) -> Result<KeptAgents, KeptError> {
        let path = directory.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|_| KeptError::Content { path: path.clone() })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(source) => return Err(KeptError::Io { path, source }),
        };
        let mut agents = BTreeMap::new();
        for settings in content.agents {
            let key = key(&settings).ok_or_else(|| KeptError::Content { path: path.clone() })?;
            agents.insert(key, Kept { settings, in_memory: None });
        }
        Ok(KeptAgents { path, agents: Mutex::new(agents), changes: tokio::sync::Mutex::default() })
    }

    /// Their configurations, completed by the defaults of their gateways, of which all are given. One that cannot be used any more, for want of its password or its gateway, is reported and
    /// left out; it stays in the file.
    #[must_use]
    pub fn configs(&self, gateways: &HashMap<GatewayName, AgentDefaults>) -> Vec<AgentConfig> {
        self.configs_of(|_all| true, gateways)
    }

    /// As [`KeptAgents::configs`], of some of them.
    #[must_use]
    pub fn configs_of(
        &self,
        wanted: impl Fn(&AgentKey) -> bool,
        gateways: &HashMap<GatewayName, AgentDefaults>,
    ) -> Vec<AgentConfig> {
        let mut configs = Vec::new();
        // Passwords are read, which may take long, and callers look at agents meanwhile.
        let found: Vec<_> = self
            .agents()
            .iter()
            .filter(|(agent, _)| wanted(agent))
            .map(|(agent, kept)| (agent.clone(), kept.clone()))
            .collect();
        for (agent, Kept { settings, in_memory }) in found {
            if let Some(config) = in_memory {
                configs.push(AgentConfig::clone(&config));
                continue;
            }
            let mut problems = Problems::default();
            let raw = serde_json::from_value::<RawAgent>(Value::Object(settings));
            let config = problems.check("agent", raw).and_then(|mut raw| {
                if let Some(defaults) = gateways.get(&agent.gateway) {
                    raw.complete(defaults);
                }
                raw.validate("agent", &mut problems)
            });
            if !gateways.contains_key(&agent.gateway) {
                problems.add("agent.gateway", "no gateway has this name");
            }
            match config.filter(|_| problems.found().is_empty()) {
                Some(config) => configs.push(config),
                None => {
                    let error = in_words(&problems);
                    tracing::error!(gateway = %agent.gateway, agent_id = %agent.agent_id, error,
                        "an agent that was put by the admin API cannot be used");
                }
            }
        }
        configs
    }

    /// The agent as it was put.
    pub(super) fn find(&self, agent: &AgentKey) -> Option<Kept> {
        self.agents().get(agent).cloned()
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.agents().len() < MOST_AGENTS
    }

    /// Puts or, with `None`, takes an agent, and gives what was there. Blocks for a write and its sync, and whoever looks
    /// meanwhile sees what was before. Callers hold `changes`.
    pub(super) fn set(&self, agent: &AgentKey, kept: Option<Kept>) -> Result<Option<Kept>, KeptError> {
        // A copy, so that nobody who looks waits for the disk.
        let mut agents = self.agents().clone();
        let before = match kept {
            Some(kept) => agents.insert(agent.clone(), kept),
            None => agents.remove(agent),
        };
        let stored = |kept: Option<&Kept>| kept.filter(|kept| kept.is_stored()).cloned();
        if stored(before.as_ref()) != stored(agents.get(agent)) {
            let content = agents.values().filter(|kept| kept.is_stored()).map(|kept| kept.settings.clone());
            write(&self.path, &Content { agents: content.collect() })
                .map_err(|source| KeptError::Io { path: self.path.clone(), source })?;
        }
        *self.agents() = agents;
        Ok(before)
    }

    /// Held over changes that are made outside of the runtime. Blocks until those of callers are done.
    pub fn begin_change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.blocking_lock()
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<AgentKey, Kept>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Agents of the configuration go before those of the same name that were put.
#[must_use]
pub fn without(configured: &[Arc<AgentConfig>], put: Vec<AgentConfig>) -> Vec<AgentConfig> {
    let known: HashSet<_> = configured.iter().map(|agent| (&agent.gateway, &agent.id)).collect();
    let (twice, rest): (Vec<_>, Vec<_>) =
        put.into_iter().partition(|agent| known.contains(&(&agent.gateway, &agent.id)));
    for agent in twice {
        tracing::warn!(gateway = %agent.gateway, agent_id = %agent.id,
            "an agent that was put by the admin API stands in the configuration too, which counts");
    }
    rest
}

/// All problems in one line.
pub(super) fn in_words(problems: &Problems) -> String {
    let lines: Vec<_> = problems.found().iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
    lines.join("; ")
}

fn key(settings: &Map<String, Value>) -> Option<AgentKey> {
    let text = |name: &str| settings.get(name).and_then(Value::as_str);
    Some(AgentKey {
        gateway: GatewayName::parse(text("gateway")?).ok()?,
        agent_id: AgentId::parse(text("id")?).ok()?,
    })
}

fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(content)?)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::session::config::PasswordSource;

    fn agent(id: &str) -> AgentKey {
        AgentKey { gateway: GatewayName::parse("main").unwrap(), agent_id: AgentId::parse(id).unwrap() }
    }

    /// In memory only with a password in the call.
    fn kept(id: &str, password: &Path, stored: bool) -> Kept {
        let settings = serde_json::json!({
            "gateway": "main", "id": id, "phone_number": "7", "password_file": password,
        });
        let given = AgentConfig {
            password: PasswordSource::Fixed("given".into()),
            ..AgentConfig::unlisted(GatewayName::parse("main").unwrap(), AgentId::parse(id).unwrap())
        };
        let in_memory = (!stored).then(|| Arc::new(given));
        Kept { settings: settings.as_object().unwrap().clone(), in_memory }
    }

    fn gateways() -> HashMap<GatewayName, AgentDefaults> {
        HashMap::from([(GatewayName::parse("main").unwrap(), AgentDefaults::default())])
    }

    #[test]
    fn the_defaults_of_the_gateway_are_taken_anew_at_each_start() {
        let folder = tempfile::TempDir::new().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "hush").unwrap();
        let agents = KeptAgents::load(folder.path()).unwrap();
        let settings = serde_json::json!({ "gateway": "main", "id": "1", "phone_number": "7" });
        let kept = Kept { settings: settings.as_object().unwrap().clone(), in_memory: None };
        agents.set(&agent("1"), Some(kept)).unwrap();
        let mut gateways = gateways();
        assert_eq!(agents.configs(&gateways).len(), 0, "there is no password");
        for defaults in gateways.values_mut() {
            (defaults.password_file, defaults.takeover) = (Some(password.clone()), Some(true));
        }
        let configs = agents.configs(&gateways);
        assert!(configs.len() == 1 && configs[0].takeover, "{configs:?}");
    }

    #[test]
    fn what_is_put_survives_and_what_is_only_in_memory_does_not() {
        let folder = tempfile::TempDir::new().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "hush").unwrap();
        let agents = KeptAgents::load(folder.path()).unwrap();
        for (id, stored) in [("1", true), ("2", false), ("3", true)] {
            assert_eq!(agents.set(&agent(id), Some(kept(id, &password, stored))).unwrap(), None);
        }
        assert!(agents.set(&agent("3"), None).unwrap().is_some());
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = KeptAgents::load(folder.path()).unwrap();
        assert!(again.find(&agent("1")).is_some());
        assert!(again.find(&agent("2")).is_none() && again.find(&agent("3")).is_none());
        let gateways = gateways();
        assert_eq!(again.configs(&gateways).len(), 1);
        assert_eq!(again.configs(&HashMap::new()).len(), 0, "its gateway is gone");
        std::fs::remove_file(&password).unwrap();
        assert_eq!(again.configs(&gateways).len(), 0, "its password is gone");
    }

    #[test]
    fn a_file_that_cannot_be_written_changes_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let agents = KeptAgents::load(&folder.path().join("gone")).unwrap();
        let one = kept("1", Path::new("/x"), true);
        assert!(agents.set(&agent("1"), Some(one.clone())).is_err());
        assert_eq!(agents.find(&agent("1")), None);
        // What is not to be stored needs no file.
        assert!(agents.set(&agent("1"), Some(kept("1", Path::new("/x"), false))).is_ok());
    }

    #[test]
    fn one_that_was_put_with_its_password_has_that_and_not_the_gateways() {
        let folder = tempfile::TempDir::new().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "of the gateway").unwrap();
        let agents = KeptAgents::load(folder.path()).unwrap();
        agents.set(&agent("1"), Some(kept("1", &password, false))).unwrap();
        let mut gateways = gateways();
        for defaults in gateways.values_mut() {
            defaults.password_file = Some(password.clone());
        }
        let configs = agents.configs_of(|_all| true, &gateways);
        assert_eq!(configs.len(), 1);
        assert_eq!(configs[0].password, PasswordSource::Fixed("given".into()));
    }

    #[test]
    fn while_the_disk_is_slow_whoever_looks_sees_what_was_before() {
        let folder = tempfile::TempDir::new().unwrap();
        let agents = Arc::new(KeptAgents::load(folder.path()).unwrap());
        let one = kept("1", Path::new("/x"), true);
        agents.set(&agent("1"), Some(one.clone())).unwrap();
        // A pipe takes 64 KiB and no more, until somebody reads.
        let draft = folder.path().join(FILE).with_extension("draft");
        mknodat(CWD, &draft, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let mut large = kept("2", Path::new("/x"), true);
        large.settings.insert("skills".to_owned(), "x".repeat(1 << 20).into());
        let writer = agents.clone();
        let writing = std::thread::spawn(move || writer.set(&agent("2"), Some(large)));
        // Somebody writes, and cannot have come to the end.
        let mut slow = std::fs::File::open(&draft).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let looker = agents.clone();
        std::thread::spawn(move || {
            let seen = (looker.find(&agent("1")), looker.find(&agent("2")), looker.has_room());
            tell.send(seen)
        });
        let seen = told.recv_timeout(std::time::Duration::from_secs(10));
        std::io::copy(&mut slow, &mut std::io::sink()).unwrap();
        assert_eq!(seen.unwrap(), (Some(one), None, true));
        // A pipe cannot be synced: it is as if nothing had been put.
        assert!(writing.join().unwrap().is_err());
        assert_eq!(agents.find(&agent("2")), None);
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_its_name() {
        let folder = tempfile::TempDir::new().unwrap();
        for text in ["{}", "not json", r#"{"agents":[{"gateway":"main"}]}"#] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let error = KeptAgents::load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE), "{error}");
        }
    }

    #[test]
    fn the_configuration_counts_where_an_agent_stands_in_both() {
        let folder = tempfile::TempDir::new().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "hush").unwrap();
        let agents = KeptAgents::load(folder.path()).unwrap();
        for id in ["1", "2"] {
            agents.set(&agent(id), Some(kept(id, &password, true))).unwrap();
        }
        let all = agents.configs(&gateways());
        let left = without(&[Arc::new(all[0].clone())], all.clone());
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].id.as_str(), "2");
    }
}
