//! From the content of an event to the sections of `data`, levelling what the gateway writes in several ways: other
//! spellings and types of one member ([`super::json`]), a bare call id in place of an object, separators of lists.

use std::borrow::Cow;

use super::body::Body;
use super::codes::{self, Code};
use super::details::{
    CallData, ConferenceData, Details, LinkedPhoneData, MessageData, NoteData, PhoneData, PlaybackData,
    PreviewData, QualityCheckData, QueueData, RecordingData, ScreenshotData, SessionData, VideoSessionData,
};
use super::report::LOGIN_TIME;
use super::vocabulary::Content;

/// `lastReleaseAgentId` of calls that no agent gave back (cec_07_1373).
const NO_AGENT: &str = "65535";

/// The sections that `body` fills, read as `content`.
pub(super) fn details(content: Content, body: &Body<'_>) -> Details {
    let mut details = Details::default();
    let d = &mut details;
    match content {
        Content::Nothing | Content::NotReadyReason | Content::RestReason => {}
        Content::Call => d.call = boxed(call(body)),
        Content::OfferedCall => {
            d.call = boxed(call(body));
            d.queue = some(queue(body));
        }
        Content::SwitchedCall => d.call = boxed(switched_call(body)),
        Content::Chat => {
            d.call = boxed(call(body));
            d.message = some(message(body));
        }
        Content::Conference => d.conference = boxed(conference(body)),
        Content::Screenshot => {
            d.call = boxed(call_id_only(body));
            d.screenshot = some(screenshot(body));
        }
        Content::VideoSession => {
            d.call = boxed(call_id_only(body));
            d.video_session = boxed(video_session(body));
        }
        Content::Recording => {
            d.call = boxed(parties(body));
            d.recording = boxed(recording(body));
        }
        Content::Playback => {
            d.playback = some(PlaybackData { cause: body.code("cause", codes::PLAYBACK_END) })
        }
        Content::Phone => {
            // Only an inbound call's ringing names the call; `type` is then the leg of the phone.
            d.call = boxed(parties(body));
            d.phone = some(phone(body));
        }
        Content::LinkedPhone | Content::LinkedPhoneStatus => linked_phone(content, body, d),
        Content::Preview => d.preview = some(preview(body)),
        Content::QualityCheck => d.quality_check = boxed(quality_check(body)),
        Content::Note => d.note = boxed(note(body)),
        Content::SignOut => {
            d.session = some(SessionData { signed_in_at: body.time(LOGIN_TIME), reason: None });
        }
    }
    details
}

/// The sections of `data` that an event with this content can have.
pub(crate) fn sections(content: Content) -> &'static [&'static str] {
    match content {
        Content::Nothing | Content::NotReadyReason | Content::RestReason => &[],
        Content::Call | Content::SwitchedCall => &["call"],
        Content::OfferedCall => &["call", "queue"],
        Content::Chat => &["call", "message"],
        Content::Conference => &["conference"],
        Content::Screenshot => &["call", "screenshot"],
        Content::VideoSession => &["call", "videoSession"],
        Content::Recording => &["call", "recording"],
        Content::Playback => &["playback"],
        Content::Phone => &["call", "phone"],
        Content::LinkedPhone | Content::LinkedPhoneStatus => &["call", "linkedPhone"],
        Content::Preview => &["preview"],
        Content::QualityCheck => &["qualityCheck"],
        Content::Note => &["note"],
        Content::SignOut => &["session"],
    }
}

fn call_id_only(body: &Body<'_>) -> CallData {
    CallData { id: body.call_id().map(Cow::into_owned), ..CallData::default() }
}

/// The call id and who is in the call.
fn parties(body: &Body<'_>) -> CallData {
    let caller = body.text("caller");
    let called = body.text("called");
    CallData {
        caller_agent_id: caller.as_deref().and_then(agent_of),
        called_agent_id: called.as_deref().and_then(agent_of),
        caller,
        called,
        ..call_id_only(body)
    }
}

fn call(body: &Body<'_>) -> CallData {
    let Body::Members(_) = body else { return call_id_only(body) };
    let feature = body.integer("feature");
    CallData {
        leg: body.text("type"),
        direction: feature.and_then(codes::direction),
        other_party: body.text("otherPhone").or_else(|| body.text("number")),
        other_party_agent_id: body.text("otherPhoneWorkno"),
        partners: body.list("partner"),
        media: body.code("mediaAbility", codes::MEDIA),
        media_type: body.code("mediaType", codes::MEDIA_TYPE),
        feature: feature.map(|code| Code::of(codes::FEATURE, code)),
        transferred: body.flag("transfer"),
        transferred_from: body.text("transfrom"),
        internal: body.flag("isInnerCall"),
        result: body.outcome("result"),
        cause: body.integer("detect").map(|code| Code { code, name: None }),
        cause_text: body.text("desc"),
        attached_data: body.text("attachData"),
        ..parties(body)
    }
}

/// Here `reason` is the result and `mediaType` has a table of its own (cec_07_1371).
fn switched_call(body: &Body<'_>) -> CallData {
    CallData {
        media: switched_media(body).map(|code| Code::of(codes::SWITCHED_MEDIA, code)),
        result: body.outcome("reason"),
        ..parties(body)
    }
}

