//! The body of the usual push: a call is answered.

#![allow(dead_code, reason = "shared by benches, none of which uses all of it")]

/// Of the size and shape of AgentEvent_Talking (CEC API Reference 1355), of `agent`, which has the one call; `millis` is its
/// eventGenTime. One event becomes of it, however many come one after another.
pub(crate) fn talking(agent: u64, millis: u64) -> String {
    format!(
        r#"{{"workNo":"{agent}","eventList":[{{"message":"","retcode":"0","eventType":"AgentEvent_Talking","workNo":"{agent}","content":{{"caller":"10086","callid":"1456401416-{agent}","called":"70092","feature":"7","type":"main","mediaAbility":"1"}},"eventGenTime":{millis:013}}}]}}"#
    )
}

/// Where the thirteen digits of eventGenTime begin.
pub(crate) fn millis_at(body: &str) -> usize {
    body.len() - "}]}".len() - 13
}
