//! What is to be done to get from one roster to another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::event::{AgentId, GatewayName};
use crate::session::config::AgentConfig;

/// How an agent is called across gateways.
pub type AgentKey = (GatewayName, AgentId);

/// The agents to put in (new ones and changed ones) and those to take out. All others are not touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or with another configuration than before.
    pub put: Vec<Arc<AgentConfig>>,
    /// No longer there.
    pub remove: Vec<AgentKey>,
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }

    /// Adds what is to be done elsewhere.
    pub fn extend(&mut self, other: Changes) {
        self.put.extend(other.put);
        self.remove.extend(other.remove);
    }
}

/// From `old` to `new`; each agent stands once in either.
pub fn diff<'a>(
    old: impl IntoIterator<Item = &'a Arc<AgentConfig>>,
    new: impl IntoIterator<Item = &'a Arc<AgentConfig>>,
) -> Changes {
    let old: HashMap<AgentKey, &Arc<AgentConfig>> =
        old.into_iter().map(|agent| (key(agent), agent)).collect();
    let mut kept = HashSet::new();
    let mut changes = Changes::default();
    for agent in new {
        let key = key(agent);
        if old.get(&key).is_none_or(|before| *before != agent) {
            changes.put.push(agent.clone());
        }
        kept.insert(key);
    }
    changes.remove = old.into_keys().filter(|key| !kept.contains(key)).collect();
    changes.remove.sort();
    changes
}

/// Gateway and id of an agent.
pub(super) fn key(agent: &AgentConfig) -> AgentKey {
    (agent.gateway.clone(), agent.id.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::session::config::{AfterSignIn, Mode, PasswordSource, SignInOptions, Skills};

    fn agent(gateway: u8, id: u8, phone: u8) -> Arc<AgentConfig> {
        Arc::new(AgentConfig {
            gateway: GatewayName::parse(&format!("gw-{gateway}")).unwrap(),
            id: AgentId::parse(&(1000 + u32::from(id)).to_string()).unwrap(),
            password: PasswordSource::File("password".into()),
            skills: Skills::All,
            after_sign_in: AfterSignIn::default(),
            takeover: false,
            mode: Mode::Push,
            options: SignInOptions { phone_number: phone.to_string(), ..SignInOptions::default() },
        })
    }

    fn roster() -> impl Strategy<Value = BTreeMap<AgentKey, Arc<AgentConfig>>> {
        let agents = prop::collection::vec((0..2u8, 0..12u8, 0..3u8), 0..20);
        agents.prop_map(|agents| {
            let agents = agents.into_iter().map(|(gateway, id, phone)| agent(gateway, id, phone));
            agents.map(|agent| (key(&agent), agent)).collect()
        })
    }

    proptest! {
        #[test]
        fn the_changes_lead_from_the_old_roster_to_the_new_and_touch_nobody_else(
            old in roster(), new in roster()
        ) {
            let changes = diff(old.values(), new.values());
            let mut result = old.clone();
            for key in &changes.remove {
                prop_assert!(result.remove(key).is_some(), "removed twice or never there");
            }
            for agent in &changes.put {
                let before = result.insert(key(agent), agent.clone());
                prop_assert_ne!(before.as_ref(), Some(agent), "it was to be left alone");
            }
            prop_assert_eq!(&result, &new);
            prop_assert!(diff(new.values(), new.values()).is_empty());
        }
    }
}
