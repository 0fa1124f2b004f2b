//! The vocabulary: what each event of the gateway is called here, what its content is about, and what it does to the
//! agent's state. Names follow ECMA-269 (CSTA) where it has a word.
//!
//! One line per event: the gateway's name, ours, the category, what the content holds, the effect on the agent, and
//! the page of the CEC API Reference that describes it (`-` for events that are only seen in public clients, `cec` where
//! the page's number is not known).
//! Names of ours are a published contract: they are added to and never changed.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::state::AgentState::{self, Busy, NotReady, Ready, Rest, SignedIn, SignedOut, WorkingAfterCall};
use super::state::CallState::{self, Alerting, Connected, Ended, Held, Initiated};

/// The type of events that are not in the vocabulary.
pub const UNKNOWN_TYPE: &str = "ccrelay.unknown";
/// The category of events that are not in the vocabulary.
pub const UNKNOWN_CATEGORY: &str = "unknown";

/// One line of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The gateway's `eventType`.
    pub gateway_type: &'static str,
    /// Our name.
    pub event_type: &'static str,
    /// The group, one of [`crate::metrics::EVENT_CATEGORIES`].
    pub category: &'static str,
    /// What the content holds.
    pub content: Content,
    /// What it does to the agent.
    pub effect: Effect,
    /// The page of the CEC API Reference, or `-`, or `cec`.
    pub page: &'static str,
}

/// What the content of an event holds, and so which part of `data` it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing: null, or not documented.
    Nothing,
    /// A call: an object, or the bare call id.
    Call,
    /// A call, and which skill queue it waits in.
    OfferedCall,
    /// A call, and the media it was switched to.
    SwitchedCall,
    /// A text session and perhaps a message of it.
    Chat,
    /// A conference and perhaps one member of it.
    Conference,
    /// A screenshot of a video session.
    Screenshot,
    /// How to enter a video session.
    VideoSession,
    /// A recording of a call.
    Recording,
    /// The playing of a recording.
    Playback,
    /// The agent's phone.
    Phone,
    /// A desk phone linked to the agent.
    LinkedPhone,
    /// The state of a desk phone, in a member called `result`.
    LinkedPhoneStatus,
    /// A preview of an outbound call.
    Preview,
    /// An inspection by a supervisor.
    QualityCheck,
    /// A note or bulletin.
    Note,
    /// The reason of being not ready.
    NotReadyReason,
    /// The reason of a rest.
    RestReason,
    /// The end of a session, with the time of its beginning.
    SignOut,
}

/// What an event does to the agent's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The agent is in this state from now on.
    Enters(AgentState),
    /// The agent has left this state and is ready.
    Leaves(AgentState),
    /// A reminder to an agent who is in this state; nothing changes.
    Reminds(AgentState),
    /// A call of the agent is in this state from now on. Except by text sessions, the agent is then busy.
    Call(CallState),
    /// A call that the agent has already goes on in this state. A late one does not make a ready agent busy.
    Continues(CallState),
    /// A call is announced to the agent.
    Offers,
    /// A phone rings for a call that the agent has, or, when an agent who is busy or at work has none of this id, is making.
    Reaches,
    /// A call that the agent has comes to nothing, unless it was answered before: then only what was tried with it failed.
    Fails,
    /// Something is said of a call that the agent has; it stands where it stood.
    Notes,
}

use Content::{
    Call, Chat, Conference, LinkedPhone, LinkedPhoneStatus, NotReadyReason, Note, Nothing, OfferedCall,
    Phone, Playback, Preview, QualityCheck, Recording, RestReason, Screenshot, SignOut, SwitchedCall,
    VideoSession,
};
use Effect::{Continues, Enters, Fails, Leaves, None as Nil, Notes, Offers, Reaches, Reminds};

const STATE: &str = "agent-state";
const CALL: &str = "call";
const CONFERENCE: &str = "conference";
const LINKAGE: &str = "phone-linkage";
const MESSAGE: &str = "message";
const OTHER: &str = "other";
const OUTBOUND: &str = "outbound-call";
const PHONE: &str = "phone";
const PLAYBACK: &str = "media-playback";
const QUALITY: &str = "quality-check";
const RECORDING: &str = "recording";
const SESSION: &str = "session";

