//! Bytes as text: two of `0-9a-f` for each.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The text of these bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

/// The same, at the end of a text.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn every_byte_takes_two_characters() {
        assert_eq!(hex(&[0, 1, 0xab, 255]), "0001abff");
        assert_eq!(hex(&[]), "");
    }
}