/// The media that a call was switched to, unless that failed.
pub(super) fn switched_media(body: &Body<'_>) -> Option<i64> {
    body.integer("mediaType").filter(|_| body.integer("reason") == Some(0))
}

fn queue(body: &Body<'_>) -> QueueData {
    QueueData {
        id: body.integer("skillId"),
        name: body.text("skillName"),
        requeued: body.flag("releaseAndReQueueCallFlag"),
        requeue_count: body.integer("releaseAndReQueueCount"),
        last_agent_id: body.text("lastReleaseAgentId").filter(|id| id != NO_AGENT),
    }
}

fn message(body: &Body<'_>) -> MessageData {
    MessageData {
        text: body.text("message").or_else(|| body.text("chatContent")),
        sender: body.text("sender"),
    }
}

fn conference(body: &Body<'_>) -> ConferenceData {
    let change = body.code("changeType", codes::CONFERENCE_CHANGE);
    let left = change.is_some_and(|change| change.code == codes::LEFT);
    ConferenceData {
        id: body.text("confId"),
        result: body.outcome("result"),
        cause: body.integer("cause").map(|code| Code { code, name: None }),
        change,
        reason: body.code("changeReason", codes::CONFERENCE_LEAVE).filter(|_| left),
        participant: body.text("participant"),
        participant_type: body.code("participantType", codes::PARTICIPANT),
        info: body.text("confinfo"),
    }
}

fn screenshot(body: &Body<'_>) -> ScreenshotData {
    ScreenshotData {
        result: body.code("result", codes::IMAGE_CAPTURE),
        file: body.text("filename"),
        location_id: body.text("locationId"),
    }
}

fn video_session(body: &Body<'_>) -> VideoSessionData {
    VideoSessionData {
        channel_id: body.text("channelId"),
        role: body.text("role"),
        expires: body.text("ctime"),
        location_id: body.text("locationId"),
    }
}

fn recording(body: &Body<'_>) -> RecordingData {
    let (started_at, ended_at) = (body.time("beginTime"), body.time("endTime"));
    let lasted = started_at.zip(ended_at).map(|(start, end)| end.0.since(start.0).as_secs_f64());
    RecordingData {
        id: body.text("recordID"),
        task_id: body.text("taskId"),
        file: body.text("fileName"),
        location_id: body.text("locationId"),
        media: body.code("fileMediaType", codes::FILE_MEDIA),
        format: body.code("recordFormat", codes::RECORD_FORMAT),
        started_at,
        ended_at,
        duration_seconds: lasted,
    }
}

fn phone(body: &Body<'_>) -> PhoneData {
    PhoneData { leg: body.text("type"), released_by: body.code("phoneState", codes::PHONE_RELEASE) }
}

fn linked_phone(content: Content, body: &Body<'_>, details: &mut Details) {
    // The call id of a call that only begins is not that of the call which comes of it (cec_07_1429).
    let begins = body.value("addrCalled").is_some();
    let is_status = content == Content::LinkedPhoneStatus;
    let call = call_id_only(body);
    details.linked_phone = boxed(LinkedPhoneData {
        status: body.code("result", codes::LINKED_PHONE).filter(|_| is_status),
        result: body.outcome("result").filter(|_| !is_status),
        number: body.address("addrCaller").or_else(|| body.address("addrSelf")),
        target: body.address("addrCalled").or_else(|| body.address("addrOut")),
        skill_id: body.integer("skillId"),
        provisional_call_id: call.id.clone().filter(|_| begins),
    });
    details.call = if begins { None } else { boxed(call) };
}

fn preview(body: &Body<'_>) -> PreviewData {
    PreviewData {
        control_id: body.text("controlid"),
        numbers: body.list("dialeddigits"),
        call_data: body.text("callData"),
    }
}

fn quality_check(body: &Body<'_>) -> QualityCheckData {
    let change = match body.text("subtype").as_deref() {
        Some("QC_AgentState_Login") => Some("signedIn"),
        Some("QC_AgentState_Logout") => Some("signedOut"),
        _ => None,
    };
    QualityCheckData {
        kind: body.code("qcType", codes::QUALITY_CHECK),
        inspector_id: body.text("qcAgentId"),
        change,
        monitored_agent_id: body.text("monitoredagent"),
        monitored_agent_name: body.text("agentname"),
        media_server: body.text("mediaserver"),
    }
}

fn note(body: &Body<'_>) -> NoteData {
    NoteData {
        sender_id: body.text("sender"),
        sender_name: body.text("sendername"),
        received_at: body.text("receivetime").or_else(|| body.text("timestring")),
        text: body.text("context"),
    }
}

/// The agent that a number names: numbers of agents begin with `a` or `A` (cec_07_1366).
pub(super) fn agent_of(number: &str) -> Option<String> {
    let digits = number.strip_prefix(['a', 'A'])?;
    let is_id = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_id.then(|| digits.to_owned())
}

/// `section`, unless nothing in it is filled.
fn some<T: Default + PartialEq>(section: T) -> Option<T> {
    (section != T::default()).then_some(section)
}

fn boxed<T: Default + PartialEq>(section: T) -> Option<Box<T>> {
    some(section).map(Box::new)
}
