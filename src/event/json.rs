//! Reading JSON that was not written for us: members by any spelling, values of any type, nothing copied that can
//! be borrowed, nothing refused that is well-formed.
//!
//! Member names are compared without regard to case, because the gateway writes `callid` and `callId`, `transfrom` and
//! `transFrom`, `filename` and `fileName` for the same thing. Of members that come twice the last one counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object, their values unread and in the order of the text.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads the members of the object that `text` is, checking all of it.
    pub(super) fn parse(text: &'a str) -> Result<Members<'a>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer.deserialize_map(MembersVisitor)?;
        deserializer.end()?;
        Ok(members)
    }

    /// The members of `value` when it is an object.
    pub(super) fn of(value: &'a RawValue) -> Option<Members<'a>> {
        if value.get().starts_with('{') { Members::parse(value.get()).ok() } else { None }
    }

    /// The value of the member called `name`, in whatever case.
    pub(super) fn value(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Whether there is a member that is called none of `names`.
    pub(super) fn has_others_than(&self, names: &[&str]) -> bool {
        let known = |key: &str| names.iter().any(|name| key.eq_ignore_ascii_case(name));
        self.0.iter().any(|(key, _)| !known(key))
    }
}

/// The elements of `value`: those of an array, none of `null` or nothing, and anything else as the only element.
pub(super) fn elements(value: &RawValue) -> Vec<&RawValue> {
    match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).unwrap_or_default(),
        Some(b'n') => Vec::new(),
        _ if value.get() == "\"\"" => Vec::new(),
        _ => vec![value],
    }
}

/// The text of a string. Halves of surrogate pairs, which JSON can write and Unicode cannot, become U+FFFD.
pub(super) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.as_bytes().contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    let bytes = TextSeed.deserialize(&mut serde_json::Deserializer::from_str(value.get())).ok()?;
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The text of a string, number or boolean; nothing for the empty string, `null`, arrays and objects.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get().as_bytes().first()? {
        b'"' => string(value).filter(|text| !text.is_empty()),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value.get())),
    }
}

/// A whole number, written as a number or as a string of digits.
pub(super) fn integer(value: &RawValue) -> Option<i64> {
    text(value)?.trim().parse().ok()
}

/// A yes or no, in any of the ways the gateway's editions write one.
pub(super) fn flag(value: &RawValue) -> Option<bool> {
    let text = text(value)?;
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    match () {
        () if is_one_of(&["true", "yes", "1"]) => Some(true),
        () if is_one_of(&["false", "no", "0"]) => Some(false),
        () => None,
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        // As raw values names are checked like any string, and may hold halves of surrogate pairs.
        while let Some(key) = map.next_key::<&RawValue>()? {
            members.push((string(key).unwrap_or_default(), map.next_value()?));
        }
        Ok(Members(members))
    }
}

/// Reads a JSON string as bytes: the only way past serde_json's check for halves of surrogate pairs.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, [u8]>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(TextSeed)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn members_are_found_in_any_case_and_the_last_of_two_counts() {
        let members = Members::parse(r#"{"callId":1, "x":null, "CALLID" : "2" }"#).unwrap();
        assert_eq!(members.value("callid").unwrap().get(), "\"2\"");
        assert!(members.value("other").is_none());
        assert!(members.has_others_than(&["callid"]));
        assert!(!members.has_others_than(&["callid", "x"]));
        assert!(Members::parse(r#"{"a":1} x"#).is_err());
        for control in ["{\"a\u{18}\":1}", "{\"a\n\":1}", "{\"a\":\"\t\"}"] {
            assert!(Members::parse(control).is_err(), "{control:?}");
        }
    }

    #[test]
    fn strings_survive_escapes_and_halves_of_surrogate_pairs() {
        assert_eq!(string(raw(r#""plain""#)).unwrap(), "plain");
        assert_eq!(string(raw(r#""a\u00e9\n""#)).unwrap(), "aé\n");
        assert_eq!(string(raw(r#""\ud83d\ude00""#)).unwrap(), "😀");
        assert!(string(raw(r#""x\ud800y""#)).unwrap().contains('\u{fffd}'));
        assert_eq!(string(raw("12")), None);
        let members = Members::parse(r#"{"\ud800":1,"a":2}"#).unwrap();
        assert_eq!(members.value("a").unwrap().get(), "2");
    }

    #[test]
    fn numbers_and_flags_are_read_from_strings_too() {
        for (json, number) in
            [("7", Some(7)), ("\" 7\"", Some(7)), ("7.5", None), ("\"\"", None), ("{}", None)]
        {
            assert_eq!(integer(raw(json)), number, "{json}");
        }
        for (json, yes) in [("\"Yes\"", Some(true)), ("0", Some(false)), ("true", Some(true)), ("null", None)]
        {
            assert_eq!(flag(raw(json)), yes, "{json}");
        }
    }

    #[test]
    fn a_list_may_be_null_or_a_single_thing() {
        let texts = |json| elements(raw(json)).iter().map(|e| e.get().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts("[1, {}]"), ["1", "{}"]);
        assert_eq!(texts("{\"a\":1}"), ["{\"a\":1}"]);
        assert!(texts("null").is_empty() && texts("\"\"").is_empty() && texts("[]").is_empty());
    }
}
