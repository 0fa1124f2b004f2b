//! Playing flows: one on order, or plausible days without end at a steady rate of events for each agent.
//! One task and one heap serve all agents.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::agent::Slot;
use super::catalogue::{Call, Catalogue, Feature, Fill, Flow, Place, Recipient, Step};
use super::event::{Draft, EmitOptions};
use super::gateway::{EmitError, Gateway};
use super::random::Random;
use super::settings::{Inspection, Settings};

/// The flow of a call that rings until it is answered.
const MANUAL_ANSWER: &str = "manual-answer";
/// The flow of a call that the agent makes.
const OUTGOING: &str = "outgoing-call";
/// How soon to look again at an agent that is not ready for events.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A player that is further behind does not catch up.
const MOST_BEHIND: Duration = Duration::from_secs(2);

/// Plays one flow for one agent, with a pause between its steps. Gives the number of events.
pub(super) async fn play_flow(
    gateway: &Gateway,
    slot: &Arc<Slot>,
    flow: &Flow,
    pause: Duration,
) -> Result<usize, EmitError> {
    begin_call(gateway, slot, flow.place, flow.feature);
    let mut events = 0;
    for (i, step) in flow.steps.iter().filter(|step| applies(step, &gateway.settings)).enumerate() {
        if i > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        events += play_step(gateway, slot, step)?;
    }
    Ok(events)
}

/// Plays the flow of that name at once, or its steps from the one with `from` on; with `other` as the inspected agent.
pub(super) fn play_now(
    gateway: &Gateway,
    slot: &Arc<Slot>,
    flow: &str,
    from: Option<&str>,
    other: Option<&Arc<Slot>>,
) -> Result<usize, EmitError> {
    let flow = named(flow)?;
    if from.is_none() {
        begin_call_unless_running(gateway, slot, flow);
    }
    let before = |step: &&Step| from.is_some_and(|from| !step.events.iter().any(|event| event == from));
    let steps = flow.steps.iter().skip_while(before).filter(|step| applies(step, &gateway.settings));
    steps.map(|step| play_step_with(gateway, slot, step, other)).sum()
}

fn named(flow: &str) -> Result<&'static Flow, EmitError> {
    Catalogue::shared().flow(flow).ok_or_else(|| EmitError::NoSuchFlow(flow.to_owned()))
}

/// The agent calls this number.
pub(super) fn dial(gateway: &Gateway, slot: &Arc<Slot>, number: String) -> Result<usize, EmitError> {
    let flow = named(OUTGOING)?;
    begin_call(gateway, slot, flow.place, flow.feature);
    slot.lock().call.called = number;
    let steps = flow.steps.iter().filter(|step| applies(step, &gateway.settings));
    steps.map(|step| play_step(gateway, slot, step)).sum()
}

/// A call comes in and rings until it is answered or given up. Gives its id.
pub(super) fn ring(gateway: &Gateway, slot: &Arc<Slot>) -> Result<String, EmitError> {
    let flow = named(MANUAL_ANSWER)?;
    begin_call(gateway, slot, flow.place, flow.feature);
    let unanswered = |step: &&Step| !step.events.iter().any(|event| event == "AgentEvent_Talking");
    for step in flow.steps.iter().take_while(unanswered).filter(|step| applies(step, &gateway.settings)) {
        play_step(gateway, slot, step)?;
    }
    Ok(slot.lock().call.id.clone())
}

/// What is done within a call, or with a recording, is about the call that there is.
fn begin_call_unless_running(gateway: &Gateway, slot: &Slot, flow: &Flow) {
    let place = if flow.place == Place::Begin { Place::Begin } else { Place::Within };
    begin_call(gateway, slot, place, flow.feature);
}

/// Plays for all signed-in agents for ever, `rate` events a second each.
pub(super) async fn play_all(gateway: Arc<Gateway>, rate: f64) {
    let mut players: Vec<Player> = gateway.slots().iter().cloned().map(Player::new).collect();
    let first = Duration::from_secs_f64((3.0 / rate).min(60.0));
    let mut heap: BinaryHeap<Reverse<(Instant, usize)>> = (0..players.len())
        .map(|i| Reverse((Instant::now() + first.mul_f64(gateway.roll(Random::unit)), i)))
        .collect();
    while let Some(Reverse((at, i))) = heap.pop() {
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        let next = match players[i].play_next(&gateway) {
            None => Instant::now() + LOOK_AGAIN,
            Some(events) => {
                let interval = f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / rate;
                at.max(Instant::now().checked_sub(MOST_BEHIND).unwrap_or(at))
                    + Duration::from_secs_f64(interval)
            }
        };
        heap.push(Reverse((next, i)));
        // A player that is behind must not keep its thread for itself.
        tokio::task::yield_now().await;
    }
}

/// One agent's part in continuous play.
struct Player {
    slot: Arc<Slot>,
    /// Steps still to come, each with its flow where it is the flow's first.
    script: VecDeque<(&'static Step, Option<&'static Flow>)>,
    /// How many flows of the settings' list were played.
    flows: usize,
    /// The session the script is for.
    epoch: u64,
}

impl Player {
    fn new(slot: Arc<Slot>) -> Player {
        Player { slot, script: VecDeque::new(), flows: 0, epoch: 0 }
    }

