//! Calls that a program makes for an agent: voice calls, quality control, playback, messages. Each needs a state, is refused
//! with the documents' code in another one, and causes the events of its flow.
//!
//! What the documents leave open is said where it is decided. An agent has one voice call here; a second one, as in a
//! consultation, is not told apart from the first.

use std::sync::Arc;

use serde_json::Value;
use tracing::debug;

use super::agent::{Activity, Session, Slot};
use super::answer::{Answer, Refusal};
use super::event::Draft;
use super::gateway::Gateway;
use super::operation::{Call, Operation};
use super::play;

/// Numbers to dial (API 1232).
const NUMBER_LENGTH: usize = 24;
/// A message, where the gateway's security mode is the strict one (API 1277).
const MESSAGE_BYTES: usize = 1900;
/// The furthest that playback jumps (API 0397).
const MOST_JUMP: u32 = i32::MAX as u32;

/// What an agent's phone and headset do.
#[derive(Debug, Default)]
pub(super) struct Line {
    call: Option<Stage>,
    muted: bool,
    playing: Option<Playing>,
    /// Whom the agent listens to or helps, as inspector.
    inspecting: Option<String>,
}

/// Where the voice call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ringing,
    Talking,
    Held,
}

/// A recording that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Playing {
    paused: bool,
    /// Into a call; else to an agent who was idle.
    in_call: bool,
}

impl Line {
    /// Follows the events that the agent is sent.
    pub(super) fn observe(&mut self, event_type: &str) {
        match event_type {
            "AgentEvent_Ringing" => self.call = Some(Stage::Ringing),
            "AgentEvent_Auto_Answer" | "AgentEvent_Talking" => self.call = Some(Stage::Talking),
            // One that begins when the agent has left the call is that of the others.
            "AgentEvent_Conference" => self.call = self.call.map(|_| Stage::Talking),
            "AgentEvent_Hold" => self.call = Some(Stage::Held),
            "AgentEvent_Call_Release" | "AgentEvent_No_Answer" | "AgentEvent_Call_Out_Fail" => {
                self.call = None;
                self.muted = false;
            }
            "AgentMediaEvent_Play_Succ" => {
                self.playing = Some(Playing { paused: false, in_call: self.call.is_some() });
            }
            "AgentMediaEvent_PausePlayDone" => self.pause(true),
            "AgentMediaEvent_ResumePlayDone" => self.pause(false),
            "AgentMediaEvent_StopPlayDone" | "AgentMediaEvent_Play_Fail" => self.playing = None,
            _ => {}
        }
    }

    /// Whether there is a call, be it one that only rings.
    pub(super) fn in_call(&self) -> bool {
        self.call.is_some()
    }

    fn pause(&mut self, paused: bool) {
        if let Some(playing) = &mut self.playing {
            playing.paused = paused;
        }
    }
}

