//! From a call that has ended to the sections of its summary, the event `ccrelay.call.ended`.

use super::calls::{CallSnapshot, CallState, EndedCall};
use super::codes::{self, Code};
use super::content;
use super::data::Moment;
use super::details::{CallData, Details, QueueData, SummaryData};
use crate::clock::Timestamp;

/// The sections of a summary.
pub(super) fn details(ended: &EndedCall) -> Details {
    Details {
        call: Some(Box::new(call(&ended.call))),
        queue: queue(&ended.call),
        summary: Some(Box::new(summary(ended))),
        ..Details::default()
    }
}

fn call(call: &CallSnapshot) -> CallData {
    let media = call.media.or(call.text.then_some(codes::TEXT));
    CallData {
        id: Some(call.id.clone()),
        state: Some(CallState::Ended),
        previous_state: Some(call.state),
        direction: call.feature.and_then(codes::direction),
        caller: call.caller.clone(),
        caller_agent_id: call.caller.as_deref().and_then(content::agent_of),
        called: call.called.clone(),
        called_agent_id: call.called.as_deref().and_then(content::agent_of),
        other_party: call.other.clone(),
        media: media.map(|code| Code::of(codes::MEDIA, code)),
        media_type: call.media_type.map(|code| Code::of(codes::MEDIA_TYPE, code)),
        feature: call.feature.map(|code| Code::of(codes::FEATURE, code)),
        ..CallData::default()
    }
}

fn queue(call: &CallSnapshot) -> Option<QueueData> {
    let known = call.queue.is_some() || call.queue_name.is_some();
    known.then(|| QueueData { id: call.queue, name: call.queue_name.clone(), ..QueueData::default() })
}

fn summary(ended: &EndedCall) -> SummaryData {
    let EndedCall { call, outcome, at, by } = ended;
    let seen = outcome.is_seen();
    let lasted = at.millis().saturating_sub(call.began.millis());
    let rang_until = call.answered.or(seen.then_some(lasted));
    let rang = call.rang.zip(rang_until).map(|(from, to)| seconds(to.saturating_sub(from)));
    let out = call.transferred_out();
    let answered = call.answered.is_some();
    SummaryData {
        outcome: Some(*outcome),
        started_at: Some(Moment(call.began)),
        ended_at: seen.then_some(Moment(Timestamp(call.began.millis().saturating_add(lasted)))),
        duration_seconds: seen.then(|| seconds(lasted)),
        ringing_seconds: rang,
        answered_after_seconds: call.answered.map(seconds),
        talked_seconds: answered.then(|| seconds(call.talked)),
        held_seconds: answered.then(|| seconds(call.held)),
        held_count: answered.then_some(call.holds),
        conferenced: answered.then_some(call.conferenced),
        transferred_out: out.filter(|_| answered),
        transferred_to: call.third.clone().filter(|_| out == Some(true)),
        ended_by: *by,
    }
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}
