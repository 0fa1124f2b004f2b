//! How the bytes of a gateway become text. JSON is UTF-8, and so is nearly all that gateways send; some write Chinese in GBK. They say
//! so in the Content-Type, or they do not, or say UTF-8 all the same. GB18030 is the newest edition of GBK and reads all of it, and
//! much of what is UTF-8 but for a character that was cut in half. So which of them a body is tells what most of it can be.
//!
//! Broken characters are replaced (U+FFFD): the gateway would repeat a body that is refused, with the same bytes, and sign its agent
//! out. Where one is of what JSON is made of, the body is none.

use std::borrow::Cow;

use bytes::Bytes;
use encoding_rs::{Encoding, GB18030, GBK, UTF_8};

/// What a `Content-Type` says of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Nothing that we know.
    Unsaid,
    /// UTF-8, which servers say of their own accord.
    Utf8,
    /// One of the Chinese standards. A short text may be UTF-8 by chance as well, so this is believed first.
    Gb18030,
}

/// A body in UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The body.
    pub body: Bytes,
    /// How many of its characters were broken and are replaced.
    pub broken: usize,
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
            Some(encoding) if encoding == UTF_8 => Charset::Utf8,
            _ => Charset::Unsaid,
        }
    }

    /// The body in UTF-8, as well as it can be read.
    #[must_use]
    pub fn to_utf8(self, body: Bytes) -> Text {
        if self != Charset::Gb18030 && std::str::from_utf8(&body).is_ok() {
            return Text { body, broken: 0 };
        }
        let (long, broken) = count_utf8(&body);
        let (gb18030, has_broken) = GB18030.decode_without_bom_handling(&body);
        let broken_in_gb18030 = if has_broken { count_replaced(&gb18030) } else { 0 };
        let is_utf8 = match self {
            Charset::Gb18030 => broken < broken_in_gb18030,
            // Two characters of it are often one of UTF-8 by chance, and one that is broken.
            _ if broken_in_gb18030 == 0 && is_usual_in_gb18030(&body) => false,
            // That it is said counts for one character.
            Charset::Utf8 => long + 1 >= broken || broken <= broken_in_gb18030,
            Charset::Unsaid => long >= broken || broken <= broken_in_gb18030,
        };
        let (text, broken) = match is_utf8 {
            true => (String::from_utf8_lossy(&body), broken),
            false => (gb18030, broken_in_gb18030),
        };
        match text {
            Cow::Owned(text) => Text { body: Bytes::from(text), broken },
            // It is in UTF-8 as it is.
            Cow::Borrowed(_) => Text { body, broken },
        }
    }
}

/// Of a body that is read as UTF-8: how many characters take three bytes or more, as all of Chinese do, and how many are broken. What is
/// GBK has hardly any of the first by chance, and very many of the second.
fn count_utf8(body: &[u8]) -> (usize, usize) {
    body.utf8_chunks().fold((0, 0), |(long, broken), chunk| {
        let more = chunk.valid().chars().filter(|c| c.len_utf8() >= 3).count();
        (long + more, broken + usize::from(!chunk.invalid().is_empty()))
    })
}

