//! The sections of `data` that the content of an event fills, one struct each. Every member is optional: what the
//! gateway does not say is left out.

use schemars::JsonSchema;
use serde::Serialize;

use super::codes::Code;
use super::data::Moment;
use super::state::{CallOutcome, CallState};
use super::texts::{self, Texts};

macro_rules! sections {
    ($( $(#[$outer:meta])* $name:ident { $( $(#[$inner:meta])* $field:ident : $type:ty, )+ } )+) => { $(
        $(#[$outer])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $( $(#[$inner])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>, )+
        }

        impl Texts for $name {
            fn visit(&mut self, path: &str, look: &mut dyn FnMut(&str, &mut String)) {
                $( if self.$field.is_some() { self.$field.visit(&texts::below(path, stringify!($field)), look); } )+
            }

            fn paths(path: &str, found: &mut Vec<String>) {
                $( <$type>::paths(&texts::below(path, stringify!($field)), found); )+
            }
        }
    )+ };
}

sections! {
    /// The sections of `data` that an event's content fills.
    Details {
        /// The call that the event is about.
        call: Box<CallData>,
        /// What became of the call at this agent: only in `ccrelay.call.ended`.
        summary: Box<SummaryData>,
        /// The skill queue that the call waits in.
        queue: QueueData,
        /// A message of a text session.
        message: MessageData,
        /// A conference.
        conference: Box<ConferenceData>,
        /// A recording of a call.
        recording: Box<RecordingData>,
        /// The playing of a recording.
        playback: PlaybackData,
        /// A preview of an outbound call.
        preview: PreviewData,
        /// The agent's phone.
        phone: PhoneData,
        /// A desk phone linked to the agent.
        linked_phone: Box<LinkedPhoneData>,
        /// An inspection by a supervisor.
        quality_check: Box<QualityCheckData>,
        /// A video session.
        video_session: Box<VideoSessionData>,
        /// A screenshot of a video session.
        screenshot: ScreenshotData,
        /// A note or bulletin.
        note: Box<NoteData>,
        /// The agent's session at the gateway.
        session: SessionData,
    }

    /// A call or text session.
    CallData {
        /// The gateway's id: two numbers and a hyphen.
        id: String,
        /// Where it stands after the event, when the event says it or an earlier one did.
        state: CallState,
        /// Where it stood before, when that is known.
        previous_state: CallState,
        /// `main` or `assistant`: which leg of the call.
        leg: String,
        /// Who began it: `inbound`, `outbound` or `internal`.
        direction: &'static str,
        /// The calling number, as written.
        caller: String,
        /// The calling agent's id, when the number names an agent.
        caller_agent_id: String,
        /// The called number, as written.
        called: String,
        /// The called agent's id, when the number names an agent.
        called_agent_id: String,
        /// The number of the other party, whoever called.
        other_party: String,
        /// The agent's id of the other party.
        other_party_agent_id: String,
        /// The numbers of the other parties of a conversation of three or more.
        partners: Vec<String>,
        /// Voice, video, text.
        media: Code,
        /// The kind of media of a call that rings or is offered.
        media_type: Code,
        /// The type of the call.
        feature: Code,
        /// Whether it came by a transfer.
        transferred: bool,
        /// Where it was transferred from.
        transferred_from: String,
        /// Whether it is between agents.
        internal: bool,
        /// The result of what was done to the call.
        result: Code,
        /// Why it failed: the gateway's code, which is that of the network.
        cause: Code,
        /// Why it failed, in the gateway's words.
        cause_text: String,
        /// Data attached to it.
        attached_data: String,
    }

    /// One agent's part of a call or text session, from its beginning to its end. The parts of several agents have
    /// `call.id` in common. Durations count as far as both ends were seen. Events that name the call may follow, such as that
    /// the other party left: what is said of a call after its end has no `call.state`, or the state `ended`.
    SummaryData {
        /// How it ended.
        outcome: CallOutcome,
        /// When the gateway first named it to this agent.
        started_at: Moment,
        /// When it ended; left out when the end was not seen.
        ended_at: Moment,
        /// From the beginning to the end.
        duration_seconds: f64,
        /// How long it rang, here or at the other party, until it was answered or ended.
        ringing_seconds: f64,
        /// From the beginning to the answer; left out when there was none.
        answered_after_seconds: f64,
        /// How long agent and other party were connected; of two, until the other party left.
        talked_seconds: f64,
        /// How long the other party was on hold; of two, until the other party left.
        held_seconds: f64,
        /// How often it was put on hold.
        held_count: u32,
        /// Whether three or more took part.
        conferenced: bool,
        /// Whether this agent passed it on, as the gateway reported before the end. Left out where another party's phone rang
        /// last and no result was told: the call ends alike whether that was answered or the other party hung up, and after a
        /// conversation of three help and a call that is passed on look the same. A result that is told later is
        /// `ccrelay.call.transfer-result` of this call.
        transferred_out: bool,
        /// The number it was passed on to.
        transferred_to: String,
        /// Who ended it, where that can be told: `agent`, `otherParty` or `platform`.
        ended_by: &'static str,
    }

    /// A skill queue and what became of a call in it.
    QueueData {
        /// The queue's number.
        id: i64,
        /// The queue's name.
        name: String,
        /// Whether an agent gave the call back to the queue.
        requeued: bool,
        /// How often agents gave it back.
        requeue_count: i64,
        /// The agent who last gave it back.
        last_agent_id: String,
    }

    /// A message of a text session.
    MessageData {
        /// Its text; by the older interface also JSON that names a file.
        text: String,
        /// Who wrote it.
        sender: String,
    }

    /// A conference, and the member that the event is about.
    ConferenceData {
        /// The conference's number.
        id: String,
        /// The result of what was asked for.
        result: Code,
        /// Why it was refused.
        cause: Code,
        /// What happened to the member.
        change: Code,
        /// Why the member left.
        reason: Code,
        /// The member: an agent or a number.
        participant: String,
        /// Whether the member is an agent or a number.
        participant_type: Code,
        /// What is needed to join, opaque.
        info: String,
    }

    /// A recording. Start and stop have only `taskId` in common.
    RecordingData {
        /// The serial number.
        id: String,
        /// The task that records.
        task_id: String,
        /// The file's address.
        file: String,
        /// The node that holds the file.
        location_id: String,
        /// Audio or video.
        media: Code,
        /// The file's format.
        format: Code,
        /// Beginning.
        started_at: Moment,
        /// End.
        ended_at: Moment,
        /// From the beginning to the end.
        duration_seconds: f64,
    }

    /// The playing of a recording.
    PlaybackData {
        /// Why it stopped.
        cause: Code,
    }

    /// A preview of an outbound call.
    PreviewData {
        /// The control block's id.
        control_id: String,
        /// The numbers to be called.
        numbers: Vec<String>,
        /// Data attached to the call.
        call_data: String,
    }

    /// The agent's phone.
    PhoneData {
        /// Which leg of the call it is off hook for: `main`, `assistant` or `unknown`.
        leg: String,
        /// Who hung up.
        released_by: Code,
    }

    /// A desk phone linked to the agent.
    LinkedPhoneData {
        /// What it is doing.
        status: Code,
        /// The result of what was done with it.
        result: Code,
        /// Its own number.
        number: String,
        /// The number it calls or transfers to.
        target: String,
        /// The skill queue it calls for.
        skill_id: i64,
        /// The call id of a call that it begins, which is not the id of the call that comes of it.
        provisional_call_id: String,
    }

    /// An inspection by a supervisor.
    QualityCheckData {
        /// How the inspector takes part.
        kind: Code,
        /// The inspector's agent id.
        inspector_id: String,
        /// What a monitored agent did: `signedIn` or `signedOut`.
        change: &'static str,
        /// The monitored agent's id.
        monitored_agent_id: String,
        /// The monitored agent's name.
        monitored_agent_name: String,
        /// Where the change came from.
        media_server: String,
    }

    /// How to enter a video session. Signature and addresses are in `raw` alone.
    VideoSessionData {
        /// The room.
        channel_id: String,
        /// The agent's role in it.
        role: String,
        /// Until when access is granted, as written.
        expires: String,
        /// The node that serves it.
        location_id: String,
    }

    /// A screenshot of a video session.
    ScreenshotData {
        /// Whether it was taken.
        result: Code,
        /// The file's address.
        file: String,
        /// The node that holds the file.
        location_id: String,
    }

    /// A note or bulletin.
    NoteData {
        /// The sender's agent id.
        sender_id: String,
        /// The sender's name.
        sender_name: String,
        /// When it was received, as written.
        received_at: String,
        /// Its text.
        text: String,
    }

    /// The agent's session at the gateway.
    SessionData {
        /// When the agent had signed in.
        signed_in_at: Moment,
        /// Why the session came to where it is, by ccrelay's words.
        reason: String,
    }
}
