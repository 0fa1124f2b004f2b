use super::super::tests::event;
use super::*;
use crate::event::cloudevent;
use crate::event::data::Verbatim;
use crate::event::details::{CallData, ConferenceData, MessageData};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn mask(fields: &[&str]) -> Mask {
    let mut mask = Mask::default();
    fields.iter().for_each(|field| mask.add(field).unwrap());
    mask.set_key(MaskKey::new(SECRET).unwrap());
    mask
}

/// An event with the same number in several places and notations.
fn call() -> Event {
    let mut event = event("main", "1001", "ccrelay.call.ringing");
    event.data.details.call = Some(Box::new(CallData {
        id: Some("1469530123-84".into()),
        caller: Some("+4930123456".into()),
        other_party: Some("030 123456".into()),
        called: Some("8000".into()),
        partners: Some(vec!["+4930123456".into(), "+4940999999".into()]),
        attached_data: Some("from=+4930123456;to=8000".into()),
        ..CallData::default()
    }));
    event.data.raw.content = Some(Verbatim::of(serde_json::from_str(r#"{"caller":"+4930123456"}"#).unwrap()));
    event.data.raw.event = event.data.raw.content.clone();
    event
}

fn published(mask: &Mask, mut event: Event) -> (Event, String) {
    mask.apply(&mut event);
    let text = String::from_utf8(cloudevent::structured(&event)).unwrap();
    (event, text)
}

#[test]
fn a_hidden_number_is_nowhere_in_what_is_published() {
    for kind in ["", ":hash", ":hide"] {
        let (event, text) = published(&mask(&[&format!("call.caller{kind}")]), call());
        for digits in ["4930123456", "30123456", "123456"] {
            assert!(!text.replace(' ', "").contains(digits), "{kind}: {text}");
        }
        let call = event.data.details.call.unwrap();
        let hidden = call.caller.unwrap();
        assert_eq!(call.other_party.as_deref(), Some(&*hidden), "the same number in another notation");
        assert_eq!(call.partners.unwrap(), [hidden.clone(), "+4940999999".into()]);
        assert_eq!(call.attached_data.unwrap(), format!("from={hidden};to=8000"));
        assert_eq!(call.called.as_deref(), Some("8000"), "other numbers stay");
        assert_eq!(call.id.as_deref(), Some("1469530123-84"), "digits in an id are not that number");
        assert!(
            event.data.raw.withheld && event.data.raw.content.is_none() && event.data.raw.event.is_none()
        );
    }
}

#[test]
fn the_number_of_who_wrote_a_message_is_one_of_the_numbers() {
    let mut event = event("main", "1001", "ccrelay.message.received");
    event.data.details.message =
        Some(MessageData { text: Some("it is I, +4930123456".into()), sender: Some("+4930123456".into()) });
    let (event, text) = published(&mask(&["numbers:hide"]), event);
    assert!(!text.contains("30123456"), "{text}");
    let message = event.data.details.message.unwrap();
    assert_eq!((message.sender.as_deref(), message.text.as_deref()), (Some("***"), Some("it is I, ***")));
}

#[test]
fn a_hash_is_the_same_for_the_same_number_and_another_with_another_secret() {
    let caller = |mask: &Mask| published(mask, call()).0.data.details.call.unwrap().caller.unwrap();
    let (one, same) = (mask(&["call.caller"]), mask(&["numbers"]));
    assert_eq!(caller(&one), caller(&same));
    let hex = caller(&one).strip_prefix("hmac:").unwrap().to_owned();
    assert!(hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{hex}");
    let key = MaskKey::new(SECRET).unwrap();
    assert_eq!(key.hash("+49 (30) 12-34"), key.hash("0049301234"));
    assert_ne!(
        key.hash("0301234"),
        key.hash("+49301234"),
        "what country a national number is of we do not know"
    );
    assert_ne!(key.hash("anna"), key.hash("Anna"));
    assert_ne!(key.hash("0"), key.hash(""));
    let mut other = mask(&["call.caller"]);
    other.set_key(MaskKey::new(b"another secret, of 32 bytes or so").unwrap());
    assert_ne!(caller(&one), caller(&other));
    assert_eq!(MaskKey::new(b"short").unwrap_err(), SecretTooShort(5));
    assert!(!format!("{one:?}").contains("0123456789abcdef"));
}

#[test]
fn last4_leaves_four_characters_of_a_long_text_and_nothing_of_a_short_one() {
    let mut event = call();
    let shown = mask(&["call.caller:last4", "call.called:last4"]);
    let data = published(&shown, event.clone()).0.data.details.call.unwrap();
    assert_eq!((data.caller.as_deref(), data.called.as_deref()), (Some("***3456"), Some("***")));
    event.data.details.message = Some(MessageData { text: Some("übergrößen".into()), sender: None });
    let data = published(&mask(&["message.text:last4"]), event).0.data.details.message.unwrap();
    assert_eq!(data.text.as_deref(), Some("***ößen"));
}

#[test]
fn sections_and_numbers_are_many_texts_at_once() {
    let mut event = call();
    event.data.details.message = Some(MessageData { text: Some("hi".into()), sender: Some("anna".into()) });
    event.data.details.conference =
        Some(Box::new(ConferenceData { participant: Some("+4930777777".into()), ..Default::default() }));
    let (_, text) = published(&mask(&["message.*:hide", "numbers:hide"]), event);
    for personal in ["anna", "\"hi\"", "+49", "777777", "999999", "8000"] {
        assert!(!text.contains(personal), "{personal}: {text}");
    }
}

#[test]
fn raw_goes_where_anything_is_hidden_and_where_it_is_asked_for_and_else_stays() {
    let mut raw_only = Mask::default();
    raw_only.drop_raw();
    let (event, text) = published(&raw_only, call());
    assert!(event.data.raw.withheld && !text.contains("\"content\"") && text.contains("+4930123456"));
    // Also of an event in which there is nothing to hide as far as we know: of unknown ones we know nothing.
    let mut unknown = event_of_unknown_type();
    mask(&["call.caller"]).apply(&mut unknown);
    assert!(unknown.data.raw.withheld && unknown.data.raw.content.is_none());
    let (event, _) = published(&Mask::default(), call());
    assert_eq!(event, call());
}

fn event_of_unknown_type() -> Event {
    let mut event = event("main", "1001", "ccrelay.unknown");
    event.data.raw.content = call().data.raw.content;
    event
}

#[test]
fn what_a_sink_hides_is_hidden_by_every_rule() {
    let both = mask(&["call.called:hide"]).and(&mask(&["call.caller", "call.called"]));
    let call = published(&both, call()).0.data.details.call.unwrap();
    assert!(call.caller.unwrap().starts_with("hmac:"));
    assert_eq!(call.called.as_deref(), Some("***"), "the rule hides more");
}

#[test]
fn no_rule_shows_more_of_a_text_than_its_sink() {
    for (of_sink, of_rule, caller) in [
        ("numbers:hide", "call.caller:last4", "***"),
        ("numbers:hide", "call.caller:hash", "***"),
        ("numbers:hash", "call.caller:last4", "hmac:"),
        ("call.caller:last4", "numbers:hash", "hmac:"),
        ("call.caller:last4", "numbers:hide", "***"),
        ("call.*:last4", "call.caller:last4", "***3456"),
    ] {
        let both = mask(&[of_rule]).and(&mask(&[of_sink]));
        let shown = published(&both, call()).0.data.details.call.unwrap().caller.unwrap();
        assert!(
            shown == caller || (caller == "hmac:" && shown.starts_with(caller)),
            "{of_sink}, {of_rule}: {shown}"
        );
    }
    // Of what one list says twice the first counts, also beside another.
    let exception = mask(&["call.caller:last4", "numbers:hide"]);
    for both in [exception.clone(), Mask::default().and(&exception), exception.and(&Mask::default())] {
        let call = published(&both, call()).0.data.details.call.unwrap();
        assert_eq!((call.caller.as_deref(), call.called.as_deref()), (Some("***3456"), Some("***")));
    }
}

#[test]
fn mistakes_in_a_mask_are_named() {
    let mut mask = Mask::default();
    assert_eq!(mask.add("call.callr"), Err(MaskError::Field("call.callr".into())));
    assert_eq!(mask.add("calls.*"), Err(MaskError::Field("calls.*".into())));
    assert_eq!(mask.add("*"), Err(MaskError::Field("*".into())));
    assert_eq!(mask.add("call.caller:md5"), Err(MaskError::Kind("md5".into())));
    assert!(mask.is_empty());
    // Names of fields that are numbers, all of them there.
    mask.add("numbers").unwrap();
    assert_eq!(mask.fields().len(), NUMBER_FIELDS.len());
}

#[test]
fn a_number_within_a_text_is_found_in_other_notations_and_other_numbers_stay() {
    for (text, expected) in [
        ("from 0049 (30) 12-34 56, id 77", "from ***, id 77"),
        ("+49 30 123456", "***"),
        ("030123456/030123457", "***/030123457"),
        ("12 030 123456 8000", "12 *** 8000"),
        ("tel:30123456;x", "tel:***;x"),
        ("on 2026-07-20 at 10.30", "on 2026-07-20 at 10.30"),
        ("+", "+"),
        ("size: 15, 123456", "size: 15, ***"),
        ("größe 030123456ü", "größe ***ü"),
    ] {
        let mut text = text.to_owned();
        hide_number(&mut text, "+4930123456", HIDDEN);
        assert_eq!(text, expected);
    }
}

proptest::proptest! {
    /// Whatever the texts of an event are, what is hidden in one is in none.
    #[test]
    fn nothing_that_is_hidden_is_left_anywhere(
        caller in "[+0-9a-z ü]{5,16}", before in "[ -~]{0,12}", after in "[ -~]{0,12}", other in "[ -~]{0,20}",
    ) {
        let mut event = call();
        let call = event.data.details.call.as_mut().unwrap();
        call.attached_data = Some(format!("{before}{caller}{after}"));
        call.other_party = Some(other);
        call.caller = Some(caller.clone());
        call.partners = Some(vec![format!("{caller};{after}"), before]);
        call.id = Some("1-1".into());
        mask(&["call.caller:hide"]).apply(&mut event);
        let mut texts = Vec::new();
        event.data.details.visit("", &mut |path, text| texts.push((path.to_owned(), text.clone())));
        for (path, text) in texts {
            proptest::prop_assert!(!text.contains(&caller), "{} in {path}: {text}", caller);
        }
    }
}