/// The event of the gateway called `event_type`: by its exact name, with blanks around it, or by the right spelling of
/// a name that the gateway spells wrongly.
#[must_use]
pub fn lookup(event_type: &str) -> Option<&'static Entry> {
    static INDEX: LazyLock<HashMap<&str, &Entry>> = LazyLock::new(|| {
        let entries = ENTRIES.iter().map(|entry| (entry.gateway_type, entry));
        let by_name: HashMap<_, _> = entries.clone().collect();
        let right = RIGHT_SPELLINGS.iter().filter_map(|(right, wrong)| Some((*right, *by_name.get(wrong)?)));
        entries.chain(right).collect()
    });
    INDEX.get(event_type.trim()).copied()
}

/// The event of ccrelay's own called `event_type`, such as `session.lost`.
#[must_use]
pub fn lookup_session(event_type: &str) -> Option<&'static Entry> {
    SESSION_ENTRIES.iter().find(|entry| entry.gateway_type == event_type)
}

/// The category of the events that we call `event_type`.
#[must_use]
pub fn category(event_type: &str) -> &'static str {
    let mut known = ENTRIES.iter().chain(SESSION_ENTRIES).chain(DERIVED_ENTRIES);
    known.find(|entry| entry.event_type == event_type).map_or(UNKNOWN_CATEGORY, |entry| entry.category)
}

/// Every type that an event can have, in order and each once.
#[must_use]
pub fn event_types() -> Vec<&'static str> {
    let known = ENTRIES.iter().chain(SESSION_ENTRIES).chain(DERIVED_ENTRIES).map(|entry| entry.event_type);
    let mut types: Vec<_> = known.chain([UNKNOWN_TYPE]).collect();
    types.sort_unstable();
    types.dedup();
    types
}

/// All events of the gateway that are known.
#[must_use]
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

/// Events that follow from others: ccrelay makes them beside the event that brings them about.
#[must_use]
pub fn derived_entries() -> &'static [Entry] {
    DERIVED_ENTRIES
}

/// All events of ccrelay's own about sessions.
#[must_use]
pub fn session_entries() -> &'static [Entry] {
    SESSION_ENTRIES
}

const fn row(
    gateway_type: &'static str,
    event_type: &'static str,
    category: &'static str,
    content: Content,
    effect: Effect,
    page: &'static str,
) -> Entry {
    Entry { gateway_type, event_type, category, content, effect, page }
}

/// Names the gateway spells wrongly, as a later release may spell them.
const RIGHT_SPELLINGS: &[(&str, &str)] = &[
    ("AgentChat_DataReceived", "AgentChat_DataRecved"),
    ("AgentEvent_Agent_Occupied", "AgentEvent_Agent_Occupyed"),
    ("AgentEvent_MediaSwitch", "AgentEvent_MediaSwith"),
    ("AgentOther_PhoneUnknown", "AgentOther_PhoneUnknow"),
];

/// The summary of a call that has ended at an agent.
pub(super) const CALL_ENDED: &Entry = &DERIVED_ENTRIES[0];

#[rustfmt::skip]
const DERIVED_ENTRIES: &[Entry] = &[
    row("call.ended", "ccrelay.call.ended", CALL, Nothing, Nil, "-"),
];

#[rustfmt::skip]
const SESSION_ENTRIES: &[Entry] = &[
    row("session.started",  "ccrelay.session.started",  SESSION, Nothing, Enters(SignedIn),            "-"),
    row("session.degraded", "ccrelay.session.degraded", SESSION, Nothing, Nil,                         "-"),
    row("session.lost",     "ccrelay.session.lost",     SESSION, Nothing, Enters(AgentState::Unknown), "-"),
    row("session.ended",    "ccrelay.session.ended",    SESSION, Nothing, Enters(SignedOut),           "-"),
];

