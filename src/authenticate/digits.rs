//! Numbers as digits of tokens.

pub(super) const TIME_DIGITS: usize = 7;
pub(super) const MAC_DIGITS: usize = 22;
pub(super) const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^22 is more than 2^128, so 22 digits always suffice. They are taken ten at a time from what fits into 64 bits, since a
/// division of 128 bits costs as much as many of those.
pub(super) fn base62(mut number: u128) -> [u8; MAC_DIGITS] {
    const CHUNK: usize = 10;
    const CHUNK_VALUES: u128 = 62_u128.pow(CHUNK as u32);
    let mut digits = [b'0'; MAC_DIGITS];
    for chunk in digits.rchunks_mut(CHUNK) {
        write_digits(chunk, u64::try_from(number % CHUNK_VALUES).unwrap_or(0), BASE62);
        number /= CHUNK_VALUES;
    }
    digits
}

/// 36^7 seconds end in the year 4453.
pub(super) fn time_digits(seconds: u64) -> [u8; TIME_DIGITS] {
    let mut digits = [b'0'; TIME_DIGITS];
    write_digits(&mut digits, seconds, b"0123456789abcdefghijklmnopqrstuvwxyz");
    digits
}

/// Writes the last digits of a number, with leading zeros.
fn write_digits<const BASE: usize>(digits: &mut [u8], mut number: u64, alphabet: &[u8; BASE]) {
    for digit in digits.iter_mut().rev() {
        *digit = alphabet[usize::try_from(number % BASE as u64).unwrap_or(0)];
        number /= BASE as u64;
    }
}
