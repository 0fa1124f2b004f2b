//! A spool of a bench's own, and records of the size and shape of a usual push to fill it.

#![allow(dead_code, reason = "shared by benches, none of which uses all of it")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ccrelay::clock::Clock;
use ccrelay::event::normalise::RecordKind;
use ccrelay::event::{AgentId, GatewayName};
use ccrelay::metrics::Metrics;
use ccrelay::spool::{
    AgentKey, NewRecord, RepeatRules, SinkStart, Spool, SpoolConfig, SpoolLimits, SpoolThreads, StartFrom,
    WhenFull,
};

use crate::talking::talking;

/// Appends that wait for one commit, so that filling does not take long.
const APPENDS: u64 = 1000;

/// Opens or makes the spool in `directory`, for sinks that begin at its begin. It may grow as it likes.
pub(crate) fn open<const N: usize>(
    directory: &Path,
    sinks: [&str; N],
) -> anyhow::Result<(Spool, SpoolThreads, Metrics)> {
    let metrics = Metrics::new(["main"], sinks.map(|sink| (sink, &[][..])))?;
    let config = SpoolConfig {
        directory: directory.to_owned(),
        limits: SpoolLimits { max_bytes: 1 << 40, ..SpoolLimits::default() },
        repeats: RepeatRules { soonest: Duration::from_secs(8), window: Duration::from_secs(180) },
        call_age: Duration::from_secs(86_400),
    };
    let starts = sinks.map(|name| SinkStart {
        name: name.to_owned(),
        from: StartFrom::Earliest,
        when_full: WhenFull::Block,
    });
    let (spool, threads) = Spool::open(config, &starts, metrics.clone(), Clock::system())?;
    Ok((spool, threads, metrics))
}

/// Closes it and waits until its files are closed.
pub(crate) async fn close(spool: Spool, threads: SpoolThreads) -> anyhow::Result<()> {
    spool.close().await;
    tokio::task::spawn_blocking(move || threads.join()).await?;
    Ok(())
}

/// Stores so many records of one event, of a hundred agents in turn.
pub(crate) async fn fill(spool: &Spool, records: u64) -> anyhow::Result<()> {
    let mut number = 0;
    while number < records {
        let next = records.min(number + APPENDS);
        append(spool, number..next).await?;
        number = next;
    }
    Ok(())
}

/// Stores the records of these numbers, all waiting at a time.
pub(crate) async fn append(spool: &Spool, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let appends = numbers.map(|number| spool.append(record(number)));
    for appended in futures_util::future::join_all(appends).await {
        appended?;
    }
    Ok(())
}

/// A push of one event, at a time of its own, so that none is a repeat.
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
pub(crate) fn body(agent: u64, number: u64) -> Bytes {
    Bytes::from(talking(agent, 1_784_529_722_590 + number))
}
