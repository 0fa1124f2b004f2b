//! Records of the size and shape of a usual push, and a spool that is full of them.

use bytes::Bytes;
use ccrelay::clock::Clock;
use ccrelay::event::normalise::RecordKind;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::spool::{AgentKey, NewRecord, Spool};

/// Appends that wait for one commit, so that filling does not take long.
const APPENDS: u64 = 1000;

/// Stores so many records of one event, of a hundred agents in turn.
pub(crate) async fn fill(spool: &Spool, records: u64) -> anyhow::Result<()> {
    let mut number = 0;
    while number < records {
        let next = records.min(number + APPENDS);
        let appends = (number..next).map(|number| spool.append(record(number)));
        for appended in futures_util::future::join_all(appends).await {
            appended?;
        }
        number = next;
    }
    Ok(())
}

/// A push of one event.
pub(crate) fn record(number: u64) -> NewRecord {
    let agent = 1001 + number % 100;
    NewRecord {
        kind: RecordKind::Push,
        received_at: Clock::system().now(),
        agent: AgentKey {
            gateway: GatewayName::parse("main").expect("a name"),
            agent_id: AgentId::parse(&agent.to_string()).expect("an id"),
        },
        body: body(agent, number),
        answer: None,
    }
}

/// Its bytes.
pub(crate) fn body(agent: u64, call: u64) -> Bytes {
    Bytes::from(format!(
        r#"{{"message":"","retcode":"0","event":{{"eventType":"AgentEvent_Ringing","workNo":"{agent}","content":{{"feature":7,"sno":"0","callid":"1469516036-{call}","caller":"70016","called":"40038","callType":"2","mediaType":5}},"eventGenTime":1784529722590}},"workNo":"{agent}"}}"#
    ))
}
