//! Reading JSON that was not written for us: members by any spelling, values of any type, nothing copied that can
//! be borrowed, nothing refused that is well-formed.
//!
//! Member names are compared without regard to case, because the gateway writes `callid` and `callId`, `transfrom` and
//! `transFrom`, `filename` and `fileName` for the same thing. Of members that come twice the last one counts.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};
use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use crate::clock::Timestamp;

/// A value as it is written, in a text that serde_json has found to be JSON. So it is split without looking for mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The text, from its first byte to its last.
    #[must_use]
    pub fn get(self) -> &'a str {
        self.0
    }

    fn first_byte(self) -> Option<u8> {
        self.0.as_bytes().first().copied()
    }

    /// Names and values of the object that this is, in turns and in the order of the text.
    fn parts(self) -> Parts<'a> {
        Parts { text: self.0, at: 1 }
    }
}

impl<'a> From<&'a RawValue> for Json<'a> {
    fn from(value: &'a RawValue) -> Json<'a> {
        Json(value.get())
    }
}

/// The parts of an object.
struct Parts<'a> {
    text: &'a str,
    /// Behind the part before.
    at: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let bytes = self.text.as_bytes();
        let between = |byte: &u8| matches!(byte, b',' | b':' | b' ' | b'\t' | b'\n' | b'\r');
        let begin = self.at + bytes.get(self.at..)?.iter().position(|byte| !between(byte))?;
        self.at = match bytes.get(begin)? {
            b'}' => return None,
            b'"' => end_of_string(bytes, begin)?,
            b'{' | b'[' => end_of_nested(bytes, begin)?,
            _ => {
                let rest = bytes.get(begin..)?;
                begin + rest.iter().position(|byte| between(byte) || *byte == b'}')?
            }
        };
        self.text.get(begin..self.at).map(Json)
    }
}

/// Behind the string that begins here.
fn end_of_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        // What is escaped is no quote, whatever it is.
        at += 2;
    }
}

/// Behind the object or array that begins here.
fn end_of_nested(bytes: &[u8], begin: usize) -> Option<usize> {
    let (mut at, mut depth) = (begin, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = end_of_string(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

/// The members of one object, their values unread and in the order of the text.
#[derive(Debug)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Members<'a> {
    /// The members of `value` when it is an object.
    pub(crate) fn of(value: Json<'a>) -> Option<Members<'a>> {
        if value.first_byte() != Some(b'{') {
            return None;
        }
        let mut members = Vec::with_capacity(8);
        let mut parts = value.parts();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            // Names may hold halves of surrogate pairs, like any string.
            members.push((string(name).unwrap_or_default(), value));
        }
        Some(Members(members))
    }

    /// The value of the member called `name`, in whatever case.
    pub(crate) fn value(&self, name: &str) -> Option<Json<'a>> {
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
pub(crate) fn string(value: Json<'_>) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    let bytes = TextSeed.deserialize(&mut serde_json::Deserializer::from_str(value.get())).ok()?;
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The text of a string, number or boolean; nothing for the empty string, `null`, arrays and objects.
pub(crate) fn text(value: Json<'_>) -> Option<Cow<'_, str>> {
    match value.first_byte()? {
        b'"' => string(value).filter(|text| !text.is_empty()),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value.get())),
    }
}

/// Milliseconds since the epoch, as a number or a string; zero is none.
pub(crate) fn time(value: Json<'_>) -> Option<Timestamp> {
    u64::try_from(integer(value)?).ok().filter(|millis| *millis > 0).map(Timestamp)
}

/// A whole number, written as a number or as a string of digits.
pub(super) fn integer(value: Json<'_>) -> Option<i64> {
    text(value)?.trim().parse().ok()
}

/// A yes or no, in any of the ways the gateway's editions write one.
pub(super) fn flag(value: Json<'_>) -> Option<bool> {
    let text = text(value)?;
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    match () {
        () if is_one_of(&["true", "yes", "1"]) => Some(true),
        () if is_one_of(&["false", "no", "0"]) => Some(false),
        () => None,
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

    fn json(text: &str) -> Json<'_> {
        raw(text).into()
    }

    fn members(text: &str) -> Members<'_> {
        Members::of(json(text)).unwrap()
    }

    #[test]
    fn members_are_found_in_any_case_and_the_last_of_two_counts() {
        let members = members(r#"{"callId":1, "x":null, "CALLID" : "2" }"#);
        assert_eq!(members.value("callid").unwrap().get(), "\"2\"");
        assert!(members.value("other").is_none());
        assert!(members.has_others_than(&["callid"]));
        assert!(!members.has_others_than(&["callid", "x"]));
        assert!(Members::of(json("[1]")).is_none() && Members::of(json("null")).is_none());
    }

    #[test]
    fn values_are_split_where_they_end_whatever_they_hold() {
        let values = [
            r#""a\\""#,
            r#""\"}],""#,
            r#""""#,
            "-1.5e+3",
            "true",
            "null",
            "{}",
            "[]",
            r#"[[{"}":"]"}],{}]"#,
            r#"{"a":{"\"":[1 , 2]}}"#,
            "\"é\u{10348}\"",
        ];
        for space in ["", " ", "\r\n\t"] {
            let list: Vec<_> = values
                .iter()
                .enumerate()
                .map(|(n, value)| format!("\"{n}\"{space}:{space}{value}{space}"))
                .collect();
            let text = format!("{{{space}{}{space}}}", list.join(&format!(",{space}")));
            let members = members(&text);
            for (n, value) in values.iter().enumerate() {
                assert_eq!(members.value(&n.to_string()).unwrap().get(), *value, "{text}");
            }
            assert_eq!(members.0.len(), values.len(), "{text}");
        }
    }

    #[test]
    fn strings_survive_escapes_and_halves_of_surrogate_pairs() {
        assert_eq!(string(json(r#""plain""#)).unwrap(), "plain");
        assert_eq!(string(json(r#""a\u00e9\n""#)).unwrap(), "aé\n");
        assert_eq!(string(json(r#""\ud83d\ude00""#)).unwrap(), "😀");
        assert!(string(json(r#""x\ud800y""#)).unwrap().contains('\u{fffd}'));
        assert_eq!(string(json("12")), None);
        let members = members(r#"{"\ud800":1,"a":2}"#);
        assert_eq!(members.value("a").unwrap().get(), "2");
    }

    #[test]
    fn numbers_and_flags_are_read_from_strings_too() {
        for (json, number) in
            [("7", Some(7)), ("\" 7\"", Some(7)), ("7.5", None), ("\"\"", None), ("{}", None)]
        {
            assert_eq!(integer(super::tests::json(json)), number, "{json}");
        }
        for (json, yes) in [("\"Yes\"", Some(true)), ("0", Some(false)), ("true", Some(true)), ("null", None)]
        {
            assert_eq!(flag(super::tests::json(json)), yes, "{json}");
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
