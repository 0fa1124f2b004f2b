//! Bytes as text: two of `0-9a-f` for each.

/// The text of these bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