#[rustfmt::skip]
const ENTRIES: &[Entry] = &[
    // The agent's state.
    row("AgentOther_InService",              "ccrelay.agent.signed-in",           OTHER, Nothing,        Enters(SignedIn),         "cec_07_1401"),
    row("AgentOther_ShutdownService",        "ccrelay.agent.signed-out",          OTHER, SignOut,        Enters(SignedOut),        "cec_07_1402"),
    row("Force_Logout",                      "ccrelay.agent.signed-out-forced",   OTHER, Nothing,        Enters(SignedOut),        "-"),
    row("AgentState_Ready",                  "ccrelay.agent.ready",               STATE, Nothing,        Enters(Ready),            "cec_07_1345"),
    row("AgentState_Force_Ready",            "ccrelay.agent.ready-forced",        STATE, Nothing,        Enters(Ready),            "-"),
    row("AgentState_Busy",                   "ccrelay.agent.busy",                STATE, Nothing,        Enters(Busy),             "cec_07_1343"),
    row("AgentState_Work",                   "ccrelay.agent.working-after-call",  STATE, Nothing,        Enters(WorkingAfterCall), "cec_07_1344"),
    row("AgentState_SetWork_Success",        "ccrelay.agent.work-set",            STATE, Nothing,        Enters(WorkingAfterCall), "cec_07_1351"),
    row("AgentState_CancelWork_Success",     "ccrelay.agent.work-cancelled",      STATE, Nothing,        Leaves(WorkingAfterCall), "cec"),
    row("AgentState_SetNotReady_Success",    "ccrelay.agent.not-ready",           STATE, NotReadyReason, Enters(NotReady),         "cec_07_1346"),
    row("AgentState_NotReady",               "ccrelay.agent.not-ready",           STATE, NotReadyReason, Enters(NotReady),         "-"),
    row("AgentState_Force_SetNotReady",      "ccrelay.agent.not-ready-forced",    STATE, NotReadyReason, Enters(NotReady),         "-"),
    row("AgentState_CancelNotReady_Success", "ccrelay.agent.not-ready-cancelled", STATE, Nothing,        Leaves(NotReady),         "cec_07_1347"),
    row("AgentState_SetRest_Success",        "ccrelay.agent.rest",                STATE, RestReason,     Enters(Rest),             "cec_07_1348"),
    row("AgentState_CancelRest_Success",     "ccrelay.agent.rest-cancelled",      STATE, Nothing,        Leaves(Rest),             "cec_07_1349"),
    row("AgentState_Rest_Timeout",           "ccrelay.agent.rest-overdue",        STATE, Nothing,        Reminds(Rest),            "cec_07_1350"),

    // Calls.
    row("AgentEvent_Incoming_CallInfo",  "ccrelay.call.offered",                  CALL, OfferedCall,  Offers,                  "cec_07_1373"),
    row("AgentEvent_Ringing",            "ccrelay.call.ringing",                  CALL, Call,         Effect::Call(Alerting),  "cec_07_1366"),
    row("AgentEvent_Auto_Answer",        "ccrelay.call.auto-answered",            CALL, Call,         Effect::Call(Connected), "cec_07_1365"),
    row("AgentEvent_Customer_Alerting",  "ccrelay.call.customer-alerting",        CALL, Call,         Reaches,                 "cec_07_1356"),
    row("AgentEvent_Talking",            "ccrelay.call.established",              CALL, Call,         Effect::Call(Connected), "cec_07_1355"),
    row("AgentEvent_Conference",         "ccrelay.call.conferenced",              CALL, Call,         Continues(Connected),    "cec_07_1358"),
    row("AgentEvent_Hold",               "ccrelay.call.held",                     CALL, Call,         Continues(Held),         "cec_07_1357"),
    row("AgentEvent_MediaSwith",         "ccrelay.call.media-switched",           CALL, SwitchedCall, Notes,                   "cec_07_1371"),
    row("AgentEvent_SuccTransResult",    "ccrelay.call.transfer-result",          CALL, Call,         Notes,                   "cec_07_1369"),
    row("AgentEvent_TransOutResult",     "ccrelay.call.transfer-out-result",      CALL, Call,         Notes,                   "-"),
    row("AgentEvent_ReturnFromIvr",      "ccrelay.call.returned-from-ivr",        CALL, Call,         Notes,                   "cec_07_1370"),
    row("AgentEvent_ReleaseRequest",     "ccrelay.call.release-requested",        CALL, Call,         Nil,                     "-"),
    row("AgentEvent_ReleaseResponse",    "ccrelay.call.release-answered",         CALL, Call,         Nil,                     "-"),
    row("AgentEvent_Call_Release",       "ccrelay.call.released",                 CALL, Call,         Effect::Call(Ended),     "cec_07_1363"),
    row("AgentEvent_Customer_Release",   "ccrelay.call.customer-released",        CALL, Call,         Notes,                   "cec_07_1364"),
    row("AgentEvent_AbandonCall",        "ccrelay.call.abandoned",                CALL, Call,         Effect::Call(Ended),     "-"),
    row("AgentEvent_No_Answer",          "ccrelay.call.not-answered",             CALL, Call,         Effect::Call(Ended),     "cec_07_1362"),
    row("AgentEvent_No_Answer_From_Cti", "ccrelay.call.not-answered-cti",         CALL, Call,         Effect::Call(Ended),     "-"),
    row("AgentEvent_Call_Out_Fail",      "ccrelay.call.outgoing-failed",          CALL, Call,         Effect::Call(Ended),     "cec_07_1359"),
    row("OUTBOUND_DETECT_EVENT",         "ccrelay.call.outgoing-failure-detected", CALL, Call,        Nil,                     "cec_07_1360"),
    row("AgentEvent_Inside_Call_Fail",   "ccrelay.call.internal-failed",          CALL, Call,         Effect::Call(Ended),     "cec_07_1361"),
    row("AgentEvent_Connect_Fail",       "ccrelay.call.connection-failed",        CALL, Call,         Fails,                   "cec_07_1367"),
    row("AgentEvent_Consult_Fail",       "ccrelay.call.consultation-failed",      CALL, Call,         Fails,                   "cec_07_1368"),

    // Outbound calls.
    row("AgentEvent_Agent_Occupyed",     "ccrelay.outbound.agent-reserved",        OUTBOUND, Nothing, Enters(Busy), "cec_07_1376"),
    row("AgentEvent_Preview",            "ccrelay.outbound.preview-offered",       OUTBOUND, Preview, Nil,          "cec_07_1377"),
    row("AgentEvent_Preview_CallOut",    "ccrelay.outbound.preview-call",          OUTBOUND, Preview, Nil,          "cec_07_1378"),
    row("AgentEvent_Preview_CallOut_Ex", "ccrelay.outbound.preview-call-extended", OUTBOUND, Preview, Nil,          "cec_07_1379"),
    row("AgentEvent_Release_Preview",    "ccrelay.outbound.preview-released",      OUTBOUND, Preview, Nil,          "cec_07_1375"),

    // Text and video sessions.
    row("AgentEvent_MessageData",    "ccrelay.message.received",             MESSAGE, Chat,         Notes,                   "cec_07_1405"),
    row("AgentEvent_RequestConnect", "ccrelay.message.video-access-granted", MESSAGE, VideoSession, Nil,                     "cec_07_1406"),
    row("AgentEvent_ImageCapture",   "ccrelay.message.screenshot-taken",     MESSAGE, Screenshot,   Nil,                     "cec_07_1407"),
    row("AgentChat_CallOutCreated",  "ccrelay.chat.created",                 MESSAGE, Chat,         Effect::Call(Initiated), "-"),
    row("AgentChat_CalloutFailed",   "ccrelay.chat.failed",                  MESSAGE, Chat,         Effect::Call(Ended),     "-"),
    row("AgentChat_Ring",            "ccrelay.chat.ringing",                 MESSAGE, Chat,         Effect::Call(Alerting),  "-"),
    row("AgentChat_Connected",       "ccrelay.chat.established",             MESSAGE, Chat,         Effect::Call(Connected), "-"),
    row("AgentChat_DataRecved",      "ccrelay.chat.message-received",        MESSAGE, Chat,         Notes,                   "-"),
    row("AgentChat_TransferStart",   "ccrelay.chat.transfer-started",        MESSAGE, Chat,         Nil,                     "-"),
    row("AgentChat_TransferFailed",  "ccrelay.chat.transfer-failed",         MESSAGE, Chat,         Nil,                     "-"),
    row("AgentChat_Disconnected",    "ccrelay.chat.released",                MESSAGE, Chat,         Effect::Call(Ended),     "-"),
    row("AgentChat_DELAY_EMAIL",     "ccrelay.chat.email-delayed",           MESSAGE, Chat,         Nil,                     "-"),

    // Conferences.
    row("AgentConf_RequestSuccess",       "ccrelay.conference.granted",                 CONFERENCE, Conference, Nil, "cec_07_1409"),
    row("AgentConf_RequestFailed",        "ccrelay.conference.refused",                 CONFERENCE, Conference, Nil, "cec_07_1410"),
    row("AgentConf_Ringing",              "ccrelay.conference.ringing",                 CONFERENCE, Conference, Nil, "cec_07_1413"),
    row("AgentConf_SelfJoinResult",       "ccrelay.conference.joined",                  CONFERENCE, Conference, Nil, "cec_07_1411"),
    row("AgentConf_SelfLeaveResult",      "ccrelay.conference.left",                    CONFERENCE, Conference, Nil, "cec_07_1415"),
    row("AgentConf_ParticipantChanged",   "ccrelay.conference.participant-changed",     CONFERENCE, Conference, Nil, "cec_07_0564"),
    row("AgentConf_PresidentChanged",     "ccrelay.conference.chair-taken",             CONFERENCE, Conference, Nil, "cec_07_1416"),
    row("AgentConf_Timeout",              "ccrelay.conference.ending-soon",             CONFERENCE, Conference, Nil, "cec_07_1412"),
    row("AgentConf_StopVoice",            "ccrelay.conference.playback-ended",          CONFERENCE, Conference, Nil, "cec_07_1417"),
    row("AgentConf_StopParticipantVoice", "ccrelay.conference.participant-playback-ended", CONFERENCE, Conference, Nil, "cec_07_1418"),
    row("AgentEvent_JoinConf",            "ccrelay.conference.ready-to-join",           CONFERENCE, Conference, Nil, "-"),

    // The agent's phone.
    row("AgentOther_PhoneAlerting", "ccrelay.phone.ringing",     PHONE, Phone, Nil, "cec_07_1398"),
    row("AgentOther_PhoneOffhook",  "ccrelay.phone.off-hook",    PHONE, Phone, Nil, "cec_07_1397"),
    row("AgentOther_PhoneRelease",  "ccrelay.phone.on-hook",     PHONE, Phone, Nil, "cec_07_1396"),
    row("AgentOther_PhoneBusy",     "ccrelay.phone.unavailable", PHONE, Phone, Nil, "cec_07_1399"),
    row("AgentOther_PhoneUnknow",   "ccrelay.phone.unknown",     PHONE, Phone, Nil, "cec_07_1395"),

    // Linked desk phones.
    row("AgentEvent_linkageCapability",             "ccrelay.linked-phone.link-result",       LINKAGE, LinkedPhone,       Nil,                  "cec_07_1421"),
    row("AgentEvent_linkagePhoneStatus",            "ccrelay.linked-phone.status-changed",    LINKAGE, LinkedPhoneStatus, Nil,                  "cec_07_0572"),
    row("AgentEvent_linkagePhoneCallOut",           "ccrelay.linked-phone.calling-out",       LINKAGE, LinkedPhone,       Nil,                  "cec_07_1429"),
    row("AgentEvent_linkagePhoneHold",              "ccrelay.linked-phone.held",              LINKAGE, LinkedPhone,       Continues(Held),      "cec_07_1427"),
    row("AgentEvent_linkagePhoneUnHold",            "ccrelay.linked-phone.retrieved",         LINKAGE, LinkedPhone,       Continues(Connected), "cec_07_1428"),
    row("AgentEvent_linkagePhoneMute",              "ccrelay.linked-phone.muted",             LINKAGE, LinkedPhone,       Nil,                  "cec_07_1423"),
    row("AgentEvent_linkagePhoneUnMute",            "ccrelay.linked-phone.unmuted",           LINKAGE, LinkedPhone,       Nil,                  "cec_07_1424"),
    row("AgentEvent_linkagePhoneTransferOut",       "ccrelay.linked-phone.transferring",      LINKAGE, LinkedPhone,       Nil,                  "cec_07_1425"),
    row("AgentEvent_linkagePhoneTransferOut_Result", "ccrelay.linked-phone.transfer-result",   LINKAGE, LinkedPhone,       Notes,                "cec_07_1426"),

    // Recording, and playing recordings.
    row("AgentMediaEvent_Record",         "ccrelay.recording.started",       RECORDING, Recording, Nil, "cec_07_1381"),
    row("AgentMediaEvent_Record_Fail",    "ccrelay.recording.failed",        RECORDING, Recording, Nil, "cec_07_1382"),
    row("AgentMediaEvent_StopRecordDone", "ccrelay.recording.stopped",       RECORDING, Recording, Nil, "cec_07_1383"),
    row("AgentMediaEvent_Play_Succ",      "ccrelay.playback.accepted",       PLAYBACK,  Playback,  Nil, "cec_07_1386"),
    row("AgentMediaEvent_Play_Succd",     "ccrelay.playback.accepted",       PLAYBACK,  Playback,  Nil, "-"),
    row("AgentMediaEvent_Play",           "ccrelay.playback.started",        PLAYBACK,  Playback,  Nil, "cec_07_1385"),
    row("AgentMediaEvent_Play_Fail",      "ccrelay.playback.failed",         PLAYBACK,  Playback,  Nil, "cec_07_1387"),
    row("AgentMediaEvent_PausePlayDone",  "ccrelay.playback.paused",         PLAYBACK,  Playback,  Nil, "cec_07_1389"),
    row("AgentMediaEvent_ResumePlayDone", "ccrelay.playback.resumed",        PLAYBACK,  Playback,  Nil, "cec_07_1390"),
    row("AgentMediaEvent_JumpPlayDone",   "ccrelay.playback.jumped",         PLAYBACK,  Playback,  Nil, "cec_07_1391"),
    row("AgentMediaEvent_StopPlayDone",   "ccrelay.playback.stopped",        PLAYBACK,  Playback,  Nil, "cec_07_1388"),

    // Inspection by supervisors.
    row("AgentOther_BeQcStart",   "ccrelay.quality-check.started",              QUALITY, QualityCheck, Nil, "cec_07_0542"),
    row("AgentOther_BeQcStop",    "ccrelay.quality-check.stopped",              QUALITY, QualityCheck, Nil, "cec_07_0543"),
    row("QC_AgentState_Notify",   "ccrelay.quality-check.monitored-agent-changed", QUALITY, QualityCheck, Nil, "cec_07_1393"),

    // The rest.
    row("AgentOther_All_Agent_Busy",       "ccrelay.queue.all-agents-busy",          OTHER, Nothing, Nil, "cec_07_1403"),
    row("AgentOther_Note",                 "ccrelay.note.received",                  OTHER, Note,    Nil, "cec_07_0500"),
    row("AgentOther_Bulletin",             "ccrelay.bulletin.received",              OTHER, Note,    Nil, "-"),
    row("AgentEvent_ControlWindow_Notify", "ccrelay.workbench.control-window",       OTHER, Nothing, Nil, "-"),
    row("AgentEvent_Orders_Notify",        "ccrelay.workbench.orders",               OTHER, Nothing, Nil, "-"),
];
