//! Numbers that span or share command dwords.

use zerocopy::little_endian::U32;

/// The two halves of a dword: low, high.
pub(crate) fn halves(dword: U32) -> (u16, u16) {
    let [a, b, c, d] = dword.to_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// Two dwords as one number.
pub(crate) fn wide(low: U32, high: U32) -> u64 {
    u64::from(high.get()) << 32 | u64::from(low.get())
}

/// A number as two dwords: low, high.
#[allow(clippy::cast_possible_truncation, reason = "each half is what is asked for")]
pub(crate) fn split(value: u64) -> (U32, U32) {
    (U32::new(value as u32), U32::new((value >> 32) as u32))
}
