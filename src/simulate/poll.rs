//! Polling mode: one event per answer, at once if there is one, else after waiting for one.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use super::agent::{Agent, Slot};
use super::answer::{Answer, Refusal};
use super::calls::authenticate;
use super::gateway::Gateway;

/// The mark that a poll is under way.
struct PollMark<'a>(&'a Slot, u64);

impl Drop for PollMark<'_> {
    fn drop(&mut self) {
        let mut agent = self.0.lock();
        if agent.polling == Some(self.1) {
            agent.polling = None;
        }
        if let Some(session) = agent.session_of(self.1) {
            session.last_contact = Instant::now();
        }
    }
}

/// `GET agentevent/{id}`.
pub(super) async fn poll(
    gateway: &Gateway,
    slot: &Arc<Slot>,
    headers: &HeaderMap,
) -> Result<Answer, Refusal> {
    let epoch = begin(&mut slot.lock(), headers, gateway)?;
    let _mark = PollMark(slot, epoch);
    let until = Instant::now() + gateway.settings.poll_wait();
    loop {
        let changed = slot.changed.notified();
        if let Some(answer) = look(&mut slot.lock(), epoch, gateway, Instant::now() >= until)? {
            return Ok(answer);
        }
        // Whether it changed or time is up shows at the next look.
        let _time_is_up = tokio::time::timeout_at(until, changed).await;
    }
}

fn begin(agent: &mut Agent, headers: &HeaderMap, gateway: &Gateway) -> Result<u64, Refusal> {
    let session = authenticate(agent, headers, &gateway.settings)?;
    if session.is_push() {
        return Err(Refusal::WRONG_EVENT_MODE);
    }
    let epoch = session.epoch;
    if agent.polling == Some(epoch) {
        return Err(Refusal::REPEATED);
    }
    agent.polling = Some(epoch);
    Ok(epoch)
}

/// The answer, once there is an event or time is up.
fn look(agent: &mut Agent, epoch: u64, gateway: &Gateway, late: bool) -> Result<Option<Answer>, Refusal> {
    if agent.session_of(epoch).is_none() {
        return Err(Refusal::NOT_SIGNED_IN);
    }
    let event = agent.take_polled();
    if event.is_none() && !late {
        return Ok(None);
    }
    let mut answer = Answer::event(event.as_deref());
    if let Some(session) = agent.session_of(epoch) {
        session.guids.renew_if_due(Instant::now(), &gateway.settings);
        answer.set_guid = session.guids.announce();
    }
    Ok(Some(answer))
}