/// What a call that is allowed leads to.
enum Consequence {
    /// Nothing that anybody is told.
    Nothing,
    /// The events of a flow.
    Flow(&'static str),
    /// The events of a flow from the one that has this event on.
    FlowFrom(&'static str, &'static str),
    /// These events.
    Events(&'static [&'static str]),
    /// The events of a flow that concerns another agent too.
    FlowWith(&'static str, Arc<Slot>),
    /// A new call to this number; its id is the result.
    Dial(String),
    /// The events of a flow in which this number takes part.
    FlowTo(&'static str, String),
    /// The same; the call's id is the result.
    CallIdTo(&'static str, String),
}

/// Makes one of these calls for an agent who has proven to be signed in.
pub(super) fn perform(
    gateway: &Arc<Gateway>,
    slot: &Arc<Slot>,
    call: &Call,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let consequence = match call.operation {
        Operation::AddInsert | Operation::AddSupervise | Operation::Intercept => {
            inspect(gateway, slot, call)?
        }
        _ => {
            let mut agent = slot.lock();
            let id = agent.call.id.clone();
            let session = agent.session.as_mut().ok_or(Refusal::NOT_SIGNED_IN)?;
            decide(session, &id, call, &Body(serde_json::from_slice(body).unwrap_or(Value::Null)))?
        }
    };
    debug!(agent_id = %slot.id, operation = ?call.operation, "call made");
    follow(gateway, slot, consequence)
}

fn decide(session: &mut Session, id: &str, call: &Call, body: &Body) -> Result<Consequence, Refusal> {
    let (line, activity) = (&mut session.line, session.activity);
    let meant = call.parameter("callid").is_none_or(|asked| asked == id);
    let named = call.arguments.first().is_some_and(|asked| asked == id);
    Ok(match (call.operation, line.call) {
        (Operation::Answer, Some(Stage::Ringing)) if meant => {
            Consequence::FlowFrom("manual-answer", "AgentEvent_Talking")
        }
        (Operation::Answer, _) => return Err(Refusal::NO_CALL_TO_ANSWER),
        (Operation::Hold, Some(Stage::Talking)) => Consequence::Flow("hold"),
        (Operation::Hold, None) => return Err(Refusal::NO_CALL_TO_HOLD),
        (Operation::Hold, Some(_)) => return Err(Refusal::HOLD_STATE),
        (Operation::GetHold, Some(Stage::Held)) if meant => Consequence::Flow("unhold"),
        (Operation::GetHold, Some(Stage::Talking | Stage::Ringing)) => return Err(Refusal::UNHOLD_STATE),
        (Operation::GetHold, _) => return Err(Refusal::NO_CALL_TO_UNHOLD),
        (Operation::Release, Some(_)) => Consequence::Flow("release"),
        (Operation::DropCall, Some(_)) if named => Consequence::Flow("release"),
        (Operation::Release | Operation::DropCall, _) => return Err(Refusal::NO_CALL_TO_END),
        (Operation::Transfer, Some(Stage::Talking | Stage::Held)) => {
            let device = body.number("devicetype").is_some_and(|kind| (1..=5).contains(&kind));
            let address = body.text("address").filter(|address| device && is_number(address));
            // Which flow a mode means is not in the documents that we have: each ends the agent's part in the call.
            Consequence::FlowTo("transfer-success", address.ok_or(Refusal::PARAMETER)?)
        }
        (Operation::Transfer, _) => return Err(Refusal::NO_CALL_TO_TRANSFER),
        (Operation::InnerHelp, Some(Stage::Talking)) => {
            let helper =
                body.text("dstaddress").filter(|address| !address.is_empty()).ok_or(Refusal::PARAMETER)?;
            let three = body.number("mode") == Some(2);
            let flow = if three { "internal-help-three-party" } else { "internal-help-two-party" };
            Consequence::CallIdTo(flow, helper)
        }
        (Operation::InnerHelp, _) => return Err(Refusal::NO_CALL_FOR_HELP),
        (Operation::BeginMute | Operation::EndMute, _) => mute(line, call.operation)?,
        (Operation::SecondDial, Some(Stage::Talking)) => {
            let number = call.arguments.first().is_some_and(|number| is_number(number));
            number.then_some(Consequence::Nothing).ok_or(Refusal::PARAMETER)?
        }
        (Operation::CallOut, None) if activity != Activity::Talking => {
            let called = body.text("called").ok_or(Refusal::PARAMETER)?;
            Consequence::Dial(Some(called).filter(|called| is_number(called)).ok_or(Refusal::NUMBER)?)
        }
        // No code is documented for it: that of a state that does not fit.
        (Operation::CallOut, _) => return Err(Refusal::STATE),
        (Operation::StopInspection, _)
            if line.inspecting.is_some() && line.inspecting == call.arguments.first().cloned() =>
        {
            line.inspecting = None;
            // Not in the flows: as when a call ends.
            Consequence::Events(&["AgentOther_PhoneRelease", "AgentState_Ready"])
        }
        (Operation::SwitchInspection, _)
            if line.inspecting.is_some() && line.inspecting == call.arguments.first().cloned() =>
        {
            Consequence::Nothing
        }
        (Operation::StopInspection | Operation::SwitchInspection, _) => {
            return Err(Refusal::INSPECTION_STATE);
        }
        (Operation::SendMessage, _) => {
            let data = body.text("data").filter(|data| !data.is_empty() && data.len() <= MESSAGE_BYTES);
            let (asked, _data) = body.text("callid").zip(data).ok_or(Refusal::PARAMETER)?;
            // Any call of the agent's will do: text sessions are not told apart here.
            (asked == id && !id.is_empty()).then_some(Consequence::Nothing).ok_or(Refusal::NO_CALL)?
        }
        (Operation::SecondDial, _) => return Err(Refusal::NO_CALL),
        (operation, _) => play_back(line, activity, operation, call)?,
    })
}

fn mute(line: &mut Line, operation: Operation) -> Result<Consequence, Refusal> {
    let begins = operation == Operation::BeginMute;
    match line.call {
        None => return Err(if begins { Refusal::NO_CALL_TO_MUTE } else { Refusal::NO_CALL_TO_UNMUTE }),
        Some(Stage::Talking) if line.muted != begins => line.muted = begins,
        Some(_) => return Err(if begins { Refusal::MUTE_STATE } else { Refusal::UNMUTE_STATE }),
    }
    Ok(Consequence::Nothing)
}

fn play_back(
    line: &Line,
    activity: Activity,
    operation: Operation,
    call: &Call,
) -> Result<Consequence, Refusal> {
    let paused = line.playing.map(|playing| playing.paused);
    let jump = || call.arguments.first().and_then(|seconds| seconds.parse().ok());
    let jump = || jump().filter(|seconds: &u32| *seconds <= MOST_JUMP).ok_or(Refusal::PARAMETER);
    Ok(match (operation, paused) {
        (Operation::Play, None) if line.call == Some(Stage::Talking) => Consequence::Flow("playback-call"),
        (Operation::Play, None) if line.call.is_none() && activity != Activity::Talking => {
            Consequence::Flow("playback-idle")
        }
        (Operation::PausePlay, Some(false)) => Consequence::Flow("playback-pause"),
        (Operation::PausePlay, _) => return Err(Refusal::PAUSE_STATE),
        (Operation::ResumePlay, Some(true)) => Consequence::Flow("playback-resume"),
        (Operation::ResumePlay, _) => return Err(Refusal::RESUME_STATE),
        (Operation::ForeFast, Some(false)) => jump().map(|_| Consequence::Flow("playback-forward"))?,
        (Operation::ForeFast, _) => return Err(Refusal::FORWARD_STATE),
        (Operation::BackFast, Some(false)) => jump().map(|_| Consequence::Flow("playback-rewind"))?,
        (Operation::BackFast, _) => return Err(Refusal::REWIND_STATE),
        (Operation::StopPlay, Some(_)) => match line.playing {
            Some(Playing { in_call: true, .. }) => Consequence::Flow("playback-call-stop"),
            _ => Consequence::Flow("playback-idle-stop"),
        },
        (Operation::StopPlay, None) => return Err(Refusal::STOP_STATE),
        _ => return Err(Refusal::PLAY_STATE),
    })
}

/// Listening to another agent, helping or taking its call over: the inspector is free, the other one talks.
fn inspect(gateway: &Gateway, slot: &Slot, call: &Call) -> Result<Consequence, Refusal> {
    let name = call.arguments.first().map_or("", String::as_str);
    let other = gateway.slot(name).filter(|other| other.id != slot.id).ok_or(Refusal::NO_SUCH_AGENT)?;
    let (talks, call_of_other) = {
        let other = other.lock();
        (other.session.as_ref().is_some_and(|s| s.line.call == Some(Stage::Talking)), other.call.clone())
    };
    let mut agent = slot.lock();
    let session = agent.session.as_mut().ok_or(Refusal::NOT_SIGNED_IN)?;
    if !talks || session.line.call.is_some() || session.activity == Activity::Talking {
        return Err(Refusal::INSPECTION_STATE);
    }
    let flow = match call.operation {
        Operation::Intercept => "intercept",
        operation => {
            session.line.inspecting = Some(name.to_owned());
            if operation == Operation::AddInsert { "insert" } else { "listen" }
        }
    };
    if flow == "intercept" {
        session.line.inspecting = None;
        // It is the same call that goes on.
        agent.call = call_of_other;
    }
    Ok(Consequence::FlowWith(flow, other.clone()))
}

fn follow(gateway: &Gateway, slot: &Arc<Slot>, consequence: Consequence) -> Result<Answer, Refusal> {
    let mut answer = Answer::success();
    let play_to = |flow: &str, number: String| {
        slot.lock().call.target = number;
        play::play_now(gateway, slot, flow, None, None)
    };
    let played = match consequence {
        Consequence::Nothing => Ok(0),
        Consequence::Flow(flow) => play::play_now(gateway, slot, flow, None, None),
        Consequence::FlowFrom(flow, event) => play::play_now(gateway, slot, flow, Some(event), None),
        Consequence::FlowWith(flow, other) => play::play_now(gateway, slot, flow, None, Some(&other)),
        Consequence::Events(events) => {
            let drafts: Vec<Draft> = events.iter().map(|name| play::example(gateway, slot, name)).collect();
            gateway.emit(slot, &drafts).map(|serials| serials.len())
        }
        Consequence::FlowTo(flow, number) => play_to(flow, number),
        Consequence::Dial(number) => {
            let played = play::dial(gateway, slot, number);
            answer = Answer::result(&Value::from(slot.lock().call.id.as_str()));
            played
        }
        Consequence::CallIdTo(flow, number) => {
            answer = Answer::result(&Value::from(slot.lock().call.id.as_str()));
            play_to(flow, number)
        }
    };
    played.map(|_events| answer).map_err(|_| Refusal::NOT_SIGNED_IN)
}

/// Digits, `*` and `#`, not too many.
fn is_number(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*' || byte == b'#');
    digits && (1..=NUMBER_LENGTH).contains(&text.len())
}

/// The body of a call; programs send numbers as text too.
struct Body(Value);

impl Body {
    fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}