/// Of a body that GB18030 reads whole: whether most of its characters of two bytes are of the first level of GB 2312, as those of Chinese
/// texts are. Of UTF-8 that is read so hardly one in eight is.
fn is_usual_in_gb18030(body: &[u8]) -> bool {
    let (mut usual, mut all) = (0, 0);
    let mut rest = body;
    while let Some((first, behind)) = rest.split_first() {
        let length = match (first, behind.first()) {
            (..0x80, _) => 1,
            (_, Some(b'0'..=b'9')) => 4,
            (lead, trail) => {
                all += 1;
                let is_usual = matches!(lead, 0xb0..=0xd7) && matches!(trail, Some(0xa1..=0xfe));
                usual += usize::from(is_usual);
                2
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    usual * 2 > all
}

fn count_replaced(text: &str) -> usize {
    text.matches(char::REPLACEMENT_CHARACTER).count()
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

    fn to_utf8(charset: Charset, body: &[u8]) -> (String, usize) {
        let Text { body, broken } = charset.to_utf8(Bytes::copy_from_slice(body));
        (String::from_utf8(body.to_vec()).unwrap(), broken)
    }

    fn whole(text: &str) -> (String, usize) {
        (text.to_owned(), 0)
    }

    #[test]
    fn the_charset_is_what_the_content_type_names() {
        for (value, charset) in [
            ("application/json; charset=GBK", Charset::Gb18030),
            ("application/json;Charset=\"gb2312\"", Charset::Gb18030),
            ("text/plain; x=1; charset = gb18030", Charset::Gb18030),
            ("application/json; charset=UTF-8", Charset::Utf8),
            ("application/json;charset=\"utf8\"", Charset::Utf8),
            // Servers say that of their own accord.
            ("application/json; charset=ISO-8859-1", Charset::Unsaid),
            ("application/json; charset=made-up", Charset::Unsaid),
            ("application/json", Charset::Unsaid),
            ("gbk", Charset::Unsaid),
            ("", Charset::Unsaid),
        ] {
            assert_eq!(Charset::of(Some(value.as_bytes())), charset, "{value}");
        }
        assert_eq!(Charset::of(Some(b"application/json; charset=\xff")), Charset::Unsaid);
        assert_eq!(Charset::of(None), Charset::Unsaid);
    }

    #[test]
    fn chinese_is_read_in_either_charset_and_utf8_is_left_alone() {
        for charset in [Charset::Unsaid, Charset::Utf8, Charset::Gb18030] {
            assert_eq!(to_utf8(charset, NI_HAO), whole("\u{4f60}\u{597d}"));
            assert_eq!(to_utf8(charset, b"{}"), whole("{}"));
            // Two characters, of which the second is UTF-8 by chance.
            assert_eq!(to_utf8(charset, b"\"\xcd\xf5\xd0\xa1\""), whole("\"\u{738b}\u{5c0f}\""));
            // The end of one and all of the next are one of three bytes by chance.
            for (bytes, text) in [
                (&b"\xb5\xe7\xbb\xb0"[..], "\u{7535}\u{8bdd}"),
                (b"\xc0\xee\xbe\xb2", "\u{674e}\u{9759}"),
                (b"\xb4\xf2\xb5\xe7\xbb\xb0", "\u{6253}\u{7535}\u{8bdd}"),
            ] {
                for times in [1, 40] {
                    let body = bytes.repeat(times);
                    assert_eq!(to_utf8(charset, &body), whole(&text.repeat(times)), "{charset:?}");
                }
            }
        }
        for charset in [Charset::Unsaid, Charset::Utf8] {
            assert_eq!(to_utf8(charset, "\u{4f60}".as_bytes()), whole("\u{4f60}"));
            assert_eq!(to_utf8(charset, b"\xd1\xa7"), whole("\u{467}"));
        }
        // Only the Content-Type can tell.
        assert_eq!(to_utf8(Charset::Gb18030, b"\xd1\xa7"), whole("\u{5b66}"));
        // It says so, and it cannot be.
        assert_eq!(to_utf8(Charset::Gb18030, "\"\u{4f60}\"".as_bytes()), whole("\"\u{4f60}\""));
    }

    #[test]
    fn of_a_text_with_a_broken_character_the_rest_is_read() {
        let cut = |bytes: &[u8]| ["\"\u{738b}\u{5c0f}".as_bytes(), bytes, b"\""].concat();
        for charset in [Charset::Unsaid, Charset::Utf8] {
            for bytes in [&b"\xe4\xbd"[..], b"\xe4", b"\xff"] {
                let text = to_utf8(charset, &cut(bytes));
                assert_eq!(text, ("\"\u{738b}\u{5c0f}\u{fffd}\"".into(), 1), "{charset:?}");
            }
        }
        let long = "\u{7535}\u{8bdd}\u{6253}\u{738b}\u{5c0f}\u{674e}\u{9759}".repeat(9);
        for charset in [Charset::Unsaid, Charset::Utf8] {
            for cut in [1, 2] {
                let text = to_utf8(charset, &long.as_bytes()[..long.len() - cut]);
                let (rest, _) = long.split_at(long.len() - 3);
                assert_eq!(text, (format!("{rest}\u{fffd}"), 1), "{charset:?}");
            }
        }
        // In Latin 1, and a cut one with no other beside it.
        assert_eq!(to_utf8(Charset::Utf8, b"\"Andr\xe9\""), ("\"Andr\u{fffd}\"".into(), 1));
        assert_eq!(to_utf8(Charset::Utf8, b"\"M\xfcller\""), ("\"M\u{fffd}ller\"".into(), 1));
        assert_eq!(to_utf8(Charset::Utf8, b"\"\xe4\xbd\""), ("\"\u{fffd}\"".into(), 1));
        // GBK is cut too.
        for charset in [Charset::Unsaid, Charset::Utf8, Charset::Gb18030] {
            let text = to_utf8(charset, &[b"\"", NI_HAO, b"\xc4\""].concat());
            assert_eq!(text, ("\"\u{4f60}\u{597d}\u{fffd}\"".into(), 1), "{charset:?}");
            assert_eq!(to_utf8(charset, b"\"\xc4\""), ("\"\u{fffd}\"".into(), 1), "{charset:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_leaves_the_rest_readable() {
        assert_eq!(read(b"{\"a\":\"\xc4\"}"), "{\"a\":\"\u{fffd}\"}");
        assert_eq!(read(b"{\"a\":\"\x81\x5c\"}"), "{\"a\":\"\u{4e57}\"}");
    }
}
