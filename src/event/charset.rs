//! How the bytes of a gateway become text. JSON is UTF-8, and so is nearly all that gateways send; some write Chinese in GBK. They say
//! so in the Content-Type, or they do not: what is no UTF-8 is then read so. GB18030 is the newest edition of GBK and reads
//! all of it.

use std::borrow::Cow;

use bytes::Bytes;
use encoding_rs::{Encoding, GB18030, GBK};

/// What a `Content-Type` says of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8, or nothing that we know.
    Utf8,
    /// One of the Chinese standards. A short text may be UTF-8 by chance as well, so this is believed first.
    Gb18030,
}

impl Charset {
    /// Reads the value of a `Content-Type`.
    #[must_use]
    pub fn of(content_type: Option<&[u8]>) -> Charset {
        let text = content_type.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
        let charset = text.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        match charset.and_then(|label| Encoding::for_label(label.as_bytes())) {
            Some(encoding) if encoding == GBK || encoding == GB18030 => Charset::Gb18030,
            _ => Charset::Utf8,
        }
    }

    /// The body in UTF-8; as it is where it cannot be read.
    #[must_use]
    pub fn to_utf8(self, body: Bytes) -> Bytes {
        if self == Charset::Utf8 && std::str::from_utf8(&body).is_ok() {
            return body;
        }
        match GB18030.decode_without_bom_handling_and_without_replacement(&body) {
            Some(Cow::Owned(text)) => Bytes::from(text),
            // Nothing but ASCII, or neither the one nor the other.
            Some(Cow::Borrowed(_)) | None => body,
        }
    }
}

/// The text of a body as well as it can be read; for what matters only if it is ASCII.
#[must_use]
pub fn read(body: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(body) {
        Ok(text) => text.into(),
        Err(_not_utf8) => GB18030.decode_without_bom_handling(body).0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NI_HAO: &[u8] = b"\xc4\xe3\xba\xc3";

    fn to_utf8(charset: Charset, body: &[u8]) -> Bytes {
        charset.to_utf8(Bytes::copy_from_slice(body))
    }

    #[test]
    fn the_charset_is_what_the_content_type_names() {
        for (value, charset) in [
            ("application/json; charset=GBK", Charset::Gb18030),
            ("application/json;Charset=\"gb2312\"", Charset::Gb18030),
            ("text/plain; x=1; charset = gb18030", Charset::Gb18030),
            ("application/json; charset=UTF-8", Charset::Utf8),
            // Servers say that of their own accord.
            ("application/json; charset=ISO-8859-1", Charset::Utf8),
            ("application/json; charset=made-up", Charset::Utf8),
            ("application/json", Charset::Utf8),
            ("gbk", Charset::Utf8),
            ("", Charset::Utf8),
        ] {
            assert_eq!(Charset::of(Some(value.as_bytes())), charset, "{value}");
        }
        assert_eq!(Charset::of(Some(b"application/json; charset=\xff")), Charset::Utf8);
        assert_eq!(Charset::of(None), Charset::Utf8);
    }

    #[test]
    fn chinese_is_read_in_either_charset_and_utf8_is_left_alone() {
        for charset in [Charset::Utf8, Charset::Gb18030] {
            assert_eq!(to_utf8(charset, NI_HAO), "\u{4f60}\u{597d}");
            assert_eq!(to_utf8(charset, b"{}"), "{}");
            // Half a character.
            assert_eq!(to_utf8(charset, b"\"\xc4\""), b"\"\xc4\""[..]);
        }
        assert_eq!(to_utf8(Charset::Utf8, "\u{4f60}".as_bytes()), "\u{4f60}");
        // UTF-8 by chance; only the Content-Type can tell.
        assert_eq!(to_utf8(Charset::Gb18030, b"\xd1\xa7"), "\u{5b66}");
        assert_eq!(to_utf8(Charset::Utf8, b"\xd1\xa7"), b"\xd1\xa7"[..]);
    }

    #[test]
    fn what_cannot_be_read_leaves_the_rest_readable() {
        assert_eq!(read(b"{\"a\":\"\xc4\"}"), "{\"a\":\"\u{fffd}\"}");
        assert_eq!(read(b"{\"a\":\"\x81\x5c\"}"), "{\"a\":\"\u{4e57}\"}");
    }
}
