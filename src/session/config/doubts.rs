//! What may be meant as it is written, and seldom is.

use std::collections::BTreeMap;

use crate::event::AgentId;
use crate::session::config::SessionsConfig;

/// Ids that gateways give: 101 to 59999 by older manuals, to 999999 by newer ones (API 1202).
const IDS: std::ops::RangeInclusive<u64> = 101..=999_999;

/// Agents whose ids no gateway has by its manual: some answer a call with such an id by 404 and no retcode. One line for each
/// gateway.
pub fn id_doubts(config: &SessionsConfig) -> Vec<String> {
    let mut odd: BTreeMap<&str, Vec<&AgentId>> = BTreeMap::new();
    for agent in &config.agents {
        if !agent.id.as_str().parse().is_ok_and(|id| IDS.contains(&id)) {
            odd.entry(agent.gateway.as_str()).or_default().push(&agent.id);
        }
    }
    let lines = odd.into_iter().filter_map(|(gateway, ids)| {
        let first = ids.first()?.as_str();
        let others = if ids.len() > 1 { format!(" and {} more", ids.len() - 1) } else { String::new() };
        Some(format!(
            "agent {first}{others} of the gateway {gateway}: gateways have agents of the ids 101 to 999999, and may answer \
             404 to every call of others"
        ))
    });
    lines.collect()
}
