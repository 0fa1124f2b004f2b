//! What the gateway's code numbers mean: its own tables, in words for JSON. Each table names the page of the CEC API
//! Reference it was taken from. A code that is in no table passes as a number without a name.

use schemars::JsonSchema;
use serde::Serialize;

/// A code of the gateway and, where it is documented, what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Code {
    /// The number as the gateway gave it, whether it wrote `5` or `"5"`.
    pub code: i64,
    /// The meaning in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
}

/// One table of codes.
pub type Table = &'static [(i64, &'static str)];

impl Code {
    /// Looks `code` up in `table`.
    pub(super) fn of(table: Table, code: i64) -> Code {
        Code { code, name: table.iter().find(|(known, _)| *known == code).map(|(_, name)| *name) }
    }

    /// A reason of not being ready (cec_07_1346): those from 200 to 250 are the contact centre's own.
    pub(super) fn not_ready_reason(code: i64) -> Code {
        match code {
            200..=250 => Code { code, name: Some("businessDefined") },
            _ => Code::of(NOT_READY_REASON, code),
        }
    }
}

/// `feature`: the call type (cec_07_0582). It belongs to the call id and stays the same through a transfer.
pub(super) const FEATURE: Table = &[
    (0, "inbound"),
    (6, "internal"),
    (7, "outgoing"),
    (40, "scheduledOutgoing"),
    (41, "reservedOutgoing"),
    (43, "predictedOutgoing"),
    (44, "previewedOutgoing"),
    (45, "scheduledCallback"),
    (51, "internalHelpTwoParty"),
    (52, "internalHelpThreeParty"),
    (53, "multiParty"),
];

/// Who began a call of this `feature`; nobody can say it of a multi-party conversation.
pub(super) fn direction(feature: i64) -> Option<&'static str> {
    match feature {
        0 => Some("inbound"),
        6 | 51 | 52 => Some("internal"),
        7 | 40 | 41 | 43 | 44 | 45 => Some("outbound"),
        _ => None,
    }
}

/// `mediaAbility`: the media of a call (cec_07_1355, cec_07_1366, cec_07_1405).
pub const MEDIA: Table = &[(1, "voice"), (2, "video"), (3, "voiceAndVideo"), (TEXT, "text"), (6, "h5Video")];

/// The `mediaAbility` of text sessions.
pub(super) const TEXT: i64 = 5;

/// `mediaType` of calls that ring or are offered (cec_07_0513, cec_07_0520).
pub(super) const MEDIA_TYPE: Table = &[
    (1, "textChat"),
    (2, "clickToDial"),
    (4, "callbackRequest"),
    (5, "voiceOrVideo"),
    (15, "predictedOutgoing"),
    (16, "previewedOutgoing"),
    (17, "messageCall"),
    (19, "video"),
    (51, "multimediaWebChat"),
    (53, "socialChat"),
];

/// `mediaType` of a switch between voice and video (cec_07_1371): not the table above. Its codes are two of `mediaAbility`; the page
/// says video of 3, which a call with video has when it is established next (cec_07_1355 has no 2), so one code has one name.
pub(super) const SWITCHED_MEDIA: Table = &[(1, "voice"), (3, "voiceAndVideo")];

/// The `mediaAbility` of a call that was switched to `code`.
pub(super) fn media_of_switch(code: i64) -> Option<i64> {
    Code::of(SWITCHED_MEDIA, code).name.map(|_| code)
}

/// `reason` of `AgentState_SetNotReady_Success` (cec_07_1346).
pub(super) const NOT_READY_REASON: Table = &[
    (0, "none"),
    (1, "byAgent"),
    (2, "noAnswer"),
    (3, "byInspector"),
    (4, "rest"),
    (5, "phoneUnavailable"),
    (7, "callRejectedOrReleased"),
];

/// `phoneState` of a phone put on hook (cec_07_1396).
pub(super) const PHONE_RELEASE: Table = &[(2, "agent"), (3, "platform")];

/// `cause` of a playback's end (cec_07_1388).
pub(super) const PLAYBACK_END: Table = &[(0, "ended"), (1, "stoppedByAgent"), (2, "failed")];

/// `fileMediaType` of a recording (cec_07_1381).
pub(super) const FILE_MEDIA: Table = &[(1, "audio"), (2, "video")];

/// `recordFormat` of a recording (cec_07_0531).
pub(super) const RECORD_FORMAT: Table = &[(0, "default"), (1, "vox24k"), (2, "vox32k"), (3, "aLaw")];

/// `changeType` of a conference member (cec_07_0564).
pub(super) const CONFERENCE_CHANGE: Table = &[
    (0, "joined"),
    (LEFT, "left"),
    (2, "chairChanged"),
    (3, "speechForbidden"),
    (4, "speechAllowed"),
    (5, "held"),
    (6, "resumed"),
];

/// The `changeType` of a member who left: the only one whose `changeReason` means anything.
pub(super) const LEFT: i64 = 1;

/// `changeReason` of a conference member who left (cec_07_0564).
pub(super) const CONFERENCE_LEAVE: Table = &[
    (0, "byItself"),
    (1, "removedByChair"),
    (2, "hungUp"),
    (3, "conferenceEnded"),
    (4, "agentSignedOut"),
    (6, "forced"),
];

/// `participantType` of a conference member (cec_07_0564).
pub(super) const PARTICIPANT: Table = &[(6, "phoneNumber"), (9, "agent")];

/// `result` of `AgentEvent_linkagePhoneStatus` (cec_07_0572), which is a state for all its name.
pub(super) const LINKED_PHONE: Table =
    &[(0, "offHook"), (1, "onHook"), (2, "inCall"), (3, "online"), (4, "offline"), (5, "ringing")];

/// `qcType`: how an inspector takes part in a call (cec_07_0542).
pub(super) const QUALITY_CHECK: Table =
    &[(8, "listening"), (9, "insertion"), (20172, "whispering"), (20173, "whispering")];

/// `result` of a screenshot (cec_07_0557).
pub(super) const IMAGE_CAPTURE: Table = &[(0, "succeeded"), (1, "failed"), (2, "refusedByCustomer")];

/// `result` of everything else: 0 is success, anything else failure.
pub(super) fn outcome(code: i64) -> Code {
    Code { code, name: Some(if code == 0 { "succeeded" } else { "failed" }) }
}