    /// Plays one step and gives the number of its events; none when the agent is not ready for any.
    fn play_next(&mut self, gateway: &Gateway) -> Option<usize> {
        let needs_skills = gateway.settings.calls_need_skills;
        let epoch = {
            let agent = self.slot.lock();
            let session = agent.session.as_ref()?;
            let ready = !needs_skills || session.skills.as_ref().is_some_and(|skills| !skills.is_empty());
            ready.then_some(session.epoch)?
        };
        if self.epoch != epoch {
            self.epoch = epoch;
            self.script.clear();
        }
        while self.script.is_empty() {
            for flow in self.compose(gateway) {
                let steps = flow.steps.iter().filter(|step| applies(step, &gateway.settings));
                self.script.extend(steps.enumerate().map(|(i, step)| (step, (i == 0).then_some(flow))));
            }
        }
        let (step, begins) = self.script.pop_front()?;
        if let Some(flow) = begins {
            begin_call(gateway, &self.slot, flow.place, flow.feature);
        }
        play_step(gateway, &self.slot, step).ok()
    }

    /// What comes next: the flows of the settings in turn, or a call, or something on its own.
    fn compose(&mut self, gateway: &Gateway) -> Vec<&'static Flow> {
        let catalogue = Catalogue::shared();
        let listed: Vec<&Flow> = gateway
            .settings
            .flows
            .iter()
            .filter_map(|id| catalogue.flow(id))
            .filter(|f| !f.steps.is_empty())
            .collect();
        if !listed.is_empty() {
            self.flows += 1;
            return vec![listed[(self.flows - 1) % listed.len()]];
        }
        gateway.roll(|random| {
            let one = |place, random: &mut Random| *random.pick(&catalogue.at(place));
            if random.chance(0.3) {
                return vec![one(Place::Alone, random)];
            }
            let mut flows = vec![one(Place::Begin, random)];
            while random.chance(0.4) {
                flows.push(one(Place::Within, random));
            }
            flows.push(one(Place::End, random));
            flows
        })
    }
}

/// An event with its example content, nothing unusual about it.
pub(super) fn example(gateway: &Gateway, slot: &Slot, event_type: &str) -> Draft {
    begin_call(gateway, slot, Place::Within, Feature::Inbound);
    let call = slot.lock().call.clone();
    let login_time = login_time(slot);
    let fill =
        Fill { agent: slot.id.as_str(), peer: slot.id.as_str(), login_time, call: &call, wide_text: false };
    let content = gateway.roll(|random| Catalogue::shared().content(event_type, None, &fill, random));
    Draft::parts(event_type, content)
}

fn login_time(slot: &Slot) -> u64 {
    slot.lock().session.as_ref().map_or(0, |session| session.login_time.millis())
}

/// Whether the step is one for this gateway's agents.
fn applies(step: &Step, settings: &Settings) -> bool {
    !step.must_pick_up || settings.must_pick_up
}

/// A flow that begins a call, or has nothing to do with one, gets a new call.
fn begin_call(gateway: &Gateway, slot: &Slot, place: Place, feature: Feature) {
    let fresh = slot.lock().call.id.is_empty();
    if fresh || matches!(place, Place::Begin | Place::Alone) {
        let (second, number) = (gateway.clock.now().millis() / 1000, gateway.call_number());
        let call = gateway.roll(|random| Call::new(second, number, feature, random));
        slot.lock().call = call;
    }
}

fn play_step(gateway: &Gateway, slot: &Arc<Slot>, step: &Step) -> Result<usize, EmitError> {
    play_step_with(gateway, slot, step, None)
}

fn play_step_with(
    gateway: &Gateway,
    slot: &Arc<Slot>,
    step: &Step,
    other: Option<&Arc<Slot>>,
) -> Result<usize, EmitError> {
    let call = slot.lock().call.clone();
    let recipient = match (step.recipient, other) {
        (Recipient::Agent | Recipient::Inspector, _) => slot.clone(),
        (Recipient::Inspected, Some(other)) => other.clone(),
        (Recipient::Inspected, None) => inspected(gateway, slot),
    };
    let login_time = login_time(&recipient);
    let drafts: Vec<Draft> = gateway.roll(|random| {
        let mut fill = Fill {
            agent: recipient.id.as_str(),
            peer: slot.id.as_str(),
            login_time,
            call: &call,
            wide_text: false,
        };
        step.events.iter().map(|event_type| draft(event_type, step, &mut fill, gateway, random)).collect()
    });
    gateway.emit(&recipient, &drafts).map(|serials| serials.len())
}

/// One event with its example content, made unusual by chance.
fn draft(
    event_type: &str,
    step: &Step,
    fill: &mut Fill<'_>,
    gateway: &Gateway,
    random: &mut Random,
) -> Draft {
    let variety = gateway.settings.variety;
    fill.wide_text = random.chance(variety.non_ascii);
    let other = random.chance(variety.other_content);
    let other = other.then(|| Catalogue::shared().other_content(event_type, fill, random)).flatten();
    let mut content =
        other.unwrap_or_else(|| Catalogue::shared().content(event_type, Some(step), fill, random));
    if content.is_null() && random.chance(variety.empty_content) {
        content = Value::String(String::new());
    }
    let options = EmitOptions {
        event_gen_time: random.chance(variety.event_gen_time),
        json_key: random.chance(variety.json_key),
    };
    Draft::Parts { event_type: event_type.to_owned(), content, options }
}

/// The next signed-in agent in the settings' order, or the inspector itself.
fn inspected(gateway: &Gateway, inspector: &Arc<Slot>) -> Arc<Slot> {
    if gateway.settings.inspection == Inspection::Same {
        return inspector.clone();
    }
    let slots = gateway.slots();
    let own = slots.iter().position(|slot| slot.id == inspector.id).unwrap_or(0);
    let others = slots.iter().cycle().skip(own + 1).take(slots.len().saturating_sub(1)).take(64);
    others.into_iter().find(|slot| slot.lock().session.is_some()).unwrap_or(inspector).clone()
}
